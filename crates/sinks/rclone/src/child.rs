//! The rclone that a sink starts for itself.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use backup_core::ErrorKind;
use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::process::{Child, Command};
use zeroize::Zeroizing;

use crate::fault::{Fault, Outcome, Wrong, ours};
use crate::log::Log;
use crate::place::Place;

const USER: &str = "backstay";

/// What is said of a child that ended and said nothing.
pub(crate) const KILLED: &str = "it was killed";

/// A configuration may be encrypted, with a program that asks a store for its password.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// What the environment of this program may set for other calls of rclone, and what must not change this one: filters
/// would hide objects, a dry run would store nothing, and the log is read.
const NOT_PASSED_ON: &[&str] = &[
    "RCLONE_ADDR",
    "RCLONE_APPEND_ONLY",
    "RCLONE_BACKUP_DIR",
    "RCLONE_BASEURL",
    "RCLONE_CACHE_OBJECTS",
    "RCLONE_CERT",
    "RCLONE_CLIENT_CA",
    "RCLONE_COMPARE_DEST",
    "RCLONE_COPY_DEST",
    "RCLONE_CUTOFF_MODE",
    "RCLONE_DRY_RUN",
    "RCLONE_EXCLUDE",
    "RCLONE_EXCLUDE_FROM",
    "RCLONE_EXCLUDE_IF_PRESENT",
    "RCLONE_FILES_FROM",
    "RCLONE_FILES_FROM_RAW",
    "RCLONE_FILTER",
    "RCLONE_FILTER_FROM",
    "RCLONE_HASH_FILTER",
    "RCLONE_HTPASSWD",
    "RCLONE_IGNORE_CASE",
    "RCLONE_IGNORE_CASE_SYNC",
    "RCLONE_IGNORE_CHECKSUM",
    "RCLONE_IGNORE_EXISTING",
    "RCLONE_IGNORE_SIZE",
    "RCLONE_IMMUTABLE",
    "RCLONE_INCLUDE",
    "RCLONE_INCLUDE_FROM",
    "RCLONE_INTERACTIVE",
    "RCLONE_KEY",
    "RCLONE_LOG_FILE",
    "RCLONE_LOG_FORMAT",
    "RCLONE_LOG_LEVEL",
    "RCLONE_LOG_SYSTEMD",
    "RCLONE_MAX_AGE",
    "RCLONE_MAX_DEPTH",
    "RCLONE_MAX_SIZE",
    "RCLONE_MAX_TRANSFER",
    "RCLONE_METADATA_EXCLUDE",
    "RCLONE_METADATA_EXCLUDE_FROM",
    "RCLONE_METADATA_FILTER",
    "RCLONE_METADATA_FILTER_FROM",
    "RCLONE_METADATA_INCLUDE",
    "RCLONE_METADATA_INCLUDE_FROM",
    "RCLONE_MIN_AGE",
    "RCLONE_MIN_SIZE",
    "RCLONE_NAME_TRANSFORM",
    "RCLONE_PASS",
    "RCLONE_PRIVATE_REPOS",
    "RCLONE_QUIET",
    "RCLONE_RC_BASEURL",
    "RCLONE_RC_CERT",
    "RCLONE_RC_HTPASSWD",
    "RCLONE_RC_KEY",
    "RCLONE_RC_SERVE_NO_MODTIME",
    "RCLONE_SIZE_ONLY",
    "RCLONE_SUFFIX",
    "RCLONE_SYSLOG",
    "RCLONE_UPDATE",
    "RCLONE_USER",
    "RCLONE_VERBOSE",
];

/// An rclone that runs. It ends when this goes out of scope, because its standard input is closed then; the kernel does
/// the same when this process is killed.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) authorization: HeaderValue,
    pub(crate) log: Log,
    /// Leads to its standard input.
    upload: http2::SendRequest<Full<Bytes>>,
}

fn random_hex() -> Outcome<Zeroizing<String>> {
    let mut random = Zeroizing::new([0u8; 32]);
    if getrandom::fill(&mut *random).is_err() {
        return ours(ErrorKind::Other, Wrong::Random);
    }
    Ok(Zeroizing::new(hex::encode(*random)))
}

fn command(place: &Place, password: &str) -> Command {
    let mut command = Command::new("rclone");
    for name in NOT_PASSED_ON {
        command.env_remove(name);
    }
    command.args(["serve", "restic", "--stdio", "--cache-objects=false"]);
    command.args(["--rc", "--rc-addr=127.0.0.1:0", "--rc-serve"]);
    command.args(["--use-json-log", "--ask-password=false"]);
    // A move compares size and time first, and would leave the old object where they are the same.
    command.arg("--ignore-times");
    command.arg(format!("--low-level-retries={}", place.retries));
    command.arg(format!("--timeout={}s", place.timeout.as_secs()));
    command.arg(format!("--contimeout={}s", place.timeout.as_secs().min(60)));
    if let Some(tps) = place.tps {
        command.arg(format!("--tpslimit={tps}"));
    }
    if let Some(config) = &place.config {
        command.arg(format!("--config={config}"));
    }
    command.arg("--").arg(place.fs());
    command.env("RCLONE_RC_USER", USER);
    command.env("RCLONE_RC_PASS", password);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    // Who presses Ctrl-C means this program, which then ends the child when it is done with it.
    command.process_group(0);
    command
}

fn spawn(command: &mut Command) -> Outcome<Child> {
    command.spawn().map_err(|error| {
        let wrong = match error.kind() {
            std::io::ErrorKind::NotFound => Wrong::NoProgram,
            _ => Wrong::NotStarted(error.to_string()),
        };
        Fault::Ours(ErrorKind::Invalid, wrong)
    })
}

/// Whether the file of the configuration is there: rclone takes one that is missing for an empty one.
fn look_for_config(place: &Place) -> Outcome<()> {
    match &place.config {
        Some(config) if std::fs::metadata(config).is_err() => {
            ours(ErrorKind::Invalid, Wrong::NoConfig(config.clone()))
        }
        _ => Ok(()),
    }
}

impl Running {
    /// Starts one.
    pub(crate) async fn start(place: &Place) -> Outcome<Self> {
        look_for_config(place)?;
        let password = random_hex()?;
        let mut child = spawn(&mut command(place, &password))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            let wrong = Wrong::NotStarted("it has no standard input or output".to_owned());
            return ours(ErrorKind::Other, wrong);
        };
        let log = Log::default();
        let followed = log.clone();
        tokio::spawn(async move {
            followed.follow(errors).await;
            // So that it is not left as a zombie.
            let _ = child.wait().await;
        });
        let Some(told) = log.address(STARTS_WITHIN).await else {
            let seconds = STARTS_WITHIN.as_secs();
            return match log.has_ended() {
                true => Err(ended(&log).await),
                false => ours(ErrorKind::Invalid, Wrong::Silent(seconds)),
            };
        };
        let address = told.parse::<SocketAddr>().ok();
        let Some(address) = address.filter(|address| address.ip().is_loopback()) else {
            return ours(ErrorKind::Invalid, Wrong::Address(told));
        };
        let pipe = TokioIo::new(tokio::io::join(output, input));
        let shaken = http2::handshake(TokioExecutor::new(), pipe).await;
        let (upload, connection) = match shaken {
            Ok(both) => both,
            Err(_) if log.has_ended() => return Err(ended(&log).await),
            Err(error) => return Err(Fault::Lost(Wrong::Broken(error.to_string()))),
        };
        tokio::spawn(async move {
            // Whoever waits for an answer is told.
            let _ = connection.await;
        });
        let pair = Zeroizing::new(format!("{USER}:{}", password.as_str()));
        let pair = base64::engine::general_purpose::STANDARD.encode(pair.as_bytes());
        let basic = Zeroizing::new(format!("Basic {pair}"));
        let Ok(mut authorization) = HeaderValue::from_str(&basic) else {
            return ours(ErrorKind::Other, Wrong::Random);
        };
        authorization.set_sensitive(true);
        Ok(Self {
            address,
            authorization,
            log,
            upload,
        })
    }

    /// Whether it is there still, as far as is known.
    pub(crate) fn is_alive(&self) -> bool {
        !self.upload.is_closed() && !self.log.has_ended()
    }

    /// Sends a file.
    pub(crate) async fn send(&self, name: &str, body: Bytes) -> Outcome<()> {
        let size = body.len();
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://rclone/{name}"))
            .header(http::header::CONTENT_LENGTH, size)
            .body(Full::new(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return ours(ErrorKind::Other, Wrong::Strange(error.to_string())),
        };
        let answer = match self.upload.clone().send_request(request).await {
            Ok(answer) => answer,
            Err(error) => return Err(self.lost(deepest(&error)).await),
        };
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(()),
            // The answer itself has no word of it.
            status => match self.log.reason(name).await {
                Some(reason) => Err(Fault::Said(reason)),
                None => Err(Fault::Said(format!("{status}, and no more"))),
            },
        }
    }

    /// Why a connection to it broke off.
    pub(crate) async fn lost(&self, why: String) -> Fault {
        // A child that ends is gone a moment before that is known.
        let last = self.log.last_words().await;
        if self.log.has_ended() {
            return Fault::Lost(Wrong::Ended(last.unwrap_or_else(|| KILLED.to_owned())));
        }
        Fault::Lost(Wrong::Broken(why))
    }
}

/// The first cause of a failure.
pub(crate) fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut deepest = error;
    while let Some(below) = deepest.source() {
        deepest = below;
    }
    deepest.to_string()
}

/// Why it ended before it could be used.
async fn ended(log: &Log) -> Fault {
    match log.last_words().await {
        Some(words) => Fault::Said(words),
        None => Fault::Lost(Wrong::Ended(KILLED.to_owned())),
    }
}

/// One that is shared by all calls.
pub(crate) type Shared = Arc<Running>;
