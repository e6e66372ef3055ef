//! A copy of a ledger in a real file, with real processes.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::*;

fn lines(count: u64) -> Vec<Line> {
    let parse = |line: Vec<u8>| Line::parse(&line).unwrap();
    chain(count).into_iter().map(parse).collect()
}

fn content(lines: &[Line]) -> Vec<u8> {
    lines
        .iter()
        .flat_map(|line| [line.as_bytes(), b"\n"].concat())
        .collect()
}

#[test]
fn lines_are_added_once_and_in_their_order() {
    let folder = tempfile::tempdir().unwrap();
    let copy = LedgerCopy::at(folder.path().join("new/folder/ledger.jsonl"));
    assert_eq!(copy.last().unwrap(), None);
    assert!(copy.lines().unwrap().is_none());
    copy.extend([]).unwrap();
    let all = lines(9);
    copy.extend(&all[..3]).unwrap();
    copy.extend(&all[1..7]).unwrap();
    copy.extend(&all[..2]).unwrap();
    copy.extend(&all).unwrap();
    assert_eq!(copy.last().unwrap(), Some(all[8].head()));
    assert_eq!(std::fs::read(copy.path()).unwrap(), content(&all));
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(copy.path()), 0o600);
    assert_eq!(mode(copy.path().parent().unwrap()), 0o700);
}

#[test]
fn a_line_cut_off_at_any_byte_is_taken_up_again() {
    let all = lines(3);
    let whole = content(&all);
    for cut in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let folder = tempfile::tempdir().unwrap();
        let copy = LedgerCopy::at(folder.path().join("ledger.jsonl"));
        std::fs::write(copy.path(), &whole[..cut]).unwrap();
        let left = whole[..cut].iter().filter(|byte| **byte == b'\n').count();
        let last = left.checked_sub(1).map(|at| all[at].head());
        assert_eq!(copy.last().unwrap(), last, "{cut}");
        copy.extend(&all).unwrap();
        assert_eq!(std::fs::read(copy.path()).unwrap(), whole, "{cut}");
    }
}

#[test]
fn a_damaged_end_does_not_hide_what_was_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let copy = LedgerCopy::at(folder.path().join("ledger.jsonl"));
    let all = lines(4);
    copy.extend(&all[..2]).unwrap();
    let mut bytes = std::fs::read(copy.path()).unwrap();
    for damage in [b"no record\n".to_vec(), vec![0; 900_000]] {
        bytes.extend_from_slice(&damage);
        std::fs::write(copy.path(), &bytes).unwrap();
        assert_eq!(copy.last().unwrap(), Some(all[1].head()));
    }
    bytes.push(b'\n');
    std::fs::write(copy.path(), &bytes).unwrap();
    copy.extend(&all).unwrap();
    assert_eq!(copy.last().unwrap(), Some(all[3].head()));
    let now = std::fs::read(copy.path()).unwrap();
    assert!(now.starts_with(&bytes) && now.ends_with(&content(&all[2..])));
}

#[test]
fn several_processes_add_each_line_once_and_one_that_is_killed_hurts_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let copy = LedgerCopy::at(folder.path().join("ledger.jsonl"));
    let mut children: Vec<_> = (0..3).map(|_| child(&copy)).collect();
    let mut killed = child(&copy);
    while copy.last().unwrap().is_none() {
        std::thread::yield_now();
    }
    killed.kill().unwrap();
    killed.wait().unwrap();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(std::fs::read(copy.path()).unwrap(), content(&lines(60)));
}

/// Where the child process below finds what to do.
const CHILD: &str = "LEDGER_TEST_CHILD";

/// Starts this test program again as a process that adds sixty records, one by one.
fn child(copy: &LedgerCopy) -> Child {
    let name = "ledger::tests::copy::add_in_a_process_of_its_own";
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--test-threads=1"])
        .env(CHILD, copy.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
#[ignore = "run by other tests, as a process of its own"]
#[allow(
    clippy::disallowed_methods,
    reason = "how the process learns what to do"
)]
fn add_in_a_process_of_its_own() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let copy = LedgerCopy::at(std::path::PathBuf::from(path));
    for line in &lines(60) {
        copy.extend([line]).unwrap();
    }
}
