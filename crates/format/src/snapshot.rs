//! The snapshot object: the manifest's head, and the only commit point.
//!
//! Plaintext of an object of kind `Snapshot`: postcard (its wire specification, version 1) of
//! [`SnapshotObject`], behind one version byte. The *outer* part serves everybody who holds the
//! index key: lists, retention, copies, verification of presence. The *inner* part (paths, salt,
//! findings) is a blob of kind `Page` under the session's data key: for readers alone. Both are
//! bytes here, since the signatures are over exactly these bytes: the signed statement names the
//! SHA-256 of `outer ‖ inner`.

use std::collections::BTreeMap;

use backup_core::{
    ChunkId, ComponentMeta, Consistency, ConsistentPoint, Finding, HostId, SessionId, SnapshotId,
    SnapshotMeta, SnapshotStats,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::page::TreeRoot;
use crate::wire::WireError;

/// A snapshot object, read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotObject {
    /// Postcard of [`Outer`].
    pub outer: Vec<u8>,
    /// The sealed inner part.
    pub inner: Vec<u8>,
    /// Id of the inner blob.
    pub inner_id: ChunkId,
    /// Plain length of the inner blob in bytes.
    pub inner_raw: u32,
    /// The statement that is signed, in its own canonical encoding.
    pub statement: Vec<u8>,
    /// HMAC-SHA256 of the statement under the host's key.
    pub hmac: [u8; 32],
    /// Public Ed25519 key of the host.
    pub public_key: [u8; 32],
    /// Ed25519 signature of the statement, two halves.
    pub signature: ([u8; 32], [u8; 32]),
}

/// What everybody who holds the index key may know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outer {
    /// The snapshot, as in its name on the tier.
    pub id: [u8; 16],
    /// The session under whose data key it is sealed.
    pub session: [u8; 16],
    /// The wrapped data key of that session.
    pub wrap: Vec<u8>,
    /// The host that wrote it.
    pub host: String,
    /// The name of its line.
    pub name: String,
    /// When its capture began, in nanoseconds since 1970.
    pub time: i64,
    /// Tags, sorted.
    pub tags: Vec<String>,
    /// Schedule label.
    pub label: Option<String>,
    /// Whether it is a checkpoint.
    pub partial: bool,
    /// Number of findings.
    pub findings: u64,
    /// The snapshot that its capture built on.
    pub parent: Option<[u8; 16]>,
    /// Counts: entries, files, bytes, unchanged, read, new, added.
    pub stats: [u64; 7],
    /// Root of the tree of records; `None` for a snapshot without entries.
    pub manifest: Option<TreeRoot>,
    /// Root of the tree of lineage heads.
    pub lineage: Option<TreeRoot>,
    /// Merkle root over all entries.
    pub merkle_root: [u8; 32],
    /// Leaves of the Merkle tree.
    pub leaves: u64,
    /// What later versions add, by name.
    pub extra: BTreeMap<String, Vec<u8>>,
}

/// What readers know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inner {
    /// The parts of the snapshot, in the order of their numbers in the manifest's keys.
    pub components: Vec<InnerComponent>,
    /// Salt of the Merkle leaves.
    pub salt: [u8; 32],
    /// The first findings, as JSON.
    pub findings: Vec<String>,
    /// Version of the program that wrote it.
    pub program: String,
    /// User who ran it.
    pub user: String,
    /// What later versions add, by name.
    pub extra: BTreeMap<String, Vec<u8>>,
}

/// One component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnerComponent {
    /// Its name.
    pub name: String,
    /// Kind of plug-in.
    pub kind: String,
    /// What was saved.
    pub origin: Vec<String>,
    /// When its data stood still, in nanoseconds since 1970.
    pub at: i64,
    /// 0 crash, 1 file system, 2 application.
    pub consistency: u8,
    /// The application's own position and its kind.
    pub position: Option<(String, String)>,
    /// Versions of tools and servers.
    pub versions: BTreeMap<String, String>,
    /// What the source left for its next capture.
    pub cursor: Option<Vec<u8>>,
}

fn nanos(time: Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)
}

fn timestamp(nanos: i64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl InnerComponent {
    /// The stored form of a component.
    #[must_use]
    pub fn new(meta: &ComponentMeta, cursor: Option<Vec<u8>>) -> Self {
        Self {
            name: meta.name.clone(),
            kind: meta.kind.clone(),
            origin: meta.origin.clone(),
            at: nanos(meta.point.at),
            consistency: match meta.point.consistency {
                Consistency::Crash => 0,
                Consistency::Filesystem => 1,
                Consistency::Application => 2,
            },
            position: meta.point.position.clone(),
            versions: meta.versions.clone(),
            cursor,
        }
    }

    /// The component.
    #[must_use]
    pub fn meta(&self) -> ComponentMeta {
        ComponentMeta {
            name: self.name.clone(),
            kind: self.kind.clone(),
            origin: self.origin.clone(),
            point: ConsistentPoint {
                at: timestamp(self.at),
                consistency: match self.consistency {
                    2 => Consistency::Application,
                    1 => Consistency::Filesystem,
                    _ => Consistency::Crash,
                },
                position: self.position.clone(),
            },
            versions: self.versions.clone(),
        }
    }
}

impl Outer {
    /// The stored form of what is known of a snapshot, with the roots of its trees.
    #[must_use]
    pub fn new(meta: &SnapshotMeta, session: SessionId, wrap: Vec<u8>, roots: Roots) -> Self {
        let stats = &meta.stats;
        Self {
            id: meta.id.to_bytes(),
            session: session.to_bytes(),
            wrap,
            host: meta.host.0.clone(),
            name: meta.name.clone(),
            time: nanos(meta.time),
            tags: meta.tags.clone(),
            label: meta.label.clone(),
            partial: meta.partial,
            findings: meta.findings,
            parent: meta.parent.map(|parent| parent.to_bytes()),
            stats: [
                stats.entries,
                stats.files,
                stats.bytes,
                stats.unchanged,
                stats.bytes_read,
                stats.bytes_new,
                stats.bytes_added,
            ],
            manifest: roots.manifest,
            lineage: roots.lineage,
            merkle_root: roots.merkle,
            leaves: roots.leaves,
            extra: BTreeMap::new(),
        }
    }

    /// What is known of the snapshot. Holds and the ledger's first sight are not part of it.
    #[must_use]
    pub fn meta(&self) -> SnapshotMeta {
        let [
            entries,
            files,
            bytes,
            unchanged,
            bytes_read,
            bytes_new,
            bytes_added,
        ] = self.stats;
        SnapshotMeta {
            id: SnapshotId::from_bytes(self.id),
            name: self.name.clone(),
            host: HostId(self.host.clone()),
            time: timestamp(self.time),
            first_seen: None,
            tags: self.tags.clone(),
            label: self.label.clone(),
            held: false,
            partial: self.partial,
            findings: self.findings,
            parent: self.parent.map(SnapshotId::from_bytes),
            stats: SnapshotStats {
                entries,
                files,
                bytes,
                unchanged,
                bytes_read,
                bytes_new,
                bytes_added,
            },
        }
    }
}

/// The roots that an outer part names.
#[derive(Debug, Clone, Copy)]
pub struct Roots {
    /// Of the records.
    pub manifest: Option<TreeRoot>,
    /// Of the lineage heads.
    pub lineage: Option<TreeRoot>,
    /// Of the Merkle tree.
    pub merkle: [u8; 32],
    /// Its leaves.
    pub leaves: u64,
}

impl Inner {
    /// The findings as values; those that a newer version wrote and this one cannot read are
    /// left out.
    #[must_use]
    pub fn findings(&self, parse: impl Fn(&str) -> Option<Finding>) -> Vec<Finding> {
        self.findings
            .iter()
            .filter_map(|json| parse(json))
            .collect()
    }
}

impl SnapshotObject {
    /// The stored form.
    ///
    /// # Errors
    /// [`WireError::Decode`] if postcard refuses (it does not).
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        encode(self)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        decode(plain, "snapshot")
    }

    /// SHA-256 of `outer ‖ inner`, which the signed statement names.
    #[must_use]
    pub fn digest(outer: &[u8], inner: &[u8]) -> [u8; 32] {
        Sha256::new()
            .chain_update(outer)
            .chain_update(inner)
            .finalize()
            .into()
    }
}

/// Postcard behind a version byte of 1.
///
/// # Errors
/// [`WireError::Decode`] if postcard refuses.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    postcard::to_extend(value, vec![1]).map_err(|_| WireError::Decode("a value to be stored"))
}

/// Reads postcard behind a version byte of 1; nothing may be left over.
///
/// # Errors
/// [`WireError`].
pub fn decode<T: for<'a> Deserialize<'a>>(
    plain: &[u8],
    what: &'static str,
) -> Result<T, WireError> {
    let (version, body) = plain.split_first().ok_or(WireError::Short)?;
    if *version != 1 {
        return Err(WireError::Version {
            what,
            found: u32::from(*version),
            known: 1,
        });
    }
    let (value, rest) = postcard::take_from_bytes(body).map_err(|_| WireError::Decode(what))?;
    if rest.is_empty() {
        Ok(value)
    } else {
        Err(WireError::Trailing(rest.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object() -> SnapshotObject {
        SnapshotObject {
            outer: vec![1, 2, 3],
            inner: vec![4; 100],
            inner_id: ChunkId([5; 32]),
            inner_raw: 90,
            statement: vec![6; 50],
            hmac: [7; 32],
            public_key: [8; 32],
            signature: ([9; 32], [10; 32]),
        }
    }

    proptest! {
        #[test]
        fn damaged_objects_are_refused_or_other(at: usize, value: u8, bytes: Vec<u8>) {
            let mut stored = object().encode().unwrap();
            prop_assert_eq!(SnapshotObject::decode(&stored).unwrap(), object());
            let at = at % stored.len();
            stored[at] = value;
            let _ = SnapshotObject::decode(&stored);
            let _ = SnapshotObject::decode(&bytes);
            let _ = decode::<Outer>(&bytes, "outer");
            let _ = decode::<Inner>(&bytes, "inner");
        }
    }
}
