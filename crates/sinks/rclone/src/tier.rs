//! One place, the child that works for it, and what it was asked.

use std::future::Future;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backup_core::{ErrorKind, Event, ObjectKey, OpContext, SinkError, Traffic};
use tokio::sync::Mutex;

use crate::check::Hash;
use crate::child::{KILLED, Running, Shared};
use crate::control::{Control, limit};
use crate::fault::{Fault, Outcome, Wrong, ours};
use crate::place::Place;

/// How often a call is made when rclone ends or the connection to it breaks off.
const TRIES: u64 = 3;

/// Puts to one key wait for each other; so many keys can be told apart for that.
const LOCKS: usize = 64;

/// One place, and the child that works for it.
pub(crate) struct Tier {
    pub(crate) place: Place,
    pub(crate) fs: String,
    ready: Mutex<Option<Ready>>,
    keys: [Mutex<()>; LOCKS],
    pub(crate) counts: Counts,
}

/// A child that was asked what its remote can do.
#[derive(Clone)]
pub(crate) struct Ready {
    pub(crate) running: Shared,
    pub(crate) hash: Option<Hash>,
    pub(crate) tells_room: bool,
    /// Whether a file can be given its name once it has arrived.
    pub(crate) renames: bool,
}

/// What was asked so far.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) lists: AtomicU64,
    pub(crate) heads: AtomicU64,
    pub(crate) gets: AtomicU64,
    pub(crate) puts: AtomicU64,
    pub(crate) deletes: AtomicU64,
    pub(crate) others: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// Counts on.
pub(crate) fn add(count: &AtomicU64, number: u64) {
    count.fetch_add(number, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn traffic(&self) -> Traffic {
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Traffic {
            lists: told(&self.lists),
            heads: told(&self.heads),
            gets: told(&self.gets),
            puts: told(&self.puts),
            deletes: told(&self.deletes),
            others: told(&self.others),
            failed: told(&self.failed),
            sent_bytes: told(&self.sent),
            received_bytes: told(&self.received),
        }
    }
}

/// A login that was renewed and not kept is lost with the child.
fn tell_unsaved(cx: &OpContext, running: &Running) {
    if let Some(words) = running.log.unsaved() {
        cx.tell(Event::Note(&format!(
            "rclone could not write its configuration ({words}): the next login may fail; make the file and its folder \
             writable for this user"
        )));
    }
}

impl Tier {
    pub(crate) fn new(place: Place) -> Self {
        Self {
            fs: place.fs(),
            place,
            ready: Mutex::default(),
            keys: [const { Mutex::const_new(()) }; LOCKS],
            counts: Counts::default(),
        }
    }

    /// The child, started and asked if there is none.
    async fn ready(&self, cx: &OpContext) -> Outcome<Ready> {
        let mut ready = self.ready.lock().await;
        if let Some(ready) = ready.as_ref().filter(|ready| ready.running.is_alive()) {
            return Ok(ready.clone());
        }
        *ready = None;
        let running = Running::start(&self.place).await?;
        let control = Control {
            running: &running,
            fs: &self.fs,
        };
        let asked = async {
            add(&self.counts.others, 2);
            let abilities = control.abilities().await?;
            if !control.has_root().await? {
                if !self.place.makes_root {
                    let wrong = Wrong::NoRoot(self.place.shown());
                    return ours(ErrorKind::NotFound, wrong);
                }
                add(&self.counts.others, 1);
                control.make_root().await?;
            }
            Ok(abilities)
        };
        let asked = asked.await;
        tell_unsaved(cx, &running);
        let abilities = match asked {
            Ok(abilities) => abilities,
            // It fell over because of the remote, and said why.
            Err(Fault::Lost(Wrong::Ended(words))) if words != KILLED => {
                return Err(Fault::Said(words));
            }
            Err(fault) => return Err(fault),
        };
        let made = Ready {
            running: Arc::new(running),
            hash: Hash::best_of(&abilities.hashes),
            tells_room: abilities.features.about,
            renames: abilities.features.renames(),
        };
        *ready = Some(made.clone());
        Ok(made)
    }

    /// Does something until it is done, cancelled, or takes too long; once more when the child is gone.
    pub(crate) async fn with<T, F>(
        &self,
        cx: &OpContext,
        op: &'static str,
        subject: &str,
        bytes: u64,
        work: impl Fn(Ready) -> F,
    ) -> Result<T, SinkError>
    where
        F: Future<Output = Outcome<T>>,
    {
        let tried = async {
            let mut tries = 0;
            loop {
                tries += 1;
                let ready = self.ready(cx).await?;
                let running = ready.running.clone();
                let done = work(ready).await;
                tell_unsaved(cx, &running);
                match done {
                    Err(Fault::Lost(_)) if tries < TRIES => {
                        add(&self.counts.failed, 1);
                        tokio::time::sleep(Duration::from_millis(200 * tries)).await;
                    }
                    done => return done,
                }
            }
        };
        let span = limit(self.place.timeout, bytes);
        let late = || Fault::Ours(ErrorKind::Unavailable, Wrong::Late(span.as_secs()));
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(SinkError::new(ErrorKind::Cancelled, op, subject)),
            done = tokio::time::timeout(span, tried) => {
                let done = done.unwrap_or_else(|_| Err(late()));
                done.map_err(|fault| {
                    let error = fault.at(op, subject, &self.place.remote);
                    if error.kind == ErrorKind::Unavailable {
                        add(&self.counts.failed, 1);
                    }
                    error
                })
            }
        }
    }

    pub(crate) fn lock_of(&self, key: &ObjectKey) -> &Mutex<()> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let at = hasher.finish() % LOCKS as u64;
        &self.keys[usize::try_from(at).unwrap_or(0)]
    }
}
