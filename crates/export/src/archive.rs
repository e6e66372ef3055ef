//! A component of a snapshot as an archive: its entries in order, each read once, chunk by chunk.

use std::collections::HashMap;

use backup_core::{EntryKind, Event, Finding, FindingKind, OpContext, Severity, Stage};
use backup_engine::SnapshotView;
use backup_engine::view::{ContentReader, Seen, ViewEntry};
use backup_integrity::digest::ContentHasher;

use backup_core::EntryPath;

use crate::error::{ExportError, Result};
use crate::export::Written;
use crate::header::{self, BLOCK, What};
use crate::pipe::Pipe;

/// Files with several names that are remembered, so that their further names are links.
const MOST_LINKED: usize = 65_536;

/// Writes the entries of a component into an archive, and its end.
pub(crate) async fn write(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    component: u8,
    out: &mut Pipe,
) -> Result<Written> {
    let mut writer = Writer {
        view,
        cx,
        out,
        linked: HashMap::new(),
        written: Written::default(),
    };
    let mut walk = view.entries(component, &EntryPath::root());
    loop {
        match walk.step(cx).await? {
            Some(Seen::Entry(entry)) => writer.entry(&entry).await?,
            Some(Seen::Lost(lost)) => return Err(lost.why.into()),
            None => break,
        }
    }
    let Writer { out, written, .. } = writer;
    out.write(vec![0; 2 * BLOCK]).await?;
    Ok(written)
}

struct Writer<'w, 'r> {
    view: &'w SnapshotView<'r>,
    cx: &'w OpContext,
    out: &'w mut Pipe,
    /// The first name of each file with several, by its group.
    linked: HashMap<u64, Vec<u8>>,
    written: Written,
}

impl Writer<'_, '_> {
    async fn entry(&mut self, entry: &ViewEntry) -> Result<()> {
        if self.cx.cancel.is_cancelled() {
            return Err(backup_engine::EngineError::Cancelled.into());
        }
        let (record, path) = (&entry.record, entry.path.to_slashed());
        let mut head = Vec::with_capacity(BLOCK);
        if record.meta.kind == EntryKind::Socket {
            let why = "an archive cannot hold a socket";
            self.found(Severity::Note, FindingKind::Skipped, &entry.path, why);
            return Ok(());
        }
        // The root of a component has no name in an archive.
        if path.is_empty() {
            return Ok(());
        }
        self.written.entries += 1;
        let first = record
            .meta
            .link_group
            .and_then(|group| self.linked.get(&group));
        if let Some(first) = first {
            header::append(&mut head, &path, &record.meta, What::LinkTo(first), 0);
            return self.out.write(head).await;
        }
        let has_content = record.meta.kind.has_content();
        let size = if has_content { record.size } else { 0 };
        let left_out = header::append(&mut head, &path, &record.meta, What::Itself, size);
        for name in left_out {
            let name = String::from_utf8_lossy(&name).into_owned();
            let why = format!("an archive cannot hold its attribute {name:?}");
            self.found(Severity::Warning, FindingKind::Metadata, &entry.path, &why);
        }
        self.out.write(head).await?;
        if has_content {
            self.content(entry).await?;
        }
        self.remember(entry, path);
        self.cx.tell(Event::Advanced {
            stage: Stage::Write,
            entries: 1,
            bytes: size,
        });
        Ok(())
    }

    /// Remembers the first name of a file with several.
    fn remember(&mut self, entry: &ViewEntry, path: Vec<u8>) {
        let Some(group) = entry.record.meta.link_group else {
            return;
        };
        if self.linked.len() < MOST_LINKED {
            self.linked.insert(group, path);
            return;
        }
        let why = "too many files have several names: its further names are files of their own";
        self.found(Severity::Note, FindingKind::Degraded, &entry.path, why);
    }

    /// Writes the content of a file. One that is damaged ends the export: its header, with its size, is
    /// written already, and nobody could tell the file from a whole one.
    async fn content(&mut self, entry: &ViewEntry) -> Result<()> {
        let damaged = |why: &str| ExportError::Damaged {
            what: format!("/{}", entry.path),
            why: why.to_owned(),
        };
        let extents = self.view.extents(self.cx, &entry.record).await?;
        let mut reader = ContentReader::new(self.view.repository(), extents);
        let (mut hasher, mut length) = (ContentHasher::new(), 0u64);
        while let Some(bytes) = reader.next(self.cx).await.map_err(|error| {
            if error.is_damage() {
                damaged(&error.to_string())
            } else {
                error.into()
            }
        })? {
            if self.cx.cancel.is_cancelled() {
                return Err(backup_engine::EngineError::Cancelled.into());
            }
            hasher.update(&bytes);
            length += bytes.len() as u64;
            self.out.write(bytes).await?;
        }
        let digest = hasher.finish();
        if length != entry.record.size || entry.record.sha256.is_some_and(|sum| sum != digest.0) {
            return Err(damaged("its content does not have its SHA-256"));
        }
        self.written.bytes += length;
        let mut rest = Vec::new();
        header::pad(&mut rest, length);
        if !rest.is_empty() {
            self.out.write(rest).await?;
        }
        Ok(())
    }

    fn found(&mut self, severity: Severity, kind: FindingKind, path: &EntryPath, why: &str) {
        let finding = Finding::new(severity, kind, format!("/{path}"), why);
        self.cx.tell(Event::Found(&finding));
        self.written.found(finding);
    }
}
