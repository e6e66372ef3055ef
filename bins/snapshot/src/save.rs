//! `snapshot save`.

use std::time::Instant;

use backstay::core::{CaptureMode, CaptureRequest, HostId};
use backstay::engine::cache::Cache;
use backstay::engine::stage::plan::plan;
use backstay::engine::{Repository, SnapshotJob, SnapshotReport, snapshot};
use backstay::format::config::Operation;
use backstay::format::keys::Role;
use backup_terminal::memory::keep_freed_memory;
use backup_terminal::snapshots::meta_members;
use backup_terminal::{Console, Exit, Failure, Outcome, surroundings, text};
use serde_json::json;

use crate::ahead::{Ahead, count};
use crate::cli::SaveArgs;
use crate::init::make_for_save;
use crate::room;
use crate::source::{Chosen, choose};

/// Makes a snapshot, or shows what it would be.
pub(crate) async fn save(console: &mut Console, args: &SaveArgs) -> Outcome {
    let mut chosen = choose(args, console.cx.clock.now(), console.folder().as_deref())?;
    if let Some(folder) = &chosen.left_out {
        let shown = text::path(folder);
        console.note(&format!("the repository itself, {shown}, is left out"));
    }
    let job = job(args, &chosen);
    if args.dry_run {
        return dry_run(console, chosen, &job).await;
    }
    let started = Instant::now();
    let repo = open_or_make(console, &chosen).await?;
    may_save(&repo)?;
    room::warn_when_full(console, &repo, args.warn_full).await;
    leave_out_caches(console, &repo, &mut chosen);
    keep_freed_memory();
    let mut cx = console.cx.clone();
    // Of anything but files nobody knows how much is to come.
    let is_counted = console.shows_progress() && chosen.files.is_some();
    let ahead = is_counted.then(|| Ahead::of(&mut cx, chosen.source.clone()));
    let report = snapshot(&repo, &cx, chosen.source, &job).await?;
    drop(ahead);
    let seconds = started.elapsed().as_secs_f64();
    report_on(console, &report, seconds)
}

fn job(args: &SaveArgs, chosen: &Chosen) -> SnapshotJob {
    let host = args.host.clone().map_or_else(surroundings::host, HostId);
    let name = args.name.clone().unwrap_or_else(|| chosen.name.clone());
    SnapshotJob {
        user: surroundings::actor(),
        component: chosen.source.info().kind.to_owned(),
        tags: args.tags.clone(),
        label: args.label.clone(),
        reread: args.reread,
        compression: args.compression,
        ..SnapshotJob::new(name, host)
    }
}

/// Sees that the key may save, before anything is read.
pub(crate) fn may_save(repo: &Repository) -> Outcome<()> {
    let role = repo.keys().role();
    if matches!(role, Role::Full | Role::Writer) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::WrongKey,
        format!("this key is a {role} key: it may not save"),
        "use a writer or full key",
    ))
}

/// Opens the repository; makes it if there is none, and if there is what is to be saved.
async fn open_or_make(console: &mut Console, chosen: &Chosen) -> Outcome<Repository> {
    match console.open(Operation::Write).await {
        Err(Failure {
            exit: Exit::NoRepository,
            ..
        }) => make(console, chosen).await,
        // Another process made it while this one looked for the key.
        Err(Failure {
            exit: Exit::NoSecrets,
            ..
        }) if console.key_file()?.exists() && console.exists().await? => {
            console.open(Operation::Write).await
        }
        // A key file that is named and not there yet is made with the repository.
        Err(Failure {
            exit: Exit::NoSecrets,
            ..
        }) if !console.exists().await? && !console.key_file()?.exists() => {
            make(console, chosen).await
        }
        other => other,
    }
}

async fn make(console: &mut Console, chosen: &Chosen) -> Outcome<Repository> {
    let request = CaptureRequest::default();
    chosen.source.plan(&console.cx, &request).await?;
    make_for_save(console).await
}

fn report_on(console: &mut Console, report: &SnapshotReport, seconds: f64) -> Outcome {
    let has_findings = console.findings(&report.findings, report.findings_left_out)?;
    let (meta, stats) = (&report.meta, &report.meta.stats);
    let mut members = meta_members(meta);
    if let Some(members) = members.as_object_mut() {
        members.insert("root".into(), report.root.to_string().into());
        members.insert("seconds".into(), json!((seconds * 1e3).round() / 1e3));
    }
    console.record("saved", members)?;
    if console.common.quiet {
        console.line(meta.id.to_string())?;
    } else {
        console.line(format!(
            "snapshot {} of {}",
            meta.id,
            text::name(&meta.name)
        ))?;
        console.line(format!(
            "  {}, {}; {} unchanged",
            text::plural(stats.entries, "entry", "entries"),
            text::bytes(stats.bytes),
            text::count(stats.unchanged),
        ))?;
        console.line(format!(
            "  read {}, new {}, added {} in {seconds:.1} s",
            text::bytes(stats.bytes_read),
            text::bytes(stats.bytes_new),
            text::bytes(stats.bytes_added),
        ))?;
    }
    Ok(if has_findings {
        Exit::Findings
    } else {
        Exit::Ok
    })
}

/// Leaves the local caches out, that of this repository and those of others: nobody needs them back,
/// and each run would save them again, since each changes them. So does the folder of packs of content, where they lie
/// apart.
fn leave_out_caches(console: &Console, repo: &Repository, chosen: &mut Chosen) {
    // The first run of a host makes it here.
    let own = repo.cache().folder();
    let all = console.cache_folder().map(|all| Cache::folders_in(&all));
    let own = own.into_iter().chain(console.cold_folder());
    chosen.leave_out(own.chain(all.unwrap_or_default()).collect());
}

async fn dry_run(console: &mut Console, mut chosen: Chosen, job: &SnapshotJob) -> Outcome {
    let plan = match console.open(Operation::Read).await {
        Ok(repo) => {
            may_save(&repo)?;
            leave_out_caches(console, &repo, &mut chosen);
            let planned = plan(&repo, &console.cx, chosen.source.clone(), job).await?;
            planned.capture().clone()
        }
        Err(failure) if matches!(failure.exit, Exit::NoRepository) => {
            let place = console.location()?;
            console.note(&format!(
                "there is no repository at {place}; it would be made"
            ));
            let request = CaptureRequest::default();
            chosen.source.plan(&console.cx, &request).await?
        }
        Err(failure) => return Err(failure),
    };
    let mode = match &plan.mode {
        CaptureMode::Full { why } => format!("full: {why}"),
        CaptureMode::Incremental { parent } => format!("on top of {}", parent.short()),
    };
    console.line(format!("would save {} ({mode})", text::name(&job.name)))?;
    for entry in &plan.entries {
        console.line(format!("  {}", text::escape(entry.name.as_bytes())))?;
    }
    let counted = if chosen.files.is_some() {
        Some(count(&console.cx, &*chosen.source, plan.clone()).await?)
    } else {
        None
    };
    let has_findings = console.findings(&plan.notes, 0)?;
    let names: Vec<&str> = plan
        .entries
        .iter()
        .map(|entry| entry.name.as_str())
        .collect();
    console.record(
        "plan",
        json!({
            "name": job.name,
            "mode": if matches!(plan.mode, CaptureMode::Full { .. }) { "full" } else { "incremental" },
            "sources": names,
            "entries": counted.map(|counted| counted.entries),
            "files": counted.map(|counted| counted.files),
            "bytes": counted.map(|counted| counted.bytes),
        }),
    )?;
    if let Some(counted) = counted {
        let entries = text::plural(counted.entries, "entry", "entries");
        let files = text::plural(counted.files, "file", "files");
        let bytes = text::bytes(counted.bytes);
        console.line(format!("  {entries}, {files}, {bytes}"))?;
    }
    Ok(if has_findings {
        Exit::Findings
    } else {
        Exit::Ok
    })
}
