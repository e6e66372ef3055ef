//! Mending a repository: packs and small objects from their parity or from another copy of the repository, the index
//! from the ends of packs, refs from manifests.
//!
//! [`plan`] only reads: it looks at every pack, the index and all refs, and says what is damaged and what it can be
//! mended from; showing it is the dry run. [`repair`] carries that out in an order in which each step builds on what the
//! steps before have mended: packs, single objects, index, snapshots that are gone, refs, chunks of packs that are lost,
//! parity; and then looks what is left, as a verification of metadata does. A damaged pack that nothing mends is moved to
//! `aside/`, where what is whole of it is still read, so that nobody builds on it. Nothing is made worse: what replaces something is whole and
//! checked before, is read back behind that, and until then what was there is kept aside; what is deleted
//! has its successor on the tier. Whatever is cut short is begun again by the next run.
//!
//! It keeps to the rules of `docs/design/0002-garbage-collection.md`: no pack that is dead comes back (one that a
//! snapshot uses is not dead, whoever says so), index runs are
//! added before unreadable ones go, and whoever writes refs does so in a session.
//!
//! Memory: some packs at a time, 32 bytes for each entry of the index, and for each pack its name.

mod aside;
mod chunks;
mod gone;
mod index;
mod marks;
mod needs;
mod objects;
mod packs;
mod records;
mod refs;
mod roots;
mod survey;

use std::collections::{BTreeMap, BTreeSet};

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, ObjectKey, OpContext, PackId, Severity,
};
use backup_integrity::ledger::RecordOutcome;
use backup_parity::Share;

use crate::beside;
use crate::error::{EngineError, Result};
use crate::ledger::{LedgerDraft, record_operation, verify_ledger};
use crate::repository::Repository;
use crate::verify::verify_knowing;
use gone::Lost;
use survey::{Named, Tier};

pub use crate::parity::set_share;
pub(crate) use chunks::{Chunk, is_told, used_chunks};
pub(crate) use packs::{at_once, digest};
pub(crate) use refs::used_by;
pub use roots::{Root, put_roots, roots};

/// A part of a repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Packs, and their parity.
    Packs,
    /// The index.
    Index,
    /// The refs of snapshots; configs, key slots and snapshots themselves, with their sidecars; records of the
    /// ledger; and what sessions and collectors of garbage tell each other.
    Refs,
}

/// What to repair.
#[derive(Debug, Clone)]
pub struct RepairJob {
    /// Who repairs, for the ledger.
    pub host: HostId,
    /// The user who asked for it, for the ledger.
    pub user: String,
    /// Only these parts.
    pub steps: BTreeSet<Step>,
    /// Only these packs are read; all if none is named.
    pub packs: BTreeSet<PackId>,
    /// What was mended before the repository could be opened, for the ledger.
    pub before: Vec<Mended>,
    /// How much parity packs are to have beside them; `None`: what is there is enough.
    pub parity: Option<Share>,
}

impl RepairJob {
    /// Everything, with parity as the repository wants it.
    #[must_use]
    pub fn new(repo: &Repository, host: HostId) -> Self {
        Self {
            host,
            user: String::new(),
            steps: [Step::Packs, Step::Index, Step::Refs].into(),
            packs: BTreeSet::new(),
            before: Vec::new(),
            parity: repo.parity(),
        }
    }

    fn has(&self, step: Step) -> bool {
        self.steps.contains(&step)
    }
}

/// What something is mended from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remedy {
    /// A pack, from its parity.
    Parity,
    /// An object, from the repository at this place.
    Copy(String),
    /// The index, from the ends of packs.
    Ends,
    /// Refs, from the manifest of their snapshot.
    Manifest,
    /// Parity, from the packs.
    Packs,
    /// Sidecars of small objects, from these.
    Objects,
    /// The end or the revocation of a session: its name says all that is in it.
    Name,
    /// What a collection of garbage condemned, from what snapshots use.
    Uses,
    /// A verdict on a session, from what the ledger tells of its snapshots.
    Ledger,
    /// This host's copy of the ledger, from the tier.
    Tier,
}

impl std::fmt::Display for Remedy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Parity => f.write_str("its parity"),
            Self::Copy(place) => write!(f, "the copy at {place}"),
            Self::Ends => f.write_str("the ends of packs"),
            Self::Manifest => f.write_str("its manifest"),
            Self::Packs => f.write_str("the packs"),
            Self::Objects => f.write_str("the objects"),
            Self::Name => f.write_str("what its name says"),
            Self::Uses => f.write_str("what snapshots use"),
            Self::Ledger => f.write_str("the ledger"),
            Self::Tier => f.write_str("the tier"),
        }
    }
}

/// One thing to be mended.
#[derive(Debug)]
pub struct Task {
    /// What it is: the name of an object, or words.
    pub subject: String,
    /// What is wrong with it.
    pub why: String,
    /// What it is mended from.
    pub remedy: Remedy,
    work: Work,
}

#[derive(Debug)]
enum Work {
    Pack(packs::BadPack),
    Chunks(Vec<chunks::LostPack>, BTreeSet<PackId>),
    Object(objects::BadObject),
    Record(records::BadRecord),
    Index(index::BadIndex),
    Refs(Box<refs::BadRefs>),
    Sidecars(Vec<ObjectKey>),
    Beside(Vec<ObjectKey>),
    Mark(marks::BadMark),
    LedgerCopy,
}

impl Work {
    /// When its turn comes: behind all that it is made of.
    fn rank(&self) -> u8 {
        match self {
            // As long as nobody knows what is about to be deleted, nothing can be built on.
            Self::Mark(_) => 0,
            Self::Pack(_) => 1,
            Self::Object(object) if !object.needs_index() => 2,
            Self::Index(_) => 3,
            Self::Record(_) | Self::LedgerCopy => 4,
            Self::Object(_) => 5,
            Self::Refs(_) => 6,
            // They make refs anew that can be read.
            Self::Chunks(..) => 7,
            Self::Sidecars(_) | Self::Beside(_) => 8,
        }
    }
}

/// What would be done; showing it is the dry run.
#[derive(Debug, Default)]
pub struct RepairPlan {
    /// What can be mended, in the order in which it is.
    pub tasks: Vec<Task>,
    /// What cannot.
    pub lost: Vec<Finding>,
    /// Packs that were read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Packs that are damaged.
    bad: BTreeMap<PackId, (ObjectKey, String)>,
    /// What an earlier run set aside of what is whole by now.
    settled: Vec<ObjectKey>,
    /// Damaged packs that nothing mends: they are taken out of the way.
    hopeless: Vec<(PackId, ObjectKey)>,
    /// Packs that hash to their names.
    whole: BTreeSet<PackId>,
    /// Those of them of which index runs say anything else than they do.
    misnamed: BTreeMap<PackId, ObjectKey>,
}

impl RepairPlan {
    /// Whether there is nothing to do and nothing is lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.lost.is_empty()
    }

    fn lose(&mut self, kind: FindingKind, subject: impl Into<String>, why: impl Into<String>) {
        let finding = Finding::new(Severity::Error, kind, subject, why);
        self.lost.push(finding);
    }
}

/// Something that was mended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// What it is.
    pub subject: String,
    /// What it was mended from.
    pub remedy: Remedy,
}

/// What was done.
#[derive(Debug, Default)]
pub struct RepairReport {
    /// What was mended.
    pub mended: Vec<Mended>,
    /// What is still wrong with the repository, and with the ledger.
    pub findings: Vec<Finding>,
}

/// Looks what is damaged, and what it can be mended from; only reads. `others` are copies of the same
/// repository on other tiers. Open them without a cache: what lies there is not looked for on the tier.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not delete; [`EngineError::Invalid`] for a copy that is
/// of another repository; errors of the tier.
#[boxed]
pub async fn plan(
    repo: &Repository,
    cx: &OpContext,
    job: &RepairJob,
    others: &[Repository],
) -> Result<RepairPlan> {
    repo.keys().may_forget()?;
    objects::are_copies(repo, others)?;
    let mut plan = RepairPlan::default();
    let collection = repo.known_collection(cx).await?;
    let mut dead = collection.dead;
    let mut named = Named::read(repo, cx).await?;
    // A decision that calls dead what snapshots use is a lie, and hides nothing.
    let contested = dead.extract_if(.., |id| named.packs.contains(id)).collect();
    // What a decision that cannot be read may have called dead, and nobody uses, never comes back either.
    let doubtful = collection.unread.into_values().flat_map(|one| one.packs);
    dead.extend(doubtful.filter(|id| !named.packs.contains(id)));
    let lost = match job.has(Step::Index) || job.has(Step::Refs) {
        true => Lost::read(repo, cx).await?,
        false => Lost::default(),
    };
    // Behind that: what a snapshot that is gone used may have been given up.
    named.add_gone(&lost, !others.is_empty());
    repo.pass_over(dead.clone());
    repo.refresh_index(cx).await?;
    let tier = Tier::list(repo, cx, dead, contested).await?;
    // First of all: as long as nobody knows what is about to be deleted, nothing can be built on.
    if job.has(Step::Refs) {
        marks::plan(repo, cx, &tier, &named, &mut plan).await?;
    }
    if job.has(Step::Packs) {
        packs::plan(repo, cx, job, others, &tier, &named, &mut plan).await?;
    }
    objects::plan(repo, cx, job, others, (&tier, &named, &lost), &mut plan).await?;
    if job.has(Step::Index) {
        index::plan(repo, &tier, &named, &mut plan);
    }
    if job.has(Step::Refs) {
        records::plan(repo, cx, others, &mut plan).await?;
        refs::plan(repo, cx, others, (&tier, &named), &mut plan).await?;
    }
    plan.tasks.sort_by_key(|task| task.work.rank());
    Ok(plan)
}

/// Carries a plan out, and looks what is left.
///
/// # Errors
/// [`EngineError::Cancelled`]; errors of the tier. What was mended until then stays mended, and the next
/// run goes on.
#[boxed]
pub async fn repair(
    repo: &Repository,
    cx: &OpContext,
    mut plan: RepairPlan,
    job: &RepairJob,
    others: &[Repository],
) -> Result<RepairReport> {
    let mut report = RepairReport {
        mended: job.before.clone(),
        ..RepairReport::default()
    };
    let has_work = !plan.is_empty() || !plan.settled.is_empty() || !job.before.is_empty();
    let outcome = run(repo, cx, &mut plan, job, others, &mut report).await;
    if !has_work && outcome.is_ok() {
        return Ok(report);
    }
    let count = |is: fn(&Remedy) -> bool| {
        let mended = report.mended.iter();
        mended.filter(|one| is(&one.remedy)).count() as u64
    };
    let draft = LedgerDraft {
        op: "repair",
        snapshot: None,
        root: None,
        counts: vec![
            ("from-copies", count(|from| matches!(from, Remedy::Copy(_)))),
            ("from-manifests", count(|from| *from == Remedy::Manifest)),
            ("from-parity", count(|from| *from == Remedy::Parity)),
            ("left", report.findings.len() as u64),
            ("mended", report.mended.len() as u64),
        ],
        outcome: match &outcome {
            Ok(()) if report.findings.is_empty() => RecordOutcome::Ok,
            Ok(()) => RecordOutcome::Findings,
            Err(_) => RecordOutcome::Failed,
        },
        note: outcome
            .as_ref()
            .map_or_else(ToString::to_string, |()| String::new()),
    };
    let recorded = record_operation(repo, cx, &job.host, &job.user, draft).await;
    outcome?;
    report.findings.extend(recorded?);
    Ok(report)
}

/// Whether an object cannot have its name, since something else lies there that is none: a folder. That hinders nobody
/// from mending the others.
fn is_in_the_way(error: &EngineError) -> bool {
    matches!(error, EngineError::Sink(error) if error.kind == ErrorKind::Invalid)
}

async fn run(
    repo: &Repository,
    cx: &OpContext,
    plan: &mut RepairPlan,
    job: &RepairJob,
    others: &[Repository],
    report: &mut RepairReport,
) -> Result<()> {
    let mut bad = std::mem::take(&mut plan.bad);
    for task in std::mem::take(&mut plan.tasks) {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let Task {
            subject,
            remedy,
            work,
            ..
        } = task;
        let done = match work {
            Work::Pack(pack) => {
                let done = packs::mend(repo, cx, &pack, others).await;
                if done.is_ok() {
                    bad.remove(&pack.id);
                }
                done
            }
            Work::Object(object) => {
                match objects::put_back(repo, cx, &job.host, &object, others).await {
                    // It came to its end without us.
                    Ok(false) => continue,
                    done => done.map(drop),
                }
            }
            Work::Mark(mark) => match marks::mend(repo, cx, &mark).await {
                // Somebody else has done it.
                Ok(false) => continue,
                done => done.map(drop),
            },
            Work::LedgerCopy => match records::write_copy(repo, cx).await {
                Ok(false) => continue,
                done => done.map(drop),
            },
            Work::Record(record) => records::put_back(repo, cx, &record).await,
            Work::Chunks(lost, spoiled) => {
                let lost = (lost.as_slice(), &spoiled);
                let done = chunks::bring_back(repo, cx, &job.host, lost, others).await;
                done.map(|done| {
                    report.findings.extend(done.left);
                    // Nobody is hurt by them any more.
                    bad.retain(|id, _| !done.unnamed.contains(id));
                })
            }
            Work::Index(index) => index::rebuild(repo, cx, &index).await,
            Work::Refs(refs) => refs::rebuild(repo, cx, &job.host, &refs, others).await,
            Work::Beside(keys) => objects::protect(repo, cx, &keys).await,
            Work::Sidecars(packs) => packs::protect(repo, cx, job, &packs).await,
        };
        match done {
            Ok(()) => report.mended.push(Mended { subject, remedy }),
            Err(error) if is_in_the_way(&error) => {
                let detail = format!(
                    "it could not be mended from {remedy}: {error}; move away by hand what lies there, and run this again"
                );
                let kind = FindingKind::Damaged;
                let finding = Finding::new(Severity::Error, kind, subject, detail);
                report.findings.push(finding);
            }
            Err(error) if error.is_damage() => {
                let detail = format!("it could not be mended from {remedy}: {error}");
                let kind = FindingKind::Damaged;
                let finding = Finding::new(Severity::Error, kind, subject, detail);
                report.findings.push(finding);
            }
            Err(error) => return Err(error),
        }
    }
    for key in &plan.settled {
        repo.sink().delete(cx, key).await?;
    }
    beside::sweep(repo, cx).await?;
    // What is still so is noted again.
    repo.notices().clear();
    report.findings.append(&mut plan.lost);
    // What is left, and whom it hurts.
    repo.reload_index(cx).await?;
    let findings = aside::set_aside_hopeless(repo, cx, &plan.hopeless).await?;
    report.findings.extend(findings);
    let left = verify_knowing(repo, cx, bad).await?;
    let told: BTreeSet<String> = report
        .findings
        .iter()
        .map(|finding| finding.subject.clone())
        .collect();
    let ledger = verify_ledger(repo, cx).await?.findings;
    let found = left.report.findings.into_iter().chain(ledger);
    let serious = found.filter(|one| one.severity > Severity::Note && !told.contains(&one.subject));
    report.findings.extend(serious);
    Ok(())
}
