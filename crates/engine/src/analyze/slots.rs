//! Which chunks of which packs a snapshot uses, and who else does.
//!
//! Refs say it without a manifest: a bit for each slot of each pack. Of the packs that the snapshot
//! uses these bits are kept for it, for its parent and for all others together, beside where each slot
//! begins: some twelve bytes for each chunk of these packs, whatever the number of snapshots.
//!
//! A prune that was broken off leaves refs to a chunk in its old pack and in its new one. It counts once.

use std::collections::{BTreeSet, HashMap};

use backup_core::{ChunkId, PackId};
use backup_format::refs::{PackUse, Refs};

use crate::index_set::IndexSet;
use crate::refs;

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
    /// The number of the slot that begins there.
    fn slot_at(&self, offset: u32) -> Option<u32> {
        let at = self.slots.binary_search_by_key(&offset, |slot| slot.offset);
        u32::try_from(at.ok()?).ok()
    }

    /// Its slots that the snapshot uses, with their numbers.
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

/// A slot that holds a chunk which the snapshot has in another pack, too.
#[derive(Debug)]
struct Twin {
    pack: PackId,
    slot: u32,
    /// The slot that counts.
    first: (PackId, u32),
}

/// All chunks that a snapshot uses.
#[derive(Debug)]
pub(super) struct Slots {
    packs: HashMap<PackId, Pack>,
    twins: Vec<Twin>,
}

impl Slots {
    /// Of what the refs of a snapshot name, and the packs of these that the index does not know, or not
    /// wholly.
    pub(super) fn new(index: &IndexSet, own: Refs) -> (Self, Vec<PackId>) {
        let mut packs: HashMap<PackId, Pack> = HashMap::new();
        let mut wanted: HashMap<PackId, PackUse> =
            own.packs.into_iter().map(|one| (one.pack, one)).collect();
        for part in index.parts() {
            let of_wanted = part
                .packs()
                .filter(|(_, pack)| wanted.contains_key(&pack.id));
            let of_wanted: BTreeSet<u32> = of_wanted.map(|(at, _)| at).collect();
            let slots = part.slots(|pack| of_wanted.contains(&pack));
            let mut taken: HashMap<u32, Pack> = HashMap::new();
            for at in of_wanted {
                let Some(pack) = part.pack(at) else { continue };
                // Several runs may know it; one that lacks some of it does not tell which slot is which.
                let count = slots.of(at).len();
                let is_whole = |usage: &PackUse| usage.slots as usize == count;
                if count == 0 || !wanted.get(&pack.id).is_some_and(is_whole) {
                    continue;
                }
                let Some(own) = wanted.remove(&pack.id) else {
                    continue;
                };
                let none = Slot {
                    offset: 0,
                    stored: 0,
                    raw: 0,
                };
                let known = Pack {
                    is_meta: false,
                    size: pack.size,
                    slots: vec![none; count],
                    own,
                    parent: None,
                    others: None,
                    charged: vec![false; count],
                };
                taken.insert(at, known);
            }
            if taken.is_empty() {
                continue;
            }
            for (_, at) in part.iter() {
                let Some(pack) = taken.get_mut(&at.pack) else {
                    continue;
                };
                pack.is_meta = at.kind.is_meta();
                let slot = slots
                    .slot(&at)
                    .and_then(|slot| pack.slots.get_mut(slot as usize));
                if let Some(slot) = slot {
                    *slot = Slot {
                        offset: at.offset,
                        stored: at.stored,
                        raw: at.raw,
                    };
                }
            }
            let ids = |(at, known)| Some((part.pack(at)?.id, known));
            packs.extend(taken.into_iter().filter_map(ids));
        }
        let mut all = Self {
            packs,
            twins: Vec::new(),
        };
        all.count_once(index);
        (all, wanted.into_keys().collect())
    }

    /// Lets each chunk count in one pack only.
    fn count_once(&mut self, index: &IndexSet) {
        let parts = index.parts().iter();
        for (part, (prefix, at)) in parts.flat_map(|part| std::iter::repeat(part).zip(part.iter()))
        {
            let pack = part.pack(at.pack);
            if pack.is_none_or(|pack| !self.packs.contains_key(&pack.id)) {
                continue;
            }
            let mut used = index.places(&prefix).filter_map(|place| {
                let pack = self.packs.get(&place.pack)?;
                let slot = pack.slot_at(place.located.offset)?;
                pack.own.has(slot).then_some((place.pack, slot))
            });
            let Some(first) = used.next() else { continue };
            // Several runs may name one place.
            let others: Vec<_> = used.filter(|other| *other != first).collect();
            for (id, slot) in others {
                let Some(pack) = self.packs.get_mut(&id) else {
                    continue;
                };
                let left: Vec<_> = pack.own.used().filter(|other| *other != slot).collect();
                pack.own = PackUse::new(id, pack.own.slots, left);
                self.twins.push(Twin {
                    pack: id,
                    slot,
                    first,
                });
            }
        }
    }

    /// Of which slots other refs say that they use the chunks of these twins.
    fn of_twins(&self, refs: &Refs) -> Vec<PackUse> {
        let uses = |twin: &&Twin| {
            let at = refs.packs.binary_search_by_key(&twin.pack, |one| one.pack);
            at.is_ok_and(|at| refs.packs.get(at).is_some_and(|one| one.has(twin.slot)))
        };
        let first = |twin: &Twin| {
            let (id, slot) = twin.first;
            let pack = self.packs.get(&id)?;
            Some(PackUse::new(id, pack.own.slots, [slot]))
        };
        self.twins.iter().filter(uses).filter_map(first).collect()
    }

    /// Adds what another snapshot uses, by all its refs. Returns how many bytes of the snapshot's chunks
    /// these are.
    pub(super) fn add(&mut self, other: Refs, is_parent: bool) -> u64 {
        let mut sum = refs::Sum::default();
        let packs = self.of_twins(&other);
        let snapshot = other.snapshot;
        sum.add(other);
        sum.add(Refs { snapshot, packs });
        let mut shared = 0;
        for (id, usage) in &sum.0 {
            let Some(pack) = self.packs.get_mut(id) else {
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
            let pack = self.packs.get_mut(&place.pack)?;
            let number = pack.slot_at(place.located.offset)?;
            if !pack.own.has(number) {
                return None;
            }
            let at = number as usize;
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
        let packs = self.packs.values().filter(|pack| pack.is_meta == is_meta);
        for pack in packs.filter(|pack| pack.used().next().is_some()) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use backup_core::SnapshotId;
    use backup_format::index::{IndexRun, RunBuilder};
    use backup_format::pack::PackBlob;
    use backup_format::seal::BlobKind;

    use super::*;

    /// An index of packs which hold these chunks, of ten bytes each.
    fn index(packs: &[(u8, &[u8])]) -> IndexSet {
        let mut builder = RunBuilder::default();
        for (pack, chunks) in packs {
            let blob = |(number, chunk): (u32, &u8)| PackBlob {
                kind: BlobKind::Data,
                id: ChunkId([*chunk; 32]),
                offset: 10 * number,
                stored: 10,
                raw: 20,
            };
            let blobs: Vec<_> = (0..).zip(*chunks).map(blob).collect();
            builder.add_pack(PackId([*pack; 32]), 900, &blobs).unwrap();
        }
        IndexSet::new(vec![Arc::new(
            IndexRun::parse(builder.finish(&[])).unwrap(),
        )])
    }

    fn refs(packs: &[(u8, u32, &[u32])]) -> Refs {
        let usage = |(pack, slots, used): &(u8, u32, &[u32])| {
            PackUse::new(PackId([*pack; 32]), *slots, used.iter().copied())
        };
        Refs {
            snapshot: SnapshotId::from_bytes([7; 16]),
            packs: packs.iter().map(usage).collect(),
        }
    }

    #[test]
    fn a_chunk_that_a_prune_was_moving_counts_once() {
        let index = index(&[(1, &[11, 12, 13]), (2, &[12, 13]), (3, &[14])]);
        let own = refs(&[(1, 3, &[0, 1]), (2, 2, &[0]), (3, 1, &[0]), (4, 1, &[0])]);
        let (mut slots, unknown) = Slots::new(&index, own);
        assert_eq!(unknown, [PackId([4; 32])]);
        let sum = slots.bytes(false);
        assert_eq!((sum.chunks, sum.stored, sum.raw), (3, 30, 60));
        assert_eq!((sum.unique, sum.new), (30, 30));
        // Another has it in the new pack, and what this one does not use.
        assert_eq!(slots.add(refs(&[(2, 2, &[0, 1])]), true), 10);
        // And one in both.
        let both = refs(&[(1, 3, &[1]), (2, 2, &[0]), (3, 1, &[0])]);
        assert_eq!(slots.add(both, false), 20);
        let sum = slots.bytes(false);
        assert_eq!((sum.stored, sum.unique, sum.new), (30, 10, 20));
        let first = slots.find(&index, &ChunkId([12; 32])).unwrap();
        assert!(first.is_first && !first.is_unique && !first.is_new);
        let again = slots.find(&index, &ChunkId([12; 32])).unwrap();
        assert!(!again.is_first);
        assert!(slots.find(&index, &ChunkId([13; 32])).is_none());
        assert!(slots.find(&index, &ChunkId([14; 32])).unwrap().is_new);
    }
}
