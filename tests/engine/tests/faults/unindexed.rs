//! Index runs that are gone: nothing names them, and yet whoever builds on the index or prunes says so.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backup_core::{Finding, FindingKind, ObjectKey, PackId, Severity};
use backup_engine::Repository;
use backup_engine::prune::{self, PruneJob};
use backup_engine::repair::{RepairJob, Step, plan, repair};
use backup_format::index::IndexRun;
use backup_format::layout;
use backup_format::seal::ObjectKind;

use crate::repair::{named, of_kind, world};
use crate::world::{Case, Memory, World, host};

async fn of_prune(world: &World, case: &Case) -> Vec<Finding> {
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let job = PruneJob::new(host());
    prune::plan(&repo, &world.cx, &job).await.unwrap().findings
}

async fn of_save(world: &World, case: &Case) -> Vec<Finding> {
    let repo = world.open(Arc::new(case.mem.clone()), case.cache()).await;
    world.save(&repo.unwrap()).await.unwrap().findings
}

fn is_told(findings: &[Finding], is_gone: bool) {
    if !is_gone {
        assert_eq!(findings, []);
        return;
    }
    let [one] = findings else {
        panic!("{findings:?}");
    };
    assert_eq!(one.subject, "the index");
    assert_eq!(
        (one.severity, one.kind),
        (Severity::Error, FindingKind::Missing)
    );
    assert!(one.detail.contains("`snapshot repair index`"), "{one:?}");
}

/// The packs that runs name.
fn packs_in(case: &Case, repo: &Repository, runs: &[ObjectKey]) -> BTreeSet<PackId> {
    let objects = case.mem.objects();
    let packs = runs.iter().flat_map(|run| {
        let plain = repo.ring().open(ObjectKind::IndexRun, &objects[run]);
        IndexRun::parse(plain.unwrap()).unwrap().packs
    });
    packs.map(|pack| pack.id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_run_that_is_gone_is_told_by_prunes_and_saves_until_it_is_made_anew() {
    let world = world().await;
    let case = world.case(Memory::Kept);
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let runs = of_kind(&case, layout::is_index);
    let of_snapshots = named(&case, &repo);
    let uses = |of: &BTreeMap<PackId, Vec<u32>>, lost: &BTreeSet<PackId>| {
        of.keys().any(|pack| lost.contains(pack))
    };
    let ways = (0..runs.len()).map(|number| number..number + 1);
    let (mut by_prunes, mut by_saves) = (0, 0);
    for way in ways.chain(std::iter::once(0..runs.len())) {
        let (lost, left) = (&runs[way.clone()], [&runs[..way.start], &runs[way.end..]]);
        let known = packs_in(&case, &repo, &left.concat());
        let lost_packs = &packs_in(&case, &repo, lost) - &known;
        let is_used = of_snapshots.values().any(|of| uses(of, &lost_packs));
        // The newest is what a save builds on.
        let (_, newest) = of_snapshots.last_key_value().unwrap();
        let is_parents = uses(newest, &lost_packs);
        for memory in [Memory::Kept, Memory::Lost] {
            let case = world.case(memory);
            lost.iter().for_each(|run| assert!(case.mem.lose(run)));
            is_told(&of_prune(&world, &case).await, is_used);
            is_told(&of_save(&world, &case).await, is_parents);
            if !is_used {
                continue;
            }
            let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
            let mut job = RepairJob::new(&repo, host());
            job.steps = [Step::Index].into();
            let made = plan(&repo, &world.cx, &job, &[]).await.unwrap();
            assert_eq!(made.tasks.len(), 1);
            let report = repair(&repo, &world.cx, made, &job, &[]).await.unwrap();
            assert_eq!(report.findings, [], "{memory:?} {way:?}");
            assert_eq!(of_prune(&world, &case).await, []);
            world.make_good(&case, "made anew").await;
        }
        by_prunes += u32::from(is_used);
        by_saves += u32::from(is_parents);
    }
    assert!(by_prunes > 1 && by_saves > 1, "{by_prunes} {by_saves}");
}
