//! What somebody reaches against others who has a writer's key and may create objects, and nothing else: a
//! prune deletes nothing that a snapshot uses, and says that somebody lied.

use std::collections::BTreeSet;

use backup_core::{Finding, FindingKind, HostId, PackId, Sample, Severity, VerifyLevel};
use backup_engine::prune;
use backup_engine::verify;
use backup_format::collect::PackList;
use backup_format::layout;
use backup_format::seal::ObjectKind;

use crate::pruned::{forget_one, history, job, leave_open, maintenance, prune, prune_with, stored};
use crate::world::World;

/// All packs on the tier.
fn packs(world: &World) -> BTreeSet<PackId> {
    let objects = world.mem.objects();
    objects.keys().filter_map(layout::pack_id).collect()
}

/// Somebody else's key writes below `gc/` that these packs are condemned and dead.
async fn call_dead(world: &World, packs: &BTreeSet<PackId>) {
    let bob = world.open(&world.writer(&HostId("bob".into())), None).await;
    let list = PackList {
        generation: 0,
        packs: packs.clone(),
    };
    for (kind, key) in [
        (ObjectKind::Condemned, layout::condemned(0)),
        (ObjectKind::Dead, layout::dead(0)),
    ] {
        let sealed = bob.ring().seal(kind, &list.encode()).unwrap();
        world.mem.plant(key.unwrap(), sealed);
    }
}

fn is_alarm(finding: &Finding) -> bool {
    finding.subject == "gc/0.done"
        && finding.severity == Severity::Error
        && finding.kind == FindingKind::Mismatch
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_calls_dead_what_snapshots_use_reaches_nothing_and_is_told_of() {
    let world = World::new().await;
    let (source, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    call_dead(&world, &packs(&world)).await;
    let repo = world.open(&maintenance(&world), None).await;
    let plan = prune::plan(&repo, &world.cx, &job()).await.unwrap();
    assert!(plan.findings.iter().any(is_alarm), "{:?}", plan.findings);
    let _ = prune::prune(&repo, &world.cx, plan, &job()).await.unwrap();
    for (report, disks) in &saved[1..] {
        world.check(disks, report).await;
    }
    // A verification names the lie, and calls nothing lost for its sake.
    let repo = world.open(&world.keys, None).await;
    let level = VerifyLevel::FullRead;
    let done = verify(&repo, &world.cx, None, level, Sample::All).await;
    let findings = done.unwrap().report.findings;
    assert!(findings.iter().any(is_alarm), "{findings:?}");
    assert!(findings.iter().all(is_alarm), "{findings:?}");
    // Whoever takes the lie away has a repository as before.
    world.mem.lose(&layout::dead(0).unwrap());
    let report = prune(&world, &job()).await;
    assert_eq!(report.findings, []);
    world.save(&source, &world.keys, "one").await;
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_dead_does_not_go_while_somebody_may_be_about_to_name_it() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    // It knows the index from before, and may build on all of it.
    let open = leave_open(&world, 2).await;
    call_dead(&world, &packs(&world)).await;
    let before = stored(&world);
    let index = world.open(&world.keys, None).await.index().packs();
    let repo = world.open(&maintenance(&world), None).await;
    let report = prune_with(&repo, &world.cx, &job()).await.unwrap();
    assert_eq!(report.deleted_packs, 0);
    assert!(stored(&world) >= before);
    let left = world.open(&world.keys, None).await.index().packs();
    assert!(
        index.keys().all(|id| left.contains_key(id)),
        "none is hidden"
    );
    world.mem.lose(&layout::session(open).unwrap());
    assert!(prune(&world, &job()).await.deleted_packs > 0);
    for (report, disks) in &saved[1..] {
        world.check(disks, report).await;
    }
}
