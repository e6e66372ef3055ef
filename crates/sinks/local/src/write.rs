//! Writing: a temporary file that becomes the object or goes away.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use backup_core::{ErrorKind, ObjectKey, PutMode};
use rustix::fs::{AtFlags, FileType, OFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::create_by;
use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::{self, FILE_MODE, OnTheWay};
use crate::sink::Place;

/// How the names of temporary files begin. No key can name one: no part of a key is led by a dot.
pub(crate) const TEMPORARY: &str = ".tmp-";
const DIGITS: usize = 32;

/// Whether a file of this name is one of our temporary files.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.strip_prefix(TEMPORARY).is_some_and(|rest| {
        rest.len() == DIGITS
            && rest
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    })
}

/// A file without its final name yet; its own name is removed when this goes out of scope.
pub(crate) struct Temporary<'a> {
    folder: BorrowedFd<'a>,
    name: String,
    named: bool,
}

impl<'a> Temporary<'a> {
    /// Makes a new, empty file in `folder`.
    fn make(folder: BorrowedFd<'a>) -> Outcome<(Self, File)> {
        let name = random_name()?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = retry_on_intr(|| rustix::fs::openat(folder, &name, flags, FILE_MODE))?;
        let temporary = Self {
            folder,
            name,
            named: false,
        };
        folder::restore_mode(&file, FILE_MODE)?;
        Ok((temporary, file.into()))
    }

    /// Writes and syncs a temporary file with this content and makes sure that all of it is there.
    pub(crate) fn holding(folder: BorrowedFd<'a>, body: &[u8]) -> Outcome<Self> {
        let (temporary, mut file) = Self::make(folder)?;
        file.write_all(body)?;
        file.sync_all()?;
        drop(file);
        let stat = folder::stat(folder, &temporary.name)?;
        let (found, wanted) = (folder::size_of(&stat), body.len() as u64);
        if found != wanted {
            return Err(Fault::Ours(
                ErrorKind::Damaged,
                Wrong::Arrived { found, wanted },
            ));
        }
        Ok(temporary)
    }

    /// The folder that it is in.
    pub(crate) fn folder(&self) -> BorrowedFd<'a> {
        self.folder
    }

    /// The name that it has for now.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Its name is no more: it was renamed.
    pub(crate) fn renamed(&mut self) {
        self.named = true;
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed now is left to the next sweep.
            let _ = rustix::fs::unlinkat(self.folder, &self.name, AtFlags::empty());
        }
    }
}

fn random_name() -> Outcome<String> {
    let mut random = [0u8; DIGITS / 2];
    getrandom::fill(&mut random).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(format!("{TEMPORARY}{:032x}", u128::from_be_bytes(random)))
}

/// Makes folders that are missing, and syncs above every folder that this sink meets for the first
/// time: another process may have made it and not have come to syncing it.
struct Lasting<'a>(&'a Place);

impl OnTheWay for Lasting<'_> {
    fn missing(&mut self, above: BorrowedFd<'_>, name: &str) -> Outcome<()> {
        folder::make_below(above, name)
    }

    fn passed(&mut self, above: BorrowedFd<'_>, path: &str) -> Outcome<()> {
        if !self.0.remembers(path) {
            folder::sync(above)?;
            self.0.remember(path);
        }
        Ok(())
    }
}

/// Stores an object.
pub(crate) fn put(place: &Place, key: &ObjectKey, body: &[u8], mode: &PutMode) -> Outcome<()> {
    let (path, name) = split(key);
    let root = place.open_or_make()?;
    let lock_at = root.try_clone()?;
    let folder = folder::descend(root, path, &mut Lasting(place))?;
    if *mode == PutMode::Create {
        // Saves writing what would be refused in the end.
        vacant(&folder, name)?;
    }
    let mut temporary = Temporary::holding(folder.as_fd(), body)?;
    let named = match mode {
        PutMode::Create => {
            create_by::create(place.create_by(), lock_at.as_fd(), &mut temporary, name)
        }
        PutMode::Replace => create_by::replace(&mut temporary, name),
        PutMode::ReplaceIf(_) => Err(Fault::Ours(ErrorKind::Unsupported, Wrong::NoVersions)),
    };
    // The sync has to cover the end of the temporary name as well.
    drop(temporary);
    match named {
        Err(Fault::System(error)) if is_folder_in_the_way(&error) => Err(Fault::Ours(
            ErrorKind::Invalid,
            Wrong::IsFolder(key.to_string()),
        )),
        Err(fault) => Err(fault),
        Ok(()) => folder::sync(&folder),
    }
}

fn is_folder_in_the_way(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(Errno::ISDIR.raw_os_error())
}

fn vacant(folder: &OwnedFd, name: &str) -> Outcome<()> {
    match folder::stat(folder.as_fd(), name) {
        Ok(stat) if folder::kind_of(&stat) == FileType::Directory => Err(Fault::Ours(
            ErrorKind::Invalid,
            Wrong::IsFolder(name.to_owned()),
        )),
        Ok(_) => Err(Errno::EXIST.into()),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Deletes an object; one that is not there is success.
pub(crate) fn delete(place: &Place, key: &ObjectKey) -> Outcome<()> {
    let (path, name) = split(key);
    let folder = match folder::descend(place.open()?, path, &mut folder::AsTheyAre) {
        Ok(folder) => folder,
        Err(Fault::System(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(Fault::Ours(_, Wrong::BelowObject(_))) => return Ok(()),
        Err(fault) => return Err(fault),
    };
    match retry_on_intr(|| rustix::fs::unlinkat(&folder, name, AtFlags::empty())) {
        Ok(()) => folder::sync(&folder),
        // A folder is no object, so there is none of that name.
        Err(Errno::NOENT | Errno::ISDIR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A key as the path of its folder (empty, or with a `/` at its end) and the name in it.
pub(crate) fn split(key: &ObjectKey) -> (&str, &str) {
    let key = key.as_str();
    key.split_at(key.rfind('/').map_or(0, |slash| slash + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_are_known_and_never_keys() {
        let name = random_name().unwrap();
        assert!(is_temporary(&name), "{name}");
        assert_ne!(name, random_name().unwrap());
        assert!(ObjectKey::new(name.clone()).is_err());
        for other in [".tmp-", ".tmp-precious", "tmp-00", &name[1..], &name[..36]] {
            assert!(!is_temporary(other), "{other}");
        }
        assert!(!is_temporary(
            &name
                .replace(TEMPORARY, ".tmp-A")
                .replace(".tmp-AA", ".tmp-A")
        ));
    }

    #[test]
    fn a_key_is_split_at_its_last_slash() {
        let split = |key: &str| {
            let key = ObjectKey::new(key).unwrap();
            let (path, name) = split(&key);
            (path.to_owned(), name.to_owned())
        };
        assert_eq!(split("config"), (String::new(), "config".into()));
        assert_eq!(split("data/ab/cd"), ("data/ab/".into(), "cd".into()));
    }
}
