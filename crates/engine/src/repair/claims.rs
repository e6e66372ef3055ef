//! What index runs say of packs, against what the packs say themselves. Whoever holds the index key can add a run, and a
//! run that was made while a pack was another is wrong too.

use std::collections::HashMap;

use backup_core::PackId;
use backup_format::pack::PackBlob;

use crate::index_set::IndexSet;

/// How often, and as how much, runs name a pack.
#[derive(Debug, Clone, Copy, Default)]
struct Named {
    times: u64,
    blobs: u64,
    /// One of the sizes that they say, and whether all say it.
    size: u64,
    is_one_size: bool,
}

/// What the runs of an index say of packs.
#[derive(Debug)]
pub(super) struct Claims<'a> {
    index: &'a IndexSet,
    packs: HashMap<PackId, Named>,
}

impl<'a> Claims<'a> {
    pub(super) fn of(index: &'a IndexSet) -> Self {
        let mut packs: HashMap<PackId, Named> = HashMap::new();
        for pack in index.runs().iter().flat_map(|run| &run.packs) {
            let named = packs.entry(pack.id).or_insert(Named {
                size: pack.size,
                is_one_size: true,
                ..Named::default()
            });
            named.times += 1;
            named.is_one_size &= named.size == pack.size;
        }
        for (id, facts) in index.packs() {
            if let Some(named) = packs.get_mut(&id) {
                named.blobs = facts.blobs;
            }
        }
        Self { index, packs }
    }

    /// Whether all runs that name a pack say exactly what its end says. The pack must be whole.
    pub(super) fn agree(&self, id: PackId, size: u64, blobs: &[PackBlob]) -> bool {
        let Some(named) = self.packs.get(&id) else {
            // In no run, or passed over by all.
            return true;
        };
        let is_as_large = named.is_one_size && named.size == size;
        is_as_large
            && named.blobs == named.times * blobs.len() as u64
            && blobs.iter().all(|blob| {
                let places = self.index.places(&blob.id.prefix());
                let same = places.filter(|place| {
                    let at = place.located;
                    place.pack == id
                        && at.kind == blob.kind
                        && (at.offset, at.stored, at.raw) == (blob.offset, blob.stored, blob.raw)
                });
                same.count() as u64 == named.times
            })
    }
}
