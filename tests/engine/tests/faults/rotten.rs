//! What sessions and collectors of garbage tell each other, rotten on a tier of which there is no other copy: nobody
//! builds on what may be dead, everything goes on, and a prune or a repair puts right what is in their places.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backup_core::{Finding, ObjectKey, PackId, Sample, SessionId, Severity, VerifyLevel};
use backup_engine::prune::{self, PruneReport};
use backup_engine::repair::{Remedy, RepairJob, RepairReport, plan, repair};
use backup_engine::{ForgetPlan, Repository, forget, verify};
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::layout;
use backup_format::refs::Refs;
use backup_format::seal::ObjectKind;
use backup_format::session::Session;

use crate::operations::thorough;
use crate::repair::mend;
use crate::world::{Case, Memory, World, host};

async fn reader(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Flipped,
    Cut,
    Empty,
}

const HARMS: [Harm; 3] = [Harm::Flipped, Harm::Cut, Harm::Empty];

fn harm(case: &Case, key: &ObjectKey, harm: Harm) {
    let did = case.mem.damage(key, |bytes| match harm {
        Harm::Flipped => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
        }
        Harm::Cut => bytes.truncate(bytes.len() / 2),
        Harm::Empty => bytes.clear(),
    });
    assert!(did, "{key}");
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

/// Two snapshots, and one that was forgotten, whose packs were collected by generation 0.
async fn collected() -> World {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    world.write("new", &crate::world::noise(77, 1_300_000));
    world.keep_one_more().await;
    let repo = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let oldest = repo.heads(&world.cx).await.unwrap().0.remove(0);
    let going = ForgetPlan::by_id(vec![oldest.meta]);
    let done = forget(&repo, &world.cx, &going, &host(), "me").await;
    assert_eq!(done.unwrap().removed, 1);
    world.forget_oldest();
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    assert!(done.unwrap().deleted_packs > 0);
    world
}

/// The number of the next generation.
fn next(world: &World) -> u32 {
    let objects = world.mem.objects();
    let numbers = objects.keys().filter_map(layout::condemned_number);
    numbers.max().unwrap() + 1
}

async fn prune_it(world: &World, case: &Case) -> (Vec<Finding>, PruneReport) {
    let repo = reader(world, case).await;
    let plan = prune::plan(&repo, &world.cx, &thorough()).await.unwrap();
    let told = plan.findings.clone();
    let done = prune::prune(&repo, &world.cx, plan, &thorough()).await;
    (told, done.unwrap())
}

/// What a verification finds, notes left out.
async fn left(world: &World, case: &Case) -> Vec<Finding> {
    let repo = reader(world, case).await;
    let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All).await;
    let mut findings = done.unwrap().report.findings;
    findings.retain(|finding| finding.severity > Severity::Note);
    findings
}

async fn is_well(world: &World, case: &Case, what: &str) {
    assert_eq!(left(world, case).await, [], "{what}");
    let (told, done) = prune_it(world, case).await;
    assert_eq!((told, done.findings), (vec![], vec![]), "{what}");
    world.make_good(case, what).await;
}

fn list(case: &Case, repo: &Repository, name: &str) -> PackList {
    let kind = match name.ends_with(".done") {
        true => ObjectKind::Dead,
        false => ObjectKind::Condemned,
    };
    let sealed = &case.mem.objects()[&key(name)];
    PackList::decode(&repo.ring().open(kind, sealed).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_that_rots_is_made_anew_and_stops_nobody() {
    let world = collected().await;
    let done = key("gc/0.done");
    for how in HARMS {
        let what = format!("{how:?}");
        let case = world.case(Memory::Lost);
        let repo = reader(&world, &case).await;
        let dead = list(&case, &repo, "gc/0.done").packs;
        assert!(!dead.is_empty());
        harm(&case, &done, how);
        // Who saves says it, and builds on nothing that was condemned.
        let saved = world.save(&reader(&world, &case).await).await.unwrap();
        let told: Vec<_> = saved.findings.iter().map(|one| &*one.subject).collect();
        assert_eq!(told, ["gc/0.done"], "{what}");
        assert!(saved.findings[0].detail.contains("snapshot prune"));
        // A repair goes on, and leaves it to a prune.
        let mended = mend(&world, &case, &[]).await;
        let told: Vec<_> = mended.findings.iter().map(|one| &*one.subject).collect();
        assert_eq!(told, ["gc/0.done"], "{what}");
        assert!(mended.findings[0].detail.contains("snapshot prune"));
        let (told, _) = prune_it(&world, &case).await;
        let told: Vec<_> = told.iter().map(|one| &*one.subject).collect();
        assert_eq!(told, ["gc/0.done"], "{what}");
        // All that was dead is dead still.
        let now = list(&case, &repo, "gc/0.done").packs;
        assert!(dead.is_subset(&now), "{what}");
        let next = format!("gc/{}.done", next(&world));
        assert!(dead.is_subset(&list(&case, &repo, &next).packs));
        world_is_well(&world, &case, &what).await;
    }
}

/// The same where one more was saved meanwhile.
async fn world_is_well(world: &World, case: &Case, what: &str) {
    assert_eq!(left(world, case).await, [], "{what}");
    let (told, done) = prune_it(world, case).await;
    assert_eq!((told, done.findings), (vec![], vec![]), "{what}");
    let saved = world.save(&reader(world, case).await).await.unwrap();
    assert_eq!(saved.findings, [], "{what}");
}

/// What the decision left alone may have been named since it was there: so whoever is at work is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_rots_is_decided_anew_behind_all_who_are_at_work() {
    let world = collected().await;
    let case = world.case(Memory::Kept);
    let repo = world.open(Arc::new(case.mem.clone()), case.cache());
    let repo = repo.await.unwrap();
    // This host has seen the generation while it was open, and remembers that nobody was at work then.
    let open = SessionId::from_parts(1, [7; 10]);
    let announced = Session {
        id: open,
        host: host(),
        started_ms: 1,
        wrapped_dek: Vec::new(),
    };
    let sealed = announced.encode().unwrap();
    let sealed = repo.ring().seal(ObjectKind::Session, &sealed).unwrap();
    harm(&case, &key("gc/0.done"), Harm::Flipped);
    let rotten = case.mem.objects()[&key("gc/0.done")].clone();
    case.mem.plant(layout::session(open).unwrap(), sealed);
    let patient = prune::PruneJob {
        patience: std::time::Duration::from_secs(86_400),
        ..thorough()
    };
    let plan = prune::plan(&repo, &world.cx, &patient).await.unwrap();
    let done = prune::prune(&repo, &world.cx, plan, &patient)
        .await
        .unwrap();
    assert_eq!(done.waits_for.len(), 1, "{done:?}");
    assert_eq!(case.mem.objects()[&key("gc/0.done")], rotten);
    // It ends, and then it is decided.
    let mark = SessionMark { session: open }.encode();
    let sealed = repo.ring().seal(ObjectKind::SessionDone, &mark).unwrap();
    case.mem.plant(layout::session_done(open).unwrap(), sealed);
    let _ = prune_it(&world, &case).await;
    list(&case, &repo, "gc/0.done");
    is_well(&world, &case, "behind a session").await;
}

fn used_by(case: &Case, repo: &Repository) -> BTreeMap<String, BTreeSet<PackId>> {
    let mut out: BTreeMap<String, BTreeSet<PackId>> = BTreeMap::new();
    for (key, sealed) in case.mem.objects() {
        if let Some((snapshot, _)) = layout::refs_id(&key) {
            let plain = repo.ring().open(ObjectKind::Refs, &sealed).unwrap();
            let refs = Refs::decode(&plain).unwrap();
            let packs = refs.packs.iter().map(|pack| pack.pack);
            out.entry(snapshot.to_string()).or_default().extend(packs);
        }
    }
    out
}

/// The index may name what is dead: whoever saves must not believe it, whatever became of the decision.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_builds_on_nothing_that_a_rotten_decision_may_call_dead() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Kept);
    let repo = reader(&world, &case).await;
    let packs: BTreeSet<PackId> = repo.index().packs().into_keys().collect();
    let condemned = PackList {
        generation: 0,
        packs: packs.clone(),
    };
    let sealed = repo.ring().seal(ObjectKind::Condemned, &condemned.encode());
    case.mem.plant(key("gc/0"), sealed.unwrap());
    case.mem.plant(key("gc/0.done"), b"".to_vec());
    let saved = world
        .save(
            &world
                .open(Arc::new(case.mem.clone()), case.cache())
                .await
                .unwrap(),
        )
        .await
        .unwrap();
    let used = used_by(&case, &repo).remove(&saved.meta.id.to_string());
    assert!(used.unwrap().is_disjoint(&packs));
}

/// Nobody knows what it condemned: nothing of it may be deleted any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_condemned_and_rots_before_it_is_decided_is_let_go() {
    let world = collected().await;
    let condemned = layout::condemned(next(&world)).unwrap();
    for how in HARMS {
        for by_prune in [false, true] {
            let what = format!("{how:?}, {by_prune}");
            let case = world.case(Memory::Lost);
            let repo = reader(&world, &case).await;
            let some = PackList {
                generation: next(&world),
                packs: repo.index().packs().into_keys().take(1).collect(),
            };
            let sealed = repo.ring().seal(ObjectKind::Condemned, &some.encode());
            case.mem.plant(condemned.clone(), sealed.unwrap());
            harm(&case, &condemned, how);
            let refused = world.save(&reader(&world, &case).await).await.unwrap_err();
            let told = refused.to_string();
            assert!(
                refused.is_damage() && told.contains(condemned.as_str()),
                "{told}"
            );
            assert!(told.contains("`snapshot repair`"), "{told}");
            if by_prune {
                let (told, _) = prune_it(&world, &case).await;
                assert!(
                    told.iter().any(|one| one.subject == condemned.as_str()),
                    "{told:?}"
                );
            } else {
                let mended = mend(&world, &case, &[]).await;
                assert_eq!(mended.findings, [], "{what}");
                let told: Vec<_> = mended.mended.iter().map(|one| &*one.subject).collect();
                assert_eq!(told, [condemned.as_str()], "{what}");
            }
            // Whoever was about to decide it finds that nothing is dead.
            assert!(
                list(&case, &repo, &format!("{condemned}.done"))
                    .packs
                    .is_empty(),
                "{what}"
            );
            is_well(&world, &case, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_generation_of_which_nothing_can_be_read_is_written_anew() {
    let world = collected().await;
    for (is_gone, by_repair) in [(false, false), (false, true), (true, false), (true, true)] {
        let what = format!("{is_gone}, {by_repair}");
        let case = world.case(Memory::Lost);
        let repo = reader(&world, &case).await;
        let dead = list(&case, &repo, "gc/0.done").packs;
        harm(&case, &key("gc/0.done"), Harm::Flipped);
        match is_gone {
            true => drop(case.mem.lose(&key("gc/0"))),
            false => harm(&case, &key("gc/0"), Harm::Empty),
        }
        // A dead pack that is there still, of which the index may tell again.
        let stray = layout::pack(*dead.iter().next().unwrap(), false).unwrap();
        case.mem.plant(stray.clone(), b"dead".to_vec());
        let refused = world.save(&reader(&world, &case).await).await.unwrap_err();
        assert!(refused.is_damage(), "{refused}");
        if by_repair {
            let mended = mend(&world, &case, &[]).await;
            assert!(mended.mended.iter().any(|one| one.subject == "gc/0"));
            assert!(
                list(&case, &repo, "gc/0")
                    .packs
                    .contains(dead.first().unwrap())
            );
            let saved = world.save(&reader(&world, &case).await).await;
            assert_eq!(saved.unwrap().findings.len(), 1, "{what}");
        }
        let _ = prune_it(&world, &case).await;
        assert!(!case.mem.objects().contains_key(&stray));
        let now = list(&case, &repo, "gc/0.done").packs;
        assert!(now.contains(dead.first().unwrap()), "{what}");
        world_is_well(&world, &case, &what).await;
    }
}

/// It was decided: nobody asks what it condemned, unless the decision rots one day.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_condemned_and_decided_is_written_anew_from_the_decision() {
    let world = collected().await;
    let case = world.case(Memory::Lost);
    let repo = reader(&world, &case).await;
    harm(&case, &key("gc/0"), Harm::Flipped);
    let mended = mend(&world, &case, &[]).await;
    assert_eq!(mended.findings, []);
    assert_eq!(
        list(&case, &repo, "gc/0").packs,
        list(&case, &repo, "gc/0.done").packs
    );
    is_well(&world, &case, "decided").await;
}

fn seal_mark(repo: &Repository, kind: ObjectKind, session: SessionId) -> Vec<u8> {
    repo.ring()
        .seal(kind, &SessionMark { session }.encode())
        .unwrap()
}

/// The last snapshot with its session.
async fn newest(world: &World, case: &Case) -> (backup_core::SnapshotId, SessionId) {
    let repo = reader(world, case).await;
    let heads = repo.heads(&world.cx).await.unwrap().0;
    let head = heads.last().unwrap();
    (head.meta.id, SessionId::from_bytes(head.outer.session))
}

async fn dry(world: &World, case: &Case) -> usize {
    let repo = reader(world, case).await;
    let job = RepairJob::new(&repo, host());
    let plan = plan(&repo, &world.cx, &job, &[]).await.unwrap();
    plan.tasks.len()
}

async fn mended_by(world: &World, case: &Case, what: &str, by: Remedy) -> RepairReport {
    let before = case.mem.objects();
    assert_eq!(dry(world, case).await, 1, "{what}");
    assert!(before == case.mem.objects(), "{what}: a plan only reads");
    let repo = reader(world, case).await;
    let job = RepairJob::new(&repo, host());
    let plan = plan(&repo, &world.cx, &job, &[]).await.unwrap();
    let done = repair(&repo, &world.cx, plan, &job, &[]).await.unwrap();
    assert_eq!(done.findings, [], "{what}");
    let told: Vec<_> = done
        .mended
        .iter()
        .map(|one| (&*one.subject, &one.remedy))
        .collect();
    assert_eq!(told, [(what, &by)]);
    done
}

/// A revocation counts by being there, and stays for as long as there is a verdict.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_that_rots_is_sealed_anew() {
    let world = World::with_snapshot().await;
    for how in HARMS {
        let case = world.case(Memory::Kept);
        let repo = reader(&world, &case).await;
        let (id, session) = newest(&world, &case).await;
        let revoked = layout::session_revoked(session).unwrap();
        let kind = ObjectKind::SessionRevoked;
        case.mem
            .plant(revoked.clone(), seal_mark(&repo, kind, session));
        harm(&case, &revoked, how);
        assert_eq!(left(&world, &case).await.len(), 1);
        let _ = mended_by(&world, &case, revoked.as_str(), Remedy::Name).await;
        let sealed = &case.mem.objects()[&revoked];
        let plain = repo.ring().open(kind, sealed).unwrap();
        assert_eq!(SessionMark::decode(&plain).unwrap().session, session);
        assert_eq!(newest(&world, &case).await.0, id);
        is_well(&world, &case, "revoked").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_session_that_rots_is_sealed_anew_once_the_session_is_gone() {
    let world = World::with_snapshot().await;
    for how in HARMS {
        let case = world.case(Memory::Kept);
        let repo = reader(&world, &case).await;
        let (id, session) = newest(&world, &case).await;
        let done = layout::session_done(session).unwrap();
        let announced = layout::session(session).unwrap();
        harm(&case, &done, how);
        // It may be somebody else's word that a writer has come to its end: it stays open.
        assert!(case.mem.objects().contains_key(&announced));
        let told = mend(&world, &case, &[]).await.findings;
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].detail.contains("snapshot prune"), "{told:?}");
        // A prune takes it for dead; its snapshot stays, by the verdict, and both are gone.
        let (_, report) = prune_it(&world, &case).await;
        assert_eq!(report.revoked, [session]);
        let objects = case.mem.objects();
        assert!(!objects.contains_key(&done) && !objects.contains_key(&announced));
        assert_eq!(newest(&world, &case).await.0, id);
        is_well(&world, &case, "taken for dead").await;
        // Where the session is gone, it was done.
        let case = world.case(Memory::Kept);
        case.mem.lose(&announced);
        harm(&case, &done, how);
        let _ = mended_by(&world, &case, done.as_str(), Remedy::Name).await;
        assert!(
            repo.ring()
                .open(ObjectKind::SessionDone, &case.mem.objects()[&done])
                .is_ok()
        );
        is_well(&world, &case, "sealed anew").await;
    }
}

fn plant_verdict(
    case: &Case,
    repo: &Repository,
    session: SessionId,
    ids: &[backup_core::SnapshotId],
) {
    let snapshots = ids.iter().copied().collect();
    let verdict = Verdict { session, snapshots }.encode();
    let sealed = repo.ring().seal(ObjectKind::Verdict, &verdict).unwrap();
    case.mem.plant(layout::verdict(session).unwrap(), sealed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_that_rots_is_decided_anew_by_the_ledger() {
    let world = World::with_snapshot().await;
    for how in HARMS {
        let case = world.case(Memory::Lost);
        let repo = reader(&world, &case).await;
        let (id, session) = newest(&world, &case).await;
        let verdict = layout::verdict(session).unwrap();
        plant_verdict(&case, &repo, session, &[id]);
        harm(&case, &verdict, how);
        // Its session came to its end: there need be none.
        let _ = mended_by(&world, &case, verdict.as_str(), Remedy::Name).await;
        assert!(!case.mem.objects().contains_key(&verdict));
        // It was taken for dead.
        case.mem.lose(&layout::session_done(session).unwrap());
        let revoked = layout::session_revoked(session).unwrap();
        let kind = ObjectKind::SessionRevoked;
        case.mem.plant(revoked, seal_mark(&repo, kind, session));
        plant_verdict(&case, &repo, session, &[id]);
        harm(&case, &verdict, how);
        assert!(
            prune::plan(&reader(&world, &case).await, &world.cx, &thorough())
                .await
                .is_err()
        );
        let _ = mended_by(&world, &case, verdict.as_str(), Remedy::Ledger).await;
        assert_eq!(newest(&world, &case).await.0, id);
        is_well(&world, &case, "decided anew").await;
    }
}

/// A verdict may have left it out: nobody knows, so nobody decides it but who knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_verdict_on_a_snapshot_that_nobody_recorded_is_left_to_people() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Lost);
    let repo = reader(&world, &case).await;
    let (id, session) = newest(&world, &case).await;
    let records: Vec<_> = case.mem.objects().into_keys().collect();
    for record in records
        .iter()
        .filter(|key| key.as_str().starts_with("ledger/"))
    {
        case.mem.lose(record);
    }
    case.mem.lose(&layout::session_done(session).unwrap());
    plant_verdict(&case, &repo, session, &[id]);
    let verdict = layout::verdict(session).unwrap();
    harm(&case, &verdict, Harm::Flipped);
    let rotten = case.mem.objects()[&verdict].clone();
    let told = mend(&world, &case, &[]).await.findings;
    let about = told.iter().find(|one| one.subject == verdict.as_str());
    let hint = format!("`snapshot forget {id}`");
    assert!(about.unwrap().detail.contains(&hint), "{told:?}");
    assert_eq!(case.mem.objects()[&verdict], rotten);
}
