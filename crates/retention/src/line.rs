//! A line of snapshots in its order, with what rules and guards ask of it.

use std::collections::BTreeSet;

use backup_core::{RetentionInput, SnapshotId, SnapshotMeta};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// What became of the run that a snapshot is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It came to its end.
    Complete,
    /// It did not, and no later one has.
    Checkpoint,
    /// It did not, and a complete one is as new or newer.
    Superseded,
}

/// A snapshot of a line with its place in the input and its time (see the crate's page).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timed<'a> {
    pub(crate) index: usize,
    pub(crate) at: Timestamp,
    pub(crate) meta: &'a SnapshotMeta,
}

/// The snapshots of a line, newest first.
#[derive(Debug)]
pub(crate) struct Ordered<'a> {
    pub(crate) newest_first: Vec<Timed<'a>>,
    pub(crate) tz: &'a TimeZone,
    newest_complete: Option<Timed<'a>>,
}

impl<'a> Ordered<'a> {
    /// Puts the snapshots of `input` in order. Those of one time are ordered by what their writers
    /// claim and then by their ids, so that the order of the input never matters.
    pub(crate) fn of(input: &RetentionInput<'a>) -> Self {
        let timed = |(index, meta): (usize, &'a SnapshotMeta)| {
            let at = meta.first_seen.unwrap_or(meta.time).min(input.now);
            Timed { index, at, meta }
        };
        let mut newest_first: Vec<Timed<'a>> =
            input.snapshots.iter().enumerate().map(timed).collect();
        newest_first.sort_by_key(|one| std::cmp::Reverse((one.at, one.meta.time, one.meta.id)));
        let newest_complete = newest_first.iter().find(|one| !one.meta.partial).copied();
        Self {
            newest_first,
            tz: input.tz,
            newest_complete,
        }
    }

    /// What became of the run of a snapshot.
    pub(crate) fn standing(&self, one: &Timed<'_>) -> Standing {
        match self.newest_complete {
            _ if !one.meta.partial => Standing::Complete,
            Some(complete) if complete.at >= one.at => Standing::Superseded,
            _ => Standing::Checkpoint,
        }
    }

    /// The newest complete snapshot, and the newest one in which besides nothing is missing. They
    /// are one in a line that is well.
    pub(crate) fn newest(&self) -> [Option<Timed<'a>>; 2] {
        self.newest_but(&BTreeSet::new())
    }

    /// The same of those that are not among these.
    pub(crate) fn newest_but(&self, damaged: &BTreeSet<SnapshotId>) -> [Option<Timed<'a>>; 2] {
        let whole = |one: &&Timed<'a>| !one.meta.partial && !damaged.contains(&one.meta.id);
        let clean = |one: &&Timed<'a>| whole(one) && one.meta.findings == 0;
        let newest = self.newest_first.iter();
        [
            newest.clone().find(whole).copied(),
            newest.clone().find(clean).copied(),
        ]
    }
}
