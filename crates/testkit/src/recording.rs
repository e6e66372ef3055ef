//! A sink that writes down what is asked of it, so that tests can say which calls an operation
//! makes and which it does not.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use jiff::Timestamp;

use crate::op::Op;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It did what it was asked.
    Done,
    /// It failed.
    Failed(ErrorKind),
    /// It is still under way, or whoever asked went away.
    Unfinished,
}

/// A call of a sink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Which.
    pub op: Op,
    /// The key; the prefix of a listing, or its prefixes with a space between; the first of the keys to be warmed.
    pub subject: String,
    /// The mode of a put.
    pub mode: Option<PutMode>,
    /// The range of a get.
    pub range: Option<ByteRange>,
    /// Bytes that were to be put, or were got.
    pub bytes: u64,
    /// Objects that a listing has shown so far; keys to be warmed.
    pub objects: u64,
    /// How it ended.
    pub outcome: Outcome,
}

impl fmt::Display for Call {
    /// `put data/ab 4096`, `list data/`, `get config/1 failed: NotFound`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.op, self.subject)?;
        if self.op == Op::Put {
            write!(f, " {}", self.bytes)?;
        }
        match self.outcome {
            Outcome::Done => Ok(()),
            Outcome::Failed(kind) => write!(f, " failed: {kind:?}"),
            Outcome::Unfinished => f.write_str(" unfinished"),
        }
    }
}

/// A sink that passes calls on and writes them down, in the order in which they begin. Clones
/// share what is written.
#[derive(Clone)]
pub struct RecordingSink {
    inner: Arc<dyn Sink>,
    book: Arc<Mutex<Book>>,
}

/// What is written down.
#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    /// How many calls were written down and forgotten.
    forgotten: usize,
}

impl RecordingSink {
    /// Wraps a sink.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>) -> Self {
        Self {
            inner,
            book: Arc::default(),
        }
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.book().calls.clone()
    }

    /// How many calls of one kind there were.
    #[must_use]
    pub fn count(&self, op: Op) -> usize {
        self.count_under(op, "")
    }

    /// How many calls of one kind there were for keys, or prefixes, that begin so.
    #[must_use]
    pub fn count_under(&self, op: Op, prefix: &str) -> usize {
        let like = |call: &&Call| call.op == op && call.subject.starts_with(prefix);
        self.book().calls.iter().filter(like).count()
    }

    /// How many bytes went through calls of one kind.
    #[must_use]
    pub fn bytes(&self, op: Op) -> u64 {
        self.book()
            .calls
            .iter()
            .filter(|call| call.op == op)
            .map(|call| call.bytes)
            .sum()
    }

    /// Forgets all calls, to look at what comes next alone.
    pub fn forget(&self) {
        let mut book = self.book();
        book.forgotten += book.calls.len();
        book.calls.clear();
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, op: Op, subject: &str) -> Entry {
        let call = Call {
            op,
            subject: subject.to_owned(),
            mode: None,
            range: None,
            bytes: 0,
            objects: 0,
            outcome: Outcome::Unfinished,
        };
        let mut book = self.book();
        let number = book.forgotten + book.calls.len();
        book.calls.push(call);
        Entry {
            book: self.book.clone(),
            number,
        }
    }
}

/// The place of a call in the book.
struct Entry {
    book: Arc<Mutex<Book>>,
    number: usize,
}

impl Entry {
    fn edit(&self, change: impl FnOnce(&mut Call)) {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        // It may have been forgotten while it was under way.
        let place = self.number.checked_sub(book.forgotten);
        if let Some(call) = place.and_then(|place| book.calls.get_mut(place)) {
            change(call);
        }
    }

    fn end<T>(&self, answer: Result<T, SinkError>) -> Result<T, SinkError> {
        self.edit(|call| {
            call.outcome = match &answer {
                Ok(_) => Outcome::Done,
                Err(error) => Outcome::Failed(error.kind),
            };
        });
        answer
    }
}

impl Entry {
    /// Writes down what a listing shows and how it ends.
    fn watch(
        self,
        listing: BoxStream<'static, Result<ObjectMeta, SinkError>>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let entry = Arc::new(self);
        let last = entry.clone();
        let listing = listing.map(move |meta| {
            entry.edit(|call| call.objects += u64::from(meta.is_ok()));
            if meta.is_err() { entry.end(meta) } else { meta }
        });
        // Nothing comes from this end but the note that it was reached.
        let end = futures::stream::poll_fn(move |_| {
            last.edit(|call| {
                if call.outcome == Outcome::Unfinished {
                    call.outcome = Outcome::Done;
                }
            });
            std::task::Poll::Ready(None)
        });
        listing.chain(end).boxed()
    }
}

impl fmt::Debug for RecordingSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordingSink")
            .field("calls", &self.book().calls.len())
            .field("inner", &self.inner)
            .finish()
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for RecordingSink {
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
        let entry = self.begin(Op::Put, key.as_str());
        entry.edit(|call| (call.bytes, call.mode) = (body.len() as u64, Some(mode.clone())));
        entry.end(self.inner.put(cx, key, body, mode).await)
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let entry = self.begin(Op::Get, key.as_str());
        entry.edit(|call| call.range = Some(range));
        let answer = self.inner.get(cx, key, range).await;
        entry.edit(|call| call.bytes = answer.as_ref().map_or(0, |bytes| bytes.len() as u64));
        entry.end(answer)
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let entry = self.begin(Op::Head, key.as_str());
        entry.end(self.inner.head(cx, key).await)
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let entry = self.begin(Op::List, prefix);
        entry.watch(self.inner.list(cx, prefix, after))
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let listing = self.inner.list_together(cx, ranges)?;
        let prefixes: Vec<&str> = ranges.iter().map(|range| range.prefix.as_str()).collect();
        Some(self.begin(Op::List, &prefixes.join(" ")).watch(listing))
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let entry = self.begin(Op::Delete, key.as_str());
        entry.end(self.inner.delete(cx, key).await)
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        let entry = self.begin(Op::Head, key.as_str());
        entry.end(self.inner.temperature(cx, key).await)
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        let entry = self.begin(Op::Warm, keys.first().map_or("", ObjectKey::as_str));
        entry.edit(|call| call.objects = keys.len() as u64);
        entry.end(self.inner.warm(cx, keys).await)
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
        let entry = self.begin(Op::Lock, key.as_str());
        entry.end(self.inner.extend_lock(cx, key, from).await)
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.inner.room(cx).await
    }
}
