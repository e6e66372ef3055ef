//! What is on the tier, and what snapshots name of it.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{ObjectKey, OpContext, PackId, SessionId};
use backup_format::layout;
use futures::TryStreamExt;

use super::gone::Lost;
use crate::collect::settle;
use crate::error::Result;
use crate::prune::open_sessions;
use crate::refs;
use crate::repository::{Repository, SnapshotHead, UnreadSnapshot};

/// A pack that was listed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listed {
    pub(super) id: PackId,
    pub(super) size: u64,
}

/// The packs on the tier that are not dead, and what lies beside them.
#[derive(Debug, Default)]
pub(super) struct Tier {
    pub(super) packs: BTreeMap<ObjectKey, Listed>,
    /// Packs that have a sidecar.
    pub(super) protected: BTreeSet<ObjectKey>,
    /// Packs of which a copy was set aside.
    pub(super) aside: BTreeSet<ObjectKey>,
    /// What is gone or about to go, and never comes back.
    pub(super) dead: BTreeSet<PackId>,
    /// What is called dead, and snapshots use it.
    pub(super) contested: BTreeSet<PackId>,
}

impl Tier {
    pub(super) async fn list(
        repo: &Repository,
        cx: &OpContext,
        dead: BTreeSet<PackId>,
        contested: BTreeSet<PackId>,
    ) -> Result<Self> {
        let mut out = Self {
            protected: below(repo, cx, "parity/", layout::parity_of).await?,
            aside: below(repo, cx, "aside/", layout::aside_of).await?,
            packs: BTreeMap::new(),
            dead,
            contested,
        };
        settle(repo, cx).await;
        // Twice: lists of busy gateways have left things out, and what is not seen would be called missing.
        for _ in 0..2 {
            for prefix in ["data/", "meta/"] {
                let mut listed = repo.sink().list(cx, prefix, None);
                while let Some(meta) = listed.try_next().await? {
                    let Some(id) = layout::pack_id(&meta.key).filter(|id| !out.dead.contains(id))
                    else {
                        continue;
                    };
                    let size = meta.size;
                    out.packs.insert(meta.key, Listed { id, size });
                }
            }
        }
        Ok(out)
    }
}

async fn below(
    repo: &Repository,
    cx: &OpContext,
    folder: &str,
    pack_of: fn(&ObjectKey) -> Option<ObjectKey>,
) -> Result<BTreeSet<ObjectKey>> {
    let mut out = BTreeSet::new();
    let mut listed = repo.sink().list(cx, folder, None);
    while let Some(meta) = listed.try_next().await? {
        out.extend(pack_of(&meta.key));
    }
    Ok(out)
}

/// A snapshot of which refs are missing or damaged.
#[derive(Debug, Clone)]
pub(super) struct Torn {
    pub(super) head: SnapshotHead,
    /// All refs of it that are there.
    pub(super) refs: Vec<ObjectKey>,
    /// Those that cannot be read, and why.
    pub(super) damaged: Vec<(ObjectKey, String)>,
}

/// What snapshots name.
#[derive(Debug, Default)]
pub(super) struct Named {
    /// Packs that the refs name that can be read, those of snapshots that are gone among them.
    pub(super) packs: BTreeSet<PackId>,
    pub(super) torn: Vec<Torn>,
    pub(super) unread: Vec<UnreadSnapshot>,
    /// Snapshots that are damaged and were had from their sidecars, and what is wrong with them.
    pub(super) mended: BTreeMap<ObjectKey, String>,
    /// Whether it may be that snapshots that are gone need more packs than are named here.
    is_more_gone: bool,
    /// The sessions that were open before refs were listed: what they are about to name nobody knows.
    pub(super) open: BTreeSet<SessionId>,
}

impl Named {
    pub(super) async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let open = open_sessions(repo, cx).await?;
        settle(repo, cx).await;
        repo.notices().clear();
        let (heads, unread) = repo.heads(cx).await?;
        let noted = repo.notices().findings().into_iter();
        let mended = noted.filter_map(|one| Some((ObjectKey::new(one.subject).ok()?, one.detail)));
        let mut out = Self {
            unread,
            mended: mended.collect(),
            open,
            ..Self::default()
        };
        // Refs are there before their snapshot, and are replaced by others before they go.
        let mut listed = refs::list(repo, cx).await?;
        for head in heads {
            let mut tries = 0;
            let torn = loop {
                let keys = listed.get(&head.meta.id).cloned().unwrap_or_default();
                let (mut damaged, mut is_gone) = (Vec::new(), keys.is_empty());
                for key in &keys {
                    match refs::read(repo, cx, key).await {
                        Ok(Some(refs)) => out.packs.extend(refs.packs.iter().map(|one| one.pack)),
                        Ok(None) => is_gone = true,
                        Err(error) if error.is_damage() => {
                            damaged.push((key.clone(), error.to_string()));
                        }
                        Err(error) => return Err(error),
                    }
                }
                // A prune may have moved them since they were listed.
                if is_gone && tries == 0 {
                    tries += 1;
                    listed = refs::list(repo, cx).await?;
                    continue;
                }
                let is_torn = keys.is_empty() || !damaged.is_empty();
                break is_torn.then_some((keys, damaged));
            };
            if let Some((refs, damaged)) = torn {
                out.torn.push(Torn {
                    head,
                    refs,
                    damaged,
                });
            }
        }
        Ok(out)
    }

    /// Takes up what snapshots need that are gone.
    pub(super) fn add_gone(&mut self, lost: &Lost, has_copies: bool) {
        self.packs.extend(lost.packs());
        self.is_more_gone = lost.is_unsure(has_copies);
    }

    /// Whether it may be that snapshots need more packs than are named here.
    pub(super) fn is_unsure(&self) -> bool {
        !self.torn.is_empty() || !self.unread.is_empty() || self.is_more_gone
    }
}
