//! When what was done so far is made safe, so that a run that is killed is gone on with.

use std::time::{Duration, Instant};

/// How often who is at work says so; prunes wait for a multiple of that.
pub(crate) const SIGN_OF_LIFE: Duration = Duration::from_secs(3600);

/// When progress is made safe for a run that is killed.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointRule {
    /// After so many bytes that were new.
    pub bytes: u64,
    /// After so long.
    pub every: Duration,
    /// After so many bytes that were put on the tier they are made known to the next run, also in
    /// the middle of an entry.
    pub index_bytes: u64,
    /// After so long it gives a sign of life, so that no prune takes it for dead although nothing is new.
    pub alive: Duration,
}

impl Default for CheckpointRule {
    fn default() -> Self {
        Self {
            bytes: 512 << 20,
            every: Duration::from_secs(30),
            index_bytes: 512 << 20,
            alive: SIGN_OF_LIFE,
        }
    }
}

/// The checkpoints of a run.
#[derive(Debug)]
pub(super) struct Checkpoints {
    rule: CheckpointRule,
    bytes: u64,
    last: Instant,
}

impl Checkpoints {
    /// Of a run that begins now.
    pub(super) fn by(rule: CheckpointRule) -> Self {
        Self {
            rule,
            bytes: 0,
            last: Instant::now(),
        }
    }

    /// Whether the next is due when so many bytes were new in all.
    pub(super) fn is_due(&self, new: u64) -> bool {
        let since = new - self.bytes;
        since >= self.rule.bytes || (since > 0 && self.last.elapsed() >= self.rule.every)
    }

    /// Notes that one was made at so many new bytes.
    pub(super) fn made(&mut self, new: u64) {
        (self.bytes, self.last) = (new, Instant::now());
    }
}
