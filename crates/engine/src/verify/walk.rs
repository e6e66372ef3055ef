//! Walking manifests: every page, every entry, the Merkle root; which chunks are named, and whether
//! the refs name them too. Contents that nobody has hashed yet are handed on.

use std::collections::{HashMap, HashSet};

use backup_core::{
    Event, Finding, FindingKind, HostId, OpContext, Severity, SnapshotId, VerifyLevel,
};
use backup_format::extent::{Extent, Extents};
use backup_format::keys::KeyError;
use backup_format::seal::BlobKind;
use backup_integrity::merkle::SnapshotTreeBuilder;

use super::Run;
use super::content::Feeder;
use super::limit::ReadBudget;
use super::parts::lock;
use super::refs::{Slots, Used};
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, Part};
use crate::repository::SnapshotHead;
use crate::stage::canonical;
use crate::usage::Usage;
use crate::view::{Seen, SnapshotView, ViewEntry, check_signatures};

/// Pages that are named for one snapshot.
const MOST_PAGES: u64 = 1000;
/// Contents that are told apart among those that are left; beyond, they are estimated from so many.
const MOST_LEFT: usize = 1 << 16;

/// The bytes of all content that the index knows.
pub(super) fn content_bytes(index: &IndexSet) -> u64 {
    let located = index.parts().iter().flat_map(Part::iter);
    let data = located.filter(|(_, located)| located.kind == BlobKind::Data);
    data.map(|(_, located)| u64::from(located.raw)).sum()
}

/// Chance.
#[derive(Debug)]
pub(super) struct Dice([u8; 32]);

impl Dice {
    pub(super) fn new(cx: &OpContext) -> Self {
        let now = cx.clock.now().as_nanosecond();
        Self(*blake3::hash(&now.to_le_bytes()).as_bytes())
    }

    /// A number that is the same for a thing throughout a run.
    pub(super) fn roll(&self, of: &[u8]) -> u64 {
        let hash = blake3::keyed_hash(&self.0, of);
        let mut out = [0; 8];
        out.copy_from_slice(&hash.as_bytes()[..8]);
        u64::from_le_bytes(out)
    }
}

/// Contents that this run does not hash, each counted once however many files have it. In memory is one of each
/// `2^depth` of them, those whose names end with so many zeros, so that what they come to is known however many
/// there are: exactly while all have room, within about a hundredth behind that.
#[derive(Debug, Default)]
pub(super) struct Left {
    seen: HashMap<[u8; 16], u64>,
    depth: u32,
}

impl Left {
    fn add(&mut self, content: [u8; 16], bytes: u64) {
        if !is_drawn(&content, self.depth) {
            return;
        }
        self.seen.insert(content, bytes);
        while self.seen.len() > MOST_LEFT && self.depth < 64 {
            self.depth += 1;
            let depth = self.depth;
            self.seen.retain(|content, _| is_drawn(content, depth));
        }
    }

    /// How many there are; never none if there is one.
    pub(super) fn contents(&self) -> u64 {
        let drawn = self.seen.len() as u64;
        scaled(drawn, self.depth).max(u64::from(self.depth > 0))
    }

    /// Their bytes.
    pub(super) fn bytes(&self) -> u64 {
        let drawn = self
            .seen
            .values()
            .fold(0, |sum: u64, one| sum.saturating_add(*one));
        scaled(drawn, self.depth)
    }
}

/// Whether a name, which is a hash, ends with so many zeros.
fn is_drawn(content: &[u8; 16], depth: u32) -> bool {
    u128::from_be_bytes(*content).trailing_zeros() >= depth
}

fn scaled(drawn: u64, depth: u32) -> u64 {
    let all = u128::from(drawn) << depth;
    u64::try_from(all).unwrap_or(u64::MAX)
}

/// What the walk of one snapshot needs.
struct Way<'w> {
    index: &'w IndexSet,
    used: Used,
    /// Whether an entry cannot be restored whole.
    is_hurt: bool,
}

impl Run<'_> {
    /// The order in which snapshots are walked. As many contents are hashed as the limit allows: those
    /// of the newest snapshot of each name and host first, then the oldest that are not hashed yet, so
    /// that what is kept for long comes to its turn. Where time is short, what was walked longest ago.
    fn order(&self, heads: &[SnapshotHead]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..heads.len()).collect();
        if let Some(ReadBudget::Time(_)) = self.job.budget {
            let (memory, dice) = (lock(self.memory), Dice::new(self.cx));
            order.sort_by_cached_key(|at| {
                let id = heads.get(*at).map_or(SnapshotId(0), |head| head.meta.id);
                (memory.walked(id), dice.roll(&id.to_bytes()))
            });
            return order;
        }
        let mut newest: HashMap<(&HostId, &str), usize> = HashMap::new();
        for (at, head) in heads.iter().enumerate() {
            newest.insert((&head.meta.host, &head.meta.name), at);
        }
        let newest: HashSet<usize> = newest.into_values().collect();
        order.sort_by_key(|at| !newest.contains(at));
        order
    }

    /// Signatures and entries of every snapshot.
    pub(super) async fn heads(
        &mut self,
        heads: &[SnapshotHead],
        feeder: &mut Feeder<'_, '_>,
    ) -> Result<()> {
        for head in heads {
            if let Err(error) = check_signatures(self.repo, head) {
                let subject = format!("snapshot {}", head.meta.id);
                self.found(FindingKind::Mismatch, &subject, &error.to_string());
            }
        }
        if self.repo.keys().identities().is_err() {
            return Ok(());
        }
        let index = self.repo.index();
        let slots = Slots::new(&index);
        for at in self.order(heads) {
            if self.cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            // One is walked in any case, or no run would get anywhere.
            if self.walked > 0 && !self.limit.walks() {
                break;
            }
            if let Some(head) = heads.get(at) {
                let is_walked = self.head(head, feeder, &index, &slots).await?;
                self.walked += u64::from(is_walked);
            }
        }
        Ok(())
    }

    /// Everything of a snapshot; says whether this key could read its manifest.
    async fn head(
        &mut self,
        head: &SnapshotHead,
        feeder: &mut Feeder<'_, '_>,
        index: &IndexSet,
        slots: &Slots,
    ) -> Result<bool> {
        let (id, before) = (head.meta.id, self.report.findings.len());
        let subject = format!("snapshot {id}");
        self.cx.tell(Event::Current(&subject));
        let refs = self.refs(head).await?;
        let mut way = Way {
            index,
            used: Used::new(index),
            is_hurt: false,
        };
        match self.walk(head, feeder, &mut way).await {
            Ok(Some(why)) => self.found(FindingKind::Mismatch, &subject, &why),
            Ok(None) => {}
            Err(error) if error.is_damage() => {
                self.found(FindingKind::Damaged, &subject, &self.said(&error));
            }
            Err(EngineError::Key(KeyError::Outdated { .. })) => {
                let why = "it was saved since the keys were rotated, so this key does not read it: only the objects around it were checked";
                let kind = FindingKind::Skipped;
                self.tell(Finding::new(Severity::Note, kind, &subject, why));
                self.closed.insert(id);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        if way.is_hurt {
            self.doubtful.insert(id);
        }
        self.lineages(head, index, &mut way.used).await?;
        if let Some(refs) = refs {
            self.compare_refs(index, slots, &way.used, &refs)?;
        }
        if !way.is_hurt && self.report.findings.len() == before {
            lock(self.memory).note_walked(id);
        }
        Ok(true)
    }

    /// Reads every entry of a snapshot that can be read; says what does not match of the whole.
    async fn walk(
        &mut self,
        head: &SnapshotHead,
        feeder: &mut Feeder<'_, '_>,
        way: &mut Way<'_>,
    ) -> Result<Option<String>> {
        // Until the end is reached.
        way.used.is_whole = false;
        let view = SnapshotView::open(self.repo, head.clone())?;
        let mut tree = SnapshotTreeBuilder::new(view.salt());
        let mut canonical_bytes = Vec::new();
        let mut walk = view.all();
        walk.note_pages();
        let (mut lost_pages, mut all_known) = (0, true);
        loop {
            let step = walk.step(self.cx).await;
            way.used.pages(way.index, walk.noted_pages());
            let Some(step) = step? else { break };
            let entry = match step {
                Seen::Entry(entry) => entry,
                Seen::Lost(lost) => {
                    lost_pages += 1;
                    if lost_pages <= MOST_PAGES {
                        let finding = lost.finding(&view);
                        self.found(finding.kind, &finding.subject, &finding.detail);
                    }
                    continue;
                }
            };
            self.report.entries += 1;
            canonical_bytes.clear();
            canonical(
                view.component_name(entry.component),
                &entry.path,
                &entry.record,
            )
            .encode(&mut canonical_bytes)
            .map_err(|error| EngineError::damaged(&entry.path, error))?;
            tree.push(&canonical_bytes);
            if entry.record.meta.kind.has_content() {
                all_known &= self.content(&view, &entry, feeder, way).await?;
            }
        }
        way.used.is_whole = all_known && lost_pages == 0;
        if lost_pages > 0 {
            let pages = if lost_pages > MOST_PAGES {
                format!(" ({lost_pages} pages)")
            } else {
                String::new()
            };
            return Ok(Some(format!(
                "the Merkle root cannot be checked: not all of its entries can be read{pages}"
            )));
        }
        let made = tree.finish();
        if made.root != view.root() || made.leaf_count != head.outer.leaves {
            return Ok(Some(
                "the Merkle root over its entries is not the signed one".into(),
            ));
        }
        Ok(None)
    }

    /// Looks where the content of an entry lies, and hands it on to be hashed; says whether its list
    /// of extents can be read.
    async fn content(
        &mut self,
        view: &SnapshotView<'_>,
        entry: &ViewEntry,
        feeder: &mut Feeder<'_, '_>,
        way: &mut Way<'_>,
    ) -> Result<bool> {
        way.used.spills(way.index, &entry.record.content);
        let extents = match view.extents(self.cx, &entry.record).await {
            Ok(extents) => extents,
            Err(error) if error.is_damage() => {
                way.is_hurt = true;
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let is_there = self.is_there(way.index, &extents, &mut way.used.usage);
        // Of what lies in a damaged pack it is found out at the end whether it can be had.
        way.is_hurt |= is_there != Some(true);
        if self.job.level >= VerifyLevel::FullRead
            && is_there == Some(true)
            && let Some(wanted) = entry.record.sha256
            && self.takes_content(way.index, &extents, &wanted)
            && let Some(left) = feeder.add(&extents, wanted)?
        {
            self.left.add(left, extents.length());
        }
        Ok(true)
    }

    /// Whether everything that a content needs is in the index, by what is known without reading it;
    /// `None` if some of it lies in a pack that is damaged.
    fn is_there(&mut self, index: &IndexSet, extents: &Extents, used: &mut Usage) -> Option<bool> {
        let (mut is_there, mut is_well) = (true, true);
        for extent in extents.as_slice() {
            let Extent::Data {
                chunk,
                offset,
                length,
            } = extent
            else {
                continue;
            };
            let Some(place) = index.find(chunk) else {
                is_there = false;
                continue;
            };
            if used.mark_place(&place) && self.job.level < VerifyLevel::FullRead {
                self.report.chunks += 1;
            }
            is_there &= u64::from(*offset) + u64::from(*length) <= u64::from(place.located.raw);
            is_well &= !self.bad.has_pack(&place.pack);
        }
        (is_well || !is_there).then_some(is_there)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(number: u64) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&blake3::hash(&number.to_le_bytes()).as_bytes()[..16]);
        out
    }

    #[test]
    fn what_is_left_is_counted_once_each_and_beyond_what_is_kept_it_is_estimated() {
        let mut left = Left::default();
        for number in (0..MOST_LEFT as u64).chain(0..9) {
            left.add(named(number), 10);
        }
        let most = MOST_LEFT as u64;
        assert_eq!((left.contents(), left.bytes()), (most, 10 * most));
        for number in (0..1_000_000).chain(0..500_000) {
            left.add(named(number), 10);
        }
        assert!(left.seen.len() <= MOST_LEFT);
        for (found, wanted) in [(left.contents(), 1_000_000), (left.bytes(), 10_000_000)] {
            assert!(found.abs_diff(wanted) < wanted / 50, "{found}, {wanted}");
        }
    }
}
