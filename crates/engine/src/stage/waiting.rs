//! Entries on their way into the manifest: those behind one whose bundle is still open wait for it.

use backup_core::{EntryMeta, EntryPath, Fingerprint};

use super::bundles::Located;
use crate::state::StateEntry;

/// An entry that is waiting for its place in the manifest.
pub(super) struct Waiting {
    pub(super) key: Vec<u8>,
    pub(super) path: EntryPath,
    pub(super) meta: EntryMeta,
    pub(super) fingerprint: Option<Fingerprint>,
    pub(super) size: u64,
    pub(super) sha256: Option<[u8; 32]>,
    pub(super) located: Located,
    pub(super) lineage: Vec<u8>,
    pub(super) extents: Vec<u8>,
}

pub(super) enum Next {
    Fresh(Box<Waiting>),
    Reused(EntryPath, Box<StateEntry>),
}

impl Next {
    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Reused(_, state) => {
                let record = state.record.len() + state.lineage.len();
                state.key.len() * 2 + record + state.extents.len()
            }
            Self::Fresh(next) => {
                let xattrs = next.meta.xattrs.iter();
                let xattrs: usize = xattrs.map(|(name, value)| name.len() + value.len()).sum();
                next.key.len() * 2 + xattrs + next.lineage.len() + next.extents.len()
            }
        }
    }
}
