//! Two sinks as one pass the suite as each of them does, and what goes wrong on one side is told.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use backup_cold::{ColdSink, JoinError, Side};
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, PutMode, Sink, SinkCaps, Temperature, Warmth,
};
use backup_testkit::{Fault, FaultSink, MemSink, Op, Rule, context, sink_suite};
use bytes::Bytes;
use futures::TryStreamExt as _;

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

fn pair() -> (MemSink, MemSink) {
    let caps = MemSink::new().info().caps;
    let cold = MemSink::with_caps(SinkCaps { cold: true, ..caps });
    (MemSink::new().at("mem:hot"), cold.at("mem:cold"))
}

fn joined(hot: &MemSink, cold: &MemSink) -> ColdSink {
    ColdSink::new(Arc::new(hot.clone()), Arc::new(cold.clone())).unwrap()
}

async fn put(sink: &dyn Sink, name: &str) {
    let body = Bytes::copy_from_slice(name.as_bytes());
    let put = sink
        .put(&context(), &key(name), body, PutMode::Create)
        .await;
    put.unwrap();
}

async fn listed(sink: &dyn Sink, prefix: &str, after: Option<&str>) -> Vec<String> {
    let after = after.map(key);
    let found = sink.list(&context(), prefix, after.as_ref());
    let found = found.map_ok(|meta| meta.key.to_string());
    let mut found: Vec<_> = found.try_collect().await.unwrap();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_as_one_pass_the_suite() {
    sink_suite(|| {
        let (hot, cold) = pair();
        Arc::new(joined(&hot, &cold))
    })
    .await;
}

const ALL: [&str; 8] = [
    "aside/config/0",
    "aside/data/3f/3f0a",
    "cold/00",
    "config/0",
    "data/3f/3f0a",
    "meta/3f/3f0b",
    "parity/data/3f/3f0a",
    "parity/meta/3f/3f0b",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_object_lies_on_its_side_and_a_list_has_both() {
    let (hot, cold) = pair();
    let both = joined(&hot, &cold);
    for name in ALL {
        put(&both, name).await;
    }
    for (sink, side) in [(&hot, Side::Hot), (&cold, Side::Cold)] {
        let there: Vec<_> = sink.objects().into_keys().collect();
        let wanted = ALL.iter().filter(|name| Side::of(name) == side);
        let wanted: Vec<_> = wanted.map(|name| key(name)).collect();
        assert_eq!(there, wanted, "{side:?}");
    }
    assert_eq!(listed(&both, "", None).await, ALL);
    assert_eq!(
        listed(&both, "parity/", None).await,
        ["parity/data/3f/3f0a", "parity/meta/3f/3f0b"]
    );
    assert_eq!(
        listed(&both, "parity/", Some("parity/data/3f/3f0a")).await,
        ["parity/meta/3f/3f0b"]
    );
    assert_eq!(listed(&both, "data/", None).await, ["data/3f/3f0a"]);
    // What lies on the wrong side is nothing that a get would find.
    hot.plant(key("data/aa/aa00"), "x");
    cold.plant(key("config/1"), "x");
    assert_eq!(listed(&both, "", None).await, ALL);
    let lost = both
        .get(&context(), &key("config/1"), ByteRange::Full)
        .await;
    assert_eq!(lost.unwrap_err().kind, ErrorKind::NotFound);
    both.delete(&context(), &key("data/3f/3f0a")).await.unwrap();
    assert_eq!(listed(&both, "data/", None).await, [""; 0]);
}

/// What is listed of some folders with one call, where that is done.
async fn together(sink: &dyn Sink, prefixes: &[&str]) -> Option<Vec<String>> {
    let ranges: Vec<_> = prefixes.iter().copied().map(KeyRange::below).collect();
    let found = sink.list_together(&context(), &ranges)?;
    let found = found.map_ok(|meta| meta.key.to_string());
    let mut found: Vec<_> = found.try_collect().await.unwrap();
    found.sort();
    Some(found)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_side_lists_its_folders_together() {
    let (hot, cold) = pair();
    let both = joined(&hot, &cold);
    for name in ALL {
        put(&both, name).await;
    }
    // What lies on the wrong side is nothing that a get would find.
    hot.plant(key("data/aa/aa00"), "x");
    cold.plant(key("config/1"), "x");
    let found = |names: &[&str]| Some(names.iter().map(|&name| name.to_owned()).collect());
    for (prefixes, names) in [
        (&["config/", "meta/"][..], &["config/0", "meta/3f/3f0b"][..]),
        (
            &["cold/", "parity/data/"],
            &["cold/00", "parity/data/3f/3f0a"],
        ),
        (
            &["config/", "data/", "meta/"],
            &["config/0", "data/3f/3f0a", "meta/3f/3f0b"],
        ),
        (&["config/", "data/"], &["config/0", "data/3f/3f0a"]),
    ] {
        assert_eq!(
            together(&both, prefixes).await,
            found(names),
            "{prefixes:?}"
        );
    }
    // Somebody who wants what lies on both sides of one prefix lists that alone.
    assert_eq!(together(&both, &["aside/", "config/"]).await, None);
}

/// Where one side cannot, both are listed folder by folder; a single one it lists in any case.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_side_that_does_not_list_together_is_asked_for_one_folder_only() {
    let (hot, cold) = pair();
    let plain = FaultSink::new(Arc::new(cold.clone()), 1);
    let both = ColdSink::new(Arc::new(hot.clone()), Arc::new(plain)).unwrap();
    for name in ALL {
        put(&both, name).await;
    }
    let found = together(&both, &["config/", "data/", "meta/"]).await;
    assert_eq!(found.unwrap().len(), 3);
    let none = together(&both, &["config/", "data/", "parity/data/"]).await;
    assert_eq!(none, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_what_is_cold_has_to_be_warmed() {
    let (hot, cold) = pair();
    let (both, cx) = (joined(&hot, &cold), context());
    let (meta, data) = (key("meta/3f/3f0b"), key("data/3f/3f0a"));
    for name in [&meta, &data] {
        put(&both, name.as_str()).await;
    }
    assert_eq!(
        both.temperature(&cx, &meta).await.unwrap(),
        Temperature::Warm
    );
    assert_eq!(
        both.temperature(&cx, &data).await.unwrap(),
        Temperature::Cold
    );
    assert!(both.get(&cx, &meta, ByteRange::Full).await.is_ok());
    let refused = both.get(&cx, &data, ByteRange::Full).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Cold);
    let keys = [meta, data.clone()];
    assert_eq!(both.warm(&cx, &keys).await.unwrap(), Warmth::Ready);
    assert!(both.get(&cx, &data, ByteRange::Full).await.is_ok());
    let none = both.temperature(&cx, &key("data/00/0000")).await;
    assert_eq!(none.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_fails_on_one_side_fails_and_leaves_the_other_alone() {
    let (hot, cold) = pair();
    let faulty = FaultSink::new(Arc::new(cold.clone()), 1);
    faulty.add(Rule::new(Fault::full()).on(&[Op::Put]));
    faulty.add(Rule::new(Fault::outage()).on(&[Op::List]));
    let both = ColdSink::new(Arc::new(hot.clone()), Arc::new(faulty)).unwrap();
    let cx = context();
    let refused = both
        .put(&cx, &key("data/3f/3f0a"), Bytes::new(), PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(refused.kind, ErrorKind::NoSpace);
    put(&both, "config/0").await;
    assert_eq!(cold.objects().len(), 0);
    assert_eq!(listed(&both, "config/", None).await, ["config/0"]);
    // A list that has not both is none.
    let all: Result<Vec<_>, _> = both.list(&cx, "", None).try_collect().await;
    assert_eq!(all.unwrap_err().kind, ErrorKind::Unavailable);
}

#[test]
fn capabilities_are_those_of_both() {
    let weak = SinkCaps {
        atomic_create: false,
        replace_if: true,
        max_put_bytes: 1 << 20,
        cold: false,
        connections: 2,
        settle: std::time::Duration::from_secs(3),
        lock: None,
    };
    let hot = MemSink::new().at("mem:hot");
    let cold = MemSink::with_caps(weak).at("mem:cold");
    let info = joined(&hot, &cold).info();
    assert!(info.is_split && info.caps.cold && info.caps.replace_if);
    assert!(!info.caps.atomic_create);
    assert_eq!(
        (info.caps.max_put_bytes, info.caps.connections),
        (1 << 20, 2)
    );
    assert_eq!(info.caps.settle, weak.settle);
    assert_eq!(info.location, "mem:hot?cold=mem:cold");
}

#[test]
fn one_place_is_not_taken_for_two() {
    let sink = || Arc::new(MemSink::new().at("mem:one"));
    let twice = ColdSink::new(sink(), sink()).unwrap_err();
    assert!(matches!(twice, JoinError::NotApart { .. }), "{twice}");
    let (hot, cold) = pair();
    let nested = ColdSink::new(Arc::new(joined(&hot, &cold)), sink()).unwrap_err();
    assert!(matches!(nested, JoinError::Nested(_)), "{nested}");
}
