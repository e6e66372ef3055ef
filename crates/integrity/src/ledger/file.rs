//! The ledger as a file: appended to by several processes at once, each record durable before
//! [`LedgerFile::append`] returns.
//!
//! A writer holds an exclusive lock (`flock`) from reading the last line until its own is
//! synchronised. A writer that is killed leaves at most a line without an end; the next one moves
//! those bytes to `<file>.torn`, says so in its record's note, and goes on after the last whole
//! line.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

use super::LedgerError;
use super::lines::{Lines, RawLine};
use super::record::{Draft, LedgerHead, Line, MAX_LINE_BYTES, append};
use super::report::LedgerReport;
use super::verify::{Expect, LedgerKeys, LedgerVerifier};
use crate::sign::HmacKey;

/// Tries for the lock, each after a pause of [`LOCK_PAUSE`]: 30 seconds in all.
const LOCK_TRIES: u32 = 6000;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// The last line, a torn one after it, and their newlines.
const TAIL_BYTES: u64 = 2 * (MAX_LINE_BYTES as u64 + 1);
/// How every line begins.
const LEAD: &[u8] = b"{\"v\":";

/// A ledger in a file. Holds nothing open between calls.
#[derive(Debug, Clone)]
pub struct LedgerFile {
    path: PathBuf,
}

/// Bytes of a line that was not written to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// How many.
    pub bytes: u64,
    /// The file that they were moved to.
    pub moved_to: PathBuf,
}

/// A record that is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The record.
    pub line: Line,
    /// What an earlier writer left unfinished, if anything.
    pub torn: Option<TornTail>,
}

/// The end of a file: its last whole line and what follows it.
struct Tail {
    line: Option<Line>,
    torn: Vec<u8>,
}

impl LedgerFile {
    /// The ledger at a path. Does no I/O: the first append makes the file, with mode 0600.
    pub fn open(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record and makes it durable. Reads only the end of the file, however long it is.
    /// Waits for other writers; blocks the thread.
    ///
    /// # Errors
    /// [`LedgerError`]; then the record does not stand in the ledger (or, if the file system
    /// failed while synchronising, perhaps it does: then verify).
    pub fn append(&self, mut draft: Draft, key: &HmacKey) -> Result<Appended, LedgerError> {
        let file = self.lock_for_writing()?;
        let length = self.length(&file)?;
        let tail = self.tail(&file, length)?;
        let whole = length.saturating_sub(tail.torn.len() as u64);
        let torn = if tail.torn.is_empty() {
            None
        } else {
            let torn = self.set_aside(&file, &tail.torn, whole)?;
            let name = torn
                .moved_to
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let said = format!("{} bytes of an unfinished line moved to {name}", torn.bytes);
            draft.note = Some(match draft.note {
                Some(note) => format!("{note}; {said}"),
                None => said,
            });
            Some(torn)
        };
        let line = append(tail.line.as_ref().map(Line::head).as_ref(), draft, key)?;
        let bytes = [line.as_bytes(), b"\n"].concat();
        if let Err(cause) = (&file).write_all(&bytes).and_then(|()| file.sync_data()) {
            // Best effort: whatever stays behind, the next append sets aside.
            let _ = file.set_len(whole);
            return Err(LedgerError::io("append to", &self.path, cause));
        }
        Ok(Appended { line, torn })
    }

    /// The last record's number and hash; `None` when there is none yet.
    ///
    /// # Errors
    /// [`LedgerError`] when the file or its last line cannot be read.
    pub fn head(&self) -> Result<Option<LedgerHead>, LedgerError> {
        let Some((file, length)) = self.open_for_reading()? else {
            return Ok(None);
        };
        Ok(self.tail(&file, length)?.line.as_ref().map(Line::head))
    }

    /// The lines that stand in the file now; `None` when there is no file.
    ///
    /// # Errors
    /// [`LedgerError`] when the file cannot be opened.
    pub fn lines(&self) -> Result<Option<Lines>, LedgerError> {
        Ok(self
            .open_for_reading()?
            .map(|(file, length)| Lines::new(file, length)))
    }

    /// Checks the whole file, holding one line at a time. A file that is not there is checked as
    /// an empty one.
    ///
    /// # Errors
    /// [`LedgerError`] when the file cannot be read; what is wrong with the ledger stands in the
    /// report.
    pub fn verify(
        &self,
        keys: LedgerKeys<'_>,
        expect: Expect,
    ) -> Result<LedgerReport, LedgerError> {
        let mut verifier = LedgerVerifier::new(keys, expect);
        if let Some(mut lines) = self.lines()? {
            let failed = |cause| LedgerError::io("read", &self.path, cause);
            while let Some(line) = lines.next_line().map_err(failed)? {
                match line {
                    RawLine::Whole(line) => verifier.push(line),
                    RawLine::Torn(bytes) => verifier.torn(bytes),
                }
            }
        }
        Ok(verifier.finish())
    }

    /// Opens, making it if need be, and locks. If the file was replaced meanwhile, starts over:
    /// the lock must be on the file that has the name.
    fn lock_for_writing(&self) -> Result<File, LedgerError> {
        loop {
            let file = self.open_or_make()?;
            self.wait_for(&file, FlockOperation::NonBlockingLockExclusive)?;
            let held = file
                .metadata()
                .map_err(|cause| LedgerError::io("open", &self.path, cause))?;
            match std::fs::metadata(&self.path) {
                Ok(named) if (named.dev(), named.ino()) == (held.dev(), held.ino()) => {
                    return Ok(file);
                }
                Ok(_) => {}
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(LedgerError::io("open", &self.path, cause)),
            }
        }
    }

    fn open_or_make(&self) -> Result<File, LedgerError> {
        let failed = |cause| LedgerError::io("open", &self.path, cause);
        let mut options = OpenOptions::new();
        options.read(true).append(true);
        match options.open(&self.path) {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            other => return other.map_err(failed),
        }
        let file = options
            .create(true)
            .mode(0o600)
            .open(&self.path)
            .map_err(failed)?;
        let folder = match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Without this a power loss could take the name of a file whose content is durable.
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(file)
    }

    /// Opens for reading as of now: the length is taken under a shared lock, when no writer is
    /// half-way through a line.
    fn open_for_reading(&self) -> Result<Option<(File, u64)>, LedgerError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(LedgerError::io("open", &self.path, cause)),
        };
        self.wait_for(&file, FlockOperation::NonBlockingLockShared)?;
        let length = self.length(&file)?;
        flock(&file, FlockOperation::Unlock)
            .map_err(|cause| LedgerError::io("unlock", &self.path, cause))?;
        Ok(Some((file, length)))
    }

    fn wait_for(&self, file: &File, how: FlockOperation) -> Result<(), LedgerError> {
        for _ in 0..LOCK_TRIES {
            match flock(file, how) {
                Ok(()) => return Ok(()),
                Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_PAUSE),
                Err(rustix::io::Errno::INTR) => {}
                Err(cause) => return Err(LedgerError::io("lock", &self.path, cause)),
            }
        }
        Err(LedgerError::Locked(self.path.clone()))
    }

    fn length(&self, file: &File) -> Result<u64, LedgerError> {
        let meta = file
            .metadata()
            .map_err(|cause| LedgerError::io("read", &self.path, cause))?;
        if !meta.is_file() {
            return Err(LedgerError::NotALedger(self.path.clone()));
        }
        Ok(meta.len())
    }

    fn tail(&self, file: &File, length: u64) -> Result<Tail, LedgerError> {
        let not_a_ledger = || LedgerError::NotALedger(self.path.clone());
        let size = length.min(TAIL_BYTES);
        let mut bytes = vec![0u8; usize::try_from(size).unwrap_or(0)];
        file.read_exact_at(&mut bytes, length - size)
            .map_err(|cause| LedgerError::io("read", &self.path, cause))?;
        let Some(end) = bytes.iter().rposition(|&byte| byte == b'\n') else {
            // No whole line at all: a first record that was cut off, or some other file.
            let ours = bytes.iter().zip(LEAD).all(|(byte, lead)| byte == lead);
            let blank = bytes.iter().all(|&byte| byte == 0);
            if size < length || !(ours || blank) {
                return Err(not_a_ledger());
            }
            return Ok(Tail {
                line: None,
                torn: bytes,
            });
        };
        let torn = bytes.split_off(end + 1);
        bytes.pop();
        let start = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |at| at + 1);
        let line = bytes.get(start..).unwrap_or(&[]);
        match Line::parse(line) {
            Ok(line) => Ok(Tail {
                line: Some(line),
                torn,
            }),
            Err(_) if !line.starts_with(LEAD) && start == 0 => Err(not_a_ledger()),
            Err(cause) => Err(LedgerError::Tail {
                path: self.path.clone(),
                cause,
            }),
        }
    }

    /// Moves the bytes of an unfinished line out of the way: first they are durable elsewhere,
    /// then they are cut off.
    fn set_aside(&self, file: &File, torn: &[u8], whole: u64) -> Result<TornTail, LedgerError> {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(".torn");
        let moved_to = PathBuf::from(name);
        let save = || -> io::Result<()> {
            let mut aside = OpenOptions::new()
                .append(true)
                .create(true)
                .mode(0o600)
                .open(&moved_to)?;
            aside.write_all(&[torn, b"\n"].concat())?;
            aside.sync_all()
        };
        save().map_err(|cause| LedgerError::io("set bytes aside from", &self.path, cause))?;
        file.set_len(whole)
            .and_then(|()| file.sync_all())
            .map_err(|cause| LedgerError::io("repair", &self.path, cause))?;
        Ok(TornTail {
            bytes: torn.len() as u64,
            moved_to,
        })
    }
}
