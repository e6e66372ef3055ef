//! Refs against what snapshots really use: space is given back on the word of the refs, so a chunk that
//! they do not name would be taken away under the snapshot.
//!
//! What is used was marked while the manifest was read: its pages, the chunks of contents, the spills, and
//! the lineage directory with what it names. Memory: 44 bytes for each pack, eight for each entry of
//! the index that is not in a table, and two bits for each that is.

use backup_core::{ChunkId, ErrorKind, Event, Finding, FindingKind, PackId, Severity, SnapshotId};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::layout;
use backup_format::lineage::LineageHead;
use backup_format::refs::Refs;
use backup_format::seal::BlobKind;

use super::Run;
use crate::error::{EngineError, Result};
use crate::index_set::{self, IndexSet, PackSlots, Place};
use crate::refs::{self, Sum};
use crate::repository::{SnapshotHead, name};
use crate::tree::{Met, TreeReader};
use crate::usage::Usage;

/// Chunks that are named for one snapshot.
const MOST_CHUNKS: usize = 20;

/// The slots of all packs, as entries of the index.
#[derive(Debug)]
pub(super) struct Slots {
    /// Of each part.
    parts: Vec<index_set::Slots>,
    /// In which part a pack is known, and there by which number; in the order of packs.
    packs: Vec<(PackId, u32, u32)>,
}

impl Slots {
    pub(super) fn new(index: &IndexSet) -> Self {
        let parts = index.parts().iter().map(|part| part.slots(|_| true));
        let numbered = (0u32..).zip(index.parts());
        let packs = numbered.flat_map(|(number, part)| {
            let packs = part.packs();
            packs.map(move |(at, pack)| (pack.id, number, at))
        });
        let mut out = Self {
            parts: parts.collect(),
            packs: packs.collect(),
        };
        out.packs.sort_unstable();
        out
    }

    /// The entries of a pack's slots, for each run that knows some.
    pub(super) fn of(&self, pack: &PackId) -> impl Iterator<Item = (u32, PackSlots<'_>)> {
        let first = self.packs.partition_point(|one| one.0 < *pack);
        let known = self.packs.iter().skip(first);
        let known = known.take_while(move |one| one.0 == *pack);
        let slots = known.filter_map(|(_, part, at)| {
            let slots = self.parts.get(*part as usize)?.of(*at);
            Some((*part, slots))
        });
        slots.filter(|(_, slots)| !slots.is_empty())
    }

    /// The slot of a place.
    pub(super) fn slot(&self, place: &Place) -> Option<u32> {
        self.parts.get(place.run as usize)?.slot(&place.located)
    }
}

/// How what refs name and what is used differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Difference {
    /// The first chunks that are used and not named.
    pub(super) missing: Vec<String>,
    pub(super) missing_count: u64,
    /// How many chunks are named and not used.
    pub(super) superfluous: u64,
    /// Packs of which the refs tell another number of slots than the index.
    pub(super) odd: Vec<PackId>,
}

impl Difference {
    pub(super) fn of(index: &IndexSet, slots: &Slots, used: &Usage, refs: &Refs) -> Self {
        let mut out = Self::default();
        let mut named = Usage::new(index);
        for pack in &refs.packs {
            let mut is_odd = false;
            for (run, entries) in slots.of(&pack.pack) {
                is_odd |= entries.len() != pack.slots as usize;
                for slot in pack.used() {
                    if let Some(entry) = entries.get(slot) {
                        named.mark_entry(run, entry);
                    }
                }
            }
            if is_odd {
                out.odd.push(pack.pack);
            }
        }
        for (number, part) in (0u32..).zip(index.parts()) {
            if used.agrees_on(&named, number) {
                continue;
            }
            for (prefix, located) in part.iter() {
                let entry = located.entry;
                let (is_used, is_named) = (used.has(number, entry), named.has(number, entry));
                // The same chunk may lie in another place too, and one of them is enough.
                if is_used && !is_named && !index.places(&prefix).any(|p| named.has_place(&p)) {
                    out.missing_count += 1;
                    if out.missing.len() < MOST_CHUNKS {
                        let pack = part.pack(located.pack);
                        let pack = pack.map_or_else(String::new, |pack| pack.id.to_string());
                        let id: String = prefix.iter().map(|byte| format!("{byte:02x}")).collect();
                        out.missing.push(format!("{id}… in pack {pack}"));
                    }
                }
                if is_named && !is_used && !index.places(&prefix).any(|p| used.has_place(&p)) {
                    out.superfluous += 1;
                }
            }
        }
        out
    }
}

/// What is known of the use that a snapshot makes of chunks.
#[derive(Debug)]
pub(super) struct Used {
    pub(super) usage: Usage,
    /// Whether that is all: everything that names chunks could be read.
    pub(super) is_whole: bool,
}

impl Used {
    pub(super) fn new(index: &IndexSet) -> Self {
        Self {
            usage: Usage::new(index),
            is_whole: true,
        }
    }

    /// Marks the spills of a content.
    pub(super) fn spills(&mut self, index: &IndexSet, content: &Content) {
        if let Content::Spilled(spills) = content {
            for id in spills {
                self.usage.mark(index, id);
            }
        }
    }

    pub(super) fn pages(&mut self, index: &IndexSet, pages: impl IntoIterator<Item = ChunkId>) {
        for id in pages {
            self.usage.mark(index, &id);
        }
    }

    fn extents(&mut self, index: &IndexSet, extents: &Extents) {
        for extent in extents.as_slice() {
            if let Extent::Data { chunk, .. } = extent {
                self.usage.mark(index, chunk);
            }
        }
    }
}

impl Run<'_> {
    /// Reads the refs of a snapshot; what is wrong with them is a finding.
    pub(super) async fn refs(&mut self, head: &SnapshotHead) -> Result<Option<Refs>> {
        let id = head.meta.id;
        for is_last in [false, true] {
            let mut sum = Sum::default();
            let mut gone = Vec::new();
            let mut is_whole = true;
            for key in self.listed_refs.get(&id).cloned().unwrap_or_default() {
                self.report.objects += 1;
                match refs::read(self.repo, self.cx, &key).await {
                    Ok(Some(refs)) => sum.add(refs),
                    Ok(None) => gone.push(key),
                    Err(error) if error.is_damage() => {
                        self.found_object(FindingKind::Damaged, key.as_str(), &error.to_string());
                        is_whole = false;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !is_whole {
                return Ok(None);
            }
            if gone.is_empty() && self.listed_refs.contains_key(&id) {
                return Ok(Some(sum.into_refs(id)));
            }
            if is_last {
                if self.is_forgotten(id).await? {
                    return Ok(None);
                }
                let key = gone.pop().map_or_else(|| name(layout::refs(id)), Ok)?;
                self.found_object(FindingKind::Missing, key.as_str(), "it is not on the tier");
            } else {
                // A prune may have moved them since they were listed.
                self.listed_refs = refs::list(self.repo, self.cx).await?;
            }
        }
        Ok(None)
    }

    /// Whether a snapshot went away since it was listed, and its refs behind it.
    async fn is_forgotten(&self, id: SnapshotId) -> Result<bool> {
        let key = name(layout::snapshot(id))?;
        match self.repo.sink().head(self.cx, &key).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// Marks what the lineage directory of a snapshot uses. Restores do not need it; what of it cannot be
    /// read costs the next save some reading.
    pub(super) async fn lineages(
        &mut self,
        head: &SnapshotHead,
        index: &IndexSet,
        used: &mut Used,
    ) -> Result<()> {
        let Some(root) = head.outer.lineage else {
            return Ok(());
        };
        let mut walk = TreeReader::new(self.repo, root, BlobKind::Lineage).walk(&[]);
        walk.note_pages();
        loop {
            let step = walk.step(self.cx).await;
            used.pages(index, walk.noted_pages());
            let why = match step {
                Ok(None) => return Ok(()),
                Ok(Some(Met::Entry(_, value))) => match LineageHead::decode(&value) {
                    Ok(lineage) => {
                        for layer in &lineage.layers {
                            used.pages(index, layer.parts.iter().copied());
                        }
                        used.spills(index, &lineage.content);
                        if let Content::Inline(extents) = &lineage.content {
                            used.extents(index, extents);
                        }
                        continue;
                    }
                    Err(error) => error.to_string(),
                },
                Ok(Some(Met::Lost(lost))) => self.said(&lost.why),
                Err(error) if error.is_damage() => {
                    self.lineage_is_damaged(head, &self.said(&error));
                    used.is_whole = false;
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            self.lineage_is_damaged(head, &why);
            used.is_whole = false;
        }
    }

    fn lineage_is_damaged(&mut self, head: &SnapshotHead, why: &str) {
        let subject = format!("the lineage directory of snapshot {}", head.meta.id);
        self.found(FindingKind::Damaged, &subject, why);
    }

    /// Compares the refs of a snapshot with what it uses.
    pub(super) fn compare_refs(
        &mut self,
        index: &IndexSet,
        slots: &Slots,
        used: &Used,
        refs: &Refs,
    ) -> Result<()> {
        if self.cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let difference = Difference::of(index, slots, &used.usage, refs);
        let key = name(layout::refs(refs.snapshot))?;
        if let Some(pack) = difference.odd.first() {
            let count = difference.odd.len();
            let why = format!(
                "of {count} packs it tells another number of slots than the index, pack {pack} among them"
            );
            self.found_object(FindingKind::Mismatch, key.as_str(), &why);
        }
        if difference.missing_count > 0 {
            let shown = difference.missing.join("; ");
            let more = match difference.missing_count - difference.missing.len() as u64 {
                0 => String::new(),
                more => format!("; and {more} more"),
            };
            let why = format!(
                "it does not name {} chunks that the snapshot uses, so nothing would keep them: {shown}{more}",
                difference.missing_count
            );
            self.found_object(FindingKind::Mismatch, key.as_str(), &why);
        }
        if difference.superfluous > 0 && used.is_whole {
            let why = format!(
                "it names {} chunks that the snapshot does not use",
                difference.superfluous
            );
            let kind = FindingKind::Degraded;
            let finding = Finding::new(Severity::Note, kind, key.as_str(), why);
            self.cx.tell(Event::Found(&finding));
            self.report.findings.push(finding);
        }
        Ok(())
    }
}
