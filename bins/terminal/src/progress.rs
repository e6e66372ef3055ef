//! Progress on a terminal: bytes, entries, rate, and the time that is left where the total is known.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use backstay::core::{Event, Observer, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::text;

/// A bar on standard error.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    entries: AtomicU64,
    /// What goes on now.
    stage: Mutex<Option<Stage>>,
}

impl Progress {
    /// A bar that is not drawn before something happens.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
        // Before the first stage there is nothing to show but that something goes on.
        bar.set_style(ProgressStyle::default_spinner());
        Self {
            bar,
            entries: AtomicU64::new(0),
            stage: Mutex::default(),
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

    fn stage(&self) -> MutexGuard<'_, Option<Stage>> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self, stage: Stage, bytes: Option<u64>) {
        *self.stage() = Some(stage);
        let word = match stage {
            Stage::Capture => "saving",
            Stage::Write | Stage::Fetch => "restoring",
            Stage::Verify => "verifying",
            Stage::Commit | Stage::Store | Stage::Record => "committing",
            Stage::Plan => "planning",
            Stage::Copy => "copying",
        };
        self.bar.set_prefix(word);
        let done = self.entries.load(Ordering::Relaxed);
        self.bar.set_message(counted(stage, done));
        let template = if bytes.is_some() {
            "{prefix} {wide_bar} {done} of {all} · {msg} · {rate} · {eta} left"
        } else {
            "{spinner} {prefix} {done} · {msg} · {rate} · {elapsed}"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(with_sizes(style));
        }
        match bytes {
            Some(bytes) => self.bar.set_length(bytes),
            None => self.bar.unset_length(),
        }
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }
}

/// Sizes of three digits: a line of a terminal has room for them.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is shown with three digits"
)]
fn with_sizes(style: ProgressStyle) -> ProgressStyle {
    let put = |out: &mut dyn Write, bytes: u64, unit: &str| {
        // A terminal that is gone is no reason to stop.
        let _ = write!(out, "{}{unit}", text::bytes(bytes));
    };
    style
        .with_key("done", move |state: &ProgressState, out: &mut dyn Write| {
            put(out, state.pos(), "");
        })
        .with_key("all", move |state: &ProgressState, out: &mut dyn Write| {
            put(out, state.len().unwrap_or_default(), "");
        })
        .with_key("rate", move |state: &ProgressState, out: &mut dyn Write| {
            put(out, state.per_sec() as u64, "/s");
        })
}

fn counted(stage: Stage, count: u64) -> String {
    match stage {
        Stage::Verify | Stage::Copy => text::plural(count, "pack", "packs"),
        _ => text::plural(count, "entry", "entries"),
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
            // Packs that are stored are the same bytes once more.
            Event::Advanced {
                stage: Stage::Store,
                ..
            } => {}
            Event::Advanced {
                stage,
                entries,
                bytes,
            } => {
                if bytes > 0 {
                    self.bar.inc(bytes);
                }
                if entries > 0 {
                    let done = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
                    self.bar.set_message(counted(stage, done));
                }
            }
            Event::Note(text) => self.bar.println(text),
            // Who counts may come to its end when the stage is over.
            Event::Expect { stage, bytes, .. } => {
                let is_now = *self.stage() == Some(stage);
                if is_now {
                    self.enter(stage, Some(bytes));
                }
            }
            _ => {}
        }
    }
}
