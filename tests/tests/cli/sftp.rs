//! A repository on an SSH server: OpenSSH's own, started here.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use backup_tests::{Place, Run, read_tree};

#[path = "../../../crates/sinks/sftp/tests/stage/mod.rs"]
mod stage;
#[path = "../../../crates/sinks/sftp/tests/stage/line.rs"]
mod wire;

use stage::Sshd;
use wire::Line;

use crate::trouble::{Small, noise};

/// A command that works with a repository at some location.
fn at(location: &str, mut command: Command) -> Command {
    command
        .env("BACKSTAY_REPO", location)
        .env_remove("SSH_AUTH_SOCK");
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
    same(place, &["a/one", "a/two", "three"]);
}

fn same(place: &Place, names: &[&str]) {
    for name in names {
        let there = fs::read(place.data().join(name)).unwrap();
        let back = fs::read(place.path("back").join(name)).unwrap();
        assert!(back == there, "{name}");
    }
}

/// Brings back a snapshot that lacks what was written since.
fn restored_of(place: &Place, location: &str, id: &str, names: &[&str], code: i32) {
    let _ = fs::remove_dir_all(place.path("back"));
    let wanted = format!("{id}:{}", place.data().display());
    let run = place.restore(["run", &wanted, "--to", "back"]);
    let _ = Run::of(&mut at(location, run)).ends(code);
    same(place, names);
}

#[test]
fn a_repository_lives_on_a_server() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    // The folder is made, as on a local disk.
    let folder = server.root().join("backups/mine");
    let location = server.location_by(server.port, &folder);
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
    // Servers have disks that go bad.
    assert!(folder.join("parity").is_dir());
}

#[test]
fn a_repository_is_copied_to_a_server_and_used_there_as_a_folder() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let location = server.location();
    let place = with_files();
    let local = place.repo().display().to_string();
    let _ = init(&place, &local).ok();
    let id = save(&place, &local);
    let copy = place.snapshot(["copy", "--to", &location]);
    let _ = Run::of(&mut at(&local, copy)).ok();
    restored(&place, &location, &id);
    restored(&place, &server.root().display().to_string(), &id);
}

#[test]
fn a_host_that_is_not_known_is_not_spoken_to() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let place = with_files();
    fs::write(server.at("known"), "").unwrap();
    let run = init(&place, &server.location()).ends(1);
    let text = &run.err;
    assert!(
        text.contains("SHA256:") && text.contains("ssh-keyscan"),
        "{text}"
    );
    let list = place.snapshot(["list"]);
    let _ = Run::of(&mut at(&server.location(), list))
        .ends(1)
        .says("is not known");
}

#[test]
fn a_password_in_a_location_is_refused_and_not_repeated() {
    let place = Place::empty();
    for location in [
        "sftp://me:hunter2@nowhere.invalid/srv",
        "sftp://me@nowhere.invalid/srv?password=hunter2",
    ] {
        let run = Run::of(&mut at(location, place.snapshot(["list"]))).ends(2);
        let text = &run.err;
        assert!(text.contains("password_file"), "{text}");
        assert!(!text.contains("hunter2"), "{text}");
    }
}

/// Saves of a folder that the account may not write to, or on a disk that is full, lose nothing.
#[test]
fn a_save_that_the_server_cannot_take_loses_nothing() {
    if !stage::has_sshd() {
        return;
    }
    let mut server = Sshd::with("");
    let Some(small) = Small::mount(&server.root(), "24m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let location = server.location_for_anyone();
    let place = with_files();
    let _ = init(&place, &location).ok();
    let first = save(&place, &location);
    let try_to_save = || {
        let save = place.snapshot(["save"]);
        Run::of(at(&location, save).arg(place.data()))
    };
    place.write("more", noise(5, 40 << 20));
    place.wait_for_a_tick();
    let _ = try_to_save()
        .ends(1)
        .says("the server's file system is full")
        .says("snapshot prune")
        .says("sftp://");
    restored_of(&place, &location, &first, &["a/one", "a/two", "three"], 0);
    let root = server.root();
    let may = |mode: &str| {
        let mut change = Command::new("chmod");
        assert!(
            change
                .args(["-R", mode])
                .arg(&root)
                .status()
                .unwrap()
                .success()
        );
    };
    may("u-w");
    let _ = try_to_save()
        .ends(1)
        .says("owner and the modes")
        .says("sftp://");
    // Everything comes back; that the ledger cannot say so is a finding.
    restored_of(&place, &location, &first, &["a/one", "a/two", "three"], 3);
    may("u+w");
    small.enlarge("128m");
    let second = save(&place, &location);
    let verify = place.snapshot(["verify", "--level", "full"]);
    let _ = Run::of(&mut at(&location, verify)).ok();
    restored_of(&place, &location, &second, &["more"], 0);
    server.stop();
    drop(small);
}

/// A server that hangs in the middle of a save, and comes back behind more time than it is waited for.
#[test]
fn a_save_goes_on_where_the_server_hung() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let location = format!("{}&timeout=3", server.location());
    let place = with_files();
    let _ = init(&place, &location).ok();
    place.write("more", noise(7, 60 << 20));
    place.wait_for_a_tick();
    let mut save = at(&location, place.snapshot(["save", "-q"]));
    let mut child = save.arg(place.data()).spawn().unwrap();
    let data = server.root().join("data");
    while !data.is_dir() {
        assert!(child.try_wait().unwrap().is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(2));
    }
    server.signal("-STOP", true);
    std::thread::sleep(Duration::from_secs(5));
    let was_running = child.try_wait().unwrap().is_none();
    server.signal("-CONT", true);
    assert!(was_running && child.wait().unwrap().success());
    let verify = place.snapshot(["verify", "--level", "full"]);
    let _ = Run::of(&mut at(&location, verify)).ok();
    restored_of(&place, &location, "latest", &["more", "three"], 0);
}

#[test]
fn a_server_that_says_nothing_or_lets_nobody_in_is_told() {
    let place = Place::empty();
    let list = |location: &str| Run::of(&mut at(location, place.snapshot(["list"])));
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let location =
        format!("sftp://me@127.0.0.1:{port}/srv?timeout=2&known_hosts=/dev/null&ssh_config=none");
    let began = Instant::now();
    let _ = list(&location)
        .ends(1)
        .says("sftp://me@127.0.0.1")
        .says("said nothing for 2 s")
        .says("timeout=SECONDS");
    assert!(began.elapsed() < Duration::from_secs(30));
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::configured("", "Match all\nPasswordAuthentication yes\n");
    fs::write(server.at("authorized"), "").unwrap();
    let _ = list(&server.location())
        .ends(1)
        .says("user: refused")
        .says("The server takes publickey, password");
    let server = Sshd::configured("", "ForceCommand /bin/false");
    let _ = list(&server.location()).ends(1).says("offers no SFTP");
}

/// How long a first save takes, and at best one of the third to the fifth, which find nothing new: where a folder above
/// the data has changed meanwhile, a save stores a page, and the next one reads its index run.
fn times_over(server: &Sshd, port: u16, name: &str) -> [Duration; 2] {
    let place = Place::empty();
    for number in 0..300 {
        place.write(
            format!("{}/{number}", number % 10),
            vec![number as u8; 5000],
        );
    }
    place.wait_for_a_tick();
    let location = server.location_by(port, &server.root().join(name));
    let _ = init(&place, &location).ok();
    let times = [(); 5].map(|()| {
        let began = Instant::now();
        let _ = save(&place, &location);
        began.elapsed()
    });
    let [first, _, unchanged @ ..] = times;
    [first, unchanged.into_iter().min().unwrap()]
}

/// Each wait of a save is one of 50 ms here.
#[test]
#[ignore = "measures time: on a machine that does nothing else"]
fn a_save_of_nothing_new_over_a_long_line_takes_few_seconds() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let line = runtime.block_on(Line::to(server.port, Duration::from_millis(25)));
    server.know_as(&[line.port]);
    let [first, unchanged] = times_over(&server, line.port, "far");
    let near = times_over(&server, server.port, "near");
    println!("first {first:?}, unchanged {unchanged:?}; without the line {near:?}");
    assert!(unchanged < Duration::from_secs(3), "{unchanged:?}");
}
