//! `SHA256SUMS`: written as `sha256sum` writes it, checked as `sha256sum -c` checks it.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use backup_integrity::digest::{ContentDigest, parse_sum_line, write_sum_line};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};

use crate::error::{ExportError, Result, at};
use crate::stop::{Stop, digest_of, is_stopped};

/// The name of the file.
pub const NAME: &str = "SHA256SUMS";
/// Longest line that is read: the longest path, each byte escaped, and the digest.
const MOST_BYTES: u64 = 256 << 10;
/// Names that are compared at a time.
const MOST_NAMES: usize = 1 << 17;
/// What something is that is neither a file nor a folder, where an export has only these.
pub(crate) const NO_PART: &str = "a link or a device, which no export has there";

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

/// Opens a folder.
pub(crate) fn open_folder(folder: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(
        CWD,
        folder,
        flags,
        Mode::empty(),
        ResolveFlags::empty(),
    )?)
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

/// Hands each line of a file of sums over.
pub(crate) fn each_line(
    mut lines: impl BufRead,
    folder: &Path,
    take: &mut dyn FnMut(ContentDigest, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut line = Vec::new();
    let mut has_metadata = false;
    let wrong = |why: String| ExportError::NotWhole {
        path: folder.to_path_buf(),
        why,
    };
    loop {
        line.clear();
        let read = (&mut lines)
            .take(MOST_BYTES)
            .read_until(b'\n', &mut line)
            .map_err(at("read", folder))?;
        if read == 0 {
            break;
        }
        let Some((digest, name)) = parse_sum_line(&line) else {
            return Err(wrong(format!("{NAME} has a line that is none")));
        };
        has_metadata |= name == crate::metadata::NAME.as_bytes();
        take(digest, &name)?;
    }
    if has_metadata {
        return Ok(());
    }
    Err(wrong(format!(
        "{NAME} does not name {}",
        crate::metadata::NAME
    )))
}

/// Checks every file that `SHA256SUMS` of a folder names, and that there are no others in it.
/// Blocks for as long as it takes to read them.
pub(crate) fn check(folder: &Path, stop: Stop<'_>) -> Result<()> {
    let path = folder.join(NAME);
    let top = open_folder(folder).map_err(at("open", folder))?;
    let wrong = |why: String| ExportError::NotWhole {
        path: folder.to_path_buf(),
        why,
    };
    let lines = || {
        let file = open_below(&top, NAME.as_bytes()).map_err(at("read", &path))?;
        Ok::<_, ExportError>(BufReader::new(file))
    };
    each_line(lines()?, folder, &mut |digest, name| {
        let shown = String::from_utf8_lossy(name).into_owned();
        let found = open_below(&top, name).and_then(|file| digest_of(file, stop));
        match found {
            Ok((found, _)) if found == digest => Ok(()),
            Ok(_) => Err(wrong(format!("{shown} does not have its SHA-256"))),
            Err(error) if is_stopped(&error) => Err(at("read", folder)(error)),
            Err(error) => Err(wrong(format!("{shown} cannot be read: {error}"))),
        }
    })?;
    // What is named was there. Names are compared some at a time, so that no number of them takes more memory.
    each_some_files(folder, stop, &mut |mut unnamed| {
        unnamed.remove(NAME.as_bytes());
        each_line(lines()?, folder, &mut |_, name| {
            if !unnamed.remove(name) {
                unnamed.remove(&plain(name));
            }
            Ok(())
        })?;
        match unnamed.into_iter().next() {
            None => Ok(()),
            Some(name) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                Err(wrong(format!(
                    "{name} is there, and {NAME} does not name it"
                )))
            }
        }
    })
}

/// A path without what does not count in it.
fn plain(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts
        .filter(|part| !part.is_empty() && *part != b".")
        .collect();
    parts.join(&b'/')
}

/// Hands the names of regular files in a folder and below over, a bounded number at a time.
fn each_some_files(
    top: &Path,
    stop: Stop<'_>,
    take: &mut dyn FnMut(HashSet<Vec<u8>>) -> Result<()>,
) -> Result<()> {
    let (mut open, mut some) = (vec![(top.to_path_buf(), 0)], HashSet::new());
    while let Some((folder, depth)) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(at("list", &folder))? {
            if stop() {
                return Err(backup_engine::EngineError::Cancelled.into());
            }
            let entry = entry.map_err(at("list", &folder))?;
            let (path, kind) = (entry.path(), entry.file_type());
            let kind = kind.map_err(at("look at", &path))?;
            if kind.is_dir() {
                open.push((path, depth + 1));
            } else if kind.is_file() {
                some.insert(name_of(path.strip_prefix(top).unwrap_or(&path)).to_vec());
                if some.len() == MOST_NAMES {
                    take(std::mem::take(&mut some))?;
                }
            } else if depth < 2 {
                // Further below it is content.
                return Err(ExportError::NotWhole {
                    path,
                    why: format!("it is {NO_PART}"),
                });
            }
        }
    }
    take(some)
}

/// A path as the bytes of a line.
pub(crate) fn name_of(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn export(lines: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("data/files/deep")).unwrap();
        for name in ["metadata.json", "data/files/a", "data/files/deep/b"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::write(folder.path().join(NAME), lines).unwrap();
        folder
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn lines(names: &[&str]) -> String {
        names
            .iter()
            .map(|name| format!("{EMPTY}  {name}\n"))
            .collect()
    }

    fn checked(folder: &Path) -> String {
        match check(folder, &|| false) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    const NAMES: [&str; 3] = ["data/files/a", "data/files/deep/b", "metadata.json"];

    #[test]
    fn names_are_compared_and_not_counted() {
        assert_eq!(checked(export(&lines(&NAMES)).path()), "");
        let other = ["./data/files/a", "data//files/deep/b", "metadata.json"];
        assert_eq!(checked(export(&lines(&other)).path()), "");
        // As many lines as there are files.
        let twice = ["data/files/a", "data/files/a", "metadata.json"];
        let said = checked(export(&lines(&twice)).path());
        assert!(said.contains("data/files/deep/b is there"), "{said}");
        let said = checked(export(&lines(&NAMES[..2])).path());
        assert!(said.contains("does not name metadata.json"), "{said}");
    }

    #[test]
    fn no_link_takes_the_place_of_what_an_export_has() {
        // In a tree that was saved there may be links.
        let folder = export(&lines(&NAMES));
        symlink("a", folder.path().join("data/files/link")).unwrap();
        assert_eq!(checked(folder.path()), "");
        symlink("files", folder.path().join("data/other")).unwrap();
        assert!(checked(folder.path()).contains("a link"));
        fs::remove_file(folder.path().join("data/other")).unwrap();
        fs::rename(folder.path().join("data"), folder.path().join("moved")).unwrap();
        symlink("moved", folder.path().join("data")).unwrap();
        assert_ne!(checked(folder.path()), "");
    }

    #[test]
    fn a_check_is_stopped_before_its_end() {
        let folder = export(&lines(&NAMES));
        let error = check(folder.path(), &|| true).unwrap_err();
        assert!(error.to_string().contains("cancelled"), "{error}");
    }
}
