//! Trees of sorted pages: manifests (path → record) and lineage directories (stream → lineage).
//!
//! A page is a blob: `level(1) ‖ varint entries { varint shared ‖ bytes suffix ‖ bytes value }`. Keys
//! ascend strictly; `shared` bytes are those of the key before. On level 0 the values are the
//! caller's; above, a value is `child id(32) ‖ varint entries below` and the key is the first key
//! of the child.
//!
//! Pages end where a key's own hash says so (the lottery of [`crate::chunk::gather`], with the
//! BLAKE3 hash of the key and the entry's size), so the same entries give the same pages in every
//! snapshot, and a change touches the pages on its way to the root only. Listing one folder of a
//! large snapshot reads a few pages.
//!
//! Long keys must not make pages of one entry each: above level 0 such pages would not divide, and
//! the tree would grow without end. So no inner page but the last ends before [`MIN_CHILDREN`]
//! entries; of a page's first key, which stands in full, [`FIRST_KEY`] bytes count; and no entry
//! draws with more than one chance in two, so that ends stay chosen by content, not by counting.

use std::cmp::Ordering;

use backup_core::{ChunkId, EntryPath};

use crate::wire::{Put, Take, WireError};

mod walk;

pub use walk::{Gap, Step, TreeCursor};

/// Trees are at most so high; a stored tree that is higher is damaged.
pub const MAX_HEIGHT: u8 = 12;
/// Longest key: a path and what stands before it.
const MAX_KEY: usize = EntryPath::MAX_BYTES + 16;
/// A page ends at the latest at so many bytes (a single larger entry has a page of its own).
const MAX: usize = 64 << 10;
/// No inner page but the last of its level has fewer entries, so each level divides.
const MIN_CHILDREN: u64 = 8;
/// Bytes of a page's first key that count for its length.
const FIRST_KEY: usize = 256;

/// Entries that are not made a tree, because nobody could read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// It would be higher than trees may be.
    #[error("a tree of pages would have more than {MAX_HEIGHT} levels above the lowest")]
    TooHigh,
    /// A key is longer than keys may be.
    #[error("a key of {0} bytes is too long for a tree of pages")]
    LongKey(usize),
}

/// Wanted bytes of a page before compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageSizes {
    /// No page but the last ends before.
    pub min: usize,
    /// The wanted average.
    pub target: usize,
}

/// The root of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TreeRoot {
    /// The root page.
    pub id: ChunkId,
    /// Its level.
    pub height: u8,
    /// Entries of the whole tree.
    pub entries: u64,
}

#[derive(Debug, Default)]
struct OpenPage {
    body: Vec<u8>,
    count: u64,
    below: u64,
    first: Vec<u8>,
    last: Vec<u8>,
}

impl OpenPage {
    fn push(&mut self, key: &[u8], value: &[u8], below: u64) {
        let shared = key
            .iter()
            .zip(&self.last)
            .take_while(|(a, b)| a == b)
            .count();
        let shared = if self.count == 0 { 0 } else { shared };
        if self.count == 0 {
            self.first = key.to_vec();
        }
        self.body.put_varint(shared as u64);
        self.body.put_bytes(&key[shared..]);
        self.body.put_bytes(value);
        self.count += 1;
        self.below += below;
        self.last.clear();
        self.last.extend_from_slice(key);
    }

    /// Its length as far as it counts for where it ends.
    fn length(&self) -> usize {
        self.body.len() - self.first.len().saturating_sub(FIRST_KEY)
    }

    fn finish(&mut self, level: u8) -> (Vec<u8>, Vec<u8>, u64) {
        let mut page = Vec::with_capacity(self.body.len() + 10);
        page.push(level);
        page.put_varint(self.count);
        page.append(&mut self.body);
        let done = (page, std::mem::take(&mut self.first), self.below);
        (self.count, self.below) = (0, 0);
        done
    }
}

/// Builds a tree from entries in ascending order of key, with one open page for each level.
#[derive(Debug)]
pub struct TreeBuilder {
    sizes: PageSizes,
    levels: Vec<OpenPage>,
}

impl TreeBuilder {
    /// An empty tree.
    #[must_use]
    pub fn new(sizes: PageSizes) -> Self {
        Self {
            sizes,
            levels: vec![OpenPage::default()],
        }
    }

    /// Adds an entry. Finished pages go to `store`, which returns their ids.
    ///
    /// # Errors
    /// [`TreeError`] for what could not be read back; those of `store`.
    pub fn push<E: From<TreeError>>(
        &mut self,
        key: &[u8],
        value: &[u8],
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if key.len() > MAX_KEY {
            return Err(TreeError::LongKey(key.len()).into());
        }
        self.push_at(0, key, value, 1, store)
    }

    fn push_at<E: From<TreeError>>(
        &mut self,
        level: usize,
        key: &[u8],
        value: &[u8],
        below: u64,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        if self.levels.len() <= level {
            if level > usize::from(MAX_HEIGHT) {
                return Err(TreeError::TooHigh.into());
            }
            self.levels.push(OpenPage::default());
        }
        let before = self.levels[level].length();
        self.levels[level].push(key, value, below);
        let open = &self.levels[level];
        let length = open.length();
        let divides = level == 0 || open.count >= MIN_CHILDREN;
        let is_long = length >= self.sizes.min && self.draws(level, key, length - before);
        if divides && (length >= MAX || is_long) {
            self.close(level, store)?;
        }
        Ok(())
    }

    /// The lottery: does the page end behind an entry of `length` bytes with this key?
    fn draws(&self, level: usize, key: &[u8], length: usize) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&[level as u8]);
        hasher.update(key);
        let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
        let span = (self.sizes.target - self.sizes.min).max(2) as u64;
        let length = (length as u64).min(span / 2);
        u64::from(u32::from_le_bytes([a, b, c, d])) * span < length << 32
    }

    fn close<E: From<TreeError>>(
        &mut self,
        level: usize,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<(), E> {
        let (page, first, below) = self.levels[level].finish(level as u8);
        let value = child(store(page)?, below);
        self.push_at(level + 1, &first, &value, below, store)
    }

    /// Ends the tree; `None` if it has no entry.
    ///
    /// # Errors
    /// [`TreeError`] for what could not be read back; those of `store`.
    pub fn finish<E: From<TreeError>>(
        mut self,
        store: &mut impl FnMut(Vec<u8>) -> Result<ChunkId, E>,
    ) -> Result<Option<TreeRoot>, E> {
        let mut level = 0;
        loop {
            let is_top = level + 1 == self.levels.len();
            let open = &mut self.levels[level];
            if is_top && open.count == 0 {
                return Ok(None);
            }
            // A single child needs no page above it: it is the root itself.
            if is_top && level > 0 && open.count == 1 {
                let only = open.body.len().checked_sub(open.value_length());
                let value = only.and_then(|at| open.body.get(at..));
                if let Some(Ok((id, entries))) = value.map(read_child) {
                    return Ok(Some(TreeRoot {
                        id,
                        height: level as u8 - 1,
                        entries,
                    }));
                }
            }
            if is_top {
                let (page, _, entries) = open.finish(level as u8);
                return Ok(Some(TreeRoot {
                    id: store(page)?,
                    height: level as u8,
                    entries,
                }));
            }
            if open.count > 0 {
                self.close(level, store)?;
            }
            level += 1;
        }
    }
}

impl OpenPage {
    /// Length of the value of the only entry of an inner page.
    fn value_length(&self) -> usize {
        child(ChunkId([0; 32]), self.below).len()
    }
}

fn child(id: ChunkId, below: u64) -> Vec<u8> {
    let mut value = id.as_bytes().to_vec();
    value.put_varint(below);
    value
}

fn read_child(value: &[u8]) -> Result<(ChunkId, u64), WireError> {
    let mut take = Take::new(value);
    let id = ChunkId(take.array()?);
    let below = take.varint()?;
    take.end()?;
    Ok((id, below))
}

/// A page, read. Its entries are taken from its bytes one after the other: keys that share a long
/// prefix would otherwise take many times the room of the page.
#[derive(Debug, Clone)]
pub struct Page {
    level: u8,
    bytes: Vec<u8>,
    /// Where the entries begin.
    start: usize,
    count: usize,
    first: Vec<u8>,
    last: Vec<u8>,
    /// Entries of the tree in it and below it.
    below: u64,
}

impl Page {
    /// Reads a page of the given level.
    ///
    /// # Errors
    /// [`WireError`] when it is not one.
    pub fn parse(bytes: &[u8], level: u8) -> Result<Self, WireError> {
        let mut take = Take::new(bytes);
        if take.u8()? != level || level > MAX_HEIGHT {
            return Err(WireError::Range("the level of a page"));
        }
        let count = take.count(3)?;
        if count == 0 {
            return Err(WireError::Range("the entries of a page"));
        }
        let start = bytes.len() - take.left();
        let (mut first, mut last, mut below) = (Vec::new(), Vec::new(), 0u64);
        for number in 0..count {
            let entry = Stored::take(&mut take)?;
            let after = last
                .get(entry.shared..)
                .ok_or(WireError::Range("a shared length of a page"))?;
            // What both share is equal, so the rest decides.
            if number > 0 && entry.suffix <= after {
                return Err(WireError::Range("the order of a page"));
            }
            if entry.shared + entry.suffix.len() > MAX_KEY {
                return Err(WireError::Range("the length of a key"));
            }
            last.truncate(entry.shared);
            last.extend_from_slice(entry.suffix);
            if number == 0 {
                first.clone_from(&last);
            }
            let entries = match level {
                0 => 1,
                _ => read_child(entry.value)?.1,
            };
            below = below
                .checked_add(entries)
                .ok_or(WireError::Range("the entries below a page"))?;
        }
        take.end()?;
        Ok(Self {
            level,
            bytes: bytes.to_vec(),
            start,
            count,
            first,
            last,
            below,
        })
    }

    /// The number of the first entry whose key is at least `from`, and whether it is just that.
    fn find(&self, from: &[u8]) -> Result<(usize, bool), WireError> {
        let mut take = Take::new(self.bytes.get(self.start..).unwrap_or_default());
        // How many bytes the key before, which is less, has in common with `from`.
        let mut common = 0;
        for number in 0..self.count {
            let entry = Stored::take(&mut take)?;
            // A key that has more in common with the one before is less for the same reason.
            if entry.shared > common {
                continue;
            }
            let rest = from.get(entry.shared..).unwrap_or_default();
            match entry.suffix.cmp(rest) {
                Ordering::Less => {
                    let pairs = entry.suffix.iter().zip(rest);
                    common = entry.shared + pairs.take_while(|(a, b)| a == b).count();
                }
                order => return Ok((number, order == Ordering::Equal)),
            }
        }
        Ok((self.count, false))
    }
}

/// An entry as it stands in a page.
struct Stored<'a> {
    shared: usize,
    suffix: &'a [u8],
    value: &'a [u8],
}

impl<'a> Stored<'a> {
    fn take(take: &mut Take<'a>) -> Result<Self, WireError> {
        Ok(Self {
            shared: usize::try_from(take.varint()?).unwrap_or(usize::MAX),
            suffix: take.bytes()?,
            value: take.bytes()?,
        })
    }
}

#[cfg(test)]
mod tests;
