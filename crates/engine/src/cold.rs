//! Repositories whose packs of content lie at a place of their own.
//!
//! The config says that they do and has the number of that place; an object there has the same number in its name
//! (`docs/format.md`, 3.2). [`must_be`] compares the two with the sink when a repository is opened, so that nobody takes
//! packs for lost, writes them to the wrong place, or prunes those of another repository. Whoever makes a repository at
//! two places [`claim`]s the one of packs first.

use backup_core::{ErrorKind, ObjectKey, OpContext, PutMode, Sink};
use backup_format::config::Config;
use backup_format::keys::KeySet;
use backup_format::layout;
use bytes::Bytes;
use futures::TryStreamExt as _;

use crate::configs::config_error;
use crate::error::{EngineError, Result};
use crate::repository::name;
use crate::store::random;

/// What stands in the object, for people.
const WORDS: &[u8] =
    b"Packs of content of a Backstay repository lie here. Without this object it does not open.\n";

/// Why the packs of a repository are not where they are looked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ColdPlaceError {
    /// No place is named for them.
    #[error(
        "the repository at {0} keeps its packs of content at another place, and none is named; nothing was changed"
    )]
    NotNamed(String),
    /// A place is named, and they lie with all the rest.
    #[error(
        "the repository keeps its packs of content with all the rest, and another place for them is named: {0}; nothing was changed"
    )]
    NotApart(String),
    /// Another place is named.
    #[error(
        "what is named as the place of the repository's packs of content is not that place, or is not mounted: there is no {missing} ({place}); nothing was changed"
    )]
    Other {
        /// Both places.
        place: String,
        /// What should be there.
        missing: ObjectKey,
    },
    /// A repository was to be made where another keeps its packs.
    #[error(
        "a repository keeps its packs of content here: {found} is there ({place}); nothing was changed"
    )]
    Taken {
        /// Where it was to be made.
        place: String,
        /// What is there.
        found: ObjectKey,
    },
}

/// Sees that the packs of a repository are where its config says, and nowhere else.
///
/// # Errors
/// [`ColdPlaceError`]; errors of the tier.
pub(crate) async fn must_be(cx: &OpContext, sink: &dyn Sink, config: &Config) -> Result<()> {
    let info = sink.info();
    let place = match (config.cold_place(), info.is_split) {
        (None, false) => return Ok(()),
        (Some(_), false) => return Err(ColdPlaceError::NotNamed(info.location).into()),
        (None, true) => return Err(ColdPlaceError::NotApart(info.location).into()),
        (Some(place), true) => place,
    };
    let missing = name(layout::cold(place))?;
    match sink.head(cx, &missing).await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == ErrorKind::NotFound => {
            let place = info.location;
            Err(ColdPlaceError::Other { place, missing }.into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Marks the place of packs for a repository that is about to be made, where there is such a place; gives its number.
///
/// # Errors
/// [`ColdPlaceError::Taken`]; errors of the tier.
pub(crate) async fn claim(cx: &OpContext, sink: &dyn Sink) -> Result<Option<[u8; 16]>> {
    if !sink.info().is_split {
        return Ok(None);
    }
    // Who looks whether there is a repository looks at the other place first.
    let mut there = sink.list(cx, "cold/", None);
    loop {
        let meta = match there.try_next().await {
            Ok(Some(meta)) => meta,
            Ok(None) => break,
            // The place itself is not there.
            Err(error) if error.kind == ErrorKind::NotFound => break,
            Err(error) => return Err(error.into()),
        };
        if layout::cold_place(&meta.key).is_some() {
            let (place, found) = (sink.info().location, meta.key);
            return Err(ColdPlaceError::Taken { place, found }.into());
        }
    }
    drop(there);
    let place: [u8; 16] = random()?;
    let key = name(layout::cold(place))?;
    let words = Bytes::from_static(WORDS);
    sink.put(cx, &key, words, PutMode::Create).await?;
    Ok(Some(place))
}

/// Takes the mark away again: the repository was not made.
pub(crate) async fn let_go(cx: &OpContext, sink: &dyn Sink, place: Option<[u8; 16]>) {
    if let Some(Ok(key)) = place.map(layout::cold) {
        // Nothing better can be done: why the repository was not made is what must be heard.
        let _ = sink.delete(cx, &key).await;
    }
}

/// What is said where something that was just written cannot be read back: it lies in an archive at once.
pub(crate) fn not_read_back(key: &ObjectKey, error: EngineError) -> EngineError {
    if !error.is_cold() {
        return error;
    }
    EngineError::Invalid(format!(
        "{key} was written and lies in an archive at once, so it cannot be read back, and nothing gives way to what was not; let the location write to a class that can be read (storage_class=STANDARD), and a rule of the bucket archive it later"
    ))
}

/// The number of the place of packs, by what lies there: for a repository whose configs are lost.
///
/// # Errors
/// [`EngineError::Missing`] when nothing there tells it, or several things do; errors of the tier.
pub(crate) async fn number_at(cx: &OpContext, sink: &dyn Sink) -> Result<Option<[u8; 16]>> {
    if !sink.info().is_split {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut listed = sink.list(cx, "cold/", None);
    while let Some(meta) = listed.try_next().await? {
        found.extend(layout::cold_place(&meta.key));
        if found.len() > 1 {
            break;
        }
    }
    match found.as_slice() {
        [place] => Ok(Some(*place)),
        _ => Err(EngineError::Missing {
            object: "cold/".into(),
            why: format!(
                "what tells whose place of packs it is should be one object, and there is {} ({})",
                if found.is_empty() {
                    "none"
                } else {
                    "more than one"
                },
                sink.info().location
            ),
        }),
    }
}

/// A config of a repository as its copy at another place has it: all but where packs lie is the same.
///
/// # Errors
/// [`EngineError::Damaged`] when it is not authentic; [`EngineError::Key`].
pub(crate) fn config_for(
    bytes: Bytes,
    number: u32,
    keys: &KeySet,
    place: Option<[u8; 16]>,
) -> Result<Bytes> {
    let read = Config::parse(&bytes).and_then(|found| found.verify_mac(number, keys));
    let mut config = read.map_err(|error| config_error(number, error))?;
    if config.cold_place() == place {
        return Ok(bytes);
    }
    config.set_cold_place(place);
    let sealed = config.seal(keys);
    let sealed = sealed.map_err(|error| EngineError::Invalid(error.to_string()))?;
    Ok(sealed.into())
}
