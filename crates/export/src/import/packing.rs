//! How a file is packed, told from its first bytes, and what unpacks it.

use std::io::{self, BufReader, Read};

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    None,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// Bytes of the largest window that zstd may ask for when it unpacks, as a power of two: what its own
/// program takes without being told more.
const ZSTD_WINDOW_LOG: u32 = 27;

impl Packing {
    /// That of a file that begins with these bytes.
    #[must_use]
    pub fn of(begin: &[u8]) -> Self {
        match begin {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::None,
        }
    }

    /// What reads the content of what is packed like that.
    ///
    /// # Errors
    /// What the library says.
    pub fn open(self, packed: Box<dyn Read + Send>) -> io::Result<Box<dyn Read + Send>> {
        let file = BufReader::with_capacity(1 << 18, packed);
        Ok(match self {
            Self::None => Box::new(file),
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
            Self::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(file)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Box::new(decoder)
            }
        })
    }
}

/// What encrypted a file that begins with these bytes; nothing for one that is not encrypted, as far as
/// that can be seen.
pub(crate) fn encrypted_with(begin: &[u8], name: &str) -> Option<&'static str> {
    let is_age = begin.starts_with(b"age-encryption.org/")
        || begin.starts_with(b"-----BEGIN AGE ENCRYPTED FILE-----");
    let is_gpg = begin.starts_with(b"-----BEGIN PGP MESSAGE-----")
        || name.ends_with(".gpg")
        || name.ends_with(".pgp")
        || name.ends_with(".asc");
    match (is_age, is_gpg) {
        (true, _) => Some("age"),
        (_, true) => Some("gpg"),
        _ => None,
    }
}

/// Fills a buffer as far as there is something to read.
pub(crate) fn read_full(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match reader.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
