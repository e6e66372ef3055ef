//! The configuration of OpenSSH's client: names of hosts that only it knows, its keys, and the way over other hosts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::path::{Path, PathBuf};

use backup_core::{ErrorKind, ObjectKey, PutMode, Sink, SinkError};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use stage::{Sshd, has_sshd, make_key, user};

async fn put(location: &str) -> Result<(), SinkError> {
    let around = Surroundings::none().as_user(Some("nobody-here".into()));
    let sink = SftpSink::new(&location.parse().unwrap(), &around).unwrap();
    let key = ObjectKey::new("a").unwrap();
    let body = Bytes::from_static(b"an object");
    sink.put(&context(), &key, body, PutMode::Replace).await?;
    Ok(())
}

/// What the client needs to know of a server.
fn of(server: &Sshd, name: &str) -> String {
    let at = server.folder.path().display();
    format!(
        "Host {name}\n HostName 127.0.0.1\n Port {}\n User {}\n IdentityFile {at}/user\n UserKnownHostsFile {at}/known\n \
         StrictHostKeyChecking yes\n",
        server.port,
        user()
    )
}

/// A file of the client, and the location of a server's root under a name that stands in it.
fn configured(server: &Sshd, host: &str, text: &str) -> (PathBuf, String) {
    let file = server.folder.path().join("client");
    fs::write(&file, text).unwrap();
    let location = format!(
        "sftp://{host}{}?ssh_config={}",
        server.root().display(),
        file.display()
    );
    (file, location)
}

fn has_object(server: &Sshd) -> bool {
    fs::read(server.root().join("a")).is_ok_and(|bytes| bytes == b"an object")
}

#[tokio::test]
async fn a_name_of_the_client_leads_to_the_server_with_its_key() {
    if !has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let (_, location) = configured(&server, "nas", &of(&server, "n?s"));
    put(&location).await.unwrap();
    assert!(has_object(&server));
    // What the location says comes first.
    let there = format!("root-of-nobody@nas:{}", server.port);
    let error = put(&location.replacen("nas", &there, 1)).await.unwrap_err();
    assert!(
        error.to_string().contains("root-of-nobody@127.0.0.1"),
        "{error}"
    );
    let error = put(&location.replacen("nas", "nas:1", 1))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("port 1 cannot be reached"),
        "{error}"
    );
}

#[tokio::test]
async fn a_key_in_the_client_s_list_that_is_encrypted_does_not_keep_the_next_one_away() {
    if !has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let locked = server.folder.path().join("locked");
    make_key(&locked, "a passphrase", "ed25519");
    let first = format!(
        "Host nas\n IdentitiesOnly yes\n IdentityFile {}\n",
        locked.display()
    );
    let (_, location) = configured(&server, "nas", &format!("{first}{}", of(&server, "nas")));
    put(&location).await.unwrap();
    let (_, location) = configured(
        &server,
        "nas",
        &format!(
            "{first}{}",
            of(&server, "nas").replace("/user\n", "/none\n")
        ),
    );
    let error = put(&location).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(error.to_string().contains("encrypted"), "{error}");
}

#[tokio::test]
async fn a_host_is_known_by_the_name_that_the_client_gives_it() {
    if !has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let text = of(&server, "nas");
    let aliased = format!("{text} HostKeyAlias the-store\n");
    let (_, location) = configured(&server, "nas", &aliased);
    let error = put(&location).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("host key of the-store is not known"),
        "{error}"
    );
    let known = server.folder.path().join("known");
    let line = fs::read_to_string(&known).unwrap();
    let key = line.split_once(' ').unwrap().1;
    fs::write(&known, format!("the-store {key}")).unwrap();
    put(&location).await.unwrap();
}

/// The one host sees the other, and this one sees only the first: so it is with a server behind a gate.
#[tokio::test]
async fn a_server_behind_another_is_reached_over_it() {
    if !has_sshd() {
        return;
    }
    let (gate, server) = (Sshd::with(""), Sshd::with(""));
    let hosts = format!("{}{}", of(&gate, "gate"), of(&server, "far"));
    let (file, location) = configured(&server, "far", &format!("{hosts} ProxyJump gate\n"));
    put(&location).await.unwrap();
    assert!(has_object(&server));
    assert!(gate.log().contains("Accepted publickey"), "{}", gate.log());
    let by_command = format!(
        "{hosts} ProxyCommand ssh -F {} -W %h:%p gate\n",
        file.display()
    );
    fs::remove_file(server.root().join("a")).unwrap();
    let (_, location) = configured(&server, "far", &by_command);
    put(&location).await.unwrap();
    assert!(has_object(&server));
    // What the gate says is told.
    let unknown = Path::new("/dev/null");
    let known = format!("UserKnownHostsFile {}/known", gate.folder.path().display());
    let hosts = hosts.replace(&known, &format!("UserKnownHostsFile {}", unknown.display()));
    let (_, location) = configured(&server, "far", &format!("{hosts} ProxyJump gate\n"));
    let error = put(&location).await.unwrap_err();
    assert!(
        error.to_string().contains("Host key verification failed"),
        "{error}"
    );
}

#[tokio::test]
async fn a_configuration_that_the_client_does_not_take_is_told() {
    if !has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let (file, location) = configured(&server, "nas", "Host nas\n NoSuchThing yes\n");
    let error = put(&location).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    for word in [
        "nosuchthing",
        "ssh_config=none",
        &file.display().to_string(),
    ] {
        assert!(error.to_string().contains(word), "{error}");
    }
}
