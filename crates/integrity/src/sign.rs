//! Signatures by a host's keys: HMAC-SHA256 (RFC 2104) for those who share its key, Ed25519
//! (RFC 8032) for everybody else.
//!
//! What is signed is never the bare message but `u8 len ‖ purpose ‖ message`, where the purpose is
//! one of [`Purpose`], so that a signature made for one purpose says nothing about another.

use std::fmt;

use backup_core::HostId;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// A statement about a snapshot: `backstay snapshot v1`.
    Snapshot,
    /// A line of a ledger: `backstay ledger v1`.
    Ledger,
    /// That records of a ledger are lost, and that this is known: `backstay accept v1`.
    Accept,
}

impl Purpose {
    /// The text that leads what is signed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Snapshot => "backstay snapshot v1",
            Self::Ledger => "backstay ledger v1",
            Self::Accept => "backstay accept v1",
        }
    }

    /// The purpose as it leads what is signed: its length in one byte, then its text.
    fn prefix(self) -> ([u8; 1], &'static [u8]) {
        let text = self.as_str().as_bytes();
        ([u8::try_from(text.len()).unwrap_or(u8::MAX)], text)
    }
}

hex_bytes!(
    /// An HMAC-SHA256.
    HmacTag,
    32
);
hex_bytes!(
    /// The public half of a host's Ed25519 key.
    PublicKey,
    32
);
hex_bytes!(
    /// An Ed25519 signature.
    Ed25519Signature,
    64
);

/// A signature that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The HMAC is not that of the message under this key.
    #[error("the HMAC does not match: the message was changed or signed with another key")]
    Hmac,
    /// The Ed25519 signature is not that of the message by this key.
    #[error(
        "the Ed25519 signature does not match: the message was changed or signed with another key"
    )]
    Ed25519,
    /// The bytes are not a usable Ed25519 public key.
    #[error("these bytes are not an Ed25519 public key")]
    PublicKey,
}

/// HMAC-SHA256 state under a key of 32 bytes.
pub(crate) fn keyed_mac(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC fills a key shorter than the block of the hash (64 bytes) with zeros itself; doing so
    // here leaves no length that could be wrong.
    let mut block = Zeroizing::new([0u8; 64]);
    block
        .iter_mut()
        .zip(key)
        .for_each(|(slot, byte)| *slot = *byte);
    <Hmac<Sha256> as KeyInit>::new((&*block).into())
}

/// A host's HMAC key. Wiped from memory when dropped, never shown.
#[derive(Clone)]
pub struct HmacKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for HmacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HmacKey(..)")
    }
}

impl HmacKey {
    /// A key of 32 secret bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The HMAC of the parts of a message, joined.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, parts: &[&[u8]]) -> HmacTag {
        HmacTag(self.mac(purpose, parts).finalize().into_bytes().into())
    }

    /// Checks an HMAC in constant time.
    ///
    /// # Errors
    /// [`SignatureError::Hmac`] when it does not match.
    pub fn verify(
        &self,
        purpose: Purpose,
        parts: &[&[u8]],
        tag: &HmacTag,
    ) -> Result<(), SignatureError> {
        self.mac(purpose, parts)
            .verify_slice(&tag.0)
            .map_err(|_| SignatureError::Hmac)
    }

    fn mac(&self, purpose: Purpose, parts: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = keyed_mac(&self.0);
        let (length, text) = purpose.prefix();
        mac.update(&length);
        mac.update(text);
        parts.iter().for_each(|part| mac.update(part));
        mac
    }
}

/// Both signatures of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signatures {
    /// HMAC-SHA256 under the host's key.
    pub hmac: HmacTag,
    /// Ed25519 signature by the host's key.
    pub ed25519: Ed25519Signature,
    /// The public key that the Ed25519 signature is checked with.
    pub public_key: PublicKey,
}

/// Signs in the name of a host. Keys are wiped from memory when it is dropped, and never shown.
#[derive(Clone)]
pub struct HostSigner {
    host: HostId,
    hmac: HmacKey,
    ed25519: SigningKey,
}

impl fmt::Debug for HostSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostSigner")
            .field("host", &self.host)
            .field("public_key", &self.public_key())
            .finish_non_exhaustive()
    }
}

impl HostSigner {
    /// A signer from a host's secrets: the HMAC key and the seed of the Ed25519 key.
    #[must_use]
    pub fn new(host: HostId, hmac: HmacKey, ed25519_seed: &Zeroizing<[u8; 32]>) -> Self {
        Self {
            host,
            hmac,
            ed25519: SigningKey::from_bytes(ed25519_seed),
        }
    }

    /// The host.
    #[must_use]
    pub const fn host(&self) -> &HostId {
        &self.host
    }

    /// The host's HMAC key.
    #[must_use]
    pub const fn hmac_key(&self) -> &HmacKey {
        &self.hmac
    }

    /// The public half of the host's Ed25519 key.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.ed25519.verifying_key().to_bytes())
    }

    /// Signs a message both ways.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, message: &[u8]) -> Signatures {
        Signatures {
            hmac: self.hmac.sign(purpose, &[message]),
            ed25519: Ed25519Signature(self.ed25519.sign(&framed(purpose, message)).to_bytes()),
            public_key: self.public_key(),
        }
    }
}

/// Checks an HMAC.
///
/// # Errors
/// [`SignatureError::Hmac`] when it does not match.
pub fn verify_hmac(
    key: &HmacKey,
    purpose: Purpose,
    message: &[u8],
    tag: &HmacTag,
) -> Result<(), SignatureError> {
    key.verify(purpose, &[message], tag)
}

/// Checks an Ed25519 signature, strictly: keys of small order and signatures that are not in
/// their one canonical form are refused.
///
/// # Errors
/// [`SignatureError`] when the key is none or the signature does not match.
pub fn verify_ed25519(
    key: &PublicKey,
    purpose: Purpose,
    message: &[u8],
    signature: &Ed25519Signature,
) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(&key.0).map_err(|_| SignatureError::PublicKey)?;
    let signature = Signature::from_bytes(&signature.0);
    key.verify_strict(&framed(purpose, message), &signature)
        .map_err(|_| SignatureError::Ed25519)
}

fn framed(purpose: Purpose, message: &[u8]) -> Vec<u8> {
    let (length, text) = purpose.prefix();
    [&length, text, message].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn signer(host: &str) -> HostSigner {
        HostSigner::new(
            HostId(host.to_owned()),
            HmacKey::new([0x11; 32]),
            &Zeroizing::new([0x22; 32]),
        )
    }

    #[test]
    fn the_signatures_of_version_1_are_frozen() {
        // Computed by a separate implementation: Python's hmac, and the arithmetic of RFC 8032.
        let made = signer("h").sign(Purpose::Snapshot, b"message");
        assert_eq!(
            made.hmac.to_string(),
            "b795eae8b24e7068105ea8cf47041468332cc06b02c58ad5f614d8e14d7152bf"
        );
        assert_eq!(
            made.public_key.to_string(),
            "a09aa5f47a6759802ff955f8dc2d2a14a5c99d23be97f864127ff9383455a4f0"
        );
        assert_eq!(
            made.ed25519.to_string(),
            concat!(
                "be4d51801e4f39afa04c85863ce180ca0b442d1892565c6bbcfd5615b580a7b7",
                "9740bf560c914d8c4acdd8343d9f111114488f951b5f58567f00db95c7a22a0b",
            )
        );
    }

    #[test]
    fn ed25519_is_that_of_rfc_8032() {
        // Section 7.1, test 1: the public key that belongs to the seed.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let seed = Zeroizing::new(crate::hexbytes::decode_fixed(seed).unwrap());
        let signer = HostSigner::new(HostId("h".into()), HmacKey::new([0; 32]), &seed);
        assert_eq!(signer.public_key().to_string(), public);
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        // Test case 1, its key of 20 bytes filled with zeros as HMAC itself does.
        let mut key = [0u8; 32];
        key[..20].fill(0x0b);
        let mut mac = keyed_mac(&key);
        mac.update(b"Hi There");
        let tag = HmacTag(mac.finalize().into_bytes().into());
        let wanted = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(tag.to_string(), wanted);
    }

    #[test]
    fn a_signature_for_one_purpose_is_none_for_another() {
        let made = signer("h").sign(Purpose::Snapshot, b"m");
        let key = HmacKey::new([0x11; 32]);
        assert!(verify_hmac(&key, Purpose::Snapshot, b"m", &made.hmac).is_ok());
        assert!(verify_hmac(&key, Purpose::Ledger, b"m", &made.hmac).is_err());
        let check = |purpose| verify_ed25519(&made.public_key, purpose, b"m", &made.ed25519);
        assert!(check(Purpose::Snapshot).is_ok());
        assert!(check(Purpose::Ledger).is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?} {:?}", signer("h"), HmacKey::new([0x11; 32]));
        assert!(!shown.contains("1111") && !shown.contains("2222") && !shown.contains("17, 17"));
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        // The neutral element: with it anyone can make a signature that a lax check accepts.
        let mut neutral = [0u8; 32];
        neutral[0] = 1;
        let mut signature = [0u8; 64];
        signature[0] = 1;
        let made = Ed25519Signature(signature);
        assert!(verify_ed25519(&PublicKey(neutral), Purpose::Snapshot, b"m", &made).is_err());
    }

    proptest! {
        #[test]
        fn no_flipped_bit_passes(message: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let made = signer("h").sign(Purpose::Snapshot, &message);
            let key = HmacKey::new([0x11; 32]);
            let flip = |bytes: &mut [u8]| {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            };
            let mut hmac = made.hmac;
            flip(&mut hmac.0);
            prop_assert!(verify_hmac(&key, Purpose::Snapshot, &message, &hmac).is_err());
            let ed25519 = |key: &PublicKey, message: &[u8], signature: &Ed25519Signature| {
                verify_ed25519(key, Purpose::Snapshot, message, signature)
            };
            let mut signature = made.ed25519;
            flip(&mut signature.0);
            prop_assert!(ed25519(&made.public_key, &message, &signature).is_err());
            let mut public = made.public_key;
            flip(&mut public.0);
            prop_assert!(ed25519(&public, &message, &made.ed25519).is_err());
            let mut longer = message.clone();
            longer.push(0);
            prop_assert!(ed25519(&made.public_key, &longer, &made.ed25519).is_err());
            if !message.is_empty() {
                let mut other = message.clone();
                flip(&mut other);
                prop_assert!(verify_hmac(&key, Purpose::Snapshot, &other, &made.hmac).is_err());
                prop_assert!(ed25519(&made.public_key, &other, &made.ed25519).is_err());
            }
        }
    }
}
