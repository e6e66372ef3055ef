//! What can go wrong with an export or an import as a whole.

use std::io;
use std::path::{Path, PathBuf};

use backup_engine::EngineError;

/// Why there is no export, or nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The engine could not go on.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A local file or folder could not be used.
    #[error("{op} {}: {source}", .path.display())]
    File {
        /// What was tried, as a verb.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The export is there already.
    #[error("{} is there already, and is not overwritten", .0.display())]
    Exists(PathBuf),
    /// Something that is no part of an export stands where one has to go.
    #[error("{} is {what}", .path.display())]
    InTheWay {
        /// Where.
        path: PathBuf,
        /// What stands there.
        what: &'static str,
    },
    /// The snapshot cannot be read whole, so that there would be an export that lies.
    #[error("{what}: {why}")]
    Damaged {
        /// What is damaged.
        what: String,
        /// How that shows.
        why: String,
    },
    /// Something of a tree could not be written.
    #[error("write {what}: {why}")]
    NotWritten {
        /// What.
        what: String,
        /// What the system said.
        why: String,
    },
    /// What is to be imported is not what it says of itself.
    #[error("{}: {why}", .path.display())]
    NotWhole {
        /// What.
        path: PathBuf,
        /// How that shows.
        why: String,
    },
    /// What was asked for cannot be done.
    #[error("{0}")]
    Invalid(String),
    /// The archive could not be encrypted.
    #[error("encrypt with {program}: {why}")]
    Encrypt {
        /// `age` or `gpg`.
        program: &'static str,
        /// What it said; never the passphrase.
        why: String,
    },
}

/// What a function of this crate gives.
pub type Result<T, E = ExportError> = std::result::Result<T, E>;

/// Names the file that an error of the system is about; that work was stopped is no such error.
pub(crate) fn at<'p>(
    op: &'static str,
    path: &'p Path,
) -> impl FnOnce(io::Error) -> ExportError + 'p {
    move |source| match crate::stop::is_stopped(&source) {
        true => EngineError::Cancelled.into(),
        false => ExportError::File {
            op,
            path: path.to_path_buf(),
            source,
        },
    }
}
