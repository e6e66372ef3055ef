//! The sink in memory passes the suite, and the suite finds what is wrong with a sink.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::sync::Arc;
use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, PutMode, Sink, SinkCaps};
use backup_testkit::{MemSink, check_sink, context, sink_suite};
use bytes::Bytes;

const WEAK: SinkCaps = SinkCaps {
    atomic_create: false,
    replace_if: false,
    max_put_bytes: 2 << 20,
    cold: false,
    connections: 1,
    settle: Duration::ZERO,
    lock: None,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_sink_in_memory_passes_the_suite() {
    sink_suite(|| Arc::new(MemSink::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sink_that_claims_little_passes_the_suite_too() {
    sink_suite(|| Arc::new(MemSink::with_caps(WEAK))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cold_sink_passes_the_suite_once_it_is_warmed() {
    sink_suite(|| Arc::new(MemSink::with_caps(SinkCaps { cold: true, ..WEAK }))).await;
}

#[tokio::test]
async fn a_fork_goes_its_own_way() {
    let (sink, cx, key) = (MemSink::new(), context(), ObjectKey::new("a").unwrap());
    sink.put(&cx, &key, Bytes::from_static(b"one"), PutMode::Create)
        .await
        .unwrap();
    let fork = sink.fork();
    assert!(fork.damage(&key, |body| body[0] ^= 1));
    assert!(!fork.damage(&ObjectKey::new("b").unwrap(), Vec::clear));
    assert_eq!(sink.objects()[&key], "one");
    assert_eq!(fork.objects()[&key], "nne");
    assert!(fork.lose(&key) && !fork.lose(&key));
    fork.plant(key.clone(), "planted");
    assert_eq!(fork.objects()[&key], "planted");
}

#[tokio::test]
async fn a_cold_object_has_to_be_warmed() {
    let (sink, cx) = (
        MemSink::with_caps(SinkCaps { cold: true, ..WEAK }),
        context(),
    );
    let key = ObjectKey::new("a").unwrap();
    sink.put(&cx, &key, Bytes::from_static(b"x"), PutMode::Create)
        .await
        .unwrap();
    let range = backup_core::ByteRange::Full;
    assert_eq!(
        sink.get(&cx, &key, range).await.unwrap_err().kind,
        ErrorKind::Cold
    );
    sink.warm(&cx, std::slice::from_ref(&key)).await.unwrap();
    assert_eq!(sink.get(&cx, &key, range).await.unwrap(), "x");
}

mod liars;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_suite_finds_what_is_wrong_with_a_sink() {
    for (lie, caught_by) in liars::ALL {
        let failures = check_sink(|| Arc::new(liars::Liar::new(lie))).await;
        assert!(
            failures.iter().any(|failure| failure.case == caught_by),
            "{lie:?} is not caught by {caught_by}: {failures:?}"
        );
    }
}
