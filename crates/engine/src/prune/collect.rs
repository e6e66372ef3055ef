//! The collector: condemns, settles every session that may be about to name what it condemned, decides
//! what is dead, deletes. The numbers in comments are the steps of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, SessionId, Severity,
    SnapshotId,
};
use backup_format::collect::{PackList, Verdict};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;

use super::open::{Seen, sessions, settle_sessions};
use super::own::Own;
use super::survey::{self, Survey};
use super::{PruneJob, PruneReport};
use crate::beside::is_loss;
use crate::collect::{rotten, settle};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// A generation, and its object as it lies on the tier.
pub(super) struct Generation {
    pub(super) list: PackList,
    pub(super) sealed: Bytes,
}

/// Goes through all generations that are not decided, and a new one for what is condemned now, and for what those
/// condemned whose decisions cannot be read.
pub(super) async fn collect(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    mut condemned: BTreeSet<PackId>,
    own: &mut Own,
    report: &mut PruneReport,
) -> Result<()> {
    let unread = repo.known_collection(cx).await?.unread;
    for one in unread.values() {
        condemned.extend(one.packs.iter().copied());
    }
    settle_all(repo, cx, job, survey, condemned, own, report).await?;
    for (number, one) in unread {
        if one.packs.is_subset(&own.settled) {
            let dead = one.packs.intersection(&own.dead).copied().collect();
            rotten::decide_anew(repo, cx, number, dead).await?;
        }
    }
    Ok(())
}

async fn settle_all(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    condemned: BTreeSet<PackId>,
    own: &mut Own,
    report: &mut PruneReport,
) -> Result<()> {
    let there = repo.generations(cx).await?;
    // What this host has decided before may still be there: its deletion was cut short.
    for number in own.to_be_ended() {
        let key = name(layout::dead(number))?;
        if there.contains(&key) {
            let sealed = match read(repo, cx, &key).await {
                Ok(sealed) => sealed,
                // It is decided anew.
                Err(error) if is_loss(&error) => continue,
                Err(error) => return Err(error),
            };
            if own.is_own(number, &sealed) {
                let dead = repo.open_generation(&key, &sealed)?.packs;
                // A pack that was lost since may have held all that makes others garbage.
                own.found_dead(dead.difference(&survey.elsewhere.spared).copied());
            }
        }
    }
    delete(repo, cx, survey, own, report).await?;
    let mut waited = Duration::ZERO;
    let (mut packs_known, mut orphans_known) = (BTreeSet::new(), BTreeSet::new());
    for number in undecided(&there)? {
        let key = name(layout::condemned(number))?;
        let sealed = read(repo, cx, &key).await?;
        let list = repo.open_generation(&key, &sealed)?;
        packs_known.extend(list.packs.iter().copied());
        let orphans = own.orphans_before(number, &sealed);
        let generation = Generation { list, sealed };
        let is_decided = decide(
            repo,
            cx,
            job,
            (&generation, &orphans, &survey.elsewhere.spared),
            own,
            (report, &mut waited),
        )
        .await?;
        if is_decided {
            delete(repo, cx, survey, own, report).await?;
        }
        // They wait with it, or went with the decision.
        orphans_known.extend(orphans);
    }
    // What somebody else called dead, and has not deleted, is condemned like everything else.
    let packs: BTreeSet<_> = condemned
        .into_iter()
        .filter(|id| !own.dead.contains(id) && !packs_known.contains(id))
        .collect();
    // By their names: a copy may bring the snapshot again, with refs of its own.
    let orphans: BTreeSet<_> = survey
        .refs
        .iter()
        .filter(|(id, _)| !survey.snapshots.contains(id))
        .flat_map(|(_, keys)| keys)
        .filter(|key| !orphans_known.contains(*key))
        .cloned()
        .collect();
    if packs.is_empty() && orphans.is_empty() {
        // A session whose end cannot be read looks open for ever, unless somebody settles it.
        let is_settling = !undecided(&there)?.is_empty();
        let seen = sessions(repo, cx).await?;
        let is_unsure = |seen: &Seen| seen.is_announced && seen.has_end && !seen.is_done;
        if is_settling || !seen.values().any(is_unsure) {
            return Ok(());
        }
    }
    let numbers = there.iter().filter_map(layout::condemned_number);
    let next = numbers.max().map_or(0, |last| last.saturating_add(1));
    let generation = condemn(repo, cx, next, packs).await?;
    let about = (&generation, &orphans, &survey.elsewhere.spared);
    if decide(repo, cx, job, about, own, (report, &mut waited)).await? {
        delete(repo, cx, survey, own, report).await?;
    }
    Ok(())
}

/// The generations of which it is not decided what is dead.
fn undecided(there: &BTreeSet<ObjectKey>) -> Result<BTreeSet<u32>> {
    let mut out = BTreeSet::new();
    for number in there.iter().filter_map(layout::condemned_number) {
        if !there.contains(&name(layout::dead(number))?) {
            out.insert(number);
        }
    }
    Ok(out)
}

/// Behind all that is dead: nothing need be remembered of what is decided.
pub(super) async fn end(
    repo: &Repository,
    cx: &OpContext,
    own: &mut Own,
    report: &mut PruneReport,
) -> Result<()> {
    let undecided = undecided(&repo.generations(cx).await?)?;
    report.findings.extend(not_kept(own.end(&undecided)));
    Ok(())
}

/// An object below `gc/` as it lies there; what a cache has of that name may be another.
async fn read(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Bytes> {
    get_within(cx, &**repo.sink(), key, ObjectKind::Dead.max_sealed()).await
}

/// What is to be said where something cannot be remembered.
pub(super) fn not_kept(kept: std::io::Result<()>) -> Option<Finding> {
    let error = kept.err()?;
    let detail = format!(
        "what open sessions there are cannot be remembered, so the next prune waits for all that are open then, and takes none for dead: {error}"
    );
    let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
    let subject = "the state folder";
    Some(Finding::new(severity, kind, subject, detail))
}

/// (2) Writes down what is condemned, under the next number that is free.
async fn condemn(
    repo: &Repository,
    cx: &OpContext,
    first: u32,
    packs: BTreeSet<PackId>,
) -> Result<Generation> {
    let mut list = PackList {
        generation: first,
        packs,
    };
    loop {
        let sealed = repo.ring().seal(ObjectKind::Condemned, &list.encode());
        let sealed: Bytes = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::condemned(list.generation))?;
        let body = sealed.clone();
        match repo.sink().put(cx, &key, body, PutMode::Create).await {
            Ok(_) => return Ok(Generation { list, sealed }),
            Err(error) if error.kind == ErrorKind::Conflict => {
                let next = list.generation.checked_add(1);
                let full = || EngineError::Unprunable("no number is left below gc/".into());
                list.generation = next.ok_or_else(full)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// (3) to (8), the decision. `false`: somebody is still at work, and the generation stays open.
async fn decide(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    (generation, orphans, spared): (&Generation, &BTreeSet<ObjectKey>, &BTreeSet<PackId>),
    own: &mut Own,
    (report, waited): (&mut PruneReport, &mut Duration),
) -> Result<bool> {
    settle(repo, cx).await;
    let about = (generation, orphans);
    let Some(revoked) = settle_sessions(repo, cx, job, about, own, (report, waited)).await? else {
        return Ok(false);
    };
    let list = &generation.list;
    settle(repo, cx).await;
    judge(repo, cx, &revoked).await?;
    // (7) What marks, behind the verdicts.
    settle(repo, cx).await;
    let snapshots = survey::snapshots(repo, cx).await?;
    let (refs, marks) = survey::mark(repo, cx, &snapshots).await?;
    // What a lost pack held lies in them too: no refs name them, and yet they are needed.
    let unused = |id: &&PackId| !marks.contains_key(*id) && !spared.contains(*id);
    let dead = PackList {
        generation: list.generation,
        packs: list.packs.iter().filter(unused).copied().collect(),
    };
    // (8) The decision comes before the first deletion.
    let sealed = repo.ring().seal(ObjectKind::Dead, &dead.encode());
    let made: Bytes = sealed.map_err(EngineError::Seal)?.into();
    let key = name(layout::dead(list.generation))?;
    let body = made.clone();
    match repo.sink().put(cx, &key, body, PutMode::Create).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Conflict => {}
        Err(error) => return Err(error.into()),
    }
    // What is there counts, and may be the word of somebody else: what this run has not found unused itself
    // stays whatever that says.
    let decided = match read(repo, cx, &key).await {
        Ok(there) => {
            if there == made {
                let kept = own.decided(list.generation, &there);
                report.findings.extend(not_kept(kept));
            }
            repo.open_generation(&key, &there)
        }
        Err(error) => Err(error),
    };
    let decided = match decided {
        Ok(decided) => decided.packs,
        // Whatever it said, the next run condemns all of it once more.
        Err(error) if is_loss(&error) => BTreeSet::new(),
        Err(error) => return Err(error),
    };
    own.found_dead(decided.intersection(&dead.packs).copied());
    let used = list.packs.iter().filter(|id| marks.contains_key(*id));
    own.settled.extend(used.copied());
    // Refs that had no snapshot before (2), and have none behind the verdicts.
    let without = refs.iter().filter(|(id, _)| !snapshots.contains(id));
    for key in without.flat_map(|(_, keys)| keys) {
        if orphans.contains(key) {
            repo.sink().delete(cx, key).await?;
        }
    }
    Ok(true)
}

/// (5), (6) The verdict on each revoked session names the snapshots that are there.
async fn judge(repo: &Repository, cx: &OpContext, revoked: &BTreeSet<SessionId>) -> Result<()> {
    // A verdict never changes.
    let judged = repo.judged(cx).await?;
    for session in revoked.intersection(&judged) {
        readable(repo, cx, *session).await?;
    }
    let revoked: Vec<_> = revoked.difference(&judged).copied().collect();
    if revoked.is_empty() {
        return Ok(());
    }
    let mut made: BTreeMap<SessionId, BTreeSet<SnapshotId>> = BTreeMap::new();
    for (id, key) in repo.snapshot_keys(cx).await? {
        let head = match repo.head(cx, id, &key).await {
            Ok(head) => head,
            // Forgotten meanwhile.
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
            Err(error) => {
                let why =
                    format!("snapshot {id} cannot be read ({error}), so nobody knows whose it is");
                return Err(EngineError::Unprunable(why));
            }
        };
        let session = head.session();
        if revoked.contains(&session) {
            made.entry(session).or_default().insert(id);
        }
    }
    for session in revoked {
        let verdict = Verdict {
            session,
            snapshots: made.remove(&session).unwrap_or_default(),
        };
        let sealed = repo.ring().seal(ObjectKind::Verdict, &verdict.encode());
        let body = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::verdict(session))?;
        match repo.sink().put(cx, &key, body, PutMode::Create).await {
            Ok(_) => {}
            // The one that is there counts; readers read it.
            Err(error) if error.kind == ErrorKind::Conflict => readable(repo, cx, session).await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Nothing is decided by a verdict that cannot be read: once it is removed there would be none, and the
/// writer could make one that names what uses packs that are gone by then.
async fn readable(repo: &Repository, cx: &OpContext, session: SessionId) -> Result<()> {
    match repo.verdict(cx, session).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_damage() || matches!(error, EngineError::Newer(_)) => {
            let why = format!(
                "the verdict on session {session} cannot be read ({error}), so nobody knows what it uses; `snapshot repair` decides it anew"
            );
            Err(EngineError::Unprunable(why))
        }
        Err(error) => Err(error),
    }
}

/// Deletes packs that are dead.
async fn delete(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
    own: &mut Own,
    report: &mut PruneReport,
) -> Result<()> {
    let dead = std::mem::take(&mut own.pending);
    for (id, pack) in dead
        .iter()
        .filter_map(|id| Some((id, survey.packs.get(id)?)))
    {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let key = name(layout::pack(*id, pack.is_meta))?;
        repo.sink().delete(cx, &key).await?;
        if survey.parity.contains(&key) {
            repo.sink().delete(cx, &name(layout::parity(&key))?).await?;
        }
        report.deleted_packs += 1;
        report.deleted_bytes += pack.size;
    }
    Ok(())
}

/// Takes away damaged packs that a repair set aside and that are dead by now: by a decision of this host, or by that of
/// another where no snapshot names them. Not those that hold what is left of a lost pack.
pub(super) async fn sweep_aside(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
    own: &Own,
) -> Result<()> {
    let aside = survey::aside(repo, cx).await?;
    if aside.is_empty() {
        return Ok(());
    }
    let called_dead = repo.known_collection(cx).await?.dead;
    let is_dead = |pack: &PackId| {
        let is_used = survey.marks.contains_key(pack);
        let is_needed = survey.elsewhere.spared.contains(pack);
        !is_needed && (own.dead.contains(pack) || (called_dead.contains(pack) && !is_used))
    };
    for (_, key) in aside.iter().filter(|(pack, _)| is_dead(pack)) {
        repo.sink().delete(cx, key).await?;
    }
    Ok(())
}

/// Takes away parity whose pack is gone: its deletion was cut short. Not where a snapshot names that pack, or it holds what is
/// left of a lost one: it may only be mislaid.
pub(super) async fn sweep_parity(repo: &Repository, cx: &OpContext, survey: &Survey) -> Result<()> {
    for key in &survey.parity {
        let Some(id) = layout::pack_id(key) else {
            continue;
        };
        let is_needed = survey.marks.contains_key(&id) || survey.elsewhere.spared.contains(&id);
        if !survey.packs.contains_key(&id) && !is_needed {
            repo.sink().delete(cx, &name(layout::parity(key))?).await?;
        }
    }
    Ok(())
}
