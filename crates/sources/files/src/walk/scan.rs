//! What one thread of the walk does with one task: list a folder, stat names, make entries.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backup_core::{
    Body, Entry, EntryKind, EntryPath, Finding, FindingKind, Severity, StreamProfile, at_limit,
};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, statat};

use super::choose::{self, Fate, Seen};
use super::listing::Listing;
use super::meta::{self, OwnerNames};
use super::xattr::Xattrs;
use super::{Pending, STAT_BATCH, Scanned, Shared, Task, WalkDir, Work};
use crate::content::{FileContent, open_read};
use crate::handle::{DirHandle, id_of};
use crate::roots::Wanted;
use crate::{CONTENT_ANCESTOR, CONTENT_ATTR, CONTENT_LEFT_OUT, CONTENT_UNREADABLE};

/// Room for what one call lists of a folder.
const LIST_BUFFER: usize = 64 << 10;

/// The state of one thread of the walk.
pub(super) struct Walker {
    shared: Arc<Shared>,
    top: Arc<DirHandle>,
    names: OwnerNames,
    xattrs: Xattrs,
    buffer: Box<[MaybeUninit<u8>]>,
}

impl Walker {
    pub(super) fn new(shared: &Arc<Shared>, top: Arc<DirHandle>) -> Self {
        Self {
            shared: Arc::clone(shared),
            top,
            names: OwnerNames::new(shared.config.owner_names),
            xattrs: Xattrs::for_this_thread(shared.config.xattrs),
            buffer: vec![MaybeUninit::uninit(); LIST_BUFFER].into_boxed_slice(),
        }
    }

    /// Does a task; one that somebody took already yields nothing.
    pub(super) fn run(&mut self, task: &Task) -> Scanned {
        match task.take_work() {
            None => Scanned::default(),
            Some(Work::Top) => self.top_entry(),
            Some(Work::Scan(pending)) => self.scan(&task.place, *pending).unwrap_or_else(|cause| {
                self.trouble(&task.place, &cause, "the folder could not be read");
                Scanned {
                    content: Some(CONTENT_UNREADABLE),
                    ..Scanned::default()
                }
            }),
            Some(Work::Stat {
                dir,
                listing,
                range,
            }) => self.stat(&dir, &listing, range),
        }
    }

    /// Puts an error with one entry into the report.
    fn trouble(&self, path: &EntryPath, cause: &io::Error, what: &str) {
        let (severity, kind) = match cause.kind() {
            io::ErrorKind::NotFound => (Severity::Warning, FindingKind::Vanished),
            _ => (Severity::Error, FindingKind::Unreadable),
        };
        let mut detail = format!("{what}: {cause}");
        if let Some(remedy) = cause.raw_os_error().and_then(at_limit) {
            detail = format!("{detail}; {remedy}");
        }
        self.shared.findings.add(Finding {
            severity,
            ..Finding::entry(kind, path, detail)
        });
    }

    /// `/` itself: an entry if it is a root, else only the place where all ways begin.
    fn top_entry(&mut self) -> Scanned {
        let wanted = Arc::clone(&self.shared.wanted);
        let root = wanted.root.clone();
        let passage = root.is_none();
        let dir = |device| WalkDir {
            handle: Arc::clone(&self.top),
            path: EntryPath::root(),
            root: root.clone(),
            device,
            ignores: None,
            wanted: Some(Arc::clone(&wanted)),
            passage,
            limited: true,
        };
        if passage {
            return self.fill(dir(0), None).unwrap_or_else(|cause| {
                self.trouble(&EntryPath::root(), &cause, "the folder could not be read");
                Scanned::default()
            });
        }
        let dir = Arc::new(dir(self.top.id().0));
        let mut out = Scanned::default();
        let made = self.shared.handles.get(&self.top).and_then(|fd| {
            self.xattrs.enter(&fd)?;
            let stat = statat(&*fd, c".", AtFlags::empty())?;
            let top = Arc::clone(&self.top);
            self.entry(&fd, c".", &EntryPath::root(), &stat, &top)
        });
        match made {
            Ok(entry) => {
                let pending = Pending {
                    name: c".".to_owned(),
                    root,
                    device: dir.device,
                    wanted: dir.wanted.clone(),
                    passage,
                    follow: false,
                    parent: dir,
                };
                out.entries.push(entry);
                out.children.push((
                    0,
                    Task::new(EntryPath::root(), Work::Scan(Box::new(pending))),
                ));
            }
            Err(cause) => self.trouble(&EntryPath::root(), &cause, "it could not be read"),
        }
        out
    }

    /// Opens and lists a folder and stats its first names.
    fn scan(&mut self, path: &EntryPath, pending: Pending) -> io::Result<Scanned> {
        let above = self.shared.handles.get(&pending.parent.handle)?;
        let nofollow = if pending.follow {
            OFlags::empty()
        } else {
            OFlags::NOFOLLOW
        };
        let fd = if pending.passage {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | nofollow;
            openat(&*above, &*pending.name, flags, Mode::empty())?
        } else {
            open_read(&above, &pending.name, OFlags::DIRECTORY | nofollow)?
        };
        // A mount may have come over it since it was seen (an automounter does that).
        if self.shared.config.one_file_system && !pending.passage && id_of(&fd)?.0 != pending.device
        {
            return Ok(Scanned {
                content: Some(CONTENT_LEFT_OUT),
                ..Scanned::default()
            });
        }
        let listing = if pending.passage {
            None
        } else {
            Some(Listing::read(&fd, &mut self.buffer)?)
        };
        let handle =
            self.shared
                .handles
                .adopt(&pending.parent.handle, &pending.name, pending.follow, fd)?;
        let same_root = match (&pending.root, &pending.parent.root) {
            (Some(root), Some(above)) => Arc::ptr_eq(root, above),
            _ => false,
        };
        let mut dir = WalkDir {
            handle,
            path: path.clone(),
            root: pending.root,
            device: pending.device,
            ignores: pending.parent.ignores.clone().filter(|_| same_root),
            wanted: pending.wanted,
            passage: pending.passage,
            limited: true,
        };
        let mut content = dir.passage.then_some(CONTENT_ANCESTOR);
        let listing = match listing {
            None => None,
            Some(mut listing) => {
                let fd = self.shared.handles.get(&dir.handle)?;
                if choose::keep_tags_only(&self.shared.config, &fd, &dir, &mut listing) {
                    content = Some(CONTENT_LEFT_OUT);
                }
                choose::add_ignore_files(&self.shared, &fd, &mut dir, &listing);
                Some(listing)
            }
        };
        let mut scanned = self.fill(dir, listing)?;
        scanned.content = content.or(scanned.content);
        Ok(scanned)
    }

    /// Stats the first names of a folder and leaves tasks for the rest. Without a listing, only
    /// the names on the way to roots are looked at.
    ///
    /// The record of the folder is handed over before its later names are looked at, and must say
    /// whether any of them is left out. So what the listing alone decides is decided here for all
    /// names, and what only a `stat` decides, too, if there are more names than the first ones.
    fn fill(&mut self, mut dir: WalkDir, listing: Option<Listing>) -> io::Result<Scanned> {
        let mut left_out = false;
        let listing = match (listing, &dir.wanted) {
            (Some(mut listing), wanted) => {
                self.note_missing_roots(&dir, &listing, wanted.as_deref());
                choose::drop_own(&self.shared, &dir, &mut listing);
                left_out = choose::drop_excluded(&dir, &mut listing);
                if listing.len() > STAT_BATCH && choose::needs_stat(&self.shared, &dir, &listing) {
                    let fd = self.shared.handles.get(&dir.handle)?;
                    left_out |= choose::drop_by_stat(&self.shared, &fd, &dir, &mut listing);
                    dir.limited = false;
                }
                listing
            }
            (None, Some(wanted)) => Listing::of_names(wanted.below.keys().map(Vec::as_slice))?,
            (None, None) => Listing::default(),
        };
        let dir = &Arc::new(dir);
        let listing = Arc::new(listing);
        let first = listing.len().min(STAT_BATCH);
        let mut scanned = self.stat(dir, &listing, 0..first);
        if left_out {
            scanned.content = Some(CONTENT_LEFT_OUT);
        }
        let mut start = first;
        while start < listing.len() {
            let end = listing.len().min(start + STAT_BATCH);
            let place = dir
                .path
                .join(listing.name(start).to_bytes())
                .map_err(io::Error::other)?;
            let work = Work::Stat {
                dir: Arc::clone(dir),
                listing: Arc::clone(&listing),
                range: start..end,
            };
            scanned.more.push(Task::new(place, work));
            start = end;
        }
        if !scanned.more.is_empty() {
            scanned.bytes += listing.bytes();
        }
        Ok(scanned)
    }

    /// A root that lay in this folder when the capture began and does not any more.
    fn note_missing_roots(&self, dir: &WalkDir, listing: &Listing, wanted: Option<&Wanted>) {
        for name in wanted.iter().flat_map(|wanted| wanted.below.keys()) {
            if let (false, Ok(path)) = (listing.contains(name), dir.path.join(name)) {
                self.trouble(&path, &io::ErrorKind::NotFound.into(), "a root is gone");
            }
        }
    }

    /// Makes entries of some names of a folder.
    fn stat(&mut self, dir: &Arc<WalkDir>, listing: &Arc<Listing>, range: Range<usize>) -> Scanned {
        let mut out = Scanned {
            entries: Vec::with_capacity(range.len()),
            ..Scanned::default()
        };
        let entered = self.shared.handles.get(&dir.handle).and_then(|fd| {
            self.xattrs.enter(&fd)?;
            Ok(fd)
        });
        let fd = match entered {
            Ok(fd) => fd,
            Err(cause) => {
                self.trouble(
                    &dir.path,
                    &cause,
                    "the folder could not be read any further",
                );
                out.content = Some(CONTENT_UNREADABLE);
                return out;
            }
        };
        let mut slashed = dir.path.to_slashed();
        if !slashed.is_empty() {
            slashed.push(b'/');
        }
        let base = slashed.len();
        for index in range {
            let name = listing.name(index);
            slashed.truncate(base);
            slashed.extend_from_slice(name.to_bytes());
            self.one((dir, &fd), name, listing.kind(index), &slashed, &mut out);
        }
        let per_entry = size_of::<Entry>() + size_of::<FileContent>() + base + 64;
        out.bytes = out.entries.len() * per_entry;
        out
    }

    /// Makes an entry of one name, if it is to be one.
    fn one(
        &mut self,
        (dir, fd): (&Arc<WalkDir>, &OwnedFd),
        name: &CStr,
        listed: FileType,
        slashed: &[u8],
        out: &mut Scanned,
    ) {
        let wanted = dir
            .wanted
            .as_ref()
            .and_then(|wanted| wanted.below.get(name.to_bytes()));
        let path = match dir.path.join(name.to_bytes()) {
            Ok(path) => path,
            Err(cause) => {
                let cause = io::Error::other(cause);
                out.content = out.content.or(Some(CONTENT_UNREADABLE));
                return self.trouble(&dir.path, &cause, "a name in it could not be taken");
            }
        };
        let follow = wanted.is_some_and(|wanted| choose::follows(wanted));
        let flags = if follow {
            AtFlags::empty()
        } else {
            AtFlags::SYMLINK_NOFOLLOW
        };
        let stat = match statat(fd, name, flags) {
            Ok(stat) => stat,
            Err(cause) => {
                out.content = out.content.or(Some(CONTENT_UNREADABLE));
                return self.trouble(&path, &cause.into(), "it could not be read");
            }
        };
        let seen = Seen {
            name,
            listed,
            slashed,
            stat: &stat,
            wanted,
            follow,
        };
        let (fate, content) = match choose::fate(&self.shared, dir, &seen) {
            Fate::Out => {
                out.content = Some(CONTENT_LEFT_OUT);
                return;
            }
            Fate::Misplaced => {
                let cause = io::Error::other("it is not a folder");
                return self.trouble(&path, &cause, "a root lies below it");
            }
            Fate::Entry(content) => (None, content),
            Fate::Down(pending) => (Some(pending), None),
        };
        let mut entry = match self.entry(fd, name, &path, &stat, &dir.handle) {
            Ok(entry) => entry,
            Err(cause) => {
                out.content = out.content.or(Some(CONTENT_UNREADABLE));
                return self.trouble(&path, &cause, "it could not be read");
            }
        };
        if let Some(content) = content {
            entry.meta.attrs.insert(CONTENT_ATTR.into(), content.into());
        }
        if let Some(pending) = fate {
            out.children.push((
                out.entries.len(),
                Task::new(path.clone(), Work::Scan(pending)),
            ));
        }
        entry.path = path;
        out.entries.push(entry);
    }

    /// The entry of one name, its path still to be set; what goes wrong with its extended
    /// attributes is put into the report.
    fn entry(
        &mut self,
        fd: &OwnedFd,
        name: &CStr,
        path: &EntryPath,
        stat: &Stat,
        handle: &Arc<DirHandle>,
    ) -> io::Result<Entry> {
        let first = self.shared.first_device;
        let (meta, trouble) = meta::read(fd, name, stat, &mut self.names, &mut self.xattrs, first)?;
        if let Some(cause) = trouble {
            let detail = format!("extended attributes could not be read: {cause}");
            let finding = Finding::entry(FindingKind::Metadata, path, detail);
            self.shared.findings.add(Finding {
                severity: Severity::Warning,
                ..finding
            });
        }
        let is_file = meta.kind == EntryKind::File;
        let body = if is_file {
            let opener = Arc::clone(&self.shared.opener);
            Body::File(Arc::new(FileContent::new(
                opener,
                Arc::clone(handle),
                name.to_owned(),
            )))
        } else {
            Body::None
        };
        Ok(Entry {
            path: EntryPath::root(),
            meta,
            fingerprint: is_file.then(|| meta::fingerprint(stat)),
            size: None,
            profile: StreamProfile::Auto,
            body,
        })
    }
}
