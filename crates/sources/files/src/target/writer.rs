//! The files that are begun: where the content of each goes, and what becomes of it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use backup_core::{
    EntryPath, Finding, FindingKind, PositionalWriter, RestoreEntry, Severity, TargetError,
};
use rustix::fs::{
    Access, AtFlags, FileType, Mode, OFlags, RawDir, Stat, accessat, fchmod, fstat, openat,
    renameat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::begun::Begun;
use super::beside::{Beside, Names, Place, Successor, make_beside};
use super::fate::Fate;
use super::file::{FileWriter, Space};
use super::header::birth_at;
use super::journal::{Left, Stage};
use super::meta::{Before, mark_of};
use super::ours::{has_mark, has_mark_for};
use super::replace::may_clear_place;
use super::restore::skip;
use super::way::Spot;
use super::{Shared, conflict, error, header};
use crate::handle::DirId;
use crate::walk::meta::times;

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
    TakenUp(FileWriter, Successor),
}

/// What became of a file whose content is whole.
pub(super) enum Completed {
    /// It has its name, and was changed or not.
    There(bool),
    /// It is to take the place of another.
    Beside(Successor),
}

impl Writer {
    /// Ends the content.
    pub(super) fn complete(&self) -> Result<Completed, TargetError> {
        match self {
            Self::InPlace(file) => file.complete().map(Completed::There),
            Self::Beside(beside) => {
                let successor = beside.complete()?;
                Ok(successor.map_or(Completed::There(false), Completed::Beside))
            }
            Self::TakenUp(file, successor) => {
                file.complete()?;
                Ok(Completed::Beside(successor.clone()))
            }
        }
    }

    /// Ends content of which a part is lost. Returns what stands beside what has the name; there is
    /// nothing if this has the name itself.
    pub(super) fn complete_in_part(&self) -> Result<Option<Successor>, TargetError> {
        match self {
            Self::InPlace(file) => file.complete().map(|_| None),
            Self::Beside(beside) => beside.complete_in_part().map(Some),
            Self::TakenUp(file, successor) => {
                file.complete()?;
                Ok(Some(successor.clone()))
            }
        }
    }

    /// Gives up a file that will not be whole; one that was to take the place of another is removed
    /// unless the restore `is_cut_short`, to be taken up later. Returns whether anything unfinished
    /// is left.
    pub(super) fn give_up(&self, is_cut_short: bool) -> bool {
        let successor = match self {
            Self::InPlace(_) => return true,
            Self::Beside(beside) => beside.successor(),
            Self::TakenUp(_, successor) => Some(successor.clone()),
        };
        successor.is_some_and(|successor| is_cut_short || successor.give_up().is_err())
    }

    /// Whether it writes into the file that has the name.
    pub(super) const fn is_in_place(&self) -> bool {
        matches!(self, Self::InPlace(_))
    }

    /// Whether it writes into a file that held something already.
    pub(super) fn was_there(&self) -> bool {
        matches!(self, Self::InPlace(file) if file.had_content())
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

    /// Device and inode of the file that is written to.
    pub(super) fn id(&self) -> io::Result<DirId> {
        let mut id = Err(io::ErrorKind::NotFound.into());
        self.with_file(|file, _| {
            let stat = fstat(file).map_err(io::Error::from);
            id = stat.map(|stat| (stat.st_dev, stat.st_ino));
        });
        id
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
    let keeps = shared.begun.systems().of(spot.handle.id().0);
    let name = (&*spot.name, mark_of(&entry.meta));
    let create = || create_marked(&spot.folder, name, spot.hands_on);
    let space = Space::of(shared.config.holes, &entry.meta);
    let fresh = |fd: OwnedFd| {
        let before = shared.before_new(spot);
        let path = entry.path.clone();
        let writer = FileWriter::fresh(File::from(fd), path, (entry.size, space), before);
        if space == Space::AtOnce {
            writer
                .allocate()
                .inspect_err(|_| shared.unfinished.store(true, Ordering::Relaxed))?;
        }
        Ok(Some(Writer::InPlace(writer)))
    };
    let fail = |cause: Errno| error("create", &entry.path, cause.into());
    if keeps.marks() {
        match create() {
            Ok(fd) if has_mark(&fstat(&fd).map_err(fail)?) => return fresh(fd),
            // Its file system keeps modes elsewhere, and not here.
            Ok(_) => {
                unlinkat(&*spot.folder, &*spot.name, AtFlags::empty()).map_err(fail)?;
                return start_beside(shared, spot, entry, None).map(Some);
            }
            Err(Errno::EXIST) => {}
            Err(cause) => return Err(fail(cause)),
        }
    }
    let stat = match statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) if !keeps.marks() => {
            return start_beside(shared, spot, entry, None).map(Some);
        }
        found => found.map_err(fail)?,
    };
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let seen = (&stat, &entry.meta);
    let is_noted = shared.begun.take_in_place(&entry.path, seen);
    let is_begun = (shared.begun).is_unfinished_at(&spot.folder, &spot.name, seen);
    if !is_file || !is_noted && !is_begun {
        let fate = shared.fate(&stat, entry);
        if fate == Fate::Stays && !may_be_lost(shared, spot, &stat, entry) {
            warn_of_mark(shared, &stat, entry);
            skip(shared);
            return Ok(None);
        }
        if !is_file {
            may_clear_place(shared, spot, entry, &stat)?;
            return start_beside(shared, spot, entry, Some(&stat)).map(Some);
        }
        if !goes_in_place(shared, spot, &stat) {
            return start_beside(shared, spot, entry, Some(&stat)).map(Some);
        }
    }
    // Writing into a file of several names would change what stands under the others.
    let is_marked = (is_noted || is_begun) && (has_mark_for(&stat, &entry.meta) || !keeps.modes);
    if stat.st_nlink == 1
        && !is_foreign(shared, &stat, entry)
        && let Some(writer) = reopen(shared, spot, entry, &stat, is_marked)?
    {
        return Ok(Some(writer));
    }
    if !keeps.marks() {
        return start_beside(shared, spot, entry, Some(&stat)).map(Some);
    }
    unlinkat(&*spot.folder, &*spot.name, AtFlags::empty()).map_err(fail)?;
    fresh(create().map_err(fail)?)
}

/// Creates a file that is marked as unfinished. A folder that `hands_on` a default ACL may take from its
/// owner what the mark consists of.
pub(super) fn create_marked(
    folder: &OwnedFd,
    (name, mark): (&CStr, u32),
    hands_on: bool,
) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(mark);
    let file = openat(
        folder,
        name,
        OPEN_FILE | OFlags::CREATE | OFlags::EXCL,
        mode,
    )?;
    if hands_on {
        let marked = fchmod(&file, mode);
        marked.inspect_err(|_| _ = unlinkat(folder, name, AtFlags::empty()))?;
    }
    Ok(file)
}

/// Whether root would write into a file of somebody whom the entry does not belong to, who may have
/// it open.
fn is_foreign(shared: &Shared, stat: &Stat, entry: &RestoreEntry) -> bool {
    let owner = entry.meta.owner.as_ref().map(|owner| owner.uid);
    geteuid().is_root() && !shared.begun.is_owner(stat) && Some(stat.st_uid) != owner
}

/// Whether an earlier restore finished a file that a power loss may have taken, or all but finished it: the time of its last
/// change is still the one that it was given.
fn may_be_lost(shared: &Shared, spot: &Spot, stat: &Stat, entry: &RestoreEntry) -> bool {
    let born = || birth_at(&spot.folder, &spot.name, stat);
    let begun = &shared.begun;
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && times(stat).0 == entry.meta.mtime
        && (begun.is_doubtful(stat) || begun.is_half_finished((stat, &entry.meta), born))
}

/// Tells of something that stays as it is and looks as if an earlier restore had left it unfinished,
/// while nothing says that one did.
pub(super) fn warn_of_mark(shared: &Shared, stat: &Stat, entry: &RestoreEntry) {
    let mode = stat.st_mode & 0o7777;
    if !has_mark_for(stat, &entry.meta) || mode & 0o5777 == entry.meta.mode & 0o5777 {
        return;
    }
    let what = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => "1700 of an unfinished folder".to_owned(),
        FileType::RegularFile => format!("{mode:o} of an unfinished file"),
        _ => format!("{mode:o} of what is unfinished"),
    };
    let detail = format!(
        "it stays as it is, with the mode {what}; if a restore into another folder left it so, \
         --overwrite always finishes it"
    );
    let finding = Finding::entry(FindingKind::Skipped, &entry.path, detail);
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
    let begun = Some(Arc::clone(&shared.begun));
    let file = existing(shared, fd, entry, &stat, (unfinished, begun))?;
    Ok(Some(Writer::InPlace(file)))
}

/// A file that holds something already. It is noted with the first change, if that is not done and it is
/// said where.
fn existing(
    shared: &Shared,
    fd: OwnedFd,
    entry: &RestoreEntry,
    stat: &Stat,
    (unfinished, begun): (bool, Option<Arc<Begun>>),
) -> Result<FileWriter, TargetError> {
    let reach = u64::try_from(stat.st_size).unwrap_or(0);
    let state = (reach, unfinished, mark_of(&entry.meta));
    let path = entry.path.clone();
    let space = Space::of(shared.config.holes, &entry.meta);
    // With the first change it belongs to root where that restores, so that the next restore knows it
    // again.
    let mut before = before_old(stat);
    before.inherits = unfinished;
    let takes = geteuid().is_root() && !shared.begun.is_owner(stat);
    before.owner.take_if(|_| takes);
    FileWriter::existing(
        File::from(fd),
        path,
        (entry.size, space, before),
        state,
        (begun, takes),
    )
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
pub(super) fn before_old(stat: &Stat) -> Before {
    Before {
        owner: Some((stat.st_uid, stat.st_gid)),
        xattrs: true,
        inherits: false,
        marked: false,
    }
}

/// Whether new content is written into the file that is there: when that is asked for, or nothing can
/// be made in its folder; and never into one of several names.
fn goes_in_place(shared: &Shared, spot: &Spot, stat: &Stat) -> bool {
    let is_closed = || {
        let may = Access::WRITE_OK | Access::EXEC_OK;
        accessat(&*spot.folder, c".", may, AtFlags::EACCESS).is_err()
    };
    stat.st_nlink == 1 && (shared.config.in_place || !geteuid().is_root() && is_closed())
}

/// Begins a file that is to take the place of another, or goes on with what an earlier restore left
/// of one.
fn start_beside(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    seen: Option<&Stat>,
) -> Result<Writer, TargetError> {
    let place = Place {
        begun: Arc::clone(&shared.begun),
        handles: Arc::clone(&shared.handles),
        folder: Arc::clone(&spot.handle),
        name: spot.name.clone(),
        path: entry.path.clone(),
        hands_on: spot.hands_on,
        is_new: seen.is_none(),
        mark: mark_of(&entry.meta),
    };
    if let Some((file, beside)) = take_up(shared, spot, entry)? {
        let place = Arc::new(place);
        return Ok(Writer::TakenUp(file, Successor { place, beside }));
    }
    let flags = OPEN | OFlags::RDONLY;
    let is_file = |seen: &&Stat| FileType::from_raw_mode(seen.st_mode) == FileType::RegularFile;
    let old = match seen.filter(is_file) {
        None => None,
        Some(seen) => match openat(&*spot.folder, &*spot.name, flags, Mode::empty()) {
            Ok(fd) => {
                same_as(seen, &fd, &entry.path)?;
                // A file of somebody else, who may have it open, or that has names of its own elsewhere,
                // is never the entry, whatever it holds.
                let is_shared = seen.st_nlink > 1 && entry.meta.link_group.is_none();
                let is_other = is_foreign(shared, seen, entry) || is_shared;
                (!is_other).then(|| File::from(fd))
            }
            Err(Errno::ACCESS) => None,
            Err(cause) => return Err(error("open", &entry.path, cause.into())),
        },
    };
    let size = (entry.size, Space::of(shared.config.holes, &entry.meta));
    let new = shared.before_new(spot);
    let before = (seen.map_or(new, before_old), new);
    Ok(Writer::Beside(Beside::new(place, size, before, old)))
}

/// The file that an earlier restore left beside one. All else that it left there is removed.
fn take_up(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<Option<(FileWriter, CString)>, TargetError> {
    let mut taken = None;
    for left in shared.begun.take_left(&entry.path) {
        if taken.is_none() {
            taken = open_left(shared, spot, entry, &left)?;
            if taken.is_some() {
                continue;
            }
        }
        remove_left_in(shared, &spot.folder, &left)
            .map_err(|cause| error("take up", &entry.path, cause))?;
    }
    remove_strays(shared, spot, &entry.path)
        .map_err(|cause| error("take up", &entry.path, cause))?;
    Ok(taken)
}

/// Removes what the last restore may have left in the folder of an entry and no note tells of.
fn remove_strays(shared: &Shared, spot: &Spot, path: &EntryPath) -> io::Result<()> {
    let begun = &shared.begun;
    let Some(of_restores) = begun.strays_in(spot.handle.id()) else {
        return Ok(());
    };
    let is_known = of_restores != Names::Any;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = match openat(&*spot.folder, c".", flags, Mode::empty()) {
        // Its owner forbids to look into it: what is there stays.
        Err(Errno::ACCESS) => return Ok(()),
        opened => opened?,
    };
    let mut buffer = [MaybeUninit::uninit(); 4 << 10];
    let mut strays = Vec::new();
    let mut names = RawDir::new(&folder, &mut buffer);
    while let Some(next) = names.next() {
        let next = next?;
        if of_restores.have(next.file_name().to_bytes()) {
            strays.push(next.file_name().to_owned());
        }
    }
    for stray in strays {
        if begun.is_noted(path, stray.to_bytes()) {
            continue;
        }
        match statat(&folder, &*stray, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if begun.is_stray(&stat, is_known) => {
                unlinkat(&folder, &*stray, AtFlags::empty())?;
            }
            Ok(stat) if begun.has_no_marks(&stat) && begun.may_be_stray(&stat) => {
                tell_stray(shared, path, &stray);
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    Ok(())
}

/// Says that a file is named like what restores make, and that nothing tells whether it is that.
fn tell_stray(shared: &Shared, path: &EntryPath, stray: &CStr) {
    let Ok(stray) = path.parent().unwrap_or_default().join(stray.to_bytes()) else {
        return;
    };
    let detail = "it is named like what a restore makes, and what earlier restores kept of that is lost; \
                  if it is not yours, delete it";
    let finding = Finding::entry(FindingKind::Skipped, &stray, detail);
    shared.findings.add(Finding {
        severity: Severity::Warning,
        ..finding
    });
}

fn open_left(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
    left: &Left,
) -> Result<Option<(FileWriter, CString)>, TargetError> {
    let (begun, folder) = (&shared.begun, &*spot.folder);
    let fail = |cause: io::Error| error("take up", &entry.path, cause);
    let Ok(fd) = openat(folder, left.name(), OPEN_FILE, Mode::empty()) else {
        return Ok(None);
    };
    let stat = fstat(&fd).map_err(|cause| error("open", &entry.path, cause.into()))?;
    if !begun.may_take_up(&stat, left) {
        return Ok(None);
    }
    // The snapshot may have an entry of the name that it has.
    let stage = Stage::Made(stat.st_ino);
    let ((), beside) = make_beside(
        begun,
        (&entry.path, &spot.name),
        stage,
        |beside| match statat(folder, beside, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => renameat(folder, left.name(), folder, beside),
            Ok(_) => Err(Errno::EXIST),
            Err(cause) => Err(cause),
        },
    )
    .map_err(fail)?;
    begun.left_settled(left);
    let is_marked = has_mark_for(&stat, &entry.meta) || !begun.systems().of(stat.st_dev).modes;
    // From here on nobody takes it for something that an earlier restore left.
    header::now(&fd).map_err(fail)?;
    let file = existing(shared, fd, entry, &stat, (is_marked, None))?;
    Ok(Some((file, beside)))
}

/// Removes what an earlier restore left beside something in an open folder, if it is still that.
pub(super) fn remove_left_in(shared: &Shared, folder: &OwnedFd, left: &Left) -> io::Result<()> {
    match statat(folder, left.name(), AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if shared.begun.is_what_was_left(&stat, left) => {
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            let flags = if is_folder {
                AtFlags::REMOVEDIR
            } else {
                AtFlags::empty()
            };
            match unlinkat(folder, left.name(), flags) {
                // Somebody uses it.
                Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(cause) => return Err(cause.into()),
            }
        }
        Ok(_) | Err(Errno::NOENT) => {}
        Err(cause) => return Err(cause.into()),
    }
    shared.begun.left_settled(left);
    Ok(())
}
