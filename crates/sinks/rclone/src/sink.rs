//! The sink itself: the contract's calls.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::registry::RegistryError;
use backup_core::{
    ByteRange, ErrorKind, Location, ObjectKey, ObjectMeta, OpContext, PutMode, Registry, Room,
    Sink, SinkCaps, SinkError, SinkInfo, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::child::Shared;
use crate::control::{Control, Listing, limit};
use crate::fault::{Fault, Outcome, Wrong, ours};
use crate::items::Item;
use crate::place::{FromLocationError, Place};
use crate::tier::{Ready, Tier, add};
use crate::write::{self, Put, is_temporary};

/// The largest object in bytes. Ours have a few dozen MiB at most.
pub const MAX_PUT_BYTES: u64 = 1 << 30;

/// A path on a remote of rclone as a tier. Making one does no I/O; clones share their rclone, which ends with the last of
/// them.
///
/// See the [crate's page](crate) for what it does and does not do.
#[derive(Clone)]
pub struct RcloneSink {
    tier: Arc<Tier>,
}

impl fmt::Debug for RcloneSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RcloneSink")
            .field(&self.tier.place.shown())
            .finish()
    }
}

impl RcloneSink {
    /// The sink of `rclone:REMOTE:PATH`. What the options mean stands in `docs/tiers-rclone.md`.
    ///
    /// # Errors
    /// [`FromLocationError`] when the location is not one of an rclone remote.
    pub fn new(location: &Location) -> Result<Self, FromLocationError> {
        Ok(Self::of(Place::read(location)?))
    }

    /// The same, with an error that can be shown whatever was written.
    ///
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn open(location: &Location) -> Result<Self, RegistryError> {
        Self::new(location).map_err(|error| match error {
            // What was written may be a secret.
            FromLocationError::Described => RegistryError::Config {
                location: "rclone:…".to_owned(),
                why: error.to_string(),
            },
            error => RegistryError::config(location, error.to_string()),
        })
    }

    fn of(place: Place) -> Self {
        Self {
            tier: Arc::new(Tier::new(place)),
        }
    }

    /// The same sink, which makes its path if that is missing. Otherwise it is an error: a disk that is not mounted must
    /// not become a folder.
    #[must_use]
    pub fn making_root(self, makes_root: bool) -> Self {
        let mut place = self.tier.place.clone();
        place.makes_root = makes_root;
        Self::of(place)
    }

    async fn size_of(&self, control: Control<'_>, key: &ObjectKey) -> Outcome<u64> {
        add(&self.tier.counts.heads, 1);
        let there = control.head(key.as_str(), None).await?;
        let there = there.ok_or(Fault::Absent)?;
        match u64::try_from(there.size) {
            Ok(size) => Ok(size),
            Err(_) => ours(
                ErrorKind::Unsupported,
                Wrong::Strange("the remote does not know the sizes of its files".to_owned()),
            ),
        }
    }

    async fn read(&self, ready: Ready, key: &ObjectKey, range: ByteRange) -> Outcome<Bytes> {
        let control = Control {
            running: &ready.running,
            fs: &self.tier.fs,
        };
        let (offset, length) = match range {
            ByteRange::Full => {
                add(&self.tier.counts.gets, 1);
                return control.read(key.as_str(), None).await;
            }
            ByteRange::Suffix(length) => {
                let size = self.size_of(control, key).await?;
                let length = length.min(size);
                (size - length, length)
            }
            ByteRange::Span { offset, length } => (offset, length),
        };
        let end = offset.checked_add(length);
        if length == 0 || end.is_none_or(|end| end > MAX_PUT_BYTES) {
            let size = self.size_of(control, key).await?;
            return match end {
                Some(end) if end <= size && length == 0 => Ok(Bytes::new()),
                _ => ours(
                    ErrorKind::Damaged,
                    Wrong::Short {
                        size,
                        offset,
                        length,
                    },
                ),
            };
        }
        add(&self.tier.counts.gets, 1);
        match control.read(key.as_str(), Some((offset, length))).await {
            // Some remotes say that of a range behind the end as well.
            Err(Fault::Absent) => {
                let size = self.size_of(control, key).await?;
                let wrong = Wrong::Short {
                    size,
                    offset,
                    length,
                };
                ours(ErrorKind::Damaged, wrong)
            }
            done => done,
        }
    }

    /// Begins a listing; what is not there is empty.
    async fn begin(&self, ready: Ready, prefix: &str) -> Outcome<Option<UnderWay>> {
        if !(prefix.is_empty() || prefix.ends_with('/')) {
            return ours(ErrorKind::Invalid, Wrong::Prefix);
        }
        let opt =
            json!({"recurse": true, "filesOnly": true, "noModTime": true, "noMimeType": true});
        let control = Control {
            running: &ready.running,
            fs: &self.tier.fs,
        };
        add(&self.tier.counts.lists, 1);
        match control.listing(prefix.trim_end_matches('/'), opt).await {
            Ok(listing) => Ok(Some(UnderWay {
                running: ready.running,
                listing,
            })),
            // A remote that is gone altogether has no empty folders.
            Err(Fault::Absent) => match control.has_root().await? {
                true => Ok(None),
                false => ours(ErrorKind::NotFound, Wrong::NoRoot(self.tier.place.shown())),
            },
            // Nothing is below an object.
            Err(Fault::Said(text)) if text.contains("not a directory") => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    async fn more(&self, under_way: &mut UnderWay) -> Outcome<Option<Vec<Item>>> {
        let control = Control {
            running: &under_way.running,
            fs: &self.tier.fs,
        };
        let before = under_way.listing.bytes;
        let more = control.more(&mut under_way.listing).await;
        add(&self.tier.counts.received, under_way.listing.bytes - before);
        more
    }

    /// Removes temporary files last written to before `before`, in seconds since 1970.
    async fn sweep(&self, ready: Ready, before: i64) -> Outcome<u64> {
        let control = Control {
            running: &ready.running,
            fs: &self.tier.fs,
        };
        add(&self.tier.counts.lists, 1);
        let opt = json!({"filesOnly": true, "noMimeType": true});
        let mut listing = match control.listing(write::FOLDER, opt).await {
            Err(Fault::Absent) => return Ok(0),
            listing => listing?,
        };
        let mut removed = 0;
        while let Some(items) = control.more(&mut listing).await? {
            for item in items {
                let name = item.path.rsplit('/').next().unwrap_or_default();
                let written = item.written.parse::<jiff::Timestamp>();
                // One whose age is not known may be under way.
                let is_old = written.is_ok_and(|time| time.as_second() < before);
                if !is_temporary(name) || !is_old {
                    continue;
                }
                add(&self.tier.counts.deletes, 1);
                match control.delete(&format!("{}/{name}", write::FOLDER)).await {
                    Ok(()) => removed += 1,
                    // Its put has ended just now.
                    Err(Fault::Absent) => {}
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(removed)
    }
}

/// A listing, and the child it comes from.
struct UnderWay {
    running: Shared,
    listing: Listing,
}

/// What a listing says of an object of ours.
fn object(item: &Item) -> Option<ObjectMeta> {
    Some(ObjectMeta {
        key: ObjectKey::new(item.path.as_str()).ok()?,
        size: u64::try_from(item.size).ok()?,
        version: None,
    })
}

#[async_trait]
impl Sink for RcloneSink {
    fn info(&self) -> SinkInfo {
        let place = &self.tier.place;
        SinkInfo {
            scheme: "rclone",
            location: place.shown(),
            caps: SinkCaps {
                atomic_create: false,
                replace_if: false,
                max_put_bytes: MAX_PUT_BYTES,
                cold: false,
                connections: place.connections,
                settle: place.settle,
                lock: None,
            },
            is_split: false,
        }
    }

    /// What rclone was asked; it asks the remote more often than that.
    fn traffic(&self) -> Option<Traffic> {
        Some(self.tier.counts.traffic())
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        let tier = &self.tier;
        let size = body.len() as u64;
        // Whether the file may have got its name before an answer was lost.
        let named = AtomicBool::new(false);
        let (named, body, mode) = (&named, &body, &mode);
        let work = |ready: Ready| async move {
            if size > MAX_PUT_BYTES {
                let limit = MAX_PUT_BYTES;
                return ours(ErrorKind::Invalid, Wrong::TooLarge { size, limit });
            }
            if matches!(mode, PutMode::ReplaceIf(_)) {
                return ours(ErrorKind::Unsupported, Wrong::NoVersions);
            }
            if !ready.renames {
                let remote = format!("{}:", tier.place.remote);
                return ours(ErrorKind::Unsupported, Wrong::NoRename(remote));
            }
            let _alone = self.tier.lock_of(key).lock().await;
            let put = Put {
                running: &ready.running,
                fs: &tier.fs,
                key,
                body,
                mode,
                check: tier.place.check,
                hash: ready.hash,
            };
            add(&tier.counts.puts, 1);
            add(&tier.counts.heads, 1 + u64::from(*mode == PutMode::Create));
            add(&tier.counts.others, 1);
            let mut may_be = named.load(Ordering::Relaxed);
            let done = put.run(&mut may_be).await;
            named.store(may_be, Ordering::Relaxed);
            done
        };
        self.tier.with(cx, "put", key.as_str(), size, work).await?;
        add(&tier.counts.sent, size);
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            version: None,
        })
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let bytes = match range {
            ByteRange::Full => 0,
            ByteRange::Span { length, .. } | ByteRange::Suffix(length) => length.min(MAX_PUT_BYTES),
        };
        let work = |ready| self.read(ready, key, range);
        let got = self.tier.with(cx, "get", key.as_str(), bytes, work).await?;
        add(&self.tier.counts.received, got.len() as u64);
        Ok(got)
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let work = |ready: Ready| async move {
            let control = Control {
                running: &ready.running,
                fs: &self.tier.fs,
            };
            self.size_of(control, key).await
        };
        let size = self.tier.with(cx, "head", key.as_str(), 0, work).await?;
        Ok(ObjectMeta {
            key: key.clone(),
            size,
            version: None,
        })
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let after = after.cloned();
        let state = (self.clone(), cx.clone(), prefix.to_owned(), None);
        let batches = stream::try_unfold(state, |(sink, cx, prefix, under_way)| async move {
            let under_way = match under_way {
                Some(under_way) => Some(under_way),
                None => {
                    let work = |ready| sink.begin(ready, &prefix);
                    sink.tier.with(&cx, "list", &prefix, 0, work).await?
                }
            };
            let Some(mut under_way) = under_way else {
                return Ok(None);
            };
            let span = limit(sink.tier.place.timeout, 0);
            let more = tokio::select! {
                biased;
                () = cx.cancel.cancelled() => {
                    return Err(SinkError::new(ErrorKind::Cancelled, "list", prefix));
                }
                more = tokio::time::timeout(span, sink.more(&mut under_way)) => more,
            };
            let late = || Fault::Ours(ErrorKind::Unavailable, Wrong::Late(span.as_secs()));
            let more = more.unwrap_or_else(|_| Err(late()));
            let more = more.map_err(|fault| fault.at("list", &prefix, &sink.tier.place.remote))?;
            let Some(items) = more else {
                return Ok(None);
            };
            let state = (sink, cx, prefix, Some(under_way));
            Ok::<_, SinkError>(Some((items, state)))
        });
        let objects = batches.map_ok(move |items| {
            let wanted = |meta: &ObjectMeta| after.as_ref().is_none_or(|after| meta.key > *after);
            let objects: Vec<_> = items.iter().filter_map(object).filter(wanted).collect();
            stream::iter(objects.into_iter().map(Ok::<_, SinkError>))
        });
        objects.try_flatten().boxed()
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let work = |ready: Ready| async move {
            let _alone = self.tier.lock_of(key).lock().await;
            let control = Control {
                running: &ready.running,
                fs: &self.tier.fs,
            };
            add(&self.tier.counts.deletes, 1);
            match control.delete(key.as_str()).await {
                Err(Fault::Absent) => Ok(()),
                done => done,
            }
        };
        self.tier.with(cx, "delete", key.as_str(), 0, work).await
    }

    async fn warm(&self, _cx: &OpContext, _keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        Ok(Warmth::Ready)
    }

    /// Ages are told by the clock of `cx` and the times of the files, which the remote may have set by its own clock;
    /// choose hours rather than minutes.
    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let before = cx.clock.now().as_second().saturating_sub(age);
        let work = |ready| self.sweep(ready, before);
        self.tier
            .with(cx, "tidy", &self.tier.place.shown(), 0, work)
            .await
    }

    /// That of the remote, where it tells it (`rclone about`).
    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        let work = |ready: Ready| async move {
            if !ready.tells_room {
                return Ok(None);
            }
            let control = Control {
                running: &ready.running,
                fs: &self.tier.fs,
            };
            add(&self.tier.counts.others, 1);
            let told = match control.about().await {
                // A wrapper says that it can, and what it wraps cannot.
                Err(Fault::Said(text)) if text.contains("about") => return Ok(None),
                told => told?,
            };
            let total = told.total;
            let free = told.free.or_else(|| total?.checked_sub(told.used?));
            Ok(free.zip(total).map(|(free, total)| Room { free, total }))
        };
        self.tier
            .with(cx, "room", &self.tier.place.shown(), 0, work)
            .await
    }
}

/// Adds the remotes of rclone to a registry, under the scheme `rclone`.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    registry.add_sink("rclone", |location| {
        Ok(Arc::new(RcloneSink::open(location)?))
    })
}
