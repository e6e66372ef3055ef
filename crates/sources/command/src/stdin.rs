//! The source that reads what it is handed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use backup_core::{
    Capture, CapturePlan, CaptureRequest, Consistency, ErrorKind, OpContext, Source, SourceCaps,
    SourceError, SourceInfo, StreamProfile,
};

use crate::capture::{self, Stream, StreamCapture};
use crate::{KIND, pump};

/// Saves what a reader yields, such as standard input, as one stream. It can be captured once.
///
/// A reader that yields nothing for ever keeps the thread that waits for it, also after the
/// capture was given up.
pub struct StdinSource {
    name: String,
    profile: StreamProfile,
    allow_empty: bool,
    reader: Mutex<Option<Box<dyn Read + Send>>>,
}

impl StdinSource {
    /// A source of what `reader` yields, under the path `name` (components separated by `/`).
    #[must_use]
    pub fn new(reader: impl Read + Send + 'static, name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            profile: StreamProfile::Auto,
            allow_empty: false,
            reader: Mutex::new(Some(Box::new(reader))),
        }
    }

    /// A source of what an open file or pipe yields; a pipe is widened first, which makes it
    /// several times as fast.
    #[must_use]
    pub fn of_file(file: File, name: impl Into<String>) -> Self {
        pump::widen(&file);
        Self::new(file, name)
    }

    /// The same source with a stream that is cut in a given way.
    #[must_use]
    pub const fn profile(mut self, profile: StreamProfile) -> Self {
        self.profile = profile;
        self
    }

    /// The same source, for which an empty stream is as it should be or a warning.
    #[must_use]
    pub const fn allow_empty(mut self, allow: bool) -> Self {
        self.allow_empty = allow;
        self
    }
}

impl fmt::Debug for StdinSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StdinSource")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// What is read, for people.
const SUBJECT: &str = "standard input";

#[async_trait]
impl Source for StdinSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: KIND,
            origin: vec![SUBJECT.to_owned()],
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: 1,
                best_consistency: Consistency::Crash,
            },
        }
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        capture::path_of(&self.name)?;
        capture::plan(&self.name, request)
    }

    async fn begin(
        &self,
        cx: &OpContext,
        _plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let path = capture::path_of(&self.name)?;
        let reader = self
            .reader
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(reader) = reader else {
            return Err(SourceError::new(ErrorKind::Invalid, "read", SUBJECT)
                .because("it was read already, and cannot be read twice"));
        };
        let (segments, progress) = pump::start(reader, SUBJECT.to_owned(), cx.cancel.clone())
            .map_err(|cause| SourceError::io("read", SUBJECT, cause))?;
        let stream = Stream {
            path,
            subject: SUBJECT.to_owned(),
            profile: self.profile,
            allow_empty: self.allow_empty,
            attrs: Vec::new(),
            segments,
            progress,
            process: None,
        };
        Ok(Box::new(StreamCapture::new(cx, stream)))
    }
}
