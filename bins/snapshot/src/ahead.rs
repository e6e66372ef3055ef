//! How much is to come of a first save. No earlier snapshot tells it, so a second walk counts the files beside the one that
//! reads them, for as long as that takes and somebody watches.

use std::sync::Arc;

use backstay::core::context::{CancellationToken, Observer, Stage, Unobserved};
use backstay::core::{
    CapturePlan, CaptureRequest, EntryKind, Event, OpContext, Outcome as Ending, Source,
    SourceError,
};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// What a walk has counted.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counted {
    pub(crate) entries: u64,
    pub(crate) files: u64,
    /// Bytes of the files.
    pub(crate) bytes: u64,
}

/// Walks files without reading them.
pub(crate) async fn count(
    cx: &OpContext,
    source: &dyn Source,
    plan: CapturePlan,
) -> Result<Counted, SourceError> {
    let mut capture = source.begin(cx, plan).await?;
    let mut out = Counted::default();
    loop {
        let batch = capture.next_entries(cx).await?;
        if batch.is_empty() {
            break;
        }
        for entry in batch {
            out.entries += 1;
            if entry.meta.kind == EntryKind::File {
                out.files += 1;
                out.bytes += entry.fingerprint.map_or(0, |fingerprint| fingerprint.size);
            }
        }
    }
    capture.settle(cx, Ending::Abandoned).await?;
    Ok(out)
}

/// Passes everything on, and notices a capture of which nobody knows how much it will be.
#[derive(Debug)]
struct Notices {
    observer: Arc<dyn Observer>,
    is_unknown: Arc<Notify>,
}

impl Observer for Notices {
    fn on(&self, event: Event<'_>) {
        if let Event::Entered {
            stage: Stage::Capture,
            bytes: None,
            ..
        } = event
        {
            self.is_unknown.notify_one();
        }
        self.observer.on(event);
    }
}

/// A count beside a save; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Ahead {
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Ahead {
    /// Counts once the save with these surroundings begins to read and does not know how much there is.
    pub(crate) fn of(cx: &mut OpContext, source: Arc<dyn Source>) -> Self {
        let is_unknown = Arc::new(Notify::new());
        let observer = cx.observer.clone();
        let cancel = cx.cancel.child_token();
        let own = OpContext {
            cancel: cancel.clone(),
            observer: Arc::new(Unobserved),
            ..cx.clone()
        };
        cx.observer = Arc::new(Notices {
            observer: observer.clone(),
            is_unknown: is_unknown.clone(),
        });
        let task = tokio::spawn(async move {
            is_unknown.notified().await;
            // What is wrong with a file, whoever reads it tells.
            let Ok(plan) = source.plan(&own, &CaptureRequest::default()).await else {
                return;
            };
            if let Ok(counted) = count(&own, &*source, plan).await {
                observer.on(Event::Expect {
                    stage: Stage::Capture,
                    entries: counted.entries,
                    bytes: counted.bytes,
                });
            }
        });
        Self { cancel, task }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.task.abort();
    }
}
