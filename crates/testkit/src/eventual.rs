//! A sink on which changes show late: each request is answered as of a moment of the recent past, as
//! by one of several copies that follow each other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_conformance::dice;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;
use tokio::time::Instant;

/// How far behind answers may be, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lag {
    /// Listings: they lack what was put meanwhile, and show what was deleted. That is within the
    /// contract of a sink that says so ([`backup_core::SinkCaps::settle`]).
    pub list: Duration,
    /// Reads: what was put meanwhile is not there, what was replaced or deleted is as it was. Anything but
    /// zero breaks the contract, as object stores of old did.
    pub read: Duration,
}

/// What was under a key before a change.
#[derive(Debug, Clone)]
struct Before {
    meta: ObjectMeta,
    body: Bytes,
}

#[derive(Debug)]
struct Change {
    at: Instant,
    key: ObjectKey,
    before: Option<Before>,
}

#[derive(Debug)]
struct State {
    changes: Vec<Change>,
    dice: u64,
    misses: u64,
}

/// An eventually consistent sink on another one that is not. Clones share everything.
///
/// Writes go through at once, and conditions on them hold. How far each answer lags is drawn from the seed.
#[derive(Clone)]
pub struct EventualSink {
    inner: Arc<dyn Sink>,
    lag: Lag,
    state: Arc<Mutex<State>>,
}

impl EventualSink {
    /// Wraps a sink.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>, lag: Lag, seed: u64) -> Self {
        let state = State {
            changes: Vec::new(),
            dice: seed,
            misses: 0,
        };
        Self {
            inner,
            lag,
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// How many answers were not those of now.
    #[must_use]
    pub fn misses(&self) -> u64 {
        self.state().misses
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is under a key, before it is changed.
    async fn before(&self, cx: &OpContext, key: &ObjectKey) -> Option<Before> {
        let meta = self.inner.head(cx, key).await.ok()?;
        let body = self.inner.get(cx, key, ByteRange::Full).await.ok()?;
        Some(Before { meta, body })
    }

    fn note(&self, key: &ObjectKey, before: Option<Before>) {
        let now = Instant::now();
        let longest = self.lag.list.max(self.lag.read);
        let mut state = self.state();
        state
            .changes
            .retain(|change| now.duration_since(change.at) <= longest);
        let key = key.clone();
        state.changes.push(Change {
            at: now,
            key,
            before,
        });
    }

    /// What was different at a moment of the last `lag` that the dice choose, of the keys below a prefix.
    fn past(&self, lag: Duration, prefix: &str) -> BTreeMap<ObjectKey, Option<Before>> {
        if lag.is_zero() {
            return BTreeMap::new();
        }
        let mut state = self.state();
        let behind = lag.mul_f64((dice::step(&mut state.dice) % 1024) as f64 / 1023.0);
        let now = Instant::now();
        let mut past = BTreeMap::new();
        for change in &state.changes {
            // The first change behind that moment tells what was there at it.
            if now.duration_since(change.at) < behind && change.key.as_str().starts_with(prefix) {
                let before = || change.before.clone();
                past.entry(change.key.clone()).or_insert_with(before);
            }
        }
        state.misses += u64::from(!past.is_empty());
        past
    }

    /// What a read of a key finds, if that is not what is there now.
    fn stale(&self, key: &ObjectKey) -> Option<Option<Before>> {
        self.past(self.lag.read, key.as_str()).remove(key)
    }
}

impl fmt::Debug for EventualSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventualSink")
            .field("lag", &self.lag)
            .field("misses", &self.misses())
            .field("inner", &self.inner)
            .finish()
    }
}

fn missing(op: &'static str, key: &ObjectKey) -> SinkError {
    SinkError::new(ErrorKind::NotFound, op, key.as_str())
}

/// A part of an object of the past.
fn part(key: &ObjectKey, body: &Bytes, range: ByteRange) -> Result<Bytes, SinkError> {
    let size = body.len();
    let narrow = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
    let (start, end) = match range {
        ByteRange::Full => (0, size),
        ByteRange::Suffix(length) => (size.saturating_sub(narrow(length)), size),
        ByteRange::Span { offset, length } => {
            (narrow(offset), narrow(offset.saturating_add(length)))
        }
    };
    if start > end || end > size {
        return Err(SinkError::new(ErrorKind::Damaged, "get", key.as_str()));
    }
    Ok(body.slice(start..end))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for EventualSink {
    fn info(&self) -> SinkInfo {
        let mut info = self.inner.info();
        info.caps.settle = info.caps.settle.max(self.lag.list);
        info
    }

    fn medium(&self) -> Option<String> {
        self.inner.medium()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.inner.traffic()
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        let before = self.before(cx, key).await;
        let answer = self.inner.put(cx, key, body, mode).await?;
        self.note(key, before);
        Ok(answer)
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        match self.stale(key) {
            Some(Some(before)) => part(key, &before.body, range),
            Some(None) => Err(missing("get", key)),
            None => self.inner.get(cx, key, range).await,
        }
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        match self.stale(key) {
            Some(Some(before)) => Ok(before.meta),
            Some(None) => Err(missing("head", key)),
            None => self.inner.head(cx, key).await,
        }
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let mut past = self.past(self.lag.list, prefix);
        past.retain(|key, _| after.is_none_or(|after| key > after));
        let old: Vec<_> = past
            .values()
            .flatten()
            .map(|before| Ok(before.meta.clone()))
            .collect();
        let listing = self.inner.list(cx, prefix, after);
        let is_of_now = move |meta: &Result<ObjectMeta, SinkError>| {
            let changed = meta.as_ref().is_ok_and(|meta| past.contains_key(&meta.key));
            std::future::ready(!changed)
        };
        listing.filter(is_of_now).chain(stream::iter(old)).boxed()
    }

    /// Each prefix is listed by itself, so that rules and lags are those of single listings.
    fn list_together(
        &self,
        _cx: &OpContext,
        _ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        None
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let before = self.before(cx, key).await;
        self.inner.delete(cx, key).await?;
        self.note(key, before);
        Ok(())
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        self.inner.temperature(cx, key).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        self.inner.warm(cx, keys).await
    }

    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        self.inner.tidy(cx, older_than).await
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        self.inner.extend_lock(cx, key, from).await
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.inner.room(cx).await
    }
}
