//! False data keys: whoever holds the index key can add index runs, and say in them what they like of the data key of any
//! session. Nothing may be lost by that, and it must be told.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_core::{
    Finding, FindingKind, ObjectKey, RepoId, RestoreMode, Sample, SessionId, Severity, VerifyLevel,
};
use backup_engine::prune::{PruneJob, plan, prune};
use backup_engine::repair::{self, RepairJob};
use backup_engine::{Repository, RestoreJob, SnapshotView, restore, verify};
use backup_format::index::{IndexRun, RunBuilder};
use backup_format::keys::{Identity, KeySet, Recipient, Role, Secret};
use backup_format::layout;
use backup_format::pack::SessionWrap;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_format::session;
use backup_source_files::{FilesTarget, FilesTargetConfig};

use crate::world::{World, host, subset};

/// What somebody writes in the place of a wrapped data key.
#[derive(Debug, Clone, Copy)]
enum False {
    /// No age file at all.
    Junk,
    /// A key that they themselves alone can open.
    OfOthers,
    /// Another key, for everybody who reads.
    Other,
}

const ALL: [False; 3] = [False::Junk, False::OfOthers, False::Other];

fn false_wrap(what: False, recipients: &[Recipient]) -> Vec<u8> {
    let secret = Secret::random().unwrap();
    match what {
        False::Junk => secret.expose().repeat(7),
        False::OfOthers => {
            let other = Identity::generate(0);
            session::wrap(&secret, &[other.recipient()]).unwrap()
        }
        False::Other => session::wrap(&secret, recipients).unwrap(),
    }
}

fn index(world: &World) -> Vec<(ObjectKey, IndexRun)> {
    let ring = ring(world);
    let objects = world.mem.objects().into_iter();
    let runs = objects.filter(|(key, _)| layout::is_index(key));
    runs.map(|(key, sealed)| {
        let plain = ring.open(ObjectKind::IndexRun, &sealed).unwrap();
        (key, IndexRun::parse(plain).unwrap())
    })
    .collect()
}

fn ring(world: &World) -> ObjectKeyring {
    let repo: RepoId = world.full.repo();
    ObjectKeyring::new(repo, world.full.index_key().unwrap())
}

/// Adds a run that says false data keys of all sessions, before or behind all others.
fn lie(world: &World, what: False, is_first: bool, runs: &[(ObjectKey, IndexRun)]) -> ObjectKey {
    let sessions: BTreeSet<SessionId> = runs
        .iter()
        .flat_map(|(_, run)| run.sessions.iter().map(|wrap| wrap.session))
        .collect();
    let recipients = world.full.all_recipients();
    let wraps: Vec<_> = sessions
        .iter()
        .map(|session| SessionWrap {
            session: *session,
            wrap: false_wrap(what, recipients),
        })
        .collect();
    let names: Vec<_> = runs.iter().map(|(key, _)| key.clone()).collect();
    let run = &runs[0].1;
    loop {
        // A copy of a true one, but for the keys.
        let mut new = RunBuilder::default();
        let of_first = run.iter().filter(|(_, at)| at.pack == 0);
        new.add_known(run.packs[0], of_first);
        let sealed = ring(world)
            .seal(ObjectKind::IndexRun, &new.finish(&wraps))
            .unwrap();
        let key = layout::index(&sealed).unwrap();
        let is_as_wanted = match is_first {
            true => names.iter().all(|name| key < *name),
            false => names.iter().all(|name| key > *name),
        };
        if is_as_wanted {
            world.mem.plant(key.clone(), sealed);
            return key;
        }
    }
}

/// Everything comes back, whoever of those who read asks, and whatever they read before.
async fn everything_is_read(world: &World, what: &str) {
    for keys in [&world.full, &subset(world, Role::Reader)] {
        for number in [1, 0] {
            let repo = world.open(keys).await.unwrap();
            let (heads, unread) = repo.heads(&world.cx).await.unwrap();
            assert!(unread.is_empty() && heads.len() == 2, "{what}");
            let out = tempfile::tempdir().unwrap();
            let target = FilesTarget::new(FilesTargetConfig {
                sync: false,
                ..FilesTargetConfig::of_folder(out.path())
            });
            let view = SnapshotView::open(&repo, heads[number].clone()).unwrap();
            let folder = Some(out.path().to_owned());
            let job = RestoreJob::whole(RestoreMode::Files, folder, host());
            let done = restore(&view, &world.cx, Arc::new(target), &job).await;
            let findings = done.unwrap().report.findings;
            let is_error = |one: &&Finding| one.severity == Severity::Error;
            let lost: Vec<_> = findings.iter().filter(is_error).collect();
            assert!(lost.is_empty(), "{what}: {lost:?}");
        }
    }
}

/// What a verification of all levels says of the runs of the index.
async fn named(world: &World, keys: &KeySet) -> BTreeSet<(String, String)> {
    let mut out = BTreeSet::new();
    for level in [VerifyLevel::Metadata, VerifyLevel::FullRead] {
        let repo = world.open(keys).await.unwrap();
        let outcome = verify(&repo, &world.cx, None, level, Sample::All)
            .await
            .unwrap();
        let found: BTreeSet<_> = outcome
            .report
            .findings
            .into_iter()
            .filter(|one| one.severity == Severity::Error)
            .map(|one| (one.kind.to_string(), one.subject))
            .collect();
        assert!(out.is_empty() || out == found, "{out:?}\n{found:?}");
        out = found;
    }
    out
}

async fn mend(world: &World, keys: &KeySet) -> (usize, usize) {
    let repo = world.open(keys).await.unwrap();
    if keys.role() == Role::Maintenance {
        // From tables as from runs in memory.
        repo.keep_in_memory(0);
        repo.reload_index(&world.cx).await.unwrap();
    }
    let job = RepairJob::new(&repo, host());
    let plan = repair::plan(&repo, &world.cx, &job, &[]).await.unwrap();
    let report = repair::repair(&repo, &world.cx, plan, &job, &[])
        .await
        .unwrap();
    (report.mended.len(), report.findings.len())
}

async fn world() -> World {
    let world = World::new().await;
    world.write("later", &b"what the second snapshot has, ".repeat(20_000));
    world.save(&world.full).await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_false_data_key_loses_nothing_is_named_and_is_mended() {
    for what in ALL {
        for is_first in [true, false] {
            let said = format!("{what:?}, first: {is_first}");
            let world = world().await;
            let run = lie(&world, what, is_first, &index(&world));
            everything_is_read(&world, &said).await;
            let kind = match what {
                False::Other => FindingKind::Mismatch,
                _ => FindingKind::Damaged,
            };
            let expected = BTreeSet::from([(kind.to_string(), run.to_string())]);
            assert_eq!(named(&world, &world.full).await, expected, "{said}");
            // Who opens no data key sees that two are said.
            let of_verifier = named(&world, &subset(&world, Role::Verifier)).await;
            assert!(
                of_verifier.iter().any(|one| one.1 == run.as_str()),
                "{said}"
            );
            let by = match is_first {
                true => world.full.clone(),
                false => subset(&world, Role::Maintenance),
            };
            assert_eq!(mend(&world, &by).await, (1, 0), "{said}");
            assert_eq!(named(&world, &world.full).await, BTreeSet::new(), "{said}");
            everything_is_read(&world, &format!("{said}, mended")).await;
            assert_eq!(mend(&world, &by).await, (0, 0), "{said}");
        }
    }
}

/// So many that the true one is not even kept, and merged into one run by somebody who opens none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn false_data_keys_without_number_and_a_merge_lose_nothing() {
    let world = world().await;
    let runs = index(&world);
    for round in 0..15 {
        lie(&world, ALL[round % 3], true, &runs);
    }
    everything_is_read(&world, "15 runs").await;
    let keys = subset(&world, Role::Maintenance);
    let repo: Repository = world.open(&keys).await.unwrap();
    let job = PruneJob::new(host());
    let planned = plan(&repo, &world.cx, &job).await.unwrap();
    prune(&repo, &world.cx, planned, &job).await.unwrap();
    assert_eq!(index(&world).len(), 1);
    everything_is_read(&world, "merged").await;
    assert_eq!(named(&world, &world.full).await.len(), 1);
    assert_eq!(mend(&world, &keys).await, (1, 0));
    assert_eq!(named(&world, &world.full).await, BTreeSet::new());
    everything_is_read(&world, "mended").await;
}

/// As many as are tried: whoever merges, and opens none of them, keeps each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_keeps_each_of_a_few_data_keys() {
    let world = world().await;
    let runs = index(&world);
    let wraps = || -> BTreeSet<(SessionId, Vec<u8>)> {
        let runs = index(&world);
        let wraps = runs.iter().flat_map(|(_, run)| &run.sessions);
        wraps.map(|one| (one.session, one.wrap.clone())).collect()
    };
    for round in 0..4 {
        lie(&world, ALL[round % 3], round % 2 == 0, &runs);
    }
    let before = wraps();
    let sessions: BTreeSet<_> = before.iter().map(|one| one.0).collect();
    assert_eq!(before.len(), 5 * sessions.len());
    // The same word without any key comes first, and must not take the place of the others.
    let repo: Repository = world
        .open(&subset(&world, Role::Maintenance))
        .await
        .unwrap();
    let names: Vec<_> = index(&world).into_iter().map(|(key, _)| key).collect();
    let mut planted = 0;
    while planted < 8 {
        let run = &runs[0].1;
        let mut new = RunBuilder::default();
        new.add_known(run.packs[0], run.iter().filter(|(_, at)| at.pack == 0));
        let sealed = ring(&world)
            .seal(ObjectKind::IndexRun, &new.finish(&[]))
            .unwrap();
        let key = layout::index(&sealed).unwrap();
        if names.iter().all(|name| key < *name) {
            world.mem.plant(key, sealed);
            planted += 1;
        }
    }
    let job = PruneJob::new(host());
    let planned = plan(&repo, &world.cx, &job).await.unwrap();
    prune(&repo, &world.cx, planned, &job).await.unwrap();
    assert_eq!(index(&world).len(), 1);
    assert!(wraps() == before);
    everything_is_read(&world, "merged").await;
}
