//! Holds: snapshots that nothing forgets until the hold is released.
//!
//! A hold is an object on the tier, so that every host sees it, and placing and releasing it are
//! records of the ledger. It keeps a mistaken or too eager retention away, not somebody who may
//! delete on the tier.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, HostId, OpContext, PutMode, SnapshotId, SnapshotMeta};
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use bytes::Bytes;
use futures::TryStreamExt;

use crate::error::Result;
use crate::ledger::{LedgerDraft, record_operation};
use crate::repository::{Repository, name};

/// The snapshots that are held; some of them may be gone.
///
/// # Errors
/// Those of the tier's list.
pub async fn holds(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<SnapshotId>> {
    let mut out = BTreeSet::new();
    let mut list = repo.sink().list(cx, "holds/", None);
    while let Some(meta) = list.try_next().await? {
        out.extend(layout::hold_id(&meta.key));
    }
    Ok(out)
}

/// Holds a snapshot; says whether it was not held before. `why` goes into the ledger.
///
/// # Errors
/// A key that cannot sign for the host; errors of the tier.
pub async fn hold(
    repo: &Repository,
    cx: &OpContext,
    snapshot: &SnapshotMeta,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<bool> {
    // A key that cannot sign must not leave a hold without a record.
    repo.keys().ledger_key(host)?;
    // All holds have the same bytes, so the tier cannot tell a second one from an answer that was
    // lost.
    if holds(repo, cx).await?.contains(&snapshot.id) {
        return Ok(false);
    }
    let key = name(layout::hold(snapshot.id))?;
    let body = Bytes::from_static(b"held\n");
    match repo.sink().put(cx, &key, body, PutMode::Create).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Conflict => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    record_operation(repo, cx, host, user, draft("hold", snapshot, why)).await?;
    Ok(true)
}

/// Releases a snapshot; says whether it was held.
///
/// # Errors
/// A key whose holder may not forget, or that cannot sign for the host; errors of the tier.
pub async fn release(
    repo: &Repository,
    cx: &OpContext,
    snapshot: &SnapshotMeta,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<bool> {
    repo.keys().may_forget()?;
    if !holds(repo, cx).await?.contains(&snapshot.id) {
        return Ok(false);
    }
    // The record first: a hold that went without one could not be told from a theft.
    record_operation(repo, cx, host, user, draft("release", snapshot, why)).await?;
    let key = name(layout::hold(snapshot.id))?;
    repo.sink().delete(cx, &key).await?;
    Ok(true)
}

fn draft(op: &'static str, snapshot: &SnapshotMeta, why: &str) -> LedgerDraft {
    LedgerDraft {
        op,
        snapshot: Some(snapshot.id),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: why.to_owned(),
    }
}
