//! `SHA256SUMS`: written as `sha256sum` writes it, checked as `sha256sum -c` checks it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_integrity::digest::{ContentDigest, ContentHasher, parse_sum_line, write_sum_line};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::error::{ExportError, Result, at};

/// The name of the file.
pub const NAME: &str = "SHA256SUMS";
/// Longest line that is read: the longest path, each byte escaped, and the digest.
const MOST_BYTES: u64 = 256 << 10;

/// Writes the file.
#[derive(Debug)]
pub(crate) struct SumsWriter {
    path: PathBuf,
    file: BufWriter<File>,
    line: Vec<u8>,
}

impl SumsWriter {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let path = folder.join(NAME);
        let file = BufWriter::new(crate::place::new_file(&path)?);
        Ok(Self {
            path,
            file,
            line: Vec::new(),
        })
    }

    /// Adds a line, and gives it.
    pub(crate) fn add(&mut self, digest: &ContentDigest, name: &[u8]) -> Result<&[u8]> {
        self.line.clear();
        write_sum_line(&mut self.line, digest, name);
        self.file
            .write_all(&self.line)
            .map_err(at("write", &self.path))?;
        Ok(&self.line)
    }

    pub(crate) fn finish(mut self) -> Result<()> {
        let path = &self.path;
        self.file.flush().map_err(at("write", path))?;
        self.file.get_ref().sync_all().map_err(at("write", path))
    }
}

/// The digest of all that a reader yields.
pub(crate) fn digest_of(mut reader: impl Read) -> std::io::Result<(ContentDigest, u64)> {
    let mut hasher = ContentHasher::new();
    let bytes = std::io::copy(&mut reader, &mut hasher)?;
    Ok((hasher.finish(), bytes))
}

/// Opens a file below a folder; no link is followed on the way, none leads out.
pub(crate) fn open_below(folder: impl std::os::fd::AsFd, name: &[u8]) -> std::io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(openat2(folder, name, flags, Mode::empty(), how)?);
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// Checks every file that `SHA256SUMS` of a folder names, and that there are no others in it.
/// Blocks for as long as it takes to read them; `stop` is asked between files.
pub(crate) fn check(folder: &Path, stop: &dyn Fn() -> bool) -> Result<()> {
    let path = folder.join(NAME);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = openat2(CWD, folder, flags, Mode::empty(), ResolveFlags::empty())
        .map_err(|error| at("open", folder)(error.into()))?;
    let wrong = |why: String| ExportError::NotWhole {
        path: folder.to_path_buf(),
        why,
    };
    let mut lines = BufReader::new(open_below(&top, NAME.as_bytes()).map_err(at("read", &path))?);
    let (mut line, mut named, mut has_metadata) = (Vec::new(), 0u64, false);
    loop {
        line.clear();
        let read = (&mut lines)
            .take(MOST_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(at("read", &path))?;
        if read == 0 {
            break;
        }
        if stop() {
            return Err(backup_engine::EngineError::Cancelled.into());
        }
        let Some((digest, name)) = parse_sum_line(&line) else {
            return Err(wrong(format!("{NAME} has a line that is none")));
        };
        named += 1;
        has_metadata |= name == crate::metadata::NAME.as_bytes();
        let shown = String::from_utf8_lossy(&name).into_owned();
        let found = open_below(&top, &name).and_then(digest_of);
        match found {
            Ok((found, _)) if found == digest => {}
            Ok(_) => return Err(wrong(format!("{shown} does not have its SHA-256"))),
            Err(error) => return Err(wrong(format!("{shown} cannot be read: {error}"))),
        }
    }
    if !has_metadata {
        return Err(wrong(format!(
            "{NAME} does not name {}",
            crate::metadata::NAME
        )));
    }
    // The file of sums does not name itself.
    let there = count_files(folder)?.saturating_sub(1);
    if there != named {
        return Err(wrong(format!(
            "{NAME} names {named} files, and there are {there}"
        )));
    }
    Ok(())
}

/// Counts the regular files in a folder and below; each name counts.
fn count_files(folder: &Path) -> Result<u64> {
    let (mut open, mut count) = (vec![folder.to_path_buf()], 0);
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            let entry = entry.map_err(at("list", &folder))?;
            let kind = entry.file_type().map_err(at("look at", &folder))?;
            if kind.is_dir() {
                open.push(entry.path());
            } else if kind.is_file() {
                count += 1;
            }
        }
    }
    Ok(count)
}

/// A path as the bytes of a line.
pub(crate) fn name_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
