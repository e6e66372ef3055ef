//! A new slot as the command line wants it: opened by a passphrase, a key file, age identities.

use std::path::PathBuf;

use backstay::engine::Repository;
use backstay::engine::slots::change::{NewSlot, Opener};
use backstay::format::keys::{Argon2Params, KeySet, Recipient, Secret, SlotMeta, keyfile};
use backup_terminal::{Console, Outcome, secrets, signer};

use crate::cli::KeyWay;

/// A slot that is sealed, and the key file that was written for it.
pub(super) struct Sealed {
    pub(super) slot: NewSlot,
    pub(super) file: Option<PathBuf>,
}

impl Sealed {
    /// Seals keys. A key file is written before there is a slot: one that nothing opens helps nobody.
    pub(super) fn new(
        console: &Console,
        repo: &Repository,
        args: &KeyWay,
        keys: &KeySet,
        meta: &SlotMeta,
    ) -> Outcome<Self> {
        // Before anything is written: a key that cannot sign cannot add a slot.
        repo.keys().ledger_key(&signer(repo))?;
        if let Some(path) = &args.passphrase_file_new {
            let words = console.passphrase(path)?;
            let opener = Opener::Passphrase(words, Argon2Params::default());
            let slot = NewSlot::seal(keys, meta, opener)?;
            return Ok(Self { slot, file: None });
        }
        if let Some(path) = &args.new_key_file {
            let secret = Secret::random()?;
            let text = keyfile::secret_text(repo.id(), &secret, meta);
            let slot = NewSlot::seal(keys, meta, Opener::Secret(secret))?;
            secrets::write_new(path, &text)?;
            let file = Some(path.clone());
            return Ok(Self { slot, file });
        }
        let recipients = args.recipients.iter();
        let recipients = recipients.map(|text| Recipient::parse(0, text));
        let opener = Opener::Recipients(recipients.collect::<Result<_, _>>()?);
        let slot = NewSlot::seal(keys, meta, opener)?;
        Ok(Self { slot, file: None })
    }

    /// Takes the key file away again, whose slot was not added: it would be in the way of the next
    /// attempt.
    pub(super) fn discard(&self) {
        if let Some(path) = &self.file {
            let _ = std::fs::remove_file(path);
        }
    }
}
