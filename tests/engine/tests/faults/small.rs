//! Configs, key slots and snapshots that one flipped bit takes away, and that come back from their sidecars.

use std::collections::BTreeMap;
use std::sync::Arc;

use backup_core::{FindingKind, ObjectKey, Sample, Severity, Sink, VerifyLevel};
use backup_engine::prune::{self, PruneJob};
use backup_engine::repair::{RepairJob, RepairReport, plan, repair, set_share};
use backup_engine::slots::change;
use backup_engine::{EngineError, ForgetPlan, Repository, Result, forget, verify};
use backup_format::keys::{Secret, SlotMeta};
use backup_format::layout;
use backup_parity::Share;
use backup_testkit::{Crash, Fault, Op, Rule};

use crate::world::{Case, Memory, World, host};

/// Two snapshots with parity, and two configs.
async fn world() -> World {
    let world = World::with_parity(Some(Share::new(5).unwrap())).await;
    let sink = Arc::new(world.mem.clone());
    let mut repo = world.open(sink, Some(world.cache())).await.unwrap();
    let share = Some(Share::USUAL);
    set_share(&mut repo, &world.cx, share).await.unwrap();
    let mut world = world.and_snapshot().await;
    world.keep_one_more().await;
    world
}

async fn try_to_repair(world: &World, sink: Arc<dyn Sink>) -> Result<RepairReport> {
    let repo = world.open(sink, None).await?;
    let job = RepairJob::new(&repo, host());
    let plan = plan(&repo, &world.cx, &job, &[]).await?;
    repair(&repo, &world.cx, plan, &job, &[]).await
}

async fn mend(world: &World, case: &Case) -> RepairReport {
    try_to_repair(world, Arc::new(case.mem.clone()))
        .await
        .unwrap()
}

async fn open(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

fn small(case: &Case) -> Vec<ObjectKey> {
    let all = case.mem.objects().into_keys();
    all.filter(layout::is_small).collect()
}

fn beside(key: &ObjectKey) -> ObjectKey {
    layout::parity(key).unwrap()
}

/// Every object whose name or bytes could bring something back.
fn left_of(case: &Case, key: &ObjectKey) -> Vec<ObjectKey> {
    let all = case.mem.objects().into_keys();
    all.filter(|other| other.as_str().ends_with(key.as_str()))
        .collect()
}

type Harm = (&'static str, fn(&mut Vec<u8>));

const HARMS: [Harm; 5] = [
    ("a bit", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }),
    ("its beginning", |bytes| bytes[..40].fill(0)),
    ("half of it", |bytes| bytes.truncate(bytes.len() / 2)),
    ("all of it", |bytes| bytes.clear()),
    ("it is too long", |bytes| bytes.resize(200 << 20 >> 10, 7)),
];

async fn findings(world: &World, repo: &Repository, level: VerifyLevel) -> Vec<(String, Severity)> {
    let done = verify(repo, &world.cx, None, level, Sample::All).await;
    let all = done.unwrap().report.findings.into_iter();
    all.map(|one| (one.subject, one.severity))
        .filter(|one| one.1 > Severity::Note)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_has_a_sidecar_and_a_whole_repository_is_left_alone() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let all = small(&case);
    assert!(all.len() >= 2 + 2 + 2, "{all:?}");
    let before = case.mem.objects();
    for key in &all {
        let sidecar = &before[&beside(key)];
        // Little more than a second copy.
        assert!(sidecar.len() < before[key].len() + 2048, "{key}");
    }
    let report = mend(&world, &case).await;
    assert_eq!((report.mended, report.findings), (vec![], vec![]));
    assert!(case.mem.objects() == before);
    let repo = open(&world, &case).await;
    assert_eq!(findings(&world, &repo, VerifyLevel::Checksum).await, []);
    assert_eq!(repo.notices().findings(), []);
}

/// Whatever is done to one of them, everything goes on, says so, and is mended to the bit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_happens_to_one_it_goes_on_from_the_sidecar_and_is_put_back() {
    let world = world().await;
    for key in small(&world.case(Memory::Lost)) {
        for (what, harm) in HARMS
            .map(|(what, harm)| (what, Some(harm)))
            .into_iter()
            .chain([("it is gone", None)])
        {
            let what = format!("{key}: {what}");
            let case = world.case(Memory::Lost);
            let before = case.mem.objects();
            match harm {
                Some(harm) => assert!(case.mem.damage(&key, harm)),
                None => assert!(case.mem.lose(&key)),
            }
            // A snapshot that is gone is none, until it is put back.
            let is_none = harm.is_none() && layout::snapshot_id(&key).is_some();
            let repo = open(&world, &case).await;
            let (heads, unread) = repo.heads(&world.cx).await.unwrap();
            assert_eq!(unread.len(), 0, "{what}");
            assert_eq!(heads.len(), 2 - usize::from(is_none), "{what}");
            assert_eq!(repo.config().number, 1, "{what}");
            for head in heads {
                world.restore(&repo, head).await;
            }
            let noticed = repo.notices().findings();
            // One slot of two opens: nobody needs the other.
            let is_used = !layout::is_slot(&key) || repo.opened_by() == Some(&key);
            if is_used && !is_none {
                assert_eq!(noticed.len(), 1, "{what}: {noticed:?}");
                assert_eq!(noticed[0].subject, key.as_str(), "{what}");
                assert!(noticed[0].detail.contains("`snapshot repair`"), "{what}");
            }
            let told = findings(&world, &repo, VerifyLevel::Metadata).await;
            // Of a slot that is gone the ledger tells, and here nobody has written the record of the init.
            assert!(
                told.iter().any(|one| one.0 == key.as_str()),
                "{what}: {told:?}"
            );
            let report = mend(&world, &case).await;
            assert_eq!(report.findings, [], "{what}");
            assert_eq!(report.mended.len(), 1, "{what}: {:?}", report.mended);
            let after = case.mem.objects();
            for (key, bytes) in &before {
                assert!(after.get(key) == Some(bytes), "{what}: {key}");
            }
            let asides = after
                .keys()
                .filter(|key| key.as_str().starts_with("aside/"));
            assert_eq!(asides.count(), 0, "{what}");
            let report = mend(&world, &case).await;
            assert_eq!((report.mended, report.findings), (vec![], vec![]), "{what}");
            world.check(&case, &what).await;
        }
    }
}

/// All at once, in object and sidecar, at different places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn object_and_sidecar_make_up_for_each_other() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let before = case.mem.objects();
    for key in small(&case) {
        assert!(case.mem.damage(&key, |bytes| bytes[..30].fill(0)));
        assert!(case.mem.damage(&beside(&key), |bytes| {
            // The first head, and a bit of one shard.
            bytes[..30].fill(0);
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }));
    }
    let report = mend(&world, &case).await;
    assert_eq!(report.findings, []);
    for (key, bytes) in &before {
        assert!(case.mem.objects().get(key) == Some(bytes), "{key}");
    }
    world.check(&case, "mended").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_that_are_damaged_or_gone_are_told_and_made_anew() {
    let world = world().await;
    for number in 0..small(&world.case(Memory::Lost)).len() {
        for is_lost in [false, true] {
            let case = world.case(Memory::Lost);
            let before = case.mem.objects();
            let key = beside(&small(&case)[number]);
            match is_lost {
                true => assert!(case.mem.lose(&key)),
                false => assert!(case.mem.damage(&key, |bytes| bytes[150] ^= 1)),
            }
            let repo = open(&world, &case).await;
            let told = findings(&world, &repo, VerifyLevel::Checksum).await;
            let wanted = match is_lost {
                true => ("parity/".to_owned(), Severity::Warning),
                false => (key.to_string(), Severity::Error),
            };
            assert_eq!(told, [wanted]);
            let report = mend(&world, &case).await;
            assert_eq!((report.findings, report.mended.len()), (vec![], 1), "{key}");
            assert!(case.mem.objects()[&key] == before[&key], "{key}");
        }
    }
}

/// A sidecar is believed no more than the object: another repository's, or another number's, is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_must_prove_what_the_object_must() {
    let (world, other) = (world().await, world().await);
    let theirs = other.mem.objects();
    for number in [0, 1] {
        let key = layout::config(number).unwrap();
        let case = world.case(Memory::Lost);
        for of in [layout::config(1 - number).unwrap(), key.clone()] {
            // Their own of the same number, and ours of another.
            let sidecar = match of == key {
                true => theirs[&beside(&key)].clone(),
                false => case.mem.objects()[&beside(&of)].clone(),
            };
            case.mem.lose(&key);
            case.mem.plant(beside(&key), sidecar);
            let opened = world.open(Arc::new(case.mem.clone()), None).await;
            // Of the last nobody can tell who has never seen it.
            match (number, opened) {
                (0, Err(error)) => assert!(
                    error.is_damage() || matches!(error, EngineError::WrongKey { .. }),
                    "{error}"
                ),
                (1, Ok(repo)) => assert_eq!(repo.config().number, 0),
                (number, opened) => panic!("{number}: {opened:?}"),
            }
        }
    }
    // Theirs beside a slot of ours: it does not hash to its name.
    let case = world.case(Memory::Lost);
    for key in small(&case).into_iter().filter(layout::is_slot) {
        let sidecar = theirs
            .iter()
            .find(|(key, _)| layout::small_parity_of(key).is_some_and(|of| layout::is_slot(&of)));
        case.mem.lose(&key);
        case.mem.plant(beside(&key), sidecar.unwrap().1.clone());
    }
    let opened = world.open(Arc::new(case.mem.clone()), None).await;
    assert!(
        matches!(opened, Err(EngineError::WrongKey { .. })),
        "{opened:?}"
    );
    // A snapshot as that of another id.
    let case = world.case(Memory::Lost);
    let snapshots: Vec<_> = small(&case)
        .into_iter()
        .filter(|key| layout::snapshot_id(key).is_some())
        .collect();
    let second = case.mem.objects()[&beside(&snapshots[1])].clone();
    case.mem.plant(beside(&snapshots[0]), second);
    assert!(case.mem.damage(&snapshots[0], |bytes| bytes[30] ^= 1));
    let repo = open(&world, &case).await;
    let (heads, unread) = repo.heads(&world.cx).await.unwrap();
    assert_eq!((heads.len(), unread.len()), (1, 1));
}

/// Which config counts, and that none is taken away, holds with sidecars as without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_config_counts_and_none_is_set_back() {
    let world = world().await;
    // The newest is gone: who has never seen it still finds it, by what lies beside.
    let case = world.case(Memory::Lost);
    let (first, second) = (layout::config(0).unwrap(), layout::config(1).unwrap());
    assert!(case.mem.lose(&second));
    let repo = open(&world, &case).await;
    assert_eq!(repo.config().number, 1);
    assert_eq!(repo.parity(), Some(Share::USUAL));
    let noticed = repo.notices().findings();
    assert_eq!(noticed[0].kind, FindingKind::Missing);
    // With its sidecar it is gone for good; who has seen it refuses.
    let case = world.case(Memory::Kept);
    let seen = world.open(Arc::new(case.mem.clone()), case.cache()).await;
    assert_eq!(seen.unwrap().config().number, 1);
    assert!(case.mem.lose(&second) && case.mem.lose(&beside(&second)));
    let set_back = world.open(Arc::new(case.mem.clone()), case.cache()).await;
    let set_back = set_back.unwrap_err().to_string();
    assert!(set_back.contains("set back"), "{set_back}");
    // Rubbish behind the last is nobody's config.
    let case = world.case(Memory::Lost);
    case.mem
        .plant(beside(&layout::config(2).unwrap()), b"rubbish".to_vec());
    let one = case.mem.objects()[&beside(&first)].clone();
    case.mem.plant(beside(&layout::config(3).unwrap()), one);
    assert_eq!(open(&world, &case).await.config().number, 1);
}

async fn new_slot(repo: &Repository) -> change::NewSlot {
    let meta = SlotMeta {
        label: "more".into(),
        created: 0,
    };
    let opener = change::Opener::Secret(Secret::random().unwrap());
    change::NewSlot::seal(repo.keys(), &meta, opener).unwrap()
}

/// What is removed or forgotten does not live on beside itself, wherever the run is killed that did it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_what_was_removed_or_forgotten() {
    let mut world = world().await;
    let repo = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let slot = new_slot(&repo).await;
    let by = (&host(), "me");
    change::add(&repo, &world.cx, by, &slot).await.unwrap();
    assert!(world.mem.objects().contains_key(&beside(slot.key())));
    let snapshot = repo.heads(&world.cx).await.unwrap().0[0].meta.clone();
    let object = layout::snapshot(snapshot.id).unwrap();
    for key in [slot.key().clone(), object.clone()] {
        // As after a repair that was killed.
        let aside = layout::aside(&key).unwrap();
        world.mem.plant(aside, world.mem.objects()[&key].clone());
    }
    let run = async |sink: Arc<dyn Sink>| -> Result<()> {
        let repo = world.open(sink, None).await?;
        change::remove(&repo, &world.cx, (&host(), "me"), slot.key()).await?;
        let plan = ForgetPlan::by_id(vec![snapshot.clone()]);
        forget(&repo, &world.cx, &plan, &host(), "me").await?;
        Ok(())
    };
    let changes = {
        let case = world.case(Memory::Lost);
        let sink = case.faulty();
        run(Arc::new(sink.clone())).await.unwrap();
        assert_eq!(left_of(&case, slot.key()), []);
        assert_eq!(left_of(&case, &object), []);
        sink.mutations()
    };
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k} of {changes}");
            let case = world.case(Memory::Lost);
            let sink = case.faulty();
            sink.crash_at(k, crash);
            let _ = run(Arc::new(sink.clone())).await;
            assert!(sink.crashed(), "{what}");
            for key in [slot.key(), &object] {
                let left = left_of(&case, key);
                let is_there = case.mem.objects().contains_key(key);
                // At no time it is there beside itself alone; and what lies there behind it, the next prune takes away.
                assert!(is_there || left.is_empty(), "{what}: {left:?}");
            }
        }
    }
    // Somebody made them at that moment, and was killed before they saw that the objects are gone.
    let case = world.case(Memory::Lost);
    let planted: Vec<_> = [slot.key(), &object]
        .map(|key| (beside(key), case.mem.objects()[&beside(key)].clone()))
        .into();
    run(Arc::new(case.mem.clone())).await.unwrap();
    for (key, bytes) in &planted {
        case.mem.plant(key.clone(), bytes.clone());
    }
    let repo = open(&world, &case).await;
    let told = findings(&world, &repo, VerifyLevel::Metadata).await;
    let named = planted
        .iter()
        .map(|one| (one.0.to_string(), Severity::Warning));
    assert_eq!(told, named.collect::<Vec<_>>());
    let other = case.mem.fork();
    let job = PruneJob {
        max_drop: 1.0,
        ..PruneJob::new(host())
    };
    let plan = prune::plan(&repo, &world.cx, &job).await.unwrap();
    prune::prune(&repo, &world.cx, plan, &job).await.unwrap();
    for key in [slot.key(), &object] {
        assert_eq!(left_of(&case, key), [], "by a prune");
    }
    let mended = try_to_repair(&world, Arc::new(other.clone()))
        .await
        .unwrap();
    assert_eq!(mended.mended, [], "by a repair");
    for (key, _) in &planted {
        assert!(!other.objects().contains_key(key), "by a repair");
    }
    world.saved.remove(0);
}

/// The slot is gone and was removed; what was left of it opens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_slot_does_not_open_by_what_was_left_of_it() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let repo = open(&world, &case).await;
    let slot = repo.opened_by().unwrap().clone();
    let left = case.mem.objects()[&beside(&slot)].clone();
    change::remove(&repo, &world.cx, (&host(), "me"), &slot)
        .await
        .unwrap();
    case.mem.plant(beside(&slot), left);
    let opened = world.open(Arc::new(case.mem.clone()), None).await;
    assert!(
        matches!(opened, Err(EngineError::WrongKey { .. })),
        "{opened:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_killed_at_any_change_makes_nothing_worse_and_the_next_one_ends_it() {
    let world = world().await;
    let damage = |case: &Case| {
        for (number, key) in small(case).iter().enumerate() {
            match number % 3 {
                0 => assert!(case.mem.damage(key, |bytes| bytes[35] ^= 1)),
                1 => assert!(case.mem.lose(key)),
                _ => assert!(case.mem.lose(&beside(key))),
            }
        }
    };
    let changes = {
        let case = world.case(Memory::Lost);
        damage(&case);
        let sink = case.faulty();
        let done = try_to_repair(&world, Arc::new(sink.clone())).await;
        assert_eq!(done.unwrap().findings, []);
        sink.mutations()
    };
    assert!(changes > 10, "only {changes} changes: too few to tell");
    let before: BTreeMap<_, _> = world.mem.objects();
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k} of {changes}");
            let case = world.case(Memory::Lost);
            damage(&case);
            let sink = case.faulty();
            sink.crash_at(k, crash);
            let _ = try_to_repair(&world, Arc::new(sink.clone())).await;
            assert!(sink.crashed(), "{what}");
            let report = mend(&world, &case).await;
            assert_eq!(report.findings, [], "{what}");
            let after = case.mem.objects();
            for (key, bytes) in &before {
                assert!(after.get(key) == Some(bytes), "{what}: {key}");
            }
            let asides = after
                .keys()
                .filter(|key| key.as_str().starts_with("aside/"));
            assert_eq!(asides.count(), 0, "{what}");
        }
    }
}

/// A tier that leaves half of what is put in the place of a damaged object.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_torn_while_it_is_put_back_comes_back_all_the_same() {
    let world = world().await;
    for key in small(&world.case(Memory::Lost)) {
        let case = world.case(Memory::Lost);
        assert!(case.mem.damage(&key, |bytes| bytes[35] ^= 1));
        let folder = key.as_str().split('/').next().unwrap();
        let torn = Rule::new(Fault::Torn).on(&[Op::Put]);
        let sink = case.faulty().with(torn.under(&format!("{folder}/")));
        let killed = try_to_repair(&world, Arc::new(sink)).await;
        assert!(killed.is_err(), "{key}");
        let report = mend(&world, &case).await;
        assert_eq!(report.findings, [], "{key}");
        world.check(&case, key.as_str()).await;
    }
}

/// A save that is killed behind its snapshot leaves one without a sidecar and without a record; the next run of
/// that host puts both there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_save_killed_behind_its_snapshot_is_protected_by_the_next() {
    let world = World::with_parity(Some(Share::USUAL)).await;
    let changes = {
        let case = world.case(Memory::Kept);
        let sink = case.faulty();
        world.try_to_save(&case, &sink).await.unwrap();
        sink.mutations()
    };
    for k in 1..=changes {
        let case = world.case(Memory::Kept);
        let sink = case.faulty();
        sink.crash_at(k, Crash::After);
        let _ = world.try_to_save(&case, &sink).await;
        let what = format!("killed behind change {k} of {changes}");
        world.make_good(&case, &what).await;
        let repo = open(&world, &case).await;
        for (id, key) in repo.snapshot_keys(&world.cx).await.unwrap() {
            let is_there = case.mem.objects().contains_key(&beside(&key));
            assert!(is_there, "{what}: {id} has no sidecar");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_parity_is_off_nothing_lies_beside() {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    let case = world.case(Memory::Lost);
    let count = |case: &Case| {
        let all = case.mem.objects().into_keys();
        all.filter(|key| layout::small_parity_of(key).is_some())
            .count()
    };
    assert_eq!(count(&case), 0);
    let mut repo = open(&world, &case).await;
    let share = Some(Share::USUAL);
    set_share(&mut repo, &world.cx, share).await.unwrap();
    let report = mend(&world, &case).await;
    assert_eq!((report.findings, report.mended.len()), (vec![], 2));
    assert_eq!(count(&case), small(&case).len());
}
