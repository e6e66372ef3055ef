//! Records that are lost for good, and the record that says that this is known.
//!
//! Its `op` is [`Op::ACCEPT`], and its `note` begins with `lost ` and the records, ascending, joined by `, `. Each is a
//! number or a range (`7-9`), then ` as ` and what the last of them must hash to, where that is known, then ` not ` and
//! what the line hashes to that lies in its place and is not the record. Behind that may stand sentences for people, and
//! at the end, each after `; `, `sealed ` and an HMAC-SHA256 under a key that only those have who may forget:
//!
//! `lost 5, 7-9 as 0d…3f, 12 as 77…a0 not 1b…c2; sealed 90…4e`
//!
//! The seal is over the number of the record before (`u64`, big-endian; 0 if there is none), its hash, the id of the
//! repository, and the note up to `; sealed `. Whoever has not got that key can sign such a record for a host, but not
//! seal it, so it counts for nothing with those who can tell.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::record::{Draft, LedgerHead, LineHash, Op, Record};
use crate::sign::{HmacKey, HmacTag, Purpose};

/// How many rows of records one record accepts at most: so many fit into a line, whatever is known of them.
pub const MAX_ACCEPTED: usize = 300;
/// How many rows of accepted records are remembered; further ones are told as if nobody knew of them.
const MAX_ROWS: usize = 65_536;

const LOST: &str = "lost ";
const SEALED: &str = "; sealed ";

/// Records in a row that are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LostRecords {
    /// The number of the first.
    pub first: u64,
    /// The number of the last.
    pub last: u64,
    /// What the last hashes to, if that is known: the record behind it says so.
    pub hash: Option<LineHash>,
    /// What the line hashes to that lies in the place of the one record that this is, and is another.
    pub instead: Option<LineHash>,
}

impl LostRecords {
    /// One of which nothing is known.
    #[must_use]
    pub const fn one(number: u64) -> Self {
        Self {
            first: number,
            last: number,
            hash: None,
            instead: None,
        }
    }
}

impl fmt::Display for LostRecords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first)?;
        if self.last != self.first {
            write!(f, "-{}", self.last)?;
        }
        if let Some(hash) = &self.hash {
            write!(f, " as {hash}")?;
        }
        match &self.instead {
            Some(instead) => write!(f, " not {instead}"),
            None => Ok(()),
        }
    }
}

/// A text that names no lost records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this does not name lost records")]
pub struct NotLost;

impl FromStr for LostRecords {
    type Err = NotLost;

    fn from_str(text: &str) -> Result<Self, NotLost> {
        let mut words = text.split(' ');
        let numbers = words.next().ok_or(NotLost)?;
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let number = |text: &str| text.parse::<u64>().map_err(|_| NotLost);
        let mut lost = Self {
            first: number(first)?,
            last: number(last)?,
            hash: None,
            instead: None,
        };
        while let Some(word) = words.next() {
            let hash = words.next().and_then(|hash| hash.parse().ok());
            let hash = Some(hash.ok_or(NotLost)?);
            match word {
                "as" => lost.hash = hash,
                "not" => lost.instead = hash,
                _ => return Err(NotLost),
            }
        }
        // One spelling for each, so that nothing is said that nobody sees.
        let is_one = lost.first == lost.last;
        let is_right = lost.first > 0
            && lost.first <= lost.last
            && (is_one || lost.instead.is_none())
            && lost.to_string() == text;
        is_right.then_some(lost).ok_or(NotLost)
    }
}

/// The note of a record that accepts: the lost records, ascending, and sentences for people. Without records it is these
/// alone, so that it names none.
#[must_use]
pub fn accept_note(lost: &[LostRecords], more: &[&str]) -> String {
    let lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
    let lost = (!lost.is_empty()).then(|| format!("{LOST}{}", lost.join(", ")));
    let parts = lost.as_deref().into_iter().chain(more.iter().copied());
    parts.collect::<Vec<_>>().join("; ")
}

/// Seals the note of a record that is to come behind `before`.
pub fn seal_note(draft: &mut Draft, before: Option<&LedgerHead>, key: &HmacKey) {
    let note = draft.note.take().unwrap_or_default();
    let (seq, prev) = before.map_or((0, LineHash::NONE), |head| (head.seq, head.hash));
    let seal = key.sign(
        Purpose::Accept,
        &[
            &seq.to_be_bytes(),
            &prev.0,
            draft.repo.as_bytes(),
            note.as_bytes(),
        ],
    );
    draft.note = Some(format!("{note}{SEALED}{seal}"));
}

/// Whether a record has a seal that holds.
#[must_use]
pub fn is_sealed(record: &Record, key: &HmacKey) -> bool {
    let note = record.note.as_deref().unwrap_or_default();
    let Some((note, seal)) = note.rsplit_once(SEALED) else {
        return false;
    };
    let Ok(seal) = seal.parse::<HmacTag>() else {
        return false;
    };
    let before = record.seq.saturating_sub(1).to_be_bytes();
    let parts = [
        &before[..],
        &record.prev.0,
        record.repo.as_bytes(),
        note.as_bytes(),
    ];
    key.verify(Purpose::Accept, &parts, &seal).is_ok()
}

/// The records that a record says are lost, all of them before it. Whether it may say so is not looked at.
#[must_use]
pub fn accepted_by(record: &Record) -> Vec<LostRecords> {
    let note = record.note.as_deref().filter(|_| record.op == Op::ACCEPT);
    let Some(said) = note.and_then(|note| note.strip_prefix(LOST)) else {
        return Vec::new();
    };
    let said = said.split_once("; ").map_or(said, |(said, _)| said);
    let lost: Result<Vec<LostRecords>, NotLost> = said.split(", ").map(str::parse).collect();
    let Ok(lost) = lost else { return Vec::new() };
    let ascends = lost.is_sorted_by(|a, b| a.last < b.first);
    let is_behind = lost.last().is_some_and(|lost| lost.last < record.seq);
    if ascends && is_behind && lost.len() <= MAX_ACCEPTED {
        lost
    } else {
        Vec::new()
    }
}

/// All records of a ledger that are accepted as lost.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedRecords {
    /// By the first of a row: the last, and the number of the record that accepts them.
    rows: BTreeMap<u64, (u64, u64)>,
    /// What some of them hash to.
    hashes: BTreeMap<u64, LineHash>,
    /// Lines that lie in the place of some, and are others.
    instead: BTreeSet<(u64, LineHash)>,
}

impl AcceptedRecords {
    /// Takes up what the record with the number `by` accepts.
    pub fn add(&mut self, lost: &[LostRecords], by: u64) {
        for lost in lost {
            if self.rows.len() >= MAX_ROWS || self.instead.len() >= MAX_ROWS {
                return;
            }
            let news: Vec<_> = self.split(lost.first..lost.last.saturating_add(1));
            let news = news.into_iter().filter(|(_, by)| by.is_none());
            let rows = news.map(|(row, _)| (row.start, (row.end - 1, by)));
            self.rows.extend(rows);
            if let Some(hash) = lost.hash {
                // Who said it first had the record behind it.
                self.hashes.entry(lost.last).or_insert(hash);
            }
            self.instead
                .extend(lost.instead.map(|hash| (lost.first, hash)));
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The number of the record that accepts this one as lost.
    #[must_use]
    pub fn by(&self, number: u64) -> Option<u64> {
        let (_, (last, by)) = self.rows.range(..=number).next_back()?;
        (number <= *last).then_some(*by)
    }

    /// The same for a line that lies in its place, and is another.
    #[must_use]
    pub fn instead(&self, number: u64, hash: LineHash) -> Option<u64> {
        let is_known = self.instead.contains(&(number, hash));
        self.by(number).filter(|_| is_known)
    }

    /// The number of the record that accepts such lost records.
    pub(super) fn of(&self, lost: &LostRecords) -> Option<u64> {
        match lost.instead {
            Some(instead) => self.instead(lost.first, instead),
            None => self.by(lost.first),
        }
    }

    /// What accepted records must hash to, where that is known.
    pub(super) fn hashes(&self) -> impl Iterator<Item = (u64, LineHash)> {
        self.hashes.iter().map(|(number, hash)| (*number, *hash))
    }

    /// A range of numbers in rows that are accepted, each with the number of the record that says so, and rows that
    /// are not.
    #[must_use]
    pub fn split(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<u64>)> {
        let (mut out, mut next) = (Vec::new(), range.start);
        let before = self.rows.range(..range.start).next_back();
        let within = self.rows.range(range.clone());
        for (first, (last, by)) in before.into_iter().chain(within) {
            let row = (*first).max(range.start)..last.saturating_add(1).min(range.end);
            if row.is_empty() {
                continue;
            }
            if next < row.start {
                out.push((next..row.start, None));
            }
            next = row.end;
            out.push((row, Some(*by)));
        }
        if next < range.end {
            out.push((next..range.end, None));
        }
        out
    }
}
