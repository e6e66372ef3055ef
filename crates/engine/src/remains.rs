//! What is left of a repository whose `config/0` is gone. It must not be taken for an empty place: a
//! new repository on top of it would have other keys, and bury what another `config/0` brings back.

use backup_core::{ErrorKind, OpContext, Sink};
use backup_format::layout;
use futures::{StreamExt, TryStreamExt};

use crate::cold::ColdPlaceError;
use crate::error::{EngineError, Result};

/// Where objects lie that only a finished repository has. Key slots are written before `config/0`,
/// so slots alone are those of an `init` that was killed; they open nothing. Packs come last: where all that there
/// is is packs, and the mark of their place, they are those of a repository elsewhere.
const PLACES: [&str; 14] = [
    "snap/",
    "sessions/",
    "refs/",
    "index/",
    "ledger/",
    "config/",
    "holds/",
    "verdicts/",
    "gc/",
    "meta/",
    COLD,
    "data/",
    "parity/",
    "aside/",
];

/// What lies at a place of packs that belong to a repository elsewhere.
const COLD: &str = "cold/";

/// Objects of one place that are looked at before it is taken for somebody else's.
const MOST_OTHERS: usize = 10_000;

/// Sees that a place without `config/0` holds nothing of a repository.
///
/// # Errors
/// [`EngineError::Missing`] when it does, [`EngineError::ColdPlace`] when it is where another keeps its packs; errors of the
/// tier.
pub(crate) async fn must_be_none(cx: &OpContext, sink: &dyn Sink) -> Result<()> {
    for place in PLACES {
        // Somebody may have folders of these names for something else.
        let mut listed = sink.list(cx, place, None).take(MOST_OTHERS);
        let first = loop {
            match listed.try_next().await {
                Ok(Some(found)) if layout::is_object(&found.key) => break Some(found),
                Ok(Some(_)) => {}
                Ok(None) => break None,
                // The place itself is not there.
                Err(error) if error.kind == ErrorKind::NotFound => break None,
                Err(error) => return Err(error.into()),
            }
        };
        if let Some(found) = first {
            if place == COLD {
                let (place, found) = (sink.info().location, found.key);
                return Err(ColdPlaceError::Taken { place, found }.into());
            }
            return Err(EngineError::Missing {
                object: "config/0".into(),
                why: format!(
                    "{} is there, so there was a repository at {}; nothing was changed",
                    found.key,
                    sink.info().location
                ),
            });
        }
    }
    Ok(())
}
