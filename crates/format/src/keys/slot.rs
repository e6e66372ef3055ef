//! Key slots: a key set locked by a passphrase, by a key file or to `age` recipients. One object
//! `keys/<SHA-256 of its bytes, 64 hexadecimal digits>` each; a repository has any number of them.
//!
//! **Passphrase and key-file slots**
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `BKSYSLOT` |
//! | 8 | 2 | version, little endian: 1 |
//! | 10 | 2 | length of the header, little endian, n |
//! | 12 | n | header, one postcard value (see below) |
//! | 12 + n | to the end | AES-256-GCM of the key set's bytes, then its 16-byte tag |
//!
//! Header: repository id `[u8; 16]`, kind `u8` (1 passphrase, 2 key file), role `u8`, label (text
//! of at most 256 bytes without control characters), time of making in seconds since 1970 `u64`,
//! argon2 memory in KiB `u32`, passes `u32`, lanes `u32` (all three 0 in a key-file slot), salt
//! `[u8; 16]`, nonce `[u8; 12]`, extra (see [`crate::extra`]); integers wider than a byte are varints.
//!
//! The associated data of the encryption are all bytes before the ciphertext, so nothing in the
//! header can be changed unnoticed. The key is
//! - of a passphrase slot: `argon2id(passphrase, salt, m, t, p)`, 32 bytes, over the passphrase's
//!   bytes as given (whoever reads it from a file or a terminal takes the line end off);
//! - of a key-file slot: `HKDF-SHA256(salt = salt, secret, "backstay v1 slot")`.
//!
//! **Recipient slots** are plain binary age files, which begin with `age-encryption.org/v1`. They
//! hold key-file text of the kind `BACKSTAY-KEYS-1` (see [`super::keyfile`]), so that
//! `age -d -i me.txt SLOT > key` gives a file that `--key-file` takes. Repository, role and label
//! stand inside only. Anyone can write to a recipient: a tier could add a slot with keys of its
//! own. Such keys do not verify the repository's `config/0`, and
//! [`KeySet::fingerprint`](super::KeySet::fingerprint) tells whether a whole repository was swapped.
//!
//! The name under which the object lies ([`crate::layout::slot`]) tells a damaged slot from a wrong
//! passphrase: whoever reads one compares them first.
//!
//! An object of more than [`MAX_SLOT_BYTES`] bytes is not a slot.

use std::fmt;

use backup_core::RepoId;
use serde::{Deserialize, Serialize};

use super::agefile::{self, AGE_MAGIC, Identity, Recipient};
use super::error::KeyError;
use super::kdf::Argon2Params;
use super::keyfile::{self, KeyFile};
use super::role::Role;
use super::secret::{Secret, derive, open, random, seal};
use super::set::KeySet;
use super::wire::MAX_SET_BYTES;
use crate::extra::Extra;

/// Longest slot in bytes.
pub const MAX_SLOT_BYTES: usize = 64 << 10;

const MAGIC: &[u8; 8] = b"BKSYSLOT";
const VERSION: u16 = 1;
const PREFIX: usize = 12;
const MAX_LABEL: usize = 256;
const WHAT: &str = "key slot";
/// The name in the header's extra under which the newest recipient stands.
const NEWEST: &str = "newest";

/// What opens a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SlotKind {
    /// A passphrase. Code 1.
    Passphrase,
    /// The secret of a key file or a recovery code. Code 2.
    KeyFile,
    /// An age identity.
    AgeRecipient,
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passphrase => "a passphrase",
            Self::KeyFile => "a key file or recovery code",
            Self::AgeRecipient => "an age identity",
        })
    }
}

/// What a new slot says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMeta {
    /// For people: whose it is. At most 256 bytes, no control characters. Whoever lists the tier
    /// can read it, unless the slot is to a recipient.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
}

/// What can be known of a slot that is not to a recipient without opening it. Nothing of it is
/// certain until the slot has been opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotInfo {
    /// The repository.
    pub repo: RepoId,
    /// The role of the keys inside.
    pub role: Role,
    /// For people: whose it is.
    pub label: String,
    /// When it was made, in seconds since 1970.
    pub created: u64,
    /// The cost of a guess at the passphrase, in a passphrase slot.
    pub argon2: Option<Argon2Params>,
    /// The newest recipient whose identity is inside, as age spells it, if that is not of the first
    /// generation.
    pub newest: Option<String>,
}

/// What a slot can be opened with.
#[derive(Debug, Clone, Copy)]
pub enum Credential<'a> {
    /// The bytes of a passphrase, without a line end.
    Passphrase(&'a [u8]),
    /// A key file's secret, or the secret spelled by a recovery code.
    Secret(&'a Secret),
    /// Age identities.
    Identities(&'a [Identity]),
}

impl Credential<'_> {
    /// The kind of slot that it opens.
    #[must_use]
    pub const fn opens(&self) -> SlotKind {
        match self {
            Self::Passphrase(_) => SlotKind::Passphrase,
            Self::Secret(_) => SlotKind::KeyFile,
            Self::Identities(_) => SlotKind::AgeRecipient,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    repo: [u8; 16],
    kind: u8,
    role: u8,
    label: String,
    created: u64,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; 16],
    nonce: [u8; 12],
    extra: Extra,
}

/// A slot as read from a repository, still locked.
#[derive(Clone)]
pub struct Slot {
    bytes: Vec<u8>,
    /// Of a slot that is not an age file.
    locked: Option<Locked>,
}

#[derive(Clone)]
struct Locked {
    info: SlotInfo,
    salt: [u8; 16],
    nonce: [u8; 12],
    body: usize,
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot")
            .field("kind", &self.kind())
            .field("info", &self.info())
            .finish()
    }
}

impl Slot {
    /// Reads a slot without opening it.
    ///
    /// # Errors
    /// [`KeyError::Damaged`] when it is none, [`KeyError::Newer`] for a version or kind to come,
    /// [`KeyError::TooCostly`] when it asks for more work than is accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, KeyError> {
        let damaged = |detail| KeyError::damaged(WHAT, detail);
        if bytes.len() > MAX_SLOT_BYTES {
            return Err(damaged("it is too long"));
        }
        if bytes.starts_with(AGE_MAGIC) {
            return Ok(Self {
                bytes: bytes.to_vec(),
                locked: None,
            });
        }
        let rest = bytes
            .strip_prefix(MAGIC)
            .ok_or(damaged("it does not begin like one"))?;
        let short = || damaged("it is cut short");
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(KeyError::Newer {
                what: WHAT,
                version: version.into(),
            });
        }
        let (length, rest) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let length = usize::from(u16::from_le_bytes(*length));
        let header = rest.get(..length).ok_or_else(short)?;
        let (header, after) = postcard::take_from_bytes::<Header>(header)
            .map_err(|_| damaged("its header cannot be read"))?;
        if !after.is_empty() {
            return Err(damaged("its header is longer than its fields"));
        }
        let info = header.info()?;
        let locked = Locked {
            info,
            salt: header.salt,
            nonce: header.nonce,
            body: PREFIX + length,
        };
        Ok(Self {
            bytes: bytes.to_vec(),
            locked: Some(locked),
        })
    }

    /// What opens it.
    #[must_use]
    pub const fn kind(&self) -> SlotKind {
        match &self.locked {
            None => SlotKind::AgeRecipient,
            Some(Locked {
                info: SlotInfo {
                    argon2: Some(_), ..
                },
                ..
            }) => SlotKind::Passphrase,
            Some(_) => SlotKind::KeyFile,
        }
    }

    /// What it says of itself; nothing when it is to a recipient.
    #[must_use]
    pub fn info(&self) -> Option<&SlotInfo> {
        self.locked.as_ref().map(|locked| &locked.info)
    }

    /// Opens the slot with whatever is at hand.
    ///
    /// # Errors
    /// [`KeyError::OtherKind`] when the slot takes something else, [`KeyError::WrongKey`], and
    /// those of [`KeySet::decode`].
    pub fn open(&self, credential: Credential<'_>) -> Result<KeySet, KeyError> {
        let (slot, offered) = (self.kind(), credential.opens());
        match (credential, &self.locked) {
            (Credential::Passphrase(passphrase), Some(locked)) => match locked.info.argon2 {
                Some(params) => self.unlock(locked, &params.derive(passphrase, &locked.salt)?),
                None => Err(KeyError::OtherKind { slot, offered }),
            },
            (Credential::Secret(secret), Some(locked)) if slot == offered => {
                self.unlock(locked, &slot_secret(secret, &locked.salt)?)
            }
            (Credential::Identities(identities), None) => {
                let text = agefile::decrypt(WHAT, &self.bytes, identities, MAX_SLOT_BYTES)?;
                match keyfile::parse(&text)? {
                    KeyFile::Keys(keys) => Ok(*keys),
                    _ => Err(KeyError::damaged(WHAT, "it does not hold keys")),
                }
            }
            _ => Err(KeyError::OtherKind { slot, offered }),
        }
    }

    /// Opens a passphrase slot. Takes as long and as much memory as its parameters say.
    ///
    /// # Errors
    /// As [`Slot::open`].
    pub fn open_with_passphrase(&self, passphrase: &[u8]) -> Result<KeySet, KeyError> {
        self.open(Credential::Passphrase(passphrase))
    }

    /// Opens a key-file slot.
    ///
    /// # Errors
    /// As [`Slot::open`].
    pub fn open_with_secret(&self, secret: &Secret) -> Result<KeySet, KeyError> {
        self.open(Credential::Secret(secret))
    }

    /// Opens a recipient slot with an identity in age's own spelling, `AGE-SECRET-KEY-1…`.
    ///
    /// # Errors
    /// As [`Slot::open`], and [`KeyError::BadIdentity`].
    pub fn open_with_age_identity(&self, identity: &str) -> Result<KeySet, KeyError> {
        self.open(Credential::Identities(&[Identity::parse(0, identity)?]))
    }

    fn unlock(&self, locked: &Locked, key: &Secret) -> Result<KeySet, KeyError> {
        let (aad, sealed) = self
            .bytes
            .split_at_checked(locked.body)
            .ok_or(KeyError::damaged(WHAT, "it is cut short"))?;
        let keys = KeySet::decode(&open(key, locked.nonce, aad, sealed)?)?;
        if keys.repo() != locked.info.repo || keys.role() != locked.info.role {
            return Err(KeyError::damaged(WHAT, "its header does not fit its keys"));
        }
        Ok(keys)
    }
}

impl Header {
    fn info(&self) -> Result<SlotInfo, KeyError> {
        let params = Argon2Params {
            memory_kib: self.memory_kib,
            passes: self.passes,
            lanes: self.lanes,
        };
        let argon2 = match self.kind {
            1 => {
                params.check()?;
                Some(params)
            }
            2 if (self.memory_kib, self.passes, self.lanes) == (0, 0, 0) => None,
            2 => return Err(KeyError::damaged(WHAT, "its header contradicts itself")),
            kind => {
                return Err(KeyError::Newer {
                    what: "kind of key slot",
                    version: kind.into(),
                });
            }
        };
        let role = Role::from_code(self.role).ok_or(KeyError::Newer {
            what: "role of the key slot",
            version: self.role.into(),
        })?;
        KeyError::check_extra(&self.extra, WHAT)?;
        check_label(&self.label)
            .map_err(|_| KeyError::damaged(WHAT, "its label holds what no label may"))?;
        Ok(SlotInfo {
            repo: RepoId(self.repo),
            role,
            label: self.label.clone(),
            created: self.created,
            argon2,
            newest: (self.extra.get(NEWEST)).and_then(|text| String::from_utf8(text.clone()).ok()),
        })
    }
}

/// A slot of `keys` that the passphrase opens.
///
/// # Errors
/// [`KeyError::EmptyPassphrase`], [`KeyError::TooCostly`] or [`KeyError::BadParams`] for parameters
/// that could not be read back, [`KeyError::BadLabel`], [`KeyError::NoMemory`].
pub fn seal_with_passphrase(
    keys: &KeySet,
    meta: &SlotMeta,
    passphrase: &[u8],
    params: Argon2Params,
) -> Result<Vec<u8>, KeyError> {
    if passphrase.is_empty() {
        return Err(KeyError::EmptyPassphrase);
    }
    let (salt, nonce) = fresh()?;
    let key = params.derive(passphrase, &salt)?;
    assemble(keys, meta, Some(params), &key, (salt, nonce))
}

/// A slot of `keys` that the secret of a key file, or the recovery code that spells it, opens.
///
/// # Errors
/// [`KeyError::BadLabel`], [`KeyError::Crypto`].
pub fn seal_with_secret(
    keys: &KeySet,
    meta: &SlotMeta,
    secret: &Secret,
) -> Result<Vec<u8>, KeyError> {
    let (salt, nonce) = fresh()?;
    assemble(
        keys,
        meta,
        None,
        &slot_secret(secret, &salt)?,
        (salt, nonce),
    )
}

/// A slot of `keys` that each of the recipients opens, with Backstay or with plain `age -d`.
///
/// # Errors
/// [`KeyError::NoRecipients`], [`KeyError::BadLabel`], [`KeyError::TooLarge`].
pub fn seal_to_recipients(
    keys: &KeySet,
    meta: &SlotMeta,
    recipients: &[Recipient],
) -> Result<Vec<u8>, KeyError> {
    check_label(&meta.label)?;
    let text = keyfile::keys_text(keys, meta)?;
    let bytes = agefile::encrypt(text.as_bytes(), recipients)?;
    if bytes.len() > MAX_SLOT_BYTES {
        return Err(KeyError::TooLarge {
            what: WHAT,
            limit: MAX_SLOT_BYTES,
        });
    }
    Ok(bytes)
}

fn fresh() -> Result<([u8; 16], [u8; 12]), KeyError> {
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    random(&mut salt)?;
    random(&mut nonce)?;
    Ok((salt, nonce))
}

fn slot_secret(secret: &Secret, salt: &[u8; 16]) -> Result<Secret, KeyError> {
    derive(salt, secret, &[b"backstay v1 slot"])
}

/// The bytes of a slot that is not an age file.
fn assemble(
    keys: &KeySet,
    meta: &SlotMeta,
    argon2: Option<Argon2Params>,
    key: &Secret,
    (salt, nonce): ([u8; 16], [u8; 12]),
) -> Result<Vec<u8>, KeyError> {
    check_label(&meta.label)?;
    let params = argon2.unwrap_or(Argon2Params {
        memory_kib: 0,
        passes: 0,
        lanes: 0,
    });
    let header = Header {
        repo: *keys.repo().as_bytes(),
        kind: if argon2.is_some() { 1 } else { 2 },
        role: keys.role().code(),
        label: meta.label.clone(),
        created: meta.created,
        memory_kib: params.memory_kib,
        passes: params.passes,
        lanes: params.lanes,
        salt,
        nonce,
        extra: newest_of(keys),
    };
    let header =
        postcard::to_allocvec(&header).map_err(|_| KeyError::Crypto("encode the header"))?;
    let length = u16::try_from(header.len()).map_err(|_| KeyError::TooLarge {
        what: WHAT,
        limit: MAX_SLOT_BYTES,
    })?;
    let mut out = Vec::with_capacity(PREFIX + header.len() + MAX_SET_BYTES + 16);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&header);
    let sealed = seal(key, nonce, &out, &keys.encode()?)?;
    out.extend_from_slice(&sealed);
    Ok(out)
}

/// Which generation the keys are of, for those who list slots.
fn newest_of(keys: &KeySet) -> Extra {
    let newest = keys.all_recipients().last();
    let rotated = newest.filter(|newest| keys.can_read() && newest.epoch() > 0);
    let said = rotated.map(|newest| (NEWEST.to_owned(), newest.to_string().into_bytes()));
    said.into_iter().collect()
}

fn check_label(label: &str) -> Result<(), KeyError> {
    if label.len() <= MAX_LABEL && !label.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(KeyError::BadLabel)
    }
}

#[cfg(test)]
#[path = "slot_tests.rs"]
mod tests;
