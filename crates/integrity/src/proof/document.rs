//! The file as JSON.

use serde::{Deserialize, Serialize};

use super::{ProofError, check_proof};
use crate::digest::ContentDigest;
use crate::merkle::{InclusionProof, MerkleRoot, TreeBytes};
use crate::sign::{Ed25519Signature, PublicKey, Signatures};
use crate::statement::SignedStatement;

pub(super) const TYPE: &str = "backstay-proof";
pub(super) const VERSION: u64 = 1;

/// What every version of the file has.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) version: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) version: u64,
    pub(super) snapshot: String,
    pub(super) time: String,
    pub(super) host: String,
    pub(super) name: String,
    pub(super) leaf_count: u64,
    pub(super) root: MerkleRoot,
    pub(super) statement: String,
    pub(super) manifest_sha256: ContentDigest,
    pub(super) public_key: PublicKey,
    pub(super) signature: Ed25519Signature,
    pub(super) entry: String,
    pub(super) index: u64,
    pub(super) leaf_salt: TreeBytes,
    pub(super) page_path: Vec<TreeBytes>,
    pub(super) top_path: Vec<TreeBytes>,
}

/// What a proof is made of.
#[derive(Debug, Clone, Copy)]
pub struct ProofParts<'a> {
    /// What the host stated.
    pub statement: &'a SignedStatement,
    /// SHA-256 of the rest of the snapshot's manifest.
    pub manifest_sha256: &'a [u8; 32],
    /// The signatures of the manifest; only the Ed25519 one goes into the proof.
    pub signatures: &'a Signatures,
    /// The entry in its canonical encoding.
    pub canonical: &'a [u8],
    /// What leads from the entry to the root.
    pub inclusion: &'a InclusionProof,
}

/// Writes a proof file, after checking it as whoever receives it will: a proof that does not hold
/// is never written.
///
/// # Errors
/// [`ProofError`] when the parts do not prove the entry.
pub fn write_proof(parts: &ProofParts<'_>) -> Result<Vec<u8>, ProofError> {
    let (statement, inclusion) = (parts.statement, parts.inclusion);
    let path = |path: &[[u8; 32]]| path.iter().copied().map(TreeBytes).collect();
    let document = Document {
        kind: TYPE.to_owned(),
        version: VERSION,
        snapshot: statement.snapshot.to_string(),
        time: statement.time.to_string(),
        host: statement.host.0.clone(),
        name: statement.name.clone(),
        leaf_count: statement.leaf_count,
        root: statement.root,
        statement: hex::encode(statement.encode()?),
        manifest_sha256: ContentDigest(*parts.manifest_sha256),
        public_key: parts.signatures.public_key,
        signature: parts.signatures.ed25519,
        entry: hex::encode(parts.canonical),
        index: inclusion.index,
        leaf_salt: TreeBytes(inclusion.leaf_salt),
        page_path: path(&inclusion.page_path),
        top_path: path(&inclusion.top_path),
    };
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(ProofError::Malformed)?;
    bytes.push(b'\n');
    check_proof(&bytes, Some(&parts.signatures.public_key), None)?;
    Ok(bytes)
}
