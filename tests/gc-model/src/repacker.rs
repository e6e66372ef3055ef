//! A repacker: copies what is in use of a pack to a new one, writes refs that name the copy, and takes the old
//! refs away. The old pack is then garbage like any other.

use crate::model::Setting;
use crate::tier::{SNAPSHOTS, TWO, Tier, at, bit, members};

/// How far a repacker is; the name says what it does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Begin,
    List,
    Copy,
    Index,
    Refs,
    Look,
    Drop,
    IndexLate,
    Done,
    Ended,
}

/// A repacker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Repacker {
    at: At,
    /// The pack that it empties.
    old: u8,
    /// Snapshots that it still has to do something for.
    left: u8,
    /// Snapshots that it found in the old pack.
    found: u8,
    /// Which refs of each of them named it.
    named: [u8; SNAPSHOTS],
}

/// One operation of a repacker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Creates `sessions/<ulid>`.
    Announce,
    /// Chooses a pack to empty, and reads the refs of the snapshots that use it.
    List(u8),
    /// Stores the copy.
    Copy,
    /// Creates the index run of the copy.
    Index,
    /// Creates `refs/<ulid>.<n>` of a snapshot.
    Refs(u8),
    /// Looks for `sessions/<ulid>.revoked`.
    Look,
    /// Deletes the refs of a snapshot that named the old pack.
    Drop(u8),
    /// Creates `sessions/<ulid>.done`.
    Done,
}

impl Repacker {
    /// What it can do next.
    pub(crate) fn steps(&self, me: u8, tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        match self.at {
            At::Begin => out.push(Step::Announce),
            At::List => {
                // The old pack, or the copy of the other repacker.
                let packs = [0, 3, 4].into_iter().filter(|pack| *pack != me + 3);
                let used = packs.filter(|pack| users(*pack, tier, set) != 0);
                out.extend(used.map(Step::List));
            }
            At::Copy => out.push(Step::Copy),
            At::Index | At::IndexLate => out.push(Step::Index),
            At::Refs => out.extend(members(self.left).next().map(Step::Refs)),
            At::Look => out.push(Step::Look),
            At::Drop => out.extend(members(self.left).next().map(Step::Drop)),
            At::Done => out.push(Step::Done),
            At::Ended => {}
        }
    }

    /// Does a step.
    pub(crate) fn take(&mut self, step: Step, me: u8, tier: &mut Tier, set: &Setting) {
        let rules = &set.rules;
        let session = at(me) + TWO;
        let copy = me + 3;
        match step {
            Step::Announce => {
                tier.sessions[session].open = rules.repacker_has_session;
                self.at = At::List;
            }
            Step::List(old) => {
                self.old = old;
                self.found = users(old, tier, set);
                self.left = self.found;
                for snapshot in members(self.found) {
                    let refs = tier.refs[at(snapshot)];
                    let naming = (0u8..3).filter(|one| refs[at(*one)] & bit(old) != 0);
                    self.named[at(snapshot)] = naming.fold(0, |all, one| all | bit(one));
                }
                self.at = At::Copy;
            }
            Step::Copy => {
                if tier.packs & bit(self.old) == 0 {
                    return self.end();
                }
                let in_use =
                    members(self.found).fold(0, |all, one| all | set.needs_of_snapshot(one));
                tier.copied[at(me)] = in_use & set.chunks_in(tier, self.old);
                tier.packs |= bit(copy);
                self.at = if rules.indexes_copy_first {
                    At::Index
                } else {
                    At::Refs
                };
            }
            Step::Index => {
                tier.runs |= bit(copy);
                self.at = if self.at == At::Index {
                    At::Refs
                } else {
                    At::Done
                };
            }
            Step::Refs(snapshot) => {
                tier.refs[at(snapshot)][1 + at(me)] = bit(copy);
                self.left &= !bit(snapshot);
                if self.left == 0 {
                    self.left = self.found;
                    self.at = if rules.repacker_looks {
                        At::Look
                    } else {
                        At::Drop
                    };
                }
            }
            Step::Look if tier.sessions[session].revoked => self.end(),
            Step::Look => self.at = At::Drop,
            Step::Drop(snapshot) => {
                for one in members(self.named[at(snapshot)]) {
                    tier.refs[at(snapshot)][at(one)] = 0;
                }
                self.left &= !bit(snapshot);
                if self.left == 0 {
                    self.at = if rules.indexes_copy_first {
                        At::Done
                    } else {
                        At::IndexLate
                    };
                }
            }
            Step::Done => {
                tier.sessions[session].done = true;
                self.end();
            }
        }
    }

    fn end(&mut self) {
        *self = Self {
            at: At::Ended,
            ..Self::default()
        };
    }
}

/// Valid snapshots with refs that name a pack.
fn users(pack: u8, tier: &Tier, set: &Setting) -> u8 {
    let all = (0u8..).take(SNAPSHOTS).filter(|snapshot| {
        let names = tier.refs[at(*snapshot)]
            .iter()
            .any(|packs| packs & bit(pack) != 0);
        names && tier.is_valid(*snapshot, &set.rules)
    });
    all.fold(0, |set, snapshot| set | bit(snapshot))
}
