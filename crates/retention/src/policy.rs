//! The rules as values: what a person configures.

use std::collections::BTreeSet;

use backup_core::{Decision, RetentionInput, RetentionPolicy};
use serde::{Deserialize, Serialize};

use crate::count::Count;
use crate::guard::guard;
use crate::line::Ordered;
use crate::rules::decide;
use crate::slot::{Period, WeekStart};
use crate::span::Span;

/// A policy without a rule, where one with rules is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the policy has no rule, so it would keep everything; say so with `forever = true`")]
pub struct EmptyPolicy;

/// Rules by which snapshots of a line are kept. A snapshot stays if any rule keeps it.
///
/// - `last`: the newest ones.
/// - `hourly` … `yearly`: of each hour, day, … that has snapshots, the newest one, for the newest
///   so many of these slots. Slots without snapshots do not count. While there are fewer slots than
///   may be kept, the oldest snapshot of all is kept as well, so that the history reaches back as
///   far as it can.
/// - `within`: all that are newer than a span before the newest complete snapshot. Not before now: a
///   host that was off for a month does not lose its history on its return.
/// - `within-hourly` … `within-yearly`: of each slot in such a span the newest.
/// - `tags`: those that carry one of these tags.
/// - `forever`: all.
///
/// Rules count complete snapshots only. A checkpoint stays until a complete snapshot is as new,
/// and then goes, whatever the rules. A policy without any rule keeps everything, checkpoints too.
///
/// With a `label`, the rules are for snapshots of this schedule label alone: others neither count
/// nor are decided on, that is, they are kept ([`backup_core::Reason::Ungoverned`]).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct KeepPolicy {
    /// The schedule label that the rules are for; none: for all snapshots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// How many of the newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last: Option<Count>,
    /// How many hours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hourly: Option<Count>,
    /// How many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub daily: Option<Count>,
    /// How many weeks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weekly: Option<Count>,
    /// How many months.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<Count>,
    /// How many quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarterly: Option<Count>,
    /// How many years.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<Count>,
    /// All of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within: Option<Span>,
    /// The hours of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_hourly: Option<Span>,
    /// The days of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_daily: Option<Span>,
    /// The weeks of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_weekly: Option<Span>,
    /// The months of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_monthly: Option<Span>,
    /// The quarters of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_quarterly: Option<Span>,
    /// The years of a span.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_yearly: Option<Span>,
    /// Tags that are kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Whether everything is kept.
    #[serde(skip_serializing_if = "is_false")]
    pub forever: bool,
    /// The day with which weeks begin.
    #[serde(skip_serializing_if = "is_monday")]
    pub week_start: WeekStart,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_monday(start: &WeekStart) -> bool {
    *start == WeekStart::Monday
}

impl KeepPolicy {
    /// Whether there is no rule at all; a count of zero is none. Such a policy keeps everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let counts = Period::ALL
            .into_iter()
            .map(|period| self.count(period))
            .chain([self.last]);
        let spans = Period::ALL
            .into_iter()
            .map(|period| self.span(period))
            .chain([self.within]);
        !self.forever
            && self.tags.is_empty()
            && counts.flatten().all(|count| !count.is_some())
            && spans.flatten().next().is_none()
    }

    /// The policy itself, if it has a rule.
    ///
    /// # Errors
    /// [`EmptyPolicy`] when it has none.
    pub fn checked(self) -> Result<Self, EmptyPolicy> {
        if self.is_empty() {
            Err(EmptyPolicy)
        } else {
            Ok(self)
        }
    }

    /// Whether the rules are for snapshots of this label.
    #[must_use]
    pub fn governs(&self, label: Option<&str>) -> bool {
        self.label.is_none() || self.label.as_deref() == label
    }

    /// How many slots of a period are kept.
    #[must_use]
    pub const fn count(&self, period: Period) -> Option<Count> {
        match period {
            Period::Hour => self.hourly,
            Period::Day => self.daily,
            Period::Week => self.weekly,
            Period::Month => self.monthly,
            Period::Quarter => self.quarterly,
            Period::Year => self.yearly,
        }
    }

    /// The span in which each slot of a period is kept.
    #[must_use]
    pub const fn span(&self, period: Period) -> Option<Span> {
        match period {
            Period::Hour => self.within_hourly,
            Period::Day => self.within_daily,
            Period::Week => self.within_weekly,
            Period::Month => self.within_monthly,
            Period::Quarter => self.within_quarterly,
            Period::Year => self.within_yearly,
        }
    }
}

impl RetentionPolicy for KeepPolicy {
    fn decide(&self, input: &RetentionInput<'_>) -> Vec<Decision> {
        guard(
            input,
            decide(&Ordered::of(input), std::slice::from_ref(self)),
            &BTreeSet::new(),
        )
    }
}

/// Several sets of rules side by side, usually one for each label. A snapshot stays if any set that
/// is for it keeps it, or if none is for it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PolicySet(pub Vec<KeepPolicy>);

impl RetentionPolicy for PolicySet {
    fn decide(&self, input: &RetentionInput<'_>) -> Vec<Decision> {
        guard(
            input,
            decide(&Ordered::of(input), &self.0),
            &BTreeSet::new(),
        )
    }
}
