//! Restores that are called off, and those that may not read all.

use std::fs;
use std::sync::Arc;

use backup_core::{CancellationToken, ErrorKind, Event, FindingKind, Observer, Retry, Stage};
use backup_engine::EngineError;
use backup_testkit::{Fault, FaultSink, Op, Rule};

use crate::world::{Memory, World};

/// Calls an operation off when the first entry is there.
#[derive(Debug)]
struct Impatient(CancellationToken);

impl Observer for Impatient {
    fn on(&self, event: Event<'_>) {
        if let Event::Advanced {
            stage: Stage::Write,
            ..
        } = event
        {
            self.0.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_is_called_off_is_not_done_and_is_recorded_so() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    let repo = world.open(Arc::new(case.mem.clone()), case.cache());
    let repo = repo.await.unwrap();
    let head = repo.heads(&world.cx).await.unwrap().0.remove(0);
    let mut cx = world.cx.clone();
    cx.cancel = CancellationToken::new();
    cx.observer = Arc::new(Impatient(cx.cancel.clone()));
    let out = tempfile::tempdir().unwrap();
    let ended = world.try_to_restore(&repo, &cx, head, out.path()).await;
    assert!(matches!(ended, Err(EngineError::Cancelled)), "{ended:?}");
    let folder = fs::read_dir(case.state().unwrap()).unwrap().next().unwrap();
    let copy = folder.unwrap().path().join("ledger.jsonl");
    let copy = fs::read_to_string(copy).unwrap();
    let last = copy.lines().last().unwrap();
    assert!(last.contains(r#""op":"restore""#), "{last}");
    assert!(last.contains(r#""outcome":"cancelled""#), "{last}");
}

/// Who may not read a pack, or has no descriptor left, is not told that it is damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_not_be_read_is_not_told_to_be_damaged() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    for (kind, told) in [
        (ErrorKind::Denied, FindingKind::Unreadable),
        (ErrorKind::Other, FindingKind::Unreadable),
        (ErrorKind::Damaged, FindingKind::Damaged),
    ] {
        let rule = Rule::new(Fault::Fail(kind, Retry::Never));
        let sink = FaultSink::new(Arc::new(case.mem.clone()), 1);
        let sink = sink.with(rule.on(&[Op::Get]).under("data/"));
        let repo = world.open(Arc::new(sink), case.cache()).await.unwrap();
        let head = repo.heads(&world.cx).await.unwrap().0.remove(0);
        let out = tempfile::tempdir().unwrap();
        let done = world.try_to_restore(&repo, &world.cx, head, out.path());
        let findings = done.await.unwrap().report.findings;
        assert!(!findings.is_empty());
        for finding in findings {
            assert_eq!(finding.kind, told, "{finding:?}");
            let is_consoled = finding.detail.contains("not known to be damaged");
            assert_eq!(is_consoled, told == FindingKind::Unreadable, "{finding:?}");
        }
    }
}
