//! The fourth stage: a session with a data key of its own, and the threads that compress, seal and
//! check every chunk before it leaves.
//!
//! A collector of garbage writes down what it is about to remove before it looks for sessions, so a
//! writer announces its session before it looks at anything that it will build on: either the
//! collector sees the session, or the writer sees what the collector wrote.

use std::sync::Arc;

use backup_core::OpContext;
use backup_format::config::Operation;
use futures::StreamExt;

use super::chunk::Chunked;
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::repository::Repository;
use crate::snapshot::SnapshotJob;
use crate::store::{BlobStore, Session};

/// Everything ready for the entries to flow.
#[derive(Debug)]
pub struct Sealing {
    pub(super) chunked: Chunked,
    pub(super) session: Session,
    pub(super) store: BlobStore,
    /// The index that everything is compared with, as it was behind the announcement.
    pub(super) index: Arc<IndexSet>,
}

/// Begins a session, looks what the repository is now, and starts the threads.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot write; [`EngineError::Newer`] where a newer program is
/// collecting garbage; errors of the tier.
pub async fn seal(
    repo: &Repository,
    cx: &OpContext,
    chunked: Chunked,
    job: &SnapshotJob,
) -> Result<Sealing> {
    let session = Session::begin(repo, cx, &job.host).await?;
    if let Err(error) = look_again(repo, cx).await {
        // Nobody needs to wait for it. That its end cannot be told changes nothing.
        let _ = session.end(repo, cx).await;
        return Err(error);
    }
    let index = repo.index();
    let options = (job.compression, job.checkpoint.index_bytes);
    let store = BlobStore::start(repo, cx, session.clone(), index.clone(), options)?;
    Ok(Sealing {
        chunked,
        session,
        store,
        index,
    })
}

/// What must be known of the repository as it is behind the announcement of a session.
async fn look_again(repo: &Repository, cx: &OpContext) -> Result<()> {
    repo.check_features(cx, Operation::Write).await?;
    if let Some(found) = repo.sink().list(cx, "gc/", None).next().await {
        let why = "it is of a collection of garbage, which this Backstay does not know: a newer Backstay is needed, or whoever may write to the tier has put it there";
        return Err(EngineError::Newer(format!("{}: {why}", found?.key)));
    }
    repo.refresh_index(cx).await
}
