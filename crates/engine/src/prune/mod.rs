//! Giving back the space of what no snapshot names any more, while others write.
//!
//! The protocol, and why it is so, is in `docs/design/0002-garbage-collection.md`. Data passes so:
//! [`survey`] lists snapshots, refs and packs and marks what is used; [`plan`] chooses packs that
//! nothing uses and packs that are worth being written anew; [`collect`] condemns what nothing uses,
//! settles every session that may be about to name it, decides and deletes; [`repack`] copies what is
//! in use of packs that are mostly waste, sealed as it is, and leaves them to the collector; [`merge`]
//! makes one index run of many. No data key is needed, only that of the index. Everything can be
//! stopped anywhere and be begun again.
//!
//! Memory: 32 bytes for each entry of the index, a bit for each chunk, and some hundred bytes for each
//! blob that is copied.

mod collect;
mod elsewhere;
pub(crate) mod merge;
mod plan;
pub(crate) mod repack;
mod survey;
mod tidy;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, OpContext, PackId, SessionId, Severity,
};
use backup_integrity::ledger::RecordOutcome;

use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::ledger::{LedgerDraft, record_operation};
use crate::repository::Repository;
use survey::Survey;

/// How much unused space may stay in packs that are in use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Unused {
    /// So many bytes.
    Bytes(u64),
    /// So many hundredths of what is in use.
    Percent(f64),
    /// As much as there is: nothing is written anew.
    Unlimited,
}

/// How to prune.
#[derive(Debug, Clone)]
pub struct PruneJob {
    /// Who prunes, for the ledger.
    pub host: HostId,
    /// The user who asked for it, for the ledger.
    pub user: String,
    /// How much unused space may stay.
    pub max_unused: Unused,
    /// At most so many bytes of packs are read to be written anew in this run.
    pub max_repack: Option<u64>,
    /// A session without an end that this host has seen standing still for so long, in at least three
    /// prunes, is taken for dead; none to wait for nobody. Where no state is kept
    /// ([`Repository::keep_ledger_in`]) nothing is remembered, and only none takes anybody for dead. That is no
    /// question of safety: whoever it is finds out, and at worst saves again.
    pub patience: Duration,
    /// So long it waits for sessions that are not over and not old enough to be taken for dead.
    pub wait: Duration,
    /// Refuses to delete more than this share of all bytes, from 0 to 1.
    pub max_drop: f64,
    /// Goes on although a snapshot is gone from the tier that nobody forgot: what it used is deleted,
    /// and its object is of no use any more if it turns up again.
    pub despite_gone: bool,
}

impl PruneJob {
    /// As usual: 5 % may stay unused, sessions are taken for dead after a day, nobody is waited for
    /// longer than ten seconds, and four fifths of all may go.
    #[must_use]
    pub fn new(host: HostId) -> Self {
        Self {
            host,
            user: String::new(),
            max_unused: Unused::Percent(5.0),
            max_repack: None,
            patience: Duration::from_secs(86_400),
            wait: Duration::from_secs(10),
            max_drop: 0.8,
            despite_gone: false,
        }
    }
}

/// What would be done; showing it is the dry run.
#[derive(Debug)]
pub struct PrunePlan {
    /// What it comes to.
    pub numbers: PruneNumbers,
    /// What is wrong: holds that are gone, index runs that cannot be read, packs that are not there as the
    /// index says.
    pub findings: Vec<Finding>,
    survey: Survey,
    condemned: BTreeSet<PackId>,
    victims: Vec<PackId>,
}

/// What a plan comes to: packs and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneNumbers {
    /// Snapshots that mark.
    pub snapshots: u64,
    /// Packs on the tier, and their bytes.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that nothing uses.
    pub unused_packs: u64,
    /// Their bytes.
    pub unused_bytes: u64,
    /// Packs of which a part is used.
    pub partly_used_packs: u64,
    /// Bytes in them that nothing uses.
    pub wasted_bytes: u64,
    /// Packs that are written anew since much of them is unused.
    pub repacked_packs: u64,
    /// Packs that are laid together since they are small.
    pub small_packs: u64,
    /// Bytes that are copied out of them.
    pub copied_bytes: u64,
    /// Bytes that this gives back.
    pub repack_gain: u64,
    /// Packs that snapshots use and that are not there, or have another size than the index says.
    pub missing_packs: u64,
}

/// A session that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id.
    pub id: SessionId,
    /// Its host, if its object says it.
    pub host: Option<HostId>,
    /// When it began, in milliseconds since 1970, by its own word.
    pub started_ms: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub struct PruneReport {
    /// Packs that were deleted.
    pub deleted_packs: u64,
    /// Bytes of these.
    pub deleted_bytes: u64,
    /// Packs that were written.
    pub written_packs: u64,
    /// Bytes of these.
    pub written_bytes: u64,
    /// Sessions that are not over: until they are, nothing that is condemned is deleted.
    pub waits_for: Vec<OpenSession>,
    /// Sessions that were taken for dead.
    pub revoked: Vec<SessionId>,
    /// What was wrong.
    pub findings: Vec<Finding>,
}

/// Looks what a run would do; only reads.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not prune; [`EngineError::Unprunable`] when it
/// cannot be told what snapshots use; errors of the tier.
pub async fn plan(repo: &Repository, cx: &OpContext, job: &PruneJob) -> Result<PrunePlan> {
    repo.keys().may_forget()?;
    repo.refresh_index(cx).await?;
    let survey = Survey::new(repo, cx).await?;
    if !job.despite_gone {
        survey::none_is_gone(repo, cx, &survey.snapshots).await?;
    }
    let mut findings = Holds::read(repo, cx).await?.lost();
    findings.extend(repo.damaged_runs());
    findings.extend(survey::of_absent(repo, cx, &survey).await?);
    let chosen = plan::choose(&survey, job, &repo.sizes());
    Ok(PrunePlan {
        numbers: chosen.numbers,
        findings,
        condemned: chosen.condemned,
        victims: chosen.victims,
        survey,
    })
}

impl PrunePlan {
    /// Whether it deletes a larger share than the job allows.
    #[must_use]
    pub fn drops_too_much(&self, job: &PruneJob) -> bool {
        let PruneNumbers {
            bytes,
            unused_bytes,
            snapshots,
            ..
        } = self.numbers;
        let share = unused_bytes as f64 / bytes.max(1) as f64;
        unused_bytes > 0 && (share > job.max_drop || snapshots == 0 && job.max_drop < 1.0)
    }
}

/// Carries a plan out, and what earlier runs left undecided.
///
/// # Errors
/// [`EngineError::DropsTooMuch`]; [`EngineError::Unprunable`], [`EngineError::PrunedInPart`];
/// [`EngineError::Cancelled`]; errors of the tier. Whatever was done until then is whole, and the next run goes on.
pub async fn prune(
    repo: &Repository,
    cx: &OpContext,
    plan: PrunePlan,
    job: &PruneJob,
) -> Result<PruneReport> {
    if plan.drops_too_much(job) {
        return Err(EngineError::DropsTooMuch {
            bytes: plan.numbers.unused_bytes,
            of: plan.numbers.bytes,
        });
    }
    let mut report = PruneReport::default();
    let outcome = match run(repo, cx, plan, job, &mut report).await {
        Err(EngineError::Unprunable(why)) if report.deleted_packs > 0 => {
            let packs = report.deleted_packs;
            Err(EngineError::PrunedInPart { packs, why })
        }
        outcome => outcome,
    };
    let (is_ok, note) = match &outcome {
        Ok(()) if report.waits_for.is_empty() => (true, String::new()),
        Ok(()) => (
            true,
            format!("waits for {} sessions", report.waits_for.len()),
        ),
        Err(error) => (false, error.to_string()),
    };
    let draft = LedgerDraft {
        op: "prune",
        snapshot: None,
        root: None,
        counts: vec![
            ("bytes-deleted", report.deleted_bytes),
            ("bytes-written", report.written_bytes),
            ("packs-deleted", report.deleted_packs),
            ("packs-written", report.written_packs),
        ],
        outcome: if is_ok {
            RecordOutcome::Ok
        } else {
            RecordOutcome::Failed
        },
        note,
    };
    let recorded = record_operation(repo, cx, &job.host, &job.user, draft).await;
    outcome?;
    report.findings.extend(recorded?);
    Ok(report)
}

async fn run(
    repo: &Repository,
    cx: &OpContext,
    plan: PrunePlan,
    job: &PruneJob,
    report: &mut PruneReport,
) -> Result<()> {
    let PrunePlan {
        survey,
        condemned,
        victims,
        ..
    } = plan;
    // What nothing uses goes first: there may be no room for copies.
    collect::collect(repo, cx, job, &survey, condemned, report).await?;
    if !victims.is_empty() && report.waits_for.is_empty() {
        match repack::repack(repo, cx, job, &survey, &victims, report).await {
            Ok(emptied) => {
                collect::collect(repo, cx, job, &survey, emptied, report).await?;
            }
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NoSpace => {
                let detail = format!("packs that are used in part are not written anew: {error}");
                let kind = FindingKind::Degraded;
                let finding = Finding::new(Severity::Warning, kind, "the tier", detail);
                report.findings.push(finding);
            }
            Err(error) => return Err(error),
        }
    }
    collect::sweep_parity(repo, cx, &survey).await?;
    collect::sweep_aside(repo, cx).await?;
    merge::merge(repo, cx).await?;
    if report.waits_for.is_empty() {
        tidy::tidy(repo, cx).await?;
    }
    Ok(())
}
