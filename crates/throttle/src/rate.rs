//! A bucket of bytes that fills at a rate, for any number of transfers at once.

use std::fmt;
use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// So long the bucket fills while nobody takes from it.
const FULL: Duration = Duration::from_secs(1);
/// The largest slice in bytes.
const MOST_AT_ONCE: u64 = 256 << 10;
/// So many slices are taken in a second at least, so that others come in between.
const SLICES: u64 = 10;

/// So many bytes a second, shared by whoever takes from it.
pub struct Rate {
    /// In bytes a second.
    limit: NonZeroU64,
    /// Up to when all that was taken is paid for; nothing before the first.
    paid: Mutex<Option<Instant>>,
}

impl fmt::Debug for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rate({} bytes a second)", self.limit)
    }
}

impl Rate {
    /// A rate in bytes a second. The bucket is empty at first.
    #[must_use]
    pub const fn new(limit: NonZeroU64) -> Self {
        Self {
            limit,
            paid: Mutex::new(None),
        }
    }

    /// Waits until so many bytes may pass. Several that wait take turns, slice by slice. Whoever lets it drop gives
    /// back what it did not wait for but for one slice.
    pub async fn take(&self, bytes: u64) {
        let most = (self.limit.get() / SLICES).clamp(1, MOST_AT_ONCE);
        let mut left = bytes;
        while left > 0 {
            let slice = left.min(most);
            sleep_until(self.next(slice)).await;
            left -= slice;
        }
    }

    /// Takes a slice; says when it may pass.
    fn next(&self, slice: u64) -> Instant {
        let now = Instant::now();
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // What was not used for longer than that is gone.
        let since = match *paid {
            Some(paid) => now.checked_sub(FULL).map_or(paid, |full| paid.max(full)),
            None => now,
        };
        let until = since + self.time_of(slice);
        *paid = Some(until);
        until
    }

    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.limit.get());
        // A slice takes at most a tenth of a second, or a second for each byte.
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn rate(limit: u64) -> Arc<Rate> {
        Arc::new(Rate::new(NonZeroU64::new(limit).unwrap()))
    }

    fn assert_about(took: Duration, seconds: f64) {
        let took = took.as_secs_f64();
        assert!(
            (took - seconds).abs() < 0.02 * seconds + 0.01,
            "{took} and not {seconds}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_their_time() {
        for limit in [1, 1000, 2 << 20, 1 << 30] {
            let rate = rate(limit);
            let began = Instant::now();
            rate.take(limit * 10).await;
            assert_about(began.elapsed(), 10.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn parallel_transfers_share_the_rate_and_take_turns() {
        let rate = rate(1 << 20);
        let began = Instant::now();
        let take = |bytes: u64| {
            let rate = rate.clone();
            tokio::spawn(async move {
                rate.take(bytes).await;
                Instant::now()
            })
        };
        let large = [take(16 << 20), take(16 << 20)];
        tokio::time::sleep(Duration::from_secs(5)).await;
        let asked = Instant::now();
        let small = take(4 << 10).await.unwrap();
        // It waited for a slice of each, and not for 27 MiB.
        assert!(
            small - asked < Duration::from_secs(1),
            "{:?}",
            small - asked
        );
        let mut last = began;
        for one in large {
            last = last.max(one.await.unwrap());
        }
        assert_about(last - began, 32.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_left_unused_is_made_up_for_one_second_only() {
        let rate = rate(1 << 20);
        rate.take(1 << 20).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let began = Instant::now();
        rate.take(10 << 20).await;
        assert_about(began.elapsed(), 9.0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_goes_away_takes_no_more_than_a_slice_along() {
        let rate = rate(1 << 20);
        let gone = rate.take(1 << 30);
        let gone = tokio::time::timeout(Duration::from_secs(2), gone).await;
        assert!(gone.is_err());
        let began = Instant::now();
        rate.take(1 << 20).await;
        assert!(began.elapsed() < Duration::from_millis(1200));
    }
}
