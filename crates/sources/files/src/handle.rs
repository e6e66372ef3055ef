//! Open directories, few at a time.
//!
//! Everything below a root is reached relative to the descriptor of its directory and never
//! through a path from `/`: that is faster, and no symbolic link that somebody puts in place of a
//! directory can lead the way elsewhere. Descriptors are scarce (1,024 by default), directories
//! on the way may be ten thousand deep, and files are opened long after their directory was
//! listed. So a [`DirHandle`] remembers how it was reached, a [`HandleCache`] keeps only the
//! latest ones open, and one that was closed is reached again, name by name from its nearest open
//! ancestor, and must then be the same directory as before.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::process::{Resource, getrlimit};

/// What tells one directory from another: device and inode.
pub(crate) type DirId = (u64, u64);

/// How a directory is opened only to reach what is in it.
const PASSAGE: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// So many directories on the way down to a closed one are kept open when it is opened again, for
/// those that follow will want them.
const KEPT_ON_THE_WAY: usize = 64;

/// A directory that was opened once and can be opened again.
#[derive(Debug)]
pub(crate) struct DirHandle {
    parent: Option<Arc<DirHandle>>,
    name: CString,
    /// Whether its name may be a symbolic link (above a root, or a root with a slash at its end).
    follow: bool,
    id: DirId,
    open: Mutex<Option<Arc<OwnedFd>>>,
    used: AtomicBool,
}

impl DirHandle {
    /// A directory that everything else is reached from; it stays open.
    pub(crate) fn top(fd: OwnedFd) -> io::Result<Arc<Self>> {
        let id = id_of(&fd)?;
        Ok(Arc::new(Self {
            parent: None,
            name: CString::default(),
            follow: false,
            id,
            open: Mutex::new(Some(Arc::new(fd))),
            used: AtomicBool::new(true),
        }))
    }

    pub(crate) fn id(&self) -> DirId {
        self.id
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<OwnedFd>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<Arc<OwnedFd>> {
        let fd = self.slot().clone();
        if fd.is_some() {
            self.used.store(true, Ordering::Relaxed);
        }
        fd
    }
}

/// A chain of ten thousand parents must not be dropped by recursion.
impl Drop for DirHandle {
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut handle) = next.and_then(Arc::into_inner) {
            next = handle.parent.take();
        }
    }
}

/// Device and inode of an open directory.
pub(crate) fn id_of(fd: &OwnedFd) -> io::Result<DirId> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Keeps the latest directories open.
#[derive(Debug)]
pub(crate) struct HandleCache {
    open: Mutex<VecDeque<Weak<DirHandle>>>,
    capacity: usize,
}

impl HandleCache {
    /// A cache that holds an eighth of the descriptors the process may have, at most 256.
    pub(crate) fn for_this_process() -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(1024);
        let eighth = usize::try_from(limit / 8).unwrap_or(usize::MAX);
        Self::with_capacity(eighth.clamp(8, 256))
    }

    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self {
            open: Mutex::new(VecDeque::with_capacity(capacity + 1)),
            capacity,
        }
    }

    /// Takes a directory that was just opened in `parent`.
    pub(crate) fn adopt(
        &self,
        parent: &Arc<DirHandle>,
        name: &CStr,
        follow: bool,
        fd: OwnedFd,
    ) -> io::Result<Arc<DirHandle>> {
        let id = id_of(&fd)?;
        let handle = Arc::new(DirHandle {
            parent: Some(Arc::clone(parent)),
            name: name.to_owned(),
            follow,
            id,
            open: Mutex::new(Some(Arc::new(fd))),
            used: AtomicBool::new(false),
        });
        self.note(&handle);
        Ok(handle)
    }

    /// The directory, opened again if it had to be closed.
    ///
    /// Fails with `NotFound` when another directory stands in its place now.
    pub(crate) fn get(&self, handle: &Arc<DirHandle>) -> io::Result<Arc<OwnedFd>> {
        if let Some(fd) = handle.current() {
            return Ok(fd);
        }
        let mut way = vec![Arc::clone(handle)];
        let mut fd = loop {
            let parent = way.last().and_then(|last| last.parent.clone());
            let Some(parent) = parent else {
                return Err(io::ErrorKind::NotFound.into());
            };
            if let Some(fd) = parent.current() {
                break fd;
            }
            way.push(parent);
        };
        while let Some(next) = way.pop() {
            let nofollow = if next.follow {
                OFlags::empty()
            } else {
                OFlags::NOFOLLOW
            };
            let opened = openat(&*fd, &*next.name, PASSAGE | nofollow, Mode::empty())?;
            if id_of(&opened)? != next.id {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "another directory has taken its place",
                ));
            }
            fd = Arc::new(opened);
            if way.len() < KEPT_ON_THE_WAY.min(self.capacity / 2) {
                *next.slot() = Some(Arc::clone(&fd));
                self.note(&next);
            }
        }
        Ok(fd)
    }

    /// Counts a directory as open and closes the one that was longest without use.
    fn note(&self, handle: &Arc<DirHandle>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.push_back(Arc::downgrade(handle));
        while open.len() > self.capacity {
            let Some(oldest) = open.pop_front() else {
                break;
            };
            let Some(oldest) = oldest.upgrade() else {
                continue;
            };
            if oldest.used.swap(false, Ordering::Relaxed) {
                open.push_back(Arc::downgrade(&oldest));
            } else {
                *oldest.slot() = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn child(cache: &HandleCache, parent: &Arc<DirHandle>, name: &CStr) -> Arc<DirHandle> {
        let fd = cache.get(parent).unwrap();
        let opened = openat(&*fd, name, PASSAGE, Mode::empty()).unwrap();
        cache.adopt(parent, name, false, opened).unwrap()
    }

    #[test]
    fn closed_directories_are_found_again_and_few_stay_open() {
        let temp = tempfile::tempdir().unwrap();
        let cache = HandleCache::with_capacity(8);
        let mut handles = vec![DirHandle::top(open(temp.path())).unwrap()];
        let mut path = temp.path().to_owned();
        for _ in 0..100 {
            path.push("d");
            std::fs::create_dir(&path).unwrap();
            handles.push(child(&cache, handles.last().unwrap(), c"d"));
        }
        let still_open = handles
            .iter()
            .filter(|handle| handle.slot().is_some())
            .count();
        assert!(still_open <= 9, "{still_open}");
        for handle in &handles {
            assert_eq!(id_of(&cache.get(handle).unwrap()).unwrap(), handle.id());
        }
    }

    #[test]
    fn a_directory_that_was_replaced_or_became_a_link_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        for (victim, link) in [("a", false), ("b", true)] {
            let cache = HandleCache::with_capacity(8);
            let top = DirHandle::top(open(temp.path())).unwrap();
            let path = temp.path().join(victim);
            std::fs::create_dir(&path).unwrap();
            let name = CString::new(victim).unwrap();
            let handle = child(&cache, &top, &name);
            *handle.slot() = None;
            std::fs::rename(&path, temp.path().join(format!("{victim}.old"))).unwrap();
            if link {
                std::os::unix::fs::symlink(format!("{victim}.old"), &path).unwrap();
            } else {
                std::fs::create_dir(&path).unwrap();
            }
            assert!(cache.get(&handle).is_err(), "link: {link}");
        }
    }

    #[test]
    fn a_chain_of_a_hundred_thousand_parents_is_dropped_without_recursion() {
        let temp = tempfile::tempdir().unwrap();
        let cache = HandleCache::with_capacity(8);
        let mut handle = DirHandle::top(open(temp.path())).unwrap();
        for _ in 0..100_000 {
            handle = cache
                .adopt(&handle, c".", false, open(temp.path()))
                .unwrap();
        }
    }
}
