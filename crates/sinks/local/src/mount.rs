//! What the root is on: whether it is still the same folder, and what kind of file system it is.
//!
//! A mount point whose disk goes away in the middle of a run is an empty folder on the system's own disk. So the root is
//! looked at whenever it is opened: its inode and, where the file system tells it, when it was made. The number of the
//! file system is not asked for: network mounts that come back have another.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::fs::{AtFlags, StatxFlags};
use rustix::io::retry_on_intr;

use crate::fault::Outcome;

/// Numbers of kinds of file systems (statfs(2), "f_type") that show what another machine wrote after a while.
const NFS: i64 = 0x6969;
const SMB: i64 = 0x517B;
const SMB2: i64 = 0xFE53_4D42;
const CIFS: i64 = 0xFF53_4D42;
const CEPH: i64 = 0x00C3_6400;
const AFS: i64 = 0x5346_414F;
const PLAN9: i64 = 0x0102_1997;
const FUSE: i64 = 0x6573_5546;

/// A folder that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mount {
    inode: u64,
    /// When it was made, in seconds and nanoseconds, where that is known.
    made: Option<(i64, u32)>,
    kind: i64,
    /// Whether it is on a disk of this machine, and not on what the kernel only shows as a file system.
    is_on_disk: bool,
}

impl Mount {
    /// Of a folder that is open.
    pub(crate) fn of(folder: impl AsFd) -> Outcome<Self> {
        let wanted = StatxFlags::INO | StatxFlags::BTIME;
        let stat = retry_on_intr(|| rustix::fs::statx(&folder, "", AtFlags::EMPTY_PATH, wanted))?;
        let has_time = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        let system = retry_on_intr(|| rustix::fs::fstatfs(&folder))?;
        Ok(Self {
            inode: stat.stx_ino,
            made: has_time.then_some((stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)),
            kind: system.f_type,
            is_on_disk: stat.stx_dev_major != 0,
        })
    }

    /// Whether another folder is where it was.
    pub(crate) fn is_other(&self, found: &Self) -> bool {
        self.kind != found.kind
            // Some file systems give out inodes anew with each mount.
            || (self.kind != FUSE && self.inode != found.inode)
            || self.made != found.made
    }

    /// How long a listing may lag behind what another machine wrote. NFS keeps the attributes of a folder for up to
    /// 60 seconds (nfs(5), "acdirmax"), SMB for one (mount.cifs(8), "actimeo"); of the others little is known.
    pub(crate) fn usual_lag(&self) -> Duration {
        match self.kind {
            // exFAT and NTFS by programs.
            FUSE if self.is_on_disk => Duration::ZERO,
            NFS | CEPH | AFS | PLAN9 | FUSE => Duration::from_secs(60),
            SMB | SMB2 | CIFS => Duration::from_secs(2),
            _ => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Mount = Mount {
        inode: 2,
        made: Some((1, 0)),
        kind: 0xEF53,
        is_on_disk: true,
    };

    #[test]
    fn a_folder_that_is_another_is_told_by_each_of_its_marks() {
        assert!(!HERE.is_other(&HERE));
        assert!(HERE.is_other(&Mount { inode: 3, ..HERE }));
        assert!(HERE.is_other(&Mount { made: None, ..HERE }));
        assert!(HERE.is_other(&Mount { kind: NFS, ..HERE }));
        let fuse = Mount { kind: FUSE, ..HERE };
        assert!(!fuse.is_other(&Mount { inode: 3, ..fuse }));
    }

    #[test]
    fn what_others_write_to_a_network_shows_late() {
        assert_eq!(HERE.usual_lag(), Duration::ZERO);
        let lag = |kind| Mount { kind, ..HERE }.usual_lag().as_secs();
        assert_eq!((lag(NFS), lag(CIFS), lag(FUSE)), (60, 2, 0));
    }
}
