//! A repository whose packs of content lie at a cold place of their own, on tiers that fail in the middle.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use backup_cold::ColdSink;
use backup_core::{EntryPath, ErrorKind, HostId, OpContext, RestoreMode, Retry, Sink, SinkCaps};
use backup_engine::cold::ColdPlaceError;
use backup_engine::copy::{Found, found, make};
use backup_engine::warm::{Asked, Needed};
use backup_engine::{
    EngineError, InitRequest, Repository, RestoreJob, SnapshotJob, SnapshotView, Unlock, prepare,
    restore, snapshot,
};
use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};
use backup_testkit::{Fault, FaultSink, MemSink, Op, Rule, TestClock, When};
use jiff::SignedDuration;
use tempfile::TempDir;

struct World {
    cx: OpContext,
    dir: TempDir,
    hot: MemSink,
    cold: MemSink,
    key: Vec<u8>,
}

fn host() -> HostId {
    HostId("host".into())
}

fn context() -> OpContext {
    // Behind all changes of the files: none was made in the tick in which it is read, so each save has its own pack.
    let clock = TestClock::at_text("2100-01-01T00:00:00Z").ticking(SignedDuration::from_millis(10));
    OpContext::new(Arc::new(clock))
}

fn mems() -> (MemSink, MemSink) {
    let caps = MemSink::new().info().caps;
    let cold = MemSink::with_caps(SinkCaps { cold: true, ..caps });
    (MemSink::new().at("mem:hot"), cold.at("mem:cold"))
}

fn join(hot: impl Sink + 'static, cold: impl Sink + 'static) -> Arc<dyn Sink> {
    Arc::new(ColdSink::new(Arc::new(hot), Arc::new(cold)).unwrap())
}

fn request() -> InitRequest {
    InitRequest {
        key_file: true,
        ..InitRequest::default()
    }
}

impl World {
    async fn new() -> Self {
        let cx = context();
        let (hot, cold) = mems();
        let prepared = prepare(&cx, &request()).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let sink = join(hot.clone(), cold.clone());
        prepared.create(&cx, sink, None).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tree")).unwrap();
        let world = Self {
            cx,
            dir,
            hot,
            cold,
            key,
        };
        for name in ["a", "b"] {
            let content = name.repeat(100_000);
            std::fs::write(world.dir.path().join("tree").join(name), content).unwrap();
            world.save().await;
        }
        world
    }

    fn unlock(&self) -> Unlock {
        Unlock::KeyFile(KeyFile::parse(&self.key).unwrap())
    }

    async fn open_at(&self, sink: Arc<dyn Sink>) -> Result<Repository, EngineError> {
        let unlock = self.unlock();
        Repository::open(&self.cx, sink, &unlock, None, Operation::Read).await
    }

    async fn open(&self) -> Repository {
        let sink = join(self.hot.clone(), self.cold.clone());
        self.open_at(sink).await.unwrap()
    }

    async fn save(&self) {
        let repo = self.open().await;
        let source = FilesSource::new(FilesConfig::of_roots([self.dir.path().join("tree")]));
        let job = SnapshotJob::new("test", host());
        snapshot(&repo, &self.cx, Arc::new(source), &job)
            .await
            .unwrap();
    }

    async fn restore(&self, repo: &Repository) -> Result<u64, EngineError> {
        let view = newest(repo, &self.cx).await;
        let folder = self.dir.path().join("back");
        let target = FilesTarget::new(FilesTargetConfig::of_folder(&folder));
        let job = RestoreJob::whole(RestoreMode::Files, Some(folder), host());
        let restored = restore(&view, &self.cx, Arc::new(target), &job).await?;
        assert_eq!(restored.report.findings, []);
        Ok(restored.fetched)
    }
}

async fn newest<'r>(repo: &'r Repository, cx: &OpContext) -> SnapshotView<'r> {
    let (mut heads, _) = repo.heads(cx).await.unwrap();
    heads.sort_by_key(|head| head.meta.id);
    SnapshotView::open(repo, heads.pop().unwrap()).unwrap()
}

async fn needed(repo: &Repository, cx: &OpContext, below: &EntryPath) -> Needed {
    let view = newest(repo, cx).await;
    let mut out = Needed::default();
    out.look(&view, cx, (0, below), None).await.unwrap();
    assert_eq!(out.findings, []);
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_restore_needs_is_asked_for_and_nothing_else() {
    let world = World::new().await;
    let (repo, cx) = (world.open().await, &world.cx);
    // Nothing was read of what is cold until here.
    let refused = world.restore(&repo).await.unwrap_err();
    assert!(refused.is_cold(), "{refused}");
    let all = needed(&repo, cx, &EntryPath::root()).await;
    assert_eq!(all.count().packs, 2);
    let below = world.dir.path().join("tree/a");
    let below = EntryPath::from_slashed(below.to_str().unwrap().trim_start_matches('/').as_bytes());
    let part = needed(&repo, cx, &below.unwrap()).await;
    assert_eq!(part.count().packs, 1);
    let mut survey = part.survey(&repo, cx).await.unwrap();
    assert_eq!((survey.cold.packs, survey.warm.packs), (1, 0));
    let mut asked = Asked::default();
    survey.ask(cx, &mut asked).await.unwrap();
    assert_eq!((asked.requested.packs, asked.ready_in), (1, None));
    let mut survey = all.survey(&repo, cx).await.unwrap();
    assert_eq!((survey.cold.packs, survey.warm.packs), (1, 1));
    survey.ask(cx, &mut asked).await.unwrap();
    survey.wait(cx).await.unwrap();
    assert!(world.restore(&repo).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tier_that_fails_while_it_is_asked_keeps_what_was_asked_before() {
    let world = World::new().await;
    let cx = &world.cx;
    let faulty = |rule: Rule| {
        let faulty = FaultSink::new(Arc::new(world.cold.clone()), 1);
        faulty.add(rule);
        join(world.hot.clone(), faulty)
    };
    // A failure that can pass is passed over.
    let passing = Rule::new(Fault::outage())
        .on(&[Op::Warm])
        .when(When::First(1));
    let repo = world.open_at(faulty(passing)).await.unwrap();
    let root = EntryPath::root();
    let mut survey = needed(&repo, cx, &root)
        .await
        .survey(&repo, cx)
        .await
        .unwrap();
    let mut asked = Asked::default();
    survey.ask(cx, &mut asked).await.unwrap();
    assert_eq!(asked.requested.packs, 2);
    // One that stays is told, and nothing is claimed.
    let fails = Fault::Fail(ErrorKind::Denied, Retry::Never);
    let repo = world
        .open_at(faulty(Rule::new(fails).on(&[Op::Warm])))
        .await
        .unwrap();
    for key in world.cold.objects().into_keys() {
        let body = world.cold.objects().get(&key).unwrap().clone();
        world.cold.delete(cx, &key).await.unwrap();
        world.cold.plant(key, body);
    }
    let mut survey = needed(&repo, cx, &root)
        .await
        .survey(&repo, cx)
        .await
        .unwrap();
    let mut asked = Asked::default();
    let refused = survey.ask(cx, &mut asked).await.unwrap_err();
    assert!(matches!(refused, EngineError::Sink(error) if error.kind == ErrorKind::Denied));
    assert_eq!(asked, Asked::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_wrong_place_is_told_before_the_index_is_read() {
    let world = World::new().await;
    let told = |opened: Result<Repository, EngineError>| match opened.unwrap_err() {
        EngineError::ColdPlace(error) => error,
        other => panic!("{other}"),
    };
    let alone: Arc<dyn Sink> = Arc::new(world.hot.clone());
    let not_named = told(world.open_at(alone).await);
    assert!(
        matches!(not_named, ColdPlaceError::NotNamed(_)),
        "{not_named}"
    );
    let other = told(world.open_at(join(world.hot.clone(), mems().1)).await);
    assert!(matches!(other, ColdPlaceError::Other { .. }), "{other}");
    // A second copy has the same id, and another place of packs.
    let repo = world.open().await;
    let (hot, cold) = mems();
    let there = join(hot.clone(), cold.clone());
    let second = make(&repo, &world.cx, there, None).await.unwrap();
    assert_eq!(second.id(), repo.id());
    let crossed = told(world.open_at(join(hot.clone(), world.cold.clone())).await);
    assert!(matches!(crossed, ColdPlaceError::Other { .. }), "{crossed}");
    let taken = make(&repo, &world.cx, join(mems().0, cold), None).await;
    let taken = told(taken);
    assert!(matches!(taken, ColdPlaceError::Taken { .. }), "{taken}");
}

/// However an `init` at two places is cut off, there is a whole repository or none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_init_that_is_cut_off_leaves_a_whole_repository_or_none() {
    let cx = context();
    let mut made = 0;
    for step in 0..20 {
        let (hot, cold) = mems();
        let prepared = prepare(&cx, &request()).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let dies =
            Rule::new(Fault::Fail(ErrorKind::Denied, Retry::Never)).on(&[Op::Put, Op::Delete]);
        let faulty = FaultSink::new(Arc::new(hot.clone()), 1);
        faulty.add(dies.when(When::From(step + 1)));
        let done = prepared.create(&cx, join(faulty, cold.clone()), None).await;
        let unlock = Unlock::KeyFile(KeyFile::parse(&key).unwrap());
        let sink = join(hot.clone(), cold.clone());
        let opened = Repository::open(&cx, sink.clone(), &unlock, None, Operation::Read).await;
        match opened {
            Ok(repo) => {
                made += 1;
                assert!(matches!(
                    found(&repo, &cx, sink, None).await.unwrap(),
                    Found::Same(_)
                ));
            }
            Err(error) => {
                assert!(done.is_err(), "{step}: {error}");
                // Nothing stands in the way of the next try.
                let again = prepare(&cx, &request()).unwrap();
                again.create(&cx, sink, None).await.unwrap();
            }
        }
    }
    assert!(made > 0 && made < 20, "{made}");
}
