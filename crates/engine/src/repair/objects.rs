//! Single objects from another copy of the repository: index runs, key slots and snapshots. What is fetched must
//! be what its name says: it hashes to it, or it opens under this repository's keys and is signed.
//!
//! What collectors of garbage and sessions wrote is never fetched: it is about this tier and no other.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, FindingKind, ObjectKey, OpContext, PutMode, SnapshotId};
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;

use super::refs::of_copy;
use super::survey::Named;
use super::{Remedy, RepairJob, RepairPlan, Step, Task, Work};
use crate::error::{EngineError, Result};
use crate::ledger::verify_ledger;
use crate::prune::repack::put_refs;
use crate::refs::{self, Sum};
use crate::repository::{Repository, get_within, name};
use crate::view::check_signatures;

/// An object that is to be put back.
#[derive(Debug)]
pub(super) struct BadObject {
    key: ObjectKey,
    kind: Kind,
    copy: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    Slot,
    /// A snapshot whose refs are there.
    Snapshot(SnapshotId),
    /// A snapshot that is gone, and its refs perhaps with it.
    Gone(SnapshotId),
}

/// Whether all of these are copies of a repository: they have its id, so its keys, and objects mean the
/// same in both.
pub(super) fn are_copies(repo: &Repository, others: &[Repository]) -> Result<()> {
    for other in others {
        if other.id() != repo.id() {
            let why = format!(
                "{} is repository {}, and no copy of repository {}: its objects cannot be put here",
                other.location(),
                other.id(),
                repo.id()
            );
            return Err(EngineError::Invalid(why));
        }
    }
    Ok(())
}

pub(super) async fn plan(
    repo: &Repository,
    cx: &OpContext,
    job: &RepairJob,
    others: &[Repository],
    named: &Named,
    plan: &mut RepairPlan,
) -> Result<()> {
    let mut wanted: Vec<(ObjectKey, Kind, String)> = Vec::new();
    if job.steps.contains(&Step::Index) {
        let runs = repo.damaged_run_errors().into_iter();
        wanted.extend(runs.map(|(key, why)| (key, Kind::Run, why)));
    }
    if job.steps.contains(&Step::Refs) {
        for (key, slot) in repo.slots(cx).await? {
            if let Err(error) = slot {
                wanted.push((key, Kind::Slot, error.to_string()));
            }
        }
        for one in &named.unread {
            let kind = Kind::Snapshot(one.id);
            wanted.push((one.key.clone(), kind, one.error.to_string()));
        }
        for id in gone(repo, cx).await? {
            let why = "the ledger knows it, and nobody forgot it";
            wanted.push((name(layout::snapshot(id))?, Kind::Gone(id), why.into()));
        }
    }
    for (key, kind, why) in wanted {
        let mut found = None;
        let mut no = None;
        for (copy, other) in others.iter().enumerate() {
            let object = BadObject {
                key: key.clone(),
                kind,
                copy,
            };
            match fetch(repo, cx, &object, other).await {
                Ok(_) => {
                    found = Some(object);
                    break;
                }
                Err(error) if is_absence(&error) => no = Some(error.to_string()),
                Err(error) => return Err(error),
            }
        }
        match found {
            Some(object) => plan.tasks.push(Task {
                subject: key.to_string(),
                why,
                remedy: Remedy::Copy(others[object.copy].location()),
                work: Work::Object(object),
            }),
            // The index is mended otherwise, and a key slot is not needed where another opens.
            None if kind == Kind::Run => {}
            None => {
                let no = no.map_or_else(String::new, |no| format!(": {no}"));
                let why = match others.is_empty() {
                    true => {
                        format!("{why}; only a copy of the repository has it: name one with --from")
                    }
                    false => format!("{why}; no copy that was named gives it{no}"),
                };
                plan.lose(FindingKind::Damaged, key.as_str(), why);
            }
        }
    }
    Ok(())
}

/// Snapshots that the ledger knows, that nobody forgot, and that are gone.
async fn gone(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<SnapshotId>> {
    let check = verify_ledger(repo, cx).await?;
    let missing = check
        .findings
        .iter()
        .filter(|one| one.kind == FindingKind::Missing);
    Ok(missing
        .filter_map(|one| one.subject.strip_prefix("snapshot ")?.parse().ok())
        .collect())
}

fn is_absence(error: &EngineError) -> bool {
    let is_gone = matches!(error, EngineError::Sink(error) if error.kind == ErrorKind::NotFound);
    is_gone || error.is_damage()
}

/// An object of a copy, once it is certain that it is the right one.
async fn fetch(
    repo: &Repository,
    cx: &OpContext,
    object: &BadObject,
    other: &Repository,
) -> Result<Bytes> {
    let key = &object.key;
    let limit = match object.kind {
        Kind::Run => ObjectKind::IndexRun.max_sealed(),
        Kind::Slot => MAX_SLOT_BYTES,
        Kind::Snapshot(_) | Kind::Gone(_) => ObjectKind::Snapshot.max_sealed(),
    };
    let bytes = get_within(cx, &**other.sink(), key, limit).await?;
    let is_right = match object.kind {
        Kind::Run => name(layout::index(&bytes))? == *key,
        Kind::Slot => name(layout::slot(&bytes))? == *key,
        Kind::Snapshot(id) => {
            check_signatures(repo, &repo.open_head(id, key, &bytes)?)?;
            true
        }
        Kind::Gone(id) => {
            check_signatures(repo, &repo.open_head(id, key, &bytes)?)?;
            refs_here(repo, cx, id, other).await?;
            true
        }
    };
    if is_right {
        return Ok(bytes);
    }
    let place = other.location();
    Err(EngineError::damaged(key, format!("so it is at {place}")))
}

/// The refs that a copy has of a snapshot, if all the packs that they name are here.
async fn refs_here(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    other: &Repository,
) -> Result<Sum> {
    let here = repo.index().packs();
    let sum = of_copy(other, cx, snapshot).await?;
    let away = sum.0.keys().filter(|id| !here.contains_key(*id)).count();
    let place = other.location();
    if sum.0.is_empty() || away > 0 {
        let why = format!(
            "{place} has it, and of the packs that it uses there {away} are not here; copy it from there as a whole"
        );
        return Err(EngineError::damaged(format!("snapshot {snapshot}"), why));
    }
    Ok(sum)
}

/// Puts an object of a copy in its place; says whether that was still needed. Plans read packs for hours: what was
/// mended, forgotten or removed meanwhile is left as it is.
///
/// # Errors
/// Damage when the copy does not give it any more, or the tier does not keep it. Errors of the tier.
pub(super) async fn put_back(
    repo: &Repository,
    cx: &OpContext,
    object: &BadObject,
    others: &[Repository],
) -> Result<bool> {
    if !is_still_needed(repo, cx, object).await? {
        return Ok(false);
    }
    let gone = || EngineError::damaged(&object.key, "no copy has it any more");
    let other = others.get(object.copy).ok_or_else(gone)?;
    let bytes = fetch(repo, cx, object, other).await?;
    if let Kind::Gone(id) = object.kind {
        // Refs go before their snapshot.
        let moved = refs_here(repo, cx, id, other).await?.into_refs(id);
        let known = refs::list(repo, cx).await?.remove(&id);
        put_refs(repo, cx, &known.unwrap_or_default(), &moved).await?;
    }
    let sink = repo.sink();
    let mode = match object.kind {
        Kind::Gone(_) => PutMode::Create,
        Kind::Run | Kind::Slot | Kind::Snapshot(_) => PutMode::Replace,
    };
    match sink.put(cx, &object.key, bytes.clone(), mode.clone()).await {
        Ok(_) => {}
        // Somebody else has put it back.
        Err(error) if error.kind == ErrorKind::Conflict && mode == PutMode::Create => {}
        Err(error) => return Err(error.into()),
    }
    let there = get_within(cx, &**sink, &object.key, bytes.len()).await?;
    if there != bytes {
        let why = "it was put back, and the tier does not give back what was written; its medium may be failing";
        return Err(EngineError::damaged(&object.key, why));
    }
    Ok(true)
}

/// Whether an object is still as it was when the plan was made: damaged, or gone though nobody took it away.
async fn is_still_needed(repo: &Repository, cx: &OpContext, object: &BadObject) -> Result<bool> {
    let limit = match object.kind {
        Kind::Run => ObjectKind::IndexRun.max_sealed(),
        Kind::Slot => MAX_SLOT_BYTES,
        Kind::Snapshot(_) | Kind::Gone(_) => ObjectKind::Snapshot.max_sealed(),
    };
    let there = match get_within(cx, &**repo.sink(), &object.key, limit).await {
        Ok(bytes) => bytes,
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
            return match object.kind {
                Kind::Gone(id) => Ok(gone(repo, cx).await?.contains(&id)),
                // Whoever may do so has taken away what cannot be read.
                Kind::Run | Kind::Slot | Kind::Snapshot(_) => Ok(false),
            };
        }
        // Too long, or not a byte of it can be read.
        Err(EngineError::Damaged { .. }) => return Ok(true),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::Damaged => return Ok(true),
        Err(error) => return Err(error),
    };
    Ok(match object.kind {
        Kind::Run => name(layout::index(&there))? != object.key,
        Kind::Slot => name(layout::slot(&there))? != object.key,
        Kind::Snapshot(id) => repo.open_head(id, &object.key, &there).is_err(),
        Kind::Gone(_) => false,
    })
}
