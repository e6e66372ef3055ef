//! Lines that are cut, hold or spoil what they carry; an rclone that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::time::{Duration, Instant};

use backup_core::context::OpContext;
use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Sink, SinkError};
use backup_sink_rclone::RcloneSink;
use backup_testkit::context;
use bytes::Bytes;
use stage::{Dav, Line, Remotes};

fn sink(location: &str) -> RcloneSink {
    RcloneSink::new(&location.parse().unwrap()).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(size: u32) -> Bytes {
    let words = (0..size / 4).map(|number| number.wrapping_mul(2_654_435_761));
    words.flat_map(u32::to_le_bytes).collect()
}

/// A WebDAV server behind a line.
struct Far {
    remotes: Remotes,
    line: Line,
    _server: Dav,
}

impl Far {
    fn new() -> Self {
        let remotes = Remotes::new();
        let server = Dav::of(&remotes.root());
        let line = Line::to(server.port);
        remotes.add_dav(line.port, "hunter2");
        Self {
            remotes,
            line,
            _server: server,
        }
    }

    fn sink(&self, options: &str) -> RcloneSink {
        sink(&format!("{}{options}", self.remotes.location("dav:")))
    }

    /// What stands on the server's disk under a key.
    fn there(&self, name: &str) -> Option<Vec<u8>> {
        std::fs::read(self.remotes.root().join(name)).ok()
    }
}

async fn put(sink: &RcloneSink, name: &str, body: &Bytes) -> Result<(), SinkError> {
    sink.put(&context(), &key(name), body.clone(), PutMode::Create)
        .await
        .map(|_| ())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_line_that_is_cut_leaves_the_whole_object_or_none() {
    if !stage::has_rclone() {
        return;
    }
    let far = Far::new();
    let sink = far.sink("&retries=2");
    let body = body(512 << 10);
    put(&sink, "a/first", &body).await.unwrap();
    for (number, after) in [1, 400, 3000, 70_000, 300_000, 520_000]
        .into_iter()
        .enumerate()
    {
        let name = format!("a/{number}");
        far.line.cut_up(after, 4);
        let done = put(&sink, &name, &body).await;
        if let Some(there) = far.there(&name) {
            assert_eq!(there, body, "{after}");
        }
        if let Err(error) = done {
            assert_eq!(error.kind, ErrorKind::Unavailable, "{after}: {error}");
        }
        far.line.heal();
        match put(&sink, &name, &body).await {
            Err(error) if error.kind == ErrorKind::Conflict => {}
            done => done.unwrap(),
        }
        assert_eq!(far.there(&name).unwrap(), body, "{after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_read_that_is_cut_is_an_error_or_whole() {
    if !stage::has_rclone() {
        return;
    }
    let far = Far::new();
    let sink = far.sink("&retries=2");
    let body = body(512 << 10);
    put(&sink, "a/b", &body).await.unwrap();
    for (after, times) in [(10, 1), (2000, 8), (100_000, 8), (300_000, 1)] {
        far.line.cut_down(after, times);
        match sink.get(&context(), &key("a/b"), ByteRange::Full).await {
            Ok(got) => assert_eq!(got, body, "{after}"),
            Err(error) => assert!(
                matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Damaged),
                "{after}: {error}"
            ),
        }
        far.line.heal();
        let got = sink.get(&context(), &key("a/b"), ByteRange::Full).await;
        assert_eq!(got.unwrap(), body, "{after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_spoiled_on_the_way_gets_no_name() {
    if !stage::has_rclone() {
        return;
    }
    let far = Far::new();
    let careful = far.sink("&check=read");
    let body = body(512 << 10);
    put(&careful, "a/first", &body).await.unwrap();
    far.line.spoil(200_000);
    let error = put(&careful, "a/b", &body).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Damaged, "{error}");
    assert_eq!(far.there("a/b"), None);
    put(&careful, "a/b", &body).await.unwrap();
    assert_eq!(far.there("a/b").unwrap(), body);
}

/// Waits until a part of a body has gone over the line.
async fn some_has_gone(line: &Line, before: u64) {
    let begun = Instant::now();
    while line.sent() < before + 100_000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "nothing goes");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_rclone_that_is_killed_in_a_put_is_started_anew() {
    if !stage::has_rclone() {
        return;
    }
    let far = Far::new();
    let sink = far.sink("");
    let body = body(16 << 20);
    put(&sink, "a/first", &body).await.unwrap();
    let before = far.line.sent();
    let putting = {
        let (sink, body) = (sink.clone(), body.clone());
        tokio::spawn(async move { put(&sink, "a/b", &body).await })
    };
    some_has_gone(&far.line, before).await;
    far.line.hold();
    assert_eq!(far.there("a/b"), None);
    for child in far.remotes.children() {
        stage::kill(child);
    }
    far.line.heal();
    putting.await.unwrap().unwrap();
    assert_eq!(far.there("a/b").unwrap(), body);
    let got = sink.get(&context(), &key("a/b"), ByteRange::Full).await;
    assert_eq!(got.unwrap(), body);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_put_that_is_cancelled_leaves_nothing() {
    if !stage::has_rclone() {
        return;
    }
    let far = Far::new();
    let sink = far.sink("");
    let body = body(16 << 20);
    put(&sink, "a/first", &body).await.unwrap();
    let cx: OpContext = context();
    let before = far.line.sent();
    let putting = {
        let (sink, body, cx) = (sink.clone(), body.clone(), cx.clone());
        tokio::spawn(async move { sink.put(&cx, &key("a/b"), body, PutMode::Create).await })
    };
    some_has_gone(&far.line, before).await;
    far.line.hold();
    cx.cancel.cancel();
    let error = putting.await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    far.line.heal();
    assert_eq!(far.there("a/b"), None);
    put(&sink, "a/b", &body).await.unwrap();
    assert_eq!(far.there("a/b").unwrap(), body);
}
