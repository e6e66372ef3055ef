//! A host's own copy of a ledger, in a file: what the chain cannot tell by itself, that its end was
//! cut off or that it was made anew, the copy tells.
//!
//! Several processes of a host may add to it at once: each holds an exclusive lock (`flock`) while it
//! looks which lines are new and writes them, and what is added is durable before the lock is let go. A
//! process that is killed leaves at most a line without an end, which the next one cuts off: the ledger
//! itself has the record.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::lines::{Lines, RawLine};
use super::record::{LedgerHead, Line, MAX_LINE_BYTES};

/// Tries for the lock, each after a pause of [`LOCK_PAUSE`]: ten seconds in all.
const LOCK_TRIES: u32 = 2000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// What is read at the end of the file: some lines of the greatest length, hundreds of usual ones.
const TAIL_BYTES: u64 = 4 * (MAX_LINE_BYTES as u64 + 1);

/// The copy of a ledger at a path. Holds nothing open between calls.
#[derive(Debug, Clone)]
pub struct LedgerCopy {
    path: PathBuf,
}

impl LedgerCopy {
    /// The copy at a path. Does no I/O: the first line makes the file (mode 0600) and its folder (0700).
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last record that can be read; `None` when there is none.
    ///
    /// # Errors
    /// What the system says.
    pub fn last(&self) -> io::Result<Option<LedgerHead>> {
        match File::open(&self.path) {
            Ok(mut file) => last_of(&mut file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The lines that stand in the file now; `None` when there is no file.
    ///
    /// # Errors
    /// What the system says.
    pub fn lines(&self) -> io::Result<Option<Lines>> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // A writer that is half-way through a line is waited for.
        lock(&file, FlockOperation::NonBlockingLockShared)?;
        let length = file.metadata()?.len();
        lock(&file, FlockOperation::Unlock)?;
        Ok(Some(Lines::new(file, length)))
    }

    /// Adds those of the lines, which ascend, that continue what is there, and makes them durable.
    ///
    /// # Errors
    /// What the system says; then none of them counts.
    pub fn extend<'a>(&self, lines: impl IntoIterator<Item = &'a Line>) -> io::Result<()> {
        let mut file = self.open_or_make()?;
        lock(&file, FlockOperation::NonBlockingLockExclusive)?;
        let last = last_of(&mut file)?.map_or(0, |head| head.seq);
        let mut news = Vec::new();
        for line in lines.into_iter().filter(|line| line.head().seq > last) {
            news.extend_from_slice(line.as_bytes());
            news.push(b'\n');
        }
        if news.is_empty() {
            return Ok(());
        }
        let whole = end_of_lines(&mut file)?;
        let mut added = || {
            file.set_len(whole)?;
            file.write_all(&news)?;
            file.sync_data()
        };
        added().inspect_err(|_| {
            // Best effort: a beginning of a line that stays is cut off by whoever adds the next.
            let _ = file.set_len(whole);
        })
    }

    /// Begins the copy anew, beside the one that is there.
    ///
    /// # Errors
    /// What the system says.
    pub fn begin_anew(&self) -> io::Result<FreshCopy> {
        let path = self.path.with_extension("new");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let file = io::BufWriter::new(options.open(&path)?);
        let target = self.path.clone();
        Ok(FreshCopy { path, file, target })
    }

    fn open_or_make(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o600);
        match options.open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let folder = self.path.parent().unwrap_or_else(|| Path::new("."));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let file = options.create(true).open(&self.path)?;
        // Without this a power loss could take the name of a file whose content is durable.
        File::open(folder)?.sync_all()?;
        Ok(file)
    }
}

/// A copy that is being written and takes the place of another when it is whole.
#[derive(Debug)]
pub struct FreshCopy {
    path: PathBuf,
    file: io::BufWriter<File>,
    target: PathBuf,
}

impl FreshCopy {
    /// Adds a line.
    ///
    /// # Errors
    /// What the system says.
    pub fn add(&mut self, line: &Line) -> io::Result<()> {
        self.file.write_all(line.as_bytes())?;
        self.file.write_all(b"\n")
    }

    /// Puts it in the place of the one that was there, which is kept beside it as `….damaged`. What another process
    /// added to that meanwhile lies on the tier.
    ///
    /// # Errors
    /// What the system says: then the old one is there.
    pub fn put(self) -> io::Result<()> {
        let aside = self.target.with_extension("damaged");
        match std::fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        std::fs::hard_link(&self.target, &aside)?;
        self.replace()
    }

    /// The same, but the one that was there is kept as `….old-<n>`, with the next number that is free: what it says is
    /// to be had from nowhere else. Says where that is.
    ///
    /// # Errors
    /// What the system says: then the old one is there.
    pub fn put_beside(self) -> io::Result<PathBuf> {
        let mut number = 1u32;
        let aside = loop {
            let mut name = self.target.clone().into_os_string();
            name.push(format!(".old-{number}"));
            let aside = PathBuf::from(name);
            match std::fs::hard_link(&self.target, &aside) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(error),
                Ok(()) => break aside,
            }
        };
        self.replace()?;
        Ok(aside)
    }

    fn replace(self) -> io::Result<()> {
        let file = self
            .file
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        std::fs::rename(&self.path, &self.target)?;
        let folder = self.target.parent().unwrap_or_else(|| Path::new("."));
        File::open(folder)?.sync_all()
    }
}

fn lock(file: &File, how: FlockOperation) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match flock(file, how) {
            Err(Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::INTR) => {}
            // On a file system that knows no locks, two processes at once may add a line twice.
            Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "another process has it locked and does not let go",
    ))
}

/// The last bytes of a file, and where they begin.
fn tail(file: &mut File) -> io::Result<(u64, Vec<u8>)> {
    let length = file.metadata()?.len();
    let start = length.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.take(length - start).read_to_end(&mut bytes)?;
    Ok((start, bytes))
}

/// The last record that can be read: in the end of the file, or else, where that is damaged, in all of it.
fn last_of(file: &mut File) -> io::Result<Option<LedgerHead>> {
    let (start, bytes) = tail(file)?;
    let parse = |line: &[u8]| Line::parse(line).ok().map(|line| line.head());
    // What stands behind the last line end was not written whole.
    let lines = bytes.rsplit(|byte| *byte == b'\n').skip(1);
    let last = lines.filter_map(parse).max_by_key(|head| head.seq);
    if last.is_some() || start == 0 {
        return Ok(last);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut lines = Lines::new(file.try_clone()?, start);
    let mut last: Option<LedgerHead> = None;
    while let Some(line) = lines.next_line()? {
        if let RawLine::Whole(line) = line
            && let Some(head) = parse(line)
        {
            last = last.filter(|last| last.seq > head.seq).or(Some(head));
        }
    }
    Ok(last)
}

/// Where the last line that has an end ends.
fn end_of_lines(file: &mut File) -> io::Result<u64> {
    let (start, bytes) = tail(file)?;
    let end = bytes.iter().rposition(|byte| *byte == b'\n');
    // No end in so many bytes: that is no torn line, and what it is is not for a writer to judge.
    let none = if start == 0 { 0 } else { bytes.len() };
    Ok(start + end.map_or(none, |end| end + 1) as u64)
}
