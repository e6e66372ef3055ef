//! Packs that a decision below `gc/` calls dead and that snapshots use all the same.
//!
//! Whoever keeps to the protocol never decides so: what a snapshot names at the time of the decision stays, and
//! nothing that is dead is named afterwards. But whoever holds the index key can write a decision. So nobody
//! takes such a pack for gone because of it: it is not deleted, its entries stay in the index, and it is told of.
//!
//! One thing alone comes to this without a lie: a prune that was taken for dead while it wrote packs anew may
//! write refs that name a copy which others have decided to be dead meanwhile. What it copied is then where it was.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ErrorKind, Finding, FindingKind, OpContext, PackId, Severity, SnapshotId};
use backup_format::layout;

use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::refs;
use crate::repository::{Repository, name};

/// Packs that snapshots use, each with one of these.
pub(crate) type Contested = BTreeMap<PackId, SnapshotId>;

/// Which of these packs, of which it was read that they are dead, snapshots name now. Refs and snapshots that
/// cannot be read name nothing.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn contested(
    repo: &Repository,
    cx: &OpContext,
    dead: &BTreeSet<PackId>,
) -> Result<Contested> {
    let mut out = Contested::new();
    if dead.is_empty() {
        return Ok(out);
    }
    settle(repo, cx).await;
    let (heads, _) = repo.heads(cx).await?;
    let listed = refs::list(repo, cx).await?;
    for head in heads {
        for key in listed.get(&head.meta.id).into_iter().flatten() {
            match refs::read(repo, cx, key).await {
                Ok(Some(refs)) => {
                    let used = refs.packs.iter().filter(|pack| dead.contains(&pack.pack));
                    out.extend(used.map(|pack| (pack.pack, head.meta.id)));
                }
                Ok(None) => {}
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(out)
}

/// Of contested packs those that are on the tier.
pub(crate) async fn there(
    repo: &Repository,
    cx: &OpContext,
    contested: &Contested,
) -> Result<Contested> {
    let mut out = Contested::new();
    for (id, snapshot) in contested {
        for is_meta in [false, true] {
            match repo
                .sink()
                .head(cx, &name(layout::pack(*id, is_meta))?)
                .await
            {
                Ok(_) => drop(out.insert(*id, *snapshot)),
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(out)
}

/// What is to be said of decisions that call contested packs dead, one finding for each.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn findings(
    repo: &Repository,
    cx: &OpContext,
    contested: &Contested,
) -> Result<Vec<Finding>> {
    let mut out = Vec::new();
    if contested.is_empty() {
        return Ok(out);
    }
    for key in repo.generations(cx).await? {
        if layout::dead_number(&key).is_none() {
            continue;
        }
        let list = match repo.generation(cx, &key).await {
            Ok(list) => list,
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        let mut used = contested.iter().filter(|(id, _)| list.packs.contains(id));
        let Some((id, snapshot)) = used.next() else {
            continue;
        };
        // It may be another one by the time that somebody has taken this one away.
        repo.cache().remove(key.as_str());
        let more = match used.count() {
            0 => String::new(),
            more => format!(", and {more} more that snapshots use"),
        };
        let detail = format!(
            "it calls pack {id} dead, which snapshot {snapshot} uses{more}: no prune decides so, so whoever holds a key of this repository has written it to have them deleted; they stay, and saves store anew what they hold; find out whose key it was (docs/keys.md), then write an empty object in its place, and the next `snapshot prune` decides anew"
        );
        let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
        out.push(Finding::new(severity, kind, key.as_str(), detail));
    }
    Ok(out)
}
