//! Failures as people see them: one line says what failed on what, one what to do next.

use backstay::core::registry::RegistryError;
use backstay::core::{ErrorKind, SinkError, SourceError, TargetError, at_limit};
use backstay::engine::EngineError;
use backstay::engine::cold::ColdPlaceError;
use backstay::engine::ledger::GoneSnapshot;
use backstay::engine::select::LEAST_OF_ID;
use backstay::format::keys::KeyError;
use backstay::format::seal::SealError;

use crate::exit::Exit;

/// Why a program ends without having done what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What failed, on what.
    pub what: String,
    /// What to do next; empty where nothing can be said.
    pub hint: String,
    /// Whether whoever reads the output has gone away: then nothing is said at all.
    pub is_silent: bool,
    /// Whether somebody may have put another repository in the place of one: then no other place is taken instead without a word.
    pub is_of_stranger: bool,
}

/// The result of a command.
pub type Outcome<T = Exit> = Result<T, Failure>;

impl Failure {
    /// A failure with a word on what to do next.
    pub fn new(exit: Exit, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            hint: hint.into(),
            is_silent: false,
            is_of_stranger: false,
        }
    }

    /// A command line that cannot be carried out.
    pub fn usage(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Exit::Usage, what, hint)
    }

    /// Output that could not be written. That the reader went away is no failure.
    #[must_use]
    pub fn output(error: &std::io::Error) -> Self {
        let gone = error.kind() == std::io::ErrorKind::BrokenPipe;
        Self {
            exit: if gone { Exit::Ok } else { Exit::Failed },
            what: format!("write the output: {error}"),
            hint: "check where standard output leads to".into(),
            is_silent: gone,
            is_of_stranger: false,
        }
    }

    /// The same of a repository there, where nothing was wrong but that it could not be had.
    #[must_use]
    pub(crate) fn at(mut self, place: &str) -> Self {
        if self.exit == Exit::Failed && !self.what.contains(place) {
            self.what = format!("{place}: {}", self.what);
        }
        self
    }

    /// A local file that could not be used.
    #[must_use]
    pub fn file(op: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let exit = match error.kind() {
            std::io::ErrorKind::AlreadyExists => Exit::Conflict,
            _ => Exit::Failed,
        };
        let path = crate::text::path(path);
        let what = match exit {
            Exit::Conflict => format!("{op} {path}: it is there already, and is not overwritten"),
            _ => format!("{op} {path}: {error}"),
        };
        let limit = error.raw_os_error().and_then(at_limit);
        Self::new(exit, what, limit.unwrap_or_else(|| of_io(error.kind())))
    }
}

fn of_io(kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Io;
    match kind {
        Io::AlreadyExists => "choose another name",
        Io::NotFound => "check the path",
        Io::PermissionDenied => "check the permissions, or run as a user who may",
        Io::StorageFull | Io::QuotaExceeded => "make room, then run the command again",
        Io::ReadOnlyFilesystem => "choose another place: this file system is mounted read-only",
        _ => "see what the system says of it",
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::output(&error)
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::usage(error.to_string(), "see --help for how places are written")
    }
}

impl From<KeyError> for Failure {
    fn from(error: KeyError) -> Self {
        let what = error.to_string();
        match error {
            KeyError::File(_) => Self::new(
                Exit::NoSecrets,
                what,
                "give the right file with --key-file, or type the recovery code into one",
            ),
            KeyError::WrongKey => Self::new(
                Exit::WrongKey,
                what,
                "give the key file or passphrase that was made for this repository",
            ),
            KeyError::Missing { .. }
            | KeyError::MayNotForget { .. }
            | KeyError::MayNotReseal { .. }
            | KeyError::Outdated { .. }
            | KeyError::Unfinished
            | KeyError::OtherHost { .. }
            | KeyError::OtherKind { .. } => {
                Self::new(Exit::WrongKey, what, "use a key that may do this")
            }
            KeyError::Damaged { .. } => Self::new(
                Exit::Damage,
                what,
                "use another key of this repository; `snapshot key list` shows which there are",
            ),
            KeyError::Newer { .. } | KeyError::Needs { .. } => newer(what),
            KeyError::NoMemory { .. } => Self::new(
                Exit::Failed,
                what,
                "free memory, or open it with a key file",
            ),
            KeyError::BadHost => Self::usage(what, "name the host with --host"),
            KeyError::Crypto(_) => Self::new(Exit::Failed, what, "please report it"),
            _ => Self::usage(what, "see `snapshot key add --help`"),
        }
    }
}

fn of_sealing(error: &SealError, what: String) -> Failure {
    let hint = match error {
        SealError::SelfCheck => {
            "nothing wrong was stored; try again once the machine has passed a memory test"
        }
        SealError::Randomness => "look at what the kernel says of getrandom, or start it again",
        _ => "please report it",
    };
    Failure::new(Exit::Failed, what, hint)
}

fn several_hosts(spec: &str, hosts: &[String]) -> Failure {
    let spec = crate::text::escape(spec.as_bytes());
    let name = spec.strip_prefix("latest:").unwrap_or(&spec);
    let choice: Vec<String> = hosts
        .iter()
        .map(|host| format!("latest:{}:{name}", crate::text::escape(host.as_bytes())))
        .collect();
    let what = format!("`{spec}` may mean snapshots of {} hosts", hosts.len());
    Failure::new(Exit::Failed, what, format!("write {}", choice.join(" or ")))
}

fn no_snapshot(spec: &str) -> Failure {
    let what = format!(
        "no snapshot matches `{}`",
        crate::text::escape(spec.as_bytes())
    );
    let hint = if spec.contains(':') {
        "`snapshot list` shows what there is; a path in a snapshot begins with a slash, as in latest:/etc"
    } else if spec.len() < LEAST_OF_ID {
        "give at least four characters of an id; `snapshot list` shows what there is"
    } else {
        "`snapshot list` shows what there is"
    };
    Failure::new(Exit::Failed, what, hint)
}

fn newer(what: String) -> Failure {
    let hint = "install a newer release of Backstay; nothing was changed";
    Failure::new(Exit::Failed, what, hint)
}

fn no_thread(what: String) -> Failure {
    let hint = "raise the limit on processes (`ulimit -u`, TasksMax= of a systemd unit, pids of a container), or wait until less is running";
    Failure::new(Exit::Failed, what, hint)
}

/// What the error itself says to raise is not always a shell's.
const HIGHER: &str =
    "run the command again with a higher limit (LimitNOFILE= or LimitFSIZE= of a systemd unit)";

macro_rules! from_contract {
    ($error:ty, $denied:expr, $missing:expr, $other:expr) => {
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                let mut what = error.to_string();
                if error.kind == ErrorKind::Cancelled {
                    what = format!("interrupted: {what}");
                }
                if error.os_error().and_then(at_limit).is_some() {
                    return Self::new(Exit::Failed, what, HIGHER);
                }
                let (exit, hint) = match error.kind {
                    ErrorKind::NotFound => (Exit::Failed, $missing),
                    ErrorKind::Conflict => (
                        Exit::Conflict,
                        "look what is there, then run the command again",
                    ),
                    ErrorKind::Denied => (Exit::Failed, $denied),
                    ErrorKind::NoSpace => (
                        Exit::Failed,
                        "make room, then run the command again: what was stored is reused",
                    ),
                    ErrorKind::Unavailable => (
                        Exit::Failed,
                        "check the connection, then run the command again",
                    ),
                    ErrorKind::Damaged => (
                        Exit::Damage,
                        "`snapshot verify` tells what it hurts, `snapshot repair` what mends it",
                    ),
                    ErrorKind::Cold => (
                        Exit::Failed,
                        "ask for what is needed with `restore warm SNAPSHOT`, and run this again when it can be read; docs/tiers-cold.md says how long that takes",
                    ),
                    ErrorKind::Invalid | ErrorKind::Unsupported => {
                        (Exit::Usage, "see --help for what can be asked for")
                    }
                    ErrorKind::Cancelled => (Exit::Interrupted, "run the command again to go on"),
                    _ => (Exit::Failed, $other),
                };
                Self::new(exit, what, hint)
            }
        }
    };
}

from_contract!(
    SinkError,
    "check the permissions of the repository, or run as a user who may read it, and to change it write to it",
    "`snapshot verify` tells what is missing",
    "check the disk or the server that the repository is on"
);
from_contract!(
    SourceError,
    "run as a user who may read it",
    "check what is to be saved: the path, the command, the name",
    "there is no snapshot; mend what failed, then run the command again"
);
from_contract!(
    TargetError,
    "choose a place that this user may write to, or run as one who may",
    "check the path of --to",
    "run the command again: what was restored stays"
);

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let what = error.to_string();
        match error {
            EngineError::Sink(error) => error.into(),
            EngineError::Source(error) => error.into(),
            EngineError::Target(error) => error.into(),
            EngineError::TargetFull(_) => Self::new(
                Exit::Failed,
                what,
                "make room, choose another place with --to, or overwrite files without room for both with --in-place; then restore again",
            ),
            EngineError::Key(error) => error.into(),
            EngineError::NoRepository(place) => no_repository(&place),
            EngineError::TooLate { .. } => {
                Self::new(Exit::Conflict, what, "`snapshot list` shows what there is")
            }
            EngineError::RepositoryExists(place) => Self::new(
                Exit::Conflict,
                format!("there is a repository at {place} already; nothing was changed"),
                "use it with its key, or choose another place",
            ),
            EngineError::OtherFamily { .. } => Self::new(
                Exit::Conflict,
                format!("{what}; nothing was changed"),
                "copy to an empty place, or to one that a copy of this repository was made at",
            ),
            EngineError::WrongKey {
                credential,
                repository,
            } => Self::new(
                Exit::WrongKey,
                format!("this {credential} opens no key slot of the repository at {repository}"),
                "give the key file or passphrase that was made for it, or the recovery code in a file as --key-file",
            ),
            EngineError::Damaged { .. } | EngineError::Missing { .. } => {
                // Where the error itself says what mends it.
                let hurts = "`snapshot verify --level full` tells what it hurts";
                Self::new(Exit::Damage, what, error.remedy().unwrap_or(hurts))
            }
            EngineError::Newer(_) => newer(what),
            EngineError::Swapped { .. } => Self {
                is_of_stranger: true,
                ..Self::new(Exit::Damage, what, "ask who looks after the repository")
            },
            EngineError::NoSnapshot(spec) => no_snapshot(&spec),
            EngineError::Ambiguous { spec, count } => Self::new(
                Exit::Failed,
                format!("`{spec}` matches {count} snapshots"),
                "give more characters of the id; `snapshot list` shows them",
            ),
            EngineError::SeveralHosts { spec, hosts } => several_hosts(&spec, &hosts),
            EngineError::Unsure { spec, id, why } => {
                let spec = crate::text::escape(spec.as_bytes());
                let what = format!("`{spec}` may mean snapshot {id}, which cannot be read: {why}");
                let hint = "name another by its id (`snapshot list` shows them), or let `snapshot repair --from` fetch its object from another copy; if it is lost for good, `snapshot forget` it by its whole id";
                Self::new(Exit::Damage, what, hint)
            }
            EngineError::Gone { spec, gone } => of_gone(&spec, &gone),
            EngineError::NoPath { path, snapshot } => Self::new(
                Exit::Failed,
                format!("/{path} is not in snapshot {snapshot}"),
                format!("`restore ls {snapshot} -R` and `restore find` show what is"),
            ),
            EngineError::Local { path, source } => Self::file("use", &path, &source),
            EngineError::ColdPlace(error) => of_cold_place(&error, what),
            EngineError::Invalid(_) => Self::usage(what, "see --help for what can be asked for"),
            EngineError::Repairable(_) => {
                Self::new(Exit::Damage, what, "run `snapshot repair`, then look again")
            }
            EngineError::TakenForDead(_) | EngineError::Undecided(_) => of_judged(&error, what),
            EngineError::Unprunable(_)
            | EngineError::PrunedInPart { .. }
            | EngineError::OtherPrune(_)
            | EngineError::DropsTooMuch { .. } => of_pruning(&error, what),
            EngineError::Cancelled => Self::new(
                Exit::Interrupted,
                "interrupted",
                "run the command again: what was stored so far is reused",
            ),
            EngineError::IndexCache(_) => Self::new(
                Exit::Failed,
                what,
                "run it again: what was in the file is read from the repository",
            ),
            EngineError::NoThread(_) => no_thread(what),
            EngineError::Seal(error) => of_sealing(&error, what),
            EngineError::Panicked(_) => Self::new(Exit::Failed, what, "please report it"),
            _ => Self::new(Exit::Failed, what, "run `snapshot verify`, then try again"),
        }
    }
}

/// A snapshot that was asked for is gone from the tier.
fn of_gone(spec: &str, gone: &GoneSnapshot) -> Failure {
    let what = format!(
        "`{}` may mean snapshot {} of {}, recorded {}: the ledger knows it, nobody forgot it, and it is gone from the tier",
        crate::text::escape(spec.as_bytes()),
        gone.id,
        crate::text::escape(gone.host.0.as_bytes()),
        crate::text::time(gone.recorded),
    );
    let hint = format!(
        "let `snapshot repair` put its object back from its sidecar, or fetch it from another copy (--from), or name an older one by its id or by a time before that (`snapshot list` shows them); if it is lost for good, `snapshot forget {} --force` gives it up; `snapshot verify` and `snapshot ledger verify` tell what else is missing",
        gone.id
    );
    Failure::new(Exit::Damage, what, hint)
}

/// Packs of content are not where they are looked for.
fn of_cold_place(error: &ColdPlaceError, what: String) -> Failure {
    match error {
        ColdPlaceError::NotNamed(_) => Failure::usage(
            what,
            "name it: write ?cold=URL behind the place (&cold=URL where a ? stands there already); the recovery sheet has both places",
        ),
        ColdPlaceError::NotApart(_) => Failure::usage(what, "leave `cold=` out"),
        ColdPlaceError::Other { .. } => Failure::new(
            Exit::NoRepository,
            what,
            "check what stands behind `cold=`, and that its disk is mounted; the recovery sheet has both places",
        ),
        _ => Failure::new(
            Exit::Conflict,
            what,
            "to open that repository, name its first place, and this one behind `cold=` (the recovery sheet has both); for a new one choose another place. Only where nothing else lies here has a run that was killed left that object, and it may be deleted",
        ),
    }
}

/// A save that was taken for dead while it was under way.
fn of_judged(error: &EngineError, what: String) -> Failure {
    let hint = if matches!(error, EngineError::Undecided(_)) {
        "let `snapshot prune` come to its end, which decides it, and look with `snapshot list`; or save again: what was stored is found"
    } else {
        "there is no snapshot of this run: save again, and let `snapshot prune --revoke-after` wait longer than a save takes"
    };
    Failure::new(Exit::Failed, what, hint)
}

/// Nothing was pruned, or not all.
fn of_pruning(error: &EngineError, what: String) -> Failure {
    if matches!(error, EngineError::DropsTooMuch { .. }) {
        let hint = "look with --dry-run and `snapshot list` whether that is meant; then `snapshot prune --force` (the same as --max-drop 100%)";
        return Failure::new(Exit::Failed, what, hint);
    }
    if matches!(error, EngineError::OtherPrune(_)) {
        return Failure::new(Exit::Conflict, what, "run it again when that has ended");
    }
    let hint = "see what `snapshot verify` says; nothing is lost by not pruning";
    Failure::new(Exit::Damage, what, hint)
}

/// There is no repository at a place.
#[must_use]
pub fn no_repository(place: &str) -> Failure {
    Failure::new(
        Exit::NoRepository,
        format!("there is no repository at {place}"),
        format!(
            "make one with `snapshot init --repo {place}`, or check the path and that its disk is mounted"
        ),
    )
}
