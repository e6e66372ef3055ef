//! Holds that somebody took away or damaged: the ledger keeps what was held.

use std::fs;

use backup_tests::{Place, Run};

/// Three snapshots of which the first is held; gives its id.
fn held() -> (Place, String) {
    let place = Place::new();
    let mut first = String::new();
    for round in 0..3 {
        place.write("file", format!("content {round}"));
        place.wait_for_a_tick();
        let saved = place.save().ok().of_type("saved").remove(0);
        if round == 0 {
            saved["id"].as_str().unwrap().clone_into(&mut first);
        }
    }
    let hold = ["hold", &first, "--reason", "audit"];
    let _ = Run::of(&mut place.snapshot(hold)).ok();
    let _ = place.verify().ok();
    (place, first)
}

fn take_away(place: &Place) {
    for hold in place.objects("holds") {
        fs::remove_file(hold).unwrap();
    }
}

fn is_there(place: &Place, id: &str) -> bool {
    place.objects("snap").iter().any(|path| path.ends_with(id))
}

#[test]
fn a_hold_that_was_taken_away_is_told_and_heeded() {
    let (place, id) = held();
    take_away(&place);
    let subject = format!("holds/{id}");
    // With this host's copy of the ledger, and from the tier alone.
    for has_copy in [true, false] {
        if !has_copy {
            let _ = fs::remove_dir_all(place.path("state"));
        }
        for args in [["verify"].as_slice(), &["ledger", "verify"]] {
            let run = Run::of(&mut place.snapshot(args)).ends(13);
            let told = format!("{}{}", run.text(), run.err);
            assert!(told.contains(&subject), "{told}");
        }
        let mut lists = [
            place.snapshot(["list", "--json"]),
            place.snapshot(["show", &id, "--json"]),
            place.restore(["list", "--json"]),
        ];
        for list in &mut lists {
            let shown = Run::of(list).ok().of_type("snapshot");
            let shown = shown.iter().find(|shown| shown["id"] == id.as_str());
            assert_eq!(shown.unwrap()["held"], true);
        }
        let by_id = Run::of(&mut place.snapshot(["forget", &id])).ends(11);
        let _ = by_id.says("snapshot hold").says("snapshot release");
        let rules = ["forget", "--keep-last", "1", "--json"];
        let dry = Run::of(place.snapshot(rules).arg("--dry-run")).ends(3);
        assert_eq!(dry.of_type("finding")[0]["subject"], subject);
        let first = dry.of_type("decision").remove(0);
        assert_eq!(
            (&first["verdict"], &first["held"]),
            (&"keep".into(), &true.into())
        );
    }
    let by_rules = Run::of(&mut place.snapshot(["forget", "--keep-last", "1", "--json"])).ends(3);
    assert_eq!(by_rules.of_type("forgotten")[0]["removed"], 1);
    assert!(is_there(&place, &id));
    let prune = ["prune", "--max-unused", "0", "--force", "--json"];
    let pruned = Run::of(&mut place.snapshot(prune)).ends(3);
    assert_eq!(pruned.of_type("finding")[0]["subject"], subject);
    let _ = Run::of(&mut place.restore(["run", &id, "--to", "out"])).ok();
}

#[test]
fn a_hold_that_was_taken_away_is_placed_again_or_ended() {
    let (place, id) = held();
    take_away(&place);
    let again = Run::of(&mut place.snapshot(["hold", &id, "--json"])).ok();
    assert_eq!(again.of_type("held")[0]["changed"], true);
    let _ = place.verify().ok();
    let nothing = Run::of(&mut place.snapshot(["hold", &id, "--json"])).ok();
    assert_eq!(nothing.of_type("held")[0]["changed"], false);
    take_away(&place);
    let ended = Run::of(&mut place.snapshot(["release", &id, "--json"])).ok();
    assert_eq!(ended.of_type("released")[0]["changed"], true);
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.snapshot(["forget", &id])).ok();
    assert!(!is_there(&place, &id));
    let _ = place.verify().ok();
}

#[test]
fn a_damaged_hold_counts_and_is_written_anew() {
    for content in [b"".as_slice(), b"held", b"free\n", b"held\nand much more"] {
        let (place, id) = held();
        let hold = place.objects("holds").remove(0);
        fs::remove_file(&hold).unwrap();
        fs::write(&hold, content).unwrap();
        let _ = Run::of(&mut place.snapshot(["forget", &id])).ends(11);
        let run = place.verify().ends(13);
        assert_eq!(run.of_type("finding")[0]["subject"], format!("holds/{id}"));
        let _ = Run::of(&mut place.snapshot(["hold", &id])).ok();
        let _ = place.verify().ok();
        assert_eq!(fs::read(&hold).unwrap(), b"held\n");
    }
}

#[test]
fn a_hold_that_no_record_tells_of_counts_and_is_recorded() {
    let (place, id) = held();
    // Those of the hold, and of the verification behind it.
    for record in place.objects("ledger").iter().rev().take(2) {
        fs::remove_file(record).unwrap();
    }
    fs::remove_dir_all(place.path("state")).unwrap();
    let run = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ok();
    let finding = run.of_type("finding").remove(0);
    assert_eq!(finding["subject"], format!("holds/{id}"));
    assert_eq!(finding["severity"], "note");
    let _ = Run::of(&mut place.snapshot(["forget", &id])).ends(11);
    let _ = Run::of(&mut place.snapshot(["hold", &id])).ok();
    let run = Run::of(&mut place.snapshot(["ledger", "verify", "--json"])).ok();
    assert!(run.of_type("finding").is_empty());
}

#[test]
fn a_hold_on_a_snapshot_that_is_gone_is_released_by_its_whole_id() {
    let (place, id) = held();
    for snapshot in place.objects("snap") {
        if snapshot.ends_with(&id) {
            fs::remove_file(snapshot).unwrap();
        }
    }
    let _ = Run::of(&mut place.snapshot(["release", &id[..20]]))
        .ends(13)
        .says(&id);
    let _ = Run::of(&mut place.snapshot(["release", &id])).ok();
    assert!(place.objects("holds").is_empty());
    let _ = Run::of(&mut place.snapshot(["release", &id]))
        .ends(13)
        .says(&id);
}

#[test]
fn a_reason_that_no_record_has_room_for_places_no_hold() {
    let place = Place::new();
    let _ = place.save().ok();
    let long = "x".repeat(70_000);
    let hold = ["hold", "latest", "--reason", &long];
    let _ = Run::of(&mut place.snapshot(hold)).ends(2).says("4096");
    assert!(place.objects("holds").is_empty());
}

#[test]
fn a_lost_record_that_may_be_of_a_hold_is_told_by_whoever_forgets() {
    let (place, _) = held();
    let records = place.objects("ledger");
    let hold = records.last().unwrap();
    place.write("file", "more");
    place.wait_for_a_tick();
    let _ = place.save().ok();
    let rules = ["forget", "--keep-last", "9"];
    let _ = Run::of(&mut place.snapshot(rules)).ok();
    let bytes = fs::read(hold).unwrap();
    for harm in [&b"no record"[..], b""] {
        fs::remove_file(hold).unwrap();
        if !harm.is_empty() {
            fs::write(hold, harm).unwrap();
        }
        // This host has a copy of it.
        let _ = Run::of(&mut place.snapshot(rules)).ok();
        fs::rename(place.path("state"), place.path("elsewhere")).unwrap();
        for args in [&rules[..], &[&rules[..], &["--dry-run"]].concat()] {
            let _ = Run::of(&mut place.snapshot(args))
                .ends(3)
                .says("may say that");
        }
        let _ = fs::remove_dir_all(place.path("state"));
        fs::rename(place.path("elsewhere"), place.path("state")).unwrap();
        let _ = fs::remove_file(hold);
        fs::write(hold, &bytes).unwrap();
    }
}
