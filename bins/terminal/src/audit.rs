//! Recording in the ledger what a command read: who, on which host, of what, how much, and how it ended.
//! Never which paths: whoever sees the ledger may not see them.

use backstay::core::{HostId, Severity, SnapshotId};
use backstay::engine::ledger::{LedgerDraft, record_read};
use backstay::engine::{Repository, SnapshotView};
use backstay::integrity::ledger::RecordOutcome;
use backstay::integrity::merkle::MerkleRoot;

use crate::console::Console;
use crate::exit::Exit;
use crate::failure::Outcome;
use crate::surroundings;

/// What a command read.
#[derive(Debug, Default)]
pub struct Look {
    /// What was done, as the ledger names it.
    pub op: &'static str,
    /// The snapshot, if it was one.
    pub snapshot: Option<(SnapshotId, MerkleRoot)>,
    /// Numbers by name.
    pub counts: Vec<(&'static str, u64)>,
    /// A sentence for people; empty: none.
    pub note: String,
}

impl Look {
    /// A look at so many entries of one snapshot.
    #[must_use]
    pub fn at(op: &'static str, view: &SnapshotView<'_>, entries: u64) -> Self {
        Self {
            op,
            snapshot: Some((view.meta().id, view.root())),
            counts: vec![("entries", entries)],
            note: String::new(),
        }
    }
}

/// The host by whose name a program signs records of the ledger: for a key that is made for one
/// host that one, wherever it is used.
#[must_use]
pub fn signer(repo: &Repository) -> HostId {
    let own = repo.keys().host().cloned();
    own.unwrap_or_else(surroundings::host)
}

/// How the ledger tells of the end of a command.
#[must_use]
pub fn outcome_of(done: &Outcome) -> RecordOutcome {
    match done {
        Ok(Exit::Ok) => RecordOutcome::Ok,
        Ok(_) => RecordOutcome::Findings,
        // A reader of the output that went away has had enough.
        Err(failure) if failure.is_silent || failure.exit == Exit::Interrupted => {
            RecordOutcome::Cancelled
        }
        Err(_) => RecordOutcome::Failed,
    }
}

impl Console {
    /// Records what was read, however it ended. Where that cannot be, it is said, and the command ends as
    /// it would have.
    pub async fn record_look(&self, repo: &Repository, look: Look, done: &Outcome) {
        let what = format!("this `{}`", look.op);
        let (snapshot, root) = look.snapshot.unzip();
        let draft = LedgerDraft {
            op: look.op,
            snapshot,
            root,
            counts: look.counts,
            outcome: outcome_of(done),
            note: look.note,
        };
        let (host, user) = (signer(repo), surroundings::actor());
        for finding in record_read(repo, &self.cx, (&host, &user), &what, draft).await {
            let said = format!("{}: {}", finding.subject, finding.detail);
            if finding.severity == Severity::Note {
                self.note(&said);
            } else {
                self.warn(&said);
            }
        }
    }
}
