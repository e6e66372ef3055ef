//! A collector: condemns, settles every session that may name what it condemned, decides what is dead, deletes.

use crate::model::Setting;
use crate::tier::{
    GENERATIONS, Generation, SESSIONS, SNAPSHOTS, Tier, at, bit, members, snapshots_of,
};

/// How far a collector is; the name says what it does next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum At {
    #[default]
    Idle,
    Condemn,
    Sessions(u8),
    Settle,
    Snapshots(u8),
    Verdicts,
    Mark(u8),
    /// Reads refs; the number says which halves are left.
    Refs(u8),
    Decide,
    Delete,
    DecideLate,
    Clean,
}

/// A collector.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Collector {
    at: At,
    generation: u8,
    condemned: u8,
    /// Sessions that it waits for.
    open: u8,
    /// Of these, sessions that it knows to be revoked and has not judged.
    revoked: u8,
    /// Snapshots that it listed.
    listed: u8,
    /// Snapshots that a verdict leaves out.
    void: u8,
    /// Packs that snapshots use.
    marked: u8,
    /// Listed snapshots whose refs it read.
    read: u8,
    /// Refs that were without a snapshot when it began.
    orphans: u8,
    dead: u8,
    /// Whether it has put a decision in the place of one that cannot be read.
    decided_anew: bool,
    /// Sessions that were open at its first list behind each generation; it stays when it is killed.
    remembered: [Option<u8>; GENERATIONS],
}

/// One operation of a collector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Creates `gc/<n>`, which condemns these packs.
    Condemn {
        /// The `<n>`.
        generation: u8,
        /// What is condemned.
        packs: u8,
    },
    /// Goes on with a generation that is there; no operation.
    Resume(u8),
    /// Lists a page of `sessions/`.
    ListSessions(u8),
    /// Looks at a session again.
    LookAt(u8),
    /// Creates `sessions/<ulid>.revoked`.
    Revoke(u8),
    /// Lists a page of `snap/` for the verdicts.
    ListForVerdicts(u8),
    /// Creates `verdicts/<ulid>`, or reads the one that is there.
    Judge(u8),
    /// Lists a page of `snap/` for what marks.
    ListForMarks(u8),
    /// Reads half of the refs: 1 is `refs/<ulid>`, 2 is `refs/<ulid>.<n>`.
    ReadRefs(u8),
    /// Creates `gc/<n>.done`, or reads the one that is there.
    Decide,
    /// Puts what its decision calls dead in the place of `gc/<n>.done`, which cannot be read.
    DecideAnew(u8),
    /// Deletes a pack.
    Delete(u8),
    /// Deletes refs without a snapshot.
    Sweep(u8),
    /// Deletes revocations and verdicts.
    Clean,
    /// Is killed, and begins again.
    Restart,
}

/// The objects of one page of a list of sessions or snapshots.
const fn page(number: u8) -> u8 {
    match number {
        0 => 0b0101_1011,
        _ => 0b1010_0100,
    }
}

impl Collector {
    /// What it can do next.
    pub(crate) fn steps(&self, tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        if self.at != At::Idle && set.scope.restarts {
            out.push(Step::Restart);
        }
        match self.at {
            At::Idle => Self::begin(tier, set, out),
            At::Condemn => condemn(tier, set, out),
            At::Sessions(page) => out.push(Step::ListSessions(page)),
            At::Settle => self.settle(tier, out),
            At::Snapshots(page) => out.push(Step::ListForVerdicts(page)),
            At::Verdicts => out.extend(members(self.revoked).next().map(Step::Judge)),
            At::Mark(page) => out.push(Step::ListForMarks(page)),
            At::Refs(left) => out.extend(members(left).map(Step::ReadRefs)),
            At::Decide | At::DecideLate => out.push(Step::Decide),
            At::Delete => {
                let dead = members(self.dead & tier.packs).next().map(Step::Delete);
                let orphan = members(self.sweeps(tier, set)).next().map(Step::Sweep);
                out.extend(dead.or(orphan));
                out.extend(self.unread(tier, set).map(Step::DecideAnew));
            }
            At::Clean => out.push(Step::Clean),
        }
    }

    fn begin(tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
        let known = (0..set.scope.generations).zip(&tier.generations);
        for (number, one) in known {
            let left = one.unread || one.dead.is_none_or(|dead| dead & tier.packs != 0);
            let is_unread = one.unread && set.rules.condemns_unread_anew;
            if one.condemned != 0 && left && !is_unread && !one.unknown {
                out.push(Step::Resume(number));
            }
        }
        if !set.rules.condemns_first {
            if next_generation(tier, set).is_some() {
                out.push(Step::ListSessions(0));
            }
            return;
        }
        condemn(tier, set, out);
    }

    fn settle(&self, tier: &Tier, out: &mut Vec<Step>) {
        for session in members(self.open & !self.revoked) {
            let seen = tier.sessions[at(session)];
            if seen.done || seen.revoked || !seen.open {
                out.push(Step::LookAt(session));
            }
            if !seen.revoked {
                out.push(Step::Revoke(session));
            }
        }
    }

    /// Does a step.
    #[allow(
        clippy::too_many_lines,
        reason = "one arm for each step of the protocol"
    )]
    pub(crate) fn take(&mut self, step: Step, tier: &mut Tier, set: &Setting) {
        let rules = &set.rules;
        match step {
            Step::Condemn { generation, packs } => {
                tier.generations[at(generation)].condemned = packs;
                self.generation = generation;
                self.condemned = packs;
                if set.scope.sweeps {
                    self.orphans = orphans(tier);
                }
                self.at = if rules.condemns_first {
                    At::Sessions(0)
                } else {
                    At::Settle
                };
                self.recall(set);
                self.go_on(tier, set);
            }
            Step::Resume(generation) => {
                let one = tier.generations[at(generation)];
                (self.generation, self.condemned) = (generation, one.condemned);
                self.at = At::Sessions(0);
                if let Some(dead) = one.dead.filter(|_| !one.unread) {
                    self.dead = dead;
                    self.at = At::Delete;
                } else {
                    self.recall(set);
                    self.go_on(tier, set);
                }
            }
            Step::ListSessions(number) => {
                for session in members(page(number)).take_while(|one| at(*one) < SESSIONS) {
                    let seen = tier.sessions[at(session)];
                    if seen.open && !seen.done {
                        self.open |= bit(session);
                        self.revoked |= if seen.revoked { bit(session) } else { 0 };
                    }
                }
                if set.scope.remembers && number == 1 {
                    let place = self.place_of_memory(set);
                    self.remembered[place].get_or_insert(self.open);
                }
                self.at = match number {
                    0 => At::Sessions(1),
                    _ if !rules.condemns_first && self.condemned == 0 => At::Condemn,
                    _ if !rules.settles_sessions => At::Mark(0),
                    _ if !rules.lists_behind_revocation => At::Snapshots(0),
                    _ => At::Settle,
                };
                self.go_on(tier, set);
            }
            Step::LookAt(session) => {
                // One that is gone was tidied away: it is done, or judged.
                let seen = tier.sessions[at(session)];
                if seen.done || !seen.open {
                    self.open &= !bit(session);
                } else {
                    self.revoked |= bit(session);
                }
                self.go_on(tier, set);
            }
            Step::Revoke(session) => {
                tier.sessions[at(session)].revoked = true;
                self.revoked |= bit(session);
                self.go_on(tier, set);
            }
            Step::ListForVerdicts(number) => {
                self.listed |= tier.snapshots & page(number);
                self.at = match number {
                    0 => At::Snapshots(1),
                    _ if rules.lists_behind_revocation => At::Verdicts,
                    _ => At::Settle,
                };
                self.go_on(tier, set);
            }
            Step::Judge(session) => self.judge(session, tier, set),
            Step::ListForMarks(number) => self.list_for_marks(number, tier, set),
            Step::ReadRefs(half) => self.read_refs(half, tier, set),
            Step::Decide => self.decide(tier, set),
            Step::DecideAnew(number) => {
                let dead = tier.generations[at(self.generation)].dead.unwrap_or(0);
                let one = &mut tier.generations[at(number)];
                (one.dead, one.unread) = (Some(one.condemned & dead), false);
                self.decided_anew = true;
                self.finish(tier, set);
            }
            Step::Delete(pack) => {
                tier.packs &= !bit(pack);
                self.finish(tier, set);
            }
            Step::Sweep(snapshot) => {
                tier.refs[at(snapshot)] = [0; 3];
                self.orphans &= !bit(snapshot);
                self.finish(tier, set);
            }
            Step::Clean => {
                for session in members(self.open) {
                    let one = &mut tier.sessions[at(session)];
                    (one.revoked, one.verdict) = (false, None);
                }
                self.begin_again();
            }
            Step::Restart => self.begin_again(),
        }
    }

    /// All is gone but what it remembers.
    fn begin_again(&mut self) {
        *self = Self {
            decided_anew: self.decided_anew,
            remembered: self.remembered,
            ..Self::default()
        };
    }

    const fn place_of_memory(&self, set: &Setting) -> usize {
        if set.rules.remembers_by_generation {
            at(self.generation)
        } else {
            0
        }
    }

    /// Takes those that were open behind the generation from memory instead of a list.
    fn recall(&mut self, set: &Setting) {
        if let Some(open) = self.remembered[self.place_of_memory(set)] {
            self.open = open;
            self.at = At::Settle;
        }
    }

    /// Behind an operation that may have been the last of its kind.
    fn go_on(&mut self, tier: &Tier, set: &Setting) {
        let rules = &set.rules;
        if self.at == At::Settle && self.open & !self.revoked == 0 {
            self.at = match self.revoked {
                0 if rules.marks_behind_verdicts => At::Mark(0),
                _ if rules.lists_behind_revocation => At::Snapshots(0),
                _ => At::Verdicts,
            };
        }
        if self.at == At::Verdicts && self.revoked == 0 {
            if rules.keeps_verdicts {
                self.open = 0;
            }
            if rules.marks_behind_verdicts {
                self.listed = 0;
                self.at = At::Mark(0);
            } else {
                self.mark_listed(self.listed, tier, set);
                self.marked_all(tier, set);
            }
        }
    }

    fn judge(&mut self, session: u8, tier: &mut Tier, set: &Setting) {
        let made = snapshots_of(session);
        let mut named = self.listed & made;
        if !set.rules.verdict_names_snapshots && named != 0 {
            named = made;
        }
        let verdict = &mut tier.sessions[at(session)].verdict;
        if !set.rules.one_verdict {
            *verdict = Some(named);
        }
        self.void |= made & !*verdict.get_or_insert(named);
        self.revoked &= !bit(session);
        self.go_on(tier, set);
    }

    fn list_for_marks(&mut self, number: u8, tier: &Tier, set: &Setting) {
        let seen = tier.snapshots & page(number) & !self.void;
        if set.scope.repackers == 0 {
            self.mark_listed(seen, tier, set);
        }
        if set.scope.repackers > 0 || set.scope.sweeps {
            self.listed |= seen;
        }
        match number {
            0 => self.at = At::Mark(1),
            _ if set.scope.repackers > 0 => self.at = At::Refs(0b110),
            _ => self.marked_all(tier, set),
        }
    }

    fn mark_listed(&mut self, snapshots: u8, tier: &Tier, set: &Setting) {
        for snapshot in members(snapshots & !self.void) {
            self.marked |= tier.marked_by(snapshot, &set.rules);
        }
    }

    /// Refs are read in two halves, in any order: a list of them is neither atomic nor sorted.
    fn read_refs(&mut self, half: u8, tier: &Tier, set: &Setting) {
        for snapshot in members(self.listed) {
            let refs = tier.refs[at(snapshot)];
            let packs = match half {
                1 => refs[0],
                _ if set.rules.refs_add_up => refs[1] | refs[2],
                // The newest alone: what it names instead of the rest.
                _ if refs[2] != 0 => refs[2],
                _ => refs[1],
            };
            let newest = half != 1 && packs != 0;
            if packs != 0 && (set.rules.refs_add_up || newest || refs[1] | refs[2] == 0) {
                self.marked |= packs;
                self.read |= bit(snapshot);
            }
        }
        let At::Refs(left) = self.at else { return };
        let left = left & !bit(half);
        self.at = At::Refs(left);
        if left == 0 {
            if self.listed & !self.read == 0 {
                self.marked_all(tier, set);
            } else {
                // A snapshot without refs was forgotten meanwhile, or they moved: all of it again.
                (self.listed, self.read, self.marked) = (0, 0, 0);
                self.at = At::Mark(0);
            }
        }
    }

    /// Everything is marked that is to be: what is dead follows.
    fn marked_all(&mut self, tier: &Tier, set: &Setting) {
        self.dead = self.condemned & !self.marked;
        self.orphans &= !self.listed;
        self.at = if set.rules.decides_first {
            At::Decide
        } else {
            At::Delete
        };
        (self.condemned, self.marked, self.void) = (0, 0, 0);
        (self.listed, self.read) = (0, 0);
        if !set.rules.decides_first {
            self.finish(tier, set);
        }
    }

    fn decide(&mut self, tier: &mut Tier, set: &Setting) {
        let decided = &mut tier.generations[at(self.generation)].dead;
        if self.at == At::DecideLate {
            *decided = Some(self.dead);
            self.begin_again();
            return;
        }
        if set.rules.remembers_by_generation {
            self.remembered[at(self.generation)] = None;
        }
        let is_unread = tier.generations[at(self.generation)].unread;
        let decided = &mut tier.generations[at(self.generation)].dead;
        if is_unread && set.rules.condemns_unread_anew {
            // Whatever it said.
            self.dead = 0;
        } else if is_unread {
            *decided = Some(self.dead);
            tier.generations[at(self.generation)].unread = false;
        } else {
            self.dead = *decided.get_or_insert(self.dead);
        }
        self.at = At::Delete;
        self.finish(tier, set);
    }

    /// Behind a deletion: whether there is more to delete.
    fn finish(&mut self, tier: &Tier, set: &Setting) {
        let is_left = self.dead & tier.packs != 0 || self.sweeps(tier, set) != 0;
        if is_left || self.unread(tier, set).is_some() {
            return;
        }
        if !set.rules.decides_first {
            self.at = At::DecideLate;
        } else if !set.rules.keeps_verdicts && self.open != 0 {
            self.at = At::Clean;
        } else {
            self.begin_again();
        }
    }

    /// A generation whose decision cannot be read and that condemned nothing which its own does not, once that is decided.
    fn unread(&self, tier: &Tier, set: &Setting) -> Option<u8> {
        let own = tier.generations[at(self.generation)];
        if !set.rules.condemns_unread_anew || own.unread || own.dead.is_none() || own.unknown {
            return None;
        }
        let mut all = (0u8..)
            .zip(&tier.generations)
            .filter(|(number, _)| *number != self.generation);
        let covers = |one: &Generation| one.unread && one.condemned & !own.condemned == 0;
        all.find(|(_, one)| covers(one)).map(|(number, _)| number)
    }

    /// Whether it has put a decision in the place of one that cannot be read.
    pub(crate) const fn has_decided_anew(&self) -> bool {
        self.decided_anew
    }

    /// Snapshots whose refs are to be swept.
    fn sweeps(&self, tier: &Tier, set: &Setting) -> u8 {
        match (set.scope.sweeps, set.rules.sweeps_by_generation) {
            (false, _) => 0,
            (true, false) => orphans(tier),
            (true, true) => self.orphans & orphans(tier),
        }
    }
}

/// Snapshots that are not there but have refs.
fn orphans(tier: &Tier) -> u8 {
    let all = (0u8..).take(SNAPSHOTS).filter(|snapshot| {
        let gone = tier.snapshots & bit(*snapshot) == 0;
        gone && tier.refs[at(*snapshot)] != [0; 3]
    });
    all.fold(0, |set, snapshot| set | bit(snapshot))
}

fn next_generation(tier: &Tier, set: &Setting) -> Option<u8> {
    (0..set.scope.generations).find(|number| tier.generations[at(*number)].condemned == 0)
}

/// What may be condemned next.
fn condemn(tier: &Tier, set: &Setting, out: &mut Vec<Step>) {
    let mut numbers = [None; 1 + GENERATIONS];
    numbers[0] = next_generation(tier, set);
    if !set.rules.one_generation {
        // Who does not create once writes over what another has written.
        let known = (0..set.scope.generations).filter(|number| {
            let one = tier.generations[at(*number)];
            one.condemned != 0 && one.dead.is_none()
        });
        for (place, number) in numbers.iter_mut().skip(1).zip(known) {
            *place = Some(number);
        }
    }
    let packs = if set.scope.condemns_any {
        tier.packs
    } else {
        let valid = (0u8..)
            .take(SNAPSHOTS)
            .filter(|one| tier.is_valid(*one, &set.rules));
        tier.packs & !valid.fold(0, |all, one| all | tier.marked_by(one, &set.rules))
    };
    let unread = tier
        .generations
        .iter()
        .filter(|one| one.unread && !one.unknown);
    let packs = unread.fold(packs, |all, one| all | one.condemned);
    for generation in numbers.into_iter().flatten() {
        let sets = (1..=packs).filter(|chosen| chosen & !packs == 0);
        let whole = sets.filter(|chosen| set.scope.condemns_any || *chosen == packs);
        out.extend(whole.map(|packs| Step::Condemn { generation, packs }));
    }
}
