//! `restore run`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use backstay::core::{EntryPath, Finding, FindingKind, RestoreMode, Severity};
use backstay::engine::restore::{self, Filter as EntryFilter};
use backstay::engine::{EngineError, RestoreJob, RestoreOutcome, SnapshotView};
use backstay::format::config::Operation;
use backstay::source_files::{
    FilesTarget, FilesTargetConfig, Holes, Overwrite as FilesOverwrite, Ownership,
};
use backup_terminal::{
    Console, Exit, Failure, Look, Outcome, parse_snapshot_path, surroundings, text,
};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use serde_json::{Value, json};

use crate::cli::{Overwrite, Owner, RunArgs};
use crate::look::bytes_members;
use crate::place::{self, Part};
use crate::salvage::Report;
use crate::verify::compare;

/// Restores.
pub(crate) async fn run(console: &mut Console, args: &RunArgs) -> Outcome {
    let wanted = parse_snapshot_path(&args.snapshot)?;
    let filter = filter(args)?;
    if args.delete && filter.is_some() {
        return Err(Failure::usage(
            "--delete does not go with --include or --exclude: it would delete what they leave out",
            "name the folder that is to be as it was: SNAPSHOT:/PATH --to DIR --delete",
        ));
    }
    let folder = surroundings::absolute(&args.to);
    must_be_folder(&folder)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &wanted.snapshot).await?;
    let parts = place::parts(console, &view, &wanted).await?;
    let target = Arc::new(FilesTarget::new(target(console, args, &folder)));
    if let (false, Err(error)) = (
        args.dry_run || console.json(),
        repo.keys().ledger_key(&surroundings::host()),
    ) {
        console.note(&format!("this restore is not in the ledger: {error}"));
    }
    let report = match args.salvage && !args.dry_run {
        true => Some(Report::new(args.report.as_deref())?),
        false => None,
    };
    let (mut ending, mut chosen) = (check_origin(console, &view)?, 0);
    let mut is_known = true;
    for part in parts {
        let mut job = job(&part, &folder, filter.clone());
        if args.dry_run {
            let dry = dry_run(console, &view, &target, &job, args.delete).await;
            let looked = Look::at(
                "dry-run",
                &view,
                dry.as_ref().map_or(0, |(entries, _)| *entries),
            );
            let done = dry
                .as_ref()
                .map(|(_, ending)| *ending)
                .map_err(Clone::clone);
            console.record_look(&repo, looked, &done).await;
            let (entries, noted) = dry?;
            chosen += entries;
            is_known &= noted == Exit::Ok;
            ending = ending.max(noted);
            continue;
        }
        let tells = |report: &Report| report.of_folder(&folder, &console.cx.clock);
        job.salvage = report.as_ref().map(tells);
        let started = Instant::now();
        let outcome = restore::restore(&view, &console.cx, target.clone(), &job).await;
        let outcome = outcome.map_err(|error| failure(error, args.in_place))?;
        let seconds = started.elapsed().as_secs_f64();
        chosen += outcome.entries;
        is_known &= outcome.lost_pages == 0;
        let has_findings = !outcome.report.findings.is_empty();
        let is_nothing = outcome.entries == 0 && outcome.lost_pages == 0 && !has_findings;
        if !is_nothing || args.includes.is_empty() {
            ending = ending.max(report_on(console, &view, &outcome, seconds)?);
        }
        if args.verify {
            ending = ending.max(compare(console, &view, &job, &outcome.report.findings).await?);
        }
    }
    if let Some(report) = report {
        ending = ending.max(report.end(console)?);
    }
    // Of what is lost nobody knows whether it matches; the findings told of it.
    if chosen == 0 && is_known && !args.includes.is_empty() {
        return Err(Failure::new(
            Exit::Failed,
            "nothing in the snapshot matches --include, so nothing was restored",
            "`restore find PATTERN --snapshot SNAPSHOT` shows what would match",
        ));
    }
    Ok(ending)
}

/// Why a restore failed. Who writes in place already is not told to.
fn failure(error: EngineError, in_place: bool) -> Failure {
    let is_full = matches!(error, EngineError::TargetFull(_));
    let mut failure = Failure::from(error);
    if is_full && in_place {
        failure.hint = "make room, or choose another place with --to; then restore again".into();
    }
    failure
}

/// Sees that there is a folder at a place, or that one can be made there.
fn must_be_folder(folder: &Path) -> Outcome<()> {
    let mut there = folder
        .ancestors()
        .filter_map(|path| Some((path, path.metadata().ok()?)));
    match there.next() {
        Some((path, meta)) if !meta.is_dir() => Err(Failure::new(
            Exit::Conflict,
            format!("{} is not a folder", text::path(path)),
            "name a folder with --to; it is made if it is not there",
        )),
        _ => Ok(()),
    }
}

/// Tells what cannot be vouched for of who wrote the snapshot.
fn check_origin(console: &mut Console, view: &SnapshotView<'_>) -> Outcome {
    let Some(doubt) = place::doubt(view) else {
        return Ok(Exit::Ok);
    };
    // Other notes need -v; this one is always said.
    if doubt.severity == Severity::Note && !console.json() {
        console.note(&format!("{}: {}", doubt.subject, doubt.detail));
        return Ok(Exit::Ok);
    }
    let is_serious = console.findings(&[doubt], 0)?;
    Ok(if is_serious { Exit::Findings } else { Exit::Ok })
}

fn target(console: &Console, args: &RunArgs, folder: &Path) -> FilesTargetConfig {
    FilesTargetConfig {
        protected: console.in_use(),
        overwrite: match args.overwrite {
            Overwrite::Never => FilesOverwrite::Never,
            Overwrite::IfNewer => FilesOverwrite::IfNewer,
            Overwrite::Always => FilesOverwrite::Always,
        },
        in_place: args.in_place,
        sync: !args.no_sync,
        delete: args.delete,
        owner: match args.owner {
            Owner::Name => Ownership::Name,
            Owner::Number => Ownership::Number,
            Owner::None => Ownership::None,
        },
        xattrs: !args.no_xattrs,
        holes: match (args.sparse, args.no_sparse) {
            (true, _) => Holes::Everywhere,
            (_, true) => Holes::Nowhere,
            _ => Holes::AsSaved,
        },
        ..FilesTargetConfig::of_folder(folder)
    }
}

fn job(part: &Part, folder: &Path, filter: Option<EntryFilter>) -> RestoreJob {
    RestoreJob {
        component: part.component,
        below: part.path.clone(),
        strip: part.strip(),
        filter,
        salvage: None,
        mode: RestoreMode::Files,
        folder: Some(folder.to_path_buf()),
        host: surroundings::host(),
        user: surroundings::actor(),
    }
}

fn report_on(
    console: &mut Console,
    view: &SnapshotView<'_>,
    outcome: &RestoreOutcome,
    seconds: f64,
) -> Outcome {
    let report = &outcome.report;
    let has_findings = console.findings(&report.findings, 0)?;
    console.record(
        "restored",
        json!({
            "snapshot": view.meta().id.to_string(),
            "entries": outcome.entries,
            "bytes": outcome.bytes,
            "bytes_fetched": outcome.fetched,
            "written": report.written,
            "skipped": report.skipped,
            "deleted": report.deleted,
            "findings": report.findings.len(),
            "seconds": (seconds * 1e3).round() / 1e3,
        }),
    )?;
    if console.talks() {
        console.line(format!(
            "restored {} of {}",
            view.meta().id,
            text::name(&view.meta().name)
        ))?;
        console.line(format!(
            "  {}, {}; {} written, {} left as they were, {} deleted",
            text::plural(outcome.entries, "entry", "entries"),
            text::bytes(outcome.bytes),
            text::count(report.written),
            text::count(report.skipped),
            text::count(report.deleted),
        ))?;
        // What is not done for want of root is no fault, but must not be taken for done.
        let is_missing =
            |one: &&Finding| (one.kind, one.severity) == (FindingKind::Metadata, Severity::Note);
        for missing in report.findings.iter().filter(is_missing) {
            console.line(format!("  {}", missing.detail))?;
        }
        show_kept(console, &report.findings)?;
        let is_damage = |one: &Finding| {
            let is_of_tier = matches!(one.kind, FindingKind::Damaged | FindingKind::Missing);
            one.severity == Severity::Error && is_of_tier
        };
        if report.findings.iter().any(is_damage) {
            console
                .line("  `snapshot repair --dry-run` tells what of that damage can be mended")?;
        }
        console.line(format!(
            "  fetched {} in {seconds:.1} s",
            text::bytes(outcome.fetched)
        ))?;
    }
    Ok(if has_findings {
        Exit::Findings
    } else {
        Exit::Ok
    })
}

/// Says what `--delete` keeps although the snapshot does not have it: nobody asked for its end, but
/// the folder is not wholly as it was saved.
fn show_kept(console: &mut Console, findings: &[Finding]) -> Outcome<()> {
    let is_kept =
        |one: &&Finding| (one.kind, one.severity) == (FindingKind::Skipped, Severity::Note);
    for kept in findings.iter().filter(is_kept) {
        console.line(format!(
            "  {}: {}",
            text::escape(kept.subject.as_bytes()),
            kept.detail
        ))?;
    }
    Ok(())
}

async fn dry_run(
    console: &mut Console,
    view: &SnapshotView<'_>,
    target: &Arc<FilesTarget>,
    job: &RestoreJob,
    deletes: bool,
) -> Outcome<(u64, Exit)> {
    let cx = console.cx.clone();
    let mut written = Ok(());
    let mut show = |path: &EntryPath| {
        if written.is_ok() {
            written = show_deletion(console, job, path);
        }
    };
    let dry = restore::dry_run(view, &cx, &**target, job, &mut show).await?;
    written?;
    console.findings(&dry.plan.notes, 0)?;
    let is_hurt = (dry.plan.notes.iter()).any(|note| note.severity == Severity::Error);
    console.record(
        "plan",
        json!({
            "snapshot": view.meta().id.to_string(),
            "into": dry.plan.into,
            "entries": dry.entries,
            "bytes": dry.bytes,
            "kept": dry.kept,
            "replaced": dry.replaced,
            "deletions": dry.deletions,
        }),
    )?;
    let mut line = format!(
        "would restore {}, {}, into {}",
        text::plural(dry.entries, "entry", "entries"),
        text::bytes(dry.bytes),
        text::escape(dry.plan.into.as_bytes()),
    );
    if dry.kept + dry.replaced > 0 {
        line.push_str(&format!(
            ", of which {} there already and {}, and {} replaced where it differs",
            text::plural(dry.kept, "is", "are"),
            if dry.kept == 1 { "stays" } else { "stay" },
            text::plural(dry.replaced, "is", "are"),
        ));
    }
    if deletes {
        let deletions = text::plural(dry.deletions, "entry", "entries");
        line.push_str(&format!(", and delete {deletions} there"));
    }
    console.line(line)?;
    show_kept(console, &dry.plan.notes)?;
    let ending = if is_hurt { Exit::Findings } else { Exit::Ok };
    Ok((dry.entries, ending))
}

/// One thing that would be deleted, by its path on this host.
fn show_deletion(console: &mut Console, job: &RestoreJob, path: &EntryPath) -> Outcome<()> {
    let folder = job.folder.as_deref().unwrap_or(Path::new("/"));
    let whole = folder.join(OsStr::from_bytes(&path.to_slashed()));
    let members = bytes_members(whole.as_os_str().as_bytes());
    let members = members
        .into_iter()
        .map(|(name, value)| (name.into(), value));
    console.record("deletion", Value::Object(members.collect()))?;
    console.line(format!("delete {}", text::path(&whole)))
}

/// What `--include` and `--exclude` let pass; nothing if neither is given.
fn filter(args: &RunArgs) -> Outcome<Option<EntryFilter>> {
    if args.includes.is_empty() && args.excludes.is_empty() {
        return Ok(None);
    }
    let (includes, excludes) = (globs(&args.includes)?, globs(&args.excludes)?);
    let any = args.includes.is_empty();
    let passes =
        move |path: &EntryPath| (any || matches(&includes, path)) && !matches(&excludes, path);
    Ok(Some(Arc::new(move |path, _entry| passes(path))))
}

/// Globs of `--include` and `--exclude`: with a slash in front or within they count from the root,
/// otherwise they match at any depth.
fn globs(patterns: &[String]) -> Outcome<GlobSet> {
    let wrong = |error: globset::Error| {
        Failure::usage(
            error.to_string(),
            "write a glob such as '*.conf' or /etc/nginx",
        )
    };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        let trimmed = pattern.trim_end_matches('/');
        let anchored = match trimmed.strip_prefix('/') {
            Some(rest) => rest.to_owned(),
            None if trimmed.contains('/') => trimmed.to_owned(),
            None => format!("**/{trimmed}"),
        };
        set.add(
            GlobBuilder::new(&anchored)
                .literal_separator(true)
                .build()
                .map_err(wrong)?,
        );
    }
    set.build().map_err(wrong)
}

/// Whether the path or a folder above it matches.
fn matches(globs: &GlobSet, path: &EntryPath) -> bool {
    if globs.is_empty() {
        return false;
    }
    let slashed = path.to_slashed();
    let ends = slashed
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'/')
        .map(|(at, _)| at);
    ends.chain([slashed.len()]).any(|end| {
        let part = slashed.get(..end).unwrap_or_default();
        globs.is_match(OsStr::from_bytes(part))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pattern: &str, path: &str) -> bool {
        let path = EntryPath::from_slashed(path.as_bytes()).unwrap();
        matches(&globs(&[pattern.to_owned()]).unwrap(), &path)
    }

    #[test]
    fn a_pattern_without_a_slash_matches_at_any_depth_and_takes_what_is_below() {
        assert!(hits("*.conf", "etc/nginx/nginx.conf"));
        assert!(hits("nginx", "etc/nginx/nginx.conf"));
        assert!(hits("/etc/nginx/", "etc/nginx/nginx.conf"));
        assert!(hits("/etc/*/x", "etc/a/x/y"));
        assert!(!hits("/nginx", "etc/nginx"));
        assert!(!hits("/etc/*.conf", "etc/a/b.conf"));
        assert!(hits("/etc/**/*.conf", "etc/a/b.conf"));
    }
}
