//! The ledger on a tier where records are gone, damaged or strange, and snapshots are not what they
//! were.

use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    Finding, HostId, ObjectKey, OpContext, PutMode, Sample, Sink, SnapshotId, VerifyLevel,
};
use backup_engine::hold::{hold, release};
use backup_engine::ledger::{LedgerDraft, first_seen, held, record_operation, verify_ledger};
use backup_engine::repository::SnapshotHead;
use backup_engine::{EngineError, ForgetPlan, Repository, SnapshotView, forget, verify};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::{SnapshotObject, encode};
use backup_integrity::ledger::RecordOutcome;
use backup_integrity::sign::{HmacKey, HostSigner};
use backup_retention::{Count, KeepPolicy};
use backup_testkit::{Crash, Fault, FaultSink, Op, Rule, TestClock, When};
use jiff::tz::TimeZone;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::world::{Case, Memory, World, host, serious};

fn record(number: u64) -> ObjectKey {
    layout::ledger(number).unwrap()
}

fn details(findings: &[Finding]) -> Vec<String> {
    let line = |finding: &Finding| format!("{}: {}", finding.subject, finding.detail);
    findings.iter().map(line).collect()
}

/// A world with so many snapshots, and a case of it whose host remembers what it recorded.
async fn with_snapshots(count: usize) -> (World, Case) {
    let mut world = World::with_snapshot().await;
    for _ in 1..count {
        world.keep_one_more().await;
    }
    let case = world.case(Memory::Kept);
    (world, case)
}

/// The repository of a case, for somebody with the copy of the ledger and without any cache.
async fn without_cache(world: &World, case: &Case) -> Repository {
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let repo = world.open(sink, None).await.unwrap();
    repo.keep_ledger_in(case.state())
}

async fn heads(world: &World, repo: &Repository) -> Vec<SnapshotHead> {
    repo.heads(&world.cx).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_cut_off_is_seen_without_a_cache_and_by_the_next_save() {
    let (world, case) = with_snapshots(3).await;
    for number in [3, 4] {
        assert!(case.mem.lose(&record(number)));
    }
    let repo = without_cache(&world, &case).await;
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    let told = details(&ledger.findings);
    assert!(told[0].contains("records 3 to 4"), "{told:?}");
    let saved = world.save(&repo).await.unwrap();
    let told = details(&saved.findings);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("gone from the tier"), "{told:?}");
    // The gap stays, for everybody to see.
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let stranger = world.open(sink, None).await.unwrap();
    let ledger = verify_ledger(&stranger, &world.cx).await.unwrap();
    let told = details(&ledger.findings);
    assert!(told[0].contains("records 3 to 4 are not there"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_was_written_anew_is_seen_by_the_next_save() {
    let (world, case) = with_snapshots(3).await;
    assert!(case.mem.lose(&record(4)));
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    let other = world.open(sink, None).await.unwrap();
    let _ = record_operation(&other, &world.cx, &host(), "me", note("verify"))
        .await
        .unwrap();
    let repo = without_cache(&world, &case).await;
    let saved = world.save(&repo).await.unwrap();
    let told = details(&saved.findings);
    assert!(
        told[0].contains("not what this host's copy says"),
        "{told:?}"
    );
}

/// A tier that answers wrongly once has lost nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_was_damaged_on_the_way_is_not_said_to_be_lost() {
    let (world, case) = with_snapshots(3).await;
    for fault in [Fault::FlipBit, Fault::CutShort] {
        for nth in 1..=4 {
            let sink = FaultSink::new(Arc::new(case.mem.fork()), nth);
            let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
            let rule = Rule::new(fault.clone()).on(&[Op::Get]).under("ledger/");
            sink.add(rule.when(When::Nth(nth)));
            let found = held(&repo, &world.cx).await.unwrap();
            assert_eq!(found.lost, [0; 0], "{fault:?} {nth}");
            assert_eq!(sink.injected().len(), 1, "{fault:?} {nth}");
            sink.calm();
            let rule = Rule::new(fault.clone()).on(&[Op::Get]).under("ledger/");
            sink.add(rule.when(When::Nth(nth)));
            let check = verify_ledger(&repo, &world.cx).await.unwrap();
            assert_eq!(serious(&check), [""; 0], "{fault:?} {nth}");
        }
    }
}

/// It is a note: a forget that was cut short comes to this, and somebody who puts the object of a forgotten snapshot back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_there_and_was_forgotten_is_noted_until_that_is_settled() {
    let (world, case) = with_snapshots(2).await;
    let repo = without_cache(&world, &case).await;
    let head = heads(&world, &repo).await.remove(0);
    let id = head.meta.id;
    let key = layout::snapshot(id).unwrap();
    let before = case.mem.objects();
    let noted = async || {
        let repo = without_cache(&world, &case).await;
        let check = verify_ledger(&repo, &world.cx).await.unwrap();
        assert_eq!(serious(&check), [""; 0]);
        let told = details(&check.findings).into_iter();
        let told = told.filter(|one| one.starts_with(key.as_str()));
        told.filter(|one| one.contains("it was forgotten, and it is there"))
            .count()
    };
    assert_eq!(noted().await, 0);
    let sink = case.faulty();
    let dying = world.open(Arc::new(sink.clone()), None).await.unwrap();
    sink.crash_at(2, Crash::Before);
    let going = ForgetPlan::by_id(vec![head.meta.clone()]);
    let cut_short = forget(&dying, &world.cx, &going, &host(), "me").await;
    assert!(cut_short.is_err());
    assert_eq!(noted().await, 1, "cut short");
    let done = forget(&repo, &world.cx, &going, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    assert_eq!(noted().await, 0, "forgotten");
    for (key, body) in before {
        let is_refs = layout::refs_id(&key).is_some_and(|(of, _)| of == id);
        if is_refs || layout::snapshot_id(&key) == Some(id) {
            case.mem.plant(key, body);
        }
    }
    assert_eq!(noted().await, 1, "put back");
    let kept = hold(&repo, &world.cx, id, (&host(), "me"), "").await;
    assert!(kept.unwrap().changed);
    assert_eq!(noted().await, 0, "it stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_tells_of_an_end_that_was_cut_off() {
    let (world, case) = with_snapshots(2).await;
    assert!(case.mem.lose(&record(3)));
    let repo = without_cache(&world, &case).await;
    let head = heads(&world, &repo).await.remove(0);
    let out = tempfile::tempdir().unwrap();
    let restored = world.try_to_restore(&repo, &world.cx, head, out.path());
    let told = details(&restored.await.unwrap().report.findings);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("gone from the tier"), "{told:?}");
}

fn note(op: &'static str) -> LedgerDraft {
    LedgerDraft {
        op,
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: String::new(),
    }
}

/// Puts the content of one snapshot under the name of another, signed as it should be.
async fn replace(repo: &Repository, cx: &OpContext, victim: SnapshotId, by: &SnapshotHead) {
    let view = SnapshotView::open(repo, by.clone()).unwrap();
    let (mut statement, _, _) = view.statement().unwrap();
    statement.snapshot = victim;
    let mut outer = by.outer.clone();
    outer.id = victim.to_bytes();
    let outer = encode(&outer).unwrap();
    let keys = repo.keys().host_keys(&by.meta.host).unwrap();
    let seed = Zeroizing::new(keys.ed25519_seed);
    let signer = HostSigner::new(by.meta.host.clone(), HmacKey::new(keys.hmac), &seed);
    let digest = SnapshotObject::digest(&outer, &by.object.inner, &by.object.next.sealed);
    let signed = statement.sign(&signer, &digest).unwrap();
    let signature = signed.ed25519.as_bytes();
    let half = |range: std::ops::Range<usize>| signature[range].try_into().unwrap();
    let object = SnapshotObject {
        outer,
        statement: statement.encode().unwrap(),
        hmac: *signed.hmac.as_bytes(),
        signature: (half(0..32), half(32..64)),
        ..by.object.clone()
    };
    let plain = object.encode().unwrap();
    let sealed = repo.ring().seal(ObjectKind::Snapshot, &plain).unwrap();
    let key = layout::snapshot(victim).unwrap();
    let put = repo.sink().put(cx, &key, sealed.into(), PutMode::Replace);
    put.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_was_put_in_the_place_of_another_is_told_by_the_root_in_the_ledger() {
    let (world, case) = with_snapshots(2).await;
    let repo = without_cache(&world, &case).await;
    let all = heads(&world, &repo).await;
    replace(&repo, &world.cx, all[0].meta.id, &all[1]).await;
    let level = VerifyLevel::Metadata;
    let verified = verify(&repo, &world.cx, None, level, Sample::All).await;
    let told = details(&verified.unwrap().report.findings);
    assert!(
        !told.iter().any(|told| told.contains("signature")),
        "{told:?}"
    );
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    let told = details(&ledger.findings);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains(&all[0].meta.id.to_string()), "{told:?}");
    assert!(
        told[0].contains("not the snapshot that was made"),
        "{told:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stray_object_below_the_ledger_is_nobodys_business() {
    let (world, case) = with_snapshots(1).await;
    for stray in ["ledger/README", "ledger/7", "ledger/000000000002.bak"] {
        case.mem.plant(ObjectKey::new(stray).unwrap(), "words");
    }
    let _ = world.make_good(&case, "stray").await;
    assert!(case.mem.objects().contains_key(&record(2)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_damaged_stops_nobody_and_is_told() {
    let (world, case) = with_snapshots(2).await;
    let genuine = case.mem.objects()[&record(2)].clone();
    case.mem.plant(record(2), "no record");
    case.mem.plant(record(3), "neither");
    case.mem.plant(record(999_999_999_999), "far away");
    let sink: Arc<dyn Sink> = Arc::new(case.mem.clone());
    // Whoever has no copy meets all of it.
    let repo = world.open(sink, None).await.unwrap();
    let saved = world.save(&repo).await.unwrap();
    let told = details(&saved.findings);
    let damaged = [record(2), record(3), record(999_999_999_999)];
    assert_eq!(told.len(), 3, "{told:?}");
    for key in &damaged {
        assert!(
            told.iter().any(|told| told.starts_with(key.as_str())),
            "{told:?}"
        );
    }
    let all = heads(&world, &repo).await;
    let (host, meta) = (host(), &all[0].meta);
    let by = (&host, "me");
    let held = hold(&repo, &world.cx, meta.id, by, "audit").await.unwrap();
    assert!(held.changed && held.findings.len() == 3);
    let lifted = release(&repo, &world.cx, meta.id, by, "").await.unwrap();
    assert!(lifted.changed && lifted.findings.len() == 3);
    let plan = ForgetPlan::by_id(vec![meta.clone()]);
    let done = forget(&repo, &world.cx, &plan, &host, "me").await.unwrap();
    // And that one of them may be of a hold.
    assert_eq!((done.removed, done.findings.len()), (1, 4));
    // Record 2 was lost to whoever wrote the next, so its snapshot is recorded anew.
    let objects = case.mem.objects();
    let places = (4..=8).filter(|number| objects.contains_key(&record(*number)));
    assert_eq!(places.count(), 5);
    let told = details(&verify_ledger(&repo, &world.cx).await.unwrap().findings);
    assert!(
        told.iter().any(|told| told.contains("ledger/000000000002")),
        "{told:?}"
    );
    // What was damaged comes back from elsewhere, what never was a record goes: nobody is accused.
    case.mem.plant(record(2), genuine);
    for key in [record(3), record(999_999_999_999)] {
        assert!(case.mem.lose(&key));
    }
    let ledger = verify_ledger(&repo, &world.cx).await.unwrap();
    let told = serious(&ledger);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("record 3 is not there"), "{told:?}");
}

/// A context whose clock stands.
fn at(time: &str) -> OpContext {
    OpContext::new(Arc::new(TestClock::at_text(time)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_whose_time_lies_is_judged_by_the_ledger() {
    let mut world = World::new().await;
    let case = world.case(Memory::Kept);
    let boss = HostId("boss".into());
    let repo = without_cache(&world, &case).await;
    let mut made = Vec::new();
    // Each day at noon a snapshot, and in the evening the trusted host does something.
    for day in 1..=3 {
        world.cx = at(&format!("2026-11-0{day}T12:00:00Z"));
        made.push(world.save(&repo).await.unwrap().meta.id);
        let evening = at(&format!("2026-11-0{day}T20:00:00Z"));
        let draft = note("verify");
        let _ = record_operation(&repo, &evening, &boss, "me", draft)
            .await
            .unwrap();
    }
    // On the fourth a writer dates itself back, behind the good snapshot of the second, then ahead.
    for lie in ["2026-11-02T19:00:00Z", "2099-01-01T00:00:00Z"] {
        world.cx = at(lie);
        made.push(world.save(&repo).await.unwrap().meta.id);
    }
    let evening = at("2026-11-04T20:00:00Z");
    let draft = note("verify");
    let _ = record_operation(&repo, &evening, &boss, "me", draft)
        .await
        .unwrap();
    let now = at("2026-11-05T08:00:00Z");
    let times = async |repo: &Repository| -> Vec<Option<String>> {
        let mut all = heads(&world, repo).await;
        first_seen(repo, &now, &boss, &mut all).await.unwrap();
        let of = |id: &SnapshotId| {
            let head = all.iter().find(|head| head.meta.id == *id)?;
            head.meta.first_seen.map(|at| at.to_string())
        };
        made.iter().map(of).collect()
    };
    let wanted = [
        "2026-11-01T12:00:00Z",
        "2026-11-02T12:00:00Z",
        "2026-11-03T12:00:00Z",
        "2026-11-03T20:00:00Z",
        "2026-11-04T20:00:00Z",
    ];
    assert_eq!(times(&repo).await, wanted.map(|time| Some(time.to_owned())));
    // So the good one of the second keeps its place.
    let mut all = heads(&world, &repo).await;
    let policy = KeepPolicy {
        daily: Some(Count::AtMost(4)),
        ..KeepPolicy::default()
    };
    let keeps = |all: &[SnapshotHead]| {
        let metas = all.iter().map(|head| head.meta.clone()).collect();
        let now = "2026-11-05T08:00:00Z".parse().unwrap();
        let plan = ForgetPlan::by_policy(
            metas,
            &policy,
            now,
            &TimeZone::UTC,
            &std::collections::BTreeSet::new(),
        );
        !plan.forgotten().any(|meta| meta.id == made[1])
    };
    assert!(!keeps(&all), "by what the writers claim it goes");
    first_seen(&repo, &now, &boss, &mut all).await.unwrap();
    assert!(keeps(&all));
    // One that is left out of the ledger has no time at all.
    case.mem.lose(&record(8));
    assert_eq!(times(&repo).await[3], None);
}

/// A snapshot is held while a slow run forgets it: whoever was first, a hold that says that it was placed
/// keeps it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_is_placed_keeps_what_is_being_forgotten() {
    let world = World::with_snapshot().await;
    let (mut kept, mut gone) = (0, 0);
    for (slow, under) in [
        (Op::Put, "ledger/"),
        (Op::Head, "holds/"),
        (Op::Delete, "snap/"),
    ] {
        let case = world.case(Memory::Lost);
        let slow_tier = FaultSink::new(Arc::new(case.mem.clone()), 1);
        let pause = Duration::from_millis(700);
        slow_tier.add(Rule::new(Fault::Delay(pause)).on(&[slow]).under(under));
        let forgetter = world.open(Arc::new(slow_tier), None).await.unwrap();
        let holder = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let snapshots = heads(&world, &forgetter).await;
        let plan = ForgetPlan::by_id(snapshots.iter().map(|head| head.meta.clone()).collect());
        let (id, me) = (snapshots[0].meta.id, host());
        let held = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            hold(&holder, &world.cx, id, (&me, "anna"), "audit").await
        };
        let (forgot, held) = tokio::join!(forget(&forgetter, &world.cx, &plan, &me, "otto"), held);
        let removed = forgot.unwrap().removed;
        let there = heads(&world, &holder).await;
        let check = verify_ledger(&holder, &world.cx).await.unwrap();
        assert_eq!(serious(&check), [""; 0], "slow {under}");
        if held.is_ok() {
            kept += 1;
            assert_eq!((removed, there.len()), (0, 1), "slow {under}");
            assert!(there[0].meta.held);
        } else {
            gone += 1;
            assert_eq!((removed, there.len()), (1, 0), "slow {under}");
            assert!(matches!(held, Err(EngineError::TooLate { .. })), "{held:?}");
            assert!(
                !case.mem.lose(&layout::hold(id).unwrap()),
                "a hold on nothing"
            );
        }
    }
    assert!(kept > 0 && gone > 0, "{kept} {gone}");
}

/// Forgets all snapshots in a moment.
fn forget_in_a_moment(world: &World, repo: Repository, all: &[SnapshotHead]) -> JoinHandle<u64> {
    let plan = ForgetPlan::by_id(all.iter().map(|head| head.meta.clone()).collect());
    let (cx, me) = (world.cx.clone(), host());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let forgot = forget(&repo, &cx, &plan, &me, "otto").await;
        forgot.unwrap().removed
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_forgotten_while_it_is_verified_is_not_missed() {
    let world = World::with_snapshot().await;
    for (is_ledger, slow, under) in [
        (true, Op::List, "ledger/"),
        (true, Op::List, "snap/"),
        (true, Op::Get, "snap/"),
        (false, Op::List, "snap/"),
        (false, Op::Get, "snap/"),
        (false, Op::List, "refs/"),
        (false, Op::Get, "refs/"),
    ] {
        let case = world.case(Memory::Lost);
        let slow_tier = FaultSink::new(Arc::new(case.mem.clone()), 1);
        let looker = world.open(Arc::new(slow_tier.clone()), None).await.unwrap();
        let forgetter = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let all = heads(&world, &forgetter).await;
        let pause = Duration::from_millis(600);
        slow_tier.add(Rule::new(Fault::Delay(pause)).on(&[slow]).under(under));
        let forgetting = forget_in_a_moment(&world, forgetter, &all);
        let found = if is_ledger {
            serious(&verify_ledger(&looker, &world.cx).await.unwrap())
        } else {
            let level = VerifyLevel::Checksum;
            let whole = verify(&looker, &world.cx, None, level, Sample::All).await;
            details(&whole.unwrap().report.findings)
        };
        assert_eq!(forgetting.await.unwrap(), 1, "slow {under}");
        assert_eq!(found, [""; 0], "slow {under}");
    }
}
