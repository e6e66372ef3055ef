//! The source: roots in a plan, a walk in a capture.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use async_trait::async_trait;
use backup_core::{
    Capture, CaptureMode, CapturePlan, CaptureReport, CaptureRequest, Consistency, ConsistentPoint,
    Entry, ErrorKind, Finding, FindingKind, OpContext, Outcome, PlannedEntry, Severity, SizeHint,
    Source, SourceCaps, SourceError, SourceInfo,
};
use bytes::Bytes;
use rustix::fs::{FileType, Stat, statvfs};

use crate::KIND;
use crate::config::{FileLimits, FilesConfig};
use crate::exclude::Lines;
use crate::roots::{self, RootSpec};
use crate::walk::{Walk, meta};

/// How many files the engine may have open at once.
const MAX_OPEN: usize = 64;

/// Saves files and folders. See [`FilesConfig`] for what and how.
#[derive(Debug, Clone)]
pub struct FilesSource {
    config: FilesConfig,
}

impl FilesSource {
    /// A source of what the configuration says.
    #[must_use]
    pub const fn new(config: FilesConfig) -> Self {
        Self { config }
    }
}

/// How much a root can hold: a file its size, a folder at most what its file system holds.
fn size_of_root(spec: &RootSpec, found: &Stat) -> SizeHint {
    match FileType::from_raw_mode(found.st_mode) {
        FileType::RegularFile => {
            let size = meta::size(found);
            SizeHint {
                at_least: size,
                at_most: Some(size),
            }
        }
        FileType::Directory => {
            let used = statvfs(spec.absolute()).map(|fs| {
                fs.f_blocks
                    .saturating_sub(fs.f_bfree)
                    .saturating_mul(fs.f_frsize)
            });
            SizeHint {
                at_least: 0,
                at_most: used.ok(),
            }
        }
        _ => SizeHint {
            at_least: 0,
            at_most: Some(0),
        },
    }
}

/// The sum of what is known; file systems that hold several roots count once, so the upper bound
/// stays unknown unless there is one root.
fn total(sizes: &[SizeHint]) -> SizeHint {
    match sizes {
        [only] => *only,
        _ => SizeHint {
            at_least: sizes.iter().map(|size| size.at_least).sum(),
            at_most: None,
        },
    }
}

#[async_trait]
impl Source for FilesSource {
    fn info(&self) -> SourceInfo {
        let shown = |root: &PathBuf| self.config.base.join(root).display().to_string();
        SourceInfo {
            kind: KIND,
            origin: self.config.roots.iter().map(shown).collect(),
            versions: BTreeMap::new(),
            caps: SourceCaps {
                incremental: false,
                max_open_entries: MAX_OPEN,
                best_consistency: Consistency::Crash,
            },
        }
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        let specs = roots::resolve(&self.config, &request.select)?;
        let lines = Lines::read(&self.config)?;
        roots::tree(&specs, &lines)?;
        let mut entries = Vec::new();
        for spec in &specs {
            let size = size_of_root(spec, &spec.stat()?);
            entries.push(PlannedEntry {
                name: format!("/{}", spec.path),
                size,
            });
        }
        let sizes: Vec<SizeHint> = entries.iter().map(|entry| entry.size).collect();
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
            entries,
            total: total(&sizes),
            notes: lines.wrong().to_vec(),
            token: token_of(&specs),
        })
    }

    async fn begin(
        &self,
        cx: &OpContext,
        plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        let specs = roots_of(&plan.token).map_or_else(
            || roots::resolve(&self.config, &[]),
            |roots| {
                roots::resolve(
                    &FilesConfig {
                        roots,
                        ..self.config.clone()
                    },
                    &[],
                )
            },
        )?;
        let mut first_device = None;
        for spec in &specs {
            let found = spec.stat()?;
            first_device.get_or_insert(found.st_dev);
        }
        let lines = Lines::read(&self.config)?;
        let wanted = roots::tree(&specs, &lines)?;
        let now = cx.clock.now();
        let limits = FileLimits::at(&self.config, now);
        let walk = Walk::start(
            self.config.clone(),
            limits,
            wanted,
            first_device.unwrap_or(0),
        )
        .map_err(|cause| SourceError::io("walk", "the roots", cause))?;
        for wrong in lines.wrong() {
            walk.findings().add(wrong.clone());
        }
        let point = ConsistentPoint {
            at: now,
            consistency: Consistency::Crash,
            position: None,
        };
        Ok(Box::new(FilesCapture { walk, point }))
    }
}

/// The roots of a plan: absolute paths, each with a NUL byte behind it.
fn token_of(specs: &[RootSpec]) -> Bytes {
    let mut token = Vec::new();
    for spec in specs {
        token.extend_from_slice(spec.absolute().as_os_str().as_bytes());
        token.push(0);
    }
    token.into()
}

/// The roots of a token; `None` for an empty one (a plan that was stored does not keep it).
fn roots_of(token: &Bytes) -> Option<Vec<PathBuf>> {
    let body = token.strip_suffix(&[0])?;
    Some(
        body.split(|&byte| byte == 0)
            .map(|path| PathBuf::from(OsStr::from_bytes(path)))
            .collect(),
    )
}

/// A walk under way.
#[derive(Debug)]
struct FilesCapture {
    walk: Walk,
    point: ConsistentPoint,
}

#[async_trait]
impl Capture for FilesCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        tokio::select! {
            biased;
            () = cx.cancel.cancelled() => {
                Err(SourceError::new(ErrorKind::Cancelled, "walk", "the roots"))
            }
            batch = self.walk.next() => {
                batch.map_err(|cause| SourceError::io("walk", "the roots", cause))
            }
        }
    }

    async fn close(&mut self, _cx: &OpContext) -> Result<CaptureReport, SourceError> {
        let mut findings = self.walk.findings().take();
        let limited = self.walk.limited();
        if limited > 0 {
            let files = if limited == 1 {
                "file was"
            } else {
                "files were"
            };
            let detail = format!("{limited} {files} left out by size or age");
            findings.push(Finding::new(
                Severity::Note,
                FindingKind::Skipped,
                "limits",
                detail,
            ));
        }
        Ok(CaptureReport {
            findings,
            ..CaptureReport::default()
        })
    }

    async fn settle(self: Box<Self>, _cx: &OpContext, _: Outcome) -> Result<(), SourceError> {
        Ok(())
    }
}
