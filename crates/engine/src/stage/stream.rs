//! Cutting one stream: pieces that its past has point to where they lie, new ones are gathered into
//! chunks and stored.
//!
//! What the source says is unchanged points to where it lies, byte for byte: ranges need not fall on
//! pieces. A writer cannot read what is stored, so the pieces at both ends of such a range, whose
//! other bytes it was given, are kept without a digest; the next backup that reads them stores them
//! anew.

use std::ops::Range;

use backup_core::ChunkId;
use backup_format::chunk::{CutKeys, Gatherer, PieceCut, PieceDigest, PieceSizes};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::lineage::{LineageHead, UNREAD, ZERO};
use backup_format::seal::BlobKind;

use super::parts::{Part, Parts, spill};
use super::track::{PieceLimit, Track};
use crate::error::Result;
use crate::past::Past;
use crate::repository::Sizes;
use crate::store::BlobStore;

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
    past: Option<Past>,
    track: Track,
    gatherer: Gatherer,
    chunks: Vec<ChunkId>,
    parts: Parts,
    /// The bytes of the open piece.
    buffer: Vec<u8>,
    /// Bytes of the open page that are placed already, because not all of it was read; the buffer is
    /// empty then.
    placed: usize,
    /// Bytes that are placed.
    size: u64,
    /// The last range that the source did not read.
    unchanged: Range<u64>,
}

impl std::fmt::Debug for StreamCutter<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StreamCutter({:?}, {} bytes)", self.track.cut, self.size)
    }
}

impl<'a> StreamCutter<'a> {
    /// A cutter for a stream of about `size` bytes (0: not known) cut in this way. Its pieces are
    /// compared with those of its past if that was cut alike.
    pub(super) fn new(
        keys: &'a CutKeys,
        store: &'a BlobStore,
        sizes: Sizes,
        limit: PieceLimit,
        cut: PieceCut,
        past: Option<Past>,
        size: u64,
    ) -> Self {
        Self {
            keys,
            store,
            sizes,
            past,
            track: Track::new(cut, size, limit),
            gatherer: Gatherer::new(sizes.chunks),
            chunks: Vec::new(),
            parts: Parts::default(),
            buffer: Vec::new(),
            placed: 0,
            size: 0,
            unchanged: 0..0,
        }
    }

    /// The past, if its pieces can be compared with those of the stream.
    fn comparable(&self) -> Option<&Past> {
        let past = self.past.as_ref();
        past.filter(|past| past.cut() == Some(self.track.cut))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<()> {
        match self.track.cut {
            PieceCut::Pages(_) => self.data_pages(bytes),
            PieceCut::Content(_) => self.data_content(bytes),
        }
    }

    /// Cuts straight from the bytes that came: only what is left of them, too little to say where a
    /// piece ends, is copied.
    fn data_content(&mut self, bytes: &[u8]) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let left = buffer.len();
        let (mut at, mut copied) = (0, 0);
        while at < left {
            let missing = (at + self.content_sizes().max).saturating_sub(buffer.len());
            let now = &bytes[copied..];
            let now = &now[..missing.min(now.len())];
            buffer.extend_from_slice(now);
            copied += now.len();
            if now.len() < missing {
                buffer.drain(..at);
                self.buffer = buffer;
                return Ok(());
            }
            at += self.first_piece(&buffer[at..])?;
        }
        let mut bytes = &bytes[at - left..];
        while bytes.len() >= self.content_sizes().max {
            bytes = &bytes[self.first_piece(bytes)?..];
        }
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.buffer = buffer;
        Ok(())
    }

    fn data_pages(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let page = self.track.cut.piece() as usize;
            let open = self.placed + self.buffer.len();
            let (now, later) = bytes.split_at((page - open).min(bytes.len()));
            if self.placed > 0 {
                self.place(now, &self.keys.digest(now))?;
                self.end_of_placed(now.len());
            } else if now.len() == page {
                self.piece(now)?;
            } else {
                self.buffer.extend_from_slice(now);
                if self.buffer.len() == page {
                    let buffer = std::mem::take(&mut self.buffer);
                    self.piece(&buffer)?;
                    self.buffer = buffer;
                    self.buffer.clear();
                }
            }
            bytes = later;
        }
        Ok(())
    }

    /// Cuts what is left: nothing that it could be part of a piece with comes behind it.
    fn cut_rest(&mut self) -> Result<()> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        while at < buffer.len() {
            at += self.first_piece(&buffer[at..])?;
        }
        buffer.clear();
        self.buffer = buffer;
        Ok(())
    }

    /// Cuts the first piece and says how long it is.
    fn first_piece(&mut self, bytes: &[u8]) -> Result<usize> {
        let length = self.keys.gear().cut(bytes, &self.content_sizes());
        self.piece(&bytes[..length])?;
        Ok(length)
    }

    fn content_sizes(&self) -> PieceSizes {
        let average = self.track.cut.piece() as usize;
        self.sizes.pieces.content.scaled(average)
    }

    /// Takes a range of zeros that take no space.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn zeros(&mut self, mut length: u64) -> Result<()> {
        // A hole ends a content-defined piece before it and is none itself.
        if matches!(self.track.cut, PieceCut::Content(_)) {
            self.cut_rest()?;
        }
        while length > 0 {
            length -= match self.track.cut {
                PieceCut::Pages(page) => self.zeros_in_page(length, u64::from(page))?,
                PieceCut::Content(_) => self.zero_piece(u32::try_from(length).unwrap_or(u32::MAX)),
            };
        }
        Ok(())
    }

    /// Takes zeros up to the end of the open page, or a whole page of them; says how many.
    fn zeros_in_page(&mut self, length: u64, page: u64) -> Result<u64> {
        let open = self.placed + self.buffer.len();
        if open == 0 && length >= page {
            return Ok(self.zero_piece(u32::try_from(page).unwrap_or(u32::MAX)));
        }
        let length = (page - open as u64).min(length);
        let bytes = usize::try_from(length).unwrap_or(0);
        if self.placed > 0 {
            self.parts.push(Part::Known(Extent::Zero { length }));
            self.end_of_placed(bytes);
        } else {
            self.data_pages(&vec![0; bytes])?;
        }
        Ok(length)
    }

    fn zero_piece(&mut self, length: u32) -> u64 {
        let number = self.track.next_number();
        let past = self.comparable();
        let origin =
            past.and_then(|past| past.find(&ZERO, length as usize, number, self.track.expected));
        let zeros = u64::from(length);
        self.parts.push(Part::Known(Extent::Zero { length: zeros }));
        self.end_of_piece(ZERO, length, origin);
        zeros
    }

    /// Takes a range that is as it was in the past; says whether the past has it. If not, the
    /// stream cannot be put together.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn unchanged(&mut self, length: u64) -> Result<bool> {
        match self.track.cut {
            PieceCut::Content(_) => self.cut_rest()?,
            PieceCut::Pages(_) => {
                // What was read of the open page cannot wait for the rest.
                let buffer = std::mem::take(&mut self.buffer);
                if !buffer.is_empty() {
                    self.place(&buffer, &self.keys.digest(&buffer))?;
                    self.end_of_placed(buffer.len());
                }
            }
        }
        let start = self.size;
        let Some(past) = &self.past else {
            return Ok(false);
        };
        if !past.has_range(start, length) {
            return Ok(false);
        }
        let parts = &mut self.parts;
        past.copy_range(start, length, |extent| parts.push(Part::Known(extent)));
        let end = start + length;
        while self.size < end {
            let rest = end - self.size;
            match self.track.cut {
                PieceCut::Pages(page) => self.unchanged_in_page(rest, page),
                PieceCut::Content(_) => self.unchanged_piece(rest),
            }
        }
        self.unchanged = start..end;
        Ok(true)
    }

    fn unchanged_in_page(&mut self, rest: u64, page: u32) {
        if self.placed == 0 && rest >= u64::from(page) {
            let number = self.track.next_number();
            let digest = self.comparable().map(|past| past.digest(number));
            let origin = digest.map(|_| number);
            self.end_of_piece(digest.unwrap_or(UNREAD), page, origin);
        } else {
            let rest = usize::try_from(rest).unwrap_or(usize::MAX);
            self.end_of_placed(rest.min(page as usize - self.placed));
        }
    }

    fn unchanged_piece(&mut self, rest: u64) {
        let past = self.comparable();
        let piece = past.and_then(|past| {
            let number = past.piece_at(self.size)?;
            let (start, length) = past.span(number);
            Some((number, past.digest(number), start, length))
        });
        let narrow = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
        match piece {
            Some((number, digest, start, length)) if start == self.size && length <= rest => {
                self.end_of_piece(digest, narrow(length), Some(number));
            }
            Some((_, _, start, length)) => {
                let length = (start + length - self.size).min(rest);
                self.end_of_piece(UNREAD, narrow(length), None);
            }
            None => self.end_of_piece(UNREAD, narrow(rest), None),
        }
    }

    fn piece(&mut self, piece: &[u8]) -> Result<()> {
        let length = u32::try_from(piece.len()).unwrap_or(u32::MAX);
        if is_zero(piece) {
            self.zero_piece(length);
            return Ok(());
        }
        let digest = self.keys.digest(piece);
        let (number, expected) = (self.track.next_number(), self.track.expected);
        let past = self.past.as_ref();
        let past = past.filter(|past| past.cut() == Some(self.track.cut));
        let found = past.and_then(|past| past.find(&digest, piece.len(), number, expected));
        if let (Some(past), Some(found)) = (past, found) {
            let (start, length) = past.span(found);
            let parts = &mut self.parts;
            past.copy_range(start, length, |extent| parts.push(Part::Known(extent)));
        } else {
            self.place(piece, &digest)?;
        }
        self.end_of_piece(digest, length, found);
        Ok(())
    }

    /// The piece is placed.
    fn end_of_piece(&mut self, digest: PieceDigest, length: u32, origin: Option<u32>) {
        self.track.add(digest, length, origin);
        self.size += u64::from(length);
        if self.track.is_full() {
            self.track.coarsen(self.size);
            if let PieceCut::Pages(page) = self.track.cut {
                self.placed = usize::try_from(self.size % u64::from(page)).unwrap_or(0);
            }
        }
    }

    /// So many more bytes of the open page are placed, which was not read as a whole.
    fn end_of_placed(&mut self, length: usize) {
        self.placed += length;
        if self.placed < self.track.cut.piece() as usize {
            self.size += length as u64;
            return;
        }
        // The piece counts its whole length.
        self.size -= (self.placed - length) as u64;
        self.placed = 0;
        self.end_of_piece(UNREAD, self.track.cut.piece(), None);
    }

    /// Gathers bytes into the open chunk, or notes that they are zeros.
    fn place(&mut self, bytes: &[u8], digest: &PieceDigest) -> Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if is_zero(bytes) {
            let length = u64::from(length);
            self.parts.push(Part::Known(Extent::Zero { length }));
            return Ok(());
        }
        if self.gatherer.is_full_for(bytes.len()) {
            self.end_chunk()?;
        }
        let (offset, ends) = self.gatherer.push(bytes, digest);
        let chunk = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        let offset = u32::try_from(offset).unwrap_or(u32::MAX);
        self.parts.push(Part::Open {
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

    /// Ends the stream: everything is handed to the store, the lineage and spills too.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn finish(mut self) -> Result<CutStream> {
        if let PieceCut::Content(_) = self.track.cut {
            self.cut_rest()?;
        }
        let rest = std::mem::take(&mut self.buffer);
        if !rest.is_empty() {
            self.piece(&rest)?;
        }
        if self.placed > 0 {
            self.last_page();
        }
        self.end_chunk()?;
        let extents = std::mem::take(&mut self.parts).into_extents(&self.chunks)?;
        let content = spill(&extents, self.store)?;
        let lineage = if self.size < self.sizes.lineage_from {
            None
        } else {
            let past = self.past.as_ref();
            self.track.store(self.store, past, self.size, &content)?
        };
        Ok(CutStream {
            size: self.size,
            extents,
            content,
            lineage,
        })
    }

    /// Ends a last page that is shorter than others and was not read as a whole: if nothing of it
    /// was and it was the last in the past, it is still the same piece.
    fn last_page(&mut self) {
        let number = self.track.next_number();
        let start = self.size - self.placed as u64;
        let is_same = self.unchanged.end == self.size && self.unchanged.start <= start;
        let past = self.comparable();
        let past = past.filter(|past| is_same && past.size == self.size);
        let digest = past.map(|past| past.digest(number));
        let origin = digest.map(|_| number);
        let length = u32::try_from(self.placed).unwrap_or(u32::MAX);
        self.track.add(digest.unwrap_or(UNREAD), length, origin);
    }
}

fn is_zero(piece: &[u8]) -> bool {
    let (words, rest) = piece.as_chunks::<16>();
    words.first().is_none_or(|word| *word == [0; 16])
        && words.iter().all(|word| u128::from_ne_bytes(*word) == 0)
        && rest.iter().all(|byte| *byte == 0)
}
