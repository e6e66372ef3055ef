//! What a power loss may have taken of what a restore finished.
//!
//! A file system writes content when it likes. After a power loss a file may be empty that has its name,
//! mode and time; after a mere kill nothing is lost, for what was written is in memory. So files that an
//! earlier restore finished are compared again only if power may have been lost since, and nothing else is:
//! what its user has changed meanwhile is theirs, even if they kept its time.
//!
//! *Whether power may have been lost.* As long as the system runs and the file system stays mounted, it was
//! not. The number of the boot and that of the mount, which the kernel gives to no other one until the next
//! boot, tell. Where they are not known, or more than one file system was written to, it may have been.
//!
//! *What the restore finished.* A file got its mode as the last step, so the time of its last change is in
//! the time of the restore. When that ends nobody can keep who is killed; so it is kept before, and on the
//! disk, until when files are finished at the latest ([`LEASE`]), and put off as long as the restore goes on.
//! What was changed later, is its user's.

use std::fs;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::fs::{AtFlags, StatxFlags, statx};
use sha2::{Digest as _, Sha256};

use super::header::Moment;

/// So far ahead is kept until when files are finished. It is put off when half of that is over.
const LEASE: Duration = Duration::from_secs(60);

/// The time of changes from one moment on, and before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) from: Moment,
    pub(super) until: Moment,
}

impl Span {
    pub(super) fn has(&self, moment: Moment) -> bool {
        self.from <= moment && moment < self.until
    }

    fn is_empty(&self) -> bool {
        self.from >= self.until
    }

    /// What holds both.
    fn with(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self {
                from: self.from.min(other.from),
                until: self.until.max(other.until),
            },
        }
    }
}

/// In what time files were finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Finished {
    /// By this restore, or by those that were killed just before it; as far as it is not on the disk.
    pub(super) now: Span,
    /// By those before, and a power loss may have taken it.
    pub(super) doubtful: Span,
}

impl Finished {
    /// For a restore that begins where nothing was finished.
    pub(super) fn first(began: Moment) -> Self {
        Self {
            now: lease(began, began),
            doubtful: Span::default(),
        }
    }

    /// For a restore that begins after another one. `is_same`: no power was lost since.
    pub(super) fn next(self, began: Moment, is_same: bool) -> Self {
        if is_same {
            return Self {
                now: lease(self.now.from, began),
                ..self
            };
        }
        // It had ended when this one began.
        let until = self.now.until.min(began);
        let last = Span { until, ..self.now };
        Self {
            now: lease(began, began),
            doubtful: self.doubtful.with(last),
        }
    }

    /// For a restore that begins after one of which nothing is known but when it began.
    pub(super) fn unknown(since: Moment, began: Moment) -> Self {
        Self {
            now: lease(began, began),
            doubtful: Span {
                from: since,
                until: began,
            },
        }
    }

    /// Puts the latest time off.
    pub(super) fn put_off(&mut self, now: Moment) {
        self.now = lease(self.now.from, now);
    }
}

fn lease(from: Moment, now: Moment) -> Span {
    let seconds = i64::try_from(LEASE.as_secs()).unwrap_or(0);
    let until = (now.0.saturating_add(seconds), now.1);
    Span { from, until }
}

/// When the latest time is to be put off, by a clock that nobody sets and by the one that file systems
/// follow.
#[derive(Debug)]
pub(super) struct Due {
    steady: Instant,
    /// From the first question on.
    wall: Option<Timestamp>,
}

impl Due {
    /// Half of the time from now on.
    pub(super) fn new() -> Self {
        Self {
            steady: Instant::now() + LEASE / 2,
            wall: None,
        }
    }

    /// Whether that is over. The clock may have been set, or the system been asleep.
    pub(super) fn is_now(&mut self, now: Timestamp) -> bool {
        let later = || now.saturating_add(LEASE / 2).unwrap_or(Timestamp::MAX);
        let wall = *self.wall.get_or_insert_with(later);
        Instant::now() >= self.steady || now >= wall
    }
}

/// What tells a mount from all others, before and after. `None`: the kernel does not say it (before Linux
/// 6.8).
pub(super) fn mount_of(folder: impl AsFd) -> Option<String> {
    /// `STATX_MNT_ID_UNIQUE`.
    const UNIQUE: StatxFlags = StatxFlags::from_bits_retain(0x4000);
    const BYTES: usize = 15;
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let found = statx(folder, c"", AtFlags::EMPTY_PATH, UNIQUE).ok()?;
    if found.stx_mask & UNIQUE.bits() == 0 || boot.trim().is_empty() {
        return None;
    }
    let both = format!("{} {}", boot.trim(), found.stx_mnt_id);
    let hash = Sha256::digest(both);
    let digits = hash.iter().take(BYTES).map(|byte| format!("{byte:02x}"));
    Some(digits.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Moment {
        (seconds, 5)
    }

    #[test]
    fn what_was_finished_is_doubted_once_power_may_have_been_lost() {
        let first = Finished::first(at(100));
        let killed = first.next(at(130), true);
        assert!(killed.doubtful.is_empty());
        // What the first one finished may not be on the disk yet.
        let lost = killed.next(at(150), false);
        let doubted: Vec<_> = [99, 100, 149, 150]
            .into_iter()
            .filter(|&second| lost.doubtful.has(at(second)))
            .collect();
        assert_eq!(doubted, [100, 149]);
        // The next one was killed before it could compare.
        let again = lost.next(at(160), true);
        assert_eq!(again.doubtful, lost.doubtful);
        let twice = lost.next(at(1000), false);
        assert!(twice.doubtful.has(at(100)) && twice.doubtful.has(at(209)));
        // Nobody finished anything then: its user changed it.
        assert!(!twice.doubtful.has(at(210)));
    }

    #[test]
    fn the_time_is_put_off_before_it_is_over_also_when_the_clock_is_set() {
        let began = Timestamp::from_second(1000).unwrap();
        let later = |seconds: i64| Timestamp::from_second(1000 + seconds).unwrap();
        let mut due = Due::new();
        assert!(!due.is_now(began) && !due.is_now(later(29)));
        assert!(due.is_now(later(31)));
        let mut finished = Finished::first(at(100));
        finished.put_off(at(131));
        let from_then = finished.next(at(500), false).doubtful;
        assert!(from_then.has(at(190)) && !from_then.has(at(191)));
    }

    #[test]
    fn a_mount_is_known_again() {
        let temp = tempfile::tempdir().unwrap();
        let mount = |path: &str| mount_of(fs::File::open(path).unwrap());
        let here = mount(temp.path().to_str().unwrap());
        assert_eq!(mount(temp.path().to_str().unwrap()), here);
        assert!(here.is_none() || mount("/proc") != here);
    }
}
