//! The file in which it is kept what verifications covered: frames of `length u32 ‖ sealed bytes`, of records of
//! 24 bytes, `key(16) ‖ number of the run u32 ‖ kind u8 ‖ 0 (3)`.
//!
//! It is written behind what can be read of it, at the latest half a minute behind what is learnt, so of a run
//! that is killed the rest stays. Nobody may be kept from working by it: what cannot be written is forgotten.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use backup_format::seal::{ObjectKeyring, ObjectKind};
use rustix::fs::FlockOperation;

use crate::state::lock;

const RECORD: usize = 24;
/// Plain bytes of a frame.
const FRAME: usize = RECORD << 15;
/// A sealed frame is no longer than this.
const MOST_SEALED: usize = FRAME + 4096;
/// How long what was covered is kept in memory alone.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
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
    /// A pack is not there any more, and nobody needs it.
    PackGone = 8,
}

impl Kind {
    pub(super) const fn of(number: u8) -> Option<Self> {
        Some(match number {
            0 => Self::Run,
            1 => Self::PackSum,
            2 => Self::PackFull,
            3 => Self::PackBad,
            4 => Self::Whole,
            5 => Self::Wrong,
            6 => Self::Walked,
            7 => Self::Left,
            8 => Self::PackGone,
            _ => return None,
        })
    }
}

pub(super) fn time_key(seconds: i64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&seconds.to_le_bytes());
    key
}

pub(super) fn record(key: &[u8; 16], run: u32, kind: Kind) -> [u8; RECORD] {
    let mut out = [0; RECORD];
    out[..16].copy_from_slice(key);
    out[16..20].copy_from_slice(&run.to_le_bytes());
    out[20] = kind as u8;
    out
}

/// Who has the file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Held {
    ByUs,
    ByOther,
    /// It cannot be written, or is not to be.
    No,
}

/// The file.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    ring: ObjectKeyring,
    file: Option<File>,
    /// Held as long as this run writes.
    lock: Option<File>,
    /// Bytes of whole frames, and the records in them.
    length: u64,
    pub(super) records: usize,
    pending: Vec<u8>,
    written: Instant,
}

impl Log {
    pub(super) fn new(path: PathBuf, ring: ObjectKeyring) -> Self {
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
    pub(super) fn replay(&mut self, mut take: impl FnMut([u8; 16], u32, Kind)) {
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
    pub(super) fn hold(&mut self) -> Held {
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
    pub(super) fn begin(&mut self) -> bool {
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
    pub(super) fn add(&mut self, record: &[u8; RECORD]) -> bool {
        self.pending.extend_from_slice(record);
        let is_due = self.pending.len() >= FRAME || self.written.elapsed() >= PATIENCE;
        !is_due || self.flush()
    }

    pub(super) fn flush(&mut self) -> bool {
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
    pub(super) fn replace(&mut self, records: impl Iterator<Item = [u8; RECORD]>) {
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
