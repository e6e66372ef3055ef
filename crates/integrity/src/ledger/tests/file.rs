//! The ledger in a real file, with real processes.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;

fn clean(ledger: &LedgerFile) -> LedgerReport {
    let report = ledger
        .verify(LedgerKeys::One(&key()), Expect::default())
        .unwrap();
    assert!(report.is_clean(), "{:?}", report.findings);
    report
}

#[test]
fn records_are_appended_and_verified() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
    assert_eq!(ledger.head().unwrap(), None);
    assert_eq!(clean(&ledger).records, 0);
    for number in 1..=5 {
        let done = ledger.append(draft(number), &key()).unwrap();
        assert_eq!(done.line.record().seq, number);
        assert_eq!(done.torn, None);
        assert_eq!(ledger.head().unwrap(), Some(done.line.head()));
    }
    assert_eq!(clean(&ledger).records, 5);
    let mode = std::fs::metadata(ledger.path())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn a_line_torn_at_any_byte_is_set_aside_and_the_chain_goes_on() {
    for records in [1usize, 3] {
        let whole: Vec<u8> = chain(records as u64)
            .iter()
            .flat_map(|line| [&line[..], b"\n"].concat())
            .collect();
        let last = chain(records as u64).pop().unwrap();
        let start = whole.len() - last.len() - 1;
        for cut in ((start + 1)..whole.len())
            .step_by(7)
            .chain([whole.len() - 1])
        {
            let folder = tempfile::tempdir().unwrap();
            let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
            std::fs::write(ledger.path(), &whole[..cut]).unwrap();
            let before = ledger
                .verify(LedgerKeys::One(&key()), Expect::default())
                .unwrap();
            assert_eq!(before.findings.len(), 1);
            assert_eq!(before.findings[0].fault, LedgerFault::Torn);
            assert_eq!(before.records, records as u64 - 1);

            let done = ledger.append(draft(9), &key()).unwrap();
            let torn = done.torn.unwrap();
            assert_eq!(torn.bytes, (cut - start) as u64);
            let saved = std::fs::read(&torn.moved_to).unwrap();
            assert_eq!(saved, [&whole[start..cut], b"\n"].concat());
            let note = done.line.record().note.clone().unwrap();
            assert!(note.ends_with("bytes of an unfinished line moved to ledger.jsonl.torn"));
            assert_eq!(clean(&ledger).records, records as u64);
        }
    }
}

#[test]
fn a_file_that_is_not_a_ledger_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes");
    for content in [&b"my notes"[..], b"my notes\nmore\n", &vec![b'x'; 300_000]] {
        std::fs::write(&path, content).unwrap();
        let refused = LedgerFile::open(&path).append(draft(1), &key());
        assert!(refused.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), content);
        assert!(!folder.path().join("notes.torn").exists());
    }
    let refused = LedgerFile::open(folder.path()).append(draft(1), &key());
    assert!(matches!(refused, Err(LedgerError::Io { .. })));
}

#[test]
fn a_ledger_of_a_newer_release_is_not_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.jsonl");
    std::fs::write(&path, b"{\"v\":2,\"seq\":1}\n").unwrap();
    let refused = LedgerFile::open(&path)
        .append(draft(1), &key())
        .unwrap_err();
    assert!(
        matches!(
            refused,
            LedgerError::Tail {
                cause: LineError::Newer(2),
                ..
            }
        ),
        "{refused}"
    );
}

#[test]
fn a_full_disk_leaves_the_ledger_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
    ledger.append(draft(1), &key()).unwrap();
    let before = std::fs::read(ledger.path()).unwrap();
    // A process may write no file beyond this size: the write ends in the middle of the line.
    let limit = (before.len() as u64 + 100).to_string();
    let status = run_child(
        &ledger,
        1,
        &["prlimit", &format!("--fsize={limit}:{limit}")],
    )
    .wait()
    .unwrap();
    assert!(!status.success());
    let report = ledger
        .verify(LedgerKeys::One(&key()), Expect::default())
        .unwrap();
    assert_eq!(report.records, 1);
    ledger.append(draft(2), &key()).unwrap();
    assert_eq!(clean(&ledger).records, 2);
}

#[test]
fn two_processes_append_one_chain() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
    let mut children: Vec<_> = (0..3).map(|_| run_child(&ledger, 60, &[])).collect();
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    assert_eq!(clean(&ledger).records, 180);
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_ledger_that_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
    let mut last = 0;
    for round in 0..8u64 {
        let mut child = run_child(&ledger, 1_000_000, &[]);
        let wanted = last + 1;
        while ledger.head().unwrap().map_or(0, |head| head.seq) < wanted {
            assert!(
                child.try_wait().unwrap().is_none(),
                "the writer ended by itself"
            );
            std::thread::yield_now();
        }
        std::thread::sleep(std::time::Duration::from_micros(317 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        ledger.append(draft(round), &key()).unwrap();
        last = clean(&ledger).last.unwrap().seq;
        assert!(last > wanted);
    }
}

/// Where the child process below finds what to do.
const CHILD: &str = "LEDGER_TEST_CHILD";

/// Starts this test program again as a process that appends `count` records.
fn run_child(ledger: &LedgerFile, count: u64, wrapper: &[&str]) -> Child {
    let program = std::env::current_exe().unwrap();
    let mut command = match wrapper {
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        [] => Command::new(program),
    };
    let name = "ledger::tests::file::append_in_a_process_of_its_own";
    command.args(["--exact", name, "--ignored", "--test-threads=1"]);
    command.env(CHILD, format!("{count} {}", ledger.path().display()));
    command
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
fn append_in_a_process_of_its_own() {
    let Some(task) = std::env::var_os(CHILD) else {
        return;
    };
    let task = task.into_string().unwrap();
    let (count, path) = task.split_once(' ').unwrap();
    let ledger = LedgerFile::open(path);
    for number in 0..count.parse().unwrap() {
        ledger.append(draft(number), &key()).unwrap();
    }
}

/// Run with `--release --ignored --nocapture` to see the rates.
#[test]
#[ignore = "measures; needs a release build"]
fn a_million_records_are_appended_to_and_verified_quickly() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = LedgerFile::open(folder.path().join("ledger.jsonl"));
    let content: Vec<u8> = chain(1_000_000)
        .iter()
        .flat_map(|line| [&line[..], b"\n"].concat())
        .collect();
    std::fs::write(ledger.path(), &content).unwrap();
    println!("{} MB", content.len() / 1_000_000);
    drop(content);
    std::fs::File::open(ledger.path())
        .unwrap()
        .sync_all()
        .unwrap();
    let begin = Instant::now();
    (0..10).for_each(|number| drop(ledger.append(draft(number), &key()).unwrap()));
    println!("append: {:?} each", begin.elapsed() / 10);
    let begin = Instant::now();
    assert_eq!(clean(&ledger).records, 1_000_010);
    println!("verify: {:?}", begin.elapsed());
}
