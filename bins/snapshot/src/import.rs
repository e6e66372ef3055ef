//! `snapshot import`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::core::{ErrorKind, Finding, FindingKind, HostId, Severity, Source};
use backstay::engine::{EngineError, Repository, SnapshotJob, SnapshotReport, snapshot};
use backstay::export::ExportError;
use backstay::export::import::item::{MARK, TAG};
use backstay::export::import::{Archives, DateFrom, Item, KIND, scan};
use backstay::format::config::Operation;
use backstay::format::keys::KeyError;
use backstay::integrity::statement::MAX_NAME_BYTES;
use backstay::source_files::{FilesConfig, FilesSource};
use backup_terminal::snapshots::meta_members;
use backup_terminal::{Console, Exit, Failure, Outcome, surroundings, text};
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::{parse_name, parse_tag};
use crate::save::may_save;

const EXAMPLES: &str = "\
Examples:
  snapshot import /mnt/exports/shop-20260131T020000Z-7Q2M0XVA      (an export, with its time and name)
  snapshot import /mnt/exports                                     (every export in it)
  snapshot import exports.tar.zst                                  (all exports that were packed into it)
  snapshot import /var/backups/postgres --dry-run                  (old dumps, each by its date)
  snapshot import site.tar.gz --name site

What was imported before is passed over. Imported snapshots have the tag `imported`.";

/// `snapshot import`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ImportArgs {
    /// Exports, archives (tar, tar.gz, tar.zst) of exports or of anything else, dumps, and folders of these
    #[arg(value_name = "DIR|TAR|FILE", required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Name of the snapshots; else the one that an export tells, or the name of the file without its date
    #[arg(long, short = 'n', value_name = "NAME", value_parser = parse_name)]
    pub(crate) name: Option<String>,
    /// The host to sign for; else the one that an export tells, or this one
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
    /// Mark the snapshots; may be given several times
    #[arg(long = "tag", short = 't', value_name = "TAG", value_parser = parse_tag)]
    pub(crate) tags: Vec<String>,
    /// Where the time of an archive or a dump comes from
    #[arg(long, value_enum, default_value_t = DateArg::Name)]
    pub(crate) date_from: DateArg,
    /// A folder with room for an archive that is compressed [default: that of the cache]
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Show what would be imported, and import nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Where the time of a dump comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DateArg {
    /// From a date in its name, else from the time of its file
    Name,
    /// From the time of its file
    Mtime,
}

/// What became of the things that were found.
#[derive(Debug, Default)]
struct Tally {
    imported: u64,
    there: u64,
    failed: u64,
}

/// Imports.
pub(crate) async fn import(console: &mut Console, args: &ImportArgs) -> Outcome {
    let date_from = match args.date_from {
        DateArg::Name => DateFrom::Name,
        DateArg::Mtime => DateFrom::File,
    };
    let (mut items, mut findings) = (Vec::new(), Vec::new());
    for path in &args.paths {
        let (path, zone) = (surroundings::absolute(path), TimeZone::system());
        let found = tokio::task::block_in_place(|| scan(&console.cx, &path, date_from, &zone))?;
        items.extend(found.items);
        findings.extend(found.findings);
    }
    items.sort_by_key(|item: &Item| item.time);
    let mut has_findings = console.findings(&findings, 0)?;
    let mut tally = Tally {
        failed: findings.len() as u64,
        ..Tally::default()
    };
    if items.is_empty() && findings.is_empty() {
        return Err(Failure::usage(
            "there is nothing to import",
            "name an export, an archive, a dump, or a folder of these",
        ));
    }
    let repo = console.open(Operation::Write).await?;
    may_save(&repo)?;
    let mut known = known(console, &repo).await?;
    let mut archives = Archives::new(scratch(console, args));
    for item in &items {
        match one(console, &repo, args, item, (&mut known, &mut archives)).await {
            Ok(Done::There(mark)) => {
                tally.there += 1;
                show_there(console, item, &mark)?;
            }
            Ok(Done::Would(mark)) => {
                tally.imported += 1;
                show_planned(console, args, item, &mark)?;
            }
            Ok(Done::Imported(report)) => {
                tally.imported += 1;
                has_findings |= report_on(console, item, &report)?;
            }
            Err(error) if is_of_item(args, item, &error) => {
                tally.failed += 1;
                has_findings |= console.findings(&[refused(item, &error)], 0)?;
            }
            Err(error) => return Err(error.into()),
        }
        console.flush()?;
    }
    summary(console, args, &tally)?;
    Ok(Exit::done(has_findings))
}

/// What became of one thing.
enum Done {
    /// It was imported before, by this mark.
    There(String),
    /// It would be imported.
    Would(String),
    Imported(Box<SnapshotReport>),
}

/// The marks of what was imported before, and the ids of snapshots that are there.
async fn known(console: &Console, repo: &Repository) -> Outcome<BTreeSet<String>> {
    let (heads, _) = repo.heads(&console.cx).await?;
    let mut known = BTreeSet::new();
    for head in heads {
        known.insert(format!("{MARK}{}", head.meta.id));
        let marks = head.meta.tags.into_iter();
        known.extend(marks.filter(|tag| tag.starts_with(MARK)));
    }
    Ok(known)
}

async fn one(
    console: &Console,
    repo: &Repository,
    args: &ImportArgs,
    item: &Item,
    (known, archives): (&mut BTreeSet<String>, &mut Archives),
) -> Result<Done, ExportError> {
    let cx = &console.cx;
    let mark = tokio::task::block_in_place(|| item.mark(cx))?;
    if known.contains(&mark) {
        return Ok(Done::There(mark));
    }
    if item.is_in_archive() || !args.dry_run {
        make_scratch(archives.scratch())?;
    }
    tokio::task::block_in_place(|| item.check(cx, archives))?;
    if args.dry_run {
        return Ok(Done::Would(mark));
    }
    let files = |folder: &Path| -> Arc<dyn Source> {
        Arc::new(FilesSource::new(FilesConfig::of_roots([folder])))
    };
    let source = tokio::task::block_in_place(|| item.source(cx, archives, &files))?;
    // Nothing was made in the future, where it would be the latest for long.
    let time = item.time.min(cx.clock.now());
    let job = job(args, item, time, &mark);
    let report = snapshot(repo, cx, source, &job).await?;
    known.insert(mark);
    Ok(Done::Imported(Box::new(report)))
}

/// The folder for what is compressed.
fn scratch(console: &Console, args: &ImportArgs) -> PathBuf {
    let chosen = args.scratch.clone().or_else(|| console.cache_folder());
    chosen.unwrap_or_else(|| "/var/tmp".into())
}

fn make_scratch(folder: &Path) -> Result<(), ExportError> {
    surroundings::try_folder(folder).map_err(|source| ExportError::File {
        op: "unpack into",
        path: folder.to_path_buf(),
        source,
    })
}

fn job(args: &ImportArgs, item: &Item, time: Timestamp, mark: &str) -> SnapshotJob {
    let original = item.original.as_ref();
    let mut tags = args.tags.clone();
    // An export of something imported carries the marks of that; its own is what counts.
    let told = original.into_iter().flat_map(|it| &it.tags);
    tags.extend(told.filter(|tag| !tag.starts_with(MARK)).cloned());
    tags.extend([TAG.to_owned(), mark.to_owned()]);
    let host = args.host.clone().or_else(|| Some(original?.host.clone()));
    SnapshotJob {
        user: surroundings::actor(),
        component: original.map_or_else(|| KIND.to_owned(), |it| it.component.clone()),
        tags,
        label: original.and_then(|it| it.label.clone()),
        imported_from: Some(time),
        ..SnapshotJob::new(
            name_of(args, item),
            host.map_or_else(surroundings::host, HostId),
        )
    }
}

/// The name of a snapshot, no longer than one can be signed.
fn name_of(args: &ImportArgs, item: &Item) -> String {
    let mut name = args.name.clone().unwrap_or_else(|| item.name.clone());
    let mut end = name.len().min(MAX_NAME_BYTES);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name
}

/// Whether an error is about the thing alone, and others can be imported all the same.
fn is_of_item(args: &ImportArgs, item: &Item, error: &ExportError) -> bool {
    let ExportError::Engine(error) = error else {
        return true;
    };
    match error {
        EngineError::Source(error) => error.kind != ErrorKind::Cancelled,
        // A host that only this export names; any other the key cannot sign for whatever is imported.
        EngineError::Key(KeyError::OtherHost { .. } | KeyError::BadHost) => {
            args.host.is_none() && item.original.is_some()
        }
        EngineError::Key(KeyError::TooLarge { .. })
        | EngineError::Invalid(_)
        | EngineError::Evidence(_)
        | EngineError::Tree(_)
        | EngineError::Parent { .. } => true,
        _ => false,
    }
}

fn refused(item: &Item, error: &ExportError) -> Finding {
    let kind = match error {
        ExportError::Engine(EngineError::Key(_)) => FindingKind::Skipped,
        _ => FindingKind::Damaged,
    };
    let subject = item.path.display().to_string();
    let why = format!("it was not imported: {error}");
    Finding::new(Severity::Error, kind, subject, why)
}

fn show_there(console: &mut Console, item: &Item, mark: &str) -> Outcome<()> {
    console.record(
        "import",
        json!({ "path": item.path.to_string_lossy(), "fate": "there", "mark": mark }),
    )?;
    if console.common.verbose > 0 {
        console.line(format!("{}: imported before", text::path(&item.path)))?;
    }
    Ok(())
}

fn show_planned(console: &mut Console, args: &ImportArgs, item: &Item, mark: &str) -> Outcome<()> {
    let name = name_of(args, item);
    console.record(
        "import",
        json!({
            "path": item.path.to_string_lossy(),
            "fate": "import",
            "mark": mark,
            "what": item.what.name(),
            "name": name,
            "time": item.time,
        }),
    )?;
    console.line(format!(
        "would import {} as {} of {}",
        text::path(&item.path),
        text::escape(name.as_bytes()),
        text::time(item.time),
    ))
}

fn report_on(console: &mut Console, item: &Item, report: &SnapshotReport) -> Outcome<bool> {
    let has_findings = console.findings(&report.findings, report.findings_left_out)?;
    let meta = &report.meta;
    let mut members = meta_members(meta);
    if let Some(members) = members.as_object_mut() {
        members.insert("root".into(), report.root.to_string().into());
        members.insert("path".into(), item.path.to_string_lossy().into());
        members.insert("what".into(), item.what.name().into());
    }
    console.record("imported", members)?;
    if console.common.quiet {
        console.line(meta.id.to_string())?;
    } else {
        console.line(format!(
            "imported {} as {} of {}, {}: {}, added {}",
            text::path(&item.path),
            meta.id.short(),
            text::name(&meta.name),
            text::time(meta.time),
            text::bytes(meta.stats.bytes),
            text::bytes(meta.stats.bytes_added),
        ))?;
    }
    Ok(has_findings)
}

fn summary(console: &mut Console, args: &ImportArgs, tally: &Tally) -> Outcome<()> {
    let Tally {
        imported,
        there,
        failed,
    } = *tally;
    console.record(
        "imports",
        json!({
            "imported": imported,
            "there": there,
            "failed": failed,
            "dry_run": args.dry_run,
        }),
    )?;
    if console.common.quiet {
        return Ok(());
    }
    let done = if args.dry_run {
        "to import"
    } else {
        "imported"
    };
    console.line(format!(
        "{} {done}, {} there before, {} not",
        text::count(imported),
        text::count(there),
        text::count(failed),
    ))
}
