//! What a source hands over: an [`Entry`] has a path, metadata and a [`Body`].

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::error::SourceError;
use crate::path::EntryPath;

/// A time of a file: seconds since 1970 (negative before) and nanoseconds within the second.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct FileTime {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nanos: u32,
}

/// Who owns an entry, by number and, where the host knows it, by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric group id.
    pub gid: u32,
    /// Name of the user on the host that was saved.
    pub user: Option<Arc<str>>,
    /// Name of the group on the host that was saved.
    pub group: Option<Arc<str>>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link and the bytes of its target.
    Symlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A Unix socket: its name and metadata only.
    Socket,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device node (the node; a disk's content is a [`EntryKind::Disk`]).
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A stream without a file: a dump, the output of a command, standard input.
    Stream,
    /// The content of a disk.
    Disk,
}

impl EntryKind {
    /// Whether an entry of this kind has content of its own.
    #[must_use]
    pub const fn has_content(&self) -> bool {
        matches!(self, Self::File | Self::Stream | Self::Disk)
    }

    /// What an entry of this kind is in a file system: the bits of `S_IFMT` in the `st_mode` that
    /// Linux tells of it. Streams and disks are restored as regular files.
    #[must_use]
    pub const fn type_bits(&self) -> u32 {
        match self {
            Self::File | Self::Stream | Self::Disk => 0o100_000,
            Self::Directory => 0o040_000,
            Self::Symlink(_) => 0o120_000,
            Self::Fifo => 0o010_000,
            Self::Socket => 0o140_000,
            Self::CharDevice { .. } => 0o020_000,
            Self::BlockDevice { .. } => 0o060_000,
        }
    }
}

/// Everything about an entry but its path and content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct EntryMeta {
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits including setuid, setgid and sticky (`0o7777`).
    pub mode: u32,
    /// Who owns it; `None` where the source has no owners.
    pub owner: Option<Owner>,
    /// Time of the last change of content.
    pub mtime: FileTime,
    /// Extended attributes, POSIX ACLs among them (`system.posix_acl_access`), sorted by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Entries with the same number are hard links to one file.
    pub link_group: Option<u64>,
    /// What else the source wants to remember, by name.
    pub attrs: BTreeMap<String, String>,
}

impl EntryMeta {
    /// Metadata of a stream that has no owner and mode `0600`.
    #[must_use]
    pub fn stream(mtime: FileTime) -> Self {
        Self {
            kind: EntryKind::Stream,
            mode: 0o600,
            owner: None,
            mtime,
            xattrs: Vec::new(),
            link_group: None,
            attrs: BTreeMap::new(),
        }
    }
}

/// What tells, without opening a file, that it is the one stored before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of content.
    pub mtime: FileTime,
    /// Time of the last change of inode.
    pub ctime: FileTime,
    /// Inode number.
    pub inode: u64,
}

/// How a stream is cut. The source knows its streams best; `Auto` lets the engine look at the
/// first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum StreamProfile {
    /// Decide by the first bytes.
    #[default]
    Auto,
    /// Content-defined pieces: dumps, archives, logs.
    Content,
    /// Pages of a fixed size that are rewritten in place, in bytes (a power of two, 4 KiB to
    /// 64 KiB): database files, disks. The engine may compare several of them at once.
    Pages(u32),
}

/// Opens the content of an entry, at most twice (the second time when it changed while read).
///
/// The engine calls this on its own reader threads, many entries at once, and never for an entry
/// whose [`Fingerprint`] is that of the parent snapshot.
pub trait OpenContent: fmt::Debug + Send + Sync {
    /// Opens the content for reading from its start.
    ///
    /// # Errors
    /// The error of the operating system; the engine turns it into a finding.
    fn open(&self) -> io::Result<File>;

    /// The state of the opened file now; compared before and after reading.
    ///
    /// # Errors
    /// The error of the operating system.
    fn fingerprint(&self, file: &File) -> io::Result<Fingerprint>;

    /// The metadata of the opened file now. The engine asks for it when the file is not in the state
    /// that the entry tells of: it was changed since, or another one has its name, and content must
    /// not be stored with the mode and owner of something else. `None`: the source cannot tell, and
    /// what the entry has stands.
    ///
    /// # Errors
    /// The error of the operating system; the engine turns it into a finding.
    fn meta(&self, file: &File) -> io::Result<Option<EntryMeta>> {
        let _ = file;
        Ok(None)
    }
}

/// One part of a stream, in ascending order without gaps or overlaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// Bytes at an offset.
    Data {
        /// Offset of the first byte in the entry.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// A range that reads as zeros and takes no space (a hole, an unallocated cluster).
    Zero(Range<u64>),
    /// A range that is the same as in the parent snapshot's entry at the same path, which is at
    /// least as long: the source knows it from increments or a dirty bitmap, and did not read it.
    /// Ranges may begin and end anywhere; the engine keeps a few bytes for each.
    Unchanged(Range<u64>),
}

/// The content of an entry as it comes.
pub type SegmentStream = BoxStream<'static, Result<Segment, SourceError>>;

/// Where the content of an entry comes from.
pub enum Body {
    /// There is none: directories, links, devices.
    None,
    /// All of it, already in memory.
    Bytes(Bytes),
    /// A file that the engine's own readers open and read in parallel.
    File(Arc<dyn OpenContent>),
    /// A stream that is read once, in order.
    Stream(SegmentStream),
    /// Exactly that of the parent snapshot's entry at the same path; its metadata may be other.
    Unchanged,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Bytes(bytes) => write!(f, "Bytes({})", bytes.len()),
            Self::File(open) => write!(f, "File({open:?})"),
            Self::Stream(_) => f.write_str("Stream"),
            Self::Unchanged => f.write_str("Unchanged"),
        }
    }
}

/// One thing to store.
#[derive(Debug)]
pub struct Entry {
    /// Where it stands in its component of the snapshot. A capture hands entries over in
    /// ascending order of path and each path once.
    pub path: EntryPath,
    /// Everything but its content.
    pub meta: EntryMeta,
    /// What recognises it as unchanged; `None`: always read.
    pub fingerprint: Option<Fingerprint>,
    /// The size of its content in bytes, as far as it is known before it is read; `None` where the
    /// fingerprint says it or nobody knows. Large streams are cut into larger pieces.
    pub size: Option<u64>,
    /// How to cut its content.
    pub profile: StreamProfile,
    /// Its content.
    pub body: Body,
}
