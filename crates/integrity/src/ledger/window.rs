//! What a check remembers of the records it has seen: in bounded memory, however long the ledger.

use std::collections::BTreeMap;
use std::ops::Range;

use super::record::LineHash;

/// How many of the latest records are remembered one by one.
const RECENT: usize = 4096;
/// How many records in a row a writer may have passed over as damaged.
pub(super) const PASSED_OVER: u64 = 128;
/// How many gaps in the numbers are remembered.
const MAX_GAPS: usize = 65_536;

/// A record that was seen lately.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub(super) seq: u64,
    pub(super) hash: LineHash,
    pub(super) prev: LineHash,
    /// Whether its HMAC is right; `None`: not checked.
    pub(super) genuine: Option<bool>,
    /// Where the report says that its HMAC is wrong.
    pub(super) finding: Option<usize>,
}

/// The records seen lately, found by their number.
#[derive(Debug)]
pub(super) struct Recent(Vec<Option<Seen>>);

impl Recent {
    pub(super) fn new() -> Self {
        Self(vec![None; RECENT])
    }

    fn slot(seq: u64) -> usize {
        usize::try_from(seq % RECENT as u64).unwrap_or(0)
    }

    pub(super) fn get(&self, seq: u64) -> Option<Seen> {
        self.0
            .get(Self::slot(seq))
            .copied()
            .flatten()
            .filter(|seen| seen.seq == seq)
    }

    /// The number of the record with this hash among a few before the one with the number `seq`; 0 for
    /// the hash of none, where no more than these few are before.
    pub(super) fn before(&self, seq: u64, hash: LineHash) -> Option<u64> {
        if hash == LineHash::NONE {
            return (seq <= PASSED_OVER).then_some(0);
        }
        let few = seq.saturating_sub(PASSED_OVER)..seq;
        few.rev()
            .find(|seq| self.get(*seq).is_some_and(|seen| seen.hash == hash))
    }

    pub(super) fn put(&mut self, seen: Seen) {
        if let Some(slot) = self.0.get_mut(Self::slot(seen.seq)) {
            *slot = Some(seen);
        }
    }
}

/// Numbers that were passed over and may yet turn up.
#[derive(Debug, Default)]
pub(super) struct Gaps(BTreeMap<u64, (u64, u64)>);

impl Gaps {
    /// Remembers that the numbers of a range were missed on a line. In a file so disordered that
    /// there is no room, the lowest gap is given up and returned.
    pub(super) fn add(&mut self, range: Range<u64>, line: u64) -> Option<(Range<u64>, u64)> {
        if range.is_empty() {
            return None;
        }
        self.0.insert(range.start, (range.end, line));
        if self.0.len() <= MAX_GAPS {
            return None;
        }
        self.0
            .pop_first()
            .map(|(start, (end, line))| (start..end, line))
    }

    /// Takes a number out that turned up after all; whether it was missing.
    pub(super) fn fill(&mut self, seq: u64) -> bool {
        let Some((&start, &(end, line))) = self.0.range(..=seq).next_back() else {
            return false;
        };
        if seq >= end {
            return false;
        }
        self.0.remove(&start);
        if start < seq {
            self.0.insert(start, (seq, line));
        }
        if seq + 1 < end {
            self.0.insert(seq + 1, (end, line));
        }
        true
    }

    /// The gaps that are left, and on which line each was noticed.
    pub(super) fn into_iter(self) -> impl Iterator<Item = (Range<u64>, u64)> {
        self.0
            .into_iter()
            .map(|(start, (end, line))| (start..end, line))
    }
}
