//! `restore export`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use backstay::core::Target;
use backstay::engine::SnapshotView;
use backstay::export::{
    ExportJob, ExportOutcome, ExportPlan, Latest, Layout, Wrap, export as run_export, plan,
};
use backstay::format::config::Operation;
use backstay::source_files::{FilesTarget, FilesTargetConfig, Overwrite, Ownership};
use backup_terminal::secrets::read_passphrase;
use backup_terminal::{Console, Exit, Failure, Look, Outcome, surroundings, text};
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::place;

const EXAMPLES: &str = "\
Examples:
  restore export latest --to /mnt/exports
  restore export latest:shop --to /mnt/exports --layout tar.zst --archive
  restore export latest --to /mnt/exports --layout tar.zst --encrypt age --age-recipients-file keys.txt
  restore export latest --to /mnt/exports --layout tar.gz --encrypt gpg --encrypt-passphrase-file words
  (cd /mnt/exports/latest && sha256sum -c --quiet SHA256SUMS)

An export is a folder NAME-TIME-ID that needs no Backstay to be read. It is there whole or not at
all, and never written over. An export that was interrupted is taken away by the next one.";

/// `restore export`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExportArgs {
    /// The snapshot
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,
    /// The folder that holds exports; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// How the data lies there
    #[arg(long, value_enum, default_value_t = LayoutArg::Tree)]
    pub(crate) layout: LayoutArg,
    /// Put it into the folder of its quarter: DIR/archives/2026/Q1
    #[arg(long)]
    pub(crate) archive: bool,
    /// Encrypt archives, so that `age` or `gpg` opens them
    #[arg(long, value_enum)]
    pub(crate) encrypt: Option<Encrypt>,
    /// The file whose first line is the passphrase to encrypt with
    #[arg(long, value_name = "FILE", env = "BACKSTAY_EXPORT_PASSPHRASE_FILE")]
    pub(crate) encrypt_passphrase_file: Option<PathBuf>,
    /// The file of those who can open it (age1…), a line for each
    #[arg(long, value_name = "FILE", requires = "encrypt")]
    pub(crate) age_recipients_file: Option<PathBuf>,
    /// Write every file anew; else files that did not change since the latest export are hard links to
    /// it, once their content was read and compared
    #[arg(long)]
    pub(crate) no_link: bool,
    /// Do not wait until every file of a tree is on the disk
    #[arg(long, env = "BACKSTAY_NO_SYNC", value_parser = clap::builder::FalseyValueParser::new())]
    pub(crate) no_sync: bool,
    /// Show what would be exported, and write nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// How the data lies in an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LayoutArg {
    /// As files
    Tree,
    /// As an archive
    Tar,
    /// As an archive, compressed with zstd
    #[value(name = "tar.zst")]
    TarZst,
    /// As an archive, compressed with gzip
    #[value(name = "tar.gz")]
    TarGz,
}

/// What archives are encrypted with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encrypt {
    /// age, with a passphrase or for recipients
    Age,
    /// OpenPGP with a passphrase, AES-256; needs the program gpg
    Gpg,
}

/// Longest file of recipients.
const MOST_RECIPIENTS: u64 = 1 << 20;

/// Exports.
pub(crate) async fn export(console: &mut Console, args: &ExportArgs) -> Outcome {
    let wrap = wrap(console, args)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &args.snapshot).await?;
    let job = ExportJob {
        to: surroundings::absolute(&args.to),
        layout: match args.layout {
            LayoutArg::Tree => Layout::Tree,
            LayoutArg::Tar => Layout::Tar,
            LayoutArg::TarZst => Layout::TarZstd,
            LayoutArg::TarGz => Layout::TarGzip,
        },
        archive: args.archive,
        wrap,
        link: !args.no_link,
        host: surroundings::host(),
        user: surroundings::actor(),
    };
    let is_doubtful = match place::doubt(&view) {
        Some(doubt) => console.findings(&[doubt], 0)?,
        None => false,
    };
    let started = Instant::now();
    let done = if args.dry_run {
        let planned = plan(&view, &job).map_err(Failure::from);
        let done = planned.and_then(|plan| show_plan(console, &view, &job, &plan));
        let looked = Look::at("dry-run", &view, view.meta().stats.entries);
        console.record_look(&repo, looked, &done).await;
        done?
    } else {
        let (protected, sync) = (console.in_use(), !args.no_sync);
        let targets = move |folder: &Path| -> Arc<dyn Target> {
            Arc::new(FilesTarget::new(FilesTargetConfig {
                protected: protected.clone(),
                // Folders above files that were linked are there already, and get what they had.
                overwrite: Overwrite::Always,
                owner: Ownership::Number,
                sync,
                ..FilesTargetConfig::of_folder(folder)
            }))
        };
        let outcome = run_export(&view, &console.cx, &job, &targets).await?;
        report_on(console, &job, &outcome, started.elapsed().as_secs_f64())?
    };
    Ok(done.max(Exit::done(is_doubtful)))
}

/// What the archives are encrypted with.
fn wrap(console: &Console, args: &ExportArgs) -> Outcome<Option<Wrap>> {
    let passphrase = |path: &Path| {
        let (bytes, warning) = read_passphrase(path)?;
        if let Some(warning) = warning {
            console.warn(&warning);
        }
        String::from_utf8(bytes.to_vec())
            .map(Into::into)
            .map_err(|_| {
                Failure::new(
                    Exit::NoSecrets,
                    "the passphrase is not UTF-8",
                    "write it in UTF-8",
                )
            })
    };
    let missing = || {
        Failure::usage(
            "nothing is named to encrypt with",
            "name a file with --encrypt-passphrase-file, or for age with --age-recipients-file",
        )
    };
    let recipients = args.age_recipients_file.as_deref();
    let words = args.encrypt_passphrase_file.as_deref();
    Ok(match (args.encrypt, recipients, words) {
        (None, None, None) => None,
        // Never in the clear what somebody meant to encrypt.
        (None, ..) => {
            return Err(Failure::usage(
                "a passphrase is named to encrypt with, and not what with",
                "add `--encrypt age` or `--encrypt gpg`, or leave out --encrypt-passphrase-file (unset BACKSTAY_EXPORT_PASSPHRASE_FILE)",
            ));
        }
        (Some(Encrypt::Age), Some(recipients), _) => {
            Some(Wrap::AgeRecipients(read_text(recipients)?))
        }
        (Some(Encrypt::Age), None, Some(words)) => Some(Wrap::AgePassphrase(passphrase(words)?)),
        (Some(Encrypt::Gpg), None, Some(words)) => Some(Wrap::Gpg {
            passphrase: passphrase(words)?,
            program: "gpg".into(),
        }),
        (Some(Encrypt::Gpg), Some(_), _) => {
            return Err(Failure::usage(
                "--age-recipients-file goes with --encrypt age",
                "with gpg name a file with --encrypt-passphrase-file",
            ));
        }
        (Some(_), None, None) => return Err(missing()),
    })
}

/// A small file of text.
fn read_text(path: &Path) -> Outcome<String> {
    use std::io::Read as _;
    let failed = |error: std::io::Error| Failure::file("read", path, &error);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(MOST_RECIPIENTS)
        .read_to_string(&mut text)
        .map_err(failed)?;
    Ok(text)
}

fn show_plan(
    console: &mut Console,
    view: &SnapshotView<'_>,
    job: &ExportJob,
    plan: &ExportPlan,
) -> Outcome {
    console.record(
        "plan",
        json!({
            "snapshot": view.meta().id.to_string(),
            "into": plan.folder.to_string_lossy(),
            "layout": job.layout.name(),
            "encryption": job.wrap.as_ref().map(Wrap::name),
            "entries": plan.entries,
            "bytes": plan.bytes,
            "previous": plan.previous.as_ref().map(|path| path.to_string_lossy()),
            "becomes_latest": plan.becomes_latest,
        }),
    )?;
    console.line(format!(
        "would export {}, {}, as {} into {}",
        text::plural(plan.entries, "entry", "entries"),
        text::bytes(plan.bytes),
        job.layout.name(),
        text::path(&plan.folder),
    ))?;
    if let Some(previous) = &plan.previous {
        let previous = text::path(previous);
        console.line(format!(
            "  files that did not change would be links to {previous}"
        ))?;
    }
    if !plan.becomes_latest {
        console.line("  latest would stay: it leads to an export of a later snapshot")?;
    }
    Ok(Exit::Ok)
}

fn report_on(
    console: &mut Console,
    job: &ExportJob,
    outcome: &ExportOutcome,
    seconds: f64,
) -> Outcome {
    let has_findings = console.findings(&outcome.findings, 0)?;
    let said = &outcome.metadata;
    console.record(
        "exported",
        json!({
            "snapshot": said.id,
            "folder": outcome.folder.to_string_lossy(),
            "layout": said.layout,
            "encryption": said.encryption,
            "entries": outcome.entries,
            "size_bytes": said.size_bytes,
            "stored_bytes": said.stored_bytes,
            "compression_ratio": said.compression_ratio,
            "linked": outcome.linked,
            "linked_bytes": outcome.linked_bytes,
            "is_latest": outcome.latest == Latest::Leads,
            "findings": outcome.findings.len(),
            "seconds": (seconds * 1e3).round() / 1e3,
        }),
    )?;
    if console.common.quiet {
        console.line(text::path(&outcome.folder))?;
        return Ok(Exit::done(has_findings));
    }
    console.line(format!(
        "exported {} into {}",
        said.id,
        text::path(&outcome.folder)
    ))?;
    let entries = text::plural(outcome.entries, "entry", "entries");
    let size = text::bytes(said.size_bytes);
    if job.layout == Layout::Tree {
        console.line(format!(
            "  {entries}, {size}; {} linked with the export before ({})",
            text::count(outcome.linked),
            text::bytes(outcome.linked_bytes),
        ))?;
    } else {
        let stored = text::bytes(said.stored_bytes);
        console.line(format!(
            "  {entries}, {size}, in {stored} as {}",
            said.layout
        ))?;
    }
    match outcome.latest {
        // Why it was not switched stands in a finding.
        Latest::Leads | Latest::NotSwitched => {}
        Latest::Stays => {
            console.line("  latest stays: it leads to an export of a later snapshot")?;
        }
        Latest::NoLinks => {
            console.line("  there is no latest: this file system has no links")?;
        }
    }
    Ok(Exit::done(has_findings))
}
