//! Every decoder of bytes from outside, for the fuzzer (`fuzz/`, one target for each) and for a short run
//! with every test. Each decodes, and where that succeeds, encodes again: what a decoder takes must
//! come out as it went in. A decoder may refuse; it may not panic, hang, or take memory without bound.

use backup_core::{ChunkId, EntryPath, Finding, RepoId, SessionId};
use backup_engine::state::StateEntry;
use backup_format::chunk::PieceCut;
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::config::Config;
use backup_format::extent::{Content, Extents};
use backup_format::index::IndexRun;
use backup_format::keys::{Identity, KeyFile, KeySet, Recipient, Slot};
use backup_format::lineage::{LineageHead, Pieces};
use backup_format::page::{Page, Step, TreeCursor, TreeRoot};
use backup_format::record::Record;
use backup_format::refs::Refs;
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, ObjectKeyring, ObjectKind};
use backup_format::session::Session;
use backup_format::snapshot::{Inner, Next, Outer, SnapshotObject, decode_part};
use backup_format::wire::Take;
use backup_integrity::canonical::ProvenEntry;
use backup_integrity::digest::{parse_sum_line, write_sum_line};
use backup_integrity::ledger::{Expect, LedgerKeys, Line, LostRecords, MAX_FINDINGS, verify};
use backup_integrity::proof::check_proof;
use backup_integrity::sign::HmacKey;
use backup_integrity::statement::SignedStatement;
use backup_parity::Sidecar;
use bytes::{Bytes, BytesMut};

use sftp_wire::{FileSystem, MAX_PACKET, Reply};

/// What only the sink itself uses, as it stands there.
#[path = "../../../crates/sinks/sftp/src/wire.rs"]
#[allow(dead_code, reason = "the questions are not asked here")]
mod sftp_wire;

/// Decodes bytes that may be anything, and looks at what comes of it.
pub type Decoder = fn(&[u8]);

/// Every one of them by the name of its fuzz target.
pub const ALL: [(&str, Decoder); 29] = [
    ("age_key", age_key),
    ("canonical", canonical),
    ("collect", collect),
    ("config", config),
    ("entry_path", entry_path),
    ("extents", extents),
    ("index_run", index_run),
    ("key_file", key_file),
    ("key_set", key_set),
    ("ledger", ledger),
    ("ledger_line", ledger_line),
    ("lineage_head", lineage_head),
    ("lineage_layer", lineage_layer),
    ("lost_records", lost_records),
    ("pack_tail", pack_tail),
    ("page", page),
    ("parity", parity),
    ("proof", proof),
    ("record", record),
    ("refs", refs),
    ("sealed", sealed),
    ("session", session),
    ("sftp", sftp),
    ("slot", slot),
    ("snapshot_object", snapshot_object),
    ("state_entry", state_entry),
    ("statement", statement),
    ("sum_line", sum_line),
    ("tree", tree),
];

/// The keyring under which made-up headers are sealed.
#[must_use]
pub fn ring() -> ObjectKeyring {
    ObjectKeyring::new(RepoId([0x42; 16]), &[7; 32])
}

/// The end of a pack: as it is, and as the plaintext of a header that authenticates, behind a byte that
/// says how many blobs there are.
pub fn pack_tail(data: &[u8]) {
    let _ = backup_format::pack::read_tail(&ring(), data);
    let Some((&blobs, plain)) = data.split_first() else {
        return;
    };
    let Ok(header) = ring().seal(ObjectKind::PackHeader, plain) else {
        return;
    };
    let mut tail = header.clone();
    tail.extend_from_slice(b"BKSYPACK\x01\0\0\0");
    let length = u32::try_from(header.len()).unwrap_or(0);
    for number in [length, blobs.into(), crc32(&header)] {
        tail.extend_from_slice(&number.to_le_bytes());
    }
    tail.extend_from_slice(&[0; 8]);
    let _ = backup_format::pack::read_tail(&ring(), &tail);
}

fn crc32(bytes: &[u8]) -> u32 {
    let bit = |crc: u32| crc >> 1 ^ (0xEDB8_8320 * (crc & 1));
    let byte = |crc: u32, byte: &u8| (0..8).fold(crc ^ u32::from(*byte), |crc, _| bit(crc));
    !bytes.iter().fold(u32::MAX, byte)
}

/// An index run, and look-ups in it.
pub fn index_run(data: &[u8]) {
    if let Ok(run) = IndexRun::parse(data.to_vec()) {
        assert_eq!(run.iter().count(), run.len());
        for (prefix, located) in run.iter() {
            assert!((located.pack as usize) < run.packs.len());
            let mut id = [0; 32];
            id.iter_mut().zip(prefix).for_each(|(to, from)| *to = from);
            assert!(run.find(&ChunkId(id)).is_some());
        }
    }
}

/// A page of any level.
pub fn page(data: &[u8]) {
    let _ = Page::parse(data, data.first().copied().unwrap_or(0));
}

/// A walk through a tree of one inner page and leaves that are all alike.
pub fn tree(data: &[u8]) {
    let (Some((&split, rest)), id) = (data.split_first(), ChunkId([0; 32])) else {
        return;
    };
    let (root, leaf) = rest.split_at(rest.len().min(usize::from(split)));
    let (from, _) = leaf.split_at(leaf.len().min(4));
    let (root, leaf) = ([&[1], root].concat(), [&[0], leaf].concat());
    let height = 1;
    let top = TreeRoot {
        id,
        height,
        entries: 9,
    };
    let mut cursor = TreeCursor::new(&top, from);
    let (mut pages, mut entries) = (0, 0);
    while let Ok(step) = cursor.step() {
        match step {
            Step::Need(_) => {
                let page = if pages == 0 { &root } else { &leaf };
                pages += 1;
                if cursor.supply(page).is_err() {
                    break;
                }
            }
            Step::Entry(key, _) => {
                entries += 1;
                if entries % 8 == 0 {
                    cursor.skip_below(&top, &key);
                    pages = 0;
                }
            }
            Step::End => break,
        }
        // Going on behind a key of the last leaf begins anew, with the same leaf.
        if entries > data.len() {
            break;
        }
    }
    assert!(pages <= root.len());
}

/// A sealed object and a sealed blob, as they come from a tier.
pub fn sealed(data: &[u8]) {
    for kind in [
        ObjectKind::Session,
        ObjectKind::IndexRun,
        ObjectKind::Snapshot,
    ] {
        assert!(ring().open(kind, data).is_err());
    }
    let key = BlobKey::of_session(RepoId([0x42; 16]), SessionId(0), &[7; 32]);
    let Ok(mut codec) = BlobCodec::opener() else {
        return;
    };
    let mut out = Vec::new();
    for bytes in [data, &[&[0; 16], data].concat()] {
        let opened = codec.open(&key, BlobKind::Data, &ChunkId([0; 32]), 9, bytes, &mut out);
        assert!(opened.is_err() && out.is_empty());
    }
}

/// Entries of the state of the last run, in the local cache.
pub fn state_entry(data: &[u8]) {
    let mut take = Take::new(data);
    while let Ok(entry) = StateEntry::decode(&mut take) {
        let mut out = Vec::new();
        entry.encode(&mut out);
        assert_eq!(StateEntry::decode(&mut Take::new(&out)), Ok(entry));
    }
}

/// A record.
pub fn record(data: &[u8]) {
    if let Ok(record) = Record::decode(data) {
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(Record::decode(&out), Ok(record));
    }
}

/// A list of extents.
pub fn extents(data: &[u8]) {
    if let Ok(extents) = Extents::decode(&mut Take::new(data)) {
        let mut out = Vec::new();
        extents.encode(&mut out);
        assert_eq!(Extents::decode(&mut Take::new(&out)), Ok(extents.clone()));
        let half = extents.length() / 2;
        let mut whole = extents.slice(0, half);
        assert_eq!(whole.extend(&extents.slice(half, u64::MAX)), Ok(()));
        assert_eq!(whole, extents);
    }
    if let Ok(content) = Content::decode(&mut Take::new(data)) {
        let mut out = Vec::new();
        content.encode(&mut out);
        assert_eq!(Content::decode(&mut Take::new(&out)), Ok(content));
    }
}

/// The head of a lineage.
pub fn lineage_head(data: &[u8]) {
    if let Ok(head) = LineageHead::decode(data) {
        assert_eq!(LineageHead::decode(&head.encode()), Ok(head));
    }
}

/// A base and an edit on it, both from outside.
pub fn lineage_layer(data: &[u8]) {
    let (base, edit) = data.split_at(data.len() / 2);
    for cut in [PieceCut::Pages(8192), PieceCut::Content(8192)] {
        let before = Pieces::apply(&Pieces::default(), data, cut)
            .or_else(|_| Pieces::apply(&Pieces::default(), base, cut))
            .unwrap_or_default();
        let _ = Pieces::apply(&before, edit, cut);
    }
}

/// A snapshot object and its parts.
pub fn snapshot_object(data: &[u8]) {
    let _ = SnapshotObject::decode(data);
    if let Ok(outer) = decode_part::<Outer>(data) {
        let _ = outer.meta();
    }
    if let Ok(inner) = decode_part::<Inner>(data) {
        inner
            .components
            .iter()
            .for_each(|component| drop(component.meta()));
        let _ = inner.findings(|json| serde_json::from_str::<Finding>(json).ok());
    }
    let _ = decode_part::<Next>(data);
}

/// A refs object.
pub fn refs(data: &[u8]) {
    if let Ok(refs) = Refs::decode(data) {
        assert_eq!(Refs::decode(&refs.encode()), Ok(refs));
    }
}

/// What collectors of garbage and sessions tell each other.
pub fn collect(data: &[u8]) {
    if let Ok(mark) = SessionMark::decode(data) {
        assert_eq!(SessionMark::decode(&mark.encode()), Ok(mark));
    }
    if let Ok(verdict) = Verdict::decode(data) {
        assert_eq!(Verdict::decode(&verdict.encode()), Ok(verdict));
    }
    if let Ok(list) = PackList::decode(data) {
        assert_eq!(PackList::decode(&list.encode()), Ok(list));
    }
}

/// A config.
pub fn config(data: &[u8]) {
    let _ = Config::parse(data).and_then(|config| config.peek());
}

/// A key slot; opened only where that costs little.
pub fn slot(data: &[u8]) {
    if let Ok(slot) = Slot::parse(data) {
        let argon2 = slot.info().and_then(|info| info.argon2);
        if argon2.is_none_or(|params| params.memory_kib <= 64 && params.passes <= 2) {
            let _ = slot.open_with_passphrase(b"passphrase");
        }
    }
}

/// A key file or a recovery code.
pub fn key_file(data: &[u8]) {
    let _ = KeyFile::parse(data);
}

/// An age identity or recipient, as key files and sets hold them.
pub fn age_key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(recipient) = Recipient::parse(0, text) {
        assert_eq!(
            Recipient::parse(0, &recipient.to_string()).ok(),
            Some(recipient)
        );
    }
    if let Ok(identity) = Identity::parse(0, text) {
        let again = Identity::parse(0, &identity.secret_text()).map(|same| same.recipient());
        assert_eq!(again.ok(), Some(identity.recipient()));
    }
}

/// A path, as keys of a manifest hold it.
pub fn entry_path(data: &[u8]) {
    if let Ok(path) = EntryPath::from_stored(data) {
        assert_eq!(path.as_stored(), data);
        let mut again = EntryPath::root();
        for component in path.components() {
            assert!(!component.contains(&b'/'));
            assert_eq!(again.push(component), Ok(()));
        }
        assert_eq!(again, path);
        assert!(path.parent().is_none_or(|parent| path.starts_with(&parent)));
    }
}

/// A line of a list of checksums.
pub fn sum_line(data: &[u8]) {
    if let Some((digest, name)) = parse_sum_line(data) {
        let mut line = Vec::new();
        write_sum_line(&mut line, &digest, &name);
        // A leading `./` may be added, so that no name is taken for an option or standard input.
        let again = parse_sum_line(&line);
        assert!(
            again.is_some_and(|(same, name_again)| same == digest && name_again.ends_with(&name))
        );
    }
}

/// A key set.
pub fn key_set(data: &[u8]) {
    if let Ok(keys) = KeySet::decode(data) {
        assert!(keys.encode().is_ok());
    }
}

/// A session object.
pub fn session(data: &[u8]) {
    if let Ok(session) = Session::decode(data) {
        // By value: the numbers of postcard have longer spellings too, which nobody writes.
        let again = session.encode().and_then(|bytes| Session::decode(&bytes));
        assert_eq!(again.ok(), Some(session));
    }
}

/// A parity sidecar, as it is, and with a head that has its check sum behind two bytes that say how many shards there
/// are; and what it makes of an object of zeros.
pub fn parity(data: &[u8]) {
    let look = |bytes: &[u8]| {
        let Ok(parity) = Sidecar::read(bytes) else {
            return;
        };
        let object = vec![0; parity.length().min(1 << 20)];
        let condition = parity.look(&[&object, data]);
        assert!(condition.damaged <= condition.shards && condition.spare <= parity.strength());
        let mended = parity.mend(&[&object, data]);
        assert!(mended.is_err() || condition.is_mendable());
        assert!(!parity.is_whole() || condition.spare == parity.strength());
    };
    look(data);
    let Some(([shards, spare], rest)) = data.split_first_chunk() else {
        return;
    };
    let (shards, spare) = (u32::from(*shards) + 1, u32::from(*spare) + 1);
    let mut head = b"BKSYPRTY\x01\0\0\0\0\x02\0\0".to_vec();
    let length = u64::from(shards) * 512 - rest.len() as u64 % 512;
    head.extend_from_slice(&length.to_le_bytes());
    head.extend_from_slice(&shards.to_le_bytes());
    head.extend_from_slice(&spare.to_le_bytes());
    let sums = 32 + 8 * (shards + spare) as usize;
    let (sums, recovery) = rest.split_at(rest.len().min(sums));
    head.extend_from_slice(sums);
    head.resize(64 + 8 * (shards + spare) as usize, 0);
    let check = blake3::hash(&head);
    head.extend_from_slice(&check.as_bytes()[..8]);
    head.extend_from_slice(recovery);
    look(&head);
}

/// What an SFTP server sends: as a stream of packets, which arrives in pieces, and as one packet.
pub fn sftp(data: &[u8]) {
    sftp_packet(Bytes::copy_from_slice(data));
    let Some((&size, stream)) = data.split_first() else {
        return;
    };
    let mut arrived = BytesMut::new();
    for piece in stream.chunks(usize::from(size) + 1) {
        arrived.extend_from_slice(piece);
        loop {
            match sftp_wire::next_packet(&mut arrived) {
                Ok(Some(packet)) => sftp_packet(packet),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(arrived.len() < 4 + MAX_PACKET);
    }
}

/// Nothing that is read of a packet is longer than the packet.
fn sftp_packet(packet: Bytes) {
    let length = packet.len();
    let Ok((_, reply)) = sftp_wire::reply(packet) else {
        return;
    };
    match reply {
        Reply::Names(names) => {
            // Two lengths and the flags, at least.
            assert!(names.len() * 12 <= length && names.capacity() <= length.max(4));
            let text: usize = names.iter().map(|name| name.name.len()).sum();
            assert!(text <= length);
            for name in &names {
                let _ = name.attributes.kind();
            }
        }
        Reply::Version(_, extensions) => assert!(extensions.len() * 8 <= length),
        Reply::Handle(handle) => assert!(handle.len() <= length.min(256)),
        Reply::Data(data) => assert!(data.len() <= length),
        Reply::Extended(told) => {
            let _ = FileSystem::read(told.clone());
            let _ = sftp_wire::limits(told);
        }
        Reply::Attributes(found) => {
            let _ = found.kind();
        }
        Reply::Status(_) => {}
    }
}

/// A proof.
pub fn proof(data: &[u8]) {
    let _ = check_proof(data, None, None);
}

/// A line of a ledger.
pub fn ledger_line(data: &[u8]) {
    if let Ok(line) = Line::parse(data) {
        assert_eq!(line.as_bytes(), data);
    }
}

/// What a record accepts as lost.
pub fn lost_records(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(lost) = text.parse::<LostRecords>() {
        assert_eq!(lost.to_string(), text);
        assert!(lost.first > 0 && lost.first <= lost.last);
    }
}

/// A whole ledger.
pub fn ledger(data: &[u8]) {
    let key = HmacKey::new([1; 32]);
    for keys in [LedgerKeys::None, LedgerKeys::One(&key)] {
        let lines = data.split(|&byte| byte == b'\n');
        let report = verify(lines, keys, Expect::default());
        assert!(report.findings.len() <= MAX_FINDINGS);
    }
}

/// A canonical entry.
pub fn canonical(data: &[u8]) {
    let _ = ProvenEntry::decode(data);
}

/// A signed statement.
pub fn statement(data: &[u8]) {
    if let Ok(statement) = SignedStatement::decode(data) {
        assert!(statement.encode().is_ok_and(|bytes| bytes == data));
    }
}
