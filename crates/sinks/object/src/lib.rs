//! A bucket of an object store as a tier: S3 and all that speak it, Google Cloud Storage, Azure Blob.
//!
//! # Where it is
//! `s3://BUCKET/PREFIX?endpoint=https://HOST&region=REGION`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX?account=NAME`.
//! The object `data/ab/cdef` is the object `PREFIX/data/ab/cdef`. Options:
//!
//! | option | what it says |
//! |---|---|
//! | `endpoint` | the server, where it is not that of Amazon, Google or Microsoft |
//! | `http=yes` | the endpoint may be plain HTTP although it is another machine |
//! | `ca` | a file with certificates that are trusted beside those of the system |
//! | `region`, `profile`, `style=virtual`, `checksum=none` | S3 only |
//! | `storage_class` | S3 only; that of objects below `data/` |
//! | `warm-days`, `warm-tier` | S3 only; for how many days objects of an archive are asked for (7), and how soon: `Bulk` (the cheapest), `Standard` or `Expedited` |
//! | `object_lock=30d` | S3 only; so long nobody may delete a version |
//! | `credentials` | a file, or `instance` for the role of the machine |
//! | `account` | Azure only |
//! | `connections` | how many requests at once at most: 8 |
//! | `timeout` | how many seconds a request may take, beside the time for its bytes: 60 |
//! | `settle` | how many seconds listings lag: 0, as with all large providers |
//!
//! # What a put does
//! Each object is put with one request that has its SHA-256, so the server takes all of it or nothing, and a killed put
//! leaves nothing: there is nothing to tidy. A create asks the server not to overwrite; whether it does as it is asked
//! is tried before the first create and remembered. Where it does not it is looked first, and the sink
//! does not claim `SinkCaps::atomic_create`.
//!
//! # What is tried again
//! Every request, up to ten times within two minutes, with growing pauses: what was cut, late, or refused because the
//! server is busy. When a server is busy, half as many requests are made at once, and slowly more again. Whoever calls
//! is told `Retry::Never` behind that, so that tries of the engine do not multiply those of the sink.
//!
//! # What is not trusted
//! Listings lack what cannot be an object of ours. Answers have bounds, and so has the time that they may take. What a
//! server says of an error is shown as one short line.

mod create;
mod credentials;
mod endpoint;
mod gate;
mod listing;
mod lock;
mod place;
mod refused;
mod sink;
mod store;
mod surroundings;
mod together;
mod trouble;
mod warm;
mod wire;

use std::sync::Arc;

use backup_core::Registry;
use backup_core::registry::RegistryError;

pub use endpoint::EndpointError;
pub use place::FromLocationError;
pub use sink::{MAX_PUT_BYTES, ObjectSink};
pub use surroundings::Surroundings;

/// Adds object stores to a registry, under the schemes `s3`, `gs` and `az`.
///
/// # Errors
/// [`RegistryError::Twice`] when one of the names is taken.
pub fn register(registry: &mut Registry, around: &Surroundings) -> Result<(), RegistryError> {
    for scheme in ["s3", "gs", "az"] {
        let around = around.clone();
        registry.add_sink(scheme, move |location| {
            match ObjectSink::new(location, around.clone()) {
                Ok(sink) => Ok(Arc::new(sink)),
                Err(error) => Err(RegistryError::config(location, error.to_string())),
            }
        })?;
    }
    Ok(())
}
