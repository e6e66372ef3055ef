//! The workers of a restore: they fetch ranges, open chunks, and write their parts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, ScopedJoinHandle};

use backup_core::{
    ByteRange, EntryOutcome, EntryWriter, ErrorKind, Event, Finding, FindingKind, OpContext,
    PositionalWriter, Restore, RestoreEntry, SinkError, Stage, TargetError,
};
use backup_format::seal::{BlobCodec, BlobKind};
use backup_integrity::digest::ContentHasher;
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::runtime::Handle;

use super::begun::Begun;
use super::opened::{Claim, Claimed, Opened};
use super::salvage::Salvage;
use super::window::{ChunkJob, FileJob, Part, RangeJob, Window};
use crate::error::{EngineError, Result};
use crate::index_set::Place;
use crate::repository::Repository;
use crate::store::cpu_threads;

/// Tasks that wait for a worker.
const QUEUED: usize = 2;
/// Findings that are kept.
pub(super) const MOST_FINDINGS: usize = 10_000;

enum Task {
    Range(RangeJob),
    /// A chunk that is in none of the places which the index had when the window was made.
    Elsewhere(Box<ChunkJob>),
    Empty(Arc<FileJob>),
}

/// Worker threads and what they share.
pub(super) struct Workers<'a> {
    repo: &'a Repository,
    pub(super) cx: &'a OpContext,
    pub(super) restore: &'a dyn Restore,
    handle: Handle,
    tasks: Mutex<Option<Sender<Task>>>,
    source: Mutex<Option<Receiver<Task>>>,
    findings: Mutex<Vec<Finding>>,
    failure: Mutex<Option<EngineError>>,
    opened: Opened,
    /// How many threads there are to be.
    count: usize,
    pub(super) begun: Begun,
    fetched: AtomicU64,
    /// Who is told of what is lost, if what is left is to be kept.
    pub(super) salvage: Option<Salvage>,
}

/// Where chunks of one pack lie, as one range.
struct Span {
    place: Place,
    start: u64,
    length: u64,
}

impl Span {
    /// Of chunks in the order of their offsets.
    fn of(chunks: &[(ChunkJob, Claimed<'_>)]) -> Option<Self> {
        let place = |(chunk, _): &(ChunkJob, Claimed<'_>)| chunk.place;
        let (first, last) = (place(chunks.first()?)?, place(chunks.last()?)?);
        let start = u64::from(first.located.offset);
        let end = u64::from(last.located.offset) + u64::from(last.located.stored);
        Some(Self {
            place: first,
            start,
            length: end.saturating_sub(start),
        })
    }
}

/// The threads, to be waited for.
pub(super) struct Running<'scope, 'a> {
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
    workers: &'scope Workers<'a>,
}

impl Running<'_, '_> {
    /// Waits for the threads; says how many bytes were fetched.
    pub(super) fn join(self) -> u64 {
        for thread in self.threads {
            // A panic was noted when it happened.
            let _ = thread.join();
        }
        self.workers.fetched.load(Ordering::Relaxed)
    }
}

/// Says of a worker that panics why the restore fails, before the driver hears that it is gone.
struct Ending<'a, 'b>(&'a Workers<'b>);

impl Drop for Ending<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(EngineError::Panicked("a restore worker"));
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Workers<'a> {
    pub(super) fn new(
        repo: &'a Repository,
        cx: &'a OpContext,
        restore: &'a dyn Restore,
        salvage: Option<Salvage>,
    ) -> Result<Self> {
        let (tasks, source) = bounded(QUEUED);
        let count = cpu_threads(cx)
            .max(2)
            .min(cx.limits.memory_bytes / (16 << 20))
            .max(1);
        Ok(Self {
            repo,
            cx,
            restore,
            handle: Handle::current(),
            tasks: Mutex::new(Some(tasks)),
            source: Mutex::new(Some(source)),
            findings: Mutex::default(),
            failure: Mutex::default(),
            opened: Opened::default(),
            count,
            // Each of them may be at a window of its own; one more is being collected.
            begun: Begun::of_this_process(count + QUEUED + 1),
            fetched: AtomicU64::new(0),
            salvage,
        })
    }

    pub(super) fn spawn<'scope>(
        &'scope self,
        scope: &'scope Scope<'scope, '_>,
    ) -> Result<Running<'scope, 'a>> {
        let mut threads = Vec::new();
        // Only the workers hold the end where tasks come out: when the last of them is gone, however
        // it went, nobody waits for one to take a task.
        let source = lock(&self.source).take();
        for number in 0..self.count {
            let source = source.clone();
            let thread = std::thread::Builder::new()
                .name(format!("restore-{number}"))
                .spawn_scoped(scope, move || self.work(source))
                // Those that run already must not wait for tasks.
                .inspect_err(|_| self.end())
                .map_err(EngineError::NoThread)?;
            threads.push(thread);
        }
        Ok(Running {
            threads,
            workers: self,
        })
    }

    /// No more tasks will come.
    pub(super) fn end(&self) {
        lock(&self.tasks).take();
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        std::mem::take(&mut *lock(&self.findings))
    }

    pub(super) fn found(&self, finding: Finding) {
        self.cx.tell(Event::Found(&finding));
        let mut findings = lock(&self.findings);
        if findings.len() < MOST_FINDINGS {
            findings.push(finding);
        }
    }

    pub(super) fn found_target(&self, entry: &RestoreEntry, error: &TargetError) {
        if error.kind == ErrorKind::NoSpace {
            // Every further file would fail alike, each leaving a fragment.
            self.fail(EngineError::TargetFull(error.to_string()));
            return;
        }
        self.found(super::failure(entry, error));
    }

    fn fail(&self, error: EngineError) {
        lock(&self.failure).get_or_insert(error);
    }

    /// Whether the restore can go on.
    pub(super) fn check(&self) -> Result<()> {
        if let Some(error) = lock(&self.failure).take() {
            return Err(error);
        }
        if self.cx.cancel.is_cancelled() {
            Err(EngineError::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Waits until enough of the begun files were finished for a window of others. All of their parts
    /// must have been sent.
    pub(super) fn wait_for_room(&self) -> Result<()> {
        while !self.begun.wait() {
            self.check()?;
        }
        Ok(())
    }

    /// Whether everything that was sent was done; for when the workers have ended.
    pub(super) fn done(&self) -> Result<()> {
        lock(&self.failure).take().map_or(Ok(()), Err)
    }

    pub(super) fn send(&self, window: Window) -> Result<()> {
        let (ranges, lost) = window.ranges();
        for chunk in lost {
            self.put(Task::Elsewhere(Box::new(chunk)))?;
        }
        for range in ranges {
            self.put(Task::Range(range))?;
        }
        Ok(())
    }

    pub(super) fn finish_empty(&self, job: &Arc<FileJob>) {
        if let Err(error) = self.put(Task::Empty(job.clone())) {
            self.fail(error);
        }
    }

    fn put(&self, task: Task) -> Result<()> {
        let tasks = lock(&self.tasks).clone();
        let sent = tasks.map(|tasks| tasks.send(task));
        if matches!(sent, Some(Ok(()))) {
            Ok(())
        } else {
            Err(EngineError::Cancelled)
        }
    }

    fn work(&self, source: Option<Receiver<Task>>) {
        let _ending = Ending(self);
        let mut codec = match BlobCodec::opener() {
            Ok(codec) => codec,
            Err(error) => {
                self.fail(EngineError::Seal(error));
                return;
            }
        };
        let mut plain = Vec::new();
        for task in source.iter().flatten() {
            if self.cx.cancel.is_cancelled() {
                self.fail(EngineError::Cancelled);
            }
            if lock(&self.failure).is_some() {
                continue;
            }
            match task {
                Task::Range(range) => self.range(range, &mut codec, &mut plain),
                Task::Elsewhere(chunk) => self.elsewhere(&chunk),
                Task::Empty(job) => self.finish(&job),
            }
        }
    }

    fn range(&self, range: RangeJob, codec: &mut BlobCodec, plain: &mut Vec<u8>) {
        let (mut ours, mut busy) = (Vec::new(), Vec::new());
        for chunk in range.chunks {
            match self.opened.claim(chunk.id) {
                Claim::Kept(kept) => self.parts(&chunk, &kept),
                Claim::Busy => busy.push(chunk),
                Claim::Ours(claimed) => ours.push((chunk, claimed)),
            }
        }
        self.open(ours, codec, plain);
        // What others are opening comes last: nobody waits with a claim in hand.
        for chunk in busy {
            match self.opened.wait(chunk.id) {
                Claim::Kept(kept) => self.parts(&chunk, &kept),
                Claim::Ours(claimed) => self.open(vec![(chunk, claimed)], codec, plain),
                Claim::Busy => self.fail(EngineError::Panicked("a restore worker")),
            }
        }
    }

    /// Fetches chunks that lie near each other in one pack, opens them and writes their parts.
    fn open(
        &self,
        chunks: Vec<(ChunkJob, Claimed<'_>)>,
        codec: &mut BlobCodec,
        plain: &mut Vec<u8>,
    ) {
        let Some(span) = Span::of(&chunks) else {
            return;
        };
        let bytes = match self.get(&span) {
            Ok(bytes) => bytes,
            // A chunk that was not waited for is not damaged.
            Err(_) if self.cx.cancel.is_cancelled() => return self.fail(EngineError::Cancelled),
            // Every further file would be told to be damaged, and is only not warm yet.
            Err(EngineError::Sink(error)) if self.ends(&error) => {
                return self.fail(EngineError::Sink(error));
            }
            // Perhaps only some of the range is gone: try chunk by chunk.
            Err(_) if chunks.len() > 1 => {
                return chunks
                    .into_iter()
                    .for_each(|chunk| self.open(vec![chunk], codec, plain));
            }
            Err(EngineError::Sink(error)) if error.kind != ErrorKind::NotFound => {
                let is_damaged = error.kind == ErrorKind::Damaged;
                let error = EngineError::Sink(error);
                let (kind, why) = (error.kind_of_loss(), error.words_of_loss());
                return chunks.iter().for_each(|(chunk, _)| match is_damaged {
                    _ if self.repo.has_others() => self.elsewhere(chunk),
                    true if self.is_elsewhere_too(chunk) => self.elsewhere(chunk),
                    _ => self.lose(chunk, kind, &why),
                });
            }
            // Its pack may have been deleted because the chunk is in another.
            Err(_) => return chunks.iter().for_each(|(chunk, _)| self.elsewhere(chunk)),
        };
        for (chunk, claimed) in chunks {
            let Some(place) = chunk.place else { continue };
            let start = u64::from(place.located.offset).saturating_sub(span.start);
            let end = start + u64::from(place.located.stored);
            let part = usize::try_from(start).ok().zip(usize::try_from(end).ok());
            let sealed = part
                .and_then(|(start, end)| bytes.get(start..end))
                .unwrap_or_default();
            let raw = place.located.raw as usize;
            match self
                .repo
                .open_blob(codec, BlobKind::Data, &chunk.id, raw, sealed, plain)
            {
                Ok(()) if chunk.is_needed_whole() => self.parts(&chunk, plain),
                Ok(()) => {
                    let kept = Arc::new(std::mem::take(plain));
                    claimed.keep(kept.clone());
                    self.parts(&chunk, &kept);
                }
                // In another place it may be whole, and the end of its pack may say the key that opens it.
                Err(error) if error.is_damage() => self.elsewhere(&chunk),
                Err(error) => self.lose(&chunk, error.kind_of_loss(), &error.words_of_loss()),
            }
        }
    }

    /// Whether nothing can be restored before packs are warmed: no other copy gives what lies in them.
    fn ends(&self, error: &SinkError) -> bool {
        error.kind == ErrorKind::Cold && !self.repo.has_others()
    }

    /// Whether the index knows several places of a chunk: one may be whole where another is not.
    fn is_elsewhere_too(&self, chunk: &ChunkJob) -> bool {
        let index = self.repo.index();
        index.places(&chunk.id.prefix()).nth(1).is_some()
    }

    /// Looks for a chunk wherever it may be, and writes its parts.
    fn elsewhere(&self, chunk: &ChunkJob) {
        let read = self.repo.read_blob(self.cx, BlobKind::Data, &chunk.id);
        match self.handle.block_on(read) {
            Ok(plain) => {
                self.fetched
                    .fetch_add(plain.len() as u64, Ordering::Relaxed);
                self.parts(chunk, &plain);
            }
            Err(_) if self.cx.cancel.is_cancelled() => self.fail(EngineError::Cancelled),
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::Cold => {
                self.fail(EngineError::Sink(error));
            }
            Err(error) => {
                self.lose(chunk, error.kind_of_loss(), &error.words_of_loss());
            }
        }
    }

    fn parts(&self, chunk: &ChunkJob, plain: &[u8]) {
        chunk.parts.iter().for_each(|part| self.part(part, plain));
    }

    fn get(&self, span: &Span) -> Result<Bytes> {
        let key = Repository::pack_key(&span.place)?;
        if self.repo.is_down() {
            let why = "its tier did not answer".into();
            let object = key.to_string();
            return Err(EngineError::Missing { object, why });
        }
        let range = ByteRange::Span {
            offset: span.start,
            length: span.length,
        };
        let bytes = self
            .handle
            .block_on(self.repo.sink().get(self.cx, &key, range))?;
        self.fetched.fetch_add(span.length, Ordering::Relaxed);
        Ok(bytes)
    }

    fn part(&self, part: &Part, plain: &[u8]) {
        if !part.job.has_failed() {
            let span = part.offset as usize..part.offset as usize + part.length as usize;
            let wrote = match (plain.get(span), self.writer(&part.job)) {
                (Some(bytes), Some(writer)) => writer.write_at(part.at, bytes),
                (None, _) => Err(TargetError::new(
                    ErrorKind::Damaged,
                    "read",
                    "an extent outside its chunk",
                )),
                (_, None) => Ok(()),
            };
            match wrote {
                Ok(()) => {
                    let bytes = u64::from(part.length);
                    self.cx.tell(Event::Advanced {
                        stage: Stage::Write,
                        entries: 0,
                        bytes,
                    });
                }
                Err(error) => {
                    if part.job.fail() {
                        self.found_target(&part.job.entry, &error);
                    }
                }
            }
        }
        if part.job.part_done() {
            self.finish(&part.job);
        }
    }

    fn writer(&self, job: &FileJob) -> Option<Arc<dyn PositionalWriter>> {
        match &*job.lock() {
            Some(EntryWriter::Positional(writer)) => Some(writer.clone()),
            _ => None,
        }
    }

    fn finish(&self, job: &FileJob) {
        let Some(writer) = job.lock().take() else {
            return;
        };
        let lost = lock(&job.lost).take();
        let ended = match lost {
            Some(lost) if !job.has_failed() => self.salvage(job, writer, lost),
            _ => {
                let outcome = if job.has_failed() {
                    EntryOutcome::Failed
                } else {
                    EntryOutcome::Whole
                };
                self.restore.finish(self.cx, &job.entry, writer, outcome)
            }
        };
        if let Err(error) = ended {
            self.found_target(&job.entry, &error);
        }
        self.begun.one_less();
        self.cx.tell(Event::Advanced {
            stage: Stage::Write,
            entries: 1,
            bytes: 0,
        });
    }

    /// A chunk cannot be had: the files that need it fail, each with a finding, or lose these parts.
    fn lose(&self, chunk: &ChunkJob, kind: FindingKind, why: &str) {
        for part in &chunk.parts {
            if self.salvages() {
                let range = part.at..part.at + u64::from(part.length);
                lock(&part.job.lost).add(range, kind, why);
            } else if part.job.fail() {
                self.found(Finding::entry(kind, &part.job.entry.path, why));
            }
            if part.job.part_done() {
                self.finish(&part.job);
            }
        }
    }
}

/// Whether a file that was there before holds exactly the content that is to be restored.
pub(super) fn is_there(writer: &dyn PositionalWriter, entry: &RestoreEntry) -> bool {
    let Some(wanted) = entry.sha256 else {
        return false;
    };
    let mut hasher = ContentHasher::new();
    let mut buffer = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        match writer.read_at(at, &mut buffer) {
            Ok(0) => return at == entry.size && hasher.finish().0 == wanted,
            Ok(count) => {
                hasher.update(&buffer[..count]);
                at += count as u64;
                if at > entry.size {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
}
