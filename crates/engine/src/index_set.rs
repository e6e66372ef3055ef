//! All index runs of a repository together: where each chunk lies.
//!
//! Few entries are kept in memory as they are read, run by run. Many, or those of many runs, are laid together in
//! tables ([`table`]), which take a byte and a half of memory for each; [`load`] decides that when the index is read.
//! Both are [`Part`]s of a set. Why it is so: [0004](../../../docs/design/0004-index.md).

mod build;
mod cipher;
mod entry;
mod file;
mod load;
mod part;
mod reading;
mod recent;
mod shelf;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use backup_core::{ByteRange, ChunkId, PackId, SessionId};
use backup_format::index::{IndexRun, Located};

use crate::error::{EngineError, Result};

pub(crate) use load::{KnownRun, Loaded};
pub use part::{PackSlots, Part, Slots};

/// The runs of a repository as they were when it was opened.
#[derive(Debug, Default)]
pub struct IndexSet {
    parts: Vec<Part>,
    /// For each part which of its packs no place is in; none for a part without such packs.
    avoided: Vec<Vec<bool>>,
    /// For each part which of its packs are looked into last; none at all where there are no such packs.
    shunned: Vec<Vec<bool>>,
}

/// Where a chunk lies, with the pack's name.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Number of the part that knows it.
    pub run: u32,
    /// The pack.
    pub pack: PackId,
    /// The rest.
    pub located: Located,
}

impl IndexSet {
    /// The runs together.
    #[must_use]
    pub fn new(runs: Vec<Arc<IndexRun>>) -> Self {
        Self::of(runs.into_iter().map(Part::run).collect())
    }

    /// Of these parts.
    const fn of(parts: Vec<Part>) -> Self {
        Self {
            parts,
            avoided: Vec::new(),
            shunned: Vec::new(),
        }
    }

    /// The same runs without what lies in these packs, and in those that are avoided already.
    #[must_use]
    pub fn avoiding(&self, packs: &BTreeSet<PackId>) -> Self {
        Self {
            parts: self.parts.clone(),
            avoided: self.marked(&self.avoided, packs),
            shunned: self.shunned.clone(),
        }
    }

    /// The same runs, in which a chunk is looked for in these packs only where no other has it: they
    /// are known to be damaged or gone.
    #[must_use]
    pub fn shunning(&self, packs: &BTreeSet<PackId>) -> Self {
        let shunned = self.marked(&self.shunned, packs);
        let is_none = shunned.iter().all(Vec::is_empty);
        Self {
            parts: self.parts.clone(),
            avoided: self.avoided.clone(),
            shunned: if is_none { Vec::new() } else { shunned },
        }
    }

    /// Marks with these packs too.
    fn marked(&self, known: &[Vec<bool>], packs: &BTreeSet<PackId>) -> Vec<Vec<bool>> {
        let flags = |(number, part): (usize, &Part)| {
            let mut flags = Vec::new();
            if packs.is_empty() && known.get(number).is_none_or(Vec::is_empty) {
                return flags;
            }
            for (at, pack) in part.packs() {
                let at = at as usize;
                if is_marked(known, number, at) || packs.contains(&pack.id) {
                    flags.resize(part.pack_numbers(), false);
                    if let Some(flag) = flags.get_mut(at) {
                        *flag = true;
                    }
                }
            }
            flags
        };
        self.parts.iter().enumerate().map(flags).collect()
    }

    fn is_avoided(&self, part: usize, pack: usize) -> bool {
        is_marked(&self.avoided, part, pack)
    }

    /// Where a chunk lies.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<Place> {
        self.places(&id.prefix()).next()
    }

    /// Every place of a chunk, by the half of its id that the index has; those in packs that are
    /// shunned last.
    pub fn places(&self, prefix: &[u8; 16]) -> impl Iterator<Item = Place> + use<'_> {
        let prefix = *prefix;
        let passes: &[bool] = if self.shunned.is_empty() {
            &[false]
        } else {
            &[false, true]
        };
        passes
            .iter()
            .flat_map(move |last| {
                let parts = self.parts.iter().enumerate();
                parts.map(move |(number, part)| (*last, number, part))
            })
            .flat_map(move |(last, number, part)| {
                part.find_all(&prefix)
                    .filter(move |located| {
                        is_marked(&self.shunned, number, located.pack as usize) == last
                    })
                    .map(move |located| (number, part, located))
            })
            .filter(|(number, _, located)| !self.is_avoided(*number, located.pack as usize))
            .filter_map(|(number, part, located)| {
                let pack = part.pack(located.pack)?.id;
                Some(Place {
                    run: u32::try_from(number).ok()?,
                    pack,
                    located,
                })
            })
    }

    /// What it is made of.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether it has all that it was made of. A table of the cache that cannot be read any more may deny chunks that
    /// it has: that is harmless to who stores them anew, and an error for who concludes anything else. Its file is
    /// taken away, so that the next reading makes it anew.
    ///
    /// # Errors
    /// [`EngineError::IndexCache`].
    pub fn check(&self) -> Result<()> {
        let mut broken = self.parts.iter().filter_map(Part::broken);
        let Some(first) = broken.next() else {
            return Ok(());
        };
        for table in broken.chain([first]) {
            table.path().map(shelf::remove);
        }
        let path = first.path().unwrap_or_else(|| "memory".as_ref());
        Err(EngineError::IndexCache(path.to_owned()))
    }

    /// The wrapped data keys that the runs say of sessions, the same ones as often as they do.
    pub fn wraps(&self) -> impl Iterator<Item = (SessionId, &[u8])> {
        let wraps = self.parts.iter().flat_map(Part::sessions);
        wraps.map(|wrap| (wrap.session, wrap.wrap.as_slice()))
    }

    /// All packs that are not avoided with their sizes, each once; cheaper than [`IndexSet::packs`].
    #[must_use]
    pub fn pack_sizes(&self) -> HashMap<PackId, u64> {
        let mut out = HashMap::new();
        for (number, part) in self.parts.iter().enumerate() {
            let there = |(at, _): &(u32, _)| !self.is_avoided(number, *at as usize);
            let packs = part.packs().filter(there);
            out.extend(packs.map(|(_, pack)| (pack.id, pack.size)));
        }
        out
    }

    /// All packs that are not avoided with their sizes and whether they hold pages and lineage (or content).
    #[must_use]
    pub fn packs(&self) -> HashMap<PackId, PackFacts> {
        let mut out: HashMap<PackId, PackFacts> = HashMap::new();
        for (number, part) in self.parts.iter().enumerate() {
            let counts = part.counts();
            for (at, pack) in part.packs() {
                if self.is_avoided(number, at as usize) {
                    continue;
                }
                let (is_meta, count) = counts
                    .get(at as usize)
                    .copied()
                    .flatten()
                    .unwrap_or_default();
                let facts = PackFacts {
                    size: pack.size,
                    is_meta,
                    blobs: 0,
                };
                let known = out.entry(pack.id).or_insert(facts);
                known.size = facts.size;
                // A run that names a pack and nothing in it says nothing of that.
                if count > 0 {
                    known.is_meta = is_meta;
                }
                known.blobs += count;
            }
        }
        out
    }

    /// Number of chunks over all runs, those known to several counted several times.
    #[must_use]
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_marked(flags: &[Vec<bool>], part: usize, pack: usize) -> bool {
    flags.get(part).and_then(|flags| flags.get(pack)) == Some(&true)
}

/// What the index says of a pack.
#[derive(Debug, Clone, Copy)]
pub struct PackFacts {
    /// Its size in bytes.
    pub size: u64,
    /// Whether it lies below `meta/` (or `data/`).
    pub is_meta: bool,
    /// Blobs of it that the runs know, those known to several counted several times.
    pub blobs: u64,
}

impl PackFacts {
    /// The range of the whole pack; of one that is longer than it should be a byte more, so that it
    /// does not hash to its name.
    #[must_use]
    pub const fn whole(&self) -> ByteRange {
        ByteRange::Suffix(self.size.saturating_add(1))
    }
}
