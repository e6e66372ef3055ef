//! Sources: what is saved, and how it is held still while it is read.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::context::OpContext;
use crate::entry::Entry;
use crate::error::SourceError;
use crate::id::SnapshotId;
use crate::plan::{CapturePlan, CaptureReport, Outcome};

/// How consistent the captured data is in itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Entries were read one after another while the world went on.
    Crash,
    /// The file system stood still.
    Filesystem,
    /// The application vouches for it.
    Application,
}

/// The point in time and in the application's own order that a capture stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsistentPoint {
    /// When.
    pub at: Timestamp,
    /// How consistent.
    pub consistency: Consistency,
    /// The application's own position and its kind: `lsn`, `gtid`, `bitmap`, `offset`.
    pub position: Option<(String, String)>,
}

/// What a source can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceCaps {
    /// It can hand over `Unchanged` segments or bodies by its own knowledge, when it is given a
    /// [`ParentHint`]. The engine refuses them from other sources.
    pub incremental: bool,
    /// How many entries may be open at once; 1 means: drain each stream before the next.
    pub max_open_entries: usize,
    /// The best consistency it can reach.
    pub best_consistency: Consistency,
}

/// Who a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceInfo {
    /// The plug-in's kind, as written into manifests: `files`, `postgres`.
    pub kind: &'static str,
    /// What it saves, for people; never a secret.
    pub origin: Vec<String>,
    /// Versions of tools and servers that take part, as far as known without asking.
    pub versions: BTreeMap<String, String>,
    /// What it can do.
    pub caps: SourceCaps,
}

/// The snapshot to build on: one of the same source whose content the engine has at hand. Where it
/// has not, there is no hint, and everything must be read.
#[derive(Debug, Clone)]
pub struct ParentHint {
    /// Its id.
    pub snapshot: SnapshotId,
    /// The point that it stands for, as its capture said.
    pub point: ConsistentPoint,
    /// What the source left for its next capture.
    pub cursor: Option<Bytes>,
    /// `Unchanged` may be said of entries that had at least so many bytes; smaller ones must be
    /// read. 0: of all.
    pub unchanged_from: u64,
}

/// What a capture is asked to do.
#[derive(Debug, Clone, Default)]
pub struct CaptureRequest {
    /// Parts of the source by name; empty: all of it.
    pub select: Vec<String>,
    /// The snapshot to build on.
    pub parent: Option<ParentHint>,
}

/// Something that can be saved. Making a source does no I/O.
#[async_trait]
pub trait Source: fmt::Debug + Send + Sync {
    /// Who it is and what it can do.
    fn info(&self) -> SourceInfo;

    /// Finds out what a capture would do; only reads.
    ///
    /// # Errors
    /// [`SourceError`] when the source cannot be reached or the request cannot be met.
    async fn plan(
        &self,
        cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError>;

    /// Takes what locks it needs and fixes the consistent point.
    ///
    /// # Errors
    /// [`SourceError`]; then no lock is left behind.
    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError>;
}

/// A capture under way. Dropping it releases what it holds, as `settle(Abandoned)` does.
#[async_trait]
pub trait Capture: fmt::Debug + Send {
    /// The point that this capture stands for.
    fn point(&self) -> &ConsistentPoint;

    /// The next entries, in ascending order of path over the whole capture; empty: the end.
    ///
    /// # Errors
    /// [`SourceError`] when the capture as a whole cannot go on. What is wrong with one entry is
    /// a finding of the report of [`Capture::close`].
    async fn next_entries(&mut self, cx: &OpContext) -> Result<Vec<Entry>, SourceError>;

    /// Ends the capture, after all bodies were read and before the snapshot is committed.
    ///
    /// # Errors
    /// [`SourceError`] when what was read is not what it should be (a command failed at its end):
    /// then there is no snapshot.
    async fn close(&mut self, cx: &OpContext) -> Result<CaptureReport, SourceError>;

    /// Learns the outcome, after the commit: now a slot or a bitmap may advance, or must not.
    ///
    /// # Errors
    /// [`SourceError`]; the snapshot stands, the report gets a finding.
    async fn settle(self: Box<Self>, cx: &OpContext, outcome: Outcome) -> Result<(), SourceError>;
}
