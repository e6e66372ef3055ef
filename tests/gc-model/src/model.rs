//! Who takes part, what a state is, and what must hold in each.

use stateright::{Model, Property};

use crate::rules::Rules;
use crate::tier::{
    BOTH, COMMON, Generation, OTHER, SESSIONS, SNAPSHOTS, TWO, Tier, at, bit, members, session_of,
};
use crate::{collector, merger, reader, repacker, tidier, writer};

/// A chunk of a valid snapshot is in no pack of the tier.
pub const LOST: &str = "a chunk is lost";
/// A chunk of a valid snapshot is in no pack that the index names.
pub const UNREAD: &str = "a chunk is not found";
/// A writer told of success for a snapshot that readers do not count.
pub const VOID: &str = "a saved snapshot is void";
/// A valid snapshot has no refs, so nothing of it is marked.
pub const UNMARKED: &str = "a snapshot has no refs";
/// What the protocol is for, each of which must really happen where the scope has who does it.
pub const REACHED: [&str; 11] = [
    "the old pack is deleted",
    "a verdict adopts",
    "a verdict rejects",
    "an adopted snapshot is told of",
    "a repacked pack is deleted and its snapshot stays",
    "a writer reuses a copy",
    "runs are merged",
    "a reader finds a chunk behind a reload",
    "a session that is judged is tidied away",
    "a snapshot that is left out is tidied away",
    "a decision that rotted is made anew",
];

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Writers, at most two.
    pub writers: u8,
    /// Collectors, at most two.
    pub collectors: u8,
    /// Generations, at most two.
    pub generations: u8,
    /// Repackers, at most two.
    pub repackers: u8,
    /// Mergers of the index, at most two.
    pub mergers: u8,
    /// Whether a reader takes part.
    pub reader: bool,
    /// Snapshots of each session, at most two.
    pub snapshots: u8,
    /// Pages of a list of the index, at most two.
    pub index_pages: u8,
    /// Whether all snapshots may be forgotten, or the old one alone.
    pub forgets_all: bool,
    /// Whether a collector condemns any packs, or all that are not marked.
    pub condemns_any: bool,
    /// Whether a killed run has left a pack that nothing names.
    pub leftover: bool,
    /// Whether collectors are killed and begin again.
    pub restarts: bool,
    /// Whether collectors that begin again remember who was open behind a generation that they have seen.
    pub remembers: bool,
    /// Whether collectors take away refs without a snapshot.
    pub sweeps: bool,
    /// Whether a tidier takes away what is left of sessions that are over.
    pub tidies: bool,
    /// Whether what lies below `gc/` rots.
    pub rots: bool,
    /// Whether writers may know the index from before their session.
    pub stale_index: bool,
    /// Whether the first writer needs the chunk of the old pack that no snapshot used, beside the other.
    pub needs_both: bool,
}

impl Scope {
    /// Two writers and a collector.
    pub const CORE: Self = Self {
        writers: 2,
        collectors: 1,
        generations: 1,
        repackers: 0,
        mergers: 0,
        reader: false,
        snapshots: 1,
        index_pages: 1,
        forgets_all: false,
        condemns_any: false,
        leftover: false,
        restarts: false,
        remembers: false,
        sweeps: false,
        tidies: false,
        rots: false,
        stale_index: false,
        needs_both: false,
    };
}

/// Who takes part and by which rules.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    pub(crate) scope: Scope,
    pub(crate) rules: Rules,
}

impl Setting {
    /// The chunks that a writer's first snapshot needs; its pack holds just these.
    pub(crate) const fn needs_of(&self, writer: u8) -> u8 {
        if self.scope.needs_both && writer == 0 {
            BOTH
        } else {
            COMMON
        }
    }

    /// The chunks that a snapshot needs.
    pub(crate) fn needs_of_snapshot(&self, snapshot: u8) -> u8 {
        match (snapshot, session_of(snapshot)) {
            // The second one of a session needs what the first one did not.
            (3.., _) => OTHER,
            (_, Some(writer)) => self.needs_of(writer),
            (_, None) => COMMON,
        }
    }

    /// The chunks in a pack.
    pub(crate) fn chunks_in(&self, tier: &Tier, pack: u8) -> u8 {
        match pack {
            0 => BOTH,
            1 | 2 => self.needs_of(pack - 1),
            _ => tier.copied[at(pack) - 3],
        }
    }

    /// Whether a pack holds these chunks.
    pub(crate) fn holds(&self, tier: &Tier, pack: u8, chunks: u8) -> bool {
        chunks & !self.chunks_in(tier, pack) == 0
    }

    /// Whether packs hold all chunks of a snapshot.
    pub(crate) fn is_held(&self, tier: &Tier, packs: u8, snapshot: u8) -> bool {
        let held = members(packs).fold(0, |all, pack| all | self.chunks_in(tier, pack));
        self.needs_of_snapshot(snapshot) & !held == 0
    }
}

/// Everything at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) tier: Tier,
    pub(crate) writers: [writer::Writer; TWO],
    pub(crate) collectors: [collector::Collector; TWO],
    pub(crate) repackers: [repacker::Repacker; TWO],
    pub(crate) mergers: [merger::Merger; TWO],
    pub(crate) reader: reader::Reader,
    pub(crate) tidier: tidier::Tidier,
    /// Snapshots that a writer told of success for.
    pub(crate) told: u8,
}

/// One operation of somebody; the number says of which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Writer(u8, writer::Step),
    Collector(u8, collector::Step),
    Repacker(u8, repacker::Step),
    Merger(u8, merger::Step),
    Reader(reader::Step),
    Tidier(tidier::Step),
    /// Somebody deletes a snapshot.
    Forget(u8),
    /// And its refs.
    ForgetRefs(u8),
    /// Somebody creates `.done` of a session that is not theirs.
    ForgeDone(u8),
    /// `gc/<n>.done` cannot be read any more.
    RotDecision(u8),
    /// `gc/<n>` cannot be read any more.
    RotCondemned(u8),
    /// Somebody decides that nothing is dead of a generation of which nobody knows what it condemns.
    LetGo(u8),
}

impl Setting {
    fn forgettable(&self) -> u8 {
        if self.scope.forgets_all {
            u8::MAX
        } else {
            bit(0)
        }
    }

    fn forgets(&self, tier: &Tier, out: &mut Vec<Action>) {
        let first = self.rules.forgets_snapshot_first;
        let with_refs = (0u8..)
            .take(SNAPSHOTS)
            .filter(|one| tier.refs[at(*one)] != [0; 3])
            .fold(0, |all, one| all | bit(one));
        let there = tier.snapshots & self.forgettable();
        let (snapshots, refs) = if first {
            (there, tier.forgotten & !tier.snapshots & with_refs)
        } else {
            (there & !with_refs, there & with_refs)
        };
        out.extend(members(snapshots).map(Action::Forget));
        out.extend(members(refs).map(Action::ForgetRefs));
    }

    /// Each valid snapshot keeps to this.
    fn each_valid(&self, tier: &Tier, holds: impl Fn(u8) -> bool) -> bool {
        members(tier.snapshots)
            .filter(|snapshot| tier.is_valid(*snapshot, &self.rules))
            .all(holds)
    }

    fn nothing_is_lost(&self, state: &State) -> bool {
        let tier = &state.tier;
        self.each_valid(tier, |snapshot| self.is_held(tier, tier.packs, snapshot))
    }

    fn everything_is_found(&self, state: &State) -> bool {
        let tier = &state.tier;
        let named = tier.packs & tier.named_by_all(tier.runs);
        let found = self.each_valid(tier, |snapshot| self.is_held(tier, named, snapshot));
        found && !state.reader.has_failed(tier, self)
    }

    fn what_is_told_counts(&self, state: &State) -> bool {
        let tier = &state.tier;
        members(state.told & !tier.forgotten)
            .all(|snapshot| tier.snapshots & bit(snapshot) != 0 && !tier.is_void(snapshot))
    }

    fn everything_is_marked(&self, state: &State) -> bool {
        self.each_valid(&state.tier, |one| state.tier.refs[at(one)] != [0; 3])
    }

    /// Whether the scope has who does what [`REACHED`] says.
    fn reaches(&self, number: usize) -> bool {
        let scope = &self.scope;
        match number {
            0 => scope.collectors > 0,
            1..4 => scope.collectors > 0 && scope.writers > 0,
            4 => scope.collectors > 0 && scope.repackers > 0,
            5 => scope.repackers > 0 && scope.writers > 0 && !scope.needs_both,
            6 => scope.mergers > 0,
            7 => scope.reader && scope.collectors > 0 && scope.repackers > 0,
            10 => scope.rots && scope.collectors > 0 && scope.generations > 1,
            _ => scope.tidies && scope.collectors > 0 && scope.writers > 0,
        }
    }
}

fn verdicts(state: &State) -> impl Iterator<Item = u8> {
    state.tier.sessions.iter().filter_map(|one| one.verdict)
}

/// What [`REACHED`] says, of a state.
const REACHES: [fn(&Setting, &State) -> bool; 11] = [
    |_, state| state.tier.packs & bit(0) == 0,
    |_, state| verdicts(state).any(|named| named != 0),
    |_, state| {
        state.tier.sessions[..TWO]
            .iter()
            .any(|one| one.verdict == Some(0))
    },
    |_, state| verdicts(state).any(|named| named & state.told != 0),
    |_, state| {
        let tier = &state.tier;
        let copied = tier.refs[0][1] | tier.refs[0][2] != 0;
        copied && tier.refs[0][0] == 0 && tier.packs & bit(0) == 0 && tier.snapshots & bit(0) != 0
    },
    |_, state| {
        let tier = &state.tier;
        (1u8..)
            .take(TWO)
            .any(|one| tier.refs[at(one)][0] & 0b11000 != 0 && tier.snapshots & bit(one) != 0)
    },
    |_, state| state.mergers.iter().any(merger::Merger::has_ended),
    |_, state| state.reader.has_found_behind_reload(),
    |_, state| {
        let sessions = state.tier.sessions.iter();
        sessions
            .filter(|one| !one.open && !one.done)
            .any(|one| one.verdict.is_some())
    },
    |_, state| state.tidier.has_deleted_a_snapshot(&state.tier),
    |_, state| {
        state
            .collectors
            .iter()
            .any(collector::Collector::has_decided_anew)
    },
];

impl Model for Setting {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // Where the names of runs come in a list is chance: the old run, the copies', the merged ones.
        let places: &[u8] = if self.scope.index_pages == 1 {
            &[0]
        } else {
            &[1, 3, 5, 7, 2, 4, 6]
        };
        let state = |place: &u8| {
            let late = (place & 1) | ((place & 2) << 2) | ((place & 4) << 3);
            let mut writers = [writer::Writer::default(), writer::Writer::default()];
            if !self.rules.session_first {
                writers.iter_mut().for_each(writer::Writer::begin_with_list);
            }
            State {
                tier: Tier::new(late, self.scope.leftover),
                writers,
                collectors: Default::default(),
                repackers: Default::default(),
                mergers: Default::default(),
                reader: reader::Reader::default(),
                tidier: tidier::Tidier::default(),
                told: 0,
            }
        };
        places.iter().map(state).collect()
    }

    fn actions(&self, state: &State, out: &mut Vec<Action>) {
        let (tier, scope) = (&state.tier, &self.scope);
        let mut steps = Vec::new();
        for (me, one) in (0..scope.writers).zip(&state.writers) {
            one.steps(me, tier, self, &mut steps);
            out.extend(steps.drain(..).map(|step| Action::Writer(me, step)));
        }
        let mut steps = Vec::new();
        for (me, one) in (0..scope.collectors).zip(&state.collectors) {
            one.steps(tier, self, &mut steps);
            out.extend(steps.drain(..).map(|step| Action::Collector(me, step)));
        }
        let mut steps = Vec::new();
        for (me, one) in (0..scope.repackers).zip(&state.repackers) {
            one.steps(me, tier, self, &mut steps);
            out.extend(steps.drain(..).map(|step| Action::Repacker(me, step)));
        }
        let mut steps = Vec::new();
        for (me, one) in (0..scope.mergers).zip(&state.mergers) {
            one.steps(tier, self, &mut steps);
            out.extend(steps.drain(..).map(|step| Action::Merger(me, step)));
        }
        if scope.reader {
            let mut steps = Vec::new();
            state.reader.steps(tier, self, &mut steps);
            out.extend(steps.into_iter().map(Action::Reader));
        }
        if scope.tidies {
            let mut steps = Vec::new();
            state.tidier.steps(tier, &mut steps);
            out.extend(steps.into_iter().map(Action::Tidier));
        }
        self.forgets(tier, out);
        if scope.rots {
            for (number, one) in (0..scope.generations).zip(&tier.generations) {
                if one.dead.is_some() && !one.unread && !one.unknown {
                    out.push(Action::RotDecision(number));
                }
                if one.condemned != 0 && one.dead.is_none() {
                    out.push(if one.unknown {
                        Action::LetGo(number)
                    } else {
                        Action::RotCondemned(number)
                    });
                }
            }
        }
        if !self.rules.done_by_writer {
            let open = (0u8..)
                .zip(&tier.sessions)
                .take(SESSIONS)
                .filter(|(_, one)| one.open && !one.done);
            out.extend(open.map(|(session, _)| Action::ForgeDone(session)));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = last.clone();
        let tier = &mut next.tier;
        match action {
            Action::Writer(me, step) => {
                next.told |= next.writers[at(me)].take(step, me, tier, self)
            }
            Action::Collector(me, step) => next.collectors[at(me)].take(step, tier, self),
            Action::Repacker(me, step) => next.repackers[at(me)].take(step, me, tier, self),
            Action::Merger(me, step) => next.mergers[at(me)].take(step, me, tier, self),
            Action::Reader(step) => next.reader.take(step, tier, self),
            Action::Tidier(step) => next.tidier.take(step, tier, self),
            Action::Forget(snapshot) => {
                tier.snapshots &= !bit(snapshot);
                tier.forgotten |= bit(snapshot);
            }
            Action::ForgetRefs(snapshot) => tier.refs[at(snapshot)] = [0; 3],
            Action::ForgeDone(session) => tier.sessions[at(session)].done = true,
            Action::RotDecision(number) => tier.generations[at(number)].unread = true,
            Action::RotCondemned(number) => tier.generations[at(number)].unknown = true,
            Action::LetGo(number) if self.rules.lets_unknown_go => {
                tier.generations[at(number)].dead = Some(0);
            }
            Action::LetGo(number) => tier.generations[at(number)] = Generation::default(),
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut out = vec![
            Property::always(LOST, Self::nothing_is_lost),
            Property::always(UNREAD, Self::everything_is_found),
            Property::always(VOID, Self::what_is_told_counts),
            Property::always(UNMARKED, Self::everything_is_marked),
        ];
        let reached = REACHED.into_iter().zip(REACHES).enumerate();
        out.extend(
            reached
                .filter(|(number, _)| self.reaches(*number))
                .map(|(_, (name, holds))| Property::sometimes(name, holds)),
        );
        out
    }
}
