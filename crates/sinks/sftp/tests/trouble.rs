//! Servers with troubles of their own: no folder, no rights, no room, no SFTP, things that are no objects.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

mod stage;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use backup_core::context::OpContext;
use backup_core::{ByteRange, ErrorKind, ObjectKey, PutMode, Retry, Sink, SinkError};
use backup_sink_sftp::{SftpSink, Surroundings};
use backup_testkit::context;
use bytes::Bytes;
use futures::TryStreamExt as _;
use stage::Sshd;

fn sink(location: &str) -> SftpSink {
    SftpSink::new(&location.parse().unwrap(), &Surroundings::none()).unwrap()
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

async fn put(sink: &SftpSink, name: &str, size: usize) -> Result<(), SinkError> {
    let body = Bytes::from(vec![7; size]);
    sink.put(&context(), &key(name), body, PutMode::Create)
        .await?;
    Ok(())
}

async fn listed(sink: &SftpSink) -> Result<Vec<String>, SinkError> {
    let all: Vec<_> = sink.list(&context(), "", None).try_collect().await?;
    let mut names: Vec<_> = all.into_iter().map(|meta| meta.key.to_string()).collect();
    names.sort();
    Ok(names)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn a_root_that_is_missing_is_made_only_where_that_is_wanted() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let root = server.root().join("not/there");
    let location = server.location_by(server.port, &root);
    let strict = sink(&location);
    let error = put(&strict, "data/ab/x", 3).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(error.to_string().contains("create=yes"), "{error}");
    assert!(listed(&strict).await.is_err());
    assert!(
        strict
            .get(&context(), &key("x"), ByteRange::Full)
            .await
            .is_err()
    );
    assert!(!root.exists());
    let making = sink(&format!("{location}&create=yes"));
    put(&making, "data/ab/x", 3).await.unwrap();
    assert_eq!(listed(&strict).await.unwrap(), ["data/ab/x"]);
    assert_eq!(mode(&root.join("data/ab/x")), 0o600);
    for folder in [&root, &root.join("data"), &root.join("data/ab")] {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
    // A disk that went away is not made anew.
    fs::remove_dir_all(&root).unwrap();
    let error = put(&making, "data/ab/y", 3).await.unwrap_err();
    assert!(error.to_string().contains("is gone"), "{error}");
    assert!(!root.exists());
}

#[tokio::test]
async fn a_path_may_begin_at_home() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let name = format!("backstay-test-{}", std::process::id());
    let at = server.folder.path().display();
    let location = format!(
        "sftp://{}@127.0.0.1:{}/~/{name}?create=yes&identity={at}/user&known_hosts={at}/known",
        stage::user(),
        server.port
    );
    put(&sink(&location), "a/b", 3).await.unwrap();
    let home = Command::new("sh").args(["-c", "echo ~"]).output().unwrap();
    let home = String::from_utf8(home.stdout).unwrap();
    let folder = Path::new(home.trim()).join(name);
    assert!(folder.join("a/b").is_file());
    fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_server_that_only_reads_says_so() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("-R");
    let sink = sink(&server.location());
    fs::write(server.root().join("a"), "there").unwrap();
    let got = sink
        .get(&context(), &key("a"), ByteRange::Full)
        .await
        .unwrap();
    assert_eq!(&got[..], b"there");
    let error = put(&sink, "b", 3).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    let error = sink.delete(&context(), &key("a")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn a_folder_that_the_account_may_only_read_is_told() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let location = server.location_for_anyone();
    let (root, sink, cx) = (server.root(), sink(&location), context());
    put(&sink, "data/ab/x", 3).await.unwrap();
    let folders = [root.join("data/ab"), root.join("data"), root.clone()];
    let may = |mode| {
        for folder in &folders {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    may(0o500);
    let create = put(&sink, "data/ab/y", 3).await.unwrap_err();
    let folder = put(&sink, "data/cd/y", 3).await.unwrap_err();
    let delete = sink.delete(&cx, &key("data/ab/x")).await.unwrap_err();
    let replace = {
        let name = key("y");
        let put = sink.put(&cx, &name, Bytes::from_static(b"y"), PutMode::Replace);
        put.await.map(drop).unwrap_err()
    };
    for error in [create, folder, delete, replace] {
        let text = error.to_string();
        assert_eq!(
            (error.kind, error.retry),
            (ErrorKind::Denied, Retry::Never),
            "{text}"
        );
        let place = format!("@127.0.0.1:{}{}", server.port, root.display());
        for word in [&place[..], "owner and the modes"] {
            assert!(text.contains(word), "{word}: {text}");
        }
    }
    assert_eq!(listed(&sink).await.unwrap(), ["data/ab/x"]);
    let got = sink.get(&cx, &key("data/ab/x"), ByteRange::Full).await;
    assert_eq!(got.unwrap().len(), 3);
    may(0o700);
    put(&sink, "data/ab/y", 3).await.unwrap();
    assert_eq!(listed(&sink).await.unwrap(), ["data/ab/x", "data/ab/y"]);
}

#[tokio::test]
async fn a_server_without_sftp_is_told_apart_from_one_that_breaks_off() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::configured("", "ForceCommand /bin/false");
    let error = put(&sink(&server.location()), "b", 3).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Other, "{error}");
    let server = Sshd::configured("", "ForceCommand echo Welcome, dear friend");
    let error = put(&sink(&server.location()), "b", 3).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Other, "{error}");
    assert!(error.to_string().contains("start-up file"), "{error}");
}

/// A file system of its own, that is taken away again.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn on(folder: &'a Path, size: &str) -> Option<Self> {
        let size = format!("size={size},mode=0700");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder);
        let mounted = mount.output().is_ok_and(|mounted| mounted.status.success());
        if !mounted {
            println!("skipped: no file system can be mounted here");
        }
        mounted.then_some(Self(folder))
    }
}

impl Small<'_> {
    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        let mut mount = Command::new("mount");
        assert!(
            mount
                .args(["-o", &options])
                .arg(self.0)
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_and_leaves_nothing() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let root = server.root();
    let Some(small) = Small::on(&root, "3m") else {
        return;
    };
    let sink = sink(&server.location());
    let room = sink.room(&context()).await.unwrap().unwrap();
    assert_eq!(room.total, 3 << 20);
    put(&sink, "data/a", 1 << 20).await.unwrap();
    let error = put(&sink, "data/b", 4 << 20).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("full"), "{error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fs::read_dir(root.join("data")).unwrap().count(), 1);
    put(&sink, "data/b", 1 << 20).await.unwrap();
    drop(small);
}

#[tokio::test]
async fn a_disk_without_room_for_more_files_is_told() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let root = server.root();
    let Some(small) = Small::on(&root, "3m,nr_inodes=12") else {
        return;
    };
    let sink = sink(&server.location());
    let mut stored = Vec::new();
    let error = loop {
        let name = format!("data/{:02x}/a", stored.len());
        match put(&sink, &name, 3).await {
            Ok(()) => stored.push(name),
            // A second name needs one more on this file system: where that was the last, it is renamed the next time.
            Err(error) if error.retry == Retry::Now => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind, ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("df -i"), "{error}");
    assert!(stored.len() > 1);
    assert_eq!(listed(&sink).await.unwrap(), stored);
    drop(small);
}

#[tokio::test]
async fn a_disk_that_is_mounted_read_only_is_told() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let root = server.root();
    let Some(small) = Small::on(&root, "3m") else {
        return;
    };
    let sink = sink(&server.location());
    put(&sink, "data/a", 3).await.unwrap();
    small.remount("ro");
    let create = put(&sink, "data/b", 3).await.unwrap_err();
    let folder = put(&sink, "more/b", 3).await.unwrap_err();
    let delete = sink.delete(&context(), &key("data/a")).await.unwrap_err();
    for error in [create, folder, delete] {
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
        assert!(error.to_string().contains("mounted read-only"), "{error}");
    }
    small.remount("rw");
    put(&sink, "more/b", 3).await.unwrap();
    assert_eq!(listed(&sink).await.unwrap(), ["data/a", "more/b"]);
}

/// A limit of the server that its file system does not tell, as a quota is.
#[tokio::test]
async fn a_limit_that_is_no_full_disk_is_told_apart() {
    if !stage::has_sshd() {
        return;
    }
    let mut server = Sshd::with("");
    server.stop();
    // 1 MiB, in blocks of 512 bytes.
    let script = format!(
        "trap '' XFSZ && ulimit -f 2048 && exec /usr/sbin/sshd -D -f {} -p {} -E {}",
        server.at("config").display(),
        server.port,
        server.at("log").display()
    );
    assert!(server.start_as(Command::new("sh").args(["-c", &script])));
    let sink = sink(&server.location());
    let error = put(&sink, "data/a", 2 << 20).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Other, "{error}");
    for word in ["there is room", "quota", "127.0.0.1"] {
        assert!(error.to_string().contains(word), "{error}");
    }
    put(&sink, "data/b", 1 << 19).await.unwrap();
    assert_eq!(listed(&sink).await.unwrap(), ["data/b"]);
}

#[tokio::test]
async fn what_is_no_object_is_none() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let (root, sink) = (server.root(), sink(&server.location()));
    put(&sink, "data/a", 3).await.unwrap();
    symlink("a", root.join("data/link")).unwrap();
    fs::write(root.join("data/.hidden"), "").unwrap();
    fs::write(root.join("data/with space"), "").unwrap();
    fs::write(root.join(OsStr::from_bytes(&[0xff, b'a'])), "").unwrap();
    assert_eq!(listed(&sink).await.unwrap(), ["data/a"]);
    let cx = context();
    let link = sink
        .get(&cx, &key("data/link"), ByteRange::Full)
        .await
        .unwrap_err();
    assert_eq!(link.kind, ErrorKind::Invalid, "{link}");
    let below = put(&sink, "data/a/b", 3).await.unwrap_err();
    assert_eq!(below.kind, ErrorKind::Invalid, "{below}");
    assert!(below.to_string().contains("is an object"), "{below}");
    let folder = put(&sink, "data", 3).await.unwrap_err();
    assert_eq!(folder.kind, ErrorKind::Invalid, "{folder}");
    // Many more handles than fit into one byte.
    for number in 0..300 {
        sink.head(&cx, &key("data/a")).await.unwrap();
        let got = sink
            .get(&cx, &key("data/a"), ByteRange::Full)
            .await
            .unwrap();
        assert_eq!(got.len(), 3, "{number}");
    }
}

#[tokio::test]
async fn tidying_takes_old_temporaries_and_nothing_else() {
    if !stage::has_sshd() {
        return;
    }
    let server = Sshd::with("");
    let (root, sink) = (server.root(), sink(&server.location()));
    put(&sink, "data/a", 3).await.unwrap();
    let old = root.join(format!("data/.tmp-{:032x}", 1));
    let new = root.join(format!("data/.tmp-{:032x}", 2));
    let other = root.join("data/.tmp-mine");
    for path in [&old, &new, &other] {
        fs::write(path, "left").unwrap();
    }
    let cx = OpContext::new(std::sync::Arc::new(Now));
    let past = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    for path in [&old, &other] {
        fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_modified(past)
            .unwrap();
    }
    let tidied = sink.tidy(&cx, Duration::from_secs(3600)).await.unwrap();
    assert_eq!(tidied, 1);
    assert!(!old.exists() && new.exists() && other.exists());
    assert_eq!(listed(&sink).await.unwrap(), ["data/a"]);
}

/// The time as it is.
#[derive(Debug)]
struct Now;

impl backup_core::Clock for Now {
    #[allow(
        clippy::disallowed_methods,
        reason = "files have the times of the system"
    )]
    fn now(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }
}
