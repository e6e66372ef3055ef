//! Copies of objects that every run would read anew although they seldom change: the first configuration, the key slots,
//! what collections of garbage say, the snapshots that a save may build on. Where a tier tells versions of objects with its
//! listing, a copy in the cache stands for an object as long as the listing says that it is the same. So which objects there
//! are, and that they are still those that they were, is seen in each run. Where listings may lag behind, they say nothing
//! of the kind, and no copy counts. What is in a copy is believed no more than the object would be.
//!
//! Of slots that a passphrase opens no copy is kept: whoever takes such a slot away wants nobody to try passphrases on
//! it any more.

use std::fs;
use std::path::{Path, PathBuf};

use backup_core::{ObjectKey, ObjectMeta};
use bytes::Bytes;

use crate::cache::Cache;
use crate::listing::Listing;
use crate::slots::id_of;

/// Copies of slots, under their own names.
const COPIES: &str = "keys";
/// Copies of snapshot objects, by months, under their own names.
const SNAPSHOTS: &str = "snap";
/// Notes that a slot is opened by a passphrase.
const NOTES: &str = "passphrase";

/// Copies of objects of one place.
#[derive(Debug)]
pub(crate) struct Remembered {
    cache: Cache,
    folder: Option<PathBuf>,
}

impl Remembered {
    /// Those of a place, below the cache folder of this host.
    pub(crate) fn of(cache_dir: Option<&Path>, location: &str) -> Self {
        let place = blake3::hash(location.as_bytes()).to_hex();
        let name = format!("place-{}", place.get(..16).unwrap_or_default());
        let folder = cache_dir.map(|dir| dir.join(name));
        Self {
            cache: Cache::new(folder.clone()),
            folder,
        }
    }

    /// Those of a repository, in its cache.
    pub(crate) fn of_repository(cache: &Cache) -> Self {
        let folder = cache.folder_name("listed");
        Self {
            cache: Cache::new(folder.clone()),
            folder,
        }
    }

    /// The bytes of an object that is listed as it was when they were read.
    pub(crate) fn get(&self, listing: &Listing, key: &ObjectKey) -> Option<Bytes> {
        let listed = listing.find(key).filter(|_| !listing.lags())?;
        let version = listed.version.as_ref()?.0.as_bytes();
        let kept = Bytes::from(self.cache.read(key.as_str())?);
        let at = kept.iter().position(|byte| *byte == b'\n')?;
        let body = kept.slice(at + 1..);
        let is_same = kept.get(..at) == Some(version) && body.len() as u64 == listed.size;
        is_same.then_some(body)
    }

    /// Keeps the bytes of an object that was read behind the listing.
    pub(crate) fn keep(&self, listing: &Listing, key: &ObjectKey, body: &[u8]) {
        let is_told = |one: &&ObjectMeta| !listing.lags() && is_told(one, body);
        if let Some(listed) = listing.find(key).filter(is_told) {
            self.write(listed, body);
        }
    }

    /// Keeps the bytes of an object that this host has put there, and of which the tier then told this.
    pub(crate) fn keep_put(&self, put: &ObjectMeta, body: &[u8]) {
        if is_told(put, body) {
            self.write(put, body);
        }
    }

    fn write(&self, told: &ObjectMeta, body: &[u8]) {
        let version = told.version.as_ref().map_or("", |version| &version.0);
        let kept = [version.as_bytes(), b"\n", body].concat();
        self.put(told.key.as_str(), &kept);
    }

    /// Notes that a slot is opened by a passphrase. Its name says what its bytes are, so it stays so.
    pub(crate) fn note_passphrase(&self, slot: &ObjectKey) {
        self.put(&note_of(slot), b"");
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        // By its tag a save of what lies around it knows it for a cache.
        if self.cache.folder().is_some() {
            self.cache.write(name, bytes);
        }
    }

    /// Whether a slot is known to be opened by a passphrase.
    pub(crate) fn is_of_passphrase(&self, slot: &ObjectKey) -> bool {
        self.cache.read(&note_of(slot)).is_some()
    }

    /// Forgets an object.
    pub(crate) fn forget(&self, key: &ObjectKey) {
        self.cache.remove(key.as_str());
    }

    /// Forgets the slots that are no longer listed.
    pub(crate) fn forget_gone(&self, listing: &Listing) {
        for folder in [COPIES, NOTES] {
            for name in self.files(folder) {
                let key = ObjectKey::new(format!("{COPIES}/{name}")).ok();
                if key.is_none_or(|key| listing.find(&key).is_none()) {
                    self.cache.remove(&format!("{folder}/{name}"));
                }
            }
        }
    }

    /// Forgets the snapshots that are no longer listed.
    pub(crate) fn forget_gone_snapshots(&self, listing: &Listing) {
        for month in self.files(SNAPSHOTS) {
            for name in self.files(&format!("{SNAPSHOTS}/{month}")) {
                let name = format!("{SNAPSHOTS}/{month}/{name}");
                let key = ObjectKey::new(name.as_str()).ok();
                if key.is_none_or(|key| listing.find(&key).is_none()) {
                    self.cache.remove(&name);
                }
            }
        }
    }

    /// The names of what lies in a folder.
    fn files(&self, folder: &str) -> Vec<String> {
        let folder = self.folder.as_ref().map(|own| own.join(folder));
        let files = folder.and_then(|folder| fs::read_dir(folder).ok());
        let names = files.into_iter().flatten().flatten();
        let names = names.map(|file| file.file_name().to_string_lossy().into_owned());
        names.collect()
    }
}

fn note_of(slot: &ObjectKey) -> String {
    format!("{NOTES}/{}", id_of(slot))
}

/// Whether a tier says enough of an object of these bytes to know it again.
fn is_told(listed: &ObjectMeta, body: &[u8]) -> bool {
    let version = listed.version.as_ref();
    version.is_some_and(|version| !version.0.contains('\n')) && listed.size == body.len() as u64
}
