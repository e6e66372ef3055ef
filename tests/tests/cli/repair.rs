//! Things are destroyed, `snapshot repair` mends them, and everything comes back to the bit.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use backup_tests::{Place, Run, read_tree};
use serde_json::Value;

use crate::trouble::noise;

/// Two snapshots of a large file and small ones.
fn saved(args: &[&str]) -> Place {
    let place = Place::empty();
    let _ = Run::of(
        place
            .snapshot(["init", "--recovery-sheet", "sheet"])
            .args(args),
    )
    .ok();
    for round in 0..2 {
        place.write("large", noise(1 + round, 5 << 20));
        for number in 0..30 {
            place.write(format!("below/{number}"), noise(100 + number, 7000));
        }
        place.wait_for_a_tick();
        let _ = place.save().ok();
    }
    place
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A run of a twentieth of a file.
fn destroy_a_twentieth(path: &Path) {
    overwrite(path, |bytes| {
        let (from, run) = (bytes.len() / 3, bytes.len() / 20);
        bytes[from..from + run]
            .iter_mut()
            .for_each(|byte| *byte = !*byte);
    });
}

fn flip(path: &Path) {
    flip_at(path, 2);
}

/// Flips a bit where the `part`th part of an object ends; twice is as before.
fn flip_at(path: &Path, part: usize) {
    overwrite(path, |bytes| {
        let at = bytes.len() / part;
        bytes[at] ^= 1;
    });
}

fn objects(place: &Place) -> BTreeMap<PathBuf, Vec<u8>> {
    let files = place.objects("").into_iter();
    files
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (path, bytes)
        })
        .collect()
}

fn copy_of(place: &Place, name: &str) -> PathBuf {
    let to = place.path(name);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(place.repo())
        .arg(&to)
        .status();
    assert!(copied.unwrap().success());
    to
}

fn repair(place: &Place, args: &[&str]) -> Run {
    Run::of(place.snapshot(["repair", "--json"]).args(args))
}

fn is_whole(place: &Place, out: &str) {
    let _ = place.verify().ok();
    let _ = Run::of(&mut place.snapshot(["ledger", "verify"])).ok();
    let _ = place.bring_back(out).ok();
    assert_eq!(
        read_tree(&place.path(out)).unwrap(),
        read_tree(&place.data()).unwrap()
    );
}

/// How something is destroyed, and what it is mended from.
type Harm = (&'static str, fn(&Place), &'static str);

/// The first and the last of some files, one flipped and one deleted.
fn flip_one_and_lose_one(files: &[PathBuf]) {
    flip(&files[0]);
    if files.len() > 1 {
        fs::remove_file(&files[files.len() - 1]).unwrap();
    }
}

/// Harms something of each kind, and no more than can be mended.
pub(crate) fn harm_all_kinds(place: &Place) {
    let packs = place
        .objects("data")
        .into_iter()
        .chain(place.objects("meta"));
    packs.for_each(|path| destroy_a_twentieth(&path));
    place.objects("index").iter().for_each(|path| flip(path));
    fs::remove_file(&place.objects("refs")[0]).unwrap();
    flip(&place.objects("refs")[0]);
    flip(&place.repo().join("config/0"));
    flip_one_and_lose_one(&place.objects("keys"));
    place.objects("snap").iter().for_each(|path| flip(path));
}

const HARMS: [Harm; 14] = [
    (
        "the config, flipped",
        |place| flip(&place.repo().join("config/0")),
        "its parity",
    ),
    (
        "the config, deleted",
        |place| fs::remove_file(place.repo().join("config/0")).unwrap(),
        "its parity",
    ),
    (
        "key slots, flipped",
        |place| place.objects("keys").iter().for_each(|path| flip(path)),
        "its parity",
    ),
    (
        "key slots, deleted",
        |place| {
            place
                .objects("keys")
                .iter()
                .for_each(|path| fs::remove_file(path).unwrap())
        },
        "its parity",
    ),
    (
        "snapshots, flipped and deleted",
        |place| flip_one_and_lose_one(&place.objects("snap")),
        "its parity",
    ),
    (
        "a twentieth of each pack of content",
        |place| {
            place
                .objects("data")
                .iter()
                .for_each(|path| destroy_a_twentieth(path))
        },
        "its parity",
    ),
    (
        "a twentieth of each pack of pages",
        |place| {
            place
                .objects("meta")
                .iter()
                .for_each(|path| destroy_a_twentieth(path))
        },
        "its parity",
    ),
    (
        "the end of a pack",
        |place| {
            overwrite(&place.largest_pack(), |bytes| {
                let left = bytes.len() - bytes.len() / 25;
                bytes.truncate(left);
            });
        },
        "its parity",
    ),
    (
        "index runs, flipped",
        |place| place.objects("index").iter().for_each(|path| flip(path)),
        "the ends of packs",
    ),
    (
        "index runs, deleted",
        |place| {
            place
                .objects("index")
                .iter()
                .for_each(|path| fs::remove_file(path).unwrap())
        },
        "the ends of packs",
    ),
    (
        "refs, flipped",
        |place| place.objects("refs").iter().for_each(|path| flip(path)),
        "its manifest",
    ),
    (
        "refs, deleted",
        |place| {
            place
                .objects("refs")
                .iter()
                .for_each(|path| fs::remove_file(path).unwrap())
        },
        "its manifest",
    ),
    (
        "parity, flipped and deleted",
        |place| {
            let parity = place.objects("parity/data");
            flip(&parity[0]);
            fs::remove_file(&parity[1]).unwrap();
            flip_one_and_lose_one(&place.objects("parity/snap"));
        },
        "the packs",
    ),
    ("all of it at once", harm_all_kinds, "its parity"),
];

/// What has parity beside it.
const PROTECTED: [&str; 5] = ["data", "meta", "config", "keys", "snap"];

#[test]
fn what_is_destroyed_is_mended_and_comes_back_to_the_bit() {
    let whole = saved(&[]);
    for folder in PROTECTED {
        let beside = format!("parity/{folder}");
        assert_eq!(whole.objects(&beside).len(), whole.objects(folder).len());
    }
    let packs: u64 = ["data", "meta"]
        .iter()
        .map(|folder| size(&whole, folder))
        .sum();
    let parity = size(&whole, "parity/data") + size(&whole, "parity/meta");
    let share = parity as f64 / packs as f64;
    assert!((0.06..0.08).contains(&share), "parity is {share} of packs");
    let untouched = objects(&whole);
    let nothing = repair(&whole, &[]).ok();
    assert_eq!(nothing.of_type("repaired")[0]["mended"], 0);
    assert_eq!(objects(&whole), untouched);
    for (what, harm, remedy) in HARMS {
        let before = copy_of(&whole, "before");
        harm(&whole);
        let _ = place_says_damage(&whole, what);
        // The ledger knows that somebody looked.
        let damaged = objects(&whole);
        let dry = repair(&whole, &["--dry-run"]).ends(3);
        let tasks = dry.of_type("task");
        assert!(
            tasks.iter().any(|task| task["remedy"] == remedy),
            "{what}: {tasks:?}"
        );
        assert_eq!(
            objects(&whole),
            damaged,
            "{what}: a dry run changes nothing"
        );
        let mended = repair(&whole, &[]).ok();
        assert_eq!(mended.of_type("mended").len(), tasks.len(), "{what}");
        assert_eq!(mended.of_type("repaired")[0]["left"], 0, "{what}");
        assert!(!whole.repo().join("aside").exists() || whole.objects("aside").is_empty());
        is_whole(&whole, "out");
        fs::remove_dir_all(whole.path("out")).unwrap();
        let _ = repair(&whole, &[]).ok();
        let _ = whole.save().ok();
        fs::remove_dir_all(whole.repo()).unwrap();
        fs::rename(before, whole.repo()).unwrap();
        // The ledger goes back with the repository, and so must what the host knows of it.
        let _ = fs::remove_dir_all(whole.path("state"));
        let _ = fs::remove_dir_all(whole.path("cache"));
    }
}

fn place_says_damage(place: &Place, what: &str) -> Run {
    let run = place.verify();
    assert_eq!(run.code, 13, "{what}: {}", run.err);
    run
}

fn size(place: &Place, folder: &str) -> u64 {
    let files = place.objects(folder).into_iter();
    files.map(|path| fs::metadata(path).unwrap().len()).sum()
}

#[test]
fn a_copy_gives_what_nothing_else_does() {
    let place = saved(&[]);
    let copy = copy_of(&place, "copy");
    let copy = copy.to_str().unwrap();
    let packs = place.objects("data");
    overwrite(&packs[0], |bytes| bytes.truncate(1000));
    fs::remove_file(&packs[1]).unwrap();
    flip(&place.objects("snap")[0]);
    flip_one_and_lose_one(&place.objects("parity/snap"));
    overwrite(&place.objects("parity/snap")[0], |bytes| bytes.clear());
    let lost = repair(&place, &[]).ends(3);
    let told = lost.text();
    for path in &packs[..2] {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(told.contains(name), "{name}: {told}");
    }
    assert!(told.contains("/below/1"), "the paths it hurts: {told}");
    flip(&place.objects("index")[0]);
    let _ = repair(&place, &["--from", copy, "--dry-run"]).ends(3);
    let done = repair(&place, &["--from", copy]).ok();
    assert!(done.of_type("mended").len() >= 4, "{}", done.text());
    is_whole(&place, "out");
    let people = Run::of(&mut place.snapshot(["repair", "--from", copy]))
        .ok()
        .text();
    assert!(people.contains("nothing is damaged"), "{people}");
}

#[test]
fn what_it_does_not_open_without_comes_from_a_copy() {
    let place = saved(&[]);
    let copy = copy_of(&place, "copy");
    let copy = copy.to_str().unwrap();
    let harms: [fn(&Place); 3] = [
        |place| fs::remove_file(place.repo().join("config/0")).unwrap(),
        |place| flip(&place.repo().join("config/0")),
        |place| place.objects("keys").iter().for_each(|path| flip(path)),
    ];
    for harm in harms {
        harm(&place);
        for folder in ["parity/config", "parity/keys"] {
            let beside = place.objects(folder);
            beside
                .iter()
                .for_each(|path| fs::remove_file(path).unwrap());
        }
        let _ = repair(&place, &[]).ends(13);
        let damaged = objects(&place);
        let _ = repair(&place, &["--from", copy, "--dry-run"]).ends(3);
        assert_eq!(objects(&place), damaged);
        let done = repair(&place, &["--from", copy]).ok();
        assert!(!done.of_type("mended").is_empty());
        is_whole(&place, "out");
        fs::remove_dir_all(place.path("out")).unwrap();
    }
    // Where another repository is, nothing is put.
    let other = Place::new();
    let there = objects(&other);
    let mut wrong = place.snapshot(["repair", "--from", copy, "--repo"]);
    let wrong = Run::of(wrong.arg(other.repo()));
    assert!([2, 12, 13].contains(&wrong.code), "{}", wrong.err);
    assert_eq!(objects(&other), there);
}

#[test]
fn without_parity_it_says_what_is_hurt_and_parity_can_be_added() {
    let place = saved(&["--parity", "off"]);
    assert!(place.objects("parity").is_empty());
    let pack = place.largest_pack();
    let whole = fs::read(&pack).unwrap();
    destroy_a_twentieth(&pack);
    let damaged = fs::read(&pack).unwrap();
    let lost = Run::of(&mut place.snapshot(["repair"])).ends(3);
    let _ = lost.says("it has no parity").says("--from");
    // It lies just as it was where nobody builds on it.
    assert!(!pack.exists());
    assert_eq!(fs::read(&place.objects("aside")[0]).unwrap(), damaged);
    fs::create_dir_all(pack.parent().unwrap()).unwrap();
    fs::write(&pack, whole).unwrap();
    let name = pack.file_name().unwrap().to_str().unwrap().to_owned();
    let _ = repair(&place, &["packs", "--pack", &name]).ok();
    let added = repair(&place, &["--parity", "6"]).ok();
    assert_eq!(added.of_type("repaired")[0]["parity_percent"], 6);
    for folder in PROTECTED {
        let beside = format!("parity/{folder}");
        assert_eq!(place.objects(&beside).len(), place.objects(folder).len());
    }
    destroy_a_twentieth(&pack);
    let _ = repair(&place, &["packs", "--pack", &name]).ok();
    is_whole(&place, "out");
    // From here on saves write it too.
    place.write("more", noise(9, 3 << 20));
    place.wait_for_a_tick();
    let _ = place.save().ok();
    let _ = place.verify().ok();
    let off = repair(&place, &["--parity", "off"]).ok();
    assert!(off.of_type("repaired")[0]["parity_percent"].is_null());
    let list = Run::of(&mut place.snapshot(["ledger", "list", "--json"])).ok();
    let noted = list.of_type("ledger-record");
    let noted = noted.iter().filter(|one| one["op"] == "repair");
    let shares: Vec<_> = noted
        .filter_map(|one| one["counts"]["parity-percent"].as_u64())
        .collect();
    assert_eq!(shares, [6, 0]);
}

#[test]
fn what_cannot_be_asked_for_is_refused() {
    let place = saved(&[]);
    for args in [
        &["--parity", "51"][..],
        &["--parity", "0"],
        &["--pack", "data/3f"],
        &["everything"],
    ] {
        let _ = repair(&place, args).ends(2);
    }
    let other = Place::new();
    let other = other.repo();
    let _ = repair(&place, &["--from", other.to_str().unwrap()]).ends(12);
    let _ = Run::of(&mut place.snapshot([
        "key",
        "add",
        "--role",
        "writer",
        "--new-key-file",
        "writer",
    ]))
    .ok();
    let writer = Run::of(&mut place.snapshot(["repair", "--key-file", "writer"]));
    let _ = writer.ends(12);
}

/// One flipped bit in what everything depends on: every command goes on, ends with 3, and says what to do.
#[test]
fn a_flipped_bit_in_a_small_object_stops_nobody() {
    let place = saved(&[]);
    let whole = copy_of(&place, "whole");
    for folder in ["config", "keys", "snap"] {
        place.objects(folder).iter().for_each(|path| flip(path));
        let _ = fs::remove_dir_all(place.path("cache"));
        let name = format!("{folder}/");
        let list = Run::of(&mut place.snapshot(["list", "--json"])).ends(3);
        let found = list.of_type("finding");
        assert!(
            found.iter().any(|one| {
                let (subject, detail) = (one["subject"].as_str(), one["detail"].as_str());
                subject.unwrap().starts_with(&name) && detail.unwrap().contains("snapshot repair")
            }),
            "{folder}: {found:?}"
        );
        let people = Run::of(&mut place.snapshot(["list"])).ends(3);
        assert!(people.err.contains("snapshot repair"), "{}", people.err);
        let _ = place.bring_back("out").ends(3);
        assert_eq!(
            read_tree(&place.path("out")).unwrap(),
            read_tree(&place.data()).unwrap()
        );
        fs::remove_dir_all(place.path("out")).unwrap();
        let _ = place.save().ends(3);
        let _ = Run::of(&mut place.snapshot(["prune"])).ends(3);
        let done = repair(&place, &[]).ok();
        assert!(!done.of_type("mended").is_empty(), "{folder}");
        let _ = Run::of(&mut place.snapshot(["list"])).ok();
        is_whole(&place, "out");
        fs::remove_dir_all(place.path("out")).unwrap();
    }
    for folder in ["config", "keys"] {
        for path in place.objects(folder) {
            let name = path.strip_prefix(place.repo()).unwrap();
            assert_eq!(
                fs::read(&path).unwrap(),
                fs::read(whole.join(name)).unwrap()
            );
        }
    }
}

/// What is removed or forgotten lies nowhere beside.
#[test]
fn nothing_is_left_beside_what_was_removed() {
    let place = saved(&[]);
    let _ = Run::of(&mut place.snapshot(["key", "add", "--new-key-file", "other"])).ok();
    let count = || place.objects("parity/keys").len();
    let with = count();
    let listed = Run::of(&mut place.snapshot(["key", "list", "--json", "--key-file", "other"]));
    let keys = listed.ok().of_type("key");
    let sheet = keys.iter().find(|key| key["label"] == "recovery sheet");
    let id = sheet.unwrap()["id"].as_str().unwrap().to_owned();
    let _ = Run::of(&mut place.snapshot(["key", "remove", &id])).ok();
    assert_eq!(count(), with - 1);
    let all = place.objects("").into_iter();
    assert_eq!(all.filter(|path| path.ends_with(&id)).count(), 0);
    let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1"])).ok();
    assert_eq!(place.objects("parity/snap").len(), 1);
    assert_eq!(place.objects("snap").len(), 1);
    is_whole(&place, "out");
}

/// No parity and no other copy, but the source still has everything: after a repair the next save stores it anew, and the
/// older snapshots come back as well.
#[test]
fn what_cannot_be_mended_is_stored_anew_by_the_next_save() {
    for reread in [false, true] {
        let place = Place::empty();
        let init = ["init", "--recovery-sheet", "sheet", "--parity", "off"];
        let _ = Run::of(&mut place.snapshot(init)).ok();
        place.write("large", noise(1, 5 << 20));
        for number in 0..30 {
            place.write(format!("below/{number}"), noise(100 + number, 7000));
        }
        place.wait_for_a_tick();
        let old = place.save().ok().of_type("saved").remove(0);
        let old = old["id"].as_str().unwrap().to_owned();
        let victim = place.largest_pack();
        let name = victim.file_name().unwrap().to_str().unwrap().to_owned();
        // Where in it the small files are is chance; the large one is to be hit.
        let hurts_one_file = [2, 4].into_iter().any(|part| {
            flip_at(&victim, part);
            let full = ["verify", "--json", "--level", "full"];
            let told = Run::of(&mut place.snapshot(full))
                .ends(13)
                .of_type("damage");
            let is_chunk = |one: &&Value| one["object"].as_str().unwrap().starts_with("chunk");
            let is_one = told.iter().find(is_chunk).unwrap()["path_count"] == 1;
            if !is_one {
                flip_at(&victim, part);
            }
            is_one
        });
        assert!(hurts_one_file);
        let told = repair(&place, &["--dry-run"]).ends(3);
        assert!(victim.exists() && told.of_type("finding").len() == 1);
        let told = repair(&place, &[]).ends(3);
        assert_eq!(told.of_type("repaired")[0]["mended"], 0);
        let detail = told.of_type("finding")[0]["detail"].to_string();
        assert!(detail.contains("aside/"), "{detail}");
        assert!(!victim.exists() && place.objects("aside").len() == 1);
        // No more is lost by that: the other chunks of the pack are read where it is now.
        let wanted = format!("{old}:{}", place.data().display());
        let part = Run::of(&mut place.restore(["run", &wanted, "--to", "part", "--json"])).ends(3);
        let lost = part.of_type("finding");
        let whole = read_tree(&place.data()).unwrap();
        let back = read_tree(&place.path("part")).unwrap();
        assert_eq!(lost.len(), 1, "{lost:?}");
        let small = whole.iter().filter(|(path, _)| path.starts_with("below"));
        for (path, node) in small {
            assert_eq!(back.get(path), Some(node), "{}", path.display());
        }
        let save = ["save", "--json", "--reread"];
        let save = &save[..if reread { 3 } else { 2 }];
        let saved = Run::of(place.snapshot(save).arg(place.data())).ends(3);
        assert!(
            saved.of_type("finding")[0]["subject"]
                .to_string()
                .contains(&name)
        );
        let saved = saved.of_type("saved").remove(0);
        assert!(saved["bytes_new"].as_u64().unwrap() > 5 << 20, "{saved}");
        let new = saved["id"].as_str().unwrap();
        for id in [&old, new] {
            let _ = Run::of(&mut place.snapshot(["verify", "--level", "full", id])).ok();
            let wanted = format!("{id}:{}", place.data().display());
            let to = format!("out-{id}");
            let _ = Run::of(&mut place.restore(["run", &wanted, "--to", &to])).ok();
            assert_eq!(read_tree(&place.path(&to)).unwrap(), whole);
        }
        // Nobody is hurt any more; the pack itself is noted until nothing names it.
        let said = place.verify().ok().of_type("finding");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0]["severity"] == "note" && said[0]["subject"].to_string().contains(&name));
        let prune = ["prune", "--json", "--max-unused", "0"];
        let _ = Run::of(&mut place.snapshot(prune)).ends(3);
        let _ = Run::of(&mut place.snapshot(["verify", "--level", "full", &old])).ok();
        let _ = Run::of(&mut place.snapshot(["forget", "--keep-last", "1"])).ok();
        let _ = Run::of(&mut place.snapshot(prune)).ends(3);
        let _ = Run::of(&mut place.snapshot(prune)).ok();
        assert_eq!(place.objects("aside").len(), 0);
        is_whole(&place, "out");
    }
}

/// The second copy has what the first one has lost too.
#[test]
fn one_copy_after_the_other_is_asked() {
    let whole = saved(&["--parity", "off"]);
    let good = copy_of(&whole, "good");
    let victim = whole.largest_pack();
    flip(&victim);
    let rotten = copy_of(&whole, "rotten");
    let from = [
        "--from",
        rotten.to_str().unwrap(),
        "--from",
        good.to_str().unwrap(),
    ];
    let dry = repair(&whole, &["--dry-run", "--from", rotten.to_str().unwrap()]).ends(3);
    assert_eq!(dry.of_type("task"), [] as [Value; 0]);
    let detail = dry.of_type("finding")[0]["detail"].to_string();
    assert!(detail.contains("damaged as well"), "{detail}");
    let mended = repair(&whole, &from).ok();
    let remedy = mended.of_type("mended")[0]["remedy"].to_string();
    assert!(remedy.contains("good"), "{remedy}");
    is_whole(&whole, "out");
}
