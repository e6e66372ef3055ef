//! The tables of a repository in the cache folder: which are there, which count, which are laid together.
//!
//! Files never change. New ones get their name when they are whole, and old ones go when all that counts of them is in
//! others. Several processes may do so at once; who loses a file under its hands has it open, or reads what was in it
//! from the tier.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{CancellationToken, ObjectKey};
use backup_format::seal::ObjectKeyring;

use super::build::{self, NamedRun, Place};
use super::file::{ENDING, UNFINISHED};
use super::part::Shelved;
use super::table::Table;
use crate::cache::make_folder;

/// More runs than this are not looked through one by one.
pub(crate) const MOST_RUNS: usize = 16;
/// A table is laid together with what comes to it when that is more than one part of so many.
const RATIO: usize = 8;
/// What nobody needs any more may be needed by another process that has seen an older list.
const DAY: Duration = Duration::from_secs(86_400);

/// Where tables lie.
#[derive(Debug, Clone)]
pub(crate) struct Shelf {
    folder: Option<PathBuf>,
    ring: ObjectKeyring,
}

impl Shelf {
    /// A shelf in a folder, made when it is needed; without one nothing of it stays.
    pub(crate) const fn new(folder: Option<PathBuf>, ring: ObjectKeyring) -> Self {
        Self { folder, ring }
    }

    /// Whether there may be any.
    pub(crate) fn is_there(&self) -> bool {
        self.folder.as_ref().is_some_and(|folder| folder.is_dir())
    }

    /// Opens all tables; takes away what is damaged, and what was left half written a day ago.
    pub(crate) fn open_all(&self) -> Vec<Arc<Table>> {
        let files = self
            .folder
            .as_ref()
            .and_then(|folder| fs::read_dir(folder).ok());
        let mut out = Vec::new();
        for path in files
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
        {
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.unwrap_or_default();
            if name.ends_with(ENDING) {
                match Table::open(&path, &self.ring) {
                    Some(table) => out.push(Arc::new(table)),
                    None => remove(&path),
                }
            } else if name.starts_with(UNFINISHED) && is_old(&path) {
                remove(&path);
            }
        }
        out
    }

    /// Lays runs and tables together; `None` when that cannot be done, and nothing has changed then. The files of the
    /// tables go. `is_large`: where the folder cannot be used it goes to a file all the same, one without a name.
    pub(crate) fn lay_together(
        &self,
        runs: &[NamedRun],
        tables: &[Arc<Shelved>],
        is_large: bool,
        cancel: &CancellationToken,
    ) -> Option<Arc<Shelved>> {
        let merge = |place| build::merge(runs, tables, (place, &self.ring), cancel);
        let in_folder = self.folder.as_ref().and_then(|folder| {
            make_folder(folder).ok()?;
            merge(Place::Folder(folder))
        });
        let table = match in_folder {
            Some(table) => table,
            None if cancel.is_cancelled() => return None,
            None if is_large => merge(Place::Unnamed).or_else(|| merge(Place::Memory))?,
            None => merge(Place::Memory)?,
        };
        // What has no name is for this process alone: others go on with what is there.
        if table.path().is_some() {
            let old = tables.iter().filter_map(|one| one.table.path());
            old.for_each(remove);
        }
        let live = vec![true; table.members().len()];
        Some(Arc::new(Shelved::new(Arc::new(table), live)))
    }
}

/// The tables that count for the runs of a list, with their sizes. Of a run that is in several one counts; one that has
/// another size on the tier than it had counts for nothing. Files that are of no use any more go.
pub(crate) fn counting(
    mut tables: Vec<Arc<Table>>,
    listed: &HashMap<ObjectKey, u64>,
) -> Vec<Arc<Shelved>> {
    tables.sort_by_key(|table| std::cmp::Reverse(table.len()));
    let mut covered = BTreeSet::new();
    let mut seen: BTreeSet<ObjectKey> = BTreeSet::new();
    let mut out = Vec::new();
    for table in tables {
        let members = table.members().iter();
        let live = members.map(|member| {
            listed.get(&member.key) == Some(&member.size) && covered.insert(member.key.clone())
        });
        let live: Vec<bool> = live.collect();
        if live.contains(&true) {
            seen.extend(table.members().iter().map(|member| member.key.clone()));
            out.push(Arc::new(Shelved::new(table, live)));
        } else if let Some(path) = table.path() {
            let is_elsewhere = table.members().iter().all(|one| seen.contains(&one.key));
            if is_elsewhere || is_old(path) {
                remove(path);
            }
        }
    }
    out
}

/// Which tables are laid together with runs of so many entries, or with each other if there are none: those that are
/// not much larger than what comes to them, so that there are few and each entry is seldom written; and those of
/// which more than a quarter is gone.
pub(crate) fn due(tables: &[Arc<Shelved>], entries: usize) -> Vec<Arc<Shelved>> {
    let mut sorted: Vec<_> = tables.to_vec();
    sorted.sort_by_key(|one| one.count);
    let (mut sum, mut near) = (entries, Vec::new());
    for one in &sorted {
        if sum > 0 && one.count > sum.saturating_mul(RATIO) {
            break;
        }
        sum += one.count;
        near.push(one.clone());
    }
    if entries == 0 && near.len() == 1 {
        near.clear();
    }
    let rest = sorted.iter().skip(near.len());
    let outdated = rest.filter(|one| (one.table.len() - one.count) * 4 > one.table.len());
    let outdated: Vec<_> = outdated.cloned().collect();
    near.extend(outdated);
    near
}

fn is_old(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|meta| meta.modified());
    let age = modified.ok().and_then(|at| at.elapsed().ok());
    age.is_some_and(|age| age > DAY)
}

/// Takes a file of the cache away; that it is gone already, or cannot go, costs nothing but room.
pub(crate) fn remove(path: &Path) {
    let _ = fs::remove_file(path);
}
