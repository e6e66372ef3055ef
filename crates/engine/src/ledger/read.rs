//! Reading the ledger from its first record to its last, for whoever wants to know what was done.

use async_recursion::async_recursion as boxed;
use backup_core::OpContext;
use backup_integrity::ledger::{LostRecords, Record};
use futures::{Stream, TryStreamExt as _};

use super::accept::{accept_key, accepts};
use super::sight::Keys;
use super::tier;
use crate::error::Result;
use crate::repository::Repository;

/// A record as it lies on the tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenRecord {
    /// The number under which it lies.
    pub number: u64,
    /// What it says, or why it cannot be read.
    pub record: std::result::Result<Record, String>,
    /// Whether the host that it names signed it; nothing where its key is not at hand, and of what
    /// cannot be read.
    pub genuine: Option<bool>,
    /// The records that it accepts as lost, if it may.
    pub accepts: Vec<LostRecords>,
}

/// The records in their order. Whether they hang together is for [`super::verify_ledger`] to say.
///
/// Memory: 8 bytes for each record, and as many records as the tier has connections.
///
/// # Errors
/// Those of the tier.
#[boxed]
pub async fn records<'a>(
    repo: &'a Repository,
    cx: &'a OpContext,
) -> Result<impl Stream<Item = Result<SeenRecord>> + 'a> {
    let numbers = tier::numbers(repo, cx, 0).await?;
    let (mut keys, accept_key) = (Keys::new(repo), accept_key(repo));
    Ok(
        tier::lines(repo, cx, numbers).map_ok(move |(number, found)| {
            match tier::record(number, found) {
                Ok(line) => SeenRecord {
                    number,
                    genuine: keys.genuine(&line),
                    accepts: match keys.genuine(&line) {
                        Some(false) => Vec::new(),
                        _ => accepts(line.record(), accept_key.as_ref()),
                    },
                    record: Ok(line.record().clone()),
                },
                Err(why) => SeenRecord {
                    number,
                    record: Err(why),
                    genuine: None,
                    accepts: Vec::new(),
                },
            }
        }),
    )
}
