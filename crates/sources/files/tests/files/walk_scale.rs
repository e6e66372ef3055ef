//! The walk of many threads through large, deep and vanishing trees.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use crate::support::*;
use backup_core::{Body, CaptureRequest, ErrorKind, FindingKind, Severity, Source as _};
use backup_source_files::{FilesConfig, FilesSource};
use rustix::fs::{FileType, Mode, mknodat};

fn of(root: &Path) -> FilesConfig {
    FilesConfig::of_roots([root])
}

#[test]
fn the_order_is_that_of_paths_for_any_number_of_threads() {
    let temp = roomy_folder();
    let mut count = 0;
    for outer in ["a", "a.b", "a-b", "ab", "b"] {
        for inner in ["x", "x y", "x.z", "xy"] {
            for number in 0..70 {
                put(
                    &temp
                        .path()
                        .join(outer)
                        .join(inner)
                        .join(format!("f{number}")),
                    "",
                );
                count += 1;
            }
        }
    }
    let mut seen = Vec::new();
    for threads in [1, 2, 3, 8] {
        let captured = capture(FilesConfig {
            threads,
            ..of(temp.path())
        });
        let paths = captured.below(temp.path());
        assert_eq!(paths.len(), count + 5 + 20);
        seen.push(paths);
    }
    assert!(seen.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_tree_that_is_torn_down_during_the_walk_yields_warnings_at_most() {
    for round in 0..8 {
        let temp = roomy_folder();
        for number in 0..300 {
            put(&temp.path().join(format!("d{number:03}/f")), "");
        }
        let captured = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(std::time::Duration::from_micros(round * 300));
                for number in (0..300).rev() {
                    fs::remove_dir_all(temp.path().join(format!("d{number:03}"))).unwrap();
                }
            });
            capture(of(temp.path()))
        });
        for finding in &captured.report.findings {
            let seen = (finding.severity, finding.kind);
            assert_eq!(
                seen,
                (Severity::Warning, FindingKind::Vanished),
                "{finding}"
            );
        }
    }
}

#[test]
fn ten_thousand_nested_folders_need_neither_stack_nor_descriptors() {
    let temp = roomy_folder();
    let depth = 10_000;
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::RDONLY;
    let mut folder = rustix::fs::open(temp.path(), flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&folder, "d", Mode::from_raw_mode(0o755)).unwrap();
        let file = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
        rustix::fs::openat(&folder, "z", file, Mode::from_raw_mode(0o644)).unwrap();
        folder = rustix::fs::openat(&folder, "d", flags, Mode::empty()).unwrap();
    }
    let captured = capture(of(temp.path()));
    let below = captured
        .entries
        .iter()
        .filter(|e| e.path.starts_with(&entry_path(temp.path())));
    assert_eq!(below.count(), 1 + 2 * depth);
    assert_eq!(captured.findings(), [""; 0]);
    for entry in captured.entries.iter().rev().take(500) {
        if let Body::File(open) = &entry.body {
            open.open().unwrap();
        }
    }
    drop(captured);
    remove_chain(temp.path());
}

/// The same with a million, which takes half a minute to lay out, is run by hand:
/// `cargo test --release -p backup-source-files -- --ignored million`.
fn many_entries_in_one_folder(number: usize) {
    let temp = roomy_folder();
    let folder =
        rustix::fs::open(temp.path(), rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for index in 0..number {
        let name = format!("entry-{:07}", (index * 7919) % number);
        mknodat(
            &folder,
            name,
            FileType::RegularFile,
            Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
    }
    let cx = context();
    block_on(async {
        let source = FilesSource::new(of(temp.path()));
        let plan = source.plan(&cx, &CaptureRequest::default()).await.unwrap();
        let mut capture = source.begin(&cx, plan).await.unwrap();
        let (mut count, mut last) = (0, backup_core::EntryPath::root());
        loop {
            let batch = capture.next_entries(&cx).await.unwrap();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= 1024);
            for entry in batch {
                assert!(entry.path > last);
                last = entry.path;
                count += 1;
            }
        }
        assert_eq!(count, number + temp.path().components().count() - 1);
    });
}

#[test]
fn a_hundred_thousand_entries_in_one_folder_come_in_batches() {
    many_entries_in_one_folder(100_000);
}

#[test]
#[ignore = "takes half a minute"]
fn a_million_entries_in_one_folder_come_in_batches() {
    many_entries_in_one_folder(1_000_000);
}

#[test]
fn a_cancelled_or_dropped_capture_stops() {
    let temp = roomy_folder();
    for number in 0..5_000 {
        put(
            &temp.path().join(format!("{:02}/{number}", number % 50)),
            "",
        );
    }
    let cx = context();
    block_on(async {
        let source = FilesSource::new(of(temp.path()));
        let plan = source.plan(&cx, &CaptureRequest::default()).await.unwrap();
        let mut capture = source.begin(&cx, plan.clone()).await.unwrap();
        capture.next_entries(&cx).await.unwrap();
        cx.cancel.cancel();
        let error = capture.next_entries(&cx).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled);
        drop(capture);
    });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let own = temp.path().display().to_string();
    let walking = || {
        fs::read_dir("/proc/self/task").unwrap().any(|task| {
            let path = task.unwrap().path();
            let cwd = fs::read_link(path.join("cwd")).unwrap_or_default();
            cwd.display().to_string().starts_with(&own)
        })
    };
    while walking() {
        assert!(
            std::time::Instant::now() < deadline,
            "threads of the walk are still there"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
