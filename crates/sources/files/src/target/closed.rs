//! Folders whose mode forbids their owner what a restore does in them.
//!
//! Whoever owns a folder may change its mode. So one that belongs to who restores is opened up while
//! something is looked at or made in it, and gets at the end the mode that it had, or that of its entry.
//! Before a restore does so it is noted (see [`super::kept`]).

use std::ffi::CStr;
use std::os::fd::{AsFd as _, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, chmod, fchmod, fstat, openat, statat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::meta::through_proc;
use super::way::FOLDER;

/// What it takes to list a folder and to look at what is in it.
pub(super) const LOOK: u32 = 0o500;

/// What it takes to make something in it, and to take something away.
pub(super) const CHANGE: u32 = 0o300;

/// Whether a folder belongs to who restores and forbids them that. Root is forbidden nothing.
pub(super) fn is_closed(stat: &Stat, needed: u32) -> bool {
    let user = geteuid();
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
        && !user.is_root()
        && stat.st_uid == user.as_raw()
        && stat.st_mode & needed != needed
}

/// The mode that a folder has while it is opened up.
pub(super) const fn opened(mode: u32) -> u32 {
    mode & 0o7777 | 0o700
}

/// Gives an open folder a mode, also one that is open only as a reference to it.
pub(super) fn set_mode(folder: &OwnedFd, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode & 0o7777);
    match fchmod(folder, mode) {
        Err(Errno::BADF) => chmod(through_proc(folder.as_fd()), mode),
        set => set,
    }
}

/// Opens a folder to look into it. If it forbids that to who restores and belongs to them, it is opened up;
/// `before` hears of that before. Returns what it was like then.
pub(super) fn open(
    above: &OwnedFd,
    name: &CStr,
    before: impl FnOnce(&Stat),
) -> Result<(OwnedFd, Stat), Errno> {
    let denied = match openat(above, name, FOLDER, Mode::empty()) {
        Ok(fd) => {
            let stat = fstat(&fd)?;
            if is_closed(&stat, LOOK) {
                before(&stat);
                set_mode(&fd, opened(stat.st_mode))?;
            }
            return Ok((fd, stat));
        }
        Err(Errno::ACCESS) => Errno::ACCESS,
        Err(cause) => return Err(cause),
    };
    let reference = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(above, name, reference, Mode::empty())?;
    let stat = fstat(&folder)?;
    if !is_closed(&stat, LOOK) {
        return Err(denied);
    }
    before(&stat);
    set_mode(&folder, opened(stat.st_mode))?;
    Ok((openat(&folder, c".", FOLDER, Mode::empty())?, stat))
}

/// Whether what has a name is a folder that could be looked into if it was opened up.
pub(super) fn is_closed_at(above: &OwnedFd, name: &CStr) -> bool {
    statat(above, name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| is_closed(&stat, LOOK))
}
