//! Checking a chain: every fault is named, none ends the check.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use backup_core::{HostId, RepoId};

use super::accept::{AcceptedRecords, LostRecords, accepted_by, is_sealed};
use super::record::{LedgerHead, Line, LineError, LineHash};
use super::report::{LedgerFault, LedgerReport};
use super::window::{Gaps, Recent, Seen};
use crate::sign::HmacKey;

/// Which keys the HMACs are checked with.
#[derive(Clone, Copy, Default)]
pub enum LedgerKeys<'a> {
    /// None: only the chain is checked.
    #[default]
    None,
    /// One key for all records.
    One(&'a HmacKey),
    /// The key of each host, where it is known.
    ByHost(&'a (dyn Fn(&HostId) -> Option<HmacKey> + Sync)),
}

impl fmt::Debug for LedgerKeys<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "LedgerKeys::None",
            Self::One(_) => "LedgerKeys::One(..)",
            Self::ByHost(_) => "LedgerKeys::ByHost(..)",
        })
    }
}

impl LedgerKeys<'_> {
    fn genuine(&self, line: &Line) -> Option<bool> {
        match self {
            Self::None => None,
            Self::One(key) => Some(line.verify_hmac(key).is_ok()),
            Self::ByHost(keys) => {
                keys(&line.record().host).map(|key| line.verify_hmac(&key).is_ok())
            }
        }
    }
}

/// What is known about a ledger from elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Expect {
    /// A record that the ledger once ended in: it must be there, as it was.
    pub head: Option<LedgerHead>,
    /// The one repository that it is about.
    pub repo: Option<RepoId>,
}

/// What is remembered of the records on both sides of those that are lost, at most.
const MAX_EDGES: usize = 65_536;

/// Checks lines as they come. What is lost and accepted by a later record is told at the end, when that was met. Memory is bounded: links are checked among the 4,096 latest
/// records, and [`super::MAX_FINDINGS`] findings are kept.
#[derive(Debug)]
pub struct LedgerVerifier<'a> {
    keys: LedgerKeys<'a>,
    expect: Expect,
    report: LedgerReport,
    recent: Recent,
    gaps: Gaps,
    /// What records before a gap hash to, which may be accepted as something else.
    edges: BTreeMap<u64, LineHash>,
    /// What records before a gap's end must hash to, by the record behind them.
    behind: BTreeMap<u64, LineHash>,
    /// The key that records are sealed with which accept others as lost.
    accept_key: Option<HmacKey>,
    /// Number that the next record should have.
    next: u64,
    /// Lines read.
    line: u64,
    /// The line above, whatever it was: the number it was judged under, and its hash.
    above: LedgerHead,
    /// Lines since the last record that could not be read: they stand for as many numbers.
    unreadable: u64,
}

/// Checks all lines of a ledger, each without its newline.
pub fn verify<L: AsRef<[u8]>>(
    lines: impl IntoIterator<Item = L>,
    keys: LedgerKeys<'_>,
    expect: Expect,
) -> LedgerReport {
    let mut verifier = LedgerVerifier::new(keys, expect);
    lines
        .into_iter()
        .for_each(|line| verifier.push(line.as_ref()));
    verifier.finish()
}

impl<'a> LedgerVerifier<'a> {
    /// A check that has seen nothing.
    #[must_use]
    pub fn new(keys: LedgerKeys<'a>, expect: Expect) -> Self {
        Self {
            keys,
            expect,
            report: LedgerReport::default(),
            recent: Recent::new(),
            gaps: Gaps::default(),
            edges: BTreeMap::new(),
            behind: BTreeMap::new(),
            accept_key: None,
            next: 1,
            line: 0,
            above: LedgerHead {
                seq: 0,
                hash: LineHash::NONE,
            },
            unreadable: 0,
        }
    }

    /// Lets only records accept others as lost that are sealed with this key. Without it whoever signs for a host may.
    #[must_use]
    pub fn accept_by(mut self, key: Option<HmacKey>) -> Self {
        self.accept_key = key;
        self
    }

    /// Tells it what an earlier check of the same ledger heard is accepted as lost, of which it hears at the end: however
    /// much that is, it takes no room from what is not.
    #[must_use]
    pub fn knowing(mut self, accepted: AcceptedRecords) -> Self {
        self.report.known = accepted;
        self
    }

    /// Takes the line that lies under the number of a record: where numbers are certain, and lines are not.
    pub fn push_at(&mut self, seq: u64, bytes: &[u8]) {
        match Line::parse(bytes) {
            Ok(line) if line.record().seq == seq => {
                self.line += 1;
                self.above = line.head();
                self.unreadable = 0;
                self.report.records += 1;
                if self.place(seq, &line) {
                    self.judge(seq, &line);
                }
            }
            Ok(line) => self.damaged(seq, format!("it is record {}", line.record().seq)),
            Err(error) => self.lose(seq, fault_of(&error), error.to_string()),
        }
    }

    /// Takes the next line, without its newline.
    pub fn push(&mut self, bytes: &[u8]) {
        self.line += 1;
        self.above = match Line::parse(bytes) {
            Ok(line) => LedgerHead {
                seq: self.record(&line),
                hash: line.head().hash,
            },
            Err(error) => LedgerHead {
                seq: self.refuse(&error),
                hash: LineHash::of(bytes),
            },
        };
    }

    /// Takes the place of the record `seq`, which is there by its number, and whose line cannot be had.
    pub fn damaged(&mut self, seq: u64, detail: String) {
        self.lose(seq, LedgerFault::Unreadable, detail);
    }

    fn lose(&mut self, seq: u64, fault: LedgerFault, detail: String) {
        self.line += 1;
        // Its line is nobody's predecessor.
        self.above = LedgerHead {
            seq,
            hash: LineHash::of(b""),
        };
        self.unreadable = 0;
        self.report_damage(fault, seq, detail);
        if seq >= self.next && seq < u64::MAX {
            self.note_edge(self.next);
            if let Some((range, line)) = self.gaps.add(self.next..seq, self.line) {
                self.missing(&range, line);
            }
            self.next = seq + 1;
        } else {
            self.gaps.fill(seq);
        }
    }

    /// Ends the check.
    #[must_use]
    pub fn finish(mut self) -> LedgerReport {
        for (range, line) in std::mem::take(&mut self.gaps).into_iter() {
            self.missing(&range, line);
        }
        self.check_accepted();
        let last = self.next - 1;
        if let Some(head) = self.expect.head.filter(|head| head.seq > last) {
            let detail = match last + 1 {
                one if one == head.seq => format!("record {one} is known to have been there"),
                many => format!(
                    "records {many} to {} are known to have been there",
                    head.seq
                ),
            };
            self.report
                .add(LedgerFault::Truncated, last + 1, self.line, detail);
        }
        self.report
            .findings
            .sort_by_key(|finding| (finding.seq, finding.line));
        self.report
    }

    /// Names a line that cannot be read; returns the number that it should have.
    fn refuse(&mut self, error: &LineError) -> u64 {
        let place = self.next.saturating_add(self.unreadable);
        self.report_damage(fault_of(error), place, error.to_string());
        self.unreadable += 1;
        place
    }

    fn report_damage(&mut self, fault: LedgerFault, seq: u64, detail: String) {
        let at = (seq, self.line);
        match fault {
            // It is there, for whoever has a newer release.
            LedgerFault::Newer => drop(self.report.add(fault, seq, self.line, detail)),
            _ => drop(
                self.report
                    .add_lost(fault, at, LostRecords::one(seq), detail),
            ),
        }
    }

    /// Remembers what the record before this number hashes to.
    fn note_edge(&mut self, seq: u64) {
        let before = seq.checked_sub(1).and_then(|seq| self.recent.get(seq));
        if let Some(before) = before.filter(|_| self.edges.len() < MAX_EDGES) {
            self.edges.insert(before.seq, before.hash);
        }
    }

    /// Judges a record; returns the number that it was judged under.
    fn record(&mut self, line: &Line) -> u64 {
        self.report.records += 1;
        let seq = self.number(line);
        if self.place(seq, line) {
            self.judge(seq, line);
        }
        seq
    }

    fn judge(&mut self, seq: u64, line: &Line) {
        let genuine = self.keys.genuine(line);
        self.report.hmacs_checked += u64::from(genuine.is_some());
        let LedgerHead { hash, .. } = line.head();
        let prev = line.record().prev;
        let mut seen = Seen {
            seq,
            hash,
            prev,
            genuine,
            finding: None,
        };
        if genuine == Some(false) {
            let detail = "its HMAC does not match: it was changed, or written without the key of \
                          its host";
            seen.finding = self.report.add_lost(
                LedgerFault::Edited,
                (seq, self.line),
                other_than(&seen, None),
                detail.to_owned(),
            );
        }
        self.hear(&seen, line);
        self.check_repo(&seen, line);
        self.check_links(&seen);
        self.check_head(&seen);
        self.recent.put(seen);
        let head = LedgerHead { seq, hash };
        if self.report.first.is_none_or(|first| seq < first.seq) {
            self.report.first = Some(head);
        }
        if self.report.last.is_none_or(|last| seq > last.seq) {
            self.report.last = Some(head);
        }
    }

    /// Takes up what a record accepts as lost, if it may.
    fn hear(&mut self, seen: &Seen, line: &Line) {
        let record = line.record();
        let lost = accepted_by(record);
        if lost.is_empty() || seen.genuine == Some(false) || record.seq != seen.seq {
            return;
        }
        let key = self.accept_key.as_ref();
        if key.is_none_or(|key| is_sealed(record, key)) {
            self.report.accepted.add(&lost, seen.seq);
            return;
        }
        let detail =
            "it says that lost records are known, and was not written with a key that may \
                      say so: it counts for nothing"
                .to_owned();
        let (at, own) = ((seen.seq, self.line), other_than(seen, None));
        self.report.add_lost(LedgerFault::Foreign, at, own, detail);
    }

    /// The number under which a record is judged: what it says, unless it continues the very line
    /// above it and says another number than the next: then its place is certain, and what it says
    /// is not.
    fn number(&mut self, line: &Line) -> u64 {
        let (said, due) = (line.record().seq, self.above.seq.saturating_add(1));
        // Whoever finds that the beginning was taken away leaves the place of record 1 empty.
        let is_begun_anew = self.above.seq == 0 && said == 2;
        if line.record().prev != self.above.hash || said == due || is_begun_anew {
            return said;
        }
        let detail = format!(
            "it says that it is record {said}, but continues record {}",
            due - 1
        );
        self.report.add(LedgerFault::Edited, due, self.line, detail);
        due
    }

    /// Finds the place of a record among those seen; `false` if its number was seen before.
    fn place(&mut self, seq: u64, line: &Line) -> bool {
        // Lines that could not be read fill a gap from its start; they were named already.
        let start = self
            .next
            .saturating_add(std::mem::take(&mut self.unreadable))
            .min(seq);
        if seq >= self.next && seq < u64::MAX {
            if start < seq {
                self.note_edge(start);
            }
            if let Some((range, line)) = self.gaps.add(start..seq, self.line) {
                self.missing(&range, line);
            }
            self.next = seq + 1;
            return true;
        }
        if seq > 0 && self.gaps.fill(seq) {
            let detail = format!("it stands after record {}", self.next - 1);
            self.report
                .add(LedgerFault::Reordered, seq, self.line, detail);
            return true;
        }
        let detail = match self.recent.get(seq) {
            Some(seen) if seen.hash == line.head().hash => "the same line was there before",
            Some(_) => "another record has this number",
            None if seq == 0 || seq == u64::MAX => "no record has this number",
            None => "a record of this number was there before",
        };
        self.report
            .add(LedgerFault::Duplicated, seq, self.line, detail.to_owned());
        false
    }

    fn check_repo(&mut self, seen: &Seen, line: &Line) {
        let repo = line.record().repo;
        if let Some(wanted) = self.expect.repo.filter(|wanted| *wanted != repo) {
            let detail = format!("it is about repository {repo}, the ledger about {wanted}");
            let (at, own) = ((seen.seq, self.line), other_than(seen, None));
            self.report.add_lost(LedgerFault::Foreign, at, own, detail);
        }
    }

    fn check_links(&mut self, seen: &Seen) {
        if seen.seq == 1 && seen.prev != LineHash::NONE && seen.genuine != Some(false) {
            let detail = "it is the first record and yet continues another".to_owned();
            let (at, own) = ((1, self.line), other_than(seen, None));
            self.report.add_lost(LedgerFault::Foreign, at, own, detail);
        }
        if let Some(before) = seen.seq.checked_sub(1).filter(|seq| *seq > 0) {
            match self.recent.get(before) {
                Some(before) => self.check_link(&before, seen),
                // It says what that must be, unless its writer could not read it either.
                None if self.recent.before(before, seen.prev).is_some() => {}
                None if self.behind.len() < MAX_EDGES => {
                    self.behind.insert(before, seen.prev);
                }
                None => {}
            }
        }
        if let Some(after) = seen.seq.checked_add(1).and_then(|seq| self.recent.get(seq)) {
            self.check_link(seen, &after);
        }
    }

    /// Checks that `b` continues `a`. A wrong HMAC was named already; otherwise a broken link
    /// means that one of both was changed, and a right HMAC tells which.
    fn check_link(&mut self, a: &Seen, b: &Seen) {
        if b.prev == a.hash {
            self.rechained(a);
            return;
        }
        let (fault, seq, lost, detail) = match (a.genuine, b.genuine) {
            (Some(false), _) | (_, Some(false)) => return,
            // Its writer saw the ledger end there, so nothing that it knew of is hidden by that.
            _ if let Some(seen) = self.recent.before(a.seq, b.prev) => {
                let what = match seen {
                    0 => "no record: what is before it".to_owned(),
                    seen => format!("record {seen}: what is between"),
                };
                let detail = format!("it continues {what} could not be read when it was written");
                self.report
                    .add(LedgerFault::PassedOver, b.seq, self.line, detail);
                return;
            }
            (Some(true), Some(true)) => {
                let detail = format!("it is genuine, but continues another record {}", a.seq);
                let lost = other_than(a, Some(b.prev));
                (LedgerFault::Foreign, b.seq, lost, detail)
            }
            (Some(true), None) => {
                let detail = format!("it does not continue record {}, which is genuine", a.seq);
                let lost = other_than(b, None);
                (LedgerFault::Edited, b.seq, lost, detail)
            }
            (None, _) => {
                let detail = format!(
                    "its SHA-256 is {}, but record {} continues {}",
                    a.hash, b.seq, b.prev
                );
                let lost = other_than(a, Some(b.prev));
                (LedgerFault::Edited, a.seq, lost, detail)
            }
        };
        self.report.add_lost(fault, (seq, self.line), lost, detail);
    }

    /// A record with a wrong HMAC that the next one continues was not changed in place: whoever
    /// wrote it could go on with the chain, and did not have the key.
    fn rechained(&mut self, a: &Seen) {
        let finding = a
            .finding
            .and_then(|place| self.report.findings.get_mut(place));
        if let Some(finding) = finding {
            finding.fault = LedgerFault::Foreign;
            finding.detail = "its HMAC does not match, and yet the next record continues it: it \
                              was written without the key of its host"
                .to_owned();
        }
    }

    fn check_head(&mut self, seen: &Seen) {
        let head = self
            .expect
            .head
            .filter(|head| head.seq == seen.seq && head.hash != seen.hash);
        if let (Some(head), None) = (head, seen.finding) {
            let detail = format!(
                "its SHA-256 is {}, but was known to be {}",
                seen.hash, head.hash
            );
            let (at, lost) = ((seen.seq, self.line), other_than(seen, Some(head.hash)));
            self.report.add_lost(LedgerFault::Edited, at, lost, detail);
        }
    }

    /// Tells of records that are not there, of those that are accepted as lost as such.
    fn missing(&mut self, range: &Range<u64>, line: u64) {
        for (row, by) in self.report.accepted.split(range.clone()) {
            let lost = LostRecords {
                first: row.start,
                last: row.end - 1,
                hash: self.behind.get(&(row.end - 1)).copied(),
                instead: None,
            };
            let detail = match lost.last - lost.first {
                0 => format!("record {} is not there", lost.first),
                more => format!(
                    "records {} to {} are not there ({} of them)",
                    lost.first,
                    lost.last,
                    more + 1
                ),
            };
            let (fault, detail) = match by {
                None => (LedgerFault::Missing, detail),
                Some(by) => (LedgerFault::Accepted, known(&detail, by)),
            };
            let at = (lost.first, line);
            self.report.add_lost(fault, at, lost, detail);
        }
    }

    /// Makes notes of findings of records that are accepted as lost; and findings of records that turned up again and
    /// are others than were lost.
    fn check_accepted(&mut self) {
        let mut report = std::mem::take(&mut self.report);
        for finding in &mut report.findings {
            let Some(lost) = &mut finding.lost else {
                continue;
            };
            lost.hash = lost.hash.or(self.behind.get(&lost.last).copied());
            let by = report.accepted.of(lost);
            if let Some(by) = by.filter(|_| finding.fault != LedgerFault::Accepted) {
                finding.fault = LedgerFault::Accepted;
                finding.detail = known(&finding.detail, by);
            }
        }
        let told: Vec<(u64, LineHash)> = report.accepted.hashes().collect();
        for (seq, wanted) in told {
            let recent = self.recent.get(seq).map(|seen| seen.hash);
            let hash = recent.or_else(|| self.edges.get(&seq).copied());
            let Some(hash) = hash.filter(|hash| *hash != wanted) else {
                continue;
            };
            let lost = LostRecords {
                hash: Some(wanted),
                instead: Some(hash),
                ..LostRecords::one(seq)
            };
            let is_told = report
                .findings
                .iter()
                .any(|one| one.lost.is_some_and(|one| one.instead == Some(hash)));
            if !is_told && report.accepted.instead(seq, hash).is_none() {
                let detail = format!(
                    "its SHA-256 is {hash}, but that of the record that was lost was {wanted}"
                );
                report.add_lost(LedgerFault::Edited, (seq, self.line), lost, detail);
            }
        }
        self.report = report;
    }
}

/// What is lost where another record lies than should.
const fn other_than(seen: &Seen, wanted: Option<LineHash>) -> LostRecords {
    LostRecords {
        first: seen.seq,
        last: seen.seq,
        hash: wanted,
        instead: Some(seen.hash),
    }
}

const fn fault_of(error: &LineError) -> LedgerFault {
    match error {
        LineError::Newer(_) => LedgerFault::Newer,
        LineError::NotCanonical { .. } => LedgerFault::Edited,
        _ => LedgerFault::Unreadable,
    }
}

fn known(detail: &str, by: u64) -> String {
    format!(
        "{detail}; record {by} says that this is known: whether a snapshot, a hold or a key was told of there, nobody can say"
    )
}
