//! What a restore that was killed leaves behind, and what the next one makes of it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, EntryPath, EntryWriter, ErrorKind, Outcome, Severity, Target as _};
use backup_source_files::{FilesTarget, FilesTargetConfig, Overwrite};

/// The mode of an unfinished folder.
const UNFINISHED: u32 = 0o1700;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

/// Mode, owner, group and time of a folder.
fn state(path: &Path) -> (u32, u32, u32, i64) {
    let meta = fs::metadata(path).unwrap();
    (mode(path), meta.uid(), meta.gid(), meta.mtime())
}

/// Starts some entries and gets no further.
fn killed(config: &FilesTargetConfig, stored: &[Stored]) {
    let cx = context();
    let target = FilesTarget::new(config.clone());
    let plan = block_on(target.plan(&cx, &request(&config.folder))).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    for stored in stored {
        let _ = restore.start(&cx, &stored.entry).unwrap();
    }
}

fn saved(temp: &Path, mode: u32) -> Vec<Stored> {
    let from = temp.join("from");
    put(&from.join("file"), "saved");
    if is_root() {
        std::os::unix::fs::chown(&from, Some(1234), Some(2345)).unwrap();
    }
    fs::set_permissions(&from, fs::Permissions::from_mode(mode)).unwrap();
    set_mtime(&from, 5_000, 0);
    captured(&from)
}

#[test]
fn a_target_folder_that_a_killed_restore_made_is_finished_by_the_next_one() {
    for saved_mode in [0o2750, 0o700, 0o777] {
        for inherits in [false, true] {
            for started in 0..3 {
                let temp = tempfile::tempdir().unwrap();
                let stored = saved(temp.path(), saved_mode);
                let above = temp.path().join("above");
                fs::create_dir(&above).unwrap();
                if inherits {
                    fs::set_permissions(&above, fs::Permissions::from_mode(0o2755)).unwrap();
                }
                let to = above.join("new");
                let config = into(&to, Overwrite::Never);
                killed(&config, &stored[..started]);
                // Nobody else sees into it meanwhile.
                assert_eq!(mode(&to) & 0o5777, UNFINISHED);
                let restored = restore(config, &stored);
                assert!(restored.errors.is_empty(), "{:?}", restored.errors);
                assert_eq!(state(&to), state(&temp.path().join("from")));
                assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
            }
        }
    }
}

fn warnings(restored: &Restored) -> Vec<&str> {
    let findings = restored.report.findings.iter();
    let warnings = findings.filter(|finding| finding.severity == Severity::Warning);
    warnings.map(|finding| finding.subject.as_str()).collect()
}

/// Nobody can tell who made it: it stays closed, and that is said.
#[test]
fn an_empty_folder_with_the_mode_of_an_unfinished_one_stays_as_it_is() {
    let temp = tempfile::tempdir().unwrap();
    let stored = saved(temp.path(), 0o2750);
    let to = temp.path().join("new");
    fs::DirBuilder::new().mode(UNFINISHED).create(&to).unwrap();
    let restored = restore(into(&to, Overwrite::Never), &stored);
    assert_eq!(mode(&to), UNFINISHED);
    assert_eq!(warnings(&restored), ["/"]);
    let restored = restore(into(&to, Overwrite::Always), &stored);
    assert!(warnings(&restored).is_empty());
    assert_eq!(state(&to), state(&temp.path().join("from")));
    let plain = temp.path().join("plain");
    fs::DirBuilder::new()
        .mode(UNFINISHED)
        .create(&plain)
        .unwrap();
    let stored = [made_up(b"file", EntryKind::File, b"saved")];
    let restored = restore(into(&plain, Overwrite::Never), &stored);
    assert!(warnings(&restored).is_empty());
    assert_eq!(mode(&plain), UNFINISHED);
}

#[test]
fn a_folder_that_another_restore_may_have_left_is_told_of() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir_all(to.join("folder")).unwrap();
    let marked = fs::Permissions::from_mode(UNFINISHED);
    fs::set_permissions(to.join("folder"), marked).unwrap();
    let stored = [made_up(b"folder", EntryKind::Directory, b"")];
    let restored = restore(into(&to, Overwrite::Never), &stored);
    assert_eq!(warnings(&restored), ["/folder"]);
    assert_eq!(mode(&to.join("folder")), UNFINISHED);
}

/// What folders are to get waits in a file once it is much.
#[test]
fn folders_that_wait_where_there_is_no_room_are_finished_when_there_is() {
    let temp = tempfile::tempdir().unwrap();
    let at = temp.path().join("small");
    fs::create_dir(&at).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&at, "size=256k,nr_inodes=100k") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let to = at.join("to");
    let folder = |number: usize| {
        let name = format!("{number:0>220}");
        let mut stored = made_up(name.as_bytes(), EntryKind::Directory, b"");
        stored.entry.meta.mode = 0o755;
        stored
    };
    let stored: Vec<_> = (0..24_000).map(folder).collect();
    let config = into(&to, Overwrite::Never);
    let begin = |config: &FilesTargetConfig| {
        let cx = context();
        let target = FilesTarget::new(config.clone());
        let plan = block_on(target.plan(&cx, &request(&config.folder))).unwrap();
        (cx.clone(), block_on(target.begin(&cx, plan)).unwrap())
    };
    let (cx, full) = begin(&config);
    let failed = (stored.iter()).find_map(|one| full.start(&cx, &one.entry).err());
    assert_eq!(failed.unwrap().kind, ErrorKind::NoSpace);
    // The last of them has no room either.
    let closed = block_on(full.close(&cx, Outcome::Abandoned));
    assert!(closed.is_ok_and(|report| report.deleted == 0));
    let marked = || {
        let folders = fs::read_dir(&to)
            .unwrap()
            .map(|entry| entry.unwrap().path());
        folders
            .filter(|path| path.is_dir() && mode(path) == UNFINISHED)
            .count()
    };
    assert!(marked() > 0 && to.join(".backstay-unfinished").exists());
    let more = std::process::Command::new("mount")
        .args(["-o", "remount,size=64m"])
        .arg(&at)
        .status();
    assert!(more.unwrap().success());
    let again = restore(config, &stored);
    assert!(again.errors.is_empty() && again.report.findings.is_empty());
    assert_eq!(marked(), 0);
    assert_eq!(fs::read_dir(&to).unwrap().count(), stored.len());
}

#[test]
fn a_target_folder_that_was_there_keeps_what_it_had_whatever_its_mode() {
    for own in [0o755, 0o700, UNFINISHED] {
        let temp = tempfile::tempdir().unwrap();
        let stored = saved(temp.path(), 0o2750);
        let to = temp.path().join("there");
        fs::create_dir(&to).unwrap();
        fs::set_permissions(&to, fs::Permissions::from_mode(own)).unwrap();
        // Somebody gave it that mode some time after it was made.
        set_mtime(&to, 4_000, 0);
        let before = state(&to);
        let config = into(&to, Overwrite::Never);
        killed(&config, &stored);
        let (kept, ..) = state(&to);
        assert_eq!(kept, own);
        restore(config, &stored);
        let (mode, user, group, _) = state(&to);
        assert_eq!((mode, user, group), (before.0, before.1, before.2));
    }
}

#[test]
fn a_target_folder_of_which_the_snapshot_says_nothing_is_like_any_new_one() {
    let temp = tempfile::tempdir().unwrap();
    let plain = temp.path().join("plain");
    fs::create_dir(&plain).unwrap();
    let stored = [made_up(b"file", EntryKind::File, b"saved")];
    let (to, again) = (temp.path().join("to"), temp.path().join("again"));
    restore(into(&to, Overwrite::Never), &stored);
    let config = into(&again, Overwrite::Never);
    killed(&config, &stored);
    restore_with(config, &stored, Outcome::Committed, |_| Pumping::Whole).unwrap();
    for folder in [to, again] {
        assert_eq!(mode(&folder), mode(&plain));
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}

#[test]
fn entries_that_are_named_like_what_a_restore_tries_modes_with_come_back() {
    for kind in [EntryKind::Directory, EntryKind::File] {
        let temp = tempfile::tempdir().unwrap();
        let plain = temp.path().join("plain");
        fs::create_dir(&plain).unwrap();
        let to = temp.path().join("to");
        let content: &[u8] = match kind {
            EntryKind::File => b"saved",
            _ => b"",
        };
        let stored = [made_up(b".backstay-new-folder", kind, content)];
        let restored = restore(into(&to, Overwrite::Never), &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert!(restored.report.findings.is_empty(), "{:?}", restored.report);
        assert!(to.join(".backstay-new-folder").exists());
        assert_eq!(mode(&to), mode(&plain));
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }
}

/// Where a default ACL takes from the owner what the mark consists of, a file gets that just after it
/// was made.
#[test]
fn a_file_that_was_killed_before_it_got_its_mode_is_finished() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    let config = into(&to, Overwrite::Never);
    killed(&config, &[]);
    for (name, content) in [("made", ""), ("mine", "mine")] {
        put(&to.join(name), content);
        fs::set_permissions(to.join(name), fs::Permissions::from_mode(0o1000)).unwrap();
    }
    let stored = ["made", "mine"].map(|name| made_up(name.as_bytes(), EntryKind::File, b"saved"));
    let restored = restore(config, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(mode(&to.join("made")), 0o644);
    assert_eq!(fs::read(to.join("made")).unwrap(), b"saved");
    assert_eq!(mode(&to.join("mine")), 0o1000);
}

#[test]
fn an_unfinished_folder_is_known_also_where_folders_hand_on_their_group() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("sub/file"), "saved");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o2755)).unwrap();
    fs::set_permissions(from.join("sub"), fs::Permissions::from_mode(0o750)).unwrap();
    let (config, stored) = (into(&to, Overwrite::Never), captured(&from));
    killed(&config, &stored);
    restore(config, &stored);
    assert_eq!(mode(&to.join("sub")), 0o750);
}

/// The owner comes before the mode, so a restore may be killed in between: what is left belongs to
/// whom it should and has the mark.
#[test]
fn what_was_killed_between_its_owner_and_its_mode_is_finished() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    let owned = |name: &str, kind: EntryKind, content: &[u8]| {
        let mut stored = made_up(name.as_bytes(), kind, content);
        stored.entry.meta.mode = 0o751;
        stored.entry.meta.owner = Some(backup_core::Owner {
            uid: 1234,
            gid: 2345,
            user: None,
            group: None,
        });
        stored
    };
    let stored = [
        owned("file", EntryKind::File, b"saved"),
        owned("folder", EntryKind::Directory, b""),
        owned("mine", EntryKind::Directory, b""),
    ];
    let half_done = |name: &str| {
        let path = to.join(name);
        std::os::unix::fs::chown(&path, Some(1234), Some(2345)).unwrap();
        let mode = if path.is_dir() { UNFINISHED } else { 0o1600 };
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(&path, 1_000_000, 7);
    };
    // This one was there before, with that mode and by chance that time.
    fs::create_dir(to.join("mine")).unwrap();
    half_done("mine");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let config = into(&to, Overwrite::Never);
    killed(&config, &stored[..2]);
    fs::write(to.join("file"), "saved").unwrap();
    half_done("file");
    half_done("folder");
    std::thread::sleep(std::time::Duration::from_millis(20));
    let restored = restore(config, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(state(&to.join("file")), (0o751, 1234, 2345, 1_000_000));
    assert_eq!(state(&to.join("folder")), (0o751, 1234, 2345, 1_000_000));
    assert_eq!(mode(&to.join("mine")), UNFINISHED);
}

/// What the next restore takes for unfinished was made by one. What the restore itself does to files of
/// others renews the time of their change, as their users may.
#[test]
fn a_file_with_that_mode_that_was_there_stays_whatever_was_done_to_it_since() {
    for (same, overwrite) in [
        (true, Overwrite::Never),
        (false, Overwrite::Never),
        (true, Overwrite::IfNewer),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        put(&from.join("a"), "saved");
        fs::set_permissions(from.join("a"), fs::Permissions::from_mode(0o1600)).unwrap();
        fs::hard_link(from.join("a"), from.join("b")).unwrap();
        put(&from.join("c"), "half of it");
        put(&from.join("sub/file"), "in a folder");
        set_mtime(&from.join("a"), 5_000, 0);
        let stored = captured(&from);
        put(&to.join("a"), if same { "saved" } else { "mine" });
        fs::create_dir(to.join("sub")).unwrap();
        set_mtime(&to.join("a"), 5_000, 0);
        for (name, mode) in [("a", 0o1600), ("sub", UNFINISHED)] {
            fs::set_permissions(to.join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let inode = fs::metadata(to.join("a")).unwrap().ino();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let half = |path: &EntryPath| match path.to_string().as_str() {
            "c" => Pumping::Half,
            _ => Pumping::Whole,
        };
        let config = into(&to, overwrite);
        let broken = restore_with(config.clone(), &stored, Outcome::Abandoned, half).unwrap();
        assert!(broken.errors.is_empty(), "{:?}", broken.errors);
        fs::hard_link(to.join("a"), to.join("x")).unwrap();
        fs::remove_file(to.join("x")).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(30));
        let again = restore(config, &stored);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        let meta = fs::metadata(to.join("a")).unwrap();
        assert_eq!((meta.ino(), mode(&to.join("a"))), (inode, 0o1600));
        let mine: &[u8] = if same { b"saved" } else { b"mine" };
        assert_eq!(fs::read(to.join("a")).unwrap(), mine);
        assert_eq!(mode(&to.join("sub")), UNFINISHED);
        assert_eq!(fs::read(to.join("b")).unwrap(), b"saved");
        assert_eq!(fs::read(to.join("c")).unwrap(), b"half of it");
        assert!(!to.join(".backstay-unfinished").exists());
    }
}

/// A file of a user of that mode that is written in place is known by a note: the mode says nothing.
#[test]
fn a_file_with_that_mode_that_was_written_in_place_is_finished() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    let stored = ["a", "b"].map(|name| made_up(name.as_bytes(), EntryKind::File, b"saved"));
    for name in ["a", "b"] {
        put(&at(name), "old");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o1600)).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(30));
    let config = FilesTargetConfig {
        in_place: true,
        ..into(temp.path(), Overwrite::Always)
    };
    let cx = context();
    let target = FilesTarget::new(config.clone());
    let plan = block_on(target.plan(&cx, &request(temp.path()))).unwrap();
    let broken = block_on(target.begin(&cx, plan)).unwrap();
    for (number, stored) in stored.iter().enumerate() {
        let writer = broken.start(&cx, &stored.entry).unwrap();
        if let (0, EntryWriter::Positional(writer)) = (number, writer) {
            writer.write_at(0, b"sa").unwrap();
        }
    }
    drop(broken);
    assert_eq!(fs::read(at("a")).unwrap(), b"sad");
    // A restore of something else leaves it, and says so.
    let never = into(temp.path(), Overwrite::Never);
    let other = restore(never.clone(), &stored[1..]);
    let mut told = warnings(&other);
    told.sort_unstable();
    assert_eq!(told, ["/a", "/b"]);
    assert!(at(".backstay-unfinished").exists());
    let again = restore(never, &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(fs::read(at("a")).unwrap(), b"saved");
    assert_eq!(fs::read(at("b")).unwrap(), b"old");
    assert!(!at(".backstay-unfinished").exists());
}

/// What its user has made something else of since is theirs.
#[test]
fn a_note_of_a_file_in_place_counts_until_its_user_has_changed_its_mode() {
    for repaired in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let file = temp.path().join("a");
        let stored = [made_up(b"a", EntryKind::File, b"saved")];
        put(&file, "old");
        let config = FilesTargetConfig {
            in_place: true,
            ..into(temp.path(), Overwrite::Always)
        };
        let cx = context();
        let target = FilesTarget::new(config.clone());
        let plan = block_on(target.plan(&cx, &request(temp.path()))).unwrap();
        let broken = block_on(target.begin(&cx, plan)).unwrap();
        let writer = broken.start(&cx, &stored[0].entry).unwrap();
        if let EntryWriter::Positional(writer) = writer {
            writer.write_at(0, b"sa").unwrap();
        }
        drop(broken);
        if repaired {
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(&file, "mine").unwrap();
        }
        let again = restore(into(temp.path(), Overwrite::Never), &stored);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        let wanted = if repaired { "mine" } else { "saved" };
        assert_eq!(fs::read_to_string(&file).unwrap(), wanted);
    }
}

/// A file that is to have the mode of unfinished ones has another until it is finished.
#[test]
fn a_finished_file_whose_mode_is_that_of_unfinished_ones_is_its_users() {
    for (overwrite, bits) in [(Overwrite::Never, 0), (Overwrite::IfNewer, 0o4000)] {
        let temp = tempfile::tempdir().unwrap();
        let to = temp.path().join("to");
        let names = ["edited", "half", "kept time", "unchanged"];
        let stored = names.map(|name| {
            let mut stored = made_up(name.as_bytes(), EntryKind::File, b"what is saved");
            // Without its owner it does not get the setuid bit.
            stored.entry.meta.mode = 0o1600 | bits;
            stored
        });
        let half = |path: &EntryPath| match path.to_string().as_str() {
            "half" => Pumping::Half,
            _ => Pumping::Whole,
        };
        let config = into(&to, overwrite);
        let broken = restore_with(config.clone(), &stored, Outcome::BrokenOff, half).unwrap();
        assert!(broken.errors.is_empty(), "{:?}", broken.errors);
        fs::write(to.join("edited"), "mine").unwrap();
        fs::write(to.join("kept time"), "what is mine.").unwrap();
        set_mtime(&to.join("kept time"), 1_000_000, 7);
        let whole = fs::metadata(to.join("unchanged")).unwrap().ctime_nsec();
        let again = restore(config, &stored);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        let found = names.map(|name| fs::read_to_string(to.join(name)).unwrap());
        let wanted = ["mine", "what is saved", "what is mine.", "what is saved"];
        assert_eq!(found, wanted);
        assert!(names.iter().all(|name| mode(&to.join(name)) == 0o1600));
        let unchanged = fs::metadata(to.join("unchanged")).unwrap();
        assert_eq!(unchanged.ctime_nsec(), whole);
        assert_eq!(fs::read_dir(&to).unwrap().count(), names.len());
    }
}
