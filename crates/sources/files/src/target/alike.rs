//! Whether what is there is what the snapshot has.

use std::fs::File;
use std::io::{self, Read as _};

use backup_core::{OpContext, RestoreEntry};
use rustix::fs::{FileType, Mode, OFlags, Stat, fstat, openat};
use sha2::{Digest as _, Sha256};

use super::groups::First;
use super::links::open_folder;
use super::way::Spot;
use super::{Shared, node};
use crate::walk::meta;

/// Bytes that are read at once.
const READ: usize = 256 << 10;

/// Whether something that is there looks like an entry.
pub(super) fn looks_same(spot: &Spot, stat: &Stat, entry: &RestoreEntry) -> bool {
    let is_alike = if entry.meta.kind.has_content() {
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        is_file && meta::size(stat) == entry.size
    } else {
        node::is_same(spot, stat, &entry.meta)
    };
    is_alike && meta::times(stat).0 == entry.meta.mtime
}

/// Whether a first name that was there has the content that the snapshot has of it. What is not known
/// to be the same is another.
pub(super) fn has_content(shared: &Shared, cx: &OpContext, first: &First) -> io::Result<bool> {
    let folder = open_folder(shared, &shared.top, &first.path)?;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let name = first.path.name().unwrap_or_default();
    let mut file = File::from(openat(&*folder, name, flags, Mode::empty())?);
    let stat = fstat(&file)?;
    if (stat.st_dev, stat.st_ino) != first.id {
        return Ok(false);
    }
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; READ];
    loop {
        if cx.cancel.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => hasher.update(buffer.get(..count).unwrap_or_default()),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
    let found: [u8; 32] = hasher.finalize().into();
    Ok(first.sha256 == Some(found))
}
