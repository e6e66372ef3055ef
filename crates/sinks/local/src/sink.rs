//! The sink itself: the contract's calls, each as one piece of work on a blocking thread.

use std::collections::HashSet;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    ByteRange, ErrorKind, KeyRange, ObjectKey, ObjectMeta, OpContext, PutMode, Room, Sink,
    SinkCaps, SinkError, SinkInfo, Temperature, Traffic, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use jiff::Timestamp;
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::create_by::CreateBy;
use crate::fault::{Fault, Outcome, Wrong};
use crate::mount::Mount;
use crate::walk::Walk;
use crate::{folder, read, write};

/// The largest object in bytes: the largest file that FAT takes, 4 GiB less one byte.
pub const MAX_PUT_BYTES: u64 = u32::MAX as u64;

/// How many objects are asked for at once while listing.
const LIST_BATCH: usize = 512;

/// How many folders are remembered as synced. Beyond it all are forgotten, which costs some syncs.
const MAX_REMEMBERED: usize = 1 << 16;

/// A folder as a tier. Making one does no I/O; clones share what they know of the folder.
///
/// See the [crate's page](crate) for what a put does and what a crash leaves.
#[derive(Debug, Clone)]
pub struct LocalSink {
    place: Arc<Place>,
}

/// What [`LocalSink::sweep_temporaries`] removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Files.
    pub files: u64,
    /// Their sizes together.
    pub bytes: u64,
}

impl LocalSink {
    /// The folder `root` as a tier. It has to be there when it is used; see
    /// [`create`](Self::create).
    pub fn new(root: impl Into<PathBuf>) -> Self {
        let place = Place {
            root: root.into(),
            makes_root: false,
            create_by: CreateBy::default(),
            marker: None,
            settle: None,
            seen: OnceLock::new(),
            synced: Mutex::default(),
        };
        Self {
            place: Arc::new(place),
        }
    }

    /// The same sink, which makes its root with the first put if it is missing. Otherwise that is
    /// an error: a disk that is not mounted must not become a folder on the system's own disk.
    #[must_use]
    pub fn making_root(self, makes_root: bool) -> Self {
        self.with(|place| place.makes_root = makes_root)
    }

    /// The same sink, which begins with another way of keeping writers apart. For file systems
    /// that say they can do what they cannot; all writers have to be told the same.
    #[must_use]
    pub fn creating_by(self, first: CreateBy) -> Self {
        self.with(|place| place.create_by = first)
    }

    /// The same sink, which does nothing unless a file of that name is in its root: so whoever made it on a disk can
    /// be sure that nothing is read from, or written to, what is there while that disk is not mounted.
    #[must_use]
    pub fn only_beside(self, marker: &str) -> Self {
        self.with(|place| place.marker = Some(marker.to_owned()))
    }

    /// The same sink, whose listings may lag so long behind what other machines write. Otherwise that is what is
    /// usual for the kind of its file system: nothing for those of this machine, two seconds for SMB, a minute for NFS
    /// and other networks.
    #[must_use]
    pub fn settling(self, lag: Duration) -> Self {
        self.with(|place| place.settle = Some(lag))
    }

    fn with(self, change: impl FnOnce(&mut Place)) -> Self {
        let old = &self.place;
        let mut place = Place {
            root: old.root.clone(),
            makes_root: old.makes_root,
            create_by: old.create_by,
            marker: old.marker.clone(),
            settle: old.settle,
            seen: OnceLock::new(),
            synced: Mutex::default(),
        };
        change(&mut place);
        Self {
            place: Arc::new(place),
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.place.root
    }

    /// Makes the root and the folders above it as far as they are missing, with mode 0700. A
    /// folder that is there is left as it is.
    ///
    /// # Errors
    /// [`SinkError`] of kind `Invalid` when something that is no folder is in the way, `Denied`,
    /// `NoSpace`, ….
    pub async fn create(&self, cx: &OpContext) -> Result<(), SinkError> {
        let root = self.root().display().to_string();
        self.blocking(cx, "create", root, |place| folder::make_root(&place.root))
            .await
    }

    /// Removes temporary files that no put has written to for `older_than`: what killed puts have
    /// left. Ages are told by the clock of `cx` and the times of the files, which a server may
    /// have set by its own clock; choose hours rather than minutes. A put whose file is taken away because a
    /// clock is wrong nonetheless ends with an error that is to be tried again at once.
    ///
    /// # Errors
    /// [`SinkError`] when the folder cannot be read or a file not be removed.
    pub async fn sweep_temporaries(
        &self,
        cx: &OpContext,
        older_than: Duration,
    ) -> Result<Swept, SinkError> {
        let now = cx.clock.now().as_second();
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let root = self.root().display().to_string();
        self.blocking(cx, "sweep", root, move |place| {
            sweep(place, now.saturating_sub(age))
        })
        .await
    }

    async fn blocking<T: Send + 'static>(
        &self,
        cx: &OpContext,
        op: &'static str,
        subject: String,
        work: impl FnOnce(&Place) -> Outcome<T> + Send + 'static,
    ) -> Result<T, SinkError> {
        let cancelled = |subject: &str| SinkError::new(ErrorKind::Cancelled, op, subject);
        if cx.cancel.is_cancelled() {
            return Err(cancelled(&subject));
        }
        let place = self.place.clone();
        match tokio::task::spawn_blocking(move || work(&place)).await {
            Ok(outcome) => outcome.map_err(|fault| fault.at(op, &subject)),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime was shut down before the work began.
                Err(_) => Err(cancelled(&subject)),
            },
        }
    }
}

#[deny(clippy::missing_trait_methods)]
#[async_trait]
impl Sink for LocalSink {
    fn info(&self) -> SinkInfo {
        SinkInfo {
            scheme: "local",
            location: self.root().display().to_string(),
            caps: SinkCaps {
                atomic_create: true,
                replace_if: false,
                max_put_bytes: MAX_PUT_BYTES,
                cold: false,
                connections: 4,
                settle: self.place.settle(),
                lock: None,
            },
            is_split: false,
        }
    }

    /// When the folder was made, by its file system: no copy of it has the same, and it stays when the disk is mounted
    /// again. Numbers of file systems and inodes do not, on some.
    fn medium(&self) -> Option<String> {
        let made = std::fs::metadata(self.root()).ok()?.created().ok()?;
        let since = made.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(format!(
            "made {}.{:09}",
            since.as_secs(),
            since.subsec_nanos()
        ))
    }

    /// Nobody charges for calls of the system.
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
        let size = body.len() as u64;
        if size > MAX_PUT_BYTES {
            let wrong = Wrong::TooLarge {
                size,
                limit: MAX_PUT_BYTES,
            };
            return Err(Fault::Ours(ErrorKind::Invalid, wrong).at("put", key.as_str()));
        }
        if matches!(mode, PutMode::ReplaceIf(_)) {
            let fault = Fault::Ours(ErrorKind::Unsupported, Wrong::NoVersions);
            return Err(fault.at("put", key.as_str()));
        }
        let work_key = key.clone();
        self.blocking(cx, "put", key.to_string(), move |place| {
            write::put(place, &work_key, &body, &mode)
        })
        .await?;
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
        let work_key = key.clone();
        self.blocking(cx, "get", key.to_string(), move |place| {
            read::get(place, &work_key, range)
        })
        .await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let work_key = key.clone();
        let size = self
            .blocking(cx, "head", key.to_string(), move |place| {
                read::head(place, &work_key)
            })
            .await?;
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
        let begin = (prefix.to_owned(), after.cloned());
        let state = (self.clone(), cx.clone(), prefix.to_owned(), begin, None);
        let batches = stream::try_unfold(state, |(sink, cx, subject, begin, walk)| async move {
            let (at, (prefix, after)) = (subject.clone(), begin.clone());
            let (walk, found) = sink
                .blocking(&cx, "list", at, move |place| {
                    let mut walk = match walk {
                        Some(walk) => walk,
                        None => Walk::begin(place, &prefix, after)?,
                    };
                    let found = walk.objects(LIST_BATCH)?;
                    Ok((walk, found))
                })
                .await?;
            let over = found.is_empty();
            let next = (sink, cx, subject, begin, Some(walk));
            let batch = stream::iter(found.into_iter().map(Ok));
            Ok::<_, SinkError>((!over).then_some((batch, next)))
        });
        batches.try_flatten().boxed()
    }

    fn list_together(
        &self,
        _cx: &OpContext,
        _ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        None
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let work_key = key.clone();
        self.blocking(cx, "delete", key.to_string(), move |place| {
            write::delete(place, &work_key)
        })
        .await
    }

    async fn temperature(
        &self,
        _cx: &OpContext,
        _key: &ObjectKey,
    ) -> Result<Temperature, SinkError> {
        Ok(Temperature::Warm)
    }

    async fn warm(&self, _cx: &OpContext, _keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        Ok(Warmth::Ready)
    }

    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        Ok(self.sweep_temporaries(cx, older_than).await?.files)
    }

    /// That of the file system; `None` where it says that it has none at all, as some of networks do.
    /// Nothing is ever locked here.
    async fn extend_lock(
        &self,
        _cx: &OpContext,
        _key: &ObjectKey,
        _from: Timestamp,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        let root = self.root().display().to_string();
        self.blocking(cx, "room", root, |place| {
            let found = rustix::fs::fstatvfs(place.open()?)?;
            let (free, total) = (found.f_bavail, found.f_blocks);
            let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
            // What is kept for root is neither free nor in use.
            let kept = found.f_bfree.saturating_sub(free);
            Ok((total > 0).then_some(Room {
                free: bytes(free),
                total: bytes(total.saturating_sub(kept)),
            }))
        })
        .await
    }
}

/// Removes temporary files last written to before `before`, in seconds since 1970.
fn sweep(place: &Place, before: i64) -> Outcome<Swept> {
    let mut swept = Swept::default();
    Walk::begin(place, "", None)?.temporaries(|folder, name| {
        let stat = match folder::stat(folder, name) {
            Ok(stat) => stat,
            // Its put has ended just now.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        };
        if stat.st_mtime >= before {
            return Ok(());
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => {
                swept.files += 1;
                swept.bytes += folder::size_of(&stat);
                Ok(())
            }
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    })?;
    Ok(swept)
}

/// The folder with its settings, as the blocking work sees it.
#[derive(Debug)]
pub(crate) struct Place {
    root: PathBuf,
    makes_root: bool,
    create_by: CreateBy,
    /// A file in the root without which it is not the right disk.
    marker: Option<String>,
    /// How long listings lag, if somebody has said it.
    settle: Option<Duration>,
    /// The root as it was when it was first opened.
    seen: OnceLock<Mount>,
    /// Folders whose names are known to last.
    synced: Mutex<HashSet<String>>,
}

impl Place {
    /// Opens the root, if it is the one that is meant.
    pub(crate) fn open(&self) -> Outcome<OwnedFd> {
        let root = match folder::open_root(&self.root) {
            Ok(root) => root,
            // Nobody is to make it anew because its disk went away.
            Err(Fault::Ours(kind, Wrong::NoRoot(root))) if self.seen.get().is_some() => {
                return Err(Fault::Ours(kind, Wrong::Gone(root)));
            }
            Err(fault) => return Err(fault),
        };
        if let Some(marker) = &self.marker {
            match folder::stat(root.as_fd(), marker) {
                Ok(_) => {}
                Err(Errno::NOENT) => {
                    let wrong = Wrong::NoMarker(self.root.clone(), marker.clone());
                    return Err(Fault::Ours(ErrorKind::Unavailable, wrong));
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        let found = Mount::of(&root)?;
        if self.seen.get_or_init(|| found).is_other(&found) {
            let wrong = Wrong::OtherRoot(self.root.clone());
            return Err(Fault::Ours(ErrorKind::Unavailable, wrong));
        }
        Ok(root)
    }

    /// How long listings lag: what somebody said, or what is usual where the root is, as far as it was opened.
    fn settle(&self) -> Duration {
        let usual = || self.seen.get().map_or(Duration::ZERO, Mount::usual_lag);
        self.settle.unwrap_or_else(usual)
    }

    /// Opens the root for a put, made if that is wanted.
    pub(crate) fn open_or_make(&self) -> Outcome<OwnedFd> {
        match self.open() {
            Err(Fault::Ours(_, Wrong::NoRoot(_))) if self.makes_root && self.marker.is_none() => {
                folder::make_root(&self.root)?;
                self.open()
            }
            answer => answer,
        }
    }

    /// The way of keeping writers apart that is tried first.
    pub(crate) const fn create_by(&self) -> CreateBy {
        self.create_by
    }

    /// Whether the folder above was synced since the folder `path` was there.
    pub(crate) fn remembers(&self, path: &str) -> bool {
        self.synced().contains(path)
    }

    /// Notes that the folder above `path` has been synced.
    pub(crate) fn remember(&self, path: &str) {
        let mut synced = self.synced();
        if synced.len() >= MAX_REMEMBERED {
            synced.clear();
        }
        synced.insert(path.to_owned());
    }

    fn synced(&self) -> MutexGuard<'_, HashSet<String>> {
        self.synced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
