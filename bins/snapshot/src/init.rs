//! `snapshot init`, and the repository that `snapshot save` makes by itself.

use std::path::Path;

use backstay::engine::Repository;
use backstay::engine::ledger::{LedgerDraft, record_operation};
use backstay::format::config::Operation;
use backstay::integrity::ledger::RecordOutcome;
use backstay::parity::Share;
use backup_terminal::unfinished::{unfinished, wait_for_maker};
use backup_terminal::{Console, Exit, Failure, Outcome, surroundings, text};
use serde_json::json;

use crate::cli::InitArgs;

/// Makes a repository.
pub(crate) async fn init(console: &mut Console, args: &InitArgs) -> Outcome {
    let wants_key_file =
        console.common.key_file.is_some() || console.common.passphrase_file.is_none();
    let key_file = if wants_key_file {
        Some(console.key_file()?)
    } else {
        None
    };
    if let Some(path) = &key_file {
        // Another process may be making it just now.
        wait_for_maker(path).await;
    }
    // Before any key is written: at a place that cannot be looked at nothing can be made either.
    if console.exists().await? {
        let place = console.location()?.to_string();
        return Err(Failure::from(
            backstay::engine::EngineError::RepositoryExists(place),
        ));
    }
    if let Some(path) = args.recovery_sheet.as_deref().filter(|path| path.exists()) {
        return Err(Failure::new(
            Exit::Conflict,
            format!(
                "{} is there already; a recovery sheet is never overwritten",
                text::path(path)
            ),
            "name another file with --recovery-sheet",
        ));
    }
    let label = args.label.clone().unwrap_or_else(own_label);
    let parity = match args.parity {
        Some(asked) => asked.0,
        None => console.usual_parity()?,
    };
    let mut keys = console.new_keys(key_file, &label, parity)?;
    if let Some(path) = &args.recovery_sheet {
        keys.write_sheet(path)?;
    }
    let (id, key_file) = (keys.prepared.id(), keys.key_file.clone());
    let sheet = keys.prepared.recovery_sheet.clone();
    let slots = keys.prepared.slots_note();
    let repo = console.create(keys).await?;
    note_in_ledger(console, &repo, slots).await;
    let place = repo.location();
    console.record(
        "repository",
        json!({
            "id": id.to_string(),
            "location": place,
            "parity_percent": repo.parity().map(Share::percent),
            "key_file": key_file.as_deref().map(text::path),
            "recovery_sheet": args.recovery_sheet.as_deref().map(text::path),
            "recovery_text": args.recovery_sheet.is_none().then(|| sheet.as_str()),
        }),
    )?;
    console.line(format!("repository {id} at {place}"))?;
    if let Some(path) = &key_file {
        console.line(format!("key file   {}", text::path(path)))?;
    }
    match &args.recovery_sheet {
        Some(path) => console.line(format!(
            "recovery   {} — print it, then remove it",
            text::path(path)
        ))?,
        None => {
            console.line("\nPrint this and keep it away from this machine:\n")?;
            console.line(sheet.trim_end())?;
        }
    }
    Ok(Exit::Ok)
}

/// Opens the repository of a key file that is there already: another process may be making it just
/// now. If none does, it was there before and is not now.
async fn open_of_other(console: &mut Console, key_file: &Path) -> Outcome<Repository> {
    wait_for_maker(key_file).await;
    if key_file.exists() && console.exists().await? {
        return console.open(Operation::Write).await;
    }
    let mut failure = backup_terminal::failure::no_repository(&console.location()?.to_string());
    failure.hint = format!(
        "its key file {} is there, so check that its disk is mounted; `snapshot init` makes a new repository with another key file",
        text::path(key_file)
    );
    Err(failure)
}

/// Makes the repository that a first save finds missing. Not where a key of this place is there
/// already: then its disk is not mounted, or somebody removed it.
pub(crate) async fn make_for_save(console: &mut Console) -> Outcome<Repository> {
    let key_file = console.key_file()?;
    wait_for_maker(&key_file).await;
    if key_file.exists() {
        return open_of_other(console, &key_file).await;
    }
    let sheet = key_file.with_extension("recovery.txt");
    if sheet.exists() && !key_file.exists() {
        return Err(Failure::new(
            Exit::Conflict,
            format!("a recovery sheet is at {} already", text::path(&sheet)),
            "move it to a safe place, then run the command again",
        ));
    }
    let parity = console.usual_parity()?;
    let mut keys = match console.new_keys(Some(key_file.clone()), &own_label(), parity) {
        Ok(keys) => keys,
        // Another process was faster.
        Err(failure)
            if failure.exit == Exit::Conflict
                && (key_file.exists() || unfinished(&key_file).exists()) =>
        {
            return open_of_other(console, &key_file).await;
        }
        Err(failure) => return Err(failure),
    };
    keys.write_sheet(&sheet)?;
    let slots = keys.prepared.slots_note();
    let repo = match console.create(keys).await {
        Err(failure) if failure.exit == Exit::Conflict && key_file.exists() => {
            return open_of_other(console, &key_file).await;
        }
        made => made?,
    };
    note_in_ledger(console, &repo, slots).await;
    console.record(
        "repository",
        json!({
            "id": repo.id().to_string(),
            "location": repo.location(),
            "parity_percent": repo.parity().map(Share::percent),
            "key_file": text::path(&key_file),
            "recovery_sheet": text::path(&sheet),
        }),
    )?;
    if console.common.quiet {
        // Whoever does not learn of the key loses everything with this machine.
        console.warn(&format!(
            "made repository {}; keep copies of its key file {} elsewhere, and print its recovery sheet {}",
            repo.id(),
            text::path(&key_file),
            text::path(&sheet)
        ));
    }
    console.note(&format!(
        "made repository {} at {}",
        repo.id(),
        repo.location()
    ));
    console.note(&format!("  its key file is {}", text::path(&key_file)));
    console.note(&format!(
        "  its recovery sheet is {}: print it, keep it away from this machine, then remove it",
        text::path(&sheet)
    ));
    note_other_keys(console, &key_file);
    Ok(repo)
}

fn note_other_keys(console: &Console, key_file: &Path) {
    if console.common.passphrase_file.is_some() {
        let shown = text::path(key_file);
        console.note(&format!("  the passphrase opens it as well as {shown}"));
    }
}

fn own_label() -> String {
    let label = format!("{}@{}", surroundings::user(), surroundings::host());
    label
        .chars()
        .filter(|letter| !letter.is_control())
        .take(60)
        .collect()
}

async fn note_in_ledger(console: &Console, repo: &Repository, slots: String) {
    let draft = LedgerDraft {
        op: "init",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note: slots,
    };
    let (host, user) = (surroundings::host(), surroundings::actor());
    match record_operation(repo, &console.cx, &host, &user, draft).await {
        Ok(findings) => findings
            .iter()
            .for_each(|finding| console.warn(&finding.to_string())),
        Err(error) => console.warn(&format!("the ledger: {error}")),
    }
}
