//! What becomes of something that stands in the place of an entry.

use backup_core::{EntryKind, EntryMeta};
use rustix::fs::{FileType, Stat};

use super::config::Overwrite;

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

/// What becomes of what is there.
pub(super) fn fate(overwrite: Overwrite, there: &Stat, meta: &EntryMeta) -> Fate {
    if FileType::from_raw_mode(there.st_mode) == file_type(&meta.kind) {
        return if gives_way(overwrite, there, meta) {
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
pub(super) fn gives_way(overwrite: Overwrite, there: &Stat, meta: &EntryMeta) -> bool {
    match overwrite {
        Overwrite::Never => false,
        Overwrite::Always => true,
        Overwrite::IfNewer => {
            let nanos = i64::from(meta.mtime.nanos);
            let there = (
                there.st_mtime,
                i64::try_from(there.st_mtime_nsec).unwrap_or(0),
            );
            there < (meta.mtime.seconds, nanos)
        }
    }
}

/// What an entry is in a file system.
pub(super) const fn file_type(kind: &EntryKind) -> FileType {
    FileType::from_raw_mode(kind.type_bits())
}
