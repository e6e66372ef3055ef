//! What a check of a ledger found.

use std::fmt;

use backup_core::{Finding, FindingKind, Severity};

use super::accept::{AcceptedRecords, LostRecords};
use super::record::LedgerHead;

/// How many findings a report holds; further ones are only counted.
pub const MAX_FINDINGS: usize = 10_000;
/// How many of these may be notes; further ones are only counted, so that they take no room from what is wrong.
const MAX_NOTES: usize = MAX_FINDINGS / 2;

/// What is wrong with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum LedgerFault {
    /// It was changed after it was written.
    Edited,
    /// It is not there, though later ones are.
    Missing,
    /// It stands after one that was written later.
    Reordered,
    /// Its number was seen before.
    Duplicated,
    /// The ledger ends before the record at which it is known to have ended once.
    Truncated,
    /// It was not written by this ledger's host, or belongs to another ledger.
    Foreign,
    /// The line cannot be read.
    Unreadable,
    /// The line was written by a newer release.
    Newer,
    /// It is lost, and a later record says that this is known.
    Accepted,
    /// It continues not the record before it but an earlier one: that could not be read when it was written.
    PassedOver,
}

impl fmt::Display for LedgerFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Edited => "edited",
            Self::Missing => "missing",
            Self::Reordered => "reordered",
            Self::Duplicated => "duplicated",
            Self::Truncated => "truncated",
            Self::Foreign => "foreign",
            Self::Unreadable => "unreadable",
            Self::Newer => "newer",
            Self::Accepted => "accepted",
            Self::PassedOver => "passed over",
        })
    }
}

/// One thing that is wrong with a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerFinding {
    /// What is wrong.
    pub fault: LedgerFault,
    /// With which record; of a line that cannot be read, the number it should have.
    pub seq: u64,
    /// On which line of the file, from 1; where a record is missing, on which it was missed.
    pub line: u64,
    /// What differs, in one sentence.
    pub detail: String,
    /// The records that are lost by that, as a record would name them that accepts it; none where that cannot be
    /// accepted.
    pub lost: Option<LostRecords>,
}

impl LedgerFinding {
    /// The finding as reports of operations show it.
    #[must_use]
    pub fn to_finding(&self) -> Finding {
        let (severity, kind) = match self.fault {
            LedgerFault::PassedOver | LedgerFault::Accepted => {
                (Severity::Note, FindingKind::Degraded)
            }
            LedgerFault::Unreadable => (Severity::Error, FindingKind::Damaged),
            LedgerFault::Newer => (Severity::Warning, FindingKind::Skipped),
            LedgerFault::Missing | LedgerFault::Truncated => {
                (Severity::Error, FindingKind::Missing)
            }
            _ => (Severity::Error, FindingKind::Mismatch),
        };
        let detail = match self.remedy() {
            Some(remedy) => format!("{}; {remedy}", self.detail),
            None => self.detail.clone(),
        };
        Finding::new(
            severity,
            kind,
            format!("ledger record {}", self.seq),
            detail,
        )
    }

    /// What to do about it.
    fn remedy(&self) -> Option<String> {
        let object = format!("ledger/{:012}", self.seq);
        Some(match self.fault {
            LedgerFault::PassedOver | LedgerFault::Accepted | LedgerFault::Newer => return None,
            LedgerFault::Missing | LedgerFault::Truncated => format!(
                "put {object} back from another copy of the repository, or read what hosts keep of it (ledger.jsonl in their state folders); if nothing gives it back, `snapshot ledger accept` says that this is known"
            ),
            LedgerFault::Edited | LedgerFault::Unreadable => format!(
                "put {object} back from another copy of the repository, and believe nothing that it says until then; if nothing gives it back, `snapshot ledger accept` says that this is known"
            ),
            LedgerFault::Reordered | LedgerFault::Duplicated => format!(
                "objects below ledger/ were exchanged: put {object} back from another copy of the repository"
            ),
            LedgerFault::Foreign => "find out who holds keys of the repository (`snapshot key list`): only with one can it have been written".to_owned(),
        })
    }
}

impl fmt::Display for LedgerFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "record {} (line {}): {}: {}",
            self.seq, self.line, self.fault, self.detail
        )
    }
}

/// What a check of a ledger found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LedgerReport {
    /// Lines that are records.
    pub records: u64,
    /// Records whose HMAC was checked (the key of their host was known).
    pub hmacs_checked: u64,
    /// The record with the lowest number.
    pub first: Option<LedgerHead>,
    /// The record with the highest number; to be kept elsewhere.
    pub last: Option<LedgerHead>,
    /// What is wrong, by number of record: the first [`MAX_FINDINGS`] that were met.
    pub findings: Vec<LedgerFinding>,
    /// How many more findings there were.
    pub more_findings: u64,
    /// How many more notes there were.
    pub more_notes: u64,
    /// What an earlier check of the same ledger heard is accepted as lost.
    pub(super) known: AcceptedRecords,
    /// The records that are accepted as lost, by records that may say so.
    pub accepted: AcceptedRecords,
}

impl LedgerReport {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.more_findings == 0
    }

    /// Adds a finding and returns its place, if there is room for it.
    pub(super) fn add(
        &mut self,
        fault: LedgerFault,
        seq: u64,
        line: u64,
        detail: String,
    ) -> Option<usize> {
        let is_note = matches!(fault, LedgerFault::PassedOver | LedgerFault::Accepted);
        if is_note && self.findings.len() >= MAX_NOTES {
            self.more_notes += 1;
            return None;
        }
        if self.findings.len() >= MAX_FINDINGS {
            self.more_findings += 1;
            return None;
        }
        self.findings.push(LedgerFinding {
            fault,
            seq,
            line,
            detail,
            lost: None,
        });
        Some(self.findings.len() - 1)
    }

    /// Adds a finding of records that are lost by what it tells.
    pub(super) fn add_lost(
        &mut self,
        fault: LedgerFault,
        (seq, line): (u64, u64),
        lost: LostRecords,
        detail: String,
    ) -> Option<usize> {
        // It becomes a note in the end.
        if self.findings.len() >= MAX_NOTES && self.known.of(&lost).is_some() {
            self.more_notes += 1;
            return None;
        }
        let place = self.add(fault, seq, line, detail)?;
        if let Some(finding) = self.findings.get_mut(place) {
            finding.lost = Some(lost);
        }
        Some(place)
    }
}
