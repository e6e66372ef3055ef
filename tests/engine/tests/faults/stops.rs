//! The crash matrix: every operation that changes something, stopped before and behind each change of the
//! tier and at each border between its stages. What was committed restores bit for bit, nothing says that
//! it succeeded without being there, the next run succeeds, and a prune gives back what is left over.
//!
//! Syncs and renames inside one change are in `tests/tests/cli/killed.rs`, which kills real processes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup_core::{CancellationToken, Event, Observer, OpContext, Sink};
use backup_engine::Result;
use backup_testkit::{Crash, FaultSink};

use crate::operations::{
    Done, Ground, MEMORIES, OPERATIONS, Operation, Run, grounds, mend_ground, reclaims, world,
};
use crate::world::{Case, Memory, World};

/// No operation makes more changes here.
const MOST_CHANGES: u64 = 200;

/// What there must be behind a stop.
async fn is_mended(
    operation: &Operation,
    world: &World,
    case: &Case,
    ended: &Result<Done>,
    what: &str,
) {
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let run = Run {
        world,
        case,
        sink: &sink,
        cx: &world.cx,
    };
    if !ended.as_ref().is_ok_and(|done| done.findings.is_empty()) {
        mend_ground(operation.ground, run, what).await;
    }
    if let Ok(done) = ended {
        run.holds_true(done.claim, what).await;
    }
    world.check(case, what).await;
    world.make_good(case, what).await;
    reclaims(world, case, what).await;
}

/// Runs an operation on a tier that fails.
async fn run(
    operation: &Operation,
    world: &World,
    case: &Case,
    sink: &FaultSink,
    cx: &OpContext,
) -> Result<Done> {
    let sink: Arc<dyn Sink> = Arc::new(sink.clone());
    let run = Run {
        world,
        case,
        sink: &sink,
        cx,
    };
    operation.run(run).await
}

async fn stop_at_every_change(operation: &Operation, world: &World, memory: Memory) -> u64 {
    let mut points = 0;
    for k in 1.. {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{}, {memory:?}, {crash:?} change {k}", operation.name);
            let case = world.case(memory);
            let sink = match crash {
                Crash::After => case.faulty().listing_together(),
                _ => case.faulty(),
            };
            sink.crash_at(k, crash);
            let ended = run(operation, world, &case, &sink, &world.cx).await;
            if !sink.crashed() {
                assert!(ended.is_ok(), "{what}: {ended:?}");
                return points;
            }
            points += 1;
            is_mended(operation, world, &case, &ended, &what).await;
        }
        assert!(k < MOST_CHANGES, "{} makes no end", operation.name);
    }
    points
}

/// How an operation ends at a border between stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It never reaches the tier again.
    Killed,
    /// It is called off, and may say farewell.
    Cancelled,
}

/// Ends an operation at one of its borders.
#[derive(Debug)]
struct Border {
    number: usize,
    end: End,
    passed: AtomicUsize,
    sink: FaultSink,
    cancel: CancellationToken,
}

impl Observer for Border {
    fn on(&self, event: Event<'_>) {
        let is_border = matches!(event, Event::Entered { .. } | Event::Left(_));
        if is_border && self.passed.fetch_add(1, Ordering::SeqCst) == self.number {
            match self.end {
                End::Killed => self.sink.die(),
                End::Cancelled => self.cancel.cancel(),
            }
        }
    }
}

async fn stop_at_every_border(operation: &Operation, world: &World, memory: Memory) -> u64 {
    let mut points = 0;
    for number in 0.. {
        for end in [End::Killed, End::Cancelled] {
            let what = format!("{}, {memory:?}, {end:?} at border {number}", operation.name);
            let case = world.case(memory);
            let sink = case.faulty();
            let mut cx = world.cx.clone();
            cx.cancel = CancellationToken::new();
            let border = Arc::new(Border {
                number,
                end,
                passed: AtomicUsize::new(0),
                sink: sink.clone(),
                cancel: cx.cancel.clone(),
            });
            cx.observer = border.clone();
            let ended = run(operation, world, &case, &sink, &cx).await;
            if border.passed.load(Ordering::SeqCst) <= number {
                assert!(ended.is_ok(), "{what}: {ended:?}");
                return points;
            }
            points += 1;
            is_mended(operation, world, &case, &ended, &what).await;
        }
    }
    points
}

/// Stops an operation at each of its changes; says how many such points there are.
async fn nothing_is_lost_and_all_is_given_back(name: &str) -> u64 {
    let mut named = OPERATIONS.iter().filter(|one| one.name == name);
    let operation = named.next().unwrap();
    let world = world(operation.ground).await;
    // What a prune remembers of the last run is the index alone.
    let skipped = usize::from(operation.ground == Ground::Garbage);
    let mut points = 0;
    for memory in MEMORIES.into_iter().skip(skipped) {
        points += stop_at_every_change(operation, &world, memory).await;
    }
    points
}

macro_rules! stopped_at_any_change {
    ($($test:ident: $name:literal, $least:literal;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            let points = nothing_is_lost_and_all_is_given_back($name).await;
            println!("{points} points");
            assert!(points >= $least, "only {points} points");
        })*

        /// Those that are stopped above, each in a test of its own: together they take minutes.
        const STOPPED: &[&str] = &[$($name),*];
    };
}

stopped_at_any_change! {
    a_first_save_stopped_at_any_change: "first save", 20;
    a_save_stopped_at_any_change: "save", 20;
    a_save_of_nothing_new_stopped_at_any_change: "save of nothing new", 20;
    a_restore_stopped_at_any_change: "restore", 1;
    a_forget_stopped_at_any_change: "forget", 8;
    a_hold_stopped_at_any_change: "hold", 4;
    a_release_stopped_at_any_change: "release", 4;
    a_prune_stopped_at_any_change: "prune", 10;
    a_repair_stopped_at_any_change: "repair", 20;
    a_copy_stopped_at_any_change: "copy", 20;
    a_copy_to_elsewhere_stopped_at_any_change: "copy away", 2;
}

#[test]
fn each_operation_that_changes_something_is_stopped() {
    let changing = OPERATIONS.iter().filter(|one| !one.only_reads);
    let changing: Vec<&str> = changing.map(|one| one.name).collect();
    assert_eq!(changing, STOPPED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_between_any_two_stages_nothing_is_lost_and_all_is_given_back() {
    let grounds = grounds().await;
    let mut points = 0;
    for operation in OPERATIONS.iter().filter(|one| !one.only_reads) {
        let world = &grounds[&operation.ground];
        points += stop_at_every_border(operation, world, Memory::Kept).await;
    }
    println!("{points} points");
    assert!(points > 20, "only {points} points");
}
