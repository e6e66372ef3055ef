//! The data keys of sessions. Packs, index runs and snapshots say of the sessions that they need the wrapped data key, and
//! whoever holds the index key can say a false one.
//!
//! So of each session all different ones are kept, up to a few, and none is believed: a blob decides which is true, by
//! opening. Where no key that is known opens a blob, the end of its own pack is asked ([`Repository::open_by_end`]): what
//! that says does not depend on anybody's index run.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::PoisonError;

use backup_core::{ChunkId, FindingKind, ObjectKey, OpContext, SessionId};
use backup_format::keys::KeyError;
use backup_format::pack::SessionWrap;
use backup_format::seal::{BlobCodec, BlobKey, BlobKind, blob_id, blob_session};
use backup_format::session::{self, MAX_WRAP_BYTES};

use crate::error::{EngineError, Result};
use crate::index_set::KnownRun;
use crate::pack_end::read_end;
use crate::repository::Repository;

/// So many different wrapped data keys of one session are kept. Honest programs make one.
pub(crate) const MOST_WRAPS: usize = 8;
/// An index run says wrapped data keys of so many bytes, so that it stays one that may be written.
pub(crate) const MOST_WRAP_BYTES: usize = 64 << 20;

/// A sealed blob as the index or the end of its pack describes it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SealedBlob<'a> {
    pub(crate) kind: BlobKind,
    pub(crate) id: &'a ChunkId,
    /// Its plain length in bytes.
    pub(crate) raw: usize,
    pub(crate) sealed: &'a [u8],
}

/// What is said of the data keys of sessions.
#[derive(Debug, Default)]
pub(crate) struct DataKeys(HashMap<SessionId, Vec<Said>>);

/// One wrapped data key that is said of a session.
#[derive(Debug)]
struct Said {
    wrap: Vec<u8>,
    inside: Inside,
    /// Whether it opened a blob.
    is_true: bool,
}

/// What is in a wrapped data key.
#[derive(Debug, Clone)]
enum Inside {
    Unknown,
    Key(BlobKey),
    /// It is wrapped to others.
    OfOthers,
    /// It is none.
    Junk,
}

/// Different wrapped data keys of each of some sessions.
#[derive(Debug, Clone, Default)]
pub(crate) struct WrapSet {
    of: BTreeMap<SessionId, Vec<SessionWrap>>,
    bytes: usize,
}

impl WrapSet {
    /// Adds one, if it is another than those that are there; says whether it did.
    pub(crate) fn add(&mut self, wrap: &SessionWrap) -> bool {
        let all = self.of.entry(wrap.session).or_default();
        let is_new = !all.contains(wrap);
        if is_new {
            all.push(wrap.clone());
            self.bytes += wrap.wrap.len();
        }
        is_new
    }

    pub(crate) fn of(&self, session: SessionId) -> &[SessionWrap] {
        self.of.get(&session).map_or(&[], Vec::as_slice)
    }

    /// How many bytes they have together.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &SessionWrap> {
        self.of.values().flatten()
    }

    pub(crate) fn to_vec(&self) -> Vec<SessionWrap> {
        self.iter().cloned().collect()
    }
}

impl<'a> FromIterator<&'a SessionWrap> for WrapSet {
    fn from_iter<I: IntoIterator<Item = &'a SessionWrap>>(wraps: I) -> Self {
        let mut out = Self::default();
        wraps.into_iter().for_each(|wrap| {
            out.add(wrap);
        });
        out
    }
}

/// An index run that says a data key of which nobody knows anything that it opens.
#[derive(Debug)]
pub(crate) struct DoubtfulRun {
    pub(crate) run: ObjectKey,
    pub(crate) kind: FindingKind,
    pub(crate) why: String,
    /// The wrapped data keys in it that are in doubt.
    pub(crate) wraps: Vec<SessionWrap>,
}

impl Repository {
    fn data_keys(&self) -> std::sync::MutexGuard<'_, DataKeys> {
        self.data_keys
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a wrapped data key of a session known, so that its blobs can be opened.
    pub fn learn_wrap(&self, session: SessionId, wrap: &[u8]) {
        self.learn_wraps([(session, wrap)]);
    }

    pub(crate) fn learn_wraps<'a>(&self, wraps: impl IntoIterator<Item = (SessionId, &'a [u8])>) {
        let mut keys = self.data_keys();
        for (session, wrap) in wraps {
            let said = keys.0.entry(session).or_default();
            let is_known = said.iter().any(|one| one.wrap == wrap);
            if !is_known && said.len() < MOST_WRAPS && wrap.len() <= MAX_WRAP_BYTES {
                said.push(Said {
                    wrap: wrap.to_vec(),
                    inside: Inside::Unknown,
                    is_true: false,
                });
            }
        }
    }

    /// The key that opened a blob of a session last.
    fn usual_key(&self, session: SessionId) -> Option<BlobKey> {
        match self.data_keys().0.get(&session)?.first() {
            Some(Said {
                inside: Inside::Key(key),
                is_true: true,
                ..
            }) => Some(key.clone()),
            _ => None,
        }
    }

    /// What is in a wrapped data key of a session.
    fn inside(&self, session: SessionId, wrap: &[u8]) -> Result<Inside> {
        let keys = self.data_keys();
        let mut said = keys.0.get(&session).into_iter().flatten();
        let known = said.find(|one| one.wrap == wrap);
        let known = known.map_or(Inside::Unknown, |one| one.inside.clone());
        drop(keys);
        if !matches!(known, Inside::Unknown) {
            return Ok(known);
        }
        let inside = match session::unwrap(wrap, self.keys().identities()?) {
            Ok(secret) => Inside::Key(BlobKey::of_session(self.id(), session, secret.expose())),
            Err(KeyError::WrongKey) => Inside::OfOthers,
            Err(_) => Inside::Junk,
        };
        let mut keys = self.data_keys();
        let mut said = keys.0.get_mut(&session).into_iter().flatten();
        if let Some(one) = said.find(|one| one.wrap == wrap) {
            one.inside = inside.clone();
        }
        Ok(inside)
    }

    /// A key has opened a blob: from now on it is tried first.
    fn opened_with(&self, session: SessionId, wrap: &[u8], key: BlobKey) {
        let mut keys = self.data_keys();
        let said = keys.0.entry(session).or_default();
        said.retain(|one| one.wrap != wrap);
        said.truncate(MOST_WRAPS - 1);
        let one = Said {
            wrap: wrap.to_vec(),
            inside: Inside::Key(key),
            is_true: true,
        };
        said.insert(0, one);
    }

    /// Opens a blob and checks it against its id, with the data keys that are known of its session, and those that the
    /// end of its pack says.
    ///
    /// # Errors
    /// [`EngineError::Damaged`]; [`EngineError::Key`] for a key that cannot read, and where the blob may be of a
    /// later generation than the keys.
    pub(crate) fn open_knowing(
        &self,
        codec: &mut BlobCodec,
        blob: &SealedBlob<'_>,
        end: &[SessionWrap],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let damaged = |why: String| EngineError::damaged(format!("chunk {}", blob.id), why);
        // Before it authenticates, what a blob says of its session may be damage as well.
        let session = blob_session(blob.sealed).map_err(|error| damaged(error.to_string()))?;
        let usual = self.usual_key(session);
        if session.0 != 0 && usual.is_none() {
            // Whoever cannot read is told which key can.
            self.keys().identities()?;
        }
        let id_key = self.keys().id_key()?;
        let mut open = |key: &BlobKey, out: &mut Vec<u8>| -> Result<()> {
            codec
                .open(key, blob.kind, blob.id, blob.raw, blob.sealed, out)
                .map_err(|error| damaged(error.to_string()))?;
            if blob_id(id_key, blob.kind, out) != *blob.id {
                return Err(damaged("its content does not hash to its id".into()));
            }
            Ok(())
        };
        if session.0 == 0 {
            return open(
                &BlobKey::of_lineage(self.id(), self.keys().lineage_key()?),
                out,
            );
        }
        let mut failed = None;
        if let Some(key) = usual {
            match open(&key, out) {
                Ok(()) => return Ok(()),
                Err(error) => failed = Some(error),
            }
        }
        let said: Vec<Vec<u8>> = {
            let keys = self.data_keys();
            let said = keys.0.get(&session).into_iter().flatten();
            // The usual one was tried.
            let said = said.skip(usize::from(failed.is_some()));
            said.map(|one| one.wrap.clone()).collect()
        };
        let of_end = end.iter().filter(|wrap| wrap.session == session);
        let of_end = of_end
            .map(|wrap| &wrap.wrap)
            .filter(|wrap| !said.contains(*wrap));
        let (mut count, mut of_others) = (u64::from(failed.is_some()), false);
        for wrap in said.iter().chain(of_end) {
            count += 1;
            match self.inside(session, wrap)? {
                Inside::Key(key) => match open(&key, out) {
                    Ok(()) => {
                        self.opened_with(session, wrap, key);
                        return Ok(());
                    }
                    Err(error) => failed = failed.or(Some(error)),
                },
                Inside::OfOthers => of_others = true,
                Inside::Unknown | Inside::Junk => {}
            }
        }
        if of_others {
            // Saved since the keys were rotated: that is why, not damage.
            self.config().check_generation(self.keys())?;
        }
        Err(failed.unwrap_or_else(|| {
            damaged(match count {
                0 => format!("it names session {session}, whose key nothing has"),
                _ => format!("it names session {session}, of which no key that is said opens"),
            })
        }))
    }

    /// Opens a blob that did not open, with the data keys that the end of its pack says; an end that cannot be read says
    /// none.
    ///
    /// # Errors
    /// Those of [`Repository::open_blob`].
    pub(crate) async fn open_by_end(
        &self,
        cx: &OpContext,
        pack: &ObjectKey,
        blob: &SealedBlob<'_>,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let end = match read_end(self, cx, pack).await {
            Ok(Some((end, _))) => end.sessions,
            _ => Vec::new(),
        };
        let mut codec = BlobCodec::opener().map_err(EngineError::Seal)?;
        self.open_knowing(&mut codec, blob, &end, out)
    }

    /// The index runs that say data keys that are not true, or of which it cannot be told which is: other ones are said
    /// of the same session, and nothing that was read until now was sealed with them.
    pub(crate) fn doubtful_runs(&self) -> Vec<DoubtfulRun> {
        let runs = self.known_runs();
        let mut all: HashMap<SessionId, Vec<([u8; 32], Truth)>> = HashMap::new();
        for wrap in runs.iter().flat_map(KnownRun::sessions) {
            let digest = *blake3::hash(&wrap.wrap).as_bytes();
            let said = all.entry(wrap.session).or_default();
            if !said.iter().any(|one| one.0 == digest) {
                said.push((digest, self.truth(wrap)));
            }
        }
        let mut doubted: HashSet<(SessionId, [u8; 32])> = HashSet::new();
        for (session, said) in &all {
            let is_open = said.iter().filter(|one| one.1 != Truth::Junk).count() > 1;
            let doubtful = said
                .iter()
                .filter(|one| one.1 == Truth::Junk || (one.1 == Truth::Unknown && is_open));
            doubted.extend(doubtful.map(|one| (*session, one.0)));
        }
        let of_run = |known: &KnownRun| {
            let is_doubted = |wrap: &&SessionWrap| {
                doubted.contains(&(wrap.session, *blake3::hash(&wrap.wrap).as_bytes()))
            };
            let wraps = known.sessions().iter().filter(is_doubted);
            let wraps: Vec<_> = wraps.cloned().collect();
            let first = wraps.first()?;
            let sessions: BTreeSet<_> = wraps.iter().map(|wrap| wrap.session).collect();
            let more = match sessions.len() - 1 {
                0 => String::new(),
                more => format!(" (and those of {more} more sessions)"),
            };
            let is_junk = all.get(&first.session).is_some_and(|said| {
                let digest = blake3::hash(&first.wrap);
                said.iter()
                    .any(|one| one.0 == *digest.as_bytes() && one.1 == Truth::Junk)
            });
            let (kind, what) = match is_junk {
                true => (FindingKind::Damaged, "does not open"),
                false => (
                    FindingKind::Mismatch,
                    "is another than index runs say elsewhere, and nothing is known to be sealed with it",
                ),
            };
            let why = format!(
                "the data key that it says of session {}{more} {what}; chunks are read with the one in the end of their pack, and `snapshot repair` writes the run anew",
                first.session
            );
            Some(DoubtfulRun {
                run: known.key()?.clone(),
                kind,
                why,
                wraps,
            })
        };
        runs.iter().filter_map(of_run).collect()
    }

    fn truth(&self, wrap: &SessionWrap) -> Truth {
        let keys = self.data_keys();
        let mut said = keys.0.get(&wrap.session).into_iter().flatten();
        let is_true = said.any(|one| one.wrap == wrap.wrap && one.is_true);
        drop(keys);
        if is_true {
            return Truth::True;
        }
        match self.inside(wrap.session, &wrap.wrap) {
            Ok(Inside::Junk) => Truth::Junk,
            // It would open, were it what it should be.
            Ok(Inside::OfOthers) if self.config().check_generation(self.keys()).is_ok() => {
                Truth::Junk
            }
            _ => Truth::Unknown,
        }
    }
}

/// What is known of a wrapped data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Truth {
    /// It opened a blob.
    True,
    Unknown,
    /// It opens nothing.
    Junk,
}
