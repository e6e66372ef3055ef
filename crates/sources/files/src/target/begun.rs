//! Which marks are a restore's own: those set since a restore began that is not finished.
//!
//! The mode of [`super::meta::MARK_FILE`] alone would not do, since a user may give it to a file,
//! too. So a restore begins by making a file of a fixed name in its folder, and removes it when
//! nothing is left unfinished. What carries the mode counts as unfinished only if that file was
//! found there and the inode was changed after that file was: the time of an inode's change is set
//! by the kernel and by nobody else. So no entry costs anything, and no attribute is needed.
//!
//! The folder of the restore itself is changed by the making of that file, so its own mode and time
//! say nothing: whether a restore made it is kept in the mode of the file.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fchmod, fstat,
    futimens, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::meta::{MARK_DIR, MARK_FILE};
use crate::walk::listing::Listing;

/// The name of the file that says that a restore into its folder is not finished.
pub(super) const NAME: &std::ffi::CStr = c".backstay-unfinished";

/// Since when a restore into a folder has been under way.
#[derive(Debug)]
pub(super) struct Begun {
    since: (i64, u64),
    /// Whether a restore made the folder and has not finished it.
    made: bool,
    /// The file could not be made; then nothing can be taken up, and nothing is to be removed.
    absent: bool,
}

impl Begun {
    /// Takes up the restore that a file in the folder tells of, or makes that file, which keeps
    /// whether the folder was `made` just before.
    ///
    /// # Errors
    /// When something else stands under the name, or the file cannot be made.
    pub(super) fn at(top: &OwnedFd, made: bool) -> io::Result<Self> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let before = fstat(top)?;
        let made = made || is_new(top, &before)?;
        let mode = if made { MARK_FILE } else { 0o600 };
        let (stat, absent) = match openat(top, NAME, flags, Mode::from_raw_mode(mode)) {
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
        // A folder that has another mode by now was finished, or its owner gave it that.
        let made = made || !absent && has_mark(&stat) && has_mark(&before);
        let since = (stat.st_mtime, stat.st_mtime_nsec);
        Ok(Self {
            since,
            made,
            absent,
        })
    }

    /// Whether a restore made the folder itself and has not finished it.
    pub(super) const fn has_made_folder(&self) -> bool {
        self.made
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
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_mode & 0o7777 == MARK_FILE,
        // A new folder has the setgid bit of the one that it is made in.
        FileType::Directory => stat.st_mode & 0o5777 == MARK_DIR,
        _ => false,
    }
}

/// Whether a folder was made as one that is unfinished and not touched since: a restore was killed
/// before it could make its file in it. A mode that somebody gave it later would be a change.
fn is_new(folder: &OwnedFd, stat: &Stat) -> io::Result<bool> {
    let is_untouched = (stat.st_mtime, stat.st_mtime_nsec) == (stat.st_ctime, stat.st_ctime_nsec);
    if !has_mark(stat) || !is_untouched || stat.st_uid != geteuid().as_raw() {
        return Ok(false);
    }
    let mut buffer = [MaybeUninit::uninit(); 1 << 10];
    let folder = openat(
        folder,
        c".",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(Listing::read(&folder, &mut buffer)?.len() == 0)
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
