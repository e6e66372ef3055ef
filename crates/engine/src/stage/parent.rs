//! The snapshot that a run builds on, and what of it is at hand.

use backup_core::{ParentHint, SourceInfo};
use backup_format::seal::ObjectKeyring;

use crate::error::Result;
use crate::lineage::ParentTrees;
use crate::repository::{Repository, SnapshotHead};
use crate::snapshot::SnapshotJob;
use crate::state::StatePaths;
use crate::view::{check_signatures, handover};

/// The snapshot that a run builds on.
#[derive(Debug)]
pub(super) struct Parent {
    /// Its head.
    pub(super) head: SnapshotHead,
    /// Whether the local state is that of this snapshot.
    pub(super) has_state: bool,
}

impl Parent {
    /// The snapshot of the job's line that the local state is of; else the newest. Others may put
    /// snapshots there that claim to be of this host: only what it signed itself counts.
    pub(super) fn find(
        repo: &Repository,
        heads: &[SnapshotHead],
        info: &SourceInfo,
        job: &SnapshotJob,
    ) -> Option<Self> {
        let of_line = |head: &&SnapshotHead| {
            head.meta.host == job.host && head.meta.name == job.name && !head.meta.partial
        };
        let is_signed = |head: &&SnapshotHead| matches!(check_signatures(repo, head), Ok(true));
        let state = Location::of(repo, info, job).ok();
        let known = state.filter(|_| !job.reread).and_then(|at| {
            let paths = at.paths?;
            paths.parent(&at.ring)
        });
        let mut line = heads.iter().filter(of_line);
        let of_state = line.clone().find(|head| known == Some(head.meta.id));
        let head = of_state
            .filter(is_signed)
            .or_else(|| line.rfind(is_signed))?;
        Some(Self {
            has_state: known == Some(head.meta.id),
            head: head.clone(),
        })
    }

    /// What the source is told of it. Nothing, if the snapshot is of another source, if its point is
    /// not known with these keys, or if nothing that it has is at hand.
    pub(super) fn hint(&self, repo: &Repository, info: &SourceInfo) -> Option<ParentHint> {
        let handed = handover(repo, &self.head).ok()??;
        if handed.kind != info.kind || handed.origin != info.origin {
            return None;
        }
        let unchanged_from = if self.has_state || repo.keys().identities().is_ok() {
            0
        } else {
            self.head.outer.lineage?;
            repo.sizes().lineage_from
        };
        Some(ParentHint {
            snapshot: self.head.meta.id,
            point: handed.point,
            cursor: handed.cursor,
            unchanged_from,
        })
    }

    /// The trees that are looked into for what the state does not know. A source that builds on the
    /// snapshot by its own knowledge may leave out whatever the manifest has.
    pub(super) fn trees(&self, repo: &Repository, may_inherit: bool) -> ParentTrees {
        let reads = may_inherit && repo.keys().identities().is_ok();
        let outer = &self.head.outer;
        ParentTrees {
            lineage: outer.lineage,
            manifest: outer.manifest.filter(|_| reads),
        }
    }
}

/// Where the local state of a job lies.
pub(super) struct Location {
    /// The files; `None` without a cache.
    pub(super) paths: Option<StatePaths>,
    /// What seals them.
    pub(super) ring: ObjectKeyring,
}

impl Location {
    /// That of this job of this source.
    ///
    /// # Errors
    /// [`crate::EngineError::Key`] for a key that cannot write.
    pub(super) fn of(repo: &Repository, info: &SourceInfo, job: &SnapshotJob) -> Result<Self> {
        let ring = ObjectKeyring::new(repo.id(), repo.keys().state_key()?);
        let origin = info.origin.join("\n");
        let line = format!("{}\n{}\n{}\n{origin}", job.host, job.name, info.kind);
        let name = format!("state/{}", blake3::hash(line.as_bytes()).to_hex());
        let paths = repo.cache().path(&name).map(|path| StatePaths::new(&path));
        Ok(Self { paths, ring })
    }
}
