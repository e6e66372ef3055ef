//! What a restore must never do, and what it does when it is not let do more.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, EntryPath, ErrorKind, FindingKind, Outcome, Severity};
use backup_source_files::{FilesConfig, FilesTargetConfig, Holes, Overwrite, Ownership};

/// What stands in the target folder until nothing is left unfinished.
const MARKER: &str = ".backstay-unfinished";

#[test]
fn a_full_folder_gives_way_to_a_file_only_when_deleting_is_asked_for_too() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("x"), "saved");
    put(&to.join("x/deep/file"), "precious");
    let restored = restore(into(&to, Overwrite::Always), &captured(&from));
    assert_eq!(restored.errors[0].kind, ErrorKind::Conflict);
    assert_eq!(fs::read(to.join("x/deep/file")).unwrap(), b"precious");
    let config = FilesTargetConfig {
        delete: true,
        ..into(&to, Overwrite::Always)
    };
    assert!(restore(config, &captured(&from)).errors.is_empty());
    assert_eq!(fs::read(to.join("x")).unwrap(), b"saved");
}

#[test]
fn no_link_in_the_target_leads_out_of_it() {
    for overwrite in [Overwrite::Never, Overwrite::IfNewer, Overwrite::Always] {
        let temp = tempfile::tempdir().unwrap();
        let (from, to, out) = (
            temp.path().join("from"),
            temp.path().join("to"),
            temp.path().join("outside"),
        );
        put(&from.join("dir/sub/file"), "attack");
        put(&from.join("file"), "attack");
        put(&from.join("hard"), "attack");
        put(&out.join("sub/file"), "victim");
        put(&out.join("file"), "victim");
        fs::create_dir(&to).unwrap();
        symlink(&out, to.join("dir")).unwrap();
        symlink(out.join("file"), to.join("file")).unwrap();
        fs::hard_link(out.join("file"), to.join("hard")).unwrap();
        let before = tree(&out);
        let config = FilesTargetConfig {
            delete: true,
            ..into(&to, overwrite)
        };
        restore(config, &captured(&from));
        let mut after = tree(&out);
        // Replacing the hard link took one name away from the file, and nothing else.
        after.get_mut(Path::new("file")).unwrap().links = before[Path::new("file")].links;
        assert_eq!(after, before, "{overwrite:?}");
        let replaced = overwrite == Overwrite::Always;
        assert_eq!(to.join("dir").is_symlink(), !replaced);
    }
}

#[test]
fn a_link_from_the_snapshot_is_not_a_way_out_either() {
    let temp = tempfile::tempdir().unwrap();
    let (to, out) = (temp.path().join("to"), temp.path().join("outside"));
    fs::create_dir(&out).unwrap();
    let target = out.as_os_str().as_encoded_bytes().to_vec();
    let stored = [
        made_up(b"a", EntryKind::Symlink(target), b""),
        made_up(b"a/file", EntryKind::File, b"attack"),
        made_up(b"b", EntryKind::Symlink(Vec::new()), b""),
        made_up(b"c", EntryKind::Symlink(b"x\0y".to_vec()), b""),
        made_up(b"d", EntryKind::File, b"fine"),
    ];
    let restored = restore(into(&to, Overwrite::Always), &stored);
    let failed: Vec<&str> = restored
        .errors
        .iter()
        .map(|error| error.subject.as_str())
        .collect();
    // What is wrong with `a/file` is that `a` is no folder.
    assert_eq!(failed, ["a", "b", "c"]);
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
    assert_eq!(fs::read(to.join("d")).unwrap(), b"fine");
}

#[test]
fn an_interrupted_restore_shows_what_is_unfinished_and_the_next_one_finishes_it() {
    for overwrite in [Overwrite::Never, Overwrite::IfNewer, Overwrite::Always] {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        for name in ["a/one", "a/two", "b/three", "b/four"] {
            put(&from.join(name), format!("content of {name}").repeat(1000));
            set_mtime(&from.join(name), 1_000, 0);
        }
        for name in ["a", "b", "."] {
            set_mtime(&from.join(name), 2_000, 0);
        }
        let stored = captured(&from);
        let half = |path: &EntryPath| match path.to_string().as_str() {
            "a/two" | "b/three" => Pumping::Half,
            "b/four" => Pumping::Failed,
            _ => Pumping::Whole,
        };
        let broken = restore_with(into(&to, overwrite), &stored, Outcome::Abandoned, half).unwrap();
        assert!(broken.errors.is_empty(), "{:?}", broken.errors);
        let mode = |name: &str| fs::metadata(to.join(name)).unwrap().mode() & 0o7777;
        assert_eq!(
            (mode("a/two"), mode("b/three"), mode("b/four")),
            (0o1600, 0o1600, 0o1600)
        );
        assert!(to.join(MARKER).exists());
        // Folders get their metadata at the end, also of a restore that is given up.
        assert_eq!((mode("a/one"), mode("a"), mode("b")), (0o644, 0o755, 0o755));
        let again = restore(into(&to, overwrite), &stored);
        assert!(again.errors.is_empty(), "{overwrite:?} {:?}", again.errors);
        assert!(!to.join(MARKER).exists());
        let (mut want, mut got) = (tree(&from), tree(&to));
        // The target folder was there before the second run, which may leave it as it is.
        want.remove(Path::new(""));
        got.remove(Path::new(""));
        assert_eq!(got, want, "{overwrite:?}");
        assert!(
            again.report.skipped >= 1,
            "what was finished was done again"
        );
    }
}

#[test]
fn deleting_makes_the_folder_a_mirror_and_keeps_its_times() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    for name in ["a/keep", "b/keep", "m", "c/x/keep"] {
        put(&from.join(name), "saved");
    }
    fs::create_dir(from.join("empty")).unwrap();
    let out = temp.path().join("outside");
    put(&out.join("file"), "victim");
    for name in [
        "a/0",
        "a/z",
        "aa/deep/er/file",
        "b/keep",
        "empty/x",
        "c/x/y",
        "zz",
        "a-",
    ] {
        put(&to.join(name), "there");
    }
    symlink(&out, to.join("c/out")).unwrap();
    put(&to.join(os(b"odd\n\xff")), "there");
    for name in ["a", "b", "c/x", "c", "empty", "."] {
        set_mtime(&from.join(name), 5_000, 5);
    }
    let config = FilesTargetConfig {
        delete: true,
        ..into(&to, Overwrite::Always)
    };
    let restored = restore(config, &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.report.findings, []);
    assert_eq!(tree(&to), tree(&from));
    assert_eq!(restored.report.deleted, 12);
    assert_eq!(fs::read(out.join("file")).unwrap(), b"victim");
}

#[test]
fn nothing_is_deleted_beside_a_root_or_where_the_snapshot_left_something_out() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("root/file"), "saved");
    put(&from.join("root/tagged/.nobackup"), "");
    let config = FilesConfig {
        exclude_if_present: vec![".nobackup".into()],
        ..FilesConfig::of_roots([from.join("root")])
    };
    let stored = store(&capture(config));
    let back = to.join(from.strip_prefix("/").unwrap());
    for name in ["root/tagged/live", "beside", "root/other"] {
        put(&back.join(name), "there");
    }
    put(&to.join("above"), "there");
    let config = FilesTargetConfig {
        delete: true,
        ..into(&to, Overwrite::Always)
    };
    let restored = restore(config, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.report.deleted, 1);
    assert!(back.join("root/tagged/live").exists() && back.join("beside").exists());
    assert!(to.join("above").exists() && !back.join("root/other").exists());
}

#[test]
fn nothing_is_deleted_after_an_error() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("file"), "saved");
    put(&to.join("other"), "there");
    let config = FilesTargetConfig {
        delete: true,
        ..into(&to, Overwrite::Always)
    };
    let stored = captured(&from);
    let fail = |path: &EntryPath| {
        if path.is_root() {
            Pumping::Whole
        } else {
            Pumping::Failed
        }
    };
    let restored = restore_with(config, &stored, Outcome::Committed, fail).unwrap();
    assert!(to.join("other").exists());
    assert_eq!(restored.report.findings[0].kind, FindingKind::Skipped);
}

#[test]
fn links_that_cannot_be_or_should_not_be_become_files_of_their_own() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir_all(to.join("mounted")).unwrap();
    let group = |path: &[u8], content: &[u8]| {
        let mut stored = made_up(path, EntryKind::File, content);
        stored.entry.meta.link_group = Some(5);
        stored
    };
    let stored = [
        group(b"a", b"one"),
        group(b"b", b"other"),
        group(b"c", b"one"),
    ];
    let restored = restore(into(&to, Overwrite::Never), &stored);
    assert_eq!(
        restored.report.findings.len(),
        1,
        "{:?}",
        restored.report.findings
    );
    assert_eq!(restored.report.findings[0].kind, FindingKind::Degraded);
    let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
    assert!(inode("a") == inode("c") && inode("a") != inode("b"));
    assert_eq!(fs::read(to.join("b")).unwrap(), b"other");
    let Some(_mounted) = Mounted::tmpfs(&to.join("mounted"), "size=1m") else {
        return;
    };
    let stored = [group(b"a", b"one"), group(b"mounted/x", b"one")];
    let restored = restore(into(&to, Overwrite::Always), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.report.findings[0].kind, FindingKind::Degraded);
    assert_eq!(fs::read(to.join("mounted/x")).unwrap(), b"one");
}

#[test]
fn linked_files_are_linked_again_by_a_second_restore() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("a"), "content");
    fs::hard_link(from.join("a"), from.join("b")).unwrap();
    let stored = captured(&from);
    for overwrite in [
        Overwrite::Never,
        Overwrite::Never,
        Overwrite::Always,
        Overwrite::IfNewer,
    ] {
        restore(into(&to, overwrite), &stored);
        let inode = |name: &str| fs::metadata(to.join(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"), "{overwrite:?}");
        fs::remove_file(to.join("b")).unwrap();
    }
    put(&to.join("a"), "changed by hand");
    restore(into(&to, Overwrite::Never), &stored);
    assert_eq!(fs::read(to.join("b")).unwrap(), b"content");
    assert_eq!(fs::read(to.join("a")).unwrap(), b"changed by hand");
}

#[test]
fn owners_go_by_name_or_number_or_stay_with_who_restores() {
    if !is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    let mut stored = made_up(b"file", EntryKind::File, b"x");
    stored.entry.meta.mode = 0o4755;
    stored.entry.meta.owner = Some(backup_core::Owner {
        uid: 777,
        gid: 888,
        user: Some("nobody".into()),
        group: Some("no such group".into()),
    });
    for (owner, want, mode) in [
        (Ownership::Name, (65_534, 888), 0o4755),
        (Ownership::Number, (777, 888), 0o4755),
        (Ownership::None, (0, 0), 0o755),
    ] {
        let to = temp.path().join(format!("{owner:?}"));
        let config = FilesTargetConfig {
            owner,
            ..into(&to, Overwrite::Never)
        };
        let restored = restore(config, std::slice::from_ref(&stored));
        let meta = fs::metadata(to.join("file")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), want, "{owner:?}");
        assert_eq!(
            meta.mode() & 0o7777,
            mode,
            "a setuid bit for the wrong owner"
        );
        assert_eq!(restored.report.findings.len(), usize::from(mode == 0o755));
    }
}

/// Nobody has to set an owner that an entry has from the beginning.
#[test]
fn setuid_bits_stay_where_the_owner_is_the_saved_one_without_being_set() {
    let temp = tempfile::tempdir().unwrap();
    let own = fs::metadata(temp.path()).unwrap();
    let (uid, gid) = (own.uid(), own.gid());
    let other = |id: u32| if id == 0 { 4_321 } else { 0 };
    for (number, (user, group, saved, want)) in [
        (uid, gid, 0o6755, 0o6755),
        (uid, gid, 0o6750, 0o6750),
        (uid, other(gid), 0o6755, 0o4755),
        // Another group would run it with the rights of its owner.
        (uid, other(gid), 0o6750, 0o750),
        (other(uid), gid, 0o6755, 0o755),
        (other(uid), other(gid), 0o6755, 0o755),
    ]
    .into_iter()
    .enumerate()
    {
        let mut stored = made_up(b"file", EntryKind::File, b"x");
        stored.entry.meta.mode = saved;
        stored.entry.meta.owner = Some(backup_core::Owner {
            uid: user,
            gid: group,
            user: None,
            group: None,
        });
        let to = temp.path().join(number.to_string());
        for overwrite in [Overwrite::Never, Overwrite::Always] {
            let config = FilesTargetConfig {
                owner: Ownership::None,
                ..into(&to, overwrite)
            };
            let restored = restore(config, std::slice::from_ref(&stored));
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            let meta = fs::metadata(to.join("file")).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (uid, gid));
            assert_eq!(meta.mode() & 0o7777, want, "{number}");
            let findings = restored.report.findings.len();
            assert_eq!(findings, usize::from(saved != want), "{number}");
        }
    }
}

#[test]
fn who_is_not_root_restores_all_but_owners_and_devices() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o777)).unwrap();
    let mut file = made_up(b"dir/file", EntryKind::File, b"x");
    file.entry.meta.owner = Some(backup_core::Owner {
        uid: 1,
        gid: 1,
        user: None,
        group: None,
    });
    file.entry.meta.xattrs = vec![
        (b"security.capability".to_vec(), vec![1]),
        (b"user.a".to_vec(), vec![2]),
    ];
    let mut dir = made_up(b"dir", EntryKind::Directory, b"");
    dir.entry.meta.mode = 0o555;
    let stored = [
        dir,
        file,
        made_up(b"null", EntryKind::CharDevice { major: 1, minor: 3 }, b""),
    ];
    let restored = as_nobody(|| restore(into(&to, Overwrite::Never), &stored));
    assert_eq!(restored.errors.len(), 1);
    assert_eq!(
        (restored.errors[0].subject.as_str(), restored.errors[0].kind),
        ("null", ErrorKind::Denied)
    );
    let told = restored.errors[0].to_string();
    assert!(
        told.contains("CAP_MKNOD") && told.contains("--exclude"),
        "{told}"
    );
    assert!(
        restored
            .report
            .findings
            .iter()
            .all(|finding| finding.severity == Severity::Note)
    );
    assert_eq!(
        state(&to.join("dir/file")).xattrs,
        [(b"user.a".to_vec(), vec![2])]
    );
    assert_eq!(state(&to.join("dir")).mode & 0o7777, 0o555);
    let again = as_nobody(|| {
        restore_with(
            into(&to, Overwrite::Always),
            &stored,
            Outcome::Committed,
            |_| Pumping::Whole,
        )
    })
    .unwrap();
    assert_eq!(again.errors.len(), 1, "{:?}", again.errors);
    assert_eq!(state(&to.join("dir")).mode & 0o7777, 0o555);
}

#[test]
fn who_is_not_root_replaces_files_of_their_own_without_loss() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    fs::set_permissions(&to, fs::Permissions::from_mode(0o777)).unwrap();
    for in_place in [false, true] {
        let (restored, own) = as_nobody(|| {
            put(&to.join("file"), "old");
            let meta = fs::metadata(to.join("file")).unwrap();
            let mut file = made_up(b"file", EntryKind::File, b"new");
            file.entry.meta.mode = 0o4755;
            file.entry.meta.owner = Some(backup_core::Owner {
                uid: meta.uid(),
                gid: meta.gid(),
                user: None,
                group: None,
            });
            let config = FilesTargetConfig {
                in_place,
                ..into(&to, Overwrite::Always)
            };
            (restore(config, &[file]), meta.uid())
        });
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        assert_eq!(restored.report.findings, [], "{in_place}");
        let meta = fs::metadata(to.join("file")).unwrap();
        assert_eq!(
            (meta.uid(), meta.mode() & 0o7777),
            (own, 0o4755),
            "{in_place}"
        );
    }
}

#[test]
fn a_full_disk_is_an_error_of_its_own_kind() {
    let temp = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::tmpfs(temp.path(), "size=256k") else {
        return;
    };
    let stored = [
        made_up(b"large", EntryKind::File, &[1; 1 << 20]),
        made_up(b"small", EntryKind::File, b"fits"),
    ];
    let to = temp.path().join("to");
    let restored = restore(into(&to, Overwrite::Never), &stored);
    assert_eq!(
        restored.errors[0].kind,
        ErrorKind::NoSpace,
        "{:?}",
        restored.errors
    );
    assert_eq!(
        fs::metadata(to.join("large")).unwrap().mode() & 0o7777,
        0o1600
    );
    let config = FilesTargetConfig {
        holes: Holes::Nowhere,
        ..into(&temp.path().join("all"), Overwrite::Never)
    };
    assert_eq!(restore(config, &stored).errors[0].kind, ErrorKind::NoSpace);
}

#[test]
fn writes_beyond_the_size_of_an_entry_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let mut stored = made_up(b"file", EntryKind::File, b"abc");
    stored.data.push((u64::MAX - 1, b"xyz".to_vec()));
    let restored = restore(into(temp.path(), Overwrite::Never), &[stored]);
    assert_eq!(restored.errors[0].kind, ErrorKind::Invalid);
    assert!(fs::metadata(temp.path().join("file")).unwrap().len() <= 3);
}

/// Captures a folder, restores it beside and deletes there what the snapshot does not have.
/// Returns what is there then of the given names.
fn left_after_mirroring(
    config: FilesConfig,
    from: &Path,
    to: &Path,
    names: &[&str],
) -> Vec<String> {
    let stored = rooted_at(&store(&capture(config)), from);
    for name in names {
        put(&to.join(name), "there");
    }
    let delete = FilesTargetConfig {
        delete: true,
        ..into(to, Overwrite::Always)
    };
    let restored = restore(delete, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    let there = |name: &&&str| to.join(name).exists();
    names
        .iter()
        .filter(there)
        .map(|name| (*name).to_owned())
        .collect()
}

#[test]
fn a_folder_that_lost_a_child_to_any_filter_loses_nothing_to_deleting() {
    let of = |from: &Path| FilesConfig::of_roots([from]);
    let hour = jiff::SignedDuration::from_hours(1);
    type Change = fn(&mut FilesConfig, jiff::SignedDuration);
    let filters: [(&str, Change); 6] = [
        ("pattern", |config, _| {
            config.excludes = vec!["*.out".into()]
        }),
        ("anchored", |config, _| {
            config.excludes = vec!["/part/x.out".into()]
        }),
        ("ignore file", |config, _| {
            config.ignore_files = vec![".ignore".into()]
        }),
        ("larger", |config, _| {
            config.exclude_larger_than = Some(4096)
        }),
        ("smaller", |config, _| config.exclude_smaller_than = Some(3)),
        ("newer", |config, hour| {
            config.exclude_newer_than = Some(hour)
        }),
    ];
    // A folder of many names is looked at in several steps, its record is made after the first.
    for (many, (what, change)) in [1, 700]
        .into_iter()
        .flat_map(|many| filters.into_iter().map(move |filter| (many, filter)))
    {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        put(&from.join("all/keep"), "content");
        put(&from.join(".ignore"), "x.out\n");
        for number in 0..many {
            put(&from.join(format!("part/keep{number:03}")), "content");
        }
        let content = match what {
            "larger" => vec![1; 8192],
            "smaller" => vec![1; 1],
            _ => b"content".to_vec(),
        };
        put(&from.join("part/x.out"), content);
        for name in ["all/keep", ".ignore"] {
            set_mtime(&from.join(name), NOW - 100_000, 0);
        }
        for number in 0..many {
            set_mtime(
                &from.join(format!("part/keep{number:03}")),
                NOW - 100_000,
                0,
            );
        }
        let age = if what == "newer" { 10 } else { 100_000 };
        set_mtime(&from.join("part/x.out"), NOW - age, 0);
        let mut config = of(&from);
        change(&mut config, hour);
        let names = ["part/x.out", "part/other", "all/other"];
        let left = left_after_mirroring(config, &from, &to, &names);
        assert_eq!(left, ["part/x.out", "part/other"], "{what}, {many} others");
        let left = left_after_mirroring(of(&from), &from, &temp.path().join("second"), &names);
        assert_eq!(left, ["part/x.out"], "without {what}");
    }
}

#[test]
fn a_folder_that_lost_a_folder_to_a_pattern_keeps_it() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("a/skip/s"), "x");
    put(&from.join("a/keep"), "x");
    let config = FilesConfig {
        excludes: vec!["skip".into()],
        ..FilesConfig::of_roots([&from])
    };
    let names = ["a/skip/s", "b"];
    assert_eq!(
        left_after_mirroring(config, &from, &to, &names),
        ["a/skip/s"]
    );
}

#[test]
fn a_users_own_file_with_the_mode_of_an_unfinished_one_is_never_replaced() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    for name in ["mine", "half", "linked"] {
        put(&from.join(name), "saved");
    }
    fs::hard_link(from.join("linked"), from.join("alink")).unwrap();
    fs::create_dir(from.join("folder")).unwrap();
    for name in ["mine", "linked"] {
        put(&to.join(name), "precious");
        fs::set_permissions(to.join(name), fs::Permissions::from_mode(0o1600)).unwrap();
    }
    fs::create_dir(to.join("folder")).unwrap();
    fs::set_permissions(to.join("folder"), fs::Permissions::from_mode(0o1700)).unwrap();
    let kept = || {
        for name in ["mine", "linked"] {
            assert_eq!(fs::read(to.join(name)).unwrap(), b"precious", "{name}");
            assert_eq!(state(&to.join(name)).mode & 0o7777, 0o1600, "{name}");
        }
        assert_eq!(state(&to.join("folder")).mode & 0o7777, 0o1700);
    };
    // What the kernel calls now moves in ticks.
    std::thread::sleep(std::time::Duration::from_millis(30));
    let stored = captured(&from);
    let half = |path: &EntryPath| match path.to_string().as_str() {
        "half" => Pumping::Half,
        _ => Pumping::Whole,
    };
    let config = || into(&to, Overwrite::Never);
    let broken = restore_with(config(), &stored, Outcome::Abandoned, half).unwrap();
    assert!(broken.errors.is_empty(), "{:?}", broken.errors);
    kept();
    // An earlier restore was broken off; still these files are older than that.
    let again = restore(config(), &stored);
    assert!(again.errors.is_empty(), "{:?}", again.errors);
    assert_eq!(fs::read(to.join("half")).unwrap(), b"saved");
    kept();
    let told = again.report.findings.iter();
    let told: Vec<_> = told
        .map(|finding| (finding.kind, finding.subject.as_str()))
        .collect();
    assert!(told.contains(&(FindingKind::Skipped, "/mine")), "{told:?}");
    assert!(!to.join(MARKER).exists());
}

#[test]
fn the_target_folder_keeps_the_time_and_mode_it_gets() {
    as_nobody(|| {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        put(&from.join("file"), "x");
        fs::set_permissions(&from, fs::Permissions::from_mode(0o555)).unwrap();
        set_mtime(&from, 5_000, 5);
        let restored = restore(into(&to, Overwrite::Never), &captured(&from));
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        let got = fs::metadata(&to).unwrap();
        assert_eq!(
            (got.mode() & 0o7777, got.mtime(), got.mtime_nsec()),
            (0o555, 5_000, 5)
        );
        assert!(!to.join(MARKER).exists());
        for folder in [&from, &to] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
    });
}
