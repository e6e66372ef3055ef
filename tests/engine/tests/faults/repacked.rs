//! Packs that are lost, and a copy of the repository that has what was in them in other packs, since it was pruned: the
//! chunks come back in new packs, and nothing names the lost ones any more.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_core::{ObjectKey, Severity};
use backup_engine::prune::{self, PruneReport};
use backup_engine::repair::{Remedy, RepairJob, plan, repair};
use backup_engine::snapshot::CheckpointRule;
use backup_engine::{ForgetPlan, Repository, Unlock, forget};
use backup_format::config::Operation;
use backup_format::keys::{KeyFile, Role};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_testkit::{Crash, MemSink};

use crate::operations::thorough;
use crate::repair::{flip, mend, named, of_kind, packs};
use crate::world::{Case, Memory, World, host, noise};

async fn open(world: &World, mem: &MemSink) -> Repository {
    world.open(Arc::new(mem.clone()), None).await.unwrap()
}

/// Prunes; what it said before and behind.
async fn prune_it(world: &World, mem: &MemSink) -> (String, PruneReport) {
    let repo = open(world, mem).await;
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let told = format!("{:?}", plan.findings);
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    (told, done.unwrap())
}

/// Two snapshots, and packs that an older one was the first to use; a copy in which a prune has written these anew; and the
/// packs that are lost then, of content and of pages.
async fn ground() -> (World, MemSink, Vec<ObjectKey>) {
    let mut world = World::new().await;
    // Each snapshot has one pack of content, and one of pages and lineages.
    world.job.checkpoint = CheckpointRule::default();
    for number in 0..3 {
        world.write("large", &noise(2001 + number, 1 << 20));
        world.write("below/3", &noise(3001 + number, 9000));
        world.keep_one_more().await;
    }
    let repo = open(&world, &world.mem).await;
    let oldest = repo.heads(&world.cx).await.unwrap().0.remove(0);
    let going = ForgetPlan::by_id(vec![oldest.meta]);
    let done = forget(&repo, &world.cx, &going, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    world.forget_oldest();
    let copy = world.mem.fork();
    let (_, done) = prune_it(&world, &copy).await;
    assert!(done.written_packs > 1, "{done:?}");
    let there = copy.objects();
    let case = world.case(Memory::Lost);
    // Of what no snapshot uses nothing need come back.
    let uses = named(&case, &repo).into_values().flatten();
    let uses: BTreeSet<_> = uses.map(|(id, _)| id).collect();
    let is_used = |key: &ObjectKey| uses.contains(&layout::pack_id(key).unwrap());
    let lost = packs(&case).into_iter();
    let lost = lost.filter(|key| !there.contains_key(key) && is_used(key));
    let lost: Vec<_> = lost.collect();
    for folder in ["data/", "meta/"] {
        assert!(lost.iter().any(|key| key.as_str().starts_with(folder)));
    }
    (world, copy, lost)
}

/// A snapshot is gone, and all that tells which packs it uses: the copy has it, and tells of its own packs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_gone_with_its_refs_comes_from_a_copy_that_was_pruned() {
    let (world, copy, packs) = ground().await;
    let repo = open(&world, &world.mem).await;
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let id = &heads.last().unwrap().meta.id;
    let lose = |case: &Case| {
        let key = layout::snapshot(*id).unwrap();
        let is_of_it = |key: &ObjectKey| layout::refs_id(key).is_some_and(|(of, _)| of == *id);
        for key in of_kind(case, is_of_it).into_iter().chain([key]) {
            assert!(case.mem.lose(&key), "{key}");
        }
    };
    let case = world.case(Memory::Lost);
    lose(&case);
    let report = mend(&world, &case, &[open(&world, &copy).await]).await;
    assert_eq!(report.findings, []);
    world.check(&case, "gone").await;
    // Of what is not here either nothing can be told, and what helps is.
    let case = world.case(Memory::Lost);
    lose(&case);
    for pack in &packs {
        assert!(case.mem.lose(pack));
    }
    let report = mend(&world, &case, &[open(&world, &copy).await]).await;
    let told = format!("{:?}", report.findings);
    assert!(told.contains("as a whole"), "{told}");
}

type Harm = (&'static str, fn(&Case, &ObjectKey));

const HARMS: [Harm; 3] = [
    ("gone", |case, key| assert!(case.mem.lose(key))),
    ("damaged", flip),
    ("set aside", |case, key| {
        flip(case, key);
        let bytes = case.mem.objects()[key].clone();
        case.mem.plant(layout::aside(key).unwrap(), bytes);
        assert!(case.mem.lose(key));
    }),
];

/// All that is there is whole, and nobody says anything.
async fn is_quiet(world: &World, case: &Case, what: &str) {
    world.check(case, what).await;
    let report = mend(world, case, &[]).await;
    assert_eq!((report.mended, report.findings), (vec![], vec![]), "{what}");
    // What was lost goes from the index now, and what was set aside of it.
    let (told, done) = prune_it(world, &case.mem).await;
    let taken_out = told.matches("it is taken out of the index").count();
    let all = told.matches("Finding {").count();
    assert!(taken_out == all && all > 0, "{what}: {told}");
    assert_eq!(done.findings, [], "{what}");
    let (told, done) = prune_it(world, &case.mem).await;
    let said = (told.as_str(), &done.findings[..]);
    assert_eq!(said, ("[]", &[][..]), "{what}");
    assert_eq!(of_kind(case, |key| layout::aside_of(key).is_some()), []);
    world.check(case, what).await;
    world.make_good(case, what).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lost_packs_held_comes_back_from_a_copy_that_has_it_in_others() {
    let (world, copy, lost) = ground().await;
    for (how, harm) in HARMS {
        let each = lost.iter().map(std::slice::from_ref);
        for keys in each.chain([&lost[..]]) {
            let what = format!("{keys:?} {how}");
            let case = world.case(Memory::Lost);
            keys.iter().for_each(|key| harm(&case, key));
            let copies = [open(&world, &copy).await];
            let report = mend(&world, &case, &copies).await;
            assert_eq!(report.findings, [], "{what}");
            assert_eq!(report.mended.len(), 1, "{what}: {report:?}");
            assert!(matches!(report.mended[0].remedy, Remedy::Copy(_)), "{what}");
            let there = case.mem.objects();
            assert!(keys.iter().all(|key| !there.contains_key(key)), "{what}");
            is_quiet(&world, &case, &what).await;
        }
    }
}

/// Without the key that reads content they come back too, and the next repair with one ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_come_back_without_a_key_that_reads_them() {
    let (world, copy, lost) = ground().await;
    let case = world.case(Memory::Lost);
    for key in &lost {
        assert!(case.mem.lose(key));
    }
    let full = open(&world, &case.mem).await;
    let keys = full
        .keys()
        .subset(Role::Maintenance, Some(&host()))
        .unwrap();
    let unlock = Unlock::KeyFile(KeyFile::Keys(Box::new(keys)));
    let sink = Arc::new(case.mem.clone());
    let repo = Repository::open(&world.cx, sink, &unlock, None, Operation::Prune);
    let repo = repo.await.unwrap();
    let job = RepairJob::new(&repo, host());
    let copies = [open(&world, &copy).await];
    let planned = plan(&repo, &world.cx, &job, &copies).await.unwrap();
    let report = repair(&repo, &world.cx, planned, &job, &copies).await;
    let report = report.unwrap();
    assert_eq!(report.mended.len(), 1, "{report:?}");
    let told = format!("{:?}", report.findings);
    assert!(told.contains("with a full key"), "{told}");
    world.check_restores(&case, "by a maintenance key").await;
    // A prune keeps them.
    let _ = prune_it(&world, &case.mem).await;
    world.check_restores(&case, "pruned").await;
    let report = mend(&world, &case, &copies).await;
    assert_eq!(report.findings, []);
    is_quiet(&world, &case, "by a full key").await;
}

/// A pack here holds by the index what a lost one held, and is damaged as well, which a repair of the lost one alone does not look
/// for: what is not what it should be is fetched in the same run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_pack_only_seems_to_have_is_fetched_in_the_same_run() {
    let (world, copy, lost) = ground().await;
    let case = world.case(Memory::Lost);
    let is_content = |key: &&ObjectKey| key.as_str().starts_with("data/");
    let lost = lost.iter().find(is_content).unwrap();
    assert!(case.mem.lose(lost));
    let before = (packs(&case), of_kind(&case, layout::is_index));
    world.save(&open(&world, &case.mem).await).await.unwrap();
    let anew = packs(&case).into_iter();
    let anew = anew.filter(|key| is_content(&key) && !before.0.contains(key));
    let anew: Vec<_> = anew.collect();
    assert!(!anew.is_empty());
    for key in &anew {
        // Not one chunk of it is whole.
        assert!(case.mem.damage(key, |bytes| {
            let end = bytes.len() - bytes.len() / 8;
            bytes[..end].iter_mut().for_each(|byte| *byte ^= 1);
        }));
    }
    let runs = of_kind(&case, |key| {
        layout::is_index(key) && !before.1.contains(key)
    });
    for is_first in [true, false] {
        let case = Case::of(case.mem.fork());
        put_in_order(&case, &open(&world, &case.mem).await, &runs, is_first);
        let repo = open(&world, &case.mem).await;
        let job = RepairJob {
            packs: [layout::pack_id(lost).unwrap()].into(),
            ..RepairJob::new(&repo, host())
        };
        let copies = [open(&world, &copy).await];
        let planned = plan(&repo, &world.cx, &job, &copies).await.unwrap();
        let report = repair(&repo, &world.cx, planned, &job, &copies).await;
        let report = report.unwrap();
        assert_eq!(report.mended.len(), 1, "{report:?}");
        assert_eq!(report.findings, []);
        // The save itself needs more of what is damaged than the lost pack held.
        let newest = repo.heads(&world.cx).await.unwrap().0.pop().unwrap();
        let going = ForgetPlan::by_id(vec![newest.meta]);
        let done = forget(&repo, &world.cx, &going, &host(), "me").await;
        assert_eq!(done.unwrap().removed, 1);
        // Refs name what was fetched, whichever the index has first, so a prune keeps it.
        let uses = named(&case, &repo).into_values().flatten();
        let uses: BTreeSet<_> = uses.map(|(id, _)| id).collect();
        let is_named = |key: &ObjectKey| uses.contains(&layout::pack_id(key).unwrap());
        assert!(!is_named(lost), "first: {is_first}");
        assert!(!anew.iter().any(is_named), "first: {is_first}");
        for key in &anew {
            assert!(case.mem.lose(key));
        }
        world.check_restores(&case, "fetched").await;
        let _ = prune_it(&world, &case.mem).await;
        world.check_restores(&case, "pruned").await;
    }
}

/// Seals some index runs anew until they have names by which all others come behind them, or before. The index is looked
/// through in the order of these.
fn put_in_order(case: &Case, repo: &Repository, runs: &[ObjectKey], is_first: bool) {
    let wanted = if is_first { "index/00" } else { "index/ff" };
    assert!(!runs.is_empty());
    for key in runs {
        let sealed = &case.mem.objects()[key];
        let plain = repo.ring().open(ObjectKind::IndexRun, sealed).unwrap();
        let (sealed, at) = loop {
            let sealed = repo.ring().seal(ObjectKind::IndexRun, &plain).unwrap();
            let at = layout::index(&sealed).unwrap();
            if at.as_str().starts_with(wanted) {
                break (sealed, at);
            }
        };
        assert!(case.mem.lose(key));
        case.mem.plant(at, sealed);
    }
}

/// What the copy has damaged does not come back, and is told; the rest does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_copy_does_not_have_whole_is_told() {
    let (world, copy, lost) = ground().await;
    let case = world.case(Memory::Lost);
    for key in &lost {
        assert!(case.mem.lose(key));
    }
    let rotten = Case::of(copy.fork());
    let there = world.mem.objects();
    for key in packs(&rotten).iter().filter(|key| !there.contains_key(key)) {
        if key.as_str().starts_with("data/") {
            flip(&rotten, key);
        }
    }
    let report = mend(&world, &case, &[open(&world, &rotten.mem).await]).await;
    let told = format!("{:?}", report.findings);
    assert!(told.contains("gives all whole"), "{told}");
    // From one that is whole the rest comes.
    let copies = [open(&world, &rotten.mem).await, open(&world, &copy).await];
    let report = mend(&world, &case, &copies).await;
    assert_eq!(report.findings, []);
    is_quiet(&world, &case, "from the other").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bringing_chunks_back_that_is_killed_is_ended_by_the_next() {
    let (world, copy, lost) = ground().await;
    let try_it = async |case: &Case, crash: Option<(u64, Crash)>| {
        let sink = case.faulty();
        if let Some((k, crash)) = crash {
            sink.crash_at(k, crash);
        }
        let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
        let job = RepairJob::new(&repo, host());
        let copies = [open(&world, &copy).await];
        let done = match plan(&repo, &world.cx, &job, &copies).await {
            Ok(plan) => repair(&repo, &world.cx, plan, &job, &copies)
                .await
                .map(drop),
            Err(error) => Err(error),
        };
        (sink.mutations(), done)
    };
    let harmed = || {
        let case = world.case(Memory::Lost);
        for (number, key) in lost.iter().enumerate() {
            (HARMS[number % 2].1)(&case, key);
        }
        case
    };
    let (changes, done) = try_it(&harmed(), None).await;
    done.unwrap();
    assert!(changes > 8, "{changes}");
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k} of {changes}");
            let case = harmed();
            let _ = try_it(&case, Some((k, crash))).await;
            let mut report = mend(&world, &case, &[open(&world, &copy).await]).await;
            report.findings.retain(|one| one.severity > Severity::Note);
            assert_eq!(report.findings, [], "{what}");
            world.check(&case, &what).await;
            let (_, done) = prune_it(&world, &case.mem).await;
            assert_eq!(done.findings, [], "{what}");
            world.check(&case, &what).await;
        }
    }
}
