//! The way out: each bucket is one stream.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use backstay::core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency,
    ConsistentPoint, Entry, EntryMeta, EntryPath, ErrorKind, FileTime, OpContext, Outcome,
    PlannedEntry, Segment, SizeHint, Source, SourceCaps, SourceError, SourceInfo, StreamProfile,
};
use bytes::Bytes;
use futures::StreamExt as _;

use crate::KIND;
use crate::store::{Buckets, KvStore, encode_pair};

/// Saves a [`KvStore`].
#[derive(Debug)]
pub struct KvSource {
    store: KvStore,
}

impl KvSource {
    /// A source that saves this store.
    #[must_use]
    pub const fn new(store: KvStore) -> Self {
        Self { store }
    }
}

#[async_trait]
impl Source for KvSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: KIND,
            origin: vec!["the store of this process".into()],
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: 16,
                best_consistency: Consistency::Application,
            },
        }
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        let frozen = self.store.freeze();
        let missing = request
            .select
            .iter()
            .find(|name| !frozen.contains_key(*name));
        if let Some(missing) = missing {
            return Err(SourceError::new(ErrorKind::NotFound, "plan", missing));
        }
        let chosen = frozen
            .iter()
            .filter(|(name, _)| is_chosen(&request.select, name));
        let entries: Vec<_> = chosen
            .map(|(name, pairs)| {
                let size = pairs.values().map(|value| value.len() as u64).sum();
                let size = SizeHint {
                    at_least: size,
                    at_most: None,
                };
                PlannedEntry {
                    name: name.clone(),
                    size,
                }
            })
            .collect();
        let at_least = entries.iter().map(|entry| entry.size.at_least).sum();
        Ok(CapturePlan {
            mode: CaptureMode::Full {
                why: "a store in memory keeps no history".into(),
            },
            entries,
            total: SizeHint {
                at_least,
                at_most: None,
            },
            notes: Vec::new(),
            // What `begin` needs to know; nobody else looks into it.
            token: Bytes::from(request.select.join("\n")),
        })
    }

    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let token = String::from_utf8_lossy(&plan.token).into_owned();
        let select: Vec<String> = token.lines().map(str::to_owned).collect();
        let at = cx.clock.now();
        Ok(Box::new(KvCapture {
            point: ConsistentPoint {
                at,
                consistency: Consistency::Application,
                position: None,
            },
            frozen: self.store.freeze(),
            select,
            done: false,
        }))
    }
}

fn is_chosen(select: &[String], name: &str) -> bool {
    select.is_empty() || select.iter().any(|chosen| chosen == name)
}

/// The store as it was when the capture began.
#[derive(Debug)]
struct KvCapture {
    point: ConsistentPoint,
    frozen: Arc<Buckets>,
    select: Vec<String>,
    done: bool,
}

#[async_trait]
impl Capture for KvCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(Vec::new());
        }
        // A BTreeMap gives its names in the order of their bytes, which is the order of paths.
        let names = self
            .frozen
            .keys()
            .filter(|name| is_chosen(&self.select, name));
        names.map(|name| self.entry(name)).collect()
    }

    async fn close(&mut self, _cx: &OpContext) -> Result<CaptureReport, SourceError> {
        Ok(CaptureReport::default())
    }

    async fn settle(self: Box<Self>, _cx: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}

impl KvCapture {
    fn entry(&self, name: &str) -> Result<Entry, SourceError> {
        let mut path = EntryPath::root();
        path.push(name.as_bytes())
            .map_err(|error| SourceError::new(ErrorKind::Invalid, "save", name).because(error))?;
        let seconds = self.point.at.as_second();
        Ok(Entry {
            path,
            meta: EntryMeta::stream(FileTime { seconds, nanos: 0 }),
            fingerprint: None,
            size: None,
            profile: StreamProfile::Content,
            body: Body::Stream(segments(self.frozen.clone(), name.to_owned()).boxed()),
        })
    }
}

/// The pairs of a bucket one after another; nothing is held but the frozen store itself.
fn segments(
    frozen: Arc<Buckets>,
    name: String,
) -> impl futures::Stream<Item = Result<Segment, SourceError>> + Send {
    let start = (None::<String>, 0u64);
    futures::stream::unfold(start, move |(last, offset)| {
        let next = frozen.get(&name).and_then(|pairs| match &last {
            None => pairs.iter().next(),
            Some(last) => {
                use std::ops::Bound::{Excluded, Unbounded};
                pairs.range::<String, _>((Excluded(last), Unbounded)).next()
            }
        });
        let next = next.map(|(key, value)| (key.clone(), encode_pair(key, value)));
        async move {
            let (key, bytes) = next?;
            let end = offset + bytes.len() as u64;
            let segment = Segment::Data {
                offset,
                bytes: bytes.into(),
            };
            Some((Ok(segment), (Some(key), end)))
        }
    })
}
