//! The wrapper: every call passes through, or does not.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

use super::rule::{Crash, Fault, Injected, Rule};
use super::state::{Change, State, Turn};
use crate::op::Op;

type Listing = BoxStream<'static, Result<ObjectMeta, SinkError>>;

/// A sink that fails by rules, on another sink that does what is asked of it.
///
/// Clones share everything. Without a rule it only passes calls on. If several rules hit a call,
/// their delays add up and the first other fault happens.
///
/// For a crash matrix: run once with [`FaultSink::mutations`] counted, then run for each `k` up to
/// that number with [`FaultSink::crash_at`] on a fresh inner sink, and look at the inner sink.
#[derive(Clone)]
pub struct FaultSink {
    inner: Arc<dyn Sink>,
    state: Arc<Mutex<State>>,
    seed: u64,
    lists_together: bool,
}

impl FaultSink {
    /// Wraps a sink. The seed decides what is left to chance; see [`super::seed`].
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>, seed: u64) -> Self {
        Self {
            inner,
            state: Arc::default(),
            seed,
            lists_together: false,
        }
    }

    /// The same sink, which lists several ranges with one call where the one below does. To rules such a call is one
    /// below each of the prefixes.
    #[must_use]
    pub const fn listing_together(mut self) -> Self {
        self.lists_together = true;
        self
    }

    /// The same sink with one more rule.
    #[must_use]
    pub fn with(self, rule: Rule) -> Self {
        self.add(rule);
        self
    }

    /// Adds a rule while the sink is in use.
    pub fn add(&self, rule: Rule) {
        self.state().rules.push((rule, 0));
    }

    /// Takes all rules away; what was crashed stays so.
    pub fn calm(&self) {
        self.state().rules.clear();
    }

    /// Dies at the `k`th change (a put or a delete, counted from one since the sink was made): from
    /// then on every call of any kind fails and is not to be tried again. Calls that are under way
    /// at that moment come to their end, as requests do that have left a process before it dies.
    pub fn crash_at(&self, k: u64, crash: Crash) {
        self.state().crash = Some((k, crash));
    }

    /// Dies now; see [`FaultSink::crash_at`].
    pub fn die(&self) {
        self.state().crashed = true;
    }

    /// Limits what can be stored from now on. A put that is larger than what is left fails with
    /// `NoSpace` and leaves nothing; deleting and replacing give back.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state().space = bytes;
    }

    /// Whether it has died.
    #[must_use]
    pub fn crashed(&self) -> bool {
        self.state().crashed
    }

    /// How many changes were asked for.
    #[must_use]
    pub fn mutations(&self) -> u64 {
        self.state().mutations
    }

    /// What was injected so far.
    #[must_use]
    pub fn injected(&self) -> Vec<Injected> {
        self.state().injected.clone()
    }

    /// The seed.
    #[must_use]
    pub const fn seed(&self) -> u64 {
        self.seed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to happen with a call, after what has to happen before it.
    async fn enter(&self, cx: &OpContext, op: Op, subject: &str) -> Result<Turn, SinkError> {
        let mut turn = self.state().enter(self.seed, op, subject)?;
        for change in std::mem::take(&mut turn.echoes) {
            // Whoever made the change was answered long ago.
            let _ = match change {
                Change::Put(key, body, mode) => self.inner.put(cx, &key, body, mode).await.err(),
                Change::Delete(key) => self.inner.delete(cx, &key).await.err(),
            };
        }
        if !turn.delay.is_zero() {
            tokio::time::sleep(turn.delay).await;
        }
        if let Some(Fault::Fail(..)) = turn.fault {
            return Err(turn.error());
        }
        Ok(turn)
    }

    /// A put that arrives, if there is space for it.
    async fn store(
        &self,
        cx: &OpContext,
        turn: &Turn,
        change: (&ObjectKey, Bytes, PutMode),
    ) -> Result<ObjectMeta, SinkError> {
        let (key, body, mode) = change;
        let size = body.len() as u64;
        let before = self.before(cx, turn, key).await;
        if !self.state().take_space(size) {
            let error = SinkError::new(ErrorKind::NoSpace, "put", key.as_str());
            return Err(error.because(format!("no space left for {size} bytes")));
        }
        let answer = self.inner.put(cx, key, body, mode).await;
        let mut state = self.state();
        match &answer {
            Ok(_) => state.give_space(before.as_ref().map_or(0, |before| before.size)),
            Err(_) => state.give_space(size),
        }
        if answer.is_ok() && turn.watched {
            state.note(key, before);
        }
        answer
    }

    /// A delete that arrives.
    async fn remove(&self, cx: &OpContext, turn: &Turn, key: &ObjectKey) -> Result<(), SinkError> {
        let before = self.before(cx, turn, key).await;
        let answer = self.inner.delete(cx, key).await;
        if answer.is_ok() && before.is_some() {
            let mut state = self.state();
            state.give_space(before.as_ref().map_or(0, |before| before.size));
            if turn.watched {
                state.note(key, before);
            }
        }
        answer
    }

    /// A listing of some ranges that fails by the rules.
    fn listing(
        &self,
        cx: &OpContext,
        ranges: Vec<KeyRange>,
        begin: impl FnOnce(&OpContext, &[KeyRange]) -> Listing + Send + 'static,
    ) -> Listing {
        let (this, cx) = (self.clone(), cx.clone());
        let prefixes: Vec<&str> = ranges.iter().map(|range| range.prefix.as_str()).collect();
        let subject = prefixes.join(" ");
        let begun = async move {
            let turn = match this.enter(&cx, Op::List, &subject).await {
                Ok(turn) => turn,
                Err(error) => return stream::iter([Err(error)]).boxed(),
            };
            let listing = begin(&cx, &ranges);
            match turn.fault {
                Some(Fault::BreakOff(count)) => listing
                    .take(count)
                    .chain(stream::iter([Err(turn.error())]))
                    .boxed(),
                Some(Fault::StaleList(lag)) => {
                    let mut past = this.state().before(lag);
                    past.retain(|key, _| ranges.iter().any(|range| range.has(key)));
                    let old: Vec<_> = past.values().flatten().cloned().map(Ok).collect();
                    let changed = move |meta: &Result<ObjectMeta, SinkError>| {
                        meta.as_ref().is_ok_and(|meta| past.contains_key(&meta.key))
                    };
                    let rest = listing.filter(move |meta| std::future::ready(!changed(meta)));
                    rest.chain(stream::iter(old)).boxed()
                }
                _ => listing,
            }
        };
        stream::once(begun).flatten().boxed()
    }

    /// What a change is about to change, where that has to be known.
    async fn before(&self, cx: &OpContext, turn: &Turn, key: &ObjectKey) -> Option<ObjectMeta> {
        let limited = self.state().space.is_some();
        if !limited && !turn.watched {
            return None;
        }
        self.inner.head(cx, key).await.ok()
    }
}

impl fmt::Debug for FaultSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("FaultSink")
            .field("seed", &self.seed)
            .field("calls", &state.calls)
            .field("mutations", &state.mutations)
            .field("crashed", &state.crashed)
            .field("injected", &state.injected.len())
            .field("rules", &state.rules)
            .field("inner", &self.inner)
            .finish()
    }
}

/// The same with one bit changed, where there is one.
fn flip(turn: &Turn, bytes: &Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let bit = turn.below((bytes.len() * 8).max(1));
    if let Some(byte) = bytes.get_mut(bit / 8) {
        *byte ^= 1 << (bit % 8);
    }
    bytes.into()
}

/// How long so many bytes take at a rate a second.
fn pause(bytes: usize, rate: u64) -> Duration {
    Duration::from_micros((bytes as u64).saturating_mul(1_000_000) / rate.max(1))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for FaultSink {
    fn info(&self) -> SinkInfo {
        self.inner.info()
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
        let turn = self.enter(cx, Op::Put, key.as_str()).await?;
        let whole = (key, body.clone(), mode.clone());
        match &turn.fault {
            Some(Fault::Torn) => {
                // At least the last byte is missing; an empty object cannot be torn.
                let part = body.slice(..turn.below(body.len().max(1)));
                let _ = self.store(cx, &turn, (key, part, mode)).await;
                Err(turn.error())
            }
            Some(Fault::LoseAnswer) => {
                let _ = self.store(cx, &turn, whole).await;
                Err(turn.error())
            }
            Some(Fault::Twice) => {
                let first = self.store(cx, &turn, whole.clone()).await;
                let _ = self.store(cx, &turn, whole).await;
                first
            }
            Some(Fault::Retried) => {
                let _ = self.store(cx, &turn, whole.clone()).await;
                self.store(cx, &turn, whole).await
            }
            Some(Fault::Echo(after)) => {
                let answer = self.store(cx, &turn, whole).await;
                self.state()
                    .echo(*after, Change::Put(key.clone(), body, mode));
                answer
            }
            Some(Fault::Spoil) => {
                let spoiled = flip(&turn, &body);
                self.store(cx, &turn, (key, spoiled, mode)).await
            }
            Some(fault @ (Fault::Shorten | Fault::Drop)) => {
                let size = body.len() as u64;
                let mut version = None;
                if *fault == Fault::Shorten {
                    let part = body.slice(..turn.below(body.len().max(1)));
                    version = self.store(cx, &turn, (key, part, mode)).await?.version;
                }
                let key = key.clone();
                Ok(ObjectMeta { key, size, version })
            }
            Some(Fault::Slow(rate)) => {
                tokio::time::sleep(pause(body.len(), *rate)).await;
                self.store(cx, &turn, whole).await
            }
            _ => self.store(cx, &turn, whole).await,
        }
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let turn = self.enter(cx, Op::Get, key.as_str()).await?;
        let answer = turn.unless_lost(self.inner.get(cx, key, range).await)?;
        match turn.fault {
            Some(Fault::FlipBit) => Ok(flip(&turn, &answer)),
            Some(Fault::Slow(rate)) => {
                tokio::time::sleep(pause(answer.len(), rate)).await;
                Ok(answer)
            }
            Some(Fault::CutShort) => Ok(answer.slice(..turn.below(answer.len().max(1)))),
            _ => Ok(answer),
        }
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let turn = self.enter(cx, Op::Head, key.as_str()).await?;
        let answer = self.inner.head(cx, key).await?;
        if turn.fault == Some(Fault::LoseAnswer) {
            Err(turn.error())
        } else {
            Ok(answer)
        }
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let range = KeyRange {
            prefix: prefix.to_owned(),
            after: after.cloned(),
        };
        let inner = self.inner.clone();
        self.listing(cx, vec![range], move |cx, ranges| {
            let lists = ranges
                .iter()
                .map(|range| inner.list(cx, &range.prefix, range.after.as_ref()));
            stream::iter(lists.collect::<Vec<_>>()).flatten().boxed()
        })
    }

    /// Each prefix by itself, so that rules are about single listings, unless it was told otherwise.
    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        // Whether the sink below does so is known only once it is asked.
        if !self.lists_together || self.inner.list_together(cx, ranges).is_none() {
            return None;
        }
        let inner = self.inner.clone();
        Some(self.listing(cx, ranges.to_vec(), move |cx, ranges| {
            let listing = inner.list_together(cx, ranges);
            listing.unwrap_or_else(|| stream::empty().boxed())
        }))
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let turn = self.enter(cx, Op::Delete, key.as_str()).await?;
        let first = self.remove(cx, &turn, key).await;
        match &turn.fault {
            Some(Fault::Twice) => {
                let _ = self.remove(cx, &turn, key).await;
                first
            }
            Some(Fault::Retried) => self.remove(cx, &turn, key).await,
            Some(Fault::Echo(after)) => {
                self.state().echo(*after, Change::Delete(key.clone()));
                first
            }
            _ => turn.unless_lost(first),
        }
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        let turn = self.enter(cx, Op::Head, key.as_str()).await?;
        let answer = self.inner.temperature(cx, key).await?;
        if turn.fault == Some(Fault::LoseAnswer) {
            Err(turn.error())
        } else {
            Ok(answer)
        }
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        let first = keys.first().map_or("", ObjectKey::as_str);
        let turn = self.enter(cx, Op::Warm, first).await?;
        let answer = self.inner.warm(cx, keys).await?;
        if turn.fault == Some(Fault::LoseAnswer) {
            Err(turn.error())
        } else {
            Ok(answer)
        }
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
        let turn = self.enter(cx, Op::Lock, key.as_str()).await?;
        turn.unless_lost(self.inner.extend_lock(cx, key, from).await)
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.inner.room(cx).await
    }
}
