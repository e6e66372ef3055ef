//! Which folders a snapshot has with all that was in them, as far as the capture's findings tell.
//!
//! A file whose content could not be read, or that was gone before it was, is in no record; that
//! its folder held it, only the finding says, since the folder's record had been made by then.

use std::collections::HashSet;

use backup_core::{EntryPath, Finding, FindingKind, Severity};

use crate::view::SnapshotView;

/// Folders that held something which the snapshot does not have.
#[derive(Debug)]
pub(super) struct Lacking {
    folders: HashSet<String>,
    /// Whether it may be any: the snapshot does not list all findings, or was not completed.
    any: bool,
}

impl Lacking {
    /// Of a snapshot.
    pub(super) fn of(view: &SnapshotView<'_>) -> Self {
        let meta = view.meta();
        let listed = Self::of_findings(&view.findings(), meta.findings);
        Self {
            any: listed.any || meta.partial,
            ..listed
        }
    }

    /// From the findings that a snapshot lists and the number of those more than notes that its
    /// capture made.
    fn of_findings(findings: &[Finding], made: u64) -> Self {
        let serious = |finding: &&Finding| finding.severity > Severity::Note;
        let listed = findings.iter().filter(serious).count() as u64;
        let lost = |finding: &&Finding| {
            matches!(
                finding.kind,
                FindingKind::Unreadable | FindingKind::Vanished
            )
        };
        // What was lost may be something in a folder, or a part of the folder itself.
        let lacking = |finding: &Finding| {
            // Entries are told of by their path from its slash on.
            let path = finding.subject.as_str();
            let path = path.strip_prefix('/').unwrap_or(path);
            let above = path.rsplit_once('/').map_or("", |(above, _)| above);
            [above.to_owned(), path.to_owned()]
        };
        Self {
            folders: findings.iter().filter(lost).flat_map(lacking).collect(),
            any: made > listed,
        }
    }

    /// Whether a folder lacks something.
    pub(super) fn has(&self, folder: &EntryPath) -> bool {
        self.any || (!self.folders.is_empty() && self.folders.contains(&folder.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lacks_what_was_lost_in_it_and_any_folder_what_is_not_listed() {
        let path = |text: &str| EntryPath::from_slashed(text.as_bytes()).unwrap();
        let lost = |kind, text: &str| Finding::entry(kind, &path(text), "why");
        let findings = [
            lost(FindingKind::Unreadable, "a/b/file"),
            lost(FindingKind::Vanished, "top"),
            lost(FindingKind::ChangedWhileRead, "c/there"),
        ];
        let lacking = Lacking::of_findings(&findings, 3);
        for (folder, lacks) in [("a/b", true), ("", true), ("a", false), ("c", false)] {
            assert_eq!(lacking.has(&path(folder)), lacks, "{folder}");
        }
        assert!(Lacking::of_findings(&findings, 4).has(&path("c")));
        // A note that is listed stands for none that is not.
        let note = Finding::new(Severity::Note, FindingKind::Degraded, "the source", "why");
        let with_note = [findings.to_vec(), vec![note]].concat();
        assert!(!Lacking::of_findings(&with_note, 3).has(&path("c")));
        assert!(Lacking::of_findings(&with_note, 4).has(&path("c")));
    }
}
