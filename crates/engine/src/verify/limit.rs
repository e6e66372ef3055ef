//! How much a verification may read: a time, or a number of bytes. One half is for manifests and for
//! contents that nobody has hashed yet, and what is left of it, with the other half, for packs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes a second at which a content is thought to be hashed, at least.
const HASHED_A_SECOND: u64 = 256 << 20;

/// How much one run reads; the next goes on where it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBudget {
    /// So long.
    Time(Duration),
    /// So many bytes of packs.
    Bytes(u64),
}

/// What is left of a budget.
#[derive(Debug)]
pub(super) struct Limit {
    begun: Instant,
    budget: Option<ReadBudget>,
    /// Bytes of packs that were read, or are about to be.
    read: AtomicU64,
    /// Whether a pack was read for its own sake.
    has_begun: AtomicBool,
    /// Bytes of contents that are hashed.
    hashed: AtomicU64,
    /// Contents are hashed until they have so many bytes, if nothing else ends it.
    most_hashed: u64,
}

impl Limit {
    pub(super) fn new(budget: Option<ReadBudget>, most_hashed: u64) -> Self {
        Self {
            begun: Instant::now(),
            budget,
            read: AtomicU64::new(0),
            has_begun: AtomicBool::new(false),
            hashed: AtomicU64::new(0),
            most_hashed,
        }
    }

    /// Whether there is one.
    pub(super) const fn is_set(&self) -> bool {
        self.budget.is_some()
    }

    fn read(&self) -> u64 {
        self.read.load(Ordering::Relaxed)
    }

    /// Counts bytes that are read.
    pub(super) fn add(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Whether a pack of this size is still to be read, which is then counted. The first one is in any
    /// case, or no run would get anywhere.
    pub(super) fn takes_pack(&self, size: u64) -> bool {
        let before = self.read.fetch_add(size, Ordering::Relaxed);
        let is_first = !self.has_begun.swap(true, Ordering::Relaxed);
        let takes = match self.budget {
            None => true,
            _ if is_first => true,
            Some(ReadBudget::Time(most)) => self.begun.elapsed() < most,
            Some(ReadBudget::Bytes(most)) => before.saturating_add(size) <= most,
        };
        if !takes {
            self.read.fetch_sub(size, Ordering::Relaxed);
        }
        takes
    }

    /// Whether there is time to walk one more manifest.
    pub(super) fn walks(&self) -> bool {
        match self.budget {
            Some(ReadBudget::Time(most)) => self.begun.elapsed() < most / 2,
            _ => true,
        }
    }

    /// Counts a content that is hashed in any case.
    pub(super) fn add_content(&self, size: u64) {
        self.hashed.fetch_add(size, Ordering::Relaxed);
    }

    /// Whether a content of this size is hashed in this run; then it is counted. One that will not be
    /// remembered is as good now as later.
    pub(super) fn takes_content(&self, size: u64, is_remembered: bool) -> bool {
        let hashed = self.hashed.load(Ordering::Relaxed);
        // One is hashed in any case, however large it is.
        let is_allowed = hashed == 0 || hashed.saturating_add(size) <= self.most_hashed;
        let takes = (is_allowed || !is_remembered)
            && match self.budget {
                None => true,
                Some(ReadBudget::Time(most)) => {
                    let left = (most / 2).saturating_sub(self.begun.elapsed());
                    let most = u128::from(HASHED_A_SECOND) * left.as_millis() / 1000;
                    u128::from(size) <= most
                }
                Some(ReadBudget::Bytes(most)) => {
                    let spent = hashed.max(self.read());
                    spent.saturating_add(size) <= most / 2
                }
            };
        if takes {
            self.hashed.fetch_add(size, Ordering::Relaxed);
        }
        takes
    }

    /// Whether what is under way is to be given up.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.budget, Some(ReadBudget::Time(most)) if self.begun.elapsed() >= most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_kept_to_and_the_first_pack_is_let_in() {
        let limit = Limit::new(Some(ReadBudget::Bytes(100)), u64::MAX);
        assert!(limit.takes_pack(1000), "or nothing would ever be read");
        assert!(!limit.takes_pack(1));
        let limit = Limit::new(Some(ReadBudget::Bytes(100)), u64::MAX);
        assert!(limit.takes_content(50, true) && !limit.takes_content(1, true));
        limit.add(60);
        assert!(
            limit.takes_pack(5),
            "what files need does not keep packs from their turn"
        );
        assert!(!limit.takes_pack(36) && limit.takes_pack(35));
    }

    #[test]
    fn no_time_is_enough_for_one_pack() {
        let limit = Limit::new(Some(ReadBudget::Time(Duration::ZERO)), u64::MAX);
        assert!(limit.takes_pack(5) && !limit.takes_pack(5));
        assert!(!limit.takes_content(1, true) && !limit.walks() && limit.is_over());
    }

    #[test]
    fn contents_are_hashed_until_there_are_so_many_bytes() {
        let limit = Limit::new(None, 10);
        assert!(
            limit.takes_content(9, true)
                && !limit.takes_content(2, true)
                && limit.takes_content(1, true)
        );
        assert!(limit.takes_content(9, false), "later it would be no other");
        assert!(
            Limit::new(None, 10).takes_content(99, true),
            "or it would never be"
        );
        assert!(limit.takes_pack(u64::MAX / 2) && limit.walks() && !limit.is_over());
    }
}
