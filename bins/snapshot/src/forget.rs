//! `snapshot forget`.

use std::collections::BTreeMap;

use backstay::core::{Finding, FindingKind, Severity, SnapshotMeta, Verdict};
use backstay::engine::ledger::first_seen;
use backstay::engine::repository::SnapshotHead;
use backstay::engine::{ForgetPlan, forget as carry_out};
use backstay::format::config::Operation;
use backstay::retention::{Count, KeepPolicy};
use backup_terminal::snapshots::meta_members;
use backup_terminal::{Align, Console, Exit, Failure, Filter, Outcome, Table, surroundings, text};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use crate::cli::ForgetArgs;
use crate::versions::{Rules, kept_versions};

/// Forgets snapshots.
pub(crate) async fn forget(console: &mut Console, args: &ForgetArgs) -> Outcome {
    let mut policy = policy(args);
    let by_name = !args.snapshots.is_empty();
    let has_rules = !policy.is_empty() || args.keep.keep_versions.is_some();
    if by_name == has_rules {
        return Err(if by_name {
            Failure::usage(
                "snapshots are named and rules are given",
                "give one or the other",
            )
        } else {
            Failure::usage(
                "no rule and no snapshot is given, so nothing is forgotten",
                "give --keep-daily 7 and the like, or name snapshots; --dry-run shows what would go",
            )
        });
    }
    let repo = console.open(Operation::Prune).await?;
    if !args.dry_run {
        repo.keys().may_forget()?;
    }
    let (mut heads, mut damage) = console.heads(&repo).await?;
    let (host, user) = (surroundings::host(), surroundings::user());
    let plan = if by_name {
        let named = Console::chosen(&heads, &args.snapshots)?;
        let plan = ForgetPlan::by_id(named.into_iter().map(|head| head.meta.clone()).collect());
        must_not_be_held(&plan)?;
        plan
    } else {
        first_seen(&repo, &console.cx, &host, &mut heads).await?;
        let filter = Filter {
            name: args.name.clone(),
            host: args.host.clone(),
            tags: args.tags.clone(),
        };
        let heads = heads.iter().filter(|head| filter.takes(&head.meta));
        let (heads, unplaced): (Vec<&SnapshotHead>, Vec<&SnapshotHead>) =
            heads.partition(|head| head.meta.first_seen.is_some());
        damage.extend(unplaced.into_iter().map(unrecorded));
        let versions = match args.keep.keep_versions {
            Some(most) => {
                kept_versions(console, &repo, &heads, most, &args.keep.versions_of).await?
            }
            None => BTreeMap::new(),
        };
        if policy.is_empty() {
            // Versions alone: a line keeps its newest in any case.
            policy.last = Some(Count::AtMost(1));
        }
        let rules = Rules { policy, versions };
        let metas = heads.iter().map(|head| head.meta.clone()).collect();
        let now = console.cx.clock.now();
        ForgetPlan::by_policy(metas, &rules, now, &TimeZone::system())
    };
    show(console, &plan, args.dry_run)?;
    let has_damage = console.findings(&damage, 0)?;
    let going = plan.forgotten().count() as u64;
    if args.dry_run {
        console.line(format!(
            "{going} of {} would be forgotten",
            plan.decisions.len()
        ))?;
        return Ok(Exit::done(has_damage));
    }
    let done = carry_out(&repo, &console.cx, &plan, &host, &user).await?;
    let has_findings = console.findings(&done.findings, 0)? || has_damage;
    let removed = done.removed;
    console.record(
        "forgotten",
        json!({ "removed": removed, "looked_at": plan.decisions.len() }),
    )?;
    console.line(format!("{removed} of {} forgotten", plan.decisions.len()))?;
    Ok(Exit::done(has_findings))
}

/// Whoever dates a snapshot as it likes must not push others out of their places by leaving it out of
/// the ledger.
fn unrecorded(head: &SnapshotHead) -> Finding {
    let detail = format!(
        "the ledger does not tell when it was made: it stays, and no rule counts it; the next `snapshot save` on {} records it",
        text::escape(head.meta.host.0.as_bytes())
    );
    let subject = format!("snapshot {}", head.meta.id);
    Finding::new(Severity::Note, FindingKind::Skipped, subject, detail)
}

/// A hold is there to be heeded: naming a held snapshot forgets nothing at all.
fn must_not_be_held(plan: &ForgetPlan) -> Outcome<()> {
    let kept = plan
        .decisions
        .iter()
        .find(|(_, decision)| decision.verdict == Verdict::Keep);
    let Some((meta, _)) = kept else {
        return Ok(());
    };
    Err(Failure::new(
        Exit::Conflict,
        format!("snapshot {} is held, so nothing is forgotten", meta.id),
        format!("release it first: `snapshot release {}`", meta.id.short()),
    ))
}

fn policy(args: &ForgetArgs) -> KeepPolicy {
    let keep = &args.keep;
    KeepPolicy {
        label: args.label.clone(),
        last: keep.keep_last,
        hourly: keep.keep_hourly,
        daily: keep.keep_daily,
        weekly: keep.keep_weekly,
        monthly: keep.keep_monthly,
        quarterly: keep.keep_quarterly,
        yearly: keep.keep_yearly,
        within: keep.keep_within,
        within_hourly: keep.keep_within_hourly,
        within_daily: keep.keep_within_daily,
        within_weekly: keep.keep_within_weekly,
        within_monthly: keep.keep_within_monthly,
        within_quarterly: keep.keep_within_quarterly,
        within_yearly: keep.keep_within_yearly,
        tags: keep.keep_tag.clone(),
        forever: false,
        week_start: keep.week_start,
    }
}

/// The time that rules go by.
fn judged(meta: &SnapshotMeta) -> Timestamp {
    meta.first_seen.unwrap_or(meta.time)
}

fn show(console: &mut Console, plan: &ForgetPlan, dry_run: bool) -> Outcome<()> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("HOST", Align::Left),
        ("NAME", Align::Left),
        ("VERDICT", Align::Left),
        ("WHY", Align::Left),
    ]);
    for (meta, decision) in &plan.decisions {
        let reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        let verdict = match decision.verdict {
            Verdict::Keep => "keep",
            Verdict::Forget => "forget",
        };
        let mut members = meta_members(meta);
        if let Value::Object(members) = &mut members {
            members.insert("counted_from".into(), judged(meta).to_string().into());
            members.insert("verdict".into(), verdict.into());
            members.insert("reasons".into(), json!(reasons));
            members.insert("dry_run".into(), dry_run.into());
        }
        console.record("decision", members)?;
        table.row([
            meta.id.short(),
            text::time(judged(meta)),
            text::escape(meta.host.0.as_bytes()),
            text::escape(meta.name.as_bytes()),
            verdict.to_owned(),
            text::escape(reasons.join(", ").as_bytes()),
        ]);
    }
    if plan.decisions.is_empty() {
        console.note("there are no such snapshots");
        return Ok(());
    }
    if console.common.quiet {
        return Ok(());
    }
    console.line(table.render())
}
