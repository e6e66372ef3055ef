//! Identifiers as newtypes, so that one kind can never be passed for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A text that does not spell an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}: {wanted}")]
pub struct ParseIdError {
    /// What was to be read, for example `snapshot id`.
    pub kind: &'static str,
    /// The offending text.
    pub text: String,
    /// The form that is wanted.
    pub wanted: &'static str,
}

fn hex_decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    let bytes = text.as_bytes();
    if bytes.len() != N * 2 {
        return None;
    }
    let mut out = [0u8; N];
    for (slot, pair) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *slot = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:expr, $kind:expr, $wanted:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes of the id.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                hex_decode(text).map(Self).ok_or_else(|| ParseIdError {
                    kind: $kind,
                    text: text.to_owned(),
                    wanted: $wanted,
                })
            }
        }
    };
}

byte_id!(
    /// Keyed hash of a chunk's plain content; equal content has equal ids within one repository.
    ChunkId, 32, "chunk id", "64 hexadecimal digits"
);
byte_id!(
    /// SHA-256 of a pack's bytes, which is also its name on a tier.
    PackId, 32, "pack id", "64 hexadecimal digits"
);
byte_id!(
    /// Identity of a repository and all its copies on other tiers.
    RepoId, 16, "repository id", "32 hexadecimal digits"
);

impl ChunkId {
    /// The first 16 bytes: the key under which the index finds the chunk.
    #[must_use]
    pub fn prefix(&self) -> [u8; 16] {
        let mut out = [0u8; 16];
        out.copy_from_slice(&self.0[..16]);
        out
    }
}

/// The alphabet of Crockford's base 32, in which ULIDs are spelled.
const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

macro_rules! ulid_id {
    ($(#[$doc:meta])* $name:ident, $kind:expr) => {
        $(#[$doc])*
        ///
        /// A ULID: 48 bits of milliseconds since 1970, then 80 random bits; spelled as 26
        /// characters of Crockford's base 32, so that names sort by time.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub u128);

        impl $name {
            /// Builds an id from a time in milliseconds since 1970 and 80 bits of randomness.
            #[must_use]
            pub fn from_parts(millis: u64, random: [u8; 10]) -> Self {
                let mut tail = [0u8; 16];
                tail[6..].copy_from_slice(&random);
                let time = u128::from(millis & 0xFFFF_FFFF_FFFF) << 80;
                Self(time | u128::from_be_bytes(tail))
            }

            /// The time part, in milliseconds since 1970, as the writer claims it.
            #[must_use]
            pub fn millis(&self) -> u64 {
                u64::try_from(self.0 >> 80).unwrap_or(u64::MAX)
            }

            /// The id as 16 bytes, most significant first.
            #[must_use]
            pub fn to_bytes(&self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// The id from 16 bytes, most significant first.
            #[must_use]
            pub fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(u128::from_be_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                (0..26).rev().try_for_each(|digit| {
                    let value = (self.0 >> (digit * 5)) & 31;
                    let letter = CROCKFORD[usize::try_from(value).unwrap_or(0)];
                    write!(f, "{}", char::from(letter))
                })
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let wrong = || ParseIdError {
                    kind: $kind,
                    text: text.to_owned(),
                    wanted: "26 characters of Crockford's base 32",
                };
                // 26 digits hold 130 bits: the first digit may only carry three.
                if text.len() != 26 || !text.as_bytes()[0].is_ascii_digit() || text.as_bytes()[0] > b'7' {
                    return Err(wrong());
                }
                text.bytes().try_fold(0u128, |value, byte| {
                    let upper = byte.to_ascii_uppercase();
                    let digit = CROCKFORD.iter().position(|&letter| letter == upper);
                    let digit = digit.and_then(|digit| u128::try_from(digit).ok());
                    Ok((value << 5) | digit.ok_or_else(wrong)?)
                })
                .map(Self)
            }
        }
    };
}

ulid_id!(
    /// Names one snapshot.
    SnapshotId, "snapshot id"
);
ulid_id!(
    /// Names one writing session: everything a session stores is sealed under its data key.
    SessionId, "session id"
);

impl SnapshotId {
    /// The eight last characters, enough to tell snapshots of one repository apart by eye.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().split_off(18)
    }
}

/// The host (or agent) that writes: its name keys the signatures of its snapshots.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostId(pub String);

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulid_survives_its_spelling() {
        let id = SnapshotId::from_parts(1_700_000_000_123, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(id.to_string().parse::<SnapshotId>().unwrap(), id);
        assert_eq!(id.millis(), 1_700_000_000_123);
        assert_eq!(SnapshotId::from_bytes(id.to_bytes()), id);
        assert!("8ZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<SnapshotId>().is_err());
        assert!("é".repeat(13).parse::<SnapshotId>().is_err());
    }

    #[test]
    fn ulids_sort_by_time() {
        let early = SessionId::from_parts(1, [255; 10]);
        let late = SessionId::from_parts(2, [0; 10]);
        assert!(early < late && early.to_string() < late.to_string());
    }

    #[test]
    fn hexadecimal_ids_are_read_back_and_refused_when_wrong() {
        let id = ChunkId([0xab; 32]);
        assert_eq!(id.to_string().parse::<ChunkId>().unwrap(), id);
        assert!("zz".parse::<ChunkId>().is_err());
    }
}
