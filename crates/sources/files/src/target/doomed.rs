//! Trees that go: names that the snapshot does not have, and all below them.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backup_core::EntryPath;
use backup_core::path::PathError;
use rustix::fs::{AtFlags, FileType, Mode, fstat, openat, statat};

use super::closed::{self, CHANGE, LOOK, is_closed, opened, set_mode};
use super::mirror::{Hand, LIST_BUFFER};
use super::spared::Spared;
use super::way::FOLDER;
use crate::findings::Findings;
use crate::handle::{DirHandle, HandleCache};
use crate::walk::listing::Listing;

/// Descriptors that deleting a tree keeps open.
const OPEN_FOLDERS: usize = 32;

/// A name in a folder, and its path.
pub(super) type Place<'a> = (&'a OwnedFd, &'a CStr, &'a EntryPath);

/// Lets a hand take a name and, if it is a folder, all below.
pub(super) fn delete_entry(
    place: Place<'_>,
    hand: &mut Hand<'_>,
    spared: &Spared,
    findings: &Findings,
) -> io::Result<()> {
    let (folder, name, path) = place;
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return delete_tree(place, hand, spared, findings).map(drop);
    }
    if spared.is_kept(folder, name, &stat) {
        spared.tell_kept(&stat, path, findings);
        return Ok(());
    }
    hand.take(folder, name, AtFlags::empty(), || Ok(path.clone()))
}

/// A folder on the way down a tree that goes.
struct Doomed {
    handle: Arc<DirHandle>,
    name: CString,
    listing: Listing,
    /// The first name that was not looked at yet.
    next: usize,
    /// Whether something in it stays, and so itself.
    stays: bool,
    /// The mode that it is to get back if it stays.
    closed: Option<u32>,
}

impl Doomed {
    /// It stays.
    fn leave(&self, handles: &HandleCache) -> io::Result<()> {
        let Some(mode) = self.closed else {
            return Ok(());
        };
        Ok(set_mode(&*handles.get(&self.handle)?, mode)?)
    }
}

/// Opens a folder on the way down. `None`: it stays.
fn enter_doomed(
    cache: &HandleCache,
    (above, name): (&Arc<DirHandle>, &CStr),
    here: impl Fn() -> EntryPath,
    deletes: bool,
    (spared, findings): (&Spared, &Findings),
    buffer: &mut [MaybeUninit<u8>],
) -> io::Result<Option<Doomed>> {
    let above_fd = cache.get(above)?;
    // What it is like is asked of the open folder, for another one could have been mounted on it since it was
    // listed.
    let (fd, stat) = if deletes {
        closed::open(&above_fd, name, |_| {})?
    } else {
        let fd = openat(&*above_fd, name, FOLDER, Mode::empty())?;
        let stat = fstat(&fd)?;
        (fd, stat)
    };
    let mode = stat.st_mode & 0o7777;
    let mut closed = (deletes && is_closed(&stat, LOOK)).then_some(mode);
    let stays = |fd: &OwnedFd| closed.map_or(Ok(()), |mode| set_mode(fd, mode));
    if spared.is_folder_kept(&fd, &stat) {
        spared.tell_kept(&stat, &here(), findings);
        stays(&fd)?;
        return Ok(None);
    }
    let listing = Listing::read(&fd, buffer).inspect_err(|_| _ = stays(&fd))?;
    if deletes && closed.is_none() && listing.len() > 0 && is_closed(&stat, CHANGE) {
        // If it cannot be opened up, the deleting itself will say so.
        closed = set_mode(&fd, opened(mode)).ok().map(|()| mode);
    }
    Ok(Some(Doomed {
        handle: cache.adopt(above, name, false, fd)?,
        name: name.to_owned(),
        listing,
        next: 0,
        stays: false,
        closed,
    }))
}

/// The path of a name in the last folder on the way down the tree at `top`; on no way, of the tree.
fn path_below(top: &EntryPath, way: &[Doomed], name: &CStr) -> Result<EntryPath, PathError> {
    let mut path = top.clone();
    if let Some((_, below)) = way.split_first() {
        for folder in below {
            path.push(folder.name.to_bytes())?;
        }
        path.push(name.to_bytes())?;
    }
    Ok(path)
}

/// Lets a hand take a folder and all below it, without recursion, following no link, entering nothing
/// that is mounted and nothing that is protected. `false`: something of it stays, and the folders
/// above that.
pub(super) fn delete_tree(
    (folder, name, path): Place<'_>,
    hand: &mut Hand<'_>,
    spared: &Spared,
    findings: &Findings,
) -> io::Result<bool> {
    let cache = HandleCache::with_capacity(OPEN_FOLDERS);
    let top = DirHandle::top(folder.try_clone()?)?;
    let deletes = hand.is_deleting();
    let mut buffer = vec![MaybeUninit::uninit(); LIST_BUFFER];
    let mut enter = |above: &Arc<DirHandle>, name: &CStr, way: &[Doomed]| {
        let here = || path_below(path, way, name).unwrap_or_else(|_| path.clone());
        let place = (above, name);
        enter_doomed(
            &cache,
            place,
            here,
            deletes,
            (spared, findings),
            &mut buffer,
        )
    };
    let Some(first) = enter(&top, name, &[])? else {
        return Ok(false);
    };
    let mut way = vec![first];
    let mut go = || {
        while let Some(current) = way.last_mut() {
            if current.next < current.listing.len() {
                let child = current.listing.name(current.next).to_owned();
                current.next += 1;
                let handle = Arc::clone(&current.handle);
                let fd = cache.get(&handle)?;
                let stat = statat(&*fd, &*child, AtFlags::SYMLINK_NOFOLLOW)?;
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let entered = if is_folder {
                    enter(&handle, &child, &way)?
                } else if spared.is_kept(&fd, &child, &stat) {
                    let here = path_below(path, &way, &child).map_err(io::Error::other)?;
                    spared.tell_kept(&stat, &here, findings);
                    None
                } else {
                    let flags = AtFlags::empty();
                    hand.take(&fd, &child, flags, || path_below(path, &way, &child))?;
                    continue;
                };
                match (entered, way.last_mut()) {
                    (Some(child), _) => way.push(child),
                    (None, Some(current)) => current.stays = true,
                    (None, None) => {}
                }
                continue;
            }
            let Some(done) = way.pop() else {
                break;
            };
            if done.stays {
                done.leave(&cache)?;
                match way.last_mut() {
                    Some(above) => above.stays = true,
                    None => return Ok(false),
                }
                continue;
            }
            let above = cache.get(way.last().map_or(&top, |above| &above.handle));
            let taken = above.and_then(|above| {
                hand.take(&above, &done.name, AtFlags::REMOVEDIR, || {
                    path_below(path, &way, &done.name)
                })
            });
            if taken.is_err() {
                let _ = done.leave(&cache);
            }
            taken?;
        }
        Ok(true)
    };
    let gone = go();
    // What is left of it when something failed.
    for left in way.iter().rev() {
        let _ = left.leave(&cache);
    }
    gone
}
