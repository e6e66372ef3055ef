//! Gathering pieces into chunks.

use super::PieceDigest;

/// Sizes of chunks, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    /// No chunk ends before, unless the stream does.
    pub min: usize,
    /// The wanted average.
    pub target: usize,
    /// No chunk is larger, unless a single piece is.
    pub max: usize,
}

/// Lays pieces together until their own digests say that the chunk ends.
///
/// From `min` bytes on, each piece is a lottery: the chunk ends behind it if the first 32 bits of
/// its digest, as a fraction of 2³², are below `piece length / (target − min)`. The chance is that
/// of the piece's share of the wanted rest, whatever the size of pieces. A piece that would take
/// the chunk over `max` begins the next one.
#[derive(Debug)]
pub struct Gatherer {
    sizes: ChunkSizes,
    open: Vec<u8>,
}

impl Gatherer {
    /// An empty gatherer.
    #[must_use]
    pub const fn new(sizes: ChunkSizes) -> Self {
        Self {
            sizes,
            open: Vec::new(),
        }
    }

    /// Whether a piece of `length` bytes needs the open chunk to be ended first; then call
    /// [`Gatherer::take`] before [`Gatherer::push`].
    #[must_use]
    pub fn is_full_for(&self, length: usize) -> bool {
        !self.open.is_empty() && self.open.len() + length > self.sizes.max
    }

    /// Adds a piece; returns its offset in the open chunk and whether the chunk ends behind it
    /// (then call [`Gatherer::take`]).
    pub fn push(&mut self, piece: &[u8], digest: &PieceDigest) -> (usize, bool) {
        if self.open.capacity() == 0 {
            self.open.reserve_exact(
                self.sizes
                    .max
                    .min(self.sizes.target + self.sizes.target / 2),
            );
        }
        let offset = self.open.len();
        self.open.extend_from_slice(piece);
        let [a, b, c, d, ..] = *digest;
        let draw = u64::from(u32::from_le_bytes([a, b, c, d]));
        let span = (self.sizes.target - self.sizes.min).max(1) as u64;
        let ends = self.open.len() >= self.sizes.min && draw * span < (piece.len() as u64) << 32;
        (offset, ends || self.open.len() >= self.sizes.max)
    }

    /// Bytes in the open chunk.
    #[must_use]
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether no chunk is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Ends the open chunk and hands it over.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::CutKeys;

    const SIZES: ChunkSizes = ChunkSizes {
        min: 512 << 10,
        target: 1 << 20,
        max: 4 << 20,
    };

    fn pieces(seed: u8, count: u32) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| {
                let mut piece = vec![0u8; 2000 + (n as usize * 7919) % 20_000];
                let seed = [&[seed][..], &n.to_le_bytes()].concat();
                blake3::Hasher::new()
                    .update(&seed)
                    .finalize_xof()
                    .fill(&mut piece);
                piece
            })
            .collect()
    }

    fn chunks(pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let keys = CutKeys::new(&[1; 32]);
        let mut gatherer = Gatherer::new(SIZES);
        let mut out = Vec::new();
        for piece in pieces {
            if gatherer.is_full_for(piece.len()) {
                out.push(gatherer.take());
            }
            if gatherer.push(piece, &keys.digest(piece)).1 {
                out.push(gatherer.take());
            }
        }
        out.push(gatherer.take());
        out
    }

    #[test]
    fn chunks_are_about_the_wanted_size_and_lose_nothing() {
        let pieces = pieces(1, 8000);
        let chunks = chunks(&pieces);
        assert_eq!(chunks.concat(), pieces.concat());
        assert!(chunks.iter().all(|chunk| chunk.len() <= SIZES.max));
        let average = pieces.concat().len() / chunks.len();
        assert!((800 << 10..1300 << 10).contains(&average), "{average}");
    }

    #[test]
    fn the_same_pieces_give_the_same_chunks_behind_another_beginning() {
        let shared = pieces(2, 4000);
        let first = chunks(&[pieces(3, 100), shared.clone()].concat());
        let second = chunks(&[pieces(4, 77), shared].concat());
        let same = first.iter().filter(|chunk| second.contains(chunk)).count();
        assert!(same + 4 >= first.len(), "{same} of {}", first.len());
    }
}
