//! `snapshot check-tier`: what a tier does with what a repository asks of it, tried on the tier itself.

use std::fs;
use std::path::Path;
use std::time::Duration;

use backstay::conformance::speed::{Latency, Speed};
use backstay::conformance::{CaseReport, CheckFailure, TierReport, Verdict, check_tier as try_it};
use backstay::core::{ErrorKind, Finding, FindingKind, ObjectKey, Severity, SinkError};
use backup_terminal::text::parse_bytes;
use backup_terminal::{Console, Exit, Failure, Outcome, text};
use clap::Args;
use serde_json::{Value, json};

const EXAMPLES: &str = "\
Examples:
  snapshot check-tier /mnt/nas/backup
  snapshot check-tier --speed 1G
  snapshot check-tier /mnt/nas/backup --speed 0 --json

Everything happens in a new folder of the place, check-tier-…, which is taken away again; what lies
beside it is neither read nor changed, so a repository that is in use may be checked. No key is
needed. It takes room for about 50 MiB, and as much as --speed says. A program that is killed leaves
the folder behind: delete it.

Exit code 3 if the place does not do all that a repository needs.";

/// `snapshot check-tier`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckTierArgs {
    /// The place: a folder or a URL; that of --repo if none is named
    #[arg(value_name = "PATH|URL")]
    place: Option<String>,
    /// Measure the speed with so many bytes; 0: do not
    #[arg(long, value_name = "SIZE", default_value = "64M", value_parser = parse_bytes)]
    speed: u64,
}

/// Tries a tier.
pub(crate) async fn check_tier(console: &mut Console, args: &CheckTierArgs) -> Outcome {
    if let Some(place) = &args.place {
        console.common.repo = Some(place.clone());
    }
    let sink = console.sink(false)?;
    if sink.info().is_split {
        return Err(Failure::usage(
            "two places are named, and one is tried at a time",
            "name the first without its `cold=`, then the one behind that",
        ));
    }
    let folder = folder(console)?;
    if console.talks() {
        console.note(&format!("trying {} in {folder}", sink.info().location));
    }
    let cx = console.cx.clone();
    let speed = Some(args.speed).filter(|bytes| *bytes > 0);
    // Whoever waits sees each case when it is over.
    let mut said = Ok(());
    let mut told = |report: &CaseReport| {
        if said.is_ok() {
            said = show(console, report);
        }
    };
    let checked = try_it(sink, &folder, &cx, speed, &mut told).await;
    said?;
    remove_folders(console, &folder);
    let is_folder = console.folder().is_some();
    let report = checked.map_err(|error| failure(error, is_folder))?;
    say(console, &folder, &report)
}

/// A folder that nobody else has.
fn folder(console: &Console) -> Outcome<ObjectKey> {
    let now = console.cx.clock.now().as_millisecond();
    let name = format!("check-tier-{now}-{}", std::process::id());
    ObjectKey::new(name).map_err(|error| Failure::usage(error.to_string(), "see --help"))
}

/// A tier of folders keeps those that are empty.
fn remove_folders(console: &Console, folder: &ObjectKey) {
    if let Some(root) = console.folder() {
        remove_empty(&root.join(folder.as_str()));
    }
}

/// Removes a folder with the folders in it. A file is never removed, nor the folder that holds one.
fn remove_empty(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    // What is not empty stays, and was told as left behind.
    let _ = fs::remove_dir(folder);
}

fn failure(failure: CheckFailure, is_folder: bool) -> Failure {
    match failure {
        CheckFailure::Unusable(error) => unusable(error, is_folder),
        CheckFailure::NotEmpty(_) => {
            Failure::new(Exit::Conflict, failure.to_string(), "run the command again")
        }
        CheckFailure::Cancelled => Failure::new(
            Exit::Interrupted,
            failure.to_string(),
            "run the command again",
        ),
    }
}

/// The place does not take the first thing that is tried. There need not be a repository, so no command that is about
/// one helps.
fn unusable(error: SinkError, is_folder: bool) -> Failure {
    let hint = match error.kind {
        ErrorKind::NotFound => Some(
            "make that folder, or mount the disk that it is on, or name another place; then run the command again",
        ),
        ErrorKind::Unavailable | ErrorKind::Unsupported | ErrorKind::Other if is_folder => Some(
            "no file can be made there, so it can hold no repository: name a folder of a disk (/proc and the like are none)",
        ),
        _ => None,
    };
    let mut failure = Failure::from(error);
    if let Some(hint) = hint {
        failure.hint = hint.into();
    }
    failure
}

/// The name of a case as a sentence.
fn sentence(case: &str) -> String {
    case.replace('_', " ")
}

fn show(console: &mut Console, report: &CaseReport) -> Outcome<()> {
    let (result, detail) = match &report.verdict {
        Verdict::Passed => ("passed", Value::Null),
        Verdict::NotSupported => ("not-supported", Value::Null),
        Verdict::Failed(what) => ("failed", json!(what)),
    };
    console.record(
        "case",
        json!({
            "name": report.case,
            "result": result,
            "seconds": report.took.as_secs_f64(),
            "detail": detail,
        }),
    )?;
    if console.common.quiet && !matches!(report.verdict, Verdict::Failed(_)) {
        return Ok(());
    }
    console.line(format!(
        "{:<15} {:>10}  {}",
        result.replace('-', " "),
        time(report.took),
        sentence(report.case)
    ))?;
    console.flush()
}

/// A time with a unit that suits it.
fn time(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

fn say(console: &mut Console, folder: &ObjectKey, report: &TierReport) -> Outcome {
    let failed = report.failed();
    let mut findings = Vec::new();
    for one in &report.cases {
        if let Verdict::Failed(what) = &one.verdict {
            let detail = text::escape(what.as_bytes());
            let (severity, kind) = (Severity::Error, FindingKind::Mismatch);
            findings.push(Finding::new(severity, kind, sentence(one.case), detail));
        }
    }
    let warn = |what: String| {
        Finding::new(
            Severity::Warning,
            FindingKind::Skipped,
            folder.to_string(),
            what,
        )
    };
    if let Some(Err(error)) = &report.speed {
        findings.push(warn(format!("the speed could not be measured: {error}")));
    }
    if let Some(error) = &report.left {
        findings.push(warn(format!("delete this folder; that failed: {error}")));
    }
    let has_findings = console.findings(&findings, 0)?;
    let speed = report
        .speed
        .as_ref()
        .and_then(|speed| speed.as_ref().ok().copied());
    let count = |verdict: &Verdict| {
        let same = |one: &&CaseReport| one.verdict == *verdict;
        report.cases.iter().filter(same).count()
    };
    let (passed, unsupported) = (count(&Verdict::Passed), count(&Verdict::NotSupported));
    let caps = report.info.caps;
    console.record(
        "tier",
        json!({
            "location": report.info.location,
            "scheme": report.info.scheme,
            "passed": passed,
            "failed": failed,
            "not_supported": unsupported,
            "atomic_create": caps.atomic_create,
            "replace_if": caps.replace_if,
            "max_put_bytes": caps.max_put_bytes,
            "cold": caps.cold,
            "connections": caps.connections,
            "settle_seconds": caps.settle.as_secs_f64(),
            "lock_seconds": caps.lock.map(|lock| lock.as_secs()),
            "speed": speed.map(|speed| speed_members(&speed)),
        }),
    )?;
    if console.talks() {
        console.line(format!(
            "{}: {passed} passed, {failed} failed, {unsupported} not supported",
            report.info.location
        ))?;
        if let Some(speed) = speed {
            say_speed(console, &speed)?;
        }
    }
    Ok(Exit::done(has_findings))
}

fn speed_members(speed: &Speed) -> Value {
    let members = |latency: Latency| json!({ "median": latency.median.as_secs_f64(), "worst": latency.worst.as_secs_f64() });
    json!({
        "bytes": speed.bytes,
        "connections": speed.connections,
        "put_bytes_per_second": speed.put_rate.round(),
        "get_bytes_per_second": speed.get_rate.round(),
        "put_seconds": members(speed.put),
        "get_seconds": members(speed.get),
        "head_seconds": members(speed.head),
        "list_seconds": members(speed.list),
        "delete_seconds": members(speed.delete),
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn say_speed(console: &mut Console, speed: &Speed) -> Outcome<()> {
    let rate = |rate: f64| format!("{}/s", text::bytes(rate as u64));
    console.line(format!(
        "large objects, {} at once: {} written, {} read",
        speed.connections,
        rate(speed.put_rate),
        rate(speed.get_rate)
    ))?;
    let small = [
        ("put", speed.put),
        ("get", speed.get),
        ("head", speed.head),
        ("list", speed.list),
        ("delete", speed.delete),
    ];
    let small: Vec<String> = small
        .iter()
        .map(|(name, latency)| {
            let (median, worst) = (time(latency.median), time(latency.worst));
            format!("{name} {median} (worst {worst})")
        })
        .collect();
    console.line(format!("objects of 1 KiB: {}", small.join(", ")))
}
