//! All index runs of a repository together: where each chunk lies.

use std::collections::HashMap;

use backup_core::{ChunkId, PackId, SessionId};
use backup_format::index::{IndexRun, Located};

/// The runs of a repository as they were when it was opened.
#[derive(Debug, Default)]
pub struct IndexSet {
    runs: Vec<IndexRun>,
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
    pub const fn new(runs: Vec<IndexRun>) -> Self {
        Self { runs }
    }

    /// Where a chunk lies.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<Place> {
        self.runs.iter().enumerate().find_map(|(number, run)| {
            let located = run.find(id)?;
            let pack = run.packs.get(located.pack as usize)?.id;
            Some(Place {
                run: u32::try_from(number).ok()?,
                pack,
                located,
            })
        })
    }

    /// Every place of a chunk, by the half of its id that the index has.
    pub fn places(&self, prefix: &[u8; 16]) -> impl Iterator<Item = Place> {
        let mut id = [0; 32];
        id[..16].copy_from_slice(prefix);
        let id = ChunkId(id);
        self.runs
            .iter()
            .zip(0u32..)
            .filter_map(move |(run, number)| {
                let located = run.find(&id)?;
                let pack = run.packs.get(located.pack as usize)?.id;
                Some(Place {
                    run: number,
                    pack,
                    located,
                })
            })
    }

    /// The runs.
    #[must_use]
    pub fn runs(&self) -> &[IndexRun] {
        &self.runs
    }

    /// The wrapped data keys of all sessions that the runs know.
    #[must_use]
    pub fn wraps(&self) -> HashMap<SessionId, Vec<u8>> {
        let wraps = self.runs.iter().flat_map(|run| &run.sessions);
        wraps
            .map(|wrap| (wrap.session, wrap.wrap.clone()))
            .collect()
    }

    /// All packs with their sizes and whether they hold pages and lineage (or content).
    #[must_use]
    pub fn packs(&self) -> HashMap<PackId, PackFacts> {
        let mut out: HashMap<PackId, PackFacts> = HashMap::new();
        for run in &self.runs {
            let mut blobs = vec![(None, 0); run.packs.len()];
            for (_, located) in run.iter() {
                if let Some((kind, count)) = blobs.get_mut(located.pack as usize) {
                    *kind = Some(located.kind);
                    *count += 1;
                }
            }
            for (pack, (kind, count)) in run.packs.iter().zip(blobs) {
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
        self.runs.iter().map(IndexRun::len).sum()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
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
