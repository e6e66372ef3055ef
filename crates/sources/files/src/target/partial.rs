//! What there is of a file whose content cannot be had whole.
//!
//! It gets a name that nobody takes for that of the file, and one of its own: nothing that is there is
//! replaced by it, neither the file itself nor what an earlier restore could have. First the name, then
//! what makes it look finished: killed in between, it never looks like the file.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use backup_core::{EntryPath, RestoreEntry, TargetError};
use rustix::fs::{AtFlags, RenameFlags, renameat, renameat_with, statat};
use rustix::io::Errno;

use super::beside::beginning;
use super::links::open_folder;
use super::meta::Object;
use super::way::c_name;
use super::writer::Writer;
use super::{Shared, error};
use crate::handle::DirId;

/// How the names of files end of which a part is lost.
const SUFFIX: &str = ".backstay-partial";

/// So many names are tried.
const TRIES: u32 = 10_000;

/// Longest names of files: of most file systems, and of all.
const NAME_MAX: [usize; 2] = [255, 143];

/// Names for what there is of a file of a name, in the order in which they are tried.
fn names(name: &[u8], longest: usize) -> impl Iterator<Item = CString> + '_ {
    (1..=TRIES).map(move |number| {
        let suffix = match number {
            1 => SUFFIX.to_owned(),
            _ => format!("{SUFFIX}-{number}"),
        };
        let mut partial = beginning(name, longest.saturating_sub(suffix.len())).to_vec();
        partial.extend_from_slice(suffix.as_bytes());
        // Both parts come from what has no zero byte.
        CString::new(partial).unwrap_or_default()
    })
}

/// Gives a file the first of these names that is free.
fn rename(folder: &OwnedFd, now: &CStr, name: &[u8]) -> io::Result<CString> {
    for longest in NAME_MAX {
        for partial in names(name, longest) {
            match rename_if_free(folder, now, &partial) {
                Ok(()) => return Ok(partial),
                Err(Errno::EXIST) => {}
                Err(Errno::NAMETOOLONG) => break,
                Err(cause) => return Err(cause.into()),
            }
        }
    }
    let why = format!("every name like …{SUFFIX} is taken in its folder");
    Err(io::Error::new(io::ErrorKind::AlreadyExists, why))
}

/// Gives a file another name, if nothing has that.
pub(super) fn rename_if_free(folder: &OwnedFd, now: &CStr, name: &CStr) -> Result<(), Errno> {
    match renameat_with(folder, now, folder, name, RenameFlags::NOREPLACE) {
        // Not every file system can refuse to replace.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(_) => Err(Errno::EXIST),
                Err(Errno::NOENT) => renameat(folder, now, folder, name),
                Err(cause) => Err(cause),
            }
        }
        other => other,
    }
}

/// Keeps what there is of a file. Returns where.
pub(super) fn keep(
    shared: &Shared,
    entry: &RestoreEntry,
    writer: &Writer,
) -> Result<EntryPath, TargetError> {
    let fail = |cause: io::Error| error("keep a part of", &entry.path, cause);
    let successor = writer.complete_in_part()?;
    let id = writer.id().map_err(fail)?;
    let kept = match &successor {
        Some(successor) => {
            let place = &successor.place;
            let folder = place.handles.get(&place.folder).map_err(fail)?;
            let name = rename(&folder, &successor.beside, place.name.to_bytes()).map_err(fail)?;
            place
                .begun
                .settled(&place.path, successor.beside.to_bytes());
            beside(&entry.path, &name).map_err(fail)?
        }
        None => {
            let kept = rename_entry(shared, &entry.path, id).map_err(fail)?;
            shared.begun.settled_in_place(&entry.path);
            kept
        }
    };
    shared.links.keep_in_part(shared, &entry.path, id, &kept);
    let mut meta = entry.meta.clone();
    // Nobody is to run a part of a program with the rights of somebody else.
    meta.mode &= !0o6000;
    writer.with_file(|file, before| {
        let (object, findings) = (Object::Open(file.as_fd()), &shared.findings);
        shared
            .applier
            .apply(&object, &kept, &meta, before, findings);
    });
    Ok(kept)
}

/// Gives a file that has the name of an entry another one, if it is still that file.
pub(super) fn rename_entry(shared: &Shared, path: &EntryPath, id: DirId) -> io::Result<EntryPath> {
    let folder: Arc<OwnedFd> = open_folder(shared, &shared.top, path)?;
    let name = c_name(path, path.name().unwrap_or_default()).map_err(io::Error::other)?;
    let stat = statat(&*folder, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_dev, stat.st_ino) != id {
        return Err(io::Error::other("something else was put in its place"));
    }
    beside(path, &rename(&folder, &name, name.to_bytes())?)
}

/// The path of another name in the folder of an entry.
fn beside(path: &EntryPath, name: &CStr) -> io::Result<EntryPath> {
    let path = path.parent().unwrap_or_default().join(name.to_bytes());
    path.map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts_are_names_and_differ() {
        let shown: Vec<_> = names(b"report.txt", 255).take(2).collect();
        let wanted = [
            c"report.txt.backstay-partial",
            c"report.txt.backstay-partial-2",
        ];
        assert_eq!(shown, wanted);
        for longest in NAME_MAX {
            let all: std::collections::HashSet<_> = names(&[b'n'; 255], longest).collect();
            assert_eq!(all.len(), TRIES as usize);
            assert!(all.iter().all(|name| name.to_bytes().len() == longest));
        }
    }
}
