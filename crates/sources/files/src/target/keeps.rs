//! What a file system keeps of what is made on it.
//!
//! FAT and exFAT have no modes, owners or links and take names that differ in case only for one; shares
//! and file systems of programs may ignore a change of mode, or give all that is made to one user. No list
//! of them would be whole. So a file is made on each that is restored to, before anything else, looked at,
//! and removed. What was found decides how files are made there (beside their place, where no mode says
//! that one is unfinished, or no time of birth that the mode is not its user's) and what is told once at the end (what could not be kept).

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use backup_core::{EntryPath, ErrorKind, FileTime, TargetError};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, fchmod, fchown, fstat,
    futimens, linkat, openat, statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::begun::keep_time;
use super::header::birth;
use super::meta::MARK_FILE;
use super::ours::has_mark;
use super::{conflict, error};
use crate::handle::DirId;
use crate::walk::listing::Listing;

/// The names of what is made to be looked at. They begin like those of files beside others, and no token
/// is zero.
const PROBE: &CStr = c".backstay-new-000000000000-probe";
const FOLDED: &CStr = c".BACKSTAY-NEW-000000000000-PROBE";
const DOTTED: &CStr = c".backstay-new-000000000000-probe.";
const LINKED: &CStr = c".backstay-new-000000000000-probe-link";

/// What one file system keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keeps {
    /// Whether a file has the mode that it is given: only then that can say that it is unfinished.
    pub(super) modes: bool,
    /// Whether it says when a file was made: only then a file that was there before is told from one that
    /// a restore made.
    pub(super) births: bool,
    /// Whether root can give files away.
    pub(super) owners: bool,
    /// Whom belongs what this process makes.
    pub(super) owner: u32,
    /// Whether a file can have several names.
    pub(super) links: bool,
    /// Whether names that differ in case only are one.
    pub(super) tells_case: bool,
    /// Whether a name can end with a dot.
    pub(super) last_dots: bool,
    /// By so many nanoseconds a time may be earlier than the one that was set.
    pub(super) time_step: i128,
}

impl Keeps {
    /// All that Unix has.
    fn all() -> Self {
        Self {
            modes: true,
            births: true,
            owners: true,
            owner: geteuid().as_raw(),
            links: true,
            tells_case: true,
            last_dots: true,
            time_step: 0,
        }
    }

    /// Whether a file that is made under its own name can be known for an unfinished one.
    pub(super) const fn marks(&self) -> bool {
        self.modes && self.births
    }
}

/// By how many nanoseconds a time is earlier than that of an entry.
pub(super) fn time_off(there: &Stat, wanted: FileTime) -> i128 {
    let there = nanos(
        there.st_mtime,
        i64::try_from(there.st_mtime_nsec).unwrap_or(0),
    );
    nanos(wanted.seconds, i64::from(wanted.nanos)) - there
}

/// The file systems that were looked at.
#[derive(Debug, Default)]
pub(super) struct FileSystems {
    known: Mutex<HashMap<u64, Keeps>>,
    /// Whether one of them does not keep everything.
    has_odd: AtomicBool,
    /// The names in a folder of such a one, as they were last listed.
    names: Mutex<Option<(DirId, Listing)>>,
}

impl FileSystems {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Keeps>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the file system of a device keeps: everything, if it was not looked at.
    pub(super) fn of(&self, device: u64) -> Keeps {
        self.odd(device).unwrap_or_else(Keeps::all)
    }

    /// The same; `None`: everything.
    pub(super) fn odd(&self, device: u64) -> Option<Keeps> {
        if !self.has_odd.load(Ordering::Acquire) {
            return None;
        }
        let known = self.lock().get(&device).copied();
        known.filter(|keeps| *keeps != Keeps::all())
    }

    /// The same, of an open file.
    pub(super) fn odd_at(&self, file: impl AsFd) -> Option<(Keeps, Stat)> {
        if !self.has_odd.load(Ordering::Acquire) {
            return None;
        }
        let stat = fstat(file).ok()?;
        Some((self.odd(stat.st_dev)?, stat))
    }

    /// Looks at the file system of a folder, unless that was done. Where nothing can be made in the folder
    /// nothing is found out, and whoever makes something there will hear of it.
    pub(super) fn look(&self, folder: &OwnedFd, device: u64) {
        if self.lock().contains_key(&device) {
            return;
        }
        let Ok(before) = fstat(folder) else { return };
        let probed = probe(folder);
        // Nobody asked for that change of the folder.
        let _ = keep_time(folder, &before);
        let Ok(keeps) = probed else { return };
        self.lock().insert(device, keeps);
        if keeps != Keeps::all() {
            self.has_odd.store(true, Ordering::Release);
        }
    }

    /// Whether the name of an entry means another thing in its folder, or cannot be kept there.
    ///
    /// # Errors
    /// When it is so, or the folder cannot be read.
    pub(super) fn check_name(
        &self,
        (folder, id): (&OwnedFd, DirId),
        path: &EntryPath,
        name: &CStr,
    ) -> Result<(), TargetError> {
        let Some(keeps) = self.odd(id.0) else {
            return Ok(());
        };
        if !keeps.last_dots && name.to_bytes().ends_with(b".") {
            return Err(not_held(path, "a name that ends with a dot"));
        }
        if keeps.tells_case || statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            return Ok(());
        }
        match self.other_case(folder, id, name) {
            Ok(None) => Ok(()),
            Ok(Some(other)) => {
                let other = other.to_string_lossy();
                let why = format!("this file system takes its name and {other} for one");
                Err(conflict(path, &why))
            }
            Err(cause) => Err(error("list the folder of", path, cause)),
        }
    }

    /// The name that stands in a folder in the place of another, which differs in case.
    fn other_case(&self, folder: &OwnedFd, id: DirId, name: &CStr) -> io::Result<Option<CString>> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let is_listed = |names: &Option<(DirId, Listing)>| {
            let listing = names.as_ref().filter(|listed| listed.0 == id);
            listing.is_some_and(|listed| listed.1.contains(name.to_bytes()))
        };
        if is_listed(&names) {
            return Ok(None);
        }
        // It may have been made since.
        let mut buffer = [MaybeUninit::uninit(); 4 << 10];
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = openat(folder, c".", flags, Mode::empty())?;
        *names = Some((id, Listing::read(&opened, &mut buffer)?));
        if is_listed(&names) {
            return Ok(None);
        }
        let wanted = name.to_string_lossy().to_lowercase();
        let listing = names.as_ref().map(|listed| &listed.1);
        let other = listing.and_then(|listing| {
            let mut all = (0..listing.len()).map(|index| listing.name(index));
            all.find(|other| other.to_string_lossy().to_lowercase() == wanted)
        });
        Ok(other.map(CStr::to_owned))
    }
}

/// Why something could not be made, where a file system may not hold its name: they say so with various
/// numbers.
pub(super) fn not_made(
    keeps: &Keeps,
    op: &'static str,
    path: &EntryPath,
    cause: io::Error,
) -> TargetError {
    let number = Errno::from_io_error(&cause);
    let is_of_name = matches!(
        number,
        Some(Errno::INVAL | Errno::NOENT | Errno::PERM | Errno::ILSEQ)
    );
    if keeps.modes || !is_of_name {
        return error(op, path, cause);
    }
    let why = format!("this file system may not hold such a name: {cause}");
    TargetError::new(ErrorKind::Unsupported, op, path.to_string()).because(why)
}

/// An entry is such as a file system does not hold.
pub(super) fn not_held(path: &EntryPath, what: &str) -> TargetError {
    TargetError::new(ErrorKind::Unsupported, "create", path.to_string())
        .because(format!("this file system cannot hold {what}"))
}

/// Makes the file that is looked at, looks at it, and removes it.
fn probe(folder: &OwnedFd) -> Result<Keeps, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let make = || openat(folder, PROBE, flags, Mode::from_raw_mode(MARK_FILE));
    let file = match make() {
        // A restore was killed just here.
        Err(Errno::EXIST) => {
            remove(folder, PROBE)?;
            make()?
        }
        made => made?,
    };
    let keeps = look_at(folder, &file);
    unlinkat(folder, PROBE, AtFlags::empty())?;
    keeps
}

/// Removes what was made to be looked at, and nothing that holds anything.
fn remove(folder: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => {
            let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
            if is_file && stat.st_size == 0 {
                return unlinkat(folder, name, AtFlags::empty());
            }
            Err(Errno::EXIST)
        }
        Err(Errno::NOENT) => Ok(()),
        Err(cause) => Err(cause),
    }
}

fn look_at(folder: &OwnedFd, file: &OwnedFd) -> Result<Keeps, Errno> {
    let mut stat = fstat(file)?;
    // One that is kept in other steps than the other times cannot be compared with them.
    let births = birth(file) == Some((stat.st_mtime, stat.st_mtime_nsec));
    if !has_mark(&stat) {
        // A default ACL of the folder may have taken something from its owner.
        let _ = fchmod(file, Mode::from_raw_mode(MARK_FILE));
        stat = fstat(file)?;
    }
    let own = geteuid();
    let (modes, owner) = (has_mark(&stat), stat.st_uid);
    if modes && births && owner == own.as_raw() {
        return Ok(Keeps::all());
    }
    let is_there = |name: &CStr| statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    Ok(Keeps {
        modes,
        births,
        owner,
        links: has_links(folder),
        tells_case: !is_there(FOLDED),
        last_dots: !is_there(DOTTED),
        time_step: time_step(file),
        // The last, since it may belong to somebody else then.
        owners: !own.is_root() || has_owners(file),
    })
}

fn has_links(folder: &OwnedFd) -> bool {
    let made = remove(folder, LINKED)
        .and_then(|()| linkat(folder, PROBE, folder, LINKED, AtFlags::empty()));
    let _ = remove(folder, LINKED);
    made.is_ok()
}

/// How much earlier than asked for a time is kept.
fn time_step(file: &OwnedFd) -> i128 {
    const ASKED: (i64, i64) = (1_000_000_001, 999_999_999);
    let asked = Timespec {
        tv_sec: ASKED.0,
        tv_nsec: ASKED.1,
    };
    // Some programs set none of the two times if one of them is to stay.
    let times = Timestamps {
        last_access: asked,
        last_modification: asked,
    };
    let kept = futimens(file, &times).and_then(|()| fstat(file));
    kept.map_or(0, |stat| {
        let kept = nanos(
            stat.st_mtime,
            i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
        );
        (nanos(ASKED.0, ASKED.1) - kept).max(0)
    })
}

/// Nanoseconds since 1970.
fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn has_owners(file: &OwnedFd) -> bool {
    let (user, group) = (Uid::from_raw(1), Gid::from_raw(1));
    match fchown(file, Some(user), Some(group)) {
        Ok(()) => fstat(file).is_ok_and(|stat| stat.st_uid == user.as_raw()),
        // It has no such user, and may have others.
        Err(Errno::INVAL) => true,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_that_keeps_everything_is_left_as_it_was() {
        let temp = tempfile::tempdir().unwrap();
        // Somebody was killed just here.
        std::fs::write(temp.path().join(PROBE.to_str().unwrap()), "").unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let folder = rustix::fs::open(temp.path(), flags, Mode::empty()).unwrap();
        let systems = FileSystems::default();
        let device = fstat(&folder).unwrap().st_dev;
        systems.look(&folder, device);
        assert_eq!(systems.lock().get(&device), Some(&Keeps::all()));
        assert!(systems.odd(device).is_none() && systems.odd_at(&folder).is_none());
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 0);
    }
}
