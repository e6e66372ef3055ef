//! The time of a folder that stays as it is, whatever is made or replaced in it.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that runs itself and tells itself where"
)]

#[path = "files/support/mod.rs"]
mod support;

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::given::*;
use crate::support::traced::{can_trace, traced};
use crate::support::*;
use backup_core::{EntryKind, EntryPath, Outcome, Target as _};
use backup_source_files::{FilesTarget, Overwrite};

/// Where a process of this program is to restore to, what does so, and how.
const TO: &str = "BACKSTAY_TEST_TO";
const TEST: &str = "restores_where_it_is_told";
const OVERWRITE: &str = "BACKSTAY_TEST_OVERWRITE";

/// The time of folders that are there: later than the saved one, so they stay also with `if-newer`.
const KEPT: (i64, i64) = (2_000_000, 123_456_789);

/// Names that the snapshot has, in folders that are there and in one that is not.
fn wanted() -> Vec<Stored> {
    let folder = |path: &str| made_up(path.as_bytes(), EntryKind::Directory, b"");
    let file = |path: &str| made_up(path.as_bytes(), EntryKind::File, b"saved");
    let link = EntryKind::Symlink(b"somewhere".to_vec());
    let mut all = vec![
        folder("d"),
        file("d/a new file"),
        made_up(b"d/link", link, b""),
        file("d/older"),
        folder("d/sub"),
        file("d/sub/a new file"),
        folder("d/whole"),
        file("d/whole/as it is"),
        folder("new"),
        file("new/file"),
    ];
    for stored in &mut all {
        if stored.entry.meta.kind == EntryKind::Directory {
            stored.entry.meta.mode = 0o755;
        }
    }
    all
}

/// The folders that are there, in which something is changed or not.
const FOLDERS: [&str; 4] = ["", "d", "d/sub", "d/whole"];

fn begin(to: &Path) {
    let _ = fs::remove_dir_all(to);
    put(&to.join("d/older"), "older");
    put(&to.join("d/whole/as it is"), "saved");
    fs::create_dir(to.join("d/sub")).unwrap();
    set_mtime(&to.join("d/older"), 5, 0);
    set_mtime(&to.join("d/whole/as it is"), 1_000_000, 7);
    for folder in FOLDERS {
        set_mtime(&to.join(folder), KEPT.0, KEPT.1);
    }
}

fn is_kept(to: &Path, (overwrite, folders): (Overwrite, &[&str]), what: &str) {
    for folder in folders {
        let time = state(&to.join(folder)).mtime;
        assert_eq!(time, KEPT, "{what}: {folder}");
    }
    assert_eq!(state(&to.join("new")).mtime, (1_000_000, 7), "{what}");
    let all = tree(to);
    assert_eq!(all.len(), wanted().len() + 1, "{what}: {:?}", all.keys());
    let older: &[u8] = match overwrite {
        Overwrite::Never => b"older",
        _ => b"saved",
    };
    assert_eq!(all[Path::new("d/older")].content, older, "{what}");
}

#[test]
fn a_folder_that_stays_keeps_its_time() {
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        for in_place in [false, true] {
            let temp = tempfile::tempdir().unwrap();
            let to = temp.path().join("to");
            begin(&to);
            let mut config = into(&to, overwrite);
            config.in_place = in_place;
            let restored = restore(config, &wanted());
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            assert!(restored.report.findings.is_empty());
            is_kept(&to, (overwrite, &FOLDERS), "not killed");
        }
    }
}

/// One that is asked to end gives it back at once.
#[test]
fn a_restore_that_is_broken_off_gives_it_back() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    begin(&to);
    let half = |_: &EntryPath| Pumping::Half;
    let config = into(&to, Overwrite::Never);
    restore_with(config, &wanted(), Outcome::BrokenOff, half).unwrap();
    assert!(to.join("d/sub/a new file").exists());
    for folder in FOLDERS {
        assert_eq!(state(&to.join(folder)).mtime, KEPT, "{folder}");
    }
}

/// It is one of those above what is restored, of which the snapshot says nothing.
#[test]
fn a_folder_on_the_way_keeps_its_time() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    begin(&to);
    let file = made_up(b"d/sub/x/a new file", EntryKind::File, b"saved");
    restore(into(&to, Overwrite::Always), &[file]);
    assert!(to.join("d/sub/x/a new file").exists());
    for folder in FOLDERS {
        assert_eq!(state(&to.join(folder)).mtime, KEPT, "{folder}");
    }
}

#[test]
fn a_folder_that_is_restored_gets_the_saved_time() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    begin(&to);
    set_mtime(&to.join("d"), 5, 0);
    restore(into(&to, Overwrite::IfNewer), &wanted());
    assert_eq!(state(&to.join("d")).mtime, (1_000_000, 7));
    assert_eq!(state(&to.join("d/sub")).mtime, KEPT);
}

/// Begins all of them, as one that is killed.
fn killed(to: &Path, overwrite: Overwrite, stored: &[Stored]) {
    let cx = context();
    let target = FilesTarget::new(into(to, overwrite));
    let plan = block_on(target.plan(&cx, &request(to))).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    for stored in stored {
        let _ = restore.start(&cx, &stored.entry).unwrap();
    }
    drop(restore);
    std::thread::sleep(std::time::Duration::from_millis(20));
}

#[test]
fn after_a_kill_the_next_run_gives_it_back_whatever_it_restores() {
    for overwrite in [Overwrite::Never, Overwrite::Always] {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        begin(&to);
        killed(&to, Overwrite::Never, &wanted());
        assert_ne!(state(&to.join("d/sub")).mtime, KEPT);
        // Its user gave this one another time since.
        set_mtime(&to.join("d"), 77, 0);
        let wanted = wanted();
        let other = wanted
            .iter()
            .filter(|one| one.entry.path.to_string().starts_with("new"));
        let other: Vec<_> = other.cloned().collect();
        let again = restore(into(&to, overwrite), &other);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert_eq!(state(&to.join("d/sub")).mtime, KEPT);
        assert_eq!(state(&to.join("d")).mtime, (77, 0));
        assert!(!to.join(".backstay-unfinished").exists());
    }
}

/// A folder as it is before, in the midst of a restore that overwrites it, and what the next run leaves of it.
fn closed_before(next: Overwrite, is_asked_for: bool, set: impl Fn(&Path) + Sync) -> State {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let sub = to.join("d/sub");
    begin(&to);
    let mode = |mode| fs::set_permissions(&sub, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    for place in
        ["", "d", "d/older", "d/sub", "d/whole", "d/whole/as it is"].map(|name| to.join(name))
    {
        if is_root() {
            std::os::unix::fs::chown(place, Some(65_534), Some(65_534)).unwrap();
        }
    }
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    as_nobody(|| {
        killed(&to, Overwrite::Always, &wanted());
        assert_eq!(state(&sub).mode & 0o7777, 0o755);
        assert_ne!(state(&sub).mtime, KEPT);
        set(&sub);
        let mut again = wanted();
        again.retain(|one| is_asked_for || one.entry.path.to_string().starts_with("new"));
        let again = restore(into(&to, next), &again);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert!(!to.join(".backstay-unfinished").exists());
    });
    let found = state(&sub);
    mode(0o755);
    found
}

#[test]
fn what_always_left_when_it_was_killed_any_other_run_gives_back() {
    for next in [Overwrite::Never, Overwrite::IfNewer] {
        for is_asked_for in [true, false] {
            let found = closed_before(next, is_asked_for, |_| {});
            let what = format!("{next:?}, asked for: {is_asked_for}");
            assert_eq!((found.mtime, found.mode & 0o7777), (KEPT, 0o555), "{what}");
        }
    }
    let found = closed_before(Overwrite::Always, true, |_| {});
    assert_eq!((found.mtime, found.mode & 0o7777), ((1_000_000, 7), 0o755));
}

#[test]
fn what_its_user_made_of_it_since_stays() {
    let mode = |mode| fs::Permissions::from_mode(mode);
    for is_asked_for in [true, false] {
        let found = closed_before(Overwrite::Never, is_asked_for, |sub| {
            fs::set_permissions(sub, mode(0o711)).unwrap();
        });
        assert_eq!((found.mtime, found.mode & 0o7777), (KEPT, 0o711));
        let found = closed_before(Overwrite::Never, is_asked_for, |sub| set_mtime(sub, 77, 0));
        assert_eq!((found.mtime, found.mode & 0o7777), ((77, 0), 0o555));
    }
}

#[test]
fn another_folder_in_its_place_keeps_its_own_time() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    begin(&to);
    killed(&to, Overwrite::Never, &wanted());
    fs::rename(to.join("d/sub"), to.join("d/moved")).unwrap();
    fs::create_dir(to.join("d/sub")).unwrap();
    let time = state(&to.join("d/sub")).mtime;
    let others = wanted().into_iter().filter(|one| {
        let path = one.entry.path.to_string();
        !path.ends_with("sub/a new file")
    });
    let others: Vec<_> = others.collect();
    restore(into(&to, Overwrite::Never), &others);
    assert_eq!(state(&to.join("d/sub")).mtime, time);
}

/// More than are noted: they keep their times all the same, if nobody is killed.
#[test]
fn thousands_of_folders_keep_their_times() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let mut stored = Vec::new();
    for number in 0..2100 {
        let folder = format!("{number:04}");
        fs::create_dir_all(to.join(&folder)).unwrap();
        set_mtime(&to.join(&folder), KEPT.0, KEPT.1);
        stored.push(made_up(folder.as_bytes(), EntryKind::Directory, b""));
        let file = format!("{folder}/new");
        stored.push(made_up(file.as_bytes(), EntryKind::File, b""));
    }
    killed(&to, Overwrite::Never, &stored[..4]);
    restore(into(&to, Overwrite::Never), &stored);
    for number in 0..2100 {
        let folder = to.join(format!("{number:04}"));
        assert!(folder.join("new").exists());
        assert_eq!(state(&folder).mtime, KEPT, "{number}");
    }
}

/// What is made in a folder changes its time: it is older than the saved one all the same.
#[test]
fn a_folder_that_was_older_before_a_kill_is_replaced_by_the_next_run() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    begin(&to);
    for folder in ["d", "d/sub"] {
        set_mtime(&to.join(folder), 5, 0);
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(to.join(folder), mode).unwrap();
    }
    let half = |path: &EntryPath| match path.to_string().as_str() {
        "new/file" => Pumping::Half,
        _ => Pumping::Whole,
    };
    let config = into(&to, Overwrite::IfNewer);
    restore_with(config.clone(), &wanted(), Outcome::BrokenOff, half).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert!(state(&to.join("d/sub")).mtime.0 > 1_000_000);
    let again = restore(config, &wanted());
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    for folder in ["d", "d/sub"] {
        let found = state(&to.join(folder));
        assert_eq!((found.mtime, found.mode & 0o7777), ((1_000_000, 7), 0o755));
    }
    assert_eq!(state(&to.join("d/whole")).mtime, KEPT);
}

/// What the process does that is killed.
#[test]
fn restores_where_it_is_told() {
    if let Ok(to) = env::var(TO) {
        let overwrite = match env::var(OVERWRITE).as_deref() {
            Ok("Always") => Overwrite::Always,
            Ok("IfNewer") => Overwrite::IfNewer,
            _ => Overwrite::Never,
        };
        restore(into(Path::new(&to), overwrite), &wanted());
    }
}

/// Kills a run at each of its changes; what is there after the next one is given to `check`, with the folders of
/// which that is sure.
fn killed_at_each(overwrite: Overwrite, next: Overwrite, check: impl Fn(&Path, &[&str], &str)) {
    const CALLS: [&str; 8] = [
        "pwrite64",
        "openat",
        "renameat",
        "unlinkat",
        "mkdirat",
        "symlinkat",
        "utimensat",
        "fchmod",
    ];
    let temp = tempfile::tempdir().unwrap();
    let (to, log) = (temp.path().join("to"), temp.path().join("log"));
    let mut tried = 0;
    let run = |options: &[&str]| {
        let mut command = traced(TEST, options);
        command.env(OVERWRITE, format!("{overwrite:?}"));
        command.env(TO, &to).status().unwrap().success()
    };
    for call in CALLS {
        begin(&to);
        let trace = format!("--trace={call}");
        assert!(run(&[log.to_str().unwrap(), &trace]));
        if overwrite == next {
            check(&to, &FOLDERS, "not killed");
        }
        let lines = fs::read_to_string(&log).unwrap();
        let begins = |line: &&str| line.contains(&format!("{call}("));
        let of_restore = |line: &&str| call != "openat" || line.contains("O_RDWR");
        let calls: Vec<_> = lines.lines().filter(begins).collect();
        let first = calls.iter().position(of_restore).unwrap_or(calls.len());
        for point in first + 1..=calls.len() {
            begin(&to);
            let inject = format!("--inject={call}:signal=KILL:when={point}");
            tried += usize::from(!run(&["/dev/null", &trace, &inject]));
            std::thread::sleep(std::time::Duration::from_millis(10));
            let again = restore(into(&to, next), &wanted());
            let what = format!(
                "{overwrite:?}, killed at {call} {point} of {}, then {next:?}",
                calls.len()
            );
            assert!(again.errors.is_empty(), "{what}: {:?}", again.errors);
            // Where nothing is noted yet, or not any more, the target folder has the time of the kill.
            let folders = match call {
                "openat" | "unlinkat" | "utimensat" | "fchmod" => &FOLDERS[1..],
                _ => &FOLDERS,
            };
            check(&to, folders, &what);
        }
    }
    assert!(tried > 20, "{tried} points");
}

#[test]
fn killed_at_any_change_the_next_run_gives_it_back() {
    for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
        if can_trace() {
            killed_at_each(overwrite, overwrite, |to, folders, what| {
                is_kept(to, (overwrite, folders), what);
            });
        }
    }
}

/// Each folder has its own time or the saved one, and no other.
#[test]
fn killed_while_it_overwrites_another_run_leaves_no_time_of_a_restore() {
    if !can_trace() {
        return;
    }
    killed_at_each(Overwrite::Always, Overwrite::Never, |to, folders, what| {
        for folder in folders {
            let time = state(&to.join(folder)).mtime;
            assert!([KEPT, (1_000_000, 7)].contains(&time), "{what}: {folder}");
        }
        let all = tree(to);
        assert_eq!(all.len(), wanted().len() + 1, "{what}: {:?}", all.keys());
        let content = &all[Path::new("d/older")].content;
        assert!([&b"older"[..], b"saved"].contains(&&**content), "{what}");
    });
}
