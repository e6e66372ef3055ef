//! What the system limits a process to, and what becomes of it at a limit.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// More open files are of no use here; and a program that a source starts inherits the limit, and may
/// go over all numbers below it one by one.
const ENOUGH: u64 = 65_536;

/// Raises the limit of open files as far as this user may: by default it is there for programs that
/// cannot count beyond 1,024, and a restore that may open more files has more of them under way.
pub(crate) fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        // What it was before is enough, if slower.
        let _ = setrlimit(Resource::Nofile, raised);
    }
}

/// Lets a file that grows beyond the limit of its size (`ulimit -f`) fail with an error that says so:
/// otherwise the signal ends the program without a word. It is caught and not ignored, since programs
/// that a source starts would inherit that.
pub(crate) fn survive_file_size() -> std::io::Result<()> {
    signal(SignalKind::from_raw(libc::SIGXFSZ)).map(drop)
}
