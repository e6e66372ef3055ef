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
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{RestoreEntry, TargetError};
use rustix::fs::{Mode, OFlags, fstat, openat, syncfs};

use super::beside::Successor;
use super::meta::Object;
use super::replace::make_way;
use super::writer::before_old;
use super::{Shared, error};
use crate::handle::{DirHandle, DirId, HandleCache};

/// So many files wait before they take the place of others,
const MOST_WAITING: usize = 256;
/// or so many bytes of them.
const MOST_WAITING_BYTES: u64 = 256 << 20;
/// So many bytes are compared again at most if the power fails.
const SAFE_EVERY: u64 = 4 << 30;

/// Files that are whole and wait to take the place of others.
#[derive(Debug, Default)]
struct Waiting {
    files: Vec<(RestoreEntry, Successor, DirId)>,
    bytes: u64,
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
    pub(super) fn touches(&self, folder: &Arc<DirHandle>) {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        devices
            .entry(folder.id().0)
            .or_insert_with(|| Arc::clone(folder));
    }

    /// A file is whole that is to take the place of another.
    pub(super) fn add(
        &self,
        shared: &Shared,
        entry: &RestoreEntry,
        successor: Successor,
        id: DirId,
    ) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.files.push((entry.clone(), successor, id));
        waiting.bytes += entry.size;
        let is_full = waiting.files.len() >= MOST_WAITING || waiting.bytes >= MOST_WAITING_BYTES;
        drop(waiting);
        if is_full {
            self.flush(shared);
        }
    }

    /// Files that are whole take the places that they are for.
    pub(super) fn flush(&self, shared: &Shared) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Waiting { files, .. } = std::mem::take(&mut *waiting);
        drop(waiting);
        if files.is_empty() {
            return;
        }
        let synced = self.sync(shared);
        for (entry, successor, id) in files {
            let path = &entry.path;
            let fail = |cause| error("replace", path, cause);
            let taken = match &synced {
                Ok(()) => take(shared, &entry, &successor, id),
                Err(cause) => Err(fail(io::Error::new(cause.kind(), cause.to_string()))),
            };
            let is_taken = taken.is_ok();
            if let Err(cause) = taken {
                if successor.give_up().is_err() {
                    shared.unfinished.store(true, Ordering::Relaxed);
                }
                shared.fail(&cause);
            } else {
                shared.written.fetch_add(1, Ordering::Relaxed);
            }
            shared.links.settle(shared, path, is_taken.then_some(id));
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
    let (object, before) = (Object::Open(file.as_fd()), before_old(&stat));
    let (applier, findings) = (&shared.applier, &shared.findings);
    applier.apply(&object, &entry.path, &entry.meta, before, findings);
    if !successor.place.is_new {
        make_way(shared, &successor.place.spot().map_err(fail)?, entry)?;
    }
    successor.take().map_err(fail)?;
    shared.begun.settled_in_place(&entry.path);
    Ok(())
}

/// Writes the file system of a folder to its disk.
fn sync_around(handles: &HandleCache, folder: &Arc<DirHandle>) -> io::Result<()> {
    let folder = handles.get(folder)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = openat(&*folder, c".", flags, Mode::empty())?;
    Ok(syncfs(folder)?)
}
