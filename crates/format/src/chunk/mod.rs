//! Cutting: a stream becomes *pieces*, pieces are gathered into *chunks*.
//!
//! A piece is the unit in which a stream is compared with its own past (a page of a database or
//! disk, a content-defined piece of a dump, a whole small file); a chunk of about 1 MiB is the unit
//! that is compressed, sealed, indexed and deduplicated across everything. [`gear`] cuts
//! content-defined pieces, [`profile`] decides how a stream is cut, [`gather`] lays pieces together
//! into chunks whose ends are chosen by the pieces' own digests: the same pieces in the same order
//! give the same chunks wherever they stand.

pub mod gather;
pub mod gear;
pub mod profile;

pub use gather::{ChunkSizes, Gatherer};
pub use gear::{Gear, PieceSizes};
pub use profile::{BasePieces, MOST_PIECES, PieceCut, sniff};

/// Digest of a piece: the first 16 bytes of BLAKE3 keyed with a key derived from the cut key.
pub type PieceDigest = [u8; 16];

/// The keys of cutting, derived from the repository's cut key by `BLAKE3 keyed(cut key, label)`.
#[derive(Clone)]
pub struct CutKeys {
    digest: [u8; 32],
    gear: Gear,
}

impl std::fmt::Debug for CutKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CutKeys")
    }
}

impl CutKeys {
    /// Derives the keys of cutting: label `"backstay v1 piece digest"` for digests,
    /// `"backstay v1 gear"` (read as an extendable output) for the gear table.
    #[must_use]
    pub fn new(cut_key: &[u8; 32]) -> Self {
        let digest = *blake3::keyed_hash(cut_key, b"backstay v1 piece digest").as_bytes();
        Self {
            digest,
            gear: Gear::new(cut_key),
        }
    }

    /// The digest of a piece.
    #[must_use]
    pub fn digest(&self, piece: &[u8]) -> PieceDigest {
        let hash = blake3::keyed_hash(&self.digest, piece);
        let mut out = [0u8; 16];
        out.copy_from_slice(&hash.as_bytes()[..16]);
        out
    }

    /// The content-defined cutter.
    #[must_use]
    pub const fn gear(&self) -> &Gear {
        &self.gear
    }
}
