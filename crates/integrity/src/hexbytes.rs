//! Fixed numbers of bytes that are written as lower-case hexadecimal digits.

/// A text that is not the wanted number of lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {wanted} lower-case hexadecimal digits")]
pub struct HexError {
    /// How many digits are wanted.
    pub wanted: usize,
}

/// Decodes exactly `N` bytes. Upper-case digits are refused, so that each value has one spelling
/// and a document cannot be altered without the alteration being seen.
pub(crate) fn decode_fixed<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let mut out = [0u8; N];
    let lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
    if !lower || hex::decode_to_slice(text, &mut out).is_err() {
        return Err(HexError { wanted: N * 2 });
    }
    Ok(out)
}

/// Defines a newtype over `[u8; N]` that is shown, parsed and serialised as hexadecimal digits.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// The bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut digits = [0u8; $len * 2];
                // Cannot fail: there are two digits for each byte, and digits are ASCII.
                let _ = hex::encode_to_slice(&self.0, &mut digits);
                f.write_str(std::str::from_utf8(&digits).unwrap_or_default())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::HexError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $crate::hexbytes::decode_fixed(text).map(Self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_has_exactly_one_spelling() {
        assert_eq!(decode_fixed::<2>("00af"), Ok([0x00, 0xaf]));
        for bad in ["00aF", "00a", "00af0", "", "zzzz", "é0a"] {
            assert_eq!(decode_fixed::<2>(bad), Err(HexError { wanted: 4 }), "{bad}");
        }
    }
}
