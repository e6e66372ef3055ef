//! Snapshots that somebody took away by hand: nothing older is given in their place without a word.

use std::fs;

use backup_tests::{Place, Run};

/// Saves a file with this content, for a name; gives the id.
fn saved(place: &Place, name: &str, content: &str) -> String {
    place.write("file", content);
    let mut save = place.snapshot(["save", "--json", "data", "--name", name]);
    let saved = Run::of(&mut save).ok().of_type("saved").remove(0);
    saved["id"].as_str().unwrap().to_owned()
}

/// Takes a snapshot's object away; gives its bytes and where they were.
fn take_away(place: &Place, id: &str) -> (std::path::PathBuf, Vec<u8>) {
    let object = (place.objects("snap").into_iter()).find(|path| path.ends_with(id));
    let object = object.unwrap();
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    (object, bytes)
}

fn time_of(place: &Place, id: &str) -> String {
    let shown = Run::of(&mut place.snapshot(["show", "--json", id])).ok();
    let shown = shown.of_type("snapshot").remove(0);
    shown["time"].as_str().unwrap().to_owned()
}

fn forget_local(place: &Place) {
    for folder in ["cache", "state"] {
        let _ = fs::remove_dir_all(place.path(folder));
    }
}

#[test]
fn nothing_older_is_taken_for_a_newest_snapshot_that_is_gone() {
    let place = Place::new();
    let old = saved(&place, "a", "old");
    let host = Run::of(&mut place.snapshot(["show", "--json", &old])).ok();
    let host = host.of_type("snapshot").remove(0)["host"].clone();
    let before = time_of(&place, &old);
    let newest = saved(&place, "a", "new");
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let (object, bytes) = take_away(&place, &newest);
    let of_host = format!("latest:{}:a", host.as_str().unwrap());
    // With this host's copy of the ledger, and from what is on the tier alone.
    for has_copy in [true, false] {
        if !has_copy {
            forget_local(&place);
        }
        for spec in ["latest", "latest:a", &of_host, "2100-01-01"] {
            let run = Run::of(&mut place.restore(["run", spec, "--to", "out"])).ends(13);
            assert!(run.err.contains(&newest), "{spec}: {}", run.err);
            assert!(run.err.contains("ledger verify"), "{spec}: {}", run.err);
        }
        let reader = ["ls", "latest", "--key-file", "reader"];
        let _ = Run::of(&mut place.restore(reader)).ends(13).says(&newest);
        for args in [["show"], ["hold"], ["forget"], ["verify"]] {
            let run = Run::of(place.snapshot(args).arg("latest"));
            let _ = run.ends(13).says(&newest);
        }
    }
    assert!(!place.path("out").exists());
    // What names the older one gives it.
    for spec in [&old, &before] {
        let _ = Run::of(&mut place.restore(["ls", spec])).ok();
    }
    fs::write(object, bytes).unwrap();
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ok();
    // What is gone and older than the newest is for verification to tell.
    let _ = take_away(&place, &newest);
    let _ = saved(&place, "a", "newer");
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out2"])).ok();
}

/// Its id was true once: whoever names it is told what became of it, and no list leaves it out.
#[test]
fn a_snapshot_that_is_gone_is_told_of_where_its_id_is_named_and_in_lists() {
    let place = Place::new();
    let gone = saved(&place, "a", "old");
    let forgotten = saved(&place, "a", "middle");
    let kept = saved(&place, "a", "new");
    let _ = Run::of(&mut place.snapshot(["forget", &forgotten])).ok();
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let (object, bytes) = take_away(&place, &gone);
    let short = gone[gone.len() - 8..].to_lowercase();
    for has_copy in [true, false] {
        if !has_copy {
            forget_local(&place);
        }
        for spec in [gone.as_str(), &short] {
            let named = format!("{spec}:/data/file");
            for args in [
                &["ls", spec][..],
                &["cat", &named],
                &["run", spec, "--to", "out"],
            ] {
                let run = Run::of(&mut place.restore(args)).ends(13).says(&gone);
                assert!(run.err.contains("snapshot repair"), "{args:?}: {}", run.err);
            }
            for command in ["show", "verify", "analyze", "hold"] {
                let _ = Run::of(&mut place.snapshot([command, spec]))
                    .ends(13)
                    .says(&gone);
            }
        }
        let reader = ["ls", &short, "--key-file", "reader"];
        let _ = Run::of(&mut place.restore(reader)).ends(13).says(&gone);
        let reader = ["list", "--key-file", "reader"];
        let _ = Run::of(&mut place.restore(reader)).ends(13).says(&gone);
        // What was forgotten, and what there never was, nobody misses.
        for spec in [forgotten.as_str(), "ZZZZZZZZ", "nothing"] {
            let _ = Run::of(&mut place.restore(["ls", spec]))
                .ends(1)
                .says("no snapshot");
        }
        let mut lists = [
            place.snapshot(["list", "--json"]),
            place.restore(["list", "--json"]),
        ];
        for list in &mut lists {
            let run = Run::of(list).ends(13);
            let [shown] = &run.of_type("snapshot")[..] else {
                panic!("{}", run.text());
            };
            assert_eq!(shown["id"], kept.as_str());
            let [finding] = &run.of_type("finding")[..] else {
                panic!("{}", run.text());
            };
            assert_eq!(finding["kind"], "missing");
            assert_eq!(finding["subject"], format!("snapshot {gone}"));
        }
        let _ = Run::of(&mut place.snapshot(["list"])).ends(13).says(&gone);
    }
    assert!(!place.path("out").exists());
    fs::write(object, bytes).unwrap();
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    assert_eq!(listed.of_type("snapshot").len(), 2);
}

#[test]
fn a_snapshot_that_was_forgotten_or_never_recorded_is_not_missed() {
    let place = Place::new();
    let _ = saved(&place, "a", "old");
    let second = saved(&place, "a", "new");
    let _ = Run::of(&mut place.snapshot(["forget", &second])).ok();
    let list = || {
        let listed = Run::of(&mut place.restore(["ls", "latest"])).ok();
        assert_eq!(listed.err, "");
    };
    list();
    forget_local(&place);
    list();
    // As a run leaves it that is killed before it could record its snapshot.
    let third = saved(&place, "a", "newest");
    fs::remove_file(place.objects("ledger").pop().unwrap()).unwrap();
    let _ = take_away(&place, &third);
    forget_local(&place);
    list();
}

#[test]
fn a_ledger_that_cannot_be_read_keeps_nobody_from_the_newest() {
    let place = Place::new();
    let _ = saved(&place, "a", "old");
    for record in place.objects("ledger") {
        fs::remove_file(&record).unwrap();
        fs::write(&record, b"something else").unwrap();
    }
    forget_local(&place);
    let _ = Run::of(&mut place.restore(["ls", "latest"])).ok();
    fs::remove_dir_all(place.repo().join("ledger")).unwrap();
    fs::write(place.repo().join("ledger"), b"no folder").unwrap();
    let _ = Run::of(&mut place.restore(["ls", "latest"])).ok();
}

#[test]
fn a_repository_whose_snapshots_are_all_gone_is_not_taken_for_an_empty_one() {
    let place = Place::new();
    let _ = Run::of(&mut place.snapshot(["list"])).ok();
    let only = saved(&place, "a", "only");
    let _ = take_away(&place, &only);
    for has_copy in [true, false] {
        if !has_copy {
            forget_local(&place);
        }
        for spec in ["latest", "latest:a", "2100-01-01"] {
            let run = Run::of(&mut place.restore(["run", spec, "--to", "out"])).ends(13);
            assert!(run.err.contains(&only), "{spec}: {}", run.err);
        }
        let _ = Run::of(&mut place.snapshot(["list"])).ends(13).says(&only);
        let _ = Run::of(&mut place.restore(["list"])).ends(13).says(&only);
    }
}

/// Nothing has it any more: as soon as somebody says that it is given up, everything goes on as before.
#[test]
fn a_snapshot_that_is_gone_for_good_can_be_given_up() {
    let place = Place::new();
    let gone = saved(&place, "a", "old");
    let kept = saved(&place, "a", "new");
    let (object, bytes) = take_away(&place, &gone);
    let sidecar = place.objects("parity/snap").into_iter();
    let sidecar: Vec<_> = sidecar.filter(|path| path.ends_with(&gone)).collect();
    assert_eq!(sidecar.len(), 1);
    // As long as its sidecar brings it back, it is not given up.
    let by_force = ["forget", &gone, "--force"];
    let refused = Run::of(&mut place.snapshot(by_force)).ends(1);
    let _ = refused.says(&gone).says("`snapshot repair` puts it back");
    fs::remove_file(&sidecar[0]).unwrap();
    let hint = format!("snapshot forget {gone} --force");
    for args in [&["prune"][..], &["verify"], &["ledger", "verify"]] {
        let run = Run::of(&mut place.snapshot(args)).ends(13);
        assert!(run.err.contains(&hint), "{args:?}: {}", run.err);
    }
    let repair = Run::of(&mut place.snapshot(["repair"])).ends(3);
    assert!(repair.err.contains(&hint), "{}", repair.err);
    // Whoever does not say that it is meant is told what it would do.
    let records = place.objects("ledger").len();
    let refused = Run::of(&mut place.snapshot(["forget", &gone])).ends(1);
    let _ = refused.says(&hint).says("snapshot repair");
    let part = ["forget", &gone[..12], "--force"];
    let _ = Run::of(&mut place.snapshot(part))
        .ends(13)
        .says(&format!("snapshot forget {gone} --force"));
    let mut dry = place.snapshot(["forget", &gone, "--force", "--dry-run", "--json"]);
    let dry = Run::of(&mut dry).ok().of_type("decision").remove(0);
    assert_eq!(
        (&dry["id"], &dry["verdict"]),
        (&gone.as_str().into(), &"forget".into())
    );
    assert_eq!(place.objects("ledger").len(), records);
    let done = Run::of(&mut place.snapshot(by_force)).ok();
    assert!(done.text().contains("1 of 1 forgotten"), "{}", done.text());
    assert!(
        !place
            .objects("refs")
            .iter()
            .any(|path| path.ends_with(&gone))
    );
    for has_copy in [true, false] {
        if !has_copy {
            forget_local(&place);
        }
        for args in [
            &["prune", "--force"][..],
            &["verify"],
            &["ledger", "verify"],
            &["repair"],
        ] {
            let _ = Run::of(&mut place.snapshot(args)).ok();
        }
    }
    let _ = Run::of(&mut place.snapshot(by_force)).ends(1);
    // It is as one that was forgotten: put back, it is told of, and everything of the other is there.
    fs::write(object, bytes).unwrap();
    let _ = Run::of(&mut place.restore(["run", &kept, "--to", "out"])).ok();
}

#[test]
fn a_held_snapshot_that_is_gone_is_released_before_it_is_given_up() {
    let place = Place::new();
    let gone = saved(&place, "a", "old");
    let _ = saved(&place, "a", "new");
    let _ = Run::of(&mut place.snapshot(["hold", &gone])).ok();
    let _ = take_away(&place, &gone);
    for sidecar in place.objects("parity/snap") {
        fs::remove_file(sidecar).unwrap();
    }
    let refused = Run::of(&mut place.snapshot(["prune"])).ends(13);
    let _ = refused.says(&format!("`snapshot release {gone}`"));
    let by_force = ["forget", &gone, "--force"];
    let refused = Run::of(&mut place.snapshot(by_force)).ends(11);
    let _ = refused.says(&format!("snapshot release {gone}"));
    let _ = Run::of(&mut place.snapshot(["release", &gone])).ok();
    let _ = Run::of(&mut place.snapshot(by_force)).ok();
    let _ = Run::of(&mut place.snapshot(["prune", "--force"])).ok();
}
