//! A ledger whose beginning was taken away: whoever finds snapshots and not a single record leaves the place of the
//! first record empty, so that every check goes on to tell of it, until somebody says that it is known.

use backup_core::{ErrorKind, HostId, OpContext, PutMode};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{LineHash, RecordOutcome, append};
use backup_integrity::sign::HmacKey;

use super::{LedgerDraft, evidence, tier};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};

/// Whether the beginning of the ledger was taken away, as a whole or before a new one was begun, and nobody has said
/// that it is known.
///
/// # Errors
/// Those of the tier.
pub async fn is_to_be_accepted(repo: &Repository, cx: &OpContext) -> Result<bool> {
    let numbers = tier::numbers(repo, cx, 0).await?;
    match numbers.first() {
        None => {
            let copy = repo.ledger_copy();
            let has_copy = copy.is_some_and(|copy| copy.last().is_ok_and(|last| last.is_some()));
            Ok(!has_copy && !repo.snapshot_keys(cx).await?.is_empty())
        }
        Some(2) => {
            let found = tier::read(repo, cx, 2).await?;
            let second = tier::record(2, found).ok();
            Ok(second.is_some_and(|line| line.record().prev == LineHash::NONE))
        }
        Some(_) => Ok(false),
    }
}

/// Says that it is known that the beginning of the ledger was taken away: as its first record. Says whether there was
/// anything to accept.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not forget, or that cannot sign for the host; errors of the tier.
pub async fn accept_beginning(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    user: &str,
) -> Result<bool> {
    repo.keys().may_forget()?;
    let key = HmacKey::new(*repo.keys().ledger_key(host)?.expose());
    if !is_to_be_accepted(repo, cx).await? {
        return Ok(false);
    }
    let draft = LedgerDraft {
        op: "accept",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: "what was before it is gone, and that is known".into(),
    };
    let draft = draft.signed_by(repo, cx, host, user)?;
    let line = append(None, draft, &key).map_err(|error| evidence(&error))?;
    let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
    let body = sealed.map_err(EngineError::Seal)?.into();
    let at = name(layout::ledger(1))?;
    match repo.sink().put(cx, &at, body, PutMode::Create).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error.into()),
    }
}
