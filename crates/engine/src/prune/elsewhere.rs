//! Packs that are lost, and what snapshots use of them in other packs: a save that found one missing has
//! stored it anew. Refs go on naming the lost pack, so nothing but this keeps the others.
//!
//! Refs are not made to name the others instead: only a key that reads data could tell whether they really
//! hold what the index says, and the lost pack may still be put back from another copy.
//!
//! Where no index run tells any more what a lost pack held, what is left of it may lie in any pack, also in a part of one that
//! nobody names. Then all of them stay.
//!
//! A damaged pack counts too, in its place or where a repair has set it aside: what is whole of it is read there. So does one
//! that somebody called dead, as long as it is there: that was decided before the other was lost, or is a lie.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use backup_core::PackId;

use super::survey::{Marks, Pack};
use crate::index_set::IndexSet;
use crate::presence::Absent;

/// What is used of lost packs and lies in others.
#[derive(Debug, Default)]
pub(super) struct Elsewhere {
    /// The packs in which anything is found, there or set aside. They may hold all that is left of it.
    pub(super) spared: BTreeSet<PackId>,
    /// The lost packs of which all that is used is found, whichever index run is right about them.
    pub(super) found: BTreeSet<PackId>,
    /// The lost packs of which no index run tells what they held.
    pub(super) untold: BTreeSet<PackId>,
}

/// Looks for what is used of lost packs. `aside`: packs that a repair has set aside; `dead`: those that somebody has decided
/// to delete, so that nothing is built on them.
pub(super) fn elsewhere(
    absent: &BTreeMap<PackId, Absent>,
    (marks, packs): (&Marks, &HashMap<PackId, Pack>),
    aside: &BTreeSet<PackId>,
    index: &IndexSet,
    dead: &BTreeSet<PackId>,
) -> Elsewhere {
    let mut out = Elsewhere::default();
    let is_lost = |id: &PackId| absent.contains_key(id) && marks.contains_key(id);
    if !absent.keys().any(is_lost) {
        return out;
    }
    out.untold = absent.keys().filter(|id| is_lost(id)).copied().collect();
    // What refs name stays anyway. Of the others each counts of which anything is left, in its place or aside.
    let is_left =
        |id: &PackId| !marks.contains_key(id) && (packs.contains_key(id) || aside.contains(id));
    let known = absent.keys().chain(dead);
    let left = index.avoiding(&known.filter(|id| !is_left(id)).copied().collect());
    let is_sound = |id: &PackId| !absent.contains_key(id) && !dead.contains(id);
    let mut is_in_part = BTreeSet::new();
    for part in index.parts() {
        let mut of_lost: BTreeMap<u32, Vec<_>> = BTreeMap::new();
        let lost = part.packs().filter(|(_, pack)| is_lost(&pack.id));
        let lost: BTreeMap<u32, PackId> = lost.map(|(at, pack)| (at, pack.id)).collect();
        if lost.is_empty() {
            continue;
        }
        out.untold
            .retain(|id| !lost.values().any(|told| told == id));
        for (prefix, located) in part.iter() {
            // By its number: each run says of a pack what it says.
            if lost.contains_key(&located.pack) {
                let blobs = of_lost.entry(located.pack).or_default();
                blobs.push((located.offset, prefix, located.kind));
            }
        }
        for (at, mut blobs) in of_lost {
            let Some(pack) = lost.get(&at).copied() else {
                continue;
            };
            let Some(usage) = marks.get(&pack) else {
                continue;
            };
            blobs.sort_unstable_by_key(|(offset, prefix, _)| (*offset, *prefix));
            // Where the two do not agree on what it held, all of it counts as used.
            let agrees = usage.slots as usize == blobs.len();
            for (slot, (_, prefix, kind)) in (0u32..).zip(&blobs) {
                if agrees && !usage.has(slot) {
                    continue;
                }
                // Any of them may be the one that really holds it.
                let places = left.places(prefix).filter(|at| at.located.kind == *kind);
                let mut is_found = false;
                for place in places {
                    is_found |= is_sound(&place.pack);
                    out.spared.insert(place.pack);
                }
                if !is_found {
                    is_in_part.insert(pack);
                }
            }
            out.found.insert(pack);
        }
    }
    out.found.retain(|pack| !is_in_part.contains(pack));
    if !out.untold.is_empty() {
        out.spared.extend(packs.keys().chain(aside));
    }
    out
}
