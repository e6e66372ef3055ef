//! The programs as they were built for this run of the tests.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

/// The folder of built programs: two above the test that is running.
fn folder() -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let folder = test.parent().and_then(std::path::Path::parent);
    folder.unwrap_or(std::path::Path::new(".")).to_path_buf()
}

/// A program of this workspace. Each has an integration test of its own, so `cargo test --workspace`
/// builds both before any test runs; when this package is tested alone they are built here.
fn program(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let path = folder().join(name);
    BUILT.get_or_init(|| {
        if !path.exists() {
            let mut cargo = Command::new(env!("CARGO"));
            cargo.args(["build", "--quiet", "-p", "snapshot", "-p", "restore"]);
            if folder().ends_with("release") {
                cargo.arg("--release");
            }
            let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status();
            assert!(
                built.is_ok_and(|status| status.success()),
                "the programs cannot be built"
            );
        }
    });
    path
}

fn bare(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for variable in [
        "REPO",
        "KEY_FILE",
        "PASSPHRASE_FILE",
        "CACHE_DIR",
        "STATE_DIR",
    ] {
        command.env_remove(format!("BACKSTAY_{variable}"));
    }
    command
        .env("TZ", "UTC")
        .env("NO_COLOR", "1")
        .stdin(std::process::Stdio::null());
    command
}

/// `snapshot`, with nothing of this test's environment that concerns it.
#[must_use]
pub fn snapshot() -> Command {
    bare("snapshot")
}

/// `restore`, likewise.
#[must_use]
pub fn restore() -> Command {
    bare("restore")
}

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Run {
    /// The exit code; -1 for one that a signal ended.
    pub code: i32,
    /// Standard output.
    pub out: Vec<u8>,
    /// Standard error.
    pub err: String,
}

impl Run {
    /// Runs a program to its end.
    ///
    /// # Panics
    /// When it cannot be started: then no test means anything.
    #[must_use]
    #[allow(clippy::expect_used, reason = "support of tests")]
    pub fn of(command: &mut Command) -> Self {
        command.output().expect("the program can be started").into()
    }

    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }

    /// The JSON lines of standard output.
    ///
    /// # Panics
    /// When a line is none.
    #[must_use]
    #[allow(clippy::expect_used, reason = "support of tests")]
    pub fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let parse = |line: &str| serde_json::from_str(line).expect("every line is JSON");
        text.lines().map(parse).collect()
    }

    /// The JSON lines of a type.
    #[must_use]
    pub fn of_type(&self, kind: &str) -> Vec<Value> {
        let mut lines = self.lines();
        lines.retain(|line| line.get("type").and_then(Value::as_str) == Some(kind));
        lines
    }

    /// The same run, after seeing that it ended with a code.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            code,
            "\n--- stdout\n{}\n--- stderr\n{}",
            self.text(),
            self.err
        );
        self
    }

    /// Sees that it ended well.
    ///
    /// # Panics
    /// When it did not.
    pub fn ok(self) -> Self {
        self.ends(0)
    }

    /// The same run, after seeing that its standard error holds a text.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "no {text:?} in\n{}", self.err);
        self
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
