//! What is overwritten is there until its successor is whole.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backup_tests::{Place, Run};
use rustix::process::{Pid, Signal, kill_process};

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
    assert_eq!(names(&out), ["large"]);
    let _ = Run::of(&mut over(&place, &out, &["--in-place", "--verify"])).ok();
    assert!(fs::read(out.join("large")).unwrap() == new);
    assert_eq!(names(&out), ["large"]);
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
        let beside = out.join(".backstay-new-large");
        let began = Instant::now();
        while !beside.exists() && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        was_seen |= beside.exists();
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
