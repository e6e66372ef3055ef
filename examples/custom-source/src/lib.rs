//! A source of one's own: a program saves the key-value store that it keeps in memory.
//!
//! This is all that a plug-in needs: a [`Source`] that hands each bucket over as one stream, a
//! [`Target`] for the way back, and [`register`]. It knows the contracts of `backstay::core` and
//! nothing of repositories.
//!
//! [`Source`]: backstay::core::Source
//! [`Target`]: backstay::core::Target

mod source;
mod store;
mod target;

use std::sync::Arc;

use backstay::core::Registry;
use backstay::core::registry::RegistryError;

pub use source::KvSource;
pub use store::{BucketError, Buckets, KvStore};
pub use target::KvTarget;

/// The scheme of the location and the kind that manifests name.
pub const KIND: &str = "kv";

/// Makes a store known as `kv:///`, to be saved and to be restored into.
///
/// # Errors
/// [`RegistryError::Twice`] when the name is taken.
pub fn register(registry: &mut Registry, store: &KvStore) -> Result<(), RegistryError> {
    let (saved, restored) = (store.clone(), store.clone());
    registry.add_source(KIND, move |_| Ok(Arc::new(KvSource::new(saved.clone()))))?;
    registry.add_target(KIND, move |_| Ok(Arc::new(KvTarget::new(restored.clone()))))
}
