//! `snapshot hold` and `release`.

use backstay::engine::hold::{hold as place, release as lift};
use backstay::format::config::Operation;
use backup_terminal::{Console, Exit, Outcome, surroundings};
use serde_json::json;

use crate::cli::HoldArgs;

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
    let (heads, _) = console.heads(&repo).await?;
    let (host, user) = (surroundings::host(), surroundings::user());
    let why = args.reason.as_deref().unwrap_or_default();
    let (kind, so) = if holds {
        ("held", "is held already")
    } else {
        ("released", "is not held")
    };
    let mut has_findings = false;
    for head in Console::chosen(&heads, &args.snapshots)? {
        let (meta, by) = (&head.meta, (&host, user.as_str()));
        let change = if holds {
            place(&repo, &console.cx, meta, by, why).await?
        } else {
            lift(&repo, &console.cx, meta, by, why).await?
        };
        let changed = change.changed;
        has_findings |= console.findings(&change.findings, 0)?;
        let id = meta.id;
        console.record(kind, json!({ "id": id.to_string(), "changed": changed }))?;
        if changed {
            console.line(format!("{kind} {id}"))?;
        } else {
            console.note(&format!("{id} {so}"));
        }
    }
    Ok(Exit::done(has_findings))
}
