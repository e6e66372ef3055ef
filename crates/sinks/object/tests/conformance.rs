//! A bucket passes the suite, whatever its server does with conditions.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use backup_core::Sink;
use backup_object_server::{Conditions, Server};
use backup_testkit::sink_suite;

mod stage;

async fn passes(conditions: Conditions) {
    let server = Server::start();
    server.keep_conditions(conditions);
    let memory = tempfile::tempdir().unwrap();
    let count = AtomicUsize::new(0);
    let is_kept = conditions == Conditions::Kept;
    sink_suite(|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        let location = server.location(&format!("place/{number}")).parse().unwrap();
        let around = stage::around().remembering(Some(memory.path().to_owned()));
        let sink = backup_sink_object::ObjectSink::new(&location, around).unwrap();
        let found = tokio::task::block_in_place(|| {
            let first = stage::put(&sink, "f", "x");
            tokio::runtime::Handle::current().block_on(async {
                first.await.unwrap();
                sink.delete(&backup_testkit::context(), &stage::key("f"))
                    .await
                    .unwrap();
                sink.info().caps.atomic_create
            })
        });
        assert_eq!(found, is_kept, "what was found out of the server");
        Arc::new(sink)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_passes_the_suite() {
    passes(Conditions::Kept).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_passes_the_suite_where_conditions_are_ignored() {
    passes(Conditions::Ignored).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_bucket_passes_the_suite_where_conditions_are_refused() {
    passes(Conditions::Refused).await;
}
