//! Records of the ledger that are lost: what is told of them, what of them comes back, and how it comes to an end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use backup_core::{ObjectKey, SnapshotId};
use backup_engine::ledger::{
    LedgerDraft, accept, accept_plan, held, record_operation, verify_ledger,
};
use backup_engine::repair::{RepairJob, plan, repair};
use backup_engine::{EngineError, Repository, Unlock};
use backup_format::config::Operation;
use backup_format::keys::{KeyFile, Role};
use backup_format::layout;
use backup_integrity::ledger::{MAX_FINDINGS, RecordOutcome};
use backup_testkit::MemSink;

use crate::world::{World, host, serious};

/// Records in the ledger.
const COUNT: u64 = 5;

fn record(number: u64) -> ObjectKey {
    layout::ledger(number).unwrap()
}

fn note(op: &'static str, note: &str) -> LedgerDraft {
    LedgerDraft {
        op,
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: note.to_owned(),
    }
}

async fn open(world: &World, mem: &MemSink, state: Option<&Path>) -> Repository {
    let repo = world.open(Arc::new(mem.clone()), None).await.unwrap();
    repo.keep_ledger_in(state.map(Path::to_owned))
}

async fn add(world: &World, repo: &Repository, draft: LedgerDraft) {
    let host = host();
    let done = record_operation(repo, &world.cx, &host, "me", draft);
    let _ = done.await.unwrap();
}

/// A repository with so many records, and the lines of a whole copy of its ledger.
async fn ground() -> (World, MemSink, Vec<String>) {
    let world = World::empty_with_parity(None).await;
    let mem = world.mem.fork();
    let state = tempfile::tempdir().unwrap();
    let repo = open(&world, &mem, Some(state.path())).await;
    for _ in 1..COUNT {
        add(&world, &repo, note("verify", "")).await;
    }
    let copy = fs::read_to_string(repo.ledger_copy().unwrap().path()).unwrap();
    let lines: Vec<String> = copy.lines().map(str::to_owned).collect();
    assert_eq!(lines.len() as u64, COUNT);
    (world, mem, lines)
}

/// Writes a copy of the ledger that has these records.
fn remember(repo: &Repository, lines: &[String], numbers: &BTreeSet<u64>) {
    let path = repo.ledger_copy().unwrap().path();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let has = |number: usize| numbers.contains(&(number as u64 + 1));
    let lines = lines.iter().enumerate().filter(|(at, _)| has(*at));
    let text: String = lines.map(|(_, line)| format!("{line}\n")).collect();
    fs::write(path, text).unwrap();
}

async fn told(world: &World, repo: &Repository) -> Vec<String> {
    serious(&verify_ledger(repo, &world.cx).await.unwrap())
}

/// Accepts what is lost; gives the numbers.
async fn accept_all(world: &World, repo: &Repository, what: &str) -> BTreeSet<u64> {
    let found = accept_plan(repo, &world.cx).await;
    let found = found.unwrap_or_else(|error| panic!("{what}: {error}"));
    assert_eq!(found.left, [], "{what}");
    let rows = found.lost.iter();
    let numbers = rows
        .flat_map(|one| one.lost.first..=one.lost.last)
        .collect();
    if !found.is_empty() {
        let done = accept(repo, &world.cx, (&host(), "me"), found).await;
        assert!(!done.unwrap().records.is_empty(), "{what}");
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_lost_is_told_comes_back_as_far_as_it_fits_and_comes_to_an_end() {
    let (world, whole, lines) = ground().await;
    let all: BTreeSet<u64> = (1..=COUNT).collect();
    let partly: BTreeSet<u64> = all.iter().copied().filter(|n| n % 2 == 0).collect();
    for bits in 0..1u64 << COUNT {
        let lost: BTreeSet<u64> = (1..=COUNT).filter(|n| bits >> (n - 1) & 1 == 1).collect();
        for own in [&all, &partly, &BTreeSet::new()] {
            for has_other in [false, true] {
                let what = format!("lost {lost:?}, own {own:?}, another copy {has_other}");
                one_case(&world, (&whole, &lines), (&lost, own, has_other), &what).await;
            }
        }
    }
}

async fn one_case(
    world: &World,
    (whole, lines): (&MemSink, &[String]),
    (lost, own, has_other): (&BTreeSet<u64>, &BTreeSet<u64>, bool),
    what: &str,
) {
    let mem = whole.fork();
    for number in lost {
        assert!(mem.lose(&record(*number)));
    }
    let state = tempfile::tempdir().unwrap();
    let repo = open(world, &mem, Some(state.path())).await;
    remember(&repo, lines, own);
    let on_tier = (1..=COUNT).filter(|n| !lost.contains(n)).max().unwrap_or(0);
    let end = on_tier.max(own.iter().copied().max().unwrap_or(0));
    let missed: BTreeSet<u64> = lost
        .iter()
        .copied()
        .filter(|n| *n < end || own.contains(n))
        .collect();
    let back: BTreeSet<u64> = missed
        .iter()
        .copied()
        .filter(|n| has_other || own.contains(n))
        .collect();
    assert_eq!(
        told(world, &repo).await.is_empty(),
        missed.is_empty(),
        "{what}"
    );
    let others = match has_other {
        true => vec![open(world, whole, None).await],
        false => Vec::new(),
    };
    let is_refused = missed.iter().any(|n| own.contains(n));
    let refused = accept_plan(&repo, &world.cx).await;
    let refused = matches!(refused, Err(EngineError::Repairable(_)));
    assert_eq!(refused, is_refused, "{what}");
    let job = RepairJob::new(&repo, host());
    let planned = plan(&repo, &world.cx, &job, &others).await.unwrap();
    let report = repair(&repo, &world.cx, planned, &job, &others)
        .await
        .unwrap();
    let is_record = |one: &&backup_engine::repair::Mended| one.subject.starts_with("ledger/");
    let mended = report.mended.iter().filter(is_record);
    let mended: Vec<String> = mended.map(|one| one.subject.clone()).collect();
    let wanted: Vec<String> = back.iter().map(|n| record(*n).to_string()).collect();
    assert_eq!(mended, wanted, "{what}");
    for number in &back {
        assert!(mem.objects().contains_key(&record(*number)), "{what}");
    }
    let left: BTreeSet<u64> = missed.difference(&back).copied().collect();
    assert_eq!(
        told(world, &repo).await.is_empty(),
        left.is_empty(),
        "{what}"
    );
    assert_eq!(accept_all(world, &repo, what).await, left, "{what}");
    let stranger = open(world, &mem, None).await;
    for repo in [&repo, &stranger] {
        assert_eq!(told(world, repo).await, [""; 0], "{what}");
        assert_eq!(held(repo, &world.cx).await.unwrap().lost, [0; 0], "{what}");
    }
    assert!(
        accept_plan(&repo, &world.cx).await.unwrap().is_empty(),
        "{what}"
    );
    // What turns up again is welcome.
    if let Some(first) = left.first() {
        mem.plant(record(*first), whole.objects()[&record(*first)].clone());
        assert_eq!(told(world, &stranger).await, [""; 0], "{what}");
    }
    // And what is lost later is told.
    let objects = mem.objects();
    let records = objects
        .keys()
        .filter(|key| key.as_str().starts_with("ledger/"));
    let last = records.max().cloned().unwrap_or_else(|| record(1));
    let mut there =
        (1..=COUNT).filter(|n| !left.contains(n) && mem.objects().contains_key(&record(*n)));
    if let Some(next) = there.find(|n| record(*n) != last) {
        assert!(mem.lose(&record(next)));
        assert!(
            !told(world, &stranger).await.is_empty(),
            "{what}, then {next}"
        );
    }
}

/// More records are damaged than a check names one by one: they are accepted by and by, and as long as there is one of which
/// nobody has said that it is known, the ledger is not whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_lost_records_than_are_named_are_accepted_by_and_by() {
    let (world, mem, _) = ground().await;
    let repo = open(&world, &mem, None).await;
    let last = COUNT + MAX_FINDINGS as u64 + 9;
    for number in COUNT + 1..=last {
        mem.plant(record(number), b"damaged".to_vec());
    }
    for (round, is_more) in [true, false].into_iter().enumerate() {
        let check = verify_ledger(&repo, &world.cx).await.unwrap();
        assert!(!check.is_whole && !check.is_filled, "{round}");
        let told = serious(&check);
        let is_told = told.iter().any(|one| one.contains("more things are wrong"));
        assert_eq!(is_told, is_more, "{round}");
        let found = accept_plan(&repo, &world.cx).await.unwrap();
        assert!(!found.lost.is_empty(), "{round}");
        assert_eq!(found.left.len(), usize::from(is_more), "{round}");
        let done = accept(&repo, &world.cx, (&host(), "me"), found).await;
        assert!(!done.unwrap().records.is_empty(), "{round}");
    }
    let check = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(serious(&check), Vec::<String>::new());
    assert!(check.is_whole);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_went_another_way_is_shown_and_put_aside() {
    let (world, whole, lines) = ground().await;
    let all: BTreeSet<u64> = (1..=COUNT).collect();
    for (behind, saves) in [
        (1, false),
        (1, true),
        (2, false),
        (2, true),
        (4, false),
        (4, true),
    ] {
        let what = format!("{behind} records instead, saved {saves}");
        let mem = whole.fork();
        for number in 4..=COUNT {
            assert!(mem.lose(&record(number)));
        }
        let stranger = open(&world, &mem, None).await;
        for _ in 0..behind {
            add(&world, &stranger, note("prune", "")).await;
        }
        let state = tempfile::tempdir().unwrap();
        let repo = open(&world, &mem, Some(state.path())).await;
        remember(&repo, &lines, &all);
        if saves {
            add(&world, &repo, note("verify", "later")).await;
        }
        let before = mem.objects();
        assert!(!told(&world, &repo).await.is_empty(), "{what}");
        let job = RepairJob::new(&repo, host());
        let planned = plan(&repo, &world.cx, &job, &[]).await.unwrap();
        let of_ledger = planned
            .tasks
            .iter()
            .filter(|task| task.subject.starts_with("ledger/"));
        assert_eq!(of_ledger.count(), 0, "{what}");
        let found = accept_plan(&repo, &world.cx).await.unwrap();
        let other = found.other_way.as_ref().unwrap();
        assert_eq!((other.from, other.records), (4, 2), "{what}");
        assert_eq!(mem.objects(), before, "{what}: it only looks");
        let path = repo.ledger_copy().unwrap().path().to_owned();
        let old = fs::read(&path).unwrap();
        let done = accept(&repo, &world.cx, (&host(), "me"), found)
            .await
            .unwrap();
        let aside = done.aside.unwrap();
        assert!(
            aside.to_str().unwrap().ends_with("ledger.jsonl.old-1"),
            "{aside:?}"
        );
        assert_eq!(fs::read(&aside).unwrap(), old, "{what}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        for repo in [&repo, &stranger] {
            assert_eq!(told(&world, repo).await, [""; 0], "{what}");
        }
        add(&world, &repo, note("verify", "")).await;
        assert_eq!(told(&world, &repo).await, [""; 0], "{what}");
        // An older one that is kept is never overwritten.
        remember(&repo, &lines, &all);
        let found = accept_plan(&repo, &world.cx).await.unwrap();
        let done = accept(&repo, &world.cx, (&host(), "me"), found)
            .await
            .unwrap();
        assert!(done.aside.unwrap().ends_with("ledger.jsonl.old-2"));
        assert_eq!(fs::read(&aside).unwrap(), old, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_copy_that_is_put_aside_knows_is_shown() {
    let (world, whole, _) = ground().await;
    let mem = whole.fork();
    let state = tempfile::tempdir().unwrap();
    let repo = open(&world, &mem, Some(state.path())).await;
    let hold = LedgerDraft {
        snapshot: Some(SnapshotId(77)),
        ..note("hold", "audit")
    };
    add(&world, &repo, hold).await;
    assert!(mem.lose(&record(COUNT + 1)));
    let stranger = open(&world, &mem, None).await;
    add(&world, &stranger, note("prune", "")).await;
    let found = accept_plan(&repo, &world.cx).await.unwrap();
    let other = found.other_way.unwrap();
    let told: Vec<_> = other
        .told
        .iter()
        .map(|one| (one.op.as_str(), one.snapshot))
        .collect();
    assert_eq!(told, [("hold", Some(SnapshotId(77)))]);
}

/// A writer signs records of its host as whoever looks after the repository from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_key_accepts_nothing() {
    let (world, whole, _) = ground().await;
    let mem = whole.fork();
    assert!(mem.lose(&record(3)));
    let full = open(&world, &mem, None).await;
    let open_as = async |role: Role, mem: &MemSink| {
        let keys = full.keys().subset(role, Some(&host())).unwrap();
        let unlock = Unlock::KeyFile(KeyFile::Keys(Box::new(keys)));
        let sink = Arc::new(mem.clone());
        Repository::open(&world.cx, sink, &unlock, None, Operation::Prune)
            .await
            .unwrap()
    };
    let writer = open_as(Role::Writer, &mem).await;
    let maintenance = open_as(Role::Maintenance, &mem).await;
    for role in [Role::Writer, Role::Reader, Role::Verifier] {
        let repo = open_as(role, &mem).await;
        let refused = accept_plan(&repo, &world.cx).await;
        assert!(matches!(refused, Err(EngineError::Key(_))), "{role}");
    }
    // Elsewhere it was accepted, by a key that may; the writer tries the same words, and words without a seal.
    let elsewhere = mem.fork();
    let there = open(&world, &elsewhere, None).await;
    assert_eq!(accept_all(&world, &there, "elsewhere").await, [3].into());
    let all = backup_engine::ledger::records(&there, &world.cx)
        .await
        .unwrap();
    let all: Vec<_> = futures::TryStreamExt::try_collect(all).await.unwrap();
    let sealed = all
        .last()
        .unwrap()
        .record
        .as_ref()
        .unwrap()
        .note
        .clone()
        .unwrap();
    assert!(sealed.starts_with("lost 3 as "), "{sealed}");
    for words in ["lost 3", &sealed] {
        // Behind another record, so that it is no copy of the other.
        add(&world, &writer, note("verify", "")).await;
        add(&world, &writer, note("accept", words)).await;
        for who in [&full, &maintenance] {
            let told = told(&world, who).await;
            assert!(
                told.iter().any(|one| one.contains("record 3 is not there")),
                "{told:?}"
            );
            assert!(
                told.iter().any(|one| one.contains("a key that may say so")),
                "{told:?}"
            );
            assert_eq!(held(who, &world.cx).await.unwrap().lost, [3]);
        }
    }
    // Whoever may says so of all of it, with a maintenance key too.
    assert_eq!(
        accept_all(&world, &maintenance, "in the end").await.first(),
        Some(&3)
    );
    for who in [&full, &maintenance] {
        assert_eq!(told(&world, who).await, [""; 0]);
    }
}

/// Whoever found snapshots and not a single record left the place of the first one empty: no record belongs there, and it is
/// not said that a copy may have one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_was_begun_anew_has_no_first_record_to_be_put_back() {
    let world = World::with_snapshot().await;
    let (whole, mem) = (world.mem.fork(), world.mem.fork());
    for number in [1, 2] {
        assert!(mem.lose(&record(number)));
    }
    let stranger = open(&world, &mem, None).await;
    add(&world, &stranger, note("verify", "")).await;
    let there = mem.objects();
    assert!(!there.contains_key(&record(1)) && there.contains_key(&record(2)));
    let others = [open(&world, &whole, None).await];
    let job = RepairJob::new(&stranger, host());
    let planned = plan(&stranger, &world.cx, &job, &others).await.unwrap();
    assert!(planned.tasks.is_empty(), "{:?}", planned.tasks);
    let told: Vec<_> = planned.lost.iter().map(|one| one.to_string()).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("it was begun anew"), "{told:?}");
}

/// This host's copy went another way than the tier, and has a record behind the tier's end whose neighbours nobody has: that it
/// is its own does not make it fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_copy_that_went_another_way_has_alone_does_not_come_back() {
    let (world, whole, lines) = ground().await;
    let there: BTreeSet<u64> = (1..=COUNT).collect();
    let state = tempfile::tempdir().unwrap();
    let other = open(&world, &whole.fork(), Some(state.path())).await;
    remember(&other, &lines, &there);
    for _ in 0..3 {
        add(&world, &other, note("verify", "")).await;
    }
    let copy = fs::read_to_string(other.ledger_copy().unwrap().path()).unwrap();
    let lines: Vec<String> = copy.lines().map(str::to_owned).collect();
    assert_eq!(lines.len() as u64, COUNT + 3);
    for goes_other_way in [false, true] {
        let mem = whole.fork();
        if goes_other_way {
            add(&world, &open(&world, &mem, None).await, note("prune", "")).await;
        }
        let state = tempfile::tempdir().unwrap();
        let repo = open(&world, &mem, Some(state.path())).await;
        let own = there.iter().copied().chain([COUNT + 1, COUNT + 3]);
        remember(&repo, &lines, &own.collect());
        let job = RepairJob::new(&repo, host());
        let planned = plan(&repo, &world.cx, &job, &[]).await.unwrap();
        let tasks = planned.tasks.iter().map(|task| task.subject.clone());
        let back: Vec<_> = tasks.filter(|one| one.starts_with("ledger/")).collect();
        let wanted = match goes_other_way {
            false => vec![record(COUNT + 1).to_string(), record(COUNT + 3).to_string()],
            true => Vec::new(),
        };
        assert_eq!(back, wanted);
    }
}

/// A copy of the repository has a record under the number of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_under_another_number_is_not_taken_from_a_copy() {
    let (world, whole, _) = ground().await;
    let (mem, other) = (whole.fork(), whole.fork());
    let last = other.objects()[&record(4)].clone();
    for number in 2..=4 {
        assert!(mem.lose(&record(number)) && other.lose(&record(number)));
    }
    let repo = open(&world, &mem, None).await;
    for (number, wanted) in [(4, 1), (3, 0)] {
        let other = other.fork();
        other.plant(record(number), last.clone());
        let others = [open(&world, &other, None).await];
        let job = RepairJob::new(&repo, host());
        let planned = plan(&repo, &world.cx, &job, &others).await.unwrap();
        let tasks = planned.tasks.iter();
        let back = tasks.filter(|task| task.subject.starts_with("ledger/"));
        assert_eq!(back.count(), wanted, "{number}: {:?}", planned.tasks);
    }
}
