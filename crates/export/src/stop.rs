//! Work on large files that ends soon when it is cancelled: whoever copies or hashes asks between pieces.

use std::io::{self, Read, Write};

use backup_integrity::digest::{ContentDigest, ContentHasher};

/// Says whether to stop.
pub(crate) type Stop<'s> = &'s (dyn Fn() -> bool + Sync);

/// Bytes between two questions.
const PIECE: usize = 256 << 10;

/// That it was stopped. An error of the system of the kind `Interrupted` would be tried again.
#[derive(Debug, thiserror::Error)]
#[error("cancelled")]
struct Stopped;

/// The error of work that was stopped.
pub(crate) fn stopped() -> io::Error {
    io::Error::other(Stopped)
}

/// Whether an error says that work was stopped.
pub(crate) fn is_stopped(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Stopped>())
}

/// Copies all that a reader yields; says how much that was.
pub(crate) fn copy(
    reader: &mut dyn Read,
    writer: &mut dyn Write,
    stop: Stop<'_>,
) -> io::Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut copied = 0;
    loop {
        if stop() {
            return Err(stopped());
        }
        match reader.read(&mut piece) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                writer.write_all(piece.get(..read).unwrap_or_default())?;
                copied += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The digest of all that a reader yields, and how much that was.
pub(crate) fn digest_of(mut reader: impl Read, stop: Stop<'_>) -> io::Result<(ContentDigest, u64)> {
    let mut hasher = ContentHasher::new();
    let bytes = copy(&mut reader, &mut hasher, stop)?;
    Ok((hasher.finish(), bytes))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_never_ends_is_stopped_amid_it() {
        let asked = AtomicU32::new(0);
        let stop = || asked.fetch_add(1, Ordering::Relaxed) == 3;
        let error = digest_of(io::repeat(0), &stop).unwrap_err();
        assert!(is_stopped(&error), "{error}");
        assert!(!is_stopped(&io::ErrorKind::Interrupted.into()));
        let (digest, bytes) = digest_of(&b"abc"[..], &|| false).unwrap();
        assert_eq!(bytes, 3);
        assert!(digest.to_string().starts_with("ba7816bf"));
    }
}
