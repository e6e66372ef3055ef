//! A clock that stands where a test puts it.

use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{Clock, OpContext};
use jiff::{SignedDuration, Timestamp};

/// A clock that a test sets, moves and lets tick; it never moves by itself.
///
/// Clones show the same time.
#[derive(Debug, Clone)]
pub struct TestClock {
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    now: Timestamp,
    tick: SignedDuration,
}

impl TestClock {
    /// A clock that stands at `now`.
    #[must_use]
    pub fn at(now: Timestamp) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                now,
                tick: SignedDuration::ZERO,
            })),
        }
    }

    /// A clock that stands at a time written as RFC 3339: `2026-11-21T04:00:00Z`.
    ///
    /// # Panics
    /// When the text is not a time.
    #[must_use]
    pub fn at_text(now: &str) -> Self {
        match now.parse() {
            Ok(now) => Self::at(now),
            Err(error) => panic!("{now}: {error}"),
        }
    }

    /// The same clock, which moves on by `tick` each time it is read.
    #[must_use]
    pub fn ticking(self, tick: SignedDuration) -> Self {
        self.with(|state| state.tick = tick);
        self
    }

    /// Puts the clock to `now`, forward or back.
    pub fn set(&self, now: Timestamp) {
        self.with(|state| state.now = now);
    }

    /// Moves the clock by `span`, which may be negative; it stops at the ends of time.
    pub fn advance(&self, span: SignedDuration) {
        self.with(|state| state.now = state.moved(span));
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn moved(&self, span: SignedDuration) -> Timestamp {
        let end = if span.is_negative() {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        };
        self.now.checked_add(span).unwrap_or(end)
    }
}

impl Default for TestClock {
    /// A clock that stands at 2026-01-01, midnight in UTC.
    fn default() -> Self {
        Self::at(Timestamp::constant(1_767_225_600, 0))
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.with(|state| {
            let now = state.now;
            state.now = state.moved(state.tick);
            now
        })
    }
}

/// Surroundings with nobody watching, default limits and a [`TestClock`] that stands still.
#[must_use]
pub fn context() -> OpContext {
    OpContext::new(Arc::new(TestClock::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_stands_until_it_is_moved() {
        let clock = TestClock::at_text("2026-03-01T00:00:00Z");
        assert_eq!(clock.now(), clock.now());
        clock.clone().advance(SignedDuration::from_hours(-24));
        assert_eq!(clock.now().to_string(), "2026-02-28T00:00:00Z");
        clock.set(Timestamp::MAX);
        clock.advance(SignedDuration::from_hours(1));
        assert_eq!(clock.now(), Timestamp::MAX);
    }

    #[test]
    fn a_ticking_clock_never_shows_the_same_time_twice() {
        let clock = TestClock::default().ticking(SignedDuration::from_secs(1));
        let first = clock.now();
        assert_eq!(
            clock.now().duration_since(first),
            SignedDuration::from_secs(1)
        );
        assert_eq!(
            TestClock::default().now().to_string(),
            "2026-01-01T00:00:00Z"
        );
    }
}
