//! The room on a tier, looked at before it is written to.

use backstay::core::Room;
use backstay::engine::Repository;
use backup_terminal::{Console, Exit, Failure, Outcome, text};

use crate::cli::SendArgs;

/// The room, where the tier can tell; one that cannot may still have it.
async fn room(console: &Console, repo: &Repository) -> Option<Room> {
    repo.sink().room(&console.cx).await.ok().flatten()
}

/// Warns while there is room, for a run that meets a full disk has saved nothing.
pub(crate) async fn warn_when_full(console: &Console, repo: &Repository, warn_full: u8) {
    let Some(room) = room(console, repo).await else {
        return;
    };
    let used = room.percent_used();
    if warn_full < 100 && used >= warn_full {
        console.warn(&format!(
            "{used} % of the room at {} is used, {} are free: `snapshot forget --prune` makes room",
            repo.location(),
            text::bytes(room.free)
        ));
    }
}

/// Sees that so many bytes go there, and warns when they make it fuller than it should be.
pub(crate) async fn must_hold(
    console: &Console,
    repo: &Repository,
    bytes: u64,
    args: &SendArgs,
) -> Outcome<()> {
    let warn_full = args.warn_full;
    let Some(room) = room(console, repo).await else {
        return Ok(());
    };
    let place = repo.location();
    if room.free < bytes && !args.despite_room {
        return Err(Failure::new(
            Exit::Failed,
            format!(
                "{} are free at {place}, and up to {} are to be sent, so nothing is",
                text::bytes(room.free),
                text::bytes(bytes)
            ),
            "make room there (`snapshot forget --prune --repo` that place), or choose fewer snapshots; --despite-room sends what goes in, and the next run goes on",
        ));
    }
    let then = Room {
        free: room.free.saturating_sub(bytes),
        ..room
    };
    let used = then.percent_used();
    if warn_full < 100 && bytes > 0 && used >= warn_full {
        console.warn(&format!(
            "up to {used} % of the room at {place} will be used behind this, {} are free now: `snapshot forget --prune --repo` that place makes room",
            text::bytes(room.free)
        ));
    } else if bytes == 0 {
        warn_when_full(console, repo, warn_full).await;
    }
    Ok(())
}
