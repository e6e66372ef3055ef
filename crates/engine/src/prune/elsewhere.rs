//! Packs that are lost, and what snapshots use of them in other packs: a save that found one missing has
//! stored it anew. Then refs can name that, as if it had been copied.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::PackId;

use super::repack::Moved;
use super::survey::Marks;
use crate::index_set::IndexSet;
use crate::presence::Absent;

/// What is used of lost packs and lies in others.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// Of the packs of which all that is used is found.
    pub(super) moved: Moved,
    /// The packs in which anything is found. They may hold all that is left of it.
    pub(super) spared: BTreeSet<PackId>,
}

/// Looks for what is used of lost packs; `avoid`: packs that may not be named.
pub(super) fn elsewhere(
    absent: &BTreeMap<PackId, Absent>,
    marks: &Marks,
    index: &IndexSet,
    avoid: &BTreeSet<PackId>,
) -> Elsewhere {
    let mut out = Elsewhere::default();
    let lost: BTreeSet<PackId> = absent
        .keys()
        .filter(|id| marks.contains_key(id))
        .copied()
        .collect();
    if lost.is_empty() {
        return out;
    }
    let left = index.avoiding(&absent.keys().chain(avoid).copied().collect());
    let mut slots = Slots::default();
    for run in index.runs() {
        let mut of_lost: BTreeMap<PackId, Vec<_>> = BTreeMap::new();
        for (prefix, located) in run.iter() {
            let pack = run.packs.get(located.pack as usize).map(|pack| pack.id);
            if let Some(pack) = pack.filter(|id| lost.contains(id) && !out.moved.has(id)) {
                let blobs = of_lost.entry(pack).or_default();
                blobs.push((located.offset, prefix));
            }
        }
        for (pack, mut blobs) in of_lost {
            blobs.sort_unstable();
            let Some(usage) = marks
                .get(&pack)
                .filter(|one| one.slots as usize == blobs.len())
            else {
                continue;
            };
            let mut found = BTreeMap::new();
            let used = (0u32..).zip(&blobs).filter(|(slot, _)| usage.has(*slot));
            let mut is_whole = true;
            for (slot, (_, prefix)) in used {
                let place = left.places(prefix).next();
                let at = place.and_then(|place| {
                    let (new, count) = slots.of(index, place.run, place.located.entry)?;
                    Some((place.pack, new, count))
                });
                match at {
                    Some(at) => {
                        out.spared.insert(at.0);
                        found.insert(slot, at);
                    }
                    None => is_whole = false,
                }
            }
            if is_whole {
                for (slot, (to, new, count)) in found {
                    out.moved.add((pack, slot), (to, new), count);
                }
            }
        }
    }
    out
}

/// Which slot of its pack each entry of a run is, and how many slots that has: eight bytes for each entry
/// of the runs in which something is found.
#[derive(Default)]
struct Slots(HashMap<u32, Vec<(u32, u32)>>);

impl Slots {
    fn of(&mut self, index: &IndexSet, run: u32, entry: u32) -> Option<(u32, u32)> {
        let slots = self.0.entry(run).or_insert_with(|| {
            let Some(run) = index.runs().get(run as usize) else {
                return Vec::new();
            };
            let mut order: Vec<(u32, u32, u32)> = run
                .iter()
                .map(|(_, one)| (one.pack, one.offset, one.entry))
                .collect();
            order.sort_unstable();
            let mut out = vec![(0, 0); order.len()];
            for pack in order.chunk_by(|a, b| a.0 == b.0) {
                let count = u32::try_from(pack.len()).unwrap_or(u32::MAX);
                for (slot, (_, _, entry)) in (0u32..).zip(pack) {
                    if let Some(at) = out.get_mut(*entry as usize) {
                        *at = (slot, count);
                    }
                }
            }
            out
        });
        slots.get(entry as usize).copied()
    }
}
