//! The first record: before the first snapshot, so that whoever finds a snapshot and not a single record knows that the
//! records were taken away.

use backup_core::{HostId, OpContext};
use backup_format::keys::Slot;
use backup_integrity::ledger::RecordOutcome;

use super::{Chain, LedgerDraft};
use crate::error::Result;
use crate::repository::Repository;
use crate::slots::{added_note, id_of};

/// Records that the repository was made, if it has no record and no snapshot: whoever made it was killed before that was
/// recorded, or recorded nothing. Of its key slots those are named that are there now.
///
/// # Errors
/// [`crate::EngineError::Key`] for a key that cannot sign for the host; errors of the tier.
pub(crate) async fn begin_if_new(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    user: &str,
) -> Result<()> {
    if !repo.snapshot_keys(cx).await?.is_empty() {
        return Ok(());
    }
    let mut chain = Chain::read(repo, cx).await?;
    if !chain.is_empty() {
        return Ok(());
    }
    let slots = repo.slots(cx).await?;
    let own = slots.iter().filter(|(_, slot)| {
        let info = slot.as_ref().ok().and_then(Slot::info);
        info.is_some_and(|info| info.repo == repo.id())
    });
    let draft = LedgerDraft {
        op: "init",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: added_note(own.map(|(key, _)| (id_of(key), "there before the first snapshot"))),
    };
    chain.append(host, user, draft).await
}
