//! A tier in memory: the contract of [`Sink`] at its strictest, and the ground truth under the
//! sinks that fail on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkCaps, SinkError, SinkInfo, Temperature, Traffic, Version, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use jiff::Timestamp;

#[derive(Debug, Clone)]
struct Object {
    body: Bytes,
    version: u64,
}

#[derive(Debug, Clone, Default)]
struct Shelf {
    objects: BTreeMap<ObjectKey, Object>,
    warm: BTreeSet<ObjectKey>,
    // Shared with copies: no two objects have one version.
    versions: Arc<AtomicU64>,
}

impl Shelf {
    fn place(&mut self, key: ObjectKey, body: Bytes) -> u64 {
        let version = self.versions.fetch_add(1, Ordering::Relaxed);
        self.objects.insert(key, Object { body, version });
        version
    }
}

/// A sink in memory. Clones share their objects; [`MemSink::fork`] makes a copy that does not.
///
/// Does what its capabilities say: without `atomic_create` a create replaces, without
/// `replace_if` a conditional put is refused and objects have no versions, with `cold` an object
/// must be warmed before it can be read.
#[derive(Clone)]
pub struct MemSink {
    shelf: Arc<Mutex<Shelf>>,
    caps: SinkCaps,
    location: &'static str,
}

impl MemSink {
    /// An empty sink that can do everything.
    #[must_use]
    pub fn new() -> Self {
        Self::with_caps(SinkCaps {
            atomic_create: true,
            replace_if: true,
            max_put_bytes: 1 << 32,
            cold: false,
            connections: 8,
            settle: Duration::ZERO,
            lock: None,
        })
    }

    /// An empty sink that can do just this.
    #[must_use]
    pub fn with_caps(caps: SinkCaps) -> Self {
        Self {
            shelf: Arc::default(),
            caps,
            location: "mem:",
        }
    }

    /// An independent copy as of now; bodies are shared, so it costs little.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self {
            shelf: Arc::new(Mutex::new(self.shelf().clone())),
            caps: self.caps,
            location: self.location,
        }
    }

    /// The same sink under another location, where two are to be told apart.
    #[must_use]
    pub const fn at(mut self, location: &'static str) -> Self {
        self.location = location;
        self
    }

    /// All objects as they stand.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<ObjectKey, Bytes> {
        let shelf = self.shelf();
        shelf
            .objects
            .iter()
            .map(|(key, object)| (key.clone(), object.body.clone()))
            .collect()
    }

    /// Puts an object there behind everybody's back: for damage, and for what a past version
    /// left.
    pub fn plant(&self, key: ObjectKey, body: impl Into<Bytes>) {
        self.shelf().place(key, body.into());
    }

    /// Takes an object away behind everybody's back; tells whether it was there.
    pub fn lose(&self, key: &ObjectKey) -> bool {
        self.shelf().objects.remove(key).is_some()
    }

    /// Changes the bytes of an object behind everybody's back; tells whether it was there.
    pub fn damage(&self, key: &ObjectKey, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut shelf = self.shelf();
        let Some(object) = shelf.objects.get(key) else {
            return false;
        };
        let mut body = object.body.to_vec();
        change(&mut body);
        shelf.place(key.clone(), body.into());
        true
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn version(&self, number: u64) -> Option<Version> {
        self.caps.replace_if.then(|| Version(number.to_string()))
    }

    fn meta(&self, key: &ObjectKey, object: &Object) -> ObjectMeta {
        ObjectMeta {
            key: key.clone(),
            size: object.body.len() as u64,
            version: self.version(object.version),
        }
    }
}

impl Default for MemSink {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemSink")
            .field("objects", &self.shelf().objects.len())
            .field("caps", &self.caps)
            .finish()
    }
}

fn proceed(cx: &OpContext, op: &'static str, subject: &str) -> Result<(), SinkError> {
    if cx.cancel.is_cancelled() {
        return Err(SinkError::new(ErrorKind::Cancelled, op, subject));
    }
    Ok(())
}

/// The part of `body` that `range` names, as the contract of [`ByteRange`] has it.
fn part(key: &ObjectKey, body: &Bytes, range: ByteRange) -> Result<Bytes, SinkError> {
    let size = body.len() as u64;
    let (start, end) = match range {
        ByteRange::Full => (0, size),
        ByteRange::Suffix(length) => (size.saturating_sub(length), size),
        ByteRange::Span { offset, length } => match offset.checked_add(length) {
            Some(end) if end <= size => (offset, end),
            _ => {
                return Err(
                    SinkError::new(ErrorKind::Damaged, "get", key.as_str()).because(format!(
                        "it has {size} bytes; {length} from {offset} on were asked for"
                    )),
                );
            }
        },
    };
    let narrow = |at: u64| usize::try_from(at).unwrap_or(body.len());
    Ok(body.slice(narrow(start)..narrow(end)))
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for MemSink {
    fn info(&self) -> SinkInfo {
        SinkInfo {
            scheme: "mem",
            location: self.location.into(),
            caps: self.caps,
            is_split: false,
        }
    }

    fn medium(&self) -> Option<String> {
        None
    }

    fn traffic(&self) -> Option<Traffic> {
        None
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        proceed(cx, "put", key.as_str())?;
        let fail = |kind| Err(SinkError::new(kind, "put", key.as_str()));
        let size = body.len() as u64;
        if size > self.caps.max_put_bytes {
            return fail(ErrorKind::Invalid);
        }
        let mut shelf = self.shelf();
        let there = shelf.objects.get(key);
        match mode {
            PutMode::Create if self.caps.atomic_create && there.is_some() => {
                return fail(ErrorKind::Conflict);
            }
            PutMode::ReplaceIf(_) if !self.caps.replace_if => return fail(ErrorKind::Unsupported),
            PutMode::ReplaceIf(wanted)
                if there
                    .and_then(|object| self.version(object.version))
                    .as_ref()
                    != Some(&wanted) =>
            {
                return fail(ErrorKind::Conflict);
            }
            PutMode::Create | PutMode::ReplaceIf(_) | PutMode::Replace => {}
        }
        let version = shelf.place(key.clone(), body);
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            version: self.version(version),
        })
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        proceed(cx, "get", key.as_str())?;
        let shelf = self.shelf();
        let object = shelf
            .objects
            .get(key)
            .ok_or_else(|| SinkError::new(ErrorKind::NotFound, "get", key.as_str()))?;
        if self.caps.cold && !shelf.warm.contains(key) {
            return Err(SinkError::new(ErrorKind::Cold, "get", key.as_str()));
        }
        part(key, &object.body, range)
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        proceed(cx, "head", key.as_str())?;
        let shelf = self.shelf();
        match shelf.objects.get(key) {
            Some(object) => Ok(self.meta(key, object)),
            None => Err(SinkError::new(ErrorKind::NotFound, "head", key.as_str())),
        }
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        if let Err(error) = proceed(cx, "list", prefix) {
            return stream::iter([Err(error)]).boxed();
        }
        let shelf = self.shelf();
        let found: Vec<_> = shelf
            .objects
            .iter()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
            .filter(|(key, _)| after.is_none_or(|after| *key > after))
            .map(|(key, object)| Ok(self.meta(key, object)))
            .collect();
        stream::iter(found).boxed()
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let lists: Vec<_> = ranges
            .iter()
            .map(|range| self.list(cx, &range.prefix, range.after.as_ref()))
            .collect();
        Some(stream::iter(lists).flatten().boxed())
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        proceed(cx, "delete", key.as_str())?;
        let mut shelf = self.shelf();
        shelf.objects.remove(key);
        shelf.warm.remove(key);
        Ok(())
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        proceed(cx, "head", key.as_str())?;
        let shelf = self.shelf();
        if !shelf.objects.contains_key(key) {
            return Err(SinkError::new(ErrorKind::NotFound, "head", key.as_str()));
        }
        Ok(if self.caps.cold && !shelf.warm.contains(key) {
            Temperature::Cold
        } else {
            Temperature::Warm
        })
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        proceed(cx, "warm", &format!("{} objects", keys.len()))?;
        if self.caps.cold {
            self.shelf().warm.extend(keys.iter().cloned());
        }
        Ok(Warmth::Ready)
    }

    async fn tidy(&self, cx: &OpContext, _older_than: Duration) -> Result<u64, SinkError> {
        proceed(cx, "tidy", "the tier")?;
        Ok(0)
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        _from: Timestamp,
    ) -> Result<(), SinkError> {
        proceed(cx, "lock", key.as_str())?;
        Ok(())
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        proceed(cx, "room", "the tier")?;
        Ok(None)
    }
}
