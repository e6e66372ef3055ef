//! Giving back the space of what no snapshot names any more, while others write.
//!
//! The protocol, and why it is so, is in `docs/design/0002-garbage-collection.md`. Data passes so:
//! [`survey`] lists snapshots, refs and packs and marks what is used; [`plan`] chooses packs that
//! nothing uses and packs that are worth being written anew; [`collect`] condemns what nothing uses,
//! settles every session that may be about to name it, decides and deletes; [`repack`] copies what is
//! in use of packs that are mostly waste, sealed as it is, and leaves them to the collector; [`merge`]
//! makes one index run of many; [`locks`] keeps what is left locked where the tier locks. No data key is needed, only that of the index; but for [`reseal`], which is asked for.
//! Everything can be stopped anywhere and be begun again.
//!
//! Memory: that of the index, one of its runs at a time, a bit for each chunk, and some eighty bytes for each
//! blob that is copied, of which there are at most a million at a time; and the pack that is copied, twice
//! where it is sealed anew.

mod collect;
mod elsewhere;
mod kept;
mod locks;
pub(crate) mod merge;
mod open;
mod own;
mod plan;
pub(crate) mod repack;
mod reseal;
mod survey;
mod tidy;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, OpContext, PackId, SessionId, Severity,
};
use backup_integrity::ledger::RecordOutcome;

use crate::collect::rotten;
use crate::error::{EngineError, Result};
use crate::hold::Holds;
use crate::ledger::{LedgerDraft, record_operation};
use crate::repository::Repository;
use crate::{beside, claims};
use own::Own;
use survey::Survey;

pub use locks::Locked;
pub(crate) use open::open_sessions;
pub use reseal::may_reseal;

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
    /// So many blobs are copied before refs are moved to the copies. Some 80 bytes of memory for each; refs are
    /// written once more for each so many.
    pub batch: usize,
    /// A session without an end that this host has seen standing still for so long, in at least three
    /// prunes, is taken for dead; none to wait for nobody. Where no state is kept
    /// ([`Repository::keep_ledger_in`]) nothing is remembered, and only none takes anybody for dead. That is no
    /// question of safety: whoever it is finds out, and at worst saves again.
    pub patience: Duration,
    /// So long it waits for sessions that are not over and not old enough to be taken for dead.
    pub wait: Duration,
    /// Refuses to delete more than this share of all bytes, from 0 to 1.
    pub max_drop: f64,
    /// Packs that older generations of keys can read are repacked, and their blobs sealed anew for the newest
    /// generation; takes a full key of it ([`may_reseal`]).
    pub reseal: bool,
    /// Packs of content are written anew also where reading them means to warm them first
    /// ([`backup_core::SinkCaps::cold`]); otherwise they stay until nothing uses them any more.
    pub repack_cold: bool,
    /// Goes on although a snapshot is gone from the tier that nobody forgot: what it used is deleted,
    /// and its object is of no use any more if it turns up again. Not while its sidecar gives it back whole.
    pub despite_gone: bool,
    /// Goes on although records of the ledger are missing or false and this host's copy does not fill the hole, so that
    /// nobody can tell whether a snapshot was taken away.
    pub despite_ledger: bool,
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
            batch: 1 << 20,
            patience: Duration::from_secs(86_400),
            wait: Duration::from_secs(10),
            max_drop: 0.8,
            reseal: false,
            repack_cold: false,
            despite_gone: false,
            despite_ledger: false,
        }
    }
}

/// What would be done; showing it is the dry run.
#[derive(Debug)]
pub struct PrunePlan {
    /// What it comes to.
    pub numbers: PruneNumbers,
    /// What is wrong: holds that are gone, index runs that cannot be read or are gone, packs that are not there as the
    /// index says, decisions that call dead what snapshots use.
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
    /// Packs that would be written anew and stay as they are because they are kept cold
    /// ([`PruneJob::repack_cold`]).
    pub cold_packs: u64,
    /// Bytes in them that nothing uses.
    pub cold_bytes: u64,
    /// Packs that snapshots use and that are not there, or have another size than the index says.
    pub missing_packs: u64,
    /// Packs that snapshots use and that older generations of keys can read; looked for where they are to be sealed
    /// anew ([`PruneJob::reseal`]).
    pub older_packs: u64,
    /// Their bytes.
    pub older_bytes: u64,
    /// Those of them that this run seals anew.
    pub resealed_packs: u64,
    /// Their bytes, which are read for it.
    pub resealed_bytes: u64,
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
    /// Packs of older generations of keys whose blobs were sealed anew.
    pub resealed_packs: u64,
    /// Bytes of these.
    pub resealed_bytes: u64,
    /// Sessions that are not over: until they are, nothing that is condemned is deleted.
    pub waits_for: Vec<OpenSession>,
    /// What was locked for longer, where the tier locks objects and it was time for it.
    pub locked: Option<Locked>,
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
#[boxed]
pub async fn plan(repo: &Repository, cx: &OpContext, job: &PruneJob) -> Result<PrunePlan> {
    let rests = repo.sink().info().caps.cold && !job.repack_cold;
    if job.reseal {
        may_reseal(repo)?;
        if rests {
            return Err(EngineError::Invalid(
                "what is sealed anew is read, and packs of content are kept cold here: warm them, and say that they may be read (--repack-cold)".into(),
            ));
        }
    }
    repo.keys().may_forget()?;
    repo.refresh_index(cx).await?;
    let index = repo.proven_index(cx).await?;
    let mut survey = Survey::new(repo, cx).await?;
    index.check()?;
    repo.index().check()?;
    survey::none_is_gone(repo, cx, job, &survey.snapshots).await?;
    let mut findings = Holds::read(repo, cx).await?.lost();
    findings.extend(repo.damaged_runs());
    findings.extend(survey::of_unindexed(repo, cx, &survey).await?);
    findings.extend(survey::of_absent(repo, cx, &survey).await?);
    findings.extend(claims::findings(&survey.disputed));
    findings.extend(survey::of_contested(repo, cx, &survey).await?);
    findings.extend(survey.collection.findings()?);
    if job.reseal {
        survey.older = reseal::old_packs(repo, cx, &survey, &mut findings).await?;
    }
    let chosen = plan::choose(&survey, job, &repo.sizes(), rests);
    Ok(PrunePlan {
        numbers: chosen.numbers,
        findings,
        condemned: chosen.condemned,
        victims: chosen.victims,
        survey,
    })
}

impl PrunePlan {
    /// What would be gone behind it: packs that nothing uses, and what is not copied of those that are written anew.
    fn dropped(&self) -> u64 {
        let PruneNumbers {
            unused_bytes,
            repack_gain,
            ..
        } = self.numbers;
        unused_bytes.saturating_add(repack_gain)
    }

    /// Whether it gives up a larger share than the job allows.
    #[must_use]
    pub fn drops_too_much(&self, job: &PruneJob) -> bool {
        let (dropped, numbers) = (self.dropped(), self.numbers);
        let share = dropped as f64 / numbers.bytes.max(1) as f64;
        dropped > 0 && (share > job.max_drop || numbers.snapshots == 0 && job.max_drop < 1.0)
    }
}

/// Carries a plan out, and what earlier runs left undecided.
///
/// # Errors
/// [`EngineError::DropsTooMuch`]; [`EngineError::Unprunable`], [`EngineError::PrunedInPart`];
/// [`EngineError::Cancelled`]; errors of the tier. Whatever was done until then is whole, and the next run goes on.
#[boxed]
pub async fn prune(
    repo: &Repository,
    cx: &OpContext,
    plan: PrunePlan,
    job: &PruneJob,
) -> Result<PruneReport> {
    if plan.drops_too_much(job) {
        return Err(EngineError::DropsTooMuch {
            bytes: plan.dropped(),
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
    // Also where it came to no end: nothing may be left without a lock because of that.
    let outcome = match (outcome, cx.cancel.is_cancelled()) {
        (outcome, true) => outcome,
        (outcome, false) => {
            let locked = locks::extend(repo, cx, &mut report.findings).await;
            outcome.and(locked.map(|locked| report.locked = locked))
        }
    };
    let (is_ok, note) = match &outcome {
        Ok(()) if report.waits_for.is_empty() => (true, String::new()),
        Ok(()) => (
            true,
            format!("waits for {} sessions", report.waits_for.len()),
        ),
        Err(error) => (false, error.to_string()),
    };
    let mut counts = vec![
        ("bytes-deleted", report.deleted_bytes),
        ("bytes-written", report.written_bytes),
        ("packs-deleted", report.deleted_packs),
        ("packs-written", report.written_packs),
    ];
    if job.reseal {
        counts.push(("packs-resealed", report.resealed_packs));
    }
    if let Some(locked) = report.locked {
        counts.push(("objects-locked", locked.objects));
    }
    let draft = LedgerDraft {
        op: "prune",
        snapshot: None,
        root: None,
        counts,
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
    let mut own = Own::open(repo);
    let unused = survey.unused();
    for number in survey.collection.unknown.keys() {
        rotten::mend(repo, cx, *number, &unused).await?;
    }
    // What nothing uses goes first: there may be no room for copies.
    collect::collect(repo, cx, job, &survey, condemned, &mut own, report).await?;
    let mut emptied = BTreeSet::new();
    let about = (&mut *report, &mut emptied);
    match repack::repack(repo, cx, job, &survey, &victims, about).await {
        Ok(()) => {}
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NoSpace => {
            let detail = format!("packs that are used in part are not written anew: {error}");
            let kind = FindingKind::Degraded;
            let finding = Finding::new(Severity::Warning, kind, "the tier", detail);
            report.findings.push(finding);
        }
        Err(error) => return Err(error),
    }
    if !emptied.is_empty() {
        collect::collect(repo, cx, job, &survey, emptied, &mut own, report).await?;
    }
    collect::sweep_parity(repo, cx, &survey).await?;
    collect::sweep_aside(repo, cx, &survey, &own).await?;
    beside::sweep(repo, cx).await?;
    merge::merge(repo, cx, &own.dead).await?;
    collect::end(repo, cx, &mut own, report).await?;
    tidy::tidy(repo, cx).await?;
    Ok(())
}
