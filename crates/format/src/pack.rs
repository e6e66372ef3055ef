//! Packs: many sealed blobs in one object, described by a sealed header at the end.
//!
//! `blob ‖ blob ‖ … ‖ header ‖ footer`. The header is an object of kind `PackHeader` (see
//! [`crate::seal`]); its plaintext is `1 ‖ varint sessions { session(16) ‖ bytes wrap } ‖ varint
//! blobs { kind(1) ‖ id(32) ‖ varint stored ‖ varint raw } ‖ extra`. Blobs lie without gaps from offset 0
//! in the order of the header. The footer is 32 bytes: `"BKSYPACK" ‖ version u16 = 1 ‖ 0 u16 ‖
//! header length u32 ‖ blobs u32 ‖ crc32 (IEEE) of the sealed header u32 ‖ 8 zero bytes`, numbers
//! little-endian. The name of a pack is the SHA-256 of all of it, so a tier can be checked with
//! `sha256sum` and no key; a lost index is rebuilt from the ends of packs with the index key alone.

use backup_core::{ChunkId, PackId, SessionId};
use sha2::{Digest, Sha256};

use crate::extra::{self, Extra};
use crate::seal::{BlobKind, MAX_RAW, MAX_SEALED, ObjectKeyring, ObjectKind, SealError};
use crate::wire::{Put, Take, WireError};

/// Length of the footer in bytes.
pub const FOOTER: usize = 32;
/// Most blobs in one pack.
pub const MAX_BLOBS: usize = 16_384;
/// Largest pack in bytes.
pub const MAX_PACK: usize = 512 << 20;
/// Largest wrapped session key in bytes.
pub const MAX_WRAP: usize = 64 << 10;

const MAGIC: &[u8; 8] = b"BKSYPACK";

/// A session's data key, wrapped to the repository's recipients: with it, what holds blobs of the
/// session can be read without any other object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionWrap {
    /// The session.
    pub session: SessionId,
    /// Its wrapped data key, a binary age file.
    pub wrap: Vec<u8>,
}

pub(crate) fn put_wraps(out: &mut Vec<u8>, wraps: &[SessionWrap]) {
    out.put_varint(wraps.len() as u64);
    for wrap in wraps {
        out.extend_from_slice(&wrap.session.to_bytes());
        out.put_bytes(&wrap.wrap);
    }
}

pub(crate) fn take_wraps(take: &mut Take<'_>) -> Result<Vec<SessionWrap>, WireError> {
    let count = take.count(17)?;
    let mut out = Vec::with_capacity(count);
    for _ in 0..count {
        let session = SessionId::from_bytes(take.array()?);
        let wrap = take.bytes()?;
        if wrap.len() > MAX_WRAP {
            return Err(WireError::Range("a wrapped session key"));
        }
        out.push(SessionWrap {
            session,
            wrap: wrap.to_vec(),
        });
    }
    Ok(out)
}

/// One blob of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackBlob {
    /// What it holds.
    pub kind: BlobKind,
    /// Its id.
    pub id: ChunkId,
    /// Where it begins in the pack.
    pub offset: u32,
    /// Its sealed length.
    pub stored: u32,
    /// The length of its plain content.
    pub raw: u32,
}

/// What the end of a pack says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackHeader {
    /// The sessions whose blobs are in the pack.
    pub sessions: Vec<SessionWrap>,
    /// The blobs in the order of their offsets.
    pub blobs: Vec<PackBlob>,
}

/// A pack under construction.
#[derive(Debug)]
pub struct PackBuilder {
    body: Vec<u8>,
    blobs: Vec<PackBlob>,
}

/// A finished pack.
#[derive(Debug)]
pub struct Pack {
    /// Its name: SHA-256 of its bytes.
    pub id: PackId,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// What is in it.
    pub blobs: Vec<PackBlob>,
}

impl PackBuilder {
    /// An empty pack with room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            body: Vec::with_capacity(capacity),
            blobs: Vec::new(),
        }
    }

    /// An empty pack in the room of one that is stored, whatever is in it.
    #[must_use]
    pub fn in_room_of(mut stored: Vec<u8>, capacity: usize) -> Self {
        stored.clear();
        stored.reserve(capacity);
        Self {
            body: stored,
            blobs: Vec::new(),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.body.len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty()
    }

    /// Whether it can take no further blob of that sealed length without passing `target`.
    #[must_use]
    pub fn is_full_for(&self, stored: usize, target: usize) -> bool {
        !self.is_empty()
            && (self.body.len() + stored > target.min(MAX_PACK) || self.blobs.len() >= MAX_BLOBS)
    }

    /// Adds a sealed blob.
    pub fn push(&mut self, kind: BlobKind, id: ChunkId, raw: usize, sealed: &[u8]) {
        self.blobs.push(PackBlob {
            kind,
            id,
            // Packs are below 4 GiB and blobs below 16 MiB.
            offset: self.body.len() as u32,
            stored: sealed.len() as u32,
            raw: raw as u32,
        });
        self.body.extend_from_slice(sealed);
    }

    /// Ends the pack: header, footer, name.
    ///
    /// # Errors
    /// [`SealError`] when the header cannot be sealed.
    pub fn finish(
        mut self,
        ring: &ObjectKeyring,
        sessions: &[SessionWrap],
    ) -> Result<Pack, SealError> {
        let mut plain = vec![1];
        put_wraps(&mut plain, sessions);
        plain.put_varint(self.blobs.len() as u64);
        for blob in &self.blobs {
            plain.push(blob.kind as u8);
            plain.extend_from_slice(blob.id.as_bytes());
            plain.put_varint(u64::from(blob.stored));
            plain.put_varint(u64::from(blob.raw));
        }
        extra::put(&mut plain, &Extra::new());
        let header = ring.seal(ObjectKind::PackHeader, &plain)?;
        self.body.reserve_exact(header.len() + FOOTER);
        self.body.extend_from_slice(&header);
        self.body.extend_from_slice(MAGIC);
        self.body.extend_from_slice(&1u16.to_le_bytes());
        self.body.extend_from_slice(&0u16.to_le_bytes());
        self.body
            .extend_from_slice(&(header.len() as u32).to_le_bytes());
        self.body
            .extend_from_slice(&(self.blobs.len() as u32).to_le_bytes());
        self.body.extend_from_slice(&crc32(&header).to_le_bytes());
        self.body.extend_from_slice(&[0; 8]);
        let id = PackId(Sha256::digest(&self.body).into());
        Ok(Pack {
            id,
            bytes: self.body,
            blobs: self.blobs,
        })
    }
}

/// What a footer says.
struct Footer {
    header: usize,
    blobs: usize,
    crc: u32,
}

/// Reads a footer (the last [`FOOTER`] bytes): the length of the sealed header before it.
///
/// # Errors
/// [`WireError`] when it is not the footer of a pack.
pub fn header_length(footer: &[u8]) -> Result<usize, WireError> {
    read_footer(footer).map(|footer| footer.header)
}

/// Nothing in a footer is passed over, so that what is not used yet can come to mean something.
fn read_footer(footer: &[u8]) -> Result<Footer, WireError> {
    let mut take = Take::new(footer);
    if take.slice(8)? != MAGIC {
        return Err(WireError::Magic("pack: its end is missing or damaged"));
    }
    let version = take.u16()?;
    if version != 1 {
        let found = u32::from(version);
        return Err(WireError::Version {
            what: "pack",
            found,
            known: 1,
        });
    }
    let zero = take.u16()?;
    let footer = Footer {
        header: take.u32()? as usize,
        blobs: take.u32()? as usize,
        crc: take.u32()?,
    };
    if zero != 0 || take.u64()? != 0 {
        return Err(WireError::Range("a zero of a pack's footer"));
    }
    take.end()?;
    if footer.header > ObjectKind::PackHeader.max_sealed() {
        return Err(WireError::Range("a pack header's length"));
    }
    Ok(footer)
}

/// Reads the end of a pack: sealed header and footer, and nothing before.
///
/// # Errors
/// [`SealError`] when it is not the end of a pack, or does not authenticate.
pub fn read_tail(ring: &ObjectKeyring, tail: &[u8]) -> Result<PackHeader, SealError> {
    let split = tail.len().checked_sub(FOOTER).ok_or(WireError::Short)?;
    let (header, footer) = tail.split_at(split);
    let footer = read_footer(footer)?;
    let start = header.len().checked_sub(footer.header);
    let header = start.and_then(|start| header.get(start..));
    let header = header.ok_or(WireError::Short)?;
    if crc32(header) != footer.crc {
        return Err(WireError::Range("the check sum of a pack's header").into());
    }
    let plain = ring.open(ObjectKind::PackHeader, header)?;
    let mut take = Take::new(&plain);
    if take.u8()? != 1 {
        return Err(WireError::Range("a pack header's version").into());
    }
    let sessions = take_wraps(&mut take)?;
    let count = take.count(35)?;
    if count > MAX_BLOBS || count != footer.blobs {
        return Err(WireError::Range("the number of blobs in a pack").into());
    }
    let mut blobs = Vec::with_capacity(count);
    let mut offset = 0u32;
    for _ in 0..count {
        let kind = BlobKind::from_number(take.u8()?)?;
        let id = ChunkId(take.array()?);
        let stored = u32::try_from(take.varint()?).map_err(|_| WireError::Range("a length"))?;
        let raw = u32::try_from(take.varint()?).map_err(|_| WireError::Range("a length"))?;
        if raw as usize > MAX_RAW || stored as usize > MAX_SEALED {
            return Err(WireError::Range("the length of a blob").into());
        }
        blobs.push(PackBlob {
            kind,
            id,
            offset,
            stored,
            raw,
        });
        // Both are below 2^30.
        offset += stored;
        if offset as usize > MAX_PACK {
            return Err(WireError::Range("an offset in a pack").into());
        }
    }
    extra::take(&mut take, "pack")?;
    take.end()?;
    Ok(PackHeader { sessions, blobs })
}

/// CRC-32 (IEEE 802.3, reflected, as in zip and gzip) of the sealed header: tells a torn end from a
/// wrong key. Headers are small, so a bitwise loop serves.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use backup_core::RepoId;
    use proptest::prelude::*;

    use super::*;

    fn ring() -> ObjectKeyring {
        ObjectKeyring::new(RepoId([1; 16]), &[2; 32])
    }

    fn pack(count: u8) -> Pack {
        let mut builder = PackBuilder::new(1000);
        for n in 0..count {
            let kind = if n % 2 == 0 {
                BlobKind::Data
            } else {
                BlobKind::Page
            };
            builder.push(kind, ChunkId([n; 32]), 1000, &vec![n; 100 + usize::from(n)]);
        }
        let wrap = SessionWrap {
            session: SessionId(3),
            wrap: vec![9; 200],
        };
        builder.finish(&ring(), &[wrap]).unwrap()
    }

    #[test]
    fn the_end_of_a_pack_tells_what_is_in_it() {
        let pack = pack(20);
        assert_eq!(pack.id.0, <[u8; 32]>::from(Sha256::digest(&pack.bytes)));
        let header = read_tail(&ring(), &pack.bytes).unwrap();
        assert_eq!(header.blobs, pack.blobs);
        assert_eq!(header.sessions[0].session, SessionId(3));
        let blob = header.blobs[7];
        let at = blob.offset as usize;
        assert_eq!(&pack.bytes[at..at + blob.stored as usize], &[7u8; 107]);
    }

    #[test]
    fn the_checksum_is_that_of_zip() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn every_bit_of_a_footer_counts() {
        let pack = pack(5);
        assert!(read_tail(&ring(), &pack.bytes).is_ok());
        for bit in 0..FOOTER * 8 {
            let mut bytes = pack.bytes.clone();
            let at = bytes.len() - FOOTER + bit / 8;
            bytes[at] ^= 1 << (bit % 8);
            assert!(read_tail(&ring(), &bytes).is_err(), "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn a_damaged_end_is_found_and_never_panics(at in 0usize..2000, bit in 0u8..8, cut in 0usize..2000) {
            let pack = pack(5);
            let header = header_length(&pack.bytes[pack.bytes.len() - FOOTER..]).unwrap();
            let tail = &pack.bytes[pack.bytes.len() - FOOTER - header..];
            let mut bytes = tail.to_vec();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(read_tail(&ring(), &bytes).is_err(), "byte {at} of {}", bytes.len());
            prop_assert!(read_tail(&ring(), &tail[..cut % tail.len()]).is_err());
        }

        #[test]
        fn whatever_a_header_holds_it_is_read_or_refused(
            noise in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index
        ) {
            // Whoever may write can seal any bytes as a header.
            let pack = pack(5);
            let header = header_length(&pack.bytes[pack.bytes.len() - FOOTER..]).unwrap();
            let sealed = &pack.bytes[pack.bytes.len() - FOOTER - header..pack.bytes.len() - FOOTER];
            let mut plain = ring().open(ObjectKind::PackHeader, sealed).unwrap();
            let at = at.index(plain.len());
            plain.iter_mut().skip(at).zip(&noise).for_each(|(byte, noise)| *byte = *noise);
            for plain in [plain, [&[1], &noise[..]].concat(), noise] {
                let mut tail = ring().seal(ObjectKind::PackHeader, &plain).unwrap();
                let (length, crc) = (tail.len() as u32, crc32(&tail));
                tail.extend_from_slice(MAGIC);
                tail.extend_from_slice(&[1, 0, 0, 0]);
                for number in [length, 5, crc] {
                    tail.extend_from_slice(&number.to_le_bytes());
                }
                tail.extend_from_slice(&[0; 8]);
                if let Ok(read) = read_tail(&ring(), &tail) {
                    prop_assert!(read.blobs.iter().all(|blob| blob.raw as usize <= MAX_RAW));
                    prop_assert!(read.blobs.is_sorted_by_key(|blob| blob.offset));
                }
            }
        }
    }
}
