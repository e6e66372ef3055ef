//! Chunks that were opened and of which more will be needed: a bundle of small files is longer than
//! a window, and its chunk would be fetched and opened for each window that it reaches into.
//!
//! Windows are worked on side by side. Whoever needs a chunk claims it; others that need it
//! meanwhile go on with what else they have and then wait for it, so that it is fetched once.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use backup_core::ChunkId;

/// Chunks that are kept, of some MiB each. Windows come in the order of paths, so it is mostly the
/// last chunk of one window that the next one needs.
const KEPT: usize = 6;

/// Chunks that are being opened, and those that are kept.
#[derive(Debug, Default)]
pub(super) struct Opened {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    busy: HashSet<ChunkId>,
    kept: VecDeque<(ChunkId, Arc<Vec<u8>>)>,
}

/// What is to be done about a chunk.
#[derive(Debug)]
pub(super) enum Claim<'a> {
    /// Nothing: here it is.
    Kept(Arc<Vec<u8>>),
    /// Somebody else is opening it.
    Busy,
    /// It is the caller's to open.
    Ours(Claimed<'a>),
}

/// A chunk that is the holder's to open; dropped when that is done, or failed.
#[derive(Debug)]
pub(super) struct Claimed<'a> {
    opened: &'a Opened,
    id: ChunkId,
}

impl Opened {
    /// Asks for a chunk.
    pub(super) fn claim(&self, id: ChunkId) -> Claim<'_> {
        self.claim_in(&mut self.lock(), id)
    }

    /// Asks for a chunk, and waits while somebody else is opening it.
    pub(super) fn wait(&self, id: ChunkId) -> Claim<'_> {
        let state = self.lock();
        let busy = |state: &mut State| state.busy.contains(&id);
        let waited = self.changed.wait_while(state, busy);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        self.claim_in(&mut state, id)
    }

    fn claim_in(&self, state: &mut State, id: ChunkId) -> Claim<'_> {
        let at = state.kept.iter().position(|(kept, _)| *kept == id);
        if let Some((id, plain)) = at.and_then(|at| state.kept.remove(at)) {
            // What changed in a file lies in one chunk for a long way: it must not be the first to go.
            state.kept.push_back((id, plain.clone()));
            Claim::Kept(plain)
        } else if state.busy.insert(id) {
            Claim::Ours(Claimed { opened: self, id })
        } else {
            Claim::Busy
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claimed<'_> {
    /// Keeps the opened chunk for others.
    pub(super) fn keep(self, plain: Arc<Vec<u8>>) {
        let mut state = self.opened.lock();
        if state.kept.len() >= KEPT {
            state.kept.pop_front();
        }
        state.kept.push_back((self.id, plain));
    }
}

impl Drop for Claimed<'_> {
    fn drop(&mut self) {
        self.opened.lock().busy.remove(&self.id);
        self.opened.changed.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    fn id(number: u8) -> ChunkId {
        ChunkId([number; 32])
    }

    #[test]
    fn whoever_comes_second_waits_and_finds_what_the_first_kept() {
        let opened = Opened::default();
        let Claim::Ours(claimed) = opened.claim(id(1)) else {
            panic!("nobody has it");
        };
        assert!(matches!(opened.claim(id(1)), Claim::Busy));
        std::thread::scope(|scope| {
            let second =
                scope.spawn(|| matches!(opened.wait(id(1)), Claim::Kept(plain) if *plain == [7]));
            claimed.keep(Arc::new(vec![7]));
            assert!(second.join().is_ok_and(|found| found));
        });
    }

    #[test]
    fn a_chunk_that_was_not_kept_is_the_next_ones_to_open() {
        let opened = Opened::default();
        drop(opened.claim(id(1)));
        assert!(matches!(opened.wait(id(1)), Claim::Ours(_)));
    }

    #[test]
    fn only_the_last_few_are_kept() {
        let opened = Opened::default();
        for number in 0..=KEPT as u8 {
            if let Claim::Ours(claimed) = opened.claim(id(number)) {
                claimed.keep(Arc::default());
            }
        }
        assert!(matches!(opened.claim(id(0)), Claim::Ours(_)));
        assert!(matches!(opened.claim(id(1)), Claim::Kept(_)));
    }

    #[test]
    fn what_was_needed_last_stays_longest() {
        let opened = Opened::default();
        let keep = |number: u8| {
            if let Claim::Ours(claimed) = opened.claim(id(number)) {
                claimed.keep(Arc::new(vec![number]));
            }
        };
        (0..KEPT as u8).for_each(keep);
        assert!(matches!(opened.claim(id(0)), Claim::Kept(_)));
        keep(KEPT as u8);
        assert!(matches!(opened.claim(id(0)), Claim::Kept(_)));
        assert!(matches!(opened.claim(id(1)), Claim::Ours(_)));
    }
}
