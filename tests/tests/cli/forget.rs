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
    let _ = Run::of(&mut place.snapshot(["forget", "latest"])).ok();
    assert_eq!(count(&place), 0);
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
