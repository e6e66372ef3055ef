//! The index: what no run that can be read knows is indexed anew from the ends of the packs, with the
//! index key alone; behind that the runs that cannot be read go.
//!
//! No session is needed. An entry is true as long as its pack is there, and what names a pack that is dead by
//! then is passed over by everybody, for the dead stay known.

use std::collections::BTreeMap;

use backup_core::{ByteRange, ErrorKind, FindingKind, ObjectKey, OpContext, PackId, SessionId};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::pack::{FOOTER, PackHeader, SessionWrap, header_length, read_tail};
use futures::StreamExt;

use super::survey::{Named, Tier};
use super::{Remedy, RepairPlan, Task, Work};
use crate::error::{EngineError, Result};
use crate::prune::merge::put_run;
use crate::repository::Repository;

/// Of the end of a pack so much is asked for first; most are shorter.
const GUESS: u64 = 64 << 10;
/// Packs that are named in one error.
const MOST_NAMED: usize = 5;

/// What is wrong with the index.
#[derive(Debug)]
pub(super) struct BadIndex {
    /// Packs that no readable run knows.
    unknown: Vec<(ObjectKey, PackId)>,
    unreadable: Vec<ObjectKey>,
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
    let unknown: Vec<_> = tier
        .packs
        .iter()
        .filter(|(_, pack)| !known.contains_key(&pack.id))
        .filter(|(_, pack)| may_be_any || named.packs.contains(&pack.id))
        .map(|(key, pack)| (key.clone(), pack.id))
        .collect();
    if unknown.is_empty() && unreadable.is_empty() {
        return;
    }
    let mut why = Vec::new();
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
        }),
    });
}

/// Indexes what is in no run, and takes away runs that cannot be read once all that is there is in
/// others.
///
/// # Errors
/// Damage when the ends of packs cannot be read; then everything else is indexed, and nothing was taken away.
/// Errors of the tier.
pub(super) async fn rebuild(repo: &Repository, cx: &OpContext, bad: &BadIndex) -> Result<()> {
    let mut run = RunBuilder::default();
    let mut wraps: BTreeMap<SessionId, SessionWrap> = BTreeMap::new();
    let mut lost = Vec::new();
    let mut ends = futures::stream::iter(&bad.unknown)
        .map(|(key, id)| async move { (key, id, end_of(repo, cx, key).await) })
        .buffered(repo.connections(cx));
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
        if run.len() + end.blobs.len() > MAX_ENTRIES {
            let full = std::mem::take(&mut run);
            let of_full: Vec<_> = std::mem::take(&mut wraps).into_values().collect();
            put_run(repo, cx, full, &of_full).await?;
        }
        run.add_pack(*id, size, &end.blobs)
            .map_err(|error| EngineError::wire(key, &error))?;
        wraps.extend(end.sessions.into_iter().map(|wrap| (wrap.session, wrap)));
    }
    drop(ends);
    if !run.is_empty() {
        let wraps: Vec<_> = wraps.into_values().collect();
        put_run(repo, cx, run, &wraps).await?;
    }
    // What was written is read back before anything goes.
    repo.reload_index(cx).await?;
    let known = repo.index().packs();
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
            "the ends of {count} packs cannot be read, so runs that cannot be read stay for the sake of what they may say of them: {}",
            lost.join("; ")
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

/// What the end of a pack says, and the pack's size; `None` for one that is gone.
pub(crate) async fn end_of(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
) -> Result<Option<(PackHeader, u64)>> {
    let wire = |error| EngineError::wire(key, &error);
    // Not as it was listed: it may have been mended since.
    let size = match repo.sink().head(cx, key).await {
        Ok(meta) => meta.size,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut wanted = GUESS;
    loop {
        let end = match repo.sink().get(cx, key, ByteRange::Suffix(wanted)).await {
            Ok(end) => end,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let short = || EngineError::damaged(key, "it is too short for a pack");
        let footer = end.len().checked_sub(FOOTER).ok_or_else(short)?;
        let header = header_length(end.get(footer..).unwrap_or_default()).map_err(wire)?;
        let length = (header + FOOTER) as u64;
        if length > end.len() as u64 {
            if wanted > GUESS || length > size {
                return Err(short());
            }
            wanted = length;
            continue;
        }
        let start = end.len() - header - FOOTER;
        let tail = read_tail(repo.ring(), end.get(start..).unwrap_or_default());
        let tail = tail.map_err(|error| EngineError::sealed(key, &error))?;
        let body: u64 = tail.blobs.iter().map(|blob| u64::from(blob.stored)).sum();
        // What was cut out of its middle, or added, moved everything behind it.
        if body + length != size {
            let why = "its length is not that of what its end names";
            return Err(EngineError::damaged(key, why));
        }
        return Ok(Some((tail, size)));
    }
}

impl RepairPlan {
    /// What cannot be done without a reader's key.
    pub(super) fn needs_reader(&mut self, subject: &str, why: &str) {
        self.lose(
            FindingKind::Missing,
            subject,
            format!("{why}; they can be made anew with a full key alone, which reads manifests"),
        );
    }
}
