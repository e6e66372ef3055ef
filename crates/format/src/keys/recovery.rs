//! The recovery code: the 32 secret bytes of a key-file slot, spelled for paper and for a keyboard.
//!
//! 35 bytes, the secret and then the first 3 bytes of SHA-256 over `BACKSTAY-RECOVERY-1`, a zero
//! byte and the secret, are read as one number, most significant bit first, and spelled as 56
//! characters of Crockford's base 32 (`0123456789ABCDEFGHJKMNPQRSTVWXYZ`,
//! <https://www.crockford.com/base32.html>), in 14 groups of 4 joined by `-`. Reading takes either
//! case, leaves out dashes and white space, and takes O for 0, I and L for 1.

use backup_core::RepoId;
use zeroize::{Zeroize, Zeroizing};

use super::keyfile::KeyFileError;
use super::secret::{Secret, sha256};

const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
const DIGITS: usize = 56;
const GROUP: usize = 4;
/// What a sheet begins with.
pub(super) const SHEET: &str = "BACKSTAY RECOVERY SHEET";
/// Lengths at which a text of the right letters is taken for a code that was typed badly.
const NEARLY: std::ops::RangeInclusive<usize> = 40..=72;

/// The code that spells `secret`.
#[must_use]
pub fn recovery_code(secret: &Secret) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0u8; 35]);
    bytes
        .iter_mut()
        .zip(secret.expose().iter().chain(&checksum(secret)))
        .for_each(|(to, from)| *to = *from);
    let mut code = Zeroizing::new(String::with_capacity(DIGITS + DIGITS / GROUP));
    let mut count = 0;
    // Five bytes are eight digits.
    for block in bytes.chunks_exact(5) {
        let number = block
            .iter()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        for place in (0..8).rev() {
            if count > 0 && count % GROUP == 0 {
                code.push('-');
            }
            let digit = usize::try_from(number >> (5 * place) & 31).unwrap_or(0);
            code.push(char::from(ALPHABET[digit]));
            count += 1;
        }
    }
    code
}

/// Reads a code as people type it.
///
/// # Errors
/// [`KeyFileError::NotAKeyFile`] when the text is nothing like a code, [`KeyFileError::Length`] or
/// [`KeyFileError::Mistyped`] when it is nearly one.
pub fn parse_code(text: &str) -> Result<Secret, KeyFileError> {
    let mut digits = Zeroizing::new(Vec::with_capacity(text.len()));
    let ignored = |letter: &char| letter.is_whitespace() || matches!(letter, '-' | '–' | '—');
    for letter in text.chars().filter(|letter| !ignored(letter)) {
        digits.push(digit_of(letter).ok_or(KeyFileError::NotAKeyFile)?);
    }
    match digits.len() {
        DIGITS => {}
        found if NEARLY.contains(&found) => {
            return Err(KeyFileError::Length {
                found,
                wanted: DIGITS,
            });
        }
        _ => return Err(KeyFileError::NotAKeyFile),
    }
    secret_of(&digits).ok_or_else(|| KeyFileError::Mistyped {
        group: likely_group(&mut digits),
    })
}

fn digit_of(letter: char) -> Option<u8> {
    let letter = match letter.to_ascii_uppercase() {
        'O' => '0',
        'I' | 'L' => '1',
        other => other,
    };
    let position = ALPHABET
        .iter()
        .position(|&known| char::from(known) == letter)?;
    u8::try_from(position).ok()
}

/// The secret that the digits spell, if their checksum is right.
fn secret_of(digits: &[u8]) -> Option<Secret> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(40));
    for block in digits.chunks(8) {
        let mut number = block
            .iter()
            .fold(0u64, |number, digit| number << 5 | u64::from(*digit));
        bytes.extend_from_slice(number.to_be_bytes().get(3..)?);
        number.zeroize();
    }
    let (secret, rest) = bytes.split_first_chunk::<32>()?;
    let secret = Secret::new(*secret);
    (rest == checksum(&secret)).then_some(secret)
}

/// The group in which one other character, or two neighbours exchanged, would make the code right.
/// It is named, not corrected: there is one chance in ten thousand that it is the wrong one.
fn likely_group(digits: &mut [u8]) -> Option<usize> {
    for place in 0..digits.len() {
        let group = Some(place / GROUP + 1);
        let was = *digits.get(place)?;
        for other in (0..32).filter(|other| *other != was) {
            *digits.get_mut(place)? = other;
            if secret_of(digits).is_some() {
                return group;
            }
        }
        *digits.get_mut(place)? = was;
        if place + 1 < digits.len() {
            digits.swap(place, place + 1);
            if secret_of(digits).is_some() {
                return group;
            }
            digits.swap(place, place + 1);
        }
    }
    None
}

/// The first three bytes of `SHA-256("BACKSTAY-RECOVERY-1" ‖ 0 ‖ secret)`.
fn checksum(secret: &Secret) -> [u8; 3] {
    let [a, b, c, ..] = sha256(&[b"BACKSTAY-RECOVERY-1", &[0], secret.expose()]);
    [a, b, c]
}

/// The sheet that is printed when a repository is made: what to do when everything else is lost.
#[must_use]
pub fn recovery_sheet(repo: RepoId, location: &str, code: &str) -> Zeroizing<String> {
    let place = shell_word(location);
    let shown: String = location
        .chars()
        .filter(|letter| !letter.is_control())
        .collect();
    let groups: Vec<&str> = code.split('-').collect();
    let mut lines = Zeroizing::new(String::with_capacity(2 * code.len()));
    for row in groups.chunks(7) {
        lines.push_str("    ");
        for (place, group) in row.iter().enumerate() {
            lines.push_str(if place == 0 { "" } else { "-" });
            lines.push_str(group);
        }
        lines.push('\n');
    }
    Zeroizing::new(format!(
        "{SHEET}\n\
         =======================\n\
         \n\
         Repository:  {repo}\n\
         Location:    {shown}\n\
         \n\
         With this code the backups can be read when every other key is lost.\n\
         Without any key NOBODY can read them; there is no other way in.\n\
         Whoever has this code and the repository can read everything.\n\
         Print this page and keep it in a safe, away from the backups and from the\n\
         machines that are backed up.\n\
         \n\
         Recovery code:\n\
         \n\
         {lines}\
         \n\
         HOW TO GET YOUR DATA BACK\n\
         \n\
         1. Install Backstay on any machine that can reach the location above.\n\
         2. Type the code into a file, for example recovery.txt. Capitals, dashes, spaces and\n\
         \x20  line ends do not matter; O is read as 0, I and L are read as 1.\n\
         3. See what there is:\n\
         \n\
         \x20      restore list --repo {place} --key-file recovery.txt\n\
         \n\
         4. Get the newest snapshot back into an empty folder:\n\
         \n\
         \x20      restore run latest --repo {place} --key-file recovery.txt --to ./restored\n\
         \n\
         \x20  For an older one, put its id from the list in the place of `latest`.\n\
         5. Delete recovery.txt when you are done.\n\
         \n\
         If a message says that a character was mistyped, compare the file with this page,\n\
         group by group. If a message says that the key does not open the repository,\n\
         this page belongs to another one: compare the repository's id above.\n\
         \n\
         TO MAKE A NEW KEY AFTERWARDS\n\
         \n\
         \x20      snapshot key add --repo {place} --key-file recovery.txt \\\n\
         \x20          --new-key-file new.key\n",
        lines = lines.as_str(),
    ))
}

/// The text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-:@+%,=".contains(letter);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}
