//! What tests are set on: OpenSSH's own server on a free port, with keys of its own, in a folder that goes away; and a
//! line to it that is long and can be cut.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "each test uses a part of it"
)]

use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Where Debian puts the server; it wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

/// Whether there is a server to test with; says so if there is none.
pub(crate) fn has_sshd() -> bool {
    let has = Path::new(SSHD).exists();
    if !has {
        println!("skipped: there is no {SSHD} (Debian: openssh-server)");
    }
    has
}

/// A server that runs.
pub(crate) struct Sshd {
    pub(crate) folder: TempDir,
    pub(crate) port: u16,
    child: Option<Child>,
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Sshd {
    /// A server whose `internal-sftp` has these options.
    pub(crate) fn with(options: &str) -> Self {
        Self::configured(options, "")
    }

    /// A server with more lines in its configuration.
    pub(crate) fn configured(options: &str, lines: &str) -> Self {
        // How long a disk takes to sync is not asked here.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => TempDir::new_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        let at = |name: &str| folder.path().join(name);
        make_key(&at("host"), "", "ed25519");
        make_key(&at("user"), "", "ed25519");
        fs::copy(at("user.pub"), at("authorized")).unwrap();
        fs::create_dir(at("root")).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized\nPidFile none\nUsePAM no\n\
             StrictModes no\nPermitRootLogin yes\nMaxStartups 100\nMaxAuthTries 6\nLogLevel VERBOSE\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nSubsystem sftp internal-sftp {options}\n{lines}\n",
            folder.path().display()
        );
        fs::write(at("config"), config).unwrap();
        let mut server = Self {
            folder,
            port: 0,
            child: None,
        };
        for _ in 0..20 {
            server.port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            if server.start() {
                server.know();
                return server;
            }
        }
        panic!("sshd does not start: {}", server.log());
    }

    /// Starts it on its port; whether it did.
    pub(crate) fn start(&mut self) -> bool {
        // It wants this folder for what it does without rights.
        let _ = fs::create_dir_all("/run/sshd");
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-f"])
            .arg(self.at("config"))
            .args(["-p", &self.port.to_string(), "-E"])
            .arg(self.at("log"));
        self.start_as(&mut command)
    }

    /// Starts it by another command on its port; whether it did.
    pub(crate) fn start_as(&mut self, command: &mut Command) -> bool {
        let Ok(mut child) = command.stdin(Stdio::null()).spawn() else {
            return false;
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    /// Stops it and every session that it has.
    pub(crate) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        for session in below(child.id()) {
            let _ = Command::new("kill")
                .args(["-KILL", &session.to_string()])
                .stderr(Stdio::null())
                .status();
        }
        let _ = child.kill();
        let _ = child.wait();
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.at("root")
    }

    /// Writes down its host key as that of its port, and of others.
    pub(crate) fn know(&self) {
        self.know_as(&[self.port]);
    }

    pub(crate) fn know_as(&self, ports: &[u16]) {
        let key = fs::read_to_string(self.at("host.pub")).unwrap();
        let mut file = fs::OpenOptions::new();
        let mut file = file
            .create(true)
            .append(true)
            .open(self.at("known"))
            .unwrap();
        for port in ports {
            write!(file, "[127.0.0.1]:{port} {key}").unwrap();
        }
    }

    /// The location of a folder on it, reached over some port.
    pub(crate) fn location_by(&self, port: u16, folder: &Path) -> String {
        let (user, at) = (user(), self.folder.path().display());
        let folder = folder.display();
        format!("sftp://{user}@127.0.0.1:{port}{folder}?identity={at}/user&known_hosts={at}/known")
    }

    pub(crate) fn location(&self) -> String {
        self.location_by(self.port, &self.root())
    }

    /// The location of the root for an account to which modes apply. It belongs to that account from now on.
    pub(crate) fn location_for_anyone(&self) -> String {
        let mine = format!("//{}@", user());
        if user() != "root" {
            return self.location();
        }
        let shared = fs::Permissions::from_mode(0o711);
        fs::set_permissions(self.folder.path(), shared).unwrap();
        chown(self.root(), Some(NOBODY), Some(NOBODY)).unwrap();
        self.location().replace(&mine, "//nobody@")
    }

    /// Sends a signal to the processes of its sessions, and to that which takes connections, if that is wanted.
    pub(crate) fn signal(&self, signal: &str, with_listener: bool) {
        let server = self.child.as_ref().unwrap().id();
        let listener = with_listener.then_some(server);
        for process in below(server).into_iter().chain(listener) {
            // One may have ended meanwhile.
            let _ = Command::new("kill")
                .args([signal, &process.to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The user `nobody` of Debian.
const NOBODY: u32 = 65534;

/// The processes below one, those below these first.
fn below(process: u32) -> Vec<u32> {
    let told = Command::new("ps")
        .args(["-o", "pid=", "--ppid", &process.to_string()])
        .output();
    let told = told.map(|told| String::from_utf8_lossy(&told.stdout).into_owned());
    let mut all = Vec::new();
    for child in told.unwrap_or_default().split_whitespace() {
        let child = child.parse().unwrap();
        all.extend(below(child));
        all.push(child);
    }
    all
}

/// Who runs the test.
pub(crate) fn user() -> String {
    let told = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(told.stdout).unwrap().trim().to_owned()
}

/// Makes a pair of keys.
pub(crate) fn make_key(path: &Path, passphrase: &str, kind: &str) {
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-N", passphrase, "-f"])
        .arg(path)
        .status()
        .unwrap();
    assert!(made.success());
}
