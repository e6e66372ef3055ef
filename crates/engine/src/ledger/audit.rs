//! Recording what was read. Whoever reads is not stopped because it cannot be recorded: by a key that
//! signs for no host, or on a tier that takes nothing. But it is said.

use async_recursion::async_recursion as boxed;
use backup_core::{Finding, FindingKind, HostId, OpContext, Severity};

use super::{LedgerDraft, record_operation};
use crate::repository::Repository;

const SUBJECT: &str = "the ledger";

/// Records that something was read, even if it was called off; `what` names it, as in `this restore`.
/// Gives what is to be said where that cannot be: a note for a key that cannot sign, a warning for a
/// tier that takes nothing; and otherwise what is wrong with the ledger, as far as it was read for that.
#[boxed]
pub async fn record_read(
    repo: &Repository,
    cx: &OpContext,
    (host, user): (&HostId, &str),
    what: &str,
    draft: LedgerDraft,
) -> Vec<Finding> {
    let not_there = |severity, error: &dyn std::fmt::Display| {
        let detail = format!("{what} is not in it: {error}");
        vec![Finding::new(
            severity,
            FindingKind::Degraded,
            SUBJECT,
            detail,
        )]
    };
    if let Err(error) = repo.keys().ledger_key(host) {
        return not_there(Severity::Note, &error);
    }
    match record_operation(repo, cx, host, user, draft).await {
        Ok(findings) => findings,
        Err(error) => not_there(Severity::Warning, &error),
    }
}
