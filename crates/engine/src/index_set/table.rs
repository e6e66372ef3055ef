//! Many index runs as one sorted table: its entries lie in a file of the cache, and in memory there is what tells
//! where to read.
//!
//! In memory are one byte of each id (its *print*, in the order of the entries), for each bucket of 8 to 16 ids where
//! it begins, and the packs. A chunk that is not there is told from that alone fifteen times out of sixteen or more;
//! one that is costs one read of a page of eight entries, which is authenticated each time, or none where it was read
//! lately ([`Recent`]).
//!
//! The file is `pages of entries ‖ prints ‖ fan ‖ packs ‖ head ‖ length of the head u64 ‖ BKSYITAB`. All but the end is
//! sealed: the pages under a key of the file, and the head, which has that key, under the index key. So whoever
//! changes the file without the keys of the repository makes no chunk known that is not; see
//! [0004](../../../../docs/design/0004-index.md).
//!
//! A page that cannot be read or does not authenticate makes the table *broken*: from then on it may deny what it has.
//! Who builds on what an index does not have asks [`super::IndexSet::check`] before it counts.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use backup_core::{ObjectKey, PackId};
use backup_format::index::{Located, PackRef};
use backup_format::pack::SessionWrap;
use backup_format::seal::BlobKind;

use super::cipher::{PageCipher, Section, TAG};
use super::entry::{self, ENTRY, Entry};
use super::recent::Recent;

/// Entries of a page.
pub(super) const IN_PAGE: usize = 8;
const PAGE: usize = IN_PAGE * ENTRY;
pub(super) const SEALED_PAGE: usize = PAGE + TAG;
/// Pages that are read at once by whoever reads all.
const AT_ONCE: usize = 256;

/// A pack of a table: one that a run names. A pack that several runs name is there several times.
#[derive(Debug, Clone, Copy)]
pub(super) struct TablePack {
    pub(super) id: PackId,
    pub(super) size: u32,
    /// The number of its first entry, counted pack by pack.
    pub(super) start: u32,
    /// Of one of its blobs; none for a pack without any.
    pub(super) kind: Option<BlobKind>,
}

/// A run that a table was made of.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) key: ObjectKey,
    /// Its size on the tier when it was read, in bytes.
    pub(crate) size: u64,
    /// Its packs in the table.
    pub(crate) first: u32,
    pub(crate) packs: u32,
    /// The sessions that it knows.
    pub(crate) sessions: Vec<SessionWrap>,
}

#[derive(Debug)]
pub(super) enum Store {
    File {
        file: File,
        /// None for a file without a name.
        path: Option<PathBuf>,
        cipher: PageCipher,
        recent: Recent,
    },
    /// Where there is no cache, and not much.
    Memory(Vec<Entry>),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    pub(super) store: Store,
    pub(super) count: u32,
    pub(super) bits: u32,
    /// Where the entries of each bucket begin, and the end.
    pub(super) fan: Vec<u32>,
    pub(super) prints: Vec<u8>,
    pub(super) packs: Vec<TablePack>,
    pub(super) members: Vec<Member>,
    pub(super) broken: AtomicBool,
}

impl Table {
    /// How many entries there are.
    pub(super) const fn len(&self) -> usize {
        self.count as usize
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn pack(&self, number: u32) -> Option<PackRef> {
        let pack = self.packs.get(number as usize)?;
        let (id, size) = (pack.id, u64::from(pack.size));
        Some(PackRef { id, size })
    }

    /// The numbers of a pack's entries, by their offsets.
    pub(super) fn entries_of(&self, pack: u32) -> std::ops::Range<u32> {
        let start = |number: u32| self.packs.get(number as usize).map(|pack| pack.start);
        let from = start(pack).unwrap_or(self.count);
        from..start(pack.saturating_add(1)).unwrap_or(self.count)
    }

    /// How many entries the packs of a member have.
    pub(crate) fn entries_in(&self, member: &Member) -> u32 {
        let start = |pack: u32| self.entries_of(pack).start;
        start(member.first + member.packs) - start(member.first)
    }

    /// The file, if it has one.
    pub(crate) fn path(&self) -> Option<&Path> {
        match &self.store {
            Store::File { path, .. } => path.as_deref(),
            Store::Memory(_) => None,
        }
    }

    /// Whether some of it could not be read.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Reads all of it, so that what is wrong is known; says whether it is whole.
    pub(crate) fn prove(&self) -> bool {
        self.iter().for_each(drop);
        !self.is_broken()
    }

    /// Every place of a chunk.
    pub(super) fn find_all(&self, prefix: &[u8; 16]) -> Places<'_> {
        let bucket = entry::bucket(prefix, self.bits);
        let bounds = self.fan.get(bucket).zip(self.fan.get(bucket + 1));
        let (at, end) = bounds.map_or((0, 0), |(from, to)| (*from, *to));
        Places {
            table: self,
            prefix: *prefix,
            at,
            end,
        }
    }

    /// All entries in the order of their ids; ends at what cannot be read.
    pub(super) fn iter(&self) -> impl Iterator<Item = ([u8; 16], Located)> + '_ {
        let entries = self.raw_entries();
        entries.filter_map(|entry| self.located(&entry))
    }

    /// The same as they are stored.
    pub(super) fn raw_entries(&self) -> Entries<'_> {
        Entries {
            table: self,
            next: 0,
            plain: Vec::new(),
            sealed: Vec::new(),
        }
    }

    fn located(&self, entry: &Entry) -> Option<([u8; 16], Located)> {
        let read = entry::decode(entry)?;
        let start = self.packs.get(read.pack as usize)?.start;
        let located = Located {
            entry: start.checked_add(u32::from(read.slot))?,
            pack: read.pack,
            kind: read.kind,
            offset: read.offset,
            stored: read.stored,
            raw: read.raw,
        };
        Some((read.prefix, located))
    }

    fn entry(&self, number: u32) -> Option<Entry> {
        match &self.store {
            Store::Memory(entries) => entries.get(number as usize).copied(),
            Store::File {
                file,
                cipher,
                recent,
                ..
            } => {
                if let Some(entry) = recent.get(number) {
                    return Some(entry);
                }
                let Some(entry) = read_entry(file, cipher, number as usize) else {
                    self.broken.store(true, Ordering::Relaxed);
                    return None;
                };
                recent.put(number, &entry);
                Some(entry)
            }
        }
    }
}

fn read_entry(file: &File, cipher: &PageCipher, at: usize) -> Option<Entry> {
    let page = at / IN_PAGE;
    let (mut sealed, mut plain) = ([0; SEALED_PAGE], [0; PAGE]);
    file.read_exact_at(&mut sealed, (page * SEALED_PAGE) as u64)
        .ok()?;
    cipher.open(Section::Entries, page as u64, &sealed, &mut plain)?;
    plain.as_chunks::<ENTRY>().0.get(at % IN_PAGE).copied()
}

/// The places of one chunk.
#[derive(Debug)]
pub(super) struct Places<'a> {
    table: &'a Table,
    prefix: [u8; 16],
    at: u32,
    end: u32,
}

impl Iterator for Places<'_> {
    type Item = Located;

    fn next(&mut self) -> Option<Located> {
        let wanted = entry::print(&self.prefix);
        while self.at < self.end {
            let number = self.at;
            self.at += 1;
            if self.table.prints.get(number as usize) != Some(&wanted) {
                continue;
            }
            let (prefix, located) = self.table.located(&self.table.entry(number)?)?;
            if prefix == self.prefix {
                return Some(located);
            }
        }
        None
    }
}

/// All entries of a table.
#[derive(Debug)]
pub(super) struct Entries<'a> {
    table: &'a Table,
    next: usize,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

impl Entries<'_> {
    /// Reads the pages from that of the next entry on.
    fn fill(&mut self, file: &File, cipher: &PageCipher) -> Option<()> {
        let first = self.next / IN_PAGE;
        let pages = AT_ONCE.min(self.table.len().div_ceil(IN_PAGE) - first);
        self.sealed.resize(pages * SEALED_PAGE, 0);
        self.plain.resize(pages * PAGE, 0);
        file.read_exact_at(&mut self.sealed, (first * SEALED_PAGE) as u64)
            .ok()?;
        let sealed = self.sealed.chunks_exact(SEALED_PAGE);
        for (number, (sealed, plain)) in sealed.zip(self.plain.chunks_exact_mut(PAGE)).enumerate() {
            cipher.open(Section::Entries, (first + number) as u64, sealed, plain)?;
        }
        Some(())
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if self.next >= self.table.len() {
            return None;
        }
        let at = self.next;
        match &self.table.store {
            Store::Memory(entries) => {
                self.next += 1;
                entries.get(at).copied()
            }
            Store::File { file, cipher, .. } => {
                let within = at % (AT_ONCE * IN_PAGE);
                if within == 0 && self.fill(file, cipher).is_none() {
                    self.table.broken.store(true, Ordering::Relaxed);
                    self.next = self.table.len();
                    return None;
                }
                self.next += 1;
                self.plain.as_chunks::<ENTRY>().0.get(within).copied()
            }
        }
    }
}
