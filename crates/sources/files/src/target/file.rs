//! The content of one file that is being restored.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{EntryMeta, EntryPath, ErrorKind, PositionalWriter, TargetError};
use rustix::fs::{FallocateFlags, Mode, fallocate, fchmod, fchown, fstat};
use rustix::process::geteuid;

use super::begun::Begun;
use super::config::Holes;
use super::covered::Covered;
use super::meta::{Before, MARK_FILE};
use crate::{ALLOCATED_ATTR, ALLOCATED_PART, ALLOCATED_WHOLE};

/// Zeros that are written where no hole can be made.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Zeros that fill so much, from a multiple of it on, can be a hole.
const HOLE: usize = 4 << 10;

/// What space a file takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    /// That of what is written and is not zero.
    Data,
    /// That of what is written: what nobody wrote stays a hole.
    Written,
    /// That of its holes too, when all else is written.
    AtLast,
    /// All that it will need, before anything is written.
    AtOnce,
}

impl Space {
    pub(super) fn of(holes: Holes, meta: &EntryMeta) -> Self {
        let allocated = meta.attrs.get(ALLOCATED_ATTR).map(String::as_str);
        match holes {
            Holes::Nowhere => Self::AtOnce,
            Holes::Everywhere => Self::Data,
            Holes::AsSaved => match allocated {
                Some(ALLOCATED_WHOLE) => Self::AtLast,
                Some(ALLOCATED_PART) => Self::Data,
                _ => Self::Written,
            },
        }
    }
}

/// A regular file under its final name, open and unfinished.
///
/// Until it is finished a new file has the mode of [`super::meta::mark_of`]; one that was there before gets
/// it with the first change, and a note before that: its user may have given it that mode.
#[derive(Debug)]
pub(super) struct FileWriter {
    file: File,
    path: EntryPath,
    size: u64,
    /// What space it takes.
    space: Space,
    /// How far the file reaches now.
    reach: AtomicU64,
    marked: AtomicBool,
    /// The mode that says that it is unfinished.
    mark: u32,
    /// Where it is noted that it is unfinished, if it was there before.
    begun: Option<Arc<Begun>>,
    /// Whether it belongs to somebody else until it is marked.
    takes: bool,
    /// What was settled of a file that was there before; `None` for a new one.
    covered: Option<Mutex<Covered>>,
    before: Before,
}

impl FileWriter {
    /// A new, empty file that is marked as unfinished.
    pub(super) fn fresh(
        file: File,
        path: EntryPath,
        (size, space): (u64, Space),
        before: Before,
    ) -> Self {
        Self {
            file,
            path,
            size,
            space,
            reach: AtomicU64::new(0),
            marked: AtomicBool::new(true),
            mark: MARK_FILE,
            begun: None,
            takes: false,
            covered: None,
            before,
        }
    }

    /// A file that holds `reach` bytes already, some of which may be right, and may be marked as
    /// unfinished already.
    pub(super) fn existing(
        file: File,
        path: EntryPath,
        (size, space, before): (u64, Space, Before),
        (reach, marked, mark): (u64, bool, u32),
        (begun, takes): (Option<Arc<Begun>>, bool),
    ) -> Result<Self, TargetError> {
        let writer = Self {
            file,
            path,
            size,
            space,
            reach: AtomicU64::new(reach.min(size)),
            marked: AtomicBool::new(marked),
            mark,
            begun,
            takes,
            covered: Some(Mutex::default()),
            before,
        };
        if reach > size {
            writer.mark()?;
            writer
                .file
                .set_len(size)
                .map_err(|cause| writer.error("shorten", cause))?;
        }
        Ok(writer)
    }

    /// Takes all the space that the file will need.
    pub(super) fn allocate(&self) -> Result<(), TargetError> {
        if self.size == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, self.size) {
            // Not every file system can; then space is taken as the data comes.
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(cause) => Err(self.error("allocate", cause.into())),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn before(&self) -> Before {
        self.before
    }

    /// Makes the file as long as it should be and what nobody settled zero. Returns whether
    /// anything of the file was changed.
    pub(super) fn complete(&self) -> Result<bool, TargetError> {
        if let Some(covered) = &self.covered {
            let reach = self.reach.load(Ordering::Acquire);
            let gaps = covered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .gaps(reach);
            for gap in gaps {
                self.clear(gap)?;
            }
        }
        if self.reach.load(Ordering::Acquire) < self.size {
            self.mark()?;
            self.file
                .set_len(self.size)
                .map_err(|cause| self.error("extend", cause))?;
        }
        let is_changed = self.covered.is_none() || self.marked.load(Ordering::Acquire);
        if is_changed && matches!(self.space, Space::AtLast | Space::AtOnce) {
            self.fill()?;
        }
        Ok(is_changed)
    }

    /// Takes the space of holes, if there are any.
    fn fill(&self) -> Result<(), TargetError> {
        let stat = fstat(&self.file).map_err(|cause| self.error("look at", cause.into()))?;
        let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
        match blocks.saturating_mul(512) < self.size {
            true => self.allocate(),
            false => Ok(()),
        }
    }

    /// Makes a range read as zeros, if it does not already.
    fn clear(&self, range: Range<u64>) -> Result<(), TargetError> {
        let mut buffer = vec![0; ZEROS.len()];
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let part = buffer.get_mut(..wanted).unwrap_or_default();
            let read =
                read_full(&self.file, at, part).map_err(|cause| self.error("read", cause))?;
            if part
                .get(..read)
                .is_some_and(|part| part.iter().any(|&byte| byte != 0))
            {
                break;
            }
            at += u64::try_from(wanted).unwrap_or(u64::MAX);
        }
        if at >= range.end {
            return Ok(());
        }
        self.mark()?;
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if fallocate(&self.file, hole, at, range.end - at).is_ok() {
            return Ok(());
        }
        while at < range.end {
            let wanted = usize::try_from(range.end - at)
                .unwrap_or(usize::MAX)
                .min(ZEROS.len());
            let zeros = ZEROS.get(..wanted).unwrap_or_default();
            self.file
                .write_all_at(zeros, at)
                .map_err(|cause| self.error("write", cause))?;
            at += u64::try_from(wanted).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Marks the file as unfinished, once.
    fn mark(&self) -> Result<(), TargetError> {
        if self.marked.load(Ordering::Acquire) {
            return Ok(());
        }
        let fail = |cause: io::Error| self.error("write", cause);
        let mut has_modes = true;
        if let Some(begun) = &self.begun {
            let stat = fstat(&self.file).map_err(|cause| fail(cause.into()))?;
            has_modes = !begun.has_no_marks(&stat);
            begun.note_in_place(&self.path, &stat).map_err(fail)?;
        }
        if self.takes {
            fchown(&self.file, Some(geteuid()), None).map_err(|cause| fail(cause.into()))?;
        }
        match fchmod(&self.file, Mode::from_raw_mode(self.mark)) {
            Err(cause) if has_modes => return Err(fail(cause.into())),
            _ => {}
        }
        self.marked.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn error(&self, op: &'static str, cause: io::Error) -> TargetError {
        TargetError::io(op, self.path.to_string(), cause)
    }

    fn put(&self, offset: u64, bytes: &[u8], end: u64) -> Result<(), TargetError> {
        self.mark()?;
        self.file
            .write_all_at(bytes, offset)
            .map_err(|cause| self.error("write", cause))?;
        self.reach.fetch_max(end, Ordering::AcqRel);
        self.settle(offset..end);
        Ok(())
    }

    fn settle(&self, range: Range<u64>) {
        if let Some(covered) = &self.covered {
            covered
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(range);
        }
    }
}

impl PositionalWriter for FileWriter {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let end = u64::try_from(bytes.len())
            .ok()
            .and_then(|length| offset.checked_add(length));
        let Some(end) = end.filter(|&end| end <= self.size) else {
            let why = format!("bytes at {offset} reach beyond its size of {}", self.size);
            return Err(
                TargetError::new(ErrorKind::Invalid, "write", self.path.to_string()).because(why),
            );
        };
        if self.space != Space::Data {
            return self.put(offset, bytes, end);
        }
        // What is not settled reads as zeros in the end.
        for run in data_in(offset, bytes) {
            let at = offset + run.start as u64;
            let end = offset + run.end as u64;
            self.put(at, bytes.get(run).unwrap_or_default(), end)?;
        }
        Ok(())
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        read_full(&self.file, offset, buffer).map_err(|cause| self.error("read", cause))
    }

    fn keep(&self, range: Range<u64>) {
        self.settle(range);
    }

    fn had_content(&self) -> bool {
        self.covered.is_some()
    }
}

/// The parts of bytes that go to an offset which are not blocks of zeros.
fn data_in(offset: u64, bytes: &[u8]) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    // Blocks begin where those of the file do.
    let mut room = HOLE - usize::try_from(offset % HOLE as u64).unwrap_or(0);
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let block = rest.get(..room).unwrap_or(rest);
        let end = at + block.len();
        if block.iter().any(|&byte| byte != 0) {
            match runs.last_mut().filter(|run| run.end == at) {
                Some(run) => run.end = end,
                None => runs.push(at..end),
            }
        }
        (at, room) = (end, HOLE);
    }
    runs
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &File, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while let Some(rest) = buffer.get_mut(done..).filter(|rest| !rest.is_empty()) {
        let at = offset.saturating_add(u64::try_from(done).unwrap_or(u64::MAX));
        match file.read_at(rest, at) {
            Ok(0) => break,
            Ok(read) => done += read,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(done)
}
