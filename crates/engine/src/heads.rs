//! The heads of snapshots: which there are, and what their objects say without a page being read.

use async_recursion::async_recursion as boxed;
use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, ObjectMeta, OpContext, SessionId, Severity,
    SnapshotId, SnapshotMeta,
};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::{Outer, SnapshotObject};
use futures::{StreamExt, TryStreamExt};

use crate::beside;
use crate::error::{EngineError, Result};
use crate::remedy::remedy;
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
        let listed: Vec<ObjectMeta> = self.sink().list(cx, "snap/", None).try_collect().await?;
        let mut out: Vec<_> = listed
            .into_iter()
            .filter_map(|meta| Some((layout::snapshot_id(&meta.key)?, meta.key)))
            .collect();
        out.sort();
        Ok(out)
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
        let limit = ObjectKind::Snapshot.max_sealed();
        let read = get_within(cx, &**self.sink(), key, limit).await;
        let opened = read.and_then(|sealed| Ok((self.open_head(id, key, &sealed)?, sealed)));
        match opened {
            Ok((head, sealed)) => {
                self.cache().write(key.as_str(), &sealed);
                Ok(head)
            }
            // One that is gone was forgotten, as far as can be told here.
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Err(error.into()),
            Err(error) if beside::is_loss(&error) => {
                let mended = beside::mended(cx, &**self.sink(), key).await?;
                let head = mended.and_then(|sealed| self.open_head(id, key, &sealed).ok());
                if head.is_some() {
                    self.notices().mended(key, &error);
                }
                head.ok_or(error)
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
        let results: Vec<Result<SnapshotHead, UnreadSnapshot>> = futures::stream::iter(keys)
            .map(|(id, key)| async move {
                let head = self.head(cx, id, &key).await;
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
        let judged = self.judged(cx).await?;
        let mut valid = Vec::with_capacity(heads.len());
        for head in heads {
            let id = head.meta.id;
            match self.is_void(cx, &judged, &head).await {
                Ok(true) => {}
                Ok(false) => valid.push(head),
                Err(error) if error.is_damage() || matches!(error, EngineError::Newer(_)) => {
                    let key = name(layout::snapshot(id))?;
                    unread.push(UnreadSnapshot { id, key, error });
                }
                Err(error) => return Err(error),
            }
        }
        let mut heads = valid;
        let held = crate::hold::holds(self, cx).await?;
        for head in &mut heads {
            head.meta.held = held.contains(&head.meta.id);
        }
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        Ok((heads, unread))
    }
}
