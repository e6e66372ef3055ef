//! What a restore would make, leave, replace and delete, found out without changing anything.
//!
//! Each entry is compared with what stands in its place by the rule of the restore itself
//! ([`super::fate`]), since an entry that fails keeps everything from being deleted, and a folder
//! that gives way to something else goes with all that is in it. The rest is [`super::mirror`].
//! Damaged content, a full disk and a permission that is missing are found by the restore itself.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::{fmt, io};

use backup_core::{
    EntryKind, EntryPath, Finding, FindingKind, Outcome, Rehearsal, Rehearsed, RestoreEntry,
    Severity, TargetError,
};
use rustix::fs::{AtFlags, FileType, Mode, openat, statat};
use rustix::io::Errno;

use super::begun;
use super::closed::{LOOK, is_closed, is_closed_at};
use super::config::Overwrite;
use super::doomed::delete_tree;
use super::fate::{Fate, fate};
use super::mirror::{self, Hand, Spool};
use super::restore::{OWN_NAME, check_top};
use super::spared::Spared;
use super::way::{FOLDER, c_name, not_a_folder};
use super::{conflict, error, invalid, not_emptied, not_empty, nothing_deleted, refused};
use crate::findings::Findings;
use crate::handle::{DirHandle, HandleCache};
use crate::walk::listing::Listing;

/// What is said of a folder that a restore opens up, and a rehearsal does not.
const UNSEEN: &str = "its mode forbids its owner to look into it: a restore changes that for a while, and a dry \
                      run does not; what the snapshot has in it counts as new here, and what would be deleted \
                      in it is not named";

/// A folder of the snapshot on the way to the current entry.
struct Step {
    path: EntryPath,
    /// The folder that stands there, if one does and it stays.
    there: Option<Arc<DirHandle>>,
}

/// A rehearsal under way.
pub(super) struct FilesRehearsal {
    overwrite: Overwrite,
    spared: Spared,
    handles: HandleCache,
    findings: Findings,
    /// What a restore that deletes compares at its end.
    spool: Option<Spool>,
    top: Arc<DirHandle>,
    way: Vec<Step>,
    /// Whether an entry would fail.
    failed: bool,
}

impl fmt::Debug for FilesRehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilesRehearsal(failed: {})", self.failed)
    }
}

impl FilesRehearsal {
    pub(super) fn new(
        (overwrite, deletes): (Overwrite, bool),
        spared: Spared,
        top: OwnedFd,
    ) -> io::Result<Self> {
        Ok(Self {
            overwrite,
            spared,
            handles: HandleCache::for_this_process(),
            findings: Findings::default(),
            // Not in the target folder: that is only read.
            spool: deletes
                .then(|| tempfile::tempfile().map(Spool::new))
                .transpose()?,
            top: DirHandle::top(top)?,
            way: Vec::new(),
            failed: false,
        })
    }

    fn look(
        &mut self,
        entry: &RestoreEntry,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<Rehearsed, TargetError> {
        let path = &entry.path;
        if let Some(spool) = &mut self.spool {
            let added = spool.add(entry);
            added.map_err(|cause| error("note", path, cause))?;
        }
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            check_top(entry)?;
            return Ok(match self.overwrite {
                Overwrite::Always => Rehearsed::Replaced,
                Overwrite::Never | Overwrite::IfNewer => Rehearsed::Stays,
            });
        };
        if path.components().eq([begun::NAME.to_bytes()]) {
            return Err(conflict(path, OWN_NAME));
        }
        let (rehearsed, there) = match self.go_to(&parent)? {
            Some(folder) => self.look_in(&folder, name, entry, deletes)?,
            None => (Rehearsed::New, None),
        };
        if entry.meta.kind == EntryKind::Directory {
            let path = path.clone();
            self.way.push(Step { path, there });
        }
        Ok(rehearsed)
    }

    /// The folder that stands in the place of one of the snapshot.
    fn go_to(&mut self, path: &EntryPath) -> Result<Option<Arc<DirHandle>>, TargetError> {
        while (self.way.last()).is_some_and(|step| !path.starts_with(&step.path)) {
            self.way.pop();
        }
        let (mut there, mut at) = match self.way.last() {
            Some(step) => (step.there.clone(), step.path.clone()),
            None => (Some(Arc::clone(&self.top)), EntryPath::root()),
        };
        let known = at.components().count();
        for name in path.components().skip(known) {
            let Some(folder) = there else { break };
            let (above, c_name) = (self.open(&folder, &at)?, c_name(path, name)?);
            at = (at.join(name)).map_err(|cause| invalid(path, &cause.to_string()))?;
            there = match openat(&*above, &*c_name, FOLDER, Mode::empty()) {
                Ok(fd) => Some(self.adopt(&folder, &c_name, fd, &at)?)
                    .filter(|there| !self.spared.is_own(there.id())),
                Err(Errno::NOENT) => None,
                Err(Errno::ACCESS) if is_closed_at(&above, &c_name) => None,
                Err(cause) => return Err(not_a_folder(&at, cause)),
            };
        }
        Ok(there)
    }

    /// Looks at the place of an entry in a folder; returns the folder that stands there and stays.
    fn look_in(
        &self,
        folder: &Arc<DirHandle>,
        name: &[u8],
        entry: &RestoreEntry,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<(Rehearsed, Option<Arc<DirHandle>>), TargetError> {
        let path = &entry.path;
        let (above, name) = (self.open(folder, path)?, c_name(path, name)?);
        let stat = match statat(&*above, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok((Rehearsed::New, None)),
            Err(cause) => return Err(error("look at", path, cause.into())),
        };
        let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let fate = fate((self.overwrite, 0), &stat, entry);
        self.spared.may_clear(&stat, fate, path)?;
        let rehearsed = match fate {
            Fate::Stays => Rehearsed::Stays,
            Fate::Updated | Fate::Cleared | Fate::Refused => Rehearsed::Replaced,
        };
        match fate {
            Fate::Refused => Err(refused(path)),
            Fate::Cleared if is_folder && self.spool.is_none() => {
                let fd = openat(&*above, &*name, FOLDER, Mode::empty());
                let fd = fd.map_err(|cause| not_a_folder(path, cause))?;
                let mut buffer = [MaybeUninit::uninit(); 1 << 10];
                match Listing::read(&fd, &mut buffer) {
                    Ok(listing) if listing.len() == 0 => Ok((rehearsed, None)),
                    Ok(_) => Err(not_empty(path)),
                    Err(cause) => Err(error("look at", path, cause)),
                }
            }
            Fate::Cleared if is_folder => {
                let mut in_it = |gone: &EntryPath| {
                    if gone != path {
                        deletes(gone);
                    }
                };
                let gone = |told: &mut dyn FnMut(&EntryPath)| {
                    let hand = &mut Hand::tells(told);
                    let (spared, findings) = (&self.spared, &self.findings);
                    delete_tree((&above, &name, path), hand, spared, findings)
                };
                // A folder that cannot go wholly stays wholly.
                match gone(&mut |_| {}).and_then(|all| Ok(all && gone(&mut in_it)?)) {
                    Ok(true) => Ok((rehearsed, None)),
                    Ok(false) => Err(not_emptied(path)),
                    Err(cause) => Err(error("replace", path, cause)),
                }
            }
            Fate::Stays | Fate::Updated if entry.meta.kind == EntryKind::Directory => {
                if is_closed(&stat, LOOK) {
                    let finding = Finding::entry(FindingKind::Skipped, path, UNSEEN);
                    self.findings.add(Finding {
                        severity: Severity::Warning,
                        ..finding
                    });
                    return Ok((rehearsed, None));
                }
                let fd = openat(&*above, &*name, FOLDER, Mode::empty());
                let fd = fd.map_err(|cause| not_a_folder(path, cause))?;
                let there = self.adopt(folder, &name, fd, path)?;
                // A restore passes over what is to go into a protected one.
                let there = Some(there).filter(|there| !self.spared.is_own(there.id()));
                Ok((rehearsed, there))
            }
            Fate::Stays | Fate::Updated | Fate::Cleared => Ok((rehearsed, None)),
        }
    }

    fn open(&self, folder: &Arc<DirHandle>, path: &EntryPath) -> Result<Arc<OwnedFd>, TargetError> {
        let opened = self.handles.get(folder);
        opened.map_err(|cause| error("open", path, cause))
    }

    fn adopt(
        &self,
        above: &Arc<DirHandle>,
        name: &std::ffi::CStr,
        fd: OwnedFd,
        path: &EntryPath,
    ) -> Result<Arc<DirHandle>, TargetError> {
        let adopted = self.handles.adopt(above, name, false, fd);
        adopted.map_err(|cause| error("open", path, cause))
    }
}

impl Rehearsal for FilesRehearsal {
    fn see(
        &mut self,
        entry: &RestoreEntry,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<Rehearsed, TargetError> {
        let seen = self.look(entry, deletes);
        self.failed |= seen.is_err();
        seen
    }

    fn end(
        self: Box<Self>,
        outcome: Outcome,
        deletes: &mut dyn FnMut(&EntryPath),
    ) -> Result<Vec<Finding>, TargetError> {
        let Self {
            spared,
            handles,
            findings,
            spool,
            top,
            failed,
            ..
        } = *self;
        let Some(spool) = spool else {
            return Ok(findings.take());
        };
        if failed || outcome != Outcome::Committed {
            let detail = "nothing would be deleted, because not everything could be restored";
            findings.add(nothing_deleted(detail));
        } else {
            let hand = Hand::tells(deletes);
            mirror::delete_others(&handles, &findings, &spared, &top, spool, hand, None)?;
        }
        Ok(findings.take())
    }
}
