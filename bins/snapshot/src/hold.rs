//! `snapshot hold` and `release`.

use std::collections::HashSet;

use backstay::core::SnapshotId;
use backstay::engine::hold::{hold as place, release as lift};
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Outcome, signer, surroundings};
use serde_json::json;

use crate::cli::HoldArgs;
use crate::forget::take_unread;

/// Holds snapshots: nothing forgets them until they are released.
pub(crate) async fn hold(console: &mut Console, args: &HoldArgs) -> Outcome {
    change(console, args, true).await
}

/// Releases snapshots.
pub(crate) async fn release(console: &mut Console, args: &HoldArgs) -> Outcome {
    change(console, args, false).await
}

async fn change(console: &mut Console, args: &HoldArgs, holds: bool) -> Outcome {
    let repo = console.open(Operation::Prune).await?;
    let (all, on_record) = console.all_and_holds(&repo).await?;
    let (host, user) = (signer(&repo), surroundings::actor());
    let why = args.reason.as_deref().unwrap_or_default();
    let (kind, so) = if holds {
        ("held", "is held already")
    } else {
        ("released", "is not held")
    };
    let mut has_findings = false;
    // A hold on what cannot be read any more can be released; placing one would keep nothing.
    let (unread, named) = if holds {
        (Vec::new(), args.snapshots.clone())
    } else {
        take_unread(&all.unread, &args.snapshots)
    };
    let mut ids: Vec<SnapshotId> = unread.iter().map(|one| one.id).collect();
    // Nor does a hold go with a snapshot that somebody took away: its whole id releases it.
    let there: HashSet<SnapshotId> = all.heads.iter().map(|head| head.meta.id).collect();
    let (gone, named): (Vec<String>, Vec<String>) = named.into_iter().partition(|spec| {
        let id = spec.parse::<SnapshotId>().ok();
        !holds && id.is_some_and(|id| !there.contains(&id) && on_record.has(id))
    });
    ids.extend(
        gone.iter()
            .filter_map(|spec| spec.parse::<SnapshotId>().ok()),
    );
    ids.extend(
        console
            .chosen(&repo, &all, &named)
            .await?
            .iter()
            .map(|head| head.meta.id),
    );
    for id in ids {
        let by = (&host, user.as_str());
        let change = if holds {
            place(&repo, &console.cx, id, by, why).await?
        } else {
            lift(&repo, &console.cx, id, by, why).await?
        };
        let changed = change.changed;
        has_findings |= console.findings(&change.findings, 0)?;
        console.record(kind, json!({ "id": id.to_string(), "changed": changed }))?;
        if !changed {
            console.note(&format!("{id} {so}"));
        } else if console.talks() {
            console.line(format!("{kind} {id}"))?;
        }
    }
    Ok(Exit::done(has_findings))
}
