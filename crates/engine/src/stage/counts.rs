//! What a snapshot counts while it is assembled, and what was noticed on the way.

use backup_core::{Event, Finding, OpContext, Severity};

/// Findings that are kept word by word, and their bytes: whoever may write below what is saved can
/// make any number of them, each with a path of up to 64 KiB.
const MOST_FINDINGS: usize = 10_000;
const MOST_BYTES: usize = 8 << 20;

/// Counts and findings of an assembled snapshot.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) entries: u64,
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) unchanged: u64,
    pub(super) bytes_read: u64,
    pub(super) findings: Vec<Finding>,
    pub(super) findings_left_out: u64,
    /// Findings that are more than notes, those that were left out too.
    pub(super) serious: u64,
    /// Bytes of those that were kept.
    finding_bytes: usize,
}

impl Counts {
    /// Keeps a finding, or counts it when there are too many; of notes that change nothing no count
    /// is kept.
    pub(super) fn found(&mut self, cx: &OpContext, finding: Finding) {
        cx.tell(Event::Found(&finding));
        let is_serious = finding.severity > Severity::Note;
        self.serious += u64::from(is_serious);
        let bytes = self.finding_bytes + finding.subject.len() + finding.detail.len();
        if self.findings.len() < MOST_FINDINGS && bytes <= MOST_BYTES {
            self.finding_bytes = bytes;
            self.findings.push(finding);
        } else {
            self.findings_left_out += u64::from(is_serious);
        }
    }
}
