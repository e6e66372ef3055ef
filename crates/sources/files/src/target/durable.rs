//! What is restored is on the disk before it is relied on.
//!
//! A file system writes content when it likes, and after a power loss a file may be empty that has
//! its name, mode and time. So a new file takes the place of another only when it is on the disk;
//! a restore ends when all of it is; and one that is broken off keeps how much is safe. To write
//! each file by itself would take milliseconds for each, so they wait for each other.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backup_core::{EntryPath, RestoreEntry, TargetError};
use rustix::fs::{Mode, OFlags, fstat, openat, syncfs};

use super::beside::Successor;
use super::meta::Object;
use super::replace::make_way;
use super::writer::before_old;
use super::{Shared, error};
use crate::handle::{DirHandle, DirId, HandleCache};

/// So many files wait before they take the place of others,
const MOST_WAITING: usize = 256;
/// so many that were written where they are, whose notes take room on a disk that may be full,
const MOST_NOTED: usize = 64;
/// or so many bytes of them.
const MOST_WAITING_BYTES: u64 = 256 << 20;
/// So many bytes are compared again at most if the power fails.
const SAFE_EVERY: u64 = 4 << 30;

/// Files that are whole and wait to be on the disk.
#[derive(Debug, Default)]
struct Waiting {
    /// Those that are to take the place of others.
    files: Vec<(RestoreEntry, Successor, DirId)>,
    /// Those that were written where they are. Until then it stays noted that they are not whole.
    in_place: Vec<EntryPath>,
    bytes: u64,
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.files.len() >= MOST_WAITING
            || self.in_place.len() >= MOST_NOTED
            || self.bytes >= MOST_WAITING_BYTES
    }
}

/// What has been written and may not be on the disk.
#[derive(Debug, Default)]
pub(super) struct Durable {
    /// A folder on each file system that was written to.
    devices: Mutex<HashMap<u64, Arc<DirHandle>>>,
    waiting: Mutex<Waiting>,
    /// Bytes of finished files since the last time that all was on the disk.
    unsafe_bytes: AtomicU64,
}

impl Durable {
    /// Something is about to be made in a folder.
    pub(super) fn touches(&self, shared: &Shared, folder: &Arc<DirHandle>) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices.entry(folder.id().0).or_insert_with(|| {
            if folder.id().0 != shared.top.id().0 {
                shared.begun.spans();
            }
            Arc::clone(folder)
        });
    }

    /// A file is whole that is to take the place of another, or a place where nothing stands: then there is
    /// nothing to lose, and it need not wait if one that a power loss took is known.
    pub(super) fn add(
        &self,
        shared: &Shared,
        entry: &RestoreEntry,
        successor: Successor,
        id: DirId,
    ) {
        if successor.place.is_new && shared.begun.systems().of(id.0).modes {
            let taken = take(shared, entry, &successor, id);
            return end(shared, (entry, &successor, id), taken);
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.files.push((entry.clone(), successor, id));
        self.added(shared, waiting, entry.size);
    }

    /// A file is whole that was written where it is.
    pub(super) fn add_in_place(&self, shared: &Shared, entry: &RestoreEntry) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.in_place.push(entry.path.clone());
        self.added(shared, waiting, entry.size);
    }

    fn added(&self, shared: &Shared, mut waiting: MutexGuard<'_, Waiting>, size: u64) {
        waiting.bytes += size;
        let is_full = waiting.is_full();
        drop(waiting);
        if is_full {
            self.flush(shared);
        }
    }

    /// Files that are whole take the places that they are for, or are whole for everybody.
    pub(super) fn flush(&self, shared: &Shared) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting {
            files, in_place, ..
        } = std::mem::take(&mut *waiting);
        drop(waiting);
        if files.is_empty() && in_place.is_empty() {
            return;
        }
        let synced = self.sync(shared);
        if synced.is_ok() {
            for path in &in_place {
                shared.begun.settled_in_place(path);
            }
        }
        for (entry, successor, id) in files {
            let fail = |cause| error("replace", &entry.path, cause);
            let taken = match &synced {
                Ok(()) => take(shared, &entry, &successor, id),
                Err(cause) => Err(fail(io::Error::new(cause.kind(), cause.to_string()))),
            };
            end(shared, (&entry, &successor, id), taken);
        }
    }

    /// Counts what was finished; now and then all of it is written to the disk.
    pub(super) fn finished(&self, shared: &Shared, size: u64) {
        let before = self.unsafe_bytes.fetch_add(size, Ordering::Relaxed);
        if before < SAFE_EVERY && before.saturating_add(size) >= SAFE_EVERY {
            // The end of the restore tells of trouble.
            let _ = self.all_safe(shared);
        }
    }

    /// Writes everything to the disk, and keeps that it is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn all_safe(&self, shared: &Shared) -> io::Result<()> {
        let now = shared.begun.now();
        self.unsafe_bytes.store(0, Ordering::Relaxed);
        self.sync(shared)?;
        if let (Some(now), true) = (now, shared.config.sync) {
            shared.begun.is_safe_before(now);
        }
        Ok(())
    }

    fn sync(&self, shared: &Shared) -> io::Result<()> {
        if !shared.config.sync {
            return Ok(());
        }
        let devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        let folders: Vec<_> = devices.values().cloned().collect();
        drop(devices);
        folders
            .iter()
            .try_for_each(|folder| sync_around(&shared.handles, folder))
    }
}

/// Lets a file that is on the disk take the place that it is for.
fn take(
    shared: &Shared,
    entry: &RestoreEntry,
    successor: &Successor,
    id: DirId,
) -> Result<(), TargetError> {
    let fail = |cause: io::Error| error("replace", &entry.path, cause);
    let file = successor.open(id).map_err(fail)?;
    let stat = fstat(&file).map_err(|cause| fail(cause.into()))?;
    let mut before = before_old(&stat);
    (before.inherits, before.marked) = (successor.place.hands_on, true);
    let object = Object::Open(file.as_fd());
    let (applier, findings) = (&shared.applier, &shared.findings);
    applier.apply(&object, &entry.path, &entry.meta, before, findings);
    if !successor.place.is_new {
        make_way(shared, &successor.place.spot().map_err(fail)?, entry)?;
    }
    successor.take().map_err(fail)?;
    shared.begun.settled_in_place(&entry.path);
    Ok(())
}

/// What becomes of a file when it has taken its place, or could not.
fn end(
    shared: &Shared,
    (entry, successor, id): (&RestoreEntry, &Successor, DirId),
    taken: Result<(), TargetError>,
) {
    let is_taken = taken.is_ok();
    if let Err(cause) = taken {
        if successor.give_up().is_err() {
            shared.unfinished.store(true, Ordering::Relaxed);
        }
        shared.fail(&cause);
    } else {
        shared.written.fetch_add(1, Ordering::Relaxed);
    }
    (shared.links).settle(shared, &entry.path, is_taken.then_some(id));
}

/// Writes the file system of a folder to its disk.
fn sync_around(handles: &HandleCache, folder: &Arc<DirHandle>) -> io::Result<()> {
    let folder = handles.get(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(&*folder, c".", flags, Mode::empty())?;
    Ok(syncfs(folder)?)
}
