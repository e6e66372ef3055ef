//! One thing that can be imported: what a snapshot of it is called, when it was made, and how it is known
//! again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{EntryPath, Source};
use jiff::Timestamp;

use super::below::Below;
use super::{ArchiveSource, DumpSource, Packing};
use crate::error::{ExportError, Result, at};
use crate::sums::digest_of;

/// The tag that every snapshot has that was imported.
pub const TAG: &str = "imported";
/// How the tag begins that tells what was imported.
pub const MARK: &str = "import-";

/// What is imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A component of an export, as a tree of files.
    Tree,
    /// An archive, of an export or by itself.
    Archive(Packing),
    /// A dump, and its path in the snapshot.
    Dump(Packing, EntryPath),
}

impl What {
    /// How it is called in output.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tree => "tree",
            Self::Archive(_) => "archive",
            Self::Dump(..) => "dump",
        }
    }
}

/// What an export says of the snapshot that it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// The folder of the export.
    pub export: PathBuf,
    /// The id of the snapshot.
    pub id: String,
    /// The name of the component.
    pub component: String,
    /// The host that was saved.
    pub host: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its label.
    pub label: Option<String>,
    /// What was saved, for people.
    pub origin: Vec<String>,
    /// Whether the export has other components too.
    pub is_one_of_many: bool,
}

/// One thing that can be imported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The file or the folder.
    pub path: PathBuf,
    /// What it is.
    pub what: What,
    /// What a snapshot of it is called.
    pub name: String,
    /// When it was made.
    pub time: Timestamp,
    /// Of an export: what that says.
    pub original: Option<Original>,
}

impl Item {
    /// The tag that tells what was imported: of an export by the id of its snapshot, of others by their
    /// content and the name of their file: a dump of another day is another one, also if nothing has changed. Reads a
    /// file; blocks.
    ///
    /// # Errors
    /// [`ExportError::File`].
    pub fn mark(&self) -> Result<String> {
        if let Some(original) = &self.original {
            let id = &original.id;
            return Ok(match original.is_one_of_many {
                true => format!("{MARK}{id}-{}", original.component),
                false => format!("{MARK}{id}"),
            });
        }
        let file = File::open(&self.path).map_err(at("read", &self.path))?;
        let (digest, _) = digest_of(file).map_err(at("read", &self.path))?;
        let name = self.path.file_name().unwrap_or_default().as_encoded_bytes();
        let named = [digest.to_string().as_bytes(), name].concat();
        let (digest, _) = digest_of(named.as_slice()).map_err(at("read", &self.path))?;
        let digits: String = digest.to_string().chars().take(32).collect();
        Ok(format!("{MARK}{digits}"))
    }

    /// Sees that an export is whole. Reads all of it; blocks. Others show it while they are read.
    ///
    /// # Errors
    /// [`ExportError::NotWhole`] and [`ExportError::File`].
    pub fn check(&self, stop: &dyn Fn() -> bool) -> Result<()> {
        match &self.original {
            Some(original) => crate::sums::check(&original.export, stop),
            None => Ok(()),
        }
    }

    /// The source of it. `files` makes one of a folder; `scratch` is a folder with room for an archive
    /// that is compressed.
    ///
    /// # Errors
    /// [`ExportError::File`] for a folder that is not there.
    pub fn source(
        &self,
        scratch: &Path,
        files: &dyn Fn(&Path) -> Arc<dyn Source>,
    ) -> Result<Arc<dyn Source>> {
        let origin = match &self.original {
            Some(original) => original.origin.join(", "),
            // That of all dumps that lie together, so that each is compared with the one before.
            None => self
                .path
                .parent()
                .unwrap_or(Path::new("/"))
                .display()
                .to_string(),
        };
        Ok(match &self.what {
            What::Tree => {
                let folder = self.path.canonicalize().map_err(at("open", &self.path))?;
                let slashed = crate::sums::name_of(&folder);
                let below = EntryPath::from_slashed(slashed)
                    .map_err(|why| at("open", &folder)(io::Error::other(why)))?;
                Arc::new(Below {
                    source: files(&folder),
                    folder: below,
                    time: self.time,
                    origin: vec![origin],
                })
            }
            What::Archive(packing) => Arc::new(ArchiveSource {
                file: self.path.clone(),
                packing: *packing,
                scratch: scratch.to_path_buf(),
                time: self.time,
                origin,
            }),
            What::Dump(packing, path) => Arc::new(DumpSource {
                file: self.path.clone(),
                packing: *packing,
                path: path.clone(),
                time: self.time,
                origin,
            }),
        })
    }
}

/// Where a component of an export lies, by its own word: nowhere but in `data`.
pub(crate) fn component_path(export: &Path, said: &str) -> Result<PathBuf> {
    let name = said.strip_prefix("data/").filter(|name| {
        let is_plain = !name.is_empty() && !name.starts_with('.');
        is_plain && !name.contains(['/', '\0'])
    });
    let Some(name) = name else {
        return Err(ExportError::NotWhole {
            path: export.to_path_buf(),
            why: format!("its metadata name a component outside of data: {said:?}"),
        });
    };
    let path = export.join("data").join(name);
    let found = path.symlink_metadata().map_err(at("open", &path))?;
    if found.is_symlink() {
        return Err(ExportError::InTheWay {
            path,
            what: "a link, which no component of an export is",
        });
    }
    Ok(path)
}
