//! Sealing anew what older generations of keys can read, so that a rotation reaches what was stored before it.
//!
//! A pack is of an older generation if its header holds a data key that is not wrapped to the newest. Such packs are
//! repacked as half-empty ones are; but each blob in them is opened, checked against its id, and sealed under the
//! data key of the repacking session, which is wrapped to the newest generation alone. Ids do not change, so manifests
//! and what is signed stay as they are. What is sealed under the lineage key moves as it is: that key does not rotate.

use std::collections::{BTreeSet, HashMap};

use backup_core::{ErrorKind, Finding, FindingKind, OpContext, PackId, SessionId, Severity};
use backup_format::keys::{Identity, KeyError, Role};
use backup_format::layout;
use backup_format::pack::{PackBlob, SessionWrap};
use backup_format::seal::{BlobCodec, BlobKind, DEFAULT_LEVEL, blob_session};
use backup_format::session;
use futures::{FutureExt as _, StreamExt};

use super::survey::Survey;
use crate::data_keys::SealedBlob;
use crate::error::{EngineError, Result};
use crate::pack_end::read_end;
use crate::repository::{Repository, name};
use crate::slots::change::must_be_current;
use crate::store::Session;

/// Sees that the keys at hand read everything and seal for the newest generation.
///
/// # Errors
/// [`EngineError::Key`].
pub fn may_reseal(repo: &Repository) -> Result<()> {
    match repo.keys().role() {
        Role::Full => must_be_current(repo),
        role => Err(KeyError::MayNotReseal { role }.into()),
    }
}

/// Tells sessions of the newest generation from others.
pub(super) struct Generations {
    newest: Vec<Identity>,
    older: Vec<Identity>,
    known: HashMap<Vec<u8>, bool>,
}

impl Generations {
    pub(super) fn new(repo: &Repository) -> Result<Self> {
        let epoch = repo.config().newest_epoch();
        let identities = repo.keys().identities()?.iter().cloned();
        let (newest, older) = identities.partition(|one| one.epoch() == epoch);
        Ok(Self {
            newest,
            older,
            known: HashMap::new(),
        })
    }

    /// Whether an older generation opens a data key, or the newest does not.
    fn is_old(&mut self, wrap: &SessionWrap) -> bool {
        if let Some(known) = self.known.get(&wrap.wrap) {
            return *known;
        }
        let opens = |identities: &[Identity]| session::unwrap(&wrap.wrap, identities).is_ok();
        let is_old = opens(&self.older) || !opens(&self.newest);
        self.known.insert(wrap.wrap.clone(), is_old);
        is_old
    }

    /// The sessions of these that the newest generation alone reads.
    fn new_of(&mut self, wraps: &[SessionWrap]) -> BTreeSet<SessionId> {
        let (old, new): (Vec<_>, Vec<_>) = wraps.iter().partition(|wrap| self.is_old(wrap));
        // Of several that are said of a session any may be the true one.
        let old: BTreeSet<_> = old.into_iter().map(|wrap| wrap.session).collect();
        let new = new.into_iter().map(|wrap| wrap.session);
        new.filter(|session| !old.contains(session)).collect()
    }
}

/// The packs that snapshots use and that older generations can read. Reads the end of each pack that is used.
///
/// # Errors
/// Errors of the tier.
pub(super) async fn old_packs(
    repo: &Repository,
    cx: &OpContext,
    survey: &Survey,
    findings: &mut Vec<Finding>,
) -> Result<BTreeSet<PackId>> {
    let mut generations = Generations::new(repo)?;
    let used = |id: &&PackId| survey.marks.contains_key(*id) && !survey.absent.contains_key(*id);
    let wanted: Vec<_> = survey
        .packs
        .iter()
        .filter(|(id, _)| used(id))
        .map(|(id, pack)| (*id, pack.is_meta))
        .collect();
    let mut ends = futures::stream::iter(wanted)
        .map(|(id, is_meta)| {
            async move {
                let key = name(layout::pack(id, is_meta))?;
                let end = read_end(repo, cx, &key).await;
                Ok::<_, EngineError>((id, key, end))
            }
            .boxed()
        })
        .buffer_unordered(repo.connections(cx));
    let mut out = BTreeSet::new();
    while let Some(end) = ends.next().await {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let (id, key, end) = end?;
        match end {
            Ok(Some((header, _)))
                if header.sessions.iter().any(|wrap| generations.is_old(wrap)) =>
            {
                out.insert(id);
            }
            Ok(_) => {}
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {}
            Err(error) if error.is_damage() => {
                let detail = format!(
                    "{error}: nobody can tell which keys read it, so it is not sealed anew; `snapshot repair` mends it"
                );
                let (severity, kind) = (Severity::Error, FindingKind::Damaged);
                findings.push(Finding::new(severity, kind, key.as_str(), detail));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(out)
}

/// Seals blobs anew, in a session of the newest generation.
pub(super) struct Resealer {
    session: Session,
    generations: Generations,
    codec: BlobCodec,
    plain: Vec<u8>,
}

impl Resealer {
    pub(super) fn new(repo: &Repository, session: Session) -> Result<Self> {
        Ok(Self {
            session,
            generations: Generations::new(repo)?,
            codec: BlobCodec::new(DEFAULT_LEVEL).map_err(EngineError::Seal)?,
            plain: Vec::new(),
        })
    }

    /// The data key of its session, wrapped.
    pub(super) fn wrap(&self) -> SessionWrap {
        self.session.wrap()
    }

    /// The sessions of a pack's data keys that the newest generation alone reads.
    pub(super) fn new_of(&mut self, wraps: &[SessionWrap]) -> BTreeSet<SessionId> {
        self.generations.new_of(wraps)
    }

    /// The blob, sealed anew; `None` if it is of one of these sessions or of lineage and stays as it is. `end`: the data
    /// keys that the end of its pack says.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] for a blob that does not open or is not what its id says.
    pub(super) fn reseal(
        &mut self,
        repo: &Repository,
        (new, end): (&BTreeSet<SessionId>, &[SessionWrap]),
        blob: &PackBlob,
        sealed: &[u8],
    ) -> Result<Option<Vec<u8>>> {
        let session = blob_session(sealed).map_err(EngineError::Seal)?;
        if new.contains(&session) || blob.kind == BlobKind::Lineage {
            return Ok(None);
        }
        let (kind, id) = (blob.kind, &blob.id);
        let sealed = SealedBlob {
            kind,
            id,
            raw: blob.raw as usize,
            sealed,
        };
        repo.open_knowing(&mut self.codec, &sealed, end, &mut self.plain)?;
        let mut out = Vec::new();
        self.codec
            .seal(self.session.key_of(kind), kind, id, &self.plain, &mut out)
            .map_err(EngineError::Seal)?;
        Ok(Some(out))
    }
}

#[cfg(test)]
mod tests {
    use backup_format::keys::Secret;

    use super::*;

    #[test]
    fn a_session_is_of_the_newest_generation_if_all_its_data_keys_are() {
        let (old, new) = (Identity::generate(0), Identity::generate(1));
        let mut generations = Generations {
            newest: vec![new.clone()],
            older: vec![old.clone()],
            known: HashMap::new(),
        };
        let wrap = |session, to: &[&Identity]| SessionWrap {
            session: SessionId(session),
            wrap: {
                let to: Vec<_> = to.iter().map(|one| one.recipient()).collect();
                session::wrap(&Secret::random().unwrap(), &to).unwrap()
            },
        };
        let wraps = [
            wrap(1, &[&new]),
            wrap(1, &[&new]),
            wrap(2, &[&new]),
            wrap(2, &[&old, &new]),
            wrap(3, &[&old]),
        ];
        assert_eq!(generations.new_of(&wraps), [SessionId(1)].into());
    }
}
