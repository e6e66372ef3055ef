//! The records as they lie on the tier: several are fetched at once, and they come in their order.

use backup_core::OpContext;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::Line;
use futures::{Stream, StreamExt as _, TryStreamExt as _};

use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// What lies under the number of a record: the bytes of its line, or why they cannot be had.
pub(super) type Found = std::result::Result<Vec<u8>, String>;

/// The numbers of the records behind `after`, ascending. What is not named like a record is none: a
/// stray file hinders nobody.
pub(crate) async fn numbers(repo: &Repository, cx: &OpContext, after: u64) -> Result<Vec<u64>> {
    let behind = match after {
        0 => None,
        number => Some(name(layout::ledger(number))?),
    };
    let mut out = Vec::new();
    let mut listed = repo.sink().list(cx, "ledger/", behind.as_ref());
    while let Some(meta) = listed.try_next().await? {
        out.extend(layout::ledger_number(&meta.key).filter(|number| *number > after));
    }
    out.sort_unstable();
    Ok(out)
}

/// The records with these numbers; one that does not open is read once more. In memory are as many as the tier has connections.
pub(super) fn lines<'a>(
    repo: &'a Repository,
    cx: &'a OpContext,
    numbers: Vec<u64>,
) -> impl Stream<Item = Result<(u64, Found)>> + 'a {
    let fetch = move |number| async move {
        let found = read(repo, cx, number).await?;
        // It may have been damaged on the way only.
        let found = match found {
            Err(_) => read(repo, cx, number).await?,
            found => found,
        };
        Ok((number, found))
    };
    futures::stream::iter(numbers)
        .map(fetch)
        .buffered(repo.connections(cx))
}

/// One record.
pub(super) async fn read(repo: &Repository, cx: &OpContext, number: u64) -> Result<Found> {
    let key = name(layout::ledger(number))?;
    let limit = ObjectKind::Ledger.max_sealed();
    let sealed = match get_within(cx, &**repo.sink(), &key, limit).await {
        Ok(sealed) => sealed,
        Err(error) if error.is_damage() => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    let opened = repo.ring().open(ObjectKind::Ledger, &sealed);
    Ok(opened.map_err(|error| EngineError::sealed(&key, &error).to_string()))
}

/// The record that should have this number.
pub(super) fn record(number: u64, found: Found) -> std::result::Result<Line, String> {
    let line = Line::parse(&found?).map_err(|error| error.to_string())?;
    match line.head().seq {
        seq if seq == number => Ok(line),
        seq => Err(format!("it is record {seq}")),
    }
}

/// All records that can be read, in their order.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn lines_of_tier<'a>(
    repo: &'a Repository,
    cx: &'a OpContext,
) -> Result<impl Stream<Item = Result<Line>> + 'a> {
    let numbers = numbers(repo, cx, 0).await?;
    let read = |(number, found)| async move { Ok(record(number, found).ok()) };
    Ok(lines(repo, cx, numbers).try_filter_map(read))
}
