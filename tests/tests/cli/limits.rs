//! The limits that a system sets to a process: a program keeps within them, or says which it met.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use backup_tests::{Place, Run};

use crate::trouble::noise;

/// The same command under a limit, as `ulimit` takes it.
fn under(limit: &str, command: &Command) -> Command {
    let mut out = Command::new("sh");
    out.arg("-c")
        .arg(format!("ulimit {limit} && exec \"$0\" \"$@\""));
    out.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => out.env(name, value),
            None => out.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        out.current_dir(folder);
    }
    out.stdin(Stdio::null());
    out
}

fn restore(place: &Place, out: &Path, threads: &str) -> Command {
    let wanted = format!("latest:{}", place.data().display());
    let mut run = place.restore(["run", &wanted, "--overwrite", "always"]);
    run.args(["--threads", threads, "--to"]).arg(out);
    run
}

#[test]
fn a_restore_over_many_files_keeps_within_the_limit_of_open_files() {
    const FILES: usize = 3000;
    let place = Place::new();
    let out = place.path("out");
    for number in 0..FILES {
        let name = format!("{}/{number}", number % 50);
        place.write(&name, format!("new {number}"));
    }
    let _ = place.save().ok();
    for limit in ["-n 256", "-n 128"] {
        for number in 0..FILES {
            let path = out.join(format!("{}/{number}", number % 50));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, format!("old {number}")).unwrap();
        }
        let _ = Run::of(&mut under(limit, &restore(&place, &out, "8"))).ok();
        for number in 0..FILES {
            let path = out.join(format!("{}/{number}", number % 50));
            let there = fs::read(path).unwrap();
            assert_eq!(there, format!("new {number}").as_bytes(), "{limit}");
        }
    }
}

#[test]
fn too_few_open_files_are_an_error_that_says_so() {
    let place = Place::new();
    place.write("a", "a");
    // The tier is patient with that: others may close theirs.
    let save = place.snapshot(["save", "data"]);
    let _ = Run::of(&mut under("-n 10", &save))
        .ends(1)
        .says("ulimit -n");
}

#[test]
fn a_limit_of_the_size_of_files_is_an_error_and_no_sudden_end() {
    let place = Place::new();
    place.write("large", noise(1, 3 << 20));
    let mut save = place.snapshot(["save", "data"]);
    let limited = under("-f 100", &save);
    let _ = Run::of(&mut { limited }).ends(1).says("ulimit -f");
    let _ = Run::of(&mut save).ok();
    let out = place.path("out");
    let run = Run::of(&mut under("-f 100", &restore(&place, &out, "2")));
    let _ = run.ends(3).says("ulimit -f");
    let _ = Run::of(&mut restore(&place, &out, "2")).ok();
    assert!(fs::read(out.join("large")).unwrap() == noise(1, 3 << 20));
}

/// Something that is undone at the end.
struct Undo(Command);

impl Undo {
    fn after(does: &[&str], undo: &[&str], path: &Path) -> Option<Self> {
        let command = |words: &[&str]| {
            let mut command = Command::new(words[0]);
            command.args(&words[1..]).arg(path).stderr(Stdio::null());
            command
        };
        let done = command(does).status().is_ok_and(|status| status.success());
        done.then(|| Self(command(undo)))
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        let _ = self.0.status();
    }
}

#[test]
fn a_place_that_is_mounted_or_immutable_says_what_to_do() {
    let place = Place::new();
    place.write("file", "new");
    let _ = place.save().ok();
    let out = place.path("out");
    fs::create_dir(&out).unwrap();
    let file = out.join("file");
    fs::write(&file, "old").unwrap();
    let other = place.path("other");
    fs::write(&other, "old").unwrap();
    let bind = ["mount", "--bind", other.to_str().unwrap()];
    if let Some(_mounted) = Undo::after(&bind, &["umount"], &file) {
        let _ = Run::of(&mut restore(&place, &out, "2"))
            .ends(3)
            .says("--in-place");
        let _ = Run::of(restore(&place, &out, "2").arg("--in-place")).ok();
        assert_eq!(fs::read(&file).unwrap(), b"new");
    } else {
        eprintln!("skipped: a file cannot be mounted here");
    }
    fs::write(&file, "old").unwrap();
    if let Some(_immutable) = Undo::after(&["chattr", "+i"], &["chattr", "-i"], &file) {
        let _ = Run::of(&mut restore(&place, &out, "2"))
            .ends(3)
            .says("chattr -i");
    } else {
        eprintln!("skipped: nothing can be made immutable here");
    }
}

/// Nothing is damaged where this user, or this container, may not make something.
#[test]
fn a_device_that_may_not_be_made_says_why_and_is_no_damage_to_a_comparison() {
    let place = Place::new();
    place.write("file", "content");
    let device = place.data().join("null");
    let made = Command::new("mknod")
        .arg(&device)
        .args(["c", "1", "3"])
        .status();
    let limit = ["--bounding-set", "-mknod"];
    let limited = Command::new("setpriv").args(limit).arg("true").status();
    if ![made, limited]
        .into_iter()
        .all(|done| done.is_ok_and(|status| status.success()))
    {
        eprintln!("skipped: no device can be made here, or nobody kept from it");
        return;
    }
    let _ = place.save().ok();
    let data = place.data();
    for (wanted, shown, more) in [
        (
            format!("latest:{}", data.display()),
            "/null".to_owned(),
            &["--json"][..],
        ),
        ("latest".to_owned(), device.display().to_string(), &[]),
    ] {
        let out = place.path(format!("out{}", more.len()));
        let run = place.restore(["run", &wanted, "--verify", "--to"]);
        let mut limited = Command::new("setpriv");
        limited
            .args(limit)
            .arg(run.get_program())
            .args(run.get_args());
        limited.arg(&out).args(more);
        limited.envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let run = Run::of(&mut limited).ends(3);
        let said = format!("{}{}", run.text(), run.err);
        for part in ["CAP_MKNOD", "--exclude", "could not be made", &shown] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        // What is missing and was made is another matter.
        let file = match more {
            [] => out.join(data.strip_prefix("/").unwrap()).join("file"),
            _ => out.join("file"),
        };
        assert_eq!(fs::read(file).unwrap(), b"content");
    }
    let without = [
        "run",
        "latest",
        "--verify",
        "--exclude",
        "null",
        "--to",
        "out",
    ];
    let _ = Run::of(&mut place.restore(without)).ok();
}
