//! Proofs that one entry is below a snapshot's root.

use super::builder::{digest_of_leaves, page_leaves};
use super::hash::{self, Digest32, Salts};
use super::{MerkleError, MerkleRoot, PAGE_LEAVES, leaves_in_page, page_count};

/// What leads from one entry to the root of its snapshot. Of the other entries it shows hashes
/// only, which cannot be guessed without their salts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InclusionProof {
    /// Index of the entry in the snapshot, from 0.
    pub index: u64,
    /// The salt of this leaf.
    pub leaf_salt: Digest32,
    /// The neighbours on the way up within the page, lowest first.
    pub page_path: Vec<Digest32>,
    /// The neighbours on the way up above the pages, lowest first.
    pub top_path: Vec<Digest32>,
}

/// Builds the proof for entry `index` of a snapshot.
///
/// `page_entries` are the canonical encodings of the entries of its page: those from
/// `index / PAGE_LEAVES * PAGE_LEAVES` on, at most [`PAGE_LEAVES`] of them. `page_roots` are those
/// of [`super::SnapshotTree`].
///
/// # Errors
/// [`MerkleError`] when there is no such entry, when pages or entries are missing or too many, or
/// when the page's entries do not hash to its digest.
pub fn prove<T: AsRef<[u8]>>(
    index: u64,
    leaf_count: u64,
    salt: &[u8; 32],
    page_entries: impl IntoIterator<Item = T>,
    page_roots: &[Digest32],
) -> Result<InclusionProof, MerkleError> {
    if index >= leaf_count {
        return Err(MerkleError::NoSuchLeaf { index, leaf_count });
    }
    let (wanted, found) = (page_count(leaf_count), page_roots.len() as u64);
    if wanted != found {
        return Err(MerkleError::PageCount {
            leaf_count,
            wanted,
            found,
        });
    }
    let (page, in_page) = place(index);
    let salts = Salts::new(salt);
    let leaves = page_leaves(page, leaf_count, &salts, page_entries)?;
    let at = usize::try_from(page).unwrap_or(usize::MAX);
    if page_roots.get(at) != Some(&digest_of_leaves(page, &leaves)) {
        return Err(MerkleError::PageDiffers(page));
    }
    Ok(InclusionProof {
        index,
        leaf_salt: salts.of_leaf(index),
        page_path: hash::tree_path(&leaves, in_page as usize),
        top_path: hash::tree_path(page_roots, at),
    })
}

impl InclusionProof {
    /// Checks that the entry with this canonical encoding is entry `self.index` of the snapshot
    /// of `leaf_count` entries that has this root. Both must come from a signed statement, not
    /// from whoever shows the proof.
    ///
    /// # Errors
    /// [`MerkleError`] when it is not.
    pub fn verify(
        &self,
        root: &MerkleRoot,
        leaf_count: u64,
        canonical: &[u8],
    ) -> Result<(), MerkleError> {
        let (page, in_page) = place(self.index);
        let leaves = leaves_in_page(leaf_count, page)
            .filter(|&leaves| in_page < leaves)
            .ok_or(MerkleError::NoSuchLeaf {
                index: self.index,
                leaf_count,
            })?;
        let pages = page_count(leaf_count);
        if self.page_path.len() != hash::tree_height(u64::from(leaves)) as usize
            || self.top_path.len() != hash::tree_height(pages) as usize
        {
            return Err(MerkleError::Steps);
        }
        let leaf = hash::leaf(self.index, &self.leaf_salt, canonical);
        let tree = hash::climb(leaf, u64::from(in_page), &self.page_path);
        let digest = hash::page(page, leaves, &tree);
        let top = hash::climb(digest, page, &self.top_path);
        if hash::root(leaf_count, &top) != *root {
            return Err(MerkleError::RootDiffers);
        }
        Ok(())
    }
}

/// The page of a leaf and its place in it.
fn place(index: u64) -> (u64, u32) {
    let size = u64::from(PAGE_LEAVES);
    (index / size, u32::try_from(index % size).unwrap_or(0))
}
