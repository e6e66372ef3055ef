//! Trying a place before a repository is trusted to it.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use backup_tests::{Place, Run};
use rustix::process::{Pid, Signal, kill_process};

use crate::trouble::{Small, noise};

/// What lies in the folder of the repository.
fn names(place: &Place) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(place.repo())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_in_use_passes_and_is_as_it_was() {
    let place = Place::new();
    place.write("file", noise(1, 100_000));
    let _ = place.save().ok();
    let (before, objects) = (names(&place), place.objects(""));
    let run = Run::of(&mut place.snapshot(["check-tier", "--speed", "2M", "--json"])).ok();
    let cases = run.of_type("case");
    assert!(cases.len() >= 29, "{}", cases.len());
    assert!(cases.iter().all(|case| case["result"] != "failed"));
    let tier = run.of_type("tier").remove(0);
    let count = |member: &str| usize::try_from(tier[member].as_u64().unwrap()).unwrap();
    assert_eq!(count("failed"), 0);
    // A folder cannot replace a version, and says so.
    assert!(count("not_supported") > 0 && count("passed") > 20, "{tier}");
    assert_eq!(
        cases.len(),
        count("passed") + count("not_supported"),
        "{tier}"
    );
    assert!(tier["speed"]["put_bytes_per_second"].as_f64().unwrap() > 1000.0);
    assert!(tier["speed"]["get_seconds"]["median"].as_f64().unwrap() > 0.0);
    assert_eq!((names(&place), place.objects("")), (before, objects));
    let _ = place.verify().ok();
    // No key is needed, and the place may be named instead of a repository.
    let mut named = place.snapshot(["check-tier", "--speed", "0"]);
    let told = Run::of(named.arg(place.repo()).env_remove("BACKSTAY_KEY_FILE")).ok();
    assert!(told.text().contains("0 failed"), "{}", told.text());
    assert!(!told.text().contains("large objects"), "{}", told.text());
}

#[test]
fn a_place_that_is_not_there_or_may_not_be_written_to_is_an_error() {
    let place = Place::empty();
    let gone = Run::of(&mut place.snapshot(["check-tier"]));
    assert_eq!(gone.code, 1, "{gone:?}");
    assert!(gone.err.contains("repo"), "{}", gone.err);
    // There need not be a repository: no command that is about one helps.
    assert!(gone.err.contains("→ make that folder"), "{}", gone.err);
    let proc = Run::of(&mut place.snapshot(["check-tier", "/proc"])).ends(1);
    let _ = proc.says("no file can be made there");
    assert!(!place.repo().exists());
    let nowhere = Run::of(&mut place.snapshot(["check-tier", "nowhere://x"]));
    assert_eq!(nowhere.code, 2, "{nowhere:?}");
}

#[test]
fn a_place_that_fails_what_is_needed_is_told_with_the_cases() {
    let place = Place::empty();
    let Some(small) = Small::mount(&place.repo(), "8m") else {
        eprintln!("skipped: a file system cannot be mounted here");
        return;
    };
    let run = Run::of(&mut place.snapshot(["check-tier", "--json"])).ends(3);
    let failed: Vec<_> = run
        .of_type("case")
        .into_iter()
        .filter(|case| case["result"] == "failed")
        .collect();
    let large = failed
        .iter()
        .find(|case| case["name"] == "a_large_object_is_whole");
    let why = large.unwrap()["detail"].as_str().unwrap();
    assert!(why.contains("No space left"), "{why}");
    assert!(run.of_type("tier")[0]["speed"].is_null());
    let findings = run.of_type("finding");
    assert!(
        findings
            .iter()
            .any(|finding| finding["detail"].as_str().unwrap().contains("speed")),
        "{findings:?}"
    );
    assert_eq!(names(&place), [] as [String; 0], "nothing is left behind");
    drop(small);
}

#[test]
fn a_check_that_is_interrupted_takes_its_folder_away() {
    let place = Place::new();
    let before = names(&place);
    let mut check = place.snapshot(["check-tier", "--speed", "0"]);
    let mut child = check
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    while names(&place) == before && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = Pid::from_child(&child);
    let is_running = child.try_wait().unwrap().is_none();
    assert!(is_running, "it was over before it could be interrupted");
    kill_process(pid, Signal::TERM).unwrap();
    let run = Run::from(child.wait_with_output().unwrap()).ends(130);
    assert!(run.err.contains("interrupted"), "{}", run.err);
    assert_eq!(names(&place), before);
}
