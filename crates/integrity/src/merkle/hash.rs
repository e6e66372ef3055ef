//! The hashes of the tree, and how `merkle_light` is made to use them.

use std::fmt;
use std::hash::Hasher;

use hmac::{Hmac, Mac};
use merkle_light::hash::Algorithm;
use merkle_light::merkle::MerkleTree;
use sha2::{Digest, Sha256};

use super::{MerkleRoot, PAGE_LEAVES};

/// A hash within the tree.
pub type Digest32 = [u8; 32];

const LEAF: &[u8; 17] = b"\x00backstay leaf v1";
const NODE: &[u8; 17] = b"\x01backstay node v1";
const PAGE: &[u8; 17] = b"\x02backstay page v1";
const ROOT: &[u8; 17] = b"\x03backstay root v1";

/// Derives the leaves' salts from the snapshot's. Cloning the keyed state saves hashing the key
/// for every leaf.
#[derive(Clone)]
pub(super) struct Salts(Hmac<Sha256>);

impl fmt::Debug for Salts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Salts(..)")
    }
}

impl Salts {
    pub(super) fn new(salt: &[u8; 32]) -> Self {
        Self(crate::sign::keyed_mac(salt))
    }

    pub(super) fn of_leaf(&self, index: u64) -> Digest32 {
        let mut mac = self.0.clone();
        mac.update(&index.to_be_bytes());
        mac.finalize().into_bytes().into()
    }
}

pub(super) fn leaf(index: u64, salt: &Digest32, canonical: &[u8]) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update(LEAF);
    hash.update(index.to_be_bytes());
    hash.update(salt);
    hash.update(canonical);
    hash.finalize().into()
}

pub(super) fn node(left: &Digest32, right: &Digest32) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update(NODE);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

pub(super) fn page(page: u64, leaves: u32, tree: &Digest32) -> Digest32 {
    let mut hash = Sha256::new();
    hash.update(PAGE);
    hash.update(page.to_be_bytes());
    hash.update(leaves.to_be_bytes());
    hash.update(tree);
    hash.finalize().into()
}

pub(super) fn root(leaf_count: u64, top: &Digest32) -> MerkleRoot {
    let mut hash = Sha256::new();
    hash.update(ROOT);
    hash.update(leaf_count.to_be_bytes());
    hash.update(PAGE_LEAVES.to_be_bytes());
    hash.update(top);
    MerkleRoot(hash.finalize().into())
}

/// What `merkle_light` calls to hash. Leaves come to it hashed already, in a domain of their own,
/// so it takes them as they are instead of hashing them once more.
#[derive(Debug, Clone, Default)]
pub(super) struct TreeHash(Sha256);

impl Hasher for TreeHash {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest: Digest32 = self.0.clone().finalize().into();
        digest
            .first_chunk()
            .map_or(0, |head| u64::from_be_bytes(*head))
    }
}

impl Algorithm<Digest32> for TreeHash {
    fn hash(&mut self) -> Digest32 {
        self.0.finalize_reset().into()
    }

    fn leaf(&mut self, leaf: Digest32) -> Digest32 {
        leaf
    }

    fn node(&mut self, left: Digest32, right: Digest32) -> Digest32 {
        node(&left, &right)
    }
}

/// The top of the tree over some hashes; `merkle_light` takes two or more of them.
pub(super) fn tree_top(hashes: &[Digest32]) -> Digest32 {
    match hashes {
        [] => [0; 32],
        [one] => *one,
        many => MerkleTree::<Digest32, TreeHash>::new(many.iter().copied()).root(),
    }
}

/// The neighbours on the way from one of the hashes to the top of the tree over them. `at` must be
/// one of them.
pub(super) fn tree_path(hashes: &[Digest32], at: usize) -> Vec<Digest32> {
    if hashes.len() < 2 || at >= hashes.len() {
        return Vec::new();
    }
    let tree = MerkleTree::<Digest32, TreeHash>::new(hashes.iter().copied());
    // The lemma holds the leaf, the neighbours, and the top.
    match tree.gen_proof(at).lemma() {
        [_, path @ .., _] => path.to_vec(),
        _ => Vec::new(),
    }
}

/// How many steps lead to the top of a tree over so many hashes.
pub(super) const fn tree_height(hashes: u64) -> u32 {
    match hashes {
        0 | 1 => 0,
        many => u64::BITS - (many - 1).leading_zeros(),
    }
}

/// Climbs from a hash to the top; the sides are those of its place `at`.
pub(super) fn climb(from: Digest32, at: u64, path: &[Digest32]) -> Digest32 {
    let step = |(hash, at): (Digest32, u64), side: &Digest32| {
        let hash = if at & 1 == 0 {
            node(&hash, side)
        } else {
            node(side, &hash)
        };
        (hash, at >> 1)
    };
    path.iter().fold((from, at), step).0
}
