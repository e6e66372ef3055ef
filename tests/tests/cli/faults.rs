//! The programs killed at every boundary between stages, on a disk that is full at any write, and
//! several at once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use backup_tests::{Place, Run};

use crate::killed::is_whole;
use crate::trouble::{Small, assert_restores, noise, start};

/// Whether system calls can be traced here.
pub(crate) fn can_trace() -> bool {
    let traced = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "true"])
        .stderr(Stdio::null())
        .status();
    traced.is_ok_and(|status| status.success())
}

/// Runs a command that is killed when it makes a call for the first time, of a thread, on one of
/// the paths (none: on any).
pub(crate) fn killed_at(command: &Command, call: &str, paths: &[PathBuf]) -> Run {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-o", "/dev/null"]);
    traced.arg(format!("--trace={call}"));
    traced.arg(format!("--inject={call}:signal=KILL:when=1"));
    for path in paths {
        traced.arg("-P").arg(path);
    }
    traced.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        traced.current_dir(folder);
    }
    traced.stdin(Stdio::null());
    Run::of(&mut traced)
}

/// A folder of the repository, or the 256 in it that packs lie in, made beforehand to be watched.
fn watched(place: &Place, stage: &str) -> Vec<PathBuf> {
    let folder = place.repo().join(stage);
    match stage {
        "data" | "meta" => (0..=255)
            .map(|number| {
                let folder = folder.join(format!("{number:02x}"));
                fs::create_dir_all(&folder).unwrap();
                folder
            })
            .collect(),
        "snap" => {
            let months = fs::read_dir(folder).unwrap();
            months.map(|entry| entry.unwrap().path()).collect()
        }
        "" => Vec::new(),
        _ => vec![folder],
    }
}

#[test]
fn a_save_killed_at_any_boundary_between_stages_loses_nothing() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let place = Place::new();
    place.write("large", noise(1, 3 << 20));
    for number in 0..50u64 {
        place.write(format!("{number}"), noise(number, 5_000));
    }
    let _ = place.save().ok();
    let mut round = 0;
    let stages = [
        "sessions", "data", "meta", "index", "refs", "snap", "ledger",
    ];
    let on_the_tier = stages
        .iter()
        .flat_map(|stage| [(*stage, "linkat"), (*stage, "fsync")]);
    // And where the local state is brought up to date.
    for (stage, call) in on_the_tier.chain([("", "rename")]) {
        round += 1;
        place.write(format!("new-{round}"), noise(1000 + round, 400_000));
        let mut save = place.snapshot(["save", "--json"]);
        save.arg(place.data());
        let run = killed_at(&save, call, &watched(&place, stage));
        let what = format!("{call} in {stage:?}\n{}\n{}", run.text(), run.err);
        assert_eq!(run.code, -1, "it was not killed: {what}");
        is_whole(&place, &what);
        let ledger = Run::of(&mut place.snapshot(["ledger", "verify"]));
        assert_eq!(ledger.code, 0, "{what}\n{}", ledger.err);
        let again = place.save();
        assert_eq!(again.code, 0, "{what}\n{}\n{}", again.text(), again.err);
    }
    assert_nothing_lost(&place);
}

/// Verification finds nothing at all, and the newest snapshot restores.
fn assert_nothing_lost(place: &Place) {
    let verified = place.verify().ok();
    assert!(
        verified.of_type("finding").is_empty(),
        "{}",
        verified.text()
    );
    assert_restores(place);
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().starts_with(".tmp")
}

#[test]
fn a_disk_that_is_full_at_any_write_is_one_clear_error_and_loses_nothing() {
    let place = Place::empty();
    let Some(small) = Small::mount(&place.repo(), "24m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let _ = Run::of(&mut place.snapshot(["init"])).ok();
    place.write("first", noise(1, 2 << 20));
    let _ = place.save().ok();
    let filler = place.repo().join("filler");
    let (mut failed, mut saved) = (0, 0);
    // A page of the file system at a time through all small objects.
    for pages in [
        0u64, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48,
    ] {
        place.write("changing", noise(100 + pages, 30_000));
        let free = rustix::fs::statvfs(place.repo()).unwrap();
        let room = free.f_bavail * free.f_bsize;
        fs::write(
            &filler,
            vec![1; usize::try_from(room - pages * 4096).unwrap()],
        )
        .unwrap();
        let run = place.save();
        let what = format!("{pages} pages left\n{}\n{}", run.text(), run.err);
        match run.code {
            1 => {
                failed += 1;
                let is_clear = run.err.contains("No space left") && run.err.contains("make room");
                assert!(is_clear, "{what}");
            }
            // It was committed, and there was no room to say so in the ledger.
            3 => assert!(!run.of_type("finding").is_empty(), "{what}"),
            code => {
                assert_eq!(code, 0, "{what}");
                saved += 1;
            }
        }
        let left: Vec<_> = place
            .objects("")
            .into_iter()
            .filter(|path| is_temporary(path))
            .collect();
        assert!(left.is_empty(), "{what}: {left:?}");
        fs::remove_file(&filler).unwrap();
        let verified = place.verify();
        assert_eq!(verified.code, 0, "{what}\n{}", verified.text());
    }
    assert!(failed > 3 && saved > 0, "{failed} failed, {saved} saved");
    let _ = place.save().ok();
    assert_nothing_lost(&place);
    drop(small);
}

#[test]
fn saves_at_once_that_share_a_cache_all_succeed_and_are_all_recorded() {
    let place = Place::new();
    for number in 0..100u64 {
        place.write(format!("{number}"), noise(number, 20_000));
    }
    for round in 0..3u64 {
        place.write("changing", noise(500 + round, 2 << 20));
        let children: Vec<Child> = (0..4)
            .map(|_| {
                let mut save = place.snapshot(["save", "--json"]);
                start(save.arg(place.data()))
            })
            .collect();
        for child in children {
            let _ = Run::from(child.wait_with_output().unwrap()).ok();
        }
    }
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    assert_nothing_lost(&place);
}
