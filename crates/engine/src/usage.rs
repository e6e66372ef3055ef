//! Which chunks a snapshot uses: one bit for each entry of the index, so that memory stays small
//! however large the repository.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use backup_core::{ChunkId, PackId, SnapshotId};
use backup_format::refs::{PackUse, Refs};

use crate::claims;
use crate::index_set::{IndexSet, Place};
use crate::store::StoredPack;

/// Used entries of an index as it was when the operation began.
#[derive(Debug, Default)]
pub struct Usage {
    runs: Vec<Vec<u64>>,
    last: Option<ChunkId>,
}

impl Usage {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(index: &IndexSet) -> Self {
        let runs = index
            .runs()
            .iter()
            .map(|run| vec![0; run.len().div_ceil(64)])
            .collect();
        Self { runs, last: None }
    }

    /// Marks a chunk if the index knows it; says whether it does.
    pub fn mark(&mut self, index: &IndexSet, id: &ChunkId) -> bool {
        // Neighbouring entries mostly lie in one bundle.
        if self.last == Some(*id) {
            return true;
        }
        let Some(place) = index.find(id) else {
            return false;
        };
        self.mark_place(&place);
        self.last = Some(*id);
        true
    }

    /// Marks the chunk at a place; says whether it was not marked before.
    pub(crate) fn mark_place(&mut self, place: &Place) -> bool {
        self.mark_entry(place.run, place.located.entry)
    }

    /// Marks an entry of a run; says whether it was not marked before.
    pub(crate) fn mark_entry(&mut self, run: u32, entry: u32) -> bool {
        let words = self.runs.get_mut(run as usize);
        let Some(word) = words.and_then(|words| words.get_mut(entry as usize / 64)) else {
            return false;
        };
        let bit = 1 << (entry % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes another usage of the same index into this one.
    pub fn absorb(&mut self, other: &Self) {
        for (run, more) in self.runs.iter_mut().zip(&other.runs) {
            for (word, bits) in run.iter_mut().zip(more) {
                *word |= bits;
            }
        }
    }

    /// Whether both have the same marks in a run.
    pub(crate) fn agrees_on(&self, other: &Self, run: u32) -> bool {
        self.runs.get(run as usize) == other.runs.get(run as usize)
    }

    /// Whether the chunk at a place is marked.
    pub(crate) fn has_place(&self, place: &Place) -> bool {
        self.has(place.run, place.located.entry)
    }

    /// Whether an entry of a run is marked.
    pub(crate) fn has(&self, run: u32, entry: u32) -> bool {
        let word = self
            .runs
            .get(run as usize)
            .and_then(|words| words.get(entry as usize / 64));
        word.is_some_and(|word| word >> (entry % 64) & 1 == 1)
    }

    /// The refs of a snapshot: what is marked, and everything that its own session stored.
    #[must_use]
    pub fn refs(&self, snapshot: SnapshotId, index: &IndexSet, stored: &[StoredPack]) -> Refs {
        let mut packs: BTreeMap<PackId, PackUse> = BTreeMap::new();
        let disputed = claims::disputed(index);
        for (number, run) in (0u32..).zip(index.runs()) {
            // Slots are numbered by offset: sort what the run knows of each pack.
            let mut touched = vec![false; run.packs.len()];
            for (_, located) in run.iter().filter(|(_, l)| self.has(number, l.entry)) {
                if let Some(flag) = touched.get_mut(located.pack as usize) {
                    *flag = true;
                }
            }
            let of_touched = run.iter().map(|(_, located)| located);
            let mut slots: Vec<(u32, u32, bool)> = of_touched
                .filter(|located| touched.get(located.pack as usize) == Some(&true))
                .map(|l| (l.pack, l.offset, self.has(number, l.entry)))
                .collect();
            slots.sort_unstable();
            for pack in slots.chunk_by(|a, b| a.0 == b.0) {
                let Some(known) = pack.first().and_then(|slot| run.packs.get(slot.0 as usize))
                else {
                    continue;
                };
                let used = (0u32..)
                    .zip(pack)
                    .filter(|(_, slot)| slot.2)
                    .map(|(n, _)| n);
                let slots = u32::try_from(pack.len()).unwrap_or(u32::MAX);
                // Where runs do not agree on what the pack holds, a slot is not the same to both.
                let usage = match disputed.get(&known.id) {
                    Some(slots) => PackUse::new(known.id, *slots, 0..*slots),
                    None => PackUse::new(known.id, slots, used),
                };
                match packs.entry(known.id) {
                    Entry::Vacant(free) => drop(free.insert(usage)),
                    Entry::Occupied(mut other) => other.get_mut().absorb(&usage),
                }
            }
        }
        for pack in stored {
            let slots = u32::try_from(pack.blobs.len()).unwrap_or(u32::MAX);
            packs.insert(pack.id, PackUse::new(pack.id, slots, 0..slots));
        }
        Refs {
            snapshot,
            packs: packs.into_values().collect(),
        }
    }
}
