//! Logging in: with keys of the agent, keys in files, a password. What was tried is told where nothing helped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use backup_core::ErrorKind;
use russh::client::{AuthResult, Handle, KeyboardInteractiveAuthResponse, Prompt};
use russh::keys::agent::AgentIdentity;
use russh::keys::agent::client::AgentClient;
use russh::keys::ssh_key::{PrivateKey, PublicKey};
use russh::keys::{HashAlg, PrivateKeyWithHashAlg, decode_secret_key};
use russh::{MethodKind, MethodSet};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

use crate::config::Config;
use crate::fault::{Fault, Outcome, Wrong};
use crate::known_hosts::is_same;
use crate::ssh::Doorkeeper;

/// A server ends the connection after six tries, if nobody has set it otherwise.
const MAX_AGENT_KEYS: usize = 5;

/// How many rounds of questions are answered.
const MAX_QUESTIONS: usize = 8;

/// How much of a question is shown, in characters.
const MAX_SHOWN: usize = 80;

/// An attempt to get in.
struct Attempt<'a> {
    handle: &'a mut Handle<Doorkeeper>,
    config: &'a Config,
    tried: Vec<String>,
    /// The ways in that the server said last it has.
    ways: Option<MethodSet>,
}

/// Logs in.
pub(crate) async fn log_in(handle: &mut Handle<Doorkeeper>, config: &Config) -> Outcome<()> {
    let mut attempt = Attempt {
        handle,
        config,
        tried: Vec::new(),
        ways: None,
    };
    let is_in = match &config.identity {
        Some(path) => attempt.with_named_key(path).await?,
        None => {
            // Of a client that is to offer its files alone, the agent has only what these need.
            let by_agent = !config.only_these && attempt.with_agent(None).await;
            by_agent || attempt.with_usual_keys().await?
        }
    };
    if is_in || attempt.with_password().await? {
        return Ok(());
    }
    attempt.ask_for_ways().await;
    Err(attempt.refused())
}

impl Attempt<'_> {
    /// Whether the server let us in; what it said otherwise stands in the error at the end.
    fn verdict(&mut self, what: String, answer: Result<AuthResult, String>) -> bool {
        let how = match answer {
            Ok(AuthResult::Success) => return true,
            Ok(AuthResult::Failure {
                remaining_methods,
                partial_success,
            }) => {
                self.note_ways(remaining_methods);
                match partial_success {
                    true => "taken, but the server wants more than that".to_owned(),
                    false => "refused".to_owned(),
                }
            }
            Err(why) => why,
        };
        self.tried.push(format!("{what}: {how}"));
        false
    }

    async fn with_named_key(&mut self, path: &Path) -> Outcome<bool> {
        let passphrase = self.passphrase().await?;
        match load(path.to_owned(), passphrase).await {
            Ok(key) => Ok(self.with_key(path, key).await),
            Err(Wrong::Encrypted(_)) => match public_of(path) {
                Some(public) if self.with_agent(Some(&public)).await => Ok(true),
                _ => Err(Fault::Ours(
                    ErrorKind::Denied,
                    Wrong::Encrypted(path.to_owned()),
                )),
            },
            Err(wrong) => Err(Fault::Ours(ErrorKind::Denied, wrong)),
        }
    }

    async fn with_usual_keys(&mut self) -> Outcome<bool> {
        let passphrase = self.passphrase().await?;
        for path in self.config.usual_keys() {
            if self.handle.is_closed() {
                return Ok(false);
            }
            match load(path.clone(), passphrase.clone()).await {
                Ok(key) => {
                    if self.with_key(&path, key).await {
                        return Ok(true);
                    }
                }
                Err(Wrong::Encrypted(path)) => {
                    let public = public_of(&path).filter(|_| self.config.only_these);
                    if let Some(public) = public
                        && self.with_agent(Some(&public)).await
                    {
                        return Ok(true);
                    }
                    let note = format!(
                        "key {}: encrypted, and no passphrase is named",
                        path.display()
                    );
                    self.tried.push(note);
                }
                Err(wrong) => self.tried.push(wrong.to_string()),
            }
        }
        Ok(false)
    }

    async fn with_key(&mut self, path: &Path, key: PrivateKey) -> bool {
        let hash = self.rsa_hash(key.algorithm().is_rsa()).await;
        let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash);
        let user = self.config.user.clone();
        let answer = self.handle.authenticate_publickey(user, key).await;
        let answer = answer.map_err(|error| error.to_string());
        self.verdict(format!("key {}", path.display()), answer)
    }

    /// SHA-1 is asked of nobody.
    async fn rsa_hash(&self, is_rsa: bool) -> Option<HashAlg> {
        if !is_rsa {
            return None;
        }
        let best = self.handle.best_supported_rsa_hash().await.ok();
        Some(best.flatten().flatten().unwrap_or(HashAlg::Sha256))
    }

    /// With the keys of the agent, or the one that is named.
    async fn with_agent(&mut self, only: Option<&PublicKey>) -> bool {
        let Some(socket) = self.config.agent() else {
            self.tried
                .push("no SSH agent (SSH_AUTH_SOCK is not set)".into());
            return false;
        };
        let found = match AgentClient::connect_uds(&socket).await {
            Ok(mut agent) => agent.request_identities().await.map(|keys| (agent, keys)),
            Err(error) => Err(error),
        };
        let (mut agent, keys) = match found {
            Ok(found) => found,
            Err(error) => {
                let note = format!("SSH agent at {}: {error}", socket.display());
                self.tried.push(note);
                return false;
            }
        };
        let wanted = |key: &AgentIdentity| only.is_none_or(|only| is_same(&key.public_key(), only));
        let mut keys: Vec<AgentIdentity> = keys.into_iter().filter(wanted).collect();
        if keys.is_empty() {
            self.tried.push("SSH agent: it has no such key".into());
        }
        keys.truncate(MAX_AGENT_KEYS);
        for key in keys {
            if self.handle.is_closed() {
                return false;
            }
            if self.with_key_of_agent(&mut agent, key).await {
                return true;
            }
        }
        false
    }

    async fn with_key_of_agent(
        &mut self,
        agent: &mut AgentClient<UnixStream>,
        key: AgentIdentity,
    ) -> bool {
        let what = format!("key {:?} of the SSH agent", key.comment());
        let hash = self.rsa_hash(key.public_key().algorithm().is_rsa()).await;
        let user = self.config.user.clone();
        let answer = match key {
            AgentIdentity::PublicKey { key, .. } => {
                let answer = self
                    .handle
                    .authenticate_publickey_with(user, key, hash, agent);
                answer.await.map_err(|error| error.to_string())
            }
            AgentIdentity::Certificate { certificate, .. } => {
                let answer =
                    self.handle
                        .authenticate_certificate_with(user, certificate, hash, agent);
                answer.await.map_err(|error| error.to_string())
            }
        };
        self.verdict(what, answer)
    }

    async fn with_password(&mut self) -> Outcome<bool> {
        let Some(place) = self.config.password.clone() else {
            return Ok(false);
        };
        let password = place.read(&self.config.around)?;
        if self.may(MethodKind::Password) {
            let user = self.config.user.clone();
            let answer = self
                .handle
                .authenticate_password(user, password.as_str())
                .await;
            let answer = answer.map_err(|error| error.to_string());
            if self.verdict("password".into(), answer) {
                return Ok(true);
            }
        }
        if self.handle.is_closed() || !self.may(MethodKind::KeyboardInteractive) {
            return Ok(false);
        }
        let answer = self.by_questions(&password).await;
        Ok(self.verdict("password, asked for as a question".into(), answer))
    }

    /// Whether the server may let somebody in this way, as far as it has said.
    fn may(&self, way: MethodKind) -> bool {
        self.ways.as_ref().is_none_or(|ways| ways.contains(&way))
    }

    /// Asks what ways there are, if there was nothing to try that would have told.
    async fn ask_for_ways(&mut self) {
        if self.ways.is_some() || self.handle.is_closed() {
            return;
        }
        let answer = self.handle.authenticate_none(self.config.user.clone());
        if let Ok(AuthResult::Failure {
            remaining_methods, ..
        }) = answer.await
        {
            self.note_ways(remaining_methods);
        }
    }

    /// None are told of a connection that was ended.
    fn note_ways(&mut self, ways: MethodSet) {
        if !ways.is_empty() {
            self.ways = Some(ways);
        }
    }

    /// Servers that ask for a password as one of any questions. Only one that is not to be shown is answered.
    async fn by_questions(&mut self, password: &str) -> Result<AuthResult, String> {
        let user = self.config.user.clone();
        let told = |error: russh::Error| error.to_string();
        let start = self
            .handle
            .authenticate_keyboard_interactive_start(user, None);
        let mut answer = start.await.map_err(told)?;
        let mut is_given = false;
        for _ in 0..MAX_QUESTIONS {
            let prompts = match answer {
                KeyboardInteractiveAuthResponse::Success => return Ok(AuthResult::Success),
                KeyboardInteractiveAuthResponse::Failure {
                    remaining_methods,
                    partial_success,
                } => {
                    return Ok(AuthResult::Failure {
                        remaining_methods,
                        partial_success,
                    });
                }
                KeyboardInteractiveAuthResponse::InfoRequest { prompts, .. } => prompts,
            };
            let answers = match prompts.as_slice() {
                [] => Vec::new(),
                // A second one is asked for something else, or says that the first was wrong.
                [only] if !only.echo && !is_given => {
                    is_given = true;
                    vec![password.to_owned()]
                }
                others => return Err(unanswered(others)),
            };
            let respond = self
                .handle
                .authenticate_keyboard_interactive_respond(answers);
            answer = respond.await.map_err(told)?;
        }
        Err("the server does not come to an end with its questions".into())
    }

    async fn passphrase(&self) -> Outcome<Option<Zeroizing<String>>> {
        let place = self.config.passphrase.as_ref();
        place
            .map(|place| place.read(&self.config.around))
            .transpose()
    }

    fn refused(self) -> Fault {
        let mut tried = match self.tried.is_empty() {
            true => "there was nothing to try".to_owned(),
            false => format!("tried were: {}", self.tried.join("; ")),
        };
        if let Some(ways) = &self.ways {
            let names: Vec<&str> = ways.iter().map(<&str>::from).collect();
            let names = names.join(", ");
            tried = format!("{tried}. The server takes {names}");
        }
        if self.handle.is_closed() {
            tried = format!("{tried}. Then it ended the connection");
        }
        let wrong = Wrong::NotLetIn {
            user: self.config.user.clone(),
            host: self.config.host.clone(),
            tried,
            remedy: self.remedy(),
        };
        Fault::Ours(ErrorKind::Denied, wrong)
    }

    fn remedy(&self) -> &'static str {
        let takes = |way| self.ways.is_some() && self.may(way);
        let (key, password) = (&self.config.identity, &self.config.password);
        if self.ways.is_some() && !self.may(MethodKind::PublicKey) {
            let answers = takes(MethodKind::Password) || takes(MethodKind::KeyboardInteractive);
            return match (answers, password) {
                (true, None) => {
                    "It takes no keys: name a file with the password (`password_file=FILE` behind the location, mode 0600), \
                     or let it take keys (`PubkeyAuthentication yes` in its sshd_config), which is better"
                }
                (true, Some(_)) => {
                    "Check the user and the password. One question for a password is answered, codes that change are not: \
                     for these let the server take a key of this account (`PubkeyAuthentication yes`)"
                }
                (false, _) => {
                    "Keys, passwords, and a password asked for as a question are what can be tried: let the server take one of \
                     them for this account"
                }
            };
        }
        if self.handle.is_closed() && key.is_none() {
            return "Servers end a connection behind a few keys: name the right one (`identity=FILE` behind the location)";
        }
        match (key, password) {
            (_, Some(_)) => {
                "Check the user and the password, and whether the server takes passwords"
            }
            (Some(_), None) => {
                "Check the user, and that the public key stands in the account's authorized_keys (`ssh-copy-id`)"
            }
            (None, None) => {
                "Name a key (`identity=FILE` behind the location), start an agent, or name a file with a password \
                 (`password_file=FILE`)"
            }
        }
    }
}

/// What a server asks that nobody can answer here.
fn unanswered(prompts: &[Prompt]) -> String {
    let shown = |prompt: &Prompt| {
        let text: String = prompt.prompt.trim().chars().take(MAX_SHOWN).collect();
        format!("`{}`", text.escape_debug())
    };
    let shown: Vec<String> = prompts.iter().take(4).map(shown).collect();
    format!(
        "it asks {}, which nobody can answer here",
        shown.join(" and ")
    )
}

/// The public half of a key, which lies beside it.
fn public_of(path: &Path) -> Option<PublicKey> {
    let public = PathBuf::from(format!("{}.pub", path.display()));
    std::fs::read_to_string(public).ok()?.parse().ok()
}

/// Reads a key file; a passphrase takes a while, on purpose.
async fn load(path: PathBuf, passphrase: Option<Zeroizing<String>>) -> Result<PrivateKey, Wrong> {
    let file = path.clone();
    let read = tokio::task::spawn_blocking(move || {
        let text = std::fs::read_to_string(&path).map(Zeroizing::new);
        let text = text.map_err(|error| Wrong::Unreadable(path.clone(), error.to_string()))?;
        let passphrase = passphrase.as_ref().map(|text| text.as_str());
        decode_secret_key(&text, passphrase).map_err(|error| match error {
            russh::keys::Error::KeyIsEncrypted => Wrong::Encrypted(path),
            _ if passphrase.is_some() => Wrong::BadPassphrase(path),
            error => Wrong::KeyFile(path, error.to_string()),
        })
    });
    let joined = read.await;
    joined.unwrap_or_else(|error| Err(Wrong::KeyFile(file, error.to_string())))
}
