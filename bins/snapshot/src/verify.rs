//! `snapshot verify` and `snapshot ledger verify`.

use std::collections::HashSet;

use backstay::core::{Finding, FindingKind, Sample, Severity, VerifyLevel};
use backstay::engine::ledger::verify_ledger;
use backstay::engine::slots::foreign;
use backstay::engine::verify::{Damage, ReadBudget, coverage as engine_coverage};
use backstay::engine::{VerifyJob, VerifyOutcome, verify_job};
use backstay::format::config::Operation;
use backup_terminal::{Align, Console, Exit, Failure, Look, Outcome, Table, text};
use serde_json::json;

use crate::cli::{Level, VerifyArgs};
use crate::coverage;

/// Damaged objects that are shown to people.
const MOST_OBJECTS: usize = 20;

/// Looks whether snapshots are whole.
#[allow(clippy::too_many_lines, reason = "one step after another")]
pub(crate) async fn verify(console: &mut Console, args: &VerifyArgs) -> Outcome {
    if args.coverage {
        return covered(console).await;
    }
    if args.level == Level::Metadata && (share(args).is_some() || args.rehash) {
        return Err(Failure::usage(
            "--sample, --slice, --budget and --rehash say which content is read, and the level metadata reads none",
            "add --level checksum or --level full",
        ));
    }
    if args.level == Level::Checksum && args.rehash {
        return Err(Failure::usage(
            "--rehash is about the content of files, and the level checksum opens none",
            "write --level full",
        ));
    }
    let repo = console.open_uncached(Operation::Verify).await?;
    if args.level > Level::Metadata {
        console.may_read_cold(&repo, "this level of `verify`", args.read_cold)?;
    }
    let heads = if args.snapshots.is_empty() {
        None
    } else {
        let all = console.all(&repo).await?;
        let chosen = console.chosen(&repo, &all, &args.snapshots).await?;
        Some(chosen.into_iter().cloned().collect())
    };
    let job = VerifyJob {
        snapshots: heads,
        level: match args.level {
            Level::Metadata => VerifyLevel::Metadata,
            Level::Checksum => VerifyLevel::Checksum,
            Level::Full => VerifyLevel::FullRead,
        },
        sample: match (args.sample, args.slice) {
            (Some(percent), _) => Sample::Share {
                seed: u64::try_from(console.cx.clock.now().as_microsecond()).unwrap_or(0),
                percent,
            },
            (None, Some((n, of))) => Sample::Slice { n, of },
            (None, None) => Sample::All,
        },
        budget: args.budget,
        memory: console.cache_folder(),
        rehash: args.rehash,
    };
    let mut outcome = verify_job(&repo, &console.cx, job).await?;
    let findings = &mut outcome.report.findings;
    let mut is_sound = true;
    if args.snapshots.is_empty() {
        // Only the ledger knows of a snapshot that is gone altogether.
        let ledger = verify_ledger(&repo, &console.cx).await?;
        is_sound = (ledger.findings.iter()).all(|finding| finding.severity < Severity::Error);
        // What is missing is said once.
        let is_said: HashSet<_> = (findings.iter())
            .map(|finding| (finding.kind, finding.subject.clone()))
            .collect();
        let new = ledger.findings.into_iter();
        findings.extend(new.filter(|one| !is_said.contains(&(one.kind, one.subject.clone()))));
        findings.extend(foreign(&repo, &console.cx).await?);
    }
    let report = &outcome.report;
    let ending = match console.findings(&report.findings, 0)? {
        true if report.findings.iter().all(is_whole) => Exit::Findings,
        true => Exit::Damage,
        false => Exit::Ok,
    };
    show_damage(console, &outcome.damage)?;
    if console.json() {
        coverage::show(console, &outcome.coverage)?;
    }
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
            "walked": outcome.walked,
            "closed": outcome.closed,
            "objects": report.objects,
            "chunks": report.chunks,
            "entries": report.entries,
            "bytes_read": report.bytes,
            "contents_hashed": outcome.hashed.contents,
            "contents_left": outcome.hashed.left,
            "bytes_left": outcome.hashed.left_bytes,
            "findings": report.findings.len(),
            "read_manifests": outcome.read_manifests,
            "share": share(args),
        }),
    )?;
    if console.talks() {
        summary(console, args, &outcome, ending)?;
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
            ("objects", report.objects),
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

/// Shows what was covered up to now.
async fn covered(console: &mut Console) -> Outcome {
    let repo = console.open(Operation::Verify).await?;
    let Some(folder) = console.cache_folder() else {
        return Err(Failure::usage(
            "there is no cache folder in which it would be remembered what was covered",
            "name one with --cache-dir",
        ));
    };
    let coverage = engine_coverage(&repo, &console.cx, &folder).await?;
    coverage::show(console, &coverage)?;
    Ok(Exit::Ok)
}

/// Damaged objects with what they hurt.
fn show_damage(console: &mut Console, damage: &[Damage]) -> Outcome<()> {
    if damage.is_empty() {
        return Ok(());
    }
    for one in damage {
        let snapshots: Vec<_> = one.snapshots.iter().map(ToString::to_string).collect();
        let paths = one
            .paths
            .iter()
            .map(|(snapshot, path)| json!({ "snapshot": snapshot.to_string(), "path": path }));
        console.record(
            "damage",
            json!({
                "object": one.object,
                "why": one.why,
                "snapshots": snapshots,
                "snapshot_count": one.snapshot_count,
                "paths": paths.collect::<Vec<_>>(),
                "path_count": one.path_count,
            }),
        )?;
    }
    if !console.talks() {
        return Ok(());
    }
    let mut table = Table::new(&[
        ("SNAPSHOTS", Align::Right),
        ("ENTRIES", Align::Right),
        ("DAMAGED OR MISSING", Align::Left),
    ]);
    for one in damage.iter().take(MOST_OBJECTS) {
        table.row([
            text::count(one.snapshot_count),
            text::count(one.path_count),
            text::escape(one.object.as_bytes()),
        ]);
    }
    console.line(table.render())?;
    let hidden = damage.len().saturating_sub(MOST_OBJECTS);
    if hidden > 0 {
        console.line(format!(
            "… and {} more; --json has them",
            text::count(hidden as u64)
        ))?;
    }
    Ok(())
}

fn summary(
    console: &mut Console,
    args: &VerifyArgs,
    outcome: &VerifyOutcome,
    ending: Exit,
) -> Outcome<()> {
    let report = &outcome.report;
    console.line(format!(
        "verified {}: {}, {}, {}, {} read",
        text::plural(outcome.snapshots, "snapshot", "snapshots"),
        text::plural(report.entries, "entry", "entries"),
        text::plural(report.chunks, "chunk", "chunks"),
        text::plural(report.objects, "object", "objects"),
        text::bytes(report.bytes),
    ))?;
    if let Some(share) = share(args) {
        console.line(format!("of the content, {share} was looked at"))?;
    }
    if !outcome.read_manifests {
        console
            .line("this key cannot read manifests: only the objects around them were checked")?;
    } else if outcome.walked + outcome.closed < outcome.snapshots {
        console.line(format!(
            "{} of {} were walked; the others come next time",
            text::count(outcome.walked),
            text::plural(outcome.snapshots, "manifest", "manifests"),
        ))?;
    }
    if outcome.closed > 0 {
        console.line(format!(
            "{} saved since the keys were rotated: this key does not read them, and only the objects around them were checked",
            text::plural(outcome.closed, "snapshot was", "snapshots were"),
        ))?;
    }
    let walked_all = !outcome.read_manifests || outcome.walked == outcome.snapshots;
    let is_part = args.sample.is_some() || args.slice.is_some();
    let is_all = walked_all && !is_part && outcome.hashed.left == 0;
    if args.level == Level::Full && outcome.hashed.left > 0 {
        console.line(format!(
            "{} ({}) not yet compared with their SHA-256: their chunks are checked like all others, and the next runs go on{}",
            text::plural(outcome.hashed.left, "file content", "file contents"),
            text::bytes(outcome.hashed.left_bytes),
            if args.budget.is_none() {
                "; --rehash does all now"
            } else {
                ""
            },
        ))?;
    }
    if args.level > Level::Metadata {
        coverage::show(console, &outcome.coverage)?;
    }
    if ending == Exit::Damage {
        let found = text::plural(report.findings.len() as u64, "finding", "findings");
        return console.line(format!(
            "DAMAGE: {found}; `snapshot repair --dry-run` tells what can be mended"
        ));
    }
    if ending == Exit::Findings {
        console.line("protection is missing; `snapshot repair` adds it")?;
    }
    console.line(if is_all {
        "no damage found"
    } else {
        "no damage found in what was read so far"
    })
}

/// The share of the content that is read, for people; nothing for all of it.
fn share(args: &VerifyArgs) -> Option<String> {
    match (args.sample, args.slice, args.budget) {
        (Some(percent), ..) => Some(format!("a random {percent}%")),
        (None, Some((n, of)), _) => Some(format!("slice {n} of {of}")),
        (None, None, Some(ReadBudget::Bytes(most))) => Some(format!("up to {}", text::bytes(most))),
        (None, None, Some(ReadBudget::Time(most))) => {
            Some(format!("as much as {} s allow", most.as_secs()))
        }
        (None, None, None) => None,
    }
}

/// Whether what a finding tells of is there as it was written, and no more than what protects it is missing.
fn is_whole(finding: &Finding) -> bool {
    finding.severity < Severity::Error && finding.kind == FindingKind::Degraded
        || finding.severity == Severity::Note
}

/// Checks the ledger.
pub(crate) async fn ledger(console: &mut Console) -> Outcome {
    let repo = console.open_uncached(Operation::Verify).await?;
    let check = verify_ledger(&repo, &console.cx).await?;
    let is_wrong = console.findings(&check.findings, 0)?;
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
