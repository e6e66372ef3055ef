//! A source of entries that a test gives, with the fingerprints it gives them, and a repository that
//! they are saved into and restored from.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency,
    ConsistentPoint, Entry, EntryKind, EntryMeta, EntryPath, FileTime, Finding, Fingerprint,
    OpContext, OpenContent, Outcome, RestoreMode, Sample, SizeHint, Source, SourceCaps,
    SourceError, SourceInfo, StreamProfile, VerifyLevel,
};
use backup_engine::view::ViewEntry;
use backup_engine::{
    InitRequest, Repository, RestoreJob, RestoreOutcome, Result, SnapshotJob, SnapshotReport,
    SnapshotView, prepare, restore, snapshot, verify,
};
use backup_source_files::{FilesTarget, FilesTargetConfig};
use backup_testkit::{MemSink, TestClock};
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use crate::world::{Files, host, read};

/// When the given files were changed last, unless they say otherwise.
pub(crate) const CHANGED: i64 = 1_700_000_000;

/// A file that a test gives.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    pub(crate) name: &'static str,
    pub(crate) meta: EntryMeta,
    /// What the walk sees.
    pub(crate) state: Fingerprint,
    /// What is seen when it is open.
    pub(crate) open_state: Fingerprint,
    /// `None`: it cannot be opened.
    pub(crate) content: Option<Vec<u8>>,
    /// Bytes of a hole behind the content.
    pub(crate) hole: u64,
}

impl Given {
    pub(crate) fn file(name: &'static str, content: &[u8]) -> Self {
        let mtime = FileTime {
            seconds: CHANGED,
            nanos: 1,
        };
        let mut meta = EntryMeta::stream(mtime);
        meta.kind = EntryKind::File;
        let state = Fingerprint {
            size: content.len() as u64,
            mtime,
            ctime: mtime,
            inode: 1,
        };
        Self {
            name,
            meta,
            state,
            open_state: state,
            content: Some(content.to_vec()),
            hole: 0,
        }
    }

    /// With so many bytes of a hole behind its content.
    pub(crate) fn before_a_hole(mut self, bytes: u64) -> Self {
        self.hole = bytes;
        self.state.size += bytes;
        self.open_state = self.state;
        self
    }

    pub(crate) fn lost(self) -> Self {
        Self {
            content: None,
            ..self
        }
    }

    pub(crate) fn linked(mut self, group: u64) -> Self {
        self.meta.link_group = Some(group);
        self
    }

    /// Changed some seconds later.
    pub(crate) fn later(mut self, seconds: i64) -> Self {
        self.state.ctime.seconds += seconds;
        self.open_state = self.state;
        self
    }

    fn entry(self, folder: &std::path::Path, number: usize) -> Entry {
        let path = self.content.map(|content| {
            let path = folder.join(number.to_string());
            let size = content.len() as u64 + self.hole;
            std::fs::write(&path, content).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_len(size).unwrap();
            path
        });
        let body = match self.meta.kind {
            EntryKind::File => Body::File(Arc::new(Content {
                path,
                state: self.open_state,
            })),
            _ => Body::None,
        };
        Entry {
            path: EntryPath::from_slashed(self.name.as_bytes()).unwrap(),
            fingerprint: self.meta.kind.has_content().then_some(self.state),
            meta: self.meta,
            size: None,
            profile: StreamProfile::Auto,
            body,
        }
    }
}

#[derive(Debug)]
struct Content {
    path: Option<PathBuf>,
    state: Fingerprint,
}

impl OpenContent for Content {
    fn open(&self) -> io::Result<File> {
        match &self.path {
            Some(path) => File::open(path),
            None => Err(io::Error::other("it cannot be opened")),
        }
    }

    fn fingerprint(&self, _file: &File) -> io::Result<Fingerprint> {
        Ok(self.state)
    }
}

#[derive(Debug)]
struct GivenSource {
    files: Vec<Given>,
    findings: Vec<Finding>,
}

#[derive(Debug)]
struct GivenCapture {
    // Deleted when the capture ends.
    _folder: TempDir,
    entries: Vec<Entry>,
    findings: Vec<Finding>,
    point: ConsistentPoint,
}

#[async_trait]
impl Source for GivenSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "given",
            origin: Vec::new(),
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: 1,
                best_consistency: Consistency::Crash,
            },
        }
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        _request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        Ok(CapturePlan {
            mode: CaptureMode::Full { why: "test".into() },
            entries: Vec::new(),
            total: SizeHint {
                at_least: 0,
                at_most: None,
            },
            notes: Vec::new(),
            token: bytes::Bytes::new(),
        })
    }

    async fn begin(
        &self,
        cx: &OpContext,
        _plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let folder = tempfile::tempdir().unwrap();
        let files = self.files.iter().cloned().enumerate();
        let entries = files.map(|(number, given)| given.entry(folder.path(), number));
        Ok(Box::new(GivenCapture {
            entries: entries.collect(),
            _folder: folder,
            findings: self.findings.clone(),
            point: ConsistentPoint {
                at: cx.clock.now(),
                consistency: Consistency::Crash,
                position: None,
            },
        }))
    }
}

#[async_trait]
impl Capture for GivenCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        Ok(std::mem::take(&mut self.entries))
    }

    async fn close(&mut self, _cx: &OpContext) -> Result<CaptureReport, SourceError> {
        Ok(CaptureReport {
            findings: std::mem::take(&mut self.findings),
            ..CaptureReport::default()
        })
    }

    async fn settle(
        self: Box<Self>,
        _cx: &OpContext,
        _outcome: Outcome,
    ) -> Result<(), SourceError> {
        Ok(())
    }
}

/// A repository for what is given.
pub(crate) struct Shelf {
    pub(crate) cx: OpContext,
    pub(crate) clock: TestClock,
    pub(crate) cache: TempDir,
    pub(crate) repo: Repository,
    pub(crate) job: SnapshotJob,
}

impl Shelf {
    /// An empty one, a day behind the last change of the files.
    pub(crate) async fn new() -> Self {
        let clock = TestClock::at(Timestamp::constant(CHANGED + 86_400, 0));
        let cx = OpContext::new(Arc::new(clock.clone()));
        let cache = tempfile::tempdir().unwrap();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let sink = Arc::new(MemSink::new());
        let repo = prepared.create(&cx, sink, Some(cache.path().to_owned()));
        let repo = repo.await.unwrap();
        let repo = repo.keep_ledger_in(Some(cache.path().to_owned()));
        let job = SnapshotJob::new("given", host());
        Self {
            cx,
            clock,
            cache,
            repo,
            job,
        }
    }

    pub(crate) async fn try_to_save(&self, files: Vec<Given>) -> Result<SnapshotReport> {
        self.try_to_save_with(files, Vec::new()).await
    }

    pub(crate) async fn try_to_save_with(
        &self,
        files: Vec<Given>,
        findings: Vec<Finding>,
    ) -> Result<SnapshotReport> {
        let source = GivenSource { files, findings };
        self.save_from(Arc::new(source)).await
    }

    pub(crate) async fn save_from(&self, source: Arc<dyn Source>) -> Result<SnapshotReport> {
        self.repo.reload_index(&self.cx).await.unwrap();
        let ended = snapshot(&self.repo, &self.cx, source, &self.job).await;
        // The next one is newer.
        self.clock.advance(SignedDuration::from_secs(1));
        ended
    }

    pub(crate) async fn save(&self, files: Vec<Given>) -> SnapshotReport {
        self.try_to_save(files).await.unwrap()
    }

    async fn view(&self) -> SnapshotView<'_> {
        self.repo.reload_index(&self.cx).await.unwrap();
        let (mut heads, _) = self.repo.heads(&self.cx).await.unwrap();
        SnapshotView::open(&self.repo, heads.pop().unwrap()).unwrap()
    }

    /// The newest snapshot's entries.
    pub(crate) async fn entries(&self) -> Vec<ViewEntry> {
        let view = self.view().await;
        let mut walk = view.entries(0, &EntryPath::root());
        let mut out = Vec::new();
        while let Some(entry) = walk.next(&self.cx).await.unwrap() {
            out.push(entry);
        }
        out
    }

    pub(crate) async fn try_to_restore(&self, to: &std::path::Path) -> Result<RestoreOutcome> {
        let view = self.view().await;
        let target = FilesTarget::new(FilesTargetConfig {
            sync: false,
            ..FilesTargetConfig::of_folder(to)
        });
        let job = RestoreJob::whole(RestoreMode::Files, Some(to.to_owned()), host());
        restore(&view, &self.cx, Arc::new(target), &job).await
    }

    /// What the newest snapshot brings back, after seeing that all of the repository is sound.
    pub(crate) async fn restored(&self) -> Files {
        let out = tempfile::tempdir().unwrap();
        self.try_to_restore(out.path()).await.unwrap();
        let done = verify(
            &self.repo,
            &self.cx,
            None,
            VerifyLevel::FullRead,
            Sample::All,
        );
        assert_eq!(done.await.unwrap().report.findings, []);
        read(out.path())
    }
}
