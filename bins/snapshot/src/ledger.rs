//! `snapshot ledger list`: what was done, by whom, and how it ended; and `snapshot ledger accept`.

use backstay::engine::ledger::{SeenRecord, accept_beginning, records};
use backstay::format::config::Operation;
use backstay::integrity::ledger::{Record, RecordOutcome};
use backup_terminal::{Console, Exit, Outcome, signer, surroundings, text};
use futures::TryStreamExt as _;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::json;

use crate::cli::{LedgerListArgs, Since};

/// Shows records, oldest first, each as soon as it was read.
pub(crate) async fn list(console: &mut Console, args: &LedgerListArgs) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let cx = console.cx.clone();
    let since = args.since.map(|since| match since {
        Since::Moment(moment) => moment,
        Since::Ago(span) => span.before(cx.clock.now(), &TimeZone::system()),
    });
    let mut ending = Exit::Ok;
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
                ending = Exit::Damage;
            }
        }
        if seen.genuine == Some(false) {
            let number = seen.number;
            console.warn(&format!(
                "record {number} was not written by the host that it names; `snapshot ledger verify` says more"
            ));
            ending = Exit::Damage;
        }
    }
    Ok(ending)
}

/// Says that it is known that the beginning of the ledger was taken away.
pub(crate) async fn accept(console: &mut Console) -> Outcome {
    let repo = console.open_uncached(Operation::Prune).await?;
    let (host, user) = (signer(&repo), surroundings::actor());
    let accepted = accept_beginning(&repo, &console.cx, &host, &user).await?;
    console.record(
        "accepted",
        json!({ "changed": accepted, "signed_as": host.0 }),
    )?;
    if !accepted {
        console.note("the ledger has its beginning: there is nothing to accept");
    } else if console.talks() {
        console.line("recorded that what was before the ledger is gone, and that this is known")?;
    }
    Ok(Exit::Ok)
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
