//! Snapshots for tests, and decisions as text.
#![allow(dead_code, reason = "every test uses a part of it")]

use backup_core::{
    Decision, HostId, RetentionInput, RetentionPolicy, SnapshotId, SnapshotMeta, Verdict,
};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};

/// A snapshot of one line, at a time in UTC.
pub(crate) fn snapshot(time: Timestamp) -> SnapshotMeta {
    SnapshotMeta {
        id: SnapshotId::from_parts(u64::try_from(time.as_millisecond()).unwrap_or(0), [0; 10]),
        name: "files".into(),
        host: HostId("nas".into()),
        time,
        first_seen: None,
        tags: Vec::new(),
        label: None,
        held: false,
        partial: false,
        findings: 0,
        parent: None,
        stats: backup_core::SnapshotStats::default(),
    }
}

/// A moment written as `2026-11-21 04:00`, in a zone.
pub(crate) fn moment(text: &str, tz: &TimeZone) -> Timestamp {
    let civil: DateTime = text.replace(' ', "T").parse().unwrap();
    tz.to_timestamp(civil).unwrap()
}

/// Snapshots at times written as `2026-11-21 04:00`, in UTC.
pub(crate) fn at(times: &[&str]) -> Vec<SnapshotMeta> {
    times
        .iter()
        .map(|time| snapshot(moment(time, &TimeZone::UTC)))
        .collect()
}

/// Snapshots from one time on, every so many hours.
pub(crate) fn every(hours: i64, from: &str, count: usize) -> Vec<SnapshotMeta> {
    let start = moment(from, &TimeZone::UTC);
    let times = (0..i64::try_from(count).unwrap()).map(|n| start + (n * hours).hours());
    times.map(snapshot).collect()
}

/// What a policy decides, at the end of 2030, in UTC.
pub(crate) fn decide(policy: &dyn RetentionPolicy, snapshots: &[SnapshotMeta]) -> Vec<Decision> {
    decide_in(&TimeZone::UTC, policy, snapshots)
}

/// What a policy decides, at the end of 2030, in a zone.
pub(crate) fn decide_in(
    tz: &TimeZone,
    policy: &dyn RetentionPolicy,
    snapshots: &[SnapshotMeta],
) -> Vec<Decision> {
    let now = moment("2030-12-31 23:59", &TimeZone::UTC);
    let decisions = policy.decide(&RetentionInput { snapshots, now, tz });
    assert_eq!(decisions.len(), snapshots.len());
    for (decision, snapshot) in decisions.iter().zip(snapshots) {
        assert_eq!(decision.id, snapshot.id);
        assert!(!decision.reasons.is_empty());
    }
    decisions
}

/// What is kept, newest first, one line each: `2026-11-21 04:00: newest, daily 2026-11-21`.
pub(crate) fn kept(policy: &dyn RetentionPolicy, snapshots: &[SnapshotMeta]) -> String {
    table(&TimeZone::UTC, policy, snapshots, |decision| {
        decision.verdict == Verdict::Keep
    })
}

/// The same, times shown and slots begun in a zone.
pub(crate) fn kept_in(
    zone: &str,
    policy: &dyn RetentionPolicy,
    snapshots: &[SnapshotMeta],
) -> String {
    let tz = TimeZone::get(zone).unwrap();
    table(&tz, policy, snapshots, |decision| {
        decision.verdict == Verdict::Keep
    })
}

/// What is forgotten, newest first.
pub(crate) fn forgotten(policy: &dyn RetentionPolicy, snapshots: &[SnapshotMeta]) -> String {
    table(&TimeZone::UTC, policy, snapshots, |decision| {
        decision.verdict == Verdict::Forget
    })
}

fn table(
    tz: &TimeZone,
    policy: &dyn RetentionPolicy,
    snapshots: &[SnapshotMeta],
    wanted: impl Fn(&Decision) -> bool,
) -> String {
    let mut shown: Vec<(Timestamp, String)> = decide_in(tz, policy, snapshots)
        .iter()
        .zip(snapshots)
        .filter(|(decision, _)| wanted(decision))
        .map(|(decision, snapshot)| {
            let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
            let time = snapshot
                .time
                .to_zoned(tz.clone())
                .strftime("%F %H:%M")
                .to_string();
            (snapshot.time, format!("{time}: {}\n", reasons.join(", ")))
        })
        .collect();
    shown.sort();
    shown.into_iter().rev().map(|(_, line)| line).collect()
}
