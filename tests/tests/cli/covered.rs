//! What verifications cover is remembered, and told with what damage hurts.

use std::fs;

use backup_tests::{Place, Run};
use serde_json::Value;

use crate::trouble::noise;

fn verify(place: &Place, args: &[&str]) -> Run {
    let level = ["verify", "--json", "--level", "full"];
    Run::of(place.snapshot(level).args(args))
}

fn covered(run: &Run) -> Value {
    run.of_type("coverage").remove(0)
}

/// Three snapshots, each with packs of its own.
fn place() -> Place {
    let place = Place::new();
    for round in 0..3 {
        place.write("file", noise(round, 1 << 20));
        place.wait_for_a_tick();
        let _ = place.save().ok();
    }
    place
}

#[test]
fn small_budgets_cover_everything_in_the_end() {
    let place = place();
    let before = covered(&Run::of(&mut place.snapshot(["verify", "--coverage", "--json"])).ok());
    assert_eq!(before["full"]["packs"], 0);
    assert_eq!(before["packs"], 6);
    let mut last = 0;
    for budget in ["1K", "1s", "1M", "2M", "1K", "1min"] {
        let run = verify(&place, &["--budget", budget]).ok();
        let now = covered(&run);
        assert_eq!(now["remembered"], true);
        let packs = now["full"]["packs"].as_u64().unwrap();
        assert!(packs > last || packs == 6, "{budget}: {now}");
        last = packs;
    }
    assert_eq!(last, 6);
    let people = Run::of(&mut place.snapshot(["verify", "--coverage"]))
        .ok()
        .text();
    assert!(
        people.contains("oldest check") && people.contains("100%"),
        "{people}"
    );
    fs::remove_dir_all(place.path("cache")).unwrap();
    let lost = covered(&Run::of(&mut place.snapshot(["verify", "--coverage", "--json"])).ok());
    assert_eq!(lost["full"]["packs"], 0);
}

/// Two disks that take turns at one place, and the second one is rotten.
#[test]
fn another_disk_at_the_same_place_is_not_what_was_checked() {
    let place = place();
    let _ = verify(&place, &[]).ok();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([place.repo(), place.path("other")])
        .status();
    assert!(copied.unwrap().success());
    let swap = |from: &str, to: &str| {
        fs::rename(place.repo(), place.path(to)).unwrap();
        fs::rename(place.path(from), place.repo()).unwrap();
    };
    let coverage = || {
        let args = ["verify", "--coverage", "--json"];
        covered(&Run::of(&mut place.snapshot(args)).ok())["full"]["packs"].clone()
    };
    assert_eq!(coverage(), 6);
    swap("other", "one");
    assert_eq!(coverage(), 0);
    let _ = verify(&place, &["--budget", "1K"]).ok();
    assert_eq!(coverage(), 1);
    // And the first one is still known when it comes back.
    swap("one", "other");
    assert_eq!(coverage(), 6);
}

#[test]
fn another_copy_of_the_repository_has_a_coverage_of_its_own() {
    let place = place();
    let _ = verify(&place, &[]).ok();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .args([place.repo(), place.path("copy")])
        .status();
    assert!(copied.unwrap().success());
    let args = ["verify", "--coverage", "--json"];
    let of_copy = Run::of(place.snapshot(args).arg("--repo").arg(place.path("copy"))).ok();
    assert_eq!(covered(&of_copy)["full"]["packs"], 0);
    let here = Run::of(&mut place.snapshot(args)).ok();
    assert_eq!(covered(&here)["full"]["packs"], 6);
}

#[test]
fn contents_are_hashed_once_or_all_anew() {
    let place = place();
    let hashed = |run: Run| run.of_type("verified")[0]["contents_hashed"].clone();
    assert_eq!(hashed(verify(&place, &[]).ok()), 3);
    assert_eq!(hashed(verify(&place, &[]).ok()), 0);
    assert_eq!(hashed(verify(&place, &["--rehash"]).ok()), 3);
}

/// Every content is hashed once, but only as many in one run as there is content, and 4 GiB.
#[test]
fn a_first_full_read_says_what_it_leaves_and_the_next_one_ends_it() {
    let place = Place::new();
    place.write("a", "");
    let hole = fs::File::options().write(true).open(place.data().join("a"));
    hole.unwrap().set_len(4 << 30).unwrap();
    place.write("b", noise(1, 1000));
    place.write("c", noise(2, 2000));
    let _ = place.save().ok();
    let said = |args: &[&str]| {
        let level = ["verify", "--level", "full"];
        let run = Run::of(place.snapshot(level).args(args)).ok().text();
        let line = |words: &str| {
            run.lines()
                .find(|line| line.contains(words))
                .map(str::to_owned)
        };
        (line("not yet compared"), line("no damage found").unwrap())
    };
    let (left, found) = said(&[]);
    let left = left.unwrap();
    assert!(
        left.starts_with("2 file contents (") && left.ends_with("; --rehash does all now"),
        "{left}"
    );
    assert_eq!(found, "no damage found in what was read so far");
    assert_eq!(said(&[]), (None, "no damage found".into()));
    // With a budget there is as much as it allows.
    fs::remove_dir_all(place.path("cache")).unwrap();
    let (left, found) = said(&["--budget", "1K"]);
    let left = left.unwrap();
    assert!(
        left.starts_with("3 file contents (") && left.ends_with("the next runs go on"),
        "{left}"
    );
    assert_eq!(found, "no damage found in what was read so far");
    // And one that was left before, however large it is.
    let next = verify(&place, &["--budget", "1K"])
        .ok()
        .of_type("verified")
        .remove(0);
    assert_eq!(
        (&next["contents_left"], &next["contents_hashed"]),
        (&2.into(), &1.into())
    );
}

#[test]
fn damage_is_told_object_by_object_and_by_a_verifier_without_paths() {
    let place = place();
    let mut add = place.snapshot([
        "key",
        "add",
        "--role",
        "verifier",
        "--new-key-file",
        "verifier",
    ]);
    let _ = Run::of(&mut add).ok();
    let victim = place.largest_pack();
    let mut bytes = fs::read(&victim).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    crate::damage::overwrite(&victim, &bytes);
    let run = verify(&place, &[]).ends(13);
    let damage = run.of_type("damage");
    let chunk = damage
        .iter()
        .find(|one| one["object"].as_str().unwrap().starts_with("chunk"));
    let chunk = chunk.unwrap();
    assert_eq!(
        (&chunk["snapshot_count"], &chunk["path_count"]),
        (&1.into(), &1.into())
    );
    let path = chunk["paths"][0]["path"].as_str().unwrap();
    assert!(
        path.starts_with('/') && path.ends_with("/data/file"),
        "{path}"
    );
    assert_eq!(covered(&run)["damaged_packs"], 1);
    let snapshot = chunk["snapshots"][0].clone();
    for level in ["checksum", "full"] {
        let args = [
            "verify",
            "--json",
            "--level",
            level,
            "--key-file",
            "verifier",
        ];
        let run = Run::of(&mut place.snapshot(args)).ends(13);
        let damage = run.of_type("damage");
        assert_eq!(damage.len(), 1, "{level}");
        assert_eq!(damage[0]["snapshots"][0], snapshot);
        assert_eq!(damage[0]["path_count"], 0);
        let named = run.of_type("finding").into_iter().any(|finding| {
            let subject = finding["subject"].as_str().unwrap();
            subject == format!("snapshot {}", snapshot.as_str().unwrap())
        });
        assert!(named, "{level}: {}", run.text());
        assert_eq!(covered(&run)["full"]["packs"], 5, "as the full key left it");
    }
}

#[test]
fn budgets_that_are_none_are_refused() {
    let place = Place::new();
    for wrong in ["10m", "0min", "x", "10days", "99999999h", ""] {
        let args = ["verify", "--level", "full", "--budget", wrong];
        let _ = Run::of(&mut place.snapshot(args)).ends(2);
    }
    for args in [
        &["--budget", "10min"][..],
        &["--rehash"],
        &["--level", "checksum", "--rehash"],
        &["--level", "full", "--budget", "1h", "--slice", "1/3"],
        &["--coverage", "--level", "full"],
    ] {
        let _ = Run::of(place.snapshot(["verify"]).args(args)).ends(2);
    }
}
