//! The program's own data, and a bucket of it as bytes.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Buckets by name, and what each holds.
pub type Buckets = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// A key-value store in memory. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct KvStore(Arc<RwLock<Arc<Buckets>>>);

impl KvStore {
    /// Sets a value.
    pub fn set(&self, bucket: &str, key: &str, value: impl Into<Vec<u8>>) {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let buckets = Arc::make_mut(&mut held);
        buckets
            .entry(bucket.to_owned())
            .or_default()
            .insert(key.to_owned(), value.into());
    }

    /// Everything as it is now. What is set later is not in it, so it can be read at leisure.
    #[must_use]
    pub fn freeze(&self) -> Arc<Buckets> {
        self.0
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts other content in the place of everything.
    pub fn replace(&self, buckets: Buckets) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(buckets);
    }
}

/// Bytes that are not those of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketError;

impl std::fmt::Display for BucketError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("these bytes are not those of a bucket")
    }
}

impl std::error::Error for BucketError {}

/// One pair as it stands in the stream: both lengths (`u32`, little-endian), key, value. Pairs in
/// the order of their keys, so that what did not change gives the same bytes, which are stored
/// once.
pub(crate) fn encode_pair(key: &str, value: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    [
        &length(key.as_bytes())[..],
        &length(value),
        key.as_bytes(),
        value,
    ]
    .concat()
}

pub(crate) fn decode_bucket(mut bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, BucketError> {
    let mut out = BTreeMap::new();
    while !bytes.is_empty() {
        let (key, rest) = bytes.split_first_chunk::<4>().ok_or(BucketError)?;
        let (value, rest) = rest.split_first_chunk::<4>().ok_or(BucketError)?;
        let (key, value) = (u32::from_le_bytes(*key), u32::from_le_bytes(*value));
        let (key, rest) = rest.split_at_checked(key as usize).ok_or(BucketError)?;
        let (value, rest) = rest.split_at_checked(value as usize).ok_or(BucketError)?;
        let key = std::str::from_utf8(key).map_err(|_| BucketError)?;
        out.insert(key.to_owned(), value.to_vec());
        bytes = rest;
    }
    Ok(out)
}
