//! Adding, replacing and removing key slots. Whatever is stopped in between, at least one slot is
//! there that opens: a new one is on the tier, read back and tried before an old one goes.
//!
//! The ledger comes first: of a slot that was added without a record nobody would miss it, and one that
//! went without a record could not be told from a theft.

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, HostId, ObjectKey, OpContext, PutMode};
use backup_format::config::Config;
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::keys::{
    Argon2Params, Credential, KeySet, Recipient, Role, Secret, Slot, SlotMeta, seal_to_recipients,
    seal_with_passphrase, seal_with_secret,
};
use backup_format::layout;
use backup_integrity::ledger::RecordOutcome;
use zeroize::Zeroizing;

use super::{added_note, id_of, removed_note};
use crate::beside;
use crate::error::{EngineError, Result};
use crate::ledger::{LedgerDraft, record_operation};
use crate::repository::{Repository, get_within, name};

/// What is to open a new slot.
#[derive(Debug)]
pub enum Opener {
    /// A passphrase, without a line end.
    Passphrase(Zeroizing<Vec<u8>>, Argon2Params),
    /// The secret of a key file or of a recovery code.
    Secret(Secret),
    /// The identity of any of these.
    Recipients(Vec<Recipient>),
}

/// A key slot that is sealed and not on the tier yet.
#[derive(Debug)]
pub struct NewSlot {
    bytes: Vec<u8>,
    key: ObjectKey,
    keys: KeySet,
    opener: Opener,
}

impl NewSlot {
    /// Seals `keys`.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a passphrase, a label or recipients that cannot be used.
    pub fn seal(keys: &KeySet, meta: &SlotMeta, opener: Opener) -> Result<Self> {
        let bytes = match &opener {
            Opener::Passphrase(passphrase, cost) => {
                seal_with_passphrase(keys, meta, passphrase, *cost)?
            }
            Opener::Secret(secret) => seal_with_secret(keys, meta, secret)?,
            Opener::Recipients(recipients) => seal_to_recipients(keys, meta, recipients)?,
        };
        Ok(Self {
            key: name(layout::slot(&bytes))?,
            keys: keys.clone(),
            bytes,
            opener,
        })
    }

    /// Its key on the tier.
    #[must_use]
    pub const fn key(&self) -> &ObjectKey {
        &self.key
    }

    /// What the ledger says of it: the role, whom it is sealed to, and for which host its keys sign.
    fn what(&self) -> String {
        let mut what = format!("{} key", self.keys.role());
        if let Opener::Recipients(recipients) = &self.opener {
            let all: Vec<_> = recipients.iter().map(ToString::to_string).collect();
            what.push_str(&format!(" to {}", all.join(" ")));
        }
        // Nothing that could be taken for another word of the note.
        let host = self.keys.host().filter(|host| !host.0.contains(';'));
        if let Some(host) = host {
            what.push_str(&format!(" of {host}"));
        }
        what
    }

    /// Reads it back from the tier and opens it with what is to open it. What an age identity opens
    /// cannot be opened without it: then its bytes must be the ones that were written.
    async fn try_it(&self, repo: &Repository, cx: &OpContext) -> Result<()> {
        let found = get_within(cx, &**repo.sink(), &self.key, MAX_SLOT_BYTES).await?;
        if found != self.bytes {
            let why = "it is not what was written just now";
            return Err(EngineError::damaged(&self.key, why));
        }
        let credential = match &self.opener {
            Opener::Passphrase(passphrase, _) => Credential::Passphrase(passphrase),
            Opener::Secret(secret) => Credential::Secret(secret),
            Opener::Recipients(_) => return Ok(()),
        };
        let opened = Slot::parse(&found)?.open(credential)?;
        if opened.encode()? != self.keys.encode()? {
            let why = "it does not hold the keys that were put into it";
            return Err(EngineError::damaged(&self.key, why));
        }
        Ok(())
    }
}

/// Adds a slot: when this returns it is on the tier, and was tried. Gives what is wrong with the ledger,
/// as far as it was read for that.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot sign for the host; [`EngineError::Damaged`] where the tier
/// gives other bytes than it was given; errors of the tier.
#[boxed]
pub async fn add(
    repo: &Repository,
    cx: &OpContext,
    by: (&HostId, &str),
    slot: &NewSlot,
) -> Result<Vec<Finding>> {
    let what = slot.what();
    let note = added_note([(id_of(&slot.key), what.as_str())]);
    let findings = record(repo, cx, by, note).await?;
    match put(repo, cx, slot).await {
        Ok(()) => Ok(findings),
        Err(error) => {
            // Where that fails too, verification says that it is missing.
            let _ = withdraw(repo, cx, by, slot).await;
            Err(error)
        }
    }
}

/// Takes a slot away that was added in vain, whether it is there or not: nobody is to wait for it.
///
/// # Errors
/// As [`add`].
pub(crate) async fn withdraw(
    repo: &Repository,
    cx: &OpContext,
    by: (&HostId, &str),
    slot: &NewSlot,
) -> Result<()> {
    beside::remove(cx, &**repo.sink(), &slot.key).await?;
    record(repo, cx, by, removed_note(id_of(&slot.key))).await?;
    Ok(())
}

async fn put(repo: &Repository, cx: &OpContext, slot: &NewSlot) -> Result<()> {
    let body = slot.bytes.clone().into();
    match repo.sink().put(cx, &slot.key, body, PutMode::Create).await {
        // No two slots have the same bytes: an answer was lost.
        Err(error) if error.kind != ErrorKind::Conflict => return Err(error.into()),
        _ => {}
    }
    slot.try_it(repo, cx).await?;
    beside::put_or_note(repo, cx, &slot.key, &slot.bytes).await;
    Ok(())
}

/// Removes a slot, and with it its sidecar: it must not live on there. Whoever calls has seen to it that another opens.
///
/// # Errors
/// As [`add`].
#[boxed]
pub async fn remove(
    repo: &Repository,
    cx: &OpContext,
    by: (&HostId, &str),
    slot: &ObjectKey,
) -> Result<Vec<Finding>> {
    let findings = record(repo, cx, by, removed_note(id_of(slot))).await?;
    beside::remove(cx, &**repo.sink(), slot).await?;
    Ok(findings)
}

/// Puts a slot in the place of another: the old one goes when the new one was tried.
///
/// # Errors
/// As [`add`]; then the old one is there as before.
#[boxed]
pub async fn replace(
    repo: &Repository,
    cx: &OpContext,
    by: (&HostId, &str),
    old: &ObjectKey,
    slot: &NewSlot,
) -> Result<Vec<Finding>> {
    let mut findings = add(repo, cx, by, slot).await?;
    findings.extend(remove(repo, cx, by, old).await?);
    Ok(findings)
}

/// Records something that was done to keys.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot sign for the host; errors of the tier.
#[boxed]
pub async fn record(
    repo: &Repository,
    cx: &OpContext,
    (host, user): (&HostId, &str),
    note: String,
) -> Result<Vec<Finding>> {
    let draft = LedgerDraft {
        op: "key",
        snapshot: None,
        root: None,
        counts: Vec::new(),
        outcome: RecordOutcome::Ok,
        note,
    };
    record_operation(repo, cx, host, user, draft).await
}

/// Whether a slot opens everything that is and will be stored: a full key of the newest generation. What a
/// recipient slot holds cannot be seen, and one of another repository opens nothing here.
#[must_use]
pub fn opens_all(config: &Config, slot: &Slot) -> bool {
    let info = slot.info();
    info.is_some_and(|info| info.role == Role::Full && info.repo == config.repo)
        && is_current(config, slot)
}

/// Whether the keys in a slot are of the newest generation, as far as it says so itself; keys that do not
/// read always are.
#[must_use]
pub fn is_current(config: &Config, slot: &Slot) -> bool {
    let info = slot.info();
    let Some(info) = info.filter(|info| matches!(info.role, Role::Full | Role::Reader)) else {
        return true;
    };
    match &info.newest {
        None => config.newest_epoch() == 0,
        Some(newest) => {
            let mut recipients = config.newest_recipients().iter();
            recipients.any(|recipient| recipient.to_string() == *newest)
        }
    }
}

/// Sees that somebody who reads was there when the keys were last rotated: what they would hand on
/// could not read what is saved now.
///
/// # Errors
/// [`EngineError::Key`] with [`KeyError::Outdated`] or [`KeyError::Unfinished`].
///
/// [`KeyError::Outdated`]: backup_format::keys::KeyError::Outdated
/// [`KeyError::Unfinished`]: backup_format::keys::KeyError::Unfinished
pub fn must_be_current(repo: &Repository) -> Result<()> {
    Ok(repo.config().check_generation(repo.keys())?)
}
