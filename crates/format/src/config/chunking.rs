//! How streams of one kind are cut.

use serde::{Deserialize, Serialize};

use super::is_name;

/// Largest chunk that a configuration may ask for: a chunk is a blob.
const MAX_CHUNK: u32 = crate::seal::MAX_RAW as u32;

/// How streams of one kind are cut; all sizes in bytes. Writers of one repository must agree on
/// it, or they would store the same data twice; readers need none of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkProfile {
    /// Its name, for example `content` or `pages`.
    pub name: String,
    /// Smallest chunk, but for the last of a stream.
    pub chunk_min: u32,
    /// Size that chunks aim at.
    pub chunk_target: u32,
    /// Largest chunk, at most [`crate::seal::MAX_RAW`].
    pub chunk_max: u32,
    /// Smallest content-defined piece; 0, as the next two, where pieces are not content-defined.
    pub piece_min: u32,
    /// Size that pieces aim at.
    pub piece_avg: u32,
    /// Largest piece.
    pub piece_max: u32,
    /// Size of a fixed page where the source states none, a power of two; 0 where pieces are
    /// content-defined.
    pub page: u32,
    /// Files smaller than this are laid together into bundles; 0 where there are none.
    pub bundle_limit: u32,
}

impl ChunkProfile {
    pub(super) fn check(&self) -> Result<(), &'static str> {
        if !is_name(&self.name) {
            return Err("a chunk profile's name cannot be one");
        }
        let chunks = 0 < self.chunk_min
            && self.chunk_min <= self.chunk_target
            && self.chunk_target <= self.chunk_max
            && self.chunk_max <= MAX_CHUNK;
        let pieces = match (self.piece_min, self.piece_avg, self.piece_max) {
            (0, 0, 0) => true,
            (min, avg, max) => {
                // The cutter takes two bytes a step, and its masks count bits.
                let is_even = min.is_multiple_of(2);
                let ascend = 0 < min && min <= avg && avg <= max && max <= self.chunk_max;
                is_even && ascend && is_piece(avg)
            }
        };
        let page = self.page == 0 || (is_piece(self.page) && self.page <= self.chunk_max);
        if chunks && pieces && page && self.bundle_limit <= self.chunk_max {
            Ok(())
        } else {
            Err("the sizes of a chunk profile contradict each other")
        }
    }
}

/// Whether a size can stand in the lineage of a stream.
const fn is_piece(size: u32) -> bool {
    size.is_power_of_two() && 4 << 10 <= size && size <= 1 << 20
}
