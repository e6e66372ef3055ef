//! Reading a canonical encoding back: strictly, and never trusting a length.

use std::collections::BTreeMap;

use backup_core::{EntryKind, EntryPath, FileTime, Owner};

use super::{
    CanonicalError, FLAG_DIGEST, FLAG_GROUP, FLAG_LINKED, FLAG_OWNER, FLAG_SHA256, FLAG_USER,
    MAX_BYTES, VERSION,
};
use crate::digest::ContentDigest;
use crate::wire::{Reader, Short};

impl From<Short> for CanonicalError {
    fn from(_: Short) -> Self {
        Self::Short
    }
}

/// An entry as a proof shows it: read from its canonical encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenEntry {
    /// Name of the component of the snapshot.
    pub component: String,
    /// Path within the component.
    pub path: EntryPath,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Who owns it, where the source has owners.
    pub owner: Option<Owner>,
    /// Time of the last change of content.
    pub mtime: FileTime,
    /// Size of its content in bytes.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: Option<ContentDigest>,
    /// Another digest of its content, and its kind; kind 1 is of where the content lies in the
    /// repository.
    pub digest: Option<(u8, ContentDigest)>,
    /// Extended attributes, sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// What else its source remembered.
    pub attrs: BTreeMap<String, String>,
    /// Whether it is one of several hard links to a file.
    pub hard_linked: bool,
}

impl ProvenEntry {
    /// Reads an encoding. Memory taken is at most a small multiple of the length of `bytes`.
    ///
    /// # Errors
    /// [`CanonicalError`] for anything that [`super::CanonicalEntry::encode`] would not write.
    pub fn decode(bytes: &[u8]) -> Result<Self, CanonicalError> {
        if bytes.len() > MAX_BYTES {
            return Err(CanonicalError::TooLong { field: "whole" });
        }
        let mut from = Reader::new(bytes);
        match from.u8()? {
            VERSION => {}
            other => return Err(CanonicalError::Version(other)),
        }
        let length = from.u8()?;
        let component = text(from.take(usize::from(length))?, "component")?.to_owned();
        if component.is_empty() {
            return Err(CanonicalError::NotCanonical { field: "component" });
        }
        let path = EntryPath::from_stored(from.short_bytes()?)
            .map_err(|_| CanonicalError::NotCanonical { field: "path" })?;
        let kind = read_kind(&mut from)?;
        let flags = from.u8()?;
        let mode = from.u32()?;
        let owner = read_owner(&mut from, flags)?;
        let mtime = FileTime {
            seconds: from.i64()?,
            nanos: from.u32()?,
        };
        if mtime.nanos >= 1_000_000_000 {
            return Err(CanonicalError::NotCanonical { field: "mtime" });
        }
        let size = from.u64()?;
        let sha256 = if flags & FLAG_SHA256 != 0 {
            Some(ContentDigest(from.array()?))
        } else {
            None
        };
        let digest = if flags & FLAG_DIGEST != 0 {
            Some((from.u8()?, ContentDigest(from.array()?)))
        } else {
            None
        };
        let mut xattrs = Vec::new();
        read_pairs(&mut from, "xattrs", |name, value| {
            xattrs.push((name.to_vec(), value.to_vec()));
            Ok(())
        })?;
        let mut attrs = BTreeMap::new();
        read_pairs(&mut from, "attrs", |name, value| {
            attrs.insert(
                text(name, "attrs")?.to_owned(),
                text(value, "attrs")?.to_owned(),
            );
            Ok(())
        })?;
        if from.left() > 0 {
            return Err(CanonicalError::Trailing(from.left()));
        }
        let hard_linked = flags & FLAG_LINKED != 0;
        Ok(Self {
            component,
            path,
            kind,
            mode,
            owner,
            mtime,
            size,
            sha256,
            digest,
            xattrs,
            attrs,
            hard_linked,
        })
    }
}

fn text<'a>(bytes: &'a [u8], field: &'static str) -> Result<&'a str, CanonicalError> {
    std::str::from_utf8(bytes).map_err(|_| CanonicalError::NotCanonical { field })
}

fn read_kind(from: &mut Reader<'_>) -> Result<EntryKind, CanonicalError> {
    Ok(match from.u8()? {
        0 => EntryKind::File,
        1 => EntryKind::Directory,
        2 => EntryKind::Symlink(from.short_bytes()?.to_vec()),
        3 => EntryKind::Fifo,
        4 => EntryKind::Socket,
        5 => EntryKind::CharDevice {
            major: from.u32()?,
            minor: from.u32()?,
        },
        6 => EntryKind::BlockDevice {
            major: from.u32()?,
            minor: from.u32()?,
        },
        7 => EntryKind::Stream,
        8 => EntryKind::Disk,
        _ => return Err(CanonicalError::NotCanonical { field: "kind" }),
    })
}

fn read_owner(from: &mut Reader<'_>, flags: u8) -> Result<Option<Owner>, CanonicalError> {
    let known = FLAG_OWNER | FLAG_USER | FLAG_GROUP | FLAG_SHA256 | FLAG_LINKED | FLAG_DIGEST;
    let named = flags & (FLAG_USER | FLAG_GROUP) != 0;
    let owned = flags & FLAG_OWNER != 0;
    if flags & !known != 0 || (named && !owned) {
        return Err(CanonicalError::NotCanonical { field: "flags" });
    }
    if !owned {
        return Ok(None);
    }
    let (uid, gid) = (from.u32()?, from.u32()?);
    let user = match flags & FLAG_USER {
        0 => None,
        _ => Some(text(from.short_bytes()?, "user")?.into()),
    };
    let group = match flags & FLAG_GROUP {
        0 => None,
        _ => Some(text(from.short_bytes()?, "group")?.into()),
    };
    Ok(Some(Owner {
        uid,
        gid,
        user,
        group,
    }))
}

fn read_pairs<'a>(
    from: &mut Reader<'a>,
    field: &'static str,
    mut take: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), CanonicalError>,
) -> Result<(), CanonicalError> {
    let mut last: Option<&[u8]> = None;
    for _ in 0..from.u16()? {
        let name = from.short_bytes()?;
        let value = from.long_bytes()?;
        if last.is_some_and(|last| last >= name) {
            return Err(CanonicalError::NotCanonical { field });
        }
        last = Some(name);
        take(name, value)?;
    }
    Ok(())
}
