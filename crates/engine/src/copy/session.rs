//! A session on the other tier: what it began with, and how it ends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use backup_core::{CancellationToken, OpContext, PackId, SnapshotId};
use backup_format::config::Operation;
use backup_format::index::RunBuilder;
use backup_format::layout;
use futures::TryStreamExt;

use super::{CopyJob, Listing};
use crate::announced::{Alive, Announced};
use crate::claims;
use crate::collect::{Collection, settle};
use crate::data_keys::WrapSet;
use crate::error::Result;
use crate::index_set::IndexSet;
use crate::refs;
use crate::repository::Repository;
use crate::stage::SIGN_OF_LIFE;

/// The packs of the other tier.
#[derive(Debug, Default)]
pub(super) struct Here {
    /// Those that its index names and that are there as it says, and those that were sent.
    pub(super) known: BTreeSet<PackId>,
    /// Those that are there and in no index run, with their sizes.
    pub(super) loose: HashMap<PackId, u64>,
    /// Those that lie there with another size than the index says, or that are not what their names say.
    pub(super) odd: BTreeSet<PackId>,
    /// Those that the index names and that are not there as it says.
    pub(super) absent: BTreeSet<PackId>,
}

impl Here {
    /// Lists them.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(super) async fn look(to: &Repository, cx: &OpContext) -> Result<Self> {
        let mut left = to.index().pack_sizes();
        let mut out = Self::default();
        for folder in ["data/", "meta/"] {
            let mut listed = to.sink().list(cx, folder, None);
            while let Some(meta) = listed.try_next().await? {
                let Some(id) = layout::pack_id(&meta.key) else {
                    continue;
                };
                match left.remove(&id) {
                    Some(size) if size == meta.size => drop(out.known.insert(id)),
                    Some(_) => {
                        out.odd.insert(id);
                        out.absent.insert(id);
                    }
                    None if out.known.contains(&id) => {}
                    None => drop(out.loose.insert(id, meta.size)),
                }
            }
        }
        out.absent.extend(left.into_keys());
        Ok(out)
    }

    /// Whether it is there under its name, in the index or not.
    pub(super) fn has(&self, id: &PackId) -> bool {
        self.known.contains(id) || self.loose.contains_key(id)
    }
}

/// Packs that are on the other tier and in no index run yet.
#[derive(Default)]
pub(super) struct Fresh {
    pub(super) run: RunBuilder,
    pub(super) wraps: WrapSet,
    pub(super) bytes: u64,
}

/// What came of all packs.
pub(super) struct Ended {
    pub(super) packs: u64,
    pub(super) bytes: u64,
    pub(super) outcome: Result<()>,
}

/// A session on the other tier, and what it sends.
pub(super) struct Shipment<'a> {
    pub(super) from: &'a Repository,
    pub(super) to: &'a Repository,
    pub(super) cx: &'a OpContext,
    pub(super) job: &'a CopyJob,
    pub(super) session: Announced,
    _alive: Alive,
    /// Snapshots that the session has made.
    pub(super) brought: BTreeSet<SnapshotId>,
    /// Whether it must have no end: it was taken for dead, or a snapshot may still come of it without anybody's doing.
    pub(super) stays_open: bool,
    pub(super) here: Mutex<Here>,
    /// Packs that this session must not name.
    pub(super) avoided: BTreeSet<PackId>,
    /// What the other tier has, without what is avoided or absent.
    pub(super) index: IndexSet,
    pub(super) disputed: BTreeMap<PackId, u32>,
    pub(super) fresh: Mutex<Fresh>,
    /// The refs of the tier that is copied from.
    pub(super) listed: Listing,
    /// Snapshots that had refs on the other tier when the session began.
    pub(super) leftover: BTreeSet<SnapshotId>,
    /// A pack could not be sent, so no other need be.
    pub(super) has_failed: AtomicBool,
    pub(super) packs: u64,
    pub(super) bytes: u64,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the other tier is, as it was behind the announcement of a session.
struct Seen {
    here: Here,
    avoided: BTreeSet<PackId>,
    index: IndexSet,
    disputed: BTreeMap<PackId, u32>,
    leftover: BTreeSet<SnapshotId>,
}

/// (2) and (3) of a writer.
async fn look(to: &Repository, cx: &OpContext) -> Result<Seen> {
    settle(to, cx).await;
    to.check_features(cx, Operation::Write).await?;
    let Collection {
        condemned, dead, ..
    } = to.collection(cx).await?;
    to.pass_over(dead.clone());
    to.refresh_index(cx).await?;
    let avoided: BTreeSet<PackId> = condemned.into_iter().chain(dead).collect();
    let mut here = Here::look(to, cx).await?;
    here.known.retain(|id| !avoided.contains(id));
    here.loose.retain(|id, _| !avoided.contains(id));
    let index = index_of(to, &avoided, &here);
    let disputed = claims::disputed(&index)?;
    index.check()?;
    let leftover = refs::list(to, cx).await?.into_keys().collect();
    Ok(Seen {
        leftover,
        here,
        avoided,
        index,
        disputed,
    })
}

pub(super) fn index_of(to: &Repository, avoided: &BTreeSet<PackId>, here: &Here) -> IndexSet {
    to.index().avoiding(avoided).avoiding(&here.absent)
}

impl<'a> Shipment<'a> {
    /// Announces a session, and looks what the other tier is behind that.
    pub(super) async fn begin(
        from: &'a Repository,
        to: &'a Repository,
        cx: &'a OpContext,
        job: &'a CopyJob,
    ) -> Result<Self> {
        // There is no data key: nothing new is sealed.
        let session = Announced::begin(to, cx, &job.host, Vec::new()).await?;
        let alive = session.keep_alive(to, cx, Vec::new(), SIGN_OF_LIFE);
        let seen = match look(to, cx).await {
            Ok(seen) => seen,
            Err(error) => {
                session.end_of_failed(to, cx).await;
                return Err(error);
            }
        };
        Ok(Self {
            from,
            to,
            cx,
            job,
            session,
            _alive: alive,
            brought: BTreeSet::new(),
            stays_open: false,
            here: Mutex::new(seen.here),
            avoided: seen.avoided,
            index: seen.index,
            disputed: seen.disputed,
            fresh: Mutex::default(),
            listed: Listing::default(),
            leftover: seen.leftover,
            has_failed: AtomicBool::new(false),
            packs: 0,
            bytes: 0,
        })
    }

    /// How many snapshots this session has made.
    pub(super) fn made(&self) -> usize {
        self.brought.len()
    }

    /// Goes on with a new session. The one before is over: it was taken for dead, or has made enough.
    pub(super) async fn renew(&mut self) -> Result<()> {
        self.write_run(self.cx).await?;
        if !self.stays_open && !self.session.is_revoked(self.to, self.cx).await? {
            self.session.end(self.to, self.cx).await?;
        }
        // Should the next one not begin, nothing more is to be said of this.
        self.stays_open = true;
        let next = Self::begin(self.from, self.to, self.cx, self.job).await?;
        let (packs, bytes) = (self.packs, self.bytes);
        *self = next;
        (self.packs, self.bytes) = (packs, bytes);
        Ok(())
    }

    /// Ends the session, and makes known what was sent and is in no index run yet.
    pub(super) async fn end(mut self, is_well: bool) -> Ended {
        let mut cx = self.cx.clone();
        cx.cancel = CancellationToken::new();
        let outcome = if is_well {
            self.end_of_done(&cx).await
        } else {
            // What is on the tier is found again by the next run, indexed or not.
            let _ = self.write_run(&cx).await;
            if !self.stays_open {
                self.session.end_of_failed(self.to, &cx).await;
            }
            Ok(())
        };
        Ended {
            packs: self.packs,
            bytes: self.bytes,
            outcome,
        }
    }

    async fn end_of_done(&mut self, cx: &OpContext) -> Result<()> {
        self.write_run(cx).await?;
        if self.stays_open || self.session.is_revoked(self.to, cx).await? {
            return Ok(());
        }
        self.session.end(self.to, cx).await
    }
}
