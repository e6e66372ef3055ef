//! The snapshot object: the manifest's head, and the only commit point.
//!
//! Plaintext of an object of kind `Snapshot`: postcard (its wire specification, version 1) of
//! [`SnapshotObject`], behind one version byte: 1, or 2 where a copy has brought the snapshot from another tier, and
//! then the session of that copy follows. The *outer* part serves everybody who holds the
//! index key: lists, retention, copies, verification of presence. The *inner* part (paths, salt,
//! findings) is a blob of kind `Page` under the session's data key: for readers alone. The *next*
//! part (what sources left for their next capture) is a blob of kind `Lineage`: for writers too,
//! which may have lost everything but their key; it names no paths. All are bytes here, since the signatures are over
//! exactly these bytes: what is signed names [`SnapshotObject::digest`].

use std::collections::BTreeMap;

use backup_core::{
    ChunkId, ComponentMeta, Consistency, ConsistentPoint, Finding, HostId, SessionId, SnapshotId,
    SnapshotMeta, SnapshotStats,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::extra::{self, Extra};
use crate::page::TreeRoot;
use crate::wire::{Put as _, WireError};

const WHAT: &str = "snapshot";

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
    /// What the next snapshot can build on.
    pub next: NextPart,
    /// The statement that is signed, in its own canonical encoding.
    pub statement: Vec<u8>,
    /// HMAC-SHA256 of the statement under the host's key.
    pub hmac: [u8; 32],
    /// Public Ed25519 key of the host.
    pub public_key: [u8; 32],
    /// Ed25519 signature of the statement, two halves.
    pub signature: ([u8; 32], [u8; 32]),
    /// The repository's authority's word that the public key is the host's, two halves; see
    /// [`crate::keys::is_certified`].
    pub certificate: ([u8; 32], [u8; 32]),
    /// The session that brought it to this tier, where that is another than the one that made it. It is not signed: it
    /// says something of this tier, and nothing of the snapshot.
    #[serde(skip)]
    pub brought_by: Option<SessionId>,
}

/// The version byte of an object that a copy has brought.
const BROUGHT: u8 = 2;

/// The sealed part that writers read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextPart {
    /// The sealed blob of kind lineage.
    pub sealed: Vec<u8>,
    /// Its id.
    pub id: ChunkId,
    /// Its plain length in bytes.
    pub raw: u32,
}

/// What sources left for their next capture.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Next {
    /// By the name of the component.
    pub components: BTreeMap<String, Left>,
    /// What later versions add, by name.
    pub extra: Extra,
}

/// What the source of one component left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which source it was; see [`source_name`].
    pub source: [u8; 32],
    /// The point that the captured data stands for.
    pub point: Point,
    /// Its own, for its next capture.
    pub cursor: Option<Vec<u8>>,
}

/// The name of a source among those of a repository: a keyed hash of what it is, so that writers can
/// tell their own again and learn no path of others.
///
/// `BLAKE3(BLAKE3(cut key, "backstay v1 source name"), bytes kind ‖ varint origins { bytes })`.
#[must_use]
pub fn source_name(cut_key: &[u8; 32], kind: &str, origin: &[String]) -> [u8; 32] {
    let key = blake3::keyed_hash(cut_key, b"backstay v1 source name");
    let mut named = Vec::new();
    named.put_bytes(kind.as_bytes());
    named.put_varint(origin.len() as u64);
    origin
        .iter()
        .for_each(|text| named.put_bytes(text.as_bytes()));
    *blake3::keyed_hash(key.as_bytes(), &named).as_bytes()
}

/// When data stood still, and how still.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// In nanoseconds since 1970.
    pub at: i64,
    /// 0 crash, 1 file system, 2 application.
    pub consistency: u8,
    /// The application's own position and its kind.
    pub position: Option<(String, String)>,
}

impl Point {
    /// The stored form of a point.
    #[must_use]
    pub fn new(point: &ConsistentPoint) -> Self {
        Self {
            at: nanos(point.at),
            consistency: match point.consistency {
                Consistency::Crash => 0,
                Consistency::Filesystem => 1,
                Consistency::Application => 2,
            },
            position: point.position.clone(),
        }
    }

    /// The point.
    #[must_use]
    pub fn point(&self) -> ConsistentPoint {
        ConsistentPoint {
            at: timestamp(self.at),
            consistency: match self.consistency {
                2 => Consistency::Application,
                1 => Consistency::Filesystem,
                _ => Consistency::Crash,
            },
            position: self.position.clone(),
        }
    }
}

/// What has room for additions.
pub trait Extended {
    /// What later versions add, by name, wherever in it.
    fn extras(&self) -> Vec<&Extra>;
}

impl Extended for Outer {
    fn extras(&self) -> Vec<&Extra> {
        vec![&self.extra]
    }
}

impl Extended for Inner {
    fn extras(&self) -> Vec<&Extra> {
        let of_components = self.components.iter().map(|component| &component.extra);
        std::iter::once(&self.extra).chain(of_components).collect()
    }
}

impl Extended for Next {
    fn extras(&self) -> Vec<&Extra> {
        vec![&self.extra]
    }
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
    pub extra: Extra,
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
    pub extra: Extra,
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
    /// When its data stood still.
    pub point: Point,
    /// Versions of tools and servers.
    pub versions: BTreeMap<String, String>,
    /// What later versions add, by name.
    pub extra: Extra,
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
    pub fn new(meta: &ComponentMeta) -> Self {
        Self {
            name: meta.name.clone(),
            kind: meta.kind.clone(),
            origin: meta.origin.clone(),
            point: Point::new(&meta.point),
            versions: meta.versions.clone(),
            extra: Extra::new(),
        }
    }

    /// The component.
    #[must_use]
    pub fn meta(&self) -> ComponentMeta {
        ComponentMeta {
            name: self.name.clone(),
            kind: self.kind.clone(),
            origin: self.origin.clone(),
            point: self.point.point(),
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
            extra: Extra::new(),
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
        let mut out = encode(self)?;
        if let (Some(session), Some(version)) = (self.brought_by, out.first_mut()) {
            *version = BROUGHT;
            out.extend_from_slice(&session.to_bytes());
        }
        Ok(out)
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        let Some((&BROUGHT, rest)) = plain.split_first() else {
            return decode(plain, WHAT);
        };
        let (body, session) = rest.split_last_chunk().ok_or(WireError::Short)?;
        let mut object: Self = decode_body(body, WHAT)?;
        object.brought_by = Some(SessionId::from_bytes(*session));
        Ok(object)
    }

    /// The session by which it counts on this tier: the one that brought it, or else the one that made it, which its
    /// outer part names.
    #[must_use]
    pub fn session(&self, outer: &Outer) -> SessionId {
        let made = SessionId::from_bytes(outer.session);
        self.brought_by.unwrap_or(made)
    }

    /// SHA-256 of the three parts as they are stored, which the signed statement names: for each
    /// `length u32 ‖ bytes`, the length big-endian.
    #[must_use]
    pub fn digest(outer: &[u8], inner: &[u8], next: &[u8]) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [outer, inner, next] {
            hasher.update((part.len() as u32).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }
}

/// Postcard behind a version byte of 1.
///
/// # Errors
/// [`WireError::Decode`] if postcard refuses.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    postcard::to_extend(value, vec![1]).map_err(|_| WireError::Decode("a value to be stored"))
}

/// Reads a part of a snapshot; see [`decode`]. What it needs to be read must be known.
///
/// # Errors
/// [`WireError`].
pub fn decode_part<T: Extended + for<'a> Deserialize<'a>>(plain: &[u8]) -> Result<T, WireError> {
    let part: T = decode(plain, WHAT)?;
    for extra in part.extras() {
        extra::check(extra, WHAT)?;
    }
    Ok(part)
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
    decode_body(body, what)
}

/// The same behind the version byte.
fn decode_body<T: for<'a> Deserialize<'a>>(
    body: &[u8],
    what: &'static str,
) -> Result<T, WireError> {
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
            next: NextPart {
                sealed: vec![11; 60],
                id: ChunkId([12; 32]),
                raw: 9,
            },
            statement: vec![6; 50],
            hmac: [7; 32],
            public_key: [8; 32],
            signature: ([9; 32], [10; 32]),
            certificate: ([13; 32], [14; 32]),
            brought_by: None,
        }
    }

    #[test]
    fn who_brought_a_copy_stands_behind_the_rest_and_counts_instead_of_who_made_it() {
        let made = object();
        let brought = SnapshotObject {
            brought_by: Some(SessionId::from_bytes([15; 16])),
            ..object()
        };
        let (plain, copied) = (made.encode().unwrap(), brought.encode().unwrap());
        assert_eq!(copied[0], 2);
        assert_eq!(copied[1..plain.len()], plain[1..]);
        assert_eq!(copied[plain.len()..], [15; 16]);
        assert_eq!(SnapshotObject::decode(&plain).unwrap(), made);
        assert_eq!(SnapshotObject::decode(&copied).unwrap(), brought);
        for cut in 0..copied.len() {
            assert!(SnapshotObject::decode(&copied[..cut]).is_err(), "{cut}");
        }
        let later = [&[3], &copied[1..]].concat();
        let refused = SnapshotObject::decode(&later);
        assert!(matches!(refused, Err(WireError::Version { .. })));
    }

    #[test]
    fn the_digest_tells_the_parts_apart() {
        let digests = [
            SnapshotObject::digest(b"ab", b"c", b""),
            SnapshotObject::digest(b"a", b"bc", b""),
            SnapshotObject::digest(b"a", b"b", b"c"),
            SnapshotObject::digest(b"a", b"b", b"d"),
            SnapshotObject::digest(b"abc", b"", b""),
        ];
        let different: std::collections::BTreeSet<_> = digests.into_iter().collect();
        assert_eq!(different.len(), digests.len());
    }

    #[test]
    fn mandatory_additions_stop_older_readers() {
        let with = |name: &str| Next {
            extra: [(name.to_owned(), vec![1])].into(),
            ..Next::default()
        };
        let read = |next: &Next| decode_part::<Next>(&encode(next).unwrap());
        assert_eq!(read(&with("later")), Ok(with("later")));
        let refused = read(&with("!later"));
        assert!(matches!(refused, Err(WireError::Needs { .. })));
        let component = InnerComponent {
            name: String::new(),
            kind: String::new(),
            origin: Vec::new(),
            point: Point {
                at: 0,
                consistency: 0,
                position: None,
            },
            versions: BTreeMap::new(),
            extra: with("!later").extra,
        };
        let inner = Inner {
            components: vec![component],
            salt: [0; 32],
            findings: Vec::new(),
            program: String::new(),
            user: String::new(),
            extra: Extra::new(),
        };
        let refused = decode_part::<Inner>(&encode(&inner).unwrap());
        assert!(matches!(refused, Err(WireError::Needs { .. })));
    }

    #[test]
    fn the_name_of_a_source_tells_its_parts_apart() {
        let name = |key: u8, kind: &str, origin: &[&str]| {
            let origin: Vec<_> = origin.iter().map(ToString::to_string).collect();
            source_name(&[key; 32], kind, &origin)
        };
        let names = [
            name(1, "files", &["/a", "/b"]),
            name(1, "files", &["/a/b"]),
            name(1, "files", &["/a"]),
            name(1, "files/a", &[]),
            name(2, "files", &["/a", "/b"]),
        ];
        let different: std::collections::BTreeSet<_> = names.into_iter().collect();
        assert_eq!(different.len(), names.len());
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
            let _ = decode_part::<Outer>(&bytes);
            let _ = decode_part::<Inner>(&bytes);
            let _ = decode_part::<Next>(&bytes);
        }
    }
}
