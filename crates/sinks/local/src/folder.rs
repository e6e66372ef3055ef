//! Folders: from the root down to the one in which an object stands, without following a link,
//! and making what is missing so that it lasts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use backup_core::ErrorKind;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use rustix::io::{Errno, retry_on_intr};

use crate::fault::{Fault, Outcome, Wrong};

/// Mode of the folders that we make.
pub(crate) const FOLDER_MODE: Mode = Mode::RWXU;
/// Mode of the files that we make.
pub(crate) const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::CLOEXEC);

/// Opens the root, links in its path included.
pub(crate) fn open_root(root: &Path) -> Outcome<OwnedFd> {
    match retry_on_intr(|| rustix::fs::openat(CWD, root, FOLDER, Mode::empty())) {
        Ok(folder) => Ok(folder),
        Err(Errno::NOENT) => Err(Fault::Ours(ErrorKind::NotFound, Wrong::NoRoot(root.into()))),
        Err(Errno::NOTDIR) => Err(Fault::Ours(
            ErrorKind::Invalid,
            Wrong::RootNotFolder(root.into()),
        )),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes the root and the folders above it as far as they are missing.
pub(crate) fn make_root(root: &Path) -> Outcome<()> {
    match make_one(root) {
        Err(Fault::System(error)) if error.kind() == std::io::ErrorKind::NotFound => {
            let above = root.parent().filter(|above| !above.as_os_str().is_empty());
            make_root(above.ok_or(Errno::NOENT)?)?;
            // Not from the start: where nobody can make folders (below /proc), one above that is
            // there does not help.
            match make_one(root) {
                Err(Fault::System(again)) if again.kind() == std::io::ErrorKind::NotFound => {
                    Err(Fault::Ours(ErrorKind::Denied, Wrong::NoPlace(root.into())))
                }
                made => made,
            }
        }
        made => made,
    }
}

/// Makes the root in a folder that is there.
fn make_one(root: &Path) -> Outcome<()> {
    match retry_on_intr(|| rustix::fs::mkdirat(CWD, root, FOLDER_MODE)) {
        Ok(()) => {
            let folder = open_root(root)?;
            restore_mode(&folder, FOLDER_MODE)?;
            sync(&folder)?;
            // A folder that may be passed but not read cannot be synced; nothing to be done.
            let above = root.parent().filter(|above| !above.as_os_str().is_empty());
            match open_root(above.unwrap_or(Path::new("."))) {
                Ok(above) => sync(&above),
                Err(_) => Ok(()),
            }
        }
        Err(Errno::EXIST) => open_root(root).map(drop),
        Err(Errno::NOTDIR) => Err(Fault::Ours(
            ErrorKind::Invalid,
            Wrong::RootNotFolder(root.into()),
        )),
        Err(errno) => Err(errno.into()),
    }
}

/// What a walk down does about folders that are not there.
pub(crate) trait OnTheWay {
    /// The folder `name` is missing in `above`: make it or fail.
    fn missing(&mut self, above: BorrowedFd<'_>, name: &str) -> Outcome<()>;
    /// The folder `path` (with a `/` at its end) is there, below `above`; maybe just made.
    fn passed(&mut self, above: BorrowedFd<'_>, path: &str) -> Outcome<()>;
}

/// Takes folders as they are.
pub(crate) struct AsTheyAre;

impl OnTheWay for AsTheyAre {
    fn missing(&mut self, _above: BorrowedFd<'_>, _name: &str) -> Outcome<()> {
        Err(Fault::absent())
    }

    fn passed(&mut self, _above: BorrowedFd<'_>, _path: &str) -> Outcome<()> {
        Ok(())
    }
}

/// Goes down from `root` along `path`: empty, or names that each end in `/`.
pub(crate) fn descend(root: OwnedFd, path: &str, way: &mut impl OnTheWay) -> Outcome<OwnedFd> {
    let mut folder = root;
    let mut end = 0;
    for part in path.split_inclusive('/') {
        end += part.len();
        let name = part.trim_end_matches('/');
        let here = path.get(..end).unwrap_or(path);
        let below = match open_below(&folder, name) {
            Err(Errno::NOENT) => {
                way.missing(folder.as_fd(), name)?;
                open_below(&folder, name)
            }
            found => found,
        };
        let below = match below {
            Ok(below) => below,
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(blocked(&folder, name, here)),
            Err(errno) => return Err(errno.into()),
        };
        way.passed(folder.as_fd(), here)?;
        folder = below;
    }
    Ok(folder)
}

/// Opens the folder `name` in `folder`; fails if it is a link.
pub(crate) fn open_below(folder: impl AsFd, name: &str) -> rustix::io::Result<OwnedFd> {
    let flags = FOLDER | OFlags::NOFOLLOW;
    retry_on_intr(|| rustix::fs::openat(&folder, name, flags, Mode::empty()))
}

fn blocked(folder: &OwnedFd, name: &str, path: &str) -> Fault {
    let path = path.trim_end_matches('/').to_owned();
    let wrong = match stat(folder.as_fd(), name).map(|stat| kind_of(&stat)) {
        Ok(FileType::Symlink) => Wrong::Link(path),
        Ok(FileType::RegularFile) => Wrong::BelowObject(path),
        Ok(_) => Wrong::Special(path),
        Err(errno) => return errno.into(),
    };
    Fault::Ours(ErrorKind::Invalid, wrong)
}

/// Makes a folder, with the wanted mode whatever the umask; does not make it last. One that is there
/// already is success.
pub(crate) fn make_below(above: BorrowedFd<'_>, name: &str) -> Outcome<()> {
    match retry_on_intr(|| rustix::fs::mkdirat(above, name, FOLDER_MODE)) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let made = stat(above, name)?;
    let missing = lacks(&made, FOLDER_MODE);
    if missing && kind_of(&made) == FileType::Directory {
        rustix::fs::chmodat(above, name, FOLDER_MODE, AtFlags::empty()).or_else(no_modes)?;
    }
    Ok(())
}

fn lacks(stat: &Stat, wanted: Mode) -> bool {
    !Mode::from_raw_mode(stat.st_mode).contains(wanted)
}

/// Gives back the bits of the mode that a umask took.
pub(crate) fn restore_mode(fd: impl AsFd, wanted: Mode) -> Outcome<()> {
    if lacks(&rustix::fs::fstat(&fd)?, wanted) {
        rustix::fs::fchmod(&fd, wanted).or_else(no_modes)?;
    }
    Ok(())
}

/// A file system without modes (FAT, many SMB mounts) shows the same ones for all files.
fn no_modes(errno: Errno) -> rustix::io::Result<()> {
    match errno {
        Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL => Ok(()),
        errno => Err(errno),
    }
}

/// What stands under `name`, a link itself if it is one.
pub(crate) fn stat(folder: BorrowedFd<'_>, name: &str) -> rustix::io::Result<Stat> {
    retry_on_intr(|| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW))
}

/// The type of what was asked for.
pub(crate) fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The size of what was asked for, in bytes.
pub(crate) fn size_of(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Makes the names in a folder last. Some network file systems cannot sync a folder, because a
/// change of theirs is on the server before it is acknowledged; they say that it is no valid
/// request.
pub(crate) fn sync(folder: impl AsFd) -> Outcome<()> {
    match retry_on_intr(|| rustix::fs::fsync(&folder)) {
        Ok(()) | Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
