//! How long sessions that have no end have stood still, by what this host has seen itself.
//!
//! When a session says that it began tells nothing: whoever wrote it may have a wrong clock. So this host
//! remembers when it saw a session and which index runs of it there were. Each further look without a new run
//! adds the time since the last one, and at most half of what it takes to be taken for dead: a clock
//! that jumps once condemns nobody, and it takes three looks. A new run, which a writer that stores makes
//! at each checkpoint, sets it back to nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backup_core::{OpContext, SessionId};
use serde::{Deserialize, Serialize};

use crate::cache::make_folder;
use crate::repository::Repository;

/// Runs that are remembered of one session; a writer makes one at each of its checkpoints.
const MOST_RUNS: usize = 10_000;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    sessions: BTreeMap<String, Seen>,
}

/// What is remembered of a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Seen {
    /// When it was looked at last, in milliseconds since 1970.
    looked: i64,
    /// So long it has stood still, in milliseconds.
    still: u64,
    /// The index runs that it made and nobody else had a part in.
    runs: BTreeSet<String>,
}

/// The looks of this host.
pub(super) struct Watch {
    file: Option<PathBuf>,
    kept: Kept,
    now: i64,
}

impl Watch {
    /// What this host remembers. A file that cannot be read is as if there were none: then it is waited
    /// for longer.
    pub(super) fn open(repo: &Repository, cx: &OpContext) -> Self {
        let file = repo.state_file("sessions.json");
        let read = file.as_ref().and_then(|file| std::fs::read(file).ok());
        let kept = read.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            file,
            kept: kept.unwrap_or_default(),
            now: cx.clock.now().as_millisecond(),
        }
    }

    /// Whether a session with these index runs has stood still for so long.
    pub(super) fn is_still(
        &mut self,
        id: SessionId,
        mut runs: BTreeSet<String>,
        patience: Duration,
    ) -> bool {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let most = patience.div_ceil(2);
        while runs.len() > MOST_RUNS {
            runs.pop_first();
        }
        let known = self.kept.sessions.remove(&id.to_string());
        let still = match &known {
            Some(known) if runs.is_subset(&known.runs) => {
                let since = u64::try_from(self.now.saturating_sub(known.looked)).unwrap_or(0);
                known.still.saturating_add(since.min(most))
            }
            _ => 0,
        };
        // Runs that were merged meanwhile may show again in a list that lags behind.
        runs.extend(known.into_iter().flat_map(|known| known.runs));
        let seen = Seen {
            looked: self.now,
            still,
            runs,
        };
        self.kept.sessions.insert(id.to_string(), seen);
        still >= patience
    }

    /// Remembers the sessions that are open, and no others.
    ///
    /// # Errors
    /// What the operating system says: then the next run waits longer than it should.
    pub(super) fn keep(mut self, open: &BTreeSet<SessionId>) -> std::io::Result<()> {
        let Some(file) = self.file else { return Ok(()) };
        let open: BTreeSet<String> = open.iter().map(ToString::to_string).collect();
        self.kept.sessions.retain(|id, _| open.contains(id));
        if open.is_empty() && !file.exists() {
            return Ok(());
        }
        keep_in(&file, &self.kept)
    }
}

/// Writes what is remembered in place of what was. Of prunes at the same time the last one counts.
pub(super) fn keep_in(file: &Path, kept: &impl Serialize) -> std::io::Result<()> {
    let bytes = serde_json::to_vec(kept).map_err(std::io::Error::other)?;
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    make_folder(folder)?;
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    new.write_all(&bytes)?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const DAY: Duration = Duration::from_secs(86_400);

    fn at(watch: Watch, hours: i64) -> Watch {
        Watch {
            now: hours * HOUR,
            ..watch
        }
    }

    fn new() -> Watch {
        Watch {
            file: None,
            kept: Kept::default(),
            now: 0,
        }
    }

    fn runs(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn who_stands_still_for_long_enough_is_taken_for_dead() {
        let (id, mut watch) = (SessionId(7), new());
        for (hours, is_still) in [(0, false), (12, false), (23, false), (24, true)] {
            watch = at(watch, hours);
            assert_eq!(watch.is_still(id, runs(&["a"]), DAY), is_still, "{hours}");
        }
        assert!(!watch.is_still(SessionId(8), runs(&[]), DAY), "another");
        assert!(watch.is_still(SessionId(9), runs(&[]), Duration::ZERO));
    }

    #[test]
    fn a_clock_that_jumps_once_condemns_nobody() {
        for jump in [10_000_000, -10_000_000] {
            let (id, mut watch) = (SessionId(7), new());
            assert!(!watch.is_still(id, runs(&[]), DAY));
            for minute in 0..30 {
                watch = at(watch, jump + minute / 10);
                assert!(!watch.is_still(id, runs(&[]), DAY), "{jump}, {minute}");
            }
        }
    }

    #[test]
    fn who_makes_index_runs_works() {
        let (id, mut watch) = (SessionId(7), new());
        for day in 0..10i64 {
            watch = at(watch, day * 24);
            let made = format!("run {day}");
            assert!(!watch.is_still(id, runs(&[&made]), DAY), "{day}");
        }
        // That runs are merged away is no sign of life.
        for (day, is_still) in [(10, false), (11, true)] {
            watch = at(watch, day * 24);
            assert_eq!(watch.is_still(id, runs(&[]), DAY), is_still, "{day}");
        }
    }

    #[test]
    fn what_is_remembered_is_read_back_and_what_is_over_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("sessions.json");
        let mut watch = Watch {
            file: Some(file.clone()),
            ..new()
        };
        for id in [7, 8] {
            assert!(!watch.is_still(SessionId(id), runs(&["a"]), DAY));
        }
        watch.keep(&[SessionId(7)].into()).unwrap();
        let kept: Kept = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert_eq!(kept.sessions.len(), 1);
        let seen = &kept.sessions[&SessionId(7).to_string()];
        assert_eq!((seen.still, seen.runs.len()), (0, 1));
    }
}
