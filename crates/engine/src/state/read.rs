//! Reading the states of earlier runs side by side: the newest that knows an entry counts.

use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::Path;

use backup_core::SnapshotId;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_format::wire::Take;

use super::{StateEntry, StatePaths};

/// Largest sealed frame that is read.
const MAX_FRAME: usize = 64 << 20;

/// Reads a state file from its start; stops quietly at the first thing that is wrong.
pub(super) struct FrameReader {
    input: BufReader<File>,
    ring: ObjectKeyring,
    plain: Vec<u8>,
    at: usize,
}

impl FrameReader {
    pub(super) fn open(path: &Path, ring: &ObjectKeyring) -> Option<Self> {
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

    pub(super) fn next(&mut self) -> Option<StateEntry> {
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

/// What the state knows of one entry.
#[derive(Debug, Default)]
pub struct Known {
    /// From a run that was killed: newer than the last snapshot.
    pub resumed: Option<StateEntry>,
    /// From the last complete run: as its snapshot has it.
    pub complete: Option<StateEntry>,
}

impl Known {
    /// The newest that is known.
    #[must_use]
    pub fn newest(self) -> Option<StateEntry> {
        self.resumed.or(self.complete)
    }
}

/// Reads the state of earlier runs in ascending order of key.
pub struct StateReader {
    resumed: Option<Peeked>,
    complete: Option<Peeked>,
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
            resumed: None,
            complete: None,
            parent: None,
            resumes: false,
        }
    }

    /// Opens what there is; that may be nothing.
    #[must_use]
    pub fn open(paths: &StatePaths, ring: &ObjectKeyring) -> Self {
        paths.take_over();
        let before = paths.parent(ring);
        let open = |path| FrameReader::open(path, ring).map(Peeked::new);
        let (resumed, complete) = (open(&paths.resumed), open(&paths.complete));
        // Another run may put its own state there at this very moment: it names itself last.
        let parent = before.filter(|before| paths.parent(ring) == Some(*before));
        Self {
            resumes: resumed.is_some(),
            resumed,
            complete,
            parent,
        }
    }

    fn sources(&self) -> impl Iterator<Item = &Peeked> {
        self.resumed.iter().chain(&self.complete)
    }

    /// What is known of the entry of that key. Keys must be asked for in ascending order.
    pub fn seek(&mut self, key: &[u8]) -> Known {
        // Both move on.
        Known {
            resumed: self.resumed.as_mut().and_then(|source| source.seek(key)),
            complete: self.complete.as_mut().and_then(|source| source.seek(key)),
        }
    }

    /// Whether entries were passed over that nobody asked for, or are left: something is gone.
    #[must_use]
    pub fn has_passed_over(&self) -> bool {
        self.sources().any(|source| source.passed_over)
    }

    /// Whether entries are left that nobody asked for.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.sources().any(|source| source.head.is_some())
    }
}
