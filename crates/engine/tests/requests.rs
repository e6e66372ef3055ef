//! Which requests a save makes that finds nothing new: each of them is a wait on a long line, and on an object store costs
//! money. Whoever adds one changes a list here, and says what it is for.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot be set up has failed"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use backup_core::{
    ErrorKind, FindingKind, HostId, ObjectKey, OpContext, PutMode, Retry, Sink, SinkCaps,
};
use backup_engine::ledger::verify_ledger;
use backup_engine::{
    InitRequest, Repository, SnapshotJob, SnapshotReport, Unlock, prepare, snapshot,
};
use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_format::layout;
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::{Fault, FaultSink, MemSink, Op, RecordingSink, Rule, When, context};
use tempfile::TempDir;

struct World {
    cx: OpContext,
    dir: TempDir,
    mem: MemSink,
    key: Vec<u8>,
}

impl World {
    /// A repository with two snapshots of the same files.
    async fn new() -> Self {
        Self::on(MemSink::new()).await
    }

    async fn on(mem: MemSink) -> Self {
        // The folder for temporary files changes with each program that makes one.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let cx = context();
        let tree = dir.path().join("tree");
        fs::create_dir(&tree).unwrap();
        for number in 0..20 {
            fs::write(tree.join(format!("{number}")), vec![number; 5000]).unwrap();
        }
        // What was written just now is not taken for unchanged.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let world = Self { cx, dir, mem, key };
        let tier = Arc::new(world.mem.clone());
        prepared
            .create(&world.cx, tier, world.cache())
            .await
            .unwrap();
        for _ in 0..2 {
            world.save(Arc::new(world.mem.clone())).await;
        }
        world
    }

    /// The last object of a folder.
    fn last_of(&self, folder: &str) -> ObjectKey {
        let keys = self.mem.objects().into_keys();
        let last = keys.filter(|key| key.as_str().starts_with(folder)).max();
        last.unwrap()
    }

    fn cache(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("cache"))
    }

    async fn open(&self, tier: Arc<dyn Sink>) -> Repository {
        let unlock = Unlock::KeyFile(KeyFile::parse(&self.key).unwrap());
        let repo = Repository::open(&self.cx, tier, &unlock, self.cache(), Operation::Write);
        let repo = repo.await.unwrap();
        repo.keep_ledger_in(Some(self.dir.path().join("state")))
    }

    async fn save(&self, tier: Arc<dyn Sink>) -> SnapshotReport {
        let repo = self.open(tier).await;
        let roots = [self.dir.path().join("tree")];
        let source = Arc::new(FilesSource::new(FilesConfig::of_roots(roots)));
        let job = SnapshotJob::new("test", HostId("host".into()));
        snapshot(&repo, &self.cx, source, &job).await.unwrap()
    }

    /// When the folders above the tree were changed last. They are entries of each snapshot too: where somebody else made
    /// something in one of them, a save stores a page, and the next one reads its index run.
    fn above(&self) -> Vec<SystemTime> {
        let tree = self.dir.path().join("tree");
        let changed = |folder: &Path| fs::metadata(folder).unwrap().modified().unwrap();
        tree.ancestors().skip(1).map(changed).collect()
    }

    /// What a save asks of a tier that stores nothing, ids and numbers left out.
    async fn asked(&self, tier: Arc<dyn Sink>) -> Vec<String> {
        for _ in 0..100 {
            let above = self.above();
            for _ in 0..2 {
                self.save(tier.clone()).await;
            }
            let asked = self.asked_once(tier.clone()).await;
            if self.above() == above {
                return asked;
            }
        }
        panic!("the folders above the tree change all the time");
    }

    async fn asked_once(&self, tier: Arc<dyn Sink>) -> Vec<String> {
        let calls = RecordingSink::new(tier);
        let saved = self.save(Arc::new(calls.clone())).await;
        assert_eq!(saved.findings, []);
        let plain = |call: backup_testkit::Call| {
            let mut words = vec![call.op.to_string()];
            words.extend(call.subject.split(' ').map(without_id));
            words.join(" ")
        };
        calls.calls().into_iter().map(plain).collect()
    }
}

fn without_id(key: &str) -> String {
    match key.split_once('/') {
        Some((folder, below)) if folder != "config" && folder != "parity" && !below.is_empty() => {
            let ending = below.rfind('.').and_then(|at| below.get(at..));
            format!("{folder}/*{}", ending.unwrap_or_default())
        }
        _ => key.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_tier_lists_together_an_unchanged_save_makes_nine_requests() {
    let world = World::new().await;
    let wanted = [
        // Opening: which configurations, key slots and index runs there are; all of them are at hand.
        "list config/ parity/config/ index/ keys/",
        // What it builds on.
        "list snap/ verdicts/",
        // The announcement, and behind it what may be built on, and where the ledger ends.
        "put sessions/*",
        "list config/ parity/config/ gc/ verdicts/ index/ data/ meta/ ledger/",
        // The snapshot, and whether it counts.
        "put refs/*",
        "put snap/*",
        "head sessions/*.revoked",
        // The record; the end of the session.
        "put ledger/*",
        "put sessions/*.done",
    ];
    let asked = world.asked(Arc::new(world.mem.clone())).await;
    assert_eq!(asked, wanted);
}

/// The folders above what is saved are saved with their times: so a save of files that nobody changed may store a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_above_that_has_changed_is_a_page_and_a_run() {
    let world = World::new().await;
    let tier: Arc<dyn Sink> = Arc::new(world.mem.clone());
    let nine = world.asked(tier.clone()).await;
    fs::write(world.dir.path().join("beside"), b"what nobody saves").unwrap();
    let mut asked = world.asked_once(tier.clone()).await;
    let more = ["put index/*", "put meta/*"];
    assert!(
        more.iter()
            .all(|one| asked.iter().any(|asked| asked == one))
    );
    asked.retain(|one| !more.contains(&one.as_str()));
    assert_eq!(asked, nine);
    // The run is new to the next one, even to that of the same host.
    let asked = world.asked_once(tier).await;
    assert!(asked.iter().any(|one| one == "get index/*"), "{asked:?}");
}

/// Where listings may lag, what they tell of versions says nothing of now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_listings_lag_nothing_is_gone_by_that_was_remembered() {
    let caps = SinkCaps {
        settle: Duration::from_millis(1),
        ..MemSink::new().info().caps
    };
    let world = World::on(MemSink::with_caps(caps)).await;
    let asked = world.asked(Arc::new(world.mem.clone())).await;
    for read in ["get config/0", "get keys/*", "list ledger/", "get ledger/*"] {
        assert!(asked.iter().any(|one| one == read), "{read}: {asked:?}");
    }
    // Heads are had from the copies that every reader has.
    assert!(!asked.iter().any(|one| one == "get snap/*"), "{asked:?}");
    let kept = remembered(&world.cache().unwrap());
    let by_version = |path: &Path| {
        let path = path.to_string_lossy();
        path.contains("/listed/") || path.contains("/place-") && !path.ends_with("CACHEDIR.TAG")
    };
    assert!(!kept.iter().any(|(path, _)| by_version(path)), "{kept:?}");
}

/// A host without a copy of the ledger does not conclude from a listing of long ago that it has no record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_knows_no_record_looks_for_them_when_it_appends_one() {
    let world = World::new().await;
    fs::remove_dir_all(world.dir.path().join("state")).unwrap();
    let asked = world.asked_once(Arc::new(world.mem.clone())).await;
    let at = |one: &str| asked.iter().position(|asked| asked == one);
    let (looked, head) = (at("list ledger/"), at("head sessions/*.revoked"));
    assert!(looked.is_some() && looked > head, "{asked:?}");
    assert!(
        !asked.iter().any(|one| one.ends_with("meta/ ledger/")),
        "{asked:?}"
    );
}

/// Copies of snapshots that are gone go too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_gone_is_forgotten() {
    let world = World::new().await;
    let names = |paths: Vec<PathBuf>| -> Vec<String> {
        let name = |path: PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
        let mut names: Vec<_> = paths.into_iter().map(name).collect();
        names.sort();
        names
    };
    let there = || {
        let keys = world.mem.objects().into_keys();
        let snapshots = keys.filter(|key| key.as_str().starts_with("snap/"));
        names(snapshots.map(|key| key.as_str().into()).collect())
    };
    let kept = || {
        let files = remembered(&world.cache().unwrap()).into_iter();
        let files = files.map(|(path, _)| path);
        names(
            files
                .filter(|path| path.to_string_lossy().contains("/listed/snap/"))
                .collect(),
        )
    };
    assert_eq!((kept(), kept().len()), (there(), 2));
    assert!(world.mem.lose(&world.last_of("snap/")));
    world.save(Arc::new(world.mem.clone())).await;
    assert_eq!((kept(), kept().len()), (there(), 2));
}

/// A tier that lists each folder by itself, as a folder does and a server over SFTP.
fn plain(world: &World) -> FaultSink {
    FaultSink::new(Arc::new(world.mem.clone()), 1)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn elsewhere_an_unchanged_save_asks_for_as_little() {
    let world = World::new().await;
    let wanted = [
        "get config/0",
        "list config/",
        "list parity/config/",
        "list index/",
        "list keys/",
        "get keys/*",
        "get keys/*",
        "list snap/",
        "list verdicts/",
        "put sessions/*",
        "list config/",
        "list parity/config/",
        "list gc/",
        "list verdicts/",
        "list index/",
        "list data/",
        "list meta/",
        "put refs/*",
        "put snap/*",
        "head sessions/*.revoked",
        "get ledger/*",
        "list ledger/",
        "put ledger/*",
        "put sessions/*.done",
    ];
    let asked = world.asked(Arc::new(plain(&world))).await;
    assert_eq!(asked, wanted);
}

/// A server may turn out to list in no order: whoever opens and whoever saves lists each folder then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_cannot_list_together_after_all_is_listed_one_by_one() {
    let world = World::new().await;
    // Opening, what it builds on, and behind the announcement.
    for which in [1, 2, 3] {
        let unable = Fault::Fail(ErrorKind::Unsupported, Retry::Never);
        let rule = Rule::new(unable).on(&[Op::List]).when(When::Nth(which));
        let tier = FaultSink::new(Arc::new(world.mem.clone()), 1).listing_together();
        let tier = tier.with(rule);
        let saved = world.save(Arc::new(tier.clone())).await;
        assert_eq!(saved.findings, [], "{which}");
        assert!(saved.meta.parent.is_some(), "{which}");
        assert_eq!(tier.injected().len(), 1, "{which}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unchanged_save_waits_ten_times() {
    const DELAY: Duration = Duration::from_millis(250);
    let world = World::new().await;
    let slow = plain(&world).with(Rule::new(Fault::Delay(DELAY)));
    let mut waits = f64::MAX;
    for _ in 0..4 {
        let began = Instant::now();
        world.save(Arc::new(slow.clone())).await;
        waits = waits.min(began.elapsed().as_secs_f64() / DELAY.as_secs_f64());
    }
    println!("{waits:.1} waits");
    // Ten, and what the save itself takes.
    assert!((10.0..13.0).contains(&waits), "{waits:.1} waits");
}

/// What is remembered of a place goes no further than its listing says that it is the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_changed_is_read_again() {
    let world = World::new().await;
    let tier = Arc::new(world.mem.clone());
    let read = |calls: &RecordingSink, under: &str| calls.count_under(Op::Get, under);
    let again = async |key: &ObjectKey| {
        let bytes = world.mem.objects()[key].clone();
        let put = world.mem.put(&world.cx, key, bytes, PutMode::Replace);
        put.await.unwrap();
        let calls = RecordingSink::new(tier.clone());
        world.save(Arc::new(calls.clone())).await;
        calls
    };
    for folder in ["config/", "keys/", "snap/", "ledger/"] {
        let key = world.last_of(folder);
        assert_eq!(read(&again(&key).await, folder), 1, "{folder}");
    }
}

/// What is not there any more opens nothing, whatever is remembered of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_gone_is_not_remembered() {
    for folder in ["config/", "keys/"] {
        let world = World::new().await;
        let gone = |key: &ObjectKey| key.as_str().starts_with(folder) && world.mem.lose(key);
        assert!(world.mem.objects().keys().filter(|key| gone(key)).count() > 0);
        let unlock = Unlock::KeyFile(KeyFile::parse(&world.key).unwrap());
        let tier = Arc::new(world.mem.clone());
        let opened = Repository::open(&world.cx, tier, &unlock, world.cache(), Operation::Write);
        assert!(opened.await.is_err(), "{folder}");
    }
}

/// A save builds on nothing that is damaged, also where this host has put it there itself and never read it; and where the
/// tier tells no versions, as far as sizes show it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_snapshot_is_not_built_on() {
    for replace_if in [true, false] {
        let caps = SinkCaps {
            replace_if,
            ..MemSink::new().info().caps
        };
        let world = World::on(MemSink::with_caps(caps)).await;
        let repo = world.open(Arc::new(world.mem.clone())).await;
        let (heads, _) = repo.heads(&world.cx).await.unwrap();
        let ids: Vec<_> = heads.iter().map(|head| head.meta.id).collect();
        let damaged = layout::snapshot(ids[1]).unwrap();
        assert!(world.mem.damage(&damaged, |bytes| match replace_if {
            true => bytes[100] ^= 1,
            false => bytes.truncate(100),
        }));
        let saved = world.save(Arc::new(world.mem.clone())).await;
        assert_eq!(saved.meta.parent, Some(ids[0]), "{replace_if}");
    }
}

/// Whoever loses what is remembered, or has it damaged or set back, loses requests and nothing else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_that_is_lost_damaged_or_old_is_harmless() {
    let world = World::new().await;
    let old = remembered(&world.cache().unwrap());
    assert!(old.len() >= 4, "{old:?}");
    let tier = || Arc::new(world.mem.clone());
    for _ in 0..2 {
        world.save(tier()).await;
    }
    type Harm = fn(&[u8]) -> Option<Vec<u8>>;
    let harms: [Harm; 5] = [
        |_| None,
        |_| Some(Vec::new()),
        |_| Some(b"1\nanything".to_vec()),
        |bytes| bytes.get(..bytes.len() / 2).map(<[u8]>::to_vec),
        |bytes| {
            let mut bytes = bytes.to_vec();
            // Behind the version.
            let last = bytes.last_mut()?;
            *last ^= 1;
            Some(bytes)
        },
    ];
    let harmed = |harm: Harm| {
        let files = remembered(&world.cache().unwrap());
        let harmed = files.into_iter().map(|(path, bytes)| {
            let bytes = harm(&bytes);
            (path, bytes)
        });
        harmed.collect()
    };
    let set_back = old.into_iter().map(|(path, bytes)| (path, Some(bytes)));
    let mut cases: Vec<Vec<(PathBuf, Option<Vec<u8>>)>> = vec![set_back.collect()];
    cases.extend(harms.map(harmed));
    for (number, case) in cases.into_iter().enumerate() {
        for (path, bytes) in case {
            match bytes {
                Some(bytes) => fs::write(path, bytes).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
        let saved = world.save(tier()).await;
        assert_eq!(saved.findings, [], "{number}");
        assert!(saved.meta.parent.is_some(), "{number}");
    }
    let repo = world.open(tier()).await;
    let checked = verify_ledger(&repo, &world.cx).await.unwrap();
    assert_eq!(checked.findings, []);
}

/// The files of the cache that stand for objects of the tier, but for those of the index.
fn remembered(cache: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let (mut folders, mut out) = (vec![cache.to_owned()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(cache).unwrap().to_string_lossy();
            let parts: Vec<_> = below.split('/').collect();
            let stands_for = |part: &&str| ["listed", "snap", "ledger-put"].contains(part);
            if path.is_dir() {
                folders.push(path.clone());
            } else if below.starts_with("place-") || parts.iter().any(stands_for) {
                let bytes = fs::read(&path).unwrap();
                out.push((path.clone(), bytes));
            }
        }
    }
    out
}

/// Whoever cuts off the ledger does not go unnoticed until somebody verifies.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_record_that_is_gone_or_another_is_told_of() {
    for is_gone in [true, false] {
        let world = World::new().await;
        let last = world.mem.objects().into_keys();
        let last = last
            .filter(|key| key.as_str().starts_with("ledger/"))
            .max()
            .unwrap();
        if is_gone {
            assert!(world.mem.lose(&last));
        } else {
            let before = world.mem.objects();
            let other = before
                .keys()
                .rfind(|key| key.as_str().starts_with("ledger/") && **key != last);
            let bytes = before[other.unwrap()].clone();
            world.mem.plant(last.clone(), bytes);
        }
        let saved = world.save(Arc::new(world.mem.clone())).await;
        let told = saved
            .findings
            .iter()
            .map(|one| (one.kind, one.subject.as_str()));
        let told: Vec<_> = told.collect();
        assert_eq!(told, [(FindingKind::Mismatch, last.as_str())], "{is_gone}");
    }
}

/// A repository that takes the place of another is not taken for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_repository_at_the_same_place_is_not_what_is_remembered() {
    let world = World::new().await;
    // It has the same location, and versions that begin anew.
    let other = World::new().await;
    let unlock = Unlock::KeyFile(KeyFile::parse(&other.key).unwrap());
    let tier = Arc::new(other.mem.clone());
    let repo = Repository::open(&world.cx, tier, &unlock, world.cache(), Operation::Write);
    let repo = repo.await.unwrap();
    assert!(repo.id() != world.open(Arc::new(world.mem.clone())).await.id());
}
