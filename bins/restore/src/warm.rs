//! `restore warm`.

use std::ffi::OsString;
use std::time::Duration;

use backstay::engine::warm::{Asked, Count, Needed, Survey};
use backstay::engine::{Repository, SnapshotView};
use backstay::format::config::Operation;
use backup_terminal::{
    Align, Console, Exit, Look, Outcome, SnapshotPath, Table, parse_snapshot_path, text,
};
use clap::Args;
use serde_json::json;

use crate::place;

const EXAMPLES: &str = "\
Examples:
  restore warm latest --dry-run                  (what it comes to: packs, bytes, requests)
  restore warm latest
  restore warm latest:/srv/www latest:/etc --wait && restore run latest:/srv/www --to /tmp/www
  restore warm latest --json | jq .cold_packs

What lies in an archive has to be asked for before it can be read, which costs money, and takes from
minutes to two days (docs/tiers-cold.md). Asking twice does no harm. --wait may be interrupted: what was
asked for stays asked for. Where nothing has to be warmed, this says so and asks for nothing.

Exit code 0 when all can be read or was asked for, 3 if something that is needed cannot be had.";

/// `restore warm`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct WarmArgs {
    /// The snapshot, and a path in it; may be given several times
    #[arg(value_name = "SNAPSHOT[:PATH]", required = true)]
    pub(crate) snapshots: Vec<OsString>,
    /// Show what is needed and what would be asked for, and ask for nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Wait until all of it can be read
    #[arg(long, conflicts_with = "dry_run")]
    pub(crate) wait: bool,
}

/// Asks for what a restore needs.
pub(crate) async fn warm(console: &mut Console, args: &WarmArgs) -> Outcome {
    let wanted: Vec<SnapshotPath> = (args.snapshots.iter())
        .map(|text| parse_snapshot_path(text))
        .collect::<Outcome<_>>()?;
    let repo = console.open(Operation::Read).await?;
    let mut needed = Needed::default();
    let mut views = Vec::new();
    for one in &wanted {
        let view = place::open(console, &repo, &one.snapshot).await?;
        for part in place::parts(console, &view, one).await? {
            let at = (part.component, &part.path);
            needed.look(&view, &console.cx, at, None).await?;
        }
        views.push(view);
    }
    let (all, entries) = (needed.count(), needed.entries);
    let mut survey = needed.survey(&repo, &console.cx).await?;
    let has_findings = console.findings(&std::mem::take(&mut survey.findings), 0)?;
    show(console, &survey, all, entries)?;
    let mut asked = Asked::default();
    let done = carry_out(console, args, &mut survey, &mut asked).await;
    let done = done.map(|ending| ending.max(Exit::done(has_findings)));
    record(console, &repo, &views, (all, asked), &done).await;
    if !args.dry_run {
        say(console, args, &asked, &done)?;
    }
    done
}

/// What it comes to.
fn show(console: &mut Console, survey: &Survey<'_>, all: Count, entries: u64) -> Outcome<()> {
    let Survey {
        warm,
        warming,
        cold,
        ..
    } = survey;
    console.record(
        "plan",
        json!({
            "entries": entries,
            "packs": all.packs,
            "bytes": all.bytes,
            "warm_packs": warm.packs,
            "warm_bytes": warm.bytes,
            "warming_packs": warming.packs,
            "warming_bytes": warming.bytes,
            "cold_packs": cold.packs,
            "cold_bytes": cold.bytes,
            "requests": cold.packs,
        }),
    )?;
    let mut table = Table::new(&[
        ("", Align::Left),
        ("PACKS", Align::Right),
        ("BYTES", Align::Right),
        ("REQUESTS", Align::Right),
    ]);
    for (name, count, requests) in [
        ("can be read now", warm, 0),
        ("asked for before, not there yet", warming, 0),
        ("to be asked for", cold, cold.packs),
        ("needed altogether", &all, cold.packs),
    ] {
        table.row([
            name.to_owned(),
            text::count(count.packs),
            text::bytes(count.bytes),
            text::count(requests),
        ]);
    }
    console.line(table.render())
}

async fn carry_out(
    console: &mut Console,
    args: &WarmArgs,
    survey: &mut Survey<'_>,
    asked: &mut Asked,
) -> Outcome {
    if args.dry_run {
        return Ok(Exit::Ok);
    }
    survey.ask(&console.cx, asked).await?;
    if args.wait {
        if let Some(wait) = asked.ready_in {
            console.note(&format!(
                "asked for {}; waiting up to {}, which may be interrupted",
                text::plural(asked.requested.packs, "pack", "packs"),
                told(wait)
            ));
        }
        survey.wait(&console.cx).await?;
    }
    Ok(Exit::Ok)
}

/// One record for each snapshot: what was read is its manifest, what was asked for its content.
async fn record(
    console: &Console,
    repo: &Repository,
    views: &[SnapshotView<'_>],
    (all, asked): (Count, Asked),
    done: &Outcome,
) {
    for view in views {
        let mut looked = Look::at("warm", view, all.packs);
        looked.counts = vec![
            ("bytes", all.bytes),
            ("packs", all.packs),
            ("requests", asked.requested.packs),
        ];
        console.record_look(repo, looked, done).await;
    }
}

fn say(console: &mut Console, args: &WarmArgs, asked: &Asked, done: &Outcome) -> Outcome<()> {
    let is_ready = done.is_ok() && (args.wait || asked.ready_in.is_none());
    console.record(
        "warmed",
        json!({
            "requested_packs": asked.requested.packs,
            "requested_bytes": asked.requested.bytes,
            "ready_in_seconds": asked.ready_in.map(|wait| wait.as_secs()),
            "waited": args.wait && done.is_ok(),
        }),
    )?;
    if done.is_err() {
        return Ok(());
    }
    let packs = text::plural(asked.requested.packs, "pack", "packs");
    match asked.ready_in {
        _ if is_ready && args.wait => console.line("all of it can be read: `restore run` it now"),
        Some(wait) => console.line(format!(
            "asked for {packs}; they can be read within about {}: run this again to look, or with --wait",
            told(wait)
        )),
        None if asked.requested.packs > 0 => {
            console.line(format!("asked for {packs}, which can be read now"))
        }
        None => console.line("nothing was to be asked for"),
    }
}

/// A time as people say it.
fn told(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..120 => text::plural(seconds, "second", "seconds"),
        seconds @ 120..7200 => text::plural(seconds.div_ceil(60), "minute", "minutes"),
        seconds => text::plural(seconds.div_ceil(3600), "hour", "hours"),
    }
}
