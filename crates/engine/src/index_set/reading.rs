//! One reading of the index: runs come in, and what is too much for memory goes to tables.

use std::collections::HashMap;
use std::sync::Arc;

use backup_core::{ObjectKey, OpContext};
use futures::StreamExt;

use super::Result;
use super::build::NamedRun;
use super::load::lock;
use super::part::Shelved;
use super::shelf::{self, MOST_RUNS};
use crate::error::EngineError;
use crate::repository::Repository;

/// Index runs of more bytes than this are loaded one after the other.
const LARGE_RUN: u64 = 16 << 20;
/// An entry of a run has so many bytes.
const RUN_ENTRY: u64 = 32;

/// One reading of the index.
pub(super) struct Reading<'a> {
    pub(super) repo: &'a Repository,
    pub(super) cx: &'a OpContext,
    /// So many entries may stay in memory.
    pub(super) most: usize,
    /// Once there is no room there is none until the next reading.
    pub(super) can_shelve: bool,
    pub(super) tables: Vec<Arc<Shelved>>,
    pub(super) runs: Vec<NamedRun>,
    /// Runs that no table can take.
    pub(super) odd: Vec<NamedRun>,
}

impl Reading<'_> {
    /// Reads the runs that are wanted; says which are damaged.
    pub(super) async fn load(
        &mut self,
        wanted: &[&ObjectKey],
        sizes: &HashMap<ObjectKey, u64>,
    ) -> Result<Vec<(ObjectKey, EngineError)>> {
        let (repo, cx) = (self.repo, self.cx);
        let wanted = wanted.iter().filter_map(|key| sizes.get_key_value(*key));
        let bytes: u64 = wanted.clone().map(|(_, size)| size).sum();
        // What will not stay in memory goes to a table: no need for a copy of it beside that.
        let keep = bytes / RUN_ENTRY <= self.most as u64;
        let known: HashMap<_, _> = {
            let runs = lock(&repo.loaded.runs);
            let runs = runs.iter();
            runs.map(|one| ((one.key.clone(), one.size), one.run.clone()))
                .collect()
        };
        let load = |(key, size): (&ObjectKey, &u64)| {
            let (key, size) = (key.clone(), *size);
            let known = known.get(&(key.clone(), size)).cloned();
            async move {
                let run = match known {
                    Some(run) => Ok(run),
                    None => repo.load_run(cx, &key, size, keep).await.map(Arc::new),
                };
                (key, size, run)
            }
        };
        // Several large ones at once would take more memory than there may be.
        let (large, small): (Vec<_>, Vec<_>) = wanted.partition(|(_, size)| **size > LARGE_RUN);
        let small = futures::stream::iter(small)
            .map(load)
            .buffered(repo.connections(cx));
        let large = futures::stream::iter(large).then(load);
        let mut loads = std::pin::pin!(small.chain(large));
        let mut damaged = Vec::new();
        while let Some((key, size, run)) = loads.next().await {
            match run {
                Ok(run) => {
                    self.runs.push(NamedRun { key, size, run });
                    if self.entries() > self.most {
                        self.shelve(Vec::new()).await?;
                    }
                }
                Err(error) if error.is_damage() => damaged.push((key, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(damaged)
    }

    fn entries(&self) -> usize {
        self.runs.iter().map(|one| one.run.len()).sum()
    }

    /// Lays together what is too much one by one.
    pub(super) async fn settle(&mut self) -> Result<()> {
        let is_much = self.runs.len() > MOST_RUNS;
        let entries = if is_much { self.entries().max(1) } else { 0 };
        let due = shelf::due(&self.tables, entries);
        if !is_much {
            // Those in memory stay there.
            let runs = std::mem::take(&mut self.runs);
            if !due.is_empty() {
                self.shelve(due).await?;
            }
            self.runs = runs;
        } else {
            self.shelve(due).await?;
        }
        Ok(())
    }

    /// Lays all runs and these tables together.
    async fn shelve(&mut self, tables: Vec<Arc<Shelved>>) -> Result<()> {
        if !self.can_shelve {
            return Ok(());
        }
        let (runs, odd): (Vec<_>, Vec<_>) = std::mem::take(&mut self.runs)
            .into_iter()
            .partition(NamedRun::fits);
        self.odd.extend(odd);
        if runs.is_empty() && tables.is_empty() {
            return Ok(());
        }
        let sum: usize = tables.iter().map(|one| one.count).sum();
        let sum = sum + runs.iter().map(|one| one.run.len()).sum::<usize>();
        let (shelf, cancel) = (self.repo.loaded.shelf.clone(), self.cx.cancel.clone());
        let (given, of_tables) = (runs.clone(), tables.clone());
        let is_large = sum > self.most;
        let work = move || shelf.lay_together(&given, &of_tables, is_large, &cancel);
        let made = tokio::task::spawn_blocking(work).await;
        match made.map_err(|_| EngineError::Panicked("the index"))? {
            Some(made) => {
                let is_in_it = |one: &Arc<Shelved>| tables.iter().any(|old| Arc::ptr_eq(old, one));
                self.tables.retain(|one| !is_in_it(one));
                if made.table.path().is_some() {
                    for one in &runs {
                        self.repo.cache().remove(one.key.as_str());
                    }
                }
                self.tables.push(made);
            }
            None if self.cx.cancel.is_cancelled() => return Err(EngineError::Cancelled),
            None => {
                self.can_shelve = false;
                self.runs = runs;
            }
        }
        Ok(())
    }
}
