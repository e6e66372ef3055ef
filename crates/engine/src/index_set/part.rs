//! What an index set is made of: runs in memory, and tables. Both number their entries and their packs; who walks
//! through a part or asks for the slots of its packs need not know which it is.

use std::ops::Range;
use std::sync::Arc;

use backup_format::index::{IndexRun, Located, PackRef};
use backup_format::pack::SessionWrap;

use super::table::{Member, Table};

/// A part of an index: some runs together. It numbers packs and entries; a pack that several of its runs name has a
/// number for each.
#[derive(Debug, Clone)]
pub struct Part(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Run(Arc<IndexRun>),
    Table(Arc<Shelved>),
}

/// A table, and which of its runs are still there.
#[derive(Debug)]
pub(crate) struct Shelved {
    pub(crate) table: Arc<Table>,
    /// For each member whether it counts.
    pub(crate) live: Vec<bool>,
    /// Packs of members that do not; none at all where all do.
    gone: Vec<bool>,
    /// Entries of those that do.
    pub(crate) count: usize,
}

impl Shelved {
    /// A table of which these members count.
    pub(crate) fn new(table: Arc<Table>, live: Vec<bool>) -> Self {
        let (mut gone, mut count) = (Vec::new(), 0);
        if live.contains(&false) {
            gone.resize(table.packs.len(), false);
        }
        for (member, is_live) in table.members().iter().zip(&live) {
            if *is_live {
                count += table.entries_in(member) as usize;
            } else if let Some(of_member) = gone.get_mut(packs_of(member)) {
                of_member.fill(true);
            }
        }
        Self {
            table,
            live,
            gone,
            count,
        }
    }

    fn has(&self, pack: u32) -> bool {
        self.gone.get(pack as usize) != Some(&true)
    }

    /// Its members that count.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Member> {
        let members = self.table.members().iter().zip(&self.live);
        members.filter_map(|(member, is_live)| is_live.then_some(member))
    }
}

/// The numbers of a member's packs.
pub(super) const fn packs_of(member: &Member) -> Range<usize> {
    member.first as usize..(member.first + member.packs) as usize
}

impl Part {
    pub(crate) const fn run(run: Arc<IndexRun>) -> Self {
        Self(Kind::Run(run))
    }

    pub(crate) const fn table(table: Arc<Shelved>) -> Self {
        Self(Kind::Table(table))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match &self.0 {
            Kind::Run(run) => run.len(),
            Kind::Table(table) => table.count,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Entries have numbers below this.
    #[must_use]
    pub fn numbers(&self) -> usize {
        match &self.0 {
            Kind::Run(run) => run.len(),
            Kind::Table(table) => table.table.len(),
        }
    }

    /// Packs have numbers below this.
    #[must_use]
    pub fn pack_numbers(&self) -> usize {
        match &self.0 {
            Kind::Run(run) => run.packs.len(),
            Kind::Table(table) => table.table.packs.len(),
        }
    }

    /// The pack of a number.
    #[must_use]
    pub fn pack(&self, number: u32) -> Option<PackRef> {
        match &self.0 {
            Kind::Run(run) => run.packs.get(number as usize).copied(),
            Kind::Table(table) => table.has(number).then(|| table.table.pack(number))?,
        }
    }

    /// All packs with their numbers.
    pub fn packs(&self) -> impl Iterator<Item = (u32, PackRef)> + '_ {
        let numbers = 0..u32::try_from(self.pack_numbers()).unwrap_or(u32::MAX);
        numbers.filter_map(|number| Some((number, self.pack(number)?)))
    }

    /// Every place of a chunk, by the half of its id that the index has.
    pub fn find_all(&self, prefix: &[u8; 16]) -> impl Iterator<Item = Located> + use<'_> {
        match &self.0 {
            Kind::Run(run) => OneOf::Left(run.find_all(prefix)),
            Kind::Table(table) => {
                let places = table.table.find_all(prefix);
                OneOf::Right(places.filter(|located| table.has(located.pack)))
            }
        }
    }

    /// All entries in the order of their ids. Of a table it ends at what cannot be read.
    pub fn iter(&self) -> impl Iterator<Item = ([u8; 16], Located)> + '_ {
        match &self.0 {
            Kind::Run(run) => OneOf::Left(run.iter()),
            Kind::Table(table) => {
                let entries = table.table.iter();
                OneOf::Right(entries.filter(|(_, located)| table.has(located.pack)))
            }
        }
    }

    /// Of each pack how many entries it has, and whether these are pages and lineage. Nothing for packs without any.
    pub(crate) fn counts(&self) -> Vec<Option<(bool, u64)>> {
        match &self.0 {
            Kind::Run(run) => {
                let mut out = vec![None; run.packs.len()];
                for (_, located) in run.iter() {
                    if let Some(known) = out.get_mut(located.pack as usize) {
                        let count = known.map_or(0, |(_, count)| count);
                        *known = Some((located.kind.is_meta(), count + 1));
                    }
                }
                out
            }
            Kind::Table(table) => {
                let count = |(number, pack): (u32, &super::table::TablePack)| {
                    let entries = table.table.entries_of(number).len() as u64;
                    pack.kind.map(|kind| (kind.is_meta(), entries))
                };
                (0..).zip(&table.table.packs).map(count).collect()
            }
        }
    }

    /// The wrapped data keys that its runs know.
    pub fn sessions(&self) -> impl Iterator<Item = &SessionWrap> {
        match &self.0 {
            Kind::Run(run) => OneOf::Left(run.sessions.iter()),
            Kind::Table(table) => OneOf::Right(table.members().flat_map(|one| &one.sessions)),
        }
    }

    /// The entries of packs by their slots; of those packs that are wanted.
    #[must_use]
    pub fn slots(&self, is_wanted: impl Fn(u32) -> bool) -> Slots {
        match &self.0 {
            Kind::Run(run) => Slots(SlotKind::Sorted(Sorted::new(run, is_wanted))),
            Kind::Table(table) => Slots(SlotKind::Numbered(table.clone())),
        }
    }

    /// Whether its entries are numbered pack by pack, so that slots cost nothing.
    #[must_use]
    pub const fn is_sorted_by_pack(&self) -> bool {
        matches!(self.0, Kind::Table(_))
    }

    /// Why it may deny what it has: some of its file could not be read.
    pub(super) fn broken(&self) -> Option<&Table> {
        match &self.0 {
            Kind::Table(table) if table.table.is_broken() => Some(&table.table),
            _ => None,
        }
    }

    /// The table, if it is one.
    pub(super) fn as_table(&self) -> Option<&Arc<Table>> {
        match &self.0 {
            Kind::Run(_) => None,
            Kind::Table(table) => Some(&table.table),
        }
    }
}

/// Which entries the slots of packs are: a pack's slots are its entries by their offsets, as refs number them.
#[derive(Debug)]
pub struct Slots(SlotKind);

#[derive(Debug)]
enum SlotKind {
    /// Of a run.
    Sorted(Sorted),
    /// A table numbers its entries that way.
    Numbered(Arc<Shelved>),
}

impl Slots {
    /// The entries of a pack.
    #[must_use]
    pub fn of(&self, pack: u32) -> PackSlots<'_> {
        match &self.0 {
            SlotKind::Sorted(sorted) => PackSlots::Listed(sorted.of(pack)),
            SlotKind::Numbered(table) if table.has(pack) => {
                PackSlots::Range(table.table.entries_of(pack))
            }
            SlotKind::Numbered(_) => PackSlots::Range(0..0),
        }
    }

    /// The slot of an entry; of a run only where its pack is wanted.
    #[must_use]
    pub fn slot(&self, located: &Located) -> Option<u32> {
        match &self.0 {
            SlotKind::Sorted(sorted) => sorted.slots.get(located.entry as usize).copied(),
            SlotKind::Numbered(table) => {
                let start = table.table.entries_of(located.pack).start;
                located.entry.checked_sub(start)
            }
        }
    }
}

/// The entries of a pack.
#[derive(Debug, Clone)]
pub enum PackSlots<'a> {
    /// One by one.
    Listed(&'a [u32]),
    /// One after the other.
    Range(Range<u32>),
}

impl PackSlots<'_> {
    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Listed(entries) => entries.len(),
            Self::Range(range) => range.len(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The entry of a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<u32> {
        match self {
            Self::Listed(entries) => entries.get(slot as usize).copied(),
            Self::Range(range) => {
                let entry = range.start.checked_add(slot)?;
                range.contains(&entry).then_some(entry)
            }
        }
    }

    /// All of them, by their slots.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        match self {
            Self::Listed(entries) => OneOf::Left(entries.iter().copied()),
            Self::Range(range) => OneOf::Right(range.clone()),
        }
    }
}

/// The slots of a run's packs.
#[derive(Debug)]
pub(super) struct Sorted {
    /// The entries, pack by pack, by their offsets.
    entries: Vec<u32>,
    /// Where each pack begins among them.
    starts: Vec<u32>,
    /// For each entry its slot.
    pub(super) slots: Vec<u32>,
}

impl Sorted {
    pub(super) fn new(run: &IndexRun, is_wanted: impl Fn(u32) -> bool) -> Self {
        let located = run.iter().map(|(_, located)| located);
        let mut sorted: Vec<(u32, u32, u32)> = located
            .filter(|located| is_wanted(located.pack))
            .map(|located| (located.pack, located.offset, located.entry))
            .collect();
        sorted.sort_unstable();
        let mut starts = vec![0; run.packs.len() + 1];
        let mut slots = vec![u32::MAX; run.len()];
        for pack in sorted.chunk_by(|a, b| a.0 == b.0) {
            for (slot, (number, _, entry)) in (0u32..).zip(pack) {
                if let Some(start) = starts.get_mut(*number as usize + 1) {
                    *start += 1;
                }
                if let Some(known) = slots.get_mut(*entry as usize) {
                    *known = slot;
                }
            }
        }
        let mut sum = 0;
        for start in &mut starts {
            sum += *start;
            *start = sum;
        }
        Self {
            entries: sorted.into_iter().map(|one| one.2).collect(),
            starts,
            slots,
        }
    }

    fn of(&self, pack: u32) -> &[u32] {
        let at = pack as usize;
        let bounds = self.starts.get(at).zip(self.starts.get(at + 1));
        let (from, to) = bounds.map_or((0, 0), |(from, to)| (*from, *to));
        self.entries
            .get(from as usize..to as usize)
            .unwrap_or_default()
    }

    /// How many entries a pack has.
    pub(super) fn count(&self, pack: u32) -> u32 {
        u32::try_from(self.of(pack).len()).unwrap_or(u32::MAX)
    }
}

/// One of two iterators.
enum OneOf<A, B> {
    Left(A),
    Right(B),
}

impl<T, A: Iterator<Item = T>, B: Iterator<Item = T>> Iterator for OneOf<A, B> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        match self {
            Self::Left(left) => left.next(),
            Self::Right(right) => right.next(),
        }
    }
}
