//! Sessions: everything that one run stores is sealed under a random data key of its own.
//!
//! The data key (DEK) is 32 random bytes. It is **wrapped** as a binary age file
//! (<https://age-encryption.org/v1>) with one X25519 stanza for each recipient of the repository's
//! newest epoch; its payload is the 32 bytes. A writer makes the wrap and can never open it again;
//! readers open it with their identities. Rotation wraps anew, without touching data.
//!
//! The object `sessions/<ulid>` holds, sealed by the role that every key has, the bytes of a
//! [`Session`]: byte 0 is the version, 1, then one postcard value with nothing after it:
//!
//! | field | type |
//! |---|---|
//! | session id | `[u8; 16]`, the ULID most significant byte first |
//! | host | text of 1 to 255 bytes without control characters |
//! | started | `u64` varint, milliseconds since 1970 by the writer's clock |
//! | wrap | byte sequence (its length as a varint, then the bytes), at most [`MAX_WRAP_BYTES`] |
//! | extra | what later releases add; see [`crate::extra`] |
//!
//! At most [`MAX_SESSION_BYTES`] in all.

use backup_core::{HostId, SessionId};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::extra::Extra;
use crate::keys::{self, Identity, KeyError, MAX_AGE_HEADER, Recipient, Secret};

/// Longest wrap of a data key, in bytes: an age header of 16 KiB, its end, its payload.
pub const MAX_WRAP_BYTES: usize = MAX_AGE_HEADER + 256;

/// Longest session object in bytes, unsealed.
pub const MAX_SESSION_BYTES: usize = 32 << 10;

const VERSION: u8 = 1;
const WHAT: &str = "session";

/// The data key wrapped to the recipients.
///
/// # Errors
/// [`KeyError::NoRecipients`]; [`KeyError::TooLarge`] for more than about a hundred recipients.
pub fn wrap(dek: &Secret, recipients: &[Recipient]) -> Result<Vec<u8>, KeyError> {
    keys::encrypt(dek.expose(), recipients)
}

/// The data key that was wrapped to one of the identities.
///
/// # Errors
/// [`KeyError::WrongKey`] when it was wrapped to none of them, [`KeyError::Damaged`] when the bytes
/// are not a wrap.
pub fn unwrap(wrapped: &[u8], identities: &[Identity]) -> Result<Secret, KeyError> {
    const WHAT: &str = "wrapped session key";
    if wrapped.len() > MAX_WRAP_BYTES {
        return Err(KeyError::damaged(WHAT, "it is too long"));
    }
    let plain = keys::decrypt(WHAT, wrapped, identities, 32)?;
    let dek = plain
        .first_chunk::<32>()
        .ok_or(KeyError::damaged(WHAT, "it is too short"))?;
    let dek = Zeroizing::new(*dek);
    Ok(Secret::new(*dek))
}

/// What is known of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The host that writes.
    pub host: HostId,
    /// When it began, in milliseconds since 1970, by the writer's clock.
    pub started_ms: u64,
    /// Its data key, wrapped; see [`wrap`] and [`unwrap`].
    pub wrapped_dek: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    id: [u8; 16],
    host: &'a str,
    started_ms: u64,
    wrapped_dek: &'a [u8],
    extra: Extra,
}

impl Session {
    /// The session as bytes.
    ///
    /// # Errors
    /// [`KeyError::BadHost`], [`KeyError::TooLarge`] for what could not be read back.
    pub fn encode(&self) -> Result<Vec<u8>, KeyError> {
        keys::check_host(&self.host)?;
        if self.wrapped_dek.len() > MAX_WRAP_BYTES {
            return Err(KeyError::TooLarge {
                what: "wrapped session key",
                limit: MAX_WRAP_BYTES,
            });
        }
        let wire = Wire {
            id: self.id.to_bytes(),
            host: &self.host.0,
            started_ms: self.started_ms,
            wrapped_dek: &self.wrapped_dek,
            extra: Extra::new(),
        };
        postcard::to_extend(&wire, vec![VERSION]).map_err(|_| KeyError::Crypto("encode a session"))
    }

    /// Reads a session back.
    ///
    /// # Errors
    /// [`KeyError::Newer`] for another version, [`KeyError::Needs`] for a mandatory addition,
    /// [`KeyError::Damaged`] when the bytes are not those of a session.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let damaged = |detail| KeyError::damaged(WHAT, detail);
        if bytes.len() > MAX_SESSION_BYTES {
            return Err(damaged("it is too long"));
        }
        let (&version, body) = bytes.split_first().ok_or(damaged("it is empty"))?;
        if version != VERSION {
            return Err(KeyError::Newer {
                what: WHAT,
                version: version.into(),
            });
        }
        let (wire, rest) = postcard::take_from_bytes::<Wire<'_>>(body)
            .map_err(|_| damaged("its fields cannot be read"))?;
        if !rest.is_empty() {
            return Err(damaged("something follows its end"));
        }
        if wire.wrapped_dek.len() > MAX_WRAP_BYTES {
            return Err(damaged("its wrapped key is too long"));
        }
        KeyError::check_extra(&wire.extra, WHAT)?;
        let host = HostId(wire.host.to_owned());
        keys::check_host(&host).map_err(|_| damaged("the host's name in it cannot be one"))?;
        Ok(Self {
            id: SessionId::from_bytes(wire.id),
            host,
            started_ms: wire.started_ms,
            wrapped_dek: wire.wrapped_dek.to_vec(),
        })
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
