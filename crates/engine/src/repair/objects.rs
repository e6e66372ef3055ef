//! Single objects: configs, key slots and snapshots from their sidecars; these and index runs from another copy of the
//! repository. What is fetched must be what its name says: it hashes to it, or it opens under this repository's keys
//! and is signed.
//!
//! What collectors of garbage and sessions wrote is never fetched: it is about this tier and no other.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, FindingKind, HostId, ObjectKey, OpContext, PutMode, SnapshotId};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;
use futures::StreamExt;

use super::packs::{read_or_nothing, replace};
use super::refs::of_copy;
use super::survey::Named;
use super::{Remedy, RepairJob, RepairPlan, Step, Task, Work};
use crate::announced::Announced;
use crate::beside::{self, Ended};
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::given_up::missed;
use crate::prune::repack::put_refs;
use crate::refs::{self, Sum};
use crate::repository::{Repository, UnreadSnapshot, get_within, name};
use crate::unlock::is_of_another;

/// An object that is to be put back.
#[derive(Debug)]
pub(super) struct BadObject {
    key: ObjectKey,
    kind: Kind,
    from: From,
}

/// Where an object is had from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    /// Its sidecar.
    Sidecar,
    /// One of the copies.
    Copy(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Run,
    Config,
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
    let mut bare = BTreeSet::new();
    if job.steps.contains(&Step::Refs) {
        bare = small(repo, cx, job, named, &mut wanted, plan).await?;
    }
    for (key, kind, why) in wanted {
        let mut found = None;
        let mut no = None;
        let copies = (0..others.len()).map(From::Copy);
        for from in std::iter::once(From::Sidecar).chain(copies) {
            let key = key.clone();
            let object = BadObject { key, kind, from };
            match fetch(repo, cx, &object, others).await {
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
                remedy: match object.from {
                    From::Sidecar => Remedy::Parity,
                    From::Copy(number) => Remedy::Copy(others[number].location()),
                },
                work: Work::Object(object),
            }),
            // The index is mended otherwise, and a key slot is not needed where another opens.
            None if kind == Kind::Run => {}
            None => {
                let no = no.map_or_else(String::new, |no| format!(": {no}"));
                let mut why = match others.is_empty() {
                    true => {
                        format!(
                            "{why}{no}; only a copy of the repository has it: name one with --from"
                        )
                    }
                    false => format!("{why}; no copy that was named gives it{no}"),
                };
                if let Kind::Gone(id) = kind {
                    why = format!(
                        "{why}; if there is none, `snapshot forget {id} --force` gives it up"
                    );
                }
                plan.lose(FindingKind::Damaged, key.as_str(), why);
                // There is nothing to make one of.
                bare.remove(&key);
            }
        }
    }
    if !bare.is_empty() {
        plan.tasks.push(Task {
            subject: NO_SIDECAR.into(),
            why: format!("{} have none, or one that is damaged", bare.len()),
            remedy: Remedy::Objects,
            work: Work::Beside(bare.into_iter().collect()),
        });
    }
    Ok(())
}

pub(super) fn is_absence(error: &EngineError) -> bool {
    let is_gone = matches!(error, EngineError::Sink(error) if error.kind == ErrorKind::NotFound);
    is_gone || error.is_damage()
}

/// Takes up small objects that are damaged or gone; gives those without a sidecar that is right.
async fn small(
    repo: &Repository,
    cx: &OpContext,
    job: &RepairJob,
    named: &Named,
    wanted: &mut Vec<(ObjectKey, Kind, String)>,
    plan: &mut RepairPlan,
) -> Result<BTreeSet<ObjectKey>> {
    let mut all = BTreeSet::new();
    for number in 0..=repo.config().number {
        let key = name(layout::config(number))?;
        match beside::read_own(repo, cx, &key).await {
            Ok(_) => {}
            Err(error) if beside::is_loss(&error) => {
                wanted.push((key.clone(), Kind::Config, error.to_string()));
            }
            Err(error) => return Err(error),
        }
        all.insert(key);
    }
    for (key, slot) in repo.slots(cx).await? {
        if let Err(error) = &slot {
            wanted.push((key.clone(), Kind::Slot, error.to_string()));
        }
        // One of another repository is nothing to be kept.
        if !is_of_another(&slot, Some(repo.id())) {
            all.insert(key);
        }
    }
    // Where the verdict on its session is damaged, it is not the snapshot that is to be mended.
    let is_of_verdict = |one: &&UnreadSnapshot| matches!(&one.error, EngineError::Damaged { object, .. } if object.starts_with("verdicts/"));
    for one in named.unread.iter().filter(|one| !is_of_verdict(one)) {
        let kind = Kind::Snapshot(one.id);
        wanted.push((one.key.clone(), kind, one.error.to_string()));
    }
    for (key, why) in &named.mended {
        if let Some(id) = layout::snapshot_id(key) {
            wanted.push((key.clone(), Kind::Snapshot(id), why.clone()));
        }
    }
    all.extend(repo.snapshot_keys(cx).await?.into_iter().map(|one| one.1));
    let protected = beside::all(repo, cx, "parity/", layout::small_parity_of).await?;
    let mut lost = missed(repo, cx).await?;
    let orphans = beside::gone(repo, cx, &protected).await?;
    if orphans
        .iter()
        .any(|key| layout::config_number(key).is_none())
    {
        let ended = Ended::read(repo, cx).await?;
        for key in orphans.iter().filter(|key| !ended.has(key)) {
            lost.extend(layout::snapshot_id(key));
            if layout::is_slot(key) {
                let why = "it is not on the tier, and nobody removed it";
                wanted.push((key.clone(), Kind::Slot, why.into()));
            }
        }
    }
    for id in lost {
        let why = "it is not on the tier, and nobody forgot it";
        wanted.push((name(layout::snapshot(id))?, Kind::Gone(id), why.into()));
    }
    let bad = wanted.iter().map(|one| &one.0);
    let bad: BTreeSet<ObjectKey> = bad.filter(|key| layout::is_small(key)).cloned().collect();
    for key in beside::all(repo, cx, "aside/", layout::small_aside_of).await? {
        if all.contains(&key) && !bad.contains(&key) {
            plan.settled.push(name(layout::aside(&key))?);
        }
    }
    all.extend(bad);
    if job.parity.is_none() {
        return Ok(BTreeSet::new());
    }
    let protected = &protected;
    let mut looking = futures::stream::iter(all)
        .map(|key| async move {
            let is_right = protected.contains(&key) && is_protected(repo, cx, &key).await?;
            Ok::<_, EngineError>((key, is_right))
        })
        .buffer_unordered(repo.connections(cx).clamp(1, 8));
    let mut bare = BTreeSet::new();
    while let Some(looked) = looking.next().await {
        let (key, is_right) = looked?;
        if !is_right {
            bare.insert(key);
        }
    }
    Ok(bare)
}

/// Configs, key slots and snapshots whose sidecars are made at once are told of as one.
const NO_SIDECAR: &str = "configs, key slots and snapshots without sidecars";

async fn is_protected(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<bool> {
    let made = beside::alone(cx, &**repo.sink(), key).await;
    match made.and_then(|made| beside::check(repo, key, &made)) {
        Ok(()) => Ok(true),
        Err(error) if beside::is_loss(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes sidecars of these objects, as far as they are what they should be.
///
/// # Errors
/// [`EngineError::Cancelled`]; errors of the tier.
pub(super) async fn protect(repo: &Repository, cx: &OpContext, keys: &[ObjectKey]) -> Result<()> {
    for key in keys {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match beside::read_own(repo, cx, key).await {
            Ok(bytes) => beside::put(cx, &**repo.sink(), key, &bytes).await?,
            Err(error) if beside::is_loss(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The largest that an object may be.
fn limit(object: &BadObject) -> usize {
    match object.kind {
        Kind::Run => ObjectKind::IndexRun.max_sealed(),
        _ => beside::limit_of(&object.key),
    }
}

/// Whether these bytes are the object; what is wrong with them.
fn check(repo: &Repository, object: &BadObject, bytes: &[u8]) -> Result<()> {
    let key = &object.key;
    match object.kind {
        Kind::Run if name(layout::index(bytes))? == *key => Ok(()),
        Kind::Run => {
            let why = "its bytes do not hash to its name";
            Err(EngineError::damaged(key, why))
        }
        _ => beside::check(repo, key, bytes),
    }
}

/// An object, once it is certain that it is the right one.
async fn fetch(
    repo: &Repository,
    cx: &OpContext,
    object: &BadObject,
    others: &[Repository],
) -> Result<Bytes> {
    let key = &object.key;
    let (other, bytes) = match object.from {
        From::Sidecar => {
            let made = beside::mended(cx, &**repo.sink(), key).await?;
            let none = || EngineError::damaged(key, "no sidecar makes it whole");
            (repo, made.ok_or_else(none)?)
        }
        From::Copy(number) => {
            let gone = || EngineError::damaged(key, "no copy has it any more");
            let other = others.get(number).ok_or_else(gone)?;
            let read = get_within(cx, &**other.sink(), key, limit(object)).await;
            (other, read?)
        }
    };
    if let Err(error) = check(repo, object, &bytes) {
        let place = other.location();
        return Err(EngineError::damaged(
            key,
            format!("so it is at {place}: {error}"),
        ));
    }
    if let Kind::Gone(id) = object.kind {
        refs_here(repo, cx, id, other).await?;
    }
    Ok(bytes)
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

/// Puts an object in its place; says whether that was still needed. Plans read packs for hours: what was mended,
/// forgotten or removed meanwhile is left as it is.
///
/// # Errors
/// Damage when it cannot be had any more, or the tier does not keep it. [`EngineError::OtherPrune`] when this run was
/// taken for dead. Errors of the tier.
pub(super) async fn put_back(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    object: &BadObject,
    others: &[Repository],
) -> Result<bool> {
    let key = &object.key;
    if !is_still_needed(repo, cx, object).await? {
        return Ok(false);
    }
    if let Kind::Gone(id) = object.kind {
        bring_back(repo, cx, host, id, object, others).await?;
        return Ok(true);
    }
    let bytes = fetch(repo, cx, object, others).await?;
    if object.kind == Kind::Run {
        put(repo, cx, key, bytes).await?;
    } else {
        let torn = read_or_nothing(repo, cx, key).await?;
        replace(repo, cx, key, torn, bytes).await?;
    }
    Ok(true)
}

/// Whether an object is still as it was when the plan was made: damaged, or gone though nobody took it away.
async fn is_still_needed(repo: &Repository, cx: &OpContext, object: &BadObject) -> Result<bool> {
    let key = &object.key;
    match get_within(cx, &**repo.sink(), key, limit(object)).await {
        // Somebody has put it back; if it is damaged by now, the next repair tells of it.
        Ok(_) if matches!(object.kind, Kind::Gone(_)) => Ok(false),
        Ok(bytes) => Ok(check(repo, object, &bytes).is_err()),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => match object.kind {
            Kind::Config => Ok(true),
            Kind::Gone(_) | Kind::Slot => Ok(!Ended::read(repo, cx).await?.has(key)),
            // Whoever may do so has taken away what cannot be read.
            Kind::Run | Kind::Snapshot(_) => Ok(false),
        },
        // Too long, or not a byte of it can be read.
        Err(error) if beside::is_loss(&error) => Ok(!matches!(object.kind, Kind::Gone(_))),
        Err(error) => Err(error),
    }
}

/// Writes an object in the place of a damaged one, and reads it back.
///
/// # Errors
/// Damage when the tier does not keep it. Errors of the tier.
pub(super) async fn put(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    bytes: Bytes,
) -> Result<()> {
    let sink = repo.sink();
    sink.put(cx, key, bytes.clone(), PutMode::Replace).await?;
    let there = get_within(cx, &**sink, key, bytes.len()).await?;
    if there != bytes {
        let why = "it was put back, and the tier does not give back what was written; its medium may be failing";
        return Err(EngineError::damaged(key, why));
    }
    Ok(())
}

/// Puts a snapshot back that is gone, and its refs before it. That is a session: whoever collects garbage waits for its
/// end, and what was condemned before it is not built upon.
async fn bring_back(
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
        let other = match object.from {
            From::Sidecar => repo,
            From::Copy(number) => others.get(number).unwrap_or(repo),
        };
        let sum = refs_here(repo, cx, id, other).await?;
        let going = repo.collection(cx).await?;
        let mut packs = sum.0.keys();
        if packs.any(|id| going.condemned.contains(id) || going.dead.contains(id)) {
            let why =
                "what it needs is about to be deleted by a prune; run this again when that is done";
            return Err(EngineError::damaged(&object.key, why));
        }
        if object.from != From::Sidecar {
            // Refs go before their snapshot.
            let known = refs::list(repo, cx).await?.remove(&id);
            put_refs(repo, cx, &known.unwrap_or_default(), &sum.into_refs(id)).await?;
        }
        replace(repo, cx, &object.key, Bytes::new(), bytes).await
    };
    if let Err(error) = put.await {
        session.end_of_failed(repo, cx).await;
        return Err(error);
    }
    settle(repo, cx).await;
    if session.is_revoked(repo, cx).await? {
        // What it needs may be gone: it is as it was found.
        repo.sink().delete(cx, &object.key).await?;
        let why = "it took this repair for dead; run it again, nothing is lost";
        return Err(EngineError::OtherPrune(why.into()));
    }
    session.end(repo, cx).await
}
