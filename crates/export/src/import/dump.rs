//! One dump as a source: its content, unpacked, as one stream.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, ConsistentPoint, Entry,
    EntryMeta, EntryPath, OpContext, Outcome, PlannedEntry, SizeHint, Source, SourceCaps,
    SourceError, SourceInfo, StreamProfile,
};
use bytes::Bytes;
use jiff::Timestamp;

use super::packing::Packing;
use super::{CONSISTENCY, KIND, file_time, pump};

/// Reads a dump that lies in a file.
#[derive(Debug, Clone)]
pub struct DumpSource {
    /// The file.
    pub file: PathBuf,
    /// How it is packed.
    pub packing: Packing,
    /// Its path in the snapshot. Dumps of one thing have one path: then each is compared with the one
    /// before.
    pub path: EntryPath,
    /// When it was made.
    pub time: Timestamp,
    /// What it was saved from, for people; that of dumps of one thing is the same.
    pub origin: String,
}

impl DumpSource {
    fn subject(&self) -> String {
        self.file.display().to_string()
    }
}

#[async_trait]
impl Source for DumpSource {
    fn info(&self) -> SourceInfo {
        info(&self.origin)
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        _request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        Ok(plan(self.subject()))
    }

    async fn begin(
        &self,
        cx: &OpContext,
        _plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let failed = |cause| SourceError::io("read", self.subject(), cause);
        let file = File::open(&self.file).map_err(failed)?;
        let packing = self.packing;
        let with = move |pass: pump::Pass<'_>| {
            pass(pump::Piece::Data(&mut *packing.open(Box::new(file))?)).map(drop)
        };
        let segments = pump::segments(with, self.subject(), cx.cancel.clone()).map_err(failed)?;
        let mut meta = EntryMeta::stream(file_time(self.time));
        let name = self.file.file_name().unwrap_or_default();
        meta.attrs
            .insert("imported-from".into(), name.to_string_lossy().into_owned());
        Ok(Box::new(DumpCapture {
            point: point(self.time),
            entry: Some(Entry {
                path: self.path.clone(),
                meta,
                fingerprint: None,
                size: None,
                profile: StreamProfile::Auto,
                body: Body::Stream(segments),
            }),
        }))
    }
}

/// Who the sources of this module are.
pub(crate) fn info(origin: &str) -> SourceInfo {
    SourceInfo {
        kind: KIND,
        origin: vec![origin.to_owned()],
        versions: BTreeMap::new(),
        caps: SourceCaps {
            incremental: false,
            max_open_entries: 1,
            best_consistency: CONSISTENCY,
        },
    }
}

/// The plan of a source of this module.
pub(crate) fn plan(subject: String) -> CapturePlan {
    CapturePlan {
        mode: CaptureMode::Full {
            why: "everything that is imported is read".into(),
        },
        entries: vec![PlannedEntry {
            name: subject,
            size: SizeHint::default(),
        }],
        total: SizeHint::default(),
        notes: Vec::new(),
        token: Bytes::new(),
    }
}

/// The point that something stands for that was made then.
pub(crate) const fn point(at: Timestamp) -> ConsistentPoint {
    ConsistentPoint {
        at,
        consistency: CONSISTENCY,
        position: None,
    }
}

#[derive(Debug)]
struct DumpCapture {
    point: ConsistentPoint,
    entry: Option<Entry>,
}

#[async_trait]
impl Capture for DumpCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        Ok(self.entry.take().into_iter().collect())
    }

    async fn close(&mut self, _cx: &OpContext) -> Result<CaptureReport, SourceError> {
        Ok(CaptureReport::default())
    }

    async fn settle(
        self: Box<Self>,
        _cx: &OpContext,
        _outcome: Outcome,
    ) -> Result<(), SourceError> {
        Ok(())
    }
}
