//! Configs, and the sidecars of small objects: that they are there, and from the level *checksum* on that each
//! is whole and makes what it is beside. No reader needs them; what is missing is a warning.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, Finding, FindingKind, ObjectKey, Severity, VerifyLevel};
use backup_format::layout;
use futures::{FutureExt as _, StreamExt};

use super::Run;
use crate::beside::{self, Ended};
use crate::error::{EngineError, Result};
use crate::repository::{SnapshotHead, name};

/// So many are asked for by their names, since they may have come or gone meanwhile.
const MOST_ASKED: usize = 100;
const HINT: &str = "`snapshot repair` makes it anew";

impl Run<'_> {
    /// Configs, the sidecars of all small objects, and what was had from them.
    pub(super) async fn small_objects(
        &mut self,
        heads: &[SnapshotHead],
        slots: BTreeSet<ObjectKey>,
        takes_all: bool,
    ) -> Result<()> {
        let mut there = slots;
        for number in 0..=self.repo.config().number {
            let key = name(layout::config(number))?;
            self.config(&key).await?;
            there.insert(key);
        }
        for head in heads {
            there.insert(name(layout::snapshot(head.meta.id))?);
        }
        // Which these are says whoever read them.
        for finding in self.repo.notices().findings() {
            let key = ObjectKey::new(finding.subject.clone()).ok();
            let is_snapshot = key.is_some_and(|key| layout::snapshot_id(&key).is_some());
            if is_snapshot && finding.severity == Severity::Error {
                self.tell(finding);
            }
        }
        let protected = beside::all(self.repo, self.cx, "parity/", layout::small_parity_of).await?;
        if self.repo.parity().is_some() {
            self.unprotected(&there, &protected).await?;
        }
        if self.job.level >= VerifyLevel::Checksum {
            self.whole_sidecars(there.intersection(&protected).cloned().collect())
                .await?;
        }
        if takes_all {
            self.orphans(&protected.difference(&there).cloned().collect())
                .await?;
        }
        Ok(())
    }

    async fn config(&mut self, key: &ObjectKey) -> Result<()> {
        self.report.objects += 1;
        match beside::read_own(self.repo, self.cx, key).await {
            Ok(_) => Ok(()),
            Err(error) if beside::is_loss(&error) => {
                let kind = match &error {
                    EngineError::Sink(error) if error.kind == ErrorKind::NotFound => {
                        FindingKind::Missing
                    }
                    _ => FindingKind::Damaged,
                };
                let hint = "`snapshot repair` puts it back";
                self.found(kind, key.as_str(), &format!("{error}; {hint}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Tells of small objects without sidecars, but for those that went meanwhile, or whose sidecar came.
    async fn unprotected(
        &mut self,
        there: &BTreeSet<ObjectKey>,
        protected: &BTreeSet<ObjectKey>,
    ) -> Result<()> {
        let mut bare: Vec<_> = there.difference(protected).collect();
        // Of more than these, it is no matter of a moment.
        let few = match bare.len() {
            0..=MOST_ASKED => std::mem::take(&mut bare),
            _ => Vec::new(),
        };
        for key in few {
            if !self.is_on_tier(&name(layout::parity(key))?).await? && self.is_on_tier(key).await? {
                bare.push(key);
            }
        }
        let Some(first) = bare.first() else {
            return Ok(());
        };
        let detail = format!(
            "{} of {} configs, key slots and snapshots have no sidecar, {first} among them; {HINT}",
            bare.len(),
            there.len()
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        self.tell(Finding::new(severity, kind, "parity/", detail));
        Ok(())
    }

    async fn is_on_tier(&self, key: &ObjectKey) -> Result<bool> {
        match self.repo.sink().head(self.cx, key).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Looks whether each of these sidecars by itself makes the object that it is beside.
    async fn whole_sidecars(&mut self, keys: Vec<ObjectKey>) -> Result<()> {
        let (repo, cx) = (self.repo, self.cx);
        let mut reading = futures::stream::iter(keys)
            .map(|key| {
                async move {
                    let made = beside::alone(cx, &**repo.sink(), &key).await;
                    let checked = made.and_then(|made| beside::check(repo, &key, &made));
                    (key, checked)
                }
                .boxed()
            })
            .buffered(repo.connections(cx).clamp(1, 8));
        let mut found = Vec::new();
        while let Some((key, checked)) = reading.next().await {
            if cx.cancel.is_cancelled() {
                return Err(EngineError::Cancelled);
            }
            self.report.objects += 1;
            match checked {
                Ok(()) => {}
                // It went with its object meanwhile.
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {}
                Err(error) if beside::is_loss(&error) => found.push((key, error)),
                Err(error) => return Err(error),
            }
        }
        drop(reading);
        for (key, error) in found {
            let subject = name(layout::parity(&key))?;
            let why = format!("{error}; {HINT}");
            self.found(FindingKind::Damaged, subject.as_str(), &why);
        }
        Ok(())
    }

    /// Tells of sidecars whose objects are gone.
    async fn orphans(&mut self, keys: &BTreeSet<ObjectKey>) -> Result<()> {
        let gone = beside::gone(self.repo, self.cx, keys).await?;
        // Of a config that does not count it was said already what there is to say.
        let gone: Vec<_> = gone
            .into_iter()
            .filter(|key| layout::config_number(key).is_none())
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        let ended = Ended::read(self.repo, self.cx).await?;
        for key in gone {
            if ended.has(&key) {
                let detail = "what it is beside was taken away on purpose, and it was left behind; `snapshot prune` and `snapshot repair` take it away";
                let (severity, kind) = (Severity::Warning, FindingKind::Mismatch);
                let subject = name(layout::parity(&key))?;
                self.tell(Finding::new(severity, kind, subject.as_str(), detail));
            } else {
                let why =
                    "it is not on the tier, and its sidecar is; `snapshot repair` puts it back";
                self.found(FindingKind::Missing, key.as_str(), why);
            }
        }
        Ok(())
    }
}
