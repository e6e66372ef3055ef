//! Hard links: the first name of a file is the file, further names are linked to it.
//!
//! A further name may come while the content of the first is still on its way. Only when that has
//! come is the further name restored, too; if it cannot be had, all are names of an unfinished file.
//! Where the first is written beside a file that is there, further names are linked when it has its
//! name: until then what stands under them stays, too. Where it is written into a file that is there,
//! they are linked when it is whole: until then it is a file of somebody else, and so would they be.
//!
//! A first that was there and stays as it is looks like the saved one, by size and time; that says
//! nothing of its content. So it is read before anything is linked to it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backup_core::{
    EntryPath, ErrorKind, Finding, FindingKind, OpContext, RestoreEntry, Severity, TargetError,
};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, linkat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::alike::{has_content, looks_same};
use super::beside::make_beside;
use super::fate::Fate;
use super::groups::{First, Groups, State};
use super::journal::Stage;
use super::replace::{make_way, may_clear_place};
use super::restore::skip;
use super::way::{Spot, c_name};
use super::writer::{Writer, remove_left_in};
use super::{Shared, error, partial, refused};
use crate::handle::{DirHandle, DirId};

/// A further name.
#[derive(Debug)]
enum Further {
    /// It is linked already, and new or not.
    Linked(EntryPath, bool),
    /// It is to be linked when the first has its name.
    Later(Box<RestoreEntry>, Arc<DirHandle>, CString),
}

/// A first name whose content is on its way.
#[derive(Debug)]
struct Awaited {
    group: u64,
    /// Names that wait for it.
    waiting: Vec<Further>,
}

/// The files that have several names.
#[derive(Debug)]
pub(super) struct Links(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    groups: Groups,
    awaited: HashMap<EntryPath, Awaited>,
}

impl Links {
    /// None yet. `folder` is where what does not fit in memory is kept.
    pub(super) fn new(folder: &Path) -> Self {
        Self(Mutex::new(Inner {
            groups: Groups::new(folder),
            awaited: HashMap::new(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a further name, links it, or names it, as what becomes of the first demands.
    fn add(&self, shared: &Shared, group: u64, further: Further) -> io::Result<()> {
        let mut inner = self.lock();
        let Inner { groups, awaited } = &mut *inner;
        let Some(first) = groups.get(group)? else {
            return Ok(());
        };
        if let Some(awaited) = awaited.get_mut(&first.path) {
            awaited.waiting.push(further);
            return Ok(());
        }
        let first = first.clone();
        drop(inner);
        match &first.state {
            State::Failed => tell(shared, &first.path, &further),
            State::Partial(kept) => {
                let kept = EntryPath::from_stored(kept).map_err(io::Error::other)?;
                keep_in_part(shared, (first.id, &kept), &further);
            }
            State::Whole | State::Unread | State::Other => {
                settle(shared, (&first.path, first.id), further);
            }
        }
        Ok(())
    }

    /// Says what became of the content of an entry, be it a first name or not: the file that has it;
    /// `None`: it is not whole.
    pub(super) fn settle(&self, shared: &Shared, path: &EntryPath, whole: Option<DirId>) {
        let Some(awaited) = self.take(shared, path, |first| match whole {
            Some(id) => first.id = id,
            None => first.state = State::Failed,
        }) else {
            return;
        };
        for further in awaited.waiting {
            match whole {
                Some(id) => settle(shared, (path, id), further),
                None => tell(shared, path, &further),
            }
        }
    }

    /// Says that of the content of an entry a part is lost, and where the rest is.
    pub(super) fn keep_in_part(
        &self,
        shared: &Shared,
        path: &EntryPath,
        id: DirId,
        kept: &EntryPath,
    ) {
        let waiting = self.take(shared, path, |first| {
            first.id = id;
            first.state = State::Partial(kept.as_stored().to_vec());
        });
        for further in waiting.iter().flat_map(|awaited| &awaited.waiting) {
            keep_in_part(shared, (id, kept), further);
        }
    }

    /// Awaits the content of an entry no longer, if it is a first name, and changes what is known of
    /// it.
    fn take(
        &self,
        shared: &Shared,
        path: &EntryPath,
        change: impl FnOnce(&mut First),
    ) -> Option<Awaited> {
        let mut inner = self.lock();
        let awaited = inner.awaited.remove(path)?;
        if let Err(cause) = inner.groups.change(awaited.group, change) {
            // Whatever is linked to it from here on is not linked to anything else.
            shared.fail(&error("link to", path, cause));
        }
        Some(awaited)
    }
}

/// Of the first a part is lost: what was linked to it already must not be taken for whole, either.
fn keep_in_part(shared: &Shared, (id, kept): (DirId, &EntryPath), further: &Further) {
    let path = match further {
        Further::Linked(path, _) => {
            if let Err(cause) = partial::rename_entry(shared, path, id) {
                shared.fail(&error("keep a part of", path, cause));
            }
            path
        }
        Further::Later(entry, ..) => &entry.path,
    };
    let detail = format!("it is a name of the file of which the rest is in /{kept}");
    let finding = Finding::entry(FindingKind::Damaged, path, detail);
    shared.findings.add(finding);
}

/// The first has its name: so has the further one now.
fn settle(shared: &Shared, first: (&EntryPath, DirId), further: Further) {
    match further {
        Further::Linked(_, is_new) => count(shared, is_new),
        Further::Later(entry, folder, name) => match link(shared, first, &entry, folder, name) {
            Ok(is_new) => count(shared, is_new),
            Err(error) => shared.fail(&error),
        },
    }
}

/// Links a further name to the first, which is that file, in the place of what stands there. Returns
/// whether it is new.
fn link(
    shared: &Shared,
    (first, id): (&EntryPath, DirId),
    entry: &RestoreEntry,
    handle: Arc<DirHandle>,
    name: CString,
) -> Result<bool, TargetError> {
    let fail = |cause: io::Error| error("link", &entry.path, cause);
    let old = Old {
        folder: open_folder(shared, &shared.top, first).map_err(fail)?,
        name: c_name(first, first.name().unwrap_or_default())?,
        id,
    };
    let spot = Spot {
        folder: shared.handles.get(&handle).map_err(fail)?,
        handle,
        name,
        hands_on: true,
    };
    let there = match lstat(&spot) {
        Ok(there) => Some(there),
        Err(Errno::NOENT) => None,
        Err(cause) => return Err(fail(cause.into())),
    };
    match there {
        Some(there) if (there.st_dev, there.st_ino) == id => return Ok(false),
        Some(_) => return link_beside(shared, &old, &spot, entry),
        None => {}
    }
    match old.link_as(&spot.folder, &spot.name) {
        Ok(true) => Ok(true),
        Ok(false) => Err(fail(io::Error::other(REPLACED))),
        Err(cause) => Err(fail(cause.into())),
    }
}

/// Links a further name beside what stands in its place, and lets it take that.
fn link_beside(
    shared: &Shared,
    old: &Old,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<bool, TargetError> {
    let (begun, folder) = (&shared.begun, &*spot.folder);
    let fail = |cause: io::Error| error("link", &entry.path, cause);
    for left in begun.take_left(&entry.path) {
        remove_left_in(shared, folder, &left).map_err(fail)?;
    }
    let beside = old.link_beside(shared, spot, entry).map_err(fail)?;
    let taken = make_way(shared, spot, entry).and_then(|()| {
        let taken = renameat(folder, &*beside, folder, &*spot.name);
        taken.map_err(|cause| fail(cause.into()))
    });
    if taken.is_err() {
        let _ = unlinkat(folder, &*beside, AtFlags::empty());
    }
    begun.settled(&entry.path, beside.to_bytes());
    taken.map(|()| true)
}

/// Why a name is not linked.
const REPLACED: &str = "what it is a link to has been replaced by something else";

/// The file that further names are linked to.
struct Old {
    folder: Arc<OwnedFd>,
    name: CString,
    id: DirId,
}

impl Old {
    /// Gives the file a further name beside what stands in the place of an entry. It is noted.
    fn link_beside(
        &self,
        shared: &Shared,
        spot: &Spot,
        entry: &RestoreEntry,
    ) -> io::Result<CString> {
        let (begun, stage) = (&shared.begun, Stage::Linked(self.id.1));
        let (linked, beside) = make_beside(begun, (&entry.path, &spot.name), stage, |beside| {
            self.link_as(&spot.folder, beside)
        })?;
        if linked {
            return Ok(beside);
        }
        begun.settled(&entry.path, beside.to_bytes());
        Err(io::Error::other(REPLACED))
    }

    /// Whether the file can have a further name where something stands that is to stay for now.
    fn can_link(&self, shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> io::Result<()> {
        let beside = self.link_beside(shared, spot, entry)?;
        unlinkat(&*spot.folder, &*beside, AtFlags::empty())?;
        shared.begun.settled(&entry.path, beside.to_bytes());
        Ok(())
    }

    /// Gives the file a further name. `false`: another file has its name, which gets none.
    fn link_as(&self, folder: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
        let is_it = |folder: &OwnedFd, name: &CStr| {
            let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok::<_, Errno>((stat.st_dev, stat.st_ino) == self.id)
        };
        if !is_it(&self.folder, &self.name)? {
            return Ok(false);
        }
        linkat(&*self.folder, &*self.name, folder, name, AtFlags::empty())?;
        // Another may have taken its place just before.
        if is_it(folder, name)? {
            return Ok(true);
        }
        unlinkat(folder, name, AtFlags::empty())?;
        Ok(false)
    }
}

fn count(shared: &Shared, is_new: bool) {
    let count = if is_new {
        &shared.written
    } else {
        &shared.skipped
    };
    count.fetch_add(1, Ordering::Relaxed);
}

/// Says that a name is one of a file that is not whole.
fn tell(shared: &Shared, first: &EntryPath, further: &Further) {
    let further = match further {
        Further::Linked(path, _) => path,
        Further::Later(entry, ..) => &entry.path,
    };
    let detail = format!("it is a link to /{first}, whose content could not be restored");
    let finding = Finding::entry(FindingKind::Damaged, further, detail);
    shared.findings.add(finding);
}

fn lstat(spot: &Spot) -> Result<Stat, Errno> {
    statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)
}

impl Links {
    /// The first of a group. There is room for another one then.
    fn first_of(&self, group: u64) -> io::Result<Option<First>> {
        let mut inner = self.lock();
        inner.groups.make_room()?;
        Ok(inner.groups.get(group)?.cloned())
    }

    /// Remembers an entry that was just started as the first of its group: one whose content is
    /// being restored (by that writer), or one that was there and looks the same.
    pub(super) fn note(&self, spot: &Spot, entry: &RestoreEntry, started: Option<&Writer>) {
        let Some(group) = entry.meta.link_group else {
            return;
        };
        let mut inner = self.lock();
        // It was looked for just now, so it is in memory if there is one.
        let known = inner.groups.recent(group);
        if known.is_some_and(|first| first.state != State::Other) {
            return;
        }
        let beside = started.is_some_and(|writer| !writer.is_in_place());
        let (id, same) = match lstat(spot) {
            Ok(stat) => ((stat.st_dev, stat.st_ino), looks_same(spot, &stat, entry)),
            // It has no name yet, and no inode has that number.
            Err(_) if beside => ((spot.handle.id().0, 0), false),
            Err(_) => return,
        };
        if started.is_none() && !same {
            return;
        }
        let state = match started.is_none() && entry.meta.kind.has_content() {
            true => State::Unread,
            false => State::Whole,
        };
        if started.is_some() {
            let awaited = Awaited {
                group,
                waiting: Vec::new(),
            };
            inner.awaited.insert(entry.path.clone(), awaited);
        }
        let first = First {
            path: entry.path.clone(),
            kind: entry.meta.kind.clone(),
            size: entry.size,
            mtime: entry.meta.mtime,
            sha256: entry.sha256,
            id,
            beside,
            was_there: started.is_some_and(Writer::was_there),
            state,
        };
        inner.groups.put(group, first);
    }

    /// Links an entry to the first of its group. `false`: it is to be made as a file of its own.
    pub(super) fn try_link(
        &self,
        shared: &Shared,
        cx: &OpContext,
        spot: &Spot,
        entry: &RestoreEntry,
    ) -> Result<bool, TargetError> {
        let Some(group) = entry.meta.link_group else {
            return Ok(false);
        };
        let fail = |cause| error("link", &entry.path, cause);
        let Some(first) = self.first_of(group).map_err(fail)? else {
            return Ok(false);
        };
        let first = &first;
        let degraded = |why: &str| {
            let path = &first.path;
            let detail = format!("it is a file of its own and no link to {path}: {why}");
            let finding = Finding::entry(FindingKind::Degraded, &entry.path, detail);
            shared.findings.add(Finding {
                severity: Severity::Warning,
                ..finding
            });
            Ok(false)
        };
        let agrees = first.kind == entry.meta.kind
            && first.size == entry.size
            && first.mtime == entry.meta.mtime
            && (first.sha256.is_none() || entry.sha256.is_none() || first.sha256 == entry.sha256);
        if !agrees {
            return degraded("the snapshot has them different");
        }
        let there = match lstat(spot) {
            Ok(stat) => Some(stat),
            Err(Errno::NOENT) => None,
            Err(cause) => return Err(error("link", &entry.path, cause.into())),
        };
        // What is there stays as anything that is there, be it a link or not.
        let has_links = shared.begun.systems().of(spot.handle.id().0).links;
        if !has_links && there.is_some() {
            return Ok(false);
        }
        if !has_links {
            return degraded("this file system has none");
        }
        if let Some(there) = &there {
            let linked = (there.st_dev, there.st_ino) == first.id;
            let fate = shared.fate(there, entry);
            let begun = &shared.begun;
            let is_left = || {
                let seen = (there, &entry.meta);
                begun.is_unfinished_at(&spot.folder, &spot.name, seen)
                    || begun.take_in_place(&entry.path, seen)
            };
            if linked && !first.beside {
                let further = Further::Linked(entry.path.clone(), false);
                self.add(shared, group, further).map_err(fail)?;
                return Ok(true);
            }
            if fate == Fate::Stays && !linked && !is_left() {
                skip(shared);
                return Ok(true);
            }
            if fate == Fate::Refused {
                return Err(refused(&entry.path));
            }
        }
        if let Some(why) = self.distrust(shared, cx, (group, first), entry)? {
            return degraded(&why);
        }
        if let Some(there) = &there {
            may_clear_place(shared, spot, entry, there)?;
        }
        match self.link_to(shared, (group, first), spot, entry, there.is_some())? {
            Some(why) => degraded(&why),
            None => Ok(true),
        }
    }

    /// Why nothing is linked to a first name that was there; `None`: it has the content that the
    /// snapshot has of it.
    fn distrust(
        &self,
        shared: &Shared,
        cx: &OpContext,
        (group, first): (u64, &First),
        entry: &RestoreEntry,
    ) -> Result<Option<String>, TargetError> {
        let mut state = first.state.clone();
        if state == State::Unread {
            state = match has_content(shared, cx, first) {
                Ok(true) => State::Whole,
                Ok(false) => State::Other,
                Err(_) if cx.cancel.is_cancelled() => {
                    let subject = entry.path.to_string();
                    return Err(TargetError::new(ErrorKind::Cancelled, "link", subject));
                }
                Err(cause) => return Ok(Some(format!("that cannot be compared: {cause}"))),
            };
            let new = state.clone();
            let mut inner = self.lock();
            let changed = inner.groups.change(group, |first| first.state = new);
            changed.map_err(|cause| error("link", &entry.path, cause))?;
        }
        let is_other = state == State::Other;
        Ok(is_other.then(|| "that has other content and stays as it is".into()))
    }

    /// Links an entry to the first of its group, now or when that has its name. Returns why it
    /// cannot be linked.
    fn link_to(
        &self,
        shared: &Shared,
        (group, first): (u64, &First),
        spot: &Spot,
        entry: &RestoreEntry,
        is_there: bool,
    ) -> Result<Option<String>, TargetError> {
        let fail = |cause: io::Error| error("link", &entry.path, cause);
        let later = || {
            let (handle, name) = (Arc::clone(&spot.handle), spot.name.clone());
            let further = Further::Later(Box::new(entry.clone()), handle, name);
            self.add(shared, group, further).map_err(fail)?;
            Ok(None)
        };
        if first.beside {
            if spot.handle.id().0 != first.id.0 {
                return Ok(Some("it is on another file system".into()));
            }
            return later();
        }
        let folder = match open_folder(shared, &shared.top, &first.path) {
            Ok(folder) => folder,
            Err(cause) => return Ok(Some(cause.to_string())),
        };
        let name = c_name(&first.path, first.path.name().unwrap_or_default())?;
        let id = first.id;
        let old = Old { folder, name, id };
        if is_there || first.was_there {
            // What is there stays until the content of the first is whole; and so long nothing says of a
            // name that is new that it is not.
            return match old.can_link(shared, spot, entry) {
                Ok(()) => later(),
                Err(cause) => Ok(Some(cause.to_string())),
            };
        }
        match old.link_as(&spot.folder, &spot.name) {
            Ok(true) => {
                let further = Further::Linked(entry.path.clone(), true);
                self.add(shared, group, further).map_err(fail)?;
                Ok(None)
            }
            Ok(false) => Ok(Some("that has been replaced by something else".into())),
            // Of its content a part is lost, and what there is has another name.
            Err(Errno::NOENT) => Ok(Some("that is not there".into())),
            Err(cause @ (Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP)) => {
                Ok(Some(io::Error::from(cause).to_string()))
            }
            Err(cause) => Err(fail(cause.into())),
        }
    }
}

/// Opens the folder of an entry from the top, following no link on the way.
pub(super) fn open_folder(
    shared: &Shared,
    top: &Arc<DirHandle>,
    path: &EntryPath,
) -> io::Result<Arc<OwnedFd>> {
    let mut fd = shared.handles.get(top)?;
    let folder = path.parent().unwrap_or_default();
    for name in folder.components() {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        fd = Arc::new(openat(&*fd, name, flags, Mode::empty())?);
    }
    Ok(fd)
}
