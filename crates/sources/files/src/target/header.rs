//! The lines at the start of the file of an unfinished restore, and the times of a file system.
//!
//! The lines have one length each, so that one is written over without the others.

use std::ffi::CStr;
use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use rustix::fs::{
    AtFlags, FlockOperation, Stat, Statx, StatxFlags, Timespec, Timestamps, UTIME_NOW, flock,
    fstat, futimens, statx,
};
use rustix::io::Errno;

use super::doubt::{Finished, Span};
use super::journal::{self, LINE};

/// A time of a file system: seconds and nanoseconds.
pub(super) type Moment = (i64, u64);

/// The bytes of the lines: five times, a token, whether a restore made the folder, whether notes were lost,
/// the mount, and where the notes begin.
pub(super) const HEADER: usize = 10 * LINE;

/// What stands for a mount that is not known, or for several.
const NO_MOUNT: &str = "-";

/// What the lines say.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// Since when the file is there.
    pub(super) since: Moment,
    /// In what time files were finished.
    pub(super) finished: Finished,
    pub(super) token: u64,
    pub(super) made: bool,
    /// Whether what an earlier restore kept here was lost.
    pub(super) lost: bool,
    /// On which mount everything is, if it is on one.
    pub(super) mount: Option<String>,
    /// Where the notes begin.
    pub(super) notes: u64,
}

impl Header {
    /// Writes all lines.
    pub(super) fn write(&self, file: &File) -> io::Result<()> {
        let mut lines = time("since", self.since) + &times(&self.finished);
        lines += &line("token", &self.token.to_string());
        lines += &line("made", &u8::from(self.made).to_string());
        lines += &line("lost", &u8::from(self.lost).to_string());
        lines += &line("mount", self.mount.as_deref().unwrap_or(NO_MOUNT));
        lines += &journal::line(self.notes);
        file.write_all_at(lines.as_bytes(), 0)
    }

    /// Reads them; nothing if they are not there as they should be.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, 0).ok()?;
        let mut lines = header.chunks(LINE);
        let mut next = |word| rest(lines.next()?, word);
        let since = moment(next("since ")?)?;
        let mut span = |from, until| {
            let from = moment(next(from)?)?;
            let until = moment(next(until)?)?;
            Some(Span { from, until })
        };
        let now = span("safe  ", "until ")?;
        let doubtful = span("doubt ", "to    ")?;
        let token = next("token ")?.parse().ok()?;
        let made = next("made  ")? == "1";
        let lost = next("lost  ")? == "1";
        let mount = next("mount ").map(str::to_owned)?;
        let length = file.metadata().ok()?.len();
        let is_there = |notes: &u64| (HEADER as u64..=length).contains(notes);
        let notes = journal::read_line(lines.next()?).filter(is_there)?;
        Some(Self {
            since,
            finished: Finished { now, doubtful },
            token,
            made,
            lost,
            mount: Some(mount).filter(|mount| mount != NO_MOUNT),
            notes,
        })
    }

    /// Writes the times anew in which files were finished.
    pub(super) fn write_finished(finished: &Finished, file: &File) -> io::Result<()> {
        file.write_all_at(times(finished).as_bytes(), LINE as u64)
    }

    /// Writes anew that there is no mount on which everything is.
    pub(super) fn write_no_mount(file: &File) -> io::Result<()> {
        file.write_all_at(line("mount", NO_MOUNT).as_bytes(), 8 * LINE as u64)
    }
}

fn line(word: &str, value: &str) -> String {
    format!("{word:<5} {value:>31}\n")
}

fn time(word: &str, (seconds, nanos): Moment) -> String {
    line(word, &format!("{seconds}.{nanos:09}"))
}

fn times(finished: &Finished) -> String {
    let Finished { now, doubtful } = finished;
    time("safe", now.from)
        + &time("until", now.until)
        + &time("doubt", doubtful.from)
        + &time("to", doubtful.until)
}

fn moment(text: &str) -> Option<Moment> {
    let (seconds, nanos) = text.split_once('.')?;
    Some((seconds.parse().ok()?, nanos.parse().ok()?))
}

/// What a line says that begins with a word.
fn rest<'a>(line: &'a [u8], word: &str) -> Option<&'a str> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    Some(line.strip_prefix(word)?.trim_start())
}

/// Whether a file that lacks the lines of ours may have been one before a power loss or a full disk:
/// else it is somebody's who chose the same name.
pub(super) fn may_be_torn(file: &File) -> io::Result<bool> {
    const FIRST: &[u8] = b"since ";
    let mut found = [0; FIRST.len()];
    let count = file.read_at(&mut found, 0)?;
    let found = found.get(..count).unwrap_or_default();
    Ok(FIRST.starts_with(found) || found.iter().all(|byte| *byte == 0))
}

/// 48 bits that no other restore has.
pub(super) fn token() -> u64 {
    (std::hash::RandomState::new().build_hasher().finish() >> 16).max(1)
}

/// Locks the file. A process that this one is about to start holds a copy of the lock of one that has
/// just ended, until it is another program: so it is tried for a moment.
pub(super) fn lock(file: &OwnedFd) -> io::Result<()> {
    const TRIES: u32 = 20;
    for number in 1..=TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            // Not every network file system has locks.
            Ok(()) | Err(Errno::NOLCK | Errno::NOTSUP | Errno::INVAL | Errno::NOSYS) => break,
            Err(Errno::WOULDBLOCK) if number < TRIES => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

/// Changes the times of a file to now, as the file system counts it; says what that is.
pub(super) fn now(file: impl AsFd) -> io::Result<Moment> {
    let file = file.as_fd();
    let touched = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_NOW,
    };
    let times = Timestamps {
        last_access: touched,
        last_modification: touched,
    };
    futimens(file, &times)?;
    let stat = fstat(file)?;
    Ok((stat.st_ctime, stat.st_ctime_nsec))
}

/// When a file was made, where the file system keeps that: nobody can set it, and nothing that is done to
/// the file changes it.
pub(super) fn birth(file: impl AsFd) -> Option<Moment> {
    let found = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BTIME).ok()?;
    birth_in(&found)
}

/// The same of what stands under a name, if it is what was seen there.
pub(super) fn birth_at(folder: impl AsFd, name: &CStr, seen: &Stat) -> Option<Moment> {
    let wanted = StatxFlags::BTIME | StatxFlags::INO;
    let found = statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, wanted).ok()?;
    birth_in(&found).filter(|_| found.stx_ino == seen.st_ino)
}

fn birth_in(found: &Statx) -> Option<Moment> {
    let has_time = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    has_time.then_some((found.stx_btime.tv_sec, u64::from(found.stx_btime.tv_nsec)))
}

/// A time that is later than any until now. File systems count it in steps of some milliseconds, or of up
/// to two seconds: those have no nanoseconds.
pub(super) fn next_moment(file: &File) -> io::Result<Moment> {
    let first = now(file)?;
    let longest = if first.1 == 0 { 1100 } else { 20 };
    for _ in 0..longest {
        std::thread::sleep(Duration::from_millis(2));
        let next = now(file)?;
        if next > first {
            return Ok(next);
        }
    }
    Ok(first)
}
