//! Places whose packs of content lie at another place: `?cold=URL` behind a location.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backstay::cold::ColdSink;
use backstay::core::registry::RegistryError;
use backstay::core::{Location, Sink};
use backstay::engine::Repository;

use crate::access::parse_location;
use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::{surroundings, text};

/// The option.
pub(crate) const OPTION: &str = backstay::COLD_OPTION;

/// The place that is named for packs of content, if one is.
///
/// # Errors
/// [`crate::Exit::Usage`].
pub(crate) fn cold_place(location: &Location) -> Outcome<Option<Location>> {
    let Some(cold) = location.option(OPTION) else {
        return Ok(None);
    };
    let cold = parse_location(cold)?;
    if cold.option(OPTION).is_some() {
        return Err(Failure::usage(
            "the place behind `cold=` has a `cold=` of its own",
            "name two places, the first for all but packs of content, the second for these",
        ));
    }
    Ok(Some(cold))
}

/// Both tiers as one.
pub(crate) fn join(
    location: &Location,
    hot: Arc<dyn Sink>,
    cold: Arc<dyn Sink>,
) -> Outcome<Arc<dyn Sink>> {
    let joined = ColdSink::new(hot, cold);
    let joined = joined.map_err(|error| RegistryError::config(location, error.to_string()))?;
    Ok(Arc::new(joined))
}

impl Console {
    /// The folder of packs of content, if they lie apart in one of this host.
    #[must_use]
    pub fn cold_folder(&self) -> Option<PathBuf> {
        let cold = cold_place(&self.location().ok()?).ok()??;
        let is_folder = matches!(cold.scheme(), "file" | "local");
        is_folder.then(|| surroundings::absolute(Path::new(cold.path())))
    }

    /// Sees that what reads packs of content was asked to where they are kept cold: it may be dear, and fails for what
    /// was not warmed.
    ///
    /// # Errors
    /// [`crate::Exit::Usage`].
    pub fn may_read_cold(&self, repo: &Repository, what: &str, is_asked: bool) -> Outcome<()> {
        if is_asked || !repo.sink().info().caps.cold {
            return Ok(());
        }
        let facts = repo.index().packs();
        let packs = facts.values().filter(|facts| !facts.is_meta);
        let (count, bytes) = packs.fold((0, 0), |(count, bytes), facts| {
            (count + 1, bytes + facts.size)
        });
        Err(Failure::usage(
            format!(
                "{what} reads packs of content, and those of {} are kept cold: {}, {}; nothing was read of them",
                repo.location(),
                text::plural(count, "pack", "packs"),
                text::bytes(bytes)
            ),
            "warm what it reads (`restore warm SNAPSHOT --wait`), then add --read-cold; docs/tiers-cold.md says what that costs",
        ))
    }
}
