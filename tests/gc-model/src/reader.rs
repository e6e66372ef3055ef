//! A reader that has read the index at some time, and needs a chunk at another.

use crate::model::Setting;
use crate::tier::{Tier, bit, members};

/// How far a reader is; the name says what it does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum At {
    /// Lists the index before it needs anything.
    #[default]
    Begin,
    Generations,
    List(u8),
    Read,
    Compare,
    Fine,
    Failed,
}

/// A reader.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Reader {
    at: At,
    /// Runs of the list before, and of this one.
    before: Option<u8>,
    listed: u8,
    /// Packs that the index named.
    index: u8,
    /// The snapshot that it reads, once it did not find a chunk.
    reads: Option<u8>,
    /// Generations that were decided when it began to read the index again.
    decided: u8,
}

/// One operation of a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Lists `gc/`: what is decided before it reads the index again, or behind that.
    ListGenerations,
    /// Lists a page of `index/` and reads its runs.
    List(u8),
    /// Looks for the chunks of a snapshot in the packs that the index names.
    Read(u8),
}

impl Reader {
    /// What it can do next.
    pub(crate) fn steps(&self, tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        match (self.at, self.reads) {
            (At::Begin, _) => out.push(Step::List(0)),
            (At::Generations | At::Compare, _) => out.push(Step::ListGenerations),
            (At::List(page), _) => out.push(Step::List(page)),
            (At::Read, Some(snapshot)) => out.push(Step::Read(snapshot)),
            (At::Read, None) => {
                let valid = members(tier.snapshots).filter(|one| tier.is_valid(*one, &set.rules));
                out.extend(valid.map(Step::Read));
            }
            (At::Fine | At::Failed, _) => {}
        }
    }

    /// Does a step.
    pub(crate) fn take(&mut self, step: Step, tier: &Tier, set: &Setting) {
        match step {
            Step::ListGenerations => {
                let known = (0u8..).zip(&tier.generations);
                let decided = known
                    .filter(|(_, one)| one.dead.is_some())
                    .fold(0, |all, (number, _)| all | bit(number));
                if self.at == At::Compare && decided == self.decided {
                    return self.fail();
                }
                self.decided = decided;
                self.index = 0;
                self.at = At::List(0);
            }
            Step::List(page) => {
                let seen = tier.page_of_runs(page, set.scope.index_pages);
                self.listed |= seen;
                self.index |= tier.named_by_all(seen);
                self.at = match page + 1 {
                    next if next < set.scope.index_pages => At::List(next),
                    _ => self.compare(set),
                };
            }
            Step::Read(snapshot) => self.read(snapshot, tier, set),
        }
    }

    /// At the end of a list. What a reader knows when it begins may be as old and as incomplete as it likes.
    fn compare(&mut self, set: &Setting) -> At {
        let agrees = self.before == Some(self.listed) || !set.rules.lists_agree;
        if self.reads.is_none() || agrees {
            (self.before, self.listed) = (None, 0);
            return At::Read;
        }
        self.before = Some(self.listed);
        self.listed = 0;
        At::List(0)
    }

    fn read(&mut self, snapshot: u8, tier: &Tier, set: &Setting) {
        let found = set.is_held(tier, self.index & tier.packs, snapshot);
        if found || !tier.is_valid(snapshot, &set.rules) {
            let reads = self.reads.filter(|_| found);
            *self = Self {
                at: At::Fine,
                reads,
                ..Self::default()
            };
        } else if self.reads.is_none() && set.rules.readers_reload {
            self.reads = Some(snapshot);
            self.at = At::Generations;
        } else if self.reads.is_some() && set.rules.readers_compare_generations {
            self.at = At::Compare;
        } else {
            self.reads = Some(snapshot);
            self.fail();
        }
    }

    fn fail(&mut self) {
        *self = Self {
            at: At::Failed,
            reads: self.reads,
            ..Self::default()
        };
    }

    /// Whether it did not find a chunk of a snapshot that is there.
    pub(crate) fn has_failed(&self, tier: &Tier, set: &Setting) -> bool {
        let reads = self.reads.filter(|_| self.at == At::Failed);
        reads.is_some_and(|snapshot| tier.is_valid(snapshot, &set.rules))
    }

    /// Whether it found what it needed by reading the index again.
    pub(crate) fn has_found_behind_reload(&self) -> bool {
        self.at == At::Fine && self.reads.is_some()
    }
}
