//! Sidecars of small objects: of configs, key slots and snapshots. Each is a few kilobytes long, and with one of
//! them everything or a snapshot is lost, so beside each lies what brings all of it back.
//!
//! Whoever writes such an object puts its sidecar there behind it, if the config says so. Whoever takes the object
//! away takes the sidecar away before, and once more behind it: what was removed must not live on there, even where
//! somebody made a sidecar meanwhile. What comes out of a sidecar is believed no more than the object itself
//! would be: whoever asks for it checks it in the same way.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use backup_core::{
    ErrorKind, Finding, FindingKind, HostId, ObjectKey, OpContext, Retry, Severity, Sink,
    SnapshotId,
};
use backup_format::config::{Config, MAX_CONFIG_BYTES};
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_integrity::ledger::{Line, RawLine, Record};
use backup_parity::{Sidecar, encode_whole};
use bytes::Bytes;
use futures::TryStreamExt;

use crate::configs::config_error;
use crate::error::{EngineError, Result};
use crate::forget::{NOTE_OF_GONE, NOTE_OF_UNREAD};
use crate::ledger::{Chain, records};
use crate::parity::read_all_there_is;
use crate::repository::{Repository, get_within, name};
use crate::slots::{KnownSlots, id_of};
use crate::view::check_signatures;

/// What was found damaged or gone, and had from its sidecar; and sidecars that could not be written. Clones
/// share what is in them.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<BTreeMap<String, Finding>>>);

impl Notices {
    /// What is to be said, in the order of the names.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        let noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.values().cloned().collect()
    }

    /// Forgets what was noted, for whoever has mended it or says it otherwise.
    pub fn clear(&self) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.clear();
    }

    pub(crate) fn note(&self, finding: Finding) {
        let mut noted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        noted.insert(finding.subject.clone(), finding);
    }

    /// Notes that an object was had from its sidecar, since it is not what it should be.
    pub(crate) fn mended(&self, key: &ObjectKey, why: &EngineError) {
        let kind = match is_absence(why) {
            true => FindingKind::Missing,
            false => FindingKind::Damaged,
        };
        self.had_from_sidecar(key, kind, &why.to_string());
    }

    /// The same of one that is not on the tier.
    pub(crate) fn absent(&self, key: &ObjectKey) {
        self.had_from_sidecar(key, FindingKind::Missing, "it is not on the tier");
    }

    pub(crate) fn had_from_sidecar(&self, key: &ObjectKey, kind: FindingKind, why: &str) {
        let detail = format!(
            "{why}; it was read from its sidecar instead, and `snapshot repair` puts it back"
        );
        self.note(Finding::new(Severity::Error, kind, key.as_str(), detail));
    }
}

/// Whether an error says that an object is not there.
fn is_absence(error: &EngineError) -> bool {
    matches!(error, EngineError::Missing { .. })
        || matches!(error, EngineError::Sink(error) if error.kind == ErrorKind::NotFound)
}

/// Whether an error says that an object is not there as it was written, so that its sidecar is to be asked. What may
/// pass says nothing of the object, nor does a refusal.
pub(crate) fn is_loss(error: &EngineError) -> bool {
    match error {
        EngineError::Sink(error) => {
            let is_of_object = matches!(
                error.kind,
                ErrorKind::NotFound | ErrorKind::Damaged | ErrorKind::Other
            );
            is_of_object && error.retry == Retry::Never
        }
        other => other.is_damage(),
    }
}

/// The largest that a small object may be.
pub(crate) fn limit_of(key: &ObjectKey) -> usize {
    if layout::config_number(key).is_some() {
        MAX_CONFIG_BYTES
    } else if layout::is_slot(key) {
        MAX_SLOT_BYTES
    } else {
        ObjectKind::Snapshot.max_sealed()
    }
}

/// No sidecar of an object of so many bytes is longer: one shard more than the object has, twice a head, and
/// the sums of small shards.
const fn longest(limit: usize) -> usize {
    limit + limit / 8 + (128 << 10)
}

/// The sidecar of a small object.
///
/// # Errors
/// [`EngineError::Parity`] for one that is empty.
pub(crate) fn made(key: &ObjectKey, bytes: &[u8]) -> Result<Bytes> {
    let made = encode_whole(bytes).map_err(|why| EngineError::Parity {
        object: key.to_string(),
        why,
    })?;
    Ok(made.into())
}

/// Puts the sidecar of an object there, which is on the tier. If that was taken away meanwhile, it goes again.
///
/// # Errors
/// Errors of the tier.
pub(crate) async fn put(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    bytes: &[u8],
) -> Result<()> {
    let at = name(layout::parity(key))?;
    let body = made(key, bytes)?;
    sink.put(cx, &at, body, backup_core::PutMode::Replace)
        .await?;
    match sink.head(cx, key).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::NotFound => delete(cx, sink, &at).await,
        Err(error) => Err(error.into()),
    }
}

/// The same where the repository wants sidecars. That it fails is noted and no more: the object is there.
pub(crate) async fn put_if_wanted(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    bytes: &[u8],
) -> Option<Finding> {
    repo.parity()?;
    let error = put(cx, &**repo.sink(), key, bytes).await.err()?;
    let detail = format!(
        "its sidecar could not be written ({error}): until `snapshot repair` makes it, one bad sector takes it away"
    );
    let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
    Some(Finding::new(severity, kind, key.as_str(), detail))
}

/// The same, with what is to be said of it among the notices of the repository.
pub(crate) async fn put_or_note(repo: &Repository, cx: &OpContext, key: &ObjectKey, bytes: &[u8]) {
    if let Some(finding) = put_if_wanted(repo, cx, key, bytes).await {
        repo.notices().note(finding);
    }
}

/// Deletes a small object and what lies beside it, so that nothing of it is left.
///
/// # Errors
/// Errors of the tier: then it may be there, and to be deleted again.
pub(crate) async fn remove(cx: &OpContext, sink: &dyn Sink, key: &ObjectKey) -> Result<()> {
    let (parity, aside) = (name(layout::parity(key))?, name(layout::aside(key))?);
    delete_if_there(cx, sink, &parity).await?;
    delete_if_there(cx, sink, &aside).await?;
    delete(cx, sink, key).await?;
    // Once more: somebody may have made one between the two.
    delete_if_there(cx, sink, &parity).await
}

/// Most repositories on object stores have nothing beside anything: asking takes no right to delete there.
async fn delete_if_there(cx: &OpContext, sink: &dyn Sink, key: &ObjectKey) -> Result<()> {
    match sink.head(cx, key).await {
        Ok(_) => delete(cx, sink, key).await,
        Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn delete(cx: &OpContext, sink: &dyn Sink, key: &ObjectKey) -> Result<()> {
    match sink.delete(cx, key).await {
        Err(error) if error.kind != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// What the sidecar of an object makes of it, and of what is left of the object itself; nothing if that is not
/// enough. It is as good as the sidecar: whoever calls checks it like the object.
///
/// # Errors
/// Errors of the tier that may pass.
pub(crate) async fn mended(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
) -> Result<Option<Bytes>> {
    let limit = limit_of(key);
    let Some(sidecar) = read(cx, sink, &name(layout::parity(key))?, longest(limit)).await? else {
        return Ok(None);
    };
    let own = read(cx, sink, key, limit).await?.unwrap_or_default();
    let aside = read(cx, sink, &name(layout::aside(key))?, limit).await?;
    let aside = aside.unwrap_or_default();
    let made = Sidecar::read(&sidecar).and_then(|sidecar| sidecar.mend(&[&own, &aside]));
    Ok(made
        .ok()
        .filter(|bytes| bytes.len() <= limit)
        .map(Into::into))
}

async fn read(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    limit: usize,
) -> Result<Option<Bytes>> {
    match read_all_there_is(cx, sink, key, limit).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if is_loss(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether these bytes are the small object of that name: a config and a snapshot open under the repository's keys, and a
/// snapshot is signed; a key slot hashes to its name.
///
/// # Errors
/// Damage, with what is wrong; [`EngineError::Newer`].
pub(crate) fn check(repo: &Repository, key: &ObjectKey, bytes: &[u8]) -> Result<()> {
    if let Some(number) = layout::config_number(key) {
        let config = Config::parse(bytes).and_then(|read| read.verify_mac(number, repo.keys()));
        return config
            .map(drop)
            .map_err(|error| config_error(number, error));
    }
    if let Some(id) = layout::snapshot_id(key) {
        return check_signatures(repo, &repo.open_head(id, key, bytes)?);
    }
    if name(layout::slot(bytes))? == *key {
        return Ok(());
    }
    let why = "its bytes do not hash to its name";
    Err(EngineError::damaged(key, why))
}

/// Reads a small object as it lies on the tier, and checks it.
///
/// # Errors
/// As [`check`]; errors of the tier.
pub(crate) async fn read_own(repo: &Repository, cx: &OpContext, key: &ObjectKey) -> Result<Bytes> {
    let bytes = get_within(cx, &**repo.sink(), key, limit_of(key)).await?;
    check(repo, key, &bytes)?;
    Ok(bytes)
}

/// What a sidecar alone makes, if every byte of it is as it was written.
///
/// # Errors
/// Damage, with what is wrong; errors of the tier.
pub(crate) async fn alone(cx: &OpContext, sink: &dyn Sink, key: &ObjectKey) -> Result<Bytes> {
    let at = name(layout::parity(key))?;
    let bytes = get_within(cx, sink, &at, longest(limit_of(key))).await?;
    let damaged = |why: &dyn std::fmt::Display| EngineError::damaged(&at, why);
    let sidecar = Sidecar::read(&bytes).map_err(|error| damaged(&error))?;
    if !sidecar.is_whole() {
        return Err(damaged(&"it is damaged in part"));
    }
    let made = sidecar.mend(&[]).map_err(|error| damaged(&error))?;
    Ok(made.into())
}

/// The small objects that have a sidecar, by their own names.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn all(
    repo: &Repository,
    cx: &OpContext,
    folder: &str,
    of: fn(&ObjectKey) -> Option<ObjectKey>,
) -> Result<BTreeSet<ObjectKey>> {
    let mut out = BTreeSet::new();
    for below in ["config/", "keys/", "snap/"] {
        let mut listed = repo.sink().list(cx, &format!("{folder}{below}"), None);
        while let Some(meta) = listed.try_next().await? {
            out.extend(of(&meta.key));
        }
    }
    Ok(out)
}

/// Those of some small objects that are not on the tier.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn gone(
    repo: &Repository,
    cx: &OpContext,
    small: &BTreeSet<ObjectKey>,
) -> Result<BTreeSet<ObjectKey>> {
    let mut left = small.clone();
    for folder in ["config/", "keys/", "snap/"] {
        let mut listed = repo.sink().list(cx, folder, None);
        while let Some(meta) = listed.try_next().await? {
            left.remove(&meta.key);
        }
    }
    let mut out = BTreeSet::new();
    // A list may lag behind.
    for key in left {
        match repo.sink().head(cx, &key).await {
            Ok(_) => {}
            Err(error) if error.kind == ErrorKind::NotFound => {
                out.insert(key);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(out)
}

/// What the ledger says was taken away on purpose.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    snapshots: HashSet<SnapshotId>,
    /// Those of them that were lost before.
    lost: HashSet<SnapshotId>,
    slots: KnownSlots,
}

impl Ended {
    /// Reads the ledger to its end. Records that their host did not sign, as far as this key can tell, end nothing.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let mut out = Self::default();
        let mut all = Box::pin(records(repo, cx).await?);
        while let Some(seen) = all.try_next().await? {
            if let (Ok(record), true) = (&seen.record, seen.genuine != Some(false)) {
                out.take(record);
            }
        }
        Ok(out)
    }

    /// The same, from this host's copy of the ledger as far as it keeps one: what it lacks of the tier's it reads.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn read_copy(repo: &Repository, cx: &OpContext) -> Result<Self> {
        Chain::read(repo, cx).await?;
        let copied = repo.ledger_copy().and_then(|copy| copy.lines().ok());
        let Some(mut lines) = copied.flatten() else {
            return Self::read(repo, cx).await;
        };
        let mut out = Self::default();
        while let Ok(Some(line)) = lines.next_line() {
            if let RawLine::Whole(line) = line
                && let Ok(line) = Line::parse(line)
            {
                out.take(line.record());
            }
        }
        Ok(out)
    }

    /// What a host itself has taken away, by records that it signed; nothing if one is lost or cannot be read, since that may
    /// be the one which brought something back. What others say that stays counts as well.
    ///
    /// Whoever may write to the tier can put anything there in the name of hosts whose keys are not at hand, and a host that
    /// was broken into signs what it likes.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn of_host(repo: &Repository, cx: &OpContext, host: &HostId) -> Result<Self> {
        let mut out = Self::default();
        let mut all = Box::pin(records(repo, cx).await?);
        let mut wanted = 1;
        while let Some(seen) = all.try_next().await? {
            let Ok(record) = &seen.record else {
                return Ok(Self::default());
            };
            if seen.number != wanted {
                return Ok(Self::default());
            }
            wanted += 1;
            let stays = matches!(record.stays(), Some((_, true)));
            if stays || (record.host == *host && seen.genuine == Some(true)) {
                out.take(record);
            }
        }
        Ok(out)
    }

    fn take(&mut self, record: &Record) {
        match record.stays() {
            Some((id, false)) => {
                self.snapshots.insert(id);
                let note = record.note.as_deref();
                if note == Some(NOTE_OF_GONE) || note == Some(NOTE_OF_UNREAD) {
                    self.lost.insert(id);
                }
            }
            Some((id, true)) => {
                self.snapshots.remove(&id);
                self.lost.remove(&id);
            }
            None => {}
        }
        self.slots.take(record);
    }

    /// Whether somebody has forgotten a snapshot.
    pub(crate) fn has_snapshot(&self, id: SnapshotId) -> bool {
        self.snapshots.contains(&id)
    }

    /// Whether somebody has forgotten a snapshot that was whole: one that was gone or could not be read was given up.
    pub(crate) fn has_let_go(&self, id: SnapshotId) -> bool {
        self.snapshots.contains(&id) && !self.lost.contains(&id)
    }

    /// Whether somebody has taken a key slot away.
    pub(crate) fn has_slot(&self, id: &str) -> bool {
        self.slots.was_removed(id)
    }

    /// Whether somebody has forgotten or removed it.
    pub(crate) fn has(&self, key: &ObjectKey) -> bool {
        match layout::snapshot_id(key) {
            Some(id) => self.snapshots.contains(&id),
            None => layout::is_slot(key) && self.slots.was_removed(id_of(key)),
        }
    }
}

/// Takes away what lies beside objects that are gone and that were taken away on purpose: whoever did was killed, or
/// somebody made it at that moment.
///
/// # Errors
/// Those of the tier.
pub(crate) async fn sweep(repo: &Repository, cx: &OpContext) -> Result<()> {
    let mut small = all(repo, cx, "parity/", layout::small_parity_of).await?;
    small.extend(all(repo, cx, "aside/", layout::small_aside_of).await?);
    let gone = gone(repo, cx, &small).await?;
    if gone.is_empty() {
        return Ok(());
    }
    let ended = Ended::read(repo, cx).await?;
    // The object itself may come back at this moment.
    for key in gone.iter().filter(|key| ended.has(key)) {
        delete_if_there(cx, &**repo.sink(), &name(layout::parity(key))?).await?;
        delete_if_there(cx, &**repo.sink(), &name(layout::aside(key))?).await?;
    }
    Ok(())
}
