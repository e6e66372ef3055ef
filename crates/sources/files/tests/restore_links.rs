//! What becomes of the further names of a file.
#![allow(clippy::unwrap_used)]

mod support;

use std::fs;

use backup_core::{EntryKind, EntryOutcome, EntryWriter, Outcome, Restore, Target as _};
use backup_source_files::{FilesTarget, Overwrite};
use support::given::*;
use support::*;

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
            let restored = support::restore(config.clone(), &stored);
            assert!(restored.errors.is_empty() && restored.report.findings.is_empty());
            for number in 0..4 {
                let name = config.folder.join(format!("name {number}"));
                assert_eq!(fs::read(name).unwrap(), b"content");
            }
        }
    }
}
