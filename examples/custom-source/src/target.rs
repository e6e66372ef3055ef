//! The way back: buckets are put together aside and take the store's place all at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use backstay::core::{
    EntryKind, EntryOutcome, EntryPath, EntryWriter, ErrorKind, Finding, FindingKind, OpContext,
    Outcome, PositionalWriter, Restore, RestoreEntry, RestorePlan, RestoreReport, RestoreRequest,
    SizeHint, Target, TargetError,
};

use crate::store::{Buckets, KvStore, decode_bucket};

/// Largest bucket that is restored, in bytes: it is put together in memory.
const MAX_BUCKET: u64 = 1 << 30;

/// Restores into a [`KvStore`]. What the store held is gone afterwards, and only then.
#[derive(Debug)]
pub struct KvTarget {
    store: KvStore,
}

impl KvTarget {
    /// A target that restores into this store.
    #[must_use]
    pub const fn new(store: KvStore) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Target for KvTarget {
    async fn plan(
        &self,
        _cx: &OpContext,
        request: &RestoreRequest,
    ) -> Result<RestorePlan, TargetError> {
        let at_least = request.snapshot.stats.bytes;
        Ok(RestorePlan {
            into: "the store of this process".into(),
            total: SizeHint {
                at_least,
                at_most: None,
            },
            notes: Vec::new(),
        })
    }

    async fn begin(
        &self,
        _cx: &OpContext,
        _plan: RestorePlan,
    ) -> Result<Box<dyn Restore>, TargetError> {
        Ok(Box::new(KvRestore {
            store: self.store.clone(),
            open: Mutex::default(),
            ready: Mutex::default(),
            failed: Mutex::default(),
        }))
    }
}

/// The bytes of one bucket on their way.
#[derive(Debug)]
struct Buffer {
    size: u64,
    bytes: Mutex<Vec<u8>>,
}

impl PositionalWriter for Buffer {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            return Err(TargetError::new(
                ErrorKind::Invalid,
                "write",
                "behind the bucket's end",
            ));
        }
        // Both fit: the size is below MAX_BUCKET.
        let (from, to) = (offset as usize, end as usize);
        let mut held = lock(&self.bytes);
        if held.len() < to {
            held.resize(to, 0);
        }
        held[from..to].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, _offset: u64, _buffer: &mut [u8]) -> Result<usize, TargetError> {
        Ok(0)
    }

    // Nothing is there before a restore that could be kept.
    fn keep(&self, _range: std::ops::Range<u64>) {}

    fn had_content(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct KvRestore {
    store: KvStore,
    open: Mutex<BTreeMap<EntryPath, Arc<Buffer>>>,
    ready: Mutex<Buckets>,
    failed: Mutex<Vec<Finding>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Restore for KvRestore {
    fn start(&self, _cx: &OpContext, entry: &RestoreEntry) -> Result<EntryWriter, TargetError> {
        let refuse = |kind| Err(TargetError::new(kind, "restore", entry.path.to_string()));
        if entry.meta.kind != EntryKind::Stream {
            return refuse(ErrorKind::Unsupported);
        }
        if entry.size > MAX_BUCKET {
            return refuse(ErrorKind::NoSpace);
        }
        let buffer = Arc::new(Buffer {
            size: entry.size,
            bytes: Mutex::default(),
        });
        lock(&self.open).insert(entry.path.clone(), buffer.clone());
        Ok(EntryWriter::Positional(buffer))
    }

    fn finish(
        &self,
        _cx: &OpContext,
        entry: &RestoreEntry,
        _writer: EntryWriter,
        outcome: EntryOutcome,
    ) -> Result<(), TargetError> {
        let buffer = lock(&self.open).remove(&entry.path);
        let fail = |kind| TargetError::new(kind, "restore", entry.path.to_string());
        let Some(buffer) = buffer.filter(|_| outcome == EntryOutcome::Whole) else {
            let why = "it is not whole";
            lock(&self.failed).push(Finding::entry(FindingKind::Damaged, &entry.path, why));
            return Ok(());
        };
        let pairs = decode_bucket(&lock(&buffer.bytes))
            .map_err(|error| fail(ErrorKind::Damaged).because(error))?;
        let name = String::from_utf8(entry.path.as_stored().to_vec())
            .map_err(|error| fail(ErrorKind::Invalid).because(error))?;
        lock(&self.ready).insert(name, pairs);
        Ok(())
    }

    async fn close(
        self: Box<Self>,
        _cx: &OpContext,
        outcome: Outcome,
    ) -> Result<RestoreReport, TargetError> {
        let findings = std::mem::take(&mut *lock(&self.failed));
        let ready = std::mem::take(&mut *lock(&self.ready));
        // Half a store in the place of a whole one helps nobody.
        if outcome != Outcome::Committed || !findings.is_empty() {
            let skipped = ready.len() as u64;
            return Ok(RestoreReport {
                skipped,
                findings,
                ..RestoreReport::default()
            });
        }
        let written = ready.len() as u64;
        self.store.replace(ready);
        Ok(RestoreReport {
            written,
            ..RestoreReport::default()
        })
    }
}
