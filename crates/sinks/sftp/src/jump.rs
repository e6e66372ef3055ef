//! Connections that a program makes: over other hosts (`ProxyJump`), or by any command (`ProxyCommand`). Its standard
//! input and output are the line.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// Of what the program says of itself so much is kept, in bytes.
const SAID: usize = 2048;

/// Who has ended has said by then why.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// A program that makes a connection.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Jump {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl fmt::Debug for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Jump({self})")
    }
}

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.display())?;
        let shown = self.arguments.iter().map(|one| one.to_string_lossy());
        shown.into_iter().try_for_each(|one| write!(f, " {one}"))
    }
}

impl Jump {
    /// Over hosts of `ProxyJump`, `[user@]host[:port]` with commas between them; the last one makes the connection to
    /// `to`. `None`: it names none.
    pub(crate) fn over(
        client: PathBuf,
        file: Vec<OsString>,
        hosts: &str,
        (host, port): (&str, u16),
    ) -> Option<Self> {
        let (before, last) = match hosts.rsplit_once(',') {
            Some((before, last)) => (Some(before), last),
            None => (None, hosts),
        };
        let last = last.trim();
        if last.is_empty() {
            return None;
        }
        let last = last.strip_prefix("ssh://").unwrap_or(last);
        let to = match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        let mut arguments = file;
        // It is asked by nobody who could answer.
        arguments.extend(["-o", "BatchMode=yes", "-W"].map(OsString::from));
        arguments.push(to.into());
        if let Some(before) = before {
            arguments.extend(["-J".into(), before.into()]);
        }
        arguments.extend(["--".into(), format!("ssh://{last}").into()]);
        Some(Self {
            program: client,
            arguments,
        })
    }

    /// By a command line.
    pub(crate) fn by(line: String) -> Self {
        Self {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), format!("exec {line}").into()],
        }
    }

    /// Starts it.
    pub(crate) fn start(&self) -> io::Result<Line> {
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let missing = || io::Error::other("it has no standard input and output");
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let said = Arc::<Mutex<Vec<u8>>>::default();
        if let Some(mut errors) = child.stderr.take() {
            let said = said.clone();
            tokio::spawn(async move {
                let mut buffer = [0; 512];
                while let Ok(count @ 1..) = errors.read(&mut buffer).await {
                    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
                    let room = SAID.saturating_sub(said.len()).min(count);
                    said.extend_from_slice(buffer.get(..room).unwrap_or_default());
                }
            });
        }
        Ok(Line {
            input: input.ok_or_else(missing)?,
            output: output.ok_or_else(missing)?,
            words: Words {
                program: self.to_string(),
                said,
            },
            _child: child,
        })
    }
}

/// What a program says of itself.
#[derive(Clone)]
pub(crate) struct Words {
    program: String,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Words {
    /// What went wrong, and what the program said last of it.
    pub(crate) async fn why(&self, error: &str) -> String {
        tokio::time::sleep(LAST_WORDS).await;
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = String::from_utf8_lossy(&said);
        let said = said.trim().replace(['\r', '\n'], " ");
        match said.as_str() {
            "" => format!("{error} (by `{}`)", self.program),
            said => format!("{error} (`{}` says: {said})", self.program),
        }
    }
}

/// A connection that a program makes. It ends with it.
pub(crate) struct Line {
    input: ChildStdin,
    output: ChildStdout,
    pub(crate) words: Words,
    _child: Child,
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}
