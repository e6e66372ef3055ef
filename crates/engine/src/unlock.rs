//! From a secret to the keys of a repository, through the slot that it opens.

use std::collections::BTreeMap;

use backup_core::{ObjectKey, ObjectMeta, OpContext, RepoId, Sink};
use backup_format::config::{Config, ConfigError, UnverifiedConfig};
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::keys::{Credential, KeyError, KeyFile, KeySet, Role, Slot};
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
    let (mut unfit, mut damaged, mut lesser) = (None, None, None);
    let mut slots: Vec<_> = read_slots(cx, sink).await?.into_iter().collect();
    // Whoever may write to the tier can put slots there that take much memory and long to try: they
    // come last.
    let repo = first.peek().ok().map(|config| config.repo);
    slots.sort_by_key(|(_, slot)| (is_of_another(slot, repo), cost(slot)));
    for (key, slot) in slots {
        let slot = match slot {
            Ok(slot) if slot.kind() == credential.opens() => slot,
            Ok(_) => continue,
            Err(error) => {
                damaged = Some(error);
                continue;
            }
        };
        // One secret may open several slots: that of the full key counts.
        let may_be_full = slot.info().is_none_or(|info| info.role == Role::Full);
        if lesser.is_some() && !may_be_full {
            continue;
        }
        match slot.open(credential) {
            Ok(keys) => match fitting(keys) {
                Ok((keys, config)) if keys.role() == Role::Full => {
                    return Ok((keys, config, Some(key)));
                }
                Ok((keys, config)) => lesser = Some((keys, config, Some(key))),
                Err(error) => unfit = Some(error),
            },
            Err(KeyError::WrongKey) => {}
            Err(error) => damaged = Some(error.into()),
        }
    }
    lesser.ok_or_else(|| unfit.or(damaged).unwrap_or_else(wrong))
}

/// Whether a slot says itself that it is of another repository.
fn is_of_another(slot: &Result<Slot>, repo: Option<RepoId>) -> bool {
    let info = slot.as_ref().ok().and_then(Slot::info);
    info.is_some_and(|info| Some(info.repo) != repo)
}

/// What it costs to try a slot.
fn cost(slot: &Result<Slot>) -> u64 {
    let info = slot.as_ref().ok().and_then(Slot::info);
    let argon2 = info.and_then(|info| info.argon2);
    argon2.map_or(0, |cost| {
        u64::from(cost.memory_kib) * u64::from(cost.passes)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use backup_format::keys::{Argon2Params, slot};

    use super::*;

    #[test]
    fn slots_of_other_repositories_and_costly_ones_are_tried_last() {
        let made = |repo: u8, memory_kib| {
            let keys = KeySet::generate(RepoId([repo; 16])).unwrap();
            let cost = Argon2Params {
                memory_kib,
                passes: 1,
                lanes: 1,
            };
            let meta = slot::SlotMeta {
                label: String::new(),
                created: 0,
            };
            let bytes = slot::seal_with_passphrase(&keys, &meta, b"secret", cost).unwrap();
            Ok(Slot::parse(&bytes).unwrap())
        };
        let repo = Some(RepoId([1; 16]));
        let mut slots = [made(2, 8), made(1, 64), made(1, 8)];
        slots.sort_by_key(|slot| (is_of_another(slot, repo), cost(slot)));
        let order: Vec<_> = slots
            .iter()
            .filter_map(|slot| slot.as_ref().ok()?.info())
            .map(|info| (info.repo.0[0], info.argon2.map(|cost| cost.memory_kib)))
            .collect();
        assert_eq!(order, [(1, Some(8)), (1, Some(64)), (2, Some(8))]);
    }
}
