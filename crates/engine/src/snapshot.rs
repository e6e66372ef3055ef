//! Making a snapshot: the whole way of the data in one function.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, HostId, OpContext, SnapshotMeta, Source};
use backup_integrity::merkle::MerkleRoot;
use jiff::Timestamp;

use crate::error::{EngineError, Result};
use crate::ledger::begin_if_new;
use crate::repository::Repository;
use crate::stage::capture::capture;
use crate::stage::chunk::chunk;
use crate::stage::commit::{commit, prepare};
use crate::stage::plan::{Planned, plan, plan_without_parent};
use crate::stage::record::record;
use crate::stage::seal::seal;
use crate::stage::store::store;
pub use crate::stage::{CheckpointRule, PieceLimit};

/// What a snapshot is called and how it is made.
#[derive(Debug, Clone)]
pub struct SnapshotJob {
    /// The name of its line: snapshots of one name and host follow each other.
    pub name: String,
    /// The host that writes and signs.
    pub host: HostId,
    /// The user who asked for it, for the record.
    pub user: String,
    /// Name and version of the program, for the record.
    pub program: String,
    /// Name of the component within the snapshot.
    pub component: String,
    /// Marks of the user's choosing.
    pub tags: Vec<String>,
    /// The schedule label.
    pub label: Option<String>,
    /// Parts of the source by name; empty: all of it.
    pub select: Vec<String>,
    /// Read everything, whatever the last run says of it.
    pub reread: bool,
    /// zstd level.
    pub compression: i32,
    /// When progress is made safe.
    pub checkpoint: CheckpointRule,
    /// How many pieces of a stream are told apart.
    pub pieces: PieceLimit,
    /// When what is imported was made; `None`: now. The ledger says both, when it was made and when it came.
    pub imported_from: Option<Timestamp>,
}

impl SnapshotJob {
    /// A job of that name by that host, everything else as usual.
    #[must_use]
    pub fn new(name: impl Into<String>, host: HostId) -> Self {
        Self {
            name: name.into(),
            host,
            user: String::new(),
            program: concat!("backstay ", env!("CARGO_PKG_VERSION")).into(),
            component: "main".into(),
            tags: Vec::new(),
            label: None,
            select: Vec::new(),
            reread: false,
            compression: backup_format::seal::DEFAULT_LEVEL,
            checkpoint: CheckpointRule::default(),
            pieces: PieceLimit::default(),
            imported_from: None,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct SnapshotReport {
    /// The snapshot.
    pub meta: SnapshotMeta,
    /// Its Merkle root.
    pub root: MerkleRoot,
    /// What could not be captured, or was degraded.
    pub findings: Vec<Finding>,
    /// Findings that were counted only.
    pub findings_left_out: u64,
    /// Bytes of its refs object.
    pub refs_bytes: u64,
}

/// Makes a snapshot of a source.
///
/// Must run on a multi-threaded tokio runtime.
///
/// # Errors
/// [`crate::EngineError`]; then there is no snapshot that this run vouches for, and what was stored is
/// reused by the next run.
#[boxed]
pub async fn snapshot(
    repo: &Repository,
    cx: &OpContext,
    source: Arc<dyn Source>,
    job: &SnapshotJob,
) -> Result<SnapshotReport> {
    let (mut lost_parent, mut revoked, mut lost_cache) = (None, None, None);
    loop {
        let planned = match &lost_parent {
            None => plan(repo, cx, source.clone(), job).await?,
            Some(why) => plan_without_parent(repo, cx, source.clone(), job, why).await?,
        };
        match run(repo, cx, planned, job).await {
            // What was stored is not stored again; the source reads what it left out.
            Err(why @ EngineError::Parent { .. }) if lost_parent.is_none() => {
                lost_parent = Some(why);
            }
            // In a new session, which finds what this one has stored.
            Err(EngineError::TakenForDead(id)) if revoked.is_none() => revoked = Some(id),
            // What lay there only is read from the tier.
            Err(why @ EngineError::IndexCache(_)) if lost_cache.is_none() => lost_cache = Some(why),
            // A stream that is gone cannot be saved again: what became of the first run is what counts.
            Err(EngineError::Source(error)) if error.kind == ErrorKind::Invalid => {
                let revoked = revoked.map(EngineError::TakenForDead);
                return Err(revoked.or(lost_cache).unwrap_or_else(|| error.into()));
            }
            ended => return ended,
        }
        repo.reload_index(cx).await?;
    }
}

async fn run(
    repo: &Repository,
    cx: &OpContext,
    planned: Planned,
    job: &SnapshotJob,
) -> Result<SnapshotReport> {
    if planned.earlier.is_empty() {
        // What hinders it hinders the record of the snapshot too, and is told there.
        let _ = begin_if_new(repo, cx, &job.host, &job.user).await;
    }
    let captured = capture(cx, planned).await?;
    let chunked = chunk(repo, captured, job)?;
    let sealing = seal(repo, cx, chunked, job).await?;
    let session = sealing.session().clone();
    let ready = match store(repo, cx, sealing, job).await {
        Ok(stored) => prepare(repo, cx, stored, job).await,
        Err(error) => Err(error),
    };
    let ready = match ready {
        Ok(ready) => ready,
        Err(error) => {
            // All of its threads have ended. What it wrote without hearing an answer may still come;
            // but that is nothing that a snapshot comes from.
            session.announced().end_of_failed(repo, cx).await;
            return Err(error);
        }
    };
    // From here on a failure leaves the session open: its snapshot may be there, or come.
    let committed = commit(repo, cx, ready).await?;
    record(repo, cx, committed, job).await
}
