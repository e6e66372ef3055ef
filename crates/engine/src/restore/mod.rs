//! Restoring: `plan → fetch → open → write`, out of order and in parallel.
//!
//! Entries are walked in order; their parts are collected in *windows* of up to 128 files and
//! a gibibyte of chunks, grouped by pack and fetched in long ranges, so that each part of a pack is read once for all entries that
//! need it. Worker threads fetch, open, check and write; a bad chunk fails its own files only.
//! Memory is bounded by the window and the workers, whatever the size of the snapshot.

mod begun;
mod driver;
mod evidence;
mod fetch;
mod held;
mod opened;
mod salvage;
mod window;

use std::path::PathBuf;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{
    EntryKind, EntryPath, ErrorKind, Event, Finding, FindingKind, HostId, OpContext, Outcome,
    Rehearsed, Restore, RestoreEntry, RestoreMode, RestorePlan, RestoreReport, RestoreRequest,
    Severity, Stage, Target, TargetError,
};

use crate::error::{EngineError, Result};
use crate::view::{Seen, SnapshotView, ViewEntry};
use backup_integrity::ledger::RecordOutcome;
use driver::{Tally, carry_out};
pub use evidence::{Reading, record_reading};
use held::Lacking;
pub use salvage::{Loss, Salvage, Salvaged};

/// Which entries are restored: those for which the function says so.
pub type Filter = Arc<dyn Fn(&EntryPath, &ViewEntry) -> bool + Send + Sync>;

/// What is restored, and how.
#[derive(Clone)]
pub struct RestoreJob {
    /// Number of the component.
    pub component: u8,
    /// Only what is at or below this path.
    pub below: EntryPath,
    /// This path is taken off the front of every path.
    pub strip: EntryPath,
    /// Only entries that this lets pass; folders above them come along.
    pub filter: Option<Filter>,
    /// Who is told of what is lost, if what is left of files that cannot be had whole is to be kept;
    /// see [`Restore::finish_in_part`]. `None`: such files fail.
    pub salvage: Option<Salvage>,
    /// What for.
    pub mode: RestoreMode,
    /// The folder to write below.
    pub folder: Option<PathBuf>,
    /// The host that restores, for the record.
    pub host: HostId,
    /// The user who asked for it, for the record.
    pub user: String,
}

impl RestoreJob {
    /// A job that restores all of the first component.
    #[must_use]
    pub fn whole(mode: RestoreMode, folder: Option<PathBuf>, host: HostId) -> Self {
        Self {
            component: 0,
            below: EntryPath::root(),
            strip: EntryPath::root(),
            filter: None,
            salvage: None,
            mode,
            folder,
            host,
            user: String::new(),
        }
    }
}

impl RestoreJob {
    fn passes(&self, entry: &ViewEntry) -> bool {
        let passes = |filter: &Filter| filter(&entry.path, entry);
        self.filter.as_ref().is_none_or(passes)
    }

    /// What a target is told of an entry; nothing if it does not lie where the job restores.
    fn wanted(&self, entry: &ViewEntry, lacking: &Lacking, passes: bool) -> Option<RestoreEntry> {
        let record = &entry.record;
        let is_folder = record.meta.kind == EntryKind::Directory;
        Some(RestoreEntry {
            path: strip(&entry.path, &self.strip)?,
            meta: record.meta.clone(),
            size: record.size,
            sha256: record.sha256,
            // What a filter holds back is in the snapshot all the same.
            whole: self.filter.is_none() && !(is_folder && lacking.has(&entry.path)),
            on_way: is_folder && !passes,
        })
    }
}

impl std::fmt::Debug for RestoreJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RestoreJob({} into {:?})", self.below, self.folder)
    }
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct RestoreOutcome {
    /// What the target did.
    pub report: RestoreReport,
    /// Entries that were to be restored.
    pub entries: u64,
    /// Bytes of content that were to be restored.
    pub bytes: u64,
    /// Bytes that were read from the tier.
    pub fetched: u64,
    /// Pages of the manifest that cannot be read; the findings say what is lost with them.
    pub lost_pages: u64,
}

/// What a restore would do.
#[derive(Debug, Clone)]
pub struct DryRun {
    /// The target's plan. Pages of the manifest that cannot be read, and entries that could not be
    /// restored because of what stands in their places, are among its notes.
    pub plan: RestorePlan,
    /// Entries that are to be restored.
    pub entries: u64,
    /// Bytes of content that are to be restored.
    pub bytes: u64,
    /// Of these, entries in whose place something stands that stays as it is.
    pub kept: u64,
    /// And entries in whose place something stands that gives way to them, or holds their content
    /// already.
    pub replaced: u64,
    /// Entries that would be deleted.
    pub deletions: u64,
}

/// What a restore would do; only reads. `deletes` is told the path of each thing that would be
/// deleted, below the place of the restore.
///
/// # Errors
/// Damage of the manifest's root, errors of the tier and of the target.
#[boxed]
pub async fn dry_run(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    target: &dyn Target,
    job: &RestoreJob,
    deletes: &mut (dyn FnMut(&EntryPath) + Send),
) -> Result<DryRun> {
    let mut plan = target.plan(cx, &request(view, job)?).await?;
    let mut rehearsal = target.rehearse(cx, &plan).await?;
    let (mut entries, mut bytes, mut deletions) = (0, 0u64, 0);
    let (mut kept, mut replaced) = (0, 0);
    let mut told = |path: &EntryPath| {
        deletions += 1;
        deletes(path);
    };
    let lacking = Lacking::of(view);
    let mut outcome = Outcome::Committed;
    let mut walk = view.entries(job.component, &job.below);
    while let Some(seen) = walk.step(cx).await? {
        let note = match seen {
            Seen::Entry(entry) if job.passes(&entry) => {
                let Some(wanted) = job.wanted(&entry, &lacking, true) else {
                    continue;
                };
                entries += 1;
                bytes = bytes.saturating_add(wanted.size);
                let seen = rehearsal.as_mut().map(|it| it.see(&wanted, &mut told));
                match seen {
                    Some(Err(error)) => Some(failure(&wanted, &error)),
                    Some(Ok(seen)) => {
                        kept += u64::from(seen == Rehearsed::Stays);
                        replaced += u64::from(seen == Rehearsed::Replaced);
                        None
                    }
                    None => None,
                }
            }
            Seen::Entry(_) => None,
            Seen::Lost(lost) => {
                outcome = Outcome::Abandoned;
                Some(lost.finding(view))
            }
        };
        if plan.notes.len() < fetch::MOST_FINDINGS {
            plan.notes.extend(note);
        }
    }
    if let Some(rehearsal) = rehearsal {
        plan.notes.extend(rehearsal.end(outcome, &mut told)?);
    }
    Ok(DryRun {
        plan,
        entries,
        bytes,
        kept,
        replaced,
        deletions,
    })
}

/// What is said of an entry that a target cannot take.
fn failure(entry: &RestoreEntry, error: &TargetError) -> Finding {
    let mut detail = error.to_string();
    if let Some(remedy) = error.os_error().and_then(backup_core::place_remedy) {
        detail = format!("{detail}; {remedy}");
    }
    Finding::entry(FindingKind::Unreadable, &entry.path, detail)
}

fn request(view: &SnapshotView<'_>, job: &RestoreJob) -> Result<RestoreRequest> {
    let component = view
        .components()
        .into_iter()
        .nth(usize::from(job.component));
    let component = component
        .ok_or_else(|| EngineError::Invalid(format!("there is no component {}", job.component)))?;
    Ok(RestoreRequest {
        snapshot: view.meta().clone(),
        component,
        mode: job.mode,
        folder: job.folder.clone(),
    })
}

/// Restores entries of a snapshot into a target.
///
/// Must run on a multi-threaded tokio runtime. However it ends once it has begun, the ledger gets a
/// record of it, if the key can sign one; if not, the report says so.
///
/// # Errors
/// Damage of the manifest's root, errors of the tier and of the target as a whole. What is wrong with
/// single entries, or with one of the pages that name them, is in the report's findings.
#[boxed]
pub async fn restore(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    target: Arc<dyn Target>,
    job: &RestoreJob,
) -> Result<RestoreOutcome> {
    let plan = target.plan(cx, &request(view, job)?).await?;
    // Of a part nobody knows the size before it was walked.
    let is_all = job.filter.is_none() && job.below.is_root() && view.components().len() == 1;
    cx.tell(Event::Entered {
        stage: Stage::Write,
        entries: is_all.then_some(view.meta().stats.entries),
        bytes: is_all.then_some(view.meta().stats.bytes),
    });
    let running = target.begin(cx, plan).await?;
    let mut tally = Tally::default();
    let restored = carry_out(view, cx, &*running, job, &mut tally).await;
    let restored = match restored {
        Ok(findings) => close(running, cx, findings).await,
        Err(error) => {
            // What was restored stays; the error says why it is not all.
            let _ = running.close(cx, Outcome::BrokenOff).await;
            Err(error)
        }
    };
    let (outcome, findings) = match &restored {
        Ok(report) => {
            let serious = |finding: &&Finding| finding.severity > Severity::Note;
            match report.findings.iter().filter(serious).count() as u64 {
                0 => (RecordOutcome::Ok, 0),
                count => (RecordOutcome::Findings, count),
            }
        }
        Err(_) if cx.cancel.is_cancelled() => (RecordOutcome::Cancelled, 0),
        Err(_) => (RecordOutcome::Failed, 0),
    };
    let reading = Reading {
        entries: tally.entries,
        bytes: tally.bytes,
        findings,
        outcome,
        note: String::new(),
    };
    let of_ledger = record_reading(view, cx, &job.host, &job.user, reading).await;
    for finding in &of_ledger {
        cx.tell(Event::Found(finding));
    }
    let mut report = restored?;
    report.findings.extend(of_ledger);
    cx.tell(Event::Left(Stage::Write));
    Ok(RestoreOutcome {
        report,
        entries: tally.entries,
        bytes: tally.bytes,
        fetched: tally.fetched,
        lost_pages: tally.lost_pages,
    })
}

/// Ends a restore that came to its end.
async fn close(
    running: Box<dyn Restore>,
    cx: &OpContext,
    findings: Vec<Finding>,
) -> Result<RestoreReport> {
    let outcome = if findings.is_empty() {
        Outcome::Committed
    } else {
        Outcome::Abandoned
    };
    let closed = running.close(cx, outcome).await;
    let mut report = closed.map_err(|error| match error.kind {
        ErrorKind::NoSpace => EngineError::TargetFull(error.to_string()),
        _ => error.into(),
    })?;
    report.findings.splice(0..0, findings);
    Ok(report)
}

/// A path with `prefix` taken off; `None` when it does not lie there.
fn strip(path: &EntryPath, prefix: &EntryPath) -> Option<EntryPath> {
    if !path.starts_with(prefix) {
        return None;
    }
    let rest = path.as_stored().get(prefix.as_stored().len()..)?;
    EntryPath::from_stored(rest.strip_prefix(&[0]).unwrap_or(rest)).ok()
}
