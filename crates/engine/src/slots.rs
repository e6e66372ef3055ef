//! Key slots in the ledger: which were added and which removed, so that verification can tell one
//! that is gone from the tier. Whoever holds nothing else has lost the repository with it.

pub mod change;

use std::collections::{BTreeMap, BTreeSet};

use async_recursion::async_recursion as boxed;
use backup_core::{Finding, FindingKind, ObjectKey, OpContext, Severity};
use backup_format::keys::Slot;
use backup_integrity::ledger::Record;
use futures::TryStreamExt;

use crate::error::Result;
use crate::ledger::records;
use crate::repository::Repository;

/// The id of a slot: the SHA-256 of its bytes, which its key on the tier ends with.
#[must_use]
pub fn id_of(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

/// What a ledger record says of slots that were added: `added ID, WHAT`, joined by `; `.
#[must_use]
pub fn added_note<'a>(slots: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let said = slots
        .into_iter()
        .map(|(id, what)| format!("added {id}, {what}"));
    said.collect::<Vec<_>>().join("; ")
}

/// What a ledger record says of a slot that was removed.
#[must_use]
pub fn removed_note(id: &str) -> String {
    format!("removed {id}")
}

/// The slots on the tier that are of another repository, and open nothing here.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn foreign(repo: &Repository, cx: &OpContext) -> Result<Vec<Finding>> {
    let slots = repo.slots(cx).await?.into_iter();
    let dead = slots.filter(|(_, slot)| {
        let info = slot.as_ref().ok().and_then(Slot::info);
        info.is_some_and(|info| info.repo != repo.id())
    });
    let finding = |key: ObjectKey| {
        let detail = "this key slot is of another repository: an `init` that was broken off left it; it opens nothing here, and `snapshot key remove` takes it away";
        Finding::new(
            Severity::Note,
            FindingKind::Mismatch,
            key.to_string(),
            detail,
        )
    };
    Ok(dead.map(|(key, _)| finding(key)).collect())
}

/// What the ledger says of the slots that were added and not removed, by their ids: the role, whom it
/// is sealed to, the host. Of records that their host did not sign, as far as this key can tell, nothing.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn told(repo: &Repository, cx: &OpContext) -> Result<BTreeMap<String, String>> {
    let mut known = KnownSlots::default();
    let mut all = Box::pin(records(repo, cx).await?);
    while let Some(record) = all.try_next().await? {
        if let (Ok(said), true) = (&record.record, record.genuine != Some(false)) {
            known.take(said);
        }
    }
    Ok(known.there)
}

/// Said of a slot that was removed and lies on the tier.
const BACK_AGAIN: &str = "the ledger says that this key slot was removed, and it is there again: who puts it back opens the repository with what it held; `snapshot key remove` of the whole id takes it away, and where it was removed since somebody else knew the key, `snapshot key rotate` keeps that out of what is saved from then on";

/// The slots that there should be by what the ledger says, and what it says of each.
#[derive(Debug, Default)]
pub(crate) struct KnownSlots {
    there: BTreeMap<String, String>,
    removed: BTreeSet<String>,
    /// The newest generation of keys that somebody rotated to.
    generation: Option<u32>,
}

impl KnownSlots {
    /// Takes up the next record.
    pub(crate) fn take(&mut self, record: &Record) {
        if !matches!(record.op.as_str(), "init" | "key") {
            return;
        }
        for said in record.note.iter().flat_map(|note| note.split("; ")) {
            let Some((verb, rest)) = said.split_once(' ') else {
                continue;
            };
            let (id, what) = rest.split_once(", ").unwrap_or((rest, ""));
            let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
            match verb {
                "rotated" => {
                    let number = rest.strip_prefix("to generation ").unwrap_or(rest);
                    let number = number.split(',').next().unwrap_or(number).parse().ok();
                    self.generation = self.generation.max(number);
                }
                "added" if is_id => {
                    self.removed.remove(id);
                    self.there.insert(id.to_owned(), what.to_owned());
                }
                "removed" => {
                    self.there.remove(id);
                    self.removed.insert(id.to_owned());
                }
                _ => {}
            }
        }
    }

    /// Whether somebody has taken it away, and nobody put it there again.
    pub(crate) fn was_removed(&self, id: &str) -> bool {
        self.removed.contains(id)
    }

    /// What the tier has otherwise: slots that are not there, those that are there again, and a rotation that does not
    /// count any more.
    pub(crate) async fn differences(
        mut self,
        repo: &Repository,
        cx: &OpContext,
    ) -> Result<Vec<Finding>> {
        let mut out = Vec::new();
        let error = |kind, subject: String, detail: &str| {
            Finding::new(Severity::Error, kind, subject, detail)
        };
        let mut listed = repo.sink().list(cx, "keys/", None);
        while let Some(meta) = listed.try_next().await? {
            let id = id_of(&meta.key);
            self.there.remove(id);
            if self.removed.contains(id) {
                let kind = FindingKind::Mismatch;
                out.push(error(kind, meta.key.to_string(), BACK_AGAIN));
            }
        }
        let counts = repo.config().newest_epoch();
        if let Some(generation) = self.generation.filter(|generation| *generation > counts) {
            let detail = format!(
                "the ledger knows a rotation to generation {generation} of the keys, and the configuration that says so is gone: what is saved now is sealed for generation {counts}, which older keys can read; `snapshot repair --from` brings it back from another copy of the repository; if there is none, rotate once more (`snapshot key rotate`)"
            );
            out.push(error(FindingKind::Missing, "config".to_owned(), &detail));
        }
        let finding = |id: String| {
            let detail = "the ledger knows this key slot, nobody removed it, and it is gone from the tier: what it opened the repository with no longer does; `snapshot repair` puts it back if its sidecar is there, or `--from` a copy; else add another with `snapshot key add`, then let `snapshot key remove` of the whole id note that it is gone";
            error(FindingKind::Missing, format!("keys/{id}"), detail)
        };
        out.extend(self.there.into_keys().map(finding));
        Ok(out)
    }
}
