//! What a snapshot takes in the repository, and why.
//!
//! Refs say which chunks it uses and who else does (see [`slots`]); the manifest, read page by page,
//! says which files need them; and a walk through the manifest of its parent beside it says what
//! changed. In memory are the index, the bits of the refs, the few largest of each kind, the folders on
//! the way, and what one file lies in.

mod changes;
mod largest;
mod slots;

use std::collections::HashSet;
use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{
    EntryKind, EntryPath, Event, Finding, FindingKind, OpContext, Severity, SnapshotId,
    SnapshotMeta, Stage,
};
use backup_format::extent::{Extent, Extents};
use futures::StreamExt as _;

use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::refs;
use crate::repository::Repository;
use crate::view::{Seen, SnapshotView, ViewEntry};
use changes::Changes;
pub use changes::{Change, Changed, Counted, Kind};
use largest::{Folders, Greatest};
pub use largest::{Large, Taken};
pub use slots::ChunkBytes;
use slots::Slots;

/// Findings that are kept.
const MOST_FINDINGS: usize = 10_000;

/// A component of a snapshot, and what it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ComponentUse {
    /// Its number.
    pub component: u8,
    /// Its name.
    pub name: String,
    /// The kind of source that it is of.
    pub kind: String,
    /// Entries.
    pub entries: u64,
    /// Entries with content.
    pub files: u64,
    /// Bytes of content as a restore writes it, several names of one file counted once.
    pub bytes: u64,
    /// Bytes of it that are holes.
    pub holes: u64,
    /// Bytes in the repository of the chunks that it uses; what several components use counts with the
    /// first.
    pub stored: u64,
    /// Of these, bytes that no other snapshot uses.
    pub unique: u64,
}

/// Another snapshot that uses some of the same chunks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sharing {
    /// The snapshot.
    pub snapshot: SnapshotMeta,
    /// Bytes in the repository of the chunks that both use.
    pub stored: u64,
}

/// What a snapshot takes, and why.
#[derive(Debug, Clone)]
pub struct Analysis {
    /// Its components.
    pub components: Vec<ComponentUse>,
    /// Chunks of content.
    pub content: ChunkBytes,
    /// Chunks of what describes it: pages of the manifest, lists of where content lies.
    pub description: ChunkBytes,
    /// The files that take most, the largest first.
    pub files: Vec<Large>,
    /// The folders that take most, the largest first.
    pub folders: Vec<Large>,
    /// What changed since its parent; `None`: it has none, or that is gone.
    pub changed: Option<Changed>,
    /// Snapshots that use some of the same chunks, those with most of them first.
    pub sharing: Vec<Sharing>,
    /// How many there are in all.
    pub sharing_count: u64,
    /// What could not be looked at. Then the other numbers are too small, and what is said to be unique
    /// may not be.
    pub findings: Vec<Finding>,
}

/// Finds out what a snapshot takes; only reads. `most`: how many of the largest are told.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot read; [`EngineError::Damaged`] when the refs of the
/// snapshot itself cannot be read; errors of the tier, [`EngineError::Cancelled`].
#[boxed]
pub async fn analyze(view: &SnapshotView<'_>, cx: &OpContext, most: usize) -> Result<Analysis> {
    let repo = view.repository();
    let index = repo.proven_index(cx).await?;
    let mut found = Findings::default();
    let (heads, unread) = repo.heads(cx).await?;
    for one in &unread {
        found.add(Finding::new(
            Severity::Error,
            FindingKind::Damaged,
            format!("snapshot {}", one.id),
            format!("{}; what it shares with this one is not known", one.error),
        ));
    }
    let metas: Vec<_> = heads.iter().map(|head| head.meta.clone()).collect();
    let used = Used::of(view, cx, metas, most, &mut found).await?;
    let parent = match view.meta().parent {
        Some(id) => heads.into_iter().find(|head| head.meta.id == id),
        None => None,
    };
    let parent = parent
        .map(|head| SnapshotView::open(repo, head))
        .transpose()?;
    let mut walk = Walk {
        view,
        cx,
        index: index.clone(),
        slots: used.slots,
        files: Greatest::new(most),
        folders: Folders::new(most),
        links: HashSet::new(),
        found,
    };
    let changes = |parent| Changes::new(view, parent, most);
    let mut changed = parent.as_ref().map(changes);
    let stats = view.meta().stats;
    cx.tell(Event::Entered {
        stage: Stage::Fetch,
        entries: Some(stats.entries),
        bytes: None,
    });
    let mut components = Vec::new();
    for (number, component) in (0_u8..).zip(view.components()) {
        let mut sum = ComponentUse {
            component: number,
            name: component.name,
            kind: component.kind,
            entries: 0,
            files: 0,
            bytes: 0,
            holes: 0,
            stored: 0,
            unique: 0,
        };
        walk.component(&mut sum, changed.as_mut()).await?;
        components.push(sum);
    }
    let changed = match changed {
        Some(changes) => Some(changes.end(cx, &mut walk.found).await?),
        None => None,
    };
    cx.tell(Event::Left(Stage::Fetch));
    index.check()?;
    Ok(Analysis {
        components,
        content: walk.slots.bytes(false),
        description: walk.slots.bytes(true),
        files: walk.files.into_vec(),
        folders: walk.folders.end(),
        changed,
        sharing: used.sharing,
        sharing_count: used.sharing_count,
        findings: walk.found.0,
    })
}

/// What could not be looked at.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, finding: Finding) {
        if self.0.len() < MOST_FINDINGS {
            self.0.push(finding);
        }
    }
}

/// What refs say.
struct Used {
    slots: Slots,
    sharing: Vec<Sharing>,
    sharing_count: u64,
}

impl Used {
    async fn of(
        view: &SnapshotView<'_>,
        cx: &OpContext,
        snapshots: Vec<SnapshotMeta>,
        most: usize,
        found: &mut Findings,
    ) -> Result<Self> {
        let (repo, id) = (view.repository(), view.meta().id);
        let listed = refs::list(repo, cx).await?;
        let own = read(repo, cx, &listed, id)
            .await?
            .ok_or_else(|| EngineError::Missing {
                object: format!("refs/{id}"),
                why: "nobody knows which chunks the snapshot uses".into(),
            })?;
        let (mut slots, unknown) = Slots::new(&repo.index(), own);
        for pack in unknown {
            let detail = "the refs name it, and no index run knows all of it: it is not counted";
            let (severity, kind) = (Severity::Warning, FindingKind::Missing);
            found.add(Finding::new(severity, kind, format!("pack {pack}"), detail));
        }
        let (mut sharing, mut sharing_count) = (Greatest::new(most), 0);
        let others = snapshots.into_iter().filter(|other| other.id != id);
        let listed = &listed;
        let mut reading = futures::stream::iter(others)
            .map(|other| async move { (read(repo, cx, listed, other.id).await, other) })
            .buffered(repo.connections(cx));
        while let Some((refs, other)) = reading.next().await {
            let refs = match refs {
                Ok(Some(refs)) => refs,
                // Forgotten meanwhile.
                Ok(None) => continue,
                Err(error) if error.is_damage() => {
                    let subject = format!("refs of snapshot {}", other.id);
                    let detail = format!("{error}; what it shares with this one is not known");
                    let (severity, kind) = (Severity::Error, FindingKind::Damaged);
                    found.add(Finding::new(severity, kind, subject, detail));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let stored = slots.add(refs, view.meta().parent == Some(other.id));
            sharing_count += u64::from(stored > 0);
            sharing.offer(stored, || Sharing {
                snapshot: other,
                stored,
            });
        }
        drop(reading);
        Ok(Self {
            slots,
            sharing: sharing.into_vec(),
            sharing_count,
        })
    }
}

/// All refs of a snapshot together; `None`: it has none.
async fn read(
    repo: &Repository,
    cx: &OpContext,
    listed: &refs::Listed,
    id: SnapshotId,
) -> Result<Option<backup_format::refs::Refs>> {
    let mut sum = refs::Sum::default();
    let mut is_there = false;
    for key in listed.get(&id).into_iter().flatten() {
        if let Some(refs) = refs::read(repo, cx, key).await? {
            sum.add(refs);
            is_there = true;
        }
    }
    Ok(is_there.then(|| sum.into_refs(id)))
}

/// The way through the manifest.
struct Walk<'a> {
    view: &'a SnapshotView<'a>,
    cx: &'a OpContext,
    index: Arc<IndexSet>,
    slots: Slots,
    files: Greatest<Large>,
    folders: Folders,
    /// Files of several names that came already, by component.
    links: HashSet<(u8, u64)>,
    found: Findings,
}

impl Walk<'_> {
    async fn component(
        &mut self,
        sum: &mut ComponentUse,
        mut changes: Option<&mut Changes<'_>>,
    ) -> Result<()> {
        let mut entries = self.view.entries(sum.component, &EntryPath::root());
        while let Some(seen) = entries.step(self.cx).await? {
            let entry = match seen {
                Seen::Entry(entry) => *entry,
                Seen::Lost(lost) => {
                    self.found.add(lost.finding(self.view));
                    continue;
                }
            };
            sum.entries += 1;
            self.cx.tell(Event::Advanced {
                stage: Stage::Fetch,
                entries: 1,
                bytes: 0,
            });
            let taken = self.entry(&entry, sum).await?;
            if let Some(changes) = &mut changes {
                changes
                    .see(self.cx, &entry, &taken, &mut self.found)
                    .await?;
            }
        }
        Ok(())
    }

    /// What an entry takes.
    async fn entry(&mut self, entry: &ViewEntry, sum: &mut ComponentUse) -> Result<Taken> {
        let (component, meta) = (entry.component, &entry.record.meta);
        if meta.kind == EntryKind::Directory {
            self.folders.enter(component, &entry.path);
        }
        if !meta.kind.has_content() {
            return Ok(Taken::default());
        }
        sum.files += 1;
        let extents = match self.view.extents(self.cx, &entry.record).await {
            Ok(extents) => extents,
            Err(error) if error.is_damage() => {
                let detail = error.to_string();
                self.found
                    .add(Finding::entry(FindingKind::Damaged, &entry.path, detail));
                return Ok(Taken::default());
            }
            Err(error) => return Err(error),
        };
        let taken = self.taken(&extents, sum);
        // Further names of a file take nothing.
        let group = meta.link_group.map(|group| (component, group));
        if group.is_some_and(|group| !self.links.insert(group)) {
            return Ok(Taken::default());
        }
        sum.bytes = sum.bytes.saturating_add(taken.size);
        sum.holes = sum.holes.saturating_add(taken.holes);
        self.folders.add(component, &entry.path, &taken);
        self.files.offer(taken.stored, || Large {
            component,
            path: entry.path.clone(),
            taken,
        });
        Ok(taken)
    }

    fn taken(&mut self, extents: &Extents, sum: &mut ComponentUse) -> Taken {
        let mut taken = Taken {
            size: extents.length(),
            ..Taken::default()
        };
        // Of each chunk all that is needed counts before it is rounded.
        let mut open: Option<(slots::Found, u64)> = None;
        let mut last = None;
        for extent in extents.as_slice() {
            match extent {
                Extent::Zero { length } => taken.holes += length,
                Extent::Data { chunk, length, .. } => {
                    if last != Some(*chunk) {
                        close(open.take(), &mut taken);
                        last = Some(*chunk);
                        open = self.slots.find(&self.index, chunk).map(|found| (found, 0));
                        if let Some((found, _)) = open
                            && found.is_first
                        {
                            let stored = u64::from(found.slot.stored);
                            sum.stored += stored;
                            sum.unique += if found.is_unique { stored } else { 0 };
                        }
                    }
                    if let Some((_, needed)) = &mut open {
                        *needed += u64::from(*length);
                    }
                }
            }
        }
        close(open, &mut taken);
        taken
    }
}

/// Adds the share of a chunk of which so many bytes are needed.
fn close(open: Option<(slots::Found, u64)>, taken: &mut Taken) {
    let Some((found, needed)) = open else { return };
    let raw = u64::from(found.slot.raw).max(1);
    // What is needed twice is stored once.
    let share = u64::from(found.slot.stored) * needed.min(raw) / raw;
    taken.stored += share;
    taken.unique += if found.is_unique { share } else { 0 };
    taken.new += if found.is_new { share } else { 0 };
}
