//! What verifications on this host have found damaged, for whoever is about to let go of what is whole.

use std::collections::BTreeSet;
use std::path::Path;

use async_recursion::async_recursion as boxed;
use backup_core::{OpContext, SnapshotId};

use super::memory::Memory;
use crate::error::Result;
use crate::refs;
use crate::repository::{Repository, SnapshotHead};

/// The snapshots that use packs which were damaged when a verification on this host looked at them last; `memory` is the
/// folder of the local cache. What was mended since counts as damaged until a verification finds it whole. Reads
/// the refs of snapshots, and nothing at all where no damage is remembered.
///
/// # Errors
/// Errors of the tier.
#[boxed]
pub async fn known_damaged(
    repo: &Repository,
    cx: &OpContext,
    memory: Option<&Path>,
    heads: &[SnapshotHead],
) -> Result<BTreeSet<SnapshotId>> {
    let mut out = BTreeSet::new();
    let memory = Memory::read_only(repo, cx, memory)?;
    if !memory.knows_damage() {
        return Ok(out);
    }
    let listed = refs::list(repo, cx).await?;
    for head in heads {
        for key in listed.get(&head.meta.id).into_iter().flatten() {
            match refs::read(repo, cx, key).await {
                Ok(refs) => {
                    let mut packs = refs.iter().flat_map(|refs| &refs.packs);
                    if packs.any(|pack| memory.pack(&pack.pack).is_bad) {
                        out.insert(head.meta.id);
                    }
                }
                // What it uses nobody can tell: no prune goes on before that is mended.
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(out)
}
