//! Which snapshots are held by the word of the ledger. A hold is an object on the tier that anybody
//! may delete who can delete there; that it was placed, and that nobody released it, stays recorded.

use std::collections::{BTreeMap, BTreeSet};

use async_recursion::async_recursion as boxed;
use backup_core::{HostId, OpContext, SnapshotId};
use backup_integrity::ledger::{AcceptedRecords, Line, Op, RawLine};
use futures::TryStreamExt as _;
use jiff::Timestamp;

use super::accept::{accept_key, accepts};
use super::gone::{GoneSnapshot, Rivals, Told};
use super::sight::Keys;
use super::tier;
use crate::error::Result;
use crate::repository::Repository;

/// Records that are lost and named one by one.
const MOST_LOST: usize = 20;

/// Who placed a hold, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HoldRecord {
    /// The host that recorded it.
    pub host: HostId,
    /// When it did, by its own clock.
    pub time: Timestamp,
}

/// What records say of holds: of each snapshot the last one counts, in whatever order they come.
#[derive(Debug, Default)]
pub(super) struct HoldRecords {
    last: BTreeMap<SnapshotId, (u64, Option<HoldRecord>)>,
}

impl HoldRecords {
    /// Takes a record. Whoever opens the ledger can write one in the name of any host: what the host
    /// did not sign counts for nothing.
    pub(super) fn take(&mut self, line: &Line, keys: &mut Keys<'_>) {
        let record = line.record();
        let places = record.op == Op::HOLD;
        // What was forgotten is held no more.
        let lifts = record.op == Op::RELEASE || record.op == Op::FORGET;
        let Some(id) = record.snapshot.filter(|_| places || lifts) else {
            return;
        };
        if keys.genuine(line) == Some(false) {
            return;
        }
        let seq = line.head().seq;
        let held = places.then(|| HoldRecord::of(line));
        let last = self.last.entry(id).or_insert((seq, None));
        if seq >= last.0 {
            *last = (seq, held);
        }
    }

    /// The snapshots that are held.
    pub(super) fn held(self) -> BTreeMap<SnapshotId, HoldRecord> {
        let held = |(id, (_, held)): (SnapshotId, (u64, Option<HoldRecord>))| Some((id, held?));
        self.last.into_iter().filter_map(held).collect()
    }
}

impl HoldRecord {
    fn of(line: &Line) -> Self {
        let record = line.record();
        Self {
            host: record.host.clone(),
            time: record.time,
        }
    }
}

/// What the ledger says of holds, and of the snapshots that there should be.
#[derive(Debug, Clone, Default)]
pub struct Recorded {
    /// The snapshots that are held.
    pub held: BTreeMap<SnapshotId, HoldRecord>,
    /// Numbers of records that are missing or cannot be read, the first of them: any may be of a hold. Those that are
    /// accepted as lost are not among them.
    pub lost: Vec<u64>,
    /// The snapshots that were made and that nobody forgot.
    pub stay: BTreeMap<SnapshotId, GoneSnapshot>,
}

/// The snapshots that are held by the word of the ledger: of this host's copy, and of what the tier has
/// beside it. The same pass tells which snapshots there should be: where this host keeps no copy, each
/// record is a request.
///
/// Memory: some 150 bytes for each snapshot that there ever was.
///
/// # Errors
/// Those of the tier. A record that cannot be read tells nothing; verification names it.
#[boxed]
pub async fn held(repo: &Repository, cx: &OpContext) -> Result<Recorded> {
    let (mut records, mut keys) = (HoldRecords::default(), Keys::new(repo));
    let mut told = Told::new(repo, &Rivals::ALL);
    let lost = each(repo, cx, |line| {
        records.take(line, &mut keys);
        told.take(line);
    })
    .await?;
    Ok(Recorded {
        held: records.held(),
        lost,
        stay: told.stay(),
    })
}

/// Who recorded that a snapshot is forgotten, as far as nobody recorded a hold between that and the last
/// hold of all: whoever placed that one may have come too late.
///
/// # Errors
/// As [`held`].
pub(crate) async fn forgotten_before_hold(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
) -> Result<Option<HoldRecord>> {
    let mut keys = Keys::new(repo);
    let mut ops = BTreeMap::new();
    each(repo, cx, |line| {
        let record = line.record();
        let tells = record.op == Op::HOLD || record.op == Op::FORGET;
        if tells && record.snapshot == Some(snapshot) && keys.genuine(line) != Some(false) {
            let forget = (record.op == Op::FORGET).then(|| HoldRecord::of(line));
            ops.insert(line.head().seq, forget);
        }
    })
    .await?;
    let mut newest_first = ops.into_values().rev();
    // The hold itself, and what is right before it.
    let _ = newest_first.by_ref().find(Option::is_none);
    Ok(newest_first.next().flatten())
}

/// Goes over the records of this host's copy, and over those that the tier has beside it; gives the first
/// of the numbers that neither can tell of, and that nobody has accepted as lost.
async fn each(repo: &Repository, cx: &OpContext, mut take: impl FnMut(&Line)) -> Result<Vec<u64>> {
    let (mut keys, accept_key) = (Keys::new(repo), accept_key(repo));
    let mut accepted = AcceptedRecords::default();
    let mut take = |line: &Line| {
        if line.record().op == Op::ACCEPT && keys.genuine(line) != Some(false) {
            let lost = accepts(line.record(), accept_key.as_ref());
            accepted.add(&lost, line.head().seq);
        }
        take(line);
    };
    let mut copied = BTreeSet::new();
    // A copy that cannot be read is as if there were none.
    let copy = repo.ledger_copy().and_then(|copy| copy.lines().ok());
    if let Some(mut lines) = copy.flatten() {
        while let Ok(Some(line)) = lines.next_line() {
            if let RawLine::Whole(line) = line
                && let Ok(line) = Line::parse(line)
            {
                copied.insert(line.head().seq);
                take(&line);
            }
        }
    }
    let mut numbers = tier::numbers(repo, cx, 0).await?;
    let known: BTreeSet<u64> = copied.iter().chain(&numbers).copied().collect();
    let (mut rows, mut next) = (Vec::new(), 1);
    for number in known {
        rows.extend((next < number).then_some(next..number));
        next = number.saturating_add(1);
    }
    numbers.retain(|number| !copied.contains(number));
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((number, found)) = lines.try_next().await? {
        match tier::record(number, found) {
            Ok(line) => take(&line),
            Err(_) => rows.push(number..number.saturating_add(1)),
        }
    }
    rows.sort_unstable_by_key(|row| row.start);
    let rows = rows.into_iter().flat_map(|row| accepted.split(row));
    let lost = rows.filter(|(_, by)| by.is_none());
    Ok(lost.flat_map(|(row, _)| row).take(MOST_LOST).collect())
}
