//! Readers whose index is older than the packs: what they look for was put into another pack, and the
//! one that they know was deleted.

use std::sync::Arc;

use backup_core::{ErrorKind, FindingKind, PackId, Retry, Sample, Severity, VerifyLevel};
use backup_engine::repository::SnapshotHead;
use backup_engine::view::ContentReader;
use backup_engine::{Repository, SnapshotView, verify};
use backup_format::collect::PackList;
use backup_format::index::RunBuilder;
use backup_format::layout;
use backup_format::pack::{FOOTER, PackBuilder, header_length, read_tail};
use backup_format::seal::ObjectKind;
use backup_testkit::{Fault, Op, RecordingSink, Rule, When};

use crate::repair::named;
use crate::world::{Case, Memory, World};

/// What of the old pack is still to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trace {
    /// The run that names it.
    Run,
    /// Nothing: its run was merged away.
    Nothing,
}

/// Puts the blobs of every pack into another one and deletes it; as a repacker, a collector and a merger would.
fn move_all(case: &Case, repo: &Repository, trace: Trace) {
    let (mut moved, mut runs) = (Vec::new(), Vec::new());
    for key in case.mem.objects().into_keys().filter(layout::is_index) {
        runs.push(key);
    }
    for (pack, facts) in repo.index().packs() {
        let key = layout::pack(pack, facts.is_meta).unwrap();
        let bytes = case.mem.objects()[&key].clone();
        let length = header_length(&bytes[bytes.len() - FOOTER..]).unwrap();
        let tail = &bytes[bytes.len() - FOOTER - length..];
        let tail = read_tail(repo.ring(), tail).unwrap();
        let mut copy = PackBuilder::new(0);
        // In another order, so that nothing is where it was.
        for blob in tail.blobs.iter().rev() {
            let at = blob.offset as usize;
            let sealed = &bytes[at..at + blob.stored as usize];
            copy.push(blob.kind, blob.id, blob.raw as usize, sealed);
        }
        let copy = copy.finish(repo.ring(), &tail.sessions).unwrap();
        let mut run = RunBuilder::default();
        let size = copy.bytes.len() as u64;
        run.add_pack(copy.id, size, &copy.blobs).unwrap();
        let plain = run.finish(&tail.sessions);
        let run = repo.ring().seal(ObjectKind::IndexRun, &plain).unwrap();
        case.mem
            .plant(layout::pack(copy.id, facts.is_meta).unwrap(), copy.bytes);
        case.mem.plant(layout::index(&run).unwrap(), run);
        assert!(case.mem.lose(&key));
        moved.push(pack);
    }
    let list = PackList {
        generation: 0,
        packs: moved.into_iter().collect(),
    };
    for (key, kind) in [
        (layout::condemned(0), ObjectKind::Condemned),
        (layout::dead(0), ObjectKind::Dead),
    ] {
        let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
        case.mem.plant(key.unwrap(), sealed);
    }
    if trace == Trace::Nothing {
        assert!(runs.iter().all(|run| case.mem.lose(run)));
    }
}

/// A repository that is open since before, with its newest snapshot.
async fn stale(world: &World, case: &Case) -> (Repository, SnapshotHead) {
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let head = repo.heads(&world.cx).await.unwrap().0.pop().unwrap();
    (repo, head)
}

async fn world() -> World {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_find_what_was_put_into_other_packs() {
    let world = world().await;
    for trace in [Trace::Run, Trace::Nothing] {
        // One that opens it behind that may still see two places of each chunk.
        for is_open in [true, false] {
            let what = format!("{trace:?}, open before: {is_open}");
            let case = world.case(Memory::Lost);
            let (mut repo, head) = stale(&world, &case).await;
            move_all(&case, &repo, trace);
            if !is_open {
                repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
            }
            let back = world.restore(&repo, head.clone()).await;
            assert!(back == world.files(), "{what}");
        }
    }
}

/// Blob by blob, as a mount or a listing reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_walk_over_a_snapshot_goes_on_where_its_pages_are_now() {
    let world = world().await;
    for trace in [Trace::Run, Trace::Nothing] {
        let case = world.case(Memory::Lost);
        let (repo, head) = stale(&world, &case).await;
        move_all(&case, &repo, trace);
        let view = SnapshotView::open(&repo, head).unwrap();
        let (mut walk, mut bytes) = (view.all(), 0);
        while let Some(entry) = walk.next(&world.cx).await.unwrap() {
            let extents = view.extents(&world.cx, &entry.record).await.unwrap();
            let mut content = ContentReader::new(&repo, extents);
            while let Some(part) = content.next(&world.cx).await.unwrap() {
                bytes += part.len();
            }
        }
        let wanted: usize = world.files().values().map(Vec::len).sum();
        assert_eq!(bytes, wanted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verification_takes_what_was_collected_for_no_damage() {
    let world = world().await;
    for trace in [Trace::Run, Trace::Nothing] {
        for level in [
            VerifyLevel::Metadata,
            VerifyLevel::Checksum,
            VerifyLevel::FullRead,
        ] {
            let case = world.case(Memory::Lost);
            let (repo, _) = stale(&world, &case).await;
            move_all(&case, &repo, trace);
            let done = verify(&repo, &world.cx, None, level, Sample::All).await;
            let mut findings = done.unwrap().report.findings;
            // The refs were left as they are.
            findings
                .retain(|one| one.severity > Severity::Note && !one.subject.starts_with("refs/"));
            assert_eq!(findings, [], "{trace:?}, {level:?}");
        }
    }
}

/// Whoever takes packs away cannot hide that by calling them dead, not even from who reads no manifest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_called_dead_and_used_is_missed_by_a_verification() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let (repo, _) = stale(&world, &case).await;
    let packs = repo.index().packs().into_iter();
    let packs = packs.filter(|(_, facts)| !facts.is_meta).map(|(id, _)| id);
    let list = PackList {
        generation: 0,
        packs: packs.collect(),
    };
    for pack in &list.packs {
        assert!(case.mem.lose(&layout::pack(*pack, false).unwrap()));
    }
    let sealed = repo.ring().seal(ObjectKind::Dead, &list.encode()).unwrap();
    case.mem.plant(layout::dead(0).unwrap(), sealed);
    let level = VerifyLevel::Metadata;
    let done = verify(&repo, &world.cx, None, level, Sample::All).await;
    let findings = done.unwrap().report.findings;
    let told = findings
        .iter()
        .filter(|one| one.kind == FindingKind::Missing);
    let told: Vec<_> = told.map(|one| one.subject.as_str()).collect();
    for pack in &list.packs {
        let key = layout::pack(*pack, false).unwrap();
        assert!(told.contains(&key.as_str()), "{key}: {findings:?}");
    }
}

/// However many chunks are lost, the index is read again a few times, as long as nothing is decided.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_nowhere_is_given_up() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let calls = RecordingSink::new(Arc::new(case.mem.clone()));
    let repo = world.open(Arc::new(calls.clone()), None).await.unwrap();
    let head = repo.heads(&world.cx).await.unwrap().0.pop().unwrap();
    let data = repo
        .index()
        .packs()
        .into_iter()
        .filter(|(_, facts)| !facts.is_meta);
    let data: Vec<PackId> = data.map(|(id, _)| id).collect();
    for pack in data {
        assert!(case.mem.lose(&layout::pack(pack, false).unwrap()));
    }
    calls.forget();
    let out = tempfile::tempdir().unwrap();
    let done = world
        .try_to_restore(&repo, &world.cx, head, out.path())
        .await;
    let findings = done.unwrap().report.findings;
    assert!(findings.len() > 50, "{} findings", findings.len());
    assert!(findings.iter().all(|one| one.kind == FindingKind::Missing));
    assert_eq!(calls.count_under(Op::List, "index/"), 6);
}

/// A tier that is gone says nothing of what it held.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_does_not_answer_is_no_loss() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let sink = case.faulty();
    let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
    let head = repo.heads(&world.cx).await.unwrap().0.pop().unwrap();
    let pages = repo
        .index()
        .packs()
        .into_iter()
        .filter(|(_, facts)| facts.is_meta);
    for (pack, _) in pages.collect::<Vec<_>>() {
        assert!(case.mem.lose(&layout::pack(pack, true).unwrap()));
    }
    let down = Fault::Fail(ErrorKind::Unavailable, Retry::Never);
    let _sink = sink.with(Rule::new(down).on(&[Op::List]).under("gc/"));
    let view = SnapshotView::open(&repo, head).unwrap();
    let ended = view.all().next(&world.cx).await.unwrap_err();
    assert!(!ended.is_damage(), "{ended}");
}

/// A prune replaces refs while a verification reads them: that some are gone says nothing of what they named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_is_needed_and_gone_is_no_note_while_refs_are_replaced() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let named = named(&case, &repo);
    // One that the newest snapshot alone names.
    let [first, second] = named.values().collect::<Vec<_>>()[..] else {
        panic!("{named:?}");
    };
    let mut own = second.keys().filter(|id| !first.contains_key(*id));
    let data = |id: &&PackId| !repo.index().packs()[*id].is_meta;
    let key = layout::pack(*own.find(data).unwrap(), false).unwrap();
    assert!(case.mem.lose(&key));
    let (mut nth, mut is_over) = (1, false);
    while !is_over {
        let sink = case.faulty();
        let repo = world.open(Arc::new(sink.clone()), None).await.unwrap();
        let gone = Fault::Fail(ErrorKind::NotFound, Retry::Never);
        let rule = Rule::new(gone).on(&[Op::Get]).under("refs/");
        sink.add(rule.when(When::Nth(nth)));
        let level = VerifyLevel::Metadata;
        let done = verify(&repo, &world.cx, None, level, Sample::All).await;
        let findings = done.unwrap().report.findings;
        let told = findings.iter().find(|one| one.subject == key.as_str());
        let severity = told.map(|one| one.severity);
        assert_eq!(severity, Some(Severity::Error), "{nth}: {findings:?}");
        is_over = sink.injected().is_empty();
        nth += 1;
    }
    assert!(nth > 4, "{nth}");
}
