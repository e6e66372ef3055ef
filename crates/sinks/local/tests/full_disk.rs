//! A disk that is full at any point of a put: one clear error, and nothing is left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use backup_core::{ByteRange, ErrorKind, PutMode, Sink};
use backup_sink_local::{CreateBy, LocalSink};
use backup_testkit::context;
use bytes::Bytes;
use stage::{Mounted, key, listed, no_temporaries};

mod stage;

const PAGE: usize = 4096;
const PAGES: usize = 64;

/// Puts into a disk on which so much is free; whether there was room.
async fn fits(sink: &LocalSink, name: &str, body: &Bytes, mode: &PutMode) -> bool {
    let before = listed(sink).await;
    let answer = sink
        .put(&context(), &key(name), body.clone(), mode.clone())
        .await;
    no_temporaries(sink.root());
    match answer {
        Ok(_) => {
            assert_eq!(
                sink.get(&context(), &key(name), ByteRange::Full)
                    .await
                    .unwrap(),
                body
            );
            true
        }
        Err(error) => {
            assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
            assert_eq!(listed(sink).await, before);
            false
        }
    }
}

#[tokio::test]
async fn a_disk_that_is_full_after_any_page_takes_all_or_nothing() {
    let body = Bytes::from(vec![7; 20 * PAGE - 100]);
    let mut rooms = Vec::new();
    // A new disk each time: what is freed may be free a moment later only.
    for pages in 1..32 {
        let Some(mounted) = Mounted::tmpfs(&format!("size={}", pages * PAGE)) else {
            return;
        };
        let sink = LocalSink::new(mounted.path());
        rooms.push(fits(&sink, "data/ab/pack", &body, &PutMode::Create).await);
    }
    let full = rooms.iter().filter(|room| !**room).count();
    assert!(
        full >= 19 && full < rooms.len() && rooms.is_sorted(),
        "{rooms:?}"
    );
}

#[tokio::test]
async fn a_disk_without_room_for_another_name_takes_all_or_nothing() {
    for first in [CreateBy::Link, CreateBy::Rename, CreateBy::Lock] {
        let mut rooms = Vec::new();
        // One name for the root; then the folders, the temporary file, the link, the lock.
        for names in 2..10 {
            let Some(mounted) = Mounted::tmpfs(&format!("size=1m,nr_inodes={names}")) else {
                return;
            };
            let sink = LocalSink::new(mounted.path()).creating_by(first);
            let body = Bytes::from_static(b"small");
            rooms.push(fits(&sink, "data/ab/pack", &body, &PutMode::Create).await);
        }
        let full = rooms.iter().filter(|room| !**room).count();
        assert!(
            (2..=4).contains(&full) && rooms.is_sorted(),
            "{first:?}: {rooms:?}"
        );
    }
}

#[tokio::test]
async fn a_replacement_that_does_not_fit_leaves_the_old_object() {
    let Some(mounted) = Mounted::tmpfs(&format!("size={}", PAGES * PAGE)) else {
        return;
    };
    let sink = LocalSink::new(mounted.path());
    let old = Bytes::from(vec![1; 40 * PAGE]);
    assert!(fits(&sink, "state", &old, &PutMode::Create).await);
    let new = Bytes::from(vec![2; 30 * PAGE]);
    assert!(!fits(&sink, "state", &new, &PutMode::Replace).await);
    assert_eq!(
        sink.get(&context(), &key("state"), ByteRange::Full)
            .await
            .unwrap(),
        old
    );
}
