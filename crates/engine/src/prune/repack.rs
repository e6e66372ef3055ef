//! Copying what is in use of packs that are mostly waste. Blobs move sealed as they are, so no data key
//! is needed; unless they are to be sealed anew ([`super::reseal`]). It is a session like any other: see the protocol.
//!
//! What is copied from goes, so a tier is not believed when it says that it has a copy: each is read back
//! before anything names it ([`super::kept`]), and so are refs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, Severity, SnapshotId,
};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::{MAX_PACK, PackBlob, PackBuilder, PackHeader};
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::{ObjectKind, blob_session};
use bytes::Bytes;
use futures::StreamExt as _;

use super::kept::{self, Written, not_kept, sha256};
use super::merge::put_kept_run;
use super::reseal::Resealer;
use super::survey::{Marks, Survey};
use super::{PruneJob, PruneReport};
use crate::announced::Announced;
use crate::collect::settle;
use crate::data_keys::WrapSet;
use crate::error::{EngineError, Result};
use crate::pack_end::end_of;
use crate::parity::put_pack;
use crate::refs::{self, Sum};
use crate::repository::{Repository, get_within, name};
use crate::stage::SIGN_OF_LIFE;
use crate::store::Session;

/// Refs of one snapshot that were moved; more would mean that somebody makes them without end.
const MOST_MOVES: u32 = 100_000;

/// Where the blobs of emptied packs lie now: the slots of each, as pack and slot.
type Moved = HashMap<PackId, HashMap<u32, (PackId, u32)>>;

/// Packs that are filled from others.
struct Copies<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    /// Of content, and of pages and lineage.
    open: [PackBuilder; 2],
    /// For each open pack, which slot of which old pack its blobs were.
    from: [Vec<(PackId, u32)>; 2],
    wraps: [WrapSet; 2],
    run: RunBuilder,
    run_wraps: WrapSet,
    /// Packs that the run names.
    written: Vec<Written>,
    moved: Moved,
    resealer: Option<Resealer>,
}

/// A blob that is about to be copied: its slot, and its bytes where they are not those of the old pack.
type Taken = (u32, PackBlob, Option<Vec<u8>>);

impl Copies<'_> {
    /// What is used of a pack, sealed anew as far as that is to be.
    fn take(&mut self, header: &PackHeader, bytes: &Bytes, slots: &PackUse) -> Result<Vec<Taken>> {
        let new = match &mut self.resealer {
            Some(resealer) => resealer.new_of(&header.sessions),
            None => BTreeSet::new(),
        };
        let mut out = Vec::new();
        for (slot, blob) in (0u32..)
            .zip(&header.blobs)
            .filter(|(slot, _)| slots.has(*slot))
        {
            let anew = match &mut self.resealer {
                Some(resealer) => {
                    let sealed = sealed(bytes, blob).ok_or_else(no_blob)?;
                    resealer.reseal(self.repo, (&new, &header.sessions), blob, sealed)?
                }
                None => None,
            };
            out.push((slot, *blob, anew));
        }
        Ok(out)
    }

    async fn add(
        &mut self,
        old: PackId,
        is_meta: bool,
        bytes: &Bytes,
        header: &PackHeader,
        taken: Vec<Taken>,
    ) -> Result<u64> {
        let wraps: WrapSet = header.sessions.iter().collect();
        let own = self.resealer.as_ref().map(Resealer::wrap);
        let which = usize::from(is_meta);
        let sizes = self.repo.sizes();
        let target = if is_meta {
            sizes.meta_pack
        } else {
            sizes.data_pack
        };
        let mut written = 0;
        for (slot, blob, anew) in taken {
            let sealed = match &anew {
                Some(anew) => anew,
                None => sealed(bytes, &blob).ok_or_else(no_blob)?,
            };
            if self.open[which].is_full_for(sealed.len(), target) {
                written += self.close(which).await?;
            }
            let session = blob_session(sealed).map_err(EngineError::Seal)?;
            let own = own.iter().filter(|own| own.session == session);
            for wrap in wraps.of(session).iter().chain(own) {
                self.wraps[which].add(wrap);
            }
            self.open[which].push(blob.kind, blob.id, blob.raw as usize, sealed);
            self.from[which].push((old, slot));
        }
        Ok(written)
    }

    /// Writes an open pack.
    async fn close(&mut self, which: usize) -> Result<u64> {
        if self.open[which].is_empty() {
            return Ok(0);
        }
        let builder = std::mem::replace(&mut self.open[which], PackBuilder::new(0));
        let wraps = std::mem::take(&mut self.wraps[which]);
        let list = wraps.to_vec();
        let pack = builder
            .finish(self.repo.ring(), &list)
            .map_err(EngineError::Seal)?;
        let size = pack.bytes.len() as u64;
        let key = name(layout::pack(pack.id, which == 1))?;
        let share = self.repo.parity();
        put_pack(
            self.cx,
            &**self.repo.sink(),
            (&key, pack.id),
            pack.bytes.into(),
            share,
        )
        .await?;
        if self.run.len() + pack.blobs.len() > MAX_ENTRIES {
            self.index().await?;
        }
        self.run
            .add_pack(pack.id, size, &pack.blobs)
            .map_err(|error| EngineError::wire(&key, &error))?;
        for wrap in wraps.iter() {
            self.run_wraps.add(wrap);
        }
        self.written.push(Written {
            key,
            sha256: pack.id.0,
            size,
        });
        let from = std::mem::take(&mut self.from[which]);
        for (new, (old, slot)) in (0u32..).zip(from) {
            let slots = self.moved.entry(old).or_default();
            slots.insert(slot, (pack.id, new));
        }
        Ok(size)
    }

    /// Writes the index run of the copies.
    async fn index(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        if run.is_empty() {
            return Ok(());
        }
        kept::are_whole(self.repo, self.cx, std::mem::take(&mut self.written)).await?;
        let wraps = std::mem::take(&mut self.run_wraps).to_vec();
        put_kept_run(self.repo, self.cx, run, &wraps).await
    }
}

fn no_blob() -> EngineError {
    EngineError::Evidence("a blob".into())
}

fn taken_for_dead() -> EngineError {
    EngineError::OtherPrune("it took this one for dead; nothing is lost".into())
}

fn sealed<'a>(bytes: &'a [u8], blob: &PackBlob) -> Option<&'a [u8]> {
    let start = blob.offset as usize;
    bytes.get(start..start.checked_add(blob.stored as usize)?)
}

/// Copies what is used of packs, some at a time, and lets refs name the copies. Adds the packs that are empty now.
pub(super) async fn repack(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    mut victims: &[PackId],
    (report, emptied): (&mut PruneReport, &mut BTreeSet<PackId>),
) -> Result<()> {
    while !victims.is_empty() {
        let (batch, rest) = victims.split_at(batch(survey, victims, job.batch));
        emptied.extend(repack_batch(repo, cx, job, survey, batch, report).await?);
        victims = rest;
    }
    Ok(())
}

/// How many of these packs have so many blobs in use together; at least one.
fn batch(survey: &Survey, victims: &[PackId], most: usize) -> usize {
    let mut sum = 0;
    let fits = |id: &&PackId| {
        sum += survey
            .marks
            .get(*id)
            .map_or(0, |slots| slots.used().count());
        sum <= most
    };
    victims.iter().take_while(fits).count().max(1)
}

async fn repack_batch(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    victims: &[PackId],
    report: &mut PruneReport,
) -> Result<BTreeSet<PackId>> {
    let (session, wrap, resealer) = if job.reseal {
        let session = Session::begin(repo, cx, &job.host).await?;
        let (announced, wrap) = (session.announced(), session.wrap().wrap);
        (announced, wrap, Some(Resealer::new(repo, session)?))
    } else {
        // There is no data key: nothing new is sealed.
        let session = Announced::begin(repo, cx, &job.host, Vec::new()).await?;
        (session, Vec::new(), None)
    };
    let _alive = session.keep_alive(repo, cx, wrap, SIGN_OF_LIFE);
    let copied = copy(repo, cx, survey, victims, resealer, report).await;
    let (copies, emptied) = match copied {
        Ok(copied) => copied,
        // No refs name anything of it yet, and nothing of it is under way.
        Err(error) => {
            // What is gone then is no lie of the tier.
            let is_revoked =
                matches!(error, EngineError::Unprunable(_)) && session.is_revoked(repo, cx).await?;
            session.end_of_failed(repo, cx).await;
            return Err(if is_revoked { taken_for_dead() } else { error });
        }
    };
    let packs: BTreeSet<_> = copies
        .moved
        .values()
        .flat_map(HashMap::values)
        .map(|at| at.0)
        .collect();
    report.written_packs += packs.len() as u64;
    let replaced = match move_refs(repo, cx, survey, &copies.moved).await {
        Ok(replaced) => replaced,
        Err(error) => {
            // Every answer has come, so nothing more will.
            if matches!(error, EngineError::Unprunable(_)) && !session.is_revoked(repo, cx).await? {
                session.end_of_failed(repo, cx).await;
            }
            return Err(error);
        }
    };
    if session.is_revoked(repo, cx).await? {
        // Another collector took this one for dead: the old refs may be all that is true.
        return Err(taken_for_dead());
    }
    for key in replaced {
        repo.sink().delete(cx, &key).await?;
    }
    session.end(repo, cx).await?;
    Ok(emptied)
}

/// Writes refs that name the copies; returns those that they stand for.
async fn move_refs(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
    moved: &Moved,
) -> Result<Vec<ObjectKey>> {
    let mut written = Vec::new();
    // Those of the survey may have been moved by the batch before.
    for (snapshot, keys) in refs::list(repo, cx).await? {
        if !survey.snapshots.contains(&snapshot) {
            continue;
        }
        let moved = moved_refs(repo, cx, snapshot, &keys, (moved, &survey.marks)).await?;
        let Some(refs) = moved else {
            continue;
        };
        let digest = sha256(&refs.encode());
        written.push((place_refs(repo, cx, &keys, &refs).await?, digest, keys));
    }
    settle(repo, cx).await;
    let mut replaced = Vec::new();
    let mut reading = futures::stream::iter(written)
        .map(|(key, digest, keys)| async move {
            Ok::<_, EngineError>((is_kept(repo, cx, &key, digest, &keys).await?, keys))
        })
        .buffer_unordered(repo.connections(cx));
    while let Some(read) = reading.next().await {
        let (is_kept, keys) = read?;
        if is_kept {
            replaced.extend(keys);
        }
    }
    Ok(replaced)
}

/// Whether refs that were written are what counts. Where the snapshot was forgotten meanwhile, or another prune
/// has replaced them, they are not, and neither are those before them.
///
/// # Errors
/// [`EngineError::Unprunable`] if the tier has not kept them; errors of the tier.
async fn is_kept(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    wanted: [u8; 32],
    before: &[ObjectKey],
) -> Result<bool> {
    let why = match refs::read(repo, cx, key).await {
        Ok(Some(back)) if sha256(&back.encode()) == wanted => return Ok(true),
        Ok(Some(_)) => format!("{key} says something else"),
        Ok(None) => {
            for key in before {
                match repo.sink().head(cx, key).await {
                    Ok(_) => {}
                    Err(error) if error.kind == ErrorKind::NotFound => return Ok(false),
                    Err(error) => return Err(error.into()),
                }
            }
            format!("{key} is not there")
        }
        Err(error) if error.is_damage() => error.to_string(),
        Err(error) => return Err(error),
    };
    // Those before them still count; these would stand in the way of every prune.
    repo.sink().delete(cx, key).await?;
    Err(not_kept(&why))
}

/// Copies what is used of packs, and writes the index runs of the copies.
async fn copy<'a>(
    repo: &'a Repository,
    cx: &'a OpContext,
    survey: &Survey,
    victims: &[PackId],
    resealer: Option<Resealer>,
    report: &mut PruneReport,
) -> Result<(Copies<'a>, BTreeSet<PackId>)> {
    let mut copies = Copies {
        repo,
        cx,
        open: [PackBuilder::new(0), PackBuilder::new(0)],
        from: [Vec::new(), Vec::new()],
        wraps: [WrapSet::default(), WrapSet::default()],
        run: RunBuilder::default(),
        run_wraps: WrapSet::default(),
        written: Vec::new(),
        moved: Moved::new(),
        resealer,
    };
    let mut emptied = BTreeSet::new();
    for id in victims {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let (Some(pack), Some(slots)) = (survey.packs.get(id), survey.marks.get(id)) else {
            continue;
        };
        let key = name(layout::pack(*id, pack.is_meta))?;
        let bytes = match get_within(cx, &**repo.sink(), &key, MAX_PACK).await {
            Ok(bytes) => bytes,
            Err(error) if error.is_damage() => Bytes::new(),
            // Another prune has copied and deleted it; if not, the next one misses it.
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if sha256(&bytes) != id.0 {
            let detail = "its bytes do not hash to its name, so it is not copied and stays; `snapshot repair` tells what mends it";
            let finding = Finding::new(Severity::Error, FindingKind::Damaged, key.as_str(), detail);
            report.findings.push(finding);
            continue;
        }
        let header = match end_of(repo, &key, &bytes) {
            Ok(header) => header,
            Err(error) if error.is_damage() => {
                let detail = format!(
                    "{error}; so it is not copied and stays; `snapshot verify --level full` tells what it hurts"
                );
                let (severity, kind) = (Severity::Error, FindingKind::Damaged);
                let finding = Finding::new(severity, kind, key.as_str(), detail);
                report.findings.push(finding);
                continue;
            }
            Err(error) => return Err(error),
        };
        let there = header.blobs.len();
        // Where refs say another number, nobody can tell what of it they name.
        if there != slots.slots as usize {
            let detail = format!(
                "refs say that it has {} slots, and it has {there}: whoever wrote them went by a false index run, or lied; it is not written anew, and stays until the snapshots that use it are forgotten",
                slots.slots
            );
            let finding =
                Finding::new(Severity::Error, FindingKind::Mismatch, key.as_str(), detail);
            report.findings.push(finding);
            continue;
        }
        // All of it or nothing: a pack of which a blob does not open stays as it is.
        let taken = match tokio::task::block_in_place(|| copies.take(&header, &bytes, slots)) {
            Ok(taken) => taken,
            Err(error) if error.is_damage() => {
                let detail = format!(
                    "{error}; so it is not sealed anew and stays; `snapshot verify --level full` tells what it hurts"
                );
                let (severity, kind) = (Severity::Error, FindingKind::Damaged);
                let finding = Finding::new(severity, kind, key.as_str(), detail);
                report.findings.push(finding);
                continue;
            }
            Err(error) => return Err(error),
        };
        if survey.older.contains(id) {
            report.resealed_packs += 1;
            report.resealed_bytes += pack.size;
        }
        let added = copies.add(*id, pack.is_meta, &bytes, &header, taken);
        report.written_bytes += added.await?;
        emptied.insert(*id);
    }
    for which in 0..2 {
        report.written_bytes += copies.close(which).await?;
    }
    copies.index().await?;
    Ok((copies, emptied))
}

/// All refs of a snapshot as one that names copies; `None` if it uses nothing that moved, or is gone.
async fn moved_refs(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    keys: &[ObjectKey],
    (moved, marks): (&Moved, &Marks),
) -> Result<Option<Refs>> {
    let mut sum = Sum::default();
    for key in keys {
        let Some(refs) = refs::read(repo, cx, key).await? else {
            return Ok(None);
        };
        sum.add(refs);
    }
    let all = &mut sum.0;
    let mut copied: BTreeMap<PackId, BTreeSet<u32>> = BTreeMap::new();
    let olds: Vec<_> = all
        .keys()
        .filter(|id| moved.contains_key(id))
        .copied()
        .collect();
    if olds.is_empty() {
        return Ok(None);
    }
    for old in olds {
        let (Some(slots), Some(to)) = (all.get(&old), moved.get(&old)) else {
            continue;
        };
        // A slot that was not copied was named by nobody when the survey was made.
        if !slots.used().all(|slot| to.contains_key(&slot)) {
            continue;
        }
        // Refs that count otherwise than the pack may mean any of its slots: then all were marked and copied.
        if marks.get(&old).is_some_and(|all| all.slots != slots.slots) {
            for (pack, new) in to.values() {
                copied.entry(*pack).or_default().insert(*new);
            }
        }
        for slot in slots.used() {
            if let Some((pack, new)) = to.get(&slot) {
                copied.entry(*pack).or_default().insert(*new);
            }
        }
        all.remove(&old);
    }
    let sizes = sizes_of(moved);
    for (pack, slots) in copied {
        let count = sizes.get(&pack).copied().unwrap_or_default();
        all.insert(pack, PackUse::new(pack, count, slots));
    }
    Ok(Some(sum.into_refs(snapshot)))
}

/// How many slots the copies have.
fn sizes_of(moved: &Moved) -> HashMap<PackId, u32> {
    let mut out: HashMap<PackId, u32> = HashMap::new();
    for (pack, slot) in moved.values().flat_map(HashMap::values) {
        let size = out.entry(*pack).or_default();
        *size = (*size).max(slot + 1);
    }
    out
}

/// Writes refs under the next number that is free.
pub(crate) async fn put_refs(
    repo: &Repository,
    cx: &OpContext,
    known: &[ObjectKey],
    refs: &Refs,
) -> Result<()> {
    place_refs(repo, cx, known, refs).await.map(drop)
}

/// The same; says under which name.
pub(crate) async fn place_refs(
    repo: &Repository,
    cx: &OpContext,
    known: &[ObjectKey],
    refs: &Refs,
) -> Result<ObjectKey> {
    let sealed = repo.ring().seal(ObjectKind::Refs, &refs.encode());
    let sealed: Bytes = sealed.map_err(EngineError::Seal)?.into();
    let numbers = known.iter().filter_map(|key| layout::refs_id(key)?.1);
    let first = numbers.max().map_or(0, |number| number.saturating_add(1));
    for number in first..MOST_MOVES {
        let key = name(layout::moved_refs(refs.snapshot, number))?;
        match repo
            .sink()
            .put(cx, &key, sealed.clone(), PutMode::Create)
            .await
        {
            Ok(_) => return Ok(key),
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Unprunable(format!(
        "snapshot {} has too many refs",
        refs.snapshot
    )))
}
