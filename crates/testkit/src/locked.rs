//! A sink whose objects are locked for a while: whoever has the credentials of the tier can add, and
//! take nothing away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::{SignedDuration, Timestamp};

/// A sink that refuses to delete or replace an object before `lock` has passed since it was put, by the
/// clock of whoever asks. Clones share what is locked.
#[derive(Debug, Clone)]
pub struct LockedSink {
    inner: Arc<dyn Sink>,
    lock: Duration,
    keeps_versions: bool,
    until: Arc<Mutex<HashMap<ObjectKey, Timestamp>>>,
}

impl LockedSink {
    /// Wraps a sink; what is in it already is not locked.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>, lock: Duration) -> Self {
        Self {
            inner,
            lock,
            keeps_versions: false,
            until: Arc::default(),
        }
    }

    /// As a bucket that keeps versions: a deletion or replacement hides what is locked, which stays below it and is no
    /// longer seen from here.
    #[must_use]
    pub fn keeping_versions(mut self) -> Self {
        self.keeps_versions = true;
        self
    }

    fn until(&self) -> MutexGuard<'_, HashMap<ObjectKey, Timestamp>> {
        self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a lock of that time ends.
    fn ends(&self, from: Timestamp) -> Timestamp {
        let lock = SignedDuration::try_from(self.lock).unwrap_or(SignedDuration::MAX);
        from.checked_add(lock).unwrap_or(Timestamp::MAX)
    }

    /// Until when an object is locked.
    #[must_use]
    pub fn locked_until(&self, key: &ObjectKey) -> Option<Timestamp> {
        self.until().get(key).copied()
    }

    fn must_be_free(
        &self,
        cx: &OpContext,
        op: &'static str,
        key: &ObjectKey,
    ) -> Result<(), SinkError> {
        match self.until().get(key) {
            Some(until) if !self.keeps_versions && *until > cx.clock.now() => {
                Err(SinkError::new(ErrorKind::Denied, op, key.as_str())
                    .because(format!("the object is locked until {until}")))
            }
            _ => Ok(()),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for LockedSink {
    fn info(&self) -> SinkInfo {
        let mut info = self.inner.info();
        info.caps.lock = Some(self.lock);
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
        if mode != PutMode::Create {
            self.must_be_free(cx, "put", key)?;
        }
        let answer = self.inner.put(cx, key, body, mode).await?;
        let until = self.ends(cx.clock.now());
        self.until().insert(key.clone(), until);
        Ok(answer)
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        self.inner.get(cx, key, range).await
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
        self.must_be_free(cx, "delete", key)?;
        self.inner.delete(cx, key).await?;
        self.until().remove(key);
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
        self.inner.extend_lock(cx, key, from).await?;
        let until = self.ends(from);
        let mut locked = self.until();
        let last = locked.entry(key.clone()).or_insert(until);
        *last = until.max(*last);
        Ok(())
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.inner.room(cx).await
    }
}
