//! Records that the tier has lost: what they must be, and what this host's copy of the ledger has of them that fits there.

use std::collections::{BTreeMap, BTreeSet};

use backup_core::{HostId, OpContext, Severity};
use backup_integrity::ledger::{
    Candidate, Expect, LedgerKeys, LedgerVerifier, Line, LineHash, RawLine, Row, fitting,
};
use backup_integrity::sign::HmacKey;
use futures::TryStreamExt as _;

use super::accept::accept_key;
use super::tier;
use crate::error::Result;
use crate::repository::Repository;

/// More than so many records, and rows of them, are not mended at once.
pub(crate) const MOST_HOLES: usize = 10_000;

/// Where a copy of a record is from that this host has kept.
pub(crate) const OWN: usize = 0;

/// What is lost on the tier, and what this host's copy has of it.
///
/// Memory: some 100 bytes for each record.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    /// The records that are lost, in rows, ascending; of very many the first ones. A row at the end is what only this
    /// host's copy knows of.
    pub(crate) rows: Vec<Row>,
    /// What the others hash to.
    pub(crate) known: BTreeMap<u64, LineHash>,
    /// What is wrong with those that are there and are no records.
    pub(crate) damaged: BTreeMap<u64, String>,
    /// What copies there are of the lost ones.
    pub(crate) copies: BTreeMap<u64, Vec<Candidate>>,
    /// Records that are there, and are others in this host's copy.
    pub(crate) differing: BTreeSet<u64>,
}

impl Holes {
    /// Reads the tier and this host's copy.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(crate) async fn read(repo: &Repository, cx: &OpContext) -> Result<Self> {
        let mut out = Self::default();
        let mut end = out.read_tier(repo, cx).await?;
        let mut own: BTreeMap<u64, LineHash> = BTreeMap::new();
        each_own(repo, |line| {
            let head = line.head();
            own.insert(head.seq, head.hash);
        });
        let last = own.keys().next_back().copied().unwrap_or(0);
        if last > end {
            out.lose(end + 1, last);
            end = last;
        }
        for (number, hash) in &own {
            if out.known.get(number).is_some_and(|known| known != hash) {
                out.differing.insert(*number);
            }
        }
        let is_lost = |number: &u64| (1..=end).contains(number) && !out.known.contains_key(number);
        let mut copies: BTreeMap<u64, Vec<Candidate>> = BTreeMap::new();
        each_own(repo, |line| {
            let number = line.head().seq;
            if is_lost(&number) && (copies.len() < MOST_HOLES || copies.contains_key(&number)) {
                let (is_own, from) = (true, OWN);
                let copy = Candidate { line, is_own, from };
                copies.insert(number, vec![copy]);
            }
        });
        out.copies = copies;
        Ok(out)
    }

    /// Takes up what is on the tier; gives the number of the last.
    async fn read_tier(&mut self, repo: &Repository, cx: &OpContext) -> Result<u64> {
        let mut next = 1;
        let numbers = tier::numbers(repo, cx, 0).await?;
        let mut lines = Box::pin(tier::lines(repo, cx, numbers));
        while let Some((seq, found)) = lines.try_next().await? {
            if next < seq {
                self.lose(next, seq - 1);
            }
            next = seq.saturating_add(1);
            match tier::record(seq, found) {
                Ok(line) => {
                    if let Some(row) = self.rows.last_mut()
                        && row.last + 1 == seq
                    {
                        row.behind = Some(line.record().prev);
                    }
                    self.known.insert(seq, line.head().hash);
                }
                Err(why) => {
                    self.lose(seq, seq);
                    if self.damaged.len() < MOST_HOLES {
                        self.damaged.insert(seq, why);
                    }
                }
            }
        }
        Ok(next - 1)
    }

    /// Adds lost records behind those that are known to be lost.
    fn lose(&mut self, first: u64, last: u64) {
        let is_full = self.rows.len() >= MOST_HOLES;
        match self.rows.last_mut() {
            Some(row) if row.last + 1 == first => row.last = last,
            _ if is_full => {}
            _ => self.rows.push(Row {
                first,
                last,
                behind: None,
            }),
        }
    }

    /// What fits into the place of lost records, of the copies that there are.
    pub(crate) fn fitting(&self) -> BTreeMap<u64, &Candidate> {
        let mut out = BTreeMap::new();
        for row in self.rows.iter().filter(|row| !was_begun_anew(row)) {
            let is_of_one = self.differing.is_empty();
            out.extend(fitting(row, &self.known, &self.copies, is_of_one));
        }
        out
    }

    /// Whether this host's copy has records that do not fit to what the tier has.
    pub(crate) fn is_other_way(&self) -> bool {
        let fits = self.fitting();
        let mut own = self.copies.iter();
        let is_unfit = own.any(|(number, copies)| {
            copies.iter().any(|copy| copy.is_own) && !fits.contains_key(number)
        });
        is_unfit || !self.differing.is_empty()
    }
}

/// Whether this is the place of a first record that somebody left empty who found none: no record fits there.
pub(crate) fn was_begun_anew(row: &Row) -> bool {
    (row.first, row.last) == (1, 1) && row.behind == Some(LineHash::NONE)
}

/// Goes over the records of this host's copy. One that cannot be read is as if there were none.
pub(super) fn each_own(repo: &Repository, mut take: impl FnMut(Line)) {
    let copied = repo.ledger_copy().and_then(|copy| copy.lines().ok());
    let Some(mut copied) = copied.flatten() else {
        return;
    };
    while let Ok(Some(raw)) = copied.next_line() {
        if let RawLine::Whole(bytes) = raw
            && let Ok(line) = Line::parse(bytes)
        {
            take(line);
        }
    }
}

/// Whether this host's copy has all that the tier has lost and nobody has accepted as lost, and the chain is whole with
/// it.
///
/// # Errors
/// Errors of the tier.
pub(super) async fn is_filled(repo: &Repository, cx: &OpContext) -> Result<bool> {
    let holes = Holes::read(repo, cx).await?;
    if holes.rows.len() >= MOST_HOLES || holes.is_other_way() {
        return Ok(false);
    }
    let mut fits = holes.fitting();
    let key_of = |host: &HostId| {
        let key = repo.keys().ledger_key(host).ok()?;
        Some(HmacKey::new(*key.expose()))
    };
    let expect = Expect {
        head: None,
        repo: Some(repo.id()),
    };
    let verifier = LedgerVerifier::new(LedgerKeys::ByHost(&key_of), expect);
    let mut verifier = verifier.accept_by(accept_key(repo));
    let numbers = tier::numbers(repo, cx, 0).await?;
    let mut lines = Box::pin(tier::lines(repo, cx, numbers));
    while let Some((seq, found)) = lines.try_next().await? {
        let rest = fits.split_off(&seq);
        for (number, copy) in std::mem::replace(&mut fits, rest) {
            verifier.push_at(number, copy.line.as_bytes());
        }
        match (fits.remove(&seq), found) {
            (Some(copy), _) => verifier.push_at(seq, copy.line.as_bytes()),
            (None, Ok(line)) => verifier.push_at(seq, &line),
            (None, Err(why)) => verifier.damaged(seq, why),
        }
    }
    for (number, copy) in fits {
        verifier.push_at(number, copy.line.as_bytes());
    }
    let report = verifier.finish();
    let mut findings = report.findings.iter().map(|one| one.to_finding());
    Ok(report.more_findings == 0 && findings.all(|finding| finding.severity == Severity::Note))
}
