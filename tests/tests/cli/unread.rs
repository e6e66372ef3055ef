//! Snapshots whose own object cannot be read, and repositories that do not open.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use backup_tests::{Place, Run};

fn flip(object: &Path) {
    let mut bytes = fs::read(object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    fs::set_permissions(object, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(object, bytes).unwrap();
}

/// Damages the object of the snapshot with this id, which nothing brings back, and empties the local cache.
fn damage_snapshot(place: &Place, id: &str) {
    let object = (place.objects("snap").into_iter()).find(|path| path.ends_with(id));
    flip(&object.unwrap());
    let sidecars = place.objects("parity/snap");
    let sidecar = sidecars.into_iter().find(|path| path.ends_with(id));
    fs::remove_file(sidecar.unwrap()).unwrap();
    let _ = fs::remove_dir_all(place.path("cache"));
}

fn saved_as(place: &Place, name: &str, content: &str) -> String {
    place.write("file", content);
    let mut save = place.snapshot(["save", "--json", "data", "--name", name]);
    let saved = Run::of(&mut save).ok().of_type("saved").remove(0);
    saved["id"].as_str().unwrap().to_owned()
}

#[test]
fn nothing_older_is_taken_for_a_newest_snapshot_that_is_damaged() {
    let place = Place::new();
    let old = saved_as(&place, "a", "old");
    let other = saved_as(&place, "b", "other");
    let newest = saved_as(&place, "a", "new");
    damage_snapshot(&place, &newest);
    for spec in ["latest:a", "latest:b", "latest", "2100-01-01"] {
        let run = Run::of(&mut place.restore(["run", spec, "--to", "out"])).ends(13);
        assert!(
            run.err.contains(&newest) && run.err.contains("snap/"),
            "{}",
            run.err
        );
        let _ = Run::of(&mut place.snapshot(["hold", spec]))
            .ends(13)
            .says(&newest);
        let _ = Run::of(&mut place.snapshot(["forget", spec]))
            .ends(13)
            .says(&newest);
        let _ = Run::of(&mut place.snapshot(["verify", spec])).ends(13);
    }
    assert!(!place.path("out").exists() && place.objects("holds").is_empty());
    assert_eq!(place.objects("snap").len(), 3);
    // An id is one whatever else is damaged, and a time before the damaged one was begun too.
    let _ = Run::of(&mut place.restore(["run", &old, "--to", "out"])).ok();
    let _ = Run::of(&mut place.restore(["ls", &other[18..]])).ok();
    let _ = Run::of(&mut place.snapshot(["list"]))
        .ends(13)
        .says(&newest);
}

#[test]
fn an_older_damaged_snapshot_does_not_hinder_the_newest() {
    let place = Place::new();
    let old = saved_as(&place, "a", "old");
    let _ = saved_as(&place, "a", "new");
    damage_snapshot(&place, &old);
    let _ = Run::of(&mut place.restore(["run", "latest:a", "--to", "out"])).ok();
    let _ = Run::of(&mut place.restore(["ls", &old]))
        .ends(13)
        .says(&old);
}

#[test]
fn a_damaged_snapshot_is_forgotten_by_its_whole_id() {
    let place = Place::new();
    let _ = saved_as(&place, "a", "old");
    let lost = saved_as(&place, "a", "new");
    let _ = Run::of(&mut place.snapshot(["hold", &lost])).ok();
    damage_snapshot(&place, &lost);
    let forget = |args: &[&str]| Run::of(place.snapshot(["forget", "--json"]).args(args));
    let _ = forget(&["--keep-last", "1"]).ends(3);
    let _ = forget(&[&lost[..12]]).ends(13).says("whole id");
    let _ = forget(&[&lost]).ends(11).says("release");
    let _ = Run::of(&mut place.snapshot(["release", &lost])).ok();
    let shown = forget(&[&lost, "--dry-run"])
        .ok()
        .of_type("decision")
        .remove(0);
    assert_eq!(shown["verdict"], "forget");
    assert_eq!(place.objects("snap").len(), 2);
    let _ = forget(&[&lost]).ok();
    assert_eq!(
        (place.objects("snap").len(), place.objects("refs").len()),
        (1, 1)
    );
    let _ = forget(&["--keep-last", "1"]).ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.restore(["run", "latest", "--to", "out"])).ok();
}

#[test]
fn a_repository_without_its_config_is_not_built_over() {
    for kept in ["snap", "data", "index", "sessions", "ledger"] {
        let place = Place::new();
        let _ = saved_as(&place, "a", &"content".repeat(100_000));
        for object in [
            "config", "snap", "data", "meta", "index", "refs", "sessions", "ledger", "parity",
        ] {
            if object != kept {
                let _ = fs::remove_dir_all(place.repo().join(object));
            }
        }
        let before = place.objects("");
        let _ = Run::of(&mut place.snapshot(["list"]))
            .ends(13)
            .says("config/0");
        let _ = place.save().ends(13).says("another copy");
        let mut init = place.snapshot(["init", "--key-file", "other"]);
        let _ = Run::of(&mut init).ends(13).says("config/0");
        assert_eq!(place.objects(""), before);
        assert!(!place.path("other").exists());
    }
}

#[test]
fn what_keeps_a_repository_from_opening_says_what_helps() {
    for prefix in ["config", "keys"] {
        let place = Place::new();
        for object in place.objects(prefix) {
            flip(&object);
        }
        place.lose_sidecars(prefix);
        let run = Run::of(&mut place.snapshot(["verify"])).ends(13);
        assert!(!run.err.contains("verify` tells"), "{}", run.err);
        assert!(run.err.contains("another copy"), "{}", run.err);
    }
}
