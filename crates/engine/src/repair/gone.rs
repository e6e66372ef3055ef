//! Snapshots that are gone though nobody forgot them: the ledger knows them, or their sidecar is there.
//!
//! Their object comes from the sidecar or from a copy of the repository. What they use is what their refs say; where these
//! are gone or damaged as well, those that a copy has, and else the manifest. It stays as it is until they are back: their
//! refs count as those of snapshots that are there ([`Lost::read`]), so that packs that they name are looked for and indexed.
//! They are put back behind the index, since manifests are found by it.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{HostId, ObjectKey, OpContext, PackId, SnapshotId};
use backup_format::layout;
use backup_format::refs::Refs;
use bytes::Bytes;

use super::objects::{BadObject, From, fetch};
use super::packs::{MadeOf, replace};
use super::refs::{is_kept, is_staying, of_copy, take_away, used_by};
use crate::announced::Announced;
use crate::beside::{self, Ended};
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::given_up::missed;
use crate::prune::repack::place_refs;
use crate::refs::{self, Sum};
use crate::repository::Repository;

/// What is gone of small objects though nobody took it away, and what is left of it.
#[derive(Debug, Default)]
pub(super) struct Lost {
    /// The small objects that have a sidecar, there or gone.
    pub(super) protected: BTreeSet<ObjectKey>,
    /// Key slots.
    pub(super) slots: BTreeSet<ObjectKey>,
    /// Snapshots.
    pub(super) snapshots: BTreeMap<SnapshotId, Left>,
}

/// What is left of the refs of a snapshot.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// All that are there.
    refs: Vec<ObjectKey>,
    /// Those that cannot be read, and why.
    damaged: Vec<(ObjectKey, String)>,
    /// What the others name.
    sum: Sum,
}

/// Where it is had from what a snapshot uses.
pub(super) enum Way {
    /// From its own refs.
    Own,
    /// From those that a copy has.
    Copy(Sum),
    /// From its manifest.
    Manifest,
}

impl Left {
    async fn of(
        repo: &Repository,
        cx: &OpContext,
        listed: &mut refs::Listed,
        id: SnapshotId,
    ) -> Result<Self> {
        let mut out = Self::default();
        for key in listed.remove(&id).unwrap_or_default() {
            match refs::read(repo, cx, &key).await {
                Ok(Some(refs)) => out.sum.add(refs),
                Ok(None) => continue,
                Err(error) if error.is_damage() => {
                    out.damaged.push((key.clone(), error.to_string()))
                }
                Err(error) => return Err(error),
            }
            out.refs.push(key);
        }
        Ok(out)
    }

    fn are_whole(&self) -> bool {
        !self.refs.is_empty() && self.damaged.is_empty()
    }
}

impl Lost {
    /// Looks what is gone, in the ledger and by what lies beside it.
    pub(super) async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let mut out = Self {
            protected: beside::all(repo, cx, "parity/", layout::small_parity_of).await?,
            ..Self::default()
        };
        let mut gone = missed(repo, cx).await?;
        let mut orphans = beside::gone(repo, cx, &out.protected).await?;
        orphans.retain(|key| layout::config_number(key).is_none());
        if !orphans.is_empty() {
            let ended = Ended::read(repo, cx).await?;
            for key in orphans.into_iter().filter(|key| !ended.has(key)) {
                gone.extend(layout::snapshot_id(&key));
                if layout::is_slot(&key) {
                    out.slots.insert(key);
                }
            }
        }
        if !gone.is_empty() {
            let mut listed = refs::list(repo, cx).await?;
            for id in gone {
                let left = Left::of(repo, cx, &mut listed, id).await?;
                out.snapshots.insert(id, left);
            }
        }
        Ok(out)
    }

    /// The packs that they use, as far as their refs say it.
    pub(super) fn packs(&self) -> impl Iterator<Item = PackId> {
        let all = self.snapshots.values().flat_map(|left| left.sum.0.keys());
        all.copied()
    }

    /// Whether it may be that those of them which can come back use more packs than these.
    pub(super) fn is_unsure(&self, has_copies: bool) -> bool {
        let has_sidecar = |id| layout::snapshot(id).is_ok_and(|key| self.protected.contains(&key));
        let mut torn = self.snapshots.iter().filter(|(_, left)| !left.are_whole());
        torn.any(|(id, _)| has_copies || has_sidecar(*id))
    }

    /// What is to be said of a snapshot.
    pub(super) fn why(&self, id: SnapshotId) -> String {
        let gone = "it is not on the tier, and nobody forgot it";
        match self.snapshots.get(&id) {
            Some(left) if left.are_whole() => gone.to_owned(),
            _ => format!("{gone}; its refs are gone or damaged as well"),
        }
    }
}

/// Where it is had from what a snapshot uses, whose object comes from its sidecar or from this copy; `here` are the packs
/// that are on the tier.
///
/// # Errors
/// Damage where nothing tells, or a copy names packs that are not here and this key reads no manifests. Errors of the
/// tiers.
pub(super) async fn way(
    repo: &Repository,
    cx: &OpContext,
    id: SnapshotId,
    left: &Left,
    copy: Option<&Repository>,
    here: impl Fn(&PackId) -> bool,
) -> Result<Way> {
    if left.are_whole() {
        return Ok(Way::Own);
    }
    let damaged = |why: String| EngineError::damaged(format!("snapshot {id}"), why);
    if let Some(copy) = copy {
        let sum = match of_copy(copy, cx, id).await {
            Ok(sum) => sum,
            Err(error) if error.is_damage() => Sum::default(),
            Err(error) => return Err(error),
        };
        let away = sum.0.keys().filter(|id| !here(id)).count();
        // A prune there may have written anew what lies here as it was: the manifest tells chunks, and no packs.
        if away > 0 && repo.keys().identities().is_err() {
            let place = copy.location();
            return Err(damaged(format!(
                "{place} has it, and of the packs that it uses there {away} are not here: run `snapshot repair` with a full \
                 key, or copy it from there as a whole"
            )));
        }
        if away == 0 && !sum.0.is_empty() {
            return Ok(Way::Copy(sum));
        }
    }
    if repo.keys().identities().is_err() {
        return Err(damaged(
            "its refs are gone or damaged as well, and they can be made anew with a full key alone, which reads manifests: run `snapshot repair` with one".into(),
        ));
    }
    Ok(Way::Manifest)
}

/// Puts a snapshot back that is gone, and its refs before it. That is a session: whoever collects garbage waits for its
/// end, and what was condemned before it is not built upon.
///
/// # Errors
/// Damage when it cannot be had any more, or the tier does not keep it. [`EngineError::OtherPrune`] when this run was
/// taken for dead. Errors of the tier.
pub(super) async fn bring_back(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    id: SnapshotId,
    object: &BadObject,
    others: &[Repository],
) -> Result<()> {
    // There is no data key: nothing new is sealed.
    let session = Announced::begin(repo, cx, host, Vec::new()).await?;
    let put = async {
        settle(repo, cx).await;
        let bytes = fetch(repo, cx, object, others).await?;
        let mut listed = refs::list(repo, cx).await?;
        let left = Left::of(repo, cx, &mut listed, id).await?;
        let refs = uses(repo, cx, id, (object, &bytes), &left, others).await?;
        let named = refs.as_ref().map_or_else(
            || left.sum.0.keys().copied().collect(),
            |refs| refs.packs.iter().map(|one| one.pack).collect::<Vec<_>>(),
        );
        is_staying(repo, cx, named.into_iter(), object.key.as_str()).await?;
        // Refs go before their snapshot.
        let placed = match refs {
            Some(refs) => Some(place_refs(repo, cx, &left.refs, &refs).await?),
            None => None,
        };
        let nothing = (Bytes::new(), MadeOf::Others);
        replace(repo, cx, &object.key, nothing, bytes).await?;
        Ok((left.damaged, placed))
    };
    let (damaged, placed) = match put.await {
        Ok(done) => done,
        Err(error) => {
            session.end_of_failed(repo, cx).await;
            return Err(error);
        }
    };
    settle(repo, cx).await;
    if session.is_revoked(repo, cx).await? {
        // What it needs may be gone: it is as it was found.
        repo.sink().delete(cx, &object.key).await?;
        let why = "it took this repair for dead; run it again, nothing is lost";
        return Err(EngineError::OtherPrune(why.into()));
    }
    if let Some(placed) = placed
        && let Err(error) = is_kept(repo, cx, id, &placed).await
    {
        session.end_of_failed(repo, cx).await;
        return Err(error);
    }
    take_away(repo, cx, &damaged).await?;
    session.end(repo, cx).await
}

/// What a snapshot uses, where its own refs do not say it.
async fn uses(
    repo: &Repository,
    cx: &OpContext,
    id: SnapshotId,
    (object, bytes): (&BadObject, &Bytes),
    left: &Left,
    others: &[Repository],
) -> Result<Option<Refs>> {
    let copy = match object.from {
        From::Sidecar => None,
        From::Copy(number) => others.get(number),
    };
    let index = repo.index().packs();
    let here = |id: &PackId| index.contains_key(id);
    match way(repo, cx, id, left, copy, here).await? {
        Way::Own => Ok(None),
        Way::Copy(sum) => Ok(Some(sum.into_refs(id))),
        Way::Manifest => {
            let head = repo.open_head(id, &object.key, bytes)?;
            match (used_by(repo, cx, &head).await, copy) {
                (Err(error), Some(copy)) if error.is_damage() => {
                    let place = copy.location();
                    Err(EngineError::damaged(
                        format!("snapshot {id}"),
                        format!("{error}; copy it from {place} as a whole"),
                    ))
                }
                (uses, _) => uses.map(Some),
            }
        }
    }
}
