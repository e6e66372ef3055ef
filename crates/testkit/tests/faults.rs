//! What the failing sink does to calls, and that it does nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, ObjectKey, OpContext, PutMode, Retry, Sink, SinkError};
use backup_testkit::{
    Crash, Fault, FaultSink, Injected, MemSink, Op, Outcome, RecordingSink, Rule, When, context,
    seed, sink_suite,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

/// A failing sink with the sink in memory below it.
struct Bench {
    sink: FaultSink,
    below: MemSink,
    cx: OpContext,
}

impl Bench {
    fn new(rules: impl IntoIterator<Item = Rule>) -> Self {
        Self::seeded(7, rules)
    }

    fn seeded(seed: u64, rules: impl IntoIterator<Item = Rule>) -> Self {
        let below = MemSink::new();
        let sink = FaultSink::new(Arc::new(below.clone()), seed);
        rules.into_iter().for_each(|rule| sink.add(rule));
        Self {
            sink,
            below,
            cx: context(),
        }
    }

    async fn put(&self, name: &str, body: &'static str) -> Result<(), SinkError> {
        let body = Bytes::from_static(body.as_bytes());
        self.sink
            .put(&self.cx, &key(name), body, PutMode::Create)
            .await
            .map(|_| ())
    }

    async fn get(&self, name: &str) -> Result<Bytes, SinkError> {
        self.sink.get(&self.cx, &key(name), ByteRange::Full).await
    }

    async fn delete(&self, name: &str) -> Result<(), SinkError> {
        self.sink.delete(&self.cx, &key(name)).await
    }

    async fn list(&self) -> Vec<String> {
        let names = self
            .sink
            .list(&self.cx, "", None)
            .map_ok(|meta| meta.key.to_string());
        let mut names: Vec<String> = names.try_collect().await.unwrap();
        names.sort();
        names
    }

    /// What is really there.
    fn truth(&self) -> Vec<String> {
        self.below
            .objects()
            .into_keys()
            .map(|key| key.to_string())
            .collect()
    }
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrappers_without_rules_are_as_good_as_what_they_wrap() {
    sink_suite(|| {
        let recorded = RecordingSink::new(Arc::new(MemSink::new()));
        let failing = FaultSink::new(Arc::new(recorded), seed()).listing_together();
        Arc::new(RecordingSink::new(Arc::new(failing)))
    })
    .await;
}

#[tokio::test]
async fn a_failure_hits_the_calls_that_its_rule_names_and_no_others() {
    let rule = Rule::new(Fault::outage())
        .on(&[Op::Put])
        .under("data/")
        .when(When::First(2));
    let bench = Bench::new([rule]);
    for _ in 0..2 {
        let error = bench.put("data/a", "x").await.unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (ErrorKind::Unavailable, Retry::Now)
        );
        bench.put("other/a", "x").await.err();
    }
    assert_eq!(bench.truth(), ["other/a"]);
    bench.put("data/a", "x").await.unwrap();
    assert_eq!(bench.get("data/a").await.unwrap(), "x");
    assert_eq!(bench.sink.injected().len(), 2);
    assert_eq!(bench.sink.mutations(), 5);
}

#[tokio::test]
async fn calls_are_counted_from_one() {
    let hits = |when| async move {
        let bench = Bench::new([Rule::new(Fault::outage()).on(&[Op::Head]).when(when)]);
        let mut hit = Vec::new();
        for number in 1..=6 {
            let error = bench.sink.head(&bench.cx, &key("a")).await.unwrap_err();
            if error.kind == ErrorKind::Unavailable {
                hit.push(number);
            }
        }
        hit
    };
    assert_eq!(hits(When::Always).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(hits(When::First(2)).await, [1, 2]);
    assert_eq!(hits(When::Nth(3)).await, [3]);
    assert_eq!(hits(When::From(5)).await, [5, 6]);
    assert_eq!(hits(When::Every(3)).await, [3, 6]);
    assert_eq!(hits(When::Every(0)).await, [0; 0]);
    assert_eq!(hits(When::PerMille(0)).await, [0; 0]);
    assert_eq!(hits(When::PerMille(1000)).await, [1, 2, 3, 4, 5, 6]);
}

#[tokio::test]
async fn an_error_tells_how_to_make_it_happen_again() {
    let bench = Bench::seeded(4711, [Rule::new(Fault::LoseAnswer)]);
    let error = bench.put("data/a", "x").await.unwrap_err();
    assert!(
        error.to_string().contains("call 1 (put data/a), seed 4711"),
        "{error}"
    );
    let cause = error.source.unwrap().downcast::<Injected>().unwrap();
    assert_eq!(*cause, bench.sink.injected()[0]);
    assert!(format!("{:?}", bench.sink).contains("seed: 4711"));
}

#[tokio::test]
async fn a_lost_answer_comes_after_the_deed() {
    let bench = Bench::new([Rule::new(Fault::LoseAnswer)
        .when(When::First(1))
        .on(&[Op::Put])]);
    assert_eq!(
        bench.put("a", "x").await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert_eq!(bench.truth(), ["a"]);
    assert_eq!(
        bench.put("a", "x").await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    bench.sink.add(Rule::new(Fault::LoseAnswer));
    assert!(bench.delete("a").await.is_err());
    assert!(bench.truth().is_empty());
    assert_eq!(
        bench.get("a").await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    bench.sink.calm();
    assert_eq!(bench.get("a").await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_change_can_be_delivered_twice() {
    let bench = Bench::new([
        Rule::new(Fault::Twice).under("twice"),
        Rule::new(Fault::Retried),
    ]);
    bench.put("twice", "x").await.unwrap();
    assert_eq!(
        bench.put("retried", "x").await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    assert_eq!(bench.truth(), ["retried", "twice"]);
    bench.delete("twice").await.unwrap();
    bench.delete("retried").await.unwrap();
    assert!(bench.truth().is_empty());
}

#[tokio::test]
async fn a_change_can_come_again_late() {
    let bench = Bench::new([Rule::new(Fault::Echo(1)).on(&[Op::Put]).when(When::Nth(1))]);
    bench.put("a", "x").await.unwrap();
    assert!(bench.get("a").await.is_ok());
    bench.delete("a").await.unwrap();
    // The put comes again after the delete and brings the object back.
    assert_eq!(bench.list().await, ["a"]);
    bench.delete("a").await.unwrap();
    assert!(bench.list().await.is_empty());
}

#[tokio::test]
async fn a_torn_put_leaves_the_beginning_of_its_object() {
    let bench = Bench::new([Rule::new(Fault::Torn)]);
    assert_eq!(
        bench.put("a", "0123456789").await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    let left = bench.below.objects().remove(&key("a")).unwrap();
    assert!(
        left.len() < 10 && b"0123456789".starts_with(&left),
        "{left:?}"
    );
    bench.put("a", "0123456789").await.unwrap_err();
    assert_eq!(
        bench.below.objects().remove(&key("a")).unwrap(),
        left,
        "a create replaced it"
    );
}

#[tokio::test]
async fn what_is_read_can_be_wrong_in_one_bit_or_short() {
    let bench = Bench::new([Rule::new(Fault::FlipBit).when(When::First(50))]);
    bench.put("a", "0123456789").await.unwrap();
    let mut seen = BTreeMap::new();
    for _ in 0..50 {
        let found = bench.get("a").await.unwrap();
        let flipped: u32 = found
            .iter()
            .zip(b"0123456789")
            .map(|(one, other)| (one ^ other).count_ones())
            .sum();
        assert_eq!((found.len(), flipped), (10, 1));
        *seen.entry(found).or_insert(0) += 1;
    }
    assert!(seen.len() > 20, "always the same bits");
    assert_eq!(bench.get("a").await.unwrap(), "0123456789");
    bench.sink.add(Rule::new(Fault::CutShort));
    let short = bench.get("a").await.unwrap();
    assert!(short.len() < 10 && b"0123456789".starts_with(&short));
}

#[tokio::test]
async fn a_listing_can_lag_behind() {
    let bench = Bench::new([Rule::new(Fault::StaleList(2)).when(When::First(2))]);
    for name in ["a", "b", "c"] {
        bench.put(name, "x").await.unwrap();
    }
    bench.delete("a").await.unwrap();
    assert_eq!(
        bench.list().await,
        ["a", "b"],
        "without c, and a still there"
    );
    let under = bench.sink.list(&bench.cx, "", Some(&key("a")));
    assert_eq!(under.count().await, 1, "what is shown again heeds `after`");
    assert_eq!(bench.list().await, ["b", "c"]);
}

#[tokio::test]
async fn a_listing_can_break_off() {
    let bench = Bench::new([Rule::new(Fault::BreakOff(2))]);
    for name in ["a", "b", "c"] {
        bench.put(name, "x").await.unwrap();
    }
    let items: Vec<_> = bench.sink.list(&bench.cx, "", None).collect().await;
    assert_eq!(items.iter().filter(|item| item.is_ok()).count(), 2);
    assert_eq!(items[2].as_ref().unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_added_to_whatever_else_happens() {
    let slow = || Rule::new(Fault::Delay(Duration::from_secs(30)));
    let bench = Bench::new([slow(), slow().on(&[Op::Put]), Rule::new(Fault::LoseAnswer)]);
    let start = tokio::time::Instant::now();
    assert!(bench.put("a", "x").await.is_err());
    assert_eq!(start.elapsed(), Duration::from_secs(60));
    assert_eq!(bench.truth(), ["a"]);
}

#[tokio::test]
async fn a_full_tier_takes_nothing_more_until_something_is_deleted() {
    let bench = Bench::new([]);
    bench.sink.set_space(Some(10));
    bench.put("a", "12345").await.unwrap();
    assert_eq!(
        bench.put("b", "123456").await.unwrap_err().kind,
        ErrorKind::NoSpace
    );
    assert_eq!(bench.truth(), ["a"]);
    assert_eq!(
        bench.put("a", "123").await.unwrap_err().kind,
        ErrorKind::Conflict
    );
    bench.put("b", "12345").await.unwrap();
    assert_eq!(
        bench.put("c", "1").await.unwrap_err().kind,
        ErrorKind::NoSpace
    );
    bench.delete("a").await.unwrap();
    bench.delete("a").await.unwrap();
    bench.put("c", "12345").await.unwrap();
    assert_eq!(
        bench.put("d", "1").await.unwrap_err().kind,
        ErrorKind::NoSpace
    );
    bench.sink.set_space(None);
    bench.put("d", "1").await.unwrap();
}

/// A small operation that changes three things in order and stops at the first error.
async fn commit(sink: &dyn Sink, cx: &OpContext) -> Result<(), SinkError> {
    let body = Bytes::from_static(b"0123456789");
    sink.put(cx, &key("data"), body.clone(), PutMode::Create)
        .await?;
    sink.head(cx, &key("data")).await?;
    sink.put(cx, &key("manifest"), body, PutMode::Create)
        .await?;
    sink.delete(cx, &key("old")).await
}

#[tokio::test]
async fn a_crash_matrix_goes_through_every_change() {
    let dry = Bench::new([]);
    commit(&dry.sink, &dry.cx).await.unwrap();
    let changes = dry.sink.mutations();
    assert_eq!(changes, 3);
    for crash in Crash::ALL {
        for k in 1..=changes + 1 {
            let bench = Bench::new([]);
            bench.below.plant(key("old"), "old");
            bench.sink.crash_at(k, crash);
            let answer = commit(&bench.sink, &bench.cx).await;
            assert_eq!(answer.is_err(), k <= changes);
            assert_eq!(bench.sink.crashed(), k <= changes);
            let done = match crash {
                Crash::After => k,
                Crash::Before | Crash::Torn => k - 1,
            };
            let mut wanted = vec!["old"];
            wanted.truncate(usize::from(done < 3));
            wanted.extend(
                ["manifest"]
                    .iter()
                    .filter(|_| done >= 2 || (k == 2 && crash == Crash::Torn)),
            );
            wanted.extend(
                ["data"]
                    .iter()
                    .filter(|_| done >= 1 || crash == Crash::Torn),
            );
            wanted.sort_unstable();
            assert_eq!(bench.truth(), wanted, "{crash:?} at {k}");
            let torn = bench
                .below
                .objects()
                .values()
                .filter(|body| body.len() < 10)
                .count();
            let old = usize::from(done < 3);
            assert_eq!(
                torn - old,
                usize::from(crash == Crash::Torn && k < 3),
                "{crash:?} at {k}"
            );
            if k <= changes {
                let after = bench.get("data").await.unwrap_err();
                assert_eq!(
                    (after.kind, after.retry),
                    (ErrorKind::Unavailable, Retry::Never)
                );
                assert!(
                    bench
                        .sink
                        .list(&bench.cx, "", None)
                        .next()
                        .await
                        .unwrap()
                        .is_err()
                );
            }
        }
    }
}

/// Which of a hundred keys a chance of one in three hits, asked for in this order.
async fn hit(seed: u64, order: impl Iterator<Item = u32>) -> Vec<u32> {
    let bench = Bench::seeded(seed, [Rule::new(Fault::outage()).when(When::PerMille(333))]);
    let mut hit = Vec::new();
    for number in order {
        let error = bench
            .sink
            .head(&bench.cx, &key(&format!("k/{number}")))
            .await
            .unwrap_err();
        if error.kind == ErrorKind::Unavailable {
            hit.push(number);
        }
    }
    hit.sort_unstable();
    hit
}

#[tokio::test]
async fn chance_follows_the_seed_and_not_the_order_of_calls() {
    let first = hit(1, 0..100).await;
    assert!((15..55).contains(&first.len()), "{first:?}");
    assert_eq!(hit(1, 0..100).await, first);
    assert_eq!(hit(1, (0..100).rev()).await, first);
    assert_ne!(hit(2, 0..100).await, first);
}

#[tokio::test]
async fn a_recording_tells_what_was_asked_and_how_it_ended() {
    let (cx, below) = (context(), MemSink::new());
    let failing = FaultSink::new(Arc::new(below), 1);
    failing.add(Rule::new(Fault::BreakOff(1)).under("broken/"));
    let sink = RecordingSink::new(Arc::new(failing));
    let body = Bytes::from_static(b"0123456789");
    sink.put(&cx, &key("broken/a"), body.clone(), PutMode::Create)
        .await
        .unwrap();
    sink.put(&cx, &key("broken/a"), body, PutMode::Create)
        .await
        .unwrap_err();
    sink.get(&cx, &key("broken/a"), ByteRange::Suffix(4))
        .await
        .unwrap();
    sink.delete(&cx, &key("none")).await.unwrap();
    drop(sink.list(&cx, "", None));
    assert_eq!(sink.list(&cx, "", None).count().await, 1);
    assert_eq!(sink.list(&cx, "broken/", None).count().await, 2);
    let shown: Vec<String> = sink.calls().iter().map(ToString::to_string).collect();
    let wanted = [
        "put broken/a 10",
        "put broken/a 10 failed: Conflict",
        "get broken/a",
        "delete none",
        "list  unfinished",
        "list ",
        "list broken/ failed: Unavailable",
    ];
    assert_eq!(shown, wanted);
    let calls = sink.calls();
    assert_eq!(
        (calls[0].mode.clone(), calls[2].range),
        (Some(PutMode::Create), Some(ByteRange::Suffix(4)))
    );
    assert_eq!(
        (calls[2].bytes, calls[5].objects, calls[5].outcome),
        (4, 1, Outcome::Done)
    );
    assert_eq!(
        (sink.count(Op::List), sink.count_under(Op::List, "broken/")),
        (3, 1)
    );
    assert_eq!((sink.bytes(Op::Put), sink.bytes(Op::Get)), (20, 4));
    sink.forget();
    sink.head(&cx, &key("broken/a")).await.unwrap();
    assert_eq!(sink.calls().len(), 1);
}
