//! Which configuration of a repository counts: the one with the highest number. `config/0` never
//! changes, so a later one is how a repository tells programs that do not know what it needs to
//! stop. All of them are read, in order and without a gap, so that none can be taken away from
//! between; and the highest number that this host has seen is remembered, so that none can be taken
//! away from the end.

use backup_core::{ErrorKind, OpContext, Sink};
use backup_format::config::{Config, ConfigError, MAX_CONFIG_BYTES, UnverifiedConfig};
use backup_format::keys::KeySet;
use backup_format::layout;
use futures::TryStreamExt;

use crate::cache::Cache;
use crate::error::{EngineError, Result};
use crate::remains::must_be_none;
use crate::repository::{Repository, get_within, name};

/// The file of the cache that holds the highest number seen.
const SEEN: &str = "config-seen";

/// The configuration with which the repository was made.
pub(crate) async fn first(cx: &OpContext, sink: &dyn Sink) -> Result<UnverifiedConfig> {
    match read(cx, sink, 0).await? {
        Some(config) => Ok(config),
        None => {
            must_be_none(cx, sink).await?;
            Err(EngineError::NoRepository(sink.info().location))
        }
    }
}

/// The newest configuration, `known` being the newest that is at hand, and authentic.
pub(crate) async fn newest(
    cx: &OpContext,
    sink: &dyn Sink,
    keys: &KeySet,
    known: Config,
    cache: &Cache,
) -> Result<Config> {
    let seen = cache
        .read(SEEN)
        .and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
    let mut last: u32 = seen.unwrap_or(0);
    let mut listed = sink.list(cx, "config/", None);
    while let Some(meta) = listed.try_next().await? {
        last = last.max(layout::config_number(&meta.key).unwrap_or(0));
    }
    let mut config = known;
    while let Some(number) = config.number.checked_add(1).filter(|next| *next <= last) {
        // A list may lag behind; what it does not show is asked for all the same.
        let Some(next) = read(cx, sink, number).await? else {
            let why = if seen.is_some_and(|seen| number <= seen) {
                "it was there once: the tier was set back to an earlier state"
            } else {
                "there is one with a higher number"
            };
            return Err(EngineError::Missing {
                object: format!("config/{number}"),
                why: why.into(),
            });
        };
        let next = next
            .verify_mac(number, keys)
            .map_err(|error| config_error(number, error))?;
        if next.family != config.family {
            let why = "it is of another family than the one before";
            return Err(EngineError::damaged(format!("config/{number}"), why));
        }
        next.check_follows(&config, keys)
            .map_err(|error| config_error(number, error))?;
        config = next;
    }
    if config.number > seen.unwrap_or(0) {
        cache.write(SEEN, format!("{}\n", config.number).as_bytes());
    }
    Ok(config)
}

/// The newest configuration of an open repository, as it is now.
pub(crate) async fn newest_of(repo: &Repository, cx: &OpContext) -> Result<Config> {
    let known = repo.config().clone();
    newest(cx, &**repo.sink(), repo.keys(), known, repo.cache()).await
}

async fn read(cx: &OpContext, sink: &dyn Sink, number: u32) -> Result<Option<UnverifiedConfig>> {
    let key = name(layout::config(number))?;
    match get_within(cx, sink, &key, MAX_CONFIG_BYTES).await {
        Ok(bytes) => Config::parse(&bytes)
            .map(Some)
            .map_err(|error| config_error(number, error)),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What is wrong with a configuration.
pub(crate) fn config_error(number: u32, error: ConfigError) -> EngineError {
    match error {
        ConfigError::Newer { .. } | ConfigError::Unsupported { .. } => {
            EngineError::Newer(error.to_string())
        }
        other => EngineError::damaged(format!("config/{number}"), other),
    }
}
