//! The content of a regular file, opened when the engine wants it.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use backup_core::{EntryMeta, Fingerprint, OpenContent};
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use rustix::io::Errno;

use crate::handle::{DirHandle, HandleCache};
use crate::walk::meta;

/// Opens something in a folder for reading, without leaving a trace in its access time where that
/// is allowed (to its owner and to root).
pub(crate) fn open_read(folder: &OwnedFd, name: &CStr, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
    match openat(folder, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(openat(folder, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

/// What all files of a walk need to be opened.
#[derive(Debug)]
pub(crate) struct Opener {
    pub(crate) handles: Arc<HandleCache>,
    /// Which metadata is wanted.
    pub(crate) wanted: meta::Wanted,
}

/// A regular file that was seen by the walk.
#[derive(Debug)]
pub(crate) struct FileContent {
    opener: Arc<Opener>,
    folder: Arc<DirHandle>,
    name: CString,
}

impl FileContent {
    pub(crate) fn new(opener: Arc<Opener>, folder: Arc<DirHandle>, name: CString) -> Self {
        Self {
            opener,
            folder,
            name,
        }
    }
}

impl OpenContent for FileContent {
    fn open(&self) -> io::Result<File> {
        let folder = self.opener.handles.get(&self.folder)?;
        // Not blocking: a pipe may stand there by now, and nobody may ever write to it.
        let fd = open_read(&folder, &self.name, OFlags::NOFOLLOW | OFlags::NONBLOCK)?;
        if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is no longer a regular file"));
        }
        Ok(File::from(fd))
    }

    fn fingerprint(&self, file: &File) -> io::Result<Fingerprint> {
        Ok(meta::fingerprint(&fstat(file)?))
    }

    fn meta(&self, file: &File) -> io::Result<Option<EntryMeta>> {
        meta::of_file(file, self.opener.wanted).map(Some)
    }
}
