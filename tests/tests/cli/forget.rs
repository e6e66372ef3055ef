//! Forgetting.

use backup_tests::{Place, Run};

fn count(place: &Place) -> usize {
    Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot")
        .len()
}

#[test]
fn a_dry_run_forgets_nothing_and_the_real_one_what_it_showed() {
    let place = Place::new();
    for number in 0..4 {
        place.write("a", format!("{number}"));
        let _ = place.save().ok();
    }
    let _ = place.pipe("other", b"of another line").ok();
    let forget = |more: &[&str]| {
        let mut forget = place.snapshot(["forget", "--keep-last", "2", "--json"]);
        Run::of(forget.args(more)).ok().of_type("decision")
    };
    let verdicts = |lines: &[serde_json::Value]| {
        let pair = |line: &serde_json::Value| (line["id"].to_string(), line["verdict"].to_string());
        lines.iter().map(pair).collect::<Vec<_>>()
    };
    let shown = forget(&["--dry-run"]);
    assert_eq!(count(&place), 5);
    assert_eq!(
        shown
            .iter()
            .filter(|line| line["verdict"] == "forget")
            .count(),
        2
    );
    assert!(
        shown
            .iter()
            .all(|line| !line["reasons"].as_array().unwrap().is_empty())
    );
    assert_eq!(verdicts(&forget(&[])), verdicts(&shown));
    assert_eq!(count(&place), 3);
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = place.bring_back("out").ends(1);
    let name = place.data().display().to_string();
    let latest = format!("latest:{}:{name}", name.trim_start_matches('/'));
    let _ = Run::of(&mut place.restore(["run", &latest, "--to", "out"])).ok();
    assert_eq!(std::fs::read(place.path("out/a")).unwrap(), b"3");
}

#[test]
fn nothing_is_forgotten_without_a_rule_or_a_name() {
    let place = Place::new();
    let _ = place.pipe("x", b"x").ok();
    let _ = Run::of(&mut place.snapshot(["forget"])).ends(2);
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "0"])).ends(2);
    let _ = Run::of(&mut place.snapshot(["forget", "latest", "--keep-last", "1"])).ends(2);
    let _ = Run::of(&mut place.snapshot(["forget", "ZZZZZZZZ"])).ends(1);
    assert_eq!(count(&place), 1);
    // The last good one of a line is not let go of by a slip of the hand.
    for dry in [
        &["forget", "latest", "--dry-run"][..],
        &["forget", "latest"],
    ] {
        let refused = Run::of(&mut place.snapshot(dry)).ends(1);
        let _ = refused.says("last good one of x").says("--force");
        assert_eq!(count(&place), 1);
    }
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1", "--force"])).ends(2);
    let _ = Run::of(&mut place.snapshot(["forget", "latest", "--force"])).ok();
    assert_eq!(count(&place), 0);
}

/// What verification has found damaged is no good one, however new it is.
#[test]
fn the_last_snapshot_that_is_not_damaged_stays() {
    let place = Place::new();
    place.write("a", crate::trouble::noise(1, 2 << 20));
    let good = place.save().ok().of_type("saved").remove(0);
    let good = good["id"].as_str().unwrap().to_owned();
    let before = place.objects("data");
    place.write("a", crate::trouble::noise(2, 2 << 20));
    let newest = place.save().ok().of_type("saved").remove(0);
    let newest = newest["id"].as_str().unwrap().to_owned();
    let pack = place
        .objects("data")
        .into_iter()
        .find(|one| !before.contains(one));
    let pack = pack.unwrap();
    place.lose_sidecars("data");
    let whole = std::fs::read(&pack).unwrap();
    let mut bytes = whole.clone();
    bytes[1000] ^= 1;
    std::fs::write(&pack, bytes).unwrap();
    let keep_last = ["forget", "--keep-last", "1", "--json"];
    let decided = |run: &[&str]| {
        let lines = Run::of(&mut place.snapshot(run)).ok().of_type("decision");
        let line = lines.into_iter().find(|line| line["id"] == good.as_str());
        line.unwrap()
    };
    // Nobody knows it yet.
    let dry = ["forget", "--keep-last", "1", "--json", "--dry-run"];
    assert_eq!(decided(&dry)["verdict"], "forget");
    let level = ["verify", "--level", "full"];
    let _ = Run::of(&mut place.snapshot(level)).ends(13);
    let line = decided(&keep_last);
    assert_eq!(line["verdict"], "keep", "{line}");
    assert_eq!(line["reasons"][0], "newest that is not damaged");
    let refused = Run::of(&mut place.snapshot(["forget", &good])).ends(1);
    let _ = refused.says(&good).says("--force");
    // Once it was mended it is a good one (what is said is that packs have no parity).
    std::fs::write(&pack, whole).unwrap();
    let _ = Run::of(&mut place.snapshot(["verify", "--level", "full", "--rehash"])).ends(3);
    let _ = Run::of(&mut place.snapshot(["forget", &good])).ok();
    assert_eq!(ids(&place), [newest]);
}

#[test]
fn only_the_lines_that_are_named_are_decided_on() {
    let place = Place::new();
    for name in ["a", "b"] {
        for content in [b"1", b"2"] {
            let _ = place.pipe(name, content).ok();
        }
    }
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1", "--name", "a"])).ok();
    let left = Run::of(&mut place.snapshot(["list", "--json"]))
        .ok()
        .of_type("snapshot");
    let names: Vec<&str> = left
        .iter()
        .map(|line| line["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.iter().filter(|name| **name == "a").count(), 1);
    assert_eq!(names.iter().filter(|name| **name == "b").count(), 2);
}

/// A job whose name has a typo must not seem to do its work for ever.
#[test]
fn filters_that_let_no_snapshot_pass_are_told() {
    let place = Place::new();
    let forget = |more: &[&str]| {
        let mut forget = place.snapshot(["forget", "--keep-last", "1"]);
        Run::of(forget.args(more))
    };
    // The first forget may come before the first save.
    let _ = forget(&["--name", "a", "--tag", "t"]).ok();
    for (name, tag) in [("a", "t"), ("b", "u"), ("b", "u")] {
        place.write("file", name);
        let save = [
            "save", "data", "--name", name, "--tag", tag, "--label", "daily",
        ];
        let _ = Run::of(&mut place.snapshot(save)).ok();
    }
    for (filter, told) in [
        (
            &["--name", "aa"][..],
            "--name aa: skipped: no snapshot has it; there are a, b",
        ),
        (
            &["--host", "other"],
            "--host other: skipped: no snapshot has it; there are ",
        ),
        (
            &["--tag", "t", "--tag", "x"],
            "--tag x: skipped: no snapshot has it; there are t, u",
        ),
        (
            &["--label", "dayly"],
            "--label dayly: skipped: no snapshot has it; there are daily",
        ),
        (&["--name", "a", "--tag", "u"], "none has all of them"),
    ] {
        let _ = forget(filter).ends(3).says(told);
        let _ = forget(&[filter, &["--dry-run", "--quiet"]].concat())
            .ends(3)
            .says(told);
        let findings = forget(&[filter, &["--json"]].concat())
            .ends(3)
            .of_type("finding");
        assert_eq!(findings.len(), 1, "{findings:?}");
    }
    assert_eq!(count(&place), 3);
    let _ = forget(&["--name", "b", "--tag", "u", "--label", "daily"]).ok();
    assert_eq!(count(&place), 2);
}

fn ids(place: &Place) -> Vec<String> {
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    let ids = listed.of_type("snapshot");
    ids.iter()
        .map(|line| line["id"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn what_is_held_is_not_forgotten_until_it_is_released() {
    let place = Place::new();
    for content in [b"1", b"2", b"3"] {
        let _ = place.pipe("x", content).ok();
    }
    let all = ids(&place);
    let oldest = all[0].as_str();
    let hold = ["hold", oldest, "--reason", "evidence", "--json"];
    let held = Run::of(&mut place.snapshot(hold)).ok().of_type("held");
    assert_eq!(
        (&held[0]["id"], &held[0]["changed"]),
        (&oldest.into(), &true.into())
    );
    let again = Run::of(&mut place.snapshot(hold)).ok().of_type("held");
    assert_eq!(again[0]["changed"], false);
    let listed = Run::of(&mut place.snapshot(["list"])).ok().text();
    assert_eq!(listed.matches("held").count(), 1, "{listed}");
    // Named together with another one it keeps both.
    let _ = Run::of(&mut place.snapshot(["forget", oldest, "latest"]))
        .ends(11)
        .says("is held");
    assert_eq!(count(&place), 3);
    let table = Run::of(&mut place.snapshot(["forget", "--keep-last", "1"]))
        .ok()
        .text();
    assert!(table.contains("keep     held"), "{table}");
    assert_eq!(ids(&place), [oldest, &all[2]]);
    let _ = Run::of(&mut place.snapshot(["release", oldest])).ok();
    let _ = Run::of(&mut place.snapshot(["release", oldest]))
        .ok()
        .says("is not held");
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1"])).ok();
    assert_eq!(ids(&place), [all[2].as_str()]);
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = Run::of(&mut place.snapshot(["hold", "ZZZZZZZZ"])).ends(1);
}

#[test]
fn a_key_that_cannot_sign_leaves_no_hold() {
    let place = Place::new();
    let _ = place.pipe("x", b"x").ok();
    let add = ["key", "add", "--new-key-file", "reader", "--role", "reader"];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let _ = Run::of(&mut place.snapshot(["hold", "latest", "--key-file", "reader"])).ends(12);
    assert!(place.objects("holds").is_empty());
}

#[test]
fn the_versions_of_a_file_are_kept_however_often_it_was_saved() {
    let place = Place::new();
    let mut saved = Vec::new();
    for (file, other) in [("1", "a"), ("1", "b"), ("2", "b"), ("3", "b"), ("3", "c")] {
        place.write("thesis", file);
        place.write("other", other);
        let one = place.save().ok().of_type("saved").remove(0);
        saved.push(one["id"].as_str().unwrap().to_owned());
    }
    let path = place.data().join("thesis").display().to_string();
    let forget = |more: &[&str]| {
        let mut forget = place.snapshot(["forget", "--json", "--keep-versions", "2"]);
        Run::of(forget.args(more))
    };
    let unknown = forget(&["--versions-of", "/no/such/file"]).ends(2);
    assert!(
        unknown.err.contains("nothing is forgotten"),
        "{}",
        unknown.err
    );
    let _ = forget(&[]).ends(2);
    let decided = forget(&["--versions-of", &path]).ok().of_type("decision");
    let reason = |place: usize| decided[place]["reasons"].to_string();
    assert!(reason(2).contains("versions 2"), "{}", reason(2));
    assert!(reason(4).contains("versions 1"), "{}", reason(4));
    assert_eq!(ids(&place), [saved[2].as_str(), &saved[4]]);
}

#[test]
fn rules_are_for_the_label_and_the_tag_that_are_named() {
    let place = Place::new();
    for (tag, label) in [
        ("a", "daily"),
        ("a", "daily"),
        ("b", "hourly"),
        ("b", "hourly"),
    ] {
        place.write("file", format!("{tag}{label}"));
        let mut save = place.snapshot(["save", "data", "--name", "n", "--tag", tag]);
        let _ = Run::of(save.args(["--label", label])).ok();
    }
    let all = ids(&place);
    let forget = |args: &[&str]| {
        let mut forget = place.snapshot(["forget", "--dry-run", "--json"]);
        let run = Run::of(forget.args(args)).ok();
        let gone = run.of_type("decision").into_iter();
        gone.filter(|line| line["verdict"] == "forget")
            .map(|line| line["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        forget(&["--keep-last", "1", "--label", "daily"]),
        [all[0].clone()]
    );
    assert_eq!(
        forget(&["--keep-last", "1", "--tag", "b"]),
        [all[2].clone()]
    );
    assert_eq!(forget(&["--keep-tag", "a"]), [all[2].clone()]);
    assert_eq!(forget(&["--keep-last", "all"]), [""; 0]);
    assert_eq!(forget(&["--keep-within", "1h"]), [""; 0]);
    assert_eq!(
        forget(&["--keep-yearly", "1", "--week-start", "sunday"]).len(),
        3
    );
}

#[test]
fn rules_that_cannot_be_read_are_usage_errors() {
    let place = Place::new();
    let _ = place.pipe("x", b"x").ok();
    for args in [
        ["--keep-within", "1x"],
        ["--keep-daily", "many"],
        ["--week-start", "noday"],
        ["--keep-versions", "0"],
    ] {
        let _ = Run::of(place.snapshot(["forget"]).args(args)).ends(2);
    }
    assert_eq!(count(&place), 1);
}

#[test]
fn what_a_killed_put_left_long_ago_goes_with_the_next_forget() {
    let place = Place::new();
    let _ = place.pipe("x", b"x").ok();
    let left = |digit: &str| place.repo().join(format!("data/.tmp-{}", digit.repeat(32)));
    let (old, new) = (left("a"), left("b"));
    let day = std::time::Duration::from_secs(86_400);
    for path in [&old, &new] {
        std::fs::write(path, "half of a pack").unwrap();
    }
    let file = std::fs::File::options().write(true).open(&old).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written - 2 * day).unwrap();
    let keep = ["forget", "--keep-last", "1"];
    let _ = Run::of(place.snapshot(keep).arg("--dry-run")).ok();
    assert!(old.exists());
    let _ = Run::of(&mut place.snapshot(keep)).ok();
    assert!(!old.exists() && new.exists());
}
