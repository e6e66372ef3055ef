//! The example as a program, from start to end.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::process::Command;

#[test]
fn a_store_that_was_lost_comes_back() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_example-custom-source"));
    let out = program.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    let said = String::from_utf8(out.stdout).unwrap();
    assert!(said.contains("lost everything: 0 buckets"), "{said}");
    assert!(said.ends_with("restored 2 buckets\n"), "{said}");
}
