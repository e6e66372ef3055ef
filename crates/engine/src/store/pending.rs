//! Counting work that is under way, and waiting until there is none.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use backup_core::CancellationToken;

/// A count of things under way.
#[derive(Debug, Default)]
pub struct Pending {
    count: Mutex<usize>,
    idle: Condvar,
}

impl Pending {
    /// More is under way.
    pub fn add(&self, more: usize) {
        *self.count.lock().unwrap_or_else(PoisonError::into_inner) += more;
    }

    /// Some of it is done.
    pub fn done(&self, less: usize) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(less);
        if *count == 0 {
            self.idle.notify_all();
        }
    }

    /// Wakes whoever waits, to look whether the work was stopped.
    pub fn wake(&self) {
        self.idle.notify_all();
    }

    /// Waits until nothing is under way, or the work was stopped.
    pub fn wait(&self, stop: &CancellationToken) {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        while *count > 0 && !stop.is_cancelled() {
            // A cancellation from outside does not notify: look again now and then.
            let pause = Duration::from_millis(100);
            let woken = self.idle.wait_timeout(count, pause);
            count = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
