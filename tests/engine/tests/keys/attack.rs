//! What somebody gets who holds a key file and a copy of everything on the tier, and heeds no rule of
//! the programs: every secret of the key is tried as every kind of key on every object.

use std::collections::HashMap;

use backup_core::{ChunkId, RepoId};
use backup_format::index::IndexRun;
use backup_format::keys::{Identity, KeySet};
use backup_format::layout::is_pack;
use backup_format::pack::{FOOTER, PackHeader, header_length, read_tail};
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, ObjectKeyring, ObjectKind, blob_session};
use backup_format::session;
use backup_format::snapshot::{Outer, SnapshotObject, decode_part};

use crate::world::World;

const OBJECTS: [ObjectKind; 9] = [
    ObjectKind::Session,
    ObjectKind::IndexRun,
    ObjectKind::Refs,
    ObjectKind::Snapshot,
    ObjectKind::Ledger,
    ObjectKind::SessionDone,
    ObjectKind::Verdict,
    ObjectKind::Condemned,
    ObjectKind::Dead,
];

/// What was opened.
#[derive(Default)]
pub(crate) struct Loot {
    /// Content of files.
    pub(crate) data: Vec<Vec<u8>>,
    /// Pages of manifests.
    pub(crate) pages: Vec<Vec<u8>>,
    /// What every role or writers may see: objects, headers, lineage.
    pub(crate) other: Vec<Vec<u8>>,
    /// Blobs of content and pages that nothing opened.
    pub(crate) closed: u64,
}

impl Loot {
    pub(crate) fn holds(&self, needle: &[u8]) -> bool {
        let all = self.data.iter().chain(&self.pages).chain(&self.other);
        let mut all = all;
        all.any(|bytes| bytes.windows(needle.len()).any(|window| window == needle))
    }
}

/// Every 32 bytes that the holder has.
fn secrets(keys: &KeySet) -> Vec<[u8; 32]> {
    let mut out: Vec<[u8; 32]> = [
        keys.id_key().ok(),
        keys.cut_key().ok(),
        keys.index_key().ok(),
        keys.lineage_key().ok(),
        keys.state_key().ok(),
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    out.push(*keys.authority());
    if let Some(host) = keys.host() {
        out.extend(keys.ledger_key(host).map(|key| *key.expose()));
        if let Ok(keys) = keys.host_keys(host) {
            out.extend([keys.hmac, keys.ed25519_seed]);
        }
    }
    // And whatever else there is in the bytes of the file itself, from any place on.
    let bytes = keys.encode().unwrap();
    out.extend(
        bytes
            .windows(32)
            .map(|window| <[u8; 32]>::try_from(window).unwrap()),
    );
    out.sort_unstable();
    out.dedup();
    out
}

/// 32 bytes as age spells an identity: Bech32 (BIP 173).
fn as_identity(secret: &[u8; 32]) -> Identity {
    const LETTERS: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const PREFIX: &[u8] = b"age-secret-key-";
    let (mut digits, mut buffer, mut bits) = (Vec::new(), 0u32, 0);
    for byte in secret {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            digits.push((buffer >> bits) & 31);
        }
    }
    digits.push((buffer << (5 - bits)) & 31);
    let mut sum = 1u32;
    let high = PREFIX.iter().map(|byte| u32::from(byte >> 5));
    let low = PREFIX.iter().map(|byte| u32::from(byte & 31));
    let all = high.chain([0]).chain(low).chain(digits.iter().copied());
    for digit in all.chain([0; 6]) {
        let top = sum >> 25;
        sum = ((sum & 0x01ff_ffff) << 5) ^ digit;
        for (place, generator) in [
            0x3b6a_57b2,
            0x2650_8e6d,
            0x1ea1_19fa,
            0x3d42_33dd,
            0x2a14_62b3,
        ]
        .into_iter()
        .enumerate()
        {
            if (top >> place) & 1 == 1 {
                sum ^= generator;
            }
        }
    }
    sum ^= 1;
    digits.extend((0..6).map(|place| (sum >> (5 * (5 - place))) & 31));
    let text: String = digits
        .iter()
        .map(|digit| LETTERS[*digit as usize] as char)
        .collect();
    let text = format!("AGE-SECRET-KEY-1{}", text.to_ascii_uppercase());
    Identity::parse(0, &text).unwrap()
}

/// Whoever tries every secret as every key.
struct Attacker {
    repo: RepoId,
    secrets: Vec<[u8; 32]>,
    identities: Vec<Identity>,
    codec: BlobCodec,
    wraps: HashMap<Vec<u8>, Option<[u8; 32]>>,
    loot: Loot,
}

impl Attacker {
    fn data_key(&mut self, wrap: &[u8]) -> Option<[u8; 32]> {
        let identities = &self.identities;
        let open = || Some(*session::unwrap(wrap, identities).ok()?.expose());
        *self.wraps.entry(wrap.to_vec()).or_insert_with(open)
    }

    /// Tries to open a blob.
    fn blob(&mut self, kind: BlobKind, id: &ChunkId, raw: usize, sealed: &[u8], wraps: &[Vec<u8>]) {
        let session = blob_session(sealed).unwrap();
        let mut secrets: Vec<_> = wraps
            .iter()
            .filter_map(|wrap| self.data_key(wrap))
            .collect();
        secrets.extend_from_slice(&self.secrets);
        let mut plain = Vec::new();
        let is_open = secrets.iter().any(|secret| {
            let keys = [
                BlobKey::of_session(self.repo, session, secret),
                BlobKey::of_lineage(self.repo, secret),
            ];
            let mut keys = keys.iter();
            keys.any(|key| {
                let opened = self.codec.open(key, kind, id, raw, sealed, &mut plain);
                opened.is_ok()
            })
        });
        match kind {
            _ if !is_open => self.loot.closed += u64::from(kind != BlobKind::Lineage),
            BlobKind::Data => self.loot.data.push(plain),
            BlobKind::Page => self.loot.pages.push(plain),
            BlobKind::Lineage => self.loot.other.push(plain),
        }
    }
}

/// The wrapped data keys that lie anywhere on the tier: in sessions, index runs, snapshots and the ends of packs.
fn wraps(world: &World, ring: &ObjectKeyring) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (name, bytes) in world.mem.objects() {
        if let Ok(plain) = ring.open(ObjectKind::Session, &bytes) {
            out.push(session::Session::decode(&plain).unwrap().wrapped_dek);
        }
        if let Ok(plain) = ring.open(ObjectKind::IndexRun, &bytes) {
            let run = IndexRun::parse(plain).unwrap();
            out.extend(run.sessions.iter().map(|wrap| wrap.wrap.clone()));
        }
        if let Ok(plain) = ring.open(ObjectKind::Snapshot, &bytes) {
            let object = SnapshotObject::decode(&plain).unwrap();
            out.push(decode_part::<Outer>(&object.outer).unwrap().wrap);
        }
        if is_pack(&name) {
            let header = end(ring, &bytes);
            out.extend(header.sessions.iter().map(|wrap| wrap.wrap.clone()));
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

fn end(ring: &ObjectKeyring, pack: &[u8]) -> PackHeader {
    let footer = pack.len() - FOOTER;
    let length = header_length(&pack[footer..]).unwrap();
    read_tail(ring, &pack[footer - length..]).unwrap()
}

/// Takes everything that opens.
pub(crate) fn attack(world: &World, keys: &KeySet) -> Loot {
    let ring = ObjectKeyring::new(keys.repo(), keys.index_key().unwrap());
    let secrets = secrets(keys);
    let mut identities: Vec<_> = secrets.iter().map(as_identity).collect();
    identities.extend(keys.identities().into_iter().flatten().cloned());
    let mut attacker = Attacker {
        repo: keys.repo(),
        secrets,
        identities,
        codec: BlobCodec::opener().unwrap(),
        wraps: HashMap::new(),
        loot: Loot::default(),
    };
    let wraps = wraps(world, &ring);
    for (name, bytes) in world.mem.objects() {
        for kind in OBJECTS {
            attacker.loot.other.extend(ring.open(kind, &bytes).ok());
        }
        if let Ok(plain) = ring.open(ObjectKind::Snapshot, &bytes) {
            let object = SnapshotObject::decode(&plain).unwrap();
            let raw = object.inner_raw as usize;
            attacker.blob(BlobKind::Page, &object.inner_id, raw, &object.inner, &wraps);
        }
        if !is_pack(&name) {
            continue;
        }
        for blob in &end(&ring, &bytes).blobs {
            let start = blob.offset as usize;
            let sealed = &bytes[start..start + blob.stored as usize];
            attacker.blob(blob.kind, &blob.id, blob.raw as usize, sealed, &wraps);
        }
    }
    attacker.loot
}
