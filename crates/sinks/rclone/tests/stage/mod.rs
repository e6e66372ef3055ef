//! What tests are set on: remotes of rclone in a folder that goes away, among them a WebDAV server of rclone's own behind
//! a line that can be cut, held and spoiled.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "each test uses a part of it"
)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Whether there is an rclone to test with; says so if there is none.
pub(crate) fn has_rclone() -> bool {
    let has = Command::new("rclone")
        .arg("version")
        .output()
        .is_ok_and(|told| told.status.success());
    if !has {
        println!("skipped: there is no rclone (Debian: rclone)");
    }
    has
}

/// A secret as rclone's configuration has it.
fn obscured(secret: &str) -> String {
    let mut child = Command::new("rclone")
        .args(["obscure", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(secret.as_bytes()).unwrap();
    drop(input);
    let told = child.wait_with_output().unwrap();
    assert!(told.status.success());
    String::from_utf8(told.stdout).unwrap().trim().to_owned()
}

/// A folder with a configuration of rclone in it.
pub(crate) struct Remotes {
    pub(crate) folder: TempDir,
}

impl Remotes {
    /// With the remotes `disk`, a folder of this host, and `vault`, an encrypted one.
    pub(crate) fn new() -> Self {
        let remotes = Self {
            folder: TempDir::new().unwrap(),
        };
        fs::create_dir(remotes.root()).unwrap();
        let hidden = remotes.at("hidden");
        remotes.add("disk", "type = local\n");
        remotes.add(
            "vault",
            &format!(
                "type = crypt\nremote = {}\npassword = {}\n",
                hidden.display(),
                obscured("hunter2")
            ),
        );
        remotes
    }

    /// Adds a remote to the configuration.
    pub(crate) fn add(&self, name: &str, text: &str) {
        let mut config = fs::read_to_string(self.config()).unwrap_or_default();
        config.push_str(&format!("[{name}]\n{text}\n"));
        fs::write(self.config(), config).unwrap();
    }

    /// Adds the remote `dav`, at a port.
    pub(crate) fn add_dav(&self, port: u16, password: &str) {
        let pass = obscured(password);
        self.add(
            "dav",
            &format!(
                "type = webdav\nurl = http://127.0.0.1:{port}\nvendor = other\nuser = me\npass = {pass}\n"
            ),
        );
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the remotes keep their files in.
    pub(crate) fn root(&self) -> PathBuf {
        self.at("root")
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.at("rclone.conf")
    }

    /// A location by this configuration.
    pub(crate) fn location(&self, remote_and_path: &str) -> String {
        let config = self.config();
        format!(
            "rclone:{remote_and_path}?settle=0&config={}",
            config.display()
        )
    }

    /// A folder on `disk`.
    pub(crate) fn on_disk(&self, folder: &Path) -> String {
        self.location(&format!("disk:{}", folder.display()))
    }

    /// The processes of rclone that run by this configuration.
    pub(crate) fn children(&self) -> Vec<u32> {
        let config = self.config();
        let config = config.to_str().unwrap();
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = numbers.filter(|number: &u32| {
            let line = fs::read(format!("/proc/{number}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.starts_with("rclone\0") && line.contains(config)
        });
        ours.collect()
    }

    /// Waits until no such process runs.
    pub(crate) fn children_end(&self) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if self.children().is_empty() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

/// Kills a process that one of our sinks started.
pub(crate) fn kill(process: u32) {
    let killed = Command::new("kill")
        .args(["-9", &process.to_string()])
        .status();
    assert!(killed.unwrap().success());
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A WebDAV server, rclone's own, of a folder; its user is `me`, the password `hunter2`.
pub(crate) struct Dav {
    pub(crate) port: u16,
    child: Child,
}

impl Drop for Dav {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dav {
    pub(crate) fn of(folder: &Path) -> Self {
        for _ in 0..20 {
            let port = free_port();
            let mut child = Command::new("rclone")
                .args(["serve", "webdav", "--addr"])
                .arg(format!("127.0.0.1:{port}"))
                .args(["--config", "/dev/null", "--dir-cache-time", "0s"])
                .arg(folder)
                .env("RCLONE_USER", "me")
                .env("RCLONE_PASS", "hunter2")
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(10) && child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return Self { port, child };
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("rclone serve webdav does not start");
    }
}

/// What a line does with what goes over it.
#[derive(Default)]
struct Wire {
    /// Connections are cut when so many bytes have gone to the server; for ever if there are none left.
    cut_up: AtomicU64,
    /// The same of bytes that come from it.
    cut_down: AtomicU64,
    cuts: AtomicU64,
    /// Nothing goes on.
    held: AtomicBool,
    /// The bit of one byte is turned when so many have gone to the server.
    spoil: AtomicU64,
    /// Each request is answered with this status by the line itself.
    answers: AtomicU64,
    sent: AtomicU64,
}

/// A line to a server.
pub(crate) struct Line {
    pub(crate) port: u16,
    wire: Arc<Wire>,
}

impl Line {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Arc::new(Wire::default());
        let shared = wire.clone();
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (Ok(client), wire) = (client, shared.clone()) else {
                    return;
                };
                std::thread::spawn(move || carry(&wire, client, server));
            }
        });
        Self { port, wire }
    }

    /// Cuts connections, so many times, when so many bytes have gone to the server.
    pub(crate) fn cut_up(&self, after: u64, times: u64) {
        self.wire.cuts.store(times, Ordering::SeqCst);
        self.wire.cut_up.store(after, Ordering::SeqCst);
    }

    /// The same of bytes that come from the server.
    pub(crate) fn cut_down(&self, after: u64, times: u64) {
        self.wire.cuts.store(times, Ordering::SeqCst);
        self.wire.cut_down.store(after, Ordering::SeqCst);
    }

    pub(crate) fn heal(&self) {
        for number in [
            &self.wire.cut_up,
            &self.wire.cut_down,
            &self.wire.spoil,
            &self.wire.answers,
        ] {
            number.store(0, Ordering::SeqCst);
        }
        self.wire.held.store(false, Ordering::SeqCst);
    }

    pub(crate) fn hold(&self) {
        self.wire.held.store(true, Ordering::SeqCst);
    }

    /// Turns a bit of what goes to the server, so many bytes behind the beginning of a connection's next piece.
    pub(crate) fn spoil(&self, after: u64) {
        self.wire.spoil.store(after, Ordering::SeqCst);
    }

    /// Answers each request itself.
    pub(crate) fn answer(&self, status: u64) {
        self.wire.answers.store(status, Ordering::SeqCst);
    }

    /// How many bytes have gone to the server.
    pub(crate) fn sent(&self) -> u64 {
        self.wire.sent.load(Ordering::SeqCst)
    }
}

fn carry(wire: &Arc<Wire>, client: TcpStream, server: u16) {
    let status = wire.answers.load(Ordering::SeqCst);
    if status > 0 {
        return answer(client, status);
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
        return;
    };
    let (up, down) = (wire.clone(), wire.clone());
    let (client_too, server_too) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    std::thread::spawn(move || pass(&up, client, server, true));
    pass(&down, server_too, client_too, false);
}

fn answer(mut client: TcpStream, status: u64) {
    let mut request = [0; 16 << 10];
    let _ = client.read(&mut request);
    let text = format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let _ = client.write_all(text.as_bytes());
    let _ = client.shutdown(Shutdown::Write);
    // So that the answer is not lost with what is still to be read.
    let _ = client.set_read_timeout(Some(Duration::from_millis(200)));
    while matches!(client.read(&mut request), Ok(read) if read > 0) {}
}

fn pass(wire: &Wire, mut from: TcpStream, mut to: TcpStream, is_up: bool) {
    let mut piece = vec![0; 16 << 10];
    let mut passed = 0u64;
    while let Ok(read @ 1..) = from.read(&mut piece) {
        while wire.held.load(Ordering::SeqCst) && passed > 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        if is_up && wire.answers.load(Ordering::SeqCst) > 0 {
            break;
        }
        passed += read as u64;
        let cut = if is_up { &wire.cut_up } else { &wire.cut_down };
        let after = cut.load(Ordering::SeqCst);
        if after > 0 && passed > after {
            let left = wire.cuts.load(Ordering::SeqCst);
            if left <= 1 {
                cut.store(0, Ordering::SeqCst);
            }
            wire.cuts.store(left.saturating_sub(1), Ordering::SeqCst);
            break;
        }
        let spoil = wire.spoil.load(Ordering::SeqCst);
        if is_up && spoil > 0 && passed > spoil {
            wire.spoil.store(0, Ordering::SeqCst);
            piece[read / 2] ^= 1;
        }
        if to.write_all(&piece[..read]).is_err() {
            break;
        }
        if is_up {
            wire.sent.fetch_add(read as u64, Ordering::SeqCst);
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
