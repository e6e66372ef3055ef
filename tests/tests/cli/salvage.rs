//! What is left of a damaged repository comes back, and never looks whole.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use backup_tests::{Place, Run};
use serde_json::Value;

use crate::trouble::noise;

/// A place with a file of several chunks, one that shares its content under another name, a small one,
/// and one with a hole.
struct Saved {
    place: Place,
    large: Vec<u8>,
}

impl Saved {
    fn new() -> Self {
        let place = Place::new();
        let large = noise(1, 24 << 20);
        place.write("large", &large);
        place.write("small", "as it was saved");
        fs::hard_link(place.data().join("large"), place.data().join("name")).unwrap();
        let _ = place.save().ok();
        Self { place, large }
    }

    /// Changes a byte in the middle of the largest pack.
    fn harm(&self) -> (PathBuf, Vec<u8>) {
        let packs = self.place.objects("data");
        let size = |pack: &&PathBuf| fs::metadata(pack).unwrap().len();
        let pack = packs.iter().max_by_key(size).unwrap().clone();
        let bytes = fs::read(&pack).unwrap();
        let mut harmed = bytes.clone();
        let middle = bytes.len() / 2;
        harmed[middle] ^= 1;
        fs::write(&pack, harmed).unwrap();
        (pack, bytes)
    }

    fn run(&self, to: &str, more: &[&str]) -> Run {
        let wanted = format!("latest:{}", self.place.data().display());
        let mut run = self.place.restore(["run", &wanted, "--json", "--to", to]);
        Run::of(run.args(more))
    }

    fn out(&self, to: &str) -> PathBuf {
        self.place.path(to)
    }
}

fn names(folder: &Path) -> Vec<String> {
    let listed = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = listed
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort_unstable();
    names
}

fn ranges(line: &Value) -> Vec<(usize, usize)> {
    let range = |range: &Value| {
        let at = |number: usize| usize::try_from(range[number].as_u64().unwrap()).unwrap();
        (at(0), at(1))
    };
    line["lost"].as_array().unwrap().iter().map(range).collect()
}

/// Sees that a file holds all but the ranges that a line names as lost, and zeros there.
fn holds_the_rest(line: &Value, whole: &[u8]) {
    let kept = fs::read(line["kept_as"].as_str().unwrap()).unwrap();
    let mut wanted = whole.to_vec();
    let mut lost = 0;
    for (start, end) in ranges(line) {
        assert!(start < end && end <= whole.len());
        wanted[start..end].fill(0);
        lost += end - start;
    }
    assert!(kept == wanted, "the rest is not as it was saved");
    assert!(lost > 0 && lost < whole.len());
    assert_eq!(line["lost_bytes"], lost);
    assert_eq!(line["size"], whole.len());
}

#[test]
fn the_rest_of_a_damaged_file_is_kept_under_another_name_and_every_lost_byte_is_listed() {
    let saved = Saved::new();
    let (pack, bytes) = saved.harm();
    // Without being asked for it nothing looks whole that is not.
    let _ = saved.run("plain", &[]).ends(3);
    let plain = saved.out("plain");
    let mode = fs::metadata(plain.join("large")).unwrap().mode() & 0o7777;
    assert_eq!(mode, 0o1600);
    assert!(plain.join(".backstay-unfinished").exists());

    let report = saved.place.path("lost.jsonl");
    let told = saved.run("out", &["--salvage", "--report", report.to_str().unwrap()]);
    let told = told.ends(3);
    let out = saved.out("out");
    let partial = ["large.backstay-partial", "name.backstay-partial", "small"];
    assert_eq!(names(&out), partial);
    assert_eq!(fs::read(out.join("small")).unwrap(), b"as it was saved");
    let lines = told.of_type("salvaged");
    let first = lines
        .iter()
        .find(|line| line["path"] == out.join("large").to_str().unwrap());
    let first = first.unwrap();
    assert_eq!(first["kept_as"], out.join(partial[0]).to_str().unwrap());
    holds_the_rest(first, &saved.large);
    // Its other name is told of, too, and holds no more.
    let name = fs::read(out.join(partial[1])).unwrap();
    assert!(name == fs::read(out.join(partial[0])).unwrap());
    let findings = told.of_type("finding");
    assert!(
        findings.iter().any(|one| one["subject"] == "/name"),
        "{findings:?}"
    );
    // The report has the same lines.
    let written = fs::read_to_string(&report).unwrap();
    let written: Vec<Value> = written
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(written, lines);

    // It replaces neither what is there nor what it kept before.
    fs::write(out.join("large"), "old").unwrap();
    let again = saved
        .run("out", &["--salvage", "--overwrite", "always"])
        .ends(3);
    assert_eq!(fs::read(out.join("large")).unwrap(), b"old");
    let line = again.of_type("salvaged").remove(0);
    assert_eq!(
        line["kept_as"],
        out.join("large.backstay-partial-2").to_str().unwrap()
    );
    holds_the_rest(&line, &saved.large);
    assert!(!names(&out).iter().any(|name| name.starts_with(".backstay")));

    // With the pack put back all of it comes.
    fs::write(pack, bytes).unwrap();
    let whole = saved
        .run("out", &["--salvage", "--overwrite", "always"])
        .ok();
    assert!(whole.of_type("salvaged").is_empty());
    assert!(fs::read(out.join("large")).unwrap() == saved.large);
    assert!(fs::read(out.join("name")).unwrap() == saved.large);
}

#[test]
fn of_a_file_of_which_nothing_is_left_nothing_is_kept() {
    let saved = Saved::new();
    for pack in saved.place.objects("data") {
        fs::remove_file(pack).unwrap();
    }
    let told = saved.run("out", &["--salvage"]).ends(3);
    let lines = told.of_type("salvaged");
    assert!(lines.len() >= 2, "{lines:?}");
    for line in &lines {
        assert_eq!(line["kept_as"], Value::Null);
        assert_eq!(line["lost_bytes"], line["size"]);
    }
    let partial = |name: &String| name.contains("backstay-partial");
    assert!(!names(&saved.out("out")).iter().any(partial));
}

#[test]
fn salvaging_does_not_go_with_what_needs_whole_files() {
    let saved = Saved::new();
    for option in ["--in-place", "--delete", "--verify"] {
        let _ = saved.run("out", &["--salvage", option]).ends(2);
    }
    let _ = saved.run("out", &["--report", "x"]).ends(2);
    let taken = saved.place.path("taken");
    fs::write(&taken, "mine").unwrap();
    let refused = saved.run("out", &["--salvage", "--report", taken.to_str().unwrap()]);
    let _ = refused.ends(1).says("taken");
    assert_eq!(fs::read(&taken).unwrap(), b"mine");
}
