//! Remotes with troubles of their own: not configured, no folder, not let in, no room, held back; and what is left behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Retry, Sink, SinkError};
use backup_sink_rclone::RcloneSink;
use backup_testkit::context;
use bytes::Bytes;
use futures::TryStreamExt as _;
use stage::{Dav, Line, Remotes};

fn sink(location: &str) -> RcloneSink {
    RcloneSink::new(&location.parse().unwrap()).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

async fn put(sink: &RcloneSink, name: &str, size: usize) -> Result<(), SinkError> {
    let body = Bytes::from(vec![7; size]);
    sink.put(&context(), &key(name), body, PutMode::Create)
        .await?;
    Ok(())
}

async fn get(sink: &RcloneSink, name: &str) -> Result<Bytes, SinkError> {
    sink.get(&context(), &key(name), ByteRange::Full).await
}

async fn listed(sink: &RcloneSink) -> Result<Vec<String>, SinkError> {
    let all: Vec<_> = sink.list(&context(), "", None).try_collect().await?;
    let mut names: Vec<_> = all.into_iter().map(|meta| meta.key.to_string()).collect();
    names.sort();
    Ok(names)
}

#[tokio::test]
async fn a_remote_that_is_not_configured_is_named() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let error = put(&sink(&remotes.location("nothing:x")), "a", 1)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    let text = error.to_string();
    assert!(
        text.contains("no remote `nothing`") && text.contains("listremotes"),
        "{text}"
    );
    let error = get(&sink("rclone:disk:/?config=/nowhere/rclone.conf"), "a")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("rclone config"), "{error}");
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
}

#[tokio::test]
async fn a_configuration_that_is_encrypted_says_so() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let text = "# Encrypted rclone configuration File\n\nRCLONE_ENCRYPT_V0:\n\
        k2sTqh5vTBV0cYwNDHJyVq4NeXQPLgtRT8qTnJHoN0LKrDTaTbB1xCp8DcLmLe5Tq8fNQlS6rXYOfvKbVJhCkD0H\n";
    fs::write(remotes.config(), text).unwrap();
    let error = listed(&sink(&remotes.location("disk:/")))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("RCLONE_CONFIG_PASS"), "{error}");
}

#[tokio::test]
async fn a_path_that_is_missing_is_made_only_where_that_is_wanted() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let folder = remotes.root().join("not/there");
    let location = remotes.on_disk(&folder);
    let strict = sink(&location);
    let error = put(&strict, "data/ab/x", 3).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.to_string().contains("create=yes"), "{error}");
    assert!(listed(&strict).await.is_err());
    assert!(!folder.exists());
    let making = sink(&format!("{location}&create=yes"));
    put(&making, "data/ab/x", 3).await.unwrap();
    assert_eq!(listed(&strict).await.unwrap(), ["data/ab/x"]);
    assert!(folder.join("data/ab/x").is_file());
}

#[tokio::test]
async fn who_is_not_let_in_is_told_what_to_try() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    remotes.add_dav(server.port, "wrong");
    let sink = sink(&remotes.location("dav:"));
    let error = put(&sink, "a", 1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    let text = error.to_string();
    assert!(text.contains("rclone lsd dav:"), "{text}");
    assert!(!text.contains("wrong"), "{text}");
    assert!(fs::read_dir(remotes.root()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_server_that_is_down_is_unavailable() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    remotes.add_dav(1, "hunter2");
    let sink = sink(&format!("{}&retries=1", remotes.location("dav:")));
    let error = listed(&sink).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(matches!(error.retry, Retry::After(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_holds_back_is_given_time() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    let line = Line::to(server.port);
    remotes.add_dav(line.port, "hunter2");
    let location = remotes.location("dav:");
    let sink = sink(&format!("{location}&retries=2&tpslimit=50"));
    put(&sink, "a/before", 1).await.unwrap();
    for status in [429, 503] {
        line.answer(status);
        let error = put(&sink, "a/b", 1).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
        assert_eq!(error.retry, Retry::After(Duration::from_secs(30)));
        assert!(error.to_string().contains("tpslimit"), "{error}");
        line.heal();
    }
    put(&sink, "a/b", 1).await.unwrap();
    assert_eq!(listed(&sink).await.unwrap(), ["a/b", "a/before"]);
}

/// A file system of its own, that is taken away again.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn at(folder: &'a Path, options: &str) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(folder)
            .output();
        let is_mounted = mounted.is_ok_and(|told| told.status.success());
        if !is_mounted {
            println!("skipped: nothing can be mounted here");
        }
        is_mounted.then_some(Self(folder))
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_remote_says_so_and_loses_nothing() {
    if !stage::has_rclone() {
        return;
    }
    for over_dav in [false, true] {
        let remotes = Remotes::new();
        let root = remotes.root();
        let Some(_small) = Small::at(&root, "size=4m") else {
            return;
        };
        let server = Dav::of(&root);
        remotes.add_dav(server.port, "hunter2");
        let location = match over_dav {
            true => remotes.location("dav:"),
            false => remotes.on_disk(&root),
        };
        let sink = sink(&format!("{location}&retries=1"));
        put(&sink, "a/first", 1 << 20).await.unwrap();
        let room = sink.room(&context()).await.unwrap();
        if let Some(room) = room {
            assert!(room.free < 4 << 20, "{room:?}");
        }
        assert!(room.is_some() || over_dav);
        let error = put(&sink, "a/second", 8 << 20).await.unwrap_err();
        if !over_dav {
            assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
            assert!(error.to_string().contains("make room"), "{error}");
        }
        assert!(get(&sink, "a/second").await.is_err());
        assert_eq!(get(&sink, "a/first").await.unwrap().len(), 1 << 20);
        assert_eq!(listed(&sink).await.unwrap(), ["a/first"]);
        sink.delete(&context(), &key("a/first")).await.unwrap();
        put(&sink, "a/second", 1 << 20).await.unwrap();
    }
}

#[tokio::test]
async fn what_killed_puts_leave_is_tidied_and_never_listed() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let sink = sink(&remotes.on_disk(&remotes.root()));
    put(&sink, "a/b", 1).await.unwrap();
    let folder = remotes.root().join(".tmp");
    let (old, fresh) = ("0123456789abcdef".repeat(2), "f".repeat(32));
    for name in [&old, &fresh, "keep"] {
        fs::write(folder.join(name), "x").unwrap();
    }
    // The clock of the test's context stands still somewhere.
    let now = context().clock.now();
    for (name, hours) in [(&old[..], 3), (&fresh, 1), ("keep", 3)] {
        let time = now.as_second() - hours * 3600;
        let time = std::time::UNIX_EPOCH + Duration::from_secs(u64::try_from(time).unwrap());
        let file = fs::File::options()
            .write(true)
            .open(folder.join(name))
            .unwrap();
        file.set_modified(time).unwrap();
    }
    assert_eq!(listed(&sink).await.unwrap(), ["a/b"]);
    let span = Duration::from_secs(2 * 3600);
    assert_eq!(sink.tidy(&context(), span).await.unwrap(), 1);
    assert!(!folder.join(&old).exists());
    assert!(folder.join(&fresh).exists() && folder.join("keep").exists());
}

#[tokio::test]
async fn a_key_that_ends_in_data_is_not_put_elsewhere() {
    if !stage::has_rclone() {
        return;
    }
    // What rclone serves by restic's protocol it looks for below two letters more.
    let remotes = Remotes::new();
    let sink = sink(&remotes.on_disk(&remotes.root()));
    put(&sink, "data/abcdef", 5).await.unwrap();
    assert!(remotes.root().join("data/abcdef").is_file());
    assert_eq!(get(&sink, "data/abcdef").await.unwrap().len(), 5);
    assert_eq!(listed(&sink).await.unwrap(), ["data/abcdef"]);
}

#[tokio::test]
async fn what_has_the_same_size_and_time_is_replaced_too() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let server = Dav::of(&remotes.root());
    remotes.add_dav(server.port, "hunter2");
    for location in [
        remotes.on_disk(&remotes.root()),
        remotes.location("dav:"),
        format!("{}&create=yes", remotes.location("vault:")),
    ] {
        let sink = sink(&location);
        for text in ["one", "two", "six"] {
            sink.put(
                &context(),
                &key("a/b"),
                Bytes::from_static(text.as_bytes()),
                PutMode::Replace,
            )
            .await
            .unwrap();
            assert_eq!(get(&sink, "a/b").await.unwrap(), text, "{location}");
        }
        sink.delete(&context(), &key("a/b")).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_shows_no_secret_and_ends_with_its_sink() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let sink = sink(&remotes.on_disk(&remotes.root()));
    put(&sink, "a/b", 1).await.unwrap();
    let children = remotes.children();
    assert_eq!(children.len(), 1);
    let line = fs::read(format!("/proc/{}/cmdline", children[0])).unwrap();
    let line = String::from_utf8_lossy(&line).into_owned();
    assert!(
        !line.contains("rc-pass") && !line.contains("hunter2"),
        "{line}"
    );
    drop(sink);
    assert!(remotes.children_end());
}
