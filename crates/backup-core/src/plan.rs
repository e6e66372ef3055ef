//! Plans and reports: what will be done, as a value that can be shown (a dry run), stored, and
//! passed back to be run; and what was done.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::finding::Finding;
use crate::id::SnapshotId;
use crate::source::ConsistentPoint;

/// What is known of a size before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SizeHint {
    /// At least so many bytes.
    pub at_least: u64,
    /// At most so many, if that is known.
    pub at_most: Option<u64>,
}

/// Whether a capture reads everything or builds on a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CaptureMode {
    /// Everything is read.
    Full {
        /// Why: no parent, `--reread`, the server lost its increments, …
        why: String,
    },
    /// What the parent has is not read again.
    Incremental {
        /// The parent.
        parent: SnapshotId,
    },
}

/// Something that a capture will hand over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedEntry {
    /// A name for people: a root folder, a database, a disk.
    pub name: String,
    /// Its size as far as known.
    pub size: SizeHint,
}

/// What a capture will do. Made by reading alone; showing it is the dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapturePlan {
    /// Full or incremental.
    pub mode: CaptureMode,
    /// What will be captured; for file trees the roots, not every file.
    pub entries: Vec<PlannedEntry>,
    /// Size of it all as far as known.
    pub total: SizeHint,
    /// What was noticed while planning.
    pub notes: Vec<Finding>,
    /// What the source needs to run the plan; opaque to everybody else.
    #[serde(skip)]
    pub token: Bytes,
}

/// What a capture has to say at its end, before the snapshot is committed.
#[derive(Debug, Clone, Default)]
pub struct CaptureReport {
    /// The point that the captured data stands for, where it is known only at the end.
    pub closing_point: Option<ConsistentPoint>,
    /// Opaque to the engine; handed to the next capture with this snapshot as parent.
    pub cursor: Option<Bytes>,
    /// What could not be captured, or was degraded.
    pub findings: Vec<Finding>,
}

/// How an operation ended, told to whoever holds a lock, a slot or a bitmap for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The snapshot is committed (or the restore complete).
    Committed,
    /// It is not; nothing may be forgotten.
    Abandoned,
    /// A restore that an error ended before it had seen all: the next one goes on, so nothing is finished that
    /// lacks something. A target that cannot go on takes it for [`Outcome::Abandoned`].
    BrokenOff,
}
