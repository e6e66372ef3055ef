//! Chunks of packs that are lost, from a copy that has them in other packs: a prune of either tier has written them anew, so
//! no copy has the pack by its name.
//!
//! What snapshots use of such a pack is looked for by the index of the copy, fetched pack by pack, and laid into new packs,
//! each blob sealed as it is. Whoever reads content opens each before, and those that other packs here have: then refs are
//! made anew that name the lost pack, from the manifests, and nothing names it any more. With a key that reads none the chunks
//! come back all the same, and what is left to be done waits for one that does.
//!
//! It is a session, so that no collection takes the new packs for garbage before refs name them. Memory: one pack of the
//! copy, the two that are filled, and some 50 bytes for each chunk that is wanted.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ChunkId, Finding, FindingKind, HostId, ObjectKey, OpContext, PackId, Severity};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::{MAX_PACK, PackBlob, PackBuilder, PackHeader};
use backup_format::refs::PackUse;
use backup_format::seal::{BlobCodec, BlobKind, blob_session};
use bytes::Bytes;

use super::packs::whole_of;
use super::refs as refs_of;
use super::refs::BadRefs;
use crate::announced::Announced;
use crate::collect::settle;
use crate::data_keys::{SealedBlob, WrapSet};
use crate::error::{EngineError, Result};
use crate::heirs::uses;
use crate::index_set::{IndexSet, Place};
use crate::pack_end::{end_of, read_end};
use crate::parity::put_pack;
use crate::prune::merge::put_run;
use crate::refs;
use crate::repository::{Repository, get_within, name};
use crate::stage::SIGN_OF_LIFE;

/// A chunk, by the half of its id that the index has.
pub(crate) type Chunk = ([u8; 16], BlobKind);

/// A lost pack of which a copy has something.
#[derive(Debug)]
pub(super) struct LostPack {
    id: PackId,
    pub(super) key: ObjectKey,
    /// What snapshots use of it.
    used: BTreeSet<Chunk>,
    /// How much of that no other pack here has.
    wanted: usize,
    /// And no copy.
    lacking: usize,
}

impl LostPack {
    /// Whether nothing of it is lost for good.
    pub(super) const fn is_covered(&self) -> bool {
        self.lacking == 0
    }

    /// How many chunks copies give back, and how many are looked for.
    pub(super) const fn count(&self) -> (usize, usize) {
        (self.wanted.saturating_sub(self.lacking), self.wanted)
    }
}

/// What a task of this says that it is about.
pub(super) fn subject_of(lost: &[LostPack]) -> String {
    match lost {
        [] => String::new(),
        [one] => format!("chunks of {}", one.key),
        [first, more @ ..] => format!("chunks of {} and {} more packs", first.key, more.len()),
    }
}

/// What is said where chunks came back and refs go on naming the packs that are lost.
fn left_for_reader(lost: &[LostPack]) -> Finding {
    let why = "they are here again, in other packs, and refs go on naming those that are lost: `snapshot repair --from` the same copy with a full key looks whether they are what they should be, and makes refs anew";
    let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
    Finding::new(severity, kind, subject_of(lost), why)
}

/// What came of bringing chunks back.
#[derive(Debug, Default)]
pub(super) struct Done {
    /// The packs that nothing names any more.
    pub(super) unnamed: BTreeSet<PackId>,
    /// What is to be done yet.
    pub(super) left: Option<Finding>,
}

/// Which of some lost packs of which snapshots use something have chunks that are in other packs, there or here.
///
/// # Errors
/// Errors of the tiers.
pub(super) async fn find(
    repo: &Repository,
    cx: &OpContext,
    others: &[Repository],
    lost: &BTreeMap<PackId, ObjectKey>,
    spoiled: &BTreeSet<PackId>,
) -> Result<BTreeMap<PackId, LostPack>> {
    let mut out = BTreeMap::new();
    // Without a copy a lost pack may still come back from one.
    if others.is_empty() || lost.is_empty() {
        return Ok(out);
    }
    let index = repo.proven_index(cx).await?;
    let here = here(repo, cx, &index, spoiled.clone()).await?;
    let mut there = Vec::new();
    for other in others {
        // A pack of the same name is not whole there: else it were fetched as it is.
        let same = lost.keys().copied().collect();
        there.push(other.proven_index(cx).await?.avoiding(&same));
    }
    let uses = uses(repo, cx, |id| lost.contains_key(id)).await?;
    for (id, used) in used_chunks(&index, &uses) {
        let Some(key) = lost.get(&id) else { continue };
        let wanted: Vec<&Chunk> = used.iter().filter(|one| !has(&here, one)).collect();
        let is_nowhere = |one: &&&Chunk| !there.iter().any(|index| has(index, one));
        let lacking = wanted.iter().filter(is_nowhere).count();
        let wanted = wanted.len();
        // All of it may be here by now, after a run that was killed.
        if !used.is_empty() && (lacking < wanted || wanted == 0) {
            let key = key.clone();
            let one = LostPack {
                id,
                key,
                used,
                wanted,
                lacking,
            };
            out.insert(id, one);
        }
    }
    index.check()?;
    for index in there {
        index.check()?;
    }
    Ok(out)
}

fn has(index: &IndexSet, (prefix, kind): &Chunk) -> bool {
    index
        .places(prefix)
        .any(|place| place.located.kind == *kind)
}

/// The index without some packs, and without what is about to go.
async fn here(
    repo: &Repository,
    cx: &OpContext,
    index: &IndexSet,
    mut avoided: BTreeSet<PackId>,
) -> Result<IndexSet> {
    let going = repo.known_collection(cx).await?;
    avoided.extend(going.condemned);
    avoided.extend(going.dead);
    Ok(index.avoiding(&avoided))
}

/// The chunks that are used of packs, as far as the index tells. Where it counts otherwise than refs do, all are.
pub(crate) fn used_chunks(
    index: &IndexSet,
    uses: &BTreeMap<PackId, PackUse>,
) -> BTreeMap<PackId, BTreeSet<Chunk>> {
    let mut out: BTreeMap<PackId, BTreeSet<Chunk>> = BTreeMap::new();
    for part in index.parts() {
        let mut of_packs: BTreeMap<u32, Vec<(u32, Chunk)>> = BTreeMap::new();
        let known = part.packs().filter(|(_, pack)| uses.contains_key(&pack.id));
        let known: BTreeMap<u32, PackId> = known.map(|(at, pack)| (at, pack.id)).collect();
        if known.is_empty() {
            continue;
        }
        for (prefix, located) in part.iter() {
            if known.contains_key(&located.pack) {
                let blobs = of_packs.entry(located.pack).or_default();
                blobs.push((located.offset, (prefix, located.kind)));
            }
        }
        for (at, mut blobs) in of_packs {
            let Some((id, usage)) = known.get(&at).and_then(|id| Some((id, uses.get(id)?))) else {
                continue;
            };
            blobs.sort_unstable();
            let agrees = usage.slots as usize == blobs.len();
            let slots = (0u32..).zip(blobs);
            let used = slots.filter(|(slot, _)| !agrees || usage.has(*slot));
            let chunks = used.map(|(_, (_, chunk))| chunk);
            out.entry(*id).or_default().extend(chunks);
        }
    }
    out
}

/// Whether the index tells all that a pack held: a run has as many slots of it as refs do.
pub(crate) fn is_told(index: &IndexSet, usage: &PackUse) -> bool {
    index.parts().iter().any(|part| {
        let mut known = part
            .packs()
            .filter(|(_, pack)| pack.id == usage.pack)
            .peekable();
        if known.peek().is_none() {
            return false;
        }
        let counts = part.counts();
        known.any(|(at, _)| {
            let counted = counts.get(at as usize).copied().flatten();
            counted.is_some_and(|(_, count)| count == u64::from(usage.slots))
        })
    })
}

/// Brings chunks back, and lets refs name the packs no more in which they were. Gives the packs that nothing names behind
/// that. They stay in the index, and what is left of them aside, until a prune has settled whoever may be about to name them.
///
/// # Errors
/// Damage when copies do not give all that they have; what they gave stays, and the next run goes on.
/// [`EngineError::OtherPrune`] when this run was taken for dead. Errors of the tier.
pub(super) async fn bring_back(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    (lost, spoiled): (&[LostPack], &BTreeSet<PackId>),
    others: &[Repository],
) -> Result<Done> {
    // There is no data key: nothing new is sealed.
    let session = Announced::begin(repo, cx, host, Vec::new()).await?;
    let _alive = session.keep_alive(repo, cx, Vec::new(), SIGN_OF_LIFE);
    let done = match run(repo, cx, host, (lost, spoiled), others).await {
        Ok(done) => done,
        Err(error) => {
            session.end_of_failed(repo, cx).await;
            return Err(error);
        }
    };
    if session.is_revoked(repo, cx).await? {
        let why = "it took this repair for dead; run it again, nothing is lost";
        return Err(EngineError::OtherPrune(why.into()));
    }
    session.end(repo, cx).await?;
    let left = (!repo.keys().can_read()).then(|| left_for_reader(lost));
    Ok(Done {
        unnamed: done,
        left,
    })
}

async fn run(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    (lost, spoiled): (&[LostPack], &BTreeSet<PackId>),
    others: &[Repository],
) -> Result<BTreeSet<PackId>> {
    settle(repo, cx).await;
    repo.refresh_index(cx).await?;
    let here = here(repo, cx, &repo.index(), spoiled.clone()).await?;
    let used: BTreeSet<Chunk> = lost.iter().flat_map(|one| &one.used).copied().collect();
    let (present, mut left): (BTreeSet<Chunk>, _) = used.iter().partition(|one| has(&here, one));
    let can_read = repo.keys().can_read();
    let mut shunned = spoiled.clone();
    if can_read {
        // Before anything is fetched: what is not here after all is had from the copies as well.
        left.extend(unproven(repo, cx, &here, &present, &mut shunned).await?);
    }
    let mut filling = Filling::new(repo, cx);
    for other in others {
        fetch(repo, cx, other, &mut left, &mut filling).await?;
    }
    filling.end().await?;
    let is_had = |one: &&LostPack| one.is_covered() && one.used.is_disjoint(&left);
    let whole: BTreeSet<PackId> = lost.iter().filter(is_had).map(|one| one.id).collect();
    let mut done = BTreeSet::new();
    if can_read && !whole.is_empty() {
        // What they hold, or are said to, is looked for in others first: refs are to name what is whole.
        repo.shun(shunned);
        done = name_others(repo, cx, host, whole.clone(), others).await?;
    }
    let planned = lost.iter().filter(|one| one.is_covered());
    let failed = planned.filter(|one| !whole.contains(&one.id)).count();
    if failed > 0 {
        let why = format!("of {failed} packs no copy gives all whole that snapshots use");
        return Err(EngineError::damaged(subject_of(lost), why));
    }
    Ok(done)
}

/// Which of some chunks that other packs here have, as the index says, are not what they should be: these packs may be damaged,
/// and whoever may write to the index can say anything of them. Refs name the first place of a chunk, so that is looked at. A
/// pack in which one is not what it should be is shunned, and then what comes first is looked at again.
async fn unproven(
    repo: &Repository,
    cx: &OpContext,
    here: &IndexSet,
    chunks: &BTreeSet<Chunk>,
    shunned: &mut BTreeSet<PackId>,
) -> Result<BTreeSet<Chunk>> {
    loop {
        let (found, in_packs) = unproven_in(repo, cx, &here.shunning(shunned), chunks).await?;
        let known = shunned.len();
        shunned.extend(in_packs);
        if shunned.len() == known {
            return Ok(found);
        }
    }
}

/// Which of some chunks are not what they should be at the first place of each, and the packs of these places.
async fn unproven_in(
    repo: &Repository,
    cx: &OpContext,
    here: &IndexSet,
    chunks: &BTreeSet<Chunk>,
) -> Result<(BTreeSet<Chunk>, BTreeSet<PackId>)> {
    let mut packs: BTreeMap<PackId, Vec<(Chunk, Place)>> = BTreeMap::new();
    for chunk in chunks {
        let (prefix, kind) = chunk;
        let mut places = here.places(prefix);
        if let Some(place) = places.find(|place| place.located.kind == *kind) {
            packs.entry(place.pack).or_default().push((*chunk, place));
        }
    }
    let (mut out, mut in_packs) = (chunks.clone(), BTreeSet::new());
    for (id, places) in packs {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        for chunk in right_of(repo, cx, &places).await? {
            out.remove(&chunk);
        }
        if places.iter().any(|(chunk, _)| out.contains(chunk)) {
            in_packs.insert(id);
        }
    }
    Ok((out, in_packs))
}

/// Those of some chunks of one pack that are what they should be.
async fn right_of(
    repo: &Repository,
    cx: &OpContext,
    places: &[(Chunk, Place)],
) -> Result<Vec<Chunk>> {
    let mut out = Vec::new();
    let Some((_, first)) = places.first() else {
        return Ok(out);
    };
    let end = match read_end(repo, cx, &Repository::pack_key(first)?).await {
        Ok(Some((end, _))) => end,
        Ok(None) => return Ok(out),
        Err(error) if error.is_damage() => return Ok(out),
        Err(error) => return Err(error),
    };
    let blobs = end.blobs.iter();
    let ids: BTreeMap<Chunk, ChunkId> = blobs
        .map(|blob| ((blob.id.prefix(), blob.kind), blob.id))
        .collect();
    for (chunk, place) in places {
        let Some(id) = ids.get(chunk) else { continue };
        match repo.read_place(cx, chunk.1, id, place).await {
            Ok(_) => out.push(*chunk),
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

/// Fetches what a copy has of some chunks, and takes that off.
async fn fetch(
    repo: &Repository,
    cx: &OpContext,
    other: &Repository,
    left: &mut BTreeSet<Chunk>,
    filling: &mut Filling<'_>,
) -> Result<()> {
    let index = other.proven_index(cx).await?;
    let mut packs: BTreeMap<(PackId, bool), BTreeSet<Chunk>> = BTreeMap::new();
    for chunk in left.iter() {
        let (prefix, kind) = chunk;
        for place in index.places(prefix).filter(|at| at.located.kind == *kind) {
            let pack = (place.pack, kind.is_meta());
            packs.entry(pack).or_default().insert(*chunk);
        }
    }
    for ((id, is_meta), chunks) in packs {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        if chunks.is_disjoint(left) {
            continue;
        }
        let key = name(layout::pack(id, is_meta))?;
        // What one copy has damaged another may have whole.
        let Ok(bytes) = whole_of(cx, other, &key, id).await? else {
            continue;
        };
        let end = match end_of(repo, &key, &bytes) {
            Ok(end) => end,
            Err(error) if error.is_damage() => continue,
            Err(error) => return Err(error),
        };
        for blob in &end.blobs {
            let chunk = (blob.id.prefix(), blob.kind);
            if chunks.contains(&chunk)
                && left.contains(&chunk)
                && filling.take(blob, &bytes, &end).await?
            {
                left.remove(&chunk);
            }
        }
    }
    Ok(())
}

/// Makes refs anew that name these packs; gives those packs that nothing names behind that.
async fn name_others(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    mut packs: BTreeSet<PackId>,
    others: &[Repository],
) -> Result<BTreeSet<PackId>> {
    let mut listed = refs::list(repo, cx).await?;
    for head in repo.heads(cx).await?.0 {
        let keys = listed.remove(&head.meta.id).unwrap_or_default();
        let mut outdated = Vec::new();
        for key in &keys {
            if !named_by(repo, cx, key, &packs).await?.is_empty() {
                outdated.push(key.clone());
            }
        }
        if !outdated.is_empty() {
            let anew = BadRefs::outdated(head, keys, outdated);
            refs_of::rebuild(repo, cx, host, &anew, others).await?;
        }
    }
    // Those of snapshots that are gone stay as they are.
    for key in refs::list(repo, cx).await?.into_values().flatten() {
        for named in named_by(repo, cx, &key, &packs).await? {
            packs.remove(&named);
        }
    }
    Ok(packs)
}

/// Which of some packs these refs name; all, where that cannot be told.
async fn named_by(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    packs: &BTreeSet<PackId>,
) -> Result<BTreeSet<PackId>> {
    match refs::read(repo, cx, key).await {
        Ok(refs) => {
            let named = refs.into_iter().flat_map(|refs| refs.packs);
            let named = named.map(|one| one.pack);
            Ok(named.filter(|id| packs.contains(id)).collect())
        }
        Err(error) if error.is_damage() => Ok(packs.clone()),
        Err(error) => Err(error),
    }
}

/// New packs that are filled with what a copy has.
struct Filling<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    /// Of content, and of pages and lineage.
    open: [PackBuilder; 2],
    wraps: [WrapSet; 2],
    run: RunBuilder,
    run_wraps: WrapSet,
    written: BTreeSet<PackId>,
    plain: Vec<u8>,
}

impl<'a> Filling<'a> {
    fn new(repo: &'a Repository, cx: &'a OpContext) -> Self {
        Self {
            repo,
            cx,
            open: [PackBuilder::new(0), PackBuilder::new(0)],
            wraps: [WrapSet::default(), WrapSet::default()],
            run: RunBuilder::default(),
            run_wraps: WrapSet::default(),
            written: BTreeSet::new(),
            plain: Vec::new(),
        }
    }

    /// Takes a blob of a pack, if it is what its id says as far as the key can tell; says whether it did.
    async fn take(&mut self, blob: &PackBlob, bytes: &Bytes, end: &PackHeader) -> Result<bool> {
        let start = blob.offset as usize;
        let Some(sealed) = bytes.get(start..start.saturating_add(blob.stored as usize)) else {
            return Ok(false);
        };
        if self.repo.keys().can_read() && !self.is_right(blob, sealed, end)? {
            return Ok(false);
        }
        let which = usize::from(blob.kind.is_meta());
        let sizes = self.repo.sizes();
        let target = match which {
            0 => sizes.data_pack,
            _ => sizes.meta_pack,
        };
        if self.open[which].is_full_for(sealed.len(), target) {
            self.close(which).await?;
        }
        let session = blob_session(sealed).map_err(EngineError::Seal)?;
        for wrap in end.sessions.iter().filter(|wrap| wrap.session == session) {
            self.wraps[which].add(wrap);
        }
        self.open[which].push(blob.kind, blob.id, blob.raw as usize, sealed);
        Ok(true)
    }

    fn is_right(&mut self, blob: &PackBlob, sealed: &[u8], end: &PackHeader) -> Result<bool> {
        let described = SealedBlob {
            kind: blob.kind,
            id: &blob.id,
            raw: blob.raw as usize,
            sealed,
        };
        let (repo, plain) = (self.repo, &mut self.plain);
        let opened = tokio::task::block_in_place(|| {
            let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
            repo.open_knowing(&mut codec, &described, &end.sessions, plain)
        });
        match opened {
            Ok(()) => Ok(true),
            Err(error) if error.is_damage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes an open pack, and reads it back.
    async fn close(&mut self, which: usize) -> Result<()> {
        if self.open[which].is_empty() {
            return Ok(());
        }
        let builder = std::mem::replace(&mut self.open[which], PackBuilder::new(0));
        let wraps = std::mem::take(&mut self.wraps[which]);
        let pack = builder.finish(self.repo.ring(), &wraps.to_vec());
        let pack = pack.map_err(EngineError::Seal)?;
        let key = name(layout::pack(pack.id, which == 1))?;
        let bytes: Bytes = pack.bytes.into();
        let (sink, share) = (&**self.repo.sink(), self.repo.parity());
        put_pack(self.cx, sink, (&key, pack.id), bytes.clone(), share).await?;
        settle(self.repo, self.cx).await;
        if get_within(self.cx, sink, &key, MAX_PACK).await? != bytes {
            let why = "it was written, and the tier does not give back what was; its medium may be failing";
            return Err(EngineError::damaged(&key, why));
        }
        if self.run.len() + pack.blobs.len() > MAX_ENTRIES {
            self.index().await?;
        }
        let size = bytes.len() as u64;
        self.run
            .add_pack(pack.id, size, &pack.blobs)
            .map_err(|error| EngineError::wire(&key, &error))?;
        wraps.iter().for_each(|wrap| {
            self.run_wraps.add(wrap);
        });
        self.written.insert(pack.id);
        Ok(())
    }

    async fn index(&mut self) -> Result<()> {
        let run = std::mem::take(&mut self.run);
        let wraps = std::mem::take(&mut self.run_wraps).to_vec();
        if !run.is_empty() {
            put_run(self.repo, self.cx, run, &wraps).await?;
        }
        Ok(())
    }

    /// Writes what is open, and sees that the index knows it.
    async fn end(mut self) -> Result<()> {
        for which in 0..2 {
            self.close(which).await?;
        }
        self.index().await?;
        if self.written.is_empty() {
            return Ok(());
        }
        settle(self.repo, self.cx).await;
        self.repo.refresh_index(self.cx).await?;
        let known = self.repo.index().pack_sizes();
        match self.written.iter().find(|id| !known.contains_key(id)) {
            None => Ok(()),
            Some(id) => {
                let why = "it was indexed, and the tier does not give the run back";
                Err(EngineError::damaged(format!("pack {id}"), why))
            }
        }
    }
}
