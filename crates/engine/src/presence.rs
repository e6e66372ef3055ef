//! Which packs that the index names are not on the tier, or have another size there.
//!
//! Who goes on naming such a pack makes snapshots that cannot be restored. So a writer looks before
//! it builds on the index: what lies in such packs alone counts as not stored, and is stored anew
//! where the source still has it. That costs a list of all packs: it is made by every run while it is
//! quick, and where it is not, once a day and whenever a run is to trust nothing ([`Looks`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    ErrorKind, Finding, FindingKind, KeyRange, ObjectKey, OpContext, PackId, Severity,
};
use backup_format::layout;
use futures::StreamExt;

use crate::error::Result;
use crate::index_set::IndexSet;
use crate::listing::{Listing, ranges_of_packs};
use crate::repository::{Repository, SnapshotHead, name};
use crate::unindexed;

/// Packs that are named one by one.
const MOST_NAMED: usize = 20;
/// A look that took less is made by every run.
const QUICK: Duration = Duration::from_secs(2);
/// Another is made again after so long, in milliseconds.
const DAY: i64 = 86_400_000;

/// What a pack is on the tier that is not as the index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// It is not there.
    Gone,
    /// It has another size.
    Size {
        /// The one that it has, in bytes.
        is: u64,
        /// The one that the index says.
        should: u64,
    },
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gone => f.write_str("it is not on the tier"),
            Self::Size { is, should } => write!(f, "it has {is} bytes instead of {should}"),
        }
    }
}

impl State {
    pub(crate) const fn kind(self) -> FindingKind {
        match self {
            Self::Gone => FindingKind::Missing,
            Self::Size { .. } => FindingKind::Damaged,
        }
    }
}

/// A pack that is not as the index says.
#[derive(Debug, Clone)]
pub(crate) struct Absent {
    pub(crate) id: PackId,
    pub(crate) key: ObjectKey,
    pub(crate) state: State,
}

/// The packs of an index, crossed off one by one as they are found on the tier.
pub(crate) struct Expected {
    left: HashMap<PackId, u64>,
}

impl Expected {
    pub(crate) fn of(index: &IndexSet) -> Self {
        Self {
            left: index.pack_sizes(),
        }
    }

    /// Takes what a list of the tier says of a pack.
    pub(crate) fn seen(&mut self, id: PackId, size: u64) {
        if self.left.get(&id) == Some(&size) {
            self.left.remove(&id);
        }
    }

    /// Asks for each that is left by its name: a list may lag behind, and a pack be written or go
    /// while it is read.
    pub(crate) async fn absent(
        self,
        repo: &Repository,
        cx: &OpContext,
        index: &IndexSet,
    ) -> Result<Vec<Absent>> {
        if self.left.is_empty() {
            return Ok(Vec::new());
        }
        let facts = index.packs();
        let mut asked = futures::stream::iter(self.left)
            .map(|(id, should)| {
                let is_meta = facts.get(&id).is_some_and(|facts| facts.is_meta);
                async move {
                    let key = name(layout::pack(id, is_meta))?;
                    let state = match repo.sink().head(cx, &key).await {
                        Ok(meta) if meta.size == should => return Ok(None),
                        Ok(meta) => State::Size {
                            is: meta.size,
                            should,
                        },
                        Err(error) if error.kind == ErrorKind::NotFound => State::Gone,
                        Err(error) => return Err(error.into()),
                    };
                    Ok(Some(Absent { id, key, state }))
                }
            })
            .buffer_unordered(repo.connections(cx));
        let mut out = Vec::new();
        while let Some(absent) = asked.next().await {
            let absent: Result<Option<Absent>> = absent;
            out.extend(absent?);
        }
        out.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(out)
    }
}

/// The packs of an index that are not on the tier as it says; and those on the tier that it does not know.
async fn absent(
    repo: &Repository,
    cx: &OpContext,
    index: &IndexSet,
    listing: &Listing,
) -> Result<(Vec<Absent>, BTreeSet<PackId>)> {
    let mut expected = Expected::of(index);
    let mut unknown = BTreeSet::new();
    for (id, size) in listing.packs() {
        if !expected.left.contains_key(id) {
            unknown.insert(*id);
        }
        expected.seen(*id, *size);
    }
    Ok((expected.absent(repo, cx, index).await?, unknown))
}

/// When this host looked last, in a file of its cache. Once lost, the next run looks.
struct Looks<'a>(&'a Repository);

impl Looks<'_> {
    const FILE: &'static str = "packs-looked-for";

    /// Whether a look is due at a time, in milliseconds since 1970.
    fn is_due(&self, now: i64) -> bool {
        let known = self.0.cache().read(Self::FILE);
        let known = known.and_then(|bytes| String::from_utf8(bytes).ok());
        let known = known.and_then(|text| {
            let (at, took) = text.trim().split_once(' ')?;
            Some((at.parse::<i64>().ok()?, took.parse::<u64>().ok()?))
        });
        // Also where a clock was set back since.
        known.is_none_or(|(at, took)| {
            u128::from(took) <= QUICK.as_millis() || !(at..at.saturating_add(DAY)).contains(&now)
        })
    }

    fn made(&self, now: i64, took: Duration) {
        let text = format!("{now} {}\n", took.as_millis());
        self.0.cache().write(Self::FILE, text.as_bytes());
    }

    fn is_asked_for_again(&self) {
        self.0.cache().remove(Self::FILE);
    }
}

/// The folders that are listed to see whether packs are there, if that is due now or wanted in any case.
pub(crate) fn ranges_of_look(repo: &Repository, cx: &OpContext, always: bool) -> Vec<KeyRange> {
    let is_due = always || Looks(repo).is_due(cx.clock.now().as_millisecond());
    is_due.then(ranges_of_packs).into_iter().flatten().collect()
}

/// An index without the packs that are not as it says, and what is to be said of them; and of packs that the snapshot
/// uses that is built on, and that the index lacks. Where the listing does not show packs, nobody looked.
pub(crate) async fn passing_over_absent(
    repo: &Repository,
    cx: &OpContext,
    index: Arc<IndexSet>,
    parent: Option<&SnapshotHead>,
    listing: &Listing,
) -> Result<(Arc<IndexSet>, Vec<Finding>)> {
    let (now, looks) = (cx.clock.now().as_millisecond(), Looks(repo));
    let has_any = parent.is_some() || !index.is_empty();
    if !has_any
        || !ranges_of_packs()
            .iter()
            .all(|one| listing.shows(&one.prefix))
    {
        return Ok((index, Vec::new()));
    }
    let (absent, unknown) = absent(repo, cx, &index, listing).await?;
    let unindexed = match parent {
        Some(parent) => unindexed::of_snapshot(repo, cx, parent, &unknown).await?,
        None => None,
    };
    if absent.is_empty() && unindexed.is_none() {
        looks.made(now, listing.took());
        return Ok((index, Vec::new()));
    }
    looks.is_asked_for_again();
    let ids = absent.iter().map(|pack| pack.id).collect();
    let left = index.avoiding(&ids);
    let mut findings = findings(&index, &ids, &absent);
    findings.extend(unindexed);
    Ok((Arc::new(left), findings))
}

/// Of some packs those that hold chunks which are in no other, how many, and whether they are pages or lineage.
pub(crate) fn alone_in(index: &IndexSet, ids: &BTreeSet<PackId>) -> BTreeMap<PackId, (bool, u64)> {
    let mut alone = BTreeMap::new();
    if ids.is_empty() {
        return alone;
    }
    let left = index.avoiding(ids);
    for part in index.parts() {
        for (prefix, located) in part.iter() {
            let pack = part.pack(located.pack).map(|pack| pack.id);
            if let Some(pack) = pack.filter(|id| ids.contains(id))
                && left.places(&prefix).next().is_none()
            {
                let (_, count) = alone.entry(pack).or_insert((located.kind.is_meta(), 0));
                *count += 1;
            }
        }
    }
    alone
}

/// What a writer says of packs that are not as the index says.
fn findings(index: &IndexSet, ids: &BTreeSet<PackId>, absent: &[Absent]) -> Vec<Finding> {
    // Chunks of each that are in no other pack.
    let alone = alone_in(index, ids);
    let mut out: Vec<Finding> = absent
        .iter()
        .take(MOST_NAMED)
        .map(|pack| {
            let detail = match alone.get(&pack.id) {
                Some((_, count)) => format!(
                    "{}: nothing is built on it; of its chunks {count} were in no other pack, and are stored anew as far as this source still has them; `snapshot verify` tells which snapshots that hurts, `snapshot repair` what mends it",
                    pack.state
                ),
                None => format!(
                    "{}: nothing is built on it; all of its chunks are in other packs; `snapshot prune` tells which snapshots name it",
                    pack.state
                ),
            };
            Finding::new(Severity::Error, pack.state.kind(), pack.key.as_str(), detail)
        })
        .collect();
    if let Some(more) = absent
        .len()
        .checked_sub(MOST_NAMED)
        .filter(|more| *more > 0)
    {
        let detail = format!(
            "{more} more packs are not there as the index says, and nothing is built on them; `snapshot verify` names them all"
        );
        let (severity, kind) = (Severity::Error, FindingKind::Missing);
        out.push(Finding::new(severity, kind, "the tier", detail));
    }
    out
}
