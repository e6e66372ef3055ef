//! Which of the things that stand in a folder are those of an unfinished restore, and nobody else's.
//!
//! Whoever may write into the folder may put there what looks like them, and what was there may look so.
//! So an owner, a mode, an inode that was noted and the times of birth and of the last change, which the
//! kernel sets, have to agree; where a file system does not keep one of them, the name that was noted
//! counts, which holds a token.
//!
//! A mode and the time of the last change alone say nothing: a user may give a file that mode, and the
//! restore itself changes the time of what stays, by giving it a further name, or by making something in a
//! folder. So what has the mode is ours if it was *made* since the restore began; and what was there before
//! and is written to is noted before that ([`Begun::note_in_place`]).

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use backup_core::EntryMeta;
use rustix::fs::{FileType, Stat};

use super::begun::Begun;
use super::header::{Moment, birth, birth_at};
use super::journal::{Left, Stage};
use super::meta::{MARK_DIR, MARK_FILE, OTHER_MARK_FILE, is_final};
use crate::handle::DirId;
use crate::walk::meta::times;

impl Begun {
    /// Whether something belongs to who restores.
    pub(super) fn is_owner(&self, stat: &Stat) -> bool {
        stat.st_uid == self.systems.of(stat.st_dev).owner
    }

    /// Whether a file belongs to who restores, under one name only.
    pub(super) fn is_own(&self, stat: &Stat) -> bool {
        self.is_owner(stat) && stat.st_nlink == 1
    }

    /// Whether modes say nothing of a file: then all that is made is made beside its place, and noted.
    pub(super) fn has_no_marks(&self, stat: &Stat) -> bool {
        !self.systems.of(stat.st_dev).modes
    }

    /// Whether an entry was made by a restore and left unfinished. One that somebody else owns was
    /// not: who made it may have it open, and must not get what is restored. `born` says when it was made.
    pub(super) fn is_unfinished(
        &self,
        (stat, meta): (&Stat, &EntryMeta),
        born: impl FnOnce() -> Option<Moment>,
    ) -> bool {
        self.file.is_some() && self.is_owner(stat) && self.is_marked((stat, meta), born)
    }

    /// Whether an earlier restore was killed between giving something its owner and its mode, if that is
    /// who has it.
    pub(super) fn is_half_finished(
        &self,
        (stat, meta): (&Stat, &EntryMeta),
        born: impl FnOnce() -> Option<Moment>,
    ) -> bool {
        self.is_later
            && changed(stat) < self.began
            && has_mark_for(stat, meta)
            && self.is_marked((stat, meta), born)
    }

    /// Whether something has the mark and was made since a restore began.
    fn is_marked(
        &self,
        (stat, meta): (&Stat, &EntryMeta),
        born: impl FnOnce() -> Option<Moment>,
    ) -> bool {
        let is_finished = || is_final(meta, stat.st_mode & 0o7777) && times(stat).0 == meta.mtime;
        let is_new = || is_barely_made(stat) && !is_finished();
        if !has_mark_for(stat, meta) && !is_new() || changed(stat) < self.since {
            return false;
        }
        if !self.systems.of(stat.st_dev).births {
            // Files are made beside their places there; what is set of others costs nothing that is in them.
            return FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile;
        }
        born().is_some_and(|born| born >= self.since)
    }

    /// The same of what stands under a name.
    pub(super) fn is_unfinished_at(
        &self,
        folder: &OwnedFd,
        name: &CStr,
        seen: (&Stat, &EntryMeta),
    ) -> bool {
        self.is_unfinished(seen, || birth_at(folder, name, seen.0))
    }

    /// Whether an earlier restore made something that has no content, and was killed before it had given it
    /// all that the entry has. `owner` says whom that belongs to.
    ///
    /// A link has no mode that could say so. But its time is that of its making until, as the last thing, it
    /// gets its own: nothing else sets it, for nobody writes to a link.
    pub(super) fn is_unfinished_node(
        &self,
        (stat, meta): (&Stat, &EntryMeta),
        owner: impl FnOnce() -> Option<u32>,
        born: impl FnOnce() -> Option<Moment>,
    ) -> bool {
        let is_of_time = |moment: Moment| self.since <= moment && moment < self.began;
        if !self.is_later || stat.st_nlink != 1 || !is_of_time(changed(stat)) {
            return false;
        }
        if !self.is_owner(stat) && owner() != Some(stat.st_uid) {
            return false;
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        let is_as_made = is_of_time((stat.st_mtime, stat.st_mtime_nsec));
        if is_link || self.has_no_marks(stat) {
            return is_as_made && born().is_none_or(|born| born >= self.since);
        }
        // A default ACL of the folder may have taken something from its owner.
        let mode = stat.st_mode & 0o7777;
        let may_be_mark = mode & 0o1000 != 0 && mode & !OTHER_MARK_FILE & 0o7777 == 0;
        may_be_mark
            && (is_as_made || !is_final(meta, mode))
            && born().is_none_or(|born| born >= self.since)
    }

    /// Whether a file that was noted as changed where it is is still that, and not whole. After a power loss
    /// it may have been written to and not have the mark; if it has lost that since, by the time of its
    /// change, it was finished, or its user has made something else of it.
    pub(super) fn is_in_place(&self, stat: &Stat, inode: u64, meta: Option<&EntryMeta>) -> bool {
        let is_finished = meta.is_some_and(|meta| is_final(meta, stat.st_mode & 0o7777));
        let is_marked = has_mark(stat) && !is_finished || changed(stat) < self.since;
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && self.has_inode(stat, inode)
            && (is_marked || self.has_no_marks(stat))
    }

    /// Whether an earlier restore made a folder where no mode can say that it is unfinished.
    pub(super) fn is_folder_of_earlier(&self, folder: &OwnedFd, stat: &Stat) -> bool {
        let is_of_time = |born: Moment| self.since <= born && born < self.began;
        self.is_later
            && self.has_no_marks(stat)
            && self.is_owner(stat)
            && birth(folder).is_some_and(is_of_time)
    }

    /// Whether somebody who restores made a file in the time of an earlier restore. Where a file system
    /// has no time of change of its own, that is the one which a restore sets: it says nothing.
    pub(super) fn is_of_earlier(&self, stat: &Stat) -> bool {
        let changed = changed(stat);
        self.has_no_marks(stat) || self.since <= changed && changed < self.began
    }

    /// Whether a file has the inode that was noted. Where there are no modes, inodes may have other
    /// numbers each time that they are looked at: the name counts, in which nobody had a part.
    pub(super) fn has_inode(&self, stat: &Stat, inode: u64) -> bool {
        stat.st_ino == inode || self.has_no_marks(stat) && self.is_owner(stat)
    }

    /// Whether a file beside another is the one that this restore made.
    pub(super) fn is_made(&self, stat: &Stat, id: DirId) -> bool {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        let is_by_name = || self.has_no_marks(stat) && is_file && self.is_own(stat);
        stat.st_dev == id.0 && (stat.st_ino == id.1 || is_by_name())
    }

    /// Whether a file beside another is what an earlier restore noted, and may be gone on with.
    pub(super) fn may_take_up(&self, stat: &Stat, left: &Left) -> bool {
        let Stage::Made(inode) = left.stage else {
            return false;
        };
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && self.has_inode(stat, inode)
            && self.is_of_earlier(stat)
            && self.is_own(stat)
    }

    /// Whether what stands beside another is what an earlier restore noted, and nobody else's.
    pub(super) fn is_what_was_left(&self, stat: &Stat, left: &Left) -> bool {
        match left.stage {
            Stage::Announced => {
                self.is_of_earlier(stat) && self.is_owner(stat) && self.is_empty(stat)
            }
            Stage::Made(inode) => {
                let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let is_alone = is_folder || stat.st_nlink == 1;
                self.has_inode(stat, inode) && self.is_of_earlier(stat) && is_alone
            }
            // It may have been changed by now under the name of its owner, and that it must have.
            Stage::Linked(inode) => {
                stat.st_ino == inode && changed(stat) >= self.since && stat.st_nlink > 1
            }
            // It is the file itself, or a folder.
            Stage::InPlace(_) | Stage::Kept(_) => false,
        }
    }

    /// Whether something holds nothing that could be lost: whether a folder does is found when it is
    /// removed. A file has no content yet, and the mode with which it was made, or what a default ACL
    /// left of that.
    fn is_empty(&self, stat: &Stat) -> bool {
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => true,
            FileType::RegularFile => {
                let marks = self.systems.of(stat.st_dev).marks();
                let is_new = is_barely_made(stat) || stat.st_size == 0 && !marks;
                is_new && stat.st_nlink == 1
            }
            _ => stat.st_nlink == 1,
        }
    }

    /// Whether a file that has a name of the last restore is its own although no note tells of it: a
    /// power loss may have taken the notes. Where modes say nothing, the token in its name does: then it
    /// must have been `known`.
    pub(super) fn is_stray(&self, stat: &Stat, known: bool) -> bool {
        (has_mark(stat) || known && self.has_no_marks(stat)) && self.may_be_stray(stat)
    }

    /// Whether a file that is named like what restores make may be that.
    pub(super) fn may_be_stray(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && self.is_of_earlier(stat)
            && self.is_own(stat)
    }
}

/// Whether a file is empty and as it was made, before it could get its mode: a default ACL of its
/// folder may have taken from its owner what the mark consists of.
fn is_barely_made(stat: &Stat) -> bool {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    is_file
        && stat.st_size == 0
        && stat.st_mode & 0o7777 & !OTHER_MARK_FILE == 0
        && stat.st_mode & 0o1000 != 0
}

/// Whether something has a mode of what is unfinished.
pub(super) fn has_mark(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        // A new folder has the setgid bit of the one that it is made in.
        FileType::Directory => stat.st_mode & 0o5777 == MARK_DIR,
        FileType::Symlink => false,
        _ => matches!(stat.st_mode & 0o7777, MARK_FILE | OTHER_MARK_FILE),
    }
}

/// The same, of what stands in the place of an entry: a finished one may have one of these modes. (A folder
/// is then finished once more, which changes nothing that is in it.)
pub(super) fn has_mark_for(stat: &Stat, meta: &EntryMeta) -> bool {
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    has_mark(stat) && (is_folder || !is_final(meta, stat.st_mode & 0o7777))
}

/// When something of it was last changed.
fn changed(stat: &Stat) -> Moment {
    (stat.st_ctime, stat.st_ctime_nsec)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn only_what_is_noted_and_nothing_of_use_is_taken_for_a_leftover() {
        let temp = tempfile::tempdir().unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let top = rustix::fs::open(temp.path(), flags, Mode::empty()).unwrap();
        let first = Begun::at(&top, false, false, Arc::default()).unwrap();
        let made = |name: &str, content: &str, mode: u32| {
            let path = temp.path().join(name);
            std::fs::write(&path, content).unwrap();
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
            rustix::fs::stat(&path).unwrap()
        };
        let whole = made("whole", "new", MARK_FILE);
        let empty = made("empty", "", MARK_FILE);
        // A default ACL of the folder took what the owner may.
        let restricted = made("restricted", "", 0o1000);
        let plain = made("plain", "", 0o600);
        drop(first);
        let second = Begun::at(&top, false, false, Arc::default()).unwrap();
        let left = |stage| Left {
            path: b"file".to_vec(),
            beside: b"beside".to_vec(),
            stage,
        };
        let announced = left(Stage::Announced);
        assert!(second.is_what_was_left(&empty, &announced));
        assert!(second.is_what_was_left(&restricted, &announced));
        assert!(!second.is_what_was_left(&whole, &announced));
        assert!(!second.is_what_was_left(&plain, &announced));
        assert!(!second.may_take_up(&empty, &announced));
        let this = left(Stage::Made(whole.st_ino));
        assert!(second.is_what_was_left(&whole, &this) && second.may_take_up(&whole, &this));
        let other = left(Stage::Made(empty.st_ino));
        assert!(!second.is_what_was_left(&whole, &other) && !second.may_take_up(&whole, &other));
        // The only name that a file has is no further one.
        let linked = left(Stage::Linked(whole.st_ino));
        assert!(!second.is_what_was_left(&whole, &linked));
    }
}
