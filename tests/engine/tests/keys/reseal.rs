//! Sealing anew behind a rotation: what older keys then open of what was stored before it, while others save, and
//! killed at any change.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    EntryPath, HostId, RestoreMode, Sample, Severity, Sink, SnapshotId, VerifyLevel,
};
use backup_engine::ledger::verify_ledger;
use backup_engine::prune::{PruneJob, PruneReport, plan, prune};
use backup_engine::rotate::Rotation;
use backup_engine::{
    EngineError, Repository, RestoreJob, Result, SnapshotView, Unlock, restore, verify,
};
use backup_format::keys::{KeyError, KeyFile, KeySet, Role};
use backup_source_files::{FilesTarget, FilesTargetConfig};
use backup_testkit::{Crash, FaultSink, MemSink};

use crate::attack::attack;
use crate::world::{SECRET_NAME, SECRET_TEXT, World, by, host, secret_slot, subset};

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn read(folder: &Path) -> Files {
    let mut out = Files::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                out.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

/// All snapshots as they come back with these keys.
async fn restored(world: &World, keys: &KeySet) -> BTreeMap<SnapshotId, Files> {
    let repo = world.open(keys).await.unwrap();
    let (heads, unread) = repo.heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{unread:?}");
    let mut out = BTreeMap::new();
    for head in heads {
        let id = head.meta.id;
        let view = SnapshotView::open(&repo, head).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let target = FilesTarget::new(FilesTargetConfig {
            sync: false,
            ..FilesTargetConfig::of_folder(folder.path())
        });
        let below = world.tree();
        let below = EntryPath::from_slashed(below.as_os_str().as_encoded_bytes()).unwrap();
        let job = RestoreJob {
            component: 0,
            strip: below.clone(),
            below,
            filter: None,
            salvage: None,
            mode: RestoreMode::Files,
            folder: Some(folder.path().to_owned()),
            host: host(),
            user: "me".into(),
        };
        let done = restore(&view, &world.cx, Arc::new(target), &job).await;
        assert_eq!(done.unwrap().report.findings, []);
        out.insert(id, read(folder.path()));
    }
    out
}

async fn is_whole(world: &World, keys: &KeySet, what: &str) {
    let repo = world.open(keys).await.unwrap();
    let done = verify(&repo, &world.cx, None, VerifyLevel::FullRead, Sample::All).await;
    let mut findings = done.unwrap().report.findings;
    findings.extend(verify_ledger(&repo, &world.cx).await.unwrap().findings);
    findings.retain(|finding| finding.severity > Severity::Note);
    assert_eq!(findings, [], "{what}");
}

/// A repository with two snapshots, whose keys were rotated; gives the new full keys.
async fn rotated() -> (World, KeySet) {
    let world = World::new().await;
    world.write("second", &b"of the first generation too, ".repeat(40_000));
    world.save(&world.full).await.unwrap();
    let repo = world.open(&world.full).await.unwrap();
    let rotation = Rotation::prepare(&repo, &world.cx).await.unwrap();
    let (slot, _) = secret_slot(rotation.keys());
    let slots = [&slot];
    let by_host = host();
    let done = rotation.carry_out(&repo, &world.cx, by(&by_host), &slots);
    done.await.unwrap();
    let keys = rotation.keys().clone();
    (world, keys)
}

fn job() -> PruneJob {
    PruneJob {
        reseal: true,
        wait: Duration::from_secs(1),
        max_drop: 1.0,
        ..PruneJob::new(host())
    }
}

/// The same on a tier of somebody's choosing.
async fn open_at(world: &World, keys: &KeySet, sink: Arc<dyn Sink>) -> Result<Repository> {
    let keys = KeyFile::Keys(Box::new(keys.clone()));
    world.open_at(sink, Unlock::KeyFile(keys)).await
}

async fn reseal_at(world: &World, keys: &KeySet, sink: Arc<dyn Sink>) -> Result<PruneReport> {
    let repo = open_at(world, keys, sink).await?;
    let plan = plan(&repo, &world.cx, &job()).await?;
    prune(&repo, &world.cx, plan, &job()).await
}

async fn reseal(world: &World, keys: &KeySet) -> PruneReport {
    let report = reseal_at(world, keys, Arc::new(world.mem.clone())).await;
    report.unwrap()
}

/// How many packs older generations can read.
async fn older(world: &World, keys: &KeySet) -> u64 {
    let repo = world.open(keys).await.unwrap();
    let plan = plan(&repo, &world.cx, &job()).await.unwrap();
    plan.numbers.older_packs
}

/// Whoever holds older keys, and all that is on the tier, opens what snapshot objects themselves hold, and nothing
/// else.
fn is_closed(world: &World, keys: &KeySet, snapshots: usize, what: &str) {
    let loot = attack(world, keys);
    assert_eq!(loot.data.len(), 0, "{what}");
    assert_eq!(loot.pages.len(), snapshots, "{what}: but their inner parts");
    assert!(loot.closed > 3, "{what}: {}", loot.closed);
    assert!(
        !loot.holds(SECRET_TEXT) && !loot.holds(SECRET_NAME.as_bytes()),
        "{what}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_keys_open_nothing_any_more_and_the_newest_everything() {
    let (world, keys) = rotated().await;
    let reader = subset(&world, Role::Reader);
    let before = restored(&world, &keys).await;
    assert_eq!(before.len(), 2);
    // Until then a rotation reaches nothing of it.
    for old in [&world.full, &reader] {
        assert!(attack(&world, old).holds(SECRET_TEXT));
    }
    world.write("third", &b"of the second generation, ".repeat(40_000));
    let third = world.save(&keys).await.unwrap().meta.id;
    let repo = world.open(&keys).await.unwrap();
    let planned = plan(&repo, &world.cx, &job()).await.unwrap();
    let numbers = planned.numbers;
    assert!(numbers.older_packs >= 4, "{numbers:?}");
    assert_eq!(numbers.older_packs, numbers.resealed_packs);
    assert_eq!(numbers.older_bytes, numbers.resealed_bytes);
    assert!(
        numbers.older_packs < numbers.packs,
        "those of the third are of the newest"
    );
    let report = prune(&repo, &world.cx, planned, &job()).await.unwrap();
    assert_eq!((report.findings.len(), report.waits_for.len()), (0, 0));
    assert_eq!(report.resealed_packs, numbers.resealed_packs);
    assert_eq!(report.resealed_bytes, numbers.resealed_bytes);
    assert!(report.deleted_packs >= numbers.resealed_packs);
    for old in [&world.full, &reader] {
        is_closed(&world, old, 2, "resealed");
    }
    // With the newest nothing has changed.
    let mut after = restored(&world, &keys).await;
    assert!(
        after
            .remove(&third)
            .unwrap()
            .contains_key(Path::new("third"))
    );
    assert!(after == before);
    is_whole(&world, &keys, "resealed").await;
    assert!(attack(&world, &keys).holds(SECRET_TEXT));
    assert_eq!(older(&world, &keys).await, 0);
    // There is nothing left to do.
    let objects: Vec<_> = world.mem.objects().into_keys().collect();
    let packs = |all: &[backup_core::ObjectKey]| {
        let packs = all.iter().filter(|key| backup_format::layout::is_pack(key));
        packs.cloned().collect::<Vec<_>>()
    };
    let report = reseal(&world, &keys).await;
    assert_eq!((report.resealed_packs, report.deleted_packs), (0, 0));
    let again: Vec<_> = world.mem.objects().into_keys().collect();
    assert_eq!(packs(&objects), packs(&again));
    // What is saved now still finds what was sealed anew.
    let stats = world.save(&keys).await.unwrap().meta.stats;
    assert!(stats.bytes_new < stats.bytes / 100, "{stats:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_spreads_over_runs() {
    let (world, keys) = rotated().await;
    let before = restored(&world, &keys).await;
    let is_pack = backup_format::layout::is_pack;
    let packs = world
        .mem
        .objects()
        .into_iter()
        .filter(|(key, _)| is_pack(key));
    let largest = packs.map(|(_, bytes)| bytes.len() as u64).max().unwrap();
    let mut left = older(&world, &keys).await;
    let mut runs = 0;
    while left > 0 {
        let job = PruneJob {
            max_repack: Some(largest),
            ..job()
        };
        let repo = world.open(&keys).await.unwrap();
        let planned = plan(&repo, &world.cx, &job).await.unwrap();
        assert_eq!(planned.numbers.older_packs, left);
        assert!(planned.numbers.resealed_bytes <= largest);
        let sealed = planned.numbers.resealed_packs;
        assert!(sealed > 0, "it comes to an end");
        prune(&repo, &world.cx, planned, &job).await.unwrap();
        runs += 1;
        let now = older(&world, &keys).await;
        assert_eq!(now, left - sealed);
        left = now;
        assert!(restored(&world, &keys).await == before, "run {runs}");
    }
    assert!(runs > 1, "{runs}");
    is_closed(&world, &world.full, 2, "in the end");
    is_whole(&world, &keys, "in the end").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hosts_go_on_saving_meanwhile() {
    let (world, keys) = rotated().await;
    let mut wanted = restored(&world, &keys).await;
    // These know nothing of the rotation.
    let web2 = HostId("web2".into());
    let writers = [host(), web2].map(|name| world.full.subset(Role::Writer, Some(&name)).unwrap());
    for round in 0..4u32 {
        world.write(
            &format!("round-{round}"),
            &round.to_le_bytes().repeat(60_000),
        );
        let files = read(&world.tree());
        let (one, two, report) = tokio::join!(
            world.save(&writers[0]),
            world.save(&writers[1]),
            reseal_at(&world, &keys, Arc::new(world.mem.clone()))
        );
        report.unwrap();
        for saved in [one, two] {
            wanted.insert(saved.unwrap().meta.id, files.clone());
        }
    }
    for _ in 0..3 {
        if older(&world, &keys).await > 0 {
            reseal(&world, &keys).await;
        }
    }
    assert_eq!(older(&world, &keys).await, 0);
    assert!(restored(&world, &keys).await == wanted);
    is_whole(&world, &keys, "while others saved").await;
    is_closed(&world, &world.full, 2, "while others saved");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_change_nothing_is_lost_and_the_next_run_ends_it() {
    let (mut world, keys) = rotated().await;
    let ground = world.mem.clone();
    let wanted = restored(&world, &keys).await;
    let faulty = |mem: &MemSink| FaultSink::new(Arc::new(mem.clone()), 7);
    let changes = {
        let sink = faulty(&ground.fork());
        let done = reseal_at(&world, &keys, Arc::new(sink.clone())).await;
        assert!(done.unwrap().resealed_packs > 0);
        sink.mutations()
    };
    assert!(changes > 10, "only {changes} changes: too few to tell");
    for k in 1..=changes {
        for crash in [Crash::Before, Crash::After] {
            let what = format!("{crash:?} change {k} of {changes}");
            world.mem = ground.fork();
            let sink = faulty(&world.mem);
            sink.crash_at(k, crash);
            let _ = reseal_at(&world, &keys, Arc::new(sink.clone())).await;
            assert!(sink.crashed(), "{what}");
            assert!(restored(&world, &keys).await == wanted, "{what}");
            // The killed run has left a session that nobody ends: it is taken for dead.
            let job = PruneJob {
                patience: Duration::ZERO,
                ..job()
            };
            let mut left = 1;
            for _ in 0..3 {
                let repo = world.open(&keys).await.unwrap();
                let planned = plan(&repo, &world.cx, &job).await.unwrap();
                prune(&repo, &world.cx, planned, &job).await.unwrap();
                left = older(&world, &keys).await;
                if left == 0 {
                    break;
                }
            }
            assert_eq!(left, 0, "{what}");
            assert!(restored(&world, &keys).await == wanted, "{what}");
            is_closed(&world, &world.full, 2, &what);
            is_whole(&world, &keys, &what).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_full_key_of_the_newest_generation_may() {
    let (world, keys) = rotated().await;
    let before = world.mem.objects();
    for role in [
        Role::Writer,
        Role::Reader,
        Role::Maintenance,
        Role::Verifier,
    ] {
        let subset = keys.subset(role, Some(&host())).unwrap();
        let refused = reseal_at(&world, &subset, Arc::new(world.mem.clone())).await;
        let error = refused.unwrap_err();
        assert!(
            matches!(&error, EngineError::Key(KeyError::MayNotReseal { role: found }) if *found == role),
            "{error}"
        );
        assert!(error.to_string().contains("use a full key"), "{error}");
    }
    let refused = reseal_at(&world, &world.full, Arc::new(world.mem.clone())).await;
    let error = refused.unwrap_err();
    assert!(
        matches!(&error, EngineError::Key(KeyError::Outdated { .. })),
        "{error}"
    );
    assert!(world.mem.objects() == before);
}

/// A pack of which a blob is not what its id says stays as it is, and is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_stays_and_is_named() {
    let (world, keys) = rotated().await;
    let is_pack = |key: &&backup_core::ObjectKey| key.as_str().starts_with("data/");
    let objects = world.mem.objects();
    let pack = objects.keys().find(is_pack).unwrap().clone();
    world.mem.damage(&pack, |bytes| bytes[100] ^= 1);
    let report = reseal(&world, &keys).await;
    assert!(
        report
            .findings
            .iter()
            .any(|one| one.subject == pack.as_str()),
        "{:?}",
        report.findings
    );
    assert!(world.mem.objects().contains_key(&pack));
    world.mem.damage(&pack, |bytes| bytes[100] ^= 1);
    is_whole(&world, &keys, "put back").await;
    reseal(&world, &keys).await;
    is_closed(&world, &world.full, 2, "put back");
}
