//! SHA-256 of what is read.

use backup_integrity::digest::ContentHasher;
use bytes::Bytes;

use crate::error::{EngineError, Result};

/// Larger files are hashed on a thread of their own.
pub(super) const HASH_APART: u64 = 8 << 20;
/// Blocks that wait for the hasher.
pub(super) const HASH_QUEUE: usize = 4;

/// A hasher, on a thread of its own for large streams: hashing takes as long as cutting.
pub(super) enum Hashing {
    Here(ContentHasher),
    Apart(
        crossbeam_channel::Sender<Hashed>,
        std::thread::JoinHandle<[u8; 32]>,
    ),
}

pub(super) enum Hashed {
    Data(Bytes),
    Zeros(u64),
}

impl Hashing {
    /// A hasher for about so many bytes.
    pub(super) fn new(size: u64) -> Self {
        if size < HASH_APART {
            return Self::Here(ContentHasher::new());
        }
        let (sender, receiver) = crossbeam_channel::bounded::<Hashed>(HASH_QUEUE);
        let thread = std::thread::Builder::new()
            .name("hash".into())
            .spawn(move || {
                let mut hasher = ContentHasher::new();
                for part in receiver {
                    match part {
                        Hashed::Data(bytes) => hasher.update(&bytes),
                        Hashed::Zeros(count) => hasher.update_zeros(count),
                    }
                }
                hasher.finish().0
            });
        thread.map_or_else(
            |_| Self::Here(ContentHasher::new()),
            |thread| Self::Apart(sender, thread),
        )
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &Bytes) {
        match self {
            Self::Here(hasher) => hasher.update(bytes),
            // The thread ends only when the sender does.
            Self::Apart(sender, _) => drop(sender.send(Hashed::Data(bytes.clone()))),
        }
    }

    /// Takes so many zeros.
    pub(super) fn zeros(&mut self, count: u64) {
        match self {
            Self::Here(hasher) => hasher.update_zeros(count),
            Self::Apart(sender, _) => drop(sender.send(Hashed::Zeros(count))),
        }
    }

    /// The SHA-256.
    ///
    /// # Errors
    /// [`EngineError::Panicked`] when the thread did.
    pub(super) fn finish(self) -> Result<[u8; 32]> {
        match self {
            Self::Here(hasher) => Ok(hasher.finish().0),
            Self::Apart(sender, thread) => {
                drop(sender);
                thread
                    .join()
                    .map_err(|_| EngineError::Panicked("the hasher"))
            }
        }
    }
}
