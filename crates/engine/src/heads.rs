//! The heads of snapshots: which there are, and what their objects say without a page being read.

use std::collections::BTreeSet;

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, ObjectMeta, OpContext, SessionId, Severity,
    SnapshotId, SnapshotMeta,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::{Outer, SnapshotObject};
use bytes::Bytes;
use futures::StreamExt;

use crate::beside;
use crate::collect::judged_in;
use crate::error::{EngineError, Result};
use crate::listing::{Listing, may_lag};
use crate::remedy::remedy;
use crate::remembered::Remembered;
use crate::repository::{Repository, get_within, name};

/// A snapshot's head, read and authenticated.
#[derive(Debug, Clone)]
pub struct SnapshotHead {
    /// What is known of it.
    pub meta: SnapshotMeta,
    /// The outer part.
    pub outer: Outer,
    /// The object.
    pub object: SnapshotObject,
}

impl SnapshotHead {
    /// The session by which it counts on its tier: the one that made it there, or that brought a copy of it.
    #[must_use]
    pub fn session(&self) -> SessionId {
        self.object.session(&self.outer)
    }
}

/// A snapshot that cannot be read. Of it its name alone is known.
#[derive(Debug)]
pub struct UnreadSnapshot {
    /// Its id; see [`SnapshotId::millis`] for when it was begun.
    pub id: SnapshotId,
    /// Its object.
    pub key: ObjectKey,
    /// Why it cannot be read.
    pub error: EngineError,
}

impl UnreadSnapshot {
    /// What is to be said of it.
    #[must_use]
    pub fn finding(&self) -> Finding {
        let (subject, mut detail) = (format!("snapshot {}", self.id), self.error.to_string());
        // Where a verdict cannot be read, the error itself says what to do.
        if let EngineError::Damaged { object, .. } = &self.error
            && object == self.key.as_str()
        {
            detail = format!(
                "{detail}; {}",
                remedy(FindingKind::Damaged, self.key.as_str())
            );
        }
        Finding::new(Severity::Error, FindingKind::Damaged, subject, detail)
    }
}

impl Repository {
    /// The keys of all snapshot objects.
    ///
    /// # Errors
    /// Those of the tier.
    #[boxed]
    pub async fn snapshot_keys(&self, cx: &OpContext) -> Result<Vec<(SnapshotId, ObjectKey)>> {
        let listing = Listing::read(cx, &**self.sink(), &["snap/"]).await?;
        Ok(snapshots_in(&listing))
    }

    /// Reads the head of a snapshot; of one that is damaged, by its sidecar, which is noted
    /// ([`Repository::notices`]).
    ///
    /// # Errors
    /// [`EngineError::Damaged`], errors of the tier.
    #[boxed]
    pub async fn head(
        &self,
        cx: &OpContext,
        id: SnapshotId,
        key: &ObjectKey,
    ) -> Result<SnapshotHead> {
        // A copy that is damaged is as if there were none.
        let cached = self.cache().read(key.as_str());
        if let Some(head) = cached.and_then(|sealed| self.open_head(id, key, &sealed).ok()) {
            return Ok(head);
        }
        let (head, sealed) = self.head_of_tier(cx, id, key).await?;
        if let Some(sealed) = sealed {
            self.cache().write(key.as_str(), &sealed);
        }
        Ok(head)
    }

    /// The same for who builds on it: the copy of this host stands for it only where the listing shows the same size, and
    /// the same version if the tier tells any and its listings do not lag.
    async fn head_listed(
        &self,
        cx: &OpContext,
        (id, key): (SnapshotId, &ObjectKey),
        listing: &Listing,
    ) -> Result<SnapshotHead> {
        let remembered = Remembered::of_repository(self.cache());
        let listed = listing.find(key);
        let has_version = !listing.lags() && listed.is_some_and(|meta| meta.version.is_some());
        let copy = match has_version {
            true => remembered.get(listing, key),
            false => {
                let copy = self.cache().read(key.as_str()).map(Bytes::from);
                copy.filter(|copy| listed.is_some_and(|meta| meta.size == copy.len() as u64))
            }
        };
        if let Some(head) = copy.and_then(|sealed| self.open_head(id, key, &sealed).ok()) {
            return Ok(head);
        }
        let (head, sealed) = self.head_of_tier(cx, id, key).await?;
        match sealed {
            Some(sealed) if has_version => remembered.keep(listing, key, &sealed),
            Some(sealed) => self.cache().write(key.as_str(), &sealed),
            None => {}
        }
        Ok(head)
    }

    /// Keeps a snapshot object that this host has put there, as the tier has told of it: the next save builds on it, and
    /// need not read it.
    pub(crate) fn keep_own_head(&self, put: &ObjectMeta, sealed: &[u8]) {
        match put.version {
            Some(_) if !may_lag(&**self.sink()) => {
                Remembered::of_repository(self.cache()).keep_put(put, sealed);
            }
            _ => self.cache().write(put.key.as_str(), sealed),
        }
    }

    /// Reads a head, with its bytes if they are those of the object itself.
    async fn head_of_tier(
        &self,
        cx: &OpContext,
        id: SnapshotId,
        key: &ObjectKey,
    ) -> Result<(SnapshotHead, Option<Bytes>)> {
        let limit = ObjectKind::Snapshot.max_sealed();
        let read = get_within(cx, &**self.sink(), key, limit).await;
        let opened = read.and_then(|sealed| Ok((self.open_head(id, key, &sealed)?, sealed)));
        match opened {
            Ok((head, sealed)) => Ok((head, Some(sealed))),
            // One that is gone was forgotten, as far as can be told here.
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Err(error.into()),
            Err(error) if beside::is_loss(&error) => {
                let mended = beside::mended(cx, &**self.sink(), key).await?;
                let head = mended.and_then(|sealed| self.open_head(id, key, &sealed).ok());
                if head.is_some() {
                    self.notices().mended(key, &error);
                }
                head.map(|head| (head, None)).ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A snapshot's head, as sealed bytes of that name say it.
    pub(crate) fn open_head(
        &self,
        id: SnapshotId,
        key: &ObjectKey,
        sealed: &[u8],
    ) -> Result<SnapshotHead> {
        let plain = self
            .ring()
            .open(ObjectKind::Snapshot, sealed)
            .map_err(|error| EngineError::sealed(key, &error))?;
        let object =
            SnapshotObject::decode(&plain).map_err(|error| EngineError::wire(key, &error))?;
        let outer: Outer = backup_format::snapshot::decode_part(&object.outer)
            .map_err(|error| EngineError::wire(key, &error))?;
        let meta = outer.meta();
        if meta.id != id {
            return Err(EngineError::damaged(
                key,
                format!("it holds snapshot {} instead", meta.id),
            ));
        }
        self.learn_wrap(SessionId::from_bytes(outer.session), &outer.wrap);
        Ok(SnapshotHead {
            meta,
            outer,
            object,
        })
    }

    /// Whether a snapshot is on the tier.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn has_snapshot(&self, cx: &OpContext, id: SnapshotId) -> Result<bool> {
        match self.sink().head(cx, &name(layout::snapshot(id))?).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The heads of all snapshots, oldest first, and the snapshots that cannot be read. What a verdict
    /// leaves out is none of them, and what it says is read behind the list of snapshots: whoever
    /// sees a snapshot that was made late sees the verdict too.
    ///
    /// # Errors
    /// Those of the tier's lists.
    #[boxed]
    pub async fn heads(&self, cx: &OpContext) -> Result<(Vec<SnapshotHead>, Vec<UnreadSnapshot>)> {
        let keys = self.snapshot_keys(cx).await?;
        let (heads, mut unread) = self.read_heads(cx, keys, None).await?;
        let judged = self.judged(cx).await?;
        let (mut heads, undecided) = self.counting(cx, heads, &judged).await?;
        unread.extend(undecided);
        let held = crate::hold::holds(self, cx).await?;
        for head in &mut heads {
            head.meta.held = held.contains(&head.meta.id);
        }
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        Ok((heads, unread))
    }

    /// The heads that a writer may build on, oldest first, and the sessions that were judged by then. Snapshots and
    /// verdicts are listed at once: a snapshot that was made while that was done may be seen without the verdict that
    /// leaves it out. So the writer looks at the verdicts once more, behind its announcement. Which snapshots are held
    /// is not asked.
    ///
    /// # Errors
    /// Those of the tier's lists.
    pub(crate) async fn heads_to_build_on(
        &self,
        cx: &OpContext,
    ) -> Result<(Vec<SnapshotHead>, BTreeSet<SessionId>)> {
        let listing = Listing::read(cx, &**self.sink(), &["snap/", "verdicts/"]).await?;
        let judged = judged_in(&listing);
        Remembered::of_repository(self.cache()).forget_gone_snapshots(&listing);
        // Heads that cannot be read do not hinder a backup; it is verification that reports them.
        let (heads, _) = self
            .read_heads(cx, snapshots_in(&listing), Some(&listing))
            .await?;
        let (mut heads, _) = self.counting(cx, heads, &judged).await?;
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        Ok((heads, judged))
    }

    async fn read_heads(
        &self,
        cx: &OpContext,
        keys: Vec<(SnapshotId, ObjectKey)>,
        listing: Option<&Listing>,
    ) -> Result<(Vec<SnapshotHead>, Vec<UnreadSnapshot>)> {
        let results: Vec<Result<SnapshotHead, UnreadSnapshot>> = futures::stream::iter(keys)
            .map(|(id, key)| async move {
                let head = match listing {
                    Some(listing) => self.head_listed(cx, (id, &key), listing).await,
                    None => self.head(cx, id, &key).await,
                };
                head.map_err(|error| UnreadSnapshot { id, key, error })
            })
            .buffered(self.connections(cx))
            .collect()
            .await;
        let (mut heads, mut unread) = (Vec::new(), Vec::new());
        for result in results {
            match result {
                Ok(head) => heads.push(head),
                Err(one) => unread.push(one),
            }
        }
        let is_gone = |one: &UnreadSnapshot| matches!(&one.error, EngineError::Sink(error) if error.kind == ErrorKind::NotFound);
        if unread.iter().any(is_gone) {
            // Listed, and forgotten before it was read. What stays on the list and is not there is damage.
            let again = self.snapshot_keys(cx).await?;
            unread.retain(|one| !is_gone(one) || again.iter().any(|(id, _)| *id == one.id));
        }
        Ok((heads, unread))
    }

    /// Those of some heads that count, and those of which nobody knows.
    async fn counting(
        &self,
        cx: &OpContext,
        heads: Vec<SnapshotHead>,
        judged: &BTreeSet<SessionId>,
    ) -> Result<(Vec<SnapshotHead>, Vec<UnreadSnapshot>)> {
        let mut unread = Vec::new();
        let mut valid = Vec::with_capacity(heads.len());
        for head in heads {
            let id = head.meta.id;
            match self.is_void(cx, judged, &head).await {
                Ok(true) => {}
                Ok(false) => valid.push(head),
                Err(error) if error.is_damage() || matches!(error, EngineError::Newer(_)) => {
                    let key = name(layout::snapshot(id))?;
                    unread.push(UnreadSnapshot { id, key, error });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((valid, unread))
    }
}

fn snapshots_in(listing: &Listing) -> Vec<(SnapshotId, ObjectKey)> {
    let found = listing
        .below("snap/")
        .filter_map(|meta| Some((layout::snapshot_id(&meta.key)?, meta.key.clone())));
    let mut out: Vec<_> = found.collect();
    out.sort();
    out
}
