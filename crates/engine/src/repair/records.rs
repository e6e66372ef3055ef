//! This host's copy of the ledger, from the tier; and records of the ledger that are missing or damaged there: from this host's copy, or from another copy of the repository.
//! Each hashes to what this host's copy or the record behind it says, so the chain is as it was.

use backup_core::{FindingKind, ObjectKey, OpContext};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{Line, LineHash};
use bytes::Bytes;
use futures::TryStreamExt as _;

use super::objects::is_absence;
use super::{Remedy, RepairPlan, Task, Work};
use crate::error::{EngineError, Result};
use crate::ledger::{holes, lines_of_tier, verify_ledger};
use crate::repository::{Repository, get_within, name};

/// Records that are named one by one.
const MOST_NAMED: usize = 20;

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
    let mut before: Option<(u64, LineHash)> = None;
    let (mut tasks, mut lost) = (Vec::new(), 0usize);
    // From the end on: each says what the one before it must be.
    for (number, hole) in holes(repo, cx).await?.into_iter().rev() {
        let key = name(layout::ledger(number))?;
        let by_next = before
            .filter(|(seq, _)| *seq == number)
            .map(|(_, hash)| hash);
        let hash = hole.hash.or(by_next);
        if number == 1 && hash == Some(LineHash::NONE) {
            // The next one was written by somebody who found none: no record fits before it.
            let why = "its beginning was taken away, and it was begun anew: `snapshot ledger accept` says that it is known";
            plan.lose(FindingKind::Mismatch, "ledger", why);
            continue;
        }
        let own = repo
            .ledger_copy()
            .map(|copy| copy.path().display().to_string());
        let mut found = hole.line.zip(own);
        if let Some(hash) = hash.filter(|_| found.is_none()) {
            for other in others {
                match fetch(repo, cx, &key, (number, hash), other).await {
                    Ok(line) => {
                        found = Some((line, other.location()));
                        break;
                    }
                    Err(error) if is_absence(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let Some((line, place)) = found else {
            let why = match others.is_empty() {
                true => "only a copy of the repository has it: name one with --from",
                false => "no copy that was named gives it",
            };
            lost += 1;
            if lost <= MOST_NAMED {
                let why = format!("{}; {why}", hole.why);
                plan.lose(FindingKind::Damaged, key.as_str(), why);
            }
            continue;
        };
        if let Ok(read) = Line::parse(&line) {
            before = number
                .checked_sub(1)
                .map(|number| (number, read.record().prev));
        }
        tasks.push(Task {
            subject: key.to_string(),
            why: hole.why,
            remedy: Remedy::Copy(place),
            work: Work::Record(BadRecord { key, line }),
        });
    }
    if let Some(more) = lost.checked_sub(MOST_NAMED).filter(|more| *more > 0) {
        let why =
            format!("{more} more records are missing or damaged, and nothing at hand has them");
        plan.lose(FindingKind::Damaged, "ledger", why);
    }
    tasks.reverse();
    plan.tasks.extend(tasks);
    if verify_ledger(repo, cx).await?.is_copy_to_be_mended {
        plan.tasks.push(Task {
            subject: "this host's copy of the ledger".into(),
            why: "it has lines that are no records".into(),
            remedy: Remedy::Tier,
            work: Work::LedgerCopy,
        });
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

/// The line of a record of a copy, if it is the one that is missing here.
async fn fetch(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    (number, hash): (u64, LineHash),
    other: &Repository,
) -> Result<Vec<u8>> {
    let limit = ObjectKind::Ledger.max_sealed();
    let sealed = get_within(cx, &**other.sink(), key, limit).await?;
    let line = repo.ring().open(ObjectKind::Ledger, &sealed);
    let line = line.map_err(|error| EngineError::sealed(key, &error))?;
    let head = Line::parse(&line).map(|line| line.head());
    if head.is_ok_and(|head| head.seq == number && head.hash == hash) {
        return Ok(line);
    }
    let why = format!("at {} it is another record", other.location());
    Err(EngineError::damaged(key, why))
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
