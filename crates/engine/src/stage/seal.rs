//! The fourth stage: a session with a data key of its own, and the threads that compress, seal and
//! check every chunk before it leaves.
//!
//! A collector of garbage writes down what it is about to remove before it looks for sessions, so a
//! writer announces its session before it looks at anything that it will build on: either the
//! collector sees the session, or the writer sees what the collector wrote, and names none of it.
//! Behind that it looks whether what the index names is there at all ([`crate::presence`]).

use std::sync::Arc;

use backup_core::{Finding, KeyRange, OpContext};
use backup_format::config::Operation;

use super::chunk::Chunked;
use crate::announced::Alive;
use crate::collect::{Collection, settle};
use crate::configs::FOLDERS;
use crate::error::{EngineError, Result};
use crate::index_set::IndexSet;
use crate::ledger::{LedgerEnd, LedgerSeen};
use crate::listing::{Listing, Looking};
use crate::presence::{passing_over_absent, ranges_of_look};
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
    /// What was seen of the ledger on the way, if anything.
    pub(super) ledger: Option<LedgerSeen>,
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
    mut chunked: Chunked,
    job: &SnapshotJob,
) -> Result<Sealing> {
    let session = Session::begin(repo, cx, &job.host).await?;
    let wrap = session.wrap().wrap;
    let alive = session
        .announced()
        .keep_alive(repo, cx, wrap, job.checkpoint.alive);
    let begun = async {
        let seen = look_again(repo, cx, job).await?;
        let planned = &mut chunked.captured.planned;
        planned.heed_verdicts(repo, cx, &seen.listing).await?;
        let mut noticed = repo.damaged_runs();
        noticed.extend(seen.unread);
        let (parent, listing) = (planned.nearest.as_ref(), &seen.listing);
        let (index, absent) = passing_over_absent(repo, cx, seen.index, parent, listing).await?;
        noticed.extend(absent);
        let options = (job.compression, job.checkpoint.index_bytes);
        let store = BlobStore::start(repo, cx, session.clone(), index.clone(), options)?;
        Ok::<_, EngineError>((index, store, noticed, seen.ledger))
    };
    match begun.await {
        Ok((index, store, noticed, ledger)) => Ok(Sealing {
            chunked,
            session,
            alive,
            store,
            index,
            noticed,
            ledger,
        }),
        Err(error) => {
            session.announced().end_of_failed(repo, cx).await;
            Err(error)
        }
    }
}

/// What the repository is behind the announcement of a session.
struct Ground {
    /// The index without the packs that this session must not name: they are dead, or may be before it has named them.
    index: Arc<IndexSet>,
    /// What is to be said of decisions that cannot be read.
    unread: Vec<Finding>,
    ledger: Option<LedgerSeen>,
    listing: Listing,
}

/// Looks what the repository is now: with one listing of all that counts, since of this only that it is begun behind the
/// announcement matters. The end of the ledger is seen with it where that costs nothing; what is recorded meanwhile, whoever
/// appends finds out.
async fn look_again(repo: &Repository, cx: &OpContext, job: &SnapshotJob) -> Result<Ground> {
    settle(repo, cx).await;
    let folders = FOLDERS.into_iter().chain(["gc/", "verdicts/", "index/"]);
    let mut ranges: Vec<_> = folders.map(KeyRange::below).collect();
    ranges.extend(ranges_of_look(repo, cx, job.reread));
    let end = LedgerEnd::known(repo);
    let looking = Looking::begin(cx, &**repo.sink(), &ranges, end.range()?);
    let listing = looking.end().await?;
    let ledger = end.seen(&listing);
    repo.check_features_by(cx, Operation::Write, &listing)
        .await?;
    let collection = repo.collection_by(cx, &listing).await?;
    let unread = collection.findings()?;
    let Collection {
        condemned, dead, ..
    } = collection;
    repo.pass_over(dead);
    repo.refresh_index_by(cx, Some(&listing)).await?;
    Ok(Ground {
        index: Arc::new(repo.index().avoiding(&condemned)),
        unread,
        ledger,
        listing,
    })
}
