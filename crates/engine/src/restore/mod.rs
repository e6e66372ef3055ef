//! Restoring: `plan → fetch → open → write`, out of order and in parallel.
//!
//! Entries are walked in order; their parts are collected in *windows* of up to 128 files and
//! a gibibyte of chunks, grouped by pack and fetched in long ranges, so that each part of a pack is read once for all entries that
//! need it. Worker threads fetch, open, check and write; a bad chunk fails its own files only.
//! Memory is bounded by the window and the workers, whatever the size of the snapshot.

mod begun;
mod evidence;
mod fetch;
mod held;
mod opened;
mod salvage;
mod window;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;

use backup_core::{
    EntryKind, EntryOutcome, EntryPath, EntryWriter, Event, Finding, FindingKind, HostId,
    OpContext, Outcome, Rehearsed, Restore, RestoreEntry, RestoreMode, RestorePlan, RestoreReport,
    RestoreRequest, Severity, Stage, StreamWriter, Target, TargetError,
};
use tokio::runtime::Handle;

use crate::error::{EngineError, Result};
use crate::lost::LostPage;
use crate::view::{ContentReader, Seen, SnapshotView, ViewEntry};
use backup_integrity::ledger::RecordOutcome;
pub use evidence::{Reading, record_reading};
use fetch::Workers;
use held::Lacking;
pub use salvage::{Loss, Salvage, Salvaged};
use window::{FileJob, Window};

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
    fn wanted(&self, entry: &ViewEntry, lacking: &Lacking) -> Option<RestoreEntry> {
        let record = &entry.record;
        let is_folder = record.meta.kind == EntryKind::Directory;
        Some(RestoreEntry {
            path: strip(&entry.path, &self.strip)?,
            meta: record.meta.clone(),
            size: record.size,
            sha256: record.sha256,
            // What a filter holds back is in the snapshot all the same.
            whole: self.filter.is_none() && !(is_folder && lacking.has(&entry.path)),
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
                let Some(wanted) = job.wanted(&entry, &lacking) else {
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
            let _ = running.close(cx, Outcome::Abandoned).await;
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

/// How far a restore came.
#[derive(Default)]
struct Tally {
    lost_pages: u64,
    entries: u64,
    bytes: u64,
    fetched: u64,
}

/// Restores the entries; gives what was wrong with single ones.
async fn carry_out(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    running: &dyn Restore,
    job: &RestoreJob,
    tally: &mut Tally,
) -> Result<Vec<Finding>> {
    tokio::task::block_in_place(|| {
        let workers = Workers::new(view.repository(), cx, running, job.salvage.clone())?;
        std::thread::scope(|scope| {
            let fetched = workers.spawn(scope)?;
            let mut driver = Driver {
                view,
                lacking: Lacking::of(view),
                cx,
                job,
                restore: running,
                workers: &workers,
                window: Window::of(workers.begun.batch()),
                pending: VecDeque::new(),
                nameless: Vec::new(),
                lost_pages: 0,
                entries: 0,
                bytes: 0,
            };
            let drove = Handle::current().block_on(driver.run());
            (tally.entries, tally.bytes) = (driver.entries, driver.bytes);
            tally.lost_pages = driver.lost_pages;
            drop(driver);
            workers.end();
            tally.fetched = fetched.join();
            match (drove, workers.done()) {
                // That nobody takes tasks any more has a reason.
                (Err(EngineError::Cancelled), Err(error)) => Err(error),
                (drove, done) => drove.and(done).map(|()| workers.findings()),
            }
        })
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
    let mut report = running.close(cx, outcome).await?;
    report.findings.splice(0..0, findings);
    Ok(report)
}

struct Driver<'a> {
    view: &'a SnapshotView<'a>,
    lacking: Lacking,
    cx: &'a OpContext,
    job: &'a RestoreJob,
    restore: &'a dyn Restore,
    workers: &'a Workers<'a>,
    window: Window,
    /// Folders that were passed and may yet be needed by what is below them.
    pending: VecDeque<RestoreEntry>,
    /// Folders whose own entry is lost, and that may yet be needed by what is below them.
    nameless: Vec<EntryPath>,
    lost_pages: u64,
    entries: u64,
    bytes: u64,
}

impl Driver<'_> {
    async fn run(&mut self) -> Result<()> {
        let mut walk = self.view.entries(self.job.component, &self.job.below);
        let mut is_first = true;
        // The first of the pages that are lost since the entry before.
        let mut first_lost: Option<Box<LostPage>> = None;
        while let Some(seen) = walk.step(self.cx).await? {
            let entry = match seen {
                Seen::Entry(entry) => *entry,
                Seen::Lost(lost) => {
                    let finding = lost.finding(self.view);
                    self.workers.found(finding.clone());
                    self.workers.tell_loss(|| Loss::Page(finding));
                    self.lost_pages += 1;
                    is_first &= !lost.covers(self.job.component, &self.job.below);
                    first_lost.get_or_insert(lost);
                    continue;
                }
            };
            if is_first && !self.job.below.is_root() && entry.path != self.job.below {
                break;
            }
            is_first = false;
            if let Some(lost) = first_lost.take() {
                self.note_nameless(&lost, &entry.path);
            }
            self.workers.check()?;
            self.entry(entry).await?;
        }
        if is_first && !self.job.below.is_root() {
            return Err(EngineError::NoPath {
                path: self.job.below.to_string(),
                snapshot: self.view.meta().id.short(),
            });
        }
        self.send_window()
    }

    /// Notes the folders of the first entry behind lost pages whose own entries are in these pages:
    /// had they been read, they would have come between. Later entries lie in no other such folder.
    fn note_nameless(&mut self, lost: &LostPage, path: &EntryPath) {
        let folders = std::iter::successors(path.parent(), EntryPath::parent);
        self.nameless = folders
            .filter(|folder| lost.begins_before(self.job.component, folder))
            .filter_map(|folder| strip(&folder, &self.job.strip))
            .collect();
    }

    /// Tells of the folders that an entry is put into and whose own entry is lost.
    fn tell_nameless(&mut self, path: &EntryPath) {
        let workers = self.workers;
        self.nameless.retain(|folder| {
            let is_above = path.starts_with(folder);
            if is_above {
                let detail = "its own entry is lost with a page of the manifest: it gets the owner \
                              and the permissions of a new folder";
                workers.found(Finding::entry(FindingKind::Metadata, folder, detail));
            }
            !is_above
        });
    }

    async fn entry(&mut self, entry: ViewEntry) -> Result<()> {
        let passes = self.job.passes(&entry);
        let Some(wanted) = self.job.wanted(&entry, &self.lacking) else {
            return Ok(());
        };
        let record = entry.record;
        while self
            .pending
            .back()
            .is_some_and(|folder| !wanted.path.starts_with(&folder.path))
        {
            self.pending.pop_back();
        }
        if !passes {
            if record.meta.kind == EntryKind::Directory {
                self.pending.push_back(wanted);
            }
            return Ok(());
        }
        while let Some(folder) = self.pending.pop_front() {
            self.at_once(&folder);
        }
        self.tell_nameless(&wanted.path);
        self.entries += 1;
        self.bytes = self.bytes.saturating_add(wanted.size);
        if !record.meta.kind.has_content() {
            self.at_once(&wanted);
            self.cx.tell(Event::Advanced {
                stage: Stage::Write,
                entries: 1,
                bytes: 0,
            });
            return Ok(());
        }
        let extents = match self.view.extents(self.cx, &record).await {
            Ok(extents) => extents,
            Err(error) if error.is_damage() => {
                self.lose(&wanted, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if !self.workers.begun.has_room() {
            // What is to be waited for must be under way to its end.
            self.send_window()?;
            self.workers.wait_for_room()?;
        }
        let job = FileJob::new(wanted, &extents);
        if !self.begin(&job, &extents).await {
            return Ok(());
        }
        self.collect(Arc::new(job), &extents)
    }

    /// Begins a file; says whether its content is still to be fetched. Targets may rely on entries
    /// being begun in order.
    async fn begin(&self, job: &FileJob, extents: &backup_format::extent::Extents) -> bool {
        match self.restore.start(self.cx, &job.entry) {
            Ok(EntryWriter::Positional(writer)) => {
                if writer.had_content() && fetch::is_there(&*writer, &job.entry) {
                    writer.keep(0..job.entry.size);
                    self.finish(
                        &job.entry,
                        EntryWriter::Positional(writer),
                        EntryOutcome::Whole,
                    );
                    return false;
                }
                job.began(EntryWriter::Positional(writer));
                self.workers.begun.one_more();
                return true;
            }
            Ok(EntryWriter::Stream(mut stream)) => {
                let outcome = self.drain(&job.entry, extents, &mut *stream).await;
                self.finish(&job.entry, EntryWriter::Stream(stream), outcome);
            }
            Ok(EntryWriter::None) => {
                self.finish(&job.entry, EntryWriter::None, EntryOutcome::Whole);
            }
            Err(error) => self.workers.found_target(&job.entry, &error),
        }
        false
    }

    /// Writes the content of an entry in order.
    async fn drain(
        &self,
        entry: &RestoreEntry,
        extents: &backup_format::extent::Extents,
        stream: &mut dyn StreamWriter,
    ) -> EntryOutcome {
        let mut content = ContentReader::new(self.view.repository(), extents.clone());
        loop {
            match content.next(self.cx).await {
                Ok(Some(bytes)) => {
                    if let Err(error) = stream.write(bytes.into()).await {
                        self.workers.found_target(entry, &error);
                        return EntryOutcome::Failed;
                    }
                }
                Ok(None) => return EntryOutcome::Whole,
                Err(error) => {
                    self.lose(entry, &error);
                    return EntryOutcome::Failed;
                }
            }
        }
    }

    /// Tells of an entry of whose content nothing can be had.
    fn lose(&self, entry: &RestoreEntry, error: &EngineError) {
        let (kind, why) = (FindingKind::Damaged, error.to_string());
        if !self.workers.salvages() {
            return self.workers.found(Finding::entry(kind, &entry.path, why));
        }
        self.workers.lost(
            kind,
            Salvaged {
                path: entry.path.clone(),
                size: entry.size,
                lost: std::iter::once(0..entry.size).collect(),
                kept_as: None,
                why,
            },
        );
    }

    fn collect(
        &mut self,
        job: Arc<FileJob>,
        extents: &backup_format::extent::Extents,
    ) -> Result<()> {
        let index = self.view.repository().index();
        if !self.window.add(&job, extents, &index, &mut |window| {
            self.workers.send(window)
        })? {
            self.workers.finish_empty(&job);
        }
        if self.window.is_full() {
            self.send_window()
        } else {
            Ok(())
        }
    }

    fn send_window(&mut self) -> Result<()> {
        self.workers.send(self.window.take())
    }

    fn at_once(&self, entry: &RestoreEntry) {
        match self.restore.start(self.cx, entry) {
            Ok(writer) => self.finish(entry, writer, EntryOutcome::Whole),
            Err(error) => self.workers.found_target(entry, &error),
        }
    }

    fn finish(&self, entry: &RestoreEntry, writer: EntryWriter, outcome: EntryOutcome) {
        if let Err(error) = self.restore.finish(self.cx, entry, writer, outcome) {
            self.workers.found_target(entry, &error);
        }
    }
}

/// A path with `prefix` taken off; `None` when it does not lie there.
fn strip(path: &EntryPath, prefix: &EntryPath) -> Option<EntryPath> {
    if !path.starts_with(prefix) {
        return None;
    }
    let rest = path.as_stored().get(prefix.as_stored().len()..)?;
    EntryPath::from_stored(rest.strip_prefix(&[0]).unwrap_or(rest)).ok()
}
