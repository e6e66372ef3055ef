//! Whether the tier has what is to stand for something else. A prune deletes what it has copied, so it believes no
//! tier that says that it has stored the copy: it reads each back, and what comes must hash to its name.

use backup_core::{ByteRange, ErrorKind, ObjectKey, OpContext};
use backup_integrity::digest::ContentHasher;
use futures::StreamExt as _;

use crate::cold::not_read_back;
use crate::collect::settle;
use crate::error::{EngineError, Result};
use crate::repository::Repository;

/// So much of an object is read at once.
const STRETCH: u64 = 1 << 20;
/// So many objects are read at the same time, on however many connections.
const AT_ONCE: usize = 4;
/// An answer can be wrong where the object is right.
const TRIES: usize = 2;

/// An object that was written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) key: ObjectKey,
    /// What its bytes hash to.
    pub(super) sha256: [u8; 32],
    /// Bytes.
    pub(super) size: u64,
}

/// What is there of an object that was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Whole,
    Absent,
    /// Not what was written; in words.
    Other(String),
}

/// Reads objects back that the tier said to have stored.
///
/// # Errors
/// [`EngineError::Unprunable`] if one is not what was written; [`EngineError::Cancelled`]; errors of the tier.
pub(super) async fn are_whole(
    repo: &Repository,
    cx: &OpContext,
    written: Vec<Written>,
) -> Result<()> {
    settle(repo, cx).await;
    let at_once = repo.connections(cx).min(AT_ONCE);
    let mut asked = futures::stream::iter(written)
        .map(|one| async move { (look(repo, cx, &one).await, one.key) })
        .buffer_unordered(at_once);
    while let Some((found, key)) = asked.next().await {
        match found? {
            Kept::Whole => {}
            Kept::Absent => return Err(not_kept(&format!("{key} is not there"))),
            Kept::Other(what) => return Err(not_kept(&what)),
        }
    }
    Ok(())
}

/// Reads one object back.
///
/// # Errors
/// [`EngineError::Cancelled`]; errors of the tier.
pub(super) async fn look(repo: &Repository, cx: &OpContext, written: &Written) -> Result<Kept> {
    let (key, size) = (&written.key, written.size);
    match repo.sink().head(cx, key).await {
        Ok(meta) if meta.size == size => {}
        Ok(meta) => {
            let what = format!("{key} has {} bytes instead of {size}", meta.size);
            return Ok(Kept::Other(what));
        }
        Err(error) if error.kind == ErrorKind::NotFound => return Ok(Kept::Absent),
        Err(error) => return Err(error.into()),
    }
    for _ in 0..TRIES {
        match sha256_of(repo, cx, key, size).await {
            Ok(found) if found == written.sha256 => return Ok(Kept::Whole),
            Ok(_) => {}
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::NotFound => {
                return Ok(Kept::Absent);
            }
            Err(EngineError::Sink(error)) if error.kind == ErrorKind::Damaged => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Kept::Other(format!("{key} holds something else")))
}

async fn sha256_of(
    repo: &Repository,
    cx: &OpContext,
    key: &ObjectKey,
    size: u64,
) -> Result<[u8; 32]> {
    let mut hasher = ContentHasher::new();
    let mut offset = 0;
    while offset < size {
        if cx.cancel.is_cancelled() {
            return Err(EngineError::Cancelled);
        }
        let length = STRETCH.min(size - offset);
        let range = ByteRange::Span { offset, length };
        let bytes = repo.sink().get(cx, key, range).await;
        let bytes = bytes.map_err(|error| not_read_back(key, error.into()))?;
        let hashing = tokio::task::spawn_blocking(move || {
            hasher.update(&bytes);
            hasher
        });
        hasher = (hashing.await).map_err(|_| EngineError::Panicked("a hashing thread"))?;
        offset += length;
    }
    Ok(hasher.finish().0)
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hasher = ContentHasher::new();
    hasher.update(bytes);
    hasher.finish().0
}

/// The tier lies.
pub(super) fn not_kept(what: &str) -> EngineError {
    EngineError::Unprunable(format!(
        "the tier said that it has stored what was to replace it, and {what}: look at the disk or the server of the repository, then prune again"
    ))
}
