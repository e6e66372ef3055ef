//! A repository on remotes of a real rclone.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backup_tests::{Place, Run, read_tree};

#[path = "../../../crates/sinks/rclone/tests/stage/mod.rs"]
mod stage;

use stage::{Dav, Line, Remotes};

/// A command that works with a repository at some location.
fn at(location: &str, mut command: Command) -> Command {
    command.env("BACKSTAY_REPO", location);
    command
}

fn with_files() -> Place {
    let place = Place::empty();
    place.write("a/one", b"the first file");
    place.write("a/two", vec![b'2'; 3 << 20]);
    place.write(
        "three",
        (0..200_000u32)
            .flat_map(u32::to_le_bytes)
            .collect::<Vec<u8>>(),
    );
    place.wait_for_a_tick();
    place
}

fn save(place: &Place, location: &str) -> String {
    let mut save = place.snapshot(["save", "--json"]);
    save.arg(place.data());
    let saved = Run::of(&mut at(location, save))
        .ok()
        .of_type("saved")
        .remove(0);
    saved["id"].as_str().unwrap().to_owned()
}

fn init(place: &Place, location: &str) -> Run {
    let mut init = place.snapshot(["init"]);
    init.arg("--recovery-sheet").arg(place.path("sheet"));
    Run::of(&mut at(location, init))
}

fn restored(place: &Place, location: &str, id: &str) {
    let out = place.path("back");
    let _ = fs::remove_dir_all(&out);
    let wanted = format!("{id}:{}", place.data().display());
    let run = place.restore(["run", &wanted, "--to", "back"]);
    let _ = Run::of(&mut at(location, run)).ok();
    let names = |root| {
        read_tree(root)
            .unwrap()
            .into_keys()
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&out), names(&place.data()));
    for name in ["a/one", "a/two", "three"] {
        let there = fs::read(place.data().join(name)).unwrap();
        assert!(fs::read(out.join(name)).unwrap() == there, "{name}");
    }
}

#[test]
fn a_repository_lives_on_a_remote() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    remotes.add_dav(server.port, "hunter2");
    // The folder is made, as on a local disk.
    let location = remotes.location("dav:backups/mine");
    let place = with_files();
    let run = |args: &[&str]| Run::of(&mut at(&location, place.snapshot(args))).ok();
    let _ = init(&place, &location).ok();
    let first = save(&place, &location);
    place.write("a/two", b"changed");
    place.wait_for_a_tick();
    let second = save(&place, &location);
    let listed = run(&["list", "--json"]).of_type("snapshot");
    assert_eq!(listed.len(), 2);
    let _ = run(&["verify", "--level", "full"]);
    restored(&place, &location, &second);
    let _ = run(&["forget", &first]);
    let _ = run(&["prune"]);
    let _ = run(&["verify", "--level", "full"]);
    restored(&place, &location, &second);
    assert!(remotes.root().join("backups/mine/config").is_dir());
    drop(server);
    assert!(remotes.children_end(), "an rclone is left");
}

#[test]
fn a_repository_is_copied_to_an_encrypted_remote_and_one_used_as_a_folder() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let place = with_files();
    let local = place.repo().display().to_string();
    let _ = init(&place, &local).ok();
    let id = save(&place, &local);
    let folder = remotes.root();
    for location in [
        format!("{}&create=yes", remotes.location("vault:copy")),
        remotes.on_disk(&folder),
    ] {
        let copy = place.snapshot(["copy", "--to", &location]);
        let _ = Run::of(&mut at(&local, copy)).ok();
        restored(&place, &location, &id);
    }
    restored(&place, &folder.display().to_string(), &id);
}

/// Where a remote can neither move nor copy by itself rclone sends what it moves once more, straight to the new name.
#[test]
fn a_remote_that_cannot_rename_is_read_and_not_written_to() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let location = remotes.on_disk(&remotes.root());
    let place = with_files();
    let bare = |command: Command| {
        let mut command = at(&location, command);
        command.env("RCLONE_DISABLE", "move,copy");
        Run::of(&mut command)
    };
    let other = Place::empty();
    let make = other.snapshot(["init", "--recovery-sheet", "sheet"]);
    let _ = bare(make).ends(2).says("neither moves nor copies");
    assert!(!remotes.root().join("config").exists());
    let _ = init(&place, &location).ok();
    let id = save(&place, &location);
    let packs = || fs::read_dir(remotes.root().join("data")).unwrap().count();
    let before = packs();
    place.write("a/two", b"changed");
    let mut again = place.snapshot(["save"]);
    again.arg(place.data());
    let _ = bare(again).ends(2).says("neither moves nor copies");
    assert_eq!(packs(), before);
    let cat = format!("{id}:{}", place.data().join("a/one").display());
    let cat = bare(place.restore(["cat", &cat]));
    assert_eq!(cat.text(), "the first file", "{}", cat.err);
}

#[test]
fn a_remote_is_checked_as_a_tier() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let location = remotes.on_disk(&remotes.root());
    let place = Place::empty();
    let run = Run::of(&mut place.snapshot(["check-tier", "--speed", "0", &location]));
    let _ = run.ok().says("rclone:disk:");
}

#[test]
fn what_is_wrong_with_a_remote_is_said() {
    let place = Place::empty();
    for location in [
        "rclone::webdav,pass=hunter2:x",
        "rclone:cloud,token=hunter2:x",
    ] {
        for args in [&["list"][..], &["init", "--recovery-sheet", "sheet"]] {
            let run = Run::of(&mut at(location, place.snapshot(args))).ends(2);
            assert!(run.err.contains("rclone config"), "{}", run.err);
            assert!(!run.err.contains("hunter2"), "{}", run.err);
        }
    }
    let mut without = at("rclone:disk:/x", place.snapshot(["list"]));
    let _ = Run::of(without.env("PATH", "/nowhere"))
        .ends(2)
        .says("apt-get install rclone");
    if stage::has_rclone() {
        let remotes = Remotes::new();
        let list = place.snapshot(["list"]);
        let _ = Run::of(&mut at(&remotes.location("other:x"), list))
            .ends(2)
            .says("listremotes");
    }
}

#[test]
fn a_save_that_is_killed_leaves_no_rclone_and_the_next_one_goes_on() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    let line = Line::to(server.port);
    remotes.add_dav(line.port, "hunter2");
    let location = remotes.location("dav:mine");
    let place = with_files();
    let _ = init(&place, &location).ok();
    // Something that does not shrink.
    let noise = (0..2_000_000u32).map(|number| number.wrapping_mul(2_654_435_761) ^ (number << 7));
    place.write(
        "noise",
        noise.flat_map(u32::to_le_bytes).collect::<Vec<u8>>(),
    );
    let before = line.sent();
    let mut save_it = place.snapshot(["save"]);
    save_it.arg(place.data());
    let mut saving = at(&location, save_it)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while line.sent() < before + 1_000_000 && saving.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "nothing goes");
        std::thread::sleep(Duration::from_millis(2));
    }
    line.hold();
    assert_eq!(remotes.children().len(), 1);
    saving.kill().unwrap();
    let _ = saving.wait();
    assert!(remotes.children_end(), "an rclone is left");
    line.heal();
    let id = save(&place, &location);
    restored(&place, &location, &id);
    let verify = place.snapshot(["verify", "--level", "full"]);
    let _ = Run::of(&mut at(&location, verify)).ok();
}
