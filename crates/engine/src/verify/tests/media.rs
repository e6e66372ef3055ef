//! Disks that take turns at one location.

use std::path::Path;

use backup_format::config::Operation;
use backup_format::keys::keyfile::KeyFile;
use backup_sink_local::LocalSink;

use super::*;
use crate::repository::Unlock;

/// Lays all that is on the tier into a new folder.
fn lay(world: &World, root: &Path) {
    for (key, bytes) in world.tier.objects() {
        let at = root.join(key.as_str());
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, bytes).unwrap();
    }
}

/// How many packs of the disk at a place are remembered as read, and how many there are.
async fn remembered(world: &World, root: &Path, memory: &Path, reads: bool) -> (u64, u64) {
    let keys = Box::new(world.repo.keys().clone());
    let unlock = Unlock::KeyFile(KeyFile::Keys(keys));
    let sink = Arc::new(LocalSink::new(root.to_owned()));
    let repo = Repository::open(&world.cx, sink, &unlock, None, Operation::Verify);
    let repo = repo.await.unwrap();
    if reads {
        let job = VerifyJob {
            memory: Some(memory.to_owned()),
            ..VerifyJob::new(VerifyLevel::FullRead)
        };
        let done = verify_job(&repo, &world.cx, job).await.unwrap();
        assert_eq!(done.report.findings, []);
    }
    let known = Memory::read_only(&repo, &world.cx, Some(memory)).unwrap();
    let packs = repo.index().packs();
    let read = packs.keys().filter(|id| known.pack(id).full > 0).count();
    (read as u64, packs.len() as u64)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_of_one_disk_is_no_word_on_the_other_that_takes_its_turn() {
    let world = World::new().await;
    let dir = tempfile::tempdir().unwrap();
    let [place, away] = ["place", "away"].map(|name| dir.path().join(name));
    let memory = dir.path().join("memory");
    lay(&world, &place);
    let (read, all) = remembered(&world, &place, &memory, true).await;
    assert_eq!(read, all);
    // The other disk has the same on it, and nobody has looked at it.
    fs::rename(&place, &away).unwrap();
    lay(&world, &place);
    assert_eq!(remembered(&world, &place, &memory, false).await, (0, all));
    let (read, _) = remembered(&world, &place, &memory, true).await;
    assert_eq!(read, all);
    // The first comes back, and is known again.
    fs::remove_dir_all(&place).unwrap();
    fs::rename(&away, &place).unwrap();
    assert_eq!(remembered(&world, &place, &memory, false).await, (all, all));
}
