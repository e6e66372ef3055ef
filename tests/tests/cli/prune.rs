//! Giving space back.

use std::fs;
use std::process::Stdio;

use backup_tests::{Place, Run};

use crate::trouble::noise;

fn saved(place: &Place) -> String {
    let saved = place.save().ok().of_type("saved").remove(0);
    saved["id"].as_str().unwrap().to_owned()
}

fn bytes(place: &Place) -> u64 {
    let packs = place
        .objects("data")
        .into_iter()
        .chain(place.objects("meta"));
    packs.map(|path| fs::metadata(path).unwrap().len()).sum()
}

/// Three snapshots of which the first two are forgotten.
fn with_garbage() -> Place {
    let place = Place::new();
    let mut ids = Vec::new();
    for round in 0..3 {
        place.write("kept", noise(1, 3 << 20));
        place.write("changes", noise(2 + round, 3 << 20));
        place.wait_for_a_tick();
        ids.push(saved(&place));
    }
    let _ = Run::of(&mut place.snapshot(["forget", &ids[0], &ids[1]])).ok();
    place
}

#[test]
fn what_was_forgotten_gives_its_space_back() {
    let place = with_garbage();
    let before = bytes(&place);
    let dry = Run::of(&mut place.snapshot(["prune", "--dry-run", "--json"])).ok();
    let plan = dry.of_type("plan").remove(0);
    assert!(
        plan["unused_bytes"].as_u64().unwrap() + plan["repack_gain"].as_u64().unwrap() > 5 << 20,
        "{plan}"
    );
    assert_eq!(bytes(&place), before);
    let pruned = Run::of(&mut place.snapshot(["prune", "--json"])).ok();
    let pruned = pruned.of_type("pruned").remove(0);
    assert!(pruned["deleted_packs"].as_u64().unwrap() > 0, "{pruned}");
    assert!(
        bytes(&place) < before - (5 << 20),
        "{before}, {}",
        bytes(&place)
    );
    let _ = place.verify().ok();
    let _ = place.bring_back("out").ok();
    assert!(fs::read(place.path("out/kept")).unwrap() == noise(1, 3 << 20));
    assert!(fs::read(place.path("out/changes")).unwrap() == noise(4, 3 << 20));
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let people = Run::of(&mut place.snapshot(["prune"])).ok().text();
    assert!(people.contains("deleted 0 B in 0 packs"), "{people}");
}

#[test]
fn forget_can_prune_as_well() {
    let place = Place::new();
    for round in 0..3 {
        place.write("changes", noise(2 + round, 3 << 20));
        place.wait_for_a_tick();
        let _ = saved(&place);
    }
    let before = bytes(&place);
    let run = ["forget", "--keep-last", "1", "--prune", "--json"];
    let run = Run::of(&mut place.snapshot(run)).ok();
    assert_eq!(run.of_type("forgotten")[0]["removed"], 2);
    assert!(run.of_type("pruned")[0]["deleted_bytes"].as_u64().unwrap() > 5 << 20);
    assert!(bytes(&place) < before / 2);
    let _ = place.verify().ok();
}

#[test]
fn a_prune_of_nearly_everything_must_be_asked_for() {
    let place = Place::new();
    place.write("file", noise(1, 1 << 20));
    let id = saved(&place);
    let _ = Run::of(&mut place.snapshot(["forget", &id, "--force"])).ok();
    let before = bytes(&place);
    let _ = Run::of(&mut place.snapshot(["prune"]))
        .ends(1)
        .says("--force");
    assert_eq!(bytes(&place), before);
    let _ = Run::of(&mut place.snapshot(["prune", "--max-drop", "99%"])).ends(1);
    let _ = Run::of(&mut place.snapshot(["prune", "--max-drop", "100%"])).ok();
    assert_eq!(bytes(&place), 0);
}

/// Also where most of each pack goes and the rest is written anew.
#[test]
fn a_prune_that_leaves_little_of_every_pack_must_be_asked_for() {
    let place = Place::new();
    for number in 0..24 {
        place.write(number.to_string(), noise(number, 1 << 20));
    }
    let _ = saved(&place);
    for number in (0..24).filter(|number| number % 12 != 0) {
        fs::remove_file(place.data().join(number.to_string())).unwrap();
    }
    let _ = saved(&place);
    let forget = ["forget", "--keep-last", "1", "--prune"];
    let _ = Run::of(&mut place.snapshot(forget))
        .ends(1)
        .says("`snapshot prune --force`");
    let before = bytes(&place);
    let _ = Run::of(&mut place.snapshot(["prune", "--force"])).ok();
    assert!(bytes(&place) < before / 5);
    let _ = place.verify().ok();
}

/// A record that rotted stops a prune only where nothing tells what it said.
/// Who has no copy of the ledger cannot tell what was taken away with it.
#[test]
fn a_ledger_that_was_taken_away_as_a_whole_stops_it() {
    let place = with_garbage();
    for folder in ["ledger", "parity/ledger"] {
        let _ = fs::remove_dir_all(place.repo().join(folder));
    }
    fs::remove_dir_all(place.path("state")).unwrap();
    let before = bytes(&place);
    let forget = ["forget", "--keep-last", "5", "--prune"];
    let refused = Run::of(&mut place.snapshot(forget)).ends(13);
    assert!(refused.err.contains("--despite-ledger"), "{}", refused.err);
    assert!(
        refused.err.contains("the ledger does not know"),
        "{}",
        refused.err
    );
    let alone = Run::of(&mut place.snapshot(["forget", "--keep-last", "5"])).ends(3);
    assert!(!alone.err.contains("no such snapshots"), "{}", alone.err);
    let _ = Run::of(&mut place.snapshot(["prune"])).ends(13);
    let told = Run::of(&mut place.snapshot(["ledger", "verify"])).ends(13);
    assert!(told.err.contains("taken"), "{}", told.err);
    assert_eq!(bytes(&place), before);
    let prune = ["prune", "--force", "--despite-ledger"];
    let _ = Run::of(&mut place.snapshot(prune)).ok();
    assert!(bytes(&place) < before);
    // What that recorded is no new beginning, nor is what comes behind it, on whatever host.
    for state in ["state", "another", "none"] {
        for args in [
            &["ledger", "verify"][..],
            &["verify"],
            &["prune"],
            &["ledger", "verify"],
        ] {
            let run = Run::of(
                place
                    .snapshot(args)
                    .env("BACKSTAY_STATE_DIR", place.path(state)),
            );
            let _ = run.ends(13).says("ledger");
        }
        let _ = place.pipe("x", state.as_bytes());
    }
    let told = Run::of(&mut place.snapshot(["ledger", "verify"])).ends(13);
    assert!(!told.err.contains("ledger record"), "{}", told.err);
    let _ = told.says("`snapshot ledger accept`");
    let _ = Run::of(&mut place.snapshot(["repair"]))
        .ends(3)
        .says("ledger accept");
    let accept = ["ledger", "accept", "--json"];
    let accepted = || {
        Run::of(&mut place.snapshot(accept))
            .ok()
            .of_type("accepted")
            .remove(0)
    };
    assert_eq!(accepted()["changed"], true);
    assert_eq!(accepted()["changed"], false);
    for args in [
        &["ledger", "verify"][..],
        &["verify"],
        &["prune", "--force"],
        &["repair"],
    ] {
        let _ = Run::of(&mut place.snapshot(args)).ok();
    }
}

#[test]
fn a_hole_in_the_ledger_that_somebody_can_fill_stops_nothing() {
    let place = with_garbage();
    let copy = place.path("copy");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(place.repo())
        .arg(&copy)
        .status();
    assert!(copied.unwrap().success());
    let rot = |number: usize| {
        let record = place.objects("ledger").remove(number);
        fs::write(&record, b"rot").unwrap();
        record
    };
    let dry = ["prune", "--dry-run"];
    // This host has a copy of it.
    let _ = rot(1);
    let _ = Run::of(&mut place.snapshot(dry)).ok();
    let state = place.path("state");
    let away = place.path("state-away");
    fs::rename(&state, &away).unwrap();
    let refused = Run::of(&mut place.snapshot(dry)).ends(13);
    let _ = refused.says("--despite-ledger").says("repair --from");
    let _ = Run::of(&mut place.snapshot(["prune", "--force", "--despite-gone"])).ends(13);
    let _ = Run::of(&mut place.snapshot(["prune", "--dry-run", "--despite-ledger"])).ok();
    // Without a copy it is said that one is needed; with one it is put back, and several in a row too.
    let missing = rot(2);
    fs::remove_file(missing).unwrap();
    let _ = Run::of(&mut place.snapshot(["repair"])).ends(3);
    let from = ["repair", "--from", copy.to_str().unwrap(), "--json"];
    let mended = Run::of(&mut place.snapshot(from)).ok().of_type("mended");
    assert_eq!(mended.len(), 2, "{mended:?}");
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = Run::of(&mut place.snapshot(dry)).ok();
    // And this host's own copy is one as well.
    let _ = rot(3);
    let mended = Run::of(&mut place.snapshot(["repair", "--json"]))
        .ok()
        .of_type("mended");
    assert!(
        mended[0]["remedy"]
            .as_str()
            .unwrap()
            .contains("ledger.jsonl"),
        "{mended:?}"
    );
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = Run::of(&mut place.snapshot(["prune"])).ok();
    let _ = place.verify().ok();
}

#[test]
fn what_a_snapshot_needs_that_is_gone_stays_until_somebody_gives_it_up() {
    for held in [false, true] {
        let place = Place::new();
        place.write("file", noise(1, 2 << 20));
        let id = saved(&place);
        if held {
            let _ = Run::of(&mut place.snapshot(["hold", &id])).ok();
            // The ledger may be gone as well.
            for record in place.objects("ledger") {
                fs::remove_file(record).unwrap();
            }
            fs::remove_dir_all(place.path("state")).unwrap();
        }
        place.write("file", noise(2, 2 << 20));
        place.wait_for_a_tick();
        let _ = saved(&place);
        let object = place
            .objects("snap")
            .into_iter()
            .find(|path| path.ends_with(&id));
        let object = object.unwrap();
        let away = place.path("away");
        fs::rename(&object, &away).unwrap();
        let before = bytes(&place);
        let refused = Run::of(&mut place.snapshot(["prune"])).ends(13);
        let _ = refused.says(&id).says("--despite-gone");
        assert_eq!(bytes(&place), before);
        fs::rename(&away, &object).unwrap();
        let wanted = format!("{id}:{}", place.data().display());
        let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "out"])).ok();
        assert!(fs::read(place.path("out/file")).unwrap() == noise(1, 2 << 20));
        fs::remove_file(&object).unwrap();
        let _ = Run::of(&mut place.snapshot(["prune", "--force"])).ends(13);
        // Its sidecar would give it back.
        let _ = Run::of(&mut place.snapshot(["prune", "--despite-gone"])).ends(13);
        place.lose_sidecars("snap");
        if held {
            // It was begun anew behind that.
            let _ = Run::of(&mut place.snapshot(["prune", "--despite-gone"])).ends(13);
            let _ = Run::of(&mut place.snapshot(["ledger", "accept"])).ok();
        }
        let _ = Run::of(&mut place.snapshot(["prune", "--despite-gone"])).ok();
        assert!(bytes(&place) < before - (1 << 20));
    }
}

#[test]
fn who_was_killed_is_named_and_not_waited_for_when_asked() {
    let place = with_garbage();
    // A save that was killed: its session has no end.
    place.write("large", noise(9, 60 << 20));
    let mut save = place.snapshot(["save"]);
    let mut child = save.arg(place.data()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(300));
    child.kill().unwrap();
    let _ = child.wait().unwrap();
    let is_open = place.objects("sessions").len() % 2 == 1;
    let waits = Run::of(&mut place.snapshot(["prune", "--wait", "0", "--force"]));
    if is_open {
        let _ = waits.ends(3).says("is saving since");
    }
    let ends = ["prune", "--revoke-after", "0", "--force", "--json"];
    let pruned = Run::of(&mut place.snapshot(ends)).ok();
    assert!(
        !is_open
            || pruned.of_type("pruned")[0]["deleted_packs"]
                .as_u64()
                .unwrap()
                > 0
    );
    let _ = place.verify().ok();
    fs::remove_file(place.data().join("large")).unwrap();
    let _ = saved(&place);
    let _ = place.verify().ok();
}

#[test]
fn prunes_at_the_same_time_do_not_stumble_over_each_other() {
    for _ in 0..4 {
        let place = with_garbage();
        let prune = || {
            let args = ["prune", "--max-unused", "0", "--force", "--wait", "1"];
            let mut prune = place.snapshot(args);
            prune.stdout(Stdio::piped()).stderr(Stdio::piped());
            prune.spawn().unwrap()
        };
        let children = [prune(), prune(), prune()];
        for child in children {
            let run = Run::from(child.wait_with_output().unwrap());
            // It may wait for the others' copying, or be told that they are at work.
            assert!([0, 3, 11].contains(&run.code), "{run:?}");
        }
        let _ = Run::of(&mut place.snapshot(["prune", "--force"])).ok();
        let _ = place.verify().ok();
        let _ = place.bring_back("out").ok();
        assert!(fs::read(place.path("out/changes")).unwrap() == noise(4, 3 << 20));
    }
}

#[test]
fn what_a_plan_says_before_a_refusal_is_no_claim_that_it_was_done() {
    let place = Place::new();
    place.write("file", noise(1, 1 << 20));
    let id = saved(&place);
    let _ = Run::of(&mut place.snapshot(["forget", &id, "--force"])).ok();
    let refused = Run::of(&mut place.snapshot(["prune"])).ends(1);
    assert!(!refused.text().contains("deleted"), "{}", refused.text());
    let dry = Run::of(&mut place.snapshot(["prune", "--dry-run"])).ok();
    assert!(dry.text().contains("would be deleted"), "{}", dry.text());
}

#[test]
fn options_that_mean_nothing_are_refused() {
    let place = Place::new();
    for wrong in [
        ["--max-unused", "x"],
        ["--max-unused", "-1%"],
        ["--max-unused", "NaN%"],
        ["--max-repack", "much"],
        ["--max-drop", "101%"],
        ["--revoke-after", "soon"],
    ] {
        let _ = Run::of(place.snapshot(["prune"]).args(wrong)).ends(2);
    }
}
