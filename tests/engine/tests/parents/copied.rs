//! Two tiers of one family, for the model.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_core::{Finding, Severity, Sink, SnapshotId};
use backup_engine::copy::{CopyJob, Found, copy, found, make, plan};
use backup_engine::ledger::records;
use backup_engine::{Repository, Result};
use backup_integrity::ledger::Op;
use backup_testkit::FaultSink;
use futures::TryStreamExt as _;

use crate::world::{World, host};

/// Whether there is a repository on a tier.
pub(crate) async fn is_made(world: &World) -> bool {
    // An init that was killed has left slots.
    Repository::exists(&world.cx, &world.mem).await.unwrap()
}

/// The snapshots that are on a tier.
pub(crate) async fn ids(world: &World) -> BTreeSet<SnapshotId> {
    let repo = world.open(&world.keys, None).await;
    let (heads, unread) = repo.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    heads.iter().map(|head| head.meta.id).collect()
}

/// Whether the ledger of a tier says that a snapshot was forgotten, and not that it was brought again.
pub(crate) async fn is_forgotten(world: &World, id: SnapshotId) -> bool {
    let repo = world.open(&world.keys, None).await;
    let all = records(&repo, &world.cx).await.unwrap();
    let all: Vec<_> = all.try_collect().await.unwrap();
    let of_it = all.into_iter().filter_map(|seen| seen.record.ok());
    let last = of_it
        .filter(|record| record.snapshot == Some(id))
        .rfind(|record| record.op == Op::FORGET || record.op == Op::COPY);
    last.is_some_and(|record| record.op == Op::FORGET)
}

/// Copies one snapshot, or all; gives what was found wrong.
pub(crate) async fn try_to_copy(
    from: &World,
    to: &World,
    sink: Option<FaultSink>,
    only: Option<SnapshotId>,
    again: bool,
) -> Result<Vec<Finding>> {
    let source = from.open(&from.keys, None).await;
    let (mut heads, _) = source.heads(&from.cx).await?;
    heads.retain(|head| only.is_none_or(|id| head.meta.id == id));
    let mut job = CopyJob::new(host());
    (job.again, job.index_bytes) = (again, 1);
    let tier: Arc<dyn Sink> = match sink {
        Some(sink) => Arc::new(sink),
        None => Arc::new(to.mem.clone()),
    };
    let mut target = match found(&source, &to.cx, tier.clone(), None).await? {
        Found::Same(target) => *target,
        Found::Nothing => make(&source, &to.cx, tier, None).await?,
    };
    if let Some(entries) = to.in_memory {
        target.keep_in_memory(entries);
        target.reload_index(&to.cx).await?;
    }
    let plan = plan(&source, Some(&target), &to.cx, &job, heads).await?;
    let mut findings = copy(&source, &mut target, &to.cx, plan, &job)
        .await?
        .findings;
    findings.retain(|one| one.severity > Severity::Note);
    Ok(findings)
}
