//! Key files and passphrases: where they lie, and how they are read and written.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use backstay::format::keys::KeyFile;
use backstay::integrity::digest::ContentDigest;
use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::surroundings;
use crate::text;

/// Longest passphrase in bytes.
const MAX_PASSPHRASE: u64 = 64 << 10;
/// Longest key file in bytes.
const MAX_KEY_FILE: u64 = 64 << 10;

fn no_secret(what: String, hint: &str) -> Failure {
    Failure::new(Exit::NoSecrets, what, hint)
}

fn read_secret(what: &str, path: &Path, limit: u64) -> Outcome<Zeroizing<Vec<u8>>> {
    let shown = text::path(path);
    let failed = |error: std::io::Error| {
        no_secret(
            format!("read the {what} {shown}: {error}"),
            "check the path and its permissions",
        )
    };
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > limit {
        let why = format!("the {what} {shown} is too long");
        return Err(no_secret(why, "check that it is the right file"));
    }
    Ok(bytes)
}

/// The passphrase in a file: its first line. The second value is a warning about its mode.
///
/// # Errors
/// [`Exit::NoSecrets`].
pub fn read_passphrase(path: &Path) -> Outcome<(Zeroizing<Vec<u8>>, Option<String>)> {
    let mut bytes = read_secret("passphrase file", path, MAX_PASSPHRASE)?;
    let end = bytes
        .iter()
        .position(|byte| *byte == b'\n')
        .unwrap_or(bytes.len());
    bytes.truncate(end);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    if bytes.is_empty() {
        let why = format!("the passphrase file {} is empty", text::path(path));
        return Err(no_secret(why, "write the passphrase into its first line"));
    }
    Ok((bytes, readable_by_others("passphrase file", path)))
}

/// What is to be said of a secret file that others may read.
fn readable_by_others(what: &str, path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    let mode = meta.permissions().mode() & 0o777;
    (meta.is_file() && mode & 0o077 != 0).then(|| {
        let shown = text::path(path);
        format!("the {what} {shown} has mode {mode:04o}: others may read it; `chmod 600` it")
    })
}

/// Reads a key file; the second value is a warning about its mode.
///
/// # Errors
/// [`Exit::NoSecrets`].
pub fn read_key_file(path: &Path) -> Outcome<(KeyFile, Option<String>)> {
    let bytes = read_secret("key file", path, MAX_KEY_FILE)?;
    let shown = text::path(path);
    let key = KeyFile::parse(&bytes).map_err(|error| {
        let hint = "give the key file that `snapshot init` made, or the recovery code in a file";
        no_secret(format!("{shown}: {error}"), hint)
    })?;
    Ok((key, readable_by_others("key file", path)))
}

/// Where the key of a repository lies if it is not named, by the path of its folder or its URL.
///
/// # Errors
/// [`Exit::NoSecrets`] where there is no folder for it.
pub fn default_key_file(location: &str) -> Outcome<PathBuf> {
    let folder = surroundings::config_folder().ok_or_else(|| {
        no_secret(
            "there is no home folder to keep a key file in".into(),
            "name one with --key-file",
        )
    })?;
    let place = location.trim_end_matches('/');
    let mut name: String = place
        .trim_start_matches('/')
        .chars()
        .map(|letter| {
            if letter.is_ascii_alphanumeric() || "-_.".contains(letter) {
                letter
            } else {
                '-'
            }
        })
        .take(80)
        .collect();
    let digest = ContentDigest::of(place.as_bytes()).to_string();
    name.push('-');
    name.extend(digest.chars().take(8));
    Ok(folder.join("keys").join(format!("{name}.key")))
}

/// Writes a new secret file, readable by its owner alone, and sees it safely on the disk. It is
/// there whole or not at all, and locked for as long as the file that is returned is open: see
/// [`crate::unfinished`].
///
/// # Errors
/// [`Exit::Conflict`] when there is one, and what the system says.
pub fn write_new(path: &Path, text: &str) -> Outcome<fs::File> {
    let failed = |error: std::io::Error| Failure::file("write", path, &error);
    let whole = surroundings::absolute(path);
    let folder = whole.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed)?;
    let mut file = tempfile::Builder::new()
        .prefix(".backstay-")
        .permissions(fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(failed)?;
    // Where files cannot be locked, whoever comes second does not wait and says what it finds.
    let _ = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
    let file = file
        .persist_noclobber(&whole)
        .map_err(|error| failed(error.error))?;
    fs::File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(failed)?;
    Ok(file)
}

/// What an existing key file says of itself, for the error that it is not overwritten.
#[must_use]
pub fn describe_key_file(path: &Path) -> String {
    let Ok(bytes) = read_secret("key file", path, MAX_KEY_FILE) else {
        return "it cannot be read".into();
    };
    let text = String::from_utf8_lossy(&bytes);
    let repo = text
        .lines()
        .find_map(|line| line.strip_prefix("# repository: "));
    match (KeyFile::parse(&bytes), repo) {
        (Ok(KeyFile::Keys(keys)), _) => format!("it holds keys of repository {}", keys.repo()),
        (Ok(_), Some(repo)) => format!("it opens repository {}", text::escape(repo.as_bytes())),
        (Ok(_), None) => "it holds a key".into(),
        (Err(_), _) => "it is no key file".into(),
    }
}
