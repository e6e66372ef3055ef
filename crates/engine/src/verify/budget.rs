//! A number of bytes that may be held at once.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long a wait lasts before the one who waits looks whether the run goes on.
pub(super) const LOOK_UP: Duration = Duration::from_millis(100);

/// Bytes that may be held at once. One holder is always let in, however much it wants: so nothing
/// is too large to be read, and at most one thing is larger than was allowed.
#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    used: Mutex<usize>,
    freed: Condvar,
}

/// Bytes that are held; given back when dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: Mutex::new(0),
            freed: Condvar::new(),
        })
    }

    pub(super) fn try_take(self: &Arc<Self>, bytes: usize) -> Option<Held> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if *used > 0 && used.saturating_add(bytes) > self.limit {
            return None;
        }
        *used = used.saturating_add(bytes);
        Some(Held {
            budget: self.clone(),
            bytes,
        })
    }

    /// Waits until something is given back, or for a moment.
    pub(super) fn wait_for(&self, bytes: usize) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        // What was given back since the last look woke nobody.
        if *used > 0 && used.saturating_add(bytes) > self.limit {
            drop(self.freed.wait_timeout(used, LOOK_UP));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let budget = &self.budget;
        let mut used = budget.used.lock().unwrap_or_else(PoisonError::into_inner);
        *used = used.saturating_sub(self.bytes);
        drop(used);
        budget.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_waits_and_what_is_alone_is_let_in() {
        let budget = Budget::new(10);
        let large = budget.try_take(25).unwrap();
        assert!(budget.try_take(1).is_none());
        drop(large);
        let small = budget.try_take(4).unwrap();
        assert!(budget.try_take(7).is_none());
        let rest = budget.try_take(6).unwrap();
        drop((small, rest));
        assert!(budget.try_take(25).is_some());
    }
}
