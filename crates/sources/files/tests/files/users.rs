//! Who restores: a restore that another user began, and folders of one's own whose mode forbids their owner
//! something.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, Outcome, Target as _, TargetError};
use backup_source_files::{FilesTarget, FilesTargetConfig, Overwrite};

const NOBODY: u32 = 65_534;
const ALL: [Overwrite; 3] = [Overwrite::Never, Overwrite::IfNewer, Overwrite::Always];

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder that everybody may make something in.
fn place() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    set_mode(temp.path(), 0o777);
    temp
}

/// Begins all of them, as one that is killed.
fn killed(config: FilesTargetConfig, stored: &[Stored]) {
    let cx = context();
    let request = request(&config.folder);
    let target = FilesTarget::new(config);
    let plan = block_on(target.plan(&cx, &request)).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    for stored in stored {
        let _ = restore.start(&cx, &stored.entry).unwrap();
    }
    drop(restore);
    std::thread::sleep(std::time::Duration::from_millis(20));
}

fn folder(path: &str, mode: u32) -> Stored {
    let mut stored = made_up(path.as_bytes(), EntryKind::Directory, b"");
    stored.entry.meta.mode = mode;
    stored
}

fn file(path: &str) -> Stored {
    made_up(path.as_bytes(), EntryKind::File, b"saved")
}

/// Folders with all modes that forbid their owner something, a file and a folder in each.
const MODES: [u32; 7] = [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600];

fn closed() -> Vec<Stored> {
    let mut all = Vec::new();
    for mode in MODES {
        let name = |below: &str| format!("{mode:03o}{below}");
        all.extend([
            folder(&name(""), mode),
            file(&name("/file")),
            folder(&name("/in"), mode),
            file(&name("/in/file")),
        ]);
    }
    // It could not be read when it was saved.
    let mut unread = folder("unread", 0o000);
    unread.entry.whole = false;
    all.push(unread);
    all
}

/// What all is like, as root sees it, with the folder itself.
fn whole(to: &Path) -> Vec<(String, u32, (i64, i64))> {
    let all = tree(to).into_iter();
    let all = all.filter(|(path, _)| !path.as_os_str().is_empty());
    all.map(|(path, state)| (path.display().to_string(), state.mode & 0o7777, state.mtime))
        .collect()
}

#[test]
fn folders_that_forbid_their_owner_are_restored_again() {
    if !is_root() {
        return println!("skipped: needs root to look into them");
    }
    for overwrite in ALL {
        let temp = place();
        let to = temp.path().join("to");
        let run = || {
            let restored = as_nobody(|| restore(into(&to, overwrite), &closed()));
            assert!(
                restored.errors.is_empty(),
                "{overwrite:?}: {:?}",
                restored.errors
            );
            let serious = restored.report.findings;
            assert!(serious.is_empty(), "{overwrite:?}: {serious:?}");
            assert!(!to.join(".backstay-unfinished").exists());
        };
        run();
        let first = whole(&to);
        assert_eq!(first.len(), closed().len());
        run();
        assert_eq!(whole(&to), first, "{overwrite:?}");
        // What is missing is made again.
        for mode in MODES {
            let folder = to.join(format!("{mode:03o}"));
            fs::remove_file(folder.join("file")).unwrap();
            fs::remove_file(folder.join("in/file")).unwrap();
            set_mtime(&folder.join("in"), 1_000_000, 7);
            set_mtime(&folder, 1_000_000, 7);
        }
        run();
        assert_eq!(whole(&to), first, "{overwrite:?}");
    }
}

#[test]
fn what_the_snapshot_does_not_have_is_deleted_in_them() {
    if !is_root() {
        return println!("skipped: needs root to look into them");
    }
    for overwrite in ALL {
        let temp = place();
        let to = temp.path().join("to");
        let config = FilesTargetConfig {
            delete: true,
            ..into(&to, overwrite)
        };
        let run = || {
            as_nobody(|| {
                let whole = |_: &_| Pumping::Whole;
                let config = config.clone();
                let done = restore_with(config, &closed(), Outcome::Committed, whole).unwrap();
                assert!(done.errors.is_empty(), "{overwrite:?}: {:?}", done.errors);
                let findings = done.report.findings;
                assert!(findings.is_empty(), "{overwrite:?}: {findings:?}");
                done.report.deleted
            })
        };
        assert_eq!(run(), 0);
        let first = whole(&to);
        let mut others = 0;
        for mode in MODES {
            for below in ["", "/in"] {
                let folder = to.join(format!("{mode:03o}{below}"));
                put(&folder.join("other"), "");
                put(&folder.join("tree/of/others"), "");
                for below in ["tree/of", "tree"] {
                    chown(folder.join(below), Some(NOBODY), Some(NOBODY)).unwrap();
                    set_mode(&folder.join(below), mode);
                }
                set_mtime(&folder, 1_000_000, 7);
                others += 4;
            }
        }
        assert_eq!(run(), others, "{overwrite:?}");
        assert_eq!(whole(&to), first, "{overwrite:?}");
    }
}

#[test]
fn a_dry_run_changes_no_mode_and_says_what_it_does_not_see() {
    if !is_root() {
        return println!("skipped: needs root to look into them");
    }
    let temp = place();
    let to = temp.path().join("to");
    as_nobody(|| restore(into(&to, Overwrite::Never), &closed()));
    let first = whole(&to);
    let config = FilesTargetConfig {
        delete: true,
        ..into(&to, Overwrite::Always)
    };
    let findings = as_nobody(|| {
        let cx = context();
        let target = FilesTarget::new(config);
        let plan = block_on(target.plan(&cx, &request(&to))).unwrap();
        let mut rehearsal = block_on(target.rehearse(&cx, &plan)).unwrap().unwrap();
        let mut none = |path: &_| panic!("{path} would be deleted");
        for stored in closed() {
            rehearsal.see(&stored.entry, &mut none).unwrap();
        }
        rehearsal.end(Outcome::Committed, &mut none).unwrap()
    });
    let told = findings.iter().filter(|one| one.detail.contains("dry run"));
    // Those in others are not seen, 0500 can be looked into, and there is the one that could not be read.
    assert_eq!(told.count(), MODES.len(), "{findings:?}");
    assert_eq!(findings.len(), MODES.len(), "{findings:?}");
    assert_eq!(whole(&to), first);
}

#[test]
fn a_kill_leaves_none_of_them_open() {
    if !is_root() {
        return println!("skipped: needs root to look into them");
    }
    for (overwrite, next) in ALL.into_iter().flat_map(|one| ALL.map(|next| (one, next))) {
        let temp = place();
        let to = temp.path().join("to");
        as_nobody(|| restore(into(&to, Overwrite::Never), &closed()));
        let first = whole(&to);
        as_nobody(|| killed(into(&to, overwrite), &closed()));
        assert_ne!(whole(&to), first, "{overwrite:?}");
        let again = as_nobody(|| restore(into(&to, next), &closed()));
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert_eq!(whole(&to), first, "{overwrite:?}, then {next:?}");
    }
}

#[test]
fn a_folder_of_somebody_else_stays_closed() {
    if !is_root() {
        return println!("skipped: needs root to make one");
    }
    let temp = place();
    let to = temp.path().join("to");
    fs::create_dir_all(to.join("theirs")).unwrap();
    chown(&to, Some(NOBODY), Some(NOBODY)).unwrap();
    set_mode(&to.join("theirs"), 0o711);
    let wanted = [folder("theirs", 0o755), file("theirs/file")];
    let done = as_nobody(|| restore(into(&to, Overwrite::Always), &wanted));
    assert!(!done.errors.is_empty());
    assert_eq!(state(&to.join("theirs")).mode & 0o7777, 0o711);
    assert!(!to.join("theirs/file").exists());
}

fn begun(to: &Path) -> Result<(), TargetError> {
    let cx = context();
    let target = FilesTarget::new(into(to, Overwrite::Never));
    let plan = block_on(target.plan(&cx, &request(to)))?;
    block_on(target.begin(&cx, plan)).map(drop)
}

#[test]
fn a_restore_that_another_user_began_is_said_to_be_theirs() {
    if !is_root() {
        return println!("skipped: needs root to be two users");
    }
    let temp = place();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    set_mode(&to, 0o777);
    let mark = to.join(".backstay-unfinished");
    let told = |by_root: bool| {
        let error = if by_root {
            begun(&to)
        } else {
            as_nobody(|| begun(&to))
        };
        let said = error.unwrap_err().to_string();
        assert!(!said.contains("move it away"), "{said}");
        assert!(mark.exists());
        said
    };
    as_nobody(|| killed(into(&to, Overwrite::Never), &[file("file")]));
    assert_eq!(fs::metadata(&mark).unwrap().uid(), NOBODY);
    let said = told(true);
    assert!(said.contains("run the restore again as nobody"), "{said}");
    assert!(
        said.contains("once more as root, with --overwrite always"),
        "{said}"
    );
    // It may have been torn by a power loss.
    fs::write(&mark, "").unwrap();
    assert!(told(true).contains("as nobody"));
    // That user takes it up.
    as_nobody(|| restore(into(&to, Overwrite::Never), &[file("file")]));
    assert_eq!(fs::read(to.join("file")).unwrap(), b"saved");
    assert!(!mark.exists());
    // The other way round.
    killed(into(&to, Overwrite::Never), &[file("other")]);
    let said = told(false);
    assert!(said.contains("run the restore again as root"), "{said}");
    assert!(!said.contains("once more as root"), "{said}");
    // What holds something else is nobody's restore.
    fs::write(&mark, "a letter").unwrap();
    chown(&mark, Some(NOBODY), Some(NOBODY)).unwrap();
    let said = begun(&to).unwrap_err().to_string();
    assert!(said.contains("move it away"), "{said}");
}
