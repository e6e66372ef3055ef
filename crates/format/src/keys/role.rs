//! Roles: which part of a repository's keys a holder has.

use std::fmt;
use std::str::FromStr;

/// What the holder of a key set may do. A role is nothing but a choice of keys: what it may not do
/// it cannot do, because the key for it is not there.
///
/// Removing history is the one thing that no key is needed for, only a credential of the tier that
/// may delete: which roles are trusted with it is told by [`super::KeySet::may_forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Every key, among them the root key from which keys for others are made. Code 1.
    Full,
    /// Adds and deduplicates data for one host; cannot read what is stored. Code 2.
    Writer,
    /// Reads and restores; cannot add. Code 3.
    Reader,
    /// Forgets and collects garbage, and signs records of that for one host; cannot read data, add
    /// any, or sign snapshots. Code 4.
    Maintenance,
    /// Checks that objects are there and undamaged; cannot read data. Code 5.
    Verifier,
}

impl Role {
    /// Every role, in the order of their codes.
    pub const ALL: [Self; 5] = [
        Self::Full,
        Self::Writer,
        Self::Reader,
        Self::Maintenance,
        Self::Verifier,
    ];

    /// The code of the role in stored bytes.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Full => 1,
            Self::Writer => 2,
            Self::Reader => 3,
            Self::Maintenance => 4,
            Self::Verifier => 5,
        }
    }

    /// The role with the given code, if this version knows it.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.code() == code)
    }

    /// The name of the role as commands and messages spell it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Writer => "writer",
            Self::Reader => "reader",
            Self::Maintenance => "maintenance",
            Self::Verifier => "verifier",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A text that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use full, writer, reader, maintenance or verifier")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownRole(text.to_owned()))
    }
}

/// A key of the set that an operation asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Need {
    /// The root key, from which all others but the identities are derived.
    Root,
    /// The key of chunk ids.
    Id,
    /// The key of cut points and piece digests.
    Cut,
    /// The key of what every role reads.
    Index,
    /// The key of lineage objects.
    Lineage,
    /// The key of local caches.
    State,
    /// The keys that sign for a host.
    HostKeys,
    /// The key by which a host signs records of the ledger.
    LedgerKey,
    /// The key that says that lost records of the ledger are known.
    Accept,
    /// The identities that open session keys.
    Identities,
    /// The recipients that session keys are wrapped to.
    Recipients,
}

impl Need {
    /// What cannot be done without the key, as the end of "it cannot …".
    #[must_use]
    pub const fn purpose(self) -> &'static str {
        match self {
            Self::Root => "make keys for others",
            Self::Id => "add data or check its content",
            Self::Lineage => "add data or read long lists of extents",
            Self::Cut | Self::Recipients => "add data",
            Self::Index => "open the index",
            Self::State => "keep a cache of what was saved",
            Self::HostKeys => "sign snapshots",
            Self::LedgerKey => "sign records of the ledger",
            Self::Accept => "say that lost records of the ledger are known",
            Self::Identities => "read data",
        }
    }

    /// The keys that would do, as the end of "use a …".
    #[must_use]
    pub const fn holders(self) -> &'static str {
        match self {
            Self::Root => "full key",
            Self::Id | Self::Lineage => "writer, reader or full key",
            Self::Cut | Self::Recipients | Self::State | Self::HostKeys => "writer or full key",
            Self::LedgerKey => "writer, maintenance or full key",
            Self::Accept => "full key, or a maintenance key that is made anew",
            Self::Index => "key of any role",
            Self::Identities => "reader or full key",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Root => "root key",
            Self::Id => "id key",
            Self::Cut => "cut key",
            Self::Index => "index key",
            Self::Lineage => "lineage key",
            Self::State => "state key",
            Self::HostKeys => "signing keys of a host",
            Self::LedgerKey => "ledger key of a host",
            Self::Accept => "key that accepts",
            Self::Identities => "identities",
            Self::Recipients => "recipients",
        })
    }
}
