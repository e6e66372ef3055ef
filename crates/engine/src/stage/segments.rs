//! The segments of a stream as they come from its source.

use backup_core::{EntryPath, OpContext, Segment, SegmentStream};
use futures::StreamExt as _;
use tokio::runtime::Handle;

use crate::error::{EngineError, Result};

/// The segments of a stream, looked at as they come: they follow each other, none is empty, and
/// adjoining ranges that are unchanged are one.
pub(super) struct Segments<'a> {
    cx: &'a OpContext,
    handle: &'a Handle,
    stream: SegmentStream,
    ahead: Option<Segment>,
    at: u64,
}

impl<'a> Segments<'a> {
    /// The segments of a stream.
    pub(super) const fn new(cx: &'a OpContext, handle: &'a Handle, stream: SegmentStream) -> Self {
        Self {
            cx,
            handle,
            stream,
            ahead: None,
            at: 0,
        }
    }

    /// The next segment.
    ///
    /// # Errors
    /// Failures of the source; [`EngineError::Invalid`] when it goes on elsewhere.
    pub(super) fn next(&mut self, path: &EntryPath) -> Result<Option<Segment>> {
        let next = match self.ahead.take() {
            Some(ahead) => Some(ahead),
            None => self.pull(path)?,
        };
        let Some(Segment::Unchanged(mut range)) = next else {
            return Ok(next);
        };
        loop {
            match self.pull(path)? {
                Some(Segment::Unchanged(more)) => range.end = more.end,
                other => {
                    self.ahead = other;
                    return Ok(Some(Segment::Unchanged(range)));
                }
            }
        }
    }

    /// The next segment that is not empty.
    fn pull(&mut self, path: &EntryPath) -> Result<Option<Segment>> {
        loop {
            // It is not waited for longer than the operation goes on.
            let (cancel, stream) = (&self.cx.cancel, &mut self.stream);
            let next = self.handle.block_on(async {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => Err(EngineError::Cancelled),
                    segment = stream.next() => Ok(segment.transpose()?),
                }
            });
            let Some(segment) = next? else {
                return Ok(None);
            };
            let (start, length) = match &segment {
                Segment::Data { offset, bytes } => (*offset, Some(bytes.len() as u64)),
                Segment::Zero(range) | Segment::Unchanged(range) => {
                    (range.start, range.end.checked_sub(range.start))
                }
            };
            let at = self.at;
            let end = length.and_then(|length| at.checked_add(length));
            let Some(end) = end.filter(|_| start == at) else {
                return Err(EngineError::Invalid(format!(
                    "the source of {path} went on at byte {start} instead of {at}, or backwards"
                )));
            };
            self.at = end;
            if end > at {
                return Ok(Some(segment));
            }
        }
    }
}
