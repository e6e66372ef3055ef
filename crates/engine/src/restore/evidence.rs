//! The record of what was read out of a snapshot.

use async_recursion::async_recursion as boxed;
use backup_core::{Finding, HostId, OpContext};
use backup_integrity::ledger::RecordOutcome;

use crate::ledger::{LedgerDraft, record_read};
use crate::view::SnapshotView;

/// What was read out of a snapshot.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Entries that it came to.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// What was not as it should be.
    pub findings: u64,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// A sentence for people; empty: none. Without paths: those who see the ledger may not see them.
    pub note: String,
}

/// Records in the ledger what was read out of a snapshot, even if it was called off. Gives what is to be
/// said where that cannot be: a note for a key that cannot sign, a warning for a tier that takes nothing;
/// and otherwise what is wrong with the ledger, as far as it was read for that.
#[boxed]
pub async fn record_reading(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    host: &HostId,
    user: &str,
    reading: Reading,
) -> Vec<Finding> {
    let draft = LedgerDraft {
        op: "restore",
        snapshot: Some(view.meta().id),
        root: Some(view.root()),
        counts: vec![
            ("entries", reading.entries),
            ("bytes", reading.bytes),
            ("findings", reading.findings),
        ],
        outcome: reading.outcome,
        note: reading.note,
    };
    let by = (host, user);
    record_read(view.repository(), cx, by, "this restore", draft).await
}
