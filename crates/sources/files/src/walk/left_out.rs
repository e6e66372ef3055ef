//! Folders that are left out whatever they are called.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::Stat;

use crate::handle::DirId;

/// Those folders, by device and inode.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    folders: HashSet<DirId>,
    /// The folders that they lie in.
    above: HashSet<DirId>,
}

fn id_of(folder: &Path) -> Option<DirId> {
    let meta = fs::metadata(folder).ok()?;
    meta.is_dir().then(|| (meta.dev(), meta.ino()))
}

impl LeftOut {
    /// Finds out what the paths are at this moment; relative ones count from `base`.
    pub(super) fn find(base: &Path, paths: &[PathBuf]) -> Self {
        let real = paths
            .iter()
            .filter_map(|path| base.join(path).canonicalize().ok());
        let mut found = Self::default();
        for folder in real {
            found.folders.extend(id_of(&folder));
            found.above.extend(folder.parent().and_then(id_of));
        }
        found
    }

    /// Whether something is one of them.
    pub(super) fn has(&self, stat: &Stat) -> bool {
        !self.folders.is_empty() && self.folders.contains(&(stat.st_dev, stat.st_ino))
    }

    /// Whether one of them lies in a folder.
    pub(super) fn lies_in(&self, folder: DirId) -> bool {
        self.above.contains(&folder)
    }
}
