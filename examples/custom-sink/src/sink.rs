//! The contract of sinks over the journal.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use backstay::core::{
    ByteRange, ErrorKind, ObjectKey, ObjectMeta, OpContext, PutMode, Sink, SinkCaps, SinkError,
    SinkInfo, Version, Warmth,
};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use crate::SCHEME;
use crate::journal::{Journal, Place};

/// Largest object in bytes.
const MAX_PUT: u64 = 1 << 30;

/// A repository in one file. Clones share what they know of it.
#[derive(Debug, Clone)]
pub struct FileSink {
    path: PathBuf,
    journal: Arc<Mutex<Option<Journal>>>,
}

/// What a call that blocks says, before it is told to whom it happened.
type Answer<T> = Result<T, Fault>;

enum Fault {
    Kind(ErrorKind),
    Io(io::Error),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl FileSink {
    /// A sink in this file, which the first put makes.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            journal: Arc::default(),
        }
    }

    /// Runs a call that blocks where it may block.
    async fn with<T: Send + 'static>(
        &self,
        cx: &OpContext,
        op: &'static str,
        subject: &str,
        create: bool,
        call: impl FnOnce(Option<&mut Journal>) -> Answer<T> + Send + 'static,
    ) -> Result<T, SinkError> {
        let error = |kind| SinkError::new(kind, op, subject);
        if cx.cancel.is_cancelled() {
            return Err(error(ErrorKind::Cancelled));
        }
        let this = self.clone();
        let run = move || -> Answer<T> {
            let mut held = this.journal.lock().unwrap_or_else(PoisonError::into_inner);
            if held.is_none() {
                match Journal::open(&this.path, create) {
                    Ok(journal) => *held = Some(journal),
                    // No file: no objects.
                    Err(error) if error.kind() == io::ErrorKind::NotFound && !create => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if let Some(journal) = held.as_mut() {
                journal.catch_up()?;
            }
            call(held.as_mut())
        };
        match tokio::task::spawn_blocking(run).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Fault::Kind(kind))) => Err(error(kind)),
            Ok(Err(Fault::Io(cause))) => Err(SinkError::io(op, subject, cause)),
            Err(cause) => Err(error(ErrorKind::Other).because(cause)),
        }
    }
}

fn meta(key: ObjectKey, place: Place) -> ObjectMeta {
    ObjectMeta {
        key,
        size: place.size,
        version: Some(Version(place.record.to_string())),
    }
}

/// The part of an object that a range names: where it begins in the object, and its length.
fn span(size: u64, range: ByteRange) -> Answer<(u64, usize)> {
    let (start, length) = match range {
        ByteRange::Full => (0, size),
        ByteRange::Suffix(length) => (size.saturating_sub(length), length.min(size)),
        ByteRange::Span { offset, length } => match offset.checked_add(length) {
            Some(end) if end <= size => (offset, length),
            _ => return Err(Fault::Kind(ErrorKind::Damaged)),
        },
    };
    let length = usize::try_from(length).map_err(|_| Fault::Kind(ErrorKind::Invalid))?;
    Ok((start, length))
}

#[async_trait]
impl Sink for FileSink {
    fn info(&self) -> SinkInfo {
        SinkInfo {
            scheme: SCHEME,
            location: format!("{SCHEME}:{}", self.path.display()),
            caps: SinkCaps {
                atomic_create: true,
                replace_if: true,
                max_put_bytes: MAX_PUT,
                cold: false,
                connections: 1,
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
        let name = key.clone();
        if body.len() as u64 > MAX_PUT {
            return Err(SinkError::new(ErrorKind::Invalid, "put", key.as_str()));
        }
        let put = move |journal: Option<&mut Journal>| {
            let journal = journal.ok_or(Fault::Kind(ErrorKind::NotFound))?;
            let place = journal.locked(|journal| {
                let there = journal.find(&name).map(|place| place.record.to_string());
                let allowed = match mode {
                    PutMode::Create => there.is_none(),
                    PutMode::ReplaceIf(Version(wanted)) => there == Some(wanted),
                    PutMode::Replace => true,
                };
                if allowed {
                    journal.append(&name, &body).map(Some)
                } else {
                    Ok(None)
                }
            })?;
            let place = place.ok_or(Fault::Kind(ErrorKind::Conflict))?;
            Ok(meta(name, place))
        };
        self.with(cx, "put", key.as_str(), true, put).await
    }

    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError> {
        let name = key.clone();
        let get = move |journal: Option<&mut Journal>| {
            let found = journal.and_then(|journal| Some((journal.find(&name)?, journal)));
            let (place, journal) = found.ok_or(Fault::Kind(ErrorKind::NotFound))?;
            let (start, length) = span(place.size, range)?;
            Ok(Bytes::from(journal.read(place.body + start, length)?))
        };
        self.with(cx, "get", key.as_str(), false, get).await
    }

    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError> {
        let name = key.clone();
        let head = move |journal: Option<&mut Journal>| {
            let place = journal.and_then(|journal| journal.find(&name));
            place
                .map(|place| meta(name, place))
                .ok_or(Fault::Kind(ErrorKind::NotFound))
        };
        self.with(cx, "head", key.as_str(), false, head).await
    }

    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>> {
        let (this, cx, prefix, after) =
            (self.clone(), cx.clone(), prefix.to_owned(), after.cloned());
        let all = async move {
            let wanted = prefix.clone();
            let list = move |journal: Option<&mut Journal>| {
                let objects = journal
                    .map(|journal| journal.objects().clone())
                    .unwrap_or_default();
                let found = objects.into_iter().filter(|(key, _)| {
                    key.as_str().starts_with(&wanted) && Some(key) > after.as_ref()
                });
                Ok(found
                    .map(|(key, place)| Ok(meta(key, place)))
                    .collect::<Vec<_>>())
            };
            this.with(&cx, "list", &prefix, false, list)
                .await
                .map(stream::iter)
        };
        stream::once(all).try_flatten().boxed()
    }

    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError> {
        let name = key.clone();
        let delete = move |journal: Option<&mut Journal>| match journal {
            Some(journal) => Ok(journal.locked(|journal| journal.remove(&name))?),
            None => Ok(()),
        };
        self.with(cx, "delete", key.as_str(), false, delete).await
    }

    async fn warm(&self, cx: &OpContext, _keys: &[ObjectKey]) -> Result<Warmth, SinkError> {
        self.with(cx, "warm", "objects", false, |_| Ok(Warmth::Ready))
            .await
    }
}
