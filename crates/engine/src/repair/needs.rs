//! Damaged packs that no snapshot names: whether they may be needed all the same.
//!
//! What they hold may be all that is left of a lost pack, which refs go on naming. And a save that is under way names what it has
//! made at its end alone.

use std::collections::BTreeSet;
use std::fmt;

use backup_core::{OpContext, PackId, SessionId, Severity};
use backup_format::layout;

use super::survey::{Named, Tier};
use crate::error::Result;
use crate::heirs::heirs;
use crate::index_set::KnownRun;
use crate::repository::Repository;

/// Why a damaged pack that no snapshot names may be needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// It holds what a lost pack held.
    OfLost,
    /// A session that is open has made it.
    OfSession,
    /// Sessions are open, and may be about to name any pack.
    Perhaps,
    /// It is not.
    None,
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OfLost => {
                "no snapshot names it, but what is whole of it may be all that is left of lost packs that snapshots need"
            }
            Self::OfSession => {
                "no snapshot names it yet, but a session that is open has made it, and the save that it is of needs it; it is moved to aside/ once the index knows it, and what is whole of it is read there; `snapshot verify` what that save makes, and save again"
            }
            Self::Perhaps => {
                "no snapshot names it, so it is only taken out of the way; sessions are open, and one of them may be about to name it: run this again when they are over"
            }
            Self::None => "no snapshot needs it, so it is only taken out of the way",
        })
    }
}

impl Need {
    /// How bad it is that it is damaged.
    pub(super) const fn severity(self) -> Severity {
        match self {
            Self::OfLost => Severity::Error,
            Self::OfSession => Severity::Warning,
            Self::Perhaps | Self::None => Severity::Note,
        }
    }
}

/// What is known of the packs that nothing mends.
pub(super) struct Needs {
    /// Those that no snapshot names; none as long as nobody knows what snapshots name.
    unnamed: BTreeSet<PackId>,
    /// Those that hold what lost packs held, and those that were set aside and do.
    heirs: BTreeSet<PackId>,
    /// Those that sessions have made which are open.
    of_sessions: BTreeSet<PackId>,
    is_open: bool,
}

impl Needs {
    /// Looks what is known; `mended` are the damaged packs that something mends, `without` those that nothing does.
    ///
    /// # Errors
    /// Errors of the tier.
    pub(super) async fn of(
        repo: &Repository,
        cx: &OpContext,
        (tier, named): (&Tier, &Named),
        (mended, without): (&BTreeSet<PackId>, &BTreeSet<PackId>),
    ) -> Result<Self> {
        let aside: BTreeSet<PackId> = tier.aside.iter().filter_map(layout::pack_id).collect();
        let mut out = Self {
            unnamed: BTreeSet::new(),
            heirs: aside.clone(),
            of_sessions: BTreeSet::new(),
            is_open: !named.open.is_empty(),
        };
        if named.is_unsure() {
            return Ok(out);
        }
        out.unnamed = without - &named.packs;
        // What is lost, and what is left of the others.
        let mut left: BTreeSet<PackId> = tier.packs.values().map(|pack| pack.id).collect();
        let is_lost =
            |id: &&PackId| !mended.contains(*id) && (without.contains(*id) || !left.contains(*id));
        let lost: BTreeSet<PackId> = named.packs.iter().filter(is_lost).copied().collect();
        left.extend(&aside);
        let dead = aside.intersection(&tier.dead);
        let asked = out.unnamed.intersection(&left).chain(dead);
        let asked = asked.filter(|id| !named.packs.contains(*id));
        let asked: BTreeSet<PackId> = asked.copied().collect();
        out.heirs = BTreeSet::new();
        if !lost.is_empty() && !asked.is_empty() {
            let index = repo.proven_index(cx).await?;
            out.heirs = heirs(repo, cx, &index, &lost, &asked).await?;
            index.check()?;
        }
        out.of_sessions = made_by(repo, &out.unnamed, &named.open);
        Ok(out)
    }

    /// Why one of the packs that nothing mends may be needed, if no snapshot names it.
    pub(super) fn need(&self, id: &PackId) -> Option<Need> {
        if !self.unnamed.contains(id) {
            return None;
        }
        Some(if self.heirs.contains(id) {
            Need::OfLost
        } else if self.of_sessions.contains(id) {
            Need::OfSession
        } else if self.is_open {
            Need::Perhaps
        } else {
            Need::None
        })
    }

    /// Whether a pack may hold what a lost pack held.
    pub(super) fn is_heir(&self, id: &PackId) -> bool {
        self.heirs.contains(id)
    }
}

/// Those of some packs that an index run of one of some sessions names, and those that are in no run yet.
fn made_by(
    repo: &Repository,
    packs: &BTreeSet<PackId>,
    sessions: &BTreeSet<SessionId>,
) -> BTreeSet<PackId> {
    if packs.is_empty() || sessions.is_empty() {
        return BTreeSet::new();
    }
    let runs = repo.known_runs();
    let is_of_sessions = |run: &&KnownRun| {
        let mut of_run = run.sessions().iter();
        of_run.any(|wrap| sessions.contains(&wrap.session))
    };
    let made: Vec<_> = runs.iter().filter(is_of_sessions).collect();
    let known = repo.index().pack_sizes();
    let is_made = |id: &&PackId| {
        let ids = [**id].into();
        !known.contains_key(*id) || made.iter().any(|run| run.names_any(&ids))
    };
    packs.iter().filter(is_made).copied().collect()
}
