//! What holds for all policies and all snapshots.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::collections::BTreeSet;

use backup_core::{
    Decision, HostId, Reason, RetentionInput, RetentionPolicy, SnapshotId, SnapshotMeta, Verdict,
};
use backup_retention::{
    Count, KeepPolicy, Line, Period, PolicySet, Span, decide_lines, decide_named, group_lines,
    guard, last_good,
};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

mod series;

/// Times around a change of clocks, the end of a year and a leap day: a snapshot every second to
/// every few months, some at the same time.
fn time() -> impl Strategy<Value = Timestamp> {
    let bases = select(vec![1_711_846_800_i64, 1_735_686_000, 1_709_164_800]);
    let steps = prop_oneof![0..4_i64, 0..200_i64, 0..100_000_i64, 0..100_000_000_i64];
    (bases, steps).prop_map(|(base, step)| Timestamp::from_second(base + step).unwrap())
}

fn snapshot() -> impl Strategy<Value = SnapshotMeta> {
    let label = option::of(select(vec!["hourly", "daily"]));
    let tags = btree_set(select(vec!["best", "final"]), 0..3);
    let flags = (
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.2),
    );
    let times = (time(), option::weighted(0.3, time()));
    (times, label, tags, flags).prop_map(|((time, first_seen), label, tags, flags)| {
        let mut snapshot = series::snapshot(time);
        snapshot.first_seen = first_seen;
        snapshot.label = label.map(Into::into);
        snapshot.tags = tags.into_iter().map(Into::into).collect();
        (snapshot.held, snapshot.partial) = (flags.0, flags.1);
        snapshot.findings = u64::from(flags.2);
        snapshot
    })
}

/// Snapshots of one line, each with an id of its own.
fn line() -> impl Strategy<Value = Vec<SnapshotMeta>> {
    vec(snapshot(), 0..60).prop_map(|mut snapshots| {
        for (place, snapshot) in snapshots.iter_mut().enumerate() {
            snapshot.id = SnapshotId(place as u128 * 7919 % 61);
        }
        snapshots
    })
}

fn count() -> impl Strategy<Value = Option<Count>> {
    let counts = prop_oneof![9 => (0..8_u32).prop_map(Count::AtMost), 1 => Just(Count::All)];
    option::weighted(0.3, counts)
}

fn span() -> impl Strategy<Value = Option<Span>> {
    let spans = select(vec!["1h", "36h", "3d", "2w", "1m", "1y6m"]);
    option::weighted(0.15, spans.prop_map(|text| text.parse().unwrap()))
}

prop_compose! {
    fn rules()(
        last in count(), slots in prop::array::uniform6(count()), within in span(),
        spans in prop::array::uniform6(span()), tagged in prop::bool::weighted(0.2),
        label in option::weighted(0.3, select(vec!["hourly", "daily"])),
        forever in prop::bool::weighted(0.05), sunday in any::<bool>(),
    ) -> KeepPolicy {
        let [hourly, daily, weekly, monthly, quarterly, yearly] = slots;
        let [within_hourly, within_daily, within_weekly, within_monthly, within_quarterly,
            within_yearly] = spans;
        let tags = if tagged { vec!["best".into()] } else { vec![] };
        let week_start = if sunday { backup_retention::WeekStart::Sunday } else { Default::default() };
        KeepPolicy {
            label: label.map(Into::into), last, hourly, daily, weekly, monthly, quarterly, yearly,
            within, within_hourly, within_daily, within_weekly, within_monthly, within_quarterly,
            within_yearly, tags, forever, week_start,
        }
    }
}

fn policy() -> impl Strategy<Value = PolicySet> {
    vec(rules(), 1..4).prop_map(PolicySet)
}

fn zone() -> impl Strategy<Value = TimeZone> {
    let names = [
        "UTC",
        "Europe/Berlin",
        "America/New_York",
        "Australia/Lord_Howe",
    ];
    select(names.map(|name| TimeZone::get(name).unwrap()).to_vec())
}

fn decide(
    policy: &dyn RetentionPolicy,
    snapshots: &[SnapshotMeta],
    tz: &TimeZone,
) -> Vec<Decision> {
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    policy.decide(&RetentionInput { snapshots, now, tz })
}

fn kept(decisions: &[Decision]) -> BTreeSet<SnapshotId> {
    let keep = decisions
        .iter()
        .filter(|decision| decision.verdict == Verdict::Keep);
    keep.map(|decision| decision.id).collect()
}

fn effective(snapshot: &SnapshotMeta) -> Timestamp {
    let now = "2026-06-01T00:00:00Z".parse().unwrap();
    snapshot.first_seen.unwrap_or(snapshot.time).min(now)
}

fn newest<'a>(snapshots: impl Iterator<Item = &'a SnapshotMeta>) -> Option<&'a SnapshotMeta> {
    snapshots.max_by_key(|snapshot| (effective(snapshot), snapshot.time, snapshot.id))
}

proptest! {
    #[test]
    fn each_snapshot_gets_one_decision_with_reasons_that_fit(
        snapshots in line(), policy in policy(), tz in zone(),
    ) {
        let decisions = decide(&policy, &snapshots, &tz);
        prop_assert_eq!(decisions.len(), snapshots.len());
        for (snapshot, decision) in snapshots.iter().zip(decisions) {
            prop_assert_eq!(snapshot.id, decision.id);
            let lost = |reason: &Reason| matches!(reason, Reason::Expired | Reason::Superseded);
            match decision.verdict {
                Verdict::Forget => prop_assert!(decision.reasons.len() == 1 && lost(&decision.reasons[0])),
                Verdict::Keep => prop_assert!(!decision.reasons.iter().any(lost) && !decision.reasons.is_empty()),
            }
            let distinct: std::collections::HashSet<_> = decision.reasons.iter().collect();
            prop_assert_eq!(distinct.len(), decision.reasons.len());
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        (snapshots, shuffled) in line().prop_flat_map(|line| (Just(line.clone()), Just(line).prop_shuffle())),
        policy in policy(), tz in zone(),
    ) {
        let mut one = decide(&policy, &snapshots, &tz);
        let mut other = decide(&policy, &shuffled, &tz);
        one.sort_by_key(|decision| decision.id);
        other.sort_by_key(|decision| decision.id);
        prop_assert_eq!(one, other);
    }

    #[test]
    fn applying_a_policy_again_forgets_nothing_more(
        mut snapshots in line(), policy in policy(), tz in zone(),
    ) {
        let stay = kept(&decide(&policy, &snapshots, &tz));
        snapshots.retain(|snapshot| stay.contains(&snapshot.id));
        prop_assert_eq!(kept(&decide(&policy, &snapshots, &tz)), stay);
    }

    #[test]
    fn a_larger_count_or_span_never_forgets_more(
        snapshots in line(), rules in rules(), more in 1..5_u32, tz in zone(),
        rule in 0..8_usize,
    ) {
        prop_assume!(!rules.is_empty());
        let mut larger = rules.clone();
        let fields = [
            &mut larger.last, &mut larger.hourly, &mut larger.daily, &mut larger.weekly,
            &mut larger.monthly, &mut larger.quarterly, &mut larger.yearly,
        ];
        match fields.into_iter().nth(rule) {
            Some(count) => *count = Some(match *count {
                Some(Count::AtMost(count)) => Count::AtMost(count + more),
                Some(Count::All) => Count::All,
                None => Count::AtMost(more),
            }),
            None => larger.within = Some(rules.within.map_or(Span::days(more), |_| "3y".parse().unwrap())),
        }
        let small = kept(&decide(&rules, &snapshots, &tz));
        let large = kept(&decide(&larger, &snapshots, &tz));
        prop_assert!(small.is_subset(&large), "{:?} are lost", small.difference(&large));
    }

    #[test]
    fn what_is_held_or_newest_is_never_forgotten(
        snapshots in line(), policy in policy(), tz in zone(),
    ) {
        let stay = kept(&decide(&policy, &snapshots, &tz));
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.held) {
            prop_assert!(stay.contains(&snapshot.id), "{} is held", snapshot.id);
        }
        let complete = || snapshots.iter().filter(|snapshot| !snapshot.partial);
        for newest in [newest(complete()), newest(complete().filter(|one| one.findings == 0))] {
            prop_assert!(newest.is_none_or(|newest| stay.contains(&newest.id)));
        }
    }

    #[test]
    fn no_rule_keeps_more_than_its_count(
        snapshots in line(), rules in rules(), tz in zone(),
    ) {
        let decisions = decide(&rules, &snapshots, &tz);
        let mut limits = vec![("last", rules.last)];
        limits.extend(Period::ALL.map(|period| (period.rule(), rules.count(period))));
        for (name, limit) in limits {
            let by_rule = |reason: &Reason| matches!(reason, Reason::Bucket { rule, .. } if rule == name);
            let count = decisions.iter().filter(|one| one.reasons.iter().any(by_rule)).count();
            let count = Count::AtMost(u32::try_from(count).unwrap());
            prop_assert!(count <= limit.unwrap_or(Count::AtMost(0)), "{}: {:?}", name, count);
        }
    }

    #[test]
    fn a_guard_stands_behind_any_policy_and_once_is_enough(
        snapshots in line(), answers in vec((any::<prop::sample::Index>(), any::<bool>()), 0..60),
        harmed in vec(any::<prop::sample::Index>(), 0..60), tz in zone(),
    ) {
        let harmed = harmed.iter().filter(|_| !snapshots.is_empty());
        let bad: BTreeSet<_> = harmed.map(|at| at.get(&snapshots).id).collect();
        // A policy that forgets some, forgets others twice, and leaves out the rest.
        let wild: Vec<Decision> = answers.iter().filter(|_| !snapshots.is_empty()).map(|(at, keep)| {
            let (verdict, reason) = if *keep { (Verdict::Keep, Reason::Forever) } else { (Verdict::Forget, Reason::Expired) };
            Decision { id: at.get(&snapshots).id, verdict, reasons: vec![reason] }
        }).collect();
        let input = RetentionInput { snapshots: &snapshots, now: Timestamp::MAX, tz: &tz };
        let once = guard(&input, wild.clone(), &bad);
        prop_assert_eq!(&guard(&input, once.clone(), &bad), &once);
        for (snapshot, decision) in snapshots.iter().zip(&once) {
            prop_assert_eq!(snapshot.id, decision.id);
            let said = |verdict| wild.iter().any(|one| one.id == snapshot.id && one.verdict == verdict);
            let guarded = decision.reasons.iter().any(|one| matches!(one, Reason::Newest | Reason::Restorable | Reason::Held));
            let lost = said(Verdict::Forget) && !said(Verdict::Keep) && !guarded;
            prop_assert_eq!(decision.verdict == Verdict::Forget, lost);
            prop_assert!(!snapshot.held || decision.reasons.contains(&Reason::Held));
        }
        // What is known to be damaged takes the place of nothing that is whole.
        let kept = |one: &&SnapshotMeta| once.iter().any(|d| d.id == one.id && d.verdict == Verdict::Keep);
        let whole = |one: &&SnapshotMeta| !one.partial && !bad.contains(&one.id);
        prop_assert!(!snapshots.iter().any(|one| whole(&one)) || snapshots.iter().filter(whole).any(|one| kept(&one)));
        let clean = |one: &&SnapshotMeta| whole(one) && one.findings == 0;
        prop_assert!(!snapshots.iter().any(|one| clean(&one)) || snapshots.iter().filter(clean).any(|one| kept(&one)));
        // And who names them all is told so.
        let all = snapshots.iter().map(|one| one.id).collect();
        let last = last_good(&snapshots, &all, &bad);
        prop_assert_eq!(last.is_empty(), !snapshots.iter().any(|one| whole(&one)));
        let but: BTreeSet<_> = last.iter().map(|one| one.id).collect();
        let named = all.difference(&but).copied().collect();
        prop_assert!(last_good(&snapshots, &named, &bad).is_empty());
    }

    #[test]
    fn lines_are_decided_each_by_itself(
        mut snapshots in line(), places in vec((0..3_u8, 0..2_u8), 60), policy in policy(), tz in zone(),
    ) {
        for (snapshot, (name, host)) in snapshots.iter_mut().zip(places) {
            (snapshot.name, snapshot.host) = (format!("job{name}"), HostId(format!("host{host}")));
        }
        let now = "2026-06-01T00:00:00Z".parse().unwrap();
        let input = RetentionInput { snapshots: &snapshots, now, tz: &tz };
        let together = decide_lines(&policy, &input, &BTreeSet::new());
        let ids: Vec<_> = together.iter().map(|decision| decision.id).collect();
        prop_assert_eq!(ids, snapshots.iter().map(|one| one.id).collect::<Vec<_>>());
        for (line, places) in group_lines(&snapshots) {
            let alone: Vec<_> = places.iter().map(|place| snapshots[*place].clone()).collect();
            prop_assert!(alone.iter().all(|one| Line::of(one) == line));
            let wanted: Vec<_> = places.iter().map(|place| together[*place].clone()).collect();
            prop_assert_eq!(decide(&policy, &alone, &tz), wanted);
        }
    }

    #[test]
    fn named_snapshots_go_unless_they_are_held(snapshots in line(), named in btree_set(0..61_u128, 0..20)) {
        let named: BTreeSet<_> = named.into_iter().map(SnapshotId).collect();
        for (snapshot, decision) in snapshots.iter().zip(decide_named(&snapshots, &named)) {
            let goes = named.contains(&snapshot.id) && !snapshot.held;
            prop_assert_eq!(decision.verdict == Verdict::Forget, goes);
        }
    }

    #[test]
    fn a_span_survives_its_spelling(counts in prop::array::uniform5(0..9999_u32)) {
        prop_assume!(counts.iter().any(|count| *count > 0));
        let parts = counts.iter().zip(["y", "m", "w", "d", "h"]).filter(|(count, _)| **count > 0);
        let text: String = parts.map(|(count, unit)| format!("{count}{unit}")).collect();
        prop_assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
    }

    #[test]
    fn no_text_makes_a_span_or_a_count_panic(text in ".{0,20}") {
        let _ = (text.parse::<Span>(), text.parse::<Count>());
    }
}

#[test]
fn ten_years_are_decided_in_no_time() {
    let snapshots = series::every(44, "2016-01-01 00:00", 2000);
    let all = Some(Count::AtMost(50));
    let policy = KeepPolicy {
        last: all,
        hourly: all,
        daily: all,
        weekly: all,
        monthly: all,
        quarterly: all,
        yearly: all,
        within: Some("2y".parse().unwrap()),
        within_daily: Some("1y".parse().unwrap()),
        ..KeepPolicy::default()
    };
    let tz = TimeZone::get("Europe/Berlin").unwrap();
    let start = std::time::Instant::now();
    assert_eq!(decide(&policy, &snapshots, &tz).len(), 2000);
    let took = start.elapsed();
    println!("2000 snapshots took {took:?}");
    // A few milliseconds; the limit leaves room for a machine that is busy.
    assert!(took.as_millis() < 250, "{took:?}");
}
