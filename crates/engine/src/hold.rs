//! Holds: a snapshot that is held is not forgotten, by whatever policy or by id, until it is released.
//!
//! A hold is an object on the tier, so that every host sees it, and placing and releasing it are
//! records of the ledger. Either is enough: whoever may delete on the tier can take the object away,
//! and the record keeps the snapshot all the same ([`Holds`]). It keeps a mistaken or too eager
//! retention away, not somebody who deletes the snapshot itself on the tier.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, OpContext, PutMode, Severity, SnapshotId,
};
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use crate::error::{EngineError, Result};
use crate::ledger::{self, GoneSnapshot, HoldRecord, LedgerDraft, record_operation};
use crate::repository::{Repository, get_within, name};

/// What every hold says: its name tells of which snapshot it is.
const BODY: &[u8] = b"held\n";

/// Longest reason that is recorded, in bytes.
const MOST_WHY: usize = 4096;

/// How often, and how long apart, a snapshot is looked at that is being forgotten when it is held.
const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// The snapshots for which there is a hold on the tier; some of them may be gone.
///
/// # Errors
/// Those of the tier's list.
#[boxed]
pub async fn holds(repo: &Repository, cx: &OpContext) -> Result<BTreeSet<SnapshotId>> {
    let mut out = BTreeSet::new();
    let mut list = repo.sink().list(cx, "holds/", None);
    while let Some(meta) = list.try_next().await? {
        out.extend(layout::hold_id(&meta.key));
    }
    Ok(out)
}

/// What is held, by the holds on the tier and by the records of the ledger.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    on_tier: BTreeSet<SnapshotId>,
    recorded: BTreeMap<SnapshotId, HoldRecord>,
    lost_records: Vec<u64>,
    /// The snapshots that there should be, by the ledger.
    stay: BTreeMap<SnapshotId, GoneSnapshot>,
}

impl Holds {
    /// Reads both.
    ///
    /// # Errors
    /// Those of the tier.
    #[boxed]
    pub async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let first = Self::look(repo, cx).await?;
        if first.has_lost(None) {
            // It may have been released between the look into the ledger and the one at the tier;
            // that was recorded before it went.
            return Self::look(repo, cx).await;
        }
        Ok(first)
    }

    async fn look(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let recorded = ledger::held(repo, cx).await?;
        let on_tier = holds(repo, cx).await?;
        Ok(Self {
            on_tier,
            recorded: recorded.held,
            lost_records: recorded.lost,
            stay: recorded.stay,
        })
    }

    /// The snapshots that the ledger knows, that nobody forgot, and that are gone from the tier, the oldest
    /// first; `there` are those that were found on it before this was read.
    ///
    /// # Errors
    /// Those of the tier.
    #[boxed]
    pub async fn gone(
        &self,
        repo: &Repository,
        cx: &OpContext,
        there: &HashSet<SnapshotId>,
    ) -> Result<Vec<GoneSnapshot>> {
        let missed = self.stay.keys().filter(|id| !there.contains(id));
        let missed: Vec<SnapshotId> = missed.copied().collect();
        // It may have been made since the others were listed.
        let look = |id| async move { Ok::<_, EngineError>((id, repo.has_snapshot(cx, id).await?)) };
        let looks = futures::stream::iter(missed).map(look);
        let looks = looks.buffered(repo.connections(cx));
        let gone =
            looks.try_filter_map(|(id, is_there)| async move { Ok((!is_there).then_some(id)) });
        let gone: Vec<SnapshotId> = gone.try_collect().await?;
        if gone.is_empty() {
            return Ok(Vec::new());
        }
        // And forgotten since the ledger was read; that was recorded before it went.
        let mut stay = ledger::held(repo, cx).await?.stay;
        Ok(gone.iter().filter_map(|id| stay.remove(id)).collect())
    }

    /// Whether a snapshot is held.
    #[must_use]
    pub fn has(&self, id: SnapshotId) -> bool {
        self.on_tier.contains(&id) || self.recorded.contains_key(&id)
    }

    /// Whether a snapshot, or any, is held by its record alone.
    #[must_use]
    pub fn has_lost(&self, id: Option<SnapshotId>) -> bool {
        let is_lost = |id: &SnapshotId| !self.on_tier.contains(id);
        match id {
            Some(id) => self.recorded.contains_key(&id) && is_lost(&id),
            None => self.recorded.keys().any(is_lost),
        }
    }

    /// That something may be held of which nobody knows: the records that would say so may be lost.
    #[must_use]
    pub fn unknown(&self) -> Option<Finding> {
        let (first, more) = self.lost_records.split_first()?;
        let which = match more.len() {
            0 => format!("record {first}"),
            more => format!("record {first} and {more} more"),
        };
        let detail = format!(
            "{which} cannot be read, on the tier and in this host's copy, and may say that a snapshot is held; if its hold is gone as well, it was not heeded; put the record back from another copy of the repository"
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        Some(Finding::new(severity, kind, "ledger", detail))
    }

    /// The snapshots that are held.
    pub fn ids(&self) -> impl Iterator<Item = SnapshotId> {
        let all: BTreeSet<_> = self.recorded.keys().chain(&self.on_tier).copied().collect();
        all.into_iter()
    }

    /// The holds that somebody took away who did not release them.
    #[must_use]
    pub fn lost(&self) -> Vec<Finding> {
        let lost = self.recorded.iter();
        let lost = lost.filter(|(id, _)| !self.on_tier.contains(id));
        lost.map(|(id, record)| {
            let detail = format!(
                "by the ledger {} placed it at {}, nobody released it, and it is gone from the tier: the snapshot stays held; `snapshot hold {id}` places it again, `snapshot release {id}` ends it",
                record.host, record.time
            );
            let (severity, kind) = (Severity::Error, FindingKind::Missing);
            Finding::new(severity, kind, format!("holds/{id}"), detail)
        })
        .collect()
    }

    /// The holds that the ledger does not know.
    fn unrecorded(&self) -> impl Iterator<Item = Finding> {
        let all = self.on_tier.iter();
        all.filter(|id| !self.recorded.contains_key(id)).map(|id| {
            let detail = format!(
                "the ledger does not know this hold: whoever placed it was killed before it was recorded, or has no key; it counts; `snapshot hold {id}` records it"
            );
            let (severity, kind) = (Severity::Note, FindingKind::Degraded);
            Finding::new(severity, kind, format!("holds/{id}"), detail)
        })
    }

    /// What is wrong with holds: those that are gone, those that the ledger does not know, those that
    /// are not as they were written.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn check(repo: &Repository, cx: &OpContext) -> Result<Vec<Finding>> {
        let holds = Self::read(repo, cx).await?;
        let mut findings = holds.lost();
        findings.extend(holds.unrecorded());
        let ids: Vec<_> = holds.on_tier.iter().copied().collect();
        let mut bodies = futures::stream::iter(ids)
            .map(|id| async move { (id, is_whole(repo, cx, id).await) })
            .buffered(repo.connections(cx));
        while let Some((id, whole)) = bodies.next().await {
            let why = match whole {
                Ok(true) => continue,
                Ok(false) => "it is not what was written there".to_owned(),
                Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => continue,
                Err(error) => format!("it cannot be read: {error}"),
            };
            let detail =
                format!("{why}; it counts all the same; `snapshot hold {id}` writes it anew");
            let (severity, kind) = (Severity::Error, FindingKind::Damaged);
            let subject = format!("holds/{id}");
            findings.push(Finding::new(severity, kind, subject, detail));
        }
        Ok(findings)
    }
}

/// Whether a hold is as it was written.
async fn is_whole(repo: &Repository, cx: &OpContext, id: SnapshotId) -> Result<bool> {
    let key = name(layout::hold(id))?;
    match get_within(cx, &**repo.sink(), &key, BODY.len()).await {
        Ok(bytes) => Ok(bytes == BODY),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What came of placing or releasing a hold.
#[derive(Debug)]
pub struct HoldChange {
    /// Whether anything was to be done.
    pub changed: bool,
    /// What is wrong with the ledger, as far as it was read for that.
    pub findings: Vec<Finding>,
}

impl HoldChange {
    const NONE: Self = Self {
        changed: false,
        findings: Vec::new(),
    };

    const fn recorded(findings: Vec<Finding>) -> Self {
        Self {
            changed: true,
            findings,
        }
    }
}

/// Holds a snapshot, if it is not held; a hold that is gone, damaged or not recorded is made good.
/// `why` goes into the ledger.
///
/// # Errors
/// A key that cannot sign for the host; [`EngineError::TooLate`] when the snapshot is gone by then; errors
/// of the tier.
#[boxed]
pub async fn hold(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<HoldChange> {
    // Neither a key that cannot sign nor a record that is none may leave a hold without a record.
    repo.keys().ledger_key(host)?;
    is_short(why)?;
    let holds = Holds::read(repo, cx).await?;
    let mode = if holds.on_tier.contains(&snapshot) {
        // One that cannot be read now may be whole: it is written anew only if it is known not to be.
        let is_whole = is_whole(repo, cx, snapshot).await?;
        if is_whole && holds.recorded.contains_key(&snapshot) {
            return Ok(HoldChange::NONE);
        }
        (!is_whole).then_some(PutMode::Replace)
    } else {
        Some(PutMode::Create)
    };
    if let Some(mode) = mode {
        let key = name(layout::hold(snapshot))?;
        let body = Bytes::from_static(BODY);
        match repo.sink().put(cx, &key, body, mode).await {
            Ok(_) => {}
            // All holds have the same bytes, so the tier cannot tell one that somebody else has placed
            // from an answer that was lost. Either way it is there, and at worst recorded twice.
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut findings = record_operation(repo, cx, host, user, draft("hold", snapshot, why)).await?;
    findings.extend(not_too_late(repo, cx, snapshot, (host, user)).await?);
    Ok(HoldChange::recorded(findings))
}

/// Looks whether a snapshot that is held now was being forgotten before that was recorded. Whoever forgets
/// records it, looks for a hold, and deletes: where the hold was recorded first, they see it.
async fn not_too_late(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    (host, user): (&HostId, &str),
) -> Result<Option<Finding>> {
    let mut forgot = ledger::forgotten_before_hold(repo, cx, snapshot).await?;
    for look in 0..LOOKS {
        if !repo.has_snapshot(cx, snapshot).await? {
            // It keeps nothing, and would look like a hold that does. Of a snapshot that was forgotten, the
            // last word is that it was.
            let (op, note, by) = forgot.map_or_else(
                || {
                    let note: String = "the snapshot was gone".into();
                    ("release", note, "somebody took it away".to_owned())
                },
                |by| {
                    let by = format!("{} forgot it at {}, before it was held", by.host, by.time);
                    ("forget", by.clone(), by)
                },
            );
            let ended = draft(op, snapshot, &note);
            // One that went without a record of it could not be told from a theft.
            if record_operation(repo, cx, host, user, ended).await.is_ok() {
                let _ = repo.sink().delete(cx, &name(layout::hold(snapshot))?).await;
            }
            return Err(EngineError::TooLate { snapshot, why: by });
        }
        if forgot.is_none() {
            return Ok(None);
        }
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        forgot = ledger::forgotten_before_hold(repo, cx, snapshot).await?;
    }
    Ok(forgot.map(|by| {
        let detail = format!(
            "it is held; but {} recorded at {} that it forgets it, before that: if that is still under way, the snapshot may be gone in a moment; `snapshot show {snapshot}` tells, and holding it once more ends the doubt",
            by.host, by.time
        );
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        Finding::new(severity, kind, format!("snapshot {snapshot}"), detail)
    }))
}

/// Releases a snapshot, if it is held, be it by the ledger alone.
///
/// # Errors
/// A key whose holder may not forget, or that cannot sign for the host; errors of the tier.
#[boxed]
pub async fn release(
    repo: &Repository,
    cx: &OpContext,
    snapshot: SnapshotId,
    (host, user): (&HostId, &str),
    why: &str,
) -> Result<HoldChange> {
    repo.keys().may_forget()?;
    is_short(why)?;
    let holds = Holds::read(repo, cx).await?;
    if !holds.has(snapshot) {
        return Ok(HoldChange::NONE);
    }
    // The record first: a hold that went without one could not be told from a theft.
    let findings = record_operation(repo, cx, host, user, draft("release", snapshot, why)).await?;
    if holds.on_tier.contains(&snapshot) {
        let key = name(layout::hold(snapshot))?;
        repo.sink().delete(cx, &key).await?;
    }
    Ok(HoldChange::recorded(findings))
}

/// Refuses a reason that no record has room for.
fn is_short(why: &str) -> Result<()> {
    if why.len() <= MOST_WHY {
        return Ok(());
    }
    let is = why.len();
    Err(EngineError::Invalid(format!(
        "the reason has {is} bytes; a record of the ledger has room for {MOST_WHY}"
    )))
}

fn draft(op: &'static str, snapshot: SnapshotId, why: &str) -> LedgerDraft {
    LedgerDraft {
        op,
        snapshot: Some(snapshot),
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: why.to_owned(),
    }
}
