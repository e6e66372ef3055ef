//! The authority of a repository: an Ed25519 key pair (RFC 8032) derived from the root key. It signs
//! *certificates*, which say which public key a host signs with, so that everybody who knows the
//! repository can tell a host's snapshots from those of others who hold the index key, without
//! holding any key of that host.
//!
//! A certificate is the signature over `u8 16 ‖ "backstay host v1" ‖ version u8 = 1 ‖ repository(16)
//! ‖ u16 length ‖ host ‖ public key(32)`, numbers big-endian.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use backup_core::{HostId, RepoId};

use super::error::KeyError;
use super::secret::{Secret, derive};

/// A certificate of a host.
pub type Certificate = [u8; 64];

const PURPOSE: &[u8] = b"backstay host v1";

/// The key pair of the authority.
pub(super) fn key_pair(repo: RepoId, root: &Secret) -> Result<Ed25519KeyPair, KeyError> {
    let seed = derive(repo.as_bytes(), root, &[b"backstay v1 authority ed25519"])?;
    of_seed(seed.expose())
}

/// The public key that belongs to a seed.
pub(super) fn public_key(pair: &Ed25519KeyPair) -> Result<[u8; 32], KeyError> {
    pair.public_key()
        .as_ref()
        .try_into()
        .map_err(|_| KeyError::Crypto("make a public key"))
}

fn of_seed(seed: &[u8; 32]) -> Result<Ed25519KeyPair, KeyError> {
    Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| KeyError::Crypto("make a key pair"))
}

/// The certificate of a host that signs with this seed.
pub(super) fn certify(
    authority: &Ed25519KeyPair,
    repo: RepoId,
    host: &HostId,
    seed: &[u8; 32],
) -> Result<Certificate, KeyError> {
    let public = public_key(&of_seed(seed)?)?;
    let signature = authority.sign(&message(repo, host, &public)?);
    signature
        .as_ref()
        .try_into()
        .map_err(|_| KeyError::Crypto("sign a certificate"))
}

/// Whether the authority says that the host signs with this public key.
#[must_use]
pub fn is_certified(
    authority: &[u8; 32],
    repo: RepoId,
    host: &HostId,
    public: &[u8; 32],
    certificate: &Certificate,
) -> bool {
    let key = UnparsedPublicKey::new(&ED25519, authority);
    let message = message(repo, host, public);
    message.is_ok_and(|message| key.verify(&message, certificate).is_ok())
}

fn message(repo: RepoId, host: &HostId, public: &[u8; 32]) -> Result<Vec<u8>, KeyError> {
    let length = u16::try_from(host.0.len()).map_err(|_| KeyError::BadHost)?;
    let purpose = [&[PURPOSE.len() as u8][..], PURPOSE, &[1]].concat();
    let host = [&length.to_be_bytes()[..], host.0.as_bytes()].concat();
    Ok([&purpose[..], repo.as_bytes(), &host, public].concat())
}
