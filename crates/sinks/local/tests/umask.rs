//! Modes whatever the umask. A test of its own, because a process has but one umask.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::fs;
use std::os::unix::fs::PermissionsExt;

use backup_core::{PutMode, Sink};
use backup_sink_local::{CreateBy, LocalSink};
use backup_testkit::context;
use bytes::Bytes;
use tempfile::TempDir;

mod stage;

#[tokio::test]
async fn folders_and_files_are_for_their_owner_alone_whatever_the_umask() {
    for umask in [0o000, 0o022, 0o777] {
        let folder = TempDir::new().unwrap();
        let before = rustix::process::umask(umask.into());
        for first in [CreateBy::Link, CreateBy::Rename, CreateBy::Lock] {
            let sink = LocalSink::new(folder.path().join("made/root")).creating_by(first);
            sink.create(&context()).await.unwrap();
            let key = stage::key(&format!("data/{first:?}/a"));
            sink.put(&context(), &key, Bytes::new(), PutMode::Create)
                .await
                .unwrap();
            sink.put(&context(), &key, Bytes::new(), PutMode::Replace)
                .await
                .unwrap();
        }
        rustix::process::umask(before);
        let files = stage::files(folder.path());
        assert_eq!(files.len(), 4, "three objects and the lock");
        for file in files {
            assert_eq!(mode(&file), 0o600, "{file:?} under {umask:o}");
            let above = file
                .ancestors()
                .skip(1)
                .take_while(|path| *path != folder.path());
            above.for_each(|above| assert_eq!(mode(above), 0o700, "{above:?} under {umask:o}"));
        }
    }
}

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
