//! Extents: where the content of an entry lies, as a list of (chunk, offset, length) in order.
//!
//! A list is stored as `varint chunks { id(32) } ‖ varint extents { varint length·2 + zero ‖ (if
//! not zero) varint chunk number ‖ varint offset }`; chunks in the order of their first use.
//! Lists of more than [`INLINE`] extents are stored in blobs of kind `Lineage` (*spills*), each for
//! one range of the stream of [`spill_span`] bytes, so that ranges that did not change are the same
//! blobs in every snapshot.

use std::collections::HashMap;

use backup_core::ChunkId;

use crate::wire::{Put, Take, WireError};

/// Lists of at most so many extents stand in the record itself.
pub const INLINE: usize = 16;

/// One stretch of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Bytes of a chunk.
    Data {
        /// The chunk.
        chunk: ChunkId,
        /// Offset of the first byte in the plain chunk.
        offset: u32,
        /// Number of bytes, at least 1.
        length: u32,
    },
    /// Zeros that take no space.
    Zero {
        /// Number of bytes, at least 1.
        length: u64,
    },
}

impl Extent {
    /// Number of bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        match self {
            Self::Data { length, .. } => *length as u64,
            Self::Zero { length } => *length,
        }
    }

    /// Whether it has no bytes (never in a stored list).
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Largest length of a content, in bytes: file systems have no longer files, and holes that adjoin
/// still fit into one number when they are stored.
const MAX_CONTENT: u64 = i64::MAX as u64;

/// Most extents of a content: twice the most pieces of a stream, since a hole may follow each.
pub const MAX_EXTENTS: usize = 1 << 24;
/// Most extents of one stored list: a record's, or a spill's.
pub const MAX_LIST: usize = 1 << 20;

/// A list of extents in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extents {
    list: Vec<Extent>,
    length: u64,
}

impl Extents {
    /// Appends an extent, melting it into the last one where they adjoin.
    pub fn push(&mut self, extent: Extent) {
        if extent.is_empty() {
            return;
        }
        self.length += extent.len();
        match (self.list.last_mut(), extent) {
            (Some(Extent::Zero { length }), Extent::Zero { length: more }) => *length += more,
            (
                Some(Extent::Data {
                    chunk,
                    offset,
                    length,
                }),
                Extent::Data {
                    chunk: next,
                    offset: at,
                    length: more,
                },
            ) if *chunk == next && offset.checked_add(*length) == Some(at) => *length += more,
            _ => self.list.push(extent),
        }
    }

    /// The extents.
    #[must_use]
    pub fn as_slice(&self) -> &[Extent] {
        &self.list
    }

    /// Bytes of the whole content.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The part of the list for `length` bytes from `start` on.
    #[must_use]
    pub fn slice(&self, start: u64, length: u64) -> Self {
        let mut out = Self::default();
        let end = start.saturating_add(length);
        let mut at = 0u64;
        for extent in &self.list {
            let (from, to) = (at.max(start), (at + extent.len()).min(end));
            if from < to {
                out.push(cut(extent, from - at, to - from));
            }
            at += extent.len();
            if at >= end {
                break;
            }
        }
        out
    }

    /// Appends another list.
    ///
    /// # Errors
    /// [`WireError::Range`] when both together are longer than any content, or have more extents;
    /// then nothing is appended.
    pub fn extend(&mut self, other: &Self) -> Result<(), WireError> {
        let length = self.length.checked_add(other.length);
        if length.is_none_or(|length| length > MAX_CONTENT) {
            return Err(WireError::Range("the length of a content"));
        }
        if self.list.len() + other.list.len() > MAX_EXTENTS {
            return Err(WireError::Range("the number of extents"));
        }
        other.list.iter().for_each(|extent| self.push(*extent));
        Ok(())
    }

    /// The stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut numbers = HashMap::new();
        let mut chunks = Vec::new();
        for extent in &self.list {
            if let Extent::Data { chunk, .. } = extent {
                numbers.entry(*chunk).or_insert_with(|| {
                    chunks.push(*chunk);
                    chunks.len() as u64 - 1
                });
            }
        }
        out.put_varint(chunks.len() as u64);
        chunks
            .iter()
            .for_each(|chunk| out.extend_from_slice(chunk.as_bytes()));
        out.put_varint(self.list.len() as u64);
        for extent in &self.list {
            match extent {
                Extent::Zero { length } => out.put_varint(length << 1 | 1),
                Extent::Data {
                    chunk,
                    offset,
                    length,
                } => {
                    out.put_varint(u64::from(*length) << 1);
                    out.put_varint(numbers.get(chunk).copied().unwrap_or(0));
                    out.put_varint(u64::from(*offset));
                }
            }
        }
    }

    /// Reads the stored form of a record's list or a spill's.
    ///
    /// # Errors
    /// [`WireError`] when a number is out of range or the bytes end.
    pub fn decode(take: &mut Take<'_>) -> Result<Self, WireError> {
        Self::decode_within(take, MAX_LIST)
    }

    /// Reads the stored form of a list of at most so many extents.
    ///
    /// # Errors
    /// As [`Extents::decode`].
    pub fn decode_within(take: &mut Take<'_>, most: usize) -> Result<Self, WireError> {
        let count = take.count(32)?;
        let mut chunks = Vec::with_capacity(count);
        for _ in 0..count {
            chunks.push(ChunkId(take.array()?));
        }
        let count = take.count(1)?;
        if count > most {
            return Err(WireError::Range("the number of extents"));
        }
        // Zeros melt together, so there are fewer extents than half the bytes.
        let mut out = Self {
            list: Vec::with_capacity(count.min(take.left() / 2 + 1)),
            length: 0,
        };
        for _ in 0..count {
            let head = take.varint()?;
            let length = head >> 1;
            let extent = if head & 1 == 1 {
                Extent::Zero { length }
            } else {
                let number = usize::try_from(take.varint()?).unwrap_or(usize::MAX);
                let chunk = *chunks
                    .get(number)
                    .ok_or(WireError::Range("a chunk number"))?;
                let narrow =
                    |value| u32::try_from(value).map_err(|_| WireError::Range("an extent"));
                let (offset, length) = (narrow(take.varint()?)?, narrow(length)?);
                offset
                    .checked_add(length)
                    .ok_or(WireError::Range("an extent"))?;
                Extent::Data {
                    chunk,
                    offset,
                    length,
                }
            };
            let length = out.length.checked_add(extent.len());
            if extent.is_empty() || length.is_none_or(|length| length > MAX_CONTENT) {
                return Err(WireError::Range("the length of an extent"));
            }
            out.push(extent);
        }
        Ok(out)
    }
}

/// A part of an extent: `length` bytes from `skip` on; both within it.
fn cut(extent: &Extent, skip: u64, length: u64) -> Extent {
    match *extent {
        Extent::Zero { .. } => Extent::Zero { length },
        // Both fit: they are within a length of 32 bits.
        Extent::Data { chunk, offset, .. } => Extent::Data {
            chunk,
            offset: offset + skip as u32,
            length: length as u32,
        },
    }
}

/// Bytes of a stream that one spill describes: 256 MiB, and so much that a stream has at most
/// 4,096 of them.
#[must_use]
pub const fn spill_span(size: u64) -> u64 {
    let mut span = 256 << 20;
    while size / span >= 4096 {
        span *= 2;
    }
    span
}

/// Where the content of an entry is described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// In the record.
    Inline(Extents),
    /// In blobs of kind `Lineage`, one for each [`spill_span`] bytes of the stream.
    Spilled(Vec<ChunkId>),
}

impl Content {
    /// No content.
    #[must_use]
    pub fn empty() -> Self {
        Self::Inline(Extents::default())
    }

    /// The stored form: `0 ‖ list` or `1 ‖ varint count { id(32) }`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inline(extents) => {
                out.push(0);
                extents.encode(out);
            }
            Self::Spilled(ids) => {
                out.push(1);
                out.put_varint(ids.len() as u64);
                ids.iter()
                    .for_each(|id| out.extend_from_slice(id.as_bytes()));
            }
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(take: &mut Take<'_>) -> Result<Self, WireError> {
        match take.u8()? {
            0 => Ok(Self::Inline(Extents::decode(take)?)),
            1 => {
                let count = take.count(32)?;
                let ids = (0..count).map(|_| take.array().map(ChunkId));
                Ok(Self::Spilled(ids.collect::<Result<_, _>>()?))
            }
            _ => Err(WireError::Range("a kind of content")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents() -> impl Strategy<Value = Extents> {
        let data =
            (0u8..5, 0u32..1000, 1u32..1000).prop_map(|(chunk, offset, length)| Extent::Data {
                chunk: ChunkId([chunk; 32]),
                offset,
                length,
            });
        let zero = (1u64..1 << 40).prop_map(|length| Extent::Zero { length });
        prop::collection::vec(prop_oneof![data, zero], 0..50).prop_map(|list| {
            let mut out = Extents::default();
            list.into_iter().for_each(|extent| out.push(extent));
            out
        })
    }

    /// Found by the fuzzer: melted together, such holes lost their highest bit when stored again.
    #[test]
    fn holes_that_are_longer_than_any_file_are_refused() {
        let stored = |lengths: &[u64]| {
            let mut out = vec![0];
            out.put_varint(lengths.len() as u64);
            lengths
                .iter()
                .for_each(|length| out.put_varint(length << 1 | 1));
            out
        };
        let read = |bytes: &[u8]| Extents::decode(&mut Take::new(bytes));
        assert!(read(&stored(&[MAX_CONTENT, 1])).is_err());
        let longest = read(&stored(&[MAX_CONTENT - 1, 1])).unwrap();
        let mut again = Vec::new();
        longest.encode(&mut again);
        assert_eq!(read(&again).unwrap(), longest);
        // Nor do several lists make one that is longer.
        let mut whole = longest.clone();
        assert!(whole.extend(&read(&stored(&[1])).unwrap()).is_err());
        assert_eq!(whole, longest);
    }

    #[test]
    fn a_list_takes_no_more_room_than_a_multiple_of_its_bytes() {
        let stored = |count: usize| {
            let mut out = vec![1];
            out.extend_from_slice(&[7; 32]);
            out.put_varint(count as u64);
            // A byte of the chunk and a zero by turns: the shortest that do not melt together.
            (0..count / 2).for_each(|_| out.extend_from_slice(&[2, 0, 0, 3]));
            out
        };
        let bytes = stored(100_000);
        let list = Extents::decode(&mut Take::new(&bytes)).unwrap();
        assert_eq!(list.as_slice().len(), 100_000);
        assert!(list.list.capacity() * size_of::<Extent>() <= 24 * bytes.len());
        // Zeros alone melt, and take no room before they do.
        let zeros = [&[0, 0xa0, 0x8d, 0x06][..], &[3; 100_000]].concat();
        let list = Extents::decode(&mut Take::new(&zeros)).unwrap();
        assert!(list.list.capacity() * size_of::<Extent>() <= 24 * zeros.len());

        let long = stored(MAX_LIST + 2);
        let refused = Extents::decode(&mut Take::new(&long));
        assert_eq!(refused, Err(WireError::Range("the number of extents")));
        let mut whole = Extents::decode(&mut Take::new(&stored(MAX_LIST))).unwrap();
        let part = whole.clone();
        let added = (0..MAX_EXTENTS / MAX_LIST).filter(|_| whole.extend(&part).is_ok());
        assert_eq!(added.count(), MAX_EXTENTS / MAX_LIST - 1);
    }

    proptest! {
        #[test]
        fn lists_round_trip(list in extents()) {
            let mut out = Vec::new();
            list.encode(&mut out);
            let mut take = Take::new(&out);
            prop_assert_eq!(Extents::decode(&mut take).unwrap(), list);
            prop_assert!(take.end().is_ok());
        }

        #[test]
        fn slices_put_together_are_the_whole(list in extents(), at: u64) {
            let at = at % (list.length() + 1);
            let mut whole = list.slice(0, at);
            whole.extend(&list.slice(at, u64::MAX)).unwrap();
            prop_assert_eq!(whole, list);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = Content::decode(&mut Take::new(&bytes));
        }
    }
}
