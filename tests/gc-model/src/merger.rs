//! A merger of the index: one run for many.

use crate::model::Setting;
use crate::tier::{MERGED, Tier, at, bit, members};

/// How far a merger is; the name says what it does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum At {
    List(u8),
    Create,
    Delete,
    Ended,
}

/// A merger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Merger {
    at: At,
    /// Runs that it listed.
    listed: u8,
    /// The packs that they name.
    named: u8,
    /// Whether its own run is there.
    created: bool,
}

/// One operation of a merger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Lists a page of `index/` and reads its runs.
    List(u8),
    /// Creates the merged run.
    Create,
    /// Takes a run for the merged one, since it names all that the others name; no operation.
    Keep(u8),
    /// Deletes a run.
    Delete(u8),
}

impl Default for Merger {
    fn default() -> Self {
        Self {
            at: At::List(0),
            listed: 0,
            named: 0,
            created: false,
        }
    }
}

impl Merger {
    /// What it can do next.
    pub(crate) fn steps(&self, tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        match self.at {
            At::List(page) => out.push(Step::List(page)),
            At::Create => {
                out.push(Step::Create);
                if !set.rules.merges_by_own_run {
                    let covers = |run: &u8| self.named & !tier.named_by(*run) == 0;
                    out.extend(
                        members(self.listed & tier.runs)
                            .filter(covers)
                            .map(Step::Keep),
                    );
                }
            }
            At::Delete => out.extend(members(self.listed).next().map(Step::Delete)),
            At::Ended => {}
        }
    }

    /// Does a step.
    pub(crate) fn take(&mut self, step: Step, me: u8, tier: &mut Tier, set: &Setting) {
        let rules = &set.rules;
        match step {
            Step::List(page) => {
                let seen = tier.page_of_runs(page, set.scope.index_pages);
                self.listed |= seen;
                self.named |= tier.named_by_all(seen);
                self.at = match page + 1 {
                    next if next < set.scope.index_pages => At::List(next),
                    _ if self.listed == 0 => At::Ended,
                    _ if rules.merges_create_first => At::Create,
                    _ => At::Delete,
                };
            }
            Step::Create => {
                let mut dropped = 0;
                for one in tier.generations {
                    dropped |= one.dead.filter(|_| !one.unread).unwrap_or(0);
                    if !rules.merges_drop_dead_only {
                        dropped |= one.condemned;
                    }
                }
                tier.merged[at(me)] = self.named & !dropped;
                tier.runs |= bit(MERGED + me);
                self.created = true;
                self.at = At::Delete;
                self.go_on();
            }
            Step::Keep(run) => {
                self.listed &= !bit(run);
                self.created = true;
                self.at = At::Delete;
                self.go_on();
            }
            Step::Delete(run) => {
                tier.runs &= !bit(run);
                self.listed &= !bit(run);
                if let Some(merged) = run.checked_sub(MERGED) {
                    tier.merged[at(merged)] = 0;
                }
                self.go_on();
            }
        }
    }

    fn go_on(&mut self) {
        if self.listed == 0 {
            self.at = if self.created { At::Ended } else { At::Create };
        }
    }

    /// Whether it has done all of its work.
    pub(crate) fn has_ended(&self) -> bool {
        self.at == At::Ended
    }
}
