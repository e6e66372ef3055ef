//! Copying what is in use of packs that are mostly waste. Blobs move sealed as they are, so no data key
//! is needed. It is a session like any other: see the protocol.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, Severity, SnapshotId,
};
use backup_format::index::{MAX_ENTRIES, RunBuilder};
use backup_format::layout;
use backup_format::pack::{FOOTER, MAX_PACK, PackBlob, PackBuilder, header_length, read_tail};
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::{ObjectKind, blob_session};
use backup_integrity::digest::ContentHasher;
use bytes::Bytes;

use super::merge::put_run;
use super::survey::Survey;
use super::{PruneJob, PruneReport};
use crate::announced::Announced;
use crate::data_keys::WrapSet;
use crate::error::{EngineError, Result};
use crate::parity::put_pack;
use crate::refs::{self, Sum};
use crate::repository::{Repository, get_within, name};

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
    moved: Moved,
}

impl Copies<'_> {
    async fn add(
        &mut self,
        old: PackId,
        is_meta: bool,
        bytes: &Bytes,
        slots: &PackUse,
    ) -> Result<u64> {
        let header = tail(self.repo, bytes)?;
        let wraps: WrapSet = header.sessions.iter().collect();
        let which = usize::from(is_meta);
        let sizes = self.repo.sizes();
        let target = if is_meta {
            sizes.meta_pack
        } else {
            sizes.data_pack
        };
        let mut written = 0;
        for (slot, blob) in (0u32..)
            .zip(&header.blobs)
            .filter(|(slot, _)| slots.has(*slot))
        {
            let sealed = sealed(bytes, blob).ok_or(EngineError::Evidence("a blob".into()))?;
            if self.open[which].is_full_for(sealed.len(), target) {
                written += self.close(which).await?;
            }
            let session = blob_session(sealed).map_err(EngineError::Seal)?;
            for wrap in wraps.of(session) {
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
            pack.bytes,
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
        let wraps = std::mem::take(&mut self.run_wraps).to_vec();
        put_run(self.repo, self.cx, run, &wraps).await.map(drop)
    }
}

fn sealed<'a>(bytes: &'a [u8], blob: &PackBlob) -> Option<&'a [u8]> {
    let start = blob.offset as usize;
    bytes.get(start..start.checked_add(blob.stored as usize)?)
}

fn tail(repo: &Repository, bytes: &[u8]) -> Result<backup_format::pack::PackHeader> {
    let short = || EngineError::Evidence("a pack is too short".into());
    let footer = bytes.len().checked_sub(FOOTER).ok_or_else(short)?;
    let wire = |error| EngineError::Evidence(format!("the end of a pack: {error}"));
    let length = header_length(bytes.get(footer..).unwrap_or_default()).map_err(wire)?;
    let start = footer.checked_sub(length).ok_or_else(short)?;
    read_tail(repo.ring(), bytes.get(start..).unwrap_or_default()).map_err(EngineError::Seal)
}

fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = ContentHasher::new();
    hasher.update(bytes);
    hasher.finish().0
}

/// Copies what is used of packs, and lets refs name the copies. Returns the packs that are empty now.
pub(super) async fn repack(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
    survey: &Survey,
    victims: &[PackId],
    report: &mut PruneReport,
) -> Result<BTreeSet<PackId>> {
    // There is no data key: nothing new is sealed.
    let session = Announced::begin(repo, cx, &job.host, Vec::new()).await?;
    let copied = copy(repo, cx, survey, victims, report).await;
    let (copies, emptied) = match copied {
        Ok(copied) => copied,
        // No refs name anything of it yet, and nothing of it is under way.
        Err(error) => {
            session.end_of_failed(repo, cx).await;
            return Err(error);
        }
    };
    let packs: BTreeSet<_> = copies
        .moved
        .values()
        .flat_map(HashMap::values)
        .map(|at| at.0)
        .collect();
    report.written_packs += packs.len() as u64;
    let mut replaced = Vec::new();
    for (snapshot, keys) in &survey.refs {
        if !survey.snapshots.contains(snapshot) {
            continue;
        }
        let Some(moved) = moved_refs(repo, cx, *snapshot, keys, &copies.moved).await? else {
            continue;
        };
        put_refs(repo, cx, keys, &moved).await?;
        replaced.extend(keys);
    }
    if session.is_revoked(repo, cx).await? {
        // Another collector took this one for dead: the old refs may be all that is true.
        return Err(EngineError::OtherPrune(
            "it took this one for dead; nothing is lost".into(),
        ));
    }
    for key in replaced {
        repo.sink().delete(cx, key).await?;
    }
    session.end(repo, cx).await?;
    Ok(emptied)
}

/// Copies what is used of packs, and writes the index runs of the copies.
async fn copy<'a>(
    repo: &'a Repository,
    cx: &'a OpContext,
    survey: &Survey,
    victims: &[PackId],
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
        moved: Moved::new(),
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
        if digest(&bytes) != id.0 {
            let detail = "its bytes do not hash to its name, so it is not copied and stays; `snapshot verify` tells what it hurts";
            let finding = Finding::new(Severity::Error, FindingKind::Damaged, key.as_str(), detail);
            report.findings.push(finding);
            continue;
        }
        report.written_bytes += copies.add(*id, pack.is_meta, &bytes, slots).await?;
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
    moved: &Moved,
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
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(EngineError::Unprunable(format!(
        "snapshot {} has too many refs",
        refs.snapshot
    )))
}
