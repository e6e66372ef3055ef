//! All snapshots of a repository: line by line, or by name.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{
    Decision, HostId, Reason, RetentionInput, RetentionPolicy, SnapshotId, SnapshotMeta, Verdict,
};

use crate::guard::guard;

/// A line: the snapshots of one host and one name. Policies never look beyond it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Line {
    /// The host that wrote them.
    pub host: HostId,
    /// What they are snapshots of.
    pub name: String,
}

impl Line {
    /// The line of a snapshot.
    #[must_use]
    pub fn of(snapshot: &SnapshotMeta) -> Self {
        Self {
            host: snapshot.host.clone(),
            name: snapshot.name.clone(),
        }
    }
}

/// The lines among some snapshots, each with the places of its snapshots.
#[must_use]
pub fn group_lines(snapshots: &[SnapshotMeta]) -> BTreeMap<Line, Vec<usize>> {
    let mut lines: BTreeMap<Line, Vec<usize>> = BTreeMap::new();
    for (place, snapshot) in snapshots.iter().enumerate() {
        lines.entry(Line::of(snapshot)).or_default().push(place);
    }
    lines
}

/// Decides on snapshots of any number of lines: applies `policy` to each line by itself and then
/// [`guard`]s it; `damaged` are those of which it is known that they cannot be restored whole. One decision for
/// each snapshot, in the order of the input.
#[must_use]
pub fn decide_lines(
    policy: &dyn RetentionPolicy,
    input: &RetentionInput<'_>,
    damaged: &BTreeSet<SnapshotId>,
) -> Vec<Decision> {
    let mut decisions: Vec<(usize, Decision)> = Vec::with_capacity(input.snapshots.len());
    for places in group_lines(input.snapshots).into_values() {
        let snapshots: Vec<SnapshotMeta> = places
            .iter()
            .filter_map(|place| input.snapshots.get(*place))
            .cloned()
            .collect();
        let line = RetentionInput {
            snapshots: &snapshots,
            ..*input
        };
        decisions.extend(
            places
                .into_iter()
                .zip(guard(&line, policy.decide(&line), damaged)),
        );
    }
    decisions.sort_by_key(|(place, _)| *place);
    decisions
        .into_iter()
        .map(|(_, decision)| decision)
        .collect()
}

/// The snapshots among the named ones without which their lines would lose the last that can be restored whole, or
/// the last of these without findings; `damaged` are known not to be. None of a line that has no such in any case.
#[must_use]
pub fn last_good<'a>(
    snapshots: &'a [SnapshotMeta],
    named: &BTreeSet<SnapshotId>,
    damaged: &BTreeSet<SnapshotId>,
) -> Vec<&'a SnapshotMeta> {
    let mut out: Vec<&SnapshotMeta> = Vec::new();
    for places in group_lines(snapshots).into_values() {
        let line = places.iter().filter_map(|place| snapshots.get(*place));
        let whole = line.filter(|one| !one.partial && !damaged.contains(&one.id));
        let clean = whole.clone().filter(|one| one.findings == 0);
        for good in [whole.collect::<Vec<_>>(), clean.collect()] {
            if !good.iter().all(|one| named.contains(&one.id)) {
                continue;
            }
            let newest = good
                .into_iter()
                .max_by_key(|one| (one.first_seen.unwrap_or(one.time), one.id));
            out.extend(newest.filter(|one| out.iter().all(|other| other.id != one.id)));
        }
    }
    out
}

/// Forgets the snapshots that a person names, the newest one too if it is named, but none that is
/// held: a hold has to be released first. One decision for each snapshot, in the order of the input.
#[must_use]
pub fn decide_named(snapshots: &[SnapshotMeta], named: &BTreeSet<SnapshotId>) -> Vec<Decision> {
    let decide = |snapshot: &SnapshotMeta| {
        let (verdict, reason) = match named.contains(&snapshot.id) {
            true if snapshot.held => (Verdict::Keep, Reason::Held),
            true => (Verdict::Forget, Reason::Named),
            false => (Verdict::Keep, Reason::Ungoverned),
        };
        Decision {
            id: snapshot.id,
            verdict,
            reasons: vec![reason],
        }
    };
    snapshots.iter().map(decide).collect()
}
