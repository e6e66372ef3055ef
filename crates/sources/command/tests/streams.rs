//! Commands and readers as streams, with real programs.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backup_core::{
    Body, Capture, CaptureReport, CaptureRequest, Clock, Entry, EntryKind, ErrorKind, OpContext,
    Outcome, Segment, Severity, Source, SourceError, StreamProfile,
};
use backup_source_command::{COMMAND_ATTR, CommandConfig, CommandSource, StdinSource};
use futures::StreamExt as _;
use jiff::Timestamp;

#[derive(Debug)]
struct Fixed;

impl Clock for Fixed {
    fn now(&self) -> Timestamp {
        Timestamp::new(1_700_000_000, 5).unwrap()
    }
}

fn context() -> OpContext {
    OpContext::new(Arc::new(Fixed))
}

fn shell(script: &str) -> CommandConfig {
    CommandConfig::new("out", ["sh", "-c", script])
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

async fn begin(source: &dyn Source, cx: &OpContext) -> Result<Box<dyn Capture>, SourceError> {
    let plan = source.plan(cx, &CaptureRequest::default()).await?;
    source.begin(cx, plan).await
}

async fn only_entry(capture: &mut dyn Capture, cx: &OpContext) -> Entry {
    let mut entries = capture.next_entries(cx).await.unwrap();
    assert!(capture.next_entries(cx).await.unwrap().is_empty());
    assert_eq!(entries.len(), 1);
    entries.remove(0)
}

/// Reads a stream and checks that its segments follow one another.
async fn drain(body: Body) -> Result<Vec<u8>, SourceError> {
    let Body::Stream(mut segments) = body else {
        panic!("{body:?}")
    };
    let mut all = Vec::new();
    while let Some(segment) = segments.next().await {
        let Segment::Data { offset, bytes } = segment? else {
            panic!()
        };
        assert_eq!(usize::try_from(offset).unwrap(), all.len());
        all.extend_from_slice(&bytes);
    }
    Ok(all)
}

fn capture(source: &dyn Source) -> Result<(Entry, Vec<u8>, CaptureReport), SourceError> {
    block_on(async {
        let cx = context();
        let mut capture = begin(source, &cx).await?;
        let mut entry = only_entry(capture.as_mut(), &cx).await;
        let content = drain(std::mem::replace(&mut entry.body, Body::None)).await?;
        let report = capture.close(&cx).await?;
        capture.settle(&cx, Outcome::Committed).await?;
        Ok((entry, content, report))
    })
}

fn run(config: CommandConfig) -> Result<(Entry, Vec<u8>, CaptureReport), SourceError> {
    capture(&CommandSource::new(config))
}

/// Whether a process is there and no zombie.
fn is_alive(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", pid.trim())).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .unwrap()
            .trim_start()
            .starts_with('Z')
    })
}

fn wait_until(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !met() {
        assert!(Instant::now() < deadline, "{what} did not come about");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn wait_for_file(path: &Path) -> String {
    wait_until("the file", || {
        fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'))
    });
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_output_of_a_command_is_one_stream_with_its_name_and_environment() {
    let temp = tempfile::tempdir().unwrap();
    let mut config = shell("printf '%s %s' \"$GREETING\" \"$(pwd)\"; cat");
    config.name = "dumps/today.sql".into();
    config.env.insert("GREETING".into(), "hello there".into());
    config.cwd = Some(temp.path().to_owned());
    config.profile = StreamProfile::Pages(8192);
    let (entry, content, report) = run(config).unwrap();
    let here = temp.path().canonicalize().unwrap();
    assert_eq!(
        String::from_utf8(content).unwrap(),
        format!("hello there {}", here.display())
    );
    assert_eq!(entry.path.to_string(), "dumps/today.sql");
    assert_eq!(
        (&entry.meta.kind, entry.profile),
        (&EntryKind::Stream, StreamProfile::Pages(8192))
    );
    assert_eq!(
        (entry.meta.mtime.seconds, entry.meta.mtime.nanos),
        (1_700_000_000, 5)
    );
    assert!(entry.meta.attrs[COMMAND_ATTR].starts_with("sh -c '"));
    assert!(report.findings.is_empty());
}

#[test]
fn a_large_stream_comes_whole() {
    let (_, content, _) = run(shell("seq 1 3000000")).unwrap();
    let want: String = (1..=3_000_000)
        .map(|number| format!("{number}\n"))
        .collect();
    assert!(
        content == want.as_bytes(),
        "{} bytes, not {}",
        content.len(),
        want.len()
    );
}

#[test]
fn a_failing_command_is_an_error_with_its_last_words_and_without_its_secrets() {
    let mut config = shell("echo data; seq 1 100000 >&2; echo 'no such table' >&2; exit 3");
    config.env.insert("PGPASSWORD".into(), "hunter2".into());
    let source = CommandSource::new(config);
    let error = capture(&source).unwrap_err();
    let text = format!("{error} {error:?} {source:?} {:?}", source.info());
    assert!(error.to_string().contains("exit status 3"), "{error}");
    assert!(error.to_string().ends_with("no such table"), "{error}");
    assert!(error.to_string().len() < 9_000 && !text.contains("hunter2"));
}

#[test]
fn a_command_that_is_killed_after_its_output_is_an_error() {
    let error = run(shell("echo data; exec >&-; kill -9 $$")).unwrap_err();
    assert!(error.to_string().contains("signal 9"), "{error}");
    let error = run(shell("echo data; exec >&-; sleep 0.1; exit 1")).unwrap_err();
    assert!(error.to_string().contains("exit status 1"), "{error}");
}

#[test]
fn what_cannot_be_run_is_an_error_that_names_it() {
    for (config, kind, word) in [
        (
            CommandConfig::new("x", ["no-such-program-anywhere"]),
            ErrorKind::NotFound,
            "anywhere",
        ),
        (
            CommandConfig::new("x", ["/no/such/program"]),
            ErrorKind::NotFound,
            "/no/such/program",
        ),
        (
            CommandConfig::new("x", ["/etc/passwd"]),
            ErrorKind::Denied,
            "/etc/passwd",
        ),
        (
            CommandConfig::new("x", [""; 0]),
            ErrorKind::Invalid,
            "no command",
        ),
        (
            CommandConfig::new("../x", ["true"]),
            ErrorKind::Invalid,
            "..",
        ),
        (
            CommandConfig::new("", ["true"]),
            ErrorKind::Invalid,
            "empty",
        ),
        (
            CommandConfig::new("x", ["echo", "a\0b"]),
            ErrorKind::Invalid,
            "argument",
        ),
        (
            CommandConfig {
                cwd: Some("/no/folder".into()),
                ..CommandConfig::new("x", ["true"])
            },
            ErrorKind::NotFound,
            "/no/folder",
        ),
    ] {
        let error = run(config).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
    }
}

#[test]
fn empty_output_is_a_warning_unless_it_is_allowed() {
    let (_, content, report) = run(shell(":")).unwrap();
    assert!(content.is_empty());
    assert_eq!(report.findings[0].severity, Severity::Warning);
    let (_, _, report) = run(CommandConfig {
        allow_empty: true,
        ..shell(":")
    })
    .unwrap();
    assert!(report.findings.is_empty());
}

/// Starts a command that starts another and writes for ever; gives its and the other's number.
fn endless(folder: &Path) -> (CommandSource, impl Fn() -> [String; 2] + use<>) {
    let (own, child) = (folder.join("own"), folder.join("child"));
    let script = format!(
        "sleep 1000 & echo $! > {}; echo $$ > {}; while :; do echo more; done",
        child.display(),
        own.display()
    );
    (CommandSource::new(shell(&script)), move || {
        [wait_for_file(&own), wait_for_file(&child)]
    })
}

#[test]
fn a_dropped_capture_kills_the_command_and_what_it_started() {
    let temp = tempfile::tempdir().unwrap();
    let (source, pids) = endless(temp.path());
    block_on(async {
        let cx = context();
        let mut capture = begin(&source, &cx).await.unwrap();
        let entry = only_entry(capture.as_mut(), &cx).await;
        let pids = pids();
        assert!(pids.iter().all(|pid| is_alive(pid)));
        drop(capture);
        drop(entry);
        wait_until("the end", || !pids.iter().any(|pid| is_alive(pid)));
    });
}

#[test]
fn a_cancelled_capture_stops_reading_and_kills_the_command() {
    let temp = tempfile::tempdir().unwrap();
    let (source, pids) = endless(temp.path());
    block_on(async {
        let cx = context();
        let mut capture = begin(&source, &cx).await.unwrap();
        let entry = only_entry(capture.as_mut(), &cx).await;
        let pids = pids();
        cx.cancel.cancel();
        assert_eq!(
            drain(entry.body).await.unwrap_err().kind,
            ErrorKind::Cancelled
        );
        assert_eq!(
            capture.close(&cx).await.unwrap_err().kind,
            ErrorKind::Cancelled
        );
        wait_until("the end", || !pids.iter().any(|pid| is_alive(pid)));
    });
}

#[test]
fn a_command_that_lingers_after_its_output_can_be_cancelled() {
    block_on(async {
        let cx = context();
        let source = CommandSource::new(shell("echo data; exec >&-; sleep 1000"));
        let mut capture = begin(&source, &cx).await.unwrap();
        let entry = only_entry(capture.as_mut(), &cx).await;
        assert_eq!(drain(entry.body).await.unwrap(), b"data\n");
        let canceller = cx.cancel.clone();
        let later = async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            canceller.cancel();
        };
        let (closed, ()) = tokio::join!(capture.close(&cx), later);
        assert_eq!(closed.unwrap_err().kind, ErrorKind::Cancelled);
    });
}

#[test]
fn a_stream_that_was_not_read_to_its_end_is_no_snapshot() {
    block_on(async {
        let cx = context();
        let source = CommandSource::new(shell("seq 1 10000000"));
        let mut capture = begin(&source, &cx).await.unwrap();
        let entry = only_entry(capture.as_mut(), &cx).await;
        let Body::Stream(mut segments) = entry.body else {
            panic!()
        };
        segments.next().await.unwrap().unwrap();
        let error = capture.close(&cx).await.unwrap_err();
        assert!(error.to_string().contains("not read to its end"), "{error}");
    });
}

#[test]
fn what_a_failed_command_left_running_is_ended() {
    let temp = tempfile::tempdir().unwrap();
    let child = temp.path().join("child");
    let script = format!(
        "sleep 1000 >&- 2>&- & echo $! > {}; echo data; exit 1",
        child.display()
    );
    run(shell(&script)).unwrap_err();
    let pid = wait_for_file(&child);
    wait_until("the end", || !is_alive(&pid));
}

#[test]
fn a_reader_is_saved_once() {
    let source = StdinSource::new(io::Cursor::new(b"from a reader".to_vec()), "input");
    let (entry, content, _) = capture(&source).unwrap();
    assert_eq!(
        (entry.path.to_string().as_str(), content.as_slice()),
        ("input", &b"from a reader"[..])
    );
    assert_eq!(capture(&source).unwrap_err().kind, ErrorKind::Invalid);
    let empty = StdinSource::new(io::empty(), "input");
    assert_eq!(capture(&empty).unwrap().2.findings.len(), 1);
    let empty = StdinSource::new(io::empty(), "input").allow_empty(true);
    assert!(capture(&empty).unwrap().2.findings.is_empty());
}

#[test]
fn a_pipe_is_saved() {
    let (reader, mut writer) = io::pipe().unwrap();
    let source = StdinSource::of_file(std::os::fd::OwnedFd::from(reader).into(), "input")
        .profile(StreamProfile::Content);
    let writing = std::thread::spawn(move || {
        use std::io::Write as _;
        for number in 0..100_000 {
            writeln!(writer, "{number}").unwrap();
        }
    });
    let (entry, content, _) = capture(&source).unwrap();
    writing.join().unwrap();
    assert_eq!(entry.profile, StreamProfile::Content);
    assert!(content.ends_with(b"\n99999\n") && content.starts_with(b"0\n1\n"));
}

/// Yields a little, then breaks; a signal's interruption before is no break.
struct Breaking(u32);

impl Read for Breaking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0 += 1;
        match self.0 {
            1 => Err(io::ErrorKind::Interrupted.into()),
            2..5 => {
                buffer[..3].copy_from_slice(b"abc");
                Ok(3)
            }
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }
}

#[test]
fn a_reader_that_breaks_is_an_error_and_not_the_end() {
    block_on(async {
        let cx = context();
        let source = StdinSource::new(Breaking(0), "input");
        let mut capture = begin(&source, &cx).await.unwrap();
        let entry = only_entry(capture.as_mut(), &cx).await;
        assert_eq!(
            drain(entry.body).await.unwrap_err().kind,
            ErrorKind::Unavailable
        );
        assert!(capture.close(&cx).await.is_err());
    });
}

#[test]
fn only_the_stream_itself_can_be_selected() {
    block_on(async {
        let cx = context();
        let source = CommandSource::new(shell("echo"));
        let request = |name: &str| CaptureRequest {
            select: vec![name.into()],
            parent: None,
        };
        assert!(source.plan(&cx, &request("out")).await.is_ok());
        assert_eq!(
            source.plan(&cx, &request("other")).await.unwrap_err().kind,
            ErrorKind::Invalid
        );
    });
}
