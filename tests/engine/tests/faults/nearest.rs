//! A repository that is read with a copy at hand: whatever the nearest tier lacks, has spoiled, or does not answer any
//! more, everything comes back, and what came from the copy is told.

use std::sync::Arc;

use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Retry, Severity, Sink};
use backup_engine::{Repository, Result};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::encode;
use backup_testkit::{Fault, FaultSink, MemSink, Op, Rule, When};
use futures::TryStreamExt;

use crate::world::{World, read};

/// The repository at a tier, with a copy of how it is in the world.
async fn with_copy(world: &World, sink: Arc<dyn Sink>) -> Result<Repository> {
    let copy = world.open(Arc::new(world.mem.fork()), None).await?;
    let mut near = world.open(sink, None).await?;
    near.also_from(vec![copy])?;
    Ok(near)
}

/// Restores every snapshot, and holds when all of them are as they were saved; says what came from the copy.
async fn restores_all(world: &World, near: &Repository, what: &str) -> Vec<String> {
    let (heads, unread) = near.nearest_heads(&world.cx).await.unwrap();
    assert!(unread.is_empty(), "{what}: {unread:?}");
    assert_eq!(heads.len(), world.saved.len(), "{what}");
    for (head, files) in heads.into_iter().zip(&world.saved) {
        let out = tempfile::tempdir().unwrap();
        let done = world
            .try_to_restore(near, &world.cx, head, out.path())
            .await;
        let done = done.unwrap_or_else(|error| panic!("{what}: {error}"));
        let lost = done.report.findings.iter();
        let lost: Vec<_> = lost.filter(|one| one.severity == Severity::Error).collect();
        assert!(lost.is_empty(), "{what}: {lost:?}");
        assert!(read(out.path()) == *files, "{what}: not as it was saved");
    }
    let (told, left_out) = near.fallbacks().all();
    assert_eq!(left_out, 0);
    told.into_iter().map(|one| one.subject).collect()
}

async fn keys(world: &World, sink: &MemSink, folder: &str) -> Vec<ObjectKey> {
    let listed = sink.list(&world.cx, folder, None);
    listed.map_ok(|meta| meta.key).try_collect().await.unwrap()
}

async fn world() -> World {
    let mut world = World::with_snapshot().await;
    world.keep_one_more().await;
    world
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_object_may_be_gone_or_spoiled_at_the_nearest() {
    let world = world().await;
    let cx = &world.cx;
    let near = with_copy(&world, Arc::new(world.mem.fork())).await.unwrap();
    assert_eq!(restores_all(&world, &near, "whole").await, [""; 0]);
    let mut fell_back = 0;
    for folder in ["data/", "meta/", "snap/", "index/"] {
        for key in keys(&world, &world.mem, folder).await {
            for spoils in [false, true] {
                let mem = world.mem.fork();
                if spoils {
                    let bytes = mem.get(cx, &key, ByteRange::Full).await.unwrap();
                    let spoiled: Vec<u8> = bytes.iter().map(|byte| byte ^ 1).collect();
                    let put = mem.put(cx, &key, spoiled.into(), PutMode::Replace);
                    put.await.unwrap();
                } else {
                    mem.delete(cx, &key).await.unwrap();
                }
                let near = with_copy(&world, Arc::new(mem)).await.unwrap();
                let what = format!("{key}, spoiled: {spoils}");
                let told = restores_all(&world, &near, &what).await;
                fell_back += usize::from(!told.is_empty());
                if let [subject] = &told[..]
                    && matches!(folder, "data/" | "meta/")
                {
                    assert_eq!(*subject, key.as_str());
                }
                if folder == "snap/" {
                    assert_eq!(told.len(), 1, "{what}: {told:?}");
                }
            }
        }
    }
    assert!(fell_back > 6, "{fell_back}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_goes_away_at_any_time_is_replaced_by_the_copy() {
    let world = world().await;
    for nth in 1..8 {
        let sink = Arc::new(FaultSink::new(Arc::new(world.mem.fork()), 7));
        let near = with_copy(&world, sink.clone()).await.unwrap();
        let gone = Fault::Fail(ErrorKind::Unavailable, Retry::Never);
        sink.add(Rule::new(gone).when(When::From(nth)));
        let told = restores_all(&world, &near, &format!("from call {nth} on")).await;
        assert!(!told.is_empty(), "from call {nth} on");
    }
}

/// Reads that fail one by one are tried elsewhere, and the tier goes on being asked; one that is silent is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_tier_is_not_asked_for_each_chunk() {
    let world = world().await;
    let reads = |sink: &FaultSink| {
        let injected = sink.injected();
        injected.iter().filter(|one| one.op == Op::Get).count()
    };
    let mut counts = Vec::new();
    for kind in [ErrorKind::Damaged, ErrorKind::Unavailable] {
        let sink = Arc::new(FaultSink::new(Arc::new(world.mem.fork()), 7));
        let near = with_copy(&world, sink.clone()).await.unwrap();
        for folder in ["data/", "meta/"] {
            let gone = Fault::Fail(kind, Retry::Never);
            sink.add(Rule::new(gone).on(&[Op::Get]).under(folder));
        }
        let _ = restores_all(&world, &near, &format!("{kind:?}")).await;
        counts.push(reads(&sink));
    }
    assert!(counts[1] < counts[0] && counts[1] < 12, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_is_no_copy() {
    let (world, other) = (World::with_snapshot().await, World::with_snapshot().await);
    let mut near = world.open(Arc::new(world.mem.clone()), None).await.unwrap();
    let other = other.open(Arc::new(other.mem.clone()), None).await.unwrap();
    let refused = near.also_from(vec![other]).unwrap_err().to_string();
    assert!(refused.contains("no copy of repository"), "{refused}");
}

/// A snapshot that somebody who has a key has put in the place of another.
async fn forged(world: &World) -> MemSink {
    let mem = world.mem.fork();
    let repo = world.open(Arc::new(mem.clone()), None).await.unwrap();
    let mut head = repo.heads(&world.cx).await.unwrap().0.remove(0);
    head.outer.name = "another".into();
    head.object.outer = encode(&head.outer).unwrap();
    let plain = head.object.encode().unwrap();
    let sealed = repo.ring().seal(ObjectKind::Snapshot, &plain).unwrap();
    mem.plant(layout::snapshot(head.meta.id).unwrap(), sealed);
    mem
}

/// Of two copies that have something else under one id at least one is none. What is read is what the nearest says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_with_another_snapshot_under_an_id_is_told_and_not_read_from() {
    let world = world().await;
    let open = async |mem: MemSink| world.open(Arc::new(mem), None).await.unwrap();
    let lost = keys(&world, &world.mem, "data/").await;
    for has_other in [false, true] {
        let mem = world.mem.fork();
        assert!(lost.iter().all(|key| mem.lose(key)));
        let mut near = open(mem).await;
        let mut copies = vec![open(forged(&world).await).await];
        if has_other {
            copies.push(open(world.mem.fork()).await);
        }
        near.also_from(copies).unwrap();
        let (heads, unread) = near.nearest_heads(&world.cx).await.unwrap();
        assert!(unread.is_empty() && heads.len() == world.saved.len());
        let told = near.notices().findings();
        let [one] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(one.subject, format!("snapshot {}", heads[0].meta.id));
        assert!(
            one.detail.contains("which its host has not signed"),
            "{one}"
        );
        assert_eq!(one.severity, Severity::Error);
        if has_other {
            let told = restores_all(&world, &near, "from the other").await;
            assert!(!told.is_empty());
            continue;
        }
        let out = tempfile::tempdir().unwrap();
        let head = heads.into_iter().next().unwrap();
        let done = world.try_to_restore(&near, &world.cx, head, out.path());
        let findings = done.await.unwrap().report.findings;
        assert!(findings.iter().any(|one| one.severity == Severity::Error));
        assert_eq!(near.fallbacks().all().0, []);
    }
}
