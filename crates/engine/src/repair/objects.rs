//! Single objects: configs, key slots and snapshots from their sidecars; these and index runs from another copy of the
//! repository. What is fetched must be what its name says: it hashes to it, or it opens under this repository's keys
//! and is signed.
//!
//! What collectors of garbage and sessions wrote is never fetched: it is about this tier and no other.

use std::collections::BTreeSet;

use backup_core::{
    ErrorKind, FindingKind, HostId, ObjectKey, OpContext, PackId, PutMode, SnapshotId,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;
use futures::StreamExt;

use super::gone::{self, Lost};
use super::packs::{MadeOf, read_or_nothing, replace};
use super::survey::{Named, Tier};
use super::{Remedy, RepairJob, RepairPlan, Step, Task, Work, is_in_the_way};
use crate::beside::{self, Ended};
use crate::cold;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, UnreadSnapshot, get_within, name};
use crate::unlock::is_of_another;

/// An object that is to be put back.
#[derive(Debug)]
pub(super) struct BadObject {
    pub(super) key: ObjectKey,
    kind: Kind,
    pub(super) from: From,
}

impl BadObject {
    /// Whether it is found by the index what belongs to it.
    pub(super) fn needs_index(&self) -> bool {
        matches!(self.kind, Kind::Gone(_))
    }
}

/// Where an object is had from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
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
    (tier, named, lost): (&Tier, &Named, &Lost),
    plan: &mut RepairPlan,
) -> Result<()> {
    let mut wanted: Vec<(ObjectKey, Kind, String)> = Vec::new();
    if job.steps.contains(&Step::Index) {
        let runs = repo.damaged_run_errors().into_iter();
        wanted.extend(runs.map(|(key, why)| (key, Kind::Run, why)));
    }
    let mut bare = BTreeSet::new();
    if job.steps.contains(&Step::Refs) {
        bare = small(repo, cx, job, (named, lost), &mut wanted, plan).await?;
    }
    let here = packs_here(tier, plan);
    for (key, kind, why) in wanted {
        let mut found = None;
        let mut no = None;
        let copies = (0..others.len()).map(From::Copy);
        for from in std::iter::once(From::Sidecar).chain(copies) {
            let key = key.clone();
            let object = BadObject { key, kind, from };
            match can_be_had(repo, cx, &object, others, (lost, &here)).await {
                Ok(()) => {
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

/// The packs that are on the tier, once what is to be fetched is there.
pub(super) fn packs_here(tier: &Tier, plan: &RepairPlan) -> BTreeSet<PackId> {
    let listed = tier.packs.values().map(|pack| pack.id);
    let fetched = plan.tasks.iter().filter_map(|task| match &task.work {
        Work::Pack(pack) => Some(pack.id),
        _ => None,
    });
    listed.chain(fetched).collect()
}

/// Whether an object can be had from where it is looked for, and of a snapshot that is gone what it uses.
async fn can_be_had(
    repo: &Repository,
    cx: &OpContext,
    object: &BadObject,
    others: &[Repository],
    (lost, here): (&Lost, &BTreeSet<PackId>),
) -> Result<()> {
    fetch(repo, cx, object, others).await?;
    if let Kind::Gone(id) = object.kind
        && let Some(left) = lost.snapshots.get(&id)
    {
        let copy = match object.from {
            From::Sidecar => None,
            From::Copy(number) => others.get(number),
        };
        gone::way(repo, cx, id, left, copy, |id| here.contains(id)).await?;
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
    (named, lost): (&Named, &Lost),
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
    for key in &lost.slots {
        let why = "it is not on the tier, and nobody removed it";
        wanted.push((key.clone(), Kind::Slot, why.into()));
    }
    for id in lost.snapshots.keys() {
        let key = name(layout::snapshot(*id))?;
        wanted.push((key, Kind::Gone(*id), lost.why(*id)));
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
    let protected = &lost.protected;
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
    let mut refused = None;
    for key in keys {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        match beside::read_own(repo, cx, key).await {
            Ok(bytes) => match beside::put(cx, &**repo.sink(), key, &bytes).await {
                Err(error) if is_in_the_way(&error) => drop(refused.get_or_insert(error)),
                put => put?,
            },
            Err(error) if beside::is_loss(&error) => {}
            Err(error) => return Err(error),
        }
    }
    refused.map_or(Ok(()), Err)
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
pub(super) async fn fetch(
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
    match layout::config_number(key) {
        // A copy may keep its packs elsewhere.
        Some(number) => {
            let place = repo.config().cold_place();
            cold::config_for(bytes, number, repo.keys(), place)
        }
        None => Ok(bytes),
    }
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
        gone::bring_back(repo, cx, host, id, object, others).await?;
        return Ok(true);
    }
    let bytes = fetch(repo, cx, object, others).await?;
    if object.kind == Kind::Run {
        put(repo, cx, key, bytes).await?;
    } else {
        let torn = read_or_nothing(repo, cx, key).await?;
        let made_of = made_of(repo, cx, object).await?;
        replace(repo, cx, key, (torn, made_of), bytes).await?;
    }
    Ok(true)
}

/// What an object is made of that was found: where its sidecar is damaged too, what lies aside may have helped.
async fn made_of(repo: &Repository, cx: &OpContext, object: &BadObject) -> Result<MadeOf> {
    let aside = name(layout::aside(&object.key))?;
    if object.from != From::Sidecar || read_or_nothing(repo, cx, &aside).await?.is_empty() {
        return Ok(MadeOf::Others);
    }
    match beside::alone(cx, &**repo.sink(), &object.key).await {
        Ok(_) => Ok(MadeOf::Others),
        Err(error) if beside::is_loss(&error) => Ok(MadeOf::Aside),
        Err(error) => Err(error),
    }
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
