//! `snapshot verify` and `snapshot ledger verify`.

use backstay::core::{Sample, Severity, VerifyLevel};
use backstay::engine::ledger::verify_ledger;
use backstay::engine::slots::foreign;
use backstay::engine::{VerifyOutcome, verify as engine_verify};
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Failure, Look, Outcome, text};
use serde_json::json;

use crate::cli::{Level, VerifyArgs};

/// Looks whether snapshots are whole.
pub(crate) async fn verify(console: &mut Console, args: &VerifyArgs) -> Outcome {
    if args.level == Level::Metadata && share(args).is_some() {
        return Err(Failure::usage(
            "--sample and --slice choose content to read, and the level metadata reads none",
            "add --level checksum or --level full",
        ));
    }
    let repo = console.open_uncached(Operation::Verify).await?;
    let heads = if args.snapshots.is_empty() {
        None
    } else {
        let all = console.all(&repo).await?;
        let chosen = console.chosen(&repo, &all, &args.snapshots).await?;
        Some(chosen.into_iter().cloned().collect())
    };
    let level = match args.level {
        Level::Metadata => VerifyLevel::Metadata,
        Level::Checksum => VerifyLevel::Checksum,
        Level::Full => VerifyLevel::FullRead,
    };
    let sample = match (args.sample, args.slice) {
        (Some(percent), _) => Sample::Share {
            seed: u64::try_from(console.cx.clock.now().as_microsecond()).unwrap_or(0),
            percent,
        },
        (None, Some((n, of))) => Sample::Slice { n, of },
        (None, None) => Sample::All,
    };
    let mut outcome = engine_verify(&repo, &console.cx, heads, level, sample).await?;
    let findings = &mut outcome.report.findings;
    let mut is_sound = true;
    if args.snapshots.is_empty() {
        // Only the ledger knows of a snapshot that is gone altogether.
        let ledger = verify_ledger(&repo, &console.cx).await?;
        is_sound = (ledger.findings.iter()).all(|finding| finding.severity < Severity::Error);
        findings.extend(ledger.findings);
        findings.extend(foreign(&repo, &console.cx).await?);
    }
    let report = &outcome.report;
    let is_damaged = console.findings(&report.findings, 0)?;
    let ending = if is_damaged { Exit::Damage } else { Exit::Ok };
    if is_sound {
        let looked = looked(args, &outcome);
        console.record_look(&repo, looked, &Ok(ending)).await;
    } else {
        // A further record would stand between what is there and what was taken away.
        console.note("this `verify` is not in the ledger, which does not match");
    }
    console.record(
        "verified",
        json!({
            "snapshots": outcome.snapshots,
            "objects": report.objects,
            "chunks": report.chunks,
            "entries": report.entries,
            "bytes_read": report.bytes,
            "findings": report.findings.len(),
            "read_manifests": outcome.read_manifests,
            "share": share(args),
        }),
    )?;
    if console.talks() {
        summary(console, args, &outcome, is_damaged)?;
    }
    Ok(ending)
}

/// What the ledger is to know of it.
fn looked(args: &VerifyArgs, outcome: &VerifyOutcome) -> Look {
    let report = &outcome.report;
    let level = match args.level {
        Level::Metadata => "metadata",
        Level::Checksum => "checksum",
        Level::Full => "full",
    };
    Look {
        op: "verify",
        snapshot: None,
        counts: vec![
            ("snapshots", outcome.snapshots),
            ("packs", report.objects),
            ("chunks", report.chunks),
            ("entries", report.entries),
            ("bytes", report.bytes),
            ("findings", report.findings.len() as u64),
        ],
        note: match share(args) {
            Some(share) => format!("level {level}, {share}"),
            None => format!("level {level}"),
        },
    }
}

fn summary(
    console: &mut Console,
    args: &VerifyArgs,
    outcome: &VerifyOutcome,
    is_damaged: bool,
) -> Outcome<()> {
    let report = &outcome.report;
    console.line(format!(
        "verified {}: {}, {}, {}, {} read",
        text::plural(outcome.snapshots, "snapshot", "snapshots"),
        text::plural(report.entries, "entry", "entries"),
        text::plural(report.chunks, "chunk", "chunks"),
        text::plural(report.objects, "pack", "packs"),
        text::bytes(report.bytes),
    ))?;
    if let Some(share) = share(args) {
        console.line(format!("of the content, {share} was looked at"))?;
    }
    if !outcome.read_manifests {
        console
            .line("this key cannot read manifests: only the objects around them were checked")?;
    }
    if is_damaged {
        let found = text::plural(report.findings.len() as u64, "finding", "findings");
        return console.line(format!("DAMAGE: {found}"));
    }
    console.line("no damage found")
}

/// The share of the content that is read, for people; nothing for all of it.
fn share(args: &VerifyArgs) -> Option<String> {
    match (args.sample, args.slice) {
        (Some(percent), _) => Some(format!("a random {percent}%")),
        (None, Some((n, of))) => Some(format!("slice {n} of {of}")),
        (None, None) => None,
    }
}

/// Checks the ledger.
pub(crate) async fn ledger(console: &mut Console) -> Outcome {
    let repo = console.open_uncached(Operation::Verify).await?;
    let check = verify_ledger(&repo, &console.cx).await?;
    let is_wrong = console.findings(&check.findings, check.report.more_findings)?;
    let last = check.report.last;
    console.record(
        "ledger",
        json!({
            "records": check.report.records,
            "hmacs_checked": check.report.hmacs_checked,
            "copied": check.copied,
            "findings": check.findings.len(),
            "last": last.map(|head| json!({ "seq": head.seq, "hash": head.hash.to_string() })),
        }),
    )?;
    let ending = if is_wrong { Exit::Damage } else { Exit::Ok };
    if !console.talks() {
        return Ok(ending);
    }
    console.line(format!(
        "ledger: {}, {} checked, {} in this host's copy",
        text::plural(check.report.records, "record", "records"),
        text::plural(check.report.hmacs_checked, "signature", "signatures"),
        text::count(check.copied),
    ))?;
    let foreign = check.report.records - check.report.hmacs_checked.min(check.report.records);
    if foreign > 0 {
        console.line(format!(
            "of {} only the chain was checked: this key does not hold the keys of the hosts that signed them",
            text::plural(foreign, "record", "records"),
        ))?;
    }
    if let Some(head) = last {
        console.line(format!("last record {} {}", head.seq, head.hash))?;
    }
    if is_wrong {
        console.line("the ledger does NOT match")?;
    }
    Ok(ending)
}
