//! Which snapshots `copy` and `sync` take.

use std::collections::{BTreeSet, HashMap};
use std::num::NonZeroUsize;

use backstay::core::{HostId, RetentionInput, SnapshotId, SnapshotMeta};
use backstay::engine::ledger::first_seen;
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::retention::newest_per;
use backup_terminal::{Console, Outcome};
use jiff::tz::TimeZone;

use crate::cli::ChoiceArgs;

impl ChoiceArgs {
    /// Whether it leaves anything out.
    pub(crate) fn is_given(&self) -> bool {
        let Self {
            filter,
            label,
            since,
            until,
            newest,
            newest_per,
            week_start: _,
        } = self;
        let of_filter = filter.name.is_some() || filter.host.is_some() || !filter.tags.is_empty();
        let of_time = since.is_some() || until.is_some();
        of_filter || of_time || label.is_some() || newest.is_some() || !newest_per.is_empty()
    }

    /// Whether a snapshot is among those of which the newest are taken.
    pub(crate) fn passes(&self, console: &Console, meta: &SnapshotMeta) -> bool {
        let since = self.since.map(|since| since.moment(console.cx.clock.now()));
        self.filter.takes(meta)
            && (self.label.is_none() || self.label == meta.label)
            && since.is_none_or(|since| meta.time >= since)
            && self.until.is_none_or(|until| meta.time <= until)
    }

    /// The snapshots that are taken, oldest first.
    ///
    /// # Errors
    /// Those of the tier, where the ledger is to say when they were made.
    pub(crate) async fn choose(
        &self,
        console: &Console,
        from: &Repository,
        host: &HostId,
        heads: &[SnapshotHead],
    ) -> Outcome<Vec<SnapshotHead>> {
        let passing = heads.iter().filter(|head| self.passes(console, &head.meta));
        let mut heads: Vec<SnapshotHead> = passing.cloned().collect();
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        if self.newest.is_none() && self.newest_per.is_empty() {
            return Ok(heads);
        }
        let mut taken = self
            .newest
            .map_or_else(BTreeSet::new, |most| newest(&heads, most));
        if !self.newest_per.is_empty() {
            // Who dates a snapshot as it likes must not push others out of their slots.
            first_seen(from, &console.cx, host, &mut heads).await?;
            let metas: Vec<SnapshotMeta> = heads.iter().map(|head| head.meta.clone()).collect();
            let input = RetentionInput {
                snapshots: &metas,
                now: console.cx.clock.now(),
                tz: &TimeZone::system(),
            };
            taken.extend(newest_per(&input, &self.newest_per, self.week_start));
        }
        heads.retain(|head| taken.contains(&head.meta.id));
        Ok(heads)
    }
}

/// The newest of each name and host, of snapshots in the order of their times.
fn newest(heads: &[SnapshotHead], most: NonZeroUsize) -> BTreeSet<SnapshotId> {
    let mut seen: HashMap<(&HostId, &str), usize> = HashMap::new();
    let newest = heads.iter().rev().filter(|head| {
        let count = seen.entry((&head.meta.host, &head.meta.name)).or_default();
        *count += 1;
        *count <= most.get()
    });
    newest.map(|head| head.meta.id).collect()
}
