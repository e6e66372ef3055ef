//! Cutting one stream: pieces that its past has point to where they lie, new ones are gathered into
//! chunks and stored.

use backup_core::ChunkId;
use backup_format::chunk::gear::PieceSizes;
use backup_format::chunk::{CutKeys, Gatherer, PieceCut};
use backup_format::extent::{Content, Extent, Extents, INLINE, spill_span};
use backup_format::lineage::{self, Layer, LineageHead, MAX_PIECES, NEW, PART, Pieces};
use backup_format::seal::BlobKind;

use crate::error::{EngineError, Result};
use crate::past::Past;
use crate::repository::Sizes;
use crate::store::BlobStore;

const ZERO: [u8; 16] = [0; 16];

/// Where a stretch of the stream lies; the chunk of the last ones may still be open.
#[derive(Debug, Clone, Copy)]
enum Part {
    Known(Extent),
    Open {
        chunk: u32,
        offset: u32,
        length: u32,
    },
}

/// A stream, cut and handed to the store.
#[derive(Debug)]
pub(super) struct CutStream {
    /// Its size in bytes.
    pub(super) size: u64,
    /// Where its content lies.
    pub(super) extents: Extents,
    /// What the record names: the extents, or spills.
    pub(super) content: Content,
    /// Its lineage, if it has one.
    pub(super) lineage: Option<LineageHead>,
}

/// Cuts one stream.
pub(super) struct StreamCutter<'a> {
    keys: &'a CutKeys,
    store: &'a BlobStore,
    sizes: Sizes,
    cut: PieceCut,
    past: Option<Past>,
    gatherer: Gatherer,
    chunks: Vec<ChunkId>,
    parts: Vec<Part>,
    pieces: Pieces,
    origins: Vec<u32>,
    expected: u32,
    buffer: Vec<u8>,
    size: u64,
    keeps_lineage: bool,
}

impl std::fmt::Debug for StreamCutter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamCutter({:?}, {} bytes)", self.cut, self.size)
    }
}

impl<'a> StreamCutter<'a> {
    /// A cutter for a stream of about `size` bytes (0: not known) cut in this way, compared with
    /// its past if that was cut alike.
    pub(super) fn new(
        keys: &'a CutKeys,
        store: &'a BlobStore,
        sizes: Sizes,
        cut: PieceCut,
        past: Option<Past>,
        size: u64,
    ) -> Self {
        // Growing by doubling would take up to twice the memory. Content-defined pieces are a little
        // smaller than their average here and there.
        let expected_pieces = size / u64::from(cut.piece()) * 9 / 8;
        let expected_pieces =
            usize::try_from(expected_pieces).map_or(MAX_PIECES, |n| n.min(MAX_PIECES));
        Self {
            keys,
            store,
            sizes,
            cut,
            past: past.filter(|past| past.head.cut == cut),
            gatherer: Gatherer::new(sizes.chunks),
            chunks: Vec::new(),
            parts: Vec::new(),
            pieces: Pieces {
                digests: Vec::with_capacity(expected_pieces),
                lengths: Vec::with_capacity(match cut {
                    PieceCut::Content(_) => expected_pieces,
                    PieceCut::Pages(_) => 0,
                }),
            },
            origins: Vec::with_capacity(expected_pieces),
            expected: 0,
            buffer: Vec::new(),
            size: 0,
            keeps_lineage: true,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        match self.cut {
            PieceCut::Pages(page) => self.data_pages(bytes, page as usize),
            PieceCut::Content(average) => {
                self.buffer.extend_from_slice(bytes);
                self.cut_buffer(&self.sizes.pieces.content.scaled(average as usize), false)
            }
        }
    }

    fn data_pages(&mut self, mut bytes: &[u8], page: usize) -> Result<()> {
        if !self.buffer.is_empty() {
            let missing = (page - self.buffer.len()).min(bytes.len());
            let (head, rest) = bytes.split_at(missing);
            self.buffer.extend_from_slice(head);
            bytes = rest;
            if self.buffer.len() == page {
                let buffer = std::mem::take(&mut self.buffer);
                self.piece(&buffer)?;
                self.buffer = buffer;
                self.buffer.clear();
            }
        }
        let whole = bytes.chunks_exact(page);
        let rest = whole.remainder();
        for piece in whole {
            self.piece(piece)?;
        }
        self.buffer.extend_from_slice(rest);
        Ok(())
    }

    fn cut_buffer(&mut self, sizes: &PieceSizes, is_end: bool) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while buffer.len() - at >= sizes.max || (is_end && at < buffer.len()) {
            let length = self.keys.gear().cut(&buffer[at..], sizes);
            self.piece(&buffer[at..at + length])?;
            at += length;
        }
        self.buffer = buffer;
        self.buffer.drain(..at);
        Ok(())
    }

    /// Takes a range of zeros that take no space.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn zeros(&mut self, mut length: u64) -> Result<()> {
        match self.cut {
            PieceCut::Pages(page) => {
                let page = u64::from(page);
                // Complete the open page, skip whole ones, begin the next.
                let open = self.buffer.len() as u64;
                if open > 0 {
                    let missing = (page - open).min(length);
                    length -= missing;
                    self.data(&vec![0; usize::try_from(missing).unwrap_or(0)])?;
                }
                let whole = length / page;
                if whole > 0 {
                    self.zero_pages(whole, page)?;
                }
                self.data(&vec![0; usize::try_from(length % page).unwrap_or(0)])
            }
            PieceCut::Content(average) => {
                // A hole ends the piece before it and is none itself.
                self.cut_buffer(&self.sizes.pieces.content.scaled(average as usize), true)?;
                while length > 0 {
                    let part = u32::try_from(length).unwrap_or(u32::MAX);
                    self.zero_piece(part);
                    self.part(Part::Known(Extent::Zero {
                        length: u64::from(part),
                    }));
                    self.size += u64::from(part);
                    length -= u64::from(part);
                }
                Ok(())
            }
        }
    }

    fn zero_pages(&mut self, count: u64, page: u64) -> Result<()> {
        for _ in 0..count {
            self.zero_piece(u32::try_from(page).unwrap_or(u32::MAX));
        }
        self.part(Part::Known(Extent::Zero {
            length: count * page,
        }));
        self.size += count * page;
        Ok(())
    }

    fn zero_piece(&mut self, length: u32) {
        let number = u32::try_from(self.pieces.digests.len()).unwrap_or(NEW);
        let expected = self.expected;
        let origin = self.past.as_ref();
        let origin = origin.and_then(|past| past.find(&ZERO, length as usize, number, expected));
        self.note(ZERO, length, origin);
    }

    /// Takes a range that is as it was in the past.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] when there is no such past: the source must then read the range.
    pub(super) fn unchanged(&mut self, length: u64) -> Result<()> {
        let start = self.size + self.buffer.len() as u64;
        let past = self
            .past
            .take()
            .filter(|past| self.buffer.is_empty() && past.is_range_sound(start, length));
        let past = past.ok_or_else(|| {
            EngineError::Invalid(
                "the source left out what the parent snapshot does not have".into(),
            )
        })?;
        let mut parts = Vec::new();
        past.copy_range(start, length, |extent| parts.push(Part::Known(extent)));
        if let PieceCut::Pages(page) = self.cut {
            let first = start / u64::from(page);
            for number in first..(start + length).div_ceil(u64::from(page)) {
                let number = u32::try_from(number).unwrap_or(NEW);
                let digest = past
                    .pieces
                    .digests
                    .get(number as usize)
                    .copied()
                    .unwrap_or(ZERO);
                self.note(digest, page, Some(number));
            }
        } else {
            self.keeps_lineage = false;
        }
        self.past = Some(past);
        parts.into_iter().for_each(|part| self.part(part));
        self.size += length;
        Ok(())
    }

    fn note(&mut self, digest: [u8; 16], length: u32, origin: Option<u32>) {
        if self.pieces.digests.len() >= MAX_PIECES {
            self.keeps_lineage = false;
            return;
        }
        self.pieces.digests.push(digest);
        if matches!(self.cut, PieceCut::Content(_)) {
            self.pieces.lengths.push(length);
        }
        self.origins.push(origin.unwrap_or(NEW));
        if let Some(origin) = origin {
            self.expected = origin.wrapping_add(1);
        }
    }

    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        self.size += u64::from(length);
        if is_zero(piece) {
            self.zero_piece(length);
            self.part(Part::Known(Extent::Zero {
                length: u64::from(length),
            }));
            return Ok(());
        }
        let digest = self.keys.digest(piece);
        let number = u32::try_from(self.pieces.digests.len()).unwrap_or(NEW);
        let past = self.past.as_ref();
        let found = past.and_then(|past| past.find(&digest, piece.len(), number, self.expected));
        self.note(digest, length, found);
        if let (Some(past), Some(found)) = (&self.past, found) {
            let (start, length) = past.span(found);
            let parts = &mut self.parts;
            past.copy_range(start, length, |extent| {
                push_part(parts, Part::Known(extent))
            });
            return Ok(());
        }
        if self.gatherer.is_full_for(piece.len()) {
            self.end_chunk()?;
        }
        let (offset, ends) = self.gatherer.push(piece, &digest);
        let chunk = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        self.part(Part::Open {
            chunk,
            offset,
            length,
        });
        if ends { self.end_chunk() } else { Ok(()) }
    }

    fn end_chunk(&mut self) -> Result<()> {
        if self.gatherer.is_empty() {
            return Ok(());
        }
        let id = self.store.put(BlobKind::Data, self.gatherer.take())?;
        self.chunks.push(id);
        Ok(())
    }

    fn part(&mut self, part: Part) {
        push_part(&mut self.parts, part);
    }

    /// Ends the stream: everything is handed to the store, the lineage and spills too.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn finish(mut self) -> Result<CutStream> {
        match self.cut {
            PieceCut::Content(average) => {
                self.cut_buffer(&self.sizes.pieces.content.scaled(average as usize), true)?;
            }
            PieceCut::Pages(_) => {
                let rest = std::mem::take(&mut self.buffer);
                if !rest.is_empty() {
                    self.piece(&rest)?;
                }
            }
        }
        self.end_chunk()?;
        let mut extents = Extents::default();
        for part in std::mem::take(&mut self.parts) {
            extents.push(match part {
                Part::Known(extent) => extent,
                Part::Open {
                    chunk,
                    offset,
                    length,
                } => {
                    let chunk = self.chunks.get(chunk as usize).copied();
                    let chunk = chunk.ok_or(EngineError::Panicked("the stream cutter"))?;
                    Extent::Data {
                        chunk,
                        offset,
                        length,
                    }
                }
            });
        }
        let content = spill(&extents, self.store)?;
        let lineage = self.write_lineage(&content)?;
        Ok(CutStream {
            size: self.size,
            extents,
            content,
            lineage,
        })
    }

    fn write_lineage(&mut self, content: &Content) -> Result<Option<LineageHead>> {
        if !self.keeps_lineage || self.size < self.sizes.lineage_from {
            return Ok(None);
        }
        let mut layers = self
            .past
            .as_ref()
            .map(|past| past.head.layers.clone())
            .unwrap_or_default();
        let mut edit = 0u64;
        self.pieces
            .emit_edit(&self.origins, &mut |bytes| edit += bytes.len() as u64);
        let is_same = self
            .past
            .as_ref()
            .is_some_and(|past| past.pieces == self.pieces);
        if lineage::base_is_due(&layers, edit) {
            layers = vec![self.write_layer(|out| self.pieces.emit_base(out))?];
        } else if !is_same {
            layers.push(self.write_layer(|out| self.pieces.emit_edit(&self.origins, out))?);
        }
        Ok(Some(LineageHead {
            cut: self.cut,
            size: self.size,
            pieces: self.pieces.digests.len() as u64,
            layers,
            content: content.clone(),
        }))
    }

    /// Stores a layer in parts while it is made.
    fn write_layer(&self, emit: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Result<Layer> {
        let (mut bytes, mut open) = (0, Vec::with_capacity(PART));
        let mut parts: Result<Vec<ChunkId>> = Ok(Vec::new());
        let mut put = |part: Vec<u8>| {
            if let Ok(ids) = &mut parts {
                match self.store.put(BlobKind::Lineage, part) {
                    Ok(id) => ids.push(id),
                    Err(error) => parts = Err(error),
                }
            }
        };
        emit(&mut |more| {
            bytes += more.len() as u64;
            let (now, later) = more.split_at(more.len().min(PART - open.len()));
            open.extend_from_slice(now);
            if open.len() == PART {
                put(std::mem::replace(&mut open, Vec::with_capacity(PART)));
                open.extend_from_slice(later);
            }
        });
        if !open.is_empty() {
            put(open);
        }
        Ok(Layer {
            bytes,
            parts: parts?,
        })
    }
}

/// Appends a part, melting it into the last where they adjoin: streams have many pieces.
fn push_part(parts: &mut Vec<Part>, part: Part) {
    match (parts.last_mut(), part) {
        (
            Some(Part::Known(Extent::Zero { length })),
            Part::Known(Extent::Zero { length: more }),
        ) => {
            *length += more;
        }
        (
            Some(Part::Known(Extent::Data {
                chunk,
                offset,
                length,
            })),
            Part::Known(Extent::Data {
                chunk: next,
                offset: at,
                length: more,
            }),
        ) if *chunk == next && offset.checked_add(*length) == Some(at) => *length += more,
        (
            Some(Part::Open {
                chunk,
                offset,
                length,
            }),
            Part::Open {
                chunk: next,
                offset: at,
                length: more,
            },
        ) if *chunk == next && offset.checked_add(*length) == Some(at) => *length += more,
        _ => parts.push(part),
    }
}

/// What a record names for these extents: themselves, or spills that are stored here.
///
/// # Errors
/// Failures of the store.
pub(super) fn spill(extents: &Extents, store: &BlobStore) -> Result<Content> {
    if extents.as_slice().len() <= INLINE {
        return Ok(Content::Inline(extents.clone()));
    }
    let span = spill_span(extents.length());
    let mut ids = Vec::new();
    let mut open = Extents::default();
    let mut put = |open: &mut Extents| -> Result<()> {
        let mut bytes = Vec::new();
        std::mem::take(open).encode(&mut bytes);
        ids.push(store.put(BlobKind::Lineage, bytes)?);
        Ok(())
    };
    for extent in extents.as_slice() {
        let mut rest = *extent;
        loop {
            let room = span - open.length();
            if rest.len() <= room {
                open.push(rest);
                break;
            }
            let (head, tail) = split(rest, room);
            open.push(head);
            put(&mut open)?;
            rest = tail;
        }
    }
    if open.length() > 0 {
        put(&mut open)?;
    }
    Ok(Content::Spilled(ids))
}

/// Both parts of an extent; `at` is within it.
fn split(extent: Extent, at: u64) -> (Extent, Extent) {
    match extent {
        Extent::Zero { length } => (
            Extent::Zero { length: at },
            Extent::Zero {
                length: length - at,
            },
        ),
        Extent::Data {
            chunk,
            offset,
            length,
        } => {
            let at = u32::try_from(at).unwrap_or(length).min(length);
            (
                Extent::Data {
                    chunk,
                    offset,
                    length: at,
                },
                Extent::Data {
                    chunk,
                    offset: offset + at,
                    length: length - at,
                },
            )
        }
    }
}

fn is_zero(piece: &[u8]) -> bool {
    let (words, rest) = piece.as_chunks::<16>();
    words.first().is_none_or(|word| *word == [0; 16])
        && words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
        && rest.iter().all(|byte| *byte == 0)
}
