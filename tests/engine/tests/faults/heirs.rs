//! Packs that no snapshot names, and that are needed all the same: they hold what a lost pack held, or a save that is under way
//! has made them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use backup_core::{Finding, ObjectKey, Sample, Severity, VerifyLevel};
use backup_engine::prune::{self, PruneReport};
use backup_engine::{ForgetPlan, Repository, forget, verify};
use backup_format::collect::PackList;
use backup_format::index::RunBuilder;
use backup_format::layout;
use backup_format::pack::{FOOTER, PackBuilder, PackHeader, header_length, read_tail};
use backup_format::seal::ObjectKind;
use backup_testkit::Crash;

use crate::operations::thorough;
use crate::repair::{flip, mend, named, of_kind, packs};
use crate::world::{Case, Memory, World, host, noise, read};

async fn open(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

async fn prune_it(world: &World, case: &Case) -> (String, PruneReport) {
    let repo = open(world, case).await;
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let told = format!("{:?}", plan.findings);
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    (told, done.unwrap())
}

async fn forget_one(world: &World, case: &Case, number: usize) {
    let repo = open(world, case).await;
    let head = repo.heads(&world.cx).await.unwrap().0.remove(number);
    let going = ForgetPlan::by_id(vec![head.meta]);
    let done = forget(&repo, &world.cx, &going, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
}

fn below(case: &Case, folder: &str) -> BTreeSet<ObjectKey> {
    let packs = packs(case).into_iter();
    packs
        .filter(|key| key.as_str().starts_with(folder))
        .collect()
}

/// A snapshot whose pack of content is lost, and one of other files behind it; the pack in which a save between the two,
/// forgotten since, has stored anew what was in the lost one. One of the two chunks in it is damaged.
async fn ground() -> (World, Case, ObjectKey) {
    let mut world = World::empty_with_parity(None).await;
    world.write("first", &noise(1, 300_000));
    world.write("second", &noise(2, 500_000));
    world.keep_one_more().await;
    let case = world.case(Memory::Lost);
    let lost = below(&case, "data/");
    for key in &lost {
        assert!(case.mem.lose(key));
    }
    world.save(&open(&world, &case).await).await.unwrap();
    let anew = below(&case, "data/");
    assert!(lost.is_disjoint(&anew));
    world.remove("first");
    world.remove("second");
    world.write("third", &noise(3, 200_000));
    world.save(&open(&world, &case).await).await.unwrap();
    world.saved.push(world.files());
    forget_one(&world, &case, 1).await;
    let [heir] = anew.into_iter().collect::<Vec<_>>().try_into().unwrap();
    // Which of the two comes first is up to the threads that seal them.
    let repo = open(&world, &case).await;
    let tail = tail_of(&repo, &case.mem.objects()[&heir]);
    let larger = tail.blobs.iter().max_by_key(|blob| blob.raw).unwrap();
    let at = (larger.offset + larger.stored / 2) as usize;
    assert!(case.mem.damage(&heir, |bytes| bytes[at] ^= 1));
    (world, case, heir)
}

/// What is whole of the lost pack's content comes back.
async fn first_is_whole(world: &World, case: &Case, what: &str) {
    let repo = open(world, case).await;
    let head = repo.heads(&world.cx).await.unwrap().0.remove(0);
    let out = tempfile::tempdir().unwrap();
    let done = world
        .try_to_restore(&repo, &world.cx, head, out.path())
        .await;
    let findings = done.unwrap().report.findings;
    assert_eq!(findings.len(), 1, "{what}: {findings:?}");
    let back = read(out.path());
    let first = Path::new("first");
    assert!(back.get(first) == world.saved[0].get(first), "{what}");
}

fn tail_of(repo: &Repository, bytes: &[u8]) -> PackHeader {
    let length = header_length(&bytes[bytes.len() - FOOTER..]).unwrap();
    read_tail(repo.ring(), &bytes[bytes.len() - FOOTER - length..]).unwrap()
}

/// Lays what is in a pack into another one, as a save does that finds it missing.
fn lay_anew(case: &Case, repo: &Repository, key: &ObjectKey) -> ObjectKey {
    let bytes = case.mem.objects()[key].clone();
    let tail = tail_of(repo, &bytes);
    let mut pack = PackBuilder::new(0);
    for blob in tail.blobs.iter().rev() {
        let at = blob.offset as usize;
        let sealed = &bytes[at..at + blob.stored as usize];
        pack.push(blob.kind, blob.id, blob.raw as usize, sealed);
    }
    let pack = pack.finish(repo.ring(), &tail.sessions).unwrap();
    let mut run = RunBuilder::default();
    let size = pack.bytes.len() as u64;
    run.add_pack(pack.id, size, &pack.blobs).unwrap();
    let plain = run.finish(&tail.sessions);
    let run = repo.ring().seal(ObjectKind::IndexRun, &plain).unwrap();
    let at = layout::pack(pack.id, key.as_str().starts_with("meta/")).unwrap();
    case.mem.plant(at.clone(), pack.bytes);
    case.mem.plant(layout::index(&run).unwrap(), run);
    at
}

fn severity_of(findings: &[Finding], key: &ObjectKey) -> Option<Severity> {
    let of_key = findings.iter().filter(|one| one.subject == key.as_str());
    of_key.map(|one| one.severity).max()
}

/// Whoever may write to the tier calls a pack dead.
async fn call_dead(world: &World, case: &Case, key: &ObjectKey) {
    let list = PackList {
        generation: 7,
        packs: [layout::pack_id(key).unwrap()].into(),
    };
    let repo = open(world, case).await;
    for (at, kind) in [
        (layout::condemned(7), ObjectKind::Condemned),
        (layout::dead(7), ObjectKind::Dead),
    ] {
        let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
        case.mem.plant(at.unwrap(), sealed);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_pack_that_holds_what_a_lost_one_held_is_kept_where_it_was_set_aside() {
    let (world, case, heir) = ground().await;
    first_is_whole(&world, &case, "before").await;
    // A prune that comes first leaves it where it is.
    let case_of_prune = Case::of(case.mem.fork());
    let _ = prune_it(&world, &case_of_prune).await;
    assert!(case_of_prune.mem.objects().contains_key(&heir));
    let report = mend(&world, &case, &[]).await;
    assert_eq!(severity_of(&report.findings, &heir), Some(Severity::Error));
    let aside = layout::aside(&heir).unwrap();
    assert!(case.mem.objects().contains_key(&aside));
    assert!(!case.mem.objects().contains_key(&heir));
    first_is_whole(&world, &case, "set aside").await;
    for is_dead in [false, true] {
        let what = format!("called dead: {is_dead}");
        let case = Case::of(case.mem.fork());
        if is_dead {
            call_dead(&world, &case, &heir).await;
        }
        let generations = of_kind(&case, |key| layout::condemned_number(key).is_some());
        for round in 0..2 {
            let (told, _) = prune_it(&world, &case).await;
            assert!(is_dead || told.contains("all that is left"), "{told}");
            assert!(case.mem.objects().contains_key(&aside), "{what}");
            first_is_whole(&world, &case, &what).await;
            mend(&world, &case, &[]).await;
            assert!(case.mem.objects().contains_key(&aside), "{what}");
            // It is not condemned over and over.
            let now = of_kind(&case, |key| layout::condemned_number(key).is_some());
            assert!(now.len() <= generations.len() + 1, "{what}: round {round}");
        }
        // Once nobody needs the lost pack, it goes.
        forget_one(&world, &case, 0).await;
        for _ in 0..2 {
            let _ = prune_it(&world, &case).await;
        }
        assert_eq!(of_kind(&case, |key| layout::aside_of(key).is_some()), []);
        let left = mend(&world, &case, &[]).await.findings;
        assert!(left.iter().all(|one| one.severity == Severity::Note));
    }
}

/// Where no index run tells what the lost pack held, any pack that was set aside may have it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_set_aside_stays_where_nobody_knows_what_a_lost_pack_held() {
    let (world, case, heir) = ground().await;
    mend(&world, &case, &[]).await;
    let aside = layout::aside(&heir).unwrap();
    let of_heir = layout::pack_id(&heir).unwrap();
    let lost: BTreeSet<_> = world
        .mem
        .objects()
        .into_keys()
        .filter_map(|key| layout::pack_id(&key))
        .collect();
    let mut gone = 0;
    for key in of_kind(&case, layout::is_index) {
        let alone = case.mem.fork();
        for other in of_kind(&case, |other| layout::is_index(other) && *other != key) {
            assert!(alone.lose(&other));
        }
        let known = open(&world, &Case::of(alone)).await.index().packs();
        if known.keys().any(|id| lost.contains(id)) {
            assert!(!known.contains_key(&of_heir));
            assert!(case.mem.lose(&key));
            gone += 1;
        }
    }
    assert!(gone > 0);
    let (told, _) = prune_it(&world, &case).await;
    assert!(told.contains("nothing is deleted"), "{told}");
    assert!(case.mem.objects().contains_key(&aside));
}

/// Of pages a verification says it too: what was set aside is no mere note as long as a lost pack was stored in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_a_lost_pack_that_were_set_aside_are_kept_and_missed() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Lost);
    let lost = below(&case, "meta/").pop_first().unwrap();
    let heir = lay_anew(&case, &open(&world, &case).await, &lost);
    assert!(case.mem.lose(&lost));
    world.check_restores(&case, "laid anew").await;
    flip(&case, &heir);
    let report = mend(&world, &case, &[]).await;
    assert_eq!(severity_of(&report.findings, &heir), Some(Severity::Error));
    let _ = prune_it(&world, &case).await;
    let aside = layout::aside(&heir).unwrap();
    assert!(case.mem.objects().contains_key(&aside));
    let repo = open(&world, &case).await;
    let level = VerifyLevel::Metadata;
    let done = verify(&repo, &world.cx, None, level, Sample::All).await;
    let findings = done.unwrap().report.findings;
    assert_eq!(severity_of(&findings, &heir), Some(Severity::Error));
}

/// A prune of this host has decided that a pack is garbage, and was killed before it could delete it; since then the pack is
/// lost for whose sake it was garbage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_this_host_has_decided_is_not_carried_out_where_it_is_all_that_is_left_by_now() {
    let world = World::with_snapshot().await;
    // Before the first deletion it knows that the decision is its own; right behind the decision it does not yet.
    for crash in [Crash::Before, Crash::After] {
        let mut tried = 0;
        for k in 1.. {
            let case = world.case(Memory::Kept);
            let lost = below(&case, "data/").pop_first().unwrap();
            let heir = lay_anew(&case, &open(&world, &case).await, &lost);
            let sink = case.faulty();
            sink.crash_at(k, crash);
            let repo = world.open(Arc::new(sink.clone()), case.cache()).await;
            let repo = repo.unwrap();
            let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
            let _ = prune::prune(&repo, &world.cx, plan, &thorough()).await;
            let there = case.mem.objects();
            if !there.contains_key(&heir) {
                break;
            }
            tried += u64::from(there.contains_key(&layout::dead(0).unwrap()));
            assert!(case.mem.lose(&lost));
            let mem = Arc::new(case.mem.clone());
            let repo = world.open(mem, case.cache()).await.unwrap();
            let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
            let _ = prune::prune(&repo, &world.cx, plan, &thorough()).await;
            let what = format!("{crash:?} change {k}");
            assert!(case.mem.objects().contains_key(&heir), "{what}");
            world.check_restores(&case, &what).await;
        }
        assert!(tried > 0, "{crash:?}");
    }
}

/// That a pack was to be deleted was decided before another was lost, or is a lie.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_before_a_pack_was_lost_is_not_carried_out_where_it_is_all_that_is_left() {
    let (world, case, heir) = ground().await;
    call_dead(&world, &case, &heir).await;
    let _ = prune_it(&world, &case).await;
    assert!(case.mem.objects().contains_key(&heir));
    first_is_whole(&world, &case, "called dead").await;
}

/// The index knows it, and no refs name it yet: of a save that is under way that is not garbage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_packs_of_a_save_that_is_under_way_are_no_garbage() {
    let world = World::with_snapshot().await;
    let mut found = None;
    for k in 1.. {
        let case = world.case(Memory::Lost);
        let sink = case.faulty();
        sink.crash_at(k, Crash::After);
        let saved = world.try_to_save(&case, &sink).await;
        assert!(saved.is_err(), "no run was there before refs");
        let repo = open(&world, &case).await;
        let named = named(&case, &repo).into_values().flatten();
        let named: BTreeSet<_> = named.map(|(id, _)| id).collect();
        let known = repo.index().packs().into_iter();
        let mut new = known.filter(|(id, facts)| !named.contains(id) && !facts.is_meta);
        if let Some((id, _)) = new.next() {
            found = Some((case, layout::pack(id, false).unwrap()));
            break;
        }
    }
    let (case, key) = found.unwrap();
    flip(&case, &key);
    let is_session = |key: &ObjectKey| layout::session_id(key).is_some();
    let is_end = |key: &ObjectKey| layout::session_done_id(key).is_some();
    for is_open in [true, false] {
        let case = Case::of(case.mem.fork());
        if !is_open {
            // As if somebody had seen that it is over.
            let done: Vec<_> = of_kind(&case, is_end)
                .iter()
                .filter_map(layout::session_done_id)
                .collect();
            let open = of_kind(&case, is_session).into_iter();
            let open = open.filter(|key| !done.contains(&layout::session_id(key).unwrap()));
            let open: Vec<_> = open.collect();
            assert_eq!(open.len(), 1);
            assert!(case.mem.lose(&open[0]));
        }
        let report = mend(&world, &case, &[]).await;
        let (wanted, text) = match is_open {
            true => (Severity::Warning, "that is open has made it"),
            false => (Severity::Note, "no snapshot needs it"),
        };
        assert_eq!(severity_of(&report.findings, &key), Some(wanted));
        let told = report.findings.iter().any(|one| one.detail.contains(text));
        assert!(told, "{:?}", report.findings);
        // What is whole of it can be read as long as that save may come to need it.
        assert!(
            case.mem
                .objects()
                .contains_key(&layout::aside(&key).unwrap())
        );
    }
}
