//! Deleting what the snapshot does not have, or telling of it.
//!
//! It is done at the end, when it is known that everything could be restored. Until then the
//! paths of all entries are kept, in the order they came in, in a file that has no name; then
//! they and the sorted names of each folder are merged. So memory is bounded by the folders on
//! the way. Only a folder whose whole content the snapshot has loses anything.
//!
//! A dry run goes the same way with another [`Hand`], so it names what would be deleted by the
//! same rules.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backup_core::path::PathError;
use backup_core::{EntryKind, EntryPath, RestoreEntry, TargetError};
use rustix::fs::{
    AtFlags, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, futimens, openat, unlinkat,
};

use super::begun::{self, Begun};
use super::closed::{self, CHANGE, is_closed, opened, set_mode};
use super::doomed::delete_entry;
use super::kept::Had;
use super::spared::Spared;
use super::way::FOLDER;
use super::{error, unreported};
use crate::CONTENT_ATTR;
use crate::findings::Findings;
use crate::handle::{DirHandle, HandleCache};
use crate::walk::listing::Listing;

/// Room for what one call lists of a folder.
pub(super) const LIST_BUFFER: usize = 32 << 10;

/// What takes the names that the snapshot does not have.
pub(super) struct Hand<'a> {
    /// It is told their paths, and they stay; nobody: they are deleted.
    told: Option<&'a mut dyn FnMut(&EntryPath)>,
    /// How many it took, also where something went wrong then.
    taken: u64,
}

impl<'a> Hand<'a> {
    /// Deletes.
    pub(super) const fn deletes() -> Self {
        Self {
            told: None,
            taken: 0,
        }
    }

    /// Only tells.
    pub(super) const fn tells(told: &'a mut dyn FnMut(&EntryPath)) -> Self {
        Self {
            told: Some(told),
            taken: 0,
        }
    }

    /// Whether what it takes is gone.
    pub(super) const fn is_deleting(&self) -> bool {
        self.told.is_none()
    }

    /// How many names it took.
    pub(super) const fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn take(
        &mut self,
        folder: &OwnedFd,
        name: &CStr,
        flags: AtFlags,
        path: impl FnOnce() -> Result<EntryPath, PathError>,
    ) -> io::Result<()> {
        match &mut self.told {
            None => unlinkat(folder, name, flags)?,
            Some(told) => told(&path().map_err(io::Error::other)?),
        }
        self.taken += 1;
        Ok(())
    }
}

/// The paths of all entries, in order.
#[derive(Debug)]
pub(super) struct Spool(BufWriter<File>);

impl Spool {
    /// An empty one, in a file without a name.
    pub(super) fn new(file: File) -> Self {
        Self(BufWriter::new(file))
    }

    pub(super) fn add(&mut self, entry: &RestoreEntry) -> io::Result<()> {
        let whole = entry.whole
            && entry.meta.kind == EntryKind::Directory
            && !entry.meta.attrs.contains_key(CONTENT_ATTR);
        let path = entry.path.as_stored();
        let length = u16::try_from(path.len()).map_err(io::Error::other)?;
        self.0.write_all(&[u8::from(whole)])?;
        self.0.write_all(&length.to_le_bytes())?;
        self.0.write_all(path)
    }

    fn into_reader(self) -> io::Result<SpoolReader> {
        let mut file = self.0.into_inner().map_err(|cause| cause.into_error())?;
        file.rewind()?;
        Ok(SpoolReader(BufReader::new(file)))
    }
}

struct SpoolReader(BufReader<File>);

impl SpoolReader {
    /// The next path, and whether it is a folder whose whole content follows.
    fn next(&mut self) -> io::Result<Option<(EntryPath, bool)>> {
        let mut whole = [0];
        if self.0.read(&mut whole)? == 0 {
            return Ok(None);
        }
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut path = vec![0; usize::from(u16::from_le_bytes(length))];
        self.0.read_exact(&mut path)?;
        let path = EntryPath::from_stored(&path).map_err(io::Error::other)?;
        Ok(Some((path, whole == [1])))
    }
}

/// A folder whose names are compared with the snapshot's.
struct Compared {
    handle: Arc<DirHandle>,
    path: EntryPath,
    listing: Listing,
    /// The first name that was not compared yet.
    next: usize,
    before: Stat,
    /// Whether names of it were taken.
    changed: bool,
    /// What it is to get back, once it is noted.
    kept: Option<Had>,
    /// The folders on the way to it that were opened up, from above.
    way: Vec<OpenedUp>,
}

impl Compared {
    /// Something in it is about to be taken: what it had is noted, and it is opened up if it forbids that.
    fn make_ready(&mut self, folder: &OwnedFd, begun: Option<&Begun>) {
        if self.kept.is_some() {
            return;
        }
        let closed = is_closed(&self.before, CHANGE).then_some(self.before.st_mode & 0o7777);
        let mut had = Had::of(&self.before);
        had.mode = closed;
        if let Some(begun) = begun {
            begun.note_had_for_now(&self.path, self.handle.id(), had);
        }
        self.kept = Some(had);
        if let Some(mode) = closed {
            // If it cannot be, the deleting itself will say so.
            let _ = set_mode(folder, opened(mode));
        }
    }
}

/// A folder that was opened up, its path, and what it is to get back.
type OpenedUp = (Arc<DirHandle>, EntryPath, Had);

struct Mirror<'a> {
    handles: &'a HandleCache,
    findings: &'a Findings,
    spared: &'a Spared,
    hand: Hand<'a>,
    top: &'a Arc<DirHandle>,
    /// Where it is noted what is changed for a while.
    begun: Option<&'a Begun>,
    compared: Vec<Compared>,
    /// The last folder that was passed over, with all below it.
    passed: Option<EntryPath>,
    buffer: Vec<MaybeUninit<u8>>,
}

/// Lets a hand take, in every folder that the snapshot wholly has, the names that it does not have.
/// Returns how many entries these were.
pub(super) fn delete_others<'a>(
    handles: &'a HandleCache,
    findings: &'a Findings,
    spared: &'a Spared,
    top: &'a Arc<DirHandle>,
    spool: Spool,
    hand: Hand<'a>,
    begun: Option<&'a Begun>,
) -> Result<u64, TargetError> {
    let root = EntryPath::root();
    let fail = |cause| error("delete", &root, cause);
    let mut reader = spool.into_reader().map_err(fail)?;
    let buffer = vec![MaybeUninit::uninit(); LIST_BUFFER];
    let mut mirror = Mirror {
        handles,
        findings,
        spared,
        hand,
        top,
        begun,
        compared: Vec::new(),
        passed: None,
        buffer,
    };
    while let Some((path, whole)) = reader.next().map_err(fail)? {
        mirror.see(path, whole);
    }
    while mirror.leave() {}
    Ok(mirror.hand.taken)
}

impl Mirror<'_> {
    /// An entry of the snapshot.
    fn see(&mut self, path: EntryPath, whole: bool) {
        use io::ErrorKind::{NotADirectory, NotFound, PermissionDenied};
        while self
            .compared
            .last()
            .is_some_and(|last| !path.starts_with(&last.path))
        {
            self.leave();
        }
        if let (Some(name), Some(parent)) = (path.name(), path.parent())
            && self.compared.last().is_some_and(|last| last.path == parent)
        {
            self.take_before(Some(name));
        }
        let is_passed = (self.passed.as_ref()).is_some_and(|passed| path.starts_with(passed));
        if whole && !is_passed {
            match self.compare(path.clone()) {
                Ok(compared) => self.compared.extend(compared),
                // It was left as it is: something else stands there.
                Err(cause) if cause.kind() == NotADirectory => {}
                // Before a restore it may still have to be made; or it was told that it is not looked into.
                Err(cause)
                    if matches!(cause.kind(), NotFound | PermissionDenied)
                        && self.hand.told.is_some() => {}
                Err(cause) => self.fail(&error("delete in", &path, cause)),
            }
        }
    }

    fn fail(&self, error: &TargetError) {
        self.findings.add(unreported(error));
    }

    /// Reads the names in a folder. `None`: it is to be passed over.
    fn compare(&mut self, path: EntryPath) -> io::Result<Option<Compared>> {
        let mut way = Vec::new();
        let compared = self.compare_by(path, &mut way);
        match compared {
            Ok(Some(mut compared)) => {
                if way.last().is_some_and(|last| last.1 == compared.path) {
                    compared.kept = way.pop().map(|(_, _, had)| had);
                }
                compared.way = way;
                Ok(Some(compared))
            }
            other => {
                self.close(way);
                other
            }
        }
    }

    /// Gives folders back what they had before they were opened up.
    fn close(&self, way: Vec<OpenedUp>) {
        for (handle, path, had) in way.into_iter().rev() {
            let set = had.mode.map_or(Ok(()), |mode| {
                Ok(set_mode(&*self.handles.get(&handle)?, mode)?)
            });
            if let Err(cause) = set {
                self.fail(&error("set the mode of", &path, cause));
            } else if let Some(begun) = self.begun {
                begun.had_settled(&path, handle.id(), had);
            }
        }
    }

    fn compare_by(
        &mut self,
        path: EntryPath,
        way: &mut Vec<OpenedUp>,
    ) -> io::Result<Option<Compared>> {
        let (mut handle, mut at) = self.compared.last().map_or_else(
            || (Arc::clone(self.top), EntryPath::root()),
            |last| (Arc::clone(&last.handle), last.path.clone()),
        );
        let (handles, known) = (self.handles, at.components().count());
        let mut names = path.components().skip(known).peekable();
        let mut before = fstat(&*handles.get(&handle)?)?;
        if names.peek().is_none() {
            let fd = openat(&*handles.get(&handle)?, c".", FOLDER, Mode::empty())?;
            handle = handles.adopt(&handle, c".", false, fd)?;
        }
        for name in names {
            at.push(name).map_err(io::Error::other)?;
            let name = CString::new(name).map_err(io::Error::other)?;
            let above = handles.get(&handle)?;
            let (begun, mut had) = (self.begun, None);
            let (fd, stat) = if self.hand.is_deleting() {
                closed::open(&above, &name, |stat| {
                    let mut kept = Had::of(stat);
                    kept.mode = Some(stat.st_mode & 0o7777);
                    had = Some(kept);
                    if let Some(begun) = begun {
                        begun.note_had_for_now(&at, (stat.st_dev, stat.st_ino), kept);
                    }
                })?
            } else {
                let fd = openat(&*above, &*name, FOLDER, Mode::empty())?;
                let stat = fstat(&fd)?;
                (fd, stat)
            };
            before = stat;
            let passes = self.spared.passes(&fd, &at, self.findings);
            handle = handles.adopt(&handle, &name, false, fd)?;
            way.extend(had.map(|had| (Arc::clone(&handle), at.clone(), had)));
            if passes? {
                self.passed = Some(at);
                return Ok(None);
            }
        }
        let fd = openat(&*handles.get(&handle)?, c".", FOLDER, Mode::empty())?;
        let listing = Listing::read(&fd, &mut self.buffer)?;
        Ok(Some(Compared {
            handle,
            path,
            listing,
            next: 0,
            before,
            changed: false,
            kept: None,
            way: Vec::new(),
        }))
    }

    /// Takes the names of the current folder up to one that the snapshot has, or all the rest.
    fn take_before(&mut self, name: Option<&[u8]>) {
        let Some(current) = self.compared.last_mut() else {
            return;
        };
        while current.next < current.listing.len() {
            let other = current.listing.name(current.next);
            if name.is_some_and(|name| other.to_bytes() > name) {
                return;
            }
            current.next += 1;
            if name == Some(other.to_bytes()) {
                return;
            }
            // A restore removes its own mark itself.
            if current.path.is_root() && other == begun::NAME {
                continue;
            }
            let other = other.to_owned();
            let path = current.path.join(other.to_bytes());
            let path = path.unwrap_or_else(|_| current.path.clone());
            let (spared, findings, hand) = (self.spared, self.findings, &mut self.hand);
            let (taken, begun) = (hand.taken, self.begun);
            let gone = self.handles.get(&current.handle).and_then(|fd| {
                if hand.is_deleting() {
                    current.make_ready(&fd, begun);
                }
                delete_entry((&fd, &other, &path), hand, spared, findings)
            });
            current.changed |= hand.taken > taken;
            if let Err(cause) = gone {
                let finding = unreported(&error("delete", &path, cause));
                self.findings.add(finding);
            }
        }
    }

    /// Leaves the current folder: what is left of it is not in the snapshot. `false`: there is no
    /// current folder.
    fn leave(&mut self) -> bool {
        self.take_before(None);
        let Some(done) = self.compared.pop() else {
            return false;
        };
        if done.changed && self.hand.is_deleting() {
            // Deleting in it counted as its last change; the snapshot's time comes back.
            let kept = Timestamps {
                last_access: Timespec {
                    tv_sec: 0,
                    tv_nsec: UTIME_OMIT,
                },
                last_modification: Timespec {
                    tv_sec: done.before.st_mtime,
                    tv_nsec: i64::try_from(done.before.st_mtime_nsec).unwrap_or(0),
                },
            };
            let set = self
                .handles
                .get(&done.handle)
                .and_then(|fd| Ok(futimens(openat(&*fd, c".", FOLDER, Mode::empty())?, &kept)?));
            if let Err(cause) = set {
                self.fail(&error("set the time of", &done.path, cause));
            }
        }
        let itself = done.kept.map(|had| (done.handle, done.path, had));
        self.close(done.way.into_iter().chain(itself).collect());
        true
    }
}
