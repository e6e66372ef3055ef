//! The fifth stage: the entries flow through the readers and the store until everything that the
//! snapshot will name is on the tier and in an index run. Nothing names it yet.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use backup_core::{Capture, CaptureReport, Finding, OpContext, Outcome};
use backup_format::seal::ObjectKeyring;
use crossbeam_channel::{Sender, bounded};
use tokio::runtime::Handle;

use super::assemble::{Assembled, Assembler};
use super::capture::{Batches, Captured, batches, pump};
use super::chunk::{Chunked, Decider, Slot, Task, read_loop};
use super::former::Former;
use super::heads::Scratch;
use super::parent::Parent;
use super::plan::Planned;
use super::read::Reader;
use super::seal::Sealing;
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::ledger::LedgerSeen;
use crate::lineage::Lineages;
use crate::repository::{Repository, SnapshotHead};
use crate::snapshot::SnapshotJob;
use crate::state::{StateReader, StateWriter};
use crate::store::{BlobStore, Session, StoredPack, random};
use crate::usage::Usage;

/// Everything that a snapshot names is on the tier.
#[derive(Debug)]
pub struct Stored {
    pub(super) planned: Planned,
    pub(super) capture: Box<dyn Capture>,
    pub(super) report: CaptureReport,
    pub(super) session: Session,
    pub(super) index: Arc<IndexSet>,
    pub(super) assembled: Assembled,
    pub(super) packs: Vec<StoredPack>,
    pub(super) bytes_new: u64,
    pub(super) bytes_added: u64,
    pub(super) noticed: Vec<Finding>,
    pub(super) ledger: Option<LedgerSeen>,
}

/// Lets the entries flow to their end.
///
/// # Errors
/// Errors of the source, of the tier, [`EngineError::Cancelled`]. The source is told.
pub async fn store(
    repo: &Repository,
    cx: &OpContext,
    sealing: Sealing,
    job: &SnapshotJob,
) -> Result<Stored> {
    let Sealing {
        chunked,
        session,
        alive: _alive,
        store,
        index,
        noticed,
        ledger,
    } = sealing;
    let Chunked {
        captured,
        keys,
        state,
        writer,
        former,
    } = chunked;
    let Captured {
        planned,
        mut capture,
    } = captured;
    let parent = planned.parent.as_ref().filter(|_| !job.reread);
    let trees = parent.map(|parent| parent.trees(repo, planned.may_inherit));
    let lineages = Lineages::new(repo, index.clone(), trees.unwrap_or_default())?;
    let (sender, source) = batches();
    // When the source fails, those that take what it gives end as if called off.
    let cancel = cx.cancel.child_token();
    let mut taking = cx.clone();
    taking.cancel = cancel.clone();
    let flow = Flow {
        repo,
        cx: &taking,
        job,
        store: &store,
        lineages: &lineages,
        keys: &keys,
        parent: planned.inherited_from(),
        looked_in: planned.nearest.iter().chain(&planned.kin).collect(),
    };
    let handle = Handle::current();
    // The threads borrow; a scope on a thread of its own keeps the runtime free to drive the source.
    let ran = std::thread::scope(|scope| {
        let threads = std::thread::Builder::new()
            .name("assemble".into())
            .spawn_scoped(scope, || flow.run(&handle, source, state, writer, former));
        let threads = threads.map_err(EngineError::NoThread)?;
        let pump = pump(cx, &mut *capture, sender);
        let pumped = tokio::task::block_in_place(|| handle.block_on(pump));
        if pumped.is_err() {
            cancel.cancel();
        }
        let ran = threads.join();
        let ran = ran.map_err(|_| EngineError::Panicked("the assembler"))?;
        match (pumped, ran) {
            (Ok(()), ran) => ran,
            (Err(pumped), _) => Err(pumped),
        }
    });
    let closed = match ran {
        Ok(assembled) => match capture.close(cx).await {
            Ok(report) => Ok((assembled, report)),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error),
    };
    let (assembled, report) = match closed {
        Ok(closed) => closed,
        Err(error) => {
            // The outcome is known; what the source says to it changes nothing.
            let _ = capture.settle(cx, Outcome::Abandoned).await;
            return Err(error);
        }
    };
    let (bytes_new, _) = store.totals();
    let (packs, bytes_added) = tokio::task::block_in_place(|| {
        store.flush().map_err(|error| store.reason(error))?;
        let (_, bytes_added) = store.totals();
        Ok::<_, EngineError>((store.finish()?, bytes_added))
    })?;
    Ok(Stored {
        planned,
        capture,
        report,
        session,
        index,
        assembled,
        packs,
        bytes_new,
        bytes_added,
        noticed,
        ledger,
    })
}

struct Flow<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    job: &'a SnapshotJob,
    store: &'a BlobStore,
    lineages: &'a Lineages<'a>,
    keys: &'a backup_format::chunk::CutKeys,
    /// The snapshot that the source builds on by its own knowledge.
    parent: Option<&'a Parent>,
    /// Where files are looked for when no local state tells of them.
    looked_in: Vec<&'a SnapshotHead>,
}

impl Flow<'_> {
    fn decider(&self, state: StateReader, tasks: Sender<Task>, slots: Sender<Slot>) -> Decider<'_> {
        // The state of any snapshot tells which files are unchanged; only that of the parent tells
        // what a source means that leaves out what is as it is there.
        let parent = self.parent.filter(|parent| parent.has_state);
        let named = parent.map(|parent| parent.head.meta.id);
        Decider {
            cx: self.cx,
            component: 0,
            may_inherit: self.parent.is_some(),
            is_parents_state: named.is_some() && state.parent == named,
            sizes: self.repo.sizes(),
            store: self.store,
            state,
            usage: Usage::new(self.store.index()),
            tasks,
            slots,
            linked: HashSet::new(),
            batch: Vec::new(),
            batch_bytes: 0,
            last_key: Vec::new(),
        }
    }

    /// Where the run may put what does not fit in memory.
    fn scratch(&self) -> Result<Option<Scratch>> {
        let ring = ObjectKeyring::new(self.repo.id(), self.repo.keys().state_key()?);
        let folder = self.repo.cache().folder();
        Ok(folder.map(|folder| Scratch { folder, ring }))
    }

    fn run(
        &self,
        handle: &Handle,
        mut source: Batches,
        state: StateReader,
        writer: Option<StateWriter>,
        mut former: Former,
    ) -> Result<Assembled> {
        if former.is_lost() {
            let read = former.read_snapshots(self.repo, self.cx, self.keys, &self.looked_in);
            handle.block_on(read);
        }
        let sizes = self.repo.sizes();
        let readers = match self.cx.limits.readers {
            0 => 2,
            given => given,
        };
        let (tasks, task_source) = crossbeam_channel::unbounded();
        // Each slot holds at most a batch: this bounds what is read ahead.
        let (slots, slot_source) = bounded(5);
        let resumes = state.resumes;
        let decider = self.decider(state, tasks, slots);
        let salt = random()?;
        let many_pieces = Mutex::new(());
        let reader = || Reader {
            cx: self.cx,
            handle: handle.clone(),
            keys: self.keys,
            store: self.store,
            sizes,
            lineages: self.lineages,
            limit: self.job.pieces,
            may_inherit: self.parent.is_some(),
            many_pieces: &many_pieces,
        };
        let mut assembler = Assembler::new(
            self.cx,
            &self.job.component,
            self.keys,
            self.store,
            self.lineages,
            reader(),
            salt,
            writer,
            former,
            self.scratch()?,
            resumes,
            self.job.checkpoint,
        );
        std::thread::scope(|scope| {
            for _ in 0..readers {
                let tasks = task_source.clone();
                let reader = reader();
                scope.spawn(move || read_loop(&reader, &tasks));
            }
            drop(task_source);
            let deciding = scope.spawn(move || decider.run(&mut source));
            let ran = assembler.run(&slot_source);
            // Whoever waits at a slot or a task must not wait for ever.
            drop(slot_source);
            let decided = deciding
                .join()
                .map_err(|_| EngineError::Panicked("the decider"))?;
            match (ran, decided) {
                (Ok(()), Ok((usage, gone))) => {
                    if self.cx.cancel.is_cancelled() {
                        assembler.abandon();
                        return Err(EngineError::Cancelled);
                    }
                    let ended = assembler.finish(sizes);
                    let mut assembled = ended.map_err(|error| self.store.reason(error))?;
                    assembled.usage.absorb(&usage);
                    if gone && let Some(writer) = &mut assembled.writer {
                        writer.differs();
                    }
                    Ok(assembled)
                }
                (ran, decided) => {
                    assembler.abandon();
                    // One side hears of the other's failure as a cancellation.
                    let errors = [ran.err(), decided.err()].into_iter().flatten();
                    let mut told = EngineError::Cancelled;
                    for error in errors {
                        if matches!(told, EngineError::Cancelled) {
                            told = error;
                        }
                    }
                    Err(self.store.reason(told))
                }
            }
        })
    }
}
