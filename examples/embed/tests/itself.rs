//! The example as a program, from start to end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

fn run(at: &Path, args: [&Path; 3]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-embed"));
    let out = program.args(args).current_dir(at).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    String::from_utf8(out.stdout).unwrap()
}

/// Saves the folder `docs` of `at` and sees that it comes back below `target`.
fn comes_back(at: &Path, [repository, docs, target]: [&Path; 3]) {
    let said = run(at, [repository, docs, target]);
    assert!(
        said.contains("saved ") && said.contains(" 0 findings"),
        "{said}"
    );
    // What is restored lies below the target by its whole path.
    let whole = fs::canonicalize(at.join(docs)).unwrap();
    let back = at.join(target).join(whole.strip_prefix("/").unwrap());
    for name in ["one", "deep/two"] {
        let (saved, restored) = (fs::read(whole.join(name)), fs::read(back.join(name)));
        assert_eq!(saved.unwrap(), restored.unwrap(), "{name}");
    }
}

fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    fs::create_dir_all(place.path().join("docs/deep")).unwrap();
    fs::write(place.path().join("docs/one"), "first").unwrap();
    fs::write(place.path().join("docs/deep/two"), "second").unwrap();
    place
}

#[test]
fn a_folder_comes_back_with_relative_paths() {
    let place = place();
    let args = ["repo", "docs", "back"].map(Path::new);
    comes_back(place.path(), args);
}

#[test]
fn a_folder_comes_back_with_absolute_paths_and_again_from_the_same_repository() {
    let place = place();
    let [repo, docs] = ["repo", "docs"].map(|name| place.path().join(name));
    for target in ["first", "second"] {
        comes_back(place.path(), [&repo, &docs, &place.path().join(target)]);
        fs::write(docs.join("one"), "changed").unwrap();
    }
}

#[test]
fn nobody_else_can_read_the_key_file() {
    let place = place();
    let _ = run(place.path(), ["repo", "docs", "back"].map(Path::new));
    let key = fs::metadata(place.path().join("repo.key")).unwrap();
    assert_eq!(key.permissions().mode() & 0o777, 0o600);
}
