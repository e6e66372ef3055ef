//! What the program says of itself. That this test exists also makes cargo build the program
//! before the end-to-end tests run.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::process::Command;

fn run(args: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_snapshot"))
        .args(args)
        .output()
        .unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

#[test]
fn it_says_its_version_and_its_commands() {
    let (code, version) = run(&["--version"]);
    assert_eq!(
        (code, version.as_str()),
        (
            Some(0),
            concat!("snapshot ", env!("CARGO_PKG_VERSION"), "\n")
        )
    );
    let (code, help) = run(&["--help"]);
    assert_eq!(code, Some(0));
    assert!(
        help.contains("Examples:") && help.contains("--repo"),
        "{help}"
    );
}

#[test]
fn every_shell_has_completions_and_every_command_a_page() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, text) = run(&["completion", shell]);
        assert_eq!(code, Some(0), "{shell}");
        assert!(text.contains("snapshot"), "{shell}");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("man");
    let (code, _) = run(&["man", path.to_str().unwrap()]);
    assert_eq!(code, Some(0));
    assert!(path.join("snapshot.1").exists() && path.join("snapshot-list.1").exists());
    assert!(run(&["man"]).1.contains(".TH snapshot 1"));
}

#[test]
fn a_wrong_command_line_is_a_usage_error() {
    assert_eq!(run(&["--no-such-option"]).0, Some(2));
    assert_eq!(run(&["no-such-command"]).0, Some(2));
    assert_eq!(run(&["list"]).0, Some(2), "no repository is named");
}
