//! What did not change since the export before: files of a tree that get a second name instead of being
//! written once more. The former export may have been changed or damaged since, so nothing is taken on
//! trust: content is read and hashed, and the very file that was read is linked.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use backup_core::{EntryKind, EntryMeta};
use backup_format::record::Record;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, open};

use crate::error::{Result, at};
use crate::metadata::Metadata;
use crate::stop::{Stop, digest_of, is_stopped};
use crate::sums::open_below;

/// A component of the export before.
#[derive(Debug)]
pub(crate) struct Previous {
    folder: OwnedFd,
    /// Whether whoever exports can give files away: then owners must be those that were saved.
    is_root: bool,
    uid: u32,
}

/// The tree of a component in an export of the same snapshots; nothing where there is none that could
/// have the same files.
pub(crate) fn of_component(
    export: &Path,
    name: &str,
    host: &str,
    component: &str,
) -> Option<Previous> {
    let metadata = Metadata::read(export).ok()?;
    let is_alike = metadata.name == name && metadata.host == host && metadata.layout == "tree";
    let mut components = metadata.components.iter();
    let path = format!("data/{component}");
    if !is_alike || !components.any(|one| one.path == path) {
        return None;
    }
    let folder: PathBuf = export.join(&path);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let uid = rustix::process::geteuid();
    Some(Previous {
        folder: open(&folder, flags, Mode::empty()).ok()?,
        is_root: uid.is_root(),
        uid: uid.as_raw(),
    })
}

/// Whether a file can have a second name in another export: it is one of its own, and its attributes
/// are all in the metadata that are compared.
fn can_be_shared(record: &Record) -> bool {
    let meta = &record.meta;
    meta.kind == EntryKind::File
        && meta.link_group.is_none()
        && meta.xattrs.is_empty()
        && record.sha256.is_some()
        && record.size > 0
}

impl Previous {
    /// Gives a file of the former export a second name, if it is the file of a record in all that
    /// counts. Says whether it did.
    pub(crate) fn link(
        &self,
        slashed: &[u8],
        record: &Record,
        into: &Path,
        stop: Stop<'_>,
    ) -> Result<bool> {
        if !can_be_shared(record) {
            return Ok(false);
        }
        // What cannot be read is written anew.
        let Ok(file) = open_below(self.folder.as_fd(), slashed) else {
            return Ok(false);
        };
        if !self.is_alike(&file, record) {
            return Ok(false);
        }
        let place = into.join(std::ffi::OsStr::from_bytes(slashed));
        match digest_of(&file, stop) {
            Ok((found, _)) if Some(found.0) == record.sha256 => {}
            Err(error) if is_stopped(&error) => return Err(at("read", &place)(error)),
            Ok(_) | Err(_) => return Ok(false),
        }
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(at("make", folder))?;
        }
        // Not its name, which may be another file's by now.
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        // A file with as many names as there can be, or another file system.
        Ok(linkat(CWD, own, CWD, &place, AtFlags::SYMLINK_FOLLOW).is_ok())
    }

    fn is_alike(&self, file: &File, record: &Record) -> bool {
        let Ok(found) = file.metadata() else {
            return false;
        };
        let meta: &EntryMeta = &record.meta;
        let owned = match &meta.owner {
            Some(owner) if self.is_root => (found.uid(), found.gid()) == (owner.uid, owner.gid),
            _ => found.uid() == self.uid,
        };
        let time = (meta.mtime.seconds, i64::from(meta.mtime.nanos));
        owned
            && found.len() == record.size
            && found.mode() & 0o7777 == meta.mode & 0o7777
            && (found.mtime(), found.mtime_nsec()) == time
            && has_no_attributes(file)
    }
}

/// Whether a file has no extended attributes but the label that the system gives each file.
fn has_no_attributes(file: &File) -> bool {
    let mut names = [0u8; 4096];
    match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(length) => names
            .get(..length)
            .unwrap_or_default()
            .split(|byte| *byte == 0)
            .all(|name| name.is_empty() || name == b"security.selinux"),
        Err(error) => error == rustix::io::Errno::OPNOTSUPP,
    }
}
