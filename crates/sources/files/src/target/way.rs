//! The way down to where the restore is: the open folders from the target folder on.
//!
//! Entries come mostly in ascending order of path, so when one comes that does not lie in a folder,
//! that folder is left; only the folders on the way are open, however many there are. Their metadata
//! waits for the end (see [`super::later`]), because files may still come for a folder that was left.
//!
//! Every step is one name in an open folder and never follows a symbolic link, so whatever stands
//! in the target folder, nothing is written outside of it.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use backup_core::{EntryMeta, EntryPath, ErrorKind, RestoreEntry, TargetError};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fchmod, fgetxattr_query, fstat, mkdir, mkdirat, openat,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::begun::Begun;
use super::beside::make_beside;
use super::closed::{CHANGE, is_closed, opened, set_mode};
use super::header::birth;
use super::journal::Stage;
use super::keeps::not_made;
use super::kept::{self, Had, There, open_there};
use super::later::{Last, Later};
use super::meta::{Before, MARK_DIR, Object};
use super::{Shared, conflict, error, invalid};
use crate::handle::{DirHandle, DirId};

/// How folders are opened.
pub(super) const FOLDER: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// One folder on the way.
#[derive(Debug)]
struct Step {
    handle: Arc<DirHandle>,
    path: EntryPath,
    /// What it gets at the end.
    last: Option<Last>,
    /// Whether something in it is or was changed, if what it had is kept for that.
    changes: bool,
    /// Whether what is created in it gets its group or a default ACL from it.
    hands_on: bool,
    /// Whether it is protected or lies in a folder that is.
    is_spared: bool,
}

/// The folders from the target folder to the current one.
#[derive(Debug)]
pub(super) struct Way {
    top: Step,
    steps: Vec<Step>,
    later: Later,
}

/// The folder that an entry is to be made in.
pub(super) struct Spot {
    pub(super) folder: Arc<OwnedFd>,
    /// To open the folder again when it was closed.
    pub(super) handle: Arc<DirHandle>,
    pub(super) name: CString,
    pub(super) hands_on: bool,
}

/// Whether what is created in a folder gets its group or a default ACL from it.
fn hands_on(fd: &OwnedFd, stat: &Stat) -> bool {
    stat.st_mode & 0o2000 != 0 || fgetxattr_query(fd, c"system.posix_acl_default").is_ok()
}

pub(super) fn c_name(path: &EntryPath, name: &[u8]) -> Result<CString, TargetError> {
    CString::new(name).map_err(|_| invalid(path, "a name holds a NUL byte"))
}

impl Step {
    /// Lets its owner change something in it if its mode forbids that. `false`: it does not, or the folder is
    /// somebody else's, which the making of something in it will say.
    fn opens_up(&mut self, shared: &Shared) -> bool {
        let (Some(Last::Keeps(had) | Last::Becomes(_, _, Some(had))), Ok(folder)) =
            (&mut self.last, shared.handles.get(&self.handle))
        else {
            return false;
        };
        let closed = fstat(&*folder).ok().filter(|stat| is_closed(stat, CHANGE));
        let Some(stat) = closed else { return false };
        let noted = self.changes.then_some(*had);
        *had = kept::opens_up(shared, &self.path, &stat, (*had, noted));
        // If it cannot be, the same is said.
        let _ = set_mode(&folder, opened(stat.st_mode));
        true
    }
}

impl Way {
    /// At the target folder. If no restore made it, it stays until something else is said.
    pub(super) fn new(top: OwnedFd, later: Later, begun: &Begun) -> Result<Self, Errno> {
        let stat = fstat(&top)?;
        let hands_on = hands_on(&top, &stat);
        let is_there = !begun.has_made_folder();
        let noted = is_there.then(|| begun.take_had(&EntryPath::root(), &stat));
        let noted = noted.flatten();
        let last = is_there.then(|| Last::Keeps(noted.unwrap_or(Had::of(&stat))));
        let handle = DirHandle::top(top).map_err(|_| Errno::IO)?;
        let top = Step {
            handle,
            path: EntryPath::root(),
            last,
            changes: noted.is_some(),
            hands_on,
            is_spared: false,
        };
        Ok(Self {
            top,
            steps: Vec::new(),
            later,
        })
    }

    fn current(&self) -> &Step {
        self.steps.last().unwrap_or(&self.top)
    }

    /// The target folder.
    pub(super) fn top(&self) -> &Arc<DirHandle> {
        &self.top.handle
    }

    /// Sets the metadata that the target folder itself gets at the end.
    pub(super) fn finish_top_with(&mut self, begun: &Begun, meta: EntryMeta) {
        let before = Before {
            owner: None,
            xattrs: true,
            inherits: begun.has_made_folder(),
            marked: begun.has_made_folder(),
        };
        let had = self.top_had();
        self.top.last = Some(Last::Becomes(meta, before, had));
    }

    /// What the target folder had before anything in it was changed, if that stays so far.
    pub(super) fn top_had(&self) -> Option<Had> {
        match &self.top.last {
            Some(Last::Keeps(had)) => Some(*had),
            _ => None,
        }
    }

    /// Goes to the folder that holds `path`: leaves folders that are done and makes those that
    /// are missing (when only a part of a snapshot is restored, nobody says what they are like).
    /// `None`: that folder is protected, or lies in one that is.
    pub(super) fn go_to(
        &mut self,
        shared: &Shared,
        path: &EntryPath,
    ) -> Result<Option<Spot>, TargetError> {
        while !path.starts_with(&self.current().path) || *path == self.current().path {
            if self.steps.is_empty() {
                break;
            }
            self.leave(shared)?;
        }
        let known = self.current().path.components().count();
        let mut names = path.components().skip(known).peekable();
        while let Some(name) = names.next() {
            let step = self.current();
            if step.is_spared {
                return Ok(None);
            }
            let name = c_name(path, name)?;
            if names.peek().is_none() {
                let hands_on = step.hands_on;
                let folder = self.open(shared, step)?;
                return Ok(Some(Spot {
                    folder,
                    handle: Arc::clone(&step.handle),
                    name,
                    hands_on,
                }));
            }
            self.pass(shared, &name)?;
        }
        Err(invalid(path, "it has no name"))
    }

    fn open(&self, shared: &Shared, step: &Step) -> Result<Arc<OwnedFd>, TargetError> {
        shared
            .handles
            .get(&step.handle)
            .map_err(|cause| error("open", &step.path, cause))
    }

    /// Goes down into a folder that the snapshot says nothing about.
    fn pass(&mut self, shared: &Shared, name: &CStr) -> Result<(), TargetError> {
        let above = self.open(shared, self.current())?;
        let path = self.current().path.join(name.to_bytes());
        let path = path.map_err(|cause| invalid(&self.current().path, &cause.to_string()))?;
        let systems = shared.begun.systems();
        let id = self.current().handle.id();
        systems.check_name((&above, id), &path, name)?;
        if statat(&*above, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            let there = open_there(shared, (&above, name), &path)?;
            let last = Some((Last::Keeps(there.had), there.is_noted));
            return self.enter(shared, name, there.fd, path, last);
        }
        self.keep(shared);
        let made = mkdirat(&*above, name, Mode::from_raw_mode(0o777));
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(cause) => {
                let keeps = systems.of(id.0);
                return Err(not_made(&keeps, "create folder", &path, cause.into()));
            }
        }
        let fd = openat(&*above, name, FOLDER, Mode::empty());
        let fd = fd.map_err(|cause| not_a_folder(&path, cause))?;
        self.enter(shared, name, fd, path, None)
    }

    /// Whether the current folder was there, and nothing is known yet to change in it.
    pub(super) fn stays(&self) -> bool {
        let step = self.current();
        let is_kept = matches!(
            step.last,
            Some(Last::Keeps(_) | Last::Becomes(_, _, Some(_)))
        );
        is_kept && !step.changes
    }

    /// Something is about to be made or replaced in the current folder: what it had is noted, if it was
    /// there, and it is opened up if it forbids that.
    pub(super) fn keep(&mut self, shared: &Shared) {
        if !self.stays() {
            return;
        }
        let step = self.steps.last_mut().unwrap_or(&mut self.top);
        if !step.opens_up(shared)
            && let Some(Last::Keeps(had) | Last::Becomes(_, _, Some(had))) = &step.last
            // What is written in place is noted, too, and a full disk has room for little.
            && !shared.config.in_place
        {
            shared.begun.note_had(&step.path, step.handle.id(), *had);
        }
        step.changes = true;
    }

    /// Goes down into a folder, which gets something at the end.
    pub(super) fn enter(
        &mut self,
        shared: &Shared,
        name: &CStr,
        fd: OwnedFd,
        path: EntryPath,
        last: Option<(Last, bool)>,
    ) -> Result<(), TargetError> {
        let stat = fstat(&fd).map_err(|cause| error("open", &path, cause.into()))?;
        let hands_on = hands_on(&fd, &stat);
        let handle = shared
            .handles
            .adopt(&self.current().handle, name, false, fd);
        let handle = handle.map_err(|cause| error("open", &path, cause))?;
        let (last, changes) = last.unzip();
        let is_spared = self.current().is_spared || shared.spared.is_own(handle.id());
        let changes = changes.unwrap_or(false);
        let mut step = Step {
            handle,
            path,
            last,
            changes,
            hands_on,
            is_spared,
        };
        // An earlier restore was to change something in it.
        if changes {
            step.opens_up(shared);
        }
        self.steps.push(step);
        Ok(())
    }

    /// The protected folder that the current one is or lies in.
    pub(super) fn spared(&self) -> &EntryPath {
        let spared = self.steps.iter().find(|step| step.is_spared);
        spared.map_or(&self.top.path, |step| &step.path)
    }

    /// Leaves the current folder.
    ///
    /// # Errors
    /// When there is no room to keep what it is to get: then it stays marked for the next restore, as all
    /// that come after it would.
    fn leave(&mut self, shared: &Shared) -> Result<(), TargetError> {
        let Some(step) = self.steps.pop() else {
            return Ok(());
        };
        let last = match &step.last {
            None => return Ok(()),
            Some(Last::Keeps(_)) if !step.changes => return Ok(()),
            Some(last) => last,
        };
        let added = (self.later).add(&step.path, step.handle.id(), last);
        let Err(cause) = added else { return Ok(()) };
        shared.leave_unfinished();
        let error = error("finish folder", &step.path, cause);
        if error.kind == ErrorKind::NoSpace {
            return Err(error);
        }
        shared.fail(&error);
        Ok(())
    }

    /// Leaves all folders and sets their metadata, that of the target folder last.
    ///
    /// # Errors
    /// When there is no room to keep what one is to get; the others have it.
    pub(super) fn leave_all(&mut self, shared: &Shared) -> Result<(), TargetError> {
        let mut left = Ok(());
        while !self.steps.is_empty() {
            left = left.and(self.leave(shared));
        }
        self.finish_all(shared);
        left
    }

    /// After a restore that is broken off: folders that stay get their times back, the others stay marked.
    pub(super) fn give_times_back(&mut self, shared: &Shared) {
        while !self.steps.is_empty() {
            let _ = self.leave(shared);
        }
        let Ok(top) = shared.handles.get(&self.top.handle) else {
            return;
        };
        // What cannot be given back now is noted for the next restore.
        let _ = self.later.drain(|(path, id, last)| {
            if matches!(last, Last::Keeps(_)) {
                finish(shared, &top, (&path, id), &last);
            }
        });
        if self.top.changes
            && let Some(last) = (self.top.last).take_if(|last| matches!(last, Last::Keeps(_)))
        {
            let id = self.top.handle.id();
            finish(shared, &top, (&self.top.path, id), &last);
        }
    }

    fn finish_all(&mut self, shared: &Shared) {
        let top = match shared.handles.get(&self.top.handle) {
            Ok(top) => top,
            Err(cause) => {
                shared.leave_unfinished();
                return shared.fail(&error("finish folder", &self.top.path, cause));
            }
        };
        let drained = self.later.drain(|(path, id, last)| {
            finish(shared, &top, (&path, id), &last);
        });
        if let Err(cause) = drained {
            shared.leave_unfinished();
            shared.fail(&error("finish folder", &self.top.path, cause));
        }
        if self.top_had().is_some() && !self.top.changes {
            return;
        }
        if let Some(last) = self.top.last.take() {
            let id = self.top.handle.id();
            finish(shared, &top, (&self.top.path, id), &last);
        } else if shared.begun.has_made_folder()
            && let Err(cause) = make_plain(&shared.begun, &top)
        {
            shared.fail(&error("finish folder", &self.top.path, cause));
        }
    }
}

/// Makes the target folder, and what is missing above it. `false`: it is there.
///
/// Until it is finished nobody else may look into it, for the snapshot may say so of it.
pub(super) fn make_top(folder: &Path) -> io::Result<bool> {
    if folder.exists() {
        return Ok(false);
    }
    if let Some(above) = folder.parent() {
        std::fs::create_dir_all(above)?;
    }
    match mkdir(folder, Mode::from_raw_mode(MARK_DIR)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(cause) => Err(cause.into()),
    }
}

/// Gives the target folder, of which the snapshot says nothing, the mode of any new folder. What that
/// is depends on the umask and on ACLs that are handed down, so one is made to see it, under a name
/// that nothing has.
fn make_plain(begun: &Begun, top: &OwnedFd) -> io::Result<()> {
    const NAME: &CStr = c"folder";
    let path = EntryPath::root().join(NAME.to_bytes());
    let path = path.map_err(io::Error::other)?;
    let ((), beside) = make_beside(begun, (&path, NAME), Stage::Announced, |beside| {
        mkdirat(top, beside, Mode::from_raw_mode(0o777))
    })?;
    let plain = statat(top, &*beside, AtFlags::SYMLINK_NOFOLLOW);
    unlinkat(top, &*beside, AtFlags::REMOVEDIR)?;
    begun.settled(&path, beside.to_bytes());
    let top = openat(top, c".", FOLDER, Mode::empty())?;
    Ok(fchmod(top, Mode::from_raw_mode(plain?.st_mode & 0o7777))?)
}

/// Sets the metadata of a folder, which is reached from the target folder step by step.
fn finish(shared: &Shared, top: &OwnedFd, (path, id): (&EntryPath, DirId), last: &Last) {
    let opened = kept::open(top, path);
    let (meta, before, had) = match last {
        Last::Becomes(meta, before, had) => (meta, *before, had),
        Last::Keeps(had) => {
            // Whoever took it away took its time with it.
            if let Ok(fd) = opened {
                kept::give_back(shared, &fd, (path, id), *had);
            }
            return;
        }
    };
    let is_it = |fd: &OwnedFd| fstat(fd).is_ok_and(|stat| shared.begun.is_folder(&stat, id));
    match opened {
        Ok(fd) if !is_it(&fd) => {
            let why = "another folder has taken its place";
            shared.fail(&conflict(path, why));
        }
        Ok(fd) => {
            let object = Object::Open(fd.as_fd());
            let findings = &shared.findings;
            shared.applier.apply(&object, path, meta, before, findings);
            if let Some(had) = had {
                shared.begun.had_settled(path, id, *had);
            }
        }
        Err(cause) => {
            shared.leave_unfinished();
            shared.fail(&error("finish folder", path, cause.into()));
        }
    }
}

/// Something that is no folder stands where one should, or a link, which is not followed.
pub(super) fn not_a_folder(path: &EntryPath, cause: Errno) -> TargetError {
    if matches!(cause, Errno::NOTDIR | Errno::LOOP) {
        return TargetError::new(ErrorKind::Conflict, "open", path.to_string())
            .because("something that is not a folder stands in its place");
    }
    error("open", path, cause.into())
}

/// What a folder that the snapshot has is to become.
pub(super) enum Folder {
    /// It was made, or left unfinished by an earlier restore.
    Ours(OwnedFd),
    /// It was there.
    There(There),
    /// Something else is in its place.
    Else(Stat),
}

/// Makes a folder or opens the one that is there.
pub(super) fn make_folder(
    shared: &Shared,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<Folder, TargetError> {
    let (folder, path) = (&*spot.folder, &entry.path);
    let keeps = shared.begun.systems().of(spot.handle.id().0);
    let open = || openat(folder, &*spot.name, FOLDER, Mode::empty());
    match mkdirat(folder, &*spot.name, Mode::from_raw_mode(MARK_DIR)) {
        Ok(()) => {
            let fd = open().map_err(|cause| not_a_folder(path, cause))?;
            if spot.hands_on && keeps.modes {
                mark(&fd).map_err(|cause| error("create folder", path, cause.into()))?;
            }
            return Ok(Folder::Ours(fd));
        }
        Err(Errno::EXIST) => {}
        Err(cause) => return Err(not_made(&keeps, "create folder", path, cause.into())),
    }
    let stat = statat(folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|cause| error("create folder", path, cause.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(Folder::Else(stat));
    }
    let there = open_there(shared, (folder, &spot.name), path)?;
    let (fd, stat) = (&there.fd, &there.stat);
    if shared
        .begun
        .is_unfinished((stat, &entry.meta), || birth(fd))
        || shared.begun.is_folder_of_earlier(fd, stat)
    {
        return Ok(Folder::Ours(there.fd));
    }
    Ok(Folder::There(there))
}

/// Makes a folder that is marked as unfinished, under a name that nothing has.
pub(super) fn make_marked(begun: &Begun, spot: &Spot, name: &CStr) -> Result<OwnedFd, Errno> {
    mkdirat(&*spot.folder, name, Mode::from_raw_mode(MARK_DIR))?;
    let made = openat(&*spot.folder, name, FOLDER, Mode::empty()).and_then(|fd| {
        if spot.hands_on && begun.systems().of(spot.handle.id().0).modes {
            mark(&fd)?;
        }
        Ok(fd)
    });
    made.inspect_err(|_| _ = unlinkat(&*spot.folder, name, AtFlags::REMOVEDIR))
}

/// Gives a new folder the mark, and its owner what a default ACL took from them.
fn mark(fd: &OwnedFd) -> Result<(), Errno> {
    let mode = fstat(fd)?.st_mode & 0o7777;
    if mode & MARK_DIR == MARK_DIR {
        return Ok(());
    }
    fchmod(fd, Mode::from_raw_mode(mode & 0o2000 | MARK_DIR))
}
