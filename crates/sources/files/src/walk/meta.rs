//! The metadata of one entry, from its `stat` and its extended attributes.

use std::collections::{BTreeMap, HashMap};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backup_core::{EntryKind, EntryMeta, FileTime, Fingerprint, Owner};
use nix::unistd::{Gid, Group, Uid, User};
use rustix::fs::{FileType, Stat, fstat, major, minor, readlinkat};

use super::xattr::{self, Xattrs};
use crate::{ALLOCATED_ATTR, ALLOCATED_PART, ALLOCATED_WHOLE};

/// From so many bytes on it is noted that a file has no holes. Smaller ones lie in bundles and are written whole.
const NOTED_FROM: u64 = 64 << 10;

/// A hole is no smaller.
const HOLE: u64 = 4 << 10;

/// Which metadata of files is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    /// Names of owners beside their numbers.
    pub(crate) owner_names: bool,
    /// Extended attributes.
    pub(crate) xattrs: bool,
    /// The device of the first root.
    pub(crate) first_device: u64,
}

/// Names of owners, looked up once each. Every thread of the walk has its own, so that the names
/// they share are not counted by all of them at once.
#[derive(Debug, Default)]
pub(crate) struct OwnerNames {
    users: HashMap<u32, Option<Arc<str>>>,
    groups: HashMap<u32, Option<Arc<str>>>,
    last: Option<Owner>,
    wanted: bool,
}

impl OwnerNames {
    pub(crate) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    fn of(&mut self, uid: u32, gid: u32) -> Owner {
        if let Some(last) = self
            .last
            .as_ref()
            .filter(|last| (last.uid, last.gid) == (uid, gid))
        {
            return last.clone();
        }
        let mut owner = Owner {
            uid,
            gid,
            user: None,
            group: None,
        };
        if self.wanted {
            let user = self.users.entry(uid).or_insert_with(|| {
                let found = User::from_uid(Uid::from_raw(uid)).ok().flatten();
                found.map(|user| user.name.into())
            });
            owner.user.clone_from(user);
            let group = self.groups.entry(gid).or_insert_with(|| {
                let found = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
                found.map(|group| group.name.into())
            });
            owner.group.clone_from(group);
        }
        self.last.insert(owner).clone()
    }
}

/// The time of last change of content and of the inode.
pub(crate) fn times(stat: &Stat) -> (FileTime, FileTime) {
    let time = |seconds, nanos| FileTime {
        seconds,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    (
        time(stat.st_mtime, stat.st_mtime_nsec),
        time(stat.st_ctime, stat.st_ctime_nsec),
    )
}

/// What recognises a regular file as unchanged.
pub(crate) fn fingerprint(stat: &Stat) -> Fingerprint {
    let (mtime, ctime) = times(stat);
    Fingerprint {
        size: size(stat),
        mtime,
        ctime,
        inode: stat.st_ino,
    }
}

/// Whether all of a regular file lies on the disk. File systems that compress may say less than is so.
fn attrs(stat: &Stat) -> BTreeMap<String, String> {
    let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0);
    // Blocks are of 512 bytes, whatever those of the file system are (stat(2)).
    let there = blocks.saturating_mul(512);
    let allocated = match size(stat) {
        size if there >= size => (size >= NOTED_FROM).then_some(ALLOCATED_WHOLE),
        size => (size - there >= HOLE).then_some(ALLOCATED_PART),
    };
    let allocated = allocated.filter(|_| is_file);
    let attr = allocated.map(|value| (ALLOCATED_ATTR.to_owned(), value.to_owned()));
    attr.into_iter().collect()
}

/// Size in bytes.
pub(crate) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// The number that hard links to one file share.
///
/// On the device of the first root it is the inode number, so that it stays the same from one
/// snapshot to the next; on others both are mixed (with the constants of SplitMix64). Should two
/// files ever get one number, the restore tells them apart by their metadata.
fn link_group(stat: &Stat, first_device: u64) -> Option<u64> {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    if stat.st_nlink < 2 || is_dir {
        return None;
    }
    if stat.st_dev == first_device {
        return Some(stat.st_ino);
    }
    let mut mixed = stat.st_ino ^ stat.st_dev.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    Some(mixed ^ (mixed >> 31))
}

/// What an entry is; reads the target of a symbolic link.
fn kind(folder: &OwnedFd, name: &CStr, stat: &Stat) -> io::Result<EntryKind> {
    let numbers = (major(stat.st_rdev), minor(stat.st_rdev));
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Directory,
        FileType::Symlink => EntryKind::Symlink(readlinkat(folder, name, Vec::new())?.into_bytes()),
        FileType::Fifo => EntryKind::Fifo,
        FileType::Socket => EntryKind::Socket,
        FileType::CharacterDevice => EntryKind::CharDevice {
            major: numbers.0,
            minor: numbers.1,
        },
        FileType::BlockDevice => EntryKind::BlockDevice {
            major: numbers.0,
            minor: numbers.1,
        },
        FileType::Unknown => return Err(io::Error::other("it is of a kind that nobody knows")),
    })
}

/// Everything about the entry `name` of an open folder but its content, and what went wrong with
/// its extended attributes, without which the rest still counts.
pub(crate) fn read(
    folder: &OwnedFd,
    name: &CStr,
    stat: &Stat,
    names: &mut OwnerNames,
    xattrs: &mut Xattrs,
    first_device: u64,
) -> io::Result<(EntryMeta, Option<io::Error>)> {
    let kind = kind(folder, name, stat)?;
    let (xattrs, trouble) = match xattrs.read(folder, name, stat.st_dev) {
        Ok(list) => (list, None),
        // It went between the one call and the other.
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Err(cause),
        Err(cause) => (Vec::new(), Some(cause)),
    };
    let meta = EntryMeta {
        kind,
        mode: stat.st_mode & 0o7777,
        owner: Some(names.of(stat.st_uid, stat.st_gid)),
        mtime: times(stat).0,
        xattrs,
        link_group: link_group(stat, first_device),
        attrs: attrs(stat),
    };
    Ok((meta, trouble))
}

/// Everything about an open regular file but its content. That is wanted rarely, so nothing is kept
/// from one to the next.
pub(crate) fn of_file(file: &File, wanted: Wanted) -> io::Result<EntryMeta> {
    let stat = fstat(file)?;
    let xattrs = match wanted.xattrs {
        true => xattr::of_file(file)?,
        false => Vec::new(),
    };
    Ok(EntryMeta {
        kind: EntryKind::File,
        mode: stat.st_mode & 0o7777,
        owner: Some(OwnerNames::new(wanted.owner_names).of(stat.st_uid, stat.st_gid)),
        mtime: times(&stat).0,
        xattrs,
        link_group: link_group(&stat, wanted.first_device),
        attrs: attrs(&stat),
    })
}
