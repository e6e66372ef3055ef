//! `snapshot key rotate` and `sheet`.

use std::path::Path;

use backstay::core::ObjectKey;
use backstay::engine::Repository;
use backstay::engine::rotate::Rotation;
use backstay::engine::slots::change::{self, NewSlot, Opener, is_current, must_be_current};
use backstay::engine::slots::id_of;
use backstay::format::config::{Config, Operation};
use backstay::format::keys::{KeySet, Role, Secret, SlotKind, recovery_code, recovery_sheet};
use backup_terminal::{Console, Exit, Failure, Outcome, secrets, signer, surroundings, text};
use serde_json::json;
use zeroize::Zeroizing;

use super::way::Sealed;
use super::{Slots, describe, find, meta, none_begins, noted, short, tell_added, tell_removed};
use crate::cli::{KeyRotateArgs, KeySheetArgs};

/// A recovery sheet and the slot that its code opens.
struct Sheet {
    slot: NewSlot,
    text: Zeroizing<String>,
}

impl Sheet {
    fn new(console: &Console, repo: &Repository, keys: &KeySet) -> Outcome<Self> {
        let secret = Secret::random()?;
        let text = recovery_sheet(repo.id(), &console.shown_place()?, &recovery_code(&secret));
        let meta = meta(console, "recovery sheet");
        let slot = NewSlot::seal(keys, &meta, Opener::Secret(secret))?;
        Ok(Self { slot, text })
    }

    /// Writes it into a new file, if one is named.
    fn write(&self, path: Option<&Path>) -> Outcome<()> {
        if let Some(path) = path {
            secrets::write_new(path, &self.text)?;
        }
        Ok(())
    }

    fn discard(path: Option<&Path>) {
        if let Some(path) = path {
            let _ = std::fs::remove_file(path);
        }
    }

    /// Says where it is, or shows it.
    fn tell(&self, console: &mut Console, path: Option<&Path>) -> Outcome<()> {
        console.record(
            "recovery-sheet",
            json!({
                "id": id_of(self.slot.key()),
                "recovery_sheet": path.map(text::path),
                "recovery_text": path.is_none().then(|| self.text.as_str()),
            }),
        )?;
        match path {
            Some(path) => console.line(format!(
                "recovery   {} — print it, then remove it",
                text::path(path)
            )),
            None => {
                console.line("\nPrint this and keep it away from this machine:\n")?;
                console.line(self.text.trim_end())
            }
        }
    }
}

/// Makes a further recovery sheet.
pub(super) async fn sheet(console: &mut Console, args: &KeySheetArgs) -> Outcome {
    let repo = console.open(Operation::Write).await?;
    repo.keys().subset(Role::Full, None)?;
    must_be_current(&repo)?;
    let slots = repo.slots(&console.cx).await?;
    let old = match &args.replaces {
        None => None,
        Some(id) => Some(find(&slots, id)?.ok_or_else(|| none_begins(id))?.clone()),
    };
    let (by, path) = (
        (&signer(&repo), &*surroundings::actor()),
        args.recovery_sheet.as_deref(),
    );
    let sheet = Sheet::new(console, &repo, repo.keys())?;
    sheet.write(path)?;
    let added = change::add(&repo, &console.cx, by, &sheet.slot).await;
    let findings = added.inspect_err(|_| Sheet::discard(path))?;
    let mut ending = Exit::done(console.findings(&findings, 0)?);
    tell_added(console, sheet.slot.key(), Role::Full)?;
    sheet.tell(console, path)?;
    if let Some(old) = old {
        ending = ending.max(take_away(console, &repo, &old).await?);
    } else {
        console.note("sheets that were printed before still open the repository; `snapshot key list` shows their slots, `snapshot key remove` takes one away");
    }
    Ok(ending)
}

async fn take_away(console: &mut Console, repo: &Repository, old: &ObjectKey) -> Outcome {
    let by = (&signer(repo), &*surroundings::actor());
    let findings = change::remove(repo, &console.cx, by, old).await?;
    tell_removed(console, id_of(old))?;
    Ok(Exit::done(console.findings(&findings, 0)?))
}

/// Begins a new generation of keys.
pub(super) async fn rotate(console: &mut Console, args: &KeyRotateArgs) -> Outcome {
    let repo = console.open(Operation::Write).await?;
    let rotation = Rotation::prepare(&repo, &console.cx).await?;
    let old = Old::of(console, &repo, rotation.config()).await?;
    if args.dry_run {
        tell_rotation(console, &rotation, args.dry_run)?;
        old.tell(console, args.remove_old, true)?;
        return Ok(Exit::Ok);
    }
    let by = (&signer(&repo), &*surroundings::actor());
    let path = args.recovery_sheet.as_deref();
    let sheet = Sheet::new(console, &repo, rotation.keys())?;
    let meta = meta(console, &args.label);
    let sealed = Sealed::new(console, &repo, &args.way, rotation.keys(), &meta)?;
    sheet.write(path).inspect_err(|_| sealed.discard())?;
    let slots = [&sealed.slot, &sheet.slot];
    let done = rotation.carry_out(&repo, &console.cx, by, &slots).await;
    let findings = match done {
        Ok(findings) => findings,
        Err(missed) => {
            let mut failure = Failure::from(missed.error);
            if missed.may_count {
                // Its code is nowhere else.
                sheet.tell(console, path)?;
                failure.hint = "it cannot be told whether the rotation counts: keep the new key and the new sheet, and see with `snapshot key list` which keys are outdated".into();
            } else {
                sealed.discard();
                Sheet::discard(path);
            }
            return Err(failure);
        }
    };
    let mut ending = Exit::done(console.findings(&findings, 0)?);
    tell_rotation(console, &rotation, false)?;
    tell_added(console, sealed.slot.key(), Role::Full)?;
    if let Some(file) = &sealed.file {
        console.note(&format!(
            "from now on use {}: older keys read what was saved until now, and save nothing",
            text::path(file)
        ));
    }
    sheet.tell(console, path)?;
    old.tell(console, args.remove_old, false)?;
    if args.remove_old {
        for (key, _) in &old.certain {
            ending = ending.max(take_away(console, &repo, key).await?);
        }
    }
    Ok(ending)
}

fn tell_rotation(console: &mut Console, rotation: &Rotation, dry_run: bool) -> Outcome<()> {
    console.record(
        "rotated",
        json!({
            "generation": rotation.generation(),
            "recipient": (!dry_run).then(|| rotation.recipient()),
            "dry_run": dry_run,
        }),
    )?;
    let word = if dry_run { "would begin" } else { "began" };
    console.line(format!("{word} generation {}", rotation.generation()))?;
    console.line("  what is saved from now on: only keys of this generation read it")?;
    console.line(
        "  what is stored already: as readable for older keys as before, until `snapshot prune --reseal` seals it anew",
    )?;
    console.line("  hosts with a writer key go on as they are")
}

/// Slots whose keys cannot read what is saved under a configuration.
struct Old {
    /// Those that say so themselves, with what they let in.
    certain: Vec<(ObjectKey, String)>,
    /// Those of which only whoever opens them can tell.
    unsure: Vec<(ObjectKey, String)>,
}

impl Old {
    async fn of(console: &Console, repo: &Repository, config: &Config) -> Outcome<Self> {
        let slots: Slots = repo.slots(&console.cx).await?;
        let noted = noted(console, repo, &slots).await?;
        let (mut certain, mut unsure) = (Vec::new(), Vec::new());
        for (key, slot) in slots {
            let Ok(slot) = slot else { continue };
            let what = describe(&slot, noted.get(id_of(&key)));
            if slot.kind() == SlotKind::AgeRecipient {
                unsure.push((key, what));
            } else if slot.info().is_some_and(|info| info.repo == repo.id())
                && !is_current(config, &slot)
            {
                certain.push((key, what));
            }
        }
        Ok(Self { certain, unsure })
    }

    fn tell(&self, console: &mut Console, removes: bool, dry_run: bool) -> Outcome<()> {
        let removal = match (removes, dry_run) {
            (false, _) => "outdated",
            (true, true) => "outdated, would be removed",
            (true, false) => "outdated, removed",
        };
        let certain = self.certain.iter().map(|one| (one, removal));
        let unsure = self.unsure.iter().map(|one| (one, "outdated if it reads"));
        for ((key, what), word) in certain.chain(unsure) {
            let id = id_of(key);
            console.record("outdated", json!({ "id": id, "what": what, "state": word }))?;
            console.line(format!("  {}  {what}: {word}", short(id)))?;
        }
        if !self.unsure.is_empty() || !removes {
            console.note("give those who are to go on reading a new key (`snapshot key add --role reader … --replaces ID`), and remove the others");
        }
        Ok(())
    }
}
