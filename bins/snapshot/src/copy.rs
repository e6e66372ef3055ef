//! `snapshot copy`.

use std::collections::HashMap;
use std::num::NonZeroUsize;

use backstay::core::{HostId, SnapshotMeta};
use backstay::engine::copy::{CopyJob, CopyPlan, CopyReport, Fate, copy as carry_out, plan};
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::format::config::Operation;
use backup_terminal::snapshots::meta_members;
use backup_terminal::{
    Console, Exit, Failure, OtherPlace, Outcome, Snapshots, signer, surroundings, text,
};
use serde_json::{Value, json};

use crate::cli::CopyArgs;

/// Copies snapshots to another place.
pub(crate) async fn copy(console: &mut Console, args: &CopyArgs) -> Outcome {
    let from = console.open(Operation::Read).await?;
    let host = signer(&from);
    // Whoever cannot sign the record of what came there must not bring it.
    from.keys().ledger_key(&host)?;
    let place = console.other_place(&args.to)?;
    let all = console.all(&from).await?;
    let damage = match args.snapshots.is_empty() {
        true => {
            let mut damage = all.damage();
            let host = args.filter.host.clone().map(HostId);
            damage.extend(console.missing(&from, &all, host).await?);
            damage
        }
        false => Vec::new(),
    };
    let heads = chosen(console, &from, &all, args).await?;
    let mut job = CopyJob::new(host);
    job.user = surroundings::actor();
    job.again = args.again;
    let to = console.open_other(&from, &place).await?;
    let plan = plan(&from, to.as_ref(), &console.cx, &job, heads).await?;
    show(console, &plan, to.is_none(), args)?;
    let has_damage = console.findings(&damage, 0)?;
    if args.dry_run {
        let has_findings = console.findings(&plan.findings, 0)?;
        return Ok(Exit::done(has_damage || has_findings));
    }
    let mut to = match to {
        Some(to) => to,
        None => {
            let made = console.make_other(&from, &place).await?;
            note_made(console, &made, &place);
            made
        }
    };
    let forgotten = plan.count(Fate::Forgotten);
    let there = plan.count(Fate::There);
    let report = carry_out(&from, &mut to, &console.cx, plan, &job).await?;
    let has_findings = console.findings(&report.findings, 0)? || has_damage;
    say(console, &report, (there, forgotten), &job.host, &place)?;
    Ok(Exit::done(has_findings))
}

/// The snapshots that are asked for, oldest first.
async fn chosen(
    console: &Console,
    from: &Repository,
    all: &Snapshots,
    args: &CopyArgs,
) -> Outcome<Vec<SnapshotHead>> {
    let is_filtered =
        args.filter.name.is_some() || args.filter.host.is_some() || !args.filter.tags.is_empty();
    if !args.snapshots.is_empty() && is_filtered {
        return Err(Failure::usage(
            "snapshots are named and a filter is given",
            "give one or the other",
        ));
    }
    let mut heads: Vec<SnapshotHead> = if args.snapshots.is_empty() {
        let heads = all
            .heads
            .iter()
            .filter(|head| args.filter.takes(&head.meta));
        heads.cloned().collect()
    } else {
        let named = console.chosen(from, all, &args.snapshots).await?;
        named.into_iter().cloned().collect()
    };
    heads.sort_by_key(|head| (head.meta.time, head.meta.id));
    if let Some(most) = args.newest {
        keep_newest(&mut heads, most);
    }
    Ok(heads)
}

/// Keeps the newest of each name and host.
fn keep_newest(heads: &mut Vec<SnapshotHead>, most: NonZeroUsize) {
    let line = |meta: &SnapshotMeta| (meta.host.clone(), meta.name.clone());
    let mut seen: HashMap<(HostId, String), usize> = HashMap::new();
    heads.reverse();
    heads.retain(|head| {
        let count = seen.entry(line(&head.meta)).or_default();
        *count += 1;
        *count <= most.get()
    });
    heads.reverse();
}

fn note_made(console: &Console, made: &Repository, place: &OtherPlace) {
    console.note(&format!(
        "made repository {} at {}; the same key opens it: name it there with --key-file",
        made.id(),
        place.shown()
    ));
}

const fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Copy => "copy",
        Fate::There => "there",
        Fate::Forgotten => "forgotten",
    }
}

fn show(console: &mut Console, plan: &CopyPlan, is_new: bool, args: &CopyArgs) -> Outcome<()> {
    console.end_progress();
    for (head, what) in &plan.snapshots {
        let mut members = meta_members(&head.meta);
        if let Value::Object(members) = &mut members {
            members.insert("fate".into(), fate(*what).into());
        }
        console.record("candidate", members)?;
    }
    let (lacking, there) = (plan.count(Fate::Copy), plan.count(Fate::There));
    let forgotten = plan.count(Fate::Forgotten);
    console.record(
        "plan",
        json!({
            "snapshots": plan.snapshots.len(),
            "lacking": lacking,
            "there": there,
            "forgotten": forgotten,
            "packs": plan.packs,
            "bytes": plan.bytes,
            "makes_repository": is_new,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    let snapshots = |count| text::plural(count, "snapshot", "snapshots");
    console.line(format!(
        "{} of {} to copy, which needs at most {} in {}; {} there already",
        text::count(lacking),
        snapshots(plan.snapshots.len() as u64),
        text::bytes(plan.bytes),
        text::plural(plan.packs, "pack", "packs"),
        text::count(there)
    ))?;
    if args.dry_run {
        let lacking = plan
            .snapshots
            .iter()
            .filter(|(_, what)| *what == Fate::Copy);
        for (head, _) in lacking {
            let meta = &head.meta;
            console.line(format!(
                "would copy {} of {} on {}, {}",
                meta.id.short(),
                text::escape(meta.name.as_bytes()),
                text::escape(meta.host.0.as_bytes()),
                text::time(meta.time)
            ))?;
        }
        if is_new {
            console.line("would make a repository of the same family there")?;
        }
    }
    if forgotten > 0 {
        console.note(&format!(
            "{} forgotten at the place that is copied to, and not copied again; --again brings what is forgotten back",
            text::plural(forgotten, "snapshot was", "snapshots were")
        ));
    }
    Ok(())
}

fn say(
    console: &mut Console,
    report: &CopyReport,
    (there, forgotten): (u64, u64),
    host: &HostId,
    place: &OtherPlace,
) -> Outcome<()> {
    for meta in &report.copied {
        console.record("copied", meta_members(meta))?;
    }
    console.record(
        "copies",
        json!({
            "copied": report.copied.len(),
            "there": there,
            "forgotten": forgotten,
            "packs": report.packs,
            "bytes": report.bytes,
            "to": place.shown(),
            "signed_as": host.0,
        }),
    )?;
    if !console.talks() {
        return Ok(());
    }
    console.line(format!(
        "copied {} to {}: sent {} in {}",
        text::plural(report.copied.len() as u64, "snapshot", "snapshots"),
        place.shown(),
        text::bytes(report.bytes),
        text::plural(report.packs, "pack", "packs")
    ))
}
