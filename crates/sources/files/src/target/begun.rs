//! Which marks are a restore's own: those set since a restore began that is not finished.
//!
//! The mode of [`super::meta::MARK_FILE`] alone would not do, since a user may give it to a file,
//! too. So a restore begins by making a file of a fixed name in its folder, and removes it when
//! nothing is left unfinished. What carries the mode counts as unfinished only if that file was
//! found there and the inode was changed after that file was: the time of an inode's change is set
//! by the kernel and by nobody else. So no entry costs anything, and no attribute is needed.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat,
    futimens, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::meta::{MARK_DIR, MARK_FILE};

/// The name of the file that says that a restore into its folder is not finished.
pub(super) const NAME: &std::ffi::CStr = c".backstay-unfinished";

/// Since when a restore into a folder has been under way.
#[derive(Debug)]
pub(super) struct Begun {
    since: (i64, u64),
    /// The file could not be made; then nothing can be taken up, and nothing is to be removed.
    absent: bool,
}

impl Begun {
    /// Takes up the restore that a file in the folder tells of, or makes that file.
    ///
    /// # Errors
    /// When something else stands under the name, or the file cannot be made.
    pub(super) fn at(top: &OwnedFd) -> io::Result<Self> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let before = fstat(top)?;
        let (stat, absent) = match openat(top, NAME, flags, Mode::from_raw_mode(0o600)) {
            Ok(file) => {
                keep_time(top, &before)?;
                (fstat(&file)?, false)
            }
            Err(Errno::EXIST) => (statat(top, NAME, AtFlags::SYMLINK_NOFOLLOW)?, false),
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOSPC | Errno::DQUOT) => {
                (before, true)
            }
            Err(cause) => return Err(cause.into()),
        };
        let is_ours = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_uid == geteuid().as_raw();
        if !absent && !is_ours {
            return Err(io::Error::other(
                "something else stands there under the name .backstay-unfinished; move it away",
            ));
        }
        let since = (stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self { since, absent })
    }

    /// Whether a file or folder was left unfinished by a restore.
    pub(super) fn is_unfinished(&self, stat: &Stat) -> bool {
        !self.absent && has_mark(stat) && (stat.st_ctime, stat.st_ctime_nsec) >= self.since
    }

    /// Says that nothing is left unfinished.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn done(&self, top: &OwnedFd) -> io::Result<()> {
        if self.absent {
            return Ok(());
        }
        let before = fstat(top)?;
        let mut gone = unlinkat(top, NAME, AtFlags::empty());
        if gone == Err(Errno::ACCESS) {
            // The folder got its mode already, and that forbids its owner to write.
            let mode = before.st_mode & 0o7777;
            fchmod(top, Mode::from_raw_mode(mode | 0o300))?;
            gone = unlinkat(top, NAME, AtFlags::empty());
            fchmod(top, Mode::from_raw_mode(mode))?;
        }
        match gone {
            Ok(()) => keep_time(top, &before),
            Err(Errno::NOENT) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }
}

/// Whether something has the mode of what is unfinished.
pub(super) fn has_mark(stat: &Stat) -> bool {
    let mark = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => MARK_FILE,
        FileType::Directory => MARK_DIR,
        _ => return false,
    };
    stat.st_mode & 0o7777 == mark
}

/// That the file came or went is no change of the folder that anybody asked for.
fn keep_time(top: &OwnedFd, before: &Stat) -> io::Result<()> {
    let kept = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or(0),
        },
    };
    match futimens(top, &kept) {
        // Only its owner may set it; the restore itself is not hindered by that.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}
