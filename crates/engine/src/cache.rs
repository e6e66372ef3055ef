//! The local cache: sealed copies of small objects, and the state of earlier runs. It may be lost
//! or damaged at any time; nothing but time is lost with it. A cache that cannot be written (a full
//! disk) is simply not used.
//!
//! Each repository has a folder of its own, with a [tag](https://bford.info/cachedir/) by which
//! backup programs know it as a cache. Saving it would be of no use, and each run changes it.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// The name of the file that says that its folder is a cache.
const TAG_NAME: &str = "CACHEDIR.TAG";

/// What is in that file: the signature of the specification, and whose cache it is.
const TAG: &[u8] = b"Signature: 8a477f597d28d172789f06886806bc55
# A cache of Backstay. It may be deleted at any time. See https://bford.info/cachedir/
";

/// A folder of cached files, or none.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: Option<PathBuf>,
}

impl Cache {
    /// A cache in a folder, which is made when it is first needed; `None`: nothing is cached.
    #[must_use]
    pub const fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// The path of a file of the cache, its folder made; `None` without a usable cache.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        let path = self.folder()?.join(name);
        make_folder(path.parent()?).ok()?;
        Some(path)
    }

    /// The folder, made; `None` without a usable cache.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        make_folder(folder).ok()?;
        tag(folder);
        Some(folder.clone())
    }

    /// The folders of the caches of all repositories that lie in a cache folder.
    #[must_use]
    pub fn folders_in(cache: &Path) -> Vec<PathBuf> {
        let found = fs::read_dir(cache).into_iter().flatten().flatten();
        let folders = found.map(|entry| entry.path());
        // In the same folder there may be whatever else.
        let is_ours =
            |folder: &PathBuf| fs::read(folder.join(TAG_NAME)).is_ok_and(|tag| tag == TAG);
        folders.filter(is_ours).collect()
    }

    /// The path of a folder within, which need not be there.
    #[must_use]
    pub(crate) fn folder_name(&self, name: &str) -> Option<PathBuf> {
        Some(self.folder.as_ref()?.join(name))
    }

    /// The bytes of a cached file.
    #[must_use]
    pub fn read(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.folder.as_ref()?.join(name)).ok()
    }

    /// Keeps a file; does nothing when that fails.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        let Some(path) = self.path(name) else { return };
        if write_whole(&path, bytes).is_err() {
            let _ = fs::remove_file(path.with_extension("new"));
        }
    }

    /// Forgets a file.
    pub fn remove(&self, name: &str) {
        if let Some(folder) = &self.folder {
            let _ = fs::remove_file(folder.join(name));
        }
    }
}

/// Says in a folder that it is a cache; nothing depends on that.
fn tag(folder: &Path) {
    let mut new = fs::OpenOptions::new();
    if let Ok(mut file) = new.write(true).create_new(true).open(folder.join(TAG_NAME)) {
        let _ = file.write_all(TAG);
    }
}

/// Makes a folder and those above it, for this user alone.
pub(crate) fn make_folder(folder: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
}

fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(bytes)?;
    drop(file);
    fs::rename(new, path)
}
