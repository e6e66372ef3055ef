//! All index runs of a repository together: where each chunk lies.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use backup_core::{ByteRange, ChunkId, PackId, SessionId};
use backup_format::index::{IndexRun, Located};

/// The runs of a repository as they were when it was opened.
#[derive(Debug, Default)]
pub struct IndexSet {
    runs: Vec<Arc<IndexRun>>,
    /// For each run which of its packs no place is in; none for a run without such packs.
    avoided: Vec<Vec<bool>>,
    /// For each run which of its packs are looked into last; none at all where there are no such packs.
    shunned: Vec<Vec<bool>>,
}

/// Where a chunk lies, with the pack's name.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Number of the run that knows it.
    pub run: u32,
    /// The pack.
    pub pack: PackId,
    /// The rest.
    pub located: Located,
}

impl IndexSet {
    /// The runs together.
    #[must_use]
    pub const fn new(runs: Vec<Arc<IndexRun>>) -> Self {
        Self {
            runs,
            avoided: Vec::new(),
            shunned: Vec::new(),
        }
    }

    /// The same runs without what lies in these packs, and in those that are avoided already.
    #[must_use]
    pub fn avoiding(&self, packs: &BTreeSet<PackId>) -> Self {
        Self {
            runs: self.runs.clone(),
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
            runs: self.runs.clone(),
            avoided: self.avoided.clone(),
            shunned: if is_none { Vec::new() } else { shunned },
        }
    }

    /// Marks with these packs too.
    fn marked(&self, known: &[Vec<bool>], packs: &BTreeSet<PackId>) -> Vec<Vec<bool>> {
        let flags = |(number, run): (usize, &Arc<IndexRun>)| {
            let is_marked = |at, id| is_marked(known, number, at) || packs.contains(id);
            let ids = run.packs.iter().map(|pack| &pack.id).enumerate();
            let flags: Vec<bool> = ids.map(|(at, id)| is_marked(at, id)).collect();
            if flags.contains(&true) {
                flags
            } else {
                Vec::new()
            }
        };
        self.runs.iter().enumerate().map(flags).collect()
    }

    fn is_avoided(&self, run: usize, pack: usize) -> bool {
        is_marked(&self.avoided, run, pack)
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
                let runs = self.runs.iter().enumerate();
                runs.map(move |(number, run)| (*last, number, run))
            })
            .flat_map(move |(last, number, run)| {
                run.find_all(&prefix)
                    .filter(move |located| {
                        is_marked(&self.shunned, number, located.pack as usize) == last
                    })
                    .map(move |located| (number, run, located))
            })
            .filter(|(number, _, located)| !self.is_avoided(*number, located.pack as usize))
            .filter_map(|(number, run, located)| {
                let pack = run.packs.get(located.pack as usize)?.id;
                Some(Place {
                    run: u32::try_from(number).ok()?,
                    pack,
                    located,
                })
            })
    }

    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[Arc<IndexRun>] {
        &self.runs
    }

    /// The wrapped data keys that the runs say of sessions, the same ones as often as they do.
    pub fn wraps(&self) -> impl Iterator<Item = (SessionId, &[u8])> {
        let wraps = self.runs.iter().flat_map(|run| &run.sessions);
        wraps.map(|wrap| (wrap.session, wrap.wrap.as_slice()))
    }

    /// All packs that are not avoided with their sizes, each once; cheaper than [`IndexSet::packs`].
    #[must_use]
    pub fn pack_sizes(&self) -> HashMap<PackId, u64> {
        let mut out = HashMap::new();
        for (number, run) in self.runs.iter().enumerate() {
            let there = |(at, _): &(usize, _)| !self.is_avoided(number, *at);
            let packs = run.packs.iter().enumerate().filter(there);
            out.extend(packs.map(|(_, pack)| (pack.id, pack.size)));
        }
        out
    }

    /// All packs that are not avoided with their sizes and whether they hold pages and lineage (or content).
    #[must_use]
    pub fn packs(&self) -> HashMap<PackId, PackFacts> {
        let mut out: HashMap<PackId, PackFacts> = HashMap::new();
        for (number, run) in self.runs.iter().enumerate() {
            let mut blobs = vec![(None, 0); run.packs.len()];
            for (_, located) in run.iter() {
                if let Some((kind, count)) = blobs.get_mut(located.pack as usize) {
                    *kind = Some(located.kind);
                    *count += 1;
                }
            }
            for (at, (pack, (kind, count))) in run.packs.iter().zip(blobs).enumerate() {
                if self.is_avoided(number, at) {
                    continue;
                }
                let is_meta = kind.is_some_and(|kind| kind.is_meta());
                let facts = PackFacts {
                    size: pack.size,
                    is_meta,
                    blobs: 0,
                };
                let known = out.entry(pack.id).or_insert(facts);
                (known.size, known.is_meta) = (facts.size, facts.is_meta);
                known.blobs += count;
            }
        }
        out
    }

    /// Number of chunks over all runs, those known to several counted several times.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runs.iter().map(|run| run.len()).sum()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn is_marked(flags: &[Vec<bool>], run: usize, pack: usize) -> bool {
    flags.get(run).and_then(|flags| flags.get(pack)) == Some(&true)
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use backup_format::index::RunBuilder;
    use backup_format::pack::PackBlob;
    use backup_format::seal::BlobKind;

    use super::*;

    /// A run in which each of these packs holds these chunks.
    fn run(packs: &[(u8, &[u8])]) -> Arc<IndexRun> {
        let mut builder = RunBuilder::default();
        for (pack, chunks) in packs {
            let blob = |chunk: &u8| PackBlob {
                kind: BlobKind::Data,
                id: ChunkId([*chunk; 32]),
                offset: 0,
                stored: 9,
                raw: 9,
            };
            let blobs: Vec<_> = chunks.iter().map(blob).collect();
            let id = PackId([*pack; 32]);
            builder.add_pack(id, 900, &blobs).unwrap();
        }
        Arc::new(IndexRun::parse(builder.finish(&[])).unwrap())
    }

    #[test]
    fn what_lies_in_avoided_packs_alone_is_not_found_and_other_places_are() {
        let all = IndexSet::new(vec![
            run(&[(1, &[11, 12]), (2, &[12, 13])]),
            run(&[(3, &[11])]),
            run(&[(1, &[14])]),
        ]);
        let found =
            |set: &IndexSet, chunk: u8| set.find(&ChunkId([chunk; 32])).map(|at| at.pack.0[0]);
        let of = |set: &IndexSet| [11, 12, 13, 14].map(|chunk| found(set, chunk));
        assert_eq!(of(&all), [Some(1), Some(1), Some(2), Some(1)]);
        let one = all.avoiding(&BTreeSet::from([PackId([1; 32])]));
        // In another run, in another pack of the same run, and nowhere else.
        assert_eq!(of(&one), [Some(3), Some(2), Some(2), None]);
        let both = one.avoiding(&BTreeSet::from([PackId([2; 32])]));
        assert_eq!(of(&both), [Some(3), None, None, None]);
        assert_eq!(both.packs().keys().count(), 1);
        assert_eq!(all.places(&[12; 16]).count(), 2);
    }

    #[test]
    fn what_lies_in_shunned_packs_is_found_where_nothing_else_has_it() {
        let all = IndexSet::new(vec![run(&[(1, &[11, 12])]), run(&[(2, &[12, 13])])]);
        let shunned = all.shunning(&BTreeSet::from([PackId([1; 32])]));
        let of = |set: &IndexSet, chunk: u8| {
            let places = set.places(&[chunk; 16]).map(|at| at.pack.0[0]);
            places.collect::<Vec<_>>()
        };
        assert_eq!(of(&all, 12), [1, 2]);
        assert_eq!(of(&shunned, 12), [2, 1]);
        assert_eq!(of(&shunned, 11), [1]);
        assert_eq!(of(&shunned, 13), [2]);
        let avoided = shunned.avoiding(&BTreeSet::from([PackId([1; 32])]));
        assert_eq!(of(&avoided, 12), [2]);
        assert_eq!(of(&avoided, 11), [0u8; 0]);
        assert_eq!(avoided.pack_sizes().len(), 1);
    }
}
