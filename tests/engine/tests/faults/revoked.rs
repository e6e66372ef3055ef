//! Runs that are taken for dead while they are at work, and what becomes of their snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use backup_core::{Event, FindingKind, Observer, OpContext, SessionId, SnapshotId, Stage};
use backup_engine::ledger::verify_ledger;
use backup_engine::repository::UnreadSnapshot;
use backup_engine::{EngineError, Repository, Result, SnapshotReport, snapshot};
use backup_format::collect::{SessionMark, Verdict};
use backup_format::layout;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_source_command::StdinSource;
use backup_testkit::MemSink;

use crate::world::{Case, Memory, World};

/// Takes runs for dead when they are about to commit.
#[derive(Debug)]
struct Collector {
    mem: MemSink,
    ring: ObjectKeyring,
    /// How many runs it takes for dead.
    most: u32,
    /// Whether it judges them at once, naming no snapshot.
    judges: bool,
    revoked: AtomicU32,
}

impl Observer for Collector {
    fn on(&self, event: Event<'_>) {
        let is_commit = matches!(
            event,
            Event::Entered {
                stage: Stage::Commit,
                ..
            }
        );
        if !is_commit || self.revoked.fetch_add(1, Ordering::Relaxed) >= self.most {
            return;
        }
        let objects = self.mem.objects();
        let is_open = |id: &SessionId| {
            let marks = [layout::session_done(*id), layout::session_revoked(*id)];
            marks
                .iter()
                .all(|mark| !objects.contains_key(mark.as_ref().unwrap()))
        };
        for session in objects
            .keys()
            .filter_map(layout::session_id)
            .filter(is_open)
        {
            let mark = SessionMark { session }.encode();
            let sealed = self.ring.seal(ObjectKind::SessionRevoked, &mark).unwrap();
            self.mem
                .plant(layout::session_revoked(session).unwrap(), sealed);
            if self.judges {
                judge(&self.mem, &self.ring, session, []);
            }
        }
    }
}

fn judge(
    mem: &MemSink,
    ring: &ObjectKeyring,
    session: SessionId,
    snapshots: impl Into<BTreeSet<SnapshotId>>,
) {
    let snapshots = snapshots.into();
    let verdict = Verdict { session, snapshots }.encode();
    let sealed = ring.seal(ObjectKind::Verdict, &verdict).unwrap();
    mem.plant(layout::verdict(session).unwrap(), sealed);
}

async fn reader(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

/// A writer, and surroundings in which runs are taken for dead.
async fn watched(world: &World, case: &Case, most: u32, judges: bool) -> (Repository, OpContext) {
    let writer = world
        .open(Arc::new(case.mem.clone()), case.cache())
        .await
        .unwrap();
    let cx = OpContext {
        observer: Arc::new(Collector {
            mem: case.mem.clone(),
            ring: writer.ring().clone(),
            most,
            judges,
            revoked: AtomicU32::new(0),
        }),
        ..world.cx.clone()
    };
    (writer, cx)
}

/// Saves while runs are taken for dead.
async fn save(world: &World, case: &Case, most: u32, judges: bool) -> Result<SnapshotReport> {
    let (writer, cx) = watched(world, case, most, judges).await;
    world.save_in(&cx, &writer).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_gone_is_not_asked_for_again() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    let (writer, cx) = watched(&world, &case, 1, true).await;
    let content = std::io::Cursor::new(b"what comes but once".to_vec());
    let source = Arc::new(StdinSource::new(content, "dump"));
    let ended = snapshot(&writer, &cx, source, &world.job).await;
    let is_told = matches!(ended, Err(EngineError::TakenForDead(_)));
    assert!(is_told, "{ended:?}");
}

/// How many snapshots there are, for readers and as objects, and records of the ledger but for that of its making.
async fn count(world: &World, case: &Case) -> (usize, usize, u64) {
    let repo = reader(world, case).await;
    let (heads, unread) = repo.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let objects = case.mem.objects();
    let objects = objects.keys().filter_map(layout::snapshot_id);
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(ledger.findings, []);
    (heads.len(), objects.count(), ledger.report.records - 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_taken_for_dead_adopts_itself() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let saved = save(&world, &case, 1, false).await.unwrap();
        assert_eq!(saved.findings, []);
        let repo = reader(&world, &case).await;
        let heads = repo.heads(&world.cx).await.unwrap().0;
        let head = heads.last().unwrap();
        assert_eq!(head.meta.id, saved.meta.id);
        let session = SessionId::from_bytes(head.outer.session);
        let objects = case.mem.objects();
        let sealed = &objects[&layout::verdict(session).unwrap()];
        let plain = repo.ring().open(ObjectKind::Verdict, sealed).unwrap();
        let verdict = Verdict::decode(&plain).unwrap();
        assert_eq!(
            (verdict.session, verdict.snapshots),
            (session, [saved.meta.id].into())
        );
        // With an end of it somebody could tidy its verdict away.
        assert!(!objects.contains_key(&layout::session_done(session).unwrap()));
        assert_eq!(count(&world, &case).await, (2, 2, 2));
        assert_eq!(world.check(&case, "adopted").await, 2);
        world.make_good(&case, "adopted").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_snapshot_was_left_out_is_repeated_in_a_new_session() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let saved = save(&world, &case, 1, true).await.unwrap();
        assert_eq!(saved.findings, []);
        // What the first session stored is found.
        assert!(
            saved.meta.stats.bytes_added < 100_000,
            "{:?}",
            saved.meta.stats
        );
        assert_eq!(count(&world, &case).await, (2, 3, 2));
        assert_eq!(world.check(&case, "repeated").await, 2);
        world.make_good(&case, "repeated").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_left_out_again_and_again_fails() {
    let world = World::with_snapshot().await;
    for memory in [Memory::Kept, Memory::Lost] {
        let case = world.case(memory);
        let ended = save(&world, &case, 9, true).await;
        let Err(EngineError::TakenForDead(snapshot)) = ended else {
            panic!("{ended:?}");
        };
        let key = layout::snapshot(snapshot).unwrap();
        assert!(case.mem.objects().contains_key(&key));
        assert_eq!(count(&world, &case).await, (1, 3, 1));
        assert_eq!(world.check(&case, "left out").await, 1);
        world.make_good(&case, "left out").await;
        let (valid, objects, _) = count(&world, &case).await;
        assert_eq!((valid, objects), (2, 4));
    }
}

/// What there is, and what cannot be read.
async fn ids(world: &World, case: &Case) -> (Vec<SnapshotId>, Vec<UnreadSnapshot>) {
    let repo = world.open(Arc::new(case.mem.clone()), case.cache()).await;
    let (heads, unread) = repo.unwrap().heads(&world.cx).await.unwrap();
    (heads.iter().map(|head| head.meta.id).collect(), unread)
}

/// For readers a snapshot that was left out does not exist; one whose verdict cannot be read may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_decides_which_snapshots_there_are() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    world.make_good(&case, "two snapshots").await;
    let repo = reader(&world, &case).await;
    let heads = repo.heads(&world.cx).await.unwrap().0;
    let session = SessionId::from_bytes(heads[1].outer.session);
    let (old, new) = (heads[0].meta.id, heads[1].meta.id);
    // On another session, and one that names it.
    judge(&case.mem, repo.ring(), SessionId(1), []);
    judge(&case.mem, repo.ring(), session, [old, new]);
    assert_eq!(ids(&world, &case).await.0, [old, new]);
    let case = world.case(Memory::Kept);
    world.make_good(&case, "two snapshots").await;
    let heads = reader(&world, &case)
        .await
        .heads(&world.cx)
        .await
        .unwrap()
        .0;
    let session = SessionId::from_bytes(heads[1].outer.session);
    let (old, new) = (heads[0].meta.id, heads[1].meta.id);
    let key = layout::verdict(session).unwrap();
    case.mem.plant(key.clone(), b"void".to_vec());
    // Its session came to its end, so whatever stands there is no verdict on it.
    assert_eq!(ids(&world, &case).await.0, [old, new]);
    let done = layout::session_done(session).unwrap();
    let end = case.mem.objects()[&done].clone();
    case.mem.lose(&done);
    let (found, unread) = ids(&world, &case).await;
    assert_eq!(found, [old]);
    assert_eq!(unread[0].id, new);
    let why = unread[0].error.to_string();
    assert!(
        why.starts_with(key.as_str()) && why.contains("counts"),
        "{why}"
    );
    judge(&case.mem, repo.ring(), session, [old]);
    case.mem.plant(done.clone(), end);
    assert_eq!(ids(&world, &case).await.0, [old, new]);
    case.mem.lose(&done);
    let (found, unread) = ids(&world, &case).await;
    assert!(unread.is_empty(), "{unread:?}");
    assert_eq!(found, [old]);
    // Nobody builds on it, and nothing is said of it.
    let saved = world.make_good(&case, "without it").await;
    assert_eq!(saved.meta.parent, Some(old));
    assert_eq!(ids(&world, &case).await.0, [old, saved.meta.id]);
}

/// Judges a session that came to no end once a run has planned what it builds on.
#[derive(Debug)]
struct Late {
    mem: MemSink,
    ring: ObjectKeyring,
    session: SessionId,
    left: SnapshotId,
}

impl Observer for Late {
    fn on(&self, event: Event<'_>) {
        let stage = Stage::Capture;
        if matches!(event, Event::Entered { stage: entered, .. } if entered == stage) {
            self.mem.lose(&layout::session_done(self.session).unwrap());
            judge(&self.mem, &self.ring, self.session, [self.left]);
        }
    }
}

/// Snapshots and verdicts are listed at once, so a writer may see a snapshot without the verdict that leaves it out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_comes_behind_the_plan_is_heeded() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    world.make_good(&case, "two snapshots").await;
    let repo = reader(&world, &case).await;
    let heads = repo.heads(&world.cx).await.unwrap().0;
    let (old, new) = (heads[0].meta.id, heads[1].meta.id);
    let late = Late {
        mem: case.mem.clone(),
        ring: repo.ring().clone(),
        session: heads[1].session(),
        left: old,
    };
    let cx = OpContext {
        observer: Arc::new(late),
        ..world.cx.clone()
    };
    let writer = world.open(Arc::new(case.mem.clone()), case.cache());
    let writer = writer.await.unwrap();
    let saved = world.save_in(&cx, &writer).await.unwrap();
    assert_eq!(saved.meta.parent, Some(old), "it builds on {new}");
    let told: Vec<_> = saved.findings.iter().map(|one| one.kind).collect();
    assert_eq!(told, [FindingKind::Degraded]);
    assert_eq!(ids(&world, &case).await.0, [old, saved.meta.id]);
    world.check(&case, "built on what counts").await;
}
