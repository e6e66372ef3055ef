//! The ends of packs: what a pack says of its blobs, and of the data keys that they are sealed with.

use backup_core::{ByteRange, ErrorKind, ObjectKey, OpContext};
use backup_format::pack::{FOOTER, PackHeader, header_length, read_tail};

use crate::error::{EngineError, Result};
use crate::repository::Repository;

/// Of the end of a pack so much is asked for first; most are shorter.
const GUESS: u64 = 64 << 10;

/// What the end of a pack says, and the pack's size in bytes; `None` for one that is gone.
///
/// # Errors
/// [`EngineError::Damaged`] for an end that does not open, or is of a pack of another length; errors of the tier.
pub(crate) async fn read_end(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
) -> Result<Option<(PackHeader, u64)>> {
    // Not as it was listed: it may have been mended since.
    let size = match repo.sink().head(cx, key).await {
        Ok(meta) => meta.size,
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut wanted = GUESS;
    loop {
        let end = match repo.sink().get(cx, key, ByteRange::Suffix(wanted)).await {
            Ok(end) => end,
            Err(error) if error.kind == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let length = length_of(key, &end)?;
        if length > end.len() as u64 {
            if wanted > GUESS || length > size {
                return Err(too_short(key));
            }
            wanted = length;
            continue;
        }
        return Ok(Some((parse(repo, key, &end, size)?, size)));
    }
}

/// What the end of a pack says that is at hand as a whole.
///
/// # Errors
/// [`EngineError::Damaged`] for an end that does not open, or is of a pack of another length.
pub(crate) fn end_of(repo: &Repository, key: &ObjectKey, bytes: &[u8]) -> Result<PackHeader> {
    parse(repo, key, bytes, bytes.len() as u64)
}

fn too_short(key: &ObjectKey) -> EngineError {
    EngineError::damaged(key, "it is too short for a pack")
}

/// How long the end of a pack is, in bytes.
fn length_of(key: &ObjectKey, end: &[u8]) -> Result<u64> {
    let footer = end
        .len()
        .checked_sub(FOOTER)
        .ok_or_else(|| too_short(key))?;
    let header = header_length(end.get(footer..).unwrap_or_default());
    let header = header.map_err(|error| EngineError::wire(key, &error))?;
    Ok((header + FOOTER) as u64)
}

/// The same, whatever lies before the end: what is whole of a torn pack may be found by it.
///
/// # Errors
/// [`EngineError::Damaged`].
pub(crate) fn header_of(repo: &Repository, key: &ObjectKey, end: &[u8]) -> Result<PackHeader> {
    let start = (end.len() as u64).checked_sub(length_of(key, end)?);
    let start = start.ok_or_else(|| too_short(key))? as usize;
    let tail = read_tail(repo.ring(), end.get(start..).unwrap_or_default());
    tail.map_err(|error| EngineError::sealed(key, &error))
}

fn parse(repo: &Repository, key: &ObjectKey, end: &[u8], size: u64) -> Result<PackHeader> {
    let (tail, length) = (header_of(repo, key, end)?, length_of(key, end)?);
    let body: u64 = tail.blobs.iter().map(|blob| u64::from(blob.stored)).sum();
    // What was cut out of its middle, or added, moved everything behind it.
    if body + length != size {
        let why = "its length is not that of what its end names";
        return Err(EngineError::damaged(key, why));
    }
    Ok(tail)
}
