//! Reading content: each chunk is opened once, and the files that need it are hashed behind it.
//!
//! Whoever walks the manifests adds files in order ([`Feeder::add`]) and waits where as much is in
//! hand as the limits allow. Fetch threads bring whole packs, in the order in which they are needed;
//! workers, one for each processor, hash what is ready of any file, hash packs, and open chunks, in
//! this order of preference: what frees memory comes first. SHA-256 of one file is serial, so while
//! one worker hashes a large file the others open the chunks behind.

mod feeder;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;

use backup_core::{ByteRange, ChunkId, ErrorKind, Event, FindingKind, OpContext, PackId, Stage};
use backup_format::layout;
use backup_format::seal::{BlobCodec, BlobKind};
use backup_integrity::digest::ContentDigest;
use tokio::runtime::Handle;

use super::budget::Budget;
use super::packs::{is_at, open_tail, wrong_name};
use super::parts::{Buffers, ChunkCheck, FileCheck, Pack, Plain, lock};
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, PackFacts, Place};
use crate::repository::{Repository, name};
use crate::store::cpu_threads;

pub(super) use feeder::Feeder;

/// Contents that are remembered as whole, so that the next snapshots need not hash them again.
const MOST_CONTENTS: usize = 1 << 20;

/// What became of a pack that was fetched whole.
#[derive(Debug, Default)]
pub(super) struct PackSeen {
    /// Whether it was fetched whole, or that was tried.
    pub(super) is_read: bool,
    /// Bytes that were read of it.
    pub(super) bytes: u64,
    /// What is wrong with it as a whole.
    pub(super) whole: Option<(FindingKind, String)>,
    /// Blobs that its end names.
    pub(super) named: u64,
    /// Blobs that its end names where the index has them too; only those can have been opened.
    pub(super) in_place: u64,
    /// Chunks of it that were opened, or were found not to open.
    pub(super) opened: u64,
}

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) packs: HashMap<PackId, PackSeen>,
    /// Chunks that were opened where the index has them, or do not open.
    pub(super) opened: HashSet<[u8; 16]>,
    pub(super) faults: Vec<(PackId, ChunkId, String)>,
    whole_contents: HashSet<[u8; 16]>,
    hurt: Vec<(String, String)>,
    files_left: usize,
}

#[derive(Debug, Default)]
struct Queue {
    files: VecDeque<Arc<FileCheck>>,
    packs: VecDeque<Arc<Pack>>,
    chunks: VecDeque<Arc<ChunkCheck>>,
    is_ended: bool,
}

enum Job {
    File(Arc<FileCheck>),
    Pack(Arc<Pack>),
    Chunk(Arc<ChunkCheck>),
}

/// Content that is being read.
pub(super) struct Contents<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    index: Arc<IndexSet>,
    /// Packs to be fetched whole on their first chunk.
    wanted: HashMap<PackId, PackFacts>,
    /// Opened chunks, packs, and files have budgets of their own: a file is held while it waits for
    /// room for its chunks, and a chunk while it waits for its pack.
    plain: Arc<Budget>,
    raw: Arc<Budget>,
    files: Arc<Budget>,
    buffers: Arc<Buffers>,
    queue: Mutex<Queue>,
    more: Condvar,
    known: Mutex<Known>,
    drained: Condvar,
    failure: Mutex<Option<EngineError>>,
    /// Stays when the failure was handed out.
    is_failed: AtomicBool,
    fetches: crossbeam_channel::Receiver<Arc<Pack>>,
    handle: Handle,
}

impl<'a> Contents<'a> {
    /// Runs `feed` on this thread with workers behind it; returns what it returned and what is
    /// known at the end. `packs` are fetched whole and hashed once a chunk of them is needed; of
    /// others only the ranges are fetched that files need.
    pub(super) fn read<T>(
        repo: &'a Repository,
        cx: &'a OpContext,
        packs: HashMap<PackId, PackFacts>,
        feed: impl FnOnce(&mut Feeder<'_, 'a>) -> Result<T>,
    ) -> Result<(T, Known)> {
        let (fetch, fetches) = crossbeam_channel::unbounded();
        // The rest is for what is not counted: buffers of the codecs, answers under way.
        let memory = cx.limits.memory_bytes;
        let contents = Self {
            repo,
            cx,
            index: repo.index(),
            wanted: packs,
            plain: Budget::new(memory / 3),
            raw: Budget::new(memory / 3),
            files: Budget::new(memory / 12),
            buffers: Arc::default(),
            queue: Mutex::default(),
            more: Condvar::new(),
            known: Mutex::default(),
            drained: Condvar::new(),
            failure: Mutex::default(),
            is_failed: AtomicBool::new(false),
            fetches,
            handle: Handle::current(),
        };
        let fed = std::thread::scope(|scope| {
            let mut feeder = Feeder::new(&contents, fetch);
            let fed = contents.spawn(scope).and_then(|()| feed(&mut feeder));
            drop(feeder);
            lock(&contents.queue).is_ended = true;
            contents.more.notify_all();
            fed
        });
        let fed = fed?;
        contents.check()?;
        let known = contents.known.into_inner();
        Ok((fed, known.unwrap_or_else(PoisonError::into_inner)))
    }

    fn spawn<'scope>(&'scope self, scope: &'scope Scope<'scope, '_>) -> Result<()> {
        for number in 0..cpu_threads(self.cx) {
            std::thread::Builder::new()
                .name(format!("verify-{number}"))
                .spawn_scoped(scope, || self.guard(|| self.work()))
                .map_err(EngineError::NoThread)?;
        }
        for number in 0..self.repo.connections(self.cx).clamp(1, 4) {
            std::thread::Builder::new()
                .name(format!("fetch-{number}"))
                .spawn_scoped(scope, || {
                    self.guard(|| {
                        for pack in &self.fetches {
                            let _ = self.fetch(&pack);
                        }
                    });
                })
                .map_err(EngineError::NoThread)?;
        }
        Ok(())
    }

    /// A thread that panics ends the run, not the wait for it.
    fn guard(&self, work: impl FnOnce()) {
        if catch_unwind(AssertUnwindSafe(work)).is_err() {
            self.fail(EngineError::Panicked("a verify worker"));
        }
    }

    fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
        self.is_failed.store(true, Ordering::Relaxed);
    }

    fn has_failed(&self) -> bool {
        self.cx.cancel.is_cancelled() || self.is_failed.load(Ordering::Relaxed)
    }

    fn check(&self) -> Result<()> {
        if let Some(error) = lock(&self.failure).take() {
            return Err(error);
        }
        // The failure itself is handed out once.
        if self.has_failed() {
            return Err(EngineError::Cancelled);
        }
        Ok(())
    }

    fn queue(&self, job: Job) {
        let mut queue = lock(&self.queue);
        match job {
            Job::File(file) => queue.files.push_back(file),
            Job::Pack(pack) => queue.packs.push_back(pack),
            Job::Chunk(chunk) => queue.chunks.push_back(chunk),
        }
        drop(queue);
        self.more.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(file) = queue.files.pop_front() {
                return Some(Job::File(file));
            }
            if let Some(pack) = queue.packs.pop_front() {
                return Some(Job::Pack(pack));
            }
            if let Some(chunk) = queue.chunks.pop_front() {
                return Some(Job::Chunk(chunk));
            }
            if queue.is_ended {
                return None;
            }
            queue = self
                .more
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn work(&self) {
        let mut codec = match BlobCodec::new(3) {
            Ok(codec) => codec,
            Err(error) => return self.fail(EngineError::Seal(error)),
        };
        while let Some(job) = self.next() {
            match job {
                Job::File(file) => {
                    if let Some(outcome) = file.advance(&|| self.has_failed()) {
                        self.finish(&file, outcome);
                    }
                }
                Job::Pack(pack) => self.pack(&pack),
                Job::Chunk(chunk) => self.chunk(&chunk, &mut codec),
            }
        }
    }

    fn finish(&self, file: &FileCheck, outcome: Result<(), String>) {
        let mut known = lock(&self.known);
        match outcome {
            Ok(()) if known.whole_contents.len() < MOST_CONTENTS => {
                known.whole_contents.insert(file.content);
            }
            Ok(()) => {}
            Err(why) => known.hurt.push((file.path.clone(), why)),
        }
        known.files_left = known.files_left.saturating_sub(1);
        if known.files_left == 0 {
            self.drained.notify_all();
        }
    }

    /// Fetches a pack, whoever comes first: the others wait for it.
    fn fetch<'p>(&self, pack: &'p Arc<Pack>) -> &'p Result<bytes::Bytes, (FindingKind, String)> {
        pack.bytes.get_or_init(|| {
            if self.has_failed() {
                return Err((FindingKind::Unreadable, "the run was stopped".into()));
            }
            let key = name(layout::pack(pack.id, pack.facts.is_meta))
                .map_err(|error| (FindingKind::Unreadable, error.to_string()))?;
            let got = self.repo.sink().get(self.cx, &key, pack.facts.whole());
            let got = self.handle.block_on(got).map_err(|error| {
                let kind = match error.kind {
                    ErrorKind::NotFound => FindingKind::Missing,
                    _ => FindingKind::Unreadable,
                };
                (kind, error.to_string())
            });
            self.queue(Job::Pack(pack.clone()));
            got
        })
    }

    /// Hashes a pack and looks what its end names.
    fn pack(&self, pack: &Arc<Pack>) {
        let (mut named, mut in_place) = (0, 0);
        let (read, whole) = match self.fetch(pack) {
            Err(fault) => (0, Some(fault.clone())),
            Ok(bytes) => {
                let is_whole = ContentDigest::of(bytes).0 == pack.id.0;
                let mut whole = (!is_whole).then(wrong_name);
                match open_tail(self.repo, bytes) {
                    Ok(blobs) => {
                        named = blobs.len() as u64;
                        let placed = blobs.iter().filter(|blob| {
                            let place = self.index.find(&blob.id);
                            blob.kind == BlobKind::Data
                                && place.is_some_and(|place| is_at(&place, pack.id, blob))
                        });
                        in_place = placed.count() as u64;
                    }
                    Err(fault) => {
                        whole.get_or_insert(fault);
                    }
                }
                (bytes.len() as u64, whole)
            }
        };
        let mut known = lock(&self.known);
        let seen = known.packs.entry(pack.id).or_default();
        (seen.is_read, seen.bytes, seen.whole) = (true, read, whole);
        (seen.named, seen.in_place) = (named, in_place);
        drop(known);
        self.cx.tell(Event::Advanced {
            stage: Stage::Verify,
            entries: 1,
            bytes: read,
        });
    }

    fn chunk(&self, chunk: &ChunkCheck, codec: &mut BlobCodec) {
        let opened = if self.has_failed() {
            Err("the run was stopped".to_owned())
        } else {
            self.open(chunk, codec)
        };
        lock(&chunk.pack).take();
        for file in chunk.done(opened) {
            if file.wake() {
                self.queue(Job::File(file));
            }
        }
    }

    fn open(&self, chunk: &ChunkCheck, codec: &mut BlobCodec) -> Result<Plain, String> {
        let place = &chunk.place;
        let (start, length) = (place.located.offset, place.located.stored);
        let pack = lock(&chunk.pack).clone();
        let sealed = match &pack {
            Some(pack) => {
                let bytes = match self.fetch(pack) {
                    Ok(bytes) => bytes,
                    Err((FindingKind::Missing, _)) => return self.elsewhere(chunk),
                    Err((_, why)) => return Err(why.clone()),
                };
                let start = start as usize;
                let span = start..start.saturating_add(length as usize).min(bytes.len());
                if span.start <= span.end {
                    bytes.slice(span)
                } else {
                    bytes::Bytes::new()
                }
            }
            None => match self.range(place) {
                Ok(bytes) => bytes,
                Err(EngineError::Missing { .. }) => return self.elsewhere(chunk),
                Err(error) if error.is_damage() => return Err(error.to_string()),
                Err(error) => {
                    let why = error.to_string();
                    self.fail(error);
                    return Err(why);
                }
            },
        };
        let mut plain = Plain {
            bytes: self.buffers.take(),
            home: self.buffers.clone(),
        };
        let (kind, raw) = (BlobKind::Data, place.located.raw as usize);
        let opened = self
            .repo
            .open_blob(codec, kind, &chunk.id, raw, &sealed, &mut plain.bytes);
        let why = match opened {
            Ok(()) => None,
            Err(error) if error.is_damage() => Some(error.to_string()),
            Err(error) => {
                let why = error.to_string();
                self.fail(error);
                return Err(why);
            }
        };
        let mut known = lock(&self.known);
        if known.opened.insert(chunk.id.prefix()) {
            known.packs.entry(place.pack).or_default().opened += 1;
            if let Some(why) = &why {
                known.faults.push((place.pack, chunk.id, why.clone()));
            }
        }
        why.map_or(Ok(plain), Err)
    }

    /// Looks for a chunk wherever it may be: its pack may have been deleted because it is in another.
    fn elsewhere(&self, chunk: &ChunkCheck) -> Result<Plain, String> {
        let read = self.repo.read_blob(self.cx, BlobKind::Data, &chunk.id);
        match self.handle.block_on(read) {
            Ok(bytes) => Ok(Plain {
                bytes,
                home: self.buffers.clone(),
            }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn range(&self, place: &Place) -> Result<bytes::Bytes> {
        let key = Repository::pack_key(place)?;
        let range = ByteRange::Span {
            offset: u64::from(place.located.offset),
            length: u64::from(place.located.stored),
        };
        let got = self
            .handle
            .block_on(self.repo.sink().get(self.cx, &key, range));
        got.map_err(|error| match error.kind {
            ErrorKind::NotFound => EngineError::Missing {
                object: key.to_string(),
                why: "it is not on the tier".into(),
            },
            _ => error.into(),
        })
    }
}
