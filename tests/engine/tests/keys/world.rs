//! A repository in memory that is used with several keys.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use backup_core::{HostId, OpContext, Sink};
use backup_engine::repository::SnapshotHead;
use backup_engine::slots::change::{NewSlot, Opener};
use backup_engine::view::Seen;
use backup_engine::{
    InitRequest, Repository, Result, SnapshotJob, SnapshotReport, SnapshotView, Unlock, prepare,
    snapshot,
};
use backup_format::config::Operation;
use backup_format::keys::{Argon2Params, KeyFile, KeySet, Role, Secret, SlotMeta};
use backup_source_files::{FilesConfig, FilesSource};
use backup_testkit::{MemSink, context};
use tempfile::TempDir;

/// Cheap enough for a test that opens many slots.
pub(crate) const CHEAP: Argon2Params = Argon2Params {
    memory_kib: 8,
    passes: 1,
    lanes: 1,
};

pub(crate) const SECRET_NAME: &str = "the-name-that-nobody-may-see";
pub(crate) const SECRET_TEXT: &[u8] = b"the content that nobody may read, ";

pub(crate) struct World {
    pub(crate) cx: OpContext,
    dir: TempDir,
    pub(crate) mem: MemSink,
    pub(crate) full: KeySet,
    /// The key file that opens the full slot.
    pub(crate) key: Vec<u8>,
}

pub(crate) fn host() -> HostId {
    HostId("web1".into())
}

pub(crate) const fn by(host: &HostId) -> (&HostId, &'static str) {
    (host, "me")
}

pub(crate) fn meta() -> SlotMeta {
    SlotMeta {
        label: String::new(),
        created: 0,
    }
}

impl World {
    /// A repository with one snapshot by the full key.
    pub(crate) async fn new() -> Self {
        let (cx, mem) = (context(), MemSink::new());
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let request = InitRequest {
            key_file: true,
            ..InitRequest::default()
        };
        let prepared = prepare(&cx, &request).unwrap();
        let key = prepared.key_file.as_ref().unwrap().as_bytes().to_vec();
        let repo = prepared.create(&cx, Arc::new(mem.clone()), None).await;
        let full = repo.unwrap().keys().clone();
        let world = Self {
            cx,
            dir,
            mem,
            full,
            key,
        };
        world.write(SECRET_NAME, &SECRET_TEXT.repeat(40_000));
        for number in 0..200u32 {
            let content = format!("{number} {}", "more of it ".repeat(number as usize));
            world.write(&format!("small-{number}"), content.as_bytes());
        }
        world.save(&world.full).await.unwrap();
        world
    }

    pub(crate) fn write(&self, name: &str, content: &[u8]) {
        fs::write(self.tree().join(name), content).unwrap();
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    pub(crate) async fn open_at(&self, sink: Arc<dyn Sink>, unlock: Unlock) -> Result<Repository> {
        Repository::open(&self.cx, sink, &unlock, None, Operation::Write).await
    }

    /// The repository as it opens with keys.
    pub(crate) async fn open(&self, keys: &KeySet) -> Result<Repository> {
        let keys = KeyFile::Keys(Box::new(keys.clone()));
        self.open_at(Arc::new(self.mem.clone()), Unlock::KeyFile(keys))
            .await
    }

    pub(crate) async fn save(&self, keys: &KeySet) -> Result<SnapshotReport> {
        let repo = self.open(keys).await?;
        let source = FilesSource::new(FilesConfig::of_roots([self.tree()]));
        let host = keys.host().cloned().unwrap_or_else(host);
        let job = SnapshotJob::new("test", host);
        snapshot(&repo, &self.cx, Arc::new(source), &job).await
    }

    pub(crate) fn key_file(&self) -> Unlock {
        Unlock::KeyFile(KeyFile::parse(&self.key).unwrap())
    }
}

/// A full slot of these keys, and the secret that opens it.
pub(crate) fn secret_slot(keys: &KeySet) -> (NewSlot, Unlock) {
    let bytes = *Secret::random().unwrap().expose();
    let slot = NewSlot::seal(keys, &meta(), Opener::Secret(Secret::new(bytes)));
    let unlock = Unlock::KeyFile(KeyFile::Secret(Secret::new(bytes)));
    (slot.unwrap(), unlock)
}

pub(crate) fn subset(world: &World, role: Role) -> KeySet {
    world.full.subset(role, Some(&host())).unwrap()
}

/// How many entries of a snapshot can be read.
pub(crate) async fn entries(repo: &Repository, cx: &OpContext, head: &SnapshotHead) -> Result<u64> {
    let view = SnapshotView::open(repo, head.clone())?;
    let mut walk = view.all();
    let mut count = 0;
    while let Some(seen) = walk.step(cx).await? {
        count += u64::from(matches!(seen, Seen::Entry(_)));
    }
    Ok(count)
}
