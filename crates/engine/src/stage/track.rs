//! The pieces of a stream as it is cut, which become its lineage. A stream that turns out larger than
//! its pieces were chosen for goes on in larger ones: of what came before only the length is kept.

use backup_core::ChunkId;
use backup_format::chunk::profile::LARGEST_PIECE;
use backup_format::chunk::{PieceCut, PieceDigest};
use backup_format::extent::Content;
use backup_format::lineage::{self, Layer, LineageHead, MAX_PIECES, NEW, PART, Pieces, UNREAD};
use backup_format::seal::BlobKind;

use crate::error::Result;
use crate::past::Past;
use crate::store::BlobStore;

/// How many pieces are kept of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PieceLimit {
    /// Streams whose size is known get pieces so large that there are about so many at most.
    pub wanted: u64,
}

impl Default for PieceLimit {
    fn default() -> Self {
        Self {
            wanted: backup_format::chunk::MOST_PIECES,
        }
    }
}

impl PieceLimit {
    /// Most pieces in hand of a stream of about `size` bytes (0: not known). Content-defined pieces
    /// are a little smaller than their average here and there.
    fn in_hand(self, size: u64) -> usize {
        let most = match size {
            0 => self.wanted / 2,
            _ => self.wanted + self.wanted / 2,
        };
        usize::try_from(most).map_or(MAX_PIECES, |most| most.clamp(2, MAX_PIECES))
    }
}

/// The pieces of a stream so far.
#[derive(Debug)]
pub(super) struct Track {
    /// How the stream is cut from here on.
    pub(super) cut: PieceCut,
    pieces: Pieces,
    /// The pieces of the past that they equal, or [`NEW`]; empty as long as all are new.
    origins: Vec<u32>,
    /// The piece of the past that is likely to come next.
    pub(super) expected: u32,
    most: usize,
    is_kept: bool,
}

impl Track {
    /// The track of a stream of about `size` bytes (0: not known) cut in this way.
    pub(super) fn new(cut: PieceCut, size: u64, limit: PieceLimit) -> Self {
        let most = limit.in_hand(size);
        // Growing by doubling would take up to twice the memory.
        let expected = size / u64::from(cut.piece()) * 9 / 8;
        let expected = usize::try_from(expected).map_or(most, |n| n.min(most));
        Self {
            cut,
            pieces: Pieces {
                digests: Vec::with_capacity(expected),
                lengths: Vec::with_capacity(match cut {
                    PieceCut::Content(_) => expected,
                    PieceCut::Pages(_) => 0,
                }),
            },
            origins: Vec::new(),
            expected: 0,
            most,
            is_kept: true,
        }
    }

    /// The number of the next piece.
    pub(super) fn next_number(&self) -> u32 {
        u32::try_from(self.pieces.digests.len()).unwrap_or(NEW)
    }

    /// Adds a piece, which equals a piece of the past or is new.
    pub(super) fn add(&mut self, digest: PieceDigest, length: u32, origin: Option<u32>) {
        if self.pieces.digests.len() >= MAX_PIECES {
            self.is_kept = false;
            return;
        }
        if let Some(origin) = origin {
            if self.origins.is_empty() {
                self.origins
                    .reserve_exact(self.pieces.digests.capacity().max(1));
                self.origins.resize(self.pieces.digests.len(), NEW);
            }
            self.expected = origin.wrapping_add(1);
        }
        if origin.is_some() || !self.origins.is_empty() {
            self.origins.push(origin.unwrap_or(NEW));
        }
        self.pieces.digests.push(digest);
        if matches!(self.cut, PieceCut::Content(_)) {
            self.pieces.lengths.push(length);
        }
    }

    /// Whether the stream has too many pieces and must go on in larger ones. The largest pages
    /// cannot grow: there may be as many as a lineage holds.
    pub(super) fn is_full(&self) -> bool {
        self.pieces.digests.len() >= self.most && self.cut != PieceCut::Pages(LARGEST_PIECE)
    }

    /// Goes on in larger pieces behind `size` bytes: of those nothing but the size is known any
    /// more. The next backup cuts in that way from the start, and finds again what is behind here.
    pub(super) fn coarsen(&mut self, size: u64) {
        self.cut = self.cut.coarser();
        self.pieces.digests.clear();
        self.pieces.lengths.clear();
        self.origins.clear();
        match self.cut {
            PieceCut::Pages(page) => {
                for _ in 0..size / u64::from(page) {
                    self.add(UNREAD, page, None);
                }
            }
            PieceCut::Content(_) => self.add_unread(size),
        }
    }

    /// Adds content-defined pieces of which nothing but the length is known.
    pub(super) fn add_unread(&mut self, mut length: u64) {
        while length > 0 {
            let piece = u32::try_from(length).unwrap_or(u32::MAX);
            self.add(UNREAD, piece, None);
            length -= u64::from(piece);
        }
    }

    /// Stores the lineage of the whole stream of `size` bytes; `None` for one that cannot have any.
    ///
    /// # Errors
    /// Failures of the store.
    pub(super) fn store(
        &self,
        store: &BlobStore,
        past: Option<&Past>,
        size: u64,
        content: &Content,
    ) -> Result<Option<LineageHead>> {
        if !self.is_kept {
            return Ok(None);
        }
        let past = past.filter(|past| past.cut() == Some(self.cut));
        let mut layers = past.map(|past| past.layers().to_vec()).unwrap_or_default();
        let is_same = past.is_some_and(|past| past.pieces == self.pieces);
        // An edit of which everything is new is no smaller than a base.
        let is_edit = !self.origins.is_empty();
        let mut edit = 0u64;
        if is_edit {
            self.pieces
                .emit_edit(&self.origins, &mut |bytes| edit += bytes.len() as u64);
        }
        if (!is_same && !is_edit) || lineage::base_is_due(&layers, edit) {
            layers = vec![store_layer(store, |out| self.pieces.emit_base(out))?];
        } else if !is_same {
            layers.push(store_layer(store, |out| {
                self.pieces.emit_edit(&self.origins, out);
            })?);
        }
        Ok(Some(LineageHead {
            cut: self.cut,
            size,
            pieces: self.pieces.digests.len() as u64,
            layers,
            content: content.clone(),
        }))
    }
}

/// Stores a layer in parts while it is made.
fn store_layer(store: &BlobStore, emit: impl FnOnce(&mut dyn FnMut(&[u8]))) -> Result<Layer> {
    let (mut bytes, mut open) = (0, Vec::with_capacity(PART));
    let mut parts: Result<Vec<ChunkId>> = Ok(Vec::new());
    let mut put = |part: Vec<u8>| {
        if let Ok(ids) = &mut parts {
            match store.put(BlobKind::Lineage, part) {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds `count` pieces as a cutter does; says the size and the most pieces that were in hand.
    fn run(track: &mut Track, count: u64) -> (u64, usize) {
        let (mut size, mut most) = (0, 0);
        for _ in 0..count {
            let piece = track.cut.piece();
            track.add([1; 16], piece, None);
            size += u64::from(piece);
            most = most.max(track.pieces.digests.len());
            if track.is_full() {
                track.coarsen(size);
            }
        }
        (size, most)
    }

    #[test]
    fn a_stream_of_unknown_size_holds_no_more_pieces_however_long_it_is() {
        let limit = PieceLimit { wanted: 64 };
        let mut track = Track::new(PieceCut::Content(8192), 0, limit);
        let (size, most) = run(&mut track, 1000);
        assert_eq!((most, track.cut), (32, PieceCut::Content(LARGEST_PIECE)));
        let lengths = track.pieces.lengths.iter();
        assert_eq!(lengths.map(|length| u64::from(*length)).sum::<u64>(), size);
        assert!(track.is_kept);

        let mut track = Track::new(PieceCut::Pages(8192), 0, limit);
        let (_, most) = run(&mut track, 32 + 5 * 16);
        assert_eq!((most, track.cut), (32, PieceCut::Pages(512 << 10)));
        let unread = track
            .pieces
            .digests
            .iter()
            .filter(|digest| **digest == UNREAD);
        assert_eq!(unread.count(), 16);
        // The largest pages do not grow, and are kept.
        run(&mut track, 100);
        assert_eq!(track.cut, PieceCut::Pages(LARGEST_PIECE));
        assert!(track.is_kept);
    }

    #[test]
    fn a_stream_whose_size_is_known_has_room_for_it() {
        let limit = PieceLimit { wanted: 64 };
        let mut track = Track::new(PieceCut::Content(8192), 64 * 8192, limit);
        assert_eq!(run(&mut track, 80).1, 80);
        assert_eq!(track.cut, PieceCut::Content(8192));
        let limit = PieceLimit::default();
        assert_eq!(limit.in_hand(0), 1 << 20);
        assert!(limit.in_hand(u64::MAX) <= MAX_PIECES);
    }
}
