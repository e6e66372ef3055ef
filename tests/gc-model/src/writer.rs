//! A writer: announces itself, learns what is condemned and what the index knows, stores or reuses, commits,
//! and looks behind itself.

use crate::model::Setting;
use crate::tier::{BOTH, Tier, at, bit, members, snapshots_of};

/// How far a writer is; the name says what it does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Begin,
    Generations(u8),
    Index,
    Store,
    Run,
    Refs,
    Commit,
    Look,
    Done,
    Verdict,
    Ended,
}

/// A writer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Writer {
    at: At,
    /// Packs that it may not name.
    avoided: u8,
    /// Packs that the index named.
    index: u8,
    /// Packs that its snapshot uses.
    uses: u8,
    /// Whether this is its second snapshot.
    second: bool,
}

/// One operation of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Creates `sessions/<ulid>`.
    Announce,
    /// Lists a page of `gc/`.
    ListGeneration(u8),
    /// Reads the index.
    ReadIndex,
    /// Names a pack that is there already; no operation, but a choice.
    Reuse(u8),
    /// Stores a pack of its own.
    Store,
    /// Creates the index run of its pack.
    Index,
    /// Creates `refs/<ulid>`.
    Refs,
    /// Creates the snapshot.
    Commit,
    /// Looks for `sessions/<ulid>.revoked`.
    Look,
    /// Creates `sessions/<ulid>.done`.
    Done,
    /// Goes on to a second snapshot of the same session; no operation.
    Again,
    /// Reads its verdict.
    ReadVerdict,
    /// Creates its verdict itself.
    AdoptItself,
}

impl Writer {
    /// What it can do next.
    pub(crate) fn steps(&self, me: u8, tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        match self.at {
            At::Begin => {
                out.push(Step::Announce);
                if set.scope.stale_index && self.index == 0 {
                    out.push(Step::ReadIndex);
                }
            }
            // It stops where nobody knows what is about to be deleted.
            At::Generations(page) if tier.generations[at(page)].stops_writers() => {}
            At::Generations(page) => out.push(Step::ListGeneration(page)),
            At::Index => out.push(Step::ReadIndex),
            At::Store => {
                let usable = members(self.index & !self.avoided);
                let fitting = usable.filter(|pack| {
                    set.holds(tier, *pack, set.needs_of_snapshot(self.snapshot(me)))
                });
                out.extend(fitting.map(Step::Reuse));
                // A second snapshot has nothing to store, or cannot be made.
                if !self.second {
                    out.push(Step::Store);
                }
            }
            At::Run => out.push(Step::Index),
            At::Refs => out.push(Step::Refs),
            At::Commit => out.push(Step::Commit),
            At::Look => out.push(Step::Look),
            At::Done => {
                out.push(Step::Done);
                if set.scope.snapshots > 1 && !self.second {
                    out.push(Step::Again);
                }
            }
            At::Verdict => {
                let judged = tier.sessions[at(me)].verdict.is_some();
                out.push(if judged {
                    Step::ReadVerdict
                } else {
                    Step::AdoptItself
                });
            }
            At::Ended => {}
        }
    }

    /// Does a step; says which snapshots it tells of success for.
    pub(crate) fn take(&mut self, step: Step, me: u8, tier: &mut Tier, set: &Setting) -> u8 {
        let rules = &set.rules;
        let snapshot = self.snapshot(me);
        match step {
            Step::Announce => {
                tier.sessions[at(me)].open = true;
                self.at = if rules.session_first {
                    At::Generations(0)
                } else {
                    At::Index
                };
            }
            Step::ListGeneration(page) => self.list(page, tier, set),
            Step::ReadIndex => {
                self.index = tier.named_by_all(tier.runs);
                if self.at == At::Index {
                    self.at = At::Store;
                }
            }
            Step::Reuse(pack) => {
                self.uses = bit(pack);
                self.reached_refs(rules.refs_first);
            }
            Step::Store => {
                // With bytes that follow from the content alone the pack has the name that the old one has.
                let again = !rules.fresh_names && set.needs_of(me) == BOTH;
                let pack = if again { 0 } else { me + 1 };
                tier.packs |= bit(pack);
                self.uses = bit(pack);
                self.index |= bit(pack);
                self.at = At::Run;
            }
            Step::Index => {
                tier.runs |= self.uses;
                self.reached_refs(rules.refs_first);
            }
            Step::Refs => {
                tier.refs[at(snapshot)][0] = self.uses;
                self.at = if rules.refs_first {
                    At::Commit
                } else {
                    At::Look
                };
            }
            Step::Commit => {
                tier.snapshots |= bit(snapshot);
                self.at = if rules.refs_first { At::Look } else { At::Refs };
                if !rules.writer_looks_again {
                    self.at = At::Done;
                    return bit(snapshot);
                }
            }
            Step::Look => {
                if tier.sessions[at(me)].revoked {
                    self.at = At::Verdict;
                } else {
                    self.at = At::Done;
                    return bit(snapshot);
                }
            }
            Step::Again => {
                self.second = true;
                self.uses = 0;
                self.at = At::Store;
            }
            Step::Done => {
                tier.sessions[at(me)].done = true;
                self.end();
            }
            Step::ReadVerdict => {
                let named = tier.sessions[at(me)].verdict.unwrap_or(0);
                self.end();
                return named & bit(snapshot);
            }
            Step::AdoptItself => {
                // It names every snapshot that it made.
                let made = tier.snapshots & snapshots_of(me);
                tier.sessions[at(me)].verdict = Some(made | bit(snapshot));
                self.end();
                return bit(snapshot);
            }
        }
        0
    }

    fn list(&mut self, page: u8, tier: &Tier, set: &Setting) {
        self.avoided |= tier.generations[at(page)].avoided(&set.rules);
        self.at = match page + 1 {
            next if next < set.scope.generations => At::Generations(next),
            _ if !set.rules.session_first => At::Begin,
            _ if self.index != 0 => At::Store,
            _ => At::Index,
        };
    }

    /// The first operation without a session in front of it.
    pub(crate) fn begin_with_list(&mut self) {
        self.at = At::Generations(0);
    }

    const fn snapshot(&self, me: u8) -> u8 {
        if self.second { me + 3 } else { me + 1 }
    }

    fn reached_refs(&mut self, refs_first: bool) {
        self.at = if refs_first { At::Refs } else { At::Commit };
    }

    fn end(&mut self) {
        *self = Self {
            at: At::Ended,
            ..Self::default()
        };
    }
}
