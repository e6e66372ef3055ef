//! The bytes of a key set.
//!
//! Byte 0 is the version, 1. The rest is one postcard value (postcard 1.x wire format: integers
//! wider than a byte are LEB128 varints, sequences and texts are led by their length as a varint,
//! an option is a byte 0 or a byte 1 and the value, arrays are bare bytes, fields follow each other
//! without names), with nothing after it:
//!
//! | field | type |
//! |---|---|
//! | repository id | `[u8; 16]` |
//! | role | `u8`: 1 full, 2 writer, 3 reader, 4 maintenance, 5 verifier |
//! | root key | option of `[u8; 32]`; full only |
//! | id, cut, index, lineage, state keys | five options of `[u8; 32]`; all absent when full, because they follow from the root key |
//! | authority's public key | option of `[u8; 32]`; absent when full, because it follows from the root key |
//! | host | option of { name: text, HMAC key `[u8; 32]`, option of { Ed25519 seed `[u8; 32]`, certificate as two halves `[u8; 32]` } }; writer, and without the second option maintenance, only |
//! | identities | sequence of { epoch `u32`, text `AGE-SECRET-KEY-1…` }, epochs rising |
//! | recipients | sequence of { epoch `u32`, text `age1…` }, epochs not falling |
//! | extra | see [`crate::extra`]; `accept`, 32 bytes, in sets of maintenance |
//!
//! A set holds exactly the keys of its role (see [`KeySet`]); bytes that hold more or fewer are
//! damaged. At most [`MAX_SET_BYTES`] bytes.

use backup_core::{HostId, RepoId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::agefile::{Identity, Recipient};
use super::error::KeyError;
use super::role::Role;
use super::secret::Secret;
use super::set::{KeySet, OwnEd25519, OwnHost, check_host};
use crate::extra::Extra;

/// Longest key set in bytes: room for about 100 epochs.
pub const MAX_SET_BYTES: usize = 16 << 10;

const VERSION: u8 = 1;
const WHAT: &str = "key set";
/// The name of the key that accepts, among the additions.
const ACCEPT: &str = "accept";

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct WireSet {
    repo: [u8; 16],
    role: u8,
    root: Option<[u8; 32]>,
    id: Option<[u8; 32]>,
    cut: Option<[u8; 32]>,
    index: Option<[u8; 32]>,
    lineage: Option<[u8; 32]>,
    state: Option<[u8; 32]>,
    authority: Option<[u8; 32]>,
    host: Option<WireHost>,
    identities: Vec<WireKey>,
    recipients: Vec<WireKey>,
    extra: WireExtra,
}

/// Additions, which may be secret.
#[derive(Serialize, Deserialize)]
struct WireExtra(Extra);

impl WireExtra {
    /// Only maintenance has a key that accepts, and it may have been made before there was one.
    fn has_shape_of(&self, role: Role) -> bool {
        let accept = self.0.get(ACCEPT);
        accept.is_none_or(|key| role == Role::Maintenance && key.len() == 32)
    }
}

impl Zeroize for WireExtra {
    fn zeroize(&mut self) {
        self.0.values_mut().for_each(Zeroize::zeroize);
    }
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct WireHost {
    name: String,
    hmac: [u8; 32],
    ed25519: Option<WireEd25519>,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct WireEd25519 {
    seed: [u8; 32],
    certificate: ([u8; 32], [u8; 32]),
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct WireKey {
    epoch: u32,
    text: String,
}

impl KeySet {
    /// The set as bytes; they are as secret as the keys.
    ///
    /// # Errors
    /// [`KeyError::TooLarge`] when there are too many epochs.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let full = self.root.is_some();
        let bytes = |key: &Option<Secret>| key.as_ref().map(|key| *key.expose());
        let sub = |key: &Option<Secret>| if full { None } else { bytes(key) };
        let mut wire = WireSet {
            repo: *self.repo.as_bytes(),
            role: self.role.code(),
            root: bytes(&self.root),
            id: sub(&self.id),
            cut: sub(&self.cut),
            index: sub(&self.index),
            lineage: sub(&self.lineage),
            state: sub(&self.state),
            authority: (!full).then_some(self.authority),
            host: self.host.as_ref().map(|own| WireHost {
                name: own.name.0.clone(),
                hmac: *own.hmac.expose(),
                ed25519: own.ed25519.as_ref().map(|own| WireEd25519 {
                    seed: *own.seed.expose(),
                    certificate: halves(&own.certificate),
                }),
            }),
            identities: self
                .identities
                .iter()
                .map(|key| WireKey {
                    epoch: key.epoch(),
                    text: key.secret_text().to_string(),
                })
                .collect(),
            recipients: self
                .recipients
                .iter()
                .map(|key| WireKey {
                    epoch: key.epoch(),
                    text: key.to_string(),
                })
                .collect(),
            extra: WireExtra(self.extra.clone()),
        };
        if let Some(accept) = self.accept.as_ref().filter(|_| !full) {
            let value = accept.expose().to_vec();
            wire.extra.0.insert(ACCEPT.to_owned(), value);
        }
        // A fixed buffer: one that grows would leave copies of the keys behind.
        let mut buffer = Zeroizing::new(vec![0; MAX_SET_BYTES]);
        let too_large = |_| KeyError::TooLarge {
            what: WHAT,
            limit: MAX_SET_BYTES,
        };
        let (version, body) = buffer
            .split_first_mut()
            .ok_or(KeyError::Crypto("encode the key set"))?;
        *version = VERSION;
        let used = 1 + postcard::to_slice(&wire, body).map_err(too_large)?.len();
        buffer.truncate(used);
        Ok(buffer)
    }

    /// Reads a set back.
    ///
    /// # Errors
    /// [`KeyError::Newer`] for another version, [`KeyError::Damaged`] when the bytes are not those
    /// of a set.
    pub fn decode(bytes: &[u8]) -> Result<Self, KeyError> {
        let damaged = |detail| KeyError::damaged(WHAT, detail);
        if bytes.len() > MAX_SET_BYTES {
            return Err(damaged("it is too long"));
        }
        let (&version, body) = bytes.split_first().ok_or(damaged("it is empty"))?;
        if version != VERSION {
            return Err(KeyError::Newer {
                what: WHAT,
                version: version.into(),
            });
        }
        let (wire, rest) = postcard::take_from_bytes::<WireSet>(body)
            .map_err(|_| damaged("its fields cannot be read"))?;
        if !rest.is_empty() {
            return Err(damaged("something follows its end"));
        }
        let role = Role::from_code(wire.role).ok_or_else(|| KeyError::Newer {
            what: "role of the key",
            version: wire.role.into(),
        })?;
        KeyError::check_extra(&wire.extra.0, WHAT)?;
        if !wire.has_shape_of(role) {
            return Err(damaged("it does not hold the keys of its role"));
        }
        wire.into_set(role)
    }
}

impl WireSet {
    /// Whether exactly the keys of `role` are there.
    fn has_shape_of(&self, role: Role) -> bool {
        let full = role == Role::Full;
        let writer = role == Role::Writer;
        let reader = role == Role::Reader;
        let rising = |keys: &[WireKey]| keys.is_sorted_by(|a, b| a.epoch < b.epoch);
        let not_falling = |keys: &[WireKey]| keys.is_sorted_by(|a, b| a.epoch <= b.epoch);
        self.root.is_some() == full
            && self.index.is_some() != full
            && self.id.is_some() == (writer || reader)
            && self.cut.is_some() == writer
            && self.lineage.is_some() == (writer || reader)
            && self.state.is_some() == writer
            && self.authority.is_some() != full
            && self.host.is_some() == (writer || role == Role::Maintenance)
            && self
                .host
                .as_ref()
                .is_some_and(|host| host.ed25519.is_some())
                == writer
            && self.extra.has_shape_of(role)
            && self.identities.is_empty() != (full || reader)
            && self.recipients.is_empty() != (full || reader || writer)
            && rising(&self.identities)
            && not_falling(&self.recipients)
    }

    fn into_set(self, role: Role) -> Result<KeySet, KeyError> {
        let damaged = |detail| KeyError::damaged(WHAT, detail);
        let repo = RepoId(self.repo);
        let identities = self
            .identities
            .iter()
            .map(|key| Identity::parse(key.epoch, &key.text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| damaged("an identity in it cannot be read"))?;
        let recipients = self
            .recipients
            .iter()
            .map(|key| Recipient::parse(key.epoch, &key.text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| damaged("a recipient in it cannot be read"))?;
        if let Some(root) = self.root {
            let mut set = KeySet::from_root(repo, Secret::new(root), identities, recipients)?;
            set.extra.clone_from(&self.extra.0);
            return Ok(set);
        }
        let authority = self
            .authority
            .ok_or(damaged("it does not say whom to trust"))?;
        let mut set = KeySet::empty(repo, role, authority);
        set.id = self.id.map(Secret::new);
        set.cut = self.cut.map(Secret::new);
        set.index = self.index.map(Secret::new);
        set.lineage = self.lineage.map(Secret::new);
        set.state = self.state.map(Secret::new);
        set.extra.clone_from(&self.extra.0);
        if let Some(mut accept) = set.extra.remove(ACCEPT) {
            let key = accept.first_chunk().filter(|_| accept.len() == 32);
            set.accept = key.copied().map(Secret::new);
            accept.zeroize();
        }
        set.identities = identities;
        set.recipients = recipients;
        if let Some(host) = &self.host {
            let name = HostId(host.name.clone());
            check_host(&name).map_err(|_| damaged("the host's name in it cannot be one"))?;
            set.host = Some(OwnHost {
                name,
                hmac: Secret::new(host.hmac),
                ed25519: host.ed25519.as_ref().map(|own| OwnEd25519 {
                    seed: Secret::new(own.seed),
                    certificate: joined(own.certificate),
                }),
            });
        }
        Ok(set)
    }
}

fn halves(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut low, mut high) = ([0; 32], [0; 32]);
    low.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    let rest = bytes.iter().skip(32);
    high.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    (low, high)
}

fn joined((low, high): ([u8; 32], [u8; 32])) -> [u8; 64] {
    let mut out = [0; 64];
    let bytes = low.iter().chain(&high);
    out.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    out
}
