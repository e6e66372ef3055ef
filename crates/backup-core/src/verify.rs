//! The contract of verification.

use std::fmt;

use async_trait::async_trait;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::context::OpContext;
use crate::error::VerifyError;
use crate::finding::Finding;
use crate::id::{ChunkId, PackId};
use crate::snapshot::SnapshotMeta;

/// How deep a verification looks; each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerifyLevel {
    /// The manifest is whole and signed, its root is right, every chunk it names is in the index,
    /// and every pack is there with its size.
    Metadata,
    /// The bytes of every pack hash to its name.
    Checksum,
    /// Every chunk opens and hashes to its id, every file to its SHA-256.
    FullRead,
    /// It was restored into a private instance and asked.
    RestoreDrill,
}

/// Which part of the objects is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Sample {
    /// Everything.
    All,
    /// A random share.
    Share {
        /// Seed of the choice, so that it can be made again.
        seed: u64,
        /// Percent of the objects.
        percent: f64,
    },
    /// Slice `n` (from 1) of `of`: the slices together cover everything, whatever was added
    /// meanwhile.
    Slice {
        /// Which.
        n: u32,
        /// Of how many.
        of: u32,
    },
}

impl Sample {
    /// Whether an object belongs to the sample, decided by the first bytes of its name alone.
    #[must_use]
    pub fn takes(&self, name: &[u8]) -> bool {
        let mut head = [0u8; 8];
        for (slot, byte) in head.iter_mut().zip(name) {
            *slot = *byte;
        }
        let point = u64::from_be_bytes(head);
        match *self {
            Self::All => true,
            Self::Slice { n, of } => {
                of > 0 && point % u64::from(of) == u64::from(n) % u64::from(of)
            }
            Self::Share { seed, percent } => {
                // Fibonacci hashing spreads the seed over the whole range.
                let mixed = (point ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                #[allow(
                    clippy::cast_precision_loss,
                    reason = "a share needs no more precision"
                )]
                let at = (mixed >> 11) as f64 / (1u64 << 53) as f64;
                at * 100.0 < percent
            }
        }
    }
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Objects looked at.
    pub objects: u64,
    /// Chunks looked at.
    pub chunks: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Entries looked at.
    pub entries: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl VerifyReport {
    /// Takes another report's counts and findings into this one.
    pub fn absorb(&mut self, other: Self) {
        self.objects += other.objects;
        self.chunks += other.chunks;
        self.bytes += other.bytes;
        self.entries += other.entries;
        self.findings.extend(other.findings);
    }
}

/// A chunk that a snapshot names, and the pack that the index knows it in.
pub type NamedChunk = (ChunkId, Option<PackId>);

/// Reads the parts of a snapshot for a verifier.
#[async_trait]
pub trait SnapshotReader: fmt::Debug + Send + Sync {
    /// What is known of the snapshot.
    fn meta(&self) -> &SnapshotMeta;

    /// Every chunk that the contents of the snapshot name, in the order of its entries, and the pack that the
    /// index knows it in: each once, but those that no index knows, which come as often as they are named.
    /// [`VerifyError`] when the manifest cannot be read, behind which nothing comes.
    fn chunks<'s>(&'s self, cx: &'s OpContext) -> BoxStream<'s, Result<NamedChunk, VerifyError>>;

    /// The plain content of a chunk, opened and checked against its id.
    ///
    /// # Errors
    /// [`VerifyError`] when it is missing or does not check.
    async fn chunk(&self, cx: &OpContext, id: &ChunkId) -> Result<bytes::Bytes, VerifyError>;
}

/// Looks whether a snapshot is what it should be.
#[async_trait]
pub trait Verifier: fmt::Debug + Send + Sync {
    /// How deep it looks.
    fn level(&self) -> VerifyLevel;

    /// Looks. What is wrong with data is a finding of the report.
    ///
    /// # Errors
    /// [`VerifyError`] when the verification cannot go on.
    async fn verify(
        &self,
        cx: &OpContext,
        snapshot: &dyn SnapshotReader,
        sample: Sample,
    ) -> Result<VerifyReport, VerifyError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_exactly_once() {
        for point in 0..1000u64 {
            let name = point.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
            let hits = (1..=7)
                .filter(|&n| Sample::Slice { n, of: 7 }.takes(&name))
                .count();
            assert_eq!(hits, 1);
        }
    }

    #[test]
    fn a_share_takes_about_its_percentage() {
        let sample = Sample::Share {
            seed: 42,
            percent: 10.0,
        };
        let hits = (0..10_000u64)
            .filter(|n| sample.takes(&n.to_be_bytes()))
            .count();
        assert!((800..1200).contains(&hits), "{hits}");
    }
}
