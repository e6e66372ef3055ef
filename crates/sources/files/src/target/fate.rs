//! What becomes of something that stands in the place of an entry.

use backup_core::{EntryKind, RestoreEntry};
use rustix::fs::{FileType, Stat};

use super::config::Overwrite;
use super::keeps::time_off;

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is left alone.
    Stays,
    /// It is of the entry's kind and becomes the entry.
    Updated,
    /// It is of another kind and is removed.
    Cleared,
    /// It is of another kind and stays: the entry fails.
    Refused,
}

/// What becomes of what is there. A file system may keep times that are by a step too early.
pub(super) fn fate(
    (overwrite, step): (Overwrite, i128),
    there: &Stat,
    entry: &RestoreEntry,
) -> Fate {
    let meta = &entry.meta;
    if FileType::from_raw_mode(there.st_mode) == file_type(&meta.kind) {
        return if gives_way((overwrite, step), there, entry) {
            Fate::Updated
        } else {
            Fate::Stays
        };
    }
    match overwrite {
        // What the snapshot has in a folder needs the folder.
        Overwrite::Never if meta.kind != EntryKind::Directory => Fate::Stays,
        Overwrite::Never | Overwrite::IfNewer => Fate::Refused,
        Overwrite::Always => Fate::Cleared,
    }
}

/// Whether something of an entry's own kind gives way to it.
pub(super) fn gives_way(
    (overwrite, step): (Overwrite, i128),
    there: &Stat,
    entry: &RestoreEntry,
) -> bool {
    match overwrite {
        _ if entry.on_way => false,
        Overwrite::Never => false,
        Overwrite::Always => true,
        Overwrite::IfNewer => time_off(there, entry.meta.mtime) > step,
    }
}

/// What an entry is in a file system.
pub(super) const fn file_type(kind: &EntryKind) -> FileType {
    FileType::from_raw_mode(kind.type_bits())
}
