//! Reading the index: its list, the runs that are new, and what becomes of those in memory.
//!
//! Runs stay in memory as long as there are few of them with few entries. Beyond that they are laid together in a
//! table, at once while a large index is read for the first time, so that memory stays small. Their sealed copies
//! leave the cache then: the table has all of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, Severity};
use backup_format::index::{IndexRun, PackRef};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::{ObjectKeyring, ObjectKind};

use super::build::NamedRun;
use super::part::{Part, Shelved, packs_of};
use super::reading::Reading;
use super::shelf::{self, Shelf};
use super::table::{Member, Table};
use super::{IndexSet, Result};
use crate::cache::Cache;
use crate::error::EngineError;
use crate::listing::Listing;
use crate::repository::{Repository, get_within, name};

/// How often the index is listed until no run goes before it is read.
const MOST_LISTS: u32 = 10;
/// So many entries of runs are kept in memory: 32 MiB.
const IN_MEMORY: usize = 1 << 20;

/// What a repository has in hand of its index.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(super) shelf: Shelf,
    set: RwLock<Arc<IndexSet>>,
    pub(super) runs: Mutex<Vec<NamedRun>>,
    /// None: nobody has looked into the folder yet.
    tables: Mutex<Option<Vec<Arc<Shelved>>>>,
    damaged: Mutex<Vec<(ObjectKey, EngineError)>>,
    /// Packs in which nothing is looked for any more, as far as somebody asked.
    dead: Mutex<BTreeSet<PackId>>,
    /// Packs that are looked into last.
    shunned: Mutex<BTreeSet<PackId>>,
    in_memory: AtomicUsize,
}

impl Loaded {
    /// Nothing so far. Copies of a repository have its id, and an index each: the folder is of one place.
    pub(crate) fn new(cache: &Cache, ring: &ObjectKeyring, location: &str) -> Self {
        let place = blake3::hash(location.as_bytes()).to_hex();
        let folder = cache.folder_name(&format!("index-{}", place.get(..16).unwrap_or_default()));
        Self {
            shelf: Shelf::new(folder, ring.clone()),
            set: RwLock::default(),
            runs: Mutex::default(),
            tables: Mutex::default(),
            damaged: Mutex::default(),
            dead: Mutex::default(),
            shunned: Mutex::default(),
            in_memory: AtomicUsize::new(IN_MEMORY),
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A run that the index was read from.
#[derive(Debug, Clone)]
pub(crate) enum KnownRun {
    /// It is in memory.
    Loaded(NamedRun),
    /// It is in a table, as the member of this number.
    Shelved(Arc<Table>, usize),
}

impl KnownRun {
    fn member(&self) -> Option<(&Table, &Member)> {
        match self {
            Self::Loaded(_) => None,
            Self::Shelved(table, number) => Some((table, table.members().get(*number)?)),
        }
    }

    /// Its name.
    pub(crate) fn key(&self) -> Option<&ObjectKey> {
        match self {
            Self::Loaded(one) => Some(&one.key),
            Self::Shelved(..) => self.member().map(|(_, member)| &member.key),
        }
    }

    /// How many entries it has.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Loaded(one) => one.run.len(),
            Self::Shelved(..) => {
                let entries = |(table, member): (&Table, &Member)| table.entries_in(member);
                self.member().map_or(0, entries) as usize
            }
        }
    }

    /// The sessions that it knows.
    pub(crate) fn sessions(&self) -> &[SessionWrap] {
        match self {
            Self::Loaded(one) => &one.run.sessions,
            Self::Shelved(..) => self.member().map_or(&[], |(_, member)| &member.sessions),
        }
    }

    /// Whether it names any of these packs.
    pub(crate) fn names_any(&self, packs: &BTreeSet<PackId>) -> bool {
        let is_one = |pack: &PackRef| packs.contains(&pack.id);
        match self {
            Self::Loaded(one) => one.run.packs.iter().any(is_one),
            Self::Shelved(..) => self.member().is_some_and(|(table, member)| {
                let own = packs_of(member).filter_map(|at| table.pack(u32::try_from(at).ok()?));
                own.into_iter().any(|pack| is_one(&pack))
            }),
        }
    }
}

impl Repository {
    /// The index as loaded.
    #[must_use]
    pub fn index(&self) -> Arc<IndexSet> {
        let set = self.loaded.set.read();
        set.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// So many entries of the index are kept in memory before they go to the cache, or without one to a file without a
    /// name in the folder for temporary files. A million by default, which is 32 MiB. It counts from the next reading on.
    pub fn keep_in_memory(&self, entries: usize) {
        self.loaded.in_memory.store(entries, Ordering::Relaxed);
    }

    /// The index, of which all that lies in the cache was read and found to be whole: for who concludes anything from
    /// what is not in it.
    ///
    /// # Errors
    /// [`EngineError::IndexCache`] where that does not come about; errors of the tier.
    pub(crate) async fn proven_index(&self, cx: &OpContext) -> Result<Arc<IndexSet>> {
        for _ in 0..2 {
            let index = self.index();
            let tables = index.parts().iter().filter_map(Part::as_table);
            let tables: Vec<_> = tables.cloned().collect();
            // Each is read, so that each that is broken goes.
            let prove = move || tables.iter().filter(|table| !table.prove()).count() == 0;
            if tokio::task::spawn_blocking(prove)
                .await
                .is_ok_and(|is_whole| is_whole)
            {
                return Ok(index);
            }
            self.refresh_index(cx).await?;
        }
        let index = self.index();
        index.check()?;
        Ok(index)
    }

    /// Loads the index runs anew. One that is damaged is passed over, so that what the others know
    /// can still be read; see [`Repository::take_damaged_runs`].
    ///
    /// # Errors
    /// Those of the tier.
    #[boxed]
    pub async fn reload_index(&self, cx: &OpContext) -> Result<()> {
        // Files that are damaged go, else they would be opened once more.
        let _ = self.index().check();
        lock(&self.loaded.runs).clear();
        *lock(&self.loaded.tables) = None;
        self.refresh_index(cx).await.map(drop)
    }

    /// Loads the index runs that are new, and drops those that are gone; says which there are. One
    /// that goes between the list and its read was put into another: the list is read again.
    ///
    /// # Errors
    /// As [`Repository::reload_index`].
    pub(crate) async fn refresh_index(&self, cx: &OpContext) -> Result<BTreeSet<ObjectKey>> {
        self.refresh_index_by(cx, None).await
    }

    /// The same by a listing of a moment ago, if there is one that shows the index.
    ///
    /// # Errors
    /// As [`Repository::reload_index`].
    pub(crate) async fn refresh_index_by(
        &self,
        cx: &OpContext,
        mut listing: Option<&Listing>,
    ) -> Result<BTreeSet<ObjectKey>> {
        let mut attempts = 1;
        loop {
            match self.read_index(cx, listing.take()).await {
                Err(EngineError::Sink(error))
                    if error.kind == ErrorKind::NotFound && attempts < MOST_LISTS =>
                {
                    attempts += 1;
                }
                read => return read,
            }
        }
    }

    async fn read_index(
        &self,
        cx: &OpContext,
        listing: Option<&Listing>,
    ) -> Result<BTreeSet<ObjectKey>> {
        let fresh = match listing {
            Some(_) => Listing::default(),
            None => Listing::read(cx, &**self.sink(), &["index/"]).await?,
        };
        let runs = listing.unwrap_or(&fresh).below("index/");
        let runs = runs.filter(|meta| layout::is_index(&meta.key));
        let sizes: HashMap<_, _> = runs.map(|meta| (meta.key.clone(), meta.size)).collect();
        let names: BTreeSet<_> = sizes.keys().cloned().collect();
        let tables = self.tables(&sizes).await;
        let members = tables.iter().flat_map(|one| one.members());
        let shelved: BTreeSet<&ObjectKey> = members.map(|member| &member.key).collect();
        let wanted: Vec<_> = names.iter().filter(|key| !shelved.contains(key)).collect();
        let mut reading = Reading {
            repo: self,
            cx,
            most: self.loaded.in_memory.load(Ordering::Relaxed),
            can_shelve: true,
            tables: tables.clone(),
            runs: Vec::new(),
            odd: Vec::new(),
        };
        let damaged = reading.load(&wanted, &sizes).await?;
        reading.settle().await?;
        let Reading {
            tables, runs, odd, ..
        } = reading;
        let runs: Vec<_> = runs.into_iter().chain(odd).collect();
        let parts = tables.iter().cloned().map(Part::table);
        let parts = parts.chain(runs.iter().map(|one| Part::run(one.run.clone())));
        let set = IndexSet::of(parts.collect())
            .avoiding(&lock(&self.loaded.dead))
            .shunning(&lock(&self.loaded.shunned));
        *lock(&self.loaded.tables) = Some(tables);
        *lock(&self.loaded.runs) = runs;
        *lock(&self.loaded.damaged) = damaged;
        self.learn_wraps(set.wraps());
        self.change_index(|_| set);
        Ok(names)
    }

    fn change_index(&self, change: impl FnOnce(&IndexSet) -> IndexSet) {
        let mut index = self
            .loaded
            .set
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *index = Arc::new(change(&index));
    }

    /// The tables that count for these runs.
    async fn tables(&self, listed: &HashMap<ObjectKey, u64>) -> Vec<Arc<Shelved>> {
        let known = lock(&self.loaded.tables).clone();
        let tables = match known {
            Some(known) => {
                let tables = known.into_iter().map(|one| one.table.clone());
                let (broken, whole): (Vec<_>, Vec<_>) = tables.partition(|table| table.is_broken());
                broken
                    .iter()
                    .filter_map(|table| table.path())
                    .for_each(shelf::remove);
                whole
            }
            None if !self.loaded.shelf.is_there() => Vec::new(),
            None => {
                let shelf = self.loaded.shelf.clone();
                let opened = tokio::task::spawn_blocking(move || shelf.open_all()).await;
                opened.unwrap_or_default()
            }
        };
        shelf::counting(tables, listed)
    }

    /// From now on nothing is looked for in these packs, which are gone or about to go, whatever runs
    /// name them.
    pub(crate) fn pass_over(&self, dead: BTreeSet<PackId>) {
        self.change_index(|index| index.avoiding(&dead));
        *lock(&self.loaded.dead) = dead;
    }

    /// From now on a chunk is looked for in these packs, which are damaged or gone, only where no
    /// other has it.
    pub(crate) fn shun(&self, packs: BTreeSet<PackId>) {
        self.change_index(|index| index.shunning(&packs));
        *lock(&self.loaded.shunned) = packs;
    }

    /// The runs that the index was read from, by their names.
    pub(crate) fn known_runs(&self) -> Vec<KnownRun> {
        let mut out = BTreeMap::new();
        for one in lock(&self.loaded.runs).iter() {
            out.insert(one.key.clone(), KnownRun::Loaded(one.clone()));
        }
        for one in lock(&self.loaded.tables).iter().flatten() {
            let live = (0..).zip(&one.live).filter(|(_, is_live)| **is_live);
            for (number, _) in live {
                let run = KnownRun::Shelved(one.table.clone(), number);
                if let Some(key) = run.key().cloned() {
                    out.insert(key, run);
                }
            }
        }
        out.into_values().collect()
    }

    /// A run that the index was read from; from the tier, if it is no longer in memory.
    ///
    /// # Errors
    /// Those of reading it.
    pub(crate) async fn known_run(
        &self,
        cx: &OpContext,
        known: &KnownRun,
    ) -> Result<Arc<IndexRun>> {
        match known {
            KnownRun::Loaded(one) => Ok(one.run.clone()),
            KnownRun::Shelved(..) => {
                let (_, member) = known.member().ok_or(EngineError::Panicked("the index"))?;
                let run = self.load_run(cx, &member.key, member.size, false).await?;
                Ok(Arc::new(run))
            }
        }
    }

    /// The index runs that could not be opened when the index was loaded, once.
    #[must_use]
    pub fn take_damaged_runs(&self) -> Vec<(ObjectKey, EngineError)> {
        std::mem::take(&mut *lock(&self.loaded.damaged))
    }

    /// What is to be said of the index runs that could not be opened when the index was loaded, by
    /// whoever goes on without them.
    pub(crate) fn damaged_runs(&self) -> Vec<Finding> {
        let damaged = lock(&self.loaded.damaged);
        let finding = |(key, error): &(ObjectKey, EngineError)| {
            let detail = format!(
                "{error}: what it alone knows counts as not stored, and a save stores it anew; `snapshot repair` makes it anew from the packs"
            );
            Finding::new(Severity::Error, FindingKind::Damaged, key.as_str(), detail)
        };
        damaged.iter().map(finding).collect()
    }

    /// The same, as words and as often as asked.
    pub(crate) fn damaged_run_errors(&self) -> Vec<(ObjectKey, String)> {
        let damaged = lock(&self.loaded.damaged);
        damaged
            .iter()
            .map(|(key, error)| (key.clone(), error.to_string()))
            .collect()
    }

    /// Why a chunk is not to be found that no index run knows.
    pub(crate) fn why_unknown(&self) -> String {
        let damaged = lock(&self.loaded.damaged);
        let Some((first, _)) = damaged.first() else {
            return "no index run knows it; `snapshot repair index` finds it if a pack has it"
                .into();
        };
        let more = match damaged.len() - 1 {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "no index run that can be read knows it, and {first}{more} cannot be read; \
             `snapshot repair index` makes that anew from the packs"
        )
    }

    /// Reads a run, from the cache if it has it; `keep`: what came from the tier is put there.
    pub(super) async fn load_run(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        size: u64,
        keep: bool,
    ) -> Result<IndexRun> {
        let parse = |sealed: &[u8]| -> Result<IndexRun> {
            let plain = self
                .ring()
                .open(ObjectKind::IndexRun, sealed)
                .map_err(|error| EngineError::sealed(key, &error))?;
            IndexRun::parse(plain).map_err(|error| EngineError::wire(key, &error))
        };
        // A copy of a run that was cut off on the tier would hide from this host what others lack.
        let is_as_long = |bytes: &Vec<u8>| bytes.len() as u64 == size;
        let cached = self.cache().read(key.as_str()).filter(is_as_long);
        if let Some(run) = cached.and_then(|bytes| parse(&bytes).ok()) {
            return Ok(run);
        }
        let most = ObjectKind::IndexRun.max_sealed();
        let limit = usize::try_from(size).map_or(most, |size| size.min(most));
        let sealed = get_within(cx, &**self.sink(), key, limit).await?;
        if name(layout::index(&sealed))? != *key {
            let why = "its bytes do not hash to its name";
            return Err(EngineError::damaged(key, why));
        }
        let run = parse(&sealed)?;
        if keep {
            self.cache().write(key.as_str(), &sealed);
        }
        Ok(run)
    }
}
