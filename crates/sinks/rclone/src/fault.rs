//! What can go wrong below, before it is known which operation on which object it spoiled.

use std::time::Duration;

use backup_core::{ErrorKind, Retry, SinkError};

use crate::verdict::verdict;

/// What is said where rclone cannot say it for itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error(
        "the program rclone is not there; install it (Debian: `apt-get install rclone`), or put it where PATH finds it"
    )]
    NoProgram,
    #[error("rclone cannot be started: {0}")]
    NotStarted(String),
    #[error(
        "rclone said nothing for {0} s when it was started; does its configuration ask for something?"
    )]
    Silent(u64),
    #[error("rclone listens at `{0}`, which is no address of this host's loopback interface")]
    Address(String),
    #[error("rclone ended: {0}")]
    Ended(String),
    #[error("the connection to rclone broke off: {0}")]
    Broken(String),
    #[error("rclone did not answer within {0} s; the remote may be down, or hold requests back")]
    Late(u64),
    #[error("rclone's configuration {0} is not there; `rclone config` makes one")]
    NoConfig(String),
    #[error(
        "rclone's configuration has no remote `{0}`; `rclone listremotes` shows those it has, and `config=FILE` behind the \
         location names another configuration"
    )]
    NoRemote(String),
    #[error(
        "{0} is not there: check the path and that the remote's disk is mounted, or have the folder made (`?create=yes` \
         behind the location, or `rclone mkdir`)"
    )]
    NoRoot(String),
    #[error(
        "the remote is full, or a quota of it is ({0}); make room: `snapshot forget` and `prune`, empty the provider's bin"
    )]
    Full(String),
    #[error(
        "the remote does not let rclone in, or not do that ({0}); `rclone lsd {1}:` should work on this host as this user. If \
         a login has run out: `rclone config reconnect {1}:`"
    )]
    Denied(String, String),
    #[error(
        "rclone's configuration is encrypted and does not open ({0}); put its password into RCLONE_CONFIG_PASS or name a \
         program in RCLONE_PASSWORD_COMMAND"
    )]
    Encrypted(String),
    #[error("the remote holds requests back ({0}); `tpslimit=N` behind the location sends fewer")]
    Busy(String),
    #[error("the remote cannot be reached or broke off ({0})")]
    Unreachable(String),
    #[error("rclone says: {0}")]
    Said(String),
    #[error("rclone answered what cannot be understood: {0}")]
    Strange(String),
    #[error("there is one of that name")]
    Taken,
    #[error("it has {size} bytes; {length} from {offset} on were asked for")]
    Short { size: u64, offset: u64, length: u64 },
    #[error("it has {0} bytes, more than any object of ours")]
    Huge(u64),
    #[error("it ended after {found} of {wanted} bytes while it was read{why}")]
    EndedEarly {
        found: u64,
        wanted: u64,
        why: String,
    },
    #[error("{found} bytes arrived on the remote instead of {wanted}")]
    Arrived { found: u64, wanted: u64 },
    #[error("the remote says that it is not there just after it was sent")]
    Vanished,
    #[error("the {0} that the remote has of it is not that of what was sent")]
    OtherHash(&'static str),
    #[error("what comes back is not what was sent")]
    OtherBytes,
    #[error(
        "this remote neither moves nor copies files by itself (`rclone backend features {0}`), so that an upload that \
         breaks off would leave a torn object: repositories on it can be read, and not written; choose another remote"
    )]
    NoRename(String),
    #[error("rclone's remotes have no versions, so no version can be replaced")]
    NoVersions,
    #[error("objects may have up to {limit} bytes, this one has {size}")]
    TooLarge { size: u64, limit: u64 },
    #[error("a prefix is empty, or whole parts of a key that end in `/`")]
    Prefix,
    #[error("no random bytes are to be had from the system")]
    Random,
}

/// A failure without its operation and its subject.
#[derive(Debug)]
pub(crate) enum Fault {
    /// There is no such object.
    Absent,
    /// rclone said why it did not do it.
    Said(String),
    /// The child or the connection is gone, and with it the answer.
    Lost(Wrong),
    /// We say so.
    Ours(ErrorKind, Wrong),
}

/// What the functions below the sink answer.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// The same failure as the contract has it.
    pub(crate) fn at(self, op: &'static str, subject: &str, remote: &str) -> SinkError {
        let error = |kind| SinkError::new(kind, op, subject);
        let pause = |seconds| Retry::After(Duration::from_secs(seconds));
        match self {
            // The temporary file was swept by somebody whose clock is far ahead.
            Self::Absent if op == "put" => error(ErrorKind::Unavailable)
                .because("the remote says that a file or folder went away meanwhile")
                .retry(Retry::Now),
            Self::Absent => error(ErrorKind::NotFound),
            Self::Lost(wrong) => error(ErrorKind::Unavailable).because(wrong).retry(pause(1)),
            Self::Said(text) => {
                let (kind, wrong) = verdict(&text, remote);
                let retry = match &wrong {
                    Wrong::Busy(_) => pause(30),
                    _ if kind == ErrorKind::Unavailable => pause(2),
                    _ => Retry::Never,
                };
                error(kind).because(wrong).retry(retry)
            }
            Self::Ours(kind, wrong) => {
                let retry = match kind {
                    ErrorKind::Unavailable => pause(1),
                    // What arrived torn was not given its name; sending it again may help.
                    ErrorKind::Damaged if op == "put" => pause(1),
                    _ => Retry::Never,
                };
                error(kind).because(wrong).retry(retry)
            }
        }
    }
}

/// A failure that we say.
pub(crate) fn ours<T>(kind: ErrorKind, wrong: Wrong) -> Outcome<T> {
    Err(Fault::Ours(kind, wrong))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rclone_says_becomes_what_a_caller_can_act_on() {
        let at = |fault: Fault, op| fault.at(op, "a", "cloud");
        assert_eq!(at(Fault::Absent, "get").kind, ErrorKind::NotFound);
        assert_eq!(at(Fault::Absent, "put").retry, Retry::Now);
        let busy = at(Fault::Said("429 Too Many Requests".into()), "put");
        assert_eq!(busy.retry, Retry::After(Duration::from_secs(30)));
        let lost = at(Fault::Lost(Wrong::Ended("x".into())), "put");
        assert_eq!(lost.kind, ErrorKind::Unavailable);
        let denied = at(Fault::Said("401 Unauthorized".into()), "list");
        assert_eq!(
            (denied.kind, denied.retry),
            (ErrorKind::Denied, Retry::Never)
        );
        assert!(
            denied
                .to_string()
                .contains("rclone config reconnect cloud:")
        );
    }
}
