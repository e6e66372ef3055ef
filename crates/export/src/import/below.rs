//! A source whose paths lose the folder in front: a tree that lies in an export has the paths that its
//! files were saved under, not those that they lie at.

use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Capture, CapturePlan, CaptureReport, CaptureRequest, ConsistentPoint, Entry, EntryPath,
    OpContext, Outcome, Source, SourceError, SourceInfo,
};
use jiff::Timestamp;

use super::dump::point;

/// What another source yields below a folder.
#[derive(Debug, Clone)]
pub struct Below {
    /// The other source.
    pub source: Arc<dyn Source>,
    /// The folder.
    pub folder: EntryPath,
    /// When it was made.
    pub time: Timestamp,
    /// What it was saved from, for people.
    pub origin: Vec<String>,
}

#[async_trait]
impl Source for Below {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            origin: self.origin.clone(),
            ..self.source.info()
        }
    }

    async fn plan(
        &self,
        cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        self.source.plan(cx, request).await
    }

    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        Ok(Box::new(BelowCapture {
            capture: self.source.begin(cx, plan).await?,
            folder: self.folder.clone(),
            point: point(self.time),
        }))
    }
}

#[derive(Debug)]
struct BelowCapture {
    capture: Box<dyn Capture>,
    folder: EntryPath,
    point: ConsistentPoint,
}

#[async_trait]
impl Capture for BelowCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        // A batch may hold only the folders above; an empty one would be the end.
        loop {
            let batch = self.capture.next_entries(cx).await?;
            if batch.is_empty() {
                return Ok(batch);
            }
            let below: Vec<Entry> = batch
                .into_iter()
                .filter_map(|entry| self.below(entry))
                .collect();
            if !below.is_empty() {
                return Ok(below);
            }
        }
    }

    async fn close(&mut self, cx: &OpContext) -> Result<CaptureReport, SourceError> {
        let report = self.capture.close(cx).await?;
        Ok(CaptureReport {
            closing_point: None,
            ..report
        })
    }

    async fn settle(self: Box<Self>, cx: &OpContext, outcome: Outcome) -> Result<(), SourceError> {
        self.capture.settle(cx, outcome).await
    }
}

impl BelowCapture {
    fn below(&self, mut entry: Entry) -> Option<Entry> {
        entry.path = strip(&entry.path, &self.folder)?;
        Some(entry)
    }
}

/// A path without the folder in front; nothing for what is not below it.
pub(crate) fn strip(path: &EntryPath, folder: &EntryPath) -> Option<EntryPath> {
    if folder.is_root() {
        return Some(path.clone());
    }
    let stored = path.as_stored().strip_prefix(folder.as_stored())?;
    EntryPath::from_stored(stored.strip_prefix(&[0])?).ok()
}
