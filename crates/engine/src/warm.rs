//! Warming: which packs of content a restore needs, which of them cannot be read yet, and asking for these.
//!
//! [`Needed::look`] walks the manifest just as a restore does, which reads packs of pages alone, and takes for each
//! chunk the place that a restore would take. [`Needed::survey`] asks the tier how warm each pack is, and asks for
//! nothing; showing that is the dry run. [`Survey::ask`] requests what is cold, [`Survey::wait`] waits until all is warm.
//!
//! Whole packs are warmed: a tier knows no parts. Memory: for each pack that is needed its name and size, and the sizes of
//! all packs while the manifest is walked.

use std::collections::BTreeMap;
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use backup_core::{
    EntryPath, Event, Finding, FindingKind, ObjectKey, OpContext, PackId, Severity, Stage,
    Temperature, Warmth,
};
use backup_format::extent::Extent;
use backup_format::layout;
use futures::StreamExt as _;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};
use crate::restore::Filter;
use crate::view::{Seen, SnapshotView};

/// Packs that are asked for before it is looked whether somebody called the whole off.
const BATCH: usize = 256;
/// The first pause between two looks, and the longest: what lies in an archive takes minutes to days.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// Chunks that no index knows of which it is told.
const MOST_FINDINGS: usize = 1000;

/// Packs and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// How many.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Count {
    const fn add(&mut self, bytes: u64) {
        self.packs += 1;
        self.bytes += bytes;
    }
}

/// The packs of content that a restore reads.
#[derive(Debug, Default)]
pub struct Needed {
    packs: BTreeMap<PackId, u64>,
    /// Entries that were looked at.
    pub entries: u64,
    /// What of the snapshot cannot be read, and so not be looked at.
    pub findings: Vec<Finding>,
}

impl Needed {
    /// Adds what a restore of a part of a snapshot reads: a component, and what is at or below a path of it.
    ///
    /// # Errors
    /// Damage of the manifest's root, [`EngineError::Cancelled`], errors of the tier.
    #[boxed]
    pub async fn look(
        &mut self,
        view: &SnapshotView<'_>,
        cx: &OpContext,
        (component, below): (u8, &EntryPath),
        filter: Option<&Filter>,
    ) -> Result<()> {
        let index = view.repository().index();
        let sizes = index.pack_sizes();
        let mut walk = view.entries(component, below);
        while let Some(seen) = walk.step(cx).await? {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let entry = match seen {
                Seen::Entry(entry) => entry,
                Seen::Lost(lost) => {
                    self.found(lost.finding(view));
                    continue;
                }
            };
            if filter.is_some_and(|filter| !filter(&entry.path, &entry)) {
                continue;
            }
            self.entries += 1;
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            let extents = match view.extents(cx, &entry.record).await {
                Ok(extents) => extents,
                Err(error) if error.is_damage() => {
                    let kind = FindingKind::Damaged;
                    self.found(Finding::entry(kind, &entry.path, error.to_string()));
                    continue;
                }
                Err(error) => return Err(error),
            };
            for extent in extents.as_slice() {
                let Extent::Data { chunk, .. } = *extent else {
                    continue;
                };
                // What no index knows a restore looks for once more, and tells of.
                if let Some(place) = index.find(&chunk) {
                    let size = sizes.get(&place.pack).copied().unwrap_or_default();
                    self.packs.insert(place.pack, size);
                }
            }
        }
        index.check()
    }

    fn found(&mut self, finding: Finding) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        }
    }

    /// How much it is.
    #[must_use]
    pub fn count(&self) -> Count {
        let mut out = Count::default();
        self.packs.values().for_each(|bytes| out.add(*bytes));
        out
    }

    /// Asks the tier how warm each of them is; asks for nothing to be warmed.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], errors of the tier.
    #[boxed]
    pub async fn survey<'r>(self, repo: &'r Repository, cx: &OpContext) -> Result<Survey<'r>> {
        let mut out = Survey {
            repo,
            warm: Count::default(),
            warming: Count::default(),
            cold: Count::default(),
            asked: Vec::new(),
            unasked: Vec::new(),
            findings: self.findings,
        };
        let all = self.packs.into_iter();
        let mut looks = futures::stream::iter(all)
            .map(|(id, bytes)| async move {
                let key = name(layout::pack(id, false))?;
                let found = repo.sink().temperature(cx, &key).await;
                Ok::<_, EngineError>((key, bytes, found))
            })
            .buffer_unordered(repo.connections(cx));
        while let Some(look) = looks.next().await {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let (key, bytes, found) = look?;
            match found {
                Ok(Temperature::Warm) => out.warm.add(bytes),
                Ok(Temperature::Warming) => {
                    out.warming.add(bytes);
                    out.asked.push((key, bytes));
                }
                Ok(Temperature::Cold) => {
                    out.cold.add(bytes);
                    out.unasked.push((key, bytes));
                }
                Err(error) if error.kind == backup_core::ErrorKind::NotFound => {
                    let detail = "a restore needs it, and it is not on the tier; `snapshot repair --from` fetches it from another copy of the repository";
                    let (severity, kind) = (Severity::Error, FindingKind::Missing);
                    out.findings
                        .push(Finding::new(severity, kind, key.as_str(), detail));
                }
                Err(error) => return Err(error.into()),
            }
        }
        drop(looks);
        Ok(out)
    }
}

/// How warm packs are, and what is to be asked for.
#[derive(Debug)]
pub struct Survey<'r> {
    repo: &'r Repository,
    /// Those that can be read.
    pub warm: Count,
    /// Those that were asked for, and cannot be read yet.
    pub warming: Count,
    /// Those that nobody has asked for. As many requests are to be made.
    pub cold: Count,
    /// What is wrong.
    pub findings: Vec<Finding>,
    asked: Vec<(ObjectKey, u64)>,
    unasked: Vec<(ObjectKey, u64)>,
}

/// What was asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Asked {
    /// Packs, one request for each.
    pub requested: Count,
    /// After how long all of them can be read, as the tier says; nothing: they can be read now.
    pub ready_in: Option<Duration>,
}

impl Survey<'_> {
    /// Asks for what is cold. What was asked for stays asked for, whatever ends it early: the next run goes on. `asked`
    /// says how far it came, also then.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], errors of the tier.
    #[boxed]
    pub async fn ask(&mut self, cx: &OpContext, asked: &mut Asked) -> Result<()> {
        while !self.unasked.is_empty() {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let from = self.unasked.len().saturating_sub(BATCH);
            let batch = self.unasked.get(from..).unwrap_or_default();
            let keys: Vec<_> = batch.iter().map(|(key, _)| key.clone()).collect();
            let answer = self.repo.sink().warm(cx, &keys).await?;
            for (key, bytes) in self.unasked.split_off(from) {
                asked.requested.add(bytes);
                if let Warmth::ReadyIn(wait) = answer {
                    asked.ready_in = asked.ready_in.max(Some(wait));
                    self.asked.push((key, bytes));
                }
            }
        }
        Ok(())
    }

    /// Waits until all that was asked for can be read. Few questions are asked: the next pack is looked at when the one
    /// before it can be read.
    ///
    /// # Errors
    /// [`EngineError::Cancelled`], errors of the tier.
    #[boxed]
    pub async fn wait(&mut self, cx: &OpContext) -> Result<()> {
        let bytes = self.asked.iter().map(|(_, bytes)| bytes).sum();
        cx.tell(Event::Entered {
            stage: Stage::Fetch,
            entries: Some(self.asked.len() as u64),
            bytes: Some(bytes),
        });
        let mut pause = PAUSES.0;
        while let Some((key, bytes)) = self.asked.last() {
            let temperature = self.repo.sink().temperature(cx, key).await?;
            if temperature == Temperature::Warm {
                cx.tell(Event::Advanced {
                    stage: Stage::Fetch,
                    entries: 1,
                    bytes: *bytes,
                });
                self.asked.pop();
                pause = PAUSES.0;
                continue;
            }
            // It was warm and is so no more, or the tier has dropped the request.
            if temperature == Temperature::Cold {
                self.repo.sink().warm(cx, std::slice::from_ref(key)).await?;
            }
            tokio::select! {
                () = cx.cancel.cancelled() => return Err(EngineError::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSES.1);
        }
        cx.tell(Event::Left(Stage::Fetch));
        Ok(())
    }
}
