//! `snapshot prune`.

use std::time::Duration;

use backstay::core::{Finding, FindingKind, HostId, Severity};
use backstay::engine::prune::{
    OpenSession, PruneJob, PruneNumbers, PruneReport, may_reseal, plan, prune as carry_out,
};
use backstay::engine::repository::Repository;
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Outcome, signer, surroundings, text};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::{MaxDrop, PruneArgs};

/// Gives back the space of what no snapshot names.
pub(crate) async fn prune(console: &mut Console, args: &PruneArgs) -> Outcome {
    let repo = console.open(Operation::Prune).await?;
    if args.reseal {
        may_reseal(&repo)?;
    }
    repo.keys().may_forget()?;
    let host = signer(&repo);
    repo.keys().ledger_key(&host)?;
    run(console, &repo, &host, args).await
}

/// The same with a repository that is open.
pub(crate) async fn run(
    console: &mut Console,
    repo: &Repository,
    host: &HostId,
    args: &PruneArgs,
) -> Outcome {
    let job = job(host, args);
    let plan = plan(repo, &console.cx, &job).await?;
    show(console, &plan.numbers, args)?;
    let is_hurt = console.findings(&plan.findings, 0)?;
    if args.dry_run {
        if plan.drops_too_much(&job) && console.talks() {
            console.line(
                "the prune itself would refuse to delete so much at once; --max-drop 100% allows it",
            )?;
        }
        return Ok(Exit::done(is_hurt));
    }
    let report = carry_out(repo, &console.cx, plan, &job).await?;
    let mut findings = report.findings.clone();
    findings.extend(report.waits_for.iter().map(waits));
    let has_findings = console.findings(&findings, 0)? || is_hurt;
    say(console, &report, host)?;
    Ok(Exit::done(has_findings))
}

fn job(host: &HostId, args: &PruneArgs) -> PruneJob {
    let usual = PruneJob::new(host.clone());
    let hours = |hours: u32| Duration::from_secs(u64::from(hours) * 3600);
    PruneJob {
        user: surroundings::actor(),
        max_unused: args.max_unused.map_or(usual.max_unused, |given| given.0),
        max_repack: args.max_repack,
        patience: args.revoke_after.map_or(usual.patience, hours),
        wait: args.wait.map_or(usual.wait, Duration::from_secs),
        reseal: args.reseal,
        max_drop: match args.max_drop {
            _ if args.force => 1.0,
            Some(MaxDrop(share)) => share,
            None => usual.max_drop,
        },
        repack_cold: args.repack_cold,
        despite_gone: args.despite_gone,
        despite_ledger: args.despite_ledger,
        ..usual
    }
}

/// What a session that is at work is told as.
fn waits(open: &OpenSession) -> Finding {
    let started = i64::try_from(open.started_ms).ok();
    let started = started.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let started = started.map_or_else(String::new, |at| format!(" since {}", text::time(at)));
    let host = open.host.as_ref().map_or_else(
        || "a host whose name cannot be read".to_owned(),
        |host| text::escape(host.0.as_bytes()),
    );
    let detail = format!(
        "{host} is saving{started}, or was killed: nothing that it may build on is deleted before it ends; the next prune goes on; once it has stood still for long enough (--revoke-after) it is taken for dead, and --revoke-after 0 does not wait for it"
    );
    let subject = format!("session {}", open.id);
    Finding::new(Severity::Warning, FindingKind::Skipped, subject, detail)
}

fn show(console: &mut Console, numbers: &PruneNumbers, args: &PruneArgs) -> Outcome<()> {
    let asked = |number| args.reseal.then_some(number);
    console.record(
        "plan",
        json!({
            "snapshots": numbers.snapshots,
            "packs": numbers.packs,
            "bytes": numbers.bytes,
            "unused_packs": numbers.unused_packs,
            "unused_bytes": numbers.unused_bytes,
            "partly_used_packs": numbers.partly_used_packs,
            "wasted_bytes": numbers.wasted_bytes,
            "repacked_packs": numbers.repacked_packs,
            "small_packs": numbers.small_packs,
            "copied_bytes": numbers.copied_bytes,
            "repack_gain": numbers.repack_gain,
            "cold_packs": numbers.cold_packs,
            "cold_bytes": numbers.cold_bytes,
            "missing_packs": numbers.missing_packs,
            "older_packs": asked(numbers.older_packs),
            "older_bytes": asked(numbers.older_bytes),
            "resealed_packs": asked(numbers.resealed_packs),
            "resealed_bytes": asked(numbers.resealed_bytes),
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    let packs = |count| text::plural(count, "pack", "packs");
    console.line(format!(
        "{} in {}, for {}",
        text::bytes(numbers.bytes),
        packs(numbers.packs),
        text::plural(numbers.snapshots, "snapshot", "snapshots")
    ))?;
    // What is done is told when it is.
    let so = |then: &str| {
        if args.dry_run {
            format!(", would be {then}")
        } else {
            String::new()
        }
    };
    console.line(format!(
        "unused: {} in {}{}",
        text::bytes(numbers.unused_bytes),
        packs(numbers.unused_packs),
        so("deleted")
    ))?;
    console.line(format!(
        "unused in part: {} in {}; {} to be written anew, {} small ones to be laid together, which copies {} and gives {} back",
        text::bytes(numbers.wasted_bytes),
        packs(numbers.partly_used_packs),
        packs(numbers.repacked_packs),
        text::count(numbers.small_packs),
        text::bytes(numbers.copied_bytes),
        text::bytes(numbers.repack_gain)
    ))?;
    if numbers.cold_packs > 0 {
        console.line(format!(
            "kept cold: {} unused in {}, which are not read to be written anew and go when nothing uses them any more; --repack-cold writes them anew, once they are warm",
            text::bytes(numbers.cold_bytes),
            packs(numbers.cold_packs)
        ))?;
    }
    if args.reseal {
        console.line(format!(
            "of older generations of keys: {} in {}; {} in {} to be sealed anew by this run",
            text::bytes(numbers.older_bytes),
            packs(numbers.older_packs),
            text::bytes(numbers.resealed_bytes),
            packs(numbers.resealed_packs)
        ))?;
    }
    Ok(())
}

fn say(console: &mut Console, report: &PruneReport, host: &HostId) -> Outcome<()> {
    let revoked: Vec<_> = report.revoked.iter().map(ToString::to_string).collect();
    let waits: Vec<_> = report
        .waits_for
        .iter()
        .map(|one| one.id.to_string())
        .collect();
    console.record(
        "pruned",
        json!({
            "deleted_packs": report.deleted_packs,
            "deleted_bytes": report.deleted_bytes,
            "written_packs": report.written_packs,
            "written_bytes": report.written_bytes,
            "resealed_packs": report.resealed_packs,
            "resealed_bytes": report.resealed_bytes,
            "locked_objects": report.locked.map(|locked| locked.objects),
            "locked_until": report.locked.map(|locked| locked.until.to_string()),
            "revoked": revoked,
            "waits_for": waits,
            "signed_as": host.0,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    let packs = |count| text::plural(count, "pack", "packs");
    console.line(format!(
        "deleted {} in {}, wrote {} in {}",
        text::bytes(report.deleted_bytes),
        packs(report.deleted_packs),
        text::bytes(report.written_bytes),
        packs(report.written_packs)
    ))?;
    if report.resealed_packs > 0 {
        console.line(format!(
            "sealed {} in {} anew",
            text::bytes(report.resealed_bytes),
            packs(report.resealed_packs)
        ))?;
    }
    if let Some(locked) = report.locked {
        console.line(format!(
            "locked {} until {} at least",
            text::plural(locked.objects, "object", "objects"),
            text::time(locked.until)
        ))?;
    }
    for session in &report.revoked {
        console.note(&format!(
            "session {session} had no end and was taken for dead; if it is still at work, it finds out"
        ));
    }
    Ok(())
}
