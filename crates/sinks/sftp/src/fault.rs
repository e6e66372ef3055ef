//! What can go wrong below, before it is known which operation on which object it spoiled.

use std::path::PathBuf;
use std::time::Duration;

use backup_core::{ErrorKind, Retry, SinkError};

use crate::wire::{Code, Malformed};

/// What a server or a file cannot say for itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Wrong {
    #[error(
        "{host} port {port} cannot be reached: {why}; check name, port, network and that the SSH server runs"
    )]
    Unreachable {
        host: String,
        port: u16,
        why: String,
    },
    #[error(
        "{host} port {port} said nothing for {seconds} s ({step}); check that an SSH server answers there (`ssh -v -p {port} \
         {host}`), that it is not overloaded, and that no firewall swallows what is sent; `timeout=SECONDS` behind the \
         location gives it longer"
    )]
    Silent {
        host: String,
        port: u16,
        seconds: u64,
        step: &'static str,
    },
    #[error("the connection to {host} broke off: {why}")]
    Lost { host: String, why: String },
    #[error(
        "the connection to {host} was given up: no answer for {seconds} s; check the server (its load, its disks, whether it \
         hangs) and the network, then run the command again; `timeout=SECONDS` behind the location gives it longer"
    )]
    NoAnswer { host: String, seconds: u64 },
    #[error(
        "{host} and this program have no {kind} in common; the server's SSH is too old, or restricted to others"
    )]
    NoAlgorithm { host: String, kind: String },
    #[error(
        "the host key of {host} is not known: {fingerprint}. Compare it with the server's own \
         (`ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub` there). If they are the same, accept it: \
         `ssh-keyscan -t {file} -p {port} {host} >> {accept}`"
    )]
    UnknownHostKey {
        host: String,
        port: u16,
        fingerprint: String,
        file: String,
        accept: String,
    },
    #[error(
        "THE HOST KEY OF {host} HAS CHANGED: it is {fingerprint} now, and {place} has another one. Somebody may be \
         listening between this host and the server, or the server was installed anew: nothing was sent. Ask who runs \
         it. Only if they say so, remove the old key (`ssh-keygen -R '{pattern}' -f {file}`) and accept the new one"
    )]
    ChangedHostKey {
        host: String,
        fingerprint: String,
        place: String,
        pattern: String,
        file: String,
    },
    #[error(
        "THE HOST KEY OF {host} IS REVOKED: {place} says that {fingerprint} is not to be trusted any more; nothing was sent"
    )]
    RevokedHostKey {
        host: String,
        fingerprint: String,
        place: String,
    },
    #[error(
        "the configuration of the SSH client cannot be used: {0}; mend it, name another (`ssh_config=FILE` behind the \
         location), or leave it out (`ssh_config=none`)"
    )]
    ClientConfig(String),
    #[error("{0:?} cannot be read: {1}")]
    Unreadable(PathBuf, String),
    #[error("{user}@{host} is not let in; {tried}. {remedy}")]
    NotLetIn {
        user: String,
        host: String,
        tried: String,
        remedy: &'static str,
    },
    #[error(
        "the key {0:?} is encrypted; name a file with its passphrase (`passphrase_file=FILE` behind the location), a \
         variable that holds it (`passphrase_env=NAME`), or add the key to the SSH agent (`ssh-add`)"
    )]
    Encrypted(PathBuf),
    #[error("the key {0:?} does not open with the passphrase that was given")]
    BadPassphrase(PathBuf),
    #[error("the key file {0:?} cannot be used: {1}")]
    KeyFile(PathBuf, String),
    #[error("the variable {0}, which the location names for a secret, is not set")]
    NoVariable(String),
    #[error(
        "the server offers no SFTP ({0}); it needs a line like `Subsystem sftp internal-sftp` in its sshd_config, and the \
         account must be allowed to use it"
    )]
    NoSubsystem(String),
    #[error("the server speaks version {0} of SFTP, not 3")]
    Version(u32),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(
        "the folder {0} does not exist on the server; check that its disk is mounted, or make the folder (`mkdir`, or \
         `?create=yes` behind the location)"
    )]
    NoRoot(String),
    #[error(
        "the folder {0} was there a while ago and is gone: check that its disk is still mounted on the server and that \
         nobody moved it; what it holds is not lost by that"
    )]
    Gone(String),
    #[error("{0} is not a folder")]
    RootNotFolder(String),
    #[error("`{0}` is a symbolic link; links below the root are not followed")]
    Link(String),
    #[error("`{0}` is an object, so nothing can be stored below it")]
    BelowObject(String),
    #[error("`{0}` is a folder, so no object can have that name")]
    IsFolder(String),
    #[error("`{0}` is neither a file nor a folder")]
    Special(String),
    #[error("there is one of that name")]
    Taken,
    #[error("it has {size} bytes; {length} from {offset} on were asked for")]
    Short { size: u64, offset: u64, length: u64 },
    #[error("it has {0} bytes, more than any object of ours")]
    Huge(u64),
    #[error("it ended after {found} of {wanted} bytes while it was read")]
    Ended { found: u64, wanted: u64 },
    #[error("{found} bytes arrived on the server's disk instead of {wanted}")]
    Arrived { found: u64, wanted: u64 },
    #[error(
        "the server's file system is full: {free} bytes are free there, {wanted} were to be written; make room there \
         (`snapshot forget` and `snapshot prune`, or a larger disk), then run the command again"
    )]
    Full { free: u64, wanted: u64 },
    #[error(
        "the server's file system has no room for more files (no inodes are left, `df -i` there): remove some, or use a file \
         system with more of them"
    )]
    NoInodes,
    #[error(
        "the server's file system is mounted read-only; mount it for writing, and look first whether errors of its disk made \
         it so (`dmesg` there)"
    )]
    ReadOnly,
    #[error(
        "the server says only that it failed, though there is room on its file system; look at the quota of the account, \
         at limits on the size of files, and into the server's log"
    )]
    WriteFailed,
    #[error("the server has no versions, so no version can be replaced")]
    NoVersions,
    #[error("objects may have up to {limit} bytes, this one has {size}")]
    TooLarge { size: u64, limit: u64 },
    #[error("there are more folders than a repository can have; is this the right place?")]
    TooManyFolders,
    #[error("a prefix is empty, or whole parts of a key that end in `/`")]
    Prefix,
}

impl Wrong {
    /// Whether it is only known because somebody has waited for long.
    pub(crate) const fn took_long(&self) -> bool {
        matches!(self, Self::Silent { .. } | Self::NoAnswer { .. })
    }
}

/// A failure without its operation and its subject.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The server said so.
    Status(Code),
    /// The connection is gone, and with it the answer.
    Lost(Wrong),
    /// We say so.
    Ours(ErrorKind, Wrong),
}

/// What the functions below the sink answer.
pub(crate) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// There is no such object.
    pub(crate) const fn absent() -> Self {
        Self::Status(Code::NoSuchFile)
    }

    pub(crate) const fn is_absent(&self) -> bool {
        matches!(self, Self::Status(Code::NoSuchFile))
    }

    /// The same failure as the contract has it, with the tier: a command may work with several.
    pub(crate) fn at(self, op: &'static str, subject: &str, tier: &str) -> SinkError {
        let error = |kind| SinkError::new(kind, op, subject);
        let because = |kind, why: String| match subject == tier {
            true => error(kind).because(why),
            false => error(kind).because(format!("{tier}: {why}")),
        };
        let pause = Retry::After(Duration::from_secs(1));
        match self {
            Self::Ours(kind, wrong) => {
                let retry = match kind {
                    ErrorKind::Unavailable => pause,
                    _ => Retry::Never,
                };
                because(kind, wrong.to_string()).retry(retry)
            }
            Self::Lost(wrong) => because(ErrorKind::Unavailable, wrong.to_string()).retry(pause),
            // The temporary file was swept by somebody whose clock is far ahead, or its folder was taken away.
            Self::Status(Code::NoSuchFile) if op == "put" => because(
                ErrorKind::Unavailable,
                "the server says that a file or folder went away meanwhile".into(),
            )
            .retry(Retry::Now),
            Self::Status(Code::NoSuchFile) => error(ErrorKind::NotFound),
            Self::Status(Code::Denied) => because(
                ErrorKind::Denied,
                "the server does not allow it: check the owner and the modes of the folder there (`ls -ld`), and whether \
                 the account may write"
                    .into(),
            ),
            Self::Status(Code::BadMessage) => because(
                ErrorKind::Invalid,
                "the server takes no such name or no such range".into(),
            ),
            Self::Status(Code::Unsupported) => because(
                ErrorKind::Unsupported,
                "the server does not know the request".into(),
            ),
            Self::Status(code) => because(
                ErrorKind::Other,
                format!("the server says {code:?} and no more; look into its log"),
            ),
        }
    }
}

impl From<Malformed> for Fault {
    fn from(malformed: Malformed) -> Self {
        Self::Ours(ErrorKind::Other, malformed.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIER: &str = "sftp://me@nas/b";

    #[test]
    fn what_a_server_says_becomes_what_a_caller_can_act_on() {
        let cases = [
            (Code::NoSuchFile, ErrorKind::NotFound),
            (Code::Denied, ErrorKind::Denied),
            (Code::Unsupported, ErrorKind::Unsupported),
            (Code::BadMessage, ErrorKind::Invalid),
            (Code::Failure, ErrorKind::Other),
        ];
        for (code, kind) in cases {
            assert_eq!(
                Fault::Status(code).at("get", "a", TIER).kind,
                kind,
                "{code:?}"
            );
        }
        assert_eq!(Fault::absent().at("put", "a", TIER).retry, Retry::Now);
        let lost = Fault::Lost(Wrong::Lost {
            host: "h".into(),
            why: "w".into(),
        });
        let lost = lost.at("put", "a", TIER);
        assert!(lost.to_string().contains(TIER), "{lost}");
        assert_eq!(lost.kind, ErrorKind::Unavailable);
        assert!(matches!(lost.retry, Retry::After(_)));
    }
}
