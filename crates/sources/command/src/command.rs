//! The source that runs a program.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use backup_core::{
    Capture, CapturePlan, CaptureRequest, Consistency, ErrorKind, OpContext, Source, SourceCaps,
    SourceError, SourceInfo,
};

use crate::capture::{self, Stream, StreamCapture};
use crate::config::CommandConfig;
use crate::process::Process;
use crate::{COMMAND_ATTR, KIND, pump};

/// Saves the standard output of a command as one stream.
///
/// The program runs in a process group of its own, with nothing on its standard input, and the
/// whole group is killed when the capture is dropped before its end. What it says on standard
/// error is kept, the last 8 KiB of it, for the error when it fails.
#[derive(Debug, Clone)]
pub struct CommandSource {
    config: CommandConfig,
}

impl CommandSource {
    /// A source of what the command writes.
    #[must_use]
    pub const fn new(config: CommandConfig) -> Self {
        Self { config }
    }

    fn error(&self, kind: ErrorKind, why: &str) -> SourceError {
        SourceError::new(kind, "run", self.config.shown()).because(why.to_owned())
    }

    /// What can be known before it runs.
    fn check(&self) -> Result<(), SourceError> {
        capture::path_of(&self.config.name)?;
        let Some(program) = self
            .config
            .argv
            .first()
            .filter(|program| !program.is_empty())
        else {
            return Err(self.error(ErrorKind::Invalid, "no command is given"));
        };
        let nul = |text: &str| text.contains('\0');
        let bad_name = |name: &String| name.is_empty() || name.contains('=') || nul(name);
        if self.config.argv.iter().any(|text| nul(text))
            || self
                .config
                .env
                .iter()
                .any(|(name, value)| bad_name(name) || nul(value))
        {
            let why = "an argument or a variable cannot be handed to a program";
            return Err(self.error(ErrorKind::Invalid, why));
        }
        if let Some(cwd) = &self.config.cwd
            && !cwd.is_dir()
        {
            let subject = cwd.display().to_string();
            return Err(SourceError::new(ErrorKind::NotFound, "run in", subject));
        }
        let found = match &self.config.cwd {
            Some(cwd) => cwd.join(program).exists(),
            None => Path::new(program).exists(),
        };
        // A plain name is looked for by the operating system, in its own way.
        if program.contains('/') && !found {
            return Err(SourceError::new(
                ErrorKind::NotFound,
                "run",
                program.clone(),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Source for CommandSource {
    fn info(&self) -> SourceInfo {
        SourceInfo {
            kind: KIND,
            origin: vec![self.config.shown()],
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
        self.check()?;
        capture::plan(&self.config.name, request)
    }

    async fn begin(
        &self,
        cx: &OpContext,
        _plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        self.check()?;
        let subject = self.config.shown();
        let fail = |cause| SourceError::io("run", subject.clone(), cause);
        let (process, stdout) = Process::start(&self.config).map_err(fail)?;
        let (segments, progress) =
            pump::start(stdout, subject.clone(), cx.cancel.clone()).map_err(fail)?;
        let stream = Stream {
            path: capture::path_of(&self.config.name)?,
            attrs: vec![(COMMAND_ATTR.to_owned(), subject.clone())],
            subject,
            profile: self.config.profile,
            allow_empty: self.config.allow_empty,
            segments,
            progress,
            process: Some(process),
        };
        Ok(Box::new(StreamCapture::new(cx, stream)))
    }
}
