//! The last stage: the source hears the outcome, the local state and the ledger are brought up to
//! date. The snapshot stands whatever happens here: trouble is a finding.

use backup_core::{Event, Finding, FindingKind, OpContext, Outcome, Severity, Stage};

use super::commit::Committed;
use crate::beside;
use crate::collect::Fate;
use crate::error::Result;
use crate::ledger::{Chain, LedgerDraft, record_snapshot};
use crate::repository::Repository;
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
        put,
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
    repo.keep_own_head(&put, &object);
    let mut draft = LedgerDraft::of_snapshot(&meta, root);
    if let Some(made) = job.imported_from {
        draft.of_import(made);
    }
    let (earlier, seen) = (stored.planned.earlier, stored.ledger);
    let recording = async {
        // Before the record: whoever is killed here leaves a snapshot without one, and the next run puts both there.
        let (beside, chain) = tokio::join!(
            beside::put_if_wanted(repo, cx, &put.key, &object),
            Chain::read_seen(repo, cx, seen)
        );
        let who = (&job.host, job.user.as_str());
        let recorded = match chain {
            Ok(chain) => record_snapshot(repo, cx, chain, who, draft, &earlier).await,
            Err(error) => Err(error),
        };
        (beside, recorded)
    };
    // The record does not wait for the end of the session: it names nothing any more, and what has no record the next run
    // records.
    let session = stored.session.announced();
    let ending = async {
        match fate {
            Fate::Alive => session.end(repo, cx).await,
            Fate::Adopted => Ok(()),
        }
    };
    let ((beside, recorded), ended) = tokio::join!(recording, ending);
    if let Some(finding) = beside {
        counts.found(cx, finding);
    }
    match recorded {
        Ok(findings) => findings
            .into_iter()
            .for_each(|finding| counts.found(cx, finding)),
        Err(error) => counts.found(cx, degraded("the ledger", error.to_string())),
    }
    if let Err(error) = ended {
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
