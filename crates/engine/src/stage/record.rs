//! The last stage: the source hears the outcome, the local state and the ledger are brought up to
//! date. The snapshot stands whatever happens here: trouble is a finding.

use backup_core::{Event, Finding, FindingKind, OpContext, Outcome, Severity, Stage};
use backup_format::layout;

use super::commit::Committed;
use crate::beside;
use crate::collect::Fate;
use crate::error::Result;
use crate::ledger::{LedgerDraft, record_snapshot};
use crate::repository::{Repository, name};
use crate::snapshot::{SnapshotJob, SnapshotReport};

/// Brings everything up to date.
///
/// # Errors
/// Never for what goes wrong behind a commit; see the report's findings.
pub async fn record(
    repo: &Repository,
    cx: &OpContext,
    committed: Committed,
    job: &SnapshotJob,
) -> Result<SnapshotReport> {
    let Committed {
        stored,
        meta,
        root,
        refs_bytes,
        fate,
        object,
    } = committed;
    let mut counts = stored.assembled.counts;
    let degraded =
        |what: &str, why: String| Finding::new(Severity::Warning, FindingKind::Degraded, what, why);
    for finding in stored.noticed {
        counts.found(cx, finding);
    }
    if let Err(error) = stored.capture.settle(cx, Outcome::Committed).await {
        counts.found(cx, degraded("the source", error.to_string()));
    }
    if let Some(writer) = stored.assembled.writer {
        writer.finish(meta.id);
    }
    // Before the record: whoever is killed here leaves a snapshot without one, and the next run puts both there.
    let key = name(layout::snapshot(meta.id))?;
    if let Some(finding) = beside::put_if_wanted(repo, cx, &key, &object).await {
        counts.found(cx, finding);
    }
    let mut draft = LedgerDraft::of_snapshot(&meta, root);
    if let Some(made) = job.imported_from {
        draft.of_import(made);
    }
    let earlier = stored.planned.earlier;
    match record_snapshot(repo, cx, &job.host, &job.user, draft, &earlier).await {
        Ok(findings) => findings
            .into_iter()
            .for_each(|finding| counts.found(cx, finding)),
        Err(error) => counts.found(cx, degraded("the ledger", error.to_string())),
    }
    if fate == Fate::Alive
        && let Err(error) = stored.session.announced().end(repo, cx).await
    {
        counts.found(cx, degraded("the session", error.to_string()));
    }
    cx.tell(Event::Left(Stage::Record));
    Ok(SnapshotReport {
        meta,
        root,
        findings: counts.findings,
        findings_left_out: counts.findings_left_out,
        refs_bytes,
    })
}
