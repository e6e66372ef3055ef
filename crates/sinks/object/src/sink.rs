//! The sink itself: the contract's calls.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use async_trait::async_trait;
use backup_core::context::Event;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, Location, ObjectKey, ObjectMeta, OpContext, PutMode, Sink,
    SinkCaps, SinkError, SinkInfo, Temperature, Traffic, Version, Warmth,
};
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, Stream, StreamExt as _};
use jiff::Timestamp;
use object_store::client::HttpError;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, GetRange, ObjectStoreExt as _, PutOptions};

use crate::create::{Creates, Memory, TRIAL, TRIAL_TEXT};
use crate::place::{FromLocationError, Place, Provider};
use crate::refused::Refused;
use crate::store::Store;
use crate::surroundings::Surroundings;
use crate::together::{self, Broken};
use crate::trouble::{Trouble, found, ours};

/// The largest object in bytes. Ours have a few dozen MiB at most, so each is put with one request: what is put in parts
/// leaves parts behind when it is killed, has no condition on all servers, and takes three requests more.
pub const MAX_PUT_BYTES: u64 = 1 << 30;

/// How often a request is tried again.
const TRIES: usize = 10;

/// Objects below it are large, and read seldom: to them alone a storage class applies.
const DATA: &str = "data/";

/// A bucket, or what is below a prefix of it, as a tier. Making one does no I/O; clones share what they know of
/// the server.
///
/// See the [crate's page](crate) for what it does and does not do.
#[derive(Clone)]
pub struct ObjectSink {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    shown: String,
    around: Surroundings,
    tries: usize,
    memory: Memory,
    store: OnceLock<Arc<Store>>,
    creates: RwLock<Option<Creates>>,
    trying: tokio::sync::Mutex<()>,
    has_told_of_markers: AtomicBool,
}

impl fmt::Debug for ObjectSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ObjectSink")
            .field(&self.inner.shown)
            .finish()
    }
}

impl ObjectSink {
    /// The bucket of a location, `s3://…`, `gs://…` or `az://…`; [the crate's page](crate) has the options.
    ///
    /// # Errors
    /// [`FromLocationError`].
    pub fn new(location: &Location, around: Surroundings) -> Result<Self, FromLocationError> {
        let provider = match location.scheme() {
            "gs" => Provider::Gcs,
            "az" => Provider::Azure,
            _ => Provider::S3,
        };
        let mut place = Place::read(provider, location)?;
        if provider == Provider::Azure && place.account.is_none() {
            place.account = around.variable("AZURE_STORAGE_ACCOUNT_NAME");
            if place.account.is_none() {
                return Err(FromLocationError::NoAccount);
            }
        }
        let shown = place.shown();
        let memory = Memory::of(around.memory(), &shown);
        let inner = Inner {
            // Those whose servers are known to keep the promise.
            creates: RwLock::new(place.creates_for_certain().then_some(Creates::Exclusive)),
            place,
            shown,
            around,
            tries: TRIES,
            memory,
            store: OnceLock::new(),
            trying: tokio::sync::Mutex::default(),
            has_told_of_markers: AtomicBool::new(false),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The same bucket, whose requests are tried again so often and not ten times.
    #[must_use]
    pub fn trying_again(self, tries: usize) -> Self {
        let old = &self.inner;
        let inner = Inner {
            place: old.place.clone(),
            shown: old.shown.clone(),
            around: old.around.clone(),
            tries,
            memory: old.memory.clone(),
            store: OnceLock::new(),
            creates: RwLock::new(old.creates()),
            trying: tokio::sync::Mutex::default(),
            has_told_of_markers: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.inner.place
    }

    fn filter(&self, ranges: Vec<KeyRange>) -> Filter {
        let root = match self.inner.place.prefix.as_str() {
            "" => String::new(),
            root => format!("{root}/"),
        };
        Filter { root, ranges }
    }

    pub(crate) fn path(&self, key: &str) -> Path {
        match self.inner.place.prefix.as_str() {
            "" => Path::from(key),
            prefix => Path::from(format!("{prefix}/{key}")),
        }
    }

    fn store(&self, op: &'static str, subject: &str) -> Result<Arc<Store>, SinkError> {
        let inner = &self.inner;
        if let Some(store) = inner.store.get() {
            return Ok(store.clone());
        }
        let made = Store::open(&inner.place, &inner.around, inner.tries).map_err(|trouble| {
            let kind = match trouble {
                Trouble::Credentials(_) => ErrorKind::Denied,
                _ => ErrorKind::Invalid,
            };
            ours(kind, op, subject, trouble)
        })?;
        Ok(inner.store.get_or_init(|| Arc::new(made)).clone())
    }

    /// Does something with the client until it is done or cancelled.
    pub(crate) async fn with<T, F, E>(
        &self,
        cx: &OpContext,
        op: &'static str,
        subject: &str,
        work: impl FnOnce(Arc<Store>) -> F,
    ) -> Result<T, SinkError>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<Failed>,
    {
        let cancelled = || SinkError::new(ErrorKind::Cancelled, op, subject);
        if cx.cancel.is_cancelled() {
            return Err(cancelled());
        }
        let store = self.store(op, subject)?;
        let names = store.names.clone();
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(cancelled()),
            answer = work(store) => answer.map_err(|failed| match failed.into() {
                Failed::Below(error) => names.explain(op, subject, &error),
                Failed::Wire(error) => names.explain(op, subject, &error),
                Failed::Ours(kind, trouble) => ours(kind, op, subject, trouble),
            }),
        }
    }

    async fn put_at(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: object_store::PutMode,
    ) -> Result<Option<Version>, SinkError> {
        let path = self.path(key.as_str());
        let mut attributes = Attributes::new();
        if let Some(class) = &self.inner.place.storage_class
            && key.as_str().starts_with(DATA)
        {
            attributes.insert(Attribute::StorageClass, class.clone().into());
        }
        let options = PutOptions {
            mode,
            attributes,
            ..PutOptions::default()
        };
        self.with(cx, "put", key.as_str(), |store| async move {
            let client = store.putting(cx).await?;
            let put = client.put_opts(&path, body.into(), options).await?;
            Ok::<_, Failed>(version(put.e_tag))
        })
        .await
    }

    async fn create(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
    ) -> Result<Option<Version>, SinkError> {
        match self.how_it_creates(cx, key).await? {
            Creates::Exclusive => {
                self.put_at(cx, key, body, object_store::PutMode::Create)
                    .await
            }
            Creates::Overwriting => match self.head(cx, key).await {
                Ok(_) => Err(ours(
                    ErrorKind::Conflict,
                    "put",
                    key.as_str(),
                    Trouble::Taken,
                )),
                Err(error) if error.kind == ErrorKind::NotFound => {
                    self.put_at(cx, key, body, object_store::PutMode::Overwrite)
                        .await
                }
                Err(error) => Err(error),
            },
        }
    }

    /// Whether this server refuses to overwrite: as is known, as was remembered, or as is tried now.
    async fn how_it_creates(&self, cx: &OpContext, key: &ObjectKey) -> Result<Creates, SinkError> {
        let inner = &self.inner;
        if let Some(known) = inner.creates() {
            return Ok(known);
        }
        let _one_at_a_time = inner.trying.lock().await;
        if let Some(known) = inner.creates() {
            return Ok(known);
        }
        let now = cx.clock.now();
        let creates = match inner.memory.recall_fresh(&inner.shown, now) {
            Some(remembered) => remembered,
            None => {
                let found = self.try_to_create(cx, key).await?;
                inner.memory.keep(&inner.shown, found, now);
                found
            }
        };
        *inner
            .creates
            .write()
            .unwrap_or_else(PoisonError::into_inner) = Some(creates);
        Ok(creates)
    }

    /// Creates one object twice. That it was there already is as good as the second time.
    async fn try_to_create(&self, cx: &OpContext, key: &ObjectKey) -> Result<Creates, SinkError> {
        let path = self.path(TRIAL);
        self.with(cx, "put", key.as_str(), |store| async move {
            for _ in 0..2 {
                let options = PutOptions::from(object_store::PutMode::Create);
                let put = store.client.put_opts(&path, TRIAL_TEXT.into(), options);
                let Err(error) = put.await else {
                    continue;
                };
                return match found::<Refused>(&error) {
                    Some(refused) if refused.is_taken() => Ok(Creates::Exclusive),
                    Some(refused) if refused.knows_no_condition() => Ok(Creates::Overwriting),
                    _ => Err(Failed::Below(error)),
                };
            }
            Ok(Creates::Overwriting)
        })
        .await
    }

    async fn read(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: Option<GetRange>,
    ) -> Result<Bytes, SinkError> {
        let path = self.path(key.as_str());
        let options = GetOptions {
            range,
            ..GetOptions::default()
        };
        self.with(cx, "get", key.as_str(), |store| async move {
            let answer = store.client.get_opts(&path, options).await?;
            let wanted = answer.range.end.saturating_sub(answer.range.start);
            if wanted > MAX_PUT_BYTES {
                return Err(Failed::Ours(ErrorKind::Damaged, Trouble::Huge(wanted)));
            }
            let mut out = BytesMut::with_capacity(usize::try_from(wanted).unwrap_or(0));
            let mut parts = answer.into_stream();
            while let Some(part) = parts.next().await {
                let part = part?;
                if (out.len() + part.len()) as u64 > wanted {
                    let found = (out.len() + part.len()) as u64;
                    return Err(Failed::Ours(
                        ErrorKind::Damaged,
                        Trouble::Ended { found, wanted },
                    ));
                }
                out.extend_from_slice(&part);
            }
            let found = out.len() as u64;
            if found < wanted {
                return Err(Failed::Ours(
                    ErrorKind::Damaged,
                    Trouble::Ended { found, wanted },
                ));
            }
            Ok(out.freeze())
        })
        .await
    }

    /// `length` bytes from `offset` on; where nothing is asked for, or more than there can be, the size says what is right.
    async fn read_span(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        offset: u64,
        length: u64,
    ) -> Result<Bytes, SinkError> {
        let short = |size| {
            let trouble = Trouble::Short {
                size,
                offset,
                length,
            };
            ours(ErrorKind::Damaged, "get", key.as_str(), trouble)
        };
        let end = offset.checked_add(length);
        let Some(end) = end.filter(|end| length > 0 && *end <= MAX_PUT_BYTES) else {
            let size = self.head(cx, key).await?.size;
            return match end {
                Some(end) if end <= size && length == 0 => Ok(Bytes::new()),
                _ => Err(short(size)),
            };
        };
        match self
            .read(cx, key, Some(GetRange::Bounded(offset..end)))
            .await
        {
            Ok(found) if found.len() as u64 == length => Ok(found),
            Ok(found) => Err(short(offset + found.len() as u64)),
            Err(error) => Err(error),
        }
    }

    /// The last `length` bytes. Some servers know no such range or answer with all of it, and none has one of an empty object.
    async fn read_suffix(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        length: u64,
    ) -> Result<Bytes, SinkError> {
        let length = length.min(MAX_PUT_BYTES);
        if length > 0 && self.inner.place.provider != Provider::Azure {
            match self.read(cx, key, Some(GetRange::Suffix(length))).await {
                Err(error) if matches!(error.kind, ErrorKind::Damaged | ErrorKind::Other) => {}
                answer => return answer,
            }
        }
        let size = self.head(cx, key).await?.size;
        match length.min(size) {
            0 => Ok(Bytes::new()),
            length => self.read_span(cx, key, size - length, length).await,
        }
    }

    /// Says once that deletions free nothing here.
    fn tell_of_markers(&self, cx: &OpContext) {
        let leaves = self
            .inner
            .store
            .get()
            .is_some_and(|store| store.wire.leaves_markers());
        if leaves && !self.inner.has_told_of_markers.swap(true, Ordering::Relaxed) {
            cx.tell(Event::Note(
                "the bucket keeps versions: what is deleted stays and is paid for until a lifecycle rule of the bucket takes \
                 versions that are not current (see docs/tiers-s3.md)",
            ));
        }
    }
}

impl Inner {
    fn creates(&self) -> Option<Creates> {
        *self.creates.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What went wrong, below or here.
pub(crate) enum Failed {
    Below(object_store::Error),
    Wire(HttpError),
    Ours(ErrorKind, Trouble),
}

impl From<object_store::Error> for Failed {
    fn from(error: object_store::Error) -> Self {
        Self::Below(error)
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Self {
        Self::Ours(ErrorKind::Invalid, trouble)
    }
}

#[async_trait]
impl Sink for ObjectSink {
    fn info(&self) -> SinkInfo {
        let inner = &self.inner;
        let known = inner
            .creates()
            .or_else(|| inner.memory.recall(&inner.shown));
        SinkInfo {
            scheme: inner.place.provider.scheme(),
            location: inner.shown.clone(),
            caps: SinkCaps {
                atomic_create: known == Some(Creates::Exclusive),
                replace_if: false,
                max_put_bytes: MAX_PUT_BYTES,
                cold: inner.place.is_cold(),
                connections: inner.place.connections,
                settle: inner.place.settle,
                lock: inner.place.lock,
            },
            is_split: false,
        }
    }

    fn traffic(&self) -> Option<Traffic> {
        let store = self.inner.store.get();
        Some(store.map_or_else(Traffic::default, |store| store.wire.traffic()))
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        let size = body.len() as u64;
        if size > MAX_PUT_BYTES {
            let limit = MAX_PUT_BYTES;
            let trouble = Trouble::TooLarge { size, limit };
            return Err(ours(ErrorKind::Invalid, "put", key.as_str(), trouble));
        }
        let version = match mode {
            PutMode::Create => self.create(cx, key, body).await?,
            PutMode::Replace => {
                self.put_at(cx, key, body, object_store::PutMode::Overwrite)
                    .await?
            }
            PutMode::ReplaceIf(_) => {
                let (kind, op) = (ErrorKind::Unsupported, "put");
                return Err(ours(kind, op, key.as_str(), Trouble::NoVersions));
            }
        };
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            version,
        })
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        match range {
            ByteRange::Full => self.read(cx, key, None).await,
            ByteRange::Span { offset, length } => self.read_span(cx, key, offset, length).await,
            ByteRange::Suffix(length) => self.read_suffix(cx, key, length).await,
        }
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let path = self.path(key.as_str());
        let found = self
            .with(cx, "head", key.as_str(), |store| async move {
                Ok::<_, Failed>(store.client.head(&path).await?)
            })
            .await?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: found.size,
            version: version(found.e_tag),
        })
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let failed = |error| stream::iter([Err(error)]).boxed();
        if cx.cancel.is_cancelled() {
            return failed(SinkError::new(ErrorKind::Cancelled, "list", prefix));
        }
        let folder = match prefix.strip_suffix('/') {
            None if prefix.is_empty() => None,
            Some(folder) if ObjectKey::new(folder).is_ok() => Some(folder),
            _ => return failed(ours(ErrorKind::Invalid, "list", prefix, Trouble::Prefix)),
        };
        let store = match self.store("list", prefix) {
            Ok(store) => store,
            Err(error) => return failed(error),
        };
        let below = match folder {
            Some(folder) => self.path(folder),
            None => Path::from(self.inner.place.prefix.as_str()),
        };
        let listed = match after {
            Some(after) => store
                .client
                .list_with_offset(Some(&below), &self.path(after.as_str())),
            None => store.client.list(Some(&below)),
        };
        let range = KeyRange {
            prefix: prefix.to_owned(),
            after: after.cloned(),
        };
        let filter = self.filter(vec![range]);
        let subject = prefix.to_owned();
        let found = listed.filter_map(move |answer| {
            let out = match answer {
                Ok(meta) => filter.ours(meta).map(Ok),
                Err(error) => Some(Err(store.names.explain("list", &subject, &error))),
            };
            std::future::ready(out)
        });
        until_cancelled(cx, prefix, found)
    }

    fn list_together(
        &self,
        cx: &OpContext,
        ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        let subject = ranges.iter().map(|range| range.prefix.as_str());
        let subject = subject.collect::<Vec<_>>().join(" ");
        if cx.cancel.is_cancelled() {
            let error = SinkError::new(ErrorKind::Cancelled, "list", subject);
            return Some(stream::iter([Err(error)]).boxed());
        }
        // What is wrong with the place, listings of single prefixes tell.
        let store = self.store("list", &subject).ok()?;
        let filter = self.filter(ranges.to_vec());
        let found = together::pages(store.pages.clone()?, filter.root.clone(), ranges);
        let of_listing = subject.clone();
        let found = found.filter_map(move |answer| {
            let out = match answer {
                Ok(meta) => filter.ours(meta).map(Ok),
                Err(Broken::Below(error)) => {
                    Some(Err(store.names.explain("list", &of_listing, &error)))
                }
                Err(Broken::Order(trouble)) => Some(Err(ours(
                    ErrorKind::Unsupported,
                    "list",
                    &of_listing,
                    trouble,
                ))),
            };
            std::future::ready(out)
        });
        Some(until_cancelled(cx, &subject, found))
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let path = self.path(key.as_str());
        let deleted = self
            .with(cx, "delete", key.as_str(), |store| async move {
                store.client.delete(&path).await.map_err(Failed::Below)
            })
            .await;
        self.tell_of_markers(cx);
        match deleted {
            Err(error) if error.kind == ErrorKind::NotFound => Ok(()),
            answer => answer,
        }
    }

    async fn temperature(&self, cx: &OpContext, key: &ObjectKey) -> Result<Temperature, SinkError> {
        self.temperature_of(cx, key).await
    }

    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        self.ask_for(cx, keys).await
    }

    async fn extend_lock(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        from: Timestamp,
    ) -> Result<(), SinkError> {
        self.lock_again(cx, key, from).await
    }
}

/// What a server calls a version of an object; some put it in quotation marks in one place and not in another.
fn version(e_tag: Option<String>) -> Option<Version> {
    let tag = e_tag?;
    let tag = tag.strip_prefix("W/").unwrap_or(&tag).trim_matches('"');
    (!tag.is_empty()).then(|| Version(tag.to_owned()))
}

/// A listing that ends with an error once the operation is called off.
fn until_cancelled(
    cx: &OpContext,
    subject: &str,
    found: impl Stream<Item = Result<ObjectMeta, SinkError>> + Send + 'static,
) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
    let (cancel, subject) = (cx.cancel.clone(), subject.to_owned());
    let is_over = {
        let cancel = cancel.clone();
        async move { cancel.cancelled().await }
    };
    let end = stream::once(async move {
        let error = SinkError::new(ErrorKind::Cancelled, "list", subject);
        cancel.is_cancelled().then_some(Err(error))
    });
    let end = end.filter_map(std::future::ready);
    found.take_until(is_over).chain(end).boxed()
}

/// Which of the names that a server tells are those of objects that were asked for.
struct Filter {
    root: String,
    ranges: Vec<KeyRange>,
}

impl Filter {
    fn ours(&self, meta: object_store::ObjectMeta) -> Option<ObjectMeta> {
        let key = meta.location.as_ref().strip_prefix(&self.root)?;
        let key = ObjectKey::new(key).ok()?;
        if !self.ranges.iter().any(|range| range.has(&key)) {
            return None;
        }
        Some(ObjectMeta {
            key,
            size: meta.size,
            version: version(meta.e_tag),
        })
    }
}
