//! The asymmetric half: `age` X25519 identities and recipients, and small age files in memory.
//!
//! An age file is written as <https://age-encryption.org/v1> states it, in its binary form, with
//! X25519 stanzas only. The library's own types stay inside this module.

use std::fmt;
use std::io::{Read, Write};
use std::str::FromStr;

use age::secrecy::ExposeSecret;
use age::{DecryptError, x25519};
use zeroize::Zeroizing;

use super::error::KeyError;

/// The first bytes of every age file.
pub(crate) const AGE_MAGIC: &[u8] = b"age-encryption.org/v1\n";

/// Longest header of an age file that is looked at: room for about 140 recipients. The header's
/// parser starts over at each line, so an endless one must not get to it.
pub(crate) const MAX_AGE_HEADER: usize = 16 << 10;

/// A secret X25519 key that opens what was wrapped to its [`Recipient`].
#[derive(Clone)]
pub struct Identity {
    epoch: u32,
    inner: x25519::Identity,
}

impl Identity {
    /// A fresh identity.
    #[must_use]
    pub fn generate(epoch: u32) -> Self {
        Self {
            epoch,
            inner: x25519::Identity::generate(),
        }
    }

    /// Reads an identity in age's own spelling, `AGE-SECRET-KEY-1…`.
    ///
    /// # Errors
    /// [`KeyError::BadIdentity`] when the text is none.
    pub fn parse(epoch: u32, text: &str) -> Result<Self, KeyError> {
        let inner = x25519::Identity::from_str(text.trim()).map_err(|_| KeyError::BadIdentity)?;
        Ok(Self { epoch, inner })
    }

    /// The generation of keys that it belongs to; 0 is the first.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Its public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient {
            epoch: self.epoch,
            inner: self.inner.to_public(),
        }
    }

    /// The secret in age's own spelling, `AGE-SECRET-KEY-1…`.
    #[must_use]
    pub fn secret_text(&self) -> Zeroizing<String> {
        Zeroizing::new(self.inner.to_string().expose_secret().to_owned())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(epoch {}, …)", self.epoch)
    }
}

/// A public X25519 key.
#[derive(Clone)]
pub struct Recipient {
    epoch: u32,
    inner: x25519::Recipient,
}

impl Recipient {
    /// Reads a recipient in age's own spelling, `age1…`.
    ///
    /// # Errors
    /// [`KeyError::BadRecipient`] when the text is none.
    pub fn parse(epoch: u32, text: &str) -> Result<Self, KeyError> {
        let inner = x25519::Recipient::from_str(text.trim())
            .map_err(|_| KeyError::BadRecipient(text.chars().take(80).collect()))?;
        Ok(Self { epoch, inner })
    }

    /// The generation of keys that it belongs to.
    #[must_use]
    pub const fn epoch(&self) -> u32 {
        self.epoch
    }
}

/// Writes the recipient in age's own spelling, `age1…`.
impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.inner)
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Recipient(epoch {}, {})", self.epoch, self.inner)
    }
}

impl PartialEq for Recipient {
    fn eq(&self, other: &Self) -> bool {
        self.epoch == other.epoch && self.to_string() == other.to_string()
    }
}

impl Eq for Recipient {}

/// An age file of `plain` that each of the recipients can open.
pub(crate) fn encrypt(plain: &[u8], recipients: &[Recipient]) -> Result<Vec<u8>, KeyError> {
    if recipients.is_empty() {
        return Err(KeyError::NoRecipients);
    }
    let failed = |_| KeyError::Crypto("encrypt with age");
    let each = recipients
        .iter()
        .map(|recipient| &recipient.inner as &dyn age::Recipient);
    let encryptor =
        age::Encryptor::with_recipients(each).map_err(|_| KeyError::Crypto("encrypt with age"))?;
    let mut out = Vec::with_capacity(plain.len() + 256 + 128 * recipients.len());
    let mut writer = encryptor.wrap_output(&mut out).map_err(failed)?;
    writer.write_all(plain).map_err(failed)?;
    writer.finish().map_err(failed)?;
    if header_length(&out).is_none_or(|length| length > MAX_AGE_HEADER) {
        return Err(KeyError::TooLarge {
            what: "age header",
            limit: MAX_AGE_HEADER,
        });
    }
    Ok(out)
}

/// What the age file holds, at most `limit` bytes of it.
pub(crate) fn decrypt(
    what: &'static str,
    file: &[u8],
    identities: &[Identity],
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if header_length(file).is_none_or(|length| length > MAX_AGE_HEADER) {
        return Err(KeyError::damaged(
            what,
            "its age header is not whole or much too long",
        ));
    }
    let refused = |error: DecryptError| match error {
        DecryptError::NoMatchingKeys | DecryptError::KeyDecryptionFailed => KeyError::WrongKey,
        DecryptError::UnknownFormat => KeyError::Newer { what, version: 2 },
        _ => KeyError::damaged(what, "it is not a sound age file"),
    };
    let decryptor = age::Decryptor::new_buffered(file).map_err(refused)?;
    if decryptor.is_scrypt() {
        return Err(KeyError::damaged(
            what,
            "it is encrypted with an age passphrase",
        ));
    }
    let each = identities
        .iter()
        .rev()
        .map(|identity| &identity.inner as &dyn age::Identity);
    let reader = decryptor.decrypt(each).map_err(refused)?;
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    // The plain bytes are fewer than the file's: no growth, so no copies left behind.
    let mut plain = Zeroizing::new(Vec::with_capacity(file.len().min(limit) + 32));
    reader
        .take(bound)
        .read_to_end(&mut plain)
        .map_err(|_| KeyError::damaged(what, "its content was changed or cut short"))?;
    if plain.len() > limit {
        return Err(KeyError::damaged(what, "its content is too long"));
    }
    Ok(plain)
}

/// Bytes up to the line that ends the header (`--- <mac>`), if there is one.
fn header_length(file: &[u8]) -> Option<usize> {
    let window = file.get(..file.len().min(MAX_AGE_HEADER + 5))?;
    window.windows(5).position(|bytes| bytes == b"\n--- ")
}
