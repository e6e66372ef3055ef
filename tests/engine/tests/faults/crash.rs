//! A process that dies at a change of the tier: before it, or behind it with nobody told.

use std::sync::Arc;

use backup_core::{ErrorKind, Retry};
use backup_engine::{ForgetPlan, InitRequest, Repository, Unlock, forget, prepare};
use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_format::layout;
use backup_testkit::{Crash, Fault, FaultSink, MemSink, Op, Rule, When};

use crate::operations::{MEMORIES, reclaims};
use crate::world::{Case, Memory, World, context, host};

const WAYS: [Crash; 2] = [Crash::Before, Crash::After];

/// Kills a backup at every change that it makes of the tier.
async fn kill_everywhere(world: &World, memory: Memory) {
    let case = world.case(memory);
    let sink = case.faulty();
    world.try_to_save(&case, &sink).await.unwrap();
    let changes = sink.mutations();
    let before = world.check(&case, "undisturbed").await - 1;
    assert!(changes > 8, "only {changes} changes: too few to tell");
    let mut committed = 0;
    for k in 1..=changes {
        for crash in WAYS {
            let what = format!("{memory:?}, {crash:?} change {k} of {changes}");
            let case = world.case(memory);
            let sink = case.faulty();
            sink.crash_at(k, crash);
            let ended = world.try_to_save(&case, &sink).await;
            if sink.mutations() < k {
                // How packs fall can differ by one from run to run: it was over before.
                assert!(ended.is_ok(), "{what}");
                continue;
            }
            assert!(sink.crashed(), "{what}");
            let there = world.check(&case, &what).await;
            // A run that says that it succeeded has a snapshot.
            assert!(ended.is_err() || there == before + 1, "{what}");
            committed += there - before;
            world.make_good(&case, &what).await;
            world.check_stored_once(&case, &what).await;
        }
    }
    // Only the last changes come behind the commit.
    assert!((1..=8).contains(&committed), "{committed} were committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_backup_killed_at_any_change_leaves_nothing_or_all() {
    kill_everywhere(&World::new().await, Memory::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_backup_killed_at_any_change_hurts_no_earlier_one() {
    kill_everywhere(&World::with_snapshot().await, Memory::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_backup_without_a_cache_killed_at_any_change_hurts_no_earlier_one() {
    kill_everywhere(&World::with_snapshot().await, Memory::Lost).await;
}

/// How many sessions have an end on a tier, and how many records there are.
fn ends_and_records(case: &Case) -> (usize, usize) {
    let objects = case.mem.objects();
    let ends = objects.keys().filter_map(layout::session_done_id).count();
    let records = objects.keys().filter_map(layout::ledger_number).count();
    (ends, records)
}

/// The end of a session and the record of its snapshot are on their way at once, so a run that is killed leaves the one or
/// the other. Either way its snapshot counts, a prune beside it waits for nobody and takes nothing of it, and the next run
/// records what has no record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_with_its_end_or_its_record_alone_counts_and_is_recorded() {
    let world = World::with_snapshot().await;
    let lost = || Rule::new(Fault::Fail(ErrorKind::Unavailable, Retry::Never)).on(&[Op::Put]);
    for memory in MEMORIES {
        for (rule, left) in [
            (lost().under("ledger/"), (1, 0)),
            // The first put below it announces the session.
            (lost().under("sessions/").when(When::From(2)), (0, 1)),
        ] {
            let what = format!("{memory:?}, an end and a record: {left:?}");
            let case = world.case(memory);
            let before = ends_and_records(&case);
            let saved = world.try_to_save(&case, &case.faulty().with(rule)).await;
            saved.unwrap_or_else(|error| panic!("{what}: {error}"));
            let (ends, records) = ends_and_records(&case);
            assert_eq!((ends - before.0, records - before.1), left, "{what}");
            assert_eq!(world.check(&case, &what).await, 2, "{what}");
            reclaims(&world, &case, &what).await;
            assert_eq!(world.check(&case, &what).await, 2, "{what}");
            // It finds nothing that has no record.
            world.make_good(&case, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forget_killed_at_any_change_takes_a_snapshot_whole_or_not_at_all() {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    let changes = 3;
    for k in 1..=changes {
        for crash in WAYS {
            let what = format!("{crash:?} change {k}");
            let case = world.case(Memory::Kept);
            let sink = case.faulty();
            let repo = world.open(Arc::new(sink.clone()), case.cache());
            let repo = repo.await.unwrap();
            let (heads, _) = repo.heads(&world.cx).await.unwrap();
            let plan = ForgetPlan::by_id(vec![heads[0].meta.clone()]);
            sink.crash_at(k, crash);
            assert!(
                forget(&repo, &world.cx, &plan, &host(), "me")
                    .await
                    .is_err(),
                "{what}"
            );
            let repo = world.open(Arc::new(case.mem.clone()), case.cache());
            let repo = repo.await.unwrap();
            let (heads, errors) = repo.heads(&world.cx).await.unwrap();
            assert!(errors.is_empty(), "{what}: {errors:?}");
            if heads.len() == 2 {
                world.check(&case, &what).await;
                let plan = ForgetPlan::by_id(vec![heads[0].meta.clone()]);
                let removed = forget(&repo, &world.cx, &plan, &host(), "me").await;
                assert_eq!(removed.unwrap().removed, 1, "{what}");
            }
        }
    }
    let case = world.case(Memory::Kept);
    let sink = case.faulty();
    let repo = world.open(Arc::new(sink.clone()), case.cache());
    let repo = repo.await.unwrap();
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let plan = ForgetPlan::by_id(vec![heads[0].meta.clone()]);
    let done = forget(&repo, &world.cx, &plan, &host(), "me").await;
    assert_eq!((done.unwrap().removed, sink.mutations()), (1, changes));
    world.forget_oldest();
    assert_eq!(world.check(&case, "forgotten").await, 1);
    world.make_good(&case, "forgotten").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_killed_at_any_change_leaves_no_repository_or_one_that_opens() {
    let cx = context();
    for k in 1..=3 {
        for crash in WAYS {
            let what = format!("{crash:?} change {k}");
            let mem = MemSink::new();
            let sink = FaultSink::new(Arc::new(mem.clone()), 7);
            sink.crash_at(k, crash);
            let request = InitRequest {
                key_file: true,
                ..InitRequest::default()
            };
            let prepared = prepare(&cx, &request).unwrap();
            let mut key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
            assert!(prepared.create(&cx, Arc::new(sink), None).await.is_err());
            if !Repository::exists(&cx, &mem).await.unwrap() {
                let prepared = prepare(&cx, &request).unwrap();
                key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
                let made = prepared.create(&cx, Arc::new(mem.clone()), None).await;
                assert!(made.is_ok(), "{what}: {made:?}");
            }
            let unlock = Unlock::KeyFile(KeyFile::parse(&key).unwrap());
            let opened =
                Repository::open(&cx, Arc::new(mem), &unlock, None, Operation::Write).await;
            assert!(opened.is_ok(), "{what}: {opened:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_init_that_fails_leaves_no_slot_behind_and_one_that_was_done_is_no_failure() {
    let cx = context();
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    for (fault, is_made) in [
        (Fault::Fail(ErrorKind::Denied, Retry::Never), false),
        (Fault::Retried, true),
    ] {
        let mem = MemSink::new();
        let rule = Rule::new(fault).on(&[Op::Put]).under("config/");
        let sink = FaultSink::new(Arc::new(mem.clone()), 7).with(rule);
        let made = prepare(&cx, &request)
            .unwrap()
            .create(&cx, Arc::new(sink), None)
            .await;
        assert_eq!(made.is_ok(), is_made, "{made:?}");
        assert_eq!(!mem.objects().is_empty(), is_made, "{:?}", mem.objects());
    }
}
