//! What a program must be able to do with a repository.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{MAX_NAMES, is_name};

/// Features that this version knows beyond those of format version 1, all operations together.
const KNOWN: &[&str] = &[super::cold::FEATURE];

/// What is to be done with a repository; each asks for features of its own, so that an older
/// program can still do what a new feature does not touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Listing and restoring.
    Read,
    /// Adding snapshots.
    Write,
    /// Checking.
    Verify,
    /// Removing snapshots and collecting garbage.
    Prune,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write to",
            Self::Verify => "verify",
            Self::Prune => "prune",
        })
    }
}

/// Names of features that a program must know before it may touch the repository; each list
/// sorted, without repetition. Empty in format version 1.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Features {
    /// Needed to read.
    pub read: Vec<String>,
    /// Needed to write.
    pub write: Vec<String>,
    /// Needed to verify.
    pub verify: Vec<String>,
    /// Needed to prune.
    pub prune: Vec<String>,
}

impl Features {
    /// The features that an operation needs.
    #[must_use]
    pub fn of(&self, operation: Operation) -> &[String] {
        match operation {
            Operation::Read => &self.read,
            Operation::Write => &self.write,
            Operation::Verify => &self.verify,
            Operation::Prune => &self.prune,
        }
    }

    /// Those that this version does not know, as messages name them.
    pub(super) fn unknown(&self, operation: Operation) -> impl Iterator<Item = String> {
        let needed = self.of(operation).iter();
        needed
            .filter(|name| !KNOWN.contains(&name.as_str()))
            .map(|name| format!("feature {name}"))
    }

    pub(super) fn check(&self) -> Result<(), &'static str> {
        for list in [&self.read, &self.write, &self.verify, &self.prune] {
            if list.len() > MAX_NAMES || !list.iter().all(|name| is_name(name)) {
                return Err("a feature's name cannot be one");
            }
            if !list.is_sorted_by(|a, b| a < b) {
                return Err("its features are not in order");
            }
        }
        Ok(())
    }
}

/// The algorithms of a repository, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suites {
    /// What makes chunk ids: 1 BLAKE3 keyed; 2 HMAC-SHA256 (reserved).
    pub id_hash: u16,
    /// What seals: 1 AES-256-GCM.
    pub aead: u16,
    /// What compresses: 1 zstd.
    pub compression: u16,
    /// What the Merkle tree of a snapshot is made of: 1, as the integrity chapter of the format
    /// states it.
    pub merkle: u16,
}

impl Default for Suites {
    fn default() -> Self {
        Self {
            id_hash: 1,
            aead: 1,
            compression: 1,
            merkle: 1,
        }
    }
}

impl Suites {
    /// The suites that this version does not know, as messages name them.
    pub(super) fn unknown(self) -> Vec<String> {
        let all = [
            ("id hash", self.id_hash),
            ("aead", self.aead),
            ("compression", self.compression),
            ("merkle", self.merkle),
        ];
        all.into_iter()
            .filter(|(_, suite)| *suite != 1)
            .map(|(name, suite)| format!("{name} suite {suite}"))
            .collect()
    }
}
