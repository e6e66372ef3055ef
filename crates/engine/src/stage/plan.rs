//! The first stage: what will be captured, and what it can build on.

use std::collections::BTreeSet;
use std::sync::Arc;

use backup_core::{
    CapturePlan, CaptureRequest, Finding, FindingKind, OpContext, SessionId, Severity, SnapshotId,
    Source, SourceInfo,
};

use super::parent::Parent;
use crate::collect::judged_in;
use crate::error::{EngineError, Result};
use crate::listing::Listing;
use crate::repository::{Repository, SnapshotHead};
use crate::snapshot::SnapshotJob;
use crate::view::check_signatures;

/// In so many other lines of the host files are looked for.
const MOST_LINES: usize = 16;

/// A plan, ready to be captured.
#[derive(Debug)]
pub struct Planned {
    pub(super) source: Arc<dyn Source>,
    pub(super) info: SourceInfo,
    pub(super) plan: CapturePlan,
    pub(super) parent: Option<Parent>,
    /// The snapshot of this host in which its files are looked for when no local state tells of
    /// them.
    pub(super) nearest: Option<SnapshotHead>,
    /// Where they are looked for as well: the newest snapshots of its other lines, where this one has none yet.
    pub(super) kin: Vec<SnapshotHead>,
    /// Whether the source was told of the parent and may say that something is as it is there.
    pub(super) may_inherit: bool,
    /// What is done in a lesser way than it could be.
    pub(super) degraded: Option<Finding>,
    /// The snapshots of this host that are there already.
    pub(crate) earlier: Vec<SnapshotId>,
    /// The sessions that were judged by then.
    judged: BTreeSet<SessionId>,
    pub(super) started: jiff::Timestamp,
}

impl Planned {
    /// What the source will capture; showing it is the dry run.
    #[must_use]
    pub const fn capture(&self) -> &CapturePlan {
        &self.plan
    }

    /// The snapshot that it builds on.
    #[must_use]
    pub fn parent(&self) -> Option<&SnapshotHead> {
        self.parent.as_ref().map(|parent| &parent.head)
    }

    /// The snapshot that the source builds on by its own knowledge.
    pub(super) fn inherited_from(&self) -> Option<&Parent> {
        self.parent.as_ref().filter(|_| self.may_inherit)
    }

    /// Looks whether a snapshot that this run builds on, or would record, was left out by a verdict that was not seen
    /// with it ([`Repository::heads_to_build_on`]).
    ///
    /// # Errors
    /// [`EngineError::Parent`] where the run is to begin anew; errors of the tier.
    pub(super) async fn heed_verdicts(
        &mut self,
        repo: &Repository,
        cx: &OpContext,
        listing: &Listing,
    ) -> Result<()> {
        if judged_in(listing).is_subset(&self.judged) {
            return Ok(());
        }
        let (heads, _) = repo.heads(cx).await?;
        let counting: BTreeSet<_> = heads.iter().map(|head| head.meta.id).collect();
        self.earlier.retain(|id| counting.contains(id));
        let parent = self.parent.as_ref().map(|parent| &parent.head);
        let built_on = parent.into_iter().chain(&self.nearest);
        match built_on
            .map(|head| head.meta.id)
            .find(|id| !counting.contains(id))
        {
            None => Ok(()),
            Some(id) => Err(EngineError::Parent {
                path: format!("snapshot {id}"),
                why: "it does not count any more".into(),
            }),
        }
    }
}

/// Plans a snapshot; only reads.
///
/// # Errors
/// Errors of the source and of the tier.
pub async fn plan(
    repo: &Repository,
    cx: &OpContext,
    source: Arc<dyn Source>,
    job: &SnapshotJob,
) -> Result<Planned> {
    plan_on(repo, cx, source, job, None).await
}

/// Plans a snapshot whose source is told of no parent, because that could not give what the source
/// left out.
///
/// # Errors
/// Errors of the source and of the tier.
pub(crate) async fn plan_without_parent(
    repo: &Repository,
    cx: &OpContext,
    source: Arc<dyn Source>,
    job: &SnapshotJob,
    why: &EngineError,
) -> Result<Planned> {
    let subject = source.info().origin.join(", ");
    let detail = format!("everything was read: {why}");
    let degraded = Finding::new(Severity::Warning, FindingKind::Degraded, subject, detail);
    plan_on(repo, cx, source, job, Some(degraded)).await
}

async fn plan_on(
    repo: &Repository,
    cx: &OpContext,
    source: Arc<dyn Source>,
    job: &SnapshotJob,
    degraded: Option<Finding>,
) -> Result<Planned> {
    let started = cx.clock.now();
    // Before anything is asked of the source: it may hold locks, or take long.
    repo.recipients()?;
    let info = source.info();
    let (mut heads, judged) = repo.heads_to_build_on(cx).await?;
    heads.retain(|head| head.meta.host == job.host);
    let parent = Parent::find(repo, &heads, &info, job);
    let signed = |head: &&SnapshotHead| check_signatures(repo, head).is_ok();
    let nearest = match &parent {
        Some(parent) => Some(parent.head.clone()),
        None => heads.iter().rfind(signed).cloned(),
    };
    let kin = match &parent {
        Some(_) => Vec::new(),
        None => newest_of_lines(&heads, signed, nearest.as_ref()),
    };
    let asks = !job.reread && degraded.is_none();
    let hint = parent.as_ref().filter(|_| asks);
    let hint = hint.and_then(|parent| parent.hint(repo, &info, &job.component));
    let may_inherit = hint.is_some() && info.caps.incremental;
    let request = CaptureRequest {
        select: job.select.clone(),
        parent: hint,
    };
    let plan = source.plan(cx, &request).await?;
    Ok(Planned {
        source,
        info,
        plan,
        parent,
        nearest,
        kin,
        may_inherit,
        degraded,
        earlier: heads.iter().map(|head| head.meta.id).collect(),
        judged,
        started,
    })
}

/// The newest snapshot of each line but one, the newest first. Only what this host has signed says where its files lie.
fn newest_of_lines(
    heads: &[SnapshotHead],
    signed: impl Fn(&&SnapshotHead) -> bool,
    but: Option<&SnapshotHead>,
) -> Vec<SnapshotHead> {
    let mut names: BTreeSet<&str> = but.iter().map(|head| head.meta.name.as_str()).collect();
    let newest = heads
        .iter()
        .rev()
        .filter(|head| names.insert(&head.meta.name));
    newest.take(MOST_LINES).filter(signed).cloned().collect()
}
