//! Entries of a table that were read lately, as they were opened.
//!
//! Who uses a chunk that is there mostly asks for it twice, to find it and to mark it, and snapshots share what they
//! use. Ids are digests, so what is asked for next lies anywhere in the file: single entries are kept and not pages.
//!
//! The number of an entry says its place; what was there before goes. Nobody waits here: where another thread is at
//! the same part, an entry is read from the file.

use std::sync::Mutex;

use super::entry::{ENTRY, Entry};

/// Parts with a lock each.
const PARTS: usize = 16;
/// There is a place for each so many entries of the table.
const ENTRIES_OF_PLACE: usize = 256;
/// But so many at least, which is 36 KiB, and so many at most, which is 4.5 MiB.
const FEWEST: usize = 1 << 10;
const MOST: usize = 1 << 17;
/// A place: the number of its entry and one (`u32`; 0 for none), and the entry.
const PLACE: usize = 4 + ENTRY;

/// See the module.
#[derive(Debug)]
pub(super) struct Recent {
    parts: Vec<Mutex<Vec<[u8; PLACE]>>>,
    /// Places of each part, a power of two.
    in_part: usize,
}

impl Recent {
    /// Nothing so far, of a table with so many entries.
    pub(super) fn new(entries: u32) -> Self {
        let wanted = (entries as usize / ENTRIES_OF_PLACE).clamp(FEWEST, MOST);
        let in_part = 1 << (wanted / PARTS).ilog2();
        let part = || Mutex::new(vec![[0; PLACE]; in_part]);
        Self {
            parts: std::iter::repeat_with(part).take(PARTS).collect(),
            in_part,
        }
    }

    const fn place(&self, number: u32) -> (usize, usize) {
        let number = number as usize;
        (number % PARTS, (number / PARTS) & (self.in_part - 1))
    }

    /// The entry of a number, if it is at hand.
    pub(super) fn get(&self, number: u32) -> Option<Entry> {
        let (part, at) = self.place(number);
        let places = self.parts.get(part)?.try_lock().ok()?;
        let (name, entry) = places.get(at)?.split_first_chunk::<4>()?;
        let is_it = u32::from_le_bytes(*name) == number.checked_add(1)?;
        is_it.then(|| entry.first_chunk().copied())?
    }

    /// Keeps an entry at hand.
    pub(super) fn put(&self, number: u32, entry: &Entry) {
        let (part, at) = self.place(number);
        let places = self.parts.get(part).and_then(|part| part.try_lock().ok());
        if let Some(mut places) = places
            && let Some(place) = places.get_mut(at)
            && let Some(name) = number.checked_add(1)
        {
            place[..4].copy_from_slice(&name.to_le_bytes());
            place[4..].copy_from_slice(entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Numbers that share a place, and others.
        #[test]
        fn what_is_at_hand_is_the_entry_of_its_number(
            steps in proptest::collection::vec((0u32..4, 0u32..40, any::<u8>(), any::<bool>()), 1..200),
        ) {
            let recent = Recent::new(9);
            let mut kept: HashMap<u32, Entry> = HashMap::new();
            for (round, low, byte, is_put) in steps {
                let number = round * FEWEST as u32 + low;
                if is_put {
                    recent.put(number, &[byte; ENTRY]);
                    kept.insert(number, [byte; ENTRY]);
                    prop_assert_eq!(recent.get(number), Some([byte; ENTRY]));
                } else if let Some(found) = recent.get(number) {
                    prop_assert_eq!(Some(&found), kept.get(&number));
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_whatever_the_size_of_the_table() {
        let places = |entries: u32| PARTS * Recent::new(entries).in_part;
        assert_eq!([0, 9, 1 << 18].map(places), [FEWEST; 3]);
        for entries in [1 << 20, 3 << 20, 30 << 20] {
            let part = entries as usize / ENTRIES_OF_PLACE;
            assert!((part / 2..=part).contains(&places(entries)), "{entries}");
        }
        assert_eq!([1 << 26, u32::MAX].map(places), [MOST; 2]);
    }

    /// As if the table had a number that it cannot have.
    #[test]
    fn the_last_number_of_all_is_no_place_without_an_entry() {
        let recent = Recent::new(0);
        recent.put(u32::MAX, &[7; ENTRY]);
        assert_eq!(recent.get(u32::MAX), None);
    }
}
