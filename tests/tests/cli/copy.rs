//! Copies at other places: made, brought up to date, cut short, restored from alone.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use backup_tests::{Node, Place, Run, read_tree};

use crate::trouble::noise;

pub(crate) const OTHER: &str = "other";

pub(crate) fn saved(place: &Place) -> String {
    place.wait_for_a_tick();
    let saved = place.save().ok().of_type("saved").remove(0);
    saved["id"].as_str().unwrap().to_owned()
}

pub(crate) fn copy(place: &Place, more: &[&str]) -> Command {
    let mut command = place.snapshot(["copy", "--to", OTHER, "--json"]);
    command.args(more);
    command
}

/// A command that works with the copy.
pub(crate) fn at_other(place: &Place, mut command: Command) -> Command {
    command.env("BACKSTAY_REPO", place.path(OTHER));
    command
}

pub(crate) fn other(place: &Place, args: &[&str]) -> Command {
    at_other(place, place.snapshot(args))
}

pub(crate) fn ids(run: &mut Command) -> Vec<String> {
    let lines = Run::of(run).ok().of_type("snapshot");
    let id = |line: &serde_json::Value| line["id"].as_str().unwrap().to_owned();
    lines.iter().map(id).collect()
}

pub(crate) fn restored(place: &Place, id: &str) -> BTreeMap<PathBuf, Node> {
    let out = place.path("back");
    let _ = fs::remove_dir_all(&out);
    let wanted = format!("{id}:{}", place.data().display());
    let run = place.restore(["run", &wanted, "--to", "back"]);
    let _ = Run::of(&mut at_other(place, run)).ok();
    read_tree(&out).unwrap()
}

/// Whoever copies each night must hear that the newest is not among what was copied.
#[test]
fn a_copy_tells_of_a_snapshot_that_is_gone_where_it_copies_from() {
    let place = Place::new();
    let _first = saved(&place);
    let second = saved(&place);
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let object = place.objects("snap").into_iter();
    let mut object = object.filter(|path| path.ends_with(&second));
    fs::remove_file(object.next().unwrap()).unwrap();
    for more in [&[][..], &["--newest", "1"], &["--dry-run"]] {
        let told = Run::of(&mut copy(&place, more)).ends(3).of_type("finding");
        let is_named = |line: &serde_json::Value| line["subject"] == format!("snapshot {second}");
        assert!(told.iter().any(is_named), "{more:?}: {told:?}");
    }
}

/// The files below a folder, with what tells whether they were written anew.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut out = BTreeMap::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).into_iter().flatten().flatten() {
            let (path, meta) = (entry.path(), entry.metadata().unwrap());
            if meta.is_dir() {
                left.push(path);
            } else {
                out.insert(path, (meta.len(), meta.modified().unwrap()));
            }
        }
    }
    out
}

pub(crate) fn packs(folder: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut out = files(&folder.join("data"));
    out.extend(files(&folder.join("meta")));
    out
}

/// A place with three snapshots, and what each holds.
pub(crate) fn three() -> (Place, BTreeMap<String, BTreeMap<PathBuf, Node>>) {
    let place = Place::new();
    let mut known = BTreeMap::new();
    for round in 0..3u64 {
        place.write("kept", noise(1, 3 << 20));
        place.write("changes", noise(2 + round, 1 << 20));
        place.write(format!("small/{round}"), noise(20 + round, 5_000));
        let id = saved(&place);
        known.insert(id, read_tree(&place.data()).unwrap());
    }
    (place, known)
}

#[test]
fn a_copy_restores_alone_and_is_the_same_snapshot() {
    let (place, known) = three();
    let run = Run::of(&mut copy(&place, &[])).ok();
    let done = run.of_type("copies").remove(0);
    assert_eq!(done["copied"], 3, "{done}");
    assert_eq!(run.of_type("plan")[0]["makes_repository"], true);
    let list = ["list", "--json"];
    let listed = |mut command: Command| {
        let mut lines = Run::of(&mut command).ok().of_type("snapshot");
        lines.iter_mut().for_each(|line| {
            // When it was written.
            let _ = line.as_object_mut().unwrap().remove("t");
        });
        lines
    };
    assert_eq!(listed(place.snapshot(list)), listed(other(&place, &list)));
    // Nothing of the first is left, not even what this host remembers.
    for folder in ["repo", "cache", "state"] {
        fs::remove_dir_all(place.path(folder)).unwrap();
    }
    for (id, tree) in &known {
        assert!(restored(&place, id) == *tree, "{id} is not itself");
    }
    let verify = ["verify", "--level", "full"];
    let _ = Run::of(&mut other(&place, &verify)).ok();
    let ledger = Run::of(&mut other(&place, &["ledger", "verify"])).ok();
    assert!(!ledger.err.contains("does not know"), "{}", ledger.err);
    let keep = ["forget", "--keep-last", "1", "--dry-run", "--json"];
    let kept = Run::of(&mut other(&place, &keep)).ok().of_type("decision");
    assert_eq!(kept.len(), 3, "{kept:?}");
}

#[test]
fn what_is_there_is_not_sent_again() {
    let (place, _) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let before = files(&place.path(OTHER));
    let run = Run::of(&mut copy(&place, &[])).ok();
    let done = run.of_type("copies").remove(0);
    assert_eq!((&done["copied"], &done["there"]), (&0.into(), &3.into()));
    assert!(files(&place.path(OTHER)) == before, "something was written");
    // Of a further snapshot only what is new.
    place.write("changes", noise(77, 1 << 20));
    let id = saved(&place);
    let run = Run::of(&mut copy(&place, &[])).ok();
    let copied = run.of_type("copied");
    assert_eq!((copied.len(), &copied[0]["id"]), (1, &id.as_str().into()));
    let bytes = run.of_type("copies")[0]["bytes"].as_u64().unwrap();
    assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    for (path, file) in &before {
        assert_eq!(files(&place.path(OTHER)).get(path), Some(file));
    }
}

#[test]
fn a_dry_run_changes_nothing_and_filters_choose() {
    let (place, known) = three();
    let newest = known.keys().last().unwrap();
    let run = Run::of(&mut copy(&place, &["--dry-run"])).ok();
    let plan = run.of_type("plan").remove(0);
    assert_eq!(plan["lacking"], 3, "{plan}");
    assert!(plan["bytes"].as_u64().unwrap() > 5 << 20, "{plan}");
    assert!(!place.path(OTHER).exists());
    let _ = Run::of(&mut copy(&place, &["--host", "nobody"])).ok();
    let _ = Run::of(&mut copy(&place, &["latest", "--name", "x"])).ends(2);
    let _ = Run::of(&mut copy(&place, &["--newest", "1"])).ok();
    let list = ["list", "--json"];
    assert_eq!(ids(&mut other(&place, &list)), [newest.as_str()]);
    let before = files(&place.path(OTHER));
    let run = Run::of(&mut copy(&place, &["--dry-run"])).ok();
    assert_eq!(run.of_type("plan")[0]["lacking"], 2);
    assert!(files(&place.path(OTHER)) == before);
    let oldest = known.keys().next().unwrap();
    let _ = Run::of(&mut copy(&place, &[oldest])).ok();
    assert_eq!(ids(&mut other(&place, &list)).len(), 2);
    let itself = ["copy", "--to", "repo"];
    let _ = Run::of(&mut place.snapshot(itself)).ends(2);
    let inside = ["copy", "--to", "repo/second"];
    let refused = Run::of(&mut place.snapshot(inside)).ends(2);
    assert!(refused.err.contains("inside"), "{}", refused.err);
    assert!(!place.repo().join("second").exists());
}

#[test]
fn another_family_is_refused() {
    let (place, _) = three();
    let init = ["init", "--recovery-sheet", "sheet-2", "--key-file", "key-2"];
    let _ = Run::of(&mut other(&place, &init)).ok();
    let before = files(&place.path(OTHER));
    let run = Run::of(&mut copy(&place, &[])).ends(11);
    let _ = run.says("cannot go there");
    assert!(files(&place.path(OTHER)) == before);
    // Nor does anything go where a repository was.
    fs::remove_dir_all(place.path(OTHER).join("config")).unwrap();
    fs::remove_dir_all(place.path(OTHER).join("parity/config")).unwrap();
    let _ = Run::of(&mut copy(&place, &[])).ends(13);
}

#[test]
fn a_copy_that_was_killed_goes_on() {
    let (place, known) = three();
    let mut killed = 0;
    for nap in 0..40u64 {
        let before = packs(&place.path(OTHER));
        let mut command = copy(&place, &[]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3 * nap + 1));
        child.kill().unwrap();
        killed += u64::from(!child.wait().unwrap().success());
        for (path, file) in before {
            let now = packs(&place.path(OTHER));
            assert_eq!(now.get(&path), Some(&file), "it was sent again");
        }
    }
    assert!(killed > 0);
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let list = ["list", "--json"];
    assert_eq!(ids(&mut other(&place, &list)).len(), 3);
    for (id, tree) in &known {
        assert!(restored(&place, id) == *tree, "{id} is not itself");
    }
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
    let _ = Run::of(&mut other(&place, &["ledger", "verify"])).ok();
    // Whatever was sent twice under other names can be given back.
    let prune = ["prune", "--force", "--wait", "0", "--revoke-after", "0"];
    let _ = Run::of(&mut other(&place, &prune)).ok();
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
}

#[test]
fn each_place_forgets_and_prunes_for_itself() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let oldest = known.keys().next().unwrap();
    let forget = ["forget", oldest, "--prune"];
    let _ = Run::of(&mut other(&place, &forget)).ok();
    let list = ["list", "--json"];
    assert_eq!(ids(&mut place.snapshot(list)).len(), 3);
    // What was forgotten there stays away until somebody asks for it.
    let run = Run::of(&mut copy(&place, &[])).ok();
    assert_eq!(run.of_type("copies")[0]["forgotten"], 1);
    assert_eq!(ids(&mut other(&place, &list)).len(), 2);
    let _ = Run::of(&mut copy(&place, &["--again"])).ok();
    assert_eq!(ids(&mut other(&place, &list)).len(), 3);
    assert!(restored(&place, oldest) == known[oldest]);
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
    let _ = Run::of(&mut other(&place, &["ledger", "verify"])).ok();
    let _ = Run::of(&mut other(&place, &["prune"])).ok();
    // And what is forgotten here stays there.
    let forget = ["forget", oldest, "--prune"];
    let _ = Run::of(&mut place.snapshot(forget)).ok();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    assert!(restored(&place, oldest) == known[oldest]);
}

/// Both places write packs anew by themselves: what one has in other packs than the other is not sent again.
#[test]
fn chunks_that_lie_in_other_packs_there_are_not_sent_again() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let oldest = known.keys().next().unwrap();
    let all = ["prune", "--max-unused", "0"];
    let forget = ["forget", oldest];
    let _ = Run::of(&mut other(&place, &forget)).ok();
    let _ = Run::of(&mut other(&place, &all)).ok();
    let before = packs(&place.path(OTHER));
    for round in 0..3 {
        place.write("new", noise(90 + round, 100_000));
        let id = saved(&place);
        let run = Run::of(&mut copy(&place, &[])).ok();
        let bytes = run.of_type("copies")[0]["bytes"].as_u64().unwrap();
        assert!(bytes < 400_000, "{bytes}");
        assert!(restored(&place, &id) == read_tree(&place.data()).unwrap());
    }
    // The same the other way round.
    let _ = Run::of(&mut place.snapshot(forget)).ok();
    let _ = Run::of(&mut place.snapshot(all)).ok();
    place.write("new", noise(99, 100_000));
    let id = saved(&place);
    let run = Run::of(&mut copy(&place, &[])).ok();
    let bytes = run.of_type("copies")[0]["bytes"].as_u64().unwrap();
    assert!(bytes < 400_000, "{bytes}");
    assert!(restored(&place, &id) == read_tree(&place.data()).unwrap());
    for (path, file) in before {
        assert_eq!(packs(&place.path(OTHER)).get(&path), Some(&file));
    }
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
}

#[test]
fn prunes_of_both_places_meanwhile_take_nothing_away() {
    let (place, known) = three();
    let (oldest, newest) = (known.keys().next().unwrap(), known.keys().last().unwrap());
    let _ = Run::of(&mut copy(&place, &[newest])).ok();
    for round in 0..6u64 {
        let forget = ["forget", "--keep-last", "1"];
        let _ = Run::of(&mut other(&place, &forget)).ok();
        let mut copying = copy(&place, &["--again"]);
        copying.stdout(Stdio::piped()).stderr(Stdio::piped());
        let copying = copying.spawn().unwrap();
        std::thread::sleep(Duration::from_millis(round * 15));
        let prune = ["prune", "--force", "--max-unused", "0", "--wait", "0"];
        let mut pruning = vec![
            other(&place, &prune)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
            place
                .snapshot(prune)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        ];
        let copied: Run = copying.wait_with_output().unwrap().into();
        let _ = copied.ok();
        for prune in &mut pruning {
            let code = prune.wait().unwrap().code();
            // It waits for whoever is at work, and says so.
            assert!(matches!(code, Some(0 | 3)), "{code:?}");
        }
        for id in [oldest, newest] {
            assert!(restored(&place, id) == known[id], "{round}: {id}");
        }
    }
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
    let _ = Run::of(&mut place.snapshot(["verify", "--level", "full"])).ok();
}

#[test]
fn damage_stops_its_own_snapshot_alone_and_each_place_mends_the_other() {
    let (place, known) = three();
    let before = files(&place.repo().join("data"));
    place.write("changes", noise(500, 1 << 20));
    let broken = saved(&place);
    let new = files(&place.repo().join("data"));
    let new = new.keys().find(|path| !before.contains_key(*path)).unwrap();
    let whole = fs::read(new).unwrap();
    let mut bytes = whole.clone();
    bytes[100] ^= 1;
    fs::write(new, &bytes).unwrap();
    let run = Run::of(&mut copy(&place, &[])).ends(3);
    let told = run.of_type("finding");
    let is_named = |line: &serde_json::Value| line["subject"] == format!("snapshot {broken}");
    assert!(told.iter().any(is_named), "{told:?}");
    assert_eq!(run.of_type("copies")[0]["copied"], 3);
    assert!(
        !place
            .path(OTHER)
            .join(new.strip_prefix(place.repo()).unwrap())
            .exists()
    );
    let list = ["list", "--json"];
    assert!(!ids(&mut other(&place, &list)).contains(&broken));
    fs::write(new, &whole).unwrap();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    // A pack that is lost at one of them comes from the other.
    let pack = packs(&place.path(OTHER)).into_keys().next().unwrap();
    let name = pack.strip_prefix(place.path(OTHER)).unwrap().to_owned();
    for (lost, from, command) in [
        (place.repo(), OTHER, place.snapshot(["repair", "--from"])),
        (
            place.path(OTHER),
            "repo",
            other(&place, &["repair", "--from"]),
        ),
    ] {
        fs::remove_file(lost.join(&name)).unwrap();
        let mut command = command;
        let _ = Run::of(command.arg(from)).ok();
        assert!(lost.join(&name).exists());
    }
    for (id, tree) in &known {
        assert!(restored(&place, id) == *tree);
    }
}

#[test]
fn both_ledgers_tell_of_it() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let records = |mut command: Command| Run::of(&mut command).ok().of_type("ledger-record");
    let list = ["ledger", "list", "--json"];
    let of_op = |records: &[serde_json::Value]| {
        let copies = records.iter().filter(|one| one["op"] == "copy");
        copies.cloned().collect::<Vec<_>>()
    };
    let here = of_op(&records(place.snapshot(list)));
    assert_eq!(
        (here.len(), &here[0]["counts"]["snapshots"]),
        (1, &3.into())
    );
    assert!(here[0]["snapshot"].is_null());
    let there = of_op(&records(other(&place, &list)));
    let told: Vec<_> = there
        .iter()
        .map(|one| one["snapshot"].as_str().unwrap())
        .collect();
    assert_eq!(told, known.keys().map(String::as_str).collect::<Vec<_>>());
    assert!(there.iter().all(|one| one["counts"]["first-seen"].is_u64()));
}

/// What is saved at the place of a copy builds on what was copied there, and goes back.
#[test]
fn a_copy_is_a_repository_to_save_into() {
    let (place, _) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    place.write("changes", noise(600, 1 << 20));
    place.wait_for_a_tick();
    let mut save = other(&place, &["save", "--json"]);
    let saved = Run::of(save.arg(place.data()))
        .ok()
        .of_type("saved")
        .remove(0);
    assert!(saved["bytes_added"].as_u64().unwrap() < 2 << 20, "{saved}");
    let id = saved["id"].as_str().unwrap().to_owned();
    let mut back = other(&place, &["copy", "--json", "--to"]);
    let run = Run::of(back.arg(place.repo())).ok();
    assert_eq!(run.of_type("copied")[0]["id"], id.as_str());
    fs::remove_dir_all(place.path(OTHER)).unwrap();
    let wanted = format!("{id}:{}", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "back"])).ok();
    let back = read_tree(&place.path("back")).unwrap();
    assert!(back == read_tree(&place.data()).unwrap());
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
}

#[test]
fn keys_that_read_nothing_copy() {
    let (place, known) = three();
    for role in ["maintenance", "writer", "reader", "verifier"] {
        let mut add = place.snapshot(["key", "add", "--role", role, "--new-key-file", role]);
        if matches!(role, "maintenance" | "writer") {
            add.args(["--host", "copier"]);
        }
        let _ = Run::of(&mut add).ok();
    }
    for role in ["reader", "verifier"] {
        let mut copying = copy(&place, &[]);
        copying.env("BACKSTAY_KEY_FILE", place.path(role));
        let _ = Run::of(&mut copying).ends(12);
        assert!(!place.path(OTHER).exists());
    }
    let oldest = known.keys().next().unwrap();
    for (role, what) in [("writer", &[oldest.as_str()][..]), ("maintenance", &[])] {
        let mut copying = copy(&place, what);
        copying.env("BACKSTAY_KEY_FILE", place.path(role));
        let run = Run::of(&mut copying).ok();
        assert_eq!(run.of_type("copies")[0]["signed_as"], "copier");
    }
    for (id, tree) in &known {
        assert!(restored(&place, id) == *tree);
    }
    let _ = Run::of(&mut other(&place, &["verify", "--level", "full"])).ok();
}

/// A key that was added or removed, and keys that were rotated, where a copy is.
#[test]
fn keys_follow_the_copy() {
    let (place, _) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let _ = Run::of(&mut place.snapshot([
        "key",
        "rotate",
        "--new-key-file",
        "key-2",
        "--recovery-sheet",
        "sheet-2",
    ]))
    .ok();
    let with_new = |mut command: Command| {
        command.env("BACKSTAY_KEY_FILE", place.path("key-2"));
        command
    };
    place.write("changes", noise(700, 1 << 20));
    place.wait_for_a_tick();
    let mut save = with_new(place.snapshot(["save", "--json"]));
    let _ = Run::of(save.arg(place.data())).ok();
    let _ = Run::of(&mut with_new(copy(&place, &[]))).ok();
    let verify = ["verify", "--level", "full"];
    let _ = Run::of(&mut with_new(other(&place, &verify))).ok();
    assert!(place.path(OTHER).join("config/1").exists());
    // What opened it before and was taken away still opens the copy: that is told.
    let listed = Run::of(&mut with_new(place.snapshot(["key", "list", "--json"]))).ok();
    let slots = listed.of_type("key");
    let old = slots
        .iter()
        .find(|one| one["label"] == "recovery sheet")
        .unwrap();
    let id = old["id"].as_str().unwrap().to_owned();
    let _ = Run::of(&mut with_new(place.snapshot(["key", "remove", &id]))).ok();
    let run = Run::of(&mut with_new(copy(&place, &[]))).ends(3);
    let told = run.of_type("finding");
    assert!(
        told[0]["detail"].as_str().unwrap().contains("still opens"),
        "{told:?}"
    );
    let _ = Run::of(&mut with_new(other(&place, &["key", "remove", &id]))).ok();
    let _ = Run::of(&mut with_new(copy(&place, &[]))).ok();
}
