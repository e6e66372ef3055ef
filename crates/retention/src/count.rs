//! How many slots of a rule are kept.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// A text that is not a count.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a count: write a number, or `all`")]
pub struct ParseCountError(pub String);

/// A number of slots. Written as a number or as `all`; zero is the same as no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Count {
    /// So many.
    AtMost(u32),
    /// All that there are.
    All,
}

impl Count {
    /// Whether at least one is kept.
    #[must_use]
    pub const fn is_some(self) -> bool {
        !matches!(self, Self::AtMost(0))
    }

    /// One less.
    pub(crate) const fn less_one(self) -> Self {
        match self {
            Self::AtMost(count) => Self::AtMost(count.saturating_sub(1)),
            Self::All => Self::All,
        }
    }
}

impl From<u32> for Count {
    fn from(count: u32) -> Self {
        Self::AtMost(count)
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(count) => write!(f, "{count}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl FromStr for Count {
    type Err = ParseCountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "all" {
            return Ok(Self::All);
        }
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let count = text.parse().ok().filter(|_| digits);
        count
            .map(Self::AtMost)
            .ok_or_else(|| ParseCountError(text.to_owned()))
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::AtMost(count) => serializer.serialize_u32(*count),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrAll;
        impl Visitor<'_> for NumberOrAll {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, or \"all\"")
            }

            fn visit_u64<E: de::Error>(self, count: u64) -> Result<Count, E> {
                let short = u32::try_from(count);
                short
                    .map(Count::AtMost)
                    .map_err(|_| E::custom(ParseCountError(count.to_string())))
            }

            fn visit_i64<E: de::Error>(self, count: i64) -> Result<Count, E> {
                let short = u32::try_from(count);
                short
                    .map(Count::AtMost)
                    .map_err(|_| E::custom(ParseCountError(count.to_string())))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Count, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(NumberOrAll)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_a_number_or_all() {
        assert_eq!("12".parse(), Ok(Count::AtMost(12)));
        assert_eq!("all".parse(), Ok(Count::All));
        for text in ["", "-1", "+1", "many", "1.5", "4294967296", "ALL"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
        assert!(Count::AtMost(u32::MAX) < Count::All);
    }
}
