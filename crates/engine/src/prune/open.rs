//! Sessions that are open: each that may name what a generation condemns is waited for, or taken for dead.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, OpContext, PutMode, SessionId};
use backup_format::collect::SessionMark;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session as Announced;
use futures::TryStreamExt;

use super::collect::{Generation, not_kept};
use super::own::Own;
use super::watch::Watch;
use super::{OpenSession, PruneJob, PruneReport};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// How often it looks whether a session has come to its end.
const PAUSE: Duration = Duration::from_millis(500);

/// What is known of a session by the names below `sessions/`.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Seen {
    pub(super) is_announced: bool,
    pub(super) is_done: bool,
    /// Whether there is anything by the name of its end, its own word or not.
    pub(super) has_end: bool,
    pub(super) is_revoked: bool,
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
            let seen = out.entry(id).or_default();
            (seen.is_done, seen.has_end) = (true, true);
        } else if let Some(id) = layout::session_revoked_id(&key) {
            out.entry(id).or_default().is_revoked = true;
        }
    }
    for (id, seen) in out.iter_mut().filter(|(_, seen)| seen.is_announced) {
        seen.is_done = seen.is_done && repo.is_done(cx, *id).await?;
    }
    Ok(out)
}

/// The sessions that may be about to name packs: they are announced, have no end, and nobody has judged them.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn open_sessions(
    repo: &Repository,
    cx: &OpContext,
) -> Result<BTreeSet<SessionId>> {
    let seen = sessions(repo, cx).await?;
    let open = seen
        .into_iter()
        .filter(|(_, seen)| seen.is_announced && !seen.is_done);
    let mut open: BTreeSet<SessionId> = open.map(|(id, _)| id).collect();
    if !open.is_empty() {
        let judged = repo.judged(cx).await?;
        open.retain(|id| !judged.contains(id));
    }
    Ok(open)
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

/// (3), (4) Waits for each session that was open at the first look behind a generation, or revokes it. Returns those
/// that are revoked; `None` when some are still at work.
pub(super) async fn settle_sessions(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    (generation, orphans): (&Generation, &BTreeSet<ObjectKey>),
    own: &mut Own,
    (report, waited): (&mut PruneReport, &mut Duration),
) -> Result<Option<BTreeSet<SessionId>>> {
    let (number, sealed) = (generation.list.generation, &generation.sealed);
    let mut seen = sessions(repo, cx).await?;
    seen.retain(|_, seen| seen.is_announced && !seen.is_done);
    // Who began since then avoids what this generation condemns.
    let first = match own.open_behind(number, sealed) {
        Some(first) => first,
        None => {
            let first = seen.keys().copied().collect();
            let kept = own.looked(number, sealed, &first, orphans);
            report.findings.extend(not_kept(kept));
            first
        }
    };
    let mut revoked = BTreeSet::new();
    let (mut open, mut others) = (Vec::new(), Vec::new());
    let mut looks = None;
    for (id, seen) in seen {
        let is_waited_for = first.contains(&id);
        if seen.is_revoked {
            revoked.extend(is_waited_for.then_some(id));
            continue;
        }
        let looks = match &mut looks {
            Some(looks) => looks,
            none => none.insert(Looks::new(repo, cx).await?),
        };
        let is_still = looks.is_still(id, job.patience);
        if !is_waited_for {
            others.push(id);
        } else if is_still {
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
    others.extend(&open);
    let kept = Looks::keep(looks, repo, cx, &others);
    report.findings.extend(not_kept(kept));
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
        if *waited >= job.wait {
            break;
        }
        tokio::select! {
            () = cx.cancel.cancelled() => return Err(EngineError::Cancelled),
            () = tokio::time::sleep(PAUSE) => *waited += PAUSE,
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
        for run in repo.known_runs() {
            if let ([wrap], Some(key)) = (run.sessions(), run.key()) {
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

    /// Remembers those that are open.
    fn keep(
        looks: Option<Self>,
        repo: &Repository,
        cx: &OpContext,
        open: &[SessionId],
    ) -> std::io::Result<()> {
        let watch = looks.map_or_else(|| Watch::open(repo, cx), |looks| looks.watch);
        watch.keep(&open.iter().copied().collect())
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
