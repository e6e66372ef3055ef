//! The second stage: the source holds still, and its entries flow.

use backup_core::{Capture, Entry, Event, OpContext, Stage};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::plan::Planned;
use crate::error::{EngineError, Result};

/// A capture that has begun.
#[derive(Debug)]
pub struct Captured {
    pub(super) planned: Planned,
    pub(super) capture: Box<dyn Capture>,
}

/// Takes the source's locks and fixes the consistent point.
///
/// # Errors
/// Errors of the source.
pub async fn capture(cx: &OpContext, planned: Planned) -> Result<Captured> {
    let total = &planned.plan.total;
    // What a source could hold at most says nothing of what is to come: the last snapshot does.
    let bytes = match total.at_most {
        Some(most) if most == total.at_least => Some(most),
        _ => planned.parent().map(|parent| parent.meta.stats.bytes),
    };
    cx.tell(Event::Entered {
        stage: Stage::Capture,
        entries: None,
        bytes,
    });
    let capture = planned.source.begin(cx, planned.plan.clone()).await?;
    Ok(Captured { planned, capture })
}

/// Batches of entries on their way to the reading threads.
pub(super) type Batches = Receiver<Vec<Entry>>;

/// Pulls the entries of a capture into a channel until they end, the receiver goes away, or the
/// operation is cancelled.
pub(super) async fn pump(
    cx: &OpContext,
    capture: &mut dyn Capture,
    sender: Sender<Vec<Entry>>,
) -> Result<()> {
    loop {
        let batch = tokio::select! {
            () = cx.cancel.cancelled() => return Err(EngineError::Cancelled),
            batch = capture.next_entries(cx) => batch?,
        };
        if batch.is_empty() || sender.send(batch).await.is_err() {
            return Ok(());
        }
    }
}

/// A channel for batches, short: entries are small, but a batch has hundreds.
pub(super) fn batches() -> (Sender<Vec<Entry>>, Batches) {
    channel(8)
}
