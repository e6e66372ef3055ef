//! The small files of the job's last run, by content: one that was moved or copied is stored
//! nowhere again, although the bundle that holds it cannot be cut the same way at its new place.
//!
//! They come from the local state, or, where that is lost or there is none yet, from the newest
//! snapshot of the line, or else of each line of this host, as far as the key can read them. A writer's key reads none: whoever saves with it and
//! has lost the state stores small files again whose bundles have changed.

use std::collections::HashMap;

use backup_core::{ChunkId, EntryPath, OpContext};
use backup_format::chunk::{CutKeys, PieceDigest};
use backup_format::extent::{Content, Extent};
use backup_format::record::Record;
use backup_format::seal::ObjectKeyring;

use crate::repository::{Repository, SnapshotHead};
use crate::state::StatePaths;
use crate::view::SnapshotView;

/// Files that are remembered; those behind them are stored again when they are moved.
const MOST: usize = 1 << 20;

/// Where the last run's small files lie, by the keyed digest of their SHA-256.
pub(super) struct Former {
    /// Where the last state lies, until it is read.
    unread: Option<(StatePaths, ObjectKeyring)>,
    /// Whether files are looked up whose path the last run had too.
    always: bool,
    chunks: Vec<ChunkId>,
    places: HashMap<PieceDigest, (u32, u32)>,
}

impl std::fmt::Debug for Former {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Former({} files)", self.places.len())
    }
}

impl Former {
    /// The files of the state that lies there; read when they are first asked for. `always`: every
    /// file is read, so every one is asked for.
    pub(super) fn new(state: Option<(StatePaths, ObjectKeyring)>, always: bool) -> Self {
        Self {
            unread: state.filter(|(paths, _)| paths.has_complete()),
            always,
            chunks: Vec::new(),
            places: HashMap::new(),
        }
    }

    /// Whether there is no state that it could be of.
    pub(super) const fn is_lost(&self) -> bool {
        self.unread.is_none()
    }

    /// Takes the files of snapshots instead. What cannot be read is stored again, no worse.
    pub(super) async fn read_snapshots(
        &mut self,
        repo: &Repository,
        cx: &OpContext,
        keys: &CutKeys,
        heads: &[&SnapshotHead],
    ) {
        self.always |= !heads.is_empty();
        for head in heads {
            let Ok(view) = SnapshotView::open(repo, (*head).clone()) else {
                continue;
            };
            let mut entries = view.entries(0, &EntryPath::root());
            while let Ok(Some(entry)) = entries.next(cx).await {
                if !self.remember(keys, &entry.record) {
                    return;
                }
            }
        }
    }

    /// The chunk and the offset at which the last run's file of that digest lies. `is_new`: its path
    /// is one that the last run did not have. Only such files have the state read where others are
    /// not read themselves: a change that brings content which another file had is too rare.
    pub(super) fn find(
        &mut self,
        keys: &CutKeys,
        digest: &PieceDigest,
        is_new: bool,
    ) -> Option<(ChunkId, u32)> {
        if (is_new || self.always)
            && let Some((paths, ring)) = self.unread.take()
        {
            self.read(keys, &paths, &ring);
        }
        let (chunk, offset) = self.places.get(digest)?;
        Some((*self.chunks.get(*chunk as usize)?, *offset))
    }

    fn read(&mut self, keys: &CutKeys, paths: &StatePaths, ring: &ObjectKeyring) {
        for entry in paths.last_complete(ring) {
            let Ok(record) = entry.decoded() else {
                return;
            };
            if !self.remember(keys, &record) {
                return;
            }
        }
    }

    /// Remembers where a file lies; says whether there is room for more.
    fn remember(&mut self, keys: &CutKeys, record: &Record) -> bool {
        let (Some(sha256), Content::Inline(extents)) = (record.sha256, &record.content) else {
            return true;
        };
        // Small files lie in one piece; larger ones are found by their chunks.
        let [Extent::Data { chunk, offset, .. }] = extents.as_slice() else {
            return true;
        };
        // Neighbours lie in the same bundle.
        if self.chunks.last() != Some(chunk) {
            self.chunks.push(*chunk);
        }
        let number = u32::try_from(self.chunks.len() - 1).unwrap_or(u32::MAX);
        self.places.insert(keys.digest(&sha256), (number, *offset));
        self.places.len() < MOST
    }
}
