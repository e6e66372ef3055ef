use backup_core::{EntryKind, EntryMeta, EntryPath, FileTime, HostId, RepoId, SnapshotId};
use proptest::prelude::*;
use serde_json::Value;
use zeroize::Zeroizing;

use super::*;
use crate::canonical::CanonicalEntry;
use crate::merkle::{SnapshotTreeBuilder, prove};
use crate::sign::{HmacKey, HostSigner};
use crate::statement::SignedStatement;

const CONTENT: &[u8] = b"the content that was saved";
const SALT: [u8; 32] = [9; 32];

fn signer(seed: u8) -> HostSigner {
    let seed = Zeroizing::new([seed; 32]);
    HostSigner::new(HostId("web-1".into()), HmacKey::new([1; 32]), &seed)
}

fn entries(count: usize) -> Vec<Vec<u8>> {
    let mut meta = EntryMeta::stream(FileTime {
        seconds: 1_700_000_000,
        nanos: 5,
    });
    meta.kind = EntryKind::File;
    let encode = |number: usize| {
        let path = EntryPath::from_slashed(format!("srv/file {number}").as_bytes()).unwrap();
        let mut out = Vec::new();
        CanonicalEntry {
            component: "files",
            path: &path,
            meta: &meta,
            size: CONTENT.len() as u64,
            sha256: Some(ContentDigest::of(CONTENT).0),
            digest: None,
        }
        .encode(&mut out)
        .unwrap();
        out
    };
    (0..count).map(encode).collect()
}

/// A proof of one entry of a snapshot of `count`, signed by the host with this seed.
fn proof(count: usize, index: usize, seed: u8) -> Vec<u8> {
    let entries = entries(count);
    let mut builder = SnapshotTreeBuilder::new(SALT);
    entries.iter().for_each(|entry| {
        builder.push(entry);
    });
    let tree = builder.finish();
    let statement = SignedStatement {
        repo: RepoId([2; 16]),
        snapshot: SnapshotId(77),
        host: HostId("web-1".into()),
        name: "site \"one\"".into(),
        time: "2024-02-29T12:00:00Z".parse().unwrap(),
        leaf_count: tree.leaf_count,
        root: tree.root,
        bytes: 12,
        parent: None,
    };
    let page = entries.chunks(1024).nth(index / 1024).unwrap();
    let inclusion = prove(index as u64, tree.leaf_count, &SALT, page, &tree.page_roots).unwrap();
    write_proof(&ProofParts {
        statement: &statement,
        manifest_sha256: &[3; 32],
        signatures: &statement.sign(&signer(seed), &[3; 32]).unwrap(),
        canonical: &entries[index],
        inclusion: &inclusion,
    })
    .unwrap()
}

fn altered(proof: &[u8], member: &str, value: Value) -> Vec<u8> {
    let mut document: Value = serde_json::from_slice(proof).unwrap();
    document[member] = value;
    serde_json::to_vec(&document).unwrap()
}

#[test]
fn a_proof_shows_the_entry_to_whoever_trusts_the_hosts_key() {
    let key = signer(4).public_key();
    let content = ContentDigest::of(CONTENT);
    for (count, index) in [(1, 0), (2, 1), (3, 2), (1025, 1024), (2100, 1500)] {
        let bytes = proof(count, index, 4);
        let checked = check_proof(&bytes, Some(&key), Some(&content)).unwrap();
        assert_eq!(checked.entry.path.to_string(), format!("srv/file {index}"));
        assert_eq!(checked.entry.size, CONTENT.len() as u64);
        assert_eq!(checked.entry.mode, 0o600);
        assert_eq!(
            checked.entry.mtime,
            FileTime {
                seconds: 1_700_000_000,
                nanos: 5
            }
        );
        assert_eq!(checked.statement.host.0, "web-1");
        assert_eq!(checked.statement.leaf_count, count as u64);
        assert_eq!(checked.signed_by, SignedBy { key, trusted: true });
        assert_eq!(checked.content, ContentCheck::Same(content));
    }
}

#[test]
fn without_a_known_key_the_proof_says_so() {
    let checked = check_proof(&proof(3, 1, 4), None, None).unwrap();
    assert_eq!(checked.content, ContentCheck::NotAsked);
    let key = signer(4).public_key();
    let said = checked.signed_by.to_string();
    assert_eq!(
        said,
        format!("signed by key {key}, not checked against a known one")
    );
}

#[test]
fn a_proof_by_another_key_or_of_another_content_is_refused() {
    let bytes = proof(3, 1, 4);
    let other = check_proof(&bytes, Some(&signer(5).public_key()), None);
    assert!(matches!(other, Err(ProofError::OtherKey { .. })));
    let content = ContentDigest::of(b"something else");
    let other = check_proof(&bytes, None, Some(&content));
    assert!(matches!(other, Err(ProofError::ContentDiffers { .. })));
}

#[test]
fn what_is_shown_to_people_must_be_what_was_signed() {
    let bytes = proof(3, 1, 4);
    for (member, value) in [
        ("snapshot", SnapshotId(78).to_string().into()),
        ("time", "2024-02-29T12:00:01Z".into()),
        ("host", "web-2".into()),
        ("name", "other".into()),
        ("leaf_count", 4.into()),
        ("root", "00".repeat(32).into()),
    ] {
        match check_proof(&altered(&bytes, member, value), None, None) {
            Err(ProofError::MemberDiffers { member: named, .. }) => assert_eq!(named, member),
            other => panic!("{member}: {other:?}"),
        }
    }
}

#[test]
fn a_proof_of_a_newer_release_or_of_another_kind_is_refused_by_name() {
    let bytes = proof(1, 0, 4);
    let newer = check_proof(&altered(&bytes, "version", 2.into()), None, None);
    assert!(matches!(newer, Err(ProofError::Newer(2))));
    let other = check_proof(&altered(&bytes, "type", "receipt".into()), None, None);
    assert!(matches!(other, Err(ProofError::OtherType(kind)) if kind == "receipt"));
    let more = check_proof(&altered(&bytes, "more", 1.into()), None, None);
    assert!(matches!(more, Err(ProofError::Malformed(_))));
    let long = vec![b' '; MAX_PROOF_BYTES + 1];
    assert!(matches!(
        check_proof(&long, None, None),
        Err(ProofError::TooLong(_))
    ));
}

#[test]
fn the_proof_of_one_entry_does_not_prove_another() {
    let (one, two) = (proof(3, 1, 4), proof(3, 2, 4));
    let two: Value = serde_json::from_slice(&two).unwrap();
    for member in ["entry", "index", "leaf_salt", "page_path"] {
        let mixed = check_proof(&altered(&one, member, two[member].clone()), None, None);
        assert!(
            matches!(mixed, Err(ProofError::NotIncluded(_))),
            "{member}: {mixed:?}"
        );
    }
}

#[test]
fn a_proof_that_does_not_hold_is_not_written() {
    let entries = entries(2);
    let mut builder = SnapshotTreeBuilder::new(SALT);
    entries.iter().for_each(|entry| {
        builder.push(entry);
    });
    let tree = builder.finish();
    let mut statement = crate::statement::tests::statement();
    (statement.leaf_count, statement.root) = (2, tree.root);
    let signatures = statement.sign(&signer(4), &[3; 32]).unwrap();
    let inclusion = prove(0, 2, &SALT, &entries, &tree.page_roots).unwrap();
    let mut parts = ProofParts {
        statement: &statement,
        manifest_sha256: &[3; 32],
        signatures: &signatures,
        canonical: &entries[0],
        inclusion: &inclusion,
    };
    assert!(write_proof(&parts).is_ok());
    parts.canonical = &entries[1];
    assert!(matches!(
        write_proof(&parts),
        Err(ProofError::NotIncluded(_))
    ));
    parts.canonical = &entries[0];
    parts.manifest_sha256 = &[4; 32];
    assert!(matches!(write_proof(&parts), Err(ProofError::Signature(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_flipped_bit_passes(at: prop::sample::Index, bit in 0u8..8) {
        static PROOF: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| proof(1030, 1027, 4));
        let mut bytes = PROOF.clone();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(check_proof(&bytes, None, None).is_err());
    }

    #[test]
    fn no_bytes_make_the_checker_panic(bytes: Vec<u8>, start: prop::sample::Index, new: Vec<u8>) {
        let _ = check_proof(&bytes, None, None);
        static PROOF: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| proof(3, 1, 4));
        let mut patched = PROOF.clone();
        let start = start.index(patched.len());
        for (slot, byte) in patched[start..].iter_mut().zip(new) {
            *slot = byte;
        }
        let _ = check_proof(&patched, None, None);
    }
}
