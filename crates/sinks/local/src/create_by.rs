//! Giving a finished file its name, with one winner.

use std::os::fd::BorrowedFd;

use backup_core::ErrorKind;
use rustix::fs::{AtFlags, FlockOperation, OFlags, RenameFlags};
use rustix::io::{Errno, retry_on_intr};

use crate::fault::{Fault, Outcome, Wrong};
use crate::folder::{self, FILE_MODE};
use crate::write::Temporary;

/// How a create finds out that a name is taken. Each put tries them in this order until the file
/// system knows one; the default is to begin with the first.
///
/// All of them name a file only after it was written and synced, so what a crash leaves is the
/// same for all: the whole object or nothing, and perhaps a temporary file. They differ in who is
/// kept apart:
///
/// | way | kept apart are writers | missing on |
/// |---|---|---|
/// | [`Link`](Self::Link) | on all hosts: the server itself refuses a second link | FAT, exFAT, some SMB servers and FUSE mounts, some NFS exports |
/// | [`Rename`](Self::Rename) | on one host; on network mounts as far as the server takes part | NFS, older FUSE mounts |
/// | [`Lock`](Self::Lock) | that share locks: on one host always, on network mounts if the server keeps locks | mounts that refuse locks; then the put fails |
///
/// `link(2)` comes first although `renameat2(RENAME_NOREPLACE)` would save a call, because network
/// file systems carry out a link on the server, where it has one winner, but often check "no
/// replace" in the client. An exclusive create (`O_EXCL`) of the name itself is not among them: it
/// would keep all hosts apart, but it names a file before its content is there, and a crash would
/// leave a torn object.
///
/// Writers keep each other apart if they go the same way. They do, if they use one mount or
/// mounts of one kind and none of them was told to begin elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum CreateBy {
    /// `link(2)`, then the temporary name is removed.
    #[default]
    Link,
    /// `renameat2(2)` with `RENAME_NOREPLACE`.
    Rename,
    /// A lock (`flock(2)` on the file `.create-lock` in the root), under which the name is looked
    /// up and the file renamed. The lock goes away with the process that holds it.
    Lock,
}

/// The file that is locked by [`CreateBy::Lock`].
const LOCK: &str = ".create-lock";

/// Names the temporary file `name`, if nothing has that name; otherwise the answer is `EEXIST`.
pub(crate) fn create(
    first: CreateBy,
    root: BorrowedFd<'_>,
    temporary: &mut Temporary<'_>,
    name: &str,
) -> Outcome<()> {
    if first <= CreateBy::Link
        && let Some(answer) = by_link(temporary, name)
    {
        return answer;
    }
    if first <= CreateBy::Rename
        && let Some(answer) = by_rename(temporary, name)
    {
        return answer;
    }
    by_lock(root, temporary, name)
}

/// Whether the file system says that it does not know a call, not that this one failed. `EPERM`
/// is what FAT and Linux's SMB client answer to a link, `EMLINK` says that a file has one name at
/// most, `EINVAL` is NFS's answer to a flag of `renameat2`.
const fn unknown(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK | Errno::INVAL
    )
}

fn by_link(temporary: &Temporary<'_>, name: &str) -> Option<Outcome<()>> {
    let (folder, own) = (temporary.folder(), temporary.name());
    let answer = rustix::fs::linkat(folder, own, folder, name, AtFlags::empty());
    match answer {
        // The temporary name is removed when `temporary` goes out of scope.
        Ok(()) => Some(Ok(())),
        Err(errno) if unknown(errno) => None,
        // A network file system may carry the call out, lose the answer, ask again and be told
        // that the name is taken: by us, if our file has two names now (open(2), on O_EXCL).
        Err(errno) => match folder::stat(folder, own) {
            Ok(stat) if stat.st_nlink == 2 => Some(Ok(())),
            _ => Some(Err(errno.into())),
        },
    }
}

fn by_rename(temporary: &mut Temporary<'_>, name: &str) -> Option<Outcome<()>> {
    let (folder, own) = (temporary.folder(), temporary.name());
    match rustix::fs::renameat_with(folder, own, folder, name, RenameFlags::NOREPLACE) {
        Ok(()) => {
            temporary.renamed();
            Some(Ok(()))
        }
        Err(errno) if unknown(errno) => None,
        Err(errno) => Some(Err(errno.into())),
    }
}

fn by_lock(root: BorrowedFd<'_>, temporary: &mut Temporary<'_>, name: &str) -> Outcome<()> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let lock = retry_on_intr(|| rustix::fs::openat(root, LOCK, flags, FILE_MODE))?;
    folder::restore_mode(&lock, FILE_MODE)?;
    match retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive)) {
        Ok(()) => {}
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK | Errno::INVAL) => {
            return Err(Fault::Ours(ErrorKind::Unsupported, Wrong::NoExclusion));
        }
        Err(errno) => return Err(errno.into()),
    }
    match folder::stat(temporary.folder(), name) {
        Ok(_) => Err(Errno::EXIST.into()),
        Err(Errno::NOENT) => replace(temporary, name),
        Err(errno) => Err(errno.into()),
    }
    // Closing the file releases the lock.
}

/// Names the temporary file `name`, whatever had that name before.
pub(crate) fn replace(temporary: &mut Temporary<'_>, name: &str) -> Outcome<()> {
    let (folder, own) = (temporary.folder(), temporary.name());
    rustix::fs::renameat(folder, own, folder, name)?;
    temporary.renamed();
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_link_whose_answer_was_lost_is_known_as_our_own() {
        let folder = tempfile::TempDir::new().unwrap();
        let root = folder::open_root(folder.path()).unwrap();
        let temporary = Temporary::holding(root.as_fd(), b"ours").unwrap();
        assert!(matches!(by_link(&temporary, "name"), Some(Ok(()))));
        // The second call is told that the name is taken, as a repeated one would be.
        assert!(matches!(by_link(&temporary, "name"), Some(Ok(()))));
        let other = Temporary::holding(root.as_fd(), b"another's").unwrap();
        let Some(Err(Fault::System(error))) = by_link(&other, "name") else {
            panic!("two won")
        };
        assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(folder.path().join("name")).unwrap(), b"ours");
    }
}
