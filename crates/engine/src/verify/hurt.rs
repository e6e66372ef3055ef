//! What damage hurts: each damaged object is named with the snapshots that use it, by their refs, and
//! where manifests can be read with the entries that cannot be restored whole.
//!
//! Only snapshots that use something damaged are walked once more, and a chunk is lost only if it is
//! damaged wherever it lies. Memory: twenty paths and twenty snapshots for each of a thousand objects.

use std::collections::{BTreeSet, HashMap, HashSet};

use backup_core::{ChunkId, FindingKind, PackId, SnapshotId};
use backup_format::extent::{Extent, Extents};
use backup_format::keys::KeyError;
use backup_format::refs::Refs;
use backup_format::seal::BlobKind;

use super::Run;
use super::content::fingerprint;
use super::parts::OUTSIDE;
use super::refs::Slots;
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, Part};
use crate::refs::{self, Sum};
use crate::repository::SnapshotHead;
use crate::view::{Seen, SnapshotView};

/// Paths, snapshots and objects that are named in one sentence or list.
const MOST_NAMED: usize = 20;
/// Objects of which it is told what they hurt.
const MOST_OBJECTS: usize = 1000;
/// Chunks that are remembered as readable or not.
const MOST_TRIED: usize = 1 << 16;

/// A damaged or missing object, and what that hurts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object: a name on the tier, `pack …`, or `chunk … in pack …`.
    pub object: String,
    /// What is wrong with it.
    pub why: String,
    /// The first of the snapshots that use it.
    pub snapshots: Vec<SnapshotId>,
    /// How many snapshots use it.
    pub snapshot_count: u64,
    /// The first of the entries that cannot be restored whole because of it.
    pub paths: Vec<(SnapshotId, String)>,
    /// How many entries that are, each counted once for each snapshot.
    pub path_count: u64,
}

/// A pack that is not what it should be.
#[derive(Debug)]
struct BadPack {
    object: Option<usize>,
    /// Whether chunks can perhaps be had of it all the same.
    may_hold: bool,
    why: String,
}

/// Everything that is damaged.
#[derive(Debug, Default)]
pub(super) struct Bad {
    packs: HashMap<PackId, BadPack>,
    chunks: HashMap<(PackId, [u8; 16]), (Option<usize>, String)>,
    /// Index runs.
    runs: Vec<usize>,
    objects: Vec<Damage>,
}

impl Bad {
    fn object(&mut self, object: &str, why: &str) -> Option<usize> {
        if self.objects.len() >= MOST_OBJECTS {
            return None;
        }
        self.objects.push(Damage {
            object: object.to_owned(),
            why: why.to_owned(),
            snapshots: Vec::new(),
            snapshot_count: 0,
            paths: Vec::new(),
            path_count: 0,
        });
        Some(self.objects.len() - 1)
    }

    pub(super) fn pack(&mut self, id: PackId, subject: &str, why: &str, may_hold: bool) {
        let object = self.object(subject, why);
        let why = why.to_owned();
        self.packs.insert(
            id,
            BadPack {
                object,
                may_hold,
                why,
            },
        );
    }

    /// A pack that no snapshot that is looked at is said to use, and that is not as it should be.
    pub(super) fn unwanted(&mut self, id: PackId) {
        let why = format!("pack {id} is not whole on the tier");
        let (object, may_hold) = (None, true);
        self.packs.insert(
            id,
            BadPack {
                object,
                may_hold,
                why,
            },
        );
    }

    pub(super) fn chunk(&mut self, pack: PackId, chunk: ChunkId, subject: &str, why: &str) {
        let object = self.object(subject, why);
        let why = why.to_owned();
        self.chunks.insert((pack, chunk.prefix()), (object, why));
    }

    pub(super) fn run(&mut self, key: &str, why: &str) {
        let object = self.object(key, why);
        self.runs.extend(object);
    }

    /// A pack that was thought to be missing was collected meanwhile.
    pub(super) fn is_well(&mut self, id: &PackId) {
        if let Some(object) = self.packs.remove(id).and_then(|pack| pack.object)
            && let Some(object) = self.objects.get_mut(object)
        {
            // The numbers of the others stay.
            object.object.clear();
        }
    }

    pub(super) fn has_pack(&self, id: &PackId) -> bool {
        self.packs.contains_key(id)
    }

    /// The packs that are not as they should be.
    pub(super) fn packs(&self) -> BTreeSet<PackId> {
        self.packs.keys().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.chunks.is_empty() && self.runs.is_empty()
    }

    pub(super) fn into_damage(mut self) -> Vec<Damage> {
        self.objects.retain(|one| !one.object.is_empty());
        self.objects
    }

    fn hurts_path(&mut self, object: usize, snapshot: SnapshotId, path: &str) {
        if let Some(object) = self.objects.get_mut(object) {
            object.path_count += 1;
            if object.paths.len() < MOST_NAMED {
                object.paths.push((snapshot, path.to_owned()));
            }
        }
    }
}

/// Which slots of packs are damaged.
#[derive(Debug, Default)]
struct BadSlots {
    slots: HashMap<PackId, Vec<(u32, Option<usize>)>>,
    known: HashSet<PackId>,
}

impl BadSlots {
    fn new(index: &IndexSet, bad: &Bad) -> Self {
        let mut out = Self::default();
        if !bad.chunks.is_empty() {
            let of_packs = Slots::new(index);
            for ((pack, prefix), (object, _)) in &bad.chunks {
                let places = index.places(prefix).filter(|place| place.pack == *pack);
                for slot in places.filter_map(|place| of_packs.slot(&place)) {
                    out.slots.entry(*pack).or_default().push((slot, *object));
                }
            }
        }
        if !bad.runs.is_empty() {
            let packs = index.parts().iter().flat_map(Part::packs);
            out.known = packs.map(|(_, pack)| pack.id).collect();
        }
        out
    }
}

/// What is damaged of what a snapshot uses.
#[derive(Debug, Default)]
struct Touched {
    objects: HashSet<usize>,
    is_touched: bool,
}

impl Touched {
    fn of(refs: &Refs, bad: &Bad, slots: &BadSlots) -> Self {
        let mut out = Self::default();
        for one in &refs.packs {
            if let Some(pack) = bad.packs.get(&one.pack) {
                out.is_touched = true;
                out.objects.extend(pack.object);
            }
            for (slot, object) in slots.slots.get(&one.pack).into_iter().flatten() {
                if one.has(*slot) {
                    out.is_touched = true;
                    out.objects.extend(*object);
                }
            }
            if !bad.runs.is_empty() && !slots.known.contains(&one.pack) {
                out.is_touched = true;
                out.objects.extend(&bad.runs);
            }
        }
        out
    }
}

/// Whether a chunk can be had.
#[derive(Debug, Clone)]
enum Chunk {
    Well,
    Lost { objects: Vec<usize>, why: String },
}

impl Run<'_> {
    /// Names what the damage hurts.
    pub(super) async fn name_hurt(
        &mut self,
        heads: &[SnapshotHead],
        wrong: &HashMap<[u8; 16], String>,
    ) -> Result<()> {
        if self.bad.is_empty() && wrong.is_empty() && self.doubtful.is_empty() {
            return Ok(());
        }
        let index = self.repo.index();
        let slots = BadSlots::new(&index, &self.bad);
        let reads_any = self.repo.keys().identities().is_ok();
        let mut tried = HashMap::new();
        for head in heads {
            if self.cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let id = head.meta.id;
            let refs = if self.bad.is_empty() {
                None
            } else {
                self.quiet_refs(id).await?
            };
            let unknown = refs.is_none() && !self.bad.is_empty();
            let touched = refs.map(|refs| Touched::of(&refs, &self.bad, &slots));
            let touched = touched.unwrap_or_default();
            for object in &touched.objects {
                if let Some(object) = self.bad.objects.get_mut(*object) {
                    object.snapshot_count += 1;
                    if object.snapshots.len() < MOST_NAMED {
                        object.snapshots.push(id);
                    }
                }
            }
            let reads = reads_any && !self.closed.contains(&id);
            let is_suspect = self.doubtful.contains(&id) || !wrong.is_empty();
            if reads && (unknown || touched.is_touched || is_suspect) {
                self.name_paths(head, &index, wrong, &mut tried).await?;
            } else if !reads && touched.is_touched {
                self.name_objects(id, &touched);
            }
        }
        Ok(())
    }

    /// The refs of a snapshot, if they can be read: that they cannot is told already.
    async fn quiet_refs(&self, id: SnapshotId) -> Result<Option<Refs>> {
        let mut sum = Sum::default();
        let Some(keys) = self.listed_refs.get(&id) else {
            return Ok(None);
        };
        for key in keys {
            match refs::read(self.repo, self.cx, key).await {
                Ok(Some(refs)) => sum.add(refs),
                Ok(None) => return Ok(None),
                Err(error) if error.is_damage() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Ok(Some(sum.into_refs(id)))
    }

    /// What can be said with a key that does not read manifests.
    fn name_objects(&mut self, id: SnapshotId, touched: &Touched) {
        let mut numbers: Vec<_> = touched.objects.iter().collect();
        numbers.sort_unstable();
        let count = numbers.len();
        let objects = numbers.iter().take(MOST_NAMED);
        let objects = objects.filter_map(|at| self.bad.objects.get(**at));
        let shown: Vec<_> = objects.map(|one| one.object.as_str()).collect();
        let shown = shown.join("; ");
        let more = and_more(count as u64);
        let detail = format!(
            "it uses {count} objects that are damaged or missing, and this key cannot tell which entries that hurts: {shown}{more}"
        );
        self.found(FindingKind::Damaged, &format!("snapshot {id}"), &detail);
    }

    /// Names the entries of a snapshot that cannot be restored whole.
    async fn name_paths(
        &mut self,
        head: &SnapshotHead,
        index: &IndexSet,
        wrong: &HashMap<[u8; 16], String>,
        tried: &mut HashMap<ChunkId, Chunk>,
    ) -> Result<()> {
        let id = head.meta.id;
        let view = match SnapshotView::open(self.repo, head.clone()) {
            Ok(view) => view,
            // That was told by the walk.
            Err(error) if error.is_damage() => return Ok(()),
            // It was not walked for lack of time.
            Err(EngineError::Key(KeyError::Outdated { .. })) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut walk = view.all();
        let (mut shown, mut count) = (Vec::new(), 0);
        loop {
            let entry = match walk.step(self.cx).await {
                Ok(Some(Seen::Entry(entry))) => entry,
                Ok(Some(Seen::Lost(_))) => continue,
                Ok(None) => break,
                Err(error) if error.is_damage() => break,
                Err(error) => return Err(error),
            };
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            let lost = match view.extents(self.cx, &entry.record).await {
                Ok(extents) => match self.lost(index, &extents, tried).await? {
                    None => entry.record.sha256.and_then(|wanted| {
                        let why = wrong.get(&fingerprint(&extents, &wanted))?;
                        Some((HashSet::new(), why.clone()))
                    }),
                    lost => lost,
                },
                Err(error) if error.is_damage() => Some((HashSet::new(), error.to_string())),
                Err(error) => return Err(error),
            };
            let Some((objects, why)) = lost else { continue };
            let path = format!("/{}", entry.path);
            for object in objects {
                self.bad.hurts_path(object, id, &path);
            }
            count += 1;
            if shown.len() < MOST_NAMED {
                shown.push(format!("{path} ({why})"));
            }
        }
        if count > 0 {
            let (shown, more) = (shown.join("; "), and_more(count));
            let detail = format!("{count} entries cannot be restored whole: {shown}{more}");
            self.found(FindingKind::Damaged, &format!("snapshot {id}"), &detail);
        }
        Ok(())
    }

    /// Which objects keep a content from being had, and why; nothing if it can be had.
    async fn lost(
        &self,
        index: &IndexSet,
        extents: &Extents,
        tried: &mut HashMap<ChunkId, Chunk>,
    ) -> Result<Option<(HashSet<usize>, String)>> {
        let mut out: Option<(HashSet<usize>, String)> = None;
        let mut last = None;
        for extent in extents.as_slice() {
            let Extent::Data {
                chunk,
                offset,
                length,
            } = extent
            else {
                continue;
            };
            let end = u64::from(*offset) + u64::from(*length);
            let raw = index.find(chunk).map(|place| u64::from(place.located.raw));
            if raw.is_some_and(|raw| end > raw) {
                out.get_or_insert_with(|| (HashSet::new(), OUTSIDE.to_owned()));
            }
            if last == Some(*chunk) {
                continue;
            }
            last = Some(*chunk);
            if let Chunk::Lost { objects, why } = self.chunk_state(index, chunk, tried).await? {
                let (known, _) = out.get_or_insert_with(|| (HashSet::new(), why));
                known.extend(objects);
            }
        }
        Ok(out)
    }

    async fn chunk_state(
        &self,
        index: &IndexSet,
        chunk: &ChunkId,
        tried: &mut HashMap<ChunkId, Chunk>,
    ) -> Result<Chunk> {
        let prefix = chunk.prefix();
        let mut places = index.places(&prefix).peekable();
        if places.peek().is_none() {
            let objects = self.bad.runs.clone();
            let why = format!("chunk {chunk} is in no index run");
            return Ok(Chunk::Lost { objects, why });
        }
        let (mut objects, mut why, mut may_be_had) = (Vec::new(), None, false);
        for place in places {
            let pack = self.bad.packs.get(&place.pack);
            let fault = self.bad.chunks.get(&(place.pack, prefix));
            match (fault, pack) {
                (None, None) => return Ok(Chunk::Well),
                (Some((object, said)), pack) => {
                    objects.extend(*object);
                    objects.extend(pack.and_then(|pack| pack.object));
                    why.get_or_insert_with(|| said.clone());
                }
                (None, Some(pack)) => {
                    objects.extend(pack.object);
                    may_be_had |= pack.may_hold;
                    why.get_or_insert_with(|| pack.why.clone());
                }
            }
        }
        let why = why.unwrap_or_default();
        if !may_be_had {
            return Ok(Chunk::Lost { objects, why });
        }
        if let Some(known) = tried.get(chunk) {
            return Ok(known.clone());
        }
        let read = self.repo.read_blob(self.cx, BlobKind::Data, chunk).await;
        let state = match read {
            Ok(_) => Chunk::Well,
            Err(error) if error.is_damage() => {
                let why = error.to_string();
                Chunk::Lost { objects, why }
            }
            Err(error) => return Err(error),
        };
        if tried.len() >= MOST_TRIED {
            tried.clear();
        }
        tried.insert(*chunk, state.clone());
        Ok(state)
    }
}

/// What is said of those that are not shown.
fn and_more(count: u64) -> String {
    match count.saturating_sub(MOST_NAMED as u64) {
        0 => String::new(),
        more => format!("; and {more} more"),
    }
}
