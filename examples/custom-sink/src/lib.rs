//! A sink of one's own: a whole repository in one file that only grows.
//!
//! Each put appends a record, a header and the object's bytes; a delete appends a header alone. The
//! bytes are synced before the header is written, so a record whose header is whole is whole: what
//! a killed put leaves is cut off by the next one. Writers of several processes take turns by a
//! lock on the file, and everybody reads on from where he stopped. Space is never given back:
//! that is what makes this an example and not a tier to rely on.
//!
//! The [`Sink`](backstay::core::Sink) contract is all that the engine knows of it; the test kit's
//! suite for sinks holds it to that.

mod journal;
mod sink;

use std::sync::Arc;

use backstay::core::Registry;
use backstay::core::registry::RegistryError;

pub use sink::FileSink;

/// The scheme of the location: `onefile:/path/to/file`.
pub const SCHEME: &str = "onefile";

/// Makes the sink known.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry) -> Result<(), RegistryError> {
    registry.add_sink(SCHEME, |location| {
        if !location.path().starts_with('/') {
            return Err(RegistryError::config(location, "the path must be absolute"));
        }
        Ok(Arc::new(FileSink::new(location.path())))
    })
}
