//! Packs and index runs that are lost or cut off: the next save makes good what it can, and nobody goes
//! on without a word.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use backup_tests::{Place, Run};

use crate::trouble::noise;

fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn name(path: &Path) -> String {
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// Small files and a large one, saved twice: the second run had nothing to store.
fn saved_twice() -> (Place, String) {
    let place = Place::new();
    for number in 0..20u64 {
        place.write(format!("small/{number}"), noise(number, 20_000));
    }
    place.write("large", noise(100, 3 << 20));
    place.wait_for_a_tick();
    let first = place.save().ok().of_type("saved").remove(0);
    let second = place.save().ok().of_type("saved").remove(0);
    assert_eq!(second["unchanged"], second["files"]);
    (place, first["id"].as_str().unwrap().to_owned())
}

#[test]
fn the_next_save_stores_anew_what_a_lost_pack_held_and_names_it() {
    for (folder, is_cut) in [("data", false), ("data", true), ("meta", false)] {
        for extra in [[].as_slice(), &["--reread"]] {
            let (place, old) = saved_twice();
            let lost: Vec<_> = place.objects(folder);
            for pack in &lost {
                if is_cut {
                    cut(pack);
                } else {
                    fs::remove_file(pack).unwrap();
                }
            }
            let mut save = place.snapshot(["save", "--json"]);
            let run = Run::of(save.args(extra).arg(place.data())).ends(3);
            for pack in &lost {
                let subject = format!("{folder}/");
                let told = run.of_type("finding");
                let is_told = told.iter().any(|one| {
                    let said = one["subject"].as_str().unwrap();
                    said.starts_with(&subject) && said.contains(&name(pack))
                });
                assert!(is_told, "{told:?}");
            }
            let saved = run.of_type("saved").remove(0);
            let id = saved["id"].as_str().unwrap();
            assert_eq!(saved["findings"], 0, "the snapshot itself is whole");
            // What is new is whole; that the old one was hurt is still told.
            let _ = Run::of(&mut place.snapshot(["verify", "--level", "full", id])).ok();
            let _ = place.verify().ends(13);
            let _ = place.bring_back("out").ok();
            assert!(fs::read(place.path("out/large")).unwrap() == noise(100, 3 << 20));
            if folder == "data" {
                // The old ones find it where it lies now.
                let wanted = format!("{old}:{}", place.data().display());
                let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "old"])).ok();
                assert!(fs::read(place.path("old/small/3")).unwrap() == noise(3, 20_000));
            }
        }
    }
}

#[test]
fn a_prune_names_lost_packs_and_drops_those_that_nothing_needs() {
    let (place, old) = saved_twice();
    let lost = place.largest_pack();
    fs::remove_file(&lost).unwrap();
    for args in [
        ["prune", "--json", "--dry-run"].as_slice(),
        &["prune", "--json"],
    ] {
        let run = Run::of(&mut place.snapshot(args)).ends(3);
        let finding = run.of_type("finding").remove(0);
        assert!(finding["subject"].as_str().unwrap().contains(&name(&lost)));
        assert!(
            finding["detail"].as_str().unwrap().contains(&old),
            "{finding}"
        );
        assert_eq!(run.of_type("plan")[0]["missing_packs"], 1);
    }
    // It is kept in the index as long as a snapshot needs it.
    let _ = place.save().ends(3);
    let forget = ["forget", "--keep-last", "1"];
    let _ = Run::of(&mut place.snapshot(forget)).ok();
    let run = Run::of(&mut place.snapshot(["prune", "--json"])).ends(3);
    let finding = run.of_type("finding").remove(0);
    assert!(
        finding["detail"]
            .as_str()
            .unwrap()
            .contains("taken out of the index"),
        "{finding}"
    );
    let _ = Run::of(&mut place.snapshot(["prune"])).ok();
    let _ = place.verify().ok();
    let _ = place.save().ok();
}

#[test]
fn nobody_goes_on_without_an_index_run_and_says_nothing() {
    for is_cut in [true, false] {
        let (place, _) = saved_twice();
        let runs = place.objects("index");
        let run = &runs[0];
        if is_cut {
            cut(run);
        } else {
            // The local cache has it whole.
            fs::remove_dir_all(place.path("cache")).unwrap();
            let mut bytes = fs::read(run).unwrap();
            bytes[100] ^= 1;
            fs::set_permissions(run, fs::Permissions::from_mode(0o600)).unwrap();
            fs::write(run, bytes).unwrap();
        }
        let subject = format!("index/{}", name(run));
        let saved = place.save().ends(3);
        let pruned = Run::of(&mut place.snapshot(["prune", "--json"])).ends(3);
        for told in [saved, pruned] {
            let finding = told.of_type("finding").remove(0);
            assert_eq!(finding["subject"], subject);
            let detail = finding["detail"].as_str().unwrap();
            assert!(detail.contains("snapshot repair"), "{detail}");
        }
        let _ = Run::of(&mut place.snapshot(["verify", "latest"])).ends(13);
        let _ = place.bring_back("out").ok();
    }
}
