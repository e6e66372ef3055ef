//! One snapshot: what it uses is sent, then its refs and its object follow.

use std::collections::BTreeSet;

use backup_core::{
    CancellationToken, ErrorKind, Event, Finding, FindingKind, OpContext, PutMode, SessionId,
    Severity, SnapshotId,
};
use backup_format::layout;
use backup_format::refs::Refs;
use backup_format::seal::ObjectKind;
use backup_format::snapshot::SnapshotObject;
use backup_integrity::ledger::RecordOutcome;
use backup_integrity::merkle::MerkleRoot;
use bytes::Bytes;

use super::TRIES;
use super::session::Shipment;
use crate::beside;
use crate::collect::Fate;
use crate::error::{EngineError, Result};
use crate::ledger::{FIRST_SEEN, LedgerDraft};
use crate::prune::repack::put_refs;
use crate::refs::{self, Sum};
use crate::repository::{Repository, SnapshotHead, name};
use crate::view::check_signatures;

/// What became of a snapshot.
pub(super) enum Done {
    /// It is on the other tier.
    Brought {
        /// The session was taken for dead and adopted itself: it must name no more.
        is_session_over: bool,
    },
    /// Somebody else has brought it meanwhile.
    There,
    /// It was left out.
    Skipped(Finding),
    /// A collector of garbage took the session for dead and left it out.
    Judged,
}

/// The record of a snapshot that came by a copy.
pub(super) fn record_of(head: &SnapshotHead, note: &str) -> LedgerDraft {
    let mut draft = LedgerDraft::of_snapshot(&head.meta, MerkleRoot(head.outer.merkle_root));
    let seen = head.meta.first_seen;
    let seen = seen.and_then(|at| u64::try_from(at.as_second()).ok());
    draft.op = "copy";
    draft.outcome = RecordOutcome::Ok;
    draft.counts.extend(seen.map(|at| (FIRST_SEEN, at)));
    note.clone_into(&mut draft.note);
    draft
}

/// Puts the sidecar of a snapshot beside it, if there is to be one.
pub(super) async fn protect(to: &Repository, cx: &OpContext, id: SnapshotId) {
    if to.parity().is_none() {
        return;
    }
    if let Ok(key) = name(layout::snapshot(id))
        && let Ok(bytes) = beside::read_own(to, cx, &key).await
    {
        beside::put_or_note(to, cx, &key, &bytes).await;
    }
}

fn skipped(id: SnapshotId, detail: impl Into<String>) -> Done {
    let (severity, kind) = (Severity::Error, FindingKind::Skipped);
    Done::Skipped(Finding::new(
        severity,
        kind,
        format!("snapshot {id}"),
        detail,
    ))
}

impl Shipment<'_> {
    /// Brings a snapshot to the other tier.
    ///
    /// # Errors
    /// Damage of what it needs; errors of the tiers.
    pub(super) async fn bring(&mut self, head: &SnapshotHead) -> Result<Done> {
        let id = head.meta.id;
        check_signatures(self.from, head)?;
        let mut tries = 1;
        let sum = loop {
            let sum = match self.listed.refs_of(self.from, self.cx, id).await {
                Ok(sum) => sum,
                Err(error) if error.is_damage() && self.is_forgotten(id).await? => {
                    return Ok(forgotten(id));
                }
                Err(error) => return Err(error),
            };
            let before: BTreeSet<_> = sum.0.keys().copied().collect();
            match self.send(id, sum).await {
                Ok(sum) => break sum,
                Err(error @ EngineError::Missing { .. }) => {
                    if self.is_forgotten(id).await? {
                        return Ok(forgotten(id));
                    }
                    self.listed.forget();
                    let now = self.listed.refs_of(self.from, self.cx, id).await?;
                    // What a prune has written anew lies in other packs now.
                    if tries == TRIES || now.0.keys().eq(before.iter()) {
                        return Err(error);
                    }
                    self.from.refresh_index(self.cx).await?;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        };
        self.commit(head, sum).await
    }

    /// Whether a snapshot was forgotten on the tier that is copied from.
    async fn is_forgotten(&self, id: SnapshotId) -> Result<bool> {
        let key = name(layout::snapshot(id))?;
        match self.from.sink().head(self.cx, &key).await {
            Ok(_) => Ok(false),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    async fn commit(&mut self, head: &SnapshotHead, sum: Sum) -> Result<Done> {
        let (to, cx, id) = (self.to, self.cx, head.meta.id);
        if !self.put_refs(id, &sum.into_refs(id)).await? {
            return Ok(skipped(
                id,
                "what an earlier copy that was cut short, or somebody who forgot it, has left of it names packs that are not there any more: the next `snapshot prune` of the tier that is copied to takes that away, then it can be copied again",
            ));
        }
        cx.tell(Event::Current(&format!("snapshot {id}")));
        // Behind this nobody knows any more whether it will be there.
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let object = SnapshotObject {
            brought_by: Some(self.session.id),
            ..head.object.clone()
        };
        let plain = object.encode();
        let plain = plain.map_err(|error| EngineError::Evidence(error.to_string()))?;
        let sealed = to.ring().seal(ObjectKind::Snapshot, &plain);
        let sealed: Bytes = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::snapshot(id))?;
        // An answer that is lost may be to a change that is made yet.
        let before = std::mem::replace(&mut self.stays_open, true);
        match to.sink().put(cx, &key, sealed, PutMode::Create).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Conflict => {
                self.stays_open = before;
                return Ok(Done::There);
            }
            Err(error) => return Err(error.into()),
        }
        self.stays_open = before;
        self.brought.insert(id);
        // It is there: that the run is called off now does not keep it from being told.
        let mut own = cx.clone();
        own.cancel = CancellationToken::new();
        match self.session.outcome(to, &own, &self.brought, id).await {
            Ok(Fate::Alive) => Ok(Done::Brought {
                is_session_over: false,
            }),
            Ok(Fate::Adopted) => {
                self.stays_open = true;
                Ok(Done::Brought {
                    is_session_over: true,
                })
            }
            Err(error) => {
                self.stays_open = true;
                match error {
                    EngineError::TakenForDead(_) => Ok(Done::Judged),
                    other => Err(other),
                }
            }
        }
    }

    /// Puts the refs of a snapshot there, by a name of this session: whoever takes refs away that had no snapshot goes by
    /// names that were there before. `false`: there are others, of a run that was cut short, and what they name is gone.
    async fn put_refs(&self, id: SnapshotId, made: &Refs) -> Result<bool> {
        let (to, cx) = (self.to, self.cx);
        // They add up with those that are there.
        if self.leftover.contains(&id) && !self.adds_up(id).await? {
            return Ok(false);
        }
        let sealed = to.ring().seal(ObjectKind::Refs, &made.encode());
        let sealed: Bytes = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::moved_refs(id, number_of(self.session.id)))?;
        match to.sink().put(cx, &key, sealed, PutMode::Create).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::Conflict => {
                put_refs(to, cx, &[key], made).await?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }

    /// Whether all that refs on the other tier name for a snapshot is there.
    async fn adds_up(&self, id: SnapshotId) -> Result<bool> {
        let (to, cx) = (self.to, self.cx);
        for key in refs::list(to, cx).await?.remove(&id).unwrap_or_default() {
            match refs::read(to, cx, &key).await {
                Ok(refs) => {
                    let mut packs = refs.iter().flat_map(|refs| &refs.packs);
                    if !packs.all(|pack| self.is_here(&pack.pack)) {
                        return Ok(false);
                    }
                }
                Err(error) if error.is_damage() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Prunes count on from the highest number that there is.
const HIGHEST_NUMBER: u32 = 50_000;

/// The number of the refs that a session writes.
fn number_of(session: SessionId) -> u32 {
    let [.., a, b, c, d] = session.to_bytes();
    u32::from_be_bytes([a, b, c, d]) % HIGHEST_NUMBER
}

fn forgotten(id: SnapshotId) -> Done {
    let detail = "it was forgotten in the repository that is copied from while it was copied";
    let (severity, kind) = (Severity::Note, FindingKind::Skipped);
    Done::Skipped(Finding::new(
        severity,
        kind,
        format!("snapshot {id}"),
        detail,
    ))
}
