//! A bounded list of findings: a tree of a million unreadable files must not fill the memory.

use std::sync::{Mutex, PoisonError};

use backup_core::{Finding, FindingKind, Severity};

/// How many findings a report holds one by one; further ones are only counted.
pub const MAX_FINDINGS: usize = 10_000;

#[derive(Debug, Default)]
struct Inner {
    list: Vec<Finding>,
    more: u64,
    worst: Option<Severity>,
}

/// Collects findings from several threads.
#[derive(Debug, Default)]
pub(crate) struct Findings(Mutex<Inner>);

impl Findings {
    pub(crate) fn add(&self, finding: Finding) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.worst = inner.worst.max(Some(finding.severity));
        if inner.list.len() < MAX_FINDINGS {
            inner.list.push(finding);
        } else {
            inner.more += 1;
        }
    }

    /// The worst severity so far.
    #[cfg(test)]
    pub(crate) fn worst(&self) -> Option<Severity> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).worst
    }

    /// Takes all findings, sorted by what they happened to, with a last one that counts those
    /// that found no room.
    pub(crate) fn take(&self) -> Vec<Finding> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Inner {
            mut list,
            more,
            worst,
        } = std::mem::take(&mut *inner);
        list.sort_by(|a, b| a.subject.cmp(&b.subject));
        if more > 0 {
            list.push(Finding::new(
                worst.unwrap_or(Severity::Warning),
                FindingKind::Skipped,
                "report",
                format!("{more} further findings are not listed"),
            ));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_findings_is_counted_and_not_kept() {
        let findings = Findings::default();
        for number in 0..MAX_FINDINGS + 7 {
            let subject = format!("{number:06}");
            findings.add(Finding::new(
                Severity::Error,
                FindingKind::Unreadable,
                subject,
                "no",
            ));
        }
        assert_eq!(findings.worst(), Some(Severity::Error));
        let list = findings.take();
        assert_eq!(list.len(), MAX_FINDINGS + 1);
        let last = list.last().unwrap();
        assert_eq!(
            (last.severity, last.detail.starts_with("7 further")),
            (Severity::Error, true)
        );
    }
}
