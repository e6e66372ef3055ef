//! Naming snapshots: which one a text means.
//!
//! A snapshot that cannot be read may be the one that is meant. Where it may, nothing is chosen: an
//! older one in its place, without a word, would be the wrong one to restore and the wrong one to
//! hold or forget.

use backup_core::SnapshotId;

use crate::error::{EngineError, Result};
use crate::ledger::{Rivals, is_named};
use crate::repository::{SnapshotHead, UnreadSnapshot};

/// Characters of an id that are enough to be one: fewer would be met by chance.
pub const LEAST_OF_ID: usize = 4;

/// Which snapshot a text means: an id, the beginning or the end of one, `latest`, `latest:NAME`,
/// `latest:HOST:NAME`, or a time (the newest not after it).
///
/// # Errors
/// [`EngineError::NoSnapshot`], [`EngineError::Ambiguous`]; [`EngineError::SeveralHosts`] for the
/// name that snapshots of several hosts have; [`EngineError::Unsure`] when one of those that cannot
/// be read may be meant.
pub fn select<'a>(
    heads: &'a [SnapshotHead],
    unread: &[UnreadSnapshot],
    spec: &str,
) -> Result<&'a SnapshotHead> {
    let mut complete = heads.iter().rev().filter(|head| !head.meta.partial);
    if spec == "latest" {
        return newest(complete.next(), unread, spec);
    }
    if let Some(line) = spec.strip_prefix("latest:") {
        return newest(in_line(complete, line, spec)?, unread, spec);
    }
    let wanted = spec.to_ascii_uppercase();
    let is_meant = |id| wanted.len() >= LEAST_OF_ID && is_named(id, &wanted);
    let matching: Vec<_> = heads.iter().filter(|head| is_meant(head.meta.id)).collect();
    let lost: Vec<_> = unread.iter().filter(|one| is_meant(one.id)).collect();
    match (&matching[..], &lost[..]) {
        ([one], []) => return Ok(one),
        ([], [one]) => return Err(unsure(spec, one)),
        ([], []) => {}
        _ => {
            return Err(EngineError::Ambiguous {
                spec: spec.to_owned(),
                count: matching.len() + lost.len(),
            });
        }
    }
    match spec.parse::<jiff::Timestamp>() {
        Ok(time) => newest(complete.find(|head| head.meta.time <= time), unread, spec),
        Err(_) => Err(EngineError::NoSnapshot(spec.to_owned())),
    }
}

/// Which snapshots that are not there could have been meant by a text that chose one of those that
/// are; none by a text that names it.
#[must_use]
pub fn rivals(spec: &str, chosen: &SnapshotHead) -> Option<Rivals> {
    let since = chosen.meta.time;
    if spec == "latest" {
        return Some(Rivals {
            since,
            ..Rivals::ALL
        });
    }
    if spec.starts_with("latest:") {
        return Some(Rivals {
            host: Some(chosen.meta.host.clone()),
            since,
            ..Rivals::ALL
        });
    }
    // The beginning or the end of an id is no time.
    let until = spec.parse().ok()?;
    Some(Rivals {
        since,
        until: Some(until),
        ..Rivals::ALL
    })
}

/// Which snapshots that are not there could have been meant by a text that means none of those that are;
/// none by one that can be no id either.
#[must_use]
pub fn rivals_of_none(spec: &str) -> Option<Rivals> {
    if spec == "latest" || spec.starts_with("latest:") {
        return Some(Rivals::ALL);
    }
    if let Ok(until) = spec.parse() {
        return Some(Rivals {
            until: Some(until),
            ..Rivals::ALL
        });
    }
    let may_be_id =
        spec.len() >= LEAST_OF_ID && spec.bytes().all(|byte| byte.is_ascii_alphanumeric());
    may_be_id.then(|| Rivals {
        id: Some(spec.to_ascii_uppercase()),
        // A whole id tells when its snapshot was begun: older records need not be read.
        since: spec.parse().map_or(jiff::Timestamp::MIN, begun),
        ..Rivals::ALL
    })
}

fn begun(id: SnapshotId) -> jiff::Timestamp {
    let millis = i64::try_from(id.millis()).ok();
    let begun = millis.and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    begun.unwrap_or(jiff::Timestamp::MIN)
}

/// The newest of a name, or of a host and a name. Two hosts may well give one name to different
/// things: the newest of both would be the wrong one half of the time.
fn in_line<'a>(
    newest_first: impl Iterator<Item = &'a SnapshotHead>,
    line: &str,
    spec: &str,
) -> Result<Option<&'a SnapshotHead>> {
    let (mut named, mut hosted) = (Vec::<&SnapshotHead>::new(), None);
    for head in newest_first {
        let (host, name) = (head.meta.host.0.as_str(), head.meta.name.as_str());
        if name == line && !named.iter().any(|other| other.meta.host.0 == host) {
            named.push(head);
        }
        let rest = line.strip_prefix(host);
        if hosted.is_none() && rest.and_then(|rest| rest.strip_prefix(':')) == Some(name) {
            hosted = Some(head);
        }
    }
    match &named[..] {
        [] => Ok(hosted),
        [one] => Ok(Some(one)),
        [..] => Err(EngineError::SeveralHosts {
            spec: spec.to_owned(),
            hosts: named.iter().map(|head| head.meta.host.0.clone()).collect(),
        }),
    }
}

/// The newest that can be read, unless one that cannot be read may be newer. An id tells when its
/// snapshot was begun, to the millisecond, as its time does: whatever was begun with the one that is found or
/// behind it may be newer.
fn newest<'a>(
    found: Option<&'a SnapshotHead>,
    unread: &[UnreadSnapshot],
    spec: &str,
) -> Result<&'a SnapshotHead> {
    let begun = found.map_or(i64::MIN, |head| head.meta.time.as_millisecond());
    let is_newer = |one: &&UnreadSnapshot| i64::try_from(one.id.millis()).unwrap_or(0) >= begun;
    match unread.iter().filter(is_newer).max_by_key(|one| one.id) {
        Some(one) => Err(unsure(spec, one)),
        None => found.ok_or_else(|| EngineError::NoSnapshot(spec.to_owned())),
    }
}

fn unsure(spec: &str, one: &UnreadSnapshot) -> EngineError {
    EngineError::Unsure {
        spec: spec.to_owned(),
        id: one.id,
        why: one.error.to_string(),
    }
}
