//! From a secret to the keys of a repository, through the slot that it opens.

use std::collections::BTreeMap;
use std::path::Path;

use backup_core::{
    ErrorKind, FindingKind, KeyRange, ObjectKey, ObjectMeta, OpContext, RepoId, Sink,
};
use backup_format::config::Config;
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::keys::{Credential, KeyError, KeyFile, KeySet, Role, Slot, SlotKind};
use backup_format::layout;
use futures::TryStreamExt as _;
use futures::stream::{self, StreamExt as _};

use crate::beside::{self, Notices};
use crate::configs::{self, First, Fit};
use crate::error::{EngineError, Result};
use crate::listing::{Listing, Looking};
use crate::remembered::Remembered;
use crate::repository::{get_within, name};

/// What opens a repository.
#[derive(Debug)]
pub enum Unlock {
    /// A passphrase.
    Passphrase(zeroize::Zeroizing<Vec<u8>>),
    /// A key file, read.
    KeyFile(backup_format::keys::keyfile::KeyFile),
}

impl Unlock {
    /// What it is, for people.
    pub(crate) const fn what(&self) -> &'static str {
        match self {
            Self::Passphrase(_) => "passphrase",
            Self::KeyFile(_) => "key file",
        }
    }
}

/// Key slots by their keys on the tier; what is wrong with one stands in its place.
type Slots = BTreeMap<ObjectKey, Result<Slot>>;

/// How many slots are read at once.
const AT_ONCE: usize = 8;

/// Of more slots than this none is remembered: whoever may write to the tier can put any number there.
const MOST_KEPT: usize = 100;

/// The key slots by their keys on the tier.
///
/// # Errors
/// Those of the tier; what is wrong with one slot stands in its place.
pub(crate) async fn read_slots(cx: &OpContext, sink: &dyn Sink) -> Result<Slots> {
    let listing = Listing::read(cx, sink, &["keys/"]).await?;
    let keys = slot_keys(&listing);
    let read = stream::iter(keys).map(|key| async move {
        let bytes = get_within(cx, sink, &key, MAX_SLOT_BYTES).await;
        let slot = bytes.and_then(|bytes| parse(&key, &bytes));
        (key, slot)
    });
    Ok(read.buffered(AT_ONCE).collect().await)
}

fn slot_keys(listing: &Listing) -> Vec<ObjectKey> {
    let slots = listing.below("keys/").map(|meta| meta.key.clone());
    slots.filter(layout::is_slot).collect()
}

fn parse(key: &ObjectKey, bytes: &[u8]) -> Result<Slot> {
    if name(layout::slot(bytes))? != *key {
        let why = "its bytes do not hash to its name";
        return Err(EngineError::damaged(key, why));
    }
    Slot::parse(bytes).map_err(|error| EngineError::damaged(key, error))
}

/// What was seen of a place when it was begun to be opened.
struct Seen<'a> {
    /// It shows the slots.
    listing: &'a Listing,
    /// What this host remembers of them, where it may go by that.
    remembered: Option<&'a Remembered>,
}

impl Seen<'_> {
    /// The slots that were seen, without some of those that a kind of credential does not open.
    async fn slots(&self, cx: &OpContext, sink: &dyn Sink, opens: SlotKind) -> Slots {
        let mut keys = slot_keys(self.listing);
        let remembered = self.remembered.filter(|_| keys.len() <= MOST_KEPT);
        if let Some(remembered) = remembered {
            remembered.forget_gone(self.listing);
            keys.retain(|key| opens == SlotKind::Passphrase || !remembered.is_of_passphrase(key));
        }
        let read = stream::iter(keys).map(|key| async move {
            let slot = self.slot(cx, sink, remembered, &key).await;
            (key, slot)
        });
        read.buffered(AT_ONCE).collect().await
    }

    async fn slot(
        &self,
        cx: &OpContext,
        sink: &dyn Sink,
        remembered: Option<&Remembered>,
        key: &ObjectKey,
    ) -> Result<Slot> {
        let known = remembered.and_then(|kept| kept.get(self.listing, key));
        if let Some(slot) = known.and_then(|bytes| parse(key, &bytes).ok()) {
            return Ok(slot);
        }
        let bytes = get_within(cx, sink, key, MAX_SLOT_BYTES).await?;
        let slot = parse(key, &bytes)?;
        if let Some(remembered) = remembered {
            match slot.kind() {
                SlotKind::Passphrase => remembered.note_passphrase(key),
                _ => remembered.keep(self.listing, key, &bytes),
            }
        }
        Ok(slot)
    }
}

/// A repository that is open: the keys, the first config, which they show to be authentic, and the slot that they
/// came from.
pub(crate) type Opened = (KeySet, Config, Option<ObjectKey>);

/// The keys that the caller's secret gives, and what was seen of the place on the way: configurations, key slots and
/// the index. Where the tier lists that together, it is listed first, and most of the rest is remembered; else it is
/// listed while the first config is read.
///
/// # Errors
/// [`EngineError::NoRepository`], [`EngineError::WrongKey`], [`EngineError::Damaged`]; errors of the tier.
pub(crate) async fn enter(
    cx: &OpContext,
    sink: &dyn Sink,
    unlock: &Unlock,
    cache_dir: Option<&Path>,
    notices: &Notices,
) -> Result<(Opened, Listing)> {
    let folders = configs::FOLDERS.into_iter().chain(["index/", "keys/"]);
    let ranges: Vec<_> = folders.map(KeyRange::below).collect();
    let looking = Looking::begin(cx, sink, &ranges, None);
    if !looking.is_together() {
        let (first, listing) = tokio::join!(First::read(cx, sink), looking.end());
        let (mut first, listing) = (first?, listing?);
        let seen = Seen {
            listing: &listing,
            remembered: None,
        };
        let opened = open_keys(cx, sink, (&mut first, &seen), unlock, notices).await?;
        return Ok((opened, listing));
    }
    let listing = match looking.end().await {
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
            // Where the place itself is not there, there is no repository.
            First::read(cx, sink).await?;
            return Err(error.into());
        }
        listed => listed?,
    };
    let remembered = Remembered::of(cache_dir, &sink.info().location);
    let seen = Seen {
        listing: &listing,
        remembered: Some(&remembered),
    };
    let config = name(layout::config(0))?;
    let known = remembered.get(&listing, &config);
    if let Some(mut first) = known.clone().and_then(|bytes| First::of(bytes).ok()) {
        let opened = open_keys(cx, sink, (&mut first, &seen), unlock, notices).await;
        match opened {
            Ok(opened) => return Ok((opened, listing)),
            Err(error) => {
                // It may be what is remembered that does not fit.
                remembered.forget(&config);
                let found = First::read(cx, sink).await?;
                if found.bytes() == known.as_ref() {
                    return Err(error);
                }
            }
        }
    }
    let mut first = First::read(cx, sink).await?;
    let opened = open_keys(cx, sink, (&mut first, &seen), unlock, notices).await?;
    if let Some(bytes) = first.bytes() {
        remembered.keep(&listing, &config, bytes);
    }
    Ok((opened, listing))
}

/// The keys that the caller's secret gives, and the first config.
/// Anybody who may write to the tier can add slots that open to keys of their own: such keys do not
/// fit the config, and the other slots are tried; an `init` that was killed leaves some as well. Only where none of
/// the slots opens, the sidecars of those are tried that are damaged or gone.
async fn open_keys(
    cx: &OpContext,
    sink: &dyn Sink,
    (first, seen): (&mut First, &Seen<'_>),
    unlock: &Unlock,
    notices: &Notices,
) -> Result<Opened> {
    let wrong = || EngineError::WrongKey {
        credential: unlock.what(),
        repository: sink.info().location,
    };
    let credential = match unlock {
        Unlock::KeyFile(KeyFile::Keys(keys)) => {
            return match first.verify(cx, sink, keys, notices).await? {
                Fit::Yes(config) => Ok(((**keys).clone(), config, None)),
                Fit::Other => Err(wrong()),
                Fit::No(error) => Err(error),
            };
        }
        Unlock::Passphrase(passphrase) => Some(Credential::Passphrase(passphrase)),
        Unlock::KeyFile(file) => file.credential(),
    };
    let credential = credential.ok_or_else(wrong)?;
    let read = seen.slots(cx, sink, credential.opens()).await;
    let lost: BTreeMap<ObjectKey, Option<String>> = (read.iter())
        .map(|(key, slot)| (key.clone(), slot.as_ref().err().map(ToString::to_string)))
        .collect();
    let mut trial = Trial {
        cx,
        sink,
        credential,
        notices,
        unfit: None,
        damaged: None,
        lesser: None,
    };
    if let Some(opened) = trial.try_all(first, read).await? {
        return Ok(opened);
    }
    if trial.lesser.is_none() {
        let mended = mended_slots(cx, sink, &lost).await?;
        let opened = trial.try_all(first, mended).await?.or(trial.lesser.take());
        if let Some(opened) = opened {
            if let Some(key) = &opened.2 {
                match lost.get(key).and_then(Option::as_deref) {
                    Some(why) => notices.had_from_sidecar(key, FindingKind::Damaged, why),
                    None => notices.absent(key),
                }
            }
            return Ok(opened);
        }
    }
    let Trial {
        unfit,
        damaged,
        lesser,
        ..
    } = trial;
    lesser.ok_or_else(|| unfit.or(damaged).unwrap_or_else(wrong))
}

/// Slots that are tried one after the other.
struct Trial<'a> {
    cx: &'a OpContext,
    sink: &'a dyn Sink,
    credential: Credential<'a>,
    notices: &'a Notices,
    unfit: Option<EngineError>,
    damaged: Option<EngineError>,
    /// The keys of a slot that opened, and that are not full.
    lesser: Option<Opened>,
}

impl Trial<'_> {
    /// The first of these that opens to full keys; others are kept.
    async fn try_all(&mut self, first: &mut First, slots: Slots) -> Result<Option<Opened>> {
        // Whoever may write to the tier can put slots there that take much memory and long to try: they
        // come last.
        let repo = first.repo();
        let mut slots: Vec<_> = slots.into_iter().collect();
        slots.sort_by_key(|(_, slot)| (is_of_another(slot, repo), cost(slot)));
        for (key, slot) in slots {
            let slot = match slot {
                Ok(slot) if slot.kind() == self.credential.opens() => slot,
                Ok(_) => continue,
                Err(error) => {
                    self.damaged = Some(error);
                    continue;
                }
            };
            // One secret may open several slots: that of the full key counts.
            let may_be_full = slot.info().is_none_or(|info| info.role == Role::Full);
            if self.lesser.is_some() && !may_be_full {
                continue;
            }
            let keys = match slot.open(self.credential) {
                Ok(keys) => keys,
                Err(KeyError::WrongKey) => continue,
                Err(error) => {
                    self.damaged = Some(error.into());
                    continue;
                }
            };
            let fit = first.verify(self.cx, self.sink, &keys, self.notices);
            match fit.await? {
                Fit::Yes(config) if keys.role() == Role::Full => {
                    return Ok(Some((keys, config, Some(key))));
                }
                Fit::Yes(config) => self.lesser = Some((keys, config, Some(key))),
                Fit::Other => {}
                Fit::No(error) => self.unfit = Some(error),
            }
        }
        Ok(None)
    }
}

/// What sidecars make of slots that cannot be read, and of those that are not listed.
async fn mended_slots(
    cx: &OpContext,
    sink: &dyn Sink,
    lost: &BTreeMap<ObjectKey, Option<String>>,
) -> Result<Slots> {
    let is_whole = |key: &ObjectKey| matches!(lost.get(key), Some(None));
    let listed: Vec<ObjectMeta> = sink.list(cx, "parity/keys/", None).try_collect().await?;
    let beside = listed
        .iter()
        .filter_map(|meta| layout::small_parity_of(&meta.key));
    let mut out = BTreeMap::new();
    for key in beside.filter(|key| layout::is_slot(key) && !is_whole(key)) {
        if let Some(bytes) = beside::mended(cx, sink, &key).await?
            && name(layout::slot(&bytes))? == key
            && let Ok(slot) = Slot::parse(&bytes)
        {
            out.insert(key, Ok(slot));
        }
    }
    Ok(out)
}

/// Whether a slot says itself that it is of another repository.
pub(crate) fn is_of_another(slot: &Result<Slot>, repo: Option<RepoId>) -> bool {
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
