//! The contract of verification ([`Verifier`]) on what a [`SnapshotReader`] gives, whoever reads: a snapshot of a repository
//! is one. It sees what a restore would, chunk by chunk, and nothing of the objects around; those are looked at by
//! [`super::verify_job`], which reads each pack once. Verifiers that know what was saved (a database that starts,
//! tables with as many rows as there were) are written against the same two traits.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    ChunkId, ErrorKind, Finding, FindingKind, NamedChunk, OpContext, Sample, Severity,
    SnapshotMeta, SnapshotReader, Verifier, VerifyError, VerifyLevel, VerifyReport,
};
use backup_format::extent::Extent;
use backup_format::seal::BlobKind;
use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::usage::Usage;
use crate::view::{Entries, SnapshotView};

/// Looks at each chunk that the contents of a snapshot name. At the level *metadata*, that the index knows it; from
/// *checksum* on, that it opens and is what its id says, for what is sealed has no checksum of its own.
#[derive(Debug, Clone, Copy)]
pub struct EveryChunk {
    level: VerifyLevel,
}

impl EveryChunk {
    /// At this level.
    #[must_use]
    pub const fn new(level: VerifyLevel) -> Self {
        Self { level }
    }
}

#[async_trait]
impl Verifier for EveryChunk {
    fn level(&self) -> VerifyLevel {
        self.level
    }

    async fn verify(
        &self,
        cx: &OpContext,
        snapshot: &dyn SnapshotReader,
        sample: Sample,
    ) -> Result<VerifyReport, VerifyError> {
        let mut report = VerifyReport::default();
        let mut chunks = snapshot.chunks(cx);
        while let Some((id, pack)) = chunks.try_next().await? {
            if !sample.takes(&id.0) {
                continue;
            }
            report.chunks += 1;
            let subject = format!("chunk {id}");
            let mut found = |kind, why: String| {
                let finding = Finding::new(Severity::Error, kind, subject.as_str(), why);
                report.findings.push(finding);
            };
            if pack.is_none() {
                found(FindingKind::Missing, "no index run knows it".into());
                continue;
            }
            if self.level < VerifyLevel::Checksum {
                continue;
            }
            match snapshot.chunk(cx, &id).await {
                Ok(bytes) => report.bytes += bytes.len() as u64,
                Err(error) if error.kind == ErrorKind::Damaged => {
                    found(FindingKind::Damaged, error.to_string());
                }
                Err(error) if error.kind == ErrorKind::NotFound => {
                    found(FindingKind::Missing, error.to_string());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }
}

/// What is read of a snapshot.
struct Reading<'a> {
    view: &'a SnapshotView<'a>,
    entries: Entries<'a>,
    index: Arc<IndexSet>,
    seen: Usage,
    named: VecDeque<NamedChunk>,
}

impl Reading<'_> {
    async fn next(&mut self, cx: &OpContext) -> Result<Option<NamedChunk>> {
        loop {
            if let Some(named) = self.named.pop_front() {
                return Ok(Some(named));
            }
            let Some(entry) = self.entries.next(cx).await? else {
                return Ok(None);
            };
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            let extents = self.view.extents(cx, &entry.record).await?;
            for extent in extents.as_slice() {
                let Extent::Data { chunk, .. } = extent else {
                    continue;
                };
                match self.index.find(chunk) {
                    Some(place) if self.seen.mark_place(&place) => {
                        self.named.push_back((*chunk, Some(place.pack)));
                    }
                    Some(_) => {}
                    None => self.named.push_back((*chunk, None)),
                }
            }
        }
    }
}

#[async_trait]
impl SnapshotReader for SnapshotView<'_> {
    fn meta(&self) -> &SnapshotMeta {
        SnapshotView::meta(self)
    }

    fn chunks<'s>(&'s self, cx: &'s OpContext) -> BoxStream<'s, Result<NamedChunk, VerifyError>> {
        let index = self.repository().index();
        let reading = Reading {
            view: self,
            entries: self.all(),
            seen: Usage::new(&index),
            index,
            named: VecDeque::new(),
        };
        let id = SnapshotView::meta(self).id;
        stream::try_unfold(reading, move |mut reading| async move {
            let next = reading.next(cx).await;
            let next = next.map_err(|error| told("read", format!("snapshot {id}"), error))?;
            Ok(next.map(|named| (named, reading)))
        })
        .boxed()
    }

    async fn chunk(&self, cx: &OpContext, id: &ChunkId) -> Result<Bytes, VerifyError> {
        let read = self.repository().read_blob(cx, BlobKind::Data, id).await;
        read.map(Bytes::from)
            .map_err(|error| told("open", format!("chunk {id}"), error))
    }
}

fn told(op: &'static str, subject: String, error: EngineError) -> VerifyError {
    let kind = match &error {
        EngineError::Missing { .. } => ErrorKind::NotFound,
        error if error.is_damage() => ErrorKind::Damaged,
        EngineError::Cancelled => ErrorKind::Cancelled,
        EngineError::Sink(sink) => sink.kind,
        _ => ErrorKind::Other,
    };
    VerifyError::new(kind, op, subject).because(error)
}
