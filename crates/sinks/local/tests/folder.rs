//! The folder as a folder: roots, links, other file systems, what is not ours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::Duration;

use backup_core::{ByteRange, Clock, ErrorKind, OpContext, PutMode, Retry, Sink};
use backup_sink_local::LocalSink;
use backup_testkit::{TestClock, context};
use bytes::Bytes;
use stage::{Mounted, files, key, listed, no_temporaries};
use tempfile::TempDir;

mod stage;

const BODY: Bytes = Bytes::from_static(b"body");

#[tokio::test]
async fn a_root_that_went_away_is_not_to_be_made_anew() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("root");
    fs::create_dir(&root).unwrap();
    let sink = LocalSink::new(&root);
    let cx = context();
    let put = sink.put(&cx, &key("a"), BODY, PutMode::Create).await;
    let _ = put.unwrap();
    fs::rename(&root, folder.path().join("moved")).unwrap();
    let error = sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    let text = error.to_string();
    assert!(
        text.contains("is gone") && text.contains("still mounted"),
        "{text}"
    );
    assert!(
        !text.contains("mkdir") && !text.contains("create=yes"),
        "{text}"
    );
    fs::rename(folder.path().join("moved"), &root).unwrap();
    assert_eq!(
        sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap(),
        BODY
    );
}

#[tokio::test]
async fn a_root_that_is_missing_is_an_error_that_says_what_to_do() {
    let folder = TempDir::new().unwrap();
    let sink = LocalSink::new(folder.path().join("not/there"));
    let cx = context();
    let put = sink
        .put(&cx, &key("a"), BODY, PutMode::Create)
        .await
        .unwrap_err();
    let get = sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap_err();
    let delete = sink.delete(&cx, &key("a")).await.unwrap_err();
    let list = futures::TryStreamExt::try_collect::<Vec<_>>(sink.list(&cx, "", None));
    let list = list.await.unwrap_err();
    for error in [put, get, delete, list] {
        assert_eq!(error.kind, ErrorKind::NotFound);
        let text = error.to_string();
        assert!(
            text.contains("not/there") && text.contains("create=yes"),
            "{text}"
        );
    }
    assert_eq!(files(folder.path()).len(), 0);

    sink.create(&cx).await.unwrap();
    sink.create(&cx).await.unwrap();
    sink.put(&cx, &key("a"), BODY, PutMode::Create)
        .await
        .unwrap();
    let mode = fs::metadata(sink.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_root_can_be_made_by_the_first_put() {
    let folder = TempDir::new().unwrap();
    let sink = LocalSink::new(folder.path().join("new/root")).making_root(true);
    assert!(sink.head(&context(), &key("a")).await.is_err());
    assert!(!sink.root().exists(), "reading makes no folder");
    sink.put(&context(), &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    assert_eq!(listed(&sink).await, ["d/a"]);
}

#[tokio::test]
async fn a_root_that_is_a_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let root = folder.path().join("file");
    fs::write(&root, "x").unwrap();
    for sink in [LocalSink::new(&root), LocalSink::new(root.join("below"))] {
        let created = sink.create(&context()).await.unwrap_err();
        let put = sink
            .put(&context(), &key("a"), BODY, PutMode::Create)
            .await
            .unwrap_err();
        for error in [created, put] {
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains("is not a folder"), "{error}");
        }
    }
    assert_eq!(fs::read(&root).unwrap(), b"x");
}

#[tokio::test]
async fn a_read_only_root_can_be_read_and_nothing_else() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let sink = LocalSink::new(mounted.path());
    let cx = context();
    sink.put(&cx, &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    mounted.read_only();
    assert_eq!(
        sink.get(&cx, &key("d/a"), ByteRange::Full).await.unwrap(),
        BODY
    );
    for name in ["d/b", "e/f", "g"] {
        let error = sink
            .put(&cx, &key(name), BODY, PutMode::Create)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    }
    assert_eq!(
        sink.delete(&cx, &key("d/a")).await.unwrap_err().kind,
        ErrorKind::Denied
    );
    assert_eq!(listed(&sink).await, ["d/a"]);
}

#[tokio::test]
async fn a_root_may_be_a_link_but_nothing_below_it_is_followed() {
    let folder = TempDir::new().unwrap();
    let (real, outside) = (folder.path().join("real"), folder.path().join("outside"));
    fs::create_dir(&real).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    symlink(&real, folder.path().join("link")).unwrap();
    symlink(&outside, real.join("d")).unwrap();
    symlink(outside.join("secret"), real.join("object")).unwrap();
    symlink(outside.join("new"), real.join("dangling")).unwrap();
    let sink = LocalSink::new(folder.path().join("link"));
    let cx = context();
    for name in ["d/secret", "object"] {
        let error = sink
            .get(&cx, &key(name), ByteRange::Full)
            .await
            .unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains("symbolic link"), "{error}");
        assert_eq!(
            sink.head(&cx, &key(name)).await.unwrap_err().kind,
            ErrorKind::Invalid
        );
    }
    for mode in [PutMode::Create, PutMode::Replace] {
        let error = sink.put(&cx, &key("d/new"), BODY, mode).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
    assert!(sink.delete(&cx, &key("d/secret")).await.is_err());
    let error = sink
        .put(&cx, &key("dangling"), BODY, PutMode::Create)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    sink.put(&cx, &key("object"), BODY, PutMode::Replace)
        .await
        .unwrap();
    sink.delete(&cx, &key("dangling")).await.unwrap();
    assert_eq!(listed(&sink).await, ["object"]);
    assert_eq!(files(&outside), [outside.join("secret")]);
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret");
}

#[tokio::test]
async fn a_folder_of_another_file_system_is_as_good_as_any() {
    let folder = TempDir::new().unwrap();
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let below = folder.path().join("data");
    fs::create_dir(&below).unwrap();
    let _bound = mounted.bind(&below);
    let sink = LocalSink::new(folder.path());
    for name in ["a", "data/b", "data/c/d"] {
        for mode in [PutMode::Create, PutMode::Replace] {
            sink.put(&context(), &key(name), BODY, mode).await.unwrap();
        }
    }
    assert_eq!(listed(&sink).await, ["a", "data/b", "data/c/d"]);
    assert_eq!(files(mounted.path()).len(), 2);
    assert!(
        std::process::Command::new("umount")
            .arg(&below)
            .status()
            .unwrap()
            .success()
    );
}

#[tokio::test]
async fn what_is_not_an_object_is_neither_listed_nor_read() {
    let folder = TempDir::new().unwrap();
    let (root, cx) = (folder.path(), context());
    let sink = LocalSink::new(root);
    sink.put(&cx, &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    for name in [
        ".hidden",
        "lost+found",
        "d/with space",
        "d/.tmp-0123456789abcdef",
    ] {
        fs::write(root.join(name), "x").unwrap();
    }
    fs::create_dir_all(root.join(".snapshot/d")).unwrap();
    fs::write(root.join(".snapshot/d/a"), "x").unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.join("pipe"), 0o600.into()).unwrap();
    assert_eq!(listed(&sink).await, ["d/a"]);
    let error = sink
        .get(&cx, &key("pipe"), ByteRange::Full)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    for prefix in ["d", "../", "/", "d//"] {
        let list = futures::TryStreamExt::try_collect::<Vec<_>>(sink.list(&cx, prefix, None));
        assert_eq!(list.await.unwrap_err().kind, ErrorKind::Invalid, "{prefix}");
    }
}

#[tokio::test]
async fn a_name_is_either_an_object_or_a_folder() {
    let folder = TempDir::new().unwrap();
    let (sink, cx) = (LocalSink::new(folder.path()), context());
    sink.put(&cx, &key("a/b"), BODY, PutMode::Create)
        .await
        .unwrap();
    for mode in [PutMode::Create, PutMode::Replace] {
        for (name, told) in [("a", "is a folder"), ("a/b/c", "is an object")] {
            let error = sink
                .put(&cx, &key(name), BODY, mode.clone())
                .await
                .unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
            assert!(error.to_string().contains(told), "{error}");
        }
    }
    sink.delete(&cx, &key("a")).await.unwrap();
    sink.delete(&cx, &key("a/b/c")).await.unwrap();
    assert_eq!(listed(&sink).await, ["a/b"]);
    no_temporaries(folder.path());
}

#[tokio::test]
async fn old_temporary_files_are_swept_and_nothing_else() {
    let folder = TempDir::new().unwrap();
    let sink = LocalSink::new(folder.path());
    sink.put(&context(), &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    let left = format!("d/.tmp-{}", "0a".repeat(16));
    for name in [&left, "d/.tmp-mine", ".create-lock"] {
        fs::write(folder.path().join(name), "rest").unwrap();
    }
    let written = fs::metadata(folder.path().join(&left))
        .unwrap()
        .modified()
        .unwrap();
    let clock = TestClock::at(written.try_into().unwrap());
    let cx = OpContext::new(std::sync::Arc::new(clock.clone()));
    let day = Duration::from_secs(86_400);
    assert_eq!(sink.sweep_temporaries(&cx, day).await.unwrap().files, 0);
    clock.advance(day.try_into().unwrap());
    assert_eq!(
        sink.sweep_temporaries(&cx, day).await.unwrap().files,
        0,
        "{}",
        clock.now()
    );
    clock.advance(jiff::SignedDuration::from_secs(2));
    let swept = sink.sweep_temporaries(&cx, day).await.unwrap();
    assert_eq!((swept.files, swept.bytes), (1, 4));
    assert_eq!(files(folder.path()).len(), 3);
    assert_eq!(listed(&sink).await, ["d/a"]);
}

/// Somebody whose clock is years ahead takes every temporary file for old.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_whose_temporary_file_is_swept_is_to_be_tried_again() {
    let folder = TempDir::new().unwrap();
    let sink = LocalSink::new(folder.path());
    let late = OpContext::new(std::sync::Arc::new(TestClock::at_text(
        "2100-01-01T00:00:00Z",
    )));
    let sweeper = LocalSink::new(folder.path());
    let sweeping = tokio::spawn(async move {
        loop {
            let swept = sweeper.sweep_temporaries(&late, Duration::ZERO).await;
            swept.unwrap();
        }
    });
    let mut swept = 0;
    for number in 0..2000 {
        let key = key(&format!("{number}"));
        while let Err(error) = sink.put(&context(), &key, BODY, PutMode::Create).await {
            assert_eq!(error.retry, Retry::Now, "{error}");
            swept += 1;
        }
        if swept >= 3 {
            break;
        }
    }
    sweeping.abort();
    assert!(swept >= 3, "{swept}");
}

#[tokio::test]
async fn a_root_where_no_folder_can_be_made_is_refused() {
    let sink = LocalSink::new("/proc/backstay/root").making_root(true);
    let error = sink
        .put(&context(), &key("a"), BODY, PutMode::Create)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("cannot be made"), "{error}");
}

#[tokio::test]
async fn without_its_marker_a_disk_is_not_the_one_that_is_meant() {
    let folder = TempDir::new().unwrap();
    let text = format!(
        "file://{}?marker=.backup-disk&create=yes",
        folder.path().display()
    );
    let sink = LocalSink::try_from(&text.parse().unwrap()).unwrap();
    let cx = context();
    let put = sink.put(&cx, &key("d/a"), BODY, PutMode::Create).await;
    let get = sink.get(&cx, &key("d/a"), ByteRange::Full).await;
    for error in [put.unwrap_err(), get.unwrap_err()] {
        // Not as if the object were missing.
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.to_string().contains("mount it"), "{error}");
    }
    assert_eq!(files(folder.path()).len(), 0);
    fs::write(folder.path().join(".backup-disk"), "").unwrap();
    sink.put(&cx, &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    // The marker is no object.
    assert_eq!(listed(&sink).await, ["d/a"]);

    let missing = folder.path().join("not/there");
    let sink = LocalSink::new(&missing)
        .making_root(true)
        .only_beside(".backup-disk");
    let put = sink.put(&cx, &key("d/a"), BODY, PutMode::Create).await;
    assert!(put.is_err() && !missing.exists());
}

#[tokio::test]
async fn a_disk_that_is_unmounted_in_the_middle_of_a_run_leaves_nothing_on_the_one_below() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let (sink, cx) = (LocalSink::new(mounted.path()), context());
    sink.put(&cx, &key("d/a"), BODY, PutMode::Create)
        .await
        .unwrap();
    mounted.unmount();
    let put = sink.put(&cx, &key("d/b"), BODY, PutMode::Create).await;
    let get = sink.get(&cx, &key("d/a"), ByteRange::Full).await;
    for error in [put.unwrap_err(), get.unwrap_err()] {
        assert_eq!(error.kind, ErrorKind::Unavailable);
        assert!(error.to_string().contains("unmounted"), "{error}");
    }
    assert_eq!(files(mounted.path()).len(), 0);
}

#[tokio::test]
async fn the_room_is_that_of_the_file_system() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return;
    };
    let (sink, cx) = (LocalSink::new(mounted.path()), context());
    let room = sink.room(&cx).await.unwrap().unwrap();
    assert_eq!((room.total, room.percent_used()), (1 << 20, 0));
    let body = Bytes::from(vec![1; 900 << 10]);
    sink.put(&cx, &key("a"), body, PutMode::Create)
        .await
        .unwrap();
    let room = sink.room(&cx).await.unwrap().unwrap();
    assert_eq!((room.free, room.percent_used()), (124 << 10, 87));
}
