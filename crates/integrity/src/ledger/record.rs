//! One record, and the line that spells it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use backup_core::{HostId, RepoId, SnapshotId};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::ContentDigest;
use crate::merkle::MerkleRoot;
use crate::sign::{HmacKey, HmacTag, Purpose, SignatureError};

/// Longest line in bytes, without its newline.
pub const MAX_LINE_BYTES: usize = 64 << 10;

const VERSION: u64 = 1;
/// What stands between the members that the HMAC covers and the HMAC.
const HMAC_MEMBER: &[u8] = b",\"hmac\":\"";
/// The whole end of a line: the member's name, 64 digits, a quote and a brace.
const HMAC_END: usize = HMAC_MEMBER.len() + 64 + 2;

hex_bytes!(
    /// SHA-256 of a line without its newline.
    LineHash,
    32
);

impl LineHash {
    /// The hash of a line.
    #[must_use]
    pub fn of(line: &[u8]) -> Self {
        Self(ContentDigest::of(line).0)
    }

    /// What the first record holds in the place of a hash.
    pub const NONE: Self = Self([0; 32]);
}

/// A text that cannot name an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name an operation: 1 to 32 of a-z, 0-9 and `-`, a letter first")]
pub struct OpError(String);

/// What was done: one of the names below or, by later parts and plug-ins, another of
/// `[a-z][a-z0-9-]{0,31}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Op(Cow<'static, str>);

impl Op {
    /// A repository was made.
    pub const INIT: Self = Self(Cow::Borrowed("init"));
    /// A snapshot was made.
    pub const SNAPSHOT: Self = Self(Cow::Borrowed("snapshot"));
    /// A snapshot was removed.
    pub const FORGET: Self = Self(Cow::Borrowed("forget"));
    /// Something was restored.
    pub const RESTORE: Self = Self(Cow::Borrowed("restore"));
    /// A snapshot came to be held.
    pub const HOLD: Self = Self(Cow::Borrowed("hold"));
    /// A held snapshot was released.
    pub const RELEASE: Self = Self(Cow::Borrowed("release"));
    /// Something was verified.
    pub const VERIFY: Self = Self(Cow::Borrowed("verify"));
    /// Space was reclaimed.
    pub const PRUNE: Self = Self(Cow::Borrowed("prune"));
    /// Damage was repaired.
    pub const REPAIR: Self = Self(Cow::Borrowed("repair"));
    /// Snapshots were copied to another tier.
    pub const COPY: Self = Self(Cow::Borrowed("copy"));
    /// Lost records of the ledger are known.
    pub const ACCEPT: Self = Self(Cow::Borrowed("accept"));
    /// A key was added, changed or removed.
    pub const KEY: Self = Self(Cow::Borrowed("key"));

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Op {
    type Err = OpError;

    fn from_str(name: &str) -> Result<Self, OpError> {
        let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let led = name
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_lowercase());
        if !led || name.len() > 32 || !name.bytes().all(lower) {
            return Err(OpError(name.chars().take(64).collect()));
        }
        Ok(Self(Cow::Owned(name.to_owned())))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordOutcome {
    /// Done.
    Ok,
    /// Done, with findings.
    Findings,
    /// Failed; nothing was changed that counts.
    Failed,
    /// Stopped on request.
    Cancelled,
}

/// A record before it has its place in a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// When, by the host's clock.
    pub time: Timestamp,
    /// What was done.
    pub op: Op,
    /// The host that did it.
    pub host: HostId,
    /// The user of the operating system who did it.
    pub user: String,
    /// The repository.
    pub repo: RepoId,
    /// The snapshot, if it concerns one.
    pub snapshot: Option<SnapshotId>,
    /// Its Merkle root.
    pub root: Option<MerkleRoot>,
    /// Numbers by name: `entries`, `bytes`, `findings`.
    pub counts: BTreeMap<String, u64>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// A sentence for people. Never a secret.
    pub note: Option<String>,
}

/// A record as a line spells it, but for its HMAC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of the line.
    pub v: u64,
    /// Its number in the ledger, from 1.
    pub seq: u64,
    /// When, by the host's clock.
    pub time: Timestamp,
    /// What was done.
    #[serde(with = "as_text")]
    pub op: Op,
    /// The host that did it.
    pub host: HostId,
    /// The user of the operating system who did it.
    pub user: String,
    /// The repository.
    #[serde(with = "as_text")]
    pub repo: RepoId,
    /// The snapshot, if it concerns one.
    #[serde(
        default,
        with = "as_optional_text",
        skip_serializing_if = "Option::is_none"
    )]
    pub snapshot: Option<SnapshotId>,
    /// Its Merkle root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<MerkleRoot>,
    /// Numbers by name.
    pub counts: BTreeMap<String, u64>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// SHA-256 of the line before.
    pub prev: LineHash,
}

impl Record {
    /// The snapshot that is on the tier since this: one that was made there, or that a copy brought. What was read for
    /// a copy names none.
    #[must_use]
    pub fn arrived(&self) -> Option<SnapshotId> {
        let has_come = self.op == Op::SNAPSHOT || self.op == Op::COPY;
        self.snapshot.filter(|_| has_come)
    }

    /// What it says of whether its snapshot stays: not, if it is forgotten; and that is taken back by a copy, which
    /// brings it again, and by a hold, which is placed on what is there still. Of several records the last one counts.
    #[must_use]
    pub fn stays(&self) -> Option<(SnapshotId, bool)> {
        let stays = self.op == Op::COPY || self.op == Op::HOLD;
        let id = self.snapshot.filter(|_| stays || self.op == Op::FORGET)?;
        Some((id, stays))
    }
}

/// The end of a ledger: what the next record continues, and what proves, kept elsewhere, that the
/// ledger was not cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LedgerHead {
    /// Number of the last record.
    pub seq: u64,
    /// SHA-256 of its line.
    pub hash: LineHash,
}

/// Why bytes are not a line of a ledger, or a record cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// It is longer than [`MAX_LINE_BYTES`].
    #[error("it is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
    /// It was written by a release that knows more than this one.
    #[error("it has version {0}; this release reads version 1: use a newer one")]
    Newer(u64),
    /// It is not a record.
    #[error("it is not a record: {0}")]
    NotARecord(String),
    /// It is a record, but not spelled as this release or any before would.
    #[error("record {seq} is not spelled as it was written")]
    NotCanonical {
        /// The number that it claims.
        seq: u64,
    },
    /// The chain is at its end.
    #[error("there is no number after {}", u64::MAX)]
    Full,
}

/// A record with its place in a chain, spelled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    bytes: Vec<u8>,
    record: Record,
    hmac: HmacTag,
    hash: LineHash,
}

impl Line {
    /// Reads a line without its newline. The HMAC is not checked.
    ///
    /// # Errors
    /// [`LineError`] for anything that [`append`] would not write.
    pub fn parse(bytes: &[u8]) -> Result<Self, LineError> {
        if bytes.len() > MAX_LINE_BYTES {
            return Err(LineError::TooLong);
        }
        let (body, hmac) =
            split(bytes).ok_or_else(|| refuse(bytes, "it has no HMAC at its end"))?;
        let record: Record =
            serde_json::from_slice(&body).map_err(|error| refuse(bytes, &error.to_string()))?;
        if record.v != VERSION {
            return Err(refuse(bytes, "it has no version that ever was"));
        }
        if spell(&record)? != body {
            return Err(LineError::NotCanonical { seq: record.seq });
        }
        Ok(Self {
            bytes: bytes.to_vec(),
            record,
            hmac,
            hash: LineHash::of(bytes),
        })
    }

    /// The line without its newline.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The record.
    #[must_use]
    pub const fn record(&self) -> &Record {
        &self.record
    }

    /// The line's HMAC.
    #[must_use]
    pub const fn hmac(&self) -> &HmacTag {
        &self.hmac
    }

    /// The end of a ledger that ends in this line.
    #[must_use]
    pub const fn head(&self) -> LedgerHead {
        LedgerHead {
            seq: self.record.seq,
            hash: self.hash,
        }
    }

    /// Checks the HMAC.
    ///
    /// # Errors
    /// [`SignatureError::Hmac`] when it is not that of the line under `key`.
    pub fn verify_hmac(&self, key: &HmacKey) -> Result<(), SignatureError> {
        let end = self.bytes.len().saturating_sub(HMAC_END);
        let members = self.bytes.get(..end).unwrap_or(&[]);
        key.verify(Purpose::Ledger, &[members, b"}"], &self.hmac)
    }
}

/// Gives a record its place after `prev` (`None`: it is the first) and signs it.
///
/// # Errors
/// [`LineError`] when the line would be too long or could not be read back.
pub fn append(prev: Option<&LedgerHead>, draft: Draft, key: &HmacKey) -> Result<Line, LineError> {
    let (last, prev) = prev.map_or((0, LineHash::NONE), |head| (head.seq, head.hash));
    let record = Record {
        v: VERSION,
        seq: last.checked_add(1).ok_or(LineError::Full)?,
        time: draft.time,
        op: draft.op,
        host: draft.host,
        user: draft.user,
        repo: draft.repo,
        snapshot: draft.snapshot,
        root: draft.root,
        counts: draft.counts,
        outcome: draft.outcome,
        note: draft.note,
        prev,
    };
    let mut bytes = spell(&record)?;
    let hmac = key.sign(Purpose::Ledger, &[&bytes]);
    bytes.pop();
    bytes.extend_from_slice(HMAC_MEMBER);
    bytes.extend_from_slice(hmac.to_string().as_bytes());
    bytes.extend_from_slice(b"\"}");
    if bytes.len() > MAX_LINE_BYTES {
        return Err(LineError::TooLong);
    }
    let hash = LineHash::of(&bytes);
    Ok(Line {
        bytes,
        record,
        hmac,
        hash,
    })
}

fn spell(record: &Record) -> Result<Vec<u8>, LineError> {
    serde_json::to_vec(record).map_err(|error| LineError::NotARecord(error.to_string()))
}

/// Takes a line apart: what the HMAC covers, and the HMAC.
fn split(line: &[u8]) -> Option<(Vec<u8>, HmacTag)> {
    let (members, end) = line.split_at_checked(line.len().checked_sub(HMAC_END)?)?;
    let digits = end.strip_prefix(HMAC_MEMBER)?.strip_suffix(b"\"}")?;
    let hmac = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let mut body = Vec::with_capacity(members.len() + 1);
    body.extend_from_slice(members);
    body.push(b'}');
    Some((body, hmac))
}

/// Tells a line of a newer release, which may have any members, from one that is no record.
fn refuse(line: &[u8], why: &str) -> LineError {
    #[derive(Deserialize)]
    struct Head {
        v: u64,
    }
    match serde_json::from_slice::<Head>(line) {
        Ok(Head { v }) if v > VERSION => LineError::Newer(v),
        _ => LineError::NotARecord(why.to_owned()),
    }
}

mod as_text {
    use super::{Cow, Deserialize, Deserializer, FromStr, Serializer, fmt};

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(
        value: &T,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        let text = Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

mod as_optional_text {
    use super::{Deserializer, FromStr, Serializer, as_text, fmt};

    pub(super) fn serialize<T: fmt::Display, S: Serializer>(
        value: &Option<T>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => to.collect_str(value),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<Option<T>, D::Error>
    where
        T: FromStr<Err: fmt::Display>,
        D: Deserializer<'de>,
    {
        as_text::deserialize(from).map(Some)
    }
}
