//! The collector: condemns, settles every session that may be about to name what it condemned, decides
//! what is dead, deletes. The numbers in comments are the steps of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backup_core::{
    ErrorKind, Finding, FindingKind, OpContext, PackId, PutMode, SessionId, Severity, SnapshotId,
};
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session as Announced;
use futures::TryStreamExt;

use super::survey::{self, Survey};
use super::watch::Watch;
use super::{OpenSession, PruneJob, PruneReport};
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// How often it looks whether a session has come to its end.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of a session by the names below `sessions/`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) is_announced: bool,
    pub(super) is_done: bool,
    pub(super) is_revoked: bool,
}

/// Goes through all generations that are not decided, and a new one for what is condemned now.
pub(super) async fn collect(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    condemned: BTreeSet<PackId>,
    report: &mut PruneReport,
) -> Result<()> {
    let there = repo.generations(cx).await?;
    let mut numbers: Vec<u32> = there.iter().filter_map(layout::condemned_number).collect();
    numbers.sort_unstable();
    let next = numbers.last().map_or(0, |last| last.saturating_add(1));
    let mut known = BTreeSet::new();
    for number in numbers {
        if there.contains(&name(layout::dead(number))?) {
            continue;
        }
        let key = name(layout::condemned(number))?;
        let list = repo.generation(cx, &key).await?;
        known.extend(list.packs.iter().copied());
        let orphans = BTreeSet::new();
        if !decide(repo, cx, job, &list, &orphans, report).await? {
            // Whoever is waited for here would be waited for again.
            return Ok(());
        }
    }
    // What an earlier generation called dead may still be there: its deletion was cut short.
    let dead = repo.collection(cx).await?.dead;
    delete(repo, cx, survey, &dead, report).await?;
    let packs: BTreeSet<_> = condemned
        .into_iter()
        .filter(|id| !dead.contains(id) && !known.contains(id))
        .collect();
    let orphans: BTreeSet<_> = survey
        .refs
        .keys()
        .filter(|id| !survey.snapshots.contains(id))
        .copied()
        .collect();
    if packs.is_empty() && orphans.is_empty() {
        return Ok(());
    }
    let list = condemn(repo, cx, next, packs).await?;
    if decide(repo, cx, job, &list, &orphans, report).await? {
        let dead = repo
            .generation(cx, &name(layout::dead(list.generation))?)
            .await?;
        delete(repo, cx, survey, &dead.packs, report).await?;
    }
    Ok(())
}

/// (2) Writes down what is condemned, under the next number that is free.
async fn condemn(
    repo: &Repository,
    cx: &OpContext,
    first: u32,
    packs: BTreeSet<PackId>,
) -> Result<PackList> {
    let mut list = PackList {
        generation: first,
        packs,
    };
    loop {
        let sealed = repo.ring().seal(ObjectKind::Condemned, &list.encode());
        let body = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::condemned(list.generation))?;
        match repo.sink().put(cx, &key, body, PutMode::Create).await {
            Ok(_) => return Ok(list),
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
    list: &PackList,
    orphans: &BTreeSet<SnapshotId>,
    report: &mut PruneReport,
) -> Result<bool> {
    settle(repo, cx).await;
    let Some(revoked) = settle_sessions(repo, cx, job, report).await? else {
        return Ok(false);
    };
    settle(repo, cx).await;
    judge(repo, cx, &revoked).await?;
    // (7) What marks, behind the verdicts.
    settle(repo, cx).await;
    let snapshots = survey::snapshots(repo, cx).await?;
    let (refs, marks) = survey::mark(repo, cx, &snapshots).await?;
    let used = |id: &&PackId| !marks.contains_key(*id);
    let dead = PackList {
        generation: list.generation,
        packs: list.packs.iter().filter(used).copied().collect(),
    };
    // (8) The decision comes before the first deletion.
    let sealed = repo.ring().seal(ObjectKind::Dead, &dead.encode());
    let body = sealed.map_err(EngineError::Seal)?.into();
    let key = name(layout::dead(list.generation))?;
    match repo.sink().put(cx, &key, body, PutMode::Create).await {
        Ok(_) => {}
        Err(error) if error.kind == ErrorKind::Conflict => {}
        Err(error) => return Err(error.into()),
    }
    // Refs that had no snapshot before (2), and have none behind the verdicts.
    for (_, keys) in refs
        .iter()
        .filter(|(id, _)| orphans.contains(id) && !snapshots.contains(id))
    {
        for key in keys {
            repo.sink().delete(cx, key).await?;
        }
    }
    Ok(true)
}

/// The sessions that are there. The word of their ends is asked of those alone that are announced.
pub(super) async fn sessions(
    repo: &Repository,
    cx: &OpContext,
) -> Result<BTreeMap<SessionId, Seen>> {
    let mut out: BTreeMap<SessionId, Seen> = BTreeMap::new();
    let mut listed = repo.sink().list(cx, "sessions/", None);
    while let Some(meta) = listed.try_next().await? {
        let key = meta.key;
        if let Some(id) = layout::session_id(&key) {
            out.entry(id).or_default().is_announced = true;
        } else if let Some(id) = layout::session_done_id(&key) {
            out.entry(id).or_default().is_done = true;
        } else if let Some(id) = layout::session_revoked_id(&key) {
            out.entry(id).or_default().is_revoked = true;
        }
    }
    for (id, seen) in out.iter_mut().filter(|(_, seen)| seen.is_announced) {
        seen.is_done = seen.is_done && repo.is_done(cx, *id).await?;
    }
    Ok(out)
}

/// Whether a session that was open is over: it says so, or somebody has tidied it away behind that.
async fn is_over(repo: &Repository, cx: &OpContext, id: SessionId) -> Result<bool> {
    if repo.is_done(cx, id).await? {
        return Ok(true);
    }
    match repo.sink().head(cx, &name(layout::session(id))?).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// (3), (4) Waits for each session that is open, or revokes it. Returns those that are revoked; `None`
/// when some are still at work.
async fn settle_sessions(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    report: &mut PruneReport,
) -> Result<Option<BTreeSet<SessionId>>> {
    let mut revoked = BTreeSet::new();
    let mut open = Vec::new();
    let mut looks = None;
    for (id, seen) in sessions(repo, cx).await? {
        if seen.is_done || !seen.is_announced {
            continue;
        }
        if seen.is_revoked {
            revoked.insert(id);
            continue;
        }
        let looks = match &mut looks {
            Some(looks) => looks,
            none => none.insert(Looks::new(repo, cx).await?),
        };
        if looks.is_still(id, job.patience) {
            let mark = SessionMark { session: id };
            let sealed = repo.ring().seal(ObjectKind::SessionRevoked, &mark.encode());
            let body = sealed.map_err(EngineError::Seal)?.into();
            let key = name(layout::session_revoked(id))?;
            match repo.sink().put(cx, &key, body, PutMode::Create).await {
                Ok(_) => report.revoked.push(id),
                Err(error) if error.kind == ErrorKind::Conflict => {}
                Err(error) => return Err(error.into()),
            }
            revoked.insert(id);
        } else {
            open.push(id);
        }
    }
    let kept = Looks::keep(looks, repo, cx, &open);
    report.findings.extend(kept);
    let mut waited = Duration::ZERO;
    loop {
        let mut left = Vec::new();
        for id in open {
            if !is_over(repo, cx, id).await? {
                left.push(id);
            }
        }
        open = left;
        if open.is_empty() {
            return Ok(Some(revoked));
        }
        if waited >= job.wait {
            break;
        }
        tokio::select! {
            () = cx.cancel.cancelled() => return Err(EngineError::Cancelled),
            () = tokio::time::sleep(PAUSE) => waited += PAUSE,
        }
    }
    for id in open {
        if report.waits_for.iter().all(|one| one.id != id) {
            report.waits_for.push(who(repo, cx, id).await?);
        }
    }
    Ok(None)
}

/// What this host sees of open sessions.
struct Looks {
    watch: Watch,
    runs: BTreeMap<SessionId, BTreeSet<String>>,
}

impl Looks {
    async fn new(repo: &Repository, cx: &OpContext) -> Result<Self> {
        repo.refresh_index(cx).await?;
        let mut runs: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (key, run) in repo.loaded_runs() {
            if let [wrap] = run.sessions.as_slice() {
                let of = runs.entry(wrap.session).or_default();
                of.insert(key.to_string());
            }
        }
        let watch = Watch::open(repo, cx);
        Ok(Self { watch, runs })
    }

    fn is_still(&mut self, id: SessionId, patience: Duration) -> bool {
        let runs = self.runs.remove(&id).unwrap_or_default();
        self.watch.is_still(id, runs, patience)
    }

    /// Remembers those that are open; says if that cannot be done.
    fn keep(
        looks: Option<Self>,
        repo: &Repository,
        cx: &OpContext,
        open: &[SessionId],
    ) -> Option<Finding> {
        let watch = looks.map_or_else(|| Watch::open(repo, cx), |looks| looks.watch);
        let error = watch.keep(&open.iter().copied().collect()).err()?;
        let detail = format!(
            "how long open sessions stand still cannot be remembered, so none is taken for dead: {error}"
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        let subject = "the state folder";
        Some(Finding::new(severity, kind, subject, detail))
    }
}

async fn who(repo: &Repository, cx: &OpContext, id: SessionId) -> Result<OpenSession> {
    let key = name(layout::session(id))?;
    let limit = ObjectKind::Session.max_sealed();
    let announced = match get_within(cx, &**repo.sink(), &key, limit).await {
        Ok(sealed) => {
            let plain = repo.ring().open(ObjectKind::Session, &sealed).ok();
            plain.and_then(|plain| Announced::decode(&plain).ok())
        }
        Err(_) => None,
    };
    Ok(OpenSession {
        id,
        host: announced.as_ref().map(|one| one.host.clone()),
        started_ms: announced.map_or(id.millis(), |one| one.started_ms),
    })
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
        let session = SessionId::from_bytes(head.outer.session);
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
                "the verdict on session {session} cannot be read ({error}), so nobody knows what it uses; put it back from another copy, or remove it if somebody without a key has put it there"
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
    dead: &BTreeSet<PackId>,
    report: &mut PruneReport,
) -> Result<()> {
    for (id, pack) in survey.packs.iter().filter(|(id, _)| dead.contains(id)) {
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

/// Takes away damaged packs that a repair set aside and that are dead by now.
pub(super) async fn sweep_aside(repo: &Repository, cx: &OpContext) -> Result<()> {
    let mut aside = Vec::new();
    let mut listed = repo.sink().list(cx, "aside/", None);
    while let Some(meta) = listed.try_next().await? {
        let pack = layout::aside_of(&meta.key).and_then(|key| layout::pack_id(&key));
        aside.extend(pack.map(|pack| (pack, meta.key)));
    }
    if aside.is_empty() {
        return Ok(());
    }
    let dead = repo.collection(cx).await?.dead;
    for (_, key) in aside.iter().filter(|(pack, _)| dead.contains(pack)) {
        repo.sink().delete(cx, key).await?;
    }
    Ok(())
}

/// Takes away parity whose pack is gone: its deletion was cut short. Not where a snapshot names that pack: it
/// may only be mislaid.
pub(super) async fn sweep_parity(repo: &Repository, cx: &OpContext, survey: &Survey) -> Result<()> {
    for key in &survey.parity {
        let Some(id) = layout::pack_id(key) else {
            continue;
        };
        if !survey.packs.contains_key(&id) && !survey.marks.contains_key(&id) {
            repo.sink().delete(cx, &name(layout::parity(key))?).await?;
        }
    }
    Ok(())
}
