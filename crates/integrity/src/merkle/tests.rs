use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::hash::{self, Salts};
use super::*;

fn salt() -> [u8; 32] {
    std::array::from_fn(|at| u8::try_from(at).unwrap())
}

fn entries(count: u64) -> Vec<Vec<u8>> {
    (0..count)
        .map(|index| format!("entry {index}").into_bytes())
        .collect()
}

fn tree(entries: &[Vec<u8>]) -> SnapshotTree {
    let mut builder = SnapshotTreeBuilder::new(salt());
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(builder.push(entry), index as u64);
    }
    builder.finish()
}

fn proof_of(index: u64, entries: &[Vec<u8>], tree: &SnapshotTree) -> InclusionProof {
    let page = usize::try_from(index).unwrap() / 1024;
    let page = entries.chunks(1024).nth(page).unwrap();
    prove(index, tree.leaf_count, &salt(), page, &tree.page_roots).unwrap()
}

/// The frozen roots; computed by a separate implementation (Python's hashlib and hmac).
const VECTORS: [(u64, &str); 7] = [
    (
        0,
        "0dbdec34ba422c4e528e0b94ef5dabebd695ce3d9e6e7152be6fdc21c60da1ab",
    ),
    (
        1,
        "e9feb475c25432c6b789a28b277e3abd6600debdf07150796e8585fbcc89d47a",
    ),
    (
        2,
        "af90b356262f1377209f9a6cbeda0f2efa4919c5f5426ee7048647b95fa265d4",
    ),
    (
        3,
        "9ee46affc997fce1ecec902eb9a4fb0ed1dc035f825d70156b3d0d8ee480d972",
    ),
    (
        1024,
        "869112f412f38b35db28f358007fc5856c5d5737fadeaf877f3efebe05a9f480",
    ),
    (
        1025,
        "544d63da09718c5f6480202bcb9a4aa77086c45c6a94f2208c98f9aba237a9ad",
    ),
    (
        2500,
        "f5e7cd99fdb397d1010b786813a58453890d59a00d4069a5cd7145efa7cb776a",
    ),
];

#[test]
fn the_roots_of_version_1_are_frozen() {
    for (count, root) in VECTORS {
        assert_eq!(
            tree(&entries(count)).root.to_string(),
            root,
            "{count} leaves"
        );
    }
}

#[test]
fn the_documented_roots_are_the_frozen_ones() {
    let documented = include_str!("mod.rs");
    for (count, root) in VECTORS {
        assert!(
            documented.contains(&format!("//! | {count} | `{root}` |")),
            "{count} leaves"
        );
    }
}

/// The definition of the module's documentation, written down once more without `merkle_light`.
fn naive_top(mut level: Vec<[u8; 32]>) -> [u8; 32] {
    if level.is_empty() {
        return [0; 32];
    }
    while level.len() > 1 {
        if level.len() % 2 == 1 {
            level.push(*level.last().unwrap());
        }
        let node = |pair: &[[u8; 32]]| {
            Sha256::digest([&b"\x01backstay node v1"[..], &pair[0], &pair[1]].concat()).into()
        };
        level = level.chunks(2).map(node).collect();
    }
    level[0]
}

#[test]
fn the_library_builds_the_documented_tree_for_every_size_of_a_page() {
    let leaves: Vec<[u8; 32]> = (0..1024u64)
        .map(|n| Sha256::digest(n.to_be_bytes()).into())
        .collect();
    for count in 0..=1024 {
        assert_eq!(
            hash::tree_top(&leaves[..count]),
            naive_top(leaves[..count].to_vec()),
            "{count}"
        );
    }
}

#[test]
fn every_leaf_of_trees_of_many_sizes_proves() {
    for count in (1..40).chain([
        63, 64, 65, 1023, 1024, 1025, 1026, 2047, 2048, 2049, 3073, 5000,
    ]) {
        let entries = entries(count);
        let tree = tree(&entries);
        let step = if count > 100 { 97 } else { 1 };
        let last = count - 1;
        for index in (0..count).step_by(step).chain([last]) {
            let entry = &entries[usize::try_from(index).unwrap()];
            let proof = proof_of(index, &entries, &tree);
            assert_eq!(
                proof.verify(&tree.root, count, entry),
                Ok(()),
                "{index} of {count}"
            );
        }
    }
}

#[test]
fn a_repeated_last_leaf_gives_another_root() {
    let mut three = entries(3);
    let root = tree(&three).root;
    three.push(three[2].clone());
    assert_ne!(tree(&three).root, root);
    // Nor does the proof of the last leaf pass for the place that only the pairing fills.
    let three = entries(3);
    let tree = tree(&three);
    let mut proof = proof_of(2, &three, &tree);
    proof.index = 3;
    assert!(proof.verify(&tree.root, 4, &three[2]).is_err());
    let beyond = MerkleError::NoSuchLeaf {
        index: 3,
        leaf_count: 3,
    };
    assert_eq!(proof.verify(&tree.root, 3, &three[2]), Err(beyond));
}

#[test]
fn a_node_cannot_be_passed_off_as_a_leaf() {
    let two = entries(2);
    let salts = Salts::new(&salt());
    let leaves: Vec<_> = (0..2)
        .map(|n| hash::leaf(n, &salts.of_leaf(n), &two[usize::try_from(n).unwrap()]))
        .collect();
    let root = tree(&two).root;
    for forged in [leaves.concat(), hash::node(&leaves[0], &leaves[1]).to_vec()] {
        let proof = InclusionProof {
            index: 0,
            leaf_salt: salts.of_leaf(0),
            page_path: Vec::new(),
            top_path: Vec::new(),
        };
        assert!(proof.verify(&root, 1, &forged).is_err());
        assert!(proof.verify(&root, 2, &forged).is_err());
    }
}

#[test]
fn the_same_entries_under_another_salt_have_another_root() {
    let mut builder = SnapshotTreeBuilder::new([7; 32]);
    entries(3).iter().for_each(|entry| {
        builder.push(entry);
    });
    assert_ne!(builder.finish().root, tree(&entries(3)).root);
}

#[test]
fn the_root_follows_from_the_pages_and_each_page_from_its_entries() {
    let entries = entries(2500);
    let tree = tree(&entries);
    assert_eq!(root_of_pages(2500, &tree.page_roots), Ok(tree.root));
    assert!(root_of_pages(2500, &tree.page_roots[..2]).is_err());
    assert!(root_of_pages(0, &[[0; 32]]).is_err());
    for (page, content) in (0u64..).zip(entries.chunks(1024)) {
        let digest = page_digest(page, 2500, &salt(), content).unwrap();
        assert_eq!(digest, tree.page_roots[usize::try_from(page).unwrap()]);
    }
}

#[test]
fn a_proof_is_not_built_from_entries_that_are_not_those_of_the_page() {
    let entries = entries(1100);
    let tree = tree(&entries);
    let build = |index, page: &[Vec<u8>], roots: &[Digest32]| {
        prove(index, 1100, &salt(), page, roots).unwrap_err()
    };
    let page = &entries[1024..];
    let mut damaged = page.to_vec();
    damaged[3][0] ^= 1;
    let roots = &tree.page_roots;
    assert_eq!(build(1030, &damaged, roots), MerkleError::PageDiffers(1));
    let short = MerkleError::PageLength {
        page: 1,
        wanted: 76,
        found: 75,
    };
    assert_eq!(build(1030, &page[1..], roots), short);
    let long = MerkleError::PageLength {
        page: 1,
        wanted: 76,
        found: 77,
    };
    assert_eq!(build(1030, &entries, roots), long);
    let beyond = MerkleError::NoSuchLeaf {
        index: 1100,
        leaf_count: 1100,
    };
    assert_eq!(build(1100, page, roots), beyond);
    assert!(matches!(
        build(1030, page, &roots[..1]),
        MerkleError::PageCount { .. }
    ));
}

#[test]
fn indexes_and_counts_at_the_end_of_the_numbers_are_refused_without_overflow() {
    let proof = InclusionProof {
        index: u64::MAX,
        leaf_salt: [0; 32],
        page_path: vec![[0; 32]; 10],
        top_path: vec![[0; 32]; 54],
    };
    for count in [0, 1, u64::MAX] {
        assert!(proof.verify(&MerkleRoot([0; 32]), count, b"").is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_but_the_very_proof_passes(
        count in 1u64..2200,
        which: prop::sample::Index,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let entries = entries(count);
        let tree = tree(&entries);
        let place = which.index(entries.len());
        let entry = &entries[place];
        let proof = proof_of(place as u64, &entries, &tree);
        prop_assert_eq!(proof.verify(&tree.root, count, entry), Ok(()));

        let mut bad = vec![proof.clone(); 7];
        bad[0].index ^= 1u64 << at.index(64);
        bad[1].leaf_salt[at.index(32)] ^= 1 << bit;
        bad[2].page_path.push([0; 32]);
        bad[3].top_path.push([0; 32]);
        if bad[4].page_path.pop().is_none() {
            bad[4].index += 1;
        }
        match bad[5].page_path.len() {
            0 => bad[5].index += 1,
            steps => bad[5].page_path[which.index(steps)][at.index(32)] ^= 1 << bit,
        }
        match bad[6].top_path.len() {
            0 => bad[6].index += 1,
            steps => bad[6].top_path[which.index(steps)][at.index(32)] ^= 1 << bit,
        }
        for bad in &bad {
            prop_assert!(bad.verify(&tree.root, count, entry).is_err());
        }
        for longer in &bad[2..4] {
            prop_assert_eq!(longer.verify(&tree.root, count, entry), Err(MerkleError::Steps));
        }
        for other in [count + 1, count - 1, count * 2, 0] {
            prop_assert!(proof.verify(&tree.root, other, entry).is_err());
        }
        let mut other = entry.clone();
        other[at.index(entry.len())] ^= 1 << bit;
        prop_assert!(proof.verify(&tree.root, count, &other).is_err());
        let mut root = tree.root;
        root.0[at.index(32)] ^= 1 << bit;
        prop_assert!(proof.verify(&root, count, entry).is_err());
    }

    #[test]
    fn order_matters(count in 2u64..1200, one: prop::sample::Index, two: prop::sample::Index) {
        let mut entries = entries(count);
        let (one, two) = (one.index(entries.len()), two.index(entries.len()));
        prop_assume!(one != two);
        let root = tree(&entries).root;
        entries.swap(one, two);
        prop_assert_ne!(tree(&entries).root, root);
    }
}

/// Run with `--release --ignored --nocapture` to see the rate.
#[test]
#[ignore = "measures; needs a release build"]
fn ten_million_entries_take_seconds_and_bounded_memory() {
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    let before = peak();
    let begin = std::time::Instant::now();
    let mut builder = SnapshotTreeBuilder::new(salt());
    let mut entry = [0u8; 150];
    for index in 0u64..10_000_000 {
        entry[..8].copy_from_slice(&index.to_be_bytes());
        builder.push(&entry);
    }
    let tree = builder.finish();
    let grown = peak() - before;
    println!(
        "{} pages, {:?}, {grown} KiB more",
        tree.page_roots.len(),
        begin.elapsed()
    );
    assert!(grown < 8 << 10, "{grown} KiB");
}
