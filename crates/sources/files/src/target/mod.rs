//! The way back: entries of a snapshot into a folder.
//!
//! *Killed at any instant, the next run finishes the work.* A new file has its final name at once
//! and a mode that says "unfinished" ([`meta::MARK_FILE`]) until, as the very last step, it gets
//! its own; a folder likewise. That costs nothing. Whatever carries the mark is finished by the next
//! restore, whatever its [`Overwrite`] says; a user's own file of that mode is told from it by what
//! [`begun`] keeps.
//!
//! *Where a file system keeps no modes* ([`keeps`]) a new file is made beside its place, noted, and gets
//! its name when it is whole.
//!
//! *What is overwritten is there until its successor is whole* ([`beside`]) *and on the disk*
//! ([`durable`]).
//!
//! *Nothing is written outside the folder.* See [`way`].

mod alike;
mod begun;
mod beside;
mod closed;
mod config;
mod covered;
mod doomed;
mod doubt;
mod durable;
mod fate;
mod file;
mod groups;
mod header;
mod journal;
mod keeps;
mod kept;
mod later;
mod links;
mod meta;
mod mirror;
mod node;
mod ours;
mod partial;
mod rehearsal;
mod replace;
mod restore;
mod spared;
mod way;
mod writer;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use backup_core::{
    EntryPath, ErrorKind, Finding, FindingKind, OpContext, Rehearsal, Restore, RestoreEntry,
    RestoreMode, RestorePlan, RestoreRequest, Severity, SizeHint, Target, TargetError,
};
use rustix::fs::{Access, Mode, OFlags, Stat, access, open, statvfs};
use rustix::io::Errno;

pub(crate) use begun::NAME as UNFINISHED;
pub use config::{FilesTargetConfig, Holes, Overwrite, Ownership};

use crate::findings::Findings;
use crate::handle::{DirHandle, HandleCache};
use fate::Fate;
use meta::Applier;
use rehearsal::FilesRehearsal;
use restore::FilesRestore;
use spared::Spared;
use writer::Writer;

/// Restores into a folder. See [`FilesTargetConfig`] for how. Streams and disks become regular
/// files.
#[derive(Debug, Clone)]
pub struct FilesTarget {
    config: FilesTargetConfig,
}

impl FilesTarget {
    /// A target as the configuration says.
    #[must_use]
    pub const fn new(config: FilesTargetConfig) -> Self {
        Self { config }
    }

    /// The folder of the configuration, or, where that leaves it open, of the request.
    fn folder(&self, request: &RestoreRequest) -> Result<PathBuf, TargetError> {
        let own = &self.config.folder;
        let asked = request
            .folder
            .as_ref()
            .filter(|folder| !folder.as_os_str().is_empty());
        let wrong = |folder: &Path, why: &'static str| {
            let subject = folder.display().to_string();
            Err(TargetError::new(ErrorKind::Invalid, "restore into", subject).because(why))
        };
        match asked {
            None if own.as_os_str().is_empty() => wrong(own, "no folder is given"),
            None => Ok(own.clone()),
            Some(asked) if own == asked => Ok(asked.clone()),
            Some(asked) if !own.as_os_str().is_empty() => {
                wrong(asked, "the target was made for another folder")
            }
            Some(asked) if asked.to_str().is_none() => wrong(
                asked,
                "a folder whose name is not UTF-8 must be given to the target",
            ),
            Some(asked) => Ok(asked.clone()),
        }
    }

    /// How to restore by a plan.
    fn config_of(&self, plan: &RestorePlan) -> FilesTargetConfig {
        let mut config = self.config.clone();
        if config.folder.as_os_str().is_empty() {
            config.folder = PathBuf::from(&plan.into);
        }
        config
    }
}

/// Opens the target folder.
fn open_top(folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(folder, flags, Mode::empty())
}

/// Checks, without changing anything, that a folder can be written into. Returns the free space.
fn check_writable(folder: &Path) -> Result<Option<u64>, TargetError> {
    let fail = |op, cause| Err(TargetError::io(op, folder.display().to_string(), cause));
    let mut place = folder;
    let found = loop {
        match std::fs::metadata(place) {
            Ok(found) => break found,
            Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {}
            Err(cause) => return fail("open", cause),
        }
        place = match place.parent() {
            Some(above) if !above.as_os_str().is_empty() => above,
            _ => Path::new("."),
        };
    };
    if !found.is_dir() {
        let why = format!("{} is not a folder", place.display());
        return Err(TargetError::new(
            ErrorKind::Conflict,
            "restore into",
            folder.display().to_string(),
        )
        .because(why));
    }
    if let Err(cause) = access(place, Access::WRITE_OK | Access::EXEC_OK) {
        return fail("write into", cause.into());
    }
    Ok(statvfs(place)
        .ok()
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)))
}

#[async_trait]
impl Target for FilesTarget {
    async fn plan(
        &self,
        _cx: &OpContext,
        request: &RestoreRequest,
    ) -> Result<RestorePlan, TargetError> {
        let folder = self.folder(request)?;
        if request.mode == RestoreMode::Replace {
            let subject = folder.display().to_string();
            return Err(TargetError::new(ErrorKind::Unsupported, "replace", subject)
                .because("files are restored into a folder; name the one to be overwritten"));
        }
        let bytes = request.snapshot.stats.bytes;
        let mut notes = Vec::new();
        if let Some(free) = check_writable(&folder)?.filter(|&free| free < bytes) {
            let detail = format!("{free} bytes are free, and the whole snapshot takes {bytes}");
            let subject = folder.display().to_string();
            notes.push(Finding::new(
                Severity::Warning,
                FindingKind::Degraded,
                subject,
                detail,
            ));
        }
        Ok(RestorePlan {
            into: folder.display().to_string(),
            total: SizeHint {
                at_least: 0,
                at_most: Some(bytes),
            },
            notes,
        })
    }

    async fn rehearse(
        &self,
        _cx: &OpContext,
        plan: &RestorePlan,
    ) -> Result<Option<Box<dyn Rehearsal>>, TargetError> {
        let config = self.config_of(plan);
        let spared = Spared::new(&config.protected);
        spared.check_folder(&config)?;
        let top = match open_top(&config.folder) {
            Ok(top) => top,
            // In a folder that is still to be made nothing stands.
            Err(Errno::NOENT) => return Ok(None),
            Err(cause) => return Err(TargetError::io("open", plan.into.clone(), cause.into())),
        };
        let rehearsal = (spared.around(&top))
            .and_then(|spared| FilesRehearsal::new((config.overwrite, config.delete), spared, top))
            .map_err(|cause| TargetError::io("open", plan.into.clone(), cause))?;
        Ok(Some(Box::new(rehearsal)))
    }

    async fn begin(
        &self,
        _cx: &OpContext,
        plan: RestorePlan,
    ) -> Result<Box<dyn Restore>, TargetError> {
        let config = self.config_of(&plan);
        let fail = |op, cause| TargetError::io(op, plan.into.clone(), cause);
        let spared = Spared::new(&config.protected);
        spared.check_folder(&config)?;
        let made = way::make_top(&config.folder).map_err(|cause| fail("create folder", cause))?;
        let top = open_top(&config.folder).map_err(|cause| fail("open", cause.into()))?;
        let spared = spared.around(&top).map_err(|cause| fail("open", cause))?;
        let systems = Arc::<keeps::FileSystems>::default();
        let begun = begun::Begun::at(&top, made, config.sync, Arc::clone(&systems));
        let begun = begun.map_err(|cause| match cause.kind() {
            std::io::ErrorKind::WouldBlock => {
                let why = "another restore into it is under way; wait until it has ended";
                TargetError::new(ErrorKind::Conflict, "restore into", plan.into.clone())
                    .because(why)
            }
            _ => fail("begin in", cause),
        })?;
        if config.in_place {
            begun.reserve();
        }
        let spool = config
            .delete
            .then(|| tempfile::tempfile_in(&config.folder).map(mirror::Spool::new))
            .transpose();
        let spool = spool.map_err(|cause| fail("write into", cause))?;
        let later = later::Later::new(&config.folder);
        let way = way::Way::new(top, later, &begun).map_err(|cause| fail("open", cause.into()))?;
        let shared = Shared {
            applier: Applier::new(&config, systems),
            links: links::Links::new(&config.folder),
            config,
            spared,
            begun: Arc::new(begun),
            durable: durable::Durable::default(),
            top: Arc::clone(way.top()),
            handles: Arc::new(HandleCache::for_this_process()),
            findings: Findings::default(),
            open: Mutex::default(),
            written: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            deleted: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            unfinished: AtomicBool::new(false),
        };
        Ok(Box::new(FilesRestore::new(shared, way, spool)))
    }
}

/// What all parts of a restore share.
#[derive(Debug)]
struct Shared {
    config: FilesTargetConfig,
    applier: Applier,
    spared: Spared,
    links: links::Links,
    begun: Arc<begun::Begun>,
    durable: durable::Durable,
    /// The target folder.
    top: Arc<DirHandle>,
    handles: Arc<HandleCache>,
    findings: Findings,
    /// Files that are started and not finished.
    open: Mutex<HashMap<EntryPath, Arc<Writer>>>,
    written: AtomicU64,
    skipped: AtomicU64,
    deleted: AtomicU64,
    /// Whether anything went wrong.
    failed: AtomicBool,
    /// Whether anything keeps its mark.
    unfinished: AtomicBool,
}

impl Shared {
    /// What is known of something that is made in a folder.
    fn before_new(&self, spot: &way::Spot) -> meta::Before {
        let systems = self.begun.systems();
        if spot.hands_on || systems.odd(spot.handle.id().0).is_some() {
            return meta::Before {
                owner: None,
                xattrs: spot.hands_on,
                inherits: spot.hands_on,
                marked: true,
            };
        }
        self.applier.created()
    }

    /// Something keeps its mark: the next restore is to finish it.
    fn leave_unfinished(&self) {
        self.failed
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.unfinished
            .store(true, std::sync::atomic::Ordering::Relaxed);
    }

    /// What becomes of what stands in the place of an entry.
    fn fate(&self, there: &Stat, entry: &RestoreEntry) -> Fate {
        fate::fate(self.overwrite(there), there, entry)
    }

    /// Whether something of an entry's own kind gives way to it.
    fn gives_way(&self, there: &Stat, entry: &RestoreEntry) -> bool {
        fate::gives_way(self.overwrite(there), there, entry)
    }

    fn overwrite(&self, there: &Stat) -> (Overwrite, i128) {
        let keeps = self.begun.systems().of(there.st_dev);
        (self.config.overwrite, keeps.time_step)
    }

    /// Puts an error that nobody else will report into the report.
    fn fail(&self, error: &TargetError) {
        self.failed
            .store(true, std::sync::atomic::Ordering::Relaxed);
        self.findings.add(unreported(error));
    }
}

/// What is said of an error that nobody else will report.
fn unreported(error: &TargetError) -> Finding {
    let (subject, mut detail) = (error.subject.clone(), error.to_string());
    if let Some(remedy) = error.os_error().and_then(backup_core::place_remedy) {
        detail = format!("{detail}; {remedy}");
    }
    Finding::new(Severity::Error, FindingKind::Metadata, subject, detail)
}

/// Why nothing is deleted although that was asked for.
fn nothing_deleted(detail: &str) -> Finding {
    Finding::new(Severity::Warning, FindingKind::Skipped, "delete", detail)
}

fn error(op: &'static str, path: &EntryPath, cause: std::io::Error) -> TargetError {
    TargetError::io(op, path.to_string(), cause)
}

fn invalid(path: &EntryPath, why: &str) -> TargetError {
    TargetError::new(ErrorKind::Invalid, "restore", path.to_string()).because(why.to_owned())
}

fn refused(path: &EntryPath) -> TargetError {
    conflict(path, "something of another kind stands in its place")
}

fn not_empty(path: &EntryPath) -> TargetError {
    conflict(path, "a folder that is not empty stands in its place")
}

fn not_emptied(path: &EntryPath) -> TargetError {
    conflict(
        path,
        "not all that is in the folder in its place may be deleted",
    )
}

fn conflict(path: &EntryPath, why: &str) -> TargetError {
    TargetError::new(ErrorKind::Conflict, "restore", path.to_string()).because(why.to_owned())
}
