//! The ledger: what is recorded, and what its check says of what.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use backup_tests::{Place, Run};
use rustix::process::{Pid, Signal, kill_process};

/// A place with so many records: those of the repository and of snapshots.
fn with_records(count: usize) -> Place {
    let place = Place::new();
    while place.objects("ledger").len() < count {
        let _ = place.pipe("x", b"x").ok();
    }
    assert_eq!(place.objects("ledger").len(), count);
    place
}

/// The findings of a check, worst first: severity, subject, detail.
fn found(place: &Place, code: i32) -> Vec<(String, String, String)> {
    let run = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ends(code);
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    run.of_type("finding")
        .iter()
        .map(|line| {
            (
                text(&line["severity"]),
                text(&line["subject"]),
                text(&line["detail"]),
            )
        })
        .collect()
}

#[test]
fn a_record_that_is_gone_is_named_and_intact_ones_are_not_accused() {
    let place = with_records(10);
    fs::remove_file(&place.objects("ledger")[4]).unwrap();
    let only = |found: Vec<(String, String, String)>| match &found[..] {
        [(severity, subject, detail)] => {
            assert_eq!(severity, "error");
            (subject.clone(), detail.clone())
        }
        other => panic!("{other:?}"),
    };
    let (subject, detail) = only(found(&place, 13));
    assert_eq!(subject, "ledger record 5");
    assert!(
        detail.starts_with("record 5 is not there; put ledger/000000000005 back"),
        "{detail}"
    );
    // Without a copy that tells of it, the snapshot of the record is told apart from one whose run
    // was killed.
    fs::remove_dir_all(place.path("state")).unwrap();
    let without = found(&place, 13);
    assert_eq!(without.len(), 2, "{without:?}");
    assert_eq!(without[0].1, "ledger record 5");
    let note = &without[1];
    assert_eq!(note.0, "note");
    assert!(note.2.contains("missing or damaged"), "{note:?}");
}

#[test]
fn the_copy_tells_of_an_end_that_was_cut_off() {
    let place = with_records(6);
    for path in &place.objects("ledger")[4..] {
        fs::remove_file(path).unwrap();
    }
    let found = found(&place, 13);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains("records 5 to 6"), "{found:?}");
}

#[test]
fn a_record_that_does_not_open_is_one_finding_and_the_first_that_is_shown() {
    let place = with_records(25);
    let victim = place.objects("ledger").remove(3);
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&victim, b"something else").unwrap();
    let whole = found(&place, 13);
    assert_eq!(whole.len(), 1, "{whole:?}");
    assert_eq!(whole[0].1, "ledger record 4");
    assert!(whole[0].2.contains("ledger/000000000004"), "{whole:?}");
    fs::remove_dir_all(place.path("state")).unwrap();
    let shown = Run::of(&mut place.snapshot(["ledger", "verify", "-v"])).ends(13);
    let first = shown.err.lines().next().unwrap_or_default();
    assert!(first.contains("ledger record 4"), "{}", shown.err);
}

/// The records, from the copy of them that whoever wrote the last one keeps.
fn records_in(place: &Place, state: &str) -> Vec<serde_json::Value> {
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let folders = fs::read_dir(place.path(state)).unwrap();
    let copies = folders.map(|folder| folder.unwrap().path().join("ledger.jsonl"));
    let copy = copies.into_iter().find(|copy| copy.exists()).unwrap();
    let parse = |line: &str| serde_json::from_str(line).unwrap();
    fs::read_to_string(copy)
        .unwrap()
        .lines()
        .map(parse)
        .collect()
}

fn restores(place: &Place) -> Vec<serde_json::Value> {
    let mut records = records_in(place, "state");
    records.retain(|record| record["op"] == "restore");
    records
}

fn key(place: &Place, role: &str) {
    let add = ["key", "add", "--new-key-file", role, "--role", role];
    let _ = Run::of(&mut place.snapshot(add)).ok();
}

#[test]
fn an_interrupted_restore_is_recorded_as_far_as_it_came() {
    let place = Place::new();
    for number in 0..3000 {
        place.write(format!("{number}"), format!("{number}"));
    }
    let _ = place.save().ok();
    let wanted = format!("latest:{}", place.data().display());
    let mut restore = place.restore(["run", &wanted, "--to", "out"]);
    let child = restore
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It has begun when the first of its files are there.
    while fs::read_dir(place.path("out")).map_or(0, Iterator::count) < 20 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let ended = Run::from(child.wait_with_output().unwrap());
    let restores = restores(&place);
    assert_eq!(restores.len(), 1);
    let record = &restores[0];
    let entries = record["counts"]["entries"].as_u64().unwrap();
    assert!(entries >= 20, "{record}");
    // A fast machine may have been done before it heard of it.
    let expected = if ended.code == 0 { "ok" } else { "cancelled" };
    assert_eq!(record["outcome"], expected, "{ended:?}");
}

#[test]
fn a_restore_that_fails_on_damage_is_recorded() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    for pack in place.objects("meta") {
        fs::remove_file(pack).unwrap();
    }
    // The manifest is gone, and not to be had from the cache.
    fs::remove_dir_all(place.path("cache")).unwrap();
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ends(13);
    let restores = restores(&place);
    assert_eq!(restores.len(), 1);
    assert_eq!(restores[0]["outcome"], "failed");
}

#[test]
fn content_that_is_shown_is_recorded_and_names_are_not() {
    let place = Place::new();
    place.write("secret-name", "content");
    let _ = place.save().ok();
    let file = format!("latest:{}", place.data().join("secret-name").display());
    for looking in [&["ls", "latest"][..], &["sums", "latest"]] {
        let _ = Run::of(&mut place.restore(looking)).ok();
    }
    // They are records of their own, and of no restore.
    assert_eq!(restores(&place).len(), 0);
    let shown = Run::of(&mut place.restore(["cat", &file])).ok();
    assert_eq!(
        (shown.out.as_slice(), shown.err.as_str()),
        (&b"content"[..], "")
    );
    let restores = restores(&place);
    assert_eq!(restores.len(), 1);
    assert_eq!(restores[0]["outcome"], "ok");
    assert_eq!(restores[0]["counts"]["bytes"], 7);
    assert!(!restores[0].to_string().contains("secret-name"));
}

#[test]
fn a_reader_is_told_that_its_restore_is_not_in_the_ledger() {
    let place = Place::new();
    place.write("a", "a");
    let _ = place.save().ok();
    key(&place, "reader");
    let with = |args: &[&str]| Run::of(place.restore(args).args(["--key-file", "reader"]));
    let said = "this restore is not in";
    let _ = with(&["run", "latest", "--to", "out"]).ok().says(said);
    let json = with(&["run", "latest", "--to", "out2", "--json"]).ok();
    let mut findings = json.of_type("finding");
    findings.retain(|finding| finding["subject"] == "the ledger");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["severity"], "note");
    let file = format!("latest:{}", place.data().join("a").display());
    let _ = with(&["cat", &file]).ok().says(said);
    assert_eq!(restores(&place).len(), 0);
}

#[test]
fn a_maintenance_key_forgets_holds_and_releases_and_can_neither_read_nor_save() {
    let place = Place::new();
    place.write("a", "a");
    for content in [b"1", b"2", b"3", b"4"] {
        let _ = place.pipe("x", content).ok();
    }
    key(&place, "maintenance");
    let with = |args: &[&str]| {
        let mut run = place.snapshot(args);
        // No cache of a key that can do more.
        run.args(["--key-file", "maintenance"])
            .env("BACKSTAY_CACHE_DIR", place.path("cache-of-maintenance"))
            .env("BACKSTAY_STATE_DIR", place.path("state-of-maintenance"));
        Run::of(&mut run)
    };
    let listed = with(&["list", "--json"]).ok().of_type("snapshot");
    let ids: Vec<&str> = listed
        .iter()
        .map(|line| line["id"].as_str().unwrap())
        .collect();
    let _ = with(&["hold", ids[0], "--reason", "audit"]).ok();
    let _ = with(&["forget", ids[1]]).ok();
    let _ = with(&["forget", "--keep-last", "1"]).ok();
    assert_eq!(place.objects("snap").len(), 2);
    let _ = with(&["release", ids[0]]).ok();
    let _ = with(&["forget", "--keep-last", "1"]).ok();
    assert_eq!(place.objects("snap").len(), 1);
    let ops: Vec<String> = records_in(&place, "state-of-maintenance")
        .iter()
        .map(|record| record["op"].as_str().unwrap().to_owned())
        .skip(6)
        .collect();
    assert_eq!(ops, ["hold", "forget", "forget", "release", "forget"]);
    let checked = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ok();
    let checked = checked.of_type("ledger").remove(0);
    assert_eq!(checked["hmacs_checked"], checked["records"]);
    // It holds nothing to read or to save with, and lets nobody in or out.
    let before = place.objects("");
    for args in [
        &["run", "latest", "--to", "out"][..],
        &["cat", "latest:/x"],
        &["ls", "latest"],
    ] {
        let mut read = place.restore(args);
        read.args(["--key-file", "maintenance"])
            .env("BACKSTAY_CACHE_DIR", place.path("cache-of-maintenance"));
        let _ = Run::of(&mut read).ends(12);
    }
    let _ = with(&["save", "data"]).ends(12);
    let keys = Run::of(&mut place.snapshot(["key", "list", "--json"])).ok();
    let slot = keys.of_type("key").remove(0)["id"].clone();
    let _ = with(&["key", "remove", slot.as_str().unwrap()]).ends(12);
    let full = ["key", "add", "--new-key-file", "more", "--role", "writer"];
    let _ = with(&full).ends(12);
    assert_eq!(place.objects(""), before);
}

#[test]
fn a_writer_cannot_remove_history_and_hears_which_key_can() {
    let place = Place::new();
    for content in [b"1", b"2"] {
        let _ = place.pipe("x", content).ok();
    }
    key(&place, "writer");
    let with = |args: &[&str]| Run::of(place.snapshot(args).args(["--key-file", "writer"]));
    let _ = with(&["hold", "latest"]).ok();
    let before = place.objects("");
    for args in [
        &["release", "latest"][..],
        &["forget", "latest"],
        &["forget", "--keep-last", "1"],
        &["forget", "--keep-last", "1", "--dry-run"],
    ] {
        let _ = with(args).ends(12).says("use a maintenance or full key");
    }
    let add = ["key", "add", "--new-key-file", "m", "--role", "maintenance"];
    let _ = with(&add).ends(12);
    assert_eq!(place.objects(""), before);
}

#[test]
fn a_maintenance_key_signs_by_its_own_name_on_any_host() {
    let place = Place::new();
    for content in [b"1", b"2"] {
        let _ = place.pipe("x", content).ok();
    }
    let add = [
        "key",
        "add",
        "--role",
        "maintenance",
        "--host",
        "trusted",
        "--new-key-file",
        "m",
    ];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let with = |args: &[&str]| Run::of(place.snapshot(args).args(["--key-file", "m"]));
    let _ = with(&["hold", "latest"]).ok();
    let _ = with(&["release", "latest"]).ok();
    let _ = with(&["forget", "--keep-last", "1", "--dry-run"]).ok();
    let _ = with(&["forget", "--keep-last", "1"])
        .ok()
        .says("as trusted");
    let checked = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ok();
    let line = checked.of_type("ledger").remove(0);
    assert_eq!(line["records"], line["hmacs_checked"], "{line}");
}

#[test]
fn verify_tells_of_a_ledger_that_was_cut_off_though_the_cache_is_lost() {
    let place = with_records(6);
    fs::remove_dir_all(place.path("cache")).unwrap();
    for path in &place.objects("ledger")[4..] {
        fs::remove_file(path).unwrap();
    }
    let run = Run::of(&mut place.snapshot(["verify"])).ends(13);
    assert!(run.err.contains("records 5 to 6"), "{}", run.err);
    // Whoever adds to it tells of it too, and hides nothing by that.
    let run = Run::of(place.snapshot(["save", "--quiet"]).arg(place.data())).ends(3);
    assert!(run.err.contains("gone from the tier"), "{}", run.err);
    let elsewhere = place
        .snapshot(["ledger", "verify"])
        .env("BACKSTAY_STATE_DIR", place.path("state-of-another"))
        .output();
    let run = Run::from(elsewhere.unwrap()).ends(13);
    assert!(
        run.err.contains("records 5 to 6 are not there"),
        "{}",
        run.err
    );
}

#[test]
fn what_is_no_record_stops_nobody() {
    let place = with_records(4);
    place.write("a", "a");
    fs::write(place.repo().join("ledger/notes.txt"), "mine").unwrap();
    fs::write(place.repo().join("ledger/5"), "mine").unwrap();
    let _ = place.save().ok();
    let _ = Run::of(&mut place.snapshot(["hold", "latest"])).ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    // A record that does not open: what is to be done is done, and it is said.
    let next = place.objects("ledger").len() + 1 - 2;
    let damaged = place.repo().join(format!("ledger/{next:012}"));
    fs::write(&damaged, "no record").unwrap();
    let name = format!("ledger/{next:012}");
    let add = ["key", "add", "--new-key-file", "more"];
    let run = Run::of(&mut place.snapshot(add)).ends(3);
    assert!(run.err.contains(&name), "{}", run.err);
    // Told once to this host; the next ones continue what it wrote.
    let _ = Run::of(&mut place.snapshot(["release", "latest"])).ok();
    // Whoever forgets cannot tell whether it was a hold.
    let _ = Run::of(&mut place.snapshot(["forget", "latest", "--force"])).ends(3);
    let _ = place.save().ok();
    let found = found(&place, 13);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].2.contains(&name), "{found:?}");
}

#[test]
fn a_snapshot_that_the_ledger_does_not_know_is_not_counted_by_rules_and_stays() {
    let place = Place::new();
    for content in [b"1", b"2", b"3"] {
        let _ = place.pipe("x", content).ok();
    }
    fs::remove_file(place.objects("ledger").pop().unwrap()).unwrap();
    let forget = ["forget", "--keep-last", "1", "--json"];
    let run = Run::of(&mut place.snapshot(forget)).ends(3);
    assert_eq!(run.of_type("decision").len(), 2);
    assert_eq!(run.of_type("forgotten")[0]["removed"], 1);
    let told = run.of_type("finding");
    let told: Vec<_> = told
        .iter()
        .map(|line| line["detail"].as_str().unwrap())
        .collect();
    assert!(
        told[0].contains("does not tell when it was made"),
        "{told:?}"
    );
    assert_eq!(place.objects("snap").len(), 2);
    // By its name it goes.
    let _ = Run::of(&mut place.snapshot(["forget", "latest"])).ok();
    assert_eq!(place.objects("snap").len(), 1);
}

#[test]
fn a_ledger_that_is_gone_as_a_whole_is_seen_by_those_who_never_saw_it() {
    let place = with_records(3);
    for record in place.objects("ledger") {
        fs::remove_file(record).unwrap();
    }
    for command in [&["ledger", "verify"][..], &["verify"]] {
        let _ = Run::of(place.snapshot(command).args(["--state-dir", "fresh"]))
            .ends(13)
            .says("not a single record");
    }
}

#[test]
fn who_only_checks_the_ledger_sees_later_that_its_end_was_cut_off() {
    let place = with_records(3);
    let mut check = place.snapshot(["ledger", "verify", "--state-dir", "auditor"]);
    let _ = Run::of(&mut check).ok();
    let last = place.objects("ledger").into_iter().max().unwrap();
    fs::remove_file(last).unwrap();
    let _ = Run::of(&mut check).ends(13).says("gone from the end");
}

/// A ledger that is gone as a whole can be begun anew on purpose.
#[test]
fn a_ledger_that_is_gone_can_be_begun_anew_by_who_says_so() {
    let place = with_records(3);
    let nothing = Run::of(&mut place.snapshot(["ledger", "accept"])).ok();
    let _ = nothing.says("nothing to accept");
    fs::remove_dir_all(place.repo().join("ledger")).unwrap();
    // This host knows it: its copy is put back, not given up.
    let _ = Run::of(&mut place.snapshot(["ledger", "accept"]))
        .ends(13)
        .says("snapshot repair");
    fs::remove_dir_all(place.path("state")).unwrap();
    let told = Run::of(&mut place.snapshot(["ledger", "verify"])).ends(13);
    let _ = told.says("`snapshot ledger accept`");
    key(&place, "writer");
    let mut by_writer = place.snapshot(["ledger", "accept", "--key-file", "writer"]);
    let _ = Run::of(&mut by_writer).ends(12);
    let _ = Run::of(&mut place.snapshot(["ledger", "accept"])).ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
}

/// Lines of this host's copy that are no records are mended from the tier, and nothing is that the tier does not have.
#[test]
fn a_copy_with_lines_that_are_no_records_is_written_anew_from_the_tier() {
    let place = with_records(4);
    let folders = fs::read_dir(place.path("state")).unwrap();
    let copies = folders.map(|folder| folder.unwrap().path().join("ledger.jsonl"));
    let copy = copies.into_iter().find(|path| path.exists()).unwrap();
    let right = fs::read_to_string(&copy).unwrap();
    let lines: Vec<&str> = right.lines().collect();
    assert_eq!(lines.len(), 4);
    let harmed = format!("{}\ngarbage\n{}\n", lines[0], lines[2..].join("\n"));
    fs::write(&copy, &harmed).unwrap();
    let told = Run::of(&mut place.snapshot(["ledger", "verify"])).ends(13);
    let _ = told.says("`snapshot repair` writes it anew");
    // As long as it has what the tier has lost, it stays.
    let last = place.objects("ledger").pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    fs::remove_file(&last).unwrap();
    let told = Run::of(&mut place.snapshot(["ledger", "verify"])).ends(13);
    let _ = told.says("once nothing else is wrong");
    fs::write(&last, bytes).unwrap();
    let dry = Run::of(&mut place.snapshot(["repair", "--dry-run"])).ends(3);
    assert!(
        dry.text().contains("this host's copy of the ledger"),
        "{}",
        dry.text()
    );
    assert_eq!(fs::read_to_string(&copy).unwrap(), harmed);
    let _ = Run::of(&mut place.snapshot(["repair"])).ok();
    let now = fs::read_to_string(&copy).unwrap();
    assert!(now.starts_with(&right), "{now}");
    assert_eq!(
        fs::read_to_string(copy.with_extension("damaged")).unwrap(),
        harmed
    );
    for args in [&["ledger", "verify"][..], &["verify"]] {
        let _ = Run::of(&mut place.snapshot(args)).ok();
    }
}

/// Records that nothing gives back are shown and accepted; what is lost behind that is told again.
#[test]
fn records_that_are_lost_for_good_are_accepted_by_who_may_forget() {
    let place = with_records(6);
    let _ = Run::of(&mut place.snapshot(["hold", "latest"])).ok();
    key(&place, "writer");
    let _ = place.pipe("x", b"more").ok();
    let hold = place.objects("ledger").remove(6);
    fs::remove_file(&hold).unwrap();
    for object in place.objects("holds") {
        fs::remove_file(object).unwrap();
    }
    let accept = ["ledger", "accept", "--json"];
    // This host has a copy of it.
    let _ = Run::of(&mut place.snapshot(accept)).ends(13);
    fs::remove_dir_all(place.path("state")).unwrap();
    let rules = ["forget", "--keep-last", "9"];
    let all = [
        &["ledger", "verify"][..],
        &["verify"],
        &["prune", "--force"],
    ];
    let dry = [&accept[..], &["--dry-run"]].concat();
    for _ in 0..2 {
        for args in all {
            let _ = Run::of(&mut place.snapshot(args)).ends(13);
        }
        let _ = Run::of(&mut place.snapshot(rules))
            .ends(3)
            .says("may say that");
        let run = Run::of(&mut place.snapshot(&dry)).ok();
        let lost = run.of_type("lost");
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert_eq!(
            (&lost[0]["first"], &lost[0]["last"]),
            (&7.into(), &7.into())
        );
        assert_eq!(lost[0]["hash"].as_str().unwrap().len(), 64);
        assert_eq!(run.of_type("accepted")[0]["changed"], false);
        let mut by_writer = place.snapshot(accept);
        let by_writer = Run::of(by_writer.args(["--key-file", "writer"])).ends(12);
        let _ = by_writer.says("use a maintenance or full key");
    }
    let shown = Run::of(&mut place.snapshot(["ledger", "accept"])).ok();
    assert!(
        shown.text().contains("record 7 is not there"),
        "{}",
        shown.text()
    );
    for args in all {
        let _ = Run::of(&mut place.snapshot(args)).ok();
    }
    let _ = Run::of(&mut place.snapshot(rules)).ok();
    let noted = found(&place, 0);
    assert!(
        noted
            .iter()
            .any(|one| one.1 == "ledger record 7" && one.0 == "note"),
        "{noted:?}"
    );
    let _ = Run::of(&mut place.snapshot(["ledger", "list"])).ok();
    let again = Run::of(&mut place.snapshot(accept)).ok();
    assert_eq!(again.of_type("accepted")[0]["changed"], false);
    fs::remove_file(place.objects("ledger").remove(2)).unwrap();
    fs::remove_dir_all(place.path("state")).unwrap();
    for args in all {
        let _ = Run::of(&mut place.snapshot(args)).ends(13);
    }
}

/// The tier was set back to what it was earlier, and others have gone on from there.
#[test]
fn a_host_whose_copy_went_another_way_goes_on_with_the_tier() {
    let place = with_records(4);
    let saved = place.objects("ledger");
    let _ = place.pipe("x", b"before").ok();
    let lost = place.objects("ledger").pop().unwrap();
    assert!(!saved.contains(&lost));
    fs::remove_file(lost).unwrap();
    for kind in ["snap", "parity/snap", "refs"] {
        if let Some(newest) = place.objects(kind).into_iter().max() {
            fs::remove_file(newest).unwrap();
        }
    }
    let mut elsewhere = place.snapshot(["hold", "latest", "--state-dir", "other"]);
    let _ = Run::of(&mut elsewhere);
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"]))
        .ends(13)
        .says("ledger accept");
    let dry = Run::of(&mut place.snapshot(["ledger", "accept", "--dry-run", "--json"])).ok();
    let only = dry.of_type("only-in-copy");
    assert_eq!(only[0]["op"], "snapshot", "{only:?}");
    let run = Run::of(&mut place.snapshot(["ledger", "accept", "--json"])).ok();
    let aside = run.of_type("accepted")[0]["aside"]
        .as_str()
        .unwrap()
        .to_owned();
    let mode = fs::metadata(&aside).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
}
