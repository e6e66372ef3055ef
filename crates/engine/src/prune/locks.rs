//! Locks of what is there, made longer before they end.
//!
//! Where a tier locks what is put for some time ([`backup_core::SinkCaps::lock`]), a lock ends that long after the put, also
//! that of a pack which snapshots still use. So a prune locks what it leaves once more, as if it were put now. That takes a
//! request for each object, so it is due once half of the time is over: whoever prunes at least that often has nothing on
//! the tier that is not locked.
//!
//! When the last round began, and for how long it locked, this host remembers of each place. No word of the tier counts:
//! whoever can write there could call a round done that nobody made. A host that knows of none makes one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use backup_core::context::{Event, Stage};
use backup_core::{ErrorKind, Finding, FindingKind, ObjectKey, OpContext, Severity, SinkError};
use backup_format::layout;
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::watch::keep_in;
use crate::error::{EngineError, Result};
use crate::repository::Repository;

/// What is remembered: the last round of each place, by its location.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    places: BTreeMap<String, Round>,
}

/// A round that came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Round {
    /// When it began, in milliseconds since 1970.
    began: i64,
    /// For how long it locked, in seconds.
    lock: u64,
}

impl Round {
    /// Whether the next one is due.
    fn is_over(self, now: Timestamp, lock: Duration) -> bool {
        let since = now.as_millisecond().saturating_sub(self.began);
        let Ok(since) = u64::try_from(since) else {
            // A clock was wrong then or is now.
            return true;
        };
        self.lock < lock.as_secs() || Duration::from_millis(since) >= lock / 2
    }
}

/// What was locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locked {
    /// Objects.
    pub objects: u64,
    /// Until when they are locked at least.
    pub until: Timestamp,
}

/// Makes locks longer, if the tier has any and it is time.
///
/// # Errors
/// [`EngineError::Cancelled`]. What the tier does not do is a finding, and the next prune tries again.
pub(super) async fn extend(
    repo: &Repository,
    cx: &OpContext,
    findings: &mut Vec<Finding>,
) -> Result<Option<Locked>> {
    let info = repo.sink().info();
    let Some(lock) = info.caps.lock else {
        return Ok(None);
    };
    let file = repo.state_file("locks.json");
    let mut kept = read(file.as_ref());
    let began = cx.clock.now();
    let last = kept.places.get(&info.location);
    if last.is_some_and(|last| !last.is_over(began, lock)) {
        return Ok(None);
    }
    let objects = match lock_all(repo, cx, began, info.caps.connections).await {
        Ok(objects) => objects,
        Err(_) if cx.cancel.is_cancelled() => return Err(EngineError::Cancelled),
        Err(error) => {
            let detail = format!(
                "locks of what is in use could not be made to last longer, and the first may end {} after the last round: {error}; the next prune tries again",
                words(lock)
            );
            findings.push(degraded("the tier", detail));
            return Ok(None);
        }
    };
    let round = Round {
        began: began.as_millisecond(),
        lock: lock.as_secs(),
    };
    kept.places.insert(info.location, round);
    if let Some(file) = &file
        && let Err(error) = keep_in(file, &kept)
    {
        let detail = format!(
            "that locks were made to last longer cannot be remembered, so the next prune does it again: {error}"
        );
        findings.push(degraded("the state folder", detail));
    }
    let until = began.saturating_add(lock).unwrap_or(Timestamp::MAX);
    Ok(Some(Locked { objects, until }))
}

fn degraded(subject: &str, detail: String) -> Finding {
    Finding::new(Severity::Warning, FindingKind::Degraded, subject, detail)
}

fn words(lock: Duration) -> String {
    format!("{} days", lock.as_secs() / 86_400)
}

/// A file that cannot be read is as if there were none.
fn read(file: Option<&PathBuf>) -> Kept {
    let read = file.and_then(|file| std::fs::read(file).ok());
    let kept = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    kept.unwrap_or_default()
}

/// All objects but strangers. What is condemned and waits for a session is locked as well: whether it is used is known only
/// once it is decided.
async fn lock_all(
    repo: &Repository,
    cx: &OpContext,
    from: Timestamp,
    connections: usize,
) -> std::result::Result<u64, SinkError> {
    let (stage, bytes) = (Stage::Record, None);
    cx.tell(Event::Entered {
        stage,
        entries: None,
        bytes,
    });
    let sink = repo.sink();
    let listed = sink.list(cx, "", None);
    let is_ours = |key: &ObjectKey| layout::is_object(key) || layout::is_slot(key);
    let ours = listed.try_filter(move |meta| std::future::ready(is_ours(&meta.key)));
    let locked = ours.map_ok(|meta| async move {
        match sink.extend_lock(cx, &meta.key, from).await {
            Ok(()) => Ok(1),
            // Forgotten or pruned by somebody else meanwhile.
            Err(error) if error.kind == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    });
    let locked = locked.try_buffer_unordered(connections.clamp(1, 64));
    let objects = locked.try_fold(0, |sum, one| {
        cx.tell(Event::Advanced {
            stage,
            entries: one,
            bytes: 0,
        });
        std::future::ready(Ok(sum + one))
    });
    let objects = objects.await?;
    cx.tell(Event::Left(stage));
    Ok(objects)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_is_due_after_half_of_the_time_or_where_it_tells_nothing() {
        let day = Duration::from_hours(24);
        let at = |days: i64| Timestamp::from_second(days * 86_400).unwrap();
        let round = Round {
            began: at(100).as_millisecond(),
            lock: (30 * day).as_secs(),
        };
        let is_over = |days, lock: u32| round.is_over(at(days), lock * day);
        assert!(!is_over(100, 30) && !is_over(114, 30) && is_over(115, 30));
        // What was put since is locked for less; what was locked then, for too short a time.
        assert!(!is_over(104, 10) && is_over(105, 10) && is_over(100, 31));
        // It would begin in the future.
        assert!(is_over(99, 30));
    }
}
