//! What a full read has in hand: packs, opened chunks, files whose content is hashed.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use backup_core::{ChunkId, FindingKind, PackId};
use backup_integrity::digest::ContentHasher;
use bytes::Bytes;

use super::budget::Held;
use crate::index_set::{PackFacts, Place};

/// Zeros that are hashed before it is asked whether to go on.
const ZEROS_AT_ONCE: u64 = 64 << 20;
/// Buffers that are kept for the next chunks: making them anew costs a page fault for each 4 KiB.
const SPARE_BUFFERS: usize = 8;

/// What is said of an extent that is not within its chunk.
pub(super) const OUTSIDE: &str = "an extent lies outside its chunk";

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What came of a pack as a whole.
#[derive(Debug, Default)]
pub(super) struct Swept {
    /// Bytes that were read of it.
    pub(super) bytes: u64,
    /// Blobs that its end names.
    pub(super) blobs: u64,
    /// Whether this key opens some of them only.
    pub(super) is_closed: bool,
    /// What is wrong with it.
    pub(super) whole: Option<(FindingKind, String)>,
}

/// A pack that is fetched whole.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) id: PackId,
    pub(super) facts: PackFacts,
    pub(super) bytes: OnceLock<Result<Bytes, (FindingKind, String)>>,
    pub(super) swept: OnceLock<Swept>,
    /// Chunks that are opened for files; whoever sweeps the pack leaves them out.
    claimed: Mutex<HashSet<[u8; 16]>>,
    /// Those who have not done their part: one for each claimed chunk, and the one who sweeps.
    users: AtomicUsize,
    is_bad: AtomicBool,
    _held: Held,
}

impl Pack {
    pub(super) fn new(id: PackId, facts: PackFacts, held: Held) -> Self {
        Self {
            id,
            facts,
            bytes: OnceLock::new(),
            swept: OnceLock::new(),
            claimed: Mutex::default(),
            users: AtomicUsize::new(1),
            is_bad: AtomicBool::new(false),
            _held: held,
        }
    }

    /// One of its chunks will be opened for files.
    pub(super) fn claim(&self, chunk: &ChunkId) {
        self.users.fetch_add(1, Ordering::AcqRel);
        lock(&self.claimed).insert(chunk.prefix());
    }

    pub(super) fn is_claimed(&self, chunk: &ChunkId) -> bool {
        lock(&self.claimed).contains(&chunk.prefix())
    }

    /// Something in it is damaged.
    pub(super) fn spoil(&self) {
        self.is_bad.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_bad(&self) -> bool {
        self.is_bad.load(Ordering::Relaxed)
    }

    /// One part is done; says whether it was the last.
    pub(super) fn release(&self) -> bool {
        self.users.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

/// Buffers to be used again.
#[derive(Debug, Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

impl Buffers {
    pub(super) fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        let mut buffers = lock(&self.0);
        if buffers.len() < SPARE_BUFFERS {
            buffers.push(buffer);
        }
    }
}

/// The plain bytes of a chunk.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) bytes: Vec<u8>,
    pub(super) home: Arc<Buffers>,
}

impl Drop for Plain {
    fn drop(&mut self) {
        self.home.give(std::mem::take(&mut self.bytes));
    }
}

/// A chunk that opened, or why it did not.
pub(super) type Opened = Arc<Result<Plain, String>>;

/// A chunk that is to be opened, or was.
#[derive(Debug)]
pub(super) struct ChunkCheck {
    pub(super) id: ChunkId,
    pub(super) place: Place,
    /// The pack it is cut from; without one, its range is fetched.
    pub(super) pack: Mutex<Option<Arc<Pack>>>,
    state: Mutex<ChunkState>,
    _held: Held,
}

#[derive(Debug)]
enum ChunkState {
    Pending(Vec<Arc<Reading>>),
    Done(Opened),
}

impl ChunkCheck {
    pub(super) fn new(id: ChunkId, place: Place, pack: Option<Arc<Pack>>, held: Held) -> Self {
        Self {
            id,
            place,
            pack: Mutex::new(pack),
            state: Mutex::new(ChunkState::Pending(Vec::new())),
            _held: held,
        }
    }

    /// What came of it; if nothing yet, the reading is among those that [`Self::done`] returns.
    fn opened_or_wait(&self, reading: &Arc<Reading>) -> Option<Opened> {
        match &mut *lock(&self.state) {
            ChunkState::Pending(waiting) => {
                waiting.push(reading.clone());
                None
            }
            ChunkState::Done(opened) => Some(opened.clone()),
        }
    }

    /// It was opened, or not; returns the readings that waited for it.
    pub(super) fn done(&self, opened: Result<Plain, String>) -> Vec<Arc<Reading>> {
        let done = ChunkState::Done(Arc::new(opened));
        match std::mem::replace(&mut *lock(&self.state), done) {
            ChunkState::Pending(waiting) => waiting,
            ChunkState::Done(_) => Vec::new(),
        }
    }
}

/// A step of reading files one after another.
#[derive(Debug)]
pub(super) enum Step {
    Zeros(u64),
    Part {
        chunk: Arc<ChunkCheck>,
        offset: u32,
        length: u32,
    },
    /// The file ends, and its hash must be this.
    End {
        wanted: [u8; 32],
        /// Stands for what is being compared with what.
        content: [u8; 16],
    },
}

/// What came of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Whole,
    Wrong(String),
    /// It was given up, since the time is over.
    GivenUp,
}

/// Whose turn it is with a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Its next step is still to come.
    Idle,
    /// It waits for a chunk.
    Waiting,
    /// It is queued, or a worker has it.
    Queued,
}

/// A large file, or several small ones, that are read and hashed. One worker at a time has it.
#[derive(Debug)]
pub(super) struct Reading {
    progress: Mutex<Progress>,
    _held: Held,
}

#[derive(Debug)]
struct Progress {
    steps: VecDeque<Step>,
    hasher: ContentHasher,
    turn: Turn,
    is_complete: bool,
    bad: Option<Verdict>,
}

impl Reading {
    /// A reading of steps that are known, and of those that are added if it is not complete.
    pub(super) fn new(steps: VecDeque<Step>, is_complete: bool, held: Held) -> Self {
        Self {
            progress: Mutex::new(Progress {
                steps,
                hasher: ContentHasher::new(),
                turn: if is_complete {
                    Turn::Queued
                } else {
                    Turn::Idle
                },
                is_complete,
                bad: None,
            }),
            _held: held,
        }
    }

    /// Adds a step, the last one with the word that it is; says whether the reading is to be queued.
    pub(super) fn add(&self, step: Step, is_last: bool) -> bool {
        let mut progress = lock(&self.progress);
        progress.is_complete = is_last;
        progress.steps.push_back(step);
        let queue = progress.turn == Turn::Idle;
        if queue {
            progress.turn = Turn::Queued;
        }
        queue
    }

    /// A chunk that it may have waited for is there; says whether it is to be queued.
    pub(super) fn wake(&self) -> bool {
        let mut progress = lock(&self.progress);
        let queue = progress.turn == Turn::Waiting;
        if queue {
            progress.turn = Turn::Queued;
        }
        queue
    }

    /// Takes the steps that can be taken, until it is over, and hands over what became of each content
    /// that ended; says whether that was the last step of all.
    pub(super) fn advance(
        self: &Arc<Self>,
        is_over: &dyn Fn() -> bool,
        ended: &mut Vec<([u8; 16], Verdict)>,
    ) -> bool {
        let mut progress = lock(&self.progress);
        loop {
            let is_bad = progress.bad.is_some();
            let ready = match progress.steps.front() {
                None => {
                    if !progress.is_complete {
                        progress.turn = Turn::Idle;
                    }
                    return progress.is_complete;
                }
                Some(Step::Part { chunk, .. }) if !is_bad => match chunk.opened_or_wait(self) {
                    Some(opened) => Some(opened),
                    None => {
                        progress.turn = Turn::Waiting;
                        return false;
                    }
                },
                Some(_) => None,
            };
            let Some(step) = progress.steps.pop_front() else {
                continue;
            };
            if let Step::End { wanted, content } = step {
                let hasher = std::mem::take(&mut progress.hasher);
                let verdict = progress.bad.take().unwrap_or_else(|| {
                    if hasher.finish().0 == wanted {
                        Verdict::Whole
                    } else {
                        let why = "its content does not hash to its SHA-256";
                        Verdict::Wrong(why.to_owned())
                    }
                });
                ended.push((content, verdict));
                continue;
            }
            if is_bad {
                continue;
            }
            let mut hasher = std::mem::take(&mut progress.hasher);
            // Whoever adds steps does not wait for the hash.
            drop(progress);
            let took = take(&step, ready.as_deref(), &mut hasher, is_over);
            drop((step, ready));
            progress = lock(&self.progress);
            progress.hasher = hasher;
            progress.bad = took.err();
        }
    }
}

fn take(
    step: &Step,
    ready: Option<&Result<Plain, String>>,
    hasher: &mut ContentHasher,
    is_over: &dyn Fn() -> bool,
) -> Result<(), Verdict> {
    let part = match (step, ready) {
        (Step::Zeros(length), _) => {
            let mut left = *length;
            while left > 0 {
                // A hole of exbibytes costs nothing to write down, and years to hash.
                if is_over() {
                    return Err(Verdict::GivenUp);
                }
                let part = left.min(ZEROS_AT_ONCE);
                hasher.update_zeros(part);
                left -= part;
            }
            return Ok(());
        }
        (Step::Part { .. }, _) if is_over() => return Err(Verdict::GivenUp),
        (Step::Part { offset, length, .. }, Some(Ok(plain))) => {
            let start = *offset as usize;
            plain.bytes.get(start..start + *length as usize)
        }
        (Step::Part { .. }, Some(Err(why))) => return Err(Verdict::Wrong(why.clone())),
        (Step::Part { .. } | Step::End { .. }, _) => None,
    };
    let Some(part) = part else {
        return Err(Verdict::Wrong(OUTSIDE.to_owned()));
    };
    hasher.update(part);
    Ok(())
}
