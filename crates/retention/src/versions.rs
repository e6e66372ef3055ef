//! The versions of one file: keep so many of them, however often it was saved in between.

use std::cmp::Reverse;
use std::num::NonZeroU32;

use backup_core::{Decision, Reason, SnapshotId, Verdict};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A file as one snapshot has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVersion<C> {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// When it was taken.
    pub time: Timestamp,
    /// What tells its content from another, such as a digest; none: the file was not there.
    pub content: Option<C>,
}

/// Keeps so many versions of a file. Snapshots in a row that have the same content hold one
/// version, and the newest of them stands for it; a snapshot without the file holds none. Content
/// that came back after a change is a version of its own.
///
/// To be applied to the snapshots of one line; one that any of its files keeps has to stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VersionPolicy {
    /// How many.
    pub versions: NonZeroU32,
}

impl VersionPolicy {
    /// One decision for each snapshot, in the order of the input.
    #[must_use]
    pub fn decide<C: Eq>(&self, history: &[FileVersion<C>]) -> Vec<Decision> {
        let mut newest_first: Vec<(usize, &FileVersion<C>)> = history.iter().enumerate().collect();
        newest_first.sort_by_key(|(_, one)| Reverse((one.time, one.snapshot)));
        let mut decisions: Vec<(usize, Decision)> = Vec::with_capacity(history.len());
        let mut last = None;
        let mut kept = 0;
        for (place, one) in newest_first {
            let fresh = one.content.is_some() && one.content.as_ref() != last;
            let (verdict, reason) = if fresh && kept < self.versions.get() {
                kept += 1;
                let slot = kept.to_string();
                (
                    Verdict::Keep,
                    Reason::Bucket {
                        rule: "versions".to_owned(),
                        slot,
                    },
                )
            } else {
                (Verdict::Forget, Reason::Expired)
            };
            last = one.content.as_ref().or(last);
            decisions.push((
                place,
                Decision {
                    id: one.snapshot,
                    verdict,
                    reasons: vec![reason],
                },
            ));
        }
        decisions.sort_by_key(|(place, _)| *place);
        decisions
            .into_iter()
            .map(|(_, decision)| decision)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One letter for each snapshot, oldest first, `-` where the file was not there; which ones
    /// are kept.
    fn kept(versions: u32, history: &str) -> String {
        let one = |(place, content): (usize, char)| FileVersion {
            snapshot: SnapshotId::from_parts(place as u64, [0; 10]),
            time: Timestamp::from_second(i64::try_from(place).unwrap()).unwrap(),
            content: (content != '-').then_some(content),
        };
        let mut history: Vec<_> = history.chars().enumerate().map(one).collect();
        history.reverse();
        let policy = VersionPolicy {
            versions: versions.try_into().unwrap(),
        };
        let decisions = policy.decide(&history);
        let shown = history.iter().zip(decisions).rev().map(|(one, decision)| {
            assert_eq!(decision.id, one.snapshot);
            match decision.verdict {
                Verdict::Keep => one.content.unwrap_or('?'),
                Verdict::Forget => '.',
            }
        });
        shown.collect()
    }

    #[test]
    fn the_newest_snapshot_of_each_version_is_kept() {
        assert_eq!(kept(2, "aabbbccc"), "....b..c");
        assert_eq!(kept(9, "aabbbccc"), ".a..b..c");
        assert_eq!(kept(1, "aabbbccc"), ".......c");
        assert_eq!(kept(3, ""), "");
    }

    #[test]
    fn content_that_comes_back_is_a_new_version() {
        assert_eq!(kept(2, "aba"), ".ba");
        assert_eq!(kept(3, "aba"), "aba");
    }

    #[test]
    fn a_file_that_was_away_for_a_while_is_still_the_same_version() {
        assert_eq!(kept(2, "ba--a-"), "b...a.");
        assert_eq!(kept(2, "---"), "...");
    }
}
