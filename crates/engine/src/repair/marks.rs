//! The small objects by which sessions and collectors of garbage know of each other. Nobody has a copy that is right
//! for this tier at this time, but what was in them is known, or can be decided anew so that nothing is lost
//! (`docs/design/0002-garbage-collection.md`, "What rots").

use std::collections::BTreeSet;

use backup_core::{ErrorKind, FindingKind, ObjectKey, OpContext, PackId, SessionId, SnapshotId};
use backup_format::collect::{SessionMark, Verdict};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;
use futures::TryStreamExt;

use super::survey::{Named, Tier};
use super::{Remedy, RepairPlan, Task, Work};
use crate::beside::is_loss;
use crate::collect::rotten;
use crate::error::{EngineError, Result};
use crate::ledger::Chain;
use crate::repository::{Repository, get_within, name};
use crate::verify::check_session;

/// An object that is to be written anew, or taken away.
#[derive(Debug)]
pub(super) enum BadMark {
    /// `gc/<n>`; with the packs that no snapshot uses.
    Generation(u32, BTreeSet<PackId>),
    /// Of a session: its end, its revocation, the verdict on it.
    OfSession(ObjectKey),
}

/// What is to be done with an object that cannot be read.
enum Cure {
    /// To be written, from this.
    Write(Bytes, Remedy),
    /// To be taken away: nobody needs it.
    Remove,
    /// Nothing, and why.
    Leave(String),
}

pub(super) async fn plan(
    repo: &Repository,
    cx: &OpContext,
    tier: &Tier,
    named: &Named,
    plan: &mut RepairPlan,
) -> Result<()> {
    let rotten = rotten::all(repo, cx).await?;
    if !rotten.is_empty() {
        let index = repo.index().packs();
        let listed = tier.packs.values().map(|pack| pack.id);
        let all = listed
            .chain(tier.dead.iter().copied())
            .chain(index.into_keys());
        let unused: BTreeSet<_> = all.filter(|id| !named.packs.contains(id)).collect();
        for (number, key, why) in rotten {
            plan.tasks.push(Task {
                subject: name(layout::condemned(number))?.to_string(),
                why: match layout::dead_number(&key) {
                    Some(_) => format!("it is gone, and {why}"),
                    None => why,
                },
                remedy: Remedy::Uses,
                work: Work::Mark(BadMark::Generation(number, unused.clone())),
            });
        }
    }
    for folder in ["sessions/", "verdicts/"] {
        let listed = repo.sink().list(cx, folder, None);
        let listed: Vec<_> = listed.try_collect().await?;
        for key in listed.into_iter().map(|meta| meta.key) {
            let Some(why) = damage_of(repo, cx, &key).await? else {
                continue;
            };
            match cure(repo, cx, &key).await? {
                Cure::Leave(no) => {
                    plan.lose(FindingKind::Damaged, key.as_str(), format!("{why}; {no}"));
                }
                Cure::Write(_, remedy) => plan.tasks.push(Task {
                    subject: key.to_string(),
                    why,
                    remedy,
                    work: Work::Mark(BadMark::OfSession(key)),
                }),
                Cure::Remove => plan.tasks.push(Task {
                    subject: key.to_string(),
                    why: format!("{why}; nobody needs it any more"),
                    remedy: Remedy::Name,
                    work: Work::Mark(BadMark::OfSession(key)),
                }),
            }
        }
    }
    Ok(())
}

/// What is wrong with an end, a revocation or a verdict; nothing for other objects. Looks twice: what was damaged on
/// the way only is whole.
async fn damage_of(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Option<String>> {
    let kind = if layout::session_done_id(key).is_some() {
        ObjectKind::SessionDone
    } else if layout::session_revoked_id(key).is_some() {
        ObjectKind::SessionRevoked
    } else if layout::verdict_id(key).is_some() {
        ObjectKind::Verdict
    } else {
        return Ok(None);
    };
    let mut is_second = false;
    loop {
        let read = get_within(cx, &**repo.sink(), key, kind.max_sealed()).await;
        let checked = read.and_then(|sealed| match kind {
            ObjectKind::Verdict => repo.open_verdict(key, &sealed).map(drop),
            _ => check_session(repo, key, &sealed),
        });
        match checked {
            Ok(()) => return Ok(None),
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) if is_loss(&error) && is_second => return Ok(Some(error.to_string())),
            Err(error) if is_loss(&error) => is_second = true,
            Err(error) => return Err(error),
        }
    }
}

/// What is to be done with an object that cannot be read.
async fn cure(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Cure> {
    if let Some(session) = layout::session_revoked_id(key) {
        // That it is there counts, and nothing else.
        return mark(repo, session, ObjectKind::SessionRevoked);
    }
    if let Some(session) = layout::session_done_id(key) {
        // Somebody else may have put it there while that session works: it does not count, and a prune settles it.
        if is_there(repo, cx, &name(layout::session(session))?).await? {
            let why = "its session looks open, so nobody knows whether it came to its end: `snapshot prune` takes both away once it has taken that session for dead (--revoke-after)";
            return Ok(Cure::Leave(why.into()));
        }
        // A session that is gone was done or judged.
        if is_there(repo, cx, &name(layout::verdict(session))?).await? {
            return Ok(Cure::Remove);
        }
        return mark(repo, session, ObjectKind::SessionDone);
    }
    match layout::verdict_id(key) {
        Some(session) => cure_of_verdict(repo, cx, session).await,
        None => Ok(Cure::Leave("nobody knows what it is".into())),
    }
}

fn mark(repo: &Repository, session: SessionId, kind: ObjectKind) -> Result<Cure> {
    let mark = SessionMark { session };
    let sealed = repo.ring().seal(kind, &mark.encode());
    let sealed = sealed.map_err(EngineError::Seal)?;
    Ok(Cure::Write(sealed.into(), Remedy::Name))
}

async fn is_there(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<bool> {
    match repo.sink().head(cx, key).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A verdict named all snapshots of its session of which somebody was told that they are saved. So it is decided anew
/// where the ledger tells of each that is there.
async fn cure_of_verdict(repo: &Repository, cx: &OpContext, session: SessionId) -> Result<Cure> {
    if repo.is_done(cx, session).await? {
        // No verdict counts against a session that came to its end.
        return Ok(Cure::Remove);
    }
    let mut made: BTreeSet<SnapshotId> = BTreeSet::new();
    for (id, key) in repo.snapshot_keys(cx).await? {
        match repo.head(cx, id, &key).await {
            Ok(head) if SessionId::from_bytes(head.outer.session) == session => {
                made.insert(id);
            }
            Ok(_) => {}
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {}
            Err(error) if is_loss(&error) => {
                let why = format!(
                    "snapshot {id} cannot be read, so nobody knows whose it is; once that is mended, run `snapshot repair` again"
                );
                return Ok(Cure::Leave(why));
            }
            Err(error) => return Err(error),
        }
    }
    let ids: Vec<_> = made.iter().copied().collect();
    if let Some(id) = Chain::read(repo, cx).await?.unknown(&ids).first() {
        let why = format!(
            "its session made snapshot {id}, of which the ledger does not tell, so nobody knows whether that counts: `snapshot forget {id}` takes it away; then run `snapshot repair` again"
        );
        return Ok(Cure::Leave(why));
    }
    let verdict = Verdict {
        session,
        snapshots: made,
    };
    let sealed = repo.ring().seal(ObjectKind::Verdict, &verdict.encode());
    let sealed = sealed.map_err(EngineError::Seal)?;
    Ok(Cure::Write(sealed.into(), Remedy::Ledger))
}

/// Writes an object anew, or takes it away; says whether that was still needed.
///
/// # Errors
/// Damage when the tier does not keep it. Errors of the tier.
pub(super) async fn mend(repo: &Repository, cx: &OpContext, bad: &BadMark) -> Result<bool> {
    let key = match bad {
        BadMark::Generation(number, unused) => {
            return rotten::mend(repo, cx, *number, unused).await;
        }
        BadMark::OfSession(key) => key,
    };
    if damage_of(repo, cx, key).await?.is_none() {
        return Ok(false);
    }
    match cure(repo, cx, key).await? {
        Cure::Write(sealed, _) => {
            super::objects::put(repo, cx, key, sealed).await?;
            Ok(true)
        }
        Cure::Remove => {
            repo.sink().delete(cx, key).await?;
            Ok(true)
        }
        Cure::Leave(_) => Ok(false),
    }
}
