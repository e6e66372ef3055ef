//! Real files into a real folder and back, through the engine alone.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{EntryPath, HostId, OpContext, RestoreMode, Sample, Source, VerifyLevel};
use backup_engine::{
    InitRequest, Repository, RestoreJob, RestoreOutcome, SnapshotJob, SnapshotReport, SnapshotView,
    prepare, restore, snapshot, verify,
};
use backup_sink_local::LocalSink;
use backup_source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig, Overwrite};

#[derive(Debug)]
struct WallClock;

impl backup_core::Clock for WallClock {
    #[allow(clippy::disallowed_methods, reason = "a test needs the time as it is")]
    fn now(&self) -> jiff::Timestamp {
        // As if every run were a minute behind the last change of the files.
        jiff::Timestamp::now() + jiff::SignedDuration::from_secs(60)
    }
}

struct World {
    dir: tempfile::TempDir,
    cx: OpContext,
    repo: Repository,
}

fn job() -> SnapshotJob {
    SnapshotJob::new("test", HostId("host".into()))
}

impl World {
    async fn new(with_cache: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let cx = OpContext::new(Arc::new(WallClock));
        fs::create_dir(dir.path().join("repo")).unwrap();
        let sink = Arc::new(LocalSink::new(dir.path().join("repo")));
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let cache = with_cache.then(|| dir.path().join("cache"));
        let repo = prepare(&cx, &request)
            .unwrap()
            .create(&cx, sink, cache)
            .await
            .unwrap();
        Self { dir, cx, repo }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn save(&self, root: &Path) -> SnapshotReport {
        self.repo.reload_index(&self.cx).await.unwrap();
        let source: Arc<dyn Source> =
            Arc::new(FilesSource::new(FilesConfig::of_roots([root.to_owned()])));
        snapshot(&self.repo, &self.cx, source, &job())
            .await
            .unwrap()
    }

    async fn restore_newest(&self, below: &Path, to: &Path) -> RestoreOutcome {
        fs::create_dir_all(to).unwrap();
        let config = FilesTargetConfig {
            sync: false,
            ..FilesTargetConfig::of_folder(to)
        };
        let outcome = self.restore_newest_with(below, config).await;
        assert_eq!(outcome.report.findings, [], "{:?}", outcome.report.findings);
        outcome
    }

    async fn restore_newest_with(&self, below: &Path, config: FilesTargetConfig) -> RestoreOutcome {
        self.repo.reload_index(&self.cx).await.unwrap();
        let (heads, errors) = self.repo.heads(&self.cx).await.unwrap();
        assert!(errors.is_empty(), "{errors:?}");
        let view = SnapshotView::open(&self.repo, heads.last().unwrap().clone()).unwrap();
        view.check_signatures().unwrap();
        let folder = Some(config.folder.clone());
        let target = Arc::new(FilesTarget::new(config));
        let below = EntryPath::from_slashed(below.as_os_str().as_encoded_bytes()).unwrap();
        let job = RestoreJob {
            component: 0,
            strip: below.clone(),
            below,
            filter: None,
            salvage: None,
            mode: RestoreMode::Files,
            folder,
            host: HostId("host".into()),
            user: "me".into(),
        };
        restore(&view, &self.cx, target, &job).await.unwrap()
    }

    async fn verify(&self) {
        self.repo.reload_index(&self.cx).await.unwrap();
        let done = verify(
            &self.repo,
            &self.cx,
            None,
            VerifyLevel::FullRead,
            Sample::All,
        )
        .await
        .unwrap();
        assert_eq!(done.report.findings, []);
        assert!(done.read_manifests);
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(&seed.to_le_bytes())
        .finalize_xof()
        .fill(&mut out);
    out
}

/// Small files, large files, pages, holes, links.
fn make_tree(root: &Path) {
    for folder in 0..20 {
        let folder = root.join(format!("folder{folder:02}"));
        fs::create_dir_all(&folder).unwrap();
        for file in 0..40u64 {
            let length = usize::try_from(file * file * 37).unwrap();
            fs::write(folder.join(format!("f{file}")), noise(file * 31, length)).unwrap();
        }
    }
    fs::write(root.join("dump"), noise(1, 9 << 20)).unwrap();
    let mut pages = noise(2, 6 << 20);
    for page in pages.chunks_mut(8192) {
        page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
    }
    fs::write(root.join("relation"), pages).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.write_all_at(b"middle", 3 << 20).unwrap();
    sparse.set_len(20 << 20).unwrap();
    fs::write(root.join("empty"), b"").unwrap();
    fs::hard_link(root.join("dump"), root.join("zlink")).unwrap();
    fs::hard_link(root.join("folder00/f9"), root.join("folder01/link")).unwrap();
    std::os::unix::fs::symlink("folder00/f1", root.join("symlink")).unwrap();
}

fn assert_same(a: &Path, b: &Path) {
    let out = std::process::Command::new("diff")
        .arg("-r")
        .arg(a)
        .arg(b)
        .output()
        .unwrap();
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stdout)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tree_comes_back_as_it_was() {
    let world = World::new(true).await;
    let tree = world.path("tree");
    make_tree(&tree);
    let report = world.save(&tree).await;
    assert_eq!(report.findings, []);
    assert!(report.meta.stats.bytes_added > 10 << 20);
    world.restore_newest(&tree, &world.path("out")).await;
    assert_same(&tree, &world.path("out"));
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_unchanged_is_not_read_and_adds_next_to_nothing() {
    for with_cache in [true, false] {
        let world = World::new(with_cache).await;
        let tree = world.path("tree");
        make_tree(&tree);
        let first = world.save(&tree).await;
        let second = world.save(&tree).await;
        // The folders above the tree hold the repository too: their times change.
        let added = second.meta.stats.bytes_new;
        assert!(added < 20_000, "{added} bytes, cache {with_cache}");
        if with_cache {
            assert_eq!(second.meta.stats.bytes_read, 0);
        }
        assert_eq!(second.meta.parent, Some(first.meta.id));
        assert_ne!(
            second.root, first.root,
            "each snapshot has a salt of its own"
        );
        world.restore_newest(&tree, &world.path("out")).await;
        assert_same(&tree, &world.path("out"));
        world.verify().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_stores_little_more_than_what_changed() {
    for with_cache in [true, false] {
        let world = World::new(with_cache).await;
        let tree = world.path("tree");
        make_tree(&tree);
        world.save(&tree).await;
        let relation = fs::File::options()
            .write(true)
            .open(tree.join("relation"))
            .unwrap();
        relation.write_all_at(&noise(77, 100), 3_000_000).unwrap();
        let mut dump = fs::read(tree.join("dump")).unwrap();
        dump.splice(4_000_000..4_000_000, *b"inserted");
        fs::remove_file(tree.join("zlink")).unwrap();
        fs::write(tree.join("dump"), dump).unwrap();
        fs::remove_file(tree.join("folder03/f7")).unwrap();
        fs::write(tree.join("folder04/new"), b"new").unwrap();
        let report = world.save(&tree).await;
        let added = report.meta.stats.bytes_new;
        // Without the state of the last run, a bundle with a changed file in it is stored anew.
        let most = if with_cache { 200_000 } else { 900_000 };
        assert!(added < most, "{added} bytes, cache {with_cache}");
        world.restore_newest(&tree, &world.path("out")).await;
        assert_same(&tree, &world.path("out"));
        world.verify().await;
    }
}

/// The bundles of the moved folder cannot be cut as they were: it begins and ends in the middle of
/// two, and an edit lies in each of the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_folder_is_stored_again_only_where_it_was_edited() {
    let world = World::new(true).await;
    let tree = world.path("tree");
    for folder in 0..6u64 {
        let folder_path = tree.join(format!("folder{folder}"));
        fs::create_dir_all(&folder_path).unwrap();
        for file in 0..200u64 {
            let content = noise(folder * 1000 + file, 10_000);
            fs::write(folder_path.join(format!("f{file:03}")), content).unwrap();
        }
    }
    world.save(&tree).await;
    let moved = tree.join("a-moved");
    fs::rename(tree.join("folder3"), &moved).unwrap();
    for file in (0..200u64).step_by(20) {
        fs::write(
            moved.join(format!("f{file:03}")),
            noise(90_000 + file, 10_000),
        )
        .unwrap();
    }
    let report = world.save(&tree).await;
    let added = report.meta.stats.bytes_new;
    // Ten files of 10,000 bytes, and pages.
    assert!(added < 250_000, "{added} bytes");
    world.restore_newest(&tree, &world.path("out")).await;
    assert_same(&tree, &world.path("out"));
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_files_that_lie_together_are_fetched_once() {
    let world = World::new(false).await;
    let root = world.path("tree");
    fs::create_dir_all(&root).unwrap();
    for number in 0..3000 {
        fs::write(root.join(format!("{number:04}")), noise(number, 2000)).unwrap();
    }
    let stored = world.save(&root).await.meta.stats.bytes_added;
    let outcome = world.restore_newest(&root, &world.path("back")).await;
    assert!(
        outcome.fetched <= stored,
        "{} bytes were fetched of {stored}",
        outcome.fetched
    );
    assert_same(&root, &world.path("back"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_changes_in_a_row_stay_whole() {
    let world = World::new(true).await;
    let tree = world.path("tree");
    fs::create_dir(&tree).unwrap();
    let mut pages = noise(2, 4 << 20);
    for page in pages.chunks_mut(8192) {
        page[18..20].copy_from_slice(&0x2004u16.to_le_bytes());
    }
    fs::write(tree.join("relation"), &pages).unwrap();
    world.save(&tree).await;
    let mut total = 0;
    for round in 0..30u64 {
        let file = fs::File::options()
            .write(true)
            .open(tree.join("relation"))
            .unwrap();
        for change in 0..15u64 {
            let at = (round * 7919 + change * 104_729) % (4 << 20);
            file.write_all_at(&noise(round * 100 + change, 50), at)
                .unwrap();
        }
        let report = world.save(&tree).await;
        let added = report.meta.stats.bytes_new;
        total += added;
        println!("round {round}: {added}");
    }
    // Each round rewrites 15 pages of 8 KiB; now and then what survives of a chunk is stored anew.
    assert!(total < 24 << 20, "{total} bytes for thirty rounds");
    world.restore_newest(&tree, &world.path("out")).await;
    assert_same(&tree, &world.path("out"));
    world.verify().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_filter_holds_back_is_not_deleted_as_if_the_snapshot_did_not_have_it() {
    let world = World::new(true).await;
    let tree = world.path("tree");
    fs::create_dir_all(tree.join("folder")).unwrap();
    for name in ["a.conf", "b.txt", "folder/c.conf", "folder/d.txt"] {
        fs::write(tree.join(name), name).unwrap();
    }
    world.save(&tree).await;
    let out = world.path("out");
    world.restore_newest(&tree, &out).await;
    let (heads, _) = world.repo.heads(&world.cx).await.unwrap();
    let view = SnapshotView::open(&world.repo, heads[0].clone()).unwrap();
    let below = EntryPath::from_slashed(tree.as_os_str().as_encoded_bytes()).unwrap();
    let mut job = RestoreJob {
        strip: below.clone(),
        below,
        ..RestoreJob::whole(RestoreMode::Files, Some(out.clone()), HostId("host".into()))
    };
    job.filter = Some(Arc::new(|path: &EntryPath, _: &_| {
        path.name().is_some_and(|name| name.ends_with(b".conf"))
    }));
    let config = FilesTargetConfig {
        delete: true,
        ..FilesTargetConfig::of_folder(&out)
    };
    let target = Arc::new(FilesTarget::new(config));
    let outcome = restore(&view, &world.cx, target, &job).await.unwrap();
    assert_eq!(outcome.report.deleted, 0);
    assert_same(&tree, &out);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_over_other_content_leaves_nothing_of_it_in_zeros() {
    for overwrite in [Overwrite::Always, Overwrite::IfNewer] {
        let world = World::new(true).await;
        let tree = world.path("tree");
        fs::create_dir(&tree).unwrap();
        // Holes and written zeros, at the start, in the middle and at the end; nothing but zeros.
        let image = fs::File::create(tree.join("image")).unwrap();
        image.write_all_at(&noise(1, 300_000), 1 << 20).unwrap();
        image.write_all_at(&vec![0; 1 << 20], 2 << 20).unwrap();
        image.write_all_at(&noise(2, 300_000), 4 << 20).unwrap();
        image.set_len(6 << 20).unwrap();
        fs::write(tree.join("zeros"), vec![0; 700_000]).unwrap();
        fs::write(tree.join("same"), noise(3, 200_000)).unwrap();
        fs::write(tree.join("short"), noise(4, 200_000)).unwrap();
        world.save(&tree).await;
        let out = world.path("out");
        fs::create_dir(&out).unwrap();
        for name in ["image", "zeros", "same", "short"] {
            let length = fs::metadata(tree.join(name)).unwrap().len();
            let length = usize::try_from(length).unwrap();
            let mut old = noise(5, length + 5000);
            match name {
                "same" => old = fs::read(tree.join(name)).unwrap(),
                // Its beginning is right.
                "short" => {
                    old = fs::read(tree.join(name)).unwrap();
                    old.truncate(100_000);
                }
                // In part what it should be.
                "image" => old[1 << 20..(1 << 20) + 100_000].copy_from_slice(&noise(1, 100_000)),
                _ => {}
            }
            fs::write(out.join(name), old).unwrap();
            let file = fs::File::options().write(true).open(out.join(name));
            let long_ago = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
            file.unwrap().set_modified(long_ago).unwrap();
        }
        let config = FilesTargetConfig {
            overwrite,
            ..FilesTargetConfig::of_folder(&out)
        };
        let outcome = world.restore_newest_with(&tree, config).await;
        assert_eq!(outcome.report.findings, [], "{overwrite:?}");
        for name in ["image", "zeros", "same", "short"] {
            let sha256 = |folder: &Path| {
                let content = fs::read(folder.join(name)).unwrap();
                backup_integrity::digest::ContentDigest::of(&content)
            };
            assert_eq!(sha256(&out), sha256(&tree), "{overwrite:?} {name}");
        }
    }
}
