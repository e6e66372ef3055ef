//! What stands in the place of an entry of another kind.
//!
//! It is there until its successor is whole beside it. A name that is given to something else by a
//! rename has it at once, and what had it is gone; only folders do not give way to that, nor does
//! anything to a folder. So such a thing is removed just before.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::Ordering;

use backup_core::{EntryKind, EntryPath, RestoreEntry, TargetError};
use rustix::fs::{AtFlags, FileType, Mode, Stat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::beside::make_beside;
use super::doomed::delete_tree;
use super::fate::Fate;
use super::journal::Stage;
use super::mirror::Hand;
use super::way::{FOLDER, Spot};
use super::writer::remove_left_in;
use super::{Shared, error, not_emptied, not_empty, refused};
use crate::walk::listing::Listing;

/// Whether what stands in the place of an entry may be removed, and nothing in it has to stay.
/// Removes nothing.
pub(super) fn may_clear_place(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    stat: &Stat,
) -> Result<(), TargetError> {
    let fate = shared.fate(stat, entry);
    if fate == Fate::Refused {
        return Err(refused(&entry.path));
    }
    shared.spared.may_clear(stat, fate, &entry.path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    let fail = |cause: io::Error| error("replace", &entry.path, cause);
    let folder = match openat(&*spot.folder, &*spot.name, FOLDER, Mode::empty()) {
        // An empty one can be removed unseen.
        Err(Errno::ACCESS) => return Ok(()),
        opened => opened.map_err(|cause| fail(cause.into()))?,
    };
    let mut buffer = [MaybeUninit::uninit(); 1 << 10];
    if Listing::read(&folder, &mut buffer).map_err(fail)?.len() == 0 {
        return Ok(());
    }
    if !shared.config.delete {
        return Err(not_empty(&entry.path));
    }
    let mut nothing = |_: &EntryPath| {};
    let mut hand = Hand::tells(&mut nothing);
    let place = (&*spot.folder, &*spot.name, &entry.path);
    match delete_tree(place, &mut hand, &shared.spared, &shared.findings) {
        Ok(true) => Ok(()),
        Ok(false) => Err(not_emptied(&entry.path)),
        Err(cause) => Err(fail(cause)),
    }
}

/// Removes what stands in the place of an entry, if that is allowed.
fn clear_place(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    stat: &Stat,
) -> Result<(), TargetError> {
    let fate = shared.fate(stat, entry);
    if fate == Fate::Refused {
        return Err(refused(&entry.path));
    }
    shared.spared.may_clear(stat, fate, &entry.path)?;
    let fail = |cause: Errno| error("replace", &entry.path, cause.into());
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return unlinkat(&*spot.folder, &*spot.name, AtFlags::empty()).map_err(fail);
    }
    match unlinkat(&*spot.folder, &*spot.name, AtFlags::REMOVEDIR) {
        Err(Errno::NOTEMPTY | Errno::EXIST) if shared.config.delete => {
            let mut hand = Hand::deletes();
            let (spared, findings) = (&shared.spared, &shared.findings);
            let place = (&*spot.folder, &*spot.name, &entry.path);
            let gone = delete_tree(place, &mut hand, spared, findings);
            // The folder itself is replaced; what was in it has no successor.
            let in_it = hand.taken() - u64::from(matches!(gone, Ok(true)));
            shared.deleted.fetch_add(in_it, Ordering::Relaxed);
            match gone {
                Ok(true) => Ok(()),
                Ok(false) => Err(not_emptied(&entry.path)),
                Err(cause) => Err(error("replace", &entry.path, cause)),
            }
        }
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(not_empty(&entry.path)),
        other => other.map_err(fail),
    }
}

/// Makes way for the successor of what stands in the place of an entry, which is whole: what no
/// rename replaces is removed.
pub(super) fn make_way(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<(), TargetError> {
    match statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder || entry.meta.kind == EntryKind::Directory {
                clear_place(shared, spot, entry, &stat)?;
            }
            Ok(())
        }
        Err(Errno::NOENT) => Ok(()),
        Err(cause) => Err(error("replace", &entry.path, cause.into())),
    }
}

/// Makes something that needs no content beside what stands in its place, and lets it take that.
pub(super) fn replace<T>(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    make: impl FnMut(&CStr) -> Result<T, Errno>,
) -> Result<T, TargetError> {
    let (begun, folder, path) = (&shared.begun, &*spot.folder, &entry.path);
    let fail = |cause: io::Error| error("replace", path, cause);
    for left in begun.take_left(path) {
        remove_left_in(shared, folder, &left).map_err(fail)?;
    }
    let (made, beside) = make_beside(begun, (path, &spot.name), Stage::Announced, make)
        .map_err(|cause| error("create", path, cause))?;
    let noted = statat(folder, &*beside, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(io::Error::from)
        .and_then(|stat| begun.made(path, beside.to_bytes(), stat.st_ino));
    let taken = noted
        .map_err(fail)
        .and_then(|()| make_way(shared, spot, entry))
        .and_then(|()| {
            let taken = renameat(folder, &*beside, folder, &*spot.name);
            taken.map_err(|cause| fail(cause.into()))
        });
    if taken.is_err() {
        let flags = if entry.meta.kind == EntryKind::Directory {
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let _ = unlinkat(folder, &*beside, flags);
    }
    begun.settled(path, beside.to_bytes());
    taken.map(|()| made)
}
