//! What a full read has in hand: packs, opened chunks, files whose content is hashed.

use std::collections::VecDeque;
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

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A pack that is fetched whole.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) id: PackId,
    pub(super) facts: PackFacts,
    pub(super) bytes: OnceLock<Result<Bytes, (FindingKind, String)>>,
    pub(super) _held: Held,
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
    Pending(Vec<Arc<FileCheck>>),
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

    /// What came of it; if nothing yet, the file is among those that [`Self::done`] returns.
    fn opened_or_wait(&self, file: &Arc<FileCheck>) -> Option<Opened> {
        match &mut *lock(&self.state) {
            ChunkState::Pending(waiting) => {
                waiting.push(file.clone());
                None
            }
            ChunkState::Done(opened) => Some(opened.clone()),
        }
    }

    /// It was opened, or not; returns the files that waited for it.
    pub(super) fn done(&self, opened: Result<Plain, String>) -> Vec<Arc<FileCheck>> {
        let done = ChunkState::Done(Arc::new(opened));
        match std::mem::replace(&mut *lock(&self.state), done) {
            ChunkState::Pending(waiting) => waiting,
            ChunkState::Done(_) => Vec::new(),
        }
    }
}

/// A stretch of a file's content.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Zeros(u64),
    Part {
        chunk: Arc<ChunkCheck>,
        offset: u32,
        length: u32,
    },
}

/// Whose turn it is with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// Its next step is still to come.
    Idle,
    /// It waits for a chunk.
    Waiting,
    /// It is queued, or a worker has it.
    Queued,
}

/// A file whose content is read, and hashed if its SHA-256 is known. One worker at a time has it.
#[derive(Debug)]
pub(super) struct FileCheck {
    pub(super) path: String,
    pub(super) wanted: Option<[u8; 32]>,
    /// Stands for what is being compared with what.
    pub(super) content: [u8; 16],
    progress: Mutex<Progress>,
    _held: Held,
}

#[derive(Debug)]
struct Progress {
    steps: VecDeque<Step>,
    hasher: ContentHasher,
    turn: Turn,
    is_complete: bool,
    bad: Option<String>,
}

impl FileCheck {
    pub(super) fn new(
        path: String,
        wanted: Option<[u8; 32]>,
        content: [u8; 16],
        held: Held,
    ) -> Self {
        Self {
            path,
            wanted,
            content,
            progress: Mutex::new(Progress {
                steps: VecDeque::new(),
                hasher: ContentHasher::new(),
                turn: Turn::Idle,
                is_complete: false,
                bad: None,
            }),
            _held: held,
        }
    }

    /// Adds a step, or says that there is none left; says whether it is to be queued.
    pub(super) fn add(&self, step: Option<Step>) -> bool {
        let mut progress = lock(&self.progress);
        progress.is_complete = step.is_none();
        progress.steps.extend(step);
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

    /// Takes the steps that can be taken, until it is over; once that was the last, says what is wrong, if
    /// anything.
    pub(super) fn advance(
        self: &Arc<Self>,
        is_over: &dyn Fn() -> bool,
    ) -> Option<Result<(), String>> {
        let mut progress = lock(&self.progress);
        loop {
            let ready = match progress.steps.front() {
                None if progress.is_complete => {
                    if let Some(why) = progress.bad.take() {
                        return Some(Err(why));
                    }
                    let hasher = std::mem::take(&mut progress.hasher);
                    let same = self.wanted.is_none_or(|wanted| hasher.finish().0 == wanted);
                    let why = "its content does not hash to its SHA-256";
                    return Some(if same { Ok(()) } else { Err(why.to_owned()) });
                }
                None => {
                    progress.turn = Turn::Idle;
                    return None;
                }
                Some(Step::Zeros(_)) => None,
                Some(Step::Part { chunk, .. }) => match chunk.opened_or_wait(self) {
                    Some(opened) => Some(opened),
                    None => {
                        progress.turn = Turn::Waiting;
                        return None;
                    }
                },
            };
            let Some(step) = progress.steps.pop_front() else {
                continue;
            };
            if progress.bad.is_some() {
                continue;
            }
            let mut hasher = std::mem::take(&mut progress.hasher);
            // Whoever adds steps does not wait for the hash.
            drop(progress);
            let took = self.take(&step, ready.as_deref(), &mut hasher, is_over);
            drop((step, ready));
            progress = lock(&self.progress);
            progress.hasher = hasher;
            progress.bad = took.err();
        }
    }

    fn take(
        &self,
        step: &Step,
        ready: Option<&Result<Plain, String>>,
        hasher: &mut ContentHasher,
        is_over: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        let part = match (step, ready) {
            (Step::Zeros(length), _) => {
                let mut left = if self.wanted.is_some() { *length } else { 0 };
                while left > 0 {
                    // A hole of exbibytes costs nothing to write down, and years to hash.
                    if is_over() {
                        return Err("it was called off".to_owned());
                    }
                    let part = left.min(ZEROS_AT_ONCE);
                    hasher.update_zeros(part);
                    left -= part;
                }
                return Ok(());
            }
            (Step::Part { offset, length, .. }, Some(Ok(plain))) => {
                let start = *offset as usize;
                plain.bytes.get(start..start + *length as usize)
            }
            (Step::Part { .. }, Some(Err(why))) => return Err(why.clone()),
            (Step::Part { .. }, None) => None,
        };
        let Some(part) = part else {
            return Err("an extent lies outside its chunk".to_owned());
        };
        if self.wanted.is_some() {
            hasher.update(part);
        }
        Ok(())
    }
}
