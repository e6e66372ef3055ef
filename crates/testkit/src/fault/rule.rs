//! What goes wrong, and when.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use backup_core::{ErrorKind, Retry};

use crate::op::Op;

/// What goes wrong with a call.
///
/// Most are what a correct tier may do on a bad day. [`Torn`](Self::Torn),
/// [`FlipBit`](Self::FlipBit), [`CutShort`](Self::CutShort), [`Spoil`](Self::Spoil),
/// [`Shorten`](Self::Shorten) and [`Drop`](Self::Drop) break the contract of a sink, as tiers in the
/// field do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The call fails before it reaches the tier. All calls.
    Fail(ErrorKind, Retry),
    /// The tier does it, but the answer is lost: the call fails as unavailable, to be tried again.
    /// All calls but `list`.
    LoseAnswer,
    /// The tier does it twice (a packet came twice); the answer is that of the first time. `put`
    /// and `delete`.
    Twice,
    /// The tier does it, the answer is lost, a layer below tries again, and the answer is that of
    /// the second time: a create that has won is told of a conflict. `put` and `delete`.
    Retried,
    /// The tier does it, and does it once more when so many further changes have been made: a
    /// packet that was held up. `put` and `delete`.
    Echo(u64),
    /// Just the beginning of the object arrives and gets its name, then the call fails; how much of
    /// it, the seed says. `put`, where the wrapped sink takes the key at all.
    Torn,
    /// One bit of what is stored is another one, and nobody is told; the seed says which. `put`.
    Spoil,
    /// Just the beginning of the object is stored, and nobody is told. `put`.
    Shorten,
    /// Nothing is stored, and nobody is told: a cache that was not written back. `put`.
    Drop,
    /// So many bytes a second go through. `put` and `get`.
    Slow(u64),
    /// It takes so long, and then goes on as if nothing were wrong, or to the next fault.
    Delay(Duration),
    /// One bit of the answer is another one; the seed says which. `get`.
    FlipBit,
    /// The answer lacks its end; the seed says how much. `get`.
    CutShort,
    /// The listing is that of so many changes ago: it lacks what was put since, and shows what was
    /// deleted since. Changes made through the wrapper count. `list`.
    StaleList(u64),
    /// The listing breaks off after so many objects. `list`.
    BreakOff(usize),
}

impl Fault {
    /// A failure that can pass, to be tried again at once.
    #[must_use]
    pub const fn outage() -> Self {
        Self::Fail(ErrorKind::Unavailable, Retry::Now)
    }

    /// The tier asks for a pause: too many requests.
    #[must_use]
    pub const fn throttled(pause: Duration) -> Self {
        Self::Fail(ErrorKind::Unavailable, Retry::After(pause))
    }

    /// The tier has no room.
    #[must_use]
    pub const fn full() -> Self {
        Self::Fail(ErrorKind::NoSpace, Retry::Never)
    }

    pub(super) const fn can_hit(&self, op: Op) -> bool {
        match self {
            Self::Fail(..) | Self::Delay(_) => true,
            Self::LoseAnswer => !matches!(op, Op::List),
            Self::Twice | Self::Retried | Self::Echo(_) => op.is_mutating(),
            Self::Torn | Self::Spoil | Self::Shorten | Self::Drop => matches!(op, Op::Put),
            Self::Slow(_) => matches!(op, Op::Put | Op::Get),
            Self::FlipBit | Self::CutShort => matches!(op, Op::Get),
            Self::StaleList(_) | Self::BreakOff(_) => matches!(op, Op::List),
        }
    }
}

/// Which of the calls that a rule is about it hits. Calls are counted from one, by each rule for
/// itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// The first so many.
    First(u64),
    /// Just this one.
    Nth(u64),
    /// This one and all after it.
    From(u64),
    /// Each one whose number this divides; none for zero.
    Every(u64),
    /// So many of a thousand, as the seed says. What happens to a call depends on the seed, the
    /// key and how often that key was called for, not on the order of calls of different keys.
    PerMille(u64),
}

impl When {
    pub(super) const fn hits(self, number: u64, roll: u64) -> bool {
        match self {
            Self::Always => true,
            Self::First(count) => number <= count,
            Self::Nth(nth) => number == nth,
            Self::From(first) => number >= first,
            Self::Every(step) => step > 0 && number.is_multiple_of(step),
            Self::PerMille(share) => roll % 1000 < share,
        }
    }
}

/// A fault with the calls that it hits: all to which it can happen, until the rule is narrowed.
///
/// ```
/// use backup_testkit::{Fault, Op, Rule, When};
/// // The first two puts below `data/` are done, but nobody is told.
/// let rule = Rule::new(Fault::LoseAnswer).on(&[Op::Put]).under("data/").when(When::First(2));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub(super) fault: Fault,
    ops: Vec<Op>,
    prefix: String,
    pub(super) when: When,
}

impl Rule {
    /// The fault, with all calls to which it can happen.
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            ops: Op::ALL.to_vec(),
            prefix: String::new(),
            when: When::Always,
        }
    }

    /// With these calls only.
    #[must_use]
    pub fn on(mut self, ops: &[Op]) -> Self {
        self.ops = ops.to_vec();
        self
    }

    /// Where the key, or the prefix of a listing, begins so.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// With these of the calls only.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }

    pub(super) fn is_about(&self, op: Op, subject: &str) -> bool {
        // A listing of several prefixes has all of them in its subject.
        let mut subjects = subject.split(' ');
        self.fault.can_hit(op)
            && self.ops.contains(&op)
            && subjects.any(|one| one.starts_with(&self.prefix))
    }
}

/// How a process dies in the middle of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Crash {
    /// The change is not made.
    Before,
    /// A put leaves the beginning of its object under the key, as a tier that breaks the contract
    /// would; a delete is not made.
    Torn,
    /// The change is made, and nobody is told.
    After,
}

impl Crash {
    /// All of them; for crash matrices of tiers that keep the contract, leave out `Torn`.
    pub const ALL: [Self; 3] = [Self::Before, Self::Torn, Self::After];

    pub(super) const fn fault(self, op: Op) -> Fault {
        match (self, op) {
            (Self::After, _) => Fault::LoseAnswer,
            (Self::Torn, Op::Put) => Fault::Torn,
            _ => Fault::Fail(ErrorKind::Unavailable, Retry::Never),
        }
    }
}

/// A fault that was injected; the cause of the errors that it makes, with what is needed to make
/// it happen again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("injected into call {call} ({op} {subject}), seed {seed}: {fault:?}")]
pub struct Injected {
    /// The seed of the sink.
    pub seed: u64,
    /// The number of the call among all calls of the sink, from one.
    pub call: u64,
    /// The call.
    pub op: Op,
    /// The key, or the prefix of a listing.
    pub subject: String,
    /// What was done to it.
    pub fault: Fault,
}

const USUAL_SEED: u64 = 7;

/// The seed of what a test leaves to chance: what `BACKSTAY_SEED` says, a number or `random`; otherwise always the
/// same, so that whoever did not change the code sees the same tests pass. Below 2^44. Errors that are injected, and
/// the sink's `Debug`, show it.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "a test that is told what to play again"
)]
pub fn seed() -> u64 {
    match std::env::var("BACKSTAY_SEED").as_deref() {
        Ok("random") => RandomState::new().hash_one("seed") >> 20,
        Ok(number) => number.parse().unwrap_or(USUAL_SEED),
        Err(_) => USUAL_SEED,
    }
}
