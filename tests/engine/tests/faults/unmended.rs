//! What a repair does where nothing mends, where somebody lies, and where the world goes on while it reads.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_core::{ByteRange, Finding, Sample, Severity, VerifyLevel};
use backup_engine::repair::{RepairJob, plan, repair};
use backup_engine::{Repository, forget_unread, verify};
use backup_format::index::RunBuilder;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_testkit::{Fault, FaultSink, Op, Rule};

use crate::repair::{flip, mend, of_kind, packs, world};
use crate::world::{Case, Memory, World, host};

/// Without parity and without another copy, a damaged pack is taken out of the way: what is whole of it is still read, and the
/// next save stores anew what its source still has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_builds_on_a_pack_that_cannot_be_mended() {
    let mut world = World::new().await.and_snapshot().await;
    world.keep_one_more().await;
    let count = packs(&world.case(Memory::Kept)).len();
    for number in 0..count {
        let case = world.case(Memory::Kept);
        let key = packs(&case).remove(number);
        let what = key.as_str();
        flip(&case, &key);
        let bytes = case.mem.objects()[&key].clone();
        let report = mend(&world, &case, &[]).await;
        assert!(report.mended.is_empty(), "{what}");
        assert!(
            report.findings.iter().any(|one| one.subject == what),
            "{what}"
        );
        let aside = layout::aside(&key).unwrap();
        assert!(case.mem.objects()[&aside] == bytes, "{what}");
        assert!(!case.mem.objects().contains_key(&key), "{what}");
        // It hurts no more than before.
        let before = {
            let case = world.case(Memory::Kept);
            flip(&case, &key);
            let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
            hurt(&world, &repo, VerifyLevel::FullRead).await
        };
        // The repair itself and a verification that reads no packs accuse no more entries than are lost.
        assert_eq!(of_snapshots(&report.findings), before, "{what}");
        for level in [VerifyLevel::FullRead, VerifyLevel::Metadata] {
            let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
            assert_eq!(hurt(&world, &repo, level).await, before, "{what} {level:?}");
        }
        // A further repair changes nothing.
        let there = case.mem.objects().len();
        assert!(!mend(&world, &case, &[]).await.findings.is_empty());
        assert_eq!(
            case.mem.objects().len(),
            there + 1,
            "{what}: but for the record"
        );
        // The source has not changed, and all of it is whole again.
        let repo = world
            .open(Arc::new(case.mem.clone()), case.cache())
            .await
            .unwrap();
        world.save(&repo).await.unwrap();
        let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let (mut heads, _) = repo.heads(&world.cx).await.unwrap();
        assert_eq!(heads.len(), 3);
        heads.drain(..2);
        let back = world.restore(&repo, heads[0].clone()).await;
        assert!(back == world.files(), "{what}");
        let level = VerifyLevel::FullRead;
        let done = verify(&repo, &world.cx, Some(heads), level, Sample::All).await;
        let mut findings = done.unwrap().report.findings;
        // What it found lost behind its back it may name beside what it has stored anew.
        findings.retain(|one| one.severity > Severity::Note);
        assert_eq!(findings, [], "{what}");
    }
}

/// What a verification says of snapshots, and of how many of their entries.
async fn hurt(world: &World, repo: &Repository, level: VerifyLevel) -> BTreeSet<(String, String)> {
    let done = verify(repo, &world.cx, None, level, Sample::All).await;
    of_snapshots(&done.unwrap().report.findings)
}

fn of_snapshots(findings: &[Finding]) -> BTreeSet<(String, String)> {
    let of_snapshots = findings
        .iter()
        .filter(|one| one.subject.starts_with("snapshot"));
    let counted = of_snapshots.map(|one| {
        // How many entries; or what is wrong, without what would mend it.
        let told = one.detail.split(" entries ").next().unwrap_or_default();
        let count = told.split("; `snapshot").next().unwrap_or_default();
        (one.subject.clone(), count.to_owned())
    });
    counted.collect()
}

/// An index run whose packs are not what they were when it was made: one has the bytes of another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_pack_is_indexed_by_what_another_one_says() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let whole = world.open(Arc::new(case.mem.fork()), None).await.unwrap();
    let data: Vec<_> = packs(&case)
        .into_iter()
        .filter(|key| key.as_str().starts_with("data/"))
        .collect();
    let objects = case.mem.objects();
    let (good, bad) = (&data[0], &data[1]);
    case.mem.plant(bad.clone(), objects[good].clone());
    case.mem.lose(&layout::parity(bad).unwrap());
    for key in of_kind(&case, layout::is_index) {
        flip(&case, &key);
    }
    let report = mend(&world, &case, &[]).await;
    assert!(!report.findings.is_empty());
    // The pack comes back, from a copy, and everything with it.
    let copies = [whole];
    let report = mend(&world, &case, &copies).await;
    assert_eq!(report.findings, []);
    world.check(&case, "mended").await;
}

/// What somebody who has a key says of a pack.
#[derive(Debug, Clone, Copy)]
enum Lie {
    /// That a chunk lies where another does.
    Offset,
    /// That it has fewer of them.
    Cut,
    /// That it is longer.
    Size,
    /// That it is longer, and nothing of what is in it.
    Empty,
}

/// What a run says that somebody made who has a key goes, however the index is kept in memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_false_run_says_of_whole_packs_goes() {
    let world = world().await;
    for lie in [Lie::Offset, Lie::Cut, Lie::Size, Lie::Empty] {
        for in_memory in [1 << 20, 0] {
            let what = format!("{lie:?}, {in_memory}");
            let case = world.case(Memory::Lost);
            let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
            let index = repo.index();
            let part = index.parts().iter().max_by_key(|part| part.len()).unwrap();
            let (number, mut pack) = part.packs().next().unwrap();
            let mut blobs: Vec<_> = part.iter().filter(|(_, at)| at.pack == number).collect();
            match lie {
                Lie::Offset => blobs[0].1.offset += 1,
                Lie::Cut => blobs.truncate(1),
                Lie::Size => pack.size += 1,
                Lie::Empty => {
                    pack.size += 1;
                    blobs.clear();
                }
            }
            let mut run = RunBuilder::default();
            run.add_known(pack, blobs);
            let sessions: Vec<_> = part.sessions().cloned().collect();
            let sealed = repo
                .ring()
                .seal(ObjectKind::IndexRun, &run.finish(&sessions))
                .unwrap();
            let key = layout::index(&sealed).unwrap();
            case.mem.plant(key.clone(), sealed);
            repo.keep_in_memory(in_memory);
            repo.reload_index(&world.cx).await.unwrap();
            let job = RepairJob::new(&repo, host());
            let planned = plan(&repo, &world.cx, &job, &[]).await.unwrap();
            let report = repair(&repo, &world.cx, planned, &job, &[]).await.unwrap();
            assert_eq!(report.findings, [], "{what}");
            assert_eq!(report.mended.len(), 1, "{what}: {:?}", report.mended);
            assert!(!case.mem.objects().contains_key(&key), "{what}");
            world.check(&case, &what).await;
            let report = mend(&world, &case, &[]).await;
            assert_eq!((report.mended, report.findings), (vec![], vec![]));
        }
    }
}

/// The first copy that is named is rotten too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_copy_is_asked_until_one_gives_the_pack_whole() {
    let world = World::new().await.and_snapshot().await;
    let case = world.case(Memory::Lost);
    let key = packs(&case).remove(0);
    let other = case.mem.fork();
    flip(&case, &key);
    let rotten = case.mem.fork();
    for order in [[&rotten, &other], [&other, &rotten]] {
        let case = world.case(Memory::Lost);
        flip(&case, &key);
        let mut copies = Vec::new();
        for one in order {
            copies.push(world.open(Arc::new(one.clone()), None).await.unwrap());
        }
        let report = mend(&world, &case, &copies).await;
        assert_eq!(report.findings, []);
        world.check(&case, "mended").await;
    }
    // One that rots between the plan and the repair.
    let case = world.case(Memory::Lost);
    flip(&case, &key);
    let (one, two) = (case.mem.fork(), case.mem.fork());
    for copy in [&one, &two] {
        copy.plant(key.clone(), other.objects()[&key].clone());
    }
    let mut copies = Vec::new();
    for copy in [&one, &two] {
        copies.push(world.open(Arc::new(copy.clone()), None).await.unwrap());
    }
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let job = RepairJob::new(&repo, host());
    let planned = plan(&repo, &world.cx, &job, &copies).await.unwrap();
    one.damage(&key, |bytes| bytes[7] ^= 1);
    let report = repair(&repo, &world.cx, planned, &job, &copies)
        .await
        .unwrap();
    assert_eq!(report.findings, []);
    world.check(&case, "mended").await;
}

/// The same of a single object: the number of the copy that has it is that of the one it is fetched from.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_copy_is_asked_until_one_gives_an_object_as_it_should_be() {
    let world = world().await;
    let ground = world.case(Memory::Lost);
    let whole = ground.mem.fork();
    let key = of_kind(&ground, |key| layout::snapshot_id(key).is_some()).remove(0);
    flip(&ground, &key);
    for key in of_kind(&ground, |key| key.as_str().starts_with("parity/snap/")) {
        assert!(ground.mem.lose(&key));
    }
    let rotten = ground.mem.fork();
    for order in [[&rotten, &whole], [&whole, &rotten]] {
        let case = Case::of(ground.mem.fork());
        let mut copies = Vec::new();
        for one in order {
            copies.push(world.open(Arc::new(one.clone()), None).await.unwrap());
        }
        let report = mend(&world, &case, &copies).await;
        assert_eq!(report.findings, []);
        world.check(&case, "fetched").await;
    }
}

/// Damaged refs go for the sake of those that were made anew: not on the word of a tier that says that it has them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refs_go_only_for_those_that_the_tier_gives_back() {
    let world = world().await;
    for fault in [Fault::Drop, Fault::Shorten] {
        let case = world.case(Memory::Lost);
        let refs = of_kind(&case, |key| layout::refs_id(key).is_some()).remove(0);
        flip(&case, &refs);
        let sink = FaultSink::new(Arc::new(case.mem.clone()), 7);
        let sink = sink.with(Rule::new(fault.clone()).on(&[Op::Put]).under("refs/"));
        let repo = world.open(Arc::new(sink), None).await.unwrap();
        let job = RepairJob::new(&repo, host());
        let planned = plan(&repo, &world.cx, &job, &[]).await.unwrap();
        let report = repair(&repo, &world.cx, planned, &job, &[]).await.unwrap();
        assert!(report.mended.is_empty(), "{fault:?}: {report:?}");
        assert!(!report.findings.is_empty(), "{fault:?}");
        assert!(case.mem.objects().contains_key(&refs), "{fault:?}");
        let report = mend(&world, &case, &[]).await;
        assert_eq!(report.findings, [], "{fault:?}");
        world.check(&case, "mended").await;
    }
}

/// What is forgotten or removed between the plan and the repair stays so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_taken_away_since_the_plan_does_not_come_back() {
    let world = world().await;
    let case = world.case(Memory::Lost);
    let whole = case.mem.fork();
    let snapshots = of_kind(&case, |key| layout::snapshot_id(key).is_some());
    let (damaged, gone) = (&snapshots[0], &snapshots[1]);
    flip(&case, damaged);
    assert!(case.mem.lose(gone));
    for key in of_kind(&case, |key| key.as_str().starts_with("parity/snap/")) {
        assert!(case.mem.lose(&key));
    }
    let copies = [world.open(Arc::new(whole), None).await.unwrap()];
    let repo = world.open(Arc::new(case.mem.clone()), None).await.unwrap();
    let job = RepairJob {
        parity: None,
        ..RepairJob::new(&repo, host())
    };
    let planned = plan(&repo, &world.cx, &job, &copies).await.unwrap();
    assert_eq!(planned.tasks.len(), 2);
    // One is forgotten as a damaged one is, the other was put back and forgotten.
    let (_, unread) = repo.heads(&world.cx).await.unwrap();
    let id = unread[0].id;
    let done = forget_unread(&repo, &world.cx, &unread[0], &host(), "me").await;
    assert_eq!(done.unwrap(), []);
    let back = copies[0].sink().clone();
    let bytes = back.get(&world.cx, gone, ByteRange::Full).await.unwrap();
    case.mem.plant(gone.clone(), bytes);
    let mut report = repair(&repo, &world.cx, planned, &job, &copies)
        .await
        .unwrap();
    assert_eq!(report.mended, []);
    // The one that is back has no sidecar.
    report.findings.retain(|one| one.subject != "parity/");
    assert_eq!(report.findings, []);
    assert!(!case.mem.objects().contains_key(damaged));
    let refs = layout::refs(id).unwrap();
    assert!(!case.mem.objects().contains_key(&refs));
}
