//! The sink itself: the contract's calls, each as requests on a session, made again where a connection broke off.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use backup_core::registry::RegistryError;
use backup_core::{
    ByteRange, ErrorKind, Location, ObjectKey, ObjectMeta, OpContext, PutMode, Registry, Room,
    Sink, SinkCaps, SinkError, SinkInfo, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::config::{Config, FromLocationError};
use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::Place;
use crate::pool::{self, Pool};
use crate::surroundings::Surroundings;
use crate::walk::{Found, Wanted};
use crate::wire::Request;
use crate::write::Put;
use crate::{read, walk, write};

/// The largest object in bytes, 4 GiB less one byte: the largest file that FAT takes, as for folders on local disks.
pub const MAX_PUT_BYTES: u64 = u32::MAX as u64;

/// How many requests at once do each connection good.
const REQUESTS: usize = 4;

/// A folder on an SSH server as a tier. Making one does no I/O; clones share the connections.
///
/// See the [crate's page](crate) for what a put does and what a crash leaves.
#[derive(Clone)]
pub struct SftpSink {
    place: Arc<Place>,
}

impl std::fmt::Debug for SftpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SftpSink({})", self.place.pool.config().location())
    }
}

/// Makes a call on a session, and makes it again when the connection broke off under it.
macro_rules! on_a_session {
    ($place:expr, $bytes:expr, |$session:ident| $call:expr) => {{
        let mut attempt = 1;
        loop {
            let outcome = match $place.pool.lease($bytes).await {
                Ok($session) => $call.await,
                Err(fault) => break Err(fault),
            };
            match outcome {
                Err(fault) if pool::again(&fault, attempt) => attempt += 1,
                outcome => break outcome,
            }
        }
    }};
}

impl SftpSink {
    /// The sink of `sftp://[user@]host[:port]/path`; a path that begins with `/~/` is one below the home of the
    /// account. What the options mean stands in `docs/tiers-sftp.md`.
    ///
    /// # Errors
    /// [`FromLocationError`] when the location is not one of an SSH server.
    pub fn new(location: &Location, around: &Surroundings) -> Result<Self, FromLocationError> {
        Ok(Self::of(Config::new(location, around.clone())?))
    }

    fn of(config: Config) -> Self {
        Self {
            place: Arc::new(Place::new(Pool::new(config))),
        }
    }

    /// The same sink, which makes its root with the first put if it is missing. Otherwise that is an error: a disk that
    /// is not mounted must not become a folder on the server's own disk.
    #[must_use]
    pub fn making_root(self, makes_root: bool) -> Self {
        let mut config = self.place.pool.config().clone();
        config.makes_root = makes_root;
        Self::of(config)
    }

    async fn cancellable<T>(
        &self,
        cx: &OpContext,
        op: &'static str,
        subject: &str,
        work: impl Future<Output = Outcome<T>>,
    ) -> Result<T, SinkError> {
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => Err(SinkError::new(ErrorKind::Cancelled, op, subject)),
            outcome = work => outcome.map_err(|fault| {
                let tier = self.place.pool.config().location();
                fault.at(op, subject, &tier)
            }),
        }
    }

    async fn put_now(&self, key: &ObjectKey, body: &Bytes, mode: &PutMode) -> Outcome<()> {
        let size = body.len() as u64;
        if size > MAX_PUT_BYTES {
            let limit = MAX_PUT_BYTES;
            let wrong = Wrong::TooLarge { size, limit };
            return Err(Fault::Ours(ErrorKind::Invalid, wrong));
        }
        if matches!(mode, PutMode::ReplaceIf(_)) {
            return Err(Fault::Ours(ErrorKind::Unsupported, Wrong::NoVersions));
        }
        // Whether the file may have got its name before an answer was lost.
        let mut named = false;
        on_a_session!(self.place, size, |session| {
            let put = Put {
                place: &self.place,
                session: &session,
                key,
                body,
                mode,
            };
            let before = named;
            let named = &mut named;
            async move {
                match put.run(named).await {
                    Err(Fault::Ours(ErrorKind::Conflict, Wrong::Taken)) if before => {
                        let there = read::get(put.place, put.session, key, ByteRange::Full);
                        match there.await? == *body {
                            true => Ok(()),
                            false => Err(Fault::Ours(ErrorKind::Conflict, Wrong::Taken)),
                        }
                    }
                    outcome => outcome,
                }
            }
        })
    }

    /// Removes temporary files last written to before `before`, in seconds since 1970.
    async fn sweep(&self, before: i64) -> Outcome<u64> {
        let mut found = walk::begin(self.place.clone(), "", Wanted::Temporaries)?;
        let mut removed = 0;
        while let Some(batch) = found.recv().await {
            for one in batch? {
                let Found::Temporary { path, written } = one else {
                    continue;
                };
                if written >= before {
                    continue;
                }
                let done = on_a_session!(self.place, 0, |session| async {
                    session.ask(&Request::Remove(&path)).await?.done().await
                });
                match done {
                    Ok(()) => removed += 1,
                    // Its put has ended just now.
                    Err(fault) if fault.is_absent() => {}
                    Err(fault) => return Err(fault),
                }
            }
        }
        Ok(removed)
    }

    async fn room_now(&self) -> Outcome<Option<Room>> {
        on_a_session!(self.place, 0, |session| async {
            if !session.features.room {
                return Ok(None);
            }
            let request = Request::Room(self.place.root());
            let found = match session.ask(&request).await?.room().await {
                Ok(found) => found,
                Err(fault) => return Err(self.place.or_no_root(&session, fault).await),
            };
            let bytes = |blocks: u64| blocks.saturating_mul(found.fragment);
            // What is kept for root is neither free nor in use.
            let kept = found.free.saturating_sub(found.available);
            Ok((found.blocks > 0).then_some(Room {
                free: bytes(found.available),
                total: bytes(found.blocks.saturating_sub(kept)),
            }))
        })
    }
}

#[async_trait]
impl Sink for SftpSink {
    fn info(&self) -> SinkInfo {
        let config = self.place.pool.config();
        SinkInfo {
            scheme: "sftp",
            location: config.location(),
            caps: SinkCaps {
                atomic_create: self.place.pool.links(),
                replace_if: false,
                max_put_bytes: MAX_PUT_BYTES,
                cold: false,
                connections: config.connections * REQUESTS,
                settle: Duration::ZERO,
                lock: None,
            },
            is_split: false,
        }
    }

    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError> {
        let work = self.put_now(key, &body, &mode);
        self.cancellable(cx, "put", key.as_str(), work).await?;
        Ok(ObjectMeta {
            key: key.clone(),
            size: body.len() as u64,
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
            // Of a whole object it is not known yet; packs are what is large.
            ByteRange::Full => 0,
            ByteRange::Span { length, .. } | ByteRange::Suffix(length) => length.min(MAX_PUT_BYTES),
        };
        let work = async {
            on_a_session!(self.place, bytes, |session| read::get(
                &self.place,
                &session,
                key,
                range
            ))
        };
        self.cancellable(cx, "get", key.as_str(), work).await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let work = async {
            on_a_session!(self.place, 0, |session| read::head(
                &self.place,
                &session,
                key
            ))
        };
        let size = self.cancellable(cx, "head", key.as_str(), work).await?;
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
        let begin = (prefix.to_owned(), Wanted::Objects(after.cloned()));
        let state = (self.clone(), cx.clone(), begin, None);
        let batches = stream::try_unfold(state, |(sink, cx, begin, under_way)| async move {
            let next = async {
                let mut under_way = match under_way {
                    Some(under_way) => under_way,
                    None => walk::begin(sink.place.clone(), &begin.0, begin.1.clone())?,
                };
                let batch = under_way.recv().await.transpose()?;
                Ok(batch.map(|batch| (batch, under_way)))
            };
            let next = sink.cancellable(&cx, "list", &begin.0, next).await?;
            let Some((batch, under_way)) = next else {
                return Ok(None);
            };
            let objects = batch.into_iter().filter_map(|found| match found {
                Found::Object(meta) => Some(Ok(meta)),
                Found::Temporary { .. } => None,
            });
            let state = (sink, cx, begin, Some(under_way));
            Ok::<_, SinkError>(Some((stream::iter(objects), state)))
        });
        batches.try_flatten().boxed()
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let work = async {
            on_a_session!(self.place, 0, |session| write::delete(
                &self.place,
                &session,
                key
            ))
        };
        self.cancellable(cx, "delete", key.as_str(), work).await
    }

    async fn warm(&self, _cx: &OpContext, _keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        Ok(Warmth::Ready)
    }

    /// Ages are told by the clock of `cx` and the times of the files, which the server has set by its own clock; choose
    /// hours rather than minutes.
    async fn tidy(&self, cx: &OpContext, older_than: Duration) -> Result<u64, SinkError> {
        let age = i64::try_from(older_than.as_secs()).unwrap_or(i64::MAX);
        let before = cx.clock.now().as_second().saturating_sub(age);
        let location = self.place.pool.config().location();
        self.cancellable(cx, "tidy", &location, self.sweep(before))
            .await
    }

    /// That of the file system, where the server tells it (`statvfs@openssh.com`).
    async fn room(&self, cx: &OpContext) -> Result<Option<Room>, SinkError> {
        let location = self.place.pool.config().location();
        self.cancellable(cx, "room", &location, self.room_now())
            .await
    }
}

/// Adds folders on SSH servers to a registry, under the scheme `sftp`, with what they are told of the process.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry, around: &Surroundings) -> Result<(), RegistryError> {
    let around = around.clone();
    registry.add_sink("sftp", move |location| {
        match SftpSink::new(location, &around) {
            Ok(sink) => Ok(Arc::new(sink)),
            Err(error) => Err(RegistryError::config(location, error.to_string())),
        }
    })
}
