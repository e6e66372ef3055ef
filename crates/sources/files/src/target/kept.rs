//! The times of folders that stay as they are.
//!
//! What is made or replaced in a folder changes its time, and nobody asked for that where the folder itself
//! stays (`--overwrite never`, `if-newer`). So it gets back the one that it had, at the end, with the metadata
//! of the other folders. The time is noted before the first change, for a restore may be killed: the next one
//! gives it back then. It is noted also of a folder that `if-newer` replaces: by the time of a change in it the
//! next restore would take it for newer than the entry. Such a note stays until the end, so there are no more than [`MOST_NOTED`] of them;
//! beyond that a kill, and nothing else, costs the time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use backup_core::{EntryPath, FileTime, RestoreEntry};
use rustix::fs::{
    AtFlags, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, openat, statat, utimensat,
};
use rustix::io::Errno;

use super::Shared;
use super::begun::Begun;
use super::fate::Fate;
use super::journal::{Left, Stage};
use super::way::{FOLDER, Spot};
use crate::handle::DirId;
use crate::walk::meta::times;

/// So many times are noted.
const MOST_NOTED: usize = 2000;

/// The note of a folder's time. No entry has such a path, nor has what stands beside one.
fn note(path: &EntryPath, inode: u64, time: FileTime) -> Left {
    let path = key(path);
    let time = format!("/{}.{:09}", time.seconds, time.nanos);
    Left {
        beside: [&*path, time.as_bytes()].concat(),
        path,
        stage: Stage::Kept(inode),
    }
}

fn key(path: &EntryPath) -> Vec<u8> {
    let mut key = path.to_slashed();
    if !key.is_empty() {
        key.push(b'/');
    }
    key.push(b'.');
    key
}

/// What a note says of which folder.
fn read(left: &Left) -> Option<(EntryPath, FileTime)> {
    let path = left.path.strip_suffix(b".")?;
    let path = EntryPath::from_slashed(path.strip_suffix(b"/").unwrap_or(path)).ok()?;
    let (seconds, nanos) = std::str::from_utf8(left.name()).ok()?.split_once('.')?;
    let (seconds, nanos) = (seconds.parse().ok()?, nanos.parse().ok()?);
    Some((path, FileTime { seconds, nanos }))
}

impl Begun {
    /// Notes the time of a folder, before something in it is changed.
    pub(super) fn note_time(&self, path: &EntryPath, id: DirId, time: FileTime) {
        if let Some(file) = &self.file
            && self.kept.fetch_add(1, Ordering::Relaxed) < MOST_NOTED
        {
            // Where it cannot be noted it is given back all the same, unless this restore is killed.
            let _ = self.notes.add(file, note(path, id.1, time));
        }
    }

    /// The time that a folder had before an earlier restore changed something in it. It stays noted until it
    /// is settled.
    pub(super) fn take_time(&self, path: &EntryPath, stat: &Stat) -> Option<FileTime> {
        if !self.is_later {
            return None;
        }
        let noted = self.notes.take_left(&key(path));
        noted.iter().find_map(|left| self.kept_time(left, stat))
    }

    /// The folder has that time again, or the one that it gets instead.
    pub(super) fn time_settled(&self, path: &EntryPath, id: DirId, time: FileTime) {
        self.left_settled(&note(path, id.1, time));
    }

    /// Whether an open folder is the one of that device and inode. Where there are no modes, inodes may have
    /// other numbers each time that they are looked at.
    pub(super) fn is_folder(&self, stat: &Stat, id: DirId) -> bool {
        stat.st_dev == id.0 && (stat.st_ino == id.1 || self.has_no_marks(stat))
    }

    /// The same of a note that was taken. If it is of another folder, or somebody gave the folder another
    /// time since, that counts, and the note is settled.
    fn kept_time(&self, left: &Left, stat: &Stat) -> Option<FileTime> {
        let is_it = matches!(left.stage, Stage::Kept(inode) if self.has_inode(stat, inode));
        let changed = (stat.st_mtime, stat.st_mtime_nsec);
        let time = read(left).map(|(_, time)| time);
        let time = time.filter(|_| is_it && self.since <= changed && changed < self.began);
        if time.is_none() {
            self.left_settled(left);
        }
        time
    }
}

/// Whether something is about to be made or replaced in the folder of an entry.
pub(super) fn will_change(shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> bool {
    let there = statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW);
    // What an earlier restore left may be taken up whatever becomes of the rest.
    let stays = |there: &Stat| shared.fate(there, &entry.meta) == Fate::Stays;
    shared.begun.is_later || !there.is_ok_and(|there| stays(&there))
}

/// Gives a folder back the time that it had, if it is still that folder.
pub(super) fn give_back(
    shared: &Shared,
    folder: &OwnedFd,
    (path, id): (&EntryPath, DirId),
    time: FileTime,
) {
    if let Ok(stat) = fstat(folder)
        && shared.begun.is_folder(&stat, id)
        && times(&stat).0 != time
    {
        // Only its owner may set it; the restore itself is not hindered by that.
        let _ = set_time(folder, time);
    }
    shared.begun.time_settled(path, id, time);
}

/// A folder, and the time that it gets back.
type Due = (EntryPath, DirId, FileTime);

/// What folders get back that an earlier restore noted and this one was not asked for. It is found out before
/// anything in them is removed.
pub(super) fn left_times(shared: &Shared, left: &[Left]) -> Vec<Due> {
    let Ok(top) = shared.handles.get(&shared.top) else {
        return Vec::new();
    };
    let due = |left: &Left| {
        let (path, _) = read(left)?;
        let stat = fstat(open(&top, &path).ok()?).ok()?;
        let time = shared.begun.kept_time(left, &stat)?;
        Some((path, (stat.st_dev, stat.st_ino), time))
    };
    let kept = left
        .iter()
        .filter(|left| matches!(left.stage, Stage::Kept(_)));
    kept.filter_map(|left| {
        let due = due(left);
        if due.is_none() {
            shared.begun.left_settled(left);
        }
        due
    })
    .collect()
}

/// Gives them that.
pub(super) fn give_left_back(shared: &Shared, times: &[Due]) {
    let Ok(top) = shared.handles.get(&shared.top) else {
        return;
    };
    for (path, id, time) in times {
        if let Ok(folder) = open(&top, path) {
            give_back(shared, &folder, (path, *id), *time);
        }
    }
}

/// Opens a folder from the target folder, step by step.
pub(super) fn open(top: &OwnedFd, path: &EntryPath) -> Result<OwnedFd, Errno> {
    let top = openat(top, c".", FOLDER, Mode::empty())?;
    path.components().try_fold(top, |above, name| {
        openat(above, name, FOLDER, Mode::empty())
    })
}

/// Sets the time of a folder's last change, and leaves that of the last access.
pub(super) fn set_time(folder: impl AsFd, time: FileTime) -> Result<(), Errno> {
    let kept = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: time.seconds,
            tv_nsec: time.nanos.into(),
        },
    };
    utimensat(folder, c".", &kept, AtFlags::empty())
}
