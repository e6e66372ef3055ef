//! A file that is restored in the place of another.
//!
//! What stands there may be all that its owner has, and a full disk or a damaged repository shows
//! only on the way. So the new content is written into a file beside the old one, which gets the
//! name when it is whole; until then, and if it never is, the old one stays as it was. Nothing is
//! written where the old one proves to hold the content already. What is no file and stands in the
//! place of one is replaced in the same way (see [`super::replace`]).

use std::ffi::{CStr, CString};
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use backup_core::{EntryPath, PositionalWriter, TargetError};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::begun::Begun;
use super::covered::Covered;
use super::file::{FileWriter, Space, read_full};
use super::journal::Stage;
use super::keeps::not_made;
use super::meta::Before;
use super::partial::rename_if_free;
use super::way::Spot;
use super::writer::create_marked;
use crate::handle::{DirHandle, DirId, HandleCache};

/// How the names of files begin that stand beside those whose place they are to take.
const PREFIX: &str = ".backstay-new-";

/// So many signs of a token follow.
const DIGITS: usize = 12;

/// Longest name of a file on every file system of Linux, in bytes: most have 255, eCryptfs has 143.
const NAME_MAX: usize = 143;

/// So many names are tried for a file beside another.
const TRIES: u32 = 10_000;

/// Bytes that are copied at once from the old file.
const BLOCK: usize = 256 << 10;

/// Whether something is named like what stands beside others.
pub(super) fn is_named_so(path: &EntryPath) -> bool {
    let name = path.name();
    name.is_some_and(|name| name.starts_with(PREFIX.as_bytes()))
}

/// How the names of all begin that one restore makes beside others.
pub(super) fn prefix(token: u64) -> String {
    format!("{PREFIX}{token:0DIGITS$x}-")
}

/// The names of what restores make beside others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Names {
    /// Of one whose names begin so.
    Of(String),
    /// Of any.
    Any,
}

impl Names {
    pub(super) fn have(&self, name: &[u8]) -> bool {
        match self {
            Self::Of(prefix) => name.starts_with(prefix.as_bytes()),
            Self::Any => {
                let rest = name.strip_prefix(PREFIX.as_bytes());
                let parts = rest.and_then(|rest| rest.split_at_checked(DIGITS));
                let is_digit = |sign: &u8| matches!(sign, b'0'..=b'9' | b'a'..=b'f');
                parts.is_some_and(|(token, rest)| {
                    token.iter().all(is_digit) && rest.len() > 1 && rest.starts_with(b"-")
                })
            }
        }
    }
}

/// Names under which a file may stand beside one of a name, in the order in which they are tried.
pub(super) fn names_beside(token: u64, name: &CStr) -> impl Iterator<Item = CString> + '_ {
    (0..TRIES).map(move |number| {
        let mut beside = prefix(token).into_bytes();
        if number > 0 {
            beside.extend_from_slice(format!("{number}-").as_bytes());
        }
        let fits = NAME_MAX.saturating_sub(beside.len());
        beside.extend_from_slice(beginning(name.to_bytes(), fits));
        // Both parts come from what has no zero byte.
        CString::new(beside).unwrap_or_default()
    })
}

/// So much of a name as fits. It is text if the name is: some file systems take nothing else.
pub(super) fn beginning(name: &[u8], fits: usize) -> &[u8] {
    let cut = name.get(..fits).unwrap_or(name);
    match (std::str::from_utf8(name), std::str::from_utf8(cut)) {
        (Ok(_), Err(broken)) => cut.get(..broken.valid_up_to()).unwrap_or_default(),
        _ => cut,
    }
}

/// Makes something beside an entry of a name, under a name that is free, and notes it before.
///
/// # Errors
/// What `make` fails with, except that a name is taken; then nothing is noted.
pub(super) fn make_beside<T>(
    begun: &Begun,
    (path, name): (&EntryPath, &CStr),
    stage: Stage,
    mut make: impl FnMut(&CStr) -> Result<T, Errno>,
) -> io::Result<(T, CString)> {
    for beside in names_beside(begun.token(), name) {
        begun.note(path, beside.to_bytes(), stage)?;
        match make(&beside) {
            Ok(made) => return Ok((made, beside)),
            Err(cause) => {
                begun.settled(path, beside.to_bytes());
                if cause != Errno::EXIST {
                    return Err(cause.into());
                }
            }
        }
    }
    Err(io::Error::new(
        io::ErrorKind::AlreadyExists,
        format!("every name like {PREFIX}… is taken in its folder"),
    ))
}

/// Where a file stands, or is to stand.
pub(super) struct Place {
    pub(super) begun: Arc<Begun>,
    pub(super) handles: Arc<HandleCache>,
    pub(super) folder: Arc<DirHandle>,
    pub(super) name: CString,
    pub(super) path: EntryPath,
    /// Whether what is created in the folder gets a default ACL from it.
    pub(super) hands_on: bool,
    /// Whether nothing stands there.
    pub(super) is_new: bool,
    /// The mode that says that the file is unfinished.
    pub(super) mark: u32,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Place").field(&self.path).finish()
    }
}

impl Place {
    /// Where it is, open.
    ///
    /// # Errors
    /// When its folder cannot be opened again.
    pub(super) fn spot(&self) -> io::Result<Spot> {
        Ok(Spot {
            folder: self.handles.get(&self.folder)?,
            handle: Arc::clone(&self.folder),
            name: self.name.clone(),
            hands_on: self.hands_on,
        })
    }

    /// Makes a file beside it.
    fn create(self: &Arc<Self>) -> io::Result<(File, Successor)> {
        let folder = self.handles.get(&self.folder)?;
        // File systems of programs may take a mode, but not with the creation.
        let keeps = self.begun.systems().of(self.folder.id().0);
        let hands_on = keeps.modes && (self.hands_on || !keeps.births);
        let (file, beside) = make_beside(
            &self.begun,
            (&self.path, &self.name),
            Stage::Announced,
            |beside| create_marked(&folder, (beside, self.mark), hands_on),
        )?;
        let place = Arc::clone(self);
        let successor = Successor { place, beside };
        let noted = (fstat(&file).map_err(io::Error::from)).and_then(|stat| {
            self.begun
                .made(&self.path, successor.beside.to_bytes(), stat.st_ino)
        });
        // What is not noted would be nobody's.
        noted.inspect_err(|_| _ = successor.give_up())?;
        Ok((File::from(file), successor))
    }
}

/// A file that is to take the place of another, and stands beside it.
#[derive(Debug, Clone)]
pub(super) struct Successor {
    pub(super) place: Arc<Place>,
    pub(super) beside: CString,
}

impl Successor {
    /// Opens the file, if it is still the one of that device and inode.
    pub(super) fn open(&self, id: DirId) -> io::Result<OwnedFd> {
        let folder = self.place.handles.get(&self.place.folder)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&*folder, &*self.beside, flags, Mode::empty())?;
        let stat = fstat(&file)?;
        if !self.place.begun.is_made(&stat, id) {
            return Err(io::Error::other("something else was put in its place"));
        }
        Ok(file)
    }

    /// Gives the file its name; what had that is gone.
    pub(super) fn take(&self) -> io::Result<()> {
        let place = &self.place;
        let folder = place.handles.get(&place.folder)?;
        if place.is_new {
            let taken = rename_if_free(&folder, &self.beside, &place.name);
            taken.map_err(|cause| match cause {
                Errno::EXIST => io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "something came to stand in its place, perhaps under a name that this file \
                     system takes for the same, as if case did not count",
                ),
                cause => cause.into(),
            })?;
        } else {
            renameat(&*folder, &*self.beside, &*folder, &*place.name)?;
        }
        place.begun.settled(&place.path, self.beside.to_bytes());
        Ok(())
    }

    /// Removes the file.
    pub(super) fn give_up(&self) -> io::Result<()> {
        let place = &self.place;
        let folder = place.handles.get(&place.folder)?;
        unlinkat(&*folder, &*self.beside, AtFlags::empty())?;
        place.begun.settled(&place.path, self.beside.to_bytes());
        Ok(())
    }
}

/// What is done so far.
#[derive(Debug)]
struct State {
    /// The old file, as long as its content may be of use.
    old: Option<File>,
    /// What of the old content was found to be right.
    kept: Covered,
    /// The new file, from the first difference on.
    new: Option<(Arc<FileWriter>, Successor)>,
    /// Why the entry cannot be whole.
    trouble: Option<TargetError>,
}

/// Writes the new content of a file beside the old one.
#[derive(Debug)]
pub(super) struct Beside {
    place: Arc<Place>,
    size: u64,
    /// What space it takes besides that of what is written.
    space: Space,
    /// What is known of the old file, and of a new one.
    before: (Before, Before),
    state: Mutex<State>,
}

impl Beside {
    /// For a file that is to take the place of `old`; `None`: of one that cannot be read.
    pub(super) fn new(
        place: Place,
        (size, space): (u64, Space),
        before: (Before, Before),
        old: Option<File>,
    ) -> Self {
        let state = State {
            old,
            kept: Covered::default(),
            new: None,
            trouble: None,
        };
        Self {
            place: Arc::new(place),
            size,
            space,
            before,
            state: Mutex::new(state),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, op: &'static str, cause: io::Error) -> TargetError {
        TargetError::io(op, self.place.path.to_string(), cause)
    }

    /// The new file; made, with what was kept of the old one, when it is first needed.
    fn fork(&self, state: &mut State) -> Result<(Arc<FileWriter>, Successor), TargetError> {
        if let Some(new) = &state.new {
            return Ok(new.clone());
        }
        let (file, successor) = self.place.create().map_err(|cause| {
            let keeps = self.place.begun.systems().of(self.place.folder.id().0);
            not_made(&keeps, "create", &self.place.path, cause)
        })?;
        let path = self.place.path.clone();
        let new = Arc::new(FileWriter::fresh(
            file,
            path,
            (self.size, self.space),
            self.before.1,
        ));
        state.new = Some((Arc::clone(&new), successor.clone()));
        if self.space == Space::AtOnce {
            new.allocate()?;
        }
        // Descriptors are scarce, and what is kept of it is copied now.
        if let Some(old) = state.old.take() {
            for range in state.kept.ranges() {
                self.copy(&old, &new, range)?;
            }
        }
        Ok((new, successor))
    }

    fn copy(&self, old: &File, new: &FileWriter, range: Range<u64>) -> Result<(), TargetError> {
        let mut buffer = vec![0; BLOCK];
        let mut at = range.start;
        while at < range.end {
            let wanted = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let part = buffer.get_mut(..wanted.min(BLOCK)).unwrap_or_default();
            old.read_exact_at(part, at)
                .map_err(|cause| self.error("read", cause))?;
            new.write_at(at, part)?;
            at += u64::try_from(part.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    /// Whether the old file holds just what was kept of it, and zeros where nothing was.
    fn is_old_right(&self, state: &State) -> Result<bool, TargetError> {
        let Some(old) = &state.old else {
            return Ok(false);
        };
        let stat = fstat(old).map_err(|cause| self.error("look at", cause.into()))?;
        if u64::try_from(stat.st_size) != Ok(self.size) {
            return Ok(false);
        }
        let mut buffer = vec![0; BLOCK];
        for gap in state.kept.gaps(self.size) {
            let mut at = gap.start;
            while at < gap.end {
                let wanted = usize::try_from(gap.end - at).unwrap_or(usize::MAX);
                let part = buffer.get_mut(..wanted.min(BLOCK)).unwrap_or_default();
                let read = read_full(old, at, part).map_err(|cause| self.error("read", cause))?;
                let part = part.get(..read).unwrap_or_default();
                if part.is_empty() || part.iter().any(|&byte| byte != 0) {
                    return Ok(false);
                }
                at += u64::try_from(read).unwrap_or(u64::MAX);
            }
        }
        Ok(true)
    }

    /// Ends the content. Returns the new file; there is none if the old one is right.
    pub(super) fn complete(&self) -> Result<Option<Successor>, TargetError> {
        let mut state = self.lock();
        if let Some(trouble) = state.trouble.take() {
            return Err(trouble);
        }
        if state.new.is_none() && self.is_old_right(&state)? {
            return Ok(None);
        }
        let (new, successor) = self.fork(&mut state)?;
        new.complete()?;
        Ok(Some(successor))
    }

    /// Ends the content of which a part is lost: it is in the new file, whatever the old one holds.
    pub(super) fn complete_in_part(&self) -> Result<Successor, TargetError> {
        let mut state = self.lock();
        if let Some(trouble) = state.trouble.take() {
            return Err(trouble);
        }
        let (new, successor) = self.fork(&mut state)?;
        new.complete()?;
        Ok(successor)
    }

    /// The new file, if one stands beside the old one.
    pub(super) fn successor(&self) -> Option<Successor> {
        let state = self.lock();
        state.new.as_ref().map(|(_, successor)| successor.clone())
    }

    /// Hands on the file that has the name or is to get it, and what is known of it.
    pub(super) fn with_file(&self, then: impl FnOnce(BorrowedFd<'_>, Before)) {
        let state = self.lock();
        match (&state.new, &state.old) {
            (Some((new, _)), _) => then(new.file().as_fd(), self.before.1),
            (None, Some(old)) => then(old.as_fd(), self.before.0),
            (None, None) => {}
        }
    }
}

impl PositionalWriter for Beside {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), TargetError> {
        let (new, _) = self.fork(&mut self.lock())?;
        new.write_at(offset, bytes)
    }

    /// Reads the old content, until a difference was found.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, TargetError> {
        match &self.lock().old {
            Some(old) => read_full(old, offset, buffer).map_err(|cause| self.error("read", cause)),
            None => Ok(0),
        }
    }

    fn keep(&self, range: Range<u64>) {
        let mut state = self.lock();
        if state.old.is_some() {
            state.kept.add(range);
        } else {
            let cause = io::Error::other("what was to be kept of it is no longer open");
            state.trouble = Some(self.error("keep", cause));
        }
    }

    fn had_content(&self) -> bool {
        self.lock().old.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_beside_are_known() {
        let this = Names::Of(prefix(0xab));
        for name in names_beside(0xab, c"x").take(3) {
            assert!(this.have(name.to_bytes()) && Names::Any.have(name.to_bytes()));
        }
        let other = names_beside(0xac, c"x").next().unwrap();
        assert!(!this.have(other.to_bytes()) && Names::Any.have(other.to_bytes()));
        for name in [
            "x",
            ".backstay-new-",
            ".backstay-new-folder",
            ".backstay-new-0000000000ab",
            ".backstay-new-0000000000ab-",
            ".backstay-new-0000000000AB-x",
            ".backstay-new-0000000000abc-x",
        ] {
            assert!(!Names::Any.have(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn names_beside_are_names_and_differ() {
        let mut names = names_beside(0xab, c"report.txt");
        let mut next = || names.next().unwrap().into_string().unwrap();
        assert_eq!(next(), ".backstay-new-0000000000ab-report.txt");
        assert_eq!(next(), ".backstay-new-0000000000ab-1-report.txt");
        let long = CString::new("n".repeat(NAME_MAX)).unwrap();
        let names: std::collections::HashSet<_> = names_beside(!0 >> 16, &long).collect();
        assert_eq!(names.len(), TRIES as usize);
        assert!(names.iter().all(|name| name.to_bytes().len() == NAME_MAX));
        // 85 signs of three bytes.
        let text = CString::new("\u{8cc7}".repeat(85)).unwrap();
        let names: std::collections::HashSet<_> = names_beside(!0 >> 16, &text).collect();
        assert_eq!(names.len(), TRIES as usize);
        assert!(
            names
                .iter()
                .all(|name| name.to_str().is_ok() && name.to_bytes().len() > 140)
        );
        let bytes = CString::new(vec![0xff; 255]).unwrap();
        assert!(names_beside(!0 >> 16, &bytes).all(|name| name.to_bytes().len() == NAME_MAX));
    }
}
