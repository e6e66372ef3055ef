//! Packs: each is read and hashed; what does not hash to its name is mended from its parity, or replaced by a copy of
//! another tier.

use std::collections::BTreeSet;

use backup_core::{
    ErrorKind, Event, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, Severity, Stage,
};
use backup_format::layout;
use backup_format::pack::MAX_PACK;
use backup_integrity::digest::ContentDigest;
use backup_parity::{ParityError, Sidecar};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt};

use super::chunks::LostPack;
use super::needs::{Need, Needs};
use super::survey::{Listed, Named, Tier};
use super::{Remedy, RepairJob, RepairPlan, Task, Work, chunks, is_in_the_way};
use crate::claims::Claims;
use crate::cold::not_read_back;
use crate::error::{EngineError, Result};
use crate::pack_end::end_of;
use crate::parity::{read_all_there_is, read_sidecar, sidecar};
use crate::repository::{Repository, name};

/// Packs whose parity is made at once are told of as one.
const NO_PARITY: &str = "packs without parity";

/// A pack that is damaged or missing.
#[derive(Debug)]
pub(super) struct BadPack {
    pub(super) id: PackId,
    pub(super) key: ObjectKey,
    /// The copy it is to be had from; without one, from its parity.
    copy: Option<usize>,
}

/// What was found out about a pack.
struct Looked {
    key: ObjectKey,
    listed: Listed,
    bytes: u64,
    /// What is wrong with it, and whether its parity mends that; why not.
    bad: Option<(String, Result<(), String>)>,
    /// Whether its parity is whole.
    is_protected: bool,
    /// Whether it hashes to its name, and then whether index runs say of it what it says.
    is_whole: bool,
    is_named_truly: bool,
}

pub(super) async fn plan(
    repo: &Repository,
    cx: &OpContext,
    job: &RepairJob,
    others: &[Repository],
    tier: &Tier,
    named: &Named,
    plan: &mut RepairPlan,
) -> Result<()> {
    let wanted: Vec<_> = tier
        .packs
        .iter()
        .filter(|(_, pack)| job.packs.is_empty() || job.packs.contains(&pack.id))
        .map(|(key, pack)| (key.clone(), *pack))
        .collect();
    cx.tell(Event::Entered {
        stage: Stage::Verify,
        entries: Some(wanted.len() as u64),
        bytes: Some(wanted.iter().map(|(_, pack)| pack.size).sum()),
    });
    let width = at_once(repo, cx);
    let index = repo.proven_index(cx).await?;
    let claims = Claims::of(&index)?;
    index.check()?;
    let mut looking = futures::stream::iter(wanted)
        .map(|(key, listed)| look(repo, cx, (tier, &claims), key, listed).boxed())
        .buffer_unordered(width);
    let (mut bad, mut bare) = (Vec::new(), Vec::new());
    while let Some(looked) = looking.next().await {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let looked = looked?;
        plan.packs += 1;
        plan.bytes += looked.bytes;
        if !looked.is_protected {
            bare.push(looked.key.clone());
        }
        if looked.is_whole {
            plan.whole.insert(looked.listed.id);
        }
        if !looked.is_named_truly {
            plan.misnamed.insert(looked.listed.id, looked.key.clone());
        }
        match looked.bad {
            Some((why, by_parity)) => bad.push((looked.key, looked.listed.id, why, by_parity)),
            None if tier.aside.contains(&looked.key) => {
                plan.settled.push(name(layout::aside(&looked.key))?);
            }
            None => {}
        }
    }
    drop(looking);
    let covered = add_missing(repo, cx, missing(repo, job, tier, named)?, tier, &mut bad).await?;
    find_remedies(repo, cx, others, bad, (tier, named), plan).await?;
    let there: BTreeSet<PackId> = tier.packs.values().map(|pack| pack.id).collect();
    for task in &plan.tasks {
        // It comes back, and its parity is gone or damaged as well.
        if let Work::Pack(pack) = &task.work
            && !there.contains(&pack.id)
            && !covered.contains(&pack.id)
        {
            bare.push(pack.key.clone());
        }
    }
    if job.parity.is_some() && !bare.is_empty() {
        let count = bare.len();
        bare.sort();
        plan.tasks.push(Task {
            subject: NO_PARITY.into(),
            why: format!("{count} have none, or one that is damaged"),
            remedy: Remedy::Packs,
            work: Work::Sidecars(bare),
        });
    }
    Ok(())
}

/// Adds the packs that are missing to those that are bad. Returns those that have a sidecar as it should be, and come back
/// under it.
async fn add_missing(
    repo: &Repository,
    cx: &OpContext,
    missing: Vec<Bad>,
    tier: &Tier,
    bad: &mut Vec<Bad>,
) -> Result<BTreeSet<PackId>> {
    // Collected meanwhile, they are not missed.
    let dead = match missing.is_empty() {
        true => BTreeSet::new(),
        false => repo.known_collection(cx).await?.dead,
    };
    let is_missed = |one: &Bad| !dead.contains(&one.1) || tier.contested.contains(&one.1);
    let mut covered = BTreeSet::new();
    for mut one in missing.into_iter().filter(is_missed) {
        let made = match tier.protected.contains(&one.0) {
            true => read_sidecar(cx, &**repo.sink(), &one.0).await?,
            false => None,
        };
        let parity = made.as_ref().map(|made| Sidecar::read(made));
        if is_parity_of(parity.as_ref(), one.1) {
            covered.insert(one.1);
        }
        // A repair that was killed, on a tier that lost what was being replaced.
        if tier.aside.contains(&one.0) {
            let aside = set_aside(repo, cx, tier, &one.0).await?;
            one.2 = "it is damaged, and was set aside".into();
            one.3 = by_parity(parity, one.1, &[&aside]);
        }
        bad.push(one);
    }
    Ok(covered)
}

/// So many packs are in hand at once.
pub(crate) fn at_once(repo: &Repository, cx: &OpContext) -> usize {
    let width = repo.connections(cx).clamp(1, 8);
    width.min(cx.limits.memory_bytes / (64 << 20)).max(1)
}

/// A damaged pack, what is wrong with it, and whether its parity mends that; why not.
type Bad = (ObjectKey, PackId, String, Result<(), String>);

/// A damaged pack, what is wrong with it, and what it is had from; why from nothing.
type Found = (
    ObjectKey,
    PackId,
    String,
    Result<(Remedy, Option<usize>), String>,
);

/// Says of each damaged pack what mends it, or that nothing does; and of those that nothing mends which of their chunks
/// copies have in other packs.
async fn find_remedies(
    repo: &Repository,
    cx: &OpContext,
    others: &[Repository],
    bad: Vec<Bad>,
    (tier, named): (&Tier, &Named),
    plan: &mut RepairPlan,
) -> Result<()> {
    let there: BTreeSet<PackId> = tier.packs.values().map(|pack| pack.id).collect();
    let found = remedies(cx, others, bad).await?;
    let (mended, without): (Vec<_>, Vec<_>) = found.iter().partition(|one| one.3.is_ok());
    let ids = |packs: Vec<&Found>| packs.iter().map(|one| one.1).collect::<BTreeSet<_>>();
    // Nothing is to be looked for in these, needed or not, nor to be named by refs.
    let spoiled = ids(without);
    let needs = Needs::of(repo, cx, (tier, named), (&ids(mended), &spoiled)).await?;
    let mut lost = Vec::new();
    for (key, id, mut why, remedy) in found {
        let need = needs.need(&id).filter(|_| remedy.is_err());
        if let Some(need) = need {
            why = format!("{why}; {need}");
        }
        if need.is_some_and(|need| need != Need::OfLost) {
            if there.contains(&id) {
                plan.hopeless.push((id, key.clone()));
                let (severity, kind) = (
                    need.map_or(Severity::Error, Need::severity),
                    FindingKind::Damaged,
                );
                plan.lost
                    .push(Finding::new(severity, kind, key.as_str(), why));
            }
            // Else a prune takes it out of the index.
            continue;
        }
        plan.bad.insert(id, (key.clone(), why.clone()));
        match remedy {
            Ok((remedy, copy)) => plan.tasks.push(Task {
                subject: key.to_string(),
                why,
                remedy,
                work: Work::Pack(BadPack { id, key, copy }),
            }),
            Err(nothing) => lost.push((key, id, why, nothing)),
        }
    }
    let names = lost.iter().map(|(key, id, ..)| (*id, key.clone()));
    let mut parts = chunks::find(repo, cx, others, &names.collect(), &spoiled).await?;
    let mut found = Vec::new();
    for (key, id, mut why, nothing) in lost {
        if there.contains(&id) {
            plan.hopeless.push((id, key.clone()));
        }
        let part = parts.remove(&id);
        if !part.as_ref().is_some_and(LostPack::is_covered) {
            if there.contains(&id) {
                why.push_str("; a repair moves it to aside/: what is whole of it is read there, and a save stores anew what its source still has");
            }
            why = format!("{why}; {nothing}");
            if let Some((had, all)) = part.as_ref().map(LostPack::count) {
                why = format!(
                    "{why}; of {all} chunks of it that snapshots use, copies have {had} in other packs, which are fetched"
                );
            }
            plan.lose(FindingKind::Damaged, key.as_str(), why);
        }
        found.extend(part);
    }
    if let Some(first) = found.first() {
        let copies: Vec<_> = others.iter().map(Repository::location).collect();
        let why = format!(
            "no copy has {} by its name; what snapshots use of it lies there in other packs",
            first.key
        );
        plan.tasks.push(Task {
            subject: chunks::subject_of(&found),
            why,
            remedy: Remedy::Copy(copies.join(", ")),
            work: Work::Chunks(found, spoiled),
        });
    }
    // Of packs that were collected nothing is needed, unless one that is lost was stored in them too.
    for key in &tier.aside {
        if layout::pack_id(key).is_some_and(|id| tier.dead.contains(&id) && !needs.is_heir(&id)) {
            plan.settled.push(name(layout::aside(key))?);
        }
    }
    Ok(())
}

/// What mends each damaged pack, in the order of their names.
async fn remedies(cx: &OpContext, others: &[Repository], mut bad: Vec<Bad>) -> Result<Vec<Found>> {
    bad.sort_by(|a, b| a.0.cmp(&b.0));
    let mut out = Vec::new();
    for (mut key, id, why, by_parity) in bad {
        let remedy = match by_parity {
            Ok(()) => Ok((Remedy::Parity, None)),
            Err(no_parity) => match in_others(cx, &mut key, id, others).await? {
                Ok(number) => Ok((Remedy::Copy(others[number].location()), Some(number))),
                Err(no_copy) => Err(format!("{no_parity}; {no_copy}")),
            },
        };
        out.push((key, id, why, remedy));
    }
    Ok(out)
}

/// Packs that the index or refs know and that were not listed.
fn missing(repo: &Repository, job: &RepairJob, tier: &Tier, named: &Named) -> Result<Vec<Bad>> {
    let there: BTreeSet<PackId> = tier.packs.values().map(|pack| pack.id).collect();
    let index = repo.index().packs();
    let mut out = Vec::new();
    let known = index.iter().map(|(id, facts)| (*id, Some(facts.is_meta)));
    let only_named = named.packs.iter().filter(|id| !index.contains_key(*id));
    for (id, is_meta) in known.chain(only_named.map(|id| (*id, None))) {
        let is_asked = job.packs.is_empty() || job.packs.contains(&id);
        if there.contains(&id) || tier.dead.contains(&id) || !is_asked {
            continue;
        }
        // What only refs know lies in either folder; content is lost more often.
        let key = name(layout::pack(id, is_meta.unwrap_or(false)))?;
        let why = "it is not on the tier".to_owned();
        out.push((key, id, why, Err("parity alone brings no pack back".into())));
    }
    Ok(out)
}

/// Which of the copies has a pack whole; why none. Of one that only refs know it is not certain in which folder it lies:
/// a copy tells it.
async fn in_others(
    cx: &OpContext,
    key: &mut ObjectKey,
    id: PackId,
    others: &[Repository],
) -> Result<Result<usize, String>> {
    let mut why = match others.is_empty() {
        true => "name another copy of the repository with --from".to_owned(),
        false => "no copy that was named has it".to_owned(),
    };
    for (number, other) in others.iter().enumerate() {
        for at in [
            key.clone(),
            name(layout::pack(id, false))?,
            name(layout::pack(id, true))?,
        ] {
            match whole_of(cx, other, &at, id).await? {
                Ok(_) => {
                    *key = at;
                    return Ok(Ok(number));
                }
                Err(Some(no)) => why = no,
                Err(None) => {}
            }
        }
    }
    Ok(Err(why))
}

/// A pack as a copy of the repository has it, if that hashes to its name; why not, if it is there.
pub(super) async fn whole_of(
    cx: &OpContext,
    other: &Repository,
    key: &ObjectKey,
    id: PackId,
) -> Result<Result<Bytes, Option<String>>> {
    let place = other.location();
    match read_all_there_is(cx, &**other.sink(), key, MAX_PACK).await {
        Ok(bytes) if digest(&bytes).await? == id.0 => Ok(Ok(bytes)),
        Ok(_) => Ok(Err(Some(format!("the copy at {place} is damaged as well")))),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(Err(None)),
        // Another copy may still have it.
        Err(EngineError::Sink(error)) if !cx.cancel.is_cancelled() => {
            Ok(Err(Some(format!("the copy at {place}: {error}"))))
        }
        Err(error) => Err(error),
    }
}

pub(crate) async fn digest(bytes: &Bytes) -> Result<[u8; 32]> {
    let bytes = bytes.clone();
    let hashing = tokio::task::spawn_blocking(move || ContentDigest::of(&bytes).0);
    hashing
        .await
        .map_err(|_| EngineError::Panicked("a hashing thread"))
}

async fn look(
    repo: &Repository,
    cx: &OpContext,
    (tier, claims): (&Tier, &Claims),
    key: ObjectKey,
    listed: Listed,
) -> Result<Looked> {
    let sink = &**repo.sink();
    let read = read_all_there_is(cx, sink, &key, MAX_PACK).await;
    let (bytes, why) = match read {
        Ok(bytes) => (bytes, "its bytes do not hash to its name".to_owned()),
        // Collected since it was listed. If it was not, what is left in the end tells of it.
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
            return Ok(Looked {
                key,
                listed,
                bytes: 0,
                bad: None,
                is_protected: true,
                is_whole: false,
                is_named_truly: true,
            });
        }
        // That says nothing of whether it is whole.
        Err(error) if error.is_cold() => return Err(error),
        // Not a byte of it can be read.
        Err(EngineError::Sink(error)) => (Bytes::new(), error.to_string()),
        Err(error) => return Err(error),
    };
    let is_whole = digest(&bytes).await? == listed.id.0;
    let is_named_truly = match end_of(repo, &key, &bytes) {
        Ok(end) if is_whole => claims.agree(listed.id, bytes.len() as u64, &end.blobs),
        _ => true,
    };
    let mut out = Looked {
        bytes: bytes.len() as u64,
        bad: None,
        is_protected: false,
        is_whole,
        is_named_truly,
        listed,
        key,
    };
    let made = if tier.protected.contains(&out.key) {
        read_sidecar(cx, sink, &out.key).await?
    } else {
        None
    };
    let parity = made.as_ref().map(|made| Sidecar::read(made));
    out.is_protected = is_parity_of(parity.as_ref(), listed.id);
    if !is_whole {
        let aside = set_aside(repo, cx, tier, &out.key).await?;
        out.bad = Some((why, by_parity(parity, listed.id, &[&bytes, &aside])));
    }
    cx.tell(Event::Advanced {
        stage: Stage::Verify,
        entries: 1,
        bytes: out.bytes,
    });
    Ok(out)
}

/// Whether this is the parity of a pack, and every byte of it is as it was written.
fn is_parity_of(parity: Option<&Result<Sidecar<'_>, ParityError>>, id: PackId) -> bool {
    let read = parity.and_then(|read| read.as_ref().ok());
    read.is_some_and(|parity| parity.is_whole() && *parity.digest() == id.0)
}

/// Whether parity makes a pack whole of these copies; why not.
fn by_parity(
    parity: Option<Result<Sidecar<'_>, ParityError>>,
    id: PackId,
    copies: &[&[u8]],
) -> Result<(), String> {
    let parity = match parity {
        None => return Err("it has no parity".to_owned()),
        Some(read) => read.map_err(|error| error.to_string())?,
    };
    if *parity.digest() != id.0 {
        return Err("its parity is of another pack".to_owned());
    }
    let condition = parity.look(copies);
    if condition.is_mendable() {
        return Ok(());
    }
    Err(format!(
        "{} of its {} shards are damaged, and its parity makes good {}",
        condition.damaged, condition.shards, condition.spare
    ))
}

/// What an earlier run set aside of a pack: it may be whole where the pack itself was torn since.
async fn set_aside(
    repo: &Repository,
    cx: &OpContext,
    tier: &Tier,
    key: &ObjectKey,
) -> Result<Bytes> {
    if !tier.aside.contains(key) {
        return Ok(Bytes::new());
    }
    read_or_nothing(repo, cx, &name(layout::aside(key))?).await
}

pub(super) async fn read_or_nothing(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
) -> Result<Bytes> {
    match read_all_there_is(cx, &**repo.sink(), key, MAX_PACK).await {
        Ok(bytes) => Ok(bytes),
        Err(error) if error.is_cold() => Err(error),
        Err(EngineError::Sink(_)) if !cx.cancel.is_cancelled() => Ok(Bytes::new()),
        Err(error) => Err(error),
    }
}

/// Mends a pack.
///
/// # Errors
/// Damage when neither parity nor copy gives it; then it is as it was. Errors of the tier.
pub(super) async fn mend(
    repo: &Repository,
    cx: &OpContext,
    pack: &BadPack,
    others: &[Repository],
) -> Result<()> {
    let torn = read_or_nothing(repo, cx, &pack.key).await?;
    let aside = read_or_nothing(repo, cx, &name(layout::aside(&pack.key))?).await?;
    let damaged = |why: String| EngineError::damaged(&pack.key, why);
    let (whole, made_of): (Bytes, _) = match pack.copy {
        Some(number) => {
            let (mut found, mut why) = (None, "no copy has it any more".to_owned());
            // What it had when the plan was made may be damaged by now.
            for other in others.iter().skip(number).chain(others.iter().take(number)) {
                match whole_of(cx, other, &pack.key, pack.id).await? {
                    Ok(bytes) => {
                        found = Some(bytes);
                        break;
                    }
                    Err(no) => why = no.unwrap_or(why),
                }
            }
            (found.ok_or_else(|| damaged(why))?, MadeOf::Others)
        }
        None => {
            let made = read_sidecar(cx, &**repo.sink(), &pack.key).await?;
            let made = made.ok_or_else(|| damaged("its parity is gone".into()))?;
            let id = pack.id.0;
            let copies = [torn.clone(), aside];
            let mending = tokio::task::spawn_blocking(move || {
                let parity = Sidecar::read(&made)?;
                if *parity.digest() != id {
                    return Err(ParityError::Mismatch);
                }
                let made_of = match parity.look(&[&copies[0]]).is_mendable() {
                    true => MadeOf::Others,
                    false => MadeOf::Aside,
                };
                Ok((parity.mend(&[&copies[0], &copies[1]])?, made_of))
            });
            let mended = mending
                .await
                .map_err(|_| EngineError::Panicked("a mending thread"))?;
            let (whole, made_of) = mended.map_err(|error| damaged(error.to_string()))?;
            (whole.into(), made_of)
        }
    };
    replace(repo, cx, &pack.key, (torn, made_of), whole).await
}

/// What makes an object whole that is about to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MadeOf {
    /// Nothing that lies aside.
    Others,
    /// What an earlier run set aside, with other things or alone.
    Aside,
}

/// Puts whole bytes in the place of damaged ones. They are put aside before and read back from there, since what is overwritten may
/// be all that there is to make them of, and a tier whose medium fails may spoil what is written.
pub(super) async fn replace(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    (torn, made_of): (Bytes, MadeOf),
    whole: Bytes,
) -> Result<()> {
    let sink = repo.sink();
    let aside = name(layout::aside(key))?;
    if !torn.is_empty() && made_of == MadeOf::Others {
        keep(repo, cx, &aside, &whole).await?;
    }
    keep(repo, cx, key, &whole).await?;
    sink.delete(cx, &aside).await?;
    Ok(())
}

/// Writes an object and reads it back.
async fn keep(repo: &Repository, cx: &OpContext, key: &ObjectKey, whole: &Bytes) -> Result<()> {
    let sink = repo.sink();
    sink.put(cx, key, whole.clone(), PutMode::Replace).await?;
    let read = read_all_there_is(cx, &**sink, key, MAX_PACK).await;
    if read.map_err(|error| not_read_back(key, error))? == *whole {
        return Ok(());
    }
    let why = "it was mended, and the tier does not give back what was written; its medium may be failing";
    Err(EngineError::damaged(key, why))
}

/// Makes parity for packs that have none, or one that is damaged. A pack that is not whole gets none.
pub(super) async fn protect(
    repo: &Repository,
    cx: &OpContext,
    job: &RepairJob,
    packs: &[ObjectKey],
) -> Result<()> {
    let Some(share) = job.parity else {
        return Ok(());
    };
    cx.tell(Event::Entered {
        stage: Stage::Store,
        entries: Some(packs.len() as u64),
        bytes: None,
    });
    let mut refused = None;
    for key in packs {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let bytes = read_or_nothing(repo, cx, key).await?;
        let Some(id) = layout::pack_id(key) else {
            continue;
        };
        if digest(&bytes).await? != id.0 {
            continue;
        }
        let made = {
            let (key, bytes) = (key.clone(), bytes.clone());
            let making = tokio::task::spawn_blocking(move || sidecar(&key, id, &bytes, share));
            making
                .await
                .map_err(|_| EngineError::Panicked("a parity thread"))??
        };
        let at = name(layout::parity(key))?;
        match repo.sink().put(cx, &at, made, PutMode::Replace).await {
            Ok(_) => {}
            Err(error) => {
                let error = error.into();
                if !is_in_the_way(&error) {
                    return Err(error);
                }
                refused.get_or_insert(error);
                continue;
            }
        }
        cx.tell(Event::Advanced {
            stage: Stage::Store,
            entries: 1,
            bytes: bytes.len() as u64,
        });
    }
    refused.map_or(Ok(()), Err)
}
