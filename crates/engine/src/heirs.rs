//! Packs that no refs name and that are needed all the same: they hold what a lost pack held. A save that found that pack
//! missing has stored it anew in them, and the snapshot that it made was forgotten since. Refs go on naming the lost pack, so by
//! refs alone such a pack looks like garbage; and where it is damaged, what is whole of it may be all that there is.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{OpContext, PackId};
use backup_format::refs::PackUse;

use crate::error::Result;
use crate::index_set::IndexSet;
use crate::refs::{self, Sum};
use crate::repair::{Chunk, used_chunks};
use crate::repository::Repository;

/// What refs name of some packs. Those that cannot be read say nothing: whoever concludes anything from that has looked
/// whether there are such.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn uses(
    repo: &Repository,
    cx: &OpContext,
    is_asked_for: impl Fn(&PackId) -> bool,
) -> Result<BTreeMap<PackId, PackUse>> {
    let mut sum = Sum::default();
    for key in refs::list(repo, cx).await?.into_values().flatten() {
        match refs::read(repo, cx, &key).await {
            Ok(Some(mut refs)) => {
                refs.packs.retain(|one| is_asked_for(&one.pack));
                sum.add(refs);
            }
            Ok(None) => {}
            Err(error) if error.is_damage() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sum.0)
}

/// Those of some packs that hold a chunk which snapshots use of `lost` ones, whatever other pack has it too: which of them has
/// it whole is not known. All of them where the index does not tell what a lost one held.
///
/// Memory: some 50 bytes for each chunk that is used of lost packs.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn heirs(
    repo: &Repository,
    cx: &OpContext,
    index: &IndexSet,
    lost: &BTreeSet<PackId>,
    packs: &BTreeSet<PackId>,
) -> Result<BTreeSet<PackId>> {
    if lost.is_empty() || packs.is_empty() {
        return Ok(BTreeSet::new());
    }
    let uses = uses(repo, cx, |id| lost.contains(id)).await?;
    let used = used_chunks(index, &uses);
    if uses.keys().any(|id| !used.contains_key(id)) {
        return Ok(packs.clone());
    }
    let used: BTreeSet<Chunk> = used.into_values().flatten().collect();
    Ok(holding(index, &used, packs))
}

/// Those of some packs that hold one of some chunks, also where nothing is looked for in them any more.
fn holding(
    index: &IndexSet,
    chunks: &BTreeSet<Chunk>,
    packs: &BTreeSet<PackId>,
) -> BTreeSet<PackId> {
    let mut out = BTreeSet::new();
    for part in index.parts() {
        let asked = part.packs().filter(|(_, pack)| packs.contains(&pack.id));
        let asked: BTreeMap<u32, PackId> = asked.map(|(at, pack)| (at, pack.id)).collect();
        if asked.is_empty() {
            continue;
        }
        for (prefix, located) in part.iter() {
            if let Some(id) = asked.get(&located.pack)
                && chunks.contains(&(prefix, located.kind))
            {
                out.insert(*id);
            }
        }
    }
    out
}
