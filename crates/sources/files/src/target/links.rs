//! Hard links: the first name of a file is the file, further names are linked to it.
//!
//! A further name may come while the content of the first is still on its way. Only when that has
//! come is the further name restored, too; if it cannot be had, all are names of an unfinished file.
//! Where the first is written beside a file that is there, further names are linked when it has its
//! name: until then what stands under them stays, too.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backup_core::{
    EntryKind, EntryPath, FileTime, Finding, FindingKind, RestoreEntry, Severity, TargetError,
};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, linkat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::beside::make_beside;
use super::fate::Fate;
use super::journal::Stage;
use super::replace::{make_way, may_clear_place};
use super::restore::skip;
use super::way::{Spot, c_name};
use super::writer::{Writer, remove_left_in};
use super::{Shared, error, partial, refused};
use crate::handle::{DirHandle, DirId};
use crate::walk::meta;

/// The first name of a group, and what its other names must agree with: two files that share a
/// number by accident, or that were caught in the middle of a change, must not become one.
#[derive(Debug)]
struct First {
    path: EntryPath,
    kind: EntryKind,
    size: u64,
    mtime: FileTime,
    sha256: Option<[u8; 32]>,
    id: DirId,
    /// Whether its content is, or was, written beside it.
    beside: bool,
}

/// A further name.
#[derive(Debug)]
enum Further {
    /// It is linked already, and new or not.
    Linked(EntryPath, bool),
    /// It is to be linked when the first has its name.
    Later(Box<RestoreEntry>, Arc<DirHandle>, CString),
}

/// What is known of the content of a first name.
#[derive(Debug)]
enum Content {
    /// It is on its way, for now into the file of that number or one beside it; further names wait
    /// for it.
    Awaited(DirId, Vec<Further>),
    /// It is not whole.
    Failed,
    /// It was written beside a file, and is this one.
    Replaced(DirId),
    /// A part of it is lost; the rest is that file, which has another name.
    Partial(DirId, EntryPath),
}

/// First names whose content is not there, or is in another file than when they were begun. Others
/// are taken off when it is there, so they are few.
#[derive(Debug, Default)]
pub(super) struct Unsettled(Mutex<HashMap<EntryPath, Content>>);

impl Unsettled {
    fn lock(&self) -> MutexGuard<'_, HashMap<EntryPath, Content>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn await_content(&self, first: &EntryPath, id: DirId) {
        let content = Content::Awaited(id, Vec::new());
        self.lock().insert(first.clone(), content);
    }

    /// Counts a further name, links it, or names it, as what becomes of the first demands.
    fn add(&self, shared: &Shared, first: &First, further: Further) {
        let mut unsettled = self.lock();
        let id = match unsettled.get_mut(&first.path) {
            Some(Content::Awaited(_, waiting)) => return waiting.push(further),
            Some(Content::Failed) => return tell(shared, &first.path, &further),
            Some(Content::Replaced(id)) => *id,
            Some(Content::Partial(id, kept)) => {
                return keep_in_part(shared, (*id, kept), &further);
            }
            None => first.id,
        };
        drop(unsettled);
        settle(shared, (&first.path, id), further);
    }

    /// Says what became of the content of an entry, be it a first name or not: the file that has it;
    /// `None`: it is not whole.
    pub(super) fn settle(&self, shared: &Shared, path: &EntryPath, whole: Option<DirId>) {
        let mut unsettled = self.lock();
        let Some(Content::Awaited(begun, waiting)) = unsettled.remove(path) else {
            return;
        };
        if whole != Some(begun) {
            let content = whole.map_or(Content::Failed, Content::Replaced);
            unsettled.insert(path.clone(), content);
        }
        drop(unsettled);
        for further in waiting {
            match whole {
                Some(id) => settle(shared, (path, id), further),
                None => tell(shared, path, &further),
            }
        }
    }
}

impl Unsettled {
    /// Says that of the content of an entry a part is lost, and where the rest is.
    pub(super) fn keep_in_part(
        &self,
        shared: &Shared,
        path: &EntryPath,
        id: DirId,
        kept: &EntryPath,
    ) {
        let mut unsettled = self.lock();
        let Some(Content::Awaited(_, waiting)) = unsettled.remove(path) else {
            return;
        };
        unsettled.insert(path.clone(), Content::Partial(id, kept.clone()));
        drop(unsettled);
        for further in &waiting {
            keep_in_part(shared, (id, kept), further);
        }
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

/// First names by the number of their group.
#[derive(Debug, Default)]
pub(super) struct Links(HashMap<u64, First>);

fn lstat(spot: &Spot) -> Result<Stat, Errno> {
    statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW)
}

impl Links {
    /// Remembers an entry that was just started as the first of its group: one whose content is
    /// being restored (by that writer), or one that was there and looks the same.
    pub(super) fn note(
        &mut self,
        shared: &Shared,
        spot: &Spot,
        entry: &RestoreEntry,
        started: Option<&Writer>,
    ) {
        let Some(group) = entry.meta.link_group else {
            return;
        };
        if self.0.contains_key(&group) {
            return;
        }
        let beside = started.is_some_and(|writer| !writer.is_in_place());
        let (id, same) = match lstat(spot) {
            Ok(stat) => {
                let same = meta::times(&stat).0 == entry.meta.mtime
                    && (meta::size(&stat) == entry.size || !entry.meta.kind.has_content());
                ((stat.st_dev, stat.st_ino), same)
            }
            // It has no name yet, and no inode has that number.
            Err(_) if beside => ((spot.handle.id().0, 0), false),
            Err(_) => return,
        };
        if started.is_none() && !same {
            return;
        }
        if started.is_some() {
            shared.unsettled.await_content(&entry.path, id);
        }
        self.0.insert(
            group,
            First {
                path: entry.path.clone(),
                kind: entry.meta.kind.clone(),
                size: entry.size,
                mtime: entry.meta.mtime,
                sha256: entry.sha256,
                id,
                beside,
            },
        );
    }

    /// Links an entry to the first of its group. `false`: it is to be made as a file of its own.
    pub(super) fn try_link(
        &self,
        shared: &Shared,
        top: &Arc<DirHandle>,
        spot: &Spot,
        entry: &RestoreEntry,
    ) -> Result<bool, TargetError> {
        let Some(first) = entry.meta.link_group.and_then(|group| self.0.get(&group)) else {
            return Ok(false);
        };
        let degraded = |why: &str| {
            let detail = format!(
                "it is a file of its own and no link to {}: {why}",
                first.path
            );
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
        let unsettled = &shared.unsettled;
        if let Some(there) = &there {
            let linked = (there.st_dev, there.st_ino) == first.id;
            let fate = shared.fate(there, &entry.meta);
            if linked && !first.beside {
                let further = Further::Linked(entry.path.clone(), false);
                unsettled.add(shared, first, further);
                return Ok(true);
            }
            if fate == Fate::Stays && !linked && !shared.begun.is_unfinished(there) {
                skip(shared);
                return Ok(true);
            }
            if fate == Fate::Refused {
                return Err(refused(&entry.path));
            }
        }
        let later = || {
            let (handle, name) = (Arc::clone(&spot.handle), spot.name.clone());
            let further = Further::Later(Box::new(entry.clone()), handle, name);
            unsettled.add(shared, first, further);
            Ok(true)
        };
        if let Some(there) = &there {
            may_clear_place(shared, spot, entry, there)?;
        }
        if first.beside {
            if spot.handle.id().0 != first.id.0 {
                return degraded("it is on another file system");
            }
            return later();
        }
        let from = match open_folder(shared, top, &first.path) {
            Ok(from) => from,
            Err(cause) => return degraded(&cause.to_string()),
        };
        let Some(name) = first.path.name() else {
            return Ok(false);
        };
        let old = Old {
            folder: from,
            name: c_name(&first.path, name)?,
            id: first.id,
        };
        if there.is_some() {
            // It stays until the content of the first is whole.
            return match old.can_link(shared, spot, entry) {
                Ok(()) => later(),
                Err(cause) => degraded(&cause.to_string()),
            };
        }
        match old.link_as(&spot.folder, &spot.name) {
            Ok(true) => {
                let further = Further::Linked(entry.path.clone(), true);
                unsettled.add(shared, first, further);
                Ok(true)
            }
            Ok(false) => degraded("that has been replaced by something else"),
            // Of its content a part is lost, and what there is has another name.
            Err(Errno::NOENT) => degraded("that is not there"),
            Err(cause @ (Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP)) => {
                degraded(&io::Error::from(cause).to_string())
            }
            Err(cause) => Err(error("link", &entry.path, cause.into())),
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
