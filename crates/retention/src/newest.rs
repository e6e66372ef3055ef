//! Of each hour, day, week … the newest snapshot: a choice for a place that is to have only some of them.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::str::FromStr;

use backup_core::{RetentionInput, SnapshotId, SnapshotMeta};

use crate::line::Ordered;
use crate::lines::group_lines;
use crate::slot::{Period, WeekStart};

/// Of each period the newest, and of how many of the newest periods: `week`, `month=12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewestPer {
    /// The period.
    pub period: Period,
    /// How many of them that have snapshots; all if it is not said.
    pub most: Option<NonZeroU32>,
}

/// A text that is no such rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is none of hour, day, week, month, quarter and year; a number of them stands behind `=`, as in week=8"
)]
pub struct ParseNewestPerError(String);

impl FromStr for NewestPer {
    type Err = ParseNewestPerError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseNewestPerError(text.to_owned());
        let (period, most) = match text.split_once('=') {
            Some((period, most)) => (period, Some(most.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let period = match period {
            "hour" => Period::Hour,
            "day" => Period::Day,
            "week" => Period::Week,
            "month" => Period::Month,
            "quarter" => Period::Quarter,
            "year" => Period::Year,
            _ => return Err(wrong()),
        };
        Ok(Self { period, most })
    }
}

/// The snapshots that any of these rules takes, line by line. Unlike a policy, which keeps the oldest of all while it
/// has room and guards the newest, this takes nothing else. Checkpoints are not taken.
#[must_use]
pub fn newest_per(
    input: &RetentionInput<'_>,
    rules: &[NewestPer],
    week_start: WeekStart,
) -> BTreeSet<SnapshotId> {
    let mut out = BTreeSet::new();
    for places in group_lines(input.snapshots).into_values() {
        let line = places
            .iter()
            .filter_map(|place| input.snapshots.get(*place));
        let line: Vec<SnapshotMeta> = line.filter(|one| !one.partial).cloned().collect();
        let ordered = Ordered::of(&RetentionInput {
            snapshots: &line,
            ..*input
        });
        for rule in rules {
            let (mut slot, mut slots) = (None, 0);
            for one in &ordered.newest_first {
                let own = rule
                    .period
                    .slot(&one.at.to_zoned(input.tz.clone()), week_start);
                if slot.as_ref() == Some(&own) {
                    continue;
                }
                slot = Some(own);
                slots += 1;
                if rule.most.is_some_and(|most| slots > most.get()) {
                    break;
                }
                out.insert(one.meta.id);
            }
        }
    }
    out
}
