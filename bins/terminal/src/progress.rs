//! Progress on a terminal: bytes, entries, rate, and the time that is left where the total is known.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backstay::core::{Event, Observer, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::text;

/// A bar on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    entries: AtomicU64,
}

impl Progress {
    /// A bar that is not drawn before something happens.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        Self {
            bar,
            entries: AtomicU64::new(0),
        }
    }

    /// Takes the bar away, does something, and draws it again.
    pub fn suspend(&self, work: impl FnOnce()) {
        self.bar.suspend(work);
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }

    fn enter(&self, stage: Stage, bytes: Option<u64>) {
        let word = match stage {
            Stage::Capture => "saving",
            Stage::Write | Stage::Fetch => "restoring",
            Stage::Verify => "verifying",
            Stage::Commit | Stage::Store | Stage::Record => "committing",
            Stage::Plan => "planning",
        };
        let template = if bytes.is_some() {
            "{prefix} {bar:24} {binary_bytes} of {binary_total_bytes} · {msg} · {binary_bytes_per_sec} · {eta} left"
        } else {
            "{spinner} {prefix} {binary_bytes} · {msg} · {binary_bytes_per_sec} · {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        match bytes {
            Some(bytes) => self.bar.set_length(bytes),
            None => self.bar.unset_length(),
        }
        self.bar.set_prefix(word);
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Progress {
    fn on(&self, event: Event<'_>) {
        match event {
            Event::Entered { stage, bytes, .. } => self.enter(stage, bytes),
            Event::Advanced { entries, bytes, .. } => {
                if bytes > 0 {
                    self.bar.inc(bytes);
                }
                if entries > 0 {
                    let done = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
                    self.bar
                        .set_message(format!("{} entries", text::count(done)));
                }
            }
            Event::Expect { bytes, .. } => self.enter(Stage::Write, Some(bytes)),
            _ => {}
        }
    }
}
