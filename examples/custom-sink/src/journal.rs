//! The file: records one after another.
//!
//! A header is `"BKS1" ‖ op u8 (1 put, 2 delete) ‖ 0 u8 ‖ key length u16 ‖ body length u64 ‖ key ‖
//! the first 8 bytes of SHA-256 over all of that`, numbers little-endian; the body follows.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use backstay::core::ObjectKey;
use backstay::integrity::digest::ContentDigest;

const MAGIC: &[u8; 4] = b"BKS1";
const FIXED: usize = 16;
const CHECK: usize = 8;
const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Where an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Offset of its record, which serves as its version.
    pub(crate) record: u64,
    /// Offset of its first byte.
    pub(crate) body: u64,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// The file and what is known of it so far.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    objects: BTreeMap<ObjectKey, Place>,
    end: u64,
}

impl Journal {
    /// Opens the file; with `create` it is made where it is missing.
    pub(crate) fn open(path: &Path, create: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create(create)
            .mode(0o600)
            .open(path)?;
        if create && let Some(folder) = path.parent() {
            // The name of the file must be as durable as what is in it.
            File::open(folder)?.sync_all()?;
        }
        Ok(Self {
            file,
            objects: BTreeMap::new(),
            end: 0,
        })
    }

    /// Reads what was appended since the last time.
    pub(crate) fn catch_up(&mut self) -> io::Result<()> {
        while let Some((op, key, place)) = self.header_at(self.end)? {
            self.end = place.body + place.size;
            if op == PUT {
                self.objects.insert(key, place);
            } else {
                self.objects.remove(&key);
            }
        }
        Ok(())
    }

    pub(crate) fn find(&self, key: &ObjectKey) -> Option<Place> {
        self.objects.get(key).copied()
    }

    pub(crate) fn objects(&self) -> &BTreeMap<ObjectKey, Place> {
        &self.objects
    }

    pub(crate) fn read(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        let mut out = vec![0; length];
        self.file.read_exact_at(&mut out, at)?;
        Ok(out)
    }

    /// Lets `change` decide and append while no other writer does.
    pub(crate) fn locked<T>(
        &mut self,
        change: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        self.file.lock()?;
        let done = self.catch_up().and_then(|()| change(self));
        let unlocked = self.file.unlock();
        let done = done?;
        unlocked.map(|()| done)
    }

    /// Appends an object. Only within [`Journal::locked`].
    pub(crate) fn append(&mut self, key: &ObjectKey, body: &[u8]) -> io::Result<Place> {
        self.write(PUT, key, body)?;
        self.catch_up()?;
        self.find(key)
            .ok_or_else(|| io::Error::other("what was appended cannot be read"))
    }

    /// Appends that an object is gone. Only within [`Journal::locked`].
    pub(crate) fn remove(&mut self, key: &ObjectKey) -> io::Result<()> {
        if self.find(key).is_some() {
            self.write(DELETE, key, &[])?;
        }
        self.catch_up()
    }

    fn write(&self, op: u8, key: &ObjectKey, body: &[u8]) -> io::Result<()> {
        let header = header(op, key, body.len() as u64);
        let start = self.end;
        // Whatever stands behind the last whole record was not finished.
        self.file.set_len(start)?;
        let written = self
            .file
            .write_all_at(body, start + header.len() as u64)
            .and_then(|()| self.file.sync_data())
            .and_then(|()| self.file.write_all_at(&header, start))
            .and_then(|()| self.file.sync_data());
        if written.is_err() {
            // Half a record must not keep the space; if this fails too, the next put cuts it off.
            let _ = self.file.set_len(start);
        }
        written
    }

    /// The header at an offset, if a whole record begins there.
    fn header_at(&self, at: u64) -> io::Result<Option<(u8, ObjectKey, Place)>> {
        let size = self.file.metadata()?.len();
        if at + (FIXED + CHECK) as u64 > size {
            return Ok(None);
        }
        let fixed = self.read(at, FIXED)?;
        let (Some(&op), Some(key_length)) = (fixed.get(4), fixed.get(6..8)) else {
            return Ok(None);
        };
        let key_length = key_length
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let body_length = fixed
            .iter()
            .skip(8)
            .rev()
            .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if !fixed.starts_with(MAGIC) || key_length > ObjectKey::MAX_BYTES {
            return Ok(None);
        }
        let length = FIXED + key_length + CHECK;
        let body = at + length as u64;
        if body.checked_add(body_length).is_none_or(|end| end > size) {
            return Ok(None);
        }
        let key = self.read(at + FIXED as u64, key_length)?;
        let Some(key) = String::from_utf8(key)
            .ok()
            .and_then(|key| ObjectKey::new(key).ok())
        else {
            return Ok(None);
        };
        if self.read(at, length)? != header(op, &key, body_length) {
            return Ok(None);
        }
        Ok(Some((
            op,
            key,
            Place {
                record: at,
                body,
                size: body_length,
            },
        )))
    }
}

fn header(op: u8, key: &ObjectKey, size: u64) -> Vec<u8> {
    let key = key.as_str().as_bytes();
    // A key has at most 512 bytes.
    let length = u16::try_from(key.len()).unwrap_or(u16::MAX);
    let mut out = [
        &MAGIC[..],
        &[op, 0],
        &length.to_le_bytes(),
        &size.to_le_bytes(),
        key,
    ]
    .concat();
    let check = ContentDigest::of(&out);
    out.extend_from_slice(check.0.get(..CHECK).unwrap_or(&[]));
    out
}
