//! Makes a table of runs and of other tables: a merge of what is sorted already. Beside what the table itself takes, it
//! needs a page or two of each table, and eight bytes for each entry of a run.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use backup_core::{CancellationToken, ObjectKey};
use backup_format::index::IndexRun;
use backup_format::pack::MAX_BLOBS;
use backup_format::seal::ObjectKeyring;

use super::entry::{self, Entry};
use super::file::{MOST_BITS, TableFile};
use super::part::{Shelved, Sorted, packs_of};
use super::table::{Member, Store, Table, TablePack};

/// After so many entries it is looked whether to go on.
const LOOK: u32 = 1 << 16;

/// A run with its name and its size on the tier.
#[derive(Debug, Clone)]
pub(crate) struct NamedRun {
    pub(crate) key: ObjectKey,
    pub(crate) size: u64,
    pub(crate) run: Arc<IndexRun>,
}

impl NamedRun {
    /// Whether a table can take it: no pack of it has more blobs than packs have. One that says otherwise is genuine
    /// by its seal and false all the same.
    pub(crate) fn fits(&self) -> bool {
        let mut counts = vec![0; self.run.packs.len()];
        self.run.iter().all(|(_, located)| {
            counts.get_mut(located.pack as usize).is_some_and(|count| {
                *count += 1;
                *count <= MAX_BLOBS
            })
        })
    }
}

/// Where a table goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// Into a folder.
    Folder(&'a Path),
    /// Into a file without a name.
    Unnamed,
    /// Nowhere.
    Memory,
}

/// Makes a table of runs that fit and of what counts of other tables. `None` when there is no room, another table is
/// broken, there is too much for one table, or it is cancelled: then nothing is left behind.
pub(super) fn merge(
    runs: &[NamedRun],
    tables: &[Arc<Shelved>],
    (place, ring): (Place<'_>, &ObjectKeyring),
    cancel: &CancellationToken,
) -> Option<Table> {
    let mut table = Table {
        store: Store::Memory(Vec::new()),
        count: 0,
        bits: 0,
        fan: Vec::new(),
        prints: Vec::new(),
        packs: Vec::new(),
        members: Vec::new(),
        broken: AtomicBool::new(false),
    };
    let mut streams: Vec<Stream<'_>> = Vec::with_capacity(runs.len() + tables.len());
    for one in tables {
        streams.push(take_table(&mut table, one)?);
    }
    for one in runs {
        streams.push(take_run(&mut table, one)?);
    }
    table.bits = (table.count / 8).max(1).ilog2().min(MOST_BITS);
    table.fan = vec![0; (1 << table.bits) + 1];
    table.prints.reserve_exact(table.len());
    let (mut file, mut memory) = (None, Vec::new());
    match place {
        Place::Folder(folder) => file = Some(TableFile::new(Some(folder))?),
        Place::Unnamed => file = Some(TableFile::new(None)?),
        Place::Memory => memory.reserve_exact(table.len()),
    }
    let mut first: BinaryHeap<Reverse<(Entry, usize)>> = BinaryHeap::with_capacity(streams.len());
    for (number, stream) in streams.iter_mut().enumerate() {
        if let Some(entry) = stream.next() {
            first.push(Reverse((entry?, number)));
        }
    }
    let mut written = 0;
    while let Some(mut top) = first.peek_mut() {
        let Reverse((entry, number)) = *top;
        match streams.get_mut(number)?.next() {
            Some(next) => *top = Reverse((next?, number)),
            None => drop(PeekMut::pop(top)),
        }
        written += 1;
        if written % LOOK == 0 && cancel.is_cancelled() {
            return None;
        }
        let prefix = entry.first_chunk::<16>()?;
        *table.fan.get_mut(entry::bucket(prefix, table.bits) + 1)? += 1;
        table.prints.push(entry::print(prefix));
        match &mut file {
            Some(file) => file.push(&entry)?,
            None => memory.push(entry),
        }
    }
    let is_whole = written == table.count && tables.iter().all(|one| !one.table.is_broken());
    if !is_whole {
        return None;
    }
    let mut sum = 0;
    for start in &mut table.fan {
        sum += *start;
        *start = sum;
    }
    match file {
        Some(file) => file.finish(&mut table, ring)?,
        None => table.store = Store::Memory(memory),
    }
    Some(table)
}

/// Entries with the numbers that their packs have in the new table; nothing for one that cannot be said.
type Stream<'a> = Box<dyn Iterator<Item = Option<Entry>> + 'a>;

fn take_run<'a>(into: &mut Table, one: &'a NamedRun) -> Option<Stream<'a>> {
    let run = &one.run;
    let sorted = Sorted::new(run, |_| true);
    let base = u32::try_from(into.packs.len()).ok()?;
    for (number, pack) in (0u32..).zip(&run.packs) {
        into.packs.push(TablePack {
            id: pack.id,
            size: u32::try_from(pack.size).ok()?,
            start: into.count,
            kind: None,
        });
        into.count = into.count.checked_add(sorted.count(number))?;
    }
    for (_, located) in run.iter() {
        let pack = into.packs.get_mut((base + located.pack) as usize)?;
        pack.kind = Some(located.kind);
    }
    into.members.push(Member {
        key: one.key.clone(),
        size: one.size,
        first: base,
        packs: u32::try_from(run.packs.len()).ok()?,
        sessions: run.sessions.clone(),
    });
    Some(Box::new(run.iter().map(move |(prefix, located)| {
        let slot = *sorted.slots.get(located.entry as usize)?;
        entry::encode(&prefix, &located, base + located.pack, slot)
    })))
}

fn take_table<'a>(into: &mut Table, one: &'a Shelved) -> Option<Stream<'a>> {
    let from = &one.table;
    // What each of its packs is called now.
    let mut numbers = vec![u32::MAX; from.packs.len()];
    for member in one.members() {
        let first = u32::try_from(into.packs.len()).ok()?;
        for number in packs_of(member) {
            let pack = *from.packs.get(number)?;
            let entries = from.entries_of(u32::try_from(number).ok()?).len();
            *numbers.get_mut(number)? = u32::try_from(into.packs.len()).ok()?;
            let start = into.count;
            into.packs.push(TablePack { start, ..pack });
            into.count = into.count.checked_add(u32::try_from(entries).ok()?)?;
        }
        into.members.push(Member {
            first,
            ..member.clone()
        });
    }
    let entries = from.raw_entries();
    Some(Box::new(entries.filter_map(move |entry| {
        let Some(read) = entry::decode(&entry) else {
            return Some(None);
        };
        let number = *numbers.get(read.pack as usize)?;
        (number != u32::MAX).then(|| Some(entry::with_pack(entry, number)))
    })))
}
