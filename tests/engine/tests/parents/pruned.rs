//! What was not forgotten is whole behind a prune, and what was forgotten gives its room back. In whatever
//! order that happens, [`crate::model`] tries.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{ErrorKind, FindingKind, OpContext, Retry, SessionId, SnapshotId};
use backup_engine::index_set::Part;
use backup_engine::prune::{self, PruneJob, PruneReport, Unused};
use backup_engine::{EngineError, ForgetPlan, Repository, Result, SnapshotReport, forget};
use backup_format::collect::{SessionMark, Verdict};
use backup_format::keys::{KeySet, Role};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::session::Session;
use backup_testkit::{Crash, Fault, FaultSink, Op, RecordingSink, Rule, TestClock};
use jiff::SignedDuration;

use crate::source::{Disks, ModelSource};
use crate::world::{World, host, noise};

pub(crate) fn job() -> PruneJob {
    PruneJob {
        max_unused: Unused::Bytes(0),
        max_drop: 1.0,
        wait: Duration::ZERO,
        ..PruneJob::new(host())
    }
}

pub(crate) async fn prune_with(
    repo: &Repository,
    cx: &OpContext,
    job: &PruneJob,
) -> Result<PruneReport> {
    let plan = prune::plan(repo, cx, job).await?;
    prune::prune(repo, cx, plan, job).await
}

pub(crate) fn maintenance(world: &World) -> KeySet {
    world.keys.subset(Role::Maintenance, Some(&host())).unwrap()
}

pub(crate) async fn prune(world: &World, job: &PruneJob) -> PruneReport {
    let repo = world.open(&maintenance(world), None).await;
    prune_with(&repo, &world.cx, job).await.unwrap()
}

pub(crate) async fn forget_one(world: &World, id: SnapshotId) {
    let repo = world.open(&world.keys, None).await;
    let (heads, _) = repo.heads(&world.cx).await.unwrap();
    let metas = heads.into_iter().map(|head| head.meta);
    let plan = ForgetPlan::by_id(metas.filter(|meta| meta.id == id).collect());
    let done = forget(&repo, &world.cx, &plan, &host(), "").await.unwrap();
    assert_eq!(done.removed, 1);
}

pub(crate) fn stored(world: &World) -> usize {
    let objects = world.mem.objects();
    let packs = objects.iter().filter(|(key, _)| layout::is_pack(key));
    packs.map(|(_, body)| body.len()).sum()
}

pub(crate) fn count(world: &World, prefix: &str) -> usize {
    let objects = world.mem.objects();
    objects
        .keys()
        .filter(|key| key.as_str().starts_with(prefix))
        .count()
}

/// Two disks and small files, changed and saved some times; what was saved each time.
pub(crate) async fn history(
    world: &World,
    times: u64,
) -> (ModelSource, Vec<(SnapshotReport, Disks)>) {
    let mut source = ModelSource::default();
    let mut saved = Vec::new();
    for round in 0..times {
        source
            .now
            .insert("disk".into(), noise(1 + round / 2, 3 << 20));
        let disk = source.now.get_mut("disk").unwrap();
        let at = usize::try_from(round).unwrap() * 100_000;
        disk[at..at + 50_000].fill(7);
        source
            .now
            .insert(format!("small-{}", round % 3), noise(100 + round, 9000));
        // Half of the files stay, so packs are used in part.
        for file in 0..6 {
            let content = noise(1000 + file + 10 * round * (file % 2), 400_000);
            source.now.insert(format!("file-{file}"), content);
        }
        let report = world.save(&source, &world.keys, "one").await;
        saved.push((report, source.now.clone()));
    }
    (source, saved)
}

pub(crate) async fn all_is_whole(world: &World, saved: &[(SnapshotReport, Disks)]) {
    for (report, disks) in saved {
        world.check(disks, report).await;
    }
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_forgotten_gives_its_room_back_and_the_rest_is_whole() {
    gives_its_room_back(World::new().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_with_an_index_that_is_too_large_for_memory() {
    gives_its_room_back(World::with_tables().await).await;
}

async fn gives_its_room_back(world: World) {
    let (source, mut saved) = history(&world, 6).await;
    let before = stored(&world);
    let idle = PruneJob {
        max_unused: Unused::Unlimited,
        ..job()
    };
    let nothing = prune(&world, &idle).await;
    assert_eq!((nothing.deleted_packs, nothing.waits_for.len()), (0, 0));
    all_is_whole(&world, &saved).await;
    let last = saved.split_off(5);
    for (report, _) in &saved {
        forget_one(&world, report.meta.id).await;
    }
    let report = prune(&world, &job()).await;
    assert!(
        report.deleted_packs > 3 && report.written_packs > 0,
        "{report:?}"
    );
    assert_eq!(report.findings, []);
    all_is_whole(&world, &last).await;
    // A new repository with just that is as large.
    let fresh = World::new().await;
    let mut alone = ModelSource::default();
    alone.now.clone_from(&last[0].1);
    let _ = fresh.save(&alone, &fresh.keys, "one").await;
    let (after, wanted) = (stored(&world), stored(&fresh));
    assert!(
        after < before / 2 && after < wanted + wanted / 20,
        "{before}, {after}, {wanted}"
    );
    // The end of a session stays as long as its snapshot: no verdict is heeded against it.
    assert_eq!((count(&world, "refs/"), count(&world, "sessions/")), (1, 1));
    assert_eq!(count(&world, "index/"), 1);
    // And what comes then builds on it.
    let next = world.save(&source, &world.keys, "one").await;
    assert!(next.meta.stats.bytes_new < 100_000, "{:?}", next.meta.stats);
    // That may be one small pack too many: they are laid together, and then there is nothing to do.
    let _ = prune(&world, &job()).await;
    let again = prune(&world, &job()).await;
    assert_eq!(
        (again.deleted_packs, again.written_packs),
        (0, 0),
        "{again:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packs_are_written_anew_in_batches() {
    let world = World::new().await;
    let (_, saved) = history(&world, 6).await;
    for (report, _) in &saved[..5] {
        forget_one(&world, report.meta.id).await;
    }
    let sessions = async |batch: usize| {
        let there = world.fork();
        let small = PruneJob { batch, ..job() };
        let calls = RecordingSink::new(Arc::new(there.mem.clone()));
        let keys = maintenance(&there);
        let repo = there.open_at(Arc::new(calls.clone()), &keys, None).await;
        let report = prune_with(&repo, &there.cx, &small).await.unwrap();
        assert!(report.written_packs > 0, "{report:?}");
        all_is_whole(&there, &saved[5..]).await;
        let _ = prune(&there, &job()).await;
        let again = prune(&there, &job()).await;
        assert_eq!((again.deleted_packs, again.written_packs), (0, 0));
        calls.count_under(Op::Put, "sessions/") / 2
    };
    assert_eq!(sessions(job().batch).await, 1);
    assert!(sessions(1).await > 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_changes_nothing_and_too_much_at_once_is_refused() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    for (report, _) in &saved[..3] {
        forget_one(&world, report.meta.id).await;
    }
    let before = world.mem.objects();
    let repo = world.open(&maintenance(&world), None).await;
    let careful = PruneJob {
        max_drop: 0.0,
        ..job()
    };
    let plan = prune::plan(&repo, &world.cx, &careful).await.unwrap();
    assert!(plan.numbers.unused_bytes > 0 && plan.drops_too_much(&careful));
    assert_eq!(world.mem.objects(), before);
    let refused = prune::prune(&repo, &world.cx, plan, &careful).await;
    assert!(
        matches!(refused, Err(EngineError::DropsTooMuch { .. })),
        "{refused:?}"
    );
    assert_eq!(world.mem.objects(), before);
    for role in [Role::Writer, Role::Verifier, Role::Reader] {
        let host = (role == Role::Writer).then(host);
        let keys = world.keys.subset(role, host.as_ref()).unwrap();
        let repo = world.open(&keys, None).await;
        let refused = prune::plan(&repo, &world.cx, &job()).await;
        assert!(matches!(refused, Err(EngineError::Key(_))), "{role:?}");
    }
}

/// Announces a session of that age that has no end.
pub(crate) async fn leave_open(world: &World, hours: u64) -> SessionId {
    let repo = world.open(&world.keys, None).await;
    let now = u64::try_from(world.cx.clock.now().as_millisecond()).unwrap();
    let session = Session {
        id: SessionId::from_parts(now - hours * 3_600_000, [3; 10]),
        host: host(),
        started_ms: now - hours * 3_600_000,
        wrapped_dek: Vec::new(),
    };
    let sealed = repo
        .ring()
        .seal(ObjectKind::Session, &session.encode().unwrap());
    world
        .mem
        .plant(layout::session(session.id).unwrap(), sealed.unwrap());
    session.id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_goes_while_somebody_is_at_work_and_the_next_prune_goes_on() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    let open = leave_open(&world, 2).await;
    let before = stored(&world);
    let repo = world.open(&maintenance(&world), None).await;
    let lazy = PruneJob {
        max_unused: Unused::Unlimited,
        ..job()
    };
    let report = prune_with(&repo, &world.cx, &lazy).await.unwrap();
    let waits: Vec<_> = report
        .waits_for
        .iter()
        .map(|one| (one.id, one.host.clone()))
        .collect();
    assert_eq!(waits, [(open, Some(host()))]);
    assert_eq!((report.deleted_packs, stored(&world)), (0, before));
    // It may still name anything; once it has come to its end, it is known what it named.
    world.mem.lose(&layout::session(open).unwrap());
    let report = prune_with(&repo, &world.cx, &lazy).await.unwrap();
    assert!(
        report.deleted_packs > 0 && report.waits_for.is_empty(),
        "{report:?}"
    );
    assert_eq!(count(&world, "gc/"), 2, "the first generation was decided");
    all_is_whole(&world, &saved[1..]).await;
}

/// Somebody is always at work, and still each prune comes to the end of what it has begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_later_is_not_waited_for() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    forget_one(&world, saved[0].0.meta.id).await;
    let state = tempfile::tempdir().unwrap();
    let lazy = PruneJob {
        max_unused: Unused::Unlimited,
        ..job()
    };
    let prune = async || {
        let repo = world.open(&maintenance(&world), None).await;
        let repo = repo.keep_ledger_in(Some(state.path().to_owned()));
        let report = prune_with(&repo, &world.cx, &lazy).await.unwrap();
        let waits: Vec<_> = report.waits_for.iter().map(|one| one.id).collect();
        (report.deleted_packs > 0, waits)
    };
    let first = leave_open(&world, 2).await;
    assert_eq!(prune().await, (false, vec![first]));
    let second = leave_open(&world, 1).await;
    assert_eq!(prune().await, (false, vec![first]), "the second avoids it");
    world.mem.lose(&layout::session(first).unwrap());
    assert_eq!(prune().await, (true, vec![]));
    // What is condemned since the second began waits for it, and not for the third.
    forget_one(&world, saved[1].0.meta.id).await;
    assert_eq!(prune().await, (false, vec![second]));
    let third = leave_open(&world, 0).await;
    world.mem.lose(&layout::session(second).unwrap());
    assert_eq!(prune().await, (true, vec![]));
    assert!(
        world
            .mem
            .objects()
            .contains_key(&layout::session(third).unwrap())
    );
    all_is_whole(&world, &saved[2..]).await;
    // Another generation of the same number was not looked at.
    forget_one(&world, saved[2].0.meta.id).await;
    assert_eq!(prune().await, (false, vec![third]));
    let last = world
        .mem
        .objects()
        .into_keys()
        .filter_map(|key| layout::condemned_number(&key))
        .max();
    let key = layout::condemned(last.unwrap()).unwrap();
    let repo = world.open(&world.keys, None).await;
    let plain = repo
        .ring()
        .open(ObjectKind::Condemned, &world.mem.objects()[&key])
        .unwrap();
    let fourth = leave_open(&world, 0).await;
    world.mem.plant(
        key,
        repo.ring().seal(ObjectKind::Condemned, &plain).unwrap(),
    );
    assert_eq!(prune().await, (false, vec![third, fourth]));
}

/// Whoever stores nothing new is at work all the same, and says so by index runs without packs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stores_nothing_gives_signs_of_life() {
    let mut world = World::new().await;
    let (mut source, saved) = history(&world, 2).await;
    let runs = async |world: &World| {
        let repo = world.open(&world.keys, None).await;
        let index = repo.index();
        let empty = index.parts().iter().filter(|run| run.pack_numbers() == 0);
        let made = empty.flat_map(Part::sessions).map(|wrap| wrap.session);
        let made: BTreeSet<_> = made.collect();
        (made.len(), index.parts().len())
    };
    assert_eq!(runs(&world).await.0, 0, "an hour has not passed");
    world.job.checkpoint.alive = Duration::from_millis(100);
    // Some signs are due meanwhile, and not so many that they are laid together.
    source.habits.pause = Duration::from_millis(250);
    let last = world.save(&source, &world.keys, "two").await;
    let (made, before) = runs(&world).await;
    assert_eq!(made, 1);
    world.verify().await;
    forget_one(&world, saved[0].0.meta.id).await;
    let _ = prune(&world, &job()).await;
    let (made, after) = runs(&world).await;
    assert!(made == 0 && after < before, "{made}, {before}, {after}");
    world.check(&source.now, &last).await;
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_was_cut_short_is_ended_first() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    let state = tempfile::tempdir().unwrap();
    let open = async |sink: Arc<dyn backup_core::Sink>| {
        let repo = world.open_at(sink, &maintenance(&world), None).await;
        repo.keep_ledger_in(Some(state.path().to_owned()))
    };
    forget_one(&world, saved[0].0.meta.id).await;
    let failing = FaultSink::new(Arc::new(world.mem.clone()), 1);
    failing.add(
        Rule::new(Fault::Fail(ErrorKind::Denied, Retry::Never))
            .on(&[Op::Delete])
            .under("data/"),
    );
    let repo = open(Arc::new(failing)).await;
    prune_with(&repo, &world.cx, &job()).await.unwrap_err();
    let there = count(&world, "gc/");
    assert!(
        there > 0 && there.is_multiple_of(2),
        "{there}: all were decided"
    );
    forget_one(&world, saved[1].0.meta.id).await;
    let session = leave_open(&world, 2).await;
    let before = stored(&world);
    let repo = open(Arc::new(world.mem.clone())).await;
    let report = prune_with(&repo, &world.cx, &job()).await.unwrap();
    assert_eq!(report.waits_for[0].id, session);
    assert!(
        report.deleted_packs > 0 && report.deleted_bytes > 0,
        "{report:?}"
    );
    assert!(stored(&world) < before + usize::try_from(report.written_bytes).unwrap());
    all_is_whole(&world, &saved[2..]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_for_long_is_judged_by_what_is_there() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    // It says itself that it began long ago; that is not what counts.
    let open = leave_open(&world, 300).await;
    let state = tempfile::tempdir().unwrap();
    let clock = TestClock::default();
    let cx = OpContext::new(Arc::new(clock.clone()));
    let mut reports = Vec::new();
    for hours in [0, 11, 11, 5] {
        clock.advance(SignedDuration::from_hours(hours));
        let repo = world.open(&maintenance(&world), None).await;
        let repo = repo.keep_ledger_in(Some(state.path().to_owned()));
        reports.push(prune_with(&repo, &cx, &job()).await.unwrap());
    }
    let last = reports.pop().unwrap();
    for report in reports {
        assert_eq!((report.revoked.len(), report.waits_for.len()), (0, 1));
        assert_eq!(report.deleted_packs, 0);
    }
    assert_eq!(last.revoked, [open]);
    assert!(last.deleted_packs > 0);
    let there = |key| world.mem.objects().contains_key(&key);
    assert!(there(layout::verdict(open).unwrap()));
    assert!(there(layout::session_revoked(open).unwrap()));
    assert!(!there(layout::session(open).unwrap()), "nobody needs it");
    all_is_whole(&world, &saved[1..]).await;
    // Who keeps no state takes nobody for dead, unless asked to.
    let open = leave_open(&world, 300).await;
    forget_one(&world, saved[1].0.meta.id).await;
    for _ in 0..3 {
        assert_eq!(prune(&world, &job()).await.revoked, []);
    }
    let impatient = PruneJob {
        patience: Duration::ZERO,
        ..job()
    };
    assert_eq!(prune(&world, &impatient).await.revoked, [open]);
    all_is_whole(&world, &saved[2..]).await;
}

/// What a session that was taken for dead left: a snapshot that its verdict leaves out, with refs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_verdict_leaves_out_goes_and_the_verdict_stays() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    let void = saved[2].0.meta.id;
    let repo = world.open(&world.keys, None).await;
    let session = SessionId::from_bytes(world.head(&repo, &saved[2].0).await.outer.session);
    let mark = |kind, plain: &[u8]| repo.ring().seal(kind, plain).unwrap();
    let verdict = Verdict {
        session,
        snapshots: BTreeSet::new(),
    };
    let revoked = SessionMark { session }.encode();
    world.mem.lose(&layout::session_done(session).unwrap());
    world.mem.plant(
        layout::session_revoked(session).unwrap(),
        mark(ObjectKind::SessionRevoked, &revoked),
    );
    world.mem.plant(
        layout::verdict(session).unwrap(),
        mark(ObjectKind::Verdict, &verdict.encode()),
    );
    let there = |key| world.mem.objects().contains_key(&key);
    // The ledger knows it: somebody told of it, so nobody may take it away for good.
    let _ = prune(&world, &forced()).await;
    assert!(there(layout::snapshot(void).unwrap()));
    let records: Vec<_> = world.mem.objects().into_keys().collect();
    for key in records
        .iter()
        .filter(|key| key.as_str().starts_with("ledger/"))
    {
        world.mem.lose(key);
    }
    let _ = prune(&world, &forced()).await;
    assert!(!there(layout::snapshot(void).unwrap()));
    assert!(!there(layout::refs(void).unwrap()));
    assert!(!there(layout::session(session).unwrap()));
    assert!(there(layout::verdict(session).unwrap()));
    assert!(there(layout::session_revoked(session).unwrap()));
    all_is_whole(&world, &saved[..2]).await;
}

fn forced() -> PruneJob {
    PruneJob {
        patience: Duration::ZERO,
        despite_gone: true,
        // One test takes the ledger away.
        despite_ledger: true,
        ..job()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_packs_are_laid_together_and_few_are_not() {
    let world = World::new().await;
    let mut source = ModelSource::default();
    let mut saved = Vec::new();
    for round in 0..12u64 {
        source
            .now
            .insert(format!("file-{round}"), noise(round, 30_000));
        saved.push((
            world.save(&source, &world.keys, "one").await,
            source.now.clone(),
        ));
    }
    let before = count(&world, "data/");
    assert!(before >= 12, "{before}");
    let repo = world.open(&maintenance(&world), None).await;
    for (job, small) in [
        (
            PruneJob {
                max_repack: Some(100_000),
                ..job()
            },
            false,
        ),
        (
            PruneJob {
                max_unused: Unused::Unlimited,
                ..job()
            },
            false,
        ),
        (job(), true),
    ] {
        let plan = prune::plan(&repo, &world.cx, &job).await.unwrap();
        assert_eq!(plan.numbers.small_packs >= 12, small, "{:?}", plan.numbers);
        let report = prune::prune(&repo, &world.cx, plan, &job).await.unwrap();
        assert_eq!(report.written_packs > 0, small, "{report:?}");
    }
    assert_eq!(count(&world, "data/"), 1);
    all_is_whole(&world, &saved).await;
    // A few more do not have it all copied again: it is larger than they are together.
    for round in 0..7u64 {
        source
            .now
            .insert(format!("new-{round}"), noise(100 + round, 30_000));
        saved.push((
            world.save(&source, &world.keys, "one").await,
            source.now.clone(),
        ));
    }
    prune(&world, &job()).await;
    assert_eq!(count(&world, "data/"), 8);
    all_is_whole(&world, &saved).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_refs_are_gone_or_damaged_stops_it() {
    let world = World::new().await;
    let (_, saved) = history(&world, 3).await;
    forget_one(&world, saved[0].0.meta.id).await;
    let key = layout::refs(saved[2].0.meta.id).unwrap();
    let body = world.mem.objects()[&key].clone();
    let snapshot = layout::snapshot(saved[1].0.meta.id).unwrap();
    let before = stored(&world);
    let repo = world.open(&maintenance(&world), None).await;
    let refused = |ended: Result<PruneReport>| match ended {
        Err(EngineError::Unprunable(why)) => why,
        other => panic!("{other:?}"),
    };
    world.mem.lose(&key);
    let why = refused(prune_with(&repo, &world.cx, &job()).await);
    assert!(why.contains("has no refs"), "{why}");
    let mut damaged = body.to_vec();
    damaged[20] ^= 1;
    world.mem.plant(key.clone(), damaged);
    let why = refused(prune_with(&repo, &world.cx, &job()).await);
    assert!(why.contains("damaged"), "{why}");
    world.mem.plant(key, body);
    world.mem.damage(&snapshot, |bytes| bytes[30] ^= 1);
    let why = refused(prune_with(&repo, &world.cx, &job()).await);
    assert!(why.contains("cannot be read"), "{why}");
    assert_eq!(stored(&world), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_is_not_copied_and_is_named() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    for (report, _) in &saved[..3] {
        forget_one(&world, report.meta.id).await;
    }
    let repo = world.open(&maintenance(&world), None).await;
    let plan = prune::plan(&repo, &world.cx, &job()).await.unwrap();
    assert!(plan.numbers.repacked_packs > 0);
    for key in world.mem.objects().into_keys().filter(layout::is_pack) {
        world.mem.damage(&key, |bytes| bytes[40] ^= 1);
    }
    let report = prune::prune(&repo, &world.cx, plan, &job()).await.unwrap();
    assert_eq!(report.written_packs, 0);
    let damaged = |kind| kind == FindingKind::Damaged;
    assert!(!report.findings.is_empty());
    assert!(
        report.findings.iter().all(|one| damaged(one.kind)),
        "{report:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_at_any_request_it_loses_nothing_and_the_next_one_ends_it() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    for (report, _) in &saved[..3] {
        forget_one(&world, report.meta.id).await;
    }
    let mut stops = 0;
    for number in 0..400 {
        let crash = [Crash::Before, Crash::After][number % 2];
        let there = world.fork();
        let (ended, was_hit) = stopped(&there, (number / 2) as u64, crash).await;
        if !was_hit {
            assert!(ended.is_ok(), "{ended:?}");
            break;
        }
        stops += 1;
        all_is_whole(&there, &saved[3..]).await;
        // Its session has no end, so it is waited for, or taken for dead when it is old.
        let impatient = PruneJob {
            patience: Duration::ZERO,
            ..job()
        };
        let report = prune(&there, &impatient).await;
        assert!(report.waits_for.is_empty(), "{report:?}");
        all_is_whole(&there, &saved[3..]).await;
        let _ = prune(&there, &impatient).await; // Small packs of both may be laid together.
        let left = prune(&there, &impatient).await;
        assert_eq!(
            (left.deleted_packs, left.written_packs),
            (0, 0),
            "stop {number}"
        );
    }
    assert!(stops > 10, "{stops}");
}

/// A tier that says that it has stored what it has not, or has stored a part of: what was to be replaced by it
/// stays, and says so, and the next prune ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tier_only_says_that_it_has_replaces_nothing() {
    let world = World::new().await;
    let (_, saved) = history(&world, 4).await;
    for (report, _) in &saved[..3] {
        forget_one(&world, report.meta.id).await;
    }
    for folder in ["data/", "index/", "refs/"] {
        for fault in [Fault::Drop, Fault::Shorten] {
            let what = format!("{fault:?} below {folder}");
            let there = world.fork();
            let lie = Rule::new(fault.clone()).on(&[Op::Put]).under(folder);
            let sink = FaultSink::new(Arc::new(there.mem.clone()), 1).with(lie);
            let repo = there
                .open_at(Arc::new(sink.clone()), &maintenance(&there), None)
                .await;
            let ended = prune_with(&repo, &there.cx, &job()).await;
            assert!(!sink.injected().is_empty(), "{what}: nothing was written");
            let told = match ended {
                // Another prune may have merged it.
                Err(EngineError::OtherPrune(_)) if folder == "index/" && fault == Fault::Drop => {
                    "and index/".into()
                }
                Err(EngineError::Unprunable(why) | EngineError::PrunedInPart { why, .. }) => why,
                other => panic!("{what}: {other:?}"),
            };
            assert!(told.contains(&format!("and {folder}")), "{what}: {told}");
            for (report, disks) in &saved[3..] {
                there.check(disks, report).await;
            }
            // Nobody is waited for, and nothing of it is left behind. How many packs a save makes depends on threads, so
            // that what the first writes may make up enough small ones for the next to lay together.
            let mut deleted = Vec::new();
            while deleted.last() != Some(&0) {
                let report = prune(&there, &job()).await;
                assert_eq!(report.waits_for, [], "{what}");
                all_is_whole(&there, &saved[3..]).await;
                deleted.push(report.deleted_packs);
                assert!(deleted.len() <= 4, "{what}: {report:?}");
            }
            assert!(deleted[0] > 0, "{what}: {deleted:?}");
        }
    }
}

/// A prune whose program dies at a change of the tier, before or behind it; and whether there was one of
/// that number.
async fn stopped(world: &World, number: u64, crash: Crash) -> (Result<PruneReport>, bool) {
    let sink = Arc::new(FaultSink::new(Arc::new(world.mem.clone()), 1));
    sink.crash_at(number, crash);
    let repo = world.open_at(sink.clone(), &maintenance(world), None).await;
    let ended = prune_with(&repo, &world.cx, &job()).await;
    (ended, sink.crashed())
}
