//! Keys: who can do what with a repository.
//!
//! A repository is always encrypted, and always asymmetrically: whoever writes needs no key that
//! reads. Its secrets are a random 32-byte **root key** and X25519 **identities**, one for each
//! epoch. The root key gives the others by `HKDF-SHA256(salt = the 16 bytes of the repository id,
//! root key, info)`, 32 bytes each:
//!
//! | key | info | for |
//! |---|---|---|
//! | id | `backstay v1 id` | chunk ids |
//! | cut | `backstay v1 cut` | the chunker's cut points, piece digests |
//! | index | `backstay v1 index` | what every role reads: pack headers, index runs, outer snapshot headers, references, sessions, the ledger on tiers |
//! | lineage | `backstay v1 lineage` | lineage objects, which writers read |
//! | state | `backstay v1 state` | local caches |
//! | sign | `backstay v1 sign` | the keys of hosts |
//! | authority | `backstay v1 authority ed25519` | seed of the Ed25519 key pair that certifies the keys of hosts |
//!
//! From these follow, by the same function with the same salt: a host's HMAC key (from sign, info
//! `backstay v1 host hmac` and the bytes of the host's name), its Ed25519 seed (from sign, info
//! `backstay v1 host ed25519` and the name), the key that authenticates `config/<n>` (from index,
//! info `backstay v1 config mac`), and a fingerprint that may be shown (from index, info
//! `backstay v1 key check`).
//!
//! What a session stores is sealed under a data key of its own ([`crate::session`]), wrapped to the
//! **recipients**, the public halves of the newest epoch's identities.
//!
//! - [`KeySet`]: the keys of one holder, by [`Role`]; its bytes are stated in [`wire`];
//! - [`slot`]: a key set locked in an object of the repository;
//! - [`keyfile`]: key files, age identity files; [`recovery`]: the code on paper.

mod agefile;
mod authority;
mod error;
mod kdf;
pub mod keyfile;
pub mod recovery;
mod role;
mod rotation;
mod secret;
mod set;
pub mod slot;
pub mod wire;

pub use agefile::{Identity, Recipient};
pub use authority::{Certificate, is_certified};
pub use error::KeyError;
pub use kdf::Argon2Params;
pub use keyfile::{KeyFile, KeyFileError};
pub use recovery::{recovery_code, recovery_sheet};
pub use role::{Need, Role, UnknownRole};
pub use rotation::RecipientsSignature;
pub use secret::Secret;
pub use set::{HostKeys, KeySet};
pub use slot::{
    Credential, Slot, SlotInfo, SlotKind, SlotMeta, seal_to_recipients, seal_with_passphrase,
    seal_with_secret,
};

pub(crate) use agefile::{MAX_AGE_HEADER, decrypt, encrypt};
pub(crate) use secret::{derive, mac, mac_matches};
pub(crate) use set::check_host;

#[cfg(test)]
pub(crate) mod tests;
