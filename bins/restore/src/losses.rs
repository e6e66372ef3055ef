//! What commands could not see, because a page of the manifest cannot be read.

use backstay::core::Finding;
use backstay::engine::SnapshotView;
use backstay::engine::lost::LostPage;
use backstay::engine::view::{Entries, Seen, ViewEntry};
use backup_terminal::{Console, Exit, Outcome};

/// Losses that are kept.
const MOST: usize = 10_000;

/// Pages that a command went on behind.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    findings: Vec<Finding>,
    left_out: u64,
    seen: u64,
}

impl Losses {
    /// The next entry that can be read.
    pub(crate) async fn next(
        &mut self,
        console: &Console,
        view: &SnapshotView<'_>,
        walk: &mut Entries<'_>,
    ) -> Outcome<Option<ViewEntry>> {
        loop {
            match walk.step(&console.cx).await? {
                Some(Seen::Entry(entry)) => {
                    self.seen += 1;
                    return Ok(Some(*entry));
                }
                Some(Seen::Lost(lost)) => self.add(view, &lost),
                None => return Ok(None),
            }
        }
    }

    /// How many entries were read.
    pub(crate) const fn seen(&self) -> u64 {
        self.seen
    }

    /// Notes a page.
    pub(crate) fn add(&mut self, view: &SnapshotView<'_>, lost: &LostPage) {
        if self.findings.len() < MOST {
            self.findings.push(lost.finding(view));
        } else {
            self.left_out += 1;
        }
    }

    /// Tells of them; says how a command ends that went on behind them.
    pub(crate) fn tell(&self, console: &mut Console) -> Outcome {
        let is_any = console.findings(&self.findings, self.left_out)?;
        Ok(if is_any { Exit::Findings } else { Exit::Ok })
    }
}
