//! The index: what no run that can be read knows is indexed anew from the ends of the packs, with the
//! index key alone; behind that the runs that cannot be read go.
//!
//! No session is needed. An entry is true as long as its pack is there, and what names a pack that is dead by
//! then is passed over by everybody, for the dead stay known.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ErrorKind, FindingKind, ObjectKey, OpContext, PackId};
use backup_format::index::{IndexRun, MAX_ENTRIES, RunBuilder};
use backup_format::pack::{MAX_PACK, PackHeader, SessionWrap};
use futures::{FutureExt as _, StreamExt};

use super::survey::{Named, Tier};
use super::{Remedy, RepairPlan, Task, Work, packs};
use crate::claims::blobs_of;
use crate::collect::settle;
use crate::data_keys::{DoubtfulRun, MOST_WRAP_BYTES, WrapSet};
use crate::error::{EngineError, Result};
use crate::index_set::KnownRun;
use crate::pack_end::{end_of, read_end};
use crate::parity::read_all_there_is;
use crate::prune::merge::put_run;
use crate::repository::Repository;

/// Packs that are named in one error.
const MOST_NAMED: usize = 5;

/// What is wrong with the index.
#[derive(Debug)]
pub(super) struct BadIndex {
    /// Packs that no readable run knows.
    unknown: Vec<(ObjectKey, PackId)>,
    /// Packs of which runs say anything else than they do.
    misnamed: BTreeMap<PackId, ObjectKey>,
    /// Packs that were read whole.
    whole: BTreeSet<PackId>,
    unreadable: Vec<ObjectKey>,
    /// Runs that say false data keys.
    doubtful: Vec<DoubtfulRun>,
    /// Packs that snapshots need, that are not there, and of which no run that can be read tells what they held.
    untold: Vec<PackId>,
}

pub(super) fn plan(repo: &Repository, tier: &Tier, named: &Named, plan: &mut RepairPlan) {
    let known = repo.index().packs();
    let is_put_back = |key: &ObjectKey| plan.tasks.iter().any(|task| task.subject == key.as_str());
    let unreadable: Vec<_> = repo
        .damaged_run_errors()
        .into_iter()
        .filter(|(key, _)| !is_put_back(key))
        .collect();
    // What nobody names, and no lost run may have known, is left from a run that was killed: garbage.
    let may_be_any = !unreadable.is_empty() || named.is_unsure();
    let listed = tier.packs.iter().map(|(key, pack)| (key, pack.id));
    // Those that come from a copy are there by then.
    let fetched = plan.tasks.iter().filter_map(|task| match &task.work {
        Work::Pack(pack) if !tier.packs.contains_key(&pack.key) => Some((&pack.key, pack.id)),
        _ => None,
    });
    let unknown: Vec<_> = listed
        .chain(fetched)
        .filter(|(_, id)| !known.contains_key(id))
        .filter(|(_, id)| may_be_any || named.packs.contains(id))
        .map(|(key, id)| (key.clone(), id))
        .collect();
    let doubtful = repo.doubtful_runs();
    let misnamed = std::mem::take(&mut plan.misnamed);
    if unknown.is_empty() && unreadable.is_empty() && doubtful.is_empty() && misnamed.is_empty() {
        return;
    }
    let mut why = Vec::new();
    if let Some((_, first)) = misnamed.first_key_value() {
        let more = match misnamed.len() - 1 {
            0 => String::new(),
            more => format!(", and of {more} more packs"),
        };
        why.push(format!(
            "runs say of {first} what its end does not say{more}"
        ));
    }
    if let Some(first) = doubtful.first() {
        let more = match doubtful.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more runs say such"),
        };
        why.push(format!("{}: {}{more}", first.run, first.why));
    }
    if let Some((key, error)) = unreadable.first() {
        let more = match unreadable.len() - 1 {
            0 => String::new(),
            more => format!(", and {more} more runs cannot be read"),
        };
        why.push(format!("{key} cannot be read ({error}){more}"));
    }
    if !unknown.is_empty() {
        let count = unknown.len();
        why.push(format!("{count} packs are in no run that can be read"));
    }
    plan.tasks.push(Task {
        subject: "the index".into(),
        why: why.join("; "),
        remedy: Remedy::Ends,
        work: Work::Index(BadIndex {
            unknown,
            unreadable: unreadable.into_iter().map(|(key, _)| key).collect(),
            doubtful,
            misnamed,
            whole: plan.whole.clone(),
            untold: plan.untold(repo, tier, named).into_iter().collect(),
        }),
    });
}

/// The packs whose ends are to be read, by the names under which they lie.
fn unindexed(bad: &BadIndex) -> Vec<(ObjectKey, PackId)> {
    let misnamed = bad.misnamed.iter().map(|(id, key)| (key, id));
    let unknown = bad.unknown.iter().map(|(key, id)| (key, id));
    unknown
        .chain(misnamed)
        .map(|(key, id)| (key.clone(), *id))
        .collect()
}

/// Indexes what is in no run, and takes away runs that cannot be read once all that is there is in
/// others.
///
/// # Errors
/// Damage when the ends of packs cannot be read; then everything else is indexed, and nothing was taken away.
/// Errors of the tier.
pub(super) async fn rebuild(repo: &Repository, cx: &OpContext, bad: &BadIndex) -> Result<()> {
    let mut run = RunBuilder::default();
    let mut wraps = WrapSet::default();
    let mut lost = Vec::new();
    let (mut again, mut written) = (BTreeSet::new(), Vec::new());
    let mut ends = futures::stream::iter(unindexed(bad))
        .map(|(key, id)| {
            async move {
                let end = true_end(repo, cx, bad, &key, id).await;
                (key, id, end)
            }
            .boxed()
        })
        .buffered(packs::at_once(repo, cx));
    while let Some((key, id, end)) = ends.next().await {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let (end, size) = match end {
            Ok(Some(end)) => end,
            // Collected since it was listed.
            Ok(None) => continue,
            Err(error) if error.is_damage() => {
                lost.push(error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        let is_full = run.len() + end.blobs.len() > MAX_ENTRIES;
        if is_full || wraps.bytes() > MOST_WRAP_BYTES {
            let full = std::mem::take(&mut run);
            let of_full = std::mem::take(&mut wraps).to_vec();
            written.push(put_run(repo, cx, full, &of_full).await?);
        }
        run.add_pack(id, size, &end.blobs)
            .map_err(|error| EngineError::wire(&key, &error))?;
        end.sessions.iter().for_each(|wrap| {
            wraps.add(wrap);
        });
        again.insert(id);
    }
    drop(ends);
    if !run.is_empty() {
        written.push(put_run(repo, cx, run, &wraps.to_vec()).await?);
    }
    let outdated = rewrite_wrong(repo, cx, bad, &again, &mut written).await?;
    // What was written is read back before anything goes.
    if !written.is_empty() {
        settle(repo, cx).await;
    }
    repo.reload_index(cx).await?;
    let known = repo.index().packs();
    take_away(repo, cx, &outdated, &written).await?;
    if lost.is_empty()
        && let Some((key, _)) = bad.unknown.iter().find(|(_, id)| !known.contains_key(id))
        && repo.sink().head(cx, key).await.is_ok()
    {
        let why = "it was indexed, and the tier does not give the run back";
        return Err(EngineError::damaged(key, why));
    }
    if !lost.is_empty() {
        let count = lost.len();
        lost.truncate(MOST_NAMED);
        let why = format!(
            "of {count} packs it cannot be told what they hold, so runs that cannot be read stay for the sake of what they may say of them: {}",
            lost.join("; ")
        );
        return Err(EngineError::damaged("the index", why));
    }
    if let Some(first) = bad.untold.iter().find(|id| !known.contains_key(*id))
        && !bad.unreadable.is_empty()
    {
        let why = format!(
            "pack {first} is needed, not on the tier, and no run that can be read tells what it held, so runs that cannot be read stay for the sake of what a copy of them may say: `snapshot repair --from` another copy of the repository, or `snapshot forget` what needs it (`snapshot prune --dry-run` names that) and run this again"
        );
        return Err(EngineError::damaged("the index", why));
    }
    let still: Vec<_> = repo
        .damaged_run_errors()
        .into_iter()
        .map(|(key, _)| key)
        .collect();
    for key in bad.unreadable.iter().filter(|key| still.contains(key)) {
        repo.sink().delete(cx, key).await?;
        repo.cache().remove(key.as_str());
    }
    Ok(())
}

/// Writes anew all runs that say false data keys, or name packs that were indexed again; gives those that were in their
/// places.
async fn rewrite_wrong(
    repo: &Repository,
    cx: &OpContext,
    bad: &BadIndex,
    again: &BTreeSet<PackId>,
    written: &mut Vec<ObjectKey>,
) -> Result<Vec<ObjectKey>> {
    let doubted = bad.doubtful.iter().map(|one| (&one.run, &*one.wraps));
    let doubted: BTreeMap<_, _> = doubted.collect();
    let mut outdated = Vec::new();
    // What was just written is none of those that are loaded.
    for known in repo.known_runs() {
        let Some(key) = known.key() else { continue };
        if doubted.contains_key(key) || known.names_any(again) {
            let wraps = doubted.get(key).copied().unwrap_or_default();
            let run = repo.known_run(cx, &known).await?;
            written.extend(rewrite(repo, cx, &run, wraps, again).await?);
            outdated.push(key.clone());
        }
    }
    Ok(outdated)
}

/// Writes a run without the data keys that are in doubt, which whoever needs one finds in the end of a pack, and without
/// what it says of packs that were indexed again. Returns the name of the new run, if there is anything in it.
async fn rewrite(
    repo: &Repository,
    cx: &OpContext,
    run: &IndexRun,
    doubted: &[SessionWrap],
    again: &BTreeSet<PackId>,
) -> Result<Option<ObjectKey>> {
    let blobs = blobs_of(run, |pack| !again.contains(&pack.id));
    let mut new = RunBuilder::default();
    for blobs in blobs.chunk_by(|a, b| a.1.pack == b.1.pack) {
        let pack = blobs.first().map(|(_, at)| at.pack as usize);
        if let Some(pack) = pack.and_then(|pack| run.packs.get(pack)) {
            new.add_known(*pack, blobs.iter().copied());
        }
    }
    let is_true = |wrap: &&SessionWrap| !doubted.contains(wrap);
    let wraps: Vec<_> = run.sessions.iter().filter(is_true).cloned().collect();
    match new.is_empty() {
        true => Ok(None),
        false => put_run(repo, cx, new, &wraps).await.map(Some),
    }
}

/// What the end of a pack says that hashes to its name, and the pack's size: of any other its end may be that of
/// another pack.
async fn true_end(
    repo: &Repository,
    cx: &OpContext,
    bad: &BadIndex,
    key: &ObjectKey,
    id: PackId,
) -> Result<Option<(PackHeader, u64)>> {
    if bad.whole.contains(&id) {
        return read_end(repo, cx, key).await;
    }
    let bytes = match read_all_there_is(cx, &**repo.sink(), key, MAX_PACK).await {
        Ok(bytes) => bytes,
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if packs::digest(&bytes).await? != id.0 {
        return Err(EngineError::damaged(
            key,
            "its bytes do not hash to its name",
        ));
    }
    Ok(Some((end_of(repo, key, &bytes)?, bytes.len() as u64)))
}

/// Takes away runs whose successors were read back.
async fn take_away(
    repo: &Repository,
    cx: &OpContext,
    outdated: &[ObjectKey],
    written: &[ObjectKey],
) -> Result<()> {
    if outdated.is_empty() {
        return Ok(());
    }
    let runs = repo.known_runs();
    let there: BTreeSet<_> = runs.iter().filter_map(KnownRun::key).collect();
    if let Some(lost) = written.iter().find(|key| !there.contains(key)) {
        let why = "it was written, and the tier does not give it back";
        return Err(EngineError::damaged(lost, why));
    }
    for key in outdated {
        repo.sink().delete(cx, key).await?;
        repo.cache().remove(key.as_str());
    }
    repo.refresh_index(cx).await.map(drop)
}

impl RepairPlan {
    /// Packs that snapshots name, that are not on the tier nor fetched, and that no index run knows.
    pub(super) fn untold(&self, repo: &Repository, tier: &Tier, named: &Named) -> BTreeSet<PackId> {
        let known = repo.index().packs();
        let listed: BTreeSet<_> = tier.packs.values().map(|pack| pack.id).collect();
        let fetched = self.tasks.iter().filter_map(|task| match &task.work {
            Work::Pack(pack) => Some(pack.id),
            _ => None,
        });
        let fetched: BTreeSet<_> = fetched.collect();
        let is_away = |id: &&PackId| {
            !listed.contains(*id)
                && !fetched.contains(*id)
                && !tier.dead.contains(*id)
                && !known.contains_key(*id)
        };
        named.packs.iter().filter(is_away).copied().collect()
    }

    /// What cannot be done without a reader's key.
    pub(super) fn needs_reader(&mut self, subject: &str, why: &str) {
        self.lose(
            FindingKind::Missing,
            subject,
            format!("{why}; they can be made anew with a full key alone, which reads manifests"),
        );
    }
}
