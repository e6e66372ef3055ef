//! Assembling: entries in order again, small files laid together in bundles, records written into
//! the manifest's pages, leaves into the Merkle tree, the state for the next run.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use backup_core::{ChunkId, EntryMeta, EntryPath, Event, Finding, Fingerprint, OpContext, Stage};
use backup_format::chunk::{CutKeys, Gatherer};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::page::{TreeBuilder, TreeRoot};
use backup_format::record::Record;
use backup_format::seal::BlobKind;
use backup_integrity::canonical::CanonicalEntry;
use backup_integrity::merkle::{SnapshotTree, SnapshotTreeBuilder};
use crossbeam_channel::Receiver;

use super::chunk::Slot;
use super::former::Former;
use super::read::{Item, Work};
use crate::error::{EngineError, Result};
use crate::lineage::Lineages;
use crate::repository::Sizes;
use crate::state::{StateEntry, StateWriter};
use crate::store::BlobStore;
use crate::usage::Usage;

/// Entries that may wait for an open bundle to end.
const MOST_WAITING: usize = 1 << 16;
/// Small files of this run that are remembered by their content.
const MOST_REMEMBERED: usize = 1 << 19;
/// Findings that are kept word by word.
const MOST_FINDINGS: usize = 10_000;

/// When progress is made safe for a run that is killed.
#[derive(Debug, Clone, Copy)]
pub struct CheckpointRule {
    /// After so many bytes that were new.
    pub bytes: u64,
    /// After so long.
    pub every: Duration,
}

impl Default for CheckpointRule {
    fn default() -> Self {
        Self {
            bytes: 4 << 30,
    /// After so many bytes that were put on the tier they are made known to the next run, also in
    /// the middle of an entry.
    pub index_bytes: u64,
            every: Duration::from_secs(120),
        }
    }
}

/// Counts and findings of an assembled snapshot.
#[derive(Debug, Default)]
            index_bytes: 1 << 30,
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) unchanged: u64,
    pub(super) bytes_read: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) findings_left_out: u64,
}

impl Counts {
    /// Keeps a finding, or counts it when there are too many.
    pub(super) fn found(&mut self, cx: &OpContext, finding: Finding) {
        cx.tell(Event::Found(&finding));
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        } else {
            self.findings_left_out += u64::from(is_serious);
    /// Findings that are more than notes, those that were left out too.
    pub(super) serious: u64,
        }
    }
}

/// Everything that a snapshot names, stored.
#[derive(Debug)]
pub(super) struct Assembled {
        let is_serious = finding.severity > Severity::Note;
        self.serious += u64::from(is_serious);
    pub(super) manifest: Option<TreeRoot>,
    pub(super) lineage: Option<TreeRoot>,
    pub(super) tree: SnapshotTree,
    pub(super) salt: [u8; 32],
    pub(super) counts: Counts,
    pub(super) usage: Usage,
    pub(super) writer: Option<StateWriter>,
}

/// Where the content of an entry lies, as far as it is known.
#[derive(Debug, Clone)]
enum Located {
    Known(Content),
    /// In the open bundle.
    Open {
        offset: u32,
        length: u32,
    },
}

/// An entry that is waiting for its place in the manifest.
struct Waiting {
    key: Vec<u8>,
    path: EntryPath,
    meta: EntryMeta,
    fingerprint: Option<Fingerprint>,
    size: u64,
    sha256: Option<[u8; 32]>,
    located: Located,
    lineage: Vec<u8>,
    extents: Vec<u8>,
}

enum Next {
    Fresh(Box<Waiting>),
    Reused(EntryPath, Box<StateEntry>),
}

/// What a first link leaves for those that follow.
#[derive(Clone)]
struct LinkTarget {
    size: u64,
    sha256: Option<[u8; 32]>,
    located: LinkPlace,
    extents: Vec<u8>,
}

#[derive(Clone)]
enum LinkPlace {
    Content(Content),
    Bundle {
        number: u64,
        offset: u32,
        length: u32,
    },
}

/// Puts entries together.
pub(super) struct Assembler<'a> {
    cx: &'a OpContext,
    component: &'a str,
    keys: &'a CutKeys,
    store: &'a BlobStore,
    lineages: &'a Lineages<'a>,
    pages: TreeBuilder,
    tree: SnapshotTreeBuilder,
    salt: [u8; 32],
    bundle: Gatherer,
    // Bundles that have ended, by number; the open one is the next.
    bundles: u64,
    ended: HashMap<u64, ChunkId>,
    waiting: VecDeque<Next>,
    remembered: HashMap<[u8; 16], (u64, u32)>,
    links: HashMap<u64, LinkTarget>,
    streams: Vec<([u8; 16], Vec<u8>)>,
    counts: Counts,
    usage: Usage,
    writer: Option<StateWriter>,
    former: Former,
    reuse_counts_as_same: bool,
    scratch: Vec<u8>,
    rule: CheckpointRule,
    checkpoint_at: (u64, Instant),
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
        sizes: Sizes,
        salt: [u8; 32],
        writer: Option<StateWriter>,
        former: Former,
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
            pages: TreeBuilder::new(sizes.pages),
            tree: SnapshotTreeBuilder::new(salt),
            salt,
            bundle: Gatherer::new(sizes.chunks),
            bundles: 0,
            ended: HashMap::new(),
            waiting: VecDeque::new(),
            remembered: HashMap::new(),
            links: HashMap::new(),
            streams: Vec::new(),
            counts: Counts::default(),
            usage: Usage::new(store.index()),
            writer,
            former,
            reuse_counts_as_same: true,
            scratch: Vec::new(),
            rule,
            checkpoint_at: (0, Instant::now()),
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
                if let Some(finding) = finding {
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

    fn take(&mut self, item: Item) -> Result<()> {
        let Item {
            key,
            path,
            meta,
            fingerprint,
            after_gap,
            is_new,
            work,
        } = item;
        if after_gap {
            self.differs();
        }
        let mut next = Waiting {
            key,
            path,
            meta,
            fingerprint,
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
            Work::Reuse(state) => return self.take_reused(next.path, next.meta.link_group, state),
            Work::Bare => {}
            Work::Read(_) => return Err(EngineError::Panicked("a reader")),
            Work::Content { bytes, sha256 } => {
                (next.size, next.sha256) = (bytes.len() as u64, Some(sha256));
                self.counts.bytes_read += next.size;
                next.located = self.lay(&bytes, &sha256, is_new)?;
            }
            Work::Cut { stream, sha256 } => {
                (next.size, next.sha256) = (stream.size, sha256);
                self.counts.bytes_read += next.size;
                next.lineage = stream.lineage.map(|head| head.encode()).unwrap_or_default();
                if matches!(stream.content, Content::Spilled(_)) {
                    stream.extents.encode(&mut next.extents);
                }
                self.mark_extents(&stream.extents);
                next.located = Located::Known(stream.content);
            }
            Work::Link(group) => self.take_link(&mut next, group)?,
        }
        if let Some(group) = next.meta.link_group {
            self.remember_link(group, &next);
        }
        self.differs();
        self.wait(Next::Fresh(Box::new(next)))
    }

    /// From here on the state of the last run cannot simply stand.
    const fn differs(&mut self) {
        self.reuse_counts_as_same = false;
    }

    fn take_reused(
        &mut self,
        path: EntryPath,
        group: Option<u64>,
        state: Box<StateEntry>,
    ) -> Result<()> {
        if let Some(group) = group {
            let record = decode_record(&state.record)?;
            let target = LinkTarget {
                size: record.size,
                sha256: record.sha256,
                located: LinkPlace::Content(record.content),
                extents: state.extents.clone(),
            };
            self.links.entry(group).or_insert(target);
        }
        self.counts.unchanged += 1;
        self.wait(Next::Reused(path, state))
    }

    fn take_link(&mut self, next: &mut Waiting, group: u64) -> Result<()> {
        // The first link could not be read: then this one is lost with it, and was reported.
        let Some(target) = self.links.get(&group).cloned() else {
            return Ok(());
        };
        (next.size, next.sha256) = (target.size, target.sha256);
        next.extents = target.extents;
        next.located = match target.located {
            LinkPlace::Content(content) => Located::Known(content),
            LinkPlace::Bundle {
                number,
                offset,
                length,
            } => self.in_bundle(number, offset, length)?,
        };
        Ok(())
    }

    fn remember_link(&mut self, group: u64, next: &Waiting) {
        let located = match &next.located {
            Located::Known(content) => LinkPlace::Content(content.clone()),
            Located::Open { offset, length } => LinkPlace::Bundle {
                number: self.bundles,
                offset: *offset,
                length: *length,
            },
        };
        let (size, sha256) = (next.size, next.sha256);
        let extents = next.extents.clone();
        self.links.entry(group).or_insert(LinkTarget {
            size,
            sha256,
            located,
            extents,
        });
    }

    fn in_bundle(&self, number: u64, offset: u32, length: u32) -> Result<Located> {
        if number == self.bundles {
            return Ok(Located::Open { offset, length });
        }
        let chunk = self
            .ended
            .get(&number)
            .ok_or(EngineError::Panicked("the assembler"))?;
        let mut extents = Extents::default();
        extents.push(Extent::Data {
            chunk: *chunk,
            offset,
            length,
        });
        Ok(Located::Known(Content::Inline(extents)))
    }

    /// Lays a small file into the open bundle, unless this run has laid its content already or the
    /// last one had.
    fn lay(&mut self, bytes: &[u8], sha256: &[u8; 32], is_new: bool) -> Result<Located> {
        if bytes.is_empty() {
            return Ok(Located::Known(Content::empty()));
        }
        let digest = self.keys.digest(sha256);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if let Some((number, offset)) = self.remembered.get(&digest).copied() {
            return self.in_bundle(number, offset, length);
        }
        if let Some((chunk, offset)) = self.former.find(self.keys, &digest, is_new)
            && self.usage.mark(self.store.index(), &chunk)
        {
            let mut extents = Extents::default();
            extents.push(Extent::Data {
                chunk,
                offset,
                length,
            });
            return Ok(Located::Known(Content::Inline(extents)));
        }
        if self.bundle.is_full_for(bytes.len()) {
            self.end_bundle()?;
        }
        let (offset, ends) = self.bundle.push(bytes, &digest);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        if self.remembered.len() < MOST_REMEMBERED {
            self.remembered.insert(digest, (self.bundles, offset));
        }
        if !ends {
            return Ok(Located::Open { offset, length });
        }
        let number = self.bundles;
        self.end_bundle()?;
        self.in_bundle(number, offset, length)
    }

    fn end_bundle(&mut self) -> Result<()> {
        if !self.bundle.is_empty() {
            let id = self.store.put(BlobKind::Data, self.bundle.take())?;
            self.usage.mark(self.store.index(), &id);
            self.ended.insert(self.bundles, id);
            self.bundles += 1;
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
        self.waiting.push_back(next);
        if self.waiting.len() >= MOST_WAITING {
            self.end_bundle()
        } else {
            Ok(())
        }
    }

    fn release(&mut self, bundle: Option<ChunkId>) -> Result<()> {
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
        let record = decode_record(&state.record)?;
        self.mark_record(&record.content, &state.lineage)?;
        self.leaf(path, &record)?;
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
            fingerprint,
            size,
            sha256,
            located,
            lineage,
            extents,
        } = waiting;
        let content = match located {
            Located::Known(content) => content,
            Located::Open { offset, length } => {
                let chunk = bundle.ok_or(EngineError::Panicked("the assembler"))?;
                let mut extents = Extents::default();
                extents.push(Extent::Data {
                    chunk,
                    offset,
                    length,
                });
                Content::Inline(extents)
            }
        };
        let record = Record {
            meta,
            size,
            sha256,
            content,
        };
        let mut stored = Vec::with_capacity(160);
        record.encode(&mut stored);
        self.mark_record(&record.content, &lineage)?;
        self.leaf(&path, &record)?;
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

    fn leaf(&mut self, path: &EntryPath, record: &Record) -> Result<()> {
        self.counts.entries += 1;
        if record.meta.kind.has_content() {
            self.counts.files += 1;
            self.counts.bytes += record.size;
        }
        self.scratch.clear();
        canonical(self.component, path, record)
            .encode(&mut self.scratch)
            .map_err(|error| EngineError::Evidence(format!("{path}: {error}")))?;
        self.tree.push(&self.scratch);
        Ok(())
    }

    fn page(&mut self, key: &[u8], record: &[u8]) -> Result<()> {
        let (store, usage) = (self.store, &mut self.usage);
        self.pages.push(key, record, &mut |page| {
            put_page(store, usage, BlobKind::Page, page)
        })
    }

    fn stream(&mut self, key: &[u8], lineage: &[u8]) {
        if !lineage.is_empty() {
            self.streams
                .push((self.lineages.stream_name(key), lineage.to_vec()));
        }
    }

    fn mark_extents(&mut self, extents: &Extents) {
        for extent in extents.as_slice() {
            if let Extent::Data { chunk, .. } = extent {
                self.usage.mark(self.store.index(), chunk);
            }
        }
    }

    fn mark_record(&mut self, content: &Content, lineage: &[u8]) -> Result<()> {
        match content {
            Content::Inline(extents) => self.mark_extents(extents),
            Content::Spilled(ids) => {
                ids.iter().for_each(|id| {
                    self.usage.mark(self.store.index(), id);
                });
            }
        }
        if !lineage.is_empty() {
            let head = backup_format::lineage::LineageHead::decode(lineage)
                .map_err(|error| EngineError::wire("a lineage head", &error))?;
            for part in head.layers.iter().flat_map(|layer| &layer.parts) {
                self.usage.mark(self.store.index(), part);
            }
        }
        Ok(())
    }

    fn checkpoint_if_due(&mut self) -> Result<()> {
        let (bytes, since) = self.checkpoint_at;
        let new = self.store.totals().0;
        if new - bytes < self.rule.bytes && (new == bytes || since.elapsed() < self.rule.every) {
            return Ok(());
        }
        self.end_bundle()?;
        self.store.flush()?;
        if let Some(writer) = &mut self.writer {
            writer.mark();
        }
        self.checkpoint_at = (new, Instant::now());
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
        self.streams.sort_unstable();
        self.streams.dedup_by(|a, b| a.0 == b.0);
        let mut heads = TreeBuilder::new(sizes.pages);
        let mut put = |page| put_page(store, &mut usage, BlobKind::Lineage, page);
        for (name, head) in &self.streams {
            heads.push(name, head, &mut put)?;
        }
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

fn decode_record(stored: &[u8]) -> Result<Record> {
    Record::decode(stored).map_err(|error| EngineError::wire("the local state", &error))
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
    }
}
