//! What can go wrong with a whole operation. What is wrong with single entries or objects is a
//! finding in a report.

use std::io;
use std::path::PathBuf;

use backup_core::{
    ErrorKind, FindingKind, RepoId, SessionId, SinkError, SnapshotId, SourceError, TargetError,
};
use backup_format::keys::KeyError;
use backup_format::page::TreeError;
use backup_format::seal::SealError;
use backup_format::wire::WireError;
use backup_parity::ParityError;

use crate::cold::ColdPlaceError;
use crate::known::Known;
use crate::ledger::GoneSnapshot;
use crate::remedy::remedy;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// It cannot be told what snapshots use, so nothing is deleted.
    #[error("nothing was deleted: {0}")]
    Unprunable(String),
    /// While it was under way it came to be that nobody can tell what snapshots use.
    #[error("{packs} packs were deleted that nothing uses, and then nothing more: {why}")]
    PrunedInPart {
        /// How many were deleted.
        packs: u64,
        /// Why not more.
        why: String,
    },
    /// Lost records are not accepted as lost that a repair puts back.
    #[error("{0} can be put back from this host's copy of it, so nothing is accepted as lost")]
    Repairable(String),
    /// Another prune is at work.
    #[error("another prune is at work: {0}")]
    OtherPrune(String),
    /// More would be deleted than was allowed.
    #[error("{bytes} of {of} bytes would be deleted, which is more than is allowed at once")]
    DropsTooMuch {
        /// What nothing uses.
        bytes: u64,
        /// What there is.
        of: u64,
    },
    /// The tier could not do what it was asked.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The source could not be captured.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The target could not be written.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is no room where a restore writes to.
    #[error("{0}; what was restored so far stays, and is not fetched again")]
    TargetFull(String),
    /// A key does not open the repository, or lacks what the operation needs.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no repository at the place.
    #[error(
        "there is no repository at {0}: make one with `snapshot init --repo {0}`, or check the path and that the disk is mounted"
    )]
    NoRepository(String),
    /// There is one already.
    #[error("there is a repository at {0} already; nothing was changed")]
    RepositoryExists(String),
    /// A copy is to go to where another repository is.
    #[error(
        "at {place} there is repository {found}, and a copy of repository {wanted} cannot go there"
    )]
    OtherFamily {
        /// Where it is.
        place: String,
        /// What is there.
        found: RepoId,
        /// What was to be copied.
        wanted: RepoId,
    },
    /// Another repository than before is at a place.
    #[error("the repository at {place} is not the one that was there before: it is {found}")]
    Swapped {
        /// Where it is.
        place: String,
        /// What is there now.
        found: Known,
    },
    /// No key slot opens with what was given.
    #[error(
        "no key slot of the repository opens with this {credential}; is it the right one for {repository}?"
    )]
    WrongKey {
        /// What was given: `passphrase`, `key file`.
        credential: &'static str,
        /// Where the repository is.
        repository: String,
    },
    /// An object is damaged.
    #[error("{object} is damaged: {why}")]
    Damaged {
        /// The object's key.
        object: String,
        /// What is wrong with it.
        why: String,
    },
    /// An object that must be there is not.
    #[error("{object} is missing: {why}")]
    Missing {
        /// The object's key, or the chunk.
        object: String,
        /// What needed it.
        why: String,
    },
    /// The repository needs a newer program.
    #[error("{0}")]
    Newer(String),
    /// No snapshot is meant by a text.
    #[error("no snapshot matches `{0}`; `snapshot list` shows what there is")]
    NoSnapshot(String),
    /// Several snapshots are meant by a text.
    #[error("`{spec}` matches {count} snapshots; give more characters of the id")]
    Ambiguous {
        /// The text.
        spec: String,
        /// How many.
        count: usize,
    },
    /// Snapshots of several hosts have the name that a text says.
    #[error("`{spec}` may mean snapshots of {}", hosts.join(" and "))]
    SeveralHosts {
        /// The text.
        spec: String,
        /// The hosts, the one with the newest snapshot first.
        hosts: Vec<String>,
    },
    /// A snapshot that a text may mean cannot be read.
    #[error("`{spec}` may mean snapshot {id}, which cannot be read: {why}")]
    Unsure {
        /// The text.
        spec: String,
        /// The snapshot.
        id: SnapshotId,
        /// Why it cannot be read.
        why: String,
    },
    /// A snapshot that a text may mean is gone, though the ledger knows it.
    #[error(
        "`{spec}` may mean snapshot {} of {}, recorded {}: the ledger knows it, nobody forgot it, and it is gone from the tier", gone.id, gone.host, gone.recorded
    )]
    Gone {
        /// The text.
        spec: String,
        /// The snapshot.
        gone: GoneSnapshot,
    },
    /// A snapshot was gone before it was held.
    #[error("snapshot {snapshot} cannot be held: {why}")]
    TooLate {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What became of it.
        why: String,
    },
    /// A source left out what it says is as in the parent snapshot, and that cannot give it.
    #[error("{path} cannot be taken over from the parent snapshot: {why}")]
    Parent {
        /// The path.
        path: String,
        /// Why not.
        why: String,
    },
    /// A collector of garbage took the run for dead and left its snapshot out.
    #[error(
        "this run was taken for dead while it was under way, so its snapshot {0} does not count; run it again: what was stored is found"
    )]
    TakenForDead(SnapshotId),
    /// A collector of garbage took the run for dead, and nobody says whether its snapshot counts.
    #[error(
        "this run (session {0}) was taken for dead while it was under way, and nobody says whether its snapshot counts; look with `snapshot list` when no `snapshot prune` is at work, or run it again: what was stored is found"
    )]
    Undecided(SessionId),
    /// A path is not in a snapshot.
    #[error("{path} is not in snapshot {snapshot}; `restore ls {snapshot}` shows what is")]
    NoPath {
        /// The path.
        path: String,
        /// The snapshot.
        snapshot: String,
    },
    /// A local file of the cache or the ledger could not be used.
    #[error("{path}: {source}")]
    Local {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// A table of the index in the cache could not be read any more while the index was in use.
    #[error(
        "{0} is damaged, a part of the index in the local cache: it was removed, and the repository itself is not concerned; run it again, and if that happens once more, look at the disk of the cache, or name another folder with --cache-dir"
    )]
    IndexCache(PathBuf),
    /// The system refused a thread.
    #[error("the system starts no more threads: {0}")]
    NoThread(io::Error),
    /// Something could not be sealed; see [`SealError::SelfCheck`].
    #[error(transparent)]
    Seal(SealError),
    /// Entries that could not be read back are not stored.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// Something could not be signed or recorded.
    #[error("{0}")]
    Evidence(String),
    /// Parity could not be made.
    #[error("{object}: {why}")]
    Parity {
        /// The pack that it was to protect.
        object: String,
        /// Why not.
        why: ParityError,
    },
    /// Packs of content lie at another place than the one that is named, or at none of their own.
    #[error(transparent)]
    ColdPlace(#[from] ColdPlaceError),
    /// A request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// Cancelled on request.
    #[error("cancelled; what was stored so far is reused by the next run")]
    Cancelled,
    /// A thread ended by a panic: an error of this program.
    #[error("an internal error in {0}; please report it with the log")]
    Panicked(&'static str),
}

/// Said of what could not be read.
const NOT_KNOWN: &str =
    "it is not known to be damaged: run it again once the repository can be read there";

impl EngineError {
    /// An object that does not authenticate or decode.
    pub fn damaged(object: impl ToString, why: impl ToString) -> Self {
        Self::Damaged {
            object: object.to_string(),
            why: why.to_string(),
        }
    }

    /// An object whose layout is wrong: a newer version, or damage.
    pub fn wire(object: impl ToString, error: &WireError) -> Self {
        match error {
            WireError::Version { .. } | WireError::Needs { .. } => {
                Self::Newer(format!("{}: {error}", object.to_string()))
            }
            other => Self::damaged(object, other),
        }
    }

    /// An object that does not open. Its version is read before anything says that it is genuine: since a
    /// newer program announces itself in the config, which is signed, another version is damage.
    pub fn sealed(object: impl ToString, error: &SealError) -> Self {
        match error {
            SealError::Wire(WireError::Version { found, .. }) => {
                let why =
                    format!("it says to be of version {found}, which the config does not announce");
                Self::damaged(object, why)
            }
            SealError::Wire(wire) => Self::wire(object, wire),
            other => Self::damaged(object, other),
        }
    }

    /// A local file.
    pub fn local(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Local {
            path: path.into(),
            source,
        }
    }

    /// What to do where stored data is damaged or missing, unless the error itself says it.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        let (kind, object) = match self {
            Self::Damaged { object, why } if !why.contains("`snapshot ") => {
                (FindingKind::Damaged, object)
            }
            Self::Missing { object, why } if !why.contains("`snapshot ") => {
                (FindingKind::Missing, object)
            }
            Self::Sink(error) if error.kind == ErrorKind::Damaged => {
                (FindingKind::Damaged, &error.subject)
            }
            _ => return None,
        };
        Some(remedy(kind, object))
    }

    /// Whether something has to be warmed before it can be read.
    #[must_use]
    pub fn is_cold(&self) -> bool {
        matches!(self, Self::Sink(error) if error.kind == ErrorKind::Cold)
    }

    /// Whether the error says that stored data is damaged or missing.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::Missing { .. } => true,
            Self::Sink(error) => error.kind == ErrorKind::Damaged,
            _ => false,
        }
    }

    /// As what content is told that was not had: who may not read, or whose line is down, has lost nothing by that.
    pub(crate) fn kind_of_loss(&self) -> FindingKind {
        match self {
            Self::Missing { .. } => FindingKind::Missing,
            Self::Sink(error) => match error.kind {
                ErrorKind::NotFound => FindingKind::Missing,
                ErrorKind::Damaged => FindingKind::Damaged,
                _ => FindingKind::Unreadable,
            },
            _ => FindingKind::Damaged,
        }
    }

    /// What is said of content that was not had.
    pub(crate) fn words_of_loss(&self) -> String {
        match self.kind_of_loss() {
            FindingKind::Unreadable => format!("{self}; {NOT_KNOWN}"),
            _ => self.to_string(),
        }
    }
}

/// The result of an operation.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;
