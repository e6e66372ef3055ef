//! Rotating the keys that read: what is saved from now on is sealed to a new generation of them.
//!
//! The new keys go into new slots first, each of which is tried; then the next `config/<n>` names the
//! new recipient, signed by the authority, and with it the rotation counts. Whatever is stopped before
//! that has changed nothing, and whatever is stopped behind it is done. Writers take the new
//! recipient from the config. Whoever reads needs a new slot: what they hold opens what was saved before
//! the rotation and nothing else, which is what a rotation is for.
//!
//! What is stored already is not sealed anew by it: it stays as readable for the old keys as it was, until a prune
//! does that ([`crate::prune::PruneJob::reseal`]).

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, Finding, HostId, OpContext, PutMode};
use backup_format::config::{Config, ConfigError};
use backup_format::keys::{KeySet, Role};
use backup_format::layout;
use bytes::Bytes;

use crate::beside;
use crate::configs::newest_of;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, name};
use crate::slots::change::{self, NewSlot, must_be_current};

/// A rotation that is prepared: nothing on the tier was changed.
#[derive(Debug)]
pub struct Rotation {
    keys: KeySet,
    config: Config,
}

impl Rotation {
    /// Draws the next generation.
    ///
    /// # Errors
    /// [`EngineError::Key`] for a key that is not full, or was made before an earlier rotation;
    /// [`EngineError::Newer`], [`EngineError::Damaged`] of a config that came since the repository was
    /// opened; errors of the tier.
    #[boxed]
    pub async fn prepare(repo: &Repository, cx: &OpContext) -> Result<Self> {
        repo.keys().subset(Role::Full, None)?;
        must_be_current(repo)?;
        let keys = repo.keys().with_next_epoch()?;
        let now = newest_of(repo, cx).await?;
        let config = now.rotated(&keys).map_err(|error| refused(&now, error))?;
        Ok(Self { keys, config })
    }

    /// The full keys of the new generation, from which new slots are made.
    #[must_use]
    pub const fn keys(&self) -> &KeySet {
        &self.keys
    }

    /// The configuration with which it will count.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// The number of the new generation.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.config.newest_epoch()
    }

    /// The new recipient, as age spells it.
    #[must_use]
    pub fn recipient(&self) -> String {
        let newest = self.config.newest_recipients().last();
        newest.map_or_else(String::new, ToString::to_string)
    }

    /// Puts the slots there, tries them, and lets the new generation count. At least one of the slots is
    /// to be of the new full keys. Gives what is wrong with the ledger, as far as it was read for that.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] without a slot; [`EngineError::Sink`] of the kind
    /// [`ErrorKind::Conflict`] when somebody else changed the config meanwhile; those of
    /// [`change::add`]. Then the old generation counts on, unless it is said that it may not.
    #[boxed]
    pub async fn carry_out(
        &self,
        repo: &Repository,
        cx: &OpContext,
        by: (&HostId, &str),
        slots: &[&NewSlot],
    ) -> Result<Vec<Finding>, NotRotated> {
        if slots.is_empty() {
            let why = "a rotation needs a slot for its new keys";
            return Err(EngineError::Invalid(why.into()).into());
        }
        let mut findings = Vec::new();
        let mut put = async || {
            for slot in slots {
                findings.extend(change::add(repo, cx, by, slot).await?);
            }
            self.put_config(repo, cx).await
        };
        let ended = put().await;
        if let Err(missed) = ended {
            // Their keys open nothing that will ever be: they would look like a way in.
            if !missed.may_count {
                for slot in slots {
                    let _ = change::withdraw(repo, cx, by, slot).await;
                }
            }
            return Err(missed);
        }
        let note = format!(
            "rotated to generation {}, {}",
            self.generation(),
            self.recipient()
        );
        let noted = change::record(repo, cx, by, note).await;
        findings.extend(noted.map_err(NotRotated::but_perhaps)?);
        Ok(findings)
    }

    async fn put_config(&self, repo: &Repository, cx: &OpContext) -> Result<(), NotRotated> {
        let bytes = self.config.seal(&self.keys);
        let bytes = bytes.map_err(|error| EngineError::Invalid(error.to_string()))?;
        let key = name(layout::config(self.config.number))?;
        let body = Bytes::from(bytes);
        let put = repo.sink().put(cx, &key, body.clone(), PutMode::Create);
        let Err(error) = put.await else {
            beside::put_or_note(repo, cx, &key, &body).await;
            return Ok(());
        };
        match newest_of(repo, cx).await {
            // It was written, and only the answer was lost.
            Ok(found) if found == self.config => {
                beside::put_or_note(repo, cx, &key, &body).await;
                Ok(())
            }
            Ok(found) if found.number >= self.config.number => Err(EngineError::from(error).into()),
            // Seen not to be there, after an error that says that it was not made.
            Ok(_) if !matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Conflict) => {
                Err(EngineError::from(error).into())
            }
            // An answer that is lost may be to one that is made yet, or that nobody can see now. Where its
            // keys are thrown away and it counts, writers seal what nobody can ever read.
            _ => Err(NotRotated::but_perhaps(error)),
        }
    }
}

/// Why a rotation came to nothing.
#[derive(Debug)]
pub struct NotRotated {
    /// What failed.
    pub error: EngineError,
    /// Whether the new generation may count all the same: then its keys must be kept.
    pub may_count: bool,
}

impl NotRotated {
    fn but_perhaps(error: impl Into<EngineError>) -> Self {
        Self {
            error: error.into(),
            may_count: true,
        }
    }
}

impl From<EngineError> for NotRotated {
    fn from(error: EngineError) -> Self {
        Self {
            error,
            may_count: false,
        }
    }
}

fn refused(now: &Config, error: ConfigError) -> EngineError {
    match error {
        ConfigError::Key(error) => error.into(),
        other => EngineError::Invalid(format!("config/{} cannot be followed: {other}", now.number)),
    }
}
