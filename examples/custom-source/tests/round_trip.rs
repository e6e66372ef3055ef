//! The store through a real repository and back.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use backstay::core::{
    HostId, Location, OpContext, Outcome, Registry, RestoreMode, RestorePlan, SizeHint, Source,
};
use backstay::engine::{
    EngineError, InitRequest, Repository, RestoreJob, SnapshotJob, SnapshotView, prepare, restore,
    snapshot,
};
use backstay::sink_local::LocalSink;
use example_custom_source::{Buckets, KvSource, KvStore, register};

fn full() -> KvStore {
    let store = KvStore::default();
    for bucket in ["a", "b", "empty value", "z"] {
        for number in 0..300 {
            store.set(
                bucket,
                &format!("key {number}"),
                format!("{bucket} {number}").repeat(50),
            );
        }
    }
    store.set("empty value", "", "");
    store
}

struct World {
    cx: OpContext,
    repo: Repository,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let cx = backstay::context();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let sink = Arc::new(LocalSink::new(folder.path()));
        let repo = prepare(&cx, &request)
            .unwrap()
            .create(&cx, sink, None)
            .await
            .unwrap();
        Self {
            cx,
            repo,
            _folder: folder,
        }
    }

    async fn save(&self, source: Arc<dyn Source>, select: &[&str]) -> Result<(), EngineError> {
        self.repo.reload_index(&self.cx).await?;
        let mut job = SnapshotJob::new("store", HostId("here".into()));
        job.select = select.iter().map(|name| (*name).to_owned()).collect();
        snapshot(&self.repo, &self.cx, source, &job).await.map(drop)
    }

    /// Restores the newest snapshot into what `kv:///` is in the registry; says how many findings
    /// there were.
    async fn restore(&self, registry: &Registry) -> usize {
        self.repo.reload_index(&self.cx).await.unwrap();
        let (heads, _) = self.repo.heads(&self.cx).await.unwrap();
        let view = SnapshotView::open(&self.repo, heads.last().unwrap().clone()).unwrap();
        let place: Location = "kv:///".parse().unwrap();
        let target = registry.open_target(&place).unwrap();
        let job = RestoreJob::whole(RestoreMode::Replace, None, HostId("here".into()));
        restore(&view, &self.cx, target, &job)
            .await
            .unwrap()
            .report
            .findings
            .len()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_comes_back_as_it_was() {
    let (world, store) = (World::new().await, full());
    let before = store.freeze();
    let mut registry = Registry::empty();
    register(&mut registry, &store).unwrap();
    let source = registry.open_source(&"kv:///".parse().unwrap()).unwrap();
    world.save(source, &[]).await.unwrap();
    store.replace(Buckets::new());
    store.set("late", "a", "b");
    assert_eq!(world.restore(&registry).await, 0);
    assert_eq!(store.freeze(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_chosen_buckets_are_saved() {
    let (world, store) = (World::new().await, full());
    let source = Arc::new(KvSource::new(store.clone()));
    world.save(source.clone(), &["b"]).await.unwrap();
    let other = KvStore::default();
    let mut registry = Registry::empty();
    register(&mut registry, &other).unwrap();
    world.restore(&registry).await;
    assert_eq!(other.freeze().keys().collect::<Vec<_>>(), ["b"]);
    assert!(world.save(source, &["nowhere"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_kind_of_snapshot_does_not_replace_the_store() {
    let (world, store) = (World::new().await, full());
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "not a bucket").unwrap();
    let config = backstay::source_files::FilesConfig::of_roots([folder.path().to_owned()]);
    let files = Arc::new(backstay::source_files::FilesSource::new(config));
    world.save(files, &[]).await.unwrap();
    let before = store.freeze();
    let mut registry = Registry::empty();
    register(&mut registry, &store).unwrap();
    assert!(world.restore(&registry).await > 0);
    assert_eq!(store.freeze(), before);
}

#[tokio::test]
async fn a_restore_that_is_not_complete_leaves_the_store_as_it_was() {
    for outcome in [Outcome::Abandoned, Outcome::BrokenOff] {
        let (cx, store) = (backstay::context(), full());
        let before = store.freeze();
        let mut registry = Registry::empty();
        register(&mut registry, &store).unwrap();
        let target = registry.open_target(&"kv:///".parse().unwrap()).unwrap();
        let plan = RestorePlan {
            into: String::new(),
            total: SizeHint {
                at_least: 0,
                at_most: None,
            },
            notes: Vec::new(),
        };
        let running = target.begin(&cx, plan).await.unwrap();
        let _ = running.close(&cx, outcome).await.unwrap();
        assert!(*store.freeze() == *before, "{outcome:?}");
    }
}
