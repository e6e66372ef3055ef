//! What an earlier restore into a folder left unfinished, and what is safe of it.
//!
//! A restore begins by making a file of a fixed name in its folder, and removes it when nothing is
//! left unfinished. It locks that file, so that two restores do not take up each other's work, and
//! keeps in it
//!
//! - since when it is there. The mode of [`super::meta::MARK_FILE`] alone would not tell unfinished
//!   files, since a user may give it to a file, too. It counts only on what the one who restores
//!   owns and what was made since: the time of an inode's birth is set by the kernel and by
//!   nobody else. So no entry costs anything, and no attribute is needed;
//! - which files that were there before it writes to, before it does;
//! - in what time it finishes files, and on which mount. After a power loss some of those may be empty
//!   although they have their mode and time: they are compared (see [`super::doubt`]);
//! - a token that is in the names of all that it makes beside others, so that they are known although
//!   a power loss took the notes;
//! - what time folders had that stay, and in which it changes something (see [`super::kept`]);
//! - which files it made beside those whose place they are to take, to be taken up or removed (see
//!   [`super::journal`]).
//!
//! The folder of the restore itself is changed by the making of that file, so its own mode and time
//! say nothing: whether a restore made it is kept in the mode of the file.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{EntryMeta, EntryPath};
use jiff::Timestamp;
use nix::unistd::User;
use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, Stat, fallocate, fchmod, fstat, fsync, openat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::beside::{Names, prefix};
use super::doubt::{Due, Finished, mount_of};
use super::header::{HEADER, Header, Moment, birth, lock, may_be_torn, next_moment, now, token};
use super::journal::{Journal, Left, Stage};
use super::keeps::FileSystems;
use super::kept::set_time;
use super::meta::MARK_FILE;
use super::ours::has_mark;
use crate::handle::DirId;
use crate::walk::meta::times;

/// The name of the file that says that a restore into its folder is not finished.
pub(crate) const NAME: &std::ffi::CStr = c".backstay-unfinished";

/// Since when a restore into a folder has been under way.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) since: Moment,
    /// Whether there was an earlier restore that did not end.
    pub(super) is_later: bool,
    /// When this restore began.
    pub(super) began: Moment,
    /// Whether a restore made the folder and has not finished it.
    made: bool,
    /// The file; it could not be made where there is none. Then nothing can be taken up, and nothing
    /// is to be removed.
    pub(super) file: Option<File>,
    pub(super) notes: Journal,
    /// How many times of folders are noted.
    pub(super) kept: AtomicUsize,
    /// In what time files were finished, and when that is to be kept anew.
    finished: Mutex<(Finished, Due)>,
    /// Whether that can be kept: on a full disk it cannot.
    is_kept: bool,
    /// What the names of all have in common that this restore makes beside others. Nobody knows it
    /// before, so no entry of a snapshot has such a name, and nothing that was there.
    token: u64,
    /// That of the last restore before it.
    last: Option<u64>,
    /// Whether what an earlier restore kept was lost, and with it its token.
    lost: bool,
    /// Folders in which nothing of that is any more that no note tells of.
    swept: Mutex<HashSet<DirId>>,
    /// What the file systems keep that are restored to.
    pub(super) systems: Arc<FileSystems>,
    /// Whether what is kept here is to be on the disk before it is relied on.
    sync: bool,
}

impl Begun {
    /// Takes up the restore that a file in the folder tells of, or makes that file, which keeps
    /// whether the folder was `made` just before.
    ///
    /// # Errors
    /// When something else stands under the name, the file cannot be made, or another restore is
    /// under way there ([`io::ErrorKind::WouldBlock`]).
    pub(super) fn at(
        top: &OwnedFd,
        made: bool,
        sync: bool,
        systems: Arc<FileSystems>,
    ) -> io::Result<Self> {
        let before = fstat(top)?;
        let now = (before.st_ctime, before.st_ctime_nsec);
        let mut begun = Self {
            since: now,
            is_later: false,
            began: now,
            made,
            file: None,
            notes: Journal::new(HEADER as u64),
            kept: AtomicUsize::new(0),
            finished: Mutex::new((Finished::default(), Due::new())),
            is_kept: true,
            token: token(),
            last: None,
            lost: false,
            swept: Mutex::default(),
            systems,
            sync,
        };
        begun.systems.look(top, before.st_dev);
        let Some((file, is_new)) = begun.locked(top, made)? else {
            return Ok(begun);
        };
        keep_time(top, &before)?;
        let stat = fstat(&file)?;
        let file = File::from(file);
        (begun.since, begun.began) = (modified(&stat), modified(&stat));
        let mut header = Header {
            since: begun.since,
            finished: Finished::first(begun.since),
            token: begun.token,
            made,
            lost: false,
            mount: mount_of(top),
            notes: HEADER as u64,
        };
        if is_new {
            // On a full disk it stays empty; then the time when it was made counts.
            begun.is_kept = header.write(&file).is_ok();
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
            let mut was_made = has_mark(&stat);
            begun.is_later = true;
            if let Some(last) = Header::read(&file) {
                begun.began = next_moment(&file)?;
                let is_same = last.mount.is_some() && last.mount == header.mount;
                header.finished = last.finished.next(begun.began, is_same);
                (begun.since, header.since) = (last.since, last.since);
                begun.last = Some(last.token);
                begun.lost = last.lost;
                was_made |= last.made;
                begun.notes = Journal::read(&file, HEADER as u64, last.notes)?;
                header.notes = last.notes;
            } else if !may_be_torn(&file)? {
                return Err(something_else());
            } else {
                // Its other times move with what is noted in it.
                begun.since = birth(&file).unwrap_or(begun.since);
                begun.began = next_moment(&file)?;
                header.since = begun.since;
                header.finished = Finished::unknown(begun.since, begun.began);
                // Also for the next one, if this one does not come to its end.
                begun.lost = true;
                file.set_len(0)?;
            }
            header.lost = begun.lost;
            header.made = made || was_made;
            header.write(&file)?;
            // A folder that has another mode by now was finished, or its owner gave it that.
            let is_marked = has_mark(&before) || !begun.systems.of(before.st_dev).modes;
            begun.made |= was_made && is_marked;
            if sync {
                file.sync_data()?;
            }
        }
        begun.finished = Mutex::new((header.finished, Due::new()));
        begun.file = Some(file);
        Ok(begun)
    }

    /// Opens the file, or makes it (then that is said), and locks it; `None`: it cannot be made.
    fn locked(&self, top: &OwnedFd, made: bool) -> io::Result<Option<(OwnedFd, bool)>> {
        const TRIES: u32 = 20;
        for _ in 0..TRIES {
            let Some((file, is_new)) = open_or_make(top, made)? else {
                return Ok(None);
            };
            let stat = fstat(&file)?;
            if !is_new && stat.st_nlink > 0 && !self.is_own(&stat) {
                let is_ours = is_file(&stat) && is_of_a_restore(&file)?;
                return Err(match self.is_owner(&stat) {
                    false if is_ours => of_another_user(&stat),
                    _ => something_else(),
                });
            }
            if !is_file(&stat) {
                return Err(something_else());
            }
            lock(&file)?;
            // Whoever had it locked may have ended meanwhile and removed it: then nobody else would see
            // that this one is under way.
            let has_name = match statat(top, NAME, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => (found.st_dev, found.st_ino) == (stat.st_dev, stat.st_ino),
                Err(Errno::NOENT) => false,
                Err(cause) => return Err(cause.into()),
            };
            if has_name {
                return Ok(Some((file, is_new)));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// Whether a restore made the folder itself and has not finished it.
    pub(super) const fn has_made_folder(&self) -> bool {
        self.made
    }

    /// What the file systems keep that are restored to.
    pub(super) const fn systems(&self) -> &Arc<FileSystems> {
        &self.systems
    }

    /// Takes room for notes of files that are changed where they are: that is done where there is little.
    pub(super) fn reserve(&self) {
        const BYTES: u64 = 64 << 10;
        if let Some(file) = &self.file {
            // Without it a disk that gets full ends the restore a little earlier.
            let _ = fallocate(file, FallocateFlags::KEEP_SIZE, 0, BYTES);
        }
    }

    /// Notes that a file that was there is about to be changed where it is: its mode may not say so, or may
    /// be that which its user gave it. The note is on the disk before that.
    ///
    /// # Errors
    /// When that cannot be written: then nobody would know that the file is not whole.
    pub(super) fn note_in_place(&self, path: &EntryPath, stat: &Stat) -> io::Result<()> {
        let Some(file) = &self.file else {
            if !self.has_no_marks(stat) {
                return Ok(());
            }
            let why = "nothing would say that it is unfinished: neither its mode can, nor a file \
                       .backstay-unfinished in the folder that is restored to";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        };
        let left = Left {
            path: path.to_slashed(),
            beside: path.to_slashed(),
            stage: Stage::InPlace(stat.st_ino),
        };
        if self.notes.take_in_place(&left.path) == Some(stat.st_ino) {
            return Ok(());
        }
        self.notes.add(file, left)?;
        if self.sync { file.sync_data() } else { Ok(()) }
    }

    /// Whether an earlier restore noted that it changes a file where it is, and did not finish. It stays
    /// noted until it is settled.
    pub(super) fn take_in_place(
        &self,
        path: &EntryPath,
        (stat, meta): (&Stat, &EntryMeta),
    ) -> bool {
        let noted = self.notes.take_in_place(&path.to_slashed());
        noted.is_some_and(|inode| self.is_in_place(stat, inode, Some(meta)))
    }

    /// A file that was noted as changed where it is, if it was, is whole.
    pub(super) fn settled_in_place(&self, path: &EntryPath) {
        if let Some(file) = &self.file {
            self.notes.settled(file, &path.to_slashed());
        }
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

    /// What names what the last restore left in a folder has, if it left anything; told once.
    pub(super) fn strays_in(&self, folder: DirId) -> Option<Names> {
        /// So many folders are remembered.
        const MOST: usize = 4096;
        let names = match (self.lost, self.last) {
            (true, _) => Names::Any,
            (false, last) => Names::Of(prefix(last?)),
        };
        let mut swept = self.swept.lock().unwrap_or_else(PoisonError::into_inner);
        if swept.len() >= MOST {
            swept.clear();
        }
        swept.insert(folder).then_some(names)
    }

    /// Whether something beside one is noted.
    pub(super) fn is_noted(&self, path: &EntryPath, beside: &[u8]) -> bool {
        path_beside(path, beside).is_ok_and(|beside| self.notes.has_beside(&beside))
    }

    /// What the names of all have in common that this restore makes beside others.
    pub(super) const fn token(&self) -> u64 {
        self.token
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

    /// Keeps that what this restore finished before a time is on the disk.
    pub(super) fn is_safe_before(&self, time: Moment) {
        if let Some(file) = self.file.as_ref().filter(|_| self.is_kept) {
            let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
            finished.0.now.from = time;
            // What is not kept is compared again.
            let written = Header::write_finished(&finished.0, file);
            let _ = written.and_then(|()| file.sync_data());
        }
    }

    /// Sees that it is kept that files are finished now, before one is. `clock` is what the system's says.
    ///
    /// # Errors
    /// When that cannot be written: then nobody would know of the file that a power loss may take it.
    pub(super) fn finishes(&self, clock: Timestamp) -> io::Result<()> {
        let Some(file) = self.file.as_ref().filter(|_| self.is_kept) else {
            return Ok(());
        };
        let mut finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        if !finished.1.is_now(clock) {
            return Ok(());
        }
        finished.0.put_off(now(file)?);
        Header::write_finished(&finished.0, file)?;
        if self.sync {
            file.sync_data()?;
        }
        finished.1 = Due::new();
        Ok(())
    }

    /// What is restored is on more than one file system: that one of them was mounted all the time says
    /// nothing of the others.
    pub(super) fn spans(&self) {
        if let Some(file) = self.file.as_ref().filter(|_| self.is_kept) {
            // On a disk on which that cannot be written the rest cannot, either.
            let _ = Header::write_no_mount(file);
        }
    }

    /// Whether an earlier restore finished a file that was changed then, and a power loss may have taken it.
    pub(super) fn is_doubtful(&self, stat: &Stat) -> bool {
        let finished = self.finished.lock().unwrap_or_else(PoisonError::into_inner);
        finished.0.doubtful.has((stat.st_ctime, stat.st_ctime_nsec))
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

/// The path of something beside another.
fn path_beside(path: &EntryPath, beside: &[u8]) -> io::Result<Vec<u8>> {
    let there = path.parent().unwrap_or_default().join(beside);
    Ok(there.map_err(io::Error::other)?.to_slashed())
}

/// Opens the file, or makes it (then that is said); `None`: it cannot be made.
fn open_or_make(top: &OwnedFd, made: bool) -> io::Result<Option<(OwnedFd, bool)>> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(if made { MARK_FILE } else { 0o600 });
    let create = flags | OFlags::CREATE | OFlags::EXCL;
    match openat(top, NAME, create, mode) {
        Ok(file) => match fchmod(&file, mode) {
            // A default ACL of the folder may have taken something from its owner. Not every file system
            // has modes.
            Ok(()) | Err(Errno::PERM | Errno::NOSYS | Errno::NOTSUP) => Ok(Some((file, true))),
            Err(cause) => Err(cause.into()),
        },
        Err(Errno::EXIST) => {
            let there = openat(top, NAME, flags, Mode::empty()).map_err(|cause| {
                // Whoever may not read it cannot tell more of it.
                let seen = statat(top, NAME, AtFlags::SYMLINK_NOFOLLOW);
                let is_others = |seen: &Stat| is_file(seen) && seen.st_uid != geteuid().as_raw();
                match seen.ok().filter(is_others) {
                    Some(seen) if cause == Errno::ACCESS => of_another_user(&seen),
                    _ => something_else(),
                }
            });
            Ok(Some((there?, false)))
        }
        Err(Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::NOSPC | Errno::DQUOT) => Ok(None),
        Err(cause) => Err(cause.into()),
    }
}

fn something_else() -> io::Error {
    io::Error::other(
        "something else stands there under the name .backstay-unfinished; move it away",
    )
}

fn is_file(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// Whether a file of that name holds what a restore keeps in it.
fn is_of_a_restore(file: &OwnedFd) -> io::Result<bool> {
    let file = File::from(file.try_clone()?);
    Ok(Header::read(&file).is_some() || may_be_torn(&file)?)
}

/// Who did not begin a restore does not take it up: notes of somebody else say which files to write to and to
/// remove.
fn of_another_user(stat: &Stat) -> io::Error {
    let number = stat.st_uid;
    let known = User::from_uid(number.into()).ok().flatten();
    let who = known.map_or_else(|| format!("user {number}"), |user| user.name);
    let then = if geteuid().is_root() {
        "; then once more as root, with --overwrite always, if owners are to be set"
    } else {
        ""
    };
    let why = format!(
        "a restore into it that {who} began did not come to its end, and .backstay-unfinished there, which is \
         needed for that, belongs to {who}: run the restore again as {who}{then}"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, why)
}

/// When a file's content was last changed.
fn modified(stat: &Stat) -> Moment {
    (stat.st_mtime, stat.st_mtime_nsec)
}

/// That the file came or went is no change of the folder that anybody asked for.
pub(super) fn keep_time(top: &OwnedFd, before: &Stat) -> io::Result<()> {
    match set_time(top, times(before).0) {
        // Only its owner may set it; the restore itself is not hindered by that.
        Ok(()) | Err(Errno::PERM | Errno::ACCESS) => Ok(()),
        Err(cause) => Err(cause.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::journal::{self, LINE};
    use super::*;

    fn top(folder: &std::path::Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::open(folder, flags, Mode::empty()).unwrap()
    }

    fn begun(top: &OwnedFd) -> io::Result<Begun> {
        Begun::at(top, false, false, Arc::default())
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
        let first = begun(&top).unwrap();
        let early = made(temp.path(), "early");
        assert!(!first.is_doubtful(&early) && !first.is_of_earlier(&early));
        let file = first.file.as_ref().unwrap();
        first.is_safe_before(next_moment(file).unwrap());
        let late = made(temp.path(), "late");
        drop(first);
        // Nobody lost power.
        let killed = begun(&top).unwrap();
        assert!(killed.is_of_earlier(&late));
        assert_eq!(killed.is_doubtful(&late), mount_of(&top).is_none());
        killed.spans();
        drop(killed);
        let second = begun(&top).unwrap();
        assert!(second.is_of_earlier(&early) && !second.is_doubtful(&early));
        assert!(second.is_of_earlier(&late) && second.is_doubtful(&late));
        let newest = made(temp.path(), "newest");
        assert!(!second.is_of_earlier(&newest) && !second.is_doubtful(&newest));
    }

    #[test]
    fn whoever_waited_for_the_end_of_another_makes_the_file_anew() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let first = begun(&top).unwrap();
        std::thread::scope(|scope| {
            let second = scope.spawn(|| begun(&top));
            std::thread::sleep(Duration::from_millis(60));
            first.done(&top).unwrap();
            drop(first);
            let second = second.join().unwrap().unwrap();
            assert!(temp.path().join(".backstay-unfinished").exists());
            assert!(begun(&top).is_err());
            second.done(&top).unwrap();
        });
    }

    #[test]
    fn notes_lead_the_next_restore_to_what_stands_beside() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let path = |text: &str| EntryPath::from_slashed(text.as_bytes()).unwrap();
        let first = begun(&top).unwrap();
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
        let second = begun(&top).unwrap();
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
        let third = begun(&top).unwrap();
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
        let first = begun(&top).unwrap();
        let path = EntryPath::from_slashed(b"file").unwrap();
        first.note(&path, b"beside", Stage::Announced).unwrap();
        drop(first);
        let marker = temp.path().join(".backstay-unfinished");
        for from in [0, 1 << 20, u64::MAX >> 1, u64::MAX] {
            let mut bytes = std::fs::read(&marker).unwrap();
            let line = journal::line(from);
            bytes[HEADER - LINE..HEADER].copy_from_slice(line.as_bytes());
            std::fs::write(&marker, bytes).unwrap();
            let second = begun(&top).unwrap();
            assert!(second.take_all_left().is_empty());
            second.note(&path, b"beside", Stage::Announced).unwrap();
            drop(second);
            let length = std::fs::metadata(&marker).unwrap().len();
            assert!(length < 2 * HEADER as u64, "{length}");
        }
        let third = begun(&top).unwrap();
        assert_eq!(third.take_all_left().len(), 1);
    }

    #[test]
    fn a_file_that_lost_its_lines_counts_from_when_it_was_made() {
        let temp = tempfile::tempdir().unwrap();
        let top = top(temp.path());
        let stranger = made(temp.path(), "stranger");
        std::thread::sleep(Duration::from_millis(20));
        let first = begun(&top).unwrap();
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
        let second = begun(&top).unwrap();
        assert!(second.is_of_earlier(&early) && second.is_doubtful(&early));
        assert!(!second.is_of_earlier(&stranger) && !second.is_doubtful(&stranger));
        assert!(second.take_all_left().is_empty());
    }
}
