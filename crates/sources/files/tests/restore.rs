//! The way back: what is captured comes back the same, and nothing else is touched.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use backup_core::{
    EntryKind, EntryMeta, EntryPath, ErrorKind, FileTime, FindingKind, Outcome, RestoreEntry,
    RestoreMode, Severity, Target as _,
};
use backup_source_files::{FilesConfig, FilesTarget, FilesTargetConfig, Overwrite, Ownership};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
use support::*;

fn captured(root: &Path) -> Vec<Stored> {
    rooted_at(&store(&capture(FilesConfig::of_roots([root]))), root)
}

fn into(folder: &Path, overwrite: Overwrite) -> FilesTargetConfig {
    FilesTargetConfig {
        overwrite,
        ..FilesTargetConfig::of_folder(folder)
    }
}

/// An entry that no capture has seen.
fn made_up(path: &[u8], kind: EntryKind, content: &[u8]) -> Stored {
    let meta = EntryMeta {
        kind,
        mode: 0o644,
        owner: None,
        mtime: FileTime {
            seconds: 1_000_000,
            nanos: 7,
        },
        xattrs: Vec::new(),
        link_group: None,
        attrs: Default::default(),
    };
    let path = EntryPath::from_slashed(path).unwrap();
    let size = u64::try_from(content.len()).unwrap();
    let data = if content.is_empty() {
        Vec::new()
    } else {
        vec![(0, content.to_vec())]
    };
    Stored {
        entry: RestoreEntry {
            path,
            meta,
            size,
            sha256: None,
        },
        data,
    }
}

/// An ACL as `setfacl -m u:1234:rw` makes it: version 2, then tag, permissions and id of each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What only root may make.
fn lay_out_as_root(folder: &Path) {
    let at = |name: &str| folder.join(name);
    let mode = Mode::from_raw_mode(0o660);
    mknodat(
        CWD,
        at("char"),
        FileType::CharacterDevice,
        mode,
        makedev(1, 300),
    )
    .unwrap();
    mknodat(
        CWD,
        at("block"),
        FileType::BlockDevice,
        mode,
        makedev(259, 70_000),
    )
    .unwrap();
    put(&at("set-id"), "#!");
    std::os::unix::fs::lchown(at("set-id"), Some(12_345), Some(54_321)).unwrap();
    std::os::unix::fs::lchown(at("link"), Some(11), Some(22)).unwrap();
    std::os::unix::fs::lchown(at("deep"), Some(33), Some(44)).unwrap();
    fs::set_permissions(at("set-id"), fs::Permissions::from_mode(0o6755)).unwrap();
    // cap_net_raw=ep, revision 2.
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    put(&at("capable"), "x");
    assert!(set_xattr(
        &at("capable"),
        "security.capability",
        &capability
    ));
    assert!(set_xattr(&at("link"), "trusted.note", b"on a link"));
}

/// Everything that a file system of Linux holds.
fn lay_out(folder: &Path) {
    let at = |name: &str| folder.join(name);
    put(&at("file"), "content");
    put(&at("empty"), "");
    put(&at("deep/er/file"), vec![7; 300_000]);
    put(&folder.join(os(b"new\nline \xff\xfe")), "odd");
    put(&at("read-only/inner"), "x");
    symlink(os(b"\xffnowhere"), at("link")).unwrap();
    set_mtime(&at("link"), 1_234, 5);
    mknodat(
        CWD,
        at("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    fs::set_permissions(at("fifo"), fs::Permissions::from_mode(0o622)).unwrap();
    drop(UnixListener::bind(at("socket")).unwrap());
    fs::hard_link(at("file"), at("deep/hard")).unwrap();
    fs::hard_link(at("file"), at("zhard")).unwrap();
    fs::hard_link(at("link"), at("zlink")).unwrap();
    fs::hard_link(at("fifo"), at("zfifo")).unwrap();
    assert!(set_xattr(&at("file"), "user.note", b"\x00\xffvalue"));
    assert!(set_xattr(&at("deep"), "user.on-folder", b"1"));
    let none = u32::MAX;
    let list = acl(&[
        (1, 6, none),
        (2, 6, 1234),
        (4, 4, none),
        (0x10, 6, none),
        (0x20, 0, none),
    ]);
    assert!(set_xattr(&at("empty"), "system.posix_acl_access", &list));
    assert!(set_xattr(&at("deep/er"), "system.posix_acl_default", &list));
    if is_root() {
        lay_out_as_root(folder);
    }
    for (number, name) in ["file", "empty", "deep/er/file", "read-only/inner", "fifo"]
        .iter()
        .enumerate()
    {
        set_mtime(&at(name), -3 + i64::try_from(number).unwrap(), 987_654_321);
    }
    fs::set_permissions(at("read-only"), fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(at("deep"), fs::Permissions::from_mode(0o1777)).unwrap();
    for name in ["read-only", "deep/er", "deep", "."] {
        set_mtime(&at(name), 500_000_000, 1);
    }
}

#[test]
fn a_tree_of_every_kind_comes_back_the_same_in_every_respect() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    lay_out(&from);
    let restored = restore(FilesTargetConfig::of_folder(&to), &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.report.findings, []);
    let (want, got) = (tree(&from), tree(&to));
    assert_eq!(
        got.keys().collect::<Vec<_>>(),
        want.keys().collect::<Vec<_>>()
    );
    for (name, want) in &want {
        assert_eq!(&got[name], want, "{name:?}");
    }
    let inode = |name: &str| fs::symlink_metadata(to.join(name)).unwrap().ino();
    assert_eq!(
        (inode("file"), inode("link")),
        (inode("deep/hard"), inode("zlink"))
    );
    assert_eq!(
        usize::try_from(restored.report.written).unwrap(),
        want.len()
    );
}

#[test]
fn below_the_target_stand_the_absolute_paths_of_the_roots() {
    let temp = tempfile::tempdir().unwrap();
    put(&temp.path().join("from/a/file"), "content");
    fs::set_permissions(temp.path().join("from"), fs::Permissions::from_mode(0o711)).unwrap();
    let stored = store(&capture(FilesConfig::of_roots([temp
        .path()
        .join("from/a")])));
    let to = temp.path().join("to");
    restore(FilesTargetConfig::of_folder(&to), &stored);
    let back = to.join(temp.path().strip_prefix("/").unwrap()).join("from");
    assert_eq!(state(&back), state(&temp.path().join("from")));
    assert_eq!(fs::read(back.join("a/file")).unwrap(), b"content");
}

#[test]
fn holes_stay_holes_or_are_filled_when_asked() {
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    put(&from.join("file"), "");
    let file = fs::File::options()
        .write(true)
        .open(from.join("file"))
        .unwrap();
    use std::os::unix::fs::FileExt as _;
    file.write_all_at(b"middle", 5 << 20).unwrap();
    file.set_len(20 << 20).unwrap();
    let stored = captured(&from);
    for (sparse, name) in [(true, "sparse"), (false, "full")] {
        let to = temp.path().join(name);
        restore(
            FilesTargetConfig {
                sparse,
                ..into(&to, Overwrite::Never)
            },
            &stored,
        );
        let meta = fs::metadata(to.join("file")).unwrap();
        assert_eq!(meta.len(), 20 << 20);
        assert_eq!(meta.blocks() * 512 < 1 << 20, sparse, "{name}");
        assert_eq!(
            fs::read(to.join("file")).unwrap(),
            fs::read(from.join("file")).unwrap()
        );
    }
}

#[test]
fn content_that_is_there_is_kept_and_old_content_in_holes_is_cleared() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    let mut content = vec![1; 196_608];
    put(&from.join("file"), &content);
    fs::File::options()
        .write(true)
        .open(from.join("file"))
        .unwrap()
        .set_len(5 << 20)
        .unwrap();
    content.resize(7 << 20, 9);
    put(&to.join("file"), &content);
    put(&from.join("same"), "same");
    put(&to.join("same"), "same");
    let inode = fs::metadata(to.join("file")).unwrap().ino();
    let restored = restore(into(&to, Overwrite::Always), &captured(&from));
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.bytes, 0, "what is right was written again");
    assert_eq!(fs::metadata(to.join("file")).unwrap().ino(), inode);
    assert_eq!(state(&to.join("file")), state(&from.join("file")));
    assert_eq!(state(&to.join("same")), state(&from.join("same")));
    assert_eq!((restored.report.skipped, restored.report.written), (1, 2));
}

#[test]
fn overwrite_decides_what_becomes_of_what_is_there() {
    for (overwrite, older, newer) in [
        (Overwrite::Never, "there", "there"),
        (Overwrite::IfNewer, "saved", "there"),
        (Overwrite::Always, "saved", "saved"),
    ] {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        for name in ["older", "newer"] {
            put(&from.join(name), "saved");
            set_mtime(&from.join(name), 1_000, 500);
            put(&to.join(name), "there");
            symlink("saved", from.join(format!("{name}-link"))).unwrap();
            set_mtime(&from.join(format!("{name}-link")), 1_000, 500);
            symlink("there", to.join(format!("{name}-link"))).unwrap();
        }
        for (name, nanos) in [("older", 499), ("newer", 500)] {
            set_mtime(&to.join(name), 1_000, nanos);
            set_mtime(&to.join(format!("{name}-link")), 1_000, nanos);
        }
        put(&from.join("missing"), "saved");
        let restored = restore(into(&to, overwrite), &captured(&from));
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        for (name, want) in [("older", older), ("newer", newer), ("missing", "saved")] {
            assert_eq!(
                fs::read_to_string(to.join(name)).unwrap(),
                want,
                "{overwrite:?} {name}"
            );
        }
        for (name, want) in [("older-link", older), ("newer-link", newer)] {
            assert_eq!(
                fs::read_link(to.join(name)).unwrap(),
                Path::new(want),
                "{overwrite:?}"
            );
        }
    }
}

#[test]
fn what_is_of_another_kind_gives_way_only_to_always() {
    for overwrite in [Overwrite::Never, Overwrite::IfNewer, Overwrite::Always] {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("to"));
        put(&from.join("dir/file"), "saved");
        put(&from.join("file"), "saved");
        symlink("saved", from.join("link")).unwrap();
        put(&to.join("dir"), "a file");
        fs::create_dir(to.join("file")).unwrap();
        put(&to.join("link"), "a file");
        for name in ["dir", "file", "link"] {
            set_mtime(&to.join(name), 1, 0);
        }
        let restored = restore(into(&to, overwrite), &captured(&from));
        let always = overwrite == Overwrite::Always;
        assert_eq!(
            restored.errors.is_empty(),
            always,
            "{overwrite:?} {:?}",
            restored.errors
        );
        assert!(
            restored
                .errors
                .iter()
                .all(|error| error.kind == ErrorKind::Conflict)
        );
        assert_eq!(to.join("dir/file").is_file(), always);
        assert_eq!(to.join("file").is_file(), always);
        assert_eq!(fs::read_link(to.join("link")).is_ok(), always);
    }
}

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
            (mode("a/two"), mode("b/three"), mode("b/four"), mode("b")),
            (0o1600, 0o1600, 0o1600, 0o1700)
        );
        assert_eq!((mode("a/one"), mode("a")), (0o644, 0o755));
        let again = restore(into(&to, overwrite), &stored);
        assert!(again.errors.is_empty(), "{overwrite:?} {:?}", again.errors);
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
fn a_default_acl_of_the_target_does_not_get_into_restored_files() {
    let temp = tempfile::tempdir().unwrap();
    let (from, to) = (temp.path().join("from"), temp.path().join("to"));
    put(&from.join("dir/file"), "x");
    fs::create_dir(&to).unwrap();
    let none = u32::MAX;
    let list = acl(&[
        (1, 7, none),
        (2, 7, 1234),
        (4, 5, none),
        (0x10, 7, none),
        (0x20, 5, none),
    ]);
    if !set_xattr(&to, "system.posix_acl_default", &list) {
        return;
    }
    restore(into(&to, Overwrite::Never), &captured(&from));
    for name in ["dir", "dir/file"] {
        assert_eq!(state(&to.join(name)), state(&from.join(name)), "{name}");
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
        sparse: false,
        ..into(&temp.path().join("all"), Overwrite::Never)
    };
    assert_eq!(restore(config, &stored).errors[0].kind, ErrorKind::NoSpace);
}

#[test]
fn a_plan_says_what_cannot_be_done_before_anything_is() {
    let temp = tempfile::tempdir().unwrap();
    let cx = context();
    put(&temp.path().join("file"), "");
    let plan = |folder: &Path, change: &dyn Fn(&mut backup_core::RestoreRequest)| {
        let mut request = request(folder);
        change(&mut request);
        block_on(FilesTarget::new(FilesTargetConfig::of_folder(folder)).plan(&cx, &request))
    };
    let keep = |_: &mut backup_core::RestoreRequest| {};
    assert_eq!(
        plan(&temp.path().join("file/x"), &keep).unwrap_err().kind,
        ErrorKind::Other
    );
    assert_eq!(
        plan(&temp.path().join("file"), &keep).unwrap_err().kind,
        ErrorKind::Conflict
    );
    let replace = |request: &mut backup_core::RestoreRequest| request.mode = RestoreMode::Replace;
    assert_eq!(
        plan(temp.path(), &replace).unwrap_err().kind,
        ErrorKind::Unsupported
    );
    let elsewhere =
        |request: &mut backup_core::RestoreRequest| request.folder = Some("/elsewhere".into());
    assert_eq!(
        plan(temp.path(), &elsewhere).unwrap_err().kind,
        ErrorKind::Invalid
    );
    let huge = |request: &mut backup_core::RestoreRequest| request.snapshot.stats.bytes = u64::MAX;
    assert_eq!(
        plan(&temp.path().join("new/er"), &huge)
            .unwrap()
            .notes
            .len(),
        1
    );
    assert!(!temp.path().join("new").exists());
    let closed = temp.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let refused = as_nobody(|| {
        let target = FilesTarget::new(FilesTargetConfig::of_folder(closed.join("x")));
        block_on(target.plan(&context(), &request(&closed.join("x"))))
    });
    assert_eq!(refused.unwrap_err().kind, ErrorKind::Denied);
}

#[test]
fn streams_and_disks_become_files() {
    let temp = tempfile::tempdir().unwrap();
    let stored = [
        made_up(b"dump/all.sql", EntryKind::Stream, b"select 1"),
        made_up(b"vm.raw", EntryKind::Disk, b"disk"),
    ];
    let restored = restore(into(temp.path(), Overwrite::Never), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(
        fs::read(temp.path().join("dump/all.sql")).unwrap(),
        b"select 1"
    );
    assert_eq!(fs::read(temp.path().join("vm.raw")).unwrap(), b"disk");
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

#[test]
fn a_very_deep_tree_comes_back() {
    let temp = roomy_folder();
    let depth = 3_000;
    let (mut path, mut stored) = (Vec::new(), Vec::new());
    for _ in 0..depth {
        path.extend_from_slice(b"d/");
        stored.push(made_up(&path, EntryKind::Directory, b""));
    }
    path.extend_from_slice(b"file");
    stored.push(made_up(&path, EntryKind::File, b"deep"));
    stored.push(made_up(b"e", EntryKind::File, b"after"));
    let restored = restore(into(temp.path(), Overwrite::Never), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(restored.report.findings, []);
    let again = captured(temp.path());
    assert_eq!(again.len(), depth + 3);
    assert!(
        again[1..]
            .iter()
            .all(|stored| stored.entry.meta.mtime.seconds == 1_000_000)
    );
    remove_chain(temp.path());
}
