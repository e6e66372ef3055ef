//! What stands in the target folder, or is put there meanwhile, does not change what is restored.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::support::given::*;
use crate::support::*;
use backup_core::{
    EntryKind, EntryOutcome, EntryWriter, Finding, FindingKind, Outcome, Owner, Target as _,
};
use backup_source_files::{FilesTarget, FilesTargetConfig, Overwrite, Ownership};
use rustix::process::{getegid, geteuid};

/// A default ACL that gives the user 1234 all, and the owner what is said.
fn handed_on(owner: u16) -> Vec<u8> {
    let none = u32::MAX;
    acl(&[
        (1, owner, none),
        (2, 7, 1234),
        (4, 5, none),
        (0x10, 7, none),
        (0x20, 5, none),
    ])
}

/// Some of each kind that has a mode, in folders that are new and that are there.
fn lay_out(from: &Path) {
    for folder in ["new", "there"] {
        put(&from.join(folder).join("file"), "content");
        put(&from.join(folder).join("old"), "new content");
        fs::hard_link(
            from.join(folder).join("file"),
            from.join(folder).join("name"),
        )
        .unwrap();
        fs::create_dir(from.join(folder).join("empty")).unwrap();
        let pipe = from.join(folder).join("pipe");
        let (kind, mode) = (
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o660),
        );
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).unwrap();
        fs::set_permissions(&pipe, fs::Permissions::from_mode(0o664)).unwrap();
        symlink("nowhere", from.join(folder).join("link")).unwrap();
        for (name, mode) in [("file", 0o640), ("old", 0o664), ("empty", 0o2775)] {
            let path = from.join(folder).join(name);
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    // One has a default ACL of its own.
    assert!(set_xattr(
        &from.join("new"),
        "system.posix_acl_default",
        &handed_on(7)
    ));
}

fn paths(folder: &Path) -> Vec<PathBuf> {
    tree(folder)
        .into_keys()
        .filter(|path| path != Path::new(""))
        .collect()
}

#[test]
fn default_acls_of_the_target_and_of_folders_in_it_hand_nothing_on() {
    for (owner, nobody) in [(7, false), (5, false), (5, true), (0, false)] {
        let temp = tempfile::tempdir().unwrap();
        fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        put(&to.join("there/old"), "old content");
        if !set_xattr(&to, "system.posix_acl_default", &handed_on(owner)) {
            return;
        }
        lay_out(&from);
        let there = to.join("there");
        assert!(set_xattr(
            &there,
            "system.posix_acl_default",
            &handed_on(owner)
        ));
        if nobody && is_root() {
            for path in [&to, &there, &there.join("old")] {
                std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
            }
        }
        let (stored, config) = (captured(&from), into(&to, Overwrite::Always));
        // Killed once on the way, so that marks must be known again.
        let half = |_: &backup_core::EntryPath| Pumping::Half;
        let run = || {
            let _ = restore_with(config.clone(), &stored, Outcome::Abandoned, half).unwrap();
            restore(into(&to, Overwrite::Always), &stored)
        };
        let restored = if nobody { as_nobody(run) } else { run() };
        assert!(restored.errors.is_empty(), "{owner} {:?}", restored.errors);
        for path in paths(&from) {
            let (mut want, mut got) = (state(&from.join(&path)), state(&to.join(&path)));
            if nobody {
                (want.uid, want.gid) = (got.uid, got.gid);
                // Only for the owner and group that they are meant for.
                if !from.join(&path).is_dir() {
                    want.mode &= !0o6000;
                }
            }
            if path.is_symlink() {
                got.mode = want.mode;
            }
            assert_eq!(got, want, "{owner} {nobody} {}", path.display());
        }
        assert_eq!(paths(&to), paths(&from));
    }
}

/// An ACL may take from the owner what the setting of another attribute needs, and so may the mode of a file
/// that is there already.
#[test]
fn attributes_of_a_file_that_its_owner_may_not_write_into_come_back() {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    let done = as_nobody(|| {
        let file = from.join("file");
        put(&file, "content");
        let none = u32::MAX;
        let list = acl(&[
            (1, 4, none),
            (2, 4, 1234),
            (4, 0, none),
            (0x10, 4, none),
            (0x20, 0, none),
        ]);
        if !set_xattr(&file, "user.mime", b"text")
            || !set_xattr(&file, "system.posix_acl_access", &list)
        {
            return false;
        }
        let stored = captured(&from);
        for overwrite in [Overwrite::Never, Overwrite::Always] {
            let restored = restore(into(&to, overwrite), &stored);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            let findings = &restored.report.findings;
            assert!(findings.is_empty(), "{overwrite:?} {findings:?}");
            assert_eq!(state(&to.join("file")), state(&file));
        }
        true
    });
    if !done {
        eprintln!("skipped: this file system has no attributes");
    }
}

/// Also where no attributes are to be restored: with the mode, the ACL would give the user 1234 what the
/// group has.
#[test]
fn default_acls_hand_nothing_on_where_attributes_are_left_out() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&to.join("there/old"), "old content");
    if !set_xattr(&to, "system.posix_acl_default", &handed_on(7)) {
        return;
    }
    lay_out(&from);
    let there = to.join("there");
    assert!(set_xattr(&there, "system.posix_acl_default", &handed_on(7)));
    let (stored, mut config) = (captured(&from), into(&to, Overwrite::Always));
    config.xattrs = false;
    let half = |_: &backup_core::EntryPath| Pumping::Half;
    let broken = restore_with(config.clone(), &stored, Outcome::BrokenOff, half).unwrap();
    assert!(broken.errors.is_empty(), "{:?}", broken.errors);
    let restored = restore(config, &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    for path in paths(&from) {
        let (want, got) = (state(&from.join(&path)), state(&to.join(&path)));
        assert_eq!(got.mode, want.mode, "{}", path.display());
        // What was there keeps its own.
        let acls = usize::from(path == Path::new("there"));
        assert_eq!(
            got.xattrs.len(),
            acls,
            "{} {:?}",
            path.display(),
            got.xattrs
        );
    }
}

/// A restore of a folder `dir` with a file and an empty folder, at whose end `swap` was done between
/// two entries.
fn with_swap(to: &Path, swap: impl FnOnce()) -> (Vec<String>, u64) {
    let mut dir = made_up(b"dir", EntryKind::Directory, b"");
    dir.entry.meta.mode = 0o751;
    let mut inner = made_up(b"dir/inner", EntryKind::Directory, b"");
    inner.entry.meta.mode = 0o751;
    let stored = [
        dir,
        made_up(b"dir/file", EntryKind::File, b"attack"),
        inner,
        made_up(b"dir/inner/file", EntryKind::File, b"attack"),
    ];
    let cx = context();
    let target = FilesTarget::new(into(to, Overwrite::Always));
    let plan = block_on(target.plan(&cx, &request(to))).unwrap();
    let restore = block_on(target.begin(&cx, plan)).unwrap();
    let mut swap = Some(swap);
    let mut failed = Vec::new();
    for (number, stored) in stored.iter().enumerate() {
        if number == 1 {
            (swap.take().unwrap())();
        }
        match restore.start(&cx, &stored.entry) {
            Ok(writer) => {
                if let EntryWriter::Positional(writer) = &writer {
                    writer.write_at(0, b"attack").unwrap();
                }
                let whole = EntryOutcome::Whole;
                let done = restore.finish(&cx, &stored.entry, writer, whole);
                failed.extend(done.err().map(|error| error.to_string()));
            }
            Err(error) => failed.push(error.to_string()),
        }
    }
    let report = block_on(restore.close(&cx, Outcome::Committed)).unwrap();
    failed.extend(report.findings.iter().map(ToString::to_string));
    (failed, report.written)
}

#[test]
fn a_folder_that_is_swapped_for_a_link_leads_nothing_out_of_the_target() {
    let temp = tempfile::tempdir().unwrap();
    let (to, out) = (temp.path().join("to"), temp.path().join("outside"));
    put(&out.join("file"), "victim");
    put(&out.join("inner/file"), "victim");
    fs::create_dir(&to).unwrap();
    let before = tree(&out);
    let (failed, _) = with_swap(&to, || {
        fs::rename(to.join("dir"), to.join("moved")).unwrap();
        symlink(&out, to.join("dir")).unwrap();
    });
    assert!(!failed.is_empty());
    assert_eq!(tree(&out), before);
    // What was begun goes on in the folder that was made.
    assert_eq!(fs::read(to.join("moved/file")).unwrap(), b"attack");
    assert_eq!(fs::read(to.join("moved/inner/file")).unwrap(), b"attack");
}

#[test]
fn a_folder_that_is_swapped_for_another_does_not_get_its_metadata() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    let (failed, _) = with_swap(&to, || {
        fs::rename(to.join("dir"), to.join("moved")).unwrap();
        fs::create_dir_all(to.join("dir/inner")).unwrap();
        fs::set_permissions(to.join("dir"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(to.join("dir/inner"), fs::Permissions::from_mode(0o700)).unwrap();
    });
    let said = |what: &str| failed.iter().any(|line| line.contains(what));
    assert!(said("another folder has taken its place"), "{failed:?}");
    for folder in ["dir", "dir/inner"] {
        let mode = fs::metadata(to.join(folder)).unwrap().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{folder}");
    }
}

#[test]
fn a_first_name_that_is_swapped_gets_no_further_names() {
    for beside in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let (to, secret) = (temp.path().join("to"), temp.path().join("secret"));
        put(&secret, "secret");
        fs::create_dir(&to).unwrap();
        let linked = |name: &[u8]| {
            let mut stored = made_up(name, EntryKind::File, b"new");
            stored.entry.meta.link_group = Some(7);
            stored
        };
        let mut stored = vec![linked(b"a")];
        if beside {
            // So many wait to take the places of others that all of them do.
            let other =
                |number: u32| made_up(format!("a{number}").as_bytes(), EntryKind::File, b"new");
            stored.extend((0..300).map(other));
            for stored in stored.iter().chain([&linked(b"b")]) {
                put(&to.join(stored.entry.path.to_string()), "old");
            }
        }
        let cx = context();
        let target = FilesTarget::new(into(&to, Overwrite::Always));
        let plan = block_on(target.plan(&cx, &request(&to))).unwrap();
        let restore = block_on(target.begin(&cx, plan)).unwrap();
        for stored in &stored {
            let writer = restore.start(&cx, &stored.entry).unwrap();
            if let EntryWriter::Positional(writer) = &writer {
                writer.write_at(0, b"new").unwrap();
            }
            restore
                .finish(&cx, &stored.entry, writer, EntryOutcome::Whole)
                .unwrap();
        }
        assert_eq!(fs::read(to.join("a")).unwrap(), b"new");
        fs::remove_file(to.join("a")).unwrap();
        fs::hard_link(&secret, to.join("a")).unwrap();
        let started = restore.start(&cx, &linked(b"b").entry).unwrap();
        // What was not there becomes a file of its own; what was there stays.
        assert_eq!(matches!(started, EntryWriter::Positional(_)), !beside);
        let report = block_on(restore.close(&cx, Outcome::Committed)).unwrap();
        let said: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
        assert!(
            said.iter()
                .any(|line| line.contains("been replaced by something else")),
            "{said:?}"
        );
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 2);
        if beside {
            assert_eq!(fs::read(to.join("b")).unwrap(), b"old");
            assert_eq!(fs::read_dir(&to).unwrap().count(), 302);
        }
    }
}

#[test]
fn names_as_long_as_a_file_system_takes_them_come_back_over_what_is_there() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    let long = [
        "n".repeat(255),
        "\u{8cc7}".repeat(85),
        format!("{}x", "\u{e9}".repeat(127)),
    ];
    let mut stored = Vec::new();
    for name in &long {
        put(&to.join(name), "old");
        stored.push(made_up(name.as_bytes(), EntryKind::File, b"new"));
    }
    stored.sort_by(|a, b| a.entry.path.cmp(&b.entry.path));
    let restored = restore(into(&to, Overwrite::Always), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    for name in &long {
        assert_eq!(fs::read(to.join(name)).unwrap(), b"new");
    }
    assert_eq!(fs::read_dir(&to).unwrap().count(), 3);
}

#[test]
fn a_file_system_that_is_read_only_is_named_before_anything_is_done() {
    let temp = tempfile::tempdir().unwrap();
    let to = temp.path().join("to");
    fs::create_dir(&to).unwrap();
    let Some(_mounted) = Mounted::tmpfs(&to, "ro") else {
        return;
    };
    for folder in [to.clone(), to.join("new")] {
        let config = FilesTargetConfig::of_folder(&folder);
        let refused = block_on(FilesTarget::new(config).plan(&context(), &request(&folder)));
        let said = refused.unwrap_err().to_string();
        assert!(said.contains("Read-only file system"), "{said}");
    }
}

/// Entries that an ACL gives somebody access to: their mode shows what that is at most, and the owning group has
/// `of_group` of it.
fn shared_with_somebody(mode: u32, of_group: u16) -> Vec<Stored> {
    let list = acl(&[
        (1, 7, !0),
        (2, 7, 1234),
        (4, of_group, !0),
        (0x10, (mode >> 3 & 7) as u16, !0),
        (0x20, 0, !0),
    ]);
    let kinds = [EntryKind::Directory, EntryKind::File, EntryKind::Fifo];
    let made = |(name, kind): (&str, EntryKind)| {
        let mut stored = made_up(name.as_bytes(), kind, b"");
        stored.entry.meta.mode = mode;
        stored.entry.meta.xattrs = vec![(b"system.posix_acl_access".to_vec(), list.clone())];
        stored
    };
    ["a folder", "file", "pipe"]
        .into_iter()
        .zip(kinds)
        .map(made)
        .collect()
}

/// What a mode becomes where the ACL is left out.
fn without_acl(config: &FilesTargetConfig) {
    let cases = [
        (0o770, 0, 0o700),
        (0o660, 0, 0o600),
        (0o750, 7, 0o750),
        (0o760, 4, 0o740),
        (0o4770, 0, 0o4700),
        // That of what is unfinished.
        (0o1670, 0, 0o1600),
        (0o1770, 0, 0o1700),
    ];
    for (saved, of_group, wanted) in cases {
        let entries = shared_with_somebody(saved, of_group);
        for next in [Overwrite::Never, Overwrite::Always] {
            let config = FilesTargetConfig {
                overwrite: next,
                owner: Ownership::Number,
                ..config.clone()
            };
            let mut entries = entries.clone();
            for stored in &mut entries {
                let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
                let (user, group) = (None, None);
                stored.entry.meta.owner = Some(Owner {
                    uid,
                    gid,
                    user,
                    group,
                });
            }
            let restored = restore(config.clone(), &entries);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            let findings = restored.report.findings;
            let is_told = |one: &Finding| one.kind == FindingKind::Metadata;
            assert!(findings.iter().all(is_told), "{saved:o}: {findings:?}");
            for stored in &entries {
                let path = config.folder.join(os(&stored.entry.path.to_slashed()));
                let mode = state(&path).mode & 0o7777;
                assert_eq!(mode, wanted, "{saved:o}, {of_group:o}, {next:?}: {path:?}");
            }
        }
        for stored in entries {
            let path = config.folder.join(os(&stored.entry.path.to_slashed()));
            fs::remove_file(&path)
                .or_else(|_| fs::remove_dir(&path))
                .unwrap();
        }
    }
}

#[test]
fn without_its_acl_nothing_gives_the_owning_group_what_the_mask_lets_others_have() {
    let temp = tempfile::tempdir().unwrap();
    let config = FilesTargetConfig {
        xattrs: false,
        ..into(&temp.path().join("to"), Overwrite::Never)
    };
    without_acl(&config);
}

#[test]
fn nor_where_a_file_system_has_none() {
    let temp = tempfile::tempdir().unwrap();
    let Some(_mounted) = Mounted::ramfs(temp.path()) else {
        return println!("skipped: nothing can be mounted here");
    };
    without_acl(&into(&temp.path().join("to"), Overwrite::Never));
}
