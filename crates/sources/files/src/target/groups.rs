//! First names by the number of their group, in bounded memory.
//!
//! Nobody says how many names a file has in a snapshot, so what is known of the first is kept until
//! the end of the restore, and there may be millions of such files. The latest are in memory. The
//! others lie in two files without names: their records, one behind the other, and a table by the
//! number of the group that says where the record begins.

use std::collections::HashMap;
use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use backup_core::{EntryKind, EntryPath, FileTime};
use serde::{Deserialize, Serialize};

use crate::handle::DirId;

/// So many are in memory, with about half a KiB each.
const IN_MEMORY: usize = 8192;

/// Places of the table at first. It doubles when half of them are taken.
const FIRST_SLOTS: u64 = 1 << 16;

/// Bytes of a place of the table: the number of a group, and where its record begins, counted from
/// one; zero if nobody has the place.
const SLOT: usize = 16;

/// Bytes of the table that are read at once when it grows.
const BLOCK: usize = 4096 * SLOT;

/// The first name of a group, and what its other names must agree with: two files that share a
/// number by accident, or that were caught in the middle of a change, must not become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct First {
    pub(super) path: EntryPath,
    pub(super) kind: EntryKind,
    pub(super) size: u64,
    pub(super) mtime: FileTime,
    pub(super) sha256: Option<[u8; 32]>,
    /// The file that has its content, or gets it.
    pub(super) id: DirId,
    /// Whether its content is, or was, written beside it.
    pub(super) beside: bool,
    /// Whether its content is, or was, written into a file that was there.
    pub(super) was_there: bool,
    pub(super) state: State,
}

/// What is known of the content of a first name, unless that is still on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// It is the snapshot's.
    Whole,
    /// It was there and was not read.
    Unread,
    /// It was there and has another: the next name that has its own is the first.
    Other,
    /// It could not be restored.
    Failed,
    /// A part of it is lost; the rest has this name, as it is stored.
    Partial(Vec<u8>),
}

/// What is stored of one.
type Stored = (
    Vec<u8>,
    EntryKind,
    u64,
    FileTime,
    Option<[u8; 32]>,
    DirId,
    (bool, bool),
    State,
);

impl First {
    fn encode(&self) -> io::Result<Vec<u8>> {
        let stored: Stored = (
            self.path.as_stored().to_vec(),
            self.kind.clone(),
            self.size,
            self.mtime,
            self.sha256,
            self.id,
            (self.beside, self.was_there),
            self.state.clone(),
        );
        postcard::to_stdvec(&stored).map_err(io::Error::other)
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let stored: Stored = postcard::from_bytes(bytes).map_err(io::Error::other)?;
        let (path, kind, size, mtime, sha256, id, (beside, was_there), state) = stored;
        Ok(Self {
            path: EntryPath::from_stored(&path).map_err(io::Error::other)?,
            kind,
            size,
            mtime,
            sha256,
            id,
            beside,
            was_there,
            state,
        })
    }
}

/// The first names of all groups.
#[derive(Debug)]
pub(super) struct Groups {
    /// Where the files are made.
    folder: PathBuf,
    room: usize,
    /// The latest, and whether they are not in the files as they are here.
    recent: HashMap<u64, (First, bool)>,
    files: Option<Files>,
}

impl Groups {
    /// None yet; what does not fit in memory goes into files in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_room(folder, IN_MEMORY)
    }

    fn with_room(folder: &Path, room: usize) -> Self {
        Self {
            folder: folder.to_owned(),
            room,
            recent: HashMap::new(),
            files: None,
        }
    }

    /// Sees that one more fits in memory; to be called before an entry is begun, so that nothing is
    /// when it fails.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub(super) fn make_room(&mut self) -> io::Result<()> {
        if self.recent.len() < self.room {
            return Ok(());
        }
        let files = match &mut self.files {
            Some(files) => files,
            None => self.files.insert(Files::new(&self.folder)?),
        };
        for (group, (first, is_new)) in &mut self.recent {
            if *is_new {
                files.put(*group, first)?;
                *is_new = false;
            }
        }
        self.recent.clear();
        Ok(())
    }

    /// The first name of a group. From here on it is in memory, until there is no room for it.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(super) fn get(&mut self, group: u64) -> io::Result<Option<&First>> {
        if !self.recent.contains_key(&group)
            && let Some(files) = &self.files
            && let Some(first) = files.get(group)?
        {
            self.recent.insert(group, (first, false));
        }
        Ok(self.recent.get(&group).map(|(first, _)| first))
    }

    /// The same if it is in memory.
    pub(super) fn recent(&self, group: u64) -> Option<&First> {
        self.recent.get(&group).map(|(first, _)| first)
    }

    /// Remembers the first name of a group, in the place of the one before.
    pub(super) fn put(&mut self, group: u64, first: First) {
        self.recent.insert(group, (first, true));
    }

    /// Changes the first name of a group.
    ///
    /// # Errors
    /// When the files cannot be read.
    pub(super) fn change(&mut self, group: u64, change: impl FnOnce(&mut First)) -> io::Result<()> {
        self.get(group)?;
        if let Some((first, is_new)) = self.recent.get_mut(&group) {
            let before = first.clone();
            change(first);
            *is_new |= *first != before;
        }
        Ok(())
    }
}

/// Those that are not in memory.
#[derive(Debug)]
struct Files {
    folder: PathBuf,
    records: File,
    /// Where the next record begins.
    end: u64,
    table: File,
    slots: u64,
    taken: u64,
    /// Nobody who chooses numbers can choose them so that all want one place.
    hasher: RandomState,
}

fn new_table(folder: &Path, slots: u64) -> io::Result<File> {
    let table = tempfile::tempfile_in(folder)?;
    table.set_len(slots * SLOT as u64)?;
    Ok(table)
}

fn numbers(slot: &[u8]) -> (u64, u64) {
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let (group, place) = slot.split_at(SLOT / 2);
    (number(group), number(place))
}

impl Files {
    fn new(folder: &Path) -> io::Result<Self> {
        Ok(Self {
            folder: folder.to_owned(),
            records: tempfile::tempfile_in(folder)?,
            end: 0,
            table: new_table(folder, FIRST_SLOTS)?,
            slots: FIRST_SLOTS,
            taken: 0,
            hasher: RandomState::new(),
        })
    }

    /// The place of the table that a group has or is to have, and where its record begins, counted
    /// from one; zero if there is none.
    fn find(&self, table: &File, slots: u64, group: u64) -> io::Result<(u64, u64)> {
        let mut slot = [0; SLOT];
        let mut number = self.hasher.hash_one(group) % slots;
        loop {
            let at = number * SLOT as u64;
            table.read_exact_at(&mut slot, at)?;
            let (found, place) = numbers(&slot);
            if place == 0 || found == group {
                return Ok((at, place));
            }
            number = (number + 1) % slots;
        }
    }

    fn get(&self, group: u64) -> io::Result<Option<First>> {
        let (_, place) = self.find(&self.table, self.slots, group)?;
        let Some(at) = place.checked_sub(1) else {
            return Ok(None);
        };
        let mut length = [0; 4];
        self.records.read_exact_at(&mut length, at)?;
        let mut bytes = vec![0; u32::from_le_bytes(length) as usize];
        self.records.read_exact_at(&mut bytes, at + 4)?;
        First::decode(&bytes).map(Some)
    }

    fn put(&mut self, group: u64, first: &First) -> io::Result<()> {
        if self.taken >= self.slots / 2 {
            self.grow()?;
        }
        let bytes = first.encode()?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let record = [&length.to_le_bytes(), &*bytes].concat();
        self.records.write_all_at(&record, self.end)?;
        let (at, before) = self.find(&self.table, self.slots, group)?;
        write_slot(&self.table, at, (group, self.end + 1))?;
        self.end += record.len() as u64;
        self.taken += u64::from(before == 0);
        Ok(())
    }

    fn grow(&mut self) -> io::Result<()> {
        let slots = self.slots * 2;
        let table = new_table(&self.folder, slots)?;
        let mut block = vec![0; BLOCK];
        self.table.rewind()?;
        for _ in 0..self.slots * SLOT as u64 / BLOCK as u64 {
            self.table.read_exact(&mut block)?;
            for slot in block.chunks_exact(SLOT) {
                let (group, place) = numbers(slot);
                if place != 0 {
                    let (at, _) = self.find(&table, slots, group)?;
                    write_slot(&table, at, (group, place))?;
                }
            }
        }
        (self.table, self.slots) = (table, slots);
        Ok(())
    }
}

fn write_slot(table: &File, at: u64, (group, place): (u64, u64)) -> io::Result<()> {
    let mut slot = [0; SLOT];
    let (first, second) = slot.split_at_mut(SLOT / 2);
    first.copy_from_slice(&group.to_le_bytes());
    second.copy_from_slice(&place.to_le_bytes());
    table.write_all_at(&slot, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(number: u64) -> First {
        First {
            path: EntryPath::from_slashed(format!("folder/{number}").as_bytes()).unwrap(),
            kind: EntryKind::File,
            size: number,
            mtime: FileTime {
                seconds: 1,
                nanos: 2,
            },
            sha256: Some([3; 32]),
            id: (4, number),
            beside: false,
            was_there: number % 2 == 1,
            state: State::Unread,
        }
    }

    /// As inodes are: one behind the other, and the same every time.
    const GROUPS: u64 = 100_000;

    #[test]
    fn a_hundred_thousand_are_found_again_and_few_are_in_memory() {
        let temp = tempfile::tempdir().unwrap();
        let mut groups = Groups::with_room(temp.path(), 100);
        for number in 0..GROUPS {
            groups.make_room().unwrap();
            assert_eq!(groups.get(number).unwrap(), None);
            groups.put(number, first(number));
            assert!(groups.recent.len() <= 100);
        }
        let changed = |number: u64| First {
            state: State::Partial(b"rest".to_vec()),
            id: (5, 5),
            ..first(number)
        };
        for number in (0..GROUPS).step_by(3) {
            groups.make_room().unwrap();
            let change = |first: &mut First| *first = changed(number);
            groups.change(number, change).unwrap();
        }
        let length = groups.files.as_ref().unwrap().end;
        for number in 0..GROUPS {
            groups.make_room().unwrap();
            let wanted = match number % 3 {
                0 => changed(number),
                _ => first(number),
            };
            assert_eq!(groups.get(number).unwrap(), Some(&wanted));
            assert!(groups.recent.len() <= 100);
        }
        assert_eq!(groups.get(GROUPS).unwrap(), None);
        // What is only read is not written again.
        let files = groups.files.as_ref().unwrap();
        assert!(files.end - length < 100 * 200, "{}", files.end - length);
        assert!(files.slots > FIRST_SLOTS && files.taken == GROUPS);
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
