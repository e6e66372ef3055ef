//! Making a connection: TCP, SSH, a look at the host key, logging in, and an SFTP session on top.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backup_core::ErrorKind;
use russh::client::{self, Handle};
use russh::keys::HashAlg;
use russh::keys::PublicKeyOrCertificate;
use russh::keys::ssh_key::{Algorithm, EcdsaCurve};
use russh::{Preferred, SshId, cipher, compression};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::config::Config;
use crate::fault::{Fault, Outcome, Wrong};
use crate::known_hosts::KnownHost;
use crate::login;
use crate::session::Session;

/// How much a server may send before we take it.
const WINDOW: u32 = 8 << 20;

/// A server that is silent is asked whether it is there after so long,
const ASK_AFTER: Duration = Duration::from_secs(15);

/// and given up when it has not answered so often.
const ASK_TIMES: usize = 3;

/// Looks at the key that a server shows.
pub(crate) struct Doorkeeper {
    known: Arc<KnownHost>,
    refusal: Arc<Mutex<Option<Wrong>>>,
}

impl client::Handler for Doorkeeper {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        // Certificates are not asked for, so none is shown.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let Err(wrong) = self.known.check(key) else {
            return Ok(true);
        };
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        *refusal = Some(wrong);
        Ok(false)
    }
}

/// How far the making of a connection has come, for who waits in vain.
struct Progress(Mutex<&'static str>);

impl Progress {
    fn at(&self, step: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = step;
    }

    fn step(&self) -> &'static str {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a connection and begins a session. All of it has to be done within the time that a server may be silent.
pub(crate) async fn connect(config: &Config) -> Outcome<Session> {
    let config = &config.completed().await?;
    let progress = Progress(Mutex::new(""));
    match tokio::time::timeout(config.timeout, open(config, &progress)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(Fault::Lost(Wrong::Silent {
            host: config.host.clone(),
            port: config.port,
            seconds: config.timeout.as_secs(),
            step: progress.step(),
        })),
    }
}

fn unreachable(config: &Config, why: impl Into<String>) -> Fault {
    Fault::Lost(Wrong::Unreachable {
        host: config.host.clone(),
        port: config.port,
        why: why.into(),
    })
}

async fn open(config: &Config, progress: &Progress) -> Outcome<Session> {
    let known = {
        let own = config.clone();
        let read = tokio::task::spawn_blocking(move || {
            let (files, must) = own.known_host_files();
            let (host, port) = own.known_as();
            KnownHost::read(host, port, &files, must)
        });
        Arc::new(
            read.await
                .map_err(|error| unreachable(config, error.to_string()))??,
        )
    };
    let mut handle = match &config.jump {
        None => {
            progress.at("it does not take the connection");
            let address = (config.host.as_str(), config.port);
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| unreachable(config, error.to_string()))?;
            // Small requests must not wait for one another.
            let _ = stream.set_nodelay(true);
            progress.at("it takes the connection, and then does not speak SSH");
            greet(config, known, stream).await?
        }
        Some(jump) => {
            let line = jump.start();
            let line = line.map_err(|error| unreachable(config, format!("{jump}: {error}")))?;
            let words = line.words.clone();
            progress.at("nothing came through the program that makes the connection");
            match greet(config, known, line).await {
                Err(Fault::Lost(Wrong::Unreachable { why, .. })) => {
                    return Err(unreachable(config, words.why(&why).await));
                }
                greeted => greeted?,
            }
        }
    };
    progress.at("it did not say whether it lets us in");
    login::log_in(&mut handle, config).await?;
    progress.at("it let us in, and SFTP did not begin");
    begin(handle, config).await
}

/// Begins to speak SSH, and looks at the host's key.
async fn greet(
    config: &Config,
    known: Arc<KnownHost>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Outcome<Handle<Doorkeeper>> {
    let refusal = Arc::new(Mutex::new(None));
    let doorkeeper = Doorkeeper {
        known: known.clone(),
        refusal: refusal.clone(),
    };
    let settings = Arc::new(settings(&known));
    let connected = client::connect_stream(settings, stream, doorkeeper).await;
    match connected {
        Ok(handle) => Ok(handle),
        Err(error) => {
            let refused = refusal
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            Err(match refused {
                Some(wrong) => Fault::Ours(ErrorKind::Denied, wrong),
                None => refused_by_ssh(config, &error),
            })
        }
    }
}

async fn begin(handle: Handle<Doorkeeper>, config: &Config) -> Outcome<Session> {
    let channel = handle.channel_open_session().await;
    let channel = channel.map_err(|error| match error {
        russh::Error::ChannelOpenFailure(why) => {
            Fault::Ours(ErrorKind::Other, Wrong::NoSubsystem(format!("{why:?}")))
        }
        error => unreachable(config, error.to_string()),
    })?;
    Session::begin(channel, handle, &config.host, config.timeout).await
}

fn refused_by_ssh(config: &Config, error: &russh::Error) -> Fault {
    match error {
        russh::Error::NoCommonAlgo { kind, .. } => Fault::Ours(
            ErrorKind::Other,
            Wrong::NoAlgorithm {
                host: config.host.clone(),
                kind: format!("{kind:?}"),
            },
        ),
        error => unreachable(config, error.to_string()),
    }
}

fn settings(known: &KnownHost) -> client::Config {
    client::Config {
        client_id: SshId::Standard(Cow::Borrowed("SSH-2.0-Backstay")),
        window_size: WINDOW,
        keepalive_interval: Some(ASK_AFTER),
        keepalive_max: ASK_TIMES,
        nodelay: true,
        preferred: Preferred {
            key: host_keys(known).into(),
            // Processors have instructions for it.
            cipher: Cow::Borrowed(&[
                cipher::AES_256_GCM,
                cipher::CHACHA20_POLY1305,
                cipher::AES_256_CTR,
                cipher::AES_192_CTR,
                cipher::AES_128_CTR,
            ]),
            // What is sent is compressed and sealed already.
            compression: Cow::Borrowed(&[compression::NONE]),
            ..Preferred::DEFAULT
        },
        ..client::Config::default()
    }
}

/// Kinds of host keys, those first that are known of the host. RSA with SHA-1 is not among them.
fn host_keys(known: &KnownHost) -> Vec<Algorithm> {
    let mut kinds = known.algorithms();
    let rsa = |hash| Algorithm::Rsa { hash: Some(hash) };
    let ecdsa = |curve| Algorithm::Ecdsa { curve };
    let all = [
        Algorithm::Ed25519,
        ecdsa(EcdsaCurve::NistP256),
        ecdsa(EcdsaCurve::NistP384),
        ecdsa(EcdsaCurve::NistP521),
        rsa(HashAlg::Sha512),
        rsa(HashAlg::Sha256),
    ];
    for kind in all {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}
