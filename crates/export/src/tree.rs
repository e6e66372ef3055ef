//! A component of a snapshot as a tree of files: restored as any restore is, beside what did not change
//! since the export before.

use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use backup_core::{
    EntryKind, EntryPath, Finding, FindingKind, OpContext, RestoreMode, Severity, Target,
};
use backup_engine::SnapshotView;
use backup_engine::restore::{Filter, RestoreJob, RestoreOutcome, restore};
use backup_engine::view::{Seen, ViewEntry};
use backup_integrity::digest::{ContentDigest, ContentHasher};

use crate::error::{ExportError, Result, at};
use crate::export::{ExportJob, Written};
use crate::folded;
use crate::previous::Previous;
use crate::stop::digest_of;
use crate::sums::SumsWriter;

/// One component, and where it goes.
#[derive(Debug)]
pub(crate) struct Tree<'t> {
    pub(crate) component: u8,
    /// The folder in the export that is being built.
    pub(crate) folder: &'t Path,
    /// What the lines of `SHA256SUMS` have in front of its paths.
    pub(crate) prefix: &'t str,
    pub(crate) previous: Option<Previous>,
}

impl Tree<'_> {
    /// Writes it. Gives what was written, and the digest of its lines of `SHA256SUMS`.
    pub(crate) async fn write(
        &self,
        view: &SnapshotView<'_>,
        cx: &OpContext,
        job: &ExportJob,
        target: Arc<dyn Target>,
        sums: &mut SumsWriter,
    ) -> Result<(Written, ContentDigest)> {
        let mut written = Written::default();
        if folded::is_folded(self.folder)? {
            folded::check(view, cx, self.component).await?;
        }
        if self.previous.is_some() {
            self.link(view, cx, &mut written).await?;
        }
        let mut restore_job = RestoreJob::whole(
            RestoreMode::Files,
            Some(self.folder.into()),
            job.host.clone(),
        );
        restore_job.component = self.component;
        restore_job.user.clone_from(&job.user);
        restore_job.filter = self.previous.is_some().then(|| self.not_linked());
        let outcome = restore(view, cx, target, &restore_job).await?;
        if let Some(error) = broken(&outcome) {
            return Err(error);
        }
        for finding in outcome.report.findings {
            written.found(finding);
        }
        let digest = self.sums(view, cx, &mut written, sums).await?;
        Ok((written, digest))
    }

    /// Gives what did not change a second name.
    async fn link(
        &self,
        view: &SnapshotView<'_>,
        cx: &OpContext,
        written: &mut Written,
    ) -> Result<()> {
        let Some(previous) = &self.previous else {
            return Ok(());
        };
        let mut walk = view.entries(self.component, &EntryPath::root());
        while let Some(seen) = walk.step(cx).await? {
            let Seen::Entry(entry) = seen else {
                // The restore tells of it.
                continue;
            };
            if cx.cancel.is_cancelled() {
                return Err(backup_engine::EngineError::Cancelled.into());
            }
            let (slashed, record) = (entry.path.to_slashed(), &entry.record);
            // It reads the former file, which may take as long as writing it.
            let stop = || cx.cancel.is_cancelled();
            let linked = tokio::task::block_in_place(|| {
                previous.link(&slashed, record, self.folder, &stop)
            })?;
            if linked {
                written.linked += 1;
                written.linked_bytes += record.size;
            }
        }
        Ok(())
    }

    /// Lets everything pass that was not linked.
    fn not_linked(&self) -> Filter {
        let folder = self.folder.to_path_buf();
        Arc::new(move |path: &EntryPath, entry: &ViewEntry| {
            let place = folder.join(std::ffi::OsStr::from_bytes(&path.to_slashed()));
            entry.record.meta.kind != EntryKind::File || place.symlink_metadata().is_err()
        })
    }

    /// Writes a line for each file.
    async fn sums(
        &self,
        view: &SnapshotView<'_>,
        cx: &OpContext,
        written: &mut Written,
        sums: &mut SumsWriter,
    ) -> Result<ContentDigest> {
        let mut all = ContentHasher::new();
        let mut walk = view.entries(self.component, &EntryPath::root());
        while let Some(entry) = walk.next(cx).await? {
            written.entries += 1;
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            written.bytes += entry.record.size;
            let slashed = entry.path.to_slashed();
            let digest = match entry.record.sha256 {
                Some(digest) => ContentDigest(digest),
                // It was never read as a whole; now it is there as one.
                None => {
                    let place = self.folder.join(std::ffi::OsStr::from_bytes(&slashed));
                    let stop = || cx.cancel.is_cancelled();
                    let read = || digest_of(File::open(&place)?, &stop);
                    tokio::task::block_in_place(read)
                        .map_err(at("read", &place))?
                        .0
                }
            };
            let name = [self.prefix.as_bytes(), b"/", &slashed].concat();
            all.update(sums.add(&digest, &name)?);
        }
        Ok(all.finish())
    }
}

/// Why what was restored is no export: something is damaged or lost, or could not be written. What only lacks
/// some of its metadata is a finding.
fn broken(outcome: &RestoreOutcome) -> Option<ExportError> {
    let findings = &outcome.report.findings;
    let is_damage = |finding: &&Finding| {
        let hurt = matches!(
            finding.kind,
            FindingKind::Damaged | FindingKind::Missing | FindingKind::Mismatch
        );
        hurt && finding.severity > Severity::Note
    };
    let is_serious = |finding: &&Finding| {
        finding.severity == Severity::Error && finding.kind != FindingKind::Metadata
    };
    let lost = findings.first().filter(|_| outcome.lost_pages > 0);
    if let Some(found) = findings.iter().find(is_damage).or(lost) {
        return Some(ExportError::Damaged {
            what: found.subject.clone(),
            why: found.detail.clone(),
        });
    }
    let found = findings.iter().find(is_serious)?;
    Some(ExportError::NotWritten {
        what: found.subject.clone(),
        why: found.detail.clone(),
    })
}
