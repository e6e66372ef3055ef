//! Of each day, week, month … the newest.
#![allow(clippy::unwrap_used, reason = "a test")]

use backup_core::{HostId, RetentionInput, SnapshotMeta};
use backup_retention::{NewestPer, WeekStart, newest_per};
use jiff::tz::TimeZone;
use series::{at, every, moment};

mod series;

/// The times of what these rules take, oldest first.
fn taken(rules: &[&str], snapshots: &[SnapshotMeta], week_start: WeekStart) -> Vec<String> {
    let rules: Vec<NewestPer> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    let input = RetentionInput {
        snapshots,
        now: moment("2030-12-31 23:59", &TimeZone::UTC),
        tz: &TimeZone::UTC,
    };
    let taken = newest_per(&input, &rules, week_start);
    let mut out: Vec<String> = snapshots
        .iter()
        .filter(|one| taken.contains(&one.id))
        .map(|one| one.time.strftime("%F %H").to_string())
        .collect();
    out.sort();
    out
}

#[test]
fn of_each_slot_the_newest_is_taken_and_nothing_else() {
    let monday = WeekStart::Monday;
    let all = every(12, "2026-11-16 06:00", 20);
    let weeks = ["2026-11-22 18", "2026-11-25 18"];
    assert_eq!(taken(&["week"], &all, monday), weeks);
    assert_eq!(taken(&["week=1"], &all, monday), weeks[1..]);
    assert_eq!(taken(&["day=2"], &all, monday), ["2026-11-24 18", weeks[1]]);
    assert_eq!(taken(&["hour"], &all, monday).len(), 20);
    assert_eq!(taken(&["year", "month=3"], &all, monday), weeks[1..]);
    assert_eq!(
        taken(&["week", "day=2"], &all, monday),
        [weeks[0], "2026-11-24 18", weeks[1]]
    );
    assert_eq!(
        taken(&["week"], &all, WeekStart::Sunday),
        ["2026-11-21 18", weeks[1]]
    );
    assert_eq!(taken(&[], &all, monday), [""; 0]);
}

#[test]
fn lines_count_by_themselves_and_checkpoints_not_at_all() {
    let mut all = at(&["2026-11-20 01:00", "2026-11-20 02:00", "2026-11-20 03:00"]);
    all[2].partial = true;
    assert_eq!(taken(&["day"], &all, WeekStart::Monday), ["2026-11-20 02"]);
    all[0].host = HostId("other".into());
    let both = ["2026-11-20 01", "2026-11-20 02"];
    assert_eq!(taken(&["day"], &all, WeekStart::Monday), both);
}

/// Whoever dates a snapshot ahead must not take the slot of an honest one.
#[test]
fn slots_go_by_when_the_ledger_saw_a_snapshot_first() {
    let mut all = at(&["2026-11-20 01:00", "2026-12-20 02:00"]);
    all[1].first_seen = Some(moment("2026-11-20 00:30", &TimeZone::UTC));
    assert_eq!(taken(&["day"], &all, WeekStart::Monday), ["2026-11-20 01"]);
}

#[test]
fn a_rule_that_there_is_not_is_named() {
    for wrong in [
        "",
        "weeks",
        "week=",
        "week=0",
        "week=-1",
        "fortnight=2",
        "=3",
    ] {
        let error = wrong.parse::<NewestPer>().unwrap_err().to_string();
        assert!(error.contains("week=8"), "{error}");
    }
}
