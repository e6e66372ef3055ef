//! A tidier: takes away what is left of sessions that are over. What it read may be as old as it likes by the
//! time that it deletes.

use crate::model::Setting;
use crate::tier::{SESSIONS, SNAPSHOTS, Tier, at, bit, members, snapshots_of};

/// How far a tidier is; the name says what it does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Sessions,
    Verdicts,
    Snapshots,
    Delete,
}

/// A tidier.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Tidier {
    at: At,
    /// Sessions that have come to their end.
    done: u8,
    /// Sessions that were taken for dead, and from the verdicts on those that are judged.
    revoked: u8,
    /// Snapshots that a verdict leaves out, to be deleted.
    void: u8,
    /// Snapshots whose refs are to be deleted.
    refs: u8,
    /// Sessions without a snapshot, as far as it listed.
    barren: u8,
}

/// One operation of a tidier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Lists `sessions/`.
    ListSessions,
    /// Lists `verdicts/`.
    ListVerdicts,
    /// Lists `snap/`, and reads which of them are void.
    ListSnapshots,
    /// Deletes `sessions/<ulid>`.
    DeleteSession(u8),
    /// Deletes `sessions/<ulid>.done`.
    DeleteDone(u8),
    /// Deletes a snapshot.
    DeleteSnapshot(u8),
    /// And its refs.
    DeleteRefs(u8),
}

impl Tidier {
    /// What it can do next.
    pub(crate) fn steps(&self, tier: &Tier, out: &mut Vec<Step>) {
        match self.at {
            At::Sessions => out.push(Step::ListSessions),
            At::Verdicts => out.push(Step::ListVerdicts),
            At::Snapshots => out.push(Step::ListSnapshots),
            At::Delete => out.extend(self.next(tier)),
        }
    }

    /// Whether it has deleted a snapshot, and not all that it is about to delete.
    pub(crate) const fn has_deleted_a_snapshot(&self, tier: &Tier) -> bool {
        self.void & !tier.snapshots & !tier.forgotten != 0
    }

    /// What it deletes next. The session goes before its `.done`, a snapshot before its refs.
    fn next(&self, tier: &Tier) -> Option<Step> {
        let open = sessions(|one| tier.sessions[at(one)].open);
        let done = sessions(|one| tier.sessions[at(one)].done);
        let first = |set: u8| members(set).next();
        let session = first((self.done | self.revoked) & open).map(Step::DeleteSession);
        let done = first(self.done & self.barren & done).map(Step::DeleteDone);
        let snapshot = first(self.void & tier.snapshots).map(Step::DeleteSnapshot);
        let with_refs = (0u8..)
            .take(SNAPSHOTS)
            .filter(|one| tier.refs[at(*one)] != [0; 3])
            .fold(0, |all, one| all | bit(one));
        let refs = first(self.refs & with_refs).map(Step::DeleteRefs);
        session.or(done).or(snapshot).or(refs)
    }

    /// Does a step.
    pub(crate) fn take(&mut self, step: Step, tier: &mut Tier, set: &Setting) {
        let rules = &set.rules;
        match step {
            Step::ListSessions => {
                self.done = sessions(|one| tier.sessions[at(one)].done);
                self.revoked = sessions(|one| tier.sessions[at(one)].revoked);
                self.at = At::Verdicts;
            }
            Step::ListVerdicts => {
                if rules.tidies_judged_only {
                    self.revoked &= sessions(|one| tier.sessions[at(one)].verdict.is_some());
                }
                self.at = At::Snapshots;
            }
            Step::ListSnapshots => {
                let there = tier.snapshots;
                self.barren = sessions(|one| there & snapshots_of(one) == 0);
                let judged = members(self.revoked).fold(0, |all, one| all | snapshots_of(one));
                let is_void = |one: &u8| tier.is_void(*one) || !rules.tidies_void_only;
                self.void = members(judged & there)
                    .filter(is_void)
                    .fold(0, |all, one| all | bit(one));
                self.refs = self.void;
                self.at = At::Delete;
            }
            Step::DeleteSession(session) => {
                let one = &mut tier.sessions[at(session)];
                one.open = false;
                if !rules.keeps_revocations && !one.done {
                    one.revoked = false;
                }
            }
            Step::DeleteDone(session) => tier.sessions[at(session)].done = false,
            Step::DeleteSnapshot(snapshot) => tier.snapshots &= !bit(snapshot),
            Step::DeleteRefs(snapshot) => tier.refs[at(snapshot)] = [0; 3],
        }
        if self.at == At::Delete && self.next(tier).is_none() {
            *self = Self::default();
        }
    }
}

fn sessions(has: impl Fn(u8) -> bool) -> u8 {
    let all = (0u8..).take(SESSIONS).filter(|session| has(*session));
    all.fold(0, |set, session| set | bit(session))
}
