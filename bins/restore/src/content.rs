//! `restore cat` and `sums`.

use backstay::core::Severity;
use backstay::engine::SnapshotView;
use backstay::engine::restore::{Reading, record_reading};
use backstay::engine::view::{ContentReader, ViewEntry};
use backstay::format::config::Operation;
use backstay::integrity::digest::{ContentDigest, ContentHasher, write_sum_line};
use backstay::integrity::ledger::RecordOutcome;
use backup_terminal::{
    Console, Exit, Failure, Look, Outcome, SnapshotPath, parse_snapshot_path, surroundings, text,
};
use serde_json::{Value, json};

use crate::cli::{CatArgs, SumsArgs};
use crate::look::{path_members, show_path};
use crate::losses::Losses;
use crate::place;

/// Writes the content of a file to standard output.
pub(crate) async fn cat(console: &mut Console, args: &CatArgs) -> Outcome {
    let wanted = parse_snapshot_path(&args.file)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &wanted.snapshot).await?;
    let entry = place::entry(console, &view, &wanted).await?;
    if !entry.record.meta.kind.has_content() {
        let what = format!("{} has no content", show_path(&entry.path));
        return Err(Failure::usage(
            what,
            "name a file; `restore ls` shows what there is",
        ));
    }
    if let Some(doubt) = place::doubt(&view) {
        let said = format!("{}: {}", doubt.subject, doubt.detail);
        if doubt.severity == Severity::Note {
            console.note(&said);
        } else {
            console.warn(&said);
        }
    }
    let mut bytes = 0;
    let written = write_out(console, &view, &entry, &mut bytes).await;
    let outcome = match &written {
        Ok(_) => RecordOutcome::Ok,
        // A reader that went away has had enough.
        Err(failure) if failure.is_silent || failure.exit == Exit::Interrupted => {
            RecordOutcome::Cancelled
        }
        Err(_) => RecordOutcome::Failed,
    };
    let reading = Reading {
        entries: 1,
        bytes,
        findings: 0,
        outcome,
        note: "the content of a file, to standard output".into(),
    };
    let (host, user) = (surroundings::host(), surroundings::actor());
    for finding in record_reading(&view, &console.cx, &host, &user, reading).await {
        console.warn(&format!("{}: {}", finding.subject, finding.detail));
    }
    written
}

/// Writes the content of a file to standard output; counts the bytes.
async fn write_out(
    console: &mut Console,
    view: &SnapshotView<'_>,
    entry: &ViewEntry,
    written: &mut u64,
) -> Outcome {
    let extents = view.extents(&console.cx, &entry.record).await?;
    let mut reader = ContentReader::new(view.repository(), extents);
    let mut hasher = ContentHasher::new();
    while let Some(bytes) = reader.next(&console.cx).await? {
        if console.cx.cancel.is_cancelled() {
            return Err(backstay::engine::EngineError::Cancelled.into());
        }
        hasher.update(&bytes);
        console.raw(&bytes)?;
        *written += bytes.len() as u64;
    }
    let digest = hasher.finish();
    if entry.record.sha256.is_some_and(|wanted| wanted != digest.0) {
        return Err(Failure::new(
            Exit::Damage,
            format!(
                "{}: what was written does not have its SHA-256",
                show_path(&entry.path)
            ),
            "do not use it; `snapshot verify --level full` tells what is damaged",
        ));
    }
    Ok(Exit::Ok)
}

/// Writes sums.
pub(crate) async fn sums(console: &mut Console, args: &SumsArgs) -> Outcome {
    let wanted = parse_snapshot_path(&args.snapshot)?;
    let repo = console.open(Operation::Read).await?;
    let view = place::open(console, &repo, &wanted.snapshot).await?;
    let mut losses = Losses::default();
    let done = write_sums(console, &view, &wanted, &mut losses).await;
    let looked = Look::at("sums", &view, losses.seen());
    console.record_look(&repo, looked, &done).await;
    done
}

async fn write_sums(
    console: &mut Console,
    view: &SnapshotView<'_>,
    wanted: &SnapshotPath,
    losses: &mut Losses,
) -> Outcome {
    let mut line = Vec::new();
    let mut without = 0u64;
    for part in place::parts(console, view, wanted).await? {
        let strip = part.strip().as_stored().len();
        let mut walk = view.entries(part.component, &part.path);
        while let Some(entry) = losses.next(console, view, &mut walk).await? {
            if !entry.record.meta.kind.has_content() {
                continue;
            }
            let Some(digest) = entry.record.sha256.map(ContentDigest) else {
                without += 1;
                continue;
            };
            if console.json() {
                let mut members =
                    json!({ "sha256": digest.to_string(), "size": entry.record.size });
                if let Value::Object(members) = &mut members {
                    for (name, value) in path_members(&entry.path) {
                        members.insert(name.into(), value);
                    }
                }
                console.record("sum", members)?;
                continue;
            }
            let slashed = entry.path.to_slashed();
            let name = slashed.get(strip..).unwrap_or_default();
            line.clear();
            write_sum_line(&mut line, &digest, name.strip_prefix(b"/").unwrap_or(name));
            console.raw(&line)?;
        }
    }
    let ending = losses.tell(console)?;
    if without > 0 {
        console.warn(&format!(
            "{} without a sum, for what could not be read as a whole",
            text::plural(without, "file is", "files are")
        ));
        return Ok(Exit::Findings);
    }
    Ok(ending)
}
