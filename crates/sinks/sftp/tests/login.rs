//! Getting in, and being kept out: keys, agents, passwords, and keys of hosts, each with the error that it ends in.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use backup_core::{ErrorKind, ObjectKey, PutMode, Retry, Sink, SinkError};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use stage::{Sshd, make_key, user};

async fn put(location: &str, around: &Surroundings) -> Result<(), SinkError> {
    let sink = SftpSink::new(&location.parse().unwrap(), around).unwrap();
    let key = ObjectKey::new("a").unwrap();
    let body = Bytes::from_static(b"an object");
    sink.put(&context(), &key, body, PutMode::Replace).await?;
    Ok(())
}

/// Nobody is to be asked again in vain, and it is to be said what to do.
fn assert_denied(answer: Result<(), SinkError>, words: &[&str]) {
    let error = answer.unwrap_err();
    let text = error.to_string();
    assert_eq!(
        (error.kind, error.retry),
        (ErrorKind::Denied, Retry::Never),
        "{text}"
    );
    for word in words {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn plain(server: &Sshd) -> String {
    let (at, root) = (server.folder.path().display(), server.root());
    format!(
        "sftp://{}@127.0.0.1:{}{}?known_hosts={at}/known",
        user(),
        server.port,
        root.display()
    )
}

/// An agent with one key; it ends with the test.
struct Agent(Child, std::path::PathBuf);

impl Agent {
    fn with(key: &Path, folder: &Path) -> Self {
        let socket = folder.join("agent");
        let mut agent = Command::new("ssh-agent");
        agent.arg("-D").arg("-a").arg(&socket).stdout(Stdio::null());
        let agent = agent.spawn().unwrap();
        while !socket.exists() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket);
        assert!(add.status().unwrap().success());
        Self(agent, socket)
    }

    fn around(&self) -> Surroundings {
        let socket = self.1.display().to_string();
        Surroundings::of(move |name| (name == "SSH_AUTH_SOCK").then(|| socket.clone()))
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn keys_in_files_of_every_kind_open() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    put(&server.location(), &Surroundings::none())
        .await
        .unwrap();
    for kind in ["rsa", "ecdsa"] {
        let key = server.at(kind);
        make_key(&key, "", kind);
        let public = fs::read(server.at(&format!("{kind}.pub"))).unwrap();
        fs::write(server.at("authorized"), public).unwrap();
        let location = format!("{}&identity={}", plain(&server), key.display());
        put(&location, &Surroundings::none()).await.unwrap();
    }
    // The usual keys of a home are found there.
    let home = server.at("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    fs::copy(server.at("rsa"), home.join(".ssh/id_rsa")).unwrap();
    fs::copy(server.at("user.pub"), server.at("authorized")).unwrap();
    let around = Surroundings::none().at_home(Some(home.clone()));
    assert_denied(
        put(&plain(&server), &around).await,
        &["id_rsa: refused", "identity=FILE"],
    );
    fs::copy(server.at("user"), home.join(".ssh/id_ed25519")).unwrap();
    put(&plain(&server), &around).await.unwrap();
}

#[tokio::test]
async fn encrypted_keys_want_their_passphrase() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let key = server.at("locked");
    make_key(&key, "open sesame", "ed25519");
    fs::copy(server.at("locked.pub"), server.at("authorized")).unwrap();
    let location = format!("{}&identity={}", plain(&server), key.display());
    let none = Surroundings::none();
    assert_denied(
        put(&location, &none).await,
        &["is encrypted", "passphrase_file", "ssh-add"],
    );
    fs::write(server.at("phrase"), "open sesame\n").unwrap();
    fs::write(server.at("wrong"), "close sesame\n").unwrap();
    let by = |name: &str| format!("{location}&passphrase_file={}", server.at(name).display());
    put(&by("phrase"), &none).await.unwrap();
    assert_denied(
        put(&by("wrong"), &none).await,
        &["does not open with the passphrase"],
    );
    let missing = put(&by("missing"), &none).await.unwrap_err();
    assert!(missing.to_string().contains("cannot be read"), "{missing}");
    let variable = format!("{location}&passphrase_env=PHRASE");
    let around = Surroundings::of(|name| (name == "PHRASE").then(|| "open sesame".into()));
    put(&variable, &around).await.unwrap();
    let unset = put(&variable, &none).await.unwrap_err();
    assert!(unset.to_string().contains("PHRASE"), "{unset}");
}

#[tokio::test]
async fn an_agent_is_asked() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let agent = Agent::with(&server.at("user"), server.folder.path());
    put(&plain(&server), &agent.around()).await.unwrap();
    // It has the passphrase of a key that is named.
    make_key(&server.at("locked"), "x", "ed25519");
    fs::copy(server.at("user.pub"), server.at("locked.pub")).unwrap();
    let locked = format!(
        "{}&identity={}",
        plain(&server),
        server.at("locked").display()
    );
    put(&locked, &agent.around()).await.unwrap();
    fs::write(server.at("authorized"), "").unwrap();
    assert_denied(
        put(&plain(&server), &agent.around()).await,
        &["of the SSH agent: refused"],
    );
    drop(agent);
    let gone = Surroundings::of(|name| (name == "SSH_AUTH_SOCK").then(|| "/nowhere/agent".into()));
    assert_denied(
        put(&plain(&server), &gone).await,
        &["/nowhere/agent", "identity=FILE"],
    );
    assert_denied(
        put(&plain(&server), &Surroundings::none()).await,
        &["SSH_AUTH_SOCK"],
    );
}

#[tokio::test]
async fn keys_of_hosts_are_checked_before_anything_is_said() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let none = Surroundings::none();
    let known = server.at("known");
    let line = fs::read_to_string(&known).unwrap();
    let print = Command::new("ssh-keygen")
        .arg("-lf")
        .arg(server.at("host.pub"))
        .output()
        .unwrap();
    let print = String::from_utf8(print.stdout).unwrap();
    let print = print.split(' ').nth(1).unwrap();

    fs::write(&known, "").unwrap();
    let scan = format!("ssh-keyscan -t ed25519 -p {} 127.0.0.1 >>", server.port);
    assert_denied(
        put(&server.location(), &none).await,
        &["is not known", print, &scan],
    );
    assert!(!server.log().contains("Accepted"), "{}", server.log());

    // What the error says helps.
    let scan = format!("{scan} {} 2>/dev/null", known.display());
    let scanned = Command::new("sh").args(["-c", &scan]).status().unwrap();
    assert!(scanned.success());
    put(&server.location(), &none).await.unwrap();

    // Hashed, as Debian writes them.
    let hashed = Command::new("ssh-keygen")
        .arg("-H")
        .arg("-f")
        .arg(&known)
        .output()
        .unwrap();
    assert!(hashed.status.success());
    assert!(fs::read_to_string(&known).unwrap().starts_with("|1|"));
    put(&server.location(), &none).await.unwrap();

    make_key(&server.at("other"), "", "ed25519");
    let other = fs::read_to_string(server.at("other.pub")).unwrap();
    fs::write(&known, format!("[127.0.0.1]:{} {other}", server.port)).unwrap();
    let words = [
        "HAS CHANGED",
        "nothing was sent",
        "known:1",
        "ssh-keygen -R",
    ];
    assert_denied(put(&server.location(), &none).await, &words);

    let key = fs::read_to_string(server.at("host.pub")).unwrap();
    fs::write(&known, format!("{line}@revoked * {key}")).unwrap();
    assert_denied(
        put(&server.location(), &none).await,
        &["REVOKED", "known:2"],
    );
}

#[tokio::test]
async fn where_nothing_helps_it_is_told_what_was_tried_and_what_would() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::configured("", "Match all\nPasswordAuthentication yes\n");
    let none = Surroundings::none();
    assert_denied(
        put(&plain(&server), &none).await,
        &[
            "SSH_AUTH_SOCK is not set",
            "The server takes publickey, password",
            "password_file=FILE",
        ],
    );
    let home = server.at("home");
    fs::create_dir_all(home.join(".ssh")).unwrap();
    for kind in ["ed25519", "ecdsa"] {
        make_key(&home.join(format!(".ssh/id_{kind}")), "", kind);
    }
    let around = Surroundings::none().at_home(Some(home));
    let place = format!("sftp://{}@127.0.0.1:{}/", user(), server.port);
    assert_denied(
        put(&plain(&server), &around).await,
        &[
            &place,
            "id_ed25519: refused",
            "id_ecdsa: refused",
            "The server takes publickey, password",
            "password_file=FILE",
        ],
    );
    let strict = Sshd::configured("", "Match all\nMaxAuthTries 1\n");
    assert_denied(
        put(&plain(&strict), &around).await,
        &["id_ed25519", "ended the connection", "identity=FILE"],
    );
}

/// A server in a name space of its own, in which this user has a password; only root can make one.
fn with_password(lines: &str, change: impl Fn(String) -> String) -> Option<Sshd> {
    let hash = Command::new("perl")
        .args(["-e", r#"print crypt("hunter2", "\$6\$backstay\$")"#])
        .output()
        .ok()?;
    let hash = String::from_utf8(hash.stdout).ok()?;
    let mut server = Sshd::configured("", lines);
    server.stop();
    let config = fs::read_to_string(server.at("config")).ok()?;
    fs::write(server.at("config"), change(config)).ok()?;
    let shadow = server.at("shadow");
    fs::write(&shadow, format!("{}:{hash}:19000:0:99999:7:::\n", user())).ok()?;
    let script = format!(
        "mount --bind {} /etc/shadow && exec /usr/sbin/sshd -D -f {} -p {} -E {}",
        shadow.display(),
        server.at("config").display(),
        server.port,
        server.at("log").display()
    );
    server
        .start_as(Command::new("unshare").args(["-m", "sh", "-c", &script]))
        .then_some(server)
}

#[tokio::test]
async fn passwords_come_from_files_and_are_never_shown() {
    if !stage::has_sshd() {
        return;
    }
    // The first that stands in the file counts, so this is beyond what the stage says.
    let lines = "Match all\nPasswordAuthentication yes\n";
    let Some(server) = with_password(lines, |config| config) else {
        println!("skipped: no mounts of its own, or no perl");
        return;
    };
    let none = Surroundings::none();
    fs::write(server.at("word"), "hunter2\n").unwrap();
    fs::write(server.at("wrong"), "hunter3\n").unwrap();
    let by = |name: &str| {
        format!(
            "{}&password_file={}",
            plain(&server),
            server.at(name).display()
        )
    };
    put(&by("word"), &none).await.unwrap();
    let wrong = put(&by("wrong"), &none).await;
    let text = wrong.as_ref().unwrap_err().to_string();
    assert!(!text.contains("hunter"), "{text}");
    assert_denied(
        wrong,
        &["password: refused", "Check the user and the password"],
    );
    let variable = format!("{}&password_env=WORD", plain(&server));
    let around = Surroundings::of(|name| (name == "WORD").then(|| "hunter2".into()));
    assert!(!format!("{around:?}").contains("hunter2"));
    put(&variable, &around).await.unwrap();
}

/// OpenSSH asks its questions through PAM alone.
#[tokio::test]
async fn a_server_that_only_asks_questions_is_answered_or_told_of() {
    if !stage::has_sshd() || !Path::new("/etc/pam.d/sshd").exists() {
        return;
    }
    let asking = |config: String| {
        let config = config.replace("UsePAM no", "UsePAM yes");
        config.replace(
            "KbdInteractiveAuthentication no",
            "KbdInteractiveAuthentication yes",
        )
    };
    let Some(server) = with_password("PubkeyAuthentication no", asking) else {
        println!("skipped: no mounts of its own, or no perl");
        return;
    };
    let none = Surroundings::none();
    assert_denied(
        put(&server.location(), &none).await,
        &[
            "user: refused",
            "The server takes keyboard-interactive",
            "It takes no keys",
            "password_file=FILE",
        ],
    );
    fs::write(server.at("word"), "hunter2\n").unwrap();
    fs::write(server.at("wrong"), "hunter3\n").unwrap();
    let by = |name: &str| {
        format!(
            "{}&password_file={}",
            plain(&server),
            server.at(name).display()
        )
    };
    put(&by("word"), &none).await.unwrap();
    let wrong = put(&by("wrong"), &none).await;
    let text = wrong.as_ref().unwrap_err().to_string();
    assert!(!text.contains("hunter"), "{text}");
    assert_denied(
        wrong,
        &[
            "asked for as a question",
            "Check the user and the password",
            "codes that change",
        ],
    );
}
