//! Packs for workers who have nothing else to do while the manifests are walked. Where most contents were hashed by
//! earlier runs, hardly any pack is needed for one, and the walk, which is one thread's work, would keep all others
//! waiting. A pack that is taken here and needed for a content later is asked for that content's chunks once more, so
//! packs of content are taken only where that is rare; those of pages are never needed for contents.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use backup_core::PackId;

use super::super::parts::lock;
use crate::index_set::PackFacts;

/// Packs of content are spare only behind so many bytes of contents, of which at most one in so many had to be hashed.
const SEEN_FIRST: u64 = 16 << 20;
const ONE_IN: u64 = 16;

/// Which packs were taken, and by how much is known whether others may be.
#[derive(Debug)]
pub(super) struct Spare {
    meta: Mutex<Vec<PackId>>,
    data: Mutex<Vec<PackId>>,
    taken: Mutex<HashSet<PackId>>,
    /// Bytes of contents that the walk came to, and of those that are hashed in this run.
    met: AtomicU64,
    hashed: AtomicU64,
}

impl Spare {
    /// Of these packs; of none if there is a limit to what is read.
    pub(super) fn new(packs: &HashMap<PackId, PackFacts>, is_limited: bool) -> Self {
        let of = |is_meta| {
            let packs = packs.iter().filter(|(_, facts)| facts.is_meta == is_meta);
            let packs = packs.filter(|_| !is_limited);
            Mutex::new(packs.map(|(id, _)| *id).collect())
        };
        Self {
            meta: of(true),
            data: of(false),
            taken: Mutex::default(),
            met: AtomicU64::new(0),
            hashed: AtomicU64::new(0),
        }
    }

    /// Whether a pack was not taken before; it is now.
    pub(super) fn take(&self, id: PackId) -> bool {
        lock(&self.taken).insert(id)
    }

    /// All that were taken.
    pub(super) fn taken(&self) -> HashSet<PackId> {
        std::mem::take(&mut lock(&self.taken))
    }

    /// The walk came to a content of this size.
    pub(super) fn meet(&self, bytes: u64) {
        self.met.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Of those that the walk came to, one of this size is hashed.
    pub(super) fn hash(&self, bytes: u64) {
        self.hashed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A pack that may be read now; the caller takes it, or gives it back.
    pub(super) fn next(&self) -> Option<PackId> {
        if let Some(id) = lock(&self.meta).pop() {
            return Some(id);
        }
        let (met, hashed) = (
            self.met.load(Ordering::Relaxed),
            self.hashed.load(Ordering::Relaxed),
        );
        let is_rare = met >= SEEN_FIRST && hashed.saturating_mul(ONE_IN) <= met;
        is_rare.then(|| lock(&self.data).pop()).flatten()
    }

    /// There was no room for it.
    pub(super) fn give_back(&self, id: PackId, is_meta: bool) {
        let packs = if is_meta { &self.meta } else { &self.data };
        lock(packs).push(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs() -> HashMap<PackId, PackFacts> {
        let facts = |is_meta| PackFacts {
            is_meta,
            size: 1,
            blobs: 1,
        };
        HashMap::from([
            (PackId([1; 32]), facts(true)),
            (PackId([2; 32]), facts(false)),
        ])
    }

    #[test]
    fn packs_of_content_are_spare_where_hardly_a_content_is_hashed() {
        let spare = Spare::new(&packs(), false);
        assert_eq!(
            spare.next(),
            Some(PackId([1; 32])),
            "pages are never asked for"
        );
        assert_eq!(spare.next(), None, "nothing was met yet");
        spare.meet(SEEN_FIRST);
        spare.hash(SEEN_FIRST / ONE_IN + 1);
        assert_eq!(spare.next(), None, "too much of it is hashed");
        spare.meet(SEEN_FIRST);
        assert_eq!(spare.next(), Some(PackId([2; 32])));
        assert_eq!(spare.next(), None);
        spare.give_back(PackId([2; 32]), false);
        assert_eq!(spare.next(), Some(PackId([2; 32])));
    }

    #[test]
    fn where_reading_is_limited_none_is() {
        let spare = Spare::new(&packs(), true);
        spare.meet(u64::MAX / 2);
        assert_eq!(spare.next(), None);
    }

    #[test]
    fn each_is_taken_once() {
        let spare = Spare::new(&packs(), false);
        assert!(spare.take(PackId([1; 32])) && !spare.take(PackId([1; 32])));
        assert_eq!(spare.taken().len(), 1);
    }
}
