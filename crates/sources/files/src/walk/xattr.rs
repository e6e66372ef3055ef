//! Extended attributes of the entries of a folder.
//!
//! Before Linux 6.13 there is no call that lists the attributes of a name in an open folder. The
//! ways around it, measured on 132,000 entries: opening each with `O_PATH` and going through
//! `/proc/self/fd` 0.8 s, `/proc/self/fd/<folder>/<name>` 0.55 s, the whole path from `/` 0.28 s
//! (and any link put in place of a folder leads elsewhere: attributes of another file, file
//! capabilities among them, would come into the snapshot), the name alone from within the folder
//! 0.18 s. So each thread of the walk takes a working directory of its own, and where that is
//! forbidden goes through `/proc`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{fgetxattr, flistxattr, lgetxattr, llistxattr};
use rustix::io::Errno;
use rustix::process::fchdir;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Room that is offered first. The kernel takes as much memory as it is offered, for every call
/// anew, and nearly all files have no attribute at all: with 64 KiB the walk of
/// 132,000 files took a quarter longer.
const USUAL: usize = 512;

/// Room that is offered when that does not do: the longest list of names and the longest value by
/// the rules of Linux (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX`). Longer ones are asked for as they are.
const LARGE: usize = 64 << 10;

/// Longest list or value that is read at all.
const MOST: usize = 16 << 20;

/// Names of attributes, and their values.
type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// How the attributes of a name in a folder are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The thread goes into the folder.
    Inside,
    /// Through `/proc/self/fd/<folder>/<name>`.
    Proc,
    /// They are not wanted.
    Not,
}

/// Reads attributes for one thread.
#[derive(Debug)]
pub(crate) struct Xattrs {
    way: Way,
    /// A file system that said it has no attributes is not asked again.
    without: Option<u64>,
    names: Vec<u8>,
    value: Vec<u8>,
    path: Vec<u8>,
}

/// Gives this thread a working directory of its own.
///
/// Must be called from a thread that runs nothing but the walk.
#[allow(unsafe_code)]
fn take_own_working_directory() -> bool {
    // SAFETY: what makes `unshare` unsafe is `CLONE_FILES`, which can leave borrowed descriptors
    // dangling. `CLONE_FS` parts the working directory, the root and the umask of this thread
    // from those of the others and touches no memory and no descriptor.
    unsafe { unshare_unsafe(UnshareFlags::FS) }.is_ok()
}

impl Xattrs {
    /// For the calling thread, which must run nothing but the walk.
    pub(crate) fn for_this_thread(wanted: bool) -> Self {
        let way = match wanted {
            false => Way::Not,
            true if take_own_working_directory() => Way::Inside,
            true => Way::Proc,
        };
        let room = if wanted { vec![0; LARGE] } else { Vec::new() };
        Self {
            way,
            without: None,
            names: room.clone(),
            value: room,
            path: Vec::new(),
        }
    }

    /// Makes ready for entries of an open folder; to be called before [`Xattrs::read`] for any of
    /// them.
    pub(crate) fn enter(&mut self, folder: &OwnedFd) -> io::Result<()> {
        match self.way {
            Way::Inside => fchdir(folder.as_fd())?,
            Way::Proc => {
                self.path.clear();
                let prefix = format!("/proc/self/fd/{}/", folder.as_raw_fd());
                self.path.extend_from_slice(prefix.as_bytes());
            }
            Way::Not => {}
        }
        Ok(())
    }

    /// The attributes of an entry of the folder entered last, sorted by name.
    pub(crate) fn read(
        &mut self,
        _folder: &OwnedFd,
        name: &CStr,
        device: u64,
    ) -> io::Result<Attributes> {
        if self.way == Way::Not || self.without == Some(device) {
            return Ok(Vec::new());
        }
        let through_proc;
        let path = if self.way == Way::Proc {
            let mut bytes = self.path.clone();
            bytes.extend_from_slice(name.to_bytes());
            through_proc = CString::new(bytes).map_err(io::Error::other)?;
            through_proc.as_c_str()
        } else {
            name
        };
        let found = gather(
            (&mut self.names, &mut self.value),
            |buffer| llistxattr(path, buffer),
            |name, buffer| lgetxattr(path, name, buffer),
        )?;
        if found.is_none() {
            self.without = Some(device);
        }
        Ok(found.unwrap_or_default())
    }
}

/// The attributes of an open file, sorted by name.
pub(crate) fn of_file(file: &File) -> io::Result<Attributes> {
    let (mut names, mut value) = (vec![0; USUAL], vec![0; USUAL]);
    let found = gather(
        (&mut names, &mut value),
        |buffer| flistxattr(file, buffer),
        |name, buffer| fgetxattr(file, name, buffer),
    );
    Ok(found?.unwrap_or_default())
}

/// Lists attributes and gets each. `None`: the file system has none.
fn gather(
    (names, value): (&mut Vec<u8>, &mut Vec<u8>),
    list: impl Fn(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Option<Attributes>> {
    let length = match fill(names, list) {
        Ok(0) => return Ok(Some(Vec::new())),
        Ok(length) => length,
        Err(Errno::NOTSUP) => return Ok(None),
        Err(cause) => return Err(cause.into()),
    };
    let mut out = Vec::new();
    let names = names.get(..length).unwrap_or_default();
    for name in names.split_inclusive(|&byte| byte == 0) {
        let Ok(name) = CStr::from_bytes_with_nul(name) else {
            continue;
        };
        match fill(value, |buffer| get(name, buffer)) {
            Ok(length) => {
                let value = value.get(..length).unwrap_or_default().to_vec();
                out.push((name.to_bytes().to_vec(), value));
            }
            // Gone since it was listed; or listed and never readable, as some file systems do.
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(cause) => return Err(cause.into()),
        }
    }
    out.sort_unstable();
    Ok(Some(out))
}

/// Calls with a little room, and with more as long as it is too small.
fn fill(
    buffer: &mut Vec<u8>,
    call: impl Fn(&mut [u8]) -> Result<usize, Errno>,
) -> Result<usize, Errno> {
    let mut room = USUAL.min(buffer.len());
    loop {
        match call(buffer.get_mut(..room).unwrap_or_default()) {
            Err(Errno::RANGE | Errno::TOOBIG) if room < MOST => {
                room = if room < LARGE { LARGE } else { room * 4 };
                buffer.resize(room.max(buffer.len()), 0);
            }
            other => return other,
        }
    }
}
