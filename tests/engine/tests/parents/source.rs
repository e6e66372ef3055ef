//! A source with a history: it knows what it was at every capture, so it can tell, as a server with
//! increments or a dirty bitmap would, what changed since the one that its parent stands for.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency,
    ConsistentPoint, Entry, EntryKind, EntryMeta, EntryPath, ErrorKind, FileTime, OpContext,
    Outcome, ParentHint, Segment, SizeHint, Source, SourceCaps, SourceError, SourceInfo,
    StreamProfile,
};
use bytes::Bytes;
use futures::StreamExt as _;

pub(crate) type Disks = BTreeMap<String, Vec<u8>>;

/// How a capture hands things over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habits {
    /// What is unchanged is told in whole units of so many bytes.
    pub(crate) unit: usize,
    pub(crate) profile: StreamProfile,
    /// Says how large a stream will be.
    pub(crate) tells_size: bool,
    /// Whole entries that did not change have no segments.
    pub(crate) bodies: bool,
    /// Says `Unchanged` of everything, as long as it has a parent.
    pub(crate) lies: bool,
    /// Does not know what it was: all is read.
    pub(crate) forgets: bool,
    /// Fails at the end of the capture.
    pub(crate) fails: bool,
    /// Takes so long to give its entries.
    pub(crate) pause: Duration,
    pub(crate) mode: u32,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            unit: 4096,
            profile: StreamProfile::Pages(4096),
            tells_size: true,
            bodies: true,
            lies: false,
            forgets: false,
            fails: false,
            pause: Duration::ZERO,
            mode: 0o600,
        }
    }
}

#[derive(Debug, Default)]
struct History {
    captured: Vec<Disks>,
    hints: Vec<Option<ParentHint>>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct ModelSource {
    pub(crate) now: Disks,
    pub(crate) habits: Habits,
    history: Arc<Mutex<History>>,
}

impl ModelSource {
    /// The hints that its plans were given so far.
    pub(crate) fn hints(&self) -> Vec<Option<ParentHint>> {
        self.history.lock().unwrap().hints.clone()
    }
}

#[async_trait]
impl Source for ModelSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: "model",
            origin: vec!["disks".into()],
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: true,
                max_open_entries: 1,
                best_consistency: Consistency::Application,
            },
        }
    }

    async fn plan(
        &self,
        _: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        let parent = request.parent.clone();
        let known = parent.as_ref().and_then(|parent| parent.cursor.clone());
        let from = parent.as_ref().map_or(0, |parent| parent.unchanged_from);
        let mode = match &parent {
            Some(parent) => CaptureMode::Incremental {
                parent: parent.snapshot,
            },
            None => CaptureMode::Full {
                why: "no parent".into(),
            },
        };
        self.history.lock().unwrap().hints.push(parent);
        let mut token = from.to_le_bytes().to_vec();
        token.extend(known.unwrap_or_default());
        Ok(CapturePlan {
            mode,
            entries: Vec::new(),
            total: SizeHint::default(),
            notes: Vec::new(),
            token: token.into(),
        })
    }

    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let (from, cursor) = plan.token.split_at(8);
        let mut history = self.history.lock().unwrap();
        let before = std::str::from_utf8(cursor).unwrap().parse::<usize>();
        let before = before.ok().filter(|_| !self.habits.forgets);
        let before = before.map(|number| history.captured[number].clone());
        let number = history.captured.len();
        history.captured.push(self.now.clone());
        Ok(Box::new(ModelCapture {
            point: ConsistentPoint {
                at: cx.clock.now(),
                consistency: Consistency::Filesystem,
                position: Some(("lsn".into(), number.to_string())),
            },
            number,
            before,
            from: u64::from_le_bytes(from.try_into().unwrap()),
            now: self.now.clone(),
            habits: self.habits,
        }))
    }
}

#[derive(Debug)]
struct ModelCapture {
    point: ConsistentPoint,
    number: usize,
    before: Option<Disks>,
    from: u64,
    now: Disks,
    habits: Habits,
}

#[async_trait]
impl Capture for ModelCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, _: &OpContext) -> Result<Vec<Entry>, SourceError> {
        if !self.habits.pause.is_zero() {
            tokio::time::sleep(self.habits.pause).await;
        }
        let now = std::mem::take(&mut self.now);
        Ok(now
            .into_iter()
            .map(|(name, disk)| self.entry(&name, disk))
            .collect())
    }

    async fn close(&mut self, _: &OpContext) -> Result<CaptureReport, SourceError> {
        if self.habits.fails {
            return Err(SourceError::new(ErrorKind::Unavailable, "read", "disks"));
        }
        Ok(CaptureReport {
            cursor: Some(Bytes::from(self.number.to_string())),
            ..CaptureReport::default()
        })
    }

    async fn settle(self: Box<Self>, _: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}

impl ModelCapture {
    fn entry(&self, name: &str, disk: Vec<u8>) -> Entry {
        let mut meta = EntryMeta::stream(FileTime::default());
        meta.kind = EntryKind::Disk;
        meta.mode = self.habits.mode;
        let size = self.habits.tells_size.then_some(disk.len() as u64);
        Entry {
            path: EntryPath::from_slashed(name.as_bytes()).unwrap(),
            meta,
            fingerprint: None,
            size,
            profile: self.habits.profile,
            body: self.body(name, disk),
        }
    }

    fn body(&self, name: &str, disk: Vec<u8>) -> Body {
        let before = self.before.as_ref();
        if self.habits.lies && before.is_some() {
            return Body::Unchanged;
        }
        let before = before.and_then(|before| before.get(name));
        let before = before.filter(|before| before.len() as u64 >= self.from);
        if self.habits.bodies && before == Some(&disk) {
            return Body::Unchanged;
        }
        let segments = segments(&disk, before.map_or(&[], Vec::as_slice), self.habits.unit);
        Body::Stream(futures::stream::iter(segments.into_iter().map(Ok)).boxed())
    }
}

/// A disk unit by unit: as it was, zeros, or bytes.
fn segments(disk: &[u8], before: &[u8], unit: usize) -> Vec<Segment> {
    let whole = |range: &Range<usize>| range.start as u64..range.end as u64;
    (0..disk.len())
        .step_by(unit)
        .map(|start| start..(start + unit).min(disk.len()))
        .map(|range| {
            let bytes = &disk[range.clone()];
            if before.get(range.clone()) == Some(bytes) {
                Segment::Unchanged(whole(&range))
            } else if bytes.iter().all(|byte| *byte == 0) {
                Segment::Zero(whole(&range))
            } else {
                Segment::Data {
                    offset: range.start as u64,
                    bytes: Bytes::copy_from_slice(bytes),
                }
            }
        })
        .collect()
}
