//! `snapshot forget`.

use std::collections::{BTreeMap, BTreeSet};

use backstay::core::{
    Decision, Finding, FindingKind, HostId, Reason, Severity, SnapshotId, SnapshotMeta, Verdict,
};
use backstay::engine::hold::Holds;
use backstay::engine::ledger::{OwnClock, first_seen};
use backstay::engine::repository::{Repository, SnapshotHead, UnreadSnapshot};
use backstay::engine::verify::known_damaged;
use backstay::engine::{
    ForgetPlan, GivenUp, forget as carry_out, forget_unread, give_up, given_up, unsigned,
};
use backstay::format::config::Operation;
use backstay::retention::{Count, KeepPolicy, last_good};
use backup_terminal::snapshots::{Snapshots, meta_members};
use backup_terminal::{
    Align, Console, Exit, Failure, Filter, Outcome, Table, signer, surroundings, text,
};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::cli::{ForgetArgs, PruneArgs};
use crate::versions::{Rules, kept_versions};

/// Clocks that are well may be apart by less.
const MOST_AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// Forgets snapshots.
#[allow(clippy::too_many_lines, reason = "one step after another")]
pub(crate) async fn forget(console: &mut Console, args: &ForgetArgs) -> Outcome {
    let policy = policy(args);
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
    // Also of a dry run: it must not promise what the run itself could not do.
    repo.keys().may_forget()?;
    let (host, user) = (signer(&repo), surroundings::actor());
    repo.keys().ledger_key(&host)?;
    let (all, holds) = console.all_and_holds(&repo).await?;
    let (unread, named) = take_unread(&all.unread, &args.snapshots);
    let (gone, named) = take_gone(console, &repo, &all, named, args).await?;
    let mut damage = if by_name {
        Vec::new()
    } else {
        console.damage(&repo, &all).await?
    };
    let unsigned = unsigned(&repo, &all.heads);
    let cache = console.cache_folder();
    let damaged = known_damaged(&repo, &console.cx, cache.as_deref(), &all.heads).await?;
    let plan = if by_name {
        let named = console.chosen(&repo, &all, &named).await?;
        let plan = ForgetPlan::by_id(named.into_iter().map(|head| head.meta.clone()).collect());
        must_not_be_held(&plan, &holds)?;
        let others = unread.iter().map(|one| one.id);
        let mut others = others.chain(gone.iter().map(|one| one.id));
        if let Some(id) = others.find(|id| holds.has(*id)) {
            return Err(is_held(id, &holds));
        }
        if !args.force {
            must_not_be_the_last(&plan, &all.heads, &unsigned, &damaged)?;
        }
        plan
    } else {
        let (plan, unplaced) = by_rules(
            console,
            &repo,
            &host,
            all.heads,
            (&unsigned, &damaged),
            args,
            policy,
        )
        .await?;
        damage.extend(unplaced);
        plan
    };
    let told = |pair: &(SnapshotMeta, Decision)| unsigned.get(&pair.0.id).cloned();
    damage.extend(plan.decisions.iter().filter_map(told));
    let others = unread.iter().map(|one| {
        (
            one.id,
            format!("named, and it cannot be read: {}", one.error),
        )
    });
    let why = "named, and it is gone from the tier";
    let others = others.chain(gone.iter().map(|one| (one.id, why.to_owned())));
    let others: Vec<_> = others.collect();
    let options = (
        args.dry_run,
        damage.iter().any(|one| one.kind == FindingKind::Skipped),
    );
    show(console, &plan, &unsigned, &others, options)?;
    let has_damage = console.findings(&damage, 0)?;
    let looked_at = plan.decisions.len() + unread.len() + gone.len();
    if args.dry_run {
        let mut of_holds = holds.lost();
        of_holds.extend(holds.unknown());
        let has_damage = console.findings(&of_holds, 0)? || has_damage;
        let going = plan.forgotten().count() + unread.len() + gone.len();
        console.line(format!("{going} of {looked_at} would be forgotten"))?;
        return Ok(Exit::done(has_damage));
    }
    let mut done = carry_out(&repo, &console.cx, &plan, &host, &user).await?;
    for one in unread {
        let findings = forget_unread(&repo, &console.cx, one, &host, &user).await?;
        done.findings.extend(findings);
        done.removed += 1;
    }
    for one in &gone {
        let findings = give_up(&repo, &console.cx, one, &host, &user).await?;
        done.findings.extend(findings);
        done.removed += 1;
    }
    let has_findings = console.findings(&done.findings, 0)? || has_damage;
    let removed = done.removed;
    console.record(
        "forgotten",
        json!({ "removed": removed, "looked_at": looked_at, "signed_as": host.0 }),
    )?;
    if console.talks() {
        console.line(format!("{removed} of {looked_at} forgotten"))?;
    }
    if host != surroundings::host() {
        let shown = text::escape(host.0.as_bytes());
        console.note(&format!(
            "recorded in the ledger as {shown}, the name of this key"
        ));
    }
    let forgot = Exit::done(has_findings);
    if !args.prune {
        return Ok(forgot);
    }
    let pruned = crate::prune::run(console, &repo, &host, &PruneArgs::default()).await?;
    Ok(if forgot == Exit::Ok { pruned } else { forgot })
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

/// Where the ledger knows none of them, it is the ledger that is to be looked at.
fn all_unrecorded(count: usize) -> Finding {
    let snapshots = text::plural(count as u64, "snapshot", "snapshots");
    let detail = format!(
        "{snapshots} the ledger does not know, so it does not tell when they were made: they stay, and no rule counts them; `snapshot ledger verify` tells why"
    );
    Finding::new(
        Severity::Warning,
        FindingKind::Skipped,
        "the ledger",
        detail,
    )
}

/// What the rules decide, and what is to be said of snapshots that they leave alone.
async fn by_rules(
    console: &Console,
    repo: &Repository,
    host: &HostId,
    mut heads: Vec<SnapshotHead>,
    (unsigned, damaged): (&BTreeMap<SnapshotId, Finding>, &BTreeSet<SnapshotId>),
    args: &ForgetArgs,
    mut policy: KeepPolicy,
) -> Outcome<(ForgetPlan, Vec<Finding>)> {
    let clock = first_seen(repo, &console.cx, host, &mut heads).await?;
    if !args.despite_clock {
        must_not_be_slow(clock, &heads, console.cx.clock.now())?;
    }
    let filter = Filter {
        name: args.name.clone(),
        host: args.host.clone(),
        tags: args.tags.clone(),
    };
    let all: Vec<&SnapshotMeta> = heads.iter().map(|head| &head.meta).collect();
    let unmatched = filter.unmatched(args.label.as_deref(), &all);
    let heads = heads.iter().filter(|head| filter.takes(&head.meta));
    let (others, heads): (Vec<&SnapshotHead>, Vec<&SnapshotHead>) =
        heads.partition(|head| unsigned.contains_key(&head.meta.id));
    let heads = heads.into_iter();
    let (heads, unplaced): (Vec<&SnapshotHead>, Vec<&SnapshotHead>) =
        heads.partition(|head| head.meta.first_seen.is_some());
    let versions = match args.keep.keep_versions {
        Some(most) => kept_versions(console, repo, &heads, most, &args.keep.versions_of).await?,
        None => BTreeMap::new(),
    };
    if policy.is_empty() {
        // Versions alone: a line keeps its newest in any case.
        policy.last = Some(Count::AtMost(1));
    }
    let rules = Rules { policy, versions };
    let metas = heads.iter().map(|head| head.meta.clone()).collect();
    let now = console.cx.clock.now();
    let mut plan = ForgetPlan::by_policy(metas, &rules, now, &TimeZone::system(), damaged);
    plan.leave_unsigned(others.into_iter().map(|head| head.meta.clone()));
    let mut told: Vec<Finding> = match plan.decisions.is_empty() && !unplaced.is_empty() {
        true => vec![all_unrecorded(unplaced.len())],
        false => unplaced.into_iter().map(unrecorded).collect(),
    };
    told.extend(unmatched);
    Ok((plan, told))
}

/// By a slow clock all snapshots of later days would count as of one, and all but one of them would go.
fn must_not_be_slow(clock: OwnClock, heads: &[SnapshotHead], now: Timestamp) -> Outcome<()> {
    let bound = now.saturating_add(MOST_AHEAD).unwrap_or(Timestamp::MAX);
    let of = |head: &SnapshotHead| head.meta.first_seen.filter(|seen| *seen > bound);
    let Some(last) = heads.iter().filter_map(of).max() else {
        return Ok(());
    };
    let proof = match clock {
        OwnClock::Right => return Ok(()),
        OwnClock::Slow(at) => format!(
            "this machine itself recorded something at {}",
            text::time(at)
        ),
        OwnClock::Unproven => {
            // One may come of a wrong clock elsewhere; of two, one would go for the other.
            let mut lines = BTreeSet::new();
            let ahead = heads.iter().filter(|head| of(head).is_some());
            let mut lines_of = ahead.map(|head| (&head.meta.name, &head.meta.host));
            if lines_of.all(|line| lines.insert(line)) {
                return Ok(());
            }
            "nothing that this machine recorded tells that its clock is right".to_owned()
        }
    };
    Err(Failure::new(
        Exit::Failed,
        format!(
            "this machine's clock says {}, and by the ledger there are snapshots up to {}; {proof}, so nothing is forgotten",
            text::time(now),
            text::time(last)
        ),
        "set the clock (`timedatectl`), then run it again; if it is right and the clocks of others are not, add --despite-clock",
    ))
}

/// Takes the snapshots that cannot be read out of what is named. They must be named by their whole
/// ids: nothing else tells which they are.
pub(crate) fn take_unread<'a>(
    unread: &'a [UnreadSnapshot],
    specs: &[String],
) -> (Vec<&'a UnreadSnapshot>, Vec<String>) {
    let names = |spec: &String, one: &UnreadSnapshot| spec.parse() == Ok(one.id);
    let named = |one: &&UnreadSnapshot| specs.iter().any(|spec| names(spec, one));
    let rest = |spec: &&String| !unread.iter().any(|one| names(spec, one));
    (
        unread.iter().filter(named).collect(),
        specs.iter().filter(rest).cloned().collect(),
    )
}

/// Takes the snapshots that are gone out of what is named, by their whole ids. Whoever gives one up has to say that it
/// is meant, and none is given up that a repair brings back.
async fn take_gone(
    console: &Console,
    repo: &Repository,
    all: &Snapshots,
    named: Vec<String>,
    args: &ForgetArgs,
) -> Outcome<(Vec<GivenUp>, Vec<String>)> {
    let there = |id: &SnapshotId| all.heads.iter().any(|head| head.meta.id == *id);
    let wanted: BTreeSet<SnapshotId> = named
        .iter()
        .filter_map(|spec| spec.parse().ok())
        .filter(|id| !there(id))
        .collect();
    if wanted.is_empty() {
        return Ok((Vec::new(), named));
    }
    let gone = given_up(repo, &console.cx, &wanted).await?;
    for one in &gone {
        let id = one.id;
        let what = format!("snapshot {id} is gone from the tier, so there is nothing to delete");
        let hint = if one.comes_back {
            format!(
                "its sidecar is whole, and so is what it needs: `snapshot repair` puts it back; then `snapshot forget {id}`, if it is to go"
            )
        } else if !args.force {
            format!(
                "first try `snapshot repair`, also with --from another copy of the repository; `snapshot forget {id} --force` records that it is given up: what it alone used goes with the next prune, and verify and prune ask for it no more"
            )
        } else {
            continue;
        };
        return Err(Failure::new(Exit::Failed, what, hint));
    }
    let is_gone = |spec: &String| gone.iter().any(|one| spec.parse() == Ok(one.id));
    let rest = named.iter().filter(|spec| !is_gone(spec)).cloned();
    Ok((gone.clone(), rest.collect()))
}

/// A hold is there to be heeded: naming a held snapshot forgets nothing at all.
fn must_not_be_held(plan: &ForgetPlan, holds: &Holds) -> Outcome<()> {
    let kept = plan
        .decisions
        .iter()
        .find(|(_, decision)| decision.verdict == Verdict::Keep);
    let Some((meta, _)) = kept else {
        return Ok(());
    };
    Err(is_held(meta.id, holds))
}

/// Whoever names the last one that can be restored whole has to say that it is meant.
fn must_not_be_the_last(
    plan: &ForgetPlan,
    heads: &[SnapshotHead],
    unsigned: &BTreeMap<SnapshotId, Finding>,
    damaged: &BTreeSet<SnapshotId>,
) -> Outcome<()> {
    let signed = heads
        .iter()
        .filter(|head| !unsigned.contains_key(&head.meta.id));
    let metas: Vec<SnapshotMeta> = signed.map(|head| head.meta.clone()).collect();
    let named = plan.forgotten().map(|meta| meta.id).collect();
    let last = last_good(&metas, &named, damaged);
    let Some(last) = last.first() else {
        return Ok(());
    };
    Err(Failure::new(
        Exit::Failed,
        format!(
            "snapshot {} is the last good one of {} on {}, as far as is known here, so nothing is forgotten",
            last.id,
            text::name(&last.name),
            text::escape(last.host.0.as_bytes())
        ),
        "save again first; or, if it is to go all the same, add --force",
    ))
}

fn is_held(id: SnapshotId, holds: &Holds) -> Failure {
    if holds.has_lost(Some(id)) {
        return Failure::new(
            Exit::Conflict,
            format!(
                "snapshot {id} is held by the ledger, so nothing is forgotten; its hold is gone from the tier, and nobody released it"
            ),
            format!(
                "place it again: `snapshot hold {id}`; or, if it is to go, `snapshot release {id}` first"
            ),
        );
    }
    Failure::new(
        Exit::Conflict,
        format!("snapshot {id} is held, so nothing is forgotten"),
        format!("release it first: `snapshot release {id}`"),
    )
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

fn show(
    console: &mut Console,
    plan: &ForgetPlan,
    unsigned: &BTreeMap<SnapshotId, Finding>,
    others: &[(SnapshotId, String)],
    (dry_run, is_any_left_out): (bool, bool),
) -> Outcome<()> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TIME", Align::Left),
        ("HOST", Align::Left),
        ("NAME", Align::Left),
        ("VERDICT", Align::Left),
        ("WHY", Align::Left),
    ]);
    for (meta, decision) in &plan.decisions {
        let is_signed = !unsigned.contains_key(&meta.id);
        let mut reasons: Vec<String> = decision.reasons.iter().map(ToString::to_string).collect();
        if !is_signed && !decision.reasons.contains(&Reason::Unsigned) {
            reasons.push(Reason::Unsigned.to_string());
        }
        let verdict = match decision.verdict {
            Verdict::Keep => "keep",
            Verdict::Forget => "forget",
        };
        let mut members = meta_members(meta);
        if let Value::Object(members) = &mut members {
            members.insert("counted_from".into(), judged(meta).to_string().into());
            members.insert("signed".into(), is_signed.into());
            members.insert("verdict".into(), verdict.into());
            members.insert("reasons".into(), json!(reasons));
            members.insert("dry_run".into(), dry_run.into());
        }
        console.record("decision", members)?;
        table.row([
            meta.id.short(),
            text::time(judged(meta)),
            text::escape(meta.host.0.as_bytes()),
            text::name(&meta.name),
            verdict.to_owned(),
            text::escape(reasons.join(", ").as_bytes()),
        ]);
    }
    for (id, why) in others {
        console.record(
            "decision",
            json!({
                "id": id.to_string(),
                "short_id": id.short(),
                "verdict": "forget",
                "reasons": [why],
                "dry_run": dry_run,
            }),
        )?;
        table.row([
            id.short(),
            String::new(),
            String::new(),
            String::new(),
            "forget".to_owned(),
            text::escape(why.as_bytes()),
        ]);
    }
    if plan.decisions.is_empty() && others.is_empty() {
        if !is_any_left_out {
            console.note("there are no such snapshots");
        }
        return Ok(());
    }
    if console.common.quiet {
        return Ok(());
    }
    console.line(table.render())
}
