//! A way out of a ledger that has lost records for good: somebody who may forget says that this is known, as a record that
//! names them. Until then every check goes on to tell of them.
//!
//! What can be lost is the beginning, with all the rest (whoever finds snapshots and not a single record leaves the place
//! of the first one empty); single records and rows of them; and the way that this host's copy of the ledger took, where
//! the tier was set back and has gone another way since. What a repair puts back is not accepted.

use std::collections::{BTreeSet, HashSet};
use std::path::PathBuf;

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, HostId, OpContext, PutMode, Severity, SnapshotId};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{
    AcceptedRecords, Draft, Line, LineHash, LostRecords, MAX_ACCEPTED, Op, Record, RecordOutcome,
    accept_note, accepted_by, append, is_sealed, seal_note,
};
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt as _;

use super::chain::Chain;
use super::check::{unnamed, verify_ledger};
use super::holes::{Holes, each_own};
use super::{LedgerDraft, evidence, tier};
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};

/// Records that only this host's copy has, and that are shown.
const MOST_SHOWN: usize = 10_000;

/// The key that records are sealed with which accept others as lost, if this key has it.
pub(super) fn accept_key(repo: &Repository) -> Option<HmacKey> {
    let key = repo.keys().accept_key().ok()?;
    Some(HmacKey::new(*key.expose()))
}

/// What a record accepts as lost, whose HMAC does not say that it is false; nothing if it is not sealed, where that can be
/// told.
pub(super) fn accepts(record: &Record, key: Option<&HmacKey>) -> Vec<LostRecords> {
    match key {
        Some(key) if !is_sealed(record, key) => Vec::new(),
        _ => accepted_by(record),
    }
}

/// Whether a record says that the beginning of the ledger is known to be lost, or is what was there at the beginning.
pub(super) fn is_beginning(record: &Record, key: Option<&HmacKey>) -> bool {
    record.seq == 1 && (record.op != Op::ACCEPT || key.is_none_or(|key| is_sealed(record, key)))
}

/// What there is to be accepted. Showing it is the dry run.
#[derive(Debug, Clone, Default)]
pub struct AcceptPlan {
    /// Whether the beginning of the ledger was taken away, as a whole or before a new one was begun.
    pub beginning: bool,
    /// Records that are missing, damaged or false, and that nothing at hand gives back.
    pub lost: Vec<LostRecord>,
    /// What this host's copy of the ledger says otherwise than the tier: it is put aside.
    pub other_way: Option<OtherWay>,
    /// What is wrong with the ledger beside that.
    pub left: Vec<Finding>,
}

/// Records that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostRecord {
    /// Which.
    pub lost: LostRecords,
    /// What is wrong with them.
    pub why: String,
}

/// What only this host's copy of the ledger knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherWay {
    /// The first record that is another on the tier, or is not there.
    pub from: u64,
    /// How many there are.
    pub records: u64,
    /// Those of them that tell of a snapshot or a key, and the like of which the tier does not have.
    pub told: Vec<Record>,
}

impl AcceptPlan {
    /// Whether there is nothing to accept.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        !self.beginning && self.lost.is_empty() && self.other_way.is_none()
    }
}

/// What was accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acceptance {
    /// The numbers of the records that say so.
    pub records: Vec<u64>,
    /// Where this host's copy was put that went another way.
    pub aside: Option<PathBuf>,
}

/// Looks what there is to be accepted; only reads.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not forget; [`EngineError::Repairable`] where a repair puts records
/// back from this host's copy; errors of the tier.
#[boxed]
pub async fn accept_plan(repo: &Repository, cx: &OpContext) -> Result<AcceptPlan> {
    repo.keys().may_forget()?;
    repo.keys().accept_key()?;
    let check = verify_ledger(repo, cx).await?;
    let holes = Holes::read(repo, cx).await?;
    let fits = holes.fitting();
    if let Some(first) = fits.keys().next() {
        let which = match fits.len() {
            1 => format!("record {first} of the ledger"),
            many => format!(
                "record {first} of the ledger and {} more",
                many.saturating_sub(1)
            ),
        };
        return Err(EngineError::Repairable(which));
    }
    let beginning = is_beginning_lost(repo, cx, &check.report.accepted).await?;
    let mut plan = AcceptPlan {
        beginning,
        ..AcceptPlan::default()
    };
    if holes.is_other_way() {
        plan.other_way = Some(other_way(repo, cx, &holes).await?);
    }
    let end = chain(repo, cx, &plan).await?.next();
    for finding in &check.report.findings {
        let said = finding.to_finding();
        if said.severity == Severity::Note {
            continue;
        }
        match finding.lost {
            // Its place is taken by the record that says so.
            Some(lost) if beginning && lost.last == 1 => {}
            Some(lost) if lost.last < end => plan.add(lost, finding.detail.clone()),
            _ => plan.left.push(said),
        }
    }
    plan.left.extend(unnamed(&check.report));
    plan.lost.sort_by_key(|one| one.lost);
    Ok(plan)
}

impl AcceptPlan {
    /// Adds lost records; of a record of which several things are wrong, they are joined.
    fn add(&mut self, lost: LostRecords, why: String) {
        let same = |one: &&mut LostRecord| one.lost.first == lost.first;
        let Some(one) = self.lost.iter_mut().find(same) else {
            self.lost.push(LostRecord { lost, why });
            return;
        };
        one.lost.hash = one.lost.hash.or(lost.hash);
        one.lost.instead = one.lost.instead.or(lost.instead);
        one.why = format!("{}; {why}", one.why);
    }
}

/// Says that what a plan shows is known: as records of the ledger. Then this host's copy is put aside, if it went another
/// way, and begun anew from the tier.
///
/// # Errors
/// [`EngineError::Key`] for a key whose holder may not forget, or that cannot sign for the host; [`EngineError::Local`]
/// where the copy cannot be written; errors of the tier.
#[boxed]
pub async fn accept(
    repo: &Repository,
    cx: &OpContext,
    (host, user): (&HostId, &str),
    plan: AcceptPlan,
) -> Result<Acceptance> {
    repo.keys().may_forget()?;
    let key = HmacKey::new(*repo.keys().accept_key()?.expose());
    repo.keys().ledger_key(host)?;
    let mut done = Acceptance::default();
    let mut lost: Vec<LostRecords> = plan.lost.iter().map(|one| one.lost).collect();
    if plan.beginning {
        match accept_beginning(repo, cx, (host, user), &key).await? {
            true => done.records.push(1),
            // Something lies there that says nothing of it.
            false => lost.insert(0, LostRecords::one(1)),
        }
    }
    let mut chain = chain(repo, cx, &plan).await?;
    lost.retain(|one| one.last < chain.next());
    let mut notes: Vec<String> = lost
        .chunks(MAX_ACCEPTED)
        .map(|lost| accept_note(lost, &[]))
        .collect();
    if let Some(other) = &plan.other_way {
        let from = other.from;
        let more = format!(
            "the copy that this host had went another way from record {from} on, and was put aside"
        );
        match notes.last_mut() {
            Some(note) => *note = format!("{note}; {more}"),
            None => notes.push(more),
        }
    }
    for note in notes {
        done.records.push(chain.next());
        chain.append_sealed(host, user, draft(note), &key).await?;
    }
    if plan.other_way.is_some() {
        done.aside = put_aside(repo, cx).await?;
    }
    Ok(done)
}

const fn draft(note: String) -> LedgerDraft {
    LedgerDraft {
        op: "accept",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note,
    }
}

/// The end of the ledger. A copy that went another way says nothing of it.
async fn chain<'a>(repo: &'a Repository, cx: &OpContext, plan: &AcceptPlan) -> Result<Chain<'a>> {
    match plan.other_way {
        Some(_) => Chain::of_tier(repo, cx).await,
        None => Chain::read(repo, cx).await,
    }
}

/// Whether the beginning of the ledger was taken away, as a whole or before a new one was begun, and nobody has said
/// that it is known.
async fn is_beginning_lost(
    repo: &Repository,
    cx: &OpContext,
    accepted: &AcceptedRecords,
) -> Result<bool> {
    let numbers = tier::numbers(repo, cx, 0).await?;
    let second = match numbers.as_slice() {
        [] => {
            let copy = repo.ledger_copy();
            let has_copy = copy.is_some_and(|copy| copy.last().is_ok_and(|last| last.is_some()));
            return Ok(!has_copy && !repo.snapshot_keys(cx).await?.is_empty());
        }
        [1, 2, ..] | [2, ..] => tier::record(2, tier::read(repo, cx, 2).await?).ok(),
        _ => None,
    };
    let is_anew = second.is_some_and(|line| line.record().prev == LineHash::NONE);
    if !is_anew || accepted.by(1).is_some() {
        return Ok(false);
    }
    if numbers.first() == Some(&1) {
        let first = tier::record(1, tier::read(repo, cx, 1).await?);
        let key = accept_key(repo);
        return Ok(first.is_ok_and(|line| !is_beginning(line.record(), key.as_ref())));
    }
    Ok(true)
}

/// Says that it is known that the beginning of the ledger was taken away: as its first record. Says whether its place was
/// empty.
async fn accept_beginning(
    repo: &Repository,
    cx: &OpContext,
    (host, user): (&HostId, &str),
    accept: &HmacKey,
) -> Result<bool> {
    let key = HmacKey::new(*repo.keys().ledger_key(host)?.expose());
    let note = "what was before it is gone, and that is known".to_owned();
    let mut draft: Draft = draft(note).signed_by(repo, cx, host, user)?;
    seal_note(&mut draft, None, accept);
    let line = append(None, draft, &key).map_err(|error| evidence(&error))?;
    let sealed = repo.ring().seal(ObjectKind::Ledger, line.as_bytes());
    let body = sealed.map_err(EngineError::Seal)?.into();
    let at = name(layout::ledger(1))?;
    match repo.sink().put(cx, &at, body, PutMode::Create).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::Conflict => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What only this host's copy knows.
async fn other_way(repo: &Repository, cx: &OpContext, holes: &Holes) -> Result<OtherWay> {
    let mut there: HashSet<(Op, SnapshotId)> = HashSet::new();
    let mut notes: BTreeSet<LineHash> = BTreeSet::new();
    let note_of = |record: &Record| LineHash::of(record.note.as_deref().unwrap_or("").as_bytes());
    let mut lines = Box::pin(tier::lines_of_tier(repo, cx).await?);
    while let Some(line) = lines.try_next().await? {
        let record = line.record();
        there.extend(record.snapshot.map(|id| (record.op.clone(), id)));
        if record.op == Op::KEY {
            notes.insert(note_of(record));
        }
    }
    let mut other = OtherWay {
        from: u64::MAX,
        records: 0,
        told: Vec::new(),
    };
    each_own(repo, |line: Line| {
        let head = line.head();
        if holes.known.get(&head.seq) == Some(&head.hash) {
            return;
        }
        other.from = other.from.min(head.seq);
        other.records += 1;
        let record = line.record();
        let is_there = match record.snapshot {
            Some(id) => there.contains(&(record.op.clone(), id)),
            None => record.op != Op::KEY || notes.contains(&note_of(record)),
        };
        if !is_there && other.told.len() < MOST_SHOWN {
            other.told.push(record.clone());
        }
    });
    Ok(other)
}

/// Begins this host's copy anew from the tier, and keeps the one that was there beside it.
async fn put_aside(repo: &Repository, cx: &OpContext) -> Result<Option<PathBuf>> {
    let Some(copy) = repo.ledger_copy() else {
        return Ok(None);
    };
    let local = |source: std::io::Error| EngineError::Local {
        path: copy.path().to_owned(),
        source,
    };
    let mut fresh = copy.begin_anew().map_err(local)?;
    let mut lines = Box::pin(tier::lines_of_tier(repo, cx).await?);
    while let Some(line) = lines.try_next().await? {
        fresh.add(&line).map_err(local)?;
    }
    fresh.put_beside().map(Some).map_err(local)
}
