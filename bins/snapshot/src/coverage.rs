//! What verifications covered up to now, as a table or a JSON line.

use backstay::engine::verify::{Amount, Coverage, LevelCoverage};
use backup_terminal::{Align, Console, Outcome, Table, text};
use serde_json::{Value, json};

/// Shows what was covered.
pub(crate) fn show(console: &mut Console, coverage: &Coverage) -> Outcome<()> {
    console.record(
        "coverage",
        json!({
            "remembered": coverage.is_kept,
            "packs": coverage.all.packs,
            "bytes": coverage.all.bytes,
            "checksum": members(&coverage.checksum),
            "full": members(&coverage.full),
            "damaged_packs": coverage.damaged.packs,
            "damaged_bytes": coverage.damaged.bytes,
            "snapshots": coverage.snapshots,
            "walked": coverage.walked,
            "contents_whole": coverage.whole_contents,
        }),
    )?;
    if !console.talks() || coverage.all.packs == 0 {
        return Ok(());
    }
    let mut table = Table::new(&[
        ("COVERED", Align::Left),
        ("CHECKSUM", Align::Right),
        ("", Align::Right),
        ("FULL", Align::Right),
        ("", Align::Right),
    ]);
    let mut row = |span: String, checksum: Amount, full: Amount| {
        table.row([
            span,
            text::bytes(checksum.bytes),
            percent(checksum, coverage.all),
            text::bytes(full.bytes),
            percent(full, coverage.all),
        ]);
    };
    let (checksum, full) = (&coverage.checksum, &coverage.full);
    for ((days, checksum), (_, full)) in checksum.within.iter().zip(&full.within) {
        let days = text::plural(u64::from(*days), "day", "days");
        row(format!("in the last {days}"), *checksum, *full);
    }
    row("ever".into(), checksum.ever, full.ever);
    let never = |level: &LevelCoverage| Amount {
        packs: coverage.all.packs.saturating_sub(level.ever.packs),
        bytes: coverage.all.bytes.saturating_sub(level.ever.bytes),
    };
    row("never".into(), never(checksum), never(full));
    let oldest = |level: &LevelCoverage| level.oldest.map_or_else(|| "–".to_owned(), text::time);
    table.row([
        "oldest check".into(),
        oldest(checksum),
        String::new(),
        oldest(full),
        String::new(),
    ]);
    console.line(table.render())?;
    if !coverage.is_kept {
        console.line("this is not remembered: the next run knows nothing of it")?;
    }
    Ok(())
}

/// How much of the bytes that is; no more is said to be covered than is.
fn percent(part: Amount, all: Amount) -> String {
    let percent = u128::from(part.bytes) * 100 / u128::from(all.bytes.max(1));
    format!("{percent}%")
}

fn members(level: &LevelCoverage) -> Value {
    let within = level.within.iter().map(
        |(days, amount)| json!({ "days": days, "packs": amount.packs, "bytes": amount.bytes }),
    );
    json!({
        "packs": level.ever.packs,
        "bytes": level.ever.bytes,
        "oldest": level.oldest.map(|at| at.to_string()),
        "within": within.collect::<Vec<_>>(),
    })
}
