//! Key files: what `--key-file` takes.
//!
//! A key file is text. Lines that begin with `#` and empty lines say nothing; a byte order mark,
//! spaces around a line, CR LF line ends, upper and lower case do not matter, and a long value may
//! be wrapped over several lines. What is left is one of
//!
//! - `BACKSTAY-SECRET-1 <hex>-<checksum>`: 32 secret bytes that open a key-file slot
//!   ([`super::slot`]);
//! - `BACKSTAY-KEYS-1 <hex>-<checksum>`: the keys themselves, the bytes of a key set
//!   ([`super::wire`]); no slot is needed;
//! - one or more lines `AGE-SECRET-KEY-1…`: an age identity file, which opens recipient slots;
//! - a recovery code ([`super::recovery`]): the same as `BACKSTAY-SECRET-1`, made for paper.
//!
//! `<checksum>` is the first 4 bytes of SHA-256 over the word before the space, in upper case, a
//! zero byte, and the value's bytes; in hexadecimal, 8 digits. It finds slips of the hand; it
//! protects nothing. A key file has at most [`MAX_KEY_FILE_BYTES`] bytes.

use zeroize::Zeroizing;

use backup_core::RepoId;

use super::agefile::Identity;
use super::error::KeyError;
use super::recovery;
use super::secret::{Secret, sha256};
use super::set::KeySet;
use super::slot::{Credential, SlotMeta};

/// Longest key file in bytes.
pub const MAX_KEY_FILE_BYTES: usize = 64 << 10;

const SECRET_WORD: &str = "BACKSTAY-SECRET-1";
const KEYS_WORD: &str = "BACKSTAY-KEYS-1";

/// Why a key file cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFileError {
    /// Nothing but comments and empty lines.
    #[error("the key file is empty")]
    Empty,
    /// Something else altogether.
    #[error("this is not a Backstay key file")]
    NotAKeyFile,
    /// The page that is printed for the safe.
    #[error(
        "this is the recovery sheet, not a key file: type the recovery code that it shows, and nothing else, into \
         a file, and give that with --key-file"
    )]
    Sheet,
    /// The value does not have its checksum.
    #[error("the checksum does not match: a character was mistyped{}", in_group(.group))]
    Mistyped {
        /// The group of a recovery code, counted from 1, in which one other character would make
        /// it right.
        group: Option<usize>,
    },
    /// A value that stops too early or goes on too long.
    #[error(
        "the key file has {found} characters where {wanted} belong: some are missing or doubled"
    )]
    Length {
        /// Characters found.
        found: usize,
        /// Characters wanted.
        wanted: usize,
    },
    /// A key file that is itself encrypted.
    #[error("this file is encrypted with age: decrypt it first, with `age -d -i IDENTITY FILE`")]
    Encrypted,
    /// An age identity of a kind other than X25519.
    #[error("only age identities of the form AGE-SECRET-KEY-1… can be used")]
    OtherIdentity,
    /// A key file of a version to come.
    #[error("this key file was written by a newer Backstay, which is needed to read it")]
    Newer,
}

fn in_group(group: &Option<usize>) -> String {
    group.map_or_else(String::new, |group| format!(" (look at group {group})"))
}

/// What a key file holds.
#[derive(Debug, Clone)]
pub enum KeyFile {
    /// The secret that opens a key-file slot.
    Secret(Secret),
    /// The keys themselves.
    Keys(Box<KeySet>),
    /// Age identities that open recipient slots; at least one.
    AgeIdentity(Vec<Identity>),
}

impl KeyFile {
    /// Reads a key file, a recovery code or an age identity file.
    ///
    /// # Errors
    /// [`KeyError::File`] when it is none of them, and those of [`KeySet::decode`].
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        parse(bytes)
    }

    /// What a slot can be opened with, unless the file holds the keys themselves.
    #[must_use]
    pub fn credential(&self) -> Option<Credential<'_>> {
        match self {
            Self::Secret(secret) => Some(Credential::Secret(secret)),
            Self::Keys(_) => None,
            Self::AgeIdentity(identities) => Some(Credential::Identities(identities)),
        }
    }
}

/// The text of a key file that holds the secret of a slot.
#[must_use]
pub fn secret_text(repo: RepoId, secret: &Secret, meta: &SlotMeta) -> Zeroizing<String> {
    let about = about(repo, "opens a key slot of the repository", meta);
    with_value(about, SECRET_WORD, secret.expose())
}

/// The text of a key file that holds the keys themselves.
///
/// # Errors
/// Those of [`KeySet::encode`].
pub fn keys_text(keys: &KeySet, meta: &SlotMeta) -> Result<Zeroizing<String>, KeyError> {
    let kind = format!("holds the {} keys of the repository", keys.role());
    Ok(with_value(
        about(keys.repo(), &kind, meta),
        KEYS_WORD,
        &keys.encode()?,
    ))
}

fn about(repo: RepoId, kind: &str, meta: &SlotMeta) -> String {
    let label: String = meta
        .label
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    let made = i64::try_from(meta.created).ok();
    let made = made.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let made = made.map_or_else(String::new, |time| format!("# made: {time}\n"));
    format!(
        "# Backstay key file: {kind}.\n\
         # repository: {repo}\n\
         # label: {label}\n\
         {made}\
         # Keep it secret, and keep a copy away from the backups.\n"
    )
}

fn with_value(about: String, word: &str, value: &[u8]) -> Zeroizing<String> {
    // Sized beforehand: growing would leave copies of the secret behind.
    let size = about.len() + word.len() + 2 * value.len() + 16;
    let mut text = Zeroizing::new(String::with_capacity(size));
    text.push_str(&about);
    text.push_str(word);
    text.push(' ');
    push_hex(&mut text, value);
    text.push('-');
    push_hex(&mut text, &checksum(word, value));
    text.push('\n');
    text
}

/// The first four bytes of `SHA-256(word ‖ 0 ‖ value)`.
fn checksum(word: &str, value: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = sha256(&[word.as_bytes(), &[0], value]);
    [a, b, c, d]
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
}

pub(super) fn parse(bytes: &[u8]) -> Result<KeyFile, KeyError> {
    if bytes.len() > MAX_KEY_FILE_BYTES {
        return Err(KeyFileError::NotAKeyFile.into());
    }
    let text = std::str::from_utf8(bytes).map_err(|_| {
        // An age file is text only as far as its header goes.
        if is_age_file(bytes) {
            KeyFileError::Encrypted
        } else {
            KeyFileError::NotAKeyFile
        }
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let mut lines = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = lines.next().ok_or(KeyFileError::Empty)?;
    if is_age_file(first.as_bytes()) {
        return Err(KeyFileError::Encrypted.into());
    }
    if starts_with(first, "AGE-SECRET-KEY-") {
        return identities(std::iter::once(first).chain(lines));
    }
    if starts_with(first, recovery::SHEET) {
        return Err(KeyFileError::Sheet.into());
    }
    if starts_with(first, "BACKSTAY-") {
        let (word, start) = first.split_once(char::is_whitespace).unwrap_or((first, ""));
        let mut value = Zeroizing::new(String::with_capacity(text.len()));
        std::iter::once(start)
            .chain(lines)
            .for_each(|line| value.extend(line.chars().filter(|letter| !letter.is_whitespace())));
        return tagged(&word.to_ascii_uppercase(), &value);
    }
    let mut code = Zeroizing::new(String::with_capacity(text.len()));
    std::iter::once(first)
        .chain(lines)
        .for_each(|line| code.push_str(line));
    Ok(KeyFile::Secret(recovery::parse_code(&code)?))
}

/// A value led by a word of ours.
fn tagged(word: &str, value: &str) -> Result<KeyFile, KeyError> {
    match word {
        SECRET_WORD => {
            let bytes = checked_value(word, value, Some(32))?;
            let mut secret = Zeroizing::new([0; 32]);
            secret
                .iter_mut()
                .zip(bytes.iter())
                .for_each(|(to, from)| *to = *from);
            Ok(KeyFile::Secret(Secret::new(*secret)))
        }
        KEYS_WORD => {
            let bytes = checked_value(word, value, None)?;
            Ok(KeyFile::Keys(Box::new(KeySet::decode(&bytes)?)))
        }
        _ if is_newer(word, "BACKSTAY-SECRET-") || is_newer(word, "BACKSTAY-KEYS-") => {
            Err(KeyFileError::Newer.into())
        }
        _ => Err(KeyFileError::NotAKeyFile.into()),
    }
}

fn is_newer(word: &str, stem: &str) -> bool {
    word.strip_prefix(stem)
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The bytes of `<hex>-<checksum>`.
fn checked_value(
    word: &str,
    value: &str,
    bytes: Option<usize>,
) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
    let mistyped = KeyFileError::Mistyped { group: None };
    let (hex, sum) = value.rsplit_once('-').ok_or_else(|| mistyped.clone())?;
    let (found, wanted) = (
        hex.len(),
        bytes.map_or(hex.len().next_multiple_of(2), |n| 2 * n),
    );
    if found != wanted {
        return Err(KeyFileError::Length { found, wanted });
    }
    if sum.len() != 8 {
        return Err(KeyFileError::Length {
            found: sum.len(),
            wanted: 8,
        });
    }
    let bytes = unhex(hex).ok_or_else(|| mistyped.clone())?;
    let sum = unhex(sum).ok_or_else(|| mistyped.clone())?;
    if *sum != checksum(word, &bytes) {
        return Err(mistyped);
    }
    Ok(bytes)
}

fn unhex(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::with_capacity(text.len() / 2));
    for pair in text.as_bytes().chunks(2) {
        let &[high, low] = pair else { return None };
        let high = char::from(high).to_digit(16)?;
        let low = char::from(low).to_digit(16)?;
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    Some(out)
}

fn identities<'a>(lines: impl Iterator<Item = &'a str>) -> Result<KeyFile, KeyError> {
    let read = |line: &str| {
        if !starts_with(line, "AGE-SECRET-KEY-1") {
            return Err(KeyFileError::OtherIdentity);
        }
        // Bech32 has its own checksum; it takes either case, not both mixed.
        let upper = Zeroizing::new(line.to_ascii_uppercase());
        Identity::parse(0, &upper).map_err(|_| KeyFileError::Mistyped { group: None })
    };
    Ok(KeyFile::AgeIdentity(
        lines.map(read).collect::<Result<_, _>>()?,
    ))
}

fn starts_with(line: &str, prefix: &str) -> bool {
    line.get(..prefix.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

fn is_age_file(bytes: &[u8]) -> bool {
    bytes.starts_with(b"age-encryption.org/") || bytes.starts_with(b"-----BEGIN AGE ENCRYPTED")
}

#[cfg(test)]
#[path = "keyfile_tests.rs"]
mod tests;
