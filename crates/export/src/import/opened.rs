//! Archives that are open: not packed any more, and gone through.

use std::fs::File;
use std::io::{self, Read, Seek as _};
use std::path::{Path, PathBuf};

use backup_core::{EntryKind, EntryPath, Event, OpContext};

use super::decode::member;
use super::index::Index;
use super::packing::Packing;
use super::span::Span;
use super::sparse::Content;
use crate::stop::{self, Stop};

/// Of smaller files that are unpacked nothing is told.
const LARGE: u64 = 64 << 20;

/// An archive that is open.
#[derive(Debug)]
pub struct Opened {
    /// The file that it lies in.
    pub(crate) file: PathBuf,
    pub(crate) archive: Span,
    pub(crate) index: Index,
}

impl Opened {
    /// Opens one in a file; what is packed is unpacked into a file without a name in `scratch`.
    pub(crate) fn of_file(
        file: &Path,
        packing: Packing,
        scratch: &Path,
        stop: Stop<'_>,
    ) -> io::Result<Self> {
        let opened = File::open(file)?;
        let plain = match packing {
            Packing::None => opened,
            packing => unpacked(Box::new(opened), packing, scratch, stop)?,
        };
        let archive = Span::whole(plain)?;
        Ok(Self {
            file: file.to_path_buf(),
            index: Index::read(&archive, stop)?,
            archive,
        })
    }

    /// Opens an archive that is a member of this one.
    pub(crate) fn member(
        &self,
        path: &EntryPath,
        packing: Packing,
        scratch: &Path,
        stop: Stop<'_>,
    ) -> io::Result<Self> {
        let content = self.content(path)?;
        let archive = if content.is_plain() && packing == Packing::None {
            self.archive.part(content.data, content.size)
        } else {
            let packed: Box<dyn Read + Send> = match content.is_plain() {
                true => Box::new(self.archive.part(content.data, content.size).reader(0)),
                // With holes it is laid out whole before anything is made of it.
                false => {
                    let mut whole = tempfile::tempfile_in(scratch)?;
                    stop::copy(&mut content.reader(&self.archive), &mut whole, stop)?;
                    whole.rewind()?;
                    Box::new(whole)
                }
            };
            Span::whole(unpacked(packed, packing, scratch, stop)?)?
        };
        Ok(Self {
            file: super::packed::shown(&self.file, path),
            index: Index::read(&archive, stop)?,
            archive,
        })
    }

    /// Where the content of a file stands.
    pub(crate) fn content(&self, path: &EntryPath) -> io::Result<Content> {
        let place = self.index.find(path);
        let place = place.and_then(|at| self.index.places.get(at));
        let place = place.ok_or_else(|| io::Error::other("it is not in the archive"))?;
        let found = member(&self.archive, place.content)?.ok();
        let content = found.and_then(|found| found.content);
        content.ok_or_else(|| io::Error::other("it is not a regular file"))
    }

    /// Whether something is a folder, told or not.
    pub(crate) fn is_folder(&self, path: &EntryPath) -> io::Result<bool> {
        let place = self.index.find(path);
        let Some(place) = place.and_then(|at| self.index.places.get(at)) else {
            return Ok(!self.index.below(path).is_empty());
        };
        let found = member(&self.archive, place.content)?.ok();
        Ok(found.is_some_and(|found| found.meta.kind == EntryKind::Directory))
    }

    /// Bytes of a file; none where there is no such file.
    pub(crate) fn size_of(&self, path: &EntryPath) -> u64 {
        self.content(path).map_or(0, |content| content.size)
    }
}

/// What comes out of something packed, in a file without a name.
fn unpacked(
    packed: Box<dyn Read + Send>,
    packing: Packing,
    scratch: &Path,
    stop: Stop<'_>,
) -> io::Result<File> {
    let mut plain = tempfile::tempfile_in(scratch)?;
    stop::copy(&mut packing.open(packed)?, &mut plain, stop)?;
    Ok(plain)
}

/// Tells the operator that something large is unpacked, and where.
pub(crate) fn told(cx: &OpContext, subject: &str, size: u64, scratch: &Path) {
    if size < LARGE {
        return;
    }
    let free = rustix::fs::statvfs(scratch)
        .map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize) >> 20)
        .map_or_else(
            |_| String::new(),
            |free| format!(", where {free} MiB are free"),
        );
    cx.tell(Event::Note(&format!(
        "{subject} is compressed: its {} MiB are unpacked into {}{free}",
        size >> 20,
        scratch.display()
    )));
}
