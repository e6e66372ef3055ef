//! Small files of a run, laid together in bundles; each content once.

use std::collections::HashMap;

use backup_core::ChunkId;
use backup_format::chunk::{ChunkSizes, Gatherer, PieceDigest};
use backup_format::extent::{Content, Extent, Extents};

/// Small files of this run that are remembered by their content: as many as a table of 2^19 places of 25 bytes takes
/// before it is made twice as large.
const MOST_REMEMBERED: usize = (1 << 19) / 8 * 7;

/// Where the content of an entry lies, as far as it is known.
#[derive(Debug, Clone)]
pub(super) enum Located {
    Known(Content),
    /// In the open bundle.
    Open {
        offset: u32,
        length: u32,
    },
}

impl Located {
    /// A range of one chunk.
    pub(super) fn in_chunk(chunk: ChunkId, offset: u32, length: u32) -> Self {
        Self::Known(part_of(chunk, offset, length))
    }

    /// The content, the open bundle having become that chunk; `None` without one that is needed.
    pub(super) fn settled(self, bundle: Option<ChunkId>) -> Option<Content> {
        match self {
            Self::Known(content) => Some(content),
            Self::Open { offset, length } => Some(part_of(bundle?, offset, length)),
        }
    }
}

fn part_of(chunk: ChunkId, offset: u32, length: u32) -> Content {
    let mut extents = Extents::default();
    extents.push(Extent::Data {
        chunk,
        offset,
        length,
    });
    Content::Inline(extents)
}

/// The open bundle and those before it.
#[derive(Debug)]
pub(super) struct Bundles {
    open: Gatherer,
    /// Those that have ended, by number; the open one is the next.
    ended: Vec<ChunkId>,
    remembered: HashMap<PieceDigest, (u32, u32)>,
}

impl Bundles {
    /// None yet.
    pub(super) fn new(sizes: ChunkSizes) -> Self {
        Self {
            open: Gatherer::new(sizes),
            ended: Vec::new(),
            remembered: HashMap::new(),
        }
    }

    /// The number of the open bundle.
    pub(super) fn number(&self) -> u32 {
        u32::try_from(self.ended.len()).unwrap_or(u32::MAX)
    }

    /// A place in the bundle of that number; `None` if there is none.
    pub(super) fn at(&self, number: u32, offset: u32, length: u32) -> Option<Located> {
        if number == self.number() {
            return Some(Located::Open { offset, length });
        }
        let chunk = *self.ended.get(number as usize)?;
        Some(Located::in_chunk(chunk, offset, length))
    }

    /// Where content of that digest and length was laid.
    pub(super) fn find(&self, digest: &PieceDigest, length: u32) -> Option<Located> {
        let (number, offset) = *self.remembered.get(digest)?;
        self.at(number, offset, length)
    }

    /// Whether the open bundle must end before it can take so many bytes.
    pub(super) fn is_full_for(&self, length: usize) -> bool {
        self.open.is_full_for(length)
    }

    /// Lays content into the open bundle; says at which offset, and whether the bundle ends there.
    pub(super) fn lay(&mut self, bytes: &[u8], digest: &PieceDigest) -> (u32, bool) {
        let (offset, ends) = self.open.push(bytes, digest);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if self.remembered.len() < MOST_REMEMBERED {
            self.remembered.insert(*digest, (self.number(), offset));
        }
        (offset, ends)
    }

    /// The bytes of the open bundle, to be stored and ended; `None` while it is empty.
    pub(super) fn take(&mut self) -> Option<Vec<u8>> {
        (!self.open.is_empty()).then(|| self.open.take())
    }

    /// Ends the open bundle as that chunk.
    pub(super) fn end(&mut self, chunk: ChunkId) {
        self.ended.push(chunk);
    }
}
