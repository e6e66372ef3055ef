//! Which recipients count: those of the newest config, as far as the authority signed them.

use super::{Config, ConfigError};
use crate::keys::{KeyError, KeySet, Recipient};

/// The name in a config's extra under which the authority's signature over its recipients stands.
const SIGNATURE: &str = "recipients";

impl Config {
    /// The configuration that follows this one when the keys were rotated: with all recipients of a
    /// full set, signed.
    ///
    /// # Errors
    /// [`ConfigError::Key`] when `keys` is not a full set; [`ConfigError::Invalid`] when there is no
    /// further number, or when the set does not continue what this config lists.
    pub fn rotated(&self, keys: &KeySet) -> Result<Self, ConfigError> {
        let mut next = self.next()?;
        next.recipients = keys.all_recipients().to_vec();
        if !next.recipients.starts_with(&self.recipients)
            || next.newest_epoch() <= self.newest_epoch()
        {
            return Err(ConfigError::Invalid(
                "its recipients do not continue those of the one before",
            ));
        }
        let signature = keys.sign_recipients(&next.recipients)?;
        next.extra.insert(SIGNATURE.into(), signature.to_vec());
        Ok(next)
    }

    /// The newest generation of keys.
    #[must_use]
    pub fn newest_epoch(&self) -> u32 {
        self.recipients.last().map_or(0, Recipient::epoch)
    }

    /// The recipients of the newest generation, as `age` spells them.
    #[must_use]
    pub fn newest_recipients(&self) -> &[Recipient] {
        let newest = self.newest_epoch();
        let start = self
            .recipients
            .partition_point(|other| other.epoch() < newest);
        self.recipients.get(start..).unwrap_or_default()
    }

    /// Whether this config may follow that one: it takes no recipient away, and the authority signed
    /// those that it adds.
    ///
    /// # Errors
    /// [`ConfigError::Damaged`].
    pub fn check_follows(&self, before: &Self, keys: &KeySet) -> Result<(), ConfigError> {
        if !self.recipients.starts_with(&before.recipients) {
            let why = "it lacks recipients that the one before lists";
            return Err(ConfigError::Damaged(why));
        }
        let is_longer = self.recipients.len() > before.recipients.len();
        if is_longer && !self.is_signed(keys) {
            let why = "it lists recipients that the repository's authority did not sign";
            return Err(ConfigError::Damaged(why));
        }
        Ok(())
    }

    fn is_signed(&self, keys: &KeySet) -> bool {
        let signature = self.extra.get(SIGNATURE);
        signature.is_some_and(|signature| keys.knows_recipients(&self.recipients, signature))
    }

    /// The recipients that the holder of `keys` wraps a new session to. A writer takes those of a
    /// rotation that it was not there for; whoever reads must have been there, or could not read what
    /// they save.
    ///
    /// # Errors
    /// [`KeyError::Outdated`], [`KeyError::Unfinished`]; [`KeyError::Missing`] for the roles
    /// maintenance and verifier; [`KeyError::Damaged`] for recipients that nobody signed.
    pub fn recipients_for(&self, keys: &KeySet) -> Result<Vec<Recipient>, KeyError> {
        let own = keys.recipients()?;
        self.check_generation(keys)?;
        let has = own.last().map_or(0, Recipient::epoch);
        if has == self.newest_epoch() {
            return Ok(own.to_vec());
        }
        if !self.is_signed(keys) {
            return Err(KeyError::damaged(
                "configuration",
                "nobody signed the recipients that it lists",
            ));
        }
        Ok(self.newest_recipients().to_vec())
    }

    /// Whether a set that reads is of the newest generation; sets that do not read are of all of them.
    ///
    /// # Errors
    /// [`KeyError::Outdated`]; [`KeyError::Unfinished`] for the set of a rotation that never counted.
    pub fn check_generation(&self, keys: &KeySet) -> Result<(), KeyError> {
        let all = keys.all_recipients();
        let Some(has) = all.last().map(Recipient::epoch) else {
            return Ok(());
        };
        let newest = self.newest_epoch();
        let common = all.len().min(self.recipients.len());
        if has > newest || all.get(..common) != self.recipients.get(..common) {
            return Err(KeyError::Unfinished);
        }
        if has < newest && keys.can_read() {
            return Err(KeyError::Outdated { has, newest });
        }
        Ok(())
    }
}
