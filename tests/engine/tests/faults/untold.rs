//! Packs that are gone together with all that tells what they held: what is left of that may lie in any other pack. And
//! refs that are gone, which a copy of the repository has.

use std::sync::Arc;

use backup_core::{Finding, ObjectKey, Severity};
use backup_engine::prune::{self, PruneReport};
use backup_engine::repair::{self, Mended, Remedy, RepairJob};
use backup_engine::{ForgetPlan, Repository, forget};
use backup_format::layout;
use backup_testkit::{Fault, FaultSink, Op, Rule, When};

use crate::operations::thorough;
use crate::repair::{flip, mend, of_kind, packs, world};
use crate::world::{Case, Memory, World, host};

async fn reader(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

async fn prune_it(world: &World, case: &Case) -> (String, PruneReport) {
    let repo = reader(world, case).await;
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let told = format!("{:?}", plan.findings);
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    (told, done.unwrap())
}

/// Snapshots of the same files: all packs of the first with content are lost, the second has stored that anew, and the second
/// is forgotten.
async fn stored_anew() -> (World, Case, Vec<ObjectKey>) {
    let mut world = World::new().await;
    world.keep_one_more().await;
    let case = world.case(Memory::Lost);
    let lost = of_kind(&case, |key| key.as_str().starts_with("data/"));
    assert!(!lost.is_empty());
    for key in &lost {
        assert!(case.mem.lose(key));
    }
    let repo = reader(&world, &case).await;
    let second = world.save(&repo).await.unwrap();
    let going = ForgetPlan::by_id(vec![second.meta]);
    let done = forget(
        &reader(&world, &case).await,
        &world.cx,
        &going,
        &host(),
        "me",
    )
    .await;
    assert_eq!(done.unwrap().removed, 1);
    (world, case, lost)
}

/// The runs that tell what the lost packs held.
async fn runs_of(world: &World, case: &Case, lost: &[ObjectKey]) -> Vec<ObjectKey> {
    let mut out = Vec::new();
    for key in of_kind(case, |key| key.as_str().starts_with("index/")) {
        let alone = case.mem.fork();
        for other in of_kind(case, |other| {
            other.as_str().starts_with("index/") && *other != key
        }) {
            assert!(alone.lose(&other));
        }
        let with_it = world.open(Arc::new(alone), None).await.unwrap();
        let known = with_it.index().packs();
        let is_of = |key: &ObjectKey| known.contains_key(&layout::pack_id(key).unwrap());
        if lost.iter().any(is_of) {
            out.push(key);
        }
    }
    assert!(!out.is_empty());
    out
}

async fn is_whole(world: &World, case: &Case, what: &str) {
    let repo = reader(world, case).await;
    let (mut heads, errors) = repo.heads(&world.cx).await.unwrap();
    assert!(errors.is_empty(), "{what}");
    let back = world.restore(&repo, heads.remove(0)).await;
    assert!(back == world.saved[0], "{what}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_deletes_nothing_where_nobody_knows_what_a_lost_pack_held() {
    let (world, case, lost) = stored_anew().await;
    let runs = runs_of(&world, &case, &lost).await;
    // As long as the index tells what they held, what is not needed goes.
    is_whole(&world, &case, "before").await;
    for is_gone in [true, false] {
        let what = format!("gone: {is_gone}");
        let case = Case::of(case.mem.fork());
        for run in &runs {
            match is_gone {
                true => assert!(case.mem.lose(run)),
                false => flip(&case, run),
            }
        }
        let there = packs(&case);
        if is_gone {
            let (told, done) = prune_it(&world, &case).await;
            assert!(told.contains("nothing is deleted"), "{what}: {told}");
            assert_eq!(done.deleted_packs, 0, "{what}");
        }
        assert_eq!(packs(&case), there, "{what}");
        // Who reads manifests finds out where everything is.
        let report = mend(&world, &case, &[]).await;
        let from_manifest = |one: &&Mended| one.remedy == Remedy::Manifest;
        assert_eq!(report.mended.iter().filter(from_manifest).count(), 1);
        let report = mend(&world, &case, &[]).await;
        assert_eq!(report.findings, [], "{what}");
        let (told, done) = prune_it(&world, &case).await;
        assert_eq!(told, "[]", "{what}");
        assert_eq!(done.findings, [], "{what}");
        is_whole(&world, &case, &what).await;
        world.make_good(&case, &what).await;
    }
}

/// What such a run says a copy may know: it is not taken away as long as it may be of use.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_cannot_be_read_stays_for_the_sake_of_a_pack_that_is_lost() {
    let mut world = World::new().await;
    world.keep_one_more().await;
    let whole = world.case(Memory::Lost);
    let copy = world.open(Arc::new(whole.mem.clone()), None).await.unwrap();
    let case = world.case(Memory::Lost);
    let lost = of_kind(&case, |key| key.as_str().starts_with("data/")).remove(0);
    let runs = runs_of(&world, &case, std::slice::from_ref(&lost)).await;
    assert!(case.mem.lose(&lost));
    for run in &runs {
        flip(&case, run);
    }
    let told = format!("{:?}", mend(&world, &case, &[]).await.findings);
    assert!(told.contains("stay for the sake of"), "{told}");
    for run in &runs {
        assert!(case.mem.objects().contains_key(run));
    }
    let report = mend(&world, &case, &[copy]).await;
    assert_eq!(report.findings, []);
    world.check(&case, "from a copy").await;
    // Nobody needs the pack any more: nothing is to be learned about it.
    let case = world.case(Memory::Lost);
    assert!(case.mem.lose(&lost));
    for run in &runs {
        flip(&case, run);
    }
    world.save(&reader(&world, &case).await).await.unwrap();
    let repo = reader(&world, &case).await;
    let oldest = repo.heads(&world.cx).await.unwrap().0.remove(0);
    let going = ForgetPlan::by_id(vec![oldest.meta]);
    let done = forget(&repo, &world.cx, &going, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    let left = mend(&world, &case, &[]).await.findings;
    assert!(
        left.iter().all(|one| one.severity == Severity::Note),
        "{left:?}"
    );
    for run in &runs {
        assert!(!case.mem.objects().contains_key(run));
    }
    world.make_good(&case, "forgotten").await;
}

/// A tier that stores half of what is written in the place of a damaged pack: whatever it does to what is set aside and to the
/// pack, one of the two can be made whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_on_a_tier_that_stores_too_little_loses_no_pack() {
    let world = world().await;
    let count = packs(&world.case(Memory::Lost)).len();
    for number in 0..count {
        for spoilt in 1..=3 {
            let what = format!("pack {number}, put {spoilt}");
            let case = world.case(Memory::Lost);
            let key = packs(&case).remove(number);
            let length = case.mem.objects()[&key].len();
            let did = case.mem.damage(&key, |bytes| {
                bytes[length / 3..length / 3 + length.div_ceil(20)].fill(0xa5);
            });
            assert!(did, "{what}");
            // And a second one on the same tier, which makes it of what the first has left: that stays as it is.
            for when in [
                match spoilt {
                    1 => When::First(1),
                    2 => When::Nth(2),
                    _ => When::From(1),
                },
                When::From(1),
            ] {
                let sink = FaultSink::new(Arc::new(case.mem.clone()), 7);
                let rule = Rule::new(Fault::Shorten).on(&[Op::Put]);
                let sink = sink.with(rule.when(when));
                let repo = world.open(Arc::new(sink), None).await.unwrap();
                let job = RepairJob::new(&repo, host());
                let plan = repair::plan(&repo, &world.cx, &job, &[]).await.unwrap();
                // It says so, or all went well.
                let _ = repair::repair(&repo, &world.cx, plan, &job, &[]).await;
            }
            let report = mend(&world, &case, &[]).await;
            // What became of the records of this is another matter.
            let of_pack = |one: &&Finding| one.subject.contains(key.as_str());
            let left: Vec<_> = report.findings.iter().filter(of_pack).collect();
            assert!(left.is_empty(), "{what}: {left:?}");
            assert!(
                case.mem.objects()[&key] == world.mem.objects()[&key],
                "{what}"
            );
        }
    }
}
