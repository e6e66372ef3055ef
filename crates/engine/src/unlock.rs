//! From a secret to the keys of a repository, through the slot that it opens.

use std::collections::BTreeMap;

use backup_core::{ObjectKey, ObjectMeta, OpContext, Sink};
use backup_format::config::{Config, ConfigError, UnverifiedConfig};
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::keys::{Credential, KeyError, KeyFile, KeySet, Slot};
use backup_format::layout;
use futures::TryStreamExt as _;

use crate::configs::config_error;
use crate::error::{EngineError, Result};
use crate::repository::{get_within, name};

/// What opens a repository.
#[derive(Debug)]
pub enum Unlock {
    /// A passphrase.
    Passphrase(zeroize::Zeroizing<Vec<u8>>),
    /// A key file, read.
    KeyFile(backup_format::keys::keyfile::KeyFile),
}

/// The key slots by their keys on the tier.
///
/// # Errors
/// Those of the tier; what is wrong with one slot stands in its place.
pub(crate) async fn read_slots(
    cx: &OpContext,
    sink: &dyn Sink,
) -> Result<BTreeMap<ObjectKey, Result<Slot>>> {
    let listed: Vec<ObjectMeta> = sink.list(cx, "keys/", None).try_collect().await?;
    let mut out = BTreeMap::new();
    for meta in listed.into_iter().filter(|meta| layout::is_slot(&meta.key)) {
        let slot = match get_within(cx, sink, &meta.key, MAX_SLOT_BYTES).await {
            Ok(bytes) if name(layout::slot(&bytes))? != meta.key => Err(EngineError::damaged(
                &meta.key,
                "its bytes do not hash to its name",
            )),
            Ok(bytes) => {
                Slot::parse(&bytes).map_err(|error| EngineError::damaged(&meta.key, error))
            }
            Err(error) => Err(error),
        };
        out.insert(meta.key, slot);
    }
    Ok(out)
}

/// The keys that the caller's secret gives, and the first config, which they show to be authentic.
/// Anybody who may write to the tier can add slots that open to keys of their own: such keys do not
/// fit the config, and the other slots are tried; an `init` that was killed leaves some as well.
pub(crate) async fn open_keys(
    cx: &OpContext,
    sink: &dyn Sink,
    first: &UnverifiedConfig,
    unlock: &Unlock,
) -> Result<(KeySet, Config, Option<ObjectKey>)> {
    let what = match unlock {
        Unlock::Passphrase(_) => "passphrase",
        Unlock::KeyFile(_) => "key file",
    };
    let wrong = || EngineError::WrongKey {
        credential: what,
        repository: sink.info().location,
    };
    let fitting = |keys: KeySet| match first.verify_mac(0, &keys) {
        Ok(config) => Ok((keys, config)),
        Err(ConfigError::OtherRepository { .. }) => Err(wrong()),
        Err(error) => Err(config_error(0, error)),
    };
    let credential = match unlock {
        Unlock::KeyFile(KeyFile::Keys(keys)) => {
            let (keys, config) = fitting((**keys).clone())?;
            return Ok((keys, config, None));
        }
        Unlock::Passphrase(passphrase) => Some(Credential::Passphrase(passphrase)),
        Unlock::KeyFile(file) => file.credential(),
    };
    let credential = credential.ok_or_else(wrong)?;
    let (mut unfit, mut damaged) = (None, None);
    for (key, slot) in read_slots(cx, sink).await? {
        let slot = match slot {
            Ok(slot) if slot.kind() == credential.opens() => slot,
            Ok(_) => continue,
            Err(error) => {
                damaged = Some(error);
                continue;
            }
        };
        match slot.open(credential) {
            Ok(keys) => match fitting(keys) {
                Ok((keys, config)) => return Ok((keys, config, Some(key))),
                Err(error) => unfit = Some(error),
            },
            Err(KeyError::WrongKey) => {}
            Err(error) => damaged = Some(error.into()),
        }
    }
    Err(unfit.or(damaged).unwrap_or_else(wrong))
}
