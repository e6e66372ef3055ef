//! `snapshot repair`.

use backstay::core::{HostId, ObjectKey, PackId};
use backstay::engine::Repository;
use backstay::engine::ledger::{LedgerDraft, record_operation};
use backstay::engine::repair::{
    Mended, RepairJob, RepairPlan, RepairReport, Step, plan, put_roots, repair as carry_out, roots,
    set_share,
};
use backstay::format::config::Operation;
use backstay::format::layout;
use backstay::integrity::ledger::RecordOutcome;
use backstay::parity::Share;
use backup_terminal::{Console, Exit, Failure, Outcome, signer, surroundings, text};
use serde_json::json;

use crate::cli::{Parity, RepairArgs, RepairStep};

/// Tasks that are shown to people unless they ask for more.
const MOST_SHOWN: usize = 20;

/// A share of parity on the command line.
pub(crate) fn parse_parity(text: &str) -> Result<Parity, String> {
    if text == "off" {
        return Ok(Parity(None));
    }
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    let share = number.and_then(|percent| Share::new(percent).ok());
    share
        .map(|share| Parity(Some(share)))
        .ok_or_else(|| format!("`{text}` is no share: write a number from 1 to 50, or off"))
}

/// A pack on the command line: its name, or the last part of it.
pub(crate) fn parse_pack(text: &str) -> Result<PackId, String> {
    let digest = text.rsplit('/').next().unwrap_or(text);
    let folder = digest.get(..2).unwrap_or_default();
    let key = ObjectKey::new(format!("data/{folder}/{digest}")).ok();
    key.and_then(|key| layout::pack_id(&key))
        .ok_or_else(|| format!("`{text}` names no pack: write its 64 digits, or its whole name"))
}

/// Mends what is damaged.
pub(crate) async fn repair(console: &mut Console, args: &RepairArgs) -> Outcome {
    let mut before = Vec::new();
    let mut repo = match console.open_uncached(Operation::Prune).await {
        Err(failure) if can_be_put_back(&failure) && !args.from.is_empty() => {
            match put_back_roots(console, args, failure).await? {
                Some(mended) => before = mended,
                None => return Ok(Exit::Findings),
            }
            console.open_uncached(Operation::Prune).await?
        }
        opened => opened?,
    };
    console.may_read_cold(&repo, "`repair`", args.read_cold)?;
    repo.check_features(&console.cx, Operation::Write).await?;
    repo.keys().may_forget()?;
    let host = signer(&repo);
    repo.keys().ledger_key(&host)?;
    let mut others = Vec::new();
    for place in &args.from {
        others.push(console.open_copy(place).await?);
    }
    let mut job = RepairJob::new(&repo, host);
    job.user = surroundings::actor();
    job.before = before;
    job.packs = args.packs.iter().copied().collect();
    if !args.steps.is_empty() {
        job.steps = args.steps.iter().map(step).collect();
    }
    if let Some(asked) = &args.parity {
        job.parity = asked.0;
        job.steps.insert(Step::Packs);
        if !args.dry_run {
            let was = repo.parity();
            set_share(&mut repo, &console.cx, asked.0).await?;
            if was != asked.0 {
                note_share(console, &repo, &job.host, asked.0).await?;
            }
        }
    }
    let plan = plan(&repo, &console.cx, &job, &others).await?;
    show(console, &plan)?;
    if args.dry_run {
        let is_damaged = console.findings(&plan.lost, 0)? || !plan.tasks.is_empty();
        return Ok(Exit::done(is_damaged));
    }
    let report = carry_out(&repo, &console.cx, plan, &job, &others).await?;
    let is_left = console.findings(&report.findings, 0)?;
    say(console, &repo, &report, &job, is_left)?;
    Ok(Exit::done(is_left))
}

/// Notes in the ledger that packs have another share of parity from now on.
async fn note_share(
    console: &mut Console,
    repo: &Repository,
    host: &HostId,
    share: Option<Share>,
) -> Outcome<()> {
    let draft = LedgerDraft {
        op: "repair",
        snapshot: None,
        root: None,
        counts: vec![(
            "parity-percent",
            share.map_or(0, |share| share.percent().into()),
        )],
        outcome: RecordOutcome::Ok,
        note: "changed the share of parity".into(),
    };
    let user = surroundings::actor();
    let findings = record_operation(repo, &console.cx, host, &user, draft).await?;
    console.findings(&findings, 0)?;
    Ok(())
}

/// Whether it may be a config or a key slot that does not let the repository open.
fn can_be_put_back(failure: &Failure) -> bool {
    matches!(failure.exit, Exit::Damage | Exit::WrongKey)
}

/// Puts back from copies what the repository does not open without; nothing with `--dry-run`. What it cannot is the
/// failure that it was.
async fn put_back_roots(
    console: &mut Console,
    args: &RepairArgs,
    failure: Failure,
) -> Outcome<Option<Vec<Mended>>> {
    let sink = console.sink(false)?;
    for place in &args.from {
        let copy = console.open_copy(place).await?;
        let roots = roots(&console.cx, &sink, &copy).await?;
        if roots.is_empty() {
            continue;
        }
        for root in &roots {
            let remedy = root.remedy.to_string();
            console.record(
                "task",
                json!({ "subject": root.key.to_string(), "why": root.why, "remedy": remedy }),
            )?;
            if console.talks() {
                console.line(format!(
                    "{}: {}; can be mended from {remedy}",
                    root.key, root.why
                ))?;
            }
        }
        if args.dry_run {
            console.note("the repository does not open without it, so nothing else was looked at");
            return Ok(None);
        }
        put_roots(&console.cx, &sink, &roots).await?;
        let mended = roots.into_iter().map(|root| Mended {
            subject: root.key.to_string(),
            remedy: root.remedy,
        });
        return Ok(Some(mended.collect()));
    }
    Err(failure)
}

const fn step(step: &RepairStep) -> Step {
    match step {
        RepairStep::Packs => Step::Packs,
        RepairStep::Index => Step::Index,
        RepairStep::Refs => Step::Refs,
    }
}

fn show(console: &mut Console, plan: &RepairPlan) -> Outcome<()> {
    console.end_progress();
    for task in &plan.tasks {
        console.record(
            "task",
            json!({
                "subject": task.subject,
                "why": task.why,
                "remedy": task.remedy.to_string(),
            }),
        )?;
    }
    console.record(
        "plan",
        json!({
            "packs": plan.packs,
            "bytes_read": plan.bytes,
            "mendable": plan.tasks.len(),
            "lost": plan.lost.len(),
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    if plan.packs > 0 {
        console.line(format!(
            "read {} in {}",
            text::bytes(plan.bytes),
            text::plural(plan.packs, "pack", "packs")
        ))?;
    }
    if plan.tasks.is_empty() && plan.lost.is_empty() {
        return console.line("nothing is damaged");
    }
    let most = match console.common.verbose {
        0 => MOST_SHOWN,
        _ => usize::MAX,
    };
    for task in plan.tasks.iter().take(most) {
        console.line(format!(
            "{}: {}; can be mended from {}",
            task.subject,
            text::escape(task.why.as_bytes()),
            text::escape(task.remedy.to_string().as_bytes())
        ))?;
    }
    let more = plan.tasks.len().saturating_sub(most);
    if more > 0 {
        console.line(format!("… and {more} more; -v shows all"))?;
    }
    if !plan.lost.is_empty() {
        let lost = text::plural(plan.lost.len() as u64, "thing", "things");
        console.line(format!("{lost} cannot be mended from what is at hand"))?;
    }
    Ok(())
}

fn say(
    console: &mut Console,
    repo: &Repository,
    report: &RepairReport,
    job: &RepairJob,
    is_left: bool,
) -> Outcome<()> {
    for one in &report.mended {
        console.record(
            "mended",
            json!({ "subject": one.subject, "remedy": one.remedy.to_string() }),
        )?;
    }
    console.record(
        "repaired",
        json!({
            "mended": report.mended.len(),
            "left": report.findings.len(),
            "parity_percent": repo.parity().map(Share::percent),
            "signed_as": job.host.0,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    let mended = text::plural(report.mended.len() as u64, "thing", "things");
    let end = match is_left {
        false => "nothing is left to mend",
        true => "something is LEFT: see above, and `snapshot verify`",
    };
    console.line(format!("mended {mended}; {end}"))
}
