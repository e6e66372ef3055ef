//! How many requests are under way at once: fewer when the server says that it is too busy, slowly more again when
//! it answers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// So long all refusals count as one: they answer requests that were sent together.
const ONE_STORM: Duration = Duration::from_millis(500);

/// Nobody waits longer because a server asks for it.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Lets so many through at once.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    room: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
    most: usize,
}

#[derive(Debug)]
struct State {
    /// How many may be under way.
    limit: usize,
    /// How many permits are to be taken back as soon as they are given back.
    debt: usize,
    /// Good answers since the limit changed.
    good: usize,
    /// When the limit was last lowered.
    lowered: Option<Instant>,
    /// Nothing is sent before.
    not_before: Option<Instant>,
}

/// Leave to have a request under way.
#[derive(Debug)]
pub(crate) struct Pass {
    permit: Option<OwnedSemaphorePermit>,
    gate: Gate,
}

impl Gate {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            room: Arc::new(Semaphore::new(most)),
            state: Arc::new(Mutex::new(State {
                limit: most,
                debt: 0,
                good: 0,
                lowered: None,
                not_before: None,
            })),
            most,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for leave.
    pub(crate) async fn enter(&self) -> Pass {
        // The gate is never closed.
        let permit = self.room.clone().acquire_owned().await.ok();
        let until = self.state().not_before;
        if let Some(until) = until {
            tokio::time::sleep_until(until).await;
        }
        let gate = self.clone();
        Pass { permit, gate }
    }

    /// The server answered as it should.
    pub(crate) fn went_well(&self) {
        let mut state = self.state();
        state.good += 1;
        if state.limit < self.most && state.good >= 4 * state.limit {
            state.good = 0;
            state.limit += 1;
            if state.debt > 0 {
                state.debt -= 1;
            } else {
                self.room.add_permits(1);
            }
        }
    }

    /// The server is too busy, and wants a pause.
    pub(crate) fn was_refused(&self, pause: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(pause) = pause {
            let until = now + pause.min(LONGEST_PAUSE);
            state.not_before = Some(state.not_before.map_or(until, |set| set.max(until)));
        }
        state.good = 0;
        if state.lowered.is_some_and(|last| now - last < ONE_STORM) {
            return;
        }
        state.lowered = Some(now);
        let lower = state.limit.div_ceil(2);
        state.debt += state.limit - lower;
        state.limit = lower;
    }

    /// How many may be under way now.
    #[cfg(test)]
    pub(crate) fn limit(&self) -> usize {
        self.state().limit
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if state.debt > 0
            && let Some(permit) = self.permit.take()
        {
            state.debt -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_halve_what_is_under_way_and_answers_bring_it_back_slowly() {
        let gate = Gate::new(8);
        let passes = futures::future::join_all((0..8).map(|_| gate.enter())).await;
        gate.was_refused(None);
        gate.was_refused(None);
        assert_eq!(gate.limit(), 4, "one storm counts once");
        tokio::time::sleep(ONE_STORM).await;
        for _ in 0..3 {
            gate.was_refused(None);
            tokio::time::sleep(ONE_STORM).await;
        }
        assert_eq!(gate.limit(), 1, "one is always let through");
        drop(passes);
        let _one = gate.enter().await;
        let second = tokio::time::timeout(Duration::from_millis(50), gate.enter()).await;
        assert!(second.is_err(), "two are under way");
        for _ in 0..4 {
            gate.went_well();
        }
        assert_eq!(gate.limit(), 2);
        let second = tokio::time::timeout(Duration::from_millis(50), gate.enter()).await;
        assert!(second.is_ok());
        for _ in 0..1000 {
            gate.went_well();
        }
        assert_eq!(gate.limit(), 8);
    }

    #[tokio::test]
    async fn a_pause_that_the_server_asks_for_is_kept_but_not_for_ever() {
        let gate = Gate::new(2);
        gate.was_refused(Some(Duration::from_secs(1)));
        let begin = Instant::now();
        drop(gate.enter().await);
        assert!(begin.elapsed() >= Duration::from_millis(990));
        gate.was_refused(Some(Duration::from_hours(9)));
        let left = gate.state().not_before.unwrap() - Instant::now();
        assert!(left <= LONGEST_PAUSE);
    }
}
