//! Snapshots whose object is gone together with what tells what they use: refs, index runs, or both. What is left beside
//! them brings them back in one repair.

use std::sync::Arc;

use backup_core::{ObjectKey, SnapshotId};
use backup_engine::repair::{RepairJob, plan, repair};
use backup_format::layout;
use backup_testkit::Crash;

use crate::repair::{flip, mend, of_kind, world};
use crate::world::{Case, Memory, World, host};

fn snapshots(case: &Case) -> Vec<(SnapshotId, ObjectKey)> {
    let keys = of_kind(case, |key| layout::snapshot_id(key).is_some());
    let ids = keys.iter().filter_map(layout::snapshot_id);
    ids.zip(keys.iter().cloned()).collect()
}

fn refs_of(case: &Case, id: SnapshotId) -> Vec<ObjectKey> {
    of_kind(case, |key| {
        layout::refs_id(key).is_some_and(|(of, _)| of == id)
    })
}

fn lose(case: &Case, keys: Vec<ObjectKey>) {
    assert!(!keys.is_empty());
    for key in keys {
        assert!(case.mem.lose(&key), "{key}");
    }
}

fn lose_snapshots(case: &Case) {
    lose(case, snapshots(case).into_iter().map(|one| one.1).collect());
}

fn lose_index(case: &Case) {
    lose(case, of_kind(case, layout::is_index));
}

fn lose_refs(case: &Case) {
    lose(case, of_kind(case, |key| layout::refs_id(key).is_some()));
}

type Harm = (&'static str, fn(&Case));

const HARMS: [Harm; 6] = [
    ("a snapshot and its refs", |case| {
        let (id, key) = snapshots(case).remove(0);
        lose(case, refs_of(case, id));
        lose(case, vec![key]);
    }),
    ("a snapshot, and its refs are damaged", |case| {
        let (id, key) = snapshots(case).remove(1);
        refs_of(case, id).iter().for_each(|refs| flip(case, refs));
        lose(case, vec![key]);
    }),
    ("a snapshot and all index runs", |case| {
        lose(case, vec![snapshots(case).remove(1).1]);
        lose_index(case);
    }),
    ("all snapshots and index runs", |case| {
        lose_snapshots(case);
        lose_index(case);
    }),
    ("all snapshots and refs", |case| {
        lose_snapshots(case);
        lose_refs(case);
    }),
    ("all snapshots, refs and index runs", |case| {
        lose_snapshots(case);
        lose_refs(case);
        lose_index(case);
    }),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_repair_brings_back_what_was_lost_with_its_snapshot() {
    let world = world().await;
    for (what, harm) in HARMS {
        let case = world.case(Memory::Lost);
        harm(&case);
        let report = mend(&world, &case, &[]).await;
        assert_eq!(report.findings, [], "{what}");
        world.check(&case, what).await;
        let report = mend(&world, &case, &[]).await;
        assert_eq!((report.mended, report.findings), (vec![], vec![]), "{what}");
        world.make_good(&case, what).await;
    }
}

/// A pack is lost as well: the others come back, and it is told what it hurts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_lost_too_does_not_keep_a_snapshot_away() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let copy = world.open(Arc::new(case.mem.fork()), None).await.unwrap();
    let pack = of_kind(&case, |key| key.as_str().starts_with("data/")).remove(0);
    lose(&case, vec![pack.clone()]);
    lose_snapshots(&case);
    lose_index(&case);
    let report = mend(&world, &case, &[]).await;
    assert_eq!(snapshots(&case).len(), 2);
    let told = |subject: &str| report.findings.iter().any(|one| one.subject == subject);
    assert!(told(pack.as_str()), "{:?}", report.findings);
    let report = mend(&world, &case, &[copy]).await;
    assert_eq!(report.findings, []);
    world.check(&case, "from a copy").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_of_all_that_is_killed_is_ended_by_the_next() {
    let world = world().await;
    let (what, harm) = HARMS[5];
    let try_it = async |world: &World, case: &Case, crash: Option<(u64, Crash)>| {
        let sink = case.faulty();
        if let Some((k, crash)) = crash {
            sink.crash_at(k, crash);
        }
        let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
        let job = RepairJob::new(&repo, host());
        let done = match plan(&repo, &world.cx, &job, &[]).await {
            Ok(plan) => repair(&repo, &world.cx, plan, &job, &[]).await.map(drop),
            Err(error) => Err(error),
        };
        (sink.mutations(), done)
    };
    let case = world.case(Memory::Lost);
    harm(&case);
    let (changes, done) = try_it(&world, &case, None).await;
    done.unwrap();
    assert!(changes > 8, "{changes}");
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{what}: {crash:?} change {k} of {changes}");
            let case = world.case(Memory::Lost);
            harm(&case);
            let _ = try_it(&world, &case, Some((k, crash))).await;
            let report = mend(&world, &case, &[]).await;
            assert_eq!(report.findings, [], "{what}");
            world.check(&case, &what).await;
        }
    }
}
