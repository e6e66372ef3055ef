//! Names that differ only in case, where the file system takes them for one: the second file would take the place
//! of the first, and nobody would see it.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use backup_core::{EntryPath, OpContext};
use backup_engine::SnapshotView;
use backup_engine::view::Seen;

use crate::error::{ExportError, Result, at};

/// A name that is made to find out, and what it is in other letters.
const NAME: &str = ".backstay-case";
const OTHER: &str = ".BACKSTAY-CASE";

/// Whether names in a folder are one that differ only in case.
pub(crate) fn is_folded(folder: &Path) -> Result<bool> {
    let path = folder.join(NAME);
    drop(crate::place::new_file(&path)?);
    let is_folded = fs::symlink_metadata(folder.join(OTHER)).is_ok();
    fs::remove_file(&path).map_err(at("remove", &path))?;
    Ok(is_folded)
}

/// Sees that a component has no two names that are one.
pub(crate) async fn check(view: &SnapshotView<'_>, cx: &OpContext, component: u8) -> Result<()> {
    let mut walk = view.entries(component, &EntryPath::root());
    let mut names = Names::default();
    while let Some(seen) = walk.step(cx).await? {
        let Seen::Entry(entry) = seen else {
            // The restore tells of it.
            continue;
        };
        if cx.cancel.is_cancelled() {
            return Err(backup_engine::EngineError::Cancelled.into());
        }
        if let Some(other) = names.add(&entry.path) {
            return Err(ExportError::NotWritten {
                what: format!("/{}", entry.path),
                why: format!("the file system takes its name and {other:?} for one"),
            });
        }
    }
    Ok(())
}

/// The names in the folders above the last path, by their small letters.
#[derive(Debug, Default)]
struct Names(Vec<HashMap<String, String>>);

impl Names {
    /// Adds a path, which comes behind the ones before in their order; gives the name beside it that is one with
    /// its own.
    fn add(&mut self, path: &EntryPath) -> Option<String> {
        let depth = path.components().count();
        let name = String::from_utf8_lossy(path.name()?).into_owned();
        self.0.truncate(depth);
        self.0.resize_with(depth, HashMap::new);
        let beside = self.0.last_mut()?;
        beside.insert(name.to_lowercase(), name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_in_one_folder_are_compared() {
        let mut names = Names::default();
        let mut add = |path: &str| names.add(&EntryPath::from_slashed(path.as_bytes()).unwrap());
        for path in ["", "A", "A/x", "A/y", "B", "B/X", "B/z/x", "b.c"] {
            assert_eq!(add(path), None, "{path}");
        }
        assert_eq!(add("a").as_deref(), Some("A"));
        assert_eq!(add("c/Ü"), None);
        assert_eq!(add("c/ü").as_deref(), Some("Ü"));
        assert_eq!(add("d"), None);
    }

    #[test]
    fn the_folders_of_this_host_are_asked() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_folded(folder.path()).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
