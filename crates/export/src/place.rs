//! Where exports lie: one is built in a folder beside its place, and gets its name when it is whole and
//! on the disk. Whoever is killed leaves a folder with a hidden name, which the next export into the
//! same place takes away.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rustix::fs::{
    CWD, FlockOperation, Mode, OFlags, RenameFlags, flock, fstat, lstat, open, renameat_with,
    symlinkat,
};
use rustix::io::Errno;

use crate::error::{ExportError, Result, at};
use crate::metadata::Metadata;

/// How folders begin in which an export is built.
pub(crate) const BUILDING: &str = ".backstay-export-";
/// How folders begin in which the link to the newest export is made.
pub(crate) const SWITCHING: &str = ".backstay-latest-";
/// The link to the newest export.
pub const LATEST: &str = "latest";
/// The mode of an export.
const MODE_FOLDER: u32 = 0o750;
/// The mode of its own files.
const MODE_FILE: u32 = 0o640;

/// Makes a file of an export.
pub(crate) fn new_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(MODE_FILE);
    let file = options.open(path).map_err(at("make", path))?;
    // Whatever the mask of the process says: what is documented is what there is.
    file.set_permissions(Permissions::from_mode(MODE_FILE))
        .map_err(at("set the mode of", path))?;
    Ok(file)
}

/// Makes a folder of an export.
pub(crate) fn new_folder(path: &Path) -> Result<()> {
    DirBuilder::new()
        .mode(MODE_FOLDER)
        .create(path)
        .map_err(at("make", path))?;
    fs::set_permissions(path, Permissions::from_mode(MODE_FOLDER))
        .map_err(at("set the mode of", path))
}

/// Makes what is not there yet of a way below a folder. No part of it may be a link: it would lead out.
pub(crate) fn make_way(top: &Path, below: &Path) -> Result<PathBuf> {
    if !top.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(MODE_FOLDER)
            .create(top)
            .map_err(at("make", top))?;
    }
    let mut way = top.to_path_buf();
    for part in below.components() {
        way.push(part);
        match fs::symlink_metadata(&way) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(no_folder(way)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let made = new_folder(&way);
                // Another export may have made it just now.
                if !fs::symlink_metadata(&way).is_ok_and(|found| found.is_dir()) {
                    made?;
                }
            }
            Err(error) => return Err(at("look at", &way)(error)),
        }
    }
    Ok(way)
}

/// Sees that no part of a way below a folder is something else than a folder; only looks.
pub(crate) fn check_way(top: &Path, below: &Path) -> Result<()> {
    if fs::metadata(top).is_ok_and(|found| !found.is_dir()) {
        return Err(no_folder(top.to_path_buf()));
    }
    let mut way = top.to_path_buf();
    for part in below.components() {
        way.push(part);
        if fs::symlink_metadata(&way).is_ok_and(|found| !found.is_dir()) {
            return Err(no_folder(way));
        }
    }
    Ok(())
}

fn no_folder(path: PathBuf) -> ExportError {
    ExportError::InTheWay {
        path,
        what: "not a folder",
    }
}

/// An export that is being built. Dropping it takes it away.
#[derive(Debug)]
pub(crate) struct Building {
    parent: PathBuf,
    path: PathBuf,
    /// Open as long as it is being built, and locked: that tells it from what a killed run left.
    _lock: File,
    is_done: bool,
}

impl Building {
    /// Begins one in a folder, and takes away what killed runs left there.
    pub(crate) fn begin(parent: &Path) -> Result<Self> {
        let gate = File::open(parent).map_err(at("open", parent))?;
        // Between making a folder and locking it nobody else may look. Where nothing can be locked,
        // nothing is taken away either.
        let can_lock = flock(&gate, FlockOperation::LockExclusive).is_ok();
        if can_lock {
            sweep(parent, BUILDING);
        }
        let made = tempfile::Builder::new()
            .prefix(BUILDING)
            .permissions(Permissions::from_mode(0o700))
            .tempdir_in(parent)
            .map_err(at("make a folder in", parent))?;
        let path = made.keep();
        let lock = File::open(&path).map_err(at("open", &path))?;
        if can_lock {
            flock(&lock, FlockOperation::NonBlockingLockExclusive)
                .map_err(|error| at("lock", &path)(error.into()))?;
        }
        Ok(Self {
            parent: parent.to_path_buf(),
            path,
            _lock: lock,
            is_done: false,
        })
    }

    /// The folder that it is built in.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name. Whatever is there already stays. What goes wrong once it has its name comes beside.
    pub(crate) fn finish(mut self, name: &str) -> Result<(PathBuf, Option<ExportError>)> {
        let place = self.parent.join(name);
        let data = self.path.join("data");
        fs::set_permissions(&self.path, Permissions::from_mode(MODE_FOLDER))
            .map_err(at("set the mode of", &self.path))?;
        for folder in [&data, &self.path] {
            File::open(folder)
                .and_then(|folder| folder.sync_all())
                .map_err(at("write", folder))?;
        }
        match renameat_with(CWD, &self.path, CWD, &place, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(ExportError::Exists(place)),
            Err(Errno::INVAL | Errno::NOSYS) => self.rename(&place)?,
            Err(error) => return Err(at("rename to", &place)(error.into())),
        }
        self.is_done = true;
        let synced = File::open(&self.parent).and_then(|folder| folder.sync_all());
        let doubt = synced.map_err(at("write", &self.parent)).err();
        Ok((place, doubt))
    }

    /// Renames where the file system has no call for it that replaces nothing: one export at a time looks
    /// whether the name is taken, where it can lock.
    fn rename(&self, place: &Path) -> Result<()> {
        let gate = File::open(&self.parent).map_err(at("open", &self.parent))?;
        let _ = flock(&gate, FlockOperation::LockExclusive);
        if fs::symlink_metadata(place).is_ok() {
            return Err(ExportError::Exists(place.to_path_buf()));
        }
        fs::rename(&self.path, place).map_err(at("rename to", place))
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.is_done {
            // What stays is taken away by the next export.
            let _ = remove(&self.path);
        }
    }
}

/// Takes away what killed runs left, by the beginning of its name. Others may be at work: what one of them holds
/// or takes away itself is left, and so is what this user may not remove. No export fails for that.
fn sweep(parent: &Path, begin: &str) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(begin);
        let path = entry.path();
        if !is_ours || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let Ok(lock) = open(&path, flags, Mode::empty()) else {
            continue;
        };
        let is_free = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_free && is_still(&lock, &path) {
            let _ = remove(&path);
        }
    }
}

/// Whether a folder that is open still has its name: an export that was under way may have got another.
fn is_still(folder: &OwnedFd, path: &Path) -> bool {
    match (fstat(folder), lstat(path)) {
        (Ok(opened), Ok(named)) => (opened.st_dev, opened.st_ino) == (named.st_dev, named.st_ino),
        _ => false,
    }
}

/// Removes a folder with all that is in it; folders that were restored without the right to write in
/// them get it first.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let mut open = vec![path.to_path_buf()];
            while let Some(folder) = open.pop() {
                fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
                for entry in fs::read_dir(&folder)? {
                    let entry = entry?;
                    if entry.file_type()?.is_dir() {
                        open.push(entry.path());
                    }
                }
            }
            fs::remove_dir_all(path)
        }
        other => other,
    }
}

/// The export that `latest` leads to, as it is written; nothing if there is no such link, or if it
/// leads out of the folder.
pub(crate) fn latest(top: &Path) -> Result<Option<PathBuf>> {
    let link = top.join(LATEST);
    match fs::symlink_metadata(&link) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("look at", &link)(error)),
        Ok(found) if !found.is_symlink() => {
            return Err(ExportError::InTheWay {
                path: link,
                what: "there and not a link: it has to be the link to the newest export",
            });
        }
        Ok(_) => {}
    }
    let leads = fs::read_link(&link).map_err(at("read", &link))?;
    let stays = leads
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    Ok(stays.then_some(leads))
}

/// Where `latest` leads once an export is in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latest {
    /// To it.
    Leads,
    /// To an export of a later snapshot still.
    Stays,
    /// Nowhere: the file system has no links.
    NoLinks,
    /// To where it led before, because it could not be switched.
    NotSwitched,
}

/// Lets `latest` lead to an export of a snapshot of that time, unless it leads to one of a later snapshot by now. At
/// every instant it leads to the old one or to the new one.
pub(crate) fn point_latest(top: &Path, leads: &Path, time: Timestamp) -> Result<Latest> {
    let link = top.join(LATEST);
    let gate = File::open(top).map_err(at("open", top))?;
    // One at a time, so that what is found here was left by a killed run, and nobody switches in between.
    if flock(&gate, FlockOperation::LockExclusive).is_ok() {
        sweep(top, SWITCHING);
    }
    let now = latest(top)?.map(|leads| top.join(leads));
    let said = now.and_then(|it| Metadata::read(&it).ok());
    if said.is_some_and(|said| said.time > time) {
        return Ok(Latest::Stays);
    }
    let beside = tempfile::Builder::new()
        .prefix(SWITCHING)
        .tempdir_in(top)
        .map_err(at("make a folder in", top))?;
    let new = beside.path().join(LATEST);
    match symlinkat(leads, CWD, &new) {
        Ok(()) => {}
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Latest::NoLinks),
        Err(error) => return Err(at("make", &new)(error.into())),
    }
    fs::rename(&new, &link).map_err(at("make", &link))?;
    File::open(top)
        .and_then(|folder| folder.sync_all())
        .map_err(at("write", top))?;
    Ok(Latest::Leads)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn exports_at_the_same_time_do_not_disturb_each_other() {
        let top = tempfile::tempdir().unwrap();
        let number = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let own = number.fetch_add(1, Ordering::Relaxed);
                        let way = make_way(top.path(), Path::new(&format!("{}", own / 8)));
                        way.unwrap();
                        let building = Building::begin(top.path()).unwrap();
                        fs::create_dir(building.path().join("data")).unwrap();
                        // Every third one fails, and takes itself away.
                        if !own.is_multiple_of(3) {
                            let (_, doubt) = building.finish(&format!("export-{own}")).unwrap();
                            assert!(doubt.is_none(), "{doubt:?}");
                        }
                    }
                });
            }
        });
        let names = fs::read_dir(top.path()).unwrap().flatten();
        let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        let is_export = |name: &&std::ffi::OsString| name.to_string_lossy().starts_with("export-");
        assert_eq!(names.iter().filter(is_export).count(), 533);
        assert!(
            !names
                .iter()
                .any(|name| name.to_string_lossy().starts_with('.'))
        );
    }

    #[test]
    fn what_others_left_is_taken_away_and_what_they_hold_is_not() {
        let top = tempfile::tempdir().unwrap();
        let held = Building::begin(top.path()).unwrap();
        let left = top.path().join(format!("{BUILDING}left"));
        fs::create_dir_all(left.join("data")).unwrap();
        // What we never make is nothing of ours.
        let file = top.path().join(format!("{SWITCHING}file"));
        fs::write(&file, "").unwrap();
        let switching = top.path().join(format!("{SWITCHING}left"));
        fs::create_dir(&switching).unwrap();
        drop(Building::begin(top.path()).unwrap());
        assert!(held.path().is_dir() && !left.exists());
        let time = Timestamp::UNIX_EPOCH;
        let leads = point_latest(top.path(), Path::new("one"), time).unwrap();
        assert_eq!(leads, Latest::Leads);
        assert!(!switching.exists() && file.exists());
        assert_eq!(latest(top.path()).unwrap().unwrap(), Path::new("one"));
    }
}
