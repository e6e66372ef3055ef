//! The entries of a table: 32 bytes, as those of runs, but a pack is numbered through all runs of the table, and an
//! entry knows its place among those of its pack.

use backup_format::index::Located;
use backup_format::pack::MAX_BLOBS;
use backup_format::seal::BlobKind;

/// Bytes of an entry.
pub(super) const ENTRY: usize = 32;

/// An entry as it is stored: `first half of the id(16) ‖ pack u32 ‖ offset u32 ‖ sealed length u24 ‖ raw length u24 ‖
/// (slot · 4 + kind) u16`. Ids ascend.
pub(super) type Entry = [u8; ENTRY];

/// An entry, read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Read {
    pub(super) prefix: [u8; 16],
    pub(super) pack: u32,
    pub(super) offset: u32,
    pub(super) stored: u32,
    pub(super) raw: u32,
    pub(super) kind: BlobKind,
    pub(super) slot: u16,
}

/// The entry of a blob that is known to a run; `None` where a number does not fit.
pub(super) fn encode(prefix: &[u8; 16], at: &Located, pack: u32, slot: u32) -> Option<Entry> {
    let slot = u16::try_from(slot)
        .ok()
        .filter(|slot| usize::from(*slot) < MAX_BLOBS)?;
    let mut out = [0; ENTRY];
    out[..16].copy_from_slice(prefix);
    out[16..20].copy_from_slice(&pack.to_le_bytes());
    out[20..24].copy_from_slice(&at.offset.to_le_bytes());
    for (length, into) in [(at.stored, 24), (at.raw, 27)] {
        let [a, b, c, high] = length.to_le_bytes();
        if high != 0 {
            return None;
        }
        out[into..into + 3].copy_from_slice(&[a, b, c]);
    }
    out[30..].copy_from_slice(&(slot << 2 | at.kind as u16).to_le_bytes());
    Some(out)
}

/// The same entry with another number of its pack.
pub(super) fn with_pack(mut entry: Entry, pack: u32) -> Entry {
    entry[16..20].copy_from_slice(&pack.to_le_bytes());
    entry
}

/// Reads an entry; `None` for a kind that there is not, which no genuine one has.
pub(super) fn decode(entry: &Entry) -> Option<Read> {
    let [p0, p1, p2, p3] = [entry[16], entry[17], entry[18], entry[19]];
    let last = u16::from_le_bytes([entry[30], entry[31]]);
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&entry[..16]);
    Some(Read {
        prefix,
        pack: u32::from_le_bytes([p0, p1, p2, p3]),
        offset: u32::from_le_bytes([entry[20], entry[21], entry[22], entry[23]]),
        stored: u32::from_le_bytes([entry[24], entry[25], entry[26], 0]),
        raw: u32::from_le_bytes([entry[27], entry[28], entry[29], 0]),
        kind: BlobKind::from_number((last & 3) as u8).ok()?,
        slot: last >> 2,
    })
}

/// The number of the bucket of an id: its first `bits` bits.
pub(super) fn bucket(prefix: &[u8; 16], bits: u32) -> usize {
    let [a, b, c, d, ..] = *prefix;
    let first = u32::from_be_bytes([a, b, c, d]);
    first.checked_shr(32 - bits).unwrap_or(0) as usize
}

/// The byte of an id that tells it from others of its bucket.
pub(super) const fn print(prefix: &[u8; 16]) -> u8 {
    prefix[12]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn entries_round_trip(
            prefix: [u8; 16], offset: u32, stored in 0u32..1 << 24, raw in 0u32..1 << 24,
            kind in 0u8..3, pack: u32, slot in 0..MAX_BLOBS as u32,
        ) {
            let kind = BlobKind::from_number(kind).unwrap();
            let at = Located { entry: 0, pack: 0, kind, offset, stored, raw };
            let read = decode(&encode(&prefix, &at, pack, slot).unwrap()).unwrap();
            prop_assert_eq!((read.prefix, read.pack, read.offset), (prefix, pack, offset));
            prop_assert_eq!((read.stored, read.raw), (stored, raw));
            prop_assert_eq!((read.kind, u32::from(read.slot)), (kind, slot));
            prop_assert!(encode(&prefix, &at, pack, slot + MAX_BLOBS as u32).is_none());
        }
    }
}
