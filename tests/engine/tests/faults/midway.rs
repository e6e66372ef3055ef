//! Operations that end in the middle of something large: killed, called off, or by a thread that
//! panics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backup_core::{CancellationToken, Event, Observer, Stage};
use backup_engine::EngineError;
use backup_testkit::Crash;

use crate::given::{Given, Shelf};
use crate::world::{Memory, World, noise};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_killed_in_a_large_file_is_gone_on_with_in_the_middle_of_it() {
    for memory in [Memory::Kept, Memory::Lost] {
        let mut world = World::new().await;
        world.job.checkpoint.bytes = 1 << 40;
        world.job.checkpoint.index_bytes = 20 << 20;
        let size = 90 << 20;
        world.write("image", &noise(5, size));
        let case = world.case(memory);
        let sink = case.faulty();
        // The session, five packs of 16 MiB, and three index runs between them.
        sink.crash_at(10, Crash::Before);
        world.try_to_save(&case, &sink).await.unwrap_err();
        let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let known = repo.index().packs();
        let known: u64 = known.values().map(|pack| pack.size).sum();
        assert!(known > 45 << 20, "{known} bytes are known");
        let report = world.make_good(&case, "the next run").await;
        let added = report.meta.stats.bytes_added;
        let rest = (size as u64 + (4 << 20)).saturating_sub(known);
        assert!(added < rest, "{added} bytes were added, {rest} were left");
        world.check_stored_once(&case, "in all").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_full_tier_took_is_known_to_the_next_run() {
    let world = World::new().await;
    let size = 90 << 20;
    world.write("image", &noise(6, size));
    let case = world.case(Memory::Lost);
    let sink = case.faulty();
    sink.set_space(Some(60 << 20));
    world.try_to_save(&case, &sink).await.unwrap_err();
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let known = repo.index().packs();
    let known: u64 = known.values().map(|pack| pack.size).sum();
    assert!(known > 30 << 20, "{known} bytes are known");
    let report = world.make_good(&case, "the next run").await;
    let added = report.meta.stats.bytes_added;
    let rest = (size as u64 + (4 << 20)).saturating_sub(known);
    assert!(added < rest, "{added} bytes were added, {rest} were left");
    world.check_stored_once(&case, "in all").await;
}

/// Calls an operation off when the first bytes of a file are read, and counts those.
#[derive(Debug)]
struct Reading(CancellationToken, AtomicU64);

impl Observer for Reading {
    fn on(&self, event: Event<'_>) {
        if let Event::Advanced {
            stage: Stage::Capture,
            bytes,
            ..
        } = event
        {
            self.1.fetch_add(bytes, Ordering::Relaxed);
            self.0.cancel();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_called_off_reads_no_large_file_to_its_end() {
    let full = Given::file("a", &noise(1, 64 << 20));
    let hollow = Given::file("a", b"before").before_a_hole(1 << 40);
    for (file, most) in [(full, 4 << 20), (hollow, 2 << 30)] {
        let mut shelf = Shelf::new().await;
        shelf.cx.cancel = CancellationToken::new();
        let reading = Arc::new(Reading(shelf.cx.cancel.clone(), AtomicU64::new(0)));
        shelf.cx.observer = reading.clone();
        let ended = shelf.try_to_save(vec![file]).await;
        assert!(matches!(ended, Err(EngineError::Cancelled)), "{ended:?}");
        let read = reading.1.load(Ordering::Relaxed);
        assert!(read <= most, "{read} bytes were read");
    }
}

/// Panics on whatever thread tells of a stage.
#[derive(Debug)]
struct Panicking(Stage);

impl Observer for Panicking {
    fn on(&self, event: Event<'_>) {
        if let Event::Advanced { stage, .. } = event {
            assert!(stage != self.0, "a panic as it was ordered");
        }
    }
}

/// What comes of something that must not wait for ever for a thread that is gone.
fn ends<T: Send + 'static>(run: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _ = sender.send(runtime.block_on(run));
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    ended.expect("it does not end")
}

#[test]
fn threads_that_panic_fail_a_run_and_let_it_end() {
    let ended = ends(async {
        let mut shelf = Shelf::new().await;
        shelf.cx.observer = Arc::new(Panicking(Stage::Store));
        let tree = vec![Given::file("a", &noise(1, 40 << 20))];
        shelf.try_to_save(tree).await
    });
    assert!(matches!(ended, Err(EngineError::Panicked(_))), "{ended:?}");
}

#[test]
fn workers_that_panic_fail_a_restore_and_let_it_end() {
    let ended = ends(async {
        let mut shelf = Shelf::new().await;
        // More ranges than there are workers and places to wait for one.
        shelf
            .save(vec![Given::file("a", &noise(1, 80 << 20))])
            .await;
        shelf.cx.observer = Arc::new(Panicking(Stage::Write));
        let out = tempfile::tempdir().unwrap();
        shelf.try_to_restore(out.path()).await
    });
    assert!(matches!(ended, Err(EngineError::Panicked(_))), "{ended:?}");
}
