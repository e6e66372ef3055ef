//! What is never forgotten, whatever a policy says. There is no setting that turns this off.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{Decision, Reason, RetentionInput, SnapshotId, Verdict};

use crate::line::{Ordered, Timed};

/// Goes over the decisions of a policy on a line and takes back what must not be: forgetting
/// - the newest complete snapshot;
/// - the newest complete snapshot without findings;
/// - the newest of both kinds that is not among `damaged`, of which it is known that they cannot be restored whole;
/// - a snapshot that is held.
///
/// Answers one decision for each snapshot in the order of the input, whatever the policy answered:
/// a snapshot that it left out is kept, and if it contradicts itself, the snapshot is kept too.
/// Guarding twice is the same as guarding once.
#[must_use]
pub fn guard(
    input: &RetentionInput<'_>,
    decisions: Vec<Decision>,
    damaged: &BTreeSet<SnapshotId>,
) -> Vec<Decision> {
    let ordered = Ordered::of(input);
    let id = |one: Option<Timed<'_>>| one.map(|one| one.meta.id);
    let newest = ordered.newest().map(id);
    let restorable = ordered.newest_but(damaged).map(id);
    let mut by_id: BTreeMap<SnapshotId, Decision> = BTreeMap::new();
    for decision in decisions {
        match by_id.get_mut(&decision.id) {
            None => {
                by_id.insert(decision.id, decision);
            }
            Some(other) => merge(other, decision),
        }
    }
    let guarded = input.snapshots.iter().map(|snapshot| {
        let mut guards = Vec::new();
        if newest.contains(&Some(snapshot.id)) {
            guards.push(Reason::Newest);
        } else if restorable.contains(&Some(snapshot.id)) {
            guards.push(Reason::Restorable);
        }
        if snapshot.held {
            guards.push(Reason::Held);
        }
        apply(by_id.get(&snapshot.id).cloned(), snapshot.id, guards)
    });
    guarded.collect()
}

/// Two decisions on one snapshot: keeping wins.
fn merge(one: &mut Decision, other: Decision) {
    match (one.verdict, other.verdict) {
        (Verdict::Keep, Verdict::Forget) => {}
        (Verdict::Forget, Verdict::Keep) => *one = other,
        _ => {
            for reason in other.reasons {
                if !one.reasons.contains(&reason) {
                    one.reasons.push(reason);
                }
            }
        }
    }
}

fn apply(decision: Option<Decision>, id: SnapshotId, mut guards: Vec<Reason>) -> Decision {
    let decision = decision.unwrap_or(Decision {
        id,
        verdict: Verdict::Keep,
        reasons: vec![Reason::Ungoverned],
    });
    if guards.is_empty() {
        return decision;
    }
    if decision.verdict == Verdict::Keep {
        let others = decision
            .reasons
            .into_iter()
            .filter(|reason| !guards.contains(reason));
        let others: Vec<Reason> = others.collect();
        guards.extend(others);
    }
    Decision {
        id,
        verdict: Verdict::Keep,
        reasons: guards,
    }
}
