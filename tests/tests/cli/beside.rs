//! What is overwritten is there until its successor is whole.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backup_tests::{Place, Run};
use rustix::process::{Pid, Signal, kill_process};

use crate::faults::{can_trace, killed_at};
use crate::trouble::{Small, noise};

fn over(place: &Place, out: &Path, more: &[&str]) -> Command {
    let wanted = format!("latest:{}", place.data().display());
    let mut run = place.restore(["run", &wanted, "--overwrite", "always", "--to"]);
    run.arg(out).args(more);
    run
}

fn names(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

/// Whether a name is one of what stands beside something.
fn is_beside(name: &str) -> bool {
    name.starts_with(".backstay-new-")
}

#[test]
fn a_damaged_repository_costs_no_file_that_is_there() {
    let place = Place::new();
    place.write("large", noise(1, 5 << 20));
    place.write("small", "as it was saved");
    let _ = place.save().ok();
    let out = place.path("out");
    fs::create_dir(&out).unwrap();
    let old = noise(2, 3 << 20);
    fs::write(out.join("large"), &old).unwrap();
    // Its beginning and its end can be had.
    let packs = place.objects("data");
    let pack = packs
        .iter()
        .max_by_key(|pack| fs::metadata(pack).unwrap().len());
    let mut bytes = fs::read(pack.unwrap()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(pack.unwrap(), bytes).unwrap();
    let _ = Run::of(&mut over(&place, &out, &[])).ends(3).says("large");
    assert!(fs::read(out.join("large")).unwrap() == old);
    assert_eq!(fs::read(out.join("small")).unwrap(), b"as it was saved");
    assert_eq!(names(&out), ["large", "small"]);
}

#[test]
fn a_full_disk_costs_no_file_that_is_there_and_in_place_needs_no_room_for_both() {
    let place = Place::new();
    let new = noise(1, 6 << 20);
    place.write("large", &new);
    let _ = place.save().ok();
    let out = place.path("out");
    let Some(_mounted) = Small::mount(&out, "10m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let old = noise(2, 6 << 20);
    fs::write(out.join("large"), &old).unwrap();
    let _ = Run::of(&mut over(&place, &out, &[]))
        .ends(1)
        .says("No space left")
        .says("--in-place");
    assert!(fs::read(out.join("large")).unwrap() == old);
    assert_eq!(names(&out), [".backstay-unfinished", "large"]);
    let _ = Run::of(&mut over(&place, &out, &["--in-place", "--verify"])).ok();
    assert!(fs::read(out.join("large")).unwrap() == new);
    assert_eq!(names(&out), ["large"]);
}

#[test]
fn who_overwrites_in_place_is_not_told_to_where_the_disk_is_too_small() {
    let place = Place::new();
    place.write("large", noise(1, 6 << 20));
    let _ = place.save().ok();
    let out = place.path("out");
    let Some(_mounted) = Small::mount(&out, "4m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    fs::write(out.join("large"), "old").unwrap();
    let full = Run::of(&mut over(&place, &out, &["--in-place"])).ends(1);
    let full = full.says("No space left").says("make room");
    assert!(!full.err.contains("--in-place"), "{}", full.err);
}

#[test]
fn killed_at_any_time_it_leaves_the_old_file_or_the_new_one() {
    let place = Place::new();
    let new = noise(1, 40 << 20);
    place.write("large", &new);
    let _ = place.save().ok();
    let out = place.path("out");
    let old = noise(2, 20 << 20);
    let mut was_seen = false;
    for (round, signal) in [Signal::KILL, Signal::INT, Signal::KILL, Signal::TERM]
        .into_iter()
        .enumerate()
    {
        fs::create_dir_all(&out).unwrap();
        fs::write(out.join("large"), &old).unwrap();
        let mut child = over(&place, &out, &[])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // As soon as there is something of the new file.
        let is_there = || names(&out).iter().any(|name| is_beside(name));
        let began = Instant::now();
        while !is_there() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        was_seen |= is_there();
        std::thread::sleep(Duration::from_millis(5 * round as u64));
        let _ = kill_process(Pid::from_child(&child), signal);
        let _ = child.wait().unwrap();
        let there = fs::read(out.join("large")).unwrap();
        assert!(there == old || there == new, "{signal:?}");
        let _ = Run::of(&mut over(&place, &out, &["--verify"])).ok();
        assert!(fs::read(out.join("large")).unwrap() == new);
        assert_eq!(names(&out), ["large"]);
    }
    assert!(was_seen, "it never lay beside the old one");
}

/// A name of a file is made beside what stands in its place. A restore that is killed before it takes
/// that leaves it, and the next one removes it, whatever that is asked for.
#[test]
fn a_further_name_that_a_killed_restore_left_beside_is_gone_after_the_next_one() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let place = Place::new();
    place.write("a", "new");
    place.write("other", "other");
    fs::create_dir(place.data().join("sub")).unwrap();
    fs::hard_link(place.data().join("a"), place.data().join("sub/b")).unwrap();
    let _ = place.save().ok();
    let wanted = format!("latest:{}", place.data().display());
    let more: [&[&str]; 3] = [
        &["--overwrite", "always"],
        &["--overwrite", "never"],
        &["--overwrite", "always", "--include", "other"],
    ];
    for (number, more) in more.into_iter().enumerate() {
        let out = place.path(format!("out{number}"));
        let sub = out.join("sub");
        fs::create_dir_all(&sub).unwrap();
        fs::write(out.join("a"), "old a").unwrap();
        fs::write(sub.join("b"), "old b").unwrap();
        let _ = killed_at(
            &over(&place, &out, &[]),
            "renameat",
            std::slice::from_ref(&sub),
        );
        let there = names(&sub);
        assert!(there.len() == 2 && is_beside(&there[0]), "{there:?}");
        assert_eq!(fs::read(sub.join("b")).unwrap(), b"old b");
        let mut again = place.restore(["run", &wanted, "--to"]);
        let _ = Run::of(again.arg(&out).args(more)).ok();
        assert_eq!(names(&sub), ["b"], "{number}");
        let (first, further) = (
            fs::metadata(out.join("a")).unwrap(),
            fs::metadata(sub.join("b")).unwrap(),
        );
        assert_eq!(fs::read(out.join("a")).unwrap(), b"new");
        if number == 0 {
            assert_eq!((first.ino(), first.nlink()), (further.ino(), 2));
        } else {
            assert_eq!((first.nlink(), further.nlink()), (1, 1));
            assert_eq!(fs::read(sub.join("b")).unwrap(), b"old b");
        }
        assert!(!out.join(".backstay-unfinished").exists());
    }
}

/// Until it is whole a file that is written in place has no names but its own: whoever found another could
/// not tell whose content that is.
#[test]
fn a_killed_restore_in_place_gives_no_name_to_what_is_not_whole() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let place = Place::new();
    place.write("a", noise(1, 3 << 20));
    fs::hard_link(place.data().join("a"), place.data().join("b")).unwrap();
    let _ = place.save().ok();
    let out = place.path("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("a"), "old").unwrap();
    let run = over(&place, &out, &["--in-place"]);
    let killed = killed_at(&run, "fchmod", &[out.join("a")]);
    assert_eq!(killed.code, -1, "{}", killed.err);
    assert_eq!(fs::read(out.join("a")).unwrap(), b"old");
    assert!(!out.join("b").exists());
    let wanted = format!("latest:{}", place.data().display());
    let _ = Run::of(place.restore(["run", &wanted, "--to"]).arg(&out)).ok();
    assert!(fs::read(out.join("b")).unwrap() == noise(1, 3 << 20));
    assert_eq!(names(&out), ["a", "b"]);
    let _ = Run::of(&mut over(&place, &out, &["--in-place", "--verify"])).ok();
    assert!(fs::read(out.join("a")).unwrap() == noise(1, 3 << 20));
}

/// File systems whose power can fail, as far as they can be made here.
fn disks(place: &Place) -> Vec<Disk> {
    [("mkfs.ext4", 96), ("mkfs.xfs", 320)]
        .into_iter()
        .filter_map(|(maker, size)| Disk::new(place, maker, size))
        .collect()
}

const NO_DISKS: &str = "skipped: not all file systems can be made and mounted here";

/// A file system in a file, whose power can fail.
struct Disk {
    image: std::path::PathBuf,
    at: std::path::PathBuf,
}

impl Disk {
    fn new(place: &Place, maker: &str, mebibytes: u64) -> Option<Self> {
        let disk = Self {
            image: place.path(format!("image of {maker}")),
            at: place.path(format!("disk of {maker}")),
        };
        fs::create_dir_all(&disk.at).unwrap();
        fs::File::create(&disk.image)
            .unwrap()
            .set_len(mebibytes << 20)
            .unwrap();
        let made = Command::new(maker)
            .arg("-q")
            .arg(&disk.image)
            .stderr(Stdio::null())
            .status();
        (made.is_ok_and(|status| status.success()) && disk.mount()).then_some(disk)
    }

    fn mount(&self) -> bool {
        let mount = Command::new("mount")
            .args(["-o", "loop"])
            .args([&self.image, &self.at])
            .stderr(Stdio::null())
            .status();
        mount.is_ok_and(|status| status.success())
    }

    /// Whatever is not on the disk at this moment never gets there (`EXT4_IOC_SHUTDOWN`, which is
    /// `XFS_IOC_GOINGDOWN`, too); names,
    /// modes and times get there just before, or not.
    fn lose_power(&self, with_names: bool) {
        const SHUTDOWN: &str = r#"open my $f, "<", $ARGV[0] or die; my $how = pack("L", $ARGV[1]);
            ioctl($f, 0x8004587d, $how) or die"#;
        let how = if with_names { "1" } else { "2" };
        let shut = Command::new("perl")
            .args(["-e", SHUTDOWN])
            .arg(&self.at)
            .arg(how)
            .status();
        assert!(shut.unwrap().success());
        self.unmount();
        assert!(self.mount());
    }

    fn unmount(&self) {
        let _ = Command::new("umount").arg(&self.at).status();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.unmount();
    }
}

/// Files of some sizes, old and new ones of each name.
fn fill(place: &Place, disk: &Disk, old: bool) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let file = |number: u64| {
        let size = [300, 5000, 70_000, 2_000_000][usize::try_from(number % 4).unwrap()];
        let content = |seed: u64| noise(seed * 1000 + number, size);
        (format!("{number}"), content(1), content(2))
    };
    let files: Vec<_> = (0..40).map(file).collect();
    for (name, before, after) in &files {
        place.write(name, after);
        if old {
            fs::write(disk.at.join(name), before).unwrap();
        }
    }
    rustix::fs::sync();
    files
}

fn synced(mut run: Command) -> Command {
    run.env_remove("BACKSTAY_NO_SYNC");
    run
}

#[test]
fn a_power_loss_takes_neither_what_was_restored_nor_what_it_replaced() {
    let place = Place::new();
    let disks = disks(&place);
    if disks.len() < 2 {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        takes_nothing(&place, &disk);
    }
}

fn takes_nothing(place: &Place, disk: &Disk) {
    let files = fill(place, disk, true);
    let _ = place.save().ok();
    // In the middle of it: each file is the old or the new one.
    let mut child = synced(over(place, &disk.at, &["--no-sparse"]))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    let has_begun = || names(&disk.at).iter().any(|name| is_beside(name));
    while !has_begun() && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait().unwrap();
    disk.lose_power(true);
    for (name, before, after) in &files {
        let there = fs::read(disk.at.join(name)).unwrap();
        assert!(
            there == *before || there == *after,
            "{name}: {} bytes",
            there.len()
        );
    }
    // At its end: each is the new one.
    let _ = Run::of(&mut synced(over(place, &disk.at, &["--no-sparse"]))).ok();
    disk.lose_power(false);
    for (name, _, after) in &files {
        assert!(fs::read(disk.at.join(name)).unwrap() == *after, "{name}");
    }
    let left = names(&disk.at);
    assert!(!left.iter().any(|name| is_beside(name)), "{left:?}");
}

#[test]
fn a_restore_that_a_power_loss_ended_is_completed_by_the_next_one() {
    let place = Place::new();
    let disks = disks(&place);
    if disks.len() < 2 {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        is_completed(&place, &disk);
    }
}

fn is_completed(place: &Place, disk: &Disk) {
    let files = fill(place, disk, false);
    let _ = place.save().ok();
    let wanted = format!("latest:{}", place.data().display());
    let out = disk.at.join("out");
    fs::create_dir(&out).unwrap();
    rustix::fs::sync();
    let run = || {
        let mut run = place.restore(["run", &wanted, "--to"]);
        run.arg(&out);
        synced(run)
    };
    let mut child = run()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while names(&out).len() < 20 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_micros(200));
    }
    let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait().unwrap();
    disk.lose_power(true);
    let empty = |name: &String| fs::metadata(out.join(name)).is_ok_and(|meta| meta.len() == 0);
    assert!(names(&out).iter().any(empty), "the power loss took nothing");
    let _ = Run::of(&mut run()).ok();
    for (name, _, after) in &files {
        assert!(fs::read(out.join(name)).unwrap() == *after, "{name}");
    }
}

/// A file that is finished is its user's, who may change it while the rest is missing, and keep its time.
#[test]
fn what_is_changed_after_a_kill_is_not_restored_over() {
    let place = Place::new();
    for number in 0..60 {
        place.write(format!("{number:02}"), noise(number, 900_000));
    }
    let _ = place.save().ok();
    let wanted = format!("latest:{}", place.data().display());
    let out = place.path("out");
    fs::create_dir(&out).unwrap();
    let run = || {
        let mut run = place.restore(["run", &wanted, "--to"]);
        run.arg(&out);
        run
    };
    let mut child = run()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let finished = || {
        let mut names = names(&out);
        names.retain(|name| {
            let meta = fs::metadata(out.join(name));
            let is_whole = |meta: fs::Metadata| meta.mode() & 0o7777 != 0o1600;
            !name.starts_with('.') && meta.is_ok_and(is_whole)
        });
        names
    };
    let began = Instant::now();
    while finished().len() < 10 && began.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_micros(200));
    }
    let _ = kill_process(Pid::from_child(&child), Signal::KILL);
    let _ = child.wait().unwrap();
    let marker = fs::read_to_string(out.join(".backstay-unfinished")).unwrap();
    let mount = marker.lines().find(|line| line.starts_with("mount "));
    if mount.is_none_or(|line| line.ends_with(" -")) {
        eprintln!("skipped: this kernel does not number mounts");
        return;
    }
    let changed = finished();
    assert!(!changed.is_empty());
    for name in &changed {
        let path = out.join(name);
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        let mut file = fs::File::options().write(true).open(&path).unwrap();
        file.write_all(b"an edit!").unwrap();
        file.set_modified(time).unwrap();
    }
    let _ = Run::of(&mut run()).ok();
    for number in 0..60 {
        let name = format!("{number:02}");
        let there = fs::read(out.join(&name)).unwrap();
        let saved = noise(number, 900_000);
        if changed.contains(&name) {
            assert!(
                there[..8] == *b"an edit!" && there[8..] == saved[8..],
                "{name}"
            );
        } else {
            assert!(there == saved, "{name}");
        }
    }
    assert_eq!(names(&out).len(), 60);
}

/// What tells the next restore what is unfinished is on the disk before anything is.
#[test]
fn the_file_that_tells_of_a_restore_is_on_the_disk_before_anything_else() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let place = Place::new();
    place.write("sub/file", "content");
    let _ = place.save().ok();
    let disks = disks(&place);
    if disks.len() < 2 {
        eprintln!("{NO_DISKS}");
    }
    for disk in disks {
        let out = disk.at.join("out");
        fs::create_dir(&out).unwrap();
        rustix::fs::sync();
        let run = synced(over(&place, &out, &[]));
        let _ = killed_at(&run, "mkdirat", std::slice::from_ref(&out));
        disk.lose_power(false);
        assert_eq!(names(&out), [".backstay-unfinished"]);
        let lines = fs::read_to_string(out.join(".backstay-unfinished")).unwrap();
        assert!(lines.starts_with("since "), "{lines:?}");
        let _ = Run::of(&mut synced(over(&place, &out, &[]))).ok();
        assert_eq!(names(&out), ["sub"]);
    }
}
