//! What was saved comes back as it was.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use backup_tests::{Place, Run, read_tree};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use crate::trouble::noise;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Something of every kind that a file system holds.
fn fill(root: &Path) {
    let name = |bytes: &[u8]| root.join(OsStr::from_bytes(bytes));
    fs::create_dir_all(root.join("deep/er/folder")).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::write(root.join("small"), b"small").unwrap();
    fs::write(root.join("deep/er/folder/x"), vec![7u8; 70_000]).unwrap();
    let large: Vec<u8> = (0..3_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    fs::write(root.join("large"), large).unwrap();
    fs::write(name(b"two\nlines\t\x1b[31m"), b"newline").unwrap();
    fs::write(name(b"not \xff utf-8"), b"bytes").unwrap();
    fs::write(name("größe 日本".as_bytes()), b"letters").unwrap();
    symlink("small", root.join("link")).unwrap();
    symlink("no/such/thing", root.join("dangling")).unwrap();
    symlink("/etc/passwd", root.join("absolute")).unwrap();
    fs::hard_link(root.join("large"), root.join("deep/same-file")).unwrap();
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"begin", 0).unwrap();
    sparse.write_all_at(b"middle", 8 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::write(root.join("zeros"), vec![0; 6 << 20]).unwrap();
    let small = File::create(root.join("small sparse")).unwrap();
    small.write_all_at(b"end", 200_000).unwrap();
    rustix::fs::mknodat(
        CWD,
        root.join("fifo"),
        FileType::Fifo,
        Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    let _ = rustix::fs::setxattr(
        root.join("small"),
        "user.colour",
        b"red\0blue",
        XattrFlags::empty(),
    );
    let _ = rustix::fs::setxattr(root.join("deep"), "user.folder", b"", XattrFlags::empty());
    fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o1770)).unwrap();
    if is_root() {
        std::os::unix::fs::chown(root.join("empty"), Some(12345), Some(54321)).unwrap();
        fs::set_permissions(root.join("empty"), fs::Permissions::from_mode(0o4751)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(1), Some(2)).unwrap();
        let device = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(
            CWD,
            root.join("null"),
            FileType::CharacterDevice,
            Mode::from_raw_mode(0o666),
            device,
        )
        .unwrap();
    }
    let times = |seconds, nanos| Timestamps {
        last_access: Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        },
        last_modification: Timespec {
            tv_sec: seconds,
            tv_nsec: nanos,
        },
    };
    for (path, seconds, nanos) in [
        ("small", 1_234_567_890, 123_456_789),
        ("dangling", 1, 1),
        ("empty", -100, 500),
        ("deep/er", 99, 999_999_999),
    ] {
        rustix::fs::utimensat(
            CWD,
            root.join(path),
            &times(seconds, nanos),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
    }
}

fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (read_tree(left).unwrap(), read_tree(right).unwrap());
    let names = |tree: &std::collections::BTreeMap<_, _>| {
        tree.keys().cloned().collect::<Vec<std::path::PathBuf>>()
    };
    assert_eq!(names(&left), names(&right));
    for (path, node) in &left {
        let other = &right[path];
        assert_eq!(node.content.len(), other.content.len(), "{path:?}");
        assert!(
            node == other,
            "{path:?}: {:?} {:?}",
            brief(node),
            brief(other)
        );
    }
}

fn brief(node: &backup_tests::Node) -> backup_tests::Node {
    backup_tests::Node {
        content: node.content.iter().take(20).copied().collect(),
        ..node.clone()
    }
}

#[test]
fn everything_comes_back_in_every_detail() {
    let place = Place::new();
    fill(&place.data());
    let saved = place.save().ok();
    let meta = &saved.of_type("saved")[0];
    assert_eq!(meta["findings"], 0);
    let _ = place.bring_back("out").ok();
    assert_same(&place.data(), &place.path("out"));
    let _ = place.verify().ok();
    let on_disk = |folder: &str, name: &str| {
        let meta = fs::metadata(place.path(folder).join(name)).unwrap();
        (meta.blocks() * 512) >> 20
    };
    // Of each as much lies on the disk as did; or no zeros; or everything.
    if on_disk("data", "zeros") == 0 {
        eprintln!("skipped: this file system keeps no zeros");
        return;
    }
    assert_eq!((on_disk("out", "sparse"), on_disk("out", "zeros")), (0, 6));
    let small = |folder: &str| fs::metadata(place.path(folder).join("small sparse")).unwrap();
    assert_eq!(small("out").blocks(), small("data").blocks());
    for (switch, sparse, zeros) in [("sparse", 0, 0), ("no-sparse", 20, 6)] {
        let wanted = format!("latest:{}", place.data().display());
        let given = format!("--{switch}");
        let args = ["run", &wanted, "--to", switch, &given, "--verify"];
        let _ = Run::of(&mut place.restore(args)).ok();
        assert_eq!(
            (on_disk(switch, "sparse"), on_disk(switch, "zeros")),
            (sparse, zeros),
            "{switch}"
        );
    }
}

#[test]
fn a_whole_snapshot_lands_below_the_folder_under_its_own_paths() {
    let place = Place::new();
    place.write("a/b", "content");
    let _ = place.save().ok();
    let run =
        Run::of(&mut place.restore(["run", "latest", "--to", "out", "--verify", "--json"])).ok();
    let below = place
        .path("out")
        .join(place.data().strip_prefix("/").unwrap());
    assert_eq!(fs::read(below.join("a/b")).unwrap(), b"content");
    assert_eq!(run.of_type("compared")[0]["findings"], 0);
}

#[test]
fn a_single_file_lands_in_the_folder_itself() {
    let place = Place::new();
    place.write("a/b", "content");
    let _ = place.save().ok();
    let wanted = format!("latest:{}/a/b", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "out"])).ok();
    assert_eq!(fs::read(place.path("out/b")).unwrap(), b"content");
    assert_eq!(read_tree(&place.path("out")).unwrap().len(), 1);
}

/// Folders above the one that is saved may have changed meanwhile: other tests work in them.
fn adds_next_to_nothing(saved: &serde_json::Value) -> bool {
    saved["bytes_new"].as_u64().unwrap() < 8192
}

#[test]
fn a_second_save_of_the_same_reads_and_adds_nothing() {
    let place = Place::new();
    fill(&place.data());
    place.wait_for_a_tick();
    let first = place.save().ok().of_type("saved").remove(0);
    let second = place.save().ok().of_type("saved").remove(0);
    assert_eq!(second["bytes_read"], 0);
    assert!(adds_next_to_nothing(&second), "{second}");
    assert_eq!(second["parent"], first["id"]);
    assert_eq!(second["bytes"], first["bytes"]);
    let _ = place.bring_back("out").ok();
    assert_same(&place.data(), &place.path("out"));
}

#[test]
fn changes_are_saved_and_earlier_snapshots_stay_as_they_were() {
    let place = Place::new();
    fill(&place.data());
    let _ = place.save().ok();
    let first = place.path("first");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(place.data())
        .arg(&first)
        .status()
        .unwrap();
    assert!(copied.success());
    let mut large = fs::read(place.data().join("large")).unwrap();
    large[1_500_000..1_500_010].copy_from_slice(b"0123456789");
    fs::write(place.data().join("large"), &large).unwrap();
    fs::remove_file(place.data().join("small")).unwrap();
    fs::write(place.data().join("new"), b"new").unwrap();
    fs::remove_file(place.data().join("link")).unwrap();
    fs::create_dir(place.data().join("link")).unwrap();
    let second = place.save().ok().of_type("saved").remove(0);
    assert!(
        second["bytes_new"].as_u64().unwrap() < 1_000_000,
        "{second}"
    );
    let _ = place.bring_back("now").ok();
    assert_same(&place.data(), &place.path("now"));
    let ids = Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot");
    let wanted = format!(
        "{}:{}",
        ids[0]["id"].as_str().unwrap(),
        place.data().display()
    );
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "then"])).ok();
    assert_same(&first, &place.path("then"));
    let _ = place.verify().ok();
}

#[test]
fn excludes_leave_out_and_a_lost_cache_costs_only_reading() {
    let place = Place::new();
    place.write("keep", "1");
    place.write("leave.tmp", "2");
    place.write(
        "cache/CACHEDIR.TAG",
        "Signature: 8a477f597d28d172789f06886806bc55\n",
    );
    place.write("cache/x", "3");
    let data = place.data();
    let save = || {
        let mut save = place.snapshot(["save", "--json", "--exclude", "*.tmp", "--exclude-caches"]);
        Run::of(save.arg(&data)).ok().of_type("saved").remove(0)
    };
    let first = save();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let second = save();
    assert!(adds_next_to_nothing(&second), "{second}");
    assert_eq!(first["entries"], second["entries"]);
    let _ = place.bring_back("out").ok();
    let names: Vec<_> = read_tree(&place.path("out")).unwrap().into_keys().collect();
    let names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
    assert_eq!(names, ["cache", "cache/CACHEDIR.TAG", "keep"]);
}

/// A line that begins looks for its small files in all other lines of the host, whatever was saved last.
#[test]
fn a_new_line_stores_no_small_file_again_that_another_has() {
    let place = Place::new();
    for number in 0..300 {
        place.write(format!("{number:03}"), noise(number, 12_000));
    }
    let _ = place.save().ok();
    // So that no bundle is as it would be cut of what is there now.
    for number in (0..300).step_by(60) {
        place.write(format!("{number:03}"), noise(1000 + number, 12_000));
    }
    let _ = place.save().ok();
    let stream = ["save", "--command", "echo stream", "--name", "stream"];
    let _ = Run::of(&mut place.snapshot(stream)).ok();
    fs::remove_dir_all(place.path("cache")).unwrap();
    let mut save = place.snapshot(["save", "--json", "--name", "other"]);
    let saved = Run::of(save.arg(place.data()))
        .ok()
        .of_type("saved")
        .remove(0);
    assert!(saved["bytes_new"].as_u64().unwrap() < 100_000, "{saved}");
    let _ = place.verify().ok();
}

#[test]
fn includes_and_excludes_choose_what_is_restored() {
    let place = Place::new();
    for name in ["etc/a.conf", "etc/b.txt", "srv/c.conf", "srv/old/d.conf"] {
        place.write(name, name);
    }
    let _ = place.save().ok();
    let wanted = format!("latest:{}", place.data().display());
    let args = [
        "run",
        &wanted,
        "--to",
        "out",
        "--include",
        "*.conf",
        "--exclude",
        "old",
        "--json",
    ];
    let _ = Run::of(&mut place.restore(args)).ok();
    assert!(place.path("out/etc/a.conf").exists() && place.path("out/srv/c.conf").exists());
    assert!(!place.path("out/etc/b.txt").exists() && !place.path("out/srv/old").exists());
}

#[test]
fn nothing_is_overwritten_unless_it_is_asked_for() {
    let place = Place::new();
    place.write("file", "saved");
    place.write("other", "saved too");
    let _ = place.save().ok();
    fs::create_dir(place.path("out")).unwrap();
    fs::write(place.path("out/file"), "mine").unwrap();
    fs::write(place.path("out/extra"), "extra").unwrap();
    let run = place.bring_back("out").ok().of_type("restored").remove(0);
    assert_eq!(fs::read(place.path("out/file")).unwrap(), b"mine");
    assert_eq!(fs::read(place.path("out/other")).unwrap(), b"saved too");
    assert!(run["skipped"].as_u64().unwrap() >= 1, "{run}");
    let wanted = format!("latest:{}", place.data().display());
    let plan = [
        "run",
        &wanted,
        "--to",
        "out",
        "--overwrite",
        "always",
        "--delete",
    ];
    let _ = Run::of(place.restore(plan).arg("--dry-run")).ok();
    assert_eq!(fs::read(place.path("out/file")).unwrap(), b"mine");
    let _ = Run::of(&mut place.restore(plan)).ok();
    assert_eq!(fs::read(place.path("out/file")).unwrap(), b"saved");
    assert!(!place.path("out/extra").exists());
}

#[test]
fn a_dry_run_saves_nothing_and_makes_nothing() {
    let place = Place::empty();
    place.write("a", "12345");
    let mut dry = place.snapshot(["save", "--dry-run", "--json"]);
    let plan = Run::of(dry.arg(place.data()))
        .ok()
        .of_type("plan")
        .remove(0);
    assert_eq!(
        (plan["files"].as_u64(), plan["bytes"].as_u64()),
        (Some(1), Some(5))
    );
    assert!(!place.repo().exists() && !place.path("key").exists());
}
