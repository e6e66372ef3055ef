//! An archive as a source: the tree that it holds, or a folder of that, without unpacking it to the disk. One that
//! is compressed is decompressed into a file without a name first, for its members are read in the order of
//! their paths.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CapturePlan, CaptureReport, CaptureRequest, ConsistentPoint, Entry, EntryKind,
    EntryMeta, EntryPath, ErrorKind, Finding, FindingKind, OpContext, Outcome, Severity, Source,
    SourceError, SourceInfo, StreamProfile,
};
use jiff::Timestamp;

use super::below::strip;
use super::decode::member;
use super::opened::{Opened, told};
use super::packed::shown;
use super::packing::Packing;
use super::{dump, pump};
use crate::stop::{Stop, is_stopped};

/// Files up to this size are read at once.
const SMALL: u64 = 1 << 20;
/// Entries and bytes of a batch.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 4 << 20;

/// Where an archive lies.
#[derive(Debug, Clone)]
pub enum Lies {
    /// In a file, packed or not.
    InFile(PathBuf, Packing),
    /// A folder of an archive that is open.
    Folder(Arc<Opened>, EntryPath),
    /// A file in an archive that is open, packed or not.
    Member(Arc<Opened>, EntryPath, Packing),
}

/// Reads an archive.
#[derive(Debug, Clone)]
pub struct ArchiveSource {
    /// Where it lies.
    pub lies: Lies,
    /// A folder with room for what is unpacked.
    pub scratch: PathBuf,
    /// When it was made.
    pub time: Timestamp,
    /// What it was saved from, for people.
    pub origin: String,
}

impl ArchiveSource {
    fn subject(&self) -> String {
        match &self.lies {
            Lies::InFile(file, _) => file.display().to_string(),
            Lies::Folder(opened, path) | Lies::Member(opened, path, _) => {
                shown(&opened.file, path).display().to_string()
            }
        }
    }

    /// Tells of the room that is needed before it is taken.
    fn tell(&self, cx: &OpContext) {
        let size = match &self.lies {
            Lies::InFile(_, Packing::None) | Lies::Member(.., Packing::None) | Lies::Folder(..) => {
                return;
            }
            Lies::InFile(file, _) => file.metadata().map_or(0, |found| found.len()),
            Lies::Member(opened, path, _) => opened.size_of(path),
        };
        told(cx, &self.subject(), size, &self.scratch);
    }

    /// The archive, not packed, and the folder of it that is wanted.
    fn open(&self, stop: Stop<'_>) -> io::Result<(Arc<Opened>, EntryPath)> {
        Ok(match &self.lies {
            Lies::Folder(opened, folder) => (Arc::clone(opened), folder.clone()),
            Lies::InFile(file, packing) => {
                let opened = Opened::of_file(file, *packing, &self.scratch, stop)?;
                (Arc::new(opened), EntryPath::root())
            }
            Lies::Member(opened, path, packing) => {
                let opened = opened.member(path, *packing, &self.scratch, stop)?;
                (Arc::new(opened), EntryPath::root())
            }
        })
    }

    fn failed(&self, cause: io::Error) -> SourceError {
        if is_stopped(&cause) {
            return SourceError::new(ErrorKind::Cancelled, "read", self.subject());
        }
        match cause.kind() {
            // Nothing else is written to.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let scratch = self.scratch.display().to_string();
                SourceError::io(
                    "unpack into (--scratch names another folder)",
                    scratch,
                    cause,
                )
            }
            _ => SourceError::io("read", self.subject(), cause),
        }
    }
}

#[async_trait]
impl Source for ArchiveSource {
    fn info(&self) -> SourceInfo {
        dump::info(&self.origin)
    }

    async fn plan(
        &self,
        _cx: &OpContext,
        _request: &CaptureRequest,
    ) -> Result<CapturePlan, SourceError> {
        Ok(dump::plan(self.subject()))
    }

    async fn begin(
        &self,
        cx: &OpContext,
        _plan: CapturePlan,
    ) -> Result<Box<dyn Capture>, SourceError> {
        self.tell(cx);
        let (source, cancel) = (self.clone(), cx.cancel.clone());
        let read = move || source.open(&|| cancel.is_cancelled());
        let (opened, below) = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(|cause| self.failed(cause))?;
        // Those of a whole export were looked at when it was checked.
        let findings = match &self.lies {
            Lies::Folder(..) => Vec::new(),
            Lies::InFile(..) | Lies::Member(..) => opened.index.findings.clone(),
        };
        Ok(Box::new(ArchiveCapture {
            subject: self.subject(),
            point: dump::point(self.time),
            places: opened.index.below(&below),
            opened,
            below,
            findings,
            folders: Vec::new(),
            no_folder: None,
        }))
    }
}

#[derive(Debug)]
struct ArchiveCapture {
    subject: String,
    point: ConsistentPoint,
    opened: Arc<Opened>,
    /// The folder of the archive that is read.
    below: EntryPath,
    /// Members of it that are still to come.
    places: Range<usize>,
    findings: Vec<Finding>,
    /// The folders that the last entry lies in.
    folders: Vec<EntryPath>,
    /// The last entry that is no folder: nothing can lie in it.
    no_folder: Option<EntryPath>,
}

impl ArchiveCapture {
    /// Folders above a path that the archive does not have.
    fn folders_above(&mut self, path: &EntryPath, out: &mut Vec<Entry>) {
        while self
            .folders
            .last()
            .is_some_and(|last| !path.starts_with(last))
        {
            self.folders.pop();
        }
        let mut missing = Vec::new();
        let mut above = path.parent();
        while let Some(folder) = above.filter(|folder| !folder.is_root()) {
            if self.folders.last() == Some(&folder) {
                break;
            }
            above = folder.parent();
            missing.push(folder);
        }
        for folder in missing.into_iter().rev() {
            let mut meta = EntryMeta::stream(super::file_time(self.point.at));
            meta.kind = EntryKind::Directory;
            meta.mode = 0o755;
            out.push(entry(folder.clone(), meta, None, Body::None));
            self.folders.push(folder);
        }
    }

    /// The entry of a member; nothing for one that cannot be one.
    fn entry(&mut self, cx: &OpContext, at: usize, out: &mut Vec<Entry>) -> io::Result<u64> {
        let opened = Arc::clone(&self.opened);
        let place = opened.index.places.get(at);
        let Some((place, path)) = place.zip(place.and_then(|it| strip(&it.path, &self.below)))
        else {
            return Ok(0);
        };
        if self
            .no_folder
            .as_ref()
            .is_some_and(|above| path.starts_with(above))
        {
            let why = "it lies in something that is no folder";
            let finding = Finding::entry(FindingKind::Skipped, &path, why);
            self.findings.push(Finding {
                severity: Severity::Warning,
                ..finding
            });
            return Ok(0);
        }
        // Another name of a file is that file.
        let Ok(found) = member(&opened.archive, place.content)? else {
            return Ok(0);
        };
        self.folders_above(&path, out);
        let mut meta = found.meta;
        if opened.index.linked.contains(&place.content) {
            meta.link_group = Some(place.content);
        }
        if meta.kind == EntryKind::Directory {
            self.folders.push(path.clone());
        } else {
            self.no_folder = Some(path.clone());
        }
        let Some(content) = found.content else {
            out.push(entry(path, meta, None, Body::None));
            return Ok(0);
        };
        let size = content.size;
        let body = if size <= SMALL {
            let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            io::Read::read_to_end(&mut content.reader(&opened.archive), &mut bytes)?;
            Body::Bytes(bytes.into())
        } else {
            let subject = format!("{path} in {}", self.subject);
            let with = move |pass: pump::Pass<'_>| content.pass_on(&opened.archive, pass);
            Body::Stream(pump::segments(with, subject, cx.cancel.clone())?)
        };
        out.push(entry(path, meta, Some(size), body));
        Ok(size)
    }

    fn batch(&mut self, cx: &OpContext) -> io::Result<Vec<Entry>> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        while out.len() < BATCH && bytes < BATCH_BYTES {
            let Some(at) = self.places.next() else {
                break;
            };
            let size = self.entry(cx, at, &mut out)?;
            bytes += size;
            // One stream is drained before the next.
            if size > SMALL {
                break;
            }
        }
        Ok(out)
    }
}

fn entry(path: EntryPath, meta: EntryMeta, size: Option<u64>, body: Body) -> Entry {
    Entry {
        path,
        meta,
        fingerprint: None,
        size,
        profile: StreamProfile::Auto,
        body,
    }
}

#[async_trait]
impl Capture for ArchiveCapture {
    fn point(&self) -> &ConsistentPoint {
        &self.point
    }

    async fn next_entries(&mut self, cx: &OpContext) -> Result<Vec<Entry>, SourceError> {
        let batch = tokio::task::block_in_place(|| self.batch(cx));
        batch.map_err(|cause| SourceError::io("read", &self.subject, cause))
    }

    async fn close(&mut self, _cx: &OpContext) -> Result<CaptureReport, SourceError> {
        Ok(CaptureReport {
            findings: std::mem::take(&mut self.findings),
            ..CaptureReport::default()
        })
    }

    async fn settle(
        self: Box<Self>,
        _cx: &OpContext,
        _outcome: Outcome,
    ) -> Result<(), SourceError> {
        Ok(())
    }
}
