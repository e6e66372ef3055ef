//! The protocol of a put, call by call: in which order the file system is asked, and what is there
//! when any one of the calls fails or is the last one of the process.
//!
//! A put runs in a process of its own under `strace`, which injects failures and kills. Where
//! there is no `strace`, or it may not trace, these tests are skipped and say so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test"
)]

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use backup_core::{ByteRange, ErrorKind, OpContext, PutMode, Sink};
use backup_sink_local::{CreateBy, LocalSink};
use backup_testkit::{TestClock, context};
use bytes::Bytes;
use stage::{key, listed, no_temporaries, temporaries};
use tempfile::TempDir;

mod stage;

const BODY: Bytes = Bytes::from_static(&[7; 100_000]);
const NAME: &str = "data/ab/pack";

#[tokio::test]
#[ignore = "run by the other tests, under strace"]
#[expect(
    clippy::disallowed_methods,
    reason = "how a test talks to its other process"
)]
async fn child() {
    let root = std::env::var("CHILD_ROOT").expect("only as the child of another test");
    let mode = match std::env::var("CHILD_MODE").as_deref() {
        Ok("replace") => PutMode::Replace,
        _ => PutMode::Create,
    };
    match LocalSink::new(root)
        .put(&context(), &key(NAME), BODY, mode)
        .await
    {
        Ok(_) => println!("outcome Ok"),
        Err(error) => println!("outcome {:?} {error}", error.kind),
    }
}

/// A put in a process of its own, with strace's options.
struct Traced {
    folder: TempDir,
    output: Output,
}

impl Traced {
    fn put(options: &[&str], mode: &str) -> Option<Self> {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("root")).unwrap();
        Self::put_into(folder, options, mode)
    }

    fn put_into(folder: TempDir, options: &[&str], mode: &str) -> Option<Self> {
        let log = folder.path().join("log");
        let probe = Command::new("strace")
            .args(["-f", "-qq", "-o"])
            .arg(&log)
            .arg("true")
            .output();
        if !probe.is_ok_and(|output| output.status.success()) {
            println!("skipped: there is no strace here that may trace");
            return None;
        }
        let output = Command::new("strace")
            .args(["-f", "-qq", "-y", "-s", "0", "-o"])
            .arg(&log)
            .args(options)
            .arg(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "child",
                "--nocapture",
                "--test-threads=1",
            ])
            .env("CHILD_ROOT", folder.path().join("root"))
            .env("CHILD_MODE", mode)
            .output()
            .unwrap();
        Some(Self { folder, output })
    }

    fn sink(&self) -> LocalSink {
        LocalSink::new(self.root())
    }

    fn root(&self) -> std::path::PathBuf {
        self.folder.path().join("root")
    }

    /// What the put answered: `Ok` or a kind of error; nothing if it was killed.
    fn outcome(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.output.stdout).into_owned();
        let outcome = text.split_once("outcome ")?.1.split_whitespace().next()?;
        Some(outcome.to_owned())
    }

    /// The calls that have to do with the root: names of calls and paths below it, without the
    /// random part of temporary names.
    fn calls(&self) -> Vec<String> {
        let root = self.root().to_string_lossy().into_owned();
        let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap();
        log.lines()
            .filter(|line| line.contains(&root))
            .map(|line| shortened(line, &root))
            .collect()
    }
}

/// `123 linkat(7</tmp/x/root/data/ab>, ".tmp-1f…", …` as `linkat data/ab .tmp`.
fn shortened(line: &str, root: &str) -> String {
    let call = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    let (name, args) = call.split_once('(').unwrap();
    let folder = args.split_once(root).map_or("", |(_, rest)| rest);
    let folder = folder
        .split(['>', '"'])
        .next()
        .unwrap()
        .trim_start_matches('/');
    let file = args
        .split('"')
        .nth(1)
        .filter(|file| !file.is_empty() && !file.starts_with('/'));
    let parts = [
        Some(name),
        Some(folder).filter(|folder| !folder.is_empty()),
        file,
    ];
    let text = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
    match text.split_once(".tmp-") {
        Some((before, after)) => format!("{before}.tmp{}", after.get(32..).unwrap_or("")),
        None => text,
    }
}

const TRACE: &str = "trace=mkdirat,write,fsync,linkat,renameat,renameat2,unlinkat";

#[tokio::test]
async fn nothing_is_named_before_it_is_synced_and_nothing_acknowledged_before_its_name_is() {
    let Some(create) = Traced::put(&["-e", TRACE], "create") else {
        return;
    };
    assert_eq!(create.outcome().as_deref(), Some("Ok"));
    let before = [
        "mkdirat data",
        "fsync",
        "mkdirat data ab",
        "fsync data",
        "write data/ab/.tmp",
        "fsync data/ab/.tmp",
    ];
    let named = [
        "linkat data/ab .tmp",
        "unlinkat data/ab .tmp",
        "fsync data/ab",
    ];
    assert_eq!(create.calls(), [&before[..], &named[..]].concat());

    let Some(replace) = Traced::put(&["-e", TRACE], "replace") else {
        return;
    };
    let calls = replace.calls();
    let named = calls.strip_prefix(&before.map(str::to_owned)[..]).unwrap();
    let renamed = named[0].replace("renameat2", "renameat");
    assert_eq!(
        [renamed.as_str(), named[1].as_str()],
        ["renameat data/ab .tmp", "fsync data/ab"]
    );
    assert_eq!(named.len(), 2);
}

#[tokio::test]
async fn a_put_that_is_killed_at_any_call_leaves_the_whole_object_or_nothing() {
    let mut kills = 0;
    for mode in ["create", "replace"] {
        for call in [
            "mkdirat", "openat", "write", "fsync", "linkat", "renameat", "unlinkat",
        ] {
            for when in 1.. {
                let inject = format!("inject={call}:signal=KILL:when={when}");
                let trace = format!("trace={call}");
                let options = ["-e", &trace, "-e", &inject];
                let Some(traced) = Traced::put(&options, mode) else {
                    return;
                };
                check_after_kill(&traced).await;
                if traced.output.status.success() {
                    break;
                }
                kills += 1;
            }
        }
    }
    assert!(kills > 20, "only {kills} calls were killed");
}

async fn check_after_kill(traced: &Traced) {
    let sink = traced.sink();
    let whole = listed(&sink).await == [NAME];
    if whole {
        assert_eq!(
            sink.get(&context(), &key(NAME), ByteRange::Full)
                .await
                .unwrap(),
            BODY
        );
    } else {
        assert!(listed(&sink).await.is_empty());
    }
    // The next run gets through, and what was left can be swept.
    let again = sink
        .put(&context(), &key(NAME), BODY, PutMode::Create)
        .await;
    assert_eq!(
        again.err().map(|error| error.kind),
        whole.then_some(ErrorKind::Conflict)
    );
    let left = temporaries(&traced.root()).len() as u64;
    assert!(left <= 1);
    let late = OpContext::new(std::sync::Arc::new(TestClock::at(jiff::Timestamp::MAX)));
    let swept = sink.sweep_temporaries(&late, Duration::ZERO).await.unwrap();
    assert_eq!(swept.files, left);
    assert_eq!(listed(&sink).await, [NAME]);
}

#[tokio::test]
async fn a_call_that_fails_makes_one_clear_error_and_leaves_nothing() {
    let cases = [
        ("fsync", "EIO", "Other"),
        ("fsync", "ENOSPC", "NoSpace"),
        ("fsync", "EDQUOT", "NoSpace"),
        ("mkdirat", "EROFS", "Denied"),
        ("mkdirat", "ENOSPC", "NoSpace"),
        ("linkat", "ENOSPC", "NoSpace"),
        ("linkat", "ESTALE", "Unavailable"),
        ("linkat", "EEXIST", "Conflict"),
    ];
    for (call, errno, kind) in cases {
        for when in 1.. {
            let inject = format!("inject={call}:error={errno}:when={when}");
            let Some(traced) = Traced::put(&["-e", &inject], "create") else {
                return;
            };
            let outcome = traced.outcome().unwrap();
            no_temporaries(&traced.root());
            check_after_kill(&traced).await;
            if outcome == "Ok" {
                assert!(when > 1, "{call} is never called");
                break;
            }
            assert_eq!(outcome, kind, "{call} {errno} {when}");
        }
    }
}

#[tokio::test]
async fn a_call_that_is_interrupted_is_made_again() {
    for call in ["mkdirat", "fsync", "flock"] {
        let inject = format!("inject={call}:error=EINTR:when=1+2");
        let unknown = "inject=linkat,renameat2:error=EPERM";
        let Some(traced) = Traced::put(&["-e", &inject, "-e", unknown], "create") else {
            return;
        };
        assert_eq!(traced.outcome().as_deref(), Some("Ok"), "{call}");
        assert_eq!(listed(&traced.sink()).await, [NAME]);
    }
}

#[tokio::test]
async fn a_file_system_without_hard_links_is_found_out_and_used_otherwise() {
    for errno in ["EPERM", "EOPNOTSUPP", "EMLINK", "ENOSYS", "EINVAL"] {
        let link = format!("inject=linkat:error={errno}");
        let Some(traced) = Traced::put(&["-e", TRACE, "-e", &link], "create") else {
            return;
        };
        assert_eq!(traced.outcome().as_deref(), Some("Ok"), "{errno}");
        let last = traced.calls().into_iter().rev().take(2).collect::<Vec<_>>();
        assert_eq!(last, ["fsync data/ab", "renameat2 data/ab .tmp"], "{errno}");
        no_temporaries(&traced.root());

        let both = format!("inject=linkat,renameat2:error={errno}");
        for taken in [false, true] {
            let folder = TempDir::new().unwrap();
            let root = folder.path().join("root");
            seed(&root, taken).await;
            let traced = Traced::put_into(folder, &["-e", &both], "create").unwrap();
            let wanted = if taken { "Conflict" } else { "Ok" };
            assert_eq!(traced.outcome().as_deref(), Some(wanted), "{errno}");
            assert!(root.join(".create-lock").exists() || taken, "{errno}");
            assert_eq!(listed(&traced.sink()).await, [NAME]);
            no_temporaries(&root);
        }
    }
}

/// A root, with or without the object.
async fn seed(root: &Path, taken: bool) {
    let sink = LocalSink::new(root).creating_by(CreateBy::Lock);
    sink.create(&context()).await.unwrap();
    if taken {
        sink.put(&context(), &key(NAME), BODY, PutMode::Create)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn where_writers_cannot_be_kept_apart_nothing_is_written() {
    let unknown = "inject=linkat,renameat2:error=EPERM";
    let no_locks = "inject=flock:error=ENOLCK";
    let Some(traced) = Traced::put(&["-e", unknown, "-e", no_locks], "create") else {
        return;
    };
    assert_eq!(traced.outcome().as_deref(), Some("Unsupported"));
    assert!(listed(&traced.sink()).await.is_empty());
    no_temporaries(&traced.root());
}
