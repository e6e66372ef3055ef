//! The state of a job's last run, kept in the local cache: for each entry what tells that it is
//! unchanged, its record, its lineage. Read and written in the order of the walk, so memory stays
//! bounded whatever the number of entries.
//!
//! A file of frames; a frame is `length u32 ‖ sealed bytes` under the state key. While a run goes on, its state grows beside the last one; a *mark* says up to where
//! everything it names is stored and indexed. A run that was killed is taken up from there: the next
//! run reads both files, the newer one winning. A damaged or missing file means that entries are
//! read again; whatever is stored already is found by its id, so nothing is stored twice.

mod entry;
mod read;

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use backup_core::SnapshotId;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use self::read::FrameReader;

pub use entry::StateEntry;
pub use read::{Known, StateReader};

/// Plain bytes of a frame.
const FRAME: usize = 512 << 10;

/// Where the state of a job lies.
#[derive(Debug, Clone)]
pub struct StatePaths {
    /// Of the last complete run.
    complete: PathBuf,
    /// The snapshot that the last complete run made.
    parent: PathBuf,
    /// Of the run under way.
    growing: PathBuf,
    /// How far the run under way can be trusted.
    mark: PathBuf,
    /// Of a run that was killed.
    resumed: PathBuf,
    /// Held while a state is put in its place and named.
    lock: PathBuf,
}

impl StatePaths {
    /// The files beside `base`.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        let with = |ending: &str| {
            let mut path = base.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        Self {
            complete: with(".state"),
            parent: with(".parent"),
            growing: with(".growing"),
            mark: with(".mark"),
            resumed: with(".resumed"),
            lock: with(".lock"),
        }
    }

    /// The entries of the last complete run, in ascending order of key; quietly ends at the first
    /// thing that is wrong.
    pub fn last_complete(&self, ring: &ObjectKeyring) -> impl Iterator<Item = StateEntry> {
        let mut reader = FrameReader::open(&self.complete, ring);
        std::iter::from_fn(move || reader.as_mut()?.next())
    }

    /// Turns what a killed run left into something that the next run reads.
    fn take_over(&self) {
        let marked = fs::read(&self.mark)
            .ok()
            .and_then(|bytes| bytes.try_into().ok());
        let Some(length) = marked.map(u64::from_le_bytes) else {
            return;
        };
        let older = fs::metadata(&self.resumed).map_or(0, |meta| meta.len());
        let Ok(grown) = File::options().write(true).open(&self.growing) else {
            let _ = fs::remove_file(&self.mark);
            return;
        };
        if lock(&grown, FlockOperation::NonBlockingLockExclusive).is_err() {
            // A run is under way that goes on with it.
            return;
        }
        if length > older && grown.set_len(length).is_ok() {
            let _ = fs::rename(&self.growing, &self.resumed);
        }
        let _ = fs::remove_file(&self.mark);
    }

    /// Whether a run was completed here.
    #[must_use]
    pub fn has_complete(&self) -> bool {
        self.complete.is_file()
    }

    /// The snapshot whose state the last complete one is, if it is there and known to be whose.
    #[must_use]
    pub fn parent(&self, ring: &ObjectKeyring) -> Option<SnapshotId> {
        if !self.complete.is_file() {
            return None;
        }
        let plain = ring
            .open(ObjectKind::Cache, &fs::read(&self.parent).ok()?)
            .ok()?;
        Some(SnapshotId::from_bytes(plain.try_into().ok()?))
    }

    /// Begins the state of the run under way. Of two runs at once one keeps none: their entries must
    /// not get mixed.
    fn grow(&self) -> std::io::Result<File> {
        let mut options = File::options();
        options.write(true).create(true).mode(0o600);
        let file = options.open(&self.growing)?;
        lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        // A run that ended between the two has made it the complete one.
        if !self.is_growing(&file) {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        file.set_len(0)?;
        Ok(file)
    }

    /// Whether a file is the one that the state of the run under way has.
    fn is_growing(&self, file: &File) -> bool {
        let id =
            |meta: std::io::Result<fs::Metadata>| meta.map(|meta| (meta.dev(), meta.ino())).ok();
        let opened = id(file.metadata());
        opened.is_some() && opened == id(fs::metadata(&self.growing))
    }

    /// Nobody knows any more which snapshot the last complete state is of.
    fn forget_parent(&self) -> std::io::Result<()> {
        match fs::remove_file(&self.parent) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The last complete state is now that of this snapshot.
    fn write_parent(&self, ring: &ObjectKeyring, parent: SnapshotId) {
        if let Ok(sealed) = ring.seal(ObjectKind::Cache, &parent.to_bytes()) {
            let file = fs::OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&self.parent);
            // Without it the next run reads more, no worse.
            let _ = file.and_then(|mut file| file.write_all(&sealed));
        }
    }
}

/// Writes the state of a run. As long as every entry is as it was, nothing is written: the last
/// state stands.
pub struct StateWriter {
    paths: StatePaths,
    ring: ObjectKeyring,
    output: Option<BufWriter<File>>,
    plain: Vec<u8>,
    written: u64,
    same: u64,
    broken: bool,
    /// The snapshot that the complete state was of when the run began.
    before: Option<SnapshotId>,
}

impl std::fmt::Debug for StateWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StateWriter({})", self.paths.growing.display())
    }
}

impl StateWriter {
    /// Begins the state of a run.
    #[must_use]
    pub fn new(paths: StatePaths, ring: ObjectKeyring) -> Self {
        Self {
            before: paths.parent(&ring),
            paths,
            ring,
            output: None,
            plain: Vec::new(),
            written: 0,
            same: 0,
            broken: false,
        }
    }

    /// The next entry is that of the last state, and so were all before.
    pub const fn same(&mut self) -> bool {
        let all = self.output.is_none() && !self.broken;
        if all {
            self.same += 1;
        }
        all
    }

    /// Something differs from the last state: from here on entries must be pushed.
    pub fn differs(&mut self) {
        if self.output.is_some() || self.broken {
            return;
        }
        // What another run has put there since is not what was passed over.
        if self.same > 0 && self.paths.parent(&self.ring) != self.before {
            self.broken = true;
            return;
        }
        match self.paths.grow() {
            Ok(file) => self.output = Some(BufWriter::with_capacity(256 << 10, file)),
            Err(_) => self.broken = true,
        }
        let Some(mut last) = FrameReader::open(&self.paths.complete, &self.ring) else {
            return;
        };
        for _ in 0..self.same {
            match last.next() {
                Some(entry) => self.push(&entry),
                None => break,
            }
        }
    }

    /// Adds an entry, in ascending order of key.
    pub fn push(&mut self, entry: &StateEntry) {
        entry.encode(&mut self.plain);
        if self.plain.len() >= FRAME {
            self.end_frame();
        }
    }

    fn end_frame(&mut self) {
        let sealed = self.ring.seal(ObjectKind::Cache, &self.plain);
        self.plain.clear();
        let (Ok(sealed), Some(output)) = (sealed, self.output.as_mut()) else {
            self.broken = true;
            return;
        };
        let length = u32::try_from(sealed.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes();
        let wrote = output
            .write_all(&length)
            .and_then(|()| output.write_all(&sealed));
        self.broken |= wrote.is_err();
        self.written += 4 + sealed.len() as u64;
    }

    fn flush(&mut self) -> bool {
        if !self.plain.is_empty() {
            self.end_frame();
        }
        let flushed = self
            .output
            .as_mut()
            .is_some_and(|output| output.flush().is_ok());
        flushed && !self.broken
    }

    /// Everything named so far is stored and indexed: a killed run is taken up from here.
    pub fn mark(&mut self) {
        if self.output.is_none() || !self.flush() {
            return;
        }
        let new = self.paths.mark.with_extension("mark-new");
        let wrote = fs::write(&new, self.written.to_le_bytes());
        if wrote
            .and_then(|()| fs::rename(&new, &self.paths.mark))
            .is_err()
        {
            let _ = fs::remove_file(&new);
        }
    }

    /// The run is committed: its state replaces all earlier ones.
    pub fn finish(mut self, snapshot: SnapshotId) {
        let flushed = self.output.is_some() && self.flush();
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600);
        let held = options
            .open(&self.paths.lock)
            .and_then(|file| lock(&file, FlockOperation::LockExclusive).map(|()| file));
        if self.broken || held.is_err() {
            // The next run reads more, no worse.
            return;
        }
        if self.output.is_none() {
            // All is as it was, unless another run has put its own state there since.
            if self.before.is_some() && self.paths.parent(&self.ring) == self.before {
                self.paths.write_parent(&self.ring, snapshot);
            }
            return;
        }
        // Killed in between, it is a state of nobody knows which snapshot.
        let output = self.output.as_ref();
        let moved = flushed
            && output.is_some_and(|output| self.paths.is_growing(output.get_ref()))
            && self.paths.forget_parent().is_ok()
            && fs::rename(&self.paths.growing, &self.paths.complete).is_ok();
        if moved {
            let _ = fs::remove_file(&self.paths.resumed);
            let _ = fs::remove_file(&self.paths.mark);
            self.paths.write_parent(&self.ring, snapshot);
        }
    }
}

/// Locks a file, where the file system can.
pub(crate) fn lock(file: &File, operation: FlockOperation) -> std::io::Result<()> {
    match flock(file, operation) {
        Err(error) if error == Errno::WOULDBLOCK || error == Errno::INTR => Err(error.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
