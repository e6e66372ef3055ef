//! What the configuration of OpenSSH's client has of a host: asked of that client (`ssh -G`), which alone knows all of
//! ssh_config(5): patterns, `Include`, `Match`, the file of the system.
//!
//! What a location says itself is told to the client, and so comes first. Of the rest these are heeded: `HostName`, `Port`, `User`, `IdentityFile`,
//! `IdentitiesOnly`, `UserKnownHostsFile`, `HostKeyAlias`, `ProxyJump` and `ProxyCommand`. How hosts are checked is not:
//! one that is not known is never taken.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use backup_core::ErrorKind;
use tokio::process::Command;

use crate::config::{Config, USUAL_KEYS};
use crate::fault::{Fault, Outcome, Wrong};
use crate::jump::Jump;

/// The client of the system, if a location names a file for it and nobody says where it is.
const USUAL_CLIENT: &str = "ssh";

/// It answers at once, unless a `Match exec` of the configuration takes long.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The key files of which the client tells where the configuration names none: ssh_config(5), `IdentityFile`.
const USUAL: [&str; 7] = [
    "id_rsa",
    "id_ecdsa",
    "id_ecdsa_sk",
    "id_ed25519",
    "id_ed25519_sk",
    "id_xmss",
    "id_dsa",
];

/// The files of known hosts of which it tells then, below the home that it takes for that of the user.
const USUAL_HOSTS: [&str; 2] = ["/.ssh/known_hosts", "/.ssh/known_hosts2"];

/// Which configuration is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ClientFile {
    /// Those that the client reads by itself, if there is a client.
    Usual,
    /// This file alone.
    Named(PathBuf),
    /// None.
    Nothing,
}

/// What there is to know of a host.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    host: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    keys: Vec<String>,
    only_these: bool,
    known_hosts: Option<String>,
    alias: Option<String>,
    jump: Option<String>,
    command: Option<String>,
}

impl Told {
    fn read(text: &str) -> Self {
        let mut told = Self::default();
        for (word, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let value = value.trim();
            let given = || {
                let is_none = value.is_empty() || value.eq_ignore_ascii_case("none");
                (!is_none).then(|| value.to_owned())
            };
            match word {
                "hostname" => told.host = given(),
                "port" => told.port = value.parse().ok(),
                "user" => told.user = given(),
                "identityfile" => told.keys.extend(given()),
                "identitiesonly" => told.only_these = value == "yes",
                "userknownhostsfile" => told.known_hosts = given(),
                "hostkeyalias" => told.alias = given(),
                "proxyjump" => told.jump = given(),
                "proxycommand" => told.command = given(),
                _ => {}
            }
        }
        // Where it names none the client tells of all that it tries by itself.
        let name = |key: &String| key.strip_prefix("~/.ssh/").map(str::to_owned);
        let names: Option<Vec<String>> = told.keys.iter().map(name).collect();
        let is_usual = |names: Vec<String>| {
            USUAL_KEYS
                .iter()
                .all(|key| names.iter().any(|name| name == key))
                && names.iter().all(|name| USUAL.contains(&name.as_str()))
        };
        if names.is_some_and(is_usual) {
            told.keys.clear();
        }
        let is_usual = |text: &mut String| {
            let is_one = |file: &str| USUAL_HOSTS.iter().any(|end| file.ends_with(end));
            text.split(' ').all(is_one)
        };
        told.known_hosts.take_if(is_usual);
        told
    }
}

impl Config {
    /// The same, completed by what the client's configuration has of the host.
    ///
    /// # Errors
    /// When a configuration that is named cannot be read, or one is not understood by the client.
    pub(crate) async fn completed(&self) -> Outcome<Self> {
        let client = match (&self.client_file, self.around.ssh()) {
            (ClientFile::Nothing, _) | (ClientFile::Usual, None) => return Ok(self.clone()),
            (_, Some(client)) => client.to_owned(),
            (ClientFile::Named(_), None) => PathBuf::from(USUAL_CLIENT),
        };
        let Some(text) = self.asked(&client).await? else {
            return Ok(self.clone());
        };
        Ok(self.with(&Told::read(&text), client))
    }

    /// What the client answers; `None`: there is none.
    async fn asked(&self, client: &Path) -> Outcome<Option<String>> {
        let wrong = |why: String| Fault::Ours(ErrorKind::Invalid, Wrong::ClientConfig(why));
        let mut command = Command::new(client);
        command.arg("-G").args(self.file_arguments());
        if self.is_named.user {
            command.args(["-l", &self.user]);
        }
        if self.is_named.port {
            command.args(["-p", &self.port.to_string()]);
        }
        command.args(["--", &self.host]).stdin(Stdio::null());
        let answer = tokio::time::timeout(ANSWER_WITHIN, command.kill_on_drop(true).output());
        let answer = match answer.await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error))
                if error.kind() == std::io::ErrorKind::NotFound
                    && self.client_file == ClientFile::Usual =>
            {
                return Ok(None);
            }
            Ok(Err(error)) => return Err(wrong(format!("{}: {error}", client.display()))),
            Err(_) => {
                let seconds = ANSWER_WITHIN.as_secs();
                return Err(wrong(format!("it has not answered within {seconds} s")));
            }
        };
        if !answer.status.success() {
            let said = String::from_utf8_lossy(&answer.stderr);
            return Err(wrong(said.trim().replace(['\r', '\n'], " ")));
        }
        Ok(Some(String::from_utf8_lossy(&answer.stdout).into_owned()))
    }

    /// The arguments that name the configuration.
    fn file_arguments(&self) -> Vec<std::ffi::OsString> {
        match &self.client_file {
            ClientFile::Named(path) => vec!["-F".into(), path.into()],
            _ => Vec::new(),
        }
    }

    fn with(&self, told: &Told, client: PathBuf) -> Self {
        let mut new = self.clone();
        if let Some(host) = &told.host {
            new.host.clone_from(host);
        }
        if let Some(port) = told.port {
            new.port = port;
        }
        if let Some(user) = &told.user {
            new.user.clone_from(user);
        }
        let expand = |text: &str| new.expanded(text, &self.host);
        let keys = told.keys.iter().map(|key| self.file(&expand(key)));
        let command = told.command.as_deref().map(expand);
        let jump = told.jump.as_deref();
        let arguments = self.file_arguments();
        let jump = jump.and_then(|jump| Jump::over(client, arguments, jump, (&new.host, new.port)));
        let jump = jump.or_else(|| command.map(Jump::by));
        let known_hosts = told.known_hosts.as_deref().map(|text| self.known(text));
        new.keys = keys.collect();
        new.only_these = told.only_these;
        new.jump = jump;
        new.alias.clone_from(&told.alias);
        new.more_known_hosts = known_hosts.unwrap_or_default();
        new
    }

    /// With what stands for what is known of the connection: ssh_config(5), TOKENS.
    fn expanded(&self, text: &str, original: &str) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text.chars();
        while let Some(sign) = rest.next() {
            if sign != '%' {
                out.push(sign);
                continue;
            }
            let home = || Some(self.around.home()?.display().to_string());
            match rest.next() {
                Some('%') => out.push('%'),
                Some('h') => out.push_str(&self.host),
                Some('n') => out.push_str(original),
                Some('p') => out.push_str(&self.port.to_string()),
                Some('r') => out.push_str(&self.user),
                Some('d') => out.push_str(&home().unwrap_or_default()),
                Some('u') => out.push_str(self.around.user().unwrap_or_default()),
                other => {
                    out.push('%');
                    out.extend(other);
                }
            }
        }
        out
    }

    /// Files of known hosts; the client separates them by spaces, whether or not names have some.
    fn known(&self, text: &str) -> Vec<PathBuf> {
        let whole = self.file(text);
        if whole.is_file() {
            return vec![whole];
        }
        let parts = text.split(' ').map(|part| self.file(part));
        // What is thrown away is known of nobody, and nothing can be added to it.
        parts
            .filter(|path| path != Path::new("/dev/null"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::surroundings::Surroundings;

    fn config(text: &str) -> Config {
        let around = Surroundings::none()
            .at_home(Some("/home/me".into()))
            .as_user(Some("me".into()));
        Config::new(&text.parse().unwrap(), around).unwrap()
    }

    const TEXT: &str = "host nas\nuser backup\nhostname 10.0.0.5\nport 2200\nidentitiesonly yes\n\
        identityfile ~/.ssh/of_%r_at_%h_%%\nuserknownhostsfile /a /dev/null\nhostkeyalias other\nproxyjump none\n\
        proxycommand nc %h %p # %n\n";

    #[test]
    fn what_the_client_tells_is_taken() {
        let told = Told::read(TEXT);
        let new = config("sftp://nas/b").with(&told, "ssh".into());
        assert_eq!((new.host.as_str(), new.port), ("10.0.0.5", 2200));
        assert_eq!(new.user, "backup");
        let key = PathBuf::from("/home/me/.ssh/of_backup_at_10.0.0.5_%");
        assert_eq!((new.keys, new.only_these), (vec![key], true));
        assert_eq!(new.more_known_hosts, [PathBuf::from("/a")]);
        assert_eq!(new.alias.as_deref(), Some("other"));
        let jump = new.jump.unwrap().to_string();
        assert!(jump.contains("nc 10.0.0.5 2200 # nas"), "{jump}");
    }

    #[test]
    fn the_keys_that_the_client_tries_by_itself_are_not_taken_for_named() {
        let told = |names: &[&str]| {
            let lines = names.iter().map(|name| format!("identityfile {name}\n"));
            Told::read(&lines.collect::<String>()).keys.len()
        };
        assert_eq!(
            told(
                &USUAL
                    .map(|name| format!("~/.ssh/{name}"))
                    .each_ref()
                    .map(String::as_str)
            ),
            0
        );
        // Of OpenSSH 10, which has no DSA.
        let newer = ["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"];
        assert_eq!(told(&newer), 0);
        assert_eq!(told(&newer[..1]), 1);
        assert_eq!(
            told(&["~/.ssh/id_nas", "~/.ssh/id_work", "~/.ssh/id_rsa"]),
            3
        );
        assert_eq!(
            told(&["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "/k/id_ed25519"]),
            3
        );
    }

    /// The client takes the home of the system's users for that of the user, whatever the environment says.
    #[test]
    fn the_usual_files_of_known_hosts_are_those_of_this_home() {
        let usual = "userknownhostsfile /root/.ssh/known_hosts /root/.ssh/known_hosts2\n";
        assert_eq!(Told::read(usual).known_hosts, None);
        let own = "userknownhostsfile /root/.ssh/known_hosts /etc/of-backups\n";
        assert!(Told::read(own).known_hosts.is_some());
    }
}
