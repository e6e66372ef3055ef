//! The fourth stage: a session with a data key of its own, and the threads that compress, seal and
//! check every chunk before it leaves.

use backup_core::OpContext;

use super::chunk::Chunked;
use crate::error::Result;
use crate::repository::Repository;
use crate::snapshot::SnapshotJob;
use crate::store::{BlobStore, Session};

/// Everything ready for the entries to flow.
#[derive(Debug)]
pub struct Sealing {
    pub(super) chunked: Chunked,
    pub(super) session: Session,
    pub(super) store: BlobStore,
}

/// Begins a session and starts the threads.
///
/// # Errors
/// [`crate::EngineError::Key`] for a key that cannot write; errors of the tier.
pub async fn seal(
    repo: &Repository,
    cx: &OpContext,
    chunked: Chunked,
    job: &SnapshotJob,
) -> Result<Sealing> {
    let session = Session::begin(repo, cx, &job.host).await?;
    let index_bytes = job.checkpoint.index_bytes;
    let store = BlobStore::start(repo, cx, session.clone(), job.compression, index_bytes)?;
    Ok(Sealing {
        chunked,
        session,
        store,
    })
}
