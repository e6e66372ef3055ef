//! Checking the ledger: against itself, this host's copy, and the snapshots that are there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use backup_core::{Finding, FindingKind, HostId, ObjectKey, OpContext, Severity, SnapshotId};
use backup_format::layout;
use backup_integrity::ledger::{Expect, LedgerKeys, LedgerReport, LedgerVerifier, Line};
use backup_integrity::sign::HmacKey;

use super::{MADE, copied_lines, keys_after, read_line};
use crate::error::Result;
use crate::repository::Repository;
use crate::slots::KnownSlots;
use crate::view::check_signatures;

/// What a check of the ledger found.
#[derive(Debug, Clone)]
pub struct LedgerCheck {
    /// The chain itself.
    pub report: LedgerReport,
    /// Findings of the chain, of the copy, and of the snapshots against it; the worst first.
    pub findings: Vec<Finding>,
    /// Lines of this host's copy.
    pub copied: u64,
}

/// Checks the ledger: its chain, its signatures, this host's copy, and whether it knows all
/// snapshots.
///
/// # Errors
/// Errors of the tier; what is wrong with the ledger is in the findings.
pub async fn verify_ledger(repo: &Repository, cx: &OpContext) -> Result<LedgerCheck> {
    let key_of = |host: &HostId| {
        let key = repo.keys().ledger_key(host).ok()?;
        Some(HmacKey::new(*key.expose()))
    };
    let expect = Expect {
        head: None,
        repo: Some(repo.id()),
    };
    let mut verifier = LedgerVerifier::new(LedgerKeys::ByHost(&key_of), expect);
    let copy = LocalCopy::read(repo);
    let mut told = Told::default();
    let mut differing = Vec::new();
    // Records that are there by name and could be read.
    let mut read = HashSet::new();
    let mut last = 0;
    for key in keys_after(repo, cx, None).await? {
        // What is not named like a record is none.
        let Some(seq) = layout::ledger_number(&key) else {
            continue;
        };
        last = seq;
        let line = match read_line(repo, cx, &key).await {
            Ok(line) => line,
            Err(error) if error.is_damage() => {
                verifier.damaged(seq, error.to_string());
                continue;
            }
            Err(error) => return Err(error),
        };
        read.insert(seq);
        if copy.lines.get(&seq).is_some_and(|copied| *copied != line) {
            let detail = "it is not what this host's copy says";
            differing.push(mismatch(key.to_string(), detail));
        }
        told.take(&line);
        verifier.push(&line);
    }
    // What is gone from the tier or damaged there counts by the copy.
    let lost = copy.lines.iter().filter(|(seq, _)| !read.contains(*seq));
    lost.for_each(|(_, line)| told.take(line));
    let report = verifier.finish();
    let mut findings: Vec<Finding> = report.findings.iter().map(|one| one.to_finding()).collect();
    findings.extend(copy.beyond(last));
    findings.extend(copy.damage());
    // If not, a record that would clear a suspicion may be among those that are lost.
    let is_whole = findings.is_empty();
    findings.extend(differing);
    findings.extend(std::mem::take(&mut told.slots).missing(repo, cx).await?);
    findings.extend(snapshots(repo, cx, told, is_whole).await?);
    findings.sort_by_key(|finding| Reverse(finding.severity));
    Ok(LedgerCheck {
        report,
        findings,
        copied: copy.count,
    })
}

fn mismatch(subject: String, detail: impl Into<String>) -> Finding {
    Finding::new(Severity::Error, FindingKind::Mismatch, subject, detail)
}

/// What the records say of snapshots.
#[derive(Default)]
struct Told {
    slots: KnownSlots,
    made: HashSet<SnapshotId>,
    forgotten: HashSet<SnapshotId>,
}

impl Told {
    fn take(&mut self, line: &[u8]) {
        let Ok(line) = Line::parse(line) else { return };
        self.slots.take(line.record());
        match line.record().op.as_str() {
            MADE => self.made.extend(line.record().snapshot),
            "forget" => self.forgotten.extend(line.record().snapshot),
            _ => {}
        }
    }
}

/// This host's copy of the ledger, by the numbers of its records: it may lack some, where they were
/// gone from the tier when it was made.
struct LocalCopy {
    lines: BTreeMap<u64, Vec<u8>>,
    count: u64,
    /// Places of lines that are no records.
    damaged: Vec<usize>,
}

impl LocalCopy {
    fn read(repo: &Repository) -> Self {
        let (mut lines, mut damaged) = (BTreeMap::new(), Vec::new());
        let copied = copied_lines(repo);
        let count = copied.len() as u64;
        for (place, line) in copied.into_iter().enumerate() {
            match Line::parse(&line) {
                Ok(record) => drop(lines.insert(record.head().seq, line)),
                Err(_) => damaged.push(place + 1),
            }
        }
        Self {
            lines,
            count,
            damaged,
        }
    }

    /// The records behind the last one on the tier.
    fn beyond(&self, last: u64) -> Option<Finding> {
        let (end, _) = self.lines.last_key_value()?;
        let first = last.checked_add(1).filter(|first| first <= end)?;
        let what = match end - last {
            1 => format!("record {first}"),
            many => format!("records {first} to {end} ({many} of them)"),
        };
        let detail = format!("by this host's copy it had {what}: gone from the end");
        Some(mismatch("ledger".into(), detail))
    }

    fn damage(&self) -> impl Iterator<Item = Finding> {
        self.damaged.iter().map(|place| {
            let detail = format!("line {place} of it is not a record");
            let subject = "this host's copy of the ledger";
            Finding::new(Severity::Error, FindingKind::Damaged, subject, detail)
        })
    }
}

/// Compares the snapshots that are there with those that the records tell of.
async fn snapshots(
    repo: &Repository,
    cx: &OpContext,
    mut told: Told,
    is_whole: bool,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (id, key) in repo.snapshot_keys(cx).await? {
        if !told.made.remove(&id) {
            findings.push(unknown(repo, cx, id, &key, is_whole).await);
        }
    }
    let mut missing: Vec<_> = told.made.difference(&told.forgotten).collect();
    missing.sort();
    let detail = if is_whole {
        "the ledger knows it, nobody forgot it, and it is gone from the tier"
    } else {
        "the ledger knows it, none of the records that are left says that it was forgotten, and it is gone from the tier"
    };
    findings.extend(missing.into_iter().map(|id| {
        let (severity, kind) = (Severity::Error, FindingKind::Missing);
        Finding::new(severity, kind, format!("snapshot {id}"), detail)
    }));
    Ok(findings)
}

/// What is to be said of a snapshot that the ledger does not know.
async fn unknown(
    repo: &Repository,
    cx: &OpContext,
    id: SnapshotId,
    key: &ObjectKey,
    is_whole: bool,
) -> Finding {
    let head = repo.head(cx, id, key).await;
    match head.and_then(|head| check_signatures(repo, &head).map(|_| head)) {
        Ok(_) if !is_whole => {
            let detail = "the ledger does not know this snapshot: its record may be among those that are missing or damaged";
            let kind = FindingKind::Degraded;
            Finding::new(Severity::Note, kind, key.as_str(), detail)
        }
        // Nobody but its host can have made it; a run that is killed comes to this.
        Ok(head) => {
            let detail = format!(
                "the ledger does not know this snapshot: its run ended before it was recorded; the next `snapshot save` on {} records it",
                head.meta.host
            );
            let kind = FindingKind::Degraded;
            Finding::new(Severity::Note, kind, key.as_str(), detail)
        }
        Err(error) => {
            let detail = format!("the ledger does not know this snapshot: {error}");
            mismatch(key.to_string(), detail)
        }
    }
}
