//! The first stage: what will be captured, and what it can build on.

use std::sync::Arc;

use backup_core::{
    CapturePlan, CaptureRequest, OpContext, ParentHint, SnapshotId, Source, SourceInfo,
};

use bytes::Bytes;

use crate::error::Result;
use crate::repository::{Repository, SnapshotHead};
use crate::snapshot::SnapshotJob;
use crate::view::cursor;

/// A plan, ready to be captured.
#[derive(Debug)]
pub struct Planned {
    pub(super) source: Arc<dyn Source>,
    pub(super) info: SourceInfo,
    pub(super) plan: CapturePlan,
    pub(super) parent: Option<SnapshotHead>,
    /// The snapshots of this host that are there already.
    pub(super) earlier: Vec<SnapshotId>,
    pub(super) started: jiff::Timestamp,
}

impl Planned {
    /// What the source will capture; showing it is the dry run.
    #[must_use]
    pub const fn capture(&self) -> &CapturePlan {
        &self.plan
    }

    /// The snapshot that it builds on.
    #[must_use]
    pub const fn parent(&self) -> Option<&SnapshotHead> {
        self.parent.as_ref()
    }
}

/// Plans a snapshot; only reads.
///
/// # Errors
/// Errors of the source and of the tier.
pub async fn plan(
    repo: &Repository,
    cx: &OpContext,
    source: Arc<dyn Source>,
    job: &SnapshotJob,
) -> Result<Planned> {
    let started = cx.clock.now();
    let info = source.info();
    // Heads that cannot be read do not hinder a backup; it is verification that reports them.
    let (mut heads, _) = repo.heads(cx).await?;
    heads.retain(|head| head.meta.host == job.host);
    let earlier = heads.iter().map(|head| head.meta.id).collect();
    let parent = newest_of(heads, &job.name);
    let hint = parent
        .as_ref()
        .filter(|_| !job.reread)
        .map(|parent| ParentHint {
            snapshot: parent.meta.id,
            point: backup_core::ConsistentPoint {
                at: parent.meta.time,
                consistency: info.caps.best_consistency,
                position: None,
            },
            // Without one the source captures as if it were the first time.
            cursor: cursor(repo, parent, &job.component)
                .ok()
                .flatten()
                .map(Bytes::from),
        });
    let request = CaptureRequest {
        select: job.select.clone(),
        parent: hint,
    };
    let plan = source.plan(cx, &request).await?;
    Ok(Planned {
        source,
        info,
        plan,
        parent,
        earlier,
        started,
    })
}

/// The newest complete snapshot of a line.
fn newest_of(heads: Vec<SnapshotHead>, line: &str) -> Option<SnapshotHead> {
    let is_of = |head: &SnapshotHead| head.meta.name == line && !head.meta.partial;
    heads.into_iter().rev().find(is_of)
}
