//! What was covered up to now.

use std::collections::HashMap;
use std::path::Path;

use async_recursion::async_recursion as boxed;
use backup_core::{OpContext, PackId, SnapshotId};
use jiff::{SignedDuration, Timestamp};

use super::memory::Memory;
use crate::error::Result;
use crate::index_set::PackFacts;
use crate::repository::Repository;

/// Spans of which it is told what was checked in them, in days.
const SPANS: [u32; 4] = [1, 7, 30, 90];

/// Some of the packs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amount {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Amount {
    const fn add(&mut self, size: u64) {
        self.packs += 1;
        self.bytes = self.bytes.saturating_add(size);
    }
}

/// What was checked at a level, or a deeper one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LevelCoverage {
    /// At any time.
    pub ever: Amount,
    /// Within so many days up to now, each span with those that are shorter. What a clock that was
    /// wrong says to have happened later than now is in none.
    pub within: Vec<(u32, Amount)>,
    /// The earliest of the times at which the packs were checked last; none if none was.
    pub oldest: Option<Timestamp>,
}

/// What this host's verifications covered up to now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// Whether it is remembered for later runs.
    pub is_kept: bool,
    /// All packs that the index knows.
    pub all: Amount,
    /// What hashed to its name.
    pub checksum: LevelCoverage,
    /// What was opened as a whole.
    pub full: LevelCoverage,
    /// What was damaged when it was looked at last.
    pub damaged: Amount,
    /// Snapshots there are, and those whose manifest was walked and found whole.
    pub snapshots: u64,
    /// See above.
    pub walked: u64,
    /// Contents that were hashed whole, of files that there are or were at the last full read.
    pub whole_contents: u64,
}

impl Coverage {
    pub(super) fn of(
        memory: &Memory,
        packs: &HashMap<PackId, PackFacts>,
        snapshots: impl Iterator<Item = SnapshotId>,
        cx: &OpContext,
    ) -> Self {
        let now = cx.clock.now();
        let (mut all, mut damaged) = (Amount::default(), Amount::default());
        let mut levels: [LevelCoverage; 2] = std::array::from_fn(|_| LevelCoverage {
            ever: Amount::default(),
            within: SPANS.map(|days| (days, Amount::default())).to_vec(),
            oldest: None,
        });
        for (id, facts) in packs {
            let checked = memory.pack(id);
            all.add(facts.size);
            if checked.is_bad {
                damaged.add(facts.size);
            }
            for (level, run) in levels.iter_mut().zip([checked.sum, checked.full]) {
                if run == 0 {
                    continue;
                }
                level.ever.add(facts.size);
                let Some(time) = memory.time_of(run).filter(|time| *time <= now) else {
                    continue;
                };
                level.oldest = Some(level.oldest.map_or(time, |oldest| oldest.min(time)));
                let age = now.duration_since(time);
                for (days, amount) in &mut level.within {
                    if age <= SignedDuration::from_hours(24 * i64::from(*days)) {
                        amount.add(facts.size);
                    }
                }
            }
        }
        let (mut there, mut walked) = (0, 0);
        for id in snapshots {
            there += 1;
            walked += u64::from(memory.walked(id) > 0);
        }
        let [checksum, full] = levels;
        Self {
            is_kept: memory.is_kept(),
            all,
            checksum,
            full,
            damaged,
            snapshots: there,
            walked,
            whole_contents: memory.whole_contents(),
        }
    }
}

/// What this host's verifications of a repository covered, by the memory in a cache folder; reads no
/// content.
///
/// # Errors
/// Those of the tier's lists.
#[boxed]
pub async fn coverage(repo: &Repository, cx: &OpContext, memory: &Path) -> Result<Coverage> {
    let remembered = Memory::read_only(repo, cx, Some(memory))?;
    let snapshots = repo.snapshot_keys(cx).await?;
    let ids = snapshots.into_iter().map(|(id, _)| id);
    let packs = repo.index().packs();
    let mut out = Coverage::of(&remembered, &packs, ids, cx);
    out.is_kept = true;
    Ok(out)
}
