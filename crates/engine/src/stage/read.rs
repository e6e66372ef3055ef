//! Reading: the engine's own threads open and read entries, many at once.
//!
//! A file is read and then looked at again: if it is still what the walk saw, it is whole. If not,
//! it is read once more; if it changed again, what was read is stored with a finding. What was not in
//! the state that the walk saw gets its metadata anew from the open file, too: another file may have
//! its name by now, and its content must not be stored with the mode and owner of the one before. Small files
//! come back as bytes, to be bundled in order; larger ones are cut here and handed to the store.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{
    Body, EntryMeta, EntryPath, Finding, FindingKind, Fingerprint, OpContext, OpenContent, Segment,
    SegmentStream, Severity, StreamProfile,
};
use backup_format::chunk::profile::PIECE;
use backup_format::chunk::{BasePieces, PieceCut};
use backup_format::extent::{Content, Extent, Extents};
use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::runtime::Handle;

use super::hashing::{HASH_APART, HASH_QUEUE, Hashing};
use super::links::Link;
use super::parts::spill;
use super::racy::is_racy;
use super::segments::Segments;
use super::stream::{CutStream, StreamCutter};
use super::track::PieceLimit;
use crate::error::{EngineError, Result};
use crate::lineage::{Inherited, Lineages, has_layers};
use crate::past::Past;
use crate::repository::Sizes;
use crate::state::StateEntry;
use crate::store::BlobStore;
use backup_format::chunk::CutKeys;

/// Bytes of one read of a large file.
const BLOCK: usize = 1 << 20;
/// Most zeros of a hole that are taken at once, in bytes: a whole number of pages of any size.
const HOLE: u64 = 256 << 20;
/// Of files with more pieces than that, only one is cut at a time: what is known of their pieces, now
/// and in the past, takes about 50 bytes each.
const MANY_PIECES: u64 = 1 << 18;

/// An entry on its way, with what is to be done.
#[derive(Debug)]
pub(super) struct Item {
    /// Key of the manifest.
    pub(super) key: Vec<u8>,
    /// Its path.
    pub(super) path: EntryPath,
    /// Its metadata.
    pub(super) meta: EntryMeta,
    /// The state in which the walk saw it; `None` once its content was read in another.
    pub(super) fingerprint: Option<Fingerprint>,
    /// Whether it may be another by now without its fingerprint showing it.
    pub(super) is_racy: bool,
    /// Whether something that the last run had is gone before it.
    pub(super) after_gap: bool,
    /// Whether the last run did not have its path.
    pub(super) is_new: bool,
    /// What the last run knew of a small file that looks changed.
    pub(super) before: Option<Box<Before>>,
    /// What is to be done, or was.
    pub(super) work: Work,
}

/// The content of a small file in an earlier run.
#[derive(Debug)]
pub(super) struct Before {
    /// Its SHA-256.
    pub(super) sha256: [u8; 32],
    /// Where it lies.
    pub(super) extents: Extents,
}

impl Item {
    /// Notes when its content was read, and in which state it was before and behind that; `None`:
    /// it changed meanwhile. If it is not the state that the walk saw, its metadata is of another
    /// time than its content: then nothing tells it as unchanged next time.
    fn was_read(&mut self, began: Timestamp, state: Option<Fingerprint>) {
        self.fingerprint = self.fingerprint.filter(|seen| state == Some(*seen));
        self.is_racy = state.is_some_and(|state| is_racy(&state, began));
    }

    /// Takes the metadata of what was read in `state` (`None`: it changed meanwhile) if that is not
    /// the state that the walk saw. Says what is wrong with the entry then.
    fn take_meta(
        &mut self,
        state: Option<Fingerprint>,
        meta: impl FnOnce() -> io::Result<Option<EntryMeta>>,
    ) -> Option<Finding> {
        let mut finding = state.is_none().then(|| changed(&self.path));
        if state.is_some() && state == self.fingerprint {
            return finding;
        }
        match meta() {
            Ok(Some(meta)) => self.meta = meta,
            Ok(None) => {}
            Err(error) => {
                let detail = format!(
                    "it was changed or replaced before it was read, and its mode, owner and \
                     attributes are those of before: {error}"
                );
                let told = Finding::entry(FindingKind::Metadata, &self.path, detail);
                finding = Some(Finding {
                    severity: Severity::Warning,
                    ..told
                });
            }
        }
        finding
    }
}

/// What is to be done with an entry, or was done.
#[derive(Debug)]
pub(super) enum Work {
    /// It is as it was: its state stands.
    Reuse(Box<StateEntry>),
    /// It has no content.
    Bare,
    /// It is a further name of a file that came before.
    Link(Box<Link>),
    /// A small file is to be read.
    Read(Arc<dyn OpenContent>),
    /// It was read, whole.
    Content { bytes: Vec<u8>, sha256: [u8; 32] },
    /// It was cut.
    Cut {
        stream: Box<CutStream>,
        sha256: Option<[u8; 32]>,
    },
    /// Its content is that of the parent snapshot; its metadata may be other.
    Inherited(Box<Inherited>),
    /// It cannot be stored; the finding says why.
    Lost,
}

/// An item with what was noticed while reading it.
pub(super) type Noted = (Item, Option<Finding>);

/// What readers share.
pub(super) struct Reader<'a> {
    pub(super) cx: &'a OpContext,
    pub(super) handle: Handle,
    pub(super) keys: &'a CutKeys,
    pub(super) store: &'a BlobStore,
    pub(super) sizes: Sizes,
    pub(super) lineages: &'a Lineages<'a>,
    pub(super) limit: PieceLimit,
    /// Whether the source was given a snapshot to build on and may say that content is unchanged.
    pub(super) may_inherit: bool,
    /// Held while a file of more than [`MANY_PIECES`] is cut.
    pub(super) many_pieces: &'a Mutex<()>,
}

enum Small {
    Whole(Vec<u8>),
    /// It is larger than small files are by now.
    Grown,
}

impl Reader<'_> {
    /// Reads the small files of a batch.
    ///
    /// # Errors
    /// Failures of the store; what is wrong with a file is noted.
    pub(super) fn batch(&self, items: Vec<Item>) -> Result<Vec<Noted>> {
        let mut out = Vec::with_capacity(items.len());
        for mut item in items {
            let Work::Read(open) = &item.work else {
                out.push((item, None));
                continue;
            };
            let open = open.clone();
            let finding = self.small(&mut item, &open)?;
            out.push((item, finding));
        }
        Ok(out)
    }

    fn small(&self, item: &mut Item, open: &Arc<dyn OpenContent>) -> Result<Option<Finding>> {
        let mut seen = item.fingerprint;
        for attempt in 0..2 {
            let began = self.cx.clock.now();
            let read = open.open().and_then(|file| {
                let content = self.read_small(&file, seen.map_or(0, |print| print.size))?;
                let now = open.fingerprint(&file)?;
                Ok((content, now, file))
            });
            match read {
                Err(error) => {
                    item.work = Work::Lost;
                    return Ok(Some(lost(&item.path, &error)));
                }
                Ok((Small::Grown, ..)) => {
                    return self.file(item, open, StreamProfile::Auto, None);
                }
                Ok((Small::Whole(bytes), now, file)) => {
                    let is_whole = seen == Some(now) && now.size == bytes.len() as u64;
                    seen = Some(now);
                    if !is_whole && attempt == 0 {
                        continue;
                    }
                    let state = is_whole.then_some(now);
                    let finding = item.take_meta(state, || open.meta(&file));
                    item.was_read(began, state);
                    let sha256 = backup_integrity::digest::ContentDigest::of(&bytes).0;
                    item.work = Work::Content { bytes, sha256 };
                    return Ok(finding);
                }
            }
        }
        Ok(None)
    }

    fn read_small(&self, mut file: &File, expected: u64) -> io::Result<Small> {
        let most = usize::try_from(self.sizes.bundle_limit).unwrap_or(usize::MAX);
        let expected = usize::try_from(expected).unwrap_or(most).min(most);
        let mut bytes = vec![0; expected];
        let mut at = 0;
        while at < bytes.len() {
            match file.read(&mut bytes[at..]) {
                Ok(0) => break,
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if at < bytes.len() {
            bytes.truncate(at);
        } else if expected == most || expected == 0 {
            // The size was not known, or is at the limit: there may be more.
            file.take(most as u64 + 1 - expected as u64)
                .read_to_end(&mut bytes)?;
            if bytes.len() > most {
                return Ok(Small::Grown);
            }
        }
        Ok(Small::Whole(bytes))
    }

    /// Reads and cuts a large file.
    ///
    /// # Errors
    /// Failures of the store; what is wrong with the file is noted.
    pub(super) fn file(
        &self,
        item: &mut Item,
        open: &Arc<dyn OpenContent>,
        profile: StreamProfile,
        known: Option<&StateEntry>,
    ) -> Result<Option<Finding>> {
        for attempt in 0..2 {
            let began = self.cx.clock.now();
            let opened = open.open().and_then(|file| {
                let before = open.fingerprint(&file)?;
                Ok((file, before))
            });
            let (file, before) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    item.work = Work::Lost;
                    return Ok(Some(lost(&item.path, &error)));
                }
            };
            let (stream, sha256) =
                match self.cut_file(&item.key, &file, before.size, profile, known)? {
                    Ok(done) => done,
                    Err(error) => {
                        item.work = Work::Lost;
                        return Ok(Some(lost(&item.path, &error)));
                    }
                };
            let after = open.fingerprint(&file).ok();
            let is_whole = after == Some(before) && stream.size == before.size;
            if !is_whole && attempt == 0 {
                continue;
            }
            let state = is_whole.then_some(before);
            let finding = item.take_meta(state, || open.meta(&file));
            item.was_read(began, state);
            item.work = Work::Cut {
                stream: Box::new(stream),
                sha256: Some(sha256),
            };
            return Ok(finding);
        }
        Ok(None)
    }

    /// Reads a further name of a file by itself: no name before it has its content.
    ///
    /// # Errors
    /// Failures of the store, and of the source of a stream; what is wrong with a file is noted.
    pub(super) fn link(&self, item: &mut Item, link: Link) -> Result<Option<Finding>> {
        let size = item.fingerprint.map_or(u64::MAX, |state| state.size);
        match link.body {
            Body::File(open) if size <= self.sizes.bundle_limit => self.small(item, &open),
            Body::File(open) => self.file(item, &open, link.profile, None),
            Body::Unchanged if self.may_inherit => self.inherit(item).map(|()| None),
            Body::Unchanged => Err(item.not_a_parent()),
            Body::None => {
                item.work = Work::Lost;
                let detail = "the name of it that has its content could not be stored";
                let kind = FindingKind::Unreadable;
                Ok(Some(Finding::entry(kind, &item.path, detail)))
            }
            body => self
                .body(item, body, link.profile, None, None)
                .map(|()| None),
        }
    }

    /// Whether to go on reading.
    fn check(&self) -> Result<()> {
        if self.cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        self.store.check()
    }

    #[allow(
        clippy::type_complexity,
        reason = "an error of the file is not one of the engine"
    )]
    fn cut_file(
        &self,
        key: &[u8],
        file: &File,
        size: u64,
        profile: StreamProfile,
        known: Option<&StateEntry>,
    ) -> Result<io::Result<(CutStream, [u8; 32])>> {
        let mut head = vec![0; 4096];
        let read = match file.read_at(&mut head, 0) {
            Ok(read) => read,
            Err(error) => return Ok(Err(error)),
        };
        let is_large = size / u64::from(PIECE) > MANY_PIECES;
        let _alone = is_large.then(|| {
            self.many_pieces
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        });
        let past = self.past(key, known);
        let mut cutter = self.cutter(profile, size, &head[..read], past);
        let sha256 = match self.read_through(file, size, &mut cutter)? {
            Ok(sha256) => sha256,
            Err(error) => return Ok(Err(error)),
        };
        Ok(Ok((cutter.finish()?, sha256)))
    }

    /// A cutter for a stream of about `size` bytes (0: not known) with these first bytes.
    fn cutter(
        &self,
        profile: StreamProfile,
        size: u64,
        head: &[u8],
        past: Option<Past>,
    ) -> StreamCutter<'_> {
        let base = &self.sizes.pieces;
        let cut = cut_of(base, profile, size, head, past.as_ref(), self.limit);
        StreamCutter::new(
            self.keys, self.store, self.sizes, self.limit, cut, past, size,
        )
    }

    /// Takes over the content of an entry that its source says is unchanged.
    ///
    /// # Errors
    /// [`EngineError::Parent`] when the parent snapshot cannot give it.
    pub(super) fn inherit(&self, item: &mut Item) -> Result<()> {
        let looked_up = self.lineages.inherited(self.cx, &item.key);
        let mut inherited = match self.handle.block_on(looked_up) {
            Err(EngineError::Cancelled) => return Err(EngineError::Cancelled),
            Err(error) => return Err(item.not_inherited(error)),
            Ok(None) => return Err(item.not_inherited("nothing of it is at hand")),
            Ok(Some(inherited)) => inherited,
        };
        let index = self.store.index();
        let is_there = inherited.extents.as_slice().iter().all(
            |extent| !matches!(extent, Extent::Data { chunk, .. } if index.find(chunk).is_none()),
        );
        if !is_there {
            return Err(item.not_inherited("a chunk of it is missing"));
        }
        // Where the content lies is known, so that can be written down again.
        if let Content::Spilled(spills) = &inherited.content
            && !spills.iter().all(|id| index.find(id).is_some())
        {
            inherited.content = spill(&inherited.extents, self.store)?;
            inherited.lineage = None;
        }
        // The content is whole without its lineage.
        inherited.lineage = inherited.lineage.filter(|head| has_layers(index, head));
        item.work = Work::Inherited(Box::new(inherited));
        Ok(())
    }

    fn past(&self, key: &[u8], known: Option<&StateEntry>) -> Option<Past> {
        // Without a past everything is stored as new: that is never wrong.
        self.handle
            .block_on(self.lineages.past(self.cx, key, known))
            .ok()
            .flatten()
    }

    /// Reads a file from start to end, its holes unread, into the cutter and a hasher.
    fn read_through(
        &self,
        file: &File,
        size: u64,
        cutter: &mut StreamCutter<'_>,
    ) -> Result<io::Result<[u8; 32]>> {
        let mut hasher = Hashing::new(size);
        let mut blocks = Blocks::default();
        let mut at = 0u64;
        let mut hole_known_until = 0u64;
        loop {
            self.check()?;
            if at >= hole_known_until {
                let (hole, until) = next_data(file, at, size);
                at += hole;
                hole_known_until = until;
                self.zeros(hole, cutter, Some(&mut hasher))?;
            }
            let room = usize::try_from(hole_known_until.saturating_sub(at)).unwrap_or(BLOCK);
            let mut block = blocks.take(if room == 0 { BLOCK } else { room.min(BLOCK) });
            let count = match file.read_at(&mut block, at) {
                Ok(0) => return hasher.finish().map(Ok),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(Err(error)),
            };
            block.truncate(count);
            let block = block.freeze();
            hasher.update(&block);
            cutter.data(&block)?;
            blocks.give_back(block);
            self.advanced(count as u64);
            at += count as u64;
        }
    }

    /// Takes a hole, and hears between its parts whether to go on: all of it is hashed.
    fn zeros(
        &self,
        mut hole: u64,
        cutter: &mut StreamCutter<'_>,
        mut hasher: Option<&mut Hashing>,
    ) -> Result<()> {
        while hole > 0 {
            self.check()?;
            let part = hole.min(HOLE);
            cutter.zeros(part)?;
            if let Some(hasher) = &mut hasher {
                hasher.zeros(part);
            }
            self.advanced(part);
            hole -= part;
        }
        Ok(())
    }

    /// Says that so many bytes of something large were read: it takes long until all of it was.
    fn advanced(&self, bytes: u64) {
        self.cx.tell(backup_core::Event::Advanced {
            stage: backup_core::Stage::Capture,
            entries: 0,
            bytes,
        });
    }

    /// Reads and cuts a body that comes as a stream or as bytes, `size` of them as far as its source
    /// knows.
    ///
    /// # Errors
    /// Failures of the source and of the store: half a stream is no snapshot.
    /// [`EngineError::Parent`] when the source left out what its past does not have.
    pub(super) fn body(
        &self,
        item: &mut Item,
        body: Body,
        profile: StreamProfile,
        size: Option<u64>,
        known: Option<&StateEntry>,
    ) -> Result<()> {
        let segments: SegmentStream = match body {
            Body::Bytes(bytes) => {
                futures::stream::iter([Ok(Segment::Data { offset: 0, bytes })]).boxed()
            }
            Body::Stream(stream) => stream,
            Body::None | Body::File(_) | Body::Unchanged => {
                return Err(EngineError::Panicked("the reader of streams"));
            }
        };
        let mut segments = Segments::new(self.cx, &self.handle, segments);
        let past = self.past(&item.key, known);
        let mut next = segments.next(&item.path)?;
        let head = match &next {
            Some(Segment::Data { bytes, .. }) => bytes.clone(),
            _ => Bytes::new(),
        };
        let size = size.or(past.as_ref().map(|past| past.size)).unwrap_or(0);
        let mut cutter = self.cutter(profile, size, &head, past);
        let mut hasher = Some(Hashing::new(HASH_APART));
        while let Some(segment) = next {
            self.check()?;
            match segment {
                Segment::Data { bytes, .. } => {
                    self.advanced(bytes.len() as u64);
                    if let Some(hasher) = &mut hasher {
                        hasher.update(&bytes);
                    }
                    cutter.data(&bytes)?;
                }
                Segment::Zero(range) => {
                    self.zeros(range.end - range.start, &mut cutter, hasher.as_mut())?;
                }
                Segment::Unchanged(range) => {
                    // What was not read cannot be hashed.
                    hasher = None;
                    if !self.may_inherit {
                        return Err(item.not_a_parent());
                    }
                    self.advanced(range.end - range.start);
                    if !cutter.unchanged(range.end - range.start)? {
                        let (from, to) = (range.start, range.end);
                        let why = format!("its bytes {from} to {to} are not at hand");
                        return Err(item.not_inherited(why));
                    }
                }
            }
            next = segments.next(&item.path)?;
        }
        let sha256 = hasher.map(Hashing::finish).transpose()?;
        item.work = Work::Cut {
            stream: Box::new(cutter.finish()?),
            sha256,
        };
        Ok(())
    }
}

impl Item {
    /// The parent snapshot cannot give its content.
    pub(super) fn not_inherited(&self, why: impl ToString) -> EngineError {
        EngineError::Parent {
            path: self.path.to_string(),
            why: why.to_string(),
        }
    }

    /// Its source was told of no parent.
    pub(super) fn not_a_parent(&self) -> EngineError {
        let path = &self.path;
        EngineError::Invalid(format!(
            "the source says that {path} is unchanged, but was given no snapshot to build on"
        ))
    }
}

/// How to cut: as the past was cut if that still fits, so that it can be compared with it.
fn cut_of(
    base: &BasePieces,
    profile: StreamProfile,
    size: u64,
    head: &[u8],
    past: Option<&Past>,
    limit: PieceLimit,
) -> PieceCut {
    let fresh = PieceCut::choose(base, profile, size, head, limit.wanted);
    // Within a factor of four of the size it would get today.
    let fits = |piece: u32| piece.max(fresh.piece()) / piece.min(fresh.piece()) <= 4;
    match (past.and_then(Past::cut), fresh) {
        (Some(cut @ PieceCut::Content(piece)), PieceCut::Content(_))
        | (Some(cut @ PieceCut::Pages(piece)), PieceCut::Pages(_))
            if fits(piece) =>
        {
            cut
        }
        // The first page was not read, or was rewritten and no longer tells what it is.
        (Some(cut @ PieceCut::Pages(piece)), PieceCut::Content(_))
            if profile == StreamProfile::Auto
                && (head.is_empty() || size.is_multiple_of(u64::from(piece))) =>
        {
            cut
        }
        _ => fresh,
    }
}

/// Length of the hole at `at`, and where the data behind it ends.
fn next_data(file: &File, at: u64, size: u64) -> (u64, u64) {
    use rustix::fs::{SeekFrom, seek};
    match seek(file, SeekFrom::Data(at)) {
        Ok(data) => {
            let end = seek(file, SeekFrom::Hole(data)).unwrap_or(u64::MAX);
            (data - at, end.max(data + 1))
        }
        // Nothing but a hole is left.
        Err(rustix::io::Errno::NXIO) => (size.saturating_sub(at), u64::MAX),
        // Not every file system can say.
        Err(_) => (0, u64::MAX),
    }
}

fn lost(path: &EntryPath, error: &io::Error) -> Finding {
    let (severity, kind) = match error.kind() {
        io::ErrorKind::NotFound => (Severity::Warning, FindingKind::Vanished),
        _ => (Severity::Error, FindingKind::Unreadable),
    };
    Finding {
        severity,
        ..Finding::entry(kind, path, error.to_string())
    }
}

fn changed(path: &EntryPath) -> Finding {
    let detail = "it changed twice while it was read; what was read last is stored";
    Finding {
        severity: Severity::Warning,
        ..Finding::entry(FindingKind::ChangedWhileRead, path, detail)
    }
}

/// Blocks of one file, used again when the hasher is done with them: fresh memory would cost a fault
/// and a zeroing for each of its pages.
#[derive(Default)]
struct Blocks(VecDeque<Bytes>);

impl Blocks {
    fn take(&mut self, length: usize) -> BytesMut {
        let mut block = match self.0.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(block)) => block,
            Some(Err(busy)) => {
                self.0.push_front(busy);
                BytesMut::new()
            }
            None => BytesMut::new(),
        };
        block.resize(length, 0);
        block
    }

    fn give_back(&mut self, block: Bytes) {
        // As many as can be with the hasher, and the one in hand.
        if self.0.len() < HASH_QUEUE + 2 {
            self.0.push_back(block);
        }
    }
}
