//! The files that are begun: where the content of each goes, and what becomes of it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use backup_core::{
    EntryPath, Finding, FindingKind, PositionalWriter, RestoreEntry, Severity, TargetError,
};
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, Stat, accessat, fstat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::begun::has_mark;
use super::beside::{Beside, Place, name_beside};
use super::fate::{Fate, fate};
use super::file::FileWriter;
use super::meta::{Before, MARK_FILE};
use super::restore::{clear_place, skip};
use super::way::Spot;
use super::{Shared, conflict, error};

/// How files are opened.
const OPEN: OFlags = OFlags::NOFOLLOW
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// How files are created and opened to be written.
const OPEN_FILE: OFlags = OPEN.union(OFlags::RDWR);

/// Where the content of a file goes.
#[derive(Debug)]
pub(super) enum Writer {
    /// Into the file of that name.
    InPlace(FileWriter),
    /// Into a file beside it.
    Beside(Beside),
    /// Into one that an earlier restore began beside it.
    TakenUp(FileWriter, Place),
}

impl Writer {
    /// Ends the content. Returns whether anything of the file was changed.
    pub(super) fn complete(&self) -> Result<bool, TargetError> {
        match self {
            Self::InPlace(file) => file.complete(),
            Self::Beside(beside) => beside.complete(),
            Self::TakenUp(file, place) => {
                file.complete()?;
                place.take().map_err(|cause| file.error("replace", cause))?;
                Ok(true)
            }
        }
    }

    /// Gives up a file that will not be whole; one that was to take the place of another is removed
    /// unless the restore `is_cut_short`, to be taken up later. Returns whether anything unfinished
    /// is left.
    pub(super) fn give_up(&self, is_cut_short: bool) -> bool {
        match self {
            Self::InPlace(_) => true,
            Self::Beside(beside) if is_cut_short => beside.has_begun(),
            Self::Beside(beside) => !beside.give_up(),
            Self::TakenUp(_, place) => is_cut_short || place.give_up().is_err(),
        }
    }

    /// Hands on the file and what is known of it.
    pub(super) fn with_file(&self, then: impl FnOnce(BorrowedFd<'_>, Before)) {
        match self {
            Self::InPlace(file) | Self::TakenUp(file, _) => {
                then(file.file().as_fd(), file.before());
            }
            Self::Beside(beside) => beside.with_file(then),
        }
    }

    fn inner(&self) -> &dyn PositionalWriter {
        match self {
            Self::InPlace(file) | Self::TakenUp(file, _) => file,
            Self::Beside(beside) => beside,
        }
    }
}

impl PositionalWriter for Writer {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        self.inner().write_at(offset, bytes)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        self.inner().read_at(offset, buffer)
    }

    fn keep(&self, range: Range<u64>) {
        self.inner().keep(range);
    }

    fn had_content(&self) -> bool {
        self.inner().had_content()
    }
}

/// Creates a file, or opens the one that is there; `None`: it stays as it is.
pub(super) fn start_file(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<Option<Writer>, TargetError> {
    let create = || {
        let flags = OPEN_FILE | OFlags::CREATE | OFlags::EXCL;
        openat(
            &*spot.folder,
            &*spot.name,
            flags,
            Mode::from_raw_mode(MARK_FILE),
        )
    };
    let fresh = |fd: OwnedFd| {
        let before = before_new(shared, spot);
        let writer = FileWriter::fresh(File::from(fd), entry.path.clone(), entry.size, before);
        if !shared.config.sparse {
            writer
                .allocate()
                .inspect_err(|_| shared.unfinished.store(true, Ordering::Relaxed))?;
        }
        Ok(Some(Writer::InPlace(writer)))
    };
    let fail = |cause: Errno| error("create", &entry.path, cause.into());
    match create() {
        Ok(fd) => return fresh(fd),
        Err(Errno::EXIST) => {}
        Err(cause) => return Err(fail(cause)),
    }
    let stat = statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let unfinished = is_file && shared.begun.is_unfinished(&stat);
    if !unfinished {
        if fate(shared.config.overwrite, &stat, &entry.meta) == Fate::Stays {
            if has_mark(&stat) && stat.st_mode & 0o7777 != entry.meta.mode & 0o7777 {
                warn_of_mark(shared, &entry.path);
            }
            skip(shared);
            return Ok(None);
        }
        if !is_file {
            clear_place(shared, spot, entry, &stat)?;
            return fresh(create().map_err(fail)?);
        }
        if !goes_in_place(shared, spot, entry) {
            return start_beside(shared, spot, entry, &stat).map(Some);
        }
    }
    // Writing into a file of several names would change what stands under the others.
    if stat.st_nlink == 1
        && let Some(writer) = reopen(shared, spot, entry, &stat, unfinished)?
    {
        return Ok(Some(writer));
    }
    unlinkat(&*spot.folder, &*spot.name, AtFlags::empty()).map_err(fail)?;
    fresh(create().map_err(fail)?)
}

/// A file that stays as it is looks as if an earlier restore had left it unfinished, and nothing
/// says that one did.
fn warn_of_mark(shared: &Shared, path: &EntryPath) {
    let detail = "it stays as it is, with the mode 1600 of an unfinished file; if a restore into \
                  another folder left it so, --overwrite always finishes it";
    let finding = Finding::entry(FindingKind::Skipped, path, detail);
    shared.findings.add(Finding {
        severity: Severity::Warning,
        ..finding
    });
}

/// Opens a file that is there, to keep what of it is right. `None`: it cannot be written to (it
/// is running, or forbids it to its owner) and must give way to a new one.
fn reopen(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    seen: &Stat,
    unfinished: bool,
) -> Result<Option<Writer>, TargetError> {
    let fd = match openat(&*spot.folder, &*spot.name, OPEN_FILE, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::TXTBSY | Errno::ACCESS) => return Ok(None),
        Err(cause) => return Err(error("open", &entry.path, cause.into())),
    };
    let stat = same_as(seen, &fd, &entry.path)?;
    existing(shared, fd, entry, &stat, unfinished).map(|file| Some(Writer::InPlace(file)))
}

/// A file that holds something already.
fn existing(
    shared: &Shared,
    fd: OwnedFd,
    entry: &RestoreEntry,
    stat: &Stat,
    unfinished: bool,
) -> Result<FileWriter, TargetError> {
    let reach = u64::try_from(stat.st_size).unwrap_or(0);
    let state = (reach, unfinished);
    let path = entry.path.clone();
    FileWriter::existing(File::from(fd), path, entry.size, before_old(stat), state)
        .inspect_err(|_| shared.unfinished.store(true, Ordering::Relaxed))
}

/// What an open file looks like, if it is the one that was seen.
fn same_as(seen: &Stat, fd: &OwnedFd, path: &EntryPath) -> Result<Stat, TargetError> {
    let stat = fstat(fd).map_err(|cause| error("open", path, cause.into()))?;
    if (stat.st_dev, stat.st_ino) != (seen.st_dev, seen.st_ino) {
        return Err(conflict(path, "somebody else is changing it"));
    }
    Ok(stat)
}

/// What is known of a file that was there.
fn before_old(stat: &Stat) -> Before {
    Before {
        owner: Some((stat.st_uid, stat.st_gid)),
        xattrs: true,
    }
}

/// What is known of a file that is made in a folder.
fn before_new(shared: &Shared, spot: &Spot) -> Before {
    if spot.hands_on {
        Before {
            owner: None,
            xattrs: true,
        }
    } else {
        shared.applier.created()
    }
}

/// Whether new content is written into the file that is there: when that is asked for, for a file of
/// several names, which further names are linked to before it is whole, and where nothing can be
/// made in its folder.
fn goes_in_place(shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> bool {
    let is_closed = || {
        let may = Access::WRITE_OK | Access::EXEC_OK;
        accessat(&*spot.folder, c".", may, AtFlags::EACCESS).is_err()
    };
    shared.config.in_place || entry.meta.link_group.is_some() || !geteuid().is_root() && is_closed()
}

/// Begins a file that is to take the place of another, or goes on with what an earlier restore left
/// of one.
fn start_beside(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    seen: &Stat,
) -> Result<Writer, TargetError> {
    let place = Place {
        handles: Arc::clone(&shared.handles),
        folder: Arc::clone(&spot.handle),
        beside: name_beside(&spot.name),
        name: spot.name.clone(),
    };
    let path = entry.path.clone();
    let fail = |cause: Errno| error("open", &entry.path, cause.into());
    let left = statat(&*spot.folder, &*place.beside, AtFlags::SYMLINK_NOFOLLOW);
    if let Ok(left) = left
        && FileType::from_raw_mode(left.st_mode) == FileType::RegularFile
        && left.st_nlink == 1
        && shared.begun.is_unfinished(&left)
        && !is_begun(shared, entry, &place)
    {
        let fd = openat(&*spot.folder, &*place.beside, OPEN_FILE, Mode::empty()).map_err(fail)?;
        let stat = same_as(&left, &fd, &entry.path)?;
        return Ok(Writer::TakenUp(
            existing(shared, fd, entry, &stat, true)?,
            place,
        ));
    }
    let flags = OPEN | OFlags::RDONLY;
    let old = match openat(&*spot.folder, &*spot.name, flags, Mode::empty()) {
        Ok(fd) => {
            same_as(seen, &fd, &entry.path)?;
            Some(File::from(fd))
        }
        Err(Errno::ACCESS) => None,
        Err(cause) => return Err(fail(cause)),
    };
    let size = (entry.size, !shared.config.sparse);
    let before = (before_old(seen), before_new(shared, spot));
    Ok(Writer::Beside(Beside::new(place, path, size, before, old)))
}

/// Whether an entry of the snapshot that has the very name is being restored.
fn is_begun(shared: &Shared, entry: &RestoreEntry, place: &Place) -> bool {
    let folder = entry.path.parent().unwrap_or_default();
    let open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
    folder
        .join(place.beside.to_bytes())
        .is_ok_and(|path| open.contains_key(&path))
}
