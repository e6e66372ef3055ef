//! One thing that can be imported: what a snapshot of it is called, when it was made, and how it is known
//! again.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::{EntryPath, OpContext, Source};
use jiff::Timestamp;

use super::archive::{ArchiveSource, Lies};
use super::below::Below;
use super::opened::{Opened, told};
use super::{DumpSource, Packing, packed};
use crate::error::{ExportError, Result, at};
use crate::stop::digest_of;

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

/// Where an export lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// It is a folder.
    Folder(PathBuf),
    /// It is a folder of an archive.
    InArchive {
        /// The file of the archive.
        file: PathBuf,
        /// How that is packed.
        packing: Packing,
        /// The folder.
        below: EntryPath,
    },
}

impl Place {
    /// Where it lies, for people.
    #[must_use]
    pub fn shown(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.clone(),
            Self::InArchive { file, below, .. } => packed::shown(file, below),
        }
    }
}

/// Archives that hold exports: the last one stays open, since its exports come one after another.
#[derive(Debug)]
pub struct Archives {
    scratch: PathBuf,
    last: Option<Arc<Opened>>,
}

impl Archives {
    /// None so far. `scratch` is a folder with room for what is compressed; nothing is made there before it is needed.
    #[must_use]
    pub const fn new(scratch: PathBuf) -> Self {
        Self {
            scratch,
            last: None,
        }
    }

    /// The folder for what is compressed.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    fn open(&mut self, cx: &OpContext, file: &Path, packing: Packing) -> Result<Arc<Opened>> {
        if let Some(last) = self.last.as_ref().filter(|last| last.file == file) {
            return Ok(Arc::clone(last));
        }
        // Its room is free before the next takes some.
        self.last = None;
        if packing != Packing::None {
            let size = file.metadata().map_or(0, |found| found.len());
            told(cx, &file.display().to_string(), size, &self.scratch);
        }
        let stop = || cx.cancel.is_cancelled();
        let opened = Opened::of_file(file, packing, &self.scratch, &stop);
        let opened = opened.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                at("unpack into", &self.scratch)(error)
            }
            _ => at("read", file)(error),
        })?;
        let opened = Arc::new(opened);
        self.last = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

/// What an export says of the snapshot that it was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Where the export lies.
    pub export: Place,
    /// Where the component lies in it: the name below `data`.
    pub below_data: String,
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
    /// Whether it lies in an archive with others.
    #[must_use]
    pub fn is_in_archive(&self) -> bool {
        let export = self.original.as_ref().map(|original| &original.export);
        matches!(export, Some(Place::InArchive { .. }))
    }

    /// The tag that tells what was imported: of an export by the id of its snapshot, of others by their
    /// content and the name of their file: a dump of another day is another one, also if nothing has changed. Reads a
    /// file; blocks.
    ///
    /// # Errors
    /// [`ExportError::File`].
    pub fn mark(&self, cx: &OpContext) -> Result<String> {
        let stop = || cx.cancel.is_cancelled();
        if let Some(original) = &self.original {
            let id = &original.id;
            return Ok(match original.is_one_of_many {
                true => format!("{MARK}{id}-{}", original.component),
                false => format!("{MARK}{id}"),
            });
        }
        let file = File::open(&self.path).map_err(at("read", &self.path))?;
        let (digest, _) = digest_of(file, &stop).map_err(at("read", &self.path))?;
        let name = self.path.file_name().unwrap_or_default().as_encoded_bytes();
        let named = [digest.to_string().as_bytes(), name].concat();
        let (digest, _) = digest_of(named.as_slice(), &stop).map_err(at("read", &self.path))?;
        let digits: String = digest.to_string().chars().take(32).collect();
        Ok(format!("{MARK}{digits}"))
    }

    /// Sees that an export is whole. Reads all of it; blocks. Others show it while they are read.
    ///
    /// # Errors
    /// [`ExportError::NotWhole`] and [`ExportError::File`].
    pub fn check(&self, cx: &OpContext, archives: &mut Archives) -> Result<()> {
        let stop = || cx.cancel.is_cancelled();
        match self.original.as_ref().map(|original| &original.export) {
            None => Ok(()),
            Some(Place::Folder(folder)) => crate::sums::check(folder, &stop),
            Some(Place::InArchive {
                file,
                packing,
                below,
            }) => {
                let opened = archives.open(cx, file, *packing)?;
                packed::check(&opened, below, &stop)
            }
        }
    }

    /// The source of it. `files` makes one of a folder.
    ///
    /// # Errors
    /// [`ExportError::File`] for what is not there any more.
    pub fn source(
        &self,
        cx: &OpContext,
        archives: &mut Archives,
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
        if let Some(original) = &self.original
            && let Place::InArchive {
                file,
                packing,
                below,
            } = &original.export
        {
            let opened = archives.open(cx, file, *packing)?;
            let wrong = |why: backup_core::path::PathError| ExportError::NotWhole {
                path: file.clone(),
                why: why.to_string(),
            };
            let path = below.join(b"data").map_err(wrong)?;
            let path = path.join(original.below_data.as_bytes()).map_err(wrong)?;
            let is_folder = opened.is_folder(&path).map_err(at("read", file))?;
            if is_folder != (self.what == What::Tree) {
                let why = "a component is not what its metadata say";
                return Err(ExportError::NotWhole {
                    path: self.path.clone(),
                    why: why.into(),
                });
            }
            let lies = match &self.what {
                What::Archive(packing) => Lies::Member(opened, path, *packing),
                What::Tree | What::Dump(..) => Lies::Folder(opened, path),
            };
            return Ok(self.archive(lies, archives, origin));
        }
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
            What::Archive(packing) => {
                self.archive(Lies::InFile(self.path.clone(), *packing), archives, origin)
            }
            What::Dump(packing, path) => Arc::new(DumpSource {
                file: self.path.clone(),
                packing: *packing,
                path: path.clone(),
                time: self.time,
                origin,
            }),
        })
    }

    fn archive(&self, lies: Lies, archives: &Archives, origin: String) -> Arc<dyn Source> {
        Arc::new(ArchiveSource {
            lies,
            scratch: archives.scratch.clone(),
            time: self.time,
            origin,
        })
    }
}

/// The name below `data` of a component of an export, by its own word; nothing for what lies elsewhere.
pub(crate) fn name_below_data(said: &str) -> Option<&str> {
    said.strip_prefix("data/").filter(|name| {
        let is_plain = !name.is_empty() && !name.starts_with('.');
        is_plain && !name.contains(['/', '\0'])
    })
}

/// Where a component lies in the folder of an export. No part of the way is a link.
pub(crate) fn component_path(export: &Path, name: &str) -> Result<PathBuf> {
    let mut path = export.to_path_buf();
    for part in ["data", name] {
        path.push(part);
        let found = path.symlink_metadata().map_err(at("open", &path))?;
        if found.is_symlink() {
            return Err(ExportError::InTheWay {
                path,
                what: "a link, which no component of an export is",
            });
        }
    }
    Ok(path)
}
