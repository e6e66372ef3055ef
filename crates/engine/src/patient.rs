//! A tier that is asked again: what fails and can pass is tried again, and an object that is there
//! already because an answer was lost on the way is taken for what it is, our own.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Retry, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

/// How often a call is made before it fails.
const ATTEMPTS: u32 = 5;

/// A sink that makes calls again as long as that can help.
pub(crate) struct PatientSink(Arc<dyn Sink>);

impl PatientSink {
    /// Wraps a sink.
    pub(crate) fn new(inner: Arc<dyn Sink>) -> Self {
        Self(inner)
    }

    /// A create was told that the object is there: it may have been made by a call whose answer was
    /// lost, here or in a layer below. Then it has these bytes.
    async fn is_ours(&self, cx: &OpContext, key: &ObjectKey, body: &Bytes) -> Option<ObjectMeta> {
        let meta = self.head(cx, key).await.ok()?;
        if meta.size != body.len() as u64 {
            return None;
        }
        let there = self.get(cx, key, ByteRange::Full).await.ok()?;
        (there == body).then_some(meta)
    }
}

impl fmt::Debug for PatientSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Attempts of one call.
struct Attempts(u32);

impl Attempts {
    /// Waits until a call may be made again.
    ///
    /// # Errors
    /// The failure itself, when it is final.
    async fn after(&mut self, cx: &OpContext, failure: SinkError) -> Result<(), SinkError> {
        let pause = match failure.retry {
            Retry::Never => return Err(failure),
            Retry::Now => Duration::ZERO,
            Retry::After(pause) => pause.saturating_mul(1 << (self.0 - 1)),
        };
        if self.0 == ATTEMPTS || cx.cancel.is_cancelled() {
            return Err(failure);
        }
        self.0 += 1;
        tokio::select! {
            () = cx.cancel.cancelled() => Err(failure),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

/// Makes a call until it succeeds or its failure is final.
macro_rules! patiently {
    ($cx:expr, $call:expr) => {{
        let mut attempts = Attempts(1);
        loop {
            match $call.await {
                Ok(answer) => break Ok(answer),
                Err(failure) => attempts.after($cx, failure).await?,
            }
        }
    }};
}

type Listing = BoxStream<'static, Result<ObjectMeta, SinkError>>;

/// A listing that is begun again as long as nothing of it was handed on.
fn patient_listing(cx: &OpContext, mut begin: impl FnMut() -> Listing + Send + 'static) -> Listing {
    let cx = cx.clone();
    let begun = async move {
        let mut attempts = Attempts(1);
        loop {
            let mut listing = begin();
            match listing.next().await {
                None => return stream::empty().boxed(),
                Some(Ok(first)) => return stream::iter([Ok(first)]).chain(listing).boxed(),
                Some(Err(failure)) => {
                    if let Err(failure) = attempts.after(&cx, failure).await {
                        return stream::iter([Err(failure)]).boxed();
                    }
                }
            }
        }
    };
    stream::once(begun).flatten().boxed()
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for PatientSink {
    fn info(&self) -> SinkInfo {
        self.0.info()
    }

    fn medium(&self) -> Option<String> {
        self.0.medium()
    }

    fn traffic(&self) -> Option<Traffic> {
        self.0.traffic()
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        let answer = patiently!(cx, async {
            match self.0.put(cx, key, body.clone(), mode.clone()).await {
                // Told at once: a conflict is no failure to be tried again.
                Err(error) if error.kind == ErrorKind::Conflict => Ok(Err(error)),
                Err(error) => Err(error),
                Ok(meta) => Ok(Ok(meta)),
            }
        })?;
        match answer {
            Err(conflict) if mode == PutMode::Create => {
                self.is_ours(cx, key, &body).await.ok_or(conflict)
            }
            answer => answer,
        }
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        patiently!(cx, self.0.get(cx, key, range))
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        patiently!(cx, self.0.head(cx, key))
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let (inner, of_calls) = (self.0.clone(), cx.clone());
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        patient_listing(cx, move || inner.list(&of_calls, &prefix, after.as_ref()))
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let mut first = Some(self.0.list_together(cx, ranges)?);
        let (inner, of_calls, ranges) = (self.0.clone(), cx.clone(), ranges.to_vec());
        let unable = || {
            let error = SinkError::new(ErrorKind::Unsupported, "list", "");
            stream::iter([Err(error)]).boxed()
        };
        Some(patient_listing(cx, move || {
            let begun = first.take();
            let begun = begun.or_else(|| inner.list_together(&of_calls, &ranges));
            begun.unwrap_or_else(unable)
        }))
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        patiently!(cx, self.0.delete(cx, key))
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        patiently!(cx, self.0.temperature(cx, key))
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        patiently!(cx, self.0.warm(cx, keys))
    }

    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        patiently!(cx, self.0.tidy(cx, older_than))
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        patiently!(cx, self.0.extend_lock(cx, key, from))
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        patiently!(cx, self.0.room(cx))
    }
}
