//! What a writer may build on while garbage is being collected, and what its end says to a collector.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use backup_core::{
    ErrorKind, Finding, ObjectKey, PackId, Retry, Sample, SessionId, Severity, VerifyLevel,
};
use backup_engine::repository::SnapshotHead;
use backup_engine::{EngineError, Repository, verify};
use backup_format::collect::{PackList, SessionMark};
use backup_format::layout;
use backup_format::refs::Refs;
use backup_format::seal::ObjectKind;
use backup_testkit::{Fault, Op, Rule};

use crate::world::{Case, Memory, World, noise};

/// What becomes of the packs of generation 0 while a writer is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decided {
    /// It is not decided yet; behind the writer they are dead.
    Later,
    /// They are dead, and gone, and the index still names them.
    Dead,
    /// They stay.
    Alive,
    /// Nobody decided anything: they are gone.
    Lost,
    /// And these were cut off.
    Cut,
}

async fn reader(world: &World, case: &Case) -> Repository {
    world.open(Arc::new(case.mem.clone()), None).await.unwrap()
}

/// Puts a list of packs below `gc/`.
fn plant(case: &Case, repo: &Repository, kind: ObjectKind, packs: &BTreeSet<PackId>) {
    let list = PackList {
        generation: 0,
        packs: packs.clone(),
    };
    let key = match kind {
        ObjectKind::Dead => layout::dead(0),
        _ => layout::condemned(0),
    };
    let sealed = repo.ring().seal(kind, &list.encode()).unwrap();
    case.mem.plant(key.unwrap(), sealed);
}

fn delete(case: &Case, packs: &BTreeSet<PackId>) {
    for pack in packs {
        let lost =
            [false, true].map(|is_meta| case.mem.lose(&layout::pack(*pack, is_meta).unwrap()));
        assert_ne!(lost, [false; 2], "{pack} was there");
    }
}

/// Takes half of each of these packs away.
fn cut(case: &Case, packs: &BTreeSet<PackId>) {
    for pack in packs {
        let halve = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
        let cut = [false, true].map(|is_meta| {
            case.mem
                .damage(&layout::pack(*pack, is_meta).unwrap(), halve)
        });
        assert_ne!(cut, [false; 2], "{pack} was there");
    }
}

/// The packs that the refs of a snapshot name.
fn named(case: &Case, repo: &Repository, head: &SnapshotHead) -> BTreeSet<PackId> {
    let sealed = &case.mem.objects()[&layout::refs(head.meta.id).unwrap()];
    let plain = repo.ring().open(ObjectKind::Refs, sealed).unwrap();
    let refs = Refs::decode(&plain).unwrap();
    refs.packs.iter().map(|pack| pack.pack).collect()
}

/// Three snapshots of small files in bundles and of large ones with lineages, one of them in so many
/// ranges that they are spilled; and files that were changed, moved, and left alone since.
async fn world() -> World {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    let mut dump = noise(1000, 2 << 20);
    for edit in 0..30 {
        let at = edit * (64 << 10);
        dump.splice(at..at + 8, *b"editeded");
    }
    world.write("dump", &dump);
    world.keep_one_more().await;
    dump.splice(1_000_000..1_000_000, *b"inserted");
    world.write("dump", &dump);
    world.write("below/3", &noise(3000, 4000));
    world.write("moved", &noise(40, 40 * 40 * 9));
    world
}

/// Saves while these packs are condemned, dead or lost; behind it the snapshot is whole without them.
async fn save_without(world: &World, memory: Memory, packs: &BTreeSet<PackId>, decided: Decided) {
    let what = format!("{memory:?}, {decided:?}, {packs:?}");
    let case = world.case(memory);
    let repo = reader(world, &case).await;
    let is_harmed = [Decided::Lost, Decided::Cut].contains(&decided);
    if !is_harmed {
        plant(&case, &repo, ObjectKind::Condemned, packs);
    }
    match decided {
        Decided::Lost => delete(&case, packs),
        Decided::Cut => cut(&case, packs),
        Decided::Later => {}
        Decided::Dead => {
            plant(&case, &repo, ObjectKind::Dead, packs);
            delete(&case, packs);
        }
        Decided::Alive => plant(&case, &repo, ObjectKind::Dead, &BTreeSet::new()),
    }
    let writer = world.open(Arc::new(case.mem.clone()), case.cache());
    let saved = world.save(&writer.await.unwrap()).await;
    let saved = saved.unwrap_or_else(|error| panic!("{what}: {error}"));
    if is_harmed {
        // Each of them is named, or counted.
        let told: String = saved
            .findings
            .iter()
            .map(|one| one.subject.clone())
            .collect();
        let unnamed = packs.iter().filter(|id| !told.contains(&id.to_string()));
        assert_eq!(
            unnamed.count(),
            packs.len().saturating_sub(20),
            "{what}: {told}"
        );
        let is_error = |finding: &Finding| finding.severity == Severity::Error;
        assert!(saved.findings.iter().all(is_error), "{what}");
        assert_eq!(
            saved.meta.findings, 0,
            "{what}: the snapshot itself is whole"
        );
    } else {
        assert_eq!(saved.findings, [], "{what}");
    }
    let repo = reader(world, &case).await;
    let heads = repo.heads(&world.cx).await.unwrap().0;
    let head = heads.last().unwrap();
    assert_eq!(head.meta.id, saved.meta.id, "{what}");
    let named = named(&case, &repo, head);
    if decided == Decided::Alive {
        assert!(!named.is_disjoint(packs), "{what}: nothing was used again");
        assert!(
            saved.meta.stats.bytes_new < 1 << 20,
            "{what}: {:?}",
            saved.meta.stats
        );
        return;
    }
    assert!(
        named.is_disjoint(packs),
        "{what}: it names what may be gone"
    );
    if decided == Decided::Later {
        plant(&case, &repo, ObjectKind::Dead, packs);
        delete(&case, packs);
    }
    let repo = reader(world, &case).await;
    let back = world.restore(&repo, head.clone()).await;
    assert!(back == world.files(), "{what}: it is not what was saved");
    let only = Some(vec![head.clone()]);
    let done = verify(&repo, &world.cx, only, VerifyLevel::FullRead, Sample::All).await;
    let mut findings = done.unwrap().report.findings;
    findings.retain(|finding| finding.severity > Severity::Note);
    assert_eq!(findings, [], "{what}");
}

async fn packs_of(world: &World) -> BTreeSet<PackId> {
    let repo = reader(world, &world.case(Memory::Lost)).await;
    repo.index().packs().into_keys().collect()
}

/// Each pack by itself, so that files are avoided in part, and all of them.
async fn without_each(world: &World, memory: Memory, decided: Decided) {
    let packs = packs_of(world).await;
    assert!(packs.len() >= 6, "{packs:?}");
    for pack in &packs {
        save_without(world, memory, &[*pack].into(), decided).await;
    }
    save_without(world, memory, &packs, decided).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_names_nothing_that_is_condemned() {
    let mut world = world().await;
    for memory in [Memory::Kept, Memory::Lost] {
        without_each(&world, memory, Decided::Later).await;
    }
    // Every file is read and looked for among those of the last run.
    world.job.reread = true;
    without_each(&world, Memory::Kept, Decided::Later).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_names_nothing_that_is_dead_whatever_the_index_says() {
    let world = world().await;
    for memory in [Memory::Kept, Memory::Lost] {
        without_each(&world, memory, Decided::Dead).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_builds_on_nothing_that_is_lost_and_says_what_is() {
    let mut world = world().await;
    for memory in [Memory::Kept, Memory::Lost] {
        without_each(&world, memory, Decided::Lost).await;
    }
    world.job.reread = true;
    without_each(&world, Memory::Kept, Decided::Lost).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pack_that_was_cut_off_is_as_one_that_is_lost() {
    let world = world().await;
    without_each(&world, Memory::Kept, Decided::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_condemned_and_is_not_dead_is_used_again() {
    let world = world().await;
    let packs = packs_of(&world).await;
    for memory in [Memory::Kept, Memory::Lost] {
        save_without(&world, memory, &packs, Decided::Alive).await;
    }
}

/// Where somebody takes one away by hand, or an older copy takes the place of the repository, a number comes again with
/// something else in it: what a host knows of it from before is not what counts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_comes_again_is_read_again() {
    let world = World::with_snapshot().await;
    let packs = packs_of(&world).await;
    // As many, so that what says it has the same size.
    let other = |seed| PackId(noise(seed, 32).try_into().unwrap());
    let others: BTreeSet<PackId> = (1..).map(other).take(packs.len()).collect();
    for kind in [ObjectKind::Condemned, ObjectKind::Dead] {
        for is_older_copy in [false, true] {
            let what = format!("{kind:?}, {is_older_copy}");
            let case = world.case(Memory::Kept);
            let older = world.case(Memory::Kept);
            let repo = reader(&world, &case).await;
            let put = |case: &Case, packs: &BTreeSet<PackId>| {
                plant(case, &repo, ObjectKind::Condemned, packs);
                if kind == ObjectKind::Dead {
                    plant(case, &repo, kind, packs);
                }
            };
            put(&case, &others);
            let host = |case: &Case, cache| world.open(Arc::new(case.mem.clone()), cache);
            let first = world.save(&host(&case, case.cache()).await.unwrap()).await;
            let first = first.unwrap();
            assert_eq!(first.findings, [], "{what}");
            // The same host, with all that it has in its cache.
            let now = if is_older_copy { &older } else { &case };
            put(now, &packs);
            let saved = world.save(&host(now, case.cache()).await.unwrap()).await;
            let saved = saved.unwrap();
            let heads = reader(&world, now).await.heads(&world.cx).await.unwrap().0;
            let head = heads.iter().find(|head| head.meta.id == saved.meta.id);
            let named = named(now, &repo, head.unwrap());
            assert!(named.is_disjoint(&packs), "{what}");
        }
    }
}

/// Whoever cannot tell what is about to be deleted builds on nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_cannot_read_what_is_condemned_stops() {
    let world = World::with_snapshot().await;
    let repo = reader(&world, &world.case(Memory::Lost)).await;
    let list = |generation, packs: &[u8]| PackList {
        generation,
        packs: packs.iter().map(|byte| PackId([*byte; 32])).collect(),
    };
    let sealed = |kind, list: PackList| repo.ring().seal(kind, &list.encode()).unwrap();
    let condemned = ObjectKind::Condemned;
    let right = sealed(condemned, list(0, &[1]));
    let mut damaged = right.clone();
    damaged[30] ^= 1;
    for (name, bytes) in [
        ("gc/0", b"nothing of ours".to_vec()),
        ("gc/0", damaged),
        ("gc/0", right[..20].to_vec()),
        ("gc/0", sealed(condemned, list(1, &[1]))),
        ("gc/0.done", right.clone()),
    ] {
        let case = world.case(Memory::Kept);
        case.mem.plant(ObjectKey::new(name).unwrap(), bytes);
        let ended = world.try_to_save(&case, &case.faulty()).await;
        let error = ended.unwrap_err();
        assert!(error.is_damage(), "{error}");
        let told = error.to_string();
        assert!(
            told.starts_with(name) && told.contains("`snapshot repair`"),
            "{told}"
        );
        assert_eq!(
            open_sessions(&case, &repo).len(),
            0,
            "its session has ended"
        );
    }
    // What the format does not name, it does not know to be of a collection.
    let case = world.case(Memory::Kept);
    for name in ["gc/000000000001", "gc/x", "gc/1.word", "gc/1/2"] {
        case.mem
            .plant(ObjectKey::new(name).unwrap(), b"later".to_vec());
    }
    case.mem.plant(layout::condemned(0).unwrap(), right);
    world.try_to_save(&case, &case.faulty()).await.unwrap();
}

/// The sessions that have no end, those whose end does not open among them.
fn open_sessions(case: &Case, repo: &Repository) -> Vec<SessionId> {
    let objects = case.mem.objects();
    let is_done = |id: &SessionId| {
        let sealed = objects.get(&layout::session_done(*id).unwrap())?;
        let plain = repo.ring().open(ObjectKind::SessionDone, sealed).ok()?;
        (SessionMark::decode(&plain).ok()?.session == *id).then_some(())
    };
    let sessions = objects.keys().filter_map(layout::session_id);
    sessions.filter(|id| is_done(id).is_none()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_nothing_can_come_of_it_any_more_and_not_before() {
    let world = World::with_snapshot().await;
    let repo = reader(&world, &world.case(Memory::Lost)).await;
    let failing = |prefix: &str, fault: Fault| {
        let case = world.case(Memory::Kept);
        let rule = Rule::new(fault).on(&[Op::Put]).under(prefix);
        let sink = case.faulty().with(rule);
        (case, sink)
    };
    let case = world.case(Memory::Kept);
    world.try_to_save(&case, &case.faulty()).await.unwrap();
    assert_eq!(open_sessions(&case, &repo), []);

    let full = || Fault::Fail(ErrorKind::NoSpace, Retry::Never);
    for prefix in ["data/", "meta/", "index/", "refs/"] {
        let (case, sink) = failing(prefix, full());
        world.try_to_save(&case, &sink).await.unwrap_err();
        assert_eq!(open_sessions(&case, &repo), [], "{prefix}");
    }
    // Whether it was made, or is made yet, nobody knows.
    for fault in [Fault::LoseAnswer, Fault::outage(), full()] {
        let (case, sink) = failing("snap/", fault.clone());
        let ended = world.try_to_save(&case, &sink).await;
        // An answer that was lost is found out, and then it is known.
        let open = usize::from(ended.is_err());
        assert_eq!(open_sessions(&case, &repo).len(), open, "{fault:?}");
    }
    // One that hears nothing any more cannot tell it.
    let (case, sink) = failing("", Fault::outage());
    sink.calm();
    let sink = sink.with(Rule::new(Fault::outage()).on(&[Op::Put]).under("index/"));
    let sink = sink.with(
        Rule::new(Fault::outage())
            .on(&[Op::Put])
            .under("sessions/")
            .when(backup_testkit::When::From(2)),
    );
    let ended = world.try_to_save(&case, &sink).await;
    assert!(matches!(ended, Err(EngineError::Sink(_))), "{ended:?}");
    assert_eq!(open_sessions(&case, &repo).len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_called_off_ends_its_session() {
    let world = World::with_snapshot().await;
    let repo = reader(&world, &world.case(Memory::Lost)).await;
    let case = world.case(Memory::Kept);
    let mut cx = world.cx.clone();
    cx.cancel = backup_core::CancellationToken::new();
    cx.observer = Arc::new(CallingOff(cx.cancel.clone()));
    let writer = world.open(Arc::new(case.mem.clone()), case.cache());
    let ended = world.save_in(&cx, &writer.await.unwrap()).await;
    assert!(matches!(ended, Err(EngineError::Cancelled)), "{ended:?}");
    assert_eq!(open_sessions(&case, &repo), []);
}

#[derive(Debug)]
struct CallingOff(backup_core::CancellationToken);

impl backup_core::Observer for CallingOff {
    fn on(&self, event: backup_core::Event<'_>) {
        if matches!(event, backup_core::Event::Advanced { .. }) {
            self.0.cancel();
        }
    }
}

/// Marks, verdicts and lists that are not what their names say are told of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_beside_sessions_is_told() {
    let world = World::with_snapshot().await;
    let case = world.case(Memory::Lost);
    let repo = reader(&world, &case).await;
    let session = case
        .mem
        .objects()
        .keys()
        .find_map(layout::session_id)
        .unwrap();
    let other = SessionMark {
        session: SessionId(7),
    }
    .encode();
    let other = |kind| repo.ring().seal(kind, &other).unwrap();
    let done = layout::session_done(session).unwrap();
    let forged: BTreeMap<ObjectKey, Vec<u8>> = [
        (done.clone(), b"done\n".to_vec()),
        (
            layout::session_done(SessionId(8)).unwrap(),
            other(ObjectKind::SessionDone),
        ),
        (
            layout::session_revoked(session).unwrap(),
            other(ObjectKind::SessionDone),
        ),
        (layout::verdict(SessionId(9)).unwrap(), b"void".to_vec()),
        (layout::dead(3).unwrap(), b"all".to_vec()),
    ]
    .into();
    let told = async |case: &Case| {
        let repo = reader(&world, case).await;
        let done = verify(&repo, &world.cx, None, VerifyLevel::Metadata, Sample::All);
        let findings = done.await.unwrap().report.findings.into_iter();
        findings
            .map(|finding| finding.subject)
            .collect::<BTreeSet<_>>()
    };
    assert_eq!(told(&case).await, BTreeSet::new());
    for (key, bytes) in &forged {
        case.mem.plant(key.clone(), bytes.clone());
    }
    let keys = forged.keys().map(ToString::to_string).collect();
    assert_eq!(told(&case).await, keys);
}
