//! Writes `corpus/<target>/` from real encodings: the vectors of the format's page, the plain
//! objects of the golden repository, and a ledger line and a proof made here.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use backup_core::{ChunkId, FileTime, Fingerprint, HostId, RepoId, SessionId, SnapshotId};
use backup_engine::state::StateEntry;
use backup_format::keys::{KeyFile, Slot};
use backup_format::session::Session;
use backup_format::snapshot::{NextPart, Outer, Roots, SnapshotObject, encode};
use backup_integrity::ledger::{Draft, Op, RecordOutcome, append};
use backup_integrity::merkle::{SnapshotTreeBuilder, prove};
use backup_integrity::proof::{ProofParts, write_proof};
use backup_integrity::sign::{HmacKey, HostSigner};
use backup_integrity::statement::SignedStatement;

type Done<T = ()> = Result<T, Box<dyn Error>>;

/// Which vectors of the page are seeds of which target.
const OF_PAGE: [(&str, &str); 13] = [
    ("record", "record"),
    ("extents", "extents"),
    ("page", "page"),
    ("lineage-base", "lineage_layer"),
    ("lineage-edit", "lineage_layer"),
    ("lineage-head", "lineage_head"),
    ("index-run", "index_run"),
    ("refs", "refs"),
    ("session-mark", "collect"),
    ("verdict", "collect"),
    ("pack-list", "collect"),
    ("canonical", "canonical"),
    ("statement", "statement"),
];

fn main() -> Done {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = here.join("corpus");
    let page = fs::read_to_string(here.join("../docs/format.md"))?;
    for (name, target) in OF_PAGE {
        let row = page
            .lines()
            .find_map(|line| line.strip_prefix(&format!("| `{name}` | `")));
        let hex = row
            .and_then(|row| row.strip_suffix("` |"))
            .ok_or("a vector is missing")?;
        write(&corpus, target, name, &unhex(hex)?)?;
    }
    let golden = here.join("../crates/engine/tests/golden/v1");
    write(
        &corpus,
        "config",
        "golden",
        &fs::read(golden.join("repo/config/0"))?,
    )?;
    for (number, slot) in files(&golden.join("repo/keys"))?.iter().enumerate() {
        write(&corpus, "slot", &number.to_string(), &fs::read(slot)?)?;
    }
    if let KeyFile::Secret(secret) = KeyFile::parse(&fs::read(golden.join("key"))?)? {
        let slots = files(&golden.join("repo/keys"))?;
        let slots = slots.iter().filter_map(|slot| fs::read(slot).ok());
        let opened =
            slots.filter_map(|slot| Slot::parse(&slot).ok()?.open_with_secret(&secret).ok());
        for (number, keys) in opened.enumerate() {
            write(&corpus, "key_set", &number.to_string(), &keys.encode()?)?;
        }
    }
    for name in ["key", "recovery-code", "age-identity"] {
        write(&corpus, "key_file", name, &fs::read(golden.join(name))?)?;
    }
    for pack in files(&golden.join("repo/meta"))? {
        let bytes = fs::read(pack)?;
        let tail = bytes.get(bytes.len().saturating_sub(4096)..).unwrap_or(&[]);
        write(&corpus, "pack_tail", "golden", tail)?;
    }
    for object in files(&golden.join("repo/snap"))? {
        write(&corpus, "sealed", "snapshot", &fs::read(object)?)?;
    }
    for (name, length) in [("small", 700), ("larger", 40_000)] {
        let sidecar = backup_parity::encode(&vec![7; length], backup_parity::Share::USUAL)?;
        write(&corpus, "parity", name, &sidecar)?;
    }
    let identity = fs::read(golden.join("age-identity"))?;
    write(&corpus, "age_key", "identity", &identity)?;
    write(&corpus, "entry_path", "two", b"srv\0data")?;
    write(&corpus, "tree", "empty", b"\x01\0\0")?;
    let zeros = "0".repeat(64);
    write(
        &corpus,
        "sum_line",
        "plain",
        format!("{zeros}  ./a\n").as_bytes(),
    )?;
    write(
        &corpus,
        "sum_line",
        "escaped",
        format!("\\{zeros}  a\\nb").as_bytes(),
    )?;
    write(&corpus, "state_entry", "one", &state_entry())?;
    let line = ledger_line()?;
    write(
        &corpus,
        "ledger",
        "twice",
        &[&line[..], b"\n", &line].concat(),
    )?;
    write(&corpus, "ledger_line", "snapshot", &line)?;
    write(&corpus, "proof", "two", &proof()?)?;
    write(&corpus, "session", "one", &session()?)?;
    for (name, answers) in sftp() {
        // Behind how much arrives at once, less one.
        write(&corpus, "sftp", name, &[&[31], &answers[..]].concat())?;
    }
    write(&corpus, "snapshot_object", "outer", &encode(&outer())?)?;
    write(&corpus, "snapshot_object", "object", &object()?)
}

fn write(corpus: &Path, target: &str, name: &str, bytes: &[u8]) -> Done {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    Ok(fs::write(folder.join(name), bytes)?)
}

fn files(folder: &Path) -> Done<Vec<PathBuf>> {
    let mut out = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            out.extend(files(&path)?)
        } else {
            out.push(path)
        }
    }
    out.sort();
    Ok(out)
}

fn unhex(text: &str) -> Done<Vec<u8>> {
    let digit = |at| u8::from_str_radix(text.get(at..at + 2).unwrap_or(""), 16);
    Ok((0..text.len())
        .step_by(2)
        .map(digit)
        .collect::<Result<_, _>>()?)
}

fn statement(root: backup_integrity::merkle::MerkleRoot) -> SignedStatement {
    SignedStatement {
        repo: RepoId([0x42; 16]),
        snapshot: SnapshotId(1 << 90),
        host: HostId("host".into()),
        name: "name".into(),
        time: jiff::Timestamp::UNIX_EPOCH,
        leaf_count: 2,
        root,
        bytes: 3,
        parent: None,
    }
}

fn state_entry() -> Vec<u8> {
    let entry = StateEntry {
        key: b"0\0srv".to_vec(),
        fingerprint: Some(Fingerprint {
            size: 300,
            mtime: FileTime::default(),
            ctime: FileTime::default(),
            inode: 9,
        }),
        record: vec![7; 60],
        lineage: vec![8; 3],
        extents: Vec::new(),
    };
    let mut out = Vec::new();
    entry.encode(&mut out);
    out
}

fn ledger_line() -> Done<Vec<u8>> {
    let draft = Draft {
        time: jiff::Timestamp::UNIX_EPOCH,
        op: Op::SNAPSHOT,
        host: HostId("host".into()),
        user: "me".into(),
        repo: RepoId([0x42; 16]),
        snapshot: Some(SnapshotId(1 << 90)),
        root: None,
        counts: BTreeMap::from([("entries".to_owned(), 2)]),
        outcome: RecordOutcome::Ok,
        note: Some("a \"note\"".into()),
    };
    Ok(append(None, draft, &HmacKey::new([1; 32]))?
        .as_bytes()
        .to_vec())
}

fn proof() -> Done<Vec<u8>> {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/format.md"))?;
    let row = page
        .lines()
        .find_map(|line| line.strip_prefix("| `canonical` | `"));
    let entry = unhex(
        row.and_then(|row| row.strip_suffix("` |"))
            .ok_or("no vector")?,
    )?;
    let mut builder = SnapshotTreeBuilder::new([3; 32]);
    builder.push(&entry);
    builder.push(&entry);
    let tree = builder.finish();
    let statement = statement(tree.root);
    let signer = HostSigner::new(
        statement.host.clone(),
        HmacKey::new([1; 32]),
        &[2; 32].into(),
    );
    let signatures = statement.sign(&signer, &[4; 32])?;
    let inclusion = prove(1, 2, &[3; 32], [&entry, &entry], &tree.page_roots)?;
    Ok(write_proof(&ProofParts {
        statement: &statement,
        manifest_sha256: &[4; 32],
        signatures: &signatures,
        canonical: &entry,
        inclusion: &inclusion,
    })?)
}

fn session() -> Done<Vec<u8>> {
    let session = Session {
        id: SessionId(1 << 90),
        host: HostId("host".into()),
        started_ms: 1,
        wrapped_dek: vec![5; 200],
    };
    Ok(session.encode()?)
}

/// What OpenSSH's server answers, each packet behind its length.
fn sftp() -> [(&'static str, Vec<u8>); 3] {
    let word = |number: u32| number.to_be_bytes().to_vec();
    let text = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let packet = |kind: u8, parts: &[Vec<u8>]| text(&[&[kind], &parts.concat()[..]].concat());
    let numbers = |numbers: &[u64]| numbers.iter().copied().flat_map(u64::to_be_bytes).collect();
    // Size, owner, mode and times.
    let attributes = [
        word(0xf),
        numbers(&[4096, 0]),
        word(0o100_600),
        numbers(&[9]),
    ]
    .concat();
    let begin = packet(
        2,
        &[
            word(3),
            text(b"posix-rename@openssh.com"),
            text(b"1"),
            text(b"statvfs@openssh.com"),
            text(b"2"),
        ],
    );
    let limits = packet(
        201,
        &[word(1), numbers(&[256 << 10, 255 << 10, 255 << 10, 1000])],
    );
    let room = packet(
        201,
        &[
            word(2),
            numbers(&[4096, 4096, 900, 500, 400, 90, 50, 40, 7, 0, 255]),
        ],
    );
    let names = [
        word(5),
        word(2),
        text(b"a"),
        text(b"-rw------- 1 a"),
        attributes.clone(),
        text(b".."),
        text(b""),
        word(0),
    ];
    let read = [
        packet(102, &[word(3), text(&[0, 0, 0, 1])]),
        packet(103, &[word(4), text(b"content")]),
        packet(101, &[word(6), word(1), text(b"End of file"), text(b"")]),
        packet(105, &[word(7), attributes]),
    ];
    [
        ("begin", [begin, limits, room].concat()),
        ("folder", packet(104, &names)),
        ("file", read.concat()),
    ]
}

fn outer() -> Outer {
    let root = backup_format::page::TreeRoot {
        id: ChunkId([6; 32]),
        height: 1,
        entries: 9,
    };
    let roots = Roots {
        manifest: Some(root),
        lineage: Some(root),
        merkle: [7; 32],
        leaves: 9,
    };
    let meta = backup_core::SnapshotMeta {
        id: SnapshotId(1 << 90),
        name: "name".into(),
        host: HostId("host".into()),
        time: jiff::Timestamp::UNIX_EPOCH,
        first_seen: None,
        tags: vec!["a".into(), "b".into()],
        label: Some("daily".into()),
        held: false,
        partial: false,
        findings: 1,
        parent: Some(SnapshotId(1 << 89)),
        stats: backup_core::SnapshotStats::default(),
    };
    Outer::new(&meta, SessionId(1 << 90), vec![5; 200], roots)
}

fn object() -> Done<Vec<u8>> {
    let object = SnapshotObject {
        outer: encode(&outer())?,
        inner: vec![4; 100],
        inner_id: ChunkId([5; 32]),
        inner_raw: 90,
        next: NextPart {
            sealed: vec![11; 60],
            id: ChunkId([12; 32]),
            raw: 40,
        },
        statement: vec![6; 50],
        hmac: [7; 32],
        public_key: [8; 32],
        signature: ([9; 32], [10; 32]),
        certificate: ([13; 32], [14; 32]),
        brought_by: None,
    };
    Ok(object.encode()?)
}
