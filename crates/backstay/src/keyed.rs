//! A repository that a program opens with a key file of its own, and makes where there is none yet.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{OpContext, Sink};
use backup_engine::{EngineError, InitRequest, Repository, Unlock, prepare};
use backup_format::config::Operation;
use backup_format::keys::{KeyError, KeyFile};

/// Why a repository could be neither opened nor made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyedError {
    /// The repository: it is there and the key does not open it, there is none for the key file that is there, or
    /// the tier failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The key file.
    #[error("{op} the key file {path:?}: {cause}")]
    File {
        /// What was tried.
        op: &'static str,
        /// Its path.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
}

/// Opens the repository of a tier with a key file. If neither is there, both are made: the key is on the disk
/// before there is anything that only it opens. Nobody but its owner may read it. Keep a copy of it away from the
/// backups: without it nobody can read them, and the recovery sheet is not kept.
///
/// A run that was killed on the way is taken up by the next one: until the repository is made the key file has the
/// ending `.unfinished`.
///
/// # Errors
/// [`EngineError::RepositoryExists`] when there is a repository and no key file: nothing was changed;
/// [`EngineError::NoRepository`] when there is a key file and no repository; [`KeyedError`] else.
pub async fn open_or_make(
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    key_file: &Path,
) -> Result<Repository, KeyedError> {
    if key_file.exists() {
        return open(cx, sink, key_file).await;
    }
    let mut unfinished = OsString::from(key_file);
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    if unfinished.exists() {
        match open(cx, Arc::clone(&sink), &unfinished).await {
            Ok(repo) => {
                finish(&unfinished, key_file)?;
                return Ok(repo);
            }
            // It opens nothing.
            Err(KeyedError::Engine(
                EngineError::NoRepository(_) | EngineError::Key(KeyError::File(_)),
            )) => remove(&unfinished)?,
            Err(error) => return Err(error),
        }
    }
    let request = InitRequest {
        key_file: true,
        ..InitRequest::default()
    };
    let prepared = prepare(cx, &request)?;
    let text = prepared.key_file.as_ref().map_or("", |text| text.as_str());
    write(&unfinished, text).map_err(|cause| failed("write", &unfinished, cause))?;
    let made = prepared.create(cx, sink, None).await;
    if let Err(EngineError::RepositoryExists(_)) = made {
        remove(&unfinished)?;
    }
    let repo = made?;
    finish(&unfinished, key_file)?;
    Ok(repo)
}

async fn open(
    cx: &OpContext,
    sink: Arc<dyn Sink>,
    key_file: &Path,
) -> Result<Repository, KeyedError> {
    let text = fs::read(key_file).map_err(|cause| failed("read", key_file, cause))?;
    let unlock = Unlock::KeyFile(KeyFile::parse(&text).map_err(EngineError::from)?);
    Ok(Repository::open(cx, sink, &unlock, None, Operation::Write).await?)
}

fn failed(op: &'static str, path: &Path, cause: io::Error) -> KeyedError {
    let path = path.to_path_buf();
    KeyedError::File { op, path, cause }
}

/// Writes a file that nobody else may read, from its first byte on, so that it lasts.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    sync_folder(path)
}

fn remove(path: &Path) -> Result<(), KeyedError> {
    fs::remove_file(path).map_err(|cause| failed("remove", path, cause))
}

fn finish(unfinished: &Path, path: &Path) -> Result<(), KeyedError> {
    fs::rename(unfinished, path)
        .and_then(|()| sync_folder(path))
        .map_err(|cause| failed("finish", path, cause))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|above| !above.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
