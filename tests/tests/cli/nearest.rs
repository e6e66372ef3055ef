//! Restores from the nearest of several copies, and from the next what it lacks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use backup_tests::{Node, Place, Run, read_tree};
use serde_json::Value;

use crate::copy::{OTHER, copy, other, packs, saved, three};

/// Restores with the copy at hand, without what was cached; and holds when all is as it was.
fn brings_back(place: &Place, id: &str, tree: &BTreeMap<PathBuf, Node>) -> Run {
    for folder in ["cache", "back"] {
        let _ = fs::remove_dir_all(place.path(folder));
    }
    let wanted = format!("{id}:{}", place.data().display());
    let args = [
        "run",
        &wanted,
        "--to",
        "back",
        "--also-from",
        OTHER,
        "--json",
    ];
    let run = Run::of(&mut place.restore(args)).ok();
    assert!(read_tree(&place.path("back")).unwrap() == *tree);
    let mut found = run.of_type("finding");
    found.retain(|one| one["severity"] != "note");
    assert_eq!(found, [Value::Null; 0]);
    run
}

fn subjects(run: &Run) -> Vec<String> {
    let lines = run.of_type("fallback");
    let subject = |line: &Value| line["subject"].as_str().unwrap().to_owned();
    lines.iter().map(subject).collect()
}

fn spoil(pack: &Path) {
    let mut bytes = fs::read(pack).unwrap();
    let half = bytes.len() / 2;
    bytes.iter_mut().take(half).for_each(|byte| *byte ^= 0x55);
    fs::write(pack, bytes).unwrap();
}

/// What a restore writes that has something from a copy.
pub(crate) fn lines_of_a_fallback() -> Vec<Value> {
    let place = Place::new();
    place.write("a", "content");
    let _ = saved(&place);
    let _ = Run::of(&mut copy(&place, &[])).ok();
    for pack in packs(&place.repo()).into_keys() {
        fs::remove_file(pack).unwrap();
    }
    let tree = read_tree(&place.data()).unwrap();
    brings_back(&place, "latest", &tree).lines()
}

#[test]
fn what_is_damaged_or_gone_comes_from_the_copy() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let (id, tree) = known.iter().next().unwrap();
    let run = brings_back(&place, id, tree);
    assert_eq!(subjects(&run), [""; 0]);
    let mut hurt = Vec::new();
    for (number, pack) in packs(&place.repo()).into_keys().enumerate() {
        // Packs of content, and those of pages.
        match number % 2 {
            0 => spoil(&pack),
            _ => fs::remove_file(&pack).unwrap(),
        }
        hurt.push(
            pack.strip_prefix(place.repo())
                .unwrap()
                .display()
                .to_string(),
        );
    }
    let wanted = format!("{id}:{}", place.data().display());
    let alone = ["run", &wanted, "--to", "alone"];
    assert_ne!(Run::of(&mut place.restore(alone)).code, 0);
    for (id, tree) in &known {
        let run = brings_back(&place, id, tree);
        let told = subjects(&run);
        assert!(!told.is_empty());
        for subject in told {
            assert!(hurt.contains(&subject), "{subject} and not {hurt:?}");
        }
        for line in run.of_type("fallback") {
            assert_eq!(line["from"], OTHER);
            assert_eq!(line["place"], place.repo().display().to_string());
        }
    }
    // People hear of it too, and what to do.
    let again = ["run", &wanted, "--to", "again", "--also-from", OTHER];
    let _ = Run::of(&mut place.restore(again))
        .ok()
        .says("had from")
        .says("snapshot repair --from");
    // What only shows reads there as well.
    for args in [
        &["ls", "-R", &wanted][..],
        &["sums", &wanted],
        &["find", "kept"],
    ] {
        let _ = fs::remove_dir_all(place.path("cache"));
        let mut look = place.restore(args);
        let _ = Run::of(look.args(["--also-from", OTHER])).ok();
    }
    let file = format!("{wanted}/kept");
    let cat = ["cat", &file, "--also-from", OTHER];
    let content = Run::of(&mut place.restore(cat)).ok().out;
    assert!(content == fs::read(place.data().join("kept")).unwrap());
}

/// A copy that was pruned has the chunks in other packs.
#[test]
fn a_copy_that_was_laid_anew_gives_chunk_by_chunk() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let (oldest, newest) = (known.keys().next().unwrap(), known.keys().last().unwrap());
    let _ = Run::of(&mut other(&place, &["forget", oldest])).ok();
    let _ = Run::of(&mut other(&place, &["prune", "--max-unused", "0"])).ok();
    let there = packs(&place.path(OTHER));
    let here = packs(&place.repo()).into_keys();
    let mut anew = 0;
    for pack in here {
        let name = pack.strip_prefix(place.repo()).unwrap();
        anew += u64::from(!there.contains_key(&place.path(OTHER).join(name)));
        fs::remove_file(&pack).unwrap();
    }
    assert!(anew > 0, "nothing was laid anew");
    let run = brings_back(&place, newest, &known[newest]);
    assert!(!subjects(&run).is_empty());
    // Where neither has it, that is told as ever.
    let wanted = format!("{oldest}:{}", place.data().display());
    let args = [
        "run",
        &wanted,
        "--to",
        "lost",
        "--also-from",
        OTHER,
        "--json",
    ];
    let run = Run::of(&mut place.restore(args));
    assert!(matches!(run.code, 3 | 13), "{}", run.err);
}

#[test]
fn a_place_that_is_gone_is_passed_over() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let (newest, tree) = known.iter().last().unwrap();
    fs::rename(place.repo(), place.path("away")).unwrap();
    let run = brings_back(&place, "latest", tree);
    assert_eq!(run.of_type("restored")[0]["snapshot"], newest.as_str());
    let _ = run.says("nothing is read from");
    // And so is a copy.
    fs::rename(place.path("away"), place.repo()).unwrap();
    fs::rename(place.path(OTHER), place.path("away")).unwrap();
    let run = brings_back(&place, "latest", tree);
    let _ = run.says("nothing is read from");
    // With neither there is nothing to restore.
    fs::remove_dir_all(place.repo()).unwrap();
    let wanted = format!("latest:{}", place.data().display());
    let args = ["run", &wanted, "--to", "none", "--also-from", OTHER];
    let _ = Run::of(&mut place.restore(args)).ends(10);
}

#[test]
fn a_snapshot_that_is_gone_comes_from_the_copy() {
    let (place, known) = three();
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let (newest, tree) = known.iter().last().unwrap();
    for prefix in ["snap", "parity/snap"] {
        let objects = place.objects(prefix).into_iter();
        for path in objects.filter(|path| path.to_string_lossy().contains(newest.as_str())) {
            fs::remove_file(path).unwrap();
        }
    }
    let wanted = format!("latest:{}", place.data().display());
    let _ = Run::of(&mut place.restore(["run", &wanted, "--to", "out"])).ends(13);
    let run = brings_back(&place, "latest", tree);
    assert_eq!(subjects(&run), [format!("snapshot {newest}")]);
}

#[test]
fn another_repository_is_none_to_read_from() {
    let (place, _) = three();
    let mut init = other(&place, &["init", "--recovery-sheet", "sheet-2"]);
    let _ = Run::of(init.args(["--key-file", "key-2"])).ok();
    let _ = saved(&place);
    let wanted = format!("latest:{}", place.data().display());
    let args = ["run", &wanted, "--to", "out", "--also-from", OTHER];
    let _ = Run::of(&mut place.restore(args)).ends(12);
    assert!(!place.path("out").exists());
}

/// What this host remembers of places, with the places that are not among these.
fn known_files(place: &Place, before: &[PathBuf]) -> Vec<PathBuf> {
    let files = fs::read_dir(place.path("state/known")).unwrap();
    let files = files.map(|file| file.unwrap().path());
    files.filter(|file| !before.contains(file)).collect()
}

/// As if another repository had been there.
fn remember_another(file: &Path) {
    let known = fs::read_to_string(file).unwrap();
    let digit = if known.starts_with('0') { "1" } else { "0" };
    fs::write(file, format!("{digit}{}", &known[1..])).unwrap();
}

#[test]
fn what_stands_in_for_a_place_that_is_gone_must_be_a_copy_of_what_was_there() {
    let (place, known) = three();
    let first = known_files(&place, &[]);
    assert_eq!(first.len(), 1);
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let (_, tree) = known.iter().last().unwrap();
    fs::rename(place.repo(), place.path("away")).unwrap();
    let run = brings_back(&place, "latest", tree);
    assert!(!run.err.contains("among themselves"), "{}", run.err);
    // Nobody knows what was there.
    fs::rename(&first[0], place.path("remembered")).unwrap();
    let _ = brings_back(&place, "latest", tree).says("among themselves alone");
    fs::rename(place.path("remembered"), &first[0]).unwrap();
    remember_another(&first[0]);
    let wanted = format!("latest:{}", place.data().display());
    let args = ["run", &wanted, "--to", "out", "--also-from", OTHER];
    let _ = Run::of(&mut place.restore(args))
        .ends(2)
        .says("no copy of repository");
    assert!(!place.path("out").exists());
}

#[test]
fn another_repository_in_the_place_of_a_copy_is_an_error() {
    let (place, _) = three();
    let first = known_files(&place, &[]);
    let _ = Run::of(&mut copy(&place, &[])).ok();
    let wanted = format!("latest:{}", place.data().display());
    let args = ["run", &wanted, "--to", "out", "--also-from", OTHER];
    let _ = Run::of(&mut place.restore(args)).ok();
    let copies = known_files(&place, &first);
    assert_eq!(copies.len(), 1);
    for file in [&copies[0], &first[0]] {
        let kept = fs::read(file).unwrap();
        remember_another(file);
        let args = ["run", &wanted, "--to", "none", "--also-from", OTHER];
        let _ = Run::of(&mut place.restore(args))
            .ends(13)
            .says("not the one that was there");
        assert!(!place.path("none").exists());
        fs::write(file, kept).unwrap();
    }
}
