//! Which chunks a snapshot uses: one bit for each entry of the index, so that memory stays small
//! however large the repository.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use backup_core::{ChunkId, PackId, SnapshotId};
use backup_format::refs::{PackUse, Refs};

use crate::claims;
use crate::error::Result;
use crate::index_set::{IndexSet, Part, Place};
use crate::store::StoredPack;

/// Used entries of an index as it was when the operation began.
#[derive(Debug, Default)]
pub struct Usage {
    parts: Vec<Vec<u64>>,
    last: Option<ChunkId>,
}

impl Usage {
    /// Nothing is used yet.
    #[must_use]
    pub fn new(index: &IndexSet) -> Self {
        let words = |part: &Part| vec![0; part.numbers().div_ceil(64)];
        Self {
            parts: index.parts().iter().map(words).collect(),
            last: None,
        }
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

    /// Marks an entry of a part; says whether it was not marked before.
    pub(crate) fn mark_entry(&mut self, part: u32, entry: u32) -> bool {
        let words = self.parts.get_mut(part as usize);
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
        for (part, more) in self.parts.iter_mut().zip(&other.parts) {
            for (word, bits) in part.iter_mut().zip(more) {
                *word |= bits;
            }
        }
    }

    /// Whether both have the same marks in a part.
    pub(crate) fn agrees_on(&self, other: &Self, part: u32) -> bool {
        self.parts.get(part as usize) == other.parts.get(part as usize)
    }

    /// Whether the chunk at a place is marked.
    pub(crate) fn has_place(&self, place: &Place) -> bool {
        self.has(place.run, place.located.entry)
    }

    /// Whether an entry of a part is marked.
    pub(crate) fn has(&self, part: u32, entry: u32) -> bool {
        let word = self
            .parts
            .get(part as usize)
            .and_then(|words| words.get(entry as usize / 64));
        word.is_some_and(|word| word >> (entry % 64) & 1 == 1)
    }

    /// The refs of a snapshot: what is marked, and everything that its own session stored. They count if the index is
    /// whole behind it ([`IndexSet::check`]).
    ///
    /// # Errors
    /// [`EngineError::Seal`](crate::error::EngineError::Seal) when the system gives no randomness.
    pub fn refs(
        &self,
        snapshot: SnapshotId,
        index: &IndexSet,
        stored: &[StoredPack],
    ) -> Result<Refs> {
        let mut packs: BTreeMap<PackId, PackUse> = BTreeMap::new();
        let disputed = claims::disputed(index)?;
        for (number, part) in (0u32..).zip(index.parts()) {
            let is_untouched = |words: &Vec<u64>| words.iter().all(|word| *word == 0);
            if self.parts.get(number as usize).is_none_or(is_untouched) {
                continue;
            }
            let touched = self.touched(number, part);
            let slots = part.slots(|pack| touched.get(pack as usize) == Some(&true));
            for (at, pack) in part.packs() {
                let entries = slots.of(at);
                let marks = entries.iter().map(|entry| self.has(number, entry));
                let mut used = (0u32..)
                    .zip(marks)
                    .filter(|(_, is_used)| *is_used)
                    .peekable();
                if used.peek().is_none() {
                    continue;
                }
                let count = u32::try_from(entries.len()).unwrap_or(u32::MAX);
                // Where runs do not agree on what the pack holds, a slot is not the same to both.
                let usage = match disputed.get(&pack.id) {
                    Some(slots) => PackUse::new(pack.id, *slots, 0..*slots),
                    None => PackUse::new(pack.id, count, used.map(|(slot, _)| slot)),
                };
                // Several runs may know a pack, and a chunk be marked by the word of each.
                match packs.entry(pack.id) {
                    Entry::Vacant(free) => drop(free.insert(usage)),
                    Entry::Occupied(mut other) => other.get_mut().absorb(&usage),
                }
            }
        }
        for pack in stored {
            let slots = u32::try_from(pack.blobs.len()).unwrap_or(u32::MAX);
            packs.insert(pack.id, PackUse::new(pack.id, slots, 0..slots));
        }
        Ok(Refs {
            snapshot,
            packs: packs.into_values().collect(),
        })
    }

    /// The packs of a run of which something is marked, so that only theirs are sorted; a table's are.
    fn touched(&self, number: u32, part: &Part) -> Vec<bool> {
        if part.is_sorted_by_pack() {
            return Vec::new();
        }
        let mut touched = vec![false; part.pack_numbers()];
        for (_, located) in part.iter().filter(|(_, l)| self.has(number, l.entry)) {
            if let Some(flag) = touched.get_mut(located.pack as usize) {
                *flag = true;
            }
        }
        touched
    }
}
