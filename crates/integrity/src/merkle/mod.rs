//! The Merkle root of a snapshot and proofs that one entry is below it.
//!
//! A snapshot's entries, each in its [canonical encoding](crate::canonical), in the order of its
//! manifest, are the leaves. Leaves are gathered in *pages* of [`PAGE_LEAVES`]; each page is a
//! tree of the crate `merkle_light`, and the pages' digests are the leaves of one more such tree.
//! While it is built only one page of leaf hashes and one digest for each finished page are held
//! (32 bytes for 1,024 entries), and a proof needs to see only the entries of its own page.
//!
//! # Version 1, byte by byte
//!
//! `‖` joins bytes, numbers are big-endian, `H` is SHA-256, and the four domains are 17 bytes
//! each: `0x00 "backstay leaf v1"`, `0x01 "backstay node v1"`, `0x02 "backstay page v1"`,
//! `0x03 "backstay root v1"`.
//!
//! ```text
//! salt(i)  = HMAC-SHA256(key = the snapshot's salt (32 random bytes), message = u64 i)
//! leaf(i)  = H(leaf domain ‖ u64 i ‖ salt(i) ‖ canonical encoding of entry i)
//! node     = H(node domain ‖ left (32) ‖ right (32))
//! tree     = pairs of neighbours become nodes, level by level, until one is left; a last one
//!            without a neighbour is paired with itself; the tree of one hash is that hash
//! page(p)  = H(page domain ‖ u64 p ‖ u32 leaves in the page ‖ tree over its leaves)
//! top      = tree over all pages; 32 zero bytes when there is none
//! root     = H(root domain ‖ u64 leaf count ‖ u32 1024 ‖ top)
//! ```
//!
//! Indexes begin at 0. Every page holds 1,024 leaves, but for the last, which holds what is left
//! and at least one.
//!
//! # Why so
//!
//! - A tree that pairs the last hash with itself has the same root for `a b c` and `a b c c`
//!   (CVE-2012-2459 in Bitcoin). Here the root binds the number of leaves, each page its own
//!   number, and each leaf its index; and whoever checks a proof takes the number and the sides of
//!   the steps from index and count, never from the proof.
//! - Leaf, node, page and root hash in domains of their own, so none can be passed off as another.
//! - Each leaf has its own salt. A proof shows one leaf's salt only; without the salts of the
//!   neighbours nobody can confirm a guess at their names or content from their hashes.
//!
//! # Vectors
//!
//! The snapshot's salt is the bytes `00 01 … 1f`; entry `i` is the text `entry <i>` in decimal
//! digits (not a canonical encoding, which the tree does not look into).
//!
//! | leaves | root |
//! |---|---|
//! | 0 | `0dbdec34ba422c4e528e0b94ef5dabebd695ce3d9e6e7152be6fdc21c60da1ab` |
//! | 1 | `e9feb475c25432c6b789a28b277e3abd6600debdf07150796e8585fbcc89d47a` |
//! | 2 | `af90b356262f1377209f9a6cbeda0f2efa4919c5f5426ee7048647b95fa265d4` |
//! | 3 | `9ee46affc997fce1ecec902eb9a4fb0ed1dc035f825d70156b3d0d8ee480d972` |
//! | 1024 | `869112f412f38b35db28f358007fc5856c5d5737fadeaf877f3efebe05a9f480` |
//! | 1025 | `544d63da09718c5f6480202bcb9a4aa77086c45c6a94f2208c98f9aba237a9ad` |
//! | 2500 | `f5e7cd99fdb397d1010b786813a58453890d59a00d4069a5cd7145efa7cb776a` |

mod builder;
mod hash;
mod inclusion;

pub use builder::{SnapshotTree, SnapshotTreeBuilder, page_digest, root_of_pages};
pub use hash::Digest32;
pub use inclusion::{InclusionProof, prove};

/// Leaves of a page.
pub const PAGE_LEAVES: u32 = 1024;

hex_bytes!(
    /// The Merkle root over all entries of a snapshot.
    MerkleRoot,
    32
);

hex_bytes!(
    /// A hash or a salt within a tree, as a proof file spells it.
    TreeBytes,
    32
);

/// Why a tree or a proof cannot be built, or a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MerkleError {
    /// There is no such leaf.
    #[error("there is no entry {index} in a snapshot of {leaf_count} entries")]
    NoSuchLeaf {
        /// The index asked for.
        index: u64,
        /// How many leaves there are.
        leaf_count: u64,
    },
    /// A page does not have as many entries as its place demands.
    #[error("page {page} must have {wanted} entries; {found} were given")]
    PageLength {
        /// Which page.
        page: u64,
        /// As many as it must have.
        wanted: u32,
        /// As many as there are; counted no further than one too many.
        found: u32,
    },
    /// The number of pages does not fit the number of leaves.
    #[error("{leaf_count} entries have {wanted} pages; {found} were given")]
    PageCount {
        /// How many leaves there are.
        leaf_count: u64,
        /// As many pages as they fill.
        wanted: u64,
        /// As many as there are.
        found: u64,
    },
    /// The entries of a page do not hash to its digest.
    #[error("the entries of page {0} do not hash to the digest of the page")]
    PageDiffers(u64),
    /// A proof has too few or too many steps for its place.
    #[error("the proof does not have the number of steps that its place demands")]
    Steps,
    /// The proof leads to another root.
    #[error("the proof does not lead to the snapshot's root")]
    RootDiffers,
}

/// How many pages so many leaves fill.
const fn page_count(leaf_count: u64) -> u64 {
    leaf_count.div_ceil(PAGE_LEAVES as u64)
}

/// How many leaves a page holds; `None` if it is not one of the snapshot's.
fn leaves_in_page(leaf_count: u64, page: u64) -> Option<u32> {
    let before = page.checked_mul(u64::from(PAGE_LEAVES))?;
    let left = leaf_count.checked_sub(before).filter(|&left| left > 0)?;
    Some(u32::try_from(left).map_or(PAGE_LEAVES, |left| left.min(PAGE_LEAVES)))
}

#[cfg(test)]
mod tests;
