//! Walking through the folders, one open folder for each level, no more names in memory than the
//! system hands over at once.

use std::os::fd::{AsFd, BorrowedFd};

use backup_core::{ErrorKind, ObjectKey, ObjectMeta};
use rustix::fs::{Dir, DirEntry, FileType};
use rustix::io::Errno;

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::{self, AsTheyAre};
use crate::sink::Place;
use crate::write::is_temporary;

struct Level {
    entries: Dir,
    /// Its path: empty, or with a `/` at its end.
    path: String,
}

/// A walk under way.
pub(crate) struct Walk {
    levels: Vec<Level>,
    after: Option<ObjectKey>,
}

/// What is met on a walk.
enum Met<'a> {
    Folder,
    File {
        folder: BorrowedFd<'a>,
        path: &'a str,
        name: &'a str,
    },
}

impl Walk {
    /// Begins a walk below `prefix`, over keys behind `after` only.
    pub(crate) fn begin(place: &Place, prefix: &str, after: Option<ObjectKey>) -> Outcome<Self> {
        let malformed = || Fault::Ours(ErrorKind::Invalid, Wrong::Prefix);
        if let Some(parts) = prefix.strip_suffix('/') {
            ObjectKey::new(parts).map_err(|_| malformed())?;
        } else if !prefix.is_empty() {
            return Err(malformed());
        }
        let levels = match folder::descend(place.open()?, prefix, &mut AsTheyAre) {
            Ok(folder) => vec![Level {
                entries: Dir::new(folder)?,
                path: prefix.to_owned(),
            }],
            Err(Fault::System(error)) if error.kind() == std::io::ErrorKind::NotFound => vec![],
            Err(Fault::Ours(_, Wrong::BelowObject(_))) => vec![],
            Err(fault) => return Err(fault),
        };
        Ok(Self { levels, after })
    }

    /// The next objects, about `count`; fewer at the end, none when the walk is over.
    pub(crate) fn objects(&mut self, count: usize) -> Outcome<Vec<ObjectMeta>> {
        let mut found = Vec::new();
        let after = self.after.take();
        while found.len() < count {
            let more = self.step(after.as_ref(), |met| match met {
                Met::File { folder, path, name } => {
                    found.extend(object(folder, path, name, after.as_ref())?);
                    Ok(())
                }
                Met::Folder => Ok(()),
            })?;
            if !more {
                break;
            }
        }
        self.after = after;
        Ok(found)
    }

    /// Calls `act` with each temporary file of ours: the folder that it is in and its name.
    pub(crate) fn temporaries(
        &mut self,
        mut act: impl FnMut(BorrowedFd<'_>, &str) -> Outcome<()>,
    ) -> Outcome<()> {
        while self.step(None, |met| match met {
            Met::File { folder, name, .. } if is_temporary(name) => act(folder, name),
            Met::File { .. } | Met::Folder => Ok(()),
        })? {}
        Ok(())
    }

    /// Takes one entry of the deepest folder; `false` when there is none left anywhere.
    fn step(
        &mut self,
        after: Option<&ObjectKey>,
        act: impl FnOnce(Met<'_>) -> Outcome<()>,
    ) -> Outcome<bool> {
        let Some(level) = self.levels.last_mut() else {
            return Ok(false);
        };
        let entry = match level.entries.read() {
            None | Some(Err(Errno::NOENT)) => {
                self.levels.pop();
                return Ok(true);
            }
            Some(entry) => entry?,
        };
        // Names that are not text, or that no key has, are not ours.
        let Ok(name) = entry.file_name().to_str() else {
            return Ok(true);
        };
        let folder = level.entries.fd()?;
        match kind(folder, &entry, name)? {
            Some(FileType::RegularFile) => act(Met::File {
                folder,
                path: &level.path,
                name,
            })?,
            Some(FileType::Directory) => {
                let path = format!("{}{name}", level.path);
                if ObjectKey::new(path.clone()).is_ok() && reaches(&path, after) {
                    match folder::open_below(folder, name) {
                        Ok(below) => {
                            let entries = Dir::new(below)?;
                            self.levels.push(Level {
                                entries,
                                path: path + "/",
                            });
                        }
                        // It was removed, or replaced by something that is no folder.
                        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                        Err(errno) => return Err(errno.into()),
                    }
                }
                act(Met::Folder)?;
            }
            _ => {}
        }
        Ok(true)
    }
}

/// Whether a folder can hold keys behind `after`.
fn reaches(path: &str, after: Option<&ObjectKey>) -> bool {
    let Some(after) = after.map(ObjectKey::as_str) else {
        return true;
    };
    // All keys of the folder begin with the path and a slash.
    let here = after
        .strip_prefix(path)
        .is_some_and(|rest| rest.starts_with('/'));
    here || format!("{path}/").as_str() > after
}

/// What kind of thing an entry is, asked for where the listing does not tell; nothing if it is
/// gone.
fn kind(folder: BorrowedFd<'_>, entry: &DirEntry, name: &str) -> Outcome<Option<FileType>> {
    match entry.file_type() {
        FileType::Unknown => match folder::stat(folder, name) {
            Ok(stat) => Ok(Some(folder::kind_of(&stat))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        },
        known => Ok(Some(known)),
    }
}

fn object(
    folder: BorrowedFd<'_>,
    path: &str,
    name: &str,
    after: Option<&ObjectKey>,
) -> Outcome<Option<ObjectMeta>> {
    let Ok(key) = ObjectKey::new(format!("{path}{name}")) else {
        return Ok(None);
    };
    if after.is_some_and(|after| key <= *after) {
        return Ok(None);
    }
    match folder::stat(folder.as_fd(), name) {
        Ok(stat) if folder::kind_of(&stat) == FileType::RegularFile => Ok(Some(ObjectMeta {
            key,
            size: folder::size_of(&stat),
            version: None,
        })),
        // It was deleted or replaced since its name was read.
        Ok(_) | Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}
