//! Carrying the rules out on one line of snapshots.

use backup_core::{Decision, Reason, SnapshotMeta, Verdict};
use jiff::Zoned;

use crate::count::Count;
use crate::line::{Ordered, Standing, Timed};
use crate::policy::KeepPolicy;
use crate::slot::{Period, WeekStart};

/// What is said of the oldest snapshot where it is kept because slots are left over.
const OLDEST: &str = "oldest";

/// One decision for each snapshot of a line, in the order of the input; not guarded yet.
pub(crate) fn decide(line: &Ordered<'_>, sets: &[KeepPolicy]) -> Vec<Decision> {
    let mut reasons: Vec<Vec<Reason>> = vec![Vec::new(); line.newest_first.len()];
    for set in sets {
        keep(line, set, &mut reasons);
    }
    let mut decisions: Vec<(usize, Decision)> = line
        .newest_first
        .iter()
        .zip(reasons)
        .map(|(one, reasons)| (one.index, verdict(line, one, sets, reasons)))
        .collect();
    decisions.sort_by_key(|(index, _)| *index);
    decisions
        .into_iter()
        .map(|(_, decision)| decision)
        .collect()
}

fn verdict(
    line: &Ordered<'_>,
    one: &Timed<'_>,
    sets: &[KeepPolicy],
    reasons: Vec<Reason>,
) -> Decision {
    let mut governing = sets.iter().filter(|set| governs(set, one.meta)).peekable();
    let (verdict, reasons) = if governing.peek().is_none() {
        (Verdict::Keep, vec![Reason::Ungoverned])
    } else if !reasons.is_empty() {
        (Verdict::Keep, reasons)
    } else if governing.any(KeepPolicy::is_empty) {
        (Verdict::Keep, vec![Reason::Forever])
    } else {
        match line.standing(one) {
            Standing::Complete => (Verdict::Forget, vec![Reason::Expired]),
            Standing::Checkpoint => (Verdict::Keep, vec![Reason::Checkpoint]),
            Standing::Superseded => (Verdict::Forget, vec![Reason::Superseded]),
        }
    };
    Decision {
        id: one.meta.id,
        verdict,
        reasons,
    }
}

fn governs(set: &KeepPolicy, snapshot: &SnapshotMeta) -> bool {
    set.governs(snapshot.label.as_deref())
}

/// A snapshot that counts for a set of rules.
struct Counted {
    /// Its place in the line.
    place: usize,
    /// Its time in the zone in which slots begin.
    at: Zoned,
}

/// Adds the reasons of one set of rules. `reasons` has the order of the line.
fn keep(line: &Ordered<'_>, set: &KeepPolicy, reasons: &mut [Vec<Reason>]) {
    let counted: Vec<Counted> = line
        .newest_first
        .iter()
        .enumerate()
        .filter(|(_, one)| !one.meta.partial && governs(set, one.meta))
        .map(|(place, one)| Counted {
            place,
            at: one.at.to_zoned(line.tz.clone()),
        })
        .collect();
    let mut add = |one: &Counted, reason: Reason| {
        if let Some(reasons) = reasons.get_mut(one.place)
            && !reasons.contains(&reason)
        {
            reasons.push(reason);
        }
    };
    if set.forever || set.is_empty() {
        counted.iter().for_each(|one| add(one, Reason::Forever));
    }
    for one in &counted {
        let tags = line
            .newest_first
            .get(one.place)
            .map_or(&[][..], |one| &one.meta.tags[..]);
        let kept = set.tags.iter().filter(|tag| tags.contains(*tag));
        kept.for_each(|tag| add(one, Reason::Tagged(tag.clone())));
    }
    let newer_than = |span: crate::Span| {
        let anchor = counted.first().map(|newest| newest.at.timestamp());
        let edge = anchor.map(|anchor| span.before(anchor, line.tz));
        counted.partition_point(|one| edge.is_some_and(|edge| one.at.timestamp() > edge))
    };
    if let Some(span) = set.within {
        let near = counted.iter().take(newer_than(span));
        near.for_each(|one| add(one, Reason::Within(span.to_string())));
    }
    if let Some(count) = set.last {
        let rule = Rule {
            name: "last".to_owned(),
            count,
            slot: &|place, _| place.to_string(),
        };
        rule.apply(&counted, counted.len(), &mut add);
    }
    for period in Period::ALL {
        let slot = |_: usize, one: &Counted| slot_of(period, one, set.week_start);
        if let Some(count) = set.count(period) {
            let rule = Rule {
                name: period.rule().to_owned(),
                count,
                slot: &slot,
            };
            rule.apply(&counted, counted.len(), &mut add);
        }
        if let Some(span) = set.span(period) {
            let name = format!("{} within {span}", period.rule());
            let rule = Rule {
                name,
                count: Count::All,
                slot: &slot,
            };
            rule.apply(&counted, newer_than(span), &mut add);
        }
    }
}

fn slot_of(period: Period, one: &Counted, week_start: WeekStart) -> String {
    period.slot(&one.at, week_start)
}

/// A rule that keeps the newest snapshot of each of so many slots.
struct Rule<'a> {
    name: String,
    count: Count,
    /// The slot of a snapshot, from its place (counted from one) and its time.
    slot: &'a dyn Fn(usize, &Counted) -> String,
}

impl Rule<'_> {
    /// Goes through the first `reach` of the snapshots, newest first. Slots lie side by side in
    /// that order, so it is enough to compare with the last one.
    fn apply(&self, counted: &[Counted], reach: usize, add: &mut impl FnMut(&Counted, Reason)) {
        let mut left = self.count;
        let mut last = None;
        for (place, one) in counted.iter().enumerate().take(reach) {
            if !left.is_some() {
                return;
            }
            let slot = (self.slot)(place + 1, one);
            let fresh = last.as_ref() != Some(&slot);
            let oldest = place + 1 == counted.len();
            if !fresh && !oldest {
                continue;
            }
            let shown = if fresh {
                slot.clone()
            } else {
                OLDEST.to_owned()
            };
            add(
                one,
                Reason::Bucket {
                    rule: self.name.clone(),
                    slot: shown,
                },
            );
            last = Some(slot);
            left = left.less_one();
        }
    }
}
