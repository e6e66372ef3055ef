//! Which snapshots are held by the word of the ledger. A hold is an object on the tier that anybody
//! may delete who can delete there; that it was placed, and that nobody released it, stays recorded.

use std::collections::{BTreeMap, HashSet};

use backup_core::{HostId, OpContext, SnapshotId};
use backup_integrity::ledger::{Line, Op, RawLine};
use futures::TryStreamExt as _;
use jiff::Timestamp;

use super::sight::Keys;
use super::tier;
use crate::error::Result;
use crate::repository::Repository;

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
        let held = places.then(|| HoldRecord {
            host: record.host.clone(),
            time: record.time,
        });
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

/// The snapshots that are held by the word of the ledger: of this host's copy, and of what the tier has
/// beside it.
///
/// # Errors
/// Those of the tier. A record that cannot be read tells nothing; verification names it.
pub async fn held(repo: &Repository, cx: &OpContext) -> Result<BTreeMap<SnapshotId, HoldRecord>> {
    let (mut records, mut keys) = (HoldRecords::default(), Keys::new(repo));
    let mut copied = HashSet::new();
    // A copy that cannot be read is as if there were none.
    let copy = repo.ledger_copy().and_then(|copy| copy.lines().ok());
    if let Some(mut lines) = copy.flatten() {
        while let Ok(Some(line)) = lines.next_line() {
            if let RawLine::Whole(line) = line
                && let Ok(line) = Line::parse(line)
            {
                copied.insert(line.head().seq);
                records.take(&line, &mut keys);
            }
        }
    }
    let mut numbers = tier::numbers(repo, cx, 0).await?;
    numbers.retain(|number| !copied.contains(number));
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((number, found)) = lines.try_next().await? {
        if let Ok(line) = tier::record(number, found) {
            records.take(&line, &mut keys);
        }
    }
    Ok(records.held())
}
