//! Refs: which slots of which packs a snapshot uses, so that space can be accounted and reclaimed,
//! and packs copied, without reading any manifest and without any data key.
//!
//! Plaintext of an object of kind `Refs`: `1 ‖ snapshot(16) ‖ varint packs { pack(32) ‖ varint slots
//! ‖ 0 (all of them) or 1 ‖ bitmap of ⌈slots/8⌉ bytes }`, packs ascending; slot n of a pack is bit
//! n mod 8 (least significant first) of byte n/8, slots in the order of the pack's header.

use backup_core::{PackId, SnapshotId};

use crate::pack::MAX_BLOBS;
use crate::wire::{Put, Take, WireError};

/// The slots used in one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub pack: PackId,
    /// How many slots it has.
    pub slots: u32,
    /// The slots that are used, ascending.
    pub used: Vec<u32>,
}

/// The slots that a snapshot uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refs {
    /// The snapshot.
    pub snapshot: SnapshotId,
    /// Its packs, ascending.
    pub packs: Vec<PackUse>,
}

impl Refs {
    /// The stored form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![1];
        out.extend_from_slice(&self.snapshot.to_bytes());
        out.put_varint(self.packs.len() as u64);
        for pack in &self.packs {
            out.extend_from_slice(&pack.pack.0);
            out.put_varint(u64::from(pack.slots));
            if pack.used.len() == pack.slots as usize {
                out.push(0);
                continue;
            }
            out.push(1);
            let start = out.len();
            out.resize(start + pack.slots.div_ceil(8) as usize, 0);
            for slot in pack.used.iter().filter(|slot| **slot < pack.slots) {
                out[start + (slot / 8) as usize] |= 1 << (slot % 8);
            }
        }
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(plain: &[u8]) -> Result<Self, WireError> {
        let mut take = Take::new(plain);
        let version = take.u8()?;
        if version != 1 {
            let found = u32::from(version);
            return Err(WireError::Version {
                what: "refs object",
                found,
                known: 1,
            });
        }
        let snapshot = SnapshotId::from_bytes(take.array()?);
        let count = take.count(34)?;
        let mut packs: Vec<PackUse> = Vec::with_capacity(count);
        for _ in 0..count {
            let pack = PackId(take.array()?);
            if packs.last().is_some_and(|last| last.pack >= pack) {
                return Err(WireError::Range("the order of packs"));
            }
            let slots = u32::try_from(take.varint()?).unwrap_or(u32::MAX);
            if slots as usize > MAX_BLOBS {
                return Err(WireError::Range("the slots of a pack"));
            }
            let used = match take.u8()? {
                0 => (0..slots).collect(),
                1 => {
                    let bitmap = take.slice(slots.div_ceil(8) as usize)?;
                    let is_set = |slot: &u32| bitmap[(slot / 8) as usize] >> (slot % 8) & 1 == 1;
                    (0..slots).filter(is_set).collect()
                }
                _ => return Err(WireError::Range("a kind of pack use")),
            };
            packs.push(PackUse { pack, slots, used });
        }
        take.end()?;
        Ok(Self { snapshot, packs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn refs_round_trip(uses in prop::collection::btree_map(any::<[u8; 32]>(), (1u32..200, any::<u64>()), 0..10)) {
            let packs = uses.into_iter().map(|(pack, (slots, seed))| PackUse {
                pack: PackId(pack),
                slots,
                used: (0..slots).filter(|slot| seed >> (slot % 64) & 1 == 1).collect(),
            }).collect();
            let refs = Refs { snapshot: SnapshotId(9), packs };
            prop_assert_eq!(Refs::decode(&refs.encode()).unwrap(), refs);
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = Refs::decode(&bytes);
        }
    }
}
