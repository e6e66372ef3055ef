//! Records: what a manifest says of one entry, stored under its path in a tree of pages.
//!
//! `kind(1) ‖ flags(1) ‖ varint mode ‖ zigzag mtime seconds ‖ varint mtime nanoseconds ‖ [owner] ‖
//! [kind data] ‖ [size, content] ‖ [sha256] ‖ [digest] ‖ [xattrs] ‖ [link group] ‖ [attributes]`. Kinds: 0
//! file, 1 directory, 2 symlink, 3 fifo, 4 socket, 5 character device, 6 block device, 7 stream, 8
//! disk. Flags: 1 owner (`varint uid ‖ varint gid ‖ bytes user ‖ bytes group`, an empty name is
//! none), 2 sha256, 4 xattrs (`varint count { bytes name ‖ bytes value }`), 8 link group (u64), 16
//! attributes (`varint count { bytes name ‖ bytes value }`, UTF-8). Kind data: symlink `bytes
//! target`, devices `varint major ‖ varint minor`. Files, streams and disks have `varint size ‖
//! content` (see [`crate::extent`]). `bytes` is a varint length and so many bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use backup_core::{EntryKind, EntryMeta, FileTime, Owner};
use sha2::{Digest as _, Sha256};

use crate::extent::Content;
use crate::wire::{Put, Take, WireError};

const OWNER: u8 = 1;
const SHA256: u8 = 2;
const XATTRS: u8 = 4;
const LINK: u8 = 8;
const ATTRS: u8 = 16;
const DIGEST: u8 = 32;

/// A digest of a content that is not its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherDigest {
    /// What kind of digest; see `docs/format.md`. 1 is never stored: it follows from the record.
    pub kind: u8,
    /// The digest.
    pub bytes: [u8; 32],
}

/// What a manifest says of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Everything but path and content.
    pub meta: EntryMeta,
    /// Size of the content in bytes.
    pub size: u64,
    /// SHA-256 of the content; `None` where it was never read as a whole.
    pub sha256: Option<[u8; 32]>,
    /// Another digest of the content, which a later release may have stored; this one stores none.
    pub digest: Option<OtherDigest>,
    /// Where the content lies.
    pub content: Content,
}

impl Record {
    /// The stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let meta = &self.meta;
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        out.push(kind_number(&meta.kind));
        out.push(
            flag(meta.owner.is_some(), OWNER)
                | flag(self.sha256.is_some(), SHA256)
                | flag(!meta.xattrs.is_empty(), XATTRS)
                | flag(meta.link_group.is_some(), LINK)
                | flag(!meta.attrs.is_empty(), ATTRS)
                | flag(self.digest.is_some(), DIGEST),
        );
        out.put_varint(u64::from(meta.mode));
        let seconds = meta.mtime.seconds;
        out.put_varint((seconds.wrapping_shl(1) ^ (seconds >> 63)) as u64);
        out.put_varint(u64::from(meta.mtime.nanos));
        if let Some(owner) = &meta.owner {
            out.put_varint(u64::from(owner.uid));
            out.put_varint(u64::from(owner.gid));
            out.put_bytes(owner.user.as_deref().unwrap_or_default().as_bytes());
            out.put_bytes(owner.group.as_deref().unwrap_or_default().as_bytes());
        }
        match &meta.kind {
            EntryKind::Symlink(target) => out.put_bytes(target),
            EntryKind::CharDevice { major, minor } | EntryKind::BlockDevice { major, minor } => {
                out.put_varint(u64::from(*major));
                out.put_varint(u64::from(*minor));
            }
            kind if kind.has_content() => {
                out.put_varint(self.size);
                self.content.encode(out);
            }
            _ => {}
        }
        if let Some(sha256) = &self.sha256 {
            out.extend_from_slice(sha256);
        }
        if let Some(digest) = &self.digest {
            out.push(digest.kind);
            out.extend_from_slice(&digest.bytes);
        }
        if !meta.xattrs.is_empty() {
            out.put_varint(meta.xattrs.len() as u64);
            for (name, value) in &meta.xattrs {
                out.put_bytes(name);
                out.put_bytes(value);
            }
        }
        if let Some(group) = meta.link_group {
            out.extend_from_slice(&group.to_le_bytes());
        }
        if !meta.attrs.is_empty() {
            out.put_varint(meta.attrs.len() as u64);
            for (name, value) in &meta.attrs {
                out.put_bytes(name.as_bytes());
                out.put_bytes(value.as_bytes());
            }
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn decode(stored: &[u8]) -> Result<Self, WireError> {
        let mut take = Take::new(stored);
        let number = take.u8()?;
        let flags = take.u8()?;
        if flags > 63 {
            return Err(WireError::Range("the flags of a record"));
        }
        let has = |bit: u8| flags & bit != 0;
        let mode = narrow(take.varint()?)?;
        let zigzag = take.varint()?;
        let seconds = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
        let nanos = narrow(take.varint()?)?;
        if nanos >= 1_000_000_000 || mode > 0o7777 {
            return Err(WireError::Range("a time or mode of a record"));
        }
        let owner = if has(OWNER) {
            Some(take_owner(&mut take)?)
        } else {
            None
        };
        let kind = take_kind(number, &mut take)?;
        let (size, content) = if kind.has_content() {
            (take.varint()?, Content::decode(&mut take)?)
        } else {
            (0, Content::empty())
        };
        let sha256 = if has(SHA256) {
            Some(take.array()?)
        } else {
            None
        };
        let digest = if has(DIGEST) {
            let (kind, bytes) = (take.u8()?, take.array()?);
            Some(OtherDigest { kind, bytes })
        } else {
            None
        };
        let mut xattrs = Vec::new();
        if has(XATTRS) {
            for _ in 0..take.count(2)? {
                xattrs.push((take.bytes()?.to_vec(), take.bytes()?.to_vec()));
            }
        }
        let link_group = if has(LINK) { Some(take.u64()?) } else { None };
        let mut attrs = BTreeMap::new();
        if has(ATTRS) {
            for _ in 0..take.count(2)? {
                attrs.insert(
                    text(take.bytes()?)?.to_owned(),
                    text(take.bytes()?)?.to_owned(),
                );
            }
        }
        take.end()?;
        if let Content::Inline(extents) = &content
            && extents.length() != size
        {
            return Err(WireError::Range("the size of a record"));
        }
        let mtime = FileTime { seconds, nanos };
        let meta = EntryMeta {
            kind,
            mode,
            owner,
            mtime,
            xattrs,
            link_group,
            attrs,
        };
        Ok(Self {
            meta,
            size,
            sha256,
            digest,
            content,
        })
    }

    /// The digest of the content that evidence names where there is no SHA-256: the one that is
    /// stored, or else kind 1, the SHA-256 of `"backstay content v1"` and the stored form of
    /// [`Content`]. That names chunks, and their ids are hashes of what is in them, so whoever
    /// holds the id key can check it.
    #[must_use]
    pub fn other_digest(&self) -> Option<OtherDigest> {
        if self.digest.is_some() || self.sha256.is_some() || !self.meta.kind.has_content() {
            return self.digest;
        }
        let mut stored = Vec::new();
        self.content.encode(&mut stored);
        let hash = Sha256::new()
            .chain_update(b"backstay content v1")
            .chain_update(&stored);
        Some(OtherDigest {
            kind: 1,
            bytes: hash.finalize().into(),
        })
    }
}

const fn kind_number(kind: &EntryKind) -> u8 {
    match kind {
        EntryKind::File => 0,
        EntryKind::Directory => 1,
        EntryKind::Symlink(_) => 2,
        EntryKind::Fifo => 3,
        EntryKind::Socket => 4,
        EntryKind::CharDevice { .. } => 5,
        EntryKind::BlockDevice { .. } => 6,
        EntryKind::Stream => 7,
        EntryKind::Disk => 8,
    }
}

fn take_kind(number: u8, take: &mut Take<'_>) -> Result<EntryKind, WireError> {
    Ok(match number {
        0 => EntryKind::File,
        1 => EntryKind::Directory,
        2 => EntryKind::Symlink(take.bytes()?.to_vec()),
        3 => EntryKind::Fifo,
        4 => EntryKind::Socket,
        5 => EntryKind::CharDevice {
            major: narrow(take.varint()?)?,
            minor: narrow(take.varint()?)?,
        },
        6 => EntryKind::BlockDevice {
            major: narrow(take.varint()?)?,
            minor: narrow(take.varint()?)?,
        },
        7 => EntryKind::Stream,
        8 => EntryKind::Disk,
        _ => return Err(WireError::Range("a kind of entry")),
    })
}

fn take_owner(take: &mut Take<'_>) -> Result<Owner, WireError> {
    let (uid, gid) = (narrow(take.varint()?)?, narrow(take.varint()?)?);
    let mut name = || -> Result<Option<Arc<str>>, WireError> {
        let name = text(take.bytes()?)?;
        Ok((!name.is_empty()).then(|| name.into()))
    };
    Ok(Owner {
        uid,
        gid,
        user: name()?,
        group: name()?,
    })
}

fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError::Decode("a text that is not UTF-8"))
}

fn narrow(value: u64) -> Result<u32, WireError> {
    u32::try_from(value).map_err(|_| WireError::Range("a number of a record"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::extent::{Extent, Extents};

    fn record(kind: EntryKind) -> Record {
        let mut extents = Extents::default();
        if kind.has_content() {
            let chunk = backup_core::ChunkId([7; 32]);
            extents.push(Extent::Data {
                chunk,
                offset: 5,
                length: 100,
            });
            extents.push(Extent::Zero { length: 4096 });
        }
        Record {
            size: extents.length(),
            sha256: kind.has_content().then_some([9; 32]),
            digest: None,
            meta: EntryMeta {
                kind,
                mode: 0o4755,
                owner: Some(Owner {
                    uid: 1000,
                    gid: 5,
                    user: Some("me".into()),
                    group: None,
                }),
                mtime: FileTime {
                    seconds: -5,
                    nanos: 999_999_999,
                },
                xattrs: vec![(b"user.a".to_vec(), vec![0, 1, 2])],
                link_group: Some(77),
                attrs: [("k".to_owned(), "v".to_owned())].into(),
            },
            content: Content::Inline(extents),
        }
    }

    #[test]
    fn every_kind_round_trips() {
        let (major, minor) = (8, 1);
        for kind in [
            EntryKind::File,
            EntryKind::Directory,
            EntryKind::Symlink(b"to\xff".to_vec()),
            EntryKind::Fifo,
            EntryKind::Socket,
            EntryKind::CharDevice { major, minor },
            EntryKind::BlockDevice { major, minor },
            EntryKind::Stream,
            EntryKind::Disk,
        ] {
            let record = record(kind);
            let mut out = Vec::new();
            record.encode(&mut out);
            assert_eq!(Record::decode(&out).unwrap(), record);
        }
    }

    #[test]
    fn a_content_without_sha256_is_named_by_its_chunks() {
        let mut record = record(EntryKind::Disk);
        assert_eq!(record.other_digest(), None);
        record.sha256 = None;
        let digest = record.other_digest().unwrap();
        assert_eq!(digest.kind, 1);
        let mut other = record.clone();
        let mut extents = Extents::default();
        extents.push(Extent::Data {
            chunk: backup_core::ChunkId([8; 32]),
            offset: 5,
            length: 100,
        });
        extents.push(Extent::Zero { length: 4096 });
        other.content = Content::Inline(extents);
        assert_ne!(other.other_digest(), Some(digest));
        // One that a later release knows goes through.
        let stored = OtherDigest {
            kind: 2,
            bytes: [3; 32],
        };
        record.digest = Some(stored);
        let mut out = Vec::new();
        record.encode(&mut out);
        assert_eq!(Record::decode(&out).unwrap(), record);
        assert_eq!(record.other_digest(), Some(stored));
        let mut folder = self::record(EntryKind::Directory);
        folder.sha256 = None;
        assert_eq!(folder.other_digest(), None);
    }

    #[test]
    fn the_vector_of_version_1() {
        let mut out = Vec::new();
        record(EntryKind::Symlink(b"x".to_vec())).encode(&mut out);
        let hex: String = out.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "021dED1309ff93ebdc03e80705026d65000178010675\
             7365722e61030001024d00000000000000010\
             16b0176"
                .to_lowercase()
                .replace(' ', "")
        );
    }

    proptest! {
        #[test]
        fn damaged_records_never_panic(at: usize, value: u8, bytes: Vec<u8>) {
            let mut out = Vec::new();
            record(EntryKind::File).encode(&mut out);
            let at = at % out.len();
            out[at] = value;
            let _ = Record::decode(&out);
            let _ = Record::decode(&bytes);
        }
    }
}
