//! A throttled sink is a sink, and its transfers take their time.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Sink};
use backup_testkit::{MemSink, context, sink_suite};
use backup_throttle::{Limits, Rate};
use bytes::Bytes;
use tokio::time::Instant;

fn rate(limit: u64) -> Option<Arc<Rate>> {
    Some(Arc::new(Rate::new(NonZeroU64::new(limit).unwrap())))
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_throttled_sink_passes_the_suite() {
    let limits = Limits {
        up: rate(1 << 30),
        down: rate(1 << 30),
    };
    sink_suite(|| limits.around(Arc::new(MemSink::new()))).await;
}

#[tokio::test(start_paused = true)]
async fn both_ways_have_rates_of_their_own_which_tiers_share() {
    let limits = Limits {
        up: rate(1 << 20),
        down: rate(4 << 20),
    };
    let (one, other) = (MemSink::new(), MemSink::new());
    let (one, other) = (limits.around(Arc::new(one)), limits.around(Arc::new(other)));
    let cx = context();
    let body = Bytes::from(vec![7; 8 << 20]);
    let put = |sink: Arc<dyn Sink>| {
        let (cx, body) = (cx.clone(), body.clone());
        tokio::spawn(async move {
            let put = sink.put(&cx, &key("data/a"), body, PutMode::Create).await;
            put.unwrap();
        })
    };
    let began = Instant::now();
    let puts = [put(one.clone()), put(other)];
    for put in puts {
        put.await.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    assert!((15.9..16.2).contains(&took), "{took}");
    for range in [
        ByteRange::Full,
        ByteRange::Suffix(8 << 20),
        ByteRange::Span {
            offset: 0,
            length: 8 << 20,
        },
    ] {
        // What was not used before counts for a second.
        tokio::time::sleep(Duration::from_secs(9)).await;
        let began = Instant::now();
        for _ in 0..2 {
            let got = one.get(&cx, &key("data/a"), range).await.unwrap();
            assert_eq!(got.len(), 8 << 20);
        }
        let took = began.elapsed().as_secs_f64();
        assert!((2.9..4.1).contains(&took), "{range:?}: {took}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_the_rate_can_be_called_off() {
    let limits = Limits {
        up: rate(1),
        down: None,
    };
    let sink = limits.around(Arc::new(MemSink::new()));
    let cx = context();
    let (cancel, began) = (cx.cancel.clone(), Instant::now());
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(3)).await;
        cancel.cancel();
    });
    let body = Bytes::from(vec![7; 1 << 20]);
    let put = sink.put(&cx, &key("data/a"), body, PutMode::Create).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(4));
    let got = sink.get(&context(), &key("data/a"), ByteRange::Full).await;
    assert_eq!(got.unwrap_err().kind, ErrorKind::NotFound);
}
