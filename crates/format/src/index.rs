//! Index runs: where chunks lie. A run is immutable and sorted; a repository has several.
//!
//! A run's plaintext (an object of kind `IndexRun`): `1 ‖ wraps (as in packs) ‖ varint packs {
//! pack(32) ‖ varint size } ‖ extra ‖ varint entries ‖ entries`. An entry is 32 bytes: `id[..16] ‖ pack
//! number u32 ‖ offset u32 ‖ stored length u24 ‖ kind u8 ‖ raw length u24 ‖ 0`, sorted by id, kind
//! equal ids by pack. Sixteen bytes of id suffice: whoever opens a blob authenticates the whole.

use std::sync::Arc;

use backup_core::{ChunkId, PackId};

use crate::extra::{self, Extra};
use crate::pack::{MAX_PACK, PackBlob, SessionWrap, put_wraps, take_wraps};
use crate::seal::{BlobKind, MAX_RAW, MAX_SEALED};
use crate::wire::{Put, Take, WireError};

const WHAT: &str = "index run";
const ENTRY: usize = 32;
/// A run holds at most so many entries.
pub const MAX_ENTRIES: usize = 4 << 20;

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Located {
    /// The number of the entry within its run.
    pub entry: u32,
    /// The pack, as a number within the run or set that answered.
    pub pack: u32,
    /// What it holds.
    pub kind: BlobKind,
    /// Where it begins.
    pub offset: u32,
    /// Its sealed length.
    pub stored: u32,
    /// Its plain length.
    pub raw: u32,
}

/// A pack that a run knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackRef {
    /// Its name.
    pub id: PackId,
    /// Its size in bytes.
    pub size: u64,
}

/// Collects what goes into a run.
#[derive(Debug, Default)]
pub struct RunBuilder {
    packs: Vec<PackRef>,
    entries: Vec<[u8; ENTRY]>,
}

impl RunBuilder {
    /// Adds a pack and all its blobs.
    ///
    /// # Errors
    /// [`WireError::Range`] for a length that does not fit; then nothing is added.
    pub fn add_pack(&mut self, id: PackId, size: u64, blobs: &[PackBlob]) -> Result<(), WireError> {
        let fits =
            |blob: &PackBlob| blob.stored as usize <= MAX_SEALED && blob.raw as usize <= MAX_RAW;
        if size > MAX_PACK as u64 || !blobs.iter().all(fits) {
            return Err(WireError::Range("a length for the index"));
        }
        let number = self.packs.len() as u32;
        self.packs.push(PackRef { id, size });
        for blob in blobs {
            let located = Located {
                entry: 0,
                pack: number,
                kind: blob.kind,
                offset: blob.offset,
                stored: blob.stored,
                raw: blob.raw,
            };
            self.entries.push(entry_of(&blob.id.prefix(), &located));
        }
        Ok(())
    }

    /// Adds a pack and what another run knows of it: the first halves of ids and places.
    pub fn add_known(
        &mut self,
        pack: PackRef,
        blobs: impl IntoIterator<Item = ([u8; 16], Located)>,
    ) {
        let number = self.packs.len() as u32;
        self.packs.push(pack);
        for (prefix, located) in blobs {
            let located = Located {
                pack: number,
                ..located
            };
            self.entries.push(entry_of(&prefix, &located));
        }
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// The plaintext of the run.
    #[must_use]
    pub fn finish(mut self, sessions: &[SessionWrap]) -> Vec<u8> {
        self.entries.sort_unstable();
        let mut out = Vec::with_capacity(self.entries.len() * ENTRY + self.packs.len() * 40 + 4096);
        out.push(1);
        put_wraps(&mut out, sessions);
        out.put_varint(self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(&pack.id.0);
            out.put_varint(pack.size);
        }
        extra::put(&mut out, &Extra::new());
        out.put_varint(self.entries.len() as u64);
        self.entries
            .iter()
            .for_each(|entry| out.extend_from_slice(entry));
        out
    }
}

/// A run, ready for look-ups.
#[derive(Debug, Clone)]
pub struct IndexRun {
    /// The sessions whose blobs it knows.
    pub sessions: Vec<SessionWrap>,
    /// The packs it knows.
    pub packs: Vec<PackRef>,
    entries: Arc<[u8]>,
    start: usize,
    count: usize,
    // Where the entries begin whose first id byte(s) are at least n.
    fan: Vec<u32>,
    fan_bits: u32,
}

impl IndexRun {
    /// Reads the plaintext of a run.
    ///
    /// # Errors
    /// [`WireError`] when it is not one: wrong lengths, unsorted, pack numbers out of range.
    pub fn parse(plain: Vec<u8>) -> Result<Self, WireError> {
        let mut take = Take::new(&plain);
        let version = take.u8()?;
        if version != 1 {
            let found = u32::from(version);
            return Err(WireError::Version {
                what: WHAT,
                found,
                known: 1,
            });
        }
        let sessions = take_wraps(&mut take)?;
        let count = take.count(33)?;
        let mut packs = Vec::with_capacity(count);
        for _ in 0..count {
            let (id, size) = (PackId(take.array()?), take.varint()?);
            if size > MAX_PACK as u64 {
                return Err(WireError::Range("the size of a pack"));
            }
            packs.push(PackRef { id, size });
        }
        extra::take(&mut take, WHAT)?;
        let count = take.count(ENTRY)?;
        if count > MAX_ENTRIES || take.left() != count * ENTRY {
            return Err(WireError::Range("the number of entries of an index run"));
        }
        let start = plain.len() - take.left();
        check_entries(&plain[start..], packs.len())?;
        let fan_bits = (count / 8).max(1).ilog2().min(20);
        let fan = fan_out(&plain[start..], fan_bits);
        Ok(Self {
            sessions,
            packs,
            entries: plain.into(),
            start,
            count,
            fan,
            fan_bits,
        })
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn entry(&self, number: usize) -> &[u8; ENTRY] {
        let (entries, _) = self.entries[self.start..].as_chunks::<ENTRY>();
        &entries[number]
    }

    /// Where a chunk lies, if the run knows it.
    #[must_use]
    pub fn find(&self, id: &ChunkId) -> Option<Located> {
        self.find_all(&id.prefix()).next()
    }

    /// Every place of a chunk that the run knows, by the half of its id that it has: a run that was
    /// made of several may have more than one.
    pub fn find_all(&self, prefix: &[u8; 16]) -> impl Iterator<Item = Located> + use<'_> {
        let prefix = *prefix;
        let slot = slot(&prefix, self.fan_bits);
        let (mut low, mut high) = (self.fan[slot] as usize, self.fan[slot + 1] as usize);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle)[..16] < prefix[..] {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        (low..self.count).map_while(move |number| {
            let (id, located) = decode(number, self.entry(number)).ok()?;
            (id == prefix).then_some(located)
        })
    }

    /// All entries: the first 16 bytes of the id and where the chunk lies.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 16], Located)> + '_ {
        (0..self.count).filter_map(|number| decode(number, self.entry(number)).ok())
    }
}

/// The bytes of an entry; its lengths fit, or it was refused before.
fn entry_of(prefix: &[u8; 16], located: &Located) -> [u8; ENTRY] {
    let mut entry = [0u8; ENTRY];
    entry[..16].copy_from_slice(prefix);
    entry[16..20].copy_from_slice(&located.pack.to_le_bytes());
    entry[20..24].copy_from_slice(&located.offset.to_le_bytes());
    entry[24..28].copy_from_slice(&located.stored.to_le_bytes());
    entry[27] = located.kind as u8;
    entry[28..32].copy_from_slice(&located.raw.to_le_bytes());
    entry
}

fn decode(number: usize, entry: &[u8; ENTRY]) -> Result<([u8; 16], Located), WireError> {
    let mut take = Take::new(entry);
    let id = take.array()?;
    let pack = take.u32()?;
    let offset = take.u32()?;
    let stored = take.u32()?;
    let kind = BlobKind::from_number((stored >> 24) as u8)?;
    let raw = take.u32()?;
    if raw >> 24 != 0 {
        return Err(WireError::Range("the flags of an index entry"));
    }
    if raw as usize > MAX_RAW {
        return Err(WireError::Range("the raw length of a blob"));
    }
    let entry = number as u32;
    Ok((
        id,
        Located {
            entry,
            pack,
            kind,
            offset,
            stored: stored & 0x00FF_FFFF,
            raw,
        },
    ))
}

fn check_entries(entries: &[u8], packs: usize) -> Result<(), WireError> {
    let (entries, _) = entries.as_chunks::<ENTRY>();
    let mut last: Option<&[u8; ENTRY]> = None;
    for (number, entry) in entries.iter().enumerate() {
        let (_, located) = decode(number, entry)?;
        if located.pack as usize >= packs {
            return Err(WireError::Range("a pack number of an index run"));
        }
        if last.is_some_and(|last| last >= entry) {
            return Err(WireError::Range("the order of an index run"));
        }
        last = Some(entry);
    }
    Ok(())
}

/// The fan-out slot of an id: its first `bits` bits.
fn slot(id: &[u8; 16], bits: u32) -> usize {
    let [a, b, c, d, ..] = *id;
    u32::from_be_bytes([a, b, c, d])
        .checked_shr(32 - bits)
        .unwrap_or(0) as usize
}

fn fan_out(entries: &[u8], bits: u32) -> Vec<u32> {
    let (entries, _) = entries.as_chunks::<ENTRY>();
    let mut fan = vec![0u32; (1 << bits) + 1];
    for entry in entries {
        let mut id = [0u8; 16];
        id.copy_from_slice(&entry[..16]);
        fan[slot(&id, bits) + 1] += 1;
    }
    for at in 1..fan.len() {
        fan[at] += fan[at - 1];
    }
    fan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u64) -> ChunkId {
        ChunkId(*blake3::hash(&n.to_le_bytes()).as_bytes())
    }

    fn run(packs: u64, each: u64) -> IndexRun {
        let mut builder = RunBuilder::default();
        for pack in 0..packs {
            let blobs: Vec<_> = (0..each)
                .map(|n| PackBlob {
                    kind: BlobKind::Data,
                    id: id(pack * each + n),
                    offset: (n * 1000) as u32,
                    stored: 1000,
                    raw: 5000,
                })
                .collect();
            let id = PackId([pack as u8; 32]);
            builder.add_pack(id, each * 1000, &blobs).unwrap();
        }
        IndexRun::parse(builder.finish(&[])).unwrap()
    }

    /// Noise of the largest length, sealed: its sealed length is the largest that an entry holds.
    #[test]
    fn the_largest_blob_that_cannot_be_compressed_is_found_again() {
        use crate::seal::{BLOB_OVERHEAD, BlobCodec, BlobKey};
        use backup_core::{RepoId, SessionId};

        let mut raw = vec![0; MAX_RAW];
        blake3::Hasher::new().finalize_xof().fill(&mut raw);
        let key = BlobKey::of_session(RepoId([1; 16]), SessionId(2), &[3; 32]);
        let (kind, id) = (BlobKind::Data, id(1));
        let mut codec = BlobCodec::new(3).unwrap();
        let mut sealed = Vec::new();
        codec.seal(&key, kind, &id, &raw, &mut sealed).unwrap();
        assert_eq!(sealed.len(), MAX_RAW + BLOB_OVERHEAD);
        let mut pack = crate::pack::PackBuilder::new(0);
        pack.push(kind, id, raw.len(), &sealed);
        let ring = crate::seal::ObjectKeyring::new(RepoId([1; 16]), &[2; 32]);
        let pack = pack.finish(&ring, &[]).unwrap();
        let mut run = RunBuilder::default();
        run.add_pack(pack.id, pack.bytes.len() as u64, &pack.blobs)
            .unwrap();
        let run = IndexRun::parse(run.finish(&[])).unwrap();
        let found = run.find(&id).unwrap();
        let (from, length) = (found.offset as usize, found.stored as usize);
        let mut out = Vec::new();
        let sealed = &pack.bytes[from..from + length];
        codec
            .open(&key, kind, &id, found.raw as usize, sealed, &mut out)
            .unwrap();
        assert!(out == raw);
        raw.push(0);
        let larger = codec.seal(&key, kind, &id, &raw, &mut out);
        assert!(larger.is_err());
        let mut blob = pack.blobs[0];
        blob.stored += 1;
        let mut run = RunBuilder::default();
        assert!(run.add_pack(pack.id, 9, &[blob]).is_err() && run.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_chunk_is_found_and_no_other(packs in 0u64..5, each in 1u64..400) {
            let run = run(packs, each);
            for n in 0..packs * each {
                let found = run.find(&id(n)).unwrap();
                prop_assert_eq!(u64::from(found.pack), n / each);
                prop_assert_eq!(u64::from(found.offset), n % each * 1000);
                prop_assert_eq!((found.stored, found.raw), (1000, 5000));
            }
            for n in packs * each..packs * each + 500 {
                prop_assert_eq!(run.find(&id(n)), None);
            }
            prop_assert_eq!(run.iter().count() as u64, packs * each);
        }

        #[test]
        fn every_place_of_a_chunk_is_found(packs in 1u64..6, others in 0u64..50) {
            let mut builder = RunBuilder::default();
            for pack in 0..packs {
                let blob = |id| PackBlob { kind: BlobKind::Data, id, offset: 0, stored: 9, raw: 9 };
                let own = (1..=others).map(|n| blob(id(pack * 100 + n)));
                let blobs: Vec<_> = std::iter::once(blob(id(0))).chain(own).collect();
                builder.add_pack(PackId([pack as u8; 32]), 900, &blobs).unwrap();
            }
            let run = IndexRun::parse(builder.finish(&[])).unwrap();
            let found: Vec<u64> = run.find_all(&id(0).prefix()).map(|at| at.pack.into()).collect();
            prop_assert_eq!(found, (0..packs).collect::<Vec<_>>());
            prop_assert_eq!(run.find_all(&id(9999).prefix()).count(), 0);
        }

        #[test]
        fn damaged_runs_are_refused_or_harmless(at: usize, value: u8, cut: usize) {
            let mut builder = RunBuilder::default();
            let blob = |n| PackBlob { kind: BlobKind::Page, id: id(n), offset: 0, stored: 9, raw: 9 };
            builder.add_pack(PackId([1; 32]), 900, &[blob(1), blob(2), blob(3)]).unwrap();
            let mut plain = builder.finish(&[]);
            prop_assert!(IndexRun::parse(plain[..cut % plain.len()].to_vec()).is_err());
            let at = at % plain.len();
            plain[at] = value;
            if let Ok(run) = IndexRun::parse(plain) {
                run.iter().for_each(|(_, located)| assert!((located.pack as usize) < run.packs.len()));
                let _ = run.find(&id(1));
            }
        }
    }
}
