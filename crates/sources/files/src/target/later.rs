//! Folders whose metadata is set at the end.
//!
//! Files are begun by whoever has their first bytes, so one may still be made in a folder after
//! entries of other folders have come. It would change the folder's time of last change, and a
//! folder that forbids writing could not take it. So the metadata of folders waits until everything
//! is in its place: in memory as long as it is little, then in a file that has no name.

use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

use backup_core::{EntryMeta, EntryPath};
use tempfile::SpooledTempFile;

use super::kept::Had;
use super::meta::Before;
use crate::handle::DirId;

/// Bytes that are kept in memory.
const IN_MEMORY: usize = 4 << 20;

/// What a folder gets at the end.
#[derive(Debug)]
pub(super) enum Last {
    /// The metadata of its entry; and what is known of it before, and, if it was there, what it had, which is
    /// noted once something in it changes: the next run may leave it as it was, and the time says whether it is
    /// older than the entry.
    Becomes(EntryMeta, Before, Option<Had>),
    /// It stays, with what it had.
    Keeps(Had),
}

/// A folder's path, what tells it from others, and what it gets.
type Folder = (EntryPath, DirId, Last);

/// What is stored of one: path, device and inode, and what is known of it before and its metadata, or what it
/// keeps.
type Stored<M> = (Vec<u8>, DirId, Result<(Before, M, Option<Had>), Had>);

/// Folders that wait for their metadata, in the order in which they were left.
#[derive(Debug)]
pub(super) struct Later {
    spool: SpooledTempFile,
    /// Where the next one goes.
    end: u64,
}

impl Later {
    /// None yet; what does not fit in memory goes into a file in `folder`.
    pub(super) fn new(folder: &Path) -> Self {
        Self {
            spool: tempfile::spooled_tempfile_in(IN_MEMORY, folder),
            end: 0,
        }
    }

    /// Adds a folder.
    ///
    /// # Errors
    /// When there is no room for it; the others stay.
    pub(super) fn add(&mut self, path: &EntryPath, id: DirId, last: &Last) -> io::Result<()> {
        let last = match last {
            Last::Becomes(meta, before, had) => Ok((*before, meta, *had)),
            Last::Keeps(had) => Err(*had),
        };
        let stored: Stored<&EntryMeta> = (path.as_stored().to_vec(), id, last);
        let bytes = postcard::to_stdvec(&stored).map_err(io::Error::other)?;
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let added = [&length.to_le_bytes(), &*bytes].concat();
        match self.spool.write_all(&added) {
            Ok(()) => self.end += added.len() as u64,
            Err(cause) => {
                // What there is of it must not be read.
                let cut = self.spool.set_len(self.end);
                cut.and_then(|()| self.spool.seek(SeekFrom::Start(self.end)))?;
                return Err(cause);
            }
        }
        Ok(())
    }

    /// Goes through all of them, those below a folder before it, and forgets them.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Folder)) -> io::Result<()> {
        self.spool.rewind()?;
        let mut reader = BufReader::new(&mut self.spool);
        let mut length = [0; 4];
        let mut bytes = Vec::new();
        loop {
            match reader.read_exact(&mut length) {
                Ok(()) => {}
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(cause) => return Err(cause),
            }
            bytes.resize(u32::from_le_bytes(length) as usize, 0);
            reader.read_exact(&mut bytes)?;
            let stored: Stored<EntryMeta> =
                postcard::from_bytes(&bytes).map_err(io::Error::other)?;
            let (path, id, last) = stored;
            let path = EntryPath::from_stored(&path).map_err(io::Error::other)?;
            let last = match last {
                Ok((before, meta, had)) => Last::Becomes(meta, before, had),
                Err(had) => Last::Keeps(had),
            };
            take((path, id, last));
        }
        drop(reader);
        self.end = 0;
        self.spool.set_len(0)?;
        self.spool.rewind()
    }
}
