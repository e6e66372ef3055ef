//! Exporting a snapshot: `plan → build beside → sums → rename → latest`. Once it has its name there is an export, and
//! what goes wrong behind that is a finding.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{
    ComponentMeta, Event, Finding, FindingKind, HostId, OpContext, Severity, Target,
};
use backup_engine::SnapshotView;
use backup_engine::restore::{Reading, record_reading};
use backup_integrity::digest::ContentDigest;
use backup_integrity::ledger::RecordOutcome;

use crate::archive;
use crate::error::{ExportError, Result};
use crate::metadata::{self, Component, Metadata, VERSION, ratio};
use crate::name::{folder_name, of_components, quarter};
use crate::pipe::{Compression, Pipe};
use crate::place::{self, Building, LATEST, Latest, check_way, make_way, new_folder};
use crate::previous;
use crate::sums::{SumsWriter, name_of};
use crate::tree::Tree;
use crate::wrap::Wrap;

/// Findings that are kept word by word.
const MOST_FINDINGS: usize = 1000;

/// How the components of a snapshot lie in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// As files.
    Tree,
    /// Each as one archive.
    Tar,
    /// Each as one archive, compressed with gzip.
    TarGzip,
    /// Each as one archive, compressed with zstd.
    TarZstd,
}

impl Layout {
    /// How `metadata.json` names it; of archives also the end of their names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Tar => "tar",
            Self::TarGzip => "tar.gz",
            Self::TarZstd => "tar.zst",
        }
    }

    const fn compression(self) -> Option<Compression> {
        match self {
            Self::Tree => None,
            Self::Tar => Some(Compression::None),
            Self::TarGzip => Some(Compression::Gzip),
            Self::TarZstd => Some(Compression::Zstd),
        }
    }
}

/// What is exported, and how.
#[derive(Debug, Clone)]
pub struct ExportJob {
    /// The folder that holds exports.
    pub to: PathBuf,
    /// How components lie there.
    pub layout: Layout,
    /// Whether it goes into a folder of its quarter.
    pub archive: bool,
    /// What archives are encrypted with.
    pub wrap: Option<Wrap>,
    /// Whether files that did not change since the latest export are links to it.
    pub link: bool,
    /// The host that exports, for the record.
    pub host: HostId,
    /// The user who asked for it, for the record.
    pub user: String,
}

/// What an export will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportPlan {
    /// The folder that it will make.
    pub folder: PathBuf,
    /// Entries of the snapshot.
    pub entries: u64,
    /// Bytes of their content.
    pub bytes: u64,
    /// The export that files may be linked with.
    pub previous: Option<PathBuf>,
    /// Whether `latest` would lead to it now.
    pub becomes_latest: bool,
}

/// What an export did.
#[derive(Debug, Clone)]
pub struct ExportOutcome {
    /// The folder that it made.
    pub folder: PathBuf,
    /// What it says of itself.
    pub metadata: Metadata,
    /// Entries that were written or linked.
    pub entries: u64,
    /// Files that are links to the former export.
    pub linked: u64,
    /// Bytes of their content.
    pub linked_bytes: u64,
    /// Where `latest` leads now.
    pub latest: Latest,
    /// What is not in it as it was saved, and what is to be said of the ledger and of `latest`.
    pub findings: Vec<Finding>,
}

/// What was written of a component.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) linked: u64,
    pub(crate) linked_bytes: u64,
    pub(crate) findings: Vec<Finding>,
}

impl Written {
    pub(crate) fn found(&mut self, finding: Finding) {
        if self.findings.len() < MOST_FINDINGS {
            self.findings.push(finding);
        } else if finding.severity > Severity::Note
            && let Some(last) = self.findings.last_mut()
        {
            // That there is more than notes must show in the end.
            *last = finding;
        }
    }
}

/// Finds out what an export would do; only reads.
///
/// # Errors
/// [`ExportError::Exists`], [`ExportError::InTheWay`], [`ExportError::Encrypt`],
/// [`ExportError::Invalid`].
pub fn plan(view: &SnapshotView<'_>, job: &ExportJob) -> Result<ExportPlan> {
    if let Some(wrap) = &job.wrap {
        if job.layout == Layout::Tree {
            return Err(ExportError::Invalid(
                "a tree of files cannot be encrypted: choose an archive (--layout tar.zst)".into(),
            ));
        }
        wrap.check()?;
    }
    let below = below(view, job);
    check_way(&job.to, below.parent().unwrap_or(Path::new("")))?;
    let folder = job.to.join(&below);
    if folder.symlink_metadata().is_ok() {
        return Err(ExportError::Exists(folder));
    }
    let meta = view.meta();
    let latest = place::latest(&job.to)?.map(|leads| job.to.join(leads));
    let said = latest.as_deref().and_then(|it| Metadata::read(it).ok());
    // One that was made of a later snapshot stays the latest.
    let becomes_latest = said.is_none_or(|said| said.time <= meta.time);
    Ok(ExportPlan {
        folder,
        entries: meta.stats.entries,
        bytes: meta.stats.bytes,
        previous: latest.filter(|_| job.link && job.layout == Layout::Tree),
        becomes_latest,
    })
}

/// The way of an export below its folder.
fn below(view: &SnapshotView<'_>, job: &ExportJob) -> PathBuf {
    let meta = view.meta();
    let name = folder_name(meta);
    if job.archive {
        Path::new(&quarter(meta.time)).join(name)
    } else {
        name.into()
    }
}

/// Exports a snapshot: either the whole export is there under its name, or nothing. `targets` makes
/// what restores into a folder.
///
/// Must run on a multi-threaded tokio runtime.
///
/// # Errors
/// [`ExportError`]; then there is no export, and what was built of it is gone.
pub async fn export(
    view: &SnapshotView<'_>,
    cx: &OpContext,
    job: &ExportJob,
    targets: &(dyn Fn(&Path) -> Arc<dyn Target> + Send + Sync),
) -> Result<ExportOutcome> {
    let plan = plan(view, job)?;
    let below = below(view, job);
    let parent = make_way(&job.to, below.parent().unwrap_or(Path::new("")))?;
    let building = Building::begin(&parent)?;
    let exporting = Exporting {
        view,
        cx,
        job,
        plan: &plan,
        building: &building,
    };
    let built = exporting.build(targets).await;
    // A tree was restored, and that is recorded by whoever restores.
    let mut of_ledger = Vec::new();
    if job.layout != Layout::Tree {
        let reading = reading(job, &built);
        of_ledger = record_reading(view, cx, &job.host, &job.user, reading).await;
    }
    let (metadata, mut written) = built?;
    let name = folder_name(view.meta());
    let (folder, doubt) = building.finish(&name)?;
    // It is in place: what goes wrong from here on does not take it away.
    let mut doubtful = |folder: &Path, why: String| {
        let (severity, kind) = (Severity::Warning, FindingKind::Degraded);
        let finding = Finding::new(severity, kind, folder.display().to_string(), why);
        cx.tell(Event::Found(&finding));
        written.findings.push(finding);
    };
    if let Some(doubt) = doubt {
        let why = format!("the export is in place, and may not outlast a power loss yet: {doubt}");
        doubtful(&folder, why);
    }
    let latest = place::point_latest(&job.to, &below, view.meta().time);
    let latest = latest.unwrap_or_else(|error| {
        let why = format!("the export is in place, and {LATEST} does not lead to it: {error}");
        doubtful(&job.to.join(LATEST), why);
        Latest::NotSwitched
    });
    written.findings.extend(of_ledger);
    Ok(ExportOutcome {
        folder,
        metadata,
        entries: written.entries,
        linked: written.linked,
        linked_bytes: written.linked_bytes,
        latest,
        findings: written.findings,
    })
}

/// What the ledger is told of an export into archives.
fn reading(job: &ExportJob, built: &Result<(Metadata, Written)>) -> Reading {
    let cancelled = |error: &ExportError| {
        matches!(
            error,
            ExportError::Engine(backup_engine::EngineError::Cancelled)
        )
    };
    let (entries, bytes, findings, outcome) = match built {
        Ok((_, written)) => {
            let serious = |one: &&Finding| one.severity > Severity::Note;
            let findings = written.findings.iter().filter(serious).count() as u64;
            let outcome = if findings > 0 {
                RecordOutcome::Findings
            } else {
                RecordOutcome::Ok
            };
            (written.entries, written.bytes, findings, outcome)
        }
        Err(error) if cancelled(error) => (0, 0, 0, RecordOutcome::Cancelled),
        Err(_) => (0, 0, 0, RecordOutcome::Failed),
    };
    Reading {
        entries,
        bytes,
        findings,
        outcome,
        note: format!("a plain export, as {}", job.layout.name()),
    }
}

struct Exporting<'e, 'r> {
    view: &'e SnapshotView<'r>,
    cx: &'e OpContext,
    job: &'e ExportJob,
    plan: &'e ExportPlan,
    building: &'e Building,
}

impl Exporting<'_, '_> {
    /// Writes everything into the folder that is being built.
    async fn build(
        &self,
        targets: &(dyn Fn(&Path) -> Arc<dyn Target> + Send + Sync),
    ) -> Result<(Metadata, Written)> {
        let top = self.building.path();
        let data = top.join("data");
        new_folder(&data)?;
        let components = self.view.components();
        let names = of_components(components.iter().map(|one| one.name.as_str()));
        let mut sums = SumsWriter::new(top)?;
        let (mut all, mut described) = (Written::default(), Vec::new());
        for (number, (component, name)) in (0u8..).zip(components.iter().zip(&names)) {
            let (written, path, stored, digest) = if self.job.layout == Layout::Tree {
                let path = format!("data/{name}");
                let (written, digest) = self.tree(number, name, &path, targets, &mut sums).await?;
                let stored = written.bytes;
                (written, path, stored, digest)
            } else {
                self.archive(number, name, &mut sums).await?
            };
            described.push(describe(component, path, &written, stored, digest));
            all.entries += written.entries;
            all.bytes += written.bytes;
            all.linked += written.linked;
            all.linked_bytes += written.linked_bytes;
            written.findings.into_iter().for_each(|one| all.found(one));
        }
        let metadata = self.metadata(described);
        let text = metadata.write(top)?;
        let name = name_of(Path::new(metadata::NAME));
        sums.add(&ContentDigest::of(&text), name)?;
        sums.finish()?;
        Ok((metadata, all))
    }

    async fn tree(
        &self,
        number: u8,
        name: &str,
        path: &str,
        targets: &(dyn Fn(&Path) -> Arc<dyn Target> + Send + Sync),
        sums: &mut SumsWriter,
    ) -> Result<(Written, ContentDigest)> {
        let folder = self.building.path().join(path);
        new_folder(&folder)?;
        let meta = self.view.meta();
        let former = self.plan.previous.as_deref();
        let tree = Tree {
            component: number,
            folder: &folder,
            prefix: path,
            previous: former
                .and_then(|it| previous::of_component(it, &meta.name, &meta.host.0, name)),
        };
        let target = targets(&folder);
        tree.write(self.view, self.cx, self.job, target, sums).await
    }

    async fn archive(
        &self,
        number: u8,
        name: &str,
        sums: &mut SumsWriter,
    ) -> Result<(Written, String, u64, ContentDigest)> {
        let wrap = self.job.wrap.as_ref();
        let mut path = format!("data/{name}.{}", self.job.layout.name());
        if let Some(wrap) = wrap {
            path = format!("{path}.{}", wrap.name());
        }
        let compression = self.job.layout.compression().unwrap_or(Compression::None);
        let top = self.building.path();
        let mut pipe = Pipe::begin(&top.join(&path), top, compression, wrap)?;
        let written = archive::write(self.view, self.cx, number, &mut pipe).await?;
        let (digest, stored) = pipe.finish().await?;
        sums.add(&digest, path.as_bytes())?;
        Ok((written, path, stored, digest))
    }

    fn metadata(&self, components: Vec<Component>) -> Metadata {
        let meta = self.view.meta();
        let size = components.iter().map(|one| one.size_bytes).sum();
        let stored = components.iter().map(|one| one.stored_bytes).sum();
        let mut kinds: Vec<&str> = components.iter().map(|one| one.kind.as_str()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        Metadata {
            version: VERSION,
            program: concat!("backstay ", env!("CARGO_PKG_VERSION")).into(),
            id: meta.id.to_string(),
            repository: self.view.repository().id().to_string(),
            name: meta.name.clone(),
            host: meta.host.0.clone(),
            time: meta.time,
            exported: self.cx.clock.now(),
            kind: kinds.join("+"),
            label: meta.label.clone(),
            tags: meta.tags.clone(),
            layout: self.job.layout.name().into(),
            encryption: self.job.wrap.as_ref().map(|wrap| wrap.name().into()),
            size_bytes: size,
            stored_bytes: stored,
            compression_ratio: ratio(size, stored),
            findings: meta.findings,
            components,
        }
    }
}

fn describe(
    component: &ComponentMeta,
    path: String,
    written: &Written,
    stored: u64,
    digest: ContentDigest,
) -> Component {
    Component {
        name: component.name.clone(),
        kind: component.kind.clone(),
        origin: component.origin.clone(),
        versions: component.versions.clone(),
        path,
        checksum: format!("sha256:{digest}"),
        entries: written.entries,
        size_bytes: written.bytes,
        stored_bytes: stored,
        compression_ratio: ratio(written.bytes, stored),
    }
}
