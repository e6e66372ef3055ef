//! A line that is long, and one that is cut: how often a call waits for the server, and what is there afterwards.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;
#[path = "stage/line.rs"]
mod wire;

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Retry, Sink, SinkError};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use futures::TryStreamExt as _;
use stage::Sshd;
use tokio::time::Instant;
use wire::Line;

const EACH_WAY: Duration = Duration::from_millis(25);

fn sink(server: &Sshd, line: &Line) -> SftpSink {
    server.know_as(&[line.port]);
    let location = server.location_by(line.port, &server.root());
    SftpSink::new(&location.parse().unwrap(), &Surroundings::none()).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(size: usize, seed: u8) -> Bytes {
    let bytes = (0..size).map(|at| (at % 251) as u8 ^ seed);
    bytes.collect::<Vec<u8>>().into()
}

async fn list(sink: &SftpSink, prefix: &str) -> Result<Vec<String>, SinkError> {
    let all: Vec<_> = sink.list(&context(), prefix, None).try_collect().await?;
    Ok(all.into_iter().map(|meta| meta.key.to_string()).collect())
}

/// How often a call waits for the server, at best: a busy machine takes its time as well.
async fn waits<T, F: Future<Output = Result<T, SinkError>>>(
    what: &str,
    call: impl Fn(usize) -> F,
) -> u128 {
    let mut best = u128::MAX;
    for number in 0..4 {
        let begun = Instant::now();
        call(number).await.unwrap();
        best = best.min(begun.elapsed().as_millis());
    }
    let waits = best / (2 * EACH_WAY.as_millis());
    println!("{what}: {waits} ({best} ms)");
    waits
}

/// What the crate's page says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_no_more_often_than_they_must() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let line = Line::to(server.port, EACH_WAY).await;
    let (sink, cx) = (sink(&server, &line), context());
    let put = |name: &str, size, mode| {
        let (key, sink, cx) = (key(name), &sink, &cx);
        async move { sink.put(cx, &key, body(size, 1), mode).await }
    };
    put("data/ab/first", 10, PutMode::Create).await.unwrap();
    let create = |number, size| put(&format!("data/ab/{size}-{number}"), size, PutMode::Create);
    assert_eq!(waits("put", |number| create(number, 1000)).await, 3);
    // What the window holds goes out in one breath.
    let pack = waits("put of 1 MiB", |number| create(number, 1 << 20)).await;
    assert!(pack <= 4, "{pack}");
    put("sessions/hb", 10, PutMode::Replace).await.unwrap();
    let replace = |_| put("sessions/hb", 10, PutMode::Replace);
    assert_eq!(waits("replace", replace).await, 3);
    let small = key("data/ab/1000-0");
    let get = |range| {
        let (small, sink, cx) = (&small, &sink, &cx);
        move |_| sink.get(cx, small, range)
    };
    assert_eq!(waits("get", get(ByteRange::Full)).await, 2);
    assert_eq!(waits("suffix", get(ByteRange::Suffix(100))).await, 2);
    assert_eq!(waits("head", |_| sink.head(&cx, &small)).await, 1);
    assert_eq!(waits("list", |_| list(&sink, "sessions/")).await, 2);
    assert_eq!(waits("list of nothing", |_| list(&sink, "gc/")).await, 1);
    assert_eq!(
        waits("list of two levels", |_| list(&sink, "data/")).await,
        4
    );
    let keys: Vec<_> = (0..4)
        .map(|number| key(&format!("data/ab/1000-{number}")))
        .collect();
    assert_eq!(
        waits("delete", |number| sink.delete(&cx, &keys[number])).await,
        2
    );
    assert_eq!(line.made(), 1, "small calls share one connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_line_that_is_cut_anywhere_in_a_put_leaves_the_whole_object() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let line = Line::to(server.port, Duration::ZERO).await;
    let (sink, cx) = (sink(&server, &line), context());
    let text = body(300_000, 3);
    let mut cuts = 0;
    for (number, after) in (0..).zip([0, 50, 150, 400, 100_000, 299_000, 300_200, 300_500, 300_800])
    {
        for (suffix, mode) in [("c", PutMode::Create), ("r", PutMode::Replace)] {
            sink.head(&cx, &key("none")).await.unwrap_err();
            let key = key(&format!("cut/{number}/{suffix}"));
            line.cut_after(after);
            sink.put(&cx, &key, text.clone(), mode).await.unwrap();
            cuts += u64::from(line.was_cut());
            line.cut_after(-1);
            let got = sink.get(&cx, &key, ByteRange::Full).await.unwrap();
            assert!(got == text, "{key}");
        }
    }
    println!("{cuts} cuts, {} connections", line.made());
    assert!(cuts >= 12, "only {cuts} cuts fell into a put");
    // What a cut put left is a temporary file at most.
    assert_eq!(list(&sink, "").await.unwrap().len(), 18);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_create_whose_answer_was_lost_is_known_as_our_own_and_another_s_is_not() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    // Long enough that the answer is still under way when the name is there.
    let line = Line::to(server.port, EACH_WAY).await;
    let (sink, cx) = (sink(&server, &line), context());
    let there = server.root().join("gc/1");
    sink.put(&cx, &key("gc/0"), body(10, 1), PutMode::Create)
        .await
        .unwrap();
    let mine = sink.clone();
    let put = tokio::spawn(async move {
        let cx = context();
        mine.put(&cx, &key("gc/1"), body(10, 1), PutMode::Create)
            .await
    });
    while !there.exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    line.cut();
    put.await.unwrap().unwrap();
    assert!(line.made() > 1);
    let other = sink
        .put(&cx, &key("gc/1"), body(10, 2), PutMode::Create)
        .await;
    assert_eq!(other.unwrap_err().kind, ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_reads_go_on_over_a_line_that_is_cut() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let line = Line::to(server.port, Duration::from_millis(1)).await;
    let (sink, cx) = (sink(&server, &line), context());
    let text = body(20 << 20, 5);
    sink.put(&cx, &key("large"), text.clone(), PutMode::Create)
        .await
        .unwrap();
    let whole = {
        let sink = sink.clone();
        tokio::spawn(async move { sink.get(&context(), &key("large"), ByteRange::Full).await })
    };
    tokio::time::sleep(Duration::from_millis(30)).await;
    line.cut();
    assert!(whole.await.unwrap().unwrap() == text);
    let (offset, length) = (1_000_003, 3_000_007);
    let part = sink
        .get(&cx, &key("large"), ByteRange::Span { offset, length })
        .await
        .unwrap();
    assert!(part[..] == text[1_000_003..4_000_010]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_goes_away_and_comes_back_is_waited_for() {
    if !stage::has_sshd() {
        return;
    }
    let mut server = Sshd::with("");
    let location = server.location();
    let sink = SftpSink::new(&location.parse().unwrap(), &Surroundings::none()).unwrap();
    let cx = context();
    sink.put(&cx, &key("a"), body(10, 1), PutMode::Create)
        .await
        .unwrap();
    server.stop();
    let error = sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(matches!(error.retry, Retry::After(_)));
    assert!(error.to_string().contains("check name, port"), "{error}");
    assert!(server.start());
    assert_eq!(
        sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap(),
        body(10, 1)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_large_objects_use_several_connections_and_leave_nothing_when_cancelled() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let line = Line::to(server.port, EACH_WAY).await;
    let (sink, cx) = (Arc::new(sink(&server, &line)), context());
    sink.put(&cx, &key("p/first"), body(1, 1), PutMode::Create)
        .await
        .unwrap();
    let mut puts = tokio::task::JoinSet::new();
    for number in 0..6 {
        let (sink, cx) = (sink.clone(), cx.clone());
        puts.spawn(async move {
            let key = key(&format!("p/{number}"));
            sink.put(&cx, &key, body(8 << 20, number), PutMode::Create)
                .await
        });
    }
    tokio::time::sleep(Duration::from_millis(800)).await;
    cx.cancel.cancel();
    let mut done = 1;
    for answer in puts.join_all().await {
        match answer {
            Ok(_) => done += 1,
            Err(error) => assert_eq!(error.kind, ErrorKind::Cancelled, "{error}"),
        }
    }
    assert_eq!(line.made(), 3);
    // The tidying goes behind what was on its way. Who is cancelled while an object gets its name cannot know whether it has
    // got it: such a one is there as a whole.
    let is_ours = |(name, size): &(String, u64)| match name.as_str() {
        "first" => *size == 1,
        name => name.parse::<u8>().is_ok() && *size == 8 << 20,
    };
    let mut left = Vec::new();
    for _ in 0..100 {
        left = files(&server.root().join("p"));
        if left.iter().all(is_ours) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(left.iter().all(is_ours) && left.len() >= done, "{left:?}");
    assert_eq!(list(&sink, "p/").await.unwrap().len(), left.len());
}

/// The names in a folder, with their sizes.
fn files(folder: &Path) -> Vec<(String, u64)> {
    let entries = fs::read_dir(folder).unwrap().flatten();
    let told = entries.map(|entry| {
        (
            entry.file_name(),
            entry.metadata().map_or(0, |meta| meta.len()),
        )
    });
    told.map(|(name, size)| (name.to_string_lossy().into_owned(), size))
        .collect()
}
