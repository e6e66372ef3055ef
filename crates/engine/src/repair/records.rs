//! This host's copy of the ledger, from the tier; and records of the ledger that are missing or damaged there: from this host's copy, or from another copy of the repository.
//! Each continues what stands before it and is continued by what stands behind it, as far as these are there; what another
//! copy has hashes to what the record behind it says. So the chain is as it was, and nothing in it contradicts another.

use std::collections::BTreeSet;
use std::ops::Range;

use backup_core::{FindingKind, ObjectKey, OpContext};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{Candidate, Line};
use bytes::Bytes;
use futures::TryStreamExt as _;

use super::objects::is_absence;
use super::{Remedy, RepairPlan, Task, Work};
use crate::error::{EngineError, Result};
use crate::ledger::{
    Holes, MOST_HOLES, OWN, lines_of_tier, numbers, verify_ledger, was_begun_anew,
};
use crate::repository::{Repository, get_within, name};

/// Records that are named one by one.
const MOST_NAMED: usize = 20;

const GONE: &str = "it is not on the tier";

/// A record that is to be put back.
#[derive(Debug)]
pub(super) struct BadRecord {
    pub(super) key: ObjectKey,
    /// Its line.
    line: Vec<u8>,
}

pub(super) async fn plan(
    repo: &Repository,
    cx: &OpContext,
    others: &[Repository],
    plan: &mut RepairPlan,
) -> Result<()> {
    let mut holes = Holes::read(repo, cx).await?;
    ask_others(repo, cx, others, &mut holes).await?;
    let check = verify_ledger(repo, cx).await?;
    let fits = holes.fitting();
    let mut lost = Vec::new();
    for row in &holes.rows {
        if was_begun_anew(row) {
            // The next one was written by somebody who found none: no record fits before it.
            if check.report.accepted.by(1).is_none() {
                let why = "its beginning was taken away, and it was begun anew: `snapshot ledger accept` says that it is known";
                plan.lose(FindingKind::Mismatch, "ledger", why);
            }
            continue;
        }
        let mut next = row.first;
        let mut gaps = Vec::new();
        for number in fits.range(row.first..=row.last).map(|(number, _)| *number) {
            gaps.push(next..number);
            next = number + 1;
        }
        gaps.push(next..row.last.saturating_add(1));
        let gaps = gaps.into_iter().filter(|gap| !gap.is_empty());
        let rows = gaps.flat_map(|gap| check.report.accepted.split(gap));
        lost.extend(rows.filter(|(_, by)| by.is_none()).map(|(row, _)| row));
    }
    for row in lost.iter().take(MOST_NAMED) {
        let key = name(layout::ledger(row.start))?;
        plan.lose(
            FindingKind::Damaged,
            key.as_str(),
            lost_why(&holes, row, others),
        );
    }
    if let Some(more) = lost.len().checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        let why =
            format!("{more} more records are missing or damaged, and nothing at hand has them");
        plan.lose(FindingKind::Damaged, "ledger", why);
    }
    for (number, copy) in fits {
        let key = name(layout::ledger(number))?;
        let place = match copy.from.checked_sub(OWN + 1) {
            Some(other) => others.get(other).map(Repository::location),
            None => repo
                .ledger_copy()
                .map(|copy| copy.path().display().to_string()),
        };
        let why = holes.damaged.get(&number).map_or(GONE, String::as_str);
        plan.tasks.push(Task {
            subject: key.to_string(),
            why: why.to_owned(),
            remedy: Remedy::Copy(place.unwrap_or_default()),
            work: Work::Record(BadRecord {
                key,
                line: copy.line.as_bytes().to_vec(),
            }),
        });
    }
    if check.is_copy_to_be_mended {
        plan.tasks.push(Task {
            subject: "this host's copy of the ledger".into(),
            why: "it has lines that are no records".into(),
            remedy: Remedy::Tier,
            work: Work::LedgerCopy,
        });
    }
    Ok(())
}

/// What is said of lost records that nothing gives back.
fn lost_why(holes: &Holes, row: &Range<u64>, others: &[Repository]) -> String {
    let why = match row.end - row.start {
        1 => holes.damaged.get(&row.start).map_or(GONE, String::as_str),
        _ => "it and those behind it are not on the tier, or damaged",
    };
    let which = match row.end - row.start {
        1 => String::new(),
        _ => format!(" (records {} to {})", row.start, row.end - 1),
    };
    let is_own = holes.copies.range(row.clone()).any(|(_, copies)| {
        let mut copies = copies.iter();
        copies.any(|copy| copy.is_own)
    });
    let no = match (is_own, others.is_empty()) {
        (true, _) => {
            "what this host's copy has there does not fit to what the tier has before or behind it"
        }
        (false, true) => "only a copy of the repository has it: name one with --from",
        (false, false) => "no copy that was named gives it",
    };
    format!(
        "{why}{which}; {no}; if nothing gives it back, `snapshot ledger accept` says that this is known"
    )
}

/// Adds what copies of the repository have of the lost records that this host's copy does not give back.
async fn ask_others(
    repo: &Repository,
    cx: &OpContext,
    others: &[Repository],
    holes: &mut Holes,
) -> Result<()> {
    for (from, other) in others.iter().enumerate() {
        let has: BTreeSet<u64> = {
            let fits = holes.fitting();
            let numbers = numbers(other, cx, 0).await?.into_iter();
            let is_wanted = |number: &u64| {
                let mut rows = holes.rows.iter();
                let is_lost = rows.any(|row| (row.first..=row.last).contains(number));
                is_lost && !fits.contains_key(number)
            };
            numbers.filter(is_wanted).take(MOST_HOLES).collect()
        };
        for number in has {
            match fetch(repo, cx, number, other).await {
                Ok(line) => {
                    let (is_own, from) = (false, OWN + 1 + from);
                    let copy = Candidate { line, is_own, from };
                    holes.copies.entry(number).or_default().push(copy);
                }
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Writes this host's copy anew from the tier, if that is still right; says whether it was.
///
/// # Errors
/// Damage where the copy cannot be written; errors of the tier.
pub(super) async fn write_copy(repo: &Repository, cx: &OpContext) -> Result<bool> {
    let Some(copy) = repo.ledger_copy() else {
        return Ok(false);
    };
    if !verify_ledger(repo, cx).await?.is_copy_to_be_mended {
        return Ok(false);
    }
    let local = |error: std::io::Error| EngineError::damaged(copy.path().display(), error);
    let mut fresh = copy.begin_anew().map_err(local)?;
    let mut lines = Box::pin(lines_of_tier(repo, cx).await?);
    while let Some(line) = lines.try_next().await? {
        fresh.add(&line).map_err(local)?;
    }
    fresh.put().map_err(local)?;
    Ok(true)
}

/// A record of another copy of the repository.
async fn fetch(repo: &Repository, cx: &OpContext, number: u64, other: &Repository) -> Result<Line> {
    let key = name(layout::ledger(number))?;
    let limit = ObjectKind::Ledger.max_sealed();
    let sealed = get_within(cx, &**other.sink(), &key, limit).await?;
    let line = repo.ring().open(ObjectKind::Ledger, &sealed);
    let line = line.map_err(|error| EngineError::sealed(&key, &error))?;
    match Line::parse(&line) {
        Ok(line) if line.head().seq == number => Ok(line),
        _ => {
            let why = format!("at {} it is no such record", other.location());
            Err(EngineError::damaged(&key, why))
        }
    }
}

/// Puts a record in its place.
///
/// # Errors
/// Damage when the tier does not keep it. Errors of the tier.
pub(super) async fn put_back(repo: &Repository, cx: &OpContext, bad: &BadRecord) -> Result<()> {
    let sealed = repo.ring().seal(ObjectKind::Ledger, &bad.line);
    let bytes: Bytes = sealed.map_err(EngineError::Seal)?.into();
    super::objects::put(repo, cx, &bad.key, bytes).await
}
