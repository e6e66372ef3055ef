//! What this host's verifications covered: when each pack was checked and how deep, which contents
//! were once hashed whole, which manifests were walked.
//!
//! It is kept in a file of the cache folder ([`log`]), under a key that follows from the index key, the place
//! of the repository and its medium ([`backup_core::Sink::medium`]): a file of another repository, or of another
//! copy of the same one, is none. It may be lost, cut off or damaged at any time: what it said from there on is checked once more.
//!
//! What comes next is decided by the numbers of runs, never by a clock; times are for people.

mod log;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use backup_core::{OpContext, PackId, SnapshotId, VerifyLevel};
use backup_format::seal::ObjectKeyring;
use jiff::Timestamp;

use self::log::{Held, Kind, Log, record, time_key};
use crate::cache::Cache;
use crate::error::Result;
use crate::repository::Repository;

/// Records that a file may have beyond twice those that count.
const SPARE_RECORDS: usize = 4096;
/// Contents that wait for their turn.
const MOST_LEFT: usize = 1 << 14;
/// Before a content that a run did not come to the end of is tried again, others have so many turns.
const OTHER_TURNS: u32 = 8;

/// In which runs a pack was checked last; 0: never.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Checked {
    pub(super) sum: u32,
    pub(super) full: u32,
    /// Whether it was damaged when it was looked at last.
    pub(super) is_bad: bool,
}

/// What became of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// It is whole.
    Whole,
    Wrong,
}

/// A content that no run has hashed.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    /// The run that left it first; one behind this run where it is not its turn yet.
    since: u32,
    /// Whether this run met it.
    is_met: bool,
}

/// What is known of earlier runs, and of the one under way.
#[derive(Debug)]
pub(super) struct Memory {
    log: Option<Log>,
    /// Whether another run on this host keeps it at the moment.
    pub(super) is_kept_by_other: bool,
    packs: HashMap<[u8; 16], Checked>,
    /// With the run in which each was met last.
    contents: HashMap<[u8; 16], (Content, u32)>,
    most_contents: usize,
    /// Contents that runs left to later ones.
    left: HashMap<[u8; 16], Waiting>,
    /// The one of them whose turn it is.
    due: Option<[u8; 16]>,
    walked: HashMap<[u8; 16], u32>,
    /// When runs began.
    runs: BTreeMap<u32, i64>,
    /// The number of this one.
    run: u32,
}

fn prefix(id: &PackId) -> [u8; 16] {
    let mut out = [0; 16];
    out.copy_from_slice(&id.0[..16]);
    out
}

impl Memory {
    /// The memory of this place in a cache folder; without one, or if it cannot be kept, what this run
    /// learns is forgotten with it.
    pub(super) fn open(repo: &Repository, cx: &OpContext, folder: Option<&Path>) -> Result<Self> {
        let mut out = Self::load(repo, cx, folder, true)?;
        let now = cx.clock.now().as_second();
        out.note(time_key(now), Kind::Run);
        // Even a run that is killed at once has had its number.
        out.flush();
        Ok(out)
    }

    /// What earlier runs left; nothing is written.
    pub(super) fn read_only(
        repo: &Repository,
        cx: &OpContext,
        folder: Option<&Path>,
    ) -> Result<Self> {
        Self::load(repo, cx, folder, false)
    }

    fn load(
        repo: &Repository,
        cx: &OpContext,
        folder: Option<&Path>,
        writes: bool,
    ) -> Result<Self> {
        let mut out = Self {
            log: None,
            is_kept_by_other: false,
            packs: HashMap::new(),
            contents: HashMap::new(),
            most_contents: (cx.limits.memory_bytes / 128).min(4 << 20),
            left: HashMap::new(),
            due: None,
            walked: HashMap::new(),
            runs: BTreeMap::new(),
            run: 1,
        };
        let Some(folder) = folder else {
            return Ok(out);
        };
        // Another disk may come to be at the same location.
        let medium = repo.sink().medium().unwrap_or_default();
        let place = format!("{}\0{medium}", repo.location());
        let place = blake3::derive_key("backstay v1 place of a verification", place.as_bytes());
        let mut hasher = blake3::Hasher::new_derive_key("backstay v1 memory of verifications");
        hasher.update(repo.keys().index_key()?);
        hasher.update(&place);
        let ring = ObjectKeyring::new(repo.id(), hasher.finalize().as_bytes());
        let name: String = place.iter().take(8).map(|b| format!("{b:02x}")).collect();
        let cache = Cache::new(Some(folder.join(repo.id().to_string())));
        let Some(path) = cache.path(&format!("verify-{name}")) else {
            return Ok(out);
        };
        let mut log = Log::new(path, ring);
        let held = if writes { log.hold() } else { Held::No };
        out.is_kept_by_other = matches!(held, Held::ByOther);
        log.replay(|key, run, kind| {
            if kind != Kind::Left {
                out.run = out.run.max(run.saturating_add(1));
            }
            out.take(key, run, kind);
        });
        let ready = out.left.iter().filter(|(_, one)| one.since < out.run);
        out.due = ready
            .min_by_key(|(id, one)| (one.since, **id))
            .map(|(id, _)| *id);
        if matches!(held, Held::ByUs) && log.begin() {
            out.log = Some(log);
        }
        Ok(out)
    }

    fn take(&mut self, key: [u8; 16], run: u32, kind: Kind) {
        match kind {
            Kind::Run => {
                let mut time = [0; 8];
                time.copy_from_slice(&key[..8]);
                self.runs.insert(run, i64::from_le_bytes(time));
            }
            Kind::PackSum => {
                let pack = self.packs.entry(key).or_default();
                (pack.sum, pack.is_bad) = (run, false);
            }
            Kind::PackFull => {
                let (sum, full) = (run, run);
                let is_bad = false;
                self.packs.insert(key, Checked { sum, full, is_bad });
            }
            Kind::PackBad => {
                let is_bad = true;
                let none = Checked::default();
                self.packs.insert(key, Checked { is_bad, ..none });
            }
            Kind::PackGone => {
                self.packs.remove(&key);
            }
            Kind::Left => {
                let is_met = false;
                self.left.insert(key, Waiting { since: run, is_met });
            }
            Kind::Whole | Kind::Wrong => {
                self.left.remove(&key);
                let content = if kind == Kind::Whole {
                    Content::Whole
                } else {
                    Content::Wrong
                };
                if self.has_room() || self.contents.contains_key(&key) {
                    self.contents.insert(key, (content, run));
                }
            }
            Kind::Walked => {
                self.walked.insert(key, run);
            }
        }
    }

    fn note(&mut self, key: [u8; 16], kind: Kind) {
        self.note_of(self.run, key, kind);
    }

    fn note_of(&mut self, run: u32, key: [u8; 16], kind: Kind) {
        self.take(key, run, kind);
        if let Some(log) = &mut self.log
            && !log.add(&record(&key, run, kind))
        {
            self.log = None;
        }
    }

    /// Whether what is learnt will be known to later runs.
    pub(super) const fn is_kept(&self) -> bool {
        self.log.is_some()
    }

    /// Whether there is room for one more content.
    pub(super) fn has_room(&self) -> bool {
        self.contents.len() < self.most_contents
    }

    /// Distrusts what earlier runs say of contents.
    pub(super) fn forget_contents(&mut self) {
        self.contents.clear();
    }

    /// Whether any pack was damaged when it was looked at last.
    pub(super) fn knows_damage(&self) -> bool {
        self.packs.values().any(|pack| pack.is_bad)
    }

    /// In which runs a pack was checked last.
    pub(super) fn pack(&self, id: &PackId) -> Checked {
        self.packs.get(&prefix(id)).copied().unwrap_or_default()
    }

    /// In which run a snapshot's manifest was walked last; 0: never.
    pub(super) fn walked(&self, id: SnapshotId) -> u32 {
        self.walked.get(&id.to_bytes()).copied().unwrap_or(0)
    }

    /// Whether a content was found whole by this host. It is kept in mind further.
    pub(super) fn is_whole(&mut self, content: &[u8; 16]) -> bool {
        match self.contents.get_mut(content) {
            Some((Content::Whole, met)) => {
                *met = self.run;
                true
            }
            _ => false,
        }
    }

    /// Whether a content was not whole when it was hashed last.
    pub(super) fn is_wrong(&self, content: &[u8; 16]) -> bool {
        matches!(self.contents.get(content), Some((Content::Wrong, _)))
    }

    pub(super) fn note_pack(&mut self, id: &PackId, level: VerifyLevel) {
        let kind = if level >= VerifyLevel::FullRead {
            Kind::PackFull
        } else {
            Kind::PackSum
        };
        self.note(prefix(id), kind);
    }

    pub(super) fn note_bad_pack(&mut self, id: &PackId) {
        self.note(prefix(id), Kind::PackBad);
    }

    /// Takes back that a pack is damaged, where nobody needs it any more.
    pub(super) fn forget_pack(&mut self, id: &PackId) {
        if self.pack(id).is_bad {
            self.note(prefix(id), Kind::PackGone);
        }
    }

    pub(super) fn note_content(&mut self, content: [u8; 16], is_whole: bool) {
        if self.has_room() || self.contents.contains_key(&content) {
            let kind = if is_whole { Kind::Whole } else { Kind::Wrong };
            self.note(content, kind);
        }
    }

    /// Whether it is the turn of a content, of all that earlier runs left: that which waits longest. If it does not come to
    /// its end in this run, others have their turns before it is tried again.
    pub(super) fn is_due(&mut self, content: &[u8; 16]) -> bool {
        let is_due = self.due == Some(*content);
        if is_due {
            self.due = None;
            self.put_off(*content);
        }
        is_due
    }

    fn put_off(&mut self, content: [u8; 16]) {
        let run = self.run.saturating_add(OTHER_TURNS);
        self.note_of(run, content, Kind::Left);
        if let Some(one) = self.left.get_mut(&content) {
            one.is_met = true;
        }
    }

    /// A content is left to a later run.
    pub(super) fn note_left(&mut self, content: [u8; 16]) {
        if !self.left.contains_key(&content) && self.left.len() < MOST_LEFT {
            self.note(content, Kind::Left);
        }
        if let Some(one) = self.left.get_mut(&content) {
            one.is_met = true;
        }
    }

    pub(super) fn note_walked(&mut self, id: SnapshotId) {
        self.note(id.to_bytes(), Kind::Walked);
    }

    /// When a run began.
    pub(super) fn time_of(&self, run: u32) -> Option<Timestamp> {
        Timestamp::from_second(*self.runs.get(&run)?).ok()
    }

    /// How many contents are known to be whole.
    pub(super) fn whole_contents(&self) -> u64 {
        let contents = self.contents.values();
        contents.filter(|one| one.0 == Content::Whole).count() as u64
    }

    /// Writes down what was covered since the last time.
    pub(super) fn flush(&mut self) {
        if let Some(log) = &mut self.log
            && !log.flush()
        {
            self.log = None;
        }
    }

    /// Forgets packs and snapshots that are not there any more.
    pub(super) fn keep(
        &mut self,
        packs: impl Iterator<Item = PackId>,
        snapshots: impl Iterator<Item = SnapshotId>,
    ) {
        let there: BTreeSet<[u8; 16]> = packs.map(|id| prefix(&id)).collect();
        self.packs.retain(|id, _| there.contains(id));
        let there: BTreeSet<[u8; 16]> = snapshots.map(|id| id.to_bytes()).collect();
        self.walked.retain(|id, _| there.contains(id));
    }

    /// Forgets contents that this run, which walked everything, did not meet.
    pub(super) fn keep_met_contents(&mut self) {
        let run = self.run;
        self.contents.retain(|_, (_, met)| *met == run);
        self.left.retain(|_, one| one.is_met);
    }

    /// Ends the run: all is written down, and the file made smaller if most of it is outdated.
    pub(super) fn finish(&mut self) {
        // It was not met: nothing needs it any more, or its manifest was not walked.
        let is_unmet = |due: &[u8; 16]| self.left.get(due).is_some_and(|one| !one.is_met);
        if let Some(due) = self.due.take().filter(is_unmet) {
            self.put_off(due);
        }
        self.flush();
        let named = self.packs.values().flat_map(|pack| [pack.sum, pack.full]);
        let named: BTreeSet<u32> = named.chain(self.walked.values().copied()).collect();
        let run = self.run;
        self.runs
            .retain(|number, _| *number == run || named.contains(number));
        let live = self.runs.len() + 2 * self.packs.len() + self.contents.len() + self.walked.len();
        let live = live + self.left.len();
        let is_wasteful = |log: &Log| log.records > 2 * live + SPARE_RECORDS;
        if self.log.as_ref().is_some_and(is_wasteful) {
            self.rewrite();
        }
    }

    fn rewrite(&mut self) {
        let Some(log) = &mut self.log else { return };
        let runs = self.runs.iter();
        let runs = runs.map(|(run, time)| record(&time_key(*time), *run, Kind::Run));
        let packs = self.packs.iter().flat_map(|(id, pack)| {
            let full = (pack.full > 0).then(|| record(id, pack.full, Kind::PackFull));
            let sum = (pack.sum > pack.full).then(|| record(id, pack.sum, Kind::PackSum));
            let bad = pack.is_bad.then(|| record(id, 0, Kind::PackBad));
            [full, sum, bad].into_iter().flatten()
        });
        let contents = self
            .contents
            .iter()
            .map(|(id, (content, met))| match content {
                Content::Whole => record(id, *met, Kind::Whole),
                Content::Wrong => record(id, *met, Kind::Wrong),
            });
        let walked = self.walked.iter();
        let walked = walked.map(|(id, run)| record(id, *run, Kind::Walked));
        let left = self.left.iter();
        let left = left.map(|(id, one)| record(id, one.since, Kind::Left));
        log.replace(runs.chain(packs).chain(contents).chain(walked).chain(left));
    }
}
