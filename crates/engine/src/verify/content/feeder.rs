//! Handing files to those who read their content, no more at once than the limits allow.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock, PoisonError};

use backup_core::{ChunkId, PackId};
use backup_format::extent::{Extent, Extents};

use super::super::budget::{Held, LOOK_UP};
use super::super::parts::{ChunkCheck, FileCheck, Pack, Step, lock};
use super::{Contents, Job};
use crate::error::{EngineError, Result};
use crate::index_set::Place;

/// What a file in hand is counted for, beside its chunks.
const FILE_BYTES: usize = 1 << 10;
/// Chunks that are kept for the extents that follow, as far as memory goes: a change in the middle of
/// a chunk leaves two extents of it with another between them, and what each backup changed lies in
/// chunks of its own.
const RECENT: usize = 32;

/// Adds files; there is one.
pub(in crate::verify) struct Feeder<'c, 'a> {
    contents: &'c Contents<'a>,
    fetch: crossbeam_channel::Sender<Arc<Pack>>,
    chunks: VecDeque<Arc<ChunkCheck>>,
    packs: VecDeque<Arc<Pack>>,
    fetched: HashSet<PackId>,
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
            fetched: HashSet::new(),
        }
    }

    /// Adds a file whose chunks are all in the index. A content that was found whole before is not
    /// read again.
    pub(in crate::verify) fn add(
        &mut self,
        path: &dyn std::fmt::Display,
        extents: &Extents,
        wanted: Option<[u8; 32]>,
    ) -> Result<()> {
        let content = fingerprint(extents, wanted);
        if lock(&self.contents.known).whole_contents.contains(&content) {
            return Ok(());
        }
        let path = path.to_string();
        let held = self.hold_file(FILE_BYTES + path.len())?;
        let file = Arc::new(FileCheck::new(path, wanted, content, held));
        lock(&self.contents.known).files_left += 1;
        let mut fed = Ok(());
        for extent in extents.as_slice() {
            let step = match *extent {
                Extent::Zero { length } => Step::Zeros(length),
                Extent::Data {
                    chunk,
                    offset,
                    length,
                } => match self.chunk(&chunk) {
                    Ok(chunk) => Step::Part {
                        chunk,
                        offset,
                        length,
                    },
                    Err(error) => {
                        fed = Err(error);
                        break;
                    }
                },
            };
            self.step(&file, Some(step));
        }
        // Even a file that was given up is ended, so that nothing waits for the rest of it.
        self.step(&file, None);
        fed
    }

    /// Waits until every file that was added is done; returns the paths that are hurt, and why.
    pub(in crate::verify) fn drain(&mut self) -> Result<Vec<(String, String)>> {
        self.chunks.clear();
        let contents = self.contents;
        let mut known = lock(&contents.known);
        while known.files_left > 0 {
            contents.check()?;
            let waited = contents.drained.wait_timeout(known, LOOK_UP);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut hurt = std::mem::take(&mut known.hurt);
        drop(known);
        contents.check()?;
        // Files end in any order; what is told is told in that of paths.
        hurt.sort();
        Ok(hurt)
    }

    fn step(&self, file: &Arc<FileCheck>, step: Option<Step>) {
        if file.add(step) {
            self.contents.queue(Job::File(file.clone()));
        }
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
        let pack = self.pack(&place)?;
        let held = self.hold_chunk(place.located.raw as usize)?;
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
        if !self.fetched.insert(place.pack) {
            return Ok(None);
        }
        let bytes = usize::try_from(facts.size).unwrap_or(usize::MAX);
        let held = loop {
            self.contents.check()?;
            if let Some(held) = self.contents.raw.try_take(bytes) {
                break held;
            }
            if self.packs.pop_front().is_none() {
                self.contents.raw.wait_for(bytes);
            }
        };
        let pack = Arc::new(Pack {
            id: place.pack,
            facts,
            bytes: OnceLock::new(),
            _held: held,
        });
        self.packs.push_back(pack.clone());
        // The fetchers end after this one.
        let _ = self.fetch.send(pack.clone());
        Ok(Some(pack))
    }

    fn hold_file(&self, bytes: usize) -> Result<Held> {
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
            if self.chunks.pop_front().is_none() {
                self.contents.plain.wait_for(bytes);
            }
        }
    }
}

/// Stands for a list of extents and the SHA-256 that its content is to have.
fn fingerprint(extents: &Extents, wanted: Option<[u8; 32]>) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&wanted.unwrap_or_default());
    let mut list = Vec::new();
    extents.encode(&mut list);
    hasher.update(&[u8::from(wanted.is_some())]);
    hasher.update(&list);
    let mut out = [0; 16];
    out.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    out
}
