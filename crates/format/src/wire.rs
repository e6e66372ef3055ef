//! Reading and writing of the format's own binary layouts: little-endian fixed numbers and LEB128
//! varints. Reading is strict: it never panics, never allocates more than the input could fill,
//! and a varint must be the shortest spelling of its number.

/// Bytes that are not what the format says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end too early.
    #[error("the bytes end too early")]
    Short,
    /// A number is out of the range allowed at its place.
    #[error("{0} is out of range")]
    Range(&'static str),
    /// Bytes are left over at the end.
    #[error("{0} bytes are left over at the end")]
    Trailing(usize),
    /// The beginning is not that of an object of this kind.
    #[error("this is not a {0}")]
    Magic(&'static str),
    /// The object is of a version that this program does not know.
    #[error(
        "a {what} of version {found} is newer than this program, which knows version {known}: use a newer Backstay"
    )]
    Version {
        /// What it is.
        what: &'static str,
        /// Version found.
        found: u32,
        /// Newest version known.
        known: u32,
    },
    /// The object needs something that a newer program added to it.
    #[error("a {what} needs `{name}`, which this program does not know: use a newer Backstay")]
    Needs {
        /// What it is.
        what: &'static str,
        /// What it needs.
        name: String,
    },
    /// A structured part does not decode.
    #[error("{0} does not decode")]
    Decode(&'static str),
}

/// Appends numbers to bytes.
pub trait Put {
    /// Appends a varint.
    fn put_varint(&mut self, value: u64);
    /// Appends a varint length and the bytes.
    fn put_bytes(&mut self, bytes: &[u8]);
}

impl Put for Vec<u8> {
    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn put_bytes(&mut self, bytes: &[u8]) {
        self.put_varint(bytes.len() as u64);
        self.extend_from_slice(bytes);
    }
}

/// Takes numbers from bytes.
#[derive(Debug, Clone)]
pub struct Take<'a> {
    rest: &'a [u8],
}

impl<'a> Take<'a> {
    /// Reads from the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn slice(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError::Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u8(&mut self) -> Result<u8, WireError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// Two bytes, little-endian.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u16(&mut self) -> Result<u16, WireError> {
        self.array().map(u16::from_le_bytes)
    }

    /// Four bytes, little-endian.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u32(&mut self) -> Result<u32, WireError> {
        self.array().map(u32::from_le_bytes)
    }

    /// Eight bytes, little-endian.
    ///
    /// # Errors
    /// [`WireError::Short`].
    pub fn u64(&mut self) -> Result<u64, WireError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A varint in its shortest spelling.
    ///
    /// # Errors
    /// [`WireError`] when it ends too early, is too large or not the shortest spelling.
    pub fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(WireError::Range("a varint"));
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(WireError::Range("a varint"));
                }
                return Ok(value);
            }
        }
        Err(WireError::Range("a varint"))
    }

    /// A varint that counts things of at least `each` bytes, so it cannot exceed what is left.
    ///
    /// # Errors
    /// [`WireError`] as for a varint, or when more are announced than the bytes can hold.
    pub fn count(&mut self, each: usize) -> Result<usize, WireError> {
        let count = usize::try_from(self.varint()?).map_err(|_| WireError::Range("a count"))?;
        if count.saturating_mul(each.max(1)) > self.left() {
            return Err(WireError::Range("a count"));
        }
        Ok(count)
    }

    /// A varint length and so many bytes.
    ///
    /// # Errors
    /// [`WireError`].
    pub fn bytes(&mut self) -> Result<&'a [u8], WireError> {
        let count = self.count(1)?;
        self.slice(count)
    }

    /// The end: nothing may be left.
    ///
    /// # Errors
    /// [`WireError::Trailing`].
    pub const fn end(&self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(WireError::Trailing(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64) {
            let mut out = Vec::new();
            out.put_varint(value);
            let mut take = Take::new(&out);
            prop_assert_eq!(take.varint(), Ok(value));
            prop_assert_eq!(take.end(), Ok(()));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let mut take = Take::new(&bytes);
            while take.left() > 0 {
                if take.bytes().is_err() { break }
            }
        }
    }

    #[test]
    fn a_varint_has_one_spelling() {
        assert!(Take::new(&[0x80, 0x00]).varint().is_err());
        assert!(Take::new(&[0xff; 10]).varint().is_err());
    }
}
