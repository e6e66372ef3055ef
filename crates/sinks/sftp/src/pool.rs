//! A few connections to one server: made when they are needed, made again when they break off. Small requests share
//! the first; another is opened only while those that there are move large objects.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config::Config;
use crate::fault::{Fault, Outcome};
use crate::session::Session;
use crate::ssh;

/// A connection that moves so many bytes is busy.
const BUSY: u64 = 1 << 20;

/// How long it is waited before a connection is tried again.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_secs(2),
];

/// How often a call is made on a connection that breaks off under it,
const ATTEMPTS: usize = 3;

/// and where that was seen only by long silence.
const LONG_ATTEMPTS: usize = 2;

/// Whether a call is made once more behind so many attempts.
pub(crate) const fn again(fault: &Fault, attempts: usize) -> bool {
    match fault {
        Fault::Lost(wrong) if wrong.took_long() => attempts < LONG_ATTEMPTS,
        Fault::Lost(_) => attempts < ATTEMPTS,
        _ => false,
    }
}

/// How long one more connection is not asked for of a server that refused it.
const REST: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Slot {
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// When the last connection came to nothing, and why.
    failed: Mutex<Option<(Instant, Fault)>>,
    /// How many bytes are under way.
    load: AtomicU64,
    is_open: AtomicBool,
}

impl Slot {
    fn load(&self) -> u64 {
        self.load.load(Ordering::Relaxed)
    }

    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    fn note(&self, fault: &Fault) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        *failed = Some((Instant::now(), fault.clone()));
    }

    fn failed_since(&self, asked: Instant) -> Option<Fault> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let (when, fault) = failed.as_ref()?;
        (*when >= asked).then(|| fault.clone())
    }
}

/// The connections to one server.
pub(crate) struct Pool {
    config: Config,
    first: Slot,
    others: Vec<Slot>,
    /// Until when no more than what is there is asked for.
    resting: Mutex<Option<Instant>>,
    /// Whether the last session that was made could keep creates apart.
    links: AtomicBool,
}

/// A session for one call.
pub(crate) struct Lease<'a> {
    pub(crate) session: Arc<Session>,
    _load: Load<'a>,
}

/// What a call counts for while it is under way, the making of its connection included.
struct Load<'a> {
    slot: &'a Slot,
    bytes: u64,
}

impl<'a> Load<'a> {
    fn on(slot: &'a Slot, bytes: u64) -> Self {
        let bytes = bytes.max(1);
        slot.load.fetch_add(bytes, Ordering::Relaxed);
        Self { slot, bytes }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.slot.load.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl std::ops::Deref for Lease<'_> {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Pool {
    pub(crate) fn new(config: Config) -> Self {
        let others = (1..config.connections).map(|_| Slot::default()).collect();
        Self {
            config,
            first: Slot::default(),
            others,
            resting: Mutex::new(None),
            links: AtomicBool::new(true),
        }
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the server links, as far as that is known.
    pub(crate) fn links(&self) -> bool {
        self.links.load(Ordering::Relaxed)
    }

    /// A session for a call that moves about so many bytes.
    pub(crate) async fn lease(&self, bytes: u64) -> Outcome<Lease<'_>> {
        let (slot, one_more) = self.choose(bytes);
        if one_more {
            match self.take(slot, bytes, &[]).await {
                Ok(lease) => return Ok(lease),
                // It has enough of us. What is open goes on.
                Err(_) => {
                    let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
                    *resting = Some(Instant::now() + REST);
                }
            }
        }
        let (slot, _) = self.choose(0);
        self.take(slot, bytes, &PAUSES).await
    }

    /// Which slot is to be used, and whether that is one more than are in use. Small calls do not wait for a connection
    /// that is being made.
    fn choose(&self, bytes: u64) -> (&Slot, bool) {
        let is_large = bytes >= BUSY;
        let in_use = self
            .slots()
            .filter(|slot| slot.is_open() || (is_large && slot.load() > 0));
        let Some(least) = in_use.min_by_key(|slot| slot.load()) else {
            return (&self.first, false);
        };
        let resting = *self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let may = resting.is_none_or(|until| until <= Instant::now());
        let unused = self
            .slots()
            .find(|slot| !slot.is_open() && slot.load() == 0);
        match unused {
            Some(unused) if least.load() >= BUSY && may => (unused, true),
            _ => (least, false),
        }
    }

    fn slots(&self) -> impl Iterator<Item = &Slot> {
        std::iter::once(&self.first).chain(&self.others)
    }

    async fn take<'a>(
        &self,
        slot: &'a Slot,
        bytes: u64,
        pauses: &[Duration],
    ) -> Outcome<Lease<'a>> {
        let load = Load::on(slot, bytes);
        let asked = Instant::now();
        let mut place = slot.session.lock().await;
        let there = place.take().filter(|session| !session.is_over());
        let session = match there {
            Some(session) => session,
            None => {
                slot.is_open.store(false, Ordering::Relaxed);
                // What came of a connection that was waited for is the answer to all who waited: each on its own would
                // wait as long once more, or be refused with the same key.
                if let Some(fault) = slot.failed_since(asked) {
                    return Err(fault);
                }
                let made = self.connect(pauses).await;
                Arc::new(made.inspect_err(|fault| slot.note(fault))?)
            }
        };
        *place = Some(session.clone());
        slot.is_open.store(true, Ordering::Relaxed);
        Ok(Lease {
            session,
            _load: load,
        })
    }

    async fn connect(&self, pauses: &[Duration]) -> Outcome<Session> {
        let mut pauses = pauses.iter();
        loop {
            let fault = match ssh::connect(&self.config).await {
                Ok(session) => {
                    let links = session.features.hard_link;
                    self.links.store(links, Ordering::Relaxed);
                    return Ok(session);
                }
                Err(fault) => fault,
            };
            match (fault, pauses.next()) {
                (Fault::Lost(wrong), Some(pause)) if !wrong.took_long() => {
                    tokio::time::sleep(*pause).await;
                }
                (fault, _) => return Err(fault),
            }
        }
    }
}
