//! Deleting what the snapshot does not have.
//!
//! It is done at the end, when it is known that everything could be restored. Until then the
//! paths of all entries are kept, in the order they came in, in a file that has no name; then
//! they and the sorted names of each folder are merged. So memory is bounded by the folders on
//! the way. Only a folder whose whole content the snapshot has loses anything.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use backup_core::{EntryKind, EntryPath, RestoreEntry, TargetError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, futimens,
    openat, statat, unlinkat,
};

use super::{Shared, error};
use crate::CONTENT_ATTR;
use crate::handle::{DirHandle, HandleCache};
use crate::walk::listing::Listing;

const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Room for what one call lists of a folder.
const LIST_BUFFER: usize = 32 << 10;

/// Descriptors that deleting a tree keeps open.
const OPEN_FOLDERS: usize = 32;

/// The paths of all entries, in order.
#[derive(Debug)]
pub(super) struct Spool(BufWriter<File>);

impl Spool {
    /// An empty one, in a file without a name in the target folder.
    pub(super) fn new(folder: &Path) -> io::Result<Self> {
        tempfile::tempfile_in(folder).map(|file| Self(BufWriter::new(file)))
    }

    pub(super) fn add(&mut self, entry: &RestoreEntry) -> io::Result<()> {
        let whole = entry.whole
            && entry.meta.kind == EntryKind::Directory
            && !entry.meta.attrs.contains_key(CONTENT_ATTR);
        let path = entry.path.as_stored();
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        self.0.write_all(&[u8::from(whole)])?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(path)
    }

    fn into_reader(self) -> io::Result<SpoolReader> {
        let mut file = self.0.into_inner().map_err(|cause| cause.into_error())?;
        file.rewind()?;
        Ok(SpoolReader(BufReader::new(file)))
    }
}

struct SpoolReader(BufReader<File>);

impl SpoolReader {
    /// The next path, and whether it is a folder whose whole content follows.
    fn next(&mut self) -> io::Result<Option<(EntryPath, bool)>> {
        let mut whole = [0];
        if self.0.read(&mut whole)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(length))];
        self.0.read_exact(&mut path)?;
        let path = EntryPath::from_stored(&path).map_err(io::Error::other)?;
        Ok(Some((path, whole == [1])))
    }
}

/// A folder whose names are compared with the snapshot's.
struct Compared {
    handle: Arc<DirHandle>,
    path: EntryPath,
    listing: Listing,
    /// The first name that was not compared yet.
    next: usize,
    before: Stat,
    deleted: u64,
}

struct Mirror<'a> {
    shared: &'a Shared,
    top: &'a Arc<DirHandle>,
    compared: Vec<Compared>,
    buffer: Vec<MaybeUninit<u8>>,
    deleted: u64,
}

/// Deletes, in every folder that the snapshot wholly has, the names that it does not have.
/// Returns how many entries went.
pub(super) fn delete_others(
    shared: &Shared,
    top: &Arc<DirHandle>,
    spool: Spool,
) -> Result<u64, TargetError> {
    let root = EntryPath::root();
    let fail = |cause| error("delete", &root, cause);
    let mut reader = spool.into_reader().map_err(fail)?;
    let buffer = vec![MaybeUninit::uninit(); LIST_BUFFER];
    let mut mirror = Mirror {
        shared,
        top,
        compared: Vec::new(),
        buffer,
        deleted: 0,
    };
    while let Some((path, whole)) = reader.next().map_err(fail)? {
        mirror.see(path, whole);
    }
    while mirror.leave() {}
    Ok(mirror.deleted)
}

impl Mirror<'_> {
    /// An entry of the snapshot.
    fn see(&mut self, path: EntryPath, whole: bool) {
        while self
            .compared
            .last()
            .is_some_and(|last| !path.starts_with(&last.path))
        {
            self.leave();
        }
        if let (Some(name), Some(parent)) = (path.name(), path.parent())
            && self.compared.last().is_some_and(|last| last.path == parent)
        {
            self.delete_before(Some(name));
        }
        if whole {
            match self.compare(path.clone()) {
                Ok(compared) => self.compared.push(compared),
                // It was left as it is: something else stands there.
                Err(cause) if cause.kind() == io::ErrorKind::NotADirectory => {}
                Err(cause) => self.shared.fail(&error("delete in", &path, cause)),
            }
        }
    }

    fn compare(&mut self, path: EntryPath) -> io::Result<Compared> {
        let (mut handle, known) = self.compared.last().map_or_else(
            || (Arc::clone(self.top), 0),
            |last| (Arc::clone(&last.handle), last.path.components().count()),
        );
        let handles = &self.shared.handles;
        let mut names = path.components().skip(known).peekable();
        if names.peek().is_none() {
            let fd = openat(&*handles.get(&handle)?, c".", FOLDER, Mode::empty())?;
            handle = handles.adopt(&handle, c".", false, fd)?;
        }
        for name in names {
            let name = CString::new(name).map_err(io::Error::other)?;
            let fd = openat(&*handles.get(&handle)?, &*name, FOLDER, Mode::empty())?;
            handle = handles.adopt(&handle, &name, false, fd)?;
        }
        let fd = openat(&*handles.get(&handle)?, c".", FOLDER, Mode::empty())?;
        let before = fstat(&fd)?;
        let listing = Listing::read(&fd, &mut self.buffer)?;
        Ok(Compared {
            handle,
            path,
            listing,
            next: 0,
            before,
            deleted: 0,
        })
    }

    /// Deletes the names of the current folder up to one that the snapshot has, or all the rest.
    fn delete_before(&mut self, name: Option<&[u8]>) {
        let Some(current) = self.compared.last_mut() else {
            return;
        };
        while current.next < current.listing.len() {
            let other = current.listing.name(current.next);
            if name.is_some_and(|name| other.to_bytes() > name) {
                return;
            }
            current.next += 1;
            if name == Some(other.to_bytes()) {
                return;
            }
            let gone = self
                .shared
                .handles
                .get(&current.handle)
                .and_then(|fd| delete_entry(&fd, other, current.before.st_dev));
            match gone {
                Ok(count) => current.deleted += count,
                Err(cause) => {
                    let path = current.path.join(other.to_bytes());
                    let path = path.unwrap_or_else(|_| current.path.clone());
                    self.shared.fail(&error("delete", &path, cause));
                }
            }
        }
    }

    /// Leaves the current folder: what is left of it is not in the snapshot. `false`: there is no
    /// current folder.
    fn leave(&mut self) -> bool {
        self.delete_before(None);
        let Some(done) = self.compared.pop() else {
            return false;
        };
        if done.deleted > 0 {
            self.deleted += done.deleted;
            // Deleting in it counted as its last change; the snapshot's time comes back.
            let kept = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: done.before.st_mtime,
                    tv_nsec: i64::try_from(done.before.st_mtime_nsec).unwrap_or(0),
                },
            };
            let set =
                self.shared.handles.get(&done.handle).and_then(|fd| {
                    Ok(futimens(openat(&*fd, c".", FOLDER, Mode::empty())?, &kept)?)
                });
            if let Err(cause) = set {
                self.shared
                    .fail(&error("set the time of", &done.path, cause));
            }
        }
        true
    }
}

/// Deletes a name and, if it is a folder, all below. Returns how many entries went.
fn delete_entry(folder: &OwnedFd, name: &CStr, device: u64) -> io::Result<u64> {
    let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if stat.st_dev != device {
        return Err(other_file_system());
    }
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return delete_tree(folder, name);
    }
    unlinkat(folder, name, AtFlags::empty())?;
    Ok(1)
}

fn other_file_system() -> io::Error {
    io::Error::other("another file system is mounted there")
}

/// Deletes a folder and all below it, without recursion, following no link and entering no other
/// file system. Returns how many entries went.
pub(super) fn delete_tree(folder: &OwnedFd, name: &CStr) -> io::Result<u64> {
    let cache = HandleCache::with_capacity(OPEN_FOLDERS);
    let top = DirHandle::top(folder.try_clone()?)?;
    let mut buffer = vec![MaybeUninit::uninit(); LIST_BUFFER];
    let mut deleted = 0;
    let enter = |above: &Arc<DirHandle>, name: &CStr, buffer: &mut [MaybeUninit<u8>]| {
        let fd = openat(&*cache.get(above)?, name, FOLDER, Mode::empty())?;
        let listing = Listing::read(&fd, buffer)?;
        let handle = cache.adopt(above, name, false, fd)?;
        if handle.id().0 != top.id().0 {
            return Err(other_file_system());
        }
        Ok::<_, io::Error>((handle, name.to_owned(), listing, 0_usize))
    };
    let mut way = vec![enter(&top, name, &mut buffer)?];
    while let Some((handle, _, listing, next)) = way.last_mut() {
        if *next < listing.len() {
            let child = listing.name(*next).to_owned();
            *next += 1;
            let fd = cache.get(handle)?;
            let stat = statat(&*fd, &*child, AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let handle = Arc::clone(handle);
                let below = enter(&handle, &child, &mut buffer)?;
                way.push(below);
            } else {
                unlinkat(&*fd, &*child, AtFlags::empty())?;
                deleted += 1;
            }
            continue;
        }
        let Some((_, name, ..)) = way.pop() else {
            break;
        };
        let above = way.last().map_or(&top, |(handle, ..)| handle);
        unlinkat(&*cache.get(above)?, &*name, AtFlags::REMOVEDIR)?;
        deleted += 1;
    }
    Ok(deleted)
}
