//! One restore: what becomes of each entry.

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use backup_core::{
    EntryKind, EntryOutcome, EntryPath, EntryWriter, FileTime, Finding, FindingKind, OpContext,
    Outcome, Restore, RestoreEntry, RestoreReport, Severity, TargetError,
};
use rustix::fs::{AtFlags, FileType, Mode, Stat, fstat, openat, statat};

use super::begun;
use super::beside::is_named_so;
use super::fate::Fate;
use super::header::birth;
use super::journal::{Left, Stage};
use super::kept::{self, will_change};
use super::later::Last;
use super::links::open_folder;
use super::meta::{Before, Object};
use super::mirror::{self, Hand, Spool};
use super::replace::{may_clear_place, replace};
use super::way::{FOLDER, Folder, Spot, Way, make_folder, make_marked, not_a_folder};
use super::writer::{Completed, remove_left_in, start_file, warn_of_mark};
use super::{Shared, conflict, error, node, nothing_deleted, partial, refused};
use crate::walk::meta::times;

/// Why an entry of a certain name is not restored.
pub(super) const OWN_NAME: &str = "a restore keeps a file of its own under this name in the folder of --to; \
                        restore cat writes its content elsewhere";

/// What only the starting of entries needs, one after another.
#[derive(Debug)]
struct State {
    way: Way,
    spool: Option<Spool>,
}

/// A restore into a folder under way.
#[derive(Debug)]
pub(super) struct FilesRestore {
    shared: Shared,
    state: Mutex<State>,
}

impl FilesRestore {
    pub(super) fn new(shared: Shared, way: Way, spool: Option<Spool>) -> Self {
        let state = State { way, spool };
        Self {
            shared,
            state: Mutex::new(state),
        }
    }

    fn start_entry(
        &self,
        cx: &OpContext,
        entry: &RestoreEntry,
    ) -> Result<EntryWriter, TargetError> {
        let shared = &self.shared;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let State { way, spool } = &mut *state;
        if let Some(spool) = spool {
            spool
                .add(entry)
                .map_err(|cause| error("note", &entry.path, cause))?;
        }
        if entry.path.is_root() {
            start_top(shared, way, entry)?;
            return Ok(EntryWriter::None);
        }
        if entry.path.components().eq([begun::NAME.to_bytes()]) {
            return Err(conflict(&entry.path, OWN_NAME));
        }
        let Some(spot) = way.go_to(shared, &entry.path)? else {
            skip(shared);
            shared
                .spared
                .tell_unrestored(way.spared(), &shared.findings);
            return Ok(EntryWriter::None);
        };
        let place = (&*spot.folder, spot.handle.id());
        let systems = shared.begun.systems();
        systems.look(place.0, place.1.0);
        systems.check_name(place, &entry.path, &spot.name)?;
        if spare(shared, way, &spot, entry)? {
            return Ok(EntryWriter::None);
        }
        if is_named_so(&entry.path) {
            for left in shared.begun.take_left_at(&entry.path) {
                remove_left_in(shared, &spot.folder, &left)
                    .map_err(|cause| error("replace", &entry.path, cause))?;
            }
        }
        if way.stays() && will_change(shared, &spot, entry) {
            way.keep(shared);
        }
        if entry.meta.kind == EntryKind::Directory {
            start_folder(shared, way, &spot, entry)?;
            return Ok(EntryWriter::None);
        }
        if shared.links.try_link(shared, cx, &spot, entry)? {
            return Ok(EntryWriter::None);
        }
        shared.durable.touches(shared, &spot.handle);
        let started = if entry.meta.kind.has_content() {
            start_file(shared, &spot, entry)?
        } else {
            node::start(shared, &spot, entry)?;
            None
        };
        shared.links.note(&spot, entry, started.as_ref());
        drop(state);
        let Some(writer) = started else {
            return Ok(EntryWriter::None);
        };
        let writer = Arc::new(writer);
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.insert(entry.path.clone(), Arc::clone(&writer));
        Ok(EntryWriter::Positional(writer))
    }

    fn finish_entry(
        &self,
        cx: &OpContext,
        entry: &RestoreEntry,
        outcome: EntryOutcome,
    ) -> Result<(), TargetError> {
        let shared = &self.shared;
        if outcome == EntryOutcome::Failed {
            shared.failed.store(true, Ordering::Relaxed);
        }
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = open.remove(&entry.path) else {
            return Ok(());
        };
        drop(open);
        let give_up = || {
            // What is not whole keeps its mark.
            if writer.give_up(cx.cancel.is_cancelled()) {
                shared.unfinished.store(true, Ordering::Relaxed);
            }
            shared.links.settle(shared, &entry.path, None);
        };
        if outcome == EntryOutcome::Failed {
            give_up();
            return Ok(());
        }
        let kept = shared.begun.finishes(cx.clock.now());
        let kept = kept.map_err(|cause| error("finish", &entry.path, cause));
        let completed = kept.and_then(|()| writer.complete());
        match completed.inspect_err(|_| give_up())? {
            // Until it gets its name it belongs to who restores: so the next restore knows it again.
            Completed::Beside(successor) => {
                let id = writer
                    .id()
                    .map_err(|cause| error("look at", &entry.path, cause))?;
                shared.durable.add(shared, entry, successor, id);
            }
            Completed::There(changed) => {
                writer.with_file(|file, mut before| {
                    before.marked |= changed;
                    let object = Object::Open(file);
                    let applier = &shared.applier;
                    applier.apply(&object, &entry.path, &entry.meta, before, &shared.findings);
                });
                if changed && writer.was_there() {
                    shared.durable.add_in_place(shared, entry);
                }
                let id = entry.meta.link_group.map(|_| writer.id()).transpose();
                let id = id.map_err(|cause| error("look at", &entry.path, cause))?;
                let links = &shared.links;
                links.settle(shared, &entry.path, Some(id.unwrap_or_default()));
                let count = if changed {
                    &shared.written
                } else {
                    &shared.skipped
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        shared.durable.finished(shared, entry.size);
        Ok(())
    }

    /// Keeps what there is of an entry of which a part is lost.
    fn keep_in_part(&self, entry: &RestoreEntry) -> Result<Option<EntryPath>, TargetError> {
        let shared = &self.shared;
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(writer) = open.remove(&entry.path) else {
            return Ok(None);
        };
        drop(open);
        let kept = partial::keep(shared, entry, &writer).inspect_err(|_| {
            if writer.give_up(false) {
                shared.unfinished.store(true, Ordering::Relaxed);
            }
            shared.links.settle(shared, &entry.path, None);
        })?;
        shared.durable.finished(shared, entry.size);
        Ok(Some(kept))
    }

    /// Ends the time in which marks count, if nothing carries one any more.
    fn end(&self, way: &Way) {
        let shared = &self.shared;
        let open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        if shared.unfinished.load(Ordering::Relaxed) || !open.is_empty() {
            return;
        }
        let ended = shared
            .handles
            .get(way.top())
            .and_then(|top| shared.begun.done(&top));
        if let Err(cause) = ended {
            shared.fail(&error("end", &EntryPath::root(), cause));
        }
    }

    /// Removes what an earlier restore left beside files that this one was not asked for.
    fn remove_left(&self) {
        let shared = &self.shared;
        let left = shared.begun.take_all_left();
        let due = kept::left_had(shared, &left);
        for left in left {
            if matches!(left.stage, Stage::Kept(_)) {
                continue;
            }
            let Ok(path) = EntryPath::from_slashed(&left.beside) else {
                continue;
            };
            if matches!(left.stage, Stage::InPlace(_)) {
                self.keep_noted(&path, &left);
                continue;
            }
            if let Err(cause) = remove_left(shared, &path, &left) {
                shared.unfinished.store(true, Ordering::Relaxed);
                shared.fail(&error("remove what was left unfinished", &path, cause));
            }
        }
        kept::give_left_back(shared, &due);
    }

    /// Says that a file is not whole which an earlier restore changed where it is, and of which this one
    /// was not asked. It stays noted.
    fn keep_noted(&self, path: &EntryPath, left: &Left) {
        let shared = &self.shared;
        let there = open_folder(shared, &shared.top, path).and_then(|folder| {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            Ok(statat(&*folder, left.name(), flags)?)
        });
        let is_gone = match (&there, left.stage) {
            (Err(cause), _) => cause.kind() == io::ErrorKind::NotFound,
            (Ok(there), Stage::InPlace(inode)) => !shared.begun.is_in_place(there, inode, None),
            (Ok(_), _) => false,
        };
        if is_gone {
            return shared.begun.left_settled(left);
        }
        shared.unfinished.store(true, Ordering::Relaxed);
        let detail = "an earlier restore began to write into it and was broken off; restore it, too: \
                      until then it is not whole";
        let finding = Finding::entry(FindingKind::Skipped, path, detail);
        shared.findings.add(Finding {
            severity: Severity::Warning,
            ..finding
        });
    }

    /// Deletes what the snapshot does not have, if all that it has is there.
    fn mirror(&self, top: &Way, spool: Spool) -> Result<u64, TargetError> {
        let shared = &self.shared;
        if shared.failed.load(Ordering::Relaxed) {
            let detail = "nothing was deleted, because not everything could be restored";
            shared.findings.add(nothing_deleted(detail));
            return Ok(0);
        }
        mirror::delete_others(
            &shared.handles,
            &shared.findings,
            &shared.spared,
            top.top(),
            spool,
            Hand::deletes(),
            Some(&shared.begun),
        )
    }
}

#[async_trait]
impl Restore for FilesRestore {
    fn start(&self, cx: &OpContext, entry: &RestoreEntry) -> Result<EntryWriter, TargetError> {
        self.start_entry(cx, entry)
            .inspect_err(|_| self.shared.failed.store(true, Ordering::Relaxed))
    }

    fn finish(
        &self,
        cx: &OpContext,
        entry: &RestoreEntry,
        _writer: EntryWriter,
        outcome: EntryOutcome,
    ) -> Result<(), TargetError> {
        self.finish_entry(cx, entry, outcome)
            .inspect_err(|_| self.shared.failed.store(true, Ordering::Relaxed))
    }

    fn finish_in_part(
        &self,
        _cx: &OpContext,
        entry: &RestoreEntry,
        _writer: EntryWriter,
        _lost: &[Range<u64>],
    ) -> Result<Option<EntryPath>, TargetError> {
        // Ranges that nobody wrote read as zeros.
        self.shared.failed.store(true, Ordering::Relaxed);
        self.keep_in_part(entry)
    }

    async fn close(
        self: Box<Self>,
        cx: &OpContext,
        outcome: Outcome,
    ) -> Result<RestoreReport, TargetError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.durable.flush(&self.shared);
        // After a restore that was broken off, folders keep their mark: the next one finishes them.
        let is_over = match outcome {
            Outcome::Committed => true,
            Outcome::Abandoned => !cx.cancel.is_cancelled(),
            Outcome::BrokenOff => false,
        };
        let mut left = Ok(());
        if is_over {
            if outcome == Outcome::Abandoned {
                self.shared.failed.store(true, Ordering::Relaxed);
            }
            self.remove_left();
            let State { way, spool, .. } = &mut *state;
            left = way.leave_all(&self.shared);
            if let Some(spool) = spool.take() {
                let deleted = self.mirror(way, spool)?;
                self.shared.deleted.fetch_add(deleted, Ordering::Relaxed);
            }
        } else {
            state.way.give_times_back(&self.shared);
        }
        match self.shared.durable.all_safe(&self.shared) {
            Ok(()) if is_over => self.end(&state.way),
            Ok(()) => {}
            Err(cause) => self.shared.fail(&error("write", &EntryPath::root(), cause)),
        }
        left?;
        self.shared.applier.report(&self.shared.findings);
        Ok(RestoreReport {
            written: self.shared.written.load(Ordering::Relaxed),
            skipped: self.shared.skipped.load(Ordering::Relaxed),
            deleted: self.shared.deleted.load(Ordering::Relaxed),
            findings: self.shared.findings.take(),
        })
    }
}

/// Removes a file that an earlier restore left, if it is still that.
fn remove_left(shared: &Shared, path: &EntryPath, left: &Left) -> io::Result<()> {
    match open_folder(shared, &shared.top, path) {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        opened => remove_left_in(shared, &*opened?, left),
    }
}

pub(super) fn skip(shared: &Shared) {
    shared.skipped.fetch_add(1, Ordering::Relaxed);
}

/// Only a folder can stand for the target folder.
pub(super) fn check_top(entry: &RestoreEntry) -> Result<(), TargetError> {
    if entry.meta.kind == EntryKind::Directory {
        return Ok(());
    }
    let why = "it is not a folder, and the target folder is one";
    Err(conflict(&entry.path, why))
}

/// The entry of the target folder itself.
fn start_top(shared: &Shared, way: &mut Way, entry: &RestoreEntry) -> Result<(), TargetError> {
    check_top(entry)?;
    let there = shared
        .handles
        .get(way.top())
        .and_then(|fd| Ok(fstat(&*fd)?))
        .map_err(|cause| error("open", &entry.path, cause))?;
    let there = (way.top_had()).map_or(there, |had| at_time(there, had.time));
    if shared.begun.has_made_folder() || shared.gives_way(&there, entry) {
        way.finish_top_with(&shared.begun, entry.meta.clone());
        shared.written.fetch_add(1, Ordering::Relaxed);
    } else {
        // A restore that was killed before it could make its file may have made the folder, or somebody
        // else, who wants that mode.
        warn_of_mark(shared, &there, entry);
        skip(shared);
    }
    Ok(())
}

fn start_folder(
    shared: &Shared,
    way: &mut Way,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<(), TargetError> {
    let made = match make_folder(shared, spot, entry)? {
        Folder::Else(stat) => {
            may_clear_place(shared, spot, entry, &stat)?;
            let fd = replace(shared, spot, entry, |beside| {
                make_marked(&shared.begun, spot, beside)
            })?;
            (fd, None)
        }
        Folder::Ours(fd) => (fd, None),
        Folder::There(there) => (there.fd, Some((there.stat, there.had, there.is_noted))),
    };
    let (fd, last, changes) = match made {
        (fd, None) => {
            let before = shared.before_new(spot);
            (fd, Last::Becomes(entry.meta.clone(), before, None), false)
        }
        (fd, Some((stat, had, is_noted))) => {
            let is_half_finished = is_half_finished(shared, (&fd, &stat), entry);
            // An earlier restore may have changed something in it, and with that its time.
            if shared.gives_way(&at_time(stat, had.time), entry) || is_half_finished {
                let before = Before {
                    owner: Some((stat.st_uid, stat.st_gid)),
                    xattrs: true,
                    inherits: false,
                    marked: is_half_finished,
                };
                let last = Last::Becomes(entry.meta.clone(), before, Some(had));
                (fd, last, is_noted)
            } else {
                warn_of_mark(shared, &stat, entry);
                (fd, Last::Keeps(had), is_noted)
            }
        }
    };
    let count = if matches!(last, Last::Becomes(..)) {
        &shared.written
    } else {
        &shared.skipped
    };
    count.fetch_add(1, Ordering::Relaxed);
    way.enter(
        shared,
        &spot.name,
        fd,
        entry.path.clone(),
        Some((last, changes)),
    )
}

/// What something looked like when it had that time.
fn at_time(mut stat: Stat, time: FileTime) -> Stat {
    (stat.st_mtime, stat.st_mtime_nsec) = (time.seconds, time.nanos.into());
    stat
}

/// Whether an earlier restore was killed between giving a folder its owner and its mode.
fn is_half_finished(shared: &Shared, (fd, stat): (&OwnedFd, &Stat), entry: &RestoreEntry) -> bool {
    let seen = (stat, &entry.meta);
    shared.begun.is_half_finished(seen, || birth(fd)) && times(stat).0 == entry.meta.mtime
}

/// Leaves what stands in the place of an entry as it is if it is protected. `false`: it is not.
fn spare(
    shared: &Shared,
    way: &mut Way,
    spot: &Spot,
    entry: &RestoreEntry,
) -> Result<bool, TargetError> {
    let own = shared.spared.own_in(&spot.folder, &spot.name);
    let own = own.map_err(|cause| error("look at", &entry.path, cause))?;
    let Some(stat) = own else { return Ok(false) };
    let fate = shared.fate(&stat, entry);
    shared.spared.may_clear(&stat, fate, &entry.path)?;
    if fate == Fate::Refused {
        return Err(refused(&entry.path));
    }
    if fate == Fate::Updated && !node::is_same_link(spot, &stat, &entry.meta) {
        let findings = &shared.findings;
        shared.spared.tell_unrestored(&entry.path, findings);
    }
    skip(shared);
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if is_folder && entry.meta.kind == EntryKind::Directory {
        let fd = openat(&*spot.folder, &*spot.name, FOLDER, Mode::empty());
        let fd = fd.map_err(|cause| not_a_folder(&entry.path, cause))?;
        way.enter(shared, &spot.name, fd, entry.path.clone(), None)?;
    }
    Ok(true)
}
