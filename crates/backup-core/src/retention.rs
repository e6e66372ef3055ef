//! The contract of retention policies: pure functions from snapshots to verdicts with reasons.

use std::fmt;

use jiff::{Timestamp, tz::TimeZone};
use serde::{Deserialize, Serialize};

use crate::id::SnapshotId;
use crate::snapshot::SnapshotMeta;

/// What a policy decides on. One line of snapshots (same name and host) at a time.
#[derive(Debug, Clone, Copy)]
pub struct RetentionInput<'a> {
    /// The snapshots, in any order.
    pub snapshots: &'a [SnapshotMeta],
    /// The time now.
    pub now: Timestamp,
    /// The time zone in which days, weeks and months begin.
    pub tz: &'a TimeZone,
}

/// Keep or forget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It may go.
    Forget,
}

/// Why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Reason {
    /// It is the newest complete one of its line.
    Newest,
    /// It is the one kept for a slot of a rule: rule `daily`, slot `2026-11-21`.
    Bucket {
        /// The rule.
        rule: String,
        /// The slot of the rule that it fills.
        slot: String,
    },
    /// It lies within a span before the newest one.
    Within(String),
    /// Everything is kept for ever.
    Forever,
    /// A hold is on it.
    Held,
    /// It carries a tag that is kept.
    Tagged(String),
    /// It was named by its id.
    Named,
    /// It is the newest of its line of which nothing tells that it cannot be restored whole.
    Restorable,
    /// It says to be of a host that did not sign it: no rule counts it, and none lets it go.
    Unsigned,
    /// It is a checkpoint that no complete snapshot has followed yet.
    Checkpoint,
    /// No rule is for snapshots like it, so none lets it go.
    Ungoverned,
    /// No rule keeps it.
    Expired,
    /// It is a checkpoint that a complete snapshot has replaced.
    Superseded,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("newest"),
            Self::Bucket { rule, slot } => write!(f, "{rule} {slot}"),
            Self::Within(span) => write!(f, "within {span}"),
            Self::Forever => f.write_str("for ever"),
            Self::Held => f.write_str("held"),
            Self::Tagged(tag) => write!(f, "tag {tag}"),
            Self::Named => f.write_str("named"),
            Self::Restorable => f.write_str("newest that is not damaged"),
            Self::Unsigned => f.write_str("not signed by its host"),
            Self::Checkpoint => f.write_str("checkpoint"),
            Self::Ungoverned => f.write_str("no rule for it"),
            Self::Expired => f.write_str("expired"),
            Self::Superseded => f.write_str("superseded checkpoint"),
        }
    }
}

/// A verdict with its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The snapshot.
    pub id: SnapshotId,
    /// Keep or forget.
    pub verdict: Verdict,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// Decides which snapshots stay. Pure: no clock, no I/O, the same answer for the same input in
/// whatever order the snapshots come.
pub trait RetentionPolicy: fmt::Debug + Send + Sync {
    /// One decision for each snapshot, in the order of the input.
    fn decide(&self, input: &RetentionInput<'_>) -> Vec<Decision>;
}
