//! Snapshots that are gone for good. The ledger knows them and nobody forgot them, so a verification goes on to name
//! them and a prune to stop, until somebody says that they are given up: as a record that they are forgotten.

use std::collections::BTreeSet;

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, ObjectKey, OpContext, PackId, SnapshotId,
};
use backup_format::layout;
use bytes::Bytes;

use crate::beside::{self, Ended};
use crate::error::{EngineError, Result};
use crate::forget::{NOTE_OF_GONE, forget_named};
use crate::hold::Holds;
use crate::ledger::verify_ledger;
use crate::refs;
use crate::repair::used_by;
use crate::repository::{Repository, name};

/// A snapshot that is gone, and was not forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GivenUp {
    /// Its id.
    pub id: SnapshotId,
    /// Whether a repair brings it back: its sidecar is whole, and all packs that it uses are there, by its refs, or by
    /// its manifest where these are gone or damaged.
    pub comes_back: bool,
}

/// Snapshots that the ledger knows, that nobody forgot, and that are gone.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn missed(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<SnapshotId>> {
    let check = verify_ledger(repo, cx).await?;
    let missing = check
        .findings
        .iter()
        .filter(|one| one.kind == FindingKind::Missing);
    Ok(missing
        .filter_map(|one| one.subject.strip_prefix("snapshot ")?.parse().ok())
        .collect())
}

/// Those of some snapshots that are gone and that nobody forgot: the ledger knows them, or their sidecars are there.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn given_up(
    repo: &Repository,
    cx: &OpContext,
    wanted: &BTreeSet<SnapshotId>,
) -> Result<Vec<GivenUp>> {
    let missed = missed(repo, cx).await?;
    let ended = Ended::read(repo, cx).await?;
    let mut out = Vec::new();
    for id in wanted {
        let key = name(layout::snapshot(*id))?;
        if repo.has_snapshot(cx, *id).await? {
            continue;
        }
        let mended = beside::mended(cx, &**repo.sink(), &key).await?;
        let is_left = mended.is_some() && !ended.has(&key);
        if !is_left && !missed.contains(id) {
            continue;
        }
        let whole = mended.filter(|bytes| beside::check(repo, &key, bytes).is_ok());
        let comes_back = match whole {
            Some(bytes) => has_all(repo, cx, (*id, &key, &bytes)).await?,
            None => false,
        };
        out.push(GivenUp {
            id: *id,
            comes_back,
        });
    }
    Ok(out)
}

/// Whether all packs that a snapshot uses are on the tier. Where neither its refs nor its manifest can be read with this
/// key, another key may know it.
async fn has_all(
    repo: &Repository,
    cx: &OpContext,
    (id, key, bytes): (SnapshotId, &ObjectKey, &Bytes),
) -> Result<bool> {
    let Some(used) = by_refs(repo, cx, id).await? else {
        if repo.keys().identities().is_err() {
            return Ok(true);
        }
        let head = repo.open_head(id, key, bytes)?;
        return match used_by(repo, cx, &head).await {
            Ok(refs) => has_packs(repo, cx, refs.packs.iter().map(|one| one.pack)).await,
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        };
    };
    has_packs(repo, cx, used.into_iter()).await
}

/// The packs that a snapshot uses, if it has refs and all of them are whole.
async fn by_refs(
    repo: &Repository,
    cx: &OpContext,
    id: SnapshotId,
) -> Result<Option<BTreeSet<PackId>>> {
    let listed = refs::list(repo, cx).await?;
    let keys = listed.get(&id).map_or(&[][..], Vec::as_slice);
    let mut used = BTreeSet::new();
    for key in keys {
        match refs::read(repo, cx, key).await {
            Ok(Some(refs)) => used.extend(refs.packs.iter().map(|one| one.pack)),
            Ok(None) => return Ok(None),
            Err(error) if error.is_damage() => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok((!keys.is_empty()).then_some(used))
}

async fn has_packs(
    repo: &Repository,
    cx: &OpContext,
    packs: impl Iterator<Item = PackId>,
) -> Result<bool> {
    for pack in packs {
        let mut is_there = false;
        for is_meta in [false, true] {
            let key = name(layout::pack(pack, is_meta))?;
            match repo.sink().head(cx, &key).await {
                Ok(_) => is_there = true,
                Err(error) if error.kind == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !is_there {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Records that a snapshot that is gone is forgotten, and takes away what is left of it. Says what is wrong with the
/// ledger, as far as it was read.
///
/// # Errors
/// [`EngineError::Invalid`] when it is held, comes back by a repair, or is there again; [`EngineError::Key`] for a key
/// whose holder may not forget, or that cannot sign for the host; errors of the tier.
#[boxed]
pub async fn give_up(
    repo: &Repository,
    cx: &OpContext,
    gone: &GivenUp,
    host: &HostId,
    user: &str,
) -> Result<Vec<Finding>> {
    repo.keys().may_forget()?;
    let id = gone.id;
    let no = if Holds::read(repo, cx).await?.has(id) {
        Some("is held, so it is not given up")
    } else if gone.comes_back {
        Some("is gone, and `snapshot repair` puts it back from its sidecar")
    } else if repo.has_snapshot(cx, id).await? {
        Some("is there again")
    } else {
        None
    };
    if let Some(no) = no {
        return Err(EngineError::Invalid(format!("snapshot {id} {no}")));
    }
    let key = name(layout::snapshot(id))?;
    let named = (id, &key, NOTE_OF_GONE);
    forget_named(repo, cx, named, host, user).await
}
