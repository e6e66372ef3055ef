//! Entries without content: symbolic links, devices, pipes, sockets.
//!
//! They are made under their names. Until they are finished their mode says so as that of a file does, and
//! of a link, which has none, the time of its making (see [`super::ours`]).

use std::ffi::CStr;
use std::os::fd::AsFd as _;
use std::sync::atomic::Ordering;

use backup_core::{EntryKind, EntryMeta, ErrorKind, RestoreEntry, TargetError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, makedev, mknodat, openat, readlinkat, statat,
    symlinkat,
};
use rustix::io::Errno;

use super::fate::{Fate, file_type};
use super::header::birth_at;
use super::keeps::not_held;
use super::meta::{Before, Object, mark_of};
use super::replace::{may_clear_place, replace};
use super::restore::skip;
use super::way::{Spot, c_name};
use super::writer::warn_of_mark;
use super::{Shared, conflict, error, invalid};

/// Makes an entry and sets its metadata; it has nothing to wait for.
pub(super) fn start(shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> Result<(), TargetError> {
    match create(spot, &spot.name, entry)? {
        Ok(()) => return finish_new(shared, spot, entry),
        Err(Errno::EXIST) => {}
        Err(cause) => return Err(not_made(shared, spot, entry, cause)),
    }
    let stat = statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|cause| error("create", &entry.path, cause.into()))?;
    let is_left = is_left(shared, spot, &stat, entry);
    if !is_left && shared.fate(&stat, entry) == Fate::Stays {
        warn_of_mark(shared, &stat, entry);
        skip(shared);
        return Ok(());
    }
    if is_left || is_same(spot, &stat, &entry.meta) {
        let count = if is_left {
            &shared.written
        } else {
            &shared.skipped
        };
        count.fetch_add(1, Ordering::Relaxed);
        let before = Before {
            owner: Some((stat.st_uid, stat.st_gid)),
            xattrs: true,
            inherits: is_left,
            marked: is_left,
        };
        let is_it = |found: &Stat| (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino);
        return finish(shared, spot, entry, before, is_it);
    }
    may_clear_place(shared, spot, entry, &stat)?;
    replace(shared, spot, entry, |beside| {
        // What it is was found to be valid above.
        create(spot, beside, entry).unwrap_or(Err(Errno::INVAL))
    })?;
    finish_new(shared, spot, entry)
}

/// Whether an earlier restore made what is there and was killed before it had finished it.
fn is_left(shared: &Shared, spot: &Spot, stat: &Stat, entry: &RestoreEntry) -> bool {
    let meta = &entry.meta;
    let owner = || shared.applier.wanted_owner(meta).map(|(user, _)| user);
    let born = || birth_at(&spot.folder, &spot.name, stat);
    (shared.begun).is_unfinished_node((stat, meta), owner, born) && is_same(spot, stat, meta)
}

/// Why it could not be made: a file system that has no modes has no such entries either.
fn not_made(shared: &Shared, spot: &Spot, entry: &RestoreEntry, cause: Errno) -> TargetError {
    let keeps_modes = shared.begun.systems().of(spot.handle.id().0).modes;
    if keeps_modes && cause == Errno::PERM && is_device(&entry.meta.kind) {
        let why = "only root may make a device node, and only with the capability CAP_MKNOD, which \
                   containers mostly lack: restore as root outside of them, or leave device nodes out \
                   (--exclude); those below /dev the system makes itself";
        return TargetError::new(ErrorKind::Denied, "create", entry.path.to_string())
            .because(why.to_owned());
    }
    if keeps_modes || cause == Errno::NOSPC {
        return error("create", &entry.path, cause.into());
    }
    not_held(&entry.path, "symbolic links, devices, pipes and sockets")
}

/// Sets the metadata of what was just made.
fn finish_new(shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> Result<(), TargetError> {
    shared.written.fetch_add(1, Ordering::Relaxed);
    let before = Before {
        owner: None,
        xattrs: spot.hands_on,
        inherits: spot.hands_on,
        marked: true,
    };
    // Whoever may write into the folder may have put something else in its place, such as a further
    // name of a file of somebody else.
    let is_it = |found: &Stat| {
        let kind = &entry.meta.kind;
        FileType::from_raw_mode(found.st_mode) == file_type(kind)
            && found.st_rdev == device(kind)
            && shared.begun.is_own(found)
    };
    finish(shared, spot, entry, before, is_it)
}

fn is_device(kind: &EntryKind) -> bool {
    matches!(
        kind,
        EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }
    )
}

fn device(kind: &EntryKind) -> u64 {
    match *kind {
        EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
            makedev(major, minor)
        }
        _ => 0,
    }
}

fn create(
    spot: &Spot,
    name: &CStr,
    entry: &RestoreEntry,
) -> Result<Result<(), Errno>, TargetError> {
    let kind = &entry.meta.kind;
    if let EntryKind::Symlink(target) = kind {
        let target = c_name(&entry.path, target)?;
        if target.is_empty() {
            return Err(invalid(&entry.path, "a link leads nowhere"));
        }
        return Ok(symlinkat(&*target, &*spot.folder, name));
    }
    let mode = Mode::from_raw_mode(mark_of(&entry.meta));
    Ok(mknodat(
        &*spot.folder,
        name,
        file_type(kind),
        mode,
        device(kind),
    ))
}

/// Whether what is there is what would be made.
pub(super) fn is_same(spot: &Spot, stat: &Stat, meta: &EntryMeta) -> bool {
    if FileType::from_raw_mode(stat.st_mode) != file_type(&meta.kind) {
        return false;
    }
    match &meta.kind {
        EntryKind::Symlink(target) => readlinkat(&*spot.folder, &*spot.name, Vec::new())
            .is_ok_and(|there| there.as_bytes() == target.as_slice()),
        kind => stat.st_rdev == device(kind),
    }
}

/// Whether what is there is a link that leads where the entry's does.
pub(super) fn is_same_link(spot: &Spot, stat: &Stat, meta: &EntryMeta) -> bool {
    matches!(meta.kind, EntryKind::Symlink(_)) && is_same(spot, stat, meta)
}

fn finish(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    before: Before,
    is_it: impl FnOnce(&Stat) -> bool,
) -> Result<(), TargetError> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let node = openat(&*spot.folder, &*spot.name, flags, Mode::empty())
        .map_err(|cause| error("open", &entry.path, cause.into()))?;
    let stat = fstat(&node).map_err(|cause| error("open", &entry.path, cause.into()))?;
    if !is_it(&stat) {
        return Err(conflict(&entry.path, "somebody else is changing it"));
    }
    let object = Object::Node {
        node: node.as_fd(),
        folder: spot.folder.as_fd(),
        name: &spot.name,
    };
    shared
        .applier
        .apply(&object, &entry.path, &entry.meta, before, &shared.findings);
    Ok(())
}
