//! A restore has only so many files open, however slow the target and however many the workers. A
//! process has one limit of open files: this test has one for itself.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    EntryOutcome, EntryWriter, HostId, OpContext, Outcome, PositionalWriter, Restore, RestoreEntry,
    RestoreMode, RestorePlan, RestoreReport, RestoreRequest, SizeHint, Target, TargetError,
};
use backup_engine::{
    InitRequest, RestoreJob, SnapshotJob, SnapshotView, prepare, restore, snapshot,
};
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::{MemSink, TestClock};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of how many entries a restore is at work, and how many that ever were.
#[derive(Debug, Default)]
struct Count {
    now: AtomicUsize,
    most: AtomicUsize,
    finished: AtomicUsize,
}

#[derive(Debug, Clone, Default)]
struct Slow(Arc<Count>);

#[async_trait]
impl Target for Slow {
    async fn plan(&self, _: &OpContext, _: &RestoreRequest) -> Result<RestorePlan, TargetError> {
        Ok(RestorePlan {
            into: "nowhere".into(),
            total: SizeHint::default(),
            notes: Vec::new(),
        })
    }

    async fn begin(&self, _: &OpContext, _: RestorePlan) -> Result<Box<dyn Restore>, TargetError> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Restore for Slow {
    fn start(&self, _: &OpContext, entry: &RestoreEntry) -> Result<EntryWriter, TargetError> {
        if !entry.meta.kind.has_content() {
            return Ok(EntryWriter::None);
        }
        let now = self.0.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most.fetch_max(now, Ordering::SeqCst);
        Ok(EntryWriter::Positional(Arc::new(SlowWriter)))
    }

    fn finish(
        &self,
        _: &OpContext,
        entry: &RestoreEntry,
        _: EntryWriter,
        _: EntryOutcome,
    ) -> Result<(), TargetError> {
        if entry.meta.kind.has_content() {
            self.0.now.fetch_sub(1, Ordering::SeqCst);
            self.0.finished.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn close(
        self: Box<Self>,
        _: &OpContext,
        _: Outcome,
    ) -> Result<RestoreReport, TargetError> {
        Ok(RestoreReport::default())
    }
}

#[derive(Debug)]
struct SlowWriter;

impl PositionalWriter for SlowWriter {
    fn write_at(&self, _: u64, _: &[u8]) -> Result<(), TargetError> {
        std::thread::sleep(Duration::from_millis(2));
        Ok(())
    }

    fn read_at(&self, _: u64, _: &mut [u8]) -> Result<usize, TargetError> {
        Ok(0)
    }

    fn keep(&self, _: Range<u64>) {}

    fn had_content(&self) -> bool {
        false
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_target_has_no_more_files_open_than_the_limit_allows() {
    const FILES: usize = 1500;
    let tree = tempfile::tempdir().unwrap();
    for number in 0..FILES {
        // One in a hundred is none: it has no part that anybody waits for.
        let content = if number % 100 == 0 {
            String::new()
        } else {
            number.to_string()
        };
        fs::write(tree.path().join(number.to_string()), content).unwrap();
    }
    let mut cx = OpContext::new(Arc::new(TestClock::at_text("2100-01-01T00:00:00Z")));
    cx.limits.cpu_threads = 16;
    cx.limits.memory_bytes = 1 << 30;
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(&cx, &request).unwrap();
    let repo = prepared.create(&cx, Arc::new(MemSink::new()), None);
    let repo = repo.await.unwrap();
    let host = HostId("host".into());
    let source = FilesSource::new(FilesConfig::of_roots([tree.path()]));
    let job = SnapshotJob::new("test", host.clone());
    let saved = snapshot(&repo, &cx, Arc::new(source), &job).await.unwrap();
    assert_eq!(saved.findings, []);
    repo.reload_index(&cx).await.unwrap();
    let head = repo.heads(&cx).await.unwrap().0.remove(0);
    let view = SnapshotView::open(&repo, head).unwrap();
    let limit = Rlimit {
        current: Some(256),
        maximum: getrlimit(Resource::Nofile).maximum,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let target = Slow::default();
    let job = RestoreJob::whole(RestoreMode::Files, None, host);
    let restored = restore(&view, &cx, Arc::new(target.clone()), &job).await;
    let restored = restored.unwrap();
    assert_eq!(restored.report.findings, []);
    assert_eq!(target.0.finished.load(Ordering::SeqCst), FILES);
    let most = target.0.most.load(Ordering::SeqCst);
    // A third of what is left of the limit; and there is something to do for many.
    assert!((40..=53).contains(&most), "{most} files were open at once");
}
