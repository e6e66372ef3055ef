//! Refs: which slots of which packs a snapshot uses, so that space can be accounted and reclaimed,
//! and packs copied, without reading any manifest and without any data key.
//!
//! Plaintext of an object of kind `Refs`: `1 ‖ snapshot(16) ‖ varint packs { pack(32) ‖ varint slots
//! ‖ 0 (all of them) or 1 ‖ bitmap of ⌈slots/8⌉ bytes } ‖ extra`, packs ascending; slot n of a pack is bit
//! n mod 8 (least significant first) of byte n/8, slots in the order of the pack's header.

use backup_core::{PackId, SnapshotId};

use crate::extra::{self, Extra};
use crate::pack::MAX_BLOBS;
use crate::wire::{Put, Take, WireError};

const WHAT: &str = "refs object";

/// The slots used in one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackUse {
    /// The pack.
    pub pack: PackId,
    /// How many slots it has.
    pub slots: u32,
    /// Which are used; `None`: all. It stays a bitmap, since a list would be many times as long.
    bitmap: Option<Vec<u8>>,
}

impl PackUse {
    /// A use of these slots of a pack; those that it does not have are passed over.
    #[must_use]
    pub fn new(pack: PackId, slots: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let mut bitmap = vec![0; slots.div_ceil(8) as usize];
        for slot in used.into_iter().filter(|slot| *slot < slots) {
            if let Some(byte) = bitmap.get_mut((slot / 8) as usize) {
                *byte |= 1 << (slot % 8);
            }
        }
        Self::of_bitmap(pack, slots, bitmap)
    }

    fn of_bitmap(pack: PackId, slots: u32, bitmap: Vec<u8>) -> Self {
        let used: u32 = bitmap.iter().map(|byte| byte.count_ones()).sum();
        Self {
            pack,
            slots,
            bitmap: (used != slots).then_some(bitmap),
        }
    }

    /// Takes the slots that another use of the same pack has into this one. Where the two do not agree
    /// on how many there are, all of the greater number count as used.
    pub fn absorb(&mut self, other: &Self) {
        if self.slots != other.slots {
            (self.slots, self.bitmap) = (self.slots.max(other.slots), None);
            return;
        }
        let (Some(mine), Some(more)) = (&mut self.bitmap, &other.bitmap) else {
            self.bitmap = None;
            return;
        };
        for (byte, bits) in mine.iter_mut().zip(more) {
            *byte |= bits;
        }
        let used: u32 = mine.iter().map(|byte| byte.count_ones()).sum();
        if used == self.slots {
            self.bitmap = None;
        }
    }

    /// Whether all slots are used.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.bitmap.is_none()
    }

    /// Whether a slot is used.
    #[must_use]
    pub fn has(&self, slot: u32) -> bool {
        slot < self.slots
            && self.bitmap.as_ref().is_none_or(|bitmap| {
                let byte = bitmap.get((slot / 8) as usize);
                byte.is_some_and(|byte| byte >> (slot % 8) & 1 == 1)
            })
    }

    /// The slots that are used, ascending.
    pub fn used(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.slots).filter(|slot| self.has(*slot))
    }
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
            match &pack.bitmap {
                None => out.push(0),
                Some(bitmap) => {
                    out.push(1);
                    out.extend_from_slice(bitmap);
                }
            }
        }
        extra::put(&mut out, &Extra::new());
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
                what: WHAT,
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
            packs.push(match take.u8()? {
                0 => PackUse {
                    pack,
                    slots,
                    bitmap: None,
                },
                1 => {
                    let bitmap = take.slice(slots.div_ceil(8) as usize)?;
                    let in_last = (slots + 7) % 8 + 1;
                    let last = bitmap.last().copied().map_or(0, u32::from);
                    if last >> in_last != 0 {
                        return Err(WireError::Range("a bit behind the slots of a pack"));
                    }
                    PackUse::of_bitmap(pack, slots, bitmap.to_vec())
                }
                _ => return Err(WireError::Range("a kind of pack use")),
            });
        }
        extra::take(&mut take, WHAT)?;
        take.end()?;
        Ok(Self { snapshot, packs })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_use_of_all_slots_takes_no_room() {
        let mut plain = vec![1];
        plain.extend_from_slice(&[7; 16]);
        plain.put_varint(1000);
        for number in 0..1000u16 {
            plain.extend_from_slice(&[0; 30]);
            plain.extend_from_slice(&number.to_be_bytes());
            plain.put_varint(MAX_BLOBS as u64);
            plain.push(0);
        }
        plain.push(0);
        let refs = Refs::decode(&plain).unwrap();
        let bitmaps = refs.packs.iter().flat_map(|pack| &pack.bitmap);
        let held: usize = bitmaps.map(Vec::capacity).sum();
        assert!(held + refs.packs.capacity() * size_of::<PackUse>() <= 4 * plain.len());
        assert_eq!(refs.packs[3].used().count(), MAX_BLOBS);
    }

    #[test]
    fn bits_behind_the_last_slot_are_refused() {
        let refs = |slots, used| Refs {
            snapshot: SnapshotId(9),
            packs: vec![PackUse::new(PackId([1; 32]), slots, used)],
        };
        for slots in 1..=16 {
            let mut plain = refs(slots, []).encode();
            assert!(Refs::decode(&plain).is_ok());
            let last = plain.len() - 2;
            plain[last] |= 0x80;
            assert_eq!(Refs::decode(&plain).is_ok(), slots % 8 == 0, "{slots}");
        }
    }

    proptest! {
        #[test]
        fn refs_round_trip(uses in prop::collection::btree_map(any::<[u8; 32]>(), (1u32..200, any::<u64>()), 0..10)) {
            let used = |slots: u32, seed: u64| (0..slots).filter(move |slot| seed >> (slot % 64) & 1 == 1);
            let packs: Vec<_> = uses.iter().map(|(pack, (slots, seed))| {
                PackUse::new(PackId(*pack), *slots, used(*slots, *seed))
            }).collect();
            for (pack, (slots, seed)) in packs.iter().zip(uses.values()) {
                prop_assert!(pack.used().eq(used(*slots, *seed)));
            }
            let refs = Refs { snapshot: SnapshotId(9), packs };
            prop_assert_eq!(Refs::decode(&refs.encode()).unwrap(), refs);
        }

        #[test]
        fn uses_add_up(slots in 1u32..40, more in 0u32..3, one: u64, two: u64) {
            let pack = PackId([1; 32]);
            let of = |slots: u32, bits: u64| {
                PackUse::new(pack, slots, (0..slots).filter(|slot| bits >> slot & 1 == 1))
            };
            let mut both = of(slots, one);
            both.absorb(&of(slots + more, two));
            let has = |slot: &u32| more > 0 || (one | two) >> slot & 1 == 1;
            let wanted = (0..slots + more).filter(has);
            prop_assert!(both.used().eq(wanted));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes: Vec<u8>) {
            let _ = Refs::decode(&bytes);
        }
    }
}
