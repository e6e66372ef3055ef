//! Which snapshots are copied, what another place has beyond them, and how fast.

use std::fs;
use std::time::Instant;

use backup_tests::{Place, Run};
use serde_json::Value;

use crate::copy::{OTHER, copy, ids, other, restored, saved, three};
use crate::trouble::noise;

const LIST: [&str; 2] = ["list", "--json"];

fn sync(place: &Place, more: &[&str]) -> Run {
    let mut command = place.snapshot(["sync", "--to", OTHER, "--json"]);
    Run::of(command.args(more))
}

fn extra(run: &Run) -> Vec<(String, bool, String)> {
    let lines = run.of_type("extra");
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    lines
        .iter()
        .map(|line| {
            let forgotten = line["forgotten"].as_bool().unwrap();
            (text(line, "id"), forgotten, text(line, "stays"))
        })
        .collect()
}

#[test]
fn filters_choose_by_label_time_and_period() {
    let (place, known) = three();
    let newest = known.keys().last().unwrap();
    let mut save = place.snapshot(["save", "--json", "--label", "nightly", "--name", "other"]);
    let labelled = Run::of(save.arg(place.data())).ok().of_type("saved");
    let labelled = labelled[0]["id"].as_str().unwrap();
    let chosen = |more: &[&str]| -> Vec<String> {
        let run = Run::of(copy(&place, more).arg("--dry-run")).ok();
        let lines = run.of_type("candidate");
        let id = |line: &Value| line["id"].as_str().unwrap().to_owned();
        lines.iter().map(id).collect()
    };
    for (filter, count) in [
        (&["--since", "1h"][..], 4),
        (&["--since", "2020-01-01", "--until", "2199-01-01T10:00"], 4),
        (&["--until", "2020-01-01"], 0),
        (&["--since", "2199-01-01"], 0),
        // Of each name by itself.
        (&["--newest-per", "year"], 2),
        (&["--newest-per", "year", "--newest", "2"], 3),
        (
            &[
                "--newest-per",
                "month=1",
                "--newest-per",
                "year=1",
                "--until",
                "2020-01-01",
            ],
            0,
        ),
    ] {
        assert_eq!(chosen(filter).len(), count, "{filter:?}");
    }
    assert_eq!(chosen(&["--label", "nightly"]), [labelled]);
    assert_eq!(
        chosen(&["--newest-per", "year=1"]),
        [newest.as_str(), labelled]
    );
    for wrong in [
        &["--newest-per", "fortnight"][..],
        &["--newest-per", "week=0"],
        &["--until", "soon"],
        &["latest", "--since", "1h"],
        &["--limit-up", "0"],
        &["--limit-down", "fast"],
    ] {
        let _ = Run::of(&mut copy(&place, wrong)).ends(2);
    }
    // People see a table of what would come.
    let mut dry = place.snapshot(["copy", "--to", OTHER, "--dry-run"]);
    let text = Run::of(dry.args(["--newest-per", "year"])).ok().text();
    let head = text.lines().nth(1).unwrap();
    assert!(head.starts_with("ID") && head.contains("SIZE"), "{text}");
    assert!(!place.path(OTHER).exists());
}

#[test]
fn what_was_forgotten_here_goes_there_only_if_that_is_asked_for() {
    let (place, known) = three();
    let oldest = known.keys().next().unwrap();
    let run = sync(&place, &[]).ok();
    assert_eq!(run.of_type("copies")[0]["copied"], 3);
    assert_eq!(run.of_type("synced")[0]["extra"], 0);
    let _ = Run::of(&mut place.snapshot(["forget", oldest])).ok();
    for (more, stays) in [
        (&[][..], "this place has a retention of its own"),
        (&["--remove-vanished", "--dry-run"], ""),
        // What does not pass the filters is let alone.
    ] {
        let run = sync(&place, more).ok();
        assert_eq!(extra(&run), [(oldest.clone(), true, stays.to_owned())]);
        assert_eq!(run.of_type("synced")[0]["removed"], 0);
        assert_eq!(ids(&mut other(&place, &LIST)).len(), 3);
    }
    let run = sync(&place, &["--remove-vanished", "--name", "nobody"]).ok();
    assert_eq!(extra(&run), []);
    let run = sync(&place, &["--remove-vanished"]).ok();
    assert_eq!(run.of_type("synced")[0]["removed"], 1);
    let left = ids(&mut other(&place, &LIST));
    assert_eq!(left, ids(&mut place.snapshot(LIST)));
    let ledger = ["ledger", "list", "--op", "forget", "--json"];
    let told = Run::of(&mut other(&place, &ledger)).ok();
    assert_eq!(
        told.of_type("ledger-record")[0]["snapshot"],
        oldest.as_str()
    );
    // It is over: nothing comes back, and nothing more goes.
    let run = sync(&place, &["--remove-vanished"]).ok();
    assert_eq!(extra(&run), []);
    assert_eq!(run.of_type("copies")[0]["copied"], 0);
    assert_eq!(ids(&mut other(&place, &LIST)), left);
}

#[test]
fn what_is_held_lost_or_the_last_of_its_name_stays_there() {
    let (place, known) = three();
    let all: Vec<&str> = known.keys().map(String::as_str).collect();
    let mut save = place.snapshot(["save", "--json", "--name", "single"]);
    let single = Run::of(save.arg(place.data())).ok().of_type("saved");
    let single = single[0]["id"].as_str().unwrap().to_owned();
    let _ = sync(&place, &[]).ok();
    let _ = Run::of(&mut other(&place, &["hold", all[0]])).ok();
    let _ = Run::of(&mut place.snapshot(["forget", all[0]])).ok();
    let _ = Run::of(&mut place.snapshot(["forget", &single, "--force"])).ok();
    let run = sync(&place, &["--remove-vanished"]).ok();
    let last = "the last good one of its name and host";
    let mut found = extra(&run);
    found.sort();
    let mut wanted = [
        (all[0].to_owned(), true, "held".to_owned()),
        (single.clone(), true, last.to_owned()),
    ];
    wanted.sort();
    assert_eq!(found, wanted);
    assert_eq!(ids(&mut other(&place, &LIST)).len(), 4);
    // One is lost here: it is told of, and as long as it is missed nothing goes there.
    let _ = Run::of(&mut other(&place, &["release", all[0]])).ok();
    for prefix in ["snap", "parity/snap"] {
        let objects = place.objects(prefix).into_iter();
        for path in objects.filter(|path| path.to_string_lossy().contains(all[1])) {
            fs::remove_file(path).unwrap();
        }
    }
    let run = sync(&place, &["--remove-vanished"]).ends(3);
    let missed = format!("snapshot {}", all[1]);
    let told = run.of_type("finding");
    assert!(told.iter().any(|one| one["subject"] == missed), "{told:?}");
    assert_eq!(ids(&mut other(&place, &LIST)).len(), 4);
    // Given up here, its copy is the only one that there is.
    let _ = Run::of(&mut place.snapshot(["forget", all[1], "--force"])).ok();
    let run = sync(&place, &["--remove-vanished"]).ok();
    let found = extra(&run);
    let lost = (
        all[1].to_owned(),
        false,
        "this host did not forget it here".to_owned(),
    );
    assert!(found.contains(&lost), "{found:?}");
    assert_eq!(run.of_type("synced")[0]["removed"], 1);
    let left = ids(&mut other(&place, &LIST));
    assert!(left.iter().any(|id| id == all[1]) && !left.iter().any(|id| id == all[0]));
    assert!(restored(&place, all[1]) == known[all[1]]);
}

/// Who may not forget hears it before anything is sent.
#[test]
fn a_writer_key_syncs_and_takes_nothing_away() {
    let (place, _) = three();
    let add = [
        "key",
        "add",
        "--role",
        "writer",
        "--new-key-file",
        "writer",
        "--host",
        "nas",
    ];
    let _ = Run::of(&mut place.snapshot(add)).ok();
    let with_writer = |more: &[&str]| {
        let mut command = place.snapshot(["sync", "--to", OTHER]);
        command.args(more);
        command.env("BACKSTAY_KEY_FILE", place.path("writer"));
        Run::of(&mut command)
    };
    let _ = with_writer(&["--remove-vanished"]).ends(12);
    assert!(!place.path(OTHER).exists());
    let _ = with_writer(&[]).ok();
}

#[test]
fn a_limited_copy_takes_its_time() {
    let place = Place::new();
    place.write("large", noise(1, 8 << 20));
    let _ = saved(&place);
    let began = Instant::now();
    let run = Run::of(&mut copy(&place, &["--limit-up", "2M"])).ok();
    let took = began.elapsed().as_secs_f64();
    let bytes = run.of_type("copies")[0]["bytes"].as_u64().unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a few megabytes")]
    let wanted = bytes as f64 / f64::from(2 << 20);
    println!("{bytes} bytes at 2 MiB/s took {took:.2} s, {wanted:.2} were due");
    assert!(wanted > 3.5, "{wanted}");
    // A machine that is busy may take longer, and none less.
    assert!(
        (0.9..3.0).contains(&(took / wanted)),
        "{took} and not {wanted}"
    );
    // The other way.
    let wanted = format!("latest:{}", place.data().display());
    let began = Instant::now();
    let mut restore = place.restore(["run", &wanted, "--to", "back", "--limit-down", "2M/s"]);
    let _ = Run::of(&mut restore).ok();
    let took = began.elapsed().as_secs_f64();
    assert!((2.9..12.0).contains(&took), "{took}");
}
