//! The fourth stage: a session with a data key of its own, and the threads that compress, seal and
//! check every chunk before it leaves.
//!
//! A collector of garbage writes down what it is about to remove before it looks for sessions, so a
//! writer announces its session before it looks at anything that it will build on: either the
//! collector sees the session, or the writer sees what the collector wrote, and names none of it.
//! Behind that it looks whether what the index names is there at all ([`crate::presence`]).

use std::sync::Arc;

use backup_core::{Finding, OpContext};
use backup_format::config::Operation;

use super::chunk::Chunked;
use crate::announced::Alive;
use crate::collect::{Collection, settle};
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::presence::passing_over_absent;
use crate::repository::Repository;
use crate::snapshot::SnapshotJob;
use crate::store::{BlobStore, Session};

/// Everything ready for the entries to flow.
#[derive(Debug)]
pub struct Sealing {
    pub(super) chunked: Chunked,
    pub(super) session: Session,
    /// Tells others that the session is at work.
    pub(super) alive: Alive,
    pub(super) store: BlobStore,
    /// The index that everything is compared with, as it was behind the announcement. What it does
    /// not find this run does not name.
    pub(super) index: Arc<IndexSet>,
    /// What is wrong with the repository that the run builds on. The snapshot is whole all the same.
    pub(super) noticed: Vec<Finding>,
}

impl Sealing {
    /// The session that was begun.
    pub(crate) const fn session(&self) -> &Session {
        &self.session
    }
}

/// Begins a session, looks what the repository is now, and starts the threads.
///
/// # Errors
/// [`EngineError::Key`] for a key that cannot write; [`EngineError::Damaged`] where it cannot be told
/// what is being collected; errors of the tier.
pub async fn seal(
    repo: &Repository,
    cx: &OpContext,
    chunked: Chunked,
    job: &SnapshotJob,
) -> Result<Sealing> {
    let session = Session::begin(repo, cx, &job.host).await?;
    let wrap = session.wrap().wrap;
    let alive = session
        .announced()
        .keep_alive(repo, cx, wrap, job.checkpoint.alive);
    let begun = async {
        let (index, unread) = look_again(repo, cx).await?;
        let parent = chunked.captured.planned.nearest.as_ref();
        let mut noticed = repo.damaged_runs();
        noticed.extend(unread);
        let (index, absent) = passing_over_absent(repo, cx, index, parent, job.reread).await?;
        noticed.extend(absent);
        let options = (job.compression, job.checkpoint.index_bytes);
        let store = BlobStore::start(repo, cx, session.clone(), index.clone(), options)?;
        Ok::<_, EngineError>((index, store, noticed))
    };
    match begun.await {
        Ok((index, store, noticed)) => Ok(Sealing {
            chunked,
            session,
            alive,
            store,
            index,
            noticed,
        }),
        Err(error) => {
            session.announced().end_of_failed(repo, cx).await;
            Err(error)
        }
    }
}

/// The index as it is behind the announcement of a session, without the packs that this session must
/// not name: they are dead, or may be before it has named them. With what is to be said of decisions that cannot be
/// read.
async fn look_again(repo: &Repository, cx: &OpContext) -> Result<(Arc<IndexSet>, Vec<Finding>)> {
    settle(repo, cx).await;
    repo.check_features(cx, Operation::Write).await?;
    let collection = repo.collection(cx).await?;
    let findings = collection.findings()?;
    let Collection {
        condemned, dead, ..
    } = collection;
    repo.pass_over(dead);
    repo.refresh_index(cx).await?;
    Ok((Arc::new(repo.index().avoiding(&condemned)), findings))
}
