//! What the tests of the folder share: looking at files, mounting small file systems.
#![allow(dead_code, reason = "every test uses a part of it")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_core::ObjectKey;
use backup_testkit::context;
use tempfile::TempDir;

/// A key.
pub(crate) fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

/// All files below a folder.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Holds when no temporary file is left.
pub(crate) fn no_temporaries(folder: &Path) {
    let left: Vec<_> = temporaries(folder);
    assert!(left.is_empty(), "{left:?}");
}

/// The temporary files below a folder.
pub(crate) fn temporaries(folder: &Path) -> Vec<PathBuf> {
    let named = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(".tmp-")
    };
    files(folder).into_iter().filter(named).collect()
}

/// The names of all objects that a sink lists.
pub(crate) async fn listed(sink: &dyn backup_core::Sink) -> Vec<String> {
    use futures::TryStreamExt;
    let listing = sink.list(&context(), "", None);
    let mut names: Vec<String> = listing
        .map_ok(|meta| meta.key.to_string())
        .try_collect()
        .await
        .unwrap();
    names.sort();
    names
}

/// A file system in memory, unmounted when it goes out of scope.
pub(crate) struct Mounted {
    folder: TempDir,
}

impl Mounted {
    /// Mounts one, or says why the test that needs it is skipped.
    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        let mounted = Self {
            folder: TempDir::new().unwrap(),
        };
        if mount(&["-t", "tmpfs", "-o", options, "tmpfs"], mounted.path()) {
            return Some(mounted);
        }
        println!("skipped: this needs the right to mount a small file system");
        None
    }

    /// Makes it read-only.
    pub(crate) fn read_only(&self) {
        assert!(mount(&["-o", "remount,ro"], self.path()));
    }

    /// Takes it away, so that the folder below shows.
    pub(crate) fn unmount(&self) {
        let done = Command::new("umount").arg(self.path()).output();
        assert!(done.is_ok_and(|output| output.status.success()));
    }

    /// Shows it at another place too, until the answer goes out of scope.
    pub(crate) fn bind(&self, at: &Path) -> Bound {
        let from = self.path().to_str().unwrap();
        assert!(mount(&["--bind", from], at));
        Bound(at.to_owned())
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).output();
    }
}

/// A file system that is shown at another place.
pub(crate) struct Bound(PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

fn mount(args: &[&str], at: &Path) -> bool {
    Command::new("mount")
        .args(args)
        .arg(at)
        .output()
        .is_ok_and(|output| output.status.success())
}
