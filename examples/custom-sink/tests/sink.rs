//! The sink keeps the contract, survives a torn file, and carries a repository.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use backstay::core::{
    ByteRange, HostId, ObjectKey, PutMode, RestoreMode, Sample, Sink as _, VerifyLevel,
};
use backstay::engine::{
    InitRequest, RestoreJob, SnapshotJob, SnapshotView, prepare, restore, snapshot, verify,
};
use backstay::source_files::{FilesConfig, FilesSource, FilesTarget, FilesTargetConfig};
use bytes::Bytes;
use example_custom_sink::FileSink;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn it_passes_the_suite_of_sinks() {
    let folder = tempfile::tempdir().unwrap();
    let count = AtomicU32::new(0);
    backup_testkit::sink_suite(|| {
        let number = count.fetch_add(1, Ordering::Relaxed);
        Arc::new(FileSink::new(folder.path().join(format!("{number}.bks"))))
    })
    .await;
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name).unwrap()
}

#[tokio::test]
async fn what_a_killed_put_leaves_is_passed_over_and_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let cx = backstay::context();
    let put = async |name: &str, body: &'static str| {
        let body = Bytes::from_static(body.as_bytes());
        FileSink::new(&path)
            .put(&cx, &key(name), body, PutMode::Create)
            .await
            .unwrap();
    };
    put("a", "first").await;
    let whole = std::fs::read(&path).unwrap();
    put("b", "second").await;
    let both = std::fs::read(&path).unwrap();
    for end in whole.len()..both.len() {
        std::fs::write(&path, &both[..end]).unwrap();
        let sink = FileSink::new(&path);
        assert!(sink.head(&cx, &key("b")).await.is_err(), "torn at {end}");
        let body = sink.get(&cx, &key("a"), ByteRange::Full).await.unwrap();
        assert_eq!(body, "first");
    }
    let mut torn = OpenOptions::new().append(true).open(&path).unwrap();
    torn.write_all(b"rubbish").unwrap();
    put("c", "third").await;
    let body = FileSink::new(&path)
        .get(&cx, &key("c"), ByteRange::Full)
        .await
        .unwrap();
    assert_eq!(body, "third");
}

#[tokio::test]
async fn two_sinks_on_one_file_see_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    let cx = backstay::context();
    let (one, two) = (FileSink::new(&path), FileSink::new(&path));
    one.put(&cx, &key("a"), Bytes::from_static(b"1"), PutMode::Create)
        .await
        .unwrap();
    assert!(
        two.put(&cx, &key("a"), Bytes::from_static(b"2"), PutMode::Create)
            .await
            .is_err()
    );
    two.delete(&cx, &key("a")).await.unwrap();
    assert!(one.head(&cx, &key("a")).await.is_err());
}

fn make_tree(root: &Path) {
    std::fs::create_dir(root).unwrap();
    for number in 0..50usize {
        std::fs::write(
            root.join(format!("f{number}")),
            vec![number as u8; number * 999],
        )
        .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repository_in_one_file_gives_everything_back() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, out) = (folder.path().join("tree"), folder.path().join("out"));
    make_tree(&tree);
    let (cx, host) = (backstay::context(), HostId("here".into()));
    let sink = Arc::new(FileSink::new(folder.path().join("repository")));
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let repo = prepare(&cx, &request)
        .unwrap()
        .create(&cx, sink, None)
        .await
        .unwrap();
    let source = Arc::new(FilesSource::new(FilesConfig::of_roots([tree.clone()])));
    snapshot(&repo, &cx, source, &SnapshotJob::new("tree", host.clone()))
        .await
        .unwrap();
    repo.reload_index(&cx).await.unwrap();
    let done = verify(&repo, &cx, None, VerifyLevel::FullRead, Sample::All)
        .await
        .unwrap();
    assert_eq!(done.report.findings, []);
    let (heads, _) = repo.heads(&cx).await.unwrap();
    let view = SnapshotView::open(&repo, heads[0].clone()).unwrap();
    std::fs::create_dir(&out).unwrap();
    let target = Arc::new(FilesTarget::new(FilesTargetConfig::of_folder(&out)));
    let job = RestoreJob::whole(RestoreMode::Files, Some(out.clone()), host);
    restore(&view, &cx, target, &job).await.unwrap();
    let restored = out.join(tree.strip_prefix("/").unwrap());
    for entry in std::fs::read_dir(&tree).unwrap() {
        let name = entry.unwrap().file_name();
        assert_eq!(
            std::fs::read(tree.join(&name)).unwrap(),
            std::fs::read(restored.join(&name)).unwrap()
        );
    }
}
