//! Errors of the contracts: one struct each of the same shape, so that whoever consumes an error
//! can tell what to do (match on [`ErrorKind`]), whether to try again ([`Retry`]), and show what
//! failed, on what. Whoever consumes an error logs it, once.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

/// What went wrong, in the terms of whoever must act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing is not there.
    NotFound,
    /// It is there already (a create-only put), or changed since (a conditional one).
    Conflict,
    /// Not allowed: credentials, permissions.
    Denied,
    /// No space, or a quota is full.
    NoSpace,
    /// The other side did not answer, or broke off.
    Unavailable,
    /// What came back cannot be right: short, torn, malformed.
    Damaged,
    /// The request or configuration cannot be carried out as it stands.
    Invalid,
    /// The object lies where it cannot be read before it was warmed; see [`crate::Sink::warm`].
    Cold,
    /// This plug-in or server cannot do that.
    Unsupported,
    /// Cancelled on request.
    Cancelled,
    /// Anything else the operating system or a library said.
    Other,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same call will fail again.
    Never,
    /// It may succeed at once.
    Now,
    /// It may succeed after a pause.
    After(Duration),
}

type Cause = Box<dyn StdError + Send + Sync>;

macro_rules! contract_error {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name {
            /// What went wrong.
            pub kind: ErrorKind,
            /// The operation that failed, as a verb: `put`, `list`, `open`.
            pub op: &'static str,
            /// What it was done to: a key, a path, a database. Never a secret.
            pub subject: String,
            /// Whether trying again can help.
            pub retry: Retry,
            /// The cause below.
            pub source: Option<Cause>,
        }

        impl $name {
            /// An error that trying again does not mend.
            pub fn new(kind: ErrorKind, op: &'static str, subject: impl Into<String>) -> Self {
                Self { kind, op, subject: subject.into(), retry: Retry::Never, source: None }
            }

            /// The same error with its cause.
            #[must_use]
            pub fn because(mut self, cause: impl Into<Cause>) -> Self {
                self.source = Some(cause.into());
                self
            }

            /// The same error with a word on trying again.
            #[must_use]
            pub const fn retry(mut self, retry: Retry) -> Self {
                self.retry = retry;
                self
            }

            /// An error of the operating system, its kind read from `cause`.
            #[must_use]
            pub fn io(op: &'static str, subject: impl Into<String>, cause: std::io::Error) -> Self {
                Self::new(io_kind(&cause), op, subject).because(cause)
            }

            /// The operating system's number of the failure, if it came from there.
            #[must_use]
            pub fn os_error(&self) -> Option<i32> {
                let mut next = StdError::source(self);
                while let Some(cause) = next {
                    let io = cause.downcast_ref::<std::io::Error>();
                    if let Some(number) = io.and_then(std::io::Error::raw_os_error) {
                        return Some(number);
                    }
                    next = cause.source();
                }
                None
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{} {}", self.op, self.subject)?;
                match &self.source {
                    Some(cause) => write!(f, ": {cause}")?,
                    None => write!(f, ": {}", describe(self.kind))?,
                }
                match self.os_error().and_then(at_limit) {
                    Some(remedy) => write!(f, "; {remedy}"),
                    None => Ok(()),
                }
            }
        }

        impl StdError for $name {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                self.source.as_deref().map(|cause| cause as &(dyn StdError + 'static))
            }
        }
    };
}

contract_error!(
    /// A source could not do what it was asked.
    SourceError
);
contract_error!(
    /// A sink could not do what it was asked.
    SinkError
);
contract_error!(
    /// A restore target could not do what it was asked.
    TargetError
);
contract_error!(
    /// A verifier could not go on (what it found wrong with data is a finding, not an error).
    VerifyError
);

/// What to do where a process came to a limit, by the operating system's number of the failure: what
/// the system itself says of it leaves people puzzled.
#[must_use]
pub const fn at_limit(os_error: i32) -> Option<&'static str> {
    // ENFILE, EMFILE and EFBIG; every Unix has these numbers.
    match os_error {
        23 | 24 => Some("raise the limit of open files (ulimit -n)"),
        27 => Some(
            "raise the limit of the size of files (ulimit -f), or use a file system that takes them",
        ),
        _ => None,
    }
}

/// What to do about a place that takes no entry for a reason which the system's words do not tell, by
/// the operating system's number of the failure.
#[must_use]
pub const fn place_remedy(os_error: i32) -> Option<&'static str> {
    // EBUSY and EPERM; every Unix has these numbers.
    match os_error {
        16 => Some(
            "something is mounted there or holds it, so that it cannot be replaced: unmount it, or leave \
             it out of the restore; only a file of one name can be overwritten where it is (--in-place)",
        ),
        1 => Some(
            "it or its folder may be immutable: `lsattr -d` shows an i then, and `chattr -i` takes \
             it away",
        ),
        _ => None,
    }
}

fn io_kind(cause: &std::io::Error) -> ErrorKind {
    use std::io::ErrorKind as Io;
    match cause.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::AlreadyExists => ErrorKind::Conflict,
        Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
        Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
        Io::UnexpectedEof => ErrorKind::Damaged,
        Io::ConnectionRefused
        | Io::ConnectionReset
        | Io::ConnectionAborted
        | Io::NotConnected
        | Io::TimedOut
        | Io::BrokenPipe
        | Io::NetworkUnreachable
        | Io::HostUnreachable => ErrorKind::Unavailable,
        Io::InvalidInput => ErrorKind::Invalid,
        Io::Unsupported => ErrorKind::Unsupported,
        _ => ErrorKind::Other,
    }
}

const fn describe(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "not found",
        ErrorKind::Conflict => "already there or changed meanwhile",
        ErrorKind::Denied => "not allowed",
        ErrorKind::NoSpace => "no space left",
        ErrorKind::Unavailable => "no answer",
        ErrorKind::Damaged => "damaged",
        ErrorKind::Invalid => "cannot be carried out as it stands",
        ErrorKind::Cold => "archived, and has to be warmed before it can be read",
        ErrorKind::Unsupported => "not supported here",
        ErrorKind::Cancelled => "cancelled",
        ErrorKind::Other => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_a_limit_an_error_says_what_to_do() {
        let shown = |number| {
            let cause = std::io::Error::from_raw_os_error(number);
            TargetError::io("open", "a", cause).to_string()
        };
        assert!(shown(24).ends_with("; raise the limit of open files (ulimit -n)"));
        assert!(shown(27).contains("ulimit -f"));
        assert!(!shown(2).contains("ulimit"));
    }

    #[test]
    fn the_number_of_a_failure_is_found_below_other_errors() {
        let cause = std::io::Error::from_raw_os_error(16);
        let below = SinkError::io("put", "a", cause);
        let above = TargetError::new(ErrorKind::Other, "restore", "b").because(below);
        assert_eq!(above.os_error(), Some(16));
        let none = TargetError::new(ErrorKind::Other, "restore", "b").because("why");
        assert_eq!(none.os_error(), None);
    }
}
