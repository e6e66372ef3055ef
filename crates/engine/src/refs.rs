//! The refs of snapshots on the tier: one object that the writer made, and others where prunes moved what
//! it names. All of them count; they add up.

use std::collections::BTreeMap;

use backup_core::{ErrorKind, ObjectKey, OpContext, PackId, SnapshotId};
use backup_format::layout;
use backup_format::refs::{PackUse, Refs};
use backup_format::seal::ObjectKind;
use futures::TryStreamExt;

use crate::collect::open;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within};

/// All refs on the tier, by their snapshot.
pub(crate) type Listed = BTreeMap<SnapshotId, Vec<ObjectKey>>;

/// Lists all refs.
pub(crate) async fn list(repo: &Repository, cx: &OpContext) -> Result<Listed> {
    Ok(list_with_most(repo, cx).await?.0)
}

/// Lists all refs; how many bytes the largest have.
pub(crate) async fn list_with_most(repo: &Repository, cx: &OpContext) -> Result<(Listed, u64)> {
    let (mut out, mut most) = (Listed::new(), 0);
    let mut listed = repo.sink().list(cx, "refs/", None);
    while let Some(meta) = listed.try_next().await? {
        if let Some((snapshot, _)) = layout::refs_id(&meta.key) {
            most = meta.size.max(most);
            out.entry(snapshot).or_default().push(meta.key);
        }
    }
    Ok((out, most))
}

/// How many refs may be read at once of which the largest have so many bytes: each is in memory sealed, opened and read.
pub(crate) fn at_once(repo: &Repository, cx: &OpContext, most: u64) -> usize {
    let each = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_mul(4)
        .max(1);
    repo.connections(cx)
        .min(cx.limits.memory_bytes / each)
        .max(1)
}

/// Reads refs; `None` when they are gone, since their snapshot was forgotten or they were replaced.
pub(crate) async fn read(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
) -> Result<Option<Refs>> {
    let limit = ObjectKind::Refs.max_sealed();
    let sealed = match get_within(cx, &**repo.sink(), key, limit).await {
        Ok(sealed) => sealed,
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let refs = open(repo, key, ObjectKind::Refs, &sealed, Refs::decode)?;
    if layout::refs_id(key).is_none_or(|(snapshot, _)| snapshot != refs.snapshot) {
        let why = format!("it is that of snapshot {}", refs.snapshot);
        return Err(EngineError::damaged(key, why));
    }
    Ok(Some(refs))
}

/// What several refs name together.
#[derive(Debug, Default)]
pub(crate) struct Sum(pub(crate) BTreeMap<PackId, PackUse>);

impl Sum {
    pub(crate) fn add(&mut self, refs: Refs) {
        for pack in refs.packs {
            match self.0.get_mut(&pack.pack) {
                Some(known) => known.absorb(&pack),
                None => {
                    self.0.insert(pack.pack, pack);
                }
            }
        }
    }

    pub(crate) fn into_refs(self, snapshot: SnapshotId) -> Refs {
        let packs = self.0.into_values().collect();
        Refs { snapshot, packs }
    }
}
