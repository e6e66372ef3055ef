//! Servers that say nothing: from the beginning, or from the middle of an upload on, for a while or for good.
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
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Retry, Sink, SinkError};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use stage::Sshd;
use tokio::net::TcpListener;
use tokio::time::Instant;
use wire::Line;

const LARGE: usize = 48 << 20;

fn sink(location: &str) -> SftpSink {
    SftpSink::new(&location.parse().unwrap(), &Surroundings::none()).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn body(size: usize, seed: u8) -> Bytes {
    let bytes = (0..size).map(|at| (at % 251) as u8 ^ seed);
    bytes.collect::<Vec<u8>>().into()
}

async fn replace(sink: &SftpSink, name: &str, body: Bytes) -> Result<(), SinkError> {
    let (cx, key) = (context(), key(name));
    sink.put(&cx, &key, body, PutMode::Replace).await.map(drop)
}

async fn get(sink: &SftpSink, name: &str) -> Bytes {
    let (cx, key) = (context(), key(name));
    sink.get(&cx, &key, ByteRange::Full).await.unwrap()
}

/// The names in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Waits until a temporary file in a folder has at least so many bytes.
async fn has_begun(folder: &Path, bytes: u64) {
    let is_long = |entry: fs::DirEntry| {
        let is_temporary = entry.file_name().to_string_lossy().starts_with(".tmp-");
        is_temporary && entry.metadata().is_ok_and(|meta| meta.len() >= bytes)
    };
    let begun = Instant::now();
    loop {
        let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
        if entries.any(is_long) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(30),
            "nothing is written"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn assert_silent(error: &SinkError, words: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{text}");
    assert!(matches!(error.retry, Retry::After(_)), "{text}");
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_takes_a_connection_and_says_nothing_is_waited_for_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let silent = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            all.push(stream);
        }
    });
    let location = format!("sftp://me@127.0.0.1:{port}/srv?timeout=2&known_hosts=/dev/null");
    let sink = sink(&location);
    let began = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..4 {
        let sink = sink.clone();
        calls.spawn(async move { replace(&sink, &number.to_string(), body(9, 1)).await });
    }
    let words = [
        &format!("sftp://me@127.0.0.1:{port}/srv"),
        "said nothing for 2 s",
        "does not speak SSH",
        "timeout=SECONDS",
    ];
    for answer in calls.join_all().await {
        assert_silent(&answer.unwrap_err(), &words);
    }
    // One wait for all of them.
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    silent.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_hangs_in_an_upload_and_comes_back_is_waited_for() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let line = Line::to(server.port, Duration::ZERO).await;
    server.know_as(&[line.port]);
    let location = server.location_by(line.port, &server.root());
    let sink = sink(&format!("{location}&timeout=20"));
    replace(&sink, "p/first", body(9, 1)).await.unwrap();
    let put = {
        let sink = sink.clone();
        tokio::spawn(async move { replace(&sink, "p/large", body(LARGE, 3)).await })
    };
    has_begun(&server.root().join("p"), 1 << 20).await;
    server.signal("-STOP", false);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!put.is_finished());
    server.signal("-CONT", false);
    put.await.unwrap().unwrap();
    assert_eq!(line.made(), 1, "the same connection went on");
    assert!(get(&sink, "p/large").await == body(LARGE, 3));
    assert_eq!(names(&server.root().join("p")), ["first", "large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_upload_whose_session_hangs_for_good_is_made_again() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let sink = sink(&format!("{}&timeout=3", server.location()));
    replace(&sink, "p/first", body(9, 1)).await.unwrap();
    let put = {
        let sink = sink.clone();
        tokio::spawn(async move { replace(&sink, "p/large", body(LARGE, 3)).await })
    };
    let folder = server.root().join("p");
    has_begun(&folder, 1 << 20).await;
    server.signal("-STOP", false);
    put.await.unwrap().unwrap();
    assert_eq!(names(&folder), ["first", "large"]);
    // What hung goes on into a file that has no name any more.
    server.signal("-CONT", false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(get(&sink, "p/large").await == body(LARGE, 3));
    assert_eq!(names(&folder), ["first", "large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_hangs_as_a_whole_is_told_and_nothing_is_lost() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let sink = sink(&format!("{}&timeout=3", server.location()));
    replace(&sink, "p/a", body(9, 1)).await.unwrap();
    let put = {
        let sink = sink.clone();
        tokio::spawn(async move { replace(&sink, "p/a", body(LARGE, 3)).await })
    };
    let folder = server.root().join("p");
    has_begun(&folder, 1 << 20).await;
    server.signal("-STOP", true);
    let error = put.await.unwrap().unwrap_err();
    assert_silent(&error, &["127.0.0.1", "for 3 s", "timeout=SECONDS"]);
    assert!(fs::read(folder.join("a")).unwrap() == body(9, 1));
    server.signal("-CONT", true);
    replace(&sink, "p/a", body(LARGE, 4)).await.unwrap();
    assert!(get(&sink, "p/a").await == body(LARGE, 4));
    assert_eq!(names(&folder), ["a"]);
}

/// What was on its way to a server that hung is carried out when it goes on. By then it is of yesterday.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_hung_server_does_at_last_replaces_nothing_newer() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    // Long enough that the last request of the put is still under way when all before it are done.
    let line = Line::to(server.port, Duration::from_millis(50)).await;
    server.know_as(&[line.port]);
    let location = server.location_by(line.port, &server.root());
    let sink = sink(&format!("{location}&timeout=4"));
    replace(&sink, "gc/first", body(9, 1)).await.unwrap();
    let folder = server.root().join("gc");
    let mut held = 0;
    for number in 0..4 {
        let name = format!("gc/{number}");
        let put = {
            let (sink, name) = (sink.clone(), name.clone());
            tokio::spawn(async move { replace(&sink, &name, body(9, 2)).await })
        };
        has_begun(&folder, 9).await;
        line.hold();
        tokio::time::sleep(Duration::from_millis(200)).await;
        let is_held = !server.root().join(&name).exists();
        put.await.unwrap().unwrap();
        replace(&sink, &name, body(9, 3)).await.unwrap();
        line.let_go();
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert!(get(&sink, &name).await == body(9, 3), "{name}");
        held += u32::from(is_held);
        if held == 2 {
            break;
        }
    }
    assert!(held > 0, "no name was held up");
    let left = names(&folder);
    assert!(
        left.iter().all(|name| !name.starts_with(".tmp-")),
        "{left:?}"
    );
}
