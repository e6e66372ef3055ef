//! What is known of a stream's past: its pieces and where they lie.

use std::collections::HashMap;

use backup_core::ChunkId;
use backup_format::chunk::{PieceCut, PieceDigest};
use backup_format::extent::{Extent, Extents};
use backup_format::lineage::{Layer, LineageHead, Pieces, UNREAD};

use crate::index_set::IndexSet;

/// A stream as its parent snapshot had it.
#[derive(Debug)]
pub(crate) struct Past {
    /// Its lineage, if it had one.
    lineage: Option<LineageHead>,
    /// Its size in bytes.
    pub(crate) size: u64,
    /// Its pieces; none without a lineage.
    pub(crate) pieces: Pieces,
    /// Where every [`STRIDE`]th piece begins; empty for pages.
    starts: Vec<u64>,
    /// Its extents and where each begins.
    extents: Vec<Extent>,
    extent_starts: Vec<u64>,
    /// What each extent is good for.
    worth: Vec<Worth>,
    by_digest: DigestTable,
}

/// What an extent is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Worth {
    /// Its chunk is not in the index.
    Gone,
    /// The stream uses so little of its chunk that what is read anew is rather stored anew.
    Sparse,
    /// It may be used again.
    Sound,
}

/// Large streams have two million pieces: where each begins is summed up from the last of so many.
const STRIDE: usize = 64;

/// The first piece of each digest: an open hash table of piece numbers alone, since the digests
/// are there already. Empty for pages.
#[derive(Debug, Default)]
struct DigestTable {
    /// Number of a piece plus one; 0: free. Its length is a power of two, or 0.
    slots: Vec<u32>,
}

impl DigestTable {
    fn new(digests: &[PieceDigest]) -> Self {
        let mut table = Self {
            slots: vec![0; (digests.len() + digests.len() / 2 + 1).next_power_of_two()],
        };
        for (number, digest) in (1u32..).zip(digests) {
            let at = table.place(digests, digest);
            if let Some(slot) = table.slots.get_mut(at)
                && *slot == 0
            {
                *slot = number;
            }
        }
        table
    }

    /// Where a digest is, or would be. A third of the slots is free, so there is an end.
    fn place(&self, digests: &[PieceDigest], digest: &PieceDigest) -> usize {
        let [a, b, c, d, ..] = *digest;
        let mask = self.slots.len() - 1;
        let mut at = u32::from_le_bytes([a, b, c, d]) as usize & mask;
        while self.slots[at] != 0 && digests.get(self.slots[at] as usize - 1) != Some(digest) {
            at = (at + 1) & mask;
        }
        at
    }

    fn find(&self, digests: &[PieceDigest], digest: &PieceDigest) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        self.slots[self.place(digests, digest)].checked_sub(1)
    }
}

impl Past {
    /// Prepares the past of a stream for comparison.
    ///
    /// A piece is used again if its chunk is in the index and the stream still uses at least half of
    /// that chunk: survivors of sparser chunks are stored anew, so waste and scattered reads stay
    /// bounded however many backups follow each other. What its source did not read must be taken
    /// from where it lies.
    #[must_use]
    pub(crate) fn new(
        lineage: Option<LineageHead>,
        pieces: Pieces,
        extents: &Extents,
        index: &IndexSet,
    ) -> Self {
        let mut used: HashMap<ChunkId, u64> = HashMap::new();
        for extent in extents.as_slice() {
            if let Extent::Data { chunk, length, .. } = extent {
                *used.entry(*chunk).or_default() += u64::from(*length);
            }
        }
        let worths: HashMap<ChunkId, Worth> = used
            .into_iter()
            .map(|(chunk, used)| {
                let raw = index.find(&chunk).map(|place| u64::from(place.located.raw));
                let worth = match raw {
                    Some(raw) if used * 2 >= raw => Worth::Sound,
                    Some(_) => Worth::Sparse,
                    None => Worth::Gone,
                };
                (chunk, worth)
            })
            .collect();
        let worth = extents
            .as_slice()
            .iter()
            .map(|extent| match extent {
                Extent::Zero { .. } => Worth::Sound,
                Extent::Data { chunk, .. } => worths.get(chunk).copied().unwrap_or(Worth::Gone),
            })
            .collect();
        let begin = |at: &mut u64, length: u64| {
            let start = *at;
            *at += length;
            Some(start)
        };
        let lengths = extents.as_slice().iter().map(Extent::len);
        let extent_starts = lengths.scan(0, begin).collect();
        let mut by_digest = DigestTable::default();
        let mut starts = Vec::new();
        if matches!(
            lineage,
            Some(LineageHead {
                cut: PieceCut::Content(_),
                ..
            })
        ) {
            starts = pieces
                .lengths
                .chunks(STRIDE)
                .map(|lengths| lengths.iter().map(|length| u64::from(*length)).sum())
                .scan(0, begin)
                .collect();
            by_digest = DigestTable::new(&pieces.digests);
        }
        Self {
            lineage,
            size: extents.length(),
            pieces,
            starts,
            extents: extents.as_slice().to_vec(),
            extent_starts,
            worth,
            by_digest,
        }
    }

    /// How it was cut; `None` without a lineage.
    #[must_use]
    pub(crate) fn cut(&self) -> Option<PieceCut> {
        self.lineage.as_ref().map(|head| head.cut)
    }

    /// The layers of its lineage.
    #[must_use]
    pub(crate) fn layers(&self) -> &[Layer] {
        self.lineage.as_ref().map_or(&[], |head| &head.layers)
    }

    /// The piece that equals one with this digest and length: for pages only that of the same
    /// number, for content-defined pieces preferably the one behind the last match.
    #[must_use]
    pub(crate) fn find(
        &self,
        digest: &PieceDigest,
        length: usize,
        number: u32,
        expected: u32,
    ) -> Option<u32> {
        if *digest == UNREAD {
            return None;
        }
        let equals = |candidate: u32| {
            let at = candidate as usize;
            self.pieces.digests.get(at) == Some(digest) && self.length(candidate) == length as u64
        };
        let candidate = match self.cut()? {
            PieceCut::Pages(_) => Some(number),
            PieceCut::Content(_) if equals(expected) => Some(expected),
            PieceCut::Content(_) => self.by_digest.find(&self.pieces.digests, digest),
        };
        candidate.filter(|candidate| equals(*candidate) && self.is_sound(*candidate))
    }

    fn start(&self, piece: u32) -> u64 {
        match self.cut() {
            None => u64::MAX,
            Some(PieceCut::Pages(size)) => u64::from(piece) * u64::from(size),
            Some(PieceCut::Content(_)) => {
                let at = piece as usize;
                let before = self.pieces.lengths.get(at / STRIDE * STRIDE..at);
                match (self.starts.get(at / STRIDE), before) {
                    (Some(start), Some(before)) => {
                        start + before.iter().map(|length| u64::from(*length)).sum::<u64>()
                    }
                    _ => u64::MAX,
                }
            }
        }
    }

    fn length(&self, piece: u32) -> u64 {
        match self.cut() {
            None => 0,
            Some(PieceCut::Pages(size)) => self
                .size
                .saturating_sub(self.start(piece))
                .min(u64::from(size)),
            Some(PieceCut::Content(_)) => self
                .pieces
                .lengths
                .get(piece as usize)
                .map_or(0, |length| u64::from(*length)),
        }
    }

    /// Where a piece lies in the stream of the past.
    #[must_use]
    pub(crate) fn span(&self, piece: u32) -> (u64, u64) {
        (self.start(piece), self.length(piece))
    }

    /// The piece that holds the byte at `at`, if there is one.
    #[must_use]
    pub(crate) fn piece_at(&self, at: u64) -> Option<u32> {
        if at >= self.size {
            return None;
        }
        let number = match self.cut()? {
            PieceCut::Pages(size) => usize::try_from(at / u64::from(size)).ok()?,
            PieceCut::Content(_) => {
                let stride = self
                    .starts
                    .partition_point(|start| *start <= at)
                    .checked_sub(1)?;
                let mut end = *self.starts.get(stride)?;
                let lengths = self.pieces.lengths.get(stride * STRIDE..)?;
                let within = lengths.iter().position(|length| {
                    end += u64::from(*length);
                    at < end
                });
                stride * STRIDE + within?
            }
        };
        u32::try_from(number).ok()
    }

    /// The digest of a piece.
    #[must_use]
    pub(crate) fn digest(&self, piece: u32) -> PieceDigest {
        let digest = self.pieces.digests.get(piece as usize);
        digest.copied().unwrap_or(UNREAD)
    }

    fn is_sound(&self, piece: u32) -> bool {
        let (start, length) = self.span(piece);
        self.overlapping(start, length)
            .all(|(_, worth)| worth == Worth::Sound)
    }

    /// Whether all of a range is there, whatever it is good for.
    #[must_use]
    pub(crate) fn has_range(&self, start: u64, length: u64) -> bool {
        start.saturating_add(length) <= self.size
            && self
                .overlapping(start, length)
                .all(|(_, worth)| worth != Worth::Gone)
    }

    fn overlapping(&self, start: u64, length: u64) -> impl Iterator<Item = (usize, Worth)> + '_ {
        let first = self
            .extent_starts
            .partition_point(|at| *at <= start)
            .saturating_sub(1);
        let end = start.saturating_add(length);
        (first..self.extents.len())
            .take_while(move |at| self.extent_starts[*at] < end)
            .map(|at| (at, self.worth[at]))
    }

    /// Appends the extents of a range of the past to a list.
    pub(crate) fn copy_range(&self, start: u64, length: u64, mut push: impl FnMut(Extent)) {
        let end = start.saturating_add(length);
        for (at, _) in self.overlapping(start, length) {
            let begin = self.extent_starts[at];
            let from = begin.max(start);
            let to = (begin + self.extents[at].len()).min(end);
            if from >= to {
                continue;
            }
            let (skip, part) = (from - begin, to - from);
            push(match self.extents[at] {
                Extent::Zero { .. } => Extent::Zero { length: part },
                // Parts of an extent are no longer than it, and its length has 32 bits.
                Extent::Data {
                    chunk,
                    offset,
                    length,
                } => Extent::Data {
                    chunk,
                    offset: offset.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)),
                    length: u32::try_from(part).unwrap_or(length),
                },
            });
        }
    }
}
