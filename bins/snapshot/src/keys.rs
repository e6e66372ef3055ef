//! `snapshot key`.

use backstay::core::{HostId, ObjectKey, PutMode};
use backstay::engine::Repository;
use backstay::engine::ledger::{LedgerDraft, record_operation};
use backstay::engine::slots::{added_note, removed_note};
use backstay::format::config::Operation;
use backstay::format::keys::{
    Argon2Params, Recipient, Role, Secret, Slot, SlotKind, SlotMeta, keyfile, seal_to_recipients,
    seal_with_passphrase, seal_with_secret,
};
use backstay::format::layout;
use backstay::integrity::ledger::RecordOutcome;
use backup_terminal::{Align, Console, Exit, Failure, Outcome, Table, secrets, surroundings, text};
use serde_json::json;

use crate::cli::{KeyAddArgs, KeyCommand, KeyRemoveArgs};

/// Runs a command on keys.
pub(crate) async fn run(console: &mut Console, command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::List => list(console).await,
        KeyCommand::Add(args) => add(console, &args).await,
        KeyCommand::Remove(args) => remove(console, &args).await,
    }
}

fn id_of(key: &ObjectKey) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

const fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "passphrase",
        SlotKind::KeyFile => "key-file",
        SlotKind::AgeRecipient => "recipient",
    }
}

async fn list(console: &mut Console) -> Outcome {
    let repo = console.open(Operation::Read).await?;
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("KIND", Align::Left),
        ("ROLE", Align::Left),
        ("MADE", Align::Left),
        ("LABEL", Align::Left),
    ]);
    let mut ending = Exit::Ok;
    for (key, slot) in repo.slots(&console.cx).await? {
        let id = id_of(&key).to_owned();
        let slot = match slot {
            Ok(slot) => slot,
            Err(error) => {
                console.warn(&error.to_string());
                ending = Exit::Damage;
                continue;
            }
        };
        let info = slot.info();
        let is_this = repo.opened_by() == Some(&key);
        let role = info.map(|info| info.role.name());
        let label = info.map(|info| info.label.clone());
        let made = info.and_then(|info| i64::try_from(info.created).ok());
        let made = made.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
        console.record(
            "key",
            json!({
                "id": id,
                "kind": kind_name(slot.kind()),
                "role": role,
                "repository": info.map(|info| info.repo.to_string()),
                "made": made.map(|made| made.to_string()),
                "label": label,
                "is_this": is_this,
            }),
        )?;
        table.row([
            id.chars().take(12).collect(),
            kind_name(slot.kind()).to_owned(),
            match info {
                Some(info) if info.repo != repo.id() => "none (of another repository)".to_owned(),
                _ if is_this => format!("{} (this key)", role.unwrap_or("sealed")),
                _ => role.unwrap_or("sealed").to_owned(),
            },
            made.map_or_else(String::new, text::time),
            text::escape(label.unwrap_or_default().as_bytes()),
        ]);
    }
    if !console.json() {
        console.line(table.render())?;
    }
    Ok(ending)
}

async fn add(console: &mut Console, args: &KeyAddArgs) -> Outcome {
    let signs = matches!(args.role, Role::Writer | Role::Maintenance);
    if args.host.is_some() && !signs {
        return Err(Failure::usage(
            format!("a {} key signs for no host of its own", args.role),
            "leave out --host, or add a writer or a maintenance key",
        ));
    }
    let repo = console.open(Operation::Write).await?;
    let host = args.host.clone().map_or_else(surroundings::host, HostId);
    let keys = repo.keys().subset(args.role, Some(&host))?;
    let created = u64::try_from(console.cx.clock.now().as_second()).unwrap_or(0);
    let meta = SlotMeta {
        label: args.label.clone(),
        created,
    };
    let slot = if let Some(path) = &args.way.passphrase_file_new {
        let passphrase = console.passphrase(path)?;
        seal_with_passphrase(&keys, &meta, &passphrase, Argon2Params::default())?
    } else if let Some(path) = &args.way.new_key_file {
        let secret = Secret::random()?;
        let slot = seal_with_secret(&keys, &meta, &secret)?;
        // The file first: a slot that nothing opens helps nobody.
        secrets::write_new(path, &keyfile::secret_text(repo.id(), &secret, &meta))?;
        slot
    } else {
        let recipients = args
            .way
            .recipients
            .iter()
            .map(|text| Recipient::parse(0, text));
        let recipients = recipients.collect::<Result<Vec<_>, _>>()?;
        seal_to_recipients(&keys, &meta, &recipients)?
    };
    let key = layout::slot(&slot).map_err(|error| Failure::usage(error.to_string(), ""))?;
    let id = id_of(&key).to_owned();
    let what = format!("{} key", args.role);
    let ending = match put_slot(console, &repo, &key, slot, &what).await {
        Ok(ending) => ending,
        Err(failure) => {
            if let Some(path) = &args.way.new_key_file {
                // It opens nothing, and would be in the way of the next attempt.
                let _ = std::fs::remove_file(path);
            }
            return Err(failure);
        }
    };
    console.record("key-added", json!({ "id": id, "role": args.role.name() }))?;
    console.line(format!(
        "added key {} ({})",
        id.get(..12).unwrap_or(&id),
        args.role
    ))?;
    Ok(ending)
}

/// Records a slot and puts it there.
async fn put_slot(
    console: &mut Console,
    repo: &Repository,
    key: &ObjectKey,
    slot: Vec<u8>,
    what: &str,
) -> Outcome {
    let ending = note_in_ledger(console, repo, added_note([(id_of(key), what)])).await?;
    let cx = &console.cx;
    repo.sink()
        .put(cx, key, slot.into(), PutMode::Create)
        .await?;
    Ok(ending)
}

async fn remove(console: &mut Console, args: &KeyRemoveArgs) -> Outcome {
    let repo = console.open(Operation::Prune).await?;
    // Who is let in is for those alone who can let others in.
    repo.keys().subset(Role::Full, None)?;
    let slots = repo.slots(&console.cx).await?;
    let wanted = args.slot.to_ascii_lowercase();
    let matching: Vec<&ObjectKey> = slots
        .keys()
        .filter(|key| !wanted.is_empty() && id_of(key).starts_with(&wanted))
        .collect();
    let key = match matching[..] {
        [key] => key,
        [] if wanted.len() == 64 && wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            // It is gone already: from now on nothing waits for it.
            let ending = note_in_ledger(console, &repo, removed_note(&wanted)).await?;
            console.record("key-removed", json!({ "id": wanted }))?;
            console.line(format!("noted that key {wanted} is removed"))?;
            return Ok(ending);
        }
        [] => {
            let what = format!(
                "no key slot begins with `{}`",
                text::escape(wanted.as_bytes())
            );
            return Err(Failure::new(
                Exit::Failed,
                what,
                "`snapshot key list` shows them",
            ));
        }
        _ => {
            let what = format!("{} key slots begin with `{wanted}`", matching.len());
            return Err(Failure::new(
                Exit::Failed,
                what,
                "give more characters of the id",
            ));
        }
    };
    // What a recipient slot holds cannot be seen, and one of another repository opens nothing here:
    // neither counts as a way back in.
    let opens_all = |slot: &Slot| {
        let info = slot.info();
        info.is_some_and(|info| info.role == Role::Full && info.repo == repo.id())
    };
    let others = slots
        .iter()
        .filter(|(other, slot)| *other != key && slot.as_ref().is_ok_and(opens_all));
    if others.count() == 0 {
        return Err(Failure::new(
            Exit::Conflict,
            "this is the last full key: without it nothing could be read or kept any more",
            "add another with `snapshot key add` first",
        ));
    }
    // That it opens is certain of one slot alone: the one that the repository is open by.
    if repo.opened_by() == Some(key) && !args.force {
        return Err(Failure::new(
            Exit::Conflict,
            "this is the key slot that the repository is open by, and nothing shows that another one opens it",
            "run the command with the key that is to stay, or with --force",
        ));
    }
    let id = id_of(key).to_owned();
    let ending = note_in_ledger(console, &repo, removed_note(&id)).await?;
    repo.sink().delete(&console.cx, key).await?;
    console.record("key-removed", json!({ "id": id }))?;
    console.line(format!("removed key {}", id.get(..12).unwrap_or(&id)))?;
    console
        .note("whoever copied the keys themselves with it can still read what was saved until now");
    Ok(ending)
}

/// The host by whose name this program signs records of the ledger: for a key that is made for one
/// host that one, wherever it is used.
pub(crate) fn signer(repo: &Repository) -> HostId {
    let own = repo.keys().host().cloned();
    own.unwrap_or_else(surroundings::host)
}

async fn note_in_ledger(console: &mut Console, repo: &Repository, note: String) -> Outcome {
    let draft = LedgerDraft {
        op: "key",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note,
    };
    let (host, user) = (signer(repo), surroundings::user());
    let findings = record_operation(repo, &console.cx, &host, &user, draft).await?;
    Ok(Exit::done(console.findings(&findings, 0)?))
}
