//! Each rule on snapshots of a calendar, with the reasons that it gives.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use backup_core::{Reason, SnapshotMeta};
use backup_retention::{Count, KeepPolicy, PolicySet, Span, WeekStart};
use series::{at, decide, every, forgotten, kept, kept_in};

mod series;

fn some(count: u32) -> Option<Count> {
    Some(Count::AtMost(count))
}

fn span(text: &str) -> Option<Span> {
    Some(text.parse().unwrap())
}

/// A policy of these rules and no others.
macro_rules! rules {
    ($($field:ident: $value:expr),* $(,)?) => {
        KeepPolicy { $($field: $value,)* ..KeepPolicy::default() }
    };
}

/// Twice a day for six days.
fn twice_a_day() -> Vec<SnapshotMeta> {
    every(12, "2026-11-16 06:00", 12)
}

/// Every noon from the first of 2025 to 2026-12-21.
fn two_years() -> Vec<SnapshotMeta> {
    every(24, "2025-01-01 12:00", 720)
}

#[test]
fn last_keeps_the_newest() {
    let wanted = "\
2026-11-21 18:00: newest, last 1
2026-11-21 06:00: last 2
2026-11-20 18:00: last 3
";
    assert_eq!(kept(&rules!(last: some(3)), &twice_a_day()), wanted);
    assert!(kept(&rules!(last: Some(Count::All)), &twice_a_day()).ends_with("last 12\n"));
}

#[test]
fn hourly_keeps_the_newest_of_each_hour_that_has_one() {
    let snapshots = at(&[
        "2026-11-20 01:10",
        "2026-11-20 03:10",
        "2026-11-20 03:40",
        "2026-11-21 00:05",
    ]);
    let wanted = "\
2026-11-21 00:05: newest, hourly 2026-11-21T00+00
2026-11-20 03:40: hourly 2026-11-20T03+00
";
    assert_eq!(kept(&rules!(hourly: some(2)), &snapshots), wanted);
}

#[test]
fn daily_keeps_the_newest_of_each_day() {
    let wanted = "\
2026-11-21 18:00: newest, daily 2026-11-21
2026-11-20 18:00: daily 2026-11-20
2026-11-19 18:00: daily 2026-11-19
";
    assert_eq!(kept(&rules!(daily: some(3)), &twice_a_day()), wanted);
}

#[test]
fn days_without_a_snapshot_do_not_count() {
    let snapshots = at(&[
        "2026-01-05 10:00",
        "2026-03-01 10:00",
        "2026-03-01 11:00",
        "2026-11-21 10:00",
    ]);
    let wanted = "\
2026-11-21 10:00: newest, daily 2026-11-21
2026-03-01 11:00: daily 2026-03-01
";
    assert_eq!(kept(&rules!(daily: some(2)), &snapshots), wanted);
}

#[test]
fn the_oldest_stays_while_slots_are_left() {
    let wanted = "\
2026-11-21 18:00: newest, daily 2026-11-21
2026-11-20 18:00: daily 2026-11-20
2026-11-19 18:00: daily 2026-11-19
2026-11-18 18:00: daily 2026-11-18
2026-11-17 18:00: daily 2026-11-17
2026-11-16 18:00: daily 2026-11-16
2026-11-16 06:00: daily oldest
";
    assert_eq!(kept(&rules!(daily: some(7)), &twice_a_day()), wanted);
    assert!(!kept(&rules!(daily: some(6)), &twice_a_day()).contains("oldest"));
}

#[test]
fn weekly_keeps_the_newest_of_each_iso_week() {
    let wanted = "\
2026-12-21 12:00: newest, weekly 2026-W52
2026-12-20 12:00: weekly 2026-W51
2026-12-13 12:00: weekly 2026-W50
";
    assert_eq!(kept(&rules!(weekly: some(3)), &two_years()), wanted);
}

#[test]
fn weeks_can_begin_on_sunday() {
    let wanted = "\
2026-12-21 12:00: newest, weekly 2026-12-20
2026-12-19 12:00: weekly 2026-12-13
2026-12-12 12:00: weekly 2026-12-06
";
    let policy = rules!(weekly: some(3), week_start: WeekStart::Sunday);
    assert_eq!(kept(&policy, &two_years()), wanted);
}

#[test]
fn a_week_is_not_cut_by_the_end_of_a_year() {
    let snapshots = every(24, "2026-12-25 12:00", 14);
    let wanted = "\
2027-01-07 12:00: newest, weekly 2027-W01
2027-01-03 12:00: weekly 2026-W53
";
    assert_eq!(kept(&rules!(weekly: some(2)), &snapshots), wanted);
}

#[test]
fn monthly_quarterly_and_yearly_keep_the_newest_of_each() {
    let monthly = "\
2026-12-21 12:00: newest, monthly 2026-12
2026-11-30 12:00: monthly 2026-11
2026-10-31 12:00: monthly 2026-10
";
    assert_eq!(kept(&rules!(monthly: some(3)), &two_years()), monthly);
    let quarterly = "\
2026-12-21 12:00: newest, quarterly 2026-Q4
2026-09-30 12:00: quarterly 2026-Q3
2026-06-30 12:00: quarterly 2026-Q2
";
    assert_eq!(kept(&rules!(quarterly: some(3)), &two_years()), quarterly);
    let yearly = "\
2026-12-21 12:00: newest, yearly 2026
2025-12-31 12:00: yearly 2025
2025-01-01 12:00: yearly oldest
";
    assert_eq!(kept(&rules!(yearly: some(3)), &two_years()), yearly);
}

#[test]
fn a_leap_day_is_a_day_and_ends_its_february() {
    let snapshots = every(24, "2024-02-27 12:00", 5);
    let wanted = "\
2024-03-02 12:00: newest, monthly 2024-03
2024-02-29 12:00: monthly 2024-02
";
    assert_eq!(kept(&rules!(monthly: some(2)), &snapshots), wanted);
}

#[test]
fn a_snapshot_tells_all_rules_that_keep_it() {
    let policy = rules!(daily: some(3), weekly: some(2), monthly: some(3), yearly: some(2));
    let wanted = "\
2026-12-21 12:00: newest, daily 2026-12-21, weekly 2026-W52, monthly 2026-12, yearly 2026
2026-12-20 12:00: daily 2026-12-20, weekly 2026-W51
2026-12-19 12:00: daily 2026-12-19
2026-11-30 12:00: monthly 2026-11
2026-10-31 12:00: monthly 2026-10
2025-12-31 12:00: yearly 2025
";
    assert_eq!(kept(&policy, &two_years()), wanted);
    assert!(forgotten(&policy, &two_years()).ends_with("2025-01-01 12:00: expired\n"));
}

#[test]
fn within_reaches_back_from_the_newest_and_not_from_now() {
    // Decided four years later.
    let wanted = "\
2026-11-21 18:00: newest, within 36h
2026-11-21 06:00: within 36h
2026-11-20 18:00: within 36h
";
    assert_eq!(kept(&rules!(within: span("36h")), &twice_a_day()), wanted);
}

#[test]
fn within_reaches_back_from_the_newest_complete_one() {
    let mut snapshots = twice_a_day();
    snapshots[11].partial = true;
    let wanted = "\
2026-11-21 18:00: checkpoint
2026-11-21 06:00: newest, within 1d
2026-11-20 18:00: within 1d
";
    assert_eq!(kept(&rules!(within: span("1d")), &snapshots), wanted);
}

#[test]
fn slots_of_a_span_are_kept_however_many_there_are() {
    let policy = rules!(within_daily: span("3d"), within_monthly: span("4m"));
    let wanted = "\
2026-12-21 12:00: newest, daily within 3d 2026-12-21, monthly within 4m 2026-12
2026-12-20 12:00: daily within 3d 2026-12-20
2026-12-19 12:00: daily within 3d 2026-12-19
2026-11-30 12:00: monthly within 4m 2026-11
2026-10-31 12:00: monthly within 4m 2026-10
2026-09-30 12:00: monthly within 4m 2026-09
2026-08-31 12:00: monthly within 4m 2026-08
";
    assert_eq!(kept(&policy, &two_years()), wanted);
}

#[test]
fn a_day_of_23_hours_and_one_of_25_are_one_day_each() {
    // Every hour; clocks in Berlin went forward on 2026-03-29 and back on 2026-10-25.
    for (from, long_day, hours) in [
        ("2026-03-28 12:00", "2026-03-29", 23),
        ("2026-10-24 12:00", "2026-10-25", 25),
    ] {
        let snapshots = every(1, from, 72);
        let hourly = kept_in(
            "Europe/Berlin",
            &rules!(hourly: Some(Count::All)),
            &snapshots,
        );
        assert_eq!(
            hourly
                .lines()
                .filter(|line| line.starts_with(long_day))
                .count(),
            hours
        );
        let daily = kept_in(
            "Europe/Berlin",
            &rules!(daily: Some(Count::All)),
            &snapshots,
        );
        let of_day: Vec<_> = daily
            .lines()
            .filter(|line| line.starts_with(long_day))
            .collect();
        assert_eq!(of_day, [format!("{long_day} 23:00: daily {long_day}")]);
    }
}

#[test]
fn a_zone_decides_where_days_begin() {
    let snapshots = at(&["2026-06-30 14:00", "2026-06-30 16:00"]);
    let policy = rules!(monthly: some(2));
    assert_eq!(
        kept(&policy, &snapshots).lines().count(),
        2,
        "the oldest stays"
    );
    let wanted = "\
2026-07-01 01:00: newest, monthly 2026-07
2026-06-30 23:00: monthly 2026-06
";
    assert_eq!(kept_in("Asia/Tokyo", &policy, &snapshots), wanted);
}

#[test]
fn tags_that_are_kept_are_named_each() {
    let mut snapshots = twice_a_day();
    snapshots[0].tags = vec!["best".into(), "final".into(), "other".into()];
    snapshots[5].tags = vec!["other".into()];
    let policy = rules!(tags: vec!["final".into(), "best".into()], last: some(1));
    let wanted = "\
2026-11-21 18:00: newest, last 1
2026-11-16 06:00: tag final, tag best
";
    assert_eq!(kept(&policy, &snapshots), wanted);
}

#[test]
fn for_ever_keeps_all_and_still_tells_the_other_reasons() {
    let shown = kept(&rules!(forever: true, last: some(1)), &twice_a_day());
    assert!(shown.starts_with("2026-11-21 18:00: newest, for ever, last 1\n"));
    assert_eq!(shown.matches("for ever").count(), 12);
}

#[test]
fn a_policy_without_a_rule_keeps_everything_and_can_be_refused() {
    let mut snapshots = twice_a_day();
    snapshots[3].partial = true;
    for policy in [
        KeepPolicy::default(),
        rules!(last: some(0), week_start: WeekStart::Sunday),
    ] {
        assert_eq!(kept(&policy, &snapshots).matches("for ever").count(), 12);
        let refused = policy.checked().unwrap_err();
        assert!(refused.to_string().contains("forever = true"));
    }
    assert!(rules!(forever: true).checked().is_ok());
    assert!(rules!(within_yearly: span("1y")).checked().is_ok());
}

#[test]
fn a_checkpoint_goes_when_a_complete_snapshot_is_as_new() {
    let mut snapshots = twice_a_day();
    for place in [0, 9, 11] {
        snapshots[place].partial = true;
        snapshots[place].tags = vec!["kept".into()];
    }
    snapshots[0].held = true;
    let policy = rules!(forever: true, tags: vec!["kept".into()]);
    let wanted = "2026-11-20 18:00: superseded checkpoint\n";
    assert_eq!(forgotten(&policy, &snapshots), wanted);
    let shown = kept(&policy, &snapshots);
    assert!(
        shown.starts_with("2026-11-21 18:00: checkpoint\n2026-11-21 06:00: newest, for ever\n")
    );
    assert!(shown.ends_with("2026-11-16 06:00: held\n"));
}

#[test]
fn the_checkpoint_of_a_run_goes_with_the_complete_snapshot_of_the_same_run() {
    let mut snapshots = at(&["2026-11-21 04:00", "2026-11-21 04:00"]);
    snapshots[1].partial = true;
    let wanted = "2026-11-21 04:00: superseded checkpoint\n";
    for id in [0, u128::MAX] {
        snapshots[1].id = backup_core::SnapshotId(id);
        assert_eq!(forgotten(&rules!(forever: true), &snapshots), wanted);
    }
}

#[test]
fn what_is_held_stays_and_takes_no_slot() {
    let mut snapshots = twice_a_day();
    snapshots[4].held = true;
    let wanted = "\
2026-11-21 18:00: newest, last 1
2026-11-18 06:00: held
";
    assert_eq!(kept(&rules!(last: some(1)), &snapshots), wanted);
}

#[test]
fn the_newest_without_findings_stays_as_well_as_the_newest() {
    let mut snapshots = twice_a_day();
    snapshots[8..]
        .iter_mut()
        .for_each(|snapshot| snapshot.findings = 3);
    let wanted = "\
2026-11-21 18:00: newest, last 1
2026-11-19 18:00: newest
";
    assert_eq!(kept(&rules!(last: some(1)), &snapshots), wanted);
    let policy = rules!(tags: vec!["none".into()]);
    assert_eq!(kept(&policy, &snapshots), wanted.replace(", last 1", ""));
}

#[test]
fn rules_for_a_label_neither_count_nor_touch_others() {
    let mut snapshots = twice_a_day();
    for (place, snapshot) in snapshots.iter_mut().enumerate() {
        let label = if place % 2 == 0 { "morning" } else { "evening" };
        snapshot.label = Some(label.into());
    }
    snapshots[0].label = None;
    let morning = rules!(label: Some("morning".into()), last: some(2));
    let shown = kept(&morning, &snapshots);
    assert_eq!(shown.matches("no rule for it").count(), 7);
    assert!(
        shown.starts_with("2026-11-21 18:00: newest, no rule for it\n2026-11-21 06:00: last 1\n")
    );
    assert!(shown.contains("2026-11-20 06:00: last 2\n"));
    assert_eq!(forgotten(&morning, &snapshots).lines().count(), 3);

    let evening = rules!(label: Some("evening".into()), within: span("1d"));
    let wanted = "\
2026-11-21 18:00: newest, within 1d
2026-11-21 06:00: last 1
2026-11-20 06:00: last 2
2026-11-16 06:00: no rule for it
";
    assert_eq!(kept(&PolicySet(vec![morning, evening]), &snapshots), wanted);
    assert_eq!(
        kept(&PolicySet::default(), &snapshots)
            .matches("no rule for it")
            .count(),
        12
    );
}

#[test]
fn what_the_ledger_saw_counts_and_not_what_a_writer_claims() {
    let mut snapshots = twice_a_day();
    // Both writers lie; the ledger knows the truth of the first.
    let truth = snapshots[3].time;
    snapshots[3].first_seen = Some(truth);
    snapshots[3].time = "2026-11-21T20:00:00Z".parse().unwrap();
    snapshots[4].time = "2099-01-01T00:00:00Z".parse().unwrap();
    let reasons = |place: usize, policy: &KeepPolicy| {
        let decision = &decide(policy, &snapshots)[place];
        decision
            .reasons
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let daily = rules!(daily: Some(Count::All));
    assert_eq!(reasons(3, &daily), ["daily 2026-11-17"]);
    // One from the future is as new as now, so it does not empty the span of the others by more
    // than the time that has passed.
    assert_eq!(reasons(4, &daily), ["newest", "daily 2030-12-31"]);
    assert_eq!(reasons(11, &rules!(within: span("5y"))), ["within 5y"]);
}

#[test]
fn no_snapshots_no_decisions() {
    assert!(decide(&rules!(last: some(1)), &[]).is_empty());
}

#[test]
fn a_line_of_checkpoints_alone_keeps_them() {
    let mut snapshots = twice_a_day();
    snapshots
        .iter_mut()
        .for_each(|snapshot| snapshot.partial = true);
    let decisions = decide(&rules!(last: some(1)), &snapshots);
    assert!(
        decisions
            .iter()
            .all(|decision| decision.reasons == [Reason::Checkpoint])
    );
}
