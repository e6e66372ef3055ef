//! Parity beside packs: that it is there, and from the level *checksum* on that it is whole. No snapshot needs
//! it, so what is missing is a warning; what is damaged tells of a medium that fails.

use std::collections::{BTreeSet, HashSet};

use backup_core::{ErrorKind, Finding, FindingKind, ObjectKey, PackId, Severity, VerifyLevel};
use backup_format::layout;
use backup_parity::Sidecar;
use backup_parity::layout::MAX_SIDECAR;
use futures::{StreamExt, TryStreamExt};

use super::Run;
use crate::error::{EngineError, Result};
use crate::index_set::PackFacts;
use crate::repository::{get_within, name};

const HINT: &str = "`snapshot repair` makes it anew";

impl Run<'_> {
    /// Looks which of these packs have parity.
    pub(super) async fn parity(&mut self, chosen: &[(PackId, PackFacts)]) -> Result<()> {
        let mut there = BTreeSet::new();
        let mut listed = self.repo.sink().list(self.cx, "parity/", None);
        while let Some(meta) = listed.try_next().await? {
            there.extend(layout::parity_of(&meta.key).map(|pack| (pack, meta.size)));
        }
        let sizes: std::collections::BTreeMap<ObjectKey, u64> = there.into_iter().collect();
        let mut protected = Vec::new();
        let mut bare = Vec::new();
        for (id, facts) in chosen {
            let pack = name(layout::pack(*id, facts.is_meta))?;
            match sizes.contains_key(&pack) {
                true => protected.push((pack, *id)),
                false => bare.push((pack, *id)),
            }
        }
        if self.repo.parity().is_some() && !bare.is_empty() {
            self.bare(bare, chosen.len()).await?;
        }
        self.protected = protected;
        Ok(())
    }

    /// Looks whether the parity of these packs, which were read, is whole.
    pub(super) async fn parity_of(&mut self, read: &HashSet<PackId>) -> Result<()> {
        if self.job.level < VerifyLevel::Checksum {
            return Ok(());
        }
        let mut protected = std::mem::take(&mut self.protected);
        protected.retain(|(_, id)| read.contains(id));
        self.whole(protected).await
    }

    /// Tells of packs without parity, but for those that were collected meanwhile.
    async fn bare(&mut self, mut bare: Vec<(ObjectKey, PackId)>, of: usize) -> Result<()> {
        let dead = self.repo.collection(self.cx).await.unwrap_or_default().dead;
        bare.retain(|(_, id)| !dead.contains(id));
        let Some((first, _)) = bare.first() else {
            return Ok(());
        };
        let detail = format!(
            "{} of {of} packs have no parity, {first} among them; {HINT}",
            bare.len()
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        let finding = Finding::new(severity, kind, "parity/", detail);
        self.cx.tell(backup_core::Event::Found(&finding));
        self.report.findings.push(finding);
        Ok(())
    }

    /// Looks whether the parity of these packs is whole.
    async fn whole(&mut self, packs: Vec<(ObjectKey, PackId)>) -> Result<()> {
        let (repo, cx) = (self.repo, self.cx);
        let width = repo.connections(cx).clamp(1, 8);
        let mut reading = futures::stream::iter(packs)
            .map(|(pack, id)| async move {
                let key = name(layout::parity(&pack))?;
                let read = get_within(cx, &**repo.sink(), &key, MAX_SIDECAR).await;
                Ok::<_, EngineError>((key, id, read))
            })
            .buffered(width);
        let mut found = Vec::new();
        while let Some(read) = reading.next().await {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            let (key, id, read) = read?;
            let why = match read {
                Ok(bytes) => {
                    self.report.objects += 1;
                    match Sidecar::read(&bytes) {
                        Ok(parity) if *parity.digest() != id.0 => {
                            "it is of another pack".to_owned()
                        }
                        Ok(parity) if !parity.is_whole() => "it is damaged in part".to_owned(),
                        Ok(_) => continue,
                        Err(error) => error.to_string(),
                    }
                }
                // Collected with its pack meanwhile.
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => error.to_string(),
            };
            found.push((key, why));
        }
        drop(reading);
        for (key, why) in found {
            self.found(
                FindingKind::Damaged,
                key.as_str(),
                &format!("{why}; {HINT}"),
            );
        }
        Ok(())
    }
}
