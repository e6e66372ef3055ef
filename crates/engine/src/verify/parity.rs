//! Parity beside packs: that it is there, and from the level *checksum* on that it is whole. No snapshot needs
//! it, so what is missing is a warning; what is damaged tells of a medium that fails.

use std::collections::{BTreeSet, HashMap, HashSet};

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, Severity, VerifyLevel,
};
use backup_format::layout;
use backup_parity::Sidecar;
use backup_parity::layout::MAX_SIDECAR;
use futures::{StreamExt, TryStreamExt};

use super::Run;
use crate::error::{EngineError, Result};
use crate::index_set::PackFacts;
use crate::repository::{Repository, get_within, name};

const HINT: &str = "`snapshot repair` makes it anew";

impl Run<'_> {
    /// Looks which of these packs have parity.
    pub(super) async fn parity(&mut self, chosen: &[(PackId, PackFacts)]) -> Result<()> {
        let mut there = BTreeSet::new();
        let mut listed = self.repo.sink().list(self.cx, "parity/", None);
        while let Some(meta) = listed.try_next().await? {
            there.extend(layout::parity_of(&meta.key));
        }
        let mut protected = HashMap::new();
        let mut bare = Vec::new();
        for (id, facts) in chosen {
            let pack = name(layout::pack(*id, facts.is_meta))?;
            if there.contains(&pack) {
                protected.insert(*id, pack);
            } else {
                bare.push(pack);
            }
        }
        if self.repo.parity().is_some() && !bare.is_empty() {
            self.bare(bare, chosen.len()).await?;
        }
        self.protected = protected;
        Ok(())
    }

    /// Looks whether the parity of these packs, which were read for their contents, is whole, as long as there is
    /// time. Of those that are read behind that it is looked at with each of them ([`super::packs`]), or a time
    /// that packs use up would never come to it.
    pub(super) async fn parity_of(&mut self, read: &HashSet<PackId>) -> Result<()> {
        if self.job.level < VerifyLevel::Checksum {
            return Ok(());
        }
        let (repo, cx, limit) = (self.repo, self.cx, self.limit);
        let packs = self.protected.iter().filter(|(id, _)| read.contains(*id));
        let packs: Vec<_> = packs.map(|(id, key)| (*id, key.clone())).collect();
        let mut reading = futures::stream::iter(packs)
            .take_while(|_| std::future::ready(!limit.is_over()))
            .map(|(id, key)| async move { look(repo, cx, &key, id).await })
            .buffered(repo.connections(cx).clamp(1, 8));
        let mut looked = Vec::new();
        while let Some(one) = reading.next().await {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            looked.push(one?);
        }
        drop(reading);
        for one in looked {
            self.take_parity(one);
        }
        Ok(())
    }

    /// Takes up what came of the parity of a pack.
    pub(super) fn take_parity(&mut self, looked: Looked) {
        self.report.objects += u64::from(looked.was_read);
        if let Some((key, why)) = looked.fault {
            self.found_object(FindingKind::Damaged, key.as_str(), &why);
        }
    }

    /// Tells of packs without parity, but for those that were collected meanwhile.
    async fn bare(&mut self, mut bare: Vec<ObjectKey>, of: usize) -> Result<()> {
        let dead = self.repo.collection(self.cx).await.unwrap_or_default().dead;
        bare.retain(|pack| layout::pack_id(pack).is_none_or(|id| !dead.contains(&id)));
        let Some(first) = bare.first() else {
            return Ok(());
        };
        let detail = format!(
            "{} of {of} packs have no parity, {first} among them; {HINT}",
            bare.len()
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        let finding = Finding::new(severity, kind, "parity/", detail);
        self.tell(finding);
        Ok(())
    }
}

/// What came of the parity of a pack.
#[derive(Debug)]
pub(super) struct Looked {
    was_read: bool,
    fault: Option<(ObjectKey, String)>,
}

/// Looks whether the parity of a pack is whole.
///
/// # Errors
/// Those of names; what is wrong with the parity is in the answer.
pub(super) async fn look(
    repo: &Repository,
    cx: &OpContext,
    pack: &ObjectKey,
    id: PackId,
) -> Result<Looked> {
    let key = name(layout::parity(pack))?;
    let read = get_within(cx, &**repo.sink(), &key, MAX_SIDECAR).await;
    let was_read = read.is_ok();
    let why = match read {
        Ok(bytes) => match Sidecar::read(&bytes) {
            Ok(parity) if *parity.digest() != id.0 => Some("it is of another pack".to_owned()),
            Ok(parity) if !parity.is_whole() => Some("it is damaged in part".to_owned()),
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        },
        // Collected with its pack meanwhile.
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => None,
        Err(error) => Some(error.to_string()),
    };
    let fault = why.map(|why| (key, why));
    Ok(Looked { was_read, fault })
}
