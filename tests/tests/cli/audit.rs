//! The audit trail: that everything which reads or changes data leaves a record, how it is read, and that
//! what somebody did to it shows. And that a host whose clock lies pushes out no snapshot of others.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::{Place, Run};
use serde_json::Value;

use crate::together::LIBRARY;

/// The records, by the command that lists them.
fn listed(place: &Place, args: &[&str]) -> Vec<Value> {
    let mut list = place.snapshot(["ledger", "list", "--json"]);
    Run::of(list.args(args)).ok().of_type("ledger-record")
}

#[test]
fn everything_that_reads_or_changes_data_leaves_a_record() {
    let place = Place::new();
    for content in ["one", "two"] {
        place.write("the-file", content);
        let _ = place.save().ok();
    }
    let file = format!("latest:{}", place.data().join("the-file").display());
    let first = listed(&place, &["--op", "snapshot"])[0]["snapshot"].clone();
    let first = first.as_str().unwrap();
    fs::write(place.path("words"), "correct horse\n").unwrap();
    let before = listed(&place, &[]).len();
    let snapshot = |args: &[&str]| Run::of(&mut place.snapshot(args)).ok();
    let restore = |args: &[&str]| Run::of(&mut place.restore(args)).ok();
    restore(&["ls", "latest"]);
    restore(&["find", "the-*"]);
    restore(&["cat", &file]);
    restore(&["run", "latest", "--to", "out", "--dry-run"]);
    restore(&["run", "latest", "--to", "out"]);
    restore(&["diff", first, "latest"]);
    restore(&["sums", "latest"]);
    restore(&["prove", &file, "-o", "proof"]);
    snapshot(&["show", "latest"]);
    snapshot(&["analyze", "latest"]);
    snapshot(&["verify"]);
    snapshot(&["hold", "latest", "--reason", "audit"]);
    snapshot(&["release", "latest"]);
    snapshot(&["key", "add", "--new-key-file", "second"]);
    snapshot(&["key", "sheet", "--recovery-sheet", "further"]);
    snapshot(&["forget", first]);
    snapshot(&["prune"]);
    let records = listed(&place, &[]);
    let ops: Vec<&str> = records[before..]
        .iter()
        .map(|one| one["op"].as_str().unwrap())
        .collect();
    let wanted = [
        "ls", "find", "restore", "dry-run", "restore", "diff", "sums", "prove", "show", "analyze",
        "verify", "hold", "release", "key", "key", "forget", "prune",
    ];
    assert_eq!(ops, wanted);
    for record in &records {
        assert_eq!(record["outcome"], "ok", "{record}");
        assert_eq!(record["genuine"], true, "{record}");
        let user = record["user"].as_str().unwrap();
        assert!(user.contains("(uid "), "{record}");
        assert!(!record["host"].as_str().unwrap().is_empty(), "{record}");
        assert!(
            !record.to_string().contains("the-file"),
            "no path: {record}"
        );
    }
    let of = |op: &str| {
        records[before..]
            .iter()
            .find(|one| one["op"] == op)
            .unwrap()
    };
    // The file and the folders above it.
    assert!(of("ls")["counts"]["entries"].as_u64().unwrap() >= 1);
    assert_eq!(of("find")["counts"]["snapshots"], 2);
    for op in ["ls", "restore", "diff", "sums", "prove", "show"] {
        assert!(
            of(op)["snapshot"].is_string() && of(op)["root"].is_string(),
            "{op}"
        );
    }
    assert_eq!(of("verify")["counts"]["findings"], 0);
    assert!(of("verify")["note"].as_str().unwrap().contains("metadata"));
    // What only asks for what is known of snapshots leaves none.
    let count = place.objects("ledger").len();
    snapshot(&["list"]);
    snapshot(&["stats"]);
    snapshot(&["key", "list"]);
    snapshot(&["ledger", "list"]);
    snapshot(&["ledger", "verify"]);
    restore(&["list"]);
    assert_eq!(place.objects("ledger").len(), count);
}

#[test]
fn records_are_chosen_by_time_operation_host_and_snapshot() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    let _ = Run::of(&mut place.restore(["ls", "latest"])).ok();
    let count = |args: &[&str]| listed(&place, args).len();
    assert_eq!(count(&[]), 3);
    assert_eq!(count(&["--op", "ls"]), 1);
    assert_eq!(count(&["--op", "ls", "--op", "init"]), 2);
    assert_eq!(count(&["--host", "nobody"]), 0);
    assert_eq!(count(&["--since", "1h"]), 3);
    assert_eq!(count(&["--since", "2020-01-01"]), 3);
    assert_eq!(count(&["--since", "2199-01-01"]), 0);
    let id = listed(&place, &["--op", "snapshot"])[0]["snapshot"].clone();
    let id = id.as_str().unwrap();
    assert_eq!(count(&["--snapshot", &id[id.len() - 8..]]), 2);
    let wrong = ["ledger", "list", "--since", "yesterday"];
    let _ = Run::of(&mut place.snapshot(wrong)).ends(2).says("span");
    let text = Run::of(&mut place.snapshot(["ledger", "list"])).ok().text();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.contains("  ls  ") && text.contains("(uid "), "{text}");
    // What cannot be read is said, and the others are shown.
    let record = place.objects("ledger").remove(1);
    fs::set_permissions(&record, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&record, "no record").unwrap();
    let run = Run::of(&mut place.snapshot(["ledger", "list", "--json"])).ends(13);
    assert_eq!(run.of_type("ledger-record").len(), 2);
    assert!(run.err.contains("record 2 cannot be read"), "{}", run.err);
}

#[test]
fn what_ends_badly_is_recorded_as_that() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    let gone = format!("latest:{}", place.data().join("nothing").display());
    let _ = Run::of(&mut place.restore(["ls", &gone])).ends(1);
    let pack = place.largest_pack();
    fs::remove_file(pack).unwrap();
    let _ = Run::of(&mut place.snapshot(["verify"])).ends(13);
    let outcomes: Vec<_> = listed(&place, &[])[2..]
        .iter()
        .map(|record| (record["op"].clone(), record["outcome"].clone()))
        .collect();
    assert_eq!(outcomes[0], ("ls".into(), "failed".into()));
    assert_eq!(outcomes[1], ("verify".into(), "findings".into()));
}

#[test]
fn a_tier_that_takes_no_records_and_a_key_that_signs_none_hinder_nobody() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let count = place.objects("ledger").len();
    let looks: [&[&str]; 4] = [
        &["ls", "latest"],
        &["find", "a"],
        &["sums", "latest"],
        &["diff", "latest", "latest"],
    ];
    for args in looks {
        let mut look = place.restore(args);
        let run = Run::of(look.args(["--key-file", "reader"])).ok();
        assert!(
            run.err.contains("is not in it: this key is a reader key"),
            "{}",
            run.err
        );
    }
    // The records cannot be written, whoever runs this: a file stands where their folder was.
    fs::rename(place.repo().join("ledger"), place.path("ledger")).unwrap();
    fs::write(place.repo().join("ledger"), "").unwrap();
    for args in looks {
        let run = Run::of(&mut place.restore(args)).ok();
        assert!(run.err.contains("warning: the ledger: this"), "{}", run.err);
    }
    let _ = Run::of(&mut place.snapshot(["show", "latest"])).ok();
    fs::remove_file(place.repo().join("ledger")).unwrap();
    fs::rename(place.path("ledger"), place.repo().join("ledger")).unwrap();
    assert_eq!(place.objects("ledger").len(), count);
}

/// The errors of a check: subject and detail.
fn errors(place: &Place, state: &str) -> Vec<(String, String)> {
    let mut check = place.snapshot(["ledger", "verify", "--json", "--state-dir", state]);
    let run = Run::of(&mut check).ends(13);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let found = run.of_type("finding").into_iter();
    found
        .filter(|line| line["severity"] == "error")
        .map(|line| (text(&line["subject"]), text(&line["detail"])))
        .collect()
}

fn writable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn exchange(one: &Path, two: &Path) {
    writable(one);
    writable(two);
    let (first, second) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    fs::write(one, second).unwrap();
    fs::write(two, first).unwrap();
}

/// Records in the ledger to which something is done.
const COUNT: usize = 7;

/// What is done to the ledger; which records the check names; whether somebody sees it who never saw the
/// ledger before.
type Deed = (&'static str, fn(&[PathBuf]), &'static [u64], bool);

const DEEDS: [Deed; 9] = [
    (
        "the first is dropped",
        |all| fs::remove_file(&all[0]).unwrap(),
        &[1],
        true,
    ),
    (
        "one in the middle is dropped",
        |all| fs::remove_file(&all[3]).unwrap(),
        &[4],
        true,
    ),
    (
        "several are dropped",
        |all| {
            all[2..5]
                .iter()
                .for_each(|one| fs::remove_file(one).unwrap())
        },
        &[3],
        true,
    ),
    // That the last is gone only a copy can tell.
    (
        "the last is dropped",
        |all| fs::remove_file(&all[COUNT - 1]).unwrap(),
        &[],
        false,
    ),
    (
        "the end is cut off",
        |all| {
            all[3..]
                .iter()
                .for_each(|one| fs::remove_file(one).unwrap())
        },
        &[],
        false,
    ),
    (
        "two are exchanged",
        |all| exchange(&all[2], &all[3]),
        &[3],
        true,
    ),
    (
        "one is there twice",
        |all| {
            writable(&all[4]);
            fs::copy(&all[3], &all[4]).map(drop).unwrap();
        },
        &[5],
        true,
    ),
    (
        "one is edited",
        |all| {
            writable(&all[3]);
            let mut bytes = fs::read(&all[3]).unwrap();
            bytes[60] ^= 1;
            fs::write(&all[3], bytes).unwrap();
        },
        &[4],
        true,
    ),
    (
        "one is cut short",
        |all| {
            writable(&all[3]);
            let bytes = fs::read(&all[3]).unwrap();
            fs::write(&all[3], &bytes[..bytes.len() - 9]).unwrap();
        },
        &[4],
        true,
    ),
];

#[test]
fn whatever_is_done_to_the_ledger_is_found_and_named_with_a_remedy() {
    let place = Place::new();
    while place.objects("ledger").len() < COUNT {
        let _ = place.pipe("x", b"x").ok();
    }
    let objects = place.objects("ledger");
    let kept: Vec<Vec<u8>> = objects.iter().map(|one| fs::read(one).unwrap()).collect();
    for (what, deed, numbers, seen_by_all) in DEEDS {
        deed(&objects);
        // The host that has a copy.
        let found = errors(&place, "state");
        names(what, &found, numbers);
        let told = |(_, detail): &(String, String)| detail.contains("put the objects back");
        assert!(seen_by_all || found.iter().any(told), "{what}: {found:?}");
        // Somebody who has none.
        if seen_by_all {
            names(what, &errors(&place, "fresh"), numbers);
        } else {
            let mut check = place.snapshot(["ledger", "verify", "-v", "--state-dir", "fresh"]);
            let noted = "the ledger does not know this snapshot";
            let _ = Run::of(&mut check).ok().says(noted);
        }
        let _ = fs::remove_dir_all(place.path("fresh"));
        for (path, bytes) in objects.iter().zip(&kept) {
            let _ = fs::remove_file(path);
            fs::write(path, bytes).unwrap();
        }
        let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    }
}

/// Sees that findings name these records, each with what to do.
fn names(what: &str, found: &[(String, String)], numbers: &[u64]) {
    for number in numbers {
        let named =
            |(subject, _): &&(String, String)| *subject == format!("ledger record {number}");
        let Some((_, detail)) = found.iter().find(named) else {
            panic!("{what}: {found:?}");
        };
        let remedy = format!("put ledger/{number:012} back");
        assert!(detail.contains(&remedy), "{what}: {detail}");
    }
}

#[test]
fn a_snapshot_with_another_root_than_its_record_is_named() {
    let place = Place::new();
    for content in [b"1", b"2"] {
        let _ = place.pipe("x", content).ok();
    }
    // The same key makes another snapshot of the same id elsewhere: no, it cannot; so one that the
    // ledger knows is put in the place of another, and then taken away.
    let snaps = place.objects("snap");
    let bytes = fs::read(&snaps[0]).unwrap();
    writable(&snaps[1]);
    fs::write(&snaps[1], bytes).unwrap();
    place.lose_sidecars("snap");
    fs::remove_dir_all(place.path("cache")).unwrap();
    let found = errors(&place, "state");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].0.starts_with("snap/"), "{found:?}");
    fs::remove_file(&snaps[1]).unwrap();
    let found = errors(&place, "state");
    assert!(found[0].1.contains("puts its object back"), "{found:?}");
}

/// Whether the library that lies about the time is there; `./test.sh` installs it.
fn has_faketime() -> bool {
    let year = Command::new("date")
        .arg("+%Y")
        .env("LD_PRELOAD", LIBRARY)
        .env("FAKETIME", "@1999-03-01 08:00:00")
        .output();
    year.is_ok_and(|year| year.stdout.starts_with(b"19"))
}

/// `snapshot` at another time than now. Without the program `faketime`: killed, it leaves what is in the way of a later
/// process of the same number.
fn at(place: &Place, time: &str, args: &[&str]) -> Run {
    let mut command = place.snapshot(args);
    command
        .env("LD_PRELOAD", LIBRARY)
        .env("FAKETIME", time)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    Run::of(&mut command)
}

/// A repository, `web1` that saves into it, and `trusted` that forgets for all.
fn with_two_hosts() -> Place {
    let place = Place::new();
    for (role, host) in [("writer", "web1"), ("maintenance", "trusted")] {
        let add = [
            "key",
            "add",
            "--new-key-file",
            role,
            "--role",
            role,
            "--host",
            host,
        ];
        let _ = at(&place, "@2026-03-01 08:00:00", &add).ok();
    }
    place
}

/// What `web1` saves at a time of its clock; the id.
fn save_at(place: &Place, time: &str) -> String {
    place.write("a", time);
    let data = place.data().display().to_string();
    let args = [
        "save",
        &data,
        "--json",
        "--key-file",
        "writer",
        "--host",
        "web1",
    ];
    let run = at(place, time, &args).ok();
    run.of_type("saved")[0]["id"].as_str().unwrap().to_owned()
}

/// What `trusted` forgets, by its own clock, which is right.
fn forget_at(place: &Place, time: &str, keep_daily: &str) -> Run {
    let what = ["forget", "--json", "--keep-daily", keep_daily];
    let who = ["--key-file", "maintenance", "--state-dir", "trusted"];
    at(
        place,
        time,
        &[&what[..], &who, &["--cache-dir", "cache-of-trusted"]].concat(),
    )
    .ok()
}

#[test]
fn a_host_whose_clock_lies_pushes_out_no_good_snapshot() {
    if !has_faketime() {
        eprintln!("skipped: faketime is not installed");
        return;
    }
    let place = with_two_hosts();
    let mut good = Vec::new();
    for day in 1..=4 {
        good.push(save_at(&place, &format!("@2026-03-0{day} 12:00:00")));
        // In the evening there is nothing to be forgotten yet; that it was looked is recorded.
        let _ = forget_at(&place, &format!("@2026-03-0{day} 20:00:00"), "9");
    }
    let _ = forget_at(&place, "@2026-03-05 06:00:00", "9");
    // Broken into on the fifth: it dates snapshots back behind the good ones, and far ahead.
    let lies = [
        "2026-03-01 23",
        "2026-03-02 23",
        "2026-03-03 23",
        "2036-03-05 12",
        "2036-03-06 12",
    ];
    let bad = lies.map(|time| save_at(&place, &format!("@{time}:00:00")));
    let run = forget_at(&place, "@2026-03-05 20:00:00", "5");
    let decisions = run.of_type("decision");
    let of = |id: &String| {
        let mut all = decisions.iter();
        all.find(|line| line["id"] == id.as_str()).unwrap()
    };
    for id in &good {
        assert_eq!(of(id)["verdict"], "keep", "{}", run.text());
        assert_eq!(of(id)["counted_from"], of(id)["time"], "{}", run.text());
    }
    // What was made that day counts as made that day, whatever it claims.
    for id in &bad {
        let counted = of(id)["counted_from"].as_str().unwrap();
        assert!(counted.starts_with("2026-03-05T"), "{}", run.text());
    }
    let kept = decisions.iter().filter(|line| line["verdict"] == "keep");
    assert_eq!(kept.count(), place.objects("snap").len());
}

/// By a clock that is slow, all that was saved since would count as of one day.
#[test]
fn who_forgets_by_a_slow_clock_forgets_nothing() {
    if !has_faketime() {
        eprintln!("skipped: faketime is not installed");
        return;
    }
    let place = with_two_hosts();
    for day in 1..=7 {
        let _ = save_at(&place, &format!("@2026-03-0{day} 12:00:00"));
    }
    let forget = |time: &str, state: &str, more: &[&str]| {
        let what = ["forget", "--json", "--keep-daily", "7", "--dry-run"];
        let who = ["--key-file", "maintenance", "--state-dir", state];
        at(&place, time, &[&what[..], &who, more].concat())
    };
    let kept = |run: Run| {
        let decisions = run.of_type("decision");
        let kept = decisions.iter().filter(|line| line["verdict"] == "keep");
        kept.count()
    };
    // It has recorded nothing yet: five days would be one.
    let _ = forget("@2026-03-03 08:00:00", "new", &[])
        .ends(1)
        .says("timedatectl");
    assert_eq!(kept(forget("@2026-03-07 20:00:00", "new", &[]).ok()), 7);
    // It has recorded something at the right time, and lost its clock since.
    let _ = forget_at(&place, "@2026-03-07 20:00:00", "7");
    let _ = forget("@2025-01-01 08:00:00", "trusted", &[])
        .ends(1)
        .says("2026-03-07");
    let despite = forget("@2025-01-01 08:00:00", "trusted", &["--despite-clock"]);
    assert!(kept(despite.ok()) < 7);
    // One that is ahead on another host hinders nobody.
    let _ = save_at(&place, "@2046-03-08 12:00:00");
    assert_eq!(kept(forget("@2026-03-08 20:00:00", "trusted", &[]).ok()), 7);
}

/// The newest is the one with the latest time, and that is its host's word.
#[test]
fn a_newest_snapshot_that_is_dated_ahead_is_told() {
    if !has_faketime() {
        eprintln!("skipped: faketime is not installed");
        return;
    }
    let place = with_two_hosts();
    let _ = save_at(&place, "@2026-03-01 12:00:00");
    let list = ["ls", "latest"];
    assert_eq!(Run::of(&mut place.restore(list)).ok().err, "");
    let ahead = save_at(&place, "@2146-03-01 12:00:00");
    let _ = Run::of(&mut place.restore(list)).ok().says(&ahead);
    let _ = Run::of(&mut place.restore(["ls", &ahead])).ok();
}
