//! Plain exports, read with the programs of those who have no Backstay.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use backup_tests::tree::read_tree;
use backup_tests::{Place, Run};
use serde_json::Value;

/// Runs a program of the system to its end.
fn tool(program: &str, args: &[&str], folder: &Path) -> Run {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).env("LC_ALL", "C");
    Run::of(command.stdin(Stdio::null()))
}

/// A tree with everything that an archive must bring back.
fn odd_tree(place: &Place) {
    let data = place.data();
    place.write("plain", "content");
    place.write("empty", "");
    place.write("deep/er/file", vec![7u8; 300_000]);
    place.write(OsStr::from_bytes(b"new\nline\\and\xff"), "odd name");
    place.write(
        format!("{}/{}", "d".repeat(90), "f".repeat(150)),
        "long name",
    );
    symlink("plain", data.join("link")).unwrap();
    symlink("x".repeat(180), data.join("long-link")).unwrap();
    fs::hard_link(data.join("plain"), data.join("second-name")).unwrap();
    let modes = [("plain", 0o4751), ("empty", 0o600), ("deep", 0o1770)];
    for (name, mode) in modes {
        fs::set_permissions(data.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, time) in [
        ("plain", "@1500000000.123456789"),
        ("empty", "@-5.250000000"),
        ("deep/er", "@1600000000.5"),
    ] {
        assert_eq!(tool("touch", &["-d", time, name], &data).code, 0);
    }
    let _ = tool(
        "setfattr",
        &["-n", "user.key=1", "-v", "a value", "plain"],
        &data,
    );
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(data.join("deep/er/file"), Some(1234), Some(2_500_000)).unwrap();
        assert_eq!(tool("mknod", &["device", "c", "1", "3"], &data).code, 0);
    }
    assert_eq!(tool("mkfifo", &["fifo"], &data).code, 0);
}

fn export(place: &Place, args: &[&str]) -> Run {
    Run::of(
        place
            .restore(["export", "latest", "--to", "exports", "--json"])
            .args(args),
    )
}

/// The folder that an export made.
fn folder(run: &Run) -> PathBuf {
    run.of_type("exported")[0]["folder"]
        .as_str()
        .unwrap()
        .into()
}

fn metadata(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("metadata.json")).unwrap()).unwrap()
}

fn check_sums(folder: &Path) {
    let _ = tool(
        "sha256sum",
        &["-c", "--quiet", "--strict", "SHA256SUMS"],
        folder,
    )
    .ok();
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// What a tree of the saved folder looks like below another root.
fn below(place: &Place, root: &Path) -> PathBuf {
    root.join(place.data().strip_prefix("/").unwrap())
}

/// Nothing is left beside exports.
fn is_tidy(place: &Place) {
    let names = fs::read_dir(place.path("exports")).unwrap();
    for name in names.map(|entry| entry.unwrap().file_name()) {
        assert!(!name.as_bytes().starts_with(b"."), "{name:?}");
    }
}

/// A folder with so much in it that an export takes a while.
fn large(place: &Place) {
    let noise: Vec<u8> = (0..6_000_000u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for number in 0..8 {
        place.write(format!("large-{number}"), [&noise[..], &[number]].concat());
    }
}

/// Starts an export, and waits until it is under way.
fn begun(place: &Place, snapshot: &str) -> std::process::Child {
    let mut run = place.restore(["export", snapshot, "--to", "exports", "--layout", "tar.gz"]);
    run.arg("--json");
    let mut child = run
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let is_begun = || {
        let names = fs::read_dir(place.path("exports"));
        let mut names = names.into_iter().flatten().flatten();
        names.any(|name| {
            name.file_name()
                .as_bytes()
                .starts_with(b".backstay-export-")
        })
    };
    while !is_begun() {
        assert!(child.try_wait().unwrap().is_none(), "it ended too early");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    child
}

#[test]
fn archives_give_back_the_tree_with_the_programs_of_the_system() {
    let place = Place::new();
    odd_tree(&place);
    let _ = place.save().ok();
    let wanted = read_tree(&place.data()).unwrap();
    for (layout, flag) in [("tar", "-p"), ("tar.gz", "-z"), ("tar.zst", "--zstd")] {
        let to = format!("exports-{layout}");
        let mut run = place.restore(["export", "latest", "--to", &to, "--json", "--layout"]);
        let made = folder(&Run::of(run.arg(layout)).ok());
        check_sums(&made);
        let archive = made.join(format!("data/files.{layout}"));
        assert_eq!((mode(&made), mode(&archive)), (0o750, 0o640));
        assert_eq!(mode(&made.join("metadata.json")), 0o640);
        let out = place.path(format!("out-{layout}"));
        fs::create_dir(&out).unwrap();
        let archive = archive.to_str().unwrap();
        let args = [
            "-x",
            flag,
            "-p",
            "--xattrs",
            "--numeric-owner",
            "-f",
            archive,
        ];
        let _ = tool("tar", &args, &out).ok();
        let found = read_tree(&below(&place, &out)).unwrap();
        assert_eq!(
            wanted.keys().collect::<Vec<_>>(),
            found.keys().collect::<Vec<_>>()
        );
        for (path, node) in &wanted {
            assert_eq!(node, &found[path], "{layout} {path:?}");
        }
        let said = metadata(&made);
        assert_eq!(said["layout"], layout);
        let sum = tool("sha256sum", &[archive], &out).ok().text();
        let component = &said["components"][0];
        assert_eq!(component["checksum"], format!("sha256:{}", &sum[..64]));
        let stored = fs::metadata(archive).unwrap().len();
        assert_eq!(component["stored_bytes"].as_u64(), Some(stored));
        assert_eq!(
            fs::read_link(place.path(&to).join("latest")).unwrap(),
            made.file_name().unwrap()
        );
    }
}

#[test]
fn a_tree_is_what_was_saved_and_its_sums_are_those_of_gnu() {
    let place = Place::new();
    odd_tree(&place);
    let saved = place.save().ok().of_type("saved").remove(0);
    let made = folder(&export(&place, &[]).ok());
    check_sums(&made);
    let found = read_tree(&below(&place, &made.join("data/files"))).unwrap();
    assert_eq!(found, read_tree(&place.data()).unwrap());
    assert_eq!(
        (mode(&made), mode(&made.join("SHA256SUMS"))),
        (0o750, 0o640)
    );
    let said = metadata(&made);
    for (member, value) in [
        ("id", "id"),
        ("time", "time"),
        ("name", "name"),
        ("host", "host"),
    ] {
        assert_eq!(said[member], saved[value]);
    }
    assert_eq!(
        (said["version"].as_u64(), said["type"].as_str()),
        (Some(1), Some("files"))
    );
    assert_eq!(said["size_bytes"], saved["bytes"]);
    // The checksum of a tree is that of its lines.
    let lines = r#"grep -a '^\\\?[0-9a-f]\{64\}  data/files/' SHA256SUMS | sha256sum"#;
    let sum = tool("sh", &["-c", lines], &made).ok().text();
    assert_eq!(
        said["components"][0]["checksum"],
        format!("sha256:{}", &sum[..64])
    );
    is_tidy(&place);
    // It is never written over.
    let before = fs::metadata(&made).unwrap().ino();
    let _ = export(&place, &[]).ends(11).says("already");
    assert_eq!(fs::metadata(&made).unwrap().ino(), before);
    is_tidy(&place);
    let reads = Run::of(&mut place.snapshot(["ledger", "list", "--json", "--op", "restore"])).ok();
    assert_eq!(reads.of_type("ledger-record").len(), 1);
}

#[test]
fn unchanged_files_are_links_to_the_export_before_unless_that_was_changed() {
    let place = Place::new();
    for name in [
        "same",
        "rotten",
        "touched",
        "chmod",
        "changed",
        "folder/same",
    ] {
        place.write(name, format!("content of {name}"));
    }
    let _ = place.save().ok();
    let first = folder(&export(&place, &[]).ok());
    let first_data = below(&place, &first.join("data/files"));
    // Damage that neither size nor time tells of.
    let rotten = first_data.join("rotten");
    let time = fs::metadata(&rotten).unwrap().modified().unwrap();
    let mut file = fs::OpenOptions::new().write(true).open(&rotten).unwrap();
    file.write_all(b"CONTENT").unwrap();
    file.set_modified(time).unwrap();
    drop(file);
    place.write("changed", "another content");
    fs::set_permissions(
        place.data().join("chmod"),
        fs::Permissions::from_mode(0o600),
    )
    .unwrap();
    assert_eq!(
        tool("touch", &["-d", "@1000000000", "touched"], &place.data()).code,
        0
    );
    let _ = place.save().ok();
    let run = export(&place, &[]).ok();
    let second = folder(&run);
    check_sums(&second);
    assert_eq!(run.of_type("exported")[0]["linked"], 2);
    let second_data = below(&place, &second.join("data/files"));
    assert_eq!(
        read_tree(&second_data).unwrap(),
        read_tree(&place.data()).unwrap()
    );
    for (name, is_linked) in [
        ("same", true),
        ("folder/same", true),
        ("rotten", false),
        ("touched", false),
        ("chmod", false),
        ("changed", false),
    ] {
        let inode = |data: &Path| fs::metadata(data.join(name)).unwrap().ino();
        assert_eq!(
            inode(&first_data) == inode(&second_data),
            is_linked,
            "{name}"
        );
    }
    let latest = place.path("exports/latest");
    assert_eq!(fs::read_link(&latest).unwrap(), second.file_name().unwrap());
    // An older snapshot does not become the latest.
    let ids = Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot");
    fs::remove_dir_all(&first).unwrap();
    let old = ids[0]["id"].as_str().unwrap();
    let again = ["export", old, "--to", "exports", "--json", "--no-link"];
    let run = Run::of(&mut place.restore(again)).ok();
    assert_eq!(run.of_type("exported")[0]["is_latest"], false);
    assert_eq!(fs::read_link(&latest).unwrap(), second.file_name().unwrap());
}

#[test]
fn encrypted_archives_are_opened_by_age_and_gpg() {
    let place = Place::new();
    place.write("file", "a secret");
    let _ = place.save().ok();
    fs::write(place.path("words"), "correct horse\n").unwrap();
    fs::set_permissions(place.path("words"), fs::Permissions::from_mode(0o600)).unwrap();
    let top = place.path("");
    let key = tool("age-keygen", &["-o", "identity"], &top).ok();
    let public = key.err.split_whitespace().last().unwrap().to_owned();
    fs::write(place.path("recipients"), format!("# me\n{public}\n")).unwrap();
    let with_age = [
        "--layout",
        "tar.zst",
        "--encrypt",
        "age",
        "--age-recipients-file",
        "recipients",
    ];
    let made = folder(&export(&place, &with_age).ok());
    check_sums(&made);
    assert_eq!(metadata(&made)["encryption"], "age");
    let file = made.join("data/files.tar.zst.age");
    let opened = |program: &str| {
        let line = format!("{program} | tar --zstd -xO -f - --wildcards '*/file'");
        tool("sh", &["-c", &line], &top).ok().text()
    };
    assert_eq!(
        opened(&format!("age -d -i identity '{}'", file.display())),
        "a secret"
    );
    let with_gpg = [
        "--layout",
        "tar.zst",
        "--encrypt",
        "gpg",
        "--encrypt-passphrase-file",
        "words",
    ];
    let mut run = place.restore(["export", "latest", "--to", "by-gpg", "--json"]);
    let made = folder(&Run::of(run.args(with_gpg)).ok());
    check_sums(&made);
    let file = made.join("data/files.tar.zst.gpg");
    fs::create_dir(place.path("home")).unwrap();
    fs::set_permissions(place.path("home"), fs::Permissions::from_mode(0o700)).unwrap();
    let gpg =
        "gpg --homedir home --batch --no-autostart --pinentry-mode loopback --passphrase-file";
    assert_eq!(
        opened(&format!("{gpg} words -d '{}'", file.display())),
        "a secret"
    );
    let packets = format!("{gpg} words --list-packets -v '{}' 2>&1", file.display());
    let packets = tool("sh", &["-c", &packets], &top).ok().text();
    assert!(
        packets.contains("AES256") || packets.contains("cipher 9"),
        "{packets}"
    );
    // No passphrase stands anywhere in the export, and none opens it but the right one.
    fs::write(place.path("wrong"), "battery\n").unwrap();
    let line = format!("{gpg} wrong -d '{}'", file.display());
    assert_ne!(tool("sh", &["-c", &line], &top).code, 0);
    // A tree cannot be encrypted, and without a passphrase nothing can.
    let tree = ["--encrypt", "gpg", "--encrypt-passphrase-file", "words"];
    let mut run = place.restore(["export", "latest", "--to", "none", "--json"]);
    let _ = Run::of(run.args(tree)).ends(2).says("tree");
    let _ = export(&place, &["--layout", "tar", "--encrypt", "age"]).ends(2);
    assert!(!place.path("none").exists());
}

#[test]
fn a_dry_run_writes_nothing_and_archives_lie_in_their_quarter() {
    let place = Place::new();
    place.write("file", "content");
    let _ = place.save().ok();
    let plan = export(&place, &["--archive", "--dry-run"])
        .ok()
        .of_type("plan")
        .remove(0);
    assert!(!place.path("exports").exists());
    let made = folder(&export(&place, &["--archive", "--layout", "tar"]).ok());
    assert_eq!(plan["into"].as_str(), made.to_str());
    let time = metadata(&made)["time"].as_str().unwrap().to_owned();
    let month: u32 = time[5..7].parse().unwrap();
    let quarter = format!("archives/{}/Q{}", &time[..4], month.div_ceil(3));
    assert_eq!(made.parent().unwrap(), place.path("exports").join(&quarter));
    let latest = fs::read_link(place.path("exports/latest")).unwrap();
    assert!(latest.starts_with(&quarter), "{latest:?}");
    assert!(place.path("exports/latest/metadata.json").exists());
}

#[test]
fn nothing_is_written_outside_and_what_stands_in_the_way_is_named() {
    let place = Place::new();
    place.write("file", "content");
    let _ = place.save().ok();
    fs::create_dir_all(place.path("elsewhere")).unwrap();
    fs::create_dir_all(place.path("exports")).unwrap();
    symlink(place.path("elsewhere"), place.path("exports/archives")).unwrap();
    let _ = export(&place, &["--archive"]).ends(11).says("archives");
    fs::write(place.path("exports/latest"), "no link").unwrap();
    let _ = export(&place, &[]).ends(11).says("latest");
    assert_eq!(fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
    is_tidy(&place);
}

#[test]
fn a_killed_export_leaves_nothing_that_looks_finished_and_the_next_one_tidies_up() {
    let place = Place::new();
    large(&place);
    let _ = place.save().ok();
    let mut child = begun(&place, "latest");
    child.kill().unwrap();
    child.wait().unwrap();
    let names: Vec<_> = fs::read_dir(place.path("exports"))
        .unwrap()
        .flatten()
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.file_name().as_bytes().starts_with(b"."))
    );
    let made = folder(&export(&place, &["--layout", "tar.gz"]).ok());
    check_sums(&made);
    is_tidy(&place);
}

#[test]
fn of_a_damaged_snapshot_there_is_no_export() {
    let place = Place::new();
    let noise = |n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
    place.write("file", (0..200_000).map(noise).collect::<Vec<u8>>());
    let _ = place.save().ok();
    place.lose_sidecars("");
    for pack in place.objects("data") {
        let mut bytes = fs::read(&pack).unwrap();
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&pack, bytes).unwrap();
    }
    for layout in ["tree", "tar"] {
        let run = export(&place, &["--layout", layout]);
        assert_eq!(run.code, 13, "{layout}: {}", run.err);
        is_tidy(&place);
        assert_eq!(fs::read_dir(place.path("exports")).unwrap().count(), 0);
    }
}

#[test]
fn what_was_meant_to_be_encrypted_is_never_written_in_the_clear() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    fs::write(place.path("words"), "a passphrase of some length\n").unwrap();
    let to = ["latest", "--layout", "tar", "--to", "exports"];
    let mut run = place.restore([&["export"][..], &to].concat());
    let run = Run::of(run.args(["--encrypt-passphrase-file", "words"])).ends(2);
    let _ = run.says("--encrypt");
    assert!(!place.path("exports").exists());
}

#[test]
fn where_latest_leads_is_decided_when_the_export_is_in_place() {
    let place = Place::new();
    large(&place);
    let old = place.save().ok().of_type("saved").remove(0);
    fs::remove_dir_all(place.data()).unwrap();
    place.write("small", "content");
    let _ = place.save().ok();
    // The export of the older snapshot begins before that of the newer one, and ends behind it.
    let child = begun(&place, old["id"].as_str().unwrap());
    let newer = folder(&export(&place, &[]).ok());
    let run = Run::from(child.wait_with_output().unwrap()).ok();
    assert_eq!(run.of_type("exported")[0]["is_latest"], false);
    let latest = place.path("exports/latest");
    assert_eq!(fs::read_link(&latest).unwrap(), newer.file_name().unwrap());
    is_tidy(&place);
}

#[test]
fn an_export_that_is_in_place_counts_also_if_latest_cannot_be_switched() {
    let place = Place::new();
    large(&place);
    let _ = place.save().ok();
    let child = begun(&place, "latest");
    fs::create_dir(place.path("exports/latest")).unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).ends(3);
    let made = folder(&run);
    check_sums(&made);
    let finding = run.of_type("finding").remove(0);
    assert!(
        finding["subject"]
            .as_str()
            .unwrap()
            .ends_with("exports/latest")
    );
    assert!(
        finding["detail"].as_str().unwrap().contains("is in place"),
        "{finding}"
    );
    is_tidy(&place);
}

/// A disk whose names are one that differ only in case; it is unmounted at the end.
struct Folded {
    disk: PathBuf,
    /// What it is mounted from.
    device: String,
}

impl Folded {
    /// exFAT by a program, FAT by the kernel; nothing where neither can be made and mounted here.
    fn new(place: &Place) -> Option<Self> {
        let (disk, image) = (place.path("folded"), place.path("image"));
        fs::create_dir(&disk).unwrap();
        let file = fs::File::create(&image).unwrap();
        file.set_len(64 << 20).unwrap();
        let (at, image) = (disk.to_str().unwrap(), image.to_str().unwrap());
        let run = |program: &str, args: &[&str]| {
            let mut command = Command::new(program);
            let done = command.args(args).stdin(Stdio::null()).output().ok()?;
            let is_done = done.status.success();
            is_done.then(|| String::from_utf8_lossy(&done.stdout).trim().to_owned())
        };
        let is_mounted = || {
            let device = |path: &Path| fs::metadata(path).unwrap().dev();
            (0..100).any(|_| {
                std::thread::sleep(std::time::Duration::from_millis(20));
                device(&disk) != device(disk.parent().unwrap())
            })
        };
        let device = run("losetup", &["-f", "--show", image]);
        let folded = Self {
            disk: disk.clone(),
            device: device?,
        };
        let device = folded.device.as_str();
        let is_exfat = run("mkfs.exfat", &[device]).is_some()
            && run("mount.exfat-fuse", &[device, at]).is_some()
            && is_mounted();
        let is_fat = || {
            run("mkfs.vfat", &["-I", device]).is_some()
                && run("mount", &["-t", "vfat", device, at]).is_some()
                && is_mounted()
        };
        (is_exfat || is_fat()).then_some(folded)
    }
}

impl Drop for Folded {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.disk).output();
        let _ = Command::new("losetup").arg("-d").arg(&self.device).output();
    }
}

#[test]
fn no_file_takes_the_place_of_another_whose_name_differs_in_case() {
    let place = Place::new();
    let Some(disk) = Folded::new(&place) else {
        eprintln!("skipped: no disk that folds case can be made and mounted here");
        return;
    };
    place.write("folder/Name", "one");
    place.write("folder/name", "another");
    let _ = place.save().ok();
    let to = disk.disk.to_str().unwrap();
    let export = |layout| {
        let args = ["export", "latest", "--json", "--to", to, "--layout", layout];
        Run::of(&mut place.restore(args))
    };
    let run = export("tree").ends(1).says("folder/name").says("Name");
    let _ = run.says("--layout tar.zst");
    let names = || fs::read_dir(to).unwrap().flatten().map(|it| it.file_name());
    assert!(
        names().next().is_none(),
        "{:?}",
        names().collect::<Vec<_>>()
    );
    // It has no links either, so there is no `latest`.
    let run = export("tar").ok();
    assert_eq!(run.of_type("exported")[0]["is_latest"], false);
    let made = folder(&run);
    check_sums(&made);
    let listed = tool("tar", &["-tf", "data/files.tar"], &made).ok().text();
    assert!(listed.contains("folder/Name\n") && listed.contains("folder/name\n"));
}
