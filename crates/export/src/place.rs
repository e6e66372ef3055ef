//! Where exports lie: one is built in a folder beside its place, and gets its name when it is whole and
//! on the disk. Whoever is killed leaves a folder with a hidden name, which the next export into the
//! same place takes away.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};

use crate::error::{ExportError, Result, at};

/// How folders begin in which an export is built.
const BUILDING: &str = ".backstay-export-";
/// How folders begin in which the link to the newest export is made.
const SWITCHING: &str = ".backstay-latest-";
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
            Err(error) if error.kind() == io::ErrorKind::NotFound => new_folder(&way)?,
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
            sweep(parent)?;
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

    /// Gives it its name. Whatever is there already stays.
    pub(crate) fn finish(mut self, name: &str) -> Result<PathBuf> {
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
            Err(rustix::io::Errno::EXIST) => return Err(ExportError::Exists(place)),
            // A file system without that call. A rename takes the place of an empty folder at most.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                if fs::symlink_metadata(&place).is_ok() {
                    return Err(ExportError::Exists(place));
                }
                fs::rename(&self.path, &place).map_err(at("rename to", &place))?;
            }
            Err(error) => return Err(at("rename to", &place)(error.into())),
        }
        self.is_done = true;
        File::open(&self.parent)
            .and_then(|folder| folder.sync_all())
            .map_err(at("write", &self.parent))?;
        Ok(place)
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

/// Takes away what killed runs left.
fn sweep(parent: &Path) -> Result<()> {
    for entry in fs::read_dir(parent).map_err(at("list", parent))? {
        let entry = entry.map_err(at("list", parent))?;
        let is_ours = entry.file_name().to_string_lossy().starts_with(BUILDING);
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let path = entry.path();
        if !is_ours || !is_folder {
            continue;
        }
        let lock = File::open(&path).map_err(at("open", &path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&path).map_err(at("remove", &path))?;
        }
    }
    Ok(())
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

/// Lets `latest` lead to an export; at every instant it leads to the old one or to the new one.
pub(crate) fn point_latest(top: &Path, leads: &Path) -> Result<()> {
    let link = top.join(LATEST);
    let gate = File::open(top).map_err(at("open", top))?;
    // One at a time, so that what is found here was left by a killed run.
    if flock(&gate, FlockOperation::LockExclusive).is_ok() {
        for entry in fs::read_dir(top).map_err(at("list", top))? {
            let entry = entry.map_err(at("list", top))?;
            if entry.file_name().to_string_lossy().starts_with(SWITCHING) {
                remove(&entry.path()).map_err(at("remove", &entry.path()))?;
            }
        }
    }
    let beside = tempfile::Builder::new()
        .prefix(SWITCHING)
        .tempdir_in(top)
        .map_err(at("make a folder in", top))?;
    let new = beside.path().join(LATEST);
    std::os::unix::fs::symlink(leads, &new).map_err(at("make", &new))?;
    fs::rename(&new, &link).map_err(at("make", &link))?;
    File::open(top)
        .and_then(|folder| folder.sync_all())
        .map_err(at("write", top))
}
