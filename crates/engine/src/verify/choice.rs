//! Which packs a verification looks at, and in which order: those that the snapshots name that it is
//! about, of them those that are on the tier, of them the sample; what was damaged, never checked, or
//! checked longest ago comes first.
//!
//! A sample or slice is one of packs. Each content goes with the pack of one of its chunks ([`home`]), so a
//! small file costs nothing: its chunk is opened in any case. If contents were drawn by their own names,
//! small files would pull in nearly all chunks, for each chunk holds many of them, and a thirtieth of them
//! is in almost every one. A large file pulls in its chunks of other packs too, since SHA-256 needs all of it;
//! those are opened once more in the slices of their own packs, so all slices together read at most the packs
//! and the contents that lie in several of them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use backup_core::{
    Event, Finding, FindingKind, ObjectKey, PackId, Sample, Severity, Stage, VerifyLevel,
};
use backup_format::extent::{Extent, Extents};
use backup_format::layout;
use futures::TryStreamExt;

use super::limit::ReadBudget;
use super::parts::lock;
use super::{Run, packs, walk};
use crate::collect::settle;
use crate::error::Result;
use crate::heirs::heirs;
use crate::index_set::{IndexSet, PackFacts};
use crate::refs;
use crate::repository::{SnapshotHead, name};

/// How often refs are read anew that change while they are read.
const TRIES: usize = 3;

const SET_ASIDE: &str =
    "it is damaged, and a repair set it aside: what is whole of it is read there";

/// Whether refs tell all that snapshots name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    All,
    /// Some cannot be read.
    NotAll,
    /// They changed while they were read.
    Moved,
}

/// The pack with which a content is hashed where only some packs are read: that of one of its chunks, drawn by its
/// SHA-256. Not always the first: the versions of a large file begin with the same chunk, and all of them would be
/// hashed in the same slice. None for one of holes alone.
pub(super) fn home(index: &IndexSet, extents: &Extents, sha256: &[u8; 32]) -> Option<PackId> {
    let chunks = || {
        extents.as_slice().iter().filter_map(|extent| match extent {
            Extent::Data { chunk, .. } => Some(chunk),
            Extent::Zero { .. } => None,
        })
    };
    // The first bytes say to which sample a content belongs that has no chunk.
    let [.., a, b, c, d] = *sha256;
    let drawn = u32::from_be_bytes([a, b, c, d]) as usize;
    let drawn = drawn.checked_rem(chunks().count())?;
    let places = chunks()
        .nth(drawn)
        .map(|chunk| index.places(&chunk.prefix()));
    // Of a chunk that is stored twice: the order of the index may be another by the next slice.
    places.and_then(|places| places.map(|place| place.pack).min())
}

impl Run<'_> {
    /// Whether a content belongs to the sample.
    pub(super) fn takes_content(
        &self,
        index: &IndexSet,
        extents: &Extents,
        sha256: &[u8; 32],
    ) -> bool {
        match self.job.sample {
            Sample::All => true,
            sample => {
                let home = home(index, extents, sha256);
                sample.takes(&home.map_or(*sha256, |pack| pack.0))
            }
        }
    }

    /// The packs that snapshots use, by their refs; `None` where these cannot be read.
    pub(super) async fn packs_of(
        &mut self,
        heads: &[SnapshotHead],
    ) -> Result<Option<HashSet<PackId>>> {
        let mut out = HashSet::new();
        for head in heads {
            let Some(keys) = self.listed_refs.get(&head.meta.id) else {
                return Ok(None);
            };
            for key in keys {
                match refs::read(self.repo, self.cx, key).await {
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
    /// sample, and those that were damaged when this host looked at them last.
    async fn packs_there(
        &mut self,
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
        let mut aside: Option<HashSet<ObjectKey>> = None;
        let mut chosen = Vec::new();
        for (id, facts) in &packs {
            let (id, facts) = (*id, *facts);
            let key = name(layout::pack(id, facts.is_meta))?;
            let size = on_tier.get(key.as_str());
            if !is_wanted(&id) {
                if size != Some(&facts.size) {
                    // What is wanted may lie there too, and is looked for elsewhere.
                    self.bad.unwanted(id);
                }
                continue;
            }
            self.report.objects += 1;
            if size.is_none() && aside.is_none() {
                aside = Some(self.set_aside().await?);
            }
            match size {
                None if aside.as_ref().is_some_and(|aside| aside.contains(&key)) => {
                    self.aside_pack(id, facts, &key);
                }
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
                Some(_) if self.takes_pack(&id) => chosen.push((id, facts)),
                Some(_) => {}
            }
        }
        self.packs = packs;
        Ok(chosen)
    }

    /// A damaged pack that a repair has set aside. Of content it is told at the end, once it is known whether that hurts
    /// anybody: a save may have stored anew what lay in it.
    fn aside_pack(&mut self, id: PackId, facts: PackFacts, key: &ObjectKey) {
        // What a repair could not mend it has not lost as a whole: each chunk that is asked for is tried, at any level.
        let opens_chunks = self.repo.keys().can_read();
        if facts.is_meta {
            let (kind, may_hold) = (FindingKind::Damaged, self.opens_chunks());
            self.bad.pack(id, key.as_str(), SET_ASIDE, may_hold);
            self.gone
                .push((id, kind, key.to_string(), SET_ASIDE.into()));
        } else {
            self.bad.pack(id, key.as_str(), SET_ASIDE, opens_chunks);
            self.aside.push((id, key.clone()));
        }
    }

    /// Tells of packs of content that were set aside.
    pub(super) fn tell_aside(&mut self, takes_all: bool) {
        let is_hurt =
            |one: &Finding| one.severity == Severity::Error && one.subject.starts_with("snapshot ");
        let hurts = self.report.findings.iter().any(is_hurt);
        for (id, key) in std::mem::take(&mut self.aside) {
            if hurts {
                self.found_object(FindingKind::Damaged, key.as_str(), SET_ASIDE);
                continue;
            }
            self.bad.is_well(&id);
            if takes_all {
                // Snapshots whose refs name it are whole.
                lock(self.memory).forget_pack(&id);
            }
            let why = format!(
                "{SET_ASIDE}; what snapshots use of it can be read, there or in other packs"
            );
            let kind = FindingKind::Damaged;
            self.tell(Finding::new(Severity::Note, kind, key.as_str(), why));
        }
    }

    /// The packs that repairs have set aside.
    async fn set_aside(&self) -> Result<HashSet<ObjectKey>> {
        let mut out = HashSet::new();
        let mut list = self.repo.sink().list(self.cx, "aside/", None);
        while let Some(meta) = list.try_next().await? {
            out.extend(layout::aside_of(&meta.key));
        }
        Ok(out)
    }

    /// The packs that are checked, in order; none at a level that reads none. Of all that are wanted it is
    /// looked whether they are there, beside those that are known to be bad.
    pub(super) async fn chosen(
        &mut self,
        wanted: Option<HashSet<PackId>>,
        bad: BTreeMap<PackId, (ObjectKey, String)>,
    ) -> Result<Vec<(PackId, PackFacts)>> {
        let mut chosen = self.packs_there(wanted).await?;
        self.tell_gone().await?;
        for (id, (key, why)) in bad {
            if !self.bad.has_pack(&id) {
                self.bad_pack(id, FindingKind::Damaged, key.as_str(), &why);
            }
        }
        // What damaged packs hold may be in others too.
        self.repo.shun(self.bad.packs());
        self.parity(&chosen).await?;
        if self.job.level < VerifyLevel::Checksum {
            return Ok(Vec::new());
        }
        let total: u64 = chosen.iter().map(|(_, facts)| facts.size).sum();
        let total = match self.job.budget {
            Some(ReadBudget::Bytes(most)) => total.min(most),
            _ => total,
        };
        self.cx.tell(Event::Entered {
            stage: Stage::Verify,
            entries: Some(chosen.len() as u64),
            bytes: Some(total),
        });
        self.in_order(&mut chosen);
        Ok(chosen)
    }

    /// Packs that are fetched whole when files need them, and need not be fetched again. Where little
    /// is read, those whose turn has not come give only what is needed.
    pub(super) fn by_files(&self, chosen: &[(PackId, PackFacts)]) -> HashMap<PackId, PackFacts> {
        if self.job.level < VerifyLevel::FullRead || self.repo.keys().identities().is_err() {
            return HashMap::new();
        }
        let (memory, is_short) = (lock(self.memory), self.job.budget.is_some());
        let packs = chosen.iter().copied();
        let packs = packs.filter(|(id, _)| !is_short || memory.pack(id).full == 0);
        packs.collect()
    }

    /// Puts packs into the order in which they are checked: what was damaged, what was never checked,
    /// and what was checked longest ago. Among equals chance decides, so that even runs that remember
    /// nothing come to everything.
    fn in_order(&self, packs: &mut [(PackId, PackFacts)]) {
        let memory = lock(self.memory);
        let dice = walk::Dice::new(self.cx);
        // A key of before a rotation never comes to the depth of what was saved since.
        let opens_all = self
            .repo
            .config()
            .check_generation(self.repo.keys())
            .is_ok();
        let is_full = packs::depth(self.repo, self.job.level) >= VerifyLevel::FullRead && opens_all;
        packs.sort_by_cached_key(|(id, _)| {
            let checked = memory.pack(id);
            let run = if is_full { checked.full } else { checked.sum };
            (!checked.is_bad, run, dice.roll(&id.0))
        });
    }

    /// Those of some packs that no refs name: a repair has brought what was used of them back in others, or what used them was
    /// forgotten; and `aside` of them hold nothing of a lost pack. None where it cannot be told: refs cannot be read or are
    /// lacking, or a prune that is under way replaces them faster than they are read.
    async fn unneeded(
        &self,
        packs: HashSet<PackId>,
        aside: &BTreeSet<PackId>,
    ) -> Result<HashSet<PackId>> {
        for _ in 0..TRIES {
            let mut left = packs.clone();
            match self.strike_out_named(&mut left).await? {
                Told::All => {
                    let aside = aside.iter().filter(|id| left.contains(*id));
                    let aside: BTreeSet<PackId> = aside.copied().collect();
                    if !aside.is_empty() {
                        let (index, lost) = (self.repo.index(), self.bad.packs());
                        let heirs = heirs(self.repo, self.cx, &index, &lost, &aside).await?;
                        left.retain(|id| !heirs.contains(id));
                    }
                    return Ok(left);
                }
                Told::NotAll => break,
                Told::Moved => settle(self.repo, self.cx).await,
            }
        }
        Ok(HashSet::new())
    }

    /// Takes those off that refs name now: not as they were listed when the run began, since prunes move them.
    async fn strike_out_named(&self, packs: &mut HashSet<PackId>) -> Result<Told> {
        let (repo, cx) = (self.repo, self.cx);
        // Refs are there before their snapshot.
        let snapshots = repo.snapshot_keys(cx).await?;
        let listed = refs::list(repo, cx).await?;
        if snapshots.iter().any(|(id, _)| !listed.contains_key(id)) {
            return Ok(Told::Moved);
        }
        for key in listed.values().flatten() {
            match refs::read(repo, cx, key).await {
                Ok(Some(refs)) => {
                    for one in refs.packs {
                        packs.remove(&one.pack);
                    }
                }
                // What it named, others name by now, unless its snapshot was forgotten.
                Ok(None) => return Ok(Told::Moved),
                Err(error) if error.is_damage() => return Ok(Told::NotAll),
                Err(error) => return Err(error),
            }
        }
        // Some may have come while they were read, and others gone before.
        Ok(match refs::list(repo, cx).await? == listed {
            true => Told::All,
            false => Told::Moved,
        })
    }

    /// Tells of the packs that are not on the tier, but for those that were collected meanwhile.
    pub(super) async fn tell_gone(&mut self) -> Result<()> {
        if self.gone.is_empty() {
            return Ok(());
        }
        // That what is being collected cannot be read is told already.
        let mut dead = self.repo.collection(self.cx).await.unwrap_or_default().dead;
        dead.retain(|id| !self.contested.contains(id));
        let gone = std::mem::take(&mut self.gone);
        let aside = gone.iter().filter(|one| one.1 == FindingKind::Damaged);
        let aside = aside.map(|one| one.0).collect();
        let unneeded = self
            .unneeded(gone.iter().map(|one| one.0).collect(), &aside)
            .await?;
        for (id, kind, subject, why) in gone {
            if dead.contains(&id) {
                self.bad.is_well(&id);
            } else if unneeded.contains(&id) {
                let why = format!(
                    "{why}, and no snapshot names it: the next `snapshot prune` takes it out of the index"
                );
                self.tell(Finding::new(Severity::Note, kind, subject, why));
            } else {
                self.found_object(kind, &subject, &why);
            }
        }
        // What lay there is in other packs by now.
        self.repo.pass_over(dead);
        self.repo.refresh_index(self.cx).await?;
        Ok(())
    }
}
