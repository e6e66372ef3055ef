//! How to restore.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What to do with what is in the folder already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overwrite {
    /// Leave it alone. What an interrupted restore left unfinished is finished.
    #[default]
    Never,
    /// Replace what was modified before the snapshot's entry was.
    IfNewer,
    /// Replace it. Content that is the same already is not written again.
    Always,
}

/// Whom restored entries belong to. Only root can give files away; for others this is skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ownership {
    /// The user and group of the saved name, where this host knows it, else of the saved number.
    #[default]
    Name,
    /// The saved numbers; right for the files of another system, restored from a rescue system.
    Number,
    /// Whoever runs the restore.
    None,
}

/// What becomes of ranges of a file that hold nothing but zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Holes {
    /// They are holes, except in files that are known to have had none ([`crate::ALLOCATED_ATTR`]).
    #[default]
    AsSaved,
    /// They are holes in all files.
    Everywhere,
    /// They take their space on the disk in all files.
    Nowhere,
}

/// How a [`crate::FilesTarget`] restores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FilesTargetConfig {
    /// The folder to restore into; made if it is not there. Empty: the folder of the request.
    pub folder: PathBuf,
    /// What to do with what is there already.
    pub overwrite: Overwrite,
    /// Whether to delete, below folders that are restored, what the snapshot does not have. Only
    /// after a restore without errors, never through a link, on another file system or in anything
    /// that is mounted (a bind mount is), and never in a folder whose content the snapshot does not wholly have. With it and
    /// [`Overwrite::Always`], a folder that stands in the place of a file is removed.
    pub delete: bool,
    /// Whom entries belong to.
    pub owner: Ownership,
    /// Whether to restore extended attributes, and with them POSIX ACLs and file capabilities.
    pub xattrs: bool,
    /// What the restore itself needs, such as the repository and its key: neither these nor what is
    /// in them is deleted or replaced, wherever in the folder they lie. What they are is looked up
    /// when the restore begins.
    pub protected: Vec<PathBuf>,
    /// Whether the new content of a file is written into the file that is there, which is lost if the
    /// restore does not come to its end, and not beside it, which needs the space of both.
    pub in_place: bool,
    /// Whether everything is on the disk before the restore ends, and a file before it takes the place
    /// of another. Without it a power loss can take what was just restored, and what that replaced.
    pub sync: bool,
    /// What becomes of ranges without data.
    pub holes: Holes,
}

impl Default for FilesTargetConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::new(),
            overwrite: Overwrite::default(),
            delete: false,
            owner: Ownership::default(),
            xattrs: true,
            protected: Vec::new(),
            in_place: false,
            sync: true,
            holes: Holes::default(),
        }
    }
}

impl FilesTargetConfig {
    /// Restores into a folder, with defaults for the rest.
    #[must_use]
    pub fn of_folder(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            ..Self::default()
        }
    }
}
