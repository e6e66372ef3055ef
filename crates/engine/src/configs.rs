//! Which configuration of a repository counts: the one with the highest number. `config/0` never
//! changes, so a later one is how a repository tells programs that do not know what it needs to
//! stop. All of them are read, in order and without a gap, so that none can be taken away from
//! between; and the highest number that this host has seen is remembered, so that none can be taken
//! away from the end.
//!
//! Where one is damaged or gone its sidecar stands for it, also behind the last that is listed. It says nothing
//! that the config itself would not have to prove: the HMAC of these keys, its number, that it follows.

use std::collections::BTreeSet;

use backup_core::{ErrorKind, FindingKind, ObjectKey, OpContext, RepoId, Sink};
use backup_format::config::{Config, ConfigError, MAX_CONFIG_BYTES, UnverifiedConfig};
use backup_format::keys::KeySet;
use backup_format::layout;
use bytes::Bytes;

use crate::beside::{self, Notices};
use crate::cache::Cache;
use crate::error::{EngineError, Result};
use crate::listing::Listing;
use crate::remains::must_be_none;
use crate::repository::{Repository, get_within, name};

/// The file of the cache that holds the highest number seen.
const SEEN: &str = "config-seen";

/// Where configurations lie, and what stands for them.
pub(crate) const FOLDERS: [&str; 2] = ["config/", "parity/config/"];

/// The configuration with which the repository was made, as it was found. Nothing in it is certain before
/// [`First::verify`].
pub(crate) struct First {
    found: Result<UnverifiedConfig>,
    /// Its bytes, if it is what lies on the tier.
    bytes: Option<Bytes>,
    /// What its sidecar says, if that was asked.
    beside: Option<Option<UnverifiedConfig>>,
}

/// How keys and the first configuration go together.
pub(crate) enum Fit {
    /// The keys are those of the repository.
    Yes(Config),
    /// They are of another one.
    Other,
    /// It is not what was written, or needs a newer program.
    No(EngineError),
}

impl First {
    /// # Errors
    /// [`EngineError::NoRepository`], [`EngineError::Missing`], [`EngineError::Damaged`]; errors of the tier.
    pub(crate) async fn read(cx: &OpContext, sink: &dyn Sink) -> Result<Self> {
        let error = match get(cx, sink, 0).await {
            Ok(Some(bytes)) => match Self::of(bytes) {
                Ok(first) => return Ok(first),
                Err(error) if beside::is_loss(&error) => Some(error),
                Err(error) => return Err(error),
            },
            Ok(None) => None,
            Err(error) if beside::is_loss(&error) => Some(error),
            Err(error) => return Err(error),
        };
        if let Some(mended) = read_beside(cx, sink, 0).await? {
            let missing = || missing(0, "it is not on the tier");
            return Ok(Self {
                found: Err(error.unwrap_or_else(missing)),
                bytes: None,
                beside: Some(Some(mended)),
            });
        }
        if let Some(error) = error {
            return Err(error);
        }
        must_be_none(cx, sink).await?;
        Err(EngineError::NoRepository(sink.info().location))
    }

    /// That of these bytes.
    ///
    /// # Errors
    /// [`EngineError::Damaged`], [`EngineError::Newer`].
    pub(crate) fn of(bytes: Bytes) -> Result<Self> {
        Ok(Self {
            found: Ok(parse(0, &bytes)?),
            bytes: Some(bytes),
            beside: None,
        })
    }

    /// Its bytes, if it is what lies on the tier.
    pub(crate) const fn bytes(&self) -> Option<&Bytes> {
        self.bytes.as_ref()
    }

    /// The repository that it says to be of, true or not.
    pub(crate) fn repo(&self) -> Option<RepoId> {
        let config = match &self.found {
            Ok(found) => Some(found),
            Err(_) => self.beside.as_ref()?.as_ref(),
        };
        Some(config?.peek().ok()?.repo)
    }

    /// The configuration, if these keys show it to be authentic: the object, or else its sidecar, which is noted.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(crate) async fn verify(
        &mut self,
        cx: &OpContext,
        sink: &dyn Sink,
        keys: &KeySet,
        notices: &Notices,
    ) -> Result<Fit> {
        let mut fit = Fit::Other;
        if let Ok(found) = &self.found {
            match found.verify_mac(0, keys) {
                Ok(config) => return Ok(Fit::Yes(config)),
                // Its repository id may be what is damaged.
                Err(ConfigError::OtherRepository { .. }) => {}
                Err(error) => {
                    let is_loss = matches!(error, ConfigError::Tampered);
                    fit = Fit::No(config_error(0, error));
                    if !is_loss {
                        return Ok(fit);
                    }
                }
            }
        }
        if self.beside.is_none() {
            self.beside = Some(read_beside(cx, sink, 0).await?);
        }
        let mended = self.beside.as_ref().and_then(Option::as_ref);
        let Some(Ok(config)) = mended.map(|mended| mended.verify_mac(0, keys)) else {
            return Ok(match &self.found {
                Ok(_) => fit,
                Err(error) => {
                    let why = match error {
                        EngineError::Damaged { why, .. } | EngineError::Missing { why, .. } => {
                            why.clone()
                        }
                        other => other.to_string(),
                    };
                    let why = format!("{why}, and its sidecar does not go with this key either");
                    Fit::No(EngineError::damaged("config/0", why))
                }
            });
        };
        let key = name(layout::config(0))?;
        match (&self.found, &fit) {
            (Err(error), _) | (_, Fit::No(error)) => notices.mended(&key, error),
            _ => {
                let why = "it is not what was written";
                notices.had_from_sidecar(&key, FindingKind::Damaged, why);
            }
        }
        Ok(Fit::Yes(config))
    }
}

fn missing(number: u32, why: &str) -> EngineError {
    EngineError::Missing {
        object: format!("config/{number}"),
        why: why.into(),
    }
}

/// What a listing shows of configurations.
#[derive(Debug)]
pub(crate) struct Shown {
    last: u32,
    /// Those that have a sidecar; nothing where a listing may lag behind, so that it is asked for each.
    beside: Option<BTreeSet<u32>>,
}

impl Shown {
    /// Takes it from a listing of [`FOLDERS`].
    pub(crate) fn of(listing: &Listing) -> Self {
        let numbers = listing.below("config/");
        let last = numbers.filter_map(|meta| layout::config_number(&meta.key));
        let beside = listing.below("parity/config/").filter_map(|meta| {
            let of = layout::small_parity_of(&meta.key)?;
            layout::config_number(&of)
        });
        let is_certain = !listing.lags() && listing.shows("parity/config/");
        Self {
            last: last.max().unwrap_or(0),
            beside: is_certain.then(|| beside.collect()),
        }
    }

    /// Whether there is no sidecar of a configuration, for certain.
    fn has_nothing_beside(&self, number: u32) -> bool {
        let beside = self.beside.as_ref();
        beside.is_some_and(|beside| !beside.contains(&number))
    }
}

/// The newest configuration, `known` being the newest that is at hand, and authentic. One that is damaged or gone
/// counts as its sidecar says it, checked in the same way.
pub(crate) async fn newest(
    cx: &OpContext,
    sink: &dyn Sink,
    (keys, known): (&KeySet, Config),
    shown: &Shown,
    cache: &Cache,
    notices: &Notices,
) -> Result<Config> {
    let seen = cache
        .read(SEEN)
        .and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
    let last = shown.last.max(seen.unwrap_or(0));
    let mut config = known;
    while let Some(number) = config.number.checked_add(1) {
        // A list may lag behind; what it does not show is asked for all the same.
        let is_expected = number <= last;
        if !is_expected && shown.has_nothing_beside(number) {
            break;
        }
        let read = match is_expected {
            true => read(cx, sink, number).await,
            false => Ok(None),
        };
        let read = match read {
            Ok(Some(next)) => follow(&config, number, next, keys),
            Ok(None) => Err(missing(
                number,
                if seen.is_some_and(|seen| number <= seen) {
                    "it was there once: the tier was set back to an earlier state"
                } else {
                    "there is one with a higher number"
                },
            )),
            Err(error) => Err(error),
        };
        config = match read {
            Ok(next) => next,
            Err(error) if beside::is_loss(&error) => {
                let mended = read_beside(cx, sink, number).await?;
                let next = mended.and_then(|next| follow(&config, number, next, keys).ok());
                match next {
                    // One that was not listed may be there since.
                    Some(next) => {
                        let key = name(layout::config(number))?;
                        if is_expected || !is_there(cx, sink, &key).await? {
                            match is_expected {
                                true => notices.mended(&key, &error),
                                false => notices.absent(&key),
                            }
                        }
                        next
                    }
                    None if is_expected => return Err(error),
                    None => break,
                }
            }
            Err(error) => return Err(error),
        };
    }
    if config.number > seen.unwrap_or(0) {
        cache.write(SEEN, format!("{}\n", config.number).as_bytes());
    }
    Ok(config)
}

async fn is_there(cx: &OpContext, sink: &dyn Sink, key: &ObjectKey) -> Result<bool> {
    match sink.head(cx, key).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A configuration, if it is authentic and follows the one before.
fn follow(before: &Config, number: u32, next: UnverifiedConfig, keys: &KeySet) -> Result<Config> {
    let next = next
        .verify_mac(number, keys)
        .map_err(|error| config_error(number, error))?;
    if next.family != before.family {
        let why = "it is of another family than the one before";
        return Err(EngineError::damaged(format!("config/{number}"), why));
    }
    next.check_follows(before, keys)
        .map_err(|error| config_error(number, error))?;
    Ok(next)
}

/// The newest configuration of an open repository, as it is now.
pub(crate) async fn newest_of(repo: &Repository, cx: &OpContext) -> Result<Config> {
    let listing = Listing::read(cx, &**repo.sink(), &FOLDERS).await?;
    newest_listed(repo, cx, &listing).await
}

/// The same, by a listing of [`FOLDERS`].
pub(crate) async fn newest_listed(
    repo: &Repository,
    cx: &OpContext,
    listing: &Listing,
) -> Result<Config> {
    let (sink, known) = (&**repo.sink(), repo.config().clone());
    let shown = Shown::of(listing);
    let (keys, cache) = (repo.keys(), repo.cache());
    newest(cx, sink, (keys, known), &shown, cache, repo.notices()).await
}

async fn read(cx: &OpContext, sink: &dyn Sink, number: u32) -> Result<Option<UnverifiedConfig>> {
    let bytes = get(cx, sink, number).await?;
    bytes.map(|bytes| parse(number, &bytes)).transpose()
}

fn parse(number: u32, bytes: &[u8]) -> Result<UnverifiedConfig> {
    Config::parse(bytes).map_err(|error| config_error(number, error))
}

async fn get(cx: &OpContext, sink: &dyn Sink, number: u32) -> Result<Option<Bytes>> {
    let key = name(layout::config(number))?;
    match get_within(cx, sink, &key, MAX_CONFIG_BYTES).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the sidecar of a configuration makes of it, if anything.
async fn read_beside(
    cx: &OpContext,
    sink: &dyn Sink,
    number: u32,
) -> Result<Option<UnverifiedConfig>> {
    let key = name(layout::config(number))?;
    let mended = beside::mended(cx, sink, &key).await?;
    Ok(mended.and_then(|bytes| Config::parse(&bytes).ok()))
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
