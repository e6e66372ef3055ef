//! Reading from the nearest of several copies: what it lacks, or has damaged, the next one gives.
//!
//! A repository that is read may be given copies of itself on other tiers ([`Repository::also_from`]). Each blob is read
//! from the repository itself; if it is not there, damaged, or the tier does not answer, the copies are asked in their
//! order, by the blob's id and their own index: where a copy was pruned, it lies in another pack. What a copy gives is
//! checked like any other: a blob by its id, a snapshot by its signatures. Snapshots that the nearest lacks are taken
//! from the copies as well. What came from where is noted ([`Fallbacks`]): the data is whole, and the nearest is not.
//!
//! A copy that has another snapshot under an id than those before it is none: one of the two was made by somebody who was not
//! meant to. Nothing is read from it, and that is said ([`Repository::notices`]).
//!
//! Memory: for each object that a copy had to give its name, up to a bound.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_recursion::async_recursion as boxed;
use backup_core::{ChunkId, ErrorKind, Finding, FindingKind, OpContext, Severity, SnapshotId};
use backup_format::seal::BlobKind;
use backup_format::snapshot::SnapshotObject;

use crate::error::{EngineError, Result};
use crate::repository::{Repository, SnapshotHead, UnreadSnapshot};
use crate::view::check_signatures;

/// Objects that are noted one by one.
const MOST_NOTED: usize = 10_000;
/// A tier that did not answer so often in a row is not asked again.
const DOWN_AFTER: u32 = 3;

/// Something that the nearest tier did not give.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// The object: the name of a pack or a snapshot, or all chunks of which no index run of the nearest knows.
    pub subject: String,
    /// Why the nearest did not give it.
    pub why: String,
    /// The place that gave it.
    pub from: String,
    /// How often something of it was read there.
    pub reads: u64,
}

/// What the nearest tier did not give and a copy did. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Fallbacks(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    by_subject: BTreeMap<String, Fallback>,
    left_out: u64,
}

impl Fallbacks {
    fn lock(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be said, in the order of the names; and how many reads of other objects there were beyond what is
    /// noted.
    #[must_use]
    pub fn all(&self) -> (Vec<Fallback>, u64) {
        let noted = self.lock();
        (noted.by_subject.values().cloned().collect(), noted.left_out)
    }

    /// Notes that a copy gave something.
    pub fn note(&self, subject: String, why: &str, from: String) {
        let mut noted = self.lock();
        if let Some(known) = noted.by_subject.get_mut(&subject) {
            known.reads += 1;
        } else if noted.by_subject.len() < MOST_NOTED {
            let fallback = Fallback {
                subject: subject.clone(),
                why: why.to_owned(),
                from,
                reads: 1,
            };
            noted.by_subject.insert(subject, fallback);
        } else {
            noted.left_out += 1;
        }
    }
}

/// Copies that are asked behind the nearest.
#[derive(Debug, Default)]
pub(crate) struct Others {
    copies: Vec<Repository>,
    fallbacks: Fallbacks,
    /// Snapshots that only a copy gave: why the nearest did not, and which it was.
    borrowed: Mutex<BTreeMap<SnapshotId, (String, String)>>,
    /// How often in a row the nearest did not answer.
    silent: AtomicU32,
    /// The numbers of copies that are none.
    strangers: Mutex<BTreeSet<usize>>,
}

impl Others {
    /// Notes of a snapshot that is looked into where it came from, if that is a copy.
    pub(crate) fn opened(&self, id: SnapshotId) {
        let borrowed = self.borrowed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((why, from)) = borrowed.get(&id) {
            let subject = format!("snapshot {id}");
            self.fallbacks.note(subject, why, from.clone());
        }
    }

    fn strangers(&self) -> MutexGuard<'_, BTreeSet<usize>> {
        let strangers = self.strangers.lock();
        strangers.unwrap_or_else(PoisonError::into_inner)
    }

    /// The copies that may be asked, with their numbers.
    fn asked(&self) -> Vec<(usize, &Repository)> {
        let strangers = self.strangers();
        let copies = self.copies.iter().enumerate();
        copies
            .filter(|(number, _)| !strangers.contains(number))
            .collect()
    }

    fn is_down(&self) -> bool {
        self.silent.load(Ordering::Relaxed) >= DOWN_AFTER
    }

    /// Takes what the nearest answered into account.
    fn heard(&self, error: Option<&EngineError>) {
        if self.is_down() {
            return;
        }
        match error {
            Some(EngineError::Sink(error)) if error.kind == ErrorKind::Unavailable => {
                self.silent.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.silent.store(0, Ordering::Relaxed),
        }
    }
}

/// Whether a copy may have what could not be read. A key that may not read it may not read the copy's either.
fn may_be_elsewhere(error: &EngineError) -> bool {
    match error {
        EngineError::Sink(error) => error.kind != ErrorKind::Cancelled,
        other => other.is_damage(),
    }
}

/// What of a snapshot is the same on each tier that has it.
fn digest(head: &SnapshotHead) -> [u8; 32] {
    let object = &head.object;
    SnapshotObject::digest(&object.outer, &object.inner, &object.next.sealed)
}

fn down(repo: &Repository) -> EngineError {
    EngineError::Missing {
        object: "the tier".into(),
        why: format!("{} did not answer", repo.location()),
    }
}

impl Repository {
    /// From now on reads from these copies of it, in their order, what it lacks or has damaged.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for one that is of another repository.
    pub fn also_from(&mut self, copies: Vec<Self>) -> Result<()> {
        if let Some(other) = copies.iter().find(|other| other.id() != self.id()) {
            let why = format!(
                "{} is repository {}, and no copy of repository {}: it has nothing of it",
                other.location(),
                other.id(),
                self.id()
            );
            return Err(EngineError::Invalid(why));
        }
        self.others.copies = copies;
        Ok(())
    }

    /// What copies gave since the nearest did not.
    #[must_use]
    pub const fn fallbacks(&self) -> &Fallbacks {
        &self.others.fallbacks
    }

    /// Whether there are copies to be asked.
    pub(crate) const fn has_others(&self) -> bool {
        !self.others.copies.is_empty()
    }

    /// Whether the nearest is not asked any more.
    pub(crate) fn is_down(&self) -> bool {
        self.has_others() && self.others.is_down()
    }

    /// Reads a blob from the nearest place that gives it.
    ///
    /// # Errors
    /// What the nearest said, where no copy has it.
    pub(crate) async fn read_nearest(
        &self,
        cx: &OpContext,
        kind: BlobKind,
        id: &ChunkId,
    ) -> Result<Vec<u8>> {
        let was_down = self.others.is_down();
        let read = match was_down {
            true => Err(down(self)),
            false => {
                let read = self.read_own_blob(cx, kind, id).await;
                self.others.heard(read.as_ref().err());
                read
            }
        };
        let why = match read {
            Err(error) if may_be_elsewhere(&error) && !cx.cancel.is_cancelled() => error,
            read => return read,
        };
        for (_, copy) in self.others.asked() {
            match copy.read_own_blob(cx, kind, id).await {
                Ok(plain) => {
                    let subject = self.subject_of(id)?;
                    let why = why.to_string();
                    self.others.fallbacks.note(subject, &why, copy.location());
                    return Ok(plain);
                }
                Err(_) if cx.cancel.is_cancelled() => return Err(EngineError::Cancelled),
                // What the nearest said is what is to be mended.
                Err(_) => {}
            }
        }
        if was_down {
            // Nobody else has it, and it may answer again by now.
            let read = self.read_own_blob(cx, kind, id).await;
            if read.is_ok() {
                self.others.silent.store(0, Ordering::Relaxed);
            }
            return read;
        }
        Err(why)
    }

    /// What a blob is noted by: its pack.
    fn subject_of(&self, id: &ChunkId) -> Result<String> {
        match self.index().places(&id.prefix()).next() {
            Some(place) => Ok(Self::pack_key(&place)?.to_string()),
            None => Ok("chunks that its index does not know".into()),
        }
    }

    /// The heads of all snapshots, oldest first, and those that cannot be read; those of the copies too, where there are
    /// some. A copy that has another snapshot under the id of one of these is told of, and not asked again.
    ///
    /// # Errors
    /// Those of the tier's lists, where no copy can be listed either.
    #[boxed]
    pub async fn nearest_heads(
        &self,
        cx: &OpContext,
    ) -> Result<(Vec<SnapshotHead>, Vec<UnreadSnapshot>)> {
        let (mut heads, mut unread, failure) = match self.heads(cx).await {
            read if !self.has_others() => return read,
            Ok((heads, unread)) => (heads, unread, None),
            Err(error) if may_be_elsewhere(&error) => (Vec::new(), Vec::new(), Some(error)),
            Err(error) => return Err(error),
        };
        let of_one = |head: &SnapshotHead, place: String| (head.meta.id, (digest(head), place));
        let own = heads.iter().map(|head| of_one(head, self.location()));
        let mut known: HashMap<SnapshotId, ([u8; 32], String)> = own.collect();
        let mut has_listed = failure.is_none();
        for (number, copy) in self.others.asked() {
            let Ok((more, _)) = copy.heads(cx).await else {
                continue;
            };
            let other = more.iter().find_map(|head| {
                let (wanted, from) = known.get(&head.meta.id)?;
                (digest(head) != *wanted).then_some((head, from))
            });
            if let Some((head, from)) = other {
                self.note_stranger((number, copy), head, from);
                continue;
            }
            has_listed = true;
            for head in more {
                let id = head.meta.id;
                if known.contains_key(&id) {
                    continue;
                }
                known.extend([of_one(&head, copy.location())]);
                let own = unread.iter().find(|one| one.id == id);
                let why = match (own, &failure) {
                    (Some(one), _) => one.error.to_string(),
                    (None, Some(failure)) => failure.to_string(),
                    (None, None) => "it is not on the tier".into(),
                };
                let borrowed = self.others.borrowed.lock();
                let mut borrowed = borrowed.unwrap_or_else(PoisonError::into_inner);
                borrowed.insert(id, (why, copy.location()));
                heads.push(head);
            }
        }
        if let Some(failure) = failure.filter(|_| !has_listed) {
            return Err(failure);
        }
        unread.retain(|one| !known.contains_key(&one.id));
        heads.sort_by_key(|head| (head.meta.time, head.meta.id));
        Ok((heads, unread))
    }

    /// Says that a copy is none, and why, and asks it for nothing more.
    fn note_stranger(&self, (number, copy): (usize, &Self), head: &SnapshotHead, from: &str) {
        self.others.strangers().insert(number);
        let place = copy.location();
        let signed = match check_signatures(copy, head) {
            Ok(()) => "its host has signed",
            Err(_) => "its host has not signed",
        };
        let detail = format!(
            "{place} has another one under this id than {from}, which {signed}; somebody who holds a key of the repository has made one of the two: nothing is read from {place}; find out whose key it was (docs/keys.md), and `snapshot verify` both places before you believe either"
        );
        let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
        let subject = format!("snapshot {}", head.meta.id);
        self.notices()
            .note(Finding::new(severity, kind, subject, detail));
    }
}
