//! Every decoder on random bytes, and on encodings of the format's page that are damaged.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};

use backup_decoders::ALL;
use proptest::prelude::*;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The vectors of the page, and what the golden repository keeps in the open.
fn seeds() -> Vec<Vec<u8>> {
    let page = fs::read_to_string(root().join("docs/format.md")).unwrap();
    let hex = page.lines().filter_map(|line| {
        let digits = line.strip_prefix("| `")?.split("` | `").nth(1)?;
        let digits = digits.strip_suffix("` |")?.as_bytes();
        let pairs = digits.chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let bytes = pairs.map(|pair| u8::from_str_radix(pair?, 16).ok());
        bytes.collect::<Option<Vec<u8>>>()
    });
    let mut out: Vec<Vec<u8>> = hex.collect();
    assert!(out.len() > 10, "the page has vectors");
    let golden = root().join("crates/engine/tests/golden/v1");
    for path in [golden.join("key"), golden.join("repo/config/0")] {
        out.push(fs::read(path).unwrap());
    }
    for slot in fs::read_dir(golden.join("repo/keys")).unwrap() {
        out.push(fs::read(slot.unwrap().path()).unwrap());
    }
    out
}

#[test]
fn every_target_of_the_fuzzer_is_tried_here() {
    let files = fs::read_dir(root().join("fuzz/targets")).unwrap();
    let name = |file: std::io::Result<fs::DirEntry>| {
        let path = file.unwrap().path();
        path.file_stem().unwrap().to_str().unwrap().to_owned()
    };
    let mut targets: Vec<String> = files.map(name).collect();
    targets.sort();
    assert_eq!(ALL.map(|(name, _)| name).to_vec(), targets);
}

#[test]
fn whole_encodings_are_taken_or_refused() {
    for seed in seeds() {
        ALL.iter().for_each(|(_, decode)| decode(&seed));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn random_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        ALL.iter().for_each(|(_, decode)| decode(&bytes));
    }

    #[test]
    fn damaged_encodings_are_taken_or_refused(
        seed in prop::sample::select(seeds()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        more in prop::collection::vec(any::<u8>(), 0..9),
    ) {
        let mut bytes = seed;
        for (place, value) in changes {
            if !bytes.is_empty() {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len() + 1));
        }
        bytes.extend(more);
        ALL.iter().for_each(|(_, decode)| decode(&bytes));
    }
}
