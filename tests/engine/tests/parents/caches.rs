//! Which snapshot a source is told of, and where what it leaves out comes from.

use std::fs;
use std::path::Path;

use backup_core::{Consistency, FindingKind, Sink as _};
use backup_format::layout;

use crate::source::{Habits, ModelSource};
use crate::world::{World, host, noise};

fn disks() -> ModelSource {
    let mut source = ModelSource::default();
    source.now.insert("a-small".into(), noise(1, 5000));
    source.now.insert("b-disk".into(), noise(2, 3 << 20));
    source.now.insert("c-disk".into(), noise(3, 2 << 20));
    source
}

fn write(source: &mut ModelSource, name: &str, at: usize, seed: u64) {
    let disk = source.now.get_mut(name).unwrap();
    disk[at..at + 1000].copy_from_slice(&noise(seed, 1000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_hears_what_it_left_with_the_parent() {
    let world = World::new().await;
    let mut source = disks();
    let first = world.save(&source, &world.keys, "cache").await;
    write(&mut source, "b-disk", 1_000_000, 9);
    let second = world.save(&source, &world.keys, "cache").await;
    assert_eq!(second.findings, []);
    let hints = source.hints();
    assert!(hints[0].is_none());
    let hint = hints[1].clone().unwrap();
    assert_eq!(hint.snapshot, first.meta.id);
    assert_eq!(hint.cursor.as_deref(), Some(&b"0"[..]));
    assert_eq!(hint.point.consistency, Consistency::Filesystem);
    assert_eq!(hint.point.position, Some(("lsn".into(), "0".into())));
    assert_eq!(hint.unchanged_from, 0);
    assert_eq!(second.meta.stats.unchanged, 2);
    assert!(second.meta.stats.bytes_new < 20_000, "{:?}", second.meta);
    world.verify().await;
}

/// Each cache knows another snapshot: what is left out must come from the one that was named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_caches_do_not_mix_up_their_snapshots() {
    let world = World::new().await;
    let mut source = disks();
    let first = world.save(&source, &world.keys, "one").await;
    for round in 0..2 {
        write(&mut source, "a-small", 1000, 10 + round);
        write(&mut source, "b-disk", 1_000_000, 20 + round);
        world.save(&source, &world.keys, "two").await;
    }
    // Back to what the first cache knows, but for one range.
    write(&mut source, "c-disk", 500_000, 30);
    let last = world.save(&source, &world.keys, "one").await;
    assert_eq!(last.findings, []);
    let hint = source.hints().pop().unwrap().unwrap();
    assert_eq!(hint.snapshot, first.meta.id);
    assert_eq!(hint.cursor.as_deref(), Some(&b"0"[..]));
    assert_eq!(last.meta.parent, Some(first.meta.id));
    world.verify().await;
}

/// The state of a snapshot that was forgotten says nothing of the one that is built on instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_state_of_a_forgotten_snapshot_is_not_that_of_another() {
    let world = World::new().await;
    let mut source = disks();
    let first = world.save(&source, &world.keys, "one").await;
    write(&mut source, "a-small", 1000, 10);
    write(&mut source, "b-disk", 1_000_000, 20);
    let second = world.save(&source, &world.keys, "two").await;
    let key = layout::snapshot(first.meta.id).unwrap();
    world.mem.delete(&world.cx, &key).await.unwrap();
    for habits in [true, false] {
        source.habits.bodies = habits;
        let repo = world.cache("one").join(world.keys.repo().to_string());
        let kept = tempfile::tempdir().unwrap();
        copy(&repo.join("state"), kept.path());
        let report = world.save(&source, &world.keys, "one").await;
        assert_eq!(report.findings, []);
        copy(kept.path(), &repo.join("state"));
    }
    let hints = source.hints();
    assert_eq!(hints[2].clone().unwrap().snapshot, second.meta.id);
}

fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_cache_costs_no_backup() {
    for is_writer in [false, true] {
        let world = World::new().await;
        let mut source = disks();
        let keys = if is_writer {
            world.writer(&host())
        } else {
            world.keys.clone()
        };
        world.save(&source, &keys, "one").await;
        write(&mut source, "b-disk", 1_000_000, 9);
        for cache in ["two", "three"] {
            let report = world.save(&source, &keys, cache).await;
            assert_eq!(report.findings, [], "{cache}");
            assert!(report.meta.stats.bytes_new < 40_000, "{:?}", report.meta);
        }
        // A writer finds what is left out in the lineage directory, which has large streams alone.
        let from = if is_writer { 1 << 20 } else { 0 };
        let hints: Vec<_> = source.hints().into_iter().flatten().collect();
        let told = hints
            .iter()
            .map(|hint| (hint.cursor.as_deref().unwrap(), hint.unchanged_from));
        assert_eq!(told.collect::<Vec<_>>(), [(&b"0"[..], from), (b"1", from)]);
        world.verify().await;
    }
}

/// Metadata that the source hands over is stored, although the content is that of the parent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unchanged_content_may_have_other_metadata() {
    for cache in ["one", "two"] {
        let world = World::new().await;
        let mut source = disks();
        world.save(&source, &world.keys, "one").await;
        source.habits.mode = 0o640;
        let report = world.save(&source, &world.keys, cache).await;
        assert_eq!(report.meta.stats.bytes_read, 0);
        let repo = world.open(&world.keys, None).await;
        let head = world.head(&repo, &report).await;
        let view = backup_engine::SnapshotView::open(&repo, head).unwrap();
        let mut walk = view.all();
        while let Some(entry) = walk.next(&world.cx).await.unwrap() {
            assert_eq!(entry.record.meta.mode, 0o640);
            assert!(entry.record.sha256.is_some(), "{}", entry.path);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_parent_cannot_give_is_read() {
    let world = World::new().await;
    let mut source = disks();
    world.save(&source, &world.keys, "cache").await;
    // One that the parent does not have: whoever has a parent says that it is unchanged.
    source.now.insert("d-new".into(), noise(7, 2 << 20));
    source.habits.lies = true;
    let report = world.save(&source, &world.keys, "cache").await;
    assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
    assert_eq!(report.findings[0].kind, FindingKind::Degraded);
    assert!(report.findings[0].detail.contains("d-new"));
    assert_eq!(report.meta.findings, 1);
    source.habits.lies = false;
    let report = world.save(&source, &world.keys, "cache").await;
    assert_eq!(report.findings, []);
}

/// A state that is cut off or whose snapshot is not known is only less to go by.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_state_costs_no_backup() {
    for (ending, is_cut) in [("state", true), ("state", false), ("parent", true)] {
        for is_writer in [false, true] {
            let world = World::new().await;
            let mut source = disks();
            let keys = if is_writer {
                world.writer(&host())
            } else {
                world.keys.clone()
            };
            world.save(&source, &keys, "cache").await;
            let repo = world.cache("cache").join(world.keys.repo().to_string());
            for file in fs::read_dir(repo.join("state")).unwrap() {
                let path = file.unwrap().path();
                if path.extension().is_some_and(|found| found == ending) {
                    let bytes = fs::read(&path).unwrap();
                    let kept = if is_cut { bytes.len() / 2 } else { 0 };
                    fs::write(&path, &bytes[..kept]).unwrap();
                }
            }
            write(&mut source, "c-disk", 1_000_000, 9);
            for _ in 0..2 {
                world.save(&source, &keys, "cache").await;
            }
            world.verify().await;
        }
    }
}

/// What a killed run had read is newer than the parent; if the source went back since, it is not
/// what the source means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_killed_run_saw_is_not_the_parent() {
    let world = World::new().await;
    let mut source = disks();
    let habits = Habits {
        bodies: false,
        ..Habits::default()
    };
    world.save(&source, &world.keys, "cache").await;
    let before = source.now.clone();
    for name in ["a-small", "b-disk", "c-disk"] {
        write(&mut source, name, 2000, 9);
    }
    source.habits.fails = true;
    let failed = world.try_to_save(&source, &world.keys, "cache").await;
    failed.unwrap_err();
    source.now = before;
    for habits in [habits, Habits::default()] {
        source.habits = habits;
        let report = world.save(&source, &world.keys, "cache").await;
        assert_eq!(report.findings, []);
    }
}
