//! Packs that snapshots use, that are on the tier, and that no index run knows: a run is gone. Nothing names index runs, so
//! that one is gone shows in nothing else; and what it alone knew cannot be restored until it is made anew.

use std::collections::BTreeSet;

use backup_core::{Finding, FindingKind, OpContext, PackId, Severity};

use crate::collect::settle;
use crate::error::Result;
use crate::refs;
use crate::repository::{Repository, SnapshotHead};

/// What is to be said of these packs, which are on the tier, and which refs name that count: whether no index run knows them.
/// Where a run is there that cannot be read, that is told already.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn of_named(
    repo: &Repository,
    cx: &OpContext,
    mut packs: BTreeSet<PackId>,
) -> Result<Option<Finding>> {
    let known = repo.index().packs();
    packs.retain(|id| !known.contains_key(id));
    if packs.is_empty() || !repo.damaged_run_errors().is_empty() {
        return Ok(None);
    }
    // A save may have come to its end since the index was read, or a prune.
    settle(repo, cx).await;
    repo.refresh_index(cx).await?;
    let dead = repo.collection(cx).await?.dead;
    let known = repo.index().packs();
    packs.retain(|id| !known.contains_key(id) && !dead.contains(id));
    let Some(first) = packs.first() else {
        return Ok(None);
    };
    let count = packs.len();
    let detail = format!(
        "of the packs that snapshots use {count} are on the tier and in no index run (the first is {first}): a run is gone; until `snapshot repair index` makes it anew from the ends of the packs, what lies in them cannot be restored, and saves store it again"
    );
    let (severity, kind) = (Severity::Error, FindingKind::Missing);
    Ok(Some(Finding::new(severity, kind, "the index", detail)))
}

/// The same of packs of which it is not known whether anybody uses them, as far as one snapshot does.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn of_snapshot(
    repo: &Repository,
    cx: &OpContext,
    head: &SnapshotHead,
    unknown: &BTreeSet<PackId>,
) -> Result<Option<Finding>> {
    if unknown.is_empty() {
        return Ok(None);
    }
    let keys = refs::list(repo, cx).await?.remove(&head.meta.id);
    let mut used = BTreeSet::new();
    for key in keys.unwrap_or_default() {
        match refs::read(repo, cx, &key).await {
            Ok(Some(refs)) => used.extend(refs.packs.iter().map(|one| one.pack)),
            Ok(None) => {}
            // Verification tells of it.
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    used.retain(|id| unknown.contains(id));
    of_named(repo, cx, used).await
}
