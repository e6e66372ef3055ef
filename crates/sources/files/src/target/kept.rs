//! What folders have again that stay as they are: their times, and their modes.
//!
//! What is made or replaced in a folder changes its time, and nobody asked for that where the folder itself
//! stays (`--overwrite never`, `if-newer`). So it gets back the one that it had, at the end, with the metadata
//! of the other folders; and its mode, if that forbade its owner what the restore did (see
//! [`super::closed`]). Both are noted before the first change, for a restore may be killed: the next one
//! gives them back then. They are noted also of a folder that becomes its entry: the next restore may be told
//! to leave it, and by the time of a change in it `if-newer` would take it for newer than the entry. Such a note
//! stays until the end, so there are no more than [`MOST_NOTED`] of them; beyond that a kill, and nothing
//! else, costs the time, or leaves the folder open to its owner.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;

use backup_core::{EntryPath, FileTime, RestoreEntry, TargetError};
use rustix::fs::{
    AtFlags, Mode, Stat, Timespec, Timestamps, UTIME_OMIT, fstat, openat, statat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::Shared;
use super::begun::Begun;
use super::closed::{self, opened, set_mode};
use super::fate::Fate;
use super::journal::{Left, Stage};
use super::way::{FOLDER, Spot, not_a_folder};
use crate::handle::DirId;
use crate::walk::meta::times;

/// So many folders are noted.
const MOST_NOTED: usize = 2000;

/// What a folder had before a restore changed something in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Had {
    /// The time of its last change.
    pub(super) time: FileTime,
    /// Its mode, if it was opened up.
    pub(super) mode: Option<u32>,
}

impl Had {
    /// That of a folder which nothing was done to.
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            time: times(stat).0,
            mode: None,
        }
    }
}

/// A folder that is there, open.
pub(super) struct There {
    pub(super) fd: OwnedFd,
    /// What it is like, or was before it was opened up.
    pub(super) stat: Stat,
    pub(super) had: Had,
    /// Whether that is noted.
    pub(super) is_noted: bool,
}

/// The note of what a folder had. No entry has such a path, nor has what stands beside one.
fn note(path: &EntryPath, inode: u64, had: Had) -> Left {
    let path = key(path);
    let mut text = format!("/{}.{:09}", had.time.seconds, had.time.nanos);
    if let Some(mode) = had.mode {
        text += &format!(".{mode:o}");
    }
    Left {
        beside: [&*path, text.as_bytes()].concat(),
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
fn read(left: &Left) -> Option<(EntryPath, Had)> {
    let path = left.path.strip_suffix(b".")?;
    let path = EntryPath::from_slashed(path.strip_suffix(b"/").unwrap_or(path)).ok()?;
    let mut parts = std::str::from_utf8(left.name()).ok()?.split('.');
    let (seconds, nanos) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let mode = parts.next().map(|mode| u32::from_str_radix(mode, 8));
    let mode = mode.transpose().ok()?;
    let time = FileTime { seconds, nanos };
    Some((path, Had { time, mode }))
}

impl Begun {
    /// Notes what a folder had, before something in it is changed, unless that was done for many.
    pub(super) fn note_had(&self, path: &EntryPath, id: DirId, had: Had) {
        if self.kept.fetch_add(1, Ordering::Relaxed) < MOST_NOTED {
            self.note_had_for_now(path, id, had);
        }
    }

    /// The same, of one that has it again soon.
    pub(super) fn note_had_for_now(&self, path: &EntryPath, id: DirId, had: Had) {
        if let Some(file) = &self.file {
            // Where it cannot be noted it is given back all the same, unless this restore is killed.
            let _ = self.notes.add(file, note(path, id.1, had));
        }
    }

    /// What a folder had before an earlier restore changed something in it. It stays noted until it is
    /// settled.
    pub(super) fn take_had(&self, path: &EntryPath, stat: &Stat) -> Option<Had> {
        if !self.is_later {
            return None;
        }
        let noted = self.notes.take_left(&key(path));
        noted.iter().find_map(|left| self.still_had(left, stat))
    }

    /// The folder has that again, or what it gets instead.
    pub(super) fn had_settled(&self, path: &EntryPath, id: DirId, had: Had) {
        self.left_settled(&note(path, id.1, had));
    }

    /// Whether an open folder is the one of that device and inode. Where there are no modes, inodes may have
    /// other numbers each time that they are looked at.
    pub(super) fn is_folder(&self, stat: &Stat, id: DirId) -> bool {
        stat.st_dev == id.0 && (stat.st_ino == id.1 || self.has_no_marks(stat))
    }

    /// The same of a note that was taken. If it is of another folder it is settled. If somebody gave the folder
    /// another time or mode since, that counts, and what is left of the note is noted anew.
    fn still_had(&self, left: &Left, stat: &Stat) -> Option<Had> {
        let is_it = matches!(left.stage, Stage::Kept(inode) if self.has_inode(stat, inode));
        let noted = read(left).filter(|_| is_it);
        let found = noted.as_ref().and_then(|(_, had)| {
            let changed = (stat.st_mtime, stat.st_mtime_nsec);
            let is_changed = self.since <= changed && changed < self.began;
            let time = if is_changed { had.time } else { times(stat).0 };
            let is_open = |mode: &u32| stat.st_mode & 0o7777 == opened(*mode);
            let mode = had.mode.filter(is_open);
            (is_changed || mode.is_some()).then_some(Had { time, mode })
        });
        match (noted, found) {
            (Some((_, had)), Some(found)) if had == found => {}
            (Some((path, _)), Some(found)) => {
                self.note_had(&path, (stat.st_dev, stat.st_ino), found);
                self.left_settled(left);
            }
            _ => self.left_settled(left),
        }
        found
    }
}

/// Opens a folder that is there. If it must be opened up for that, what it had is noted.
pub(super) fn open_there(
    shared: &Shared,
    (above, name): (&OwnedFd, &CStr),
    path: &EntryPath,
) -> Result<There, TargetError> {
    let mut noted = None;
    let opened_up = |stat: &Stat| {
        let had = shared.begun.take_had(path, stat);
        noted = Some(opens_up(
            shared,
            path,
            stat,
            (had.unwrap_or(Had::of(stat)), had),
        ));
    };
    let opened = closed::open(above, name, opened_up);
    let (fd, stat) = opened.map_err(|cause| not_a_folder(path, cause))?;
    let noted = noted.or_else(|| shared.begun.take_had(path, &stat));
    Ok(There {
        fd,
        had: noted.unwrap_or(Had::of(&stat)),
        is_noted: noted.is_some(),
        stat,
    })
}

/// Notes that a folder is about to be opened up, in the place of what is noted of it.
pub(super) fn opens_up(
    shared: &Shared,
    path: &EntryPath,
    stat: &Stat,
    (had, noted): (Had, Option<Had>),
) -> Had {
    let id = (stat.st_dev, stat.st_ino);
    let mode = Some(stat.st_mode & 0o7777);
    let had = Had { mode, ..had };
    shared.begun.note_had(path, id, had);
    if let Some(noted) = noted {
        shared.begun.had_settled(path, id, noted);
    }
    had
}

/// Whether something is about to be made or replaced in the folder of an entry.
pub(super) fn will_change(shared: &Shared, spot: &Spot, entry: &RestoreEntry) -> bool {
    let there = statat(&*spot.folder, &*spot.name, AtFlags::SYMLINK_NOFOLLOW);
    // What an earlier restore left may be taken up whatever becomes of the rest.
    let stays = |there: &Stat| shared.fate(there, entry) == Fate::Stays;
    shared.begun.is_later || !there.is_ok_and(|there| stays(&there))
}

/// Gives a folder back what it had, if it is still that folder.
pub(super) fn give_back(
    shared: &Shared,
    folder: &OwnedFd,
    (path, id): (&EntryPath, DirId),
    had: Had,
) {
    if let Ok(stat) = fstat(folder)
        && shared.begun.is_folder(&stat, id)
    {
        if times(&stat).0 != had.time {
            // Only its owner may set it; the restore itself is not hindered by that.
            let _ = set_time(folder, had.time);
        }
        // Last: it may forbid the other.
        if let Some(mode) = had.mode
            && stat.st_mode & 0o7777 == opened(mode)
            && let Err(cause) = set_mode(folder, mode)
        {
            shared.fail(&super::error("set the mode of", path, cause.into()));
        }
    }
    shared.begun.had_settled(path, id, had);
}

/// A folder, and what it gets back.
type Due = (EntryPath, DirId, Had);

/// What folders get back that an earlier restore noted and this one was not asked for, those in others before
/// these. It is found out before anything in them is removed.
pub(super) fn left_had(shared: &Shared, left: &[Left]) -> Vec<Due> {
    let Ok(top) = shared.handles.get(&shared.top) else {
        return Vec::new();
    };
    let due = |left: &Left| {
        let (path, _) = read(left)?;
        let stat = fstat(open(&top, &path).ok()?).ok()?;
        let had = shared.begun.still_had(left, &stat)?;
        Some((path, (stat.st_dev, stat.st_ino), had))
    };
    let kept = left
        .iter()
        .filter(|left| matches!(left.stage, Stage::Kept(_)));
    let found = kept.filter_map(|left| {
        let due = due(left);
        if due.is_none() {
            shared.begun.left_settled(left);
        }
        due
    });
    let mut found: Vec<_> = found.collect();
    found.sort_by(|one, other| other.0.cmp(&one.0));
    found
}

/// Gives them that.
pub(super) fn give_left_back(shared: &Shared, due: &[Due]) {
    let Ok(top) = shared.handles.get(&shared.top) else {
        return;
    };
    for (path, id, had) in due {
        if let Ok(folder) = open(&top, path) {
            give_back(shared, &folder, (path, *id), *had);
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
