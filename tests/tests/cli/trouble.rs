//! What goes wrong in the middle.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use backup_tests::{Place, Run, read_tree};
use rustix::process::{Pid, Signal, kill_process};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend(state.to_le_bytes());
    }
    out.truncate(length);
    out
}

pub(crate) fn assert_restores(place: &Place) {
    let _ = place.bring_back("out").ok();
    let (data, out) = (
        read_tree(&place.data()).unwrap(),
        read_tree(&place.path("out")).unwrap(),
    );
    assert!(data == out, "what came back is not what was saved");
}

/// Runs a program of this place as another user, who may read nothing that is not everybody's.
fn as_nobody(command: &Command) -> Command {
    let mut wrapped = Command::new("setpriv");
    wrapped.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped.stdin(Stdio::null());
    wrapped
}

fn give_to_nobody(path: &Path) {
    let given = Command::new("chown")
        .args(["-R", "65534:65534"])
        .arg(path)
        .status();
    assert!(given.unwrap().success());
    let shared = Command::new("chmod").args(["a+rx"]).arg(path).status();
    assert!(shared.unwrap().success());
}

/// Whether another user can run the programs where they are built.
fn nobody_can_run(place: &Place) -> bool {
    let version = place.snapshot(["--version"]);
    Run::of(&mut as_nobody(&version)).code == 0
}

#[test]
fn an_unreadable_file_is_a_finding_and_everything_else_is_stored() {
    if !is_root() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    let place = Place::new();
    place.write("good", "good");
    place.write("secret", "secret");
    give_to_nobody(&place.path(""));
    if !nobody_can_run(&place) {
        eprintln!("skipped: another user cannot reach the built programs");
        return;
    }
    let secret = place.data().join("secret");
    std::os::unix::fs::chown(&secret, Some(0), Some(0)).unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut save = place.snapshot(["save", "--json"]);
    save.arg(place.data());
    let run = Run::of(&mut as_nobody(&save)).ends(3);
    let findings = run.of_type("finding");
    assert!(
        findings
            .iter()
            .any(|line| line["subject"] == *place.data().join("secret").to_string_lossy()),
        "{findings:?}"
    );
    let wanted = format!("latest:{}", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "out"]));
    assert_eq!(fs::read(place.path("out/good")).unwrap(), b"good");
    let _ = place.verify().ok();
}

#[test]
fn delete_spares_the_folder_of_a_file_that_the_save_could_not_read() {
    let place = Place::new();
    // The snapshot has the folder's own entry as if it held the whole folder; only a finding tells.
    for name in ["odd\n\\/secret", "odd\n\\/good", "whole/good"] {
        place.write(name, name);
    }
    let secret = place.data().join("odd\n\\/secret");
    let mut save = place.snapshot(["save", "--json"]);
    save.arg(place.data());
    if is_root() {
        give_to_nobody(&place.path(""));
        if !nobody_can_run(&place) {
            eprintln!("skipped: another user cannot reach the built programs");
            return;
        }
        std::os::unix::fs::chown(&secret, Some(0), Some(0)).unwrap();
        save = as_nobody(&save);
    }
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o000)).unwrap();
    let _ = Run::of(&mut save).ends(3);
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o644)).unwrap();
    for name in ["odd\n\\/other", "whole/other"] {
        place.write(name, "not in the snapshot");
    }
    let (wanted, to) = (format!("latest:{}", place.data().display()), place.data());
    let run = || {
        let mut run = place.restore(["run", "--json", "--delete", &wanted, "--to"]);
        run.arg(&to);
        run
    };
    let dry = Run::of(run().arg("--dry-run")).ok().of_type("deletion");
    assert_eq!(dry.len(), 1, "{dry:?}");
    assert_eq!(dry[0]["path"], *to.join("whole/other").to_string_lossy());
    let restored = Run::of(&mut run()).ok().of_type("restored");
    assert_eq!(restored[0]["deleted"], 1);
    for name in ["odd\n\\/secret", "odd\n\\/other", "whole/good"] {
        assert!(to.join(name).exists(), "{name:?} is gone");
    }
    assert!(!to.join("whole/other").exists());
}

#[test]
fn a_restore_into_a_folder_that_cannot_be_written_says_so() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    give_to_nobody(&place.path(""));
    if !nobody_can_run(&place) {
        return;
    }
    let locked = place.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    let run = place.restore(["run", "latest", "--to", "locked"]);
    let run = Run::of(&mut as_nobody(&run));
    assert!(run.code == 1 || run.code == 3, "{run:?}");
    assert!(run.err.contains("ermission"), "{}", run.err);
    assert!(read_tree(&locked).unwrap().is_empty());
    let run = place.restore(["run", "latest", "--to", "locked/new"]);
    let _ = Run::of(&mut as_nobody(&run)).ends(1);
}

#[test]
fn what_this_user_may_not_read_is_not_called_damaged() {
    if !is_root() {
        return;
    }
    let place = Place::new();
    for name in ["open", "closed", "folder/below"] {
        place.write(name, name);
    }
    let closed = |name: &str| {
        fs::set_permissions(place.data().join(name), fs::Permissions::from_mode(0o000)).unwrap();
    };
    closed("closed");
    closed("folder");
    let _ = place.save().ok();
    give_to_nobody(&place.path(""));
    if !nobody_can_run(&place) {
        eprintln!("skipped: another user cannot reach the built programs");
        return;
    }
    let wanted = format!("latest:{}", place.data().display());
    let run = ["run", &wanted, "--to", "out", "--verify"];
    for _ in 0..2 {
        let mut json = place.restore(run);
        let told = Run::of(&mut as_nobody(json.arg("--json")))
            .ends(3)
            .of_type("finding");
        let mut unread: Vec<_> = (told.iter())
            .filter(|one| one["severity"] != "note")
            .map(|one| {
                (
                    one["kind"].as_str().unwrap(),
                    one["subject"].as_str().unwrap(),
                )
            })
            .collect();
        unread.sort_unstable();
        let out = place.path("out");
        let subject = |name: &str| out.join(name).to_string_lossy().into_owned();
        let (one, other) = (subject("closed"), subject("folder/below"));
        assert_eq!(unread, [("unreadable", &*one), ("unreadable", &*other)]);
    }
    let said = Run::of(&mut as_nobody(&place.restore(run))).ends(3);
    assert!(said.err.contains("that is no damage"), "{}", said.err);
    // What differs is told from it.
    fs::write(place.path("out/open"), "OPEN").unwrap();
    let _ = Run::of(&mut as_nobody(&place.restore(run))).ends(13);
    fs::write(place.path("out/open"), "open").unwrap();
    let _ = Run::of(&mut place.restore(run)).ok();
}

pub(crate) fn start(command: &mut Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn two_saves_at_once_both_succeed() {
    let place = Place::new();
    for number in 0..200u64 {
        place.write(format!("{number}"), noise(number, 20_000));
    }
    place.write("large", noise(777, 8 << 20));
    let children: Vec<Child> = (0..3)
        .map(|number| {
            let mut save = place.snapshot(["save", "--json"]);
            save.arg(place.data())
                .env("BACKSTAY_CACHE_DIR", place.path(format!("cache{number}")));
            start(&mut save)
        })
        .collect();
    for child in children {
        let _ = Run::from(child.wait_with_output().unwrap()).ok();
    }
    assert_eq!(
        Run::of(&mut place.snapshot(["list", "--json"]))
            .ok()
            .lines()
            .len(),
        3
    );
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    assert_restores(&place);
}

#[test]
fn a_killed_save_loses_nothing_and_the_next_one_succeeds() {
    let place = Place::new();
    for number in 0..300u64 {
        place.write(format!("{number}"), noise(number, 30_000));
    }
    place.write("large", noise(4711, 40 << 20));
    let mut killed = 0;
    for round in 0..8u64 {
        // Something new each time, so that there is something to interrupt.
        place.write(format!("round-{round}"), noise(90_000 + round, 25 << 20));
        let mut save = place.snapshot(["save", "--json"]);
        let mut child = start(save.arg(place.data()));
        std::thread::sleep(Duration::from_millis(5 + 37 * round));
        let _ = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        let _ = place.verify().ok();
    }
    assert!(killed > 0, "every save was faster than its killing");
    let _ = place.save().ok();
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    assert_restores(&place);
}

#[test]
fn an_interrupted_save_ends_with_130_and_the_next_one_goes_on() {
    let place = Place::new();
    for number in 0..12u64 {
        place.write(format!("{number}"), noise(number, 24 << 20));
    }
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let mut save = place.snapshot(["save", "--json"]);
        let child = start(save.arg(place.data()));
        std::thread::sleep(Duration::from_millis(350));
        kill_process(Pid::from_child(&child), signal).unwrap();
        let run = Run::from(child.wait_with_output().unwrap());
        if run.code == 0 {
            return; // Too fast a machine: there was nothing left to interrupt.
        }
        let run = run.ends(130);
        assert!(run.err.contains("interrupted"), "{}", run.err);
        assert!(
            Run::of(&mut place.snapshot(["list", "--json"]))
                .ok()
                .lines()
                .is_empty()
        );
    }
    let saved = place.save().ok().of_type("saved").remove(0);
    assert!(
        saved["bytes_added"].as_u64().unwrap() < saved["bytes"].as_u64().unwrap(),
        "nothing of the interrupted runs was used: {saved}"
    );
    let _ = place.verify().ok();
    assert_restores(&place);
}

/// A small file system in memory, unmounted at the end.
pub(crate) struct Small(std::path::PathBuf);

impl Small {
    pub(crate) fn mount(path: &Path, size: &str) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(path)
            .stderr(Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(path.to_path_buf()))
    }

    pub(crate) fn enlarge(&self, size: &str) {
        let grown = Command::new("mount")
            .args(["-o", &format!("remount,size={size}")])
            .arg(&self.0)
            .status();
        assert!(grown.unwrap().success());
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_a_clear_error_and_nothing_is_lost() {
    let place = Place::empty();
    let Some(small) = Small::mount(&place.repo(), "12m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let _ = Run::of(&mut place.snapshot(["init"])).ok();
    place.write("first", noise(1, 2 << 20));
    let _ = place.save().ok();
    place.write("second", noise(2, 30 << 20));
    let full = place.save().ends(1);
    assert!(
        full.err.contains("No space left") && full.err.contains("make room"),
        "{}",
        full.err
    );
    let is_temporary = |path: &std::path::PathBuf| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(".tmp")
    };
    let left: Vec<_> = place.objects("").into_iter().filter(is_temporary).collect();
    assert!(left.is_empty(), "{left:?}");
    let _ = place.verify().ok();
    let wanted = format!("latest:{}", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "then"])).ok();
    assert!(fs::read(place.path("then/first")).unwrap() == noise(1, 2 << 20));
    small.enlarge("64m");
    let _ = place.save().ok();
    let _ = place.verify().ok();
    assert_restores(&place);
    drop(small);
}

#[test]
fn a_restore_into_a_place_that_is_full_is_a_failure_and_goes_on_when_there_is_room() {
    let place = Place::new();
    // The folder gets its time and its mode when it has all that belongs in it, and no sooner.
    for number in 0..8u64 {
        place.write(format!("sub/{number}"), noise(number, 3 << 20));
    }
    let closed = fs::Permissions::from_mode(0o555);
    fs::set_permissions(place.data().join("sub"), closed).unwrap();
    place.wait_for_a_tick();
    let _ = place.save().ok();
    let Some(small) = Small::mount(&place.path("out"), "10m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let full = place.bring_back("out").ends(1);
    let is_clear = full.err.contains("No space left") && full.err.contains("make room");
    assert!(is_clear && !full.err.contains("--help"), "{}", full.err);
    let sub = fs::metadata(place.path("out/sub")).unwrap();
    assert_ne!(sub.permissions().mode() & 0o777, 0o555, "it was finished");
    small.enlarge("64m");
    assert_restores(&place);
    drop(small);
}

#[test]
fn a_proof_that_has_no_room_leaves_nothing_in_its_own_way() {
    let place = Place::new();
    place.write("file", "content");
    let _ = place.save().ok();
    let Some(small) = Small::mount(&place.path("full"), "64k") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let filled = fs::write(place.path("full/more"), noise(1, 1 << 20));
    assert!(filled.is_err(), "it is not full");
    let file = format!("latest:{}/file", place.data().display());
    let prove = || Run::of(&mut place.restore(["prove", "-o", "full/proof", &file]));
    let _ = prove().ends(1).says("make room");
    small.enlarge("8m");
    let _ = prove().ok();
    let _ = Run::of(&mut place.restore(["check-proof", "full/proof"])).ok();
    let _ = prove().ends(11);
    let left = fs::read_dir(place.path("full")).unwrap().count();
    assert_eq!(left, 2, "what was written in between");
    drop(small);
}

#[test]
fn a_repository_that_is_read_only_can_be_restored_from() {
    let place = Place::empty();
    let Some(small) = Small::mount(&place.repo(), "32m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let _ = Run::of(&mut place.snapshot(["init"])).ok();
    place.write("a", noise(1, 1 << 20));
    let _ = place.save().ok();
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(place.repo())
        .status();
    assert!(remounted.unwrap().success());
    let wanted = format!("latest:{}", place.data().display());
    let run = Run::of(&mut place.restore(["run", &wanted, "--to", "out", "--json"]));
    assert!(run.code == 0 || run.code == 3, "{run:?}");
    assert!(read_tree(&place.data()).unwrap() == read_tree(&place.path("out")).unwrap());
    let _ = place.save().ends(1).says("Read-only");
    drop(small);
}
