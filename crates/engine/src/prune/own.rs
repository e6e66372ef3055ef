//! What this run has decided itself. Whoever holds the index key can write a decision below `gc/`, and only who
//! settled the sessions and marked knows that it is true. So nothing is deleted, and no entry of the index left out,
//! on the word of somebody else: what another prune called dead, and what is still there, is condemned
//! once more and goes by the decision of this run.

use std::collections::BTreeSet;

use backup_core::PackId;

/// Decisions of this run.
#[derive(Debug, Default)]
pub(super) struct Own {
    /// Packs that are dead.
    pub(super) dead: BTreeSet<PackId>,
}
