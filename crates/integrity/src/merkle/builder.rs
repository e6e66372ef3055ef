//! Building the root of a snapshot, page by page.

use super::hash::{self, Digest32, Salts};
use super::{MerkleError, MerkleRoot, PAGE_LEAVES, leaves_in_page, page_count};

/// Takes a snapshot's entries in order and computes its root. Holds the hashes of one page and
/// one digest for each finished page.
#[derive(Debug)]
pub struct SnapshotTreeBuilder {
    salts: Salts,
    next: u64,
    leaves: Vec<Digest32>,
    pages: Vec<Digest32>,
}

/// The tree of a whole snapshot, down to its pages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotTree {
    /// How many entries the snapshot has.
    pub leaf_count: u64,
    /// The digests of the pages, in order.
    pub page_roots: Vec<Digest32>,
    /// The root.
    pub root: MerkleRoot,
}

impl SnapshotTreeBuilder {
    /// A tree without entries. `salt` is random, made for this snapshot, and kept with the sealed
    /// part of its manifest: whoever has it can confirm guesses at entries.
    #[must_use]
    pub fn new(salt: [u8; 32]) -> Self {
        let leaves = Vec::with_capacity(PAGE_LEAVES as usize);
        Self {
            salts: Salts::new(&salt),
            next: 0,
            leaves,
            pages: Vec::new(),
        }
    }

    /// Takes the next entry in its canonical encoding and returns its index.
    pub fn push(&mut self, canonical: &[u8]) -> u64 {
        let index = self.next;
        self.leaves
            .push(hash::leaf(index, &self.salts.of_leaf(index), canonical));
        self.next += 1;
        if self.leaves.len() == PAGE_LEAVES as usize {
            self.end_page();
        }
        index
    }

    /// How many entries were taken.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.next
    }

    /// Whether none was taken.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// The root of everything taken.
    #[must_use]
    pub fn finish(mut self) -> SnapshotTree {
        if !self.leaves.is_empty() {
            self.end_page();
        }
        let root = hash::root(self.next, &hash::tree_top(&self.pages));
        SnapshotTree {
            leaf_count: self.next,
            page_roots: self.pages,
            root,
        }
    }

    fn end_page(&mut self) {
        let count = u32::try_from(self.leaves.len()).unwrap_or(PAGE_LEAVES);
        let top = hash::tree_top(&self.leaves);
        self.pages
            .push(hash::page(self.pages.len() as u64, count, &top));
        self.leaves.clear();
    }
}

/// The root of a snapshot from the digests of its pages.
///
/// # Errors
/// [`MerkleError::PageCount`] when there are not as many pages as `leaf_count` entries fill.
pub fn root_of_pages(leaf_count: u64, page_roots: &[Digest32]) -> Result<MerkleRoot, MerkleError> {
    let (wanted, found) = (page_count(leaf_count), page_roots.len() as u64);
    if wanted != found {
        return Err(MerkleError::PageCount {
            leaf_count,
            wanted,
            found,
        });
    }
    Ok(hash::root(leaf_count, &hash::tree_top(page_roots)))
}

/// The digest of one page from its entries in canonical encoding.
///
/// # Errors
/// [`MerkleError`] when there is no such page in a snapshot of `leaf_count` entries, or it must
/// have another number of entries.
pub fn page_digest<T: AsRef<[u8]>>(
    page: u64,
    leaf_count: u64,
    salt: &[u8; 32],
    entries: impl IntoIterator<Item = T>,
) -> Result<Digest32, MerkleError> {
    let leaves = page_leaves(page, leaf_count, &Salts::new(salt), entries)?;
    Ok(digest_of_leaves(page, &leaves))
}

pub(super) fn digest_of_leaves(page: u64, leaves: &[Digest32]) -> Digest32 {
    let count = u32::try_from(leaves.len()).unwrap_or(u32::MAX);
    hash::page(page, count, &hash::tree_top(leaves))
}

/// Hashes the entries of a page.
pub(super) fn page_leaves<T: AsRef<[u8]>>(
    page: u64,
    leaf_count: u64,
    salts: &Salts,
    entries: impl IntoIterator<Item = T>,
) -> Result<Vec<Digest32>, MerkleError> {
    let first = page.saturating_mul(u64::from(PAGE_LEAVES));
    let wanted = leaves_in_page(leaf_count, page).ok_or(MerkleError::NoSuchLeaf {
        index: first,
        leaf_count,
    })?;
    let mut leaves = Vec::with_capacity(wanted as usize);
    let mut found = 0;
    // One more than wanted tells a page that is too long from one that is right.
    for (index, entry) in (first..).zip(entries).take(wanted as usize + 1) {
        leaves.push(hash::leaf(index, &salts.of_leaf(index), entry.as_ref()));
        found += 1;
    }
    if found != wanted {
        return Err(MerkleError::PageLength {
            page,
            wanted,
            found,
        });
    }
    Ok(leaves)
}
