//! The thread that puts results in order.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::vec::IntoIter;

use backup_core::{Entry, EntryPath};
use tokio::sync::mpsc::Sender;

use super::scan::Walker;
use super::{AHEAD_BYTES, HANDED_OVER, Scanned, Shared, Task, Work};
use crate::CONTENT_ATTR;
use crate::handle::DirHandle;

/// How far the emitter has come in one folder.
struct Frame {
    entries: IntoIter<Entry>,
    /// Index of the next entry in its batch.
    index: usize,
    children: VecDeque<(usize, Arc<Task>)>,
    more: VecDeque<Arc<Task>>,
}

impl Frame {
    fn of(scanned: Scanned) -> Self {
        Self {
            entries: scanned.entries.into_iter(),
            index: 0,
            children: scanned.children.into(),
            more: scanned.more.into(),
        }
    }

    /// The next entry, and the task of its content if it is a folder that is gone down into.
    fn next(&mut self) -> Option<(Entry, Option<Arc<Task>>)> {
        let entry = self.entries.next()?;
        let child = self
            .children
            .pop_front_if(|(index, _)| *index == self.index);
        self.index += 1;
        Some((entry, child.map(|(_, task)| task)))
    }
}

/// Walks everything and hands it over; ends early when the walk is stopped or nobody receives.
pub(super) fn emit(shared: &Arc<Shared>, top: Arc<DirHandle>, sender: &Sender<Vec<Entry>>) {
    let mut walker = Walker::new(shared, top);
    let first = walker.run(&Task::new(EntryPath::root(), Work::Top));
    shared.enqueue(&mut shared.queue(), &first);
    let mut frames = vec![Frame::of(first)];
    let mut out = Vec::with_capacity(HANDED_OVER);
    while let Some(frame) = frames.last_mut() {
        let Some((mut entry, child)) = frame.next() else {
            let Some(next) = frame.more.pop_front() else {
                frames.pop();
                continue;
            };
            let Some(scanned) = obtain(shared, &mut walker, &next) else {
                return;
            };
            let more = std::mem::take(&mut frame.more);
            *frame = Frame::of(scanned);
            frame.more = more;
            continue;
        };
        if let Some(child) = child {
            let Some(scanned) = obtain(shared, &mut walker, &child) else {
                return;
            };
            if let Some(content) = scanned.content {
                entry.meta.attrs.insert(CONTENT_ATTR.into(), content.into());
            }
            frames.push(Frame::of(scanned));
        }
        out.push(entry);
        if out.len() >= HANDED_OVER {
            let full = std::mem::replace(&mut out, Vec::with_capacity(HANDED_OVER));
            if sender.blocking_send(full).is_err() {
                return;
            }
        }
    }
    let delivered = out.is_empty() || sender.blocking_send(out).is_ok();
    shared.finished.store(delivered, Ordering::Release);
}

/// The result of a task: made by somebody ahead, or here and now. `None` when the walk stops.
fn obtain(shared: &Shared, walker: &mut Walker, task: &Arc<Task>) -> Option<Scanned> {
    let mut queue = shared.queue();
    loop {
        if queue.stop {
            return None;
        }
        if let Some(scanned) = task.result().take() {
            let was_full = queue.ahead >= AHEAD_BYTES;
            queue.ahead = queue.ahead.saturating_sub(scanned.bytes);
            if was_full && queue.ahead < AHEAD_BYTES {
                shared.work.notify_all();
            }
            return Some(scanned);
        }
        if queue.tasks.remove(task) {
            drop(queue);
            let scanned = walker.run(task);
            shared.enqueue(&mut shared.queue(), &scanned);
            return Some(scanned);
        }
        // Somebody is at it. Until that is done, here is a pair of hands.
        let other = if queue.ahead < AHEAD_BYTES {
            queue.tasks.pop_first()
        } else {
            None
        };
        if let Some(other) = other {
            drop(queue);
            shared.work_ahead(walker, &other);
            queue = shared.queue();
        } else {
            queue = shared
                .ready
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
