//! The writer's and the reader's side of the collection of garbage; the protocol is in
//! `docs/design/0002-garbage-collection.md`. Nothing here collects anything: this is what must be
//! heeded while somebody else does.
//!
//! A writer learns which packs it must not name ([`Repository::collection`]), and behind its snapshot
//! whether it was taken for dead meanwhile ([`Session::outcome`]). For readers a snapshot that the
//! verdict on its session leaves out does not exist ([`Repository::is_void`]), and a chunk that is not
//! where the index says is looked for once more ([`Repository::look_again`]).

pub(crate) mod rotten;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use backup_core::{
    ErrorKind, Finding, FindingKind, ObjectKey, OpContext, PackId, PutMode, SessionId, Severity,
    SnapshotId,
};
use backup_format::collect::{PackList, SessionMark, Verdict};
use backup_format::layout;
use backup_format::seal::ObjectKind;
use backup_format::wire::WireError;
use futures::StreamExt;

use crate::announced::Announced;
use crate::beside::is_loss;
use crate::error::{EngineError, Result};
use crate::heads::SnapshotHead;
use crate::index_set::IndexSet;
use crate::listing::Listing;
use crate::remembered::Remembered;
use crate::repository::{Repository, get_within, name};
use crate::store::Session;

/// How often the index is read again for a chunk as long as nothing was decided meanwhile: two lists
/// that agree may still miss a run, if several are merged while they are read.
const LOOKS: u32 = 3;
/// Lists of the index until two agree; on a tier where they never do, the last counts.
const MOST_LISTS: u32 = 20;
/// How long a writer that may not create its verdict waits for it, and how often it looks.
const PATIENCE: (Duration, u32) = (Duration::from_secs(10), 60);

/// What collections of garbage say of packs.
#[derive(Debug, Default)]
pub(crate) struct Collection {
    /// Packs that may be dead soon: of generations that are not decided, or whose decision cannot be read.
    pub(crate) condemned: BTreeSet<PackId>,
    /// Packs that are gone, or about to go.
    pub(crate) dead: BTreeSet<PackId>,
    /// Generations whose decision cannot be read.
    pub(crate) unread: BTreeMap<u32, Unread>,
    /// Generations of which nobody knows what they name, and why.
    pub(crate) unknown: BTreeMap<u32, EngineError>,
}

/// A decision that cannot be read.
#[derive(Debug)]
pub(crate) struct Unread {
    /// What its generation condemned.
    pub(crate) packs: BTreeSet<PackId>,
    /// What is wrong with it.
    pub(crate) why: String,
}

impl Collection {
    /// What is to be said of objects that cannot be read.
    pub(crate) fn findings(&self) -> Result<Vec<Finding>> {
        let mut out = Vec::new();
        for (number, unread) in &self.unread {
            let detail = format!(
                "{}; until it is decided anew nothing is built on what gc/{number} names; the next `snapshot prune` does that",
                unread.why
            );
            let key = name(layout::dead(*number))?;
            let (severity, kind) = (Severity::Error, FindingKind::Damaged);
            out.push(Finding::new(severity, kind, key.as_str(), detail));
        }
        for (number, error) in &self.unknown {
            let detail = format!("{error}; {UNKNOWN}");
            let key = name(layout::condemned(*number))?;
            let (severity, kind) = (Severity::Error, FindingKind::Damaged);
            out.push(Finding::new(severity, kind, key.as_str(), detail));
        }
        Ok(out)
    }
}

/// What is said of a generation of which nobody knows what it names.
const UNKNOWN: &str = "as long as it cannot be read, nobody knows which packs are about to be deleted, and nothing can be saved: `snapshot prune` and `snapshot repair` write it anew";

/// What one generation says.
enum Said {
    Decided(BTreeSet<PackId>),
    Condemned(BTreeSet<PackId>),
    Unread(Unread),
    Unknown(EngineError),
}

/// How far the index was brought up to date for chunks that were not found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// The objects below `gc/` that were there before the index was read last.
    generations: Option<BTreeSet<ObjectKey>>,
    /// How often it was read since these are there.
    times: u32,
}

/// What became of a session by the time its snapshot was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nobody took it for dead: it may be ended.
    Alive,
    /// It was taken for dead, and its snapshot counts all the same. Such a session is never ended:
    /// as long as there is no end of it, its verdict stays.
    Adopted,
}

/// Opens an object whose name says what must be in it.
pub(crate) fn open<T>(
    repo: &Repository,
    key: &ObjectKey,
    kind: ObjectKind,
    sealed: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, WireError>,
) -> Result<T> {
    let plain = repo.ring().open(kind, sealed);
    let plain = plain.map_err(|error| EngineError::sealed(key, &error))?;
    decode(&plain).map_err(|error| EngineError::wire(key, &error))
}

/// Adds to an error of damage what follows from it.
fn with_hint(error: EngineError, hint: &str) -> EngineError {
    match error {
        EngineError::Damaged { object, why } => EngineError::Damaged {
            object,
            why: format!("{why}; {hint}"),
        },
        EngineError::Sink(error) if error.kind == ErrorKind::NotFound => {
            EngineError::damaged(&error.subject, format!("it was listed and is gone; {hint}"))
        }
        other => other,
    }
}

/// The objects of generations that a listing shows.
fn generations_in(listing: &Listing) -> BTreeSet<ObjectKey> {
    let keys = listing.below("gc/").map(|meta| &meta.key);
    let is_one = |key: &&ObjectKey| {
        let number = layout::condemned_number(key).or(layout::dead_number(key));
        number.is_some()
    };
    keys.filter(is_one).cloned().collect()
}

/// The sessions on which a listing shows a verdict.
pub(crate) fn judged_in(listing: &Listing) -> BTreeSet<SessionId> {
    let verdicts = listing.below("verdicts/");
    verdicts
        .filter_map(|meta| layout::verdict_id(&meta.key))
        .collect()
}

/// Fails where nobody knows what a generation names: it may be any pack.
fn certain(mut collection: Collection) -> Result<Collection> {
    match collection.unknown.pop_first() {
        Some((_, error)) => Err(with_hint(error, UNKNOWN)),
        None => Ok(collection),
    }
}

/// Waits as long as the lists of a tier may lag behind what was written there.
pub(crate) async fn settle(repo: &Repository, cx: &OpContext) {
    let lag = repo.sink().info().caps.settle;
    if !lag.is_zero() {
        tokio::select! {
            () = cx.cancel.cancelled() => {}
            () = tokio::time::sleep(lag) => {}
        }
    }
}

impl Repository {
    /// The objects of generations that are there.
    pub(crate) async fn generations(&self, cx: &OpContext) -> Result<BTreeSet<ObjectKey>> {
        let listing = Listing::read(cx, &**self.sink(), &["gc/"]).await?;
        Ok(generations_in(&listing))
    }

    /// What a generation condemns, or calls dead, as sealed bytes of that name say it.
    pub(crate) fn open_generation(&self, key: &ObjectKey, sealed: &[u8]) -> Result<PackList> {
        let (kind, number) = match layout::dead_number(key) {
            Some(number) => (ObjectKind::Dead, Some(number)),
            None => (ObjectKind::Condemned, layout::condemned_number(key)),
        };
        let list = open(self, key, kind, sealed, PackList::decode)?;
        if number == Some(list.generation) {
            return Ok(list);
        }
        let why = format!("it is of generation {}", list.generation);
        Err(EngineError::damaged(key, why))
    }

    pub(crate) async fn generation(&self, cx: &OpContext, key: &ObjectKey) -> Result<PackList> {
        // Not from the cache: where somebody removed one by hand, or an older copy took the repository's place, a number
        // comes again with something else in it.
        let limit = ObjectKind::Dead.max_sealed();
        let sealed = get_within(cx, &**self.sink(), key, limit).await?;
        self.open_generation(key, &sealed)
    }

    /// The same; not read again where it is listed with the version that it had then.
    async fn generation_by(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        known: Option<(&Listing, &Remembered)>,
    ) -> Result<PackList> {
        let Some((listing, remembered)) = known else {
            return self.generation(cx, key).await;
        };
        let copy = remembered.get(listing, key);
        if let Some(list) = copy.and_then(|sealed| self.open_generation(key, &sealed).ok()) {
            return Ok(list);
        }
        let limit = ObjectKind::Dead.max_sealed();
        let sealed = get_within(cx, &**self.sink(), key, limit).await?;
        let list = self.open_generation(key, &sealed)?;
        remembered.keep(listing, key, &sealed);
        Ok(list)
    }

    /// What all generations say of packs.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] for a generation of which nobody knows what it names: it may be any pack.
    /// [`EngineError::Newer`]; errors of the tier.
    pub(crate) async fn collection(&self, cx: &OpContext) -> Result<Collection> {
        certain(self.known_collection(cx).await?)
    }

    /// The same by a listing that shows `gc/`.
    ///
    /// # Errors
    /// As [`Repository::collection`].
    pub(crate) async fn collection_by(
        &self,
        cx: &OpContext,
        listing: &Listing,
    ) -> Result<Collection> {
        let remembered = Remembered::of_repository(self.cache());
        let known = Some((listing, &remembered));
        certain(self.said_by(cx, generations_in(listing), known).await?)
    }

    /// The same as far as it can be told: for whoever mends the rest, or names no pack.
    ///
    /// # Errors
    /// [`EngineError::Newer`]; errors of the tier.
    pub(crate) async fn known_collection(&self, cx: &OpContext) -> Result<Collection> {
        let there = self.generations(cx).await?;
        self.said_by(cx, there, None).await
    }

    /// What generations say of packs. `known`: what was said of them when they were listed as they are now.
    async fn said_by(
        &self,
        cx: &OpContext,
        there: BTreeSet<ObjectKey>,
        known: Option<(&Listing, &Remembered)>,
    ) -> Result<Collection> {
        let numbers: BTreeSet<u32> = there
            .iter()
            .filter_map(|key| layout::condemned_number(key).or(layout::dead_number(key)))
            .collect();
        let mut wanted = Vec::new();
        for number in numbers {
            let decision = name(layout::dead(number))?;
            wanted.push((number, there.contains(&decision).then_some(decision)));
        }
        let mut lists = futures::stream::iter(wanted)
            .map(|(number, decision)| async move {
                let said = self.said_of(cx, number, decision, known).await;
                (number, said)
            })
            .buffered(self.connections(cx));
        let mut out = Collection::default();
        while let Some((number, said)) = lists.next().await {
            match said? {
                Said::Decided(packs) => out.dead.extend(packs),
                Said::Condemned(packs) => out.condemned.extend(packs),
                Said::Unread(unread) => {
                    out.condemned.extend(unread.packs.iter().copied());
                    out.unread.insert(number, unread);
                }
                Said::Unknown(error) => drop(out.unknown.insert(number, error)),
            }
        }
        Ok(out)
    }

    /// What a generation says. What was condemned no longer matters once it is decided and the decision can be read.
    async fn said_of(
        &self,
        cx: &OpContext,
        number: u32,
        decision: Option<ObjectKey>,
        known: Option<(&Listing, &Remembered)>,
    ) -> Result<Said> {
        let mut why = None;
        if let Some(key) = decision {
            match self.generation_by(cx, &key, known).await {
                Ok(list) => return Ok(Said::Decided(list.packs)),
                Err(error) if is_loss(&error) => why = Some(error),
                Err(error) => return Err(error),
            }
        }
        let key = name(layout::condemned(number))?;
        match (self.generation_by(cx, &key, known).await, why) {
            (Ok(list), None) => Ok(Said::Condemned(list.packs)),
            (Ok(list), Some(why)) => Ok(Said::Unread(Unread {
                packs: list.packs,
                why: why.to_string(),
            })),
            (Err(error), why) if is_loss(&error) => Ok(Said::Unknown(why.unwrap_or(error))),
            (Err(error), _) => Err(error),
        }
    }

    /// The sessions on which there is a verdict. Snapshots are listed before it is asked.
    pub(crate) async fn judged(&self, cx: &OpContext) -> Result<BTreeSet<SessionId>> {
        let listing = Listing::read(cx, &**self.sink(), &["verdicts/"]).await?;
        Ok(judged_in(&listing))
    }

    /// What a verdict says, as sealed bytes of that name say it.
    pub(crate) fn open_verdict(&self, key: &ObjectKey, sealed: &[u8]) -> Result<Verdict> {
        let verdict = open(self, key, ObjectKind::Verdict, sealed, Verdict::decode)?;
        if layout::verdict_id(key) == Some(verdict.session) {
            return Ok(verdict);
        }
        let why = format!("it is on session {}", verdict.session);
        Err(EngineError::damaged(key, why))
    }

    /// The verdict on a session.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] for one that cannot be read; errors of the tier.
    pub(crate) async fn verdict(&self, cx: &OpContext, session: SessionId) -> Result<Verdict> {
        let key = name(layout::verdict(session))?;
        let cached = self.cache().read(key.as_str());
        if let Some(verdict) = cached.and_then(|sealed| self.open_verdict(&key, &sealed).ok()) {
            return Ok(verdict);
        }
        let limit = ObjectKind::Verdict.max_sealed();
        let sealed = get_within(cx, &**self.sink(), &key, limit).await?;
        let verdict = self.open_verdict(&key, &sealed)?;
        self.cache().write(key.as_str(), &sealed);
        Ok(verdict)
    }

    /// Whether a snapshot does not count: its session has no end, was taken for dead, and its verdict,
    /// one of those that are there, does not name it.
    ///
    /// # Errors
    /// [`EngineError::Damaged`] when the verdict cannot be read, so that nobody knows; errors of the
    /// tier.
    pub(crate) async fn is_void(
        &self,
        cx: &OpContext,
        judged: &BTreeSet<SessionId>,
        head: &SnapshotHead,
    ) -> Result<bool> {
        let session = head.session();
        if !judged.contains(&session) {
            return Ok(false);
        }
        // Who came to its end was not taken for dead, whatever somebody else has put there since.
        if self.is_done(cx, session).await? {
            return Ok(false);
        }
        let verdict = self.verdict(cx, session).await.map_err(|error| {
            let hint = "as long as it cannot be read, nobody knows whether the snapshot counts: `snapshot repair` decides it anew";
            with_hint(error, hint)
        })?;
        Ok(!verdict.snapshots.contains(&head.meta.id))
    }

    /// Whether a session says that it has come to its end. What does not open is no word of its own.
    pub(crate) async fn is_done(&self, cx: &OpContext, session: SessionId) -> Result<bool> {
        let key = name(layout::session_done(session))?;
        let limit = ObjectKind::SessionDone.max_sealed();
        let sealed = match get_within(cx, &**self.sink(), &key, limit).await {
            Ok(sealed) => sealed,
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => return Ok(false),
            Err(error) if error.is_damage() => return Ok(false),
            Err(error) => return Err(error),
        };
        let mark = open(
            self,
            &key,
            ObjectKind::SessionDone,
            &sealed,
            SessionMark::decode,
        );
        Ok(mark.is_ok_and(|mark| mark.session == session))
    }

    /// Brings the index up to date for a chunk that is in no place where this one, which is not
    /// avoided by anybody, has it. Says whether to try again: a chunk is given up when nothing was
    /// decided since the index was read for the last time.
    ///
    /// # Errors
    /// Those of the tier.
    pub(crate) async fn look_again(&self, cx: &OpContext, tried: &Arc<IndexSet>) -> Result<bool> {
        let mut looked = self.looked.lock().await;
        // Somebody else has brought it up to date meanwhile.
        if !Arc::ptr_eq(tried, &self.index()) {
            return Ok(true);
        }
        let there = Some(self.generations(cx).await?);
        if looked.generations != there {
            *looked = Looked {
                generations: there,
                times: 0,
            };
        }
        if looked.times == LOOKS {
            return Ok(false);
        }
        looked.times += 1;
        let mut last = self.refresh_index(cx).await?;
        for _ in 1..MOST_LISTS {
            let listed = self.refresh_index(cx).await?;
            if listed == last {
                break;
            }
            last = listed;
        }
        Ok(true)
    }
}

impl Session {
    /// What became of the session, asked when its only snapshot is there. One that was taken for dead
    /// adopts itself, unless it is judged already.
    ///
    /// # Errors
    /// Those of [`Announced::outcome`].
    pub(crate) async fn outcome(
        &self,
        repo: &Repository,
        cx: &OpContext,
        snapshot: SnapshotId,
    ) -> Result<Fate> {
        let made = [snapshot].into();
        self.announced().outcome(repo, cx, &made, snapshot).await
    }
}

impl Announced {
    /// What became of the session, asked when the last of the snapshots that it made is there: all of them are
    /// its own if it was taken for dead and is not judged yet.
    ///
    /// # Errors
    /// [`EngineError::TakenForDead`] when the snapshot does not count, [`EngineError::Undecided`] when
    /// nobody says whether it does; errors of the tier.
    pub(crate) async fn outcome(
        self,
        repo: &Repository,
        cx: &OpContext,
        made: &BTreeSet<SnapshotId>,
        snapshot: SnapshotId,
    ) -> Result<Fate> {
        settle(repo, cx).await;
        if !self.is_revoked(repo, cx).await? {
            return Ok(Fate::Alive);
        }
        if let Some(verdict) = self.read_verdict(repo, cx).await? {
            return adopted(&verdict, snapshot);
        }
        if !repo.sink().info().caps.atomic_create {
            return self.await_verdict(repo, cx, snapshot, PATIENCE).await;
        }
        let verdict = Verdict {
            session: self.id,
            snapshots: made.clone(),
        };
        let sealed = repo.ring().seal(ObjectKind::Verdict, &verdict.encode());
        let body = sealed.map_err(EngineError::Seal)?.into();
        let key = name(layout::verdict(self.id))?;
        match repo.sink().put(cx, &key, body, PutMode::Create).await {
            Ok(_) => Ok(Fate::Adopted),
            Err(error) if error.kind == ErrorKind::Conflict => {
                let there = self.read_verdict(repo, cx).await?;
                adopted(&there.ok_or_else(|| self.undecided())?, snapshot)
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn read_verdict(self, repo: &Repository, cx: &OpContext) -> Result<Option<Verdict>> {
        let key = name(layout::verdict(self.id))?;
        let limit = ObjectKind::Verdict.max_sealed();
        match get_within(cx, &**repo.sink(), &key, limit).await {
            Ok(sealed) => repo.open_verdict(&key, &sealed).map(Some),
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Where of two who create one object both would be told that they did, only the collector judges.
    async fn await_verdict(
        self,
        repo: &Repository,
        cx: &OpContext,
        snapshot: SnapshotId,
        (pause, times): (Duration, u32),
    ) -> Result<Fate> {
        for _ in 0..times {
            tokio::select! {
                () = cx.cancel.cancelled() => return Err(EngineError::Cancelled),
                () = tokio::time::sleep(pause) => {}
            }
            if let Some(verdict) = self.read_verdict(repo, cx).await? {
                return adopted(&verdict, snapshot);
            }
        }
        Err(self.undecided())
    }

    const fn undecided(self) -> EngineError {
        EngineError::Undecided(self.id)
    }
}

fn adopted(verdict: &Verdict, snapshot: SnapshotId) -> Result<Fate> {
    if verdict.snapshots.contains(&snapshot) {
        Ok(Fate::Adopted)
    } else {
        Err(EngineError::TakenForDead(snapshot))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
