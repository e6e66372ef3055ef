//! The canonical encoding of an entry: the bytes that a leaf of a snapshot's Merkle tree hashes.
//!
//! It is independent of how manifests are stored, so that a proof can be checked without knowing
//! the repository's format, and one-to-one: an entry has exactly one encoding, and
//! [`ProvenEntry::decode`] refuses everything else.
//!
//! # Version 1, byte by byte
//!
//! Numbers are big-endian. `bytes16` is a `u16` length and so many bytes, `bytes32` the same with
//! a `u32`; `u8 len` below is one byte.
//!
//! | field | form |
//! |---|---|
//! | version | `u8`, 1 |
//! | component | `u8` len, 1 to 255 bytes of UTF-8: its name within the snapshot |
//! | path | `bytes16`: the stored form of [`EntryPath`] (components joined by NUL) |
//! | kind | `u8`: 0 file, 1 directory, 2 symlink, 3 fifo, 4 socket, 5 character device, 6 block device, 7 stream, 8 disk |
//! | kind data | symlink: `bytes16` target; devices: `u32` major, `u32` minor; others: nothing |
//! | flags | `u8`: 1 owner, 2 user name, 4 group name, 8 SHA-256, 16 one of several hard links, 32 another digest; user or group name need an owner |
//! | mode | `u32` |
//! | owner | with flag 1: `u32` uid, `u32` gid; then with flag 2 `bytes16` user, with flag 4 `bytes16` group (UTF-8) |
//! | mtime | `i64` seconds, `u32` nanoseconds below 1,000,000,000 |
//! | size | `u64` |
//! | SHA-256 | with flag 8: 32 bytes |
//! | other digest | with flag 32: `u8` kind, 32 bytes; a reader that does not know the kind passes over it |
//! | xattrs | `u16` count; each `bytes16` name, `bytes32` value; names strictly ascending as bytes |
//! | attrs | `u16` count; each `bytes16` name, `bytes32` value (UTF-8); names strictly ascending as bytes |
//!
//! Nothing follows. The whole is at most [`MAX_BYTES`] long. Of a link group only its presence is
//! encoded: its number is chosen anew by every capture.

mod decode;

use backup_core::{EntryKind, EntryMeta, EntryPath};

pub use decode::ProvenEntry;

/// Longest encoding of an entry in bytes.
pub const MAX_BYTES: usize = 16 << 20;

/// The version that stands in the first byte.
pub const VERSION: u8 = 1;

pub(crate) const FLAG_OWNER: u8 = 1;
pub(crate) const FLAG_USER: u8 = 2;
pub(crate) const FLAG_GROUP: u8 = 4;
pub(crate) const FLAG_SHA256: u8 = 8;
pub(crate) const FLAG_LINKED: u8 = 16;
pub(crate) const FLAG_DIGEST: u8 = 32;

/// Why an entry has no canonical encoding, or bytes are not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// A field is longer than its length prefix, or the whole than [`MAX_BYTES`].
    #[error("the {field} of an entry is too long for its canonical encoding")]
    TooLong {
        /// Which field.
        field: &'static str,
    },
    /// A field holds what it may not: an empty component, names out of order, text that is not
    /// UTF-8, a thousand million nanoseconds.
    #[error("the {field} of an entry is not canonical")]
    NotCanonical {
        /// Which field.
        field: &'static str,
    },
    /// The encoding ends within a field.
    #[error("the canonical encoding of an entry ends too early")]
    Short,
    /// Bytes follow after the last field.
    #[error("{0} bytes follow after the canonical encoding of an entry")]
    Trailing(usize),
    /// A version that this release does not know.
    #[error("canonical encoding of version {0}; this release reads version 1")]
    Version(u8),
}

/// An entry as its snapshot holds it, to be encoded.
#[derive(Debug, Clone, Copy)]
pub struct CanonicalEntry<'a> {
    /// Name of the component of the snapshot that the entry belongs to.
    pub component: &'a str,
    /// Its path within the component.
    pub path: &'a EntryPath,
    /// Its metadata; extended attributes sorted by name, as the contract of [`EntryMeta`] says.
    pub meta: &'a EntryMeta,
    /// Size of its content in bytes; 0 without content.
    pub size: u64,
    /// SHA-256 of its content; `None` without content, or where it could not be read.
    pub sha256: Option<[u8; 32]>,
    /// Another digest of its content, and its kind.
    pub digest: Option<(u8, [u8; 32])>,
}

impl CanonicalEntry<'_> {
    /// Appends the encoding to `out` and returns its length. Allocates nothing but the growth of
    /// `out`.
    ///
    /// # Errors
    /// [`CanonicalError`] when a field does not fit; `out` is then as it was.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<usize, CanonicalError> {
        let start = out.len();
        let done = self.write(out).and_then(|()| match out.len() - start {
            length if length <= MAX_BYTES => Ok(length),
            _ => Err(CanonicalError::TooLong { field: "whole" }),
        });
        if done.is_err() {
            out.truncate(start);
        }
        done
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        let component = self.component.as_bytes();
        let length = u8::try_from(component.len())
            .map_err(|_| CanonicalError::TooLong { field: "component" })?;
        if length == 0 {
            return Err(CanonicalError::NotCanonical { field: "component" });
        }
        out.extend_from_slice(&[VERSION, length]);
        out.extend_from_slice(component);
        put16(out, self.path.as_stored(), "path")?;
        put_kind(out, &self.meta.kind)?;
        self.put_flags_and_owner(out)?;
        let mtime = self.meta.mtime;
        if mtime.nanos >= 1_000_000_000 {
            return Err(CanonicalError::NotCanonical { field: "mtime" });
        }
        out.extend_from_slice(&mtime.seconds.to_be_bytes());
        out.extend_from_slice(&mtime.nanos.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        if let Some(sha256) = &self.sha256 {
            out.extend_from_slice(sha256);
        }
        if let Some((kind, digest)) = &self.digest {
            out.push(*kind);
            out.extend_from_slice(digest);
        }
        let xattrs = self
            .meta
            .xattrs
            .iter()
            .map(|(name, value)| (&name[..], &value[..]));
        put_pairs(out, xattrs, "xattrs")?;
        let attrs = self
            .meta
            .attrs
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        put_pairs(out, attrs, "attrs")
    }

    fn put_flags_and_owner(&self, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
        let owner = self.meta.owner.as_ref();
        let user = owner.and_then(|owner| owner.user.as_deref());
        let group = owner.and_then(|owner| owner.group.as_deref());
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(
            flag(owner.is_some(), FLAG_OWNER)
                | flag(user.is_some(), FLAG_USER)
                | flag(group.is_some(), FLAG_GROUP)
                | flag(self.sha256.is_some(), FLAG_SHA256)
                | flag(self.meta.link_group.is_some(), FLAG_LINKED)
                | flag(self.digest.is_some(), FLAG_DIGEST),
        );
        out.extend_from_slice(&self.meta.mode.to_be_bytes());
        if let Some(owner) = owner {
            out.extend_from_slice(&owner.uid.to_be_bytes());
            out.extend_from_slice(&owner.gid.to_be_bytes());
        }
        user.map_or(Ok(()), |user| put16(out, user.as_bytes(), "user"))?;
        group.map_or(Ok(()), |group| put16(out, group.as_bytes(), "group"))
    }
}

fn put16(out: &mut Vec<u8>, bytes: &[u8], field: &'static str) -> Result<(), CanonicalError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CanonicalError::TooLong { field })?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn put_kind(out: &mut Vec<u8>, kind: &EntryKind) -> Result<(), CanonicalError> {
    let mut device = |tag: u8, major: u32, minor: u32| {
        out.push(tag);
        out.extend_from_slice(&major.to_be_bytes());
        out.extend_from_slice(&minor.to_be_bytes());
    };
    match kind {
        EntryKind::File => out.push(0),
        EntryKind::Directory => out.push(1),
        EntryKind::Symlink(target) => {
            out.push(2);
            put16(out, target, "link target")?;
        }
        EntryKind::Fifo => out.push(3),
        EntryKind::Socket => out.push(4),
        EntryKind::CharDevice { major, minor } => device(5, *major, *minor),
        EntryKind::BlockDevice { major, minor } => device(6, *major, *minor),
        EntryKind::Stream => out.push(7),
        EntryKind::Disk => out.push(8),
    }
    Ok(())
}

fn put_pairs<'a>(
    out: &mut Vec<u8>,
    pairs: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
    field: &'static str,
) -> Result<(), CanonicalError> {
    let too_long = |_| CanonicalError::TooLong { field };
    let count = u16::try_from(pairs.len()).map_err(too_long)?;
    out.extend_from_slice(&count.to_be_bytes());
    let mut last: Option<&[u8]> = None;
    for (name, value) in pairs {
        if last.is_some_and(|last| last >= name) {
            return Err(CanonicalError::NotCanonical { field });
        }
        last = Some(name);
        put16(out, name, field)?;
        if value.len() > MAX_BYTES {
            return Err(CanonicalError::TooLong { field });
        }
        let length = u32::try_from(value.len()).map_err(too_long)?;
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(value);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
