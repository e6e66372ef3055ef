//! Handing files to those who read their content, no more at once than the limits allow.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, PoisonError, Weak};

use backup_core::ChunkId;
use backup_format::extent::{Extent, Extents};

use super::super::budget::{Held, LOOK_UP};
use super::super::parts::{ChunkCheck, Pack, Reading, Step, lock};
use super::{Contents, Job};
use crate::error::{EngineError, Result};
use crate::index_set::Place;

/// What a reading in hand is counted for, beside its chunks and steps.
const FILE_BYTES: usize = 1 << 10;
/// Contents that are known to have been added before it is known what they are: beyond, one may be
/// hashed twice.
const MOST_ADDED: usize = 1 << 16;
/// Chunks that are kept for the extents that follow, as far as memory goes: a change in the middle of
/// a chunk leaves two extents of it with another between them, and what each backup changed lies in
/// chunks of its own.
const RECENT: usize = 32;

/// Files up to this size go together.
const SMALL: u64 = 256 << 10;
/// Small files that go together at most, and their bytes.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 1 << 20;

/// Adds files; there is one.
pub(in crate::verify) struct Feeder<'c, 'a> {
    contents: &'c Contents<'a>,
    fetch: crossbeam_channel::Sender<Arc<Pack>>,
    chunks: VecDeque<Arc<ChunkCheck>>,
    packs: VecDeque<Arc<Pack>>,
    /// Packs that are being swept, whose room will be free.
    leaving: Vec<Weak<Pack>>,
    /// Chunks that were let go and that files still need.
    chunks_leaving: Vec<Weak<ChunkCheck>>,
    /// Small files that wait for others, their number and bytes.
    batch: (VecDeque<Step>, usize, u64),
    /// Contents that were added, so that none is hashed twice.
    added: HashSet<[u8; 16]>,
}

impl<'c, 'a> Feeder<'c, 'a> {
    pub(super) fn new(
        contents: &'c Contents<'a>,
        fetch: crossbeam_channel::Sender<Arc<Pack>>,
    ) -> Self {
        Self {
            contents,
            fetch,
            chunks: VecDeque::new(),
            packs: VecDeque::new(),
            leaving: Vec::new(),
            chunks_leaving: Vec::new(),
            batch: (VecDeque::new(), 0, 0),
            added: HashSet::new(),
        }
    }

    /// Adds a file whose chunks are all in the index, but for one that was found whole before, was
    /// added before, or is more than this run may hash; returns what was left for another run.
    pub(in crate::verify) fn add(
        &mut self,
        extents: &Extents,
        wanted: [u8; 32],
    ) -> Result<Option<[u8; 16]>> {
        let content = fingerprint(extents, &wanted);
        self.contents.spare.meet(extents.length());
        if self.added.contains(&content) {
            return Ok(None);
        }
        let mut memory = lock(self.contents.memory);
        if memory.is_whole(&content) {
            return Ok(None);
        }
        // What was wrong is told of again, whatever else there is to do.
        let (is_wrong, has_room) = (memory.is_wrong(&content), memory.has_room());
        let (limit, size) = (self.contents.limit, extents.length());
        // One that earlier runs left has its turn in each, or what is larger than the budget never would.
        let is_due = !is_wrong && !limit.is_over() && memory.is_due(&content);
        if is_due {
            limit.add_content(size);
        } else if !is_wrong && !limit.takes_content(size, has_room) {
            memory.note_left(content);
            return Ok(Some(content));
        }
        drop(memory);
        self.contents.spare.hash(size);
        if self.added.len() >= MOST_ADDED {
            self.added.clear();
        }
        self.added.insert(content);
        let data = extents.as_slice().iter();
        let chunks = data.filter(|extent| matches!(extent, Extent::Data { .. }));
        // What waits for others must not hold several chunks: there may be room for one alone.
        if extents.length() <= SMALL && chunks.take(2).count() < 2 {
            self.add_small(extents, wanted, content)?;
        } else {
            self.add_large(extents, wanted, content)?;
        }
        Ok(None)
    }

    fn add_small(&mut self, extents: &Extents, wanted: [u8; 32], content: [u8; 16]) -> Result<()> {
        let mut steps = VecDeque::with_capacity(extents.as_slice().len() + 1);
        for extent in extents.as_slice() {
            steps.push_back(self.step(extent)?);
        }
        steps.push_back(Step::End { wanted, content });
        let (batch, files, bytes) = &mut self.batch;
        batch.append(&mut steps);
        (*files, *bytes) = (*files + 1, *bytes + extents.length());
        if *files >= BATCH || *bytes >= BATCH_BYTES {
            self.send_batch()?;
        }
        Ok(())
    }

    /// Hands the small files over that wait for others.
    fn send_batch(&mut self) -> Result<()> {
        let (steps, ..) = std::mem::take(&mut self.batch);
        if steps.is_empty() {
            return Ok(());
        }
        let held = self.hold_reading(FILE_BYTES + steps.len() * size_of::<Step>())?;
        lock(&self.contents.known).readings_left += 1;
        let reading = Arc::new(Reading::new(steps, true, held));
        self.contents.queue(Job::Reading(reading));
        Ok(())
    }

    fn add_large(&mut self, extents: &Extents, wanted: [u8; 32], content: [u8; 16]) -> Result<()> {
        let held = self.hold_reading(FILE_BYTES)?;
        let reading = Arc::new(Reading::new(VecDeque::new(), false, held));
        lock(&self.contents.known).readings_left += 1;
        let mut fed = Ok(());
        for extent in extents.as_slice() {
            if self.contents.limit.is_over() {
                break;
            }
            match self.step(extent) {
                Ok(step) => self.add_step(&reading, step, false),
                Err(error) => {
                    fed = Err(error);
                    break;
                }
            }
        }
        // Even one that was given up is ended, so that nothing waits for the rest of it.
        self.add_step(&reading, Step::End { wanted, content }, true);
        fed
    }

    fn add_step(&self, reading: &Arc<Reading>, step: Step, is_last: bool) {
        if reading.add(step, is_last) {
            self.contents.queue(Job::Reading(reading.clone()));
        }
    }

    fn step(&mut self, extent: &Extent) -> Result<Step> {
        Ok(match *extent {
            Extent::Zero { length } => Step::Zeros(length),
            Extent::Data {
                chunk,
                offset,
                length,
            } => Step::Part {
                chunk: self.chunk(&chunk)?,
                offset,
                length,
            },
        })
    }

    /// Waits until every file that was added is done, and lets go of all packs.
    pub(in crate::verify) fn end(&mut self) -> Result<()> {
        self.send_batch()?;
        self.chunks.clear();
        while let Some(pack) = self.packs.pop_front() {
            self.contents.queue(Job::Sweep(pack));
        }
        let contents = self.contents;
        let mut known = lock(&contents.known);
        while known.readings_left > 0 {
            contents.check()?;
            let waited = contents.drained.wait_timeout(known, LOOK_UP);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        known.read = contents.spare.taken();
        drop(known);
        contents.check()
    }

    fn chunk(&mut self, id: &ChunkId) -> Result<Arc<ChunkCheck>> {
        if let Some(at) = self.chunks.iter().position(|chunk| chunk.id == *id)
            && let Some(known) = self.chunks.remove(at)
        {
            // What changed lies in one chunk for a long way: it must not be the first to go.
            self.chunks.push_back(known.clone());
            return Ok(known);
        }
        let place = self
            .contents
            .index
            .find(id)
            .ok_or_else(|| EngineError::Missing {
                object: format!("chunk {id}"),
                why: "no index run knows it".into(),
            })?;
        let held = self.hold_chunk(place.located.raw as usize)?;
        let pack = self.pack(&place)?;
        if let Some(pack) = &pack {
            pack.claim(id);
        }
        let chunk = Arc::new(ChunkCheck::new(*id, place, pack, held));
        self.contents.queue(Job::Chunk(chunk.clone()));
        if self.chunks.len() >= RECENT {
            self.chunks.pop_front();
        }
        self.chunks.push_back(chunk.clone());
        Ok(chunk)
    }

    /// The pack of a place, if it is in hand or is now fetched for the first time.
    fn pack(&mut self, place: &Place) -> Result<Option<Arc<Pack>>> {
        if let Some(at) = self.packs.iter().position(|pack| pack.id == place.pack) {
            let pack = self.packs.remove(at);
            self.packs.extend(pack.clone());
            return Ok(pack);
        }
        let Some(facts) = self.contents.wanted.get(&place.pack).copied() else {
            return Ok(None);
        };
        if !self.contents.spare.take(place.pack) {
            return Ok(None);
        }
        let bytes = usize::try_from(facts.size).unwrap_or(usize::MAX);
        self.contents.limit.add(facts.size);
        let held = loop {
            self.contents.check()?;
            if let Some(held) = self.contents.raw.try_take(bytes) {
                break held;
            }
            self.leaving.retain(|pack| pack.strong_count() > 0);
            let is_one_leaving = !self.leaving.is_empty();
            match self.packs.pop_front_if(|_| !is_one_leaving) {
                Some(pack) => {
                    self.leaving.push(Arc::downgrade(&pack));
                    self.contents.queue(Job::Sweep(pack));
                }
                None => {
                    self.send_batch()?;
                    self.contents.raw.wait_for(bytes);
                }
            }
        };
        let pack = Arc::new(Pack::new(place.pack, facts, held));
        self.packs.push_back(pack.clone());
        // The fetchers end after this one.
        let _ = self.fetch.send(pack.clone());
        Ok(Some(pack))
    }

    fn hold_reading(&self, bytes: usize) -> Result<Held> {
        loop {
            self.contents.check()?;
            if let Some(held) = self.contents.files.try_take(bytes) {
                return Ok(held);
            }
            self.contents.files.wait_for(bytes);
        }
    }

    fn hold_chunk(&mut self, bytes: usize) -> Result<Held> {
        loop {
            self.contents.check()?;
            if let Some(held) = self.contents.plain.try_take(bytes) {
                return Ok(held);
            }
            // What files are being hashed from is given back by them; what was needed last may be
            // needed again at once.
            self.chunks_leaving.retain(|chunk| chunk.strong_count() > 0);
            let is_one_leaving = !self.chunks_leaving.is_empty();
            match self.chunks.pop_front_if(|_| !is_one_leaving) {
                Some(chunk) => self.chunks_leaving.push(Arc::downgrade(&chunk)),
                None => {
                    // What waits for others holds chunks too.
                    self.send_batch()?;
                    self.contents.plain.wait_for(bytes);
                }
            }
        }
    }
}

/// Stands for a list of extents and the SHA-256 that its content is to have.
pub(in crate::verify) fn fingerprint(extents: &Extents, wanted: &[u8; 32]) -> [u8; 16] {
    let mut list = wanted.to_vec();
    extents.encode(&mut list);
    let mut out = [0; 16];
    out.copy_from_slice(&blake3::hash(&list).as_bytes()[..16]);
    out
}
