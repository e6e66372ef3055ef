//! What each fuzz target does: it decodes bytes from outside, and where they decode, encodes them
//! again: what a decoder takes must come out as it went in. A decoder may refuse; it may not panic,
//! hang, or take memory without bound.

use backup_core::RepoId;
use backup_format::chunk::PieceCut;
use backup_format::config::Config;
use backup_format::extent::Extents;
use backup_format::index::IndexRun;
use backup_format::keys::{KeyFile, KeySet, Slot};
use backup_format::lineage::{LineageHead, Pieces};
use backup_format::page::Page;
use backup_format::record::Record;
use backup_format::refs::Refs;
use backup_format::seal::{ObjectKeyring, ObjectKind};
use backup_format::session::Session;
use backup_format::snapshot::{Inner, Outer, SnapshotObject, decode};
use backup_format::wire::Take;
use backup_integrity::canonical::ProvenEntry;
use backup_integrity::ledger::Line;
use backup_integrity::proof::check_proof;
use backup_integrity::statement::SignedStatement;

/// The keyring under which made-up headers are sealed.
#[must_use]
pub fn ring() -> ObjectKeyring {
    ObjectKeyring::new(RepoId([0x42; 16]), &[7; 32])
}

/// The end of a pack: as it is, and as the plaintext of a header that authenticates.
pub fn pack_tail(data: &[u8]) {
    let _ = backup_format::pack::read_tail(&ring(), data);
    let Ok(header) = ring().seal(ObjectKind::PackHeader, data) else {
        return;
    };
    let mut tail = header.clone();
    tail.extend_from_slice(b"BKSYPACK\x01\0\0\0");
    tail.extend_from_slice(&u32::try_from(header.len()).unwrap_or(0).to_le_bytes());
    tail.extend_from_slice(&[0; 16]);
    let _ = backup_format::pack::read_tail(&ring(), &tail);
}

/// An index run, and look-ups in it.
pub fn index_run(data: &[u8]) {
    if let Ok(run) = IndexRun::parse(data.to_vec()) {
        assert_eq!(run.iter().count(), run.len());
    }
}

/// A page of any level.
pub fn page(data: &[u8]) {
    let _ = Page::parse(data, data.first().copied().unwrap_or(0));
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
        assert_eq!(Extents::decode(&mut Take::new(&out)), Ok(extents));
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
    if let Ok(outer) = decode::<Outer>(data, "snapshot") {
        let _ = outer.meta();
    }
    if let Ok(inner) = decode::<Inner>(data, "snapshot") {
        inner
            .components
            .iter()
            .for_each(|component| drop(component.meta()));
    }
}

/// A refs object.
pub fn refs(data: &[u8]) {
    if let Ok(refs) = Refs::decode(data) {
        assert_eq!(Refs::decode(&refs.encode()), Ok(refs));
    }
}

/// A config.
pub fn config(data: &[u8]) {
    let _ = Config::parse(data);
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

/// A key set.
pub fn key_set(data: &[u8]) {
    if let Ok(keys) = KeySet::decode(data) {
        assert!(keys.encode().is_ok());
    }
}

/// A session object.
pub fn session(data: &[u8]) {
    if let Ok(session) = Session::decode(data) {
        assert!(session.encode().is_ok_and(|bytes| bytes == data));
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
