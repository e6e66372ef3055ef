//! Runs a test of this program in a process of its own that is killed at a system call.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::env;
use std::process::{Command, Stdio};

/// Whether that can be done here; if not, that is said.
pub fn can_trace() -> bool {
    let can = Command::new("strace")
        .args(["-o", "/dev/null", "true"])
        .status();
    let can = can.is_ok_and(|status| status.success());
    if !can {
        eprintln!("skipped: system calls cannot be traced here");
    }
    can
}

/// A test of this program under the tracer, which writes to the first of the `options`.
pub fn traced(test: &str, options: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-o"]).args(options);
    command.arg(env::current_exe().unwrap());
    command.args(["--exact", test]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}
