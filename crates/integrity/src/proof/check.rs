//! Checking a proof.

use super::document::{Document, Head, TYPE, VERSION};
use super::{MAX_PROOF_BYTES, ProofError, SignedBy};
use crate::canonical::ProvenEntry;
use crate::digest::ContentDigest;
use crate::merkle::{InclusionProof, TreeBytes};
use crate::sign::{PublicKey, Purpose, verify_ed25519};
use crate::statement::SignedStatement;

/// Whether a file was compared with the proven entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentCheck {
    /// No file was given.
    NotAsked,
    /// The file's SHA-256 is the proven one.
    Same(ContentDigest),
}

/// What a proof that holds proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedProof {
    /// What the host stated about the snapshot.
    pub statement: SignedStatement,
    /// SHA-256 of the rest of the snapshot's manifest, which was signed with it.
    pub manifest_sha256: ContentDigest,
    /// The entry.
    pub entry: ProvenEntry,
    /// Its index in the snapshot.
    pub index: u64,
    /// Whose signature it is.
    pub signed_by: SignedBy,
    /// Whether a file was compared.
    pub content: ContentCheck,
}

/// Checks a proof file; see the [module](super) for what that takes.
///
/// `trusted` is the public key of the host as the checker knows it. Without it the proof only
/// says that *somebody* signed it, and [`SignedBy`] says so. `content` is the SHA-256 of a file
/// that is to be the proven one.
///
/// # Errors
/// [`ProofError`] when anything does not hold. Any bytes may be given: the checker neither panics
/// nor takes more memory than a small multiple of their length.
pub fn check_proof(
    bytes: &[u8],
    trusted: Option<&PublicKey>,
    content: Option<&ContentDigest>,
) -> Result<CheckedProof, ProofError> {
    let document = read(bytes)?;
    let statement = unhex(&document.statement, "statement")?;
    let canonical = unhex(&document.entry, "entry")?;

    let message = [&statement[..], &document.manifest_sha256.0].concat();
    verify_ed25519(
        &document.public_key,
        Purpose::Snapshot,
        &message,
        &document.signature,
    )?;
    let key = document.public_key;
    if let Some(trusted) = trusted.filter(|trusted| **trusted != key) {
        return Err(ProofError::OtherKey {
            signed_by: key,
            trusted: *trusted,
        });
    }

    let statement = SignedStatement::decode(&statement)?;
    agree(&document, &statement)?;

    let hashes = |path: &[TreeBytes]| path.iter().map(|hash| hash.0).collect();
    let inclusion = InclusionProof {
        index: document.index,
        leaf_salt: document.leaf_salt.0,
        page_path: hashes(&document.page_path),
        top_path: hashes(&document.top_path),
    };
    inclusion.verify(&statement.root, statement.leaf_count, &canonical)?;

    let entry = ProvenEntry::decode(&canonical)?;
    let content = match (content, entry.sha256) {
        (None, _) => ContentCheck::NotAsked,
        (Some(_), None) => return Err(ProofError::NoContent),
        (Some(found), Some(proven)) if *found == proven => ContentCheck::Same(proven),
        (Some(found), Some(proven)) => {
            return Err(ProofError::ContentDiffers {
                proven,
                found: *found,
            });
        }
    };
    Ok(CheckedProof {
        statement,
        manifest_sha256: document.manifest_sha256,
        entry,
        index: document.index,
        signed_by: SignedBy {
            key,
            trusted: trusted.is_some(),
        },
        content,
    })
}

fn read(bytes: &[u8]) -> Result<Document, ProofError> {
    if bytes.len() > MAX_PROOF_BYTES {
        return Err(ProofError::TooLong(bytes.len()));
    }
    let head: Head = serde_json::from_slice(bytes).map_err(ProofError::Malformed)?;
    if head.kind != TYPE {
        return Err(ProofError::OtherType(head.kind));
    }
    if head.version != VERSION {
        return Err(ProofError::Newer(head.version));
    }
    serde_json::from_slice(bytes).map_err(ProofError::Malformed)
}

fn unhex(digits: &str, member: &'static str) -> Result<Vec<u8>, ProofError> {
    if digits.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ProofError::Hex(member));
    }
    hex::decode(digits).map_err(|_| ProofError::Hex(member))
}

/// Compares what the file shows to people with what was signed.
fn agree(document: &Document, statement: &SignedStatement) -> Result<(), ProofError> {
    let pairs = [
        (
            "snapshot",
            document.snapshot.clone(),
            statement.snapshot.to_string(),
        ),
        ("time", document.time.clone(), statement.time.to_string()),
        ("host", document.host.clone(), statement.host.0.clone()),
        ("name", document.name.clone(), statement.name.clone()),
        (
            "leaf_count",
            document.leaf_count.to_string(),
            statement.leaf_count.to_string(),
        ),
        (
            "root",
            document.root.to_string(),
            statement.root.to_string(),
        ),
    ];
    match pairs.into_iter().find(|(_, shown, signed)| shown != signed) {
        None => Ok(()),
        Some((member, shown, signed)) => Err(ProofError::MemberDiffers {
            member,
            shown,
            signed,
        }),
    }
}
