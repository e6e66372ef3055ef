//! A local folder passes the suite, whichever way it keeps writers apart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::sync::{Arc, Mutex};

use backup_core::{ErrorKind, ObjectKey, PutMode, Sink};
use backup_sink_local::{CreateBy, LocalSink};
use backup_testkit::{context, sink_suite};
use bytes::Bytes;
use tempfile::TempDir;

async fn passes(first: CreateBy) {
    let folders = Mutex::new(Vec::new());
    sink_suite(|| {
        let folder = TempDir::new().unwrap();
        let sink = LocalSink::new(folder.path()).creating_by(first);
        folders.lock().unwrap().push(folder);
        Arc::new(sink)
    })
    .await;
    for folder in folders.into_inner().unwrap() {
        stage::no_temporaries(folder.path());
    }
}

mod stage;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_passes_the_suite_by_links() {
    passes(CreateBy::Link).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_passes_the_suite_by_renames() {
    passes(CreateBy::Rename).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_folder_passes_the_suite_by_locks() {
    passes(CreateBy::Lock).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sinks_that_share_nothing_but_the_folder_keep_each_other_apart() {
    for first in [CreateBy::Link, CreateBy::Rename, CreateBy::Lock] {
        let folder = TempDir::new().unwrap();
        for round in 0..20 {
            let key = ObjectKey::new(format!("gc/{round}/verdict")).unwrap();
            let start = Arc::new(tokio::sync::Barrier::new(8));
            let mut racers = tokio::task::JoinSet::new();
            for racer in 0..8 {
                let sink = LocalSink::new(folder.path()).creating_by(first);
                let (key, start) = (key.clone(), start.clone());
                racers.spawn(async move {
                    start.wait().await;
                    let body = Bytes::from(vec![racer; 1000]);
                    sink.put(&context(), &key, body, PutMode::Create).await
                });
            }
            let answers = racers.join_all().await;
            let won = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(won, 1, "{first:?}, round {round}");
            for error in answers.into_iter().filter_map(Result::err) {
                assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
            }
        }
        stage::no_temporaries(folder.path());
    }
}
