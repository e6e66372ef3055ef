//! A folder of a tier as a tier of its own: keys get a prefix on the way in and lose it on the way
//! out.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;

/// A sink that keeps its objects in a folder of another one. What lies beside the folder it neither
/// sees nor touches.
#[derive(Debug, Clone)]
pub struct Below {
    inner: Arc<dyn Sink>,
    folder: ObjectKey,
}

impl Below {
    /// The folder `folder` of a sink.
    #[must_use]
    pub fn new(inner: Arc<dyn Sink>, folder: ObjectKey) -> Self {
        Self { inner, folder }
    }

    /// The length in bytes of the longest key that there is room for.
    #[must_use]
    pub fn longest_key(&self) -> usize {
        ObjectKey::MAX_BYTES.saturating_sub(self.folder.as_str().len() + 1)
    }

    fn inside(&self, op: &'static str, key: &ObjectKey) -> Result<ObjectKey, SinkError> {
        ObjectKey::new(format!("{}/{key}", self.folder))
            .map_err(|error| SinkError::new(ErrorKind::Invalid, op, key.as_str()).because(error))
    }

    /// The name that an object of the folder has outside.
    fn outside(&self, meta: ObjectMeta) -> Result<ObjectMeta, SinkError> {
        let name = meta.key.as_str().strip_prefix(self.folder.as_str());
        let key = name.and_then(|name| ObjectKey::new(name.strip_prefix('/')?).ok());
        match key {
            Some(key) => Ok(ObjectMeta { key, ..meta }),
            None => Err(
                SinkError::new(ErrorKind::Damaged, "list", meta.key.as_str())
                    .because(format!("it does not lie below {}/", self.folder)),
            ),
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for Below {
    fn info(&self) -> SinkInfo {
        let info = self.inner.info();
        SinkInfo {
            location: format!("{}/{}", info.location, self.folder),
            ..info
        }
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
        let inside = self.inside("put", key)?;
        let meta = self.inner.put(cx, &inside, body, mode).await?;
        self.outside(meta)
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        self.inner.get(cx, &self.inside("get", key)?, range).await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let meta = self.inner.head(cx, &self.inside("head", key)?).await?;
        self.outside(meta)
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let after = match after.map(|after| self.inside("list", after)).transpose() {
            Ok(after) => after,
            Err(error) => return stream::iter([Err(error)]).boxed(),
        };
        let prefix = format!("{}/{prefix}", self.folder);
        let (found, this) = (self.inner.list(cx, &prefix, after.as_ref()), self.clone());
        found
            .and_then(move |meta| std::future::ready(this.outside(meta)))
            .boxed()
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let inside = |range: &KeyRange| {
            let after = range.after.as_ref().map(|after| self.inside("list", after));
            Ok::<_, SinkError>(KeyRange {
                prefix: format!("{}/{}", self.folder, range.prefix),
                after: after.transpose()?,
            })
        };
        let inside: Result<Vec<_>, _> = ranges.iter().map(inside).collect();
        let inside = match inside {
            Ok(inside) => inside,
            Err(error) => return Some(stream::iter([Err(error)]).boxed()),
        };
        let (found, this) = (self.inner.list_together(cx, &inside)?, self.clone());
        let outside = found.and_then(move |meta| std::future::ready(this.outside(meta)));
        Some(outside.boxed())
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let inside = self.inside("delete", key)?;
        self.inner.delete(cx, &inside).await
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        let inside = self.inside("head", key)?;
        self.inner.temperature(cx, &inside).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        let inside: Result<Vec<_>, _> = keys.iter().map(|key| self.inside("warm", key)).collect();
        self.inner.warm(cx, &inside?).await
    }

    /// Does nothing: what the sink below would tidy lies beside the folder as well.
    async fn tidy(&self, _cx: &OpContext, _older_than: Duration) -> Result<u64, SinkError> {
        Ok(0)
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        let inside = self.inside("lock", key)?;
        self.inner.extend_lock(cx, &inside, from).await
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        self.inner.room(cx).await
    }
}
