//! Which chunks of which packs a snapshot uses, and who else does.
//!
//! Refs say it without a manifest: a bit for each slot of each pack. Of the packs that the snapshot
//! uses these bits are kept for it, for its parent and for all others together, beside where each slot
//! begins: some twelve bytes for each chunk of these packs, whatever the number of snapshots.

use std::collections::HashMap;

use backup_core::{ChunkId, PackId};
use backup_format::refs::{PackUse, Refs};

use crate::index_set::IndexSet;

/// A chunk in a pack.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    offset: u32,
    pub(super) stored: u32,
    pub(super) raw: u32,
}

/// A pack that the snapshot uses.
#[derive(Debug)]
struct Pack {
    is_meta: bool,
    size: u64,
    slots: Vec<Slot>,
    own: PackUse,
    parent: Option<PackUse>,
    others: Option<PackUse>,
    /// Slots that a component was charged for already.
    charged: Vec<bool>,
}

impl Pack {
    /// Its slots that pass, with their numbers.
    fn used(&self) -> impl Iterator<Item = (u32, &Slot)> {
        let numbered = (0_u32..).zip(&self.slots);
        numbered.filter(|(number, _)| self.own.has(*number))
    }
}

/// A chunk that a file needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Found {
    pub(super) slot: Slot,
    /// No other snapshot uses it.
    pub(super) is_unique: bool,
    /// The parent does not use it.
    pub(super) is_new: bool,
    /// It was not asked for before.
    pub(super) is_first: bool,
}

/// Bytes of the chunks that a snapshot uses, each once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChunkBytes {
    /// How many chunks.
    pub chunks: u64,
    /// Bytes before compression.
    pub raw: u64,
    /// Bytes in the repository.
    pub stored: u64,
    /// Of these, bytes that no other snapshot uses.
    pub unique: u64,
    /// Of these, bytes that its parent does not use; all if it has none.
    pub new: u64,
    /// Packs that they lie in.
    pub packs: u64,
    /// Bytes of these packs, with what else is in them.
    pub pack_bytes: u64,
    /// Packs that no other snapshot uses.
    pub unique_packs: u64,
}

/// All chunks that a snapshot uses.
#[derive(Debug)]
pub(super) struct Slots(HashMap<PackId, Pack>);

impl Slots {
    /// Of what the refs of a snapshot name, and the packs of these that the index does not know, or not
    /// wholly.
    pub(super) fn new(index: &IndexSet, own: Refs) -> (Self, Vec<PackId>) {
        let mut packs: HashMap<PackId, Pack> = HashMap::new();
        let mut wanted: HashMap<PackId, PackUse> =
            own.packs.into_iter().map(|one| (one.pack, one)).collect();
        for run in index.runs() {
            let mut slots: Vec<_> = run.iter().map(|(_, at)| at).collect();
            slots.retain(|at| {
                let id = run.packs.get(at.pack as usize).map(|pack| pack.id);
                id.is_some_and(|id| wanted.contains_key(&id))
            });
            slots.sort_unstable_by_key(|at| (at.pack, at.offset));
            for slots in slots.chunk_by(|a, b| a.pack == b.pack) {
                let first = slots.first();
                let Some((first, pack)) =
                    first.and_then(|at| Some((at, run.packs.get(at.pack as usize)?)))
                else {
                    continue;
                };
                // Several runs may know it; one that lacks some of it does not tell which slot is which.
                let is_whole = |usage: &PackUse| usage.slots as usize == slots.len();
                if !wanted.get(&pack.id).is_some_and(is_whole) {
                    continue;
                }
                let Some(own) = wanted.remove(&pack.id) else {
                    continue;
                };
                let slot = |at: &backup_format::index::Located| Slot {
                    offset: at.offset,
                    stored: at.stored,
                    raw: at.raw,
                };
                let known = Pack {
                    is_meta: first.kind.is_meta(),
                    size: pack.size,
                    slots: slots.iter().map(slot).collect(),
                    own,
                    parent: None,
                    others: None,
                    charged: vec![false; slots.len()],
                };
                packs.insert(pack.id, known);
            }
        }
        (Self(packs), wanted.into_keys().collect())
    }

    /// Adds what another snapshot uses, by all its refs. Returns how many bytes of the snapshot's chunks
    /// these are.
    pub(super) fn add(&mut self, other: &Refs, is_parent: bool) -> u64 {
        let mut shared = 0;
        for usage in &other.packs {
            let Some(pack) = self.0.get_mut(&usage.pack) else {
                continue;
            };
            let both = pack.used().filter(|(number, _)| usage.has(*number));
            shared += both.map(|(_, slot)| u64::from(slot.stored)).sum::<u64>();
            let mut known = vec![&mut pack.others];
            if is_parent {
                known.push(&mut pack.parent);
            }
            for known in known {
                match known {
                    Some(known) => known.absorb(usage),
                    None => *known = Some(usage.clone()),
                }
            }
        }
        shared
    }

    /// Where a chunk lies that the snapshot uses.
    pub(super) fn find(&mut self, index: &IndexSet, chunk: &ChunkId) -> Option<Found> {
        index.places(&chunk.prefix()).find_map(|place| {
            let pack = self.0.get_mut(&place.pack)?;
            let offset = place.located.offset;
            let at = pack.slots.binary_search_by_key(&offset, |slot| slot.offset);
            let at = at.ok()?;
            let number = u32::try_from(at).ok().filter(|&at| pack.own.has(at))?;
            let has = |usage: &Option<PackUse>| usage.as_ref().is_some_and(|one| one.has(number));
            let charged = pack.charged.get_mut(at)?;
            Some(Found {
                slot: *pack.slots.get(at)?,
                is_unique: !has(&pack.others),
                is_new: !has(&pack.parent),
                is_first: !std::mem::replace(charged, true),
            })
        })
    }

    /// The bytes of all chunks of content, or of all that describe it.
    pub(super) fn bytes(&self, is_meta: bool) -> ChunkBytes {
        let mut sum = ChunkBytes::default();
        for pack in self.0.values().filter(|pack| pack.is_meta == is_meta) {
            let has = |usage: &Option<PackUse>, number| {
                usage.as_ref().is_some_and(|usage| usage.has(number))
            };
            sum.packs += 1;
            sum.pack_bytes += pack.size;
            sum.unique_packs += u64::from(pack.others.is_none());
            for (number, slot) in pack.used() {
                let stored = u64::from(slot.stored);
                sum.chunks += 1;
                sum.raw += u64::from(slot.raw);
                sum.stored += stored;
                if !has(&pack.others, number) {
                    sum.unique += stored;
                }
                if !has(&pack.parent, number) {
                    sum.new += stored;
                }
            }
        }
        sum
    }
}
