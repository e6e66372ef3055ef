//! A repository in memory, caches that can be lost, and what must come back.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{HostId, OpContext, Sample, Sink, SnapshotId, Source, VerifyLevel};
use backup_engine::repository::SnapshotHead;
use backup_engine::snapshot::CheckpointRule;
use backup_engine::view::ContentReader;
use backup_engine::{
    InitRequest, Repository, Result, SnapshotJob, SnapshotReport, SnapshotView, Unlock, prepare,
    snapshot, verify,
};
use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_format::keys::{KeySet, Role};
use backup_integrity::digest::ContentDigest;
use backup_testkit::{MemSink, TestClock};
use jiff::SignedDuration;
use tempfile::TempDir;

use crate::source::{Disks, ModelSource};

pub(crate) struct World {
    pub(crate) cx: OpContext,
    pub(crate) mem: MemSink,
    pub(crate) keys: KeySet,
    pub(crate) job: SnapshotJob,
    /// So many entries of the index stay in memory; none: as usual, which is all of them here.
    pub(crate) in_memory: Option<usize>,
    dir: TempDir,
}

pub(crate) fn host() -> HostId {
    HostId("host".into())
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

impl World {
    /// One whose index is in tables, however small it is.
    pub(crate) async fn with_tables() -> Self {
        Self {
            in_memory: Some(0),
            ..Self::new().await
        }
    }

    pub(crate) async fn new() -> Self {
        let clock = TestClock::default().ticking(SignedDuration::from_secs(1));
        let cx = OpContext::new(Arc::new(clock));
        let mem = MemSink::new();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let repo = prepared.create(&cx, Arc::new(mem.clone()), None);
        let keys = repo.await.unwrap().keys().clone();
        let mut job = SnapshotJob::new("disks", host());
        job.checkpoint = CheckpointRule {
            bytes: 1,
            every: Duration::from_secs(3600),
            ..CheckpointRule::default()
        };
        Self {
            cx,
            mem,
            keys,
            job,
            in_memory: None,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// The same repository, to be changed by itself.
    pub(crate) fn fork(&self) -> Self {
        Self {
            cx: self.cx.clone(),
            mem: self.mem.fork(),
            keys: self.keys.clone(),
            job: self.job.clone(),
            in_memory: self.in_memory,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// A tier for the same repository on which nothing is.
    pub(crate) fn empty(&self) -> Self {
        Self {
            mem: MemSink::new(),
            ..self.fork()
        }
    }

    pub(crate) fn cache(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn writer(&self, host: &HostId) -> KeySet {
        self.keys.subset(Role::Writer, Some(host)).unwrap()
    }

    pub(crate) async fn open(&self, keys: &KeySet, cache: Option<&Path>) -> Repository {
        self.open_at(Arc::new(self.mem.clone()), keys, cache).await
    }

    pub(crate) async fn open_at(
        &self,
        sink: Arc<dyn Sink>,
        keys: &KeySet,
        cache: Option<&Path>,
    ) -> Repository {
        let unlock = Unlock::KeyFile(KeyFile::Keys(Box::new(keys.clone())));
        let cache = cache.map(Path::to_owned);
        let repo = Repository::open(&self.cx, sink, &unlock, cache, Operation::Write);
        let repo = repo.await.unwrap();
        if let Some(entries) = self.in_memory {
            repo.keep_in_memory(entries);
            repo.reload_index(&self.cx).await.unwrap();
        }
        repo
    }

    /// Saves with a key and a cache, and sees that what was saved comes back.
    pub(crate) async fn save(
        &self,
        source: &ModelSource,
        keys: &KeySet,
        cache: &str,
    ) -> SnapshotReport {
        let report = self.try_to_save(source, keys, cache).await.unwrap();
        self.check(&source.now, &report).await;
        report
    }

    pub(crate) async fn try_to_save(
        &self,
        source: &ModelSource,
        keys: &KeySet,
        cache: &str,
    ) -> Result<SnapshotReport> {
        let repo = self.open(keys, Some(&self.cache(cache))).await;
        let source: Arc<dyn Source> = Arc::new(source.clone());
        snapshot(&repo, &self.cx, source, &self.job).await
    }

    pub(crate) async fn head(&self, repo: &Repository, report: &SnapshotReport) -> SnapshotHead {
        self.head_of(repo, report.meta.id).await
    }

    async fn head_of(&self, repo: &Repository, id: SnapshotId) -> SnapshotHead {
        let (heads, errors) = repo.heads(&self.cx).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let head = heads.into_iter().find(|head| head.meta.id == id);
        head.unwrap()
    }

    pub(crate) async fn check(&self, wanted: &Disks, report: &SnapshotReport) {
        self.check_id(wanted, report.meta.id).await;
    }

    pub(crate) async fn check_id(&self, wanted: &Disks, id: SnapshotId) {
        let repo = self.open(&self.keys, None).await;
        let head = self.head_of(&repo, id).await;
        let view = SnapshotView::open(&repo, head).unwrap();
        let mut found = Disks::new();
        let mut walk = view.all();
        while let Some(entry) = walk.next(&self.cx).await.unwrap() {
            let extents = view.extents(&self.cx, &entry.record).await.unwrap();
            let mut reader = ContentReader::new(&repo, extents);
            let mut content = Vec::new();
            while let Some(bytes) = reader.next(&self.cx).await.unwrap() {
                content.extend(bytes);
            }
            if let Some(sha256) = entry.record.sha256 {
                assert_eq!(sha256, ContentDigest::of(&content).0, "{}", entry.path);
            }
            found.insert(entry.path.to_string(), content);
        }
        let names = |disks: &Disks| disks.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(wanted));
        for (name, content) in &found {
            assert!(content == &wanted[name], "{name} is not itself");
        }
    }

    /// Everything is whole, the refs of all snapshots included.
    pub(crate) async fn verify(&self) {
        let repo = self.open(&self.keys, None).await;
        let done = verify(&repo, &self.cx, None, VerifyLevel::FullRead, Sample::All);
        assert_eq!(done.await.unwrap().report.findings, []);
    }
}
