//! What changed since the parent: its manifest is walked beside that of the snapshot.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use backup_core::{EntryPath, Finding, FindingKind, OpContext, SnapshotId};
use backup_format::extent::{Extent, Extents};

use super::Findings;
use super::largest::{Greatest, Taken};
use crate::error::Result;
use crate::view::{Entries, Seen, SnapshotView, ViewEntry};

/// How the content of an entry changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The parent does not have the entry.
    Added,
    /// The parent has it, and the snapshot does not.
    Removed,
    /// Its content is another.
    Changed,
}

/// A change of content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The number of its component; of what is removed in the parent.
    pub component: u8,
    /// Its path.
    pub path: EntryPath,
    /// How it changed.
    pub kind: Kind,
    /// Its size in bytes, and that in the parent; 0 where it is not.
    pub sizes: (u64, u64),
    /// Bytes of content that the parent's entry does not have; of what is removed, its size.
    pub bytes: u64,
    /// Its share of chunks in the repository that the parent does not use.
    pub stored: u64,
}

/// How many entries, and how many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counted {
    /// Entries; those without content among them, but not changed ones.
    pub entries: u64,
    /// Bytes of content; see [`Change::bytes`].
    pub bytes: u64,
}

/// All changes since the parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The parent.
    pub parent: SnapshotId,
    /// What the parent does not have.
    pub added: Counted,
    /// What only the parent has.
    pub removed: Counted,
    /// What has another content.
    pub changed: Counted,
    /// The largest by bytes, the largest first.
    pub largest: Vec<Change>,
}

/// A walk through the parent beside one through the snapshot.
pub(super) struct Changes<'a> {
    view: &'a SnapshotView<'a>,
    parent: &'a SnapshotView<'a>,
    /// The component that is walked: its number, and the way through the one of the parent that has its
    /// name.
    walk: Option<(u8, Option<Entries<'a>>)>,
    next: Option<ViewEntry>,
    /// Components of the parent that were walked.
    walked: BTreeSet<u8>,
    added: Counted,
    removed: Counted,
    changed: Counted,
    largest: Greatest<Change>,
}

impl<'a> Changes<'a> {
    pub(super) fn new(
        view: &'a SnapshotView<'a>,
        parent: &'a SnapshotView<'a>,
        most: usize,
    ) -> Self {
        Self {
            view,
            parent,
            walk: None,
            next: None,
            walked: BTreeSet::new(),
            added: Counted::default(),
            removed: Counted::default(),
            changed: Counted::default(),
            largest: Greatest::new(most),
        }
    }

    /// Comes to an entry of the snapshot, which takes so much.
    pub(super) async fn see(
        &mut self,
        cx: &OpContext,
        entry: &ViewEntry,
        taken: &Taken,
        found: &mut Findings,
    ) -> Result<()> {
        if self.walk.as_ref().map(|walk| walk.0) != Some(entry.component) {
            self.leave(cx, found).await?;
            self.enter(cx, entry.component, found).await?;
        }
        loop {
            let order = match &self.next {
                Some(old) => old.path.as_stored().cmp(entry.path.as_stored()),
                None => Ordering::Greater,
            };
            match order {
                Ordering::Less => self.remove_next(cx, found).await?,
                Ordering::Greater => {
                    self.add(entry, taken);
                    return Ok(());
                }
                Ordering::Equal => {
                    if let Some(old) = self.next.take() {
                        self.compare(cx, &old, entry, taken, found).await?;
                    }
                    return self.step(cx, found).await;
                }
            }
        }
    }

    /// Ends it with what only the parent has.
    pub(super) async fn end(mut self, cx: &OpContext, found: &mut Findings) -> Result<Changed> {
        self.leave(cx, found).await?;
        for (number, _) in (0_u8..).zip(self.parent.components()) {
            if !self.walked.contains(&number) {
                let entries = self.parent.entries(number, &EntryPath::root());
                self.walk = Some((number, Some(entries)));
                self.step(cx, found).await?;
                self.leave(cx, found).await?;
            }
        }
        Ok(Changed {
            parent: self.parent.meta().id,
            added: self.added,
            removed: self.removed,
            changed: self.changed,
            largest: self.largest.into_vec(),
        })
    }

    /// Begins with the component of the parent that has the name of one of the snapshot.
    async fn enter(&mut self, cx: &OpContext, number: u8, found: &mut Findings) -> Result<()> {
        let name = self.view.component_name(number);
        let mut same = (0_u8..).zip(self.parent.components());
        let same = same
            .find(|(number, one)| one.name == name && !self.walked.contains(number))
            .map(|(number, _)| number);
        let entries = same.map(|number| self.parent.entries(number, &EntryPath::root()));
        self.walked.extend(same);
        self.walk = Some((number, entries));
        self.step(cx, found).await
    }

    /// What is left of the component is not in the snapshot.
    async fn leave(&mut self, cx: &OpContext, found: &mut Findings) -> Result<()> {
        while self.next.is_some() {
            self.remove_next(cx, found).await?;
        }
        Ok(())
    }

    async fn step(&mut self, cx: &OpContext, found: &mut Findings) -> Result<()> {
        self.next = None;
        let Some((_, Some(entries))) = &mut self.walk else {
            return Ok(());
        };
        while let Some(seen) = entries.step(cx).await? {
            match seen {
                Seen::Entry(entry) => {
                    self.next = Some(*entry);
                    break;
                }
                Seen::Lost(lost) => found.add(lost.finding(self.parent)),
            }
        }
        Ok(())
    }

    async fn remove_next(&mut self, cx: &OpContext, found: &mut Findings) -> Result<()> {
        if let Some(old) = self.next.take() {
            let size = old.record.size;
            self.removed.entries += 1;
            self.removed.bytes = self.removed.bytes.saturating_add(size);
            self.largest.offer(size, || Change {
                component: old.component,
                path: old.path,
                kind: Kind::Removed,
                sizes: (0, size),
                bytes: size,
                stored: 0,
            });
        }
        self.step(cx, found).await
    }

    fn add(&mut self, entry: &ViewEntry, taken: &Taken) {
        let size = entry.record.size;
        self.added.entries += 1;
        self.added.bytes = self.added.bytes.saturating_add(size);
        self.largest.offer(size, || Change {
            component: entry.component,
            path: entry.path.clone(),
            kind: Kind::Added,
            sizes: (size, 0),
            bytes: size,
            stored: taken.new,
        });
    }

    async fn compare(
        &mut self,
        cx: &OpContext,
        old: &ViewEntry,
        entry: &ViewEntry,
        taken: &Taken,
        found: &mut Findings,
    ) -> Result<()> {
        let (was, is) = (&old.record, &entry.record);
        let is_same = match (was.sha256, is.sha256) {
            (Some(was), Some(is)) => was == is,
            _ => was.content == is.content,
        };
        if was.size == is.size && is_same {
            return Ok(());
        }
        let mut both = Vec::new();
        for (view, record) in [(self.parent, was), (self.view, is)] {
            match view.extents(cx, record).await {
                Ok(extents) => both.push(extents),
                Err(error) if error.is_damage() => {
                    let detail = error.to_string();
                    found.add(Finding::entry(FindingKind::Damaged, &entry.path, detail));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        let bytes = match &both[..] {
            [old, new] => not_in(old, new),
            _ => 0,
        };
        self.changed.entries += 1;
        self.changed.bytes = self.changed.bytes.saturating_add(bytes);
        // What became shorter and has nothing new changed by what it lost.
        let lost = was.size.saturating_sub(is.size);
        self.largest.offer(bytes.max(lost), || Change {
            component: entry.component,
            path: entry.path.clone(),
            kind: Kind::Changed,
            sizes: (is.size, was.size),
            bytes,
            stored: taken.new,
        });
        Ok(())
    }
}

/// Bytes of content that lie elsewhere than all of an older one; holes are none.
fn not_in(old: &Extents, new: &Extents) -> u64 {
    let key = |extent: &Extent| match *extent {
        Extent::Data {
            chunk,
            offset,
            length,
        } => Some((chunk, offset, u64::from(offset) + u64::from(length))),
        Extent::Zero { .. } => None,
    };
    let mut known: Vec<_> = old.as_slice().iter().filter_map(key).collect();
    known.sort_unstable();
    // Parts of one chunk that touch or overlap become one.
    known.dedup_by(|next, last| {
        let touches = next.0 == last.0 && u64::from(next.1) <= last.2;
        if touches {
            last.2 = last.2.max(next.2);
        }
        touches
    });
    let fresh = |(chunk, start, end): (_, u32, u64)| {
        let after = known.partition_point(|&(other, from, _)| (other, from) <= (chunk, start));
        let mut at = u64::from(start);
        let mut fresh = 0;
        for &(other, from, to) in known.get(after.saturating_sub(1)..).unwrap_or_default() {
            if other > chunk || other == chunk && u64::from(from) >= end {
                break;
            }
            if other == chunk && to > at {
                fresh += u64::from(from).saturating_sub(at).min(end - at);
                at = to.min(end);
            }
        }
        fresh + (end - at)
    };
    new.as_slice().iter().filter_map(key).map(fresh).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use backup_core::ChunkId;
    use proptest::prelude::*;

    fn extents(parts: &[(u8, u32, u32)]) -> Extents {
        let mut out = Extents::default();
        for &(chunk, offset, length) in parts {
            out.push(Extent::Data {
                chunk: ChunkId([chunk; 32]),
                offset,
                length,
            });
            out.push(Extent::Zero { length: 1 });
        }
        out
    }

    proptest! {
        #[test]
        fn bytes_are_new_if_no_part_of_the_old_has_them(
            old in proptest::collection::vec((0_u8..3, 0_u32..20, 1_u32..10), 0..8),
            new in proptest::collection::vec((0_u8..3, 0_u32..20, 1_u32..10), 0..8),
        ) {
            let bytes = |parts: &[(u8, u32, u32)]| -> Vec<(u8, u32)> {
                let of = |&(chunk, offset, length): &(u8, u32, u32)| {
                    (offset..offset + length).map(move |at| (chunk, at))
                };
                parts.iter().flat_map(of).collect()
            };
            let known: BTreeSet<_> = bytes(&old).into_iter().collect();
            let wanted = bytes(&new).iter().filter(|byte| !known.contains(byte)).count() as u64;
            prop_assert_eq!(not_in(&extents(&old), &extents(&new)), wanted);
        }
    }
}
