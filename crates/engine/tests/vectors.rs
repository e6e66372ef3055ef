//! The test vectors of `docs/format.md`, computed anew and compared with the page.
//!
//! When a vector differs, the test prints the rows as the code has them; before the first release of
//! a format version they may be copied into the page, and never afterwards. The two sealed vectors
//! hold a random nonce: they are not computed but opened.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;
use std::path::Path;

use backup_core::{
    ChunkId, EntryKind, EntryMeta, EntryPath, FileTime, HostId, Owner, PackId, RepoId, SessionId,
    SnapshotId,
};
use backup_format::chunk::gear::PieceSizes;
use backup_format::chunk::{CutKeys, PieceCut};
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::index::RunBuilder;
use backup_format::keys::{Identity, KeySet, Recipient};
use backup_format::layout::{self, hex};
use backup_format::lineage::{Layer, LineageHead, NEW, Pieces};
use backup_format::pack::{PackBlob, SessionWrap};
use backup_format::page::{PageSizes, TreeBuilder, TreeError};
use backup_format::record::Record;
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, ObjectKeyring, ObjectKind, blob_id};
use backup_format::snapshot::{NextPart, SnapshotObject, source_name};
use backup_format::wire::Put as _;
use backup_integrity::canonical::CanonicalEntry;
use backup_integrity::digest::ContentDigest;
use backup_integrity::merkle::MerkleRoot;
use backup_integrity::sign::{HmacKey, HostSigner};
use backup_integrity::statement::SignedStatement;

const REPO: RepoId = RepoId([0x42; 16]);
const IDENTITY: &str = "AGE-SECRET-KEY-1JDZVTMJK8YR24JXEA265ZXE543GZ45DDYAL3EL0CY57N98AV4MEQX0MA70";

/// The full key set of root key 32 × 0x07 and one identity, from its stated bytes.
fn keys() -> KeySet {
    let recipient = Identity::parse(0, IDENTITY)
        .unwrap()
        .recipient()
        .to_string();
    let mut bytes = vec![1];
    bytes.extend_from_slice(REPO.as_bytes());
    bytes.extend_from_slice(&[1, 1]);
    bytes.extend_from_slice(&[7; 32]);
    bytes.extend_from_slice(&[0; 7]);
    for text in [IDENTITY, &recipient] {
        bytes.extend_from_slice(&[1, 0]);
        bytes.put_bytes(text.as_bytes());
    }
    bytes.push(0);
    KeySet::decode(&bytes).unwrap()
}

fn extents() -> Extents {
    let mut out = Extents::default();
    out.push(Extent::Data {
        chunk: ChunkId([0xaa; 32]),
        offset: 300,
        length: 5,
    });
    out.push(Extent::Zero { length: 4096 });
    out.push(Extent::Data {
        chunk: ChunkId([0xaa; 32]),
        offset: 0,
        length: 10,
    });
    out
}

fn meta() -> EntryMeta {
    EntryMeta {
        kind: EntryKind::File,
        mode: 0o644,
        owner: Some(Owner {
            uid: 1000,
            gid: 50,
            user: Some("me".into()),
            group: None,
        }),
        mtime: FileTime {
            seconds: -1,
            nanos: 5,
        },
        xattrs: vec![(b"user.a".to_vec(), b"1".to_vec())],
        link_group: Some(7),
        attrs: [("k".to_owned(), "v".to_owned())].into(),
    }
}

fn noise(length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    blake3::Hasher::new()
        .update(b"noise")
        .finalize_xof()
        .fill(&mut out);
    out
}

fn of_keys(out: &mut Vec<(&'static str, String)>) {
    let keys = keys();
    let host = keys.host_keys(&HostId("web1".into())).unwrap();
    let signer = HostSigner::new(
        HostId("web1".into()),
        HmacKey::new(host.hmac),
        &host.ed25519_seed.into(),
    );
    out.extend([
        ("key-id", hex(keys.id_key().unwrap())),
        ("key-cut", hex(keys.cut_key().unwrap())),
        ("key-index", hex(keys.index_key().unwrap())),
        ("key-lineage", hex(keys.lineage_key().unwrap())),
        ("key-state", hex(keys.state_key().unwrap())),
        ("key-host-hmac", hex(&host.hmac)),
        ("key-host-ed25519-seed", hex(&host.ed25519_seed)),
        ("key-host-ed25519-public", signer.public_key().to_string()),
        ("key-authority-public", hex(keys.authority())),
        ("recipients-signature", hex(&two_generations(&keys))),
        (
            "host-certificate",
            hex(&keys.host_certificate(&HostId("web1".into())).unwrap()),
        ),
        ("key-fingerprint", hex(&keys.fingerprint().unwrap())),
    ]);
}

/// The authority's word for the recipients of two generations.
fn two_generations(keys: &KeySet) -> [u8; 64] {
    let mut recipients = keys.all_recipients().to_vec();
    let text = recipients[0].to_string();
    recipients.push(Recipient::parse(1, &text).unwrap());
    keys.sign_recipients(&recipients).unwrap()
}

fn of_chunks(out: &mut Vec<(&'static str, String)>) {
    let keys = keys();
    let id_key = keys.id_key().unwrap();
    let cut = CutKeys::new(keys.cut_key().unwrap());
    let data = noise(60_000);
    let (mut at, mut lengths) = (0, Vec::new());
    while at < data.len() {
        let length = cut.gear().cut(&data[at..], &PieceSizes::around(8192));
        lengths.push(length.to_string());
        at += length;
    }
    out.extend([
        (
            "blob-id-data",
            blob_id(id_key, BlobKind::Data, b"hello").to_string(),
        ),
        (
            "blob-id-page",
            blob_id(id_key, BlobKind::Page, b"hello").to_string(),
        ),
        (
            "blob-id-lineage",
            blob_id(id_key, BlobKind::Lineage, b"hello").to_string(),
        ),
        ("piece-digest", hex(&cut.digest(b"hello"))),
        ("piece-lengths", lengths.join(" ")),
    ]);
}

fn of_manifests(out: &mut Vec<(&'static str, String)>) {
    let mut list = Vec::new();
    extents().encode(&mut list);
    let mut record = Vec::new();
    let sha256 = Some([9; 32]);
    let content = Content::Inline(extents());
    let mut whole = Record {
        meta: meta(),
        size: 4111,
        sha256,
        digest: None,
        content,
    };
    whole.encode(&mut record);
    whole.sha256 = None;
    let other = whole.other_digest().unwrap();
    assert_eq!(other.kind, 1);
    let mut page = Vec::new();
    let mut builder = TreeBuilder::new(PageSizes {
        min: 2048,
        target: 6144,
    });
    let mut keep = |bytes: Vec<u8>| {
        page = bytes;
        Ok::<_, TreeError>(ChunkId([0; 32]))
    };
    for (key, value) in [(&b"\0etc"[..], b"one"), (b"\0etc\0fstab", b"two")] {
        builder.push(key, value, &mut keep).unwrap();
    }
    builder.finish(&mut keep).unwrap();
    out.extend([
        ("extents", hex(&list)),
        ("record", hex(&record)),
        ("other-digest", hex(&other.bytes)),
        ("page", hex(&page)),
    ]);
}

fn of_lineage(out: &mut Vec<(&'static str, String)>) {
    let before = Pieces {
        digests: vec![[1; 16], [2; 16], [0; 16]],
        lengths: vec![5, 6, 300],
    };
    let after = Pieces {
        digests: vec![[1; 16], [3; 16], [0; 16]],
        lengths: vec![5, 7, 300],
    };
    let (base, edit) = (before.base(), after.edit(&[0, NEW, 2]));
    let cut = PieceCut::Content(8192);
    let read = Pieces::apply(&Pieces::default(), &base, cut).unwrap();
    assert_eq!(Pieces::apply(&read, &edit, cut).unwrap(), after);
    let head = LineageHead {
        cut,
        size: 4111,
        pieces: 3,
        layers: vec![Layer {
            bytes: base.len() as u64,
            parts: vec![ChunkId([0xbb; 32])],
        }],
        content: Content::Spilled(vec![ChunkId([0xcc; 32])]),
    };
    out.extend([
        ("lineage-base", hex(&base)),
        ("lineage-edit", hex(&edit)),
        ("lineage-head", hex(&head.encode())),
    ]);
}

fn of_packs(out: &mut Vec<(&'static str, String)>) {
    let session = SessionId::from_parts(1_795_219_200_000, [5; 10]);
    let blobs = [
        (BlobKind::Page, [0xee; 32], 0, 100, 70),
        (BlobKind::Data, [0xdd; 32], 100, 300, 999),
    ];
    let blobs = blobs.map(|(kind, id, offset, stored, raw)| PackBlob {
        kind,
        id: ChunkId(id),
        offset,
        stored,
        raw,
    });
    let mut run = RunBuilder::default();
    run.add_pack(PackId([0xab; 32]), 1234, &blobs).unwrap();
    let run = run.finish(&[SessionWrap {
        session,
        wrap: vec![1, 2, 3],
    }]);
    let refs = Refs {
        snapshot: SnapshotId::from_parts(1_795_219_200_000, [6; 10]),
        packs: vec![
            PackUse::new(PackId([1; 32]), 3, [0, 1, 2]),
            PackUse::new(PackId([2; 32]), 10, [0, 9]),
        ],
    };
    let id = SnapshotId::from_parts(1_795_219_200_000, [6; 10]);
    out.extend([
        ("index-run", hex(&run)),
        ("refs", hex(&refs.encode())),
        (
            "name-pack",
            layout::pack(PackId([0xab; 32]), false).unwrap().to_string(),
        ),
        ("name-snapshot", layout::snapshot(id).unwrap().to_string()),
        ("name-ledger", layout::ledger(7).unwrap().to_string()),
    ]);
    let verdict = Verdict {
        session,
        snapshots: [id].into(),
    };
    let list = PackList {
        generation: 300,
        packs: [PackId([1; 32]), PackId([0xab; 32])].into(),
    };
    out.extend([
        ("session-mark", hex(&SessionMark { session }.encode())),
        ("verdict", hex(&verdict.encode())),
        ("pack-list", hex(&list.encode())),
        (
            "name-verdict",
            layout::verdict(session).unwrap().to_string(),
        ),
        ("name-dead", layout::dead(300).unwrap().to_string()),
    ]);
}

/// The layout alone: what lies in it would not open.
fn of_snapshots(out: &mut Vec<(&'static str, String)>) {
    let own = SnapshotObject {
        outer: vec![0x0a, 0x0b],
        inner: vec![0x0c],
        inner_id: ChunkId([0x21; 32]),
        inner_raw: 7,
        next: NextPart {
            sealed: vec![0x0d],
            id: ChunkId([0x22; 32]),
            raw: 8,
        },
        statement: vec![0x0e],
        hmac: [0x23; 32],
        public_key: [0x24; 32],
        signature: ([0x25; 32], [0x26; 32]),
        certificate: ([0x27; 32], [0x28; 32]),
        brought_by: None,
    };
    let brought = SnapshotObject {
        brought_by: Some(session()),
        ..own.clone()
    };
    for (name, object) in [("snapshot-1", own), ("snapshot-2", brought)] {
        let bytes = object.encode().unwrap();
        assert_eq!(SnapshotObject::decode(&bytes).unwrap(), object);
        out.push((name, hex(&bytes)));
    }
}

fn of_evidence(out: &mut Vec<(&'static str, String)>) {
    let (mut canonical, path) = (Vec::new(), EntryPath::from_slashed(b"etc/fstab").unwrap());
    let entry = CanonicalEntry {
        component: "main",
        path: &path,
        meta: &meta(),
        size: 4111,
        sha256: Some([9; 32]),
        digest: None,
    };
    entry.encode(&mut canonical).unwrap();
    let unread = CanonicalEntry {
        sha256: None,
        digest: Some((1, [0x0a; 32])),
        ..entry
    };
    let mut of_unread = Vec::new();
    unread.encode(&mut of_unread).unwrap();
    let statement = SignedStatement {
        repo: REPO,
        snapshot: SnapshotId::from_parts(1_795_219_200_000, [6; 10]),
        host: HostId("web1".into()),
        name: "etc".into(),
        time: "2026-11-21T04:00:00.5Z".parse().unwrap(),
        leaf_count: 2,
        root: MerkleRoot([8; 32]),
        bytes: 4111,
        parent: None,
    };
    let origin = ["/etc", "/home"].map(str::to_owned);
    let source = source_name(keys().cut_key().unwrap(), "files", &origin);
    let host = keys().host_keys(&statement.host).unwrap();
    let key = HmacKey::new(host.hmac);
    let signer = HostSigner::new(statement.host.clone(), key, &host.ed25519_seed.into());
    let signed = statement.sign(&signer, &[0x11; 32]).unwrap();
    out.extend([
        ("canonical", hex(&canonical)),
        ("canonical-unread", hex(&of_unread)),
        ("source-name", hex(&source)),
        ("statement", hex(&statement.encode().unwrap())),
        ("statement-hmac", signed.hmac.to_string()),
        ("statement-ed25519", signed.ed25519.to_string()),
    ]);
}

fn of_parity(out: &mut Vec<(&'static str, String)>) {
    let mut object = vec![0; 1200];
    blake3::Hasher::new()
        .update(b"noise")
        .finalize_xof()
        .fill(&mut object);
    let sidecar = backup_parity::encode(&object, backup_parity::Share::USUAL).unwrap();
    let small = backup_parity::encode_whole(&object).unwrap();
    let pack = layout::pack(PackId([0xab; 32]), true).unwrap();
    let (head, digest) = (&sidecar[..112], ContentDigest::of(&sidecar));
    out.extend([
        ("small-parity-head", hex(&small[..128])),
        ("small-parity-sha256", ContentDigest::of(&small).to_string()),
        (
            "name-small-parity",
            layout::parity(&layout::config(0).unwrap())
                .unwrap()
                .to_string(),
        ),
        ("name-cold", layout::cold([0xab; 16]).unwrap().to_string()),
        ("parity-head", hex(head)),
        ("parity-sha256", digest.to_string()),
        ("name-parity", layout::parity(&pack).unwrap().to_string()),
    ]);
}

fn rows() -> BTreeMap<String, String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/format.md");
    let page = std::fs::read_to_string(page).unwrap();
    let row = |line: &str| {
        let (name, value) = line.strip_prefix("| `")?.split_once("` | `")?;
        Some((name.to_owned(), value.strip_suffix("` |")?.to_owned()))
    };
    page.lines().filter_map(row).collect()
}

#[test]
fn the_page_and_the_code_have_the_same_vectors() {
    let mut wanted = vec![];
    for part in [
        of_keys,
        of_chunks,
        of_manifests,
        of_lineage,
        of_packs,
        of_snapshots,
        of_evidence,
        of_parity,
    ] {
        part(&mut wanted);
    }
    let rows = rows();
    let differing: Vec<_> = wanted
        .iter()
        .filter(|(name, value)| rows.get(*name) != Some(value))
        .collect();
    for (name, value) in &differing {
        println!("| `{name}` | `{value}` |");
    }
    assert!(differing.is_empty(), "{} vectors differ", differing.len());
}

fn unhex(text: &str) -> Vec<u8> {
    let digit = |letter: u8| char::from(letter).to_digit(16).unwrap() as u8;
    text.as_bytes()
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

const SESSION_KEY: [u8; 32] = [0x33; 32];

fn session() -> SessionId {
    SessionId::from_parts(1_795_219_200_000, [5; 10])
}

#[test]
fn the_sealed_vectors_of_the_page_open() {
    let (rows, keys) = (rows(), keys());
    let key = BlobKey::of_session(REPO, session(), &SESSION_KEY);
    let id = blob_id(keys.id_key().unwrap(), BlobKind::Data, b"hello");
    let mut out = Vec::new();
    let sealed = unhex(&rows["sealed-blob"]);
    let mut codec = BlobCodec::new(3).unwrap();
    codec
        .open(&key, BlobKind::Data, &id, 5, &sealed, &mut out)
        .unwrap();
    assert_eq!(out, b"hello");
    let ring = ObjectKeyring::new(REPO, keys.index_key().unwrap());
    let plain = ring
        .open(ObjectKind::Ledger, &unhex(&rows["sealed-object"]))
        .unwrap();
    assert_eq!(plain, b"hello");
}

#[test]
#[ignore = "prints fresh sealed vectors, to be put into the page of a new format version"]
fn print_sealed_vectors() {
    let keys = keys();
    let key = BlobKey::of_session(REPO, session(), &SESSION_KEY);
    let id = blob_id(keys.id_key().unwrap(), BlobKind::Data, b"hello");
    let mut out = Vec::new();
    let mut codec = BlobCodec::new(3).unwrap();
    codec
        .seal(&key, BlobKind::Data, &id, b"hello", &mut out)
        .unwrap();
    println!("| `sealed-blob` | `{}` |", hex(&out));
    let ring = ObjectKeyring::new(REPO, keys.index_key().unwrap());
    println!(
        "| `sealed-object` | `{}` |",
        hex(&ring.seal(ObjectKind::Ledger, b"hello").unwrap())
    );
}
