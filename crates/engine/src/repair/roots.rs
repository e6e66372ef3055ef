//! What a repository cannot be opened without, configs and key slots, from a copy that opens.
//!
//! Nothing can be asked of the repository itself before that, so it must be shown to be the same one as the copy: some
//! object of it opens under the copy's keys, and no config of it is authentic for others.

use std::sync::Arc;

use async_recursion::async_recursion as boxed;
use backup_core::{ErrorKind, ObjectKey, OpContext, PutMode, Sink};
use backup_format::config::{Config, MAX_CONFIG_BYTES};
use backup_format::keys::slot::MAX_SLOT_BYTES;
use backup_format::layout;
use backup_format::seal::ObjectKind;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::Remedy;
use crate::cold;
use crate::error::{EngineError, Result};
use crate::repository::{Repository, get_within, name};

/// Objects of a kind that are tried to show whose they are.
const MOST_TRIED: usize = 20;

/// An object that a repository cannot be opened without, and that a copy has.
#[derive(Debug)]
pub struct Root {
    /// Its name.
    pub key: ObjectKey,
    /// What is wrong with it.
    pub why: String,
    /// The copy that has it.
    pub remedy: Remedy,
    bytes: Bytes,
}

/// Looks which configs are missing or damaged, and which key slots are damaged, at a place whose repository does
/// not open; only reads. Slots that are not there stay away: somebody may have removed them.
///
/// # Errors
/// [`EngineError::Invalid`] when it is not shown that there is the same repository; errors of the tiers.
#[boxed]
pub async fn roots(cx: &OpContext, sink: &Arc<dyn Sink>, copy: &Repository) -> Result<Vec<Root>> {
    let remedy = Remedy::Copy(copy.location());
    let mut out = Vec::new();
    let mut is_same = false;
    for number in 0..=copy.config().number {
        let key = name(layout::config(number))?;
        let why = match get(cx, &**sink, &key, MAX_CONFIG_BYTES).await? {
            None => "it is missing".to_owned(),
            Some(bytes) => {
                let config = Config::parse(&bytes);
                let claims = config.as_ref().ok().and_then(|config| config.peek().ok());
                if claims.is_some_and(|claims| claims.repo != copy.id()) {
                    return Err(not_shown(&**sink, copy));
                }
                match config.and_then(|config| config.verify_mac(number, copy.keys())) {
                    Ok(_) => {
                        is_same = true;
                        continue;
                    }
                    Err(error) => error.to_string(),
                }
            }
        };
        let bytes = get_within(cx, &**copy.sink(), &key, MAX_CONFIG_BYTES).await?;
        Config::parse(&bytes)
            .and_then(|config| config.verify_mac(number, copy.keys()))
            .map_err(|error| EngineError::damaged(&key, error))?;
        let place = cold::number_at(cx, &**sink).await?;
        let bytes = cold::config_for(bytes, number, copy.keys(), place)?;
        out.push(Root {
            key,
            why,
            remedy: remedy.clone(),
            bytes,
        });
    }
    let mut slots = sink.list(cx, "keys/", None);
    while let Some(meta) = slots.try_next().await? {
        let key = meta.key;
        let there = match layout::is_slot(&key) {
            true => get(cx, &**sink, &key, MAX_SLOT_BYTES).await?,
            false => None,
        };
        let is_right = |bytes: &Bytes| layout::slot(bytes).is_ok_and(|own| own == key);
        if there.as_ref().is_none_or(is_right) {
            continue;
        }
        if let Some(bytes) = get(cx, &**copy.sink(), &key, MAX_SLOT_BYTES).await?
            && is_right(&bytes)
        {
            out.push(Root {
                key,
                why: "its bytes do not hash to its name".into(),
                remedy: remedy.clone(),
                bytes,
            });
        }
    }
    if !out.is_empty() && !is_same && !opens(cx, &**sink, copy).await? {
        return Err(not_shown(&**sink, copy));
    }
    Ok(out)
}

/// Puts what is missing in its place.
///
/// # Errors
/// [`EngineError::Damaged`] when the tier does not keep it; errors of the tier.
#[boxed]
pub async fn put_roots(cx: &OpContext, sink: &Arc<dyn Sink>, roots: &[Root]) -> Result<()> {
    for root in roots {
        let (key, bytes) = (&root.key, root.bytes.clone());
        sink.put(cx, key, bytes, PutMode::Replace).await?;
        let there = get(cx, &**sink, key, root.bytes.len()).await?;
        if there.as_ref() != Some(&root.bytes) {
            let why = "it was put back, and the tier does not give back what was written";
            return Err(EngineError::damaged(key, why));
        }
    }
    Ok(())
}

fn not_shown(sink: &dyn Sink, copy: &Repository) -> EngineError {
    EngineError::Invalid(format!(
        "nothing at {} shows that it is the repository of which {} is a copy, so nothing was put there",
        sink.info().location,
        copy.location()
    ))
}

async fn get(
    cx: &OpContext,
    sink: &dyn Sink,
    key: &ObjectKey,
    limit: usize,
) -> Result<Option<Bytes>> {
    match get_within(cx, sink, key, limit).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        // Longer than it may be, so damaged.
        Err(error) if error.is_damage() => Ok(Some(Bytes::new())),
        Err(error) => Err(error),
    }
}

/// Whether some object of a place opens under the keys of a repository.
async fn opens(cx: &OpContext, sink: &dyn Sink, copy: &Repository) -> Result<bool> {
    for (folder, kind) in [
        ("snap/", ObjectKind::Snapshot),
        ("refs/", ObjectKind::Refs),
        ("index/", ObjectKind::IndexRun),
        ("ledger/", ObjectKind::Ledger),
    ] {
        let listed = sink.list(cx, folder, None).take(MOST_TRIED);
        let listed: Vec<_> = listed.try_collect().await?;
        for meta in listed {
            let sealed = get(cx, sink, &meta.key, kind.max_sealed()).await?;
            if sealed.is_some_and(|sealed| copy.ring().open(kind, &sealed).is_ok()) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
