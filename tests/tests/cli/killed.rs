//! Real processes that are killed: at each call that makes a name or forces bytes to the disk, and at
//! any time. Whatever was committed restores bit for bit, and the next run succeeds.
//!
//! `BACKSTAY_KILLS` says how many processes are killed at any time, `BACKSTAY_POINTS=all` has every call
//! tried and not a few of each kind.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backup_tests::{Node, Place, Run, read_tree};

use crate::faults::can_trace;
use crate::repair::harm_all_kinds;
use crate::trouble::noise;

type Tree = BTreeMap<PathBuf, Node>;

/// What there must be: the snapshots with what they hold, and those of which it is not known
/// whether they are there.
#[derive(Default)]
struct Known {
    whole: BTreeMap<String, Tree>,
    /// Being forgotten when the process was killed.
    unsure: Vec<String>,
}

fn ids(place: &Place) -> Vec<String> {
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    let lines = listed.of_type("snapshot");
    let id = |line: &serde_json::Value| line["id"].as_str().unwrap().to_owned();
    lines.iter().map(id).collect()
}

fn restored(place: &Place, id: &str) -> Tree {
    let out = place.path("back");
    let _ = fs::remove_dir_all(&out);
    let wanted = format!("{id}:{}", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "back"])).ok();
    read_tree(&out).unwrap()
}

impl Known {
    /// Looks at everything behind a process that was killed. `now` is what a save would have stored.
    fn check(&mut self, place: &Place, now: &Tree, what: &str) {
        let there = ids(place);
        for id in std::mem::take(&mut self.unsure) {
            if !there.contains(&id) {
                self.whole.remove(&id);
            }
        }
        for id in self.whole.keys() {
            assert!(there.contains(id), "{what}: {id} is lost");
        }
        for id in &there {
            self.whole.entry(id.clone()).or_insert_with(|| now.clone());
            let back = restored(place, id);
            assert!(back == self.whole[id], "{what}: {id} is not itself");
        }
    }
}

/// The commands that change something. One that is new gets a line here.
fn commands(place: &Place, known: &Known) -> Vec<(&'static str, Command)> {
    let oldest = known.whole.keys().next().cloned().unwrap_or_default();
    let mut save = place.snapshot(["save", "--json"]);
    save.arg(place.data());
    let prune = [
        "prune",
        "--force",
        "--wait",
        "0",
        "--revoke-after",
        "0",
        "--max-unused",
        "0",
        "--json",
    ];
    vec![
        ("save", save),
        (
            "forget",
            place.snapshot(["forget", &oldest, "--force", "--json"]),
        ),
        ("prune", place.snapshot(prune)),
        ("hold", place.snapshot(["hold", &oldest, "--json"])),
        ("release", place.snapshot(["release", &oldest, "--json"])),
    ]
}

/// A place with two snapshots, one that was forgotten, and files that have changed.
fn start() -> (Place, Known) {
    let place = Place::new();
    let mut known = Known::default();
    for round in 0..3u64 {
        place.write("same", noise(1, 300_000));
        for file in 0..6 {
            place.write(format!("{file}"), noise(10 * round + file, 30_000));
        }
        place.wait_for_a_tick();
        let saved = place.save().ok().of_type("saved").remove(0);
        let id = saved["id"].as_str().unwrap().to_owned();
        known.whole.insert(id, read_tree(&place.data()).unwrap());
    }
    let oldest = known.whole.keys().next().unwrap().clone();
    let _ = Run::of(&mut place.snapshot(["forget", &oldest])).ok();
    known.whole.remove(&oldest);
    place.write("new", noise(99, 200_000));
    place.wait_for_a_tick();
    (place, known)
}

/// What a command changes; the files that are saved stay as they are.
const FOLDERS: [&str; 4] = ["repo", "cache", "state", "other"];

/// Copies the repository and what is remembered of it, from one place of the folders to another.
fn copy(from: &Path, to: &Path) {
    for folder in FOLDERS {
        let _ = fs::remove_dir_all(to.join(folder));
        if !from.join(folder).exists() {
            continue;
        }
        let copied = Command::new("cp")
            .args(["-a", "-T"])
            .arg(from.join(folder))
            .arg(to.join(folder))
            .status();
        assert!(copied.unwrap().success());
    }
}

/// A command under the tracer, with what is told to it.
fn traced(command: &Command, options: &[&str]) -> Command {
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq"]).args(options);
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
    traced
}

/// How often a command makes a call.
fn count(command: &Command, call: &str, log: &Path) -> usize {
    let trace = format!("--trace={call}");
    let run = Run::of(&mut traced(command, &["-o", log.to_str().unwrap(), &trace]));
    assert!([0, 3].contains(&run.code), "{run:?}");
    let log = fs::read_to_string(log).unwrap();
    // A call that is interrupted by another thread has two lines.
    log.lines()
        .filter(|line| line.contains(&format!("{call}(")))
        .count()
}

/// Calls that make or take a name, or force bytes to the disk.
const CALLS: [&str; 6] = [
    "linkat",
    "rename",
    "renameat2",
    "unlinkat",
    "fsync",
    "fdatasync",
];

#[allow(
    clippy::disallowed_methods,
    reason = "a test that is told how long to run"
)]
fn told(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The points that are tried of so many: the first, the last, and some between.
fn points(count: usize) -> Vec<usize> {
    if told("BACKSTAY_POINTS").is_some_and(|value| value == "all") || count <= 2 {
        return (1..=count).collect();
    }
    let mut points = vec![1, count / 2 + 1, count];
    points.dedup();
    points
}

/// Kills a command at each call that makes or takes a name, or forces bytes to the disk; before each, the place is what
/// it was. `check` looks at what is left behind each kill. Returns how many there were.
fn kill_at_calls(
    place: &Place,
    name: &str,
    command: impl Fn(&Place) -> Command,
    mut check: impl FnMut(&str),
) -> usize {
    let kept = tempfile::tempdir().unwrap();
    copy(&place.path(""), kept.path());
    let mut tried = 0;
    for call in CALLS {
        copy(kept.path(), &place.path(""));
        let all = count(&command(place), call, &place.path("log"));
        for point in points(all) {
            let what = format!("{name} killed at {call} {point} of {all}");
            copy(kept.path(), &place.path(""));
            let inject = format!("--inject={call}:signal=KILL:when={point}");
            let trace = format!("--trace={call}");
            let options = ["-o", "/dev/null", &trace, &inject];
            let run = Run::of(&mut traced(&command(place), &options));
            if run.code != -1 {
                // How calls fall to threads can differ: it was over before.
                assert!([0, 3].contains(&run.code), "{what}: {run:?}");
                continue;
            }
            tried += 1;
            check(&what);
        }
    }
    copy(kept.path(), &place.path(""));
    tried
}

#[test]
fn killed_at_any_call_that_names_or_syncs_nothing_is_lost() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let (place, ground) = start();
    let now = read_tree(&place.data()).unwrap();
    let mut tried = 0;
    for (number, (name, _)) in commands(&place, &ground).into_iter().enumerate() {
        let command = |place: &Place| commands(place, &ground).swap_remove(number).1;
        tried += kill_at_calls(&place, name, command, |what| {
            let mut known = Known {
                whole: ground.whole.clone(),
                unsure: Vec::new(),
            };
            if name == "forget" {
                known.unsure.extend(known.whole.keys().next().cloned());
            }
            is_mended(&place, &mut known, &now, what);
        });
    }
    println!("{tried} points");
    assert!(tried >= 12, "{tried} points");
}

/// Something of each kind is harmed: a repair that is killed makes nothing of it worse, and the next one mends all.
#[test]
fn a_repair_that_is_killed_at_any_call_is_ended_by_the_next() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let (place, ground) = start();
    let now = read_tree(&place.data()).unwrap();
    harm_all_kinds(&place);
    let repair = |place: &Place| place.snapshot(["repair", "--json"]);
    let tried = kill_at_calls(&place, "repair", repair, |what| {
        let run = Run::of(&mut repair(&place));
        assert_eq!(run.code, 0, "{what}\n{}\n{}", run.text(), run.err);
        let verified = place.verify();
        assert_eq!(verified.code, 0, "{what}\n{}", verified.text());
        let mut known = Known {
            whole: ground.whole.clone(),
            unsure: Vec::new(),
        };
        is_mended(&place, &mut known, &now, what);
    });
    println!("{tried} points");
    assert!(tried >= 3, "{tried} points");
}

/// A copy to another place: of what was there before nothing is lost at either, and the next one brings the rest.
#[test]
fn a_copy_that_is_killed_at_any_call_is_ended_by_the_next() {
    if !can_trace() {
        eprintln!("skipped: system calls cannot be traced here");
        return;
    }
    let (place, ground) = start();
    let now = read_tree(&place.data()).unwrap();
    let oldest = ground.whole.keys().next().unwrap().clone();
    let other = |mut command: Command| {
        command.env("BACKSTAY_REPO", place.path("other"));
        command
    };
    let copying = |place: &Place| place.snapshot(["copy", "--to", "other", "--json"]);
    let _ = Run::of(copying(&place).arg(&oldest)).ok();
    let tried = kill_at_calls(&place, "copy", copying, |what| {
        let run = Run::of(&mut copying(&place));
        assert_eq!(run.code, 0, "{what}\n{}\n{}", run.text(), run.err);
        for id in ground.whole.keys() {
            let _ = fs::remove_dir_all(place.path("back"));
            let wanted = format!("{id}:{}", place.data().display());
            let run = ["run", &wanted, "--to", "back"];
            let _ = Run::of(&mut other(place.restore(run))).ok();
            let back = read_tree(&place.path("back")).unwrap();
            assert!(back == ground.whole[id], "{what}: {id} is not itself");
        }
        let verify = ["verify", "--level", "full"];
        let verified = Run::of(&mut other(place.snapshot(verify)));
        assert!([0, 3].contains(&verified.code), "{what}\n{}", verified.err);
        let mut known = Known {
            whole: ground.whole.clone(),
            unsure: Vec::new(),
        };
        known.check(&place, &now, what);
    });
    println!("{tried} points");
    assert!(tried >= 3, "{tried} points");
}

/// Behind a kill all is there, the next save succeeds, a prune gives back, and all is there.
fn is_mended(place: &Place, known: &mut Known, now: &Tree, what: &str) {
    known.check(place, now, what);
    let saved = place.save();
    assert_eq!(saved.code, 0, "{what}\n{}\n{}", saved.text(), saved.err);
    let (_, mut prune) = commands(place, known).swap_remove(2);
    let pruned = Run::of(&mut prune);
    assert_eq!(pruned.code, 0, "{what}\n{}\n{}", pruned.text(), pruned.err);
    known.check(place, now, what);
    is_whole(place, what);
}

/// Nothing is damaged. That a sidecar is missing, whose object was named when its writer was killed or was about to
/// go, is a finding.
pub(crate) fn is_whole(place: &Place, what: &str) {
    let verified = place.verify();
    let (text, err) = (verified.text(), &verified.err);
    assert!([0, 3].contains(&verified.code), "{what}\n{text}\n{err}");
}

#[test]
fn killed_at_any_time_nothing_is_lost() {
    let kills = told("BACKSTAY_KILLS").and_then(|value| value.parse().ok());
    let kills: u64 = kills.unwrap_or(12);
    let mut state = backup_testkit::seed();
    println!("{kills} kills, BACKSTAY_SEED={state}");
    let mut below = |sides: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % sides
    };
    let (place, mut known) = start();
    let (mut killed, mut spans) = (0, BTreeMap::new());
    let begun = Instant::now();
    for round in 0..kills {
        let file = below(8);
        place.write(
            format!("{file}"),
            noise(1000 + round, 20_000 + 1000 * file as usize),
        );
        place.wait_for_a_tick();
        let now = read_tree(&place.data()).unwrap();
        let mut choice = commands(&place, &known);
        // A restore hurts nothing either; and enough has to be saved to be forgotten.
        choice.push((
            "restore",
            place.restore(["run", "latest", "--to", "killed"]),
        ));
        let number = match below(10) {
            0..4 => 0,
            4 if known.whole.len() > 3 => 1,
            5..8 => 2,
            other => [3, 4, 5][other as usize % 3],
        };
        let (name, mut command) = choice.swap_remove(number);
        let span: &mut Duration = spans.entry(name).or_insert(Duration::from_millis(150));
        let nap = Duration::from_micros(below(1 + span.as_micros() as u64 * 11 / 10));
        let what = format!("round {round}: {name}, killed after {nap:?}");
        let started = Instant::now();
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(nap);
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            killed += 1;
        } else {
            *span = started.elapsed();
        }
        let _ = child.wait().unwrap();
        if name == "forget" {
            known.unsure.extend(known.whole.keys().next().cloned());
        }
        known.check(&place, &now, &what);
    }
    let now = read_tree(&place.data()).unwrap();
    is_mended(&place, &mut known, &now, "at the end");
    let ledger = Run::of(&mut place.snapshot(["ledger", "verify"]));
    assert_eq!(ledger.code, 0, "{}", ledger.err);
    println!("{killed} were killed in {:?}", begun.elapsed());
    assert!(killed > 0);
}
