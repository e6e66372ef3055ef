//! Retention by the versions of files: each of the newest contents of a file keeps a snapshot.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::os::unix::ffi::OsStrExt as _;

use backstay::core::{
    Decision, EntryPath, Reason, RetentionInput, RetentionPolicy, SnapshotId, Verdict,
};
use backstay::engine::repository::{Repository, SnapshotHead};
use backstay::engine::{EngineError, SnapshotView};
use backstay::retention::{FileVersion, KeepPolicy, VersionPolicy, group_lines};
use backup_terminal::{Console, Failure, Outcome, parse_entry_path, text};

/// Rules, and snapshots that stay whatever the rules say, each with the reason.
#[derive(Debug)]
pub(crate) struct Rules {
    /// The rules.
    pub(crate) policy: KeepPolicy,
    /// The snapshots.
    pub(crate) versions: BTreeMap<SnapshotId, Reason>,
}

impl RetentionPolicy for Rules {
    fn decide(&self, input: &RetentionInput<'_>) -> Vec<Decision> {
        let mut decisions = self.policy.decide(input);
        for decision in &mut decisions {
            let Some(reason) = self.versions.get(&decision.id) else {
                continue;
            };
            if decision.verdict == Verdict::Forget {
                decision.verdict = Verdict::Keep;
                decision.reasons.clear();
            }
            decision.reasons.push(reason.clone());
        }
        decisions
    }
}

/// The snapshots that hold one of the newest versions of one of these files, line by line.
pub(crate) async fn kept_versions(
    console: &Console,
    repo: &Repository,
    heads: &[&SnapshotHead],
    most: NonZeroU32,
    files: &[OsString],
) -> Outcome<BTreeMap<SnapshotId, Reason>> {
    let policy = VersionPolicy { versions: most };
    let complete: Vec<&SnapshotHead> = heads
        .iter()
        .copied()
        .filter(|head| !head.meta.partial)
        .collect();
    let metas: Vec<_> = complete.iter().map(|head| head.meta.clone()).collect();
    let mut kept = BTreeMap::new();
    for file in files {
        let path = parse_entry_path(file.as_bytes())?;
        let mut is_known = false;
        for places in group_lines(&metas).into_values() {
            let mut history = Vec::with_capacity(places.len());
            for head in places.into_iter().filter_map(|place| complete.get(place)) {
                let content = content(console, repo, head, &path).await?;
                is_known |= content.is_some();
                history.push(FileVersion {
                    snapshot: head.meta.id,
                    time: head.meta.first_seen.unwrap_or(head.meta.time),
                    content,
                });
            }
            for decision in policy.decide(&history) {
                if let (Verdict::Keep, Some(reason)) =
                    (decision.verdict, decision.reasons.into_iter().next())
                {
                    kept.entry(decision.id).or_insert(reason);
                }
            }
        }
        // A misspelt path must not look like a file without versions.
        if !is_known {
            let shown = text::escape(file.as_bytes());
            return Err(Failure::usage(
                format!("no snapshot has a file {shown}, so nothing is forgotten"),
                "write its whole path as `restore find` shows it",
            ));
        }
    }
    Ok(kept)
}

/// What tells the content of a file from another; nothing where the snapshot does not have it.
async fn content(
    console: &Console,
    repo: &Repository,
    head: &SnapshotHead,
    path: &EntryPath,
) -> Outcome<Option<Vec<u8>>> {
    let view = SnapshotView::open(repo, head.clone())?;
    for component in 0..u8::try_from(view.components().len()).unwrap_or(u8::MAX) {
        match view.entry(&console.cx, component, path).await {
            Ok(entry) if !entry.record.meta.kind.has_content() => {}
            Ok(entry) => {
                // Without a digest it counts as a version of its own.
                let digest = entry.record.sha256.map(Vec::from);
                return Ok(Some(
                    digest.unwrap_or_else(|| head.meta.id.to_bytes().to_vec()),
                ));
            }
            Err(EngineError::NoPath { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}
