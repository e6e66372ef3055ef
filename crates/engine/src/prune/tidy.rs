//! What nobody needs any more of sessions that are over, so that it does not grow for ever.
//!
//! Of a session that has come to its end nothing need stay but, where it has made a snapshot that is
//! there, its `.done`: no verdict of somebody else counts against that. Of one that was taken for dead
//! the verdict stays for ever, and `.revoked` with it: the verdict is what keeps a snapshot out that the
//! writer may still create, and `.revoked` what makes the writer ask. Both together have some two
//! hundred bytes. That it began nobody needs to know behind its verdict, and its snapshots that the
//! verdict leaves out do not exist: they go.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, ObjectKey, OpContext, SessionId, SnapshotId};
use backup_format::layout;

use super::open::{Seen, sessions};
use crate::beside;
use crate::error::{EngineError, Result};
use crate::ledger::Chain;
use crate::refs;
use crate::repository::{Repository, SnapshotHead, name};

/// Takes away what is left of sessions that are over. First the session, so that none looks open that is
/// not.
pub(super) async fn tidy(repo: &Repository, cx: &OpContext) -> Result<()> {
    let sessions = sessions(repo, cx).await?;
    let judged = repo.judged(cx).await?;
    let (heads, unread) = repo.heads(cx).await?;
    let made: BTreeSet<_> = heads.iter().map(SnapshotHead::session).collect();
    for (id, seen) in sessions {
        if seen.is_announced && (seen.is_done || is_decided(repo, cx, &judged, id, seen).await?) {
            repo.sink().delete(cx, &name(layout::session(id))?).await?;
            if seen.has_end && !seen.is_done {
                // It is damaged, or not of this session: the verdict alone counts.
                let done = name(layout::session_done(id))?;
                repo.sink().delete(cx, &done).await?;
            }
        }
        if seen.is_done && unread.is_empty() && !made.contains(&id) {
            let done = name(layout::session_done(id))?;
            repo.sink().delete(cx, &done).await?;
        }
    }
    if judged.is_empty() {
        return Ok(());
    }
    void_snapshots(repo, cx, &judged).await
}

/// Whether a session was taken for dead and there is a verdict on it. What cannot be read is none: it may go
/// again.
async fn is_decided(
    repo: &Repository,
    cx: &OpContext,
    judged: &BTreeSet<SessionId>,
    id: SessionId,
    seen: Seen,
) -> Result<bool> {
    if !seen.is_revoked || !judged.contains(&id) {
        return Ok(false);
    }
    match repo.verdict(cx, id).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_damage() || matches!(error, EngineError::Newer(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes away the snapshots that a verdict leaves out, but for those that the ledger knows: whoever told
/// of one was not taken for dead, and the verdict is the work of somebody else.
async fn void_snapshots(
    repo: &Repository,
    cx: &OpContext,
    judged: &BTreeSet<SessionId>,
) -> Result<()> {
    let mut void: Vec<(SnapshotId, ObjectKey)> = Vec::new();
    for (id, key) in repo.snapshot_keys(cx).await? {
        let head = match repo.head(cx, id, &key).await {
            Ok(head) => head,
            // Forgotten meanwhile, or not to be told: verification names it.
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        match repo.is_void(cx, judged, &head).await {
            Ok(true) => void.push((id, key)),
            Ok(false) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    if void.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = void.iter().map(|(id, _)| *id).collect();
    let unknown = Chain::read(repo, cx).await?.unknown(&ids);
    let listed = refs::list(repo, cx).await?;
    for (id, key) in void.iter().filter(|(id, _)| unknown.contains(id)) {
        beside::remove(cx, &**repo.sink(), key).await?;
        for refs in listed.get(id).into_iter().flatten() {
            repo.sink().delete(cx, refs).await?;
        }
        repo.cache().remove(key.as_str());
    }
    Ok(())
}
