//! What can go wrong below, before it is known which operation on which object it spoiled.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use backup_core::{ErrorKind, Retry, SinkError};
use rustix::io::Errno;

/// What the file system cannot say for itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error(
        "the folder {0:?} does not exist; check that its disk is mounted, or make the folder (`mkdir`, \
         or `?create=yes` behind the location)"
    )]
    NoRoot(PathBuf),
    #[error(
        "the file {1:?} is not in {0:?}: this is not the disk that is meant; mount it, or, if it is the right one, make the \
         file there (`touch`)"
    )]
    NoMarker(PathBuf, String),
    #[error(
        "the folder {0:?} is another one than a moment ago: its disk was unmounted, or another was mounted there; mount it \
         again and run the command again"
    )]
    OtherRoot(PathBuf),
    #[error(
        "the folder {0:?} was there a while ago and is gone: check that its disk is still mounted and that \
         nobody moved it; what it holds is not lost by that"
    )]
    Gone(PathBuf),
    #[error("the folder {0:?} cannot be made: the file system has no room for folders there")]
    NoPlace(PathBuf),
    #[error("{0:?} is not a folder")]
    RootNotFolder(PathBuf),
    #[error("`{0}` is a symbolic link; links below the root are not followed")]
    Link(String),
    #[error("`{0}` is an object, so nothing can be stored below it")]
    BelowObject(String),
    #[error("`{0}` is a folder, so no object can have that name")]
    IsFolder(String),
    #[error("`{0}` is neither a file nor a folder")]
    Special(String),
    #[error("it has {size} bytes; {length} from {offset} on were asked for")]
    Short { size: u64, offset: u64, length: u64 },
    #[error("it has {0} bytes, more than any object of ours")]
    Huge(u64),
    #[error("it ended after {found} of {wanted} bytes while it was read")]
    Ended { found: u64, wanted: u64 },
    #[error("{found} bytes arrived on the disk instead of {wanted}")]
    Arrived { found: u64, wanted: u64 },
    #[error(
        "this file system has neither hard links nor a rename that does not replace, and refuses \
         locks; two writers could not be kept apart"
    )]
    NoExclusion,
    #[error("a file system has no versions, so no version can be replaced")]
    NoVersions,
    #[error("objects may have up to {limit} bytes, this one has {size}")]
    TooLarge { size: u64, limit: u64 },
    #[error("a prefix is empty, or whole parts of a key that end in `/`")]
    Prefix,
}

/// A failure without its operation and its subject.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The file system said so.
    System(io::Error),
    /// We say so.
    Ours(ErrorKind, Wrong),
}

/// What the functions below the sink answer.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// There is no such object.
    pub(crate) fn absent() -> Self {
        Errno::NOENT.into()
    }

    /// The same failure as the contract has it.
    pub(crate) fn at(self, op: &'static str, subject: &str) -> SinkError {
        let cause = match self {
            Self::Ours(kind, wrong) => return SinkError::new(kind, op, subject).because(wrong),
            Self::System(cause) => cause,
        };
        let pause = Retry::After(Duration::from_secs(1));
        let (kind, retry) = match cause.raw_os_error().map(Errno::from_raw_os_error) {
            // A mount that went away or a server that was restarted: it may come back.
            Some(Errno::STALE | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::NOTCONN) => {
                (Some(ErrorKind::Unavailable), pause)
            }
            // Its temporary file was swept by somebody whose clock is far ahead, or its folder was taken away.
            Some(Errno::NOENT) if op == "put" => (Some(ErrorKind::Unavailable), Retry::Now),
            // Too many open files or processes, memory: less may be going on later.
            Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN) => (None, pause),
            // A place of the disk that gives nothing back, or metadata that the file system finds wrong.
            Some(Errno::IO | Errno::UCLEAN | Errno::BADMSG) if op == "get" => {
                (Some(ErrorKind::Damaged), Retry::Never)
            }
            Some(Errno::DQUOT) => (Some(ErrorKind::NoSpace), Retry::Never),
            Some(Errno::PERM | Errno::ROFS) => (Some(ErrorKind::Denied), Retry::Never),
            Some(Errno::FBIG | Errno::NAMETOOLONG) => (Some(ErrorKind::Invalid), Retry::Never),
            _ => (None, Retry::Never),
        };
        let mut error = SinkError::io(op, subject, cause).retry(retry);
        error.kind = kind.unwrap_or(error.kind);
        error
    }
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::System(errno.into())
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_becomes_what_a_caller_can_act_on() {
        let cases = [
            (Errno::NOENT, ErrorKind::Unavailable),
            (Errno::EXIST, ErrorKind::Conflict),
            (Errno::NOSPC, ErrorKind::NoSpace),
            (Errno::DQUOT, ErrorKind::NoSpace),
            (Errno::ACCESS, ErrorKind::Denied),
            (Errno::PERM, ErrorKind::Denied),
            (Errno::ROFS, ErrorKind::Denied),
            (Errno::FBIG, ErrorKind::Invalid),
            (Errno::STALE, ErrorKind::Unavailable),
            (Errno::IO, ErrorKind::Other),
        ];
        for (errno, kind) in cases {
            assert_eq!(Fault::from(errno).at("put", "a").kind, kind, "{errno}");
        }
        let unread = Fault::from(Errno::IO).at("get", "a");
        assert_eq!(unread.kind, ErrorKind::Damaged);
        let stale = Fault::from(Errno::STALE).at("put", "a");
        assert_eq!(stale.retry, Retry::After(Duration::from_secs(1)));
    }
}
