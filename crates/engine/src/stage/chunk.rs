//! The third stage: which entries are read, and how their content is cut.
//!
//! The *decider* thread takes entries as they come, compares each with the state of the last run,
//! and hands what must be read to the *reader* threads; the *assembler* (see [`super::assemble`])
//! takes everything up again in order.

use std::collections::HashSet;
use std::sync::Arc;

use backup_core::{Body, Entry, EntryMeta, Finding, OpContext, StreamProfile};
use backup_format::chunk::CutKeys;
use backup_format::extent::{Content, Extent, Extents, MAX_EXTENTS};
use backup_format::lineage::LineageHead;
use backup_format::wire::Take;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::capture::{Batches, Captured};
use super::former::Former;
use super::links::Link;
use super::parent::Location;
use super::read::{Before, Item, Noted, Reader, Work};
use crate::error::{EngineError, Result};
use crate::lineage::Inherited;
use crate::repository::{Repository, Sizes};
use crate::snapshot::SnapshotJob;
use crate::state::{Known, StateEntry, StateReader, StateWriter};
use crate::store::BlobStore;
use crate::usage::Usage;

/// Entries of one batch of small files.
const BATCH: usize = 64;
/// Bytes of one batch of small files.
const BATCH_BYTES: u64 = 2 << 20;

/// A capture with the state that tells what to read.
#[derive(Debug)]
pub struct Chunked {
    pub(super) captured: Captured,
    pub(super) keys: CutKeys,
    pub(super) state: StateReader,
    pub(super) writer: Option<StateWriter>,
    pub(super) former: Former,
}

/// Opens the state of the last run.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot write.
pub fn chunk(repo: &Repository, captured: Captured, job: &SnapshotJob) -> Result<Chunked> {
    let Location { paths, ring } = Location::of(repo, &captured.planned.info, job)?;
    let state = match &paths {
        Some(paths) if !job.reread => StateReader::open(paths, &ring),
        _ => StateReader::empty(),
    };
    let last = paths.clone().map(|paths| (paths, ring.clone()));
    let former = Former::new(last, job.reread);
    let writer = paths.map(|paths| StateWriter::new(paths, ring));
    Ok(Chunked {
        captured,
        keys: repo.cut_keys()?,
        state,
        writer,
        former,
    })
}

/// What readers are given to do.
pub(super) enum Task {
    /// Small files, and what lies between them.
    Batch(Vec<Item>, Sender<Result<Vec<Noted>>>),
    /// A large file or a stream.
    Stream(Box<StreamTask>, Sender<Result<Vec<Noted>>>),
    /// What is unchanged, as only the parent snapshot itself can tell.
    Inherit(Box<Item>, Sender<Result<Vec<Noted>>>),
}

/// A large file or a stream to be cut.
pub(super) struct StreamTask {
    item: Item,
    body: Body,
    profile: StreamProfile,
    size: Option<u64>,
    known: Option<StateEntry>,
}

/// Items in order, there already or to come.
pub(super) enum Slot {
    Ready(Vec<Noted>),
    Coming(Receiver<Result<Vec<Noted>>>),
}

/// Where the decider puts its work.
pub(super) struct Decider<'a> {
    pub(super) cx: &'a OpContext,
    pub(super) component: u8,
    /// Whether the source may say that content is unchanged.
    pub(super) may_inherit: bool,
    /// Whether the state's last complete run made the snapshot that the source builds on.
    pub(super) is_parents_state: bool,
    pub(super) sizes: Sizes,
    pub(super) store: &'a BlobStore,
    pub(super) state: StateReader,
    pub(super) usage: Usage,
    pub(super) tasks: Sender<Task>,
    pub(super) slots: Sender<Slot>,
    pub(super) linked: HashSet<u64>,
    pub(super) batch: Vec<Item>,
    pub(super) batch_bytes: u64,
    pub(super) last_key: Vec<u8>,
}

impl Decider<'_> {
    /// Runs until the entries end; returns what is used of the index, and whether entries of the
    /// last run are gone.
    pub(super) fn run(mut self, batches: &mut Batches) -> Result<(Usage, bool)> {
        while let Some(entries) = batches.blocking_recv() {
            for entry in entries {
                self.decide(entry)?;
            }
            self.store.check()?;
        }
        self.end_batch()?;
        let gone = self.state.has_passed_over() || self.state.has_more();
        Ok((self.usage, gone))
    }

    fn decide(&mut self, entry: Entry) -> Result<()> {
        let Entry {
            path,
            meta,
            fingerprint,
            size,
            profile,
            body,
        } = entry;
        let mut key = Vec::with_capacity(path.as_stored().len() + 1);
        key.push(self.component);
        key.extend_from_slice(path.as_stored());
        if !self.last_key.is_empty() && key <= self.last_key {
            let why = format!("the source handed {path} over out of order or twice");
            return Err(EngineError::Invalid(why));
        }
        self.last_key.clone_from(&key);
        let Known { resumed, complete } = self.state.seek(&key);
        let mut item = Item {
            key,
            path,
            meta,
            fingerprint,
            is_racy: false,
            after_gap: self.state.has_passed_over(),
            is_new: resumed.is_none() && complete.is_none(),
            before: None,
            work: Work::Bare,
        };
        if !item.meta.kind.has_content() {
            // Cheap to write anew, and its metadata is at hand.
            item.work = match resumed.or(complete) {
                Some(known) if is_same_bare(&item, &known) => Work::Reuse(Box::new(known)),
                _ => Work::Bare,
            };
            return self.add(item, 0);
        }
        if let Some(group) = item.meta.link_group
            && !self.linked.insert(group)
        {
            item.work = Work::Link(Box::new(Link {
                group,
                body,
                profile,
            }));
            return self.add(item, 0);
        }
        if matches!(body, Body::Unchanged) {
            return self.inherit(item, complete);
        }
        if self.may_inherit && matches!(body, Body::Stream(_)) {
            // It may leave out what is as it is in the parent, whatever a killed run saw.
            let known = complete.filter(|_| self.is_parents_state);
            return self.read(item, body, profile, size, known);
        }
        let is_same =
            |known: &StateEntry| fingerprint.is_some() && known.fingerprint == fingerprint;
        match resumed.or(complete) {
            Some(known) if is_same(&known) && self.is_stored(&known) => {
                item.work = reuse(&item.meta, known)?;
                self.add(item, 0)
            }
            known => self.read(item, body, profile, size, known),
        }
    }

    /// Takes over what is as it is in the parent, which the state may know.
    fn inherit(&mut self, mut item: Item, known: Option<StateEntry>) -> Result<()> {
        if !self.may_inherit {
            return Err(item.not_a_parent());
        }
        let known = known.filter(|known| self.is_parents_state && self.is_stored(known));
        if let Some(known) = known {
            let record = known.decoded()?;
            if record.meta.kind.has_content() {
                item.work = if known.fingerprint == item.fingerprint {
                    reuse(&item.meta, known)?
                } else {
                    Work::Inherited(Box::new(Inherited::of_state(&known)?))
                };
                return self.add(item, 0);
            }
        }
        self.end_batch()?;
        let (reply, coming) = bounded(1);
        self.send_slot(Slot::Coming(coming))?;
        let task = Task::Inherit(Box::new(item), reply);
        self.tasks.send(task).map_err(|_| EngineError::Cancelled)
    }

    fn read(
        &mut self,
        mut item: Item,
        body: Body,
        profile: StreamProfile,
        declared: Option<u64>,
        known: Option<StateEntry>,
    ) -> Result<()> {
        let size = item.fingerprint.map_or(u64::MAX, |print| print.size);
        match body {
            Body::None => {
                item.work = Work::Content {
                    bytes: Vec::new(),
                    sha256: backup_integrity::digest::ContentDigest::of(&[]).0,
                };
                self.add(item, 0)
            }
            Body::File(open) if size <= self.sizes.bundle_limit => {
                item.before = known.and_then(|known| before(&known));
                item.work = Work::Read(open);
                self.add(item, size)
            }
            Body::Bytes(bytes) if bytes.len() as u64 <= self.sizes.bundle_limit => {
                let sha256 = backup_integrity::digest::ContentDigest::of(&bytes).0;
                item.work = Work::Content {
                    bytes: bytes.to_vec(),
                    sha256,
                };
                self.add(item, bytes.len() as u64)
            }
            body => {
                self.end_batch()?;
                let size = match (&body, item.fingerprint) {
                    (Body::Bytes(bytes), _) => Some(bytes.len() as u64),
                    (_, print) => declared.or(print.map(|print| print.size)),
                };
                let (reply, coming) = bounded(1);
                self.send_slot(Slot::Coming(coming))?;
                let task = Box::new(StreamTask {
                    item,
                    body,
                    profile,
                    size,
                    known,
                });
                let task = Task::Stream(task, reply);
                self.tasks.send(task).map_err(|_| EngineError::Cancelled)
            }
        }
    }

    fn add(&mut self, item: Item, bytes: u64) -> Result<()> {
        self.batch.push(item);
        self.batch_bytes += bytes;
        let is_idle = self.batch_bytes == 0;
        let full = if is_idle {
            self.batch.len() >= 1024
        } else {
            self.batch.len() >= BATCH
        };
        if full || self.batch_bytes >= BATCH_BYTES {
            self.end_batch()
        } else {
            Ok(())
        }
    }

    fn end_batch(&mut self) -> Result<()> {
        let items = std::mem::take(&mut self.batch);
        if items.is_empty() {
            return Ok(());
        }
        self.batch_bytes = 0;
        if !items.iter().any(|item| matches!(item.work, Work::Read(_))) {
            return self.send_slot(Slot::Ready(
                items.into_iter().map(|item| (item, None)).collect(),
            ));
        }
        let (reply, coming) = bounded(1);
        self.send_slot(Slot::Coming(coming))?;
        self.tasks
            .send(Task::Batch(items, reply))
            .map_err(|_| EngineError::Cancelled)
    }

    fn send_slot(&self, slot: Slot) -> Result<()> {
        if self.cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        self.slots.send(slot).map_err(|_| EngineError::Cancelled)
    }

    /// Whether everything that a state names is in the repository; marks it as used.
    fn is_stored(&mut self, known: &StateEntry) -> bool {
        let Ok(record) = known.decoded() else {
            return false;
        };
        let extents = match &record.content {
            Content::Inline(extents) => extents.clone(),
            Content::Spilled(_) => {
                match Extents::decode_within(&mut Take::new(&known.extents), MAX_EXTENTS) {
                    Ok(extents) => extents,
                    Err(_) => return false,
                }
            }
        };
        let index = self.store.index();
        let mut mark = |id: &backup_core::ChunkId| self.usage.mark(index, id);
        let chunks = extents.as_slice().iter().all(|extent| match extent {
            Extent::Data { chunk, .. } => mark(chunk),
            Extent::Zero { .. } => true,
        });
        let spills = match &record.content {
            Content::Spilled(ids) => ids.iter().all(&mut mark),
            Content::Inline(_) => true,
        };
        let lineage = known.lineage.is_empty()
            || LineageHead::decode(&known.lineage).is_ok_and(|head| {
                head.layers
                    .iter()
                    .flat_map(|layer| &layer.parts)
                    .all(&mut mark)
            });
        chunks && spills && lineage
    }
}

/// What is to be done with an entry whose content is as the last run saw it. Not all that is known of
/// it need be the same: the names of its owners are not its own, and the number that hard links
/// share is made up of one that a device has for the time being.
fn reuse(meta: &EntryMeta, known: StateEntry) -> Result<Work> {
    if known.decoded()?.meta == *meta {
        return Ok(Work::Reuse(Box::new(known)));
    }
    Ok(Work::Inherited(Box::new(Inherited::of_state(&known)?)))
}

/// What a small file was: a change of its owner or mode makes it look changed, and it is not.
fn before(known: &StateEntry) -> Option<Box<Before>> {
    let record = known.decoded().ok()?;
    let sha256 = record.sha256?;
    match record.content {
        Content::Inline(extents) => Some(Box::new(Before { sha256, extents })),
        Content::Spilled(_) => None,
    }
}

fn is_same_bare(item: &Item, known: &StateEntry) -> bool {
    item.fingerprint.is_some()
        && known.fingerprint == item.fingerprint
        && known.decoded().is_ok_and(|record| record.meta == item.meta)
}

/// What a reader thread does until there are no more tasks.
pub(super) fn read_loop(reader: &Reader<'_>, tasks: &Receiver<Task>) {
    for task in tasks {
        match task {
            Task::Batch(items, reply) => drop(reply.send(reader.batch(items))),
            Task::Stream(task, reply) => drop(reply.send(read_stream(reader, *task))),
            Task::Inherit(mut item, reply) => {
                let inherited = reader.inherit(&mut item);
                drop(reply.send(inherited.map(|()| vec![(*item, None)])));
            }
        }
    }
}

fn read_stream(reader: &Reader<'_>, task: StreamTask) -> Result<Vec<Noted>> {
    let StreamTask {
        mut item,
        body,
        profile,
        size,
        known,
    } = task;
    let finding: Option<Finding> = match body {
        Body::File(open) => {
            let open: Arc<dyn backup_core::OpenContent> = open;
            reader.file(&mut item, &open, profile, known.as_ref())?
        }
        body => {
            reader.body(&mut item, body, profile, size, known.as_ref())?;
            None
        }
    };
    Ok(vec![(item, finding)])
}
