//! Every page of a manifest of several levels is damaged in turn: all that it does not hold comes
//! back as it was, and what it holds is named.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot be set up has failed"
)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{ChunkId, EntryPath, HostId, OpContext, RestoreMode, Sample, VerifyLevel};
use backup_engine::restore::dry_run;
use backup_engine::{
    EngineError, InitRequest, Repository, RestoreJob, RestoreOutcome, SnapshotJob, SnapshotView,
    prepare, restore, snapshot, verify,
};
use backup_format::page::{Step, TreeCursor};
use backup_format::seal::BlobKind;
use backup_source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};
use backup_testkit::{MemSink, context};

struct World {
    dir: tempfile::TempDir,
    cx: OpContext,
    tier: MemSink,
    repo: Repository,
}

/// A page, and the entries below it by their number.
#[derive(Debug, Clone)]
struct Held {
    id: ChunkId,
    level: u8,
    entries: std::ops::Range<usize>,
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut out);
    out
}

/// Long names, so that few entries fill many pages; hard links with three names; folders of modes
/// that no new folder gets.
fn make_tree(root: &Path) {
    for folder in 0..20u64 {
        let above = root.join(format!("folder{folder:02}"));
        let inner = above.join("inner");
        fs::create_dir_all(&inner).unwrap();
        for file in 0..8u64 {
            let seed = folder * 100 + file;
            let long: String = (noise(seed, 100).iter())
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let inside = if file % 2 == 0 { &above } else { &inner };
            let path = inside.join(format!("{file}{long}"));
            fs::write(&path, noise(seed, 3000)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
            if file == 0 {
                for name in ["link", "inner/zlink"] {
                    fs::hard_link(&path, above.join(name)).unwrap();
                }
            }
        }
        for folder in [inner, above] {
            fs::set_permissions(&folder, fs::Permissions::from_mode(0o710)).unwrap();
        }
    }
}

impl World {
    async fn new() -> Self {
        let (dir, cx, tier) = (tempfile::tempdir().unwrap(), context(), MemSink::new());
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let sink = Arc::new(tier.clone());
        let repo = prepared.create(&cx, sink, None).await.unwrap();
        let tree = dir.path().join("tree");
        make_tree(&tree);
        let source = Arc::new(FilesSource::new(FilesConfig::of_roots([tree])));
        let job = SnapshotJob::new("test", HostId("host".into()));
        let _ = snapshot(&repo, &cx, source, &job).await.unwrap();
        repo.reload_index(&cx).await.unwrap();
        Self {
            dir,
            cx,
            tier,
            repo,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    async fn view(&self) -> SnapshotView<'_> {
        let (mut heads, _) = self.repo.heads(&self.cx).await.unwrap();
        SnapshotView::open(&self.repo, heads.pop().unwrap()).unwrap()
    }

    /// The paths of all entries in order, and every page with what is below it.
    async fn pages(&self, view: &SnapshotView<'_>) -> (Vec<EntryPath>, Vec<Held>) {
        let root = view.head().outer.manifest.unwrap();
        let mut cursor = TreeCursor::new(&root, &[]);
        let (mut paths, mut begun) = (Vec::new(), Vec::new());
        loop {
            match cursor.step().unwrap() {
                Step::Need(id) => {
                    let page = self.repo.read_blob(&self.cx, BlobKind::Page, &id).await;
                    let page = page.unwrap();
                    begun.push((id, page[0], paths.len()));
                    cursor.supply(&page).unwrap();
                }
                Step::Entry(key, _) => paths.push(EntryPath::from_stored(&key[1..]).unwrap()),
                Step::End => break,
            }
        }
        let pages = begun.iter().enumerate().map(|(at, (id, level, begin))| {
            let next = begun[at + 1..].iter().find(|(_, other, _)| other >= level);
            let end = next.map_or(paths.len(), |(_, _, begin)| *begin);
            Held {
                id: *id,
                level: *level,
                entries: *begin..end,
            }
        });
        let pages = pages.collect();
        (paths, pages)
    }

    /// Flips a bit in a page; flips it back when called again.
    fn flip(&self, id: &ChunkId) {
        let place = self.repo.index().find(id).unwrap();
        let at = (place.located.offset + place.located.stored / 2) as usize;
        let key = Repository::pack_key(&place).unwrap();
        assert!(self.tier.damage(&key, |bytes| bytes[at] ^= 1));
    }

    fn job(&self, out: &Path) -> RestoreJob {
        let tree = self.path("tree");
        let below = EntryPath::from_slashed(tree.as_os_str().as_encoded_bytes()).unwrap();
        RestoreJob {
            strip: below.clone(),
            below,
            ..RestoreJob::whole(
                RestoreMode::Files,
                Some(out.to_owned()),
                HostId("host".into()),
            )
        }
    }

    /// Restores into `out`, where something stands that the snapshot does not have.
    async fn restore(
        &self,
        view: &SnapshotView<'_>,
        out: &Path,
    ) -> Result<RestoreOutcome, EngineError> {
        fs::create_dir_all(out.join("folder05")).unwrap();
        fs::write(out.join("folder05/other"), "other").unwrap();
        let config = FilesTargetConfig {
            delete: true,
            ..FilesTargetConfig::of_folder(out)
        };
        let target = Arc::new(FilesTarget::new(config));
        restore(view, &self.cx, target, &self.job(out)).await
    }
}

type Seen = (u32, i64, Option<Vec<u8>>);

/// Mode, time and content of everything below a folder but what [`World::restore`] put there.
fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut out, mut left) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = meta.is_file().then(|| fs::read(&path).unwrap());
            let relative = path.strip_prefix(root).unwrap().to_owned();
            let _ = out.insert(relative, (meta.mode(), meta.mtime(), content));
            if meta.is_dir() {
                left.push(path);
            }
        }
    }
    let _ = out.remove(Path::new("folder05/other"));
    // It stood there before: that it is left as it was is what is asked for.
    let _ = out.remove(Path::new("folder05"));
    out
}

/// A world whose manifest has several pages below its root that are no leaves. Where pages end is
/// drawn by the repository's random key, and now and then there is a single one.
async fn world_of_three_levels() -> World {
    for _ in 0..20 {
        let world = World::new().await;
        let pages = world.pages(&world.view().await).await.1;
        if pages.iter().filter(|page| page.level == 1).count() > 1 {
            return world;
        }
    }
    panic!("no manifest has several inner pages");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_page_that_is_damaged_costs_its_own_entries_and_no_other() {
    let world = world_of_three_levels().await;
    let view = world.view().await;
    let (paths, pages) = world.pages(&view).await;
    assert!(pages.len() >= 15, "{} pages", pages.len());
    let tree = world.path("tree");
    let whole = look(&tree);
    for (number, page) in pages.iter().enumerate() {
        let out = world.path(&format!("out{number}"));
        world.flip(&page.id);
        let restored = world.restore(&view, &out).await;
        let metadata = VerifyLevel::Metadata;
        let verified = verify(&world.repo, &world.cx, None, metadata, Sample::All).await;
        world.flip(&page.id);
        let verified = verified.unwrap().report;
        let verdict: String = (verified.findings.iter())
            .map(|f| format!("{f}\n"))
            .collect();
        let chunk = format!("chunk {}", page.id);
        assert!(verdict.contains(&chunk), "{page:?}: {verdict}");
        if number == 0 {
            assert!(
                restored.unwrap_err().is_damage(),
                "nothing lies behind the root"
            );
            continue;
        }
        assert_eq!(verified.entries as usize, paths.len() - page.entries.len());
        assert!(
            verdict.contains("the Merkle root cannot be checked"),
            "{verdict}"
        );

        let outcome = restored.unwrap();
        assert_eq!((outcome.lost_pages, outcome.report.deleted), (1, 0));
        assert!(out.join("folder05/other").exists(), "nothing is deleted");
        let told: String = (outcome.report.findings.iter())
            .map(|f| format!("{f}\n"))
            .collect();
        for told in [&told, &verdict] {
            let ends = paths.get(page.entries.end);
            let ends = ends.map_or("to the end".into(), |path| {
                format!("up to {path}, which is not")
            });
            let range = format!(
                "from {} {ends} ({} in number)",
                show(&paths[page.entries.start]),
                page.entries.len()
            );
            assert!(
                told.contains(&chunk) && told.contains(&range),
                "no {range:?}: {told}"
            );
        }
        let lost: Vec<PathBuf> = (paths[page.entries.clone()].iter())
            .map(|path| {
                let slashed = PathBuf::from(format!(
                    "/{}",
                    String::from_utf8(path.to_slashed()).unwrap()
                ));
                slashed
                    .strip_prefix(&tree)
                    .map_or_else(|_| PathBuf::new(), Path::to_owned)
            })
            .collect();
        let back = look(&out);
        for (path, wanted) in &whole {
            if lost.contains(path) || path == Path::new("folder05") {
                continue;
            }
            assert_eq!(back.get(path), Some(wanted), "{page:?}: {}", path.display());
        }
        for path in back.keys().filter(|path| lost.contains(path)) {
            let is_told = told.contains(&format!(
                "{}: metadata: its own entry is lost",
                path.display()
            ));
            assert!(
                out.join(path).is_dir() && is_told,
                "{}: {told}",
                path.display()
            );
        }
        for folder in 0..12 {
            links_hold_together(&out.join(format!("folder{folder:02}")));
        }
        fs::remove_dir_all(&out).unwrap();
    }
}

fn show(path: &EntryPath) -> String {
    if path.is_root() {
        "the root".into()
    } else {
        path.to_string()
    }
}

/// The names of the file with three that came back are names of one file, whichever is lost.
fn links_hold_together(folder: &Path) {
    let linked = |path: &Path| fs::metadata(path).ok().map(|meta| meta.ino());
    let first = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .map(|entry| entry.unwrap().path());
    let first = first.filter(|path| {
        path.file_name()
            .unwrap()
            .as_encoded_bytes()
            .starts_with(b"0")
    });
    let others = [folder.join("link"), folder.join("inner/zlink")];
    let mut numbers: Vec<u64> = first
        .chain(others)
        .filter_map(|path| linked(&path))
        .collect();
    numbers.dedup();
    assert!(numbers.len() <= 1, "{}: {numbers:?}", folder.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_in_a_damaged_page_is_damaged_and_not_absent() {
    let world = World::new().await;
    let view = world.view().await;
    let (paths, pages) = world.pages(&view).await;
    let page = pages.iter().filter(|page| page.level == 0).nth(3).unwrap();
    world.flip(&page.id);
    for (number, path) in paths.iter().enumerate() {
        let found = view.entry(&world.cx, 0, path).await;
        if page.entries.contains(&number) {
            assert!(found.unwrap_err().is_damage(), "{path}");
        } else {
            assert_eq!(found.unwrap().path, *path);
        }
    }
    // What would lie in a page that is whole is known not to be there.
    let absent = paths[page.entries.end].join(b"absent").unwrap();
    let found = view.entry(&world.cx, 0, &absent).await;
    assert!(
        matches!(found, Err(EngineError::NoPath { .. })),
        "{found:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_elsewhere_does_not_concern_the_restore_of_a_folder() {
    let world = World::new().await;
    let view = world.view().await;
    let (paths, pages) = world.pages(&view).await;
    let folder = |number: usize| {
        let mut path = world.job(Path::new("")).below;
        path.push(format!("folder{number:02}").as_bytes()).unwrap();
        path
    };
    let wanted = folder(3);
    let concerns =
        |page: &Held| (paths[page.entries.clone()].iter()).any(|path| path.starts_with(&wanted));
    fs::create_dir(world.path("out")).unwrap();
    fs::write(world.path("out/other"), "other").unwrap();
    for page in &pages[1..] {
        world.flip(&page.id);
        let target = FilesTarget::new(FilesTargetConfig {
            delete: true,
            ..FilesTargetConfig::of_folder(world.path("out"))
        });
        let job = RestoreJob {
            below: wanted.clone(),
            strip: wanted.clone(),
            ..world.job(&world.path("out"))
        };
        let dry = dry_run(&view, &world.cx, &target, &job, &mut |_| {}).await;
        world.flip(&page.id);
        let dry = dry.unwrap();
        assert_eq!(!dry.plan.notes.is_empty(), concerns(page), "{page:?}");
        // What lies in a page that cannot be read must not be taken for something to delete.
        assert_eq!(dry.deletions == 0, concerns(page), "{page:?}");
        let in_page = (paths[page.entries.clone()].iter()).filter(|path| path.starts_with(&wanted));
        let all = paths.iter().filter(|path| path.starts_with(&wanted));
        assert_eq!(
            dry.entries as usize,
            all.count() - in_page.count(),
            "{page:?}"
        );
    }
}
