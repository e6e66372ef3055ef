//! Copying snapshots to another tier: a repository of the same family there, with the same id and the same keys.
//!
//! Everything travels sealed, so no key that reads data is needed: the index key shows which packs a snapshot uses (its
//! refs) and what is in them (their ends), and a record of the ledger is signed. [`plan`] only reads; showing it is the
//! dry run. [`copy`] sends what the other tier lacks, snapshot by snapshot, the oldest first: packs ([`packs`]), the
//! index runs of these, refs, and last the snapshot object ([`commit`]). A place where nothing is becomes a repository
//! first, with the configs and key slots of the one that is copied from ([`family`]).
//!
//! On the other tier a copy is a writer by the rules of `docs/design/0002-garbage-collection.md`: it announces a session,
//! avoids what is condemned, and looks behind each snapshot whether it was taken for dead. The snapshot object there says
//! which session brought it, and by that one it counts; what was signed stays as it is. On the tier that is copied from,
//! a copy is a reader: what a prune moves meanwhile is looked for again.
//!
//! Whatever ends a run early, nothing of a snapshot counts before its object is there, and the next run finds what was
//! sent. Memory: some packs at a time; for each pack of either tier its name and size; 32 bytes for each chunk that the
//! other tier has in other packs than this one.

mod commit;
mod family;
mod packs;
mod scattered;
mod session;
mod vanished;

use std::collections::{BTreeSet, HashSet};

use async_recursion::async_recursion as boxed;
use backup_core::{
    CancellationToken, Event, Finding, FindingKind, HostId, ObjectKey, OpContext, PackId, Severity,
    SnapshotId, SnapshotMeta, Stage,
};
use backup_integrity::ledger::RecordOutcome;

use crate::beside::Ended;
use crate::error::{EngineError, Result};
use crate::ledger::{Chain, LedgerDraft, first_seen, record_operation};
use crate::refs::{self, Sum};
use crate::remedy::remedy;
use crate::repository::{Repository, SnapshotHead};
use commit::Done;
use session::{Here, Shipment};

pub use family::{Found, found, make};
pub use vanished::{Vanished, vanished};

/// After so many bytes of packs an index run is written: what none knows is read once more by the run behind one that
/// was killed.
const INDEX_BYTES: u64 = 256 << 20;
/// A session has so many snapshots at most: a verdict names all of them.
const MOST_OF_SESSION: usize = 1000;
/// So often a snapshot is begun again because a prune has moved what it uses.
const TRIES: u32 = 5;

/// How to copy.
#[derive(Debug, Clone)]
pub struct CopyJob {
    /// Who copies, for both ledgers.
    pub host: HostId,
    /// The user who asked for it, for both ledgers.
    pub user: String,
    /// Brings back what was forgotten on the other tier.
    pub again: bool,
    /// After so many bytes of packs an index run is written.
    pub index_bytes: u64,
}

impl CopyJob {
    /// What was forgotten there stays away.
    #[must_use]
    pub const fn new(host: HostId) -> Self {
        Self {
            host,
            user: String::new(),
            again: false,
            index_bytes: INDEX_BYTES,
        }
    }
}

/// What is to become of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is to be copied.
    Copy,
    /// It is there.
    There,
    /// It was forgotten there, and stays away.
    Forgotten,
}

/// What would be copied; showing it is the dry run.
#[derive(Debug, Default)]
pub struct CopyPlan {
    /// The snapshots that were asked for, oldest first.
    pub snapshots: Vec<(SnapshotHead, Fate)>,
    /// Packs that the other tier lacks, by their names; of some it may have the chunks in others.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What cannot be copied, and why.
    pub findings: Vec<Finding>,
}

impl CopyPlan {
    /// How many have this fate.
    #[must_use]
    pub fn count(&self, wanted: Fate) -> u64 {
        let all = self.snapshots.iter();
        all.filter(|(_, fate)| *fate == wanted).count() as u64
    }
}

/// What was copied.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// The snapshots that are there now.
    pub copied: Vec<SnapshotMeta>,
    /// Packs that were sent.
    pub packs: u64,
    /// Bytes that came to the other tier, parity and index among them.
    pub bytes: u64,
    /// What went wrong: these snapshots were not copied.
    pub findings: Vec<Finding>,
}

fn damage(subject: impl Into<String>, error: &EngineError) -> Finding {
    let kind = match error {
        EngineError::Missing { .. } => FindingKind::Missing,
        _ => FindingKind::Damaged,
    };
    let hint = error.remedy().map_or_else(String::new, |hint| {
        format!("; in the repository that is copied from: {hint}")
    });
    Finding::new(Severity::Error, kind, subject, format!("{error}{hint}"))
}

/// Says what of these snapshots the other tier lacks; only reads. `to` is nothing where there is no repository yet.
///
/// # Errors
/// Errors of the tiers.
#[boxed]
pub async fn plan(
    from: &Repository,
    to: Option<&Repository>,
    cx: &OpContext,
    job: &CopyJob,
    heads: Vec<SnapshotHead>,
) -> Result<CopyPlan> {
    let mut plan = CopyPlan::default();
    let (mut there, mut void) = (HashSet::new(), HashSet::new());
    let mut ended = Ended::default();
    let mut here = Here::default();
    if let Some(to) = to {
        let (known, unread) = to.heads(cx).await?;
        there.extend(known.iter().map(|head| head.meta.id));
        for one in unread {
            there.insert(one.id);
            let detail = format!(
                "on the tier that is copied to: {}; {}",
                one.error,
                remedy(FindingKind::Damaged, one.key.as_str())
            );
            let (severity, kind) = (Severity::Error, FindingKind::Damaged);
            plan.findings
                .push(Finding::new(severity, kind, one.key.as_str(), detail));
        }
        let all = to.snapshot_keys(cx).await?;
        void.extend(
            all.iter()
                .map(|(id, _)| *id)
                .filter(|id| !there.contains(id)),
        );
        if heads.iter().any(|head| !there.contains(&head.meta.id)) {
            ended = Ended::read_copy(to, cx).await?;
            here = Here::look(to, cx).await?;
        }
    }
    let sizes = from.index().pack_sizes();
    let mut listed = Listing::default();
    let mut lacking: BTreeSet<PackId> = BTreeSet::new();
    for head in heads {
        let id = head.meta.id;
        let fate = if there.contains(&id) {
            Fate::There
        } else if ended.has_snapshot(id) && !job.again {
            Fate::Forgotten
        } else {
            Fate::Copy
        };
        if fate == Fate::Copy {
            if void.contains(&id) {
                plan.findings.push(judged(id));
                continue;
            }
            match listed.refs_of(from, cx, id).await {
                Ok(sum) => lacking.extend(sum.0.keys().filter(|pack| !here.has(pack))),
                Err(error) if error.is_damage() => {
                    plan.findings.push(damage(format!("snapshot {id}"), &error));
                    continue;
                }
                Err(error) => return Err(error),
            }
        }
        plan.snapshots.push((head, fate));
    }
    plan.packs = lacking.len() as u64;
    plan.bytes = lacking.iter().filter_map(|id| sizes.get(id)).sum();
    Ok(plan)
}

/// What is said of a snapshot whose copy a collector of garbage has left out.
fn judged(id: SnapshotId) -> Finding {
    let detail = "a copy of it was cut short before, and a prune of the tier that is copied to took that for dead: its next `snapshot prune` takes away what is left, then it can be copied again";
    let (severity, kind) = (Severity::Error, FindingKind::Skipped);
    Finding::new(severity, kind, format!("snapshot {id}"), detail)
}

/// The refs of the tier that is copied from, listed once and whenever some are not there any more.
#[derive(Debug, Default)]
struct Listing(Option<refs::Listed>);

impl Listing {
    /// All that the refs of a snapshot name.
    ///
    /// # Errors
    /// [`EngineError::Missing`] when it has none; damage; errors of the tier.
    async fn refs_of(&mut self, from: &Repository, cx: &OpContext, id: SnapshotId) -> Result<Sum> {
        for _ in 0..TRIES {
            let listed = match &mut self.0 {
                Some(listed) => listed,
                none => none.insert(refs::list(from, cx).await?),
            };
            if let Some(sum) = sum_of(from, cx, listed.get(&id)).await? {
                return Ok(sum);
            }
            // A prune has put others in their place, or it was forgotten.
            self.0 = None;
        }
        Err(EngineError::Missing {
            object: format!("refs/{id}"),
            why: "nothing says what the snapshot uses".into(),
        })
    }

    /// Lists them anew for the next that is asked for.
    fn forget(&mut self) {
        self.0 = None;
    }
}

/// What these refs name together; nothing if one is gone, or there are none.
async fn sum_of(
    from: &Repository,
    cx: &OpContext,
    keys: Option<&Vec<ObjectKey>>,
) -> Result<Option<Sum>> {
    let mut out = Sum::default();
    for key in keys.into_iter().flatten() {
        let Some(refs) = refs::read(from, cx, key).await? else {
            return Ok(None);
        };
        out.add(refs);
    }
    // A snapshot without a single entry uses no pack, and has refs all the same.
    Ok(keys.filter(|keys| !keys.is_empty()).map(|_| out))
}

/// Copies the snapshots of a plan.
///
/// # Errors
/// [`EngineError::Key`] for a key that signs no records; [`EngineError::OtherFamily`]; [`EngineError::Damaged`] when
/// it cannot be told what is collected on the other tier; [`EngineError::Cancelled`]; errors of the tiers. What was
/// copied until then stays, and the next run goes on.
#[boxed]
pub async fn copy(
    from: &Repository,
    to: &mut Repository,
    cx: &OpContext,
    plan: CopyPlan,
    job: &CopyJob,
) -> Result<CopyReport> {
    to.keys().ledger_key(&job.host)?;
    let mut report = CopyReport::default();
    family::bring_roots(from, to, cx, job, &mut report).await?;
    let to = &*to;
    let outcome = run(from, to, cx, plan, job, &mut report).await;
    let draft = LedgerDraft {
        op: "copy",
        snapshot: None,
        root: None,
        counts: vec![
            ("bytes", report.bytes),
            ("packs", report.packs),
            ("snapshots", report.copied.len() as u64),
        ],
        outcome: match &outcome {
            Ok(()) if report.findings.is_empty() => RecordOutcome::Ok,
            Ok(()) => RecordOutcome::Findings,
            Err(EngineError::Cancelled) => RecordOutcome::Cancelled,
            Err(_) => RecordOutcome::Failed,
        },
        note: format!("to {}", to.location()),
    };
    if report.copied.is_empty() && outcome.is_ok() {
        return Ok(report);
    }
    // It was read, whatever came of it; that it cannot be recorded stops nobody.
    match record_operation(from, cx, &job.host, &job.user, draft).await {
        Ok(findings) => report.findings.extend(findings),
        Err(error) => {
            let detail = format!("that it was copied from is not in it: {error}");
            let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
            let subject = format!("the ledger of {}", from.location());
            report
                .findings
                .push(Finding::new(severity, kind, subject, detail));
        }
    }
    outcome.map(|()| report)
}

/// Records what runs that were killed have brought and not recorded.
async fn record_earlier(
    to: &Repository,
    cx: &OpContext,
    chain: &mut Chain<'_>,
    job: &CopyJob,
    heads: &[SnapshotHead],
) -> Result<()> {
    let ids: Vec<_> = heads.iter().map(|head| head.meta.id).collect();
    let unknown: HashSet<_> = chain.unknown(&ids).into_iter().collect();
    // Brought again, or not taken away by a `forget` that was killed: what is there must be known to be there.
    let forgotten = chain.forgotten(&ids);
    for head in heads {
        let id = head.meta.id;
        let is_back = forgotten.contains(&id) && to.has_snapshot(cx, id).await?;
        if !is_back && !unknown.contains(&id) {
            continue;
        }
        commit::protect(to, cx, id).await;
        let note = "recorded by a later run, which found it without a record";
        let draft = commit::record_of(head, note);
        chain.append(&job.host, &job.user, draft).await?;
        if forgotten.contains(&id) && !to.has_snapshot(cx, id).await? {
            // Whoever forgot it has only now taken it away.
            let draft = LedgerDraft {
                op: "forget",
                note: "it went while a copy recorded that it is there".into(),
                ..commit::record_of(head, "")
            };
            chain.append(&job.host, &job.user, draft).await?;
        }
    }
    Ok(())
}

async fn run(
    from: &Repository,
    to: &Repository,
    cx: &OpContext,
    plan: CopyPlan,
    job: &CopyJob,
    report: &mut CopyReport,
) -> Result<()> {
    report.findings.extend(plan.findings);
    let (mut heads, mut there) = (Vec::new(), Vec::new());
    for (head, fate) in plan.snapshots {
        match fate {
            Fate::Copy => heads.push(head),
            Fate::There => there.push(head),
            Fate::Forgotten => {}
        }
    }
    let mut chain = Chain::read(to, cx).await?;
    record_earlier(to, cx, &mut chain, job, &there).await?;
    drop(there);
    if heads.is_empty() {
        report.findings.extend(chain.into_findings());
        return Ok(());
    }
    cx.tell(Event::Entered {
        stage: Stage::Copy,
        entries: Some(plan.packs),
        bytes: Some(plan.bytes),
    });
    first_seen(from, cx, &job.host, &mut heads).await?;
    let mut shipment = Shipment::begin(from, to, cx, job).await?;
    let mut outcome = Ok(());
    for head in heads {
        if cx.cancel.is_cancelled() {
            outcome = Err(EngineError::Cancelled);
            break;
        }
        match shipment.bring(&head).await {
            Ok(Done::Brought { is_session_over }) => {
                outcome = recorded(to, cx, &mut chain, job, &head).await;
                report.copied.push(head.meta);
                if is_session_over || shipment.made() >= MOST_OF_SESSION {
                    outcome = match outcome {
                        Ok(()) => shipment.renew().await,
                        failed => failed,
                    };
                }
            }
            Ok(Done::There) => {}
            Ok(Done::Skipped(finding)) => report.findings.push(finding),
            Ok(Done::Judged) => {
                report.findings.push(judged(head.meta.id));
                outcome = shipment.renew().await;
            }
            Err(error) if error.is_damage() => {
                let subject = format!("snapshot {}", head.meta.id);
                report.findings.push(damage(subject, &error));
            }
            Err(error) => outcome = Err(error),
        }
        if outcome.is_err() {
            break;
        }
    }
    let ended = shipment.end(outcome.is_ok()).await;
    (report.packs, report.bytes) = (ended.packs, report.bytes + ended.bytes);
    cx.tell(Event::Left(Stage::Copy));
    report.findings.extend(chain.into_findings());
    outcome.and(ended.outcome)
}

/// Puts the sidecar of a snapshot there and its record into the ledger. It has come, also if the run is called off now.
async fn recorded(
    to: &Repository,
    cx: &OpContext,
    chain: &mut Chain<'_>,
    job: &CopyJob,
    head: &SnapshotHead,
) -> Result<()> {
    let mut own = cx.clone();
    own.cancel = CancellationToken::new();
    commit::protect(to, &own, head.meta.id).await;
    let draft = commit::record_of(head, "");
    chain.append(&job.host, &job.user, draft).await
}
