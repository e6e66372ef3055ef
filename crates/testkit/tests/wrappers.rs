//! Sinks that wrap others: what they change, and that they change nothing else.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;
use std::time::Duration;

use backup_conformance::below::Below;
use backup_conformance::{CheckFailure, Verdict, check_tier};
use backup_core::{ByteRange, ErrorKind, ObjectKey, OpContext, PutMode, Sink};
use backup_testkit::{
    Crash, EventualSink, Fault, FaultSink, Lag, LockedSink, MemSink, Op, Rule, TestClock, context,
    sink_suite,
};
use bytes::Bytes;
use futures::TryStreamExt as _;
use jiff::SignedDuration;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

async fn put(sink: &dyn Sink, name: &str, body: &'static str) {
    let body = Bytes::from_static(body.as_bytes());
    sink.put(&context(), &key(name), body, PutMode::Create)
        .await
        .unwrap();
}

async fn names(sink: &dyn Sink) -> Vec<String> {
    let found: Vec<_> = sink.list(&context(), "", None).try_collect().await.unwrap();
    found.iter().map(|meta| meta.key.to_string()).collect()
}

fn eventual(list: u64, read: u64) -> EventualSink {
    let [list, read] = [list, read].map(Duration::from_millis);
    EventualSink::new(Arc::new(MemSink::new()), Lag { list, read }, 7)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn listings_that_lag_as_the_sink_says_pass_the_suite() {
    sink_suite(|| Arc::new(eventual(30, 0))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn reads_that_lag_do_not_pass_it() {
    let failures = backup_testkit::check_sink(|| Arc::new(eventual(0, 200))).await;
    let failed = |case: &str| failures.iter().any(|failure| failure.case == case);
    assert!(failed("an_object_comes_back_as_it_was_put"), "{failures:?}");
    assert!(failed("deleting_twice_is_success"), "{failures:?}");
}

#[tokio::test(start_paused = true)]
async fn what_lags_shows_in_the_end() {
    let sink = eventual(1000, 1000);
    put(&sink, "a", "first").await;
    let (mut missed, mut seen) = (false, false);
    for _ in 0..50 {
        let got = sink.get(&context(), &key("a"), ByteRange::Full).await;
        missed |= got
            .as_ref()
            .is_err_and(|error| error.kind == ErrorKind::NotFound);
        seen |= got.is_ok();
        missed |= names(&sink).await.is_empty();
        tokio::time::advance(Duration::from_millis(21)).await;
    }
    assert!(missed && seen && sink.misses() > 0);
    for _ in 0..50 {
        assert_eq!(names(&sink).await, ["a"]);
        let got = sink.get(&context(), &key("a"), ByteRange::Full).await;
        assert_eq!(got.unwrap(), "first");
    }
    sink.delete(&context(), &key("a")).await.unwrap();
    let mut is_there = false;
    for _ in 0..50 {
        is_there |= names(&sink).await == ["a"];
        is_there |= sink.head(&context(), &key("a")).await.is_ok();
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert!(is_there, "what is deleted shows for a while");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(names(&sink).await, [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_of_no_time_passes_the_suite() {
    sink_suite(|| Arc::new(LockedSink::new(Arc::new(MemSink::new()), Duration::ZERO))).await;
}

#[tokio::test]
async fn what_is_locked_goes_when_its_time_is_over_and_not_before() {
    let clock = TestClock::default();
    let cx = OpContext::new(Arc::new(clock.clone()));
    let sink = LockedSink::new(Arc::new(MemSink::new()), Duration::from_hours(1));
    put(&sink, "a", "first").await;
    let refused = sink.delete(&cx, &key("a")).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Denied);
    assert!(refused.to_string().contains("locked until"), "{refused}");
    let body = Bytes::from_static(b"second");
    let (at, replace) = (key("a"), PutMode::Replace);
    let replaced = sink.put(&cx, &at, body.clone(), replace.clone()).await;
    assert_eq!(replaced.unwrap_err().kind, ErrorKind::Denied);
    clock.advance(SignedDuration::from_hours(1));
    sink.put(&cx, &at, body, replace).await.unwrap();
    assert!(sink.delete(&cx, &key("a")).await.is_err(), "locked again");
    clock.advance(SignedDuration::from_hours(1));
    sink.delete(&cx, &key("a")).await.unwrap();
    assert_eq!(names(&sink).await, [] as [String; 0]);
}

#[tokio::test]
async fn a_lock_is_extended_and_never_made_shorter() {
    let clock = TestClock::default();
    let cx = OpContext::new(Arc::new(clock.clone()));
    let hour = SignedDuration::from_hours(1);
    let sink = LockedSink::new(Arc::new(MemSink::new()), Duration::from_hours(1));
    assert_eq!(sink.info().caps.lock, Some(Duration::from_hours(1)));
    put(&sink, "a", "first").await;
    let put_at = cx.clock.now();
    for (from, until) in [(put_at - hour, 1), (put_at + hour, 2), (put_at, 2)] {
        sink.extend_lock(&cx, &key("a"), from).await.unwrap();
        assert_eq!(sink.locked_until(&key("a")), Some(put_at + until * hour));
    }
    clock.advance(hour);
    assert!(sink.delete(&cx, &key("a")).await.is_err());
    clock.advance(hour);
    sink.delete(&cx, &key("a")).await.unwrap();
}

#[tokio::test]
async fn a_folder_of_a_sink_sees_nothing_of_what_is_beside_it() {
    let mem = MemSink::new();
    put(&mem, "fold", "beside").await;
    put(&mem, "folder-2/a", "beside").await;
    let below = Below::new(Arc::new(mem.clone()), key("folder"));
    assert_eq!(names(&below).await, [] as [String; 0]);
    put(&below, "a", "inside").await;
    assert_eq!(names(&below).await, ["a"]);
    assert!(mem.objects().contains_key(&key("folder/a")));
    let too_long = "k".repeat(255) + "/" + &"l".repeat(255);
    let (long, create) = (key(&too_long), PutMode::Create);
    let put = below.put(&context(), &long, Bytes::new(), create).await;
    assert_eq!(put.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_tier_is_tried_in_a_folder_that_is_empty_behind_it() {
    let mem = MemSink::new();
    put(&mem, "config/1", "beside").await;
    let before = mem.objects();
    let sink = Arc::new(mem.clone());
    let mut seen = 0;
    let report = check_tier(
        sink.clone(),
        &key("check"),
        &context(),
        Some(3 << 20),
        &mut |_| seen += 1,
    )
    .await
    .unwrap();
    assert_eq!((report.failed(), report.cases.len()), (0, seen));
    assert!(report.left.is_none());
    let speed = report.speed.unwrap().unwrap();
    assert!(speed.bytes >= 3 << 20 && speed.put_rate > 0.0 && speed.get_rate > 0.0);
    assert_eq!(mem.objects(), before);
    put(&mem, "check/here", "x").await;
    let refused = check_tier(sink, &key("check"), &context(), None, &mut |_| ()).await;
    assert!(
        matches!(refused, Err(CheckFailure::NotEmpty(_))),
        "{refused:?}"
    );
    assert_eq!(mem.objects().len(), before.len() + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_tier_does_wrong_is_told_and_nothing_is_left() {
    let mem = MemSink::new();
    let spoils = Rule::new(Fault::Spoil).on(&[Op::Put]).under("check/0");
    let sink = FaultSink::new(Arc::new(mem.clone()), 3).with(spoils);
    let report = check_tier(Arc::new(sink), &key("check"), &context(), None, &mut |_| ())
        .await
        .unwrap();
    let failed: Vec<&str> = report
        .cases
        .iter()
        .filter(|one| matches!(one.verdict, Verdict::Failed(_)))
        .map(|one| one.case)
        .collect();
    assert!(
        failed.contains(&"an_object_comes_back_as_it_was_put"),
        "{failed:?}"
    );
    assert!(mem.objects().is_empty());
    let sink = FaultSink::new(Arc::new(mem.clone()), 3);
    sink.crash_at(1, Crash::Before);
    let dead = check_tier(Arc::new(sink), &key("check"), &context(), None, &mut |_| ()).await;
    assert!(matches!(dead, Err(CheckFailure::Unusable(_))), "{dead:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_can_be_wrong_with_nobody_told() {
    for (fault, is_there) in [
        (Fault::Spoil, true),
        (Fault::Shorten, true),
        (Fault::Drop, false),
    ] {
        let mem = MemSink::new();
        let rule = Rule::new(fault.clone());
        let sink = FaultSink::new(Arc::new(mem.clone()), 3).with(rule);
        let body = Bytes::from_static(b"what was put");
        let put = sink
            .put(&context(), &key("a"), body.clone(), PutMode::Create)
            .await;
        assert_eq!(put.unwrap().size, 12, "{fault:?}");
        let stored = mem.objects().remove(&key("a"));
        assert_eq!(stored.is_some(), is_there, "{fault:?}");
        assert_ne!(stored, Some(body), "{fault:?}");
        assert_eq!(sink.injected().len(), 1);
    }
    let slow = Rule::new(Fault::Slow(4)).on(&[Op::Put]);
    let sink = FaultSink::new(Arc::new(MemSink::new()), 3).with(slow);
    let begun = tokio::time::Instant::now();
    put(&sink, "a", "12345678").await;
    assert_eq!(begun.elapsed(), Duration::from_secs(2));
}
