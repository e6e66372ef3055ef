//! What rclone reaches passes the suite: a folder, an encrypted one, a WebDAV server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup_sink_rclone::RcloneSink;
use backup_testkit::{check_sink, sink_suite};
use stage::{Dav, Remotes};

/// The suite makes a few sinks, each with a folder of its own.
async fn passes(remotes: &Remotes, remote: &str, options: &str) {
    let made = AtomicUsize::new(0);
    sink_suite(|| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let location = remotes.location(&format!("{remote}{number}"));
        let location = format!("{location}&create=yes{options}");
        Arc::new(RcloneSink::new(&location.parse().unwrap()).unwrap())
    })
    .await;
    assert!(remotes.children_end(), "an rclone is left");
}

fn no_temporaries(root: &Path) {
    for folder in fs::read_dir(root).unwrap() {
        let Ok(temporaries) = fs::read_dir(folder.unwrap().path().join(".tmp")) else {
            continue;
        };
        let left: Vec<_> = temporaries.map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_passes_the_suite() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let root = remotes.root();
    passes(&remotes, &format!("disk:{}/", root.display()), "").await;
    no_temporaries(&root);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_encrypted_folder_passes_the_suite() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let made = AtomicUsize::new(0);
    let failures = check_sink(|| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let location = remotes.location(&format!("vault:{number}"));
        let location = format!("{location}&create=yes&check=read");
        Arc::new(RcloneSink::new(&location.parse().unwrap()).unwrap())
    })
    .await;
    // Names grow by encryption: one of 255 bytes is too long for the disk below. Ours have 64.
    let failures: Vec<_> = failures.iter().map(ToString::to_string).collect();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].contains("file name too long"), "{failures:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "takes two and a half minutes"]
async fn a_webdav_server_passes_the_suite() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    remotes.add_dav(server.port, "hunter2");
    passes(&remotes, "dav:", "").await;
    no_temporaries(&remotes.root());
}
