//! Retention policies: pure functions from snapshots to verdicts.
