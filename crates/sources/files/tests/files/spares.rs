//! What a restore leaves alone whatever it is told: what it works with itself, and other file
//! systems.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, ErrorKind, Finding, Outcome, Severity};
use backup_source_files::{FilesTargetConfig, Overwrite};

/// Restores everything over what is there, and deletes what the snapshot does not have.
fn mirror(to: &Path, protected: impl IntoIterator<Item = PathBuf>) -> FilesTargetConfig {
    FilesTargetConfig {
        delete: true,
        protected: protected.into_iter().collect(),
        ..into(to, Overwrite::Always)
    }
}

fn said(findings: &[Finding]) -> Vec<(Severity, &str)> {
    let said = findings
        .iter()
        .map(|one| (one.severity, one.subject.as_str()));
    said.collect()
}

#[test]
fn deleting_keeps_what_is_protected_and_the_folders_that_hold_it() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("kept/file"), "saved");
    let outside = temp.path().join("outside");
    put(&outside.join("packs/one"), "pack");
    for name in [
        "repo/packs/one",
        "repo/config",
        "far/away/repo/packs/one",
        "far/away/other/file",
        "far/z",
        "kept/key",
        "kept/other",
    ] {
        put(&to.join(name), "there");
    }
    symlink(&outside, to.join("link")).unwrap();
    symlink("link", to.join("link to link")).unwrap();
    let protected = ["repo", "far/away/repo", "kept/key", "link to link", "none"];
    let config = mirror(&to, protected.map(|name| to.join(name)));
    let restored = restore(config, &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    for name in ["repo/packs/one", "repo/config", "far/away/repo/packs/one"] {
        assert_eq!(fs::read(to.join(name)).unwrap(), b"there", "{name}");
    }
    assert_eq!(fs::read(to.join("kept/key")).unwrap(), b"there");
    assert_eq!(
        fs::read(to.join("link to link/packs/one")).unwrap(),
        b"pack"
    );
    for name in ["far/away/other", "far/z", "kept/other"] {
        assert!(!to.join(name).exists(), "{name}");
    }
    assert_eq!(restored.report.deleted, 4);
    let kept = [
        "/far/away/repo",
        "/kept/key",
        "/link",
        "/link to link",
        "/repo",
    ];
    assert_eq!(
        said(&restored.report.findings),
        kept.map(|path| (Severity::Note, path))
    );
}

#[test]
fn an_entry_never_takes_the_place_of_what_is_protected_or_holds_it() {
    // What is protected, what of it is there, and the entry that comes in its place.
    for (protected, there, kind) in [
        ("x", "x/packs/one", EntryKind::File),
        ("x/deep/repo", "x/deep/repo/packs/one", EntryKind::File),
        ("x/key", "x/key", EntryKind::File),
        ("x", "x", EntryKind::Directory),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        put(&to.join(there), "in use");
        if to.join("x").is_dir() {
            put(&to.join("x/more"), "there");
        }
        let before = tree(&to);
        let stored = [made_up(b"x", kind, b"")];
        let restored = restore(mirror(&to, [to.join(protected)]), &stored);
        assert_eq!(restored.errors.len(), 1, "{protected}");
        assert_eq!(restored.errors[0].kind, ErrorKind::Conflict);
        assert_eq!(tree(&to), before, "{protected}");
    }
}

#[test]
fn entries_within_what_is_protected_are_passed_over_and_the_report_says_so_once() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    for name in ["repo/packs/one", "repo/new/file", "key", "other"] {
        put(&from.join(name), "old");
    }
    fs::set_permissions(from.join("repo"), fs::Permissions::from_mode(0o700)).unwrap();
    for name in ["repo/packs/one", "repo/packs/two", "key", "other", "more"] {
        put(&to.join(name), "in use");
    }
    let before = tree(&to.join("repo"));
    let config = mirror(&to, [to.join("repo"), to.join("key")]);
    let restored = restore(config, &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(tree(&to.join("repo")), before);
    assert_eq!(fs::read(to.join("key")).unwrap(), b"in use");
    assert_eq!(fs::read(to.join("other")).unwrap(), b"old");
    assert!(!to.join("more").exists());
    assert_eq!(
        said(&restored.report.findings),
        [(Severity::Warning, "/key"), (Severity::Warning, "/repo")]
    );
}

#[test]
fn what_is_protected_is_no_target_of_a_restore_that_may_change_it() {
    let temp = tempfile::tempdir().unwrap();
    let (from, repo) = (temp.path().join("from"), temp.path().join("repo"));
    put(&from.join("file"), "saved");
    put(&repo.join("packs/one"), "pack");
    let before = tree(&repo);
    let all = |_: &_| Pumping::Whole;
    for folder in [repo.clone(), repo.join("packs"), repo.join("new/folder")] {
        let config = mirror(&folder, [repo.clone()]);
        let refused = restore_with(config, &captured(&from), Outcome::Committed, all);
        assert_eq!(refused.err().unwrap().kind, ErrorKind::Conflict);
        assert_eq!(tree(&repo), before);
    }
}

#[test]
fn deleting_leaves_alone_what_is_mounted_even_from_the_same_file_system() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let (from, to) = (at("from"), at("to"));
    put(&from.join("whole/file"), "saved");
    for name in ["one", "two", "three"] {
        put(&at("outside").join(name).join("deep/file"), "precious");
    }
    put(&at("outside/file"), "precious");
    for name in ["gone/bound/x", "whole/x", "top/x", "file"] {
        put(&to.join(name), "there");
    }
    let mounts = [
        ("outside/one", "to/gone/bound"),
        ("outside/two", "to/top"),
        // The snapshot has this one.
        ("outside/three", "to/whole"),
        ("outside/file", "to/file"),
    ];
    let mounted = mounts.map(|(what, on)| Mounted::bind(&at(what), &at(on)));
    if mounted.iter().any(Option::is_none) {
        return;
    }
    let before = tree(&at("outside"));
    let restored = restore(mirror(&to, []), &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    let mut after = tree(&at("outside"));
    assert!(after.remove(Path::new("three/file")).is_some());
    let same = |tree: &std::collections::BTreeMap<PathBuf, State>| -> Vec<_> {
        let states = tree.iter();
        let kept = states.map(|(path, state)| (path.clone(), state.content.clone()));
        kept.collect()
    };
    assert_eq!(same(&after), same(&before));
    assert_eq!(
        said(&restored.report.findings),
        [
            (Severity::Error, "/file"),
            (Severity::Error, "/gone/bound"),
            (Severity::Error, "/top"),
            (Severity::Note, "/whole"),
        ]
    );
    // Nor does it give way to something else.
    let stored = [made_up(b"gone", EntryKind::File, b"")];
    let restored = restore(mirror(&to, []), &stored);
    assert_eq!(restored.errors.len(), 1, "{:?}", restored.errors);
    assert_eq!(fs::read(at("outside/one/deep/file")).unwrap(), b"precious");
}

#[test]
fn who_is_not_root_deletes_in_folders_that_forbid_them_to_write() {
    as_nobody(|| {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        let closed = ["changed", "same", "other/in", "other"];
        for name in ["changed/file", "same/file"] {
            put(&from.join(name), "saved");
            put(&to.join(name), "there");
        }
        for name in ["changed/more", "same/more", "other/in/more", "other/more"] {
            put(&to.join(name), "there");
        }
        let close = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o555));
        for name in ["changed", "same"] {
            close(&from.join(name)).unwrap();
            set_mtime(&from.join(name), 5_000, 5);
        }
        // This one is not older than the saved one, so it stays as it is.
        for name in closed {
            close(&to.join(name)).unwrap();
        }
        set_mtime(&to.join("changed"), 4_000, 5);
        set_mtime(&to.join("same"), 6_000, 5);
        let config = FilesTargetConfig {
            overwrite: Overwrite::IfNewer,
            ..mirror(&to, [])
        };
        let restored = restore(config, &captured(&from));
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(said(&restored.report.findings), []);
        assert_eq!(restored.report.deleted, 6);
        for (name, time) in [("changed", 5_000), ("same", 6_000)] {
            let left = state(&to.join(name));
            assert_eq!((left.mode & 0o7777, left.mtime), (0o555, (time, 5)));
            assert!(!to.join(name).join("more").exists());
        }
        assert!(!to.join("other").exists());
        for folder in [&from, &to] {
            for name in ["changed", "same"] {
                let open = fs::Permissions::from_mode(0o755);
                fs::set_permissions(folder.join(name), open).unwrap();
            }
        }
    });
}
