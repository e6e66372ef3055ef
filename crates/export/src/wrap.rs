//! Encrypting archives in forms that `age` and `gpg` read.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread::JoinHandle;

use age::secrecy::SecretString;
use zeroize::Zeroizing;

use crate::error::{ExportError, Result};

/// What archives are encrypted with.
#[derive(Clone)]
pub enum Wrap {
    /// `age` with a passphrase.
    AgePassphrase(Zeroizing<String>),
    /// `age` for recipients: lines of a file of recipients (`age1…`, `#` begins a comment).
    AgeRecipients(String),
    /// OpenPGP with a passphrase: AES-256, by the program `gpg`.
    Gpg {
        /// The passphrase; it has no line break.
        passphrase: Zeroizing<String>,
        /// The program; `gpg` is looked for where programs are.
        program: PathBuf,
    },
}

impl fmt::Debug for Wrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Wrap {
    /// `age` or `gpg`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::AgePassphrase(_) | Self::AgeRecipients(_) => "age",
            Self::Gpg { .. } => "gpg",
        }
    }

    /// Sees that it can be used, before anything is read or written.
    ///
    /// # Errors
    /// [`ExportError::Encrypt`].
    pub fn check(&self) -> Result<()> {
        match self {
            Self::AgePassphrase(_) => Ok(()),
            Self::AgeRecipients(lines) => recipients(lines).map(drop),
            Self::Gpg {
                passphrase,
                program,
            } => {
                if passphrase.contains(['\n', '\r', '\0']) {
                    return Err(failed("gpg", "the passphrase has a line break"));
                }
                let mut version = Command::new(program);
                version.arg("--version").stdin(Stdio::null());
                match version.output() {
                    Ok(output) if output.status.success() => Ok(()),
                    Ok(output) => Err(failed("gpg", format!("gpg --version: {}", output.status))),
                    Err(error) => Err(failed(
                        "gpg",
                        format!(
                            "the program cannot be started ({error}): install gnupg, or use age"
                        ),
                    )),
                }
            }
        }
    }

    /// What encrypts with `age`; nothing for others.
    pub(crate) fn age(&self) -> Result<Option<age::Encryptor>> {
        match self {
            Self::AgePassphrase(passphrase) => {
                let secret = SecretString::from(passphrase.as_str().to_owned());
                Ok(Some(age::Encryptor::with_user_passphrase(secret)))
            }
            Self::AgeRecipients(lines) => {
                let recipients = recipients(lines)?;
                let all = recipients.iter().map(|one| one as &dyn age::Recipient);
                let made = age::Encryptor::with_recipients(all);
                made.map(Some).map_err(|error| failed("age", error))
            }
            Self::Gpg { .. } => Ok(None),
        }
    }
}

fn failed(program: &'static str, why: impl fmt::Display) -> ExportError {
    ExportError::Encrypt {
        program,
        why: why.to_string(),
    }
}

/// The recipients of a file of them.
fn recipients(lines: &str) -> Result<Vec<age::x25519::Recipient>> {
    let mut out = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let parsed = line.parse::<age::x25519::Recipient>();
        // A line may be a secret key by mistake, so it is not repeated.
        out.push(parsed.map_err(|_| {
            failed(
                "age",
                format!(
                    "line {} of the recipients is no recipient (age1…)",
                    number + 1
                ),
            )
        })?);
    }
    if out.is_empty() {
        return Err(failed("age", "there is no recipient in the file"));
    }
    Ok(out)
}

/// Encrypts what is written with the program `gpg`, and writes what that yields on.
#[derive(Debug)]
pub(crate) struct GpgWriter<W> {
    child: Child,
    input: Option<ChildStdin>,
    output: Option<JoinHandle<io::Result<W>>>,
}

impl<W: Write + Send + 'static> GpgWriter<W> {
    /// Starts it. `home` is an empty folder of its own: nothing of the user's keys is looked at.
    pub(crate) fn start(
        program: &Path,
        home: &Path,
        passphrase: &str,
        mut out: W,
    ) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg("--homedir").arg(home);
        command.args(["--batch", "--no-tty", "--quiet", "--no-autostart"]);
        command.args(["--pinentry-mode", "loopback", "--passphrase-fd", "0"]);
        command.args(["--s2k-mode", "3", "--s2k-digest-algo", "SHA512"]);
        command.args(["--s2k-count", "65011712"]);
        command.args(["--compress-algo", "none", "--cipher-algo", "AES256"]);
        command.args(["--symmetric", "--output", "-"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(mut input), Some(mut yields)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("gpg has no standard input"));
        };
        let output = std::thread::Builder::new()
            .name("gpg".into())
            .spawn(move || {
                io::copy(&mut yields, &mut out)?;
                Ok(out)
            })?;
        // It reads the first line byte by byte for the passphrase, and what follows is the content:
        // so the passphrase is neither an argument nor in a file.
        let begun = input
            .write_all(passphrase.as_bytes())
            .and_then(|()| input.write_all(b"\n"));
        let mut writer = Self {
            child,
            input: Some(input),
            output: Some(output),
        };
        begun.map_err(|error| writer.why(error))?;
        Ok(writer)
    }

    /// What the program said, where it said something.
    fn why(&mut self, error: io::Error) -> io::Error {
        drop(self.input.take());
        let _ = self.child.kill();
        let mut said = String::new();
        if let Some(stderr) = self.child.stderr.take() {
            let _ = stderr.take(4096).read_to_string(&mut said);
        }
        match said.trim() {
            "" => error,
            said => io::Error::other(said.to_owned()),
        }
    }

    /// Ends it; gives back what it wrote into.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        drop(self.input.take());
        let output = self.output.take().map(JoinHandle::join);
        let status = self.child.wait()?;
        if !status.success() {
            return Err(self.why(io::Error::other(format!("gpg ended with {status}"))));
        }
        match output {
            Some(Ok(out)) => out,
            _ => Err(io::Error::other("the thread that reads from gpg is gone")),
        }
    }
}

impl<W: Write + Send + 'static> Write for GpgWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(input) = &mut self.input else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let written = input.write(bytes);
        written.map_err(|error| self.why(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W> Drop for GpgWriter<W> {
    fn drop(&mut self) {
        drop(self.input.take());
        if self.output.is_some() {
            let _ = self.child.kill();
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_of_age_opens_what_it_closed_and_shows_nowhere() {
        let wrap = Wrap::AgePassphrase(Zeroizing::new("correct horse".into()));
        assert_eq!(format!("{wrap:?}"), "age");
        let mut sealed = wrap
            .age()
            .unwrap()
            .unwrap()
            .wrap_output(Vec::new())
            .unwrap();
        sealed.write_all(b"content").unwrap();
        let sealed = sealed.finish().unwrap();
        let open = |passphrase: &str| {
            let secret = SecretString::from(passphrase.to_owned());
            let identity = age::scrypt::Identity::new(secret);
            let decryptor = age::Decryptor::new(&sealed[..]).unwrap();
            let mut plain = Vec::new();
            let keys = std::iter::once(&identity as &dyn age::Identity);
            decryptor.decrypt(keys).ok()?.read_to_end(&mut plain).ok()?;
            Some(plain)
        };
        assert_eq!(open("correct horse").as_deref(), Some(&b"content"[..]));
        assert_eq!(open("battery"), None);
    }

    #[test]
    fn recipients_are_read_and_a_secret_key_by_mistake_is_not_repeated() {
        let secret = "AGE-SECRET-KEY-1QQQQ";
        let error = Wrap::AgeRecipients(format!("# x\n{secret}\n"))
            .check()
            .unwrap_err();
        assert!(!error.to_string().contains(secret) && error.to_string().contains("line 2"));
        assert!(Wrap::AgeRecipients("\n# none\n".into()).check().is_err());
        let one = age::x25519::Identity::generate().to_public();
        Wrap::AgeRecipients(format!("{one}\n")).check().unwrap();
    }

    #[test]
    fn a_passphrase_of_two_lines_is_refused_and_a_missing_program_named() {
        let gpg = |passphrase: &str, program: &str| Wrap::Gpg {
            passphrase: Zeroizing::new(passphrase.into()),
            program: program.into(),
        };
        assert!(gpg("a\nb", "gpg").check().is_err());
        let error = gpg("a", "/nonexistent/gpg").check().unwrap_err();
        assert!(error.to_string().contains("install gnupg"), "{error}");
    }
}
