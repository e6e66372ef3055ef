//! How many files are begun and not finished: they are open, and a process may open only so many.
//!
//! Windows alone bound nothing: on a slow target each worker is at one, others are queued, and a file
//! stays open until the last of its parts is written. So whoever begins files counts them, and at
//! the bound sends off what it has collected and waits. All parts of all begun files are under way
//! then, so the wait ends.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use super::window::WINDOW_FILES;

/// Descriptors for what has nothing to do with the files that are restored: the tier's objects, the
/// runtime, standard streams.
const OTHERS: u64 = 96;
/// Descriptors of a begun file: its own, that of the file that it is to replace, and its share of
/// the folders.
const EACH: u64 = 3;
/// With so few files at once it goes on, however low the limit: then it may be one that is too low.
const FEWEST: usize = 16;
/// After so long whoever waits looks whether the restore goes on at all.
const LOOKS: Duration = Duration::from_millis(200);

/// The files that are begun and not finished.
#[derive(Debug)]
pub(super) struct Begun {
    most: usize,
    count: Mutex<usize>,
    fewer: Condvar,
}

impl Begun {
    /// As many as this process may have open, but not more than fill so many windows.
    pub(super) fn of_this_process(windows: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        Self {
            most: most(limit, windows),
            count: Mutex::default(),
            fewer: Condvar::new(),
        }
    }

    /// Files of a window: several windows must fit, or only one worker had something to do.
    pub(super) const fn batch(&self) -> usize {
        let quarter = self.most / 4;
        if quarter < WINDOW_FILES {
            quarter
        } else {
            WINDOW_FILES
        }
    }

    /// Whether one more may be begun.
    pub(super) fn has_room(&self) -> bool {
        *self.lock() < self.most
    }

    /// A file was begun.
    pub(super) fn one_more(&self) {
        *self.lock() += 1;
    }

    /// A begun file was finished.
    pub(super) fn one_less(&self) {
        let mut count = self.lock();
        *count = count.saturating_sub(1);
        self.fewer.notify_all();
    }

    /// Waits a while for room for a whole window, since one of a single file would be fetched for it
    /// alone; says whether there is.
    pub(super) fn wait(&self) -> bool {
        let room = self.most - self.batch();
        let waited = (self.fewer).wait_timeout_while(self.lock(), LOOKS, |count| *count > room);
        let waited = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.1.timed_out()
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many files may be begun under a limit of open files (none: it has no bound).
fn most(limit: Option<u64>, windows: usize) -> usize {
    let full = windows.saturating_mul(WINDOW_FILES).max(FEWEST);
    let within = limit.map_or(u64::MAX, |limit| limit.saturating_sub(OTHERS) / EACH);
    usize::try_from(within)
        .unwrap_or(usize::MAX)
        .clamp(FEWEST, full)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_follows_from_the_limit_and_the_workers() {
        assert_eq!(most(Some(0), 5), 16);
        assert_eq!(most(Some(128), 5), 16);
        assert_eq!(most(Some(256), 5), 53);
        assert_eq!(most(Some(1024), 19), 309);
        assert_eq!(most(Some(65_536), 5), 640);
        assert_eq!(most(None, 19), 2432);
    }
}
