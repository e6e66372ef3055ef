//! Logins that run out: rclone renews them, and what it gets instead has to be kept. The remote is HiDrive's, whose
//! addresses can be set; the server that renews stands here.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use backup_core::context::{Event, Observer};
use backup_core::{ErrorKind, Sink, SinkError};
use backup_sink_rclone::RcloneSink;
use backup_testkit::context;
use futures::TryStreamExt as _;
use stage::Remotes;

/// A server that gives tokens, or none, and knows no files.
fn server(gives: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || answer(client, gives));
        }
    });
    port
}

fn answer(mut client: TcpStream, gives: bool) {
    let mut request = [0; 8 << 10];
    let Ok(read) = client.read(&mut request) else {
        return;
    };
    let is_token = request[..read].starts_with(b"POST /token");
    let (status, text) = match (is_token, gives) {
        (true, true) => (
            "200 OK",
            r#"{"access_token":"new","token_type":"Bearer","refresh_token":"rotated","expires_in":3600}"#,
        ),
        (true, false) => ("400 Bad Request", r#"{"error":"invalid_grant"}"#),
        _ if request[..read].starts_with(b"GET /api/meta?fields=name%2Ctype&path=%2F ") => {
            ("200 OK", r#"{"name":"/","type":"dir"}"#)
        }
        _ => ("404 Not Found", r#"{"code":404,"msg":"Not Found"}"#),
    };
    let length = text.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    );
    let _ = client.write_all(text.as_bytes());
}

fn remotes(port: u16) -> Remotes {
    let remotes = Remotes::new();
    remotes.add("hi", &login(port));
    remotes
}

fn login(port: u16) -> String {
    let at = format!("http://127.0.0.1:{port}");
    let token = r#"{"access_token":"old","token_type":"Bearer","refresh_token":"first","expiry":"2020-01-01T00:00:00Z"}"#;
    format!(
        "type = hidrive\nendpoint = {at}/api\ntoken_url = {at}/token\nauth_url = {at}/auth\ntoken = {token}\n"
    )
}

#[derive(Debug, Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn on(&self, event: Event<'_>) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text.to_owned());
        }
    }
}

async fn looked_for(location: &str, notes: &Arc<Notes>) -> (SinkError, RcloneSink) {
    let sink = RcloneSink::new(&format!("{location}&retries=1").parse().unwrap()).unwrap();
    let mut cx = context();
    cx.observer = notes.clone();
    let listed: Result<Vec<_>, _> = sink.list(&cx, "", None).try_collect().await;
    (listed.unwrap_err(), sink)
}

#[tokio::test]
async fn a_login_that_was_renewed_is_kept() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = remotes(server(true));
    let notes = Arc::default();
    let (error, _) = looked_for(&remotes.location("hi:x"), &notes).await;
    assert_ne!(error.kind, ErrorKind::Denied, "{error}");
    let config = fs::read_to_string(remotes.config()).unwrap();
    assert!(
        config.contains("rotated") && !config.contains("first"),
        "{config}"
    );
    assert!(notes.0.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_login_that_is_not_renewed_names_the_remedy() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = remotes(server(false));
    let (error, _) = looked_for(&remotes.location("hi:x"), &Arc::default()).await;
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    let text = error.to_string();
    assert!(text.contains("rclone config reconnect hi:"), "{text}");
    assert!(!text.contains("\"first\""), "{text}");
}

/// A file system that can be made read-only for everybody.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn at(folder: &'a Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "tmpfs"])
            .arg(folder)
            .output();
        let is_mounted = mounted.is_ok_and(|told| told.status.success());
        if !is_mounted {
            println!("skipped: nothing can be mounted here");
        }
        is_mounted.then_some(Self(folder))
    }

    fn freeze(&self) {
        let frozen = Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(self.0)
            .status();
        assert!(frozen.unwrap().success());
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_login_that_cannot_be_kept_is_told() {
    if !stage::has_rclone() {
        return;
    }
    let remotes = Remotes::new();
    let folder = remotes.root();
    let Some(mounted) = Mounted::at(&folder) else {
        return;
    };
    let config = folder.join("rclone.conf");
    fs::write(&config, format!("[hi]\n{}", login(server(true)))).unwrap();
    mounted.freeze();
    let told: Arc<Notes> = Arc::default();
    let location = format!("rclone:hi:x?config={}", config.display());
    let (_, sink) = looked_for(&location, &told).await;
    let mut cx = context();
    cx.observer = told.clone();
    // What rclone says may come behind its answer; it is then told with the next one.
    let mut notes = String::new();
    for _ in 0..100 {
        notes = told.0.lock().unwrap().join("\n");
        if !notes.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        let _: Result<Vec<_>, _> = sink.list(&cx, "", None).try_collect().await;
    }
    assert!(
        notes.contains("could not write its configuration"),
        "{notes}"
    );
    assert!(!notes.contains("rotated"), "{notes}");
}
