//! Holds: snapshots that nothing forgets until the hold is released.
//!
//! A hold is an object on the tier, so that every host sees it, and placing and releasing it are
//! records of the ledger. It keeps a mistaken or too eager retention away, not somebody who may
//! delete on the tier.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, Finding, HostId, OpContext, PutMode, SnapshotId};
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
        let id = meta.key.as_str().rsplit('/').next();
        out.extend(id.and_then(|id| id.parse::<SnapshotId>().ok()));
    }
    Ok(out)
}

/// What came of placing or releasing a hold.
#[derive(Debug)]
pub struct HoldChange {
    /// Whether anything was to be done.
    pub changed: bool,
    /// What is wrong with the ledger, as far as it was read for that.
    pub findings: Vec<Finding>,
}

impl HoldChange {
    const NONE: Self = Self {
        changed: false,
        findings: Vec::new(),
    };

    const fn recorded(findings: Vec<Finding>) -> Self {
        Self {
            changed: true,
            findings,
        }
    }
}

/// Holds a snapshot, if it is not held. `why` goes into the ledger.
///
/// # Errors
/// A key that cannot sign for the host; errors of the tier.
pub async fn hold(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<HoldChange> {
    // A key that cannot sign must not leave a hold without a record.
    repo.keys().ledger_key(host)?;
    // All holds have the same bytes, so the tier cannot tell a second one from an answer that was
    // lost.
    if holds(repo, cx).await?.contains(&snapshot) {
        return Ok(HoldChange::NONE);
    }
    let key = name(layout::hold(snapshot))?;
    let body = Bytes::from_static(b"held\n");
    match repo.sink().put(cx, &key, body, PutMode::Create).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Conflict => return Ok(HoldChange::NONE),
        Err(error) => return Err(error.into()),
    }
    let findings = record_operation(repo, cx, host, user, draft("hold", snapshot, why)).await?;
    Ok(HoldChange::recorded(findings))
}

/// Releases a snapshot, if it is held.
///
/// # Errors
/// A key whose holder may not forget, or that cannot sign for the host; errors of the tier.
pub async fn release(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<HoldChange> {
    repo.keys().may_forget()?;
    if !holds(repo, cx).await?.contains(&snapshot) {
        return Ok(HoldChange::NONE);
    }
    // The record first: a hold that went without one could not be told from a theft.
    let findings = record_operation(repo, cx, host, user, draft("release", snapshot, why)).await?;
    let key = name(layout::hold(snapshot))?;
    repo.sink().delete(cx, &key).await?;
    Ok(HoldChange::recorded(findings))
}

fn draft(op: &'static str, snapshot: SnapshotId, why: &str) -> LedgerDraft {
    LedgerDraft {
        op,
        snapshot: Some(snapshot),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: why.to_owned(),
    }
}
