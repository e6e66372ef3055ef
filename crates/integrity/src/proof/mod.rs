//! The proof file: one entry of one snapshot, proven to somebody who has neither the repository
//! nor a key of it.
//!
//! It says: *the host that holds this Ed25519 key stated that its snapshot has this Merkle root,
//! and this entry, with this path, size, time and SHA-256, is below that root.* Of everything else
//! in the snapshot it tells only how many entries there are and how many bytes of content.
//!
//! # The file, version 1
//!
//! A JSON object with exactly these members. Bytes are lower-case hexadecimal digits.
//!
//! | member | what it is |
//! |---|---|
//! | `type` | `"backstay-proof"` |
//! | `version` | `1` |
//! | `snapshot` | the snapshot's id |
//! | `time` | when its capture began, RFC 3339, UTC |
//! | `host` | the host that wrote and signed it |
//! | `name` | what it is a snapshot of |
//! | `leaf_count` | how many entries it has |
//! | `root` | its Merkle root, 32 bytes |
//! | `statement` | what was signed, first part: [`crate::statement`] |
//! | `manifest_sha256` | what was signed, second part: 32 bytes |
//! | `public_key` | the host's Ed25519 public key, 32 bytes |
//! | `signature` | the Ed25519 signature, 64 bytes |
//! | `entry` | the entry: [`crate::canonical`] |
//! | `index` | its index in the snapshot, from 0 |
//! | `leaf_salt` | its salt, 32 bytes |
//! | `page_path`, `top_path` | the neighbours' hashes on the way to the root: [`crate::merkle`] |
//!
//! `snapshot` to `root` repeat for people what `statement` holds, and must agree with it.
//!
//! # How it is checked
//!
//! 1. `signature` is that of `u8 20 ‖ "backstay snapshot v1" ‖ statement ‖ manifest_sha256` by
//!    `public_key`; and if the checker knows the host's key, `public_key` is it.
//! 2. `statement` decodes and agrees with the members that repeat it.
//! 3. `entry` climbs by `index`, `leaf_salt`, `page_path` and `top_path` to the statement's root,
//!    with the statement's count of entries.
//! 4. `entry` decodes; and if the checker has a file, its SHA-256 is the entry's.

mod check;
mod document;

use std::fmt;

pub use check::{CheckedProof, ContentCheck, check_proof};
pub use document::{ProofParts, write_proof};

use crate::canonical::CanonicalError;
use crate::digest::ContentDigest;
use crate::merkle::MerkleError;
use crate::sign::{PublicKey, SignatureError};
use crate::statement::StatementError;

/// Longest proof file in bytes: the longest entry in hexadecimal digits, and room for the rest.
pub const MAX_PROOF_BYTES: usize = 2 * crate::canonical::MAX_BYTES + (64 << 10);

/// Why a proof cannot be written, or does not prove anything.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The file is longer than any proof.
    #[error("a file of {0} bytes is no proof: none is that long")]
    TooLong(usize),
    /// The file is not a proof, or has a member that is none.
    #[error("this is not a proof file: {0}")]
    Malformed(#[source] serde_json::Error),
    /// The file is a JSON document of another kind.
    #[error("this is not a proof file but a `{0}`")]
    OtherType(String),
    /// The file was written by a release that knows more than this one.
    #[error("the proof has version {0}; this release reads version 1: check it with a newer one")]
    Newer(u64),
    /// A member is not the bytes that it should be.
    #[error("`{0}` of the proof is not lower-case hexadecimal digits")]
    Hex(&'static str),
    /// A member for people does not agree with the signed statement.
    #[error("`{member}` of the proof is {shown:?}, but {signed:?} is what was signed")]
    MemberDiffers {
        /// Which member.
        member: &'static str,
        /// What it shows.
        shown: String,
        /// What the statement says.
        signed: String,
    },
    /// The signature does not hold.
    #[error("the proof is not signed: {0}")]
    Signature(#[from] SignatureError),
    /// The proof is signed, but not with the key that is trusted.
    #[error("the proof is signed with key {signed_by}, and the trusted key is {trusted}")]
    OtherKey {
        /// The key of the signature.
        signed_by: PublicKey,
        /// The key that was to sign.
        trusted: PublicKey,
    },
    /// The signed statement cannot be read or written.
    #[error(transparent)]
    Statement(#[from] StatementError),
    /// The entry is not below the signed root.
    #[error("the entry is not proven: {0}")]
    NotIncluded(#[from] MerkleError),
    /// The entry cannot be read.
    #[error(transparent)]
    Entry(#[from] CanonicalError),
    /// The file is not the one that was saved.
    #[error("the file has SHA-256 {found}, and the saved one had {proven}")]
    ContentDiffers {
        /// SHA-256 of the entry.
        proven: ContentDigest,
        /// SHA-256 of the file.
        found: ContentDigest,
    },
    /// The entry has no content to compare with.
    #[error("the proven entry has no SHA-256 to compare a file with")]
    NoContent,
}

/// Whose signature a proof bears, and whether that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedBy {
    /// The key of the signature.
    pub key: PublicKey,
    /// Whether it is the key that the checker trusts; otherwise anybody may have made the proof.
    pub trusted: bool,
}

impl fmt::Display for SignedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = if self.trusted {
            "the trusted one"
        } else {
            "not checked against a known one"
        };
        write!(f, "signed by key {}, {known}", self.key)
    }
}

#[cfg(test)]
mod tests;
