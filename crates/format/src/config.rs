//! The configuration of a repository: what everyone who opens it must know and must agree on.
//!
//! The object `config/0` is created once and never written again; whatever changes later is said
//! by `config/1`, `config/2` and so on, each of them whole, of which the one with the highest
//! number counts. It is not encrypted: the repository's id and what a reader must be able to do
//! are needed before there is a key. It is authenticated, so that a tampered one is found as soon
//! as there is one.
//!
//! | offset | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `BKSYCONF` |
//! | 8 | 2 | version, little endian: 1 |
//! | 10 | n | one postcard value (see below), to 32 bytes before the end |
//! | 10 + n | 32 | HMAC-SHA256 over all bytes before it, under `HKDF-SHA256(salt = repository id, index key, "backstay v1 config mac")` |
//!
//! The value's fields, in this order (postcard 1.x: integers wider than a byte are varints,
//! sequences and texts are led by their length as a varint, arrays are bare bytes):
//!
//! | field | type |
//! |---|---|
//! | number, the `<n>` of its name | `u32` |
//! | repository id, family id | `[u8; 16]` twice |
//! | created, in seconds since 1970 | `u64` |
//! | features needed to read, to write, to verify, to prune | four sequences of texts, each rising |
//! | suites: id hash, aead, compression, merkle | four `u16` |
//! | chunk profiles | sequence, names rising, of { name: text; chunk min, target, max; piece min, average, max; page; bundle limit: eight `u32` } |
//! | recipients | sequence of { epoch `u32`, text `age1…` }, epochs not falling |
//! | extra | see [`crate::extra`] |
//!
//! Names of features and profiles have 1 to 64 characters of `a-z`, `0-9`, `-`; there are at most
//! 64 features of each kind and 64 profiles. At most [`MAX_CONFIG_BYTES`] bytes. Anything after the
//! value, before the HMAC, is damage. The HMAC is the last 32 bytes in every version, and is checked
//! before anything else is believed, the version among it: what was tampered with must not pass for
//! something that a newer program would read.
//!
//! Whoever has the index key can make a configuration that verifies, so writers wrap to the
//! recipients of their own key set, never to those listed here.

use backup_core::RepoId;
use serde::{Deserialize, Serialize};

use crate::extra::{self, Extra};
use crate::keys::{KeyError, KeySet, Recipient, Secret, derive, mac, mac_matches};

mod chunking;
mod cold;
mod features;
mod rotation;

pub use chunking::ChunkProfile;
pub use features::{Features, Operation, Suites};

/// Longest configuration in bytes.
pub const MAX_CONFIG_BYTES: usize = 64 << 10;

/// Most features of a kind, and most chunk profiles.
const MAX_NAMES: usize = 64;
const MAGIC: &[u8; 8] = b"BKSYCONF";
const VERSION: u16 = 1;
const PREFIX: usize = 10;
const MAC: usize = 32;
/// The name of an addition: one byte, how many hundredths of parity writers put beside packs.
const PARITY: &str = "parity";

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The bytes are not those of a configuration, or not the ones that were written.
    #[error("the repository's configuration is damaged: {0}")]
    Damaged(&'static str),
    /// It was written by a version that came after this one.
    #[error(
        "the repository has format version {version}, this Backstay knows version {VERSION}: a newer Backstay is needed"
    )]
    Newer {
        /// The version found.
        version: u16,
    },
    /// The repository asks for something that this version cannot do.
    #[error("this Backstay cannot {operation} this repository, which needs {}: a newer Backstay is needed", .unknown.join(", "))]
    Unsupported {
        /// What was to be done.
        operation: Operation,
        /// What is needed and not known.
        unknown: Vec<String>,
    },
    /// The keys belong to another repository.
    #[error("the key is for repository {keys}, this is repository {config}")]
    OtherRepository {
        /// The repository of the keys.
        keys: RepoId,
        /// The repository of the configuration.
        config: RepoId,
    },
    /// It does not verify: it was changed by someone without the key, or made for other keys.
    #[error(
        "the repository's configuration was changed by someone without the key, or belongs to other keys"
    )]
    Tampered,
    /// It bears another number than its name.
    #[error("the object config/{wanted} holds configuration {found}: objects were exchanged")]
    Misplaced {
        /// The number in the name.
        wanted: u32,
        /// The number inside.
        found: u32,
    },
    /// A value that could not be read back was to be written.
    #[error("the configuration cannot be written: {0}")]
    Invalid(&'static str),
    /// The keys at hand do not do.
    #[error(transparent)]
    Key(#[from] KeyError),
}

/// What everyone who opens a repository must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The number in its name, `config/<number>`.
    pub number: u32,
    /// The repository.
    pub repo: RepoId,
    /// The same in repositories that were made as a family and share their chunk ids and cut
    /// points, so that packs can be copied between them as they are; a repository made by itself
    /// has its own id here.
    pub family: [u8; 16],
    /// When the repository was made, in seconds since 1970.
    pub created: u64,
    /// What a program must be able to do.
    pub features: Features,
    /// The algorithms.
    pub suites: Suites,
    /// How streams are cut, by profile; sorted by name.
    pub chunking: Vec<ChunkProfile>,
    /// The public keys that sessions were wrapped to, oldest epoch first.
    pub recipients: Vec<Recipient>,
    /// What later releases add.
    pub extra: Extra,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    number: u32,
    repo: [u8; 16],
    family: [u8; 16],
    created: u64,
    features: Features,
    suites: Suites,
    chunking: Vec<ChunkProfile>,
    recipients: Vec<(u32, String)>,
    extra: Extra,
}

impl Config {
    /// The configuration of a new repository, number 0: no features beyond version 1, today's
    /// suites, a family of its own, the recipients of `keys`.
    #[must_use]
    pub fn new(keys: &KeySet, created: u64, mut chunking: Vec<ChunkProfile>) -> Self {
        chunking.sort_by(|a, b| a.name.cmp(&b.name));
        Self {
            number: 0,
            repo: keys.repo(),
            family: *keys.repo().as_bytes(),
            created,
            features: Features::default(),
            suites: Suites::default(),
            chunking,
            recipients: keys.all_recipients().to_vec(),
            extra: Extra::new(),
        }
    }

    /// The configuration that follows this one; its fields may be changed before it is sealed.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] when there is no further number.
    pub fn next(&self) -> Result<Self, ConfigError> {
        let number = self
            .number
            .checked_add(1)
            .ok_or(ConfigError::Invalid("no number is left"))?;
        Ok(Self {
            number,
            ..self.clone()
        })
    }

    /// The bytes of the object.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for a value that could not be read back,
    /// [`ConfigError::OtherRepository`] when the keys are another repository's.
    pub fn seal(&self, keys: &KeySet) -> Result<Vec<u8>, ConfigError> {
        self.check().map_err(ConfigError::Invalid)?;
        same_repo(self.repo, keys)?;
        let key = mac_key(keys)?;
        let wire = Wire {
            number: self.number,
            repo: *self.repo.as_bytes(),
            family: self.family,
            created: self.created,
            features: self.features.clone(),
            suites: self.suites,
            chunking: self.chunking.clone(),
            recipients: self
                .recipients
                .iter()
                .map(|key| (key.epoch(), key.to_string()))
                .collect(),
            extra: self.extra.clone(),
        };
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&VERSION.to_le_bytes());
        let mut out = postcard::to_extend(&wire, out)
            .map_err(|_| ConfigError::Invalid("its fields cannot be encoded"))?;
        out.extend_from_slice(&mac(&key, &out));
        if out.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::Invalid("it is too long"));
        }
        Ok(out)
    }

    /// Takes a configuration apart. Nothing in it is certain until [`UnverifiedConfig::verify_mac`].
    ///
    /// # Errors
    /// [`ConfigError::Damaged`].
    pub fn parse(bytes: &[u8]) -> Result<UnverifiedConfig, ConfigError> {
        if bytes.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::Damaged("it is too long"));
        }
        let (signed, mac) = bytes
            .split_last_chunk::<MAC>()
            .ok_or(ConfigError::Damaged("it is cut short"))?;
        if !signed.starts_with(MAGIC) {
            return Err(ConfigError::Damaged("it does not begin like one"));
        }
        if signed.len() < PREFIX {
            return Err(ConfigError::Damaged("it is cut short"));
        }
        Ok(UnverifiedConfig {
            signed: signed.to_vec(),
            mac: *mac,
        })
    }

    /// Reads what stands before the HMAC.
    fn decode(signed: &[u8]) -> Result<Self, ConfigError> {
        let short = || ConfigError::Damaged("it is cut short");
        let rest = signed.get(MAGIC.len()..).ok_or_else(short)?;
        let (version, body) = rest.split_first_chunk::<2>().ok_or_else(short)?;
        let version = u16::from_le_bytes(*version);
        if version != VERSION {
            return Err(ConfigError::Newer { version });
        }
        let (wire, after) = postcard::take_from_bytes::<Wire>(body)
            .map_err(|_| ConfigError::Damaged("its fields cannot be read"))?;
        if !after.is_empty() {
            return Err(ConfigError::Damaged("something follows its fields"));
        }
        let recipients = wire
            .recipients
            .iter()
            .map(|(epoch, text)| Recipient::parse(*epoch, text))
            .collect::<Result<_, _>>()
            .map_err(|_| ConfigError::Damaged("a recipient in it cannot be read"))?;
        let config = Self {
            number: wire.number,
            repo: RepoId(wire.repo),
            family: wire.family,
            created: wire.created,
            features: wire.features,
            suites: wire.suites,
            chunking: wire.chunking,
            recipients,
            extra: wire.extra,
        };
        config.check().map_err(ConfigError::Damaged)?;
        Ok(config)
    }

    /// How much parity writers put beside each pack, in hundredths of it, from 1 to 50; nothing: none. Readers
    /// need it for nothing, so one that cannot be read counts as none.
    #[must_use]
    pub fn parity(&self) -> Option<u8> {
        match self.extra.get(PARITY)?.as_slice() {
            [percent @ 1..=50] => Some(*percent),
            _ => None,
        }
    }

    /// Sets [`Config::parity`].
    pub fn set_parity(&mut self, percent: Option<u8>) {
        match percent {
            Some(percent) => self.extra.insert(PARITY.to_owned(), vec![percent]),
            None => self.extra.remove(PARITY),
        };
    }

    /// The profile of the given name.
    #[must_use]
    pub fn profile(&self, name: &str) -> Option<&ChunkProfile> {
        self.chunking.iter().find(|profile| profile.name == name)
    }

    /// Whether this version can do what is to be done with such a repository.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`], naming every feature and suite that is not known.
    pub fn check_features(&self, operation: Operation) -> Result<(), ConfigError> {
        let mut unknown = self.suites.unknown();
        unknown.extend(self.features.unknown(operation));
        unknown.extend(extra::unknown(&self.extra).map(|name| format!("`{name}`")));
        if unknown.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Unsupported { operation, unknown })
    }

    /// What must hold of a configuration whether it is written or read.
    fn check(&self) -> Result<(), &'static str> {
        self.features.check()?;
        self.check_cold()?;
        if self.chunking.len() > MAX_NAMES {
            return Err("it has too many chunk profiles");
        }
        if !self.chunking.is_sorted_by(|a, b| a.name < b.name) {
            return Err("its chunk profiles are not in order");
        }
        self.chunking.iter().try_for_each(ChunkProfile::check)?;
        if !self.recipients.is_sorted_by(|a, b| a.epoch() <= b.epoch()) {
            return Err("its recipients are not in order");
        }
        if !extra::is_sound(&self.extra) {
            return Err("its additions cannot be such");
        }
        Ok(())
    }
}

/// A configuration as it was found; it may say anything.
#[derive(Debug, Clone)]
pub struct UnverifiedConfig {
    signed: Vec<u8>,
    mac: [u8; MAC],
}

impl UnverifiedConfig {
    /// What it says, true or not: enough to tell a key for another repository.
    ///
    /// # Errors
    /// [`ConfigError::Damaged`], [`ConfigError::Newer`].
    pub fn peek(&self) -> Result<Config, ConfigError> {
        Config::decode(&self.signed)
    }

    /// The configuration, once it is shown to be the one that was written as `config/<number>` by
    /// someone who had the index key. Whether this program may go on is another question:
    /// [`Config::check_features`].
    ///
    /// # Errors
    /// [`ConfigError::OtherRepository`], [`ConfigError::Tampered`], [`ConfigError::Misplaced`], and
    /// of what is authentic [`ConfigError::Newer`], [`ConfigError::Damaged`].
    pub fn verify_mac(&self, number: u32, keys: &KeySet) -> Result<Config, ConfigError> {
        if !mac_matches(&mac_key(keys)?, &self.signed, &self.mac) {
            // It says only why the key does not fit, so it need not be certain.
            if let Ok(config) = self.peek() {
                same_repo(config.repo, keys)?;
            }
            return Err(ConfigError::Tampered);
        }
        let config = self.peek()?;
        same_repo(config.repo, keys)?;
        if config.number != number {
            return Err(ConfigError::Misplaced {
                wanted: number,
                found: config.number,
            });
        }
        Ok(config)
    }
}

fn same_repo(repo: RepoId, keys: &KeySet) -> Result<(), ConfigError> {
    if keys.repo() == repo {
        return Ok(());
    }
    Err(ConfigError::OtherRepository {
        keys: keys.repo(),
        config: repo,
    })
}

fn mac_key(keys: &KeySet) -> Result<Secret, ConfigError> {
    let info: &[&[u8]] = &[b"backstay v1 config mac"];
    Ok(derive(keys.repo().as_bytes(), keys.index_secret()?, info)?)
}

/// Whether a text can name a feature or a profile.
fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests;
