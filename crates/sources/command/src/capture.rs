//! What both sources share: a capture of one stream.

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency,
    ConsistentPoint, Entry, EntryMeta, EntryPath, ErrorKind, FileTime, Finding, FindingKind,
    OpContext, Outcome, PlannedEntry, SegmentStream, Severity, SizeHint, SourceError,
    StreamProfile,
};
use bytes::Bytes;
use jiff::Timestamp;
use std::sync::Arc;

use crate::process::{Process, describe};
use crate::pump::Progress;

/// The path of a stream.
///
/// # Errors
/// `Invalid` when the name is none.
pub(crate) fn path_of(name: &str) -> Result<EntryPath, SourceError> {
    let invalid = |why: String| {
        SourceError::new(ErrorKind::Invalid, "name the stream", name.to_owned()).because(why)
    };
    let path = EntryPath::from_slashed(name.as_bytes()).map_err(|why| invalid(why.to_string()))?;
    if path.is_root() {
        return Err(invalid("it is empty".into()));
    }
    Ok(path)
}

/// The plan of one stream of unknown size.
///
/// # Errors
/// `Invalid` when something else is selected.
pub(crate) fn plan(name: &str, request: &CaptureRequest) -> Result<CapturePlan, SourceError> {
    if let Some(unknown) = request.select.iter().find(|selected| *selected != name) {
        return Err(
            SourceError::new(ErrorKind::Invalid, "select", unknown.clone())
                .because(format!("there is only the stream {name}")),
        );
    }
    let mode = match &request.parent {
        Some(parent) => CaptureMode::Incremental {
            parent: parent.snapshot,
        },
        None => CaptureMode::Full {
            why: "there is no earlier snapshot to build on".into(),
        },
    };
    Ok(CapturePlan {
        mode,
        entries: vec![PlannedEntry {
            name: name.to_owned(),
            size: SizeHint::default(),
        }],
        total: SizeHint::default(),
        notes: Vec::new(),
        token: Bytes::new(),
    })
}

fn file_time(at: Timestamp) -> FileTime {
    let nanos = at.as_nanosecond();
    FileTime {
        seconds: i64::try_from(nanos.div_euclid(1_000_000_000)).unwrap_or(0),
        nanos: u32::try_from(nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}

/// A stream under way, and the program that writes it, if there is one.
#[derive(Debug)]
pub(crate) struct StreamCapture {
    point: ConsistentPoint,
    /// What is read, for people.
    subject: String,
    entry: Option<Entry>,
    progress: Arc<Progress>,
    process: Option<Process>,
    allow_empty: bool,
}

/// What makes a stream.
pub(crate) struct Stream {
    pub(crate) path: EntryPath,
    pub(crate) subject: String,
    pub(crate) profile: StreamProfile,
    pub(crate) allow_empty: bool,
    pub(crate) attrs: Vec<(String, String)>,
    pub(crate) segments: SegmentStream,
    pub(crate) progress: Arc<Progress>,
    pub(crate) process: Option<Process>,
}

impl StreamCapture {
    pub(crate) fn new(cx: &OpContext, stream: Stream) -> Self {
        let at = cx.clock.now();
        let mut meta = EntryMeta::stream(file_time(at));
        meta.attrs.extend(stream.attrs);
        Self {
            point: ConsistentPoint {
                at,
                consistency: Consistency::Crash,
                position: None,
            },
            subject: stream.subject,
            entry: Some(Entry {
                path: stream.path,
                meta,
                fingerprint: None,
                size: None,
                profile: stream.profile,
                body: Body::Stream(stream.segments),
            }),
            progress: stream.progress,
            process: stream.process,
            allow_empty: stream.allow_empty,
        }
    }
}

/// Makes sure that the program has ended, and ended well.
async fn check_end(cx: &OpContext, process: &Process, subject: &str) -> Result<(), SourceError> {
    let status = tokio::select! {
        biased;
        () = cx.cancel.cancelled() => {
            process.kill();
            return Err(SourceError::new(ErrorKind::Cancelled, "run", subject));
        }
        status = process.wait() => status,
    };
    let status = status.map_err(|cause| SourceError::io("run", subject, cause))?;
    if status.success() {
        return Ok(());
    }
    let said = process.last_words().await;
    let why = describe(status);
    let why = if said.is_empty() {
        why
    } else {
        format!("{why}; it said:\n{said}")
    };
    Err(SourceError::new(ErrorKind::Other, "run", subject).because(why))
}

#[async_trait]
impl Capture for StreamCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        Ok(self.entry.take().into_iter().collect())
    }

    async fn close(&mut self, cx: &OpContext) -> Result<CaptureReport, SourceError> {
        if !self.progress.ended() {
            if let Some(process) = &self.process {
                process.kill();
            }
            let kind = if cx.cancel.is_cancelled() {
                ErrorKind::Cancelled
            } else {
                ErrorKind::Other
            };
            return Err(SourceError::new(kind, "run", self.subject.clone())
                .because("it was not read to its end"));
        }
        if let Some(process) = &self.process {
            check_end(cx, process, &self.subject).await?;
        }
        let mut report = CaptureReport::default();
        if self.progress.bytes() == 0 && !self.allow_empty {
            let kind = FindingKind::Degraded;
            let subject = self.subject.clone();
            let detail = "the stream is empty: nothing was written to it";
            report
                .findings
                .push(Finding::new(Severity::Warning, kind, subject, detail));
        }
        Ok(report)
    }

    async fn settle(self: Box<Self>, _cx: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}
