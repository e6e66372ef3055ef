//! Where a server is and how to get in: what a location says, completed from the surroundings.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use backup_core::{ErrorKind, Location};
use zeroize::Zeroizing;

use crate::client::ClientFile;
use crate::fault::{Fault, Outcome, Wrong};
use crate::jump::Jump;
use crate::surroundings::Surroundings;

/// The names of key files that are tried where a location names none, in this order.
pub(crate) const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];

/// The port of SSH.
const USUAL_PORT: u16 = 22;

/// Nobody has more connections to one server: sshd begins to refuse them at ten.
const MAX_CONNECTIONS: usize = 8;

/// Why a location is not one of an SSH server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FromLocationError {
    /// Its host begins with a dash: programs would take it for a switch.
    #[error("`{0}` is no host")]
    Host(String),
    /// It names no host.
    #[error("it names no host; write sftp://[user@]host[:port]/path")]
    NoHost,
    /// It has a password in it.
    #[error(
        "a password does not belong into a location, where everybody can read it; better than one is a key \
         (`ssh-keygen`, `ssh-copy-id`), else write `password_file=FILE` or `password_env=NAME` behind the location"
    )]
    Password,
    /// Its port is none.
    #[error("`{0}` is no port; a port is a number from 1 to 65535")]
    Port(String),
    /// It names no folder.
    #[error(
        "it names no folder; write sftp://host/path, or sftp://host/~/path for one in the home of the account"
    )]
    NoPath,
    /// Nobody says who is to log in.
    #[error(
        "it names no user, and who runs this program is not known; write sftp://user@host/path"
    )]
    NoUser,
    /// An option that there is not.
    #[error(
        "there is no option `{0}`; there are `connections`, `create`, `identity`, `known_hosts`, `passphrase_env`, \
         `passphrase_file`, `password_env`, `password_file`, `ssh_config` and `timeout`"
    )]
    Option(String),
    /// An option has a value that it cannot have.
    #[error("`{value}` is no value of the option `{option}`: {wanted}")]
    Value {
        /// The option.
        option: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
}

/// Where a secret is, which is read when it is needed and not before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SecretPlace {
    File(PathBuf),
    Variable(String),
}

impl SecretPlace {
    /// Reads it, without the end of its line.
    pub(crate) fn read(&self, around: &Surroundings) -> Outcome<Zeroizing<String>> {
        let mut text = match self {
            Self::File(path) => Zeroizing::new(std::fs::read_to_string(path).map_err(|error| {
                let wrong = Wrong::Unreadable(path.clone(), error.to_string());
                Fault::Ours(ErrorKind::Invalid, wrong)
            })?),
            Self::Variable(name) => {
                Zeroizing::new(around.variable(name).ok_or_else(|| {
                    Fault::Ours(ErrorKind::Invalid, Wrong::NoVariable(name.clone()))
                })?)
            }
        };
        while text.ends_with(['\n', '\r']) {
            text.pop();
        }
        Ok(text)
    }
}

/// What a location says itself, and no configuration changes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Named {
    pub(crate) user: bool,
    pub(crate) port: bool,
}

/// Where a server is and how to get in.
#[derive(Clone)]
pub(crate) struct Config {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    /// The root, as the server takes it: from its root, or from the home of the account.
    pub(crate) root: String,
    pub(crate) makes_root: bool,
    /// The key file that is named.
    pub(crate) identity: Option<PathBuf>,
    pub(crate) passphrase: Option<SecretPlace>,
    pub(crate) password: Option<SecretPlace>,
    /// The file of known hosts that is named.
    pub(crate) known_hosts: Option<PathBuf>,
    pub(crate) is_named: Named,
    pub(crate) client_file: ClientFile,
    /// The key files that the client's configuration names.
    pub(crate) keys: Vec<PathBuf>,
    /// Whether no other key of the agent is tried.
    pub(crate) only_these: bool,
    /// The files of known hosts that the client's configuration names.
    pub(crate) more_known_hosts: Vec<PathBuf>,
    /// The name under which the host is known.
    pub(crate) alias: Option<String>,
    /// What makes the connection.
    pub(crate) jump: Option<Jump>,
    pub(crate) connections: usize,
    pub(crate) timeout: Duration,
    pub(crate) around: Surroundings,
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("location", &self.location())
            .finish_non_exhaustive()
    }
}

impl Config {
    /// What a location says.
    pub(crate) fn new(
        location: &Location,
        around: Surroundings,
    ) -> Result<Self, FromLocationError> {
        let (user, host, port) = authority(location.authority())?;
        let is_named = Named {
            user: user.is_some(),
            port: port.is_some(),
        };
        let user = user.or_else(|| around.user().map(str::to_owned));
        let root = root(location.path()).ok_or(FromLocationError::NoPath)?;
        let mut config = Self {
            host,
            port: port.unwrap_or(USUAL_PORT),
            user: user.ok_or(FromLocationError::NoUser)?,
            root,
            makes_root: false,
            identity: None,
            passphrase: None,
            password: None,
            known_hosts: None,
            is_named,
            client_file: ClientFile::Usual,
            keys: Vec::new(),
            only_these: false,
            more_known_hosts: Vec::new(),
            alias: None,
            jump: None,
            connections: 3,
            timeout: Duration::from_secs(60),
            around,
        };
        for (option, value) in location.options() {
            config.take(option, value)?;
        }
        Ok(config)
    }

    fn take(&mut self, option: &str, value: &str) -> Result<(), FromLocationError> {
        let wrong = |option, wanted| FromLocationError::Value {
            option,
            value: value.to_owned(),
            wanted,
        };
        match option {
            "create" => {
                self.makes_root = match value {
                    "yes" => true,
                    "no" => false,
                    _ => return Err(wrong("create", "`yes` or `no`")),
                }
            }
            "connections" => match value.parse() {
                Ok(number @ 1..=MAX_CONNECTIONS) => self.connections = number,
                _ => return Err(wrong("connections", "a number from 1 to 8")),
            },
            "timeout" => match value.parse() {
                Ok(seconds @ 1..=3600) => self.timeout = Duration::from_secs(seconds),
                _ => return Err(wrong("timeout", "a number of seconds, at most 3600")),
            },
            "identity" => self.identity = Some(self.file(value)),
            "known_hosts" => self.known_hosts = Some(self.file(value)),
            "ssh_config" => {
                self.client_file = match value {
                    "none" => ClientFile::Nothing,
                    "" => return Err(wrong("ssh_config", "a file, or `none`")),
                    file => ClientFile::Named(self.file(file)),
                }
            }
            "passphrase_file" => self.passphrase = Some(SecretPlace::File(self.file(value))),
            "passphrase_env" => self.passphrase = Some(SecretPlace::Variable(value.to_owned())),
            "password_file" => self.password = Some(SecretPlace::File(self.file(value))),
            "password_env" => self.password = Some(SecretPlace::Variable(value.to_owned())),
            // Its value is shown nowhere.
            "password" | "passphrase" => return Err(FromLocationError::Password),
            other => return Err(FromLocationError::Option(other.to_owned())),
        }
        Ok(())
    }

    pub(crate) fn file(&self, value: &str) -> PathBuf {
        match (value.strip_prefix("~/"), self.around.home()) {
            (Some(below), Some(home)) => home.join(below),
            _ => PathBuf::from(value),
        }
    }

    /// The place, without secrets.
    pub(crate) fn location(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        let port = match self.port {
            USUAL_PORT => String::new(),
            port => format!(":{port}"),
        };
        let root = match self.root.as_str() {
            "." => "/~",
            root if root.starts_with('/') => root,
            below => &format!("/~/{below}"),
        };
        format!("sftp://{}@{host}{port}{root}", self.user)
    }

    fn ssh_folder(&self) -> Option<PathBuf> {
        self.around.home().map(|home| home.join(".ssh"))
    }

    /// The files of known hosts, and whether they have to be there.
    pub(crate) fn known_host_files(&self) -> (Vec<PathBuf>, bool) {
        if let Some(named) = &self.known_hosts {
            return (vec![named.clone()], true);
        }
        let mut files = self.more_known_hosts.clone();
        if let (true, Some(folder)) = (files.is_empty(), self.ssh_folder()) {
            files.extend(["known_hosts", "known_hosts2"].map(|name| folder.join(name)));
        }
        files.push(PathBuf::from("/etc/ssh/ssh_known_hosts"));
        (files, false)
    }

    /// The name and port under which the host is known.
    pub(crate) fn known_as(&self) -> (&str, u16) {
        match &self.alias {
            Some(alias) => (alias, USUAL_PORT),
            None => (&self.host, self.port),
        }
    }

    /// The key files that are tried where the location names none, as far as they are there.
    pub(crate) fn usual_keys(&self) -> Vec<PathBuf> {
        if !self.keys.is_empty() {
            let there = self.keys.iter().filter(|path| path.is_file());
            return there.cloned().collect();
        }
        let folder = self.ssh_folder();
        let usual = folder
            .iter()
            .flat_map(|folder| USUAL_KEYS.map(|name| folder.join(name)));
        usual.filter(|path| path.is_file()).collect()
    }

    /// The socket of the SSH agent.
    pub(crate) fn agent(&self) -> Option<PathBuf> {
        self.around.variable("SSH_AUTH_SOCK").map(PathBuf::from)
    }
}

/// User, host and port.
type Parts = (Option<String>, String, Option<u16>);

fn authority(text: &str) -> Result<Parts, FromLocationError> {
    let (user, rest) = match text.rsplit_once('@') {
        Some((user, rest)) => (Some(user), rest),
        None => (None, text),
    };
    if user.is_some_and(|user| user.contains(':')) {
        return Err(FromLocationError::Password);
    }
    let (host, port) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, port)) => (host, Some(port.strip_prefix(':').unwrap_or(port))),
        None => match rest.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    let port = match port {
        None => None,
        Some(port) => match port.parse() {
            Ok(port @ 1..) => Some(port),
            _ => return Err(FromLocationError::Port(port.to_owned())),
        },
    };
    if host.is_empty() {
        return Err(FromLocationError::NoHost);
    }
    if host.starts_with('-') {
        return Err(FromLocationError::Host(host.to_owned()));
    }
    let user = user.filter(|user| !user.is_empty()).map(str::to_owned);
    Ok((user, host.to_owned(), port))
}

/// The root as the server takes it: without `~/`, a path counts from where a session begins.
fn root(path: &str) -> Option<String> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.strip_prefix("/~") {
        Some("") => Some(".".to_owned()),
        Some(below) if below.starts_with('/') => Some(below.trim_start_matches('/').to_owned()),
        _ if path.is_empty() => None,
        _ if trimmed.is_empty() => Some("/".to_owned()),
        _ => Some(trimmed.to_owned()),
    }
}

/// A path below a folder of the server.
pub(crate) fn below(root: &str, path: &str) -> String {
    match root.ends_with('/') {
        true => format!("{root}{path}"),
        false => format!("{root}/{path}"),
    }
}

/// The folder above.
pub(crate) fn above(path: &str) -> Option<&str> {
    let path = Path::new(path).parent()?.to_str()?;
    (!path.is_empty()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, FromLocationError> {
        let around = Surroundings::none()
            .at_home(Some("/home/me".into()))
            .as_user(Some("me".into()));
        Config::new(&text.parse().unwrap(), around)
    }

    #[test]
    fn a_location_says_who_where_and_what() {
        let full = config("sftp://backup@nas.local:2222/srv/b%20k/").unwrap();
        assert_eq!(
            (full.user.as_str(), full.host.as_str()),
            ("backup", "nas.local")
        );
        assert_eq!((full.port, full.root.as_str()), (2222, "/srv/b k"));
        assert_eq!(full.location(), "sftp://backup@nas.local:2222/srv/b k");
        for (text, root) in [
            ("sftp://nas/~/backups", "backups"),
            ("sftp://nas/~", "."),
            ("sftp://nas/", "/"),
            ("sftp://nas/~nobody", "/~nobody"),
        ] {
            let short = config(text).unwrap();
            assert_eq!(
                (short.root.as_str(), short.user.as_str()),
                (root, "me"),
                "{text}"
            );
            assert_eq!(short.port, 22);
        }
        let six = config("sftp://[::1]:2200/srv").unwrap();
        assert_eq!((six.host.as_str(), six.port), ("::1", 2200));
        assert_eq!(six.location(), "sftp://me@[::1]:2200/srv");
    }

    #[test]
    fn files_of_the_home_are_found() {
        let config = config("sftp://nas/b?identity=~/.ssh/backup&known_hosts=/etc/known").unwrap();
        assert_eq!(config.identity, Some("/home/me/.ssh/backup".into()));
        assert_eq!(config.known_host_files(), (vec!["/etc/known".into()], true));
    }

    #[test]
    fn mistakes_in_a_location_are_explained() {
        let told = |text: &str| config(text).unwrap_err().to_string();
        assert!(told("sftp:///srv").contains("no host"));
        assert!(told("sftp://-oProxyCommand=id/srv").contains("no host"));
        assert!(told("sftp://nas").contains("no folder"));
        assert!(told("sftp://nas:ssh/srv").contains("`ssh` is no port"));
        assert!(told("sftp://nas/srv?port=22").contains("no option `port`"));
        assert!(told("sftp://nas/srv?connections=99").contains("from 1 to 8"));
        assert!(told("sftp://nas/srv?create=maybe").contains("`yes` or `no`"));
        for text in [
            "sftp://me:hunter2@nas/srv",
            "sftp://nas/srv?password=hunter2",
        ] {
            assert!(told(text).contains("password_file"), "{text}");
            assert!(!told(text).contains("hunter2"));
        }
        let nobody = Config::new(&"sftp://nas/srv".parse().unwrap(), Surroundings::none());
        assert_eq!(nobody.unwrap_err(), FromLocationError::NoUser);
    }

    #[test]
    fn paths_are_put_together_and_taken_apart() {
        assert_eq!(below("/srv", "a"), "/srv/a");
        assert_eq!(below("/", "a"), "/a");
        assert_eq!(above("/srv/a"), Some("/srv"));
        assert_eq!((above("a"), above("/")), (None, None));
    }
}
