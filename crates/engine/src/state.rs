//! The state of a job's last run, kept in the local cache: for each entry what tells that it is
//! unchanged, its record, its lineage. Read and written in the order of the walk, so memory stays
//! bounded whatever the number of entries.
//!
//! A file of frames; a frame is `length u32 ‖ sealed bytes` under the state key. While a run goes on, its state grows beside the last one; a *mark* says up to where
//! everything it names is stored and indexed. A run that was killed is taken up from there: the next
//! run reads both files, the newer one winning. A damaged or missing file means that entries are
//! read again; whatever is stored already is found by its id, so nothing is stored twice.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use backup_core::{FileTime, Fingerprint, SnapshotId};
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_format::wire::{Put, Take, WireError};

/// Plain bytes of a frame.
const FRAME: usize = 512 << 10;
/// Largest sealed frame that is read.
const MAX_FRAME: usize = 64 << 20;

/// What the state knows of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateEntry {
    /// Key of the manifest.
    pub key: Vec<u8>,
    /// What tells that it is unchanged.
    pub fingerprint: Option<Fingerprint>,
    /// Its record, encoded.
    pub record: Vec<u8>,
    /// Its lineage head, encoded; empty: none.
    pub lineage: Vec<u8>,
    /// Its extents, encoded, where the record names spills instead; empty otherwise.
    pub extents: Vec<u8>,
}

impl StateEntry {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_bytes(&self.key);
        match &self.fingerprint {
            None => out.push(0),
            Some(print) => {
                out.push(1);
                out.put_varint(print.size);
                for time in [print.mtime, print.ctime] {
                    out.extend_from_slice(&time.seconds.to_le_bytes());
                    out.extend_from_slice(&time.nanos.to_le_bytes());
                }
                out.put_varint(print.inode);
            }
        }
        out.put_bytes(&self.record);
        out.put_bytes(&self.lineage);
        out.put_bytes(&self.extents);
    }

    /// Takes an entry from the front.
    ///
    /// # Errors
    /// [`WireError`] when the bytes end too early.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, WireError> {
        let key = take.bytes()?.to_vec();
        let fingerprint = match take.u8()? {
            0 => None,
            _ => {
                let size = take.varint()?;
                let mut time = || -> Result<FileTime, WireError> {
                    let seconds = i64::from_le_bytes(take.array()?);
                    Ok(FileTime {
                        seconds,
                        nanos: take.u32()?,
                    })
                };
                let (mtime, ctime) = (time()?, time()?);
                Some(Fingerprint {
                    size,
                    mtime,
                    ctime,
                    inode: take.varint()?,
                })
            }
        };
        Ok(Self {
            key,
            fingerprint,
            record: take.bytes()?.to_vec(),
            lineage: take.bytes()?.to_vec(),
            extents: take.bytes()?.to_vec(),
        })
    }
}

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
        let cut = File::options().write(true).open(&self.growing);
        if length > older && cut.and_then(|file| file.set_len(length)).is_ok() {
            let _ = fs::rename(&self.growing, &self.resumed);
        }
        let _ = fs::remove_file(&self.mark);
    }

    fn read_parent(&self, ring: &ObjectKeyring) -> Option<SnapshotId> {
        let plain = ring
            .open(ObjectKind::Cache, &fs::read(&self.parent).ok()?)
            .ok()?;
        Some(SnapshotId::from_bytes(plain.try_into().ok()?))
    }

    /// The last complete state is now that of this snapshot.
    pub fn write_parent(&self, ring: &ObjectKeyring, parent: SnapshotId) {
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

/// Reads a state file from its start; stops quietly at the first thing that is wrong.
struct FrameReader {
    input: BufReader<File>,
    ring: ObjectKeyring,
    plain: Vec<u8>,
    at: usize,
}

impl FrameReader {
    fn open(path: &Path, ring: &ObjectKeyring) -> Option<Self> {
        let input = BufReader::with_capacity(256 << 10, File::open(path).ok()?);
        Some(Self {
            input,
            ring: ring.clone(),
            plain: Vec::new(),
            at: 0,
        })
    }

    fn frame(&mut self) -> Option<Vec<u8>> {
        let mut length = [0u8; 4];
        self.input.read_exact(&mut length).ok()?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_FRAME {
            return None;
        }
        let mut sealed = vec![0; length];
        self.input.read_exact(&mut sealed).ok()?;
        self.ring.open(ObjectKind::Cache, &sealed).ok()
    }

    fn next(&mut self) -> Option<StateEntry> {
        if self.at >= self.plain.len() {
            self.plain = self.frame()?;
            self.at = 0;
        }
        let mut take = Take::new(self.plain.get(self.at..)?);
        let entry = StateEntry::decode(&mut take).ok()?;
        self.at = self.plain.len() - take.left();
        Some(entry)
    }
}

struct Peeked {
    reader: FrameReader,
    head: Option<StateEntry>,
    passed_over: bool,
}

impl Peeked {
    fn new(mut reader: FrameReader) -> Self {
        let head = reader.next();
        Self {
            reader,
            head,
            passed_over: false,
        }
    }

    /// The entry of that key, if it is there; what comes before it is passed over.
    fn seek(&mut self, key: &[u8]) -> Option<StateEntry> {
        while self
            .head
            .as_ref()
            .is_some_and(|head| head.key.as_slice() < key)
        {
            self.passed_over = true;
            self.head = self.reader.next();
        }
        if self.head.as_ref()?.key == key {
            return std::mem::replace(&mut self.head, self.reader.next());
        }
        None
    }
}

/// Reads the state of earlier runs in ascending order of key.
pub struct StateReader {
    sources: Vec<Peeked>,
    /// The snapshot that the last complete run made.
    pub parent: Option<SnapshotId>,
    /// Whether what a killed run left is among it.
    pub resumes: bool,
}

impl std::fmt::Debug for StateReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "StateReader(parent {:?}, resumes {})",
            self.parent, self.resumes
        )
    }
}

impl StateReader {
    /// Nothing is known.
    #[must_use]
    pub const fn empty() -> Self {
        Self {
            sources: Vec::new(),
            parent: None,
            resumes: false,
        }
    }

    /// Opens what there is; that may be nothing.
    #[must_use]
    pub fn open(paths: &StatePaths, ring: &ObjectKeyring) -> Self {
        paths.take_over();
        let resumed = FrameReader::open(&paths.resumed, ring);
        let resumes = resumed.is_some();
        let sources = resumed
            .into_iter()
            .chain(FrameReader::open(&paths.complete, ring));
        let sources = sources.map(Peeked::new).collect();
        Self {
            sources,
            parent: paths.read_parent(ring),
            resumes,
        }
    }

    /// What is known of the entry of that key. Keys must be asked for in ascending order.
    pub fn seek(&mut self, key: &[u8]) -> Option<StateEntry> {
        // All sources move on; the first that knows the key is the newest.
        let found: Vec<_> = self
            .sources
            .iter_mut()
            .map(|source| source.seek(key))
            .collect();
        found.into_iter().flatten().next()
    }

    /// Whether entries were passed over that nobody asked for, or are left: something is gone.
    #[must_use]
    pub fn has_passed_over(&self) -> bool {
        self.sources.iter().any(|source| source.passed_over)
    }

    /// Whether entries are left that nobody asked for.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.sources.iter().any(|source| source.head.is_some())
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
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        match options.open(&self.paths.growing) {
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
        if self.output.is_some() {
            if !self.flush() || fs::rename(&self.paths.growing, &self.paths.complete).is_err() {
                return;
            }
            let _ = fs::remove_file(&self.paths.resumed);
            let _ = fs::remove_file(&self.paths.mark);
        }
        self.paths.write_parent(&self.ring, snapshot);
    }
}

#[cfg(test)]
mod tests {
    use backup_core::RepoId;
    use proptest::prelude::*;

    use super::*;

    fn ring() -> ObjectKeyring {
        ObjectKeyring::new(RepoId([1; 16]), &[2; 32])
    }

    fn entry(n: u32, size: u64) -> StateEntry {
        let time = FileTime {
            seconds: 1,
            nanos: 2,
        };
        StateEntry {
            key: format!("{n:08}").into_bytes(),
            fingerprint: Some(Fingerprint {
                size,
                mtime: time,
                ctime: time,
                inode: 3,
            }),
            record: vec![7; 200],
            lineage: vec![8; 3],
            extents: Vec::new(),
        }
    }

    fn write_all(paths: &StatePaths, entries: &[StateEntry], snapshot: u128) {
        let mut writer = StateWriter::new(paths.clone(), ring());
        writer.differs();
        entries.iter().for_each(|entry| writer.push(entry));
        writer.finish(SnapshotId(snapshot));
    }

    #[test]
    fn what_a_run_wrote_the_next_one_reads() {
        let dir = tempfile::tempdir().unwrap();
        let paths = StatePaths::new(&dir.path().join("job"));
        let entries: Vec<_> = (0..10_000).map(|n| entry(n, 5)).collect();
        write_all(&paths, &entries, 9);
        let mut reader = StateReader::open(&paths, &ring());
        assert_eq!(
            (reader.parent, reader.resumes),
            (Some(SnapshotId(9)), false)
        );
        for wanted in entries.iter().step_by(7) {
            assert_eq!(reader.seek(&wanted.key).as_ref(), Some(wanted));
        }
        assert!(reader.has_passed_over());
        assert_eq!(reader.seek(b"zzz"), None);
    }

    #[test]
    fn a_killed_run_is_taken_up_from_its_mark() {
        let dir = tempfile::tempdir().unwrap();
        let paths = StatePaths::new(&dir.path().join("job"));
        write_all(&paths, &[entry(1, 5), entry(2, 5), entry(3, 5)], 9);
        let mut writer = StateWriter::new(paths.clone(), ring());
        writer.differs();
        writer.push(&entry(1, 6));
        writer.mark();
        writer.push(&entry(2, 6));
        drop(writer);
        let mut reader = StateReader::open(&paths, &ring());
        assert!(reader.resumes);
        assert_eq!(reader.seek(b"00000001"), Some(entry(1, 6)));
        assert_eq!(
            reader.seek(b"00000002"),
            Some(entry(2, 5)),
            "behind the mark"
        );
    }

    #[test]
    fn a_run_that_changes_late_keeps_what_was_before() {
        let dir = tempfile::tempdir().unwrap();
        let paths = StatePaths::new(&dir.path().join("job"));
        write_all(&paths, &[entry(1, 5), entry(2, 5), entry(3, 5)], 9);
        let mut writer = StateWriter::new(paths.clone(), ring());
        assert!(writer.same() && writer.same());
        writer.differs();
        assert!(!writer.same());
        writer.push(&entry(3, 6));
        writer.finish(SnapshotId(10));
        let mut reader = StateReader::open(&paths, &ring());
        assert_eq!(reader.seek(b"00000002"), Some(entry(2, 5)));
        assert_eq!(reader.seek(b"00000003"), Some(entry(3, 6)));
        assert_eq!(reader.parent, Some(SnapshotId(10)));
    }

    #[test]
    fn a_damaged_state_ends_early_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let paths = StatePaths::new(&dir.path().join("job"));
        let entries: Vec<_> = (0..10_000).map(|n| entry(n, 5)).collect();
        write_all(&paths, &entries, 9);
        let mut bytes = fs::read(&paths.complete).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&paths.complete, bytes).unwrap();
        let mut reader = StateReader::open(&paths, &ring());
        assert_eq!(reader.seek(&entries[0].key).as_ref(), Some(&entries[0]));
        assert_eq!(reader.seek(&entries[9999].key), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn whatever_a_state_file_holds_only_true_entries_are_read(
            at: prop::sample::Index, noise in prop::collection::vec(any::<u8>(), 1..40), cut: bool
        ) {
            let dir = tempfile::tempdir().unwrap();
            let paths = StatePaths::new(&dir.path().join("job"));
            let entries: Vec<_> = (0..6000).map(|n| entry(n, 5)).collect();
            write_all(&paths, &entries, 9);
            let mut bytes = fs::read(&paths.complete).unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            }
            // Over what is there, or behind where it was cut.
            let end = bytes.len().min(at + noise.len());
            bytes.splice(at..end, noise);
            fs::write(&paths.complete, &bytes).unwrap();
            let mut reader = StateReader::open(&paths, &ring());
            for wanted in &entries {
                let Some(found) = reader.seek(&wanted.key) else { break };
                prop_assert_eq!(&found, wanted);
            }
            fs::write(&paths.mark, &bytes[..bytes.len().min(8)]).unwrap();
            fs::write(&paths.parent, &bytes).unwrap();
            prop_assert_eq!(StateReader::open(&paths, &ring()).parent, None);
        }

        #[test]
        fn any_bytes_are_entries_or_refused(bytes: Vec<u8>, at: prop::sample::Index, value: u8) {
            let mut stored = Vec::new();
            entry(1, 5).encode(&mut stored);
            let at = at.index(stored.len());
            stored[at] = value;
            for bytes in [bytes, stored] {
                if let Ok(read) = StateEntry::decode(&mut Take::new(&bytes)) {
                    let mut again = Vec::new();
                    read.encode(&mut again);
                    prop_assert_eq!(StateEntry::decode(&mut Take::new(&again)).unwrap(), read);
                }
            }
        }
    }
}
