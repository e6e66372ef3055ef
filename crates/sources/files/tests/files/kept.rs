//! The way back: what is captured comes back the same, and nothing else is touched.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{EntryKind, ErrorKind, RestoreMode, Target as _};
use backup_source_files::{
    ALLOCATED_ATTR, ALLOCATED_WHOLE, FilesConfig, FilesTarget, FilesTargetConfig, Holes, Overwrite,
};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

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
    for (holes, name) in [
        (Holes::AsSaved, "saved"),
        (Holes::Everywhere, "sparse"),
        (Holes::Nowhere, "full"),
    ] {
        let to = temp.path().join(name);
        restore(
            FilesTargetConfig {
                holes,
                ..into(&to, Overwrite::Never)
            },
            &stored,
        );
        let meta = fs::metadata(to.join("file")).unwrap();
        assert_eq!(meta.len(), 20 << 20);
        let is_sparse = meta.blocks() * 512 < 1 << 20;
        assert_eq!(is_sparse, holes != Holes::Nowhere, "{name}");
        assert_eq!(
            fs::read(to.join("file")).unwrap(),
            fs::read(from.join("file")).unwrap()
        );
    }
}

/// The engine lays small files together and gives back every byte of them.
#[test]
fn a_small_file_with_holes_comes_back_with_them() {
    use std::os::unix::fs::FileExt as _;
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    fs::create_dir(&from).unwrap();
    for (name, size, at) in [
        ("early", 40_000, 3),
        ("late", 200_001, 200_000),
        ("none", 12_288, 0),
    ] {
        let file = fs::File::create(from.join(name)).unwrap();
        file.set_len(size).unwrap();
        let data = if name == "none" { &b""[..] } else { b"x" };
        file.write_all_at(data, at).unwrap();
    }
    put(&from.join("dense"), vec![0; 40_000]);
    let on_disk = |path: &Path| fs::metadata(path).unwrap().blocks();
    if on_disk(&from.join("early")) * 512 >= 40_000 || on_disk(&from.join("dense")) == 0 {
        eprintln!("skipped: this file system has no holes, or keeps no zeros");
        return;
    }
    let capture = capture(FilesConfig::of_roots([&from]));
    let mut stored = rooted_at(&store(&capture), &from);
    for stored in &mut stored {
        let name = stored.entry.path.to_string();
        if stored.entry.meta.kind == EntryKind::File {
            // In two parts, which begin and end anywhere.
            let whole = fs::read(from.join(&name)).unwrap();
            let (first, second) = whole.split_at(9_999);
            stored.data = vec![(0, first.to_vec()), (9_999, second.to_vec())];
        }
    }
    for before in [None, Some(vec![7; 30_000])] {
        for (holes, in_place) in [
            (Holes::AsSaved, false),
            (Holes::AsSaved, true),
            (Holes::Everywhere, false),
        ] {
            let to = tempfile::tempdir_in(temp.path()).unwrap();
            for name in ["early", "late", "none", "dense"] {
                if let Some(before) = &before {
                    fs::write(to.path().join(name), before).unwrap();
                }
            }
            restore(
                FilesTargetConfig {
                    holes,
                    in_place,
                    ..into(to.path(), Overwrite::Always)
                },
                &stored,
            );
            for name in ["early", "late", "none", "dense"] {
                let (old, new) = (from.join(name), to.path().join(name));
                let said = format!("{name}, {holes:?}, in place: {in_place}");
                assert_eq!(fs::read(&new).unwrap(), fs::read(&old).unwrap(), "{said}");
                let wanted = match (name, holes) {
                    ("dense", Holes::Everywhere) => 0,
                    _ => on_disk(&old),
                };
                // Of the last block that was there only a part is cleared.
                let more = if in_place && before.is_some() { 8 } else { 0 };
                let there = wanted..=wanted + more;
                assert!(there.contains(&on_disk(&new)), "{said}: {}", on_disk(&new));
            }
        }
    }
}

/// A swap file is one: the kernel takes none with a hole in it.
#[test]
fn a_file_without_holes_comes_back_without_any() {
    let temp = tempfile::tempdir().unwrap();
    let from = temp.path().join("from");
    fs::create_dir(&from).unwrap();
    let (size, small) = (3 << 20, (64 << 10) - 1);
    fs::write(from.join("swap"), vec![0; size]).unwrap();
    fs::write(from.join("small"), vec![0; small]).unwrap();
    if fs::metadata(from.join("swap")).unwrap().blocks() * 512 < size as u64 {
        eprintln!("skipped: this file system keeps no zeros");
        return;
    }
    let capture = capture(FilesConfig::of_roots([&from]));
    let allocated = |path: &str| {
        let meta = &capture.entry(&from.join(path)).meta;
        meta.attrs.get(ALLOCATED_ATTR).cloned()
    };
    let mut stored = rooted_at(&store(&capture), &from);
    // As the engine has it: nothing is written where the content is zero.
    stored.iter_mut().for_each(|stored| stored.data.clear());
    assert_eq!(allocated("swap").as_deref(), Some(ALLOCATED_WHOLE));
    assert_eq!(allocated("small"), None);
    // Over nothing, and over what is there already: other content, and a hole.
    for before in [None, Some(vec![7; size / 2]), Some(Vec::new())] {
        for (holes, in_place) in [
            (Holes::AsSaved, false),
            (Holes::AsSaved, true),
            (Holes::Everywhere, false),
        ] {
            let to = tempfile::tempdir_in(temp.path()).unwrap();
            if let Some(before) = &before {
                let path = to.path().join("swap");
                fs::write(&path, before).unwrap();
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_len(size as u64 + u64::from(before.is_empty()))
                    .unwrap();
            }
            restore(
                FilesTargetConfig {
                    holes,
                    in_place,
                    ..into(to.path(), Overwrite::Always)
                },
                &stored,
            );
            let back = to.path().join("swap");
            assert_eq!(fs::read(&back).unwrap(), vec![0; size]);
            let is_whole = fs::metadata(&back).unwrap().blocks() * 512 >= size as u64;
            let said = format!("{holes:?}, in place: {in_place}");
            assert_eq!(is_whole, holes == Holes::AsSaved, "{said}");
        }
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
    let config = FilesTargetConfig {
        in_place: true,
        ..into(&to, Overwrite::Always)
    };
    let restored = restore(config, &captured(&from));
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
        fs::hard_link(from.join("file"), from.join("linked")).unwrap();
        put(&to.join("dir"), "a file");
        fs::create_dir(to.join("file")).unwrap();
        fs::create_dir(to.join("linked")).unwrap();
        put(&to.join("link"), "a file");
        for name in ["dir", "file", "link", "linked"] {
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
        assert_eq!(to.join("linked").is_file(), always);
        assert_eq!(fs::read_link(to.join("link")).is_ok(), always);
    }
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
