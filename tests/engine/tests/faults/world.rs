//! A repository in memory, real files to save, and the questions that every fault must leave
//! answered with yes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    EntryPath, HostId, OpContext, RestoreMode, Sample, Severity, Sink, Source, VerifyLevel,
};
use backup_engine::ledger::{LedgerCheck, LedgerDraft, record_operation, verify_ledger};
use backup_engine::repository::SnapshotHead;
use backup_engine::snapshot::CheckpointRule;
use backup_engine::{
    InitRequest, Repository, RestoreJob, RestoreOutcome, Result, SnapshotJob, SnapshotReport,
    SnapshotView, Unlock, prepare, restore, snapshot, verify,
};
use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_integrity::ledger::RecordOutcome;
use backup_parity::Share;
use backup_source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};
use backup_testkit::{FaultSink, MemSink, TestClock};
use jiff::SignedDuration;
use tempfile::TempDir;

pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Whether a run knows what the last one saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    Kept,
    Lost,
}

/// A repository with what led to it, from which every case starts.
pub(crate) struct World {
    pub(crate) cx: OpContext,
    pub(crate) job: SnapshotJob,
    dir: TempDir,
    pub(crate) mem: MemSink,
    key: Vec<u8>,
    /// What its snapshots hold, oldest first.
    pub(crate) saved: Vec<Files>,
    /// A copy of the repository that has a further snapshot, of the files as they are now.
    pub(crate) ahead: Option<MemSink>,
}

pub(crate) fn host() -> HostId {
    HostId("host".into())
}

pub(crate) fn job() -> SnapshotJob {
    let mut job = SnapshotJob::new("test", host());
    // Several checkpoints in a small run.
    job.checkpoint = CheckpointRule {
        bytes: 1 << 20,
        every: Duration::from_secs(3600),
        ..CheckpointRule::default()
    };
    job
}

pub(crate) fn context() -> OpContext {
    // Behind all changes of the files: none was made in the tick in which it is read.
    let clock = TestClock::at_text("2100-01-01T00:00:00Z").ticking(SignedDuration::from_millis(10));
    OpContext::new(Arc::new(clock))
}

/// Records that a repository was made, as the programs do.
pub(crate) async fn record_making(repo: &Repository, cx: &OpContext) {
    let draft = LedgerDraft {
        op: "init",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: String::new(),
    };
    let recorded = record_operation(repo, cx, &host(), "me", draft).await;
    assert_eq!(recorded.unwrap(), []);
}

pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

impl World {
    /// A repository without snapshots and without files, with so much parity.
    pub(crate) async fn empty_with_parity(parity: Option<Share>) -> Self {
        let cx = context();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("tree/below")).unwrap();
        let mem = MemSink::new();
        let request = InitRequest {
            key_file: true,
            parity,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let repo = prepared.create(&cx, Arc::new(mem.clone()), None).await;
        record_making(&repo.unwrap(), &cx).await;
        Self {
            cx,
            job: job(),
            dir,
            mem,
            key,
            saved: Vec::new(),
            ahead: None,
        }
    }

    /// A repository without snapshots, and files.
    pub(crate) async fn new() -> Self {
        Self::with_parity(None).await
    }

    /// The same with so much parity.
    pub(crate) async fn with_parity(parity: Option<Share>) -> Self {
        let world = Self::empty_with_parity(parity).await;
        for number in 0..60u64 {
            let content = noise(number, usize::try_from(number * number * 9).unwrap());
            world.write(&format!("below/{number}"), &content);
        }
        world.write("dump", &noise(1000, 2 << 20));
        world.write("large", &noise(1001, 1 << 20));
        world
    }

    /// A repository with a snapshot, and files that have changed since.
    pub(crate) async fn with_snapshot() -> Self {
        Self::new().await.and_snapshot().await
    }

    /// The same with a snapshot, and files that have changed since.
    pub(crate) async fn and_snapshot(self) -> Self {
        let mut world = self;
        let repo = world.open(Arc::new(world.mem.clone()), Some(world.cache()));
        let repo = repo.await.unwrap();
        world.save(&repo).await.unwrap();
        // Reading fills the cache.
        repo.reload_index(&world.cx).await.unwrap();
        repo.heads(&world.cx).await.unwrap();
        world.saved.push(world.files());
        for number in (0..60u64).step_by(7) {
            world.write(&format!("below/{number}"), &noise(number + 100, 3000));
        }
        let mut dump = noise(1000, 2 << 20);
        dump.splice(900_000..900_000, *b"inserted");
        world.write("dump", &dump);
        world.write("new", &noise(1002, 1_300_000));
        world
    }

    /// What the repository opens with.
    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.tree().join(name), content).unwrap();
    }

    /// Takes a file away.
    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.tree().join(name)).unwrap();
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.path().join("cache")
    }

    /// What is to be saved now.
    pub(crate) fn files(&self) -> Files {
        read(&self.tree())
    }

    /// A tier and a cache of its own.
    pub(crate) fn case(&self, memory: Memory) -> Case {
        let cache = tempfile::tempdir().unwrap();
        if memory == Memory::Kept && self.cache().exists() {
            copy(&self.cache(), cache.path());
        }
        Case {
            mem: self.mem.fork(),
            cache,
            memory,
        }
    }

    pub(crate) async fn open(
        &self,
        sink: Arc<dyn Sink>,
        cache: Option<PathBuf>,
    ) -> Result<Repository> {
        self.open_in(&self.cx, sink, cache).await
    }

    pub(crate) async fn open_in(
        &self,
        cx: &OpContext,
        sink: Arc<dyn Sink>,
        cache: Option<PathBuf>,
    ) -> Result<Repository> {
        let unlock = Unlock::KeyFile(KeyFile::parse(&self.key).unwrap());
        let state = cache.as_deref().map(state);
        let repo = Repository::open(cx, sink, &unlock, cache, Operation::Write).await?;
        Ok(repo.keep_ledger_in(state))
    }

    pub(crate) async fn save(&self, repo: &Repository) -> Result<SnapshotReport> {
        self.save_in(&self.cx, repo).await
    }

    pub(crate) async fn save_in(
        &self,
        cx: &OpContext,
        repo: &Repository,
    ) -> Result<SnapshotReport> {
        let config = FilesConfig::of_roots([self.tree()]);
        let source: Arc<dyn Source> = Arc::new(FilesSource::new(config));
        let run = snapshot(repo, cx, source, &self.job);
        tokio::time::timeout(Duration::from_secs(60), run)
            .await
            .expect("a run whose tier has failed ends")
    }

    /// Opens a case's repository and saves; whatever fails.
    pub(crate) async fn try_to_save(
        &self,
        case: &Case,
        sink: &FaultSink,
    ) -> Result<SnapshotReport> {
        let repo = self.open(Arc::new(sink.clone()), case.cache()).await?;
        self.save(&repo).await
    }

    pub(crate) async fn restore(&self, repo: &Repository, head: SnapshotHead) -> Files {
        let out = tempfile::tempdir().unwrap();
        let done = self.try_to_restore(repo, &self.cx, head, out.path()).await;
        assert_eq!(done.unwrap().report.findings, []);
        read(out.path())
    }

    pub(crate) async fn try_to_restore(
        &self,
        repo: &Repository,
        cx: &OpContext,
        head: SnapshotHead,
        out: &Path,
    ) -> Result<RestoreOutcome> {
        let view = SnapshotView::open(repo, head).unwrap();
        let target = FilesTarget::new(FilesTargetConfig {
            sync: false,
            ..FilesTargetConfig::of_folder(out)
        });
        let below = self.tree();
        let below = EntryPath::from_slashed(below.as_os_str().as_encoded_bytes()).unwrap();
        let job = RestoreJob {
            component: 0,
            strip: below.clone(),
            below,
            filter: None,
            salvage: None,
            mode: RestoreMode::Files,
            folder: Some(out.to_owned()),
            host: host(),
            user: "me".into(),
        };
        restore(&view, cx, Arc::new(target), &job).await
    }

    /// The repository of a case, read anew by somebody else: everything that was saved before comes
    /// back, a snapshot that is there beyond that holds the files of now, and there is no damage.
    /// Says how many snapshots there are.
    pub(crate) async fn check(&self, case: &Case, what: &str) -> usize {
        let repo = self.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let (heads, errors) = repo.heads(&self.cx).await.unwrap();
        assert!(errors.is_empty(), "{what}: {errors:?}");
        assert!(
            heads.len() >= self.saved.len(),
            "{what}: a snapshot is lost"
        );
        let now = self.files();
        let count = heads.len();
        let wanted = self.saved.iter().chain(std::iter::repeat(&now));
        for (number, (head, wanted)) in heads.into_iter().zip(wanted).enumerate() {
            let found = self.restore(&repo, head).await;
            assert!(found == *wanted, "{what}: snapshot {number} is not itself");
        }
        let done = verify(&repo, &self.cx, None, VerifyLevel::FullRead, Sample::All).await;
        let mut findings = done.unwrap().report.findings;
        // What a run stored for another that was killed may be named and not used.
        findings.retain(|finding| finding.severity > Severity::Note);
        assert_eq!(findings, [], "{what}");
        for cache in [None, case.cache()] {
            let repo = self.open(Arc::new(case.mem.clone()), cache).await.unwrap();
            let ledger = verify_ledger(&repo, &self.cx).await.unwrap();
            assert_eq!(serious(&ledger), Vec::<String>::new(), "{what}");
        }
        count
    }

    /// Everything that was saved before comes back, whatever else is said.
    pub(crate) async fn check_restores(&self, case: &Case, what: &str) {
        let repo = self.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let (heads, errors) = repo.heads(&self.cx).await.unwrap();
        assert!(errors.is_empty(), "{what}: {errors:?}");
        assert_eq!(heads.len(), self.saved.len(), "{what}");
        for (head, wanted) in heads.into_iter().zip(&self.saved) {
            assert!(self.restore(&repo, head).await == *wanted, "{what}");
        }
    }

    /// The next run, on a tier that works: it succeeds and leaves nothing to be noted.
    pub(crate) async fn make_good(&self, case: &Case, what: &str) -> SnapshotReport {
        let repo = self.open(Arc::new(case.mem.clone()), case.cache());
        let repo = repo.await.unwrap();
        let report = self.save(&repo).await;
        let report = report.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(report.findings, [], "{what}");
        let repo = self.open(Arc::new(case.mem.clone()), case.cache());
        let repo = repo.await.unwrap();
        self.check(case, what).await;
        let mut ledger = verify_ledger(&repo, &self.cx).await.unwrap();
        // That a run could not read a record stays written down, and that one was killed before it could
        // record a hold.
        let passed_over = "could not be read when it was written";
        ledger.findings.retain(|finding| {
            let is_note = finding.severity == Severity::Note;
            let is_hold = is_note && finding.subject.starts_with("holds/");
            // And one that was killed before it could take a snapshot away.
            let is_unfinished = is_note && finding.detail.contains("it was forgotten, and it is");
            !is_hold && !is_unfinished && !finding.detail.contains(passed_over)
        });
        assert_eq!(ledger.findings, [], "{what}");
        report
    }

    /// No chunk is indexed twice: what a run stored before it failed is found again by the next.
    pub(crate) async fn check_stored_once(&self, case: &Case, what: &str) {
        let repo = self.open(Arc::new(case.mem.clone()), None).await.unwrap();
        let mut seen = HashSet::new();
        for part in repo.index().parts() {
            for (id, _) in part.iter() {
                assert!(seen.insert(id), "{what}: a chunk is stored twice");
            }
        }
    }

    /// One more snapshot of the files as they are, as the ground for further cases.
    pub(crate) async fn keep_one_more(&mut self) {
        let repo = self.open(Arc::new(self.mem.clone()), Some(self.cache()));
        self.save(&repo.await.unwrap()).await.unwrap();
        self.saved.push(self.files());
    }

    /// The same world, and beside it a copy of the repository with one more snapshot.
    pub(crate) async fn and_ahead(self) -> Self {
        let ahead = self.mem.fork();
        let repo = self.open(Arc::new(ahead.clone()), None).await.unwrap();
        self.save(&repo).await.unwrap();
        Self {
            ahead: Some(ahead),
            ..self
        }
    }

    /// The same world, with the oldest snapshot forgotten.
    pub(crate) fn forget_oldest(&mut self) {
        self.saved.remove(0);
    }
}

/// One run of a fault.
pub(crate) struct Case {
    pub(crate) mem: MemSink,
    cache: TempDir,
    memory: Memory,
}

impl Case {
    /// This tier, of which nobody remembers anything.
    pub(crate) fn of(mem: MemSink) -> Self {
        Self {
            mem,
            cache: tempfile::tempdir().unwrap(),
            memory: Memory::Lost,
        }
    }

    pub(crate) fn cache(&self) -> Option<PathBuf> {
        (self.memory == Memory::Kept).then(|| self.cache.path().to_owned())
    }

    pub(crate) fn state(&self) -> Option<PathBuf> {
        self.cache().as_deref().map(state)
    }

    pub(crate) fn faulty(&self) -> FaultSink {
        FaultSink::new(Arc::new(self.mem.clone()), 7)
    }
}

/// Where a copy of the ledger is kept beside a cache.
fn state(cache: &Path) -> PathBuf {
    cache.join("state")
}

pub(crate) fn serious(check: &LedgerCheck) -> Vec<String> {
    let findings = check.findings.iter();
    let serious = findings.filter(|finding| finding.severity > Severity::Note);
    serious.map(|finding| format!("{finding:?}")).collect()
}

pub(crate) fn read(folder: &Path) -> Files {
    let mut out = Files::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                out.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    out
}

fn copy(from: &Path, to: &Path) {
    for (name, content) in read(from) {
        let path = to.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}
