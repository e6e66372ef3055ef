//! What `snapshot analyze` says of a snapshot, against what the files and the repository are.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use backup_tests::{Place, Run};
use serde_json::Value;

use crate::trouble::noise;

const MIB: u64 = 1 << 20;

fn analysis(place: &Place, snapshot: &str) -> Value {
    let run = Run::of(&mut place.snapshot(["analyze", snapshot, "--json", "--top", "1000"])).ok();
    run.of_type("analysis").remove(0)
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

/// The sizes of the packs that there are.
fn packs(place: &Place, prefix: &str) -> BTreeMap<PathBuf, u64> {
    let size = |path: PathBuf| {
        let size = fs::metadata(&path).unwrap().len();
        (path, size)
    };
    place.objects(prefix).into_iter().map(size).collect()
}

/// Sees that a number lies between so many of a hundred of another and that.
fn is_most_of(number: u64, whole: u64, hundredths: u64) {
    assert!(
        number <= whole && number * 100 >= whole * hundredths,
        "{number} of {whole}"
    );
}

fn by_path<'a>(list: &'a Value, path: &str) -> &'a Value {
    let mut list = list.as_array().unwrap().iter();
    let found = list.find(|one| one["path"].as_str().unwrap().ends_with(path));
    found.unwrap_or_else(|| panic!("no {path}"))
}

/// Files of which two are the same, one has two names, and one a hole.
fn lay_out(place: &Place) -> u64 {
    let large = noise(1, 4 << 20);
    place.write("a/large", &large);
    place.write("a/copy", &large);
    place.write("a/b/edited", noise(2, 3 << 20));
    place.write("gone", noise(3, 2 << 20));
    place.write("text", "the same line again and again\n".repeat(50_000));
    fs::hard_link(place.data().join("text"), place.data().join("text too")).unwrap();
    place.write("sparse", "x");
    let sparse = fs::File::options()
        .write(true)
        .open(place.data().join("sparse"))
        .unwrap();
    sparse.write_all_at(b"y", 16 * MIB).unwrap();
    4 * MIB + 4 * MIB + 3 * MIB + 2 * MIB + 50_000 * 30 + 16 * MIB + 1
}

/// Sees that the analysis of the first snapshot says what is in it and in these packs.
fn is_that_of_the_first(
    place: &Place,
    bytes: u64,
    first_data: &BTreeMap<PathBuf, u64>,
    first_meta: &BTreeMap<PathBuf, u64>,
) {
    let first = analysis(place, "latest");
    assert_eq!(number(&first["bytes"]), bytes);
    is_most_of(number(&first["holes"]), 16 * MIB, 90);
    for (name, packs) in [("content", first_data), ("description", first_meta)] {
        let (one, all) = (&first[name], packs.values().sum::<u64>());
        assert_eq!(number(&one["packs"]), packs.len() as u64, "{name}");
        assert_eq!(number(&one["pack_bytes"]), all, "{name}");
        assert_eq!(one["unique"], one["stored"], "{name}");
        assert_eq!(one["unique_packs"], one["packs"], "{name}");
        assert_eq!(one["new"], one["stored"], "{name}");
    }
    let all = first_data.values().sum::<u64>();
    is_most_of(number(&first["content"]["stored"]), all, 98);
    // The copy is stored once, and so is each line of the text: 4 + 3 + 2 MiB of noise and some.
    let raw = number(&first["content"]["raw"]);
    is_most_of(9 * MIB, raw, 80);
    let dedup = (bytes - number(&first["holes"])) as f64 / raw as f64;
    assert!((first["dedup_ratio"].as_f64().unwrap() - dedup).abs() < 0.01);
    assert!(first["compression_ratio"].as_f64().unwrap() > 1.0);
    assert_eq!(first["changes"], Value::Null);
    assert_eq!(number(&first["sharing_count"]), 0);
    // The largest of all come first, each with its share.
    let files = first["files"].as_array().unwrap();
    assert!(files.is_sorted_by(|a, b| number(&a["stored"]) >= number(&b["stored"])));
    let large = by_path(&first["files"], "/a/large");
    assert_eq!(number(&large["size"]), 4 * MIB);
    is_most_of(4 * MIB, number(&large["stored"]), 98);
    let folder = by_path(&first["folders"], "/data/a");
    assert_eq!(number(&folder["size"]), 11 * MIB);
    let whole = by_path(&first["folders"], "/data");
    assert_eq!(number(&whole["size"]), bytes);
    let sum: u64 = files.iter().map(|one| number(&one["stored"])).sum();
    assert_eq!(number(&whole["stored"]), sum);
    let component = &first["components"][0];
    assert_eq!(component["bytes"], first["bytes"]);
    assert_eq!(component["stored"], first["content"]["stored"]);
}

/// Sees that what was done to the files after the first snapshot is told.
fn tells_of_changes(changes: &Value) {
    assert_eq!(number(&changes["added"]["entries"]), 1);
    assert_eq!(number(&changes["added"]["bytes"]), 5 * MIB);
    assert_eq!(number(&changes["removed"]["entries"]), 1);
    assert_eq!(number(&changes["removed"]["bytes"]), 2 * MIB);
    assert_eq!(number(&changes["changed"]["entries"]), 1);
    let changed = number(&changes["changed"]["bytes"]);
    assert!((MIB..2 * MIB).contains(&changed), "{changed}");
    let told: Vec<_> = (changes["largest"].as_array().unwrap().iter())
        .map(|one| (one["change"].as_str().unwrap(), number(&one["bytes"])))
        .collect();
    let wanted = [
        ("added", 5 * MIB),
        ("removed", 2 * MIB),
        ("changed", changed),
    ];
    assert_eq!(told, wanted);
    assert_eq!(number(&changes["largest"][2]["size"]), 4 * MIB);
    assert_eq!(number(&changes["largest"][2]["old_size"]), 3 * MIB);
}

#[test]
fn the_numbers_of_an_analysis_are_those_of_the_files_and_the_packs() {
    let place = Place::new();
    let bytes = lay_out(&place);
    let _ = place.save().ok();
    let (first_data, first_meta) = (packs(&place, "data"), packs(&place, "meta"));

    is_that_of_the_first(&place, bytes, &first_data, &first_meta);

    fs::remove_file(place.data().join("gone")).unwrap();
    place.write("added", noise(4, 5 << 20));
    let mut edited = noise(2, 3 << 20);
    edited.extend(noise(5, 1 << 20));
    place.write("a/b/edited", edited);
    let _ = place.save().ok();
    let second = analysis(&place, "latest");
    // What the second has alone lies in the packs that came with it.
    for (name, prefix, before) in [
        ("content", "data", &first_data),
        ("description", "meta", &first_meta),
    ] {
        let mut fresh = packs(&place, prefix);
        fresh.retain(|path, _| !before.contains_key(path));
        let one = &second[name];
        assert_eq!(one["new"], one["unique"]);
        assert_eq!(number(&one["unique_packs"]), fresh.len() as u64, "{name}");
        let added = fresh.values().sum::<u64>();
        if name == "content" {
            is_most_of(number(&one["unique"]), added, 98);
        } else {
            assert!(number(&one["unique"]) <= added);
        }
    }
    let both = |what: &str| number(&second["content"][what]) + number(&second["description"][what]);
    assert_eq!(number(&second["sharing_count"]), 1);
    let shared = number(&second["sharing"][0]["stored"]);
    assert_eq!(shared, both("stored") - both("unique"));
    // The first has now alone what was removed or replaced.
    let parent = second["changes"]["parent"].as_str().unwrap();
    assert_eq!(second["sharing"][0]["snapshot"], parent);
    let again = analysis(&place, parent);
    let alone = number(&again["content"]["unique"]);
    assert!((2 * MIB..4 * MIB).contains(&alone), "{alone}");
    let gone = by_path(&again["files"], "/gone");
    assert_eq!(gone["unique"], gone["stored"]);
    let kept = by_path(&again["files"], "/a/large");
    assert_eq!(number(&kept["unique"]), 0);

    tells_of_changes(&second["changes"]);
    // For people the same.
    let shown = Run::of(&mut place.snapshot(["analyze", "latest"]))
        .ok()
        .text();
    for wanted in [
        "LARGEST FILES",
        "/added",
        "LARGEST CHANGES",
        "SHARES WITH",
        "1 entry removed",
    ] {
        assert!(shown.contains(wanted), "no {wanted:?} in\n{shown}");
    }
}

#[test]
fn what_cannot_be_looked_at_is_a_finding() {
    let place = Place::new();
    place.write("file", noise(1, 100_000));
    let _ = place.save().ok();
    place.write("file", noise(2, 100_000));
    let _ = place.save().ok();
    let id = |line: &Value| line["id"].as_str().unwrap().to_owned();
    let listed = Run::of(&mut place.snapshot(["list", "--json"])).ok();
    let ids: Vec<_> = listed.of_type("snapshot").iter().map(id).collect();
    let refs = |id: &str| {
        let of = |path: &PathBuf| path.to_string_lossy().contains(id);
        place.objects("refs").into_iter().find(of).unwrap()
    };
    fs::write(refs(&ids[0]), "damaged").unwrap();
    let told = Run::of(&mut place.snapshot(["analyze", "latest", "--json"])).ends(3);
    assert!(
        told.of_type("finding")[0]["subject"]
            .as_str()
            .unwrap()
            .contains(&ids[0])
    );
    assert_eq!(told.of_type("analysis").len(), 1);
    let _ = Run::of(&mut place.snapshot(["analyze", &ids[0], "--json"])).ends(13);
    let _ = Run::of(&mut place.snapshot(["analyze", "nothing"])).ends(1);
}

/// A chunk that a file needs several times in a row is stored once; and a file that keeps its size may be another.
#[test]
fn what_repeats_takes_its_chunk_once_and_what_keeps_its_size_may_have_changed() {
    let place = Place::new();
    place.write("same", vec![b'x'; 24 << 20]);
    let _ = place.save().ok();
    let first = analysis(&place, "latest");
    let same = by_path(&first["files"], "/same");
    assert_eq!(number(&same["size"]), 24 * MIB);
    assert!(number(&first["content"]["raw"]) < 24 * MIB, "{first}");
    let all = number(&first["content"]["stored"]);
    assert!(number(&same["stored"]) <= all, "{same} of {all}");
    place.wait_for_a_tick();
    place.write("same", vec![b'y'; 24 << 20]);
    let _ = place.save().ok();
    let changes = &analysis(&place, "latest")["changes"];
    assert_eq!(number(&changes["changed"]["entries"]), 1, "{changes}");
    assert_eq!(number(&changes["changed"]["bytes"]), 24 * MIB);
}
