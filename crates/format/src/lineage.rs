//! Lineage: what is known of a stream's past, so that its next backup stores only the pieces that
//! changed.
//!
//! For each piece of a stream its digest (and for content-defined pieces its length), and the
//! extents of the whole stream. Digests are stored as a *base* and *edits* on it, all of them blobs
//! of kind `Lineage`; a new state adds one edit of about 18 bytes for each changed piece. When the
//! edits are more than [`MAX_EDITS`] or weigh more than half of the base, a new base is written:
//! no chain grows, whatever the number of backups.
//!
//! * head (the value in the lineage directory): `cut kind(1: 0 pages, 1 content) ‖ varint piece ‖
//!   varint size ‖ varint pieces ‖ varint layers { varint bytes ‖ varint parts {
//!   id(32) } } ‖ content` (see [`crate::extent`]); a layer is cut into blobs of [`PART`] bytes;
//! * base layer: `0 ‖ varint pieces ‖ [content: varint length each] ‖ digest(16) each`;
//! * edit layer: `1 ‖ varint runs { varint count·2 + new ‖ (new) [lengths] ‖ digests, (else) varint
//!   first piece of the state before }`. Runs put together are the new state.
//!
//! Pieces that are all zeros have the digest of 16 zero bytes; those whose content the writer did
//! not read, or no longer knows the digest of, have [`UNREAD`] and equal nothing.

use std::ops::Range;

use backup_core::ChunkId;

use crate::chunk::{PieceCut, PieceDigest};
use crate::extent::Content;
use crate::wire::{Put, Take, WireError};

/// Most edits on a base.
pub const MAX_EDITS: usize = 12;
/// Most pieces of a stream that are kept.
pub const MAX_PIECES: usize = 8 << 20;

/// Bytes of a layer in one blob.
pub const PART: usize = 1 << 20;

/// A layer of digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its plain length in bytes.
    pub bytes: u64,
    /// The blobs that hold it, each but the last of [`PART`] bytes.
    pub parts: Vec<ChunkId>,
}

/// The head of a stream's lineage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineageHead {
    /// How the stream is cut.
    pub cut: PieceCut,
    /// Its size in bytes.
    pub size: u64,
    /// Number of its pieces.
    pub pieces: u64,
    /// Base, then edits.
    pub layers: Vec<Layer>,
    /// Where its content lies.
    pub content: Content,
}

impl LineageHead {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece) = match self.cut {
            PieceCut::Pages(size) => (0, size),
            PieceCut::Content(average) => (1, average),
        };
        let mut out = vec![kind];
        out.put_varint(u64::from(piece));
        out.put_varint(self.size);
        out.put_varint(self.pieces);
        out.put_varint(self.layers.len() as u64);
        for layer in &self.layers {
            out.put_varint(layer.bytes);
            out.put_varint(layer.parts.len() as u64);
            layer
                .parts
                .iter()
                .for_each(|part| out.extend_from_slice(part.as_bytes()));
        }
        self.content.encode(&mut out);
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(stored: &[u8]) -> Result<Self, WireError> {
        let mut take = Take::new(stored);
        let kind = take.u8()?;
        let piece = u32::try_from(take.varint()?).ok();
        let piece = piece.filter(|size| size.is_power_of_two() && (4096..=1 << 20).contains(size));
        let piece = piece.ok_or(WireError::Range("a piece size"))?;
        let cut = match kind {
            0 => PieceCut::Pages(piece),
            1 => PieceCut::Content(piece),
            _ => return Err(WireError::Range("a kind of cut")),
        };
        let size = take.varint()?;
        let pieces = take.varint()?;
        let count = take.count(2)?;
        if count > MAX_EDITS + 1 || pieces > MAX_PIECES as u64 {
            return Err(WireError::Range("the size of a lineage"));
        }
        let mut layers = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = take.varint()?;
            let parts = take.count(32)?;
            if bytes > (MAX_PIECES * 24) as u64 || parts as u64 != bytes.div_ceil(PART as u64) {
                return Err(WireError::Range("the parts of a layer"));
            }
            let parts = (0..parts).map(|_| take.array().map(ChunkId));
            layers.push(Layer {
                bytes,
                parts: parts.collect::<Result<_, _>>()?,
            });
        }
        let content = Content::decode(&mut take)?;
        take.end()?;
        Ok(Self {
            cut,
            size,
            pieces,
            layers,
            content,
        })
    }
}

/// The pieces of one state of a stream, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pieces {
    /// Digest of each piece.
    pub digests: Vec<PieceDigest>,
    /// Length of each, for content-defined pieces; empty for pages.
    pub lengths: Vec<u32>,
}

/// The digest of a piece that is all zeros.
pub const ZERO: PieceDigest = [0; 16];

/// The digest of a piece that was not read: its source knew that it had not changed.
pub const UNREAD: PieceDigest = [0xff; 16];

/// Where a piece of a new state comes from.
pub const NEW: u32 = u32::MAX;

impl Pieces {
    /// The base layer of this state.
    #[must_use]
    pub fn base(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.digests.len() * 18 + 8);
        self.emit_base(&mut |bytes| out.extend_from_slice(bytes));
        out
    }

    /// The base layer of this state, piece by piece: it need not be in memory as a whole.
    pub fn emit_base(&self, out: &mut dyn FnMut(&[u8])) {
        out(&[0]);
        emit_varint(self.digests.len() as u64, out);
        self.emit_new(0..self.digests.len(), out);
    }

    fn emit_new(&self, range: Range<usize>, out: &mut dyn FnMut(&[u8])) {
        if let Some(lengths) = self.lengths.get(range.clone()) {
            lengths
                .iter()
                .for_each(|length| emit_varint(u64::from(*length), out));
        }
        self.digests[range].iter().for_each(|digest| out(digest));
    }

    /// The edit layer that makes this state from the one before: `origins[i]` is the number of the
    /// piece of the state before that piece `i` equals, or [`NEW`].
    #[must_use]
    pub fn edit(&self, origins: &[u32]) -> Vec<u8> {
        let mut out = Vec::new();
        self.emit_edit(origins, &mut |bytes| out.extend_from_slice(bytes));
        out
    }

    /// As [`Pieces::edit`], piece by piece: it need not be in memory as a whole.
    pub fn emit_edit(&self, origins: &[u32], out: &mut dyn FnMut(&[u8])) {
        out(&[1]);
        emit_varint(runs(origins).count() as u64, out);
        for run in runs(origins) {
            let (first, count) = (origins[run.start], run.len() as u64);
            if first == NEW {
                emit_varint(count << 1 | 1, out);
                self.emit_new(run, out);
            } else {
                emit_varint(count << 1, out);
                emit_varint(u64::from(first), out);
            }
        }
    }

    /// Reads a layer on top of the state before it (empty for a base).
    ///
    /// # Errors
    /// [`WireError`] when it is malformed or refers to pieces that are not there.
    pub fn apply(before: &Self, layer: &[u8], cut: PieceCut) -> Result<Self, WireError> {
        let with_lengths = matches!(cut, PieceCut::Content(_));
        let mut take = Take::new(layer);
        let mut out = Self::default();
        match take.u8()? {
            0 => {
                let count = take.count(16)?;
                out.take_new(&mut take, count, with_lengths)?;
            }
            1 => {
                let runs = take.count(2)?;
                for _ in 0..runs {
                    let head = take.varint()?;
                    let count = usize::try_from(head >> 1).unwrap_or(usize::MAX);
                    if head & 1 == 1 {
                        out.take_new(&mut take, count, with_lengths)?;
                    } else {
                        let first = usize::try_from(take.varint()?).unwrap_or(usize::MAX);
                        out.copy(before, first, count, with_lengths)?;
                    }
                }
            }
            _ => return Err(WireError::Range("a kind of layer")),
        }
        take.end()?;
        Ok(out)
    }

    fn take_new(
        &mut self,
        take: &mut Take<'_>,
        count: usize,
        with_lengths: bool,
    ) -> Result<(), WireError> {
        if count.saturating_mul(16) > take.left() {
            return Err(WireError::Range("the number of pieces"));
        }
        self.digests.reserve_exact(count);
        if with_lengths {
            self.lengths.reserve_exact(count);
            for _ in 0..count {
                let length = take.varint()?;
                let length = u32::try_from(length).map_err(|_| WireError::Range("a length"))?;
                self.lengths.push(length);
            }
        }
        for _ in 0..count {
            self.digests.push(take.array()?);
        }
        Ok(())
    }

    fn copy(
        &mut self,
        before: &Self,
        first: usize,
        count: usize,
        with_lengths: bool,
    ) -> Result<(), WireError> {
        let wrong = WireError::Range("a run of pieces");
        let end = first.checked_add(count).ok_or(wrong.clone())?;
        let digests = before.digests.get(first..end).ok_or(wrong.clone())?;
        if self.digests.len() + count > MAX_PIECES {
            return Err(wrong);
        }
        self.digests.extend_from_slice(digests);
        if with_lengths {
            self.lengths
                .extend_from_slice(before.lengths.get(first..end).ok_or(wrong)?);
        }
        Ok(())
    }
}

fn emit_varint(value: u64, out: &mut dyn FnMut(&[u8])) {
    let mut bytes = Vec::with_capacity(10);
    bytes.put_varint(value);
    out(&bytes);
}

/// The runs of pieces that are all new, or that follow each other in the state before.
fn runs(origins: &[u32]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let first = *origins.get(at)?;
        let start = at;
        at += 1;
        while at < origins.len() && follows(first, at - start, origins[at]) {
            at += 1;
        }
        Some(start..at)
    })
}

fn follows(first: u32, distance: usize, origin: u32) -> bool {
    match first {
        NEW => origin == NEW,
        first => origin != NEW && origin as usize == first as usize + distance,
    }
}

/// Whether a new base is due before another edit of `bytes` is added.
#[must_use]
pub fn base_is_due(layers: &[Layer], bytes: u64) -> bool {
    let Some((base, edits)) = layers.split_first() else {
        return true;
    };
    let weight: u64 = edits.iter().map(|layer| layer.bytes).sum();
    edits.len() >= MAX_EDITS || (weight + bytes) * 2 > base.bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pieces(names: &[u8]) -> Pieces {
        Pieces {
            digests: names.iter().map(|name| [*name; 16]).collect(),
            lengths: names.iter().map(|name| 1000 + u32::from(*name)).collect(),
        }
    }

    const CUT: PieceCut = PieceCut::Content(8192);

    proptest! {
        #[test]
        fn a_base_and_edits_give_every_state_back(states in prop::collection::vec(prop::collection::vec(0u8..20, 0..60), 1..6)) {
            let mut state = Pieces::apply(&Pieces::default(), &pieces(&states[0]).base(), CUT).unwrap();
            prop_assert_eq!(&state, &pieces(&states[0]));
            for next in &states[1..] {
                let next = pieces(next);
                let origins: Vec<u32> = next.digests.iter()
                    .map(|digest| state.digests.iter().position(|d| d == digest).map_or(NEW, |at| at as u32))
                    .collect();
                state = Pieces::apply(&state, &next.edit(&origins), CUT).unwrap();
                prop_assert_eq!(&state, &next);
            }
        }

        #[test]
        fn damaged_layers_never_panic(bytes: Vec<u8>) {
            let _ = Pieces::apply(&pieces(&[1, 2, 3]), &bytes, CUT);
            let _ = Pieces::apply(&pieces(&[1, 2, 3]), &bytes, PieceCut::Pages(8192));
            let _ = LineageHead::decode(&bytes);
        }
    }

    #[test]
    fn heads_round_trip() {
        let head = LineageHead {
            cut: PieceCut::Pages(8192),
            size: 1 << 30,
            pieces: 131_072,
            layers: vec![Layer {
                bytes: 9 << 20,
                parts: vec![ChunkId([1; 32]); 9],
            }],
            content: Content::Spilled(vec![ChunkId([2; 32]); 4]),
        };
        assert_eq!(LineageHead::decode(&head.encode()).unwrap(), head);
    }

    #[test]
    fn an_unchanged_state_costs_a_few_bytes() {
        let state = pieces(&[5; 200]);
        let origins: Vec<u32> = (0..200).collect();
        assert!(state.edit(&origins).len() < 8);
    }
}
