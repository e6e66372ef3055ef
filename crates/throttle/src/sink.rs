//! A sink whose transfers wait for a rate.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::rate::Rate;

/// What a tier may be written with and read with; nothing: as fast as it goes.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    /// Of what is sent.
    pub up: Option<Arc<Rate>>,
    /// Of what is received.
    pub down: Option<Arc<Rate>>,
}

impl Limits {
    /// A sink that keeps to them; the sink itself where there are none.
    #[must_use]
    pub fn around(&self, inner: Arc<dyn Sink>) -> Arc<dyn Sink> {
        if self.up.is_none() && self.down.is_none() {
            return inner;
        }
        let limits = self.clone();
        Arc::new(Throttled { inner, limits })
    }
}

/// A sink that sends and receives the content of objects at most at a rate. Listings and questions are not counted:
/// they are small beside what they are asked for.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn Sink>,
    limits: Limits,
}

/// Waits for a rate until the operation is called off.
async fn wait(
    cx: &OpContext,
    rate: Option<&Arc<Rate>>,
    bytes: u64,
    (op, key): (&'static str, &ObjectKey),
) -> Result<(), SinkError> {
    let Some(rate) = rate else {
        return Ok(());
    };
    tokio::select! {
        biased;
        () = cx.cancel.cancelled() => Err(SinkError::new(ErrorKind::Cancelled, op, key.as_str())),
        () = rate.take(bytes) => Ok(()),
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for Throttled {
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
        let up = self.limits.up.as_ref();
        wait(cx, up, body.len() as u64, ("put", key)).await?;
        self.inner.put(cx, key, body, mode).await
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let bytes = self.inner.get(cx, key, range).await?;
        // How much it is nobody knows before: a range may ask for more than there is.
        let down = self.limits.down.as_ref();
        wait(cx, down, bytes.len() as u64, ("get", key)).await?;
        Ok(bytes)
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        self.inner.head(cx, key).await
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        self.inner.list(cx, prefix, after)
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        self.inner.list_together(cx, ranges)
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        self.inner.delete(cx, key).await
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
