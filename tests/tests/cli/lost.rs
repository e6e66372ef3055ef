//! What is lost together: snapshots with their refs or the index, and names under which something lies that is no object.
//! `snapshot repair` mends all that can be mended in one run, and every nightly command says what is wrong.

use std::fs;
use std::path::Path;

use backup_tests::{Place, Run, read_tree};

use crate::damage::overwrite;
use crate::trouble::noise;

/// Two snapshots of content that they do not share.
fn saved() -> Place {
    let place = Place::empty();
    let _ = Run::of(&mut place.snapshot(["init", "--recovery-sheet", "sheet"])).ok();
    for round in 0..2 {
        place.write(format!("{round}/large"), noise(1 + round, 1 << 20));
        place.write(format!("{round}/small"), noise(11 + round, 7000));
        if round == 1 {
            fs::remove_dir_all(place.data().join("0")).unwrap();
        }
        place.wait_for_a_tick();
        let _ = place.save().ok();
    }
    place
}

fn snapshot(place: &Place, args: &[&str]) -> Run {
    Run::of(&mut place.snapshot(args))
}

fn is_whole(place: &Place) {
    let _ = place.verify().ok();
    let _ = snapshot(place, &["ledger", "verify"]).ok();
    let _ = snapshot(place, &["prune"]).ok();
    let _ = place.bring_back("out").ok();
    let back = read_tree(&place.path("out")).unwrap();
    assert_eq!(back, read_tree(&place.data()).unwrap());
    fs::remove_dir_all(place.path("out")).unwrap();
}

fn remove_all(place: &Place, folder: &str) {
    fs::remove_dir_all(place.repo().join(folder)).unwrap();
}

/// The newest snapshot's object and refs are taken away; gives its id.
fn lose_newest_with_refs(place: &Place) -> String {
    let object = place.objects("snap").pop().unwrap();
    let id = object.file_name().unwrap().to_str().unwrap().to_owned();
    fs::remove_file(object).unwrap();
    let refs = place.objects("refs").into_iter();
    let own: Vec<_> = refs.filter(|path| path.ends_with(&id)).collect();
    assert_eq!(own.len(), 1);
    fs::remove_file(&own[0]).unwrap();
    id
}

#[test]
fn a_snapshot_that_is_lost_with_its_refs_comes_back_with_a_key_that_reads() {
    let place = saved();
    let add = ["key", "add", "--new-key-file", "m", "--role", "maintenance"];
    let _ = snapshot(&place, &add).ok();
    let id = lose_newest_with_refs(&place);
    // It says which key is needed, and not that a copy is.
    let run = snapshot(&place, &["repair", "--key-file", "m"]).ends(3);
    assert!(
        run.err.contains(&id) && run.err.contains("full key"),
        "{}",
        run.err
    );
    let _ = snapshot(&place, &["prune"]).ends(13).says(&id);
    let dry = snapshot(&place, &["repair", "--dry-run"]).ends(3);
    let told = dry.text();
    assert!(
        told.contains(&id) && told.contains("its refs are gone"),
        "{told}"
    );
    let _ = snapshot(&place, &["repair"]).ok();
    is_whole(&place);
}

#[test]
fn one_repair_brings_back_all_snapshots_that_are_lost_with_the_index() {
    let folders: [&[&str]; 3] = [
        &["snap", "index"],
        &["snap", "refs"],
        &["snap", "index", "refs"],
    ];
    for lost in folders {
        let place = saved();
        lost.iter().for_each(|folder| remove_all(&place, folder));
        let _ = fs::remove_dir_all(place.path("cache"));
        let _ = place.verify().ends(13);
        let _ = snapshot(&place, &["repair"]).ok();
        assert_eq!(place.objects("snap").len(), 2, "{lost:?}");
        is_whole(&place);
        // There is nothing left to do.
        let again = snapshot(&place, &["repair", "--json"]).ok();
        assert_eq!(again.of_type("repaired")[0]["mended"], 0);
    }
}

#[test]
fn an_index_that_is_gone_is_heard_of_every_night() {
    let place = saved();
    let hint = "`snapshot repair index`";
    remove_all(&place, "index");
    for args in [
        &["prune"][..],
        &["prune", "--dry-run"],
        &["forget", "--keep-last", "5", "--prune"],
    ] {
        let run = snapshot(&place, args).ends(3);
        assert!(run.err.contains(hint), "{args:?}: {}", run.err);
    }
    let save = place.save().ends(3);
    let told = save.of_type("finding");
    assert!(
        told.iter().any(|one| one["subject"] == "the index"
            && one["kind"] == "missing"
            && one["detail"].as_str().unwrap().contains(hint)),
        "{told:?}"
    );
    let _ = snapshot(&place, &["repair", "index"]).ok();
    let _ = place.save().ok();
    is_whole(&place);
}

#[test]
fn nobody_gives_up_what_a_sidecar_brings_back() {
    for args in [
        &["--despite-gone"][..],
        &["--despite-gone", "--despite-ledger"],
    ] {
        let place = saved();
        let packs = place.objects("data");
        let object = place.objects("snap").remove(0);
        let id = object.file_name().unwrap().to_str().unwrap().to_owned();
        fs::remove_file(&object).unwrap();
        let prune =
            |place: &Place| Run::of(place.snapshot(["prune", "--max-unused", "0"]).args(args));
        let refused = prune(&place).ends(13);
        let _ = refused.says(&id).says("`snapshot repair`").says("forget");
        assert_eq!(place.objects("data"), packs);
        // A sidecar that gives nothing back keeps nothing either.
        let sidecar = place.objects("parity/snap").into_iter();
        let sidecar: Vec<_> = sidecar.filter(|path| path.ends_with(&id)).collect();
        let whole = fs::read(&sidecar[0]).unwrap();
        overwrite(&sidecar[0], &whole[..10]);
        let dry = Run::of(place.snapshot(["prune", "--dry-run"]).args(args)).ok();
        assert!(!dry.text().contains("unused: 0 B"), "{}", dry.text());
        overwrite(&sidecar[0], &whole);
        let _ = snapshot(&place, &["repair"]).ok();
        let _ = prune(&place).ok();
        is_whole(&place);
    }
}

/// Puts a folder in the place of an object.
fn in_its_place(path: &Path) {
    fs::remove_file(path).unwrap();
    fs::create_dir(path).unwrap();
    fs::write(path.join("something"), b"of somebody").unwrap();
}

#[test]
fn a_folder_in_the_place_of_an_object_keeps_nothing_else_from_being_mended() {
    for folder in ["data", "ledger", "parity/data", "parity/snap", "snap"] {
        let place = saved();
        let copy = place.path("copy");
        let copied = std::process::Command::new("cp")
            .arg("-a")
            .arg(place.repo())
            .arg(&copy)
            .status();
        assert!(copied.unwrap().success());
        let object = place.objects(folder).remove(0);
        in_its_place(&object);
        // Behind it in the order of a repair.
        let index = place.objects("index").remove(0);
        fs::remove_file(index).unwrap();
        let meta = place.objects("parity/meta").remove(0);
        fs::remove_file(&meta).unwrap();
        let repair = ["repair", "--json", "--from", copy.to_str().unwrap()];
        let run = snapshot(&place, &repair).ends(3);
        let name = object.strip_prefix(place.repo()).unwrap().to_str().unwrap();
        let told = run.of_type("finding");
        let is_told = told.iter().any(|one| {
            one["detail"].as_str().unwrap().contains(name)
                || one["subject"].as_str().unwrap().contains(name)
        });
        assert!(is_told, "{folder}: {told:?}");
        assert!(
            run.text().contains("is a folder"),
            "{folder}: {}",
            run.text()
        );
        assert!(meta.exists(), "{folder}");
        fs::remove_dir_all(&object).unwrap();
        let _ = snapshot(&place, &repair).ok();
        is_whole(&place);
    }
}
