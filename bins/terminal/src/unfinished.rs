//! Files of a repository that is being made: its key file and its recovery sheet.
//!
//! They are written before the repository, for one whose keys are nowhere is lost, under names with
//! `.unfinished` at their ends, and get their own names once it is there. So one that was left by a
//! run that was killed is told from a key that opens something, and is not in the way of the next.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;

use crate::exit::Exit;
use crate::failure::{Failure, Outcome};
use crate::{secrets, text};

/// How long another process may take to make the repository of a key file that it wrote.
const LONGEST_MAKING: Duration = Duration::from_secs(30);

/// The name of a file until its repository is made.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".unfinished");
    name.into()
}

/// Writes a file under its unfinished name, in the place of one that was left there by a run that was
/// killed. It is locked for as long as what is returned is open.
///
/// # Errors
/// [`Exit::Conflict`] when another process is writing it, and what the system says.
pub fn write(path: &Path, text: &str) -> Outcome<File> {
    let name = unfinished(path);
    if let Ok(left) = File::open(&name)
        && rustix::fs::flock(&left, FlockOperation::NonBlockingLockExclusive).is_ok()
    {
        // Another process may have taken it away and written its own meanwhile.
        let is_same = match (left.metadata(), fs::symlink_metadata(&name)) {
            (Ok(left), Ok(there)) => (left.dev(), left.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if is_same {
            fs::remove_file(&name).map_err(|error| Failure::file("remove", &name, &error))?;
        }
    }
    secrets::write_new(&name, text)
}

/// Gives a file its name, now that its repository is there.
///
/// # Errors
/// [`Exit::Conflict`] when another has that name, and what the system says.
pub fn finish(path: &Path) -> Outcome<()> {
    let name = unfinished(path);
    let renamed = match rustix::fs::renameat_with(CWD, &name, CWD, path, RenameFlags::NOREPLACE) {
        // Not every file system can refuse to replace.
        Err(Errno::INVAL | Errno::NOSYS) if !path.exists() => fs::rename(&name, path),
        other => other.map_err(Into::into),
    };
    renamed.map_err(|error| {
        let (from, to) = (text::path(&name), text::path(path));
        Failure::new(
            Exit::Conflict,
            format!("the repository is made, but {from} cannot be renamed to {to}: {error}"),
            "rename it to a name of your choice: it belongs to the repository",
        )
    })
}

/// Takes away a file whose repository was not made.
pub fn discard(path: &Path) {
    // It opens nothing, and the next run takes away one that stays.
    let _ = fs::remove_file(unfinished(path));
}

/// Waits until nobody is making the repository that a key file was just written for. Its maker holds
/// it locked until the repository is there, and a maker that was killed holds nothing.
pub async fn wait_for_maker(key_file: &Path) {
    let Ok(file) = File::open(unfinished(key_file)).or_else(|_| File::open(key_file)) else {
        return;
    };
    let end = Instant::now() + LONGEST_MAKING;
    while rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        && Instant::now() < end
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
