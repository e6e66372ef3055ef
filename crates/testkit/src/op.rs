//! The calls of a sink by name.

use std::fmt;

/// A call of [`backup_core::Sink`] that does I/O.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// `put`.
    Put,
    /// `get`.
    Get,
    /// `head`.
    Head,
    /// `list`.
    List,
    /// `delete`.
    Delete,
    /// `warm`.
    Warm,
    /// `extend_lock`.
    Lock,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Put,
        Self::Get,
        Self::Head,
        Self::List,
        Self::Delete,
        Self::Warm,
        Self::Lock,
    ];

    /// Its name.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Warm => "warm",
            Self::Lock => "lock",
        }
    }

    /// Whether it changes what is stored.
    #[must_use]
    pub const fn is_mutating(self) -> bool {
        matches!(self, Self::Put | Self::Delete | Self::Lock)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.verb())
    }
}
