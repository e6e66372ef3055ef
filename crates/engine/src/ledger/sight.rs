//! When snapshots were made, as far as the ledger bears out what their writers claim.
//!
//! A writer whose clock is wrong, or that lies, can date its snapshots and its records as it likes. It cannot choose
//! their place in the chain: what stands before and behind them was written by others. So the time of a
//! snapshot is what its writer claims, moved as little as needed to lie
//!
//! - not before the records of its line (same name and host) that stand before its own,
//! - not behind its own record,
//! - and, whatever those say, between the records of the host that asks, which it trusts, before and
//!   behind its own, and not behind now by the clock of that host, unless its own records say that
//!   it is slow.
//!
//! What the host that asks has imported counts from when its record says that it was made: the operator's own word, on the host
//! that is trusted. What others say that they imported is bounded like all that they claim.
//!
//! What a copy has brought stands where it was copied, which tells nothing of when it was made: it counts from what its
//! writer claims, which is signed; or from what the ledger of the tier bore out that it came from, which the record of the copy
//! says: if another host than the one that asks has copied it, only as far as that is later. It lies before that record in
//! any case.
//!
//! A snapshot without a record has no place and gets no time: who decides about it must wait until its
//! host has recorded it. Nor does one that the host which it names did not sign: whoever holds the index key can
//! write both, the snapshot and its record, in the name of any host.

use std::collections::HashMap;

use async_recursion::async_recursion as boxed;
use backup_core::{HostId, OpContext, SnapshotId};
use backup_integrity::ledger::{Line, Op, Record};
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt as _;
use jiff::Timestamp;

use super::tier;
use crate::error::Result;
use crate::repository::{Repository, SnapshotHead};
use crate::view::check_signatures;

/// What the records of the host that asks say of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnClock {
    /// It has none.
    Unproven,
    /// None of them is of a later time.
    Right,
    /// It was later already.
    Slow(Timestamp),
}

impl OwnClock {
    fn of(own: &[Own], now: Timestamp) -> Self {
        match in_order(own).last() {
            None => Self::Unproven,
            Some(last) if last.time <= now => Self::Right,
            Some(last) => Self::Slow(last.time),
        }
    }
}

/// Sets [`backup_core::SnapshotMeta::first_seen`] of snapshots to when the ledger bears out that they
/// were made; to nothing for those that it does not know, or that their hosts did not sign. `host` is the one that asks; what
/// its records say of its clock is given back: by one that is slow nobody should decide what is old.
///
/// Memory: some 100 bytes for each snapshot, and 64 for each record of that host.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn first_seen(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    heads: &mut [SnapshotHead],
) -> Result<OwnClock> {
    let places = |(place, head): (usize, &SnapshotHead)| (head.meta.id, place);
    let signed = heads.iter().enumerate();
    let signed = signed.filter(|(_, head)| check_signatures(repo, head).is_ok());
    let places: HashMap<SnapshotId, usize> = signed.map(places).collect();
    let mut keys = Keys::new(repo);
    let (mut sights, mut own): (Vec<Sight>, Vec<Own>) = (Vec::new(), Vec::new());
    let mut seen = vec![false; heads.len()];
    let mut copied: HashMap<usize, (Sight, Option<Timestamp>)> = HashMap::new();
    let now = cx.clock.now();
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((number, found)) = lines.try_next().await? {
        // What cannot be read tells nothing; verification names it.
        let Ok(line) = tier::record(number, found) else {
            continue;
        };
        let genuine = keys.genuine(&line);
        let record = line.record();
        if genuine == Some(true) && record.host == *host {
            own.push(Own {
                number,
                time: record.time,
            });
        }
        let place = record.arrived().and_then(|id| places.get(&id).copied());
        if let Some(place) = place.filter(|_| genuine != Some(false))
            && let Some(head) = heads.get(place)
        {
            let sight = Sight {
                place,
                number,
                recorded: record.time,
                imported: claimed(record).filter(|_| genuine == Some(true) && record.host == *host),
            };
            if record.op == Op::COPY {
                let claimed = claimed(record).filter(|_| genuine == Some(true));
                // Another host's word dates nothing back.
                let least = if record.host == *host {
                    Timestamp::MIN
                } else {
                    head.meta.time
                };
                let claimed = claimed.map(|at| at.max(least));
                copied.entry(place).or_insert((sight, claimed));
            } else if head.meta.host == record.host
                && let Some(seen) = seen.get_mut(place)
                && !std::mem::replace(seen, true)
            {
                sights.push(sight);
            }
        }
    }
    // The word of the host that made it counts more than that of a copy.
    copied.retain(|place, _| seen.get(*place) == Some(&false));
    // Where nothing tells that the clock of the host that asks is right, it bounds nobody.
    let clock = OwnClock::of(&own, now);
    let latest = if clock == OwnClock::Right {
        now
    } else {
        Timestamp::MAX
    };
    own.retain(|record| record.time <= now);
    let own = in_order(&own);
    let mut lines: HashMap<(String, HostId), Timestamp> = HashMap::new();
    for head in heads.iter_mut() {
        head.meta.first_seen = None;
    }
    for sight in sights {
        let Some(head) = heads.get_mut(sight.place) else {
            continue;
        };
        let line = (head.meta.name.clone(), head.meta.host.clone());
        let after = lines.entry(line).or_insert(Timestamp::MIN);
        let mut at = head.meta.time.max(*after).min(sight.recorded);
        *after = sight.recorded.max(*after);
        if let Some(made) = sight.imported {
            head.meta.first_seen = Some(made.min(sight.recorded).min(latest));
            continue;
        }
        let behind = own.partition_point(|record| record.number <= sight.number);
        let before = behind.checked_sub(1).and_then(|last| own.get(last));
        if let Some(before) = before.filter(|before| before.number < sight.number) {
            at = at.max(before.time);
        }
        head.meta.first_seen = Some(no_later(at, sight.number, &own, latest));
    }
    for (sight, claimed) in copied.into_values() {
        let Some(head) = heads.get_mut(sight.place) else {
            continue;
        };
        let at = claimed.unwrap_or(head.meta.time).min(sight.recorded);
        head.meta.first_seen = Some(no_later(at, sight.number, &own, latest));
    }
    Ok(clock)
}

/// A time, moved to lie not behind what the host that asks recorded next behind a record, nor behind the latest that there is.
fn no_later(at: Timestamp, number: u64, own: &[Own], latest: Timestamp) -> Timestamp {
    let behind = own.partition_point(|record| record.number <= number);
    let next = own.get(behind).map_or(Timestamp::MAX, |next| next.time);
    at.min(next).min(latest)
}

/// The name under which the record of a copy says when the snapshot was made, in seconds since 1970.
pub(crate) const FIRST_SEEN: &str = "first-seen";

fn claimed(record: &Record) -> Option<Timestamp> {
    let seconds = record.counts.get(FIRST_SEEN)?;
    Timestamp::from_second(i64::try_from(*seconds).ok()?).ok()
}

/// The record of a snapshot.
struct Sight {
    /// Its place among the heads.
    place: usize,
    number: u64,
    recorded: Timestamp,
    /// When it was made, by the word of the host that asks, which has imported it.
    imported: Option<Timestamp>,
}

/// A record of the host that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Own {
    number: u64,
    time: Timestamp,
}

/// Of records in the order of the chain the most whose times are in order too: those of a while in which
/// the clock was wrong are passed over.
fn in_order(records: &[Own]) -> Vec<Own> {
    // `ends` holds for each length the place of the earliest end of an ordered row of that length.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(records.len());
    let time = |place: &usize| records.get(*place).map(|record| record.time);
    for (place, record) in records.iter().enumerate() {
        let length = ends.partition_point(|end| time(end) <= Some(record.time));
        before.push(length.checked_sub(1).and_then(|at| ends.get(at).copied()));
        match ends.get_mut(length) {
            Some(end) => *end = place,
            None => ends.push(place),
        }
    }
    let mut out = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied();
    while let Some(place) = at {
        out.extend(records.get(place));
        at = before.get(place).copied().flatten();
    }
    out.reverse();
    out
}

/// The keys of hosts, each derived once.
pub(super) struct Keys<'a> {
    repo: &'a Repository,
    known: HashMap<HostId, Option<HmacKey>>,
}

impl<'a> Keys<'a> {
    pub(super) fn new(repo: &'a Repository) -> Self {
        Self {
            repo,
            known: HashMap::new(),
        }
    }

    /// Whether the host of a record signed it; nothing where its key is not at hand.
    pub(super) fn genuine(&mut self, line: &Line) -> Option<bool> {
        let host = &line.record().host;
        if !self.known.contains_key(host) {
            let key = self.repo.keys().ledger_key(host).ok();
            let key = key.map(|key| HmacKey::new(*key.expose()));
            self.known.insert(host.clone(), key);
        }
        let key = self.known.get(host)?.as_ref()?;
        Some(line.verify_hmac(key).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_a_wrong_clock_are_passed_over() {
        let own = |times: &[i64]| -> Vec<Own> {
            let record = |(place, second): (usize, &i64)| Own {
                number: place as u64,
                time: Timestamp::from_second(*second).unwrap(),
            };
            times.iter().enumerate().map(record).collect()
        };
        let kept = |times: &[i64]| -> Vec<i64> {
            let kept = in_order(&own(times));
            kept.iter().map(|record| record.time.as_second()).collect()
        };
        assert_eq!(kept(&[]), [0i64; 0]);
        assert_eq!(kept(&[1, 2, 2, 3]), [1, 2, 2, 3]);
        assert_eq!(kept(&[1, 2, 99, 3, 4]), [1, 2, 3, 4]);
        assert_eq!(kept(&[10, 20, 0, 30, 40]), [10, 20, 30, 40]);
        assert_eq!(kept(&[50, 1, 2, 3]), [1, 2, 3]);
    }
}
