//! Snapshots that the ledger knows and that are gone from the tier.
//!
//! Whoever asks for the newest snapshot must not get an older one because somebody took the newest
//! away, and whoever names one by its id must not be told that there never was such a one. What is
//! missing shows in no listing of the tier; but it was recorded, and its end would have been too.

use std::collections::{BTreeMap, HashMap, HashSet};

use async_recursion::async_recursion as boxed;
use backup_core::{HostId, OpContext, SnapshotId};
use backup_integrity::ledger::{Line, Op, RawLine};
use futures::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};

use super::sight::Keys;
use super::tier;
use crate::error::Result;
use crate::repository::Repository;

/// Records are looked at from the end on until so many in a row are too old.
const BATCH: usize = 16;
/// So far the clocks of hosts may be apart.
const MARGIN: SignedDuration = SignedDuration::from_hours(24);

/// Which snapshots could have been meant where another was chosen, or none. Records tell no names of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rivals {
    /// Only those whose id begins or ends with this.
    pub id: Option<String>,
    /// Only those of this host.
    pub host: Option<HostId>,
    /// Only those that were begun since then: when the chosen one was.
    pub since: Timestamp,
    /// Only those that were begun by then.
    pub until: Option<Timestamp>,
}

impl Rivals {
    /// All that there ever were.
    pub const ALL: Self = Self {
        id: None,
        host: None,
        since: Timestamp::MIN,
        until: None,
    };

    fn fit(&self, id: SnapshotId) -> bool {
        let begun = i64::try_from(id.millis()).unwrap_or(i64::MAX);
        let until = self.until.map_or(i64::MAX, Timestamp::as_millisecond);
        (self.since.as_millisecond()..=until).contains(&begun)
            && self.id.as_ref().is_none_or(|named| is_named(id, named))
    }
}

/// Whether a text, in capitals, is the beginning or the end of an id.
pub(crate) fn is_named(id: SnapshotId, named: &str) -> bool {
    let id = id.to_string();
    id.starts_with(named) || id.ends_with(named)
}

/// A snapshot that is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GoneSnapshot {
    /// Its id.
    pub id: SnapshotId,
    /// The host that made it.
    pub host: HostId,
    /// When that was recorded.
    pub recorded: Timestamp,
}

/// The newest of some snapshots that the ledger knows, that nobody forgot, and that is gone from
/// the tier; `there` are those that were found on it.
///
/// Of records that this host has a copy of, none is read; of the others those alone that are young
/// enough.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn gone(
    repo: &Repository,
    cx: &OpContext,
    rivals: &Rivals,
    there: &HashSet<SnapshotId>,
) -> Result<Option<GoneSnapshot>> {
    let first = look(repo, cx, rivals, there).await?;
    if first.is_none() {
        return Ok(None);
    }
    // It may have been forgotten between the look into the ledger and the one at the tier; that was
    // recorded before it went.
    look(repo, cx, rivals, there).await
}

async fn look(
    repo: &Repository,
    cx: &OpContext,
    rivals: &Rivals,
    there: &HashSet<SnapshotId>,
) -> Result<Option<GoneSnapshot>> {
    let mut told = Told::new(repo, rivals);
    let copied = told.copy(repo);
    let oldest = (rivals.since.checked_sub(MARGIN)).unwrap_or(Timestamp::MIN);
    let mut numbers = tier::numbers(repo, cx, copied).await?;
    while !numbers.is_empty() {
        let batch = numbers.split_off(numbers.len().saturating_sub(BATCH));
        let mut lines = Box::pin(tier::lines(repo, cx, batch));
        let mut is_young = false;
        while let Some((number, found)) = lines.try_next().await? {
            // What cannot be read tells nothing; verification names it.
            if let Ok(line) = tier::record(number, found) {
                is_young |= line.record().time >= oldest;
                told.take(&line);
            }
        }
        if !is_young {
            break;
        }
    }
    for gone in told.stay().into_values().rev() {
        // It may have been made since the others were listed.
        if !there.contains(&gone.id) && !repo.has_snapshot(cx, gone.id).await? {
            return Ok(Some(gone));
        }
    }
    Ok(None)
}

/// What records say of the snapshots.
pub(super) struct Told<'a> {
    keys: Keys<'a>,
    rivals: &'a Rivals,
    made: BTreeMap<SnapshotId, GoneSnapshot>,
    /// By the last record of each that says that it is forgotten, or held after that.
    ends: HashMap<SnapshotId, (u64, bool)>,
}

impl<'a> Told<'a> {
    pub(super) fn new(repo: &'a Repository, rivals: &'a Rivals) -> Self {
        Self {
            keys: Keys::new(repo),
            rivals,
            made: BTreeMap::new(),
            ends: HashMap::new(),
        }
    }

    /// The snapshots that were made and that nobody forgot.
    pub(super) fn stay(self) -> BTreeMap<SnapshotId, GoneSnapshot> {
        let Self { mut made, ends, .. } = self;
        made.retain(|id, _| !ends.get(id).is_some_and(|(_, forgotten)| *forgotten));
        made
    }

    /// Takes what this host's copy says; gives the number of its last record.
    fn copy(&mut self, repo: &Repository) -> u64 {
        let mut last = 0;
        // A copy that cannot be read is as if there were none.
        let copied = repo.ledger_copy().and_then(|copy| copy.lines().ok());
        let Some(mut lines) = copied.flatten() else {
            return last;
        };
        while let Ok(Some(line)) = lines.next_line() {
            if let RawLine::Whole(line) = line
                && let Ok(line) = Line::parse(line)
            {
                last = last.max(line.head().seq);
                self.take(&line);
            }
        }
        last
    }

    pub(super) fn take(&mut self, line: &Line) {
        let record = line.record();
        let Some(id) = record.snapshot.filter(|id| self.rivals.fit(*id)) else {
            return;
        };
        // Whoever opens the ledger can write a record in the name of any host.
        if self.keys.genuine(line) == Some(false) {
            return;
        }
        let is_copied = record.op == Op::COPY;
        if let Some((_, stays)) = record.stays() {
            let seq = line.head().seq;
            let end = self.ends.entry(id).or_default();
            if seq >= end.0 {
                *end = (seq, !stays);
            }
        }
        // Who made what a copy brought its record does not say.
        let is_of = |host: &HostId| is_copied || *host == record.host;
        if record.arrived().is_some() && self.rivals.host.as_ref().is_none_or(is_of) {
            let gone = GoneSnapshot {
                id,
                host: record.host.clone(),
                recorded: record.time,
            };
            self.made.entry(id).or_insert(gone);
        }
    }
}
