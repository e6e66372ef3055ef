//! What the other tier has and the one that is copied from has not.

use std::collections::HashSet;

use async_recursion::async_recursion as boxed;
use backup_core::{HostId, OpContext};

use crate::beside::Ended;
use crate::error::Result;
use crate::repository::{Repository, SnapshotHead};

/// Snapshots of the other tier that are not on the one which is copied from, oldest first.
#[derive(Debug, Default)]
pub struct Vanished {
    /// Those that the host which asks forgot there, as it has signed in the ledger of the tier.
    pub forgotten: Vec<SnapshotHead>,
    /// Those of which its ledger says nothing like that: they were lost there, also if somebody has given them up since,
    /// or never there; or that another host forgot them, or that something is amiss with the ledger.
    pub others: Vec<SnapshotHead>,
}

impl Vanished {
    /// How many they are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.forgotten.len() + self.others.len()
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Looks what the other tier has beyond the one that is copied from; only reads. What cannot be read there counts as
/// there.
///
/// # Errors
/// Errors of the tiers.
#[boxed]
pub async fn vanished(
    from: &Repository,
    to: &Repository,
    cx: &OpContext,
    host: &HostId,
) -> Result<Vanished> {
    let mut out = Vanished::default();
    let (heads, _) = to.heads(cx).await?;
    // Listed behind the other tier: what was copied meanwhile is on both.
    let there: HashSet<_> = from.snapshot_keys(cx).await?.into_iter().collect();
    let there: HashSet<_> = there.into_iter().map(|(id, _)| id).collect();
    let mut gone = heads;
    gone.retain(|head| !there.contains(&head.meta.id));
    if gone.is_empty() {
        return Ok(out);
    }
    let ended = Ended::of_host(from, cx, host).await?;
    for head in gone {
        match ended.has_let_go(head.meta.id) {
            true => out.forgotten.push(head),
            false => out.others.push(head),
        }
    }
    Ok(out)
}
