//! Assembling: entries in order again, small files laid together in bundles, records written into
//! the manifest's pages, leaves into the Merkle tree, the state for the next run.

use std::collections::VecDeque;

use backup_core::{
    ChunkId, EntryPath, Event, Finding, FindingKind, Fingerprint, OpContext, Severity, Stage,
};
use backup_format::chunk::CutKeys;
use backup_format::extent::{Content, Extent, Extents};
use backup_format::page::{TreeBuilder, TreeRoot};
use backup_format::record::Record;
use backup_format::seal::{BlobKind, MAX_RAW};
use backup_integrity::canonical::{CanonicalEntry, CanonicalError};
use backup_integrity::merkle::{SnapshotTree, SnapshotTreeBuilder};
use crossbeam_channel::Receiver;

use super::bundles::{Bundles, Located};
use super::checkpoint::{CheckpointRule, Checkpoints};
use super::chunk::Slot;
use super::counts::Counts;
use super::former::Former;
use super::heads::{Heads, Scratch};
use super::links::{Link, Links, Place, Stored};
use super::read::{Before, Item, Noted, Reader, Work};
use super::waiting::{Next, Waiting};
use crate::error::{EngineError, Result};
use crate::lineage::{Inherited, Lineages};
use crate::repository::Sizes;
use crate::state::{StateEntry, StateWriter};
use crate::store::BlobStore;
use crate::usage::Usage;

/// Entries that may wait for an open bundle to end, and what is known of them in bytes.
const MOST_WAITING: usize = 1 << 16;
const MOST_WAITING_BYTES: usize = 16 << 20;
/// Bytes of a key and its record: they must go into one blob, with what else is on their page.
const MOST_RECORD: usize = MAX_RAW - (256 << 10);

/// Everything that a snapshot names, stored.
#[derive(Debug)]
pub(super) struct Assembled {
    pub(super) manifest: Option<TreeRoot>,
    pub(super) lineage: Option<TreeRoot>,
    pub(super) tree: SnapshotTree,
    pub(super) salt: [u8; 32],
    pub(super) counts: Counts,
    pub(super) usage: Usage,
    pub(super) writer: Option<StateWriter>,
}

/// Puts entries together.
pub(super) struct Assembler<'a> {
    cx: &'a OpContext,
    component: &'a str,
    keys: &'a CutKeys,
    store: &'a BlobStore,
    lineages: &'a Lineages<'a>,
    reader: Reader<'a>,
    pages: TreeBuilder,
    tree: SnapshotTreeBuilder,
    salt: [u8; 32],
    bundles: Bundles,
    waiting: VecDeque<Next>,
    waiting_bytes: usize,
    links: Links,
    heads: Heads,
    counts: Counts,
    usage: Usage,
    writer: Option<StateWriter>,
    former: Former,
    reuse_counts_as_same: bool,
    scratch: Vec<u8>,
    checkpoints: Checkpoints,
}

impl<'a> Assembler<'a> {
    /// An assembler for one component.
    #[allow(
        clippy::too_many_arguments,
        reason = "it is made in one place, by name"
    )]
    pub(super) fn new(
        cx: &'a OpContext,
        component: &'a str,
        keys: &'a CutKeys,
        store: &'a BlobStore,
        lineages: &'a Lineages<'a>,
        reader: Reader<'a>,
        salt: [u8; 32],
        writer: Option<StateWriter>,
        former: Former,
        scratch: Option<Scratch>,
        resumes: bool,
        rule: CheckpointRule,
    ) -> Self {
        let mut writer = writer;
        if resumes && let Some(writer) = &mut writer {
            writer.differs();
        }
        Self {
            cx,
            component,
            keys,
            store,
            lineages,
            pages: TreeBuilder::new(reader.sizes.pages),
            tree: SnapshotTreeBuilder::new(salt),
            salt,
            bundles: Bundles::new(reader.sizes.chunks),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            links: Links::default(),
            heads: Heads::new(scratch),
            counts: Counts::default(),
            usage: Usage::new(store.index()),
            writer,
            former,
            reader,
            reuse_counts_as_same: true,
            scratch: Vec::new(),
            checkpoints: Checkpoints::by(rule),
        }
    }

    /// Takes all items in order.
    ///
    /// # Errors
    /// Failures of readers and of the store.
    pub(super) fn run(&mut self, slots: &Receiver<Slot>) -> Result<()> {
        // Of what was cut its readers have told; it may be counted some slots later.
        let mut told = 0;
        for slot in slots {
            let items = match slot {
                Slot::Ready(items) => items,
                Slot::Coming(coming) => coming.recv().map_err(|_| {
                    self.store
                        .check()
                        .err()
                        .unwrap_or(EngineError::Panicked("a reader"))
                })??,
            };
            let (entries, before) = (items.len() as u64, self.counts.bytes);
            for (item, finding) in items {
                let (item, later) = self.settle_link(item)?;
                for finding in finding.into_iter().chain(later) {
                    self.counts.found(self.cx, finding);
                }
                if let Work::Cut { stream, .. } = &item.work {
                    told += stream.size;
                }
                self.take(item)?;
            }
            let counted = self.counts.bytes - before;
            let bytes = counted.saturating_sub(told);
            told -= counted - bytes;
            self.cx.tell(Event::Advanced {
                stage: Stage::Capture,
                entries,
                bytes,
            });
            self.checkpoint_if_due()?;
        }
        Ok(())
    }

    /// A further name of a file is read here and now if no name before it has its content. That is
    /// rare: the first could not be read, or the file was changed or replaced during the walk.
    fn settle_link(&self, mut item: Item) -> Result<Noted> {
        match std::mem::replace(&mut item.work, Work::Bare) {
            Work::Link(link) if !self.links.hold(&link, item.fingerprint) => {
                let finding = self.reader.link(&mut item, *link)?;
                Ok((item, finding))
            }
            work => {
                item.work = work;
                Ok((item, None))
            }
        }
    }

    fn take(&mut self, item: Item) -> Result<()> {
        let Item {
            key,
            path,
            meta,
            fingerprint,
            is_racy,
            after_gap,
            is_new,
            before,
            work,
        } = item;
        if after_gap {
            self.differs();
        }
        let mut next = Waiting {
            key,
            path,
            meta,
            fingerprint: fingerprint.filter(|_| !is_racy),
            size: 0,
            sha256: None,
            located: Located::Known(Content::empty()),
            lineage: Vec::new(),
            extents: Vec::new(),
        };
        match work {
            Work::Lost => {
                self.differs();
                return Ok(());
            }
            Work::Reuse(state) => {
                if let Some(group) = next.meta.link_group {
                    self.remember_reused(group, fingerprint, &state)?;
                }
                self.counts.unchanged += 1;
                return self.wait(Next::Reused(next.path, state));
            }
            Work::Bare => {}
            Work::Read(_) => return Err(EngineError::Panicked("a reader")),
            Work::Content { bytes, sha256 } => {
                (next.size, next.sha256) = (bytes.len() as u64, Some(sha256));
                self.counts.bytes_read += next.size;
                next.located = match before.and_then(|before| self.same(*before, &sha256)) {
                    Some(located) => located,
                    None => self.lay(&bytes, &sha256, is_new)?,
                };
            }
            Work::Cut { stream, sha256 } => {
                (next.size, next.sha256) = (stream.size, sha256);
                self.counts.bytes_read += next.size;
                next.lineage = stream.lineage.map(|head| head.encode()).unwrap_or_default();
                if matches!(stream.content, Content::Spilled(_)) {
                    stream.extents.encode(&mut next.extents);
                }
                self.mark_extents(&stream.extents)?;
                next.located = Located::Known(stream.content);
            }
            Work::Inherited(inherited) => {
                let Inherited {
                    size,
                    sha256,
                    content,
                    extents,
                    lineage,
                } = *inherited;
                (next.size, next.sha256) = (size, sha256);
                self.counts.unchanged += 1;
                next.lineage = lineage.map(|head| head.encode()).unwrap_or_default();
                if matches!(content, Content::Spilled(_)) {
                    extents.encode(&mut next.extents);
                }
                self.mark_extents(&extents)?;
                next.located = Located::Known(content);
            }
            Work::Link(link) => {
                self.take_link(&mut next, &link)?;
                self.differs();
                return self.wait(Next::Fresh(Box::new(next)));
            }
        }
        if let Some(group) = next.meta.link_group {
            self.remember_link(group, &next, fingerprint, is_racy);
        }
        self.differs();
        self.wait(Next::Fresh(Box::new(next)))
    }

    /// From here on the state of the last run cannot simply stand.
    const fn differs(&mut self) {
        self.reuse_counts_as_same = false;
    }

    fn take_link(&self, next: &mut Waiting, link: &Link) -> Result<()> {
        let stored = self
            .links
            .get(link.group)
            .ok_or(EngineError::Panicked("the assembler"))?;
        (next.size, next.sha256) = (stored.size, stored.sha256);
        next.extents = stored.extents;
        next.fingerprint = next.fingerprint.filter(|_| !stored.is_racy);
        next.located = match stored.place {
            Place::Content(content) => Located::Known(content),
            Place::Bundle {
                number,
                offset,
                length,
            } => self
                .bundles
                .at(number, offset, length)
                .ok_or(EngineError::Panicked("the assembler"))?,
        };
        Ok(())
    }

    fn remember_reused(
        &mut self,
        group: u64,
        state: Option<Fingerprint>,
        entry: &StateEntry,
    ) -> Result<()> {
        let record = entry.decoded()?;
        let stored = Stored {
            is_racy: false,
            size: record.size,
            sha256: record.sha256,
            place: Place::Content(record.content),
            extents: entry.extents.clone(),
        };
        self.links.remember(group, state, stored);
        Ok(())
    }

    fn remember_link(
        &mut self,
        group: u64,
        next: &Waiting,
        state: Option<Fingerprint>,
        is_racy: bool,
    ) {
        let place = match &next.located {
            Located::Known(content) => Place::Content(content.clone()),
            Located::Open { offset, length } => Place::Bundle {
                number: self.bundles.number(),
                offset: *offset,
                length: *length,
            },
        };
        let stored = Stored {
            is_racy,
            size: next.size,
            sha256: next.sha256,
            place,
            extents: next.extents.clone(),
        };
        self.links.remember(group, state, stored);
    }

    /// Where a small file lies that has the content it had before.
    fn same(&self, before: Before, sha256: &[u8; 32]) -> Option<Located> {
        let index = self.store.index();
        let is_there = before.extents.as_slice().iter().all(|extent| match extent {
            Extent::Data { chunk, .. } => index.find(chunk).is_some(),
            Extent::Zero { .. } => true,
        });
        if before.sha256 != *sha256 || !is_there {
            return None;
        }
        Some(Located::Known(Content::Inline(before.extents)))
    }

    /// Lays a small file into the open bundle, unless this run has laid its content already or the
    /// last one had.
    fn lay(&mut self, bytes: &[u8], sha256: &[u8; 32], is_new: bool) -> Result<Located> {
        if bytes.is_empty() {
            return Ok(Located::Known(Content::empty()));
        }
        let digest = self.keys.digest(sha256);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some(located) = self.bundles.find(&digest, length) {
            return Ok(located);
        }
        if let Some((chunk, offset)) = self.former.find(self.keys, &digest, is_new)
            && self.usage.mark(self.store.index(), &chunk)
        {
            return Ok(Located::in_chunk(chunk, offset, length));
        }
        if self.bundles.is_full_for(bytes.len()) {
            self.end_bundle()?;
        }
        let number = self.bundles.number();
        let (offset, ends) = self.bundles.lay(bytes, &digest);
        if ends {
            self.end_bundle()?;
        }
        self.bundles
            .at(number, offset, length)
            .ok_or(EngineError::Panicked("the assembler"))
    }

    fn end_bundle(&mut self) -> Result<()> {
        if let Some(bytes) = self.bundles.take() {
            let id = self.store.put(BlobKind::Data, bytes)?;
            self.usage.mark(self.store.index(), &id);
            self.bundles.end(id);
            // All that wait for this bundle are in front of whatever comes.
            self.release(Some(id))?;
        }
        self.release(None)
    }

    fn wait(&mut self, next: Next) -> Result<()> {
        let needs_bundle = matches!(&next, Next::Fresh(waiting) if matches!(waiting.located, Located::Open { .. }));
        if self.waiting.is_empty() && !needs_bundle {
            return self.write(next, None);
        }
        self.waiting_bytes += next.bytes();
        self.waiting.push_back(next);
        if self.waiting.len() >= MOST_WAITING || self.waiting_bytes >= MOST_WAITING_BYTES {
            self.end_bundle()
        } else {
            Ok(())
        }
    }

    fn release(&mut self, bundle: Option<ChunkId>) -> Result<()> {
        self.waiting_bytes = 0;
        while let Some(next) = self.waiting.pop_front() {
            self.write(next, bundle)?;
        }
        Ok(())
    }

    fn write(&mut self, next: Next, bundle: Option<ChunkId>) -> Result<()> {
        match next {
            Next::Reused(path, state) => self.write_reused(&path, *state),
            Next::Fresh(waiting) => self.write_fresh(*waiting, bundle),
        }
    }

    fn write_reused(&mut self, path: &EntryPath, state: StateEntry) -> Result<()> {
        let record = state.decoded()?;
        self.mark_record(&record.content, &state.lineage)?;
        self.canonical_of(path, &record)
            .map_err(|error| EngineError::Evidence(format!("{path}: {error}")))?;
        self.leaf(&record);
        self.page(&state.key, &state.record)?;
        self.stream(&state.key, &state.lineage);
        if let Some(writer) = &mut self.writer
            && !(self.reuse_counts_as_same && writer.same())
        {
            writer.differs();
            writer.push(&state);
        }
        Ok(())
    }

    fn write_fresh(&mut self, waiting: Waiting, bundle: Option<ChunkId>) -> Result<()> {
        let Waiting {
            key,
            path,
            meta,
            mut fingerprint,
            size,
            sha256,
            located,
            lineage,
            extents,
        } = waiting;
        let content = located
            .settled(bundle)
            .ok_or(EngineError::Panicked("the assembler"))?;
        let mut record = Record {
            meta,
            size,
            sha256,
            digest: None,
            content,
        };
        let mut stored = Vec::with_capacity(160);
        if let Err(why) = self.encode(&key, &path, &record, &mut stored) {
            // It is mostly the extended attributes that are too much; the rest counts without them.
            record.meta.xattrs.clear();
            fingerprint = None;
            let fits = self.encode(&key, &path, &record, &mut stored).is_ok();
            let (severity, kind, what) = if fits {
                let what = "its extended attributes are not stored";
                (Severity::Warning, FindingKind::Metadata, what)
            } else {
                let what = "it is not stored";
                (Severity::Error, FindingKind::Unreadable, what)
            };
            let finding = Finding::entry(kind, &path, format!("{what}: {why}"));
            self.counts.found(
                self.cx,
                Finding {
                    severity,
                    ..finding
                },
            );
            if !fits {
                return Ok(());
            }
        }
        self.mark_record(&record.content, &lineage)?;
        self.leaf(&record);
        self.page(&key, &stored)?;
        self.stream(&key, &lineage);
        if let Some(writer) = &mut self.writer {
            writer.differs();
            writer.push(&StateEntry {
                key,
                fingerprint,
                record: stored,
                lineage,
                extents,
            });
        }
        Ok(())
    }

    /// Encodes a record for its page and, into the scratch, for its leaf. An error says why that
    /// cannot be.
    fn encode(
        &mut self,
        key: &[u8],
        path: &EntryPath,
        record: &Record,
        stored: &mut Vec<u8>,
    ) -> Result<(), String> {
        self.canonical_of(path, record)
            .map_err(|error| error.to_string())?;
        stored.clear();
        record.encode(stored);
        if key.len() + stored.len() > MOST_RECORD {
            return Err("what is known of it is too long for a page of the manifest".into());
        }
        // What a reader would refuse would hide everything behind it.
        match Record::decode(stored) {
            Ok(read) if read == *record => Ok(()),
            Ok(_) => Err("what is known of it cannot be stored as it is".into()),
            Err(error) => Err(format!("what is known of it cannot be stored: {error}")),
        }
    }

    fn canonical_of(&mut self, path: &EntryPath, record: &Record) -> Result<(), CanonicalError> {
        self.scratch.clear();
        canonical(self.component, path, record)
            .encode(&mut self.scratch)
            .map(drop)
    }

    /// Adds the leaf that lies in the scratch.
    fn leaf(&mut self, record: &Record) {
        self.counts.entries += 1;
        if record.meta.kind.has_content() {
            self.counts.files += 1;
            self.counts.bytes += record.size;
        }
        self.tree.push(&self.scratch);
    }

    fn page(&mut self, key: &[u8], record: &[u8]) -> Result<()> {
        let (store, usage) = (self.store, &mut self.usage);
        self.pages.push(key, record, &mut |page| {
            put_page(store, usage, BlobKind::Page, page)
        })
    }

    fn stream(&mut self, key: &[u8], lineage: &[u8]) {
        if !lineage.is_empty() {
            self.heads
                .push(self.lineages.stream_name(key), lineage.to_vec());
        }
    }

    /// Marks a chunk that is named. Behind whatever chose it this is the last to see that this run has
    /// stored it, or found it where it may be named: else it could be taken away under the snapshot.
    fn mark(&mut self, id: &ChunkId) -> Result<()> {
        if self.usage.mark(self.store.index(), id) || self.store.has(id) {
            return Ok(());
        }
        Err(EngineError::Missing {
            object: format!("chunk {id}"),
            why: "an entry names it, and this run neither found nor stored it; please report it"
                .into(),
        })
    }

    fn mark_extents(&mut self, extents: &Extents) -> Result<()> {
        for extent in extents.as_slice() {
            if let Extent::Data { chunk, .. } = extent {
                self.mark(chunk)?;
            }
        }
        Ok(())
    }

    fn mark_record(&mut self, content: &Content, lineage: &[u8]) -> Result<()> {
        match content {
            Content::Inline(extents) => self.mark_extents(extents)?,
            Content::Spilled(ids) => ids.iter().try_for_each(|id| self.mark(id))?,
        }
        if !lineage.is_empty() {
            let head = backup_format::lineage::LineageHead::decode(lineage)
                .map_err(|error| EngineError::wire("a lineage head", &error))?;
            let mut parts = head.layers.iter().flat_map(|layer| &layer.parts);
            parts.try_for_each(|part| self.mark(part))?;
        }
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        let new = self.store.totals().0;
        if !self.checkpoints.is_due(new) {
            return Ok(());
        }
        self.end_bundle()?;
        self.store.flush()?;
        if let Some(writer) = &mut self.writer {
            writer.mark();
        }
        self.checkpoints.made(new);
        Ok(())
    }

    /// Makes what was done so far safe although the run ends here.
    pub(super) fn abandon(mut self) {
        let saved = self.end_bundle().and_then(|()| self.store.flush());
        if let (Ok(()), Some(writer)) = (saved, &mut self.writer) {
            writer.mark();
        }
    }

    /// Ends the manifest and the lineage directory.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn finish(mut self, sizes: Sizes) -> Result<Assembled> {
        self.end_bundle()?;
        let (store, mut usage) = (self.store, self.usage);
        let manifest = self
            .pages
            .finish(&mut |page| put_page(store, &mut usage, BlobKind::Page, page))?;
        let mut heads = TreeBuilder::new(sizes.pages);
        let mut put = |page| put_page(store, &mut usage, BlobKind::Lineage, page);
        self.heads
            .drain(|(name, head)| heads.push(name, head, &mut put))?;
        let lineage = heads.finish(&mut put)?;
        Ok(Assembled {
            manifest,
            lineage,
            tree: self.tree.finish(),
            salt: self.salt,
            counts: self.counts,
            usage,
            writer: self.writer,
        })
    }
}

fn put_page(
    store: &BlobStore,
    usage: &mut Usage,
    kind: BlobKind,
    page: Vec<u8>,
) -> Result<ChunkId> {
    let id = store.put(kind, page)?;
    usage.mark(store.index(), &id);
    Ok(id)
}

/// The canonical form of a record, which is a leaf of the Merkle tree.
pub fn canonical<'a>(
    component: &'a str,
    path: &'a EntryPath,
    record: &'a Record,
) -> CanonicalEntry<'a> {
    let (size, sha256) = (record.size, record.sha256);
    CanonicalEntry {
        component,
        path,
        meta: &record.meta,
        size,
        sha256,
        digest: record
            .other_digest()
            .map(|digest| (digest.kind, digest.bytes)),
    }
}
