//! The surroundings of an operation, handed down as a value: cancellation, who watches, the clock,
//! limits. Nothing below the binaries reads the clock or the environment by itself.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
pub use tokio_util::sync::CancellationToken;

use crate::finding::Finding;

/// Tells the time.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// A part of the way of the data, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Finding out what is to be done.
    Plan,
    /// Reading from the source.
    Capture,
    /// Writing packs.
    Store,
    /// Making the snapshot visible.
    Commit,
    /// Ledger, caches, the source's own cursors.
    Record,
    /// Reading from the repository.
    Fetch,
    /// Writing to the target.
    Write,
    /// Comparing.
    Verify,
    /// Sending packs to another tier.
    Copy,
}

/// What happens, as it happens.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage has begun; totals where they are known.
    Entered {
        /// The stage.
        stage: Stage,
        /// Entries to come.
        entries: Option<u64>,
        /// Bytes to come.
        bytes: Option<u64>,
    },
    /// So much more of a stage is done.
    Advanced {
        /// The stage.
        stage: Stage,
        /// Entries done since the last event.
        entries: u64,
        /// Bytes done since the last event.
        bytes: u64,
    },
    /// The totals of a stage are now known to be these.
    Expect {
        /// The stage.
        stage: Stage,
        /// Entries in all.
        entries: u64,
        /// Bytes in all.
        bytes: u64,
    },
    /// What is worked on now.
    Current(&'a str),
    /// Something is not as it should be; it will also stand in the report.
    Found(&'a Finding),
    /// A word to the operator.
    Note(&'a str),
    /// A stage is over.
    Left(Stage),
}

/// Watches an operation. Called from many threads; must be quick.
pub trait Observer: fmt::Debug + Send + Sync {
    /// Something happened.
    fn on(&self, event: Event<'_>);
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn on(&self, _event: Event<'_>) {}
}

/// How much an operation may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes in flight between reading and writing, all stages together.
    pub memory_bytes: usize,
    /// Threads for chunking, hashing, compressing, sealing; 0: one for each processor.
    pub cpu_threads: usize,
    /// Reads of the source under way at once; 0: chosen by the engine.
    pub readers: usize,
    /// Requests to a sink under way at once; 0: chosen by the engine.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: 96 << 20,
            cpu_threads: 0,
            readers: 0,
            connections: 0,
        }
    }
}

/// The surroundings of one operation.
#[derive(Debug, Clone)]
pub struct OpContext {
    /// Cancelled when the operation is to stop; checked between batches and before each request.
    pub cancel: CancellationToken,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// How much may be used.
    pub limits: Limits,
}

impl OpContext {
    /// Surroundings with nobody watching and default limits.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            cancel: CancellationToken::new(),
            observer: Arc::new(Unobserved),
            clock,
            limits: Limits::default(),
        }
    }

    /// Hands an event to whoever watches.
    pub fn tell(&self, event: Event<'_>) {
        self.observer.on(event);
    }
}
