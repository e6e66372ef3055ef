//! The walk of a restore: entries in order, each begun, and its parts handed to the workers.

use std::collections::VecDeque;
use std::sync::Arc;

use backup_core::{
    EntryKind, EntryOutcome, EntryPath, EntryWriter, Event, Finding, FindingKind, OpContext,
    Restore, RestoreEntry, Stage, StreamWriter,
};
use backup_format::extent::Extents;
use tokio::runtime::Handle;

use super::fetch::{self, Workers};
use super::held::Lacking;
use super::salvage::{Loss, Salvaged};
use super::window::{FileJob, Window};
use super::{RestoreJob, strip};
use crate::error::{EngineError, Result};
use crate::lost::LostPage;
use crate::view::{ContentReader, Seen, SnapshotView, ViewEntry};

/// How far a restore came.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) lost_pages: u64,
    pub(super) entries: u64,
    pub(super) bytes: u64,
    pub(super) fetched: u64,
}

/// Restores the entries; gives what was wrong with single ones.
pub(super) async fn carry_out(
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

/// Who walks.
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
        let Some(wanted) = self.job.wanted(&entry, &self.lacking, passes) else {
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
    async fn begin(&self, job: &FileJob, extents: &Extents) -> bool {
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
        extents: &Extents,
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
        let (kind, why) = (error.kind_of_loss(), error.words_of_loss());
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

    fn collect(&mut self, job: Arc<FileJob>, extents: &Extents) -> Result<()> {
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
