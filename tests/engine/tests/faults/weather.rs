//! A tier on a bad day: answers that are lost, changes that come twice or late, outages that pass,
//! listings that lag or break off, bits that flip on the way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use backup_core::{Event, Observer, OpContext, Sink, Stage};
use backup_engine::ledger::verify_ledger;
use backup_testkit::{Fault, FaultSink, Op, Rule, When};
use tokio::runtime::Handle;

use crate::world::{Case, Memory, World};

/// Saves with a fault at each change in turn: the run does not even notice.
async fn is_not_noticed(fault: Fault) {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    let sink = case.faulty();
    world.try_to_save(&case, &sink).await.unwrap();
    for k in 1..=sink.mutations() {
        let what = format!("{fault:?} at change {k}");
        let case = world.case(Memory::Kept);
        let rule = Rule::new(fault.clone()).on(&[Op::Put]).when(When::Nth(k));
        let sink = case.faulty().with(rule);
        let saved = world.try_to_save(&case, &sink).await;
        let saved = saved.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(saved.findings, [], "{what}");
        // How packs fall can differ by one from run to run.
        let hit = usize::from(k <= sink.mutations());
        assert_eq!(sink.injected().len(), hit, "{what}");
        assert_eq!(records(&world, &case).await, 2, "{what}");
        assert_eq!(world.check(&case, &what).await, 2, "{what}");
    }
}

/// Records of the ledger of a case, but for that of its making.
async fn records(world: &World, case: &Case) -> u64 {
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let repo = world.open(sink, None).await.unwrap();
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(ledger.findings, []);
    ledger.report.records - 1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_whose_answer_is_lost_is_not_made_twice() {
    is_not_noticed(Fault::LoseAnswer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_was_made_again_by_a_layer_below_is_taken_for_its_own() {
    is_not_noticed(Fault::Retried).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_comes_twice_or_again_later_changes_nothing() {
    is_not_noticed(Fault::Twice).await;
    is_not_noticed(Fault::Echo(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_during_a_short_outage_is_tried_again() {
    is_not_noticed(Fault::outage()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_during_a_short_outage_are_tried_again() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let often = Rule::new(Fault::outage()).on(&[Op::Get, Op::Head, Op::List]);
        let sink = case.faulty().with(often.when(When::Every(2)));
        let saved = world.try_to_save(&case, &sink).await.unwrap();
        assert_eq!(saved.findings, []);
        assert_eq!(world.check(&case, "outages").await, 2);
        let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
        let (heads, errors) = repo.heads(&world.cx).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let back = world.restore(&repo, heads[1].clone()).await;
        assert!(back == world.files());
        assert!(sink.injected().len() > 5, "{:?}", sink.injected());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_that_does_not_pass_is_one_error_and_loses_nothing() {
    let world = World::with_snapshot().await;
    for op in [Op::Put, Op::Get, Op::List] {
        for from in [1, 2, 4] {
            let what = format!("no {op} from {from} on");
            let case = world.case(Memory::Lost);
            let rule = Rule::new(Fault::outage()).on(&[op]);
            let sink = case.faulty().with(rule.when(When::From(from)));
            let ended = world.try_to_save(&case, &sink).await;
            let there = world.check(&case, &what).await;
            assert!(ended.is_err() || there == 2, "{what}");
            sink.calm();
            world.make_good(&case, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listings_that_lag_cost_room_and_nothing_else() {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    for (memory, together) in [
        (Memory::Kept, false),
        (Memory::Kept, true),
        (Memory::Lost, false),
    ] {
        for lag in [1, 3, 1000] {
            let what = format!("{memory:?}, {lag} changes behind, together: {together}");
            let case = world.case(memory);
            let stale = Rule::new(Fault::StaleList(lag)).on(&[Op::List]);
            let sink = case.faulty().with(stale);
            let sink = match together {
                true => sink.listing_together(),
                false => sink,
            };
            // The second run does not see all of the first.
            for _ in 0..2 {
                let saved = world.try_to_save(&case, &sink).await;
                saved.unwrap_or_else(|error| panic!("{what}: {error}"));
            }
            assert_eq!(world.check(&case, &what).await, 4, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_that_breaks_off_is_never_taken_for_whole() {
    let world = World::with_snapshot().await;
    for (prefix, count) in [("index/", 1), ("snap/", 0), ("ledger/", 0), ("keys/", 1)] {
        let case = world.case(Memory::Lost);
        let broken = Rule::new(Fault::BreakOff(count)).on(&[Op::List]);
        let sink = case.faulty().with(broken.under(prefix));
        let ended = world.try_to_save(&case, &sink).await;
        let told = match &ended {
            Err(_) => true,
            Ok(report) => !report.findings.is_empty(),
        };
        assert!(told, "{prefix}: {ended:?}");
        world.make_good(&case, prefix).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bits_that_flip_on_the_way_never_reach_a_snapshot_or_a_restored_file() {
    let world = World::with_snapshot().await;
    for seed in 0..12 {
        for fault in [Fault::FlipBit, Fault::CutShort] {
            let what = format!("{fault:?}, seed {seed}");
            let case = world.case(Memory::Lost);
            let rule = Rule::new(fault).on(&[Op::Get]).when(When::PerMille(150));
            let sink = FaultSink::new(Arc::new(case.mem.clone()), seed).with(rule);
            let _ = world.try_to_save(&case, &sink).await;
            let _ = world.check(&case, &what).await;
            world.make_good(&case, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_backups_at_once_on_a_slow_tier_both_succeed() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let slow = Rule::new(Fault::Delay(Duration::from_millis(5)));
        let sink = case.faulty().with(slow.when(When::PerMille(500)));
        let (one, two, three) = tokio::join!(
            world.try_to_save(&case, &sink),
            world.try_to_save(&case, &sink),
            world.try_to_save(&case, &sink)
        );
        for saved in [one, two, three] {
            assert_eq!(saved.unwrap().findings, [], "{memory:?}");
        }
        let what = format!("{memory:?}, three at once");
        assert_eq!(records(&world, &case).await, 4, "{what}");
        assert_eq!(world.check(&case, &what).await, 4, "{what}");
    }
}

/// Stops a run between commit and record.
#[derive(Debug)]
struct Halt {
    committed: Sender<()>,
    go_on: Mutex<Receiver<()>>,
}

impl Observer for Halt {
    fn on(&self, event: Event<'_>) {
        if matches!(event, Event::Left(Stage::Commit)) {
            self.committed.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_slow_to_record_and_one_that_takes_it_for_dead_make_one_record() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let ((committed, has_committed), (go, go_on)) = (channel(), channel());
        let go_on = Mutex::new(go_on);
        let cx = OpContext {
            observer: Arc::new(Halt { committed, go_on }),
            ..world.cx.clone()
        };
        let sink = case.faulty();
        let repo = world.open(Arc::new(sink.clone()), case.cache());
        let (repo, handle) = (repo.await.unwrap(), Handle::current());
        let what = format!("{memory:?}, one behind its commit");
        std::thread::scope(|scope| {
            // If a check fails, this goes and lets the other run end.
            let go = go;
            let slow = scope.spawn(|| handle.block_on(world.save_in(&cx, &repo)));
            has_committed.recv().unwrap();
            let quick = scope.spawn(|| handle.block_on(world.try_to_save(&case, &sink)));
            assert_eq!(quick.join().unwrap().unwrap().findings, [], "{what}");
            go.send(()).unwrap();
            assert_eq!(slow.join().unwrap().unwrap().findings, [], "{what}");
        });
        assert_eq!(records(&world, &case).await, 3, "{what}");
        assert_eq!(world.check(&case, &what).await, 3, "{what}");
    }
}
