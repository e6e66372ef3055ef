//! Reading content: each chunk is opened once, and the files that need it are hashed behind it.
//!
//! Whoever walks the manifests adds files in order ([`Feeder::add`]) and waits where as much is in
//! hand as the limits allow. Fetch threads bring whole packs, in the order in which they are needed;
//! workers, one for each processor, hash what is ready of any file, sweep packs that are left behind
//! (their hash, and the chunks that no file asked for), and open chunks, in this order of preference:
//! what frees memory comes first; with nothing of these to do they read packs that are spare ([`spare`]).
//! SHA-256 of one file is serial, so while one worker hashes a large
//! file the others open the chunks behind. Small files go together, so that none of them costs a
//! turn of its own.

mod feeder;
mod spare;

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::Scope;

use backup_core::{
    ByteRange, ChunkId, ErrorKind, Event, FindingKind, OpContext, PackId, Stage, VerifyLevel,
};
use backup_format::layout;
use backup_format::seal::{BlobCodec, BlobKind};
use backup_integrity::digest::ContentDigest;
use tokio::runtime::Handle;

use self::spare::Spare;
use super::budget::{Budget, LOOK_UP};
use super::limit::Limit;
use super::memory::Memory;
use super::packs::{open_blobs, wrong_name};
use super::parts::{Buffers, ChunkCheck, Pack, Plain, Reading, Swept, Verdict, lock};
use crate::data_keys::SealedBlob;
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, PackFacts, Place};
use crate::repository::{Repository, name};
use crate::store::cpu_threads;

pub(super) use feeder::{Feeder, fingerprint};

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Packs that were fetched whole, or that was tried.
    pub(super) read: HashSet<PackId>,
    /// Bytes that were read, and blobs in the packs.
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    /// What is wrong with packs as a whole.
    pub(super) whole: Vec<(PackId, FindingKind, String)>,
    /// Chunks that do not open where the index has them.
    pub(super) faults: HashMap<(PackId, ChunkId), String>,
    /// Contents that are not what they should be.
    pub(super) wrong: HashMap<[u8; 16], String>,
    /// Contents that were hashed, and those that were given up.
    pub(super) hashed: u64,
    pub(super) given_up: u64,
    readings_left: usize,
}

#[derive(Debug, Default)]
struct Queue {
    readings: VecDeque<Arc<Reading>>,
    swept: VecDeque<Arc<Pack>>,
    chunks: VecDeque<Arc<ChunkCheck>>,
    is_ended: bool,
}

enum Job {
    Reading(Arc<Reading>),
    Sweep(Arc<Pack>),
    Chunk(Arc<ChunkCheck>),
}

/// What a reading works with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means<'a> {
    pub(super) repo: &'a Repository,
    pub(super) cx: &'a OpContext,
    pub(super) limit: &'a Limit,
    pub(super) memory: &'a Mutex<Memory>,
}

/// Content that is being read.
pub(super) struct Contents<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    limit: &'a Limit,
    memory: &'a Mutex<Memory>,
    index: Arc<IndexSet>,
    /// Packs to be fetched whole on their first chunk.
    wanted: HashMap<PackId, PackFacts>,
    spare: Spare,
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
        means: Means<'a>,
        packs: HashMap<PackId, PackFacts>,
        feed: impl FnOnce(&mut Feeder<'_, 'a>) -> Result<T>,
    ) -> Result<(T, Known)> {
        let Means {
            repo,
            cx,
            limit,
            memory,
        } = means;
        let (fetch, fetches) = crossbeam_channel::unbounded();
        // The rest is for what is not counted: buffers of the codecs, answers under way.
        let bytes = cx.limits.memory_bytes;
        let contents = Self {
            repo,
            cx,
            limit,
            memory,
            index: repo.index(),
            spare: Spare::new(&packs, limit.is_set()),
            wanted: packs,
            plain: Budget::new(bytes / 4),
            raw: Budget::new(bytes / 2),
            files: Budget::new(bytes / 12),
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
            let fed = contents.spawn(scope).and_then(|()| {
                let fed = feed(&mut feeder)?;
                feeder.end()?;
                Ok(fed)
            });
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
            Job::Reading(reading) => queue.readings.push_back(reading),
            Job::Sweep(pack) => queue.swept.push_back(pack),
            Job::Chunk(chunk) => queue.chunks.push_back(chunk),
        }
        drop(queue);
        self.more.notify_one();
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(reading) = queue.readings.pop_front() {
                return Some(Job::Reading(reading));
            }
            if let Some(pack) = queue.swept.pop_front() {
                return Some(Job::Sweep(pack));
            }
            if let Some(chunk) = queue.chunks.pop_front() {
                return Some(Job::Chunk(chunk));
            }
            if queue.is_ended {
                return None;
            }
            if let Some(pack) = self.spare_pack() {
                return Some(Job::Sweep(pack));
            }
            // Whether a pack is spare changes while the walk goes on.
            let waited = self.more.wait_timeout(queue, LOOK_UP);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A pack that nobody reads yet, if there is one that may be read now, and room for it.
    fn spare_pack(&self) -> Option<Arc<Pack>> {
        while !self.has_failed()
            && let Some(id) = self.spare.next()
        {
            let Some(facts) = self.wanted.get(&id).copied() else {
                continue;
            };
            let bytes = usize::try_from(facts.size).unwrap_or(usize::MAX);
            let Some(held) = self.raw.try_take(bytes) else {
                self.spare.give_back(id, facts.is_meta);
                return None;
            };
            if self.spare.take(id) {
                self.limit.add(facts.size);
                return Some(Arc::new(Pack::new(id, facts, held)));
            }
        }
        None
    }

    fn work(&self) {
        let mut codec = match BlobCodec::opener() {
            Ok(codec) => codec,
            Err(error) => return self.fail(EngineError::Seal(error)),
        };
        let (mut ended, mut plain) = (Vec::new(), Vec::new());
        while let Some(job) = self.next() {
            match job {
                Job::Reading(reading) => {
                    let is_over = || self.has_failed() || self.limit.is_over();
                    let is_done = reading.advance(&is_over, &mut ended);
                    self.finish(ended.drain(..), is_done);
                }
                Job::Sweep(pack) => self.sweep(&pack, &mut codec, &mut plain),
                Job::Chunk(chunk) => self.chunk(&chunk, &mut codec),
            }
        }
    }

    /// Takes up what became of contents, and whether their reading is done.
    fn finish(&self, ended: impl ExactSizeIterator<Item = ([u8; 16], Verdict)>, is_done: bool) {
        if ended.len() == 0 && !is_done {
            return;
        }
        let mut known = lock(&self.known);
        for (content, verdict) in ended {
            match verdict {
                Verdict::Whole => {
                    known.hashed += 1;
                    lock(self.memory).note_content(content, true);
                }
                Verdict::GivenUp => known.given_up += 1,
                Verdict::Wrong(why) => {
                    known.hashed += 1;
                    lock(self.memory).note_content(content, false);
                    known.wrong.insert(content, why);
                }
            }
        }
        if is_done {
            known.readings_left = known.readings_left.saturating_sub(1);
            if known.readings_left == 0 {
                self.drained.notify_all();
            }
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
            self.handle.block_on(got).map_err(|error| {
                let kind = match error.kind {
                    ErrorKind::NotFound => FindingKind::Missing,
                    _ => FindingKind::Unreadable,
                };
                let why = error.to_string();
                if error.kind == ErrorKind::Cold {
                    self.fail(error.into());
                }
                (kind, why)
            })
        })
    }

    /// Hashes a pack and opens the chunks of it that no file asks for.
    fn sweep(&self, pack: &Arc<Pack>, codec: &mut BlobCodec, plain: &mut Vec<u8>) {
        let mut swept = Swept::default();
        match self.fetch(pack) {
            Err(fault) => swept.whole = Some(fault.clone()),
            Ok(bytes) => {
                swept.bytes = bytes.len() as u64;
                let is_whole = ContentDigest::of(bytes).0 == pack.id.0;
                swept.whole = (!is_whole).then(wrong_name);
                let of = (self.repo, &*self.index);
                let is_claimed = |chunk: &ChunkId| pack.is_claimed(chunk);
                match open_blobs(of, (pack.id, pack.facts), bytes, codec, plain, is_claimed) {
                    Ok(mut opened) => {
                        swept.blobs = opened.named;
                        swept.is_closed = opened.closed > 0;
                        let whole = opened.take_whole();
                        swept.whole = swept.whole.or(whole);
                        for (chunk, why) in opened.faults {
                            pack.spoil();
                            lock(&self.known).faults.insert((pack.id, chunk), why);
                        }
                    }
                    Err(error) => self.fail(error),
                }
            }
        }
        self.cx.tell(Event::Advanced {
            stage: Stage::Verify,
            entries: 1,
            bytes: swept.bytes,
        });
        let _ = pack.swept.set(swept);
        self.release(pack);
    }

    /// Somebody has done his part of a pack: once everybody has, it is known what came of it.
    fn release(&self, pack: &Pack) {
        if !pack.release() || self.has_failed() {
            return;
        }
        let mut known = lock(&self.known);
        let mut is_good = !pack.is_bad();
        let mut level = VerifyLevel::FullRead;
        if let Some(swept) = pack.swept.get() {
            known.bytes += swept.bytes;
            known.chunks += swept.blobs;
            if swept.is_closed {
                level = VerifyLevel::Checksum;
            }
            if let Some((kind, why)) = &swept.whole {
                is_good = false;
                known.whole.push((pack.id, *kind, why.clone()));
            }
        }
        let mut memory = lock(self.memory);
        if is_good {
            memory.note_pack(&pack.id, level);
        } else {
            memory.note_bad_pack(&pack.id);
        }
    }

    fn chunk(&self, chunk: &ChunkCheck, codec: &mut BlobCodec) {
        let opened = if self.has_failed() {
            Err("the run was stopped".to_owned())
        } else {
            self.open(chunk, codec)
        };
        let pack = lock(&chunk.pack).take();
        for reading in chunk.done(opened) {
            if reading.wake() {
                self.queue(Job::Reading(reading));
            }
        }
        if let Some(pack) = pack {
            self.release(&pack);
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
        let blob = SealedBlob {
            kind: BlobKind::Data,
            id: &chunk.id,
            raw: place.located.raw as usize,
            sealed: &sealed,
        };
        let mut opened = self.repo.open_knowing(codec, &blob, &[], &mut plain.bytes);
        if matches!(&opened, Err(error) if error.is_damage()) {
            opened = Repository::pack_key(place).and_then(|pack| {
                let by_end = self
                    .repo
                    .open_by_end(self.cx, &pack, &blob, &mut plain.bytes);
                self.handle.block_on(by_end)
            });
        }
        let why = match opened {
            Ok(()) => None,
            Err(error) if error.is_damage() => Some(error.to_string()),
            Err(error) => {
                let why = error.to_string();
                self.fail(error);
                return Err(why);
            }
        };
        if let Some(why) = &why {
            if let Some(pack) = &pack {
                pack.spoil();
            }
            let mut known = lock(&self.known);
            known.faults.insert((place.pack, chunk.id), why.clone());
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
            Err(error) => {
                let why = error.to_string();
                if error.is_cold() {
                    self.fail(error);
                }
                Err(why)
            }
        }
    }

    fn range(&self, place: &Place) -> Result<bytes::Bytes> {
        let key = Repository::pack_key(place)?;
        let range = ByteRange::Span {
            offset: u64::from(place.located.offset),
            length: u64::from(place.located.stored),
        };
        let got = self.repo.sink().get(self.cx, &key, range);
        let got = self.handle.block_on(got);
        if let Ok(bytes) = &got {
            self.limit.add(bytes.len() as u64);
            lock(&self.known).bytes += bytes.len() as u64;
        }
        got.map_err(|error| match error.kind {
            ErrorKind::NotFound => EngineError::Missing {
                object: key.to_string(),
                why: "it is not on the tier".into(),
            },
            _ => error.into(),
        })
    }
}
