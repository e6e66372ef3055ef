//! The example as a program, from start to end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::path::Path;
use std::process::Command;

fn saves(at: &Path, folder: &Path) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-custom-sink"));
    let out = program.arg(folder).current_dir(at).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let said = String::from_utf8(out.stdout).unwrap();
    let size: u64 = said
        .split_once(" entries in a file of ")
        .and_then(|(_, rest)| rest.strip_suffix(" bytes\n"))
        .and_then(|size| size.parse().ok())
        .unwrap_or(0);
    assert!(size > 100_000, "{said}");
}

#[test]
fn a_folder_is_saved_into_one_file_by_its_relative_and_its_absolute_path() {
    let place = tempfile::tempdir().unwrap();
    let docs = place.path().join("docs");
    fs::create_dir(&docs).unwrap();
    fs::write(docs.join("one"), "first").unwrap();
    // Bytes that do not compress, so that the file must hold them.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(1);
        state.to_be_bytes()[0]
    });
    fs::write(docs.join("two"), noise.take(100_000).collect::<Vec<_>>()).unwrap();
    saves(place.path(), Path::new("docs"));
    saves(place.path(), &docs);
}
