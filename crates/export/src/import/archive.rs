//! An archive as a source: the tree that it holds, without unpacking it to the disk. One that is
//! compressed is decompressed into a file without a name first, for its members are read in the order of
//! their paths.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use backup_core::{
    Body, Capture, CapturePlan, CaptureReport, CaptureRequest, ConsistentPoint, Entry, EntryKind,
    EntryMeta, EntryPath, Finding, FindingKind, OpContext, Outcome, Severity, Source, SourceError,
    SourceInfo, StreamProfile,
};
use jiff::Timestamp;

use super::decode::{content, member};
use super::index::{Index, Place};
use super::packing::Packing;
use super::{dump, pump};

/// Files up to this size are read at once.
const SMALL: u64 = 1 << 20;
/// Entries and bytes of a batch.
const BATCH: usize = 64;
const BATCH_BYTES: u64 = 4 << 20;

/// Reads an archive that lies in a file.
#[derive(Debug, Clone)]
pub struct ArchiveSource {
    /// The file.
    pub file: PathBuf,
    /// How it is packed.
    pub packing: Packing,
    /// A folder with room for what is unpacked.
    pub scratch: PathBuf,
    /// When it was made.
    pub time: Timestamp,
    /// What it was saved from, for people.
    pub origin: String,
}

impl ArchiveSource {
    fn subject(&self) -> String {
        self.file.display().to_string()
    }

    /// The archive, not packed.
    fn open(&self) -> io::Result<File> {
        let file = File::open(&self.file)?;
        if self.packing == Packing::None {
            return Ok(file);
        }
        let mut plain = tempfile::tempfile_in(&self.scratch)?;
        io::copy(&mut self.packing.open(file)?, &mut plain)?;
        Ok(plain)
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
        let (source, cancel) = (self.clone(), cx.cancel.clone());
        let read = move || {
            let file = Arc::new(source.open()?);
            let index = Index::read(&file, &|| cancel.is_cancelled())?;
            Ok::<_, io::Error>((file, index))
        };
        let failed = |cause| SourceError::io("read", self.subject(), cause);
        let (file, index) = tokio::task::spawn_blocking(read)
            .await
            .map_err(io::Error::other)
            .and_then(|read| read)
            .map_err(failed)?;
        Ok(Box::new(ArchiveCapture {
            subject: self.subject(),
            point: dump::point(self.time),
            file,
            places: index.places.into_iter(),
            linked: index.linked,
            findings: index.findings,
            folders: Vec::new(),
            no_folder: None,
        }))
    }
}

#[derive(Debug)]
struct ArchiveCapture {
    subject: String,
    point: ConsistentPoint,
    file: Arc<File>,
    places: std::vec::IntoIter<Place>,
    linked: HashSet<u64>,
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
    fn entry(&mut self, cx: &OpContext, place: Place, out: &mut Vec<Entry>) -> io::Result<u64> {
        if self
            .no_folder
            .as_ref()
            .is_some_and(|above| place.path.starts_with(above))
        {
            let why = "it lies in something that is no folder";
            let finding = Finding::entry(FindingKind::Skipped, &place.path, why);
            self.findings.push(Finding {
                severity: Severity::Warning,
                ..finding
            });
            return Ok(0);
        }
        // Another name of a file is that file.
        let Ok(found) = member(&self.file, place.content)? else {
            return Ok(0);
        };
        self.folders_above(&place.path, out);
        let mut meta = found.meta;
        if self.linked.contains(&place.content) {
            meta.link_group = Some(place.content);
        }
        if meta.kind == EntryKind::Directory {
            self.folders.push(place.path.clone());
        } else {
            self.no_folder = Some(place.path.clone());
        }
        if meta.kind != EntryKind::File {
            out.push(entry(place.path, meta, None, Body::None));
            return Ok(0);
        }
        let (file, start) = (Arc::clone(&self.file), place.content);
        let body = if found.size <= SMALL {
            let read = |reader: &mut dyn io::Read| {
                let mut bytes = Vec::with_capacity(usize::try_from(found.size).unwrap_or(0));
                reader.read_to_end(&mut bytes).map(|_| bytes)
            };
            Body::Bytes(content(&file, start, read)?.into())
        } else {
            let subject = format!("{} in {}", place.path, self.subject);
            let with = move |pass: pump::Pass<'_>| content(&file, start, |reader| pass(reader));
            Body::Stream(pump::segments(with, subject, cx.cancel.clone())?)
        };
        out.push(entry(place.path, meta, Some(found.size), body));
        Ok(found.size)
    }

    fn batch(&mut self, cx: &OpContext) -> io::Result<Vec<Entry>> {
        let (mut out, mut bytes) = (Vec::new(), 0);
        while out.len() < BATCH && bytes < BATCH_BYTES {
            let Some(place) = self.places.next() else {
                break;
            };
            let size = self.entry(cx, place, &mut out)?;
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
