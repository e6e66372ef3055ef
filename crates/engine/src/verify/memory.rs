//! What this host's verifications covered: when each pack was checked and how deep, which contents
//! were once hashed whole, which manifests were walked.
//!
//! A file of frames in the cache folder; a frame is `length u32 ‖ sealed bytes`, and holds records of
//! 24 bytes: `key(16) ‖ number of the run u32 ‖ kind u8 ‖ 0 (3)`. The key that seals it follows from
//! the index key, the place of the repository and its medium ([`backup_core::Sink::medium`]), so a file of
//! another repository, or of another copy of the same one, is none. It may be lost, cut off or damaged at any time: what it said from there
//! on is checked once more. Of a run that is killed, what it wrote down up to the last half minute
//! stays.
//!
//! What comes next is decided by the numbers of runs, never by a clock; times are for people.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backup_core::{OpContext, PackId, SnapshotId, VerifyLevel};
use backup_format::seal::{ObjectKeyring, ObjectKind};
use jiff::Timestamp;
use rustix::fs::FlockOperation;

use crate::cache::Cache;
use crate::error::Result;
use crate::repository::Repository;
use crate::state::lock;

const RECORD: usize = 24;
/// Plain bytes of a frame.
const FRAME: usize = RECORD << 15;
/// A sealed frame is no longer than this.
const MOST_SEALED: usize = FRAME + 4096;
/// How long what was covered is kept in memory alone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records that a file may have beyond twice those that count.
const SPARE_RECORDS: usize = 4096;
/// Contents that wait for their turn.
const MOST_LEFT: usize = 1 << 14;
/// Before a content that a run did not come to the end of is tried again, others have so many turns.
const OTHER_TURNS: u32 = 8;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// A run began; its key is the time, in seconds since 1970 (`i64`), and eight zeros.
    Run = 0,
    /// A pack hashed to its name.
    PackSum = 1,
    /// All of a pack opened.
    PackFull = 2,
    /// A pack is not what it should be.
    PackBad = 3,
    /// A content hashed to what its manifest says.
    Whole = 4,
    /// A content did not.
    Wrong = 5,
    /// Every page of a snapshot's manifest was read.
    Walked = 6,
    /// A content waits to be hashed, since that run.
    Left = 7,
}

impl Kind {
    const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Run,
            1 => Self::PackSum,
            2 => Self::PackFull,
            3 => Self::PackBad,
            4 => Self::Whole,
            5 => Self::Wrong,
            6 => Self::Walked,
            7 => Self::Left,
            _ => return None,
        })
    }
}

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

fn time_key(seconds: i64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seconds.to_le_bytes());
    key
}

fn record(key: &[u8; 16], run: u32, kind: Kind) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..16].copy_from_slice(key);
    out[16..20].copy_from_slice(&run.to_le_bytes());
    out[20] = kind as u8;
    out
}

/// Who has the file.
#[derive(Debug, Clone, Copy)]
enum Held {
    ByUs,
    ByOther,
    /// It cannot be written, or is not to be.
    No,
}

/// The file.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    ring: ObjectKeyring,
    file: Option<File>,
    /// Held as long as this run writes.
    lock: Option<File>,
    /// Bytes of whole frames, and the records in them.
    length: u64,
    records: usize,
    pending: Vec<u8>,
    written: Instant,
}

impl Log {
    fn new(path: PathBuf, ring: ObjectKeyring) -> Self {
        Self {
            path,
            ring,
            file: None,
            lock: None,
            length: 0,
            records: 0,
            pending: Vec::new(),
            written: Instant::now(),
        }
    }

    /// Hands over every record up to the first thing that is wrong.
    fn replay(&mut self, mut take: impl FnMut([u8; 16], u32, Kind)) {
        (self.length, self.records) = (0, 0);
        let Ok(file) = File::open(&self.path) else {
            return;
        };
        let mut input = BufReader::new(file);
        while let Some((plain, length)) = self.frame(&mut input) {
            for one in plain.chunks_exact(RECORD) {
                let (mut key, mut run) = ([0; 16], [0; 4]);
                key.copy_from_slice(&one[..16]);
                run.copy_from_slice(&one[16..20]);
                self.records += 1;
                if let Some(kind) = Kind::of(one[20]) {
                    take(key, u32::from_le_bytes(run), kind);
                }
            }
            self.length += length;
        }
    }

    fn frame(&self, input: &mut impl Read) -> Option<(Vec<u8>, u64)> {
        let mut length = [0; 4];
        input.read_exact(&mut length).ok()?;
        let length = u32::from_le_bytes(length);
        if length as usize > MOST_SEALED {
            return None;
        }
        let mut sealed = Vec::new();
        input
            .take(u64::from(length))
            .read_to_end(&mut sealed)
            .ok()?;
        let plain = self.ring.open(ObjectKind::Cache, &sealed).ok()?;
        Some((plain, u64::from(length) + 4))
    }

    /// Takes the file for this run alone.
    fn hold(&mut self) -> Held {
        let mut options = File::options();
        options.write(true).create(true).mode(0o600);
        let Ok(held) = options.open(self.path.with_extension("lock")) else {
            return Held::No;
        };
        if lock(&held, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Held::ByOther;
        }
        self.lock = Some(held);
        Held::ByUs
    }

    /// Makes ready to write behind what was replayed; says whether that can be done.
    fn begin(&mut self) -> bool {
        let mut options = File::options();
        options.write(true).create(true).mode(0o600);
        let Ok(file) = options.open(&self.path) else {
            return false;
        };
        // What is behind the last whole frame would hide what comes now.
        let is_cut = file.set_len(self.length).is_ok();
        self.file = Some(file);
        is_cut
    }

    /// Adds a record; says whether the file can still be written.
    fn add(&mut self, record: &[u8; RECORD]) -> bool {
        self.pending.extend_from_slice(record);
        let is_due = self.pending.len() >= FRAME || self.written.elapsed() >= PATIENCE;
        !is_due || self.flush()
    }

    fn flush(&mut self) -> bool {
        self.written = Instant::now();
        if self.pending.is_empty() {
            return true;
        }
        let written = self.write();
        self.pending.clear();
        written.is_some()
    }

    fn write(&mut self) -> Option<()> {
        let file = self.file.as_ref()?;
        for plain in self.pending.chunks(FRAME) {
            let frame = sealed_frame(&self.ring, plain)?;
            file.write_all_at(&frame, self.length).ok()?;
            self.length += frame.len() as u64;
            self.records += plain.len() / RECORD;
        }
        Some(())
    }

    /// Writes the file anew.
    fn replace(&mut self, records: impl Iterator<Item = [u8; RECORD]>) {
        let new = self.path.with_extension("new");
        if self.write_anew(&new, records).is_none() {
            let _ = fs::remove_file(new);
        }
    }

    fn write_anew(
        &mut self,
        new: &Path,
        records: impl Iterator<Item = [u8; RECORD]>,
    ) -> Option<()> {
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(new).ok()?;
        let (mut plain, mut length, mut count) = (Vec::with_capacity(FRAME), 0, 0);
        let mut records = records.peekable();
        while let Some(record) = records.next() {
            plain.extend_from_slice(&record);
            count += 1;
            if plain.len() >= FRAME || records.peek().is_none() {
                let frame = sealed_frame(&self.ring, &plain)?;
                file.write_all(&frame).ok()?;
                length += frame.len() as u64;
                plain.clear();
            }
        }
        fs::rename(new, &self.path).ok()?;
        self.file = Some(file);
        (self.length, self.records) = (length, count);
        Some(())
    }
}

fn sealed_frame(ring: &ObjectKeyring, plain: &[u8]) -> Option<Vec<u8>> {
    let sealed = ring.seal(ObjectKind::Cache, plain).ok()?;
    let mut out = u32::try_from(sealed.len()).ok()?.to_le_bytes().to_vec();
    out.extend_from_slice(&sealed);
    Some(out)
}
