//! All stages of a snapshot over a tier in memory: small files and one large file, saved for the
//! first time and saved again unchanged.

#![allow(
    clippy::unwrap_used,
    reason = "a benchmark that cannot be set up has failed"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use backup_core::{HostId, OpContext, Source};
use backup_engine::{InitRequest, Repository, SnapshotJob, prepare, snapshot};
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::MemSink;
use divan::Bencher;
use divan::counter::BytesCount;
use tempfile::TempDir;
use tokio::runtime::Runtime;

const SMALL: usize = 3 << 10;
const FILES: usize = 4000;
const LARGE: usize = 128 << 20;

fn main() {
    divan::main();
}

/// What is saved: small files in folders of a hundred, or one large one.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Small,
    Large,
}

impl Kind {
    const fn bytes(self) -> usize {
        match self {
            Self::Small => FILES * SMALL,
            Self::Large => LARGE,
        }
    }

    fn make(self, root: &Path) {
        let mut bytes = vec![0; self.bytes()];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        if let Self::Large = self {
            return fs::write(root.join("large"), bytes).unwrap();
        }
        for (number, content) in bytes.chunks(SMALL).enumerate() {
            let folder = root.join(format!("folder{:02}", number / 100));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join(format!("file{number:05}")), content).unwrap();
        }
    }
}

#[derive(Debug)]
struct WallClock;

impl backup_core::Clock for WallClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "files are compared with the time as it is"
    )]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}

struct World {
    runtime: Runtime,
    folder: TempDir,
    cx: OpContext,
}

impl World {
    fn new(kind: Kind) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        kind.make(&folder.path().join("data"));
        Self {
            runtime: Runtime::new().unwrap(),
            folder,
            cx: OpContext::new(Arc::new(WallClock)),
        }
    }

    /// An empty repository with an empty cache.
    fn repository(&self) -> Repository {
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let cache = tempfile::tempdir_in(self.folder.path()).unwrap().keep();
        let prepared = prepare(&self.cx, &request).unwrap();
        let made = prepared.create(&self.cx, Arc::new(MemSink::new()), Some(cache));
        self.runtime.block_on(made).unwrap()
    }

    /// Saves everything; says how many entries were unchanged.
    fn save(&self, repository: &Repository) -> u64 {
        let roots = FilesConfig::of_roots([self.folder.path().join("data")]);
        let source: Arc<dyn Source> = Arc::new(FilesSource::new(roots));
        let job = SnapshotJob::new("bench", HostId("host".into()));
        let saved = self.runtime.block_on(async {
            repository.reload_index(&self.cx).await.unwrap();
            snapshot(repository, &self.cx, source, &job).await
        });
        saved.unwrap().meta.stats.unchanged
    }
}

/// Into an empty repository.
#[divan::bench(args = [Kind::Small, Kind::Large], sample_count = 10, sample_size = 1)]
fn first(bencher: Bencher<'_, '_>, kind: Kind) {
    let world = World::new(kind);
    bencher
        .counter(BytesCount::new(kind.bytes()))
        .with_inputs(|| world.repository())
        .bench_local_values(|repository| assert_eq!(world.save(&repository), 0));
}

/// Once more, nothing having changed.
#[divan::bench(args = [Kind::Small, Kind::Large], sample_count = 10, sample_size = 1)]
fn unchanged(bencher: Bencher<'_, '_>, kind: Kind) {
    let world = World::new(kind);
    let repository = world.repository();
    world.save(&repository);
    bencher
        .counter(BytesCount::new(kind.bytes()))
        .bench_local(|| assert_ne!(world.save(&repository), 0));
}
