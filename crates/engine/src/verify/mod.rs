//! Verification by levels, sampled or in slices.
//!
//! *Metadata*: the heads are signed and whole, every page of every manifest opens, the Merkle root
//! over all entries is the signed one, every chunk that is named is in the index, every pack of the
//! index is on the tier with its size, the refs of each snapshot name what it uses. *Checksum*: the bytes of the packs hash to their names, and their parity is whole.
//! *Full read*: every blob opens and hashes to its id, and so every extent; and the SHA-256 of every
//! file is that of its content. A damaged object is named with the snapshots and paths it hurts; behind
//! a page that does not open, the walk goes on.

use std::collections::{BTreeMap, HashMap, HashSet};

use backup_core::{
    ChunkId, Event, Finding, FindingKind, ObjectKey, OpContext, PackId, Sample, Severity, Stage,
    VerifyLevel, VerifyReport,
};
use backup_format::extent::{Extent, Extents};
use backup_format::layout;
use backup_integrity::merkle::SnapshotTreeBuilder;
use futures::TryStreamExt;
use tokio::runtime::Handle;

use self::content::{Contents, Feeder, Known};
use self::packs::PackPass;
use self::refs::{Slots, Used};
use crate::error::{EngineError, Result};
use crate::index_set::{IndexSet, PackFacts};
use crate::refs::Listed;
use crate::repository::{Repository, SnapshotHead, name};
use crate::stage::canonical;
use crate::usage::Usage;
use crate::view::{Seen, SnapshotView, check_signatures};

mod budget;
mod content;
mod packs;
mod parity;
mod parts;
mod refs;
mod sessions;

/// Paths that are named for one damaged object.
const MOST_PATHS: usize = 20;
/// Pages that are named for one snapshot.
const MOST_PAGES: u64 = 1000;

/// What a verification found.
#[derive(Debug, Clone)]
pub struct VerifyOutcome {
    /// Counts and findings.
    pub report: VerifyReport,
    /// Snapshots that were looked at.
    pub snapshots: u64,
    /// Whether manifests could be read with this key, or only the objects around them.
    pub read_manifests: bool,
}

/// Verifies snapshots and the packs that their refs name; if none are named, all snapshots and all packs
/// that the index knows.
///
/// # Errors
/// Errors of the tier as a whole; what is wrong with data is in the findings.
pub async fn verify(
    repo: &Repository,
    cx: &OpContext,
    snapshots: Option<Vec<SnapshotHead>>,
    level: VerifyLevel,
    sample: Sample,
) -> Result<VerifyOutcome> {
    let bad = BTreeMap::new();
    verify_with(repo, cx, snapshots, (level, sample), bad).await
}

/// What is wrong, and whom it hurts, as a verification of metadata says it of a repository of which these
/// packs are known to be damaged.
pub(crate) async fn verify_knowing(
    repo: &Repository,
    cx: &OpContext,
    bad: BTreeMap<PackId, (ObjectKey, String)>,
) -> Result<VerifyOutcome> {
    let whole = (VerifyLevel::Metadata, Sample::All);
    verify_with(repo, cx, None, whole, bad).await
}

async fn verify_with(
    repo: &Repository,
    cx: &OpContext,
    snapshots: Option<Vec<SnapshotHead>>,
    (level, sample): (VerifyLevel, Sample),
    bad: BTreeMap<PackId, (ObjectKey, String)>,
) -> Result<VerifyOutcome> {
    let mut run = Run {
        repo,
        cx,
        report: VerifyReport::default(),
        bad_packs: HashMap::new(),
        unwanted: HashSet::new(),
        bad_chunks: HashMap::new(),
        gone: Vec::new(),
        // Refs are there before their snapshot, and are replaced by others before they go.
        listed_refs: Listed::new(),
    };
    let is_all = snapshots.is_none();
    let heads = match snapshots {
        Some(heads) => heads,
        None => {
            let (heads, unread) = repo.heads(cx).await?;
            for one in unread {
                let subject = format!("snapshot {}", one.id);
                run.found(FindingKind::Damaged, &subject, &one.error.to_string());
            }
            heads
        }
    };
    run.listed_refs = crate::refs::list(repo, cx).await?;
    run.around(&heads).await?;
    let wanted = if is_all {
        None
    } else {
        run.packs_of(&heads).await?
    };
    let chosen = run.packs_there(sample, wanted).await?;
    run.tell_gone().await?;
    for (id, (key, why)) in bad {
        if !run.bad_packs.contains_key(&id) {
            run.bad_pack(id, FindingKind::Damaged, key.as_str(), &why);
        }
    }
    // What damaged packs hold may be in others too.
    repo.shun(run.bad_packs.keys().chain(&run.unwanted).copied().collect());
    run.parity(level, &chosen).await?;
    let read_manifests = repo.keys().identities().is_ok();
    // All at once: every pack is fetched when the first file needs it. A sample of the packs is
    // checked first, since files that it does not take lie in packs that it takes.
    let at_once = read_manifests && level >= VerifyLevel::FullRead && sample == Sample::All;
    if level >= VerifyLevel::Checksum {
        let total: u64 = chosen.iter().map(|(_, facts)| facts.size).sum();
        cx.tell(Event::Entered {
            stage: Stage::Verify,
            entries: Some(chosen.len() as u64),
            bytes: Some(total),
        });
        if !at_once {
            run.packs(level, chosen.clone(), &Known::default())?;
        }
    }
    let whole = if at_once {
        chosen.iter().copied().collect()
    } else {
        HashMap::new()
    };
    tokio::task::block_in_place(|| {
        let ((), known) = Contents::read(repo, cx, whole, |feeder| {
            Handle::current().block_on(run.heads(&heads, feeder, level, sample))
        })?;
        if at_once {
            run.packs_left(level, chosen, known)?;
        }
        Ok::<_, EngineError>(())
    })?;
    run.tell_gone().await?;
    Ok(VerifyOutcome {
        report: run.report,
        snapshots: heads.len() as u64,
        read_manifests,
    })
}

struct Run<'a> {
    repo: &'a Repository,
    cx: &'a OpContext,
    report: VerifyReport,
    bad_packs: HashMap<PackId, String>,
    /// Packs that are not as they should be, and that the snapshots that are looked at do not name.
    unwanted: HashSet<PackId>,
    bad_chunks: HashMap<[u8; 16], String>,
    /// Packs that are not on the tier, with what is to be said of them.
    gone: Vec<(PackId, String, String)>,
    listed_refs: Listed,
}

impl Run<'_> {
    fn found(&mut self, kind: FindingKind, subject: &str, detail: &str) {
        let finding = Finding::new(Severity::Error, kind, subject, detail);
        self.cx.tell(Event::Found(&finding));
        self.report.findings.push(finding);
    }

    /// What lies around manifests and packs: index runs, key slots, sessions, and the refs of
    /// snapshots.
    async fn around(&mut self, heads: &[SnapshotHead]) -> Result<()> {
        self.sessions().await?;
        for (key, error) in self.repo.take_damaged_runs() {
            self.found(FindingKind::Damaged, key.as_str(), &error.to_string());
        }
        for (key, slot) in self.repo.slots(self.cx).await? {
            self.report.objects += 1;
            if let Err(error) = slot {
                self.found(FindingKind::Damaged, key.as_str(), &error.to_string());
            }
        }
        self.unknown_names().await?;
        if self.repo.keys().identities().is_err() {
            // Who cannot read manifests can still see whether there are refs.
            for head in heads {
                self.refs(head).await?;
            }
        }
        Ok(())
    }

    /// The packs that snapshots use, by their refs; `None` where these cannot be read.
    async fn packs_of(&mut self, heads: &[SnapshotHead]) -> Result<Option<HashSet<PackId>>> {
        let mut out = HashSet::new();
        for head in heads {
            let Some(keys) = self.listed_refs.get(&head.meta.id) else {
                return Ok(None);
            };
            for key in keys {
                match crate::refs::read(self.repo, self.cx, key).await {
                    Ok(Some(refs)) => out.extend(refs.packs.iter().map(|pack| pack.pack)),
                    // What is wrong with them is told where they are compared.
                    Ok(None) => return Ok(None),
                    Err(error) if error.is_damage() => return Ok(None),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(Some(out))
    }

    /// Looks which packs of the index, of those that are wanted, are on the tier; returns those of the
    /// sample.
    async fn packs_there(
        &mut self,
        sample: Sample,
        wanted: Option<HashSet<PackId>>,
    ) -> Result<Vec<(PackId, PackFacts)>> {
        let packs = self.repo.index().packs();
        let is_wanted = |id: &PackId| wanted.as_ref().is_none_or(|wanted| wanted.contains(id));
        let mut on_tier: HashMap<String, u64> = HashMap::new();
        for prefix in ["data/", "meta/"] {
            let mut list = self.repo.sink().list(self.cx, prefix, None);
            while let Some(meta) = list.try_next().await? {
                on_tier.insert(meta.key.to_string(), meta.size);
            }
        }
        let mut chosen = Vec::new();
        for (id, facts) in packs {
            let key = name(layout::pack(id, facts.is_meta))?;
            let size = on_tier.get(key.as_str());
            if !is_wanted(&id) {
                if size != Some(&facts.size) {
                    // What is wanted may lie there too, and is looked for elsewhere.
                    self.unwanted.insert(id);
                }
                continue;
            }
            self.report.objects += 1;
            match size {
                None => self.bad_pack(
                    id,
                    FindingKind::Missing,
                    key.as_str(),
                    "it is not on the tier",
                ),
                Some(size) if *size != facts.size => {
                    let why = format!("it has {size} bytes instead of {}", facts.size);
                    self.bad_pack(id, FindingKind::Damaged, key.as_str(), &why);
                }
                Some(_) if sample.takes(&id.0) => chosen.push((id, facts)),
                Some(_) => {}
            }
        }
        Ok(chosen)
    }

    /// Checks packs, but for what is known of them.
    fn packs(
        &mut self,
        level: VerifyLevel,
        packs: Vec<(PackId, PackFacts)>,
        known: &Known,
    ) -> Result<()> {
        let pass = PackPass {
            repo: self.repo,
            cx: self.cx,
            level,
            known,
        };
        for check in tokio::task::block_in_place(|| pass.run(packs))? {
            self.report.bytes += check.bytes;
            self.report.chunks += check.chunks;
            if let Some((kind, why)) = check.whole {
                self.bad_pack(check.id, kind, &format!("pack {}", check.id), &why);
            }
            for (chunk, why) in check.faults {
                self.bad_chunk(check.id, chunk, why);
            }
        }
        Ok(())
    }

    /// What files did not need of the packs: whole packs, and blobs of those that were read.
    fn packs_left(
        &mut self,
        level: VerifyLevel,
        packs: Vec<(PackId, PackFacts)>,
        mut known: Known,
    ) -> Result<()> {
        self.report.chunks += known.opened.len() as u64;
        for (pack, chunk, why) in std::mem::take(&mut known.faults) {
            self.bad_chunk(pack, chunk, why);
        }
        let mut left = Vec::new();
        for (id, facts) in packs {
            let Some(seen) = known.packs.get_mut(&id).filter(|seen| seen.is_read) else {
                left.push((id, facts));
                continue;
            };
            self.report.bytes += seen.bytes;
            let is_gone = seen.bytes == 0;
            if let Some((kind, why)) = seen.whole.take() {
                self.bad_pack(id, kind, &format!("pack {id}"), &why);
            }
            // All that the index has was opened, and its end names nothing else.
            let is_done = seen.named == seen.in_place && seen.opened == facts.blobs;
            if !is_gone && !is_done {
                left.push((id, facts));
            }
        }
        self.packs(level, left, &known)
    }

    fn bad_chunk(&mut self, pack: PackId, chunk: ChunkId, why: String) {
        let subject = format!("chunk {chunk} in pack {pack}");
        self.found(FindingKind::Damaged, &subject, &why);
        self.bad_chunks.insert(chunk.prefix(), why);
    }

    fn bad_pack(&mut self, id: PackId, kind: FindingKind, subject: &str, why: &str) {
        self.bad_packs.insert(id, why.to_owned());
        if kind == FindingKind::Missing {
            self.gone.push((id, subject.to_owned(), why.to_owned()));
        } else {
            self.found(kind, subject, why);
        }
    }

    /// Tells of the packs that are not on the tier, but for those that were collected meanwhile.
    async fn tell_gone(&mut self) -> Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        // That what is being collected cannot be read is told already.
        let dead = self.repo.collection(self.cx).await.unwrap_or_default().dead;
        for (id, subject, why) in std::mem::take(&mut self.gone) {
            if dead.contains(&id) {
                self.bad_packs.remove(&id);
            } else {
                self.found(FindingKind::Missing, &subject, &why);
            }
        }
        // What lay there is in other packs by now.
        self.repo.pass_over(dead);
        self.repo.refresh_index(self.cx).await?;
        Ok(())
    }

    /// Signatures and entries of every snapshot.
    async fn heads(
        &mut self,
        heads: &[SnapshotHead],
        feeder: &mut Feeder<'_, '_>,
        level: VerifyLevel,
        sample: Sample,
    ) -> Result<()> {
        let index = self.repo.index();
        let slots = Slots::new(&index);
        for head in heads {
            if self.cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let subject = format!("snapshot {}", head.meta.id);
            if let Err(error) = check_signatures(self.repo, head) {
                self.found(FindingKind::Mismatch, &subject, &error.to_string());
            }
            if self.repo.keys().identities().is_err() {
                continue;
            }
            let refs = self.refs(head).await?;
            let mut hurt = Vec::new();
            let mut used = Used::new(&index);
            let walked = self
                .walk(head, feeder, (level, sample), &index, &mut used, &mut hurt)
                .await;
            if let Err(error) = &walked
                && !error.is_damage()
            {
                return walked.map(drop);
            }
            // What was added is finished even if the rest of the manifest cannot be read.
            hurt.extend(feeder.drain()?);
            self.tell_hurt(&subject, &hurt);
            match walked {
                Ok(Some(why)) => self.found(FindingKind::Mismatch, &subject, &why),
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    self.found(FindingKind::Damaged, &subject, &error.to_string());
                }
                Err(error) => return Err(error),
            }
            self.lineages(head, &index, &mut used).await?;
            if let Some(refs) = refs {
                self.compare_refs(&index, &slots, &used, &refs)?;
            }
        }
        Ok(())
    }

    /// Reads every entry of a snapshot that can be read; says what does not match of the whole.
    async fn walk(
        &mut self,
        head: &SnapshotHead,
        feeder: &mut Feeder<'_, '_>,
        (level, sample): (VerifyLevel, Sample),
        index: &IndexSet,
        used: &mut Used,
        hurt: &mut Vec<(String, String)>,
    ) -> Result<Option<String>> {
        // Until the end is reached.
        used.is_whole = false;
        let mut all_known = true;
        let view = SnapshotView::open(self.repo, head.clone())?;
        let mut tree = SnapshotTreeBuilder::new(view.salt());
        let mut canonical_bytes = Vec::new();
        let mut walk = view.all();
        walk.note_pages();
        let mut lost_pages = 0;
        loop {
            let step = walk.step(self.cx).await;
            used.pages(index, walk.noted_pages());
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
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            used.spills(index, &entry.record.content);
            let extents = match view.extents(self.cx, &entry.record).await {
                Ok(extents) => extents,
                Err(error) if error.is_damage() => {
                    all_known = false;
                    hurt.push((entry.path.to_string(), error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            let bad = self.known_bad(index, &extents, level, &mut used.usage);
            if let Some(why) = bad {
                hurt.push((entry.path.to_string(), why));
                continue;
            }
            let wanted = entry.record.sha256;
            // Chunks of a content without SHA-256 are opened with the packs; that one of them is
            // damaged is told of its entry only if they are read here.
            let takes = wanted.map_or(sample == Sample::All, |wanted| sample.takes(&wanted));
            if level >= VerifyLevel::FullRead && takes {
                feeder.add(&entry.path, &extents, wanted)?;
            }
        }
        used.is_whole = all_known && lost_pages == 0;
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

    /// Why a content cannot be had, by what is known without reading it.
    fn known_bad(
        &mut self,
        index: &IndexSet,
        extents: &Extents,
        level: VerifyLevel,
        used: &mut Usage,
    ) -> Option<String> {
        let mut bad = None;
        for extent in extents.as_slice() {
            let Extent::Data { chunk, .. } = extent else {
                continue;
            };
            match index.find(chunk) {
                None => bad = Some(format!("chunk {chunk} is in no index run")),
                Some(place) => {
                    if used.mark_place(&place) && level < VerifyLevel::FullRead {
                        self.report.chunks += 1;
                    }
                    bad = bad
                        .or_else(|| self.bad_packs.get(&place.pack).cloned())
                        .or_else(|| self.bad_chunks.get(&chunk.prefix()).cloned());
                }
            }
        }
        bad
    }

    fn tell_hurt(&mut self, subject: &str, hurt: &[(String, String)]) {
        if hurt.is_empty() {
            return;
        }
        let shown = hurt
            .iter()
            .take(MOST_PATHS)
            .map(|(path, why)| format!("{path} ({why})"))
            .collect::<Vec<_>>()
            .join("; ");
        let more = hurt.len().saturating_sub(MOST_PATHS);
        let more = if more > 0 {
            format!("; and {more} more")
        } else {
            String::new()
        };
        let count = hurt.len();
        let detail = format!("{count} entries cannot be restored whole: {shown}{more}");
        self.found(FindingKind::Damaged, subject, &detail);
    }
}

#[cfg(test)]
mod tests;
