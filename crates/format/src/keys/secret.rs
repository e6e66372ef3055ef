//! Thirty-two secret bytes, and the few primitives that keys are made with.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hkdf, hmac, rand};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::error::KeyError;

/// Thirty-two secret bytes: wiped when dropped, compared in constant time, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// A secret from bytes that exist already.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A fresh random secret.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the system gives no randomness.
    pub fn random() -> Result<Self, KeyError> {
        let mut secret = Self([0; 32]);
        random(&mut secret.0)?;
        Ok(secret)
    }

    /// The bytes.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Fills `out` with random bytes.
pub(crate) fn random(out: &mut [u8]) -> Result<(), KeyError> {
    rand::fill(out).map_err(|_| KeyError::Crypto("draw random bytes"))
}

/// `HKDF-SHA256(salt, ikm, info…)`, 32 bytes; RFC 5869 with the parts of `info` concatenated.
pub(crate) fn derive(salt: &[u8], ikm: &Secret, info: &[&[u8]]) -> Result<Secret, KeyError> {
    let mut out = Secret([0; 32]);
    hkdf::Salt::new(hkdf::HKDF_SHA256, salt)
        .extract(ikm.expose())
        .expand(info, hkdf::HKDF_SHA256)
        .and_then(|okm| okm.fill(&mut out.0))
        .map_err(|_| KeyError::Crypto("derive a key"))?;
    Ok(out)
}

/// SHA-256 of the parts, one after the other.
pub(crate) fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    // SHA-256 gives 32 bytes; zipping them needs no assertion.
    out.iter_mut()
        .zip(context.finish().as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

/// HMAC-SHA256 of `message`.
pub(crate) fn mac(key: &Secret, message: &[u8]) -> [u8; 32] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()), message);
    let mut out = [0; 32];
    out.iter_mut()
        .zip(tag.as_ref())
        .for_each(|(to, from)| *to = *from);
    out
}

/// Whether `tag` is the HMAC-SHA256 of `message`; constant time.
pub(crate) fn mac_matches(key: &Secret, message: &[u8], tag: &[u8]) -> bool {
    hmac::verify(
        &hmac::Key::new(hmac::HMAC_SHA256, key.expose()),
        message,
        tag,
    )
    .is_ok()
}

fn gcm(key: &Secret) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, key.expose())
        .map(LessSafeKey::new)
        .map_err(|_| KeyError::Crypto("set up AES-256-GCM"))
}

/// AES-256-GCM: ciphertext followed by its 16-byte tag.
pub(crate) fn seal(
    key: &Secret,
    nonce: [u8; 12],
    aad: &[u8],
    plain: &[u8],
) -> Result<Vec<u8>, KeyError> {
    // Room for the tag from the start: growing later would leave a copy of the plain bytes behind.
    let mut buffer = Vec::with_capacity(plain.len() + 16);
    buffer.extend_from_slice(plain);
    gcm(key)?
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut buffer,
        )
        .map_err(|_| KeyError::Crypto("encrypt"))?;
    Ok(buffer)
}

/// The reverse of [`seal`]; [`KeyError::WrongKey`] when the tag does not match.
pub(crate) fn open(
    key: &Secret,
    nonce: [u8; 12],
    aad: &[u8],
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let mut buffer = Zeroizing::new(sealed.to_vec());
    let plain = gcm(key)?
        .open_in_place(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(aad),
            &mut buffer,
        )
        .map_err(|_| KeyError::WrongKey)?
        .len();
    buffer.truncate(plain);
    Ok(buffer)
}
