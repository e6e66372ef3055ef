//! What a failing sink remembers from call to call.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use backup_core::{ErrorKind, ObjectKey, ObjectMeta, PutMode, Retry, SinkError};
use bytes::Bytes;

use super::rule::{Crash, Fault, Injected, Rule};
use backup_conformance::dice;

use crate::op::Op;

/// A change that comes a second time.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Put(ObjectKey, Bytes, PutMode),
    Delete(ObjectKey),
}

/// What a change did to an object.
#[derive(Debug, Clone)]
struct Past {
    key: ObjectKey,
    before: Option<ObjectMeta>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) rules: Vec<(Rule, u64)>,
    pub(super) injected: Vec<Injected>,
    pub(super) calls: u64,
    pub(super) mutations: u64,
    pub(super) crash: Option<(u64, Crash)>,
    pub(super) crashed: bool,
    pub(super) space: Option<u64>,
    echoes: Vec<(u64, Change)>,
    history: Vec<Past>,
    asked: HashMap<(Op, String), u64>,
}

/// What is to happen with one call.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) call: u64,
    pub(super) op: Op,
    pub(super) subject: String,
    pub(super) fault: Option<Fault>,
    pub(super) delay: Duration,
    /// A number that depends on the seed and the call.
    pub(super) roll: u64,
    /// Changes of the past that come again before this call.
    pub(super) echoes: Vec<Change>,
    /// Whether what the change replaces has to be known.
    pub(super) watched: bool,
    fatal: bool,
    seed: u64,
}

impl Turn {
    /// The error that its fault makes.
    pub(super) fn error(&self) -> SinkError {
        let fault = self.fault.clone().unwrap_or(Fault::LoseAnswer);
        let (kind, retry) = match &fault {
            Fault::Fail(kind, retry) => (*kind, *retry),
            _ => (ErrorKind::Unavailable, Retry::Now),
        };
        let retry = if self.fatal { Retry::Never } else { retry };
        let (op, subject) = (self.op.verb(), self.subject.clone());
        SinkError::new(kind, op, subject)
            .retry(retry)
            .because(self.injected(fault))
    }

    /// The answer, unless its fault is that nobody hears of it.
    pub(super) fn unless_lost<T>(&self, answer: Result<T, SinkError>) -> Result<T, SinkError> {
        if self.fault == Some(Fault::LoseAnswer) {
            Err(self.error())
        } else {
            answer
        }
    }

    fn injected(&self, fault: Fault) -> Injected {
        let (seed, call, op) = (self.seed, self.call, self.op);
        Injected {
            seed,
            call,
            op,
            subject: self.subject.clone(),
            fault,
        }
    }

    /// A number below `bound`, which is not zero, from the seed.
    pub(super) const fn below(&self, bound: usize) -> usize {
        (self.roll % bound as u64) as usize
    }
}

impl State {
    /// Counts a call and finds out what is to happen with it; an error if nothing happens any more.
    pub(super) fn enter(&mut self, seed: u64, op: Op, subject: &str) -> Result<Turn, SinkError> {
        self.calls += 1;
        let mut turn = Turn {
            call: self.calls,
            op,
            subject: subject.to_owned(),
            fault: None,
            delay: Duration::ZERO,
            roll: self.roll(seed, op, subject),
            echoes: Vec::new(),
            watched: false,
            fatal: self.crashed,
            seed,
        };
        if self.crashed {
            turn.fault = Some(Fault::Fail(ErrorKind::Unavailable, Retry::Never));
            return Err(turn.error());
        }
        self.apply_rules(&mut turn);
        if op.is_mutating() {
            self.mutations += 1;
            if let Some((at, crash)) = self.crash
                && self.mutations >= at
            {
                self.crashed = true;
                turn.fatal = true;
                turn.fault = Some(crash.fault(op));
            }
            let lists = |(rule, _): &(Rule, u64)| matches!(rule.fault, Fault::StaleList(_));
            turn.watched = self.rules.iter().any(lists);
        }
        if let Some(fault) = turn.fault.clone() {
            self.injected.push(turn.injected(fault));
        }
        let made = self.mutations - u64::from(op.is_mutating());
        let due = self.echoes.extract_if(.., |(due, _)| *due <= made);
        turn.echoes = due.map(|(_, change)| change).collect();
        Ok(turn)
    }

    /// All delays count, and the first other fault.
    fn apply_rules(&mut self, turn: &mut Turn) {
        for (number, (rule, count)) in self.rules.iter_mut().enumerate() {
            if !rule.is_about(turn.op, &turn.subject) {
                continue;
            }
            *count += 1;
            // Each rule throws dice of its own.
            let mut state = turn.roll ^ (number as u64 + 1);
            if !rule.when.hits(*count, dice::step(&mut state)) {
                continue;
            }
            match &rule.fault {
                Fault::Delay(delay) => turn.delay += *delay,
                fault => {
                    turn.fault.get_or_insert_with(|| fault.clone());
                }
            }
        }
    }

    fn roll(&mut self, seed: u64, op: Op, subject: &str) -> u64 {
        let count = self.asked.entry((op, subject.to_owned())).or_default();
        *count += 1;
        let mut state = seed ^ count.rotate_left(32);
        for byte in op.verb().bytes().chain([0]).chain(subject.bytes()) {
            state = dice::step(&mut state) ^ u64::from(byte);
        }
        dice::step(&mut state)
    }

    /// A change that comes again after so many further ones.
    pub(super) fn echo(&mut self, after: u64, change: Change) {
        self.echoes
            .push((self.mutations.saturating_add(after), change));
    }

    /// Notes what a change did, for listings that lag.
    pub(super) fn note(&mut self, key: &ObjectKey, before: Option<ObjectMeta>) {
        self.history.push(Past {
            key: key.clone(),
            before,
        });
    }

    /// What was there before the last `lag` changes, of the objects that they changed.
    pub(super) fn before(&self, lag: u64) -> BTreeMap<ObjectKey, Option<ObjectMeta>> {
        let lag = usize::try_from(lag).unwrap_or(usize::MAX);
        let start = self.history.len().saturating_sub(lag);
        let recent = self.history.iter().skip(start).rev();
        recent
            .map(|past| (past.key.clone(), past.before.clone()))
            .collect()
    }

    /// Takes space for so many bytes, if there is as much.
    pub(super) fn take_space(&mut self, bytes: u64) -> bool {
        match self.space {
            None => true,
            Some(left) => {
                let rest = left.checked_sub(bytes);
                self.space = Some(rest.unwrap_or(left));
                rest.is_some()
            }
        }
    }

    /// Gives space back.
    pub(super) fn give_space(&mut self, bytes: u64) {
        self.space = self.space.map(|left| left.saturating_add(bytes));
    }
}
