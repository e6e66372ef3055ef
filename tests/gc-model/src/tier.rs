//! The tier: which objects are there. Sets are bits of a `u8`, so that a state is small.
//!
//! Session `s` makes pack, index run and snapshot `s + 1`; number 0 was there before. Sessions 0 and 1 are of the
//! writers, 2 and 3 of the repackers; snapshots 3 and 4 are the second ones of the writers.

use crate::rules::Rules;

/// Most writers, collectors, repackers and mergers.
pub(crate) const TWO: usize = 2;
/// Sessions: of two writers and two repackers.
pub(crate) const SESSIONS: usize = 4;
/// Snapshots: the old one, and two of each writer.
pub(crate) const SNAPSHOTS: usize = 5;
/// Generations.
pub(crate) const GENERATIONS: usize = 2;
/// The first run that is merged from others.
pub(crate) const MERGED: u8 = 5;

/// The chunk that every snapshot uses that was there before.
pub(crate) const COMMON: u8 = 1;
/// The other chunk of the old pack.
pub(crate) const OTHER: u8 = 2;
/// Both of them.
pub(crate) const BOTH: u8 = 3;

/// The numbers in a set.
pub(crate) fn members(set: u8) -> impl Iterator<Item = u8> {
    (0..8).filter(move |number| set & bit(*number) != 0)
}

/// The set of one number.
pub(crate) const fn bit(number: u8) -> u8 {
    1 << number
}

/// Where a number points in an array.
pub(crate) const fn at(number: u8) -> usize {
    number as usize
}

/// What is known of a session by the names below `sessions/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Session {
    /// `sessions/<ulid>`.
    pub(crate) open: bool,
    /// `sessions/<ulid>.done`.
    pub(crate) done: bool,
    /// `sessions/<ulid>.revoked`.
    pub(crate) revoked: bool,
    /// `sessions/<ulid>.verdict`: the snapshots that it names.
    pub(crate) verdict: Option<u8>,
}

/// A generation of the collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Generation {
    /// The packs that `gc/<n>` condemns; none while there is no such object.
    pub(crate) condemned: u8,
    /// The packs that `gc/<n>.done` calls dead.
    pub(crate) dead: Option<u8>,
    /// Whether `gc/<n>.done` is there and cannot be read any more.
    pub(crate) unread: bool,
    /// Whether `gc/<n>` is there and cannot be read any more.
    pub(crate) unknown: bool,
}

impl Generation {
    /// The packs that nobody may name who reads this generation.
    pub(crate) fn avoided(self, rules: &Rules) -> u8 {
        match self.dead {
            Some(_) if self.unread && rules.avoids_unread => self.condemned,
            Some(_) if self.unread => 0,
            None if rules.avoids_condemned => self.condemned,
            Some(dead) if rules.avoids_dead => dead,
            _ => 0,
        }
    }

    /// Whether nobody can tell what is about to be deleted.
    pub(crate) const fn stops_writers(self) -> bool {
        self.unknown && self.dead.is_none()
    }
}

/// The tier.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Tier {
    /// The packs that are there.
    pub(crate) packs: u8,
    /// The chunks in the packs of the two repackers.
    pub(crate) copied: [u8; TWO],
    /// The index runs that are there.
    pub(crate) runs: u8,
    /// The packs that the merged runs name.
    pub(crate) merged: [u8; TWO],
    /// Runs whose names come in the second page of a list.
    pub(crate) late: u8,
    /// The snapshots that are there.
    pub(crate) snapshots: u8,
    /// Snapshots that were forgotten.
    pub(crate) forgotten: u8,
    /// The packs that the refs of each snapshot name: `refs/<ulid>`, and what the two repackers wrote beside it; none
    /// while there is no such object.
    pub(crate) refs: [[u8; 1 + TWO]; SNAPSHOTS],
    /// Sessions.
    pub(crate) sessions: [Session; SESSIONS],
    /// `gc/`.
    pub(crate) generations: [Generation; GENERATIONS],
}

impl Tier {
    /// A tier with one snapshot of one chunk, in a pack that holds another chunk beside it.
    pub(crate) fn new(late: u8, leftover: bool) -> Self {
        let mut refs = [[0; 1 + TWO]; SNAPSHOTS];
        refs[0][0] = bit(0);
        Self {
            // The leftover is a pack that the second writer would have made.
            packs: if leftover { bit(0) | bit(2) } else { bit(0) },
            copied: [0; TWO],
            runs: bit(0),
            merged: [0; TWO],
            late,
            snapshots: bit(0),
            forgotten: 0,
            refs,
            sessions: [Session::default(); SESSIONS],
            generations: [Generation::default(); GENERATIONS],
        }
    }

    /// The packs that a run names.
    pub(crate) fn named_by(&self, run: u8) -> u8 {
        match run.checked_sub(MERGED) {
            Some(merged) => self.merged[at(merged)],
            None => bit(run),
        }
    }

    /// The packs that these runs name.
    pub(crate) fn named_by_all(&self, runs: u8) -> u8 {
        members(runs).fold(0, |named, run| named | self.named_by(run))
    }

    /// The runs of a page of the index; all of them where a list has one page.
    pub(crate) const fn page_of_runs(&self, page: u8, pages: u8) -> u8 {
        match (pages, page) {
            (1, _) => self.runs,
            (_, 0) => self.runs & !self.late,
            _ => self.runs & self.late,
        }
    }

    /// The packs that any refs of a snapshot name, or those of the newest alone where that counts.
    pub(crate) fn marked_by(&self, snapshot: u8, rules: &Rules) -> u8 {
        let refs = self.refs[at(snapshot)];
        if rules.refs_add_up {
            return refs.into_iter().fold(0, |all, one| all | one);
        }
        refs.into_iter()
            .rev()
            .find(|packs| *packs != 0)
            .unwrap_or(0)
    }

    /// Whether readers count a snapshot: it is there, and no verdict on its session leaves it out.
    pub(crate) fn is_valid(&self, snapshot: u8, rules: &Rules) -> bool {
        let there = self.snapshots & bit(snapshot) != 0;
        there && !(rules.readers_heed_verdicts && self.is_void(snapshot))
    }

    /// Whether a verdict leaves a snapshot out. None counts against a session that came to its end.
    pub(crate) fn is_void(&self, snapshot: u8) -> bool {
        let session = session_of(snapshot).map(|session| self.sessions[at(session)]);
        let open = session.filter(|session| !session.done);
        let verdict = open.and_then(|session| session.verdict);
        verdict.is_some_and(|named| named & bit(snapshot) == 0)
    }
}

/// The session that makes a snapshot; the old one is of none.
pub(crate) const fn session_of(snapshot: u8) -> Option<u8> {
    match snapshot {
        0 => None,
        1 | 3 => Some(0),
        _ => Some(1),
    }
}

/// The snapshots of a session.
pub(crate) const fn snapshots_of(session: u8) -> u8 {
    match session {
        0 => bit(1) | bit(3),
        1 => bit(2) | bit(4),
        _ => 0,
    }
}
