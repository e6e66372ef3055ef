//! What a host says about a snapshot and signs.
//!
//! The signed message is the statement's encoding followed by the SHA-256 of the rest of the
//! snapshot's manifest, so that the signature covers the whole manifest, and yet the statement
//! alone, which holds no path and no content, is enough to check a proof.
//!
//! # Version 1, byte by byte
//!
//! Numbers are big-endian; `text16` is a `u16` length and so many bytes of UTF-8.
//!
//! | field | form |
//! |---|---|
//! | version | `u8`, 1 |
//! | repository | 16 bytes |
//! | snapshot | 16 bytes |
//! | host | `text16`, 1 to 1,024 bytes |
//! | name | `text16`, 0 to 1,024 bytes |
//! | time | `i64` seconds since 1970 rounded down, `u32` nanoseconds below 1,000,000,000 |
//! | leaf count | `u64` |
//! | Merkle root | 32 bytes |
//! | bytes of content | `u64` |
//! | parent | `u8` 0, or `u8` 1 and 16 bytes |
//!
//! Nothing follows. The signed message is this and 32 bytes more: the manifest's SHA-256.

use backup_core::{HostId, RepoId, SnapshotId};
use jiff::Timestamp;

use crate::merkle::MerkleRoot;
use crate::sign::{
    HmacKey, HostSigner, Purpose, SignatureError, Signatures, verify_ed25519, verify_hmac,
};
use crate::wire::{Reader, Short};

/// Longest host or name in bytes.
pub const MAX_NAME_BYTES: usize = 1024;

const VERSION: u8 = 1;

/// Why a statement cannot be encoded, or bytes are not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// A field holds what it may not.
    #[error("the {field} of a snapshot's statement is not one: {wanted}")]
    Field {
        /// Which field.
        field: &'static str,
        /// What it must be.
        wanted: &'static str,
    },
    /// The encoding ends within a field.
    #[error("the snapshot's statement ends too early")]
    Short,
    /// Bytes follow after the last field.
    #[error("{0} bytes follow after the snapshot's statement")]
    Trailing(usize),
    /// A version that this release does not know.
    #[error("a snapshot's statement of version {0}; this release reads version 1")]
    Version(u8),
    /// The signer is another host than the one that the statement names.
    #[error("the statement is that of host `{statement}` and cannot be signed by host `{signer}`")]
    OtherHost {
        /// The host in the statement.
        statement: String,
        /// The host that was to sign.
        signer: String,
    },
}

impl From<Short> for StatementError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// What a host says about a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedStatement {
    /// The repository.
    pub repo: RepoId,
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// The host that wrote and signs it.
    pub host: HostId,
    /// What it is a snapshot of.
    pub name: String,
    /// When its capture began, by the host's clock.
    pub time: Timestamp,
    /// How many entries are below the root.
    pub leaf_count: u64,
    /// The root over all entries.
    pub root: MerkleRoot,
    /// Bytes of content, as a restore would write them.
    pub bytes: u64,
    /// The snapshot that its capture built on.
    pub parent: Option<SnapshotId>,
}

impl SignedStatement {
    /// The encoding.
    ///
    /// # Errors
    /// [`StatementError::Field`] when host or name are too long, or the host is empty.
    pub fn encode(&self) -> Result<Vec<u8>, StatementError> {
        check_names(&self.host.0, &self.name)?;
        let nanos = self.time.as_nanosecond();
        // A timestamp reaches from the year -9999 to 9999: both parts fit.
        let seconds = i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(i64::MAX);
        let below = u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0);
        let mut out = Vec::with_capacity(160 + self.host.0.len() + self.name.len());
        out.push(VERSION);
        out.extend_from_slice(self.repo.as_bytes());
        out.extend_from_slice(&self.snapshot.to_bytes());
        for text in [&self.host.0, &self.name] {
            let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&seconds.to_be_bytes());
        out.extend_from_slice(&below.to_be_bytes());
        out.extend_from_slice(&self.leaf_count.to_be_bytes());
        out.extend_from_slice(self.root.as_bytes());
        out.extend_from_slice(&self.bytes.to_be_bytes());
        match &self.parent {
            None => out.push(0),
            Some(parent) => {
                out.push(1);
                out.extend_from_slice(&parent.to_bytes());
            }
        }
        Ok(out)
    }

    /// Reads an encoding.
    ///
    /// # Errors
    /// [`StatementError`] for anything that [`SignedStatement::encode`] would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        let mut from = Reader::new(bytes);
        match from.u8()? {
            VERSION => {}
            other => return Err(StatementError::Version(other)),
        }
        let repo = RepoId(from.array()?);
        let snapshot = SnapshotId::from_bytes(from.array()?);
        let host = text(from.short_bytes()?, "host")?;
        let name = text(from.short_bytes()?, "name")?;
        check_names(&host, &name)?;
        let time = time(from.i64()?, from.u32()?)?;
        let leaf_count = from.u64()?;
        let root = MerkleRoot(from.array()?);
        let content = from.u64()?;
        let parent = match from.u8()? {
            0 => None,
            1 => Some(SnapshotId::from_bytes(from.array()?)),
            _ => {
                return Err(StatementError::Field {
                    field: "parent",
                    wanted: "there or not",
                });
            }
        };
        if from.left() > 0 {
            return Err(StatementError::Trailing(from.left()));
        }
        let host = HostId(host);
        Ok(Self {
            repo,
            snapshot,
            host,
            name,
            time,
            leaf_count,
            root,
            bytes: content,
            parent,
        })
    }

    /// The message that is signed: the encoding and the SHA-256 of the rest of the manifest.
    ///
    /// # Errors
    /// As [`SignedStatement::encode`].
    pub fn message(&self, manifest_sha256: &[u8; 32]) -> Result<Vec<u8>, StatementError> {
        let mut message = self.encode()?;
        message.extend_from_slice(manifest_sha256);
        Ok(message)
    }

    /// Signs the statement.
    ///
    /// # Errors
    /// [`StatementError`] when it cannot be encoded or names another host than the signer.
    pub fn sign(
        &self,
        signer: &HostSigner,
        manifest_sha256: &[u8; 32],
    ) -> Result<Signatures, StatementError> {
        if *signer.host() != self.host {
            let (statement, signer) = (self.host.0.clone(), signer.host().0.clone());
            return Err(StatementError::OtherHost { statement, signer });
        }
        Ok(signer.sign(Purpose::Snapshot, &self.message(manifest_sha256)?))
    }
}

/// Checks the HMAC over an encoded statement and the SHA-256 of the rest of its manifest.
///
/// # Errors
/// [`SignatureError::Hmac`] when it does not match.
pub fn verify_statement_hmac(
    key: &HmacKey,
    statement: &[u8],
    manifest_sha256: &[u8; 32],
    signatures: &Signatures,
) -> Result<(), SignatureError> {
    let message = [statement, manifest_sha256].concat();
    verify_hmac(key, Purpose::Snapshot, &message, &signatures.hmac)
}

/// Checks the Ed25519 signature over an encoded statement and the SHA-256 of the rest of its
/// manifest, with the public key that stands beside it. Whether that key is a known one is the
/// caller's question.
///
/// # Errors
/// [`SignatureError`] when it does not match.
pub fn verify_statement_ed25519(
    statement: &[u8],
    manifest_sha256: &[u8; 32],
    signatures: &Signatures,
) -> Result<(), SignatureError> {
    let message = [statement, manifest_sha256].concat();
    verify_ed25519(
        &signatures.public_key,
        Purpose::Snapshot,
        &message,
        &signatures.ed25519,
    )
}

fn check_names(host: &str, name: &str) -> Result<(), StatementError> {
    if host.is_empty() || host.len() > MAX_NAME_BYTES {
        return Err(StatementError::Field {
            field: "host",
            wanted: "1 to 1,024 bytes",
        });
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(StatementError::Field {
            field: "name",
            wanted: "at most 1,024 bytes",
        });
    }
    Ok(())
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, StatementError> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned).map_err(|_| StatementError::Field {
        field,
        wanted: "UTF-8",
    })
}

fn time(seconds: i64, nanos: u32) -> Result<Timestamp, StatementError> {
    let wrong = StatementError::Field {
        field: "time",
        wanted: "a time of the years -9999 to 9999",
    };
    if nanos >= 1_000_000_000 {
        return Err(wrong);
    }
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    Timestamp::from_nanosecond(total).map_err(|_| wrong)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sign::tests::signer;

    pub(crate) fn statement() -> SignedStatement {
        SignedStatement {
            repo: RepoId([0xaa; 16]),
            snapshot: SnapshotId(0x0102),
            host: HostId("web-1".into()),
            name: "site".into(),
            time: "2024-02-29T12:00:00.5Z".parse().unwrap(),
            leaf_count: 3,
            root: MerkleRoot([0xcc; 32]),
            bytes: 1000,
            parent: Some(SnapshotId(1)),
        }
    }

    #[test]
    fn the_encoding_of_version_1_is_frozen() {
        let wanted = concat!(
            "01",
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "00000000000000000000000000000102",
            "00057765622d31", // "web-1"
            "000473697465",   // "site"
            "0000000065e071c01dcd6500",
            "0000000000000003",
            "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc",
            "00000000000003e8",
            "0100000000000000000000000000000001",
        );
        assert_eq!(hex::encode(statement().encode().unwrap()), wanted);
    }

    #[test]
    fn times_before_1970_have_one_encoding_too() {
        let mut early = statement();
        early.time = "1969-12-31T23:59:59.25Z".parse().unwrap();
        early.parent = None;
        let bytes = early.encode().unwrap();
        assert_eq!(SignedStatement::decode(&bytes).unwrap(), early);
        assert!(hex::encode(bytes).contains("ffffffffffffffff0ee6b280"));
    }

    #[test]
    fn the_signatures_cover_the_statement_and_the_rest_of_the_manifest() {
        let key = HmacKey::new([0x11; 32]);
        let signatures = statement().sign(&signer("web-1"), &[5; 32]).unwrap();
        let bytes = statement().encode().unwrap();
        assert!(verify_statement_hmac(&key, &bytes, &[5; 32], &signatures).is_ok());
        assert!(verify_statement_ed25519(&bytes, &[5; 32], &signatures).is_ok());
        assert!(verify_statement_hmac(&key, &bytes, &[6; 32], &signatures).is_err());
        assert!(verify_statement_ed25519(&bytes, &[6; 32], &signatures).is_err());
        let mut other = statement();
        other.leaf_count += 1;
        let other = other.encode().unwrap();
        assert!(verify_statement_hmac(&key, &other, &[5; 32], &signatures).is_err());
        assert!(verify_statement_ed25519(&other, &[5; 32], &signatures).is_err());
    }

    #[test]
    fn a_host_signs_only_in_its_own_name() {
        let refused = statement().sign(&signer("web-2"), &[0; 32]);
        assert!(matches!(refused, Err(StatementError::OtherHost { .. })));
    }

    #[test]
    fn names_that_are_too_long_are_refused() {
        for (host, name) in [("", "n"), ("h", "x".repeat(1025).as_str())] {
            let mut bad = statement();
            bad.host = HostId(host.into());
            bad.name = name.into();
            assert!(bad.encode().is_err());
        }
    }

    proptest! {
        #[test]
        fn every_accepted_encoding_is_the_only_one(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = statement().encode().unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            if let Ok(other) = SignedStatement::decode(&bytes) {
                prop_assert_ne!(&other, &statement());
                prop_assert_eq!(other.encode().unwrap(), bytes);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = SignedStatement::decode(&bytes);
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            if let Ok(read) = SignedStatement::decode(&bytes) {
                prop_assert_eq!(read.encode().unwrap(), bytes);
            }
        }
    }
}
