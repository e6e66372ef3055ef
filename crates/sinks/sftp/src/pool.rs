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

/// How often a call is made on a connection that breaks off under it.
pub(crate) const ATTEMPTS: usize = 3;

/// How long one more connection is not asked for of a server that refused it.
const REST: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Slot {
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// How many bytes are under way.
    load: AtomicU64,
    is_open: AtomicBool,
}

/// The connections to one server.
pub(crate) struct Pool {
    config: Config,
    slots: Vec<Slot>,
    /// Until when no more than what is there is asked for.
    resting: Mutex<Option<Instant>>,
    /// Whether the last session that was made could keep creates apart.
    links: AtomicBool,
}

/// A session for one call.
pub(crate) struct Lease<'a> {
    pub(crate) session: Arc<Session>,
    load: &'a AtomicU64,
    bytes: u64,
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.load.fetch_sub(self.bytes, Ordering::Relaxed);
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
        let slots = (0..config.connections).map(|_| Slot::default()).collect();
        Self {
            config,
            slots,
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
        let (first, one_more) = self.choose();
        if one_more {
            match self.take(first, bytes, &[]).await {
                Ok(lease) => return Ok(lease),
                // It has enough of us. What is open goes on.
                Err(_) => {
                    let mut resting = self.resting.lock().unwrap_or_else(PoisonError::into_inner);
                    *resting = Some(Instant::now() + REST);
                }
            }
        }
        let (least, _) = self.choose();
        self.take(least, bytes, &PAUSES).await
    }

    /// Which slot is to be used, and whether that is one more than are open.
    fn choose(&self) -> (usize, bool) {
        let load = |slot: &Slot| slot.load.load(Ordering::Relaxed);
        let is_open = |slot: &Slot| slot.is_open.load(Ordering::Relaxed);
        let open = |(_, slot): &(usize, &Slot)| is_open(slot);
        let least = self
            .slots
            .iter()
            .enumerate()
            .filter(open)
            .min_by_key(|(_, slot)| load(slot));
        let Some((least, slot)) = least else {
            return (0, false);
        };
        let resting = *self.resting.lock().unwrap_or_else(PoisonError::into_inner);
        let may = resting.is_none_or(|until| until <= Instant::now());
        let closed = self.slots.iter().position(|slot| !is_open(slot));
        match closed {
            Some(closed) if load(slot) >= BUSY && may => (closed, true),
            _ => (least, false),
        }
    }

    async fn take(&self, number: usize, bytes: u64, pauses: &[Duration]) -> Outcome<Lease<'_>> {
        let Some(slot) = self.slots.get(number) else {
            return Err(Fault::absent());
        };
        let mut place = slot.session.lock().await;
        let there = place.take().filter(|session| !session.is_over());
        let session = match there {
            Some(session) => session,
            None => {
                slot.is_open.store(false, Ordering::Relaxed);
                Arc::new(self.connect(pauses).await?)
            }
        };
        *place = Some(session.clone());
        slot.is_open.store(true, Ordering::Relaxed);
        slot.load.fetch_add(bytes, Ordering::Relaxed);
        Ok(Lease {
            session,
            load: &slot.load,
            bytes,
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
                (Fault::Lost(_), Some(pause)) => tokio::time::sleep(*pause).await,
                (fault, _) => return Err(fault),
            }
        }
    }
}
