//! Walking trees.

use backup_core::ChunkId;

use super::{Page, Stored, TreeRoot, read_child};
use crate::wire::{Take, WireError};

/// A page of a walk, and how far it has come.
#[derive(Debug)]
pub(super) struct Open {
    pub(super) page: Page,
    at: usize,
    left: usize,
    /// The key of the entry before.
    pub(super) key: Vec<u8>,
}

impl Open {
    /// A page whose next entry is number `number`.
    fn at(page: Page, number: usize) -> Result<Self, WireError> {
        let mut open = Self {
            at: page.start,
            left: page.count,
            key: Vec::new(),
            page,
        };
        for _ in 0..number {
            open.next()?;
        }
        Ok(open)
    }

    /// The value of the next entry; its key is then [`Open::key`].
    fn next(&mut self) -> Result<Option<&[u8]>, WireError> {
        if self.left == 0 {
            return Ok(None);
        }
        let mut take = Take::new(self.page.bytes.get(self.at..).unwrap_or_default());
        let entry = Stored::take(&mut take)?;
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(entry.suffix);
        self.at = self.page.bytes.len() - take.left();
        self.left -= 1;
        Ok(Some(entry.value))
    }

    /// The key of the next entry.
    fn next_key(&self) -> Option<Vec<u8>> {
        let mut take = Take::new(self.page.bytes.get(self.at..)?);
        let entry = Stored::take(&mut take).ok().filter(|_| self.left > 0)?;
        Some([self.key.get(..entry.shared)?, entry.suffix].concat())
    }
}

/// Walks a tree in order of key from any key on. It does no I/O: it says which page it needs.
///
/// A page must be what the page above says of it: its first key, its keys before the next page's,
/// the number of entries in it and below it. So a walk is not longer than its tree claims to be, and
/// a page that is named twice is found out.
#[derive(Debug)]
pub struct TreeCursor {
    from: Vec<u8>,
    // The pages from the root down.
    pub(super) stack: Vec<Open>,
    wanted: Option<Wanted>,
}

/// A page that is needed, and what must be true of it.
#[derive(Debug)]
struct Wanted {
    id: ChunkId,
    level: u8,
    entries: u64,
    /// Its first key; of the root nothing is known.
    first: Option<Vec<u8>>,
}

/// What a page that cannot be read held, as the pages above it say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The page.
    pub page: ChunkId,
    /// Its first key.
    pub from: Vec<u8>,
    /// The first key behind it; `None` if it is the last page.
    pub to: Option<Vec<u8>>,
    /// Entries in it and below it.
    pub entries: u64,
}

/// The next step of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Read this blob (of kind page or lineage, as the tree is) and hand it to
    /// [`TreeCursor::supply`].
    Need(ChunkId),
    /// An entry: key and value.
    Entry(Vec<u8>, Vec<u8>),
    /// There are no more entries.
    End,
}

impl TreeCursor {
    /// A walk of the entries whose key is at least `from`.
    #[must_use]
    pub fn new(root: &TreeRoot, from: &[u8]) -> Self {
        Self {
            from: from.to_vec(),
            stack: Vec::new(),
            wanted: Some(Wanted {
                id: root.id,
                level: root.height,
                entries: root.entries,
                first: None,
            }),
        }
    }

    /// Hands over the page that was needed.
    ///
    /// # Errors
    /// [`WireError`] when it is not a page of the right level with the right keys, or none was
    /// needed. The page is then still needed: see [`TreeCursor::pass_over`].
    pub fn supply(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let wanted = self
            .wanted
            .as_ref()
            .ok_or(WireError::Decode("a page nobody asked for"))?;
        let page = Page::parse(bytes, wanted.level)?;
        if page.below != wanted.entries {
            return Err(WireError::Range("the number of entries below a page"));
        }
        if wanted.first.as_ref().is_some_and(|key| *key != page.first) {
            return Err(WireError::Range("the first key of a page"));
        }
        if self.next_key().is_some_and(|next| page.last >= next) {
            return Err(WireError::Range("the last key of a page"));
        }
        let (at, is_there) = page.find(&self.from)?;
        let at = if page.level == 0 || is_there {
            at
        } else {
            // The key may lie below the child before.
            at.saturating_sub(1)
        };
        self.stack.push(Open::at(page, at)?);
        self.wanted = None;
        Ok(())
    }

    /// The next step.
    ///
    /// # Errors
    /// [`WireError`] when an inner page is malformed.
    pub fn step(&mut self) -> Result<Step, WireError> {
        if let Some(wanted) = &self.wanted {
            return Ok(Step::Need(wanted.id));
        }
        while let Some(open) = self.stack.last_mut() {
            let level = open.page.level;
            let Some(value) = open.next()? else {
                self.stack.pop();
                continue;
            };
            if level == 0 {
                let value = value.to_vec();
                return Ok(Step::Entry(open.key.clone(), value));
            }
            let (id, entries) = read_child(value)?;
            self.wanted = Some(Wanted {
                id,
                level: level - 1,
                entries,
                first: Some(open.key.clone()),
            });
            return Ok(Step::Need(id));
        }
        Ok(Step::End)
    }

    /// The first key behind the page that is needed.
    fn next_key(&self) -> Option<Vec<u8>> {
        self.stack.iter().rev().find_map(Open::next_key)
    }

    /// Goes on behind the page that is needed, which cannot be had; says what is lost with it.
    /// `None`: it is the root, and nothing comes behind it.
    pub fn pass_over(&mut self) -> Option<Gap> {
        let to = self.next_key();
        // What the page held is told by its entry in the page above.
        let Wanted {
            id, entries, first, ..
        } = self.wanted.take_if(|wanted| wanted.first.is_some())?;
        Some(Gap {
            page: id,
            from: first?,
            to,
            entries,
        })
    }

    /// Passes over everything below keys that begin with `prefix` and a NUL byte: the rest of a
    /// folder's content. The walk goes on behind it.
    pub fn skip_below(&mut self, root: &TreeRoot, prefix: &[u8]) {
        // Behind every key `prefix ‖ 0 ‖ …` and before `prefix ‖ 1`.
        let from = [prefix, &[1]].concat();
        let next = self.stack.last().and_then(Open::next_key);
        if next.is_none_or(|key| key < from) {
            *self = Self::new(root, &from);
        }
    }
}
