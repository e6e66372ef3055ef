//! What becomes of the further names of a file.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use crate::support::given::*;
use crate::support::*;
use backup_core::{
    EntryKind, EntryOutcome, EntryWriter, FindingKind, Outcome, Restore, Target as _,
};
use backup_source_files::{FilesTarget, FilesTargetConfig, Overwrite};

fn names(count: usize) -> Vec<Stored> {
    let name = |number: usize| {
        let path = format!("name {number}");
        let mut stored = made_up(path.as_bytes(), EntryKind::File, b"content");
        stored.entry.meta.link_group = Some(7);
        stored
    };
    (0..count).map(name).collect()
}

#[test]
fn further_names_of_a_file_that_fails_are_named_and_do_not_count_as_written() {
    for failed_after in [1, 2, 4] {
        for outcome in [EntryOutcome::Failed, EntryOutcome::Whole] {
            let temp = tempfile::tempdir().unwrap();
            let (cx, stored) = (context(), names(4));
            let config = into(&temp.path().join("to"), Overwrite::Never);
            let target = FilesTarget::new(config.clone());
            let plan = block_on(target.plan(&cx, &request(&config.folder))).unwrap();
            let restore: Box<dyn Restore> = block_on(target.begin(&cx, plan)).unwrap();
            for (number, stored) in stored.iter().enumerate() {
                let writer = restore.start(&cx, &stored.entry).unwrap();
                if let (true, EntryWriter::Positional(writer)) =
                    (outcome == EntryOutcome::Whole, &writer)
                {
                    writer.write_at(0, b"content").unwrap();
                }
                if number + 1 == failed_after {
                    let (first, none) = (&names(1)[0].entry, EntryWriter::None);
                    restore.finish(&cx, first, none, outcome).unwrap();
                }
            }
            let report = block_on(restore.close(&cx, Outcome::Committed)).unwrap();
            let named: Vec<_> = (report.findings.iter())
                .map(|finding| finding.subject.as_str())
                .collect();
            if outcome == EntryOutcome::Whole {
                assert_eq!((report.written, named.len()), (4, 0));
            } else {
                assert_eq!(named, ["/name 1", "/name 2", "/name 3"], "{failed_after}");
                assert_eq!(report.written, 0);
            }
            // The next run has all of it, under all names.
            let restored = crate::support::restore(config.clone(), &stored);
            assert!(restored.errors.is_empty() && restored.report.findings.is_empty());
            for number in 0..4 {
                let name = config.folder.join(format!("name {number}"));
                assert_eq!(fs::read(name).unwrap(), b"content");
            }
        }
    }
}

/// A name of the group 7.
fn linked(name: &str, content: &[u8]) -> Stored {
    let mut stored = made_up(name.as_bytes(), EntryKind::File, content);
    stored.entry.meta.link_group = Some(7);
    stored
}

#[test]
fn a_further_name_is_not_linked_to_a_file_that_only_looks_like_the_first() {
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    for (there, is_it) in [("other", false), ("saved", true)] {
        for overwrite in [Overwrite::Never, Overwrite::IfNewer] {
            let temp = tempfile::tempdir().unwrap();
            let at = |name: &str| temp.path().join(name);
            put(&at("a"), there);
            set_mtime(&at("a"), 1_000_000, 7);
            let stored = ["a", "b", "c"].map(|name| linked(name, b"saved"));
            let restored = restore(into(temp.path(), overwrite), &stored);
            assert!(restored.errors.is_empty(), "{:?}", restored.errors);
            assert_eq!(fs::read(at("a")).unwrap(), there.as_bytes());
            for name in ["b", "c"] {
                assert_eq!(fs::read(at(name)).unwrap(), b"saved", "{name}");
            }
            // Those that are whole are one file all the same.
            assert_eq!(inode(&at("b")), inode(&at("c")));
            assert_eq!(inode(&at("a")) == inode(&at("b")), is_it);
            let told: Vec<_> = (restored.report.findings.iter())
                .map(|finding| (finding.kind, finding.subject.as_str()))
                .collect();
            let wanted = [(FindingKind::Degraded, "/b")];
            assert_eq!(told, wanted[usize::from(is_it)..]);
        }
    }
}

#[test]
fn a_further_name_of_a_symbolic_link_is_not_linked_to_another_one() {
    let temp = tempfile::tempdir().unwrap();
    let at = |name: &str| temp.path().join(name);
    symlink("there", at("a")).unwrap();
    set_mtime(&at("a"), 1_000_000, 7);
    let stored = ["a", "b"].map(|name| {
        let mut stored = linked(name, b"");
        stored.entry.meta.kind = EntryKind::Symlink(b"saved".to_vec());
        stored
    });
    let restored = restore(into(temp.path(), Overwrite::Never), &stored);
    assert!(restored.errors.is_empty(), "{:?}", restored.errors);
    assert_eq!(fs::read_link(at("a")).unwrap(), Path::new("there"));
    assert_eq!(fs::read_link(at("b")).unwrap(), Path::new("saved"));
}

/// What is written into a file that is there is nobody's leftover under another name: it has a mark only
/// from the first change on, and then the content of somebody else.
#[test]
fn a_restore_in_place_that_is_killed_leaves_no_name_of_a_file_that_is_not_whole() {
    for written in [false, true] {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        put(&at("a"), "old");
        let stored = ["a", "b"].map(|name| linked(name, b"saved"));
        let config = FilesTargetConfig {
            in_place: true,
            ..into(temp.path(), Overwrite::Always)
        };
        let cx = context();
        let target = FilesTarget::new(config.clone());
        let plan = block_on(target.plan(&cx, &request(temp.path()))).unwrap();
        let killed = block_on(target.begin(&cx, plan)).unwrap();
        for stored in &stored {
            let writer = killed.start(&cx, &stored.entry).unwrap();
            if let (true, EntryWriter::Positional(writer)) = (written, &writer) {
                writer.write_at(0, b"sa").unwrap();
            }
        }
        drop(killed);
        assert!(!at("b").exists(), "{written}");
        let again = restore(into(temp.path(), Overwrite::Never), &stored);
        assert!(again.errors.is_empty(), "{written}: {:?}", again.errors);
        assert_eq!(fs::read(at("b")).unwrap(), b"saved", "{written}");
        let first: &[u8] = if written { b"saved" } else { b"old" };
        assert_eq!(fs::read(at("a")).unwrap(), first, "{written}");
        let names = fs::read_dir(temp.path()).unwrap().count();
        assert_eq!(names, 2, "{written}");
        // One that comes to its end has all of them.
        let restored = restore(config, &stored);
        assert!(restored.errors.is_empty(), "{:?}", restored.errors);
        let inode = |name: &str| fs::metadata(at(name)).unwrap().ino();
        assert_eq!(inode("a"), inode("b"));
    }
}
