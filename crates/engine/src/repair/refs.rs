//! Refs of snapshots: what a snapshot uses, found out anew by reading its manifest and its lineage directory.
//!
//! Whoever does this names packs that others may be about to delete, so it is a session like a repacker's.
//! What is condemned is named only where nothing else has the chunk: as long as a snapshot has no refs, or some
//! that cannot be read, no collection comes to a decision.

use std::collections::BTreeSet;

use backup_core::{ChunkId, HostId, ObjectKey, OpContext, PackId, SnapshotId};
use backup_format::extent::{Content, Extent, Extents};
use backup_format::lineage::LineageHead;
use backup_format::refs::Refs;
use backup_format::seal::BlobKind;

use super::objects::packs_here;
use super::survey::{Named, Tier, Torn};
use super::{Remedy, RepairPlan, Task, Work};
use crate::announced::Announced;
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::prune::repack::place_refs;
use crate::refs;
use crate::repository::{Repository, SnapshotHead};
use crate::tree::{Met, TreeReader};
use crate::usage::Usage;
use crate::view::{Seen, SnapshotView};

/// Refs to be made anew.
#[derive(Debug)]
pub(super) struct BadRefs {
    torn: Torn,
    /// Those that name packs which are nowhere, and go when others say what the snapshot uses.
    outdated: Vec<ObjectKey>,
    /// The copy that tells what the snapshot uses; without one, its manifest does.
    copy: Option<usize>,
}

impl BadRefs {
    /// All refs of a snapshot, and those of them that name packs which are nowhere.
    pub(super) const fn outdated(
        head: SnapshotHead,
        refs: Vec<ObjectKey>,
        outdated: Vec<ObjectKey>,
    ) -> Self {
        Self {
            torn: Torn {
                head,
                refs,
                damaged: Vec::new(),
            },
            outdated,
            copy: None,
        }
    }
}

pub(super) async fn plan(
    repo: &Repository,
    cx: &OpContext,
    others: &[Repository],
    (tier, named): (&Tier, &Named),
    plan: &mut RepairPlan,
) -> Result<()> {
    let is_reader = repo.keys().identities().is_ok();
    for torn in &named.torn {
        let subject = format!("refs of snapshot {}", torn.head.meta.id);
        let why = match torn.damaged.first() {
            Some((key, why)) => format!("{key} cannot be read: {why}"),
            None => "it has none".to_owned(),
        };
        let copy = match is_reader {
            true => None,
            false => {
                let id = torn.head.meta.id;
                let Some(number) = of_copies(cx, id, others, &packs_here(tier, plan)).await? else {
                    plan.needs_reader(&subject, &why);
                    continue;
                };
                Some(number)
            }
        };
        let (torn, outdated) = (torn.clone(), Vec::new());
        plan.tasks.push(Task {
            subject,
            why,
            remedy: copy.map_or(Remedy::Manifest, |number| {
                Remedy::Copy(others[number].location())
            }),
            work: Work::Refs(Box::new(BadRefs {
                torn,
                outdated,
                copy,
            })),
        });
    }
    let untold = plan.untold(repo, tier, named);
    if !untold.is_empty() && is_reader {
        plan_outdated(repo, cx, &untold, plan).await?;
    }
    Ok(())
}

/// Plans to make refs anew that name packs which are nowhere, and of which nothing tells what they held: whatever snapshots
/// use of them may lie in other packs by now, and a prune deletes nothing as long as nobody knows in which.
async fn plan_outdated(
    repo: &Repository,
    cx: &OpContext,
    untold: &BTreeSet<PackId>,
    plan: &mut RepairPlan,
) -> Result<()> {
    let mut listed = refs::list(repo, cx).await?;
    for head in repo.heads(cx).await?.0 {
        let keys = listed.remove(&head.meta.id).unwrap_or_default();
        let (mut named, mut outdated) = (None, Vec::new());
        for key in &keys {
            let refs = match refs::read(repo, cx, key).await {
                Err(error) if error.is_damage() => None,
                read => read?,
            };
            let packs = refs.map(|refs| refs.packs).unwrap_or_default();
            let mut packs = packs.into_iter().map(|one| one.pack);
            if let Some(pack) = packs.find(|id| untold.contains(id)) {
                named.get_or_insert(pack);
                outdated.push(key.clone());
            }
        }
        let Some(pack) = named else { continue };
        let subject = format!("refs of snapshot {}", head.meta.id);
        if plan.tasks.iter().any(|task| task.subject == subject) {
            continue;
        }
        let refs = BadRefs::outdated(head, keys, outdated);
        plan.tasks.push(Task {
            subject,
            why: format!(
                "they name pack {pack}, which is not on the tier and in no index run that can be read"
            ),
            remedy: Remedy::Manifest,
            work: Work::Refs(Box::new(refs)),
        });
    }
    Ok(())
}

/// The first of the copies whose refs of a snapshot name only packs that are here.
async fn of_copies(
    cx: &OpContext,
    snapshot: SnapshotId,
    others: &[Repository],
    here: &BTreeSet<PackId>,
) -> Result<Option<usize>> {
    for (number, other) in others.iter().enumerate() {
        let sum = match of_copy(other, cx, snapshot).await {
            Err(error) if error.is_damage() => continue,
            sum => sum?,
        };
        if !sum.0.is_empty() && sum.0.keys().all(|id| here.contains(id)) {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Writes refs of what a snapshot uses, and takes away those that cannot be read.
///
/// # Errors
/// Damage when not all that the snapshot uses can be found; then nothing was changed.
/// [`EngineError::OtherPrune`] when this run was taken for dead. Errors of the tier.
pub(super) async fn rebuild(
    repo: &Repository,
    cx: &OpContext,
    host: &HostId,
    bad: &BadRefs,
    others: &[Repository],
) -> Result<()> {
    let Torn {
        head,
        refs: known,
        damaged,
    } = &bad.torn;
    // There is no data key: nothing new is sealed.
    let session = Announced::begin(repo, cx, host, Vec::new()).await?;
    let made = async {
        settle(repo, cx).await;
        let refs = match bad.copy.and_then(|number| others.get(number)) {
            None => used_by(repo, cx, head).await?,
            Some(copy) => {
                let refs = of_copy(copy, cx, head.meta.id)
                    .await?
                    .into_refs(head.meta.id);
                let packs = refs.packs.iter().map(|one| one.pack);
                is_staying(repo, cx, packs, &format!("refs of {}", head.meta.id)).await?;
                refs
            }
        };
        place_refs(repo, cx, known, &refs).await
    };
    let placed = match made.await {
        Ok(placed) => placed,
        Err(error) => {
            session.end_of_failed(repo, cx).await;
            return Err(error);
        }
    };
    settle(repo, cx).await;
    if session.is_revoked(repo, cx).await? {
        let why = "it took this repair for dead; run it again, nothing is lost";
        return Err(EngineError::OtherPrune(why.into()));
    }
    if let Err(error) = is_kept(repo, cx, head.meta.id, &placed).await {
        session.end_of_failed(repo, cx).await;
        return Err(error);
    }
    take_away(repo, cx, damaged).await?;
    for key in &bad.outdated {
        repo.sink().delete(cx, key).await?;
    }
    session.end(repo, cx).await
}

/// Whether refs that were written are there: others go for their sake, and tiers have said that they have what they have not.
/// Those of a snapshot that was forgotten meanwhile need not be.
pub(super) async fn is_kept(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    placed: &ObjectKey,
) -> Result<()> {
    if refs::read(repo, cx, placed).await?.is_some() || !repo.has_snapshot(cx, snapshot).await? {
        return Ok(());
    }
    let why = "it was written, and the tier does not give it back; its medium may be failing";
    Err(EngineError::damaged(placed, why))
}

/// Refuses to name packs that are dead or about to be. For a session that has waited for what was condemned before it.
///
/// # Errors
/// Damage of `subject`; errors of the tier.
pub(super) async fn is_staying(
    repo: &Repository,
    cx: &OpContext,
    mut packs: impl Iterator<Item = PackId> + Clone,
    subject: &str,
) -> Result<()> {
    let going = repo.collection(cx).await?;
    if packs.clone().any(|id| going.dead.contains(&id)) {
        let why = "a prune has deleted what it needs";
        return Err(EngineError::damaged(subject, why));
    }
    if packs.any(|id| going.condemned.contains(&id)) {
        let why =
            "what it needs is about to be deleted by a prune; run this again when that is done";
        return Err(EngineError::damaged(subject, why));
    }
    Ok(())
}

/// Takes away refs that cannot be read, once others say what they said.
pub(super) async fn take_away(
    repo: &Repository,
    cx: &OpContext,
    damaged: &[(ObjectKey, String)],
) -> Result<()> {
    for (key, _) in damaged {
        // One that can be read after all says nothing wrong.
        if refs::read(repo, cx, key)
            .await
            .is_err_and(|error| error.is_damage())
        {
            repo.sink().delete(cx, key).await?;
        }
    }
    Ok(())
}

/// Marks what a snapshot uses.
struct Marks<'a> {
    index: &'a IndexSet,
    /// The same index without what may be deleted soon.
    safe: IndexSet,
    usage: Usage,
    snapshot: SnapshotId,
}

impl Marks<'_> {
    fn chunk(&mut self, id: &ChunkId) -> Result<()> {
        if self.usage.mark(&self.safe, id) || self.usage.mark(self.index, id) {
            return Ok(());
        }
        Err(EngineError::Missing {
            object: format!("chunk {id}"),
            why: format!(
                "snapshot {} uses it and no index run knows it, so refs would not say all that it needs",
                self.snapshot
            ),
        })
    }

    fn chunks(&mut self, ids: impl IntoIterator<Item = ChunkId>) -> Result<()> {
        ids.into_iter().try_for_each(|id| self.chunk(&id))
    }

    fn extents(&mut self, extents: &Extents) -> Result<()> {
        self.chunks(extents.as_slice().iter().filter_map(|extent| match extent {
            Extent::Data { chunk, .. } => Some(*chunk),
            Extent::Zero { .. } => None,
        }))
    }

    fn spills(&mut self, content: &Content) -> Result<()> {
        match content {
            Content::Spilled(spills) => self.chunks(spills.iter().copied()),
            Content::Inline(_) => Ok(()),
        }
    }
}

/// The refs of a snapshot, by its manifest.
pub(crate) async fn used_by(
    repo: &Repository,
    cx: &OpContext,
    head: &SnapshotHead,
) -> Result<Refs> {
    let collection = repo.collection(cx).await?;
    repo.pass_over(collection.dead);
    repo.refresh_index(cx).await?;
    let index = repo.proven_index(cx).await?;
    let mut marks = Marks {
        safe: index.avoiding(&collection.condemned),
        index: &index,
        usage: Usage::new(&index),
        snapshot: head.meta.id,
    };
    let view = SnapshotView::open(repo, head.clone())?;
    let mut walk = view.all();
    walk.note_pages();
    loop {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let step = walk.step(cx).await;
        marks.chunks(walk.noted_pages())?;
        match step? {
            None => break,
            Some(Seen::Lost(lost)) => {
                let subject = format!("snapshot {}", head.meta.id);
                let why = format!("a page of its manifest cannot be read: {}", lost.why);
                return Err(EngineError::damaged(subject, why));
            }
            Some(Seen::Entry(entry)) if entry.record.meta.kind.has_content() => {
                marks.spills(&entry.record.content)?;
                marks.extents(&view.extents(cx, &entry.record).await?)?;
            }
            Some(Seen::Entry(_)) => {}
        }
    }
    lineages(repo, cx, head, &mut marks).await?;
    let refs = marks.usage.refs(head.meta.id, &index, &[])?;
    // What it could not say would be missing from them.
    index.check()?;
    Ok(refs)
}

/// Marks the lineage directory and what it names. No restore needs it, so what of it is lost is left out.
async fn lineages(
    repo: &Repository,
    cx: &OpContext,
    head: &SnapshotHead,
    marks: &mut Marks<'_>,
) -> Result<()> {
    let Some(root) = head.outer.lineage else {
        return Ok(());
    };
    let mut walk = TreeReader::new(repo, root, BlobKind::Lineage).walk(&[]);
    walk.note_pages();
    loop {
        let step = walk.step(cx).await;
        for page in walk.noted_pages() {
            let _ = marks.chunk(&page);
        }
        let value = match step {
            Ok(None) => return Ok(()),
            Ok(Some(Met::Entry(_, value))) => value,
            Ok(Some(Met::Lost(_))) => continue,
            Err(error) if error.is_damage() => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Ok(lineage) = LineageHead::decode(&value) {
            let parts = lineage.layers.iter().flat_map(|layer| &layer.parts);
            for part in parts {
                let _ = marks.chunk(part);
            }
            let _ = marks.spills(&lineage.content);
            if let Content::Inline(extents) = &lineage.content {
                let _ = marks.extents(extents);
            }
        }
    }
}

/// What a copy says that a snapshot uses there.
pub(super) async fn of_copy(
    other: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
) -> Result<refs::Sum> {
    let keys = refs::list(other, cx).await?.remove(&snapshot);
    let mut out = refs::Sum::default();
    for key in keys.unwrap_or_default() {
        if let Some(refs) = refs::read(other, cx, &key).await? {
            out.add(refs);
        }
    }
    Ok(out)
}
