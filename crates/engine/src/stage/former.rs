//! The small files of the job's last run, by content: one that was moved or copied is stored
//! nowhere again, although the bundle that holds it cannot be cut the same way at its new place.

use std::collections::HashMap;

use backup_core::ChunkId;
use backup_format::chunk::{CutKeys, PieceDigest};
use backup_format::extent::{Content, Extent};
use backup_format::record::Record;
use backup_format::seal::ObjectKeyring;

use crate::state::StatePaths;

/// Files that are remembered; those behind them are stored again when they are moved.
const MOST: usize = 1 << 20;

/// Where the last run's small files lie, by the keyed digest of their SHA-256.
pub(super) struct Former {
    /// Where the last state lies, until it is read.
    unread: Option<(StatePaths, ObjectKeyring)>,
    chunks: Vec<ChunkId>,
    places: HashMap<PieceDigest, (u32, u32)>,
}

impl std::fmt::Debug for Former {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Former({} files)", self.places.len())
    }
}

impl Former {
    /// The files of the state that lies there; read when they are first asked for.
    pub(super) fn new(state: Option<(StatePaths, ObjectKeyring)>) -> Self {
        Self {
            unread: state,
            chunks: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// The chunk and the offset at which the last run's file of that digest lies. `is_new`: its path
    /// is one that the last run did not have. Only such files have the state read: for others, a
    /// change that brings content which another file had is too rare.
    pub(super) fn find(
        &mut self,
        keys: &CutKeys,
        digest: &PieceDigest,
        is_new: bool,
    ) -> Option<(ChunkId, u32)> {
        if is_new && let Some((paths, ring)) = self.unread.take() {
            self.read(keys, &paths, &ring);
        }
        let (chunk, offset) = self.places.get(digest)?;
        Some((*self.chunks.get(*chunk as usize)?, *offset))
    }

    fn read(&mut self, keys: &CutKeys, paths: &StatePaths, ring: &ObjectKeyring) {
        for entry in paths.last_complete(ring) {
            let Ok(record) = Record::decode(&entry.record) else {
                return;
            };
            let (Some(sha256), Content::Inline(extents)) = (record.sha256, &record.content) else {
                continue;
            };
            // Small files lie in one piece; larger ones are found by their chunks.
            let [Extent::Data { chunk, offset, .. }] = extents.as_slice() else {
                continue;
            };
            if self.places.len() >= MOST {
                return;
            }
            // Neighbours lie in the same bundle.
            if self.chunks.last() != Some(chunk) {
                self.chunks.push(*chunk);
            }
            let number = u32::try_from(self.chunks.len() - 1).unwrap_or(u32::MAX);
            self.places.insert(keys.digest(&sha256), (number, *offset));
        }
    }
}
