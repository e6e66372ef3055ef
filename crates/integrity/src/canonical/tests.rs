use std::collections::BTreeMap;

use backup_core::{FileTime, Owner};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::digest::ContentDigest;

/// The entry of the frozen vector: every field is there.
pub(crate) fn full_meta() -> EntryMeta {
    EntryMeta {
        kind: EntryKind::File,
        mode: 0o640,
        owner: Some(Owner {
            uid: 1000,
            gid: 33,
            user: Some("anna".into()),
            group: Some("www-data".into()),
        }),
        mtime: FileTime {
            seconds: 1_700_000_000,
            nanos: 123_456_789,
        },
        xattrs: vec![
            (b"user.a".to_vec(), b"1".to_vec()),
            (b"user.b".to_vec(), vec![0xff]),
        ],
        link_group: Some(7),
        attrs: BTreeMap::from([("profile".to_owned(), "pages".to_owned())]),
    }
}

fn encoded(meta: &EntryMeta, path: &EntryPath) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::new();
    let entry = CanonicalEntry {
        component: "files",
        path,
        meta,
        size: 5,
        sha256: Some([0xab; 32]),
        digest: None,
    };
    entry.encode(&mut out).map(|_| out)
}

#[test]
fn the_encoding_of_version_1_is_frozen() {
    let path = EntryPath::from_slashed(b"srv/data").unwrap();
    let bytes = encoded(&full_meta(), &path).unwrap();
    let wanted = concat!(
        "01",
        "0566696c6573",             // component "files"
        "00087372760064617461",     // path "srv\0data"
        "00",                       // a file
        "1f",                       // owner, user, group, SHA-256, hard-linked
        "000001a0",                 // mode 0640
        "000003e800000021",         // uid 1000, gid 33
        "0004616e6e61",             // "anna"
        "00087777772d64617461",     // "www-data"
        "000000006553f100075bcd15", // mtime
        "0000000000000005",         // size
        "abababababababababababababababababababababababababababababababab",
        "0002", // two xattrs
        "0006757365722e610000000131",
        "0006757365722e6200000001ff",
        "0001", // one attr
        "000770726f66696c65000000057061676573",
    );
    assert_eq!(hex::encode(&bytes), wanted);
}

#[test]
fn what_is_decoded_is_what_was_encoded() {
    let meta = full_meta();
    let path = EntryPath::from_slashed(b"srv/data").unwrap();
    let entry = ProvenEntry::decode(&encoded(&meta, &path).unwrap()).unwrap();
    assert_eq!(entry.component, "files");
    assert_eq!(entry.path, path);
    assert_eq!(entry.kind, EntryKind::File);
    assert_eq!(entry.owner, meta.owner);
    assert_eq!(
        (entry.mode, entry.mtime, entry.size),
        (0o640, meta.mtime, 5)
    );
    assert_eq!(entry.sha256, Some(ContentDigest([0xab; 32])));
    assert_eq!((entry.xattrs, entry.attrs), (meta.xattrs, meta.attrs));
    assert!(entry.hard_linked);
}

#[test]
fn a_cut_or_lengthened_encoding_is_refused() {
    let bytes = encoded(&full_meta(), &EntryPath::from_slashed(b"a").unwrap()).unwrap();
    for end in 0..bytes.len() {
        assert_eq!(
            ProvenEntry::decode(&bytes[..end]),
            Err(CanonicalError::Short),
            "{end}"
        );
    }
    let longer = [&bytes[..], b"x"].concat();
    assert_eq!(
        ProvenEntry::decode(&longer),
        Err(CanonicalError::Trailing(1))
    );
}

#[test]
fn names_that_are_repeated_or_out_of_order_are_refused() {
    let bytes = encoded(&full_meta(), &EntryPath::root()).unwrap();
    let at = bytes.windows(6).position(|name| name == b"user.b").unwrap() + 5;
    for (letter, good) in [(b'c', true), (b'b', true), (b'a', false), (b'A', false)] {
        let mut changed = bytes.clone();
        changed[at] = letter;
        let wanted = CanonicalError::NotCanonical { field: "xattrs" };
        assert_eq!(
            ProvenEntry::decode(&changed).err(),
            (!good).then_some(wanted)
        );
    }
}

#[test]
fn unknown_flags_and_names_without_an_owner_are_refused() {
    let mut meta = full_meta();
    (meta.owner, meta.xattrs, meta.link_group) = (None, Vec::new(), None);
    meta.attrs.clear();
    let bytes = encoded(&meta, &EntryPath::root()).unwrap();
    // Version, component "files" with its length, empty path, kind: then come the flags.
    let at = 1 + 6 + 2 + 1;
    assert_eq!(bytes[at], FLAG_SHA256);
    for flag in [FLAG_USER, FLAG_GROUP, 64, 128] {
        let mut changed = bytes.clone();
        changed[at] |= flag;
        let refused = ProvenEntry::decode(&changed);
        assert_eq!(
            refused,
            Err(CanonicalError::NotCanonical { field: "flags" }),
            "{flag}"
        );
    }
}

#[test]
fn an_entry_that_does_not_fit_leaves_no_bytes_behind() {
    let path = EntryPath::root();
    let mut unsorted = full_meta();
    unsorted.xattrs.reverse();
    let mut twice = full_meta();
    twice.xattrs[1].0 = twice.xattrs[0].0.clone();
    let mut late = full_meta();
    late.mtime.nanos = 1_000_000_000;
    let mut long = full_meta();
    long.kind = EntryKind::Symlink(vec![b'x'; 65_536]);
    for meta in [unsorted, twice, late, long] {
        let mut out = b"before".to_vec();
        let entry = CanonicalEntry {
            component: "c",
            path: &path,
            meta: &meta,
            size: 0,
            sha256: None,
            digest: None,
        };
        assert!(entry.encode(&mut out).is_err());
        assert_eq!(out, b"before");
    }
    let meta = full_meta();
    for component in [String::new(), "x".repeat(256)] {
        let component = component.as_str();
        let entry = CanonicalEntry {
            component,
            path: &path,
            meta: &meta,
            size: 0,
            sha256: None,
            digest: None,
        };
        assert!(entry.encode(&mut Vec::new()).is_err());
    }
}

#[test]
fn the_number_of_a_link_group_does_not_change_the_encoding() {
    let path = EntryPath::root();
    let mut other = full_meta();
    other.link_group = Some(8);
    assert_eq!(encoded(&full_meta(), &path), encoded(&other, &path));
    other.link_group = None;
    assert_ne!(encoded(&full_meta(), &path), encoded(&other, &path));
}

fn kinds() -> impl Strategy<Value = EntryKind> {
    prop_oneof![
        Just(EntryKind::File),
        Just(EntryKind::Directory),
        vec(any::<u8>(), 0..30).prop_map(EntryKind::Symlink),
        Just(EntryKind::Fifo),
        Just(EntryKind::Socket),
        any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::CharDevice { major, minor }),
        any::<(u32, u32)>().prop_map(|(major, minor)| EntryKind::BlockDevice { major, minor }),
        Just(EntryKind::Stream),
        Just(EntryKind::Disk),
    ]
}

fn owners() -> impl Strategy<Value = Option<Owner>> {
    let name = || proptest::option::of("[a-zé]{0,8}".prop_map(Into::into));
    let owner =
        (any::<u32>(), any::<u32>(), name(), name()).prop_map(|(uid, gid, user, group)| Owner {
            uid,
            gid,
            user,
            group,
        });
    proptest::option::of(owner)
}

fn metas() -> impl Strategy<Value = EntryMeta> {
    let mtime = (any::<i64>(), 0u32..1_000_000_000)
        .prop_map(|(seconds, nanos)| FileTime { seconds, nanos });
    let xattrs = btree_map(vec(any::<u8>(), 0..8), vec(any::<u8>(), 0..8), 0..4);
    let attrs = btree_map("[a-z]{0,5}", "[a-zé]{0,5}", 0..3);
    (
        kinds(),
        any::<u32>(),
        owners(),
        mtime,
        xattrs,
        any::<Option<u64>>(),
        attrs,
    )
        .prop_map(
            |(kind, mode, owner, mtime, xattrs, link_group, attrs)| EntryMeta {
                kind,
                mode,
                owner,
                mtime,
                xattrs: xattrs.into_iter().collect(),
                link_group,
                attrs,
            },
        )
}

/// Encodes what was decoded, to see whether an accepted encoding is the only one.
fn encode_again(entry: &ProvenEntry) -> Vec<u8> {
    let meta = EntryMeta {
        kind: entry.kind.clone(),
        mode: entry.mode,
        owner: entry.owner.clone(),
        mtime: entry.mtime,
        xattrs: entry.xattrs.clone(),
        link_group: entry.hard_linked.then_some(0),
        attrs: entry.attrs.clone(),
    };
    let mut out = Vec::new();
    let sha256 = entry.sha256.map(|digest| digest.0);
    let digest = entry.digest.map(|(kind, digest)| (kind, digest.0));
    let (component, path, size) = (entry.component.as_str(), &entry.path, entry.size);
    CanonicalEntry {
        component,
        path,
        meta: &meta,
        size,
        sha256,
        digest,
    }
    .encode(&mut out)
    .unwrap();
    out
}

proptest! {
    #[test]
    fn every_entry_survives_and_no_changed_byte_is_read_as_the_same_entry(
        meta in metas(),
        path in vec("[a-z\u{e9}]{1,6}", 0..4),
        size: u64,
        sha256: Option<[u8; 32]>, digest: Option<(u8, [u8; 32])>,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let path = EntryPath::from_slashed(path.join("/").as_bytes()).unwrap();
        let mut bytes = Vec::new();
        CanonicalEntry { component: "c", path: &path, meta: &meta, size, sha256, digest }
            .encode(&mut bytes)
            .unwrap();
        let entry = ProvenEntry::decode(&bytes).unwrap();
        prop_assert_eq!(encode_again(&entry), bytes.clone());
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(other) = ProvenEntry::decode(&bytes) {
            prop_assert_ne!(&other, &entry);
            prop_assert_eq!(encode_again(&other), bytes);
        }
    }

    #[test]
    fn no_bytes_make_the_decoder_panic(bytes: Vec<u8>) {
        let mut led = vec![VERSION, 1, b'c'];
        led.extend_from_slice(&bytes);
        for bytes in [bytes, led] {
            if let Ok(entry) = ProvenEntry::decode(&bytes) {
                prop_assert_eq!(encode_again(&entry), bytes);
            }
        }
    }
}

/// Run with `--release --ignored --nocapture` to see the rate.
#[test]
#[ignore = "measures; needs a release build"]
fn encoding_a_large_tree_takes_a_few_milliseconds() {
    let meta = full_meta();
    let path = EntryPath::from_slashed(b"usr/share/doc/some-package/changelog.gz").unwrap();
    let entry = CanonicalEntry {
        component: "files",
        path: &path,
        meta: &meta,
        size: 5,
        sha256: None,
        digest: None,
    };
    let mut out = Vec::new();
    let begin = std::time::Instant::now();
    let mut total = 0;
    for _ in 0..121_000 {
        out.clear();
        total += entry.encode(&mut out).unwrap();
    }
    println!("121,000 entries, {total} bytes: {:?}", begin.elapsed());
}
