//! What an earlier restore into a folder left unfinished, and what is safe of it.
//!
//! A restore begins by making a file of a fixed name in its folder, and removes it when nothing is
//! left unfinished. It locks that file, so that two restores do not take up each other's work, and
//! keeps in it
//!
//! - since when it is there. The mode of [`super::meta::MARK_FILE`] alone would not tell unfinished
//!   files, since a user may give it to a file, too. It counts only on what the one who restores
//!   owns and what was changed since: the time of an inode's change is set by the kernel and by
//!   nobody else. So no entry costs anything, and no attribute is needed;
//! - up to when what it finished is on the disk. After a power loss later files may be empty although
//!   they have their mode and time: they are compared;
//! - a token that is in the names of all that it makes beside others, so that they are known although
//!   a power loss took the notes;
//! - which files it made beside those whose place they are to take, to be taken up or removed (see
//!   [`super::journal`]).
//!
//! The folder of the restore itself is changed by the making of that file, so its own mode and time
//! say nothing: whether a restore made it is kept in the mode of the file.

use std::fs::File;
use std::hash::{BuildHasher as _, Hasher as _};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use backup_core::EntryPath;
use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, Stat, StatxFlags, Timespec, Timestamps,
    UTIME_NOW, UTIME_OMIT, fchmod, flock, fstat, fsync, futimens, openat, statx, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::journal::{self, Journal, LINE, Left, Stage};
use super::meta::{MARK_DIR, MARK_FILE};
use crate::walk::listing::Listing;

/// The name of the file that says that a restore into its folder is not finished.
pub(crate) const NAME: &std::ffi::CStr = c".backstay-unfinished";

/// A time of a file system: seconds and nanoseconds.
type Moment = (i64, u64);

/// The bytes of the lines at the start of the file: two times, a token, and where the notes begin.
const HEADER: usize = 4 * LINE;

/// Since when a restore into a folder has been under way.
#[derive(Debug)]
pub(super) struct Begun {
    since: Moment,
    /// What an earlier restore finished before this is on the disk; `None`: there was no earlier one.
    safe: Option<Moment>,
    /// When this restore began.
    began: Moment,
    /// Whether a restore made the folder and has not finished it.
    made: bool,
    /// The file; it could not be made where there is none. Then nothing can be taken up, and nothing
    /// is to be removed.
    file: Option<File>,
    notes: Journal,
    /// What the names of all have in common that this restore makes beside others. Nobody knows it
    /// before, so no entry of a snapshot has such a name, and nothing that was there.
    token: u64,
    /// That of the last restore before it.
    last: Option<u64>,
}

impl Begun {
    /// Takes up the restore that a file in the folder tells of, or makes that file, which keeps
    /// whether the folder was `made` just before.
    ///
    /// # Errors
    /// When something else stands under the name, the file cannot be made, or another restore is
    /// under way there ([`io::ErrorKind::WouldBlock`]).
    pub(super) fn at(top: &OwnedFd, made: bool, sync: bool) -> io::Result<Self> {
        let before = fstat(top)?;
        let made = made || is_new(top, &before)?;
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mode = if made { MARK_FILE } else { 0o600 };
        let create = flags | OFlags::CREATE | OFlags::EXCL;
        let (file, is_new) = match openat(top, NAME, create, Mode::from_raw_mode(mode)) {
            Ok(file) => {
                // A default ACL of the folder may have taken something from its owner.
                fchmod(&file, Mode::from_raw_mode(mode))?;
                keep_time(top, &before)?;
                (file, true)
            }
            Err(Errno::EXIST) => {
                let there = openat(top, NAME, flags, Mode::empty());
                (there.map_err(|_| something_else())?, false)
            }
            Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOSPC | Errno::DQUOT) => {
                let now = (before.st_ctime, before.st_ctime_nsec);
                return Ok(Self {
                    since: now,
                    safe: None,
                    began: now,
                    made,
                    file: None,
                    notes: Journal::new(HEADER as u64),
                    token: token(),
                    last: None,
                });
            }
            Err(cause) => return Err(cause.into()),
        };
        let stat = fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || !is_own(&stat) {
            return Err(something_else());
        }
        lock(&file)?;
        let file = File::from(file);
        let mut begun = Self {
            since: (stat.st_mtime, stat.st_mtime_nsec),
            safe: None,
            began: (stat.st_mtime, stat.st_mtime_nsec),
            // A folder that has another mode by now was finished, or its owner gave it that.
            made: made || has_mark(&stat) && has_mark(&before),
            file: None,
            notes: Journal::new(HEADER as u64),
            token: token(),
            last: None,
        };
        if is_new {
            // On a full disk it stays empty; then the time when it was made counts.
            let _ = write_header(&file, begun.since, begun.token);
            if sync {
                file.sync_all()?;
                fsync(openat(
                    top,
                    c".",
                    OFlags::RDONLY | OFlags::CLOEXEC,
                    Mode::empty(),
                )?)?;
            }
        } else {
            if let Some((since, safe, token, notes)) = read_header(&file) {
                (begun.since, begun.safe) = (since, Some(safe));
                begun.last = Some(token);
                begun.notes = Journal::read(&file, HEADER as u64, notes)?;
                file.write_all_at(token_line(begun.token).as_bytes(), 2 * LINE as u64)?;
            } else if !may_be_torn(&file)? {
                return Err(something_else());
            } else {
                // Its other times move with what is noted in it.
                begun.since = birth(&file).unwrap_or(begun.since);
                begun.safe = Some(begun.since);
                file.set_len(0)?;
                write_header(&file, begun.since, begun.token)?;
            }
            if sync {
                file.sync_data()?;
            }
            begun.began = next_moment(&file)?;
        }
        begun.file = Some(file);
        Ok(begun)
    }

    /// Whether a restore made the folder itself and has not finished it.
    pub(super) const fn has_made_folder(&self) -> bool {
        self.made
    }

    /// Whether a file or folder was left unfinished by a restore. One that somebody else owns was
    /// not: who made it may have it open, and must not get what is restored.
    pub(super) fn is_unfinished(&self, stat: &Stat) -> bool {
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        let is_marked = has_mark(stat) || is_barely_made(stat);
        self.file.is_some() && is_marked && is_owner(stat) && changed >= self.since
    }

    /// Whether an earlier restore may have finished a file that is not on the disk.
    pub(super) fn is_doubtful(&self, stat: &Stat) -> bool {
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        self.safe.is_some_and(|safe| changed >= safe) && changed < self.began
    }

    /// Whether somebody who restores made a file in the time of an earlier restore.
    fn is_of_earlier(&self, stat: &Stat) -> bool {
        let changed = (stat.st_ctime, stat.st_ctime_nsec);
        self.since <= changed && changed < self.began
    }

    /// Whether a file beside another is what an earlier restore noted, and may be gone on with.
    pub(super) fn may_take_up(&self, stat: &Stat, left: &Left) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && left.stage == Stage::Made(stat.st_ino)
            && self.is_of_earlier(stat)
            && is_own(stat)
    }

    /// Whether what stands beside another is what an earlier restore noted, and nobody else's.
    pub(super) fn is_what_was_left(&self, stat: &Stat, left: &Left) -> bool {
        match left.stage {
            Stage::Announced => self.is_of_earlier(stat) && is_owner(stat) && is_empty(stat),
            Stage::Made(inode) => {
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_alone = is_folder || stat.st_nlink == 1;
                stat.st_ino == inode && self.is_of_earlier(stat) && is_alone
            }
            // It may have been changed by now under the name of its owner, and that it must have.
            Stage::Linked(inode) => {
                let changed = (stat.st_ctime, stat.st_ctime_nsec);
                stat.st_ino == inode && changed >= self.since && stat.st_nlink > 1
            }
        }
    }

    /// Whether a file that has a name of the last restore is its own although no note tells of it: a
    /// power loss may have taken the notes.
    pub(super) fn is_stray(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && has_mark(stat)
            && self.is_of_earlier(stat)
            && is_own(stat)
    }

    /// What an earlier restore left beside one; told once.
    pub(super) fn take_left(&self, path: &EntryPath) -> Vec<Left> {
        self.notes.take_left(&path.to_slashed())
    }

    /// What an earlier restore left under a path of its own; told once.
    pub(super) fn take_left_at(&self, path: &EntryPath) -> Vec<Left> {
        self.notes.take_left_at(&path.to_slashed())
    }

    /// All that an earlier restore left beside others and that was not asked for.
    pub(super) fn take_all_left(&self) -> Vec<Left> {
        self.notes.take_all_left()
    }

    /// What the names of all have in common that this restore makes beside others.
    pub(super) const fn token(&self) -> u64 {
        self.token
    }

    /// The same of the last restore before this, if that left anything unfinished.
    pub(super) const fn last_token(&self) -> Option<u64> {
        self.last
    }

    /// Notes a file that is about to be made beside another, or to get a further name there.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn note(&self, path: &EntryPath, beside: &[u8], stage: Stage) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let left = Left {
            path: path.to_slashed(),
            beside: path_beside(path, beside)?,
            stage,
        };
        self.notes.add(file, left)
    }

    /// Notes the inode of a file that was made beside another, before anything is in it.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(super) fn made(&self, path: &EntryPath, beside: &[u8], inode: u64) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        self.notes.made(file, &path_beside(path, beside)?, inode)
    }

    /// What was noted beside one has its name, or is gone.
    pub(super) fn settled(&self, path: &EntryPath, beside: &[u8]) {
        if let (Some(file), Ok(beside)) = (&self.file, path_beside(path, beside)) {
            self.notes.settled(file, &beside);
        }
    }

    /// What an earlier restore left is gone, or was not its any more.
    pub(super) fn left_settled(&self, left: &Left) {
        if let Some(file) = &self.file {
            self.notes.settled(file, &left.beside);
        }
    }

    /// The time of the file system; what is finished before may be called safe after what is in
    /// memory was written.
    pub(super) fn now(&self) -> Option<Moment> {
        self.file.as_ref().and_then(|file| now(file).ok())
    }

    /// Keeps that what was finished before a time is on the disk.
    pub(super) fn is_safe_before(&self, time: Moment) {
        if let Some(file) = &self.file {
            // What is not kept is compared again.
            let lines = times(self.since, time);
            let written = file.write_all_at(lines.as_bytes(), 0);
            let _ = written.and_then(|()| file.sync_data());
        }
    }

    /// Says that nothing is left unfinished.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub(super) fn done(&self, top: &OwnedFd) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let before = fstat(top)?;
        let mut gone = unlinkat(top, NAME, AtFlags::empty());
        if gone == Err(Errno::ACCESS) {
            // The folder got its mode already, and that forbids its owner to write.
            let mode = before.st_mode & 0o7777;
            fchmod(top, Mode::from_raw_mode(mode | 0o300))?;
            gone = unlinkat(top, NAME, AtFlags::empty());
            fchmod(top, Mode::from_raw_mode(mode))?;
        }
        match gone {
            Ok(()) => keep_time(top, &before),
            Err(Errno::NOENT) => Ok(()),
            Err(cause) => Err(cause.into()),
        }
    }
}

/// Locks the file. A process that this one is about to start holds a copy of the lock of one that has
/// just ended, until it is another program: so it is tried for a moment.
fn lock(file: &OwnedFd) -> io::Result<()> {
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

/// The path of something beside another.
fn path_beside(path: &EntryPath, beside: &[u8]) -> io::Result<Vec<u8>> {
    let there = path.parent().unwrap_or_default().join(beside);
    Ok(there.map_err(io::Error::other)?.to_slashed())
}

/// 48 bits that no other restore has.
fn token() -> u64 {
    std::hash::RandomState::new().build_hasher().finish() >> 16
}

/// Whether something holds nothing that could be lost: whether a folder does is found when it is
/// removed. A file has no content yet, and the mode with which it was made, or what a default ACL left
/// of that.
fn is_empty(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => true,
        FileType::RegularFile => is_barely_made(stat) && stat.st_nlink == 1,
        _ => stat.st_nlink == 1,
    }
}

/// Whether a file is empty and as it was made, before it could get its mode: a default ACL of its
/// folder may have taken from its owner what the mark consists of.
fn is_barely_made(stat: &Stat) -> bool {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file
        && stat.st_size == 0
        && stat.st_mode & 0o7777 & !MARK_FILE == 0
        && stat.st_mode & 0o1000 != 0
}

fn something_else() -> io::Error {
    io::Error::other(
        "something else stands there under the name .backstay-unfinished; move it away",
    )
}

/// Whether something belongs to who restores.
fn is_owner(stat: &Stat) -> bool {
    stat.st_uid == geteuid().as_raw()
}

/// Whether a file belongs to who restores, under one name only.
pub(super) fn is_own(stat: &Stat) -> bool {
    is_owner(stat) && stat.st_nlink == 1
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

/// When a file was made, where the file system keeps that.
fn birth(file: &File) -> Option<Moment> {
    let wanted = StatxFlags::BTIME;
    let found = statx(file, c"", AtFlags::EMPTY_PATH, wanted).ok()?;
    let has_time = found.stx_mask & wanted.bits() != 0;
    has_time.then_some((found.stx_btime.tv_sec, u64::from(found.stx_btime.tv_nsec)))
}

/// A time that is later than any until now: file systems count it in steps of some milliseconds.
fn next_moment(file: &File) -> io::Result<Moment> {
    let first = now(file)?;
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(2));
        let next = now(file)?;
        if next > first {
            return Ok(next);
        }
    }
    Ok(first)
}

fn times(since: Moment, safe: Moment) -> String {
    let line = |word: &str, (seconds, nanos): Moment| format!("{word} {seconds:>21}.{nanos:09}\n");
    line("since", since) + &line("safe ", safe)
}

fn token_line(token: u64) -> String {
    format!("token {token:>31}\n")
}

/// Writes all lines of a file without notes.
fn write_header(file: &File, since: Moment, token: u64) -> io::Result<()> {
    let notes = journal::line(HEADER as u64);
    let header = times(since, since) + &token_line(token) + &notes;
    file.write_all_at(header.as_bytes(), 0)
}

/// What a line says that begins with a word.
fn rest<'a>(line: &'a [u8], word: &str) -> Option<&'a str> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    Some(line.strip_prefix(word)?.trim_start())
}

/// The two times, the token, and where the notes begin; nothing if they are not there as they should be.
fn read_header(file: &File) -> Option<(Moment, Moment, u64, u64)> {
    let mut header = [0; HEADER];
    file.read_exact_at(&mut header, 0).ok()?;
    let time = |line, word| {
        let (seconds, nanos) = rest(line, word)?.split_once('.')?;
        Some((seconds.parse().ok()?, nanos.parse().ok()?))
    };
    let mut lines = header.chunks(LINE);
    let since = time(lines.next()?, "since ")?;
    let safe = time(lines.next()?, "safe  ")?;
    let token = rest(lines.next()?, "token ")?.parse().ok()?;
    let length = file.metadata().ok()?.len();
    let is_there = |notes: &u64| (HEADER as u64..=length).contains(notes);
    let notes = journal::read_line(lines.next()?).filter(is_there)?;
    Some((since, safe, token, notes))
}

/// Whether a file that lacks the lines of ours may have been one before a power loss or a full disk:
/// else it is somebody's who chose the same name.
fn may_be_torn(file: &File) -> io::Result<bool> {
    const FIRST: &[u8] = b"since ";
    let mut found = [0; FIRST.len()];
    let count = file.read_at(&mut found, 0)?;
    let found = found.get(..count).unwrap_or_default();
    Ok(FIRST.starts_with(found) || found.iter().all(|byte| *byte == 0))
}

/// Whether something has the mode of what is unfinished.
pub(super) fn has_mark(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_mode & 0o7777 == MARK_FILE,
        // A new folder has the setgid bit of the one that it is made in.
        FileType::Directory => stat.st_mode & 0o5777 == MARK_DIR,
        _ => false,
    }
}

/// Whether a folder was made as one that is unfinished and not touched since: a restore was killed
/// before it could make its file in it. A mode that somebody gave it later would be a change.
fn is_new(folder: &OwnedFd, stat: &Stat) -> io::Result<bool> {
    let is_untouched = (stat.st_mtime, stat.st_mtime_nsec) == (stat.st_ctime, stat.st_ctime_nsec);
    if !has_mark(stat) || !is_untouched || !is_owner(stat) {
        return Ok(false);
    }
    let mut buffer = [MaybeUninit::uninit(); 1 << 10];
    let folder = openat(
        folder,
        c".",
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    Ok(Listing::read(&folder, &mut buffer)?.len() == 0)
}

/// That the file came or went is no change of the folder that anybody asked for.
fn keep_time(top: &OwnedFd, before: &Stat) -> io::Result<()> {
    let kept = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: before.st_mtime,
            tv_nsec: i64::try_from(before.st_mtime_nsec).unwrap_or(0),
        },
    };
    match futimens(top, &kept) {
        // Only its owner may set it; the restore itself is not hindered by that.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(folder: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::open(folder, flags, Mode::empty()).unwrap()
    }

    fn made(folder: &std::path::Path, name: &str) -> Stat {
        let path = folder.join(name);
        std::fs::write(&path, name).unwrap();
        rustix::fs::stat(&path).unwrap()
    }

    #[test]
    fn what_is_safe_or_new_is_not_doubted() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let first = Begun::at(&top, false, false).unwrap();
        let early = made(temp.path(), "early");
        assert!(!first.is_doubtful(&early) && !first.is_of_earlier(&early));
        let file = first.file.as_ref().unwrap();
        first.is_safe_before(next_moment(file).unwrap());
        let late = made(temp.path(), "late");
        drop(first);
        let second = Begun::at(&top, false, false).unwrap();
        assert!(second.is_of_earlier(&early) && !second.is_doubtful(&early));
        assert!(second.is_of_earlier(&late) && second.is_doubtful(&late));
        let newest = made(temp.path(), "newest");
        assert!(!second.is_of_earlier(&newest) && !second.is_doubtful(&newest));
    }

    #[test]
    fn only_what_is_noted_and_nothing_of_use_is_taken_for_a_leftover() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let first = Begun::at(&top, false, false).unwrap();
        let made = |name: &str, content: &str, mode: u32| {
            let path = temp.path().join(name);
            std::fs::write(&path, content).unwrap();
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
            rustix::fs::stat(&path).unwrap()
        };
        let whole = made("whole", "new", MARK_FILE);
        let empty = made("empty", "", MARK_FILE);
        // A default ACL of the folder took what the owner may.
        let restricted = made("restricted", "", 0o1000);
        let plain = made("plain", "", 0o600);
        drop(first);
        let second = Begun::at(&top, false, false).unwrap();
        let left = |stage| Left {
            path: b"file".to_vec(),
            beside: b"beside".to_vec(),
            stage,
        };
        let announced = left(Stage::Announced);
        assert!(second.is_what_was_left(&empty, &announced));
        assert!(second.is_what_was_left(&restricted, &announced));
        assert!(!second.is_what_was_left(&whole, &announced));
        assert!(!second.is_what_was_left(&plain, &announced));
        assert!(!second.may_take_up(&empty, &announced));
        let this = left(Stage::Made(whole.st_ino));
        assert!(second.is_what_was_left(&whole, &this) && second.may_take_up(&whole, &this));
        let other = left(Stage::Made(empty.st_ino));
        assert!(!second.is_what_was_left(&whole, &other) && !second.may_take_up(&whole, &other));
        // The only name that a file has is no further one.
        let linked = left(Stage::Linked(whole.st_ino));
        assert!(!second.is_what_was_left(&whole, &linked));
    }

    #[test]
    fn notes_lead_the_next_restore_to_what_stands_beside() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let path = |text: &str| EntryPath::from_slashed(text.as_bytes()).unwrap();
        let first = Begun::at(&top, false, false).unwrap();
        first
            .note(&path("a/b"), b"beside-b", Stage::Announced)
            .unwrap();
        first.made(&path("a/b"), b"beside-b", 7).unwrap();
        first
            .note(&path("c"), b"beside-c", Stage::Linked(12))
            .unwrap();
        first
            .note(&path("d"), b"beside-d", Stage::Announced)
            .unwrap();
        first.settled(&path("d"), b"beside-d");
        drop(first);
        let second = Begun::at(&top, false, false).unwrap();
        let left = second.take_left(&path("a/b"));
        let [left] = &*left else {
            panic!("{left:?}");
        };
        assert_eq!(
            (&*left.beside, left.stage),
            (&b"a/beside-b"[..], Stage::Made(7))
        );
        second
            .note(&path("e"), b"beside-e", Stage::Announced)
            .unwrap();
        drop(second);
        let third = Begun::at(&top, false, false).unwrap();
        let mut left: Vec<_> = (third.take_all_left().into_iter())
            .map(|left| (left.beside, left.stage))
            .collect();
        left.sort_by(|one, other| one.0.cmp(&other.0));
        let wanted = [
            ("a/beside-b", Stage::Made(7)),
            ("beside-c", Stage::Linked(12)),
            ("beside-e", Stage::Announced),
        ];
        assert_eq!(left, wanted.map(|(path, stage)| (path.into(), stage)));
    }

    #[test]
    fn a_file_that_is_no_longer_what_a_restore_made_of_it_is_begun_anew() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let first = Begun::at(&top, false, false).unwrap();
        let path = EntryPath::from_slashed(b"file").unwrap();
        first.note(&path, b"beside", Stage::Announced).unwrap();
        drop(first);
        let marker = temp.path().join(".backstay-unfinished");
        for from in [0, 1 << 20, u64::MAX >> 1, u64::MAX] {
            let mut bytes = std::fs::read(&marker).unwrap();
            let line = journal::line(from);
            bytes[HEADER - LINE..HEADER].copy_from_slice(line.as_bytes());
            std::fs::write(&marker, bytes).unwrap();
            let second = Begun::at(&top, false, false).unwrap();
            assert!(second.take_all_left().is_empty());
            second.note(&path, b"beside", Stage::Announced).unwrap();
            drop(second);
            let length = std::fs::metadata(&marker).unwrap().len();
            assert!(length < 2 * HEADER as u64, "{length}");
        }
        let third = Begun::at(&top, false, false).unwrap();
        assert_eq!(third.take_all_left().len(), 1);
    }

    #[test]
    fn a_file_that_lost_its_lines_counts_from_when_it_was_made() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let stranger = made(temp.path(), "stranger");
        std::thread::sleep(Duration::from_millis(20));
        let first = Begun::at(&top, false, false).unwrap();
        let early = made(temp.path(), "early");
        std::thread::sleep(Duration::from_millis(20));
        let path = EntryPath::from_slashed(b"file").unwrap();
        first.note(&path, b"beside", Stage::Announced).unwrap();
        let file = first.file.as_ref().unwrap();
        if birth(file).is_none() {
            return;
        }
        // A power loss took what was in it. Its time of last change is that of the note.
        file.set_len(0).unwrap();
        drop(first);
        let second = Begun::at(&top, false, false).unwrap();
        assert!(second.is_of_earlier(&early) && second.is_doubtful(&early));
        assert!(!second.is_of_earlier(&stranger) && !second.is_doubtful(&stranger));
        assert!(second.take_all_left().is_empty());
    }
}
