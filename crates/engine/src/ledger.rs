//! The ledger of a repository: one record for everything that changes or reads it.
//!
//! The records lie on the tier as `ledger/<n>`, one line each, sealed for everybody who holds the
//! index key; create-only names make one chain of many writers where the tier can do that. A host
//! that names a folder for it ([`Repository::keep_ledger_in`]) keeps a copy of the lines there: a chain
//! that was cut off or made anew on the tier no longer fits it. That is no cache: what it tells
//! cannot be had from anywhere else. What the lines say and how they hang together is defined in
//! [`backup_integrity::ledger`].

mod accept;
mod audit;
mod begin;
mod chain;
mod check;
mod end;
mod gone;
mod held;
mod holes;
mod read;
mod sight;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod tier;

use std::path::PathBuf;

use async_recursion::async_recursion as boxed;
use backup_core::{Finding, HostId, OpContext, SnapshotId, SnapshotMeta};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{Draft, LedgerCopy, Op, RecordOutcome};
use backup_integrity::merkle::MerkleRoot;

use crate::beside;
use crate::error::{EngineError, Result};
use crate::places::folder_of;
use crate::repository::{Repository, get_within, name};
use crate::view::check_signatures;

pub use accept::{AcceptPlan, Acceptance, LostRecord, OtherWay, accept, accept_plan};
pub use audit::record_read;
pub(crate) use begin::begin_if_new;
pub(crate) use chain::Chain;
pub use check::{LedgerCheck, verify_ledger};
pub(crate) use end::{LedgerEnd, LedgerSeen};
pub(crate) use gone::is_named;
pub use gone::{GoneSnapshot, Rivals, gone};
pub(crate) use held::forgotten_before_hold;
pub use held::{HoldRecord, Recorded, held};
pub(crate) use holes::{Holes, MOST_HOLES, OWN, was_begun_anew};
pub use read::{SeenRecord, records};
pub(crate) use sight::FIRST_SEEN;
pub use sight::{OwnClock, first_seen};
pub(crate) use tier::{lines_of_tier, numbers};

impl Repository {
    /// Keeps this host's copy of the ledger below a folder, which is made when it is first needed. It
    /// is no cache: once lost, a ledger that was cut off on the tier can no longer be told from one that
    /// never was longer.
    #[must_use]
    pub fn keep_ledger_in(mut self, folder: Option<PathBuf>) -> Self {
        let place = folder.map(|folder| folder_of(&folder, self.id(), &self.location()));
        self.ledger_copy = place.map(|place| LedgerCopy::at(place.join("ledger.jsonl")));
        self
    }

    /// A file beside this host's copy of the ledger, for what else it must remember; none where it keeps
    /// no state.
    pub(crate) fn state_file(&self, name: &str) -> Option<PathBuf> {
        let folder = self.ledger_copy.as_ref()?.path().parent()?;
        Some(folder.join(name))
    }

    /// This host's copy of the ledger, if it keeps one.
    #[must_use]
    pub const fn ledger_copy(&self) -> Option<&LedgerCopy> {
        self.ledger_copy.as_ref()
    }
}

/// What a record says.
#[derive(Debug, Clone)]
pub struct LedgerDraft {
    /// What was done: `snapshot`, `forget`, `restore` and the like.
    pub op: &'static str,
    /// The snapshot that it concerns.
    pub snapshot: Option<SnapshotId>,
    /// Its Merkle root.
    pub root: Option<MerkleRoot>,
    /// Numbers by name.
    pub counts: Vec<(&'static str, u64)>,
    /// How it ended.
    pub outcome: RecordOutcome,
    /// A sentence for people; empty: none.
    pub note: String,
}

/// Appends a record to the ledger. Gives what is wrong with the ledger as far as it was read for that: it
/// hinders nobody.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot sign for the host; errors of the tier.
#[boxed]
pub async fn record_operation(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    user: &str,
    draft: LedgerDraft,
) -> Result<Vec<Finding>> {
    let mut chain = Chain::read(repo, cx).await?;
    chain.append(host, user, draft).await?;
    Ok(chain.into_findings())
}

/// Appends the record of a snapshot to the ledger as it was read; and before it those of snapshots of this host that were there
/// when this run began and have none: their runs were killed between commit and record, or had no
/// room left on the tier. A run that is only slow there looks the same from outside, so both may be
/// about to record one snapshot: whoever comes second finds it recorded and leaves it at that.
///
/// # Errors
/// As [`record_operation`].
pub(crate) async fn record_snapshot(
    repo: &Repository,
    cx: &OpContext,
    mut chain: Chain<'_>,
    (host, user): (&HostId, &str),
    draft: LedgerDraft,
    earlier: &[SnapshotId],
) -> Result<Vec<Finding>> {
    let own = draft.snapshot;
    let snapshots: Vec<_> = earlier.iter().copied().chain(own).collect();
    let unknown = chain.unknown(&snapshots);
    for id in unknown.iter().copied().filter(|id| Some(*id) != own) {
        // What cannot be read, or was not signed by this host, is for verification to tell.
        let key = name(layout::snapshot(id))?;
        let Ok(head) = repo.head(cx, id, &key).await else {
            continue;
        };
        if check_signatures(repo, &head).is_err() {
            continue;
        }
        if repo.parity().is_some() {
            let limit = ObjectKind::Snapshot.max_sealed();
            if let Ok(bytes) = get_within(cx, &**repo.sink(), &key, limit).await
                && repo.open_head(id, &key, &bytes).is_ok()
            {
                beside::put_or_note(repo, cx, &key, &bytes).await;
            }
        }
        let mut late = LedgerDraft::of_snapshot(&head.meta, MerkleRoot(head.outer.merkle_root));
        "recorded by a later run, which found it without a record".clone_into(&mut late.note);
        chain.append(host, user, late).await?;
    }
    if own.is_none_or(|own| unknown.contains(&own)) {
        chain.append(host, user, draft).await?;
    }
    Ok(chain.into_findings())
}

impl LedgerDraft {
    /// The record of a snapshot that was made.
    pub(crate) fn of_snapshot(meta: &SnapshotMeta, root: MerkleRoot) -> Self {
        Self {
            op: "snapshot",
            snapshot: Some(meta.id),
            root: Some(root),
            counts: vec![
                ("entries", meta.stats.entries),
                ("bytes", meta.stats.bytes),
                ("bytes-added", meta.stats.bytes_added),
                ("findings", meta.findings),
            ],
            outcome: if meta.findings > 0 {
                RecordOutcome::Findings
            } else {
                RecordOutcome::Ok
            },
            note: String::new(),
        }
    }

    /// Says of the record of a snapshot that it was imported, and when it was made.
    pub(crate) fn of_import(&mut self, made: jiff::Timestamp) {
        let seconds = u64::try_from(made.as_second()).unwrap_or(0);
        self.counts.push((FIRST_SEEN, seconds));
        self.note = format!("imported; it was made {made}");
    }

    fn signed_by(
        self,
        repo: &Repository,
        cx: &OpContext,
        host: &HostId,
        user: &str,
    ) -> Result<Draft> {
        Ok(Draft {
            time: cx.clock.now(),
            op: self.op.parse::<Op>().map_err(|error| evidence(&error))?,
            host: host.clone(),
            user: user.to_owned(),
            repo: repo.id(),
            snapshot: self.snapshot,
            root: self.root,
            counts: self
                .counts
                .iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect(),
            outcome: self.outcome,
            note: (!self.note.is_empty()).then_some(self.note),
        })
    }
}

fn evidence(error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Evidence(error.to_string())
}
