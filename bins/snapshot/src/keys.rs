//! `snapshot key list`, `add`, `remove` and `passphrase`.

mod rotate;
mod way;

use std::collections::BTreeMap;

use backstay::core::{HostId, ObjectKey};
use backstay::engine::Repository;
use backstay::engine::slots::change::{
    self, NewSlot, Opener, is_current, must_be_current, opens_all,
};
use backstay::engine::slots::{id_of, told};
use backstay::format::config::Operation;
use backstay::format::keys::{Argon2Params, Role, Slot, SlotInfo, SlotKind, SlotMeta};
use backup_terminal::{Align, Console, Exit, Failure, Outcome, Table, signer, surroundings, text};
use serde_json::json;

use crate::cli::{KeyAddArgs, KeyCommand, KeyPassphraseArgs, KeyRemoveArgs};
use way::Sealed;

/// The key slots of a repository.
type Slots = BTreeMap<ObjectKey, backstay::engine::Result<Slot>>;

/// Runs a command on keys.
pub(crate) async fn run(console: &mut Console, command: KeyCommand) -> Outcome {
    match command {
        KeyCommand::List => list(console).await,
        KeyCommand::Add(args) => add(console, &args).await,
        KeyCommand::Passphrase(args) => passphrase(console, &args).await,
        KeyCommand::Remove(args) => remove(console, &args).await,
        KeyCommand::Rotate(args) => rotate::rotate(console, &args).await,
        KeyCommand::Sheet(args) => rotate::sheet(console, &args).await,
    }
}

const fn kind_name(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::Passphrase => "passphrase",
        SlotKind::KeyFile => "key-file",
        SlotKind::AgeRecipient => "recipient",
    }
}

/// The beginning of an id, as lists show it.
fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

/// What a slot lets in, for people: role, label, what opens it.
fn describe(slot: &Slot, noted: Option<&String>) -> String {
    let kind = kind_name(slot.kind());
    match (slot.info(), noted) {
        (Some(SlotInfo { role, label, .. }), _) if label.is_empty() => format!("{role}, {kind}"),
        (Some(SlotInfo { role, label, .. }), _) => {
            format!("{role}, {kind}, {}", text::escape(label.as_bytes()))
        }
        (None, Some(noted)) => {
            format!("{kind}, by the ledger a {}", text::escape(noted.as_bytes()))
        }
        (None, None) => format!("{kind}, sealed"),
    }
}

/// What the ledger says of slots, if there are any that say nothing themselves: for it all of the ledger
/// is read.
async fn noted(
    console: &Console,
    repo: &Repository,
    slots: &Slots,
) -> Outcome<BTreeMap<String, String>> {
    let is_sealed = |slot: &Slot| slot.kind() == SlotKind::AgeRecipient;
    let mut all = slots.values().flatten();
    if !all.any(is_sealed) {
        return Ok(BTreeMap::new());
    }
    let mut noted = told(repo, &console.cx).await?;
    let sealed = |id: &String| {
        let mut all = slots.iter();
        all.any(|(key, slot)| id_of(key) == id && slot.as_ref().is_ok_and(is_sealed))
    };
    noted.retain(|id, _| sealed(id));
    Ok(noted)
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
    let slots = repo.slots(&console.cx).await?;
    let noted = noted(console, &repo, &slots).await?;
    let mut ending = Exit::Ok;
    for (key, slot) in slots {
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
        let is_old = !is_current(repo.config(), &slot);
        let role = info.map(|info| info.role.name());
        let noted = noted.get(&id);
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
                "outdated": is_old,
                "noted": noted,
            }),
        )?;
        let shown = match (info, noted) {
            (Some(info), _) if info.repo != repo.id() => "none (of another repository)".to_owned(),
            (Some(info), _) if is_old => format!("{} (outdated)", info.role),
            (Some(info), _) => info.role.to_string(),
            (None, Some(noted)) => text::escape(noted.as_bytes()),
            (None, None) => "sealed".to_owned(),
        };
        table.row([
            short(&id).to_owned(),
            kind_name(slot.kind()).to_owned(),
            if is_this {
                format!("{shown} (this key)")
            } else {
                shown
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
    // Who is let in is for those alone who hold everything; and what is handed on must open all.
    repo.keys().subset(Role::Full, None)?;
    must_be_current(&repo)?;
    let host = args.host.clone().map_or_else(surroundings::host, HostId);
    let keys = repo.keys().subset(args.role, Some(&host))?;
    let old = match &args.replaces {
        None => None,
        Some(id) => {
            let slots = repo.slots(&console.cx).await?;
            let old = find(&slots, id)?.ok_or_else(|| none_begins(id))?.clone();
            // Whether somebody has the identity of a recipient cannot be tried here.
            if args.role != Role::Full || !args.way.recipients.is_empty() {
                must_leave_a_way(&repo, &slots, &old)?;
            }
            Some(old)
        }
    };
    let meta = meta(console, &args.label);
    let sealed = Sealed::new(console, &repo, &args.way, &keys, &meta)?;
    let by = (&signer(&repo), &*surroundings::actor());
    let added = change::add(&repo, &console.cx, by, &sealed.slot).await;
    let findings = added.inspect_err(|_| sealed.discard())?;
    let mut ending = Exit::done(console.findings(&findings, 0)?);
    tell_added(console, sealed.slot.key(), args.role)?;
    if let Some(old) = old {
        let findings = change::remove(&repo, &console.cx, by, &old).await?;
        ending = ending.max(Exit::done(console.findings(&findings, 0)?));
        tell_removed(console, id_of(&old))?;
    }
    Ok(ending)
}

fn meta(console: &Console, label: &str) -> SlotMeta {
    SlotMeta {
        label: label.to_owned(),
        created: u64::try_from(console.cx.clock.now().as_second()).unwrap_or(0),
    }
}

fn tell_added(console: &mut Console, key: &ObjectKey, role: Role) -> Outcome<()> {
    let id = id_of(key);
    console.record("key-added", json!({ "id": id, "role": role.name() }))?;
    console.line(format!("added key {} ({role})", short(id)))
}

fn tell_removed(console: &mut Console, id: &str) -> Outcome<()> {
    console.record("key-removed", json!({ "id": id }))?;
    console.line(format!("removed key {}", short(id)))
}

/// Changes the passphrase by which the repository is open.
async fn passphrase(console: &mut Console, args: &KeyPassphraseArgs) -> Outcome {
    let repo = console.open(Operation::Write).await?;
    let slots = repo.slots(&console.cx).await?;
    let own = repo
        .opened_by()
        .and_then(|key| Some((key, slots.get(key)?.as_ref().ok()?)));
    let Some((old, info)) = own
        .filter(|(_, slot)| slot.kind() == SlotKind::Passphrase)
        .and_then(|(key, slot)| Some((key.clone(), slot.info()?)))
    else {
        return Err(Failure::usage(
            "the repository is open by something else than a passphrase, so there is none to change",
            "name the file of the passphrase in use with --passphrase-file; `snapshot key add` makes a further one",
        ));
    };
    let by = (&signer(&repo), &*surroundings::actor());
    repo.keys().ledger_key(by.0)?;
    let words = console.passphrase(&args.passphrase_file_new)?;
    let opener = Opener::Passphrase(words, Argon2Params::default());
    let slot = NewSlot::seal(repo.keys(), &meta(console, &info.label), opener)?;
    let findings = change::add(&repo, &console.cx, by, &slot).await?;
    let mut ending = Exit::done(console.findings(&findings, 0)?);
    tell_added(console, slot.key(), info.role)?;
    let removed = change::remove(&repo, &console.cx, by, &old).await;
    let findings = removed.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.hint = format!(
            "the new passphrase opens the repository, and so does the old one still: `snapshot key remove {}` with a full key",
            short(id_of(&old))
        );
        failure
    })?;
    ending = ending.max(Exit::done(console.findings(&findings, 0)?));
    tell_removed(console, id_of(&old))?;
    console.note("a copy of the repository from before still opens with the old passphrase");
    Ok(ending)
}

async fn remove(console: &mut Console, args: &KeyRemoveArgs) -> Outcome {
    let repo = console.open(Operation::Prune).await?;
    // Who is let in is for those alone who can let others in.
    repo.keys().subset(Role::Full, None)?;
    let by = (&signer(&repo), &*surroundings::actor());
    let slots = repo.slots(&console.cx).await?;
    let wanted = args.slot.to_ascii_lowercase();
    let Some(key) = find(&slots, &wanted)?.cloned() else {
        if wanted.len() != 64 || !wanted.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(none_begins(&wanted));
        }
        // It is gone already: from now on nothing waits for it, and its sidecar brings it back no more.
        let key = ObjectKey::new(format!("keys/{wanted}")).map_err(|_| none_begins(&wanted))?;
        let findings = change::remove(&repo, &console.cx, by, &key).await?;
        let ending = Exit::done(console.findings(&findings, 0)?);
        console.record("key-removed", json!({ "id": wanted }))?;
        console.line(format!("noted that key {wanted} is removed"))?;
        return Ok(ending);
    };
    must_leave_a_way(&repo, &slots, &key)?;
    // That it opens is certain of one slot alone: the one that the repository is open by.
    if repo.opened_by() == Some(&key) && !args.force {
        return Err(Failure::new(
            Exit::Conflict,
            "this is the key slot that the repository is open by, and nothing shows that another one opens it",
            "run the command with the key that is to stay, or with --force",
        ));
    }
    let noted = noted(console, &repo, &slots).await?;
    let slot = slots.get(&key).and_then(|slot| slot.as_ref().ok());
    let what = slot.map(|slot| describe(slot, noted.get(id_of(&key))));
    let reads = slot.is_some_and(reads);
    let findings = change::remove(&repo, &console.cx, by, &key).await?;
    let ending = Exit::done(console.findings(&findings, 0)?);
    tell_removed(console, id_of(&key))?;
    if let Some(what) = what {
        console.note(&format!("lost access: {what}"));
    }
    console.note(after_removal(reads));
    Ok(ending)
}

/// Whether the keys in a slot read data, as far as can be told.
fn reads(slot: &Slot) -> bool {
    let role = slot.info().map(|info| info.role);
    role.is_none_or(|role| matches!(role, Role::Full | Role::Reader))
}

/// What a key that was removed can still do.
const fn after_removal(reads: bool) -> &'static str {
    if reads {
        "whoever kept the keys that were in it and can read the repository's files can still read what was saved until now, and what is saved later until `snapshot key rotate`; what they have copied, for ever"
    } else {
        "whoever kept the keys that were in it and can still reach the repository can go on as before: take their access to the tier away too"
    }
}

/// The slot whose id begins so.
fn find<'a>(slots: &'a Slots, id: &str) -> Outcome<Option<&'a ObjectKey>> {
    let wanted = id.to_ascii_lowercase();
    let matching: Vec<&ObjectKey> = slots
        .keys()
        .filter(|key| !wanted.is_empty() && id_of(key).starts_with(&wanted))
        .collect();
    match matching[..] {
        [key] => Ok(Some(key)),
        [] => Ok(None),
        _ => Err(Failure::new(
            Exit::Failed,
            format!("{} key slots begin with `{wanted}`", matching.len()),
            "give more characters of the id",
        )),
    }
}

fn none_begins(id: &str) -> Failure {
    let what = format!("no key slot begins with `{}`", text::escape(id.as_bytes()));
    Failure::new(Exit::Failed, what, "`snapshot key list` shows them")
}

/// Sees that a full key of the newest generation is left when a slot goes.
fn must_leave_a_way(repo: &Repository, slots: &Slots, going: &ObjectKey) -> Outcome<()> {
    let opens = |slot: &Slot| opens_all(repo.config(), slot);
    let mut others = slots.iter().filter(|(other, _)| *other != going);
    if others.any(|(_, slot)| slot.as_ref().is_ok_and(opens)) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Conflict,
        "this is the last full key: without it nothing could be read or kept any more",
        "add another with `snapshot key add` first",
    ))
}
