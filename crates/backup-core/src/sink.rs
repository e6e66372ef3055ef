//! Sinks: where objects are kept. A tier needs only create, read, list and delete; objects are
//! bounded, so a `put` takes whole bytes and can be tried again.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use jiff::Timestamp;

use crate::context::OpContext;
use crate::error::SinkError;

/// A key that cannot name an object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot name an object: keys are `/`-separated parts of lower-case letters, upper-case letters, digits, `-`, `_` and `.`, none of them empty, led by a dot or longer than 255"
)]
pub struct KeyError(pub String);

/// The name of an object on a tier: parts of `[A-Za-z0-9_.-]`, separated by `/`, none empty, led
/// by a dot or longer than 255 bytes. That is safe on every file system and in every URL.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// Longest key in bytes.
    pub const MAX_BYTES: usize = 512;

    /// Longest part of a key in bytes: the longest name that file systems take.
    pub const MAX_PART_BYTES: usize = 255;

    /// Reads a key.
    ///
    /// # Errors
    /// [`KeyError`] when the text is not a key.
    pub fn new(key: impl Into<String>) -> Result<Self, KeyError> {
        let key = key.into();
        let good = |part: &str| {
            !part.is_empty()
                && part.len() <= Self::MAX_PART_BYTES
                && !part.starts_with('.')
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if key.len() > Self::MAX_BYTES || !key.split('/').all(good) {
            return Err(KeyError(key));
        }
        Ok(Self(key))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectKey({})", self.0)
    }
}

/// A version of an object as the tier names it (an ETag), for conditional replacement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(pub String);

/// What a put does with an object of the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutMode {
    /// Fails with [`crate::ErrorKind::Conflict`] if there is one (where the tier can tell; see
    /// [`SinkCaps::atomic_create`]).
    Create,
    /// Replaces just this version of it.
    ReplaceIf(Version),
    /// Replaces it.
    Replace,
}

/// A range of bytes of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// All of it.
    Full,
    /// `length` bytes from `offset` on. If the object is shorter, that is an error.
    Span {
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u64,
    },
    /// The last bytes; all of a shorter object.
    Suffix(u64),
}

/// What a tier says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its name.
    pub key: ObjectKey,
    /// Its size in bytes.
    pub size: u64,
    /// Its version, where the tier has versions.
    pub version: Option<Version>,
}

/// Objects that are listed: those below a prefix, or those of them behind a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// What their keys begin with: empty, or whole parts ending in `/`.
    pub prefix: String,
    /// Those after it only.
    pub after: Option<ObjectKey>,
}

impl KeyRange {
    /// All objects below a prefix.
    #[must_use]
    pub fn below(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self {
            prefix,
            after: None,
        }
    }

    /// Whether a key is one of them.
    #[must_use]
    pub fn has(&self, key: &ObjectKey) -> bool {
        key.as_str().starts_with(&self.prefix)
            && self.after.as_ref().is_none_or(|after| key > after)
    }
}

/// What a sink can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SinkCaps {
    /// `PutMode::Create` has exactly one winner.
    pub atomic_create: bool,
    /// `PutMode::ReplaceIf` works.
    pub replace_if: bool,
    /// The largest object it takes, in bytes.
    pub max_put_bytes: u64,
    /// Objects may have to be warmed before they can be read.
    pub cold: bool,
    /// How many requests at once do it good.
    pub connections: usize,
    /// How long a listing may lag behind a write; zero: a list shows every finished put.
    pub settle: Duration,
    /// So long, from its put on, nobody may take an object away for good, since the location asks the tier for that; none:
    /// it asks for nothing.
    pub lock: Option<Duration>,
}

/// Who a sink is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SinkInfo {
    /// The plug-in: `local`, `s3`.
    pub scheme: &'static str,
    /// Where it is, without secrets.
    pub location: String,
    /// What it can do.
    pub caps: SinkCaps,
    /// Packs of content lie at a place of their own, and all the rest at another.
    pub is_split: bool,
}

/// Whether objects can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Warmth {
    /// Now.
    Ready,
    /// After about so long.
    ReadyIn(Duration),
}

/// How far an object is from being read, as the tier says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Temperature {
    /// It can be read.
    Warm,
    /// It was asked for, and cannot be read yet.
    Warming,
    /// It cannot be read, and nobody has asked for it.
    Cold,
}

/// The room on a tier, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What we may still write.
    pub free: u64,
    /// What is there altogether, that which is used included.
    pub total: u64,
}

impl Room {
    /// How much of it is used, in percent, rounded down.
    #[must_use]
    pub fn percent_used(&self) -> u8 {
        let used = u128::from(self.total.saturating_sub(self.free)) * 100;
        u8::try_from(used / u128::from(self.total.max(1))).unwrap_or(100)
    }
}

/// What was asked of a tier since its sink was made, by kind, each try counted: what a provider charges for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Pages of listings.
    pub lists: u64,
    /// Questions for what is known of one object.
    pub heads: u64,
    /// Reads of objects or parts of them.
    pub gets: u64,
    /// Writes of objects.
    pub puts: u64,
    /// Deletions.
    pub deletes: u64,
    /// Anything else: tokens, what a server can do.
    pub others: u64,
    /// How many of these the tier did not answer as asked: too busy, broken off, late.
    pub failed: u64,
    /// Bytes of the objects sent.
    pub sent_bytes: u64,
    /// Bytes of objects and listings received.
    pub received_bytes: u64,
}

impl Traffic {
    /// All requests together.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.lists + self.heads + self.gets + self.puts + self.deletes + self.others
    }
}

/// A place where objects are kept. Making a sink does no I/O.
///
/// Promises: a put that returns `Ok` is durable and whole; a put that fails or is killed leaves
/// either nothing or the whole object under its key, never a part. A get returns exactly the
/// bytes asked for or fails.
#[async_trait]
pub trait Sink: fmt::Debug + Send + Sync {
    /// Who it is and what it can do.
    fn info(&self) -> SinkInfo;

    /// What tells the medium from another that may come to be at the same location, as one of two disks that take turns:
    /// something that a copy of all objects does not have. `None` where nothing is known that lasts. It is local and quick,
    /// and may change for no reason: then what was remembered of the medium is forgotten.
    fn medium(&self) -> Option<String> {
        None
    }

    /// What was asked of the tier so far: `None` where requests are not counted, as on a local disk.
    fn traffic(&self) -> Option<Traffic> {
        None
    }

    /// Stores an object.
    ///
    /// # Errors
    /// [`SinkError`] of kind `Conflict` when the mode forbids it, `NoSpace`, `Denied`, ….
    async fn put(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        body: Bytes,
        mode: PutMode,
    ) -> Result<ObjectMeta, SinkError>;

    /// Reads an object or a part of it.
    ///
    /// # Errors
    /// [`SinkError`] of kind `NotFound`; `Damaged` when fewer bytes are there than asked for.
    async fn get(
        &self,
        cx: &OpContext,
        key: &ObjectKey,
        range: ByteRange,
    ) -> Result<Bytes, SinkError>;

    /// What the tier says of an object.
    ///
    /// # Errors
    /// [`SinkError`] of kind `NotFound` and others.
    async fn head(&self, cx: &OpContext, key: &ObjectKey) -> Result<ObjectMeta, SinkError>;

    /// The objects whose key begins with `prefix` (empty, or whole parts ending in `/`), in any
    /// order, those after `after` only. What is not an object of ours (temporary files) is left
    /// out. A prefix under which there is nothing is an empty list.
    fn list(
        &self,
        cx: &OpContext,
        prefix: &str,
        after: Option<&ObjectKey>,
    ) -> BoxStream<'static, Result<ObjectMeta, SinkError>>;

    /// The objects of several ranges, none of which lies in another, in any order, each once: for a tier where that takes
    /// fewer requests than one listing after the other. `None`: it does not, and nothing was asked. Where that turns out on
    /// the way only, it ends with an error of kind `Unsupported`, and whoever asked lists them one by one.
    fn list_together(
        &self,
        _cx: &OpContext,
        _ranges: &[KeyRange],
    ) -> Option<BoxStream<'static, Result<ObjectMeta, SinkError>>> {
        None
    }

    /// Deletes an object; a missing one is success.
    ///
    /// # Errors
    /// [`SinkError`].
    async fn delete(&self, cx: &OpContext, key: &ObjectKey) -> Result<(), SinkError>;

    /// Whether an object can be read now; asks for nothing to be warmed. Where that is never a question, it is not asked
    /// whether there is such an object either.
    ///
    /// # Errors
    /// [`SinkError`] of kind `NotFound` and others.
    async fn temperature(
        &self,
        _cx: &OpContext,
        _key: &ObjectKey,
    ) -> Result<Temperature, SinkError> {
        Ok(Temperature::Warm)
    }

    /// Asks for objects to be made readable. Asking again for what was asked for costs nothing but the request.
    ///
    /// # Errors
    /// [`SinkError`].
    async fn warm(&self, cx: &OpContext, keys: &[ObjectKey]) -> Result<Warmth, SinkError>;

    /// Removes what puts that were killed left behind, where that is no object, takes room, and nobody has
    /// written to it for so long. Says how many such leftovers it removed. A sink whose puts leave
    /// nothing has nothing to do.
    ///
    /// # Errors
    /// [`SinkError`].
    async fn tidy(&self, _cx: &OpContext, _older_than: Duration) -> Result<u64, SinkError> {
        Ok(0)
    }

    /// Locks an object that is there as if it were put at that time ([`SinkCaps::lock`]); a lock that lasts longer stays as
    /// it is. Where the location asks for no locks there is nothing to do.
    ///
    /// # Errors
    /// [`SinkError`] of kind `NotFound`; `Denied` where that is forbidden; `Unsupported` where objects can be locked only as
    /// they are put; and others.
    async fn extend_lock(
        &self,
        _cx: &OpContext,
        _key: &ObjectKey,
        _from: Timestamp,
    ) -> Result<(), SinkError> {
        Ok(())
    }

    /// How much room there is, where the tier can tell: `None` where it cannot, or has no bounds.
    ///
    /// # Errors
    /// [`SinkError`].
    async fn room(&self, _cx: &OpContext) -> Result<Option<Room>, SinkError> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_told_in_whole_percent_of_what_is_there() {
        let used = |free, total| Room { free, total }.percent_used();
        assert_eq!((used(200, 1000), used(201, 1000)), (80, 79));
        assert_eq!((used(0, 0), used(u64::MAX, 1)), (0, 0));
        assert_eq!(used(0, u64::MAX), 100);
    }

    #[test]
    fn a_range_has_what_is_below_its_prefix_and_behind_its_key() {
        let key = |text| ObjectKey::new(text).unwrap();
        let mut range = KeyRange::below("ledger/");
        assert!(range.has(&key("ledger/1")) && !range.has(&key("ledger-/1")));
        range.after = Some(key("ledger/1"));
        assert!(range.has(&key("ledger/2")) && !range.has(&key("ledger/1")));
    }

    #[test]
    fn keys_are_safe_on_every_tier() {
        assert!(ObjectKey::new("data/ab/0123-x_y.z").is_ok());
        for bad in ["", "/a", "a/", "a//b", "../a", "a/.hidden", "a b", "ä"] {
            assert!(ObjectKey::new(bad).is_err(), "{bad}");
        }
        assert!(ObjectKey::new("a".repeat(255)).is_ok());
        assert!(ObjectKey::new("a".repeat(256)).is_err());
        assert!(ObjectKey::new("a/".repeat(256) + "b").is_err());
    }
}
