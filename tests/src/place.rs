//! A place for one test: a repository with its key and cache, and folders to save and restore.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::programs::{Run, restore, snapshot};

/// A place for one test.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
}

#[allow(clippy::expect_used, reason = "support of tests")]
impl Place {
    /// A place without a repository.
    ///
    /// # Panics
    /// When there is no room for temporary files.
    #[must_use]
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::create_dir(folder.path().join("data")).expect("a folder to save");
        Self { folder }
    }

    /// A place with a repository.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn new() -> Self {
        let place = Self::empty();
        let _ = Run::of(
            place
                .snapshot(["init"])
                .arg("--recovery-sheet")
                .arg(place.path("sheet")),
        )
        .ok();
        place
    }

    /// A path in the place.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The folder that is saved.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.path("data")
    }

    /// The repository.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.path("repo")
    }

    /// Writes a file below the folder that is saved.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.data().join(name);
        fs::create_dir_all(path.parent().unwrap_or(&path)).expect("a folder");
        fs::write(path, content).expect("a file");
    }

    fn with<S: AsRef<OsStr>>(
        &self,
        mut command: Command,
        args: impl IntoIterator<Item = S>,
    ) -> Command {
        command
            .args(args)
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_CACHE_HOME")
            .env_remove("XDG_STATE_HOME")
            .env("BACKSTAY_REPO", self.repo())
            .env("BACKSTAY_KEY_FILE", self.path("key"))
            .env("BACKSTAY_CACHE_DIR", self.path("cache"))
            .env("BACKSTAY_STATE_DIR", self.path("state"))
            // However full the disk of the tests is.
            .env("BACKSTAY_WARN_FULL", "100")
            // On a busy disk that takes seconds; the tests of power losses ask for it.
            .env("BACKSTAY_NO_SYNC", "1");
        command
    }

    /// `snapshot` with the repository of this place.
    pub fn snapshot<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.with(snapshot(), args)
    }

    /// `restore` with the repository of this place.
    pub fn restore<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        self.with(restore(), args)
    }

    /// Waits until the last change of a file is so long ago that it could not be made again in the
    /// same tick of the file system's clock: a file that is saved earlier is read again next time.
    pub fn wait_for_a_tick(&self) {
        std::thread::sleep(std::time::Duration::from_millis(200));
    }

    /// Saves the folder.
    #[must_use]
    pub fn save(&self) -> Run {
        Run::of(self.snapshot(["save", "--json"]).arg(self.data()))
    }

    /// Saves what is piped in.
    ///
    /// # Panics
    /// When the program cannot be started.
    #[must_use]
    pub fn pipe(&self, name: &str, content: &[u8]) -> Run {
        let mut command = self.snapshot(["save", "--json", "--stdin", name]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program can be started");
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends early closes the pipe; what it says of it is what counts.
            let _ = stdin.write_all(content);
        }
        child.wait_with_output().expect("the program ends").into()
    }

    /// Restores the newest snapshot's folder into `name`.
    #[must_use]
    pub fn bring_back(&self, name: &str) -> Run {
        let mut wanted = std::ffi::OsString::from("latest:");
        wanted.push(self.data());
        Run::of(self.restore(["run", "--json", "--to", name]).arg(wanted))
    }

    /// Verifies everything.
    #[must_use]
    pub fn verify(&self) -> Run {
        Run::of(&mut self.snapshot(["verify", "--level", "full", "--json"]))
    }

    /// The files of the repository below a folder of it, sorted.
    #[must_use]
    pub fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut out = Vec::new();
        collect(&self.repo().join(prefix), &mut out);
        out.sort();
        out
    }

    /// The pack with content that is the largest: which of several is the first by name is chance.
    ///
    /// # Panics
    /// If there is none, or its size cannot be read.
    #[must_use]
    pub fn largest_pack(&self) -> PathBuf {
        let size = |path: &PathBuf| fs::metadata(path).expect("the size of a pack").len();
        let packs = self.objects("data").into_iter();
        packs.max_by_key(size).expect("a pack")
    }

    /// Takes the sidecars of what lies below a folder of the repository away: nothing brings it back then.
    ///
    /// # Panics
    /// If one cannot be removed.
    pub fn lose_sidecars(&self, prefix: &str) {
        for sidecar in self.objects(&format!("parity/{prefix}")) {
            fs::remove_file(sidecar).expect("a sidecar to remove");
        }
    }
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

fn collect(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, out);
        } else {
            out.push(path);
        }
    }
}
