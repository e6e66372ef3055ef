//! Windows: parts of many files, grouped by the chunks and packs that hold them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{ChunkId, EntryWriter, PackId, RestoreEntry};
use backup_format::extent::{Extent, Extents};

use super::salvage::Lost;
use crate::error::Result;
use crate::index_set::{IndexSet, Place};

/// Plain bytes of the chunks of a window. They are opened one after the other, so this is no memory;
/// but what many backups changed in one file lies in many chunks side by side, and those of which
/// two windows need parts are opened twice.
const WINDOW_BYTES: u64 = 1 << 30;
/// Parts of a window, of some 40 bytes each.
const WINDOW_PARTS: usize = 1 << 16;
/// Files of a window, unless the bound of begun files asks for less; see [`super::begun`].
pub(super) const WINDOW_FILES: usize = 128;
/// Gaps up to this are read over rather than asked for apart.
const GAP: u64 = 256 << 10;
/// Longest range that is fetched at once.
const RANGE: u64 = 6 << 20;

/// A file that is being restored.
#[derive(Debug)]
pub(super) struct FileJob {
    pub(super) entry: RestoreEntry,
    writer: Mutex<Option<EntryWriter>>,
    parts_left: AtomicU64,
    failed: AtomicBool,
    /// Bytes that are no holes.
    pub(super) data: u64,
    pub(super) lost: Mutex<Lost>,
}

impl FileJob {
    pub(super) fn new(entry: RestoreEntry, extents: &Extents) -> Self {
        let is_data = |extent: &&Extent| matches!(extent, Extent::Data { .. });
        let parts = extents.as_slice().iter().filter(is_data);
        let data = parts.clone().map(Extent::len).sum();
        let parts = parts.count();
        Self {
            entry,
            writer: Mutex::new(None),
            parts_left: AtomicU64::new(parts as u64),
            failed: AtomicBool::new(false),
            data,
            lost: Mutex::default(),
        }
    }

    /// The file is open.
    pub(super) fn began(&self, writer: EntryWriter) {
        *self.lock() = Some(writer);
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Option<EntryWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some of it could not be had or written; says whether that is news.
    pub(super) fn fail(&self) -> bool {
        !self.failed.swap(true, Ordering::Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// One part is done; says whether it was the last.
    pub(super) fn part_done(&self) -> bool {
        self.parts_left.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Where a part of a chunk goes.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) job: Arc<FileJob>,
    pub(super) at: u64,
    pub(super) offset: u32,
    pub(super) length: u32,
}

/// A chunk and where its parts go.
#[derive(Debug)]
pub(super) struct ChunkJob {
    pub(super) id: ChunkId,
    pub(super) place: Option<Place>,
    pub(super) parts: Vec<Part>,
    /// How many chunks of the window were asked for before it.
    number: usize,
}

impl ChunkJob {
    /// Whether its parts are all that is in it: then nobody else is likely to need it.
    pub(super) fn is_needed_whole(&self) -> bool {
        let needed: u64 = self.parts.iter().map(|part| u64::from(part.length)).sum();
        self.place
            .is_none_or(|place| needed >= u64::from(place.located.raw))
    }
}

/// Chunks that lie near each other in a pack, in the order of their offsets, to be fetched at once.
#[derive(Debug)]
pub(super) struct RangeJob {
    start: u64,
    length: u64,
    pub(super) chunks: Vec<ChunkJob>,
}

/// Parts collected so far.
#[derive(Debug)]
pub(super) struct Window {
    chunks: HashMap<ChunkId, ChunkJob>,
    bytes: u64,
    parts: usize,
    files: usize,
    most_files: usize,
}

impl Window {
    /// An empty one for so many files.
    pub(super) fn of(most_files: usize) -> Self {
        Self {
            chunks: HashMap::new(),
            bytes: 0,
            parts: 0,
            files: 0,
            most_files,
        }
    }

    /// What was collected; an empty one takes its place.
    pub(super) fn take(&mut self) -> Self {
        let empty = Self::of(self.most_files);
        std::mem::replace(self, empty)
    }

    /// Adds the parts of a file, sending full windows away as they come; says whether it has any.
    pub(super) fn add(
        &mut self,
        job: &Arc<FileJob>,
        extents: &Extents,
        index: &IndexSet,
        send: &mut dyn FnMut(Self) -> Result<()>,
    ) -> Result<bool> {
        let mut at = 0;
        let mut has_any = false;
        self.files += 1;
        for extent in extents.as_slice() {
            if let Extent::Data {
                chunk,
                offset,
                length,
            } = *extent
            {
                has_any = true;
                if self.is_full() {
                    send(self.take())?;
                    self.files = 1;
                }
                let part = Part {
                    job: job.clone(),
                    at,
                    offset,
                    length,
                };
                let (bytes, number) = (&mut self.bytes, self.chunks.len());
                let entry = self.chunks.entry(chunk).or_insert_with(|| {
                    let place = index.find(&chunk);
                    *bytes += place.map_or(0, |place| u64::from(place.located.raw));
                    ChunkJob {
                        id: chunk,
                        place,
                        parts: Vec::new(),
                        number,
                    }
                });
                entry.parts.push(part);
                self.parts += 1;
            }
            at += extent.len();
        }
        Ok(has_any)
    }

    /// Whether it holds enough to be fetched.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= WINDOW_BYTES
            || self.parts >= WINDOW_PARTS
            || (self.files >= self.most_files && self.parts > 0)
    }

    /// The ranges to fetch, and the chunks that no index knows.
    pub(super) fn ranges(self) -> (Vec<RangeJob>, Vec<ChunkJob>) {
        let mut packs: HashMap<PackId, Vec<ChunkJob>> = HashMap::new();
        let mut lost = Vec::new();
        for chunk in self.chunks.into_values() {
            match chunk.place {
                Some(place) => packs.entry(place.pack).or_default().push(chunk),
                None => lost.push(chunk),
            }
        }
        let mut out: Vec<RangeJob> = Vec::new();
        for mut chunks in packs.into_values() {
            chunks.sort_by_key(|chunk| chunk.place.map_or(0, |place| place.located.offset));
            let mut open: Option<RangeJob> = None;
            for chunk in chunks {
                let Some(place) = chunk.place else { continue };
                let start = u64::from(place.located.offset);
                let end = start + u64::from(place.located.stored);
                match &mut open {
                    Some(range)
                        if start <= range.start + range.length + GAP
                            && end - range.start <= RANGE =>
                    {
                        range.length = end - range.start;
                        range.chunks.push(chunk);
                    }
                    _ => {
                        let fresh = RangeJob {
                            start,
                            length: end - start,
                            chunks: vec![chunk],
                        };
                        out.extend(open.replace(fresh));
                    }
                }
            }
            out.extend(open);
        }
        // As they were asked for, so that files are written from their beginning on.
        let first = |range: &RangeJob| range.chunks.iter().map(|chunk| chunk.number).min();
        out.sort_by_key(first);
        (out, lost)
    }
}
