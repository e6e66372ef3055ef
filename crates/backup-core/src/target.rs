//! Targets: the way back, in the same plug-in that made the snapshot.
//!
//! The engine fetches each part of the repository once and hands content over in whatever way the
//! target can take it: positioned writes out of order and in parallel, or one stream in order.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::context::OpContext;
use crate::entry::EntryMeta;
use crate::error::TargetError;
use crate::finding::Finding;
use crate::path::EntryPath;
use crate::plan::{Outcome, SizeHint};
use crate::snapshot::{ComponentMeta, SnapshotMeta};

/// What a restore is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestoreMode {
    /// Files below a folder.
    Files,
    /// Beside what runs, under another name.
    Beside,
    /// In the place of what runs.
    Replace,
    /// Into a private instance, to be proved and thrown away.
    Drill,
}

/// What a restore is asked to do.
#[derive(Debug, Clone)]
pub struct RestoreRequest {
    /// The snapshot.
    pub snapshot: SnapshotMeta,
    /// The component of it.
    pub component: ComponentMeta,
    /// What for.
    pub mode: RestoreMode,
    /// The folder to write below, for targets that write files.
    pub folder: Option<PathBuf>,
}

/// What a restore will do; showing it is the dry run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorePlan {
    /// Where it will write, for people.
    pub into: String,
    /// How much, as far as known.
    pub total: SizeHint,
    /// What was noticed while planning.
    pub notes: Vec<Finding>,
}

/// An entry to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreEntry {
    /// Its path below the place of the restore.
    pub path: EntryPath,
    /// Its metadata.
    pub meta: EntryMeta,
    /// Size of its content in bytes.
    pub size: u64,
    /// SHA-256 of its content, where the snapshot has it.
    pub sha256: Option<[u8; 32]>,
    /// Of a folder: whether everything that the snapshot has in it is restored with it, and not a
    /// selection. A target that deletes what the snapshot does not have deletes in no other.
    pub whole: bool,
    /// Of a folder: it is no part of what was chosen, and only comes along for what is in it. One that stands there stays as
    /// it is.
    pub on_way: bool,
}

/// Takes the content of one entry at positions, out of order, from several threads.
pub trait PositionalWriter: fmt::Debug + Send + Sync {
    /// Writes at an offset. Ranges that were neither written nor kept read as zeros, whatever the
    /// entry held before.
    ///
    /// # Errors
    /// [`TargetError`]: this entry fails, the others go on.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError>;

    /// Reads what the entry holds now, so that content that is there already is not written
    /// again: see [`keep`](Self::keep). Returns how many bytes were read, fewer than asked for at
    /// the end. Reading changes nothing: the content may turn out to be another.
    ///
    /// # Errors
    /// [`TargetError`]; the range is then simply written.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError>;

    /// Keeps a range as it is: it was read, and holds what it should.
    fn keep(&self, range: Range<u64>);

    /// Whether the entry held content before the restore that may be reused.
    fn had_content(&self) -> bool;
}

/// Takes the content of one entry in order.
#[async_trait]
pub trait StreamWriter: fmt::Debug + Send {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`TargetError`]: this entry fails.
    async fn write(&mut self, bytes: Bytes) -> Result<(), TargetError>;
}

/// How an entry wants its content.
#[derive(Debug)]
pub enum EntryWriter {
    /// Not at all: it has none, it is a further link to a file, or it is not to be overwritten.
    None,
    /// At positions, out of order.
    Positional(std::sync::Arc<dyn PositionalWriter>),
    /// In order.
    Stream(Box<dyn StreamWriter>),
}

/// How the content of an entry came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryOutcome {
    /// All of it was written or was there already.
    Whole,
    /// Some of it could not be had or written: mark it or leave it out.
    Failed,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RestoreReport {
    /// Entries written or updated.
    pub written: u64,
    /// Entries that were there already, or were not to be overwritten.
    pub skipped: u64,
    /// Entries that stood in the folder and not in the snapshot, and were deleted.
    pub deleted: u64,
    /// What could not be restored, or not wholly.
    pub findings: Vec<Finding>,
}

/// Something that a component of a snapshot can be restored into. Making it does no I/O.
#[async_trait]
pub trait Target: fmt::Debug + Send + Sync {
    /// Finds out what a restore would do; only reads.
    ///
    /// # Errors
    /// [`TargetError`] when it cannot be done.
    async fn plan(
        &self,
        cx: &OpContext,
        request: &RestoreRequest,
    ) -> Result<RestorePlan, TargetError>;

    /// Begins to find out what a restore would do with what is there; only reads. `None`: nothing is
    /// there, or the target cannot tell.
    ///
    /// # Errors
    /// [`TargetError`] when it cannot be found out.
    async fn rehearse(
        &self,
        cx: &OpContext,
        plan: &RestorePlan,
    ) -> Result<Option<Box<dyn Rehearsal>>, TargetError> {
        let _ = (cx, plan);
        Ok(None)
    }

    /// Starts.
    ///
    /// # Errors
    /// [`TargetError`]; then nothing is left behind.
    async fn begin(
        &self,
        cx: &OpContext,
        plan: RestorePlan,
    ) -> Result<Box<dyn Restore>, TargetError>;
}

/// What a restore would do with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rehearsed {
    /// Nothing stands in its place: it is made.
    New,
    /// What stands in its place stays as it is.
    Stays,
    /// What stands in its place becomes the entry, or gives way to it.
    Replaced,
}

/// The dry run of a restore into something that is there: it finds out what would become of that, and
/// changes nothing. `see` is called in ascending order of path with every entry that
/// [`Restore::start`] would get. `deletes` is told the path of each thing that would be deleted, below
/// the place of the restore, once.
pub trait Rehearsal: fmt::Debug + Send {
    /// Looks at what stands in the place of an entry.
    ///
    /// # Errors
    /// [`TargetError`]: this entry would fail, the others go on.
    fn see(
        &mut self,
        entry: &RestoreEntry,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<Rehearsed, TargetError>;

    /// Ends it with what would be deleted at the end of the restore. Returns what was noticed.
    ///
    /// # Errors
    /// [`TargetError`].
    fn end(
        self: Box<Self>,
        outcome: Outcome,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<Vec<Finding>, TargetError>;
}

/// A restore under way. `start` is called in ascending order of path, from one place; `finish`
/// once for each started entry, in any order, from several threads.
#[async_trait]
pub trait Restore: fmt::Debug + Send + Sync {
    /// Makes ready for an entry: creates the folder, the link, the file.
    ///
    /// # Errors
    /// [`TargetError`]: this entry fails (a finding), the others go on.
    fn start(&self, cx: &OpContext, entry: &RestoreEntry) -> Result<EntryWriter, TargetError>;

    /// Ends an entry whose content is written: sets its metadata.
    ///
    /// # Errors
    /// [`TargetError`]: a finding.
    fn finish(
        &self,
        cx: &OpContext,
        entry: &RestoreEntry,
        writer: EntryWriter,
        outcome: EntryOutcome,
    ) -> Result<(), TargetError>;

    /// Ends an entry of which the ranges that are `lost` could not be had, and all others were written or
    /// kept. A target that can keeps it with zeros in these ranges, where nobody takes it for the entry,
    /// and says where. What stood in the place of the entry stays. `None`: nothing was kept, which is
    /// all that the targets can do that do not say otherwise.
    ///
    /// # Errors
    /// [`TargetError`]: a finding.
    fn finish_in_part(
        &self,
        cx: &OpContext,
        entry: &RestoreEntry,
        writer: EntryWriter,
        lost: &[Range<u64>],
    ) -> Result<Option<EntryPath>, TargetError> {
        let _ = lost;
        self.finish(cx, entry, writer, EntryOutcome::Failed)?;
        Ok(None)
    }

    /// Ends the restore: metadata of folders, swapping in, probing.
    /// Only behind [`Outcome::Committed`] there is all that there should be.
    ///
    /// # Errors
    /// [`TargetError`].
    async fn close(
        self: Box<Self>,
        cx: &OpContext,
        outcome: Outcome,
    ) -> Result<RestoreReport, TargetError>;
}
