//! Repositories that are damaged in every way that a repair can mend, and repairs that are killed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backup_core::{ObjectKey, PackId, Sample, Severity, Sink, VerifyLevel};
use backup_engine::prune::{self, PruneJob, Unused};
use backup_engine::repair::{Remedy, RepairJob, RepairReport, Step, plan, repair, set_share};
use backup_engine::{Repository, Result, verify};
use backup_format::collect::PackList;
use backup_format::layout;
use backup_format::refs::Refs;
use backup_format::seal::ObjectKind;
use backup_parity::Share;
use backup_testkit::{Crash, Fault, MemSink, Op, Rule};

use crate::world::{Case, Memory, World, host};

/// Two snapshots with parity.
pub(crate) async fn world() -> World {
    let world = World::with_parity(Some(Share::USUAL)).await;
    let mut world = world.and_snapshot().await;
    world.keep_one_more().await;
    world
}

async fn try_to_repair(
    world: &World,
    sink: Arc<dyn Sink>,
    others: &[Repository],
) -> Result<RepairReport> {
    let repo = world.open(sink, None).await?;
    let job = RepairJob::new(&repo, host());
    let plan = plan(&repo, &world.cx, &job, others).await?;
    repair(&repo, &world.cx, plan, &job, others).await
}

pub(crate) async fn mend(world: &World, case: &Case, others: &[Repository]) -> RepairReport {
    let sink = Arc::new(case.mem.clone());
    try_to_repair(world, sink, others).await.unwrap()
}

pub(crate) fn of_kind(case: &Case, is: impl Fn(&ObjectKey) -> bool) -> Vec<ObjectKey> {
    case.mem.objects().into_keys().filter(is).collect()
}

pub(crate) fn packs(case: &Case) -> Vec<ObjectKey> {
    of_kind(case, layout::is_pack)
}

/// Destroys a run of so many hundredths, beginning at so many.
fn destroy(case: &Case, key: &ObjectKey, from: usize, percent: usize) {
    let did = case.mem.damage(key, |bytes| {
        let length = bytes.len();
        let run = length * from / 100..length * (from + percent) / 100;
        bytes[run].iter_mut().for_each(|byte| *byte = !*byte);
    });
    assert!(did, "{key}");
}

pub(crate) fn flip(case: &Case, key: &ObjectKey) {
    let did = case.mem.damage(key, |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    assert!(did, "{key}");
}

/// What the refs of each snapshot name.
pub(crate) fn named(
    case: &Case,
    repo: &Repository,
) -> BTreeMap<String, BTreeMap<PackId, Vec<u32>>> {
    let mut out: BTreeMap<String, BTreeMap<PackId, Vec<u32>>> = BTreeMap::new();
    for (key, sealed) in case.mem.objects() {
        let Some((snapshot, _)) = layout::refs_id(&key) else {
            continue;
        };
        let plain = repo.ring().open(ObjectKind::Refs, &sealed).unwrap();
        let all = out.entry(snapshot.to_string()).or_default();
        for pack in Refs::decode(&plain).unwrap().packs {
            let slots = all.entry(pack.pack).or_default();
            slots.extend(pack.used());
            slots.sort_unstable();
            slots.dedup();
        }
    }
    out
}

/// Something of each kind is damaged or missing.
fn damage_everything(case: &Case) {
    for (number, key) in packs(case).iter().enumerate() {
        match number % 3 {
            0 => destroy(case, key, 40, 5),
            1 => assert!(case.mem.damage(key, |bytes| {
                let end = bytes.len() - bytes.len() / 20;
                bytes.truncate(end);
            })),
            _ => destroy(case, key, 0, 5),
        }
    }
    let index = of_kind(case, layout::is_index);
    flip(case, &index[0]);
    assert!(index.len() < 2 || case.mem.lose(&index[1]));
    let refs = of_kind(case, |key| layout::refs_id(key).is_some());
    flip(case, &refs[0]);
    assert!(case.mem.lose(&refs[1]));
    // One of the two heads of each.
    for key in of_kind(case, |key| layout::parity_of(key).is_some()) {
        assert!(case.mem.damage(&key, |bytes| bytes[20] ^= 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_whole_repository_is_left_alone() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let before = case.mem.objects();
    let parity = of_kind(&case, |key| layout::parity_of(key).is_some());
    assert_eq!(parity.len(), packs(&case).len());
    let report = mend(&world, &case, &[]).await;
    assert_eq!((report.mended, report.findings), (vec![], vec![]));
    assert_eq!(case.mem.objects(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_damaged_is_mended_from_what_is_there() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let before = (named(&case, &repo), case.mem.objects());
    damage_everything(&case);
    let report = mend(&world, &case, &[]).await;
    assert_eq!(report.findings, []);
    let wanted = packs(&case).len() + 1 + 2 + 1;
    assert_eq!(report.mended.len(), wanted, "{:?}", report.mended);
    world.check(&case, "mended").await;
    // Bit for bit what it was, but for what is sealed anew.
    assert!(named(&case, &repo) == before.0);
    for (key, bytes) in case.mem.objects() {
        assert!(layout::aside_of(&key).is_none(), "{key} is left");
        if layout::is_pack(&key) || layout::parity_of(&key).is_some() {
            assert!(before.1[&key] == bytes, "{key}");
        }
    }
    let report = mend(&world, &case, &[]).await;
    assert_eq!((report.mended, report.findings), (vec![], vec![]));
    // What a prune goes by is right: nothing that is used goes.
    let job = PruneJob {
        max_unused: Unused::Bytes(0),
        ..PruneJob::new(host())
    };
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let plan = prune::plan(&repo, &world.cx, &job).await.unwrap();
    prune::prune(&repo, &world.cx, plan, &job).await.unwrap();
    world.check(&case, "pruned").await;
    world.make_good(&case, "pruned").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_killed_at_any_change_makes_nothing_worse_and_the_next_one_ends_it() {
    let world = world().await;
    let changes = {
        let case = world.case(Memory::Lost);
        damage_everything(&case);
        let sink = case.faulty();
        let done = try_to_repair(&world, Arc::new(sink.clone()), &[]).await;
        assert_eq!(done.unwrap().findings, []);
        sink.mutations()
    };
    assert!(changes > 15, "only {changes} changes: too few to tell");
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k} of {changes}");
            let case = world.case(Memory::Lost);
            damage_everything(&case);
            let sink = case.faulty();
            sink.crash_at(k, crash);
            let killed = try_to_repair(&world, Arc::new(sink.clone()), &[]).await;
            assert!(sink.crashed(), "{what}");
            assert!(killed.is_err() || crash == Crash::After, "{what}");
            let report = mend(&world, &case, &[]).await;
            assert_eq!(report.findings, [], "{what}");
            world.check(&case, &what).await;
            let left = of_kind(&case, |key| layout::aside_of(key).is_some());
            assert_eq!(left, [], "{what}");
        }
    }
}

/// A tier that breaks its promise and leaves half of what was written, in the place of what is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_torn_while_it_is_replaced_is_had_from_what_was_set_aside() {
    let world = world().await;
    let count = packs(&world.case(Memory::Lost)).len();
    for number in 0..count {
        let case = world.case(Memory::Lost);
        let key = packs(&case).remove(number);
        destroy(&case, &key, 90, 5);
        let sink = case.faulty();
        let folder = key.as_str().split('/').next().unwrap();
        let torn = Rule::new(Fault::Torn).on(&[Op::Put]);
        let sink = sink.with(torn.under(&format!("{folder}/")));
        let killed = try_to_repair(&world, Arc::new(sink), &[]).await;
        assert!(killed.is_err(), "{key}");
        assert_ne!(of_kind(&case, |key| layout::aside_of(key).is_some()), []);
        let report = mend(&world, &case, &[]).await;
        assert_eq!(report.findings, [], "{key}");
        world.check(&case, key.as_str()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_parity_cannot_mend_stays_and_is_told_with_whom_it_hurts_and_a_copy_has_it() {
    let world = world().await;
    for lost in [false, true] {
        let case = world.case(Memory::Lost);
        let copy = world.open(Arc::new(world.case(Memory::Lost).mem), None);
        let copy = copy.await.unwrap();
        for key in packs(&case) {
            if lost {
                assert!(case.mem.lose(&key));
                continue;
            }
            // Of a small pack there is so much parity that only its loss counts.
            if case.mem.objects()[&key].len() < 64 << 10 {
                assert!(case.mem.lose(&layout::parity(&key).unwrap()));
            }
            destroy(&case, &key, 20, 30);
        }
        // Parity alone brings no pack back.
        let before = case.mem.objects();
        let report = mend(&world, &case, &[]).await;
        let told = format!("{:?}", report.findings);
        for key in packs(&world.case(Memory::Lost)) {
            let digest = key.as_str().rsplit('/').next().unwrap().to_owned();
            assert!(told.contains(&digest), "{key}: {told}");
        }
        assert!(told.contains("snapshot "), "{told}");
        for (key, bytes) in before {
            // What nothing mends was set aside, just as it was.
            let there = case.mem.objects();
            let aside = layout::aside(&key).unwrap();
            let found = there.get(&key).or_else(|| there.get(&aside));
            assert!(found == Some(&bytes), "{key}");
        }
        let report = mend(&world, &case, std::slice::from_ref(&copy)).await;
        assert_eq!(report.findings, [], "lost: {lost}");
        let from_copy = |one: &&_| {
            matches!(
                one,
                &&backup_engine::repair::Mended {
                    remedy: Remedy::Copy(_),
                    ..
                }
            )
        };
        assert_eq!(
            report.mended.iter().filter(from_copy).count(),
            packs(&case).len()
        );
        world.check(&case, "from a copy").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_damaged_itself_replaces_nothing() {
    let world = world().await;
    let (case, other) = (world.case(Memory::Lost), world.case(Memory::Lost));
    let key = packs(&case).remove(0);
    destroy(&case, &key, 20, 30);
    destroy(&other, &key, 50, 1);
    let before = case.mem.objects()[&key].clone();
    let copy = world.open(Arc::new(other.mem.clone()), None).await.unwrap();
    let report = mend(&world, &case, &[copy]).await;
    assert!(!report.findings.is_empty());
    // It lies where nobody builds on it, just as it was.
    let aside = layout::aside(&key).unwrap();
    assert_eq!(case.mem.objects()[&aside], before);
    assert!(!case.mem.objects().contains_key(&key));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_that_are_damaged_or_gone_come_from_a_copy() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let copy = world.open(Arc::new(world.case(Memory::Lost).mem), None);
    let copy = copy.await.unwrap();
    let snapshots = of_kind(&case, |key| layout::snapshot_id(key).is_some());
    for key in &snapshots {
        assert!(case.mem.lose(&layout::parity(key).unwrap()));
    }
    flip(&case, &snapshots[0]);
    let id = layout::snapshot_id(&snapshots[1]).unwrap();
    assert!(case.mem.lose(&snapshots[1]) && case.mem.lose(&layout::refs(id).unwrap()));
    let report = mend(&world, &case, &[]).await;
    assert_eq!(report.mended, []);
    let told: BTreeSet<_> = report
        .findings
        .iter()
        .map(|one| one.subject.clone())
        .collect();
    assert!(told.len() >= 2, "{told:?}");
    let report = mend(&world, &case, &[copy]).await;
    // And their sidecars.
    assert_eq!((report.findings, report.mended.len()), (vec![], 3));
    assert_eq!(world.check(&case, "put back").await, 2);
}

/// Somebody else's packs are no use, however whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_is_no_copy() {
    let (world, other) = (world().await, World::with_snapshot().await);
    let case = world.case(Memory::Lost);
    let other = other.open(Arc::new(other.case(Memory::Lost).mem), None);
    let others = [other.await.unwrap()];
    let refused = try_to_repair(&world, Arc::new(case.mem.clone()), &others).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("no copy of repository"), "{refused}");
}

/// The dead do not come back, though a copy still has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_collected_is_not_fetched_and_not_indexed_again() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let copy = world.open(Arc::new(world.case(Memory::Lost).mem), None);
    let copy = copy.await.unwrap();
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    // As after a prune that went the whole way for these, with nothing else left.
    for key in of_kind(&case, |key| {
        layout::snapshot_id(key).is_some()
            || layout::refs_id(key).is_some()
            || layout::is_index(key)
    }) {
        case.mem.lose(&key);
    }
    let (gone, there) = (packs(&case).remove(0), packs(&case).remove(1));
    let dead = [&gone, &there].map(|key| layout::pack_id(key).unwrap());
    for (kind, key) in [
        (ObjectKind::Condemned, layout::condemned(0)),
        (ObjectKind::Dead, layout::dead(0)),
    ] {
        let list = PackList {
            generation: 0,
            packs: dead.into(),
        };
        let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
        case.mem.plant(key.unwrap(), sealed);
    }
    assert!(case.mem.lose(&gone));
    let mem: MemSink = case.mem.clone();
    let repo = world.open(Arc::new(mem), None).await.unwrap();
    let mut job = RepairJob::new(&repo, host());
    job.steps = [Step::Packs, Step::Index].into();
    let others = [copy];
    let plan = plan(&repo, &world.cx, &job, &others).await.unwrap();
    let told = format!("{:?}", plan.tasks);
    assert!(
        !told.contains(gone.as_str()) && !told.contains(there.as_str()),
        "{told}"
    );
    repair(&repo, &world.cx, plan, &job, &others).await.unwrap();
    let known = repo.index().packs();
    assert!(dead.iter().all(|id| !known.contains_key(id)));
    assert!(!case.mem.objects().contains_key(&gone));
}

/// Whoever holds the index key can write that packs are dead; what snapshots use is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_called_dead_and_is_used_comes_back() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let copy = world.open(Arc::new(world.case(Memory::Lost).mem), None);
    let copy = copy.await.unwrap();
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let all = packs(&case);
    for (kind, key) in [
        (ObjectKind::Condemned, layout::condemned(0)),
        (ObjectKind::Dead, layout::dead(0)),
    ] {
        let list = PackList {
            generation: 0,
            packs: all.iter().filter_map(layout::pack_id).collect(),
        };
        let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
        case.mem.plant(key.unwrap(), sealed);
    }
    for key in &all {
        assert!(case.mem.lose(key));
    }
    let report = mend(&world, &case, &[copy]).await;
    assert_eq!(packs(&case), all);
    let told: Vec<_> = report.findings.iter().map(|one| &*one.subject).collect();
    assert_eq!(told, ["gc/0.done"]);
    case.mem.lose(&layout::dead(0).unwrap());
    world.check(&case, "brought back").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parity_can_be_added_later_and_goes_with_its_pack() {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    let case = world.case(Memory::Lost);
    let count = || of_kind(&case, |key| layout::parity_of(key).is_some()).len();
    let mut repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    assert_eq!(count(), 0);
    set_share(&mut repo, &world.cx, Some(Share::USUAL))
        .await
        .unwrap();
    let warned = verify(&repo, &world.cx, None, VerifyLevel::Metadata, Sample::All).await;
    let warned = warned.unwrap().report.findings;
    assert!(
        warned
            .iter()
            .any(|one| one.subject == "parity/" && one.severity == Severity::Warning)
    );
    let job = RepairJob::new(&repo, host());
    let plan = plan(&repo, &world.cx, &job, &[]).await.unwrap();
    let report = repair(&repo, &world.cx, plan, &job, &[]).await.unwrap();
    // Of packs, and of small objects.
    assert_eq!((report.findings, report.mended.len()), (vec![], 2));
    assert_eq!(count(), packs(&case).len());
    // Whoever opens it now writes parity as well.
    world.write("more", &crate::world::noise(77, 300_000));
    world.make_good(&case, "with parity").await;
    assert_eq!(count(), packs(&case).len());
    // What is forgotten takes its parity with it; what is without its pack is swept.
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let metas = heads.into_iter().map(|head| head.meta).collect();
    let plan = backup_engine::ForgetPlan::by_id(metas);
    backup_engine::forget(&repo, &world.cx, &plan, &host(), "")
        .await
        .unwrap();
    let stray = layout::pack(PackId([9; 32]), false).unwrap();
    case.mem
        .plant(layout::parity(&stray).unwrap(), b"left".to_vec());
    let job = PruneJob {
        max_drop: 1.0,
        wait: std::time::Duration::ZERO,
        ..PruneJob::new(host())
    };
    let plan = prune::plan(&repo, &world.cx, &job).await.unwrap();
    prune::prune(&repo, &world.cx, plan, &job).await.unwrap();
    assert_eq!((packs(&case).len(), count()), (0, 0));
}

/// A pack is fetched whose parity is damaged, wherever the pack itself was: it is made anew in the same run.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_fetched_is_protected_again() {
    let world = world().await;
    for harm in [
        (|case, key| assert!(case.mem.lose(key))) as fn(&Case, &ObjectKey),
        |case, key| {
            let bytes = case.mem.objects()[key].clone();
            case.mem.plant(layout::aside(key).unwrap(), bytes);
            flip_much(case, &layout::aside(key).unwrap());
            case.mem.lose(key);
        },
        flip_much,
    ] {
        for key in packs(&world.case(Memory::Lost)) {
            let case = world.case(Memory::Lost);
            let copy = world.open(Arc::new(case.mem.fork()), None).await.unwrap();
            harm(&case, &key);
            flip(&case, &layout::parity(&key).unwrap());
            let report = mend(&world, &case, &[copy]).await;
            assert_eq!(report.findings, [], "{key}");
            world.check(&case, key.as_str()).await;
            let report = mend(&world, &case, &[]).await;
            assert_eq!((report.mended, report.findings), (vec![], vec![]), "{key}");
        }
    }
}

/// More than any parity makes good.
fn flip_much(case: &Case, key: &ObjectKey) {
    destroy(case, key, 10, 60);
}
