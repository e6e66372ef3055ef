//! `snapshot ledger list`: what was done, by whom, and how it ended; and `snapshot ledger accept`.

use backstay::engine::ledger::{
    AcceptPlan, Acceptance, LostRecord, SeenRecord, accept as carry_out, accept_plan, records,
};
use backstay::format::config::Operation;
use backstay::integrity::ledger::{AcceptedRecords, Record, RecordOutcome};
use backup_terminal::{Console, Exit, Outcome, signer, surroundings, text};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use serde_json::json;

use crate::cli::{LedgerAcceptArgs, LedgerListArgs};

/// Shows records, oldest first, each as soon as it was read.
pub(crate) async fn list(console: &mut Console, args: &LedgerListArgs) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let cx = console.cx.clone();
    let since = args.since.map(|since| since.moment(cx.clock.now()));
    let mut ending = Exit::Ok;
    // What is accepted as lost is said by a later record.
    let (mut accepted, mut unread) = (AcceptedRecords::default(), Vec::new());
    let mut all = Box::pin(records(&repo, &cx).await?);
    while let Some(seen) = all.try_next().await? {
        if cx.cancel.is_cancelled() {
            return Err(backstay::engine::EngineError::Cancelled.into());
        }
        match &seen.record {
            Ok(record) if takes(args, since, record) => show(console, &seen, record)?,
            Ok(_) => {}
            Err(why) => {
                let number = seen.number;
                console.warn(&format!(
                    "record {number} cannot be read: {why}; `snapshot ledger verify` says more"
                ));
                unread.push(number);
            }
        }
        accepted.add(&seen.accepts, seen.number);
        if seen.genuine == Some(false) {
            let number = seen.number;
            console.warn(&format!(
                "record {number} was not written by the host that it names; `snapshot ledger verify` says more"
            ));
            ending = Exit::Damage;
        }
    }
    if unread.iter().any(|number| accepted.by(*number).is_none()) {
        ending = Exit::Damage;
    }
    Ok(ending)
}

/// Says that it is known what the ledger has lost.
pub(crate) async fn accept(console: &mut Console, args: &LedgerAcceptArgs) -> Outcome {
    let repo = console.open_uncached(Operation::Prune).await?;
    let (host, user) = (signer(&repo), surroundings::actor());
    repo.keys().may_forget()?;
    repo.keys().ledger_key(&host)?;
    let plan = accept_plan(&repo, &console.cx).await?;
    show_plan(console, &plan)?;
    let has_left = console.findings(&plan.left, 0)?;
    let is_empty = plan.is_empty();
    let done = match is_empty || args.dry_run {
        true => Acceptance::default(),
        false => carry_out(&repo, &console.cx, (&host, &user), plan).await?,
    };
    console.record(
        "accepted",
        json!({
            "changed": !done.records.is_empty(),
            "records": done.records,
            "aside": done.aside.as_ref().map(|path| path.display().to_string()),
            "signed_as": host.0,
            "dry_run": args.dry_run,
        }),
    )?;
    if is_empty {
        console.note("nothing of the ledger is lost: there is nothing to accept");
    } else if args.dry_run {
        console.line("nothing was recorded; without --dry-run this is accepted")?;
    } else if console.talks() {
        let numbers: Vec<String> = done.records.iter().map(u64::to_string).collect();
        let records = text::plural(done.records.len() as u64, "record", "records");
        let numbers = numbers.join(", ");
        console.line(format!(
            "recorded that this is known: {records} ({numbers})"
        ))?;
    }
    if let Some(aside) = &done.aside {
        let shown = text::escape(aside.as_os_str().as_encoded_bytes());
        console.note(&format!(
            "the copy that this host had is kept as {shown}; it goes on with what the tier has"
        ));
    }
    Ok(Exit::done(has_left))
}

/// What would be accepted.
fn show_plan(console: &mut Console, plan: &AcceptPlan) -> Outcome<()> {
    if plan.beginning {
        console
            .line("the beginning of the ledger is gone, and all that was before what is there")?;
        console.record("lost", json!({ "first": 1, "last": null, "hash": null, "instead": null, "why": "the beginning of the ledger is gone" }))?;
    }
    for LostRecord { lost, why } in &plan.lost {
        console.record(
            "lost",
            json!({
                "first": lost.first,
                "last": lost.last,
                "hash": lost.hash.map(|hash| hash.to_string()),
                "instead": lost.instead.map(|hash| hash.to_string()),
                "why": why,
            }),
        )?;
        let numbers = match lost.last - lost.first {
            0 => lost.first.to_string(),
            _ => format!("{}-{}", lost.first, lost.last),
        };
        let hash = lost.hash.map_or_else(
            || "SHA-256 not known".to_owned(),
            |hash| format!("SHA-256 {hash}"),
        );
        let why = text::escape(why.as_bytes());
        console.line(format!("{numbers:>13}  {why}; {hash}"))?;
    }
    let Some(other) = &plan.other_way else {
        return Ok(());
    };
    let records = text::plural(other.records, "record", "records");
    console.line(format!(
        "{records} from {} on only this host's copy of the ledger has, which went another way than the tier:",
        other.from
    ))?;
    for record in &other.told {
        let snapshot = record.snapshot.map(|id| id.to_string());
        let host = &record.host.0;
        console.record(
            "only-in-copy",
            json!({
                "seq": record.seq,
                "time": record.time.to_string(),
                "op": record.op.as_str(),
                "host": host,
                "snapshot": snapshot,
                "note": record.note,
            }),
        )?;
        console.line(format!(
            "{:>13}  {}  {:<8}  {}  {}",
            record.seq,
            text::time(record.time),
            record.op.as_str(),
            snapshot.as_deref().unwrap_or("-"),
            text::escape(host.as_bytes()),
        ))?;
    }
    Ok(())
}

fn takes(args: &LedgerListArgs, since: Option<Timestamp>, record: &Record) -> bool {
    let is_of = |wanted: &String| {
        let id = record
            .snapshot
            .map(|id| id.to_string().to_ascii_uppercase());
        let wanted = wanted.to_ascii_uppercase();
        id.is_some_and(|id| id.starts_with(&wanted) || id.ends_with(&wanted))
    };
    since.is_none_or(|since| record.time >= since)
        && (args.ops.is_empty() || args.ops.iter().any(|op| op == record.op.as_str()))
        && args.host.as_ref().is_none_or(|host| *host == record.host.0)
        && args.snapshot.as_ref().is_none_or(is_of)
}

const fn outcome_name(outcome: RecordOutcome) -> &'static str {
    match outcome {
        RecordOutcome::Ok => "ok",
        RecordOutcome::Findings => "findings",
        RecordOutcome::Failed => "failed",
        RecordOutcome::Cancelled => "cancelled",
    }
}

/// One record; a table would need all of them at once.
fn show(console: &mut Console, seen: &SeenRecord, record: &Record) -> Outcome<()> {
    console.record(
        "ledger-record",
        json!({
            "seq": seen.number,
            "time": record.time.to_string(),
            "op": record.op.as_str(),
            "host": record.host.0,
            "user": record.user,
            "snapshot": record.snapshot.map(|id| id.to_string()),
            "root": record.root.map(|root| root.to_string()),
            "counts": record.counts,
            "outcome": outcome_name(record.outcome),
            "note": record.note,
            "genuine": seen.genuine,
        }),
    )?;
    let escaped = |text: &str| text::escape(text.as_bytes());
    let counts = record
        .counts
        .iter()
        .map(|(name, count)| match name.as_str() {
            name if name.starts_with("bytes") => format!("{name} {}", text::bytes(*count)),
            name => format!("{} {}", escaped(name), text::count(*count)),
        });
    let snapshot = record.snapshot.map(|id| id.short());
    let rest = snapshot
        .into_iter()
        .chain(counts)
        .chain(record.note.as_deref().map(escaped));
    console.line(format!(
        "{:>6}  {}  {:<8}  {:<9}  {} on {}  {}",
        seen.number,
        text::time(record.time),
        record.op.as_str(),
        outcome_name(record.outcome),
        escaped(&record.user),
        escaped(&record.host.0),
        rest.collect::<Vec<_>>().join(", "),
    ))
}
