//! Generations of a collection: what one condemned, the next does not condemn again, so that they do not pile up below
//! `gc/` while somebody is at work or deletions are cut short.

use std::path::Path;
use std::sync::Arc;

use backup_core::{ErrorKind, Retry, Sink, SnapshotId};
use backup_engine::Result;
use backup_engine::prune::{PruneJob, PruneReport, Unused};
use backup_format::layout;
use backup_testkit::{Fault, FaultSink, Op, Rule};

use crate::pruned::{
    all_is_whole, count, forget_one, history, job, leave_open, maintenance, prune_with,
};
use crate::world::World;

/// Prunes and writes nothing anew, with what this host remembers of generations.
async fn prune(world: &World, sink: Arc<dyn Sink>, state: &Path) -> Result<PruneReport> {
    let repo = world.open_at(sink, &maintenance(world), None).await;
    let repo = repo.keep_ledger_in(Some(state.to_owned()));
    let lazy = PruneJob {
        max_unused: Unused::Unlimited,
        ..job()
    };
    prune_with(&repo, &world.cx, &lazy).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_somebody_is_condemned_once_however_often_a_prune_comes() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    let state = tempfile::tempdir().unwrap();
    let sink = || Arc::new(world.mem.clone());
    let nothing = prune(&world, sink(), state.path()).await.unwrap();
    assert_eq!((nothing.deleted_packs, count(&world, "gc/")), (0, 0));
    // Packs that nobody uses, and refs of a snapshot that never came.
    forget_one(&world, saved[0].0.meta.id).await;
    let orphan = layout::refs(SnapshotId(7)).unwrap();
    world.mem.plant(orphan.clone(), b"of nobody".to_vec());
    let first = leave_open(&world, 2).await;
    for round in 0..3 {
        let report = prune(&world, sink(), state.path()).await.unwrap();
        assert_eq!(report.waits_for.len(), 1, "{round}");
        assert_eq!(count(&world, "gc/"), 1, "{round}: it is condemned again");
    }
    // What comes later is condemned by itself, and is all that waits for who began later.
    forget_one(&world, saved[1].0.meta.id).await;
    let second = leave_open(&world, 1).await;
    for round in 0..2 {
        let report = prune(&world, sink(), state.path()).await.unwrap();
        assert!(report.waits_for.iter().any(|one| one.id == first));
        assert_eq!(count(&world, "gc/"), 2, "{round}: it is condemned again");
    }
    assert!(world.mem.objects().contains_key(&orphan));
    world.mem.lose(&layout::session(first).unwrap());
    let report = prune(&world, sink(), state.path()).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    assert!(!world.mem.objects().contains_key(&orphan));
    assert_eq!(count(&world, "gc/"), 3, "the first is decided");
    world.mem.lose(&layout::session(second).unwrap());
    let report = prune(&world, sink(), state.path()).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    assert_eq!(count(&world, "gc/"), 4, "both are decided");
    all_is_whole(&world, &saved[2..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_dead_and_was_not_deleted_yet_is_not_condemned_again() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    let state = tempfile::tempdir().unwrap();
    forget_one(&world, saved[0].0.meta.id).await;
    let failing = FaultSink::new(Arc::new(world.mem.clone()), 1);
    for folder in ["data/", "meta/"] {
        let denied = Rule::new(Fault::Fail(ErrorKind::Denied, Retry::Never));
        failing.add(denied.on(&[Op::Delete]).under(folder));
    }
    let ended = prune(&world, Arc::new(failing), state.path()).await;
    ended.unwrap_err();
    assert_eq!(count(&world, "gc/"), 2, "it is decided");
    let sink = Arc::new(world.mem.clone());
    let report = prune(&world, sink, state.path()).await.unwrap();
    assert!(report.deleted_packs > 0, "{report:?}");
    assert_eq!(count(&world, "gc/"), 2, "it is condemned again");
    all_is_whole(&world, &saved[1..]).await;
}
