//! A folder on OpenSSH's server passes the suite, also where the server lacks what OpenSSH adds to SFTP.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, PutMode, Sink};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::{context, sink_suite};
use bytes::Bytes;
use stage::Sshd;

fn sink_at(server: &Sshd, folder: &Path) -> SftpSink {
    let location = server.location_by(server.port, folder);
    SftpSink::new(&location.parse().unwrap(), &Surroundings::none()).unwrap()
}

fn temporaries(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            temporaries(&entry.path(), found);
        }
        let name = entry.file_name().into_string().unwrap();
        if name.starts_with('.') {
            found.push(entry.path());
        }
    }
}

/// What is tidied up behind a call is not waited for by it, but is done soon.
async fn no_temporaries(folder: &Path) {
    let mut found = Vec::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        found.clear();
        temporaries(folder, &mut found);
        if found.is_empty() {
            return;
        }
    }
    panic!("left over: {found:?}");
}

async fn passes(options: &str) {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with(options);
    let made = AtomicUsize::new(0);
    sink_suite(|| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        let folder = server.root().join(number.to_string());
        fs::create_dir(&folder).unwrap();
        Arc::new(sink_at(&server, &folder))
    })
    .await;
    no_temporaries(&server.root()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_passes_the_suite() {
    passes("").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_without_links_passes_the_suite() {
    passes("-P hardlink").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_without_extensions_passes_the_suite() {
    passes("-P hardlink,posix-rename,fsync,statvfs,limits").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn hosts_that_share_nothing_but_the_server_keep_each_other_apart() {
    if !stage::has_sshd() {
        return;
    }
    for options in ["", "-P hardlink"] {
        let server = Sshd::with(options);
        let sinks: Vec<_> = (0..6).map(|_| sink_at(&server, &server.root())).collect();
        for round in 0..20 {
            let key = ObjectKey::new(format!("gc/{round}/verdict")).unwrap();
            let start = Arc::new(tokio::sync::Barrier::new(sinks.len()));
            let mut racers = tokio::task::JoinSet::new();
            for (racer, sink) in sinks.iter().enumerate() {
                let (key, start, sink) = (key.clone(), start.clone(), sink.clone());
                racers.spawn(async move {
                    start.wait().await;
                    let body = Bytes::from(vec![u8::try_from(racer).unwrap(); 1000]);
                    sink.put(&context(), &key, body, PutMode::Create).await
                });
            }
            let answers = racers.join_all().await;
            let won = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(won, 1, "{options}, round {round}");
            for error in answers.into_iter().filter_map(Result::err) {
                assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
            }
        }
    }
}
