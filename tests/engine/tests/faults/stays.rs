//! Snapshots of which the ledger once said that they were forgotten, and which stay: held before they went, or brought
//! again by a copy. What brings them back must not be taken away.

use std::sync::Arc;

use backup_core::SnapshotId;
use backup_engine::copy::{CopyJob, copy, plan};
use backup_engine::hold::hold;
use backup_engine::ledger::{LedgerDraft, record_operation, verify_ledger};
use backup_engine::{ForgetPlan, forget};
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use backup_testkit::{Crash, FaultSink};

use crate::repair::{mend, of_kind, world};
use crate::world::{Case, Memory, World, host};

fn oldest(case: &Case) -> SnapshotId {
    let all = of_kind(case, |key| layout::snapshot_id(key).is_some());
    all.iter().filter_map(layout::snapshot_id).min().unwrap()
}

/// As a `forget` that was killed between its record and what it takes away.
async fn record_forget(world: &World, case: &Case, id: SnapshotId) {
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let draft = LedgerDraft {
        op: "forget",
        snapshot: Some(id),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: String::new(),
    };
    let recorded = record_operation(&repo, &world.cx, &host(), "me", draft).await;
    assert_eq!(recorded.unwrap(), []);
}

/// The object is lost: somebody is told, and one repair brings it back.
async fn comes_back(world: &World, case: &Case, id: SnapshotId) {
    assert!(case.mem.lose(&layout::snapshot(id).unwrap()));
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let told = verify_ledger(&repo, &world.cx).await.unwrap().findings;
    let told = |subject: &str| told.iter().any(|one| one.subject == subject);
    assert!(told(&format!("snapshot {id}")));
    let report = mend(world, case, &[]).await;
    assert_eq!(report.findings, []);
    world.check(case, "what stays").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_held_behind_the_record_that_it_was_forgotten_comes_back() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let id = oldest(&case);
    record_forget(&world, &case, id).await;
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let held = hold(&repo, &world.cx, id, (&host(), ""), "").await;
    assert!(held.unwrap().changed);
    comes_back(&world, &case, id).await;
}

/// Forgets a snapshot at a tier and copies it there again, killed before, or behind, a change of the tier.
async fn copied_again(world: &World, case: &Case, at: Option<(u64, Crash)>) -> u64 {
    let id = oldest(case);
    let from = world.open(Arc::new(case.mem.fork()), None).await.unwrap();
    let there = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let (heads, _) = there.heads(&world.cx).await.unwrap();
    let meta = heads
        .into_iter()
        .map(|head| head.meta)
        .find(|meta| meta.id == id);
    let plan_of = ForgetPlan::by_id(vec![meta.unwrap()]);
    let done = forget(&there, &world.cx, &plan_of, &host(), "").await;
    assert_eq!(done.unwrap().removed, 1);

    let mut job = CopyJob::new(host());
    job.again = true;
    let sink = FaultSink::new(Arc::new(case.mem.clone()), 1);
    if let Some((change, crash)) = at {
        sink.crash_at(change, crash);
    }
    let again = async |sink: Arc<dyn backup_core::Sink>| {
        let mut to = world.open(sink, None).await?;
        let (heads, _) = from.heads(&world.cx).await?;
        let plan = plan(&from, Some(&to), &world.cx, &job, heads).await?;
        copy(&from, &mut to, &world.cx, plan, &job).await
    };
    let first = again(Arc::new(sink.clone())).await;
    assert!(at.is_some() || first.is_ok());
    let second = again(Arc::new(case.mem.clone())).await.unwrap();
    assert_eq!(second.findings, []);
    sink.mutations()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_a_killed_copy_brought_again_comes_back() {
    let world = world().await;
    let changes = copied_again(&world, &world.case(Memory::Lost), None).await;
    assert!(changes > 3, "{changes}");
    for change in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let case = world.case(Memory::Lost);
            let id = oldest(&case);
            let _ = copied_again(&world, &case, Some((change, crash))).await;
            comes_back(&world, &case, id).await;
        }
    }
}
