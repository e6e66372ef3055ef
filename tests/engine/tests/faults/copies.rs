//! Copies to another tier: on tiers that fail, beside prunes of either, and taken for dead. What is said to be there is
//! there, restores by itself, and stays.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use backup_core::{
    CancellationToken, Event, FindingKind, ObjectKey, Observer, OpContext, PackId, Severity, Sink,
    SnapshotId,
};
use backup_engine::copy::{CopyJob, CopyReport, Fate, Found, copy, found, make, plan};
use backup_engine::ledger::{first_seen, records, verify_ledger};
use backup_engine::repository::SnapshotHead;
use backup_engine::{ForgetPlan, Repository, Result, forget, prune};
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::layout;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_parity::Share;
use backup_testkit::{Crash, FaultSink, MemSink, Op, RecordingSink};

use crate::operations::{Claim, Done, Run, looked, thorough};
use crate::world::{Files, World, host, noise, serious};

/// Copies all snapshots; makes the repository where there is none.
pub(crate) async fn copy_all(
    from: &Repository,
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    change: impl Fn(&mut CopyJob),
) -> Result<(Repository, CopyReport)> {
    let (heads, _) = from.heads(cx).await?;
    copy_these(from, cx, sink, heads, change).await
}

async fn copy_these(
    from: &Repository,
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    heads: Vec<SnapshotHead>,
    change: impl Fn(&mut CopyJob),
) -> Result<(Repository, CopyReport)> {
    let mut job = CopyJob::new(host());
    // An index run behind each pack.
    job.index_bytes = 1;
    change(&mut job);
    let mut to = match found(from, cx, sink.clone(), None).await? {
        Found::Same(to) => *to,
        Found::Nothing => make(from, cx, sink, None).await?,
    };
    let plan = plan(from, Some(&to), cx, &job, heads).await?;
    let report = copy(from, &mut to, cx, plan, &job).await?;
    Ok((to, report))
}

/// From a copy that has more to the tier of the case.
pub(crate) async fn copy_here(run: Run<'_>) -> Result<Done> {
    let (world, cx) = (run.world, run.cx);
    let ahead = world.ahead.as_ref().unwrap_or(&world.mem).fork();
    let from = world.open_in(cx, Arc::new(ahead), None).await?;
    let (heads, _) = from.heads(cx).await?;
    let job = CopyJob::new(host());
    let sink = run.sink.clone();
    let to = match found(&from, cx, sink.clone(), run.case.cache()).await? {
        Found::Same(to) => *to,
        Found::Nothing => make(&from, cx, sink, run.case.cache()).await?,
    };
    let mut to = to.keep_ledger_in(run.case.state());
    let plan = plan(&from, Some(&to), cx, &job, heads).await?;
    let report = copy(&from, &mut to, cx, plan, &job).await?;
    let claim = match report.copied.last() {
        Some(meta) => Claim::Saved(meta.id),
        None => Claim::Nothing,
    };
    Ok(Done::new(claim, report.findings, &to))
}

/// From the tier of the case to one where nothing is.
pub(crate) async fn copy_away(run: Run<'_>) -> Result<Done> {
    let (world, cx) = (run.world, run.cx);
    let from = run.open().await?;
    let (heads, mut told) = looked(&from, cx).await?;
    let shown = heads.len();
    let mem = MemSink::new();
    let (to, report) = copy_these(&from, cx, Arc::new(mem.clone()), heads, |_| {}).await?;
    told.extend(report.findings);
    let done = Done::new(Claim::Nothing, told, &from);
    drop(to);
    // What was copied is whole there, whatever else was not.
    let there = world.open(Arc::new(mem), None).await.unwrap();
    let (heads, unread) = there.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let copied: Vec<_> = report.copied.iter().map(|meta| meta.id).collect();
    assert_eq!(
        copied,
        heads.iter().map(|head| head.meta.id).collect::<Vec<_>>()
    );
    for head in heads {
        let back = world.restore(&there, head).await;
        assert!(world.saved.contains(&back), "a copy is not itself");
    }
    assert!(!done.findings.is_empty() || copied.len() == shown);
    Ok(done)
}

/// Two snapshots and their tier.
async fn world() -> World {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    world
}

async fn open(world: &World, mem: &MemSink) -> Repository {
    world.open(Arc::new(mem.clone()), None).await.unwrap()
}

async fn heads(world: &World, mem: &MemSink) -> Vec<SnapshotHead> {
    let (heads, unread) = open(world, mem).await.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    heads
}

async fn all_is_whole(world: &World, mem: &MemSink, wanted: &[Files], what: &str) {
    let repo = open(world, mem).await;
    let heads = heads(world, mem).await;
    assert_eq!(heads.len(), wanted.len(), "{what}");
    for (head, wanted) in heads.into_iter().zip(wanted) {
        assert!(world.restore(&repo, head).await == *wanted, "{what}");
    }
    let level = backup_core::VerifyLevel::FullRead;
    let done = backup_engine::verify(&repo, &world.cx, None, level, backup_core::Sample::All);
    let mut findings = done.await.unwrap().report.findings;
    findings.retain(|one| one.severity > Severity::Note);
    assert_eq!(findings, [], "{what}");
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(serious(&ledger), Vec::<String>::new(), "{what}");
}

async fn prune_all(world: &World, mem: &MemSink) -> prune::PruneReport {
    let repo = open(world, mem).await;
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    done.unwrap()
}

async fn forget_one(world: &World, mem: &MemSink, id: SnapshotId) {
    let repo = open(world, mem).await;
    let metas = heads(world, mem).await.into_iter().map(|head| head.meta);
    let plan = ForgetPlan::by_id(metas.filter(|meta| meta.id == id).collect());
    let done = forget(&repo, &world.cx, &plan, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
}

fn packs(mem: &MemSink) -> BTreeSet<PackId> {
    let objects = mem.objects();
    objects.keys().filter_map(layout::pack_id).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_first_copy_killed_at_any_change_goes_on_and_sends_nothing_twice() {
    for parity in [None, Some(Share::USUAL)] {
        let mut world = World::with_parity(parity).await.and_snapshot().await;
        world.keep_one_more().await;
        let mut points = 0;
        for k in 1.. {
            let mut is_over = false;
            for crash in [Crash::Before, Crash::After] {
                let what = format!("{parity:?}, {crash:?} change {k}");
                let from = open(&world, &world.mem.fork()).await;
                let mem = MemSink::new();
                let sink = FaultSink::new(Arc::new(mem.clone()), 7);
                sink.crash_at(k, crash);
                let ended = copy_all(&from, &world.cx, Arc::new(sink.clone()), |_| {}).await;
                if !sink.crashed() {
                    is_over = true;
                    break;
                }
                points += 1;
                let there = if Repository::exists(&world.cx, &mem).await.unwrap() {
                    heads(&world, &mem).await.len()
                } else {
                    0
                };
                assert!(ended.is_err() || there == 2, "{what}");
                all_is_whole_so_far(&world, &mem, there, &what).await;
                let before = mem.objects();
                let recorded = RecordingSink::new(Arc::new(mem.clone()));
                let again = copy_all(&from, &world.cx, Arc::new(recorded.clone()), |_| {}).await;
                let (_, report) = again.unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(report.findings, [], "{what}");
                assert_eq!(report.copied.len(), 2 - there, "{what}");
                let sent = recorded
                    .calls()
                    .into_iter()
                    .filter(|call| call.op == Op::Put);
                for call in sent {
                    let is_again = before
                        .keys()
                        .any(|key| layout::is_pack(key) && call.subject == key.as_str());
                    assert!(!is_again, "{what}: {} was sent again", call.subject);
                }
                all_is_whole(&world, &mem, &world.saved, &what).await;
                let report = prune_all(&world, &mem).await;
                assert_eq!(report.findings, [], "{what}");
                all_is_whole(&world, &mem, &world.saved, &what).await;
            }
            if is_over {
                break;
            }
        }
        println!("{points} points");
        assert!(points > 30, "only {points} points");
    }
}

/// What there is of a copy that was cut short is whole.
async fn all_is_whole_so_far(world: &World, mem: &MemSink, there: usize, what: &str) {
    if there > 0 {
        let repo = open(world, mem).await;
        for (head, wanted) in heads(world, mem).await.into_iter().zip(&world.saved) {
            assert!(world.restore(&repo, head).await == *wanted, "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_nothing_new_writes_nothing_on_either_tier() {
    let world = world().await;
    let (source, mem) = (world.mem.fork(), MemSink::new());
    let from = open(&world, &source).await;
    copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    let before = (source.objects(), mem.objects());
    let recorded = RecordingSink::new(Arc::new(mem.clone()));
    let again = copy_all(&from, &world.cx, Arc::new(recorded.clone()), |_| {}).await;
    assert_eq!(again.unwrap().1.copied, []);
    assert_eq!(
        (recorded.count(Op::Put), recorded.count(Op::Delete)),
        (0, 0)
    );
    assert!((source.objects(), mem.objects()) == before);
}

/// What a prune has called dead may never come again under its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_dead_packs_do_not_come_back() {
    let world = world().await;
    let (source, mem) = (world.mem.fork(), MemSink::new());
    let from = open(&world, &source).await;
    copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    for head in heads(&world, &mem).await {
        forget_one(&world, &mem, head.meta.id).await;
    }
    let before = packs(&mem);
    assert!(prune_all(&world, &mem).await.deleted_packs > 0);
    assert_eq!(packs(&mem), BTreeSet::new());
    let (_, report) = copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    assert_eq!((report.copied.len(), report.packs), (0, 0));
    let again = copy_all(&from, &world.cx, Arc::new(mem.clone()), |job| {
        job.again = true
    })
    .await;
    assert_eq!(again.unwrap().1.findings, []);
    assert!(packs(&mem).is_disjoint(&before));
    all_is_whole(&world, &mem, &world.saved, "behind a prune").await;
    prune_all(&world, &mem).await;
    all_is_whole(&world, &mem, &world.saved, "behind another").await;
    // An undecided generation is avoided as well.
    let list = PackList {
        generation: 7,
        packs: packs(&mem),
    };
    let sealed = from
        .ring()
        .seal(ObjectKind::Condemned, &list.encode())
        .unwrap();
    let other = MemSink::new();
    make(&from, &world.cx, Arc::new(other.clone()), None)
        .await
        .unwrap();
    other.plant(layout::condemned(7).unwrap(), sealed);
    let condemned = open(&world, &mem).await;
    copy_all(&condemned, &world.cx, Arc::new(other.clone()), |_| {})
        .await
        .unwrap();
    assert!(packs(&other).is_disjoint(&packs(&mem)));
    all_is_whole(&world, &other, &world.saved, "beside a generation").await;
}

/// Does something whenever a snapshot is about to be made visible, so many times.
struct Meddler<F>(Mutex<F>, AtomicU32);

impl<F> std::fmt::Debug for Meddler<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meddler")
    }
}

impl<F: FnMut() + Send> Observer for Meddler<F> {
    fn on(&self, event: Event<'_>) {
        let is_commit = matches!(event, Event::Current(_));
        let is_due = is_commit
            && self
                .1
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok();
        if is_due {
            (self.0.lock().unwrap())();
        }
    }
}

fn meddling(world: &World, times: u32, meddle: impl FnMut() + Send + 'static) -> OpContext {
    OpContext {
        observer: Arc::new(Meddler(Mutex::new(meddle), AtomicU32::new(times))),
        ..world.cx.clone()
    }
}

/// Takes all open sessions for dead; judges them at once, if that is wanted, and names no snapshot.
fn revoke(mem: &MemSink, ring: &ObjectKeyring, judges: bool) {
    let objects = mem.objects();
    for session in objects.keys().filter_map(layout::session_id) {
        let done = layout::session_done(session).unwrap();
        let revoked = layout::session_revoked(session).unwrap();
        if objects.contains_key(&done) || objects.contains_key(&revoked) {
            continue;
        }
        let mark = SessionMark { session }.encode();
        mem.plant(
            revoked,
            ring.seal(ObjectKind::SessionRevoked, &mark).unwrap(),
        );
        if judges {
            let snapshots = BTreeSet::new();
            let verdict = Verdict { session, snapshots }.encode();
            let sealed = ring.seal(ObjectKind::Verdict, &verdict).unwrap();
            mem.plant(layout::verdict(session).unwrap(), sealed);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_taken_for_dead_adopts_what_it_has_brought() {
    let world = world().await;
    for at in [1, 2] {
        let mem = MemSink::new();
        let from = open(&world, &world.mem.fork()).await;
        let (ring, tier) = (from.ring().clone(), mem.clone());
        let mut seen = 0;
        let cx = meddling(&world, 9, move || {
            seen += 1;
            if seen == at {
                revoke(&tier, &ring, false);
            }
        });
        let (_, report) = copy_all(&from, &cx, Arc::new(mem.clone()), |_| {})
            .await
            .unwrap();
        assert_eq!((report.copied.len(), &report.findings[..]), (2, &[][..]));
        let objects = mem.objects();
        let verdicts: Vec<_> = objects.keys().filter_map(layout::verdict_id).collect();
        assert_eq!(verdicts.len(), 1);
        // With an end of it somebody could tidy its verdict away.
        assert!(!objects.contains_key(&layout::session_done(verdicts[0]).unwrap()));
        all_is_whole(&world, &mem, &world.saved, "adopted").await;
        prune_all(&world, &mem).await;
        all_is_whole(&world, &mem, &world.saved, "pruned").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_was_left_out_does_not_count_and_comes_again_behind_a_prune() {
    let world = world().await;
    let mem = MemSink::new();
    let from = open(&world, &world.mem.fork()).await;
    let (ring, tier) = (from.ring().clone(), mem.clone());
    let cx = meddling(&world, 1, move || revoke(&tier, &ring, true));
    let (_, report) = copy_all(&from, &cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    assert_eq!(report.copied.len(), 1);
    let [finding] = &report.findings[..] else {
        panic!("{:?}", report.findings);
    };
    assert_eq!(finding.kind, FindingKind::Skipped);
    assert!(finding.detail.contains("`snapshot prune`"), "{finding}");
    all_is_whole(&world, &mem, &world.saved[1..], "left out").await;
    // As long as it lies there it is told, and nothing is done.
    let before = mem.objects();
    let (_, report) = copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    assert_eq!((report.copied.len(), report.findings.len()), (0, 1));
    assert!(mem.objects() == before);
    prune_all(&world, &mem).await;
    let (_, report) = copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    assert_eq!((report.copied.len(), &report.findings[..]), (1, &[][..]));
    all_is_whole(&world, &mem, &world.saved, "again").await;
}

/// A prune of the other tier that waits for nobody goes on while a copy is about to make a snapshot visible; the copy
/// is killed then, or goes on. What it relied on is there, or it does not count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prune_of_the_other_tier_in_the_middle_hurts_no_snapshot_that_counts() {
    let world = world().await;
    for (at, dies) in [(1, false), (2, false), (1, true), (2, true)] {
        let what = format!("before snapshot {at}, dies: {dies}");
        let mem = MemSink::new();
        let sink = FaultSink::new(Arc::new(mem.clone()), 7);
        let from = open(&world, &world.mem.fork()).await;
        make(&from, &world.cx, Arc::new(mem.clone()), None)
            .await
            .unwrap();
        let unlocked = Arc::new(world_of(&world, &mem));
        let handle = tokio::runtime::Handle::current();
        let (dying, mut seen) = (sink.clone(), 0);
        let cx = meddling(&world, 9, move || {
            seen += 1;
            if seen != at {
                return;
            }
            let unlocked = unlocked.clone();
            tokio::task::block_in_place(|| handle.block_on(unlocked.prune()));
            if dies {
                // The snapshot object is made, and its maker hears nothing any more.
                dying.crash_at(dying.mutations() + 1, Crash::After);
            }
        });
        let ended = copy_all(&from, &cx, Arc::new(sink), |_| {}).await;
        assert_eq!(ended.is_err(), dies, "{what}");
        let repo = open(&world, &mem).await;
        let there = heads(&world, &mem).await;
        for head in &there {
            let number = from_number(&from, &world, head).await;
            let back = world.restore(&repo, head.clone()).await;
            assert!(back == world.saved[number], "{what}");
        }
        if let Ok((_, report)) = &ended {
            assert_eq!(report.copied.len() + report.findings.len(), 2, "{what}");
            assert_eq!(report.copied.len(), there.len(), "{what}");
        }
        prune_all(&world, &mem).await;
        prune_all(&world, &mem).await;
        copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
            .await
            .unwrap();
        all_is_whole(&world, &mem, &world.saved, &what).await;
    }
}

async fn from_number(from: &Repository, world: &World, wanted: &SnapshotHead) -> usize {
    let (heads, _) = from.heads(&world.cx).await.unwrap();
    heads
        .iter()
        .position(|head| head.meta.id == wanted.meta.id)
        .unwrap()
}

/// What a thread that prunes needs.
struct Pruner {
    cx: OpContext,
    mem: MemSink,
    key: Vec<u8>,
}

fn world_of(world: &World, mem: &MemSink) -> Pruner {
    Pruner {
        cx: world.cx.clone(),
        mem: mem.clone(),
        key: world.key().to_vec(),
    }
}

impl Pruner {
    async fn prune(&self) {
        use backup_engine::Unlock;
        use backup_format::config::Operation;
        use backup_format::keys::keyfile::KeyFile;
        let unlock = Unlock::KeyFile(KeyFile::parse(&self.key).unwrap());
        let sink = Arc::new(self.mem.clone());
        let repo = Repository::open(&self.cx, sink, &unlock, None, Operation::Prune).await;
        let repo = repo.unwrap();
        let plan = prune::plan(&repo, &self.cx, &thorough()).await.unwrap();
        prune::prune(&repo, &self.cx, plan, &thorough())
            .await
            .unwrap();
    }
}

/// A prune of the tier that is copied from moves what the copy is about to fetch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_prune_moves_meanwhile_is_found_where_it_is() {
    let mut world = world().await;
    world.write("further", &noise(2000, 700_000));
    world.keep_one_more().await;
    let source = world.mem.fork();
    let middle = heads(&world, &source).await[1].meta.id;
    let from = open(&world, &source).await;
    let wanted: Vec<_> = from.heads(&world.cx).await.unwrap().0;
    // The copy knows the snapshots and the index as they were.
    forget_one(&world, &source, middle).await;
    prune_all(&world, &source).await;
    let mem = MemSink::new();
    let (_, report) = copy_these(&from, &world.cx, Arc::new(mem.clone()), wanted, |_| {})
        .await
        .unwrap();
    assert_eq!(report.copied.len(), 2, "{:?}", report.findings);
    let told: Vec<_> = report.findings.iter().map(|one| one.severity).collect();
    // What was forgotten is gone.
    assert!(told.len() == 1, "{:?}", report.findings);
    world.saved.remove(1);
    all_is_whole(&world, &mem, &world.saved, "moved").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_called_off_goes_on_later() {
    let world = world().await;
    let mem = MemSink::new();
    let from = open(&world, &world.mem.fork()).await;
    let cancel = CancellationToken::new();
    let called = cancel.clone();
    let mut cx = meddling(&world, 1, move || called.cancel());
    cx.cancel = cancel;
    let ended = copy_all(&from, &cx, Arc::new(mem.clone()), |_| {}).await;
    assert!(ended.is_err());
    let open_sessions = |mem: &MemSink| {
        let objects = mem.objects();
        let is_open = |key: &ObjectKey| {
            let id = layout::session_id(key)?;
            (!objects.contains_key(&layout::session_done(id).unwrap())).then_some(())
        };
        objects.keys().filter_map(is_open).count()
    };
    // Nobody waits for it.
    assert_eq!(open_sessions(&mem), 0);
    copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    all_is_whole(&world, &mem, &world.saved, "called off").await;
}

/// Rules of retention count from when snapshots were made, not from when they were copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_count_from_when_they_were_made() {
    let world = world().await;
    let mem = MemSink::new();
    let from = open(&world, &world.mem.fork()).await;
    let (mut wanted, _) = from.heads(&world.cx).await.unwrap();
    first_seen(&from, &world.cx, &host(), &mut wanted)
        .await
        .unwrap();
    let (to, _) = copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    let (mut copied, _) = to.heads(&world.cx).await.unwrap();
    for asks in [host(), backup_core::HostId("another".into())] {
        first_seen(&to, &world.cx, &asks, &mut copied)
            .await
            .unwrap();
        let seconds = |heads: &[SnapshotHead]| -> Vec<i64> {
            heads
                .iter()
                .map(|head| head.meta.first_seen.unwrap().as_second())
                .collect()
        };
        assert_eq!(seconds(&copied), seconds(&wanted));
    }
    let told = records(&to, &world.cx).await.unwrap();
    let told: Vec<_> = futures::TryStreamExt::try_collect(told).await.unwrap();
    let ops: Vec<_> = told
        .into_iter()
        .map(|seen| seen.record.unwrap().op.to_string())
        .collect();
    assert_eq!(ops, ["init", "copy", "copy"]);
}

/// The plan says what each snapshot is to become.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_tells_apart_what_is_there_forgotten_and_lacking() {
    let mut world = world().await;
    let mem = MemSink::new();
    let source = world.mem.clone();
    let from = open(&world, &source).await;
    copy_all(&from, &world.cx, Arc::new(mem.clone()), |_| {})
        .await
        .unwrap();
    let first = heads(&world, &mem).await[0].meta.id;
    forget_one(&world, &mem, first).await;
    world.write("further", &noise(2000, 700_000));
    world.keep_one_more().await;
    let from = open(&world, &source).await;
    let before = (source.objects(), mem.objects());
    let to = open(&world, &mem).await;
    let (all, _) = from.heads(&world.cx).await.unwrap();
    let made = plan(&from, Some(&to), &world.cx, &CopyJob::new(host()), all)
        .await
        .unwrap();
    let fates: Vec<_> = made.snapshots.iter().map(|(_, fate)| *fate).collect();
    assert_eq!(fates, [Fate::Forgotten, Fate::There, Fate::Copy]);
    assert!(
        made.bytes > 700_000 && made.bytes < 1_000_000,
        "{}",
        made.bytes
    );
    assert!((source.objects(), mem.objects()) == before);
}
